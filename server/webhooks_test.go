package server_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/deliveries"
	"github.com/latchkey-dev/latchkey/store"
)

var inDefault = []string{"X-Customer-ID", authz.DefaultCustomer}

func (a *api) hooks(method, path, body string) *reply {
	a.Helper()
	return a.do(method, "/v1/webhooks"+path, a.root, body, inDefault...)
}

// keepText has any secret looked for in the log, the metrics and the database.
func (a *api) keepText(secret string) string {
	a.keep("_" + secret + "_")
	return secret
}

// webhook makes one, and returns its id and secret.
func (a *api) webhook(more string) (id, secret string) {
	a.Helper()
	r := a.hooks("POST", "", `{"url":"https://hooks.example.com/path-that-is-secret?x=1","events":["access_request.approved","access_request.submitted"]`+more+`}`).is(http.StatusCreated)
	part, ok := strings.CutPrefix(r.text("secret"), "whsec_")
	if key, err := base64.StdEncoding.DecodeString(part); !ok || err != nil || len(key) != 32 {
		a.Fatalf("secret %q", r.text("secret"))
	}
	a.keepText(part)
	return r.text("id"), r.text("secret")
}

// happened writes an event about an access request and makes deliveries of it.
func happened(t testing.TB, db *store.DB, customer, event string, at latchkey.Instant) (request string) {
	t.Helper()
	ctx := context.Background()
	request = uuid.NewString()
	err := db.Change(ctx, authz.Change{Chain: customer, At: at}, func(authz.Tx) (audit.Draft, error) {
		return audit.Draft{ID: uuid.NewString(), At: at, Actor: audit.Actor{Type: "system", ID: "system"}, Action: "access_request.test", Outcome: "success",
			Resource: audit.Resource{Type: "access_request", ID: request, Name: "Production"}, Changes: `{"event":"` + event + `","request_id":"` + request + `"}`}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := deliveries.NewMaker(db.Deliveries(), false).RunOnce(ctx, at); err != nil {
		t.Fatal(err)
	}
	return request
}

func TestWebhooks_ShowTheirSecretOnceAndHeadersNever(t *testing.T) {
	t.Parallel()
	a := start(t)
	header, compat := a.keepText("Bearer of-the-receiver-alone"), a.keepText("compat-secret-of-the-receiver")
	id, secret := a.webhook(`,"headers":{"authorization":"` + header + `","x-team":"a"},"compat":"indent","compat_secret":"` + compat + `","description":"to Slack"`)
	r := a.hooks("GET", "/"+id, "").is(200)
	want := `{"id":"` + id + `","url":"https://hooks.example.com/path-that-is-secret?x=1","task_id":null,"events":["access_request.submitted","access_request.approved"],` +
		`"headers":{"Authorization":null,"X-Team":null},"compat":"indent","description":"to Slack","secrets":[{"created_at":"` + a.clock.in(0) + `","ends_at":null}],"created_at":"` + a.clock.in(0) + `"}`
	if r.body != want {
		t.Errorf("%s\nwant %s", r.body, want)
	}
	for _, path := range []string{"/" + id, ""} {
		body := a.hooks("GET", path, "").is(200).body
		for _, s := range []string{secret, header, compat} {
			if strings.Contains(body, s) {
				t.Errorf("%q shows a secret: %s", path, body)
			}
		}
	}
	// What is shown can be written back, and changes nothing.
	a.hooks("PUT", "/"+id, `{"url":"https://hooks.example.com/path-that-is-secret?x=1","events":["access_request.approved"],"headers":{"Authorization":null,"X-Team":null},"compat":"indent","description":""}`).is(200)
	w := deliveries.Webhook{ID: id, Customer: authz.DefaultCustomer}
	opened, err := deliveries.OpenSecrets(t.Context(), a.db, testVault(t), &w, latchkey.InstantOf(a.clock.now()))
	if err != nil || opened.Headers["Authorization"] != header || opened.Headers["X-Team"] != "a" || string(opened.Compat) != compat || len(opened.Keys) != 1 {
		t.Errorf("what was kept: %+v, %v", opened, err)
	}
	a.hooks("PUT", "/"+id, `{"url":"https://hooks.example.com/other","events":["access_request.approved"],"headers":{"X-Team":"b"}}`).is(200)
	opened, err = deliveries.OpenSecrets(t.Context(), a.db, testVault(t), &w, latchkey.InstantOf(a.clock.now()))
	if err != nil || len(opened.Headers) != 1 || opened.Headers["X-Team"] != "b" || opened.Compat != nil || len(opened.Keys) != 1 {
		t.Errorf("what is left: %+v, %v", opened, err)
	}
	// The trail says that it was changed and for which server, not where exactly: a
	// path is often what proves who calls.
	for _, e := range a.events(authz.DefaultCustomer) {
		if strings.Contains(e.Raw, "path-that-is-secret") || strings.Contains(e.Raw, "of-the-receiver") {
			t.Errorf("an event tells a secret: %s", e.Raw)
		}
	}
	a.hooks("DELETE", "/"+id, "").is(204)
	a.hooks("GET", "/"+id, "").refused(404, "webhook_not_found")
	if left, err := a.db.Secrets(t.Context(), authz.DefaultCustomer, "webhook", id); err != nil || len(left) != 0 {
		t.Errorf("secrets that nobody uses: %v, %v", left, err)
	}
}

func TestWebhooks_RefuseWhatIsNoWebhook(t *testing.T) {
	t.Parallel()
	a := start(t)
	const good = `"events":["access_request.approved"]`
	for body, want := range map[string][2]string{
		`{` + good + `}`: {"missing_member", "/url"},
		`{"url":"https://example.com/","task_id":"00000000-0000-4000-8000-000000000000",` + good + `}`: {"one_target", "/task_id"},
		`{"url":7,` + good + `}`:                                            {"wrong_type", "/url"},
		`{"url":"nonsense",` + good + `}`:                                   {"invalid_url", "/url"},
		`{"url":"https://example.com/"}`:                                    {"missing_member", "/events"},
		`{"url":"https://example.com/","events":[]}`:                        {"empty", "/events"},
		`{"url":"https://example.com/","events":"access_request.approved"}`: {"wrong_type", "/events"},
		`{"url":"https://example.com/","events":["access_request.approved","access_request.approved"]}`:                {"duplicate", "/events/1"},
		`{"url":"https://example.com/","events":["key.made"]}`:                                                         {"unknown_event", "/events/0"},
		`{"url":"https://example.com/",` + good + `,"more":1}`:                                                         {"unknown_member", "/more"},
		`{"url":"https://example.com/",` + good + `,"compat":"other"}`:                                                 {"unknown_compat", "/compat"},
		`{"url":"https://example.com/",` + good + `,"compat":"indent"}`:                                                {"missing_member", "/compat_secret"},
		`{"url":"https://example.com/",` + good + `,"compat":"indent","compat_secret":"short"}`:                        {"too_short", "/compat_secret"},
		`{"url":"https://example.com/",` + good + `,"compat_secret":"long enough"}`:                                    {"compat_missing", "/compat_secret"},
		`{"url":"https://example.com/",` + good + `,"headers":{"X-A":null}}`:                                           {"missing_value", "/headers/X-A"},
		`{"url":"https://example.com/",` + good + `,"headers":{"Host":"x"}}`:                                           {"reserved_header", "/headers/Host"},
		`{"url":"https://example.com/",` + good + `,"headers":{"webhook-signature":"x"}}`:                              {"reserved_header", "/headers/webhook-signature"},
		`{"url":"https://example.com/",` + good + `,"headers":{"x-indent-signature":"x"}}`:                             {"reserved_header", "/headers/x-indent-signature"},
		`{"url":"https://example.com/",` + good + `,"headers":{"Transfer-Encoding":"chunked"}}`:                        {"reserved_header", "/headers/Transfer-Encoding"},
		`{"url":"https://example.com/",` + good + `,"headers":{"X-A":"a\r\nX-B: b"}}`:                                  {"invalid_header", "/headers/X-A"},
		`{"url":"https://example.com/",` + good + `,"headers":{"X A":"a"}}`:                                            {"invalid_header", "/headers/X A"},
		`{"url":"https://example.com/",` + good + `,"headers":{"X-A":"a","x-a":"b"}}`:                                  {"duplicate", "/headers/x-a"},
		`{"url":"https://example.com/",` + good + `,"description":"a\u0007"}`:                                          {"control_character", "/description"},
		`{"url":"https://example.com/",` + good + `,"headers":{"X-A":"` + a.root + `"}}`:                               {"credential_in_header", "/headers/X-A"},
		`{"task_id":"x",` + good + `}`:                                                                                 {"invalid_id", "/task_id"},
		`{"task_id":"00000000-0000-4000-8000-000000000000",` + good + `}`:                                              {"unknown_task", "/task_id"},
		`{"task_id":"00000000-0000-4000-8000-000000000000",` + good + `,"headers":{"X-A":"a"}}`:                        {"not_for_tasks", "/headers"},
		`{"task_id":"00000000-0000-4000-8000-000000000000",` + good + `,"compat":"indent","compat_secret":"abcdefgh"}`: {"not_for_tasks", "/compat"},
		`[]`: {"wrong_type", ""},
	} {
		a.hooks("POST", "", body).refused(400, want[0], want[1])
	}
	// The server itself, its neighbours, and the machine that it runs on are not
	// reached on anybody's behalf.
	for _, url := range []string{"http://127.0.0.1:5540/metrics", "http://[::1]/", "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "http://localhost/", "http://[::ffff:127.0.0.1]/", "http://[64:ff9b::7f00:1]/"} {
		a.hooks("POST", "", `{"url":"`+url+`",`+good+`}`).refused(400, "address_refused", "/url")
	}
	for _, url := range []string{"http://2130706433/", "http://0x7f.1/", "https://user:password@example.com/", "file:///etc/passwd", "gopher://example.com/"} {
		a.hooks("POST", "", `{"url":"`+url+`",`+good+`}`).refused(400, "invalid_url", "/url")
	}
	if n := len(a.hooks("GET", "", "").is(200).get("webhooks").Array()); n != 0 {
		t.Errorf("%d webhooks", n)
	}
}

func TestWebhooks_AreForManagersOfTheirCustomer(t *testing.T) {
	t.Parallel()
	a := start(t)
	id, _ := a.webhook("")
	happened(t, a.db, authz.DefaultCustomer, deliveries.Approved, latchkey.InstantOf(a.clock.now()))
	delivery := a.hooks("GET", "/"+id+"/deliveries", "").is(200).text("deliveries.0.id")
	if delivery == "" {
		t.Fatal("no delivery")
	}
	a.customer("other")
	body := `{"url":"https://example.com/","events":["access_request.approved"]}`
	plain, manager, stranger := a.createFor(authz.DefaultCustomer, `{"decision":true,"audit_events":true}`), a.createFor(authz.DefaultCustomer, `{"access_requests_manage":true}`), a.createFor("other", `{"access_requests_manage":true}`)
	for _, call := range [][3]string{
		{"POST", "", body}, {"GET", "", ""}, {"GET", "/" + id, ""}, {"PUT", "/" + id, body}, {"DELETE", "/" + id, ""}, {"POST", "/" + id + "/rotate", "{}"},
		{"GET", "/" + id + "/deliveries", ""}, {"POST", "/" + id + "/deliveries/" + delivery + "/replay", ""},
	} {
		a.do(call[0], "/v1/webhooks"+call[1], plain.secret, call[2]).refused(403, "scope_missing")
		if strings.Contains(call[1], id) {
			a.do(call[0], "/v1/webhooks"+call[1], stranger.secret, call[2]).refused(404, "webhook_not_found")
		}
	}
	if list := a.do("GET", "/v1/webhooks", stranger.secret, "").is(200).get("webhooks").Array(); len(list) != 0 {
		t.Errorf("another customer's: %v", list)
	}
	a.do("GET", "/v1/webhooks/"+id, manager.secret, "").is(200)
	for _, bad := range []string{"x", strings.ToUpper(id), "00000000-0000-4000-8000-000000000000"} {
		a.hooks("GET", "/"+bad, "").refused(404, "webhook_not_found")
		a.hooks("POST", "/"+id+"/deliveries/"+bad+"/replay", "").refused(404, "delivery_not_found")
	}
}

// The attack: who may manage webhooks, and not see what stands in their headers,
// points one at a server of their own and has the header sent there.
func TestPutWebhook_TakesNoHeadersToAnotherServer(t *testing.T) {
	t.Parallel()
	a := start(t)
	id, _ := a.webhook(`,"headers":{"Authorization":"Bearer x"}`)
	for _, url := range []string{"https://evil.example.com/path", "http://hooks.example.com/", "https://hooks.example.com:8443/"} {
		a.hooks("PUT", "/"+id, `{"url":"`+url+`","events":["access_request.approved"],"headers":{"Authorization":null}}`).refused(400, "value_of_another_server", "/headers/Authorization")
	}
	a.hooks("PUT", "/"+id, `{"url":"https://evil.example.com/path","events":["access_request.approved"],"headers":{"Authorization":"Bearer other"}}`).is(200)
	a.hooks("PUT", "/"+id, `{"task_id":"00000000-0000-4000-8000-000000000000","events":["access_request.approved"]}`).refused(400, "target_immutable")
	a.hooks("PUT", "/"+id, `{"url":"https://evil.example.com/path","events":["access_request.approved"],"headers":{"X-Other":null}}`).refused(400, "missing_value", "/headers/X-Other")
}

func TestRotateWebhook_SecretsOverlapForTheGrace(t *testing.T) {
	t.Parallel()
	a := start(t)
	id, _ := a.webhook("")
	w := deliveries.Webhook{ID: id, Customer: authz.DefaultCustomer}
	sign := func(want int) {
		t.Helper()
		opened, err := deliveries.OpenSecrets(t.Context(), a.db, testVault(t), &w, latchkey.InstantOf(a.clock.now()))
		if err != nil || len(opened.Keys) != want {
			t.Errorf("%d secrets sign, want %d: %v", len(opened.Keys), want, err)
		}
	}
	rotate := func(body string) *reply {
		t.Helper()
		r := a.hooks("POST", "/"+id+"/rotate", body)
		if r.status == 200 {
			a.keepText(strings.TrimPrefix(r.text("secret"), "whsec_"))
		}
		return r
	}
	sign(1)
	r := rotate(`{"grace":"1h"}`).is(200)
	if len(r.get("secrets").Array()) != 2 || r.text("secrets.0.ends_at") != a.clock.in(time.Hour) || r.get("secrets.1.ends_at").Raw != "null" {
		t.Error(r.body)
	}
	sign(2)
	a.clock.advance(time.Hour - time.Microsecond)
	sign(2)
	a.clock.advance(time.Microsecond)
	sign(1)
	r = rotate("").is(200)
	if len(r.get("secrets").Array()) != 2 || r.text("secrets.0.ends_at") != a.clock.in(24*time.Hour) { // the one that has ended is gone
		t.Error(r.body)
	}
	rotate(`{"grace":0}`).is(200) // after a leak
	sign(1)
	for range 4 {
		rotate(`{"grace":3600}`).is(200)
	}
	sign(5)
	rotate(`{"grace":3600}`).refused(409, "too_many_secrets")
	sign(5)
	rotate(`{"grace":"31d"}`).refused(400, "invalid_duration", "/grace")
	rotate(`{"grace":"721h"}`).refused(400, "invalid_duration", "/grace")
	rotate(`{"grace":-1}`).refused(400, "invalid_duration", "/grace")
	rotate(`{"more":1}`).refused(400, "unknown_member", "/more")
}

// A client that did not get the answer asks again, and gets the same secret.
func TestCreateWebhook_IsReplayedWithItsSecret(t *testing.T) {
	t.Parallel()
	a := start(t)
	body := `{"url":"https://example.com/","events":["access_request.denied"]}`
	ask := func() string {
		return a.do("POST", "/v1/webhooks", a.root, body, "X-Customer-ID", authz.DefaultCustomer, "Idempotency-Key", "one").is(201).body
	}
	if first := ask(); ask() != first {
		t.Error("another one was made")
	}
	if n := len(a.hooks("GET", "", "").is(200).get("webhooks").Array()); n != 1 {
		t.Errorf("%d webhooks", n)
	}
}

func TestWebhooks_ACustomerHasSoManyAtMost(t *testing.T) {
	t.Parallel()
	a := start(t)
	for range deliveries.MaxWebhooks {
		a.hooks("POST", "", `{"url":"https://example.com/","events":["access_request.denied"]}`).is(201)
	}
	a.hooks("POST", "", `{"url":"https://example.com/","events":["access_request.denied"]}`).refused(409, "too_many_webhooks")
}

func TestDeliveries_AreOfEventsAfterTheWebhookThatItWants(t *testing.T) {
	t.Parallel()
	a := start(t)
	now := func() latchkey.Instant { return latchkey.InstantOf(a.clock.now()) }
	happened(t, a.db, authz.DefaultCustomer, deliveries.Approved, now())
	id, _ := a.webhook("")
	var want []string
	for i, event := range []string{deliveries.Submitted, deliveries.Denied, deliveries.Approved, deliveries.Expired, deliveries.Submitted, "access_request.discussed"} {
		a.clock.advance(time.Second)
		request := happened(t, a.db, authz.DefaultCustomer, event, now())
		if event == deliveries.Submitted || event == deliveries.Approved {
			want = append([]string{fmt.Sprint(i, event, request)}, want...)
		}
	}
	a.hooks("GET", "/"+id+"/deliveries?limit=0", "").refused(400, "invalid_parameter")
	a.hooks("GET", "/"+id+"/deliveries?cursor=x", "").refused(400, "invalid_cursor")
	a.hooks("GET", "/"+id+"/deliveries?status=gone", "").refused(400, "invalid_parameter")
	cursor := ""
	for i := range want {
		r := a.hooks("GET", "/"+id+"/deliveries?limit=1"+cursor, "").is(200)
		d := r.get("deliveries.0")
		if !strings.HasSuffix(want[i], d.Get("event").String()+d.Get("request_id").String()) || d.Get("status").String() != "pending" || d.Get("attempts").Int() != 0 ||
			d.Get("last_attempt").Raw != "null" || d.Get("webhook_id").String() != id {
			t.Errorf("delivery %d is %s, want %s", i, d.Raw, want[i])
		}
		cursor = "&cursor=" + r.text("next_cursor")
		if i == len(want)-1 && r.get("next_cursor").Raw != "null" {
			t.Error("there is a further page")
		}
	}
	if n := len(a.hooks("GET", "/"+id+"/deliveries?status=dead", "").is(200).get("deliveries").Array()); n != 0 {
		t.Errorf("%d dead ones", n)
	}
	// What is under way is not begun again; what is dead is, under its id.
	d := a.hooks("GET", "/"+id+"/deliveries?limit=1", "").get("deliveries.0")
	replay := "/" + id + "/deliveries/" + d.Get("id").String() + "/replay"
	a.hooks("POST", replay, "").refused(409, "delivery_pending")
	queue := a.db.Deliveries()
	claimed, err := queue.Claim(t.Context(), id, now(), 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range claimed {
		if wrote, err := queue.Finish(t.Context(), c.After(deliveries.Outcome{Result: "http_status", ReplyStatus: 410, ReplyHead: "gone", Final: true}, now(), 0)); err != nil || !wrote {
			t.Fatal(wrote, err)
		}
	}
	dead := a.hooks("GET", "/"+id+"/deliveries?status=dead&limit=1", "").is(200).get("deliveries.0")
	if dead.Get("id").String() != d.Get("id").String() || dead.Get("next_attempt_at").Raw != "null" || dead.Get("last_attempt.result").String() != "http_status" || dead.Get("last_attempt.reply_status").Int() != 410 {
		t.Errorf("dead: %s", dead.Raw)
	}
	a.clock.advance(48 * time.Hour)
	r := a.hooks("POST", replay, "").is(202)
	if r.text("status") != "pending" || r.text("next_attempt_at") != a.clock.in(0) || r.text("id") != d.Get("id").String() {
		t.Error(r.body)
	}
	if claimed, err := queue.Claim(t.Context(), id, now(), 100); err != nil || len(claimed) != 1 || claimed[0].EndsAt != now().Add(deliveries.Patience) {
		t.Errorf("%+v, %v", claimed, err)
	}
}

// What people are told by e-mail is kept count of as well: one delivery for each of
// them, which share an event.
func TestDeliveries_ByEmailAreListedAndMadeOnceMore(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.customer("other")
	hook, _ := a.webhook("")
	at := latchkey.InstantOf(a.clock.now())
	request, approvers := uuid.NewString(), []string{uuid.NewString(), uuid.NewString(), uuid.NewString(), uuid.NewString(), uuid.NewString()}
	err := a.db.Change(t.Context(), authz.Change{Chain: authz.DefaultCustomer, At: at}, func(authz.Tx) (audit.Draft, error) {
		return audit.Draft{ID: uuid.NewString(), At: at, Actor: audit.Actor{Type: "system", ID: "system"}, Action: "access_request.test", Outcome: "success",
			Resource: audit.Resource{Type: "access_request", ID: request}, Changes: `{"event":"access_request.submitted","notified_approvers":[{"id":"` + strings.Join(approvers, `"},{"id":"`) + `"}]}`}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := deliveries.NewMaker(a.db.Deliveries(), true).RunOnce(t.Context(), at); err != nil || n != 6 {
		t.Fatal(n, err)
	}
	var ids, told []string
	for cursor := ""; ; {
		r := a.hooks("GET", "/email/deliveries?limit=2"+cursor, "").is(200)
		for _, d := range r.get("deliveries").Array() {
			if d.Get("webhook_id").Raw != "null" || d.Get("event").String() != deliveries.Submitted || d.Get("request_id").String() != request || d.Get("status").String() != "pending" {
				t.Errorf("listed: %s", d.Raw)
			}
			ids, told = append(ids, d.Get("id").String()), append(told, d.Get("recipient_id").String())
		}
		if cursor = "&cursor=" + r.text("next_cursor"); r.get("next_cursor").Raw == "null" {
			break
		}
	}
	slices.Sort(told)
	slices.Sort(approvers)
	if !slices.Equal(told, approvers) {
		t.Errorf("told are %v, want %v", told, approvers)
	}
	// They are for managers of the customer, each under its own list.
	replay := "/email/deliveries/" + ids[0] + "/replay"
	plain, stranger := a.createFor(authz.DefaultCustomer, `{"decision":true}`), a.createFor("other", `{"access_requests_manage":true}`)
	a.do("GET", "/v1/webhooks/email/deliveries", plain.secret, "").refused(403, "scope_missing")
	a.do("POST", "/v1/webhooks"+replay, plain.secret, "").refused(403, "scope_missing")
	if n := len(a.do("GET", "/v1/webhooks/email/deliveries", stranger.secret, "").is(200).get("deliveries").Array()); n != 0 {
		t.Errorf("another customer sees %d", n)
	}
	a.do("POST", "/v1/webhooks"+replay, stranger.secret, "").refused(404, "delivery_not_found")
	a.hooks("POST", "/"+hook+"/deliveries/"+ids[0]+"/replay", "").refused(404, "delivery_not_found")
	a.hooks("POST", "/email/deliveries/"+a.hooks("GET", "/"+hook+"/deliveries", "").is(200).text("deliveries.0.id")+"/replay", "").refused(404, "delivery_not_found")
	a.hooks("GET", "/email:default/deliveries", "").refused(404, "webhook_not_found")
	a.hooks("GET", "/email", "").refused(404, "webhook_not_found")

	a.hooks("POST", replay, "").refused(409, "delivery_pending")
	queue := a.db.Deliveries()
	claimed, err := queue.Claim(t.Context(), deliveries.EmailTarget(authz.DefaultCustomer), at, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range claimed {
		if wrote, err := queue.Finish(t.Context(), c.After(deliveries.Outcome{Result: "mail_refused", ReplyStatus: 550, Final: true}, at, 0)); err != nil || !wrote {
			t.Fatal(wrote, err)
		}
	}
	dead := a.hooks("GET", "/email/deliveries?status=dead", "").is(200)
	if dead.get("deliveries.#").Int() != 5 || dead.get("deliveries.0.last_attempt.reply_status").Int() != 550 {
		t.Errorf("dead: %s", dead.body)
	}
	if dropped := a.hooks("GET", "/email/deliveries?status=dropped", "").is(200); dropped.get("deliveries.#").Int() != 0 {
		t.Errorf("dropped: %s", dropped.body)
	}
	if d := a.hooks("POST", replay, "").is(202); d.text("id") != ids[0] || d.text("status") != "pending" || !slices.Contains(approvers, d.text("recipient_id")) {
		t.Errorf("once more: %s", d.body)
	}
	// That it is made once more is in the trail, and is no event to tell anybody of.
	if n, err := deliveries.NewMaker(queue, true).RunOnce(t.Context(), at); err != nil || n != 0 {
		t.Errorf("%d deliveries of a replay, %v", n, err)
	}
}
