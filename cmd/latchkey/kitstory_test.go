package main

import (
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/client"
)

// portal is an admin portal of a customer of latchkey, which asks for access to
// customers of its own: laura clicks, dale decides.
type portal struct {
	*testing.T
	p       *process
	root    string
	key     string // the portal's
	laura   string // id
	daleKey string // dale's personal token
	project string // of Node
}

func newPortal(t *testing.T, p *process, root string) *portal {
	t.Helper()
	s := &portal{T: t, p: p, root: root, project: nodeProject(t)}
	s.laura = s.ok("POST", "/v1/users", root, map[string]any{"username": "laura", "email": "laura@example.com"}, 201).Get("id").String()
	dale := s.ok("POST", "/v1/users", root, map[string]any{"username": "dale", "email": "dale@example.com"}, 201)
	s.daleKey = s.ok("POST", "/v1/personal_tokens", "", map[string]any{"claim_code": dale.Get("claim.code").String(), "name": "laptop"}, 201).Get("token").String()
	leads := s.ok("POST", "/v1/groups", root, map[string]any{"name": "leads", "member_ids": []string{dale.Get("id").String()}}, 201).Get("id").String()
	app := s.ok("POST", "/v1/applications", root, map[string]any{"name": "admin portal"}, 201).Get("id").String()
	for _, template := range []map[string]any{
		{"name": "Customer access", "resource_selector": map[string]any{"kind": "customer"}, "allowed_durations": []int{60}, "require_justification": false},
		{"name": "Big customers", "resource_selector": map[string]any{"kind": "customer", "labels": map[string]string{"plan": "enterprise"}}, "allowed_durations": []int{1}, "require_justification": false},
	} {
		template["app_id"], template["approver_group_ids"] = app, []string{leads}
		s.ok("POST", "/v1/access-request-templates", root, template, 201)
	}
	s.key = s.ok("POST", "/v1/access_keys", root, map[string]any{
		"scopes":   map[string]any{"customer": map[string]any{"approvals": true, "resources_manage": true, "decision": true}},
		"metadata": map[string]any{"username": "portal", "keyname": "portal"},
	}, 201).Get("key").String()
	return s
}

func (s *portal) ok(method, path, key string, body any, want int) gjson.Result {
	s.Helper()
	status, reply, err := s.p.send(s.Context(), key, method, path, body)
	if err != nil || status != want {
		s.Fatalf("%s %s: %d, want %d: %v\n%s", method, path, status, want, err, reply)
	}
	return reply
}

// run runs a program of the portal, as its document prints it, with the older
// names of the settings.
func (s *portal) run(ctx context.Context, args ...string) (out, errs string, err error) {
	user, err := json.Marshal(map[string]string{"id": "42", "email": "Laura@Example.com"}) // the portal's own id
	if err != nil {
		return "", "", err
	}
	env := []string{"LATCHKEY_URL=" + s.p.url, "INDENT_SPACE=default", "INDENT_API_TOKEN=" + s.key, "PORTAL_USER=" + string(user)}
	return runNode(ctx, s.T, filepath.Join(s.project, "app"), env, append([]string{"--import", "./bundler.mjs"}, args...)...)
}

// click is a click on "Request Access".
func (s *portal) click(customer string) string {
	out, errs, err := s.run(s.Context(), "portal.mjs", customer)
	if err != nil || strings.Contains(out+errs, s.key) {
		s.Errorf("portal: %v\n%s%s", err, out, errs)
	}
	return strings.TrimSpace(out)
}

func (s *portal) mayRead(customer string) bool {
	s.Helper()
	return s.ok("POST", "/decision", s.key, map[string]any{
		"subject": map[string]any{"type": "user", "id": s.laura}, "action": map[string]any{"name": "read"}, "resource": map[string]any{"type": "customer", "id": customer},
	}, 200).Get("decision").Bool()
}

// pending waits until dale has a request to decide on, for the customer.
func (s *portal) pending(customer string) string {
	s.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		for _, r := range s.ok("GET", "/v1/access-requests/pending", s.daleKey, nil, 200).Get("access_requests").Array() {
			if r.Get("resources.0.id").String() == customer {
				return r.Get("id").String()
			}
		}
		select {
		case <-deadline.C:
			s.Fatalf("nobody asks for %s", customer)
		case <-again.C:
		}
	}
}

func (s *portal) decide(request, verdict string) {
	s.Helper()
	s.ok("POST", "/v1/access-requests/"+request+"/"+verdict, s.daleKey, map[string]any{}, 200)
}

// An application asks for access to its customers by the two programs of the
// approval kit's document, as printed: customers are uploaded, a click waits, an
// approver decides, decisions allow, and deny again after the end.
func TestStory_CustomerAccessByAnApplication(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	p, err := startServer(data, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.end(syscall.SIGTERM)
	root, err := rootKey(data)
	if err != nil {
		t.Fatal(err)
	}
	newPortal(t, p, root).story()
}

func (s *portal) story() {
	s.Helper()
	for range 2 { // the same again does no harm
		if out, errs, err := s.run(s.Context(), "upload.js"); err != nil || out+errs != "" {
			s.Fatalf("upload: %v\n%s%s", err, out, errs)
		}
	}
	stored := s.ok("GET", "/v1/resources?kind=customer&label.plan=enterprise", s.key, nil, 200).Get("resources").Array()
	if len(stored) != 1 || stored[0].Get("id").String() != "acme" || stored[0].Get("displayName").String() != "Acme Ltd" {
		s.Fatalf("uploaded %v", stored)
	}

	// A click, and an approver who is quick.
	if s.mayRead("globex") {
		s.Error("allowed before anybody asked")
	}
	clicked := make(chan string, 1)
	go func() { clicked <- s.click("globex") }()
	request := s.pending("globex")
	s.decide(request, "approve")
	if got := <-clicked; got != `{"ok":true}` {
		s.Errorf("the click that waited: %s", got)
	}
	if !s.mayRead("globex") || s.mayRead("acme") {
		s.Error("the grant is not for globex alone")
	}
	if got := s.click("globex"); got != `{"ok":true}` {
		s.Errorf("a click while it is granted: %s", got)
	}

	// One who says no, and one who is slow: by Go, with a wait of its own.
	c, err := client.New(client.Config{URL: s.p.url, Key: s.key, Customer: "default"})
	if err != nil {
		s.Fatal(err)
	}
	defer c.Close()
	ask := client.ApprovalRequest{Petitioners: []client.Petitioner{{Email: "laura@example.com"}}, Resources: []client.Resource{{Kind: "customer", ID: "acme"}}}
	if _, err := c.Approval(s.Context(), ask); client.ErrorKind(err) != client.Waiting {
		s.Errorf("asked by Go: %v", err)
	}
	go func() { clicked <- s.click("acme") }()
	s.decide(s.pending("acme"), "deny")
	// Whichever asks first is told of the denial: the click, unless Node began later.
	if got := <-clicked; got != `{"ok":false,"status":"denied"}` {
		s.Errorf("the click that was denied: %s", got)
	}
	if s.mayRead("acme") {
		s.Error("allowed though it was denied")
	}
	if _, err := c.Approval(s.Context(), ask); client.ErrorKind(err) != client.Waiting {
		s.Errorf("asked again after a denial: %v", err)
	}
	s.decide(s.pending("acme"), "approve")
	grant, err := c.Approval(s.Context(), ask)
	if err != nil || grant.ExpiresAt == nil || grant.ExpiresAt.Sub(grant.NotBefore) != time.Minute {
		s.Errorf("granted by the template with most labels: %+v, %v", grant, err)
	}
	d, err := c.Decide(s.Context(), client.Question{Subject: client.User(s.laura), Action: "read", Resource: client.Entity{Type: "customer", ID: "acme"}})
	if err != nil || !d.Allowed || !d.Because("grant_permits") {
		s.Errorf("decided by Go: %+v, %v", d, err)
	}

	// What the approver ends, ends at once, and alone.
	s.ok("POST", "/v1/access-requests/"+request+"/revoke", s.daleKey, map[string]any{"reason": "done"}, 200)
	if s.mayRead("globex") || !s.mayRead("acme") {
		s.Error("it is not globex alone that has ended")
	}
	if status, _, err := s.p.send(s.Context(), s.key, http.MethodGet, "/v1/access-requests/all", nil); err != nil || status != http.StatusForbidden {
		s.Errorf("the portal's key lists all requests: %d, %v", status, err)
	}
}

// Nobody decides while the click waits its ten seconds, and nobody can tell when
// the key is wrong.
func TestStory_TheKitTellsWaitingFromUnknown(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	p, err := startServer(data, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.end(syscall.SIGTERM)
	root, err := rootKey(data)
	if err != nil {
		t.Fatal(err)
	}
	s := newPortal(t, p, root)
	if out, errs, err := s.run(t.Context(), "upload.js"); err != nil {
		t.Fatalf("upload: %v\n%s%s", err, out, errs)
	}
	if got := s.click("globex"); got != `{"ok":false,"status":"waiting"}` {
		t.Errorf("nobody decided: %s", got)
	}
	right := s.key
	s.key = right[:len(right)-8] + "AAAAAAAA"
	out, errs, err := s.run(t.Context(), "portal.mjs", "globex")
	if err != nil || strings.TrimSpace(out) != `{"ok":false,"status":"unknown"}` || !strings.Contains(errs, "invalid_credential") || strings.Contains(errs, s.key) {
		t.Errorf("by a wrong key: %v\n%s%s", err, out, errs)
	}
	if _, errs, err := s.run(t.Context(), "upload.js"); err == nil || strings.Contains(errs, s.key) {
		t.Errorf("an upload by a wrong key: %v\n%s", err, errs)
	}
}
