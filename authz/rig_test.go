package authz_test

import (
	"bytes"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
	"github.com/latchkey-dev/latchkey/store"
)

var (
	morning = latchkey.InstantOf(time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC))
	here    = netip.MustParseAddr("192.0.2.1")
)

// rig is the services over a real database, without HTTP.
type rig struct {
	testing.TB
	dir     string
	db      *store.DB
	table   *cache.Table
	parser  *scopes.Parser
	peppers *authz.Peppers
	root    *authz.RootKey
	uses    *authz.Uses
	auth    *authz.Authenticator
	keys    *authz.Keys
	made    *authz.Token // the root key, where this start made it
}

func open(t testing.TB, dir, peppers string) *rig {
	t.Helper()
	r, err := tryOpen(t, dir, peppers)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tryOpen(t testing.TB, dir, peppers string) (*rig, error) {
	t.Helper()
	r := &rig{TB: t, dir: dir, table: &cache.Table{}, parser: scopes.NewParser(16), peppers: &authz.Peppers{}}
	var err error
	if peppers != "" {
		if r.peppers, err = authz.ParsePeppers(peppers); err != nil {
			t.Fatal(err)
		}
	}
	if r.db, err = store.Open(t.Context(), filepath.Join(dir, "latchkey.db"), bytes.Repeat([]byte{1}, 32)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.db.Close() })
	if _, err := r.db.CustomerRecord(t.Context(), authz.DefaultCustomer); err != nil {
		if err := authz.NewCustomers(r.db, r.table).Establish(t.Context(), authz.DefaultCustomer, morning); err != nil {
			t.Fatal(err)
		}
	}
	r.root = authz.NewRootKey(r.db, r.peppers)
	if r.made, err = r.root.Establish(t.Context(), nil, morning); err != nil {
		return r, err
	}
	if err := r.db.Load(t.Context(), r.table, r.parser, r.peppers, morning); err != nil {
		return r, err
	}
	r.uses = authz.NewUses(r.db)
	r.auth = authz.NewAuthenticator(r.table, r.peppers, r.root, r.uses)
	r.keys = authz.NewKeys(authz.KeysConfig{Record: r.db, Table: r.table, Parser: r.parser, Peppers: r.peppers, Mode: authz.Live, MaxActive: 100})
	return r, nil
}

// rootCall is a call by the root key that the rig's start made.
func (r *rig) rootCall(root authz.Token) authz.Call {
	r.Helper()
	caller, _, err := r.auth.Authenticate([]byte(root.Reveal()), morning, here)
	if err != nil {
		r.Fatal(err)
	}
	caller.Customer = r.table.Customer(authz.DefaultCustomer)
	return authz.Call{Caller: caller, Now: morning}
}

func (r *rig) create(root authz.Token, customerScopes string) authz.Created {
	r.Helper()
	var doc strictjson.Doc
	if err := doc.Parse(`{"scopes":{"customer":` + customerScopes + `},"metadata":{"username":"u","keyname":"k"}}`); err != nil {
		r.Fatal(err)
	}
	in, err := authz.ParseNewKey(r.parser, doc.Root(), morning)
	if err != nil {
		r.Fatal(err)
	}
	created, err := r.keys.Create(r.Context(), r.rootCall(root), in)
	if err != nil {
		r.Fatal(err)
	}
	return created
}

func (r *rig) status(t authz.Token, now latchkey.Instant) authz.Status {
	return r.auth.Resolve([]byte(t.Reveal()), now, here).Status
}

// fill puts n keys with the scopes into a table and returns one of them.
func fill(tb testing.TB, table *cache.Table, n int, customerScopes string) (authz.Token, *authz.KeyState) {
	tb.Helper()
	set, err := scopes.NewParser(16).Load(`{"customer":` + customerScopes + `}`)
	if err != nil {
		tb.Fatal(err)
	}
	customer := &authz.Customer{ID: "default"}
	table.AddCustomer(customer)
	token := authz.NewAccessKeyToken(authz.Live)
	var peppers authz.Peppers
	var state *authz.KeyState
	for i := range n {
		kid := token.Kid
		if i > 0 { // cheaper than real ones: nobody presents them
			copy(kid[:], strings.ReplaceAll(uuid.NewString(), "-", ""))
		}
		key := authz.Key{ID: authz.KeyID(uuid.New()), ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never, LastUsedAt: morning}
		s := authz.NewKeyState(&key, customer, set)
		table.AddSecret(kid, authz.SecretState{Digest: peppers.Digest(0, token), EndsAt: latchkey.Never, Key: s})
		if i == 0 {
			state = s
		}
	}
	return token, state
}
