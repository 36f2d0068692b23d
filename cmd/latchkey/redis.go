package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/internal/keyring"
	"github.com/latchkey-dev/latchkey/store"
)

// RedisFlags say where Redis is.
type RedisFlags struct {
	Redis     string `help:"Redis that carries changes to sidecars: redis://USER:PASSWORD@HOST:PORT/DB, rediss:// for TLS, unix://…/PATH, redis+cluster://…HOST:PORT,… or redis+sentinel://…HOST:PORT,…/DB?master=NAME. A password belongs in the environment or in a file, not on the command line." env:"LATCHKEY_REDIS" placeholder:"URL"`
	RedisCA   string `help:"Redis must show a certificate of one of these authorities (PEM), in place of the system's." type:"path" env:"LATCHKEY_REDIS_CA" placeholder:"FILE"`
	RedisCert string `help:"Certificate (PEM) to show to Redis." type:"path" env:"LATCHKEY_REDIS_CERT" placeholder:"FILE"`
	RedisKey  string `help:"Private key (PEM) of that certificate." type:"path" env:"LATCHKEY_REDIS_KEY" placeholder:"FILE"`
}

func (f *RedisFlags) redisConfig() cache.RedisConfig {
	return cache.RedisConfig{URL: f.Redis, CA: f.RedisCA, Cert: f.RedisCert, Key: f.RedisKey}
}

func (f *RedisFlags) validateRedis() error {
	switch {
	case f.Redis == "" && (f.RedisCA != "" || f.RedisCert != "" || f.RedisKey != ""):
		return usage("--redis-ca, --redis-cert and --redis-key go with --redis")
	case f.Redis == "":
		return nil
	}
	if err := f.redisConfig().Check(); err != nil {
		return usage("--redis: %w", err)
	}
	return nil
}

// connectRedis makes the client, nil where there is no Redis.
func (f *RedisFlags) connectRedis() (*cache.Redis, error) {
	if f.Redis == "" {
		return nil, nil
	}
	r, err := cache.OpenRedis(f.redisConfig())
	if err != nil {
		return nil, usage("--redis: %w", err)
	}
	return r, nil
}

// openRedis makes what brings changes to Redis, where there is one.
func (n *node) openRedis(flags *RedisFlags, id string, signer *feed.Signer) (err error) {
	if n.redis, err = flags.connectRedis(); err != nil || n.redis == nil {
		return err
	}
	n.relay = newRelay(n.redis, n.db, signer, id, func() latchkey.Instant { return latchkey.InstantOf(n.now()) }, n.table.Followed, n.log)
	n.follow.Observe(func(chain string, t authz.Touched) { n.relay.Kick(chain, t.Seq) })
	n.registerRelay()
	registerRedis(n.registry, n.redis)
	return nil
}

func newRelay(redis *cache.Redis, db *store.DB, signer *feed.Signer, id string, now func() latchkey.Instant, followed func(string) bool, log *slog.Logger) *cache.Relay {
	return cache.NewRelay(cache.RelayConfig{Redis: redis, Record: db, Epoch: db.Epoch, Signer: signer, Verifier: feed.NewVerifier(signer.Public()),
		Node: id, Now: now, Sidecars: followed, Log: log})
}

// close ends what is open.
func (n *node) close() error {
	var err error
	if n.redis != nil {
		err = n.redis.Close()
	}
	return errors.Join(err, n.base.close())
}

// checkRedis refuses to start beside a Redis that knows of changes which the
// database does not have: nodes may have applied them, and what has their numbers
// from now on they would not take. A Redis that does not answer is no reason not
// to start: the relay looks at it again before it publishes anything.
func (n *node) checkRedis(ctx context.Context) error {
	if n.redis == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	health, err := n.redis.Health(ctx)
	switch {
	case errors.Is(err, cache.ErrRedisTooOld):
		return err
	case err != nil:
		n.log.Warn("Redis does not answer: sidecars follow this server alone until it does", "redis", n.redis.Where(), "error", err.Error())
		return nil
	case health.Evicts():
		cache.WarnOfEviction(n.log, health)
	}
	positions, err := n.db.Positions(ctx)
	if err != nil {
		return err
	}
	ahead, err := n.relay.Ahead(ctx, positions)
	if err != nil {
		n.log.Warn("what Redis knows could not be compared with the database", "redis", n.redis.Where(), "error", err.Error())
		return nil
	}
	if len(ahead) > 0 {
		return fmt.Errorf("there are changes in Redis that this database does not have (customer %s, and %d more): if it was put back from a backup, run 'latchkey store new-epoch' once and start again; if not, this is another installation's Redis, or the wrong database",
			ahead[0], len(ahead)-1)
	}
	return nil
}

// runRedis brings changes to Redis until ctx ends.
func (n *node) runRedis(ctx context.Context) {
	if n.relay == nil {
		return
	}
	ticks := time.NewTicker(time.Second)
	defer ticks.Stop()
	n.relay.Run(ctx, ticks.C)
}

// registerRedis makes metrics of what the client counts.
func registerRedis(registry *prometheus.Registry, r *cache.Redis) {
	gauge := func(name, help string, value func() float64) {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	counter := func(name, help string, labels prometheus.Labels, value func(cache.RedisStats) int64) {
		registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 { return float64(value(r.Stats())) }))
	}
	gauge("latchkey_redis_up", "Whether Redis answered the last call (1) or not (0).", func() float64 {
		if r.Stats().Up {
			return 1
		}
		return 0
	})
	const failures = "Calls to Redis that failed: out_of_memory, denied to the user, or for another reason."
	counter("latchkey_redis_errors_total", failures, prometheus.Labels{"reason": "out_of_memory"}, func(s cache.RedisStats) int64 { return s.Full })
	counter("latchkey_redis_errors_total", failures, prometheus.Labels{"reason": "denied"}, func(s cache.RedisStats) int64 { return s.Denied })
	counter("latchkey_redis_errors_total", failures, prometheus.Labels{"reason": "other"}, func(s cache.RedisStats) int64 { return s.Failures - s.Full - s.Denied })
	counter("latchkey_redis_malformed_total", "Entries found in Redis that no control plane has put there.", nil, func(s cache.RedisStats) int64 { return s.Malformed })
}

func (n *node) registerRelay() {
	gauge := func(name, help string, value func(cache.RelayStats) float64) {
		n.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(n.relay.Stats()) }))
	}
	counter := func(name, help string, value func(cache.RelayStats) int64) {
		n.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value(n.relay.Stats())) }))
	}
	gauge("latchkey_relay_lag", "Changes of all customers that are not in Redis, as last compared.", func(s cache.RelayStats) float64 { return float64(s.Lag) })
	gauge("latchkey_relay_held", "Customers that are not published until an operator acts: Redis knows of changes that the database has lost.", func(s cache.RelayStats) float64 { return float64(s.Held) })
	gauge("latchkey_redis_evicts", "Whether Redis is set up to drop records to make room (1), which it must not.", func(s cache.RelayStats) float64 {
		if s.Evicts {
			return 1
		}
		return 0
	})
	counter("latchkey_relay_published_total", "Changes that this server brought to Redis.", func(s cache.RelayStats) int64 { return s.Published })
	counter("latchkey_relay_heartbeats_total", "Heartbeats that this server brought to Redis.", func(s cache.RelayStats) int64 { return s.Beats })
	counter("latchkey_relay_resets_total", "Times that a customer was begun anew in Redis.", func(s cache.RelayStats) int64 { return s.Resets })
	fills := func(outcome string, value func(cache.RedisStats) int64) {
		n.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "latchkey_redis_fills_total",
			Help: "Records that a node asked this server for and that were given to Redis: taken, or refused as they might be out of date.", ConstLabels: prometheus.Labels{"outcome": outcome}},
			func() float64 { return float64(value(n.redis.Stats())) }))
	}
	fills("taken", func(s cache.RedisStats) int64 { return s.Filled })
	fills("refused", func(s cache.RedisStats) int64 { return s.Refused })
}

// nodeStore shares what nodes said by Redis, and by the database while Redis does
// not answer.
type nodeStore struct {
	redis *cache.RedisNodes
	db    *store.DB
}

// WriteNodes implements authz.NodeStore.
func (s nodeStore) WriteNodes(ctx context.Context, nodes []authz.Node) error {
	if s.redis.WriteNodes(ctx, nodes) == nil {
		return nil
	}
	return s.db.WriteNodes(ctx, nodes)
}

// Nodes implements authz.NodeStore.
func (s nodeStore) Nodes(ctx context.Context, customer string, since latchkey.Instant) ([]authz.Node, error) {
	if list, err := s.redis.Nodes(ctx, customer, since); err == nil {
		return list, nil
	}
	return s.db.Nodes(ctx, customer, since)
}

// CacheCmd looks after what lies in Redis.
type CacheCmd struct {
	Rebuild CacheRebuildCmd `cmd:"" help:"Put all active keys, and the subjects that hold grants, into Redis, beside running servers or without. What is not there is found by itself; this saves the first look-ups."`
}

// CacheRebuildCmd fills Redis.
type CacheRebuildCmd struct {
	Storage    `embed:""`
	RedisFlags `embed:""`
	Customer   string `help:"Only this customer." placeholder:"ID"`
}

// Run implements the command.
func (cmd *CacheRebuildCmd) Run(ctx context.Context, g *Globals, std streams) (err error) {
	if err := cmd.validateRedis(); err != nil {
		return err
	}
	if cmd.Redis == "" {
		return usage("--redis is missing")
	}
	db, signer, err := cmd.openToSign()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	redis, err := cmd.connectRedis()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, redis.Close()) }()
	if _, err := redis.Health(ctx); err != nil {
		return err
	}
	now := newClock()
	instant := func() latchkey.Instant { return latchkey.InstantOf(now()) }
	log := newLog(std.err, "error")
	relay := newRelay(redis, db, signer, nodeID(), instant, func(string) bool { return false }, log)
	started := now()
	total, err := relay.Rebuild(ctx, cmd.Customer)
	if err != nil {
		return err
	}
	took := now().Sub(started).Round(time.Millisecond)
	if g.JSON {
		return json.NewEncoder(std.out).Encode(map[string]any{"customers": total.Customers, "keys": total.Keys, "subjects": total.Subjects, "refused": total.Refused, "seconds": took.Seconds()})
	}
	fmt.Fprintf(std.out, "%d customers: %d keys and %d subjects are in Redis, in %s\n", total.Customers, total.Keys, total.Subjects, took)
	if total.Refused > 0 {
		fmt.Fprintf(std.out, "%d records were not taken: newer ones are there\n", total.Refused)
	}
	return nil
}

// openToSign opens the database to be read, beside running servers, and the key
// that signs what is told of it.
func (s *Storage) openToSign() (*store.DB, *feed.Signer, error) {
	database, err := s.database()
	if err != nil {
		return nil, nil, err
	}
	if s.Database == "" {
		if _, err := os.Stat(s.sqlite()); err != nil {
			return nil, nil, usage("--data %s: there is no database: %w", s.Data, err)
		}
	}
	keys, err := keyring.Load(s.keyring())
	if err != nil {
		return nil, nil, err
	}
	signer, err := feedSigner(keys)
	if err != nil {
		return nil, nil, err
	}
	database.MAC, database.ReadOnly = keys.AuditMAC, true
	db, err := store.OpenConfig(context.Background(), database)
	return db, signer, err
}

// RedisCmd is about Redis itself.
type RedisCmd struct {
	ACL RedisACLCmd `cmd:"" name:"acl" help:"Print the command that makes a user of Redis, for the sidecars of a customer or for control planes, and its password."`
}

// RedisACLCmd prints users of Redis.
type RedisACLCmd struct {
	Customer     string `help:"The user may read what is this customer's, and nothing else." placeholder:"ID" xor:"who" required:""`
	ControlPlane bool   `help:"The user may write what is latchkey's." xor:"who" required:""`
	User         string `help:"Its name; made from the customer's where empty." placeholder:"NAME"`
	PasswordFile string `help:"File of one line with its password; without it one is made, and shown this once." type:"path" placeholder:"FILE"`
}

// Run implements the command. The rule holds the password as SHA-256.
func (cmd *RedisACLCmd) Run(g *Globals, std streams) error {
	password, made, err := cmd.password()
	if err != nil {
		return err
	}
	user, rule := cmd.User, ""
	if cmd.ControlPlane {
		if user == "" {
			user = "latchkey-control"
		}
		rule, err = cache.ControlPlaneUser(password)
	} else {
		if user == "" {
			user = "latchkey-sidecar-" + cmd.Customer
		}
		rule, err = cache.SidecarUser(cmd.Customer, password)
	}
	if err != nil {
		return usage("%w", err)
	}
	if !latchkey.ValidName(user) {
		return usage("--user: want 1 to 128 of A-Z, a-z, 0-9, '.', '_', ':' and '-'")
	}
	if g.JSON {
		out := map[string]string{"user": user, "rule": rule}
		if made {
			out["password"] = password
		}
		return json.NewEncoder(std.out).Encode(out)
	}
	if made {
		fmt.Fprintf(std.err, "the password, shown this once: %s\n", password)
	}
	fmt.Fprintf(std.out, "ACL SETUSER %s %s\n", user, rule)
	return nil
}

func (cmd *RedisACLCmd) password() (password string, made bool, err error) {
	if cmd.PasswordFile == "" {
		random := make([]byte, 32)
		_, _ = rand.Read(random) // which never fails
		return base64.RawURLEncoding.EncodeToString(random), true, nil
	}
	text, err := os.ReadFile(cmd.PasswordFile)
	if err != nil {
		return "", false, fmt.Errorf("read the password: %w", err)
	}
	password = strings.TrimRight(string(text), "\r\n")
	if password == "" || strings.ContainsAny(password, "\r\n\x00") {
		return "", false, usage("--password-file: want one line")
	}
	return password, false, nil
}
