package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/duty"
	"github.com/latchkey-dev/latchkey/internal/servers"
)

// fleetStory is a control plane on PostgreSQL and Redis, and a sidecar that the
// decisions of the stories are asked of.
type fleetStory struct {
	*requesters
	sidecar *process
	key     string // the sidecar's own, which may ask for decisions
}

// allowed asks the sidecar.
func (s *fleetStory) allowed(who, action, kind, id string) bool {
	s.t.Helper()
	status, reply, err := s.sidecar.send(context.Background(), s.key, http.MethodPost, "/decision", map[string]any{
		"subject": map[string]any{"type": "user", "id": who}, "action": map[string]any{"name": action}, "resource": map[string]any{"type": kind, "id": id}})
	if err != nil || status != http.StatusOK {
		s.t.Fatalf("ask the sidecar: %d %s %v", status, reply.Raw, err)
	}
	return reply.Get("decision").Bool()
}

// becomes waits until the sidecar answers so.
func (s *fleetStory) becomes(want bool, who, action, kind, id string) {
	s.t.Helper()
	eventually(s.t, "the sidecar is told: "+who+" "+action+" "+kind+" "+id, func() bool { return s.allowed(who, action, kind, id) == want })
}

func (s *fleetStory) template(body map[string]any) string {
	s.t.Helper()
	body["app_id"] = s.app
	return s.call(s.root, "/v1/access-request-templates", http.StatusCreated, body).Get("id").String()
}

func startFleetStory(t *testing.T, args ...string) *fleetStory {
	t.Helper()
	redis := servers.Redis(t)
	b := startControl(t, append([]string{"--database", servers.Postgres(t), "--redis", redis.URL(), "--allow-outbound", "127.0.0.0/8"}, args...)...)
	s := &fleetStory{requesters: &requesters{process: b.control, t: t, root: b.root, ids: map[string]string{}}, key: b.key}
	s.people()
	s.sidecar = b.ready(b.sidecar("", nil, "--redis", redis.URL()))
	return s
}

// Each way of asking for access, on PostgreSQL and Redis: a sidecar, which has
// neither, denies, allows as the grant begins, and denies again as it ends.
func TestStories_OnPostgreSQLAndRedisWithASidecar(t *testing.T) {
	fake := &duty.Fake{Key: "hidden-word"}
	fake.Set([]duty.Incident{{ID: "01H", Reference: "INC-7", Category: "live", Roles: []duty.Role{{Name: "API", Email: "jane@example.com"}}}}, nil)
	provider := httptest.NewServer(fake)
	t.Cleanup(provider.Close)
	t.Setenv("INCIDENTIO_API_KEY", "hidden-word")
	s := startFleetStory(t, "--compat-jobflow", "--incidentio-url", provider.URL)
	deciders := s.call(s.root, "/v1/groups", 201, map[string]any{"name": "deciders", "member_ids": []string{"bot", s.ids["boss"]}}).Get("id").String()
	s.call(s.root, "/v1/resources:bulkUpdate", 200, map[string]any{"resources": []any{
		map[string]any{"kind": "customer", "id": "acme"},
		map[string]any{"kind": "server", "id": "web-1", "labels": map[string]string{"Env": "Prod"}},
		map[string]any{"kind": "account", "id": "acc-1", "displayName": "root", "labels": map[string]string{"host": "h1", "authority": "suse11", "authorityType": "Local"}}}})

	t.Run("an application asks for a customer", func(t *testing.T) {
		s.template(map[string]any{"name": "customers", "approver_group_ids": []string{deciders}, "allowed_durations": []int{60}, "require_justification": false,
			"resource_selector": map[string]any{"kind": "customer"}})
		portal := s.call(s.root, "/v1/access_keys", 201, map[string]any{"scopes": map[string]any{"customer": map[string]any{"approvals": true}},
			"metadata": map[string]any{"username": "portal", "keyname": "portal"}}).Get("key").String()
		s.becomes(false, "jane", "read", "customer", "acme")
		ask := map[string]any{"petitioners": []any{map[string]any{"kind": "user", "id": "42", "email": "Jane@Example.com"}}, "resources": []any{map[string]any{"kind": "customer", "id": "acme"}}}
		if got := s.call(portal, "/v1/approvals", 200, ask); got.Get("status").String() != "waiting" {
			t.Fatal(got.Raw)
		}
		_, pending, err := s.send(context.Background(), s.boss, http.MethodGet, "/v1/access-requests/pending", nil)
		if err != nil {
			t.Fatal(err)
		}
		request := "/v1/access-requests/" + pending.Get("access_requests.0.id").String()
		s.call(s.boss, request+"/approve", 200, map[string]any{})
		s.becomes(true, "jane", "read", "customer", "acme")
		if got := s.call(portal, "/v1/approvals", 200, ask); got.Get("status").String() != "granted" {
			t.Error(got.Raw)
		}
		s.call(s.boss, request+"/revoke", 200, map[string]any{})
		s.becomes(false, "jane", "read", "customer", "acme")
	})

	t.Run("a login account in a window", func(t *testing.T) {
		s.template(map[string]any{"name": "logins", "approver_group_ids": []string{deciders}, "require_justification": false, "assignment_types": []string{"window"},
			"resource_selector": map[string]any{"kind": "account"}, "resource_access": map[string]any{"a": []string{"login"}}})
		begins := time.Now().UTC().Truncate(time.Second).Add(2 * time.Second) // what HTTP's dates can say
		window := map[string]any{"AssignmentType": "window", "StartTime": begins.Format(http.TimeFormat), "EndTime": begins.Add(3 * time.Second).Format(http.TimeFormat)}
		job := s.call(s.jane, "/JobFlow/StartJob", 200, map[string]any{"script": "/lib/jobs/server_account_access.js",
			"args": map[string]any{"PVID": "acc-1", "Reason": nil, "AccessType": "Login", "RequestedOptions": window}})
		done := s.call(s.boss, "/JobFlow/Event", 200, map[string]any{"jobid": job.Get("Result").String(), "event": "approve", "sync": true, "args": window})
		if done.Get("Result.State").String() != "Complete" {
			t.Fatal(done.Raw)
		}
		if allowed := s.allowed("jane", "login", "account", "acc-1"); allowed && time.Now().Before(begins) {
			t.Error("allowed before the window")
		}
		s.becomes(true, "jane", "login", "account", "acc-1")
		if time.Now().Before(begins) {
			t.Error("allowed before the window")
		}
		s.becomes(false, "jane", "login", "account", "acc-1")
		if time.Now().Before(begins.Add(3 * time.Second)) {
			t.Error("denied within the window")
		}
	})

	t.Run("an engineer on call", func(t *testing.T) {
		template := s.template(map[string]any{"name": "on-call servers", "approver_group_ids": []string{deciders}, "allowed_durations": []int{480}, "require_justification": false,
			"auto_approve_sources": []string{"incidentio"}, "resource_selector": map[string]any{"kind": "server", "labels": map[string]string{"Env": "Prod"}}})
		s.becomes(false, "jane", "read", "server", "web-1")
		ask := map[string]any{"template_id": template, "requested_duration_mins": 480, "resources": []any{map[string]string{"kind": "server", "id": "web-1"}}}
		got := s.call(s.jane, "/v1/access-requests", 201, ask)
		if got.Get("status").String() != "approved" || got.Get("decided_by").String() != "bot" || !strings.Contains(got.Get("approvals.0.comment").String(), "INC-7") {
			t.Fatal(got.Raw)
		}
		s.becomes(true, "jane", "read", "server", "web-1")
		s.call(s.jane, "/v1/access-requests/"+got.Get("id").String()+"/revoke", 200, map[string]any{})
		s.becomes(false, "jane", "read", "server", "web-1")
	})

	t.Run("a database role, with a task that must succeed first", func(t *testing.T) {
		board := receive(t)
		entitlement := s.call(s.root, "/v1/entitlements", 201, map[string]any{"app_id": s.app, "name": "readonly", "entries": map[string]any{"database": []any{map[string]any{"f": "orders", "p": 2}}},
			"claims": map[string]any{"roles": []string{"db-readonly"}}}).Get("id").String()
		task := s.call(s.root, "/v1/tasks", 201, map[string]any{"name": "ticket", "task_type": "webhook", "url": board.URL + "/refuse"}).Get("id").String()
		template := s.template(map[string]any{"name": "Database read-only access", "approver_group_ids": []string{deciders}, "allowed_durations": []int{60, 240, 480},
			"mapping_ids": []string{entitlement}, "trigger_task_id": task, "trigger_task_failure_mode": "block"})
		got := s.call(s.jane, "/v1/access-requests", 201, map[string]any{"template_id": template, "requested_duration_mins": 480, "justification": "Need access to debug the production incident."})
		request := "/v1/access-requests/" + got.Get("id").String()
		if got := s.call(s.boss, request+"/approve", 502, map[string]any{}); got.Get("code").String() != "trigger_task_failed" {
			t.Fatal(got.Raw)
		}
		if s.allowed("jane", "read", "database", "orders") {
			t.Error("allowed though the task failed")
		}
		if status, reply, err := s.send(context.Background(), s.root, http.MethodPut, "/v1/tasks/"+task, map[string]any{"name": "ticket", "task_type": "webhook", "url": board.URL + "/take"}); err != nil || status != http.StatusOK {
			t.Fatalf("%d %s %v", status, reply.Raw, err)
		}
		s.call(s.boss, request+"/approve", 200, map[string]any{"comment": "Approved for the incident window."})
		s.becomes(true, "jane", "read", "database", "orders")
		_, claims, err := s.send(context.Background(), s.root, http.MethodGet, "/v1/users/"+s.ids["jane"]+"/claims", nil)
		if err != nil || claims.Get("claims.roles.0").String() != "db-readonly" {
			t.Errorf("claims: %s %v", claims.Raw, err)
		}
		s.call(s.jane, request+"/revoke", 200, map[string]any{"reason": "done"})
		s.becomes(false, "jane", "read", "database", "orders")
	})
}

// How soon a sidecar allows what was just approved; printed, since it is a figure of
// the machine.
func TestStories_ASidecarLearnsOfApprovals(t *testing.T) {
	s := startFleetStory(t)
	group := s.call(s.root, "/v1/groups", 201, map[string]any{"name": "deciders", "member_ids": []string{s.ids["boss"]}}).Get("id").String()
	s.call(s.root, "/v1/resources:bulkUpdate", 200, map[string]any{"resources": []any{map[string]any{"kind": "server", "id": "web-1"}}})
	template := s.template(map[string]any{"name": "servers", "approver_group_ids": []string{group}, "allowed_durations": []int{60}, "require_justification": false,
		"resource_selector": map[string]any{"kind": "server"}})
	took := make([]time.Duration, 50)
	for i := range took {
		got := s.call(s.jane, "/v1/access-requests", 201, map[string]any{"template_id": template, "requested_duration_mins": 60, "resources": []any{map[string]string{"kind": "server", "id": "web-1"}}})
		request := "/v1/access-requests/" + got.Get("id").String()
		if s.allowed("jane", "read", "server", "web-1") {
			t.Fatal("allowed before the approval")
		}
		s.call(s.boss, request+"/approve", 200, map[string]any{})
		begun := time.Now()
		for !s.allowed("jane", "read", "server", "web-1") {
			if time.Since(begun) > 30*time.Second {
				t.Fatal("the sidecar is not told of the approval")
			}
		}
		took[i] = time.Since(begun)
		s.call(s.jane, request+"/revoke", 200, map[string]any{})
		s.becomes(false, "jane", "read", "server", "web-1")
	}
	slices.Sort(took)
	t.Logf("from the reply to an approval to the first allow of a sidecar, of %d: p50 %v, p99 %v, longest %v", len(took), took[len(took)/2], took[len(took)*99/100], took[len(took)-1])
}
