package server_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
)

func TestRevoke_AnswersWithoutBodyUnlessAsked(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true}`)
	r := a.do("DELETE", "/v1/access_keys/"+k.id, a.root, "").is(204)
	if r.body != "" || r.header.Get("Content-Type") != "" {
		t.Errorf("204 with %q of type %q", r.body, r.header.Get("Content-Type"))
	}
	k = a.create(`{"decision":true}`)
	r = a.do("DELETE", "/v1/access_keys/"+k.id, a.root, "", "Prefer", "return=representation").is(200)
	if r.text("id") != k.id || r.text("revoked_at") != a.clock.in(0) || r.get("applied").Exists() || r.header.Get("Preference-Applied") != "return=representation" {
		t.Errorf("%v %s", r.header, r.body)
	}
	k = a.create(`{"decision":true}`)
	r = a.do("DELETE", "/v1/access_keys/"+k.id, a.root, "", "Prefer", "respond-async, wait=2").is(200)
	if r.text("id") != k.id || r.get("applied.#").Int() != 1 || r.text("applied.0.node") != "node-1" || r.get("applied.0.seq").Int() != 6 || r.get("pending").Raw != "[]" {
		t.Errorf("%s", r.body)
	}
	if got := r.header.Get("Preference-Applied"); got != "wait=2" {
		t.Errorf("Preference-Applied = %q", got)
	}
	for _, wait := range []string{"wait=-1", "wait=61", "wait=x", "wait="} {
		k := a.create(`{"decision":true}`)
		a.do("DELETE", "/v1/access_keys/"+k.id, a.root, "", "Prefer", wait).refused(400, "invalid_preference", "header:Prefer")
		a.do("GET", "/v1/access_keys/self", k.secret, "").is(200)
	}
}

func TestRevoke_EndsTheKeyAtOnceAndOnlyOnce(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true}`)
	a.do("GET", "/v1/access_keys/self", k.secret, "").is(200)
	a.do("DELETE", "/v1/access_keys/"+k.id, a.root, "").is(204)
	a.do("GET", "/v1/access_keys/self", k.secret, "").refused(401, "key_revoked")
	a.do("DELETE", "/v1/access_keys/"+k.id, a.root, "").refused(409, "already_revoked")
	a.clock.advance(-time.Hour) // whatever the clock does, what is revoked stays so for a later process
	a.stop()
	again := start(t, func(o *options) { o.dir, o.clock = a.dir, a.clock })
	again.clock.advance(2 * time.Hour)
	again.do("GET", "/v1/access_keys/self", k.secret, "").refused(401, "key_revoked")
}

func TestRevoke_WorksOnAnExpiredKey(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true}`, `"expires_at":"`+a.clock.in(time.Minute)+`"`)
	a.clock.advance(time.Minute)
	a.do("GET", "/v1/access_keys/self", k.secret, "").refused(401, "key_expired")
	a.do("DELETE", "/v1/access_keys/"+k.id, a.root, "").is(204)
	a.do("GET", "/v1/access_keys/self", k.secret, "").refused(401, "key_revoked")
	a.do("DELETE", "/v1/access_keys/"+k.id, a.root, "").refused(409, "already_revoked")
}

func TestExpiry_IsTheFirstInstantAtWhichAKeyNoLongerHolds(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true}`, `"expires_at":"`+a.clock.in(time.Second)+`"`)
	a.clock.advance(time.Second - time.Microsecond)
	a.do("GET", "/v1/access_keys/self", k.secret, "").is(200)
	a.clock.advance(time.Microsecond)
	a.do("GET", "/v1/access_keys/self", k.secret, "").refused(401, "key_expired")
}

func TestRevoke_IsForRootAndTheKeyItself(t *testing.T) {
	t.Parallel()
	a := start(t)
	k, other := a.create(everyScope), a.create(`{"decision":true}`)
	for _, id := range []string{other.id, "00000000-0000-4000-8000-000000000000", "no-id"} {
		a.do("DELETE", "/v1/access_keys/"+id, k.secret, "").refused(403, "not_permitted")
	}
	a.do("GET", "/v1/access_keys/self", other.secret, "").is(200)
	a.do("DELETE", "/v1/access_keys/"+other.id, other.secret, "").is(204) // without any scope for it
	a.do("DELETE", "/v1/access_keys/"+other.id, other.secret, "").refused(401, "key_revoked")
	for _, id := range []string{"00000000-0000-4000-8000-000000000000", "no-id", "%zz", strings.ToUpper(k.id)} {
		if strings.Contains(id, "%") {
			continue // no client sends it; TestWire has it
		}
		a.do("DELETE", "/v1/access_keys/"+id, a.root, "").refused(404, "key_not_found")
	}
	events := a.events("default")
	if last := events[len(events)-1]; last.Get("actor.type").String() != "access_key" || last.Get("actor.id").String() != other.id ||
		last.Get("action").String() != "access_key.revoke" || last.Get("resource.id").String() != other.id {
		t.Errorf("the event of a key that ended itself: %s", last)
	}
}

// afterCommit runs what a test puts in its hook when a change of the action
// has been committed and before its service goes on.
type afterCommit struct {
	authz.Record
	action string
	hook   func()
}

func (r *afterCommit) Change(ctx context.Context, c authz.Change, do func(authz.Tx) (audit.Draft, error)) error {
	action := ""
	err := r.Record.Change(ctx, c, func(tx authz.Tx) (audit.Draft, error) {
		d, err := do(tx)
		action = d.Action
		return d, err
	})
	if hook := r.hook; err == nil && action == r.action && hook != nil {
		r.hook = nil
		hook()
	}
	return err
}

// A key can be seen in the list, and so be revoked, between the commit that
// made it and the moment at which this process knows it.
func TestRevoke_HoldsForAKeyThatIsJustBeingMade(t *testing.T) {
	t.Parallel()
	seam := &afterCommit{action: "access_key.create"}
	a := start(t, func(o *options) {
		o.record = func(r authz.Record) authz.Record { seam.Record = r; return seam }
	})
	seam.hook = func() {
		ids, _ := a.list(a.root, "")
		a.do("DELETE", "/v1/access_keys/"+ids[0], a.root, "").is(204)
	}
	k := a.create(`{"decision":true}`)
	if seam.hook != nil {
		t.Fatal("the hook did not run")
	}
	a.do("GET", "/v1/access_keys/self", k.secret, "").refused(401, "key_revoked")
	asker := a.create(`{"decision":true}`)
	if r := a.decide(asker.secret, evaluation(subject(k.id), "read", "policies", "x")); r.text("context.reasons.0.code") != "key_revoked" {
		t.Errorf("%s", r.body)
	}
}

func TestChange_ChecksTheCallersCredentialInItsTransaction(t *testing.T) {
	t.Parallel()
	gate := &beforeChange{}
	a := start(t, func(o *options) {
		o.record = func(r authz.Record) authz.Record { gate.Record = r; return gate }
	})
	k := a.create(`{"decision":true}`)
	old := a.root
	gate.hook = func() { a.root = a.keep(a.do("POST", "/v1/root/rotate", old, "").is(201).text("key")) }
	a.do("DELETE", "/v1/access_keys/"+k.id, old, "").refused(401, "invalid_credential") // authenticated before the rotation, changed after
	a.do("GET", "/v1/access_keys/self", k.secret, "").is(200)
	a.do("DELETE", "/v1/access_keys/"+k.id, a.root, "").is(204)
}

// beforeChange runs a hook once before a change begins.
type beforeChange struct {
	authz.Record
	hook func()
}

func (r *beforeChange) Change(ctx context.Context, c authz.Change, do func(authz.Tx) (audit.Draft, error)) error {
	if hook := r.hook; hook != nil {
		r.hook = nil
		hook()
	}
	return r.Record.Change(ctx, c, do)
}

func TestRego_IsOneKeysScopesAsText(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"policies":[{"f":"stag*","p":4}]}`)
	r := a.do("GET", "/v1/access_keys/"+k.id+"/rego", a.root, "").is(200)
	if !strings.HasPrefix(r.header.Get("Content-Type"), "text/plain") || !strings.Contains(r.body, "package latchkey.access_key") ||
		!strings.Contains(r.body, k.id) || !strings.Contains(r.body, k.handle) || gjson.Valid(r.body) {
		t.Errorf("%s %s", r.header.Get("Content-Type"), r.body)
	}
}
