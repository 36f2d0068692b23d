package bundle_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/policies/bundle"
)

func read(t testing.TB, raw []byte) *bundle.Bundle {
	t.Helper()
	b, err := bundle.Read(raw, bundle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func portable(sequence int64) bundle.Input {
	in := exampleInput()
	in.Sequence = sequence
	in.Policies = []bundle.Policy{
		in.Policies[0],
		{Name: "steady", Language: "rego", Version: 5, Rego: "package policies.steady\n\nallow := true\n"},
		{Name: "cel", Language: "cel", Version: 2, Document: json.RawMessage(`{"name":"cel","language":"cel","rules":[],"default":{"action":"allow"}}`)},
	}
	return in
}

func TestCompile_SharesWhatDidNotChange(t *testing.T) {
	one := read(t, build(t, portable(41), bundle.ProfileLatchkey, nil).Raw)
	first, err := bundle.Compile(&policies.Snapshot{}, nil, one, 5)
	if err != nil {
		t.Fatal(err)
	}
	if first.Revision != 41 || first.Default != "main" || first.ActivatedAt != 5 || first.Policy("main").Version != 3 || first.Set("office").Version != 7 {
		t.Errorf("got %+v", first)
	}
	in := portable(42)
	in.Policies[0].Rego += "\n# changed\n"
	in.Policies[0].Document = nil
	in.Policies[0].Version = 4
	in.Policies = in.Policies[:2]
	in.Sets[1].Values, in.Sets[1].Version = slices.Values([]string{"7"}), 2
	in.Sets = in.Sets[:2]
	second, err := bundle.Compile(first, one.Origin, read(t, build(t, in, bundle.ProfileLatchkey, nil).Raw), 6)
	if err != nil {
		t.Fatal(err)
	}
	if second.Policy("steady") != first.Policy("steady") || second.Set("office") != first.Set("office") {
		t.Error("what did not change was made anew")
	}
	if second.Policy("main") == first.Policy("main") || second.Policy("main").Version != 4 || second.Set("big").Len() != 1 || second.Set("big").Version != 2 {
		t.Error("what changed was kept")
	}
	if second.Policy("cel") != nil || second.Set("words") != nil {
		t.Error("what the bundle lacks is still there")
	}
	if first.Policy("cel") == nil || first.Set("words") == nil || first.Set("big").Len() != 3 {
		t.Error("the snapshot in force was changed")
	}
}

// Answers are remembered by the versions of what they rest on, so a bundle that
// does not count gets counted here.
func TestCompile_NeverGivesTwoContentsOneVersion(t *testing.T) {
	snapshot := &policies.Snapshot{}
	versions := map[string]bool{}
	for i := range 4 {
		b := read(t, archive(t, entry{name: "/a.rego", text: fmt.Sprintf("package policies.a\n\nallow := %v\n", i%2 == 0)},
			entry{name: "/data.json", text: fmt.Sprintf(`{"latchkey":{"sets":{"s":{"entity_type":"uint","values":[%d]}}}}`, i%2)}))
		next, err := bundle.Compile(snapshot, nil, b, 1)
		if err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprint(next.Policy("a").Version, " ", next.Set("s").Version)
		if versions[key] || next.Revision <= snapshot.Revision {
			t.Errorf("version %s again, revision %d", key, next.Revision)
		}
		versions[key] = true
		snapshot = next
	}
	same, err := bundle.Compile(snapshot, nil, read(t, archive(t, entry{name: "/a.rego", text: "package policies.a\n\nallow := false\n"})), 1)
	if err != nil || same.Policy("a") != snapshot.Policy("a") {
		t.Errorf("an equal policy was compiled anew: %v", err)
	}
}

func TestCompile_TellsOfEverythingThatIsWrong(t *testing.T) {
	in := bundle.Input{Customer: "acme", DefaultPolicy: "gone", Policies: []bundle.Policy{
		{Name: "broken", Language: "rego", Rego: "package policies.broken\n\nallow if nonsense(1)\n"},
		{Name: "away", Language: "rego", Rego: "package policies.elsewhere\n\nallow := true\n"},
		{Name: "net", Language: "rego", Rego: "package policies.net\n\nallow if http.send({})\n"},
		{Name: "unset", Language: "rego", Rego: "package policies.unset\n\nimport data.latchkey\n\nallow if latchkey.in_set(\"nope\", input.subject.id)\n"},
		{Name: "cel", Language: "cel", Document: json.RawMessage(`{"name":"cel","language":"cel","rules":[{"label":"a","match":"subject.","action":"allow"}],"default":{"action":"deny"}}`)},
		{Name: "other", Language: "cel", Document: json.RawMessage(`{"name":"cel","language":"cel","rules":[],"default":{"action":"deny"}}`)},
		{Name: "batch", Language: "rego", Rego: "package policies.batch\n\nallow := true\n"},
	}}
	_, err := bundle.Compile(&policies.Snapshot{}, nil, read(t, build(t, in, bundle.ProfileLatchkey, nil).Raw), 1)
	e, ok := err.(*latchkey.Error) //nolint:errorlint // it is returned as it is
	if !ok || e.Kind != latchkey.Invalid {
		t.Fatalf("got %v", err)
	}
	var got []string
	for _, f := range e.Faults {
		got = append(got, f.Pointer)
	}
	for _, want := range []string{"/policies/broken/rego", "/policies/away/rego", "/policies/net/rego", "/policies/unset", "/policies/cel/rules/0/match", "/policies/other/name", "/policies/batch/name", "/default_policy"} {
		if !slices.Contains(got, want) {
			t.Errorf("nothing at %s: %v", want, got)
		}
	}
}
