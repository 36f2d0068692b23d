package policies

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	celast "github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/interpreter"

	"github.com/latchkey-dev/latchkey"
)

// MaxCondition is the greatest length of a condition in bytes.
const MaxCondition = 8192

// conditionVariables are the names of a condition's facts.
var conditionVariables = []string{"requester", "beneficiary", "resource", "resources", "request", "oncall", "now"}

// conditionMembers are the members of the facts that have the same ones always:
// of a path, by names and dots. What else is selected is found in none.
var conditionMembers = map[string][]string{
	"requester":      {"id", "username", "email", "name", "type"},
	"beneficiary":    {"id", "username", "email", "name", "type"},
	"resource":       {"kind", "id", "display_name", "labels"},
	"request":        {"template_id", "template_name", "app_id", "app_name", "assignment_type", "requested_duration_mins", "window", "justification", "custom_answers"},
	"request.window": {"start", "end"},
	"oncall.*":       {"active", "roles", "schedules", "evidence"}, // of each provider
}

var conditionEnvironment = sync.OnceValues(func() (*celEnvs, error) {
	options := append(celOptions(), cel.Variable("now", cel.TimestampType))
	object := cel.MapType(cel.StringType, cel.DynType)
	for _, name := range conditionVariables {
		switch name {
		case "now":
		case "resources":
			options = append(options, cel.Variable(name, cel.ListType(object)))
		default:
			options = append(options, cel.Variable(name, object))
		}
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		return nil, err
	}
	return newCELEnvs(env, env, conditionVariables)
})

// Condition is one CEL expression that says whether a request for access may be
// approved by itself. Immutable and safe for concurrent use.
type Condition struct {
	program cel.Program
	info    *celast.SourceInfo
	onCall  []string
}

// OnCall returns the names of the providers that the condition reads, and whether
// it may read any, whatever it is called.
func (c *Condition) OnCall() (names []string, any bool) {
	names = slices.DeleteFunc(slices.Clone(c.onCall), func(name string) bool { return name == "" })
	slices.Sort(names)
	return slices.Compact(names), slices.Contains(c.onCall, "")
}

// Facts are what a condition is asked of. Values are what JSON knows, as Go has
// it: maps by string, lists, strings, bools, int64 and float64.
type Facts struct {
	Requester, Beneficiary map[string]any
	Resource               map[string]any
	Resources              []any
	Request                map[string]any
	// OnCall is by provider. One that could not tell must be missing: then whatever
	// reads it fails, a negation too.
	OnCall map[string]any
	Now    latchkey.Instant
}

// CompileCondition compiles an expression that is a bool, or may be, over requester,
// beneficiary, resource, resources, request, oncall and now. pointer says where the text
// stands in the caller's document. Errors are Invalid, with a fault for each
// thing that is wrong; that the static bound of its cost is too high is one.
func CompileCondition(pointer, text string) (_ *Condition, err error) {
	fault := func(code, detail string) error {
		return latchkey.InvalidFaults(latchkey.Fault{Pointer: pointer, Code: code, Detail: detail})
	}
	defer func() {
		// Whatever the compiler does with a hostile text, it is the text's fault.
		if r := recover(); r != nil {
			err = fault("invalid_expression", "the compiler gave up on the condition")
		}
	}()
	if text == "" || len(text) > MaxCondition {
		return nil, fault("invalid_expression", "want an expression of at most "+strconv.Itoa(MaxCondition)+" bytes")
	}
	envs, err := conditionEnvironment()
	if err != nil {
		return nil, err
	}
	c := &celCompiler{envs: envs, dynamic: true}
	c.rule(pointer, text)
	if len(c.faults) == 0 {
		c.members(pointer, c.asts[0].NativeRep().Expr())
	}
	if len(c.faults) > 0 {
		return nil, latchkey.InvalidFaults(c.faults[:min(len(c.faults), celFaults)]...)
	}
	ast := c.asts[0]
	bound, err := envs.one.EstimateCost(ast, celSizes(celTypical))
	if err != nil {
		return nil, latchkey.Errorf(latchkey.Internal, "internal", "estimating the cost failed").Because(err)
	}
	if bound.Max > celCeiling {
		return nil, fault("policy_too_costly", "with values of size "+strconv.Itoa(celTypical)+" the condition may take more than "+strconv.Itoa(celCeiling)+" steps")
	}
	program, err := envs.one.PlanProgram(ast.NativeRep(), cel.EvalOptions(cel.OptOptimize),
		cel.CustomDecoratorV2(celPlanner{tracked: true, envs: envs}.decorate),
		cel.CostLimit(celUntracked), cel.CostTracking(celCosts{}), cel.InterruptCheckFrequency(16))
	if err != nil {
		return nil, latchkey.InvalidFaults(latchkey.Fault{Pointer: pointer, Code: "invalid_expression", Detail: "the condition cannot be planned"}).Because(err)
	}
	return &Condition{program: program, info: ast.NativeRep().SourceInfo(), onCall: c.reads.onCall}, nil
}

// members refuses members that no fact has: a condition that is misspelt would
// never hold, and nobody would be told.
func (c *celCompiler) members(pointer string, e celast.Expr) {
	path, ok := celPath(e)
	if !ok {
		for _, part := range celParts(e) {
			c.members(pointer, part)
		}
		return
	}
	for i, name := range path[1:] {
		of := strings.Join(path[:i+1], ".")
		if i == 1 && path[0] == "oncall" {
			of = "oncall.*"
		}
		if known := conditionMembers[of]; known != nil && !slices.Contains(known, name) {
			c.fault(pointer, "unknown_member", strings.Join(path[:i+1], ".")+" has no "+strconv.Quote(name)+"; it has "+strings.Join(known, ", "),
				c.asts[0].NativeRep().SourceInfo().GetStartLocation(e.ID()))
			return
		}
	}
}

// Holds reports whether the condition is true of the facts. An error, an
// *EvaluationError, says that nobody can tell; it quotes none of the facts.
func (c *Condition) Holds(facts *Facts) (holds bool, err error) {
	e := &conditionEvaluation{facts: facts}
	ctx, cancel := context.WithTimeout(context.Background(), celDeadline)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			holds, err = false, &EvaluationError{Failure: Failed, Detail: "evaluation failed"}
		}
	}()
	v, _, err := c.program.ContextEval(ctx, e)
	if err != nil || e.work.work > celMaxWork {
		return false, c.failed(e, err)
	}
	if truth, ok := v.(types.Bool); ok {
		return bool(truth), nil
	}
	return false, &EvaluationError{Failure: Failed, Detail: "the condition is no bool"}
}

func (c *Condition) failed(e *conditionEvaluation, err error) *EvaluationError {
	f := &EvaluationError{Failure: Failed}
	var cancelled interpreter.EvalCancelledError
	switch {
	case errors.Is(err, interpreter.InterruptError{}):
		f.Failure, f.Detail = Deadline, "took longer than "+celDeadline.String()
		return f
	case e.work.work > celMaxWork, errors.As(err, &cancelled):
		f.Failure, f.Detail = TooCostly, "took more than it may"
		return f
	}
	f.Detail = celKind(err)
	var located *types.Err
	if errors.As(err, &located) {
		f.Detail += celPlace(c.info, located.NodeID())
	}
	return f
}

// conditionEvaluation finds what the names stand for, and counts the work of
// calls that are weighed.
type conditionEvaluation struct {
	facts *Facts
	work  celEvaluation
}

// ResolveName implements cel.Activation.
func (e *conditionEvaluation) ResolveName(name string) (any, bool) {
	object := func(m map[string]any) (any, bool) {
		if m == nil {
			m = map[string]any{}
		}
		return types.DefaultTypeAdapter.NativeToValue(m), true
	}
	switch name {
	case "requester":
		return object(e.facts.Requester)
	case "beneficiary":
		return object(e.facts.Beneficiary)
	case "resource":
		return object(e.facts.Resource)
	case "request":
		return object(e.facts.Request)
	case "oncall":
		return object(e.facts.OnCall)
	case "resources":
		return types.DefaultTypeAdapter.NativeToValue(append([]any{}, e.facts.Resources...)), true
	case "now":
		return celTime(e.facts.Now), true
	case celSelf:
		return &e.work, true
	}
	return nil, false
}

// Parent implements cel.Activation.
func (e *conditionEvaluation) Parent() cel.Activation { return nil }
