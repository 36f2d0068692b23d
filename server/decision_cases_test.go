package server_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"
	"go.yaml.in/yaml/v3"
)

// decisionCase is one line of testdata/decisions; see its README.
type decisionCase struct {
	Ask            any            `yaml:"ask"`
	With           map[string]any `yaml:"with"`
	Key            string         `yaml:"key"`
	By             string         `yaml:"by"`
	Subject        string         `yaml:"subject"`
	Allow          []int          `yaml:"allow"`
	Deny           string         `yaml:"deny"`
	Indexes        []int          `yaml:"indexes"`
	RemovedIndexes []int          `yaml:"removed_indexes"`
}

type decisionGroup struct {
	Group  string         `yaml:"group"`
	Scopes map[string]any `yaml:"scopes"`
	Cases  []decisionCase `yaml:"cases"`
}

func (c *decisionCase) question(t *testing.T) (action, typ, id string) {
	t.Helper()
	parts, ok := c.Ask.([]any)
	if text, isText := c.Ask.(string); isText {
		for _, w := range strings.Fields(text) {
			parts = append(parts, w)
		}
		ok = true
	}
	if !ok || len(parts) != 3 || (c.Allow == nil) == (c.Deny == "") {
		t.Fatalf("want ask: action type id, and one of allow and deny: %+v", c)
	}
	return fmt.Sprint(parts[0]), fmt.Sprint(parts[1]), fmt.Sprint(parts[2])
}

// world is the server that a group of cases is asked of.
type world struct {
	*api
	asker string
	keys  map[string]key
}

func newWorld(t *testing.T, scopes map[string]any) *world {
	a := start(t)
	customerScopes, err := json.Marshal(scopes)
	if err != nil {
		t.Fatal(err)
	}
	soon := `"expires_at":"` + a.clock.in(time.Second) + `"`
	w := &world{api: a, asker: a.create(`{"decision":true,"search":true}`).secret, keys: map[string]key{
		"": a.create(string(customerScopes)), "other": a.create(string(customerScopes)), "expired": a.create(string(customerScopes), soon),
		"revoked": a.create(string(customerScopes)), "sidecar": a.create(strings.TrimSuffix(string(customerScopes), "}") + `,"sidecar":true}`),
		"unknown": {id: "9017501f-9fa4-4a88-b657-5bd49c1bb722"}, "root": {handle: a.root[:len("lkr1_")+12], secret: a.root},
	}}
	a.do("DELETE", "/v1/access_keys/"+w.keys["revoked"].id, a.root, "").is(204)
	a.customer("elsewhere")
	w.keys["foreign"] = a.createFor("elsewhere", string(customerScopes))
	a.clock.advance(time.Second)
	return w
}

func (w *world) subject(t *testing.T, c *decisionCase) map[string]any {
	t.Helper()
	if typ, id, ok := strings.Cut(c.Subject, " "); ok {
		return map[string]any{"type": typ, "id": id}
	}
	k, ok := w.keys[c.Key]
	if !ok {
		t.Fatalf("no key of that sort: %q", c.Key)
	}
	secret := func(s string) map[string]any { return map[string]any{"key": s} }
	switch c.By {
	case "", "id":
		return map[string]any{"type": "access_key", "id": k.id}
	case "handle":
		return map[string]any{"type": "access_key", "id": k.handle}
	case "secret":
		return map[string]any{"type": "access_key", "properties": secret(k.secret)}
	case "id and secret":
		return map[string]any{"type": "access_key", "id": k.id, "properties": secret(k.secret)}
	case "handle and secret":
		return map[string]any{"type": "access_key", "id": k.handle, "properties": secret(k.secret)}
	case "another's id and secret":
		return map[string]any{"type": "access_key", "id": w.keys["other"].id, "properties": secret(k.secret)}
	case "id and another's secret":
		return map[string]any{"type": "access_key", "id": k.id, "properties": secret(w.keys["other"].secret)}
	case "secret as id":
		return map[string]any{"type": "access_key", "id": k.secret}
	case "wrong secret":
		return map[string]any{"type": "access_key", "properties": secret(reseal(k.handle + "_" + strings.Repeat("0", 43) + "_x"))}
	}
	t.Fatalf("unknown way to name a key: %q", c.By)
	return nil
}

// wanted is the answer's decision and reasons, as the case says.
func (w *world) wanted(c *decisionCase, action string, entries []any) map[string]any {
	var reasons []any
	for _, i := range c.Allow {
		entry := entries[i].(map[string]any)
		reasons = append(reasons, map[string]any{"code": "scope_permits", "source": "access_key", "id": w.keys[c.Key].id,
			"entry": float64(i), "selector": fmt.Sprint(entry["f"]), "permission": action})
	}
	if c.Deny != "" {
		reason := map[string]any{"code": c.Deny}
		if k := w.keys[c.Key]; c.Subject == "" && c.Deny != "key_unknown" && c.Key != "root" {
			reason["source"], reason["id"] = "access_key", k.id
		}
		if c.Deny == "value_not_permitted" {
			reason["indexes"] = numbers(c.Indexes)
			if len(c.RemovedIndexes) > 0 {
				reason["removed_indexes"] = numbers(c.RemovedIndexes)
			}
		}
		reasons = append(reasons, reason)
	}
	return map[string]any{"decision": c.Deny == "", "action": map[bool]any{true: "allow", false: "deny"}[c.Deny == ""], "reasons": reasons}
}

func numbers(list []int) []any {
	out := []any{}
	for _, n := range list {
		out = append(out, float64(n))
	}
	return out
}

func answered(body string) map[string]any {
	return map[string]any{"decision": gjson.Get(body, "decision").Value(), "action": gjson.Get(body, "context.action").Value(),
		"reasons": gjson.Get(body, "context.reasons").Value()}
}

func TestDecision_AnswersEveryCaseAsWritten(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../testdata/decisions/*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("cases: %v, %v", files, err)
	}
	asked := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var groups []decisionGroup
		d := yaml.NewDecoder(strings.NewReader(string(text)))
		d.KnownFields(true)
		if err := d.Decode(&groups); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, g := range groups {
			asked += len(g.Cases)
			t.Run(g.Group, func(t *testing.T) { newWorld(t, g.Scopes).answer(t, &g) })
		}
	}
	if asked < 120 {
		t.Errorf("only %d cases were asked", asked)
	}
}

func (w *world) answer(t *testing.T, g *decisionGroup) {
	var batch []string
	var wanted []map[string]any
	for i := range g.Cases {
		c := &g.Cases[i]
		action, typ, id := c.question(t)
		resource := map[string]any{"type": typ, "id": id}
		if c.With != nil {
			resource["properties"] = c.With
		}
		body, err := json.Marshal(map[string]any{"subject": w.subject(t, c), "action": map[string]any{"name": action}, "resource": resource})
		if err != nil {
			t.Fatal(err)
		}
		entries, _ := g.Scopes[typ].([]any)
		want := w.wanted(c, action, entries)
		batch, wanted = append(batch, string(body)), append(wanted, want)
		paths := []string{"/decision", "/decision/explain", "/decision/batch", "/access/v1/evaluations"}
		if gjson.GetBytes(body, "subject.id").Exists() {
			paths = append(paths, "/access/v1/evaluation")
		} else {
			paths = paths[:3]
		}
		for _, path := range paths {
			r := w.do("POST", path, w.asker, string(body)).is(200)
			if diff := cmp.Diff(want, answered(r.body)); diff != "" {
				t.Errorf("%s %v %s %s: %s", path, c.Ask, c.Key, c.By, diff)
			}
			if w.leaks(r.body) {
				t.Errorf("%s %v: the answer repeats a secret", path, c.Ask)
			}
		}
	}
	r := w.do("POST", "/decision/batch", w.asker, `{"evaluations":[`+strings.Join(batch, ",")+`]}`).is(200)
	list := r.get("evaluations").Array()
	if len(list) != len(wanted) {
		t.Fatalf("%d answers to %d questions", len(list), len(wanted))
	}
	for i, e := range list {
		if diff := cmp.Diff(wanted[i], answered(e.Raw)); diff != "" {
			t.Errorf("batch, %v: %s", g.Cases[i].Ask, diff)
		}
	}
}
