package policies

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	cost "github.com/google/cel-go/checker"
	"github.com/google/cel-go/common"
	celast "github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/functions"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/ext"

	"github.com/latchkey-dev/latchkey"
)

// Bounds of one rule's text.
const (
	celMaxDepth   = 100     // of brackets and macros within one another
	celMaxNesting = 8       // of macros' loops within and after one another
	celMaxCalls   = 1000    // operators and calls: checking takes the square of them
	celMaxRegex   = 4096    // instructions of a compiled pattern
	celMaxPattern = 256     // bytes of a pattern that is no literal
	celMaxRange   = 100_000 // of lists.range
	celFirst      = "latchkey_first_"
	celInSet      = "in_set"
)

// celEnvs are the two environments: rules are compiled in one that lacks the
// function which the other has to put them together.
type celEnvs struct {
	one, all  *cel.Env
	variables []string
	overloads map[string]*functions.Overload
}

var celEnvironments = sync.OnceValues(func() (*celEnvs, error) {
	object := cel.MapType(cel.StringType, cel.DynType)
	one, err := cel.NewEnv(append(celOptions(),
		cel.Variable("subject", object),
		cel.Variable("action", object),
		cel.Variable("resource", object),
		cel.Variable("context", object),
		cel.Variable("scope_permits", cel.BoolType),
		cel.Variable("grants", cel.ListType(object)),
		cel.Variable("now", cel.TimestampType),
		cel.Function(celInSet,
			cel.Overload("in_set_string", []*cel.Type{cel.StringType, cel.StringType}, cel.BoolType),
			cel.Overload("in_set_int", []*cel.Type{cel.StringType, cel.IntType}, cel.BoolType),
			cel.Overload("in_set_uint", []*cel.Type{cel.StringType, cel.UintType}, cel.BoolType),
			cel.Overload("in_set_double", []*cel.Type{cel.StringType, cel.DoubleType}, cel.BoolType),
		),
	)...)
	if err != nil {
		return nil, err
	}
	all, err := one.Extend(
		cel.Function(celFirst, cel.Overload(celFirst, []*cel.Type{cel.ListType(cel.BoolType)}, cel.BoolType)),
	)
	if err != nil {
		return nil, err
	}
	return newCELEnvs(one, all, celVariables)
})

// celOptions are what expressions of every sort may use.
func celOptions() []cel.EnvOption {
	return []cel.EnvOption{
		cel.OptionalTypes(),
		ext.Strings(),
		ext.Lists(ext.ListsMaxRangeSize(celMaxRange)),
		ext.Sets(),
		ext.Regex(),
		ext.Network(),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
		cel.EagerlyValidateDeclarations(true),
		cel.ParserExpressionSizeLimit(MaxDocument),
		cel.ParserRecursionLimit(celMaxDepth),
		cel.ASTValidators(
			cel.ValidateDurationLiterals(),
			cel.ValidateTimestampLiterals(),
		),
	}
}

func newCELEnvs(one, all *cel.Env, variables []string) (*celEnvs, error) {
	e := &celEnvs{one: one, all: all, variables: variables, overloads: map[string]*functions.Overload{}}
	for _, f := range all.Functions() {
		bindings, err := f.Bindings()
		if err != nil {
			return nil, err
		}
		for _, o := range bindings {
			e.overloads[o.Operator] = o
		}
	}
	return e, nil
}

// celCompiler compiles rules alone and gathers what is wrong and what is read.
type celCompiler struct {
	envs *celEnvs
	// dynamic lets an expression pass whose type nobody knows before it runs.
	dynamic bool
	asts    []*cel.Ast
	faults  []latchkey.Fault
	reads   celReads
}

func (c *celCompiler) fault(pointer, code, detail string, at common.Location) {
	f := latchkey.Fault{Pointer: pointer, Code: code, Detail: detail}
	if at != nil && at.Line() > 0 {
		f.Line, f.Column = at.Line(), at.Column()+1
	}
	c.faults = append(c.faults, f)
}

func (c *celCompiler) rule(pointer, text string) {
	ast, issues := c.envs.one.Parse(text)
	if issues.Err() == nil {
		// Before types are inferred: the type of loops within loops may be huge.
		if at := celTooNested(ast.NativeRep().Expr(), 0); at != 0 {
			c.fault(pointer, "too_complex", "more than "+strconv.Itoa(celMaxNesting)+" macros are nested or chained", ast.NativeRep().SourceInfo().GetStartLocation(at))
			return
		}
		if celCalls(ast.NativeRep().Expr()) > celMaxCalls {
			c.fault(pointer, "too_complex", "more than "+strconv.Itoa(celMaxCalls)+" operators and calls in one rule", nil)
			return
		}
		ast, issues = c.envs.one.Check(ast)
	}
	if issues.Err() != nil {
		for _, e := range issues.Errors() {
			// Rules have no container; that they have none is of no use to an author.
			c.fault(pointer, "invalid_expression", strings.TrimSuffix(e.Message, " (in container '')"), e.Location)
		}
		if len(issues.Errors()) == 0 {
			c.fault(pointer, "invalid_expression", issues.Err().Error(), nil)
		}
		return
	}
	info := ast.NativeRep().SourceInfo()
	root := ast.NativeRep().Expr()
	if t := ast.OutputType(); !t.IsExactType(cel.BoolType) && (!c.dynamic || !t.IsExactType(cel.DynType)) {
		detail := "the expression is of type " + t.String() + ", want bool"
		if t.IsExactType(cel.DynType) {
			detail = "the expression may be of any type; write == true"
		}
		c.fault(pointer, "not_bool", detail, info.GetStartLocation(root.ID()))
	}
	celast.PostOrderVisit(root, celast.NewExprVisitor(func(e celast.Expr) {
		if e.Kind() == celast.ComprehensionKind {
			loop := e.AsComprehension()
			for _, name := range []string{loop.IterVar(), loop.IterVar2(), loop.AccuVar()} {
				if slices.Contains(c.envs.variables, name) {
					c.fault(pointer, "shadowed_variable", "a macro's variable must not be called "+name, info.GetStartLocation(e.ID()))
				}
			}
		}
		if e.Kind() != celast.CallKind {
			return
		}
		if literal, text, ok := celPatternOf(e); ok {
			switch p, err := newCELPattern(text); {
			case err != nil:
				c.fault(pointer, "invalid_regex", err.Error(), info.GetStartLocation(literal.ID()))
			case p.size > celMaxRegex:
				c.fault(pointer, "invalid_regex", "the pattern is too large once its repetitions are written out", info.GetStartLocation(literal.ID()))
			}
		}
		if e.AsCall().FunctionName() != celInSet {
			return
		}
		name := e.AsCall().Args()[0]
		if text, ok := celText(name); ok {
			at := info.GetStartLocation(name.ID())
			c.reads.set(text, place{pointer, at.Line(), at.Column() + 1})
		} else {
			c.fault(pointer, "set_name_not_literal", "the name of a set must be a string literal", info.GetStartLocation(name.ID()))
		}
	}))
	c.reads.of(root)
	c.asts = append(c.asts, ast)
}

// celTooNested finds an expression in which too many loops are nested, by its
// id; 0 is none.
func celTooNested(e celast.Expr, loops int) int64 {
	if e.Kind() == celast.ComprehensionKind {
		if loops++; loops > celMaxNesting {
			return e.ID()
		}
	}
	for _, part := range celParts(e) {
		if at := celTooNested(part, loops); at != 0 {
			return at
		}
	}
	return 0
}

// celCalls counts an expression's operators and calls.
func celCalls(e celast.Expr) (n int) {
	if e.Kind() == celast.CallKind {
		n++
	}
	for _, part := range celParts(e) {
		n += celCalls(part)
	}
	return n
}

// celParts lists the expressions that an expression consists of.
func celParts(e celast.Expr) (parts []celast.Expr) {
	switch e.Kind() {
	case celast.SelectKind:
		parts = append(parts, e.AsSelect().Operand())
	case celast.CallKind:
		if call := e.AsCall(); call.IsMemberFunction() {
			parts = append(parts, call.Target())
		}
		parts = append(parts, e.AsCall().Args()...)
	case celast.ListKind:
		parts = e.AsList().Elements()
	case celast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			parts = append(parts, entry.AsMapEntry().Key(), entry.AsMapEntry().Value())
		}
	case celast.StructKind:
		for _, field := range e.AsStruct().Fields() {
			parts = append(parts, field.AsStructField().Value())
		}
	case celast.ComprehensionKind:
		loop := e.AsComprehension()
		parts = append(parts, loop.IterRange(), loop.AccuInit(), loop.LoopCondition(), loop.LoopStep(), loop.Result())
	default: // a name or a literal
	}
	return parts
}

// celPatternOf finds the literal pattern of a call that takes one.
func celPatternOf(e celast.Expr) (celast.Expr, string, bool) {
	args := celParts(e)
	if weigh, known := celWeights[e.AsCall().FunctionName()]; !known || weigh != nil || len(args) < 2 {
		return nil, "", false
	}
	text, ok := celText(args[1])
	return args[1], text, ok
}

// celText reads a string literal.
func celText(e celast.Expr) (string, bool) {
	if e.Kind() != celast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

// celVariables are the names of a question's parts. Nothing within a rule may
// take one of them for itself, so that a name says all.
var celVariables = []string{"subject", "action", "resource", "context", "scope_permits", "grants", "now"}

// celReads gathers what rules may look at.
type celReads struct {
	reads Reads
	sets  map[string]place // where each is read first
	// onCall are the providers that a condition reads, "" where it reads them all.
	onCall []string
}

func (r *celReads) done() Reads {
	r.reads.Sets = slices.Sorted(maps.Keys(r.sets))
	return r.reads
}

func (r *celReads) set(name string, at place) {
	if r.sets == nil {
		r.sets = map[string]place{}
	}
	if _, earlier := r.sets[name]; !earlier {
		r.sets[name] = at
	}
}

// of walks an expression.
func (r *celReads) of(e celast.Expr) {
	if path, ok := celPath(e); ok {
		r.path(path)
		return
	}
	for _, part := range celParts(e) {
		r.of(part)
	}
}

func (r *celReads) path(path []string) {
	switch path[0] {
	case "now":
		r.reads.Time = true
	case "grants":
		r.reads.Grants = true
	case "oncall":
		r.onCall = append(r.onCall, append(path, "")[1])
	case "subject", "resource":
		if len(path) > 1 && path[1] != "properties" {
			return
		}
		if path[0] == "resource" {
			r.reads.ResourceProperties = true
			return
		}
		r.reads.SubjectProperties = true
		if len(path) < 3 || path[2] == "metadata" {
			r.reads.Metadata = true
		}
	}
}

// celPath reads a variable and the members that are selected from it by name:
// a.b, a["b"], a.?b and has(a.b) alike.
func celPath(e celast.Expr) ([]string, bool) {
	switch e.Kind() {
	case celast.IdentKind:
		return []string{strings.TrimPrefix(e.AsIdent(), ".")}, true
	case celast.SelectKind:
		path, ok := celPath(e.AsSelect().Operand())
		return append(path, e.AsSelect().FieldName()), ok
	case celast.CallKind:
		call := e.AsCall()
		switch call.FunctionName() {
		case operators.Index, operators.OptIndex, operators.OptSelect:
			if name, ok := celText(call.Args()[1]); ok {
				path, ok := celPath(call.Args()[0])
				return append(path, name), ok
			}
		}
	default: // no name that is known
	}
	return nil, false
}

// celSizes estimates the sizes that a policy does not tell.
type celSizes uint64

func (n celSizes) EstimateSize(cost.AstNode) *cost.SizeEstimate {
	return &cost.SizeEstimate{Max: uint64(n)}
}

func (celSizes) EstimateCallCost(function, _ string, _ *cost.AstNode, _ []cost.AstNode) *cost.CallEstimate {
	if function != celInSet {
		return nil
	}
	return &cost.CallEstimate{CostEstimate: cost.FixedCostEstimate(celInSetCost)}
}

const celInSetCost = 20

// celCosts counts what calls cost at run time where cel-go does not know.
type celCosts struct{}

func (celCosts) CallCost(function, _ string, args []ref.Val, _ ref.Val) *uint64 {
	units := uint64(celInSetCost)
	switch function {
	case celInSet:
	case celMatches: // as cel-go counts it
		units = uint64(celSize(args[0])/10+1) * uint64(celSize(args[1])/4+1)
	default:
		return nil
	}
	return &units
}

// celUnknownSet is a set that is not there any more.
type celUnknownSet struct{ name string }

func (e *celUnknownSet) Error() string { return "unknown set " + e.name }

var errCELCostly = errors.New("too costly")
