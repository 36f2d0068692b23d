package server_test

import (
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/authz"
)

const onceKey = "order-4711-of-the-night"

func TestIdempotency_RepeatsTheSameAnswerWithTheSameSecret(t *testing.T) {
	t.Parallel()
	a := start(t)
	body := newKeyBody(`{"decision":true}`)
	first := a.do("POST", "/v1/access_keys", a.root, body, "Idempotency-Key", onceKey)
	k := a.made(first)
	a.clock.advance(time.Hour)
	for range 2 {
		again := a.do("POST", "/v1/access_keys", a.root, body, "Idempotency-Key", onceKey).is(201)
		if again.body != first.body || again.header.Get("Location") != first.header.Get("Location") ||
			again.header.Get("Cache-Control") != "no-store" || again.header.Get("Idempotency-Replayed") != "true" {
			t.Errorf("%v %s\nwant %v %s", again.header, again.body, first.header, first.body)
		}
	}
	if first.header.Get("Idempotency-Replayed") != "" {
		t.Error("the first answer says that it is a repeat")
	}
	if _, r := a.list(a.root, ""); r.get("total").Int() != 1 || len(a.events("default")) != 1 {
		t.Errorf("more than one key or event: %s", r.body)
	}
	if files := a.files(); strings.Contains(files, onceKey) || strings.Contains(files, secretPart(k.secret)) {
		t.Error("the Idempotency-Key or the secret is in the database")
	}
	a.stop()
	later := start(t, func(o *options) { o.dir, o.clock = a.dir, a.clock })
	if again := later.do("POST", "/v1/access_keys", later.root, body, "Idempotency-Key", onceKey).is(201); again.body != first.body {
		t.Errorf("after a restart: %s", again.body)
	}
}

func TestIdempotency_HoldsForEveryPostThatMakesSomething(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true}`)
	for path, body := range map[string]string{
		"/v1/customers":                       `{"name":"Acme"}`,
		"/v1/access_keys/" + k.id + "/rotate": `{"grace":"1h"}`,
	} {
		first := a.do("POST", path, a.root, body, "Idempotency-Key", onceKey, "X-Customer-ID", "default").is(201)
		if secret := first.text("key"); secret != "" {
			a.keep(secret)
		}
		if again := a.do("POST", path, a.root, body, "Idempotency-Key", onceKey, "X-Customer-ID", "default").is(201); again.body != first.body {
			t.Errorf("%s: %s, then %s", path, first.body, again.body)
		}
	}
}

func TestIdempotency_RefusesAnotherBody(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.made(a.do("POST", "/v1/access_keys", a.root, newKeyBody(`{"decision":true}`), "Idempotency-Key", onceKey))
	a.do("POST", "/v1/access_keys", a.root, newKeyBody(`{"search":true}`), "Idempotency-Key", onceKey).refused(422, "idempotency_mismatch")
}

func TestIdempotency_ForgetsAfterADay(t *testing.T) {
	t.Parallel()
	a := start(t)
	post := func() key {
		return a.made(a.do("POST", "/v1/access_keys", a.root, newKeyBody(`{"decision":true}`), "Idempotency-Key", onceKey))
	}
	first := post()
	a.clock.advance(24*time.Hour - time.Microsecond)
	if again := post(); again != first {
		t.Error("forgot within the day")
	}
	a.clock.advance(time.Microsecond)
	if again := post(); again.id == first.id {
		t.Error("remembers after the day")
	}
}

func TestIdempotency_KeepsCallersRoutesAndCustomersApart(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true}`)
	a.customer("acme")
	body := newKeyBody(`{"decision":true}`)
	in := func(customer string) key {
		return a.made(a.do("POST", "/v1/access_keys", a.root, body, "Idempotency-Key", onceKey, "X-Customer-ID", customer))
	}
	if in("default").id == in("acme").id {
		t.Error("two customers share an answer")
	}
	rotated := a.made(a.do("POST", "/v1/access_keys/"+k.id+"/rotate", a.root, `{}`, "Idempotency-Key", onceKey, "X-Customer-ID", "default"))
	if rotated.id != k.id {
		t.Error("two routes share an answer")
	}
	// Another caller's Idempotency-Key opens nothing: here the next root key's.
	old := a.root
	a.root = a.keep(a.do("POST", "/v1/root/rotate", old, "").is(201).text("key"))
	first := in("default")
	if again := in("default"); again != first {
		t.Error("the new root key is not remembered")
	}
	a.do("POST", "/v1/access_keys", old, body, "Idempotency-Key", onceKey, "X-Customer-ID", "default").refused(401, "invalid_credential")
}

func TestIdempotency_ConflictsWhileTheFirstIsInFlight(t *testing.T) {
	t.Parallel()
	gate := &beforeChange{}
	a := start(t, func(o *options) {
		o.record = func(r authz.Record) authz.Record { gate.Record = r; return gate }
	})
	body := newKeyBody(`{"decision":true}`)
	gate.hook = func() {
		a.do("POST", "/v1/access_keys", a.root, body, "Idempotency-Key", onceKey).refused(409, "idempotency_in_flight")
	}
	a.made(a.do("POST", "/v1/access_keys", a.root, body, "Idempotency-Key", onceKey))
	if gate.hook != nil {
		t.Fatal("the hook did not run")
	}
	a.do("POST", "/v1/access_keys", a.root, body, "Idempotency-Key", onceKey).is(201)
}

func TestIdempotency_KeepsNoRefusals(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.maxActive = 1 })
	k := a.create(`{"decision":true}`)
	body := newKeyBody(`{"decision":true}`)
	a.do("POST", "/v1/access_keys", a.root, body, "Idempotency-Key", onceKey).refused(500, "too_many_keys")
	a.do("DELETE", "/v1/access_keys/"+k.id, a.root, "").is(204)
	a.made(a.do("POST", "/v1/access_keys", a.root, body, "Idempotency-Key", onceKey))
}

func TestIdempotency_RefusesMalformedKeys(t *testing.T) {
	t.Parallel()
	a := start(t)
	body := newKeyBody(`{"decision":true}`)
	for _, bad := range []string{strings.Repeat("x", 256), "é"} {
		a.do("POST", "/v1/access_keys", a.root, body, "Idempotency-Key", bad).refused(400, "invalid_idempotency_key", "header:Idempotency-Key")
	}
	a.do("POST", "/v1/access_keys", a.root, body, "Idempotency-Key", "a", "Idempotency-Key", "b").refused(400, "duplicate_header")
}
