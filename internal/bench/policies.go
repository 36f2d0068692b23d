package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/authz"

	"github.com/latchkey-dev/latchkey/internal/page"
)

//go:embed documents.rego
var documentsRego string

// Goals of decisions by policy.
const (
	wantCELOfConstant = 0.60
	wantRepeating     = 5.0
	wantDistinct      = 2.0
	wantPublishing    = 3.0
	wantBeside        = 3.0
)

const (
	distinctInputs = 10_000  // of traffic that repeats itself
	drawn          = 60_000  // requests drawn from them
	endlessInputs  = 200_000 // so many that none comes back soon
	otherPolicies  = 199
)

// document is a question about a document, with the right answer by
// documents.rego.
type document struct {
	Subject, Action, Resource map[string]any
	allow                     bool
}

// documentQuestion makes the nth of ever different questions.
func documentQuestion(n int) document {
	r := rand.New(rand.NewPCG(5539, uint64(n)))
	teams, roles := []string{"red", "blue", "green", "black"}, []string{"viewer", "commenter", "editor", "lead"}
	actions := []string{"read", "comment", "update", "share", "delete"}
	rights := map[string]int{"viewer": 1, "commenter": 2, "editor": 3, "lead": 5}
	user, team, role := fmt.Sprintf("user-%06d", n), teams[r.IntN(4)], roles[r.IntN(4)]
	at, owner := teams[r.IntN(4)], fmt.Sprintf("user-%06d", r.IntN(1000)+1_000_000)
	if r.IntN(4) == 0 {
		at = team
	}
	if r.IntN(8) == 0 {
		owner = user
	}
	class, hold, action := []string{"internal", "public", "secret"}[r.IntN(3)], r.IntN(10) == 0, r.IntN(5)
	d := document{
		Subject: map[string]any{"type": "user", "id": user, "properties": map[string]any{"team": team, "roles": []string{role}}},
		Action:  map[string]any{"name": actions[action]},
		Resource: map[string]any{"type": "document", "id": fmt.Sprintf("doc-%06d", r.IntN(1_000_000)),
			"properties": map[string]any{"team": at, "owner": owner, "classification": class, "hold": hold}},
	}
	sealed := action != 0 && hold
	d.allow = !sealed && (team == at && action < rights[role] || owner == user) || action == 0 && class == "public"
	return d
}

func (d document) body() string {
	text, err := json.Marshal(map[string]any{"subject": d.Subject, "action": d.Action, "resource": d.Resource})
	if err != nil {
		panic(err) // it holds nothing that JSON cannot say
	}
	return string(text)
}

// rules is a CEL policy of 20 rules, of which the tenth matches what is asked.
func rules() string {
	var list []string
	for i := 1; i <= 20; i++ {
		list = append(list, fmt.Sprintf(`{"label":"team-%d","match":%q,"action":"allow"}`, i,
			fmt.Sprintf(`subject.type == "user" && action.name == "read" && resource.type == "document" && subject.properties.team == "team-%d"`, i)))
	}
	return `{"language":"cel","rules":[` + strings.Join(list, ",") + `],"default":{"action":"deny"}}`
}

func ruleQuestion(n int) string {
	return fmt.Sprintf(`{"subject":{"type":"user","id":"user-%06d","properties":{"team":"team-10"}},"action":{"name":"read"},"resource":{"type":"document","id":"doc-%06d"}}`, n, n)
}

func regoPolicy(name, text string) string {
	body, err := json.Marshal(map[string]string{"language": "rego", "rego": strings.Replace(text, "package policies.documents", `package policies["`+name+`"]`, 1)})
	if err != nil {
		panic(err)
	}
	return string(body)
}

// comparePolicies measures decisions by CEL and Rego policies beside the
// constant handler and OPA with the same Rego, and what publishing costs those
// who ask meanwhile.
func comparePolicies(ctx context.Context, s settings, dir string) (_ *page.Page, err error) {
	if err := tools("wrk", "taskset"); err != nil {
		return nil, err
	}
	results := &policyResults{}
	if s.pprof == "" {
		if results.lines, err = goBenchmarks(ctx, "policies"); err != nil {
			return nil, err
		}
	}
	var running []*process
	defer func() {
		for _, p := range running {
			err = errors.Join(err, p.stop())
		}
	}()
	l, err := startLatchkey(ctx, s, start, "latchkey", filepath.Join(dir, "data"), authz.NewRootToken().Reveal())
	if err != nil {
		return nil, err
	}
	running = append(running, l.process)
	caller, err := callerWithPolicies(ctx, l)
	if err != nil {
		return nil, err
	}
	cel, rego := *l.process, *l.process
	cel.url, rego.url = l.base+"/decision/rules", l.base+"/decision/documents"
	reply, err := post(ctx, cel.url, caller, "", ruleQuestion(0))
	if err != nil {
		return nil, err
	}
	if rule := gjson.GetBytes(reply, "context.policy.rule").String(); rule != "team-10" {
		return nil, fmt.Errorf("the CEL policy answers %s, want the tenth rule", reply)
	}
	c, err := startConstant(ctx, dir, fmt.Appendf(nil, `{"decision":true,"context":{"padding":%q}}`, strings.Repeat("x", len(reply)-42)))
	if err != nil {
		return nil, err
	}
	running = append(running, c)
	o, err := startOPAWith(ctx, s, dir, documentsRego)
	if err != nil {
		return nil, err
	}
	running = append(running, o)
	o = o.at("OPA", "policies/documents/allow")
	if err := holdDocuments(ctx, &rego, o, caller); err != nil {
		return nil, err
	}
	files, err := writeDocuments(dir)
	if err != nil {
		return nil, err
	}
	headers := []string{"Authorization: Bearer " + caller, "Content-Type: application/json"}
	with := func(server *process, file, order string) *load {
		return &load{server: server, script: files["script"], headers: headers, args: []string{files[file], order}}
	}
	if s.pprof != "" {
		return nil, profile(ctx, s, l, with(&rego, "endless bodies", "in-order"))
	}
	results.answer = len(reply)
	progress("a CEL policy of 20 rules")
	if results.cel, err = inTurns(ctx, s, with(c, "rules", "random"), with(&cel, "rules", "random")); err != nil {
		return nil, err
	}
	progress("a Rego policy, inputs that repeat")
	if results.repeating, err = inTurns(ctx, s, with(&rego, "repeating bodies", "random"), with(o, "repeating inputs", "random")); err != nil {
		return nil, err
	}
	progress("a Rego policy, inputs that never repeat")
	if results.distinct, err = inTurns(ctx, s, with(&rego, "endless bodies", "in-order"), with(o, "endless inputs", "in-order")); err != nil {
		return nil, err
	}
	for _, p := range running {
		if err := p.stop(); err != nil {
			return nil, err
		}
	}
	running = nil
	if results.publishing, err = publishing(ctx, s, dir, files["script"], files["rules"]); err != nil {
		return nil, err
	}
	progress("bundles of 2 MiB")
	if results.activation, err = activation(ctx, s, dir, files["script"], files["rules"]); err != nil {
		return nil, err
	}
	progress("a heavy policy beside a light one")
	if results.beside, err = besideHeavy(ctx, s, dir, files["script"], files["rules"]); err != nil {
		return nil, err
	}
	return results.page(), nil
}

// callerWithPolicies makes the two policies, and a key to ask them with.
func callerWithPolicies(ctx context.Context, l *pdp) (string, error) {
	for name, policy := range map[string]string{"rules": rules(), "documents": regoPolicy("documents", documentsRego)} {
		if _, err := send(ctx, http.MethodPut, l.base+"/v1/policies/"+name, l.root, customer, policy); err != nil {
			return "", err
		}
	}
	reply, err := post(ctx, l.base+"/v1/access_keys", l.root, customer, newKey(`{"customer":{"decision":true}}`, "bench", "caller"))
	return gjson.GetBytes(reply, "key").String(), err
}

// holdDocuments holds both servers' answers to the right ones.
func holdDocuments(ctx context.Context, l, o *process, caller string) error {
	for n := range 500 {
		d := documentQuestion(n)
		mine, err := post(ctx, l.url, caller, "", d.body())
		if err != nil {
			return err
		}
		theirs, err := post(ctx, o.url, caller, "", `{"input":`+d.body()+`}`)
		if err != nil {
			return err
		}
		if a, b := gjson.GetBytes(mine, "decision"), gjson.GetBytes(theirs, "result"); a.Bool() != d.allow || b.Bool() != d.allow || !a.IsBool() || !b.IsBool() {
			return fmt.Errorf("%s: latchkey answers %s, OPA %s, want %t", d.body(), mine, theirs, d.allow)
		}
	}
	return nil
}

// writeDocuments writes what is asked into files and returns their paths.
func writeDocuments(dir string) (map[string]string, error) {
	texts := map[string]*strings.Builder{}
	add := func(file, line string) {
		if texts[file] == nil {
			texts[file] = &strings.Builder{}
		}
		texts[file].WriteString(line + "\n")
	}
	for n := range distinctInputs {
		add("rules", ruleQuestion(n))
	}
	zipf := rand.NewZipf(rand.New(rand.NewPCG(5539, 0)), 1.1, 1, distinctInputs-1)
	for range drawn {
		body := documentQuestion(int(zipf.Uint64())).body()
		add("repeating bodies", body)
		add("repeating inputs", `{"input":`+body+`}`)
	}
	for n := range endlessInputs {
		body := documentQuestion(n).body()
		add("endless bodies", body)
		add("endless inputs", `{"input":`+body+`}`)
	}
	paths, files := map[string]string{"script": filepath.Join(dir, "questions.lua")}, map[string][]byte{}
	files[paths["script"]] = questionsLua
	for name, text := range texts {
		paths[name] = filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		files[paths[name]] = []byte(text.String())
	}
	return paths, writeFiles(files)
}
