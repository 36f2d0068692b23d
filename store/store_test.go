package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/internal/servers"
	"github.com/latchkey-dev/latchkey/scopes"
	"github.com/latchkey-dev/latchkey/store"
)

var mac = audit.MACKey("0123456789abcdef0123456789abcdef")

const start = latchkey.Instant(1_800_000_000_000_000)

// place is where a database of one engine is; the suite below is run on every
// engine.
type place struct{ store.Config }

var engines = []struct {
	name  string
	place func(t *testing.T) place
}{
	{"sqlite", func(t *testing.T) place {
		return place{store.Config{Path: filepath.Join(t.TempDir(), "latchkey.db"), MAC: mac}}
	}},
	{"postgres", func(t *testing.T) place { return place{store.Config{URL: servers.Postgres(t), MAC: mac}} }},
}

// open opens it, until the test ends.
func (p place) open(t *testing.T) *store.DB {
	t.Helper()
	db, err := store.OpenConfig(context.Background(), p.Config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// exec runs a statement behind the store's back.
func (p place) exec(t *testing.T, statement string) {
	t.Helper()
	if p.URL != "" {
		servers.SQL(t, p.URL, statement)
		return
	}
	raw, err := sql.Open("sqlite", p.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := raw.ExecContext(context.Background(), statement); err != nil {
		t.Fatal(err)
	}
}

func eachEngine(t *testing.T, test func(t *testing.T, db *store.DB, at place)) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			at := e.place(t)
			db := at.open(t)
			err := authz.NewCustomers(db, &cache.Table{}).Establish(context.Background(), authz.DefaultCustomer, start)
			if err != nil {
				t.Fatal(err)
			}
			test(t, db, at)
		})
	}
}

// insert makes a key by a change of its own.
func insert(ctx context.Context, db *store.DB, name string, then error) (authz.Key, error) {
	token := authz.NewAccessKeyToken(authz.Live)
	k := authz.Key{
		ID: authz.KeyID(uuid.New()), Customer: authz.DefaultCustomer, Handle: token.Handle(), Scopes: `{"customer":{"decision":true}}`,
		Metadata: `{"keyname":"` + name + `","username":"u"}`, ExpiresAt: latchkey.Never, CreatedAt: start, RevokedAt: latchkey.Never, LastUsedAt: latchkey.Never,
	}
	secret := authz.KeySecret{Kid: token.Kid, Mode: authz.Live, Key: k.ID, Digest: new(authz.Peppers).Digest(0, token), EndsAt: latchkey.Never}
	err := db.Change(ctx, authz.Change{Chain: authz.DefaultCustomer, At: start}, func(tx authz.Tx) (audit.Draft, error) {
		k.Version = tx.Seq()
		if err := tx.InsertKey(ctx, k, 1, secret); err != nil {
			return audit.Draft{}, err
		}
		return draft(name), then
	})
	return k, err
}

func draft(name string) audit.Draft {
	return audit.Draft{ID: uuid.NewString(), At: start, Actor: audit.Actor{Type: "system", ID: "system"}, Action: "access_key.create",
		Resource: audit.Resource{Type: "access_key", Name: name, ID: name}, Outcome: "success"}
}

func TestChange_WritesRowsAndEventOrNothing(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		if _, err := insert(ctx, db, "kept", nil); err != nil {
			t.Fatal(err)
		}
		boom := errors.New("boom")
		lost, err := insert(ctx, db, "lost", boom)
		if !errors.Is(err, boom) {
			t.Fatalf("got %v, want the change's own error", err)
		}
		if _, err := db.Key(ctx, authz.DefaultCustomer, lost.ID); latchkey.KindOf(err) != latchkey.NotFound {
			t.Errorf("a failed change left its key: %v", err)
		}
		after, err := insert(ctx, db, "after", nil)
		if err != nil {
			t.Fatal(err)
		}
		if after.Version != 2 {
			t.Errorf("the failed change took a number: the next is %d, want 2", after.Version)
		}
		report, err := db.VerifyChain(ctx, authz.DefaultCustomer)
		if err != nil || !report.Holds || report.Events != 2 {
			t.Errorf("%+v, %v", report, err)
		}
	})
}

func TestChange_GivesGaplessNumbersUnderConcurrency(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		const changes = 100
		var wg sync.WaitGroup
		seqs := make([]int64, changes)
		for i := range changes {
			wg.Go(func() {
				k, err := insert(ctx, db, fmt.Sprint("k", i), nil)
				if err != nil {
					t.Error(err)
				}
				seqs[i] = k.Version
			})
		}
		wg.Wait()
		seen := map[int64]bool{}
		for _, s := range seqs {
			seen[s] = true
		}
		for s := int64(1); s <= changes; s++ {
			if !seen[s] {
				t.Errorf("number %d was never given", s)
			}
		}
		report, err := db.VerifyChain(ctx, authz.DefaultCustomer)
		if err != nil || !report.Holds || report.Events != changes {
			t.Errorf("%+v, %v", report, err)
		}
	})
}

// The attack: a key that is revoked while its own request waits for the lock
// still makes its change.
func TestChange_ChecksTheCallersCredentialAgainUnderTheLock(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		k, err := insert(ctx, db, "caller", nil)
		if err != nil {
			t.Fatal(err)
		}
		var kid authz.Kid
		copy(kid[:], k.Handle[len(k.Handle)-len(kid):])
		by := authz.Caller{Kind: authz.AccessKeyCredential, Key: authz.NewKeyState(&k, &authz.Customer{ID: authz.DefaultCustomer}, nil), Kid: kid}
		change := func(at latchkey.Instant) error {
			return db.Change(ctx, authz.Change{Chain: authz.DefaultCustomer, By: by, At: at}, func(tx authz.Tx) (audit.Draft, error) {
				return draft("by the key"), tx.RevokeKey(ctx, k.ID, at)
			})
		}
		if err := change(start + 1); err != nil {
			t.Fatal(err)
		}
		if err := change(start + 2); latchkey.KindOf(err) != latchkey.Unauthenticated {
			t.Errorf("a revoked key made a change: %v", err)
		}
		root := authz.Caller{Kind: authz.RootCredential, Kid: kid}
		err = db.Change(ctx, authz.Change{Chain: authz.DefaultCustomer, By: root, At: start}, func(authz.Tx) (audit.Draft, error) { return draft("x"), nil })
		if latchkey.KindOf(err) != latchkey.Unauthenticated {
			t.Errorf("a root key that is not in force made a change: %v", err)
		}
	})
}

func TestChange_RefusesUnknownAndEndedCustomers(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		nothing := func(authz.Tx) (audit.Draft, error) { return draft("x"), nil }
		if err := db.Change(ctx, authz.Change{Chain: "nobody", At: start}, nothing); latchkey.KindOf(err) != latchkey.NotFound {
			t.Errorf("unknown: %v", err)
		}
		err := db.Change(ctx, authz.Change{Chain: authz.DefaultCustomer, At: start}, func(tx authz.Tx) (audit.Draft, error) {
			c, err := tx.Customer(ctx)
			if err != nil {
				return audit.Draft{}, err
			}
			c.DeletedAt = start
			return draft("end"), tx.UpdateCustomer(ctx, c)
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Change(ctx, authz.Change{Chain: authz.DefaultCustomer, At: start}, nothing); latchkey.KindOf(err) != latchkey.NotFound {
			t.Errorf("ended: %v", err)
		}
	})
}

func TestLoad_FillsTheTableWithWhatWasWritten(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, at place) {
		ctx := context.Background()
		k, err := insert(ctx, db, "one", nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Change(ctx, authz.Change{Chain: authz.DefaultCustomer, At: start}, func(tx authz.Tx) (audit.Draft, error) {
			return draft("revoke"), tx.RevokeKey(ctx, k.ID, start+5)
		})
		if err != nil {
			t.Fatal(err)
		}
		table := &cache.Table{}
		if err := at.open(t).Load(ctx, table, scopes.NewParser(1), &authz.Peppers{}, 0); err != nil {
			t.Fatal(err)
		}
		state := table.Key(k.ID)
		if state == nil || state.RevokedAt() != start+5 || state.Status(start+5) != authz.Revoked || !state.Scopes.Has(scopes.Decision) {
			t.Errorf("loaded %+v", state)
		}
		if n := table.Customers(); n != 1 {
			t.Errorf("%d customers, want 1: the system's chain is none", n)
		}
	})
}

// A row whose scopes were edited to something that does not parse must not
// come up as a key without limits, nor be left out in silence.
func TestLoad_StopsAtScopesThatDoNotParse(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, at place) {
		ctx := context.Background()
		if _, err := insert(ctx, db, "one", nil); err != nil {
			t.Fatal(err)
		}
		at.exec(t, `UPDATE access_keys SET scopes = '{"customer":{"everything":true}}'`)
		err := db.Load(ctx, &cache.Table{}, scopes.NewParser(1), &authz.Peppers{}, 0)
		if err == nil || !strings.Contains(err.Error(), "scopes of key") {
			t.Errorf("got %v", err)
		}
	})
}

func TestReply_IsKeptOnceAndUntilItsEnd(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		id := authz.ReplyID{1}
		keep := func(at latchkey.Instant, sealed string) error {
			return db.Change(ctx, authz.Change{Chain: authz.DefaultCustomer, At: at, Reply: func() (authz.Reply, error) {
				return authz.Reply{ID: id, Body: [32]byte{2}, Sealed: []byte(sealed), EndsAt: at + 10}, nil
			}}, func(authz.Tx) (audit.Draft, error) { return draft("x"), nil })
		}
		if err := keep(start, "first"); err != nil {
			t.Fatal(err)
		}
		if err := keep(start+9, "second"); latchkey.KindOf(err) != latchkey.Conflict {
			t.Errorf("a second reply under one id: %v", err)
		}
		if r, ok, err := db.Reply(ctx, id, start+9); err != nil || !ok || string(r.Sealed) != "first" || r.Body != [32]byte{2} {
			t.Errorf("%+v %v %v", r, ok, err)
		}
		if _, ok, err := db.Reply(ctx, id, start+10); err != nil || ok {
			t.Errorf("it outlived its end: %v %v", ok, err)
		}
		if err := keep(start+10, "third"); err != nil {
			t.Errorf("an ended reply stands in the way: %v", err)
		}
		if n, err := db.SweepReplies(ctx, start+20); err != nil || n != 1 {
			t.Errorf("swept %d, %v", n, err)
		}
	})
}

func TestOpenReadOnly_CannotWrite(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, at place) {
		at.ReadOnly = true
		ro, err := store.OpenConfig(context.Background(), at.Config)
		if err != nil {
			t.Fatal(err)
		}
		defer ro.Close()
		if report, err := ro.VerifyChain(context.Background(), audit.SystemChain); err != nil || !report.Holds || report.Events != 1 {
			t.Errorf("%+v %v", report, err)
		}
		if _, err := insert(context.Background(), ro, "x", nil); latchkey.CodeOf(err) != "storage_read_only" {
			t.Errorf("got %v", err)
		}
	})
}

func TestWriteUses_KeepsTheLatest(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		k, err := insert(ctx, db, "one", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []latchkey.Instant{start + 5, start + 3} {
			if err := db.WriteUses(ctx, []authz.Use{{Key: k.ID, At: at}}, nil); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := db.Key(ctx, authz.DefaultCustomer, k.ID); err != nil || got.LastUsedAt != start+5 {
			t.Errorf("last used at %v, %v", got.LastUsedAt, err)
		}
	})
}
