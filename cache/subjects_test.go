package cache_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/scopes"
	"github.com/latchkey-dev/latchkey/store"
)

var noon = latchkey.InstantOf(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC))

// granting is a database, the grants of subjects in memory in front of it, and
// who makes them.
type granting struct {
	testing.TB
	db       *store.DB
	records  *cache.Records
	subjects *cache.Subjects
	granter  *authz.Granter
	customer *authz.Customer
	now      atomic.Int64
	fail     atomic.Bool // the database does not tell of changes
	fetches  atomic.Int64
	root     authz.Kid
}

// flaky is the database, which may not tell of changes.
type flaky struct {
	authz.Record
	g *granting
}

func (f flaky) Changes(ctx context.Context, chain string, after int64, limit int) ([]authz.Touched, error) {
	if f.g.fail.Load() {
		return nil, errors.New("not now")
	}
	return f.Record.Changes(ctx, chain, after, limit)
}

func (f flaky) Held(ctx context.Context, customer string, subject authz.EntityRef, now latchkey.Instant) (authz.Held, int64, error) {
	f.g.fetches.Add(1)
	return f.Record.Held(ctx, customer, subject, now)
}

const epoch = 7

func newGranting(t testing.TB) *granting {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "latchkey.db"), bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	g := &granting{TB: t, db: db, customer: &authz.Customer{ID: authz.DefaultCustomer}}
	g.now.Store(int64(noon))
	table := &cache.Table{}
	if err := authz.NewCustomers(db, table).Establish(t.Context(), authz.DefaultCustomer, noon); err != nil {
		t.Fatal(err)
	}
	made, err := authz.NewRootKey(db, &authz.Peppers{}).Establish(t.Context(), nil, noon)
	if err != nil {
		t.Fatal(err)
	}
	g.root = made.Kid
	parser, now := scopes.NewParser(4), func() latchkey.Instant { return latchkey.Instant(g.now.Load()) }
	g.records = cache.NewRecords(cache.RecordsConfig{
		MaxBytes: 1 << 20, Sources: []cache.Source{&cache.SubjectSource{Record: flaky{db, g}, Epoch: epoch, Now: now}},
		Decode: func(rec *feed.Record) (any, int, error) { return cache.DecodeSubject(parser, rec) },
		Wait:   5 * time.Second, Missing: time.Second, Now: now,
	})
	g.subjects = cache.NewSubjects(g.records, flaky{db, g}, epoch)
	if err := g.subjects.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.granter = authz.NewGranter(authz.GranterConfig{Record: db, Table: table, Parser: parser, Subjects: g.subjects})
	return g
}

// call is one by root.
func (g *granting) call() authz.Call {
	return authz.Call{Caller: authz.Caller{Kind: authz.RootCredential, Kid: g.root, Customer: g.customer}, Now: latchkey.Instant(g.now.Load())}
}

func (g *granting) give(id string) string {
	g.Helper()
	now := latchkey.Instant(g.now.Load())
	made, err := g.granter.Create(context.Background(), g.call(), authz.NewGrant{Subject: authz.EntityRef{Type: "user", ID: id}, Entries: `{"doc":[{"f":"*","p":2}]}`,
		Reason: "r", NotBefore: now, ExpiresAt: now.Add(time.Hour)})
	if err != nil {
		g.Fatal(err)
	}
	return made.ID
}

func (g *granting) take(id string) {
	g.Helper()
	if _, err := g.granter.Revoke(context.Background(), g.call(), id); err != nil {
		g.Error(err)
	}
}

// other makes a change that no grant is touched by.
func (g *granting) other() {
	g.Helper()
	change := authz.Change{Chain: authz.DefaultCustomer, At: noon}
	err := g.db.Change(context.Background(), change, func(authz.Tx) (audit.Draft, error) {
		return audit.Draft{ID: uuid.NewString(), At: noon, Action: "other", Actor: audit.Actor{Type: "system", ID: "system"}, Outcome: "success"}, nil
	})
	if err != nil {
		g.Error(err)
	}
}

// ids asks again where changes come faster than they can be read, which denies.
func (g *granting) ids(id string) (ids []string) {
	g.Helper()
	found, err := g.subjects.Grants(g.customer, "user", id)
	for again := 0; err != nil && again < 100; again++ {
		found, err = g.subjects.Grants(g.customer, "user", id)
	}
	if err != nil {
		g.Error(err)
	}
	if found != nil {
		for i := range found.List {
			ids = append(ids, found.List[i].ID)
		}
	}
	return ids
}

// From the return of a change on nobody finds what it ended, nor misses what it
// gave: whoever asks meanwhile, whatever else changes, and whether or not the
// database tells of changes.
func TestSubjects_FindWhatIsGrantedOnceTheChangeHasReturned(t *testing.T) {
	g := newGranting(t)
	done := make(chan struct{})
	var asking sync.WaitGroup
	for i := range 4 {
		asking.Go(func() { // fills memory with what may be on its way out
			for {
				select {
				case <-done:
					return
				default:
					g.ids(fmt.Sprint("u", i%3))
				}
			}
		})
	}
	var changing sync.WaitGroup
	for w := range 3 {
		changing.Go(func() {
			user := fmt.Sprint("u", w)
			for i := range 24 {
				given := g.give(user)
				if !slices.Contains(g.ids(user), given) {
					t.Errorf("%s does not hold what was given", user)
				}
				switch i % 4 {
				case 0:
					g.other()
				case 1:
					g.fail.Store(w == 0)
				}
				if g.take(given); slices.Contains(g.ids(user), given) {
					t.Errorf("%s holds what was revoked", user)
				}
			}
		})
	}
	changing.Wait()
	close(done)
	asking.Wait()
}

// A change to one subject's grants costs no other subject its place in memory.
func TestSubjects_AChangeDropsWhatItTouchesAlone(t *testing.T) {
	g := newGranting(t)
	g.give("alice")
	g.ids("alice")
	g.ids("nobody")
	before := g.fetches.Load()
	g.other()
	given := g.give("bob")
	g.take(given)
	if g.ids("alice"); g.fetches.Load() != before {
		t.Error("alice was read again")
	}
	if g.ids("nobody"); g.fetches.Load() != before {
		t.Error("that somebody has none is not kept")
	}
	if len(g.ids("bob")) != 0 || g.fetches.Load() != before+1 {
		t.Error("bob was not read again")
	}
}

// A change of another process, which only its observer tells of; one that is
// told after a gap is taken to have touched everybody.
func TestSubjects_ObserveWhatOthersChange(t *testing.T) {
	g := newGranting(t)
	given := g.give("alice")
	g.ids("alice")
	at := func() int64 {
		_, seq := g.records.At(authz.DefaultCustomer)
		return seq
	}
	change := authz.Change{Chain: authz.DefaultCustomer, At: noon}
	revoke := func(id string) {
		t.Helper()
		err := g.db.Change(t.Context(), change, func(tx authz.Tx) (audit.Draft, error) {
			r, err := tx.Grant(t.Context(), id)
			if err != nil {
				return audit.Draft{}, err
			}
			return audit.Draft{ID: uuid.NewString(), At: noon, Action: "grant.revoke", Actor: audit.Actor{Type: "system", ID: "system"}, Outcome: "success"}, tx.RevokeGrant(t.Context(), r, noon)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	revoke(given)
	list, err := g.db.Changes(t.Context(), authz.DefaultCustomer, at(), 10)
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	if g.subjects.Observe(authz.DefaultCustomer, list[0]); len(g.ids("alice")) != 0 {
		t.Error("what another process revoked is found")
	}
	given = g.give("alice")
	g.ids("alice")
	g.other()
	revoke(given)
	if list, err = g.db.Changes(t.Context(), authz.DefaultCustomer, at()+1, 10); err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	if g.subjects.Observe(authz.DefaultCustomer, list[0]); len(g.ids("alice")) != 0 || at() != list[0].Seq {
		t.Error("after a gap, what another process revoked is found")
	}
	g.subjects.Observe(authz.DefaultCustomer, list[0]) // a repeat
	if at() != list[0].Seq {
		t.Error("a repeat went back")
	}
}

// Of a customer that was made since, nothing is followed yet; the first change
// begins it.
func TestSubjects_BeginWithACustomersFirstGrant(t *testing.T) {
	g := newGranting(t)
	table := &cache.Table{}
	if err := authz.NewCustomers(g.db, table).Establish(t.Context(), "acme", noon); err != nil {
		t.Fatal(err)
	}
	g.customer = &authz.Customer{ID: "acme"}
	if _, err := g.subjects.Grants(g.customer, "user", "alice"); err == nil {
		t.Error("nothing is followed, and it is told that there is no grant")
	}
	given := g.give("alice")
	if got := g.ids("alice"); len(got) != 1 || got[0] != given {
		t.Errorf("%v", got)
	}
	if g.take(given); len(g.ids("alice")) != 0 {
		t.Error("it is still there")
	}
}

func TestDecodeSubject_MakesNothingOfWhatItCannotRead(t *testing.T) {
	p := scopes.NewParser(4)
	grant := `{"id":"g","entries":"{\"doc\":[{\"f\":\"*\",\"p\":2}]}","not_before":"2026-11-22T12:00:00Z","expires_at":null,"revoked_at":null}`
	for body, want := range map[string]int{
		`null`: 0, ``: 0, `{}`: 0, `{"grants":[]}`: 0, `{"properties":"{\"a\":1}"}`: 0, `{"grants":[` + grant + `]}`: 1,
		`{"grants":[` + grant + `,` + grant + `]}`: 2,
		// What gives claims alone decides nothing.
		`{"grants":[{"id":"g","entries":"{}","expires_at":null,"revoked_at":null}]}`: 0,
		// What was revoked has ended, though it is among them.
		`{"grants":[` + grant[:len(grant)-5] + `"2999-01-01T00:00:00Z"}]}`: 0,
		`[]`: -1, `{"grants":7}`: -1, `{"properties":"7"}`: -1,
		`{"grants":[{"id":"g","entries":"{\"sets\":[{\"f\":\"*\",\"p\":2}]}","expires_at":null,"revoked_at":null}]}`: -1,
	} {
		v, size, err := cache.DecodeSubject(p, &feed.Record{Ref: feed.Ref{Kind: feed.Subject, Type: "user", ID: "a"}, Version: 3, Body: json.RawMessage(body)})
		switch s, _ := v.(*cache.Subject); {
		case want < 0:
			if err == nil {
				t.Errorf("%s is read as %+v", body, v)
			}
		case err != nil:
			t.Errorf("%s: %v", body, err)
		case len(s.Grants.List) != want || s.Grants.Version != 3 || size <= 0:
			t.Errorf("%s: %+v, %d bytes", body, s.Grants, size)
		}
	}
}
