package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/client"
)

const secret = "lk1_test_abcdefghijkl_secretsecretsecretsecretsecretsecretsecret0_000000"

// serve answers with handler, and returns a client of it.
func serve(t *testing.T, handler http.HandlerFunc) *client.Client {
	t.Helper()
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	return newClient(t, client.Config{URL: srv.URL})
}

func newClient(t *testing.T, cfg client.Config) *client.Client {
	t.Helper()
	cfg.Key = secret
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func reply(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	if status != http.StatusOK {
		w.Header().Set("Content-Type", "application/problem+json")
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

var question = client.Question{Subject: client.User("u"), Action: "read", Resource: client.Entity{Type: "customer", ID: "acme"}}

func TestNew_RefusesWhatWouldGiveTheKeyAway(t *testing.T) {
	for _, cfg := range []client.Config{
		{URL: "http://latchkey.internal:5539", Key: secret},
		{URL: "http://127.0.0.1.evil.test", Key: secret},
		{URL: "https://user:password@latchkey.internal", Key: secret},
		{URL: "https://latchkey.internal/?key=" + secret, Key: secret},
		{URL: "ftp://127.0.0.1", Key: secret},
		{URL: "unix:relative", Key: secret},
		{URL: "", Key: secret},
		{URL: "http://127.0.0.1:5539"},
		{URL: "http://127.0.0.1:5539", Key: "two\r\nHeaders: 1"},
		{URL: "http://127.0.0.1:5539", Key: secret, Customer: "a b"},
	} {
		if _, err := client.New(cfg); err == nil {
			t.Errorf("%s is taken", cfg.URL)
		} else if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "password") {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
	for _, cfg := range []client.Config{
		{URL: "http://127.0.0.1:5539", Key: secret},
		{URL: "http://[::1]:5539/prefix/", Key: secret},
		{URL: "https://latchkey.internal", Key: secret},
		{URL: "http://latchkey.internal", Key: secret, AllowInsecure: true},
		{URL: "unix:/run/latchkey.sock", Key: secret},
	} {
		if _, err := client.New(cfg); err != nil {
			t.Errorf("%s: %v", cfg.URL, err)
		}
	}
}

func TestClient_ShowsItsKeyToNobody(t *testing.T) {
	c := newClient(t, client.Config{URL: "http://127.0.0.1:1"})
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, c) + fmt.Sprintf(format, *c); strings.Contains(text, secret) {
			t.Errorf("%s shows the key: %s", format, text)
		}
	}

	echo := serve(t, func(w http.ResponseWriter, r *http.Request) {
		reply(w, http.StatusBadRequest, `{"code":"echo","detail":"you sent `+r.Header.Get("Authorization")+`"}`)
	})
	_, err := echo.Decide(t.Context(), question)
	if err == nil || strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), "[redacted]") {
		t.Errorf("a reply that repeats the key: %v", err)
	}

	leaking := newClient(t, client.Config{URL: "http://127.0.0.1:1", HTTPClient: &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		return nil, errors.New("cannot send " + r.Header.Get("Authorization"))
	})}})
	if _, err := leaking.Decide(t.Context(), question); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("a transport that repeats the key: %v", err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestClient_FollowsNoRedirect(t *testing.T) {
	reached := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer other.Close()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	})
	_, err := c.Decide(t.Context(), question)
	if p, ok := errors.AsType[*client.Problem](err); !ok || p.Status != http.StatusTemporaryRedirect || reached {
		t.Errorf("%v, followed: %v", err, reached)
	}
}

func TestClient_SpeaksOverASocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "latchkey.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, `{"decision":true,"context":{"action":"allow"}}`)
	})}}
	srv.Start()
	defer srv.Close()
	if d, err := newClient(t, client.Config{URL: "unix:" + path}).Decide(t.Context(), question); err != nil || !d.Allowed {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestDecide_SendsTheQuestionAndReadsTheAnswer(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		want := `{"subject":{"type":"user","id":"u"},"action":{"name":"read"},"resource":{"type":"customer","id":"acme"},"context":{"ip":"192.0.2.1"},"policy":"main"}`
		if string(body) != want || r.Header.Get("Authorization") != "Bearer "+secret || r.Header.Get("X-Customer-ID") != "" {
			t.Errorf("sent %s with %v", body, r.Header)
		}
		reply(w, http.StatusOK, `{"decision":true,"context":{"decision_id":"dec_1","action":"mfa","reasons":[{"code":"policy_rule","source":"policy","id":"main","rule":"r"}],"obligations":[{"step":"up"}],"expires_at":"2026-11-21T22:10:30Z"}}`)
	})
	q := question
	q.Context, q.Policy = map[string]any{"ip": "192.0.2.1"}, "main"
	d, err := c.Decide(t.Context(), q)
	if err != nil || !d.Allowed || d.ID != "dec_1" || d.Action != "mfa" || !d.Because("policy_rule") || d.Because("stale") || len(d.Obligations) != 1 || d.ExpiresAt.IsZero() {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestDecide_DeniesWhatItCannotRead(t *testing.T) {
	for name, body := range map[string]string{
		"nothing": "", "no JSON": "<html>", "null": "null", "no decision": `{"context":{}}`, "another type": `{"decision":"true"}`,
		"a list": `[true]`, "a number": `{"decision":1}`, "half": `{"decision":true`, "more": `{"decision":true} {}`,
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, body) })
		if d, err := c.Decide(t.Context(), question); err == nil || d.Allowed {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
	for _, status := range []int{http.StatusCreated, http.StatusNoContent, http.StatusFound, http.StatusForbidden, http.StatusInternalServerError} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, status, `{"decision":true}`) })
		if d, err := c.Decide(t.Context(), question); err == nil || d.Allowed {
			t.Errorf("%d: %+v, %v", status, d, err)
		}
	}
}

func TestProblem_TellsWhatTheServerSays(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusBadRequest, `{"status":400,"code":"unknown_member","detail":"/x: unknown member","request_id":"r1","errors":[{"pointer":"/x","code":"unknown_member","detail":"unknown member"}]}`)
	})
	_, err := c.Decide(t.Context(), question)
	p, ok := errors.AsType[*client.Problem](err)
	if !ok || p.Status != 400 || p.Code != "unknown_member" || p.RequestID != "r1" || len(p.Errors) != 1 || p.Errors[0].Pointer != "/x" {
		t.Errorf("%#v", err)
	}
	proxy := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
		_, _ = io.WriteString(w, `{"code":"granted"}`)
	})
	_, err = proxy.Decide(t.Context(), question)
	if p, ok := errors.AsType[*client.Problem](err); !ok || p.Status != 502 || p.Code != "" {
		t.Errorf("what is no problem document: %#v", err)
	}
}

// A call that may have been done is never made twice, one that was not is.
func TestRepeats_OnlyWhatWasNotDone(t *testing.T) {
	busy := func(w http.ResponseWriter) {
		w.Header().Set("Retry-After", "1")
		reply(w, http.StatusServiceUnavailable, `{"code":"busy"}`)
	}
	ended := func(w http.ResponseWriter) {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			conn.Close()
		}
	}
	proxy := func(w http.ResponseWriter) { http.Error(w, "no", http.StatusServiceUnavailable) }
	wrong := func(w http.ResponseWriter) { reply(w, http.StatusInternalServerError, `{"code":"internal_error"}`) }
	decide := func(c *client.Client) error { _, err := c.Decide(t.Context(), question); return err }
	ask := func(c *client.Client) error {
		_, err := c.Approval(t.Context(), client.ApprovalRequest{Petitioners: []client.Petitioner{{ID: "u"}}, Resources: []client.Resource{{Kind: "customer", ID: "acme"}}})
		return err
	}
	for _, tt := range []struct {
		name string
		fail func(http.ResponseWriter)
		call func(*client.Client) error
		want int64
	}{
		{"a decision while busy", busy, decide, 3},
		{"a decision whose connection ends", ended, decide, 3},
		{"a decision that a proxy cannot pass on", proxy, decide, 3},
		{"a decision that fails", wrong, decide, 1},
		{"an approval while busy", busy, ask, 3},
		{"an approval whose connection ends", ended, ask, 1},
		{"an approval that a proxy cannot pass on", proxy, ask, 1},
		{"an approval that fails", wrong, ask, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var calls atomic.Int64
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) { calls.Add(1); tt.fail(w) })
			client.WithoutPauses(c)
			if err := tt.call(c); err == nil || calls.Load() != tt.want {
				t.Errorf("%d calls, want %d: %v", calls.Load(), tt.want, err)
			}
		})
	}
}

func TestRepeats_EndWithTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, calls := time.Now(), 0
		c := newClient(t, client.Config{URL: "http://127.0.0.1:1", Timeout: 3 * time.Second, HTTPClient: &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			calls++
			<-r.Context().Done()
			return nil, r.Context().Err()
		})}})
		_, err := c.Decide(t.Context(), question)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 3*time.Second || calls != 1 {
			t.Errorf("%v after %v and %d calls", err, time.Since(start), calls)
		}
	})
}

func TestUpdateResources_SendsPartsAndTellsOfEach(t *testing.T) {
	calls := 0
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		calls++
		var in struct{ Resources []map[string]any }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.URL.Path != "/v1/resources:bulkUpdate" {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		if _, named := in.Resources[0]["labels"]; named {
			t.Error("labels that nobody named are sent, and would be taken away")
		}
		items := make([]string, len(in.Resources))
		for i := range items {
			items[i] = `{"kind":"customer","id":"x","labels":{"plan":"pro"}}`
		}
		items[0] = `{"error":{"status":400,"code":"invalid_id","message":"no"}}`
		reply(w, http.StatusOK, `{"resources":[`+strings.Join(items, ",")+`]}`)
	})
	updates := make([]client.ResourceUpdate, 20_001)
	stored, err := c.UpdateResources(t.Context(), updates)
	if err != nil || len(stored) != len(updates) || calls != 2 || stored[0].Error == nil || stored[1].Labels["plan"] != "pro" {
		t.Errorf("%d stored in %d calls: %v", len(stored), calls, err)
	}
	if stored, err := c.UpdateResources(t.Context(), nil); err != nil || len(stored) != 0 || calls != 2 {
		t.Errorf("nothing: %v, %v", stored, err)
	}
}
