package server_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

const scenarios = "../testdata/authzen"

// scenarioCase is one line of a cases.yaml: a request by the endpoint that it
// goes to, and what the answer must hold.
type scenarioCase struct {
	Request   map[string]any `yaml:",inline"`
	Decision  *bool          `yaml:"decision"`
	Decisions []bool         `yaml:"decisions"`
	Results   []string       `yaml:"results"`
}

// TestScenarios puts each interop scenario into a server of its own, by its
// load.sh, and asks what its cases ask.
func TestScenarios(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the scenarios are loaded by a script, which needs %s: %v", tool, err)
		}
	}
	scripts, err := filepath.Glob(scenarios + "/*/load.sh")
	if err != nil || len(scripts) != 5 {
		t.Fatalf("the scripts are %v: %v", scripts, err)
	}
	for _, script := range scripts {
		t.Run(filepath.Base(filepath.Dir(script)), func(t *testing.T) {
			t.Parallel()
			a := start(t)
			a.customer("interop")
			asker := a.createFor("interop", `{"decision":true,"search":true}`)
			load := func() {
				t.Helper()
				cmd := exec.Command("bash", script, "http://"+a.addr, a.root)
				cmd.Env = append(os.Environ(), "LATCHKEY_CUSTOMER=interop")
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			load()
			load() // again: it may be repeated
			askCases(t, a, asker.secret, filepath.Join(filepath.Dir(script), "cases.yaml"))
		})
	}
}

func askCases(t *testing.T, a *api, secret, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var cases []scenarioCase
	if err := yaml.Unmarshal(text, &cases); err != nil || len(cases) == 0 {
		t.Fatalf("%d cases: %v", len(cases), err)
	}
	for i, c := range cases {
		if len(c.Request) != 1 {
			t.Fatalf("case %d has %d requests", i, len(c.Request))
		}
		for endpoint, request := range c.Request {
			body, err := json.Marshal(request)
			if err != nil {
				t.Fatal(err)
			}
			r := a.do("POST", "/access/v1/"+endpoint, secret, string(body)).is(200)
			got := scenarioCase{Request: c.Request}
			switch {
			case strings.HasPrefix(endpoint, "search/"):
				got.Results = []string{}
				for _, e := range r.get("results").Array() {
					got.Results = append(got.Results, e.Get("id").String()+e.Get("name").String())
				}
			case r.get("evaluations").Exists():
				for _, e := range r.get("evaluations.#.decision").Array() {
					got.Decisions = append(got.Decisions, e.Bool())
				}
			default:
				permit := r.get("decision").Bool()
				got.Decision = &permit
			}
			if diff := cmp.Diff(c, got); diff != "" || strings.Contains(r.body, "policy_error") {
				t.Errorf("case %d, %s %s: (-want +got)\n%s%s", i, endpoint, body, diff, r.body)
			}
		}
	}
}

// A scenario that is wrong somewhere says so, and its key stays out of sight.
func TestScenarios_AFaultEndsTheScript(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("the scenarios are loaded by a script, which needs curl:", err)
	}
	a := start(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "subjects.json"), []byte(`{"subjects":[{"type":"user","id":"alice"},{"type":"user"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("bash", scenarios+"/load.sh", dir, "http://"+a.addr, a.root).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "missing_member") || a.leaks(string(out)) {
		t.Errorf("%v\n%s", err, out)
	}
}
