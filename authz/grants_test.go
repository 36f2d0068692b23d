package authz_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

// grantsOf are the grants of subjects, by "type id".
type grantsOf map[string]*authz.Grants

func (g grantsOf) Grants(_ *authz.Customer, typ, id string) (*authz.Grants, error) {
	return g[typ+" "+id], nil
}

// noGrants is a source that cannot tell.
type noGrants struct{ asked int }

func (g *noGrants) Grants(*authz.Customer, string, string) (*authz.Grants, error) {
	g.asked++
	return nil, errors.New("nobody can tell")
}

func newGrants(tb testing.TB, version int64, list ...feed.GrantBody) *authz.Grants {
	tb.Helper()
	g, err := authz.NewGrants(grantParser, list, version)
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

var grantParser = scopes.NewParser(16)

func grantBody(id, entries, reason string, from, to latchkey.Instant) feed.GrantBody {
	return feed.GrantBody{ID: id, Entries: entries, Reason: reason, NotBefore: from, ExpiresAt: to, RevokedAt: latchkey.Never}
}

func userRequest(id, action, typ, resource string) *authz.Request {
	return &authz.Request{Subject: authz.Entity{Type: "user", ID: id}, Action: authz.Action{Name: action}, Resource: authz.Entity{Type: typ, ID: resource}}
}

// grantModel is a grant as its author wrote it, for the model: no code is shared
// with what is tested.
type grantModel struct {
	typ, prefix string // all ids that begin so
	action      string
	reason      string
	from, to    latchkey.Instant
}

func (g *grantModel) entries() string {
	return fmt.Sprintf(`{%q:[{"f":%q,"a":[%q]}]}`, g.typ, g.prefix+"*", g.action)
}

// covering are those that count for the question at now, by their place.
func covering(list []grantModel, action, typ, id string, now latchkey.Instant) (places []int) {
	for i, g := range list {
		if g.typ == typ && strings.HasPrefix(id, g.prefix) && g.action == action && now >= g.from && now < g.to {
			places = append(places, i)
		}
	}
	return places
}

// grantPolicies are policies with what the model says of them: of how many
// grants cover the question, with which reasons, and of the scopes.
var grantPolicies = []struct {
	name, cel, rego string
	permits         func(reasons []string, scopesPermit bool) bool
}{
	{"", "", "", func(r []string, s bool) bool { return s || len(r) > 0 }},
	{"count", "size(grants) >= 2", "", func(r []string, _ bool) bool { return len(r) >= 2 }},
	{"reason", `grants.exists(g, g.reason == 'a')`, "", func(r []string, _ bool) bool { return slices.Contains(r, "a") }},
	{"blind", "true", "", func([]string, bool) bool { return true }},
	{"library", "", "import data.latchkey\n\ndefault allow := false\n\nallow if latchkey.grants.permits", func(r []string, _ bool) bool { return len(r) > 0 }},
	{"member", "", "default allow := false\n\nallow if input.latchkey.grants[_].reason == \"a\"", func(r []string, _ bool) bool { return slices.Contains(r, "a") }},
	{"scopes", "", "allow := input.latchkey.scope_permits", func(_ []string, s bool) bool { return s }},
}

func grantCustomer(tb testing.TB, table *cache.Table) *authz.Customer {
	tb.Helper()
	c := &authz.Customer{ID: "acme"}
	table.AddCustomer(c)
	err := c.Policies.Update(func(s *policies.Snapshot) (*policies.Snapshot, error) {
		return s.Edit(1, morning, func(d *policies.Draft) {
			for _, p := range grantPolicies {
				switch {
				case p.cel != "":
					d.PutPolicy(compileDocument(tb, document(tb, p.name, p.cel)))
				case p.rego != "":
					d.PutPolicy(compileDocument(tb, &policies.Document{Name: p.name, Language: policies.Rego, Rego: "package policies." + p.name + "\n\n" + p.rego + "\n"}))
				}
			}
		}), nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// Whatever grants a subject holds, and whenever it is asked, while grants come
// and go: the decision and its reasons are the model's, by the built-in policy
// and by policies that read grants, memoised ones too; and until its expires_at
// the answer would not be another.
func TestDecide_GrantsCountAsTheModelSays(t *testing.T) {
	table := &cache.Table{}
	customer := grantCustomer(t, table)
	customer.ExpectGrants()
	set, err := grantParser.Load(`{"customer":{"doc":[{"f":"open*","a":["view"]}]}}`)
	if err != nil {
		t.Fatal(err)
	}
	source := grantsOf{}
	p := authz.NewPDP(authz.PDPConfig{Keys: table, Grants: source, MaxStaleness: 30 * time.Second, Concurrency: 4})
	var version int64
	rapid.Check(t, func(t *rapid.T) {
		key := authz.NewKeyState(&authz.Key{ID: authz.KeyID(uuid.New()), ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never, LastUsedAt: morning}, customer, set)
		table.AddKey(key)
		at := rapid.Custom(func(t *rapid.T) latchkey.Instant {
			return morning + latchkey.Instant(rapid.Int64Range(0, 40e6).Draw(t, "µs"))
		})
		one := rapid.Custom(func(t *rapid.T) grantModel {
			g := grantModel{typ: rapid.SampledFrom([]string{"doc", "host"}).Draw(t, "type"), prefix: rapid.SampledFrom([]string{"", "o", "open", "db-"}).Draw(t, "prefix"),
				action: rapid.SampledFrom([]string{"view", "edit"}).Draw(t, "granted"), reason: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "reason"), from: at.Draw(t, "from")}
			g.to = g.from + latchkey.Instant(rapid.Int64Range(1, 20e6).Draw(t, "lasts"))
			return g
		})
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			list := rapid.SliceOfN(one, 0, 5).Draw(t, "grants")
			version++
			var bodies []feed.GrantBody
			for i := range list {
				bodies = append(bodies, grantBody(fmt.Sprint("g", i), list[i].entries(), list[i].reason, list[i].from, list[i].to))
			}
			grants, err := authz.NewGrants(grantParser, bodies, version)
			if err != nil {
				t.Fatal(err)
			}
			key.SetGrants(grants)
			source["user alice"] = grants
			for range 6 {
				now := at.Draw(t, "now")
				if len(list) > 0 && rapid.Bool().Draw(t, "at a boundary") {
					g := rapid.SampledFrom(list).Draw(t, "whose")
					now = rapid.SampledFrom([]latchkey.Instant{g.from - 1, g.from, g.to - 1, g.to}).Draw(t, "boundary")
				}
				policy := rapid.SampledFrom(grantPolicies).Draw(t, "policy")
				typ, id, action := rapid.SampledFrom([]string{"doc", "host"}).Draw(t, "asked type"), rapid.SampledFrom([]string{"open-1", "other", "db-1"}).Draw(t, "id"), rapid.SampledFrom([]string{"view", "edit"}).Draw(t, "action")
				isKey := rapid.Bool().Draw(t, "a key")
				scopesPermit := isKey && typ == "doc" && strings.HasPrefix(id, "open") && action == "view"
				answer := func(now latchkey.Instant) (permit bool, ids []string) {
					var reasons []string
					for _, i := range covering(list, action, typ, id, now) {
						ids, reasons = append(ids, fmt.Sprint("g", i)), append(reasons, list[i].reason)
					}
					within := !isKey || scopesPermit || len(ids) > 0
					return within && policy.permits(reasons, scopesPermit), ids
				}
				q := userRequest("alice", action, typ, id)
				if isKey {
					q = request(key.ID.String(), action, typ, id)
				}
				q.Policy = policy.name
				var d authz.Decision
				if err := p.Decide(&d, customer, q, now); err != nil {
					t.Fatal(err)
				}
				permit, ids := answer(now)
				if d.Permit != permit || d.Failure != nil {
					t.Fatalf("%s at %d: %v, want %v of %+v", policy.name, now-morning, d.Permit, permit, list)
				}
				var got []string
				for _, r := range d.Reasons {
					if r.Code == authz.GrantPermits {
						got = append(got, r.Grant)
					}
				}
				if !permit || !isKey && policy.name != "" {
					ids = nil // a policy that reads grants gives its own reasons
				}
				if diff := cmp.Diff(ids, got); diff != "" {
					t.Fatalf("%s: reasons %s", policy.name, diff)
				}
				if d.ExpiresAt <= now || d.ExpiresAt > now.Add(30*time.Second) {
					t.Fatalf("holds until %d, asked at %d", d.ExpiresAt-morning, now-morning)
				}
				times := []latchkey.Instant{d.ExpiresAt - 1}
				for _, g := range list {
					times = append(times, g.from-1, g.from, g.to-1, g.to)
				}
				for _, later := range times {
					if later >= now && later < d.ExpiresAt {
						if again, _ := answer(later); again != permit {
							t.Fatalf("%s: at %d it is %v, and said to be %v from %d until %d", policy.name, later-morning, again, permit, now-morning, d.ExpiresAt-morning)
						}
					}
				}
			}
		}
	})
}

// Ten thousand grants with staggered ends, of keys and of others: none counts
// before its start, nor at or after its end.
func TestDecide_NoGrantCountsOutsideItsTime(t *testing.T) {
	const n = 10_000
	table := &cache.Table{}
	customer := &authz.Customer{ID: "acme"}
	table.AddCustomer(customer)
	customer.ExpectGrants()
	source := grantsOf{}
	p := authz.NewPDP(authz.PDPConfig{Keys: table, Grants: source, MaxStaleness: 30 * time.Second})
	var crowded []feed.GrantBody // a subject that holds as many as it may
	for i := range n {
		from := morning + latchkey.Instant(i*7)
		to := from + latchkey.Instant(1+i%997)
		name := fmt.Sprint("s", i)
		body := grantBody(name, `{"doc":[{"f":"d","p":2}]}`, "r", from, to)
		q := userRequest(name, "read", "doc", "d")
		if i%2 == 0 {
			key := authz.NewKeyState(&authz.Key{ID: authz.KeyID(uuid.New()), ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never, LastUsedAt: morning}, customer, nil)
			table.AddKey(key)
			key.SetGrants(newGrants(t, 1, body))
			q = request(key.ID.String(), "read", "doc", "d")
		} else {
			source["user "+name] = newGrants(t, 1, body)
		}
		if len(crowded) < authz.MaxGrants {
			body.Entries = fmt.Sprintf(`{"doc":[{"f":"d%d","p":2}]}`, i)
			crowded = append(crowded, body)
		}
		holds(t, p, customer, q, from, to)
	}
	source["user crowded"] = newGrants(t, 1, crowded...)
	for i, g := range crowded {
		holds(t, p, customer, userRequest("crowded", "read", "doc", fmt.Sprint("d", i)), g.NotBefore, g.ExpiresAt)
	}
}

// holds asks just outside and at both ends of what permits the question.
func holds(t *testing.T, p *authz.PDP, c *authz.Customer, q *authz.Request, from, to latchkey.Instant) {
	t.Helper()
	var d authz.Decision
	for _, at := range []struct {
		now  latchkey.Instant
		want bool
	}{{0, false}, {from - 1, false}, {from, true}, {to - 1, true}, {to, false}, {to + 1, false}, {latchkey.Never - 1, false}} {
		mustDecide(t, p, &d, c, q, at.now)
		if d.Permit != at.want {
			t.Fatalf("%s: from %d to %d, at %d: %v", q.Subject.ID, from, to, at.now, d.Permit)
		}
		if d.Permit && d.ExpiresAt > to {
			t.Fatalf("%s: ends at %d, and may be reused until %d", q.Subject.ID, to, d.ExpiresAt)
		}
	}
}

// A revoked grant does not count, though the clock that revoked it is ahead of
// this one.
func TestDecide_ARevokedGrantHasEndedWhateverTheClockSays(t *testing.T) {
	body := grantBody("g", `{"doc":[{"f":"*","p":2}]}`, "r", morning, latchkey.Never)
	body.RevokedAt = morning.Add(time.Hour)
	customer := &authz.Customer{ID: "acme"}
	customer.ExpectGrants()
	p := authz.NewPDP(authz.PDPConfig{Keys: &cache.Table{}, Grants: grantsOf{"user alice": newGrants(t, 1, body)}, MaxStaleness: time.Second})
	var d authz.Decision
	if mustDecide(t, p, &d, customer, userRequest("alice", "read", "doc", "d"), morning); d.Permit {
		t.Error("it counts")
	}
}

// A grant that began as it was made counts where it is known, though the clock that
// made it is ahead of this one; one for later waits for this clock. Both end by it.
func TestDecide_WhatHasBegunHasBegunWhateverTheClockSays(t *testing.T) {
	from, to := morning.Add(3*time.Second), morning.Add(time.Minute)
	now, later := grantBody("now", `{"doc":[{"f":"now","p":2}]}`, "r", from, to), grantBody("later", `{"doc":[{"f":"later","p":2}]}`, "r", from, to)
	now.Begun = true
	customer := &authz.Customer{ID: "acme"}
	customer.ExpectGrants()
	p := authz.NewPDP(authz.PDPConfig{Keys: &cache.Table{}, Grants: grantsOf{"user alice": newGrants(t, 1, now, later)}, MaxStaleness: time.Hour})
	for _, tc := range []struct {
		at         latchkey.Instant
		now, later bool
	}{{morning, true, false}, {from - 1, true, false}, {from, true, true}, {to - 1, true, true}, {to, false, false}} {
		var d authz.Decision
		if mustDecide(t, p, &d, customer, userRequest("alice", "read", "doc", "now"), tc.at); d.Permit != tc.now || d.Permit && d.ExpiresAt > to {
			t.Errorf("what has begun, at %d: %v until %d", tc.at-morning, d.Permit, d.ExpiresAt-morning)
		}
		if mustDecide(t, p, &d, customer, userRequest("alice", "read", "doc", "later"), tc.at); d.Permit != tc.later {
			t.Errorf("what is for later, at %d: %v", tc.at-morning, d.Permit)
		}
	}
}

// Where nobody can tell what is granted, everything that it could change is
// denied and may not be reused; nothing else is.
func TestDecide_DeniesWhereGrantsCannotBeHad(t *testing.T) {
	table := &cache.Table{}
	customer := grantCustomer(t, table)
	_, key := fill(t, table, 1, benchScopes)
	source := &noGrants{}
	p := authz.NewPDP(authz.PDPConfig{Keys: table, Grants: source, MaxStaleness: 30 * time.Second, Concurrency: 1})
	var d authz.Decision
	ask := func(policy string) {
		q := userRequest("alice", "read", "doc", "d")
		q.Policy = policy
		mustDecide(t, p, &d, customer, q, morning)
	}
	if ask(""); d.Permit || d.Reasons[0].Code != authz.NoGrant || source.asked != 0 {
		t.Errorf("nobody holds grants, and %d times it was asked who does: %+v", source.asked, d)
	}
	customer.ExpectGrants()
	for _, policy := range []string{"", "count", "reason", "library", "member"} {
		if ask(policy); d.Permit || len(d.Reasons) != 1 || d.Reasons[0].Code != authz.NotReady || d.ExpiresAt != morning {
			t.Errorf("%q: %+v", policy, d)
		}
	}
	before := source.asked
	if ask("blind"); !d.Permit {
		t.Errorf("a policy that reads no grants: %+v", d)
	}
	mustDecide(t, p, &d, key.Customer, request(key.ID.String(), "read", "policies", "x"), morning)
	if !d.Permit || source.asked != before {
		t.Errorf("a key, whose grants are known: %+v", d)
	}
}

func TestDecide_WithGrantsAllocatesNothing(t *testing.T) {
	p, _, _, key := pdp(t, 10)
	body := grantBody("g", `{"doc":[{"f":"d*","p":2},{"f":"*","p":2}]}`, "r", morning, morning.Add(time.Hour))
	key.SetGrants(newGrants(t, 1, body, body))
	users := authz.NewPDP(authz.PDPConfig{Keys: &cache.Table{}, Grants: grantsOf{"user alice": newGrants(t, 1, body)}, MaxStaleness: time.Second})
	key.Customer.ExpectGrants()
	for name, ask := range map[string]func(*authz.Decision){
		"a key": func(d *authz.Decision) {
			mustDecide(t, p, d, key.Customer, request(key.ID.String(), "read", "doc", "d1"), morning)
		},
		"by scopes": func(d *authz.Decision) {
			mustDecide(t, p, d, key.Customer, request(key.ID.String(), "read", "policies", "x"), morning)
		},
		"no grant": func(d *authz.Decision) {
			mustDecide(t, p, d, key.Customer, request(key.ID.String(), "delete", "doc", "d1"), morning)
		},
	} {
		var d authz.Decision
		ask(&d)
		base := testing.AllocsPerRun(100, func() { _ = request(key.ID.String(), "read", "doc", "d1") })
		if got := testing.AllocsPerRun(100, func() { ask(&d) }); got > base {
			t.Errorf("%s: %v allocations", name, got-base)
		}
	}
	var d authz.Decision
	q := userRequest("alice", "read", "doc", "d1")
	mustDecide(t, users, &d, key.Customer, q, morning)
	// One is this test's own source putting a name together.
	if got := testing.AllocsPerRun(100, func() { mustDecide(t, users, &d, key.Customer, q, morning) }); !d.Permit || got > 1 {
		t.Errorf("a user: %v, %v allocations", d.Permit, got)
	}
}

// personHolds is what a record says of a name that is a person's.
func personHolds(tb testing.TB, person string, entitlements []feed.EntitlementBody, list ...feed.GrantBody) *authz.Grants {
	tb.Helper()
	g, err := authz.NewHeld(grantParser, &feed.SubjectBody{Person: person, Grants: list, Entitlements: entitlements}, 1)
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

// Who a user is: the person of the id or username, else the one of the address;
// and the many ways in which a question could come to somebody else's rights.
func TestDecide_AUserIsOnePerson(t *testing.T) {
	const login = `{"host":[{"f":"*","a":["login"]}]}`
	entitled := []feed.EntitlementBody{{ID: "e1", Group: "ops", Entries: `{"host":[{"f":"db-*","a":["restart"]}]}`, Reason: "entitlement restart of group ops"}}
	alice := personHolds(t, "a", entitled, grantBody("of alice", login, "r", morning, morning.Add(time.Hour)))
	bob := personHolds(t, "b", nil, grantBody("of bob", `{"host":[{"f":"*","a":["reboot"]}]}`, "r", morning, latchkey.Never))
	gone := personHolds(t, "g", nil)
	source := grantsOf{
		"user a": alice, "user alice": alice, "user alice@example.com": alice,
		"user b": bob, "user bob": bob, "user bob@example.com": bob,
		"user gone": gone, "user gone@example.com": gone,
		"user eve":              newGrants(t, 1, grantBody("of eve", `{"host":[{"f":"*","a":["eve"]}]}`, "r", morning, latchkey.Never)),
		"user open@example.com": newGrants(t, 1, grantBody("of an open name", login, "r", morning, latchkey.Never)),
	}
	customer := &authz.Customer{ID: "acme"}
	customer.ExpectGrants()
	p := authz.NewPDP(authz.PDPConfig{Keys: &cache.Table{}, Grants: source, MaxStaleness: time.Minute})
	for _, tt := range []struct {
		typ, id, properties, action string
		want                        string // the grant or entitlement that permits
	}{
		{"user", "a", ``, "login", "of alice"},
		{"user", "alice", ``, "login", "of alice"},
		{"user", "alice", ``, "restart", "e1"},
		{"user", "alice@example.com", ``, "login", "of alice"},
		{"user", "x", `{"email":"alice@example.com"}`, "login", "of alice"},
		{"user", "x", `{"email":"ALICE@Example.COM"}`, "restart", "e1"},
		{"user", "alice", `{"email":"bob@example.com"}`, "login", "of alice"},

		{"user", "alice", `{"email":"bob@example.com"}`, "reboot", ""}, // the name is alice's: the address adds nothing
		{"user", "gone", `{"email":"alice@example.com"}`, "login", ""}, // who is not active does not come back as another
		{"user", "x", `{"email":"gone@example.com"}`, "login", ""},
		{"user", "Alice", ``, "login", ""},
		{"user", "ALICE@example.com", ``, "login", ""}, // folded where it is an address, not where it is a name
		{"user", "x", `{"email":""}`, "login", ""},
		{"user", "x", `{"email":"alice"}`, "login", ""}, // a username is no address
		{"user", "x", `{"email":"a"}`, "login", ""},     // nor is an id
		{"user", "x", `{"email":" alice@example.com"}`, "login", ""},
		{"user", "x", `{"email":"Alice <alice@example.com>"}`, "login", ""},
		{"user", "x", `{"email":["alice@example.com"]}`, "login", ""},
		{"user", "x", `{"email":{"value":"alice@example.com"}}`, "login", ""},
		{"user", "x", `{"email":null}`, "login", ""},
		{"user", "x", `{"Email":"alice@example.com"}`, "login", ""},
		{"user", "x", `{"email":"\u017falice@example.com"}`, "login", ""},
		{"user", "x", `{"email":"\u212aalice@example.com"}`, "login", ""},
		{"user", "x", `{"email":"open@example.com"}`, "login", ""}, // what a bare name holds is no person's
		{"user", "eve", `{"email":"open@example.com"}`, "eve", "of eve"},
		{"user", "eve", `{"email":"alice@example.com"}`, "login", "of alice"}, // eve is no person, the address is
		{"user", "eve", `{"email":"alice@example.com"}`, "eve", ""},           // and one of them is asked about
		{"service", "x", `{"email":"alice@example.com"}`, "login", ""},
		{"User", "alice", ``, "login", ""},
		{"person", "alice", `{"email":"alice@example.com"}`, "login", ""},
	} {
		q := userRequest(tt.id, tt.action, "host", "db-1")
		q.Subject.Type = tt.typ
		if tt.properties != "" {
			var doc strictjson.Doc
			if err := doc.Parse(tt.properties); err != nil {
				t.Fatal(err)
			}
			q.Subject.Properties = doc.Root()
		}
		var d authz.Decision
		mustDecide(t, p, &d, customer, q, morning)
		got := ""
		if d.Permit {
			got = d.Reasons[0].Grant
			if (d.Reasons[0].Group == "ops") != (got == "e1") {
				t.Errorf("%+v: of group %q", tt, d.Reasons[0].Group)
			}
		}
		if got != tt.want {
			t.Errorf("%s %s %s, %s: by %q, want %q", tt.typ, tt.id, tt.properties, tt.action, got, tt.want)
		}
	}
}

// A person is found by each name without an allocation, and by an address that
// needs folding with the one for its text.
func TestDecide_OfAPersonAllocatesNothing(t *testing.T) {
	records := cache.NewRecords(cache.RecordsConfig{MaxBytes: 1 << 20, Wait: time.Second, Now: func() latchkey.Instant { return morning },
		Sources: []cache.Source{personSource{}}, Decode: func(r *feed.Record) (any, int, error) { return cache.DecodeSubject(grantParser, r) }})
	records.Start("acme", 1, 1)
	customer := &authz.Customer{ID: "acme"}
	customer.ExpectGrants()
	p := authz.NewPDP(authz.PDPConfig{Keys: &cache.Table{}, Grants: cache.NewSubjects(records, nil, 1), MaxStaleness: time.Second})
	for name, tt := range map[string]struct {
		id, email string
		most      float64
	}{
		"by name":                         {"alice", "", 0},
		"by an address":                   {"x", "alice@example.com", 0},
		"by an address in capitals":       {"x", "ALICE@example.com", 1},
		"a name without a person or text": {"x", "", 0},
	} {
		q := userRequest(tt.id, "read", "doc", "d1")
		var doc strictjson.Doc
		if err := doc.Parse(`{"email":"` + tt.email + `"}`); err != nil {
			t.Fatal(err)
		}
		q.Subject.Properties = doc.Root()
		var d authz.Decision
		mustDecide(t, p, &d, customer, q, morning)
		misses := records.Stats().Misses
		if got := testing.AllocsPerRun(100, func() { mustDecide(t, p, &d, customer, q, morning) }); got > tt.most {
			t.Errorf("%s: %v allocations", name, got)
		}
		if d.Permit == (name == "a name without a person or text") || records.Stats().Misses != misses {
			t.Errorf("%s: %v, and %d look-ups beyond memory", name, d.Permit, records.Stats().Misses-misses)
		}
	}
}

// personSource tells of alice.
type personSource struct{}

func (personSource) Fetch(_ context.Context, customer string, ref feed.Ref) (*feed.Record, error) {
	body := feed.SubjectBody{}
	if ref.ID == "alice" || ref.ID == "alice@example.com" {
		body = feed.SubjectBody{Person: "a", Entitlements: []feed.EntitlementBody{{ID: "e", Group: "g", Entries: `{"doc":[{"f":"*","p":2}]}`}}}
	}
	text, err := json.Marshal(&body)
	return &feed.Record{Customer: customer, Ref: ref, Version: 1, Epoch: 1, Until: latchkey.Never, Body: text}, err
}

// After an answer that rested on very many grants, none of its memory is kept.
func TestDecision_KeepsNothingOfManyGrants(t *testing.T) {
	var many []feed.GrantBody
	for i := range authz.MaxGrants {
		many = append(many, grantBody(fmt.Sprint("g", i), `{"doc":[{"f":"*","p":2}]}`, "r", morning, morning.Add(time.Hour)))
	}
	customer := &authz.Customer{ID: "acme"}
	customer.ExpectGrants()
	p := authz.NewPDP(authz.PDPConfig{Keys: &cache.Table{}, Grants: grantsOf{"user alice": newGrants(t, 1, many...)}, MaxStaleness: time.Second})
	var d authz.Decision
	mustDecide(t, p, &d, customer, userRequest("alice", "read", "doc", "d"), morning)
	if !d.Permit || len(d.Reasons) != authz.MaxGrants {
		t.Fatalf("%v for %d reasons", d.Permit, len(d.Reasons))
	}
	if d.Reset(); cap(d.Reasons) > 100 || d.Permit {
		t.Errorf("memory for %d reasons is kept", cap(d.Reasons))
	}
}

// In whatever order what is known of a key's grants comes in, the newest stays;
// that there are none any more is no less news.
func TestKeyState_TheNewestGrantsStay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		versions := rapid.Permutation([]int64{1, 2, 3, 4, 5}).Draw(t, "order")
		var k authz.KeyState
		var wg sync.WaitGroup
		for _, v := range versions {
			g := &authz.Grants{Version: v}
			if v%2 == 0 {
				g.List = make([]authz.Grant, v)
			}
			wg.Go(func() { k.SetGrants(g) })
		}
		wg.Wait()
		if k.SetGrants(nil); k.Grants().Version != 5 || len(k.Grants().List) != 0 {
			t.Fatalf("%+v", k.Grants())
		}
	})
}

func TestNotToOneself(t *testing.T) {
	_, key := fill(t, &cache.Table{}, 1, benchScopes)
	own := authz.EntityRef{Type: authz.SubjectAccessKey, ID: key.ID.String()}
	other := authz.EntityRef{Type: authz.SubjectAccessKey, ID: uuid.NewString()}
	service := &authz.Caller{Kind: authz.AccessKeyCredential, Key: key}
	for name, tt := range map[string]struct {
		caller   *authz.Caller
		subjects []authz.EntityRef
		want     string
	}{
		"to itself":              {service, []authz.EntityRef{own}, "self_approval_forbidden"},
		"to others and itself":   {service, []authz.EntityRef{other, {Type: "user", ID: "alice"}, own}, "self_approval_forbidden"},
		"to others":              {service, []authz.EntityRef{other, {Type: "user", ID: "alice"}}, ""},
		"to one of another type": {service, []authz.EntityRef{{Type: "service", ID: own.ID}}, ""},
		"root":                   {&authz.Caller{Kind: authz.RootCredential}, []authz.EntityRef{own}, ""},
		"nobody":                 {service, nil, ""},
	} {
		if got := latchkey.CodeOf(authz.NotToOneself(tt.caller, tt.subjects...)); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestLoadGrants_GivesKeysTheirsAndNotesThoseOfOthers(t *testing.T) {
	r := open(t, t.TempDir(), "")
	key, plain := r.create(*r.made, `{"decision":true}`), r.create(*r.made, `{"decision":true}`)
	granter := authz.NewGranter(authz.GranterConfig{Record: r.db, Table: r.table, Parser: r.parser, Subjects: grantCache{}})
	call := r.rootCall(*r.made)
	make := func(typ, id string, to latchkey.Instant) {
		t.Helper()
		_, err := granter.Create(t.Context(), call, authz.NewGrant{Subject: authz.EntityRef{Type: typ, ID: id}, Entries: `{"doc":[{"f":"*","p":2}]}`, Reason: "r", NotBefore: morning, ExpiresAt: to})
		if err != nil {
			t.Fatal(err)
		}
	}
	make(authz.SubjectAccessKey, key.Key.ID.String(), morning+10)
	make(authz.SubjectAccessKey, key.Key.ID.String(), morning+20)
	if g := r.table.Key(key.Key.ID).Grants(); g == nil || len(g.List) != 2 {
		t.Fatalf("what was granted here is not known here: %+v", g)
	}
	load := func(now latchkey.Instant) (*cache.Table, *authz.PDP) {
		t.Helper()
		var table cache.Table
		if err := r.db.Load(t.Context(), &table, r.parser, r.peppers, morning); err != nil {
			t.Fatal(err)
		}
		if err := authz.LoadGrants(t.Context(), r.db, &table, r.parser, now); err != nil {
			t.Fatal(err)
		}
		source := &noGrants{}
		return &table, authz.NewPDP(authz.PDPConfig{Keys: &table, Grants: source, MaxStaleness: time.Second})
	}
	reason := func(p *authz.PDP, table *cache.Table) authz.ReasonCode {
		var d authz.Decision
		mustDecide(t, p, &d, table.Customer(authz.DefaultCustomer), userRequest("alice", "read", "doc", "d"), morning)
		return d.Reasons[0].Code
	}
	table, p := load(morning)
	if g := table.Key(key.Key.ID).Grants(); g == nil || len(g.List) != 2 || g.Version != 4 {
		t.Errorf("%+v", g)
	}
	if table.Key(plain.Key.ID).Grants() != nil {
		t.Error("a key without grants takes memory for them")
	}
	if got := reason(p, table); got != authz.NoGrant {
		t.Errorf("nobody else holds a grant, and they are looked up: %s", got)
	}
	make("user", "bob", morning+20)
	if table, p = load(morning); reason(p, table) != authz.NotReady {
		t.Error("somebody else holds a grant, and none is looked up")
	}
	if table, p = load(morning + 20); table.Key(key.Key.ID).Grants() != nil || reason(p, table) != authz.NoGrant {
		t.Error("what has ended is loaded")
	}
}

// grantCache keeps nothing.
type grantCache struct{ grantsOf }

func (grantCache) Reach(context.Context, string, int64) {}
