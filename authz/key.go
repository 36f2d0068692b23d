package authz

import (
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

// KeyID is an access key's immutable id.
type KeyID uuid.UUID

func (id KeyID) String() string { return uuid.UUID(id).String() }

// dashes are the places of the dashes in the canonical form, as bytes of the
// id that they stand before.
const dashes = 1<<4 | 1<<6 | 1<<8 | 1<<10

// IsID reports whether text is the canonical, lower-case form of a UUID: that of the
// ids of all records.
func IsID(text string) bool {
	_, ok := ParseKeyID(text)
	return ok
}

// ParseKeyID takes the canonical, lower-case form only, so that an id has one
// spelling.
func ParseKeyID(text string) (id KeyID, ok bool) {
	if len(text) != 36 {
		return id, false
	}
	at := 0
	for i := range id {
		if dashes&(1<<i) != 0 {
			if text[at] != '-' {
				return KeyID{}, false
			}
			at++
		}
		high, low := fromHex[text[at]], fromHex[text[at+1]]
		if high|low > 15 {
			return KeyID{}, false
		}
		id[i] = high<<4 | low
		at += 2
	}
	return id, true
}

const lowerHex = "0123456789abcdef"

// fromHex gives a lower-case digit's value, 255 for anything else.
var fromHex = func() (t [256]byte) {
	for i := range t {
		t[i] = 255
	}
	for i, c := range []byte(lowerHex) {
		t[c] = byte(i)
	}
	return t
}()

// AppendText appends the canonical form.
func (id KeyID) AppendText(b []byte) []byte {
	for i, c := range id {
		if dashes&(1<<i) != 0 {
			b = append(b, '-')
		}
		b = append(b, lowerHex[c>>4], lowerHex[c&15])
	}
	return b
}

// Key is an access key's record, as stored and shown. It holds no secret.
type Key struct {
	ID          KeyID
	Customer    string
	Handle      string
	Scopes      string // canonical JSON of {"customer": {…}}
	Metadata    string // canonical JSON object of strings
	ExpiresAt   latchkey.Instant
	CreatedAt   latchkey.Instant
	RevokedAt   latchkey.Instant
	RotatedFrom string           // handle of the secret before the last rotation, "" without
	LastUsedAt  latchkey.Instant // Never: not used yet
	Version     int64            // sequence number of its last change
	Person      string           // id of the person that it was made with, and ends with; "" for none
}

// KeySecret is one secret of a key: the current one, or for the grace of a
// rotation the one before.
type KeySecret struct {
	Kid    Kid
	Mode   Mode // "" for a root key
	Key    KeyID
	Digest Digest
	Pepper string           // stored name; "" is plain SHA-256
	EndsAt latchkey.Instant // Never for the current one
}

// Status is what has become of a key. The zero Status is unknown.
type Status uint8

const (
	Unknown Status = iota
	Active
	Expired
	Revoked
)

// KeyState is what a decision needs of a key, held in memory; metadata stays
// in SQL. Nothing in it changes but the end, which only ever comes nearer, and
// the time of last use; so two changes applied in the wrong order end the same.
// Its zero value is revoked.
type KeyState struct {
	ID        KeyID
	Customer  *Customer
	Scopes    *scopes.Set
	ExpiresAt latchkey.Instant
	revoked   atomic.Int64
	used      atomic.Int64
	grants    atomic.Pointer[Grants]
}

// NewKeyState makes the state of a stored key.
func NewKeyState(k *Key, c *Customer, set *scopes.Set) *KeyState {
	s := new(KeyState)
	s.fill(k, c, set)
	return s
}

func (k *KeyState) fill(stored *Key, c *Customer, set *scopes.Set) {
	k.ID, k.Customer, k.Scopes, k.ExpiresAt = stored.ID, c, set, stored.ExpiresAt
	k.revoked.Store(int64(stored.RevokedAt))
	if stored.LastUsedAt != latchkey.Never {
		k.used.Store(int64(stored.LastUsedAt))
	}
}

// KeyStates makes states side by side in memory, for a table that is filled
// with many at once: the collector then meets a few large objects instead of a
// million small ones between what loading leaves behind. States live as long
// as their neighbours.
type KeyStates struct{ free []KeyState }

// New is NewKeyState.
func (s *KeyStates) New(k *Key, c *Customer, set *scopes.Set) *KeyState {
	if len(s.free) == 0 {
		s.free = make([]KeyState, 512)
	}
	state := &s.free[0]
	s.free = s.free[1:]
	state.fill(k, c, set)
	return state
}

// RevokedAt is when the key was revoked, Never if it is not.
func (k *KeyState) RevokedAt() latchkey.Instant { return latchkey.Instant(k.revoked.Load()) }

// Revoke ends the key at the given instant, unless it ended before.
func (k *KeyState) Revoke(at latchkey.Instant) {
	for {
		was := k.revoked.Load()
		if was <= int64(at) || k.revoked.CompareAndSwap(was, int64(at)) {
			return
		}
	}
}

// Grants are what is granted to the key beside its scopes; nil for nothing.
func (k *KeyState) Grants() *Grants { return k.grants.Load() }

// SetGrants puts g in the place of what is older.
func (k *KeyState) SetGrants(g *Grants) {
	for {
		was := k.grants.Load()
		if was != nil && (g == nil || was.Version >= g.Version) || k.grants.CompareAndSwap(was, g) {
			return
		}
	}
}

// Status tells whether the key holds at now. Revocation is told before expiry,
// and counts as soon as it is known: it was made by a clock that may be ahead. The
// end of the customer is the end of its keys. A nil state is Unknown.
func (k *KeyState) Status(now latchkey.Instant) Status {
	switch {
	case k == nil:
		return Unknown
	case k.RevokedAt() != latchkey.Never, k.Customer.Deleted():
		return Revoked
	case now >= k.ExpiresAt:
		return Expired
	}
	return Active
}

// Touch reports whether a use at now should be recorded: the first one, and
// then at most one a minute.
func (k *KeyState) Touch(now latchkey.Instant) bool {
	last := k.used.Load()
	return int64(now)-last >= time.Minute.Microseconds() && k.used.CompareAndSwap(last, int64(now))
}

// SecretState is what authentication needs of a secret.
type SecretState struct {
	Digest Digest
	Pepper PepperRef
	// Foreign says that the digest was made with a pepper that is not here: who
	// has it must be asked.
	Foreign bool
	Test    bool             // made in test mode: part of the handle
	EndsAt  latchkey.Instant // Never for a current one
	Key     *KeyState
}

// Customer is a tenant in memory. Immutable but for its end and its policies.
type Customer struct {
	ID string
	// Policies is the customer's snapshot in force.
	Policies policies.Live
	deleted  atomic.Bool
	staleAt  atomic.Int64 // 0: what is known of it is up to date
	granted  atomic.Bool
	turns    turns
}

// ExpectGrants says that subjects other than access keys may hold grants or
// entitlements of the customer. Until it is called they are not looked up.
func (c *Customer) ExpectGrants() { c.granted.Store(true) }

// Deleted reports whether the customer has ended, its keys with it. A nil
// customer has.
func (c *Customer) Deleted() bool { return c == nil || c.deleted.Load() }

// Delete ends the customer in this process.
func (c *Customer) Delete() { c.deleted.Store(true) }

// StaleAt is from when on what this process knows of the customer may be out of
// date by more than is permitted; Never while it follows the customer's changes.
func (c *Customer) StaleAt() latchkey.Instant {
	if at := c.staleAt.Load(); at != 0 {
		return latchkey.Instant(at)
	}
	return latchkey.Never
}

// SetStaleAt says so; Never ends it.
func (c *Customer) SetStaleAt(at latchkey.Instant) {
	if at == latchkey.Never {
		at = 0
	}
	c.staleAt.Store(int64(at))
}

// KeyFinder finds keys for authentication and decisions. Where not all keys are
// in memory a call may wait for I/O, a bounded time; an error says that nobody
// can tell now whether there is such a key. Safe for concurrent use.
type KeyFinder interface {
	// FindSecret finds a secret by its kid, and counts the look-up.
	FindSecret(Kid) (SecretState, bool, error)
	// FindKey finds a key's state, ended ones too; nil when there is none. Two
	// calls may give different states of one key.
	FindKey(KeyID) (*KeyState, error)
}

// KeyTable is what is held in memory; no call waits for I/O, and all of them
// are safe for concurrent use. Implemented by cache.Table.
type KeyTable interface {
	KeyFinder
	// Secret finds a secret by its kid, and counts the look-up.
	Secret(Kid) (SecretState, bool)
	// Key finds a key's state, ended ones too; nil when there is none.
	Key(KeyID) *KeyState
	// Customer finds a customer, ended ones too; nil when there is none.
	Customer(id string) *Customer
	// Customers counts those that have not ended.
	Customers() int

	// AddCustomer makes a customer known.
	AddCustomer(*Customer)
	// AddKey makes a key known; a known one keeps the earlier end.
	AddKey(*KeyState)
	// AddSecret makes a secret known, and its key where it is new.
	AddSecret(Kid, SecretState)
	// EndSecret brings the end of a secret nearer, never further.
	EndSecret(Kid, latchkey.Instant)
}
