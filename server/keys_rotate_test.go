package server_test

import (
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/authz"
)

func (a *api) rotate(k key, body string) key {
	a.Helper()
	return a.made(a.do("POST", "/v1/access_keys/"+k.id+"/rotate", a.root, body))
}

func (a *api) works(k key) {
	a.Helper()
	a.do("GET", "/v1/access_keys/self", k.secret, "").is(200)
}

func (a *api) ended(k key, code string) {
	a.Helper()
	a.do("GET", "/v1/access_keys/self", k.secret, "").refused(401, code)
}

func TestRotate_ReplacesTheSecretOfTheSameKey(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true}`, `"expires_at":"`+a.clock.in(time.Hour)+`"`)
	r := a.do("POST", "/v1/access_keys/"+k.id+"/rotate", a.root, `{}`)
	next := a.made(r)
	if next.id != k.id || next.handle == k.handle || r.text("rotated_from") != k.handle || r.text("expires_at") != a.clock.in(time.Hour) ||
		r.header.Get("Location") != "/v1/access_keys/"+k.id || r.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v %s", r.header, r.body)
	}
	a.ended(k, "key_expired") // no grace was asked for
	a.works(next)
	if got := a.do("GET", "/v1/access_keys/"+k.id, a.root, "").text("handle"); got != next.handle {
		t.Errorf("the record shows the handle %s", got)
	}
	a.stop()
	again := start(t, func(o *options) { o.dir, o.clock = a.dir, a.clock })
	again.works(next)
	again.ended(k, "key_expired")
}

func TestRotate_OldSecretWorksToTheEndOfItsGrace(t *testing.T) {
	t.Parallel()
	for _, grace := range []string{`{"grace":"90s"}`, `{"grace":90}`, `{"grace":"1m30s"}`} {
		a := start(t)
		k := a.create(`{"decision":true}`)
		next := a.rotate(k, grace)
		a.clock.advance(90*time.Second - time.Microsecond)
		a.works(k)
		a.works(next)
		for _, id := range []string{k.handle, next.handle, k.id} {
			if r := a.decide(next.secret, evaluation(subject(id), "read", "policies", "x")); r.text("context.reasons.0.code") != "scope_missing" {
				t.Errorf("%s: %s", id, r.body)
			}
		}
		a.clock.advance(time.Microsecond)
		a.ended(k, "key_expired")
		a.works(next)
		if r := a.decide(next.secret, evaluation(subject(k.handle), "read", "policies", "x")); r.text("context.reasons.0.code") != "key_unknown" {
			t.Errorf("the handle of an ended secret: %s", r.body)
		}
	}
}

func TestRotate_LeavesAtMostOnePredecessor(t *testing.T) {
	t.Parallel()
	a := start(t)
	first := a.create(`{"decision":true}`)
	second := a.rotate(first, `{"grace":"24h"}`)
	a.works(first)
	third := a.rotate(second, `{"grace":"24h"}`)
	a.ended(first, "key_expired")
	a.works(second)
	a.works(third)
	fourth := a.rotate(third, `{"grace":"1h"}`)
	a.ended(second, "key_expired")
	a.clock.advance(time.Hour)
	a.ended(third, "key_expired")
	a.works(fourth)
}

func TestRotate_GraceNeverOutlivesTheKey(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true}`, `"expires_at":"`+a.clock.in(time.Minute)+`"`)
	next := a.rotate(k, `{"grace":"1h"}`)
	a.clock.advance(time.Minute)
	a.ended(k, "key_expired")
	a.ended(next, "key_expired")
	a.do("POST", "/v1/access_keys/"+k.id+"/rotate", a.root, `{}`).refused(409, "already_expired")
}

func TestRotate_RevocationEndsBothSecrets(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true}`)
	next := a.rotate(k, `{"grace":"1h"}`)
	a.do("DELETE", "/v1/access_keys/"+k.id, k.secret, "").is(204) // the old secret still is the key
	a.ended(k, "key_revoked")
	a.ended(next, "key_revoked")
	a.do("POST", "/v1/access_keys/"+k.id+"/rotate", a.root, `{}`).refused(409, "already_revoked")
}

func TestRotate_RefusesBadGraces(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true}`)
	for _, tt := range []struct{ body, code, pointer string }{
		{`{"grace":"721h"}`, "invalid_duration", "/grace"},
		{`{"grace":"720h0m0.000001s"}`, "invalid_duration", "/grace"},
		{`{"grace":2592001}`, "invalid_duration", "/grace"},
		{`{"grace":-1}`, "invalid_duration", "/grace"},
		{`{"grace":"-1s"}`, "invalid_duration", "/grace"},
		{`{"grace":1.5}`, "invalid_duration", "/grace"},
		{`{"grace":"30d"}`, "invalid_duration", "/grace"},
		{`{"grace":""}`, "invalid_duration", "/grace"},
		{`{"grace":null}`, "wrong_type", "/grace"},
		{`{"grace":true}`, "wrong_type", "/grace"},
		{`{"Grace":"1h"}`, "unknown_member", "/Grace"},
		{`[]`, "wrong_type", ""},
	} {
		a.do("POST", "/v1/access_keys/"+k.id+"/rotate", a.root, tt.body).refused(400, tt.code, tt.pointer)
	}
	a.works(k)
	next := a.rotate(k, `{"grace":"720h"}`) // thirty days are the most
	a.works(k)
	a.clock.advance(authz.MaxGrace)
	a.ended(k, "key_expired")
	a.works(next)
	a.do("POST", "/v1/access_keys/00000000-0000-4000-8000-000000000000/rotate", a.root, `{}`).refused(404, "key_not_found")
	a.do("POST", "/v1/access_keys/nonsense/rotate", a.root, `{}`).refused(404, "key_not_found")
}

func TestRotate_DoesNotReviveAKeyAtTheQuota(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.maxActive = 1 })
	k := a.create(`{"decision":true}`)
	next := a.rotate(k, `{}`) // a rotation makes no key, so it needs no room
	a.works(next)
	a.do("POST", "/v1/access_keys", a.root, newKeyBody(`{"decision":true}`)).refused(500, "too_many_keys")
}
