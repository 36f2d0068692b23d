package policies

import (
	_ "embed"

	"github.com/latchkey-dev/latchkey/scopes"
)

// BuiltinDecision is the rule that holds the built-in policy's answer, a
// boolean; its input is the request with latchkey.scope_permits and
// latchkey.grants.
const BuiltinDecision = "data.latchkey.builtin.decision"

//go:embed builtin/scopes.rego
var scopesModule string

//go:embed builtin/grants.rego
var grantsModule string

//go:embed builtin/builtin.rego
var builtinModule string

//go:embed builtin/sets.rego
var setsModule string

// Library returns latchkey's own modules, source by file name: packages
// latchkey.scopes, latchkey.grants and latchkey.builtin. They compile in strict
// mode under [Capabilities]. The map is the caller's. The package latchkey,
// whose in_set stands on a built-in function of ours, is not among them.
func Library() map[string]string {
	return map[string]string{
		"latchkey/builtin.rego": builtinModule,
		"latchkey/grants.rego":  grantsModule,
		"latchkey/scopes.rego":  scopesModule,
		"latchkey/values.rego":  scopes.ValuesRego("latchkey.scopes"),
	}
}

// wholeLibrary is Library with in_set.
func wholeLibrary() map[string]string {
	modules := Library()
	modules["latchkey/sets.rego"] = setsModule
	return modules
}
