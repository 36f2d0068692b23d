package store_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/deliveries"
	"github.com/latchkey-dev/latchkey/store"
	"github.com/latchkey-dev/latchkey/tasks"
)

func task(name string) tasks.Task {
	return tasks.Task{ID: id("task " + name).String(), Customer: authz.DefaultCustomer, Name: name, Type: tasks.Script, Script: "package task // " + name, Secrets: []string{"A", "B"},
		MaxRetries: 3, CreatedAt: start, UpdatedAt: start}
}

func run(task string, seq int64) tasks.Run {
	return tasks.Run{ID: id(task + string(rune('a'+seq))).String(), Customer: authz.DefaultCustomer, Task: id("task " + task).String(), Source: tasks.ByTemplate, Seq: seq, Event: "approved",
		Request: id("request").String(), Mode: access.Retry, Status: tasks.Queued, NextAt: start + latchkey.Instant(seq), CreatedAt: start}
}

func changeTask(t *testing.T, db *store.DB, what string, do func(tx tasks.Tx) error) {
	t.Helper()
	err := db.Tasks().Change(context.Background(), authz.Change{Chain: authz.DefaultCustomer, At: start}, func(tx tasks.Tx) (audit.Draft, error) {
		d := draft(what)
		d.ID = id(what).String()
		return d, do(tx)
	})
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func fillTasks(t *testing.T, db *store.DB) {
	t.Helper()
	ctx := context.Background()
	for _, name := range names {
		changeTask(t, db, "task "+name, func(tx tasks.Tx) error {
			k := task(name)
			k.Version = tx.Seq()
			return tx.InsertTask(ctx, k)
		})
	}
	at, err := db.Position(ctx, authz.DefaultCustomer)
	if err != nil {
		t.Fatal(err)
	}
	var list []tasks.Run
	for seq := range int64(5) {
		list = append(list, run("a", seq+1), run("é", seq+1))
	}
	list = append(list, run("a", 1)) // which is there
	if moved, err := db.Tasks().Advance(ctx, authz.DefaultCustomer, 0, at.Seq, list); err != nil || !moved {
		t.Fatalf("advance: %v, %v", moved, err)
	}
}

func recordTasks(db *store.DB, add func(string, any, error)) {
	ctx := context.Background()
	q := db.Tasks()
	for _, c := range []string{authz.DefaultCustomer, "Other", "nobody"} {
		var last tasks.Task
		for range 3 {
			list, err := q.Tasks(ctx, c, tasks.Page{AfterCreated: last.CreatedAt, AfterID: last.ID, Limit: 10})
			add("tasks of "+c, list, err)
			if len(list) > 0 {
				last = list[len(list)-1]
			}
		}
		for _, name := range []string{"a", "é", "none"} {
			id := id("task " + name).String()
			found, err := q.Task(ctx, c, id)
			add("task "+name, found, err)
			runs, err := q.Runs(ctx, c, id, tasks.Page{Limit: 3})
			add("runs of "+name, runs, err)
			if len(runs) > 0 {
				runs, err = q.Runs(ctx, c, id, tasks.Page{AfterCreated: runs[2].CreatedAt, AfterID: runs[2].ID, Limit: 3})
				add("more runs of "+name, runs, err)
			}
		}
	}
	behind, err := q.Behind(ctx)
	add("behind", len(behind), err)
	due, err := q.DueCustomers(ctx, start+3)
	add("due", due, err)
}

func TestTasks_ClaimsAndCursorsOnEveryEngine(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			ctx := context.Background()
			db := e.place(t).open(t)
			fill(t, db)
			q := db.Tasks()
			if moved, err := q.Advance(ctx, authz.DefaultCustomer, 0, 1, []tasks.Run{run("b", 9)}); moved || err != nil {
				t.Errorf("a cursor that another process has moved: %v, %v", moved, err)
			}
			if runs, err := q.Runs(ctx, authz.DefaultCustomer, id("task b").String(), tasks.Page{Limit: 9}); len(runs) != 0 || err != nil {
				t.Errorf("it wrote runs: %v, %v", runs, err)
			}
			err := q.Change(ctx, authz.Change{Chain: authz.DefaultCustomer, At: start}, func(tx tasks.Tx) (audit.Draft, error) {
				k := task("a")
				k.ID = id("another").String()
				return draft("taken"), tx.InsertTask(ctx, k)
			})
			if latchkey.KindOf(err) != latchkey.Conflict {
				t.Errorf("a name that is taken: %v", err)
			}
			// As many processes as there may be: each run is claimed by one of them.
			var claimed atomic.Int64
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() {
					for {
						list, err := q.Claim(ctx, authz.DefaultCustomer, start+10, start+100, 1)
						if err != nil {
							t.Error(err)
						}
						if len(list) == 0 {
							return
						}
						claimed.Add(1)
						if list[0].Attempts != 1 || list[0].Status != tasks.Running || list[0].StartedAt != start+10 {
							t.Errorf("%+v", list[0])
						}
					}
				})
			}
			all.Wait()
			if claimed.Load() != 10 {
				t.Errorf("%d of 10 runs were claimed", claimed.Load())
			}
			again, err := q.Claim(ctx, authz.DefaultCustomer, start+100, start+200, 1)
			if err != nil || len(again) != 1 || again[0].Attempts != 2 {
				t.Fatal(again, err)
			}
			if ok, err := q.FinishRun(ctx, again[0].After(tasks.Outcome{Result: "ok", Output: "o", Cut: true}, 0, start+101, 0)); !ok || err != nil {
				t.Fatal(ok, err)
			}
			usedBy := func(want string) {
				t.Helper()
				changeTask(t, db, "used by "+want, func(tx tasks.Tx) error {
					got, err := tx.UsedBy(ctx, "task", id("task a").String())
					if got != want {
						t.Errorf("used by %q, want %q", got, want)
					}
					return err
				})
			}
			usedBy("")
			use := deliveries.Webhook{ID: id("hook of task a").String(), TaskID: id("task a").String(), Events: deliveries.Types, CreatedAt: start}
			hook(t, db, authz.DefaultCustomer, "used", func(tx deliveries.Tx) error { return tx.InsertWebhook(ctx, use) })
			usedBy("a subscription")
			hook(t, db, authz.DefaultCustomer, "not used", func(tx deliveries.Tx) error { return tx.DeleteWebhook(ctx, use.ID) })
			changeTask(t, db, "delete", func(tx tasks.Tx) error { return tx.DeleteTask(ctx, id("task a").String()) })
			if runs, err := q.Runs(ctx, authz.DefaultCustomer, id("task a").String(), tasks.Page{Limit: 9}); len(runs) != 0 || err != nil {
				t.Errorf("a deleted task has runs: %v, %v", runs, err)
			}
			if n, err := db.SweepRuns(ctx, start+200, start+200); err != nil || n > 1 {
				t.Errorf("swept %d, %v", n, err)
			}
		})
	}
}
