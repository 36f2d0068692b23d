package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// workers is how many requests of the load a node may have open.
const workers = 16

// known is a question with its right answer.
type known struct {
	body   string
	permit bool
}

// phase is what was measured in one stretch of time.
type phase struct {
	name string

	mu      sync.Mutex
	took    []time.Duration // from when the request was due
	reasons map[string]int  // of denies that should have been allows
	wrong   int             // allows that should have been denies
	failed  int             // no decision at all
	example error
}

func newPhase(name string) *phase { return &phase{name: name, reasons: map[string]int{}} }

// add takes in what another stretch, which is over, has found.
func (p *phase) add(other *phase) {
	other.mu.Lock()
	defer other.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.took = append(p.took, other.took...)
	for reason, n := range other.reasons {
		p.reasons[reason] += n
	}
	p.wrong += other.wrong
	p.failed += other.failed
	if other.example != nil {
		p.example = other.example
	}
}

// quantile of how long requests took.
func (p *phase) quantile(q float64) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return quantile(p.took, q)
}

func quantile(of []time.Duration, q float64) time.Duration {
	if len(of) == 0 {
		return 0
	}
	of = slices.Sorted(slices.Values(of))
	return of[max(0, int(math.Ceil(q*float64(len(of))))-1)]
}

// denied counts the questions that ought to have been permitted and were not.
func (p *phase) denied() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, of := range p.reasons {
		n += of
	}
	return n
}

func (p *phase) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := fmt.Sprintf("%s: %d decisions, p50 %v, p99 %v", p.name, len(p.took),
		quantile(p.took, 0.5).Round(10*time.Microsecond), quantile(p.took, 0.99).Round(10*time.Microsecond))
	for _, reason := range slices.Sorted(maps.Keys(p.reasons)) {
		text += fmt.Sprintf(", %d denied for %s", p.reasons[reason], reason)
	}
	if p.wrong > 0 {
		text += fmt.Sprintf(", %d WRONGLY ALLOWED", p.wrong)
	}
	if p.failed > 0 {
		text += fmt.Sprintf(", %d failed (%v)", p.failed, p.example)
	}
	return text
}

// load asks nodes about what they know, at a steady rate whatever they answer:
// a request that is due while the ones before it are slow waits, and its waiting
// counts.
type load struct {
	tb        testing.TB
	key       string
	questions []known
	now       atomic.Pointer[phase]
	stop      context.CancelFunc
	running   sync.WaitGroup
	all       []*phase
}

// startLoad puts so many decisions a second on the nodes, evenly.
func startLoad(tb testing.TB, key string, questions []known, perSecond int, nodes ...*node) *load {
	tb.Helper()
	ctx, stop := context.WithCancel(context.Background())
	l := &load{tb: tb, key: key, questions: questions, stop: stop}
	l.begin("start")
	every := time.Second * time.Duration(len(nodes)) / time.Duration(perSecond)
	for i, n := range nodes {
		due := make(chan time.Time, 1<<14)
		for w := range workers {
			l.running.Go(func() {
				at := i*7919 + w*104729
				for t := range due {
					at++
					l.one(ctx, n, l.questions[at%len(l.questions)], t)
				}
			})
		}
		l.running.Go(func() {
			defer close(due)
			for next := time.Now(); ctx.Err() == nil; next = next.Add(every) {
				if wait := time.Until(next); wait > 0 {
					pause(wait)
				}
				select {
				case due <- time.Now(): // not next: how late this program wakes is not the node's doing
				default: // hopelessly behind; what waits is told already
				}
			}
		})
	}
	tb.Cleanup(l.end)
	return l
}

func (l *load) end() {
	l.stop()
	l.running.Wait()
}

// begin starts the next stretch.
func (l *load) begin(name string) *phase {
	p := newPhase(name)
	l.all = append(l.all, p)
	l.now.Store(p)
	return p
}

// measure is begin, and waits until the stretch is over.
func (l *load) measure(name string, d time.Duration) *phase {
	p := l.begin(name)
	pause(d)
	l.begin("between")
	progress("%v", p)
	return p
}

func (l *load) one(ctx context.Context, n *node, q known, due time.Time) {
	p := l.now.Load()
	a, err := n.ask(ctx, l.key, q.body)
	if ctx.Err() != nil {
		return
	}
	took := time.Since(due)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil:
		p.failed++
		p.example = err
		return
	case a.allow && !q.permit:
		p.wrong++
	case !a.allow && q.permit:
		p.reasons[a.reason]++
	}
	p.took = append(p.took, took)
}

// errWrong says that a node allowed what was never permitted.
var errWrong = errors.New("allowed what was never permitted")

// check tells of what no stretch may have.
func (l *load) check() error {
	for _, p := range l.all {
		if p.mu.Lock(); p.wrong > 0 {
			p.mu.Unlock()
			return fmt.Errorf("%w: %v", errWrong, p)
		}
		p.mu.Unlock()
	}
	return nil
}
