package access_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
)

// TestHistory_IsWhatTheFiltersSelect compares every filter, page by page, with the
// same asked of a list in memory.
func TestHistory_IsWhatTheFiltersSelect(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		one := w.ledger(nil)
		two := w.template(func(t *access.Template) { t.Name, t.PendingTTL = "With a time", 30 })
		all := []access.Request{}
		var created latchkey.Instant
		for i := range 60 {
			tm := one
			if i%3 == 0 {
				tm = two
			}
			if i%4 != 0 { // some have the same time
				created += minute
			}
			r := made(tm, i, []string{"ann@example.com", "Bob@Example.com", "100%_x@example.com"}[i%3], morning+created)
			switch i % 5 {
			case 1:
				r.Status, r.DecidedBy, r.DecidedAt, r.ExpiresAt = access.Approved, id("bob"), r.CreatedAt, r.CreatedAt+50*minute
			case 2:
				r.Status, r.DecidedBy, r.DecidedAt, r.ClosedAt = access.Denied, id("bob"), r.CreatedAt, r.CreatedAt
			case 3:
				r.Status, r.ClosedAt = access.Revoked, r.CreatedAt
			case 4:
				r.Status, r.ClosedAt = access.Expired, r.CreatedAt
			}
			w.insert(&r)
			all = append(all, r)
		}
		slices.SortFunc(all, func(a, b access.Request) int {
			if a.CreatedAt != b.CreatedAt {
				return int(b.CreatedAt - a.CreatedAt)
			}
			return strings.Compare(b.ID, a.ID)
		})
		w.at = morning + 70*minute
		for _, status := range []access.Status{"", access.Pending, access.Approved, access.Denied, access.Revoked, access.Expired, access.Failed} {
			for _, template := range []string{"", one.ID, two.ID, id("none")} {
				for _, requester := range []string{"", "ann", "BOB@", "example", "%", "_x", "nobody", `\`} {
					var want, got []string
					for i := range all {
						r := &all[i]
						if (status == "" || r.StatusAt(w.at) == status) && (template == "" || r.Template == template) &&
							strings.Contains(strings.ToLower(r.Requester.Email), strings.ToLower(requester)) {
							want = append(want, r.ID)
						}
					}
					q := access.Query{Status: status, Template: template, Requester: requester, Limit: 7}
					for range 20 {
						page, err := w.requests.List(t.Context(), w.as("ada"), q)
						if err != nil {
							t.Fatalf("%+v: %v", q, err)
						}
						for i := range page {
							got = append(got, page[i].ID)
						}
						if len(page) < q.Limit {
							break
						}
						q.AfterCreated, q.AfterID = page[len(page)-1].CreatedAt, page[len(page)-1].ID
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Fatalf("status %q, template %q, requester %q: %s", status, template, requester, diff)
					}
				}
			}
		}
		_, err := w.requests.List(t.Context(), w.as("ann"), access.Query{Limit: 1})
		w.refused(err, "not_permitted")
	})
}

// made is a request that was submitted, numbered so that no two are of one kind.
func made(t access.Template, n int, email string, at latchkey.Instant) access.Request {
	r := newRequest(1, t.PendingTTL, access.Temporary, 60, nil, at, latchkey.Never)
	r.ID, r.Template, r.Snapshot.Template = id(fmt.Sprint("request ", n)), t.ID, t
	r.Requester = access.Party{ID: id(fmt.Sprint("requester ", n)), Email: email}
	r.Beneficiary = r.Requester
	return r
}

// insert writes a request as it is.
func (w *world) insert(r *access.Request) {
	w.Helper()
	err := w.db.Access().Change(context.Background(), authz.Change{Chain: w.customer.ID, At: w.at}, func(tx access.Tx) (audit.Draft, error) {
		r.Customer, r.Version = w.customer.ID, tx.Seq()
		return audit.Draft{ID: id(r.ID), At: w.at, Action: "test"}, tx.InsertRequest(context.Background(), *r)
	})
	if err != nil {
		w.Fatal(err)
	}
}
