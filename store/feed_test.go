package store_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/store"
)

// The end of a customer ends whatever anybody keeps of it.
func TestFeed_TheEndOfACustomerTouchesAllThatThereAreCopiesOf(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		update := func(end latchkey.Instant) {
			t.Helper()
			err := db.Change(t.Context(), authz.Change{Chain: authz.DefaultCustomer, At: start}, func(tx authz.Tx) (audit.Draft, error) {
				c, err := tx.Customer(t.Context())
				if err != nil {
					return audit.Draft{}, err
				}
				c.Name, c.DeletedAt = "another", end
				return draft("change"), tx.UpdateCustomer(t.Context(), c)
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		update(latchkey.Never)
		update(start)
		got, err := db.Changes(t.Context(), authz.DefaultCustomer, 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		customer := []feed.Ref{{Kind: feed.Customer, ID: authz.DefaultCustomer}}
		want := []authz.Touched{
			{Seq: 1, At: start, Refs: customer, Details: []string{""}},
			{Seq: 2, At: start, Refs: customer, Details: []string{""}, All: []feed.Kind{feed.Key, feed.Resource, feed.Subject}},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestFeed_TellsWhatEachChangeTouchedWithoutAGap(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := t.Context()
		touch := func(do func(authz.Tx) error) {
			t.Helper()
			err := db.Change(ctx, authz.Change{Chain: authz.DefaultCustomer, At: start}, func(tx authz.Tx) (audit.Draft, error) {
				return draft("change"), do(tx)
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		alice := authz.EntityRef{Type: "user", ID: "alice"}
		touch(func(authz.Tx) error { return nil })
		touch(func(tx authz.Tx) error {
			return tx.InsertGrant(ctx, authz.GrantRecord{ID: "g1", Subject: alice, Entries: "{}", ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never})
		})
		touch(func(tx authz.Tx) error {
			list, empty := make([]authz.SubjectUpdate, 300), "{}"
			for i := range list {
				list[i] = authz.SubjectUpdate{EntityRef: authz.EntityRef{Type: "user", ID: strconv.Itoa(i)}, Properties: &empty}
			}
			_, err := tx.UpsertSubjects(ctx, list)
			return err
		})
		got, err := db.Changes(ctx, authz.DefaultCustomer, 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		want := []authz.Touched{
			{Seq: 1, At: start},
			{Seq: 2, At: start, Refs: []feed.Ref{{Kind: feed.Subject, Type: "user", ID: "alice"}}, Details: []string{authz.GrantsTouched}},
			{Seq: 3, At: start, All: []feed.Kind{feed.Subject}},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if got, _ := db.Changes(ctx, authz.DefaultCustomer, 1, 1); len(got) != 1 || got[0].Seq != 2 {
			t.Errorf("one after the first: %v", got)
		}
		if _, err := db.SweepFeed(ctx, start+1); err != nil {
			t.Fatal(err)
		}
		touch(func(authz.Tx) error { return nil })
		if got, err := db.Changes(ctx, authz.DefaultCustomer, 0, 10); err != nil || len(got) != 0 {
			t.Errorf("after a gap: %v, %v", got, err)
		}
		held, asOf, err := db.Held(ctx, authz.DefaultCustomer, alice, start)
		list := held.Grants
		if err != nil || asOf != 4 || len(list) != 1 || list[0].ID != "g1" || list[0].Version != 2 {
			t.Errorf("%+v as of %d, %v", list, asOf, err)
		}
	})
}

func TestFullKeysAndSubjects_GoOverAllOnce(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a change has less time by itself
		defer cancel()
		const keys, subjects, each = 1203, 1501, 4 // more than a page of each, and no whole number of pages
		ids := map[authz.KeyID]authz.Kid{}
		err := db.Change(ctx, authz.Change{Chain: authz.DefaultCustomer, At: start}, func(tx authz.Tx) (audit.Draft, error) {
			clear(ids)
			for i := range keys {
				token := authz.NewAccessKeyToken(authz.Live)
				k := authz.Key{ID: authz.KeyID(uuid.New()), Customer: authz.DefaultCustomer, Handle: token.Handle(), Scopes: `{"customer":{}}`, Metadata: `{}`,
					ExpiresAt: latchkey.Never, CreatedAt: start.Add(time.Duration(i/700) * time.Second), RevokedAt: latchkey.Never, LastUsedAt: latchkey.Never}
				ids[k.ID] = token.Kid
				secret := authz.KeySecret{Kid: token.Kid, Mode: authz.Live, Key: k.ID, EndsAt: latchkey.Never}
				if err := tx.InsertKey(ctx, k, 0, secret); err != nil {
					return audit.Draft{}, err
				}
			}
			for i := range subjects {
				for g := range each {
					ends := latchkey.Never
					if g == each-1 {
						ends = start
					}
					err := tx.InsertGrant(ctx, authz.GrantRecord{ID: fmt.Sprintf("g%d-%d", i, g), Subject: authz.EntityRef{Type: "t" + strconv.Itoa(i%3), ID: "s" + strconv.Itoa(i)},
						Entries: "{}", ExpiresAt: ends, RevokedAt: latchkey.Never})
					if err != nil {
						return audit.Draft{}, err
					}
				}
			}
			first := true
			for id := range ids { // one key holds a grant, and is no subject of those
				if first {
					first = false
					err := tx.InsertGrant(ctx, authz.GrantRecord{ID: "of a key", Subject: authz.EntityRef{Type: authz.SubjectAccessKey, ID: id.String()}, Entries: "{}",
						ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never})
					if err != nil {
						return audit.Draft{}, err
					}
				}
			}
			stored := `{"a":1}`
			_, err := tx.UpsertSubjects(ctx, []authz.SubjectUpdate{{EntityRef: authz.EntityRef{Type: "t0", ID: "s0"}, Properties: &stored}})
			return draft("change"), err
		})
		if err != nil {
			t.Fatal(err)
		}
		seen, granted, pages := map[authz.KeyID]bool{}, 0, 0
		for after := (authz.Key{}); ; pages++ {
			page, err := db.FullKeys(ctx, authz.DefaultCustomer, after, start)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			after = page[len(page)-1].Key
			for _, k := range page {
				if seen[k.Key.ID] || len(k.Secrets) != 1 || k.Secrets[0].Kid != ids[k.Key.ID] || k.AsOf != 1 {
					t.Fatalf("key %s again, or not its secrets: %v as of %d", k.Key.ID, k.Secrets, k.AsOf)
				}
				seen[k.Key.ID] = true
				granted += len(k.Grants)
			}
		}
		if len(seen) != keys || granted != 1 || pages < 2 {
			t.Errorf("%d keys with %d grants in %d pages", len(seen), granted, pages)
		}
		found := map[authz.EntityRef]int{}
		pages = 0
		for after := (authz.EntityRef{}); ; pages++ {
			page, err := db.FullSubjects(ctx, authz.DefaultCustomer, after, start)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			after = page[len(page)-1].Subject.EntityRef
			for _, s := range page {
				found[s.Subject.EntityRef] += len(s.Grants)
				if s.Stored != (s.Subject.ID == "s0") || s.Stored && s.Subject.Properties != `{"a":1}` || s.AsOf != 1 {
					t.Errorf("%+v", s)
				}
			}
		}
		if len(found) != subjects || pages < 2 {
			t.Errorf("%d subjects in %d pages", len(found), pages)
		}
		for ref, n := range found {
			if n != each-1 {
				t.Fatalf("%v with %d grants, want %d that have not ended", ref, n, each-1)
			}
		}
	})
}
