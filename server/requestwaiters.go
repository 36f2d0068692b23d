package server

import (
	"slices"
	"sync"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
)

// Limits of clients that wait for access requests.
const (
	maxRequestWait            = 60 * time.Second
	maxRequestWaiters         = 4096 // at a time, in the process; each holds a connection
	maxCustomerRequestWaiters = 2048 // of them, of one customer
)

// requestHub wakes who waits for an access request. It holds nothing of a request
// that nobody waits for. Safe for concurrent use.
type requestHub struct {
	mu       sync.Mutex
	awaited  map[awaitedRequest]*awaited
	customer map[string]int // how many of a customer's requests are in awaited
}

type awaitedRequest struct{ customer, id string }

type awaited struct {
	changed chan struct{} // closed at the next change
	by      int           // clients
}

func newRequestHub() *requestHub {
	return &requestHub{awaited: map[awaitedRequest]*awaited{}, customer: map[string]int{}}
}

// join is called before the request is read for the first time, and leave when
// its client waits no more.
func (h *requestHub) join(of awaitedRequest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.awaited[of]
	if w == nil {
		w = &awaited{changed: make(chan struct{})}
		h.awaited[of] = w
		h.customer[of.customer]++
	}
	w.by++
}

func (h *requestHub) leave(of awaitedRequest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.awaited[of]
	if w.by--; w.by > 0 {
		return
	}
	delete(h.awaited, of)
	if h.customer[of.customer]--; h.customer[of.customer] == 0 {
		delete(h.customer, of.customer)
	}
}

// changed is closed at the next change of a request that was joined.
func (h *requestHub) changed(of awaitedRequest) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.awaited[of].changed
}

// observe wakes who waits for what a change touched.
func (h *requestHub) observe(customer string, t authz.Touched) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.customer[customer] == 0 {
		return
	}
	if slices.Contains(t.All, feed.Request) {
		for of, w := range h.awaited {
			if of.customer == customer {
				w.wake()
			}
		}
		return
	}
	for _, ref := range t.Refs {
		if ref.Kind != feed.Request {
			continue
		}
		if w := h.awaited[awaitedRequest{customer, ref.ID}]; w != nil {
			w.wake()
		}
	}
}

func (w *awaited) wake() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// Observe takes in a change that this process has come to know of, its own and
// others'; it is an observer of authz.Follower. It does not wait.
func (s *Server) Observe(customer string, t authz.Touched) { s.requests.observe(customer, t) }

// awaitRequest calls look until it has nothing more to wait for, or most is over:
// at once, after each change of the caller's customer's access request id, and at
// the time that look returns, latchkey.Never for none, when something becomes of
// the request by itself. The last call of look says how things stand. Where no
// more may wait the error is of kind TooManyRequests.
func (r *request) awaitRequest(id string, most time.Duration, look func() (done bool, again latchkey.Instant, err error)) error {
	if most = min(most, maxRequestWait); most <= 0 {
		_, _, err := look()
		return err
	}
	of := awaitedRequest{r.caller.Customer.ID, id}
	r.s.requests.join(of)
	defer r.s.requests.leave(of)
	var waits *wait
	for woke := byChange; ; {
		changed := r.s.requests.changed(of) // before it is read
		done, again, err := look()
		if done || err != nil || woke != byChange {
			return err
		}
		if waits == nil {
			if waits = r.wait(r.s.requestWaiters, of.customer, most); waits == nil {
				return r.s.requestWaiters.errFull()
			}
			defer waits.end()
		}
		var ahead time.Duration // of what becomes of it by itself
		if again != latchkey.Never {
			ahead = max(time.Duration(again-r.now)*time.Microsecond, time.Millisecond) // by a clock that stands still, never a busy wait
		}
		woke = waits.until(changed, ahead)
		// What held at the beginning may not hold any more.
		if err := r.checkAgain(); err != nil {
			return err
		}
	}
}
