package policies

import (
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// regoReads is what a compiled module may look at.
type regoReads struct {
	// paths lead to the parts of input that can be read, each with all that is
	// under it: none is a beginning of another. An empty path is all of input.
	paths [][]string
	sets  []string
	// places are where each of the sets is read first.
	places map[string]place
	// clock says that time.now_ns can be called.
	clock bool
	// unfit is why answers cannot be memoised, "" where they can.
	unfit string
}

var nowNanos = ast.MustParseRef("time.now_ns")

// readsOf finds out from the references of the policy's rules, and of all rules
// of the library's packages that they refer to. A reference counts down to its
// first part that is no literal string. A part of input that a variable takes
// along counts with all that is under it. Input that a with replaced counts as
// if it were the question.
func readsOf(c *ast.Compiler) regoReads {
	r := regoReads{places: map[string]place{}}
	seen := map[*ast.Module]bool{}
	var visit func(*ast.Module)
	var visitor *ast.GenericVisitor
	visitor = ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Expr:
			if x.Operator().Equal(inSet) {
				if name, ok := x.Operand(0).Value.(ast.String); ok {
					if _, earlier := r.places[string(name)]; !earlier {
						r.places[string(name)] = place{"/rego", x.Location.Row, x.Location.Col}
					}
				}
			}
		case *ast.With:
			r.unfit = "with" // its cost is that of all of the input
		case ast.Var:
			if x.Equal(ast.InputRootDocument.Value) {
				r.add(nil)
			}
		case ast.Ref:
			switch {
			case x[0].Equal(ast.InputRootDocument):
				var path []string
				for _, t := range x[1:] {
					name, ok := t.Value.(ast.String)
					if !ok {
						break
					}
					path = append(path, string(name))
				}
				r.add(path)
			case x.HasPrefix(library):
				for _, m := range c.Modules {
					if m.Package.Path.HasPrefix(library) && (x.HasPrefix(m.Package.Path) || m.Package.Path.HasPrefix(x.GroundPrefix())) {
						visit(m)
					}
				}
			case x.HasPrefix(nowNanos):
				r.clock = true
			}
			for _, t := range x[1:] {
				visitor.Walk(t)
			}
			return true
		}
		return false
	})
	visit = func(m *ast.Module) {
		if seen[m] {
			return
		}
		seen[m] = true
		for _, rule := range m.Rules {
			for e := rule; e != nil; e = e.Else { // a visitor leaves out the head's reference
				for _, t := range e.Head.Ref()[1:] {
					visitor.Walk(t)
				}
			}
			visitor.Walk(rule)
		}
	}
	visit(c.Modules[policyFile])
	r.sets = slices.Sorted(maps.Keys(r.places))
	slices.SortFunc(r.paths, slices.Compare)
	if r.timed() {
		r.unfit = "time"
	}
	return r
}

// add adds a path, unless a beginning of it is there; those that it begins go.
func (r *regoReads) add(path []string) {
	for _, p := range r.paths {
		if begins(p, path) {
			return
		}
	}
	r.paths = append(slices.DeleteFunc(r.paths, func(p []string) bool { return begins(path, p) }), path)
}

func begins(beginning, path []string) bool {
	return len(beginning) <= len(path) && slices.Equal(beginning, path[:len(beginning)])
}

// touches reports whether something at or under a place, or around it, is read.
func (r *regoReads) touches(place ...string) bool {
	return slices.ContainsFunc(r.paths, func(p []string) bool { return begins(p, place) || begins(place, p) })
}

// timed reports whether the answer holds for one instant only.
func (r *regoReads) timed() bool { return r.clock || r.touches("latchkey", "now") }

func (r *regoReads) public() Reads {
	metadata := []string{"subject", "properties", "metadata"}
	return Reads{
		Time:     r.timed(),
		Metadata: r.touches(metadata...),
		SubjectProperties: slices.ContainsFunc(r.paths, func(p []string) bool {
			return !begins(metadata, p) && (begins(p, metadata[:2]) || begins(metadata[:2], p))
		}),
		ResourceProperties: r.touches("resource", "properties"),
		Grants:             r.touches("latchkey", "grants"),
		Sets:               r.sets,
	}
}
