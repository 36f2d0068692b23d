// Package duty stands in for those who know who is on call: it answers GET
// /v2/incidents as incident.io does, GET /oncalls as PagerDuty does, each by its
// published schema, and POST /decision as a decision webhook of Indent's. It is for
// tests, and for trying automatic approval without an account.
//
// It is a program of the workshop; nothing of the product imports it.
package duty

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Incident is one of incident.io.
type Incident struct {
	ID, Reference string
	Category      string // of its status: live, learning, closed, …
	Mode          string // standard where empty
	Roles         []Role
}

// Role is a role of an incident, and who has it: nobody where Email and Name are
// empty. Somebody may have no e-mail address that the key may see.
type Role struct{ Name, Shortform, Email, Assignee string }

// OnCall is somebody's place in an escalation policy of PagerDuty.
type OnCall struct {
	Email, Name      string
	Schedule         string // id; "" where the policy names the person itself
	ScheduleName     string
	Policy           string
	Level            int
	Start, End       time.Time // zero: always
	WithoutInclusion bool      // the user stays a reference, whatever is asked for
}

// Fake answers. Its zero value knows nobody and takes every key. Safe for concurrent
// use.
type Fake struct {
	mu        sync.Mutex
	incidents []Incident
	onCalls   []OnCall
	approved  []string // ids of people whom the webhook approves
	labels    map[string]string
	// Key must be what callers present, unless it is empty; Secret signs what the
	// webhook takes.
	Key, Secret string
	// PageSize is the most that a page has, whatever is asked for; 0 is what is asked
	// for.
	PageSize int
	// Before, when set, may answer in place of the fake, and says so.
	Before func(w http.ResponseWriter, r *http.Request) bool
}

// Set changes who is on call.
func (f *Fake) Set(incidents []Incident, onCalls []OnCall) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.incidents, f.onCalls = incidents, onCalls
}

// Approve makes the webhook approve what these people ask for, with these labels in
// its claims.
func (f *Fake) Approve(labels map[string]string, people ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.approved, f.labels = people, labels
}

// ServeHTTP implements http.Handler.
func (f *Fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.Before != nil && f.Before(w, r) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch r.Method + " " + r.URL.Path {
	case "GET /v2/incidents":
		f.listIncidents(w, r)
	case "GET /oncalls":
		f.listOnCalls(w, r)
	case "POST /decision":
		f.decide(w, r)
	default:
		http.NotFound(w, r)
	}
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // who does not read on has gone
}

type object = map[string]any

// listIncidents answers by IncidentsListResponseV2 of public-schema-v3.
func (f *Fake) listIncidents(w http.ResponseWriter, r *http.Request) {
	if f.Key != "" && r.Header.Get("Authorization") != "Bearer "+f.Key {
		answer(w, http.StatusUnauthorized, object{"type": "authentication_error", "status": 401})
		return
	}
	q := r.URL.Query()
	size, err := strconv.Atoi(q.Get("page_size"))
	if err != nil {
		size = 25
	}
	if size < 1 || size > 500 {
		answer(w, http.StatusUnprocessableEntity, object{"type": "validation_error", "status": 422})
		return
	}
	if f.PageSize > 0 {
		size = min(size, f.PageSize)
	}
	var found []Incident
	for _, i := range f.incidents {
		if want := q["status_category[one_of]"]; len(want) > 0 && !slices.Contains(want, i.Category) {
			continue
		}
		found = append(found, i)
	}
	total := len(found)
	if after := q.Get("after"); after != "" {
		at := slices.IndexFunc(found, func(i Incident) bool { return i.ID == after })
		found = found[at+1:]
	}
	meta := object{"page_size": size, "total_record_count": total}
	if len(found) > size {
		found = found[:size]
		meta["after"] = found[size-1].ID
	}
	list := []object{}
	for _, i := range found {
		list = append(list, incident(i))
	}
	answer(w, http.StatusOK, object{"incidents": list, "pagination_meta": meta})
}

const made = "2026-01-05T09:00:00Z"

func incident(i Incident) object {
	mode := i.Mode
	if mode == "" {
		mode = "standard"
	}
	assignments := []object{}
	for n, role := range i.Roles {
		a := object{"role": object{"id": "role-" + strconv.Itoa(n), "name": role.Name, "shortform": role.Shortform, "role_type": "custom",
			"description": "", "instructions": "", "created_at": made, "updated_at": made}}
		if role.Assignee != "" || role.Email != "" {
			user := object{"id": "user-" + strconv.Itoa(n), "name": role.Assignee, "role": "responder"}
			if role.Email != "" {
				user["email"] = role.Email
			}
			a["assignee"] = user
		}
		assignments = append(assignments, a)
	}
	return object{
		"id": i.ID, "reference": i.Reference, "name": "An incident", "mode": mode, "visibility": "public",
		"incident_status": object{"id": "status", "name": "Investigating", "category": i.Category, "description": "", "rank": 1,
			"created_at": made, "updated_at": made},
		"incident_role_assignments": assignments, "custom_field_entries": []object{}, "incident_timestamp_values": []object{},
		"creator": object{"api_key": object{"id": "key", "name": "duty"}}, "slack_channel_id": "C0", "slack_team_id": "T0",
		"created_at": made, "updated_at": made,
	}
}

// listOnCalls answers by the schema of PagerDuty's GET /oncalls.
func (f *Fake) listOnCalls(w http.ResponseWriter, r *http.Request) {
	if f.Key != "" && r.Header.Get("Authorization") != "Token token="+f.Key {
		answer(w, http.StatusUnauthorized, object{"error": object{"code": 2006, "message": "Invalid credentials"}})
		return
	}
	q := r.URL.Query()
	limit, offset := 25, 0
	for name, into := range map[string]*int{"limit": &limit, "offset": &offset} {
		if text := q.Get(name); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil || n < 0 {
				answer(w, http.StatusBadRequest, object{"error": object{"code": 2001, "message": "Invalid Input Provided"}})
				return
			}
			*into = n
		}
	}
	limit = min(limit, 100)
	if f.PageSize > 0 {
		limit = min(limit, f.PageSize)
	}
	var found []OnCall
	for _, c := range f.onCalls {
		if want := q["schedule_ids[]"]; len(want) == 0 || slices.Contains(want, c.Schedule) {
			found = append(found, c)
		}
	}
	more := offset+limit < len(found)
	found = found[min(offset, len(found)):min(offset+limit, len(found))]
	list := []object{}
	for _, c := range found {
		list = append(list, onCall(c, slices.Contains(q["include[]"], "users")))
	}
	answer(w, http.StatusOK, object{"oncalls": list, "limit": limit, "offset": offset, "more": more, "total": nil})
}

func onCall(c OnCall, withUser bool) object {
	reference := func(kind, id, summary string) object {
		return object{"id": id, "type": kind, "summary": summary, "self": "https://api.pagerduty.com/" + kind + "s/" + id, "html_url": nil}
	}
	user := reference("user_reference", "P"+c.Name, c.Name)
	if withUser && !c.WithoutInclusion {
		user = reference("user", "P"+c.Name, c.Name)
		for name, value := range map[string]any{"name": c.Name, "email": c.Email, "time_zone": "Europe/London", "color": "red", "role": "user",
			"job_title": nil, "avatar_url": "https://example.com/a.png", "description": nil, "invitation_sent": false,
			"contact_methods": []object{}, "notification_rules": []object{}, "teams": []object{}} {
			user[name] = value
		}
	}
	o := object{"escalation_policy": reference("escalation_policy_reference", c.Policy, c.Policy), "user": user, "schedule": nil,
		"escalation_level": max(1, c.Level), "start": nil, "end": nil}
	if c.Schedule != "" {
		o["schedule"] = reference("schedule_reference", c.Schedule, c.ScheduleName)
	}
	if !c.Start.IsZero() {
		o["start"] = c.Start.UTC().Format(time.RFC3339)
	}
	if !c.End.IsZero() {
		o["end"] = c.End.UTC().Format(time.RFC3339)
	}
	return o
}

// event is what a decision webhook reads and writes.
type event struct {
	Event     string            `json:"event"`
	Actor     json.RawMessage   `json:"actor"`
	Resources []json.RawMessage `json:"resources"`
	Reason    string            `json:"reason,omitempty"`
	Timestamp string            `json:"timestamp,omitempty"`
	Meta      struct {
		Labels map[string]string `json:"labels"`
	} `json:"meta"`
}

// decide answers as Indent's integrations do: with a claim of who asks and all that
// is asked for, where it approves.
func (f *Fake) decide(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	h := hmac.New(sha256.New, []byte(f.Secret))
	_, _ = fmt.Fprintf(h, "v0:%s:%s", r.Header.Get("X-Indent-Timestamp"), body) // a hash does not fail
	if !hmac.Equal([]byte(r.Header.Get("X-Indent-Signature")), []byte(hex.EncodeToString(h.Sum(nil)))) {
		answer(w, http.StatusInternalServerError, object{"status": object{"code": 9, "message": "invalid signature", "details": []any{}}})
		return
	}
	var asked struct {
		Events []event `json:"events"`
	}
	if err := json.Unmarshal(body, &asked); err != nil {
		answer(w, http.StatusInternalServerError, object{"status": object{"code": 3, "message": "malformed", "details": []any{}}})
		return
	}
	claims := []event{}
	for _, e := range asked.Events {
		var actor struct{ ID string }
		if json.Unmarshal(e.Actor, &actor) != nil || e.Event != "access/request" || !slices.Contains(f.approved, actor.ID) {
			continue
		}
		claim := event{Event: "access/approve", Actor: json.RawMessage(`{"kind":"bot.v1.user","id":"duty","displayName":"Duty"}`),
			Resources: append([]json.RawMessage{e.Actor}, e.Resources...), Reason: "Auto-approved based on being on-call", Timestamp: e.Timestamp}
		claim.Meta.Labels = f.labels
		claims = append(claims, claim)
	}
	answer(w, http.StatusOK, object{"status": object{"code": 0}, "claims": claims})
}
