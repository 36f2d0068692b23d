package policies

import (
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Unknown lists the allowed built-ins that this OPA does not have.
func Unknown() []string {
	return slices.DeleteFunc(strings.Fields(pure), func(name string) bool {
		return slices.ContainsFunc(ast.CapabilitiesForThisVersion().Builtins, func(b *ast.Builtin) bool { return b.Name == name })
	})
}

// Uncached evaluates a Rego policy without the memo.
func (p *Policy) Uncached(s *Snapshot, in *Input) (Result, error) {
	return p.program.(*regoProgram).run(s, in)
}

// Memoised reports whether the memo takes a Rego policy's answers.
func (p *Policy) Memoised() bool { return p.program.(*regoProgram).reads.unfit == "" }

// WholeLibrary is the library with in_set.
func WholeLibrary() map[string]string { return wholeLibrary() }

// A busy machine does not make the tests fail; where time is what ends an
// evaluation, a test sets it.
func init() { regoTime = time.Second }

// SetRegoTime sets how long an evaluation may take, and returns how to undo it.
func SetRegoTime(d time.Duration) (undo func()) {
	before := regoTime
	regoTime = d
	return func() { regoTime = before }
}
