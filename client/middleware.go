package client

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"
)

// Guard says how the middleware asks and what it does with the answers.
type Guard struct {
	// Question makes of a request what is asked. An error refuses it: with 401
	// where it is [ErrNoCredential], else with 403.
	Question func(*http.Request) (Question, error)
	// Fulfil does what a decision demands beside allowing: its obligations, or what
	// an action of the policy's own stands for. An error refuses the request with
	// 403. nil refuses every decision that demands something.
	Fulfil func(http.ResponseWriter, *http.Request, *Decision) error
	// Refuse answers in place of the default, which is a status and its text.
	// status is 401, 403 or 503, whose headers are set already; err is why, for a log: it
	// is nothing to show to strangers, and holds no key of the client's.
	Refuse func(w http.ResponseWriter, r *http.Request, status int, err error)
	// Timeout bounds the asking of one request; default 2 s, and never more than the
	// client's own.
	Timeout time.Duration
}

// ErrNoCredential is that a request brings no credential to ask about.
var ErrNoCredential = errors.New("latchkey: the request brings no credential")

// DeniedError is why the middleware refused a request that was decided on.
type DeniedError struct{ Decision Decision }

func (e *DeniedError) Error() string {
	text := "latchkey: denied"
	for i := range e.Decision.Reasons {
		text += " " + e.Decision.Reasons[i].Code
	}
	if e.Decision.ID != "" {
		text += " (" + e.Decision.ID + ")"
	}
	return text
}

// Middleware lets through what latchkey allows, and nothing else. Who brings no
// credential, or one that does not hold, gets 401; who is denied 403; and where
// nobody can tell, 503. The decision is in the context of what it lets through,
// for [DecisionOf].
func (c *Client) Middleware(g Guard) func(http.Handler) http.Handler {
	if g.Timeout <= 0 {
		g.Timeout = 2 * time.Second
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			d, status, err := c.admit(w, r, &g)
			if status != http.StatusOK {
				g.refuse(w, r, status, err)
				return
			}
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), decisionKey{}, &d)))
		})
	}
}

// admit is 200 for what may go on, and nothing else is.
func (c *Client) admit(w http.ResponseWriter, r *http.Request, g *Guard) (Decision, int, error) {
	if g.Question == nil {
		return Decision{}, http.StatusForbidden, errors.New("latchkey: the middleware has no question")
	}
	q, err := g.Question(r)
	switch {
	case errors.Is(err, ErrNoCredential):
		return Decision{}, http.StatusUnauthorized, err
	case err != nil:
		return Decision{}, http.StatusForbidden, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), g.Timeout)
	defer cancel()
	d, err := c.Decide(ctx, q)
	if err != nil {
		return Decision{}, undecided(err), err
	}
	if !d.Allowed {
		return d, denied(&d), &DeniedError{d}
	}
	if len(d.Obligations) > 0 || d.Action != "allow" {
		if g.Fulfil == nil {
			return d, http.StatusForbidden, errors.New("latchkey: the decision demands what nobody here does")
		}
		if err := g.Fulfil(w, r, &d); err != nil {
			return d, http.StatusForbidden, err
		}
	}
	return d, http.StatusOK, nil
}

// undecided is 403 for a question that latchkey refuses to read, which stays so:
// an id that is too long, say. Everything else, the client's own key among it, is
// no fault of who asks.
func undecided(err error) int {
	if p, ok := errors.AsType[*Problem](err); ok && (p.Status == http.StatusBadRequest || p.Status == http.StatusRequestEntityTooLarge) && p.Code != "" {
		return http.StatusForbidden
	}
	return http.StatusServiceUnavailable
}

func denied(d *Decision) int {
	switch {
	case d.Because("stale"), d.Because("not_ready"):
		return http.StatusServiceUnavailable
	case d.Because("key_unknown"), d.Because("key_expired"), d.Because("key_revoked"):
		return http.StatusUnauthorized
	}
	return http.StatusForbidden
}

func (g *Guard) refuse(w http.ResponseWriter, r *http.Request, status int, err error) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	switch status {
	case http.StatusUnauthorized:
		challenge := "Bearer"
		if r.Header.Get("Authorization") != "" {
			challenge = `Bearer error="invalid_token"`
		}
		h.Set("WWW-Authenticate", challenge)
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", "1")
	}
	if g.Refuse != nil {
		g.Refuse(w, r, status, err)
		return
	}
	http.Error(w, http.StatusText(status), status)
}

type decisionKey struct{}

// DecisionOf is the decision that let the request through, nil without one.
func DecisionOf(ctx context.Context) *Decision {
	d, _ := ctx.Value(decisionKey{}).(*Decision)
	return d
}

// BearerQuestion asks whether the access key that a request brings in
// Authorization: Bearer may do to a resource what its method stands for: GET and
// HEAD read, POST creates, PUT and PATCH update, DELETE deletes. Any other method,
// and an error of resource, is refused.
func BearerQuestion(resource func(*http.Request) (Entity, error)) func(*http.Request) (Question, error) {
	return func(r *http.Request) (Question, error) {
		key, err := bearer(r)
		if err != nil {
			return Question{}, err
		}
		action, ok := actions[r.Method]
		if !ok {
			return Question{}, errors.New("latchkey: the method stands for no action")
		}
		about, err := resource(r)
		if err != nil {
			return Question{}, err
		}
		return Question{Subject: KeySubject(key), Action: action, Resource: about}, nil
	}
}

var actions = map[string]string{
	http.MethodGet: "read", http.MethodHead: "read", http.MethodPost: "create",
	http.MethodPut: "update", http.MethodPatch: "update", http.MethodDelete: "delete",
}

// bearer is the one credential of a request. Two of them are nobody's: which one
// the application goes by cannot be told.
func bearer(r *http.Request) (string, error) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return "", ErrNoCredential
	}
	scheme, key, _ := strings.Cut(values[0], " ")
	if key = strings.TrimSpace(key); !strings.EqualFold(scheme, "bearer") || key == "" {
		return "", ErrNoCredential
	}
	return key, nil
}
