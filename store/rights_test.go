package store_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/people"
	"github.com/latchkey-dev/latchkey/store"
)

const (
	aliceID = "0a000000-0000-4000-8000-000000000001"
	bobID   = "0b000000-0000-4000-8000-000000000002"
	carolID = "0c000000-0000-4000-8000-000000000003"
)

// staff is a customer with people: alice is in two groups that both give login,
// bob's username is alice's id, carol is not active, and dave is somebody of
// another customer.
const staff = `
	INSERT INTO persons VALUES
		('` + aliceID + `', 'default', 'alice', 'alice@example.com', 'Alice', 'user', 1, 1, 1),
		('` + bobID + `', 'default', '` + aliceID + `', '', 'Bob', 'user', 1, 1, 1),
		('` + carolID + `', 'default', 'carol', 'carol@example.com', 'Carol', 'user', 0, 1, 1);
	INSERT INTO customers (id, name, max_active_keys, default_policy, created_at, deleted_at, seq, policies_seq) SELECT 'other', name, max_active_keys, default_policy, created_at, deleted_at, 0, 0 FROM customers WHERE id = 'default';
	INSERT INTO persons VALUES ('0d000000-0000-4000-8000-000000000004', 'other', 'dave', 'dave@example.com', 'Dave', 'user', 1, 1, 1);
	INSERT INTO applications VALUES ('a1', 'default', 'app', 1, 1);
	INSERT INTO entitlements VALUES
		('e1', 'default', 'a1', 'login', '{"host":[{"a":["login"],"f":"*"}]}', '{"role":["ops","all"]}', 1, 1),
		('e2', 'default', 'a1', 'read', '{"doc":[{"f":"*","p":2}]}', '{"role":["reader"],"team":["a"]}', 1, 1);
	INSERT INTO groups VALUES ('g1', 'default', 'ops', 1, 1), ('g2', 'default', 'all', 1, 1), ('g3', 'default', 'empty', 1, 1);
	INSERT INTO group_members VALUES ('g1', '` + aliceID + `', 'default', 1), ('g2', '` + aliceID + `', 'default', 1), ('g2', '` + carolID + `', 'default', 1), ('g3', '` + bobID + `', 'default', 1), ('g2', 'bot', 'default', 1);
	INSERT INTO group_entitlements VALUES ('g1', 'e1', 'default'), ('g2', 'e1', 'default'), ('g2', 'e2', 'default')`

// hold makes grants to subjects, as "type id": alice's last five are of requests.
func hold(t *testing.T, db *store.DB) {
	t.Helper()
	err := db.Change(t.Context(), authz.Change{Chain: authz.DefaultCustomer, At: start}, func(tx authz.Tx) (audit.Draft, error) {
		for i, to := range []string{"user " + aliceID, "user " + bobID, "user " + carolID, "user alice", "user carol", "user eve", "service alice", "user dave"} {
			typ, id, _ := strings.Cut(to, " ")
			err := tx.InsertGrant(t.Context(), authz.GrantRecord{ID: "g" + strconv.Itoa(i), Subject: authz.EntityRef{Type: typ, ID: id}, Entries: `{"doc":[{"f":"*","p":2}]}`,
				ExpiresAt: start + 100, RevokedAt: latchkey.Never})
			if err != nil {
				return audit.Draft{}, err
			}
		}
		_, err := tx.UpsertSubjects(t.Context(), []authz.SubjectUpdate{{EntityRef: authz.EntityRef{Type: "user", ID: "alice"}, Properties: new(`{"a":1}`)}})
		return draft("grants"), err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func describe(h authz.Held) string {
	var ids []string
	for _, g := range h.Grants {
		ids = append(ids, g.ID)
	}
	for _, s := range h.Standing {
		ids = append(ids, s.Reason()+" "+s.Group)
	}
	return h.Person + " " + strings.Join(ids, ", ")
}

func TestHeld_IsThePersonsUnderEachOfItsNames(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, at place) {
		at.exec(t, staff)
		hold(t, db)
		alices := aliceID + " g0, entitlement login of group ops g1, entitlement read of group all g2"
		for _, tt := range []struct{ subject, want string }{
			{"user " + aliceID, alices},
			{"user alice", alices},
			{"user alice@example.com", alices},
			{"user " + bobID, bobID + " g1"},
			{"user carol", carolID + " "}, // what was granted to the bare name is nobody's while a person has it
			{"user " + carolID, carolID + " "},
			{"user carol@example.com", carolID + " "},
			{"user Alice", " "},
			{"user ALICE@example.com", " "},
			{"user eve", " g5"},
			{"user dave", " g7"}, // dave is another customer's
			{"user dave@example.com", " "},
			{"service alice", " g6"},
			{"service " + aliceID, " "},
			{"User alice", " "},
			{"user ", " "}, // bob has no address
			{"user bot", " "},
		} {
			typ, id, _ := strings.Cut(tt.subject, " ")
			held, asOf, err := db.Held(t.Context(), authz.DefaultCustomer, authz.EntityRef{Type: typ, ID: id}, start+99)
			if got := describe(held); err != nil || got != tt.want || asOf != 1 {
				t.Errorf("%s: %q as of %d, %v; want %q", tt.subject, got, asOf, err, tt.want)
			}
		}
		held, _, err := db.Held(t.Context(), authz.DefaultCustomer, authz.EntityRef{Type: "user", ID: "alice"}, start+100)
		if got := describe(held); err != nil || got != strings.Replace(alices, "g0, ", "", 1) {
			t.Errorf("at the grant's end: %q, %v", got, err)
		}
		entitled, err := db.Entitled(t.Context())
		if diff := cmp.Diff([]string{"default"}, entitled); diff != "" || err != nil {
			t.Error(diff, err)
		}
		ids, err := db.SubjectIDs(t.Context(), authz.DefaultCustomer, "user", "", start, 100)
		if diff := cmp.Diff([]string{aliceID, bobID, carolID, "alice", "carol", "dave", "eve"}, ids); diff != "" || err != nil {
			t.Error(diff, err)
		}
	})
}

// Whoever rebuilds copies from the bulk reading has what a single look-up finds,
// under every name, each name once.
func TestFullPersons_AreWhatSingleRecordsSay(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, at place) {
		at.exec(t, staff)
		hold(t, db)
		var many []string
		for i := range 600 { // more than two pages
			many = append(many, fmt.Sprintf("('%08x-0000-4000-8000-000000000000', 'default', 'u%d', 'u%d@example.com', '', 'user', 1, 1, 1)", i, i, i))
		}
		at.exec(t, `INSERT INTO persons VALUES `+strings.Join(many, ","))
		m := &authz.RecordMaker{Record: db, Epoch: 1}
		position, err := db.Position(t.Context(), authz.DefaultCustomer)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		check := func(s *authz.FullSubject) {
			t.Helper()
			if seen[s.Subject.ID] {
				t.Errorf("%s is there twice", s.Subject.ID)
			}
			seen[s.Subject.ID] = true
			bulk, err := m.SubjectRecordOf(position, s)
			if err != nil {
				t.Fatal(err)
			}
			one, err := m.Make(t.Context(), authz.DefaultCustomer, bulk.Ref, start)
			if diff := cmp.Diff(one, bulk); diff != "" || err != nil {
				t.Errorf("%s, %v", diff, err)
			}
		}
		pages := 0
		for after := ""; ; pages++ {
			list, last, err := db.FullPersons(t.Context(), authz.DefaultCustomer, after, start)
			if err != nil {
				t.Fatal(err)
			}
			if last == "" {
				break
			}
			after = last
			for i := range list {
				check(&list[i])
			}
		}
		if want := 3*600 + 3 + 1; len(seen) != want || pages < 3 { // bob has his id alone
			t.Errorf("%d names in %d pages, want %d", len(seen), pages, want)
		}
		rest, err := db.FullSubjects(t.Context(), authz.DefaultCustomer, authz.EntityRef{}, start)
		if err != nil {
			t.Fatal(err)
		}
		clear(seen)
		for i := range rest {
			check(&rest[i])
		}
		if len(seen) != 3 || !seen["eve"] || !seen["alice"] || !seen["dave"] { // the service alice
			t.Errorf("%v", seen)
		}
	})
}

// A change to what a person holds is one to the records of all its names.
func TestTouches_EveryNameOfAPerson(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, at place) {
		at.exec(t, staff)
		hold(t, db)
		for i, tt := range []struct {
			to   string
			want []string
		}{
			{aliceID, []string{aliceID, "alice", "alice@example.com"}},
			{bobID, []string{aliceID, bobID}},
			{carolID, []string{carolID, "carol", "carol@example.com"}},
			{"eve", []string{"eve"}},
		} {
			id := "t" + strconv.Itoa(i)
			var made authz.GrantRecord
			for _, revoke := range []bool{false, true} {
				err := db.Change(t.Context(), authz.Change{Chain: authz.DefaultCustomer, At: start}, func(tx authz.Tx) (audit.Draft, error) {
					if made = (authz.GrantRecord{ID: id, Subject: authz.EntityRef{Type: "user", ID: tt.to}, Entries: "{}", ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never}); revoke {
						return draft("revoke"), tx.RevokeGrant(t.Context(), made, start)
					}
					return draft("grant"), tx.InsertGrant(t.Context(), made)
				})
				if err != nil {
					t.Fatal(err)
				}
				position, err := db.Position(t.Context(), authz.DefaultCustomer)
				if err != nil {
					t.Fatal(err)
				}
				changes, err := db.Changes(t.Context(), authz.DefaultCustomer, position.Seq-1, 10)
				if err != nil || len(changes) != 1 {
					t.Fatal(changes, err)
				}
				var names []string
				for i, ref := range changes[0].Refs {
					if ref.Kind != feed.Subject || ref.Type != "user" || changes[0].Details[i] != authz.GrantsTouched {
						t.Errorf("%v %s", ref, changes[0].Details[i])
					}
					names = append(names, ref.ID)
				}
				slices.Sort(names)
				if diff := cmp.Diff(tt.want, names); diff != "" {
					t.Errorf("%s, revoke %v: %s", tt.to, revoke, diff)
				}
			}
		}
	})
}

// What is told to token issuers is what holds at that moment, whatever has been
// swept: nothing before its start, nothing at its end or after, nothing revoked.
func TestMembershipsAndClaims_AreThoseOfTheMoment(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, at place) {
		at.exec(t, staff)
		hold(t, db)
		grant := func(id, person, request, claims string, from, to, revoked latchkey.Instant) {
			at.exec(t, fmt.Sprintf(`INSERT INTO grants (id, customer_id, subject_type, subject_id, entries, reason, not_before, expires_at, revoked_at, created_at, author_type, author_id, version, request_id, claims)
				VALUES ('%s', 'default', 'user', '%s', '{}', '', %d, %d, %d, 1, 'root', 'root', 1, '%s', '%s')`, id, person, from, to, revoked, request, claims))
		}
		grant("r1", aliceID, "q1", `{"role":["dba"]}`, start+10, start+20, latchkey.Never)
		grant("r2", aliceID, "q2", `{"db":["prod"]}`, start+10, start+30, latchkey.Never)
		grant("r3", aliceID, "q3", `{"role":["root"]}`, start+10, start+30, start+11)
		grant("r4", aliceID, "q4", `{"role":["for ever"]}`, start+50, latchkey.Never, latchkey.Never)
		grant("r5", aliceID, "", `{"direct":["x"]}`, start+12, start+15, latchkey.Never)
		grant("r6", carolID, "q6", `{"role":["gone"]}`, start, start+100, latchkey.Never)
		grant("r7", bobID, "q7", `{"role":["bobs"]}`, start, start+100, latchkey.Never)

		rights := people.NewRights(db)
		root := authz.Caller{Kind: authz.RootCredential, Customer: &authz.Customer{ID: authz.DefaultCustomer}}
		standing := `{"role":["all","ops","reader"],"team":["a"]}`
		for _, tt := range []struct {
			person string
			now    latchkey.Instant
			groups string
			claims string
			until  latchkey.Instant
		}{
			{aliceID, start + 9, "all ops", standing, start + 100},
			{aliceID, start + 10, "all ops q1@20 q2@30", `{"db":["prod"],"role":["all","dba","ops","reader"],"team":["a"]}`, start + 20},
			{aliceID, start + 12, "all ops q1@20 q2@30", `{"db":["prod"],"direct":["x"],"role":["all","dba","ops","reader"],"team":["a"]}`, start + 15},
			{aliceID, start + 19, "all ops q1@20 q2@30", `{"db":["prod"],"role":["all","dba","ops","reader"],"team":["a"]}`, start + 20},
			{aliceID, start + 20, "all ops q2@30", `{"db":["prod"],"role":["all","ops","reader"],"team":["a"]}`, start + 30},
			{aliceID, start + 30, "all ops", standing, start + 100},
			{aliceID, start + 100, "all ops q4", `{"role":["all","for ever","ops","reader"],"team":["a"]}`, latchkey.Never},
			{bobID, start, "empty q7@100", `{"role":["bobs"]}`, start + 100},
			{carolID, start, "", `{}`, latchkey.Never}, // not active
		} {
			call := authz.Call{Caller: root, Now: tt.now}
			groups, err := rights.Groups(t.Context(), call, tt.person)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, g := range groups {
				name := g.Name
				if request, ok := strings.CutPrefix(g.Name, "__access_req_"); ok != g.System || ok && g.ID != g.Name {
					t.Errorf("%+v", g)
				} else if name = request; g.ExpiresAt != latchkey.Never {
					name += fmt.Sprint("@", int64(g.ExpiresAt-start))
				}
				names = append(names, name)
			}
			if got := strings.Join(names, " "); got != tt.groups {
				t.Errorf("at %d %s is in %q, want %q", tt.now-start, tt.person, got, tt.groups)
			}
			claims, err := rights.Claims(t.Context(), call, tt.person)
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := json.Marshal(claims.Values); string(got) != tt.claims {
				t.Errorf("at %d %s has %s, want %s", tt.now-start, tt.person, got, tt.claims)
			}
			if tt.until < start+100 && claims.ExpiresAt != tt.until {
				t.Errorf("at %d %s has claims until %d", tt.now-start, tt.person, claims.ExpiresAt-start)
			}
		}

		person := func(id, customer string, typ authz.PersonType) authz.Caller {
			return authz.Caller{Kind: authz.PersonalTokenCredential, Customer: root.Customer, Person: &authz.Person{ID: id, Customer: customer, Type: typ, Active: true}}
		}
		for name, tt := range map[string]struct {
			caller authz.Caller
			id     string
			ok     bool
		}{
			"root":                           {root, aliceID, true},
			"an admin":                       {person(bobID, "default", authz.AdminPerson), aliceID, true},
			"alice herself":                  {person(aliceID, "default", authz.UserPerson), aliceID, true},
			"alice by her name":              {person(aliceID, "default", authz.UserPerson), "alice", false},
			"bob about alice":                {person(bobID, "default", authz.UserPerson), aliceID, false},
			"bob whose name is alice's id":   {authz.Caller{Kind: authz.PersonalTokenCredential, Customer: root.Customer, Person: &authz.Person{ID: bobID, Username: aliceID, Active: true}}, aliceID, false},
			"alice, no longer active":        {authz.Caller{Kind: authz.PersonalTokenCredential, Customer: root.Customer, Person: &authz.Person{ID: aliceID}}, aliceID, false},
			"a key":                          {authz.Caller{Kind: authz.AccessKeyCredential, Customer: root.Customer, Key: &authz.KeyState{}}, aliceID, false},
			"root about nobody":              {root, "0e000000-0000-4000-8000-000000000005", false},
			"root about a username":          {root, "alice", false},
			"root about another customer's":  {root, "0d000000-0000-4000-8000-000000000004", false},
			"an admin of another customer's": {person("0d000000-0000-4000-8000-000000000004", "other", authz.AdminPerson), "0d000000-0000-4000-8000-000000000004", false},
		} {
			call := authz.Call{Caller: tt.caller, Now: start}
			_, err := rights.Groups(t.Context(), call, tt.id)
			_, also := rights.Claims(t.Context(), call, tt.id)
			for _, err := range []error{err, also} {
				if (err == nil) != tt.ok || err != nil && latchkey.KindOf(err) != latchkey.NotFound {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	})
}
