package policies_test

import (
	"errors"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
)

func parseValue(t testing.TB, text string) strictjson.Value {
	t.Helper()
	var d strictjson.Doc
	if err := d.Parse(text); err != nil {
		t.Fatal(err)
	}
	return d.Root()
}

// compileRego compiles a module, whose package line is put before it.
func compileRego(t testing.TB, body string) *policies.Policy {
	t.Helper()
	p, err := policies.Compile(&policies.Document{Name: "p", Language: policies.Rego, Rego: "package policies.p\n\n" + body}, 1)
	if err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	return p
}

func asked() *policies.Input {
	return &policies.Input{
		Subject:  policies.Entity{Type: "user", ID: "ann"},
		Action:   policies.Action{Name: "read"},
		Resource: policies.Entity{Type: "doc", ID: "plan"},
		Now:      moment,
	}
}

func TestRego_Answers(t *testing.T) {
	tests := []struct {
		name, rego string
		want       policies.Result
		failure    policies.Failure
	}{
		{"allow", `allow if input.subject.id == "ann"`, policies.Result{Permit: true, Action: "allow"}, ""},
		{"undefined", `allow if input.subject.id == "bob"`, policies.Result{}, policies.Undefined},
		{"default", "default allow := false\n\nallow if input.subject.id == \"bob\"", policies.Result{Action: "deny"}, ""},
		{"object", `decision := {"allow": true, "action": "throttle", "reasons": ["x"], "obligations": [{"b": 1, "a": null}]}`,
			policies.Result{Permit: true, Action: "throttle", Reasons: `["x"]`, Obligations: `[{"a":null,"b":1}]`}, ""},
		{"absent properties are empty", `allow := input.subject.properties == input.context`, policies.Result{Permit: true, Action: "allow"}, ""},
		{"now", `allow := time.parse_rfc3339_ns(input.latchkey.now) == time.now_ns()`, policies.Result{Permit: true, Action: "allow"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := compileRego(t, tt.rego).Evaluate(&policies.Snapshot{}, asked())
			if failed, ok := errors.AsType[*policies.EvaluationError](err); ok != (tt.failure != "") || ok && failed.Failure != tt.failure {
				t.Fatalf("error %v, want %q", err, tt.failure)
			}
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}
