package access

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/scopes"
)

// ApprovalRecord is the database as Approvals needs it. Implemented by
// store.Access.
type ApprovalRecord interface {
	Record

	// PersonByEmail returns the person with a folded address, NotFound without one.
	PersonByEmail(ctx context.Context, customer, email string) (authz.Person, error)
	// Resource is authz.DirectoryRecord's.
	Resource(ctx context.Context, customer string, ref authz.EntityRef) (authz.ResourceRecord, bool, error)
	// Grant and Grants are authz.Record's.
	Grant(ctx context.Context, customer, id string) (authz.GrantRecord, error)
	Grants(ctx context.Context, q authz.GrantQuery) ([]authz.GrantRecord, error)
	// PendingLike is Tx's, outside of a change.
	PendingLike(ctx context.Context, customer, key string) (Request, bool, error)

	// Promised is the request of which an application was told that it waits, under
	// the key of what it asked for; "" for none. Promise keeps it, and Fulfil forgets
	// it, once: it reports whether it was there.
	Promised(ctx context.Context, customer, key string) (request string, err error)
	Promise(ctx context.Context, customer, key, request string) error
	Fulfil(ctx context.Context, customer, key, request string) (bool, error)
}

// ApprovalsConfig are the collaborators of Approvals; all are required.
type ApprovalsConfig struct {
	Record   ApprovalRecord
	Requests *Requests
	Parser   *scopes.Parser
}

// Approvals asks for access on behalf of persons, in one call that an application
// repeats until it has an answer: it finds a live grant, joins an open request, or
// makes one. Safe for concurrent use.
type Approvals struct {
	cfg ApprovalsConfig

	mu    sync.Mutex
	looks map[lookedAt]*looks
}

// NewApprovals makes the service.
func NewApprovals(cfg ApprovalsConfig) *Approvals {
	return &Approvals{cfg: cfg, looks: map[lookedAt]*looks{}}
}

// OutcomeStatus is what has become of what was asked.
type OutcomeStatus string

// The outcomes.
const (
	OutcomeGranted OutcomeStatus = "granted"
	OutcomeWaiting OutcomeStatus = "waiting"
	OutcomeDenied  OutcomeStatus = "denied"
)

// Outcome answers an Ask. Request is the id of the access request, "" where there
// is none: with a grant that was made without one, and a denial for which nobody
// was asked.
type Outcome struct {
	Status  OutcomeStatus
	Request string
	Grant   *authz.GrantRecord // of what is granted
	// Code and Detail say why it is denied, for programs and for people.
	Code, Detail string
	// Again is when something becomes of a request that waits if nobody decides.
	Again latchkey.Instant
}

// May allows persons, who ask for themselves, keys with the scope approvals, and
// root.
func (*Approvals) May(c *authz.Caller) error {
	if c.IsPerson() || c.IsRoot() || c.Kind == authz.AccessKeyCredential && c.Scopes().Has(scopes.Approvals) {
		return nil
	}
	return latchkey.Errorf(latchkey.Forbidden, "scope_missing", "the key lacks the scope approvals")
}

// Ask says what there is of what is asked for, and sees to it that there is a
// request where there is nothing. Errors: Forbidden for who asks for somebody else
// without the scope, NotFound for unknown petitioners and resources, and for
// resources that no template selects, Conflict where several do, and what Submit
// refuses.
func (s *Approvals) Ask(ctx context.Context, call authz.Call, a Ask) (Outcome, error) {
	if err := s.May(&call.Caller); err != nil {
		return Outcome{}, err
	}
	person, err := s.petitioner(ctx, &call, a.Petitioner)
	if err != nil {
		return Outcome{}, err
	}
	t, err := s.template(ctx, &call, a.Resources)
	if err != nil {
		return Outcome{}, err
	}
	if grant, err := s.granted(ctx, &call, &person, &t, a.Resources); grant != nil || err != nil {
		return granted(grant), err
	}
	like := Request{Requester: Party{ID: person.ID}, Beneficiary: Party{ID: person.ID}, Snapshot: Snapshot{Template: t}, Resources: a.Resources}
	key := like.PendingKey()
	for range 3 {
		open, found, err := s.cfg.Record.PendingLike(ctx, call.Customer.ID, key)
		if err != nil {
			return Outcome{}, err
		}
		if found && open.StatusAt(call.Now) == Pending {
			return s.waits(ctx, &call, &open, key)
		}
		if out, told, err := s.unreported(ctx, &call, key); told || err != nil {
			return out, err
		}
		made, err := s.submit(ctx, call, &person, &t, &a)
		if latchkey.CodeOf(err) == "pending_request_exists" {
			continue // somebody else was faster; it is there now, or decided already
		}
		if reason, final := denials[latchkey.CodeOf(err)]; final {
			return Outcome{Status: OutcomeDenied, Code: latchkey.CodeOf(err), Detail: reason}, nil
		}
		if err != nil {
			return Outcome{}, err
		}
		if made.StatusAt(call.Now) == Pending {
			return s.waits(ctx, &call, &made, key)
		}
		return s.outcome(ctx, &call, &made)
	}
	return Outcome{}, latchkey.Errorf(latchkey.Conflict, "pending_request_exists", "the same is being asked for, and decided, at this moment; ask again")
}

type lookedAt struct{ customer, request string }

// looks are those at one request, one at a time: of all that wait for it and are
// woken together one reads, and the others have what it read.
type looks struct {
	by    int // that are in Look
	begun atomic.Uint64

	turn sync.Mutex
	done uint64 // number of the one that out is of
	out  Outcome
}

// Look says what has become of a request of which Ask said that it waits.
func (s *Approvals) Look(ctx context.Context, call authz.Call, request string) (Outcome, error) {
	at := lookedAt{call.Customer.ID, request}
	s.mu.Lock()
	l := s.looks[at]
	if l == nil {
		l = &looks{}
		s.looks[at] = l
	}
	l.by++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if l.by--; l.by == 0 {
			delete(s.looks, at)
		}
	}()

	before := l.begun.Load()
	l.turn.Lock()
	defer l.turn.Unlock()
	if l.done > before { // it began after this call did
		return l.out, nil
	}
	n := l.begun.Add(1)
	out, err := s.look(ctx, &call, request)
	if err == nil {
		l.done, l.out = n, out
	}
	return out, err
}

func (s *Approvals) look(ctx context.Context, call *authz.Call, request string) (Outcome, error) {
	r, err := s.cfg.Record.Request(ctx, call.Customer.ID, request)
	if err != nil {
		return Outcome{}, err
	}
	out, err := s.outcome(ctx, call, &r)
	if err == nil && out.Status == OutcomeDenied {
		_, err = s.cfg.Record.Fulfil(ctx, call.Customer.ID, r.PendingKey(), r.ID) // it is told now
	}
	return out, err
}

// denials are the refusals of Submit that say no to the beneficiary.
var denials = map[string]string{
	"requester_not_allowed": "the template is not for this person",
	"no_eligible_approver":  "nobody may decide on this request",
}

func errUnknownPetitioner() error {
	return latchkey.Errorf(latchkey.NotFound, "unknown_petitioner", "there is no active person of this id or e-mail address")
}

// petitioner finds the person, by id, else by address. Who may not ask for others
// learns nothing of them: it is compared with the caller alone.
func (s *Approvals) petitioner(ctx context.Context, call *authz.Call, p Petitioner) (person authz.Person, err error) {
	email, isAddress := authz.FoldEmail(p.Email)
	if call.IsPerson() {
		own := call.Person
		if p.ID != "" && p.ID != own.ID || p.Email != "" && (!isAddress || email == "" || email != own.Email) {
			return person, latchkey.Errorf(latchkey.Forbidden, "scope_missing", "a person asks for themselves alone; for others it takes a key with the scope approvals")
		}
		return *own, nil
	}
	var byID, byEmail authz.Person
	if authz.IsID(p.ID) {
		if byID, err = s.cfg.Record.Person(ctx, call.Customer.ID, p.ID); err != nil && latchkey.KindOf(err) != latchkey.NotFound {
			return person, err
		}
	}
	if isAddress && email != "" { // the empty address is nobody's
		if byEmail, err = s.cfg.Record.PersonByEmail(ctx, call.Customer.ID, email); err != nil && latchkey.KindOf(err) != latchkey.NotFound {
			return person, err
		}
	}
	switch {
	case byID.ID != "" && p.Email != "" && byID.ID != byEmail.ID:
		return person, latchkey.InvalidFaults(latchkey.Fault{Pointer: "/petitioners/0/email", Code: "petitioner_mismatch", Detail: "the id and the e-mail address are not the same person's"})
	case byID.ID != "":
		person = byID
	default:
		person = byEmail
	}
	if person.ID == "" || !person.Active {
		return authz.Person{}, errUnknownPetitioner()
	}
	return person, nil
}

// template finds the one by which all of the resources are asked for.
func (s *Approvals) template(ctx context.Context, call *authz.Call, refs []authz.EntityRef) (Template, error) {
	resources := make([]authz.ResourceRecord, len(refs))
	for i, ref := range refs {
		r, found, err := s.cfg.Record.Resource(ctx, call.Customer.ID, ref)
		switch {
		case err != nil:
			return Template{}, err
		case !found && call.IsPerson():
			// Whoever may not ask for others is not told which resources there are.
			_, err = Match(nil)
			return Template{}, err
		case !found:
			return Template{}, latchkey.Errorf(latchkey.NotFound, "resource_not_found", "there is no resource %q of kind %s", ref.ID, ref.Type)
		}
		resources[i] = r
	}
	const page = 100
	var selecting []Template
	for name, id := "", ""; ; {
		list, err := s.cfg.Record.Templates(ctx, call.Customer.ID, name, id, page)
		if err != nil {
			return Template{}, err
		}
		for i := range list {
			if selectsAll(&list[i], resources) {
				selecting = append(selecting, list[i])
			}
		}
		if len(list) < page {
			break
		}
		name, id = list[len(list)-1].Name, list[len(list)-1].ID
	}
	t, err := Match(selecting, resources...)
	if err != nil {
		return Template{}, err
	}
	return *t, nil
}

// granted finds live grants that give the person what the template would, on all
// of the resources. It returns the one that ends first of those it takes: when
// access is no more.
func (s *Approvals) granted(ctx context.Context, call *authz.Call, person *authz.Person, t *Template, refs []authz.EntityRef) (*authz.GrantRecord, error) {
	live, err := s.cfg.Record.Grants(ctx, authz.GrantQuery{
		Customer: call.Customer.ID, Subject: person.Ref(), Status: authz.GrantActive, Now: call.Now, Limit: authz.MaxGrants,
	})
	if err != nil || len(live) == 0 {
		return nil, err
	}
	sets := make([]*scopes.Set, len(live))
	for i := range live {
		if sets[i], err = s.cfg.Parser.LoadEntries(live[i].Entries); err != nil {
			return nil, err
		}
	}
	var first *authz.GrantRecord
	for _, ref := range refs {
		var last *authz.GrantRecord
		for i := range live {
			if (last == nil || live[i].ExpiresAt > last.ExpiresAt) && t.Access.covered(sets[i].Entries(ref.Type), ref.ID) {
				last = &live[i]
			}
		}
		if last == nil {
			return nil, nil
		}
		if first == nil || last.ExpiresAt < first.ExpiresAt {
			first = last
		}
	}
	return first, nil
}

// covered reports whether the entries give all of it on a resource.
func (a *ResourceAccess) covered(entries []scopes.Entry, id string) bool {
	var given scopes.Permission
	var actions []string
	for i := range entries {
		if e := &entries[i]; e.Selector.Matches(id) {
			given |= e.Permissions.Implied()
			actions = append(actions, e.Actions...)
		}
	}
	if wanted := scopes.Permission(a.Permission); given&wanted != wanted {
		return false
	}
	return slices.Contains(actions, "*") || !slices.ContainsFunc(a.Actions, func(name string) bool { return !slices.Contains(actions, name) })
}

// waits answers for an open request, and remembers that it did: its denial is to
// be told to who asks next.
func (s *Approvals) waits(ctx context.Context, call *authz.Call, r *Request, key string) (Outcome, error) {
	told, err := s.cfg.Record.Promised(ctx, call.Customer.ID, key)
	if err == nil && told != r.ID {
		err = s.cfg.Record.Promise(ctx, call.Customer.ID, key, r.ID)
	}
	return Outcome{Status: OutcomeWaiting, Request: r.ID, Again: r.EndsAt()}, err
}

// unreported finds the denial of a request that somebody was told to wait for.
func (s *Approvals) unreported(ctx context.Context, call *authz.Call, key string) (out Outcome, told bool, err error) {
	id, err := s.cfg.Record.Promised(ctx, call.Customer.ID, key)
	if id == "" || err != nil {
		return out, false, err
	}
	r, err := s.cfg.Record.Request(ctx, call.Customer.ID, id)
	if err != nil || r.StatusAt(call.Now) != Denied {
		return out, false, err
	}
	if told, err = s.cfg.Record.Fulfil(ctx, call.Customer.ID, key, id); !told || err != nil {
		return out, false, err
	}
	out, err = s.outcome(ctx, call, &r)
	return out, true, err
}

func (s *Approvals) submit(ctx context.Context, call authz.Call, person *authz.Person, t *Template, a *Ask) (Request, error) {
	in := Submission{Template: t.ID, Resources: a.Resources, Duration: a.Duration, DefaultDuration: a.Duration == 0, Justification: a.Reason}
	if !call.IsPerson() {
		in.Beneficiary = person.ID
	}
	made, err := s.cfg.Requests.Submit(ctx, call, in)
	if e, ok := errors.AsType[*latchkey.Error](err); ok && e.Kind == latchkey.Invalid {
		// The body here names these members otherwise.
		faults := slices.Clone(e.Faults)
		for i := range faults {
			switch faults[i].Pointer {
			case "/justification":
				faults[i].Pointer = "/reason"
			case "/requested_duration_mins":
				faults[i].Pointer = "/duration"
			}
		}
		err = latchkey.InvalidFaults(faults...)
	}
	return made, err
}

func granted(g *authz.GrantRecord) Outcome {
	if g == nil {
		return Outcome{}
	}
	return Outcome{Status: OutcomeGranted, Request: g.Request, Grant: g}
}

// outcome says how a request stands.
func (s *Approvals) outcome(ctx context.Context, call *authz.Call, r *Request) (Outcome, error) {
	denied := func(code, detail string) (Outcome, error) {
		return Outcome{Status: OutcomeDenied, Request: r.ID, Code: code, Detail: detail}, nil
	}
	switch r.StatusAt(call.Now) {
	case Pending:
		return Outcome{Status: OutcomeWaiting, Request: r.ID, Again: r.EndsAt()}, nil
	case Approved:
		g, err := s.cfg.Record.Grant(ctx, call.Customer.ID, r.Grant)
		return granted(&g), err
	case Denied:
		return denied("request_denied", r.Comment)
	case Revoked:
		if r.Cancelled() {
			return denied("request_cancelled", "the request was cancelled")
		}
		return denied("request_revoked", "what was approved was revoked")
	case Failed:
		return denied("request_failed", "the request cannot be carried out")
	default: // Expired, and what is not known
		return denied("request_expired", "the request has expired")
	}
}
