package server_test

import (
	"strings"
	"testing"
	"time"
)

// limited starts a server that takes 1 failure a second after a burst of 10.
func limited(t *testing.T, proxies int) *api {
	return start(t, func(o *options) { o.config.AuthFailureRate, o.config.TrustedProxies = 1, proxies })
}

const selfPath = "/v1/access_keys/self"

func (a *api) exhaust(headers ...string) {
	a.Helper()
	for range 10 {
		a.do("GET", selfPath, "wrong", "", headers...).refused(401, "invalid_credential")
	}
	r := a.do("GET", selfPath, "wrong", "", headers...).refused(429, "too_many_failures")
	if r.header.Get("Retry-After") != "1" {
		a.Errorf("Retry-After = %q", r.header.Get("Retry-After"))
	}
}

func TestFailures_AreLimitedPerSource(t *testing.T) {
	t.Parallel()
	a := limited(t, 0)
	k := a.create(everyScope)
	a.exhaust()
	a.do("GET", selfPath, reseal(k.handle+"_"+strings.Repeat("0", 43)+"_x"), "").refused(429, "too_many_failures")
	a.do("GET", selfPath, "", "", "Authorization", "Basic eDp5").refused(429, "too_many_failures")
	for range 30 { // a valid credential is never refused for it, and no key is locked
		a.do("GET", selfPath, k.secret, "").is(200)
		a.do("GET", "/v1/access_keys", a.root, "").is(200)
	}
	a.clock.advance(time.Second) // one more failure may come
	a.do("GET", selfPath, "wrong", "").refused(401, "invalid_credential")
	a.do("GET", selfPath, "wrong", "").refused(429, "too_many_failures")
	a.clock.advance(time.Hour) // the bucket holds no more than its burst
	a.exhaust()
	if !strings.Contains(a.metrics(), "latchkey_auth_failures_total 2") {
		t.Error("failures are not counted")
	}
}

func TestFailures_DoNotCountWhatProvesItsSecretOrShowsNone(t *testing.T) {
	t.Parallel()
	a := limited(t, 0)
	revoked, expired := a.create(everyScope), a.create(everyScope, `"expires_at":"`+a.clock.in(time.Microsecond)+`"`)
	a.do("DELETE", "/v1/access_keys/"+revoked.id, a.root, "").is(204)
	a.clock.advance(time.Microsecond)
	for range 40 {
		a.do("GET", selfPath, "", "").refused(401, "invalid_credential")
		a.ended(revoked, "key_revoked")
		a.ended(expired, "key_expired")
	}
	a.exhaust()
	a.do("GET", selfPath, "", "").refused(401, "invalid_credential")
	a.ended(revoked, "key_revoked")
}

func TestFailures_IgnoreForwardedForWithoutTrustedProxies(t *testing.T) {
	t.Parallel()
	a := limited(t, 0)
	a.exhaust("X-Forwarded-For", "192.0.2.1")
	a.do("GET", selfPath, "wrong", "", "X-Forwarded-For", "192.0.2.2").refused(429, "too_many_failures")
}

func TestFailures_TakeTheNthHopFromTheRight(t *testing.T) {
	t.Parallel()
	a := limited(t, 2)
	a.exhaust("X-Forwarded-For", "198.51.100.9, 192.0.2.1, 203.0.113.5")
	for _, same := range [][]string{
		{"X-Forwarded-For", "10.0.0.1,192.0.2.1,203.0.113.6"},                                 // what stands left of it is the client's to write
		{"X-Forwarded-For", "192.0.2.1", "X-Forwarded-For", "203.0.113.5"},                    // lists in several headers are one list
		{"X-Forwarded-For", "::ffff:192.0.2.1, 203.0.113.5"},                                  // one address, one spelling
		{"X-Forwarded-For", "192.0.2.77, 192.0.2.1 ,203.0.113.5", "X-Real-IP", "192.0.2.200"}, // no other header counts
	} {
		a.do("GET", selfPath, "wrong", "", same...).refused(429, "too_many_failures")
	}
	a.exhaust("X-Forwarded-For", "192.0.2.1, 192.0.2.2, 203.0.113.5") // another source has its own burst
	a.exhaust("X-Forwarded-For", "2001:db8:1:2::1, 203.0.113.5")
	a.do("GET", selfPath, "wrong", "", "X-Forwarded-For", "2001:db8:1:2:ffff::9, 203.0.113.5").refused(429, "too_many_failures") // one /64
	a.do("GET", selfPath, "wrong", "", "X-Forwarded-For", "2001:db8:1:3::1, 203.0.113.5").refused(401, "invalid_credential")
	a.exhaust() // too few hops, or nonsense: the peer itself
	for _, odd := range []string{"192.0.2.50", "unknown, 203.0.113.5", ", "} {
		a.do("GET", selfPath, "wrong", "", "X-Forwarded-For", odd).refused(429, "too_many_failures")
	}
}

func TestSource_IsRecordedInEvents(t *testing.T) {
	t.Parallel()
	a := limited(t, 1)
	r := a.do("POST", "/v1/access_keys", a.root, newKeyBody(`{"decision":true}`), "X-Forwarded-For", "6.6.6.6, 192.0.2.7")
	a.made(r)
	if e := a.events("default")[0]; e.Get("actor.ip").String() != "192.0.2.7" {
		t.Error(e)
	}
}
