package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// revoked is what revocations came to.
type revoked struct {
	n int
	// lag is, for each revocation, how long after the reply the last allow came
	// from any sidecar.
	lag []time.Duration
	// allows are those of the node that answered, after its reply.
	allows, asked int
	probes        int
}

// revocations ends keys and grants, in turns at each control plane, while every
// sidecar is asked about them without pause.
func revocations(tb testing.TB, f *fleet, n int) *revoked {
	tb.Helper()
	r := &revoked{n: n}
	for i := range n {
		control := f.controls[i%len(f.controls)]
		var q question
		var path string
		if i/len(f.controls)%2 == 0 {
			id := f.makeKey(tb, control, fmt.Sprintf("rev-%d", i), fmt.Sprintf("rev-%d/*", i))
			q, path = question{"access_key", id, fmt.Sprintf("rev-%d/a", i)}, "/v1/access_keys/"+id
		} else {
			user := fmt.Sprintf("revoked-%d", i)
			id := f.makeGrant(tb, control, "user", user, fmt.Sprintf("rev-%d/*", i), time.Now().Add(time.Hour))
			q, path = question{"user", user, fmt.Sprintf("rev-%d/a", i)}, "/v1/grants/"+id
		}
		r.one(tb, f, control, q.body(), path)
	}
	return r
}

// prober asks one node about one thing until it is told to stop.
type prober struct {
	mu        sync.Mutex
	lastAllow time.Time // when it came
	denied    time.Time // when the request of the first deny after it was sent
	asked     int
	err       error
}

func (p *prober) run(ctx context.Context, n *node, key, body string) {
	for ctx.Err() == nil {
		a, err := n.ask(ctx, key, body)
		if ctx.Err() != nil {
			return
		}
		p.mu.Lock()
		p.asked++
		switch {
		case err != nil:
			p.err = err
		case a.allow:
			p.lastAllow, p.denied = a.received, time.Time{}
		case p.denied.IsZero():
			p.denied = a.sent
		}
		p.mu.Unlock()
		pause(time.Millisecond)
	}
}

func (p *prober) seen() (lastAllow, denied time.Time, asked int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lastAllow, p.denied, p.asked, p.err
}

// settle is how long a deny must stand before it is believed to be the last
// word.
const settle = 30 * time.Millisecond

func (r *revoked) one(tb testing.TB, f *fleet, control *node, body, path string) {
	tb.Helper()
	for _, n := range f.nodes() {
		await(tb, 10*time.Second, n.name+" allows before the revocation", func() error { return f.allows(n, body) })
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	probers := make([]*prober, len(f.sidecars))
	var running sync.WaitGroup
	for i, n := range f.sidecars {
		probers[i] = &prober{}
		running.Go(func() { probers[i].run(ctx, n, f.caller, body) })
	}
	for i, p := range probers {
		await(tb, 10*time.Second, f.sidecars[i].name+" is asked", func() error {
			if last, _, _, err := p.seen(); last.IsZero() {
				return fmt.Errorf("no allow yet (%w)", err)
			}
			return nil
		})
	}
	control.must(tb, http.StatusNoContent, f.root, http.MethodDelete, path, nil)
	replied := time.Now()
	for range 3 {
		a, err := control.ask(ctx, f.caller, body)
		if err != nil {
			tb.Fatal(err)
		}
		if r.asked++; a.allow {
			r.allows++
		}
	}
	lag := time.Duration(0)
	for i, p := range probers {
		await(tb, 15*time.Second, f.sidecars[i].name+" denies after the revocation", func() error {
			if _, denied, _, err := p.seen(); denied.IsZero() || time.Since(denied) < settle {
				return fmt.Errorf("it still allows (%w)", err)
			}
			return nil
		})
	}
	stop()
	running.Wait()
	for _, p := range probers {
		last, _, asked, _ := p.seen()
		r.probes += asked
		lag = max(lag, last.Sub(replied))
	}
	r.lag = append(r.lag, lag)
}
