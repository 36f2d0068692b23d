package cache_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/internal/servers"
	"github.com/latchkey-dev/latchkey/scopes"
	"github.com/latchkey-dev/latchkey/store"
)

// Promises of the histories' nodes.
const (
	staleness = 30 * time.Second
	skew      = 5 * time.Second
)

// stage is what many histories play on, one after the other: a database, in
// which each has a customer of its own, and a Redis behind a proxy, emptied
// before each.
type stage struct {
	t      *testing.T
	server *servers.RedisServer
	proxy  *servers.Proxy
	shared *cache.Redis  // through the proxy, as control planes and sidecars have it
	raw    *redis.Client // of who breaks it
	db     *store.DB
	root   authz.Caller // of the database
	keys   *authz.RootKey
	parser *scopes.Parser
	played int
}

// A database for so many histories: who looks at how far changes go looks at all
// customers.
const perDatabase = 25

func newStage(t *testing.T) *stage {
	s := &stage{t: t, server: servers.Redis(t), parser: scopes.NewParser(16)}
	s.proxy = servers.NewProxy(t, "unix:"+s.server.Socket())
	s.shared = openRedis(t, cache.RedisConfig{URL: "redis://" + s.proxy.Addr()})
	s.raw = redis.NewClient(&redis.Options{Network: "unix", Addr: s.server.Socket(), MaintNotificationsConfig: nil})
	t.Cleanup(func() { _ = s.raw.Close() })
	return s
}

func (s *stage) database() *store.DB {
	if s.db == nil || s.played%perDatabase == 0 {
		dir, err := os.MkdirTemp(memory(), "latchkey-histories-")
		if err != nil {
			s.t.Fatal(err)
		}
		db, err := store.Open(context.Background(), filepath.Join(dir, "latchkey.db"), audit.MACKey(strings.Repeat("k", 32)))
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() {
			if err := errors.Join(db.Close(), os.RemoveAll(dir)); err != nil {
				s.t.Error(err)
			}
		})
		token := authz.NewRootToken()
		s.db, s.keys = db, authz.NewRootKey(db, &authz.Peppers{})
		if _, err := s.keys.Establish(context.Background(), &token, now()); err != nil {
			s.t.Fatal(err)
		}
		s.root = authz.Caller{Kind: authz.RootCredential, Kid: token.Kid}
	}
	s.played++
	return s.db
}

// memory is a directory where writing costs little, if there is one.
func memory() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}

// right is something that a decision may rest on: a key, one of its secrets, or
// a grant of a subject.
type right struct {
	kind    string // "key", "secret", "grant"
	id      string // of the key or the grant; a kid
	key     authz.KeyID
	subject authz.EntityRef
	expires latchkey.Instant
	revoked latchkey.Instant // when that was acknowledged; Never before
	seq     int64            // of the change that revoked it
	by      *control         // who made it and has lived since; nil for none
	epoch   int64
}

func (r *right) String() string { return r.kind + " " + r.id[:min(len(r.id), 8)] }

// fleetHistory is one run of a small fleet: two control planes and two sidecars of
// one customer, with the time as it is passed.
type fleetHistory struct {
	*rapid.T
	s        *stage
	db       *store.DB
	customer string
	epoch    int64
	begun    latchkey.Instant // real time at its beginning
	now      latchkey.Instant // the true one
	rights   []*right
	controls []*control
	sidecars []*sidecar
	late     []lateFill
	posted   []string // every message that anybody has seen
	beaten   []string // every heartbeat
	copies   []map[string]string
	depth    int
	cut      bool // Redis, from everybody
	made     int
	steps    []string
	log      []string
}

type lateFill struct {
	stored cache.Stored
	epoch  int64
	readAt latchkey.Instant
}

// control is a control plane.
type control struct {
	h      *fleetHistory
	name   string
	offset time.Duration // of its clock
	down   bool          // to sidecars

	feed     *authz.Feed
	relay    *cache.Relay
	table    *cache.Table
	subjects *cache.Subjects
	follower *authz.Follower
	lease    *feed.Lease
	keys     *authz.Keys
	granter  *authz.Granter
}

// sidecar is a node without the database.
type sidecar struct {
	h        *fleetHistory
	name     string
	offset   time.Duration
	control  *control
	noRedis  bool
	state    cache.FollowerState
	replica  *cache.Replica
	follower *cache.Follower
	lease    *feed.Lease
	asking   bool // a question to the control plane is under way
	deciding bool
}

func (h *fleetHistory) note(format string, args ...any) {
	h.log = append(h.log, fmt.Sprintf("%8.3f ", (time.Duration(h.now-h.begun)*time.Microsecond).Seconds())+fmt.Sprintf(format, args...))
}

func (h *fleetHistory) fail(format string, args ...any) {
	h.Helper()
	h.Fatalf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(h.log, "\n"))
}

func (h *fleetHistory) must(err error) {
	h.Helper()
	if err != nil {
		h.fail("%v", err)
	}
}

var quietLog = slog.New(slog.DiscardHandler)

func newHistory(t *rapid.T, s *stage) *fleetHistory {
	h := &fleetHistory{T: t, s: s, db: s.database(), begun: latchkey.InstantOf(time.Now()), epoch: 1, steps: drawSteps(t)}
	h.now = h.begun
	h.customer = "h" + strconv.Itoa(s.played)
	if err := s.raw.FlushAll(context.Background()).Err(); err != nil {
		t.Fatal(err)
	}
	h.must(authz.NewCustomers(h.db, &cache.Table{}).Establish(context.Background(), h.customer, h.now))
	offset := func(name string) time.Duration {
		// Within the bound, or so far beyond it that nobody may decide by it.
		if rapid.IntRange(0, 19).Draw(t, name+" is far off") == 19 {
			return rapid.SampledFrom([]time.Duration{-10 * time.Minute, 10 * time.Minute}).Draw(t, name+" off by")
		}
		return rapid.SampledFrom([]time.Duration{0, 0, -2 * time.Second, 2 * time.Second}).Draw(t, name+" off by")
	}
	for i := range 2 {
		c := &control{h: h, name: fmt.Sprint("control", i), offset: rapid.SampledFrom([]time.Duration{0, -time.Second, time.Second}).Draw(t, "control off by")}
		h.controls = append(h.controls, c)
		c.restart()
	}
	for i := range 2 {
		n := &sidecar{h: h, name: fmt.Sprint("sidecar", i), offset: offset("sidecar"), control: h.controls[i]}
		h.sidecars = append(h.sidecars, n)
		n.restart()
	}
	return h
}

// Control planes.

func (c *control) now() latchkey.Instant { return c.h.now.Add(c.offset) }

func (c *control) restart() {
	h := c.h
	epoch := h.epoch
	c.feed = authz.NewFeed(authz.FeedConfig{Record: h.db, Maker: &authz.RecordMaker{Record: h.db, Epoch: epoch}, Signer: signer, Issuer: c.name, Now: c.now, MaxBytes: 1 << 20})
	c.relay = cache.NewRelay(cache.RelayConfig{Redis: h.s.shared, Record: h.db, Epoch: func(context.Context) (int64, error) { return epoch, nil },
		Signer: signer, Verifier: verifier, Node: c.name, Now: c.now, Sidecars: func(string) bool { return true }, Log: quietLog})
	c.table, c.lease = &cache.Table{}, feed.NewLease(staleness, skew)
	c.subjects = cache.NewSubjects(cache.NewRecords(cache.RecordsConfig{
		MaxBytes: 1 << 20, Sources: []cache.Source{&cache.SubjectSource{Record: h.db, Epoch: epoch, Now: c.now}},
		Decode: func(rec *feed.Record) (any, int, error) { return cache.DecodeSubject(h.s.parser, rec) },
		Wait:   10 * time.Second, Missing: time.Second, Now: c.now,
	}), h.db, epoch)
	c.keys = authz.NewKeys(authz.KeysConfig{Record: h.db, Table: c.table, Parser: h.s.parser, Peppers: &authz.Peppers{}, Mode: authz.Live, MaxActive: 1000})
	c.granter = authz.NewGranter(authz.GranterConfig{Record: h.db, Table: c.table, Parser: h.s.parser, Subjects: c.subjects})
	c.follower = authz.NewFollower(authz.FollowerConfig{Record: h.db, Table: c.table, Parser: h.s.parser, Peppers: &authz.Peppers{}, Root: h.s.keys,
		Directory: authz.NewDirectory(h.db, cache.NewDirectory(), 1<<20), Lease: c.lease, MaxStaleness: staleness, Now: c.now})
	c.follower.Observe(c.subjects.Observe)
	c.follower.Observe(func(chain string, t authz.Touched) { c.feed.Applied(chain, []authz.Touched{t}) })
	ctx := context.Background()
	h.must(c.follower.Begin(ctx))
	h.must(h.db.Load(ctx, c.table, h.s.parser, &authz.Peppers{}, 0))
	h.must(c.subjects.Start(ctx))
	h.must(authz.LoadGrants(ctx, h.db, c.table, h.s.parser, c.now()))
	h.must(c.follower.Sweep(ctx))
}

// follow takes in what others have changed.
func (c *control) follow() {
	h := c.h
	h.must(c.follower.Sweep(context.Background()))
	h.note("%s follows: at %d", c.name, c.follower.Applied(h.customer))
}

// allows decides by one right alone.
func (c *control) allows(r *right) (bool, error) {
	now := c.now()
	if !c.lease.Holds(now) {
		return false, errUnreachable
	}
	switch r.kind {
	case "grant":
		grants, err := c.subjects.Grants(c.table.Customer(c.h.customer), r.subject.Type, r.subject.ID)
		return live(grants, r, now), err
	case "secret":
		kid, _ := authz.ParseKid(r.id)
		s, ok := c.table.Secret(kid)
		return ok && now < s.EndsAt && s.Key.Status(now) == authz.Active, nil
	}
	return c.table.Key(r.key).Status(now) == authz.Active, nil
}

// decide is sidecar.decide. The one that revoked the right knows of it.
func (c *control) decide(r *right) {
	h := c.h
	applied, asked := c.follower.Applied(h.customer), h.now
	before := *r
	allow, err := c.allows(r)
	h.note("%s decides by %v: %t %v", c.name, r, allow, err)
	if !allow {
		return
	}
	apart := time.Duration(0)
	for _, other := range h.controls {
		apart = max(apart, other.offset-c.offset)
	}
	late := time.Duration(0) // a secret ends at an instant, of a clock that is right
	if r.kind == "secret" {
		late = max(-c.offset, 0)
	}
	switch {
	case asked >= before.expires.Add(max(-c.offset, 0)):
		h.fail("%s allows by %v, which has ended %v ago", c.name, r, time.Duration(asked-before.expires)*time.Microsecond)
	case before.revoked == latchkey.Never:
	case before.by == c && asked >= before.revoked.Add(late):
		h.fail("%s allows by %v, which it has revoked itself", c.name, r)
	case before.epoch == c.feed.Epoch() && applied >= before.seq && asked >= before.revoked.Add(late):
		h.fail("%s allows by %v, which change %d revoked, and it has applied %d", c.name, r, before.seq, applied)
	case asked >= before.revoked.Add(staleness+skew+apart):
		h.fail("%s allows by %v, which was revoked %v ago", c.name, r, time.Duration(asked-before.revoked)*time.Microsecond)
	}
}

// publish brings Redis up to date.
func (c *control) publish() {
	h := c.h
	if h.cut {
		return
	}
	if err := c.relay.Catch(context.Background(), h.customer); err != nil {
		h.note("%s publishes: %v", c.name, err)
		return
	}
	h.note("%s publishes", c.name)
}

// beat signs a heartbeat of now.
func (c *control) beat() string {
	h := c.h
	at := c.now()
	p, err := h.db.Position(context.Background(), h.customer)
	h.must(err)
	text, err := signer.SignHeartbeat(&feed.Heartbeat{Customer: h.customer, Issuer: c.name, At: at, Epoch: c.feed.Epoch(), Head: p.Seq})
	h.must(err)
	h.beaten = append(h.beaten, string(text))
	return string(text)
}

func (h *fleetHistory) send(beat string) {
	if !h.cut {
		_ = h.s.shared.Beats(context.Background(), []cache.Beat{{Customer: h.customer, Text: []byte(beat)}}) // what is poisoned takes none
	}
}

var errUnreachable = errors.New("unreachable")

// Welcome implements cache.ControlPlane.
func (n *sidecar) Welcome(ctx context.Context) (*feed.Welcome, error) {
	h, c := n.h, n.control
	if c == nil || c.down {
		return nil, errUnreachable
	}
	p, err := h.db.Position(ctx, h.customer)
	if err != nil {
		return nil, err
	}
	w := &feed.Welcome{Customer: h.customer, Epoch: c.feed.Epoch(), Head: p.Seq, Policies: 0,
		Keys: []feed.VerificationKey{{ID: feed.KeyID(signer.Public()), PublicKey: signer.Public()}}}
	h.interleave()
	return w, nil
}

// Feed implements cache.ControlPlane, as the server does.
func (n *sidecar) Feed(ctx context.Context, epoch, after int64, _ string, _ time.Duration) (*feed.Page, error) {
	h, c := n.h, n.control
	if c == nil || c.down {
		return nil, errUnreachable
	}
	var page authz.FeedPage
	var err error
	known := epoch == c.feed.Epoch()
	if known {
		if page, err = c.feed.Messages(ctx, h.customer, after); err != nil {
			return nil, err
		}
		h.interleave()
	}
	beat, at, err := c.feed.Heartbeat(ctx, h.customer)
	if err != nil {
		return nil, err
	}
	switch {
	case !known:
		page = authz.FeedPage{Head: at.Seq, From: at.Seq + 1}
	case len(page.Messages) == 0 && page.From == after+1 && at.Seq > after:
		if page, err = c.feed.Older(ctx, h.customer, after); err != nil {
			return nil, err
		}
	}
	h.beaten = append(h.beaten, string(beat))
	p := &feed.Page{Epoch: c.feed.Epoch(), Head: page.Head, From: page.From, Heartbeat: string(beat)}
	for _, m := range page.Messages {
		p.Messages = append(p.Messages, string(m))
		h.posted = append(h.posted, string(m))
	}
	h.interleave() // the answer is on its way
	return p, nil
}

// fetch makes a record at the control plane, which also fills it into Redis, now
// or later.
func (n *sidecar) fetch(ctx context.Context, customer string, ref feed.Ref) (*feed.Record, error) {
	h, c := n.h, n.control
	if c == nil || c.down {
		return nil, errUnreachable
	}
	readAt := c.now()
	rec, text, err := c.feed.Record(ctx, customer, ref)
	if err != nil {
		return nil, err
	}
	if rec.Ref.Kind == feed.Key && !rec.Exists() {
		return nil, latchkey.Errorf(latchkey.NotFound, "key_not_found", "no")
	}
	late := lateFill{cache.StoredRecord(rec, text), rec.Epoch, readAt}
	if h.late = append(h.late, late); len(h.late) > 20 {
		h.late = h.late[1:]
	}
	if rapid.Bool().Draw(h.T, "filled at once") {
		h.fill(late)
	}
	h.interleave()
	return rec, nil
}

// fill puts a record into Redis, as old as it is: the time there is the real one.
func (h *fleetHistory) fill(f lateFill) {
	if h.cut {
		return
	}
	age := h.now - f.readAt
	outcome, err := h.s.shared.Fill(context.Background(), h.customer, f.epoch, f.stored, latchkey.InstantOf(time.Now())-age)
	h.must(err)
	h.note("fill of %s as of %d: %s", f.stored.Names[0], f.stored.Version, outcome)
}

// Sidecars.

func (n *sidecar) now() latchkey.Instant { return n.h.now.Add(n.offset) }

type fetchFunc func(ctx context.Context, customer string, ref feed.Ref) (*feed.Record, error)

func (f fetchFunc) Fetch(ctx context.Context, customer string, ref feed.Ref) (*feed.Record, error) {
	return f(ctx, customer, ref)
}

func (n *sidecar) restart() {
	h := n.h
	n.lease = feed.NewLease(staleness, skew)
	source := cache.NewRedisSource(h.s.shared, verifier)
	fromRedis := fetchFunc(func(ctx context.Context, customer string, ref feed.Ref) (*feed.Record, error) {
		if h.cut || n.noRedis {
			return nil, errUnreachable
		}
		rec, err := source.Fetch(ctx, customer, ref)
		h.interleave()
		return rec, err
	})
	n.replica = cache.NewReplica(cache.ReplicaConfig{Parser: scopes.NewParser(16), Peppers: &authz.Peppers{}, Records: cache.RecordsConfig{
		MaxBytes: 1 << 20, Sources: []cache.Source{fromRedis, fetchFunc(n.fetch)}, Wait: 10 * time.Second, Missing: time.Second, Now: n.now}})
	known := sync.OnceFunc(func() { n.replica.Follow(&authz.Customer{ID: h.customer}) })
	n.follower = cache.NewFollower(cache.FollowerConfig{Records: n.replica.Records(), Control: n, Carrier: redisCarrier{n}, Lease: n.lease, Node: n.name, State: n.state,
		Save:     func(s cache.FollowerState) error { n.state = s; return nil },
		Begin:    func(string, int64) error { known(); return nil },
		Policies: func(int64) int64 { return 0 }, Staleness: staleness, Now: n.now, Log: quietLog})
	n.asking, n.deciding = false, false
}

// ask is one question to the control plane.
func (n *sidecar) ask() {
	if n.asking { // one at a time
		return
	}
	n.asking = true
	err := n.follower.Ask(context.Background())
	n.asking = false
	n.h.note("%s asks %s: at %d, %v", n.name, n.control.nameOf(), n.at(), err)
}

func (c *control) nameOf() string {
	if c == nil {
		return "nobody"
	}
	return c.name
}

func (n *sidecar) at() int64 {
	_, at := n.replica.Records().At(n.h.customer)
	return at
}

// redisFeed is what a sidecar finds of the feed in Redis.
func (n *sidecar) redisFeed(ctx context.Context, customer string, after int64, limit int) ([]cache.Posted, error) {
	h := n.h
	if h.cut || n.noRedis {
		return nil, errUnreachable
	}
	posted, err := h.s.shared.Feed(ctx, customer, after, limit)
	for _, p := range posted {
		h.posted = append(h.posted, string(p.Text))
	}
	h.interleave()
	return posted, err
}

// redisCarrier is Redis as a follower sees it.
type redisCarrier struct{ n *sidecar }

// Feed implements cache.Carrier.
func (c redisCarrier) Feed(ctx context.Context, customer string, after int64, limit int) ([]cache.Posted, error) {
	return c.n.redisFeed(ctx, customer, after, limit)
}

// Follow implements cache.Carrier: here nobody waits.
func (redisCarrier) Follow(context.Context, string, int64, func(cache.Posted), func(error)) {}

// look takes in what Redis has.
func (n *sidecar) look() {
	h := n.h
	ctx := context.Background()
	posted, err := n.redisFeed(ctx, h.customer, n.at(), 64)
	if err != nil {
		return
	}
	if found, err := h.s.raw.XRevRangeN(ctx, "lk1:{"+h.customer+"}:beat", "+", "-", 1).Result(); err == nil && len(found) > 0 {
		beat, _ := found[0].Values["h"].(string)
		posted = append(posted, cache.Posted{Beat: true, Text: []byte(beat)})
	}
	n.follower.Take(ctx, posted...)
	h.note("%s is given %d texts of Redis: at %d", n.name, len(posted), n.at())
}

// replay hands over what was there before, in any order.
func (n *sidecar) replay() {
	h := n.h
	var posted []cache.Posted
	if len(h.posted) > 0 {
		for range rapid.IntRange(0, 3).Draw(h.T, "old messages") {
			posted = append(posted, cache.Posted{Seq: 1, Text: []byte(rapid.SampledFrom(h.posted).Draw(h.T, "old message"))})
		}
	}
	if len(h.beaten) > 0 && rapid.Bool().Draw(h.T, "old heartbeat too") {
		posted = append(posted, cache.Posted{Beat: true, Text: []byte(rapid.SampledFrom(h.beaten).Draw(h.T, "old heartbeat"))})
	}
	n.follower.Take(context.Background(), posted...)
	h.note("%s is given %d old texts: at %d", n.name, len(posted), n.at())
}

// allows decides by one right alone.
func (n *sidecar) allows(r *right) (bool, error) {
	now := n.now()
	if !n.lease.Holds(now) {
		return false, errUnreachable
	}
	switch r.kind {
	case "grant":
		grants, err := n.replica.Grants(nil, r.subject.Type, r.subject.ID)
		if err != nil {
			return false, err
		}
		return live(grants, r, now), nil
	case "secret":
		kid, _ := authz.ParseKid(r.id)
		s, ok, err := n.replica.FindSecret(kid)
		return ok && now < s.EndsAt && s.Key.Status(now) == authz.Active, err
	}
	k, err := n.replica.FindKey(r.key)
	return err == nil && k != nil && k.Status(now) == authz.Active, err
}

func live(grants *authz.Grants, r *right, now latchkey.Instant) bool {
	if grants == nil {
		return false
	}
	at := slices.IndexFunc(grants.List, func(g authz.Grant) bool { return g.ID == r.id })
	return at >= 0 && now >= grants.List[at].NotBefore && now < grants.List[at].ExpiresAt
}

// decide holds a decision about a right to what was promised.
func (n *sidecar) decide(r *right) {
	h := n.h
	if n.deciding { // one that waits for this one would wait for ever
		return
	}
	n.deciding = true
	defer func() { n.deciding = false }()
	// What is known when the question comes counts; it may come to more meanwhile.
	before := *r
	epoch, at := n.replica.Records().At(h.customer)
	asked := h.now
	allow, err := n.allows(r)
	h.note("%s decides by %v: %t %v", n.name, r, allow, err)
	if !allow {
		return
	}
	// The node's clock may be behind those of the issuers by what is left of what
	// may be between two clocks.
	apart := time.Duration(0)
	for _, c := range h.controls {
		apart = max(apart, min(c.offset-n.offset, skew))
	}
	switch {
	case asked >= before.expires.Add(max(-n.offset, 0)):
		h.fail("%s allows by %v, which has ended %v ago", n.name, r, time.Duration(asked-before.expires)*time.Microsecond)
	case before.revoked == latchkey.Never:
	case epoch == before.epoch && at >= before.seq && (r.kind != "secret" || asked >= before.revoked.Add(max(-n.offset, 0))): // a secret ends at an instant
		h.fail("%s allows by %v, which change %d revoked, and it has applied %d", n.name, r, before.seq, at)
	case asked >= before.revoked.Add(staleness+skew+apart):
		h.fail("%s allows by %v, which was revoked %v ago", n.name, r, time.Duration(asked-before.revoked)*time.Microsecond)
	}
}

// decideAll decides by the latest rights.
func (n *sidecar) decideAll() {
	for _, r := range n.h.rights[max(0, len(n.h.rights)-8):] {
		n.decide(r)
	}
}

// Changes.

func (h *fleetHistory) change(do func(authz.Tx) error) (seq int64) {
	h.must(h.db.Change(context.Background(), authz.Change{Chain: h.customer, At: h.now}, func(tx authz.Tx) (audit.Draft, error) {
		seq = tx.Seq()
		return audit.Draft{ID: uuid.NewString(), At: h.now, Actor: audit.Actor{Type: "system"}, Action: "test", Outcome: "success"}, do(tx)
	}))
	return seq
}

func (h *fleetHistory) newID() string {
	h.made++
	return fmt.Sprintf("%08x-0000-4000-8000-%012x", h.made, h.s.played)
}

func (h *fleetHistory) newKid() string {
	h.made++
	return fmt.Sprintf("%06dK%05d", h.made, h.s.played%100000)
}

func (h *fleetHistory) secret(id authz.KeyID) (authz.KeySecret, *right) {
	r := &right{kind: "secret", id: h.newKid(), key: id, expires: latchkey.Never, revoked: latchkey.Never}
	kid, ok := authz.ParseKid(r.id)
	if !ok {
		h.fail("no kid: %s", r.id)
	}
	return authz.KeySecret{Kid: kid, Mode: authz.Live, Key: id, EndsAt: latchkey.Never}, r
}

func (h *fleetHistory) expiry() latchkey.Instant {
	if rapid.Bool().Draw(h.T, "never ends") {
		return latchkey.Never
	}
	return h.now.Add(time.Duration(rapid.IntRange(1, 60).Draw(h.T, "ends in")) * time.Second)
}

func (h *fleetHistory) createKey() {
	r := &right{kind: "key", id: h.newID(), expires: h.expiry(), revoked: latchkey.Never}
	r.key, _ = authz.ParseKeyID(r.id)
	secret, s := h.secret(r.key)
	s.expires = r.expires
	h.rights = append(h.rights, r, s)
	seq := h.change(func(tx authz.Tx) error {
		return tx.InsertKey(context.Background(), authz.Key{ID: r.key, Customer: h.customer, Handle: "h-" + s.id, Scopes: `{"customer":{"documents":[{"f":"*","p":2}]}}`,
			Metadata: `{"keyname":"k","username":"u"}`, ExpiresAt: r.expires, CreatedAt: h.now, RevokedAt: latchkey.Never, LastUsedAt: latchkey.Never, Version: tx.Seq()}, 0, secret)
	})
	h.note("%d: %v is made, with %v", seq, r, s)
}

func (h *fleetHistory) rotate(r *right) {
	secret, s := h.secret(r.key)
	s.expires = r.expires
	ends := map[authz.Kid]latchkey.Instant{}
	var ended []*right
	for _, old := range h.rights {
		if old.kind == "secret" && old.key == r.key && old.revoked == latchkey.Never {
			kid, _ := authz.ParseKid(old.id)
			ends[kid] = h.now
			ended = append(ended, old)
		}
	}
	seq := h.change(func(tx authz.Tx) error {
		return tx.RotateKey(context.Background(), authz.Key{ID: r.key, Handle: "h-" + s.id, RotatedFrom: "h"}, secret, ends)
	})
	for _, old := range ended {
		old.revoked, old.seq, old.epoch = h.now, seq, h.epoch
	}
	s.revoked, s.seq, s.epoch = r.revoked, r.seq, r.epoch
	h.rights = append(h.rights, s)
	h.note("%d: %v is rotated to %v", seq, r, s)
}

func (h *fleetHistory) createGrant() {
	r := &right{kind: "grant", id: h.newID(), expires: h.expiry(), revoked: latchkey.Never}
	r.subject = authz.EntityRef{Type: "user", ID: rapid.SampledFrom([]string{"a", "b"}).Draw(h.T, "subject")}
	h.rights = append(h.rights, r)
	seq := h.change(func(tx authz.Tx) error {
		return tx.InsertGrant(context.Background(), authz.GrantRecord{ID: r.id, Customer: h.customer, Subject: r.subject, Entries: `{"documents":[{"f":"*","p":2}]}`,
			NotBefore: h.now, ExpiresAt: r.expires, RevokedAt: latchkey.Never, CreatedAt: h.now})
	})
	h.note("%d: %v of %s is made", seq, r, r.subject.ID)
}

// revoke has a control plane revoke a right.
func (h *fleetHistory) revoke(c *control, r *right) {
	ctx := context.Background()
	call := authz.Call{Caller: h.s.root, Now: c.now()}
	call.Customer = c.table.Customer(h.customer)
	var seq int64
	var err error
	if r.kind == "grant" {
		var g authz.GrantRecord
		g, err = c.granter.Revoke(ctx, call, r.id)
		seq = g.Version
	} else {
		_, seq, err = c.keys.Revoke(ctx, call, r.key)
	}
	if latchkey.KindOf(err) == latchkey.Conflict { // it has ended
		return
	}
	h.must(err)
	for _, x := range h.rights {
		if (x == r || r.kind == "key" && x.key == r.key) && x.revoked == latchkey.Never {
			x.revoked, x.seq, x.epoch, x.by = h.now, seq, h.epoch, c
		}
	}
	h.note("%d: %s revokes %v", seq, c.name, r)
}

// What may happen.

func (h *fleetHistory) anyRight(kinds ...string) *right {
	var list []*right
	for _, r := range h.rights {
		if slices.Contains(kinds, r.kind) {
			list = append(list, r)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return rapid.SampledFrom(list).Draw(h.T, "right")
}

func (h *fleetHistory) sidecar() *sidecar { return rapid.SampledFrom(h.sidecars).Draw(h.T, "sidecar") }
func (h *fleetHistory) control() *control { return rapid.SampledFrom(h.controls).Draw(h.T, "control") }

// interleave lets something else happen while somebody is in the midst of
// something.
func (h *fleetHistory) interleave() {
	if h.depth >= 2 || rapid.IntRange(0, 3).Draw(h.T, "meanwhile") > 0 {
		return
	}
	h.depth++
	defer func() { h.depth-- }()
	h.note("meanwhile {")
	for range rapid.IntRange(1, 3).Draw(h.T, "so much") {
		h.step()
	}
	h.note("}")
}

// What may happen, and how often beside the others.
var often = map[string]int{
	"key": 2, "grant": 2, "rotate": 1, "revoke": 4, "decide": 8, "decide at control": 4, "killed": 1, "follow": 4, "publish": 5, "beat": 4, "late beat": 1,
	"ask": 6, "look": 6, "replay": 2, "beat alone": 3, "late fill": 3, "time": 6, "long time": 2,
	"restart sidecar": 1, "restart control": 1, "control down": 1, "other control": 2, "cut": 1, "cut one": 1, "isolate": 1,
	"trim": 1, "flush": 1, "copy": 1, "fail over": 1, "evict": 1, "poison": 1, "sweep": 1, "epoch": 1,
}

// always may happen in every history; of the others, each has some only, so that
// what undoes something does not follow everywhere.
var always = []string{"key", "grant", "revoke", "decide", "time"}

func drawSteps(t *rapid.T) (list []string) {
	for _, name := range slices.Sorted(maps.Keys(often)) {
		if slices.Contains(always, name) || rapid.IntRange(0, 2).Draw(t, name) > 0 {
			list = append(list, slices.Repeat([]string{name}, often[name])...)
		}
	}
	return list
}

func (h *fleetHistory) step() {
	ctx := context.Background()
	switch rapid.SampledFrom(h.steps).Draw(h.T, "step") {
	case "key":
		h.createKey()
	case "grant":
		h.createGrant()
	case "rotate":
		if r := h.anyRight("key"); r != nil {
			h.rotate(r)
		}
	case "revoke":
		if r := h.anyRight("key", "grant"); r != nil {
			h.revoke(h.control(), r)
		}
	case "decide":
		h.sidecar().decideAll()
	case "decide at control":
		c := h.control()
		for _, r := range h.rights[max(0, len(h.rights)-8):] {
			c.decide(r)
		}
	case "killed": // between commit and publish, and before anybody was told
		if r := h.anyRight("key", "grant"); r != nil && h.depth == 0 {
			c := h.control()
			h.revoke(c, r)
			c.restart()
			h.note("%s is killed", c.name)
		}
	case "follow":
		h.control().follow()
	case "publish":
		h.control().publish()
	case "beat":
		h.send(h.control().beat())
	case "late beat":
		if len(h.beaten) > 0 {
			h.send(rapid.SampledFrom(h.beaten).Draw(h.T, "late heartbeat"))
		}
	case "ask":
		h.sidecar().ask()
	case "look":
		h.sidecar().look()
	case "replay":
		h.sidecar().replay()
	case "beat alone": // messages are lost
		n := h.sidecar()
		n.follower.Take(ctx, cache.Posted{Beat: true, Text: []byte(h.control().beat())})
		h.note("%s is given a heartbeat: at %d", n.name, n.at())
	case "late fill":
		if len(h.late) > 0 {
			h.fill(rapid.SampledFrom(h.late).Draw(h.T, "late record"))
		}
	case "time":
		h.now = h.now.Add(time.Duration(rapid.IntRange(1, 3000).Draw(h.T, "ms")) * time.Millisecond)
	case "long time":
		h.now = h.now.Add(time.Duration(rapid.IntRange(5, 45).Draw(h.T, "s")) * time.Second)
		for _, n := range h.sidecars {
			if rapid.Bool().Draw(h.T, "old texts come late") {
				n.replay()
			}
			n.decideAll()
		}
	case "restart sidecar":
		if n := h.sidecar(); !n.asking && !n.deciding {
			n.restart()
			h.note("%s is restarted", n.name)
		}
	case "restart control":
		c := h.control()
		c.restart()
		h.note("%s is restarted", c.name)
	case "control down":
		c := h.control()
		c.down = !c.down
		h.note("%s is down: %t", c.name, c.down)
	case "other control":
		n := h.sidecar()
		n.noRedis = rapid.Bool().Draw(h.T, "without Redis")
		n.control = rapid.SampledFrom(append([]*control{nil}, h.controls...)).Draw(h.T, "control or none")
	case "cut":
		h.cut = !h.cut
		h.note("Redis is cut: %t", h.cut)
	case "cut one":
		n := h.sidecar()
		n.noRedis = !n.noRedis
		h.note("%s is without Redis: %t", n.name, n.noRedis)
	case "isolate":
		n := h.sidecar()
		n.control, n.noRedis = nil, true
		h.note("%s is alone", n.name)
	case "trim":
		_ = h.s.raw.XTrimMaxLen(ctx, "lk1:{"+h.customer+"}:feed", rapid.Int64Range(0, 2).Draw(h.T, "left")).Err() // what is poisoned is no stream
		h.note("the feed in Redis is trimmed")
	case "flush":
		h.must(h.s.raw.FlushAll(ctx).Err())
		h.note("Redis is flushed")
	case "copy":
		h.copies = append(h.copies, h.dump())
		h.note("a copy of Redis is taken")
	case "fail over":
		if len(h.copies) > 0 {
			h.restore(rapid.SampledFrom(h.copies).Draw(h.T, "copy"))
			h.note("Redis fails over to an older copy")
		}
	case "evict":
		if keys := h.keys(); len(keys) > 0 {
			key := rapid.SampledFrom(keys).Draw(h.T, "evicted")
			h.must(h.s.raw.Del(ctx, key).Err())
			h.note("Redis drops %s", key)
		}
	case "poison":
		h.poison()
	case "sweep":
		_, err := h.db.SweepFeed(ctx, h.now.Add(-10*time.Second))
		h.must(err)
		h.note("what the database tells of old changes is swept")
	case "epoch":
		if h.depth > 0 || rapid.IntRange(0, 3).Draw(h.T, "really") > 0 {
			return
		}
		h.epoch++
		for _, c := range h.controls {
			c.restart()
		}
		h.note("epoch %d begins", h.epoch)
	}
}

func (h *fleetHistory) keys() []string {
	keys, err := h.s.raw.Keys(context.Background(), "*").Result()
	h.must(err)
	slices.Sort(keys)
	return keys
}

func (h *fleetHistory) dump() map[string]string {
	all := map[string]string{}
	for _, key := range h.keys() {
		text, err := h.s.raw.Dump(context.Background(), key).Result()
		h.must(err)
		all[key] = text
	}
	return all
}

func (h *fleetHistory) restore(all map[string]string) {
	ctx := context.Background()
	h.must(h.s.raw.FlushAll(ctx).Err())
	for key, text := range all {
		h.must(h.s.raw.Restore(ctx, key, 0, text).Err())
	}
}

// poison puts something of an earlier time, of another place, or of nobody, in the
// place of something in Redis.
func (h *fleetHistory) poison() {
	ctx := context.Background()
	keys := h.keys()
	if len(keys) == 0 {
		return
	}
	key := rapid.SampledFrom(keys).Draw(h.T, "poisoned")
	text := ""
	if len(h.copies) > 0 && rapid.Bool().Draw(h.T, "by something older") {
		text = rapid.SampledFrom(h.copies).Draw(h.T, "copy")[key]
	}
	if text == "" {
		other, err := h.s.raw.Dump(ctx, rapid.SampledFrom(keys).Draw(h.T, "other")).Result()
		h.must(err)
		text = other
	}
	h.must(h.s.raw.RestoreReplace(ctx, key, 0, text).Err())
	h.note("%s in Redis is poisoned", key)
}

// recovers lets everything be healthy, and holds every node to what the database
// says once it had the time to hear of it.
func (h *fleetHistory) recovers() {
	h.cut = false
	for i, n := range h.sidecars {
		if n.offset.Abs() > skew {
			n.offset = 0 // its clock is set
			n.restart()
		}
		n.noRedis, n.control = false, h.controls[i]
	}
	if rapid.Bool().Draw(h.T, "Redis is put in order by an operator") {
		h.must(h.s.raw.FlushAll(context.Background()).Err())
	}
	for _, c := range h.controls {
		c.down = false
		if rapid.Bool().Draw(h.T, "restarted") {
			c.restart()
		}
	}
	h.depth = 2 // nothing comes between any more
	for range 4 {
		h.now = h.now.Add(11 * time.Second)
		for _, c := range h.controls {
			c.follow()
			c.publish()
			h.send(c.beat())
		}
		for _, n := range h.sidecars {
			n.look()
			n.ask()
			n.look()
		}
	}
	h.now = h.now.Add(2 * time.Second) // what is not there is remembered for 1 s
	for _, n := range h.sidecars {
		for _, r := range h.rights {
			want := h.now < r.expires && r.revoked == latchkey.Never
			if h.now.Add(-skew) < r.expires && h.now.Add(skew) >= r.expires {
				continue // as the node's clock has it
			}
			if got, err := n.allows(r); err != nil || got != want {
				h.fail("%s, once all is well, allows by %v: %t %v, want %t", n.name, r, got, err, want)
			}
			for _, c := range h.controls {
				if got, err := c.allows(r); err != nil || got != want {
					h.fail("%s, once all is well, allows by %v: %t %v, want %t", c.name, r, got, err, want)
				}
			}
		}
	}
}

var histories = flag.Int("histories", 300, "histories of a fleet to play")

// No right that was revoked or has ended comes back, whatever happens between the
// nodes, and once all is well again every node says what the database says.
func TestHistories_NoRightIsResurrected(t *testing.T) {
	checks := flag.Lookup("rapid.checks")
	before := checks.Value.String()
	t.Cleanup(func() { _ = checks.Value.Set(before) }) // it was a number
	if err := checks.Value.Set(strconv.Itoa(*histories)); err != nil {
		t.Fatal(err)
	}
	s := newStage(t)
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory(t, s)
		for range rapid.IntRange(10, 120).Draw(t, "steps") {
			h.step()
		}
		h.recovers()
	})
}
