package server

import (
	"log/slog"
	"net/netip"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// maxEvaluations bounds a batch.
const maxEvaluations = 100

// decide answers POST /decision and /decision/{policy}.
func (s *Server) decide(r *request) error {
	if err := latchkeyDialect.evaluation(&r.question, r.root(), strictjson.Value{}, ""); err != nil {
		return err
	}
	if err := r.policy(); err != nil {
		return err
	}
	return r.answer()
}

// evaluation answers POST /access/v1/evaluation.
func (s *Server) evaluation(r *request) error {
	if err := authzenDialect.evaluation(&r.question, r.root(), strictjson.Value{}, ""); err != nil {
		return err
	}
	return r.answer()
}

// policy holds the name in the path against the one in the body.
func (r *request) policy() error {
	if r.c.Params("policy") == "" {
		return nil
	}
	inPath := r.paramView("policy")
	if inPath == "" { // it does not decode: no name, rather than none asked for
		return authz.ErrPolicyNotFound()
	}
	if r.question.Policy != "" && r.question.Policy != inPath {
		return faultAt("/policy", "policy_conflict", "the path names another policy than the body")
	}
	r.question.Policy = inPath
	return nil
}

func (r *request) answer() error {
	if err := r.decide(); err != nil {
		return err
	}
	r.out = appendDecision(r.out[:0], &r.decision, nil)
	return r.json(fiber.StatusOK)
}

// decide answers the question that has been read: the one way of every
// decision.
func (r *request) decide() error {
	start := wallClock()
	if err := r.s.cfg.PDP.Decide(&r.decision, r.caller.Customer, &r.question, r.now); err != nil {
		return err
	}
	r.s.metrics.took(&r.decision, wallClock().Sub(start))
	return r.decided()
}

// decided is told of a decision before it is given.
func (r *request) decided() error {
	a := asked{caller: &r.caller, question: &r.question, decision: &r.decision, requestID: r.id, at: r.now, start: r.start, wait: r.route.deadline, record: &r.record}
	if r.s.cfg.DecisionLog != nil {
		a.source = r.source()
	}
	return r.s.decided(&a)
}

// asked is a decision with who asked for it.
type asked struct {
	caller    *authz.Caller
	question  *authz.Request
	decision  *authz.Decision
	requestID string
	source    netip.Addr
	at        latchkey.Instant
	start     time.Time
	wait      time.Duration // from start, for the decision log
	record    *[]byte       // memory for it
}

// decided counts a decision, tells of a policy that could not answer, and hands
// it to the decision log.
func (s *Server) decided(a *asked) error {
	s.metrics.decided(a.decision)
	if f := a.decision.Failure; f != nil && s.policyErrors.allow(netip.Addr{}, a.start) {
		s.cfg.Log.LogAttrs(noContext, slog.LevelWarn, "policy_error", slog.String("request_id", a.requestID), slog.String("customer", a.caller.Customer.ID),
			slog.String("policy", a.decision.Reasons[0].Policy), slog.String("decision_id", string(a.decision.ID[:])), slog.String("error", authz.Redact(f.Error())))
	}
	return s.logDecision(a)
}

// json sends r.out.
func (r *request) json(status int) error {
	r.flush(status, fiber.MIMEApplicationJSON)
	return nil
}

// explain answers POST /decision/explain.
func (s *Server) explain(r *request) error {
	if err := latchkeyDialect.evaluation(&r.question, r.root(), strictjson.Value{}, ""); err != nil {
		return err
	}
	if err := r.policy(); err != nil {
		return err
	}
	explanation, err := s.cfg.PDP.Explain(&r.decision, &r.caller, &r.question, r.now)
	if err != nil {
		return err
	}
	if err := r.decided(); err != nil {
		return err
	}
	r.out = appendDecision(r.out[:0], &r.decision, func(b []byte) []byte {
		return appendExplanation(b, &explanation, &r.question, &r.decision)
	})
	return r.json(fiber.StatusOK)
}

func (s *Server) decideBatch(r *request) error { return r.batch(latchkeyDialect) }
func (s *Server) evaluations(r *request) error { return r.batch(authzenDialect) }

// semantic says when a batch stops (AuthZEN 1.0, evaluations_semantic).
type semantic string

const (
	executeAll          semantic = "execute_all"
	denyOnFirstDeny     semantic = "deny_on_first_deny"
	permitOnFirstPermit semantic = "permit_on_first_permit"
)

func (m semantic) stops(permit bool) bool {
	return m == denyOnFirstDeny && !permit || m == permitOnFirstPermit && permit
}

// batch answers many evaluations; without any it is a single one. A fault in
// an item is answered in its place.
func (r *request) batch(d dialect) error {
	root := r.root()
	if root.Kind() != strictjson.Object {
		return faultAt("", "wrong_type", "want an object, got "+root.Kind().String())
	}
	for name := range root.Members() {
		switch name {
		case "subject", "action", "resource", "context", "policy", "evaluations", "options":
		default:
			if d.strict {
				return faultAt(strictjson.Pointer("", name), "unknown_member", "unknown member")
			}
		}
	}
	list := root.Get("evaluations")
	mode, err := batchSemantic(root.Get("options"), d)
	if err != nil {
		return err
	}
	n := list.Len()
	switch k := list.Kind(); {
	case k != strictjson.Array && k != strictjson.Missing:
		return faultAt("/evaluations", "wrong_type", "want an array, got "+k.String())
	case n > maxEvaluations:
		return faultAt("/evaluations", "too_many_evaluations", "at most 100 evaluations a request")
	case n == 0:
		if err := d.evaluation(&r.question, strictjson.EmptyObject(), root, ""); err != nil {
			return err
		}
		return r.answer()
	}
	for _, name := range [...]string{"subject", "action", "resource", "context"} {
		if k := root.Get(name).Kind(); k != strictjson.Object && k != strictjson.Missing {
			return faultAt("/"+name, "wrong_type", "want an object, got "+k.String())
		}
	}
	r.out = append(r.out[:0], `{"evaluations":[`...)
	for i, item := range list.Elements() {
		if i > 0 {
			r.out = append(r.out, ',')
		}
		permit := false
		err := d.evaluation(&r.question, item, root, strictjson.PointerIndex("/evaluations", i))
		if err == nil {
			err = r.decide()
		}
		if err != nil {
			r.out = r.appendItemError(r.out, err)
		} else {
			permit = r.decision.Permit
			r.out = appendDecision(r.out, &r.decision, nil)
		}
		if mode.stops(permit) {
			break
		}
	}
	r.out = append(r.out, `]}`...)
	return r.json(fiber.StatusOK)
}

func batchSemantic(options strictjson.Value, d dialect) (semantic, error) {
	switch options.Kind() {
	case strictjson.Missing:
		return executeAll, nil
	case strictjson.Object:
	default:
		return "", faultAt("/options", "wrong_type", "want an object, got "+options.Kind().String())
	}
	mode := executeAll
	for name, v := range options.Members() {
		at := strictjson.Pointer("/options", name)
		switch {
		case name != "evaluations_semantic":
			if d.strict {
				return "", faultAt(at, "unknown_member", "unknown member")
			}
		case v.Kind() != strictjson.String:
			return "", faultAt(at, "wrong_type", "want a string, got "+v.Kind().String())
		default:
			mode = semantic(v.Text())
		}
	}
	switch mode {
	case executeAll, denyOnFirstDeny, permitOnFirstPermit:
		return mode, nil
	}
	return "", faultAt("/options/evaluations_semantic", "unknown_semantic", "want execute_all, deny_on_first_deny or permit_on_first_permit")
}

func (r *request) appendItemError(b []byte, err error) []byte {
	e := classify(err)
	b = append(b, `{"decision":false,"context":{"error":{"status":`...)
	b = strconv.AppendInt(b, int64(r.s.status(e)), 10)
	b = append(b, `,"message":`...)
	b = strictjson.AppendString(b, public(e.Public))
	b = append(b, `,"code":`...)
	b = strictjson.AppendString(b, e.Code)
	return append(b, `}}}`...)
}

// appendDecision appends the answer; extra, when not nil, appends a further
// member of its context, comma first.
func appendDecision(b []byte, d *authz.Decision, extra func([]byte) []byte) []byte {
	if d.Permit {
		b = append(b, `{"decision":true,"context":{"decision_id":"`...)
	} else {
		b = append(b, `{"decision":false,"context":{"decision_id":"`...)
	}
	b = append(b, d.ID[:]...)
	b = append(append(b, `","action":"`...), d.Action...) // a NAME: nothing to escape
	b = append(b, `","reasons":[`...)
	for i := range d.Reasons {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendReason(b, &d.Reasons[i])
	}
	b = append(b, ']')
	if p := d.Policy; p != nil {
		b = append(append(b, `,"policy":{"name":"`...), p.Document.Name...)
		b = strconv.AppendInt(append(b, `","version":`...), p.Version, 10)
		if d.Rule != "" {
			b = strictjson.AppendString(append(b, `,"rule":`...), d.Rule)
		}
		b = append(b, '}')
	}
	b = append(b, `,"obligations":`...)
	if d.Obligations == "" {
		b = append(b, '[', ']')
	} else {
		b = append(b, d.Obligations...)
	}
	b = append(b, `,"expires_at":"`...)
	b = append(d.ExpiresAt.AppendText(b), '"')
	if extra != nil {
		b = extra(b)
	}
	return append(b, `}}`...)
}

func appendReason(b []byte, r *authz.Reason) []byte {
	b = append(b, `{"code":"`...)
	b = append(append(b, r.Code...), '"')
	if r.Key != nil {
		b = append(b, `,"source":"access_key","id":"`...)
		b = append(r.Key.ID.AppendText(b), '"')
	}
	if r.Grant != "" {
		source := `,"source":"grant","id":"`
		if r.Group != "" {
			source = `,"source":"entitlement","id":"`
		}
		b = append(append(append(b, source...), r.Grant...), '"') // a UUID
		if r.Group != "" {
			b = append(append(append(b, `,"group":"`...), r.Group...), '"')
		}
	}
	if r.Policy != "" {
		b = append(append(b, `,"source":"policy","id":"`...), r.Policy...)
		b = append(b, '"')
		if r.Rule != "" {
			b = strictjson.AppendString(append(b, `,"rule":`...), r.Rule)
		}
		if r.Failure != "" {
			b = append(append(append(b, `,"failure":"`...), r.Failure...), '"')
		}
		if r.Detail != "" {
			b = append(append(b, `,"detail":`...), r.Detail...)
		}
	}
	if r.Entry != nil {
		b = append(b, `,"entry":`...)
		b = strconv.AppendInt(b, int64(r.Index), 10)
		b = append(b, `,"selector":`...)
		b = appendSelector(b, r.Entry.Selector)
		b = append(b, `,"permission":`...)
		b = strictjson.AppendString(b, r.Permission)
	}
	if r.Code == authz.ValueNotPermitted {
		b = append(b, `,"indexes":`...)
		b = appendInts(b, r.Indexes)
		if len(r.RemovedIndexes) > 0 {
			b = append(b, `,"removed_indexes":`...)
			b = appendInts(b, r.RemovedIndexes)
		}
	}
	return append(b, '}')
}

// appendSelector avoids putting "prefix*" together only to take it apart.
func appendSelector(b []byte, s scopes.Selector) []byte {
	if exact, ok := s.Exact(); ok {
		return strictjson.AppendString(b, exact)
	}
	prefix, _ := s.Prefix()
	b = strictjson.AppendString(b, prefix)
	return append(b[:len(b)-1], '*', '"')
}

func appendInts(b []byte, list []int) []byte {
	b = append(b, '[')
	for i, n := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(n), 10)
	}
	return append(b, ']')
}

// appendExplanation tells of every entry of the resource's type, and of every
// rule of the policy that decided. The built-in one allows an access key what
// its scopes permit or a live grant covers, any other subject what a grant covers.
func appendExplanation(b []byte, e *authz.Explanation, q *authz.Request, d *authz.Decision) []byte {
	b = append(b, `,"explain":{"policy":{"builtin":`...)
	switch {
	case d.Policy != nil:
		b = strictjson.AppendString(append(b, `false,"language":`...), string(d.Policy.Document.Language))
		b = append(b, `,"rules":[`...)
		for i, t := range e.Rules {
			if i > 0 {
				b = append(b, ',')
			}
			b = strictjson.AppendString(append(b, `{"rule":`...), t.Rule)
			b = strconv.AppendBool(append(b, `,"matched":`...), t.Matched)
			b = append(strictjson.AppendString(append(b, `,"why":`...), t.Why), '}')
		}
		b = append(b, ']')
	case q.Subject.Type == authz.SubjectAccessKey && (len(d.Reasons) == 0 || d.Reasons[0].Code != authz.GrantPermits):
		b = append(b, `true,"rule":"scope_permits"`...)
	default:
		b = append(b, `true,"rule":"grant_permits"`...)
	}
	b = append(b, `},"scope_types":`...)
	var types []string
	if e.Key != nil {
		types = e.Key.Scopes.Types()
	}
	b = strictjson.AppendStrings(b, types)
	b = appendEntryTraces(append(b, `,"entries":`...), e.Entries)
	b = append(b, `,"grants":[`...)
	for i := range e.Grants {
		t := &e.Grants[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, `{"id":"`...), t.Grant.ID...), '"')
		if t.Grant.Group != "" {
			b = append(append(append(b, `,"group":"`...), t.Grant.Group...), '"')
		}
		b = strictjson.AppendString(append(b, `,"reason":`...), t.Grant.Reason)
		b = appendInstant(append(b, `,"not_before":`...), t.Grant.NotBefore)
		b = appendInstant(append(b, `,"expires_at":`...), t.Grant.ExpiresAt)
		b = strictjson.AppendStrings(append(b, `,"types":`...), t.Grant.Set.Types())
		b = appendEntryTraces(append(b, `,"entries":`...), t.Entries)
		b = strconv.AppendBool(append(b, `,"covers":`...), t.Covers)
		b = append(strictjson.AppendString(append(b, `,"why":`...), t.Why), '}')
	}
	return append(b, `]}`...)
}

// appendEntryTraces appends an array of what became of entries.
func appendEntryTraces(b []byte, entries []scopes.EntryTrace) []byte {
	b = append(b, '[')
	for i := range entries {
		t := &entries[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"entry":`...)
		b = strconv.AppendInt(b, int64(t.Index), 10)
		b = append(b, `,"selector":`...)
		b = appendSelector(b, t.Entry.Selector)
		b = append(b, `,"permissions":`...)
		b = strictjson.AppendStrings(b, t.Entry.Permissions.Implied().Names())
		b = append(b, `,"actions":`...)
		b = strictjson.AppendStrings(b, t.Entry.Actions)
		if rest := t.Entry.Restriction; rest != nil {
			b = append(b, `,"restriction":{"entity_type":`...)
			b = strictjson.AppendString(b, rest.EntityType)
			b = append(b, `,"filter":`...)
			b = strictjson.AppendString(b, rest.Filter)
			b = append(b, `,"refused_values":`...)
			b = appendInts(b, t.RefusedAdded)
			b = append(b, `,"refused_removed_values":`...)
			b = append(appendInts(b, t.RefusedRemoved), '}')
		}
		b = append(b, `,"selector_matches":`...)
		b = strconv.AppendBool(b, t.SelectorMatches)
		b = append(b, `,"action_permitted":`...)
		b = strconv.AppendBool(b, t.ActionPermitted)
		b = append(b, `,"grants":`...)
		b = strconv.AppendBool(b, t.Grants)
		b = append(b, `,"why":`...)
		b = append(strictjson.AppendString(b, t.Why), '}')
	}
	return append(b, ']')
}

// authzenConfiguration answers the AuthZEN metadata document. Its URLs come
// from the configuration, never from the Host header.
func (s *Server) authzenConfiguration(r *request) error {
	b := append(r.out[:0], `{"policy_decision_point":`...)
	b = strictjson.AppendString(b, s.cfg.PublicURL)
	b = append(b, `,"access_evaluation_endpoint":`...)
	b = strictjson.AppendString(b, s.cfg.PublicURL+"/access/v1/evaluation")
	b = append(b, `,"access_evaluations_endpoint":`...)
	b = strictjson.AppendString(b, s.cfg.PublicURL+"/access/v1/evaluations")
	for _, searched := range [...]string{"subject", "resource", "action"} {
		b = append(b, `,"search_`+searched+`_endpoint":`...)
		b = strictjson.AppendString(b, s.cfg.PublicURL+"/access/v1/search/"+searched)
	}
	r.out = append(b, '}')
	return r.json(fiber.StatusOK)
}
