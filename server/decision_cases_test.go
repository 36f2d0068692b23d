package server_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"
	"go.yaml.in/yaml/v3"

	"github.com/latchkey-dev/latchkey/authz"
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
	Granted        [][2]int       `yaml:"granted"`
	Entitled       [][2]int       `yaml:"entitled"`

	// Of a group with policies.
	About   map[string]any `yaml:"about"`
	Context map[string]any `yaml:"context"`
	Policy  string         `yaml:"policy"`
	Permit  *bool          `yaml:"permit"`
	Action  string         `yaml:"action"`
	Rule    string         `yaml:"rule"`
}

type decisionGroup struct {
	Group        string                    `yaml:"group"`
	Scopes       map[string]any            `yaml:"scopes"`
	Portable     bool                      `yaml:"portable"`
	Policies     map[string]any            `yaml:"policies"`
	Sets         map[string]decisionSet    `yaml:"sets"`
	Grants       []decisionGrant           `yaml:"grants"`
	People       map[string]decisionPerson `yaml:"people"` // by username
	Entitlements []decisionEntitlement     `yaml:"entitlements"`
	Default      string                    `yaml:"default"`
	Cases        []decisionCase            `yaml:"cases"`
}

type decisionGrant struct {
	To      string           `yaml:"to"` // "key", or type and id
	Entries map[string][]any `yaml:"entries"`
	State   string           `yaml:"state"` // live where empty; scheduled, ended or revoked
	Reason  string           `yaml:"reason"`
}

type decisionPerson struct {
	Email  string   `yaml:"email"`
	Groups []string `yaml:"groups"`
	Leaves bool     `yaml:"leaves"` // once grants have been given
}

type decisionEntitlement struct {
	Name    string           `yaml:"name"`
	Entries map[string][]any `yaml:"entries"`
	Groups  []string         `yaml:"groups"` // that give it
}

type decisionSet struct {
	EntityType string   `yaml:"entity_type" json:"entity_type"`
	Values     []string `yaml:"values" json:"values"`
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
	answers := 0
	for _, given := range []bool{c.Allow != nil, c.Deny != "", c.Permit != nil} {
		if given {
			answers++
		}
	}
	if !ok || len(parts) != 3 || answers != 1 {
		t.Fatalf("want ask: action type id, and one of allow, deny and permit: %+v", c)
	}
	return fmt.Sprint(parts[0]), fmt.Sprint(parts[1]), fmt.Sprint(parts[2])
}

// world is the server that a group of cases is asked of.
type world struct {
	*api
	asker          string
	keys           map[string]key
	grants         []string          // ids
	people, groups map[string]string // ids, by username and name
	entitlements   []string          // ids
	application    string            // that they are of
}

func newWorld(t *testing.T, g *decisionGroup) *world {
	return newWorldOn(t, start(t), g)
}

// newWorldOn asks a server that has asked another group before.
func newWorldOn(t *testing.T, a *api, g *decisionGroup) *world {
	t.Helper()
	here := []string{"X-Customer-ID", authz.DefaultCustomer}
	make := func(scopes string, more ...string) key { return a.createFor(authz.DefaultCustomer, scopes, more...) }
	if len(g.Scopes) == 0 { // a key without any is refused
		g.Scopes = map[string]any{"nothing": []any{map[string]any{"f": "asked", "p": 2}}}
	}
	customerScopes, err := json.Marshal(g.Scopes)
	if err != nil {
		t.Fatal(err)
	}
	for name, set := range g.Sets {
		a.do("POST", "/v1/sets", a.root, mustJSON(t, map[string]any{"name": name, "entity_type": set.EntityType, "values": set.Values}), here...).is(201)
	}
	for name, policy := range g.Policies {
		document := map[string]any{"language": "rego", "rego": policy}
		if rules, ok := policy.(map[string]any); ok {
			document = map[string]any{"language": "cel", "rules": rules["rules"], "default": rules["default"]}
		}
		a.do("PUT", "/v1/policies/"+name, a.root, mustJSON(t, document), here...).is(201)
	}
	if g.Default != "" {
		a.do("PATCH", "/v1/customers/default", a.root, mustJSON(t, map[string]any{"default_policy": g.Default})).is(200)
	}
	soon := `"expires_at":"` + a.clock.in(time.Second) + `"`
	w := &world{api: a, asker: make(`{"decision":true,"search":true}`).secret, keys: map[string]key{
		"": make(string(customerScopes)), "other": make(string(customerScopes)), "expired": make(string(customerScopes), soon),
		"revoked": make(string(customerScopes)), "sidecar": make(strings.TrimSuffix(string(customerScopes), "}") + `,"sidecar":true}`),
		"unknown": {id: "9017501f-9fa4-4a88-b657-5bd49c1bb722"}, "root": {handle: a.root[:len("lkr1_")+12], secret: a.root},
	}}
	a.do("DELETE", "/v1/access_keys/"+w.keys["revoked"].id, a.root, "", here...).is(204)
	if a.table.Customer("elsewhere") == nil {
		a.customer("elsewhere")
	}
	w.keys["foreign"] = a.createFor("elsewhere", string(customerScopes))
	w.hire(t, g)
	for i := range g.Grants {
		w.give(t, &g.Grants[i])
	}
	for name, p := range g.People {
		if p.Leaves {
			a.do("DELETE", "/v1/users/"+w.people[name], a.root, "", here...).is(204)
		}
	}
	a.clock.advance(time.Second)
	return w
}

// hire makes the people of a group, the groups that they are in, and what those
// give.
func (w *world) hire(t *testing.T, g *decisionGroup) {
	t.Helper()
	here := []string{"X-Customer-ID", authz.DefaultCustomer}
	make := func(path string, body map[string]any) string {
		return w.do("POST", path, w.root, mustJSON(t, body), here...).is(201).text("id")
	}
	w.people, w.groups = map[string]string{}, map[string]string{}
	members, gives := map[string][]string{}, map[string][]string{}
	for name, p := range g.People {
		body := map[string]any{"username": name}
		if p.Email != "" {
			body["email"] = p.Email
		}
		r := w.do("POST", "/v1/users", w.root, mustJSON(t, body), here...).is(201)
		w.keep(r.text("claim.code"))
		if key := r.text("access_key.key"); key != "" {
			w.keep(key)
		}
		w.people[name] = r.text("id")
		for _, group := range p.Groups {
			members[group] = append(members[group], w.people[name])
		}
	}
	if len(g.Entitlements) == 0 {
		return
	}
	w.application = make("/v1/applications", map[string]any{"name": "of " + g.Group})
	for _, e := range g.Entitlements {
		id := make("/v1/entitlements", map[string]any{"app_id": w.application, "name": e.Name, "entries": e.Entries})
		w.entitlements = append(w.entitlements, id)
		for _, group := range e.Groups {
			gives[group] = append(gives[group], id)
		}
	}
	for group, ids := range gives {
		w.groups[group] = make("/v1/groups", map[string]any{"name": group, "member_ids": members[group], "entitlement_ids": ids})
	}
}

// filled puts the ids of people in the place of {username}.
func (w *world) filled(text string) string {
	for name, id := range w.people {
		text = strings.ReplaceAll(text, "{"+name+"}", id)
	}
	return text
}

// give makes a grant of the group.
func (w *world) give(t *testing.T, g *decisionGrant) {
	t.Helper()
	typ, id, ok := strings.Cut(w.filled(g.To), " ")
	if !ok {
		typ, id = "access_key", w.keys[""].id
	}
	body := map[string]any{"subject": map[string]any{"type": typ, "id": id}, "entries": g.Entries, "reason": "a case", "expires_at": w.clock.in(24 * time.Hour)}
	if g.Reason != "" {
		body["reason"] = g.Reason
	}
	switch g.State {
	case "", "revoked":
	case "scheduled":
		body["not_before"] = w.clock.in(12 * time.Hour)
	case "ended":
		body["expires_at"] = w.clock.in(time.Second)
	default:
		t.Fatalf("a grant in no such state: %q", g.State)
	}
	here := []string{"X-Customer-ID", authz.DefaultCustomer}
	made := w.do("POST", "/v1/grants", w.root, mustJSON(t, body), here...).is(201).text("id")
	if w.grants = append(w.grants, made); g.State == "revoked" {
		w.do("DELETE", "/v1/grants/"+made, w.root, "", here...).is(204)
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (w *world) subject(t *testing.T, c *decisionCase) map[string]any {
	t.Helper()
	if typ, id, ok := strings.Cut(w.filled(c.Subject), " "); ok {
		subject := map[string]any{"type": typ, "id": id}
		if c.About != nil {
			subject["properties"] = json.RawMessage(w.filled(mustJSON(t, c.About)))
		}
		return subject
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
func (w *world) wanted(g *decisionGroup, c *decisionCase, action, typ string) map[string]any {
	entries, _ := g.Scopes[typ].([]any)
	var reasons []any
	for _, i := range c.Allow {
		entry := entries[i].(map[string]any)
		reasons = append(reasons, map[string]any{"code": "scope_permits", "source": "access_key", "id": w.keys[c.Key].id,
			"entry": float64(i), "selector": fmt.Sprint(entry["f"]), "permission": action})
	}
	granted := slices.Clone(c.Granted)
	slices.SortStableFunc(granted, func(a, b [2]int) int { return strings.Compare(w.grants[a[0]], w.grants[b[0]]) }) // by id
	for _, at := range granted {
		entry := g.Grants[at[0]].Entries[typ][at[1]].(map[string]any)
		reasons = append(reasons, map[string]any{"code": "grant_permits", "source": "grant", "id": w.grants[at[0]],
			"entry": float64(at[1]), "selector": fmt.Sprint(entry["f"]), "permission": action})
	}
	entitled := slices.Clone(c.Entitled)
	slices.SortStableFunc(entitled, func(a, b [2]int) int { return strings.Compare(w.entitlements[a[0]], w.entitlements[b[0]]) })
	for _, at := range entitled {
		e := &g.Entitlements[at[0]]
		entry := e.Entries[typ][at[1]].(map[string]any)
		reasons = append(reasons, map[string]any{"code": "grant_permits", "source": "entitlement", "id": w.entitlements[at[0]], "group": w.through(g, e, c),
			"entry": float64(at[1]), "selector": fmt.Sprint(entry["f"]), "permission": action})
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

// through is the first group, by id, that gives the case's subject an entitlement.
func (w *world) through(g *decisionGroup, e *decisionEntitlement, c *decisionCase) string {
	_, who, _ := strings.Cut(w.filled(c.Subject), " ")
	first := ""
	for name, p := range g.People {
		email, _ := c.About["email"].(string)
		if who != name && who != w.people[name] && (p.Email == "" || !strings.EqualFold(email, p.Email)) {
			continue
		}
		for _, group := range p.Groups {
			if id := w.groups[group]; slices.Contains(e.Groups, group) && (first == "" || id < first) {
				first = id
			}
		}
	}
	return first
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

// decisionGroups reads all cases.
func decisionGroups(t *testing.T) (all []decisionGroup) {
	t.Helper()
	files, err := filepath.Glob("../testdata/decisions/*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("cases: %v, %v", files, err)
	}
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
		all = append(all, groups...)
	}
	return all
}

func TestDecision_AnswersEveryCaseAsWritten(t *testing.T) {
	oneByOne(t)
	t.Parallel()
	asked := 0
	for _, g := range decisionGroups(t) {
		asked += len(g.Cases)
		t.Run(g.Group, func(t *testing.T) { w := newWorld(t, &g); w.answer(t, &g) })
	}
	if asked < 250 {
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
		question := map[string]any{"subject": w.subject(t, c), "action": map[string]any{"name": action}, "resource": resource}
		if c.Context != nil {
			question["context"] = c.Context
		}
		if g.Policies != nil {
			w.answerByPolicy(t, g, c, question)
			continue
		}
		body := []byte(mustJSON(t, question))
		want := w.wanted(g, c, action, typ)
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
	if len(batch) == 0 {
		return
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

// answerByPolicy holds the answer's decision, action, rule and last reason to
// the case.
func (w *world) answerByPolicy(t *testing.T, g *decisionGroup, c *decisionCase, question map[string]any) {
	t.Helper()
	paths := []string{"/decision", "/decision/explain"}
	if c.Policy == "" {
		paths = append(paths, "/access/v1/evaluation", "/decision/"+g.Default)
	} else {
		question["policy"] = c.Policy
		paths = append(paths, "/decision/"+c.Policy)
	}
	for _, path := range paths {
		r := w.do("POST", path, w.asker, mustJSON(t, question)).is(200)
		permit, reasons := c.Permit != nil && *c.Permit, r.get("context.reasons").Array()
		if r.get("decision").Bool() != permit || len(reasons) == 0 {
			t.Errorf("%s %v %s: %s", path, c.Ask, mustJSON(t, question), r.body)
			continue
		}
		code, want := reasons[len(reasons)-1].Get("code").String(), c.Deny
		if want == "" && code != "policy_default" {
			want = "policy_rule"
		}
		if want != "" && code != want || c.Rule != "" && r.text("context.policy.rule") != c.Rule || c.Action != "" && r.text("context.action") != c.Action {
			t.Errorf("%s %v %s: %s", path, c.Ask, mustJSON(t, question), r.body)
		}
	}
}
