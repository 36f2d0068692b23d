package store_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/store"
)

// BenchmarkAccess_History lists pages of 50 of 100,000 requests of 2,000 people,
// and reports the slowest in a hundred.
func BenchmarkAccess_History(b *testing.B) {
	ctx := context.Background()
	db, err := store.OpenConfig(ctx, store.Config{Path: filepath.Join(b.TempDir(), "latchkey.db"), MAC: mac})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	if err := authz.NewCustomers(db, nil).Establish(ctx, authz.DefaultCustomer, start); err != nil {
		b.Fatal(err)
	}
	const n, people, templates = 100_000, 2_000, 20
	statuses := []access.Status{access.Expired, access.Expired, access.Expired, access.Denied, access.Revoked, access.Approved, access.Pending}
	snapshot := access.DefaultTemplate()
	snapshot.Name, snapshot.Description = "Read the ledger", strings.Repeat("It says what it is for. ", 20)
	for first := 0; first < n; first += 5000 {
		err := db.Access().Change(ctx, authz.Change{Chain: authz.DefaultCustomer, At: start}, func(tx access.Tx) (audit.Draft, error) {
			for i := first; i < first+5000; i++ {
				at := start + latchkey.Instant(i)*1_000_000
				r := access.Request{
					ID: uuid.NewString(), Template: id(fmt.Sprint("template ", i%templates)).String(), Snapshot: access.Snapshot{Template: snapshot},
					Requester: access.Party{ID: id(fmt.Sprint("person ", i*7%people)).String(), Email: fmt.Sprintf("person%04d@example.com", i*7%people)},
					Status:    statuses[i%len(statuses)], CreatedAt: at, PendingUntil: latchkey.Never, EscalatesAt: latchkey.Never, EscalatedAt: latchkey.Never,
					ExpiresAt: latchkey.Never, RecheckAt: latchkey.Never, Justification: strings.Repeat("the incident ", 15),
				}
				r.Beneficiary, r.Snapshot.Template.ID = r.Requester, fmt.Sprint(i)
				if i%97 == 0 { // run out, and not written down yet
					r.PendingUntil, r.ExpiresAt = at, at
				}
				if err := tx.InsertRequest(ctx, r); err != nil {
					return audit.Draft{}, err
				}
			}
			return draft("fill"), nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	template := id("template 3").String()
	for name, q := range map[string]access.Query{
		"all": {}, "pending": {Status: access.Pending}, "approved": {Status: access.Approved}, "expired": {Status: access.Expired},
		"template": {Template: template}, "template-denied": {Template: template, Status: access.Denied},
		"requester": {Requester: "person0123@"}, "requester-many": {Requester: "person01"}, "requester-all": {Requester: "example"},
		"requester-none": {Requester: "nobody"}, "everything": {Requester: "person001", Template: template, Status: access.Expired},
		"deep": {AfterCreated: start + 50_000*1_000_000, AfterID: "x"},
	} {
		b.Run(name, func(b *testing.B) {
			q.Limit = 50
			var took []time.Duration
			found := 0
			for b.Loop() {
				begin := time.Now()
				list, err := db.Access().Requests(ctx, access.RequestQuery{Query: q, Customer: authz.DefaultCustomer, Now: start + n*1_000_000})
				took = append(took, time.Since(begin))
				if err != nil {
					b.Fatal(err)
				}
				found = len(list)
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
			b.ReportMetric(float64(found), "rows")
		})
	}
}
