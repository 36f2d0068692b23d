package server_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/server"
)

// refused writes what is summed up, and returns the events of refusals as
// "actor action code count".
func (a *api) refused(chain string) (list []string, events []gjson.Result) {
	a.Helper()
	a.clock.advance(time.Minute)
	if _, err := a.refusals.RunOnce(context.Background(), latchkey.InstantOf(a.clock.now()), false); err != nil {
		a.Fatal(err)
	}
	found, err := a.db.Events(context.Background(), chain, audit.Filter{Outcome: "refused", Limit: 1000})
	if err != nil {
		a.Fatal(err)
	}
	for i := range found {
		e := gjson.ParseBytes(found[i].AppendJSON(nil))
		events = append(events, e)
		list = append(list, fmt.Sprint(e.Get("actor.type"), " ", e.Get("action"), " ", e.Get("reason"), " ", e.Get("changes.count")))
	}
	slices.Sort(list)
	return list, events
}

func TestRefusals_AreEventsOfTheirCustomer(t *testing.T) {
	t.Parallel()
	a := start(t)
	poor, gone := a.create(`{"policies":[{"f":"*","p":2}]}`), a.create(`{"decision":true}`)
	a.do("DELETE", "/v1/access_keys/"+gone.id, a.root, "").is(204)
	for range 3 {
		a.do("POST", "/v1/access_keys", poor.secret, newKeyBody(`{"decision":true}`)).is(403)
		a.do("POST", "/decision", poor.secret, `{}`).is(403)
		a.do("POST", "/decision", gone.secret, `{}`).refused(401, "key_revoked")
		a.do("POST", "/decision", "nonsense", `{}`).is(401)
		a.do("DELETE", "/v1/access_keys/"+gone.id, a.root, "").is(409)
		a.do("DELETE", "/v1/customers/default", a.root, "").is(409)
		a.do("GET", "/v1/access_keys/self", poor.secret, "", "X-Customer-ID", "other").is(403)
		a.do("POST", "/v1/root/rotate", poor.secret, "").is(403)
		// Neither faults of the request, nor what is not there, nor a deny.
		a.do("POST", "/v1/access_keys", a.root, `{}`).is(400)
		a.do("GET", "/v1/access_keys/nobody", a.root, "").is(404)
		a.do("GET", "/nowhere", a.root, "").is(404)
		a.do("POST", "/decision", a.root, `{"subject":{"type":"user","id":"u"},"action":{"name":"read"},"resource":{"type":"policies","id":"x"}}`).is(200)
	}
	list, events := a.refused("default")
	if want := []string{
		"access_key access_key.create access_keys_cannot_create 3", "access_key access_key.read wrong_customer 3",
		"access_key decision.evaluate key_revoked 3", "access_key decision.evaluate scope_missing 3", "access_key root_key.rotate not_permitted 3", "root access_key.revoke already_revoked 3",
	}; !slices.Equal(list, want) {
		t.Errorf("default:\n%s\nwant\n%s", strings.Join(list, "\n"), strings.Join(want, "\n"))
	}
	for _, e := range events {
		if e.Get("actor.type").String() == "access_key" && e.Get("actor.id").String() != poor.id && e.Get("actor.id").String() != gone.id || e.Get("actor.ip").String() != "127.0.0.1" {
			t.Errorf("%s", e.Raw)
		}
	}
	list, events = a.refused("_system")
	if want := []string{"anonymous decision.evaluate invalid_credential 3", "root customer.delete default_customer 3"}; !slices.Equal(list, want) {
		t.Errorf("system:\n%s\nwant\n%s", strings.Join(list, "\n"), strings.Join(want, "\n"))
	}
	for _, e := range events {
		if e.Get("actor.type").String() == "anonymous" && e.Get("actor.id").String() != "127.0.0.1" {
			t.Errorf("%s", e.Raw)
		}
	}
	// Who sees the events about keys alone sees the refusals about them alone.
	limited := a.create(`{"access_keys":["audit_events"]}`)
	for _, e := range a.do("GET", "/v1/auditing?outcome=refused", limited.secret, "").is(200).get("events").Array() {
		if !strings.HasPrefix(e.Get("action").String(), "access_key.") {
			t.Errorf("%s", e.Raw)
		}
	}
}

// A flood of guesses is one event a minute, those beyond the limit included.
func TestRefusals_AFloodIsOneEvent(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.config = server.Config{AuthFailureRate: 1} })
	statuses := map[int]int{}
	for range 200 {
		statuses[a.do("GET", "/v1/access_keys/self", "lk1_live_000000000000_0000000000000000000000000000000000000000000_000000", "").status]++
	}
	if list, _ := a.refused("_system"); !slices.Equal(list, []string{
		fmt.Sprintf("anonymous access_key.read invalid_credential %d", statuses[401]), fmt.Sprintf("anonymous access_key.read too_many_failures %d", statuses[429])}) {
		t.Errorf("%v, statuses %v", list, statuses)
	}
}

func TestRefusals_ActionsAreNamedAfterTheirRoutes(t *testing.T) {
	t.Parallel()
	for route, want := range map[string]string{
		"POST /v1/policies": "policy.create", "PUT /v1/sets/:name": "set.update", "GET /v1/subjects:bulkUpdate": "subject.read", "DELETE /v1/entries/:id": "entry.delete",
		"OPTIONS /decision": "decision.options",
	} {
		method, path, _ := strings.Cut(route, " ")
		if got := server.DerivedAction(method, path); got != want {
			t.Errorf("%s: %q, want %q", route, got, want)
		}
	}
}
