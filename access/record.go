package access

import (
	"context"
	"encoding/json"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/people"
)

// Record is the database as the services need it. Implemented by store.Access.
type Record interface {
	// Change is authz.Record's, with what else a change may do here.
	Change(ctx context.Context, c authz.Change, do func(Tx) (audit.Draft, error)) error

	// Person and GroupsOf are people.Tx's, outside of a change. In a customer that
	// has ended there is nobody.
	Person(ctx context.Context, customer, id string) (authz.Person, error)
	GroupsOf(ctx context.Context, customer, person string) ([]string, error)

	// Template returns one, NotFound without it.
	Template(ctx context.Context, customer, id string) (Template, error)
	// Templates lists them by name, then by id, after the given place.
	Templates(ctx context.Context, customer, afterName, afterID string, limit int) ([]Template, error)

	// Resource is authz.DirectoryRecord's.
	Resource(ctx context.Context, customer string, ref authz.EntityRef) (authz.ResourceRecord, bool, error)

	// Request returns one, NotFound without it.
	Request(ctx context.Context, customer, id string) (Request, error)
	Requests(ctx context.Context, q RequestQuery) ([]Request, error)
	// Messages lists those of a request, oldest first, that come after the given one.
	Messages(ctx context.Context, customer, request string, after Message, limit int) ([]Message, error)

	// Due returns requests of all customers that have not ended whose time has come
	// at now: to expire, to escalate, to be asked about again.
	Due(ctx context.Context, what Due, now latchkey.Instant, limit int) ([]DueRequest, error)

	// Lease gives a pending request to whoever is named until the given time, unless
	// somebody else has it; it reports whether it did. Outside of a change: what it
	// keeps others from is checked in theirs.
	Lease(ctx context.Context, customer, id, holder string, now, until latchkey.Instant) (bool, error)
	// Release ends a lease that the holder has, and keeps what came of the task.
	Release(ctx context.Context, customer, id, holder, failure string) error
	// Postpone notes when providers are asked about a request again, unless another
	// process has noted another time than the one that is known; it reports whether it
	// did. Outside of a change, as a lease is.
	Postpone(ctx context.Context, customer, id string, known, until latchkey.Instant) (bool, error)
}

// Tx is what a change may read and write, in the chain's customer.
type Tx interface {
	people.Tx

	// Admins are the active persons who administer the customer, oldest first.
	Admins(ctx context.Context) ([]authz.Person, error)
	// MembersOf are the active persons in a group, in the order of their places; none
	// where there is no such group. authz.Bot is not among them.
	MembersOf(ctx context.Context, group string) ([]Member, error)
	// Resource is authz.DirectoryRecord's.
	Resource(ctx context.Context, ref authz.EntityRef) (authz.ResourceRecord, bool, error)
	// HasTask reports whether there is a task of that id.
	HasTask(ctx context.Context, id string) (bool, error)

	Template(ctx context.Context, id string) (Template, error)
	// CountTemplates counts the customer's.
	CountTemplates(ctx context.Context) (int, error)
	InsertTemplate(ctx context.Context, t Template) error
	UpdateTemplate(ctx context.Context, t Template) error
	// DeleteTemplate deletes one; its requests keep their data.
	DeleteTemplate(ctx context.Context, id string) error
	// OpenRequests counts the requests of a template that are pending, or approved
	// and live, at now.
	OpenRequests(ctx context.Context, template string, now latchkey.Instant) (int, error)
	// Place is whose turn it was last among the approvers of a template.
	Place(ctx context.Context, template string) (Place, error)
	SetPlace(ctx context.Context, template string, p Place) error

	Request(ctx context.Context, id string) (Request, error)
	// OpenRequestsOf are the requests that a person made or would gain by, and that are
	// pending, or approved and live, at now; by id.
	OpenRequestsOf(ctx context.Context, person string, now latchkey.Instant) ([]Request, error)
	// PendingOf counts the requests of a person that are pending at now.
	PendingOf(ctx context.Context, person string, now latchkey.Instant) (int, error)
	// PendingLike finds the request, written down as pending, with that PendingKey.
	PendingLike(ctx context.Context, key string) (Request, bool, error)
	InsertRequest(ctx context.Context, r Request) error
	UpdateRequest(ctx context.Context, r Request) error
	InsertMessage(ctx context.Context, m Message) error
}

// RequestQuery is a Query with whose it is. At most one of For, Awaiting and
// SubmittedBy is set.
type RequestQuery struct {
	Query
	Customer string
	Now      latchkey.Instant
	// For is the id of the requester or beneficiary.
	For string
	// Awaiting are pending requests that a person with these groups, or an admin,
	// may have to decide on.
	Awaiting *Approver
	// SubmittedBy is the id of an access key.
	SubmittedBy string
}

// Approver is somebody who may decide: the ids of the groups it is in.
type Approver struct {
	Groups []string
	Admin  bool
}

// Due is what the time of a request can have come for.
type Due string

// What can be due.
const (
	DueExpiry     Due = "expiry"
	DueEscalation Due = "escalation"
	DueRecheck    Due = "recheck"
)

// DueRequest names a request.
type DueRequest struct{ Customer, ID string }

// Place is that of a member among the approvers of a template: never an index,
// which means somebody else once a member has come or gone.
type Place struct {
	Group   string
	AddedAt latchkey.Instant
	Person  string
}

// Member is a person at a place.
type Member struct {
	authz.Person
	Place Place
}

// AutoQuestion is a request before it is submitted.
type AutoQuestion struct {
	Customer    string
	Template    Template
	Requester   authz.Person
	Beneficiary authz.Person
	Resources   []authz.ResourceRecord
	Request     Request
	Now         latchkey.Instant
}

// AutoAnswer is what providers say of it. Duration bounds what is granted, 0 does
// not. Evidence, a JSON object, and Why, in words, go into the record.
type AutoAnswer struct {
	Approve  bool
	Duration time.Duration
	Evidence json.RawMessage
	Why      string
}

// AutoApprover asks on-call providers whether a request is approved by itself. It
// may wait for I/O: its context ends after AutoTimeout. An error says that nobody
// can tell; the request then stays for people, as it does without an approval.
type AutoApprover interface {
	Evaluate(ctx context.Context, q AutoQuestion) (AutoAnswer, error)
	// Check refuses, with pointers /auto_approve_sources and /auto_approve_when, what
	// a template cannot be saved with.
	Check(sources []string, when string) error
}

// TriggerEvent is what a task that must succeed first is told of.
type TriggerEvent struct {
	Customer string
	Event    string  // approved
	Request  Request // as it is before the change; of one that is not submitted yet too
	Now      latchkey.Instant
}

// Trigger runs the task of the request's snapshot and waits for it; its context
// ends after TriggerTimeout. An error prevents the change.
type Trigger interface {
	Before(ctx context.Context, e TriggerEvent) error
}

// Limits of what is asked while somebody waits.
const (
	AutoTimeout    = 5 * time.Second
	TriggerTimeout = 30 * time.Second
	// leaseTime is how long a request is held for a task whose process went away.
	leaseTime = 45 * time.Second
)
