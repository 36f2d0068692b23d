package policies

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

func init() { compilers[Rego] = compileRego }

// Bounds of one Rego evaluation.
const (
	// regoSteps is how many expressions are evaluated at most. OPA goes on
	// inside the frames of what it has evaluated, some 2 KiB a step, so this
	// bounds the stack too, whose overflow would end the process.
	regoSteps = 50_000
	// regoWeight is how much, in about bytes, the values weigh that an
	// evaluation makes, each counted as the tree it is and not as the shared
	// nodes it is kept as.
	regoWeight = 4 << 20
	// regoResult is how long reasons and obligations may be, as JSON.
	regoResult = 16 << 10
)

// regoTime is how long an evaluation may take.
var regoTime = 50 * time.Millisecond

// regoProgram is a compiled module.
type regoProgram struct {
	id       uint64 // of this program in the memo
	query    ast.Body
	compiler *ast.Compiler
	builtins map[string]*topdown.Builtin
	reads    regoReads
}

func (p *regoProgram) setAt(name string) place { return p.reads.places[name] }

var regoPrograms atomic.Uint64

// answer is the variable of the query that takes the result.
const answer = ast.Var("answer")

func compileRego(d *Document) (program, Reads, error) {
	module, result, typed, err := parseRego(d)
	if err != nil {
		return nil, Reads{}, err
	}
	if typed { // a pass of its own: evaluation has no use for the types
		if _, err := compileModules(module.Copy(), true); err != nil {
			return nil, Reads{}, err
		}
	}
	c, err := compileModules(module, false)
	if err != nil {
		return nil, Reads{}, err
	}
	if err := checkCompiled(c.Modules[policyFile]); err != nil {
		return nil, Reads{}, err
	}
	ref := append(ownPackage(d.Name), ast.StringTerm(result))
	query, err := c.QueryCompiler().Compile(ast.NewBody(ast.Equality.Expr(ast.NewTerm(ref), ast.NewTerm(answer))))
	if err != nil {
		return nil, Reads{}, latchkey.Errorf(latchkey.Internal, "internal", "the query does not compile").Because(err)
	}
	p := &regoProgram{id: regoPrograms.Add(1), query: query, compiler: c, reads: readsOf(c)}
	p.builtins = guard(c)
	return p, p.reads.public(), nil
}

// parsedLibrary is the library, parsed once; compilers are given copies.
var parsedLibrary = sync.OnceValues(func() (map[string]*ast.Module, error) {
	modules := map[string]*ast.Module{}
	for name, source := range wholeLibrary() {
		m, err := ast.ParseModuleWithOpts(name, source, ast.ParserOptions{RegoVersion: ast.RegoV1})
		if err != nil {
			return nil, latchkey.Errorf(latchkey.Internal, "internal", "the library does not parse").Because(err)
		}
		modules[name] = m
	}
	return modules, nil
})

// usesLibrary reports whether a module refers to data.latchkey, by import or in
// place: compiling the library costs more than compiling most policies.
func usesLibrary(module *ast.Module) (uses bool) {
	ast.WalkRefs(module, func(r ast.Ref) bool {
		uses = uses || len(r) > 1 && r[0].Equal(ast.DefaultRootDocument) && r[1].Value.Compare(ast.String("latchkey")) == 0
		return uses
	})
	return uses
}

// compileModules compiles a module with the library, where it uses that.
// Without types what calls a function wrongly is found out by the call.
func compileModules(module *ast.Module, typed bool) (*ast.Compiler, error) {
	modules := map[string]*ast.Module{policyFile: module}
	if usesLibrary(module) {
		library, err := parsedLibrary()
		if err != nil {
			return nil, err
		}
		for name, m := range library {
			modules[name] = m.Copy()
		}
	}
	capabilities := Capabilities()
	capabilities.Builtins = append(capabilities.Builtins, setMember)
	c := ast.NewCompiler().WithCapabilities(capabilities).WithStrict(true)
	if !typed {
		c.WithSkipStages(ast.StageCheckTypes)
	}
	if c.Compile(modules); c.Failed() {
		return nil, regoFaults(c.Errors)
	}
	return c, nil
}

// turn is one evaluation: the deadline, the budget and the sets. OPA asks it
// at every expression whether to stop, and hands it to built-in functions.
type turn struct {
	over     atomic.Bool
	steps    int // left; of the evaluating goroutine alone
	weight   int // left
	snapshot *Snapshot
	input    ast.Value
	timer    *time.Timer
	exceeded string // what bound was passed, "" for none but the time
}

var turns = sync.Pool{New: func() any {
	t := &turn{}
	t.timer = time.AfterFunc(time.Hour, t.Cancel)
	t.timer.Stop()
	return t
}}

// Cancel ends the evaluation at its next expression.
func (t *turn) Cancel() { t.over.Store(true) }

// Cancelled counts the steps, and says whether it is over.
func (t *turn) Cancelled() bool {
	if t.steps--; t.steps < 0 {
		t.exceeded = "more than " + strconv.Itoa(regoSteps) + " steps"
		return true
	}
	return t.over.Load()
}

func (p *regoProgram) evaluate(s *Snapshot, in *Input) (Result, error) {
	return p.memoised(s, in)
}

func (p *regoProgram) run(s *Snapshot, in *Input) (_ Result, err error) {
	t := turns.Get().(*turn)
	t.over.Store(false)
	t.steps, t.weight, t.snapshot, t.input, t.exceeded = regoSteps, regoWeight, s, regoInput(in), ""
	t.timer.Reset(regoTime)
	defer func() {
		// What panics is OPA's; a policy that makes it panic gets a deny. The
		// turn is not used again.
		if r := recover(); r != nil {
			t.timer.Stop()
			err = &EvaluationError{Failure: Failed, Detail: "the evaluation broke down"}
			return
		}
		if t.timer.Stop() { // else Cancel may still come
			t.snapshot, t.input = nil, nil
			turns.Put(t)
		}
	}()
	var value ast.Value
	err = topdown.NewQuery(p.query).
		WithCompiler(p.compiler).
		WithStore(noStore{}).
		WithBuiltins(p.builtins).
		WithMetrics(metrics.NoOp()).
		WithStrictBuiltinErrors(true).
		WithCancel(t).
		WithTime(in.Now.Time()).
		WithInput(ast.NewTerm(t.input)).
		Iter(context.Background(), func(r topdown.QueryResult) error {
			value = r[answer].Value
			return nil
		})
	if err != nil {
		return Result{}, t.failure(err)
	}
	if value == nil {
		return Result{}, &EvaluationError{Failure: Undefined}
	}
	return resultOf(value)
}

func (*regoProgram) trace(*Snapshot, *Input) []Trace { return nil }

// failure tells of an error of OPA's without its text, which may quote values
// of the question.
func (t *turn) failure(err error) error {
	if own, ok := errors.AsType[*EvaluationError](err); ok {
		return own
	}
	e := &EvaluationError{Failure: Failed}
	opa, ok := errors.AsType[*topdown.Error](err)
	if !ok {
		return e
	}
	switch opa.Code {
	case topdown.CancelErr:
		if e.Failure = Deadline; t.exceeded != "" {
			e.Failure = TooCostly
		}
		e.Detail = t.exceeded
	case topdown.ConflictErr:
		e.Failure, e.Detail = TwoResults, opa.Message // names a rule and no value
	case topdown.BuiltinErr, topdown.TypeErr:
		if name, _, ok := strings.Cut(opa.Message, ": "); ok && slices.Contains(strings.Fields(pure), name) {
			e.Detail = name + " failed"
		}
	}
	if opa.Location != nil && opa.Location.File == policyFile {
		e.Detail = strings.TrimSpace(fmt.Sprintf("line %d, column %d: %s", opa.Location.Row, opa.Location.Col, e.Detail))
	}
	return e
}

// resultOf reads a boolean, or {allow, action?, reasons?, obligations?}.
func resultOf(v ast.Value) (Result, error) {
	wrong := func(detail string) (Result, error) {
		return Result{}, &EvaluationError{Failure: TwoResults, Detail: detail}
	}
	permit, ok := v.(ast.Boolean)
	var r Result
	if ok {
		return Result{Permit: bool(permit), Action: actionOf(bool(permit))}, nil
	}
	o, ok := v.(ast.Object)
	if !ok {
		return wrong("want a boolean or an object, got " + ast.ValueName(v))
	}
	known := 0
	member := func(name *ast.Term) ast.Value {
		t := o.Get(name)
		if t == nil {
			return nil
		}
		known++
		return t.Value
	}
	if permit, ok = member(termAllow).(ast.Boolean); !ok {
		return wrong("allow must be a boolean")
	}
	r.Permit, r.Action = bool(permit), actionOf(bool(permit))
	if a := member(termAction); a != nil {
		word, ok := a.(ast.String)
		if !ok || !latchkey.ValidName(string(word)) {
			return wrong("action must be allow, deny, or a word of [A-Za-z0-9._:-]")
		}
		if (word == "allow" || word == "deny") && string(word) != r.Action {
			return wrong("allow and action say opposite things")
		}
		r.Action = strings.Clone(string(word))
	}
	left := regoResult
	for _, list := range []struct {
		name *ast.Term
		text *string
	}{{termReasons, &r.Reasons}, {termObligations, &r.Obligations}} {
		v := member(list.name)
		if v == nil {
			continue
		}
		obligations := list.name == termObligations
		var n int
		switch v := v.(type) {
		case *ast.Array:
			if n = v.Len(); obligations && v.Until(notObject) {
				return wrong("obligations must be objects")
			}
		case ast.Set:
			if n = v.Len(); obligations && slices.ContainsFunc(v.Slice(), notObject) {
				return wrong("obligations must be objects")
			}
		default:
			return wrong("reasons and obligations must be arrays")
		}
		if obligations && n > MaxObligations {
			return wrong("at most " + strconv.Itoa(MaxObligations) + " obligations")
		}
		if n == 0 {
			continue
		}
		text, ok := appendValue(nil, v, left)
		if !ok {
			return Result{}, &EvaluationError{Failure: TooCostly, Detail: "reasons and obligations of more than " + strconv.Itoa(regoResult) + " bytes"}
		}
		left -= len(text)
		*list.text = string(text)
	}
	if known != o.Len() {
		return wrong("a decision has allow, action, reasons and obligations")
	}
	return r, nil
}

func notObject(t *ast.Term) bool {
	_, ok := t.Value.(ast.Object)
	return !ok
}

func actionOf(permit bool) string {
	if permit {
		return "allow"
	}
	return "deny"
}

// appendValue appends a value as canonical JSON, a set as a sorted array; ok is
// false when it is longer than most, which is found out without writing it all.
// Keys that are no strings are written as the JSON text they have.
func appendValue(b []byte, v ast.Value, most int) (_ []byte, ok bool) {
	start := len(b)
	left := func() int { return most - (len(b) - start) }
	list := func(i int, t *ast.Term) bool {
		if i > 0 {
			b = append(b, ',')
		}
		b, ok = appendValue(b, t.Value, left())
		return ok
	}
	switch v := v.(type) {
	case ast.Null:
		b = append(b, "null"...)
	case ast.Boolean:
		b = strconv.AppendBool(b, bool(v))
	case ast.Number:
		b = append(b, v...)
	case ast.String:
		if len(v) > most {
			return b, false
		}
		b = strictjson.AppendString(b, strings.ToValidUTF8(string(v), "\ufffd"))
	case *ast.Array:
		b = append(b, '[')
		for i := range v.Len() {
			if !list(i, v.Elem(i)) {
				return b, false
			}
		}
		b = append(b, ']')
	case ast.Set:
		b = append(b, '[')
		for i, t := range v.Slice() {
			if !list(i, t) {
				return b, false
			}
		}
		b = append(b, ']')
	case ast.Object:
		b = append(b, '{')
		for i, k := range v.Keys() {
			if i > 0 {
				b = append(b, ',')
			}
			name, ok := k.Value.(ast.String)
			if !ok {
				text, ok := appendValue(nil, k.Value, left())
				if !ok {
					return b, false
				}
				name = ast.String(text)
			}
			if b, ok = appendValue(b, name, left()); !ok {
				return b, false
			}
			b = append(b, ':')
			if b, ok = appendValue(b, v.Get(k).Value, left()); !ok {
				return b, false
			}
		}
		b = append(b, '}')
	default:
		return b, false
	}
	return b, left() >= 0
}

// noStore is an empty document store.
type noStore struct {
	storage.PolicyNotSupported
	storage.TriggersNotSupported
	storage.WritesNotSupported
}

var errNotFound = &storage.Error{Code: storage.NotFoundErr}

func (noStore) NewTransaction(context.Context, ...storage.TransactionParams) (storage.Transaction, error) {
	return nil, nil
}

func (noStore) Read(context.Context, storage.Transaction, storage.Path) (any, error) {
	return nil, errNotFound
}

func (noStore) Commit(context.Context, storage.Transaction) error { return nil }

func (noStore) Abort(context.Context, storage.Transaction) {}

func (noStore) Truncate(context.Context, storage.Transaction, storage.TransactionParams, storage.Iterator) error {
	return nil
}
