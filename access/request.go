package access

import (
	"cmp"
	"encoding/json"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
)

// Status is what has become of a request.
type Status string

// The statuses. All but Pending and Approved are final.
const (
	Pending  Status = "pending"
	Approved Status = "approved"
	Denied   Status = "denied"
	Revoked  Status = "revoked" // with nobody who decided: it was cancelled
	Expired  Status = "expired"
	Failed   Status = "failed"
)

// Final reports whether nothing can become of it any more.
func (s Status) Final() bool { return s != Pending && s != Approved }

// System is who decides where a template approves by itself.
const System = "system"

// The methods by which a request is decided.
const (
	ManualDecision = "manual"
	AutoDecision   = "auto"
)

// Party is a person as it was when something was done.
type Party struct {
	ID    string `json:"id"`
	Email string `json:"email"` // "" for none
	Name  string `json:"name"`
}

// PartyOf is what a person is shown as to others. Who has no name goes by the
// username: of somebody without an address either, an approver would be shown
// nothing but an id.
func PartyOf(p *authz.Person) Party {
	return Party{ID: p.ID, Email: p.Email, Name: cmp.Or(p.Name, p.Username)}
}

// Snapshot is what a request was made by, by value: no later change to any of it
// widens or narrows what is granted.
type Snapshot struct {
	Template Template `json:"template"`
	AppName  string   `json:"app_name"`
	Entries  string   `json:"entries"` // of the entitlements: canonical JSON object, {} for none
	Claims   string   `json:"claims"`  // likewise
}

// Request is somebody's wish for a right, and what has become of it. Times that
// have not come are latchkey.Never.
type Request struct {
	ID       string `json:"id"` // UUID
	Customer string `json:"-"`
	Version  int64  `json:"-"` // sequence number of the last change
	// Template is the id of its template, "" once that was deleted; Snapshot stays.
	Template string   `json:"-"`
	Snapshot Snapshot `json:"snapshot"`

	Requester   Party `json:"requester"`
	Beneficiary Party `json:"beneficiary"`
	// SubmittedBy is who asked: the requester, or a service for them.
	SubmittedBy audit.Actor       `json:"submitted_by"` // type and id
	Resources   []authz.EntityRef `json:"resources"`

	Assignment    Assignment `json:"assignment_type"`
	Duration      Minutes    `json:"requested_duration_mins"` // of a temporary one
	Window        *Window    `json:"window"`                  // of one in a window
	Justification string     `json:"justification"`           // for those who may decide
	Answers       []Answer   `json:"custom_answers"`

	// Status is what is written down; ask StatusAt what it is.
	Status    Status           `json:"status"`
	CreatedAt latchkey.Instant `json:"created_at"`
	// PendingUntil is when it expires if nobody decides, EscalatesAt when it goes to
	// further people, EscalatedAt when it did.
	PendingUntil latchkey.Instant `json:"pending_until"`
	EscalatesAt  latchkey.Instant `json:"escalates_at"`
	EscalatedAt  latchkey.Instant `json:"escalated_at"`
	Notified     []Party          `json:"notified_approvers"`
	Approvals    []Vote           `json:"approvals"`

	// DecidedBy is the id of who decided: a person, authz.Bot or System; "" while
	// nobody has.
	DecidedBy      string           `json:"decided_by"`
	DecisionMethod string           `json:"decision_method"`
	DecidedAt      latchkey.Instant `json:"decided_at"`
	Comment        string           `json:"comment"`

	// NotBefore and ExpiresAt bound the grant, whose id is Grant; of one that never
	// was they are Never and "". ExpiresAt is Never for a permanent one too.
	Grant     string           `json:"grant_id"`
	NotBefore latchkey.Instant `json:"not_before"`
	ExpiresAt latchkey.Instant `json:"expires_at"`

	// RevokedBy is the id of who revoked or cancelled it, System for the process.
	RevokedBy    string `json:"revoked_by"`
	RevokeReason string `json:"revoke_reason"`
	// ClosedAt is when it came to its end.
	ClosedAt latchkey.Instant `json:"closed_at"`
	// Failure is why it failed.
	Failure string `json:"failure"`

	// RecheckAt is when providers are asked again whether they would still approve.
	RecheckAt latchkey.Instant `json:"recheck_at"`

	// TriggerFailure is what came of the last task that had to succeed before an
	// approval and did not.
	TriggerFailure string `json:"-"`
	// Lease is held by who runs such a task, until LeaseUntil.
	Lease      string           `json:"-"`
	LeaseUntil latchkey.Instant `json:"-"`

	// Withheld says that who reads it may not decide on it, though it concerns them:
	// the justification, answers and evidence are not for their eyes.
	Withheld bool `json:"-"`
}

// Window is when a right is wanted.
type Window struct {
	Start latchkey.Instant `json:"start"`
	End   latchkey.Instant `json:"end"`
}

// Vote is an approval. Evidence is why authz.Bot gave it: a JSON object.
type Vote struct {
	By       Party            `json:"by"`
	At       latchkey.Instant `json:"at"`
	Comment  string           `json:"comment"`
	Evidence json.RawMessage  `json:"evidence,omitempty"`
}

// Answer is what was given for a custom field, with its label as it was.
type Answer struct {
	Field string      `json:"id"`
	Label string      `json:"label"`
	Type  FieldType   `json:"type"`
	Value AnswerValue `json:"value"`
}

// AnswerValue is a text, some options, or whether a box is checked, as Kind says.
// Its JSON is a string, an array of strings, or a bool.
type AnswerValue struct {
	Kind    AnswerKind
	Text    string
	Options []string
	Checked bool
}

// AnswerKind tells answers apart.
type AnswerKind uint8

// The kinds of answers.
const (
	TextAnswer AnswerKind = iota
	OptionsAnswer
	CheckedAnswer
)

// Submission is what is asked for.
type Submission struct {
	Template string // id
	// Beneficiary is the id of who would have the right: "" for the caller. Another
	// one is for services with the scope approvals.
	Beneficiary string
	Resources   []authz.EntityRef
	// Assignment is "" for what goes with the window or the duration; with neither,
	// the template's first that is not permanent, if there is one.
	Assignment Assignment
	// Duration is of a temporary one; 0 is a fault, unless DefaultDuration says that
	// the template's stands for it.
	Duration        Minutes
	DefaultDuration bool
	Window          *Window
	Justification   string
	Answers         map[string]AnswerValue // by the field's id
}

// Verdict is an approval.
type Verdict struct {
	Comment string
	// Window is another one than was asked for, of a request in a window: the first
	// to approve may set it. nil leaves it.
	Window *Window
}

// Message is a line of the discussion of a request.
type Message struct {
	ID        string           `json:"id"` // UUID
	Request   string           `json:"request_id"`
	Author    Party            `json:"author"`
	Body      string           `json:"body"`
	CreatedAt latchkey.Instant `json:"created_at"`
}

// Query selects requests of a customer, newest first.
type Query struct {
	Status    Status // "" for any
	Template  string // id; "" for any
	Requester string // part of the e-mail address, in any case; "" for any
	// AfterCreated and AfterID are of the last one of the page before; "" for the
	// first.
	AfterCreated latchkey.Instant
	AfterID      string
	Limit        int
}

// StatusAt is what has become of it at now: what has run out has expired, whether
// or not that is written down.
func (r *Request) StatusAt(now latchkey.Instant) Status {
	if now >= r.EndsAt() {
		return Expired
	}
	return r.Status
}

// EndsAt is when it expires if nothing else becomes of it.
func (r *Request) EndsAt() latchkey.Instant {
	switch r.Status {
	case Pending:
		return r.PendingUntil
	case Approved:
		return r.ExpiresAt
	default:
		return latchkey.Never
	}
}

// Decision is the decision as people are shown it: "" while there is none. That
// of a request which was approved stays "Approved" whatever comes later.
func (r *Request) Decision(now latchkey.Instant) string {
	status := r.StatusAt(now)
	switch {
	case status == Denied:
		return "Denied"
	case r.DecidedAt != latchkey.Never:
		return "Approved"
	case status == Revoked:
		return "Cancelled"
	case status == Expired:
		return "Expired"
	case status == Failed:
		return "Failed"
	default:
		return ""
	}
}

// Cancelled reports whether it was revoked before anybody decided.
func (r *Request) Cancelled() bool { return r.Status == Revoked && r.DecidedBy == "" }
