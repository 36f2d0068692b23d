package control_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/control"
	"github.com/latchkey-dev/latchkey/feed"
)

const ownKey = "lk1_live_0123456789AB_own"

func signer(t *testing.T, seed byte) *feed.Signer {
	t.Helper()
	b := make([]byte, 32)
	b[0] = seed
	s, err := feed.NewSigner(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// client talks to a control plane that a test makes up.
func client(t *testing.T, answer http.HandlerFunc, change ...func(*control.Config)) *control.Client {
	t.Helper()
	srv := httptest.NewServer(answer)
	t.Cleanup(srv.Close)
	cfg := control.Config{URL: srv.URL, Key: ownKey, Timeout: 2 * time.Second,
		Verifier: func() *feed.Verifier { return feed.NewVerifier(signer(t, 1).Public()) }}
	for _, c := range change {
		c(&cfg)
	}
	c, err := control.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestNew_SendsNoKeyInPlainTextOverTheNetwork(t *testing.T) {
	t.Parallel()
	for address, fine := range map[string]bool{
		"http://127.0.0.1:1": true, "http://localhost:1": true, "http://[::1]:1": true, "https://latchkey.internal": true, "https://latchkey.internal/under": true, "unix:/run/l.sock": true,
		"http://latchkey.internal": false, "http://10.0.0.1:5539": false, "http://localhost.evil.example": false, "unix:relative.sock": false,
		"https://user:secret@h": false, "ftp://h": false, "https://": false, "https://h?x": false, "https://h?": false, "https://h#f": false, "": false, "::": false,
	} {
		_, err := control.New(control.Config{URL: address, Key: ownKey})
		if (err == nil) != fine {
			t.Errorf("%q: %v", address, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error tells it", address)
		}
	}
	if _, err := control.New(control.Config{URL: "http://10.0.0.1:5539", Key: ownKey, AllowInsecure: true}); err != nil {
		t.Errorf("allowed: %v", err)
	}
	for _, key := range []string{"", "a\r\nX: y", "a b"} {
		if _, err := control.New(control.Config{URL: "https://h", Key: key}); err == nil {
			t.Errorf("the key %q is taken", key)
		}
	}
}

func TestClient_AsksAsTheWireSays(t *testing.T) {
	t.Parallel()
	s := signer(t, 1)
	rec := &feed.Record{Customer: "acme", Ref: feed.Ref{Kind: feed.Subject, Type: "user", ID: "a/b &c"}, Version: 7, Epoch: 1, Body: json.RawMessage(`null`)}
	text, err := s.SignRecord(rec)
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	c := client(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("Prefer"))
		if r.Header.Get("Authorization") != "Bearer "+ownKey {
			t.Errorf("credential %q", r.Header.Get("Authorization"))
		}
		switch r.URL.Path {
		case "/v1/sidecar/verification_keys":
			io.WriteString(w, `{"customer":"acme","epoch":3,"head":9,"policies":4,"max_staleness":"30s","keys":[{"id":"x","public_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},{"id":"short","public_key":"AAAA"}]}`)
		case "/v1/sidecar/feed":
			io.WriteString(w, `{"epoch":3,"head":9,"from":8,"messages":["m1","m2"],"heartbeat":"h"}`)
		case "/v1/sidecar/subjects":
			w.Write(append(text, '\n'))
		}
	})
	w, err := c.Welcome(t.Context())
	if err != nil || w.Customer != "acme" || w.Epoch != 3 || w.Head != 9 || w.Policies != 4 || len(w.Keys) != 2 || len(w.Public()) != 1 {
		t.Errorf("%+v, %v", w, err)
	}
	p, err := c.Feed(t.Context(), 3, 7, "node-1", 2500*time.Millisecond)
	if err != nil || p.From != 8 || len(p.Messages) != 2 || p.Heartbeat != "h" {
		t.Errorf("%+v, %v", p, err)
	}
	got, err := c.Fetch(t.Context(), "acme", rec.Ref)
	if err != nil || got.Version != 7 || got.Exists() {
		t.Errorf("%+v, %v", got, err)
	}
	want := []string{"GET /v1/sidecar/verification_keys ", "GET /v1/sidecar/feed?after=7&epoch=3&node=node-1 wait=2", "GET /v1/sidecar/subjects?id=a%2Fb+%26c&type=user "}
	if strings.Join(asked, "\n") != strings.Join(want, "\n") {
		t.Errorf("asked\n%s", strings.Join(asked, "\n"))
	}
}

func TestFetch_TakesNothingThatIsNotSignedForWhatWasAsked(t *testing.T) {
	t.Parallel()
	ref := feed.Ref{Kind: feed.Resource, Type: "doc", ID: "a"}
	good := feed.Record{Customer: "acme", Ref: ref, Version: 7, Epoch: 1, Body: json.RawMessage(`{}`)}
	other, foreign := good, good
	other.Ref.ID, foreign.Customer = "b", "other"
	sign := func(s *feed.Signer, r feed.Record) string {
		text, err := s.SignRecord(&r)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for name, text := range map[string]string{
		"garbage": "lk1r what?", "nothing": "", "another's key": sign(signer(t, 2), good), "another record": sign(signer(t, 1), other), "another customer's": sign(signer(t, 1), foreign),
	} {
		c := client(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) })
		if rec, err := c.Fetch(t.Context(), "acme", ref); err == nil || latchkey.KindOf(err) == latchkey.NotFound || c.Refused() != 1 {
			t.Errorf("%s: %+v, %v, %d refused", name, rec, err, c.Refused())
		}
	}
}

// That there is no such key is believed of latchkey alone: a proxy that knows of
// nothing would make every key unknown.
func TestFetch_BelievesNotFoundOfLatchkeyAlone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		body   string
		kind   latchkey.Kind
	}{
		"latchkey":          {404, `{"type":"urn:latchkey:problem:key_not_found","code":"key_not_found"}`, latchkey.NotFound},
		"a proxy":           {404, `<h1>not found</h1>`, latchkey.Unavailable},
		"an older latchkey": {404, `{"type":"urn:latchkey:problem:route_not_found","code":"route_not_found"}`, latchkey.Unavailable},
		"the code alone":    {500, `{"type":"urn:latchkey:problem:key_not_found","code":"key_not_found"}`, latchkey.Unavailable},
		"a redirect":        {302, ``, latchkey.Unavailable},
		"refused":           {401, `{"code":"invalid_credential"}`, latchkey.Unavailable},
	} {
		cl := client(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			io.WriteString(w, c.body)
		})
		if _, err := cl.Fetch(t.Context(), "acme", feed.Ref{Kind: feed.Secret, ID: "0123456789AB"}); latchkey.KindOf(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestClient_FollowsNoRedirectWithItsKey(t *testing.T) {
	t.Parallel()
	reached := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer elsewhere.Close()
	c := client(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	})
	if _, err := c.Welcome(t.Context()); err == nil {
		t.Error("a redirect is an answer")
	}
	if _, err := c.Proves(t.Context(), []byte("x")); err == nil {
		t.Error("a redirect is a proof")
	}
	if reached {
		t.Error("the redirect was followed")
	}
}

func TestClient_ReadsNoMoreThanItMust(t *testing.T) {
	t.Parallel()
	c := client(t, func(w http.ResponseWriter, _ *http.Request) {
		chunk := []byte(strings.Repeat(" ", 1<<20))
		for range 20 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	if _, err := c.Welcome(t.Context()); latchkey.KindOf(err) != latchkey.Unavailable {
		t.Error(err)
	}
	if _, err := c.Fetch(t.Context(), "acme", feed.Ref{Kind: feed.Key, ID: "x"}); latchkey.KindOf(err) != latchkey.Unavailable {
		t.Error(err)
	}
}

func TestClient_WaitsNoLongerThanItSays(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	c := client(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}, func(c *control.Config) { c.Timeout = 50 * time.Millisecond })
	defer close(release)
	begun := time.Now()
	if _, err := c.Welcome(t.Context()); latchkey.KindOf(err) != latchkey.Unavailable {
		t.Error(err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestProves_IsWhatTheControlPlaneFound(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{"valid": true, "key_expired": true, "key_revoked": true, "key_unknown": false} {
		c := client(t, func(w http.ResponseWriter, r *http.Request) {
			if body, _ := io.ReadAll(r.Body); string(body) != `{"key":"lk1_test"}` || r.Method != http.MethodPost {
				t.Errorf("%s %s", r.Method, body)
			}
			json.NewEncoder(w).Encode(map[string]any{"valid": code == "valid", "code": code})
		})
		if got, err := c.Proves(t.Context(), []byte("lk1_test")); err != nil || got != want {
			t.Errorf("%s: %v, %v", code, got, err)
		}
	}
	c := client(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"valid":true}`) })
	if got, err := c.Proves(t.Context(), []byte("x")); err == nil || got {
		t.Errorf("an answer of another form: %v, %v", got, err)
	}
}

// What is passed on is somebody else's: their credential, and never the
// sidecar's.
func TestRoundTrip_AddsNoCredential(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "l.sock")
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var got *http.Request
	srv := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r })}
	go srv.Serve(ln)
	defer srv.Close()
	c := client(t, nil, func(c *control.Config) { c.URL = "unix:" + socket })
	for _, given := range []http.Header{{}, {"Authorization": {"Bearer theirs"}}} {
		req := (&http.Request{Method: http.MethodGet, URL: &url.URL{Opaque: "/v1/a%2Fb", RawQuery: "q=1"}, Header: given}).WithContext(context.Background())
		resp, err := c.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got.RequestURI != "/v1/a%2Fb?q=1" || got.Header.Get("Authorization") != given.Get("Authorization") {
			t.Errorf("%s with %q", got.RequestURI, got.Header.Get("Authorization"))
		}
	}
	under := client(t, nil, func(c *control.Config) { c.URL = "http://" + tcp(t, srv.Handler) + "/under/" })
	resp, err := under.RoundTrip((&http.Request{Method: http.MethodGet, URL: &url.URL{Opaque: "/v1/x"}, Header: http.Header{}}).WithContext(context.Background()))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got.RequestURI != "/under/v1/x" {
		t.Errorf("below a path: %s", got.RequestURI)
	}
}

func tcp(t *testing.T, h http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}
