package server_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

// kit is a customer whose portal asks for access to its customers: laura asks,
// dale decides.
type kit struct {
	*api
	portal      key
	laura, dale human
	leads       string // id of the group that decides
	app         string
	template    string
}

func startKit(t testing.TB, change ...func(*options)) *kit {
	t.Helper()
	a := start(t, change...)
	k := &kit{api: a, laura: a.person("laura", "user"), dale: a.person("dale", "user")}
	k.portal = a.create(`{"approvals":true,"resources_manage":true,"decision":true}`)
	k.leads = a.do("POST", "/v1/groups", a.root, `{"name":"leads","member_ids":["`+k.dale.id+`"]}`).is(201).text("id")
	k.app = a.do("POST", "/v1/applications", a.root, `{"name":"portal"}`).is(201).text("id")
	k.template = k.newTemplate("customers", `"resource_selector":{"kind":"customer"}`)
	k.stored("customer", "acme", "globex")
	return k
}

// newTemplate makes one with further members, which come before the usual.
func (k *kit) newTemplate(name, members string) string {
	k.Helper()
	body := `{"name":"` + name + `","app_id":"` + k.app + `",` + members
	for member, value := range map[string]string{
		"approver_group_ids": `["` + k.leads + `"]`, "allowed_durations": `[60,120]`, "require_justification": `false`, "resource_access": `{"p":2}`,
	} {
		if !strings.Contains(members, `"`+member+`"`) {
			body += `,"` + member + `":` + value
		}
	}
	return k.do("POST", "/v1/access-request-templates", k.root, body+"}").is(201).text("id")
}

func (k *kit) stored(kind string, ids ...string) {
	k.Helper()
	items := make([]string, len(ids))
	for i, id := range ids {
		items[i] = `{"kind":"` + kind + `","id":"` + id + `"}`
	}
	k.do("POST", "/v1/resources:bulkUpdate", k.portal.secret, `{"resources":[`+strings.Join(items, ",")+`]}`).is(200)
}

func approvalBody(petitioner, more string, customers ...string) string {
	refs := make([]string, len(customers))
	for i, id := range customers {
		refs[i] = `{"kind":"customer","id":"` + id + `"}`
	}
	return `{"petitioners":[` + petitioner + `],"resources":[` + strings.Join(refs, ",") + `]` + more + `}`
}

func petitioner(h human) string { return `{"kind":"user","id":"` + h.id + `"}` }

// ask is the portal's, for laura and acme.
func (k *kit) ask(more string) *reply {
	k.Helper()
	return k.do("POST", "/v1/approvals", k.portal.secret, approvalBody(petitioner(k.laura), more, "acme")).is(200)
}

// outcome holds an answer to its status, and returns the id of the request.
func (r *reply) outcome(status string) string {
	r.Helper()
	if r.is(200).text("status") != status || (r.get("grant").Type != gjson.Null) != (status == "granted") || (r.get("denial").Type != gjson.Null) != (status == "denied") {
		r.Errorf("%s: want %s: %s", r.request, status, r.body)
	}
	return r.text("request_id")
}

func (k *kit) verdict(who human, request, verb, body string) *reply {
	k.Helper()
	return k.do("POST", "/v1/access-requests/"+request+"/"+verb, who.token, body)
}

// mayRead asks whether laura may read a customer now.
func (k *kit) mayRead(customer string) bool {
	k.Helper()
	return k.decide(k.portal.secret, evaluation(`{"type":"user","id":"`+k.laura.id+`"}`, "read", "customer", customer)).get("decision").Bool()
}

func (k *kit) requests() []gjson.Result {
	k.Helper()
	return k.do("GET", "/v1/access-requests/all?limit=100", k.root, "").is(200).get("access_requests").Array()
}

// What a server with a clock that is ahead has approved is in force at one whose clock
// is behind: an application that asks there is not told to wait, and nobody is asked
// to decide once more. A window begins by the clock all the same.
func TestApprovals_WhatAClockAheadHasApprovedHasBegun(t *testing.T) {
	t.Parallel()
	k := startKit(t)
	request := k.ask("").outcome("waiting")
	const ahead = 4 * time.Second
	k.clock.advance(ahead)
	k.verdict(k.dale, request, "approve", "").is(200)
	mover := k.do("POST", "/v1/entitlements", k.root, `{"app_id":"`+k.app+`","name":"mover","entries":{"door":[{"f":"front","p":2}]},"claims":{"roles":["mover"]}}`).is(201).text("id")
	grant := k.do("POST", "/v1/grants", k.root, `{"subject":{"type":"user","id":"`+k.laura.id+`"},"entitlement_ids":["`+mover+`"],"reason":"moving","expires_at":"`+k.clock.in(time.Hour)+`"}`).is(201).text("id")
	window := k.newTemplate("windows", `"assignment_types":["window"],"resource_selector":{"kind":"room"}`)
	k.stored("room", "attic")
	later := k.do("POST", "/v1/access-requests", k.laura.token, `{"template_id":"`+window+`","resources":[{"kind":"room","id":"attic"}],"window":{"start":"`+k.clock.in(time.Second)+`","end":"`+k.clock.in(time.Hour)+`"}}`).is(201).text("id")
	k.verdict(k.dale, later, "approve", "").is(200)

	k.clock.advance(-ahead) // as the other server's is
	if !k.mayRead("acme") {
		t.Error("the grant has not begun")
	}
	if again := k.ask("").outcome("granted"); again != request || len(k.requests()) != 2 {
		t.Errorf("asked again: %s, not %s", again, request)
	}
	if got := k.do("GET", "/v1/grants/"+grant, k.root, "").is(200).text("status"); got != "active" {
		t.Errorf("a grant without a request is %s", got)
	}
	if groups := k.do("GET", "/v1/users/"+k.laura.id+"/groups", k.root, "").is(200); !strings.Contains(groups.body, request) || strings.Contains(groups.body, later) {
		t.Errorf("laura is in %s", groups.body)
	}
	if claims := k.do("GET", "/v1/users/"+k.laura.id+"/claims", k.root, "").is(200); claims.get("claims.roles.0").String() != "mover" {
		t.Errorf("laura's claims are %s", claims.body)
	}
	about := evaluation(`{"type":"user","id":"`+k.laura.id+`"}`, "read", "room", "attic")
	if k.decide(k.portal.secret, about).get("decision").Bool() {
		t.Error("allowed before the window")
	}
	k.clock.advance(ahead + time.Second)
	if !k.decide(k.portal.secret, about).get("decision").Bool() {
		t.Error("denied within the window")
	}
}

// The whole way: an application asks, waits, is granted, and access ends by
// itself.
func TestApprovals_FromAskingToTheEnd(t *testing.T) {
	t.Parallel()
	k := startKit(t)
	if k.mayRead("acme") {
		t.Fatal("allowed before anybody asked")
	}
	request := k.ask(`,"reason":"ticket 7"`).outcome("waiting")
	if again := k.ask("").outcome("waiting"); again != request || len(k.requests()) != 1 {
		t.Errorf("asked again: %s, not %s", again, request)
	}
	shown := k.do("GET", "/v1/access-requests/"+request, k.dale.token, "").is(200)
	for path, want := range map[string]string{
		"requester_id": k.laura.id, "beneficiary_id": k.laura.id, "submitted_by.type": "access_key", "submitted_by.id": k.portal.id,
		"justification": "ticket 7", "requested_duration_mins": "60", "status": "pending",
	} {
		if shown.text(path) != want {
			t.Errorf("%s is %q, want %q in %s", path, shown.text(path), want, shown.body)
		}
	}
	if k.mayRead("acme") {
		t.Error("allowed while it waits")
	}
	k.verdict(k.dale, request, "approve", "").is(200)
	granted := k.ask("")
	if granted.outcome("granted") != request || granted.text("grant.subject.id") != k.laura.id || granted.text("grant.expires_at") != k.clock.in(time.Hour) {
		t.Errorf("granted %s", granted.body)
	}
	if !k.mayRead("acme") || k.mayRead("globex") {
		t.Error("the grant is for acme alone")
	}
	k.clock.advance(time.Hour - time.Microsecond)
	if k.ask("").outcome("granted") != request || !k.mayRead("acme") {
		t.Error("ended before its time")
	}
	k.clock.advance(time.Microsecond)
	if k.mayRead("acme") {
		t.Error("allowed after the end")
	}
	if next := k.ask("").outcome("waiting"); next == request {
		t.Error("the request that has ended is joined")
	}
}

func TestApprovals_ADenialIsToldOnceAndThenAskedAgain(t *testing.T) {
	t.Parallel()
	k := startKit(t)
	first := k.ask("").outcome("waiting")
	k.verdict(k.dale, first, "deny", `{"comment":"not this quarter"}`).is(200)
	told := k.ask("")
	if told.outcome("denied") != first || told.text("denial.code") != "request_denied" || told.text("denial.detail") != "not this quarter" {
		t.Errorf("told %s", told.body)
	}
	if second := k.ask("").outcome("waiting"); second == first || len(k.requests()) != 2 {
		t.Errorf("no new request after the denial was told")
	}
	// One that laura herself made and was denied is no news to the portal.
	own := k.do("POST", "/v1/access-requests", k.laura.token, `{"template_id":"`+k.template+`","resources":[{"kind":"customer","id":"globex"}],"requested_duration_mins":60}`).is(201).text("id")
	k.verdict(k.dale, own, "deny", "").is(200)
	k.do("POST", "/v1/approvals", k.portal.secret, approvalBody(petitioner(k.laura), "", "globex")).outcome("waiting")
}

func TestApprovals_JoinsWhatThePersonAskedForHerself(t *testing.T) {
	t.Parallel()
	k := startKit(t)
	own := k.do("POST", "/v1/access-requests", k.laura.token, `{"template_id":"`+k.template+`","resources":[{"kind":"customer","id":"acme"}],"requested_duration_mins":120}`).is(201).text("id")
	if joined := k.ask("").outcome("waiting"); joined != own {
		t.Errorf("joined %s, not %s", joined, own)
	}
	k.verdict(k.dale, own, "deny", "").is(200)
	if k.ask("").outcome("denied") != own {
		t.Error("another denial")
	}
}

func TestApprovals_WaitIsWokenByEveryOutcome(t *testing.T) {
	t.Parallel()
	k := startKit(t)
	for _, tt := range []struct {
		name, status, code string
		decide             func(request string)
	}{
		{"approved", "granted", "", func(id string) { k.verdict(k.dale, id, "approve", "").is(200) }},
		{"denied", "denied", "request_denied", func(id string) { k.verdict(k.dale, id, "deny", "").is(200) }},
		{"cancelled", "denied", "request_cancelled", func(id string) { k.verdict(k.laura, id, "revoke", "").is(200) }},
	} {
		k.stored("customer", tt.name)
		body := func(more string) string { return approvalBody(petitioner(k.laura), more, tt.name) }
		request := k.do("POST", "/v1/approvals", k.portal.secret, body("")).outcome("waiting")
		answers := make(chan *reply, 2)
		for range cap(answers) {
			go func() {
				r, err := k.try("POST", "/v1/approvals", k.portal.secret, body(`,"wait":30`))
				if err != nil {
					t.Error(err)
				}
				answers <- r
			}()
		}
		k.gauge("latchkey_access_request_waiting", cap(answers))
		tt.decide(request)
		for range cap(answers) {
			if r := <-answers; r != nil && (r.outcome(tt.status) != request || r.text("denial.code") != tt.code) {
				t.Errorf("%s: %s", tt.name, r.body)
			}
		}
		if tt.status == "denied" {
			if next := k.do("POST", "/v1/approvals", k.portal.secret, body("")).outcome("waiting"); next == request {
				t.Errorf("%s: it was told already", tt.name)
			}
		}
	}
}

func TestApprovals_WaitEndsWithTheRequestAndWithItsTime(t *testing.T) {
	t.Parallel()
	k := startKit(t)
	if k.ask(`,"wait":1`).outcome("waiting") == "" {
		t.Error("no request")
	}
	stopped := make(chan *reply, 1)
	go func() {
		r, err := k.try("POST", "/v1/approvals", k.portal.secret, approvalBody(petitioner(k.laura), `,"wait":60`, "acme"))
		if err != nil {
			t.Error(err)
		}
		stopped <- r
	}()
	k.gauge("latchkey_access_request_waiting", 1)
	k.stop()
	if r := <-stopped; r != nil {
		r.outcome("waiting")
	}
}

// Any number of clicks at once is one request, and one notification.
func TestApprovals_AskedAtOnceIsOneRequest(t *testing.T) {
	t.Parallel()
	k := startKit(t)
	var wg sync.WaitGroup
	ids := make([]string, 30)
	for i := range ids {
		wg.Go(func() {
			if r, err := k.try("POST", "/v1/approvals", k.portal.secret, approvalBody(petitioner(k.laura), "", "acme")); err != nil {
				t.Error(err)
			} else {
				ids[i] = r.outcome("waiting")
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("several requests: %v", ids)
		}
	}
	n := 0
	for _, e := range k.events("default") {
		if e.Get("action").String() == "access_request.submit" {
			n++
		}
	}
	if len(k.requests()) != 1 || n != 1 {
		t.Errorf("%d requests, %d events", len(k.requests()), n)
	}
}

func TestApprovals_SeveralResourcesAreAllOrNothing(t *testing.T) {
	t.Parallel()
	k := startKit(t)
	both := func(more string) *reply {
		return k.do("POST", "/v1/approvals", k.portal.secret, approvalBody(petitioner(k.laura), more, "globex", "acme"))
	}
	k.verdict(k.dale, k.ask("").outcome("waiting"), "approve", "").is(200)
	request := both("").outcome("waiting") // acme is granted, globex is not
	k.clock.advance(30 * time.Minute)
	k.verdict(k.dale, request, "approve", "").is(200)
	if r := both(""); r.outcome("granted") != request || r.text("grant.expires_at") != k.clock.in(time.Hour) {
		t.Errorf("granted %s", r.body)
	}
	// Of two grants together it is the first to end that counts.
	k.stored("customer", "initech")
	single := k.do("POST", "/v1/approvals", k.portal.secret, approvalBody(petitioner(k.laura), `,"duration":120`, "initech")).outcome("waiting")
	k.verdict(k.dale, single, "approve", "").is(200)
	three := k.do("POST", "/v1/approvals", k.portal.secret, approvalBody(petitioner(k.laura), "", "initech", "globex", "acme"))
	if three.outcome("granted") != request {
		t.Errorf("of both grants %s", three.body)
	}
	k.do("POST", "/v1/approvals", k.portal.secret, approvalBody(petitioner(k.laura), "", "acme", "nobody")).refused(404, "resource_not_found")
}

func TestApprovals_WhatCoversCountsHoweverItCame(t *testing.T) {
	t.Parallel()
	k := startKit(t)
	k.newTemplate("writers", `"resource_selector":{"kind":"repo"},"resource_access":{"p":6,"a":["merge"]}`)
	k.stored("repo", "site")
	ask := func() *reply {
		return k.do("POST", "/v1/approvals", k.portal.secret, `{"petitioners":[`+petitioner(k.laura)+`],"resources":[{"kind":"repo","id":"site"}]}`)
	}
	give := func(entries string) string {
		return k.do("POST", "/v1/grants", k.root, `{"subject":{"type":"user","id":"`+k.laura.id+`"},"entries":`+entries+`,"expires_at":"2027-01-01T00:00:00Z","reason":"by hand"}`).is(201).text("id")
	}
	for _, less := range []string{`{"repo":[{"f":"site","p":2}]}`, `{"repo":[{"f":"site","p":6}]}`, `{"repo":[{"f":"other","p":15,"a":["*"]}]}`, `{"host":[{"f":"*","p":15,"a":["*"]}]}`} {
		give(strings.Replace(less, `"p":15`, `"p":6`, 1))
		ask().outcome("waiting")
	}
	enough := give(`{"repo":[{"f":"si*","p":6,"a":["*"]}]}`)
	if r := ask(); r.outcome("granted") != "" || r.text("grant.id") != enough {
		t.Errorf("granted %s", r.body)
	}
}

func TestApprovals_TheTemplateSaysWhoAndHow(t *testing.T) {
	t.Parallel()
	k := startKit(t)
	k.do("POST", "/v1/resources:bulkUpdate", k.portal.secret, `{"resources":[{"kind":"customer","id":"big","labels":{"plan":"enterprise"}},{"kind":"customer","id":"tied","labels":{"plan":"free","eu":"yes"}},{"kind":"box","id":"1"}]}`).is(200)
	strict := k.newTemplate("enterprise", `"resource_selector":{"kind":"customer","labels":{"plan":"enterprise"}},"require_justification":true,"allowed_durations":[15],"default_duration_mins":15`)
	ask := func(customer, more string) *reply {
		return k.do("POST", "/v1/approvals", k.portal.secret, approvalBody(petitioner(k.laura), more, customer))
	}
	ask("big", "").refused(400, "justification_required", "/reason")
	ask("big", `,"reason":" "`).refused(400, "justification_required", "/reason")
	ask("big", `,"reason":"why","duration":60`).refused(400, "duration_not_allowed", "/duration")
	request := ask("big", `,"reason":"why"`).outcome("waiting")
	if r := k.do("GET", "/v1/access-requests/"+request, k.dale.token, "").is(200); r.text("template_id") != strict || r.text("requested_duration_mins") != "15" {
		t.Errorf("by another template: %s", r.body)
	}
	// The labels may change later: what was asked for by another template stays.
	k.newTemplate("free", `"resource_selector":{"kind":"customer","labels":{"plan":"free"}}`)
	k.newTemplate("europe", `"resource_selector":{"kind":"customer","labels":{"eu":"yes"}}`)
	ask("tied", "").refused(409, "template_ambiguous")
	k.do("POST", "/v1/approvals", k.portal.secret, `{"petitioners":[`+petitioner(k.laura)+`],"resources":[{"kind":"box","id":"1"}]}`).refused(404, "no_template_for_resource")
	k.do("POST", "/v1/approvals", k.portal.secret, `{"petitioners":[`+petitioner(k.laura)+`],"resources":[{"kind":"box","id":"2"}]}`).refused(404, "resource_not_found")
	k.do("POST", "/v1/approvals", k.portal.secret, `{"petitioners":[`+petitioner(k.laura)+`],"resources":[{"kind":"box","id":"1"},{"kind":"customer","id":"acme"}]}`).refused(404, "no_template_for_resource")
}

// Who the template is not for, and what nobody could decide on, is denied at
// once; nobody is told, and nothing is made.
func TestApprovals_DeniedAtOnceMakesNothing(t *testing.T) {
	t.Parallel()
	k := startKit(t)
	k.do("POST", "/v1/resources:bulkUpdate", k.portal.secret, `{"resources":[{"kind":"vip","id":"1"},{"kind":"lost","id":"1"}]}`).is(200)
	k.newTemplate("vip", `"resource_selector":{"kind":"vip"},"allowed_group_ids":["`+k.leads+`"]`)
	empty := k.do("POST", "/v1/groups", k.root, `{"name":"nobody"}`).is(201).text("id")
	k.newTemplate("lost", `"resource_selector":{"kind":"lost"},"approver_group_ids":["`+empty+`"]`)
	for kind, code := range map[string]string{"vip": "requester_not_allowed", "lost": "no_eligible_approver"} {
		r := k.do("POST", "/v1/approvals", k.portal.secret, `{"petitioners":[`+petitioner(k.laura)+`],"resources":[{"kind":"`+kind+`","id":"1"}]}`)
		if r.outcome("denied") != "" || r.text("denial.code") != code {
			t.Errorf("%s: %s", kind, r.body)
		}
	}
	// The one person who could decide is who asks.
	r := k.do("POST", "/v1/approvals", k.portal.secret, approvalBody(petitioner(k.dale), "", "acme"))
	if r.outcome("denied") != "" || r.text("denial.code") != "no_eligible_approver" {
		t.Errorf("for the only approver: %s", r.body)
	}
	if len(k.requests()) != 0 {
		t.Errorf("%d requests were made", len(k.requests()))
	}
}

// The attack: a key without the scope, or a person, asks for somebody else, to
// come by their access or to learn who there is.
func TestApprovals_NobodyAsksForOthersWithoutTheScope(t *testing.T) {
	t.Parallel()
	k := startKit(t)
	for _, scopes := range []string{`{"decision":true}`, `{"access_requests_manage":true}`, `{"resources_manage":true,"approvals":false,"decision":true}`} {
		k.do("POST", "/v1/approvals", k.create(scopes).secret, approvalBody(petitioner(k.laura), "", "acme")).refused(403, "scope_missing")
	}
	admin := k.person("ada", "admin")
	for _, other := range []string{
		petitioner(k.laura), `{"kind":"user","email":"laura@example.com"}`, `{"kind":"user","id":"00000000-0000-4000-8000-000000000000"}`,
		`{"kind":"user","email":"nobody@example.com"}`, `{"kind":"user","id":"` + k.dale.id + `","email":"laura@example.com"}`,
		`{"kind":"user","id":"` + k.laura.id + `","email":"dale@example.com"}`, `{"kind":"user","email":"dale@example.com.evil.test"}`,
		`{"kind":"user","id":"dale"}`,
	} {
		k.do("POST", "/v1/approvals", k.dale.token, approvalBody(other, "", "acme")).refused(403, "scope_missing")
		k.do("POST", "/v1/approvals", admin.token, approvalBody(other, "", "acme")).refused(403, "scope_missing")
	}
	// For oneself, by whatever of one's own.
	for _, self := range []string{petitioner(k.laura), `{"kind":"user","email":"LAURA@example.com"}`, `{"kind":"user","id":"` + k.laura.id + `","email":"laura@example.com"}`} {
		k.do("POST", "/v1/approvals", k.laura.token, approvalBody(self, "", "acme")).outcome("waiting")
	}
	if all := k.requests(); len(all) != 1 || all[0].Get("submitted_by.type").String() != "user" || all[0].Get("submitted_by.id").String() != k.laura.id {
		t.Errorf("recorded %v", all)
	}
	k.do("POST", "/v1/approvals", "", approvalBody(petitioner(k.laura), "", "acme")).refused(401, "invalid_credential")
}

// The attack: a petitioner that looks like somebody else.
func TestApprovals_PetitionersAreWhoTheySayTheyAre(t *testing.T) {
	t.Parallel()
	k := startKit(t)
	nobody := k.do("POST", "/v1/users", k.root, `{"username":"nomail"}`).is(201)
	k.keep(nobody.text("claim.code"))
	if key := nobody.text("access_key.key"); key != "" {
		k.keep(key)
	}
	gone := k.person("gone", "user")
	k.do("DELETE", "/v1/users/"+gone.id, k.root, "").is(204)
	for _, tt := range []struct {
		petitioner string
		status     int
		code       string
	}{
		{`{"kind":"user","id":"` + k.laura.id + `","email":"dale@example.com"}`, 400, "petitioner_mismatch"},
		{`{"kind":"user","id":"` + k.laura.id + `","email":"nobody@example.com"}`, 400, "petitioner_mismatch"},
		{`{"kind":"user","id":"` + k.laura.id + `","email":"no address"}`, 400, "petitioner_mismatch"},
		{`{"kind":"user","id":"` + nobody.text("id") + `","email":"laura@example.com"}`, 400, "petitioner_mismatch"},
		{`{"kind":"user","email":""}`, 400, "missing_member"},
		{`{"kind":"user","id":"","email":""}`, 400, "missing_member"},
		{`{"kind":"user"}`, 400, "missing_member"},
		{`{"kind":"user","id":"42","email":""}`, 404, "unknown_petitioner"},
		{`{"kind":"user","id":"nomail"}`, 404, "unknown_petitioner"},
		{`{"kind":"user","email":"nobody@example.com"}`, 404, "unknown_petitioner"},
		{`{"kind":"user","email":" laura@example.com"}`, 404, "unknown_petitioner"},
		{`{"kind":"user","email":"lаura@example.com"}`, 404, "unknown_petitioner"}, // a Cyrillic а
		{`{"kind":"user","email":"laura@example.com\u0000"}`, 400, ""},
		{`{"kind":"user","id":"` + gone.id + `"}`, 404, "unknown_petitioner"},
		{`{"kind":"user","email":"gone@example.com"}`, 404, "unknown_petitioner"},
		{`{"kind":"service","id":"` + k.portal.id + `"}`, 400, "invalid_value"},
		{`{"kind":"user","id":7}`, 400, "wrong_type"},
		{`{"id":"` + k.laura.id + `"}`, 400, "missing_member"},
		{`{"kind":"user","id":"` + k.laura.id + `","name":"Laura"}`, 400, "unknown_member"},
		{petitioner(k.laura) + `,` + petitioner(k.dale), 400, "too_many"},
		{``, 400, "empty_list"},
	} {
		r := k.do("POST", "/v1/approvals", k.portal.secret, approvalBody(tt.petitioner, "", "acme"))
		if r.status != tt.status || tt.code != "" && r.text("code") != tt.code {
			t.Errorf("%s: got %d %s, want %d %s", tt.petitioner, r.status, r.text("code"), tt.status, tt.code)
		}
	}
	for _, same := range []string{
		`{"kind":"user","email":"Laura@Example.COM"}`, `{"kind":"user","id":"42","email":"laura@example.com"}`, `{"kind":"user","id":null,"email":"laura@example.com"}`,
		`{"kind":"user","id":"` + k.laura.id + `","email":null}`, `{"kind":"user","id":"` + k.laura.id + `","email":""}`,
	} {
		k.do("POST", "/v1/approvals", k.portal.secret, approvalBody(same, "", "acme")).outcome("waiting")
	}
	if len(k.requests()) != 1 {
		t.Errorf("%d requests for one person", len(k.requests()))
	}
}

// The attack: a person looks for resources by what the answers differ in.
func TestApprovals_TellAPersonNothingOfResources(t *testing.T) {
	t.Parallel()
	k := startKit(t)
	k.stored("box", "secret-project")
	body := func(id string) string {
		return `{"petitioners":[` + petitioner(k.laura) + `],"resources":[{"kind":"box","id":"` + id + `"}]}`
	}
	there := k.do("POST", "/v1/approvals", k.laura.token, body("secret-project"))
	absent := k.do("POST", "/v1/approvals", k.laura.token, body("another"))
	there.refused(404, "no_template_for_resource")
	absent.refused(404, "no_template_for_resource")
	if there.text("detail") != absent.text("detail") {
		t.Errorf("%q and %q", there.text("detail"), absent.text("detail"))
	}
}

// The attack: another customer's people, resources and requests.
func TestApprovals_KeepToTheirCustomer(t *testing.T) {
	t.Parallel()
	k := startKit(t)
	k.customer("other")
	foreign := k.createFor("other", `{"approvals":true,"resources_manage":true}`)
	body := approvalBody(`{"kind":"user","email":"laura@example.com"}`, "", "acme")
	k.do("POST", "/v1/approvals", foreign.secret, body).refused(404, "unknown_petitioner")
	k.do("POST", "/v1/approvals", foreign.secret, approvalBody(petitioner(k.laura), "", "acme")).refused(404, "unknown_petitioner")
	k.do("POST", "/v1/approvals", foreign.secret, body, "X-Customer-ID", "default").refused(403, "wrong_customer")
	k.do("POST", "/v1/approvals", k.portal.secret, body, "X-Customer-ID", "other").refused(403, "wrong_customer")
	twin := k.person("laura", "user", "X-Customer-ID", "other")
	k.do("POST", "/v1/approvals", foreign.secret, approvalBody(petitioner(twin), "", "acme")).refused(404, "resource_not_found")
	k.do("POST", "/v1/approvals", foreign.secret, approvalBody(`{"kind":"user","id":"`+twin.id+`","email":"laura@example.com"}`, "", "acme")).refused(404, "resource_not_found")
	if len(k.requests()) != 0 {
		t.Error("a request was made")
	}
}

func TestApprovals_RefusesBadInputWithItsPlace(t *testing.T) {
	t.Parallel()
	k := startKit(t)
	good := `"petitioners":[` + petitioner(k.laura) + `],"resources":[{"kind":"customer","id":"acme"}]`
	for _, tt := range []struct{ body, code, pointer string }{
		{`{}`, "missing_member", "/petitioners"},
		{`{"petitioners":[` + petitioner(k.laura) + `]}`, "missing_member", "/resources"},
		{`{"petitioners":[` + petitioner(k.laura) + `],"resources":[]}`, "empty_list", "/resources"},
		{`{"petitioners":[` + petitioner(k.laura) + `],"resources":[{"kind":"customer"}]}`, "missing_member", "/resources/0/id"},
		{`{"petitioners":[` + petitioner(k.laura) + `],"resources":[{"kind":"customer","id":"ac*"}]}`, "invalid_resource_id", "/resources/0/id"},
		{`{"petitioners":[` + petitioner(k.laura) + `],"resources":[{"kind":"latchkey_x","id":"a"}]}`, "invalid_kind", "/resources/0/kind"},
		{`{"petitioners":[` + petitioner(k.laura) + `],"resources":"acme"}`, "wrong_type", "/resources"},
		{`{` + good + `,"wait":61}`, "out_of_range", "/wait"},
		{`{` + good + `,"wait":-1}`, "out_of_range", "/wait"},
		{`{` + good + `,"wait":"10"}`, "wrong_type", "/wait"},
		{`{` + good + `,"wait":1.5}`, "out_of_range", "/wait"},
		{`{` + good + `,"duration":0}`, "duration_not_allowed", "/duration"},
		{`{` + good + `,"duration":-60}`, "duration_not_allowed", "/duration"},
		{`{` + good + `,"duration":1e300}`, "duration_not_allowed", "/duration"},
		{`{` + good + `,"duration":61}`, "duration_not_allowed", "/duration"},
		{`{` + good + `,"reason":"` + strings.Repeat("x", 4097) + `"}`, "too_long", "/reason"},
		{`{` + good + `,"reason":"` + k.portal.secret + `"}`, "credential_in_text", "/reason"},
		{`{` + good + `,"status":"approved"}`, "unknown_member", "/status"},
		{`{` + good + `,"expires_at":"2099-01-01T00:00:00Z"}`, "unknown_member", "/expires_at"},
		{`{` + good + `,"decided_by":"` + k.laura.id + `"}`, "unknown_member", "/decided_by"},
		{`[]`, "wrong_type", ""},
	} {
		k.do("POST", "/v1/approvals", k.portal.secret, tt.body).refused(400, tt.code, tt.pointer)
	}
	if len(k.requests()) != 0 {
		t.Error("a request was made")
	}
}

// The attack: so many wait that nobody else can. Past the bound the answer comes
// at once, and says the same.
func TestApprovals_WaitsAreCapped(t *testing.T) {
	t.Parallel()
	k := startKit(t)
	k.server.LimitRequestWaiters(3)
	request := k.ask("").outcome("waiting")
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if r, err := k.try("POST", "/v1/approvals", k.portal.secret, approvalBody(petitioner(k.laura), `,"wait":30`, "acme")); err != nil {
				t.Error(err)
			} else {
				r.outcome("granted")
			}
		})
	}
	k.gauge("latchkey_access_request_waiting", 3)
	if k.ask(`,"wait":30`).outcome("waiting") != request {
		t.Error("another request")
	}
	k.verdict(k.dale, request, "approve", "").is(200)
	wg.Wait()
}

// The attack: one person waits with so many clients that nobody else of the customer
// can wait any more.
func TestApprovals_NobodyWaitsForAllPlaces(t *testing.T) {
	t.Parallel()
	k := startKit(t)
	request := k.ask("").outcome("waiting")
	path := "/v1/access-requests/" + request
	const most = 1024
	var wg sync.WaitGroup
	wait := func(who human) {
		wg.Go(func() {
			if r, err := k.try("GET", path+"?wait=60", who.token, ""); err != nil {
				t.Error(err)
			} else if got := r.is(200).text("status"); got != "approved" {
				t.Errorf("%s was woken by %s", who.username, got)
			}
		})
	}
	for range most {
		wait(k.laura)
	}
	k.gauge("latchkey_access_request_waiting", most)
	k.do("GET", path+"?wait=60", k.laura.token, "").refused(429, "too_many_waiting")
	k.do("GET", path, k.laura.token, "").is(200)
	k.do("POST", "/v1/approvals", k.laura.token, approvalBody(petitioner(k.laura), `,"wait":60`, "acme")).outcome("waiting") // at once
	wait(k.dale)
	k.gauge("latchkey_access_request_waiting", most+1)
	k.verdict(k.dale, request, "approve", "").is(200)
	wg.Wait()
	k.gauge("latchkey_access_request_waiting", 0)
}
