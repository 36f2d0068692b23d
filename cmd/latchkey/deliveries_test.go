package main

import (
	"bufio"
	"fmt"
	"io"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"net/textproto"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/tidwall/gjson"
)

// mailbox is a mail server that takes everything.
type mailbox struct {
	addr string
	mu   sync.Mutex
	all  []string
}

func startMailbox(t *testing.T) *mailbox {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mailbox{addr: ln.Addr().String()}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go m.serve(conn)
		}
	}()
	t.Cleanup(func() { _ = ln.Close() })
	return m
}

func (m *mailbox) serve(conn net.Conn) {
	defer conn.Close()
	r := textproto.NewReader(bufio.NewReader(conn))
	fmt.Fprint(conn, "220 mail.test\r\n")
	for {
		line, err := r.ReadLine()
		switch verb, _, _ := strings.Cut(line, " "); {
		case err != nil:
			return
		case verb == "DATA":
			fmt.Fprint(conn, "354 go on\r\n")
			text, err := io.ReadAll(r.DotReader())
			if err != nil {
				return
			}
			m.mu.Lock()
			m.all = append(m.all, string(text))
			m.mu.Unlock()
			fmt.Fprint(conn, "250 queued\r\n")
		case verb == "QUIT":
			fmt.Fprint(conn, "221 bye\r\n")
			return
		default:
			fmt.Fprint(conn, "250 fine\r\n")
		}
	}
}

// to returns the texts of the letters to an address.
func (m *mailbox) to(t *testing.T, address string) (texts []string) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, one := range m.all {
		letter, err := mail.ReadMessage(strings.NewReader(one))
		if err != nil {
			t.Fatal(err)
		}
		if letter.Header.Get("To") != "<"+address+">" {
			continue
		}
		text, err := io.ReadAll(quotedprintable.NewReader(letter.Body))
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	return texts
}

// A request for access is told to its approver and to a webhook, and its outcome to
// the requester, though the server dies before the webhook was reached.
func TestDeliveries_FromARequestToItsReceivers(t *testing.T) {
	t.Parallel()
	box := startMailbox(t)
	var mu sync.Mutex
	var got []gjson.Result
	var headers []http.Header
	away := false
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if away {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		got, headers = append(got, gjson.ParseBytes(body)), append(headers, r.Header.Clone())
	}))
	t.Cleanup(receiver.Close)
	data := filepath.Join(t.TempDir(), "data")
	args := []string{"--allow-outbound=127.0.0.1", "--smtp-url=smtp://" + box.addr, "--smtp-from=latchkey@example.com", "--console-url=https://console.example.com/requests"}
	p, err := startServer(data, nil, args, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.end(syscall.SIGKILL) })
	root, err := rootKey(data)
	if err != nil {
		t.Fatal(err)
	}
	do := func(key, method, path string, body any, want int) gjson.Result {
		t.Helper()
		status, reply, err := p.send(t.Context(), key, method, path, body)
		if err != nil || status != want {
			t.Fatalf("%s %s: %d %s, %v\n%s", method, path, status, reply.Raw, err, p.err)
		}
		return reply
	}
	person := func(name string) (id, token string) {
		t.Helper()
		made := do(root, "POST", "/v1/users", map[string]any{"username": name, "email": name + "@example.com"}, 201)
		resp, err := http.Post(p.url+"/v1/personal_tokens", "application/json", strings.NewReader(`{"claim_code":"`+made.Get("claim.code").String()+`","name":"t"}`)) //nolint:noctx // a test has its own end
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 201 {
			t.Fatalf("%d %s, %v", resp.StatusCode, text, err)
		}
		return made.Get("id").String(), gjson.GetBytes(text, "token").String()
	}
	_, alice := person("alice")
	bobID, bob := person("bob")
	app := do(root, "POST", "/v1/applications", map[string]any{"name": "databases"}, 201).Get("id").String()
	entitlement := do(root, "POST", "/v1/entitlements", map[string]any{"app_id": app, "name": "login", "entries": map[string]any{"host": []any{map[string]any{"f": "db-*", "p": 2, "a": []string{"login"}}}}}, 201).Get("id").String()
	group := do(root, "POST", "/v1/groups", map[string]any{"name": "dba", "member_ids": []string{bobID}}, 201).Get("id").String()
	template := do(root, "POST", "/v1/access-request-templates", map[string]any{"name": "Production", "app_id": app, "mapping_ids": []string{entitlement}, "allowed_durations": []int{60}, "approver_group_ids": []string{group}}, 201).Get("id").String()
	hook := do(root, "POST", "/v1/webhooks", map[string]any{"url": receiver.URL, "events": []string{"access_request.submitted", "access_request.approved"}}, 201)

	eventually := func(what string, holds func() bool) {
		t.Helper()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(time.Minute); !holds(); <-tick.C {
			if time.Now().After(end) {
				t.Fatalf("%s did not come\n%s", what, p.err)
			}
		}
	}
	received := func(n int) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(got) >= n
		}
	}
	request := do(alice, "POST", "/v1/access-requests", map[string]any{"template_id": template, "requested_duration_mins": 60, "justification": "the-database-burns"}, 201).Get("id").String()
	eventually("the webhook of the request", received(1))
	eventually("the e-mail to the approver", func() bool { return len(box.to(t, "bob@example.com")) == 1 })
	if text := box.to(t, "bob@example.com")[0]; !strings.Contains(text, "> the-database-burns\n") || !strings.Contains(text, "https://console.example.com/requests/"+request) || !strings.Contains(text, "alice <alice@example.com> asks for access to Production") {
		t.Errorf("to bob:\n%s", text)
	}

	mu.Lock()
	away = true
	mu.Unlock()
	do(bob, "POST", "/v1/access-requests/"+request+"/approve", nil, 200)
	failed := func() bool {
		return do(root, "GET", "/v1/webhooks/"+hook.Get("id").String()+"/deliveries?status=pending", nil, 200).Get("deliveries.0.last_attempt.reply_status").Int() == 503
	}
	eventually("the failure", failed)
	// An attempt that is under way when the server dies is made again in two minutes.
	eventually("the e-mail to the requester", func() bool {
		return len(do(root, "GET", "/v1/webhooks/email/deliveries?status=delivered", nil, 200).Get("deliveries").Array()) == 2
	})
	_ = p.end(syscall.SIGKILL)
	mu.Lock()
	away = false
	mu.Unlock()
	if p, err = startServer(data, nil, args, nil); err != nil {
		t.Fatal(err)
	}
	eventually("the webhook of the approval", received(2))
	if text := box.to(t, "alice@example.com")[0]; !strings.Contains(text, "Your request for access to Production (databases) was approved.") || strings.Contains(text, "burns") {
		t.Errorf("to alice:\n%s", text)
	}
	verifier, err := standardwebhooks.NewWebhook(hook.Get("secret").String())
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for i, want := range []string{"submitted", "approved"} {
		if err := verifier.Verify([]byte(got[i].Raw), headers[i]); err != nil {
			t.Errorf("%s: %v", want, err)
		}
		d := got[i].Get("data")
		if got[i].Get("type").String() != "access_request."+want || d.Get("request_id").String() != request || d.Get("template_name").String() != "Production" ||
			d.Get("requester_email").String() != "alice@example.com" || strings.Contains(got[i].Raw, "burns") {
			t.Errorf("%s: %s", want, got[i].Raw)
		}
	}
	if got[0].Get("data.notified_approvers.0.email").String() != "bob@example.com" || got[1].Get("data.decided_by").String() != bobID {
		t.Errorf("%s\n%s", got[0].Raw, got[1].Raw)
	}
	for _, secret := range []string{"the-database-burns", hook.Get("secret").String()} {
		if strings.Contains(p.err.String(), secret) {
			t.Error("the log has a secret")
		}
	}
}
