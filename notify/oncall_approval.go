package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/policies"
)

// compiledConditions is how many conditions are kept compiled.
const compiledConditions = 256

// AutoApproval decides whether a request for access is approved by itself: by who is
// on call, and by a template's condition. It implements access.AutoApprover. Safe
// for concurrent use.
type AutoApproval struct {
	onCall   *OnCall
	longest  time.Duration
	compiled *lru.Cache[string, *policies.Condition]
}

// NewAutoApproval makes one that asks these providers. longest bounds what is
// approved.
func NewAutoApproval(onCall *OnCall, longest time.Duration) (*AutoApproval, error) {
	compiled, err := lru.New[string, *policies.Condition](compiledConditions)
	if err != nil {
		return nil, err
	}
	return &AutoApproval{onCall: onCall, longest: longest, compiled: compiled}, nil
}

var _ access.AutoApprover = (*AutoApproval)(nil)

const (
	sourcesPointer = "/auto_approve_sources"
	whenPointer    = "/auto_approve_when"
)

// Check implements access.AutoApprover: it refuses sources that there are not, a
// condition that does not compile or costs too much, and one that reads providers
// that there are not. A provider that this server has no key of would never answer.
func (a *AutoApproval) Check(sources []string, when string) error {
	var faults []latchkey.Fault
	missing := func(pointer, name string) {
		switch {
		case slices.Contains(a.onCall.Names(), name):
		case slices.Contains(onCallNames, name):
			faults = append(faults, latchkey.Fault{Pointer: pointer, Code: "provider_not_configured", Detail: "this server is not configured to ask " + name})
		default:
			faults = append(faults, latchkey.Fault{Pointer: pointer, Code: "unknown_provider", Detail: "want " + strings.Join(onCallNames, ", ")})
		}
	}
	for i, name := range sources {
		missing(sourcesPointer+"/"+strconv.Itoa(i), name)
	}
	if when != "" {
		condition, err := policies.CompileCondition(whenPointer, when)
		if e, ok := errors.AsType[*latchkey.Error](err); ok && e.Kind == latchkey.Invalid {
			faults = append(faults, e.Faults...)
		} else if err != nil {
			return err
		} else {
			names, _ := condition.OnCall()
			for _, name := range names {
				missing(whenPointer, name)
			}
		}
	}
	if len(faults) > 0 {
		return latchkey.InvalidFaults(faults...)
	}
	return nil
}

// errUnknown says that nobody can tell: providers that did not answer might have
// said something else.
type errUnknown struct{ causes map[string]error }

func (e *errUnknown) Error() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(e.causes)) {
		parts = append(parts, name+": "+e.causes[name].Error())
	}
	return "providers did not tell who is on call: " + strings.Join(parts, "; ")
}

// Evaluate implements access.AutoApprover. Where the template names sources, the
// beneficiary must be on call with one of them; where it has a condition, that must
// hold, with each of the resources. An error says that nobody can tell, never that
// somebody is off duty.
func (a *AutoApproval) Evaluate(ctx context.Context, q access.AutoQuestion) (access.AutoAnswer, error) {
	t := &q.Template
	if len(t.AutoApproveSources) == 0 && t.AutoApproveWhen == "" {
		return access.AutoAnswer{}, nil
	}
	condition, err := a.condition(t.AutoApproveWhen)
	if err != nil {
		return access.AutoAnswer{}, err
	}
	states, unknown := a.onCall.Ask(ctx, a.wanted(t.AutoApproveSources, condition), onCallQuestion(&q))
	answer := access.AutoAnswer{Duration: a.longest}
	for _, name := range slices.Sorted(maps.Keys(states)) {
		if s := states[name]; s.Active && s.Most > 0 {
			answer.Duration = min(answer.Duration, s.Most)
		}
	}
	var active []string
	asleep := map[string]error{} // sources that might have said that somebody is on call
	for _, name := range t.AutoApproveSources {
		switch state, ok := states[name]; {
		case !ok && unknown[name] == nil:
			asleep[name] = errors.New("this server is not configured to ask it")
		case !ok:
			asleep[name] = unknown[name]
		case state.Active:
			active = append(active, name)
		}
	}
	if len(t.AutoApproveSources) > 0 && len(active) == 0 {
		if len(asleep) > 0 {
			return access.AutoAnswer{}, &errUnknown{asleep}
		}
		return access.AutoAnswer{}, nil
	}
	if condition != nil {
		holds, err := a.holds(condition, &q, states)
		switch {
		case err != nil && len(unknown) > 0:
			return access.AutoAnswer{}, &errUnknown{unknown}
		case err != nil:
			return access.AutoAnswer{}, fmt.Errorf("the condition of the template: %w", err)
		case !holds:
			return access.AutoAnswer{}, nil
		}
	}
	answer.Approve = true
	answer.Why = why(states, condition != nil)
	answer.Evidence, err = evidence(states, unknown, t.AutoApproveWhen)
	return answer, err
}

// condition compiles a template's condition, nil where it has none.
func (a *AutoApproval) condition(text string) (*policies.Condition, error) {
	if text == "" {
		return nil, nil
	}
	if c, ok := a.compiled.Get(text); ok {
		return c, nil
	}
	c, err := policies.CompileCondition(whenPointer, text)
	if err != nil { // it did compile when it was saved
		return nil, fmt.Errorf("the condition of the template: %w", err)
	}
	a.compiled.Add(text, c)
	return c, nil
}

// wanted are the providers to ask: the template's, and those that its condition
// reads.
func (a *AutoApproval) wanted(sources []string, c *policies.Condition) []string {
	if c == nil {
		return sources
	}
	names, all := c.OnCall()
	if all {
		return a.onCall.Names()
	}
	return slices.Concat(sources, names)
}

// holds reports whether the condition holds with each of the resources, as stored:
// nothing that a request says changes their labels.
func (a *AutoApproval) holds(c *policies.Condition, q *access.AutoQuestion, states map[string]OnCallState) (bool, error) {
	facts := policies.Facts{Requester: personFacts(&q.Requester), Beneficiary: personFacts(&q.Beneficiary), Request: requestFacts(q), OnCall: map[string]any{}, Now: q.Now}
	for name, s := range states {
		facts.OnCall[name] = stateFacts(s)
	}
	for _, r := range q.Resources {
		labels := map[string]any{}
		for name, value := range labelsOf(r) {
			labels[name] = value
		}
		facts.Resources = append(facts.Resources, map[string]any{"kind": r.Type, "id": r.ID, "display_name": r.DisplayName, "labels": labels})
	}
	each := facts.Resources
	if len(each) == 0 {
		each = []any{map[string]any{}}
	}
	for _, resource := range each {
		facts.Resource = resource.(map[string]any)
		if holds, err := c.Holds(&facts); err != nil || !holds {
			return false, err
		}
	}
	return true, nil
}

func personFacts(p *authz.Person) map[string]any {
	return map[string]any{"id": p.ID, "username": p.Username, "email": p.Email, "name": p.Name, "type": string(p.Type)}
}

func requestFacts(q *access.AutoQuestion) map[string]any {
	r, t := &q.Request, &q.Template
	facts := map[string]any{"template_id": t.ID, "template_name": t.Name, "app_id": t.Application, "app_name": r.Snapshot.AppName,
		"assignment_type": string(r.Assignment), "requested_duration_mins": int64(r.Duration), "justification": r.Justification}
	if w := r.Window; w != nil {
		facts["window"] = map[string]any{"start": w.Start.Time(), "end": w.End.Time()}
	}
	answers := map[string]any{}
	for _, a := range r.Answers {
		switch a.Value.Kind {
		case access.OptionsAnswer:
			options := []any{}
			for _, o := range a.Value.Options {
				options = append(options, o)
			}
			answers[a.Label] = options
		case access.CheckedAnswer:
			answers[a.Label] = a.Value.Checked
		case access.TextAnswer:
			answers[a.Label] = a.Value.Text
		}
	}
	facts["custom_answers"] = answers
	return facts
}

func stateFacts(s OnCallState) map[string]any {
	texts := func(list []string) []any {
		all := []any{}
		for _, text := range list {
			all = append(all, text)
		}
		return all
	}
	found := []any{}
	for _, e := range s.Evidence {
		found = append(found, map[string]any{"kind": e.Kind, "id": e.ID, "name": e.Name, "role": e.Role, "level": e.Level})
	}
	return map[string]any{"active": s.Active, "roles": texts(s.Roles), "schedules": texts(s.Schedules), "evidence": found}
}

// labelsOf reads the labels that the record has of a resource.
func labelsOf(r authz.ResourceRecord) (labels map[string]string) {
	if err := json.Unmarshal([]byte(r.Labels), &labels); err != nil {
		return nil // of a resource that was never given any
	}
	return labels
}

func onCallQuestion(q *access.AutoQuestion) *OnCallQuestion {
	asked := &OnCallQuestion{At: q.Now.Time(), Person: OnCallPerson{ID: q.Beneficiary.ID, Email: q.Beneficiary.Email, Name: q.Beneficiary.Name},
		Template: OnCallResource{ID: q.Template.ID, Name: q.Template.Name}}
	for _, r := range q.Resources {
		asked.Resources = append(asked.Resources, OnCallResource{Kind: r.Type, ID: r.ID, Name: r.DisplayName, Labels: labelsOf(r)})
	}
	return asked
}

// why says in words who is on call where.
func why(states map[string]OnCallState, condition bool) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(states)) {
		for _, e := range states[name].Evidence {
			text := e.Name
			if text == "" {
				text = e.ID
			}
			switch e.Kind {
			case "incident":
				text = e.Role + " of incident " + text
			case "schedule":
				text = "schedule " + text
			case "escalation_policy":
				text = "escalation policy " + text + ", level " + strconv.FormatInt(e.Level, 10)
			default:
				text = "claim: " + text
			}
			parts = append(parts, text+" ("+name+")")
		}
	}
	switch {
	case len(parts) > 0:
		return "on call: " + strings.Join(parts, "; ")
	case condition:
		return "the template's condition holds"
	}
	return "on call"
}

// evidence is what goes into the record of an automatic approval.
func evidence(states map[string]OnCallState, unknown map[string]error, condition string) (json.RawMessage, error) {
	type source struct {
		Active    bool             `json:"active"`
		Roles     []string         `json:"roles"`
		Schedules []string         `json:"schedules"`
		Evidence  []OnCallEvidence `json:"evidence"`
	}
	record := struct {
		Condition string            `json:"condition,omitempty"`
		OnCall    map[string]source `json:"oncall"`
		Unknown   []string          `json:"unknown,omitempty"` // who did not answer, and was not needed
	}{condition, map[string]source{}, slices.Sorted(maps.Keys(unknown))}
	for name, s := range states {
		record.OnCall[name] = source{s.Active, append([]string{}, s.Roles...), append([]string{}, s.Schedules...), append([]OnCallEvidence{}, s.Evidence...)}
	}
	return json.Marshal(record)
}
