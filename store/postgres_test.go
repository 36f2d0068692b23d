package store_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/servers"
	"github.com/latchkey-dev/latchkey/store"
)

// Two changes that wait for each other: PostgreSQL fails one of them, which is
// made again.
func TestChange_IsMadeAgainAfterADeadlock(t *testing.T) {
	at := engines[1].place(t)
	db := at.open(t)
	ctx := context.Background()
	addCustomers(t, db, authz.DefaultCustomer, "other")
	var keys [2]authz.Key
	for i := range keys {
		var err error
		if keys[i], err = insert(ctx, db, "k", nil); err != nil {
			t.Fatal(err)
		}
	}
	var runs atomic.Int64
	var met, done sync.WaitGroup
	met.Add(2)
	for i, chain := range []string{authz.DefaultCustomer, "other"} {
		var once sync.Once
		done.Go(func() {
			err := db.Change(ctx, authz.Change{Chain: chain, At: start}, func(tx authz.Tx) (audit.Draft, error) {
				runs.Add(1)
				if err := tx.RevokeKey(ctx, keys[i].ID, start); err != nil {
					return audit.Draft{}, err
				}
				once.Do(func() { met.Done(); met.Wait() })
				return draft("x"), tx.RevokeKey(ctx, keys[1-i].ID, start)
			})
			if err != nil {
				t.Errorf("%s: %v", chain, err)
			}
		})
	}
	done.Wait()
	if n := runs.Load(); n < 3 {
		t.Errorf("they ran %d times, want 3 or more: there was no deadlock to speak of", n)
	}
	for chain, want := range map[string]int64{authz.DefaultCustomer: 3, "other": 1} {
		if report, err := db.VerifyChain(ctx, chain); err != nil || !report.Holds || report.Events != want {
			t.Errorf("%s: %+v, %v", chain, report, err)
		}
	}
}

func TestPostgres_SaysThatItCannotBeReachedAndComesBackByItself(t *testing.T) {
	server := servers.StartPostgres(t)
	at := place{store.Config{URL: server.Database(t), MAC: mac}}
	db := at.open(t)
	addCustomers(t, db, authz.DefaultCustomer)
	ctx := context.Background()
	for name, end := range map[string]func(testing.TB){"stopped": server.Stop, "killed": server.Kill} {
		end(t)
		_, read := db.Chains(ctx)
		_, write := insert(ctx, db, name, nil)
		for what, err := range map[string]error{"ping": db.Ping(ctx), "read": read, "change": write, "uses": db.WriteUses(ctx, []authz.Use{{At: start}}, nil)} {
			if latchkey.KindOf(err) != latchkey.Unavailable || latchkey.CodeOf(err) != "storage_unavailable" {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		if _, err := store.OpenConfig(ctx, at.Config); latchkey.CodeOf(err) != "storage_unavailable" {
			t.Errorf("%s, open: %v", name, err)
		}
		server.Start(t)
		if err := db.Ping(ctx); err != nil {
			t.Errorf("%s, then there again: %v", name, err)
		}
		if _, err := insert(ctx, db, name, nil); err != nil {
			t.Errorf("%s, then there again: %v", name, err)
		}
	}
}

// The server takes the session away in the middle of a change: nothing of it
// has happened.
func TestChange_ThatLosesItsSessionHasNotHappened(t *testing.T) {
	at := engines[1].place(t)
	db := at.open(t)
	addCustomers(t, db, authz.DefaultCustomer)
	ctx := context.Background()
	runs := 0
	err := db.Change(ctx, authz.Change{Chain: authz.DefaultCustomer, At: start}, func(tx authz.Tx) (audit.Draft, error) {
		runs++
		if err := tx.InsertPolicy(ctx, newPolicy("p")); err != nil {
			return audit.Draft{}, err
		}
		servers.SQL(t, at.URL, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()`)
		return draft("x"), nil
	})
	if latchkey.CodeOf(err) != "storage_unavailable" || runs != 1 {
		t.Errorf("after %d runs: %v", runs, err)
	}
	if list, err := db.PolicyRecords(ctx, authz.DefaultCustomer); err != nil || len(list) != 0 {
		t.Errorf("left behind: %v, %v", list, err)
	}
	if k, err := insert(ctx, db, "after", nil); err != nil || k.Version != 1 {
		t.Errorf("the next change has the number %d, %v", k.Version, err)
	}
}

// A change that another process holds up gives up in time, and so does one that
// forgets to go on: its locks are everybody's.
func TestChange_DoesNotWaitForEver(t *testing.T) {
	at := engines[1].place(t)
	holder := at.open(t)
	addCustomers(t, holder, authz.DefaultCustomer)
	at.URL += "&lock_timeout=200&idle_in_transaction_session_timeout=200"
	db := at.open(t)
	ctx := context.Background()
	err := holder.Change(ctx, authz.Change{Chain: authz.DefaultCustomer, At: start}, func(authz.Tx) (audit.Draft, error) {
		if _, err := insert(ctx, db, "waits", nil); latchkey.CodeOf(err) != "storage_busy" || latchkey.KindOf(err) != latchkey.Unavailable {
			t.Errorf("one that waits: %v", err)
		}
		return draft("x"), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Change(ctx, authz.Change{Chain: authz.DefaultCustomer, At: start}, func(authz.Tx) (audit.Draft, error) {
		if _, err := insert(ctx, holder, "goes on", nil); err != nil { // waits until the session below has ended
			t.Errorf("one behind: %v", err)
		}
		return draft("x"), nil
	})
	if latchkey.CodeOf(err) != "storage_unavailable" {
		t.Errorf("one that holds others up: %v", err)
	}
}

// A password stands in the URL: it must not come up in what is told of it.
func TestPostgresURL_IsNeverRepeated(t *testing.T) {
	const secret = "hunter2"
	for _, url := range []string{
		"postgres://me:" + secret + "@127.0.0.1:1/db", // nobody there
		"postgres://me:" + secret + "@127.0.0.1:port/db",
		"postgres://me:" + secret + "%zz@127.0.0.1/db",
		"postgres://me:" + secret + "@127.0.0.1/db?sslmode=" + secret,
		"postgres://127.0.0.1/db?password=" + secret + "&sslrootcert=/nowhere/" + secret,
		"mysql://me:" + secret + "@127.0.0.1/db",
		"host=127.0.0.1 password=" + secret,
		secret,
	} {
		_, err := store.OpenConfig(context.Background(), store.Config{URL: url, MAC: mac})
		if err == nil {
			t.Errorf("%s was opened", url)
			continue
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			if strings.Contains(e.Error(), secret) {
				t.Errorf("%v", e)
			}
		}
	}
	if err := store.ParsePostgresURL("postgres://me:" + secret + "@db.example.com/latchkey?sslmode=require"); err != nil {
		t.Error(err)
	}
}
