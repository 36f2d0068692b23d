package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

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

func (s *fleetStory) askSidecar(who, action, kind, id string) (status int, reply gjson.Result, err error) {
	return s.sidecar.send(context.Background(), s.key, http.MethodPost, "/decision", map[string]any{
		"subject": map[string]any{"type": "user", "id": who}, "action": map[string]any{"name": action}, "resource": map[string]any{"type": kind, "id": id}})
}

// allowed asks the sidecar.
func (s *fleetStory) allowed(who, action, kind, id string) bool {
	s.t.Helper()
	status, reply, err := s.askSidecar(who, action, kind, id)
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

// get asks the control plane for what must be there.
func (s *fleetStory) get(key, path string) gjson.Result {
	s.t.Helper()
	status, reply, err := s.send(context.Background(), key, http.MethodGet, path, nil)
	if err != nil || status != http.StatusOK {
		s.t.Fatalf("GET %s: %d %s %v", path, status, reply.Raw, err)
	}
	return reply
}

// pending is the request for a customer that waits for the boss.
func (s *fleetStory) pending(customer string) string {
	s.t.Helper()
	return s.get(s.boss, "/v1/access-requests/pending").Get(`access_requests.#(resources.0.id=="` + customer + `").id`).String()
}

// events are what a receiver is told of requests, in whatever order.
type events struct {
	*received
	seen map[string]gjson.Result // "event request" → body
}

// subscribe has events sent to a receiver.
func (s *fleetStory) subscribe(names ...string) *events {
	s.t.Helper()
	e := &events{receive(s.t), map[string]gjson.Result{}}
	for i := range names {
		names[i] = "access_request." + names[i]
	}
	s.call(s.root, "/v1/webhooks", 201, map[string]any{"url": e.URL, "events": names})
	return e
}

// of waits for an event of a request.
func (e *events) of(t *testing.T, name, request string) gjson.Result {
	t.Helper()
	deadline := time.NewTimer(2 * time.Minute)
	defer deadline.Stop()
	for !e.seen["access_request."+name+" "+request].Exists() {
		select {
		case body := <-e.bodies:
			_, body, _ = strings.Cut(body, "{") // after the signature
			event := gjson.Parse("{" + body)
			e.seen[event.Get("type").String()+" "+event.Get("data.request_id").String()] = event
		case <-deadline.C:
			t.Fatalf("nobody was told %s", name)
		}
	}
	event := e.seen["access_request."+name+" "+request]
	if event.Get("data.template_name").String() == "" || event.Get("data.requester_email").String() != "jane@example.com" || strings.Contains(event.Raw, "production incident") {
		t.Error(event.Raw)
	}
	return event
}

// answer is the last that a sidecar said of a question, and when.
type answer struct {
	at    time.Time
	reply gjson.Result
	err   error
}

// untilDenied goes on asking the sidecar until it does not allow any more.
func (s *fleetStory) untilDenied(who, action, kind, id string) <-chan answer {
	end := make(chan answer, 1)
	go func() {
		again := time.NewTicker(50 * time.Millisecond)
		defer again.Stop()
		for {
			_, reply, err := s.askSidecar(who, action, kind, id)
			if err != nil || !reply.Get("decision").Bool() {
				end <- answer{time.Now(), reply, err}
				return
			}
			<-again.C
		}
	}()
	return end
}

func startFleetStory(t *testing.T, env []string, args ...string) *fleetStory {
	t.Helper()
	redis := servers.Redis(t)
	b := startControlIn(t, env, append([]string{"--database", servers.Postgres(t), "--redis", redis.URL(), "--allow-outbound", "127.0.0.0/8"}, args...)...)
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
	s := startFleetStory(t, []string{"INCIDENTIO_API_KEY=hidden-word"}, "--compat-jobflow", "--incidentio-url", provider.URL, "--access-request-sweep", "1s")
	deciders := s.call(s.root, "/v1/groups", 201, map[string]any{"name": "deciders", "member_ids": []string{"bot", s.ids["boss"]}}).Get("id").String()
	s.call(s.root, "/v1/resources:bulkUpdate", 200, map[string]any{"resources": []any{
		map[string]any{"kind": "customer", "id": "acme"},
		map[string]any{"kind": "customer", "id": "globex", "labels": map[string]string{"plan": "enterprise"}},
		map[string]any{"kind": "server", "id": "web-1", "labels": map[string]string{"Env": "Prod"}},
		map[string]any{"kind": "account", "id": "acc-1", "displayName": "root", "labels": map[string]string{"host": "h1", "authority": "suse11", "authorityType": "Local"}}}})
	portal := s.call(s.root, "/v1/access_keys", 201, map[string]any{"scopes": map[string]any{"customer": map[string]any{"approvals": true}},
		"metadata": map[string]any{"username": "portal", "keyname": "portal"}}).Get("key").String()
	for _, template := range []map[string]any{
		{"name": "customers", "allowed_durations": []int{60}, "resource_selector": map[string]any{"kind": "customer"}},
		{"name": "big customers", "allowed_durations": []int{1}, "resource_selector": map[string]any{"kind": "customer", "labels": map[string]string{"plan": "enterprise"}}},
	} {
		template["approver_group_ids"], template["require_justification"] = []string{deciders}, false
		s.template(template)
	}

	// A minute is the least that a grant or an escalation takes: both begin here, and
	// are seen to at the end.
	managers := s.call(s.root, "/v1/groups", 201, map[string]any{"name": "engineering managers", "member_ids": []string{s.ids["chief"]}}).Get("id").String()
	entitlement := s.call(s.root, "/v1/entitlements", 201, map[string]any{"app_id": s.app, "name": "readonly", "entries": map[string]any{"database": []any{map[string]any{"f": "orders", "p": 2}}},
		"claims": map[string]any{"roles": []string{"db-readonly"}}}).Get("id").String()
	board := receive(t)
	task := s.call(s.root, "/v1/tasks", 201, map[string]any{"name": "ticket", "task_type": "webhook", "url": board.URL + "/refuse"}).Get("id").String()
	told := s.subscribe("submitted", "approved", "denied", "revoked", "expired", "escalated")
	role := s.call(s.jane, "/v1/access-requests", 201, map[string]any{"requested_duration_mins": 480, "justification": "Need access to debug the production incident.",
		"template_id": s.template(map[string]any{"name": "Database read-only access", "description": "Grants read-only database credentials for up to 8 hours.",
			"mapping_ids": []string{entitlement}, "allowed_durations": []int{60, 240, 480}, "approver_group_ids": []string{deciders},
			"require_justification": true, "auto_approve": false, "notification_policy": "all", "escalation_after_mins": 1, "escalation_group_id": managers,
			"trigger_task_id": task, "trigger_task_failure_mode": "block"})})
	s.call(s.chief, "/v1/access-requests/"+role.Get("id").String()+"/approve", 404, map[string]any{}) // nobody's concern but the deciders' yet

	s.becomes(false, "jane", "read", "customer", "globex")
	s.call(portal, "/v1/approvals", 200, petition("globex"))
	short := s.pending("globex")
	s.call(s.boss, "/v1/access-requests/"+short+"/approve", 200, map[string]any{})
	s.becomes(true, "jane", "read", "customer", "globex")
	ended := s.untilDenied("jane", "read", "customer", "globex")

	t.Run("an application asks for a customer", func(t *testing.T) {
		s.becomes(false, "jane", "read", "customer", "acme")
		ask := petition("acme")
		if got := s.call(portal, "/v1/approvals", 200, ask); got.Get("status").String() != "waiting" {
			t.Fatal(got.Raw)
		}
		request := "/v1/access-requests/" + s.pending("acme")
		s.call(s.boss, request+"/approve", 200, map[string]any{})
		s.becomes(true, "jane", "read", "customer", "acme")
		if got := s.call(portal, "/v1/approvals", 200, ask); got.Get("status").String() != "granted" {
			t.Error(got.Raw)
		}
		s.call(s.boss, request+"/revoke", 200, map[string]any{})
		s.becomes(false, "jane", "read", "customer", "acme")

		s.call(portal, "/v1/approvals", 200, ask)
		again := s.pending("acme")
		s.call(s.boss, "/v1/access-requests/"+again+"/deny", 200, map[string]any{"comment": "not twice"})
		if got := s.call(portal, "/v1/approvals", 200, ask); got.Get("status").String() != "denied" || s.allowed("jane", "read", "customer", "acme") {
			t.Error(got.Raw)
		}
		if event := told.of(t, "denied", again); event.Get("data.decided_by").String() != s.ids["boss"] {
			t.Error(event.Raw)
		}
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

	t.Parallel() // what is left is to wait

	t.Run("a grant that ends by itself", func(t *testing.T) {
		if event := told.of(t, "expired", short); event.Get("data.pending").Bool() {
			t.Error(event.Raw)
		}
		denial := <-ended
		if denial.err != nil || !denial.reply.Get("decision").Exists() {
			t.Fatalf("%s %v", denial.reply.Raw, denial.err)
		}
		if late := denial.at.Sub(s.get(s.boss, "/v1/access-requests/"+short).Get("expires_at").Time()); late < 0 || late > 15*time.Second {
			t.Errorf("denied %v after the end", late)
		}
		if got := s.call(portal, "/v1/approvals", 200, petition("globex")); got.Get("status").String() != "waiting" || got.Get("request_id").String() == short {
			t.Errorf("asked again: %s", got.Raw)
		}
	})

	t.Run("a database role for eight hours, on which nobody decides in time, with a task that must succeed first", func(t *testing.T) {
		request := "/v1/access-requests/" + role.Get("id").String()
		event := told.of(t, "escalated", role.Get("id").String())
		if after := event.Get("timestamp").Time().Sub(role.Get("created_at").Time()); after < time.Minute {
			t.Errorf("escalated after %v", after)
		}
		if event.Get("data.notified_approvers.#").Int() != 1 || event.Get("data.notified_approvers.0.email").String() != "chief@example.com" ||
			event.Get("data.template_name").String() != "Database read-only access" {
			t.Error(event.Raw)
		}
		if got := s.get(s.chief, "/v1/access-requests/pending"); got.Get("access_requests.#").Int() != 1 || got.Get("access_requests.0.id").String() != role.Get("id").String() {
			t.Errorf("what waits for chief: %s", got.Raw)
		}
		s.call(s.jane, request+"/approve", 403, map[string]any{})

		if got := s.call(s.chief, request+"/approve", 502, map[string]any{}); got.Get("code").String() != "trigger_task_failed" {
			t.Error(got.Raw)
		}
		if s.allowed("jane", "read", "database", "orders") {
			t.Error("allowed though the task failed")
		}
		if status, reply, err := s.send(context.Background(), s.root, http.MethodPut, "/v1/tasks/"+task, map[string]any{"name": "ticket", "task_type": "webhook", "url": board.URL + "/take"}); err != nil || status != http.StatusOK {
			t.Fatalf("%d %s %v", status, reply.Raw, err)
		}
		approved := s.call(s.chief, request+"/approve", 200, map[string]any{"comment": "Approved for the incident window."})
		if approved.Get("status").String() != "approved" || approved.Get("decided_by").String() != s.ids["chief"] || approved.Get("comment").String() != "Approved for the incident window." ||
			approved.Get("expires_at").Time().Sub(approved.Get("decided_at").Time()) != 8*time.Hour {
			t.Error(approved.Raw)
		}
		s.becomes(true, "jane", "read", "database", "orders")
		if claims := s.get(s.root, "/v1/users/"+s.ids["jane"]+"/claims"); claims.Get("claims.roles.0").String() != "db-readonly" {
			t.Errorf("claims: %s", claims.Raw)
		}
		s.call(s.jane, request+"/revoke", 200, map[string]any{"reason": "done"})
		s.becomes(false, "jane", "read", "database", "orders")
		if claims := s.get(s.root, "/v1/users/"+s.ids["jane"]+"/claims"); claims.Get("claims.roles").Exists() {
			t.Errorf("claims after the end: %s", claims.Raw)
		}
		submitted, decided, revoked := told.of(t, "submitted", role.Get("id").String()), told.of(t, "approved", role.Get("id").String()), told.of(t, "revoked", role.Get("id").String())
		if submitted.Get("data.notified_approvers.0.email").String() != "boss@example.com" || decided.Get("data.decided_by").String() != s.ids["chief"] || revoked.Get("data.cancelled").Bool() {
			t.Errorf("%s\n%s\n%s", submitted.Raw, decided.Raw, revoked.Raw)
		}
	})
}

// petition is what an application asks with for jane, whom it knows by an id of its
// own.
func petition(customer string) map[string]any {
	return map[string]any{"petitioners": []any{map[string]any{"kind": "user", "id": "42", "email": "Jane@Example.com"}}, "resources": []any{map[string]any{"kind": "customer", "id": customer}}}
}

// How soon a sidecar allows what was just approved; printed, since it is a figure of
// the machine.
func TestStories_ASidecarLearnsOfApprovals(t *testing.T) {
	s := startFleetStory(t, nil)
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
			if time.Since(begun) > time.Minute {
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
