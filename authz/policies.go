package authz

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"runtime"
	"strconv"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Limits of a customer's policies.
const (
	MaxPolicies  = 200
	KeptVersions = 100 // of a policy
)

// Policies keeps the policies of customers: each change is checked, written
// with its event, and in force in this process when the call returns. Safe for
// concurrent use; decisions never wait for it.
type Policies struct {
	cfg PoliciesConfig
	// work bounds how many compilations and test cases go on at once, so that
	// authors do not take the processors from decisions. Who waits comes in
	// order, and of one customer one at a time: authors of one customer, however
	// many, do not keep those of another from publishing.
	work chan struct{}
	// authors holds a chan struct{} a customer, which lets one of its authors in.
	authors sync.Map
}

// PoliciesConfig are the collaborators of Policies.
type PoliciesConfig struct {
	Record Record
	Table  KeyTable
	Origin Origin
}

// Origin names where a customer's policies and sets come from, when that is not
// these services ("bundle"): they cannot be written here then. "" and a nil
// Origin are these services.
type Origin func(customer string) string

func (o Origin) writable(customer string) error {
	if o == nil || o(customer) == "" {
		return nil
	}
	from := o(customer)
	return latchkey.Errorf(latchkey.Conflict, "policies_from_"+from, "the customer's policies and sets come from a %s and cannot be written here", from)
}

// NewPolicies makes the service; Load gives customers their policies.
func NewPolicies(cfg PoliciesConfig) *Policies {
	return &Policies{cfg: cfg, work: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
}

// ETag is the strong entity tag of a policy's version. It covers the record's
// id: what is made again under an old name is never taken for the old one.
func (p *PolicyRecord) ETag() string {
	return `"` + p.ID + "-" + strconv.FormatInt(p.Version, 10) + `"`
}

// UnusablePolicy is a stored policy that no longer compiles. Whoever asks it is
// denied.
type UnusablePolicy struct {
	Customer, Name string
	Version        int64
	Err            error
}

// Load compiles all stored policies and puts them in force, on all processors.
// One that no longer compiles denies whoever asks it; it is returned, and never
// stops the start.
func (s *Policies) Load(ctx context.Context, now latchkey.Instant) ([]UnusablePolicy, error) {
	stored, err := s.cfg.Record.LoadPolicies(ctx)
	if err != nil {
		return nil, err
	}
	type result struct {
		policy *policies.Policy
		err    error
	}
	results := make([][]result, len(stored))
	workers := new(errgroup.Group)
	workers.SetLimit(runtime.GOMAXPROCS(0))
	for i := range stored {
		results[i] = make([]result, len(stored[i].Policies))
		for j := range stored[i].Policies {
			workers.Go(func() error {
				p, err := compileStored(&stored[i].Policies[j])
				results[i][j] = result{p, err}
				return ctx.Err()
			})
		}
	}
	if err := workers.Wait(); err != nil {
		return nil, err
	}
	var unusable []UnusablePolicy
	for i := range stored {
		c := &stored[i]
		customer := s.cfg.Table.Customer(c.Customer)
		if customer == nil {
			continue // made since the table was filled: its maker knows it
		}
		for j, r := range results[i] {
			if r.err != nil {
				unusable = append(unusable, UnusablePolicy{c.Customer, c.Policies[j].Name, c.Policies[j].Version, r.err})
			}
		}
		if s.cfg.Origin != nil && s.cfg.Origin(c.Customer) != "" {
			continue // what is stored is not what decides
		}
		err := customer.Policies.Update(func(had *policies.Snapshot) (*policies.Snapshot, error) {
			return had.Edit(c.Seq, now, func(d *policies.Draft) {
				d.SetDefault(c.Default)
				for _, r := range results[i] {
					d.PutPolicy(r.policy)
				}
			}), nil
		})
		if err != nil {
			return nil, err
		}
	}
	return unusable, nil
}

// compileStored always returns a policy: with an error, one that denies.
func compileStored(p *PolicyRecord) (*policies.Policy, error) {
	var doc strictjson.Doc
	err := doc.Parse(p.Document)
	if err == nil {
		var d *policies.Document
		if d, err = policies.ParseDocument(doc.Root(), p.Name); err == nil {
			var compiled *policies.Policy
			if compiled, err = policies.Compile(d, p.Version); err == nil {
				compiled.Record = p.ID
				return compiled, nil
			}
		}
	}
	broken := policies.Broken(&policies.Document{Name: p.Name, Language: policies.Language(p.Language)}, p.Version, err)
	broken.Record = p.ID
	return broken, err
}

// MayCreate refuses a caller that may not make policies.
func (*Policies) MayCreate(c *Caller) error {
	// A right to create is only ever given for all names, so the name asked
	// about does not matter.
	return mayPolicy(c, "any", "create")
}

// MayRead refuses by the name alone, whether or not there is such a policy.
func (*Policies) MayRead(c *Caller, name string) error { return mayPolicy(c, name, "read") }

// MayUpdate is MayRead for a change.
func (*Policies) MayUpdate(c *Caller, name string) error { return mayPolicy(c, name, "update") }

// MayDelete is MayRead for the end.
func (*Policies) MayDelete(c *Caller, name string) error { return mayPolicy(c, name, "delete") }

// MayList refuses a caller that has no right to any policy.
func (*Policies) MayList(c *Caller) error {
	if c.IsRoot() || len(c.Scopes().Entries(scopes.Policies)) > 0 {
		return nil
	}
	return latchkey.Errorf(latchkey.Forbidden, "scope_missing", "the key's policies scope is empty")
}

func mayPolicy(c *Caller, name, action string) error {
	if c.IsRoot() || c.Scopes().Permits(scopes.Question{Type: scopes.Policies, ID: name, Action: action}) {
		return nil
	}
	return latchkey.Errorf(latchkey.Forbidden, "scope_missing", "the key's policies scope does not permit to %s this policy", action)
}

// Get returns a policy's latest version.
func (s *Policies) Get(ctx context.Context, call Call, name string) (PolicyRecord, error) {
	if err := s.MayRead(&call.Caller, name); err != nil {
		return PolicyRecord{}, err
	}
	if !latchkey.ValidName(name) {
		return PolicyRecord{}, ErrPolicyNotFound()
	}
	return s.cfg.Record.Policy(ctx, call.Customer.ID, name)
}

// List returns a page of the policies that the caller may read, by name and
// without documents, and how many they are.
func (s *Policies) List(ctx context.Context, call Call, limit, offset int) ([]PolicyRecord, int, error) {
	if err := s.MayList(&call.Caller); err != nil {
		return nil, 0, err
	}
	all, err := s.cfg.Record.PolicyRecords(ctx, call.Customer.ID)
	if err != nil {
		return nil, 0, err
	}
	seen := all[:0]
	for _, p := range all {
		if s.MayRead(&call.Caller, p.Name) == nil {
			seen = append(seen, p)
		}
	}
	return page(seen, limit, offset), len(seen), nil
}

func page[T any](list []T, limit, offset int) []T {
	list = list[min(offset, len(list)):]
	return list[:min(limit, len(list))]
}

// Versions returns a page of the versions that are kept, newest first and
// without documents, and how many they are.
func (s *Policies) Versions(ctx context.Context, call Call, name string, limit, offset int) ([]PolicyRecord, int, error) {
	if err := s.MayRead(&call.Caller, name); err != nil {
		return nil, 0, err
	}
	if !latchkey.ValidName(name) {
		return nil, 0, ErrPolicyNotFound()
	}
	all, err := s.cfg.Record.PolicyVersions(ctx, call.Customer.ID, name)
	return page(all, limit, offset), len(all), err
}

// Version returns one version that is kept.
func (s *Policies) Version(ctx context.Context, call Call, name string, version int64) (PolicyRecord, error) {
	if err := s.MayRead(&call.Caller, name); err != nil {
		return PolicyRecord{}, err
	}
	if !latchkey.ValidName(name) {
		return PolicyRecord{}, ErrPolicyNotFound()
	}
	return s.cfg.Record.PolicyVersion(ctx, call.Customer.ID, name, version)
}

// Create makes a policy; a name that is taken is a Conflict.
func (s *Policies) Create(ctx context.Context, call Call, d *policies.Document, cond Conditions) (PolicyRecord, error) {
	if err := s.MayCreate(&call.Caller); err != nil {
		return PolicyRecord{}, err
	}
	compiled, err := s.compile(ctx, call.Customer, d)
	if err != nil {
		return PolicyRecord{}, err
	}
	var made PolicyRecord
	err = s.publish(ctx, call, compiled, func() any { return made }, func(tx Tx) (_ PolicyRecord, draft audit.Draft, err error) {
		if _, err := tx.Policy(ctx, d.Name); latchkey.KindOf(err) != latchkey.NotFound {
			if err == nil {
				err = latchkey.Errorf(latchkey.Conflict, "policy_exists", "there is a policy of that name already")
			}
			return made, draft, err
		}
		if err := cond.Met(""); err != nil {
			return made, draft, err
		}
		made, draft, err = s.insert(ctx, tx, call, d)
		return made, draft, err
	})
	return made, err
}

// Put makes the document the policy's next version, or makes the policy where
// there is none and the caller may. What is the same already stays as it is.
func (s *Policies) Put(ctx context.Context, call Call, d *policies.Document, cond Conditions) (p PolicyRecord, made bool, err error) {
	if err := s.MayUpdate(&call.Caller, d.Name); err != nil {
		return p, false, err
	}
	absent := s.MayCreate(&call.Caller)
	if absent != nil {
		absent = ErrPolicyNotFound()
		if call.Customer.Policies.Snapshot().Policy(d.Name) == nil {
			return p, false, absent
		}
	}
	compiled, err := s.compile(ctx, call.Customer, d)
	if err != nil {
		return p, false, err
	}
	err = s.publish(ctx, call, compiled, nil, func(tx Tx) (_ PolicyRecord, draft audit.Draft, err error) {
		p, made = PolicyRecord{}, false
		had, err := tx.Policy(ctx, d.Name)
		switch {
		case latchkey.KindOf(err) == latchkey.NotFound && absent != nil:
			return p, draft, absent
		case latchkey.KindOf(err) == latchkey.NotFound:
			if err := cond.Met(""); err != nil {
				return p, draft, err
			}
			made = true
			p, draft, err = s.insert(ctx, tx, call, d)
			return p, draft, err
		case err != nil:
			return p, draft, err
		}
		if err := cond.Met(had.ETag()); err != nil {
			return p, draft, err
		}
		if p = next(call, had, d); p.Document == had.Document {
			p = had
			return p, draft, errUnchanged
		}
		return p, policyDraft(call, "policy.update", p, ""), tx.UpdatePolicy(ctx, p, KeptVersions)
	})
	if errors.Is(err, errUnchanged) {
		err = nil
	}
	return p, made, err
}

// Rollback makes the document of a kept version the policy's next one, after
// the same checks as a new document.
func (s *Policies) Rollback(ctx context.Context, call Call, name string, version int64, cond Conditions) (p PolicyRecord, err error) {
	if err := s.MayUpdate(&call.Caller, name); err != nil {
		return p, err
	}
	if !latchkey.ValidName(name) {
		return p, ErrPolicyNotFound()
	}
	old, err := s.cfg.Record.PolicyVersion(ctx, call.Customer.ID, name, version)
	if err != nil {
		return p, err
	}
	var doc strictjson.Doc
	if err := doc.Parse(old.Document); err != nil {
		return p, err
	}
	d, err := policies.ParseDocument(doc.Root(), name)
	if err != nil {
		return p, err
	}
	compiled, err := s.compile(ctx, call.Customer, d)
	if err != nil {
		return p, err
	}
	err = s.publish(ctx, call, compiled, func() any { return p }, func(tx Tx) (_ PolicyRecord, draft audit.Draft, err error) {
		had, err := tx.Policy(ctx, name)
		if err != nil {
			return p, draft, err
		}
		if err := cond.Met(had.ETag()); err != nil {
			return p, draft, err
		}
		if had.ID != old.ID {
			return p, draft, latchkey.Errorf(latchkey.Conflict, "policy_replaced", "the policy was deleted and made again meanwhile")
		}
		p = next(call, had, d)
		draft = policyDraft(call, "policy.rollback", p, `,"rolled_back_to":`+strconv.FormatInt(version, 10))
		return p, draft, tx.UpdatePolicy(ctx, p, KeptVersions)
	})
	return p, err
}

// Delete ends a policy with all its versions. A customer's default policy is a
// Conflict.
func (s *Policies) Delete(ctx context.Context, call Call, name string, cond Conditions) error {
	if err := s.MayDelete(&call.Caller, name); err != nil {
		return err
	}
	if !latchkey.ValidName(name) {
		return ErrPolicyNotFound()
	}
	return s.change(ctx, call, nil, func(tx Tx, _ *policies.Snapshot) (audit.Draft, func(*policies.Draft), error) {
		had, err := tx.Policy(ctx, name)
		if err != nil {
			return audit.Draft{}, nil, err
		}
		if err := cond.Met(had.ETag()); err != nil {
			return audit.Draft{}, nil, err
		}
		customer, err := tx.Customer(ctx)
		if err != nil {
			return audit.Draft{}, nil, err
		}
		if customer.DefaultPolicy == name {
			return audit.Draft{}, nil, latchkey.Errorf(latchkey.Conflict, "policy_in_use", "the policy is the customer's default; name another one, or none, first")
		}
		return policyDraft(call, "policy.delete", had, ""), func(d *policies.Draft) { d.DropPolicy(name) }, tx.DeletePolicy(ctx, had.ID)
	})
}

// PolicyTest is what came of cases.
type PolicyTest struct {
	Policy   *policies.Policy // Version 0: the given document, which is not stored
	Results  []policies.CaseResult
	Coverage policies.Coverage
}

// Test asks the policy in force, or the given document in its place, with the
// sets that are in force. Nothing is published.
func (s *Policies) Test(ctx context.Context, call Call, name string, d *policies.Document, cases []policies.Case) (t PolicyTest, err error) {
	if err := s.MayRead(&call.Caller, name); err != nil {
		return t, err
	}
	in := call.Customer.Policies.Snapshot()
	if d == nil {
		if t.Policy = in.Policy(name); t.Policy == nil {
			return t, ErrPolicyNotFound()
		}
	} else {
		if t.Policy, err = s.compile(ctx, call.Customer, d); err != nil {
			return t, err
		}
		if missing := in.Missing(t.Policy); len(missing) > 0 {
			return t, latchkey.InvalidFaults(t.Policy.MissingSets(missing)...)
		}
	}
	out, err := s.author(ctx, call.Customer)
	if err != nil {
		return t, err
	}
	defer out()
	t.Coverage = policies.CoverageOf(t.Policy.Document)
	for i := range cases { // each in a turn of its own: a run may take seconds
		if err := s.testCase(ctx, &t, in, cases[i:i+1]); err != nil {
			return t, err
		}
	}
	return t, nil
}

func (s *Policies) testCase(ctx context.Context, t *PolicyTest, in *policies.Snapshot, one []policies.Case) error {
	done, err := s.turn(ctx)
	var results []policies.CaseResult
	if err == nil {
		defer done()
		results, err = policies.Run(ctx, t.Policy, in, one, &t.Coverage)
		t.Results = append(t.Results, results...)
	}
	if err != nil && len(t.Results) > 0 {
		err = latchkey.Errorf(latchkey.Unavailable, "deadline_exceeded", "the cases took too long; send fewer at a time").Because(err)
	}
	return err
}

// compile waits for its turn.
func (s *Policies) compile(ctx context.Context, c *Customer, d *policies.Document) (*policies.Policy, error) {
	switch text := d.AppendJSON(nil); {
	case len(text) > policies.MaxDocument:
		return nil, latchkey.InvalidFaults(latchkey.Fault{Code: "document_too_large", Detail: "a document has at most " + strconv.Itoa(policies.MaxDocument) + " bytes"})
	case ContainsToken(string(text)):
		return nil, latchkey.InvalidFaults(latchkey.Fault{Code: "credential_in_document", Detail: "a document must not hold a credential; consider this one disclosed"})
	}
	out, err := s.author(ctx, c)
	if err != nil {
		return nil, err
	}
	defer out()
	done, err := s.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return policies.Compile(d, 0)
}

// author waits until none of the customer's other authors is at work.
func (s *Policies) author(ctx context.Context, c *Customer) (out func(), err error) {
	in, _ := s.authors.LoadOrStore(c.ID, make(chan struct{}, 1))
	return wait(ctx, in.(chan struct{}))
}

// turn waits for a processor; who has it is an author.
func (s *Policies) turn(ctx context.Context) (done func(), err error) { return wait(ctx, s.work) }

func wait(ctx context.Context, slots chan struct{}) (done func(), err error) {
	if ctx.Err() == nil { // else select may choose either
		select {
		case slots <- struct{}{}:
			return func() { <-slots }, nil
		case <-ctx.Done():
		}
	}
	return nil, latchkey.Errorf(latchkey.Unavailable, "busy", "too many policies are being compiled or tested; try again").Because(ctx.Err())
}

// publish writes a version and puts it in force.
func (s *Policies) publish(ctx context.Context, call Call, compiled *policies.Policy, result func() any, write func(Tx) (PolicyRecord, audit.Draft, error)) error {
	return s.change(ctx, call, result, func(tx Tx, in *policies.Snapshot) (audit.Draft, func(*policies.Draft), error) {
		if missing := in.Missing(compiled); len(missing) > 0 {
			return audit.Draft{}, nil, latchkey.InvalidFaults(compiled.MissingSets(missing)...)
		}
		p, draft, err := write(tx)
		compiled.Version, compiled.Record = p.Version, p.ID // not in force yet: nobody else sees it
		return draft, func(d *policies.Draft) { d.PutPolicy(compiled) }, err
	})
}

// change writes to the record and puts the next snapshot in force. The
// customer's changes are made one by one, so that they take effect in the order
// in which they were written.
func (s *Policies) change(ctx context.Context, call Call, result func() any, do func(Tx, *policies.Snapshot) (audit.Draft, func(*policies.Draft), error)) error {
	if err := s.cfg.Origin.writable(call.Customer.ID); err != nil {
		return err
	}
	return call.Customer.Policies.Update(func(in *policies.Snapshot) (*policies.Snapshot, error) {
		var seq int64
		var edit func(*policies.Draft)
		err := s.cfg.Record.Change(ctx, call.Change(result), func(tx Tx) (draft audit.Draft, err error) {
			seq = tx.Seq()
			if in, err = inForce(ctx, tx, in, call.Now); err != nil {
				return draft, err
			}
			draft, edit, err = do(tx, in)
			return draft, err
		})
		if err != nil {
			return nil, err
		}
		return in.Edit(seq, call.Now, edit), nil
	})
}

// insert makes a policy's record.
func (s *Policies) insert(ctx context.Context, tx Tx, call Call, d *policies.Document) (PolicyRecord, audit.Draft, error) {
	n, err := tx.CountPolicies(ctx)
	if err != nil {
		return PolicyRecord{}, audit.Draft{}, err
	}
	if n >= MaxPolicies {
		return PolicyRecord{}, audit.Draft{}, latchkey.Errorf(latchkey.Conflict, "too_many_policies", "the customer already has %d policies", n)
	}
	p := next(call, PolicyRecord{ID: uuid.NewString(), Name: d.Name, CreatedAt: call.Now}, d)
	return p, policyDraft(call, "policy.create", p, ""), tx.InsertPolicy(ctx, p)
}

// next is the version after had.
func next(call Call, had PolicyRecord, d *policies.Document) PolicyRecord {
	had.Version++
	had.Language, had.Description, had.Document = string(d.Language), d.Description, string(d.AppendJSON(nil))
	had.UpdatedAt, had.Author = call.Now, call.Actor()
	return had
}

// policyDraft is the event of a change: it tells of a document by its hash.
func policyDraft(call Call, action string, p PolicyRecord, more string) audit.Draft {
	d := call.Draft(action, audit.Resource{Type: "policy", Name: p.Name, ID: p.ID})
	sum := sha256.Sum256([]byte(p.Document))
	d.Changes = `{"version":` + strconv.FormatInt(p.Version, 10) + more + `,"document_sha256":"` + hex.EncodeToString(sum[:]) + `"}`
	return d
}
