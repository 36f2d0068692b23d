package store_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/deliveries"
	"github.com/latchkey-dev/latchkey/internal/vault"
	"github.com/latchkey-dev/latchkey/store"
)

func openVault(t *testing.T, keys ...byte) *vault.Vault {
	t.Helper()
	var list [][]byte
	for _, k := range keys {
		list = append(list, bytes.Repeat([]byte{k}, vault.KeyBytes))
	}
	v, err := vault.New(list...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// hook makes a change about webhooks.
func hook(t *testing.T, db *store.DB, customer, what string, do func(tx deliveries.Tx) error) {
	t.Helper()
	err := db.Deliveries().Change(context.Background(), authz.Change{Chain: customer, At: start}, func(tx deliveries.Tx) (audit.Draft, error) {
		d := draft(what)
		d.ID = id(customer + what).String()
		return d, do(tx)
	})
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// happened writes an event about an access request, and returns its number.
func happened(t *testing.T, db *store.DB, customer, event, what string) (seq int64) {
	t.Helper()
	err := db.Change(context.Background(), authz.Change{Chain: customer, At: start}, func(tx authz.Tx) (audit.Draft, error) {
		d := draft(what)
		d.ID, d.Action, d.Resource = id(customer+what).String(), "access_request.approve", audit.Resource{Type: "access_request", ID: id(what).String(), Name: "T"}
		d.Changes = `{"event":"` + event + `","request_id":"` + id(what).String() + `"}`
		seq = tx.Seq()
		return d, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func webhook(name string) deliveries.Webhook {
	return deliveries.Webhook{ID: id("webhook " + name).String(), Customer: authz.DefaultCustomer, URL: "https://example.com/" + name, Events: []string{deliveries.Approved},
		Headers: []string{"Authorization", "X-É"}, Compat: "indent", Description: name, CreatedAt: start}
}

func made(w deliveries.Webhook, seq int64, what string) deliveries.Delivery {
	return deliveries.Delivery{ID: id("delivery " + what).String(), Customer: w.Customer, Channel: deliveries.ByWebhook, Target: w.ID, Seq: seq, Event: deliveries.Approved, EventAt: start,
		RequestID: id(what).String(), Status: deliveries.Pending, NextAt: start, EndsAt: start.Add(deliveries.Patience), CreatedAt: start}
}

func fillDeliveries(t *testing.T, db *store.DB) {
	ctx := context.Background()
	if _, err := db.OpenVault(ctx, openVault(t, 1), start); err != nil {
		t.Fatal(err)
	}
	var hooks []deliveries.Webhook
	for _, name := range names {
		hook(t, db, authz.DefaultCustomer, "webhook "+name, func(tx deliveries.Tx) error {
			w := webhook(name)
			w.Since, w.Version = tx.Seq(), tx.Seq()
			hooks = append(hooks, w)
			for _, n := range names[:3] {
				s := vault.Sealed{Label: vault.Label{Customer: w.Customer, Kind: "webhook", Owner: w.ID, Name: n}, CreatedAt: start, EndsAt: latchkey.Never}
				if s.Box = openVault(t, 1).Seal(s.Label, []byte(name)); tx.PutSecret(ctx, s) != nil {
					return fmt.Errorf("put %s", n)
				}
				// What is in a box differs each time it is sealed; the same in both engines
				// is what is left of it.
				if _, err := tx.DeleteSecret(ctx, "webhook", w.ID, names[1]); err != nil {
					return err
				}
			}
			return tx.InsertWebhook(ctx, w)
		})
	}
	seq := happened(t, db, authz.DefaultCustomer, deliveries.Approved, "told")
	at, err := db.Position(ctx, authz.DefaultCustomer)
	if err != nil {
		t.Fatal(err)
	}
	var list []deliveries.Delivery
	for _, w := range hooks {
		list = append(list, made(w, seq, w.Description))
	}
	if moved, err := db.Deliveries().Advance(ctx, authz.DefaultCustomer, 0, at.Seq, list); err != nil || !moved {
		t.Fatalf("advance: %v, %v", moved, err)
	}
}

func recordDeliveries(db *store.DB, add func(string, any, error)) {
	ctx := context.Background()
	q := db.Deliveries()
	for _, c := range []string{authz.DefaultCustomer, "Other", "nobody"} {
		hooks, err := q.Webhooks(ctx, c)
		add("webhooks of "+c, hooks, err)
		for _, w := range hooks {
			list, err := q.Deliveries(ctx, deliveries.Query{Customer: c, Target: w.ID, Limit: 10})
			add("deliveries of "+w.ID, list, err)
			sealed, err := db.Secrets(ctx, c, "webhook", w.ID)
			var labels []vault.Label
			for _, s := range sealed {
				labels = append(labels, s.Label)
			}
			add("secrets of "+w.ID, labels, err)
		}
	}
	targets, err := q.DueTargets(ctx, start)
	add("targets", targets, err)
	behind, err := q.Behind(ctx)
	slices.SortFunc(behind, func(a, b deliveries.Behind) int { return bytes.Compare([]byte(a.Customer), []byte(b.Customer)) })
	add("behind", behind, err)
	events, err := q.Lifecycle(ctx, authz.DefaultCustomer, 0, 1<<40)
	add("lifecycle", events, err)
}

// A crash between an event and its deliveries loses nothing, and two processes
// make none twice: whoever moves the cursor writes them with it.
func TestAdvance_OneOfManyMakesTheDeliveriesOfAnEvent(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, at place) {
		ctx := context.Background()
		dbs := []*store.DB{db}
		if at.URL != "" {
			dbs = append(dbs, at.open(t))
		}
		w := webhook("a")
		hook(t, db, authz.DefaultCustomer, "webhook", func(tx deliveries.Tx) error { return tx.InsertWebhook(ctx, w) })
		var seqs []int64
		for i := range 5 {
			seqs = append(seqs, happened(t, db, authz.DefaultCustomer, deliveries.Approved, fmt.Sprint("request ", i)))
		}
		var makers sync.WaitGroup
		for i := range 8 {
			maker := deliveries.NewMaker(dbs[i%len(dbs)].Deliveries(), false)
			makers.Go(func() {
				if _, err := maker.RunOnce(ctx, start); err != nil {
					t.Error(err)
				}
			})
		}
		makers.Wait()
		list, err := db.Deliveries().Deliveries(ctx, deliveries.Query{Customer: authz.DefaultCustomer, Target: w.ID, Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		var got []int64
		for _, d := range list {
			got = append(got, d.Seq)
		}
		slices.Reverse(got)
		if !slices.Equal(got, seqs) {
			t.Errorf("deliveries of %v, want %v", got, seqs)
		}
		if behind, err := db.Deliveries().Behind(ctx); err != nil || len(behind) != 0 {
			t.Errorf("behind: %v, %v", behind, err)
		}
		// The same event again, as after a cursor that was put back.
		if _, err := db.Deliveries().Advance(ctx, authz.DefaultCustomer, list[0].Seq, list[0].Seq, []deliveries.Delivery{made(w, seqs[0], "again")}); err != nil {
			t.Fatal(err)
		}
		again, err := db.Deliveries().Deliveries(ctx, deliveries.Query{Customer: authz.DefaultCustomer, Target: w.ID, Limit: 100})
		if err != nil || len(again) != len(seqs) {
			t.Errorf("%d deliveries: %v", len(again), err)
		}
	})
}

func TestClaim_GivesEachDeliveryToOneAndBackAfterTheLease(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, at place) {
		ctx := context.Background()
		dbs := []*store.DB{db}
		if at.URL != "" {
			dbs = append(dbs, at.open(t))
		}
		w := webhook("a")
		var list []deliveries.Delivery
		for i := range 40 {
			d := made(w, int64(i+1), fmt.Sprint(i))
			d.NextAt = start.Add(time.Duration(i-39) * time.Second)
			list = append(list, d)
		}
		if moved, err := db.Deliveries().Advance(ctx, authz.DefaultCustomer, 0, 1, list); err != nil || !moved {
			t.Fatal(moved, err)
		}
		var mu sync.Mutex
		times := map[string]int{}
		var claimers sync.WaitGroup
		for i := range 8 {
			q := dbs[i%len(dbs)].Deliveries()
			claimers.Go(func() {
				for {
					got, err := q.Claim(ctx, w.ID, start, 3)
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					for _, d := range got {
						times[d.ID]++
						if d.Attempts != 1 || d.AttemptedAt != start || d.NextAt != start.Add(deliveries.Lease) {
							t.Errorf("claimed %+v", d)
						}
					}
					mu.Unlock()
					if len(got) == 0 {
						return
					}
				}
			})
		}
		claimers.Wait()
		if len(times) != len(list) {
			t.Errorf("%d were claimed", len(times))
		}
		for id, n := range times {
			if n != 1 {
				t.Errorf("%s was claimed %d times", id, n)
			}
		}
		q := db.Deliveries()
		if due, err := q.DueTargets(ctx, start.Add(deliveries.Lease)-1); err != nil || len(due) != 0 {
			t.Errorf("within the lease: %v, %v", due, err)
		}
		// Their senders are gone.
		later := start.Add(deliveries.Lease)
		if due, err := q.DueTargets(ctx, later); err != nil || !slices.Equal(due, []deliveries.Target{{ID: w.ID, Customer: w.Customer}}) {
			t.Errorf("after it: %v, %v", due, err)
		}
		got, err := q.Claim(ctx, w.ID, later, 1)
		if err != nil || len(got) != 1 || got[0].Attempts != 2 {
			t.Fatalf("%+v, %v", got, err)
		}
		// And the one who was only slow comes too late.
		slow := got[0]
		slow.Attempts, slow.Status = 1, deliveries.Dead
		if done, err := q.Finish(ctx, slow); err != nil || done {
			t.Errorf("an attempt that was replaced counts: %v, %v", done, err)
		}
		done := got[0].After(deliveries.Outcome{Result: deliveries.OK}, later, 0)
		if wrote, err := q.Finish(ctx, done); err != nil || !wrote {
			t.Errorf("%v, %v", wrote, err)
		}
		if wrote, err := q.Finish(ctx, done); err != nil || wrote {
			t.Errorf("it ended twice: %v, %v", wrote, err)
		}
	})
}

// A target that takes nothing has a long backlog; the others are found beside it.
func TestDueTargets_FindsAllWhateverTheBacklogOfOne(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		var list []deliveries.Delivery
		for i := range 300 {
			list = append(list, made(webhook("slow"), int64(i+1), fmt.Sprint("slow ", i)))
		}
		list = append(list, made(webhook("one"), 1, "one"), made(webhook("two"), 1, "two"))
		waits := made(webhook("waits"), 1, "waits")
		waits.NextAt = start + 1
		if _, err := db.Deliveries().Advance(ctx, authz.DefaultCustomer, 0, 1, append(list, waits)); err != nil {
			t.Fatal(err)
		}
		want := []string{webhook("slow").ID, webhook("one").ID, webhook("two").ID}
		slices.Sort(want)
		due, err := db.Deliveries().DueTargets(ctx, start)
		var got []string
		for _, target := range due {
			got = append(got, target.ID)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
		if none, err := db.Deliveries().DueTargets(ctx, start-1); err != nil || len(none) != 0 {
			t.Errorf("before: %v, %v", none, err)
		}
	})
}

func TestDeleteWebhook_TakesItsDeliveriesAlong(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		a, b := webhook("a"), webhook("b")
		hook(t, db, authz.DefaultCustomer, "webhooks", func(tx deliveries.Tx) error {
			if err := tx.InsertWebhook(ctx, a); err != nil {
				return err
			}
			return tx.InsertWebhook(ctx, b)
		})
		if _, err := db.Deliveries().Advance(ctx, authz.DefaultCustomer, 0, 1, []deliveries.Delivery{made(a, 1, "a"), made(b, 1, "b")}); err != nil {
			t.Fatal(err)
		}
		hook(t, db, authz.DefaultCustomer, "delete", func(tx deliveries.Tx) error { return tx.DeleteWebhook(ctx, a.ID) })
		if due, err := db.Deliveries().DueTargets(ctx, start); err != nil || !slices.Equal(due, []deliveries.Target{{ID: b.ID, Customer: b.Customer}}) {
			t.Errorf("%v, %v", due, err)
		}
		if _, err := db.Deliveries().Webhook(ctx, authz.DefaultCustomer, a.ID); latchkey.KindOf(err) != latchkey.NotFound {
			t.Errorf("%v", err)
		}
		if _, err := db.Deliveries().Webhook(ctx, "Other", b.ID); latchkey.KindOf(err) != latchkey.NotFound {
			t.Errorf("of another customer: %v", err)
		}
	})
}

func TestSweepDeliveries_LeavesWhatIsUnderWay(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		var list []deliveries.Delivery
		for i, status := range []deliveries.Status{deliveries.Pending, deliveries.Delivered, deliveries.Dead} {
			d := made(webhook("a"), int64(i+1), string(status))
			d.Status = status
			list = append(list, d)
		}
		if _, err := db.Deliveries().Advance(ctx, authz.DefaultCustomer, 0, 1, list); err != nil {
			t.Fatal(err)
		}
		if n, err := db.SweepDeliveries(ctx, start); err != nil || n != 0 {
			t.Errorf("too early: %d, %v", n, err)
		}
		if n, err := db.SweepDeliveries(ctx, start+1); err != nil || n != 2 {
			t.Errorf("%d, %v", n, err)
		}
		left, err := db.Deliveries().Deliveries(ctx, deliveries.Query{Customer: authz.DefaultCustomer, Target: webhook("a").ID, Limit: 10})
		if err != nil || len(left) != 1 || left[0].Status != deliveries.Pending {
			t.Errorf("%+v, %v", left, err)
		}
	})
}

// Events of before the upgrade are told to nobody.
func TestMigration_CursorsBeginWhereTheEventsAre(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		if behind, err := db.Deliveries().Behind(context.Background()); err != nil || slices.ContainsFunc(behind, func(b deliveries.Behind) bool { return b.Customer == audit.SystemChain }) {
			t.Errorf("the system's chain: %v, %v", behind, err)
		}
	})
}

func TestOpenVault_RefusesAnotherKeyAndSealsAnewUnderTheFirst(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		open := func(keys ...byte) (int, error) { return db.OpenVault(ctx, openVault(t, keys...), start) }
		if n, err := open(1); err != nil || n != 0 {
			t.Fatal(n, err)
		}
		// Before there is one secret of a customer, another server with keys of its own
		// is found out.
		if _, err := open(2); latchkey.CodeOf(err) != "another_vault" {
			t.Errorf("another key: %v", err)
		}
		l := vault.Label{Customer: authz.DefaultCustomer, Kind: "webhook", Owner: uuid.NewString(), Name: "compat"}
		hook(t, db, authz.DefaultCustomer, "put", func(tx deliveries.Tx) error {
			return tx.PutSecret(ctx, vault.Sealed{Label: l, Box: openVault(t, 1).Seal(l, []byte("secret")), CreatedAt: start, EndsAt: latchkey.Never})
		})
		if n, err := open(2, 1); err != nil || n != 2 { // it and the mark
			t.Errorf("sealed anew: %d, %v", n, err)
		}
		if _, err := open(1); latchkey.CodeOf(err) != "another_vault" {
			t.Errorf("the old key alone: %v", err)
		}
		if n, err := open(2); err != nil || n != 0 {
			t.Errorf("the new key alone: %d, %v", n, err)
		}
		sealed, err := db.Secrets(ctx, l.Customer, l.Kind, l.Owner)
		if err != nil || len(sealed) != 1 || sealed[0].Label != l || bytes.Contains(sealed[0].Box, []byte("secret")) {
			t.Fatalf("%+v, %v", sealed, err)
		}
		if plain, err := openVault(t, 2).Open(l, sealed[0].Box); err != nil || string(plain) != "secret" {
			t.Errorf("%q, %v", plain, err)
		}
	})
}

func TestForgetSecrets_DeletesWhatNothingOpensAndNothingElse(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		if _, err := db.OpenVault(ctx, openVault(t, 1), start); err != nil {
			t.Fatal(err)
		}
		label := func(name string) vault.Label {
			return vault.Label{Customer: authz.DefaultCustomer, Kind: "webhook", Owner: "w", Name: name}
		}
		hook(t, db, authz.DefaultCustomer, "put", func(tx deliveries.Tx) error {
			for name, key := range map[string]byte{"of the keyring": 1, "of the file": 2} {
				if err := tx.PutSecret(ctx, vault.Sealed{Label: label(name), Box: openVault(t, key).Seal(label(name), []byte("x")), CreatedAt: start, EndsAt: latchkey.Never}); err != nil {
					return err
				}
			}
			return nil
		})
		// The keyring with key 1 is lost; the file with key 2 is there, and a new keyring.
		for _, want := range []int64{1, 0} { // once
			if n, err := db.ForgetSecrets(ctx, openVault(t, 2, 3)); err != nil || n != want {
				t.Errorf("%d, %v, want %d", n, err, want)
			}
		}
		if left, err := db.Secrets(ctx, authz.DefaultCustomer, "webhook", "w"); err != nil || len(left) != 1 || left[0].Label != label("of the file") {
			t.Errorf("%+v, %v", left, err)
		}
		if _, err := db.OpenVault(ctx, openVault(t, 2, 3), start); err != nil {
			t.Errorf("a server with the keys that are left: %v", err)
		}
	})
}
