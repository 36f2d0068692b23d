package authz

import (
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

// PDP is the policy decision point: it answers from memory alone, but for the
// metadata of a key that a policy reads for the first time. Safe for concurrent
// use.
type PDP struct {
	cfg PDPConfig
}

// PDPConfig are the collaborators and settings of a PDP.
type PDPConfig struct {
	Keys KeyFinder
	Auth *Authenticator
	// Metadata of keys, for policies that read it; without it they are denied.
	Metadata MetadataSource
	// Grants of subjects that are not access keys; nil: there are none.
	Grants GrantSource
	// Properties are the stored ones, for policies that read them; nil: none are.
	Properties PropertySource
	// MaxStaleness is how long an answer may be reused at most.
	MaxStaleness time.Duration
	// Lease is until when this process may decide by what it knows; nil where
	// nobody else changes it.
	Lease *feed.Lease
	// ServeStale is for how long after that it decides all the same, and says so;
	// 0 denies.
	ServeStale time.Duration
	// Concurrency is how many evaluations of one customer's policies run at
	// once; at least 1.
	Concurrency int
}

// NewPDP makes one.
func NewPDP(cfg PDPConfig) *PDP { return &PDP{cfg: cfg} }

// ErrPolicyNotFound answers a question that names an unknown policy.
func ErrPolicyNotFound() *latchkey.Error {
	return latchkey.Errorf(latchkey.NotFound, "policy_not_found", "there is no such policy")
}

// Decide answers q for a customer at now, into d, whose memory is reused.
// Every doubt denies. The one error is that q names an unknown policy, which is
// never another's to answer; d denies then.
//
// A key's scopes and its live grants are its ceiling; within it the policy
// decides: the one that q names, else the customer's default, else the built-in,
// which allows a key what its ceiling permits, and any other subject what a live
// grant covers (3-decisions, "How an answer is made").
func (p *PDP) Decide(d *Decision, c *Customer, q *Request, now latchkey.Instant) error {
	return p.decide(d, c, q, now, nil)
}

// Freshness says whether decisions may be made by what is known.
type Freshness uint8

// The zero Freshness denies.
const (
	TooOld Freshness = iota
	// ServedStale is past what is promised, and served by the operator's choice.
	ServedStale
	Fresh
)

// Leased reports whether a lease says until when decisions may be made.
func (p *PDP) Leased() bool { return p.cfg.Lease != nil }

// Freshness tells of what is known of a customer at now; with nil, of what is
// known at all. until is how long an answer may be relied on.
func (p *PDP) Freshness(c *Customer, now latchkey.Instant) (f Freshness, until latchkey.Instant) {
	until = latchkey.Never
	if c != nil {
		until = c.StaleAt()
	}
	if p.cfg.Lease != nil {
		until = min(until, p.cfg.Lease.End())
	}
	switch {
	case now < until:
		return Fresh, until
	case p.cfg.ServeStale > 0 && now < until.Add(p.cfg.ServeStale):
		return ServedStale, now
	}
	return TooOld, now
}

// Explanation is everything that was looked at on the way to a decision.
type Explanation struct {
	// Key is the subject's key where it was found in force.
	Key     *KeyState
	Entries []scopes.EntryTrace
	// Grants are those of the subject, where they were looked at.
	Grants []GrantTrace
	// Rules are those of the policy that was asked, where it has rules.
	Rules []policies.Trace
}

// GrantTrace tells of one grant of the subject why it did or did not cover the
// question.
type GrantTrace struct {
	Grant *Grant
	// Entries are those of the resource's type.
	Entries []scopes.EntryTrace
	Covers  bool
	// Why is granted, not_started, ended, or not_covered where no entry grants.
	Why string
}

// explain is the traces of all grants, in their order.
func (g *Grants) explain(q scopes.Question, now latchkey.Instant) []GrantTrace {
	if g == nil {
		return nil
	}
	traces := make([]GrantTrace, len(g.List))
	for i := range g.List {
		t := &traces[i]
		t.Grant = &g.List[i]
		var verdict scopes.Verdict
		verdict, t.Entries = t.Grant.Set.Explain(q)
		switch {
		case now >= t.Grant.ExpiresAt:
			t.Why = "ended"
		case t.Grant.ahead(now):
			t.Why = "not_started"
		case !verdict.Permitted:
			t.Why = "not_covered"
		default:
			t.Why, t.Covers = "granted", true
		}
	}
	return traces
}

// seen is what was looked at on the way to a decision.
type seen struct {
	key    *KeyState // found in force
	grants *Grants
	rules  []policies.Trace
}

// Explain answers as Decide does and tells of every entry and rule that was
// looked at. A caller may ask about its own key, keys visible to it, and with
// the scope search about everybody; else Forbidden.
func (p *PDP) Explain(d *Decision, caller *Caller, q *Request, now latchkey.Instant) (Explanation, error) {
	key, _, _ := p.subject(caller.Customer, q, now)
	if !p.mayExplain(caller, key) {
		return Explanation{}, latchkey.Errorf(latchkey.Forbidden, "not_permitted",
			"explaining another subject's decision needs the scope search, or access_keys that make its key visible")
	}
	var look seen
	if err := p.decide(d, caller.Customer, q, now, &look); err != nil {
		return Explanation{}, err
	}
	e := Explanation{Key: look.key, Rules: look.rules, Grants: look.grants.explain(q.question(), now)}
	if e.Key != nil {
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
	return caller.Key != nil && key.ID == caller.Key.ID || caller.Scopes().Sees(key.Scopes)
}

// decide answers, and where look is not nil, notes there what it looked at.
func (p *PDP) decide(d *Decision, c *Customer, q *Request, now latchkey.Instant, look *seen) error {
	freshness, until := p.Freshness(c, now)
	// Who reuses an answer adds nothing to how old it may be.
	d.begin(min(now.Add(p.cfg.MaxStaleness), until))
	switch {
	case c == nil:
		d.deny(Reason{Code: KeyUnknown})
		return nil
	case freshness == TooOld:
		d.deny(Reason{Code: Stale})
		return nil
	}
	err := p.answer(d, c, q, now, look)
	if freshness == ServedStale && err == nil {
		d.Reasons = append(d.Reasons, Reason{Code: Stale})
	}
	return err
}

// answer is decide by what is known.
func (p *PDP) answer(d *Decision, c *Customer, q *Request, now latchkey.Instant, look *seen) error {
	snapshot := c.Policies.Snapshot()
	policy, name := (*policies.Policy)(nil), q.Policy
	if name != "" {
		if policy = snapshot.Policy(name); policy == nil {
			d.deny(Reason{Code: PolicyError})
			return ErrPolicyNotFound()
		}
	} else if name = snapshot.Default; name != "" {
		policy = snapshot.Policy(name)
	}
	var key *KeyState
	var grants *Grants
	if q.Subject.Type == SubjectAccessKey {
		var endsAt latchkey.Instant
		var refusal ReasonCode
		if key, endsAt, refusal = p.subject(c, q, now); refusal != "" {
			d.deny(Reason{Code: refusal, Key: key})
			if refusal == NotReady {
				d.ExpiresAt = now
			}
			return nil
		}
		d.ExpiresAt = min(d.ExpiresAt, endsAt)
		grants = key.Grants()
	} else if name == "" || policy != nil && policy.Reads.Grants {
		var err error
		if grants, err = p.grants(c, q); err != nil {
			d.deny(Reason{Code: NotReady})
			d.ExpiresAt = now
			return nil
		}
	}
	if look != nil {
		look.key, look.grants = key, grants
	}
	question := q.question()
	covered := d.look(grants, question, now)
	switch {
	case key != nil && !d.ceiling(key, question, covered):
	case name != "":
		p.ask(d, policy, name, snapshot, c, key, q, now, look)
	case key == nil && !covered:
		d.deny(Reason{Code: NoGrant})
	default:
		d.Permit, d.Action = true, "allow"
		if key == nil {
			d.reasonGrants(question)
		}
	}
	return nil
}

// grants finds those of a subject that is not an access key. One of type user is
// the person of that id or username, else the one of the address in
// properties.email, where such a person is; an address is none of another type's,
// nor of a name that is a person's, active or not.
func (p *PDP) grants(c *Customer, q *Request) (*Grants, error) {
	if p.cfg.Grants == nil || !c.granted.Load() {
		return nil, nil
	}
	named, err := p.cfg.Grants.Grants(c, q.Subject.Type, q.Subject.ID)
	if err != nil || q.Subject.Type != SubjectUser || named.isPerson() {
		return named, err
	}
	email, ok := FoldEmail(q.Subject.Properties.Get("email").Text())
	if !ok {
		return named, nil
	}
	switch reached, err := p.cfg.Grants.Grants(c, SubjectUser, email); {
	case err != nil:
		return nil, err
	case reached.isPerson():
		return reached, nil
	}
	return named, nil
}

// ceiling reports whether the key's scopes permit the question, or grants cover
// it, and gives the reasons.
func (d *Decision) ceiling(key *KeyState, q scopes.Question, covered bool) bool {
	verdict := key.Scopes.Decide(q)
	switch {
	case verdict.Permitted:
		entries := key.Scopes.Entries(q.Type)
		for i := range verdict.Granting {
			d.Reasons = append(d.Reasons, Reason{Code: ScopePermits, Key: key, Entry: &entries[i], Index: i, Permission: q.Action})
		}
	case covered:
	case verdict.Blocked:
		d.deny(Reason{Code: ValueNotPermitted, Key: key, Indexes: verdict.BadAdded, RemovedIndexes: verdict.BadRemoved})
		return false
	default:
		d.deny(Reason{Code: ScopeMissing, Key: key})
		return false
	}
	d.scoped = verdict.Permitted
	d.reasonGrants(q)
	return true
}

// ask lets a policy decide within the ceiling. The policy may be nil: a default
// that is not there denies, and nothing else answers in its place.
func (p *PDP) ask(d *Decision, policy *policies.Policy, name string, s *policies.Snapshot, c *Customer, key *KeyState, q *Request, now latchkey.Instant, look *seen) {
	d.Policy = policy
	result, err := p.evaluate(d, policy, s, c, key, q, now, look)
	if err != nil {
		if !errors.As(err, &d.Failure) {
			d.Failure = &policies.EvaluationError{Failure: policies.Failed, Detail: err.Error()}
		}
		d.deny(Reason{Code: PolicyError, Policy: name, Rule: d.Failure.Rule, Failure: d.Failure.Failure})
		d.ExpiresAt = now
		return
	}
	if policy.Reads.Time {
		d.ExpiresAt = now
	}
	d.Permit, d.Action, d.Rule, d.Obligations = result.Permit, result.Action, result.Rule, result.Obligations
	because := Reason{Code: PolicyRule, Policy: name, Rule: result.Rule}
	if result.Default {
		because.Code = PolicyDefault
	}
	if !result.Permit {
		d.Reasons = d.Reasons[:0] // what the scopes permit is no reason to deny
	}
	if result.Reasons == "" {
		d.Reasons = append(d.Reasons, because)
		return
	}
	var doc strictjson.Doc
	if doc.Parse(result.Reasons) != nil { // it was written by the evaluation
		d.Reasons = append(d.Reasons, because)
		return
	}
	for _, r := range doc.Root().Elements() {
		because.Detail = r.Raw()
		d.Reasons = append(d.Reasons, because)
	}
}

var errNoPolicy = &policies.EvaluationError{Failure: policies.Unusable, Detail: "the customer's default policy is not there"}

func (p *PDP) evaluate(d *Decision, policy *policies.Policy, s *policies.Snapshot, c *Customer, key *KeyState, q *Request, now latchkey.Instant, look *seen) (policies.Result, error) {
	if policy == nil {
		return policies.Result{}, errNoPolicy
	}
	in := &d.input
	*in = policies.Input{
		Subject:      policies.Entity{Type: q.Subject.Type, ID: q.Subject.ID, Given: q.Subject.Properties, Key: key != nil},
		Resource:     policies.Entity{Type: q.Resource.Type, ID: q.Resource.ID, Given: q.Resource.Properties},
		Action:       policies.Action{Name: q.Action.Name, Properties: q.Action.Properties},
		Context:      q.Context,
		ScopePermits: d.scoped,
		Now:          now,
	}
	if policy.Reads.Grants {
		in.Grants = d.policyGrants()
	}
	if key != nil {
		if in.Subject.ID == "" { // named by its secret alone
			in.Subject.ID = key.ID.String()
		}
		if policy.Reads.Metadata {
			if p.cfg.Metadata == nil {
				return policies.Result{}, &policies.EvaluationError{Failure: policies.Failed, Detail: "no metadata of keys here"}
			}
			var err error
			if in.Subject.Metadata, err = p.cfg.Metadata.Of(key); err != nil {
				return policies.Result{}, err
			}
		}
	}
	if err := p.lookUpProperties(in, policy.Reads, c, key); err != nil {
		return policies.Result{}, err
	}
	if !c.turns.take(p.cfg.Concurrency) {
		return policies.Result{}, &policies.EvaluationError{Failure: policies.Busy}
	}
	defer c.turns.give()
	result, err := policy.Evaluate(s, in)
	if look != nil { // it costs as much again, so it is part of the turn
		look.rules = policy.Trace(s, in)
	}
	return result, err
}

// lookUpProperties finds what is stored of the subject and the resource, where
// the policy reads it. An access key's are found by its id, however the request
// names the key; key is nil for any other subject.
func (p *PDP) lookUpProperties(in *policies.Input, reads policies.Reads, c *Customer, key *KeyState) (err error) {
	if p.cfg.Properties == nil {
		return nil
	}
	if reads.SubjectProperties {
		id := in.Subject.ID
		if key != nil {
			id = key.ID.String()
		}
		if in.Subject.Stored, err = p.cfg.Properties.FindSubject(c, in.Subject.Type, id); err != nil {
			return err
		}
	}
	if reads.ResourceProperties {
		in.Resource.Stored, err = p.cfg.Properties.FindResource(c, in.Resource.Type, in.Resource.ID)
	}
	return err
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
		r := p.cfg.Auth.Resolve([]byte(q.Secret), now, netip.Addr{})
		if r.Kind == RootCredential {
			return nil, 0, SubjectNotAllowed
		}
		if r.Err != nil {
			return nil, 0, NotReady
		}
		key, endsAt, status = r.Key, r.EndsAt, r.Status
		if key != nil && q.Subject.ID != "" {
			named, until, err := p.find(q.Subject.ID, now)
			switch {
			case err != nil:
				return nil, 0, NotReady
			case named == nil || named.ID != key.ID:
				return nil, 0, KeyUnknown
			}
			endsAt = min(endsAt, until)
		}
	default:
		var err error
		if key, endsAt, err = p.find(q.Subject.ID, now); err != nil {
			return nil, 0, NotReady
		}
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
func (p *PDP) find(id string, now latchkey.Instant) (*KeyState, latchkey.Instant, error) {
	if keyID, ok := ParseKeyID(id); ok {
		key, err := p.cfg.Keys.FindKey(keyID)
		return key, latchkey.Never, err
	}
	if kid, test, ok := parseHandle(id); ok {
		s, ok, err := p.cfg.Keys.FindSecret(kid)
		if err != nil {
			return nil, 0, err
		}
		if ok && s.Test == test && now < s.EndsAt {
			return s.Key, s.EndsAt, nil
		}
	}
	return nil, latchkey.Never, nil
}
