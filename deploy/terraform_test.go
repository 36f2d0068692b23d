package deploy

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const (
	terraformExample = "../examples/terraform/main.tf"
	restapi          = "github.com/Mastercard/terraform-provider-restapi"

	entitlementAt = "restapi_object.db_readonly_role"
	templateAt    = "restapi_object.db_readonly"
)

// The example of Terraform, as it stands, run by Terraform itself with the
// provider that it names, against a server.
func TestTerraform(t *testing.T) {
	s := newTerraformSite(t)
	for _, who := range []string{s.service, s.admin} {
		tf := s.workspace(t, who)
		tf.leavesNothingToDo(t)
		tf.run(t, 0, "destroy", "-auto-approve")
	}

	tf := s.workspace(t, s.service)
	tf.run(t, 0, "fmt", "-check", "-diff")
	for _, step := range []struct {
		name string
		do   func(*testing.T)
	}{
		{"the scope is needed", tf.refusedWithoutTheScope},
		{"after apply nothing is left to do", tf.leavesNothingToDo},
		{"no file holds the key", tf.keepsTheKeyToItself},
		{"changes are made in place", tf.changesInPlace},
		{"what is wrong is shown", tf.showsWhatIsWrong},
		{"changes past Terraform are told of", tf.tellsOfChangesElsewhere},
		{"what was deleted is made again", tf.makesAgainWhatWasDeleted},
		{"an entitlement is let go of", tf.letsGoOfAnEntitlement},
		{"access is given by the template", tf.givesAccess},
		{"another application", tf.movesToAnotherApplication},
	} {
		if !t.Run(step.name, step.do) {
			return // the next ones build on it
		}
	}
	tf.run(t, 0, "destroy", "-auto-approve")
	for _, path := range []string{"applications", "entitlements", "groups", "access-request-templates"} {
		if list := s.get(t, "/v1/"+path+"?limit=100"); strings.Contains(list, `"id"`) {
			t.Errorf("left after destroy: %s", list)
		}
	}
}

// The page's own example of a task, beside main.tf.
func TestTerraform_MakesAScript(t *testing.T) {
	s := newTerraformSite(t, "--enable-script-tasks")
	s.call(t, http.StatusOK, "PUT", "/v1/secrets/SLACK_WEBHOOK", s.root, `{"value": "https://chat.example.com/"}`)
	tf := s.workspace(t, s.root)
	page, err := os.ReadFile("../examples/terraform/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(page), "```hcl\n")
	example, _, _ = strings.Cut(example, "```")
	tf.write(t, "task.tf", example)
	const script = "package task\n\nfunc Run() (string, error) { return \"told\", nil }\n"
	tf.write(t, "slack.go", script)
	tf.run(t, 0, "fmt", "-check", "-diff")

	// Whoever manages no more than templates makes no scripts.
	tf.variables["latchkey_key"] = tf.service
	tf.refused(t, "apply", "'403'", `"code":"root_required"`)
	tf.variables["latchkey_key"] = tf.root
	tf.run(t, 0, "apply", "-auto-approve")
	tf.settled(t)
	tf.write(t, "slack.go", strings.ReplaceAll(script, "told", "changed"))
	tf.apply(t, 0, 1, 0)
	tf.settled(t)
	if tasks := tf.get(t, "/v1/tasks"); !strings.Contains(tasks, "changed") || strings.Contains(tasks, "told") {
		t.Errorf("the script is not changed: %s", tasks)
	}
	tf.run(t, 0, "destroy", "-auto-approve")
}

// terraformSite is a server with people, and all that Terraform needs to run
// without a registry.
type terraformSite struct {
	program, dir, url string

	root, service, admin string // credentials
	ana, dora, max       human
}

// human is somebody with a token.
type human struct{ id, token string }

func newTerraformSite(t *testing.T, args ...string) *terraformSite {
	t.Helper()
	s := &terraformSite{dir: t.TempDir()}
	for _, name := range []string{"terraform", "tofu"} { // Debian has neither, so nobody has to have one
		if path, err := exec.LookPath(name); err == nil {
			s.program = path
			break
		}
	}
	if s.program == "" {
		t.Skip("neither terraform nor tofu is installed")
	}
	s.mirror(t)

	address, private := freeAddress(t), freeAddress(t)
	s.url = "http://" + address
	cmd := exec.Command(latchkey, append([]string{"serve", "--data=" + s.dir + "/data", "--listen=" + address, "--private-listen=" + private}, args...)...)
	cmd.Env = without("LATCHKEY_")
	server, err := start(t, cmd)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		select {
		case <-server.exited:
			if out := server.out.String(); os.Getenv("LATCHKEY_REQUIRE_SANDBOX") == "" && strings.Contains(out, "--enable-script-tasks: ") {
				t.Skip(out)
			}
			t.Fatal("the server has ended")
		default:
		}
		return exec.Command(latchkey, "healthcheck", "--url=http://"+private+"/health/ready").Run()
	})
	root, err := os.ReadFile(s.dir + "/data/root.key")
	if err != nil {
		t.Fatal(err)
	}
	s.root = strings.TrimSpace(string(root))
	s.ana, s.dora, s.max = s.person(t, "ana", "user"), s.person(t, "dora", "user"), s.person(t, "max", "admin")
	s.admin = s.max.token
	s.service = s.key(t, `{"access_requests_manage": true}`)
	return s
}

// mirror puts the provider where Terraform looks for it, in place of the registry.
func (s *terraformSite) mirror(t *testing.T) {
	t.Helper()
	module := func(args ...string) string {
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = "testdata/restapi", append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("go %q: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	version := strings.TrimPrefix(module("list", "-m", "-f={{.Version}}", restapi), "v")
	built := s.dir + "/" + filepath.Base(restapi)
	module("build", "-o="+built, restapi)
	for _, registry := range []string{"registry.terraform.io", "registry.opentofu.org"} {
		at := filepath.Join(s.dir, "mirror", registry, "mastercard/restapi", version, runtime.GOOS+"_"+runtime.GOARCH)
		if err := errors.Join(os.MkdirAll(at, 0o700), os.Symlink(built, filepath.Join(at, filepath.Base(restapi)+"_v"+version))); err != nil {
			t.Fatal(err)
		}
	}
	config := "provider_installation {\n  filesystem_mirror {\n    path = \"" + s.dir + "/mirror\"\n  }\n}\n"
	if err := os.WriteFile(s.dir+"/terraformrc", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
}

// without is the environment but the settings of that prefix, which are a
// developer's own.
func without(prefix string) []string {
	return slices.DeleteFunc(os.Environ(), func(setting string) bool { return strings.HasPrefix(setting, prefix) })
}

// call sends a request, holds the answer to a status, and returns it.
func (s *terraformSite) call(t *testing.T, want int, method, path, key, body string) string {
	t.Helper()
	headers := []string{"Content-Type", "application/json"}
	if key != "" {
		headers = append(headers, "Authorization", "Bearer "+key)
	}
	status, text := ask(t, method, s.url+path, body, headers...)
	if status != want {
		t.Fatalf("%s %s: %d %s, want %d", method, path, status, text, want)
	}
	return text
}

func (s *terraformSite) get(t *testing.T, path string) string {
	t.Helper()
	return s.call(t, http.StatusOK, "GET", path, s.root, "")
}

// parsed is an answer.
func parsed[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

func (s *terraformSite) key(t *testing.T, scopes string) string {
	t.Helper()
	body := `{"scopes": {"customer": ` + scopes + `}, "metadata": {"username": "ci", "keyname": "terraform"}}`
	return parsed[struct{ Key string }](t, s.call(t, http.StatusCreated, "POST", "/v1/access_keys", s.root, body)).Key
}

func (s *terraformSite) person(t *testing.T, name, kind string) human {
	t.Helper()
	made := parsed[struct {
		ID    string
		Claim struct{ Code string }
	}](t, s.call(t, http.StatusCreated, "POST", "/v1/users", s.root, `{"username": "`+name+`", "email": "`+name+`@example.com", "type": "`+kind+`"}`))
	claimed := s.call(t, http.StatusCreated, "POST", "/v1/personal_tokens", "", `{"claim_code": "`+made.Claim.Code+`", "name": "laptop"}`)
	return human{id: made.ID, token: parsed[struct{ Token string }](t, claimed).Token}
}

// terraformed is a directory with the example, and who runs Terraform there.
type terraformed struct {
	*terraformSite
	dir       string
	variables map[string]string
}

func (s *terraformSite) workspace(t *testing.T, key string) *terraformed {
	t.Helper()
	tf := &terraformed{terraformSite: s, dir: t.TempDir(), variables: map[string]string{
		"latchkey_url": s.url, "latchkey_key": key, "dba_ids": `["` + s.dora.id + `"]`, "manager_ids": `["` + s.max.id + `"]`,
	}}
	text, err := os.ReadFile(terraformExample)
	if err != nil {
		t.Fatal(err)
	}
	tf.write(t, "main.tf", string(text))
	tf.run(t, 0, "init")
	return tf
}

func (tf *terraformed) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(tf.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// edit changes main.tf, and returns what takes the change back.
func (tf *terraformed) edit(t *testing.T, replace ...string) (back func()) {
	t.Helper()
	was, err := os.ReadFile(filepath.Join(tf.dir, "main.tf"))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(string(was), replace[i]) {
			t.Fatalf("main.tf has no %q", replace[i])
		}
	}
	tf.write(t, "main.tf", strings.NewReplacer(replace...).Replace(string(was)))
	return func() { tf.write(t, "main.tf", string(was)) }
}

// run runs Terraform, holds its exit code to what it should be, and returns what
// it printed, in one line: it breaks lines where they would be too long. Nothing of
// it ever holds the credential.
func (tf *terraformed) run(t *testing.T, want int, args ...string) string {
	t.Helper()
	cmd := exec.Command(tf.program, args...)
	cmd.Dir = tf.dir
	cmd.Env = append(without("TF_"), "TF_CLI_CONFIG_FILE="+tf.terraformSite.dir+"/terraformrc", "CHECKPOINT_DISABLE=1", "TF_INPUT=0", "TF_IN_AUTOMATION=1", "NO_COLOR=1", "TF_CLI_ARGS=-no-color")
	for name, value := range tf.variables {
		cmd.Env = append(cmd.Env, "TF_VAR_"+name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if strings.Contains(string(out), tf.variables["latchkey_key"]) {
		t.Fatalf("terraform %q prints the credential", args)
	}
	if code := cmd.ProcessState.ExitCode(); code != want {
		t.Fatalf("terraform %q: exit code %d, want %d\n%s", args, code, want, out)
	}
	return strings.Join(strings.Fields(string(out)), " ")
}

// apply applies, and holds what was added, changed and destroyed to that.
func (tf *terraformed) apply(t *testing.T, added, changed, destroyed int, args ...string) string {
	t.Helper()
	out := tf.run(t, 0, append([]string{"apply", "-auto-approve"}, args...)...)
	if want := fmt.Sprintf("Resources: %d added, %d changed, %d destroyed.", added, changed, destroyed); !strings.Contains(out, want) {
		t.Fatalf("want %s\n%s", want, out)
	}
	return out
}

// settled holds the plan to be empty, with nothing to warn of.
func (tf *terraformed) settled(t *testing.T) {
	t.Helper()
	if out := tf.run(t, 0, "plan", "-detailed-exitcode"); !strings.Contains(out, "No changes.") || strings.Contains(out, "Warning") {
		t.Fatalf("there is something left: %s", out)
	}
}

// refused applies what the server refuses, and expects its words.
func (tf *terraformed) refused(t *testing.T, words ...string) {
	t.Helper()
	out := tf.run(t, 1, words[0], "-auto-approve")
	for _, w := range words[1:] {
		if !strings.Contains(out, w) {
			t.Errorf("terraform does not show %s: %s", w, out)
		}
	}
}

func (tf *terraformed) templateID(t *testing.T) string {
	t.Helper()
	return tf.run(t, 0, "output", "-raw", "template_id")
}

func (tf *terraformed) templatePath(t *testing.T) string {
	t.Helper()
	return "/v1/access-request-templates/" + tf.templateID(t)
}

type terraformTemplate struct {
	Description       string
	AllowedDurations  []int                        `json:"allowed_durations"`
	AllowSelfApproval bool                         `json:"allow_self_approval"`
	CustomFields      []struct{ ID, Label string } `json:"custom_fields"`
	Approvers         []string                     `json:"approver_group_ids"`
	Application       string                       `json:"app_id"`
	Entitlements      []string                     `json:"mapping_ids"`
}

func (tf *terraformed) template(t *testing.T) terraformTemplate {
	t.Helper()
	return parsed[terraformTemplate](t, tf.get(t, tf.templatePath(t)))
}

func (tf *terraformed) leavesNothingToDo(t *testing.T) {
	tf.apply(t, 5, 0, 0)
	tf.settled(t)
}

// Attack by whoever has a key for something else, or is merely a person.
func (tf *terraformed) refusedWithoutTheScope(t *testing.T) {
	mine := tf.variables["latchkey_key"]
	for key, code := range map[string]string{tf.key(t, `{"decision": true, "approvals": true}`): "scope_missing", tf.ana.token: "not_permitted"} {
		tf.variables["latchkey_key"] = key
		tf.refused(t, "apply", "'403'", `"code":"`+code+`"`)
	}
	tf.variables["latchkey_key"] = mine
	if out := tf.run(t, 0, "state", "list"); out != "" {
		t.Errorf("made without the scope: %s", out)
	}
}

// Attack by whoever reads the state, or a saved plan, or what CI has kept of either.
func (tf *terraformed) keepsTheKeyToItself(t *testing.T) {
	key := []byte(tf.variables["latchkey_key"])
	tf.edit(t, "up to 8 hours", "up to eight hours")
	tf.run(t, 0, "plan", "-out=saved")
	tf.run(t, 0, "show", "-json", "saved")
	archive, err := zip.OpenReader(filepath.Join(tf.dir, "saved"))
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	for _, member := range archive.File {
		in, err := member.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil || bytes.Contains(text, key) {
			t.Errorf("%s of the plan holds the credential, or %v", member.Name, err)
		}
	}
	if len(archive.File) < 3 {
		t.Errorf("a plan of %d members", len(archive.File))
	}
	tf.run(t, 0, "apply", "saved")
	tf.settled(t)
	seen := 0
	err = filepath.WalkDir(tf.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		seen++
		text, err := os.ReadFile(path)
		if bytes.Contains(text, key) {
			t.Errorf("%s holds the credential", path)
		}
		return err
	})
	if err != nil || seen < 4 {
		t.Errorf("%d files, %v", seen, err)
	}
}

func (tf *terraformed) changesInPlace(t *testing.T) {
	before, path := tf.template(t), tf.templatePath(t)
	tf.variables["dba_ids"], tf.variables["run"] = `["`+tf.max.id+`", "`+tf.dora.id+`"]`, "pipeline-7"
	tf.edit(t, "up to eight hours", "up to 4 hours", "[60, 240, 480] # 1h, 4h, 8h", "[240, 60]")
	tf.apply(t, 0, 2, 0)
	tf.settled(t)
	after := tf.template(t)
	if tf.templatePath(t) != path || after.Description != "Grants read-only database credentials for up to 4 hours." || !slices.Equal(after.AllowedDurations, []int{240, 60}) {
		t.Errorf("changed to %+v", after)
	}
	if len(before.CustomFields) != 1 || !slices.Equal(before.CustomFields, after.CustomFields) {
		t.Errorf("the fields were %v and are %v", before.CustomFields, after.CustomFields)
	}
	group := parsed[struct {
		Members []string `json:"member_ids"`
	}](t, tf.get(t, "/v1/groups/"+after.Approvers[0]))
	if !slices.Equal(group.Members, []string{tf.max.id, tf.dora.id}) {
		t.Errorf("the group has %v", group.Members)
	}
	// The trail knows the run.
	if events := tf.get(t, "/v1/auditing?request_id=pipeline-7"); strings.Count(events, `"action":"access_request_template.update"`) != 1 || strings.Count(events, `"action":"group.update"`) != 1 {
		t.Errorf("events of the run: %s", events)
	}
}

func (tf *terraformed) showsWhatIsWrong(t *testing.T) {
	was := tf.template(t)
	back := tf.edit(t, "[240, 60]", `[240, 0, "soon"]`)
	tf.refused(t, "apply", "'400'", `{"pointer":"/allowed_durations/1","code":"out_of_range","detail":"want whole minutes from 1 to 527040"}`,
		`{"pointer":"/allowed_durations/2","code":"wrong_type"`)
	back()
	if is := tf.template(t); !slices.Equal(is.AllowedDurations, was.AllowedDurations) {
		t.Errorf("refused, and yet %+v", is)
	}
	tf.settled(t)
}

// Attack on the template past Terraform: somebody lets people approve what they
// asked for themselves. Every plan tells of it, and README.md of the way back.
func (tf *terraformed) tellsOfChangesElsewhere(t *testing.T) {
	path := tf.templatePath(t)
	body := parsed[map[string]any](t, tf.get(t, path))
	for _, given := range []string{"id", "created_at", "updated_at"} {
		delete(body, given)
	}
	body["allow_self_approval"] = true
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	tf.call(t, http.StatusOK, "PUT", path, tf.admin, string(text))
	for _, verb := range [][]string{{"plan"}, {"apply", "-auto-approve"}, {"plan"}} {
		if out := tf.run(t, 0, verb...); !strings.Contains(out, "Warning: Check block assertion failed") || !strings.Contains(out, path+" allow_self_approval. What") {
			t.Errorf("%s says nothing of it: %s", verb, out)
		}
	}
	if !tf.template(t).AllowSelfApproval {
		t.Error("gone by itself: README.md says that it takes an import")
	}
	tf.importsAgain(t, path)
	if tf.template(t).AllowSelfApproval || tf.templatePath(t) != path {
		t.Errorf("%s: not mended", path)
	}
}

// importsAgain takes what is at path for the template, and writes it.
func (tf *terraformed) importsAgain(t *testing.T, path string) {
	t.Helper()
	if out := tf.run(t, 0, "state", "list"); strings.Contains(out+" ", templateAt+" ") {
		tf.run(t, 0, "state", "rm", templateAt)
	}
	tf.run(t, 0, "import", templateAt, path)
	tf.apply(t, 0, 1, 0)
	tf.settled(t)
}

func (tf *terraformed) makesAgainWhatWasDeleted(t *testing.T) {
	path := tf.templatePath(t)
	tf.call(t, http.StatusNoContent, "DELETE", path, tf.admin, "")
	if out := tf.run(t, 2, "plan", "-detailed-exitcode"); !strings.Contains(out, "1 to add, 0 to change, 0 to destroy") {
		t.Errorf("planned: %s", out)
	}
	tf.apply(t, 1, 0, 0)
	tf.settled(t)
	if tf.templatePath(t) == path {
		t.Error("it came back")
	}
}

// What a template names cannot be deleted, so it is named no longer first.
func (tf *terraformed) letsGoOfAnEntitlement(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(tf.dir, "main.tf"))
	if err != nil {
		t.Fatal(err)
	}
	_, role, _ := strings.Cut(string(text), `"db_readonly_role" {`)
	role, _, found := strings.Cut(role, "\n}\n")
	if !found {
		t.Fatalf("no entitlement in %s", text)
	}
	tf.write(t, "second.tf", `resource "restapi_object" "second" {`+strings.Replace(role, `"db-readonly"`, `"db-second"`, 1)+"\n}\n")
	back := tf.edit(t, "[restapi_object.db_readonly_role.id]", "[restapi_object.second.id, restapi_object.db_readonly_role.id]")
	tf.apply(t, 1, 1, 0)
	tf.settled(t)
	if ids := tf.template(t).Entitlements; len(ids) != 2 {
		t.Errorf("entitlements %v", ids)
	}
	back()
	if err := os.Remove(filepath.Join(tf.dir, "second.tf")); err != nil {
		t.Fatal(err)
	}
	tf.apply(t, 0, 1, 1)
	tf.settled(t)
}

// What it is all for: somebody asks, somebody else decides, and while that lives
// Terraform does not destroy what it stands on.
func (tf *terraformed) givesAccess(t *testing.T) {
	for strings.Contains(tf.templateID(t), "404") { // see below
		tf.apply(t, 1, 0, 1, "-replace="+templateAt)
	}
	template := tf.template(t)
	may := func() bool {
		return parsed[struct{ Decision bool }](t, tf.call(t, http.StatusOK, "POST", "/decision", tf.root,
			`{"subject": {"type": "user", "id": "ana"}, "action": {"name": "connect"}, "resource": {"type": "database", "id": "orders"}}`)).Decision
	}
	request := parsed[struct{ ID, Status string }](t, tf.call(t, http.StatusCreated, "POST", "/v1/access-requests", tf.ana.token,
		`{"template_id": "`+tf.templateID(t)+`", "requested_duration_mins": 240, "justification": "an incident", "custom_answers": {"`+template.CustomFields[0].ID+`": "INC-7"}}`))
	inUse := []string{"destroy", "'409'", `"code":"template_in_use"`, "requests by it that are pending or approved: 1"}
	if may() || request.Status != "pending" {
		t.Errorf("may before anybody has decided: %+v", request)
	}
	tf.refused(t, inUse...)
	tf.apply(t, 0, 0, 0) // the outputs are gone

	// The provider takes a refusal with 404 in it for "there is none"; README.md says
	// so, and what to do then.
	path, run := tf.templatePath(t), tf.variables["run"]
	tf.variables["run"] = "pipeline-404"
	tf.run(t, 0, "destroy", "-auto-approve", "-target="+templateAt)
	tf.variables["run"] = run
	tf.get(t, path)
	tf.importsAgain(t, path)

	tf.call(t, http.StatusOK, "POST", "/v1/access-requests/"+request.ID+"/approve", tf.dora.token, `{}`)
	if !may() {
		t.Error("approved, and may not")
	}
	tf.refused(t, inUse...)
	tf.apply(t, 0, 0, 0) // the outputs are gone
	tf.call(t, http.StatusOK, "POST", "/v1/access-requests/"+request.ID+"/revoke", tf.ana.token, `{}`)
	if may() {
		t.Error("revoked, and may")
	}
}

// Entitlements and templates stay with their application. Another one makes others
// of them, which is to be said.
func (tf *terraformed) movesToAnotherApplication(t *testing.T) {
	was := tf.template(t)
	tf.write(t, "other.tf", `resource "restapi_object" "other_db" {
  path = "/v1/applications"
  data = jsonencode({ name = "other-db" })
}
`)
	tf.edit(t, "= restapi_object.internal_db.id", "= restapi_object.other_db.id")
	tf.refused(t, "apply", "'400'", `"pointer":"/app_id","code":"immutable_member"`)
	tf.apply(t, 2, 0, 2, "-replace="+entitlementAt, "-replace="+templateAt)
	tf.settled(t)
	if is := tf.template(t); is.Application == was.Application || slices.Equal(is.Entitlements, was.Entitlements) {
		t.Errorf("still %+v", is)
	}
}
