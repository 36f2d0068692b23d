package server_test

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
)

func TestCustomers_AreMadeShownChangedAndEnded(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.clock.advance(time.Second)
	r := a.do("POST", "/v1/customers", a.root, `{"id":"123456","name":"Acme","max_active_keys":3}`).is(201)
	want := `{"id":"123456","name":"Acme","max_active_keys":3,"default_policy":null,"created_at":"2026-11-21T22:10:01Z"}`
	if r.body != want || r.header.Get("Location") != "/v1/customers/123456" {
		t.Errorf("%v %s", r.header, r.body)
	}
	if got := a.do("GET", "/v1/customers/123456", a.root, "").is(200).body; got != want {
		t.Error(got)
	}
	a.clock.advance(time.Second)
	unnamed := a.do("POST", "/v1/customers", a.root, `{"name":"É"}`).is(201)
	if !regexp.MustCompile(`^[0-9a-f-]{36}$`).MatchString(unnamed.text("id")) || unnamed.get("max_active_keys").Raw != "null" {
		t.Error(unnamed.body)
	}
	list := a.do("GET", "/v1/customers?limit=2&offset=1", a.root, "").is(200)
	if list.get("total").Int() != 3 || list.get("customers.#").Int() != 2 || list.text("customers.0.id") != "123456" || list.text("customers.1.name") != "É" {
		t.Error(list.body)
	}
	patched := a.do("PATCH", "/v1/customers/123456", a.root, `{"name":"Acme Inc","default_policy":null}`).is(200)
	if patched.text("name") != "Acme Inc" || patched.get("max_active_keys").Int() != 3 {
		t.Error(patched.body)
	}
	if r := a.do("DELETE", "/v1/customers/123456", a.root, "").is(204); r.body != "" {
		t.Error(r.body)
	}
	for method, body := range map[string]string{"GET": "", "DELETE": "", "PATCH": `{"name":"x"}`} {
		a.do(method, "/v1/customers/123456", a.root, body).refused(404, "customer_not_found")
	}
	if list := a.do("GET", "/v1/customers", a.root, ""); list.get("total").Int() != 2 {
		t.Error(list.body)
	}
}

func TestCustomers_RefuseWhatIsWrong(t *testing.T) {
	t.Parallel()
	a := start(t)
	for _, tt := range []struct{ body, code, pointer string }{
		{`{}`, "missing_member", "/name"},
		{`{"name":""}`, "empty_string", "/name"},
		{`{"name":"  "}`, "invalid_customer_name", "/name"},
		{`{"name":"` + strings.Repeat("é", 201) + `"}`, "invalid_customer_name", "/name"},
		{`{"name":1}`, "wrong_type", "/name"},
		{`{"name":"` + a.root + `"}`, "credential_in_name", "/name"},
		{`{"name":"x","id":"` + a.root + `"}`, "invalid_customer_id", "/id"},
		{`{"name":"x","id":""}`, "invalid_customer_id", "/id"},
		{`{"name":"x","id":"_system"}`, "invalid_customer_id", "/id"},
		{`{"name":"x","id":"a b"}`, "invalid_customer_id", "/id"},
		{`{"name":"x","id":"../x"}`, "invalid_customer_id", "/id"},
		{`{"name":"x","id":7}`, "invalid_customer_id", "/id"},
		{`{"name":"x","id":"` + strings.Repeat("a", 129) + `"}`, "invalid_customer_id", "/id"},
		{`{"name":"x","max_active_keys":0}`, "invalid_max_active_keys", "/max_active_keys"},
		{`{"name":"x","max_active_keys":1000001}`, "invalid_max_active_keys", "/max_active_keys"},
		{`{"name":"x","max_active_keys":1.0}`, "invalid_max_active_keys", "/max_active_keys"},
		{`{"name":"x","max_active_keys":"5"}`, "invalid_max_active_keys", "/max_active_keys"},
		{`{"name":"x","colour":"red"}`, "unknown_member", "/colour"},
	} {
		a.do("POST", "/v1/customers", a.root, tt.body).refused(400, tt.code, tt.pointer)
	}
	a.do("PATCH", "/v1/customers/default", a.root, `{"default_policy":"main"}`).refused(400, "policy_not_found", "/default_policy")
	a.do("PATCH", "/v1/customers/default", a.root, `{"default_policy":1}`).refused(400, "wrong_type", "/default_policy")
	a.do("PATCH", "/v1/customers/default", a.root, `{"id":"x"}`).refused(400, "unknown_member", "/id")
	for _, id := range []string{"_system", "nobody", "Default", "a%20b"} {
		a.do("GET", "/v1/customers/"+id, a.root, "").refused(404, "customer_not_found")
		a.do("PATCH", "/v1/customers/"+id, a.root, `{"name":"x"}`).refused(404, "customer_not_found")
		a.do("DELETE", "/v1/customers/"+id, a.root, "").refused(404, "customer_not_found")
	}
	if n := a.do("GET", "/v1/customers", a.root, "").get("total").Int(); n != 1 {
		t.Errorf("%d customers", n)
	}
}

func TestCustomers_AreRootsAlone(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(everyScope)
	for _, tt := range [][3]string{{"POST", "/v1/customers", `{"name":"x"}`}, {"GET", "/v1/customers", ""}, {"GET", "/v1/customers/default", ""},
		{"PATCH", "/v1/customers/default", `{"name":"x"}`}, {"DELETE", "/v1/customers/default", ""}, {"POST", "/v1/root/rotate", ""}} {
		a.do(tt[0], tt[1], k.secret, tt[2]).refused(403, "not_permitted")
	}
}

func TestCustomers_TheDefaultOneStays(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.do("DELETE", "/v1/customers/default", a.root, "").refused(409, "default_customer")
	a.create(`{"decision":true}`)
}

func TestCustomers_AnEndedOnesCredentialsEndAtOnceAndItsIdIsSpent(t *testing.T) {
	t.Parallel()
	a := start(t)
	asker := a.create(`{"decision":true,"search":true}`)
	a.customer("acme")
	k := a.createFor("acme", everyScope)
	a.works(k)
	a.do("DELETE", "/v1/customers/acme", a.root, "").is(204)
	a.ended(k, "key_revoked")
	a.do("POST", "/v1/customers", a.root, `{"id":"acme","name":"again"}`).refused(409, "customer_exists")
	a.do("POST", "/v1/access_keys", a.root, newKeyBody(`{"decision":true}`), "X-Customer-ID", "acme").refused(404, "customer_not_found")
	a.do("GET", "/v1/access_keys", a.root, "", "X-Customer-ID", "acme").refused(404, "customer_not_found")
	if r := a.do("POST", "/v1/access_keys/verify", asker.secret, `{"key":"`+k.secret+`"}`).is(200); r.text("code") != "key_unknown" {
		t.Error(r.body)
	}
	events := a.events("acme") // its chain stays readable, and holds
	if last := events[len(events)-1]; len(events) != 2 || last.Get("action").String() != "customer.delete" {
		t.Errorf("%v", events)
	}
	if r := a.do("POST", "/v1/auditing/verify", a.root, "", "X-Customer-ID", "acme").is(200); !r.get("holds").Bool() {
		t.Error(r.body)
	}
	a.do("GET", "/v1/auditing/"+events[0].Get("id").String(), a.root, "", "X-Customer-ID", "acme").is(200)
	a.stop()
	again := start(t, func(o *options) { o.dir, o.clock = a.dir, a.clock })
	again.ended(k, "key_revoked")
	again.do("POST", "/v1/customers", again.root, `{"id":"acme","name":"again"}`).refused(409, "customer_exists")
}

// A customer may be ended between the commit that made it and the moment at
// which this process knows it.
func TestCustomers_EndingOneThatIsJustBeingMadeHolds(t *testing.T) {
	t.Parallel()
	seam := &afterCommit{action: "customer.create"}
	a := start(t, func(o *options) { o.record = func(r authz.Record) authz.Record { seam.Record = r; return seam } })
	seam.hook = func() { a.do("DELETE", "/v1/customers/acme", a.root, "").is(204) }
	a.customer("acme")
	a.do("GET", "/v1/access_keys", a.root, "", "X-Customer-ID", "acme").refused(404, "customer_not_found")
	a.create(`{"decision":true}`) // there is one customer again, so it need not be named
}

func TestCustomerHeader_ChoosesForRootAndBindsKeys(t *testing.T) {
	t.Parallel()
	a := start(t)
	body := newKeyBody(`{"decision":true}`)
	own := a.create(everyScope) // one customer: root need not name it
	a.customer("acme")
	other := a.createFor("acme", everyScope)
	for _, tt := range [][3]string{{"POST", "/v1/access_keys", body}, {"DELETE", "/v1/access_keys/" + own.id, ""}, {"POST", "/v1/access_keys/" + own.id + "/rotate", `{}`}} {
		a.do(tt[0], tt[1], a.root, tt[2]).refused(400, "customer_required", "header:X-Customer-ID")
		a.do(tt[0], tt[1], a.root, tt[2], "X-Customer-ID", "nobody").refused(404, "customer_not_found")
		a.do(tt[0], tt[1], a.root, tt[2], "X-Customer-ID", "_system").refused(404, "customer_not_found")
		a.do(tt[0], tt[1], a.root, tt[2], "X-Customer-ID", "default", "X-Customer-ID", "acme").refused(400, "duplicate_header", "header:X-Customer-ID")
	}
	if ids, _ := a.list(a.root, ""); len(ids) != 1 || ids[0] != own.id { // reading may do without
		t.Errorf("root reads %v", ids)
	}
	a.do("DELETE", "/v1/access_keys/"+own.id, a.root, "", "X-Customer-ID", "acme").refused(404, "key_not_found")
	for _, path := range []string{"/v1/access_keys", "/v1/access_keys/self", "/v1/auditing"} {
		a.do("GET", path, own.secret, "", "X-Customer-ID", "default").is(200)
		for _, named := range []string{"acme", "nobody", "Default", "_system"} {
			a.do("GET", path, own.secret, "", "X-Customer-ID", named).refused(403, "wrong_customer")
		}
	}
	a.do("POST", "/decision", own.secret, evaluation(subject(own.id), "read", "policies", "x"), "X-Customer-ID", "acme").refused(403, "wrong_customer")
	a.do("DELETE", "/v1/access_keys/"+other.id, other.secret, "", "X-Customer-ID", "acme").is(204)
	a.do("DELETE", "/v1/customers/acme", a.root, "").is(204)
	a.create(`{"decision":true}`) // one customer again
}

func TestRootRotate_EndsTheOldKeyWithItsReply(t *testing.T) {
	t.Parallel()
	a := start(t)
	old := a.root
	r := a.do("POST", "/v1/root/rotate", old, "").is(201)
	a.root = a.keep(r.text("key"))
	if !regexp.MustCompile(`^lkr1_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}$`).MatchString(a.root) ||
		!strings.HasPrefix(a.root, r.text("handle")+"_") || r.header.Get("Cache-Control") != "no-store" {
		t.Error(r.header, r.text("handle"))
	}
	a.do("GET", "/v1/customers", old, "").refused(401, "invalid_credential")
	a.do("GET", "/v1/customers", a.root, "").is(200)
	events := a.events("_system")
	if last := events[len(events)-1]; last.Get("action").String() != "root_key.rotate" || last.Get("actor.type").String() != "root" {
		t.Error(last)
	}
	rootTokens.Store(a.dir, a.root)
	a.stop()
	again := start(t, func(o *options) { o.dir, o.clock = a.dir, a.clock })
	again.do("GET", "/v1/customers", old, "").refused(401, "invalid_credential")
	again.do("GET", "/v1/customers", again.root, "").is(200)
}

// failing makes every change fail as a full disk would.
type failing struct {
	authz.Record
	on bool
}

func (r *failing) Change(ctx context.Context, c authz.Change, do func(authz.Tx) (audit.Draft, error)) error {
	if !r.on {
		return r.Record.Change(ctx, c, do)
	}
	return r.Record.Change(ctx, c, func(tx authz.Tx) (audit.Draft, error) {
		if _, err := do(tx); err != nil {
			return audit.Draft{}, err
		}
		return audit.Draft{}, context.DeadlineExceeded // after everything was written
	})
}

func TestChange_ThatFailsChangesNothingInTheProcessEither(t *testing.T) {
	t.Parallel()
	disk := &failing{}
	a := start(t, func(o *options) { o.record = func(r authz.Record) authz.Record { disk.Record = r; return disk } })
	k := a.create(`{"decision":true}`)
	disk.on = true
	for _, tt := range [][3]string{
		{"POST", "/v1/access_keys", newKeyBody(`{"decision":true}`)}, {"DELETE", "/v1/access_keys/" + k.id, ""},
		{"POST", "/v1/access_keys/" + k.id + "/rotate", `{}`}, {"POST", "/v1/customers", `{"id":"acme","name":"x"}`}, {"POST", "/v1/root/rotate", ""},
	} {
		if r := a.do(tt[0], tt[1], a.root, tt[2]); r.status != 503 || r.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s", tt[1], r.status, r.body)
		}
	}
	disk.on = false
	a.works(k)
	a.do("GET", "/v1/customers/acme", a.root, "").refused(404, "customer_not_found")
	if n := a.table.Len(); n != 1 {
		t.Errorf("%d keys in memory", n)
	}
	if n := len(a.events("default")); n != 1 {
		t.Errorf("%d events", n)
	}
}
