package policies

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	celast "github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/interpreter"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// Bounds of a CEL policy's cost, in cel-go's units: about one step each, or ten
// bytes of a text that is read.
const (
	celUntracked = 300_000    // a bound up to here needs no tracking
	celCeiling   = 10_000_000 // of the bound with sizes of celTypical
	celTypical   = 100
	celUnknown   = 262_144 // the size of what the policy does not tell
	celDeadline  = 50 * time.Millisecond
	celFaults    = 16 // at most this many are told at once
)

func init() { compilers[CEL] = compileCEL }

// celProgram is a CEL policy: all its rules in one program that stops at the
// first that matches.
type celProgram struct {
	doc     *Document
	program cel.Program // nil without rules
	tracked bool
	infos   []*celast.SourceInfo // of each rule
	sets    map[string]place
}

func (p *celProgram) setAt(name string) place { return p.sets[name] }

func compileCEL(d *Document) (_ program, _ Reads, err error) {
	defer func() {
		// Whatever the compiler does with a hostile text, it is the text's fault.
		if r := recover(); r != nil {
			err = latchkey.InvalidFaults(latchkey.Fault{Pointer: "/rules", Code: "invalid_expression", Detail: "the compiler gave up on the rules"})
		}
	}()
	envs, err := celEnvironments()
	if err != nil {
		return nil, Reads{}, err
	}
	c := &celCompiler{envs: envs}
	for i := range d.Rules {
		c.rule(strictjson.PointerIndex("/rules", i)+"/match", d.Rules[i].Match)
	}
	if len(c.faults) > 0 {
		return nil, Reads{}, latchkey.InvalidFaults(c.faults[:min(len(c.faults), celFaults)]...)
	}
	p := &celProgram{doc: d, sets: c.reads.sets}
	if len(d.Rules) > 0 {
		if err := p.compose(envs, c.asts); err != nil {
			return nil, Reads{}, err
		}
	}
	return p, c.reads.done(), nil
}

// compose makes one program of rules that have compiled alone. It puts their
// checked trees side by side, so that no text of one reaches into the next and
// nothing is checked twice; what checking costs grows faster than the tree.
func (p *celProgram) compose(envs *celEnvs, asts []*cel.Ast) error {
	var unknown, typical uint64
	kinds := map[int64]*types.Type{}
	references := map[int64]*celast.ReferenceInfo{}
	rules := make([]celast.Expr, len(asts))
	for i, ast := range asts {
		for size, sum := range map[celSizes]*uint64{celUnknown: &unknown, celTypical: &typical} {
			bound, err := envs.one.EstimateCost(ast, size)
			if err != nil {
				return latchkey.Errorf(latchkey.Internal, "internal", "estimating the cost failed").Because(err)
			}
			*sum += min(bound.Max, 2*celCeiling) // no overflow
		}
		rule := ast.NativeRep()
		p.infos = append(p.infos, rule.SourceInfo())
		for id, t := range rule.TypeMap() {
			kinds[celID(i, id)] = t
		}
		for id, r := range rule.ReferenceMap() {
			references[celID(i, id)] = r
		}
		rules[i] = celast.NewExprFactory().CopyExpr(rule.Expr())
		rules[i].RenumberIDs(func(id int64) int64 { return celID(i, id) })
	}
	if typical > celCeiling {
		return latchkey.InvalidFaults(latchkey.Fault{Pointer: "/rules", Code: "policy_too_costly",
			Detail: "with values of size " + strconv.Itoa(celTypical) + " the rules may take more than " + strconv.Itoa(celCeiling) + " steps"})
	}
	p.tracked = unknown > celUntracked
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize), cel.CustomDecoratorV2(celPlanner{tracked: p.tracked, envs: envs}.decorate)}
	if p.tracked {
		options = append(options, cel.CostLimit(celUntracked), cel.CostTracking(celCosts{}), cel.InterruptCheckFrequency(16))
	}
	const list, choice = 1, 2
	exprs := celast.NewExprFactory()
	kinds[list], kinds[choice] = types.NewListType(types.BoolType), types.BoolType
	references[choice] = celast.NewFunctionReference(celFirst)
	all := celast.NewAST(exprs.NewCall(choice, celFirst, exprs.NewList(list, rules, nil)), p.infos[0])
	var err error
	if p.program, err = envs.all.PlanProgram(celast.NewCheckedAST(all, kinds, references), options...); err != nil {
		return latchkey.InvalidFaults(latchkey.Fault{Pointer: "/rules", Code: "invalid_expression", Detail: "the rules cannot be planned"}).Because(err)
	}
	return nil
}

// Each rule's nodes are numbered from a start of their own.
const celIDs = 1 << 32

func celID(rule int, id int64) int64 { return id + int64(rule+1)*celIDs }

func (p *celProgram) evaluate(s *Snapshot, in *Input) (result Result, err error) {
	at, failure := p.run(s, in)
	if failure != nil {
		return Result{}, failure
	}
	if at < 0 {
		return Result{Permit: p.doc.Default.Permit, Action: p.doc.Default.Action, Obligations: p.doc.Default.Obligations, Default: true}, nil
	}
	r := &p.doc.Rules[at]
	return Result{Permit: r.Permit, Action: r.Action, Obligations: r.Obligations, Rule: r.Label}, nil
}

// run returns the index of the first rule that matches, -1 of none.
func (p *celProgram) run(s *Snapshot, in *Input) (at int, failure *EvaluationError) {
	if p.program == nil {
		return -1, nil
	}
	e := celEvaluations.Get().(*celEvaluation)
	e.begin(s, in)
	defer func() {
		if r := recover(); r != nil {
			failure = p.failed(e, errCELPanic)
		}
		e.end()
		celEvaluations.Put(e)
	}()
	var err error
	if p.tracked {
		ctx, cancel := context.WithTimeout(context.Background(), celDeadline)
		defer cancel()
		_, _, err = p.program.ContextEval(ctx, e)
	} else {
		_, _, err = p.program.Eval(e)
	}
	if err != nil || e.work > celMaxWork {
		return -1, p.failed(e, err)
	}
	if e.matched {
		return e.at, nil
	}
	return -1, nil
}

var errCELPanic = errors.New("panic")

// failed says which rule failed and why. It quotes nothing of cel-go's texts
// but their kind, since they name values of the question.
func (p *celProgram) failed(e *celEvaluation, err error) *EvaluationError {
	f := &EvaluationError{Failure: Failed, Rule: p.doc.Rules[e.at].Label}
	var unknown *celUnknownSet
	var cancelled interpreter.EvalCancelledError
	switch {
	case errors.As(err, &unknown):
		f.Failure, f.Detail = UnknownSet, "no set is called "+unknown.name
	case errors.Is(err, interpreter.InterruptError{}):
		f.Failure, f.Detail = Deadline, "took longer than "+celDeadline.String()
		return f
	case e.work > celMaxWork, errors.As(err, &cancelled):
		f.Failure, f.Detail = TooCostly, "took more than it may"
		return f
	default:
		f.Detail = celKind(err)
	}
	var located *types.Err
	if errors.As(err, &located) && located.NodeID()/celIDs == int64(e.at+1) {
		f.Detail += celPlace(p.infos[e.at], located.NodeID()%celIDs)
	}
	return f
}

// celPlace says where in a text a node stands, "" where nobody knows.
func celPlace(info *celast.SourceInfo, node int64) string {
	start := info.GetStartLocation(node)
	if start.Line() <= 0 {
		return ""
	}
	return " at line " + strconv.Itoa(start.Line()) + ", column " + strconv.Itoa(start.Column()+1)
}

// celKinds are beginnings of cel-go's errors that say nothing of a value.
var celKinds = []string{"no such key", "no such overload", "index out of bounds", "divide by zero", "division by zero", "modulus by zero",
	"integer overflow", "unsigned integer overflow", "timestamp overflow", "duration overflow", "no such attribute", "not of the set's type"}

func celKind(err error) string {
	text := err.Error()
	for _, kind := range celKinds {
		if strings.HasPrefix(text, kind) {
			return kind
		}
	}
	return "evaluation failed"
}

func (p *celProgram) trace(s *Snapshot, in *Input) []Trace {
	matched, failure := p.run(s, in)
	reached := matched
	if failure != nil {
		reached = slices.IndexFunc(p.doc.Rules, func(r Rule) bool { return r.Label == failure.Rule })
	} else if matched < 0 {
		reached = len(p.doc.Rules)
	}
	traces := make([]Trace, len(p.doc.Rules))
	for i := range traces {
		t := &traces[i]
		t.Rule = p.doc.Rules[i].Label
		switch {
		case i < reached:
			t.Why = "did not match"
		case i > reached:
			t.Why = "not reached"
		case failure != nil:
			t.Why = failure.Error()
		default:
			t.Matched, t.Why = true, "matched"
		}
	}
	return traces
}
