package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sys/unix"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/internal/keyring"
	"github.com/latchkey-dev/latchkey/internal/vault"
	"github.com/latchkey-dev/latchkey/notify"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
	"github.com/latchkey-dev/latchkey/server"
	"github.com/latchkey-dev/latchkey/store"
)

// compiledRegexps is how many compiled restrictions are kept.
const compiledRegexps = 4096

// keptMetadata is of how many keys the metadata is kept in memory, once a
// policy has read it.
const keptMetadata = 65536

// Storage are the flags of commands that open the data directory.
type Storage struct {
	Data        string `help:"Data directory; made where it is missing." default:"data" type:"path" env:"LATCHKEY_DATA" placeholder:"DIR"`
	KeyringFile string `help:"File of the secrets that the server makes for itself; in the data directory where empty." type:"path" env:"LATCHKEY_KEYRING_FILE" placeholder:"FILE"`
	PepperFile  string `help:"File of peppers, one a line, the current one first: secrets are kept as HMAC-SHA-256 under them." type:"path" env:"LATCHKEY_PEPPER_FILE" placeholder:"FILE"`
	Database    string `help:"PostgreSQL in place of the file in the data directory: postgres://USER@HOST:PORT/NAME. A password belongs in the environment or in a password file, not on the command line." env:"LATCHKEY_DATABASE" placeholder:"URL"`
}

func (s *Storage) keyring() string {
	if s.KeyringFile != "" {
		return s.KeyringFile
	}
	return filepath.Join(s.Data, "keyring.json")
}

// database says where the record is.
func (s *Storage) database() (store.Config, error) {
	if s.Database == "" {
		return store.Config{Path: s.sqlite()}, nil
	}
	if err := store.ParsePostgresURL(s.Database); err != nil {
		return store.Config{}, usage("--database: %w", err)
	}
	return store.Config{URL: s.Database}, nil
}

func (s *Storage) sqlite() string { return filepath.Join(s.Data, "latchkey.db") }

func (s *Storage) peppers() (*authz.Peppers, error) {
	if s.PepperFile == "" {
		return &authz.Peppers{}, nil
	}
	text, err := os.ReadFile(s.PepperFile)
	if err != nil {
		return nil, fmt.Errorf("read the peppers: %w", err)
	}
	p, err := authz.ParsePeppers(string(text))
	if err != nil {
		return nil, usage("--pepper-file: %w", err)
	}
	return p, nil
}

// lock takes the data directory for this process alone, making it where it is
// missing. SQLite has one writer, and the key table one owner.
func (s *Storage) lock() (unlock func() error, err error) {
	if err := os.MkdirAll(s.Data, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(s.Data, "latchkey.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the data directory cannot be written: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another latchkey process holds the data directory %s", s.Data), f.Close())
	}
	return f.Close, nil // closing unlocks
}

// base is what serve, init and the offline verbs share: the locked directory,
// the database, and the root key.
type base struct {
	db       *store.DB
	keyring  *keyring.Keyring
	peppers  *authz.Peppers
	root     *authz.RootKey
	madeRoot *authz.Token
	unlock   func() error
}

func (s *Storage) open(ctx context.Context, now func() time.Time, change ...func(*store.Config)) (_ *base, err error) {
	database, err := s.database()
	if err != nil {
		return nil, err
	}
	b := &base{} // not the result: a return of nil must leave it to be closed
	if b.peppers, err = s.peppers(); err != nil {
		return nil, err
	}
	fixed, err := fixedRootKey()
	if err != nil {
		return nil, err
	}
	if b.unlock, err = s.lock(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.keyring, err = keyring.LoadOrCreate(s.keyring()); err != nil {
		return nil, err
	}
	database.MAC = b.keyring.AuditMAC
	for _, c := range change {
		c(&database)
	}
	if b.db, err = store.OpenConfig(ctx, database); err != nil {
		return nil, err
	}
	at := latchkey.InstantOf(now())
	if err := b.establish(ctx, s, at); err != nil {
		return nil, err
	}
	if err := b.defaultCustomer(ctx, at); err != nil {
		return nil, err
	}
	b.root = authz.NewRootKey(b.db, b.peppers)
	b.madeRoot, err = b.root.Establish(ctx, fixed, at)
	return b, err
}

// establish makes the installation of a first start. A file in the data directory
// has its keyring beside it; a database that servers share tells who of them has
// another one.
func (b *base) establish(ctx context.Context, s *Storage, at latchkey.Instant) error {
	var prints map[string]string
	if s.Database != "" {
		prints = b.keyring.Fingerprints()
	}
	return b.db.Establish(ctx, at, prints)
}

// defaultCustomer makes the customer of a first start, as the process itself.
func (b *base) defaultCustomer(ctx context.Context, at latchkey.Instant) error {
	_, err := b.db.CustomerRecord(ctx, authz.DefaultCustomer)
	if latchkey.KindOf(err) != latchkey.NotFound {
		return err
	}
	err = authz.NewCustomers(b.db, &cache.Table{}).Establish(ctx, authz.DefaultCustomer, at)
	if latchkey.KindOf(err) == latchkey.Conflict { // another process has, just now
		return nil
	}
	return err
}

func (b *base) close() error {
	var err error
	if b.db != nil {
		err = b.db.Close()
	}
	if b.unlock != nil {
		err = errors.Join(err, b.unlock())
	}
	return err
}

// fixedRootKey is LATCHKEY_ROOT_KEY, nil when it is not set.
func fixedRootKey() (*authz.Token, error) {
	text := os.Getenv("LATCHKEY_ROOT_KEY")
	if text == "" {
		return nil, nil
	}
	token, ok := authz.ParseToken([]byte(text))
	if !ok || token.Kind != authz.RootCredential {
		return nil, usage("LATCHKEY_ROOT_KEY is not a root key: want lkr1_…, with a checksum that holds")
	}
	return &token, nil
}

// node is a running server's parts.
type node struct {
	*base
	table    *cache.Table
	entities *cache.Directory
	subjects *cache.Subjects // grants
	uses     *authz.Uses
	refusals *authz.Refusals
	anchored map[string]int64 // chain → the sequence number of its last anchor
	api      *server.Server
	registry *prometheus.Registry
	unusable atomic.Int64 // stored policies that did not compile at the start
	log      *slog.Logger
	now      func() time.Time

	data     string // the directory
	parser   *scopes.Parser
	policies *authz.Policies
	// waiting says what decisions wait for, "" once they can be made.
	waiting atomic.Pointer[string]

	decisionLog *notify.DecisionLog // nil where it is off
	bundles     *pulledBundles
	follow      *following

	feed  *authz.Feed
	nodes *authz.Nodes
	redis *cache.Redis // nil for none, as relay
	relay *cache.Relay

	vault   *vault.Vault  // customers' secrets
	guard   *notify.Guard // of addresses that customers set
	telling *telling      // webhooks and e-mail
	tasks   *taskRunning
	auto    *notify.AutoApproval // what approves requests by itself

	requests *access.Requests
	sweep    time.Duration // how often what has expired is written down
}

// nodeConfig is what a node is given beside its flags.
type nodeConfig struct {
	id, baseURL string
	tracer      trace.Tracer
	log         *slog.Logger
	stdout      io.Writer        // where the decision log may go
	now         func() time.Time // nil: the system's clock
}

// openNode puts the parts together. Its server can be started, and denies, until
// load has filled the table.
func openNode(ctx context.Context, cmd *ServeCmd, with nodeConfig) (*node, error) {
	now, log := with.now, with.log
	if now == nil {
		now = newClock()
	}
	routes, err := cmd.routes()
	if err != nil {
		return nil, err
	}
	sources, err := cmd.bundleSources()
	if err != nil {
		return nil, err
	}
	issuers, err := cmd.issuers()
	if err != nil {
		return nil, err
	}
	b, err := cmd.open(ctx, now, func(c *store.Config) { c.Connections, c.NoMigrate = cmd.DatabaseConnections, cmd.NoMigrate })
	if err != nil {
		return nil, err
	}
	n := &node{base: b, data: cmd.Data, sweep: cmd.AccessSweep, table: &cache.Table{}, entities: cache.NewDirectory(), log: log, now: now, registry: prometheus.NewRegistry()}
	parser := scopes.NewParser(compiledRegexps)
	n.parser = parser
	n.waitFor("records are being loaded")
	if n.guard, err = cmd.openGuard(); err != nil {
		return nil, errors.Join(err, n.close())
	}
	if err := n.openVault(ctx, cmd.SecretsKeyFile); err != nil {
		return nil, errors.Join(err, n.close())
	}
	if n.auto, err = cmd.OnCall.open(n.guard, n.registry); err != nil {
		return nil, errors.Join(err, n.close())
	}
	if n.bundles, err = newPulledBundles(sources, n, cmd.Data); err != nil {
		return nil, errors.Join(err, n.close())
	}
	signer, err := bundleSigner(b.keyring)
	if err != nil {
		return nil, errors.Join(err, n.close())
	}
	n.policies = authz.NewPolicies(authz.PoliciesConfig{Record: b.db, Table: n.table, Origin: n.bundles.Origin})
	n.uses, n.refusals, n.anchored = authz.NewUses(b.db), authz.NewRefusals(b.db), map[string]int64{}
	auth := authz.NewAuthenticator(n.table, b.peppers, b.root, n.uses)
	publicURL := cmd.PublicURL
	if publicURL == "" {
		publicURL = with.baseURL
	}
	epoch, err := b.db.Epoch(ctx)
	if err != nil {
		return nil, errors.Join(err, n.close())
	}
	n.subjects = n.subjectGrants(int64(cmd.GrantCache)<<20, epoch)
	directory := authz.NewDirectory(b.db, n.entities, int64(cmd.MaxDirectory)<<20)
	n.follow = n.newFollowing(cmd, directory)
	n.follow.Observe(n.subjects.Observe)
	if err := n.openFeed(cmd, with.id, epoch); err != nil {
		return nil, errors.Join(err, n.close())
	}
	pdp := authz.NewPDP(authz.PDPConfig{Keys: n.table, Auth: auth, Metadata: authz.NewMetadata(b.db, keptMetadata), Grants: n.subjects, Properties: n.entities,
		MaxStaleness: cmd.MaxStaleness, Lease: n.follow.lease, ServeStale: cmd.ServeStaleFor, Concurrency: atOnce(cmd.PolicyConcurrency)})
	n.follow.pdp = pdp
	n.register(auth)
	cfg := server.Config{
		Authenticator: auth,
		Keys: authz.NewKeys(authz.KeysConfig{Record: b.db, Table: n.table, Parser: parser, Peppers: b.peppers,
			Mode: authz.Mode(cmd.KeyMode), MaxActive: cmd.MaxActiveKeys}),
		Customers: authz.NewCustomers(b.db, n.table).From(n.bundles.Origin),
		Policies:  n.policies,
		Sets:      authz.NewSets(authz.SetsConfig{Record: b.db, Origin: n.bundles.Origin}),
		Feed:      n.feed, Nodes: n.nodes, MaxStaleness: cmd.MaxStaleness,
		Bundles: n.bundles, BundleSigner: signer,
		Root:      b.root,
		Directory: directory,
		Searcher:  authz.NewSearcher(b.db, pdp),
		PDP:       pdp,
		Table:     n.table, Parser: parser, Record: b.db, Events: b.db, Refusals: n.refusals, Ready: n.ready,
		Log: log, Registry: n.registry, Now: now,
		PublicURL: publicURL, NodeID: with.id, Tracer: with.tracer, SealKey: b.keyring.Seal,
		TooManyKeysStatus: cmd.Compat.TooManyKeysStatus, CompatJobFlow: cmd.CompatJobflow, TrustedProxies: cmd.TrustedProxies,
		AuthFailureRate: cmd.AuthFailures, LogDecisions: cmd.LogDecisions,
		Routes: routes, ForwardCache: cmd.ForwardCache,
		ReadTimeout: cmd.ReadTimeout, WriteTimeout: cmd.WriteTimeout, IdleTimeout: cmd.IdleTimeout,
	}
	if err := n.openTasks(ctx, cmd.EnableScriptTasks, &cfg); err != nil {
		return nil, errors.Join(err, n.close())
	}
	n.access(&cfg)
	n.people(&cfg, issuers)
	if err := n.openDeliveries(cmd, &cfg); err != nil {
		return nil, errors.Join(err, n.close())
	}
	if n.decisionLog, err = cmd.DecisionLog.open(with, n.registry); err != nil {
		return nil, errors.Join(err, n.close())
	}
	if n.decisionLog != nil { // an interface that holds nil would not be nil
		cfg.DecisionLog = n.decisionLog
	}
	if n.relay != nil {
		cfg.Filler = n.relay
	}
	n.api = server.New(cfg)
	n.follow.Observe(n.api.Observe)
	return n, nil
}

// What a look-up of grants may take, and how long it is kept that there is no
// such subject.
const (
	grantWait    = time.Second
	grantMissing = time.Second
)

// subjectGrants keeps about so many bytes of grants of subjects that are not
// access keys; what is not kept is read from the database.
func (n *node) subjectGrants(most, epoch int64) *cache.Subjects {
	now := func() latchkey.Instant { return latchkey.InstantOf(n.now()) }
	return cache.NewSubjects(cache.NewRecords(cache.RecordsConfig{
		MaxBytes: most, Sources: []cache.Source{&cache.SubjectSource{Record: n.db, Epoch: epoch, Now: now}},
		Decode: func(rec *feed.Record) (any, int, error) { return cache.DecodeSubject(n.parser, rec) },
		Wait:   grantWait, Missing: grantMissing, Now: now,
	}), n.db, epoch)
}

// load fills memory with what decisions need.
func (n *node) load(ctx context.Context) error {
	atStart := debug.SetGCPercent(400) // loading makes much that lives, and little garbage
	if err := n.checkRedis(ctx); err != nil {
		return err
	}
	if err := n.follow.Begin(ctx); err != nil {
		return err
	}
	if err := n.db.Load(ctx, n.table, n.parser, n.peppers, latchkey.InstantOf(n.now())); err != nil {
		return err
	}
	if err := n.subjects.Start(ctx); err != nil {
		return err
	}
	if err := authz.LoadGrants(ctx, n.db, n.table, n.parser, latchkey.InstantOf(n.now())); err != nil {
		return err
	}
	if err := authz.LoadProperties(ctx, n.db, n.entities); err != nil {
		return err
	}
	unusable, err := n.policies.Load(ctx, latchkey.InstantOf(n.now()))
	if err != nil {
		return err
	}
	for _, p := range unusable {
		n.sayUnusable(p)
	}
	n.unusable.Store(int64(len(unusable)))
	if err := n.nodes.Read(ctx, "", latchkey.InstantOf(n.now())); err != nil {
		return err
	}
	if err := n.bundles.await(); err != nil {
		return err
	}
	setHeadroom(atStart)
	return n.follow.Sweep(ctx)
}

func (n *node) waitFor(what string) { n.waiting.Store(&what) }

// ready implements server.Config.Ready.
func (n *node) ready(now latchkey.Instant) server.Readiness {
	if what := *n.waiting.Load(); what != "" {
		return server.Readiness{Code: authz.NotReady, Detail: what}
	}
	return n.follow.readiness(now)
}

// atOnce is how many evaluations of one customer may run at the same time: some
// processors are always left to the others.
func atOnce(chosen int) int {
	if chosen > 0 {
		return chosen
	}
	return max(1, runtime.GOMAXPROCS(0)/2)
}

// setHeadroom lets the heap grow by a fixed amount between two collections,
// rather than by a share of what lives: the table lives as long as the process.
// A small server is then not collected many times a second, and one with a
// million keys does not hold twice their memory.
func setHeadroom(chosen int) {
	const least = 64 << 20
	debug.FreeOSMemory()         // what loading left behind; collects first
	if os.Getenv("GOGC") != "" { // the operator has chosen
		debug.SetGCPercent(chosen)
		return
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	live := max(m.HeapAlloc, 1<<20)
	debug.SetGCPercent(int(100 * max(least, live/4) / live))
}

// eachSnapshot sums what is of every customer's snapshot in force.
func (n *node) eachSnapshot(of func(*policies.Snapshot) float64, combine func(a, b float64) float64) func() float64 {
	return func() float64 {
		all := 0.0
		n.table.EachCustomer(func(c *authz.Customer) { all = combine(all, of(c.Policies.Snapshot())) })
		return all
	}
}

func sum(a, b float64) float64   { return a + b }
func later(a, b float64) float64 { return max(a, b) }

func (n *node) register(auth *authz.Authenticator) {
	counter := func(name, help string, value func() float64) {
		n.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value))
	}
	gauge := func(name, help string, value func() float64) {
		n.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	gauge("latchkey_keys", "Access keys held in memory, ended ones too.", func() float64 { return float64(n.table.Len()) })
	gauge("latchkey_entities", "Subjects and resources with stored properties, held in memory.", func() float64 { return float64(n.entities.Len()) })
	gauge("latchkey_key_lookups", "Look-ups of secrets in the key table since the start.", func() float64 { return float64(n.table.Lookups()) })
	gauge("latchkey_tokens_refused_unread", "Tokens refused since the start for their form or checksum, with no look-up.", func() float64 { return float64(auth.RefusedUnread()) })
	gauge("latchkey_uses_dropped", "Last uses of keys that went unrecorded since the start.", func() float64 { return float64(n.uses.Dropped()) })
	gauge("latchkey_policies_unusable", "Stored policies that did not compile at the start; each denies whoever asks it.", func() float64 { return float64(n.unusable.Load()) })
	gauge("latchkey_policies", "Policies in force.", n.eachSnapshot(func(s *policies.Snapshot) float64 { return float64(len(s.Policies())) }, sum))
	gauge("latchkey_sets", "Sets in force.", n.eachSnapshot(func(s *policies.Snapshot) float64 { return float64(len(s.Sets())) }, sum))
	gauge("latchkey_snapshot_revision", "Highest revision of a snapshot in force: the sequence number of the change that it holds.",
		n.eachSnapshot(func(s *policies.Snapshot) float64 { return float64(s.Revision) }, later))
	gauge("latchkey_snapshot_activated_timestamp_seconds", "When a snapshot was last put in force, in Unix time.",
		n.eachSnapshot(func(s *policies.Snapshot) float64 { return float64(s.ActivatedAt) / 1e6 }, later))
	counter("latchkey_memo_hits_total", "Evaluations of Rego policies that the memo answered.", func() float64 { hits, _ := policies.MemoStats(); return float64(hits) })
	counter("latchkey_memo_misses_total", "Evaluations of Rego policies that the memo could have answered and did not.", func() float64 { _, misses := policies.MemoStats(); return float64(misses) })
	gauge("latchkey_refusals_unrecorded", "Refusals since the start that could not be written to the audit trail.", func() float64 { return float64(n.refusals.Dropped()) })
	n.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}

// loop does the background work until ctx ends, and once more then, so that
// nothing that waits is lost.
func (n *node) loop(ctx context.Context) {
	n.anchor(ctx)
	anchors := time.NewTicker(time.Minute)
	defer anchors.Stop()
	for {
		wait := 5*time.Second + rand.N(time.Second) // jitter
		select {
		case <-ctx.Done():
			n.tick(true)
			n.anchor(context.Background())
			return
		case <-anchors.C:
			n.anchor(ctx)
			n.sweepFeed(ctx)
		case <-time.After(wait):
			n.tick(false)
		}
	}
}

func (n *node) tick(final bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := n.uses.RunOnce(ctx); err != nil {
		n.log.Warn("background", "job", "uses", "error", err.Error())
	}
	if _, err := n.refusals.RunOnce(ctx, latchkey.InstantOf(n.now()), final); err != nil {
		n.log.Warn("background", "job", "refusals", "error", err.Error())
	}
	if _, err := n.db.SweepReplies(ctx, latchkey.InstantOf(n.now())); err != nil {
		n.log.Warn("background", "job", "replies", "error", err.Error())
	}
}

// keptFeed is for how long the database tells what changes touched. Who follows
// them and was away for longer reads everything anew.
const keptFeed = 24 * time.Hour

func (n *node) sweepFeed(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := n.db.SweepFeed(ctx, latchkey.InstantOf(n.now()).Add(-keptFeed)); err != nil {
		n.log.Warn("background", "job", "feed", "error", err.Error())
	}
}

// anchor logs the head of every chain that has moved since its last anchor: in
// the log it is out of reach of who puts the database back to an earlier copy.
func (n *node) anchor(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	heads, forged, err := n.db.Heads(ctx)
	if err != nil {
		n.log.Warn("background", "job", "anchors", "error", err.Error())
	}
	for _, h := range forged {
		n.log.Error("audit_head_forged", "chain", h.Chain, "seq", h.Seq)
	}
	for _, h := range heads {
		if n.anchored[h.Chain] != h.Seq {
			n.anchored[h.Chain] = h.Seq
			slog.New(always{n.log.Handler()}).Info(audit.AnchorEvent, "chain", h.Chain, "seq", h.Seq, "hash", h.Hash.String(), "mac", hex.EncodeToString(h.MAC))
		}
	}
}

// always lets through what must not depend on the level of the log.
type always struct{ slog.Handler }

// Enabled implements slog.Handler.
func (always) Enabled(context.Context, slog.Level) bool { return true }

// newClock returns a clock that never runs backwards within the process,
// whatever is done to the system's.
func newClock() func() time.Time {
	var latest atomic.Int64
	return func() time.Time {
		now := time.Now()
		for {
			was := latest.Load()
			if now.UnixNano() >= was {
				if latest.CompareAndSwap(was, now.UnixNano()) {
					return now
				}
				continue
			}
			return time.Unix(0, was)
		}
	}
}

// nodeID names this process to people: the host, and something that a restart
// changes.
func nodeID() string {
	host, err := os.Hostname()
	if err != nil {
		host = "latchkey"
	}
	return host + "-" + uuid.NewString()[:8]
}
