package policies

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Unknown lists the allowed built-ins that this OPA does not have.
func Unknown() []string {
	return slices.DeleteFunc(strings.Fields(pure), func(name string) bool {
		return slices.ContainsFunc(ast.CapabilitiesForThisVersion().Builtins, func(b *ast.Builtin) bool { return b.Name == name })
	})
}
