package access

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/people"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Submit makes a request of a person, or of a service for one. With what the
// template asks of providers, and a task that must succeed first, it may take
// AutoTimeout and TriggerTimeout; neither is asked about what would be refused
// anyway, and neither failing refuses the request: it stays for people.
func (s *Requests) Submit(ctx context.Context, call authz.Call, in Submission) (Request, error) {
	sub := submitting{Submission: in, call: call, id: uuid.NewString()}
	if err := sub.intake(); err != nil {
		return Request{}, err
	}
	const rounds = 5 // providers and the task, both once more after the template has changed
	for range rounds {
		made, err := s.submit(ctx, &sub)
		ask, wanted := errors.AsType[*question](err)
		switch {
		case !wanted:
			return made, err
		case ask.trigger:
			sub.triggered, sub.failure = ask.Template.Version, s.runTrigger(ctx, ask.Request, sub.now(s))
		default:
			sub.asked, sub.answer = &ask.AutoQuestion, s.ask(ctx, ask.AutoQuestion)
		}
		sub.call.Now = sub.now(s)
	}
	return Request{}, latchkey.Errorf(latchkey.Unavailable, "storage_busy", "the template keeps changing; try again")
}

// submitting is a submission on its way.
type submitting struct {
	Submission
	call authz.Call
	id   string // of the request
	who  string // id of the person who would have the right

	asked     *AutoQuestion // that providers have answered
	answer    AutoAnswer
	triggered int64 // version of the template whose task has been run; 0 for none
	failure   error // of that run
}

// question ends a change, and with it all it did, to ask somebody first.
type question struct {
	AutoQuestion
	trigger bool
}

func (*question) Error() string { return "somebody is to be asked first" }

func (sub *submitting) now(s *Requests) latchkey.Instant {
	if s.cfg.Now == nil {
		return sub.call.Now
	}
	return max(sub.call.Now, s.cfg.Now())
}

// intake settles for whom it is, and refuses texts that nobody may write.
func (sub *submitting) intake() error {
	c := &sub.call.Caller
	switch {
	case c.IsPerson():
		if sub.Beneficiary != "" && sub.Beneficiary != c.Person.ID {
			return latchkey.Errorf(latchkey.Forbidden, "scope_missing", "only a service with the scope approvals asks for somebody else")
		}
		sub.who = c.Person.ID
	case c.IsRoot(), c.Kind == authz.AccessKeyCredential && c.Scopes().Has(scopes.Approvals):
		if sub.Beneficiary == "" {
			return fault("/beneficiary_id", "missing_member", "a service says for whom it asks")
		}
		sub.who = sub.Beneficiary
	default:
		return errPersonRequired()
	}
	if err := textAllowed(sub.Justification, "/justification"); err != nil {
		return err
	}
	if len(sub.Resources) > maxResources {
		return fault("/resources", "too_many_resources", "a request names at most "+strconv.Itoa(maxResources)+" resources")
	}
	return nil
}

func errPersonRequired() error {
	return latchkey.Errorf(latchkey.Forbidden, "person_required", "only a person may do this, with a credential of their own")
}

func (s *Requests) submit(ctx context.Context, sub *submitting) (made Request, err error) {
	call := &sub.call
	var granted bool
	var seq int64
	change := call.Change(func() any { return made })
	if sub.triggered > 0 && sub.failure == nil {
		// The caller's credential held when the task was begun. Who ends it while the
		// task runs does not undo what the task has done, and must not hide it either.
		change.By = authz.Caller{}
	}
	err = s.cfg.Record.Change(ctx, change, func(tx Tx) (audit.Draft, error) {
		granted = false
		p, err := s.plan(ctx, tx, sub)
		if err != nil {
			return audit.Draft{}, err
		}
		made = p.request
		made.Version = tx.Seq()
		if err := tx.InsertRequest(ctx, made); err != nil {
			return audit.Draft{}, err
		}
		d := draft(call, &made, "submit", made.submitted())
		if p.vote == nil {
			return d, nil
		}
		if err := tx.Event(ctx, d); err != nil {
			return audit.Draft{}, err
		}
		d, err = s.vote(ctx, tx, call, &made, *p.vote)
		granted, seq = made.Status == Approved, tx.Seq()
		return by(d, p.vote.By.ID), err
	})
	if err != nil {
		return Request{}, err
	}
	if granted {
		s.granted(ctx, call, seq)
	}
	return made, nil
}

// granted has decisions of this process see a change of grants.
func (s *Requests) granted(ctx context.Context, call *authz.Call, seq int64) {
	call.Customer.ExpectGrants()
	s.cfg.Subjects.Reach(ctx, call.Customer.ID, seq)
}

// plan is what a submission comes to.
type plan struct {
	request Request
	vote    *Approve // given at once; nil for none
}

// plan refuses what cannot be asked for. Where somebody is to be asked first, the
// error is a *question.
func (s *Requests) plan(ctx context.Context, tx Tx, sub *submitting) (p plan, err error) {
	call := &sub.call
	t, err := tx.Template(ctx, sub.Template)
	if err != nil {
		return p, err
	}
	person, groups, err := s.asker(ctx, tx, &t, sub.who)
	if err != nil {
		return p, err
	}
	r := Request{
		ID: sub.id, Customer: call.Customer.ID, Template: t.ID, Requester: PartyOf(&person), Beneficiary: PartyOf(&person),
		Resources: sub.Resources, Justification: sub.Justification, Status: Pending, CreatedAt: call.Now,
		EscalatesAt: latchkey.Never, EscalatedAt: latchkey.Never, DecidedAt: latchkey.Never, NotBefore: latchkey.Never,
		ExpiresAt: latchkey.Never, ClosedAt: latchkey.Never, RecheckAt: latchkey.Never,
	}
	actor := call.Actor()
	r.SubmittedBy = audit.Actor{Type: actor.Type, ID: actor.ID}
	if err := sub.terms(&t, &r); err != nil {
		return p, err
	}
	resources, err := s.wanted(ctx, tx, &t, sub.Resources, call.IsPerson())
	if err != nil {
		return p, err
	}
	if r.Snapshot, err = s.snapshot(ctx, tx, t); err != nil {
		return p, err
	}
	if _, err := entriesOf(s.cfg.Parser, &r); err != nil {
		return p, err
	}
	r.PendingUntil = r.pendingUntil()
	if t.escalates() {
		r.EscalatesAt = call.Now.Add(t.EscalationAfter.Duration())
	}
	if err := s.onlyOne(ctx, tx, call, &r); err != nil {
		return p, err
	}

	pool, err := approvers(ctx, tx, t.ApproverGroups)
	if err != nil {
		return p, err
	}
	if p.vote, err = s.autoVote(ctx, tx, sub, &t, &r, person, resources); err != nil {
		return p, err
	}
	decided := p.vote != nil && (p.vote.Final || t.ApprovalsRequired == 1)
	if !decided {
		if err := roomFor(ctx, tx, &r, call.Now); err != nil {
			return p, err
		}
		if !t.AutoApprove && r.TriggerFailure == "" { // else it stays, for whoever may come
			if err := eligible(ctx, tx, &t, &r, pool, p.vote); err != nil {
				return p, err
			}
		}
		if r.Notified, err = tell(ctx, tx, &t, others(pool, person.ID), groups); err != nil {
			return p, err
		}
	}
	p.request = r
	return p, nil
}

// asker is the person who would have the right, and its groups: one who is active
// and whom the template allows.
func (s *Requests) asker(ctx context.Context, tx Tx, t *Template, id string) (authz.Person, []string, error) {
	person, err := tx.Person(ctx, id)
	if err == nil && !person.Active || latchkey.KindOf(err) == latchkey.NotFound {
		err = latchkey.Errorf(latchkey.NotFound, "unknown_beneficiary", "there is no such active person")
	}
	if err != nil {
		return person, nil, err
	}
	groups, err := tx.GroupsOf(ctx, id)
	if err == nil && !t.allows(groups) {
		err = latchkey.Errorf(latchkey.Forbidden, "requester_not_allowed", "the template is for members of other groups")
	}
	return person, groups, err
}

// assignment is how it is to be given: where that is not said, by what goes with
// the window or the duration that is. What stands for nothing is never for ever,
// unless the template offers nothing else.
func (sub *submitting) assignment(t *Template) Assignment {
	if sub.Assignment != "" {
		return sub.Assignment
	}
	said := func(a Assignment) bool {
		return a == InWindow && sub.Window != nil || a == Temporary && (sub.Duration != 0 || sub.DefaultDuration)
	}
	i := slices.IndexFunc(t.AssignmentTypes, said)
	if i < 0 {
		i = slices.IndexFunc(t.AssignmentTypes, func(a Assignment) bool { return a != Permanent })
	}
	if i < 0 {
		return Permanent
	}
	return t.AssignmentTypes[i]
}

// terms settles for how long, with which answers, and refuses what the template
// does not allow.
func (sub *submitting) terms(t *Template, r *Request) error {
	var faults []latchkey.Fault
	note := func(err error) { faults = append(faults, scopes.Faults(err)...) }
	r.Assignment = sub.assignment(t)
	if !slices.Contains(t.AssignmentTypes, r.Assignment) {
		return fault("/assignment_type", "assignment_not_allowed", "the template allows "+join(t.AssignmentTypes))
	}
	if r.Assignment != Temporary && sub.Duration != 0 {
		note(fault("/requested_duration_mins", "duration_not_allowed", "a duration is for temporary access"))
	}
	if r.Assignment != InWindow && sub.Window != nil {
		note(fault("/window", "window_not_allowed", `a window is for the assignment type "window"`))
	}
	switch r.Assignment {
	case Temporary:
		r.Duration = sub.Duration
		if r.Duration == 0 && sub.DefaultDuration {
			r.Duration = t.DefaultDuration
		}
		if r.Duration == 0 {
			note(fault("/requested_duration_mins", "duration_required", "say for how many minutes: the template allows "+t.durations()))
		} else {
			note(t.checkDuration(r.Duration, "/requested_duration_mins"))
		}
	case InWindow:
		if sub.Window == nil {
			note(fault("/window", "window_required", "say from when to when"))
		} else {
			w := *sub.Window
			r.Window = &w
			note(t.checkWindow(w, "/window", sub.call.Now))
		}
	case Permanent:
	}
	if t.RequireJustification && strings.TrimSpace(sub.Justification) == "" {
		note(fault("/justification", "justification_required", "the template asks for a justification"))
	}
	var err error
	r.Answers, err = t.answers(sub.Answers, "/custom_answers")
	note(err)
	if len(faults) > 0 {
		return latchkey.InvalidFaults(faults...)
	}
	return nil
}

// wanted are the resources that are asked for, as they are now. A person is not
// told which of those there are that the template is not for.
func (s *Requests) wanted(ctx context.Context, tx Tx, t *Template, refs []authz.EntityRef, person bool) ([]authz.ResourceRecord, error) {
	switch {
	case t.Selector == nil && len(refs) > 0:
		return nil, fault("/resources", "resources_not_allowed", "the template is not for resources")
	case t.Selector != nil && len(refs) == 0:
		return nil, fault("/resources", "resources_required", "say for which resources")
	}
	list := make([]authz.ResourceRecord, 0, len(refs))
	for i, ref := range refs {
		at := strictjson.PointerIndex("/resources", i)
		switch {
		case strings.HasSuffix(ref.ID, "*"):
			return nil, fault(at+"/id", "invalid_resource_id", "an id must not end in *: in a scope entry it would select others too")
		case slices.Contains(refs[:i], ref):
			return nil, fault(at, "duplicate_resource", "the resource stands twice")
		}
		resource, found, err := tx.Resource(ctx, ref)
		switch {
		case err != nil:
			return nil, err
		case !found && !person:
			return nil, latchkey.Errorf(latchkey.NotFound, "resource_not_found", "%s: there is no such resource", at)
		case !found, !t.selects(resource):
			return nil, fault(at, "resource_not_allowed", "the template is for other resources")
		}
		list = append(list, resource)
	}
	return list, nil
}

// snapshot is the template with what it gives, by value.
func (s *Requests) snapshot(ctx context.Context, tx Tx, t Template) (Snapshot, error) {
	app, err := tx.Application(ctx, t.Application)
	if err != nil {
		return Snapshot{}, err
	}
	entries, claims, err := merged(ctx, tx, t.Entitlements)
	return Snapshot{Template: t, AppName: app.Name, Entries: entries, Claims: claims}, err
}

// merged is what entitlements give together: for each resource type the entries of
// all of them, for each claim the values of all of them, once.
func merged(ctx context.Context, tx people.Tx, ids []string) (entries, claims string, err error) {
	lists := map[string][]json.RawMessage{}
	values := map[string][]string{}
	for _, id := range ids {
		e, err := tx.Entitlement(ctx, id)
		if err != nil {
			return "", "", err
		}
		if err := gather(lists, e.Entries, func(a, b json.RawMessage) bool { return string(a) == string(b) }); err != nil {
			return "", "", fmt.Errorf("entries of entitlement %s: %w", id, err)
		}
		if err := gather(values, e.Claims, func(a, b string) bool { return a == b }); err != nil {
			return "", "", fmt.Errorf("claims of entitlement %s: %w", id, err)
		}
	}
	if entries, err = canonical(lists); err != nil {
		return "", "", err
	}
	claims, err = canonical(values)
	return entries, claims, err
}

func gather[T any](into map[string][]T, text string, same func(a, b T) bool) error {
	if text == "" {
		return nil
	}
	var lists map[string][]T
	if err := json.Unmarshal([]byte(text), &lists); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		for _, v := range lists[name] {
			if !slices.ContainsFunc(into[name], func(w T) bool { return same(v, w) }) {
				into[name] = append(into[name], v)
			}
		}
	}
	return nil
}

func canonical(v any) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	var doc strictjson.Doc
	if err := doc.Parse(string(text)); err != nil {
		return "", err
	}
	return string(doc.Root().AppendCanonical(nil)), nil
}

// entriesOf is what a request gives: those of the entitlements, and one for each
// resource.
func entriesOf(p *scopes.Parser, r *Request) (string, error) {
	lists := map[string][]json.RawMessage{}
	if err := json.Unmarshal([]byte(r.Snapshot.Entries), &lists); err != nil {
		return "", fmt.Errorf("entries of request %s: %w", r.ID, err)
	}
	for _, ref := range r.Resources {
		entry, err := json.Marshal(struct {
			Selector string `json:"f"`
			ResourceAccess
		}{ref.ID, r.Snapshot.Template.Access})
		if err != nil {
			return "", err
		}
		lists[ref.Type] = append(lists[ref.Type], entry)
	}
	text, err := canonical(lists)
	if err != nil || text == "{}" {
		return text, err
	}
	if _, err := p.LoadEntries(text); err != nil {
		faults := scopes.Faults(err)
		for i := range faults {
			faults[i].Pointer = "/resources"
			faults[i].Detail = "what is asked for cannot be granted together: " + faults[i].Detail
		}
		return "", latchkey.InvalidFaults(faults...)
	}
	return text, nil
}

// PendingKey is the same for requests of which there may be one at a time.
func (r *Request) PendingKey() string {
	refs := slices.SortedFunc(slices.Values(r.Resources), func(a, b authz.EntityRef) int {
		return cmp.Or(strings.Compare(a.Type, b.Type), strings.Compare(a.ID, b.ID))
	})
	h := sha256.New()
	for _, part := range []string{r.Requester.ID, r.Beneficiary.ID, r.Snapshot.Template.ID} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	for _, ref := range refs {
		fmt.Fprintf(h, "%d:%s%d:%s", len(ref.Type), ref.Type, len(ref.ID), ref.ID)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// onlyOne refuses a second request of the same kind while one is pending. One that
// has run out is written down as that, which is a fact of its own.
func (s *Requests) onlyOne(ctx context.Context, tx Tx, call *authz.Call, r *Request) error {
	like, found, err := tx.PendingLike(ctx, r.PendingKey())
	switch {
	case err != nil || !found:
		return err
	case like.StatusAt(call.Now) == Pending:
		return latchkey.Errorf(latchkey.Conflict, "pending_request_exists", "a request for this is pending already")
	}
	d, err := s.expire(ctx, tx, &like, call.Now)
	if err != nil {
		return err
	}
	return tx.Event(ctx, d)
}

// MaxPending is how many requests a person may have pending at a time, over all
// templates and resources: each of them is told to people who decide.
const MaxPending = 100

func roomFor(ctx context.Context, tx Tx, r *Request, now latchkey.Instant) error {
	n, err := tx.PendingOf(ctx, r.Requester.ID, now)
	if err == nil && n >= MaxPending {
		err = latchkey.Errorf(latchkey.Conflict, "too_many_pending", "the requester has %d requests pending; wait for decisions, or cancel some", n)
	}
	return err
}

// eligible refuses a request on which fewer people than are wanted could decide,
// now or once it has escalated.
func eligible(ctx context.Context, tx Tx, t *Template, r *Request, pool []candidate, vote *Approve) error {
	if t.escalates() {
		further, err := approvers(ctx, tx, []string{t.EscalationGroup})
		if err != nil {
			return err
		}
		pool = slices.Concat(pool, further)
	}
	if !t.AllowSelfApproval {
		pool = others(pool, r.Requester.ID, r.Beneficiary.ID)
	}
	able := map[string]bool{}
	for i := range pool {
		able[pool[i].ID] = true
	}
	n := len(able)
	if vote != nil {
		n++
	}
	if n < t.ApprovalsRequired {
		return latchkey.Errorf(latchkey.Conflict, "no_eligible_approver", "there are not enough people who could approve this")
	}
	return nil
}

// tell says who is told of a request.
func tell(ctx context.Context, tx Tx, t *Template, pool []candidate, requesters []string) ([]Party, error) {
	pool, err := narrowed(ctx, tx, t, pool, requesters)
	if err != nil {
		return nil, err
	}
	var last Place
	if t.NotificationPolicy == RoundRobin {
		if last, err = tx.Place(ctx, t.ID); err != nil {
			return nil, err
		}
	}
	told, next, err := t.choose(pool, last)
	if err == nil && next != last {
		err = tx.SetPlace(ctx, t.ID, next)
	}
	return told, err
}

// autoVote is the vote that the template, or providers by it, give at once; nil for
// none. Where they, or the task that must succeed first, are still to be asked, the
// error is a *question; what came of a task that failed is noted in r.
func (s *Requests) autoVote(ctx context.Context, tx Tx, sub *submitting, t *Template, r *Request, person authz.Person, resources []authz.ResourceRecord) (*Approve, error) {
	vote := &Approve{Method: AutoDecision, Grant: uuid.NewString(), Limit: t.MaxAutoDuration.Duration()}
	atMost := func(d time.Duration) {
		if d > 0 && (vote.Limit == 0 || d < vote.Limit) {
			vote.Limit = d
		}
	}
	switch {
	case t.AutoApprove:
		vote.By, vote.Final, vote.Comment = Party{ID: System, Name: System}, true, "the template approves by itself"
	case t.conditional() && s.cfg.Auto != nil:
		member, err := botDecides(ctx, tx, t)
		if err != nil || !member {
			return nil, err
		}
		if sub.asked == nil || sub.asked.Template.Version != t.Version || !slices.Equal(sub.asked.Resources, resources) {
			return nil, &question{AutoQuestion: AutoQuestion{
				Customer: r.Customer, Template: *t, Requester: person, Beneficiary: person, Resources: resources, Request: *r, Now: sub.call.Now,
			}}
		}
		if !sub.answer.Approve {
			return nil, nil
		}
		vote.By, vote.Comment, vote.Evidence = Party{ID: authz.Bot, Name: authz.Bot}, sub.answer.Why, sub.answer.Evidence
		atMost(sub.answer.Duration)
		atMost(t.MaxDuration.Duration())
	default:
		return nil, nil
	}
	if !r.blocks() || !vote.Final && t.ApprovalsRequired > 1 {
		return vote, nil
	}
	if sub.triggered != t.Version {
		// What a task has done outside stays done where the request then cannot be
		// made: nobody would be told of its end. So whatever who asks could bring that
		// about by is looked at before. A window that may be over by then is for people.
		if err := roomToHold(ctx, tx, r, sub.call.Now); err != nil {
			return nil, err
		}
		if r.PendingUntil <= sub.call.Now.Add(leaseTime) {
			return nil, nil
		}
		return nil, &question{AutoQuestion: AutoQuestion{Template: *t, Request: *r}, trigger: true}
	}
	if sub.failure != nil {
		r.TriggerFailure = triggerText(sub.failure)
		return nil, nil
	}
	return vote, nil
}

// blocks reports whether a task must succeed before it is approved.
func (r *Request) blocks() bool {
	t := &r.Snapshot.Template
	return t.TriggerTask != "" && t.TriggerFailureMode == Block
}

// ask asks providers; what they do not say in time they do not say.
func (s *Requests) ask(ctx context.Context, q AutoQuestion) AutoAnswer {
	ctx, cancel := context.WithTimeout(ctx, AutoTimeout)
	defer cancel()
	answer, err := s.cfg.Auto.Evaluate(ctx, q)
	if err != nil {
		s.troubled(ctx, "auto_approval", fmt.Errorf("request for template %s of %s: %w", q.Template.ID, q.Customer, err))
		return AutoAnswer{}
	}
	if len(answer.Evidence) > 0 && !json.Valid(answer.Evidence) {
		s.troubled(ctx, "auto_approval", fmt.Errorf("template %s of %s: the evidence is no JSON", q.Template.ID, q.Customer))
		return AutoAnswer{}
	}
	return answer
}

func (s *Requests) troubled(ctx context.Context, what string, err error) {
	if s.cfg.Troubled != nil {
		s.cfg.Troubled(ctx, what, err)
	}
}
