package client_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/client"
)

func customerOf(r *http.Request) (client.Entity, error) {
	id, ok := strings.CutPrefix(r.URL.Path, "/customers/")
	if !ok || id == "" {
		return client.Entity{}, errors.New("no customer")
	}
	return client.Entity{Type: "customer", ID: id}, nil
}

// behind is what a request gets from behind the middleware; nothing else than
// "inside" has passed it.
func behind(t *testing.T, c *client.Client, g client.Guard, change func(*http.Request)) *httptest.ResponseRecorder {
	t.Helper()
	g.Question = client.BearerQuestion(customerOf)
	req := httptest.NewRequest(http.MethodGet, "/customers/acme", nil)
	req.Header.Set("Authorization", "Bearer the-client's")
	if change != nil {
		change(req)
	}
	w := httptest.NewRecorder()
	c.Middleware(g)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if d := client.DecisionOf(r.Context()); d == nil || !d.Allowed {
			t.Errorf("let in with %+v", d)
		}
		_, _ = w.Write([]byte("inside"))
	})).ServeHTTP(w, req)
	if w.Code != http.StatusOK && strings.Contains(w.Body.String(), "inside") {
		t.Error("the handler was reached")
	}
	return w
}

func TestMiddleware_LetsInWhatIsAllowedAndNothingElse(t *testing.T) {
	const allow = `{"decision":true,"context":{"action":"allow","obligations":[]}}`
	deny := func(code string) string {
		return `{"decision":false,"context":{"action":"deny","reasons":[{"code":"` + code + `"}]}}`
	}
	for _, tt := range []struct {
		name   string
		status int // of latchkey
		body   string
		change func(*http.Request)
		want   int
	}{
		{name: "allowed", status: 200, body: allow, want: 200},
		{name: "denied", status: 200, body: deny("scope_missing"), want: 403},
		{name: "denied by a policy's error", status: 200, body: deny("policy_error"), want: 403},
		{name: "denied for an unknown reason", status: 200, body: `{"decision":false}`, want: 403},
		{name: "an unknown key", status: 200, body: deny("key_unknown"), want: 401},
		{name: "an expired key", status: 200, body: deny("key_expired"), want: 401},
		{name: "a revoked key", status: 200, body: deny("key_revoked"), want: 401},
		{name: "a stale node", status: 200, body: deny("stale"), want: 503},
		{name: "a node that is not ready", status: 200, body: deny("not_ready"), want: 503},
		{name: "allowed with an obligation", status: 200, body: `{"decision":true,"context":{"action":"allow","obligations":[{"x":1}]}}`, want: 403},
		{name: "allowed with a word of its own", status: 200, body: `{"decision":true,"context":{"action":"throttle"}}`, want: 403},
		{name: "allowed without a word", status: 200, body: `{"decision":true}`, want: 403},
		{name: "no answer to read", status: 200, body: `allow`, want: 503},
		{name: "a question that is not read", status: 400, body: `{"code":"wrong_type"}`, want: 403},
		{name: "a proxy's 400", status: 400, body: `<html>`, want: 503},
		{name: "the application's own key ended", status: 401, body: `{"code":"key_expired"}`, want: 503},
		{name: "the application's own key may not ask", status: 403, body: `{"code":"scope_missing"}`, want: 503},
		{name: "an unknown policy", status: 404, body: `{"code":"policy_not_found"}`, want: 503},
		{name: "a failure", status: 500, body: allow, want: 503},
		{name: "not now", status: 503, body: allow, want: 503},
		{name: "no credential", status: 200, body: allow, change: func(r *http.Request) { r.Header.Del("Authorization") }, want: 401},
		{name: "an empty credential", status: 200, body: allow, change: func(r *http.Request) { r.Header.Set("Authorization", "Bearer ") }, want: 401},
		{name: "another scheme", status: 200, body: allow, change: func(r *http.Request) { r.Header.Set("Authorization", "Basic eDp5") }, want: 401},
		{name: "two credentials", status: 200, body: allow, change: func(r *http.Request) { r.Header.Add("Authorization", "Bearer another") }, want: 401},
		{name: "an unknown method", status: 200, body: allow, change: func(r *http.Request) { r.Method = "PURGE" }, want: 403},
		{name: "a path that stands for nothing", status: 200, body: allow, change: func(r *http.Request) { r.URL.Path = "/" }, want: 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				var in struct {
					Subject struct{ Properties map[string]string }
					Action  struct{ Name string }
				}
				if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Subject.Properties["key"] != "the-client's" || in.Action.Name != "read" {
					t.Errorf("asked %+v, %v", in, err)
				}
				reply(w, tt.status, tt.body)
			})
			client.WithoutPauses(c)
			w := behind(t, c, client.Guard{}, tt.change)
			if w.Code != tt.want {
				t.Errorf("%d, want %d: %s", w.Code, tt.want, w.Body)
			}
			if has := w.Header().Get("WWW-Authenticate") != ""; has != (tt.want == 401) {
				t.Errorf("WWW-Authenticate with %d: %v", w.Code, has)
			}
			if tt.want != 200 && w.Header().Get("Cache-Control") != "no-store" {
				t.Error("the refusal may be cached")
			}
			if strings.Contains(w.Body.String(), "scope") || strings.Contains(w.Body.String(), "key") {
				t.Errorf("the refusal tells a stranger why: %s", w.Body)
			}
		})
	}
}

func TestMiddleware_RefusesWhileLatchkeyIsAway(t *testing.T) {
	gone := newClient(t, client.Config{URL: "http://127.0.0.1:1"})
	client.WithoutPauses(gone)
	if w := behind(t, gone, client.Guard{}, nil); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("unreachable: %d", w.Code)
	}
	block := make(chan struct{})
	slow := serve(t, func(http.ResponseWriter, *http.Request) { <-block })
	defer close(block)
	if w := behind(t, slow, client.Guard{Timeout: 20 * time.Millisecond}, nil); w.Code != http.StatusServiceUnavailable {
		t.Errorf("slow: %d", w.Code)
	}
	w := httptest.NewRecorder()
	gone.Middleware(client.Guard{})(http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusForbidden {
		t.Errorf("without a question: %d", w.Code)
	}
}

func TestMiddleware_LetsTheApplicationFulfilAndRefuse(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, `{"decision":true,"context":{"action":"allow","obligations":[{"header":"X-Seen"}]}}`)
	})
	fulfil := client.Guard{Fulfil: func(w http.ResponseWriter, _ *http.Request, d *client.Decision) error {
		var o struct{ Header string }
		if err := json.Unmarshal(d.Obligations[0], &o); err != nil {
			return err
		}
		w.Header().Set(o.Header, "1")
		return nil
	}}
	if w := behind(t, c, fulfil, nil); w.Code != http.StatusOK || w.Header().Get("X-Seen") != "1" {
		t.Errorf("fulfilled: %d %v", w.Code, w.Header())
	}
	var why error
	refuse := client.Guard{
		Fulfil: func(http.ResponseWriter, *http.Request, *client.Decision) error { return errors.New("cannot") },
		Refuse: func(w http.ResponseWriter, _ *http.Request, status int, err error) {
			why = err
			w.WriteHeader(status)
		},
	}
	if w := behind(t, c, refuse, nil); w.Code != http.StatusForbidden || why == nil || why.Error() != "cannot" {
		t.Errorf("refused: %d %v", w.Code, why)
	}
}
