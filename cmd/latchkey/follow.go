package main

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/server"
)

// Staleness are the flags about deciding by what may be out of date.
type Staleness struct {
	MaxStaleness  time.Duration `help:"How old what a decision rests on may be: longest time without word from a shared database, or for a sidecar from a control plane, and longest time that an answer may be reused (context.expires_at)." default:"30s" env:"LATCHKEY_MAX_STALENESS"`
	MaxClockSkew  time.Duration `help:"How far this machine's clock may be from that of a shared database, or of a control plane; beyond it nothing is decided." default:"5s" env:"LATCHKEY_MAX_CLOCK_SKEW"`
	WhenStale     string        `help:"What becomes of decisions once that is older: ${enum}. 'serve' decides all the same for --serve-stale-for, with the reason stale: rights that ended meanwhile go on for as long." enum:"deny,serve" default:"deny" env:"LATCHKEY_WHEN_STALE"`
	ServeStaleFor time.Duration `help:"How long --when-stale=serve decides beyond --max-staleness." default:"0s" env:"LATCHKEY_SERVE_STALE_FOR"`
}

// maxServeStale bounds how long an operator may let out-of-date answers go on.
const maxServeStale = 24 * time.Hour

// leastStaleness is what --max-staleness must be where it makes a lease: the
// database is looked at once a second.
const leastStaleness = 3 * time.Second

func (s *Staleness) validate(shared bool) error {
	switch {
	case s.MaxStaleness < 0 || s.MaxStaleness > time.Hour:
		return usage("--max-staleness: want 0s to 1h")
	case shared && s.MaxStaleness < leastStaleness:
		return usage("--max-staleness: want at least %s on a database that others may write to", leastStaleness)
	case s.MaxClockSkew < 100*time.Millisecond || s.MaxClockSkew > time.Minute:
		return usage("--max-clock-skew: want 100ms to 1m")
	case s.WhenStale == "serve" && (s.ServeStaleFor <= 0 || s.ServeStaleFor > maxServeStale):
		return usage("--when-stale=serve needs --serve-stale-for, of more than 0s and at most %s", maxServeStale)
	case s.WhenStale != "serve" && s.ServeStaleFor != 0:
		return usage("--serve-stale-for goes with --when-stale=serve")
	}
	return nil
}

// following is what a node knows of how up to date it is.
type following struct {
	*authz.Follower
	lease *feed.Lease // nil where no other process writes
	pdp   *authz.PDP
	lag   prometheus.Histogram

	mu   sync.Mutex
	said map[string]said // by what it is of
}

// said is a failure that the log has been told of.
type said struct {
	text string
	at   latchkey.Instant
}

// sayAgain is how often the log repeats a failure that goes on.
const sayAgain = time.Minute

func newLagHistogram() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "latchkey_revocation_lag_seconds", Help: "Time from a change, by the clock of the server that made it, to its being in force here.",
		Buckets: prometheus.ExponentialBuckets(0.5e-3, 2, 18), // 0.5 ms to 65 s
	})
}

func (n *node) newFollowing(cmd *ServeCmd, directory *authz.Directory) *following {
	f := &following{said: map[string]said{}, lag: newLagHistogram()}
	if n.db.Shared() {
		f.lease = feed.NewLease(cmd.MaxStaleness, cmd.MaxClockSkew)
	}
	f.Follower = authz.NewFollower(authz.FollowerConfig{
		Record: n.db, Table: n.table, Parser: n.parser, Peppers: n.peppers, Root: n.root, Directory: directory, Origin: n.bundles.Origin,
		Lease: f.lease, MaxStaleness: max(cmd.MaxStaleness, leastStaleness),
		Now:      func() latchkey.Instant { return latchkey.InstantOf(n.now()) },
		Applied:  func(age time.Duration) { f.lag.Observe(max(age, 0).Seconds()) },
		Failed:   n.sayFailed,
		Unusable: n.sayUnusable,
	})
	n.db.OnCommit(f.Kick)
	n.registry.MustRegister(f.lag)
	gauge := func(name, help string, value func() float64) {
		n.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	gauge("latchkey_lease_remaining_seconds", "For how long decisions may go on by what is known; +Inf where no other process writes to the database.", func() float64 {
		if f.lease == nil {
			return math.Inf(1)
		}
		return max(0, (time.Duration(f.lease.End()-latchkey.InstantOf(n.now())) * time.Microsecond).Seconds())
	})
	gauge("latchkey_clock_offset_seconds", "How far the database's clock is ahead of this machine's; 0 where it has none of its own.", func() float64 {
		if f.lease == nil {
			return 0
		}
		offset, _ := f.lease.Offset()
		return offset.Seconds()
	})
	gauge("latchkey_feed_behind", "Chains of changes that memory does not hold to their end.", func() float64 { return float64(f.Behind()) })
	return f
}

// run follows the changes of all processes until ctx ends.
func (f *following) run(ctx context.Context, n *node) {
	var loops sync.WaitGroup
	loops.Go(func() {
		n.db.Hints(ctx, f.Kick, func(err error) { n.say("hints of changes do not come", "hints", err) })
	})
	ticks := time.NewTicker(time.Second)
	defer ticks.Stop()
	f.Run(ctx, ticks.C)
	loops.Wait()
}

// readiness is that of what the node knows at now.
func (f *following) readiness(now latchkey.Instant) server.Readiness {
	if f.lease == nil {
		return server.Readiness{}
	}
	freshness, _ := f.pdp.Freshness(nil, now)
	if freshness == authz.Fresh {
		return server.Readiness{}
	}
	r := server.Readiness{Code: authz.Stale, Decides: freshness == authz.ServedStale, Detail: "the database has not answered since " + f.lease.Until().String()}
	if offset, skewed := f.lease.Offset(); skewed {
		r.Detail = fmt.Sprintf("the database's clock is %s ahead of this machine's", offset.Round(time.Millisecond))
	}
	return r
}

func (n *node) sayFailed(chain string, err error) {
	n.say("changes of other processes cannot be followed", chain, err)
}

// say logs what keeps the node from following, not each time anew.
func (n *node) say(what, of string, err error) {
	f, now := n.follow, latchkey.InstantOf(n.now())
	text := authz.Redact(err.Error())
	f.mu.Lock()
	last, again := f.said[of]
	if again = again && last.text == text && now < last.at.Add(sayAgain); !again {
		f.said[of] = said{text, now}
	}
	f.mu.Unlock()
	if !again {
		n.log.Warn(what, "of", of, "error", text)
	}
}

func (n *node) sayUnusable(p authz.UnusablePolicy) {
	n.log.Error("a stored policy does not compile: it denies whoever asks it", "customer", p.Customer, "policy", p.Name, "version", p.Version, "error", authz.Redact(p.Err.Error()))
}
