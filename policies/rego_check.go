package policies

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/latchkey-dev/latchkey"
)

const (
	// policyFile is what a policy's module is called among the library's.
	policyFile = "policy.rego"
	// What compiles a module is recursive, takes the square of the number of
	// its rules and expressions, and a power of how deep comprehensions stand in
	// one another.
	maxRegoDepth    = 200
	maxRegoRules    = 1000
	maxRegoExprs    = 4000 // expressions and calls
	maxRegoClosures = 8
	// maxRegoShapes bounds the types that are inferred: those of values put
	// together from values are trees, however much the values share.
	maxRegoShapes = 4096
	// maxRegoOrder bounds the work of putting bodies in order, in steps of about
	// 50 ns. A body whose statements stand in the wrong order is gone through as
	// often as it has statements, each time with all bodies within it, and each
	// look at a statement takes a step for every variable that is known.
	maxRegoOrder     = 30_000_000
	regoOrderClosure = 20 // of a body within another, beside its statements
)

// checker gathers what is wrong with a module.
type checker struct {
	faults   []latchkey.Fault
	exprs    int // and calls
	closures int // that the walk is in
	shapes   int // leaves that a value could have, put together from all composites
}

func (c *checker) fault(at *ast.Location, code, detail string) {
	f := latchkey.Fault{Pointer: "/rego", Code: code, Detail: detail}
	if at != nil {
		f.Line, f.Column = at.Row, at.Col
		f.Detail = "line " + strconv.Itoa(at.Row) + ", column " + strconv.Itoa(at.Col) + ": " + detail
	}
	if len(c.faults) < 20 && !slices.Contains(c.faults, f) {
		c.faults = append(c.faults, f)
	}
}

func (c *checker) err() error {
	if len(c.faults) == 0 {
		return nil
	}
	return latchkey.InvalidFaults(c.faults...)
}

// regoFaults turns what OPA found into faults.
func regoFaults(err error) error {
	var c checker
	if list, ok := errors.AsType[ast.Errors](err); ok {
		for _, e := range list {
			c.fault(e.Location, e.Code, clip(e.Message))
		}
	} else if e, ok := errors.AsType[*ast.Error](err); ok {
		c.fault(e.Location, e.Code, clip(e.Message))
	} else {
		c.fault(nil, ast.ParseErr, clip(err.Error()))
	}
	return c.err()
}

func clip(text string) string {
	if len(text) > 500 {
		return text[:500] + "…"
	}
	return text
}

// ownPackage is data.policies["name"].
func ownPackage(name string) ast.Ref {
	return ast.Ref{ast.DefaultRootDocument, ast.StringTerm("policies"), ast.StringTerm(name)}
}

// library is where references to the library begin.
var library = ast.Ref{ast.DefaultRootDocument, ast.StringTerm("latchkey")}

// inSet is the library's function over setMember.
var inSet = ast.Ref{ast.DefaultRootDocument, ast.StringTerm("latchkey"), ast.StringTerm("in_set")}

// parseRego parses a document's module and checks what can be seen in the
// source. It names the rule that holds the result, and says whether inferring
// types is bounded.
func parseRego(d *Document) (_ *ast.Module, result string, typed bool, _ error) {
	options := ast.ParserOptions{RegoVersion: ast.RegoV1}
	if err := shallow(d.Rego); err != nil {
		return nil, "", false, err
	}
	module, err := ast.ParseModuleWithOpts(policyFile, d.Rego, options)
	if err != nil {
		return nil, "", false, regoFaults(err)
	}
	var c checker
	own := ownPackage(d.Name)
	if !module.Package.Path.Equal(own) {
		c.fault(module.Package.Location, "wrong_package", "the package must be "+own.String()[len("data."):])
	}
	for _, i := range module.Imports {
		if ref, ok := i.Path.Value.(ast.Ref); ok {
			c.reference(i.Location, ref, own)
		}
	}
	c.walk(module, own)
	result = c.result(module)
	if err := c.err(); err != nil {
		return nil, "", false, err
	}
	return module, result, c.shapes <= maxRegoShapes, nil
}

// shallow refuses source that nests deeper than recursion should go.
func shallow(source string) error {
	_, _, errs := ast.NewParser().WithFilename(policyFile).WithReader(strings.NewReader(source)).
		WithMaxRecursionDepth(maxRegoDepth).Parse()
	if len(errs) > 0 && slices.ContainsFunc(errs, func(e *ast.Error) bool { return e.Message == ast.ErrMaxParsingRecursionDepthExceeded.Error() }) {
		var c checker
		c.fault(errs[0].Location, "too_deep", "nested deeper than "+strconv.Itoa(maxRegoDepth))
		return c.err()
	}
	return nil
}

// reference refuses what leaves the own package and the library.
func (c *checker) reference(at *ast.Location, ref, own ast.Ref) {
	if !ref[0].Equal(ast.DefaultRootDocument) || ref.HasPrefix(own) {
		return
	}
	if ref.HasPrefix(library) && (len(ref) == len(library) || isString(ref[len(library)])) {
		return
	}
	if at == nil {
		at = ref[0].Location
	}
	c.fault(at, "forbidden_reference", "a policy refers to its own package and to data.latchkey alone")
}

func isString(t *ast.Term) bool {
	_, ok := t.Value.(ast.String)
	return ok
}

// walk checks references, with and calls in rules.
func (c *checker) walk(module *ast.Module, own ast.Ref) {
	at := module.Package.Location
	var visitor *ast.GenericVisitor
	visitor = ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Expr:
			at = or(x.Location, at)
			c.exprs++
		case ast.Call:
			c.exprs++
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension, *ast.Every, *ast.Not, *ast.LogicalAnd, *ast.LogicalOr:
			if c.closures++; c.closures <= maxRegoClosures {
				for _, part := range parts(x) {
					visitor.Walk(part)
				}
			} else {
				c.fault(at, "too_deep", "comprehensions and bodies in one another deeper than "+strconv.Itoa(maxRegoClosures))
			}
			c.closures--
			return true
		case *ast.Array:
			c.shape(x.Len(), x.IsGround())
		case ast.Object:
			c.shape(x.Len(), x.IsGround())
		case ast.Set:
			c.shape(x.Len(), x.IsGround())
		case *ast.With:
			if !replacesInput(x) {
				c.fault(or(x.Location, at), "forbidden_with", "with may replace input alone")
			}
		case *ast.Term:
			at = or(x.Location, at)
		case ast.Ref:
			c.reference(at, x, own)
			for _, t := range x[1:] { // the head was looked at with what follows it
				visitor.Walk(t)
			}
			if v, ok := x[0].Value.(ast.Var); !ok || v.Equal(setMemberTerm.Value) {
				visitor.Walk(x[0])
			}
			return true
		case ast.Var:
			if x.Equal(ast.DefaultRootDocument.Value) {
				c.reference(at, ast.Ref{ast.DefaultRootDocument}, own)
			}
			if x.Equal(setMemberTerm.Value) {
				c.fault(at, "forbidden_builtin", "use latchkey.in_set")
			}
		case ast.Number:
			if !sane(x) {
				c.fault(at, "number_too_long", "a number of at most "+strconv.Itoa(maxDigits)+" characters, within a float64")
			}
		}
		return false
	})
	rules := 0
	for _, rule := range module.Rules {
		at = rule.Location
		for r := rule; r != nil; r = r.Else { // a visitor leaves out the head's reference
			rules++
			for _, t := range r.Head.Ref()[1:] {
				visitor.Walk(t)
			}
		}
		visitor.Walk(rule)
	}
	if rules > maxRegoRules {
		c.fault(module.Package.Location, "too_many_rules", "at most "+strconv.Itoa(maxRegoRules)+" rules")
	}
	if c.exprs <= maxRegoExprs && orderWork(module) > maxRegoOrder {
		c.fault(module.Package.Location, "too_complex", "too many statements in one body, or in bodies within it: split the rule")
	}
	if c.exprs > maxRegoExprs {
		c.fault(module.Package.Location, "too_many_expressions", "at most "+strconv.Itoa(maxRegoExprs)+" expressions and calls")
	}
}

func (c *checker) shape(parts int, ground bool) {
	if !ground && parts > 1 {
		c.shapes = min(max(c.shapes, 1)*parts, maxRegoShapes+1)
	}
}

// orderWork is the most steps that ordering the bodies of a module may take,
// 2 * maxRegoOrder where they are more.
func orderWork(module *ast.Module) int {
	work := 0
	for _, rule := range module.Rules {
		for r := rule; r != nil; r = r.Else {
			work = min(work+orderSteps(r.Head, r.Body)*knownVariables(r.Head, r.Body), 2*maxRegoOrder)
		}
	}
	return work
}

// knownVariables counts those of one body, and of all within it: its own, and those
// that the compiler makes of what is nested.
func knownVariables(head *ast.Head, body ast.Body) int {
	known := map[ast.Var]struct{}{}
	made := 0
	for _, part := range []any{head, body} {
		ast.WalkNodes(part, func(x ast.Node) bool {
			switch x := x.(type) {
			case *ast.Expr:
				made++
			case *ast.Term:
				if v, ok := x.Value.(ast.Var); ok {
					known[v] = struct{}{}
				}
			}
			return false
		})
	}
	return made + len(known)
}

// orderSteps is how often ordering what stands in one body looks at a statement.
func orderSteps(body ...any) int {
	statements, within := 0, 0
	visitor := ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Expr, ast.Call:
			statements++
		case ast.Ref:
			statements += min(len(x)-1, 1) // what is looked up on the way
		}
		if inner := parts(x); inner != nil {
			within += regoOrderClosure
			within = min(within+orderSteps(inner...), maxRegoOrder)
			return true
		}
		return false
	})
	for _, part := range body {
		visitor.Walk(part)
	}
	return min(statements*(statements+within), maxRegoOrder)
}

// parts lists what stands in a closure.
func parts(closure any) []any {
	switch x := closure.(type) {
	case *ast.ArrayComprehension:
		return []any{x.Term, x.Body}
	case *ast.SetComprehension:
		return []any{x.Term, x.Body}
	case *ast.ObjectComprehension:
		return []any{x.Key, x.Value, x.Body}
	case *ast.Every:
		list := []any{x.Value, x.Domain, x.Body}
		if x.Key != nil {
			list = append(list, x.Key)
		}
		return list
	case *ast.Not:
		return []any{x.Body}
	case *ast.LogicalAnd:
		return []any{x.Lhs, x.Rhs}
	case *ast.LogicalOr:
		return []any{x.Lhs, x.Rhs}
	}
	return nil
}

func or(a, b *ast.Location) *ast.Location {
	if a != nil {
		return a
	}
	return b
}

func replacesInput(w *ast.With) bool {
	switch target := w.Target.Value.(type) {
	case ast.Ref:
		return target[0].Equal(ast.InputRootDocument)
	case ast.Var:
		return target.Equal(ast.InputRootDocument.Value)
	}
	return false
}

// result finds the rule that holds the answer.
func (c *checker) result(module *ast.Module) string {
	var found []string
	for _, rule := range module.Rules {
		head := rule.Head.Ref()
		name := string(head[0].Value.(ast.Var))
		if name != "decision" && name != "allow" {
			continue
		}
		if len(head) > 1 || len(rule.Head.Args) > 0 || rule.Head.RuleKind() != ast.SingleValue {
			c.fault(rule.Location, "wrong_result", name+" must be a rule of one value")
		}
		if !slices.Contains(found, name) {
			if found = append(found, name); len(found) > 1 {
				c.fault(rule.Location, "two_results", "a policy has a decision or an allow rule, not both")
			}
		}
	}
	if len(found) == 0 {
		c.fault(module.Package.Location, "no_result", "a policy has a decision or an allow rule")
		return ""
	}
	return found[0]
}

// checkCompiled checks the module with its names resolved.
func checkCompiled(module *ast.Module) error {
	var c checker
	own := module.Package.Path
	at := module.Package.Location
	visitor := ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Expr:
			at = or(x.Location, at)
			if x.Operator().Equal(inSet) && !isString(x.Operand(0)) {
				c.fault(at, "set_name_not_literal", "the name of a set is a string literal")
			}
		case ast.Ref:
			c.reference(at, x, own)
		}
		return false
	})
	for _, rule := range module.Rules {
		visitor.Walk(rule)
	}
	return c.err()
}
