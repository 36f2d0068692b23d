package server

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"
	"go.opentelemetry.io/otel/trace"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/deliveries"
	"github.com/latchkey-dev/latchkey/forward"
	"github.com/latchkey-dev/latchkey/people"
	"github.com/latchkey-dev/latchkey/policies/bundle"
	"github.com/latchkey-dev/latchkey/scopes"
	"github.com/latchkey-dev/latchkey/tasks"
)

// Config are the collaborators and settings of a Server. Collaborators are
// required unless they say otherwise; a zero setting takes the default that its comment names.
type Config struct {
	Authenticator *authz.Authenticator
	// People tells whom personal tokens and OIDC tokens stand for; nil for nobody.
	People      authz.PersonAuthenticator
	Persons     *people.Persons
	Tokens      *people.Tokens
	Groups      *people.Groups
	Catalogue   *people.Catalogue
	Tasks       *tasks.Tasks
	Keys        *authz.Keys
	Customers   *authz.Customers
	Policies    *authz.Policies
	Sets        *authz.Sets
	Root        *authz.RootKey
	Directory   *authz.Directory
	Granter     *authz.Granter
	Rights      *people.Rights
	Templates   *access.Templates
	Requests    *access.Requests
	Approvals   *access.Approvals
	Webhooks    *deliveries.Webhooks
	Searcher    *authz.Searcher
	PDP         *authz.PDP
	Table       authz.KeyTable
	Parser      *scopes.Parser
	Record      authz.Record
	Events      Events
	Refusals    *authz.Refusals // may be nil: then they are not recorded
	DecisionLog DecisionLog     // may be nil: then there is none
	Log         *slog.Logger
	Registry    *prometheus.Registry
	Now         func() time.Time
	// Feed is what sidecars follow, and Nodes which they are.
	Feed  *authz.Feed
	Nodes *authz.Nodes
	// Filler takes the records that sidecars asked for; nil for nobody.
	Filler Filler
	// MaxStaleness is what sidecars are told of how long a node may be without
	// word. Default 30 s.
	MaxStaleness time.Duration
	// Bundles are those that customers' policies come from; nil for none.
	Bundles PulledBundles
	// BundleSigner signs the bundles that the server offers; without it only
	// unsigned ones can be had.
	BundleSigner *bundle.Signer
	// Upstream makes the server a sidecar's: it answers decisions and what they
	// need, and hands every other request on, whose URL holds a path and a query
	// alone. Of the services only the Authenticator and the PDP are wanted then.
	// nil for a control plane.
	Upstream http.RoundTripper
	// KeyRecords finds what verify and introspect tell of a key; nil is Record.
	KeyRecords KeyRecords
	// Tracer makes a span a request; nil makes none.
	Tracer trace.Tracer

	// Ready says whether decisions can be made at a time; nil is always ready.
	// While they cannot every decision is denied with the reason, and all else is
	// 503.
	Ready func(now latchkey.Instant) Readiness

	// PublicURL is the base of the URLs in the metadata document; required.
	PublicURL string
	// NodeID names this process in replies to Prefer: wait.
	NodeID string
	// SealKey seals kept replies; 32 random bytes, outside the database.
	SealKey []byte
	// TooManyKeysStatus answers a customer's eleventh key: 500, as the
	// access-key document says, or 409. Default 500.
	TooManyKeysStatus int
	// CompatJobFlow answers the paths of docs/jobs.md too. Default: it does not.
	CompatJobFlow bool
	// TrustedProxies is how many proxies stand before the server, each adding
	// to X-Forwarded-For. Default 0: the peer is the source.
	TrustedProxies int
	// AuthFailureRate is how many failed authentications a second a source may
	// make, after a burst of ten times as many. Default 10.
	AuthFailureRate float64
	// LogDecisions is the share of decisions, 0 to 1, that are logged though
	// they did not fail. Default 0.
	LogDecisions float64
	// Routes say what the requests that proxies ask about stand for. Default
	// none: every such request is denied.
	Routes *forward.Routes
	// ForwardCache lets proxies keep an allow until it expires. Default: no
	// answer to a proxy may be kept.
	ForwardCache bool
	// ReadTimeout bounds the reading of a whole request, WriteTimeout of a
	// reply, IdleTimeout the wait for the next request. Defaults 10 s, 10 s,
	// 60 s.
	ReadTimeout, WriteTimeout, IdleTimeout time.Duration
}

// KeyRecords finds the records of access keys. Implemented by authz.Record.
type KeyRecords interface {
	Key(ctx context.Context, customer string, id authz.KeyID) (authz.Key, error)
}

// Events is the audit trail as the API reads it. Implemented by store.DB.
type Events interface {
	Events(ctx context.Context, chain string, f audit.Filter) ([]audit.Event, error)
	EventRange(ctx context.Context, chain string, f audit.Filter, after, through int64) ([]audit.Event, error)
	Event(ctx context.Context, chain, id string) (audit.Event, error)
	Head(ctx context.Context, chain string) (audit.Head, error)
	VerifyChain(ctx context.Context, chain string, anchors ...audit.Head) (audit.Report, error)
	Ping(ctx context.Context) error
}

// Server is the HTTP API.
type Server struct {
	cfg     Config
	app     *fiber.App
	metrics *metrics
	bound   boundApps
	checks  sync.Pool // *checking
	failed  *failureLimiter
	// policyErrors spares the log a line for each of a policy's failures.
	policyErrors *failureLimiter
	replays      inFlight
	verify       chan struct{} // one verification of a chain at a time
	exports      exports
	pages        cipher.AEAD // seals the tokens of pages
	bundles      *bundles
	feedWaiters  *waiters
	// requests wakes who waits for an access request, of whom requestWaiters
	// bounds the number.
	requests       *requestHub
	requestWaiters *waiters
	fills          fills
	standings      map[authz.PersonType]*scopes.Set
	stopping       chan struct{} // closed when requests that wait must end
	stop           sync.Once
	pool           sync.Pool // *request
}

// New makes a server; Serve runs it.
func New(cfg Config) *Server {
	orDefault(&cfg.TooManyKeysStatus, fiber.StatusInternalServerError)
	orDefault(&cfg.AuthFailureRate, 10)
	orDefault(&cfg.MaxStaleness, 30*time.Second)
	orDefault(&cfg.ReadTimeout, 10*time.Second)
	orDefault(&cfg.WriteTimeout, 10*time.Second)
	orDefault(&cfg.IdleTimeout, 60*time.Second)
	if cfg.KeyRecords == nil {
		cfg.KeyRecords = cfg.Record
	}
	s := &Server{
		cfg:            cfg,
		metrics:        newMetrics(cfg.Registry),
		failed:         newFailureLimiter(cfg.AuthFailureRate),
		policyErrors:   newFailureLimiter(1),
		verify:         make(chan struct{}, 1),
		pages:          pageSealer(cfg.SealKey),
		bundles:        newBundles(cfg.BundleSigner),
		feedWaiters:    newWaiters(maxFeedWaiters, maxCustomerFeedWaiters),
		requests:       newRequestHub(),
		requestWaiters: newWaiters(maxRequestWaiters, maxCustomerRequestWaiters),
		fills:          fills{to: cfg.Filler, places: make(chan struct{}, maxFills)},
		stopping:       make(chan struct{}),
		standings:      standings(),
	}
	cfg.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "latchkey_bundle_waiting", Help: "Clients that wait for a bundle to change."}, func() float64 { return float64(s.bundles.waiters.waiting()) }))
	if cfg.Upstream == nil {
		s.registerFeed(cfg.Registry)
		cfg.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "latchkey_access_request_waiting", Help: "Clients that wait for an access request to be decided."}, func() float64 { return float64(s.requestWaiters.waiting()) }))
	}
	s.pool.New = func() any { return &request{s: s} }
	s.checks.New = func() any { return &checking{s: s} }
	s.app = s.newApp()
	s.routes()
	return s
}

// standings are the scopes of persons by their type.
func standings() map[authz.PersonType]*scopes.Set {
	parser, all := scopes.NewParser(1), map[authz.PersonType]*scopes.Set{}
	for _, t := range []authz.PersonType{authz.UserPerson, authz.AdminPerson, authz.InternalAdminPerson} {
		set, err := parser.Parse(t.StandingScopes())
		if err != nil {
			panic(err) // they are texts of our own
		}
		all[t] = set
	}
	return all
}

func (s *Server) newApp() *fiber.App {
	app := fiber.New(fiber.Config{
		AppName:                      "latchkey",
		CaseSensitive:                true,
		StrictRouting:                true,
		DisableStartupMessage:        true,
		DisablePreParseMultipartForm: true,
		BodyLimit:                    smallestBody,
		ReadBufferSize:               s.headLimit(),
		RequestMethods:               append(slices.Clone(fiber.DefaultMethods), otherMethod),
		ErrorHandler:                 s.unrouted,
	})
	app.Server().HeaderReceived = func(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
		if h.ContentLength() == -1 && bytes.Contains(bytes.ToLower(h.RawHeaders()), []byte("content-length")) {
			// Chunks and a length at once: the chunks count, and what follows may
			// be somebody's second request (RFC 9112, 6.1).
			h.SetConnectionClose()
		}
		return fasthttp.RequestConfig{MaxRequestBodySize: bodyLimit(h.RequestURI())}
	}
	app.Server().NoDefaultServerHeader = true
	app.Server().Handler = admitMethods(app.Server().Handler)
	if jobs := s.jobRoutes(); len(jobs) > 0 {
		app.Server().Handler = foldJobPaths(jobs, app.Server().Handler)
	}
	return app
}

// headLimit bounds the request line and headers, in bytes. Proxies pass on
// whatever a client sent, cookies and all.
func (s *Server) headLimit() int {
	if s.cfg.Routes.Len() > 0 {
		return 64 << 10
	}
	return 8 << 10
}

func orDefault[T comparable](setting *T, value T) {
	var zero T
	if *setting == zero {
		*setting = value
	}
}

// Serve answers requests on ln until Shutdown, over TLS where a configuration
// for it is given.
func (s *Server) Serve(ln net.Listener, secure *tls.Config) error {
	ln = s.timed(ln)
	if secure != nil {
		ln = tls.NewListener(ln, secure)
	}
	return s.app.Listener(ln)
}

func (s *Server) timed(ln net.Listener) net.Listener {
	return timedListener{ln, timeouts{read: s.cfg.ReadTimeout, write: s.cfg.WriteTimeout, idle: s.cfg.IdleTimeout}, wallClock}
}

// Shutdown stops taking connections and waits for the requests that run, until
// ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop.Do(func() { close(s.stopping) })
	defer s.fills.running.Wait()
	return errors.Join(s.app.ShutdownWithContext(ctx), s.bound.shutdown(ctx))
}

// Body limits by path, in bytes (1-architecture, "Ports, paths, names").
const (
	smallestBody = 64 << 10
	decisionBody = 256 << 10
	batchBody    = 1 << 20
	policyBody   = 1 << 20
	bulkBody     = 16 << 20 // sets and the directory
)

// bodyLimit sees the request target as it was sent, absolute form and query
// included, before anything of the body has been read.
func bodyLimit(uri []byte) int {
	switch string(uri) { // the common ones, without a copy
	case "/decision", "/access/v1/evaluation":
		return decisionBody
	}
	target := string(uri)
	if i := strings.IndexAny(target, "?#"); i >= 0 { // first: a query may hold "//" and paths
		target = target[:i]
	}
	if strings.Contains(target, "//") { // perhaps absolute: read it as the router will
		var u fasthttp.URI
		if u.Parse(nil, []byte(target)) != nil {
			return smallestBody
		}
		target = string(u.PathOriginal())
	}
	switch {
	case target == "/decision/batch", target == "/access/v1/evaluations":
		return batchBody
	case target == "/v1/policies", strings.HasPrefix(target, "/v1/policies/"):
		return policyBody
	case target == "/v1/sets", strings.HasPrefix(target, "/v1/sets/"),
		target == "/v1/subjects:bulkUpdate", target == "/v1/resources:bulkUpdate":
		return bulkBody
	case target == "/decision", strings.HasPrefix(target, "/decision/"), strings.HasPrefix(target, "/access/v1/"):
		return decisionBody
	}
	return smallestBody
}

// fingerprint makes short names for things that must not be stored.
func fingerprint(parts ...string) [sha256.Size]byte {
	h := sha256.New()
	for _, p := range parts {
		_, _ = h.Write([]byte(p)) // a hash does not fail
		_, _ = h.Write([]byte{0})
	}
	return [sha256.Size]byte(h.Sum(nil))
}
