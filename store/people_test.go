package store_test

import (
	"context"
	"fmt"
	"slices"
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

// writePeople makes one change of people, and returns what it touched.
func writePeople(t *testing.T, db *store.DB, do func(tx people.Writer) error) []feed.Ref {
	t.Helper()
	touched, err := tryPeople(db, do)
	if err != nil {
		t.Fatal(err)
	}
	return touched
}

func tryPeople(db *store.DB, do func(tx people.Writer) error) ([]feed.Ref, error) {
	ctx := context.Background()
	var seq int64
	err := db.People().Change(ctx, authz.Change{Chain: authz.DefaultCustomer, At: start}, func(tx people.Writer) (audit.Draft, error) {
		seq = tx.Seq()
		return draft("people"), do(tx)
	})
	if err != nil {
		return nil, err
	}
	list, err := db.Changes(ctx, authz.DefaultCustomer, seq-1, 1)
	if err != nil || len(list) != 1 {
		return nil, fmt.Errorf("the change is not in the feed: %v, %w", list, err)
	}
	if len(list[0].All) > 0 {
		return []feed.Ref{{Kind: list[0].All[0], ID: "all"}}, nil
	}
	return list[0].Refs, nil
}

func personNamed(name, email string, n int) authz.Person {
	return authz.Person{ID: id("person " + name).String(), Customer: authz.DefaultCustomer, Username: name, Email: email, Name: "N " + name, Type: authz.UserPerson,
		Active: true, CreatedAt: start + latchkey.Instant(n/2)}
}

func refsOf(persons ...authz.Person) (refs []feed.Ref) {
	for _, p := range persons {
		for _, name := range []string{p.ID, p.Username, p.Email} {
			if name != "" {
				refs = append(refs, feed.Ref{Kind: feed.Subject, Type: authz.SubjectUser, ID: name})
			}
		}
	}
	return refs
}

// touches holds what a change touched to what it must have.
func touches(t *testing.T, what string, got []feed.Ref, want ...feed.Ref) {
	t.Helper()
	by := func(a, b feed.Ref) int { return strings.Compare(a.String(), b.String()) }
	slices.SortFunc(got, by)
	slices.SortFunc(want, by)
	if diff := cmp.Diff(slices.Compact(want), got); diff != "" {
		t.Errorf("%s touched (-want +got):\n%s", what, diff)
	}
}

func TestPersons_AreFoundByWhatTheyAreCalled(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		var all []authz.Person
		for i, name := range []string{"a", "B", "b", "A", "Z", "10", "9", "a.b", "aB"} {
			p := personNamed(name, "", i)
			if i%3 == 0 {
				p.Email = fmt.Sprintf("%d@example.com", i)
			}
			p.Active = i != 4
			touches(t, "a new person", writePeople(t, db, func(tx people.Writer) error {
				p.Version = tx.Seq()
				return tx.InsertPerson(ctx, p)
			}), refsOf(p)...)
			all = append(all, p)
		}
		byPlace := slices.SortedFunc(slices.Values(all), func(a, b authz.Person) int {
			if a.CreatedAt != b.CreatedAt {
				return int(a.CreatedAt - b.CreatedAt)
			}
			return strings.Compare(a.ID, b.ID)
		})
		record := db.People()
		active, inactive := true, false
		where := func(f func(authz.Person) bool) (list []authz.Person) {
			for _, p := range byPlace {
				if f(p) {
					list = append(list, p)
				}
			}
			return list
		}
		for i, c := range []struct {
			q    people.Query
			want []authz.Person
		}{
			{people.Query{}, byPlace},
			{people.Query{Limit: 4}, byPlace[:4]},
			{people.Query{AfterCreated: byPlace[3].CreatedAt, AfterID: byPlace[3].ID}, byPlace[4:]},
			{people.Query{Username: "a"}, where(func(p authz.Person) bool { return p.Username == "a" })},
			{people.Query{Email: "3@example.com"}, where(func(p authz.Person) bool { return p.Email == "3@example.com" })},
			{people.Query{Active: &active}, where(func(p authz.Person) bool { return p.Active })},
			{people.Query{Active: &inactive}, where(func(p authz.Person) bool { return !p.Active })},
			{people.Query{Type: authz.AdminPerson}, nil},
			{people.Query{ID: all[2].ID}, all[2:3]},
			{people.Query{Customer: "other"}, nil},
		} {
			if c.q.Customer == "" {
				c.q.Customer = authz.DefaultCustomer
			}
			if c.q.Limit == 0 {
				c.q.Limit = 100
			}
			got, err := record.Persons(ctx, c.q)
			if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
				t.Errorf("query %d: %v\n%s", i, err, diff)
			}
		}
		if _, err := record.Person(ctx, "other", all[0].ID); latchkey.CodeOf(err) != "user_not_found" {
			t.Errorf("in another customer: %v", err)
		}

		for code, p := range map[string]authz.Person{"username_taken": personNamed("a", "", 0), "email_taken": personNamed("new", "0@example.com", 0)} {
			p.ID = id("another").String()
			if _, err := tryPeople(db, func(tx people.Writer) error { return tx.InsertPerson(ctx, p) }); latchkey.CodeOf(err) != code {
				t.Errorf("%v, want %s", err, code)
			}
			was, is := all[1], all[1]
			is.Username, is.Email = p.Username, p.Email
			if _, err := tryPeople(db, func(tx people.Writer) error { return tx.UpdatePerson(ctx, was, is) }); latchkey.CodeOf(err) != code {
				t.Errorf("%v, want %s", err, code)
			}
		}
		was, is := all[0], all[0]
		is.Username, is.Email, is.Active = "renamed", "new@example.com", false
		touches(t, "another name", writePeople(t, db, func(tx people.Writer) error {
			is.Version = tx.Seq()
			return tx.UpdatePerson(ctx, was, is)
		}), refsOf(was, is)...)
		if got, err := record.Person(ctx, authz.DefaultCustomer, is.ID); err != nil || got != is {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestPersonSecrets_EndAndAreCounted(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		alice, bob := personNamed("alice", "", 0), personNamed("bob", "", 1)
		secret := func(p authz.Person, name string, claim bool) people.Secret {
			return people.Secret{Kid: kid(name), ID: id("secret " + name).String(), Person: p.ID, Customer: authz.DefaultCustomer, Claim: claim, Name: name,
				Digest: authz.Digest{byte(len(name))}, Pepper: "p", CreatedAt: start + latchkey.Instant(len(name)), EndsAt: start + 100}
		}
		one, two, claim, his := secret(alice, "one", false), secret(alice, "second", false), secret(alice, "claim", true), secret(bob, "his", false)
		writePeople(t, db, func(tx people.Writer) error {
			for _, p := range []authz.Person{alice, bob} {
				if err := tx.InsertPerson(ctx, p); err != nil {
					return err
				}
				if proven, err := tx.Proven(ctx, p.ID); err != nil || proven {
					return fmt.Errorf("proven at first: %v, %w", proven, err)
				}
			}
			for _, s := range []people.Secret{claim, one, two, his} {
				if err := tx.InsertSecret(ctx, s); err != nil {
					return err
				}
			}
			return nil
		})
		record := db.People()
		tokens := func(now latchkey.Instant) (names []string) {
			list, err := record.Tokens(ctx, authz.DefaultCustomer, alice.ID, now)
			if err != nil {
				t.Error(err)
			}
			for _, s := range list {
				names = append(names, s.Name)
			}
			return names
		}
		if got := tokens(start + 99); !slices.Equal(got, []string{"second", "one"}) {
			t.Errorf("tokens %q", got)
		}
		if got := tokens(start + 100); got != nil {
			t.Errorf("tokens %q", got)
		}
		if s, p, found, err := record.FindSecret(ctx, claim.Kid); err != nil || !found || s != claim || p.ID != alice.ID || !p.Active {
			t.Errorf("found %+v of %+v, %v, %v", s, p, found, err)
		}
		if _, _, found, err := record.FindSecret(ctx, kid("unknown")); err != nil || found {
			t.Errorf("found: %v, %v", found, err)
		}
		writePeople(t, db, func(tx people.Writer) error {
			for _, step := range []struct {
				person string
				claims bool
				id     string
				want   int
			}{{alice.ID, false, his.ID, 0}, {alice.ID, false, two.ID, 1}, {alice.ID, false, two.ID, 0}, {alice.ID, true, "", 1}, {alice.ID, true, "", 0}} {
				if n, err := tx.EndSecrets(ctx, step.person, step.claims, step.id, start+5); err != nil || n != step.want {
					t.Errorf("%+v ended %d, %v", step, n, err)
				}
			}
			if n, err := tx.CountTokens(ctx, alice.ID, start+5); err != nil || n != 1 {
				t.Errorf("%d tokens, %v", n, err)
			}
			if proven, err := tx.Proven(ctx, alice.ID); err != nil || !proven {
				t.Errorf("proven: %v, %v", proven, err)
			}
			s, err := tx.Secret(ctx, claim.Kid)
			if err == nil && s.EndsAt != 0 { // for who came in before, and has waited, too
				t.Errorf("the claim code ends at %d", s.EndsAt-start)
			}
			return err
		})
		if got := tokens(start - 5); !slices.Equal(got, []string{"one"}) {
			t.Errorf("tokens to who came in before: %q", got)
		}
		if s, _, _, err := record.FindSecret(ctx, his.Kid); err != nil || s.EndsAt != start+100 {
			t.Errorf("bob's token: %+v, %v", s, err)
		}
	})
}

func TestGroups_TellOfWhomTheyConcern(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		alice, bob, carol := personNamed("alice", "alice@example.com", 0), personNamed("bob", "", 1), personNamed("carol", "", 2)
		app := people.Application{ID: id("app").String(), Customer: authz.DefaultCustomer, Name: "app", CreatedAt: start}
		e := people.Entitlement{ID: id("e").String(), Customer: authz.DefaultCustomer, Application: app.ID, Name: "e", Entries: `{"host":[{"f":"*","p":2}]}`, Claims: `{}`, CreatedAt: start}
		writePeople(t, db, func(tx people.Writer) error {
			for _, p := range []authz.Person{alice, bob, carol} {
				if err := tx.InsertPerson(ctx, p); err != nil {
					return err
				}
			}
			if err := tx.InsertApplication(ctx, app); err != nil {
				return err
			}
			return tx.InsertEntitlement(ctx, e)
		})
		g := people.Group{ID: id("g").String(), Customer: authz.DefaultCustomer, Name: "g", CreatedAt: start, Entitlements: []string{e.ID},
			Members: []people.Member{{Person: bob.ID, AddedAt: start}, {Person: authz.Bot, AddedAt: start + 1}, {Person: alice.ID, AddedAt: start + 2}}}
		touches(t, "a new group", writePeople(t, db, func(tx people.Writer) error {
			g.Version = tx.Seq()
			return tx.InsertGroup(ctx, g)
		}), refsOf(alice, bob)...)
		record := db.People()
		if got, err := record.Group(ctx, authz.DefaultCustomer, g.ID); err != nil || cmp.Diff(g, got) != "" {
			t.Errorf("%v\n%s", err, cmp.Diff(g, got))
		}
		is := g
		is.Name, is.Members = "G", []people.Member{{Person: alice.ID, AddedAt: start + 2}, {Person: carol.ID, AddedAt: start + 3}}
		touches(t, "other members", writePeople(t, db, func(tx people.Writer) error {
			is.Version = tx.Seq()
			return tx.UpdateGroup(ctx, g, is)
		}), refsOf(alice, bob, carol)...)
		for _, c := range []struct {
			q    people.Query
			want int
		}{{people.Query{}, 1}, {people.Query{Name: "G"}, 1}, {people.Query{Name: "g"}, 0}, {people.Query{Member: carol.ID}, 1}, {people.Query{Member: bob.ID}, 0}, {people.Query{Customer: "other"}, 0}} {
			if c.q.Customer == "" {
				c.q.Customer = authz.DefaultCustomer
			}
			c.q.Limit = 10
			list, err := record.Groups(ctx, c.q)
			if err != nil || len(list) != c.want || c.want == 1 && cmp.Diff(is, list[0]) != "" {
				t.Errorf("%+v: %+v, %v", c.q, list, err)
			}
		}
		for person, want := range map[string]int{alice.ID: 1, carol.ID: 1, bob.ID: 0, authz.Bot: 0, "": 1} { // "" is who manages
			q := people.Query{Customer: authz.DefaultCustomer, For: person, Limit: 10}
			if list, err := record.Entitlements(ctx, q); err != nil || len(list) != want {
				t.Errorf("entitlements for %q: %+v, %v", person, list, err)
			}
			if list, err := record.Applications(ctx, q); err != nil || len(list) != want {
				t.Errorf("applications for %q: %+v, %v", person, list, err)
			}
		}
		e.Entries = `{"host":[{"f":"*","p":15}]}`
		touches(t, "an entitlement", writePeople(t, db, func(tx people.Writer) error { return tx.UpdateEntitlement(ctx, e) }), refsOf(alice, carol)...)
		writePeople(t, db, func(tx people.Writer) error {
			for kind, want := range map[string]string{"application": "an entitlement", "entitlement": "a group", "group": ""} {
				if by, err := tx.UsedBy(ctx, kind, map[string]string{"application": app.ID, "entitlement": e.ID, "group": g.ID}[kind]); err != nil || by != want {
					t.Errorf("%s: used by %q, %v", kind, by, err)
				}
			}
			holders, err := tx.Holders(ctx, e.ID)
			if want := []string{alice.ID, carol.ID}; err != nil || !slices.Equal(holders, slices.Sorted(slices.Values(want))) {
				t.Errorf("holders %q, %v", holders, err)
			}
			groups, err := tx.GroupsOf(ctx, carol.ID)
			if err != nil || !slices.Equal(groups, []string{g.ID}) {
				t.Errorf("groups %q, %v", groups, err)
			}
			return nil
		})
		other := g
		other.ID, other.Name, other.Members = id("g2").String(), "G", nil
		if _, err := tryPeople(db, func(tx people.Writer) error { return tx.InsertGroup(ctx, other) }); latchkey.CodeOf(err) != "group_exists" {
			t.Errorf("a name that is taken: %v", err)
		}
		touches(t, "the end of a group", writePeople(t, db, func(tx people.Writer) error { return tx.DeleteGroup(ctx, is) }), refsOf(alice, carol)...)
		if _, err := record.Group(ctx, authz.DefaultCustomer, g.ID); latchkey.CodeOf(err) != "group_not_found" {
			t.Error(err)
		}
	})
}

// Past as many as are told of one by one, all persons are.
func TestGroups_OfManyTellOfAll(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		g := people.Group{ID: id("g").String(), Customer: authz.DefaultCustomer, Name: "g", CreatedAt: start}
		writePeople(t, db, func(tx people.Writer) error {
			for i := range 150 {
				p := personNamed(fmt.Sprint("p", i), "", 0)
				g.Members = append(g.Members, people.Member{Person: p.ID, AddedAt: start + latchkey.Instant(i)})
				if err := tx.InsertPerson(ctx, p); err != nil {
					return err
				}
			}
			return nil
		})
		touches(t, "a large group", writePeople(t, db, func(tx people.Writer) error { return tx.InsertGroup(ctx, g) }), feed.Ref{Kind: feed.Subject, ID: "all"})
	})
}

func TestKeyPersons_AreWhoStandBehindAKey(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		alice, bob := personNamed("alice", "", 0), personNamed("bob", "", 1)
		k := authz.Key{ID: authz.KeyID(id("key")), Handle: "h", Scopes: `{"customer":{"decision":true}}`, Metadata: `{"keyname":"k","username":"u"}`, Person: alice.ID,
			CreatedAt: start, ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never, LastUsedAt: latchkey.Never}
		writePeople(t, db, func(tx people.Writer) error {
			for _, p := range []authz.Person{alice, bob} {
				if err := tx.InsertPerson(ctx, p); err != nil {
					return err
				}
			}
			if err := tx.InsertKey(ctx, k, 1, authz.KeySecret{Kid: kid("k"), Mode: authz.Live, Key: k.ID, EndsAt: latchkey.Never}); err != nil {
				return err
			}
			for range 2 {
				if err := tx.NoteKeyPerson(ctx, k.ID, bob.ID); err != nil {
					return err
				}
			}
			behind, err := tx.KeyPersons(ctx, k.ID)
			if err != nil || len(behind) != 2 {
				return fmt.Errorf("behind the key are %+v, %w", behind, err)
			}
			if nobody, err := tx.KeyPersons(ctx, authz.KeyID{}); err != nil || len(nobody) != 0 {
				return fmt.Errorf("behind no key are %+v, %w", nobody, err)
			}
			keys, err := tx.KeysOf(ctx, alice.ID)
			if err != nil || !slices.Equal(keys, []authz.KeyID{k.ID}) {
				return fmt.Errorf("made with alice were %v, %w", keys, err)
			}
			if err := tx.RevokeKey(ctx, k.ID, start); err != nil {
				return err
			}
			if keys, err = tx.KeysOf(ctx, alice.ID); err != nil || len(keys) != 0 {
				return fmt.Errorf("made with alice and not revoked were %v, %w", keys, err)
			}
			return nil
		})
		if got, err := db.Key(ctx, authz.DefaultCustomer, k.ID); err != nil || got.Person != alice.ID {
			t.Errorf("%+v, %v", got, err)
		}
	})
}
