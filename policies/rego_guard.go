package policies

import (
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"
)

// setMember is the built-in function that the library's in_set stands on.
var setMember = &ast.Builtin{
	Name: "latchkey_in_set",
	Decl: types.NewFunction(types.Args(types.S, types.A), types.B),
}

var setMemberTerm = ast.VarTerm(setMember.Name)

// maxDigits is how long a number's text may be, where it is computed with.
const maxDigits = 1024

// sane reports whether computing with a number is cheap: 1e999999999 is a few
// bytes of text and gigabytes as an integer.
func sane(n ast.Number) bool {
	if len(n) > maxDigits {
		return false
	}
	for i := range len(n) {
		if n[i]|0x20 == 'e' {
			exponent, err := strconv.Atoi(string(n[i+1:]))
			return err == nil && exponent <= 400 && exponent >= -400
		}
	}
	return true
}

// member answers latchkey_in_set from the sets of the evaluation.
func member(b topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
	t := b.Cancel.(*turn)
	name, _ := operands[0].Value.(ast.String)
	set := t.snapshot.Set(string(name))
	if set == nil {
		return halt(UnknownSet, string(name))
	}
	var found, ok bool
	switch v := operands[1].Value.(type) {
	case ast.String:
		found, ok = set.Contains(string(v))
	case ast.Number:
		if n, is := v.Int64(); is {
			found, ok = set.ContainsInt(n)
		} else if sane(v) {
			found, ok = set.Contains(string(v))
		}
	}
	if !ok {
		return halt(Failed, "in_set: not a value of the set "+string(name))
	}
	return iter(ast.InternedTerm(found))
}

// halt ends an evaluation: OPA would go on after another error.
func halt(why Failure, detail string) error {
	return topdown.Halt{Err: &EvaluationError{Failure: why, Detail: detail}}
}

func guard(c *ast.Compiler) map[string]*topdown.Builtin {
	return map[string]*topdown.Builtin{setMember.Name: {Decl: setMember, Func: member}}
}
