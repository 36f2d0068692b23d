package store_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/store"
)

// What has ended at a time is so everywhere alike; what was revoked has ended
// whatever the time, since the clock that revoked it may be ahead of this one, and what
// began as it was made has begun.
func TestGrants_EndAtTheirEndAndWhenTheyAreRevoked(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := t.Context()
		alice := authz.EntityRef{Type: "user", ID: "alice"}
		change := func(do func(authz.Tx) error) {
			t.Helper()
			err := db.Change(ctx, authz.Change{Chain: authz.DefaultCustomer, At: start}, func(tx authz.Tx) (audit.Draft, error) { return draft("grant"), do(tx) })
			if err != nil {
				t.Fatal(err)
			}
		}
		for i, g := range []authz.GrantRecord{
			{ID: "a now", NotBefore: start, ExpiresAt: start + 10, RevokedAt: latchkey.Never},
			{ID: "b later", NotBefore: start + 5, ExpiresAt: start + 10, RevokedAt: latchkey.Never},
			{ID: "c for ever", NotBefore: start, ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never},
			{ID: "d revoked", NotBefore: start, ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never},
			{ID: "e as it was made", NotBefore: start + 7, ExpiresAt: start + 10, RevokedAt: latchkey.Never}, // by a clock that is ahead
		} {
			g.Subject, g.Entries, g.CreatedAt = alice, "{}", start+latchkey.Instant(i)
			if i == 4 {
				g.CreatedAt = g.NotBefore
			}
			change(func(tx authz.Tx) error { return tx.InsertGrant(ctx, g) })
			if i == 3 {
				change(func(tx authz.Tx) error { return tx.RevokeGrant(ctx, g, start+100) })
			}
		}
		for _, tt := range []struct {
			now                            latchkey.Instant
			live, active, scheduled, ended string
		}{
			{start, "[a now b later c for ever e as it was made]", "[a now c for ever e as it was made]", "[b later]", "[d revoked]"},
			{start + 4, "[a now b later c for ever e as it was made]", "[a now c for ever e as it was made]", "[b later]", "[d revoked]"},
			{start + 5, "[a now b later c for ever e as it was made]", "[a now b later c for ever e as it was made]", "[]", "[d revoked]"},
			{start + 9, "[a now b later c for ever e as it was made]", "[a now b later c for ever e as it was made]", "[]", "[d revoked]"},
			{start + 10, "[c for ever]", "[c for ever]", "[]", "[a now b later d revoked e as it was made]"},
		} {
			names := func(list []authz.GrantRecord, err error) string {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				ids := []string{}
				for _, g := range list {
					ids = append(ids, g.ID)
				}
				slices.Sort(ids)
				return fmt.Sprint(ids)
			}
			held, _, err := db.Held(ctx, authz.DefaultCustomer, alice, tt.now)
			if got := names(held.Grants, err); got != tt.live {
				t.Errorf("at %d: %s", tt.now-start, got)
			}
			var each []authz.GrantRecord
			err = db.EachGrant(ctx, tt.now, func(g authz.GrantRecord) error {
				each = append(each, g)
				return nil
			})
			if got := names(each, err); got != tt.live {
				t.Errorf("each at %d: %s", tt.now-start, got)
			}
			change(func(tx authz.Tx) error {
				list, err := tx.SubjectGrants(ctx, alice, tt.now)
				if got := names(list, err); got != tt.live {
					t.Errorf("in a change at %d: %s", tt.now-start, got)
				}
				if n, err := tx.CountLiveGrants(ctx, alice, tt.now); n != len(list) || err != nil {
					t.Errorf("at %d they are counted as %d, %v", tt.now-start, n, err)
				}
				return nil
			})
			for status, want := range map[authz.GrantStatus]string{authz.GrantActive: tt.active, authz.GrantScheduled: tt.scheduled, authz.GrantEnded: tt.ended, authz.GrantAll: "[a now b later c for ever d revoked e as it was made]"} {
				got := names(db.Grants(ctx, authz.GrantQuery{Customer: authz.DefaultCustomer, Status: status, Now: tt.now, Limit: 10}))
				if got != want {
					t.Errorf("%s at %d: %s", status, tt.now-start, got)
				}
				page, err := db.Grants(ctx, authz.GrantQuery{Customer: authz.DefaultCustomer, Status: authz.GrantAll, Now: tt.now, Limit: 10})
				for _, g := range page {
					if s := g.Status(tt.now); err != nil || status != authz.GrantAll && (s == status) != strings.Contains(want, g.ID) {
						t.Errorf("at %d %s is %s, and not among the %s", tt.now-start, g.ID, s, status)
					}
				}
			}
			ids, err := db.SubjectIDs(ctx, authz.DefaultCustomer, "user", "", tt.now, 10)
			if err != nil || fmt.Sprint(ids) != "[alice]" {
				t.Errorf("subjects at %d: %v, %v", tt.now-start, ids, err)
			}
		}
	})
}
