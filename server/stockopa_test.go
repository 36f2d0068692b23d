package server_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/policies/bundle"
)

// bundleKey signs the bundles of all servers under test.
var bundleKey = sync.OnceValues(func() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })

func bundleSigner(t testing.TB) *bundle.Signer {
	t.Helper()
	key, err := bundleKey()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := bundle.NewSigner(key, "", "")
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// stockOPA finds the opa program.
func stockOPA(t *testing.T) string {
	t.Helper()
	candidates := []string{"opa"}
	for _, dir := range []string{os.Getenv("GOBIN"), filepath.Join(os.Getenv("GOPATH"), "bin"), filepath.Join(os.Getenv("HOME"), "go", "bin")} {
		candidates = append(candidates, filepath.Join(dir, "opa"))
	}
	for _, c := range candidates {
		if path, err := exec.LookPath(c); err == nil {
			return path
		}
	}
	t.Skip("needs the opa program: go install github.com/open-policy-agent/opa@v1.22.2")
	return ""
}

// opa is a running `opa run --server` that pulls the default customer's bundle.
type opa struct {
	t      *testing.T
	client *http.Client
	log    buffer
}

func startOPA(t *testing.T, a *api) *opa {
	t.Helper()
	program, dir := stockOPA(t), t.TempDir()
	key, err := bundleSigner(t).Key()
	if err != nil {
		t.Fatal(err)
	}
	puller := a.createFor(authz.DefaultCustomer, `{"bundles":[{"f":"default","p":2}]}`)
	config := mustJSON(t, map[string]any{
		"services": map[string]any{"latchkey": map[string]any{"url": "http://" + a.addr, "credentials": map[string]any{"bearer": map[string]any{"token": puller.secret}}}},
		"keys":     map[string]any{key.ID: map[string]any{"algorithm": key.Algorithm, "key": key.Key}},
		"bundles": map[string]any{"latchkey": map[string]any{
			"service": "latchkey", "resource": "v1/bundles/default.tar.gz?profile=opa", "signing": map[string]any{"keyid": key.ID},
			"polling": map[string]any{"min_delay_seconds": 1, "max_delay_seconds": 2, "long_polling_timeout_seconds": 30},
		}},
	})
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "opa.sock")
	o := &opa{t: t, client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}}
	c := exec.Command(program, "run", "--server", "--addr", "unix://"+socket, "--config-file", path, "--disable-telemetry", "--log-level", "error")
	c.Stdout, c.Stderr = &o.log, &o.log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		o.client.CloseIdleConnections()
		_ = c.Process.Signal(syscall.SIGKILL) // it holds nothing worth keeping
		_ = c.Wait()
	})
	return o
}

// query asks for a document; false says that OPA does not answer yet.
func (o *opa) query(path string, input any) (gjson.Result, bool) {
	o.t.Helper()
	body, err := json.Marshal(map[string]any{"input": input})
	if err != nil {
		o.t.Fatal(err)
	}
	resp, err := o.client.Post("http://opa/v1/data/"+path, "application/json", bytes.NewReader(body))
	if err != nil {
		return gjson.Result{}, false
	}
	defer resp.Body.Close()
	text, err := readAll(resp.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	return gjson.Get(text, "result"), resp.StatusCode == http.StatusOK
}

// reach waits until OPA decides by the bundle of that sequence.
func (o *opa) reach(sequence int64) {
	o.t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if got, ok := o.query("latchkey/bundle/sequence", nil); ok && got.Exists() && got.Int() == sequence {
			return
		}
		select {
		case <-deadline.C:
			o.t.Fatalf("opa does not come to sequence %d:\n%s", sequence, &o.log)
		case <-tick.C:
		}
	}
}

// Stock OPA, which pulls the bundle that the server makes and signs, answers
// every portable case as the server does.
func TestStockOPA_AnswersEveryPortableCaseAsTheServer(t *testing.T) {
	oneByOne(t)
	t.Parallel()
	c := newClock()
	c.micros.Store(time.Now().Add(-time.Hour).UnixMicro()) // OPA goes by the real one
	a := start(t, func(o *options) { o.clock, o.maxActive = c, 10_000 })
	a.customer("elsewhere")
	o := startOPA(t, a)
	cases, portable := 0, 0
	for _, g := range decisionGroups(t) {
		cases += len(g.Cases)
		if !g.Portable {
			continue
		}
		portable += len(g.Cases)
		t.Run(g.Group, func(t *testing.T) {
			o.t = t
			w := newWorldOn(t, a, &g)
			defer w.empty(&g)
			o.reach(a.table.Customer(authz.DefaultCustomer).Policies.Snapshot().Revision)
			for i := range g.Cases {
				w.askBoth(t, o, &g, &g.Cases[i])
			}
		})
	}
	t.Logf("%d of %d cases are portable", portable, cases)
	if cases < 200 || 10*portable < 9*cases {
		t.Errorf("%d of %d cases are portable; want nine in ten of 200 at least", portable, cases)
	}
}

// empty takes out what a group has put in.
func (w *world) empty(g *decisionGroup) {
	here := []string{"X-Customer-ID", authz.DefaultCustomer}
	if g.Default != "" {
		w.do("PATCH", "/v1/customers/default", w.root, `{"default_policy":null}`).is(200)
	}
	for name := range g.Policies {
		w.do("DELETE", "/v1/policies/"+name, w.root, "", here...).is(204)
	}
	for _, id := range w.grants { // those that have ended are 409
		w.do("DELETE", "/v1/grants/"+id, w.root, "", here...)
	}
	for _, id := range w.groups {
		w.do("DELETE", "/v1/groups/"+id, w.root, "", here...).is(204)
	}
	for _, id := range w.entitlements {
		w.do("DELETE", "/v1/entitlements/"+id, w.root, "", here...).is(204)
	}
	for name := range g.Sets {
		w.do("DELETE", "/v1/sets/"+name, w.root, "", here...).is(204)
	}
}

// askBoth puts one case to the server and to OPA, which is given beside it what
// the server looks up.
func (w *world) askBoth(t *testing.T, o *opa, g *decisionGroup, c *decisionCase) {
	t.Helper()
	action, typ, id := c.question(t)
	resource := map[string]any{"type": typ, "id": id}
	if c.With != nil {
		resource["properties"] = c.With
	}
	question := map[string]any{"subject": w.subject(t, c), "action": map[string]any{"name": action}, "resource": resource}
	if c.Context != nil {
		question["context"] = c.Context
	}
	if c.Policy != "" {
		question["policy"] = c.Policy
	}
	ours := w.do("POST", "/decision", w.asker, mustJSON(t, question)).is(200)
	beside := map[string]any{}
	if len(w.grants)+len(w.entitlements) > 0 {
		beside["grants"] = w.held(t, g, c, question["subject"].(map[string]any))
	}
	if k := w.keys[c.Key]; c.Subject == "" && c.Key != "unknown" && c.Key != "foreign" && c.Key != "root" {
		key := w.do("GET", "/v1/access_keys/"+k.id, w.root, "", "X-Customer-ID", authz.DefaultCustomer).is(200)
		state := map[string]any{}
		for _, member := range []string{"scopes", "expires_at", "revoked_at"} {
			state[member] = json.RawMessage(key.get(member).Raw)
		}
		beside["key"] = state
	}
	if len(beside) > 0 {
		question["latchkey"] = beside
	}
	theirs, ok := o.query("latchkey/decision", question)
	if !ok || !theirs.Get("decision").IsBool() {
		// What fails in OPA has no answer, which its clients take for a deny.
		if c.Deny != string(authz.PolicyError) || ours.get("decision").Bool() || ours.text("context.reasons.0.code") != c.Deny {
			t.Errorf("%v %s: ours %s, opa's %q", c.Ask, mustJSON(t, question), ours.body, theirs.Raw)
		}
		return
	}
	if diff := cmp.Diff(comparable(ours.body), comparable(theirs.Raw)); diff != "" {
		t.Errorf("%v %s: ours -, opa's +\n%s", c.Ask, mustJSON(t, question), diff)
	}
}

// held is what the subject holds: its grants, and what the groups of a person give.
// Whom the question is about is told by the case's own people: no code is shared
// with what is tested.
func (w *world) held(t *testing.T, g *decisionGroup, c *decisionCase, subject map[string]any) []json.RawMessage {
	t.Helper()
	person := ""
	if subject["type"] == "user" {
		email, _ := c.About["email"].(string)
		for name, p := range g.People {
			if subject["id"] == name || subject["id"] == w.people[name] || subject["id"] == strings.ToLower(p.Email) {
				person = name
				break
			}
			if p.Email != "" && strings.EqualFold(email, p.Email) {
				person = name
			}
		}
	}
	if person == "" {
		return w.grantsOf(subject)
	}
	if g.People[person].Leaves {
		return nil
	}
	list := w.grantsOf(map[string]any{"type": "user", "id": w.people[person]})
	given := map[string]string{}
	for i, e := range g.Entitlements {
		if slices.ContainsFunc(e.Groups, func(group string) bool { return slices.Contains(g.People[person].Groups, group) }) {
			given[w.entitlements[i]] = mustJSON(t, map[string]any{"id": w.entitlements[i], "entries": e.Entries, "not_before": nil, "expires_at": nil})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(given)) {
		list = append(list, json.RawMessage(given[id]))
	}
	return list
}

// grantsOf are the subject's grants as the API shows them, by id.
func (w *world) grantsOf(subject map[string]any) []json.RawMessage {
	q := url.Values{"status": {"all"}, "subject_type": {fmt.Sprint(subject["type"])}, "subject_id": {fmt.Sprint(subject["id"])}}
	list := w.do("GET", "/v1/grants?"+q.Encode(), w.root, "", "X-Customer-ID", authz.DefaultCustomer).is(200).get("grants").Array()
	slices.SortFunc(list, func(a, b gjson.Result) int { return strings.Compare(a.Get("id").String(), b.Get("id").String()) })
	raw := make([]json.RawMessage, len(list))
	for i, g := range list {
		raw[i] = json.RawMessage(g.Raw)
	}
	return raw
}

// comparable is what both must agree on: OPA cannot know the id behind a handle.
func comparable(answer string) []string {
	list := []string{fmt.Sprint(gjson.Get(answer, "decision")), fmt.Sprint(gjson.Get(answer, "context.action"))}
	for _, r := range gjson.Get(answer, "context.reasons").Array() {
		text := ""
		for _, member := range []string{"code", "entry", "selector", "permission", "indexes", "removed_indexes"} {
			text += member + "=" + r.Get(member).Raw + " "
		}
		list = append(list, text)
	}
	return list
}
