package vault

import (
	"context"

	"github.com/latchkey-dev/latchkey"
)

// Sealed is a secret as the database keeps it.
type Sealed struct {
	Label
	Box       []byte
	CreatedAt latchkey.Instant
	EndsAt    latchkey.Instant // latchkey.Never for none
}

// Tx is what a change may do to the sealed secrets of the chain's customer.
// Implemented by store's.
type Tx interface {
	// PutSecret writes one, in place of another of the same label.
	PutSecret(ctx context.Context, s Sealed) error
	// Secrets returns those of an owner, in the order of their names.
	Secrets(ctx context.Context, kind, owner string) ([]Sealed, error)
	// DeleteSecret reports whether there was one.
	DeleteSecret(ctx context.Context, kind, owner, name string) (bool, error)
	// DeleteSecrets deletes all of an owner.
	DeleteSecrets(ctx context.Context, kind, owner string) error
}

// Record is what the database tells of sealed secrets. Implemented by store.DB.
type Record interface {
	// Secrets returns those of an owner, in the order of their names.
	Secrets(ctx context.Context, customer, kind, owner string) ([]Sealed, error)
}
