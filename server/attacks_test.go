package server_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/authz"
)

// told is what a refusal tells, but for which request it refuses and where that
// went.
func (r *reply) told() string {
	text := r.body
	for _, member := range []string{"request_id", "instance"} {
		if v := r.get(member); v.Exists() {
			text = strings.Replace(text, v.Raw, `""`, 1)
		}
	}
	return text
}

// The attack: whoever manages people and requests in one customer uses ids of
// another's, on every route that takes one and in every member that names one. What
// is there and what is not is told in the same words.
func TestAttack_IdsOfAnotherCustomerAreNoIds(t *testing.T) {
	t.Parallel()
	o := newOffice(t, func(o *options) { o.maxActive = 20 })
	o.customer("acme")
	at := []string{"X-Customer-ID", "acme"}
	theirs := func(method, path, credential, body string, status int) *reply {
		t.Helper()
		headers := at
		if credential != o.root {
			headers = nil
		}
		return o.do(method, path, credential, body, headers...).is(status)
	}
	chief, carol := o.person("chief", "admin", at...), o.person("carol", "user", at...)
	app := theirs("POST", "/v1/applications", o.root, `{"name":"vault"}`, 201).text("id")
	ent := theirs("POST", "/v1/entitlements", o.root, `{"app_id":"`+app+`","name":"all","entries":{"database":[{"f":"*","p":15}]}}`, 201).text("id")
	group := theirs("POST", "/v1/groups", o.root, `{"name":"g","member_ids":["`+chief.id+`"]}`, 201).text("id")
	task := theirs("POST", "/v1/tasks", o.root, `{"name":"t","task_type":"webhook","url":"https://example.com/acme"}`, 201).text("id")
	theirs("PUT", "/v1/secrets/ACME", o.root, `{"value":"the secret of acme"}`, 200)
	hook := theirs("POST", "/v1/webhooks", o.root, `{"url":"https://example.com/acme","events":["access_request.approved"]}`, 201).text("id")
	theirs("POST", "/v1/resources:bulkUpdate", o.root, `{"resources":[{"kind":"database","id":"acme-db","labels":{}}]}`, 200)
	theirs("POST", "/v1/subjects:bulkUpdate", o.root, `{"subjects":[{"type":"user","id":"acme-user"}]}`, 200)
	template := theirs("POST", "/v1/access-request-templates", o.root, `{"name":"T","app_id":"`+app+`","mapping_ids":["`+ent+`"],"allowed_durations":[480],"approver_group_ids":["`+group+`"]}`, 201).text("id")
	request := theirs("POST", "/v1/access-requests", carol.token, submission(template), 201).text("id")
	grant := theirs("POST", "/v1/grants", o.root, o.grantBody("user", carol.id), 201).text("id")
	accessKey := o.createFor("acme", `{"decision":true}`)
	before := len(o.events("acme"))

	manager := o.createFor(authz.DefaultCustomer, `{"access_requests_manage":true,"approvals":true,"resources_manage":true,"access_keys":["*"],"audit_events":true}`).secret
	whole := `{"name":"T","app_id":"` + app + `"}`
	for _, c := range []struct{ method, path, id, body string }{
		{"GET", "/v1/users/{id}", carol.id, ""}, {"PUT", "/v1/users/{id}", carol.id, `{"username":"mine"}`}, {"DELETE", "/v1/users/{id}", carol.id, ""},
		{"POST", "/v1/users/{id}/claim", carol.id, ""}, {"GET", "/v1/users/{id}/groups", carol.id, ""}, {"GET", "/v1/users/{id}/claims", carol.id, ""},
		{"GET", "/v1/groups/{id}", group, ""}, {"PUT", "/v1/groups/{id}", group, `{"name":"mine"}`}, {"DELETE", "/v1/groups/{id}", group, ""},
		{"PUT", "/v1/groups/{id}/members/" + o.alice.id, group, ""}, {"DELETE", "/v1/groups/{id}/members/" + chief.id, group, ""},
		{"GET", "/v1/applications/{id}", app, ""}, {"PUT", "/v1/applications/{id}", app, `{"name":"mine"}`}, {"DELETE", "/v1/applications/{id}", app, ""},
		{"GET", "/v1/entitlements/{id}", ent, ""}, {"DELETE", "/v1/entitlements/{id}", ent, ""},
		{"PUT", "/v1/entitlements/{id}", ent, `{"app_id":"` + app + `","name":"mine","entries":{"database":[{"f":"*","p":2}]}}`},
		{"GET", "/v1/tasks/{id}", task, ""}, {"PUT", "/v1/tasks/{id}", task, `{"name":"mine","task_type":"webhook","url":"https://evil.example/"}`},
		{"DELETE", "/v1/tasks/{id}", task, ""}, {"GET", "/v1/tasks/{id}/runs", task, ""}, {"DELETE", "/v1/secrets/{id}", "ACME", ""},
		{"GET", "/v1/webhooks/{id}", hook, ""}, {"PUT", "/v1/webhooks/{id}", hook, `{"url":"https://evil.example/","events":["access_request.denied"]}`}, {"DELETE", "/v1/webhooks/{id}", hook, ""},
		{"POST", "/v1/webhooks/{id}/rotate", hook, ""}, {"GET", "/v1/webhooks/{id}/deliveries", hook, ""}, {"POST", "/v1/webhooks/{id}/deliveries/" + openapiNone + "/replay", hook, ""},
		{"GET", "/v1/resources/database/{id}", "acme-db", ""}, {"DELETE", "/v1/resources/database/{id}", "acme-db", ""},
		{"GET", "/v1/subjects/user/{id}", "acme-user", ""}, {"DELETE", "/v1/subjects/user/{id}", "acme-user", ""},
		{"GET", "/v1/access-request-templates/{id}", template, ""}, {"PUT", "/v1/access-request-templates/{id}", template, whole}, {"DELETE", "/api/v1/access-request-templates/{id}", template, ""},
		{"GET", "/v1/access-requests/{id}", request, ""}, {"GET", "/v1/access-requests/{id}?wait=1", request, ""}, {"POST", "/v1/access-requests/{id}/revoke", request, ""}, {"GET", "/api/v1/access-requests/{id}/messages", request, ""},
		{"GET", "/v1/grants/{id}", grant, ""}, {"DELETE", "/v1/grants/{id}", grant, ""}, {"GET", "/v1/access_keys/{id}", accessKey.id, ""},
	} {
		none := openapiNone
		if len(c.id) != len(none) {
			none = "NONE"
		}
		there := o.do(c.method, strings.Replace(c.path, "{id}", c.id, 1), manager, c.body)
		gone := o.do(c.method, strings.Replace(c.path, "{id}", none, 1), manager, c.body)
		if there.status != http.StatusNotFound || gone.status != http.StatusNotFound || strings.ReplaceAll(there.told(), c.id, none) != gone.told() {
			t.Errorf("%s: %d %s\nof one that is not there: %d %s", there.request, there.status, there.body, gone.status, gone.body)
		}
	}
	// Those that only persons use, with the person who may do most.
	for _, c := range [][3]string{{"POST", "/approve", ""}, {"POST", "/deny", ""}, {"POST", "/messages", `{"body":"x"}`}} {
		there := o.do(c[0], "/v1/access-requests/"+request+c[1], o.boss.token, c[2])
		gone := o.do(c[0], "/v1/access-requests/"+openapiNone+c[1], o.boss.token, c[2])
		if there.status != 404 || there.told() != gone.told() {
			t.Errorf("%s: %d %s\nof one that is not there: %s", c[1], there.status, there.body, gone.body)
		}
	}
	for _, c := range [][2]string{{"GET", "/v1/personal_tokens?user_id="}, {"PUT", "/v1/groups/" + o.dbas + "/members/"}} {
		there, gone := o.do(c[0], c[1]+carol.id, o.boss.token, ""), o.do(c[0], c[1]+openapiNone, o.boss.token, "")
		if there.status != 404 || there.told() != gone.told() {
			t.Errorf("%s: %d %s", there.request, there.status, there.body)
		}
	}
	// In lists there is nothing of it, whatever is filtered by.
	for path, member := range map[string]string{
		"/v1/users?username=carol": "users", "/v1/groups?member_id=" + carol.id: "groups", "/v1/applications?name=vault": "applications", "/v1/entitlements?app_id=" + app: "entitlements",
		"/v1/tasks": "tasks", "/v1/secrets": "secrets", "/v1/webhooks": "webhooks", "/v1/access-requests/all?template_id=" + template: "access_requests",
		"/v1/access-requests/all?requester=carol": "access_requests", "/v1/access-requests": "access_requests", "/v1/access-request-templates": "access_request_templates",
		"/v1/resources?kind=database": "resources", "/v1/grants?subject_type=user&subject_id=" + carol.id: "grants",
	} {
		if list := o.do("GET", path, manager, "").is(200).get(member); !list.IsArray() || len(list.Array()) != 0 {
			t.Errorf("%s: %s", path, list)
		}
	}
	// Named in what is made here, it is not there either.
	for _, c := range []struct{ path, body, none string }{
		{"/v1/groups", `{"name":"x","member_ids":["` + carol.id + `"]}`, carol.id}, {"/v1/groups", `{"name":"x","entitlement_ids":["` + ent + `"]}`, ent},
		{"/v1/entitlements", `{"app_id":"` + app + `","name":"x","entries":{"database":[{"f":"*","p":2}]}}`, app},
		{"/v1/webhooks", `{"task_id":"` + task + `","events":["access_request.approved"]}`, task},
		{"/v1/access-request-templates", o.template(`"app_id":"` + app + `"`), app}, {"/v1/access-request-templates", o.template(`"mapping_ids":["` + ent + `"]`), ent},
		{"/v1/access-request-templates", o.template(`"approver_group_ids":["` + group + `"]`), group}, {"/v1/access-request-templates", o.template(`"allowed_group_ids":["` + group + `"]`), group},
		{"/v1/access-request-templates", o.template(`"escalation_after_mins":5`, `"escalation_group_id":"`+group+`"`), group}, {"/v1/access-request-templates", o.template(`"trigger_task_id":"` + task + `"`), task},
		{"/v1/access-requests", submission(template, `"beneficiary_id":"`+o.alice.id+`"`), template}, {"/v1/access-requests", submission(o.newTemplate(), `"beneficiary_id":"`+carol.id+`"`), carol.id},
		{"/v1/grants", o.grantBody("user", "x", "entries", "", "entitlement_ids", `["`+ent+`"]`), ent}, {"/v1/grants", o.grantBody("access_key", accessKey.id), accessKey.id},
		{"/v1/approvals", `{"petitioners":[{"kind":"user","id":"` + carol.id + `"}],"resources":[{"kind":"database","id":"acme-db"}]}`, carol.id},
		{"/v1/approvals", `{"petitioners":[{"kind":"user","id":"` + o.alice.id + `"}],"resources":[{"kind":"database","id":"acme-db"}]}`, ""},
	} {
		there := o.do("POST", c.path, manager, c.body)
		if there.status != 400 && there.status != 404 {
			t.Errorf("%s: %s: %d %s", c.path, c.body, there.status, there.body)
		}
		if c.none == "" {
			continue
		}
		gone := o.do("POST", c.path, manager, strings.ReplaceAll(c.body, c.none, openapiNone))
		if there.status != gone.status || there.told() != gone.told() {
			t.Errorf("%s: %d %s\nof one that is not there: %d %s", c.path, there.status, there.body, gone.status, gone.body)
		}
	}
	databases := o.namedTemplate("databases", `"resource_selector":{"kind":"database","labels":{}}`)
	o.do("POST", "/v1/access-requests", manager, submission(databases, `"beneficiary_id":"`+o.alice.id+`"`, `"resources":[{"kind":"database","id":"acme-db"}]`)).refused(404, "resource_not_found")
	if after := len(o.events("acme")); after != before {
		t.Errorf("%d changes were made in another customer", after-before)
	}
}

// The attack: a person brings another credential of their own, or one that stands
// for them.
func TestAttack_TheKeyOfAPersonIsNotThePerson(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	made := o.do("POST", "/v1/users", o.boss.token, `{"username":"ken","email":"ken@example.com"}`).is(201)
	key, ken := o.keep(made.text("access_key.key")), human{made.text("id"), "ken", o.claimed(o.keep(made.text("claim.code")))}
	chief := o.do("POST", "/v1/users", o.root, `{"username":"chief","type":"admin"}`).is(201)
	chiefs := o.keep(chief.text("access_key.key"))
	o.keep(chief.text("claim.code"))
	o.do("PUT", "/v1/groups/"+o.dbas+"/members/"+ken.id, o.boss.token, "").is(200)
	template := o.newTemplate()
	own, other := o.submit(ken, template), o.submit(o.alice, template)
	for _, credential := range []string{key, chiefs} {
		for _, path := range []string{own, other} {
			for _, verdict := range []string{"/approve", "/deny"} {
				o.do("POST", path+verdict, credential, "").refused(403, "person_required")
				o.do("POST", "/api"+path+verdict, credential, "").refused(403, "person_required")
			}
			if r := o.do("GET", path, credential, ""); r.status != 403 {
				t.Errorf("a key reads what is a person's: %d %s", r.status, r.body)
			}
		}
		o.do("POST", "/v1/access-requests", credential, submission(template)).refused(403, "scope_missing")
		o.do("POST", "/v1/grants", credential, o.grantBody("user", ken.id)).refused(403, "scope_missing")
		o.do("POST", "/v1/personal_tokens", credential, `{"name":"x"}`).refused(403, "person_required")
		o.do("POST", "/v1/approvals", credential, `{"petitioners":[{"kind":"user","id":"`+ken.id+`"}],"resources":[{"kind":"database","id":"orders"}]}`).refused(403, "scope_missing")
	}
	o.do("POST", own+"/approve", ken.token, "").refused(403, "self_approval_forbidden")
	o.do("POST", other+"/approve", ken.token, "").is(200)
	if o.may(ken) || !o.may(o.alice) {
		t.Error("what is allowed is not what was approved")
	}
}

// The attack: a right is given to a name that is nobody's, and then the name is
// taken; or an admin leaves a name, by which an application knows the admin, to
// somebody who may do more.
func TestAttack_NobodyComesByARightWithItsName(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	grant := func(name string) {
		o.do("POST", "/v1/grants", o.boss.token, `{"subject":{"type":"user","id":"`+name+`"},"entitlement_ids":["`+o.entitlement+`"],"expires_at":"`+o.clock.in(time.Hour)+`","reason":"r"}`).is(201)
	}
	allowed := func(name string) bool {
		return o.decide(o.root, evaluation(`{"type":"user","id":"`+name+`"}`, "connect", "database", "orders")).get("decision").Bool()
	}
	grant("shadow")
	grant("shadow@example.com")
	if !allowed("shadow") || !allowed("shadow@example.com") {
		t.Fatal("the grants do not hold")
	}
	shadow := `{"username":"shadow","email":"shadow@example.com","type":"admin"}`
	service := o.made(o.do("POST", "/v1/access_keys", o.boss.token, newKeyBody(manages)))
	for _, body := range []string{shadow, `{"username":"boss2","email":"boss@example.com","type":"admin"}`, `{"username":"boss","email":"boss2@example.com","type":"admin"}`, `{"username":"boss","type":"admin"}`} {
		for _, id := range []string{o.boss.id, "self"} {
			o.do("PUT", "/v1/users/"+id, o.boss.token, body).refused(403, "own_name")
		}
	}
	o.do("PUT", "/v1/users/"+o.boss.id, service.secret, shadow).refused(403, "stronger_person") // which a key that they made is, too
	o.do("PUT", "/v1/users/"+o.alice.id, o.boss.token, `{"username":"boss","email":"alice@example.com"}`).refused(409, "username_taken")
	o.do("PUT", "/v1/users/self", o.boss.token, `{"username":"boss","email":"boss@example.com","name":"The boss","type":"admin"}`).is(200)
	o.do("PUT", "/v1/users/"+o.boss.id, o.root, shadow).is(200)
	made := o.do("POST", "/v1/users", o.boss.token, `{"username":"ghost"}`).is(201) // nor by a new person of that name
	o.keep(made.text("claim.code"))
	o.keep(made.text("access_key.key"))
	for _, name := range []string{o.boss.id, "shadow", "shadow@example.com", "SHADOW@example.com"} {
		if allowed(name) {
			t.Errorf("%s holds what was granted to a name", name)
		}
	}
}

// The attack: a template that says no list of durations, and a length of time that
// is not whole, or beyond what it allows.
func TestAttack_DurationsWithoutAList(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	template := o.newTemplate(`"allowed_durations":[]`, `"max_duration_mins":120`)
	ask := func(minutes string) *reply {
		return o.do("POST", "/v1/access-requests", o.alice.token, `{"template_id":"`+template+`","justification":"x","requested_duration_mins":`+minutes+`}`)
	}
	for _, minutes := range []string{"121", "0", "-1", "60.5", "1e-1", "1e18", "9007199254740993", "527041", "-0"} {
		ask(minutes).refused(400, "duration_not_allowed", "/requested_duration_mins")
	}
	for _, minutes := range []string{`"60"`, `[60]`, `{}`, `true`} {
		ask(minutes).refused(400, "wrong_type", "/requested_duration_mins")
	}
	path := "/v1/access-requests/" + ask("120").is(201).text("id")
	if r := o.do("POST", path+"/approve", o.dora.token, "").is(200); r.text("expires_at") != o.clock.in(2*time.Hour) {
		t.Errorf("granted %s", r.body)
	}
}

// The attack: a task that leads inside, and one that tells a credential to who may
// look at tasks.
func TestAttack_TasksLeadOutAndTellNothing(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	made := o.do("POST", "/v1/tasks", o.boss.token, `{"name":"good","task_type":"webhook","url":"https://example.com/"}`).is(201)
	for _, url := range []string{
		"http://127.0.0.1/", "http://localhost/", "http://169.254.169.254/latest/meta-data/", "http://[::1]/", "http://[::ffff:10.0.0.1]/", "http://100.64.0.1/", "http://[64:ff9b::7f00:1]/",
		"http://0.0.0.0/", "http://10.1.2.3:8080/", "http://[fd00:ec2::254]/",
	} {
		body := `{"name":"x","task_type":"webhook","url":"` + url + `"}`
		o.do("POST", "/v1/tasks", o.boss.token, body).refused(400, "address_refused", "/url")
		o.do("PUT", "/v1/tasks/"+made.text("id"), o.boss.token, body).refused(400, "address_refused", "/url")
		o.do("POST", "/v1/webhooks", o.boss.token, `{"url":"`+url+`","events":["access_request.approved"]}`).refused(400, "address_refused", "/url")
	}
	for _, url := range []string{"http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/", "http://[fe80::1%25eth0]/", "http://a@example.com/", "file:///etc/passwd", "gopher://example.com/"} {
		o.do("POST", "/v1/tasks", o.boss.token, `{"name":"x","task_type":"webhook","url":"`+url+`"}`).refused(400, "invalid_url", "/url")
		o.do("POST", "/v1/webhooks", o.boss.token, `{"url":"`+url+`","events":["access_request.approved"]}`).refused(400, "invalid_url", "/url")
	}
	secret := o.keep(authz.NewAccessKeyToken(authz.Live).Reveal())
	o.do("POST", "/v1/tasks", o.boss.token, `{"name":"x","task_type":"webhook","url":"https://example.com/?key=`+secret+`"}`).refused(400, "credential_in_url", "/url")
	o.do("POST", "/v1/tasks", o.boss.token, `{"name":"`+secret+`","task_type":"webhook","url":"https://example.com/"}`).refused(400, "credential_in_name", "/name")
	o.do("POST", "/v1/tasks", o.root, `{"name":"x","task_type":"script","script":"package task\nvar key = \"`+secret+`\"\nfunc Run() (string, error) { return key, nil }"}`).refused(400, "credential_in_script", "/script")
}

// The attack: a name that would begin a header of an e-mail, or a line of a log.
func TestAttack_NamesAreOneLine(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	const evil = `x\r\nBcc: everybody@example.com\r\n\r\n`
	for _, c := range [][3]string{
		{"/v1/users", `{"username":"eric","name":"` + evil + `"}`, "/name"}, {"/v1/users", `{"username":"eric","email":"a@example.com` + evil + `"}`, "/email"},
		{"/v1/users", `{"username":"` + evil + `"}`, "/username"}, {"/v1/groups", `{"name":"` + evil + `"}`, "/name"}, {"/v1/applications", `{"name":"` + evil + `"}`, "/name"},
		{"/v1/entitlements", `{"app_id":"` + o.app + `","name":"` + evil + `","entries":{"database":[{"f":"x","p":2}]}}`, "/name"},
		{"/v1/access-request-templates", o.template(`"name":"` + evil + `"`), "/name"}, {"/v1/tasks", `{"name":"` + evil + `","task_type":"webhook","url":"https://example.com/"}`, "/name"},
		{"/v1/webhooks", `{"url":"https://example.com/","events":["access_request.approved"],"description":"` + evil + `"}`, "/description"},
		{"/v1/webhooks", `{"url":"https://example.com/","events":["access_request.approved"],"headers":{"X-A":"` + evil + `"}}`, "/headers/X-A"},
		{"/v1/grants", o.grantBody("user", "x", "reason", `"`+evil+`"`), "/reason"}, {"/v1/personal_tokens", `{"name":"` + evil + `"}`, "/name"},
	} {
		if r := o.do("POST", c[0], o.boss.token, c[1]).is(400); !slices.Contains(texts(r.get("errors.#.pointer")), c[2]) {
			t.Errorf("%s %s: %s", c[0], c[1], r.body)
		}
	}
	// A name that only latchkey's own groups have.
	for _, name := range []string{"__access_req_" + openapiNone, "__ACCESS_REQ_x"} {
		o.do("POST", "/v1/groups", o.boss.token, `{"name":"`+name+`"}`).refused(400, "reserved_name", "/name")
		o.do("PUT", "/v1/groups/"+o.dbas, o.boss.token, `{"name":"`+name+`"}`).refused(400, "reserved_name", "/name")
	}
}

// Strangers who claim are told apart by their codes: an Idempotency-Key that one of
// them has used is free for the others.
func TestAttack_AStrangersIdempotencyKeyKeepsNobodyOut(t *testing.T) {
	t.Parallel()
	a := start(t)
	once := []string{"Idempotency-Key", "1"}
	token := map[string]string{}
	for _, name := range []string{"alice", "bob"} {
		made := a.do("POST", "/v1/users", a.root, `{"username":"`+name+`"}`).is(201)
		a.keep(made.text("access_key.key"))
		body := `{"claim_code":"` + a.keep(made.text("claim.code")) + `","name":"laptop"}`
		token[name] = a.keep(a.do("POST", "/v1/personal_tokens", "", body, once...).is(201).text("token"))
		if again := a.do("POST", "/v1/personal_tokens", "", body, once...).is(201); again.text("token") != token[name] {
			t.Errorf("%s is answered otherwise the second time", name)
		}
	}
	if token["alice"] == token["bob"] {
		t.Error("one has the other's token")
	}
	for name, token := range token {
		if got := a.do("GET", "/v1/users/self", token, "").is(200).text("username"); got != name {
			t.Errorf("the token of %s is %s's", name, got)
		}
	}
	// A code that nobody was given finds nobody's answer.
	a.do("POST", "/v1/personal_tokens", "", `{"claim_code":"`+authz.NewClaimCode().Reveal()+`","name":"laptop"}`, once...).refused(401, "invalid_credential")
	a.do("POST", "/v1/personal_tokens", "", `{"claim_code":"guess","name":"laptop"}`, once...).refused(401, "invalid_credential")
}

// The attack: somebody who may not ask looks for accounts by what is listed, and by
// what the refusals differ in.
func TestAttack_AccountsAreNothingToWhoMayNotAsk(t *testing.T) {
	t.Parallel()
	b := startJobs(t)
	staff := b.do("POST", "/v1/groups", b.root, `{"name":"staff","member_ids":["`+b.jane.id+`"]}`).is(201).text("id")
	b.template(`,"allowed_group_ids":["` + staff + `"]`)
	list := func(who *member) int64 {
		return b.do("POST", "/ServerManage/GetAccountsForLogin", who.token, `{"host":"`+jobHost+`"}`).is(200).get("Result.#").Int()
	}
	if n, m := list(b.jane), list(b.stranger); n != 3 || m != 0 {
		t.Errorf("jane is shown %d accounts, a stranger %d", n, m)
	}
	start := func(id string) *reply {
		return b.do("POST", "/JobFlow/StartJob", b.stranger.token, `{"script":"/lib/jobs/server_account_access.js","args":{"PVID":"`+id+`","AccessType":"Login"}}`).is(200)
	}
	there, gone := start(jobAccount), start("no-such-account")
	there.refusedJob("no_template_for_resource")
	gone.refusedJob("no_template_for_resource")
	if there.text("Message") != gone.text("Message") {
		t.Errorf("%q and %q", there.text("Message"), gone.text("Message"))
	}
	// The same where resources are named to a template that the person may use.
	o := newOffice(t)
	o.do("POST", "/v1/resources:bulkUpdate", o.root, `{"resources":[{"kind":"account","id":"payroll","labels":{"env":"secret"}}]}`).is(200)
	template := o.newTemplate(`"resource_selector":{"kind":"account","labels":{"env":"prod"}}`)
	ask := func(id string) *reply {
		return o.do("POST", "/v1/access-requests", o.alice.token, submission(template, `"resources":[{"kind":"account","id":"`+id+`"}]`))
	}
	if there, gone := ask("payroll"), ask("nothing"); there.status != 400 || there.told() != gone.told() {
		t.Errorf("%s\nand %s", there.body, gone.body)
	}
}

// What a change of a template could widen is in the trail, and nothing that is
// secret.
func TestAttack_ATemplateIsNotWidenedInTheDark(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	template := o.newTemplate(`"resource_selector":{"kind":"account","labels":{"env":"test"}}`)
	last := func() gjson.Result {
		events := o.events("default")
		return events[len(events)-1].Get("changes")
	}
	for member, value := range map[string]string{
		"resource_selector": `{"kind":"account","labels":{"env":"prod"}}`, "resource_access": `{"a":["*"],"p":14}`, "allowed_durations": `[60,5000]`, "max_duration_mins": `6000`,
		"max_auto_duration_mins": `700`, "assignment_types": `["temporary","permanent"]`, "pending_ttl_mins": `9`, "approvals_required": `3`, "allow_self_approval": `true`, "auto_approve": `true`,
		"require_justification": `false`, "approver_group_ids": `["` + o.managers + `"]`, "allowed_group_ids": `["` + o.dbas + `"]`, "trigger_task_failure_mode": `"retry"`,
	} {
		before := last().Get(member).Raw
		o.do("PUT", "/v1/access-request-templates/"+template, o.boss.token, o.template(`"resource_selector":{"kind":"account","labels":{"env":"test"}}`, `"`+member+`":`+value)).is(200)
		if got := last().Get(member).Raw; got == before || got == "" || strings.ReplaceAll(got, " ", "") != canonicalJSON(value) {
			t.Errorf("%s: the trail tells %s, and before %s", member, got, before)
		}
	}
}

// canonicalJSON has the members of the objects above in the order in which the
// trail tells them.
func canonicalJSON(text string) string {
	return strings.Replace(text, `{"a":["*"],"p":14}`, `{"p":14,"a":["*"]}`, 1)
}

// A sidecar knows no persons: what a token of theirs may do is asked of the control
// plane, and decisions are not made by it.
func TestAttack_PersonalTokensOpenNothingOfASidecar(t *testing.T) {
	t.Parallel()
	u := &upstream{}
	a := startSidecar(t, u, func(o *options) { o.noPersons = true })
	for _, token := range []string{a.keep(authz.NewPersonalToken().Reveal()), a.keep(authz.NewClaimCode().Reveal()), "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"} {
		for _, path := range []string{"/decision", "/decision/batch", "/decision/explain", "/access/v1/evaluation", "/v1/access_keys/verify"} {
			if r := a.do("POST", path, token, `{}`); r.status != 401 {
				t.Errorf("%s: %d %s", path, r.status, r.body)
			}
		}
		if u.count() != 0 {
			t.Fatal("a decision was passed on")
		}
	}
	token := a.keep(authz.NewPersonalToken().Reveal())
	a.do("GET", "/v1/users/self", token, "").is(200)
	if got, _ := u.last(t); got.Header.Get("Authorization") != "Bearer "+token {
		t.Errorf("passed on as %q", got.Header.Get("Authorization"))
	}
}

// The attack: a link in an e-mail that a scanner opens, a page of somebody else's that
// calls in a browser. Looking at something decides nothing, and no page is told that
// it may read an answer.
func TestAttack_NothingIsDecidedByLooking(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	path := o.submit(o.alice, o.newTemplate())
	for _, verdict := range []string{"/approve", "/deny", "/revoke"} {
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"} {
			if r := o.do(method, path+verdict, o.dora.token, ""); r.status != 405 && r.status != 404 {
				t.Errorf("%s %s: %d %s", method, verdict, r.status, r.body)
			}
		}
		// A form of another site: no credential comes along by itself, in a cookie or otherwise.
		for _, headers := range [][]string{{"Cookie", "session=" + o.dora.token}, {"Cookie", "Authorization=Bearer " + o.dora.token}, {"X-Authorization", "Bearer " + o.dora.token}} {
			r := o.do("POST", path+verdict, "", "", append(headers, "Origin", "https://evil.example")...)
			if r.status != 401 {
				t.Errorf("%s with %v: %d %s", verdict, headers, r.status, r.body)
			}
		}
	}
	for _, method := range []string{"GET", "OPTIONS", "POST"} {
		r := o.do(method, path, o.dora.token, "", "Origin", "https://evil.example", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization")
		for name := range r.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s: %s: %s", method, name, r.header.Get(name))
			}
		}
	}
	o.do("POST", path+"/approve", o.dora.token, `comment=x`, "Content-Type", "application/x-www-form-urlencoded").refused(415, "unsupported_media_type")
	o.do("POST", path+"/approve", o.dora.token, `{"comment":"x"}`, "Content-Type", "text/plain").refused(415, "unsupported_media_type")
	if o.status(path) != "pending" {
		t.Error("it was decided")
	}
}
