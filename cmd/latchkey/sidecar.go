package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/control"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/notify"
	"github.com/latchkey-dev/latchkey/policies/bundle"
	"github.com/latchkey-dev/latchkey/scopes"
	"github.com/latchkey-dev/latchkey/server"
)

// SidecarCmd runs a decision point beside an application, for one customer and
// without the database.
type SidecarCmd struct {
	Control         string `help:"The control plane: https://HOST:PORT, http://… on this machine, or unix:/PATH. The sidecar's key comes from the environment variable LATCHKEY_KEY." required:"" env:"LATCHKEY_CONTROL" placeholder:"URL"`
	ControlCA       string `help:"Certificates (PEM) of the authorities that the control plane's certificate must be of, in place of the system's." type:"path" env:"LATCHKEY_CONTROL_CA" placeholder:"FILE"`
	ControlCert     string `help:"Certificate chain (PEM) that the sidecar shows to the control plane; read again when the file changes." type:"path" env:"LATCHKEY_CONTROL_CERT" placeholder:"FILE"`
	ControlCertKey  string `help:"Private key (PEM) of that certificate." type:"path" env:"LATCHKEY_CONTROL_CERT_KEY" placeholder:"FILE"`
	InsecureControl bool   `help:"Allow plain HTTP to a control plane on another machine." env:"LATCHKEY_INSECURE_CONTROL"`

	Data            string   `help:"Directory of what a start without the control plane needs; made where it is missing." default:"data" type:"path" env:"LATCHKEY_DATA" placeholder:"DIR"`
	PepperFile      string   `help:"File of the control plane's peppers; without it a secret that was kept under one is verified by the control plane once." type:"path" env:"LATCHKEY_PEPPER_FILE" placeholder:"FILE"`
	VerificationKey []string `help:"Public keys (standard base64) whose signatures count, several by commas, and no others; without any the control plane tells them." env:"LATCHKEY_VERIFICATION_KEY" placeholder:"KEY" sep:","`
	CacheSize       int      `help:"MiB of memory for keys, grants and properties; what is not there is asked for." default:"64" env:"LATCHKEY_CACHE_SIZE"`

	RedisFlags `embed:""`
	Staleness  `embed:""`
	Front      `embed:""`
}

func (cmd *SidecarCmd) validate() error {
	switch {
	case cmd.CacheSize < 1 || cmd.CacheSize > 1<<20:
		return usage("--cache-size: want 1 to 1048576 MiB")
	case (cmd.ControlCert == "") != (cmd.ControlCertKey == ""):
		return usage("--control-cert and --control-cert-key go together")
	}
	return errors.Join(cmd.validateRedis(), cmd.Staleness.validate(true), cmd.Front.validate())
}

// Run answers until the context ends.
func (cmd *SidecarCmd) Run(ctx context.Context, std streams) error {
	if err := cmd.validate(); err != nil {
		return err
	}
	return cmd.run(ctx, std, func(with nodeConfig) (service, error) { return openSidecar(cmd, with) })
}

// pinned are the keys of --verification-key.
func (cmd *SidecarCmd) pinned() (keys []ed25519.PublicKey, err error) {
	for _, text := range cmd.VerificationKey {
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(key) != ed25519.PublicKeySize {
			return nil, usage("--verification-key %s: want the %d bytes of an Ed25519 public key in standard base64", text, ed25519.PublicKeySize)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func (cmd *SidecarCmd) control() (cfg control.Config, err error) {
	cfg = control.Config{URL: cmd.Control, Key: os.Getenv("LATCHKEY_KEY"), AllowInsecure: cmd.InsecureControl}
	if cfg.Key == "" {
		return cfg, usage("set the environment variable LATCHKEY_KEY to the sidecar's key")
	}
	if token, ok := authz.ParseToken([]byte(cfg.Key)); !ok || token.Kind != authz.AccessKeyCredential {
		return cfg, usage("LATCHKEY_KEY is not an access key; a sidecar's has the scopes decision and sidecar")
	}
	if cmd.ControlCA != "" {
		if cfg.RootCAs, err = bundle.LoadRootCAs(cmd.ControlCA); err != nil {
			return cfg, usage("--control-ca: %w", err)
		}
	}
	if cmd.ControlCert != "" {
		pair := &keyPair{cert: cmd.ControlCert, key: cmd.ControlCertKey}
		cfg.Certificate = func() (*tls.Certificate, error) { return pair.get(nil) }
		if _, err := cfg.Certificate(); err != nil {
			return cfg, usage("--control-cert: %w", err)
		}
	}
	return cfg, nil
}

// sidecar is a running sidecar's parts.
type sidecar struct {
	cmd       *SidecarCmd
	log       *slog.Logger
	now       func() time.Time
	registry  *prometheus.Registry
	api       *server.Server
	customers *cache.Table // the one
	replica   *cache.Replica
	proofs    *authz.Proofs
	lease     *feed.Lease
	pdp       *authz.PDP
	control   *control.Client
	redis     *cache.Redis // nil without one, as inRedis
	inRedis   *cache.RedisSource
	follower  *cache.Follower
	policies  *heldPolicies
	decided   *notify.DecisionLog // nil where it is off
	unlock    func() error
	begun     atomic.Bool
	own       authz.Kid   // of the sidecar's key
	ended     atomic.Bool // that key has
}

// keptProofs is of how many secrets, that the control plane has verified, the
// SHA-256 is kept.
const keptProofs = 1 << 16

// recordWait bounds how long a decision waits for what is not in memory.
const recordWait = time.Second

// redisWait is how much of that Redis may take, before the control plane is
// asked.
const redisWait = 250 * time.Millisecond

// openSidecar puts the parts together.
func openSidecar(cmd *SidecarCmd, with nodeConfig) (_ *sidecar, err error) {
	s := &sidecar{cmd: cmd, log: with.log, now: newClock(), registry: prometheus.NewRegistry(), customers: &cache.Table{}}
	routes, err := cmd.routes()
	if err != nil {
		return nil, err
	}
	storage := Storage{Data: cmd.Data, PepperFile: cmd.PepperFile}
	peppers, err := storage.peppers()
	if err != nil {
		return nil, err
	}
	pinned, err := cmd.pinned()
	if err != nil {
		return nil, err
	}
	to, err := cmd.control()
	if err != nil {
		return nil, err
	}
	if s.unlock, err = storage.lock(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	kept := keptState{path: filepath.Join(cmd.Data, "sidecar.json"), control: cmd.Control}
	state, err := kept.load()
	if err != nil {
		s.log.Error("what was kept for this start cannot be used", "error", err.Error())
	}
	own, _ := authz.ParseToken([]byte(to.Key)) // as control has
	s.own = own.Kid
	to.Verifier = func() *feed.Verifier { return s.follower.Verifier() }
	if s.control, err = control.New(to); err != nil {
		return nil, usage("--control: %w", err)
	}
	s.lease = feed.NewLease(cmd.MaxStaleness, cmd.MaxClockSkew)
	sources := []cache.Source{s.control}
	if s.redis, err = cmd.connectRedis(); err != nil {
		return nil, err
	}
	follow := cache.FollowerConfig{Control: s.control, Lease: s.lease, Node: with.id, State: state, Save: kept.save, Pinned: pinned,
		Applied: s.observeLag(), Begin: s.beginCustomer, Staleness: cmd.MaxStaleness, Now: s.instant, Log: s.log}
	if s.redis != nil {
		s.inRedis = cache.NewRedisSource(s.redis, feed.NewVerifier())
		sources = []cache.Source{cache.NewBrief(s.inRedis, redisWait, s.instant), s.control}
		follow.Carrier, follow.Trusted = s.redis, s.inRedis.Trust
	}
	s.replica = cache.NewReplica(cache.ReplicaConfig{Parser: scopes.NewParser(compiledRegexps), Peppers: peppers, Records: cache.RecordsConfig{
		MaxBytes: int64(cmd.CacheSize) << 20, Sources: sources, Wait: recordWait, Missing: time.Second, Now: s.instant}})
	s.policies = &heldPolicies{sidecar: s, ctx: context.Background()}
	follow.Records, follow.Policies, follow.Behind = s.replica.Records(), s.policies.sequence, s.policies.behind
	s.follower = cache.NewFollower(follow)
	s.proofs = authz.NewProofs(s.control.Proves, keptProofs, s.instant)
	auth := authz.NewAuthenticator(s.replica, peppers, nil, nil).Ask(s.proofs.Verify) // no root key: it is nobody here
	serveStale := time.Duration(0)
	if cmd.WhenStale == "serve" {
		serveStale = cmd.ServeStaleFor
	}
	s.pdp = authz.NewPDP(authz.PDPConfig{Keys: s.replica, Auth: auth, Metadata: s.replica, Grants: s.replica, Properties: s.replica,
		MaxStaleness: cmd.MaxStaleness, Lease: s.lease, ServeStale: serveStale, Concurrency: atOnce(cmd.PolicyConcurrency)})
	s.register(auth)
	publicURL := cmd.PublicURL
	if publicURL == "" {
		publicURL = with.baseURL
	}
	seal := make([]byte, 32)
	rand.Read(seal)
	cfg := server.Config{
		Authenticator: auth, PDP: s.pdp, Table: s.customers, KeyRecords: s.replica, Upstream: s.control, Ready: s.ready,
		Log: s.log, Registry: s.registry, Now: s.now, PublicURL: publicURL, NodeID: with.id, Tracer: with.tracer, SealKey: seal,
		TrustedProxies: cmd.TrustedProxies, AuthFailureRate: cmd.AuthFailures, LogDecisions: cmd.LogDecisions,
		Routes: routes, ForwardCache: cmd.ForwardCache,
		ReadTimeout: cmd.ReadTimeout, WriteTimeout: cmd.WriteTimeout, IdleTimeout: cmd.IdleTimeout,
	}
	if s.decided, err = cmd.DecisionLog.open(with, s.registry); err != nil {
		return nil, err
	}
	if s.decided != nil { // an interface that holds nil would not be nil
		cfg.DecisionLog = s.decided
	}
	s.api = server.New(cfg)
	return s, nil
}

func (s *sidecar) instant() latchkey.Instant { return latchkey.InstantOf(s.now()) }

// beginCustomer is told whose changes are followed, and of each epoch of them.
func (s *sidecar) beginCustomer(id string, epoch int64) error {
	c := s.replica.Customer()
	if c == nil {
		c = &authz.Customer{ID: id}
		s.customers.AddCustomer(c)
		s.replica.Follow(c)
	}
	s.log.Info("following", "customer", id, "epoch", epoch)
	err := s.policies.begin(c, epoch)
	s.begun.Store(err == nil)
	return err
}

// ready implements server.Config.Ready.
func (s *sidecar) ready(now latchkey.Instant) server.Readiness {
	switch {
	case !s.begun.Load():
		return server.Readiness{Code: authz.NotReady, Detail: "the control plane has not been reached since the start"}
	case !s.policies.inForce():
		return server.Readiness{Code: authz.NotReady, Detail: "the policies have not come yet"}
	case s.lease.Until() == 0:
		return server.Readiness{Code: authz.NotReady, Detail: "nothing has been heard of a control plane since the start, or not all of its changes have come"}
	}
	if s.ended.Load() {
		return server.Readiness{Code: authz.NotReady, Detail: "the sidecar's own key has ended"}
	}
	f, _ := s.pdp.Freshness(s.replica.Customer(), now)
	if f == authz.Fresh {
		return server.Readiness{}
	}
	rd := server.Readiness{Code: authz.Stale, Detail: "nothing has been heard of a control plane for too long", Decides: f == authz.ServedStale}
	if offset, skewed := s.lease.Offset(); skewed {
		rd.Detail = "the control plane's clock is " + offset.Round(time.Millisecond).String() + " ahead of this machine's"
	}
	return rd
}

// server implements service.
func (s *sidecar) server() *server.Server { return s.api }

// metrics implements service.
func (s *sidecar) metrics() *prometheus.Registry { return s.registry }

// decisions implements service.
func (s *sidecar) decisions() *notify.DecisionLog { return s.decided }

// healthy implements service.
func (s *sidecar) healthy(context.Context) bool { return s.ready(s.instant()).Code == "" }

// begin implements service.
func (s *sidecar) begin(_ context.Context, out io.Writer, at listening) error {
	fmt.Fprintf(out, "latchkey %s listens on %s as a sidecar\n", version(), at.ln.Addr())
	return nil
}

// loops implements service.
func (s *sidecar) loops(ctx context.Context) {
	s.policies.ctx = ctx // before the follower begins anything
	var background sync.WaitGroup
	background.Go(func() { s.watchOwnKey(ctx) })
	s.follower.Run(ctx)
	background.Wait()
	s.policies.wait()
}

// watchOwnKey ends the sidecar's decisions with its key: Redis goes on speaking
// to who may not ask the control plane any more.
func (s *sidecar) watchOwnKey(ctx context.Context) {
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		secret, found, err := s.replica.FindSecret(s.own)
		if err != nil {
			continue // nobody can tell now; the lease sees to it
		}
		now := s.instant()
		ended := !found || now >= secret.EndsAt || secret.Key.Status(now) != authz.Active
		if s.ended.Swap(ended) != ended && ended {
			s.log.Error("the sidecar's own key has ended: it decides nothing any more")
		}
	}
}

func (s *sidecar) close() error {
	var err error
	if s.control != nil {
		s.control.Close()
	}
	if s.redis != nil {
		err = s.redis.Close()
	}
	if s.unlock != nil {
		err = errors.Join(err, s.unlock())
	}
	return err
}

// observeLag makes the histogram of how long changes take to be in force here.
func (s *sidecar) observeLag() func(time.Duration) {
	lag := newLagHistogram()
	s.registry.MustRegister(lag)
	return func(age time.Duration) { lag.Observe(max(age, 0).Seconds()) }
}

func (s *sidecar) register(auth *authz.Authenticator) {
	counter := func(name, help string, value func() int64) {
		s.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value()) }))
	}
	gauge := func(name, help string, value func() float64) {
		s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	records := s.replica.Records()
	counter("latchkey_records_hits_total", "Keys, grants and properties that were found in memory.", func() int64 { return records.Stats().Hits })
	counter("latchkey_records_misses_total", "Keys, grants and properties that were not in memory, and asked for.", func() int64 { return records.Stats().Misses })
	counter("latchkey_records_out_of_date_total", "Records that were got and not taken, as a known change has made them out of date.", func() int64 { return records.Stats().Refused })
	counter("latchkey_records_forged_total", "Records, messages and heartbeats that were not signed as they should be, and not trusted.", func() int64 {
		forged := s.control.Refused() + s.follower.Stats().Refused
		if s.inRedis != nil {
			forged += s.inRedis.Forged()
		}
		return forged
	})
	gauge("latchkey_records_bytes", "About how many bytes the records in memory take.", func() float64 { return float64(records.Stats().Bytes) })
	gauge("latchkey_feed_position", "Sequence number of the last change that is in force here.", func() float64 { return float64(s.follower.Stats().Applied) })
	gauge("latchkey_feed_head", "Sequence number of the last change that a control plane has told of.", func() float64 { return float64(s.follower.Stats().Head) })
	gauge("latchkey_lease_remaining_seconds", "For how long decisions may go on by what is known.", func() float64 {
		return max(0, (time.Duration(s.lease.End()-s.instant()) * time.Microsecond).Seconds())
	})
	gauge("latchkey_clock_offset_seconds", "How far the control plane's clock is ahead of this machine's.", func() float64 {
		offset, _ := s.lease.Offset()
		return offset.Seconds()
	})
	gauge("latchkey_tokens_refused_unread", "Tokens refused since the start for their form or checksum, with no look-up.", func() float64 { return float64(auth.RefusedUnread()) })
	gauge("latchkey_snapshot_revision", "Revision of the snapshot in force: the sequence number of the change that it holds.", func() float64 {
		if c := s.replica.Customer(); c != nil {
			return float64(c.Policies.Snapshot().Revision)
		}
		return 0
	})
	if s.redis != nil {
		registerRedis(s.registry, s.redis)
	}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}
