package deploy

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// loadCompose reads a compose file as compose does: by the schema of the
// specification, which knows every key.
func loadCompose(path string) (*types.Project, error) {
	options, err := cli.NewProjectOptions([]string{path}, cli.WithProfiles([]string{"*"}), cli.WithResolvedPaths(true))
	if err != nil {
		return nil, err
	}
	return options.LoadProject(context.Background())
}

func readCompose(t *testing.T) *types.Project {
	t.Helper()
	project, err := loadCompose("compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return project
}

// runs reports whether the service keeps running, as all do but the one that
// sets up.
func runs(s types.ServiceConfig) bool { return !slices.Contains(s.Profiles, "setup") }

func ours(s types.ServiceConfig) bool { return s.Image == "latchkey:local" }

func TestCompose_RefusesKeysThatComposeDoesNotKnow(t *testing.T) {
	text, err := os.ReadFile("compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{"  read_only: true", "  readonly: true"},
		{"interval: 5s", "intervall: 5s"},
		{"networks: [record]", "networks: [records]"},
		{"secrets: [postgres_password]", "secrets: [postgres]"},
		{"condition: service_healthy", "condition: healthy"},
	} {
		broken := strings.Replace(string(text), change[0], change[1], 1)
		if broken == string(text) {
			t.Errorf("%q does not stand in the file", change[0])
		}
		path := filepath.Join(t.TempDir(), "compose.yaml")
		if err := os.WriteFile(path, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadCompose(path); err == nil {
			t.Errorf("%q was read", change[1])
		}
	}
}

func TestCompose_HasTheWholeFleet(t *testing.T) {
	project := readCompose(t)
	var names []string
	verbs := map[string]int{}
	for name, s := range project.Services {
		names = append(names, name)
		if ours(s) && runs(s) {
			verbs[s.Command[0]]++
		}
	}
	slices.Sort(names)
	want := []string{"app", "control-1", "control-2", "front", "init", "postgres", "redis", "sidecar-1", "sidecar-2"}
	if !slices.Equal(names, want) || verbs["serve"] != 2 || verbs["sidecar"] != 2 {
		t.Errorf("services %v, %v; want %v, two of serve and two of sidecar", names, verbs, want)
	}
}

func TestCompose_NamesOnlyFlagsThatTheProgramHas(t *testing.T) {
	for name, s := range readCompose(t).Services {
		if !ours(s) {
			continue
		}
		environment := map[string]string{}
		for key, value := range s.Environment {
			if value == nil {
				t.Errorf("%s: %s would be taken from whoever runs compose", name, key)
				continue
			}
			environment[key] = *value
		}
		t.Run(name, func(t *testing.T) {
			checkCommand(t, name, s.Command, environment)
			if runs(s) {
				if len(s.HealthCheck.Test) < 2 || s.HealthCheck.Test[0] != "CMD" || s.HealthCheck.Test[1] != "/latchkey" {
					t.Fatalf("health check %q: the image has no shell", s.HealthCheck.Test)
				}
				checkCommand(t, name+" health", s.HealthCheck.Test[2:], nil)
			}
		})
	}
}

func TestCompose_EveryServiceIsConfined(t *testing.T) {
	for name, s := range readCompose(t).Services {
		if !s.ReadOnly {
			t.Errorf("%s: its root file system can be written", name)
		}
		if !slices.Equal(s.CapDrop, []string{"ALL"}) || len(s.CapAdd) > 0 || s.Privileged {
			t.Errorf("%s: capabilities -%v +%v, privileged %t", name, s.CapDrop, s.CapAdd, s.Privileged)
		}
		if !slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}) {
			t.Errorf("%s: security options %v", name, s.SecurityOpt)
		}
		if user, _, _ := strings.Cut(s.User, ":"); user == "" || user == "0" || user == "root" {
			t.Errorf("%s: runs as %q", name, s.User)
		}
		if s.PidsLimit == 0 {
			t.Errorf("%s: no limit of processes", name)
		}
		if s.NetworkMode != "" || s.Pid != "" || s.Ipc != "" || len(s.Devices) > 0 {
			t.Errorf("%s: shares the machine's own network, processes or devices", name)
		}
		if runs(s) && (s.HealthCheck == nil || s.HealthCheck.Disable || len(s.HealthCheck.Test) == 0 || s.HealthCheck.Interval == nil || s.HealthCheck.Timeout == nil) {
			t.Errorf("%s: no health check with interval and timeout", name)
		}
		if runs(s) && s.Restart != "unless-stopped" {
			t.Errorf("%s: restart %q", name, s.Restart)
		}
		if s.Build == nil && !regexp.MustCompile(`^[a-z/]+:\d+\.\d+(\.\d+)?(-[a-z]+)?$`).MatchString(s.Image) {
			t.Errorf("%s: the image %q is not of one release", name, s.Image)
		}
		for _, v := range s.Volumes {
			if v.Type == types.VolumeTypeBind && !v.ReadOnly && name != "init" {
				t.Errorf("%s: may write %s", name, v.Source)
			}
		}
	}
}

// Attack from outside: nothing is published but nginx and the control planes, on
// this machine alone, and the network that leads to the databases leads nowhere
// else.
func TestCompose_PublishesNoDatabase(t *testing.T) {
	project := readCompose(t)
	published := map[string]bool{}
	for name, s := range project.Services {
		for _, p := range s.Ports {
			published[name] = true
			if p.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %d is published on %q", name, p.Target, p.HostIP)
			}
		}
		if len(s.Networks) == 0 {
			t.Errorf("%s: on the default network", name)
		}
		for network := range s.Networks {
			if !project.Networks[network].Internal && !slices.Contains([]string{"control-1", "control-2", "front"}, name) {
				t.Errorf("%s: on the network %s, which leads outside", name, network)
			}
		}
	}
	if len(published) != 3 || !published["front"] || !published["control-1"] || !published["control-2"] {
		t.Errorf("published: %v", published)
	}
	reach := func(from, to string) bool {
		for network := range project.Services[from].Networks {
			if _, ok := project.Services[to].Networks[network]; ok {
				return true
			}
		}
		return false
	}
	for _, pair := range [][2]string{
		{"front", "postgres"}, {"front", "redis"}, {"front", "control-1"}, {"front", "control-2"}, {"app", "postgres"}, {"app", "redis"},
		{"app", "control-1"}, {"sidecar-1", "postgres"}, {"sidecar-2", "postgres"}, {"sidecar-1", "app"}, {"redis", "postgres"},
	} {
		if reach(pair[0], pair[1]) {
			t.Errorf("%s reaches %s", pair[0], pair[1])
		}
	}
	for _, pair := range [][2]string{
		{"control-1", "postgres"}, {"control-2", "postgres"}, {"control-1", "redis"}, {"control-2", "redis"}, {"sidecar-1", "redis"}, {"sidecar-2", "redis"},
		{"sidecar-1", "control-1"}, {"sidecar-1", "control-2"}, {"sidecar-2", "control-1"}, {"sidecar-2", "control-2"}, {"front", "app"}, {"front", "sidecar-2"}, {"init", "postgres"},
	} {
		if !reach(pair[0], pair[1]) {
			t.Errorf("%s does not reach %s", pair[0], pair[1])
		}
	}
}

// secretName is what the names of secrets look like, in variables and flags.
var secretName = regexp.MustCompile(`(?i)(password|passwd|secret|token|_key$|^latchkey_(key|database|redis)$)`)

// findSecret tells what is secret in a variable or a flag: a key of latchkey, a
// password in a URL, any value of what is called a secret.
func findSecret(name, value string) string {
	if regexp.MustCompile(`lkr?1_\w`).MatchString(value) {
		return "a key stands in " + name
	}
	for _, word := range strings.FieldsFunc(value, func(r rune) bool { return r == ' ' || r == '=' }) {
		if u, err := url.Parse(word); err == nil && u.User != nil {
			if _, has := u.User.Password(); has {
				return "a password stands in the address of " + name
			}
		}
	}
	if secretName.MatchString(name) && !strings.HasSuffix(name, "_FILE") && value != "" {
		return name + " is given in the open"
	}
	return ""
}

func TestCompose_SecretsAreFiles(t *testing.T) {
	project := readCompose(t)
	for name, s := range project.Services {
		if len(s.EnvFiles) > 0 {
			t.Errorf("%s: environment from a file, which whoever inspects the container sees", name)
		}
		for key, value := range s.Environment {
			if found := findSecret(key, *value); found != "" {
				t.Errorf("%s: %s", name, found)
			}
			if path, ok := strings.CutPrefix(*value, "/run/secrets/"); ok && !slices.ContainsFunc(s.Secrets, func(c types.ServiceSecretConfig) bool { return c.Source == path }) {
				t.Errorf("%s: %s names a secret that it does not get", name, key)
			}
		}
		for _, arg := range s.Command {
			key, value, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
			if found := findSecret(strings.ReplaceAll(key, "-", "_"), value); found != "" && !strings.HasPrefix(value, "/") {
				t.Errorf("%s: --%s", name, found)
			}
			if path, ok := strings.CutPrefix(value, "/run/secrets/"); ok && !slices.ContainsFunc(s.Secrets, func(c types.ServiceSecretConfig) bool { return c.Source == path }) {
				t.Errorf("%s: %s names a secret that it does not get", name, arg)
			}
		}
	}
	ignored, err := os.ReadFile("../.gitignore")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(ignored), "/deploy/compose/secrets/\n") {
		t.Error("git does not ignore the secrets")
	}
	setup, err := os.ReadFile("compose/setup.sh")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, s := range project.Services {
		for _, c := range s.Secrets {
			used[c.Source] = true
		}
	}
	for name, secret := range project.Secrets {
		if filepath.Dir(secret.File) != filepath.Join(project.WorkingDir, "compose", "secrets") || filepath.Base(secret.File) != name {
			t.Errorf("the secret %s is %q", name, secret.File)
		}
		if !used[name] {
			t.Errorf("nobody uses the secret %s", name)
		}
		if !regexp.MustCompile(`(keep|user) `+name+`\b`).Match(setup) && name != "keyring" {
			t.Errorf("setup.sh does not make %s", name)
		}
	}
	// The sidecars get no way to write, and no record.
	for _, name := range []string{"sidecar-1", "sidecar-2"} {
		for _, c := range project.Services[name].Secrets {
			if slices.Contains([]string{"database_url", "redis_control_url", "keyring", "postgres_password", "redis_acl"}, c.Source) {
				t.Errorf("%s gets %s", name, c.Source)
			}
		}
	}
}

func TestFindSecret(t *testing.T) {
	for _, c := range [][2]string{
		{"X", "redis://u:p@redis:6379"}, {"DATABASE", "a=postgres://u:p@db/x"}, {"LATCHKEY_DATABASE", "postgres://latchkey@db/latchkey"},
		{"LATCHKEY_KEY", "x"}, {"POSTGRES_PASSWORD", "x"}, {"X", "lk1_live_abc"}, {"X", "lkr1_abc"},
	} {
		if findSecret(c[0], c[1]) == "" {
			t.Errorf("%s=%s passes", c[0], c[1])
		}
	}
	for _, c := range [][2]string{{"POSTGRES_PASSWORD_FILE", "/run/secrets/p"}, {"control", "http://control:5539"}, {"POSTGRES_USER", "latchkey"}} {
		if found := findSecret(c[0], c[1]); found != "" {
			t.Errorf("%s=%s: %s", c[0], c[1], found)
		}
	}
}
