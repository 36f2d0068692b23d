package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/page"
)

// The project's goals.
const (
	wantRevoked  = 50 * time.Millisecond // from the reply to the last allow, p99
	wantSlowdown = 1.5                   // of the p99 of decisions during an outage, to that before and after
)

// size is how much is measured.
type size struct {
	name            string
	perSecond       int // decisions of the load
	keys            int // that the load asks about
	revocations     int
	grants          int // that end by themselves
	grantsPerSecond int
	outage          time.Duration // each
	staleness, skew time.Duration
}

var (
	full  = size{name: "full", perSecond: 2000, keys: 400, revocations: 100, grants: 10_000, grantsPerSecond: 300, outage: 16 * time.Second, staleness: 10 * time.Second, skew: 2 * time.Second}
	small = size{name: "small", perSecond: 300, keys: 20, revocations: 8, grants: 150, grantsPerSecond: 50, outage: 2 * time.Second, staleness: 5 * time.Second, skew: time.Second}
)

// figures are what a run has found.
type figures struct {
	size    size
	took    time.Duration
	load    *phase // during the revocations
	revoked *revoked
	expired *expired
	outages *outages
}

// measure starts a fleet and takes all figures.
func measure(tb testing.TB, binary string, s size) *figures {
	tb.Helper()
	began := time.Now()
	f := startFleet(tb, plan{binary: binary, controls: 2, sidecars: 4, staleness: s.staleness, skew: s.skew})
	progress("PostgreSQL, Redis, %d control planes and %d sidecars are ready after %.1f s", len(f.controls), len(f.sidecars), time.Since(began).Seconds())
	questions := f.questions(tb, s.keys)
	f.warm(tb, questions)
	out := &figures{size: s}

	l := startLoad(tb, f.caller, questions, s.perSecond, f.nodes()...)
	out.load = l.begin("under the revocations")
	out.revoked = revocations(tb, f, s.revocations)
	progress("%v", out.load)
	progress("%d revocations: last allow after the reply p50 %v, p99 %v; %d of %d at the answering node", out.revoked.n,
		quantile(out.revoked.lag, 0.5), quantile(out.revoked.lag, 0.99), out.revoked.allows, out.revoked.asked)
	out.outages = outage(tb, f, l, s.outage, questions[0].body)
	l.end()
	if err := l.check(); err != nil {
		tb.Error(err)
	}

	third := time.Duration(s.grants) * time.Second / time.Duration(s.grantsPerSecond) / 4
	out.expired = expiries(tb, f, s.grants, s.grantsPerSecond,
		func() { f.redis.Do(tb, "FLUSHALL") },
		func() { f.redis.Pause(tb); pause(min(third, 4*time.Second)); f.redis.Resume(tb) })
	e := out.expired
	progress("%d grants: %d allowed shortly before their end, %d questions at or after it, %d allows; %d denied too early, %d failed, %d too late to ask %s",
		e.n, e.seen.Load(), e.asked.Load(), e.allows.Load(), e.denied.Load(), e.failed.Load(), e.late.Load(), e.why())
	out.took = time.Since(began)
	return out
}

// check tells of what no run may find, however slow the machine.
func (f *figures) check(tb testing.TB) {
	tb.Helper()
	if f.revoked.allows > 0 {
		tb.Errorf("%d allows of a node after it had answered a revocation", f.revoked.allows)
	}
	if n := f.expired.allows.Load(); n > 0 {
		tb.Errorf("%d allows at or after the end of a grant: %s", n, f.expired.why())
	}
	if f.expired.seen.Load() < int64(f.expired.n*9/10) {
		tb.Errorf("of %d grants %d were allowed by before their end: %s", f.expired.n, f.expired.seen.Load(), f.expired.why())
	}
	if o := f.outages; o.lastAllow > o.bound {
		tb.Errorf("an allow %v after everything was cut, want none after %v", o.lastAllow, o.bound)
	}
	for _, p := range []*phase{f.outages.paused, f.outages.emptied, f.outages.failedOver, f.outages.cut} {
		if p.denied() > 0 || p.failed > 0 {
			tb.Errorf("%v", p)
		}
	}
	for reason := range f.outages.afterCut {
		if reason != "stale" {
			tb.Errorf("past the bound decisions deny for %s", reason)
		}
	}
}

// page makes the page.
func (f *figures) page() *page.Page {
	r, e, o := f.revoked, f.expired, f.outages
	p99 := quantile(r.lag, 0.99)
	p := &page.Page{
		Title: "Benchmarks of a fleet",
		What: "How soon a right that was revoked or has ended is gone everywhere, and what decisions cost while parts are gone.\n" +
			"`make fleet` measures it anew; `make fleet WRITE=1` rewrites this page.",
		Busy: o.noise > wantSlowdown,
		Goals: []page.Goal{
			{Name: fmt.Sprintf("Last allow at any of %d sidecars after the reply to a revocation, p99 of %d, under %s decisions/s", 4, r.n, page.Thousands(float64(f.size.perSecond))),
				Want: "≤ " + ms(wantRevoked), Got: ms(p99), Met: p99 <= wantRevoked},
			{Name: "Allows at the node that answered, after its reply", Want: "0", Got: fmt.Sprintf("0 of %d", r.asked), Met: r.allows == 0},
			{Name: fmt.Sprintf("Allows at or after expires_at, at any of 6 nodes, %s grants", page.Thousands(float64(e.n))), Want: "0",
				Got: fmt.Sprintf("%d of %s", e.allows.Load(), page.Thousands(float64(e.asked.Load()))), Met: e.allows.Load() == 0 && e.seen.Load() >= int64(e.n*9/10)},
		},
	}
	if r.allows > 0 {
		p.Goals[1].Got = fmt.Sprintf("%d of %d", r.allows, r.asked)
	}
	for _, name := range []string{"Redis paused", "Redis restarted empty", "Redis failed over"} {
		p.Goals = append(p.Goals, page.Goal{Name: "p99 of decisions, " + name + " / healthy, in turns", Want: fmt.Sprintf("≤ %.1f", wantSlowdown),
			Got: fmt.Sprintf("%.2f", o.ratios[name]), Met: o.ratios[name] <= wantSlowdown})
	}
	wrongly := 0
	for _, phase := range []*phase{o.paused, o.emptied, o.failedOver, o.cut} {
		wrongly += phase.denied() + phase.failed
	}
	p.Goals = append(p.Goals,
		page.Goal{Name: "p99 of decisions, everything cut, until max_staleness / healthy before and after", Want: fmt.Sprintf("≤ %.1f", wantSlowdown), Got: fmt.Sprintf("%.2f", o.cutRatio), Met: o.cutRatio <= wantSlowdown},
		page.Goal{Name: "Decisions denied or failed during these outages, until max_staleness", Want: "0", Got: fmt.Sprint(wrongly), Met: wrongly == 0},
		page.Goal{Name: "Last allow of any node after everything was cut", Want: fmt.Sprintf("≤ %.0f s (max_staleness + max_clock_skew)", o.bound.Seconds()),
			Got: fmt.Sprintf("%.1f s", o.lastAllow.Seconds()), Met: o.lastAllow <= o.bound})
	revocations := page.Table{Title: "Revocations", Rows: [][]string{
		{"Last allow after the reply", "p50", "p90", "p99", "longest"},
		{"any of four sidecars", ms(quantile(r.lag, 0.5)), ms(quantile(r.lag, 0.9)), ms(p99), ms(slices.Max(r.lag))},
	}}
	decisions := page.Table{Title: "Decisions about what is in memory", Rows: [][]string{{"While", "Decisions", "p50", "p99", "To healthy", "All nodes up to date again"}}}
	row := func(p *phase, ratio float64, back time.Duration) {
		cells := []string{p.name, page.Thousands(float64(len(p.took))), ms(p.quantile(0.5)), ms(p.quantile(0.99)), "", ""}
		if ratio > 0 {
			cells[4], cells[5] = fmt.Sprintf("%.2f", ratio), fmt.Sprintf("after %.1f s", back.Seconds())
		}
		decisions.Rows = append(decisions.Rows, cells)
	}
	row(o.healthy, 0, 0)
	for _, p := range []*phase{o.paused, o.emptied, o.failedOver} {
		row(p, o.ratios[p.name], o.recovered[p.name])
	}
	row(o.cut, o.cutRatio, o.recovered[o.cut.name])
	p.Tables = []page.Table{revocations, decisions}
	p.How = []string{
		page.Machine(),
		"Everything runs on this one machine: PostgreSQL, Redis, two `latchkey serve`, four `latchkey sidecar`, and the client. PostgreSQL gathers statistics as usual (autovacuum, every 5 s), and does not wait for the disk (fsync=off). Every link (to PostgreSQL, to Redis, from a sidecar to its control plane) goes through a proxy inside the client, so that it can be cut.",
		fmt.Sprintf("The load is %s decisions a second, evenly over the six nodes, about %s keys and grants, half of the questions permitted. It does not wait for slow answers: what is due while the requests before it are open waits, and its waiting counts. No answer allowed what was never permitted.", page.Thousands(float64(f.size.perSecond)), page.Thousands(float64(f.size.keys))),
		fmt.Sprintf("Revocations: %d keys and %d grants, in turns at each control plane. Meanwhile each sidecar is asked about the right without pause, 1 ms apart (%s questions beside the load). The figure is the time from the client having the reply to the `DELETE` until it has the last allow from any sidecar; how long a decision takes to come is in it. The answering node is asked three times as soon as the reply is there.", r.n-r.n/2, r.n/2, page.Thousands(float64(r.probes))),
		fmt.Sprintf("Expiry: %s grants made at %d a second at both control planes, each ending 6 to 10 s later at an instant of its own. One node is asked 1 to 2 s before the end (%s allowed), every node right at or after it; in the midst Redis is emptied with FLUSHALL, and later paused for 4 s.", page.Thousands(float64(e.n)), f.size.grantsPerSecond, page.Thousands(float64(e.seen.Load()))),
		fmt.Sprintf("Outages of %v each, in %d parts with as much healthy time before each: Redis paused (SIGSTOP), killed and restarted empty, and killed with a replica promoted in its place. The p99 is that of all parts together. Where nothing differs, the p99 of every other healthy part was up to %.2f × that of the rest: smaller differences say nothing. Until all is cut: with --max-staleness %v and --max-clock-skew %v every link is cut without a word; from then until 7/10 of max_staleness decisions are to go on as before, past the bound all are denied (%s).", f.size.outage, rounds, o.noise, f.size.staleness, f.size.skew, reasons(o.afterCut)),
		"A node is up to date again when it allows by a grant made after the outage, and denies once that is revoked. No process is restarted.",
		fmt.Sprintf("The whole run took %.0f s.", f.took.Seconds()),
	}
	return p
}

func reasons(of map[string]int) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		list = append(list, fmt.Sprintf("%d × `%s`", of[name], name))
	}
	return strings.Join(list, ", ")
}

func ms(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}
