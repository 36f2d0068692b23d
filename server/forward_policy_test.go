package server_test

import (
	"sync/atomic"
	"testing"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/server"
)

// The customer's policy decides within the ceiling, and sees the original
// request; its own words reach the proxy.
func TestForward_AsksTheCustomersPolicy(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, f *front, ask func(method, host, target string, more ...string) *reply) {
		f.put("/v1/policies/gate", `{"language":"cel","rules":[`+
			`{"label":"maintenance","match":"context.http.host == \"down.example.com\"","action":"deny"},`+
			`{"label":"second factor","match":"context.http.method == \"PUT\" && context.http.path == \"/orders/7\"","action":"mfa","effect":"deny"},`+
			`{"label":"slow","match":"resource.id == \"8\"","action":"throttle","effect":"permit"},`+
			`{"label":"watched","match":"resource.id == \"9\"","action":"allow","obligations":[{"id":"watermark"}]},`+
			`{"label":"scopes","match":"scope_permits","action":"allow"}],"default":{"action":"deny"}}`)
		f.do("PATCH", "/v1/customers/default", f.root, `{"default_policy":"gate"}`).is(200)
		for _, c := range []struct {
			method, host, target string
			status               int
			action, reason       string
		}{
			{"GET", "api", "/orders/1", 200, "allow", "scope_permits"},
			{"GET", "api", "/orders/8", 200, "throttle", "scope_permits"},
			{"GET", "api", "/orders/9", 403, "allow", "obligations_unmet"}, // allowed to whom would meet them
			{"PUT", "api", "/orders/7", 403, "mfa", "policy_rule"},
			{"GET", "Down.example.com:443", "/orders/1", 403, "deny", "policy_rule"},
			{"DELETE", "api", "/orders/8", 403, "deny", "scope_missing"}, // no policy goes beyond the ceiling
		} {
			r := ask(c.method, c.host, c.target, f.by(f.client)...)
			id := r.identity()
			if r.status != c.status || id[0] != f.client.id || id[2] != f.client.id || id[4] != c.action || id[5] != c.reason {
				t.Errorf("%+v: %d %q %s", c, r.status, id, r.body)
			}
		}
	})
}

// What latchkey cannot answer is no denial: proxies have settings of their own
// for an authorizer that fails.
func TestForward_NotReadyIsAFailure(t *testing.T) {
	t.Parallel()
	var waiting atomic.Bool
	a := startForward(t, func(o *options) {
		o.config.Ready = func(latchkey.Instant) server.Readiness {
			if waiting.Load() {
				return server.Readiness{Code: authz.NotReady, Detail: "the keys"}
			}
			return server.Readiness{}
		}
	})
	waiting.Store(true)
	for _, w := range ways {
		r := a.raw(append(w.ask("GET", "api", "/orders/1"), a.by(a.client)...)...)
		if id := r.identity(); r.status != 503 || r.text("code") != "not_ready" || id[4] == "allow" || r.header.Get("Retry-After") != "1" {
			t.Errorf("%s: %d %v %s", w.name, r.status, r.header, r.body)
		}
	}
}
