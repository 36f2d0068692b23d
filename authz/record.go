package authz

import (
	"context"
	"net/netip"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
)

// Record is the database as the services need it. Implemented by store.DB.
// Its errors are *latchkey.Error where they mean something to the caller;
// everything else is Internal.
type Record interface {
	// Change runs do in one transaction that begins by taking the chain's next
	// sequence number, so that all changes of a customer stand in one line;
	// checks again that the caller's credential holds; and writes the event
	// that do returns before it commits. When it returns an error, nothing has
	// happened, the event included. do may not keep the Tx.
	Change(ctx context.Context, c Change, do func(Tx) (audit.Draft, error)) error

	Key(ctx context.Context, customer string, id KeyID) (Key, error)
	Keys(ctx context.Context, q KeyQuery) (KeyPage, error)
	CustomerRecord(ctx context.Context, id string) (CustomerRecord, error)
	CustomerRecords(ctx context.Context, limit, offset int) ([]CustomerRecord, int, error)
	Reply(ctx context.Context, id ReplyID, now latchkey.Instant) (Reply, bool, error)

	// WriteUses records last uses and re-made digests; a use older than the
	// recorded one is left out.
	WriteUses(ctx context.Context, uses []Use, digests []Rehash) error
}

// Change names the transaction: which chain, by whom, when.
type Change struct {
	Chain string // a customer's id, or audit.SystemChain
	By    Caller
	At    latchkey.Instant
	// Reply, when set, is asked for once do has succeeded; what it returns is
	// kept in the same transaction, for a client that repeats its request.
	Reply func() (Reply, error)
}

// Tx is what a change may read and write.
type Tx interface {
	Customer(ctx context.Context) (CustomerRecord, error) // of the chain; locked
	InsertCustomer(ctx context.Context, c CustomerRecord) error
	UpdateCustomer(ctx context.Context, c CustomerRecord) error

	CountActiveKeys(ctx context.Context, now latchkey.Instant) (int, error)
	InsertKey(ctx context.Context, k Key, names int64, s KeySecret) error
	// KeySecrets returns a key of the chain's customer with its secrets, the
	// current one first.
	KeySecrets(ctx context.Context, id KeyID) (Key, []KeySecret, error)
	RevokeKey(ctx context.Context, id KeyID, at latchkey.Instant) error
	// RotateKey puts the new secret in place, with the old ones ending as given.
	RotateKey(ctx context.Context, k Key, s KeySecret, ends map[Kid]latchkey.Instant) error

	RootSecret(ctx context.Context) (KeySecret, bool, error)
	SetRootSecret(ctx context.Context, s KeySecret, at latchkey.Instant) error

	// Seq is the sequence number that the change has taken.
	Seq() int64
}

// KeyQuery selects keys of one customer.
type KeyQuery struct {
	Customer string
	Status   string // "active", "all", "revoked"
	Now      latchkey.Instant
	// HiddenNames is the mask of scope names that a listed key must not have.
	HiddenNames   int64
	Metadata      map[string]string // exact
	SortField     string            // "created_at", "revoked_at"
	Ascending     bool
	Limit, Offset int
}

// KeyPage is one page of keys, and how many there are in all.
type KeyPage struct {
	Keys  []Key
	Total int
}

// CustomerRecord is a tenant's record.
type CustomerRecord struct {
	ID            string
	Name          string
	MaxActiveKeys int // 0: the server's default
	CreatedAt     latchkey.Instant
	DeletedAt     latchkey.Instant
}

// Use is one recorded use of a key.
type Use struct {
	Key    KeyID
	At     latchkey.Instant
	Source netip.Addr
}

// Rehash is a digest made again under the current pepper.
type Rehash struct {
	Kid    Kid
	Digest Digest
	Pepper string
}

// ReplyID finds a kept reply; a hash of everything that the key of an
// idempotent request is bound to.
type ReplyID [32]byte

// Reply is a kept answer. Sealed holds it encrypted, since it may show a
// secret.
type Reply struct {
	ID     ReplyID
	Body   [32]byte // hash of the request's body
	Sealed []byte
	EndsAt latchkey.Instant
}

// Ended reports whether the customer has been deleted.
func (c *CustomerRecord) Ended() bool { return c.DeletedAt != latchkey.Never }
