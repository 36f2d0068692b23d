package server_test

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/server"
)

// Until a server can decide it denies, whoever asks: a PEP that looks at
// nothing but the answer is safe.
func TestReady_DeniesUntilThen(t *testing.T) {
	var waiting atomic.Pointer[string]
	text := "records are being loaded"
	waiting.Store(&text)
	a := start(t, func(o *options) {
		o.config.Ready = func(latchkey.Instant) server.Readiness {
			if text := *waiting.Load(); text != "" {
				return server.Readiness{Code: authz.NotReady, Detail: text}
			}
			return server.Readiness{}
		}
	})
	const body = `{"subject":{"type":"access_key","id":"x"},"action":{"name":"read"},"resource":{"type":"policies","id":"x"}}`
	for _, path := range []string{"/decision", "/decision/main", "/access/v1/evaluation"} {
		for _, key := range []string{a.root, "", "nonsense"} {
			r := a.do("POST", path, key, body)
			if r.status != http.StatusOK || r.get("decision").Bool() || r.get("context.reasons.0.code").String() != "not_ready" {
				t.Errorf("%s: %d %s", path, r.status, r.body)
			}
		}
	}
	for _, call := range [][2]string{{"POST", "/decision/batch"}, {"POST", "/decision/explain"}, {"POST", "/v1/access_keys/verify"}, {"GET", "/v1/access_keys"}, {"GET", "/health/ready"}} {
		if r := a.do(call[0], call[1], a.root, ""); r.status != http.StatusServiceUnavailable || r.get("code").String() != "not_ready" || r.header.Get("Retry-After") == "" {
			t.Errorf("%v: %d %s", call, r.status, r.body)
		}
	}
	if r := a.do("GET", "/health/live", "", ""); r.status != http.StatusOK {
		t.Errorf("live: %d", r.status)
	}
	ready := ""
	waiting.Store(&ready)
	if r := a.do("POST", "/decision", a.root, body); r.get("context.reasons.0.code").String() != "key_unknown" {
		t.Errorf("when ready: %s", r.body)
	}
}

// leased starts a server whose lease the returned function renews.
func leased(t *testing.T, serveStale time.Duration) (f *front, renew func()) {
	t.Helper()
	lease, c := feed.NewLease(30*time.Second, 5*time.Second), newClock()
	renew = func() { lease.Renew(latchkey.InstantOf(c.now()), latchkey.InstantOf(c.now())) }
	renew()
	return startForward(t, func(o *options) { o.lease, o.serveStale, o.clock = lease, serveStale, c }), renew
}

// Attack by cutting a server off: what was revoked since would go on for ever.
// Once it is without word for too long it denies everybody, and answers nothing
// else: who asks could have lost the right to.
func TestStale_DeniesAndAnswersNothingElse(t *testing.T) {
	t.Parallel()
	a, renew := leased(t, 0)
	k := a.create(everyScope)
	question := evaluation(subject(k.id), "read", "policies", "x")
	a.clock.advance(29 * time.Second)
	r := a.decide(k.secret, question)
	if r.text("context.reasons.0.code") != "scope_permits" || r.text("context.expires_at") != latchkey.InstantOf(a.clock.now()).Add(time.Second).String() {
		t.Errorf("an answer outlives the lease that it rests on: %s", r.body)
	}
	a.clock.advance(time.Second)
	for _, path := range []string{"/decision", "/access/v1/evaluation"} {
		for _, key := range []string{a.root, k.secret, "", "nonsense"} {
			if r := a.do("POST", path, key, question); r.status != 200 || r.get("decision").Bool() || r.text("context.reasons.0.code") != "stale" {
				t.Errorf("%s: %d %s", path, r.status, r.body)
			}
		}
	}
	for _, call := range [][2]string{{"POST", "/decision/batch"}, {"POST", "/decision/explain"}, {"POST", "/access/v1/search/subject"}, {"POST", "/v1/access_keys/verify"},
		{"POST", "/v1/introspect"}, {"GET", "/v1/access_keys"}, {"DELETE", "/v1/access_keys/" + k.id}, {"GET", "/health/ready"}} {
		for _, key := range []string{a.root, "nonsense"} {
			if r := a.do(call[0], call[1], key, ""); r.status != 503 || r.header.Get("Retry-After") == "" || !strings.Contains(r.body, "out of date") {
				t.Errorf("%v: %d %s", call, r.status, r.body)
			}
		}
	}
	for _, w := range ways {
		if r := a.raw(append(w.ask("GET", "api", "/orders/1"), a.by(a.client)...)...); r.status != 503 || r.text("code") != "stale" || r.identity()[4] == "allow" {
			t.Errorf("%s: %d %s", w.name, r.status, r.body)
		}
	}
	renew()
	a.decide(k.secret, question)
	a.do("GET", "/health/ready", "", "").is(200)
}

// Deciding by what is out of date is the operator's choice: every answer says so
// and is for once, what cannot say so is not given, and there is an end to it.
func TestStale_IsServedByChoiceAlone(t *testing.T) {
	t.Parallel()
	a, _ := leased(t, 10*time.Second)
	k := a.create(everyScope)
	question := evaluation(subject(k.id), "read", "policies", "x")
	says := func(r *reply, at string) {
		t.Helper()
		var reasons []string
		for _, code := range r.get(at + "context.reasons.#.code").Array() {
			reasons = append(reasons, code.String())
		}
		if !r.get(at+"decision").Bool() || !slices.Equal(reasons, []string{"scope_permits", "stale"}) || r.text(at+"context.expires_at") != latchkey.InstantOf(a.clock.now()).String() {
			t.Errorf("%s: %s", r.request, r.body)
		}
	}
	a.clock.advance(35 * time.Second)
	says(a.decide(k.secret, question), "")
	says(a.do("POST", "/decision/batch", k.secret, `{"evaluations":[`+question+`]}`).is(200), "evaluations.0.")
	says(a.do("POST", "/decision/explain", k.secret, question).is(200), "")
	for _, w := range ways {
		if r := a.raw(append(w.ask("GET", "api", "/orders/1"), a.by(a.client)...)...); r.status != 200 {
			t.Errorf("%s: %d %s", w.name, r.status, r.body)
		}
	}
	for _, call := range [][2]string{{"POST", "/v1/access_keys/verify"}, {"POST", "/v1/introspect"}, {"GET", "/v1/access_keys"}, {"GET", "/health/ready"}} {
		if r := a.do(call[0], call[1], a.root, ""); r.status != 503 || r.text("code") != "stale" {
			t.Errorf("%v: %d %s", call, r.status, r.body)
		}
	}
	a.clock.advance(5 * time.Second)
	if r := a.decide(k.secret, question); r.get("decision").Bool() || r.text("context.reasons.0.code") != "stale" {
		t.Errorf("beyond the choice: %s", r.body)
	}
}

// A customer whose changes cannot be applied is denied alone. Root may act in it:
// it may be what mends it.
func TestStale_OneCustomerAlone(t *testing.T) {
	t.Parallel()
	a := startForward(t)
	a.customer("acme")
	mine, theirs := a.createFor("default", everyScope), a.createFor("acme", everyScope)
	a.table.Customer("acme").SetStaleAt(latchkey.InstantOf(a.clock.now()))
	for key, want := range map[key]string{mine: "scope_permits", theirs: "stale"} {
		if r := a.decide(key.secret, evaluation(subject(key.id), "read", "policies", "x")); r.text("context.reasons.0.code") != want {
			t.Errorf("want %s: %s", want, r.body)
		}
	}
	for _, call := range [][2]string{{"POST", "/decision/batch"}, {"POST", "/v1/access_keys/verify"}, {"GET", "/v1/access_keys/self"}, {"DELETE", "/v1/access_keys/" + theirs.id}} {
		if r := a.do(call[0], call[1], theirs.secret, ""); r.status != 503 || r.text("code") != "stale" {
			t.Errorf("%v: %d %s", call, r.status, r.body)
		}
	}
	if r := a.do("POST", "/decision", a.root, evaluation(subject(theirs.id), "read", "policies", "x"), "X-Customer-ID", "acme"); r.get("decision").Bool() || r.text("context.reasons.0.code") != "stale" {
		t.Errorf("for root: %s", r.body)
	}
	a.do("GET", "/v1/access_keys", a.root, "", "X-Customer-ID", "acme").is(200)
	a.table.Customer("default").SetStaleAt(latchkey.InstantOf(a.clock.now()))
	for _, w := range ways {
		if r := a.raw(append(w.ask("GET", "api", "/orders/1"), a.by(a.client)...)...); r.status != 503 || r.identity()[4] == "allow" {
			t.Errorf("%s: %d %s", w.name, r.status, r.body)
		}
	}
	a.table.Customer("default").SetStaleAt(latchkey.Never)
	a.decide(mine.secret, evaluation(subject(mine.id), "read", "policies", "x"))
}

// Who cannot be verified is not refused: a 401 would have its owner throw away a
// credential that is good.
func TestUnverified_IsNoRefusal(t *testing.T) {
	t.Parallel()
	a := startForward(t)
	caller, k := a.create(everyScope), a.create(everyScope)
	token, _ := authz.ParseToken([]byte(k.secret))
	state, _ := a.table.Secret(token.Kid)
	state.Foreign = true // digested with a pepper that this server does not hold
	a.table.AddSecret(token.Kid, state)
	for _, r := range []*reply{
		a.do("GET", "/v1/access_keys/self", k.secret, ""),
		a.do("POST", "/v1/access_keys/verify", caller.secret, `{"key":"`+k.secret+`"}`),
		a.do("POST", "/v1/introspect", caller.secret, "token="+k.secret, "Content-Type", "application/x-www-form-urlencoded"),
	} {
		if r.status != 503 || r.text("code") != "credential_unverified" || r.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s", r.request, r.status, r.body)
		}
	}
	for _, w := range ways {
		r := a.raw(append(w.ask("GET", "api", "/orders/1"), "X-Latchkey-Caller: "+k.secret, bearerOf(a.client))...)
		if r.status != 503 || r.identity()[4] == "allow" {
			t.Errorf("%s: a proxy's key: %d %s", w.name, r.status, r.body)
		}
		if r := a.raw(append(w.ask("GET", "api", "/orders/1"), a.by(k)...)...); r.status != 503 || r.identity()[4] == "allow" {
			t.Errorf("%s: the client's key: %d %s", w.name, r.status, r.body)
		}
	}
}
