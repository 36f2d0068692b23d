package authz

import (
	"context"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/feed"
)

// FeedRecord is what the database tells those that keep copies of it.
type FeedRecord interface {
	// Positions tells how far the changes of every chain go: the customers',
	// ended ones too, and the system's.
	Positions(ctx context.Context) ([]Position, error)
	// Position tells it of one chain, NotFound where there is none.
	Position(ctx context.Context, chain string) (Position, error)
	// Clock is the time by the database's own clock; false where that is this
	// process's.
	Clock(ctx context.Context) (latchkey.Instant, bool, error)
	// Changes returns what the changes after the given one touched, at most limit
	// of them and without a gap: nothing where the next one is not known any more
	// (or not made yet).
	Changes(ctx context.Context, chain string, after int64, limit int) ([]Touched, error)
	// FullKey returns a key with all that belongs to it, NotFound without it.
	FullKey(ctx context.Context, customer string, id KeyID, now latchkey.Instant) (FullKey, error)
	// EachFullKey goes over all keys of a customer, ended ones too.
	EachFullKey(ctx context.Context, customer string, now latchkey.Instant, do func(*FullKey) error) error
	// FullKeys returns the first of those that come after the given one, in the
	// order in which they were made; none at the end.
	FullKeys(ctx context.Context, customer string, after Key, now latchkey.Instant) ([]FullKey, error)
	// FullSubjects does so with the subjects, access keys and persons apart, that
	// hold a grant which has not ended at now, in the order of type and id.
	FullSubjects(ctx context.Context, customer string, after EntityRef, now latchkey.Instant) ([]FullSubject, error)
	// FullPersons does so with active persons, in the order of their ids: each has
	// as many entries as it has names, one after the other, the id first. It also
	// returns the id of the last one that it read, "" at the end.
	FullPersons(ctx context.Context, customer, after string, now latchkey.Instant) (list []FullSubject, last string, err error)
	RootSecret(ctx context.Context) (KeySecret, bool, error)
	// KeyOfKid finds whose secret it is.
	KeyOfKid(ctx context.Context, customer string, kid Kid) (KeyID, bool, error)

	// Grant returns one, NotFound without it.
	Grant(ctx context.Context, customer, id string) (GrantRecord, error)
	Grants(ctx context.Context, q GrantQuery) ([]GrantRecord, error)
	// Held returns what a subject holds that has not ended at now, as of a sequence
	// number; revoked grants have, whatever the time.
	Held(ctx context.Context, customer string, subject EntityRef, now latchkey.Instant) (Held, int64, error)
	// PersonNamed finds the person of an id, else of a username, else of an e-mail
	// address in lower case, active or not.
	PersonNamed(ctx context.Context, customer, name string) (Person, bool, error)
	// Entitled returns the customers of which groups give entitlements.
	Entitled(ctx context.Context) ([]string, error)
	// EachGrant goes over all that have not ended at now, those of one subject
	// one after the other.
	EachGrant(ctx context.Context, now latchkey.Instant, do func(GrantRecord) error) error
}

// GrantTx is what a change may do to grants, in the chain's customer.
type GrantTx interface {
	Grant(ctx context.Context, id string) (GrantRecord, error)
	// SubjectGrants returns those of a subject that have not ended at now, by id.
	SubjectGrants(ctx context.Context, subject EntityRef, now latchkey.Instant) ([]GrantRecord, error)
	// CountLiveGrants counts them.
	CountLiveGrants(ctx context.Context, subject EntityRef, now latchkey.Instant) (int, error)
	// PersonNamed is FeedRecord's.
	PersonNamed(ctx context.Context, name string) (Person, bool, error)
	InsertGrant(ctx context.Context, g GrantRecord) error
	RevokeGrant(ctx context.Context, g GrantRecord, at latchkey.Instant) error
}

// Position is how far the changes of a chain go.
type Position struct {
	Chain     string // a customer's id, or audit.SystemChain
	Seq       int64  // of the last change
	Policies  int64  // of the last one to what the customer decides by
	DeletedAt latchkey.Instant
}

// Touched is what a change touched.
type Touched struct {
	Seq     int64
	At      latchkey.Instant
	Refs    []feed.Ref
	Details []string    // of each ref: what of it changed, where that is told
	All     []feed.Kind // kinds of which so many were touched that Refs has none
}

// Details of what a change touched.
const (
	// AllTouched says that so many of a kind were touched that they are not listed.
	AllTouched = "all"
	// GrantsTouched says that it is a subject's grants.
	GrantsTouched = "grants"
)

// FullKey is a key with its secrets, and its grants that have not ended.
type FullKey struct {
	Key     Key
	Secrets []KeySecret // by kid
	Grants  []GrantRecord
	AsOf    int64 // sequence number as of which it is so
}

// FullSubject is a subject that is not an access key, with what it holds.
type FullSubject struct {
	Subject SubjectRecord
	Stored  bool // there are properties, be they {}
	Held
	AsOf int64 // sequence number as of which it is so
}
