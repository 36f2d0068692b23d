package server_test

import (
	"encoding/json"
	"hash/crc32"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// reseal gives a token of a changed body the checksum that belongs to it.
func reseal(token string) string {
	body := token[:strings.LastIndexByte(token, '_')]
	n, digits := new(big.Int).SetUint64(uint64(crc32.ChecksumIEEE([]byte(body)))), make([]byte, 6)
	for i := range digits {
		n, digits[5-i] = divide(n)
	}
	return body + "_" + string(digits)
}

func divide(n *big.Int) (*big.Int, byte) {
	q, r := new(big.Int).DivMod(n, big.NewInt(62), new(big.Int))
	return q, alphabet[r.Int64()]
}

// withoutID is a problem document without what differs by request.
func withoutID(t *testing.T, body string) string {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		t.Fatal(err)
	}
	delete(m, "request_id")
	b, _ := json.Marshal(m)
	return string(b)
}

func TestUnauthenticated_IsUniform(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.config.AuthFailureRate = 1000 })
	k := a.create(everyScope)
	other := start(t, func(o *options) { o.clock = a.clock }).create(everyScope) // well-formed, but of no key here
	flip := func(s string, at int) string {
		c := byte('A')
		if s[at] == c {
			c = 'B'
		}
		return s[:at] + string(c) + s[at+1:]
	}
	want := withoutID(t, a.do("GET", "/v1/access_keys", "", "").refused(401, "invalid_credential").body)
	for name, authorization := range map[string]string{
		"empty":             "",
		"blank bearer":      "Bearer ",
		"word":              "Bearer x",
		"unknown":           "Bearer " + other.secret,
		"wrong secret":      "Bearer " + reseal(flip(k.secret, len(k.handle)+5)),
		"wrong kid":         "Bearer " + reseal(flip(k.secret, 12)),
		"test for live":     "Bearer " + reseal(strings.Replace(k.secret, "live", "test", 1)),
		"as a root key":     "Bearer " + reseal(strings.Replace(k.secret, "lk1_live_", "lkr1_", 1)),
		"as a personal one": "Bearer " + reseal(strings.Replace(k.secret, "lk1_live_", "lkp1_", 1)),
		"wrong checksum":    "Bearer " + k.secret[:len(k.secret)-1] + "_",
		"handle":            "Bearer " + k.handle,
		"id":                "Bearer " + k.id,
		"with a blank":      "Bearer  " + k.secret,
		"basic":             "Basic " + k.secret,
		"no scheme":         k.secret,
		"other scheme":      "Token " + k.secret,
		"two in one":        "Bearer " + k.secret + ", Bearer " + a.root,
		"lower digits":      "Bearer " + strings.ToLower(k.secret),
		"nul":               "Bearer " + k.secret + "%00",
	} {
		r := a.do("GET", "/v1/access_keys", "", "", "Authorization", authorization).refused(401, "invalid_credential")
		if got := withoutID(t, r.body); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		if got := r.header.Get("Www-Authenticate"); got != `Bearer realm="latchkey", error="invalid_token"` {
			t.Errorf("%s: WWW-Authenticate %q", name, got)
		}
	}
	a.do("GET", "/v1/access_keys", "", "", "Authorization", "bEaReR "+k.secret).is(200) // schemes know no case
	if got := a.do("GET", "/v1/access_keys", "", "").header.Get("Www-Authenticate"); got != `Bearer realm="latchkey"` {
		t.Errorf("without credential: WWW-Authenticate %q", got)
	}
}

func TestUnauthenticated_TellsWhatBecameOfAKeyOnlyToWhoHoldsItsSecret(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.config.AuthFailureRate = 1000 })
	revoked, expired := a.create(everyScope), a.create(everyScope, `"expires_at":"`+a.clock.in(time.Second)+`"`)
	a.do("DELETE", "/v1/access_keys/"+revoked.id, a.root, "").is(204)
	a.clock.advance(time.Second)
	a.ended(revoked, "key_revoked")
	a.ended(expired, "key_expired")
	for _, k := range []key{revoked, expired} {
		wrong := k.handle + "_" + strings.Repeat("0", 43) + "_x"
		a.do("GET", "/v1/access_keys/self", reseal(wrong), "").refused(401, "invalid_credential")
	}
}

func TestForbidden_CarriesAChallenge(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true}`)
	r := a.do("GET", "/v1/access_keys", k.secret, "").refused(403, "scope_missing")
	if got := r.header.Get("Www-Authenticate"); got != `Bearer realm="latchkey", error="insufficient_scope"` {
		t.Errorf("WWW-Authenticate %q", got)
	}
}

func TestCredential_EverySingleFlipIsRefusedWithoutALookUp(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.config.AuthFailureRate = 1e6 })
	k := a.create(everyScope)
	for _, token := range []string{k.secret, a.root} {
		lookups, unread, tried := a.table.Lookups(), a.auth.RefusedUnread(), int64(0)
		for i := range token {
			for _, c := range []byte(alphabet + "_-") {
				if token[i] == c || i%7 != int(c)%7 { // every place, a seventh of the digits over the wire
					continue
				}
				tried++
				a.do("GET", "/v1/access_keys/self", token[:i]+string(c)+token[i+1:], "").refused(401, "invalid_credential")
			}
		}
		if got := a.table.Lookups() - lookups; got != 0 {
			t.Errorf("%d look-ups for %d flips", got, tried)
		}
		if got := a.auth.RefusedUnread() - unread; got != tried || tried < 400 {
			t.Errorf("%d refused unread of %d", got, tried)
		}
	}
}

func TestCredential_InTheQueryIsRefusedAndNeverRepeated(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(everyScope)
	encoded := strings.ReplaceAll(k.secret, "_", "%5F")
	var every strings.Builder
	for _, c := range []byte(k.secret) {
		every.WriteString("%" + strings.ToUpper(big.NewInt(int64(c)).Text(16)))
	}
	for name, query := range map[string]string{
		"value": "access_token=" + k.secret, "name": k.secret + "=1", "bare": k.secret, "encoded": "x=" + encoded, "encoded name": encoded + "=x",
		"every byte encoded": "x=" + every.String(), "behind a broken part": "x=%zz&y=" + encoded, "in a longer value": "x=Bearer+" + k.secret,
		"root": "limit=1&k=" + a.root, "in a URL": "next=" + url.QueryEscape("https://x/?k="+k.secret), "semicolon": "a=1;k=" + k.secret,
		"personal": "k=" + strings.Replace(k.secret, "lk1_live_", "lkp1_", 1),
	} {
		for _, path := range []string{"/v1/access_keys", "/openapi.yaml", "/health/live"} {
			for _, credential := range []string{"", k.secret} {
				r := a.do("GET", path+"?"+query, credential, "").refused(400, "credential_in_query", "query")
				if a.leaks(r.body) {
					t.Errorf("%s: repeated: %s", name, r.body)
				}
			}
		}
		a.do("POST", "/access/v1/evaluation?"+query, k.secret, `{}`).is(400)
	}
}

func TestCredential_TwoAreRefused(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(everyScope)
	a.do("GET", "/v1/access_keys", "", "", "Authorization", "Bearer "+k.secret, "Authorization", "Bearer "+k.secret).
		refused(400, "two_credentials", "header:Authorization")
	a.do("GET", "/v1/access_keys", "", "", "Authorization", "Bearer "+k.secret, "Authorization", "Basic eDp5").refused(400, "two_credentials")
}

func TestRequestID_IsEchoedWhereWellFormedAndMadeWhereNot(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(everyScope)
	echoed := func(id string) string {
		return a.do("GET", "/health/live", "", "", "X-Request-ID", id).header.Get("X-Request-Id")
	}
	for _, id := range []string{"a", "9f3-A_b.c", "Root=1-67/a:b+c~", strings.Repeat("x", 128), k.handle} {
		if got := echoed(id); got != id {
			t.Errorf("%q came back as %q", id, got)
		}
	}
	for _, id := range []string{"a b", "é", `a\b`, strings.Repeat("x", 129), k.secret, "x" + a.root, `"`} {
		if got := echoed(id); got == id || len(got) != 32 {
			t.Errorf("%q came back as %q", id, got)
		}
	}
	r := a.do("GET", "/v1/nothing", "", "", "X-Request-ID", "mine").refused(404, "route_not_found")
	if r.text("request_id") != "mine" {
		t.Error(r.body)
	}
	if first, second := a.do("GET", "/health/live", "", ""), a.do("GET", "/health/live", "", ""); first.header.Get("X-Request-Id") == second.header.Get("X-Request-Id") {
		t.Error("two requests share an id")
	}
	a.do("DELETE", "/v1/access_keys/"+k.id, a.root, "", "X-Request-ID", "the-end").is(http.StatusNoContent)
	if e := a.events("default")[1]; e.Get("request_id").String() != "the-end" {
		t.Errorf("event: %s", e)
	}
}
