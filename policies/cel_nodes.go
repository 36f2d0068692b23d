package policies

import (
	"math"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"

	"github.com/google/cel-go/common/functions"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"

	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// celPlanner replaces steps of a planned program by our own: the choice of the
// first rule, in_set, comparisons of texts without a detour through cel-go's
// values, and calls that have to be weighed before they are made.
type celPlanner struct {
	tracked bool // cel-go watches the steps: leave it the ones it knows
	envs    *celEnvs
}

func (p celPlanner) decorate(i interpreter.InterpretableV2) (_ interpreter.InterpretableV2, err error) {
	call, ok := i.(interpreter.InterpretableCall)
	if !ok {
		return i, nil
	}
	args := call.Args()
	switch f := call.Function(); f {
	case celFirst:
		return newCELChoice(call)
	case celInSet:
		name, ok := args[0].(interpreter.InterpretableConst)
		if !ok {
			return i, nil // refused before
		}
		s, _ := name.Value().(types.String)
		return &celMembership{InterpretableCall: call, name: string(s), value: args[1]}, nil
	case operators.Equals, operators.NotEquals:
		eq := &celEquality{InterpretableCall: call, lhs: args[0], rhs: args[1], negate: f == operators.NotEquals}
		if p.tracked {
			return eq, nil
		}
		a, okA := newCELOperand(args[0])
		b, okB := newCELOperand(args[1])
		if okA && okB {
			return &celTextEquality{celEquality: eq, a: a, b: b}, nil
		}
		return eq, nil
	case operators.In, operators.OldIn:
		if _, constant := args[1].(interpreter.InterpretableConst); constant {
			return i, nil
		}
		return p.weighed(call, weighSecond), nil
	default:
		weigh, ok := celWeights[f]
		if !ok {
			return i, nil
		}
		w := p.weighed(call, weigh)
		if weigh == nil { // a regex
			w.pattern = &celPattern{}
			if c, ok := args[1].(interpreter.InterpretableConst); ok {
				if s, ok := c.Value().(types.String); ok {
					if w.pattern, err = newCELPattern(string(s)); err != nil {
						return nil, err // refused before
					}
				}
			}
		}
		return w, nil
	}
}

// evaluationOf finds the evaluation that a step runs in.
func evaluationOf(frame *interpreter.ExecutionFrame) *celEvaluation {
	v, _ := frame.ResolveName(celSelf)
	return v.(*celEvaluation)
}

// celChoice runs the rules in order until one matches.
type celChoice struct {
	interpreter.InterpretableCall
	rules []interpreter.InterpretableV2
}

func newCELChoice(call interpreter.InterpretableCall) (interpreter.InterpretableV2, error) {
	c := &celChoice{InterpretableCall: call}
	switch list := call.Args()[0].(type) {
	case interpreter.InterpretableConstructor:
		c.rules = list.InitVals()
	case interpreter.InterpretableConst: // literals all of them
		values := list.Value().(traits.Lister)
		for i := types.Int(0); i < values.Size().(types.Int); i++ {
			c.rules = append(c.rules, interpreter.NewConstValue(list.ID(), values.Get(i)))
		}
	}
	return c, nil
}

func (c *celChoice) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	e := evaluationOf(frame)
	for i, rule := range c.rules {
		e.at = i
		v := rule.Exec(frame)
		if v == types.True {
			e.matched = true
			return v
		}
		if v != types.False {
			return types.ValOrErr(v, "no such overload")
		}
		if e.work > celMaxWork {
			return types.WrapErr(errCELCostly)
		}
	}
	return types.False
}

func (c *celChoice) Eval(vars interpreter.Activation) ref.Val {
	return c.Exec(interpreter.AsFrame(vars))
}

// celMembership is in_set.
type celMembership struct {
	interpreter.InterpretableCall
	name  string
	value interpreter.InterpretableV2
}

func (m *celMembership) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	v := m.value.Exec(frame)
	if types.IsUnknownOrError(v) {
		return v
	}
	set := evaluationOf(frame).snapshot.Set(m.name)
	if set == nil {
		return types.LabelErrNode(m.ID(), types.WrapErr(&celUnknownSet{m.name}))
	}
	var member, ok bool
	switch v := v.(type) {
	case types.String:
		member, ok = set.Contains(string(v))
	case types.Int:
		member, ok = set.ContainsInt(int64(v))
	case types.Uint:
		member, ok = containsUint(set, uint64(v))
	case types.Double:
		switch f := float64(v); {
		case f != math.Trunc(f): // NaN too
		case f >= -(1<<63) && f < 1<<63:
			member, ok = set.ContainsInt(int64(f))
		case f >= 1<<63 && f < 1<<64:
			member, ok = containsUint(set, uint64(f))
		}
	default:
		return types.NewErrWithNodeID(m.ID(), "no such overload: %s", celInSet)
	}
	if !ok {
		return types.NewErrWithNodeID(m.ID(), "not of the set's type")
	}
	return types.Bool(member)
}

func containsUint(set *Set, n uint64) (member, ok bool) {
	if n <= math.MaxInt64 {
		return set.ContainsInt(int64(n))
	}
	return set.Contains(strconv.FormatUint(n, 10))
}

func (m *celMembership) Eval(vars interpreter.Activation) ref.Val {
	return m.Exec(interpreter.AsFrame(vars))
}

// celEquality is == and !=, which weigh what is not a single value: lists that
// share their parts can be small in memory and endless to compare.
type celEquality struct {
	interpreter.InterpretableCall
	lhs, rhs interpreter.InterpretableV2
	negate   bool
}

func (q *celEquality) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	l := q.lhs.Exec(frame)
	if types.IsUnknownOrError(l) {
		return l
	}
	r := q.rhs.Exec(frame)
	if types.IsUnknownOrError(r) {
		return r
	}
	if !celSingle(l) && !celSingle(r) && !evaluationOf(frame).weigh(l) {
		return types.LabelErrNode(q.ID(), types.WrapErr(errCELCostly))
	}
	equal := types.Equal(l, r)
	if q.negate {
		return types.Bool(equal != types.True)
	}
	return equal
}

func (q *celEquality) Eval(vars interpreter.Activation) ref.Val {
	return q.Exec(interpreter.AsFrame(vars))
}

// celSingle reports whether a value has no parts.
func celSingle(v ref.Val) bool {
	switch v.(type) {
	case types.String, types.Bool, types.Int, types.Uint, types.Double, types.Null, types.Bytes, types.Timestamp, types.Duration:
		return true
	default:
		return false
	}
}

// celOperand is a text literal, or a member of the question by its path.
type celOperand struct {
	root    string
	path    []string
	literal string
}

// newCELOperand reads an operand off a planned step.
func newCELOperand(i interpreter.InterpretableV2) (o celOperand, ok bool) {
	if c, constant := i.(interpreter.InterpretableConst); constant {
		s, ok := c.Value().(types.String)
		return celOperand{literal: string(s)}, ok
	}
	a, ok := i.(interpreter.InterpretableAttribute)
	if !ok || a.IsOptional() {
		return o, false
	}
	attr, ok := a.Attr().(interpreter.NamespacedAttribute)
	if !ok || len(attr.CandidateVariableNames()) != 1 || len(attr.Qualifiers()) == 0 {
		return o, false
	}
	o.root = attr.CandidateVariableNames()[0]
	for _, q := range attr.Qualifiers() {
		c, ok := q.(interpreter.ConstantQualifier)
		if !ok || q.IsOptional() {
			return o, false
		}
		name, ok := c.Value().(types.String)
		if !ok {
			return o, false
		}
		o.path = append(o.path, string(name))
	}
	return o, true
}

// text is the operand's text in this evaluation; ok is false where there is no
// such text.
func (o *celOperand) text(frame *interpreter.ExecutionFrame) (text string, ok bool) {
	if o.root == "" {
		return o.literal, true
	}
	v, _ := frame.ResolveName(o.root) // a macro's variable may bear the name
	m, ok := v.(*celObject)
	if !ok {
		return "", false
	}
	return m.members.text(o.path)
}

// celTextEquality compares two texts where they lie. What is not a text goes
// the long way, with all its errors.
type celTextEquality struct {
	*celEquality
	a, b celOperand
}

func (q *celTextEquality) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	if a, ok := q.a.text(frame); ok {
		if b, ok := q.b.text(frame); ok {
			return types.Bool((a == b) != q.negate)
		}
	}
	return q.celEquality.Exec(frame)
}

func (q *celTextEquality) Eval(vars interpreter.Activation) ref.Val {
	return q.Exec(interpreter.AsFrame(vars))
}

// celWeighed is a call whose work is not bounded by what cel-go counts before
// it is done: it is weighed first, and not made when it is too much.
type celWeighed struct {
	interpreter.InterpretableCall
	args     []interpreter.InterpretableV2
	overload *functions.Overload
	weigh    func(e *celEvaluation, args []ref.Val) bool
	pattern  *celPattern // of a regex
}

func (p celPlanner) weighed(call interpreter.InterpretableCall, weigh func(*celEvaluation, []ref.Val) bool) *celWeighed {
	o := p.envs.overloads[call.OverloadID()]
	if o == nil {
		o = p.envs.overloads[call.Function()]
	}
	return &celWeighed{InterpretableCall: call, args: call.Args(), overload: o, weigh: weigh}
}

func (w *celWeighed) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	var room [4]ref.Val
	args := room[:0]
	for _, a := range w.args {
		v := a.Exec(frame)
		if types.IsUnknownOrError(v) {
			return v
		}
		args = append(args, v)
	}
	e := evaluationOf(frame)
	if w.pattern != nil {
		return types.LabelErrNode(w.ID(), w.match(e, args))
	}
	if !w.weigh(e, args) {
		return types.LabelErrNode(w.ID(), types.WrapErr(errCELCostly))
	}
	return types.LabelErrNode(w.ID(), w.call(args))
}

func (w *celWeighed) call(args []ref.Val) ref.Val {
	o := w.overload
	if o == nil || o.OperandTrait != 0 && !args[0].Type().HasTrait(o.OperandTrait) {
		return types.NewErr("no such overload: %s", w.Function())
	}
	switch {
	case len(args) == 1 && o.Unary != nil:
		return o.Unary(args[0])
	case len(args) == 2 && o.Binary != nil:
		return o.Binary(args[0], args[1])
	case o.Function != nil:
		return o.Function(append([]ref.Val(nil), args...)...)
	}
	return types.NewErr("no such overload: %s", w.Function())
}

func (w *celWeighed) Eval(vars interpreter.Activation) ref.Val {
	return w.Exec(interpreter.AsFrame(vars))
}

// celMatches is what a weighed call of matches calls itself, so that cel-go
// does not take it for its own and run it unweighed.
const celMatches = "latchkey matches"

// Function is the function's name.
func (w *celWeighed) Function() string {
	if name := w.InterpretableCall.Function(); name != "matches" {
		return name
	}
	return celMatches
}

// OverloadID is the name of the overload that was chosen for its arguments.
func (w *celWeighed) OverloadID() string {
	if w.Function() == celMatches {
		return celMatches
	}
	return w.InterpretableCall.OverloadID()
}

// celPattern is a compiled pattern; the zero one is not known before.
type celPattern struct {
	re   *regexp.Regexp
	size int
}

func newCELPattern(pattern string) (*celPattern, error) {
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, err
	}
	// Repetitions are written out: cel-go's own count of the program's size
	// does without, and panics over any of them.
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, err
	}
	re, err := regexp.Compile(pattern)
	return &celPattern{re: re, size: len(program.Inst)}, err
}

// match runs a regex over a text. RE2 takes time in the product of the text's
// length and the program's, and a short pattern may be a long program.
func (w *celWeighed) match(e *celEvaluation, args []ref.Val) ref.Val {
	text, ok := args[0].(types.String)
	pattern, isText := args[1].(types.String)
	if !ok || !isText {
		return types.NewErr("no such overload: %s", w.Function())
	}
	p := w.pattern
	if p.re == nil {
		if len(pattern) > celMaxPattern || !e.charge(len(pattern)*16) {
			e.work = celMaxWork + 1
			return types.WrapErr(errCELCostly)
		}
		var err error
		if p, err = newCELPattern(string(pattern)); err != nil {
			return types.NewErr("invalid pattern")
		}
	}
	if p.size > celMaxRegex || !e.charge((len(text)+1)*p.size/4+p.size) {
		e.work = celMaxWork + 1
		return types.WrapErr(errCELCostly)
	}
	if w.Function() == celMatches {
		return types.Bool(p.re.MatchString(string(text)))
	}
	if len(args) > 2 { // regex.replace: every match, the empty ones too, may grow
		if replacement, ok := args[2].(types.String); ok && !e.charge((len(text)+1)*(len(replacement)+1)/16) {
			return types.WrapErr(errCELCostly)
		}
	}
	return w.call(args)
}

// celWeights are the functions that are weighed; those without a weight are
// regexes. The rest is linear in values that are there already, which the
// bound of the policy's cost covers.
var celWeights = map[string]func(*celEvaluation, []ref.Val) bool{
	"matches":               nil,
	"regex.extract":         nil,
	"regex.extractAll":      nil,
	"regex.replace":         nil,
	"sets.contains":         weighPairs,
	"sets.equivalent":       weighPairs,
	"sets.intersects":       weighPairs,
	"distinct":              weighSelf,
	"sort":                  weighSort,
	"@sortByAssociatedKeys": weighSort,
	"flatten":               weighAll,
	"format":                weighAll,
	"join":                  weighJoin,
	"replace":               weighReplace,
	"split":                 weighAll,
	"indexOf":               weighSearch,
	"lastIndexOf":           weighSearch,
	"contains":              weighAll,
	operators.Add:           weighAdd,
}

func weighSecond(e *celEvaluation, args []ref.Val) bool {
	return celSingle(args[0]) && celIsMap(args[1]) || e.weigh(args[1])
}

func celIsMap(v ref.Val) bool { _, ok := v.(traits.Mapper); return ok }

func weighAll(e *celEvaluation, args []ref.Val) bool {
	for _, a := range args {
		if !e.weigh(a) {
			return false
		}
	}
	return true
}

// weighPairs is for what compares every element with every other: a sixteenth
// of their weight for each.
func weighPairs(e *celEvaluation, args []ref.Val) bool {
	a, b := e.weight(args[0]), e.weight(args[1])
	return e.charge(a) && e.charge(b) && e.charge(celTimes(a/16+1, celSize(args[1]))) && e.charge(celTimes(b/16+1, celSize(args[0])))
}

func weighSelf(e *celEvaluation, args []ref.Val) bool {
	a := e.weight(args[0])
	return e.charge(a) && e.charge(celTimes(a/16+1, celSize(args[0])))
}

func weighSort(e *celEvaluation, args []ref.Val) bool {
	return e.charge(celTimes(e.weight(args[0]), 2))
}

func weighJoin(e *celEvaluation, args []ref.Val) bool {
	separator := 0
	if len(args) > 1 {
		separator = celSize(args[1])/16 + 1
	}
	return e.weigh(args[0]) && e.charge(celTimes(celSize(args[0]), separator))
}

func weighReplace(e *celEvaluation, args []ref.Val) bool {
	text, ok1 := args[0].(types.String)
	old, ok2 := args[1].(types.String)
	replacement, ok3 := args[2].(types.String)
	if !ok1 || !ok2 || !ok3 {
		return true // an error
	}
	return e.charge(len(text)/16+1) && e.charge(celTimes(strings.Count(string(text), string(old)), len(replacement)/16+1))
}

func weighSearch(e *celEvaluation, args []ref.Val) bool {
	text, ok1 := args[0].(types.String)
	part, ok2 := args[1].(types.String)
	return !ok1 || !ok2 || e.charge(celTimes(len(text)+1, len(part)/16+1))
}

func weighAdd(e *celEvaluation, args []ref.Val) bool {
	switch a := args[0].(type) {
	case types.String:
		if b, ok := args[1].(types.String); ok {
			return e.charge((len(a) + len(b)) / 16)
		}
	case types.Bytes:
		if b, ok := args[1].(types.Bytes); ok {
			return e.charge((len(a) + len(b)) / 16)
		}
	case traits.Lister: // cheap itself, but the sum may be doubled again and again
		return e.charge(celSize(args[0])) && e.charge(celSize(args[1]))
	}
	return true
}

// celSize is size() of a text or a list, 1 of what has none.
func celSize(v ref.Val) int {
	switch v := v.(type) {
	case types.String:
		return len(v)
	case traits.Sizer:
		if n, ok := v.Size().(types.Int); ok {
			return int(min(n, celMaxWork+1))
		}
	}
	return 1
}

// celTimes multiplies without overflow.
func celTimes(a, b int) int {
	if a != 0 && b > (celMaxWork+1)/a {
		return celMaxWork + 1
	}
	return a * b
}

var _ = strictjson.Missing
