package deliveries

import (
	"context"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/vault"
)

// Record is the database as the service of webhooks needs it. Implemented by
// store.
type Record interface {
	// Change is authz.Record's, with what a change may do to webhooks.
	Change(ctx context.Context, c authz.Change, do func(Tx) (audit.Draft, error)) error

	// Webhook returns one, NotFound without it.
	Webhook(ctx context.Context, customer, id string) (Webhook, error)
	// Webhooks returns those of a customer, oldest first.
	Webhooks(ctx context.Context, customer string) ([]Webhook, error)
	// Deliveries returns those of a target, latest event first.
	Deliveries(ctx context.Context, q Query) ([]Delivery, error)
	vault.Record
}

// Query selects deliveries of one target.
type Query struct {
	Customer string
	Target   string // id of the webhook, or EmailTarget's
	Status   Status // "" for any
	// Before and BeforeRecipient are of the last one of the page before: only what
	// comes after it, in the order of falling sequence numbers and recipients. 0
	// for the first page.
	Before          int64
	BeforeRecipient string
	Limit           int
}

// Tx is what a change may do to webhooks and their deliveries, in the chain's
// customer.
type Tx interface {
	authz.Tx
	vault.Tx

	// Webhook returns one, NotFound without it.
	Webhook(ctx context.Context, id string) (Webhook, error)
	CountWebhooks(ctx context.Context) (int, error)
	// HasTask reports whether there is a task of that id.
	HasTask(ctx context.Context, id string) (bool, error)
	InsertWebhook(ctx context.Context, w Webhook) error
	UpdateWebhook(ctx context.Context, w Webhook) error
	// DeleteWebhook deletes one with its deliveries.
	DeleteWebhook(ctx context.Context, id string) error
	// Delivery returns one of a target, NotFound without it.
	Delivery(ctx context.Context, target, id string) (Delivery, error)
	// UpdateDelivery writes how far one is.
	UpdateDelivery(ctx context.Context, d Delivery) error
}

// Queue is the database as those need it who send deliveries. Several processes may
// share it. Implemented by store.
type Queue interface {
	// DueTargets returns the targets that have deliveries due.
	DueTargets(ctx context.Context, now latchkey.Instant) ([]Target, error)
	// Claim takes up to limit deliveries of a target that are due, those that have
	// waited longest first, for the caller alone until the lease ends.
	Claim(ctx context.Context, target string, now latchkey.Instant, limit int) ([]Delivery, error)
	// Finish writes what has become of a claimed delivery, unless somebody else has
	// claimed it since or it was deleted; then it returns false.
	Finish(ctx context.Context, d Delivery) (bool, error)

	// Event returns one event of a chain.
	Event(ctx context.Context, chain string, seq int64) (audit.Event, error)
	// Webhook returns one, NotFound without it or where its customer has ended.
	Webhook(ctx context.Context, customer, id string) (Webhook, error)
	vault.Record
}

// Target is where deliveries go: a webhook, or EmailTarget's.
type Target struct{ ID, Customer string }
