package main

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// outages is what decisions cost while parts are gone.
type outages struct {
	healthy, paused, emptied, failedOver *phase
	// ratios are those of the p99 during an outage to that of the healthy times
	// before and after it.
	ratios map[string]float64
	// cut is the stretch from the moment that every link is cut until no node may
	// decide any more.
	cut       *phase
	cutRatio  float64
	lastAllow time.Duration // after the cut, of any node
	bound     time.Duration
	afterCut  map[string]int // reasons past the bound
	// recovered is how long it took from the mending of the links until every
	// node allowed again, without a restart of any.
	recovered map[string]time.Duration
}

// ratio compares p99s.
func ratio(of *phase, to ...*phase) float64 {
	sum := 0.0
	for _, p := range to {
		sum += float64(p.quantile(0.99))
	}
	return float64(of.quantile(0.99)) / (sum / float64(len(to)))
}

// outage measures decisions about what is in memory: Redis paused, restarted
// empty, failed over to its replica, and everything cut.
func outage(tb testing.TB, f *fleet, l *load, each time.Duration, question string) *outages {
	tb.Helper()
	o := &outages{ratios: map[string]float64{}, recovered: map[string]time.Duration{}, afterCut: map[string]int{}}
	fault := func(name string, begin func(), end func()) *phase {
		before := l.measure("healthy, before "+name, each/2)
		begin()
		during := l.measure(name, each)
		end()
		o.recovered[name] = f.awaitFeed(tb)
		after := l.measure("healthy, after "+name, each/2)
		if o.healthy == nil {
			o.healthy = before
		}
		o.ratios[name] = ratio(during, before, after)
		return during
	}
	o.paused = fault("Redis paused", func() { f.redis.Pause(tb) }, func() { f.redis.Resume(tb) })
	o.emptied = fault("Redis restarted empty", func() { f.redis.Kill(tb); f.redis.Start(tb) }, func() {})
	replica := f.replica(tb)
	o.failedOver = fault("Redis failed over", func() { f.failOver(tb, replica) }, func() {})
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
	o.cutRatio = ratio(o.cut, before, l.measure("healthy, after the cut", f.staleness/2))
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
