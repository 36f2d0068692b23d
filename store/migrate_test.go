package store_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/servers"
	"github.com/latchkey-dev/latchkey/store"
)

// Texts are in the order of their bytes in every column, or lists and pages
// would differ between the engines; and there are three types only.
func TestMigrations_MakeTheSameTablesOnPostgreSQL(t *testing.T) {
	at := place{store.Config{URL: servers.Postgres(t), MAC: mac}}
	at.open(t)
	got := servers.SQL(t, at.URL, `SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || coalesce(collation_name, '')
		FROM information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE 'goose%' AND NOT (
			data_type = 'text' AND collation_name = 'C' OR data_type IN ('bigint', 'bytea') AND collation_name IS NULL) ORDER BY 1`)
	if got != "" {
		t.Errorf("columns of another type or order:\n%s", got)
	}
	tables := strings.Fields(servers.SQL(t, at.URL, `SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE 'goose%' ORDER BY 1`))
	if want := slices.Sorted(slices.Values(store.Tables)); !slices.Equal(tables, want) {
		t.Errorf("there are the tables\n%v\nand a copy takes\n%v", tables, want)
	}
}

func TestMigrations_RunOnceWhoeverComesAtTheSameTime(t *testing.T) {
	url := servers.Postgres(t)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			db, err := store.OpenConfig(context.Background(), store.Config{URL: url, MAC: mac})
			if err != nil {
				t.Error(err)
				return
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := servers.SQL(t, url, `SELECT count(*), count(DISTINCT version_id) FROM goose_db_version`); got == "" || strings.Split(got, "|")[0] != strings.Split(got, "|")[1] {
		t.Errorf("migrations that ran, and different ones: %s", got)
	}
}

// A newer release has migrated; this one still runs beside it, and starts.
func TestOpen_WorksOnADatabaseOfALaterRelease(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			at := e.place(t)
			at.open(t)
			at.exec(t, `CREATE TABLE of_tomorrow (id BIGINT)`)
			at.exec(t, `ALTER TABLE customers ADD COLUMN of_tomorrow TEXT NOT NULL DEFAULT ''`)
			at.exec(t, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, `+map[string]string{"sqlite": "1", "postgres": "true"}[e.name]+`)`)
			at.NoMigrate = true
			db := at.open(t)
			if _, err := insert(context.Background(), db, "one", nil); latchkey.KindOf(err) != latchkey.NotFound { // there is no customer yet
				t.Error(err)
			}
			if v, err := store.Migrate(context.Background(), at.Config); err != nil || v.Is != 9999 || v.Was != 9999 || v.Known >= v.Is {
				t.Errorf("%+v, %v", v, err)
			}
		})
	}
}

func TestOpen_RefusesADatabaseOfAnEarlierReleaseWhereItMayNotMigrate(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			at := e.place(t)
			at.NoMigrate = true
			if _, err := store.OpenConfig(context.Background(), at.Config); latchkey.CodeOf(err) != "database_behind" {
				t.Fatalf("got %v", err)
			}
			v, err := store.Migrate(context.Background(), at.Config)
			if err != nil || v.Was != 0 || v.Is != v.Known || v.Is < 6 {
				t.Errorf("%+v, %v", v, err)
			}
			at.open(t)
		})
	}
}

func TestInstallation_EpochsOnlyRise(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		if epoch, err := db.Epoch(ctx); err != nil || epoch != 0 {
			t.Errorf("before it was established: %d, %v", epoch, err)
		}
		for _, at := range []latchkey.Instant{start, start + 7} {
			if err := db.Establish(ctx, at, nil); err != nil {
				t.Fatal(err)
			}
		}
		if epoch, err := db.Epoch(ctx); err != nil || epoch != int64(start) {
			t.Errorf("epoch %d, %v; want that of the first start", epoch, err)
		}
		for _, c := range []struct{ at, want latchkey.Instant }{{start + 100, start + 100}, {start - 5, start + 101}, {start + 101, start + 102}} {
			if epoch, err := db.NewEpoch(ctx, c.at); err != nil || epoch != int64(c.want) {
				t.Errorf("at %d: epoch %d, %v; want %d", c.at, epoch, err, c.want)
			}
		}
	})
}

// The attack, or the mishap: a server with keys of its own on a database that
// others share would sign what they refuse, and break their audit chains.
func TestInstallation_RefusesAnotherKeyring(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		for _, c := range []struct {
			prints map[string]string
			code   string
		}{
			{map[string]string{"seal": "a1", "mac": "b1"}, ""},
			{map[string]string{"seal": "a1", "mac": "b1"}, ""},
			{map[string]string{"seal": "a1", "mac": "b2"}, "another_keyring"},
			{map[string]string{"seal": "a1", "mac": "b1", "feed": "c1"}, ""}, // a later release
			{map[string]string{"seal": "a1", "mac": "b1"}, ""},               // the earlier one beside it
			{map[string]string{"seal": "a1", "mac": "b1", "feed": "c2"}, "another_keyring"},
			{nil, ""},
		} {
			if err := db.Establish(ctx, start, c.prints); latchkey.CodeOf(err) != c.code {
				t.Errorf("%v: %v, want %q", c.prints, err, c.code)
			}
		}
		if err := db.ReplaceKeyring(ctx, map[string]string{"seal": "a2"}); err != nil {
			t.Fatal(err)
		}
		if err := db.Establish(ctx, start, map[string]string{"seal": "a1"}); latchkey.CodeOf(err) != "another_keyring" {
			t.Errorf("the one before: %v", err)
		}
	})
}

func TestCopy_TakesEverythingAndVerifiesIt(t *testing.T) {
	ctx := context.Background()
	from := engines[0].place(t)
	db := from.open(t)
	if err := db.Establish(ctx, start, nil); err != nil {
		t.Fatal(err)
	}
	fill(t, db)
	from.exec(t, `INSERT INTO persons VALUES ('p1', 'default', 'alice', 'a@example.com', 'Alice', 'user', 1, 1, 1);
		INSERT INTO person_secrets VALUES ('k1', 's1', 'p1', 'default', 'token', 'laptop', x'01', '', 1, 2);
		INSERT INTO person_identities VALUES ('default', 'https://idp.example.com', 'sub', 'p1', 1);
		INSERT INTO applications VALUES ('a1', 'default', 'app', 1, 1);
		INSERT INTO entitlements VALUES ('e1', 'default', 'a1', 'login', '{}', '{}', 1, 1);
		INSERT INTO groups VALUES ('g1', 'default', 'ops', 1, 1);
		INSERT INTO group_members VALUES ('g1', 'p1', 'default', 1);
		INSERT INTO group_entitlements VALUES ('g1', 'e1', 'default');
		INSERT INTO access_key_persons SELECT id, 'p1', 'default' FROM access_keys LIMIT 1;
		INSERT INTO access_templates VALUES ('t1', 'default', 'a1', 'read', 1, '{}');
		INSERT INTO access_template_refs VALUES ('t1', 'group', 'g1', 'default');
		INSERT INTO access_places VALUES ('t1', 'default', 'g1', 1, 'p1');
		INSERT INTO access_requests VALUES ('r1', 'default', 't1', 'p1', 'a@example.com', 'p1', '', 'pending', 1, 2, 3, 4, 'key', '', 0, '', 1, '{}');
		INSERT INTO access_requesters VALUES ('default', 'a@example.com', 1);
		INSERT INTO access_awaited VALUES ('r1', 'g1', 'default', 1);
		INSERT INTO access_messages VALUES ('m1', 'r1', 'default', 'p1', 'a@example.com', 'Alice', 'hello', 1);
		INSERT INTO approval_promises VALUES ('default', 'ask', 'r1')`)
	if err := db.WriteUses(ctx, []authz.Use{{Key: authz.KeyID{1}, At: start}}, nil); err != nil {
		t.Fatal(err)
	}
	to := place{store.Config{URL: servers.Postgres(t), MAC: mac}}
	done, err := store.Copy(ctx, from.Config, to.Config, map[string]string{"seal": "a1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range done.Rows {
		if table.Rows == 0 {
			t.Errorf("the test has nothing in %s", table.Table)
		}
	}
	if len(done.Rows) != len(store.Tables) || len(done.Chains) != 5 {
		t.Errorf("%d tables and %d chains", len(done.Rows), len(done.Chains))
	}
	copied := to.open(t)
	sameRecord(t, db, copied)
	if epoch, err := copied.Epoch(ctx); err != nil || epoch != int64(start) {
		t.Errorf("epoch %d, %v", epoch, err)
	}
	if err := copied.Establish(ctx, start, map[string]string{"seal": "a2"}); latchkey.CodeOf(err) != "another_keyring" {
		t.Errorf("the keyring was not noted: %v", err)
	}
	if _, err := insert(ctx, copied, "after", nil); err != nil {
		t.Errorf("the copy takes no changes: %v", err)
	}
	if _, err := store.Copy(ctx, from.Config, to.Config, nil); latchkey.CodeOf(err) != "target_not_empty" {
		t.Errorf("a second copy: %v", err)
	}
}

// An audit trail that was tampered with, or another keyring, must not look
// whole in its new place.
func TestCopy_TakesNothingWhereAChainDoesNotHold(t *testing.T) {
	ctx := context.Background()
	from := engines[0].place(t)
	db := from.open(t)
	if err := authz.NewCustomers(db, nil).Establish(ctx, authz.DefaultCustomer, start); err != nil {
		t.Fatal(err)
	}
	from.exec(t, `UPDATE audit_events SET actor_id = 'mallory'`)
	to := place{store.Config{URL: servers.Postgres(t), MAC: mac}}
	if _, err := store.Copy(ctx, from.Config, to.Config, nil); latchkey.CodeOf(err) != "chain_broken" {
		t.Fatalf("got %v", err)
	}
	if got := servers.SQL(t, to.URL, `SELECT count(*) FROM audit_events`); got != "0" {
		t.Errorf("%s events were copied", got)
	}
	if got := servers.SQL(t, to.URL, `SELECT id, seq FROM customers`); got != "_system|0" {
		t.Errorf("the target is no longer as it was: %s", got)
	}
}
