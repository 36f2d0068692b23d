package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/internal/duty"
)

// requesters is a whole server with people who ask for things.
type requesters struct {
	*process
	t                 *testing.T
	root              string
	jane, boss, chief string // tokens
	ids               map[string]string
	app               string
}

func startRequesters(t *testing.T, env []string, args ...string) *requesters {
	t.Helper()
	data := t.TempDir()
	p, err := startServer(data, env, args, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.end(syscall.SIGTERM); err != nil {
			t.Errorf("the server ended: %v\n%s", err, p.err)
		}
		if strings.Contains(p.err.String(), "hidden-word") {
			t.Errorf("a secret is in the log: %s", p.err)
		}
	})
	s := &requesters{process: p, t: t, ids: map[string]string{}}
	if s.root, err = rootKey(data); err != nil {
		t.Fatal(err)
	}
	s.people()
	return s
}

// people makes those who ask and decide.
func (s *requesters) people() {
	s.t.Helper()
	person := func(name string) string {
		made := s.call(s.root, "/v1/users", 201, map[string]any{"username": name, "email": name + "@example.com", "name": name})
		s.ids[name] = made.Get("id").String()
		return s.claim(made.Get("claim.code").String())
	}
	s.jane, s.boss, s.chief = person("jane"), person("boss"), person("chief")
	s.app = s.call(s.root, "/v1/applications", 201, map[string]any{"name": "servers"}).Get("id").String()
}

// claim exchanges a claim code, which is a credential of its own, for a token.
func (s *requesters) claim(code string) string {
	s.t.Helper()
	resp, err := http.Post(s.url+"/v1/personal_tokens", "application/json", strings.NewReader(`{"claim_code":"`+code+`","name":"test"}`))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusCreated {
		s.t.Fatalf("claim a token: %d %s %v", resp.StatusCode, text, err)
	}
	return gjson.GetBytes(text, "token").String()
}

// call POSTs a body.
func (s *requesters) call(key, path string, want int, body any) gjson.Result {
	s.t.Helper()
	status, reply, err := s.send(context.Background(), key, http.MethodPost, path, body)
	if err != nil || status != want {
		s.t.Fatalf("POST %s: %d %s %v", path, status, reply.Raw, err)
	}
	return reply
}

func (s *requesters) may(who, action, kind, id string) bool {
	s.t.Helper()
	return s.call(s.root, "/decision", 200, map[string]any{"subject": map[string]any{"type": "user", "id": s.ids[who]}, "action": map[string]any{"name": action},
		"resource": map[string]any{"type": kind, "id": id}}).Get("decision").Bool()
}

// The guide for on-call access, with the names of its settings, on the whole
// program: denied, on duty and asked for, allowed, ended, denied.
func TestServe_OnCallAccess(t *testing.T) {
	t.Parallel()
	fake := &duty.Fake{Key: "hidden-word"}
	fake.Set([]duty.Incident{{ID: "01H", Reference: "INC-7", Category: "live", Roles: []duty.Role{{Name: "API", Email: "jane@example.com"}}}}, nil)
	provider := httptest.NewServer(fake)
	t.Cleanup(provider.Close)
	s := startRequesters(t, []string{"INCIDENTIO_API_KEY=hidden-word", "AUTO_APPROVAL_DURATION=3", "AUTO_APPROVAL_INCIDENTIO_ROLES=DBA, API"},
		"--incidentio-url", provider.URL, "--allow-outbound", "127.0.0.0/8")
	group := s.call(s.root, "/v1/groups", 201, map[string]any{"name": "reviewers", "member_ids": []string{"bot", s.ids["boss"]}}).Get("id").String()
	s.call(s.root, "/v1/resources:bulkUpdate", 200, map[string]any{"resources": []any{map[string]any{"kind": "server", "id": "web-1", "labels": map[string]string{"Env": "Prod"}}}})
	template := s.call(s.root, "/v1/access-request-templates", 201, map[string]any{"name": "on-call servers", "app_id": s.app, "approver_group_ids": []string{group},
		"allowed_durations": []int{480}, "require_justification": false, "auto_approve_sources": []string{"incidentio"},
		"resource_selector": map[string]any{"kind": "server", "labels": map[string]string{"Env": "Prod"}}}).Get("id").String()
	if s.may("jane", "read", "server", "web-1") {
		t.Fatal("may read before")
	}
	asked := s.call(s.jane, "/v1/access-requests", 201, map[string]any{"template_id": template, "requested_duration_mins": 480,
		"resources": []any{map[string]string{"kind": "server", "id": "web-1"}}})
	if asked.Get("status").String() != "approved" || asked.Get("decided_by").String() != "bot" || !strings.Contains(asked.Get("approvals.0.comment").String(), "API of incident INC-7") {
		t.Fatalf("%s\n%s", asked.Raw, s.err)
	}
	if d := asked.Get("expires_at").Time().Sub(asked.Get("decided_at").Time()); d != 3*time.Hour {
		t.Errorf("lasts %v", d)
	}
	if !s.may("jane", "read", "server", "web-1") || s.may("boss", "read", "server", "web-1") {
		t.Error("the approval is not what decides")
	}
	s.call(s.jane, "/v1/access-requests/"+asked.Get("id").String()+"/revoke", 200, map[string]any{})
	if s.may("jane", "read", "server", "web-1") {
		t.Error("may read after the end")
	}
}

// The workflow for privileged access, in the words of its document, on the whole
// program.
func TestServe_LoginAccountInAWindow(t *testing.T) {
	t.Parallel()
	s := startRequesters(t, nil, "--compat-jobflow")
	group := s.call(s.root, "/v1/groups", 201, map[string]any{"name": "admins", "member_ids": []string{s.ids["boss"]}}).Get("id").String()
	s.call(s.root, "/v1/resources:bulkUpdate", 200, map[string]any{"resources": []any{map[string]any{"kind": "account", "id": "acc-1", "displayName": "root",
		"labels": map[string]string{"host": "h1", "authority": "csssup-suse11", "authorityType": "Local"}}}})
	s.call(s.root, "/v1/access-request-templates", 201, map[string]any{"name": "logins", "app_id": s.app, "approver_group_ids": []string{group}, "require_justification": false,
		"assignment_types": []string{"window"}, "resource_selector": map[string]any{"kind": "account", "labels": map[string]string{}}, "resource_access": map[string]any{"a": []string{"login"}}})
	accounts := s.call(s.jane, "/ServerManage/GetAccountsForLogin", 200, map[string]any{"host": "h1", "filter": ""})
	if !accounts.Get("success").Bool() || !accounts.Get("Result.0.requestRequired").Bool() || s.may("jane", "login", "account", "acc-1") {
		t.Fatalf("accounts: %s", accounts.Raw)
	}
	now := time.Now().UTC()
	window := map[string]any{"AssignmentType": "window", "StartTime": now.Add(-time.Minute).Format(http.TimeFormat), "EndTime": now.Add(time.Hour).Format(http.TimeFormat)}
	job := s.call(s.jane, "/JobFlow/StartJob", 200, map[string]any{"script": "/lib/jobs/server_account_access.js",
		"args": map[string]any{"PVID": "acc-1", "Reason": nil, "AccessType": "Login", "RequestedOptions": window}})
	if !job.Get("success").Bool() {
		t.Fatal(job.Raw)
	}
	jobs := s.call(s.boss, "/jobflow/getmyjobs", 200, map[string]any{"type": "all"})
	if jobs.Get("Result.Results.0.Row.ID").String() != job.Get("Result").String() {
		t.Fatal(jobs.Raw)
	}
	approved := s.call(s.boss, "/JobFlow/Event", 200, map[string]any{"jobid": job.Get("Result").String(), "event": "approve", "sync": true, "args": window})
	if approved.Get("Result.State").String() != "Complete" || !s.may("jane", "login", "account", "acc-1") {
		t.Fatal(approved.Raw)
	}
	s.call(s.jane, "/JobFlow/Event", 200, map[string]any{"jobid": job.Get("Result").String(), "event": "cancel", "sync": true})
	if s.may("jane", "login", "account", "acc-1") {
		t.Error("may log in after the end")
	}
}
