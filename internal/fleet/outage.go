package main

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/servers"
)

// outages is what decisions cost while parts are gone.
type outages struct {
	healthy, paused, emptied, failedOver *phase
	// ratios are those of the p99 during outages to that of the healthy times
	// between them.
	ratios map[string]float64
	// noise is the largest ratio of the p99 of some healthy times to that of the
	// others beside the same outages: what this machine makes of no difference.
	noise float64
	// cut is the stretch from the moment that every link is cut until no node may
	// decide any more.
	cut       *phase
	cutRatio  float64
	lastAllow time.Duration // after the cut, of any node
	bound     time.Duration
	afterCut  map[string]int // reasons past the bound
	// recovered is how long it took at most from the mending until every node was
	// up to date again, without a restart of any.
	recovered map[string]time.Duration
}

// ratio compares p99s.
func ratio(of, to *phase) float64 {
	return float64(of.quantile(0.99)) / float64(to.quantile(0.99))
}

// rounds are how often each outage comes, with healthy times between: whatever
// else the machine does then hits both alike.
const rounds = 4

// outage measures decisions about what is in memory: Redis paused, restarted
// empty, failed over to its replica, and everything cut.
func outage(tb testing.TB, f *fleet, l *load, each time.Duration, question string) *outages {
	tb.Helper()
	o := &outages{ratios: map[string]float64{}, recovered: map[string]time.Duration{}, afterCut: map[string]int{}, healthy: newPhase("healthy")}
	fault := func(name string, prepare, begin, end func()) *phase {
		during, odd, even := newPhase(name), newPhase(name), newPhase(name)
		for round := range rounds {
			healthy := l.measure("healthy, before "+name, each/rounds)
			if round%2 == 0 {
				even.add(healthy)
			} else {
				odd.add(healthy)
			}
			prepare()
			begin()
			during.add(l.measure(name, each/rounds))
			end()
			o.recovered[name] = max(o.recovered[name], f.awaitFeed(tb))
		}
		o.noise = max(o.noise, ratio(odd, even), ratio(even, odd))
		odd.add(even)
		o.ratios[name] = ratio(during, odd)
		o.healthy.add(odd)
		return during
	}
	nothing := func() {}
	o.paused = fault("Redis paused", nothing, func() { f.redis.Pause(tb) }, func() { f.redis.Resume(tb) })
	o.emptied = fault("Redis restarted empty", nothing, func() { f.redis.Kill(tb); f.redis.Start(tb) }, nothing)
	var replica *servers.RedisServer
	o.failedOver = fault("Redis failed over", func() { replica = f.replica(tb) }, func() { f.failOver(tb, replica) }, nothing)
	o.everythingCut(tb, f, l, question)
	return o
}

// everythingCut takes from every node what it follows: Redis, and PostgreSQL or
// its control plane.
func (o *outages) everythingCut(tb testing.TB, f *fleet, l *load, question string) {
	tb.Helper()
	before := l.measure("healthy, before the cut", f.staleness/2)
	f.cutAll()
	began := time.Now()
	o.bound = f.staleness + f.skew
	// What was fresh at the cut is so for the better part of max_staleness.
	o.cut = l.measure("everything cut", f.staleness*7/10)
	for denying := 0; denying < len(f.nodes()); {
		denying = 0
		for _, n := range f.nodes() {
			a, err := n.ask(tb.Context(), f.caller, question)
			switch {
			case err != nil:
				tb.Fatalf("%s while everything is cut: %v", n.name, err)
			case a.allow:
				o.lastAllow = max(o.lastAllow, a.received.Sub(began))
			default:
				denying++
			}
		}
		if time.Since(began) > 2*o.bound {
			tb.Errorf("%v after everything was cut %d nodes still allow", time.Since(began), len(f.nodes())-denying)
			break
		}
		pause(5 * time.Millisecond)
	}
	past := l.measure("everything cut, past the bound", time.Second)
	for reason, n := range past.reasons {
		o.afterCut[reason] += n
	}
	f.mendAll()
	mended := time.Now()
	for _, n := range f.nodes() {
		await(tb, 60*time.Second, n.name+" decides again", func() error { return f.allows(n, question) })
	}
	o.recovered["everything cut"] = time.Since(mended)
	before.add(l.measure("healthy, after the cut", f.staleness/2))
	o.cutRatio = ratio(o.cut, before)
}

// errNotAllowed is a deny where an allow is waited for.
var errNotAllowed = errors.New("not allowed")

func (f *fleet) allows(n *node, body string) error {
	a, err := n.ask(f.tb.Context(), f.caller, body)
	if err == nil && !a.allow {
		err = fmt.Errorf("%w by %s: %s", errNotAllowed, n.name, a.reason)
	}
	return err
}

func (f *fleet) denies(n *node, body string) error {
	a, err := n.ask(f.tb.Context(), f.caller, body)
	if err == nil && a.allow {
		err = fmt.Errorf("%s still allows", n.name)
	}
	return err
}

// awaitFeed waits until every node has a revocation made now, and says how long
// that took.
func (f *fleet) awaitFeed(tb testing.TB) time.Duration {
	tb.Helper()
	f.marks++
	user, resource := fmt.Sprintf("mark-%d", f.marks), fmt.Sprintf("mark-%d", f.marks)
	began := time.Now()
	id := f.makeGrant(tb, f.controls[0], "user", user, resource, time.Now().Add(time.Hour))
	body := question{"user", user, resource}.body()
	for _, n := range f.nodes() {
		await(tb, 60*time.Second, n.name+" allows by a new grant", func() error { return f.allows(n, body) })
	}
	f.revokeGrant(tb, f.controls[0], id)
	for _, n := range f.nodes() {
		await(tb, 60*time.Second, n.name+" denies what was revoked", func() error { return f.denies(n, body) })
	}
	return time.Since(began)
}
