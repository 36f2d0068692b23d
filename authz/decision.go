package authz

import (
	"math/rand/v2"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/scopes"
)

// ReasonCode says, for programs, why a decision came out as it did.
type ReasonCode string

const (
	ScopePermits      ReasonCode = "scope_permits"
	ScopeMissing      ReasonCode = "scope_missing"
	KeyUnknown        ReasonCode = "key_unknown"
	KeyExpired        ReasonCode = "key_expired"
	KeyRevoked        ReasonCode = "key_revoked"
	SubjectNotAllowed ReasonCode = "subject_not_allowed"
	ValueNotPermitted ReasonCode = "value_not_permitted"
	NoGrant           ReasonCode = "no_grant"
)

// Reason is one cause of a decision.
type Reason struct {
	Code ReasonCode
	// Key is the access key that the reason rests on, nil for none.
	Key *KeyState
	// Entry is the scope entry that granted, nil for none; Index its place in
	// the list, from 0, and Permission the action that it permits.
	Entry      *scopes.Entry
	Index      int
	Permission string
	// Indexes and RemovedIndexes point at the values that were refused.
	Indexes, RemovedIndexes []int
}

// Decision is the answer. The zero Decision denies, with no reason and an
// answer that may not be reused.
type Decision struct {
	ID      DecisionID
	Permit  bool
	Reasons []Reason
	// ExpiresAt is the latest instant until which a PEP may reuse the answer.
	ExpiresAt latchkey.Instant
}

// DecisionID names one answer: dec_ and 128 random bits in URL-safe base64.
type DecisionID [26]byte

func newDecisionID() (id DecisionID) {
	const base64url = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	copy(id[:], "dec_")
	for half := range 2 {
		n := rand.Uint64()
		for i := range 11 {
			id[4+half*11+i] = base64url[n&63]
			n >>= 6
		}
	}
	return id
}

// deny ends a decision with one reason.
func (d *Decision) deny(r Reason) {
	d.Permit = false
	d.Reasons = append(d.Reasons[:0], r)
}
