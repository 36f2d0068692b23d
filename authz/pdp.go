package authz

import (
	"net/netip"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/scopes"
)

// PDP is the policy decision point: it answers from memory alone. Safe for
// concurrent use.
type PDP struct {
	table        KeyTable
	auth         *Authenticator
	maxStaleness time.Duration
}

// NewPDP makes one. An answer may be reused for maxStaleness at most.
func NewPDP(table KeyTable, auth *Authenticator, maxStaleness time.Duration) *PDP {
	return &PDP{table: table, auth: auth, maxStaleness: maxStaleness}
}

// Decide answers q for a customer at now, into d, whose reasons are reused.
// Every doubt denies; there is no error.
//
// An access key is allowed what its scopes permit (3-decisions, "How an answer
// is made"); any other subject is allowed what a live grant covers.
func (p *PDP) Decide(d *Decision, c *Customer, q *Request, now latchkey.Instant) {
	p.decide(d, c, q, now)
}

// Explanation is everything that was looked at on the way to a decision.
type Explanation struct {
	// Key is the subject's key where it was found in force.
	Key     *KeyState
	Entries []scopes.EntryTrace
}

// Explain answers as Decide does and tells of every entry that was looked at.
// A caller may ask about its own key, keys visible to it, and with the scope
// search about everybody; else Forbidden.
func (p *PDP) Explain(d *Decision, caller *Caller, q *Request, now latchkey.Instant) (Explanation, error) {
	key, _, _ := p.subject(caller.Customer, q, now)
	if !p.mayExplain(caller, key) {
		return Explanation{}, latchkey.Errorf(latchkey.Forbidden, "not_permitted",
			"explaining another subject's decision needs the scope search, or access_keys that make its key visible")
	}
	var e Explanation
	if e.Key = p.decide(d, caller.Customer, q, now); e.Key != nil {
		_, e.Entries = e.Key.Scopes.Explain(q.question())
	}
	return e, nil
}

func (p *PDP) mayExplain(caller *Caller, key *KeyState) bool {
	switch {
	case caller.IsRoot(), caller.Scopes().Has(scopes.Search):
		return true
	case key == nil || key.Customer != caller.Customer:
		return false
	}
	return key == caller.Key || caller.Scopes().Sees(key.Scopes)
}

// decide returns the subject's key where it was found in force.
func (p *PDP) decide(d *Decision, c *Customer, q *Request, now latchkey.Instant) *KeyState {
	d.ID, d.Permit = newDecisionID(), false
	d.ExpiresAt = now.Add(p.maxStaleness)
	if q.Subject.Type != SubjectAccessKey {
		d.deny(Reason{Code: NoGrant})
		return nil
	}
	key, endsAt, refusal := p.subject(c, q, now)
	if refusal != "" {
		d.deny(Reason{Code: refusal, Key: key})
		return nil
	}
	d.ExpiresAt = min(d.ExpiresAt, endsAt)
	verdict := key.Scopes.Decide(q.question())
	switch {
	case verdict.Permitted:
		d.Permit = true
		d.Reasons = d.Reasons[:0]
		entries := key.Scopes.Entries(q.Resource.Type)
		for i := range verdict.Granting {
			d.Reasons = append(d.Reasons, Reason{Code: ScopePermits, Key: key, Entry: &entries[i], Index: i, Permission: q.Action.Name})
		}
	case verdict.Blocked:
		d.deny(Reason{Code: ValueNotPermitted, Key: key, Indexes: verdict.BadAdded, RemovedIndexes: verdict.BadRemoved})
	default:
		d.deny(Reason{Code: ScopeMissing, Key: key})
	}
	return key
}

// subject finds the key that the request is about, by its secret, its id or
// its handle. A refusal comes with the key only where the key is the
// customer's own.
func (p *PDP) subject(c *Customer, q *Request, now latchkey.Instant) (key *KeyState, endsAt latchkey.Instant, refusal ReasonCode) {
	var status Status
	switch {
	case q.Subject.Type != SubjectAccessKey:
		return nil, 0, NoGrant
	case q.Secret != "":
		r := p.auth.Resolve([]byte(q.Secret), now, netip.Addr{})
		if r.Kind == RootCredential {
			return nil, 0, SubjectNotAllowed
		}
		key, endsAt, status = r.Key, r.EndsAt, r.Status
		if key != nil && q.Subject.ID != "" {
			named, until := p.find(q.Subject.ID, now)
			if named != key {
				return nil, 0, KeyUnknown
			}
			endsAt = min(endsAt, until)
		}
	default:
		key, endsAt = p.find(q.Subject.ID, now)
		status = key.Status(now)
		if key == nil && strings.HasPrefix(q.Subject.ID, "lkr1_") {
			return nil, 0, SubjectNotAllowed
		}
	}
	if key == nil || key.Customer != c {
		return nil, 0, KeyUnknown
	}
	switch {
	case status == Revoked:
		return key, 0, KeyRevoked
	case status == Expired:
		return key, 0, KeyExpired
	case status != Active:
		return key, 0, KeyUnknown
	case key.Scopes.Has(scopes.Sidecar):
		return key, 0, SubjectNotAllowed
	}
	return key, min(endsAt, key.ExpiresAt), ""
}

// find looks a key up by id or by the handle of a secret that has not ended,
// and tells until when the name holds.
func (p *PDP) find(id string, now latchkey.Instant) (*KeyState, latchkey.Instant) {
	if keyID, ok := ParseKeyID(id); ok {
		return p.table.Key(keyID), latchkey.Never
	}
	if kid, test, ok := parseHandle(id); ok {
		if s, ok := p.table.Secret(kid); ok && s.Test == test && now < s.EndsAt {
			return s.Key, s.EndsAt
		}
	}
	return nil, latchkey.Never
}
