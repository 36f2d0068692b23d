package server_test

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"net/http/httptest"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/deliveries"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/internal/servers"
	"github.com/latchkey-dev/latchkey/notify"
	"github.com/latchkey-dev/latchkey/people"
	"github.com/latchkey-dev/latchkey/scopes"
	"github.com/latchkey-dev/latchkey/server"
	"github.com/latchkey-dev/latchkey/store"
)

// clock is the only time that a server under test knows.
type clock struct{ micros atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.micros.Store(time.Date(2026, 11, 21, 22, 10, 0, 0, time.UTC).UnixMicro())
	return c
}

func (c *clock) now() time.Time            { return time.UnixMicro(c.micros.Load()) }
func (c *clock) advance(d time.Duration)   { c.micros.Add(d.Microseconds()) }
func (c *clock) in(d time.Duration) string { return c.now().Add(d).UTC().Format(time.RFC3339Nano) }

// buffer is a log that may be written and read at the same time.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// options are what a test may set; the rest is as the program wires it.
type options struct {
	config       server.Config
	clock        *clock
	dir          string // an earlier server's, to go on from
	maxActive    int
	maxDirectory int64
	mode         authz.Mode
	peppers      string
	record       func(authz.Record) authz.Record // stands between the services and the database
	origin       func(customer string) string
	sets         authz.SetsConfig
	requests     func(*access.RequestsConfig)
	feedBytes    int64           // that are kept for sidecars
	nodes        authz.NodeStore // shared with other servers
	lease        *feed.Lease     // until when decisions may be made
	serveStale   time.Duration   // and for how long after that they are all the same
	auto         access.AutoApprover
	tamper       bool // the test breaks the audit chain on purpose
	noPersons    bool // as on a sidecar
}

// api is a whole server in this process: SQLite in a directory of its own, a
// TCP listener on loopback, and a client.
type api struct {
	testing.TB
	clock    *clock
	dir      string
	db       *store.DB
	table    *cache.Table
	entities *cache.Directory
	subjects *cache.Subjects
	auth     *authz.Authenticator
	uses     *authz.Uses
	refusals *authz.Refusals
	feed     *authz.Feed
	nodes    *authz.Nodes
	requests *access.Requests

	nodesStore authz.NodeStore
	following  sync.Mutex
	followed   map[string]int64 // chain → the last change that the feed was told of

	registry *prometheus.Registry
	log      *buffer
	addr     string
	client   *http.Client
	root     string
	server   *server.Server
	sockets  []chan error // of further listeners
	stop     func()

	unusable int // stored policies that did not compile

	lost bool // the database, on purpose

	mu      sync.Mutex
	secrets []string
	written int // events that tests made up
}

var (
	auditMAC = bytes.Repeat([]byte{7}, 32)
	sealKey  = bytes.Repeat([]byte{9}, 32)
)

// rootTokens remembers the root key of a directory that a second server opens.
var rootTokens sync.Map

// start runs a server until the test ends, and then holds it to what must be
// true after every test: no secret in any place where it does not belong, and
// audit chains that hold.
func start(t testing.TB, change ...func(*options)) *api {
	t.Helper()
	o := options{maxActive: 10, maxDirectory: 1 << 30, mode: authz.Live}
	for _, c := range change {
		c(&o)
	}
	if o.clock == nil {
		o.clock = newClock()
	}
	if o.dir == "" {
		o.dir = t.TempDir()
	}
	ctx := context.Background()
	a := &api{TB: t, nodesStore: o.nodes, followed: map[string]int64{}, clock: o.clock, dir: o.dir, table: &cache.Table{}, log: &buffer{}, registry: prometheus.NewRegistry()}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	peppers := &authz.Peppers{}
	if o.peppers != "" {
		peppers, err = authz.ParsePeppers(o.peppers)
		must(err)
	}
	a.db, err = store.OpenConfig(ctx, databaseIn(t, o.dir))
	must(err)
	var record authz.Record = a.db
	if o.record != nil {
		record = o.record(record)
	}
	at := latchkey.InstantOf(a.clock.now())
	if _, err := a.db.CustomerRecord(ctx, authz.DefaultCustomer); latchkey.KindOf(err) == latchkey.NotFound {
		must(authz.NewCustomers(a.db, &cache.Table{}).Establish(ctx, authz.DefaultCustomer, at))
	}
	root := authz.NewRootKey(record, peppers)
	made, err := root.Establish(ctx, nil, at)
	must(err)
	if made != nil {
		a.root = made.Reveal()
		rootTokens.Store(o.dir, a.root)
	} else if known, ok := rootTokens.Load(o.dir); ok {
		a.root = known.(string)
	}
	a.keep(a.root)
	parser := scopes.NewParser(64)
	must(a.db.Load(ctx, a.table, parser, peppers, at))
	a.uses, a.refusals = authz.NewUses(record), authz.NewRefusals(record)
	a.auth = authz.NewAuthenticator(a.table, peppers, root, a.uses)

	cfg := o.config
	cfg.Authenticator, cfg.Table, cfg.Parser, cfg.Record, cfg.Events, cfg.Root = a.auth, a.table, parser, record, a.db, root
	cfg.Keys = authz.NewKeys(authz.KeysConfig{Record: record, Table: a.table, Parser: parser, Peppers: peppers, Mode: o.mode, MaxActive: o.maxActive})
	cfg.Customers, cfg.Refusals = authz.NewCustomers(record, a.table).From(o.origin), a.refusals
	cfg.BundleSigner = bundleSigner(t)
	now := func() latchkey.Instant { return latchkey.InstantOf(a.clock.now()) }
	a.feed = authz.NewFeed(authz.FeedConfig{Record: record, Maker: &authz.RecordMaker{Record: record, Epoch: testEpoch}, Signer: feedSigner(t), Issuer: "node-1", Now: now, MaxBytes: cmp.Or(o.feedBytes, 1<<20)})
	a.nodes = authz.NewNodes(o.nodes, o.nodes != nil, 30*time.Second)
	cfg.Feed, cfg.Nodes = a.feed, a.nodes
	cfg.Policies = authz.NewPolicies(authz.PoliciesConfig{Record: record, Table: a.table, Origin: o.origin})
	unusable, err := cfg.Policies.Load(ctx, at)
	must(err)
	a.unusable = len(unusable)
	a.entities = cache.NewDirectory()
	must(authz.LoadProperties(ctx, a.db, a.entities))
	cfg.Directory = authz.NewDirectory(record, a.entities, o.maxDirectory)
	a.subjects = subjectGrants(record, parser, func() latchkey.Instant { return latchkey.InstantOf(a.clock.now()) })
	must(a.subjects.Start(ctx))
	must(authz.LoadGrants(ctx, a.db, a.table, parser, at))
	cfg.Rights = people.NewRights(a.db)
	requests := access.RequestsConfig{Record: a.db.Access(), Parser: parser, Subjects: a.subjects, Auto: o.auto, Now: now,
		Troubled: func(_ context.Context, what string, err error) {
			slog.New(slog.NewJSONHandler(a.log, nil)).Warn("access_request", "problem", what, "error", err.Error())
		}}
	if o.requests != nil {
		o.requests(&requests)
	}
	a.requests = access.NewRequests(requests)
	cfg.Requests, cfg.Templates = a.requests, access.NewTemplates(access.TemplatesConfig{Record: a.db.Access(), Parser: parser, Auto: requests.Auto})
	cfg.Granter = authz.NewGranter(authz.GranterConfig{Record: record, Table: a.table, Parser: parser, Subjects: a.subjects, Requests: a.requests, Entitlements: access.Entitled{}})
	cfg.PDP = authz.NewPDP(authz.PDPConfig{Keys: a.table, Auth: a.auth, Metadata: authz.NewMetadata(record, 16), Grants: a.subjects, Properties: a.entities, MaxStaleness: 30 * time.Second,
		Lease: o.lease, ServeStale: o.serveStale, Concurrency: 2})
	if o.lease != nil {
		cfg.Ready = func(now latchkey.Instant) server.Readiness {
			f, _ := cfg.PDP.Freshness(nil, now)
			if f == authz.Fresh {
				return server.Readiness{}
			}
			return server.Readiness{Code: authz.Stale, Detail: "no word from the database", Decides: f == authz.ServedStale}
		}
	}
	cfg.Tokens = people.NewTokens(a.db.People(), peppers)
	if cfg.People = cfg.Tokens; o.noPersons {
		cfg.People = nil
	}
	staff := people.Config{Record: a.db.People(), Tokens: cfg.Tokens, Keys: cfg.Keys, Table: a.table, Parser: parser, Grants: a.subjects}
	cfg.Persons, cfg.Groups, cfg.Catalogue = people.NewPersons(staff), people.NewGroups(staff), people.NewCatalogue(staff)
	cfg.Webhooks = deliveries.New(deliveries.Config{Record: a.db.Deliveries(), Vault: testVault(t), Addresses: notify.NewGuard(notify.GuardConfig{})})
	cfg.Approvals = access.NewApprovals(access.ApprovalsConfig{Record: a.db.Access(), Requests: cfg.Requests, Parser: parser})
	cfg.Searcher = authz.NewSearcher(record, cfg.PDP)
	cfg.Tasks = taskService(t, a.db, true)
	o.sets.Record, o.sets.Origin = record, o.origin
	cfg.Sets = authz.NewSets(o.sets)
	cfg.Log = slog.New(slog.NewJSONHandler(a.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg.Registry, cfg.Now, cfg.NodeID, cfg.SealKey = a.registry, a.clock.now, "node-1", sealKey
	if cfg.PublicURL == "" {
		cfg.PublicURL = "https://pdp.example.com"
	}
	s := server.New(cfg)
	a.server = s
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	a.addr = ln.Addr().String()
	a.client = &http.Client{
		Timeout:       time.Minute, // a test that hangs should say where
		Transport:     &http.Transport{MaxIdleConnsPerHost: 64},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln, nil) }()
	a.stop = sync.OnceFunc(func() {
		a.client.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("shut down: %v", err)
		}
		_ = ln.Close() // one that was shut down before it began to serve has not closed it
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		for _, socket := range a.sockets {
			if err := <-socket; err != nil {
				t.Errorf("serve a socket: %v", err)
			}
		}
		if !a.lost {
			if _, err := a.uses.RunOnce(context.Background()); err != nil {
				t.Errorf("write last uses: %v", err)
			}
			if _, err := a.refusals.RunOnce(context.Background(), latchkey.InstantOf(a.clock.now()), true); err != nil {
				t.Errorf("write refusals: %v", err)
			}
			if !o.tamper {
				a.chainsHold()
			}
		}
		a.nothingLeaked()
		if err := a.db.Close(); err != nil {
			t.Errorf("close the database: %v", err)
		}
	})
	t.Cleanup(a.stop)
	return a
}

// subjectGrants is the tier of the grants of subjects that are not access keys,
// as serve has it.
func subjectGrants(record authz.Record, parser *scopes.Parser, now func() latchkey.Instant) *cache.Subjects {
	const epoch = 1
	return cache.NewSubjects(cache.NewRecords(cache.RecordsConfig{
		MaxBytes: 1 << 20, Sources: []cache.Source{&cache.SubjectSource{Record: record, Epoch: epoch, Now: now}},
		Decode: func(rec *feed.Record) (any, int, error) { return cache.DecodeSubject(parser, rec) },
		Wait:   5 * time.Second, Missing: time.Second, Now: now,
	}), record, epoch)
}

// loseDatabase takes the database away from under the server.
func (a *api) loseDatabase() {
	a.Helper()
	a.lost = true
	if err := a.db.Close(); err != nil {
		a.Fatal(err)
	}
}

// keep remembers a secret that must not be found anywhere later on.
func (a *api) keep(secret string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.secrets = append(a.secrets, secret)
	return secret
}

// secretPart is the 43 digits that must stay secret, the rest may be logged.
func secretPart(token string) string {
	return token[strings.LastIndexByte(token[:strings.LastIndexByte(token, '_')], '_')+1 : strings.LastIndexByte(token, '_')]
}

func (a *api) leaks(text string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.secrets {
		if strings.Contains(text, secretPart(s)) {
			return true
		}
	}
	return false
}

// nothingLeaked looks for every secret in the log, the metrics and the bytes
// of the database's files.
func (a *api) nothingLeaked() {
	a.Helper()
	if a.leaks(a.log.String()) {
		a.Errorf("a secret is in the log:\n%s", a.log)
	}
	if a.leaks(a.metrics()) {
		a.Error("a secret is in the metrics")
	}
	if a.leaks(a.files()) {
		a.Error("a secret is in the database")
	}
}

func (a *api) chainsHold() {
	a.Helper()
	chains, err := a.db.Chains(context.Background())
	if err != nil {
		a.Error(err)
	}
	for _, chain := range chains {
		if report, err := a.db.VerifyChain(context.Background(), chain); err != nil || !report.Holds {
			a.Errorf("chain %s: %+v, %v", chain, report.Findings, err)
		}
	}
}

func (a *api) metrics() string {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Body.String()
}

// databases are those of directories whose servers keep their record in
// PostgreSQL.
var databases sync.Map

// migrated is a file of SQLite with all tables and nothing in them: every test
// has a copy, which costs a hundredth of making it.
var migrated = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "latchkey-migrated-")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "latchkey.db")
	if err = migrate(store.Config{Path: path}); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	b, err := os.ReadFile(path)
	return b, errors.Join(err, os.RemoveAll(dir))
})

func migrate(at store.Config) error {
	_, err := store.Migrate(context.Background(), at)
	return err
}

// databaseIn is where the servers of a directory keep their record: in a file in
// it, or in PostgreSQL, where LATCHKEY_TEST_DATABASE is postgres.
func databaseIn(t testing.TB, dir string) store.Config {
	t.Helper()
	if os.Getenv("LATCHKEY_TEST_DATABASE") != "postgres" {
		path := filepath.Join(dir, "latchkey.db")
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			b, err := migrated()
			if err == nil {
				err = os.WriteFile(path, b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return store.Config{Path: path, MAC: auditMAC}
	}
	url, known := databases.Load(dir)
	if !known {
		url = servers.PreparedPostgres(t, func(url string) error { return migrate(store.Config{URL: url}) })
		databases.Store(dir, url)
	}
	return store.Config{URL: url.(string), MAC: auditMAC, Connections: 8}
}

// exec runs a statement behind the server's back.
func (a *api) exec(statement string) {
	a.Helper()
	at := databaseIn(a, a.dir)
	if at.URL != "" {
		servers.SQL(a, at.URL, statement)
		return
	}
	raw, err := sql.Open("sqlite", at.Path)
	if err != nil {
		a.Fatal(err)
	}
	_, err = raw.ExecContext(context.Background(), statement)
	if err := errors.Join(err, raw.Close()); err != nil {
		a.Fatal(err)
	}
}

// files returns the bytes of the database's files, or of all that PostgreSQL
// has of it.
func (a *api) files() string {
	a.Helper()
	if at := databaseIn(a, a.dir); at.URL != "" {
		// All tables at once: a psql for each cost more than the rest of a test.
		rows := strings.Fields(servers.SQL(a, at.URL, `SELECT tablename FROM pg_tables WHERE schemaname = 'public'`))
		for i, table := range rows {
			rows[i] = "SELECT CAST(t AS TEXT) FROM " + table + " t"
		}
		return servers.SQL(a, at.URL, "SET bytea_output = 'escape'; "+strings.Join(rows, " UNION ALL "))
	}
	files, err := filepath.Glob(filepath.Join(a.dir, "latchkey.db*"))
	if err != nil || len(files) == 0 {
		a.Errorf("no database file: %v", err)
	}
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			a.Error(err)
		}
		all.Write(b)
	}
	return all.String()
}

// readAll is for replies, which are small.
func readAll(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, 64<<20))
	return string(b), err
}

// oneByOne is called by long tests that ask one thing after the other: make race, which
// runs the short tests, would learn nothing from them.
func oneByOne(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("asks one thing after the other: of no use to the race detector")
	}
}
