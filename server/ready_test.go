package server_test

import (
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
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
