package access

import (
	"context"
	"errors"
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
	// Troubled is told what went wrong with something that does not fail for it; may
	// be nil. What is it?, "auto_approval", "trigger", "recheck".
	Troubled func(ctx context.Context, what string, err error)
}

// Requests submits requests, decides on them, and ends them. When a call returns,
// decisions of this process see what it did. Safe for concurrent use.
type Requests struct{ cfg RequestsConfig }

// NewRequests makes the service.
func NewRequests(cfg RequestsConfig) *Requests { return &Requests{cfg: cfg} }

// Submit makes a request of a person, or of a service for one.
func (s *Requests) Submit(ctx context.Context, call authz.Call, in Submission) (Request, error) {
	return Request{}, errUnready
}

// Approve gives the caller's vote; with the last of those that the template wants
// the request is approved and the grant made.
func (s *Requests) Approve(ctx context.Context, call authz.Call, id string, v Verdict) (Request, error) {
	return Request{}, errUnready
}

// Deny denies a pending request.
func (s *Requests) Deny(ctx context.Context, call authz.Call, id, comment string) (Request, error) {
	return Request{}, errUnready
}

// Revoke ends what was approved, and cancels what is pending.
func (s *Requests) Revoke(ctx context.Context, call authz.Call, id, reason string) (Request, error) {
	return Request{}, errUnready
}

// Fail ends a pending request that cannot be carried out; by who may decide.
func (s *Requests) Fail(ctx context.Context, call authz.Call, id, why string) (Request, error) {
	return Request{}, errUnready
}

// Get returns a request that concerns the caller; to anybody else there is none.
func (s *Requests) Get(ctx context.Context, call authz.Call, id string) (Request, error) {
	return Request{}, errUnready
}

// List returns a page of all requests, for managers.
func (s *Requests) List(ctx context.Context, call authz.Call, q Query) ([]Request, error) {
	return nil, errUnready
}

// Pending returns a page of the requests that wait for the caller's decision.
func (s *Requests) Pending(ctx context.Context, call authz.Call, q Query) ([]Request, error) {
	return nil, errUnready
}

// Mine returns a page of the caller's requests; of a service, of those that it
// submitted.
func (s *Requests) Mine(ctx context.Context, call authz.Call, q Query) ([]Request, error) {
	return nil, errUnready
}

// Messages returns a page of the discussion of a request, oldest first; after is
// the last one of the page before.
func (s *Requests) Messages(ctx context.Context, call authz.Call, id string, after Message, limit int) ([]Message, error) {
	return nil, errUnready
}

// AddMessage adds a line to it, until a week after the request was closed.
func (s *Requests) AddMessage(ctx context.Context, call authz.Call, id, body string) (Message, error) {
	return Message{}, errUnready
}

// Sweep writes down what has expired, and returns how many requests.
func (s *Requests) Sweep(ctx context.Context, now latchkey.Instant) (int, error) {
	return 0, errUnready
}

// Escalate takes requests that nobody decided in time to further people, once, and
// returns how many.
func (s *Requests) Escalate(ctx context.Context, now latchkey.Instant) (int, error) {
	return 0, errUnready
}

// Recheck asks providers again about what they approved, and revokes what they
// would not approve any more; it returns how many.
func (s *Requests) Recheck(ctx context.Context, now latchkey.Instant) (int, error) {
	return 0, errUnready
}

// Templates keeps templates. Safe for concurrent use.
type Templates struct{ cfg TemplatesConfig }

// TemplatesConfig are the collaborators of Templates.
type TemplatesConfig struct {
	Record Record
	Parser *scopes.Parser
	Auto   AutoApprover // nil: no template can ask providers
}

// NewTemplates makes the service.
func NewTemplates(cfg TemplatesConfig) *Templates { return &Templates{cfg: cfg} }

// Create makes a template, and returns it with warnings. What the server settles,
// ids and times, is ignored in t.
func (s *Templates) Create(ctx context.Context, call authz.Call, t Template) (Template, []string, error) {
	return Template{}, nil, errUnready
}

// Update replaces a template whole. Its application never changes.
func (s *Templates) Update(ctx context.Context, call authz.Call, id string, t Template) (Template, []string, error) {
	return Template{}, nil, errUnready
}

// Get returns one.
func (s *Templates) Get(ctx context.Context, call authz.Call, id string) (Template, error) {
	return Template{}, errUnready
}

// List returns a page of them by name; after is the last name of the page before.
func (s *Templates) List(ctx context.Context, call authz.Call, after string, limit int) ([]Template, error) {
	return nil, errUnready
}

// Delete deletes a template that no open request is of.
func (s *Templates) Delete(ctx context.Context, call authz.Call, id string) error { return errUnready }

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

var errUnready = errors.New("unready")
