package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
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
	"github.com/latchkey-dev/latchkey/internal/servers"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
	"github.com/latchkey-dev/latchkey/store"
)

// server is what one process holds in memory, over a database that others share.
type server struct {
	*testing.T
	db        *store.DB
	record    *faulty
	table     *cache.Table
	entities  *cache.Directory
	parser    *scopes.Parser
	root      *authz.RootKey
	rootKey   authz.Token
	auth      *authz.Authenticator
	pdp       *authz.PDP
	keys      *authz.Keys
	granter   *authz.Granter
	policies  *authz.Policies
	sets      *authz.Sets
	customers *authz.Customers
	directory *authz.Directory
	follower  *authz.Follower
	lease     *feed.Lease
	ahead     atomic.Int64 // of its clock, in µs

	mu       sync.Mutex
	failures []string
	observed map[string][]authz.Touched
}

// faulty loses the outcome of changes, as a connection that breaks at the commit
// does.
type faulty struct {
	*store.DB
	lose atomic.Bool
}

var errLost = latchkey.Errorf(latchkey.Unavailable, "storage_unavailable", "the connection is lost")

func (f *faulty) Change(ctx context.Context, c authz.Change, do func(authz.Tx) (audit.Draft, error)) error {
	err := f.DB.Change(ctx, c, do)
	if err == nil && f.lose.Load() {
		return errLost
	}
	return err
}

const staleness = 30 * time.Second

func newServer(t *testing.T, at place, peppers string) *server {
	t.Helper()
	s := &server{T: t, db: at.open(t), table: &cache.Table{}, entities: cache.NewDirectory(), parser: scopes.NewParser(64), observed: map[string][]authz.Touched{}}
	s.record = &faulty{DB: s.db}
	peps := &authz.Peppers{}
	var err error
	if peppers != "" {
		if peps, err = authz.ParsePeppers(peppers); err != nil {
			t.Fatal(err)
		}
	}
	s.root = authz.NewRootKey(s.record, peps)
	if made, err := s.root.Establish(t.Context(), nil, s.now()); err != nil {
		t.Fatal(err)
	} else if made != nil {
		s.rootKey = *made
	}
	records := cache.NewRecords(cache.RecordsConfig{MaxBytes: 1 << 20, Wait: time.Second, Missing: time.Second, Now: s.now,
		Decode:  func(r *feed.Record) (any, int, error) { return cache.DecodeSubject(s.parser, r) },
		Sources: []cache.Source{&cache.SubjectSource{Record: s.record, Now: s.now}}})
	subjects := cache.NewSubjects(records, s.record, 0)
	s.auth = authz.NewAuthenticator(s.table, peps, s.root, nil)
	s.lease = feed.NewLease(staleness, 5*time.Second)
	s.pdp = authz.NewPDP(authz.PDPConfig{Keys: s.table, Auth: s.auth, Properties: s.entities, Grants: subjects, MaxStaleness: staleness, Lease: s.lease, Concurrency: 8})
	s.keys = authz.NewKeys(authz.KeysConfig{Record: s.record, Table: s.table, Parser: s.parser, Peppers: peps, Mode: authz.Live, MaxActive: 10_000})
	s.granter = authz.NewGranter(authz.GranterConfig{Record: s.record, Table: s.table, Parser: s.parser, Subjects: subjects})
	s.policies = authz.NewPolicies(authz.PoliciesConfig{Record: s.record, Table: s.table})
	s.sets = authz.NewSets(authz.SetsConfig{Record: s.record})
	s.customers = authz.NewCustomers(s.record, s.table)
	s.directory = authz.NewDirectory(s.record, s.entities, 1<<30)
	s.follower = authz.NewFollower(authz.FollowerConfig{Record: s.record, Table: s.table, Parser: s.parser, Peppers: peps, Root: s.root,
		Directory: s.directory, Lease: s.lease, MaxStaleness: staleness, Now: s.now,
		Failed: func(chain string, err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.failures = append(s.failures, chain+": "+err.Error())
		}})
	s.follower.Observe(subjects.Observe)
	s.follower.Observe(func(chain string, touched authz.Touched) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.observed[chain] = append(s.observed[chain], touched)
	})
	if err := s.follower.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.db.Load(t.Context(), s.table, s.parser, peps, s.now()); err != nil {
		t.Fatal(err)
	}
	if err := authz.LoadProperties(t.Context(), s.db, s.entities); err != nil {
		t.Fatal(err)
	}
	if err := authz.LoadGrants(t.Context(), s.db, s.table, s.parser, s.now()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.policies.Load(t.Context(), s.now()); err != nil {
		t.Fatal(err)
	}
	if err := subjects.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.sweep()
	return s
}

func (s *server) now() latchkey.Instant {
	return latchkey.InstantOf(time.Now()) + latchkey.Instant(s.ahead.Load())
}

func (s *server) sweep() {
	s.Helper()
	if err := s.follower.Sweep(context.Background()); err != nil {
		s.Fatal(err)
	}
}

// call is root's, in a customer.
func (s *server) call(customer string) authz.Call {
	return authz.Call{Caller: authz.Caller{Kind: authz.RootCredential, Kid: s.rootKey.Kid, Customer: s.table.Customer(customer)}, Now: s.now()}
}

func (s *server) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func parsed(t testing.TB, text string) strictjson.Value {
	t.Helper()
	doc := new(strictjson.Doc)
	if err := doc.Parse(text); err != nil {
		t.Fatal(err)
	}
	return doc.Root()
}

func (s *server) key(customer, name string) authz.Created {
	s.Helper()
	in, err := authz.ParseNewKey(s.parser, parsed(s, `{"scopes":{"customer":{"decision":true,"document":[{"f":"*","p":2}]}},"metadata":{"username":"u","keyname":"`+name+`"}}`), s.now())
	s.ok(err)
	made, err := s.keys.Create(context.Background(), s.call(customer), in)
	s.ok(err)
	return made
}

func document(t testing.TB, name, rule string) *policies.Document {
	t.Helper()
	d, err := policies.ParseDocument(parsed(t, `{"language":"cel","rules":[{"label":"r","match":`+string(strictjson.AppendString(nil, rule))+`,"action":"allow"}],"default":{"action":"deny"}}`), name)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (s *server) put(name, rule string) error {
	_, _, err := s.policies.Put(context.Background(), s.call(authz.DefaultCustomer), document(s, name, rule), authz.Conditions{})
	return err
}

// decide asks whether a subject may read a document.
func (s *server) decide(customer, typ, id string) (bool, authz.ReasonCode) {
	s.Helper()
	return s.decideAt(s.now(), customer, typ, id)
}

func (s *server) decideAt(now latchkey.Instant, customer, typ, id string) (bool, authz.ReasonCode) {
	s.Helper()
	var d authz.Decision
	q := authz.Request{Subject: authz.Entity{Type: typ, ID: id}, Action: authz.Action{Name: "read"}, Resource: authz.Entity{Type: "document", ID: "7"}}
	s.ok(s.pdp.Decide(&d, s.table.Customer(customer), &q, now))
	if len(d.Reasons) == 0 {
		return d.Permit, ""
	}
	return d.Permit, d.Reasons[0].Code
}

func (s *server) expect(what string, typ, id string, permit bool, why authz.ReasonCode) {
	s.Helper()
	if got, code := s.decide(authz.DefaultCustomer, typ, id); got != permit || code != why {
		s.Errorf("%s: %v, %s; want %v, %s", what, got, code, permit, why)
	}
}

func eachFleet(t *testing.T, test func(t *testing.T, a, b *server, at place)) {
	eachEngine(t, func(t *testing.T, _ *store.DB, at place) {
		a := newServer(t, at, "")
		b := newServer(t, at, "")
		b.rootKey = a.rootKey
		test(t, a, b, at)
	})
}

func value(texts ...string) (list []scopes.Value) {
	for _, text := range texts {
		list = append(list, scopes.Value{Text: text})
	}
	return list
}

// fill makes one of everything at a; what it returns is to be revoked.
func (s *server) fill() (key authz.Created, grant authz.GrantRecord) {
	ctx := context.Background()
	root := s.call(authz.DefaultCustomer)
	key = s.key(authz.DefaultCustomer, "one")
	_, err := s.sets.Create(ctx, root, authz.NewSet{Name: "banned", EntityType: scopes.EntityString, Values: value("nobody", "noone")}, authz.Conditions{})
	s.ok(err)
	s.ok(s.put("gate", `scope_permits && !in_set("banned", subject.id)`))
	properties := `{"clearance":"high"}`
	_, err = s.directory.UpdateSubjects(ctx, root, []authz.SubjectUpdate{{EntityRef: authz.EntityRef{Type: "user", ID: "alice"}, Properties: &properties}})
	s.ok(err)
	in, err := authz.ParseNewGrant(s.parser, parsed(s, `{"subject":{"type":"user","id":"bob"},"entries":{"document":[{"f":"*","p":2}]},"reason":"r","expires_at":"`+s.now().Add(time.Hour).String()+`"}`), s.now())
	s.ok(err)
	grant, err = s.granter.Create(ctx, root, in)
	s.ok(err)
	return key, grant
}

// A server that was away for longer than the feed is kept reads everything anew.
func TestFollow_AGapReadsEverythingAnew(t *testing.T) {
	eachFleet(t, func(t *testing.T, a, b *server, _ place) {
		key, grant := a.fill()
		b.sweep()
		b.expect("a key", "access_key", key.Key.ID.String(), true, authz.ScopePermits)
		b.expect("a grant", "user", "bob", true, authz.GrantPermits)
		if b.entities.Subject(authz.DefaultCustomer, "user", "alice") == nil {
			t.Error("no properties")
		}
		ctx, root := t.Context(), a.call(authz.DefaultCustomer)
		other := a.key(authz.DefaultCustomer, "two")
		_, _, err := a.keys.Revoke(ctx, root, key.Key.ID)
		a.ok(err)
		_, err = a.granter.Revoke(ctx, root, grant.ID)
		a.ok(err)
		a.ok(a.directory.DeleteSubject(ctx, root, authz.EntityRef{Type: "user", ID: "alice"}))
		_, err = a.sets.Patch(ctx, root, "banned", value("somebody"), nil, authz.Conditions{})
		a.ok(err)
		a.ok(a.put("gate", `!in_set("banned", subject.id)`))
		a.ok(a.put("other", `true`))
		next, err := a.root.Rotate(ctx, root)
		a.ok(err)
		if n, err := a.db.SweepFeed(ctx, latchkey.Never); err != nil || n == 0 {
			t.Fatal(n, err)
		}
		b.observed = map[string][]authz.Touched{}
		b.sweep()
		b.expect("a revoked key", "access_key", key.Key.ID.String(), false, authz.KeyRevoked)
		b.expect("a new key", "access_key", other.Key.ID.String(), true, authz.ScopePermits)
		b.expect("a revoked grant", "user", "bob", false, authz.NoGrant)
		if b.entities.Subject(authz.DefaultCustomer, "user", "alice") != nil {
			t.Error("properties of who was deleted")
		}
		same(t, a, b)
		if r := b.auth.Resolve([]byte(next.Reveal()), b.now(), here); r.Kind != authz.RootCredential {
			t.Error("the new root key is not known")
		}
		if r := b.auth.Resolve([]byte(a.rootKey.Reveal()), b.now(), here); r.Status != authz.Unknown {
			t.Error("the old root key still holds")
		}
		seen := b.observed[authz.DefaultCustomer]
		if len(seen) != 1 || seen[0].Seq != b.follower.Applied(authz.DefaultCustomer) || !slices.Contains(seen[0].All, feed.Subject) {
			t.Errorf("observers were told %+v", seen)
		}
	})
}

// same compares what two servers decide by.
func same(t *testing.T, a, b *server) {
	t.Helper()
	if x, y := print(a.table.Customer(authz.DefaultCustomer).Policies.Snapshot()), print(b.table.Customer(authz.DefaultCustomer).Policies.Snapshot()); x != y {
		t.Errorf("one decides by\n%s\nthe other by\n%s", x, y)
	}
}

// print is all of a snapshot, as text.
func print(s *policies.Snapshot) string {
	var b strings.Builder
	fmt.Fprintln(&b, "revision", s.Revision, "default", s.Default)
	for _, name := range s.Policies() {
		p := s.Policy(name)
		fmt.Fprintln(&b, name, p.Record, p.Version, string(p.Document.AppendJSON(nil)))
	}
	for _, name := range s.Sets() {
		set := s.Set(name)
		values := slices.Sorted(set.Values)
		fmt.Fprintln(&b, name, set.Version, values)
	}
	return b.String()
}

// The connection breaks at the commit: the service says that the change may not
// have happened, and the server finds out by itself that it has.
func TestFollow_HealsAChangeWhoseOutcomeWasLost(t *testing.T) {
	eachFleet(t, func(t *testing.T, a, _ *server, _ place) {
		key, grant := a.fill()
		ctx, root := t.Context(), a.call(authz.DefaultCustomer)
		a.sweep()
		a.record.lose.Store(true)
		properties := `{"clearance":"low"}`
		for what, do := range map[string]func() error{
			"revoke": func() error { _, _, err := a.keys.Revoke(ctx, root, key.Key.ID); return err },
			"grant":  func() error { _, err := a.granter.Revoke(ctx, root, grant.ID); return err },
			"policy": func() error { return a.put("gate", "false") },
			"properties": func() error {
				_, err := a.directory.UpdateSubjects(ctx, root, []authz.SubjectUpdate{{EntityRef: authz.EntityRef{Type: "user", ID: "alice"}, Properties: &properties}})
				return err
			},
		} {
			if err := do(); !errors.Is(err, errLost) {
				t.Fatalf("%s: %v", what, err)
			}
		}
		a.record.lose.Store(false)
		a.expect("before it finds out", "access_key", key.Key.ID.String(), true, authz.ScopePermits)
		a.sweep()
		a.expect("a revoked key", "access_key", key.Key.ID.String(), false, authz.KeyRevoked)
		a.expect("a revoked grant", "user", "bob", false, authz.NoGrant)
		if p := a.entities.Subject(authz.DefaultCustomer, "user", "alice"); p.Text() != properties {
			t.Error(p.Text())
		}
		if got := string(a.table.Customer(authz.DefaultCustomer).Policies.Snapshot().Policy("gate").Document.AppendJSON(nil)); !strings.Contains(got, `"false"`) {
			t.Error(got)
		}
		// And its next change builds upon what was lost.
		a.record.lose.Store(true)
		if err := a.put("lost", "true"); !errors.Is(err, errLost) {
			t.Fatal(err)
		}
		a.record.lose.Store(false)
		a.ok(a.put("next", "true"))
		if in := a.table.Customer(authz.DefaultCustomer).Policies.Snapshot(); in.Policy("lost") == nil {
			t.Error("a snapshot claims to hold a change that is not in it")
		}
	})
}

// Servers that change one customer's policies and sets at the same time: of one
// revision there is one content, everywhere.
func TestFollow_ARevisionNeverLies(t *testing.T) {
	eachFleet(t, func(t *testing.T, a, b *server, at place) {
		ctx := t.Context()
		a.ok(func() error {
			_, err := a.sets.Create(ctx, a.call(authz.DefaultCustomer), authz.NewSet{Name: "banned", EntityType: scopes.EntityString, Values: value("nobody")}, authz.Conditions{})
			return err
		}())
		b.sweep()
		rounds := 40
		if at.URL == "" {
			rounds = 15 // each is a write to the disk
		}
		var mu sync.Mutex
		contents := map[int64]string{}
		look := func(s *server) {
			in := s.table.Customer(authz.DefaultCustomer).Policies.Snapshot()
			text := print(in)
			mu.Lock()
			defer mu.Unlock()
			if had, ok := contents[in.Revision]; ok && had != text {
				t.Errorf("revision %d is\n%s\nand\n%s", in.Revision, had, text)
			}
			contents[in.Revision] = text
		}
		stop := make(chan struct{})
		var writers, followers sync.WaitGroup
		for i, s := range []*server{a, b} {
			followers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						s.sweep()
						look(s)
					}
				}
			})
			for w := range 2 {
				writers.Go(func() {
					random := rand.New(rand.NewPCG(uint64(i), uint64(w)))
					for n := range rounds {
						name := fmt.Sprint("p", random.IntN(3))
						call := s.call(authz.DefaultCustomer)
						var err error
						switch random.IntN(6) {
						case 0:
							err = s.policies.Delete(ctx, call, name, authz.Conditions{})
						case 1:
							_, err = s.customers.Patch(ctx, call, authz.DefaultCustomer, authz.CustomerPatch{DefaultPolicy: &name})
						case 2:
							_, err = s.sets.Patch(ctx, call, "banned", value(fmt.Sprint(i, w, n)), value(fmt.Sprint(i, w, n-2)), authz.Conditions{})
						case 3:
							_, err = s.sets.Replace(ctx, call, "banned", authz.SetReplacement{Values: value(fmt.Sprint("r", i, w, n))}, authz.Conditions{})
						default:
							err = s.put(name, fmt.Sprintf(`"%d %d %d" != "" && !in_set("banned", subject.id)`, i, w, n))
						}
						switch latchkey.KindOf(err) {
						case latchkey.NotFound, latchkey.Conflict, latchkey.Invalid: // of a policy that is not there, or in use
						default:
							if err != nil {
								t.Errorf("%v", err)
							}
						}
						look(s)
					}
				})
			}
		}
		writers.Wait()
		close(stop)
		followers.Wait()
		a.sweep()
		b.sweep()
		same(t, a, b)
		fresh := newServer(t, at, "") // the truth
		same(t, a, fresh)
		if len(contents) < rounds {
			t.Errorf("only %d revisions were seen", len(contents))
		}
	})
}

// A set of many values is not read again for a few that change.
func TestFollow_ASetFollowsItsChanges(t *testing.T) {
	eachFleet(t, func(t *testing.T, a, b *server, at place) {
		ctx, root := t.Context(), a.call(authz.DefaultCustomer)
		var many []string
		for i := range 3000 {
			many = append(many, fmt.Sprint("v", i))
		}
		_, err := a.sets.Create(ctx, root, authz.NewSet{Name: "s", EntityType: scopes.EntityString, Values: value(many...)}, authz.Conditions{})
		a.ok(err)
		b.sweep()
		for i := range 5 {
			_, err = a.sets.Patch(ctx, root, "s", value(fmt.Sprint("new", i)), value(fmt.Sprint("v", i)), authz.Conditions{})
			a.ok(err)
		}
		description := "another one"
		_, err = a.sets.Replace(ctx, root, "s", authz.SetReplacement{Values: value(slices.Sorted(a.table.Customer(authz.DefaultCustomer).Policies.Snapshot().Set("s").Values)...), Description: &description}, authz.Conditions{})
		a.ok(err)
		// Who read the values would find another number than the record counts.
		at.exec(t, `DELETE FROM set_values WHERE value = 'v2999'`)
		b.sweep()
		set := b.table.Customer(authz.DefaultCustomer).Policies.Snapshot().Set("s")
		for v, want := range map[string]bool{"v0": false, "v4": false, "v5": true, "new4": true, "v2999": true} {
			if member, _ := set.Contains(v); member != want {
				t.Errorf("%s: %v", v, member)
			}
		}
		if len(b.failures) > 0 {
			t.Error(b.failures)
		}
		// A set that is made again under its old name is not taken for the old one.
		at.exec(t, `INSERT INTO set_values (set_id, value) SELECT id, 'v2999' FROM sets`)
		a.ok(a.sets.Delete(ctx, root, "s", authz.Conditions{}))
		_, err = a.sets.Create(ctx, root, authz.NewSet{Name: "s", EntityType: scopes.EntityString, Values: value("only")}, authz.Conditions{})
		a.ok(err)
		_, err = a.sets.Patch(ctx, root, "s", value("second"), nil, authz.Conditions{})
		a.ok(err)
		b.sweep()
		if got := slices.Sorted(b.table.Customer(authz.DefaultCustomer).Policies.Snapshot().Set("s").Values); !slices.Equal(got, []string{"only", "second"}) {
			t.Error(len(got), got[:min(5, len(got))])
		}
	})
}

// A record that cannot be applied makes its customer stale, alone; and what else
// changes of that customer is applied all the same, revocations above all.
func TestFollow_OneCustomerThatCannotBeAppliedIsDeniedAlone(t *testing.T) {
	eachFleet(t, func(t *testing.T, a, b *server, at place) {
		_, err := a.customers.Create(t.Context(), a.call(authz.DefaultCustomer), authz.CustomerRecord{ID: "acme", Name: "Acme"})
		a.ok(err)
		b.sweep()
		mine, theirs := a.key(authz.DefaultCustomer, "mine"), a.key("acme", "theirs")
		b.sweep()
		bad := authz.Key{ID: authz.KeyID(uuid.New()), Customer: "acme", Handle: "h", Scopes: `{"customer":{"of a later release":1}}`, Metadata: `{}`,
			ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never, LastUsedAt: latchkey.Never}
		a.ok(a.db.Change(t.Context(), authz.Change{Chain: "acme", At: a.now()}, func(tx authz.Tx) (audit.Draft, error) {
			token := authz.NewAccessKeyToken(authz.Live)
			return draft("bad"), tx.InsertKey(context.Background(), bad, 0, authz.KeySecret{Kid: token.Kid, Mode: authz.Live, Key: bad.ID, EndsAt: latchkey.Never})
		}))
		b.sweep()
		if len(b.failures) != 1 || !strings.Contains(b.failures[0], "acme") {
			t.Errorf("told of %q", b.failures)
		}
		now := b.now()
		decides := func(customer, id string, permit bool, why authz.ReasonCode) {
			t.Helper()
			if got, code := b.decideAt(now, customer, "access_key", id); got != permit || code != why {
				t.Errorf("%s: %v %s, want %v %s", customer, got, code, permit, why)
			}
		}
		decides("acme", theirs.Key.ID.String(), true, authz.ScopePermits) // for as long as is promised
		now = b.table.Customer("acme").StaleAt()
		b.sweep() // the lease is renewed
		decides("acme", theirs.Key.ID.String(), false, authz.Stale)
		decides(authz.DefaultCustomer, mine.Key.ID.String(), true, authz.ScopePermits)
		if b.follower.Behind() != 1 {
			t.Errorf("%d chains are behind", b.follower.Behind())
		}
		_, _, err = a.keys.Revoke(t.Context(), a.call("acme"), theirs.Key.ID)
		a.ok(err)
		b.sweep()
		if b.table.Key(theirs.Key.ID).RevokedAt() == latchkey.Never {
			t.Error("a revocation waits for a record that does not parse")
		}
		if len(b.failures) != 1 {
			t.Errorf("told again: %q", b.failures)
		}
		at.exec(t, `UPDATE access_keys SET scopes = '{"customer":{"decision":true}}' WHERE handle = 'h'`)
		b.sweep()
		decides("acme", theirs.Key.ID.String(), false, authz.KeyRevoked)
		if b.follower.Behind() != 0 || b.table.Key(bad.ID) == nil {
			t.Error("it does not heal")
		}
	})
}

// Each server is told once of each change, in their order, however many hints and
// looks there are.
func TestFollow_ObserversAreToldOnce(t *testing.T) {
	eachFleet(t, func(t *testing.T, a, b *server, _ place) {
		const n = 30
		ctx, cancel := context.WithCancel(t.Context())
		var loops sync.WaitGroup
		for _, s := range []*server{a, b} {
			ticks := make(chan time.Time)
			loops.Go(func() { s.follower.Run(ctx, ticks) })
			loops.Go(func() {
				for {
					select {
					case ticks <- time.Time{}:
					case <-ctx.Done():
						return
					}
				}
			})
		}
		hint := func(chain string, seq int64) {
			a.follower.Kick(chain, seq)
			b.follower.Kick(chain, seq)
			b.follower.Kick(chain, seq)
			b.follower.Kick("nobody", seq)
			b.follower.Kick("", 0)
		}
		a.db.OnCommit(hint)
		b.db.OnCommit(hint)
		var writers sync.WaitGroup
		for _, s := range []*server{a, b} {
			writers.Go(func() {
				for range n {
					if _, err := insert(context.Background(), s.db, "k", nil); err != nil {
						t.Error(err)
					}
				}
			})
		}
		writers.Wait()
		for _, s := range []*server{a, b} {
			eventually(t, func() bool { return s.follower.Applied(authz.DefaultCustomer) == 2*n })
		}
		cancel()
		loops.Wait()
		for _, s := range []*server{a, b} {
			for i, seen := range s.observed[authz.DefaultCustomer] {
				if seen.Seq != int64(i+1) || len(seen.Refs) != 1 {
					t.Fatalf("call %d is of %+v", i, seen)
				}
			}
			if len(s.observed[authz.DefaultCustomer]) != 2*n || len(s.observed["nobody"]) > 0 || s.table.Customer("nobody") != nil {
				t.Errorf("%d calls, and %d of nobody", len(s.observed[authz.DefaultCustomer]), len(s.observed["nobody"]))
			}
			if s.table.Len() != 2*n {
				t.Errorf("%d keys", s.table.Len())
			}
			if len(s.failures) > 0 {
				t.Error(s.failures)
			}
		}
	})
}

func eventually(t *testing.T, so func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	retry := time.NewTicker(time.Millisecond)
	defer retry.Stop()
	for !so() {
		select {
		case <-deadline.C:
			t.Fatal("not within a minute")
		case <-retry.C:
		}
	}
}

// A server whose clock is off by more than is permitted decides nothing: it
// would count rights that have ended.
func TestFollow_AClockThatIsOffDecidesNothing(t *testing.T) {
	at := place{store.Config{URL: servers.Postgres(t), MAC: mac}}
	if err := authz.NewCustomers(at.open(t), &cache.Table{}).Establish(t.Context(), authz.DefaultCustomer, start); err != nil {
		t.Fatal(err)
	}
	s := newServer(t, at, "")
	key := s.key(authz.DefaultCustomer, "one")
	s.expect("a clock that is right", "access_key", key.Key.ID.String(), true, authz.ScopePermits)
	for _, off := range []time.Duration{10 * time.Minute, -10 * time.Minute} {
		s.ahead.Store(off.Microseconds())
		s.sweep()
		s.expect("a clock off by "+off.String(), "access_key", key.Key.ID.String(), false, authz.Stale)
		if offset, skewed := s.lease.Offset(); !skewed || (offset+off).Abs() > 5*time.Second {
			t.Errorf("the database is said to be %s ahead", offset)
		}
	}
	s.ahead.Store(0)
	s.sweep()
	s.expect("a clock that is right again", "access_key", key.Key.ID.String(), true, authz.ScopePermits)
}

// A database that is put back to an earlier state under a running server is not
// followed: what was revoked since would be unknown, and what was made, believed.
func TestFollow_ADatabaseThatWentBackIsNotFollowed(t *testing.T) {
	eachFleet(t, func(t *testing.T, a, _ *server, at place) {
		a.key(authz.DefaultCustomer, "one")
		a.sweep()
		until := a.lease.Until()
		at.exec(t, `UPDATE customers SET seq = seq - 1 WHERE id = 'default'`)
		if err := a.follower.Sweep(t.Context()); err == nil || !strings.Contains(err.Error(), "put back") {
			t.Errorf("it is followed: %v", err)
		}
		if a.lease.Until() != until {
			t.Error("the lease was renewed")
		}
	})
}

// A secret whose pepper a server does not hold cannot be told there: it is
// neither right nor wrong.
func TestFollow_ASecretOfAnotherPepperIsNobodysToRefuse(t *testing.T) {
	eachEngine(t, func(t *testing.T, _ *store.DB, at place) {
		first, second := strings.Repeat("first pepper ", 4), strings.Repeat("second pepper ", 4)
		b := newServer(t, at, first)
		known := func() authz.Created { b.Helper(); return b.key(authz.DefaultCustomer, "before") }()
		a := newServer(t, at, second+"\n"+first)
		a.rootKey = b.rootKey
		made := a.key(authz.DefaultCustomer, "after")
		rotated, err := a.keys.Rotate(t.Context(), a.call(authz.DefaultCustomer), known.Key.ID, time.Hour)
		a.ok(err)
		next, err := a.root.Rotate(t.Context(), a.call(authz.DefaultCustomer))
		a.ok(err)
		b.sweep()
		for what, token := range map[string]authz.Token{"a key": made.Token, "a rotated key": rotated.Token, "the root key": next} {
			r := b.auth.Resolve([]byte(token.Reveal()), b.now(), here)
			if r.Status != authz.Unknown || r.Err == nil {
				t.Errorf("%s: %+v", what, r)
			}
		}
		if r := b.auth.Resolve([]byte(known.Token.Reveal()), b.now(), here); r.Status != authz.Active {
			t.Errorf("a secret of a pepper that is here: %+v", r)
		}
		if b.follower.Behind() != 0 {
			t.Error("it is behind")
		}
	})
}

// Hints reach the other servers at once, and again after the connection was
// lost; then everything is looked at, since some may have been missed.
func TestHints_ReachOtherServers(t *testing.T) {
	at := place{store.Config{URL: servers.Postgres(t), MAC: mac}}
	a, b := at.open(t), at.open(t)
	if err := authz.NewCustomers(a, &cache.Table{}).Establish(t.Context(), authz.DefaultCustomer, start); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var loops sync.WaitGroup
	defer loops.Wait()
	defer cancel()
	var mu sync.Mutex
	heard, anew, lost := map[int64]bool{}, 0, 0
	loops.Go(func() { a.Hints(ctx, func(string, int64) {}, func(error) {}) })
	loops.Go(func() {
		b.Hints(ctx, func(chain string, seq int64) {
			mu.Lock()
			defer mu.Unlock()
			if chain == "" {
				anew++
				return
			}
			heard[seq] = true
		}, func(error) {
			mu.Lock()
			defer mu.Unlock()
			lost++
		})
	})
	is := func(so func() bool) {
		t.Helper()
		eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return so()
		})
	}
	change := func() int64 {
		t.Helper()
		k, err := insert(t.Context(), a, "k", nil)
		if err != nil {
			t.Fatal(err)
		}
		return k.Version
	}
	is(func() bool { return anew == 1 })
	// The sender may not have its connection yet; its first hints are lost then.
	eventually(t, func() bool {
		seq := change()
		mu.Lock()
		defer mu.Unlock()
		return heard[seq] || len(heard) > 0
	})
	servers.SQL(t, at.URL, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR query LIKE '%pg_notify%' AND pid <> pg_backend_pid()`)
	is(func() bool { return anew >= 2 && lost > 0 })
	before := slices.Max(slices.Collect(maps.Keys(heard)))
	eventually(t, func() bool {
		change()
		mu.Lock()
		defer mu.Unlock()
		return slices.Max(slices.Collect(maps.Keys(heard))) > before
	})
}

var here = netip.MustParseAddr("192.0.2.1")
