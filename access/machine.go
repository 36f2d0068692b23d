package access

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
)

// What can happen to a request, and from which status:
//
//	Approve   pending   → pending (more votes are wanted) or approved
//	Deny      pending   → denied
//	Revoke    pending   → revoked (cancelled), approved → revoked
//	Fail      pending   → failed
//	Expire    pending   → expired, approved → expired; each in its time
//	Escalate  pending   → pending; once, in its time
//
// The status that counts is that at the time: what has run out has expired.
type (
	// Approve is a vote. Final approves whatever number of votes is wanted; Limit
	// bounds the grant, 0 does not; Window is another one than was asked for.
	Approve struct {
		By       Party
		Method   string
		Comment  string
		Evidence json.RawMessage
		Final    bool
		Limit    time.Duration
		Window   *Window
		Grant    string // the id of the grant that is made with the last vote
	}
	// Deny is a denial.
	Deny struct {
		By      Party
		Comment string
	}
	// Revoke ends what was approved, and cancels what is pending.
	Revoke struct{ By, Reason string }
	// Fail is a request that cannot be carried out.
	Fail struct{ Why string }
	// Expire writes down that its time is over.
	Expire struct{}
	// Escalate takes it to further people.
	Escalate struct{ Notified []Party }
)

// Event is one of the above.
type Event interface {
	on(r *Request, now latchkey.Instant) error
}

// Step is the state machine: what becomes of a request by an event. It is the one
// place where the status of a request changes. An error is a Conflict, or Invalid for
// a window that the template does not allow, and leaves the request as it is; Step
// never changes what it is given.
func Step(r Request, e Event, now latchkey.Instant) (Request, error) {
	next := r
	next.Approvals, next.Notified = slices.Clone(r.Approvals), slices.Clone(r.Notified)
	if err := e.on(&next, now); err != nil {
		return r, err
	}
	return next, nil
}

func errNotPending(r *Request, now latchkey.Instant) error {
	return latchkey.Errorf(latchkey.Conflict, "request_not_pending", "the request is %s", r.StatusAt(now))
}

func (e Approve) on(r *Request, now latchkey.Instant) error {
	if r.StatusAt(now) != Pending {
		return errNotPending(r, now)
	}
	if slices.ContainsFunc(r.Approvals, func(v Vote) bool { return v.By.ID == e.By.ID }) {
		return latchkey.Errorf(latchkey.Conflict, "already_voted", "you have approved this request already; somebody else's approval is wanted")
	}
	if e.Window != nil && (r.Window == nil || *e.Window != *r.Window) {
		if err := r.move(*e.Window, now); err != nil {
			return err
		}
	}
	r.Approvals = append(r.Approvals, Vote{By: e.By, At: now, Comment: e.Comment, Evidence: e.Evidence})
	if len(r.Approvals) < r.Snapshot.Template.ApprovalsRequired && !e.Final {
		return nil
	}
	r.Status, r.DecidedBy, r.DecisionMethod, r.DecidedAt, r.Comment = Approved, e.By.ID, e.Method, now, e.Comment
	r.Grant, r.NotBefore = e.Grant, now
	switch r.Assignment {
	case Temporary: // from now on: never from when it was asked for
		r.ExpiresAt = now.Add(r.Duration.Duration())
	case InWindow:
		r.NotBefore, r.ExpiresAt = max(r.Window.Start, now), r.Window.End
	case Permanent:
		r.ExpiresAt = latchkey.Never
	}
	if e.Limit > 0 {
		r.ExpiresAt = min(r.ExpiresAt, r.NotBefore.Add(e.Limit))
	}
	onCall := slices.ContainsFunc(r.Approvals, func(v Vote) bool { return v.By.ID == authz.Bot }) // last or not
	if every := r.Snapshot.Template.RevokeWhenOffCall; every > 0 && onCall {
		r.RecheckAt = now.Add(every.Duration())
	}
	return nil
}

// move gives a request in a window another one, which only the first to approve
// may: those after approve what that one did.
func (r *Request) move(w Window, now latchkey.Instant) error {
	switch {
	case r.Assignment != InWindow:
		return latchkey.Errorf(latchkey.Conflict, "no_window", "the request is not for a window")
	case len(r.Approvals) > 0:
		return latchkey.Errorf(latchkey.Conflict, "window_settled", "somebody has approved the window; it cannot be moved any more")
	}
	if err := r.Snapshot.Template.checkWindow(w, "/window", now); err != nil {
		return err
	}
	r.Window = &w
	r.PendingUntil = r.pendingUntil()
	return nil
}

// pendingUntil is when it expires if nobody decides.
func (r *Request) pendingUntil() latchkey.Instant {
	until := latchkey.Never
	if ttl := r.Snapshot.Template.PendingTTL; ttl > 0 {
		until = r.CreatedAt.Add(ttl.Duration())
	}
	if r.Assignment == InWindow && r.Window != nil {
		until = min(until, r.Window.End)
	}
	return until
}

func (e Deny) on(r *Request, now latchkey.Instant) error {
	if r.StatusAt(now) != Pending {
		return errNotPending(r, now)
	}
	r.Status, r.DecidedBy, r.DecisionMethod, r.DecidedAt, r.Comment, r.ClosedAt = Denied, e.By.ID, ManualDecision, now, e.Comment, now
	return nil
}

func (e Revoke) on(r *Request, now latchkey.Instant) error {
	if r.StatusAt(now).Final() {
		return errNotPending(r, now)
	}
	r.Status, r.RevokedBy, r.RevokeReason, r.ClosedAt = Revoked, e.By, e.Reason, now
	return nil
}

func (e Fail) on(r *Request, now latchkey.Instant) error {
	if r.StatusAt(now) != Pending {
		return errNotPending(r, now)
	}
	r.Status, r.Failure, r.ClosedAt = Failed, e.Why, now
	return nil
}

func (Expire) on(r *Request, now latchkey.Instant) error {
	if r.Status.Final() || r.StatusAt(now) != Expired {
		return latchkey.Errorf(latchkey.Conflict, "request_not_due", "the request does not expire yet, or has ended")
	}
	r.ClosedAt = r.EndsAt()
	r.Status = Expired
	return nil
}

func (e Escalate) on(r *Request, now latchkey.Instant) error {
	if r.StatusAt(now) != Pending || r.EscalatedAt != latchkey.Never || now < r.EscalatesAt {
		return latchkey.Errorf(latchkey.Conflict, "request_not_due", "the request does not escalate yet, or has, or has ended")
	}
	r.EscalatedAt = now
	for _, p := range e.Notified {
		if !slices.ContainsFunc(r.Notified, func(q Party) bool { return q.ID == p.ID }) {
			r.Notified = append(r.Notified, p)
		}
	}
	return nil
}
