package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/servers"
)

// must makes a request that has to succeed.
func (p *process) must(t *testing.T, key, method, path string, body any) gjson.Result {
	t.Helper()
	status, reply, err := p.send(t.Context(), key, method, path, body)
	if err != nil || status >= 300 {
		t.Fatalf("%s %s: %d %s %v", method, path, status, reply.Raw, err)
	}
	return reply
}

// eventually asks until it is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	retry := time.NewTicker(2 * time.Millisecond)
	defer retry.Stop()
	for !so() {
		select {
		case <-deadline.C:
			t.Fatalf("not within a minute: %s", what)
		case <-retry.C:
		}
	}
}

type object = map[string]any

// ask asks for a decision about a document, and returns it with its reasons.
func (p *process) ask(t *testing.T, key, subjectType, subject string) (bool, string) {
	t.Helper()
	status, reply, err := p.send(t.Context(), key, http.MethodPost, "/decision", object{"subject": object{"type": subjectType, "id": subject},
		"action": object{"name": "read"}, "resource": object{"type": "document", "id": "7"}})
	if err != nil || status != http.StatusOK {
		return false, fmt.Sprint(status, reply.Get("code"), err)
	}
	var reasons []string
	for _, r := range reply.Get("context.reasons.#.code").Array() {
		reasons = append(reasons, r.String())
	}
	return reply.Get("decision").Bool(), strings.Join(reasons, ",")
}

func reader(name string) object {
	return object{"scopes": object{"customer": object{"decision": true, "document": []any{object{"f": "*", "p": 2}}}},
		"metadata": object{"username": "dale.cooper", "keyname": name}}
}

// What one server has answered another one holds to, whatever it was that changed.
func TestFollow_WhatOneServerChangesTheOtherDecidesBy(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 2, servers.Postgres(t), "--max-active-keys", "1000")
	a, b, root := f.nodes[0], f.nodes[1], f.root
	decides := func(what string, key, subjectType, subject string, permit bool, reason string) {
		t.Helper()
		eventually(t, what, func() bool {
			got, why := b.ask(t, key, subjectType, subject)
			return got == permit && strings.Contains(why, reason)
		})
	}
	made := a.must(t, root, http.MethodPost, "/v1/access_keys", reader("one"))
	id, secret := made.Get("id").String(), made.Get("key").String()
	decides("a key", secret, "access_key", id, true, "scope_permits")

	rotated := a.must(t, root, http.MethodPost, "/v1/access_keys/"+id+"/rotate", object{"grace": "0s"}).Get("key").String()
	decides("a rotated key's new secret", rotated, "access_key", id, true, "scope_permits")
	decides("the end of its old one", secret, "access_key", id, false, "401")

	a.must(t, root, http.MethodPost, "/v1/sets", object{"name": "banned", "entity_type": "string", "values": []string{"nobody"}})
	a.must(t, root, http.MethodPut, "/v1/policies/main", object{"language": "cel", "rules": []any{
		object{"match": `in_set("banned", subject.id)`, "action": "deny", "label": "banned"},
		object{"match": `subject.type == "user" && has(subject.properties.clearance) && subject.properties.clearance == "high"`, "action": "allow", "label": "cleared"},
		object{"match": `scope_permits`, "action": "allow", "label": "scopes"},
	}, "default": object{"action": "deny"}})
	a.must(t, root, http.MethodPatch, "/v1/customers/default", object{"default_policy": "main"})
	decides("a policy that is the default", rotated, "access_key", id, true, "policy_rule")
	a.must(t, root, http.MethodPatch, "/v1/sets/banned", object{"add": []string{id}})
	decides("a set's new value", rotated, "access_key", id, false, "policy_rule")
	a.must(t, root, http.MethodPatch, "/v1/sets/banned", object{"remove": []string{id}})
	decides("a set's value that is gone", rotated, "access_key", id, true, "policy_rule")
	decides("no property yet", rotated, "user", "alice", false, "policy")
	a.must(t, root, http.MethodPost, "/v1/subjects:bulkUpdate", object{"subjects": []any{object{"type": "user", "id": "alice", "properties": object{"clearance": "high"}}}})
	decides("a property", rotated, "user", "alice", true, "policy_rule")
	var many []any
	for i := range 300 { // more than the feed lists one by one
		many = append(many, object{"type": "user", "id": fmt.Sprint("user", i), "properties": object{"clearance": "high"}})
	}
	a.must(t, root, http.MethodPost, "/v1/subjects:bulkUpdate", object{"subjects": many})
	decides("many properties", rotated, "user", "user299", true, "policy_rule")
	a.must(t, root, http.MethodDelete, "/v1/subjects/user/alice", nil)
	decides("a property that is gone", rotated, "user", "alice", false, "policy")
	a.must(t, root, http.MethodPatch, "/v1/customers/default", object{"default_policy": nil})
	decides("the built-in policy again", rotated, "access_key", id, true, "scope_permits")
	a.must(t, root, http.MethodDelete, "/v1/policies/main", nil)
	eventually(t, "no policy", func() bool {
		status, _, err := b.send(t.Context(), rotated, http.MethodPost, "/decision/main", object{"subject": object{"type": "access_key", "id": id},
			"action": object{"name": "read"}, "resource": object{"type": "document", "id": "7"}})
		return err == nil && status == http.StatusNotFound
	})

	decides("no grant", rotated, "user", "bob", false, "no_grant")
	grant := a.must(t, root, http.MethodPost, "/v1/grants", object{"subject": object{"type": "user", "id": "bob"}, "reason": "r",
		"entries": object{"document": []any{object{"f": "*", "p": 2}}}, "expires_at": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)}).Get("id").String()
	decides("a grant", rotated, "user", "bob", true, "grant_permits")
	a.must(t, root, http.MethodDelete, "/v1/grants/"+grant, nil)
	decides("a grant's end", rotated, "user", "bob", false, "no_grant")

	a.must(t, root, http.MethodDelete, "/v1/access_keys/"+id, nil)
	decides("a revocation", rotated, "access_key", id, false, "401")

	a.must(t, root, http.MethodPost, "/v1/customers", object{"id": "acme", "name": "Acme"})
	in := func(p *process, key, method, path string, body any) (int, gjson.Result) {
		status, reply, err := p.sendAs(context.Background(), key, "acme", method, path, body)
		if err != nil {
			t.Fatal(err)
		}
		return status, reply
	}
	var theirs string
	eventually(t, "a new customer", func() bool {
		status, reply := in(b, root, http.MethodPost, "/v1/access_keys", reader("theirs")) // at the other one
		theirs = reply.Get("key").String()
		return status == http.StatusCreated
	})
	eventually(t, "a new customer's key", func() bool {
		status, _ := in(a, theirs, http.MethodGet, "/v1/access_keys/self", nil)
		return status == http.StatusOK
	})
	a.must(t, root, http.MethodDelete, "/v1/customers/acme", nil)
	eventually(t, "the end of a customer", func() bool {
		status, _ := in(b, theirs, http.MethodGet, "/v1/access_keys/self", nil)
		return status == http.StatusUnauthorized
	})

	next := a.must(t, root, http.MethodPost, "/v1/root/rotate", nil).Get("key").String()
	eventually(t, "another root key", func() bool {
		status, _, err := b.send(t.Context(), next, http.MethodGet, "/v1/customers", nil)
		return err == nil && status == http.StatusOK
	})
	if status, _, err := b.send(t.Context(), root, http.MethodGet, "/v1/customers", nil); err != nil || status != http.StatusUnauthorized {
		t.Errorf("the root key before it: %d %v", status, err)
	}
	if t.Failed() {
		t.Log(a.err, b.err)
	}
}

// How soon a revocation that one server has answered is in force at the other.
func TestFollow_RevocationsArriveSoon(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 2, servers.Postgres(t), "--max-active-keys", "1000")
	a, b, root := f.nodes[0], f.nodes[1], f.root
	const n = 100
	lags := make([]time.Duration, n)
	for i := range n {
		made := a.must(t, root, http.MethodPost, "/v1/access_keys", reader(fmt.Sprint("k", i)))
		id, key := made.Get("id").String(), made.Get("key").String()
		eventually(t, "a key", func() bool { permit, _ := b.ask(t, key, "access_key", id); return permit })
		a.must(t, root, http.MethodDelete, "/v1/access_keys/"+id, nil)
		answered := time.Now()
		if permit, _ := a.ask(t, key, "access_key", id); permit {
			t.Fatal("allowed where it was revoked")
		}
		eventually(t, "a revocation", func() bool { permit, _ := b.ask(t, key, "access_key", id); return !permit })
		lags[i] = time.Since(answered)
	}
	slices.Sort(lags)
	t.Logf("median %s, p99 %s, most %s", lags[n/2], lags[n*99/100-1], lags[n-1])
	if lags[n/2] > 500*time.Millisecond { // without hints it would be half a second, by the sweep
		t.Errorf("half of the revocations take %s or more: no hints", lags[n/2])
	}
}

// While the database is down decisions go on for --max-staleness, and are denied
// then, until it is back; nobody restarts anything.
func TestFollow_WithoutTheDatabaseDecisionsEndAsPromised(t *testing.T) {
	t.Parallel()
	pg := servers.StartPostgres(t)
	f := startFleet(t, 1, pg.Database(t), "--max-staleness", "6s")
	a, root := f.nodes[0], f.root
	made := a.must(t, root, http.MethodPost, "/v1/access_keys", reader("one"))
	id, key := made.Get("id").String(), made.Get("key").String()
	if permit, why := a.ask(t, key, "access_key", id); !permit {
		t.Fatal(why)
	}
	pg.Stop(t)
	stopped := time.Now()
	if permit, why := a.ask(t, key, "access_key", id); !permit {
		t.Errorf("denied as soon as the database is down: %s", why)
	}
	if status, reply, err := a.send(t.Context(), "", http.MethodGet, "/health/ready", nil); err != nil || status != http.StatusOK {
		t.Errorf("out of service as soon as the database is down: %d %s %v", status, reply.Raw, err)
	}
	var ended time.Duration
	eventually(t, "stale", func() bool {
		permit, why := a.ask(t, key, "access_key", id)
		ended = time.Since(stopped)
		return !permit && why == "stale"
	})
	if ended > 12*time.Second { // on a busy machine
		t.Errorf("allowed for %s without the database", ended)
	}
	// What is known of one customer may be too old a little before all of it is.
	eventually(t, "not ready", func() bool {
		status, reply, err := a.send(t.Context(), "", http.MethodGet, "/health/ready", nil)
		return err == nil && status == http.StatusServiceUnavailable && reply.Get("code").String() == "stale"
	})
	for _, call := range [][2]string{{http.MethodGet, "/v1/access_keys"}, {http.MethodPost, "/v1/access_keys/verify"}} {
		if status, reply, err := a.send(t.Context(), key, call[0], call[1], nil); err != nil || status != http.StatusServiceUnavailable || reply.Get("code").String() != "stale" {
			t.Errorf("%v: %d %s %v", call, status, reply.Raw, err)
		}
	}
	pg.Start(t)
	eventually(t, "back", func() bool { permit, _ := a.ask(t, key, "access_key", id); return permit })
	a.must(t, root, http.MethodDelete, "/v1/access_keys/"+id, nil)
	if err := a.end(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

// The operator's choice to go on has an end too, and is told with each answer.
func TestFollow_ServedStaleIsSaidAndBounded(t *testing.T) {
	t.Parallel()
	pg := servers.StartPostgres(t)
	f := startFleet(t, 1, pg.Database(t), "--max-staleness", "3s", "--when-stale", "serve", "--serve-stale-for", "6s")
	a, root := f.nodes[0], f.root
	made := a.must(t, root, http.MethodPost, "/v1/access_keys", reader("one"))
	id, key := made.Get("id").String(), made.Get("key").String()
	pg.Stop(t)
	eventually(t, "served stale", func() bool {
		permit, why := a.ask(t, key, "access_key", id)
		return permit && why == "scope_permits,stale"
	})
	if status, reply, err := a.send(t.Context(), key, http.MethodPost, "/v1/access_keys/verify", object{"key": key}); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("what cannot say that it is stale: %d %s %v", status, reply.Raw, err)
	}
	eventually(t, "denied", func() bool {
		permit, why := a.ask(t, key, "access_key", id)
		return !permit && why == "stale"
	})
}

// A machine whose clock is wrong says so, before and while it denies.
func TestFollow_AWrongClockIsToldOfAndNotReady(t *testing.T) {
	t.Parallel()
	cmd := ServeCmd{Storage: Storage{Data: t.TempDir(), Database: servers.Postgres(t)}, MaxActiveKeys: 10, MaxDirectory: 1, GrantCache: 1, Front: Front{DecisionLog: DecisionLog{Target: "off"}},
		Staleness: Staleness{MaxStaleness: 30 * time.Second, MaxClockSkew: 5 * time.Second}, OnCall: OnCall{Duration: "6"}}
	n, err := openNode(t.Context(), &cmd, nodeConfig{id: "n", baseURL: "http://localhost", log: newLog(io.Discard, "error"),
		now: func() time.Time { return time.Now().Add(-10 * time.Minute) }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.close(); err != nil {
			t.Error(err)
		}
	}()
	if rd := n.ready(latchkey.InstantOf(n.now())); rd.Code != authz.NotReady {
		t.Errorf("before it is loaded: %+v", rd)
	}
	if err := n.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.waitFor("")
	if rd := n.ready(latchkey.InstantOf(n.now())); rd.Code != authz.Stale || rd.Decides || !strings.Contains(rd.Detail, "10m0") {
		t.Errorf("%+v", rd)
	}
	families, err := n.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]float64{}
	for _, f := range families {
		if g := f.GetMetric()[0].GetGauge(); g != nil {
			told[f.GetName()] = g.GetValue()
		}
	}
	if offset := told["latchkey_clock_offset_seconds"]; offset < 599 || offset > 601 {
		t.Errorf("the clock is said to be off by %v s", offset)
	}
	if left, ok := told["latchkey_lease_remaining_seconds"]; !ok || left != 0 {
		t.Errorf("%v s are left of the lease", left)
	}
}

func TestStaleness_IsBounded(t *testing.T) {
	fine := Staleness{MaxStaleness: 30 * time.Second, MaxClockSkew: 5 * time.Second, WhenStale: "deny"}
	for name, change := range map[string]func(*Staleness){
		"shorter than a look at the database": func(s *Staleness) { s.MaxStaleness = 2 * time.Second },
		"longer than an hour":                 func(s *Staleness) { s.MaxStaleness = 2 * time.Hour },
		"no skew at all":                      func(s *Staleness) { s.MaxClockSkew = 0 },
		"served without an end":               func(s *Staleness) { s.WhenStale = "serve" },
		"served for too long":                 func(s *Staleness) { s.WhenStale, s.ServeStaleFor = "serve", 25*time.Hour },
		"served for a time, and yet denied":   func(s *Staleness) { s.ServeStaleFor = time.Minute },
	} {
		s := fine
		change(&s)
		if s.validate(true) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := fine.validate(true); err != nil {
		t.Error(err)
	}
	alone := fine
	alone.MaxStaleness = 0 // of answers alone
	if err := alone.validate(false); err != nil {
		t.Error(err)
	}
}
