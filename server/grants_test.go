package server_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

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
