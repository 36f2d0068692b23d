package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/notify/sandbox"
)

// requireSandbox skips where scripts cannot be confined, unless they must be.
func requireSandbox(t *testing.T) {
	t.Helper()
	if err := sandbox.New(1).Probe(t.Context()); err != nil {
		if os.Getenv("LATCHKEY_REQUIRE_SANDBOX") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// received is a server that keeps what it is sent.
type received struct {
	*httptest.Server
	bodies chan string
}

func receive(t *testing.T) *received {
	t.Helper()
	r := &received{bodies: make(chan string, 64)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(io.LimitReader(req.Body, 1<<20))
		r.bodies <- req.Header.Get("webhook-signature") + " " + string(b)
		if strings.HasPrefix(req.URL.Path, "/refuse") {
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *received) next(t *testing.T) string {
	t.Helper()
	select {
	case b := <-r.bodies:
		return b
	case <-time.After(time.Minute):
		t.Fatal("nothing came")
		return ""
	}
}

// office is a running server with people, a template, and calls that must succeed.
type office struct {
	*process
	t                       *testing.T
	root, requester, decide string // credentials
	app, group              string
}

func openOffice(t *testing.T, args ...string) *office {
	t.Helper()
	data := t.TempDir() + "/data"
	p, err := startServer(data, []string{"LATCHKEY_ROOT_KEY="}, args, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.end(syscall.SIGTERM); err != nil {
			t.Errorf("the server ended: %v\n%s", err, p.err)
		}
	})
	o := &office{process: p, t: t}
	if o.root, err = rootKey(data); err != nil {
		t.Fatal(err)
	}
	person := func(username string) (id, token string) {
		made := o.must(201, o.root, "POST", "/v1/users", map[string]any{"username": username, "email": username + "@example.com", "name": strings.ToUpper(username)})
		claimed := o.must(201, "", "POST", "/v1/personal_tokens", map[string]any{"claim_code": made.Get("claim.code").String(), "name": "laptop"})
		return made.Get("id").String(), claimed.Get("token").String()
	}
	_, o.requester = person("dale")
	approver, token := person("ada")
	o.decide = token
	o.app = o.must(201, o.root, "POST", "/v1/applications", map[string]any{"name": "internal-db"}).Get("id").String()
	o.group = o.must(201, o.root, "POST", "/v1/groups", map[string]any{"name": "dba", "member_ids": []string{approver}}).Get("id").String()
	return o
}

func (o *office) must(want int, key, method, path string, body any) gjson.Result {
	o.t.Helper()
	status, reply, err := o.sendAs(context.Background(), key, map[bool]string{true: "default"}[key == o.root], method, path, body)
	if err != nil || status != want {
		o.t.Fatalf("%s %s: %d %s, %v; want %d", method, path, status, reply.Raw, err, want)
	}
	return reply
}

func (o *office) task(body map[string]any) string {
	o.t.Helper()
	return o.must(201, o.root, "POST", "/v1/tasks", body).Get("id").String()
}

func (o *office) template(name, task, mode string) string {
	o.t.Helper()
	entitlement := o.must(201, o.root, "POST", "/v1/entitlements", map[string]any{"app_id": o.app, "name": name, "entries": json.RawMessage(`{"db":[{"f":"*","p":2}]}`)})
	body := map[string]any{"name": name, "app_id": o.app, "mapping_ids": []string{entitlement.Get("id").String()}, "allowed_durations": []int{60}, "approver_group_ids": []string{o.group}}
	if task != "" {
		body["trigger_task_id"], body["trigger_task_failure_mode"] = task, mode
	}
	return o.must(201, o.root, "POST", "/v1/access-request-templates", body).Get("id").String()
}

func (o *office) submit(template string) string {
	o.t.Helper()
	return o.must(201, o.requester, "POST", "/v1/access-requests", map[string]any{"template_id": template, "requested_duration_mins": 60, "justification": "owls"}).Get("id").String()
}

// settled waits until a task has so many runs, none of which goes on, and returns
// them, newest first.
func (o *office) settled(task string, n int) []gjson.Result {
	o.t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	for {
		runs := o.must(200, o.root, "GET", "/v1/tasks/"+task+"/runs", nil).Get("runs").Array()
		done := 0
		for _, r := range runs {
			if s := r.Get("status").String(); s == "succeeded" || s == "failed" {
				done++
			}
		}
		if done >= n {
			return runs
		}
		select {
		case <-deadline.C:
			o.t.Fatalf("%d of %d runs are over: %s\n%s", done, n, runs, o.err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// documented is a script of docs/tasks.md.
func documented(t *testing.T, name string) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "tasks.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), "```go "+name+"\n")
	script, _, ended := strings.Cut(rest, "```")
	if !found || !ended {
		t.Fatalf("docs/tasks.md has no %s", name)
	}
	return script
}

// The whole way: a script that an event runs tells a chat of a request, by the
// secret that it may read and through the guard.
func TestTasks_AScriptTellsAChat(t *testing.T) {
	requireSandbox(t)
	chat := receive(t)
	o := openOffice(t, "--enable-script-tasks", "--allow-outbound", "127.0.0.0/8")
	o.must(200, o.root, "PUT", "/v1/secrets/SLACK_WEBHOOK", map[string]any{"value": chat.URL + "/services/T0/B0"})
	slack := o.task(map[string]any{"name": "slack", "task_type": "script", "schedule_type": "once", "script": documented(t, "slack.go"), "secrets": []string{"SLACK_WEBHOOK"}})
	log := o.task(map[string]any{"name": "log", "task_type": "script", "script": `package task
import "fmt"
func Run() (string, error) { fmt.Println(config.Get("trigger_event"), config.Get("request_status"), config.Get("justification")); return "", nil }
`})
	o.must(201, o.root, "POST", "/v1/webhooks", map[string]any{"task_id": slack, "events": []string{"access_request.submitted"}})
	template := o.template("Database read-only access", log, "ignore")
	request := o.submit(template)
	if got, want := chat.next(t), ` {"text":"Database read-only access access requested by dale@example.com — approvers: ada@example.com"}`; got != want {
		t.Errorf("%s", got)
	}
	o.must(200, o.decide, "POST", "/v1/access-requests/"+request+"/approve", map[string]any{"comment": "fine"})
	o.must(200, o.requester, "POST", "/v1/access-requests/"+request+"/revoke", nil)
	var said []string
	for _, r := range o.settled(log, 3) {
		said = append([]string{strings.TrimSpace(r.Get("output").String())}, said...)
	}
	if fmt.Sprint(said) != "[created created owls approved approved owls revoked revoked owls]" {
		t.Errorf("%q", said)
	}
	run := o.settled(slack, 1)[0]
	if run.Get("result").String() != "notified" || run.Get("source").String() != "subscription" || strings.Contains(run.Raw, chat.URL) {
		t.Errorf("%s", run.Raw)
	}
	for _, task := range []string{slack, log} {
		if got := o.must(409, o.root, "DELETE", "/v1/tasks/"+task, nil); got.Get("code").String() != "task_in_use" {
			t.Errorf("%s", got.Raw)
		}
	}
}

func TestTasks_AnApprovalWaitsForItsTask(t *testing.T) {
	requireSandbox(t)
	board := receive(t)
	o := openOffice(t, "--enable-script-tasks", "--allow-outbound", "127.0.0.0/8")
	o.must(200, o.root, "PUT", "/v1/secrets/TICKETS", map[string]any{"value": board.URL + "/refuse"})
	const script = `package task
import ("errors"; "net/http")
func Run() (string, error) {
	if config.Get("trigger_event") != "approved" { return "", nil }
	r, err := http.Get(secrets.Get("TICKETS"))
	if err != nil { return "", err }
	if r.StatusCode != http.StatusOK { return "", errors.New("the ticket is not open") }
	return "open", nil
}
`
	task := o.task(map[string]any{"name": "ticket", "task_type": "script", "script": script, "secrets": []string{"TICKETS"}})
	request := o.submit(o.template("guarded", task, "block"))
	approve := "/v1/access-requests/" + request + "/approve"
	if got := o.must(502, o.decide, "POST", approve, nil); got.Get("code").String() != "trigger_task_failed" || strings.Contains(got.Raw, "ticket") {
		t.Errorf("%s", got.Raw)
	}
	if got := o.must(200, o.requester, "GET", "/v1/access-requests/"+request, nil); got.Get("status").String() != "pending" {
		t.Errorf("%s", got.Raw)
	}
	o.must(200, o.root, "PUT", "/v1/secrets/TICKETS", map[string]any{"value": board.URL + "/open"})
	if got := o.must(200, o.decide, "POST", approve, nil); got.Get("status").String() != "approved" {
		t.Errorf("%s", got.Raw)
	}
	var modes []string
	for _, r := range o.settled(task, 3) {
		modes = append(modes, r.Get("failure_mode").String()+" "+r.Get("trigger_event").String()+" "+r.Get("error").String())
	}
	if len(modes) != 3 { // two attempts to approve, and the submission
		t.Errorf("%q", modes)
	}
}

// Without the operator's leave a script reaches nothing inside, and a webhook task
// neither.
func TestTasks_ReachNothingInside(t *testing.T) {
	requireSandbox(t)
	inside := receive(t)
	o := openOffice(t, "--enable-script-tasks")
	o.must(200, o.root, "PUT", "/v1/secrets/INSIDE", map[string]any{"value": inside.URL})
	task := o.task(map[string]any{"name": "inside", "task_type": "script", "secrets": []string{"INSIDE"}, "script": `package task
import ("net/http"; "strings")
func Run() (string, error) {
	var got []string
	for _, u := range []string{secrets.Get("INSIDE"), "http://localhost:1", "http://[::1]:1", "http://169.254.169.254/latest/meta-data", "file:///etc/passwd", "http://10.0.0.1", "gopher://127.0.0.1"} {
		if r, err := http.Get(u); err == nil { got = append(got, u, r.Status) }
	}
	return "reached " + strings.Join(got, " "), nil
}
`})
	o.submit(o.template("t", task, "ignore"))
	if got := o.settled(task, 1)[0]; got.Get("result").String() != "reached " {
		t.Errorf("%s", got.Raw)
	}
	if got := o.must(400, o.root, "POST", "/v1/tasks", map[string]any{"name": "x", "task_type": "webhook", "url": inside.URL}); got.Get("errors.0.code").String() != "address_refused" {
		t.Errorf("%s", got.Raw)
	}
	select {
	case got := <-inside.bodies:
		t.Errorf("reached: %s", got)
	default:
	}
}

// A script that could never run is refused when it is written, with the line, and
// not when an approval waits for it.
func TestTasks_AScriptThatDoesNotCompileIsRefused(t *testing.T) {
	requireSandbox(t)
	o := openOffice(t, "--enable-script-tasks")
	wrong := map[string]any{"name": "x", "task_type": "script", "script": "package task\n\nfunc Run() (string, error) {\n\treturn nothing, nil\n}\n"}
	right := map[string]any{"name": "x", "task_type": "script", "script": "package task\n\nfunc Run() (string, error) {\n\treturn \"\", nil\n}\n"}
	path := "/v1/tasks/" + o.must(201, o.root, "POST", "/v1/tasks", right).Get("id").String()
	for method, path := range map[string]string{"POST": "/v1/tasks", "PUT": path} {
		got := o.must(400, o.root, method, path, wrong).Get("errors.0")
		if got.Get("code").String() != "invalid_script" || got.Get("pointer").String() != "/script" || !strings.HasPrefix(got.Get("detail").String(), "line 4:") {
			t.Errorf("%s: %s", method, got.Raw)
		}
	}
	o.must(200, o.root, "PUT", path, right)
}

// Of the server's own environment, files and keys a script sees nothing, whoever
// wrote it.
func TestTasks_ScriptsSeeNothingOfTheServer(t *testing.T) {
	requireSandbox(t)
	o := openOffice(t, "--enable-script-tasks")
	for name, tc := range map[string]struct{ script, code string }{
		"files":       {"package task\nimport \"os\"\nfunc Run() (string, error) { b, err := os.ReadFile(\"/etc/passwd\"); return string(b), err }", "invalid_script"},
		"processes":   {"package task\nimport \"os/exec\"\nfunc Run() (string, error) { return \"\", exec.Command(\"id\").Run() }", "invalid_script"},
		"unsafe":      {"package task\nimport \"unsafe\"\nfunc Run() (string, error) { var p unsafe.Pointer; _ = p; return \"\", nil }", "invalid_script"},
		"another one": {"package main\nfunc main() {}", "invalid_script"},
	} {
		got := o.must(400, o.root, "POST", "/v1/tasks", map[string]any{"name": name, "task_type": "script", "script": tc.script})
		if got.Get("errors.0.code").String() != tc.code || got.Get("errors.0.pointer").String() != "/script" {
			t.Errorf("%s: %s", name, got.Raw)
		}
	}
}
