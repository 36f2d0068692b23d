package policies

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// Limits of test cases.
const (
	MaxCases  = 500
	maxGrants = 100
	maxText   = 1 << 10
)

// Case is one question to a policy, and what the answer should be. It asks the
// policy alone: what a decision adds, an access key's ceiling above all, is
// given by the case and not looked up. Its values are views of the document
// that it was read from.
type Case struct {
	Name   string
	Input  Input
	Expect Expect
}

// Expect is what a case requires of an answer; what it leaves nil may be
// anything.
type Expect struct {
	Decision    *bool
	Action      *string
	Rule        *string // "": no rule, the default
	Obligations *string // canonical JSON of the array
	Failure     *Failure
}

// Answer is what a policy said to a case.
type Answer struct {
	Result
	Err *EvaluationError // nil, or why the answer is a deny
}

// CaseResult is what came of one case. Differences is empty when it passed.
type CaseResult struct {
	Name        string
	Got         Answer
	Differences []string
}

// Passed reports whether the answer was what the case requires.
func (r *CaseResult) Passed() bool { return len(r.Differences) == 0 }

// Coverage counts which rules of a CEL policy decided. The zero Coverage is of
// a policy without rules of its own, in Rego.
type Coverage struct {
	Rules   []RuleHits
	Default int
	known   bool
}

// RuleHits is how many cases one rule decided.
type RuleHits struct {
	Label string
	Hits  int
}

// Known reports whether the policy has rules that can be counted.
func (c *Coverage) Known() bool { return c.known }

// Percent is how much of the policy decided at least one case: its rules, and
// the default as one more. 0 to 100, rounded down.
func (c *Coverage) Percent() int {
	if !c.known {
		return 0
	}
	hit := min(c.Default, 1)
	for _, r := range c.Rules {
		hit += min(r.Hits, 1)
	}
	return 100 * hit / (len(c.Rules) + 1)
}

// CoverageOf counts nothing yet.
func CoverageOf(d *Document) Coverage {
	c := Coverage{known: d.Language == CEL}
	for i := range d.Rules {
		c.Rules = append(c.Rules, RuleHits{Label: d.Rules[i].Label})
	}
	return c
}

func (c *Coverage) count(a *Answer) {
	if a.Err != nil {
		return
	}
	if a.Default {
		c.Default++
	}
	for i := range c.Rules {
		if c.Rules[i].Label == a.Rule && !a.Default {
			c.Rules[i].Hits++
		}
	}
}

// Run asks the policy every case, with the sets of s, and adds to the coverage.
// It stops when ctx ends, with its error.
func Run(ctx context.Context, p *Policy, s *Snapshot, cases []Case, coverage *Coverage) ([]CaseResult, error) {
	results := make([]CaseResult, 0, len(cases))
	for i := range cases {
		if err := ctx.Err(); err != nil {
			return results, err
		}
		c := &cases[i]
		r := CaseResult{Name: c.Name, Got: ask(p, s, &c.Input)}
		coverage.count(&r.Got)
		r.Differences = c.Expect.differences(&r.Got)
		results = append(results, r)
	}
	return results, nil
}

func ask(p *Policy, s *Snapshot, in *Input) Answer {
	result, err := p.Evaluate(s, in)
	if err == nil {
		return Answer{Result: result}
	}
	failure, ok := errors.AsType[*EvaluationError](err)
	if !ok {
		failure = &EvaluationError{Failure: Failed}
	}
	return Answer{Result: Result{Action: "deny"}, Err: failure}
}

func (e *Expect) differences(got *Answer) (list []string) {
	differ := func(what, want, have string) {
		list = append(list, what+": want "+want+", got "+have)
	}
	if got.Err != nil && e.Failure == nil {
		return []string{"the policy failed: " + got.Err.Error()}
	}
	if e.Failure != nil {
		have := "none"
		if got.Err != nil {
			have = string(got.Err.Failure)
		}
		if have != string(*e.Failure) {
			differ("error", string(*e.Failure), have)
		}
	}
	if e.Decision != nil && *e.Decision != got.Permit {
		differ("decision", strconv.FormatBool(*e.Decision), strconv.FormatBool(got.Permit))
	}
	if e.Action != nil && *e.Action != got.Action {
		differ("action", *e.Action, got.Action)
	}
	if e.Rule != nil && *e.Rule != got.Rule {
		differ("rule", orDefaultRule(*e.Rule), orDefaultRule(got.Rule))
	}
	if have := canonicalArray(got.Obligations); e.Obligations != nil && *e.Obligations != have {
		differ("obligations", *e.Obligations, have)
	}
	return list
}

func orDefaultRule(label string) string {
	if label == "" {
		return "the default"
	}
	return strconv.Quote(label)
}

// canonicalArray makes texts of JSON comparable; "" is the empty array.
func canonicalArray(text string) string {
	var doc strictjson.Doc
	if text == "" || doc.Parse(text) != nil {
		return "[]"
	}
	return string(doc.Root().AppendCanonical(nil))
}

// ParseCases reads an array of cases:
//
//	{name?, request: {subject, action, resource, context?}, scope_permits?, grants?, now?,
//	 expect: {decision?, action?, rule?, obligations?, error?}}
//
// request is as in POST /decision; an access key's own metadata stands in
// subject.properties.metadata. scope_permits is true for a subject of type
// access_key where it is not given, since a policy's answer only counts below
// that ceiling, and false for others. now is what the call says. The values
// are views of v's document. Errors are Invalid, with pointers below at.
func ParseCases(v strictjson.Value, at string, now latchkey.Instant) ([]Case, error) {
	p := &caseReader{}
	var cases []Case
	switch k := v.Kind(); {
	case k == strictjson.Missing:
		p.fault(at, "missing_member", "the member is required")
	case k != strictjson.Array:
		p.fault(at, "wrong_type", "want an array, got "+k.String())
	case v.Len() == 0:
		p.fault(at, "no_cases", "want at least one case")
	case v.Len() > MaxCases:
		p.fault(at, "too_many_cases", "at most "+strconv.Itoa(MaxCases)+" cases")
	default:
		for i, c := range v.Elements() {
			cases = append(cases, p.testCase(c, strictjson.PointerIndex(at, i), i, now))
		}
	}
	if len(p.faults) > 0 {
		return nil, latchkey.InvalidFaults(p.faults...)
	}
	return cases, nil
}

type caseReader struct{ documentReader }

func (p *caseReader) testCase(v strictjson.Value, at string, i int, now latchkey.Instant) (c Case) {
	var name, request, permits, grants, when, expect strictjson.Value
	if !p.members(v, at, map[string]*strictjson.Value{"name": &name, "request": &request, "scope_permits": &permits,
		"grants": &grants, "now": &when, "expect": &expect}) {
		return c
	}
	if c.Name = p.text(name, at+"/name", false, maxText); c.Name == "" {
		c.Name = "case " + strconv.Itoa(i+1)
	}
	c.Input = p.request(request, at+"/request")
	c.Input.Now = now
	if when.Kind() != strictjson.Missing {
		c.Input.Now = p.instant(when, at+"/now")
	}
	c.Input.ScopePermits = c.Input.Subject.Key
	if permits.Kind() != strictjson.Missing {
		c.Input.ScopePermits = p.boolean(permits, at+"/scope_permits")
	}
	c.Input.Grants = p.grants(grants, at+"/grants")
	c.Expect = p.expect(expect, at+"/expect")
	return c
}

func (p *caseReader) members(v strictjson.Value, at string, into map[string]*strictjson.Value) bool {
	if v.Kind() == strictjson.Missing {
		p.fault(at, "missing_member", "the member is required")
		return false
	}
	return p.documentReader.members(v, at, into)
}

func (p *caseReader) boolean(v strictjson.Value, at string) bool {
	if k := v.Kind(); k != strictjson.Bool {
		p.fault(at, "wrong_type", "want true or false, got "+k.String())
	}
	return v.True()
}

func (p *caseReader) instant(v strictjson.Value, at string) latchkey.Instant {
	i, ok := latchkey.ParseInstant(p.text(v, at, true, 64))
	if !ok {
		p.fault(at, "invalid_time", "want an RFC 3339 timestamp")
	}
	return i
}

// object is a member that may be left out.
func (p *caseReader) object(v strictjson.Value, at string) strictjson.Value {
	if k := v.Kind(); k != strictjson.Object && k != strictjson.Missing {
		p.fault(at, "wrong_type", "want an object, got "+k.String())
		return strictjson.Value{}
	}
	return v
}

func (p *caseReader) request(v strictjson.Value, at string) (in Input) {
	var subject, action, resource, context strictjson.Value
	if !p.members(v, at, map[string]*strictjson.Value{"subject": &subject, "action": &action, "resource": &resource, "context": &context}) {
		return in
	}
	in.Subject = p.entity(subject, at+"/subject")
	if in.Subject.Type == "access_key" {
		in.Subject.Key = true
		if m := p.object(in.Subject.Given.Get("metadata"), at+"/subject/properties/metadata"); m.Kind() == strictjson.Object {
			in.Subject.Metadata, _ = NewProperties(m.Raw()) // it is an object, and parsed once already
		}
	}
	in.Resource = p.entity(resource, at+"/resource")
	var name, properties strictjson.Value
	if p.members(action, at+"/action", map[string]*strictjson.Value{"name": &name, "properties": &properties}) {
		in.Action = Action{Name: p.text(name, at+"/action/name", true, maxText), Properties: p.object(properties, at+"/action/properties")}
	}
	in.Context = p.object(context, at+"/context")
	return in
}

func (p *caseReader) entity(v strictjson.Value, at string) (e Entity) {
	var kind, id, properties strictjson.Value
	if p.members(v, at, map[string]*strictjson.Value{"type": &kind, "id": &id, "properties": &properties}) {
		e.Type, e.ID = p.text(kind, at+"/type", true, maxText), p.text(id, at+"/id", true, maxText)
		e.Given = p.object(properties, at+"/properties")
	}
	return e
}

func (p *caseReader) grants(v strictjson.Value, at string) (list []Grant) {
	switch k := v.Kind(); {
	case k == strictjson.Missing:
		return nil
	case k != strictjson.Array:
		p.fault(at, "wrong_type", "want an array, got "+k.String())
		return nil
	case v.Len() > maxGrants:
		p.fault(at, "too_many_grants", "at most "+strconv.Itoa(maxGrants)+" grants")
		return nil
	}
	for i, e := range v.Elements() {
		at := strictjson.PointerIndex(at, i)
		var id, entitlement, reason, from, to strictjson.Value
		if !p.members(e, at, map[string]*strictjson.Value{"id": &id, "entitlement": &entitlement, "reason": &reason, "not_before": &from, "expires_at": &to}) {
			continue
		}
		g := Grant{
			ID: p.text(id, at+"/id", false, maxText), Entitlement: p.text(entitlement, at+"/entitlement", false, maxText),
			Reason: p.text(reason, at+"/reason", false, maxText), ExpiresAt: latchkey.Never,
		}
		if from.Kind() != strictjson.Missing {
			g.NotBefore = p.instant(from, at+"/not_before")
		}
		if to.Kind() != strictjson.Missing {
			g.ExpiresAt = p.instant(to, at+"/expires_at")
		}
		list = append(list, g)
	}
	return list
}

func (p *caseReader) expect(v strictjson.Value, at string) (e Expect) {
	var decision, action, rule, obligations, failure strictjson.Value
	if !p.members(v, at, map[string]*strictjson.Value{"decision": &decision, "action": &action, "rule": &rule, "obligations": &obligations, "error": &failure}) {
		return e
	}
	if v.Len() == 0 { // it would pass whatever the policy says
		p.fault(at, "expects_nothing", "want at least one of decision, action, rule, obligations, error")
	}
	if decision.Kind() != strictjson.Missing {
		e.Decision = new(p.boolean(decision, at+"/decision"))
	}
	if action.Kind() != strictjson.Missing {
		e.Action = new(p.text(action, at+"/action", true, latchkey.MaxName))
	}
	switch rule.Kind() {
	case strictjson.Missing:
	case strictjson.Null:
		e.Rule = new(string)
	default:
		e.Rule = new(p.text(rule, at+"/rule", true, MaxLabel))
	}
	switch k := obligations.Kind(); k {
	case strictjson.Missing:
	case strictjson.Array:
		e.Obligations = new(string(obligations.AppendCanonical(nil)))
	default:
		p.fault(at+"/obligations", "wrong_type", "want an array, got "+k.String())
	}
	if failure.Kind() != strictjson.Missing {
		known := []Failure{Undefined, TwoResults, Failed, TooCostly, Deadline, UnknownSet}
		e.Failure = new(Failure(p.text(failure, at+"/error", true, 64)))
		if !slices.Contains(known, *e.Failure) {
			var words []string
			for _, f := range known {
				words = append(words, string(f))
			}
			p.fault(at+"/error", "unknown_failure", "want one of "+strings.Join(words, ", "))
		}
	}
	return e
}

// AppendJSON appends {name, passed, got: {decision, action, rule, obligations,
// reasons?, error?}, differences}.
func (r *CaseResult) AppendJSON(b []byte) []byte {
	b = strictjson.AppendString(append(b, `{"name":`...), r.Name)
	b = strconv.AppendBool(append(b, `,"passed":`...), r.Passed())
	b = strconv.AppendBool(append(b, `,"got":{"decision":`...), r.Got.Permit)
	b = strictjson.AppendString(append(b, `,"action":`...), r.Got.Action)
	b = append(b, `,"rule":`...)
	if r.Got.Rule == "" {
		b = append(b, `null`...)
	} else {
		b = strictjson.AppendString(b, r.Got.Rule)
	}
	b = append(append(b, `,"obligations":`...), canonicalArray(r.Got.Obligations)...)
	if r.Got.Reasons != "" {
		b = append(append(b, `,"reasons":`...), canonicalArray(r.Got.Reasons)...)
	}
	if e := r.Got.Err; e != nil {
		b = strictjson.AppendString(append(b, `,"error":{"code":`...), string(e.Failure))
		if e.Rule != "" {
			b = strictjson.AppendString(append(b, `,"rule":`...), e.Rule)
		}
		b = append(strictjson.AppendString(append(b, `,"detail":`...), strings.ToValidUTF8(e.Detail, "\uFFFD")), '}')
	}
	b = append(b, `},"differences":[`...)
	for i, d := range r.Differences {
		if i > 0 {
			b = append(b, ',')
		}
		b = strictjson.AppendString(b, strings.ToValidUTF8(d, "\uFFFD"))
	}
	return append(b, ']', '}')
}

// AppendJSON appends {rules: [{label, hits}], default, percent}, or null where
// nothing can be counted.
func (c *Coverage) AppendJSON(b []byte) []byte {
	if !c.known {
		return append(b, `null`...)
	}
	b = append(b, `{"rules":[`...)
	for i, r := range c.Rules {
		if i > 0 {
			b = append(b, ',')
		}
		b = strictjson.AppendString(append(b, `{"label":`...), r.Label)
		b = append(strconv.AppendInt(append(b, `,"hits":`...), int64(r.Hits), 10), '}')
	}
	b = strconv.AppendInt(append(b, `],"default":`...), int64(c.Default), 10)
	b = strconv.AppendInt(append(b, `,"percent":`...), int64(c.Percent()), 10)
	return append(b, '}')
}
