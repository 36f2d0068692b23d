package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// expired is what grants that end by themselves came to.
type expired struct {
	n      int
	seen   atomic.Int64 // grants that a node allowed by, shortly before their end
	late   atomic.Int64 // grants that this program could not ask about before their end
	denied atomic.Int64 // grants that a node did not allow by although they held
	asked  atomic.Int64 // questions at or after the end
	allows atomic.Int64 // of these, the allows
	failed atomic.Int64
	lastly atomic.Pointer[string]
}

// life of a grant: shorter than this nobody may ask about it in time, since
// making the others takes its time too.
const (
	leastLife = 6 * time.Second
	moreLife  = 4 * time.Second
)

// expiries makes grants at a steady rate at both control planes, each with an
// end of its own a few seconds later, and asks about each shortly before its end
// at one node and right after it at every node. events happen one after the
// other, spread over the time that this takes.
func expiries(tb testing.TB, f *fleet, n, perSecond int, events ...func()) *expired {
	tb.Helper()
	e := &expired{n: n}
	var asking, making sync.WaitGroup
	open := make(chan struct{}, 32) // requests at a time
	ask := func(node *node, body string) (answer, error) {
		open <- struct{}{}
		defer func() { <-open }()
		return node.ask(context.Background(), f.caller, body)
	}
	nodes := f.nodes()
	every := time.Second / time.Duration(perSecond)
	begin := time.Now()
	next := 0
	slots := make(chan struct{}, 16)
	for i := range n {
		for next < len(events) && i == (next+1)*n/(len(events)+1) {
			making.Go(events[next])
			next++
		}
		if wait := time.Until(begin.Add(time.Duration(i) * every)); wait > 0 {
			pause(wait)
		}
		slots <- struct{}{}
		making.Go(func() {
			defer func() { <-slots }()
			user := fmt.Sprintf("expiring-%d", i)
			ends := time.Now().Add(leastLife + rand.N(moreLife)).Truncate(time.Microsecond)
			if err := f.tryGrant(f.controls[i%len(f.controls)], "user", user, fmt.Sprintf("exp-%d", i), ends); err != nil {
				e.failed.Add(1)
				e.say("make a grant: %v", err)
				return
			}
			body := question{"user", user, fmt.Sprintf("exp-%d", i)}.body()
			asking.Go(func() { e.follow(ask, nodes, i, body, ends) })
		})
	}
	making.Wait()
	asking.Wait()
	return e
}

func (e *expired) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	e.lastly.Store(&text)
}

func (e *expired) follow(ask func(*node, string) (answer, error), nodes []*node, i int, body string, ends time.Time) {
	first := nodes[i%len(nodes)]
	pause(time.Until(ends.Add(-time.Second - rand.N(time.Second))))
	switch a, err := ask(first, body); {
	case err != nil:
		e.failed.Add(1)
		e.say("%s: %v", first.name, err)
	case a.allow:
		e.seen.Add(1)
	case a.sent.After(ends):
		e.late.Add(1)
	default:
		e.denied.Add(1)
		e.say("%s denies what holds: %s", first.name, a.reason)
	}
	// Each node knows it from before its end, or finds it out after.
	pause(time.Until(ends))
	for k := range nodes {
		n := nodes[(i+k)%len(nodes)]
		a, err := ask(n, body)
		if err != nil {
			e.failed.Add(1)
			e.say("%s: %v", n.name, err)
			continue
		}
		if e.asked.Add(1); a.allow {
			e.allows.Add(1)
			e.say("%s allowed %v after the end", n.name, a.sent.Sub(ends))
		}
	}
}

func (e *expired) why() string {
	if s := e.lastly.Load(); s != nil {
		return *s
	}
	return ""
}
