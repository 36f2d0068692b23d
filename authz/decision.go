package authz

import (
	"math/rand/v2"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/policies"
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
	GrantPermits      ReasonCode = "grant_permits"
	NoGrant           ReasonCode = "no_grant"
	PolicyRule        ReasonCode = "policy_rule"    // a rule of the policy decided
	PolicyDefault     ReasonCode = "policy_default" // no rule matched
	PolicyError       ReasonCode = "policy_error"   // the policy could not be evaluated
	NotReady          ReasonCode = "not_ready"      // nothing can be decided yet, or nobody can tell of the subject now
	Stale             ReasonCode = "stale"          // what is known here may be out of date
)

// Reason is one cause of a decision.
type Reason struct {
	Code ReasonCode
	// Key is the access key that the reason rests on, nil for none, and Grant the
	// id of the grant, "" for none; or of the entitlement that is held through
	// Group, "" for a grant.
	Key          *KeyState
	Grant, Group string
	// Entry is the entry that granted, of the key's scopes or of the grant, nil
	// for none; Index its place in the list, from 0, and Permission the action
	// that it permits.
	Entry      *scopes.Entry
	Index      int
	Permission string
	// Indexes and RemovedIndexes point at the values that were refused.
	Indexes, RemovedIndexes []int
	// Policy names the policy that the reason rests on, "" for none; Rule is the
	// label of its rule, Failure why it could not be evaluated, and Detail what a
	// Rego policy itself gives as a reason, in JSON.
	Policy, Rule string
	Failure      policies.Failure
	Detail       string
}

// Decision is the answer. The zero Decision denies, with no reason and an
// answer that may not be reused.
type Decision struct {
	ID      DecisionID
	Permit  bool
	Reasons []Reason
	// ExpiresAt is the latest instant until which a PEP may reuse the answer.
	ExpiresAt latchkey.Instant
	// Action is "allow", "deny", or the word of the policy's author.
	Action string
	// Policy is the one that was asked, nil for the built-in one and where the
	// ceiling alone decided. Rule is the label of the rule that matched.
	Policy *policies.Policy
	Rule   string
	// Obligations is a JSON array of what the PEP must also do; "" is none.
	Obligations string
	// Failure says why the policy could not be evaluated; nil where it could.
	Failure *policies.EvaluationError

	scoped   bool             // the subject's scopes permit
	input    policies.Input   // of the policy; reused
	covering []*Grant         // live ones that cover the question
	granted  []policies.Grant // the same, as policies see them
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

// begin makes d an answer that denies and says nothing yet.
func (d *Decision) begin(until latchkey.Instant) {
	d.Reset()
	d.ID, d.Action, d.ExpiresAt = newDecisionID(), "deny", until
}

// Reset makes d the zero Decision, but for memory that the next one reuses.
func (d *Decision) Reset() {
	d.ID, d.Permit, d.Reasons, d.ExpiresAt, d.Action = DecisionID{}, false, d.Reasons[:0], 0, ""
	d.scoped = false
	if len(d.covering) > 0 {
		d.resetGrants()
	}
	if d.Policy != nil || d.Failure != nil { // few words where there is no policy, hundreds of bytes where there was
		d.Policy, d.Rule, d.Obligations, d.Failure, d.input = nil, "", "", nil, policies.Input{}
	}
}

// keptReasons is how many reasons the memory is kept for.
const keptReasons = 64

// resetGrants forgets what grants left behind: they may be many.
func (d *Decision) resetGrants() {
	clear(d.covering)
	clear(d.granted)
	d.covering, d.granted = d.covering[:0], d.granted[:0]
	if cap(d.Reasons) > keptReasons {
		d.Reasons = nil
	}
	if cap(d.covering) > keptReasons {
		d.covering, d.granted = nil, nil
	}
}

// look finds the grants that cover the question at now, and reports whether
// there is one. The answer holds no longer than until one of those that cover it
// begins or ends.
func (d *Decision) look(grants *Grants, q scopes.Question, now latchkey.Instant) bool {
	if grants == nil {
		return false
	}
	for i := range grants.List {
		g := &grants.List[i]
		if now >= g.ExpiresAt || !g.Set.Permits(q) {
			continue
		}
		if g.ahead(now) {
			d.ExpiresAt = min(d.ExpiresAt, g.NotBefore)
			continue
		}
		d.ExpiresAt = min(d.ExpiresAt, g.ExpiresAt)
		d.covering = append(d.covering, g)
	}
	return len(d.covering) > 0
}

// reasonGrants gives one reason for each entry of the covering grants that
// grants, in the order of the grants and of their entries.
func (d *Decision) reasonGrants(q scopes.Question) {
	for _, g := range d.covering {
		entries := g.Set.Entries(q.Type)
		for i := range g.Set.Decide(q).Granting {
			d.Reasons = append(d.Reasons, Reason{Code: GrantPermits, Grant: g.ID, Group: g.Group, Entry: &entries[i], Index: i, Permission: q.Action})
		}
	}
}

// policyGrants are the covering grants as policies see them.
func (d *Decision) policyGrants() []policies.Grant {
	for _, g := range d.covering {
		grant := policies.Grant{ID: g.ID, Reason: g.Reason, NotBefore: g.NotBefore, ExpiresAt: g.ExpiresAt}
		if g.Group != "" {
			grant.Entitlement = g.ID
		}
		d.granted = append(d.granted, grant)
	}
	return d.granted
}

// Undecided makes d the answer of a process that cannot decide: because of
// NotReady or Stale.
func (d *Decision) Undecided(because ReasonCode, now latchkey.Instant) {
	d.begin(now)
	d.deny(Reason{Code: because})
}

// deny ends a decision with one reason.
func (d *Decision) deny(r Reason) {
	d.Permit, d.Action = false, "deny"
	d.Reasons = append(d.Reasons[:0], r)
}
