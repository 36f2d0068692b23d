package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Petitioner is for whom access is asked: one person, by id or by e-mail address.
// Both given must be the same person's.
type Petitioner struct {
	Kind  string `json:"kind"` // default "user"
	ID    string `json:"id,omitempty"`
	Email string `json:"email,omitempty"`
}

// Resource is what access is asked to.
type Resource struct {
	Kind string `json:"kind"`
	ID   string `json:"id"`
}

// ApprovalRequest is what Approval asks for.
type ApprovalRequest struct {
	// Petitioners is exactly one person. Anybody but the client's own person needs
	// a key with the scope approvals.
	Petitioners []Petitioner
	// Resources are one or more; access is to all of them or none.
	Resources []Resource
	// Reason is told to who decides. Templates may require one.
	Reason string
	// Duration in whole minutes is how long; 0 for the template's default.
	Duration time.Duration
	// Wait is how long to wait for a decision, in whole seconds; 0 for not at all.
	Wait time.Duration
}

// Grant is access that is given until it expires, or is revoked.
type Grant struct {
	ID string `json:"id"`
	// Entries are what it gives, as in access keys: resource type → entries.
	Entries json.RawMessage `json:"entries"`
	Reason  string          `json:"reason"`
	// NotBefore and ExpiresAt bound it; ExpiresAt is nil where it has no end.
	NotBefore time.Time  `json:"not_before"`
	ExpiresAt *time.Time `json:"expires_at"`
}

// Kind says what an error of Approval means.
type Kind string

// The kinds of errors.
const (
	// Waiting is that nobody has decided yet: the request stays, and asking again
	// joins it.
	Waiting Kind = "waiting"
	// Denied is that an approver or a rule refuses. Asking again later makes a new
	// request.
	Denied Kind = "denied"
	// Unknown is every other error.
	Unknown Kind = "unknown"
)

// ApprovalError is that access was asked for and is not granted.
type ApprovalError struct {
	Kind      Kind   // Waiting or Denied
	RequestID string // "" where none was made
	// Code and Detail say why it was denied.
	Code, Detail string
}

func (e *ApprovalError) Error() string {
	if e.Kind == Waiting {
		return "latchkey: the access request " + e.RequestID + " waits for a decision"
	}
	text := "latchkey: access is denied"
	if e.Code != "" {
		text += " (" + e.Code + ")"
	}
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// maxUnwrap bounds how deep ErrorKind looks: an error may wrap itself.
const maxUnwrap = 100

// ErrorKind tells what an error of Approval means: Waiting, Denied, and Unknown for
// every other, nil and errors of others too. It never panics.
func ErrorKind(err error) (kind Kind) {
	defer func() {
		if recover() != nil { // a foreign error's Unwrap
			kind = Unknown
		}
	}()
	left := maxUnwrap
	if e := find(err, &left); e != nil && (e.Kind == Waiting || e.Kind == Denied) {
		return e.Kind
	}
	return Unknown
}

// find is errors.AsType with a bound.
func find(err error, left *int) *ApprovalError {
	for err != nil && *left > 0 {
		*left--
		if e, ok := err.(*ApprovalError); ok { //nolint:errorlint // this is the loop over what it wraps
			return e
		}
		switch e := err.(type) { //nolint:errorlint // as above
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		case interface{ Unwrap() []error }:
			for _, one := range e.Unwrap() {
				if found := find(one, left); found != nil {
					return found
				}
			}
			return nil
		default:
			return nil
		}
	}
	return nil
}

// maxWait is how long the server lets one call wait.
const maxWait = 60 * time.Second

// Approval asks for access and waits for it. It returns the grant where there is
// one, or one that is given meanwhile; else an error whose [ErrorKind] is Waiting
// or Denied; an error of another kind means that nobody can tell.
//
// Asking again is what to do later: an open request is joined, a grant is
// returned without asking anybody. A call that broke off is not repeated here,
// for a denial is told once.
func (c *Client) Approval(ctx context.Context, ask ApprovalRequest) (Grant, error) {
	switch {
	case ask.Duration < 0 || ask.Duration%time.Minute != 0:
		return Grant{}, errors.New("latchkey: the duration must be whole minutes")
	case ask.Wait < 0 || ask.Wait%time.Second != 0:
		return Grant{}, errors.New("latchkey: the wait must be whole seconds")
	}
	type body struct {
		Petitioners []Petitioner `json:"petitioners"`
		Resources   []Resource   `json:"resources"`
		Reason      string       `json:"reason,omitempty"`
		Duration    int64        `json:"duration,omitempty"` // minutes
		Wait        int64        `json:"wait,omitempty"`     // seconds
	}
	in := body{Petitioners: make([]Petitioner, len(ask.Petitioners)), Resources: ask.Resources, Reason: ask.Reason, Duration: int64(ask.Duration / time.Minute)}
	for i, p := range ask.Petitioners {
		if p.Kind == "" {
			p.Kind = "user"
		}
		in.Petitioners[i] = p
	}
	for left := ask.Wait; ; left -= maxWait {
		wait := min(left, maxWait)
		in.Wait = int64(wait / time.Second)
		grant, err := c.ask(ctx, in, wait)
		if left <= maxWait || ErrorKind(err) != Waiting {
			return grant, err
		}
	}
}

func (c *Client) ask(ctx context.Context, in any, wait time.Duration) (Grant, error) {
	var out struct {
		Status    string
		RequestID string `json:"request_id"`
		Grant     *Grant
		Denial    struct{ Code, Detail string }
	}
	if err := c.post(ctx, "/v1/approvals", in, &out, whenUndone, wait); err != nil {
		return Grant{}, err
	}
	switch {
	case out.Status == "granted" && out.Grant != nil:
		return *out.Grant, nil
	case out.Status == "waiting", out.Status == "denied":
		return Grant{}, &ApprovalError{Kind: Kind(out.Status), RequestID: out.RequestID, Code: out.Denial.Code, Detail: out.Denial.Detail}
	}
	return Grant{}, fmt.Errorf("latchkey: /v1/approvals: the reply tells no outcome")
}
