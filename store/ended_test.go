package store_test

import (
	"context"
	"testing"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/people"
	"github.com/latchkey-dev/latchkey/store"
	"github.com/latchkey-dev/latchkey/tasks"
)

// Whatever was on its way for a customer finds nothing to go on with once the
// customer has ended: nobody to write to, nothing to run.
func TestEnded_NobodyIsThereAndNothingRuns(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, at place) {
		ctx := context.Background()
		alice := personNamed("alice", "alice@example.com", 1)
		writePeople(t, db, func(tx people.Writer) error { return tx.InsertPerson(ctx, alice) })
		task := tasks.Task{ID: id("task").String(), Name: "t", Type: tasks.Webhook, URL: "https://example.com/"}
		err := db.Tasks().Change(ctx, authz.Change{Chain: authz.DefaultCustomer, At: start}, func(tx tasks.Tx) (audit.Draft, error) {
			return draft("task"), tx.InsertTask(ctx, task)
		})
		if err != nil {
			t.Fatal(err)
		}
		look := func() (person, run error) {
			_, person = db.Access().Person(ctx, authz.DefaultCustomer, alice.ID)
			_, run = db.Tasks().Task(ctx, authz.DefaultCustomer, task.ID)
			return person, run
		}
		if person, run := look(); person != nil || run != nil {
			t.Fatal(person, run)
		}
		at.exec(t, `UPDATE customers SET deleted_at = 1 WHERE id = 'default'`)
		if person, run := look(); latchkey.KindOf(person) != latchkey.NotFound || latchkey.KindOf(run) != latchkey.NotFound {
			t.Errorf("%v, %v", person, run)
		}
	})
}
