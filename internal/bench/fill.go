package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/internal/keyring"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
	"github.com/latchkey-dev/latchkey/store"

	"github.com/latchkey-dev/latchkey/internal/page"
)

// The shape of a filled data directory.
const (
	shape           = 1 // counts the changes of this shape, so that none of an earlier one is used
	keysPerCustomer = 10
	sharedTexts     = 1000 // different scopes that nine keys in ten share
	ownTextEvery    = 10   // every tenth key has scopes of its own
)

// Files beside the database that the measurement needs.
const (
	rootFile    = "bench-root.key"
	recordsFile = "bench-records" // for records.lua
)

// filler makes customers and keys with the services that the server uses, an
// event for each, in a directory that a server then starts on.
type filler struct {
	db      *store.DB
	parser  *scopes.Parser
	keys    *authz.Keys
	tenants *authz.Customers
	root    authz.Caller
	records *bufio.Writer
}

// fill makes a data directory of n keys.
func fill(ctx context.Context, dir string, n int) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ring, err := keyring.LoadOrCreate(filepath.Join(dir, "keyring.json"))
	if err != nil {
		return err
	}
	db, err := store.Open(ctx, filepath.Join(dir, "latchkey.db"), ring.AuditMAC)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	records, err := os.Create(filepath.Join(dir, recordsFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, records.Close()) }()

	table, peppers := &cache.Table{}, &authz.Peppers{}
	f := &filler{db: db, parser: scopes.NewParser(1024), tenants: authz.NewCustomers(db, table), records: bufio.NewWriter(records)}
	f.keys = authz.NewKeys(authz.KeysConfig{Record: db, Table: table, Parser: f.parser, Peppers: peppers, Mode: authz.Live, MaxActive: keysPerCustomer})
	now, token := latchkey.InstantOf(time.Now()), authz.NewRootToken()
	if err := f.tenants.Establish(ctx, authz.DefaultCustomer, now); err != nil {
		return err
	}
	if _, err := authz.NewRootKey(db, peppers).Establish(ctx, &token, now); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, rootFile), []byte(token.Reveal()), 0o600); err != nil {
		return err
	}
	f.root = authz.Caller{Kind: authz.RootCredential, Kid: token.Kid}
	began := time.Now()
	for c := range n / keysPerCustomer {
		if err := f.customer(ctx, c); err != nil {
			return err
		}
		if made := (c + 1) * keysPerCustomer; made%50_000 == 0 {
			progress("%s keys, %.0f s", page.Thousands(float64(made)), time.Since(began).Seconds())
		}
	}
	return f.records.Flush()
}

// customer makes the cth customer with its keys.
func (f *filler) customer(ctx context.Context, c int) error {
	id := fmt.Sprintf("c%06d", c)
	call := authz.Call{Caller: f.root, Now: latchkey.InstantOf(time.Now())}
	call.Customer = &authz.Customer{ID: id}
	if _, err := f.tenants.Create(ctx, call, authz.CustomerRecord{ID: id, Name: "Customer " + id}); err != nil {
		return err
	}
	var doc strictjson.Doc
	for k := range keysPerCustomer {
		n := c*keysPerCustomer + k
		if err := doc.Parse(newKey(scopesAmongMany(n), fmt.Sprintf("user%d", n%97), fmt.Sprintf("key %d", n))); err != nil {
			return err
		}
		in, err := authz.ParseNewKey(f.parser, doc.Root(), call.Now)
		if err != nil {
			return err
		}
		made, err := f.keys.Create(ctx, call, in)
		if err != nil {
			return err
		}
		fmt.Fprintf(f.records, "%s%s%04d", id, made.Key.ID, teamAsked(n))
	}
	return nil
}

// scopesAmongMany are the nth key's: one of a thousand texts, or for every
// tenth key one that no other key has.
func scopesAmongMany(n int) string {
	if n%ownTextEvery == 0 {
		return fmt.Sprintf(`{"customer":{"documents":[{"f":"team-%04d/*","p":6},{"f":"project-%07d/*","p":14}],"policies":[{"f":"*","p":2}]}}`, n%sharedTexts, n)
	}
	return scopesOf(n % sharedTexts)
}

// teamAsked is the team whose report the nth key is asked about: its own,
// which it may update, or for half of the keys the next one's, which it may not.
func teamAsked(n int) int { return n%sharedTexts + n/keysPerCustomer%2 }

// filled returns a data directory of n keys that is kept between runs, filling
// it where it is missing. Other tables or another shape make it anew.
func filled(ctx context.Context, scratch string, n int) (dir string, err error) {
	cacheDir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	name, err := schemaHash()
	if err != nil {
		return "", err
	}
	parent := filepath.Join(cacheDir, "latchkey-bench")
	dir = filepath.Join(parent, fmt.Sprintf("%s-%d", name, n))
	if _, err := os.Stat(dir); err == nil {
		progress("%s keys are there from an earlier run", page.Thousands(float64(n)))
		return dir, nil
	}
	// One such directory takes gigabytes; old ones are of no use.
	if err := errors.Join(os.RemoveAll(parent), os.MkdirAll(parent, 0o700)); err != nil {
		return "", err
	}
	progress("making %s keys, once", page.Thousands(float64(n)))
	work, err := os.MkdirTemp(scratch, "latchkey-bench-fill-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if err := fill(ctx, filepath.Join(work, "data"), n); err != nil {
		return "", err
	}
	next := dir + ".new"
	if err := os.CopyFS(next, os.DirFS(filepath.Join(work, "data"))); err != nil {
		return "", err
	}
	return dir, os.Rename(next, dir)
}

// inMemory is a directory where syncing costs nothing, if there is one.
func inMemory() string {
	const shm = "/dev/shm"
	if info, err := os.Stat(shm); err == nil && info.IsDir() {
		return shm
	}
	return ""
}

// schemaHash names what a filled directory depends on.
func schemaHash() (string, error) {
	files, err := filepath.Glob("store/migrations/*.sql")
	if err != nil {
		return "", err
	}
	if len(files) == 0 {
		return "", errors.New("there are no migrations here: run this from the root of the module")
	}
	h := sha256.New()
	fmt.Fprintln(h, shape)
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		h.Write(text)
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}
