package server_test

import (
	"bufio"
	"context"
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

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/server"
)

// write puts n events straight into a chain.
func (a *api) write(chain string, n int) {
	a.Helper()
	for i := range n {
		err := a.db.Change(context.Background(), authz.Change{Chain: chain, At: latchkey.InstantOf(a.clock.now())}, func(authz.Tx) (audit.Draft, error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.written++
			return audit.Draft{ID: fmt.Sprintf("%s-%d", chain, a.written), At: latchkey.InstantOf(a.clock.now()), Actor: audit.Actor{Type: "system", ID: "system"},
				Action: "test.write", Resource: audit.Resource{Type: "test"}, Outcome: "success", Changes: fmt.Sprintf(`{"n":%d,"pad":"%s"}`, i, strings.Repeat("x", 8<<10))}, nil
		})
		if err != nil {
			a.Error(err)
			return
		}
	}
}

// open begins an export and leaves reading it to the test.
func (a *api) open(query, credential string) *http.Response {
	a.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+a.addr+"/v1/auditing/export"+query, nil)
	if err != nil {
		a.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+credential)
	resp, err := a.client.Do(req)
	if err != nil {
		a.Fatal(err)
	}
	return resp
}

func TestExport_IsEveryEventOnceWhileOthersAreWritten(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.write("default", 700) // several pages
	stop := make(chan struct{})
	var writers sync.WaitGroup
	writers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				a.write("default", 10)
			}
		}
	})
	for range 3 {
		resp := a.open("", a.root)
		if ct := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || ct != "application/x-ndjson" {
			t.Fatalf("%d %s", resp.StatusCode, ct)
		}
		lines, seq, prev := bufio.NewScanner(resp.Body), int64(0), strings.Repeat("0", 64)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			e := gjson.ParseBytes(lines.Bytes())
			if seq++; e.Get("seq").Int() != seq || e.Get("prev_hash").String() != prev {
				t.Fatalf("line %d: %s", seq, lines.Text())
			}
			prev = e.Get("hash").String()
		}
		if err := lines.Err(); err != nil || seq < 700 {
			t.Fatalf("%d events, %v", seq, err)
		}
		resp.Body.Close()
	}
	close(stop)
	writers.Wait()
}

func TestExport_FiltersAndHidesAsTheListDoes(t *testing.T) {
	t.Parallel()
	a := start(t)
	full, keysOnly, none := a.create(`{"audit_events":true}`), a.create(`{"access_keys":["audit_events"]}`), a.create(`{"decision":true}`)
	a.do("PATCH", "/v1/customers/default", a.root, `{"name":"Us"}`).is(200)
	a.customer("acme")
	for _, k := range []string{a.root, full.secret, keysOnly.secret} {
		for _, query := range []string{"", "?resource_type=customer", "?action=customer.update", "?actor=root&resource_type=access_key", "?to=" + a.clock.in(0), "?from=" + a.clock.in(0)} {
			var listed []string
			for _, e := range a.do("GET", "/v1/auditing"+query, k, "").is(200).get("events").Array() {
				listed = append([]string{e.Raw}, listed...)
			}
			if got := a.do("GET", "/v1/auditing/export"+query, k, "").is(200).body; got != strings.Join(append(listed, ""), "\n") {
				t.Errorf("%q: exported %s\nlisted %s", query, got, listed)
			}
		}
	}
	a.do("GET", "/v1/auditing/export", none.secret, "").refused(403, "scope_missing")
	a.do("GET", "/v1/auditing/export?chain=system", full.secret, "").refused(403, "not_permitted")
	a.do("GET", "/v1/auditing/export?cursor=x", full.secret, "").refused(400, "unknown_parameter")
	// A byte too many after a reply without a body would be the next one's first.
	w := a.dial()
	for range 2 {
		w.send("HEAD /v1/auditing/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + full.secret + "\r\n\r\n")
		resp, err := http.ReadResponse(w.r, &http.Request{Method: http.MethodHead})
		if err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/x-ndjson" {
			t.Fatalf("%+v %v", resp, err)
		}
		resp.Body.Close()
	}
}

// A client that begins exports and reads none of them takes nobody else's, and
// gets its own back when it goes.
func TestExport_AFewAtATime(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.customer("acme")
	theirs := a.createFor("acme", `{"audit_events":true}`)
	a.write("default", 2000) // more than the buffers of a connection hold
	var stalled []*http.Response
	for range 2 {
		stalled = append(stalled, a.open("", a.root))
	}
	a.do("GET", "/v1/auditing/export", a.root, "").refused(429, "too_many_exports")
	a.do("GET", "/v1/auditing", a.root, "").is(200)
	a.do("GET", "/v1/auditing/export", theirs.secret, "").is(200)
	for _, resp := range stalled {
		resp.Body.Close() // with most of it unread: the connection is closed
	}
	a.until(func() bool {
		resp := a.open("?action=none", a.root)
		defer resp.Body.Close()
		return resp.StatusCode == 200
	})
}

// The write timeout is for every part of a stream, not for all of it; and who
// does not read at all loses the connection.
func TestExport_OutlivesTheWriteTimeoutWhileItsClientReads(t *testing.T) {
	t.Parallel()
	const timeout = 500 * time.Millisecond // a write waits twice as long at most
	a := start(t, func(o *options) { o.config = server.Config{WriteTimeout: timeout} })
	a.write("default", 2500)

	stalled := a.dial()
	if err := errors.Join(stalled.SetDeadline(time.Now().Add(time.Minute)), // of the test
		stalled.Conn.(*net.TCPConn).SetReadBuffer(64<<10)); err != nil { // or all of it might fit in there
		t.Fatal(err)
	}
	stalled.send("GET /v1/auditing/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + a.root + "\r\n\r\n")
	res, err := http.ReadResponse(stalled.r, nil)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("%+v %v", res, err)
	}

	begun := time.Now()
	slow := a.open("", a.root)
	defer slow.Body.Close()
	total, lines := 0, 0
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	buf := make([]byte, 256<<10)
	for {
		n, err := slow.Body.Read(buf)
		total += n
		lines += strings.Count(string(buf[:n]), "\n")
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("after %d bytes and %v: %v", total, time.Since(begun), err)
		}
		if time.Since(begun) < 3*timeout {
			<-pause.C
		}
	}
	if lines != 2500 || time.Since(begun) < 2*timeout {
		t.Errorf("%d lines in %v", lines, time.Since(begun))
	}

	// Two of a chain run at a time: as many begin when it has lost its place.
	a.until(func() bool {
		one, two := a.open("", a.root), a.open("", a.root)
		one.Body.Close()
		two.Body.Close()
		return one.StatusCode == 200 && two.StatusCode == 200
	})
	if n, err := io.Copy(io.Discard, res.Body); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("who read nothing got %d bytes, and %v", n, err)
	}
}

// A database that fails in the middle must not make an export that looks whole.
func TestExport_CutShortDoesNotLookWhole(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.tamper = true })
	a.write("default", 2000)
	resp := a.open("", a.root)
	defer resp.Body.Close()
	a.loseDatabase()
	if n, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Errorf("%d bytes, and no error", n)
	}
}
