package access

import (
	"context"
	"sync"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/scopes"
)

// RequestsConfig are the collaborators of Requests; what does not say otherwise is
// required.
type RequestsConfig struct {
	Record Record
	Parser *scopes.Parser
	// Subjects are the grants of persons, as far as they are in memory.
	Subjects authz.GrantCache
	Auto     AutoApprover // nil: nothing is approved by providers
	Trigger  Trigger      // nil: no task can succeed
	// Now is asked again after something was waited for; nil where that is not to
	// count.
	Now func() latchkey.Instant
	// Troubled is told what went wrong with something that does not fail for it; may
	// be nil. What is it?, "auto_approval", "trigger", "recheck".
	Troubled func(ctx context.Context, what string, err error)
}

// Requests submits requests, decides on them, and ends them. When a call returns,
// decisions of this process see what it did. Safe for concurrent use.
type Requests struct{ cfg RequestsConfig }

// NewRequests makes the service.
func NewRequests(cfg RequestsConfig) *Requests { return &Requests{cfg: cfg} }

// Waiters are those that wait for something to become of a request. Safe for
// concurrent use.
type Waiters struct {
	mu sync.Mutex
	of map[waiting]map[chan struct{}]struct{}
}

type waiting struct{ customer, request string }

// Wait returns a channel that is closed once something became of the request, and
// what to call when nobody listens any more. Who waits looks at the request after
// it called Wait, since what came before is not told.
func (w *Waiters) Wait(customer, request string) (changed <-chan struct{}, done func()) {
	key, ch := waiting{customer, request}, make(chan struct{})
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of == nil {
		w.of = map[waiting]map[chan struct{}]struct{}{}
	}
	if w.of[key] == nil {
		w.of[key] = map[chan struct{}]struct{}{}
	}
	w.of[key][ch] = struct{}{}
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.of[key], ch)
		if len(w.of[key]) == 0 {
			delete(w.of, key)
		}
	}
}

// Observe wakes those that wait for what a change touched; it is for
// authz.Follower.Observe.
func (w *Waiters) Observe(chain string, t authz.Touched) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ref := range t.Refs {
		if ref.Kind == feed.Request {
			w.wake(waiting{chain, ref.ID})
		}
	}
	for _, kind := range t.All {
		if kind != feed.Request {
			continue
		}
		for key := range w.of {
			if key.customer == chain {
				w.wake(key)
			}
		}
	}
}

func (w *Waiters) wake(key waiting) {
	for ch := range w.of[key] {
		close(ch)
	}
	delete(w.of, key)
}
