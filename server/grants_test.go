package server_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
)

// grantBody is a body of POST /v1/grants: a right to log in to db-* hosts.
func (a *api) grantBody(subjectType, subjectID string, more ...string) string {
	members := map[string]string{
		"subject": `{"type":"` + subjectType + `","id":"` + subjectID + `"}`, "entries": `{"host":[{"f":"db-*","p":2,"a":["login"]}]}`,
		"expires_at": `"` + a.clock.in(time.Hour) + `"`, "reason": `"incident 5539"`,
	}
	for i := 0; i < len(more); i += 2 {
		members[more[i]] = more[i+1]
	}
	var list []string
	for name, value := range members {
		if value != "" {
			list = append(list, fmt.Sprintf("%q:%s", name, value))
		}
	}
	return "{" + strings.Join(list, ",") + "}"
}

// grant makes one in the default customer, and returns its id.
func (a *api) grant(subjectType, subjectID string, more ...string) string {
	a.Helper()
	return a.do("POST", "/v1/grants", a.root, a.grantBody(subjectType, subjectID, more...), "X-Customer-ID", authz.DefaultCustomer).is(201).text("id")
}

func login(subject, host string) string { return evaluation(subject, "login", "host", host) }

func TestGrants_HoldFromTheirStartUntilTheirEnd(t *testing.T) {
	t.Parallel()
	a := start(t)
	asker := a.create(`{"decision":true,"search":true}`)
	plain := a.create(`{"host":[{"f":"web","p":2}]}`)
	for name, subjectJSON := range map[string]string{"user": `{"type":"user","id":"alice"}`, "access_key": subject(plain.id)} {
		id := map[string]string{"user": "alice", "access_key": plain.id}[name]
		ask := func() *reply { return a.decide(asker.secret, login(subjectJSON, "db-1")) }
		missing := map[string]string{"user": "no_grant", "access_key": "scope_missing"}[name]
		if r := ask(); r.get("decision").Bool() || r.text("context.reasons.0.code") != missing {
			t.Errorf("%s, before: %s", name, r.body)
		}
		grant := a.grant(name, id, "not_before", `"`+a.clock.in(10*time.Second)+`"`, "expires_at", `"`+a.clock.in(20*time.Second)+`"`)
		if r := ask(); r.get("decision").Bool() || r.text("context.expires_at") != a.clock.in(10*time.Second) {
			t.Errorf("%s, scheduled: %s", name, r.body)
		}
		a.clock.advance(10*time.Second - time.Microsecond)
		if r := ask(); r.get("decision").Bool() {
			t.Errorf("%s, just before its start: %s", name, r.body)
		}
		a.clock.advance(time.Microsecond)
		r := ask()
		if want := `[{"code":"grant_permits","source":"grant","id":"` + grant + `","entry":0,"selector":"db-*","permission":"login"}]`; !r.get("decision").Bool() ||
			r.get("context.reasons").Raw != want || r.text("context.expires_at") != a.clock.in(10*time.Second) {
			t.Errorf("%s, at its start: %s", name, r.body)
		}
		a.clock.advance(10*time.Second - time.Microsecond)
		if r := ask(); !r.get("decision").Bool() || r.text("context.expires_at") != a.clock.in(time.Microsecond) {
			t.Errorf("%s, just before its end: %s", name, r.body)
		}
		a.clock.advance(time.Microsecond)
		if r := ask(); r.get("decision").Bool() || r.text("context.reasons.0.code") != missing {
			t.Errorf("%s, at its end: %s", name, r.body)
		}

		grant = a.grant(name, id)
		if !ask().get("decision").Bool() {
			t.Errorf("%s: a new grant does not count", name)
		}
		a.do("DELETE", "/v1/grants/"+grant, a.root, "").is(204)
		if ask().get("decision").Bool() {
			t.Errorf("%s: a revoked grant counts", name)
		}
	}
}

// here names the default customer, for root once there are others.
var here = []string{"X-Customer-ID", authz.DefaultCustomer}

// The attack: a service that may grant gives itself a right, by one or another
// of its names.
func TestGrants_NobodyGrantsToThemselves(t *testing.T) {
	t.Parallel()
	a := start(t)
	service := a.create(`{"access_requests_manage":true,"decision":true}`)
	rotated := a.made(a.do("POST", "/v1/access_keys/"+service.id+"/rotate", a.root, `{"grace":"1h"}`))
	for _, secret := range []string{service.secret, rotated.secret} {
		for _, name := range []string{service.id, service.handle, rotated.handle} {
			a.do("POST", "/v1/grants", secret, a.grantBody("access_key", name)).refused(403, "self_approval_forbidden")
		}
		// A name that only resembles its own is nobody's.
		a.do("POST", "/v1/grants", secret, a.grantBody("access_key", strings.ToUpper(service.id))).refused(404, "key_not_found")
		a.do("POST", "/v1/grants", secret, a.grantBody("access-key", service.id)).refused(400, "confusable_subject_type", "/subject/type")
	}
	if n := len(a.do("GET", "/v1/grants?status=all", a.root, "").is(200).get("grants").Array()); n != 0 {
		t.Errorf("%d grants were made", n)
	}
	// To others it may grant, and root may grant to it.
	a.do("POST", "/v1/grants", service.secret, a.grantBody("user", service.id)).is(201)
	a.do("POST", "/v1/grants", a.root, a.grantBody("access_key", service.handle)).is(201)
	if r := a.decide(service.secret, login(subject(service.id), "db-1")); !r.get("decision").Bool() {
		t.Errorf("what root granted does not count: %s", r.body)
	}
}

// The attacks: a grant for a key of another customer, for one that is nobody's,
// for root, for a sidecar, for a key that has ended.
func TestGrants_AnAccessKeyMustBeOneThatCanUseThem(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.customer("elsewhere")
	grant := func(id string) *reply {
		return a.do("POST", "/v1/grants", a.root, a.grantBody("access_key", id), here...)
	}
	make := func(more ...string) key {
		return a.createFor(authz.DefaultCustomer, `{"host":[{"f":"web","p":2}]}`, more...)
	}
	foreign := a.createFor("elsewhere", `{"host":[{"f":"web","p":2}]}`)
	sidecar := a.createFor(authz.DefaultCustomer, `{"sidecar":true}`)
	revoked, expired, rotated := make(), make(`"expires_at":"`+a.clock.in(time.Second)+`"`), make()
	a.do("DELETE", "/v1/access_keys/"+revoked.id, a.root, "", here...).is(204)
	next := a.made(a.do("POST", "/v1/access_keys/"+rotated.id+"/rotate", a.root, `{}`, here...))
	a.clock.advance(time.Second)
	for name, tt := range map[string]struct {
		id     string
		status int
		code   string
	}{
		"another customer's":           {foreign.id, 404, "key_not_found"},
		"another customer's handle":    {foreign.handle, 404, "key_not_found"},
		"nobody's":                     {"9017501f-9fa4-4a88-b657-5bd49c1bb722", 404, "key_not_found"},
		"nobody's handle":              {"lk1_live_000000000000", 404, "key_not_found"},
		"a handle in another mode":     {strings.Replace(next.handle, "live", "test", 1), 404, "key_not_found"},
		"a handle that was replaced":   {rotated.handle, 404, "key_not_found"},
		"no name at all":               {"x", 404, "key_not_found"},
		"root's handle":                {a.root[:len("lkr1_")+12], 400, "subject_not_allowed"},
		"root's key":                   {a.root, 400, "credential_in_name"},
		"a secret":                     {next.secret, 400, "credential_in_name"},
		"a sidecar's":                  {sidecar.id, 400, "subject_not_allowed"},
		"a sidecar's, by its handle":   {sidecar.handle, 400, "subject_not_allowed"},
		"a revoked one":                {revoked.id, 409, "already_revoked"},
		"a revoked one, by its handle": {revoked.handle, 409, "already_revoked"},
		"an expired one":               {expired.id, 409, "already_expired"},
	} {
		r := grant(tt.id).refused(tt.status, tt.code)
		if r.status == 400 {
			r.refused(400, tt.code, "/subject/id")
		}
		if strings.Contains(r.body, foreign.id) {
			t.Errorf("%s: %s", name, r.body)
		}
	}
	if r := grant(next.handle).is(201); r.text("subject.id") != rotated.id {
		t.Errorf("it is stored as %s", r.body)
	}
}

func TestGrants_RefuseWhatTheyCannotBeMadeOf(t *testing.T) {
	t.Parallel()
	a := start(t)
	token := authz.NewAccessKeyToken(authz.Live).Reveal()
	long := strings.Repeat("x", 501)
	for _, tt := range []struct{ member, value, code, pointer string }{
		{"subject", "", "missing_member", "/subject"},
		{"subject", `"user:alice"`, "wrong_type", "/subject"},
		{"subject", `{"id":"alice"}`, "missing_member", "/subject/type"},
		{"subject", `{"type":"user"}`, "missing_member", "/subject/id"},
		{"subject", `{"type":"user","id":7}`, "wrong_type", "/subject/id"},
		{"subject", `{"type":"user","id":""}`, "empty_string", "/subject/id"},
		{"subject", `{"type":"user","id":"a\nb"}`, "control_character", "/subject/id"},
		{"subject", `{"type":"user","id":"alice","properties":{}}`, "unknown_member", "/subject/properties"},
		{"subject", `{"type":"Access_Key","id":"alice"}`, "confusable_subject_type", "/subject/type"},
		{"subject", `{"type":"user","id":"` + token + `"}`, "credential_in_name", "/subject/id"},
		{"entries", "", "missing_member", "/entries"},
		{"entries", `{}`, "empty_entries", "/entries"},
		{"entries", `{"sets":[{"f":"*","p":15}]}`, "builtin_type", "/entries/sets"},
		{"entries", `{"policies":[{"f":"*","p":2}]}`, "builtin_type", "/entries/policies"},
		{"entries", `{"decision":true}`, "builtin_type", "/entries/decision"},
		{"entries", `{"latchkey_x":[{"f":"*","p":2}]}`, "builtin_type", "/entries/latchkey_x"},
		{"entries", `{"host":[{"f":"db-*","p":1}]}`, "create_needs_all", "/entries/host/0/f"},
		{"entries", `{"host":[{"f":"db-1","p":3}]}`, "create_needs_all", "/entries/host/0/f"},
		{"entries", `{"host":[{"f":"*","p":2,"r":{"filter":"x"}}]}`, "restriction_not_allowed", "/entries/host/0/r"},
		{"entries", `{"host":[{"f":"` + token + `","p":2}]}`, "credential_in_entries", "/entries"},
		{"entitlement_ids", `["e"]`, "two_rights", "/entitlement_ids"},
		{"not_before", `null`, "wrong_type", "/not_before"},
		{"not_before", `"tomorrow"`, "invalid_timestamp", "/not_before"},
		{"expires_at", "", "missing_member", "/expires_at"},
		{"expires_at", `null`, "permanent_not_allowed", "/expires_at"},
		{"expires_at", `7`, "wrong_type", "/expires_at"},
		{"expires_at", `"` + a.clock.in(0) + `"`, "expiry_in_past", "/expires_at"},
		{"expires_at", `"` + a.clock.in(-time.Hour) + `"`, "expiry_in_past", "/expires_at"},
		{"reason", "", "missing_member", "/reason"},
		{"reason", `" \t "`, "blank_reason", "/reason"},
		{"reason", `"` + long + `"`, "too_long", "/reason"},
		{"reason", `"\u001b[31mred"`, "control_character", "/reason"},
		{"reason", `"see ` + token + `"`, "credential_in_reason", "/reason"},
		{"id", `"mine"`, "unknown_member", "/id"},
		{"revoked_at", `null`, "unknown_member", "/revoked_at"},
	} {
		a.do("POST", "/v1/grants", a.root, a.grantBody("user", "alice", tt.member, tt.value)).refused(400, tt.code, tt.pointer)
	}
	for _, start := range []time.Duration{time.Hour, 2 * time.Hour} {
		a.do("POST", "/v1/grants", a.root, a.grantBody("user", "alice", "not_before", `"`+a.clock.in(start)+`"`)).refused(400, "expiry_before_start", "/expires_at")
	}
	// All that is wrong is told at once.
	r := a.do("POST", "/v1/grants", a.root, `{"subject":{"type":"user","id":""},"entries":{"sets":[]},"expires_at":null,"reason":""}`).is(400)
	if n := len(r.get("errors").Array()); n != 4 {
		t.Errorf("%d faults: %s", n, r.body)
	}
	// A start that has passed is now: nothing was granted before it was.
	made := a.do("POST", "/v1/grants", a.root, a.grantBody("user", "alice", "not_before", `"2020-01-01T00:00:00Z"`, "reason", `"`+strings.Repeat("é", 500)+`"`)).is(201)
	if made.text("not_before") != a.clock.in(0) || made.text("status") != "active" || made.header.Get("Location") != "/v1/grants/"+made.text("id") {
		t.Errorf("%s", made.body)
	}
}

// The attack: names that a careless comparison takes for patterns, or for others'.
func TestGrants_CountForTheirSubjectAlone(t *testing.T) {
	t.Parallel()
	a := start(t)
	asker := a.create(`{"decision":true}`)
	a.customer("elsewhere")
	there := a.createFor("elsewhere", `{"decision":true}`)
	for _, id := range []string{"*", "ali*", "alice/../bob", "ALICE", "alice ", "%61lice"} {
		a.grant("user", id)
	}
	a.grant("service", "alice")
	ask := func(secret, typ, id string) bool {
		return a.decide(secret, login(`{"type":"`+typ+`","id":"`+id+`"}`, "db-1")).get("decision").Bool()
	}
	if ask(asker.secret, "user", "alice") || ask(asker.secret, "user", "bob") || ask(asker.secret, "User", "ALICE") {
		t.Error("a grant counts for somebody else")
	}
	if !ask(asker.secret, "user", "ali*") || !ask(asker.secret, "user", "alice ") || !ask(asker.secret, "service", "alice") {
		t.Error("a grant does not count for whom it was given")
	}
	if ask(there.secret, "service", "alice") {
		t.Error("a grant counts in another customer")
	}
	// What was granted is no more than that.
	for _, q := range []string{evaluation(`{"type":"service","id":"alice"}`, "update", "host", "db-1"), evaluation(`{"type":"service","id":"alice"}`, "login", "host", "web"),
		evaluation(`{"type":"service","id":"alice"}`, "login", "hosts", "db-1"), evaluation(`{"type":"service","id":"alice"}`, "create", "host", "db-1")} {
		if r := a.decide(asker.secret, q); r.get("decision").Bool() || r.text("context.reasons.0.code") != "no_grant" {
			t.Errorf("%s: %s", q, r.body)
		}
	}
	if r := a.decide(asker.secret, evaluation(`{"type":"service","id":"alice"}`, "read", "host", "db-1")); !r.get("decision").Bool() {
		t.Errorf("p: %s", r.body)
	}
}

// The attack: a grant as a way into latchkey itself, or into what the key is told
// that it may.
func TestGrants_OpenNothingOfLatchkey(t *testing.T) {
	t.Parallel()
	a := start(t)
	plain := a.create(`{"host":[{"f":"web","p":2}]}`)
	decider := a.create(`{"decision":true}`)
	a.grant("access_key", plain.id, "entries", `{"host":[{"f":"*","p":15,"a":["*"]}],"access_key":[{"f":"*","p":15}],"grants":[{"f":"*","p":15}]}`)
	for _, call := range []string{"GET /v1/policies", "GET /v1/access_keys", "GET /v1/grants", "GET /v1/auditing"} {
		method, path, _ := strings.Cut(call, " ")
		a.do(method, path, plain.secret, "").refused(403, "scope_missing")
	}
	a.do("POST", "/decision", plain.secret, login(subject(plain.id), "db-1")).refused(403, "scope_missing")
	r := a.do("POST", "/v1/access_keys/verify", decider.secret, `{"key":"`+plain.secret+`","checks":[{"resource":{"type":"host","id":"db-1"},"permission":"delete"}]}`).is(200)
	if r.get("results.0.permitted").Bool() || r.text("results.0.code") != "scope_missing" {
		t.Errorf("verify tells of the key's scopes alone: %s", r.body)
	}
	if !a.decide(decider.secret, evaluation(subject(plain.id), "delete", "host", "db-1")).get("decision").Bool() {
		t.Error("in a decision the grant does not count")
	}
	rego := a.do("GET", "/v1/access_keys/"+plain.id+"/rego", a.root, "").is(200)
	if strings.Contains(rego.body, `"delete"`) {
		t.Errorf("the key's scopes as Rego tell of grants: %s", rego.body)
	}
}

func TestGrants_AreTheirCustomersAlone(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.customer("elsewhere")
	id := a.grant("user", "alice")
	manager := a.createFor("elsewhere", `{"access_requests_manage":true}`)
	for _, call := range []string{"GET", "DELETE"} {
		a.do(call, "/v1/grants/"+id, manager.secret, "").refused(404, "grant_not_found")
		a.do(call, "/v1/grants/"+id, a.root, "", "X-Customer-ID", "elsewhere").refused(404, "grant_not_found")
		a.do(call, "/v1/grants/"+strings.ToUpper(id), a.root, "", here...).refused(404, "grant_not_found")
		a.do(call, "/v1/grants/nonsense", a.root, "", here...).refused(404, "grant_not_found")
	}
	for _, query := range []string{"", "?status=all", "?status=all&subject_type=user&subject_id=alice"} {
		if r := a.do("GET", "/v1/grants"+query, manager.secret, "").is(200); len(r.get("grants").Array()) != 0 {
			t.Errorf("%s: %s", query, r.body)
		}
	}
	if a.do("GET", "/v1/grants/"+id, a.root, "", here...).is(200).text("status") != "active" {
		t.Error("it was ended from elsewhere")
	}
}

func TestGrants_ListsByStatusPageByPage(t *testing.T) {
	t.Parallel()
	a := start(t)
	manager := a.create(`{"access_requests_manage":true}`)
	k := a.create(`{"decision":true}`)
	ids := map[string][]string{}
	for i := range 7 {
		if i%2 == 1 {
			a.clock.advance(time.Second) // some are made at the same time
		}
		later := a.grant("user", "alice", "not_before", `"`+a.clock.in(30*time.Minute)+`"`)
		now, ended := a.grant("user", "bob"), a.grant("access_key", k.id)
		a.do("DELETE", "/v1/grants/"+ended, manager.secret, "").is(204)
		ids["scheduled"], ids["active"], ids["ended"] = append(ids["scheduled"], later), append(ids["active"], now), append(ids["ended"], ended)
	}
	ids["all"] = append(append(append(ids["all"], ids["scheduled"]...), ids["active"]...), ids["ended"]...)
	ids[""] = ids["active"]
	for status, want := range ids {
		for _, limit := range []int{1, 2, 3, 200} {
			var got, created []string
			path := fmt.Sprintf("/v1/grants?limit=%d", limit)
			if status != "" {
				path += "&status=" + status
			}
			for cursor := ""; ; {
				r := a.do("GET", path+cursor, manager.secret, "").is(200)
				page := r.get("grants").Array()
				if len(page) > limit {
					t.Fatalf("%d of at most %d", len(page), limit)
				}
				for _, g := range page {
					got, created = append(got, g.Get("id").String()), append(created, g.Get("created_at").String())
					if status != "" && status != "all" && g.Get("status").String() != status {
						t.Errorf("among the %s: %s", status, g.Raw)
					}
				}
				if r.get("next_cursor").Type.String() == "Null" {
					break
				}
				cursor = "&cursor=" + r.text("next_cursor")
			}
			for i := 1; i < len(created); i++ {
				if created[i] > created[i-1] {
					t.Errorf("%s, %d a page: %s after %s", status, limit, created[i], created[i-1])
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%s, %d a page: %v, want %v", status, limit, got, want)
			}
		}
	}
	count := func(query string) int {
		return len(a.do("GET", "/v1/grants?status=all&"+query, manager.secret, "").is(200).get("grants").Array())
	}
	if n := count("subject_type=access_key&subject_id=" + k.handle); n != 7 {
		t.Errorf("%d by the key's handle", n)
	}
	if count("subject_id=bob") != 7 || count("subject_type=user") != 14 || count("subject_type=access_key&subject_id=nobody") != 0 || count("subject_type=service") != 0 {
		t.Error("the filters do not filter")
	}
	for _, query := range []string{"cursor=", "cursor=x", "cursor=Z3JhbnQ6MTp4", "status=live", "limit=0", "limit=201", "subject_id=", "subject=alice", "subject_type=%00"} {
		a.do("GET", "/v1/grants?"+query, manager.secret, "").is(400)
	}
}

func TestGrants_AreOnRecord(t *testing.T) {
	t.Parallel()
	a := start(t)
	manager := a.create(`{"access_requests_manage":true}`)
	made := a.do("POST", "/v1/grants", manager.secret, a.grantBody("user", "alice")).is(201)
	id := made.text("id")
	if made.text("created_by.id") != manager.id || made.text("created_by.type") != "access_key" || made.get("revoked_at").Raw != "null" {
		t.Errorf("%s", made.body)
	}
	r := a.do("DELETE", "/v1/grants/"+id, manager.secret, "", "Prefer", "return=representation").is(200)
	if r.text("status") != "ended" || r.text("revoked_at") != a.clock.in(0) || r.header.Get("Preference-Applied") != "return=representation" {
		t.Errorf("%s", r.body)
	}
	a.do("DELETE", "/v1/grants/"+id, a.root, "").refused(409, "already_ended")
	expiring := a.grant("user", "alice", "expires_at", `"`+a.clock.in(time.Second)+`"`)
	a.clock.advance(time.Second)
	a.do("DELETE", "/v1/grants/"+expiring, a.root, "").refused(409, "already_ended")
	if r := a.do("GET", "/v1/grants/"+expiring, a.root, "").is(200); r.text("status") != "ended" || r.get("revoked_at").Raw != "null" {
		t.Errorf("%s", r.body)
	}
	var actions []string
	for _, e := range a.events(authz.DefaultCustomer) {
		if e.Get("resource.type").String() != "grant" || e.Get("outcome").String() != "success" {
			continue
		}
		actions = append(actions, e.Get("action").String())
		if e.Get("resource.name").String() != "user:alice" || e.Get("changes.subject_id").String() != "alice" {
			t.Errorf("%s", e.Raw)
		}
		if e.Get("resource.id").String() == id && e.Get("action").String() == "grant.create" &&
			(e.Get("changes.entries.host.0.f").String() != "db-*" || e.Get("changes.reason").String() != "incident 5539" || e.Get("changes.expires_at").String() == "" || e.Get("actor.id").String() != manager.id) {
			t.Errorf("%s", e.Raw)
		}
	}
	if got := strings.Join(actions, " "); got != "grant.create grant.revoke grant.create" {
		t.Errorf("%s", got)
	}
}

// The attack: a grant more than a subject may hold, or one ended twice, by calls
// at the same time.
func TestGrants_LimitsHoldAgainstCallsAtOnce(t *testing.T) {
	t.Parallel()
	a := start(t)
	err := a.db.Change(t.Context(), authz.Change{Chain: authz.DefaultCustomer, At: latchkey.InstantOf(a.clock.now())}, func(tx authz.Tx) (audit.Draft, error) {
		for i := range authz.MaxGrants - 3 {
			g := authz.GrantRecord{ID: uuid.NewString(), Subject: authz.EntityRef{Type: "user", ID: "alice"}, Entries: `{"host":[{"f":"x","p":2}]}`, Reason: fmt.Sprint(i),
				ExpiresAt: latchkey.InstantOf(a.clock.now()).Add(time.Hour), RevokedAt: latchkey.Never}
			if err := tx.InsertGrant(t.Context(), g); err != nil {
				return audit.Draft{}, err
			}
		}
		return audit.Draft{ID: uuid.NewString(), At: latchkey.InstantOf(a.clock.now()), Actor: audit.Actor{Type: "system", ID: "system"}, Action: "grant.create", Resource: audit.Resource{Type: "grant"}, Outcome: "success"}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	a.written++
	a.mu.Unlock()
	together := func(call func(int) int) (statuses map[int]int) {
		statuses = map[int]int{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				status := call(i)
				mu.Lock()
				defer mu.Unlock()
				statuses[status]++
			})
		}
		wg.Wait()
		return statuses
	}
	got := together(func(int) int { return a.do("POST", "/v1/grants", a.root, a.grantBody("user", "alice")).status })
	if got[201] != 3 || got[409] != 9 {
		t.Errorf("three more fit: %v", got)
	}
	a.do("POST", "/v1/grants", a.root, a.grantBody("user", "alice")).refused(409, "too_many_grants")
	a.do("POST", "/v1/grants", a.root, a.grantBody("user", "bob")).is(201)
	id := a.do("GET", "/v1/grants?limit=1&subject_id=alice", a.root, "").is(200).text("grants.0.id")
	got = together(func(int) int { return a.do("DELETE", "/v1/grants/"+id, a.root, "").status })
	if got[204] != 1 || got[409] != 11 {
		t.Errorf("it ends once: %v", got)
	}
	a.do("POST", "/v1/grants", a.root, a.grantBody("user", "alice")).is(201) // there is room again
	a.do("POST", "/v1/grants", a.root, a.grantBody("user", "alice")).refused(409, "too_many_grants")
	a.clock.advance(time.Hour) // what has ended takes no room
	a.do("POST", "/v1/grants", a.root, a.grantBody("user", "alice")).is(201)

	body := a.grantBody("user", "carol")
	replies := together(func(int) int {
		r := a.do("POST", "/v1/grants", a.root, body, "Idempotency-Key", "one")
		return r.status
	})
	if replies[201]+replies[409] != 12 || replies[201] == 0 {
		t.Errorf("%v", replies)
	}
	if n := len(a.do("GET", "/v1/grants?subject_id=carol", a.root, "").is(200).get("grants").Array()); n != 1 {
		t.Errorf("%d grants of one idempotent request", n)
	}
	a.do("POST", "/v1/grants", a.root, a.grantBody("user", "dave"), "Idempotency-Key", "one").refused(422, "idempotency_mismatch")
}

// What was granted outlives the process; and where the database is lost, keys
// are decided on by what is in memory, and nobody else by what is not.
func TestGrants_OutliveTheProcess(t *testing.T) {
	t.Parallel()
	a := start(t)
	k, asker := a.create(`{"host":[{"f":"web","p":2}]}`), a.create(`{"decision":true}`)
	a.grant("access_key", k.id)
	a.grant("user", "alice")
	a.grant("user", "bob")
	gone := a.grant("user", "carol")
	a.do("DELETE", "/v1/grants/"+gone, a.root, "").is(204)
	a.stop()
	b := start(t, func(o *options) { o.dir, o.clock = a.dir, a.clock })
	ask := func(subject string) *reply { return b.decide(asker.secret, login(subject, "db-1")) }
	person := func(id string) string { return `{"type":"user","id":"` + id + `"}` }
	if !ask(subject(k.id)).get("decision").Bool() || !ask(person("alice")).get("decision").Bool() || ask(person("carol")).get("decision").Bool() {
		t.Error("another process decides otherwise")
	}
	b.loseDatabase()
	if !ask(subject(k.id)).get("decision").Bool() || !ask(person("alice")).get("decision").Bool() {
		t.Error("what is in memory does not count")
	}
	if r := ask(person("bob")); r.get("decision").Bool() || r.text("context.reasons.0.code") != "not_ready" || r.text("context.expires_at") != b.clock.in(0) {
		t.Errorf("nobody can tell: %s", r.body)
	}
}

func TestGrants_AreExplained(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true,"host":[{"f":"web","p":2}]}`)
	a.clock.advance(time.Second)
	a.grant("access_key", k.id, "reason", `"covers"`)
	a.grant("access_key", k.id, "reason", `"later"`, "not_before", `"`+a.clock.in(30*time.Minute)+`"`)
	a.grant("access_key", k.id, "reason", `"elsewhere"`, "entries", `{"host":[{"f":"web","p":2}],"doc":[{"f":"*","p":2}]}`)
	a.grant("access_key", k.id, "reason", `"over"`, "expires_at", `"`+a.clock.in(time.Second)+`"`)
	a.clock.advance(time.Second)
	r := a.do("POST", "/decision/explain", k.secret, login(subject(k.id), "db-1")).is(200)
	why := map[string]string{}
	for _, g := range r.get("context.explain.grants").Array() {
		why[g.Get("reason").String()] = g.Get("why").String() + " " + g.Get("covers").String()
	}
	want := map[string]string{"covers": "granted true", "later": "not_started false", "elsewhere": "not_covered false", "over": "ended false"}
	if diff := cmp.Diff(want, why); diff != "" {
		t.Error(diff)
	}
	if r.text(`context.explain.grants.#(reason=="elsewhere").entries.0.why`) != "selector_mismatch" || r.text("context.explain.policy.rule") != "grant_permits" ||
		r.get(`context.explain.grants.#(reason=="elsewhere").types`).Raw != `["doc","host"]` {
		t.Errorf("%s", r.body)
	}
	// Of somebody without grants there is nothing to tell.
	if r := a.do("POST", "/decision/explain", a.root, login(`{"type":"user","id":"alice"}`, "db-1")).is(200); r.get("context.explain.grants").Raw != `[]` {
		t.Errorf("%s", r.body)
	}
}

func TestGrants_AreSearched(t *testing.T) {
	t.Parallel()
	a, _ := shelf(t, 3, `{"search":true}`)
	a.do("POST", "/v1/subjects:bulkUpdate", a.root, subjects(`{"type":"user","id":"bob"}`)).is(200)
	reader := a.create(`{"decision":true}`)
	of := func(typ, id, entries string) { a.grant(typ, id, "entries", entries) }
	of("user", "alice", `{"doc":[{"f":"d0001","p":2,"a":["lock"]}]}`) // not known to the directory
	of("user", "bob", `{"doc":[{"f":"d0001","p":2},{"f":"d0002","p":4,"a":["lock","fly"]}]}`)
	of("user", "carol", `{"doc":[{"f":"d0000","p":2}]}`)
	of("access_key", reader.id, `{"doc":[{"f":"d0002","p":2,"a":["open"]}]}`)
	gone := a.grant("user", "dave", "entries", `{"doc":[{"f":"d0001","p":2}]}`)
	a.do("DELETE", "/v1/grants/"+gone, a.root, "").is(204)
	ask := func(what, body, path, want string) {
		t.Helper()
		r := a.do("POST", "/access/v1/search/"+what, a.root, body).is(200)
		if got := strings.ReplaceAll(r.get("results.#."+path).Raw, `"`, ""); got != want {
			t.Errorf("%s %s: %s, want %s", what, body, got, want)
		}
	}
	ask("subject", searchBody(`{"type":"user"}`, readAction, `{"type":"doc","id":"d0001"}`), "id", "[alice,bob]")
	ask("subject", searchBody(`{"type":"user"}`, `{"name":"lock"}`, `{"type":"doc","id":"d0002"}`), "id", "[bob]")
	ask("subject", searchBody(anyKey, readAction, `{"type":"doc","id":"d0002"}`), "id", "["+reader.id+"]")
	ask("resource", searchBody(`{"type":"user","id":"bob"}`, readAction, anyDoc), "id", "[d0001,d0002]")
	ask("resource", searchBody(subject(reader.id), readAction, anyDoc), "id", "[d0002]")
	ask("action", searchBody(`{"type":"user","id":"bob"}`, "", `{"type":"doc","id":"d0002"}`), "name", "[read,update,lock,fly]")
	ask("action", searchBody(subject(reader.id), "", `{"type":"doc","id":"d0002"}`), "name", "[read,open]")
	// Page after page, each subject once.
	var got []string
	for token := ""; ; {
		r := a.do("POST", "/access/v1/search/subject", a.root, searchBody(`{"type":"user"}`, readAction, `{"type":"doc","id":"d0001"}`, `"page":{"limit":1,"token":"`+token+`"}`)).is(200)
		for _, id := range r.get("results.#.id").Array() {
			got = append(got, id.String())
		}
		if token = r.text("page.next_token"); token == "" {
			break
		}
	}
	if fmt.Sprint(got) != "[alice bob]" {
		t.Errorf("%v", got)
	}
}
