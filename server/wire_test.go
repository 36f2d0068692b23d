package server_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// wire is a connection on which a test writes what no client would send.
type wire struct {
	testing.TB
	net.Conn
	r *bufio.Reader
}

func (a *api) dial() *wire {
	a.Helper()
	conn, err := net.Dial("tcp", a.addr)
	if err != nil {
		a.Fatal(err)
	}
	a.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil { // of the test, not of the server
		a.Fatal(err)
	}
	return &wire{TB: a.TB, Conn: conn, r: bufio.NewReader(conn)}
}

// send writes; the server may have closed already.
func (w *wire) send(text string) {
	w.Helper()
	_, _ = io.WriteString(w.Conn, text)
}

// answer reads one reply.
func (w *wire) answer() (status int, header http.Header, body string) {
	w.Helper()
	res, err := http.ReadResponse(w.r, nil)
	if err != nil {
		w.Fatalf("read the answer: %v", err)
	}
	defer res.Body.Close() // read whole
	body, err = readAll(res.Body)
	if err != nil {
		w.Fatalf("read the answer: %v", err)
	}
	return res.StatusCode, res.Header, body
}

// closed waits until the server ends the connection.
func (w *wire) closed() {
	w.Helper()
	_, err := w.r.ReadByte()
	var timeout net.Error
	if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		w.Errorf("the connection stays open: %v", err)
	}
}

// raw sends one request as it stands.
func (a *api) raw(request string) (int, string) {
	a.Helper()
	w := a.dial()
	w.send(request)
	status, _, body := w.answer()
	return status, body
}

func withLength(body string) string {
	return "Content-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
}

func head(target string) string {
	return "POST " + target + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
}

const kib = 1 << 10

// bodyLimits are the limits by route, in bytes.
var bodyLimits = map[string]int{
	"/v1/access_keys": 64 * kib, "/v1/access_keys/9017501f-9fa4-4a88-b657-5bd49c1bb722/rotate": 64 * kib, "/v1/customers": 64 * kib,
	"/v1/access_keys/verify": 64 * kib, "/v1/introspect": 64 * kib, "/nothing": 64 * kib,
	"/decision": 256 * kib, "/decision/main": 256 * kib, "/decision/explain": 256 * kib, "/access/v1/evaluation": 256 * kib,
	"/decision/batch": 1024 * kib, "/access/v1/evaluations": 1024 * kib,
	"/v1/users": 64 * kib, "/v1/groups": 64 * kib, "/v1/entitlements": 64 * kib, "/v1/grants": 64 * kib, "/v1/approvals": 64 * kib, "/v1/tasks": 64 * kib, "/v1/webhooks": 64 * kib,
	"/v1/access-request-templates": 64 * kib, "/api/v1/access-requests": 64 * kib, "/v1/access-requests/9017501f-9fa4-4a88-b657-5bd49c1bb722/messages": 64 * kib,
}

func TestBodyLimit_IsToldFromTheLengthBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	a := start(t)
	for path, limit := range bodyLimits {
		for _, length := range []int64{int64(limit) + 1, 1 << 40, 1<<63 - 1} {
			w := a.dial()
			w.send(head(path) + fmt.Sprintf("Content-Length: %d\r\n\r\n", length)) // and nothing more
			status, header, body := w.answer()
			if status != 413 || strings.HasPrefix(path, "/access/v1/") == strings.Contains(header.Get("Content-Type"), "problem") {
				t.Errorf("%s, %d bytes: %d %s %s", path, length, status, header.Get("Content-Type"), body)
			}
			w.closed()
		}
		// One byte less is read, and answered for what is next: 401, or 404.
		status, body := a.raw(head(path) + withLength(strings.Repeat(" ", limit)))
		if want := map[bool]int{true: 404, false: 401}[path == "/nothing"]; status != want {
			t.Errorf("%s, at the limit: %d %s", path, status, body)
		}
	}
}

func TestBodyLimit_HoldsForChunks(t *testing.T) {
	t.Parallel()
	a := start(t)
	for path, limit := range bodyLimits {
		w := a.dial()
		w.send(head(path) + "Transfer-Encoding: chunked\r\n\r\n")
		chunk := fmt.Sprintf("%x\r\n%s\r\n", 16*kib, bytes.Repeat([]byte(" "), 16*kib))
		for sent := 0; sent <= limit; sent += 16 * kib {
			w.send(chunk)
		}
		if status, _, body := w.answer(); status != 413 {
			t.Errorf("%s: %d %s", path, status, body)
		}
		w.closed()
	}
	w := a.dial()
	w.send(head("/v1/access_keys") + "Transfer-Encoding: chunked\r\n\r\nffffffff\r\n") // one chunk that says too much
	if status, _, body := w.answer(); status != 413 {
		t.Errorf("huge chunk: %d %s", status, body)
	}
}

func TestBodyLimit_IsThatOfTheRouteHoweverTheTargetIsWritten(t *testing.T) {
	t.Parallel()
	a := start(t)
	for target, limit := range map[string]int{
		"/v1/access_keys?x=/decision/batch":            64 * kib,
		"/v1/access_keys?next=http://h/decision/batch": 64 * kib,
		"/v1/access_keys#http://h/decision/batch":      64 * kib,
		"http://x/v1/access_keys":                      64 * kib,
		"http://x/v1/access_keys?y=//h/decision/batch": 64 * kib,
		"http://x?/decision/batch":                     64 * kib,
		"http://x/decision/batch":                      1024 * kib,
		"http://x/decision/batch?a=b":                  1024 * kib,
		"/decision/batch?a=b":                          1024 * kib,
		"/decision/../v1/access_keys":                  256 * kib,
		"/decision/batch/../../v1/access_keys":         256 * kib,
		"/decision/a://x/v1/access_keys":               256 * kib,
		"/DECISION/BATCH":                              64 * kib,
		"//decision/batch":                             64 * kib,
		"/v1/access_keys;/decision/batch":              64 * kib,
	} {
		// Nothing is normalised: "/decision/.." is a path below /decision, which
		// no route answers.
		w := a.dial()
		w.send(head(target) + fmt.Sprintf("Content-Length: %d\r\n\r\n", limit+1))
		status, _, body := w.answer()
		if status != 413 {
			t.Errorf("%s: %d %s", target, status, body)
		}
		if status, body := a.raw(head(target) + withLength(strings.Repeat(" ", limit))); status == 413 {
			t.Errorf("%s, at the limit: %d %s", target, status, body)
		}
	}
}

func TestMalformedHTTP_IsRefusedAndClosed(t *testing.T) {
	t.Parallel()
	a := start(t)
	for name, request := range map[string]string{
		"no HTTP at all":         "hello\r\n\r\n",
		"two lengths":            head("/decision") + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
		"bad length":             head("/decision") + "Content-Length: two\r\n\r\n{}",
		"negative length":        head("/decision") + "Content-Length: -2\r\n\r\n{}",
		"plus length":            head("/decision") + "Content-Length: +2\r\n\r\n{}",
		"unknown coding":         head("/decision") + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"blank before the colon": head("/decision") + "X-Customer-ID : a\r\nContent-Length: 2\r\n\r\n{}",
		"bad chunk":              head("/decision") + "Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
		"huge headers":           head("/decision") + "X-Long: " + strings.Repeat("x", 16*kib) + "\r\n\r\n",
		"huge target":            "GET /" + strings.Repeat("x", 16*kib) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"many headers":           head("/decision") + strings.Repeat("X-A: b\r\n", 4000) + "\r\n",
	} {
		w := a.dial()
		w.send(request)
		status, header, body := w.answer()
		if status < 400 || status >= 500 || header.Get("Content-Type") != "application/problem+json" || strings.Contains(body, "invalid_credential") {
			t.Errorf("%s: %d %s %s", name, status, header, body)
		}
		if strings.HasPrefix(name, "huge") && !strings.Contains(body, "headers_too_large") {
			t.Errorf("%s: %s", name, body)
		}
		w.closed()
	}
}

// A request with a length and chunks is answered by its chunks, and nothing
// behind it is taken for a request: a proxy may have seen another end.
func TestSmuggling_NothingIsReadBehindAnAmbiguousBody(t *testing.T) {
	t.Parallel()
	a := start(t)
	for _, framing := range []string{"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\ncontent-length: 5\r\n"} {
		w := a.dial()
		w.send(head("/decision") + framing + "\r\n0\r\n\r\nGET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
		if status, _, body := w.answer(); status != 401 {
			t.Errorf("%d %s", status, body)
		}
		w.closed()
	}
}

func TestSlowClients_AreCutOffAtTheReadTimeout(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) {
		o.config.ReadTimeout, o.config.IdleTimeout = 150*time.Millisecond, 150*time.Millisecond
	})
	for name, begun := range map[string]string{
		"nothing":        "",
		"half a line":    "POST /deci",
		"half a header":  "POST /decision HTTP/1.1\r\nHos",
		"half a body":    head("/decision") + "Content-Length: 10\r\n\r\n{",
		"half a chunk":   head("/decision") + "Transfer-Encoding: chunked\r\n\r\n5\r\n{",
		"no more chunks": head("/decision") + "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := a.dial()
			w.TB = t
			w.send(begun)
			rest, err := io.ReadAll(w.r) // ends when the server closes
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Errorf("still open after %q", rest)
			}
			if len(rest) > 0 && !bytes.Contains(rest, []byte("request_timeout")) && !bytes.Contains(rest, []byte("malformed_request")) {
				t.Errorf("answered %q", rest)
			}
		})
	}
	a.do("GET", "/health/ready", "", "").is(200) // the others are served
}

func TestKeepAlive_StateOfOneRequestNeverReachesTheNext(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true,"policies":[{"f":"*","p":2}]}`)
	w := a.dial()
	allowed := evaluation(subject(k.id), "read", "policies", "x")
	denied := evaluation(subject(k.id), "update", "policies", "x")
	bearer := "Authorization: Bearer " + k.secret + "\r\n"
	w.send(head("/decision") + bearer + withLength(allowed) + // pipelined
		head("/decision") + withLength(allowed) +
		head("/decision") + bearer + withLength(denied) +
		head("/decision") + bearer + withLength(`{}`) +
		head("/decision") + bearer + withLength(allowed))
	for i, want := range []string{`"decision":true`, `"invalid_credential"`, `"decision":false`, `"missing_member"`, `"decision":true`} {
		if status, _, body := w.answer(); !strings.Contains(body, want) {
			t.Errorf("request %d: %d %s, want %s", i, status, body, want)
		}
	}
}
