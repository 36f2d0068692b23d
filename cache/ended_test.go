package cache_test

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/scopes"
	"github.com/latchkey-dev/latchkey/store"
)

// copies is a source that gives away what it was given once, however old, and
// asks the database for the rest: a carrier that keeps copies.
type copies struct {
	maker *authz.RecordMaker
	kept  map[feed.Ref]*feed.Record
}

func (c *copies) Fetch(ctx context.Context, customer string, ref feed.Ref) (*feed.Record, error) {
	if r, ok := c.kept[ref]; ok {
		return r, nil
	}
	r, err := c.maker.Make(ctx, customer, ref, now())
	if err == nil {
		c.kept[ref] = r
	}
	return r, err
}

// A customer has ended. Its keys, as a sidecar has them in memory and as copies
// of them lie about, were all active when they were read.
func TestReplica_TheEndOfACustomerIsTheEndOfTheCopiesOfItsKeys(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "latchkey.db"), bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	table, parser := &cache.Table{}, scopes.NewParser(16)
	customers := authz.NewCustomers(db, table)
	if err := customers.Establish(t.Context(), acme, now()); err != nil {
		t.Fatal(err)
	}
	table.AddCustomer(&authz.Customer{ID: acme})
	root := authz.NewRootToken()
	if _, err := authz.NewRootKey(db, &authz.Peppers{}).Establish(t.Context(), &root, now()); err != nil {
		t.Fatal(err)
	}
	call := authz.Call{Caller: authz.Caller{Kind: authz.RootCredential, Kid: root.Kid, Customer: table.Customer(acme)}, Now: now()}
	const text = `{"customer":{"decision":true}}`
	set, err := parser.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	keys := authz.NewKeys(authz.KeysConfig{Record: db, Table: table, Parser: parser, Peppers: &authz.Peppers{}, Mode: authz.Live, MaxActive: 10})
	key, err := keys.Create(t.Context(), call, authz.NewKey{Set: set, Scopes: text, Metadata: `{"keyname":"k","username":"u"}`, ExpiresAt: latchkey.Never})
	if err != nil {
		t.Fatal(err)
	}

	maker := &authz.RecordMaker{Record: db, Epoch: 1}
	source := &copies{maker: maker, kept: map[feed.Ref]*feed.Record{}}
	replica := cache.NewReplica(cache.ReplicaConfig{Parser: parser, Peppers: &authz.Peppers{}, Records: cache.RecordsConfig{
		MaxBytes: 1 << 20, Sources: []cache.Source{source, &copies{maker: maker, kept: map[feed.Ref]*feed.Record{}}}, Wait: time.Minute, Missing: time.Second, Now: now}})
	replica.Follow(&authz.Customer{ID: acme})
	at, err := db.Position(t.Context(), acme)
	if err != nil {
		t.Fatal(err)
	}
	replica.Records().Start(acme, 1, at.Seq)
	active := func() bool {
		t.Helper()
		state, err := replica.FindKey(key.Key.ID)
		if err != nil {
			t.Fatal(err)
		}
		secret, known, err := replica.FindSecret(key.Token.Kid)
		if err != nil || !known || secret.Key.Status(now()) != state.Status(now()) {
			t.Fatalf("the secret's key: %v, %v", known, err)
		}
		return state.Status(now()) == authz.Active
	}
	if !active() {
		t.Fatal("not active before")
	}
	if err := customers.Delete(t.Context(), call, acme); err != nil {
		t.Fatal(err)
	}
	changes, err := db.Changes(t.Context(), acme, at.Seq, 10)
	if err != nil || len(changes) != 1 {
		t.Fatalf("%v, %v", changes, err)
	}
	m, err := maker.Message(t.Context(), acme, changes[0], now())
	if err != nil || !replica.Records().Apply(m) {
		t.Fatalf("%+v is not applied: %v", m, err)
	}
	if active() {
		t.Error("a key of a customer that has ended is active where the end is known")
	}
}
