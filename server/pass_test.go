package server_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/server"
)

// upstream is a control plane as a sidecar's server sees it.
type upstream struct {
	mu     sync.Mutex
	got    []*http.Request
	bodies []string
	answer func(*http.Request) (*http.Response, error)
}

func (u *upstream) RoundTrip(r *http.Request) (*http.Response, error) {
	body := []byte{}
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	u.mu.Lock()
	u.got, u.bodies = append(u.got, r), append(u.bodies, string(body))
	u.mu.Unlock()
	if u.answer != nil {
		return u.answer(r)
	}
	return reply200(`{"passed":true}`), nil
}

func (u *upstream) last(t *testing.T) (*http.Request, string) {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.got) == 0 {
		t.Fatal("nothing was passed on")
	}
	return u.got[len(u.got)-1], u.bodies[len(u.bodies)-1]
}

func (u *upstream) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.got)
}

func reply200(body string, headers ...string) *http.Response {
	r := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func startSidecar(t *testing.T, u *upstream, change ...func(*options)) *api {
	t.Helper()
	return start(t, func(o *options) {
		o.config.Upstream = u
		for _, c := range change {
			c(o)
		}
	})
}

// What a sidecar knows it answers; the rest is the control plane's, with the
// credential of who asks.
func TestPass_OnlyWhatIsNotAnsweredHere(t *testing.T) {
	u := &upstream{}
	a := startSidecar(t, u)
	const decision = `{"subject":{"type":"access_key","id":"x"},"action":{"name":"read"},"resource":{"type":"policies","id":"x"}}`
	for _, call := range [][3]string{
		{"POST", "/decision", decision}, {"POST", "/decision/batch", decision}, {"POST", "/decision/explain", decision}, {"POST", "/decision/main", decision},
		{"POST", "/access/v1/evaluation", decision}, {"POST", "/access/v1/evaluations", decision},
		{"POST", "/v1/access_keys/verify", `{"key":"x"}`}, {"GET", "/health/live", ""}, {"GET", "/health/ready", ""}, {"GET", "/.well-known/authzen-configuration", ""},
	} {
		a.do(call[0], call[1], a.root, call[2])
		if u.count() != 0 {
			t.Fatalf("%v was passed on", call)
		}
	}
	for i, call := range [][2]string{
		{"GET", "/v1/access_keys"}, {"POST", "/v1/access_keys"}, {"DELETE", "/v1/policies/a%2Fb"}, {"GET", "/v1/auditing/export?from=x&x=%20"}, {"PATCH", "/v1/sets/x"}, {"PUT", "/v1/policies/x"},
		{"OPTIONS", "/v1/access_keys"}, {"GET", "/nothing"}, {"GET", "/"}, {"GET", "/decision"}, {"POST", "/access/v1/search/subject"}, {"GET", "/openapi.yaml"}, {"GET", "/v1/sidecar/feed?x=1"},
	} {
		body := ""
		if call[0] == "POST" || call[0] == "PUT" || call[0] == "PATCH" {
			body = `{"a":1}`
		}
		r := a.do(call[0], call[1], "theirs", body)
		got, sent := u.last(t)
		if u.count() != i+1 || r.status != http.StatusOK || !r.get("passed").Bool() {
			t.Fatalf("%v: %d %s; %d passed on", call, r.status, r.body, u.count())
		}
		if got.Method != call[0] || got.URL.RequestURI() != call[1] || sent != body || got.Header.Get("Authorization") != "Bearer theirs" {
			t.Errorf("%v came as %s %s with %q and %q", call, got.Method, got.URL.RequestURI(), sent, got.Header.Get("Authorization"))
		}
	}
	if r := a.do("GET", "/v1/access_keys", "", ""); r.status != http.StatusOK {
		t.Error(r.body)
	}
	if got, _ := u.last(t); len(got.Header.Values("Authorization")) != 0 {
		t.Errorf("a credential was added: %v", got.Header)
	}
}

func TestPass_DropsWhatIsAboutOneConnection(t *testing.T) {
	u := &upstream{answer: func(*http.Request) (*http.Response, error) {
		return reply200(`{}`, "Connection", "X-Private", "X-Private", "1", "Keep-Alive", "timeout=5", "Upgrade", "h2c", "Etag", `"e"`, "X-Request-Id", "another",
			"Warning", "a", "Warning", "b", "Www-Authenticate", "Bearer"), nil
	}}
	a := startSidecar(t, u)
	reply := a.wire(t, "GET /v1/x HTTP/1.1\r\nHost: evil.example\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 1\r\nProxy-Authorization: Basic x\r\n"+
		"TE: trailers\r\nTrailer: X-A\r\nUpgrade: websocket\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nX-Request-ID: mine\r\nAccept: a\r\nAccept: b\r\nAuthorization: Bearer one\r\nAuthorization: Bearer two\r\n\r\n")
	got, _ := u.last(t)
	for _, name := range []string{"Connection", "X-Secret", "Keep-Alive", "Proxy-Authorization", "Te", "Trailer", "Upgrade", "Host", "Content-Length", "Transfer-Encoding"} {
		if v := got.Header.Values(name); len(v) != 0 {
			t.Errorf("%s: %q was passed on", name, v)
		}
	}
	if got.Host == "evil.example" {
		t.Error("the client's Host was passed on")
	}
	if v := got.Header["X-Forwarded-For"]; len(v) != 1 || v[0] != "6.6.6.6, 7.7.7.7, 127.0.0.1" {
		t.Errorf("X-Forwarded-For: %q", v)
	}
	if v := got.Header.Values("Authorization"); len(v) != 2 { // the control plane refuses them, as it must see
		t.Errorf("Authorization: %q", v)
	}
	if v := got.Header.Values("Accept"); len(v) != 2 || got.Header.Get("X-Request-Id") != "mine" || got.Header.Get("User-Agent") != "" {
		t.Errorf("%v", got.Header)
	}
	head, _, _ := strings.Cut(reply, "\r\n\r\n")
	for _, want := range []string{"Etag: \"e\"", "Warning: a", "Warning: b", "Www-Authenticate: Bearer", "X-Request-Id: mine"} {
		if !strings.Contains(strings.ToLower(head), strings.ToLower(want)) {
			t.Errorf("without %s:\n%s", want, head)
		}
	}
	for _, no := range []string{"X-Private", "Keep-Alive", "Upgrade", "another"} {
		if strings.Contains(strings.ToLower(head), strings.ToLower(no)) {
			t.Errorf("with %s:\n%s", no, head)
		}
	}
}

// wire sends text as it is on a connection of its own, and reads the one reply.
func (a *api) wire(t *testing.T, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", a.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	reply, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) { // what it did not read it resets
		t.Fatalf("%v after %q", err, reply)
	}
	return string(reply)
}

// Of a request that two readers could read in two ways nothing reaches the
// control plane but the one request that was read here.
func TestPass_SmugglesNothing(t *testing.T) {
	u := &upstream{}
	a := startSidecar(t, u)
	inner := "GET /v1/admin HTTP/1.1\r\nHost: h\r\n\r\n"
	for name, text := range map[string]string{
		"length and chunks":     "POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner,
		"chunks and length":     "POST /v1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + inner,
		"two lengths":           "POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 40\r\nConnection: close\r\n\r\n" + inner,
		"another coding":        "POST /v1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\nConnection: close\r\n\r\n0\r\n\r\n" + inner,
		"a blank in the name":   "POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length : 40\r\nConnection: close\r\n\r\n" + inner,
		"a bare line feed":      "POST /v1/x HTTP/1.1\r\nHost: h\r\nX: a\nContent-Length: 40\r\nConnection: close\r\n\r\n" + inner,
		"Connection hides it":   "POST /v1/x HTTP/1.1\r\nHost: h\r\nConnection: close, Content-Length\r\nContent-Length: 2\r\n\r\n{}",
		"a line in the target":  "GET /v1/x%0d%0aX:%20y HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
		"another host's target": "GET http://evil.example//evil.example/v1/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
	} {
		before := u.count()
		a.wire(t, text)
		if u.count() > before+1 {
			t.Errorf("%s: %d requests were passed on", name, u.count()-before)
		}
		if u.count() == before {
			continue
		}
		got, body := u.last(t)
		if got.URL.Path == "/v1/admin" || strings.Contains(got.URL.RequestURI(), "admin") || strings.Contains(got.URL.RequestURI(), "evil.example") {
			t.Errorf("%s: %s was passed on", name, got.URL.RequestURI())
		}
		if int64(len(body)) != got.ContentLength || got.Header.Get("Transfer-Encoding") != "" || len(got.TransferEncoding) != 0 {
			t.Errorf("%s: %d bytes as %d, %v", name, len(body), got.ContentLength, got.TransferEncoding)
		}
		for field, values := range got.Header {
			for _, v := range values {
				if strings.ContainsAny(field+v, "\r\n\x00") {
					t.Errorf("%s: header %q: %q", name, field, v)
				}
			}
		}
	}
}

// The control plane may lie under a path of a host that has others too.
func TestPass_LeadsNowhereAboveTheControlPlane(t *testing.T) {
	u := &upstream{}
	a := startSidecar(t, u)
	for target, passes := range map[string]bool{
		"/../admin": false, "/v1/../../admin": false, "/..": false, "/%2e%2e/admin": false, "/.%2E/admin": false, "/v1/..%2f..%2fadmin": false,
		"/..;/admin": false, "/..;x=1/admin": false, "/\\..\\admin": false, "/..%5cadmin": false, "/v1//../../admin": false, "/./../admin": false, "/%zz/x": false,
		"http://h/../admin":             false,
		"/v1/resources/file/a%2F..%2Fb": true, "/v1/sets/...": true, "/v1/sets/x/values/..": true, "/v1/%252e%252e/x": true,
	} {
		before := u.count()
		reply := a.wire(t, "GET "+target+" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		if passed := u.count() > before; passed != passes || !passes && !strings.HasPrefix(reply, "HTTP/1.1 404") {
			t.Errorf("%s: passed on: %t; %.40q", target, passed, reply)
		}
	}
}

// What the next HTTP client would not send is the client's mistake, and none of
// the control plane's.
func TestPass_RefusesAHeaderThatIsNone(t *testing.T) {
	u := &upstream{}
	a := startSidecar(t, u)
	for _, line := range []string{"X A: b", "X-A : b", "X-A\t: b", "Authorization : Bearer x", "X-A: a\x01b", "X-A: a\x7fb", "X(A: b", ": b"} {
		reply := a.wire(t, "GET /v1/x HTTP/1.1\r\nHost: h\r\n"+line+"\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(reply, "HTTP/1.1 400") || u.count() != 0 {
			t.Errorf("%q: %.40q", line, reply)
		}
	}
}

func TestPass_KeepsTheLimits(t *testing.T) {
	u := &upstream{}
	a := startSidecar(t, u)
	if r := a.do("POST", "/v1/access_keys", "k", strings.Repeat("x", 65<<10)); r.status != http.StatusRequestEntityTooLarge {
		t.Errorf("a large body: %d", r.status)
	}
	if r := a.do("GET", "/v1/access_keys?x="+a.root, "k", ""); r.status != http.StatusBadRequest || r.get("errors.0.code").String() != "credential_in_query" {
		t.Errorf("a key in the query: %d %s", r.status, r.body)
	}
	for _, call := range [][2]string{{"TRACE", "/v1/x"}, {"GET", "//v1/x"}} {
		if r := a.do(call[0], call[1], "k", ""); r.status < 400 || r.status > 501 {
			t.Errorf("%v: %d", call, r.status)
		}
	}
	if u.count() != 0 {
		t.Errorf("%d requests were passed on", u.count())
	}
	if r := a.do("PUT", "/v1/sets/x", "k", strings.Repeat("x", 1<<20)); r.status != http.StatusOK {
		t.Errorf("a set: %d", r.status)
	}
}

func TestPass_WithoutTheControlPlaneSaysSo(t *testing.T) {
	u := &upstream{answer: func(*http.Request) (*http.Response, error) { return nil, errors.New("dial tcp 10.0.0.1: refused") }}
	a := startSidecar(t, u)
	r := a.do("GET", "/v1/access_keys", "k", "")
	if r.status != http.StatusServiceUnavailable || r.get("code").String() != "control_plane_unreachable" || r.header.Get("Retry-After") == "" || strings.Contains(r.body, "10.0.0.1") {
		t.Errorf("%d %v %s", r.status, r.header, r.body)
	}
}

// What comes in pieces goes on in pieces.
func TestPass_StreamsTheReply(t *testing.T) {
	pieces, ended := make(chan string, 1), make(chan struct{})
	u := &upstream{answer: func(r *http.Request) (*http.Response, error) {
		from, to := io.Pipe()
		go func() {
			defer to.Close()
			for p := range pieces {
				if _, err := io.WriteString(to, p); err != nil {
					break
				}
			}
		}()
		go func() { <-r.Context().Done(); close(ended) }()
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/x-ndjson"}}, Body: from, ContentLength: -1}, nil
	}}
	a := startSidecar(t, u)
	pieces <- "line 0\n" // the head goes with what comes first
	res, err := a.client.Get("http://" + a.addr + "/v1/auditing/export")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	for i := range 3 {
		want := fmt.Sprintf("line %d\n", i)
		if i > 0 {
			pieces <- want
		}
		if line, err := lines.ReadString('\n'); err != nil || line != want {
			t.Fatalf("%q, %v", line, err)
		}
	}
	close(pieces)
	if rest, err := io.ReadAll(lines); err != nil || len(rest) != 0 {
		t.Errorf("%q, %v", rest, err)
	}
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("the request to the control plane goes on after its reply")
	}
}

func TestPass_AnswersWithoutABody(t *testing.T) {
	status := http.StatusNotModified
	u := &upstream{answer: func(r *http.Request) (*http.Response, error) {
		res := &http.Response{StatusCode: status, Header: http.Header{"Etag": {`"e"`}}, Body: http.NoBody}
		if r.Method == http.MethodHead {
			res.StatusCode, res.ContentLength = http.StatusOK, 42
		}
		return res, nil
	}}
	a := startSidecar(t, u)
	for _, want := range []int{http.StatusNotModified, http.StatusNoContent} {
		status = want
		if r := a.do("GET", "/v1/x", "k", ""); r.status != want || r.body != "" || r.header.Get("Etag") == "" || r.header.Get("Content-Type") != "" {
			t.Errorf("%d: %d %q %v", want, r.status, r.body, r.header)
		}
	}
	if r := a.do("HEAD", "/v1/x", "k", ""); r.status != http.StatusOK || r.body != "" || r.header.Get("Content-Length") != "42" {
		t.Errorf("HEAD: %d %v", r.status, r.header)
	}
	if r := a.do("GET", "/health/live", "k", ""); r.status != http.StatusOK { // the connection is still in step
		t.Errorf("after them: %d", r.status)
	}
}

// While nothing can be decided, what is passed on still is: it is how an operator
// mends it.
func TestPass_GoesOnWhileNothingCanBeDecided(t *testing.T) {
	u := &upstream{}
	a := startSidecar(t, u, func(o *options) {
		o.config.Ready = func(latchkey.Instant) server.Readiness { return server.Readiness{Code: authz.Stale, Detail: "x"} }
	})
	if r := a.do("GET", "/v1/access_keys", "k", ""); r.status != http.StatusOK {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := a.do("POST", "/decision", "nobody", `{}`); r.status != http.StatusOK || r.get("context.reasons.0.code").String() != "stale" {
		t.Errorf("%d %s", r.status, r.body)
	}
}
