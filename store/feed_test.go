package store_test

import (
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/store"
)

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
		list, asOf, err := db.SubjectGrants(ctx, authz.DefaultCustomer, alice, start)
		if err != nil || asOf != 4 || len(list) != 1 || list[0].ID != "g1" || list[0].Version != 2 {
			t.Errorf("%+v as of %d, %v", list, asOf, err)
		}
	})
}
