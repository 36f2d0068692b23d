package tasks

import (
	"context"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/deliveries"
	"github.com/latchkey-dev/latchkey/internal/vault"
)

// Record is the database as the service of tasks needs it. Implemented by store.
type Record interface {
	// Change is authz.Record's, with what a change may do to tasks.
	Change(ctx context.Context, c authz.Change, do func(Tx) (audit.Draft, error)) error

	// Task returns one, NotFound without it or where its customer has ended.
	Task(ctx context.Context, customer, id string) (Task, error)
	// Tasks lists them, oldest first.
	Tasks(ctx context.Context, customer string, p Page) ([]Task, error)
	// Runs lists those of a task, newest first.
	Runs(ctx context.Context, customer, task string, p Page) ([]Run, error)
	vault.Record
}

// Page selects a part of a list by creation.
type Page struct {
	// AfterCreated and AfterID are of the last one of the page before; "" for the
	// first page.
	AfterCreated latchkey.Instant
	AfterID      string
	Limit        int
}

// Tx is what a change may do to tasks, in the chain's customer.
type Tx interface {
	authz.Tx
	vault.Tx

	Task(ctx context.Context, id string) (Task, error)
	CountTasks(ctx context.Context) (int, error)
	// InsertTask and UpdateTask are a Conflict where another one has the name.
	InsertTask(ctx context.Context, t Task) error
	UpdateTask(ctx context.Context, t Task) error
	// DeleteTask deletes one with its runs.
	DeleteTask(ctx context.Context, id string) error
	// UsedBy is people.Writer's, of the kind "task".
	UsedBy(ctx context.Context, kind, id string) (string, error)
}

// Queue is the database as the Runner needs it. Several processes may share it.
// Implemented by store.
type Queue interface {
	deliveries.Cursor[Run]
	// InsertRun writes one run that is made at once.
	InsertRun(ctx context.Context, r Run) error

	// DueCustomers returns the customers with runs that are due.
	DueCustomers(ctx context.Context, now latchkey.Instant) ([]string, error)
	// Claim takes up to limit runs of a customer that are due, those that have waited
	// longest first, for the caller alone until the lease ends.
	Claim(ctx context.Context, customer string, now, lease latchkey.Instant, limit int) ([]Run, error)
	// FinishRun writes what has become of a claimed run, unless somebody else has
	// claimed it since or it was deleted; then it returns false.
	FinishRun(ctx context.Context, r Run) (bool, error)

	// Event returns one event of a chain.
	Event(ctx context.Context, chain string, seq int64) (audit.Event, error)
	Task(ctx context.Context, customer, id string) (Task, error)
	vault.Record
}

// Requests reads access requests. Implemented by store.Access.
type Requests interface {
	Request(ctx context.Context, customer, id string) (access.Request, error)
}
