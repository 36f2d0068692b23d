package server_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey"
)

// Ids and times of the document that the replies in testdata/jobs are from.
const (
	jobAccount = "98765432-1118-4326-815a-d33abd18da26"
	jobHost    = "abcabcab-1234-4052-97cb-47456d7347f0"
	jobID      = "aaaabbcc-efgh-4c15-8dbd-e337e1db7d98"
)

// bench is a server with people who want to log in to accounts, and people who
// decide on that.
type jobBench struct {
	*api
	jane, boss, mute, stranger *member
	app, approvers             string
}

type member struct{ id, token string }

func startJobs(t *testing.T, change ...func(*options)) *jobBench {
	t.Helper()
	clock := newClock()
	clock.micros.Store(time.Date(2018, 2, 2, 20, 11, 15, 818000000, time.UTC).UnixMicro())
	b := &jobBench{api: start(t, append(change, func(o *options) { o.config.CompatJobFlow, o.clock = true, clock })...)}
	b.jane, b.boss = b.jobPerson("jane", "jane@example.com", "Jane"), b.jobPerson("boss", "boss@example.com", "Boss")
	b.mute, b.stranger = b.jobPerson("mute", "", "J"), b.jobPerson("stranger", "stranger@example.com", "Stranger")
	b.app = b.do("POST", "/v1/applications", b.root, `{"name":"servers"}`).is(201).text("id")
	b.approvers = b.do("POST", "/v1/groups", b.root, `{"name":"admins","member_ids":["`+b.boss.id+`","`+b.mute.id+`"]}`).is(201).text("id")
	b.do("POST", "/v1/resources:bulkUpdate", b.root, `{"resources":[`+
		`{"kind":"account","id":"`+jobAccount+`","displayName":"jtest","labels":{"host":"`+jobHost+`","authority":"csssup-suse11","authorityType":"Local"}},`+
		`{"kind":"account","id":"12345678-984c-492b-a7c7-e91132d13a5d","displayName":"root","labels":{"host":"`+jobHost+`","authority":"csssup-suse11","authorityType":"Local"}},`+
		`{"kind":"account","id":"d0000000-984c-492b-a7c7-e91132d13a5d","displayName":"svc","labels":{"host":"`+jobHost+`","authority":"corp","authorityType":"Domain"}},`+
		`{"kind":"account","id":"elsewhere","displayName":"root","labels":{"host":"another","authority":"x"}}]}`).is(200)
	return b
}

func (b *jobBench) template(more string) string {
	b.Helper()
	return b.do("POST", "/v1/access-request-templates", b.root, `{"name":"logins","app_id":"`+b.app+`","approver_group_ids":["`+b.approvers+`"],"require_justification":false,`+
		`"assignment_types":["window","temporary"],"resource_selector":{"kind":"account","labels":{}},"resource_access":{"a":["login"]}`+more+`}`).is(201).text("id")
}

// person makes one and lets it claim its token.
func (a *api) jobPerson(username, email, name string) *member {
	a.Helper()
	body := map[string]any{"username": username, "name": name}
	if email != "" {
		body["email"] = email
	}
	text, err := json.Marshal(body)
	if err != nil {
		a.Fatal(err)
	}
	made := a.do("POST", "/v1/users", a.root, string(text)).is(201)
	a.keep(made.text("access_key.key"))
	return &member{made.text("id"), a.claimed(a.keep(made.text("claim.code")))}
}

func jobText(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile("testdata/jobs/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// post sends a body of the document, its job by another id.
func (b *jobBench) post(path, token, name, job string) *reply {
	b.Helper()
	return b.do("POST", path, token, strings.ReplaceAll(jobText(b, name), jobID, job)).is(200)
}

// mayLogin asks as an application asks.
func (b *jobBench) mayLogin(who *member) bool {
	b.Helper()
	return b.do("POST", "/decision", b.root, evaluation(`{"type":"user","id":"`+who.id+`"}`, "login", "account", jobAccount)).is(200).get("decision").Bool()
}

func (r *reply) refusedJob(code string) {
	r.Helper()
	r.is(200)
	if r.get("success").Bool() || r.text("MessageID") != code || r.text("Message") == "" || r.get("Result").Type != gjson.Null || r.text("ErrorID") == "" {
		r.Errorf("%s: want the refusal %s, got %s", r.request, code, r.body)
	}
}

// sameShape holds a reply to one of the document: the same members of the same
// types, at every depth, in JSON within strings too, dates as it writes them.
func sameShape(t *testing.T, at string, want, got any) {
	t.Helper()
	kind := func(v any) string { return fmt.Sprintf("%T", v) }
	if kind(want) != kind(got) {
		t.Errorf("%s: the document has %v, the reply %v", at, want, got)
		return
	}
	switch want := want.(type) {
	case map[string]any:
		got := got.(map[string]any)
		for name, v := range want {
			if _, ok := got[name]; !ok {
				t.Errorf("%s/%s is not in the reply", at, name)
				continue
			}
			if name == "ErrorMessage" && got[name] == nil {
				continue // of a job that did not fail
			}
			sameShape(t, at+"/"+name, v, got[name])
		}
		for name := range got {
			if _, ok := want[name]; !ok {
				t.Errorf("%s/%s is not in the document", at, name)
			}
		}
	case []any:
		for i, v := range got.([]any) {
			sameShape(t, fmt.Sprintf("%s/%d", at, i), want[min(i, len(want)-1)], v)
		}
	case string:
		got := got.(string)
		var inWant, inGot any
		if strings.HasPrefix(want, "/Date(") && (!strings.HasPrefix(got, "/Date(") || strings.HasSuffix(want, "+0000)/") != strings.HasSuffix(got, "+0000)/")) {
			t.Errorf("%s: %s is no date as %s", at, got, want)
		}
		if strings.HasPrefix(want, "{") || strings.HasPrefix(want, "[") {
			if json.Unmarshal([]byte(want), &inWant) != nil || json.Unmarshal([]byte(got), &inGot) != nil {
				t.Errorf("%s: %s is no JSON within a string as %s", at, got, want)
				return
			}
			if strings.HasSuffix(at, "/WorkflowSettings") {
				return // elided there
			}
			sameShape(t, at+"(JSON)", inWant, inGot)
		}
	}
}

func (r *reply) shapedAs(t *testing.T, name string) *reply {
	t.Helper()
	var want, got any
	if err := json.Unmarshal([]byte(jobText(t, name)), &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(r.body), &got); err != nil {
		t.Fatal(err)
	}
	sameShape(t, name, want, got)
	return r
}

// The document from its beginning to its end, with its own requests: somebody finds
// an account, asks for it in a window, an approver finds the job and approves.
func TestJobs_AskForALoginAndHaveItInItsWindow(t *testing.T) {
	t.Parallel()
	b := startJobs(t)
	b.template("")
	accounts := b.post("/ServerManage/GetAccountsForLogin", b.jane.token, "accounts.request", "").shapedAs(t, "accounts")
	if n := accounts.get("Result.#").Int(); n != 3 || accounts.text("Result.0.accountId") != jobAccount || accounts.text("Result.1.name") != "root" || !accounts.get("Result.0.requestRequired").Bool() {
		t.Errorf("accounts: %s", accounts.body)
	}

	job := b.post("/JobFlow/StartJob", b.jane.token, "start.request", "").shapedAs(t, "start").text("Result")
	if b.mayLogin(b.jane) {
		t.Error("may log in before anybody has decided")
	}
	one := b.post("/JobFlow/GetJob", b.jane.token, "get.request", job).shapedAs(t, "event")
	if one.text("Result.State") != "Ask" || one.text("Result._RowKey") != job || one.get("Result.StepNum").Int() != 1 || one.get("Result.TotalStepNum").Int() != 2 {
		t.Errorf("job: %s", one.body)
	}

	list := b.post("/jobflow/getmyjobs", b.boss.token, "list.request", "").shapedAs(t, "list")
	row := list.get("Result.Results.0.Row")
	for member, want := range map[string]string{
		"ID": job, "State": "Ask", "Description": "Login request for account jtest on csssup-suse11", "JS": "/lib/jobs/server_account_access.js",
		"Context.PVID": jobAccount, "Context.HostID": jobHost, "Context.RequestorMail": "jane@example.com", "Context.AccessType": "Login",
		"Context.RequestedOptions.EndTime": "Fri, 02 Feb 2018 21:11:00 GMT", "Context.RequestedOptions.AssignmentType": "window",
		"DefaultOptions": `{"GrantMin":60}`, "LastHistoryEntry": "(jane@example.com)Request submitted", "CreatedDate": "/Date(1517602275818)/",
		"History":  `[{"message":"Request submitted","from":"jane@example.com","date":"Fri, 02 Feb 2018 20:11:15 UTC"}]`,
		"StepArgs": `{"expires":"2018-02-02T21:11:00+00:00"}`, "TargetPrincipalName": "boss@example.com",
	} {
		if got := row.Get(strings.ReplaceAll(member, "-", "")).String(); got != want {
			t.Errorf("%s is %s, want %s", member, got, want)
		}
	}
	if !strings.Contains(list.body, `"\/Date(1517602275818)\/"`) {
		t.Error("dates are not written as the document writes them")
	}
	if list.get("Result.Columns.#").Int() != int64(len(row.Map())) {
		t.Errorf("%d columns, %d members", list.get("Result.Columns.#").Int(), len(row.Map()))
	}

	done := b.post("/JobFlow/Event", b.boss.token, "event.request", job).shapedAs(t, "event")
	if done.text("Result.State") != "Complete" || done.get("Result.StepNum").Int() != 2 || done.text("Result.EndTime") != "/Date(1517605860000+0000)/" || done.text("Result.StartTime") == "" {
		t.Errorf("approved: %s", done.body)
	}
	if !b.mayLogin(b.jane) {
		t.Error("may not log in within the window")
	}
	after := b.post("/ServerManage/GetAccountsForLogin", b.jane.token, "accounts.request", "")
	if after.get("Result.0.requestRequired").Bool() || !after.get("Result.1.requestRequired").Bool() {
		t.Errorf("accounts afterwards: %s", after.body)
	}
	b.clock.advance(time.Hour)
	if b.mayLogin(b.jane) {
		t.Error("may log in after the window")
	}
	if state := b.post("/JobFlow/GetJob", b.jane.token, "get.request", job).text("Result.State"); state != "Expired" {
		t.Errorf("afterwards: %s", state)
	}
}

// The document's own reply to an approval: whoever approves has no address to be
// told by, the job fails, and nobody gets in.
func TestJobs_AnApproverWithoutAnAddressFailsTheJob(t *testing.T) {
	t.Parallel()
	b := startJobs(t)
	b.template("")
	job := b.post("/JobFlow/StartJob", b.jane.token, "start.request", "").text("Result")
	// Somebody else without an address cannot make a job fail.
	outsider := b.jobPerson("outsider", "", "Nobody")
	b.post("/JobFlow/Event", outsider.token, "event.request", job).refusedJob("access_request_not_found")
	failed := b.post("/JobFlow/Event", b.mute.token, "event.request", job).shapedAs(t, "event")
	if !failed.get("success").Bool() || failed.text("Result.State") != "Failed" || failed.text("Result.ErrorMessage") != "approve failed: User J (mute) has no email address" {
		t.Errorf("failed: %s", failed.body)
	}
	if b.mayLogin(b.jane) {
		t.Error("a job that failed lets in")
	}
	b.post("/JobFlow/Event", b.boss.token, "event.request", job).refusedJob("request_not_pending")
	b.post("/JobFlow/StartJob", b.jane.token, "start.request", "")
}

func TestJobs_EndInEveryState(t *testing.T) {
	t.Parallel()
	b := startJobs(t)
	b.template(`,"pending_ttl_mins":30`)
	begin := func() string {
		t.Helper()
		return b.do("POST", "/JobFlow/StartJob", b.jane.token, `{"script":"/lib/jobs/server_account_access.js","args":{"PVID":"`+jobAccount+`","AccessType":"Login"}}`).is(200).text("Result")
	}
	state := func(job string) *reply {
		t.Helper()
		return b.do("POST", "/JOBFLOW/getjob", b.jane.token, `{"jobid":"`+job+`"}`).is(200)
	}
	event := func(who *member, job, event, args string) *reply {
		t.Helper()
		return b.do("POST", "/jobFlow/EVENT", who.token, `{"jobid":"`+job+`","event":"`+event+`","args":`+args+`}`).is(200)
	}
	for _, word := range []string{"reject", "deny", "Reject"} {
		job := begin()
		if got := event(b.boss, job, word, `{"Reason":"no"}`); got.text("Result.State") != "Rejected" {
			t.Errorf("%s: %s", word, got.body)
		}
		if got := state(job); got.text("Result.State") != "Rejected" || !strings.Contains(got.text("Result.History"), `"message":"Request rejected","from":"boss@example.com"`) {
			t.Errorf("%s: %s", word, got.body)
		}
	}
	job := begin()
	if got := event(b.jane, job, "cancel", `null`); got.text("Result.State") != "Cancelled" {
		t.Errorf("cancelled: %s", got.body)
	}
	job = begin()
	b.clock.advance(31 * time.Minute)
	if got := state(job); got.text("Result.State") != "Expired" {
		t.Errorf("expired: %s", got.body)
	}
	first := state(job)
	b.clock.advance(time.Minute)
	if again := state(job); again.body != first.body { // it ended once, whenever somebody looks
		t.Errorf("expired: %s\nthen: %s", first.body, again.body)
	}
	event(b.boss, job, "approve", `{}`).refusedJob("request_not_pending")
	// Without options a login lasts an hour from its approval.
	job = begin()
	if got := event(b.boss, job, "approve", `{}`); got.text("Result.State") != "Complete" || got.text("Result.Context.RequestedOptions.AssignmentType") != "temporary" || got.get("Result.Context.RequestedOptions.GrantMin").Int() != 60 {
		t.Errorf("approved: %s", got.body)
	}
	b.clock.advance(59 * time.Minute)
	if !b.mayLogin(b.jane) {
		t.Error("an hour is shorter than 59 minutes")
	}
	event(b.jane, job, "cancel", `{"Reason":"done"}`)
	if b.mayLogin(b.jane) {
		t.Error("what was ended lets in")
	}
}

func TestJobs_TheFirstApproverMayChangeTheWindow(t *testing.T) {
	t.Parallel()
	b := startJobs(t)
	second := b.jobPerson("second", "second@example.com", "Second")
	b.do("PUT", "/v1/groups/"+b.approvers+"/members/"+second.id, b.root, "")
	b.template(`,"approvals_required":2`)
	job := b.post("/JobFlow/StartJob", b.jane.token, "start.request", "").text("Result")
	narrow := `{"jobid":"` + job + `","event":"approve","args":{"AssignmentType":"window","StartTime":"Fri, 02 Feb 2018 20:20:00 GMT","EndTime":"Fri, 02 Feb 2018 20:40:00 GMT"}}`
	first := b.do("POST", "/JobFlow/Event", b.boss.token, narrow).is(200)
	if first.text("Result.State") != "Ask" || first.get("Result.StepNum").Int() != 2 || first.get("Result.TotalStepNum").Int() != 3 ||
		first.text("Result.Context.RequestedOptions.EndTime") != "Fri, 02 Feb 2018 20:40:00 GMT" {
		t.Errorf("first: %s", first.body)
	}
	// The second approves what the first has made of it, and nothing wider.
	wide := strings.ReplaceAll(narrow, "20:40", "23:40")
	if r := b.do("POST", "/JobFlow/Event", second.token, wide).is(200); r.get("success").Bool() {
		t.Errorf("the second made it wider: %s", r.body)
	}
	if got := b.do("POST", "/JobFlow/Event", second.token, narrow).is(200); got.text("Result.State") != "Complete" {
		t.Errorf("second: %s", got.body)
	}
	if b.mayLogin(b.jane) {
		t.Error("may log in before the window")
	}
	b.clock.advance(9 * time.Minute)
	if !b.mayLogin(b.jane) {
		t.Error("may not log in within the window")
	}
	b.clock.advance(20 * time.Minute)
	if b.mayLogin(b.jane) {
		t.Error("may log in after the window")
	}
	// A change that is not made is not passed over in silence.
	b.clock.advance(24 * time.Hour)
	job = b.do("POST", "/JobFlow/StartJob", b.jane.token, `{"script":"/lib/jobs/server_account_access.js","args":{"PVID":"`+jobAccount+`","AccessType":"Login","RequestedOptions":{"AssignmentType":"temporary","GrantMin":60}}}`).is(200).text("Result")
	b.do("POST", "/JobFlow/Event", b.boss.token, `{"jobid":"`+job+`","event":"approve","args":{"GrantMin":30}}`).refusedJob("not_changeable")
	b.do("POST", "/JobFlow/Event", b.boss.token, `{"jobid":"`+job+`","event":"approve","args":{"StartTime":"Sat, 03 Feb 2018 21:00:00 GMT","EndTime":"Sat, 03 Feb 2018 21:30:00 GMT"}}`).refusedJob("not_changeable")
	b.do("POST", "/JobFlow/Event", b.boss.token, `{"jobid":"`+job+`","event":"approve","args":{"AssignmentType":"permanent"}}`).refusedJob("not_changeable")
}

// Somebody names times and forgets the type. To pass them over would give more than
// was meant: by who asks, and by who approves.
func TestJobs_TimesAloneAreAWindow(t *testing.T) {
	t.Parallel()
	b := startJobs(t)
	b.template("")
	job := b.do("POST", "/JobFlow/StartJob", b.jane.token, `{"script":"/lib/jobs/server_account_access.js","args":{"PVID":"`+jobAccount+`","AccessType":"Login","RequestedOptions":{"AssignmentType":"","StartTime":"Fri, 02 Feb 2018 20:11:00 GMT","EndTime":"Fri, 02 Feb 2018 21:11:00 GMT"}}}`).is(200).text("Result")
	approve := func(args string) *reply {
		return b.do("POST", "/JobFlow/Event", b.boss.token, `{"jobid":"`+job+`","event":"approve","args":`+args+`}`).is(200)
	}
	approve(`{"EndTime":"Fri, 02 Feb 2018 20:31:00 GMT"}`).refusedJob("missing_member")
	approve(`{"StartTime":7}`).refusedJob("wrong_type")
	got := approve(`{"StartTime":"Fri, 02 Feb 2018 20:11:00 GMT","EndTime":"Fri, 02 Feb 2018 20:31:00 GMT"}`)
	if got.text("Result.State") != "Complete" || got.text("Result.Context.RequestedOptions.EndTime") != "Fri, 02 Feb 2018 20:31:00 GMT" {
		t.Errorf("approved: %s", got.body)
	}
	if !b.mayLogin(b.jane) {
		t.Error("may not log in within the window")
	}
	b.clock.advance(20 * time.Minute)
	if b.mayLogin(b.jane) {
		t.Error("may log in after what was approved")
	}
}

func TestJobs_ListWhatConcernsTheCaller(t *testing.T) {
	t.Parallel()
	b := startJobs(t)
	b.template("")
	start := func(who *member, account string) string {
		b.clock.advance(time.Second)
		return b.do("POST", "/JobFlow/StartJob", who.token, `{"script":"/lib/jobs/server_account_access.js","args":{"PVID":"`+account+`","AccessType":"Login"}}`).is(200).text("Result")
	}
	first, second := start(b.jane, jobAccount), start(b.jane, "elsewhere")
	own := start(b.boss, jobAccount)
	list := func(who string, kind string, args string) (ids []string, full int64) {
		t.Helper()
		r := b.do("POST", "/JobFlow/GetMyJobs", who, `{"type":"`+kind+`","Args":`+args+`}`).is(200)
		for _, row := range r.get("Result.Results").Array() {
			ids = append(ids, row.Get("Row.ID").String())
		}
		return ids, r.get("Result.FullCount").Int()
	}
	key := b.createFor("default", `{"access_requests_manage":true}`).secret
	for _, tt := range []struct {
		who, kind, args string
		want            []string
		full            int64
	}{
		{b.jane.token, "all", "null", []string{second, first}, 2},
		{b.jane.token, "approve", "null", nil, 0},
		{b.boss.token, "request", "null", []string{own}, 1},
		{b.boss.token, "approve", "null", []string{second, first}, 2},
		{b.boss.token, "all", "null", []string{own, second, first}, 3},
		{b.boss.token, "", `{"PageNumber":2,"PageSize":2,"Limit":100000}`, []string{first}, 3},
		{b.boss.token, "", `{"PageNumber":1,"PageSize":100000,"Limit":1}`, []string{own}, 3},
		{b.boss.token, "", `{"PageNumber":900000,"PageSize":100000}`, nil, 3},
		{b.stranger.token, "all", "null", nil, 0},
		{key, "all", "null", []string{own, second, first}, 3},
	} {
		if got, full := list(tt.who, tt.kind, tt.args); !slices.Equal(got, tt.want) || full != tt.full {
			t.Errorf("%s %s: %v of %d, want %v of %d", tt.kind, tt.args, got, full, tt.want, tt.full)
		}
	}
	// Newest first, whatever the direction, unless a member of the rows is named.
	for args, want := range map[string][]string{
		`{"SortBy":"","direction":"True"}`:                                    {own, second, first},
		`{"SortBy":"CreatedDate"}`:                                            {first, second, own},
		`{"SortBy":"createddate","direction":"True"}`:                         {own, second, first},
		`{"SortBy":"Description","direction":"False"}`:                        {own, first, second}, // jtest on, newest first; root on
		`{"SortBy":"Initiator","direction":"False"}`:                          {own, second, first},
		`{"SortBy":"CreatedDate","direction":"","PageNumber":2,"PageSize":2}`: {own},
	} {
		if got, full := list(b.boss.token, "all", args); !slices.Equal(got, want) || full != 3 {
			t.Errorf("%s: %v of %d, want %v", args, got, full, want)
		}
	}
	b.do("POST", "/JobFlow/GetMyJobs", b.jane.token, `{"type":"all","Args":{"SortBy":"Context"}}`).refusedJob("invalid_value")
	b.do("POST", "/JobFlow/GetMyJobs", b.jane.token, `{"type":"theirs"}`).refusedJob("invalid_value")
}

func TestJobs_FilterAccounts(t *testing.T) {
	t.Parallel()
	b := startJobs(t)
	names := func(body string) (list []string) {
		t.Helper()
		for _, v := range b.do("POST", "/servermanage/getaccountsforlogin", b.jane.token, body).is(200).get("Result").Array() {
			list = append(list, v.Get("name").String())
		}
		return list
	}
	if got := names(`{"host":"` + jobHost + `"}`); got != nil {
		t.Errorf("without a template there are %v", got)
	}
	b.template("")
	for body, want := range map[string]string{
		`{"host":"` + jobHost + `"}`:                                           "jtest root svc",
		`{"host":"` + jobHost + `","filter":"TES"}`:                            "jtest",
		`{"host":"` + jobHost + `","domainOnly":"true"}`:                       "svc",
		`{"host":"` + jobHost + `","domainOnly":true}`:                         "svc",
		`{"host":"` + jobHost + `","Args":{"PageNumber":2,"PageSize":2}}`:      "svc",
		`{"host":"another"}`:                                                   "root",
		`{"host":"nowhere"}`:                                                   "",
		`{"host":"` + jobHost + `","more":{"of":["it"]},"filter":"%' OR 1=1"}`: "",
	} {
		if got := strings.Join(names(body), " "); got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
	for args, want := range map[string]string{
		`"SortBy":"","direction":"False"`:                                        "jtest root svc",
		`"SortBy":"name","direction":"True"`:                                     "svc root jtest",
		`"SortBy":"Name","direction":"Descending","PageNumber":"2","PageSize":2`: "jtest",
		`"SortBy":"accountId","direction":"asc"`:                                 "root jtest svc",
		`"SortBy":"authority"`:                                                   "svc jtest root",
		`"SortBy":"authority","direction":true`:                                  "jtest root svc",
		`"SortBy":"requestRequired","direction":"false"`:                         "jtest root svc",
	} {
		if got := strings.Join(names(`{"host":"`+jobHost+`","Args":{`+args+`}}`), " "); got != want {
			t.Errorf("%s: %s, want %s", args, got, want)
		}
	}
	for _, args := range []string{`"SortBy":"host"`, `"SortBy":"Entities"`, `"SortBy":7`, `"SortBy":"name","direction":"up"`, `"PageSize":0`, `"PageSize":"many"`} {
		if r := b.do("POST", "/ServerManage/GetAccountsForLogin", b.jane.token, `{"host":"`+jobHost+`","Args":{`+args+`}}`).is(200); r.get("success").Bool() {
			t.Errorf("%s: %s", args, r.body)
		}
	}
	// Clients of the other product send parameters of their own with every call.
	if r := b.do("POST", "/servermanage/GetAccountsForLogin?antixss=x", b.jane.token, `{"host":"`+jobHost+`"}`).is(200); r.get("Result.#").Int() != 3 {
		t.Errorf("with a parameter: %s", r.body)
	}
	key := b.createFor("default", `{"decision":true}`).secret
	b.do("POST", "/ServerManage/GetAccountsForLogin", key, `{"host":"`+jobHost+`"}`).refusedJob("person_required")
	b.do("POST", "/ServerManage/GetAccountsForLogin", b.jane.token, `{}`).refusedJob("missing_member")
}

// Accounts that are for others to ask for are nobody else's business.
func TestJobs_ListNoAccountsThatAreForOthers(t *testing.T) {
	t.Parallel()
	b := startJobs(t)
	b.template(`,"allowed_group_ids":["` + b.approvers + `"]`)
	for who, want := range map[*member]int{b.boss: 3, b.jane: 0} {
		if got := b.do("POST", "/ServerManage/GetAccountsForLogin", who.token, `{"host":"`+jobHost+`"}`).is(200).get("Result").Array(); len(got) != want {
			t.Errorf("%s sees %v, want %d", who.id, got, want)
		}
	}
	b.post("/JobFlow/StartJob", b.jane.token, "start.request", "").refusedJob("no_template_for_resource")
	// With a right that somebody gave there is nothing to ask for, and it is listed.
	b.do("POST", "/v1/grants", b.root, `{"subject":{"type":"user","id":"`+b.jane.id+`"},"entries":{"account":[{"f":"`+jobAccount+`","a":["login"]}]},"expires_at":"2018-02-03T00:00:00Z","reason":"x"}`).is(201)
	got := b.do("POST", "/ServerManage/GetAccountsForLogin", b.jane.token, `{"host":"`+jobHost+`"}`).is(200)
	if got.get("Result.#").Int() != 1 || got.text("Result.0.accountId") != jobAccount || got.get("Result.0.requestRequired").Bool() {
		t.Errorf("with a grant: %s", got.body)
	}
}

// However many accounts a host has, each of them is found.
func TestJobs_AHostHasAsManyAccountsAsItHas(t *testing.T) {
	t.Parallel()
	b := startJobs(t)
	b.template("")
	var items []string
	for i := range 1500 {
		items = append(items, fmt.Sprintf(`{"kind":"account","id":"a%04d","displayName":"user%04d","labels":{"host":"big"}}`, i, 1499-i))
	}
	b.do("POST", "/v1/resources:bulkUpdate", b.root, `{"resources":[`+strings.Join(items, ",")+`]}`).is(200)
	accounts := func(body string) []gjson.Result {
		return b.do("POST", "/ServerManage/GetAccountsForLogin", b.jane.token, body).is(200).get("Result").Array()
	}
	if all := accounts(`{"host":"big","Args":{"PageNumber":1,"PageSize":100000,"Limit":100000,"SortBy":"","direction":"False","Caching":-1}}`); len(all) != 1500 ||
		all[0].Get("accountId").String() != "a1499" || all[1499].Get("accountId").String() != "a0000" {
		t.Errorf("%d accounts", len(all))
	}
	if found := accounts(`{"host":"big","filter":"user0000"}`); len(found) != 1 || found[0].Get("accountId").String() != "a1499" {
		t.Errorf("the last one is not found: %v", found)
	}
}

// Whatever is wrong is told in the envelope; who is not let in gets 401.
func TestJobs_Refuse(t *testing.T) {
	t.Parallel()
	b := startJobs(t)
	b.template("")
	start := func(body string) *reply { return b.do("POST", "/JobFlow/StartJob", b.jane.token, body) }
	good := `{"script":"/lib/jobs/server_account_access.js","args":{"PVID":"` + jobAccount + `","AccessType":"Login","RequestedOptions":{"AssignmentType":"window","StartTime":"Fri, 02 Feb 2018 20:11:00 GMT","EndTime":"Fri, 02 Feb 2018 21:11:00 GMT"}}}`
	for _, tt := range []struct{ from, to, code string }{
		{"/lib/jobs/server_account_access.js", "/lib/jobs/rm_rf.js", "unknown_script"},
		{`"script":"/lib/jobs/server_account_access.js"`, `"x":1`, "missing_member"},
		{jobAccount, "no-such-account", "no_template_for_resource"},
		{`"PVID":"` + jobAccount + `",`, ``, "missing_member"},
		{`"PVID":"` + jobAccount + `",`, `"PVID":7,`, "wrong_type"},
		{`"AccessType":"Login"`, `"AccessType":"Checkout"`, "invalid_value"},
		{`"AssignmentType":"window"`, `"AssignmentType":"for ever"`, "invalid_value"},
		{`"AssignmentType":"window"`, `"AssignmentType":"permanent"`, "assignment_not_allowed"},
		{"20:11:00 GMT", "20:11:00 EST", "invalid_time"},
		{"Fri, 02 Feb 2018 20:11:00 GMT", "yesterday", "invalid_time"},
	} {
		r := start(strings.ReplaceAll(good, tt.from, tt.to)).is(200)
		if r.get("success").Bool() || r.text("MessageID") != tt.code {
			t.Errorf("%s: want %s, got %s", tt.to, tt.code, r.body)
		}
	}
	for _, body := range []string{`[]`, `"x"`, `{"script":`, `{"script":"a","script":"b"}`} {
		if r := start(body).is(200); r.get("success").Bool() {
			t.Errorf("%s: %s", body, r.body)
		}
	}
	// Refusals point at what the client wrote.
	if r := start(strings.ReplaceAll(good, "2018 21:11", "2018 20:11")).is(200); r.get("success").Bool() || !strings.HasPrefix(r.text("Message"), "/args/RequestedOptions/EndTime: ") {
		t.Errorf("an empty window: %s", r.body)
	}
	job := start(good).is(200).text("Result")
	start(good).refusedJob("pending_request_exists")

	event := func(token, id, event string) *reply {
		return b.do("POST", "/JobFlow/Event", token, `{"jobid":"`+id+`","event":"`+event+`"}`)
	}
	event(b.jane.token, job, "approve").refusedJob("self_approval_forbidden")
	event(b.stranger.token, job, "approve").refusedJob("access_request_not_found")
	event(b.root, job, "approve").refusedJob("person_required")
	event(b.boss.token, job, "explode").refusedJob("invalid_value")
	over := b.do("POST", "/JobFlow/Event", b.boss.token, `{"jobid":"`+job+`","event":"approve","args":{"AssignmentType":"window","StartTime":"Fri, 02 Feb 2018 10:11:00 GMT","EndTime":"Fri, 02 Feb 2018 11:11:00 GMT"}}`)
	if !strings.HasPrefix(over.text("Message"), "/args/EndTime: ") {
		t.Errorf("a window that is over: %s", over.body)
	}
	event(b.boss.token, latchkey.Instant(0).String(), "approve").refusedJob("access_request_not_found")
	b.do("POST", "/JobFlow/GetJob", b.stranger.token, `{"jobid":"`+job+`"}`).refusedJob("access_request_not_found")

	b.do("POST", "/JobFlow/GetJob", "lkp1_"+strings.Repeat("a", 60), `{"jobid":"`+job+`"}`).refused(401, "invalid_credential")
	b.do("POST", "/jobflow/getjob", "", `{"jobid":"`+job+`"}`).refused(401, "invalid_credential")
	// Case is folded here and nowhere else.
	b.do("GET", "/JobFlow/GetJob", b.jane.token, "").refused(405, "method_not_allowed")
	b.do("POST", "/JobFlow/GetJob/", b.jane.token, `{}`).refused(404, "route_not_found")
	b.do("GET", "/V1/access-requests", b.jane.token, "").refused(404, "route_not_found")
	if b.mayLogin(b.jane) {
		t.Error("one of the attacks let in")
	}
}

// Of two templates for an account nobody can tell which is meant.
func TestJobs_OneTemplateDecides(t *testing.T) {
	t.Parallel()
	b := startJobs(t)
	good := jobText(t, "start.request")
	b.do("POST", "/JobFlow/StartJob", b.jane.token, good).refusedJob("no_template_for_resource")
	b.template("")
	other := strings.ReplaceAll(`{"name":"logins too","app_id":"APP","approver_group_ids":["GROUP"],"assignment_types":["window"],"require_justification":true,"resource_selector":{"kind":"account","labels":LABELS},"resource_access":{"a":["login"]}}`, "APP", b.app)
	other = strings.ReplaceAll(other, "GROUP", b.approvers)
	id := b.do("POST", "/v1/access-request-templates", b.root, strings.ReplaceAll(other, "LABELS", `{}`)).is(201).text("id")
	b.do("POST", "/JobFlow/StartJob", b.jane.token, good).refusedJob("template_ambiguous")
	b.do("DELETE", "/v1/access-request-templates/"+id, b.root, "").is(204)
	b.do("POST", "/v1/access-request-templates", b.root, strings.ReplaceAll(other, "LABELS", `{"host":"`+jobHost+`"}`)).is(201)
	b.do("POST", "/JobFlow/StartJob", b.jane.token, good).refusedJob("justification_required")
	b.do("POST", "/JobFlow/StartJob", b.jane.token, strings.Replace(good, `"Reason":null`, `"Reason":"the disk is full"`, 1)).is(200).shapedAs(t, "start")
}

// Without the setting there are no such paths.
func TestJobs_AreOffUnlessSwitchedOn(t *testing.T) {
	t.Parallel()
	a := start(t)
	for _, path := range []string{"/JobFlow/GetJob", "/jobflow/getjob", "/ServerManage/GetAccountsForLogin"} {
		a.do("POST", path, a.root, `{}`).refused(404, "route_not_found")
	}
}
