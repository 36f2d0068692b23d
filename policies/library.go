package policies

import (
	_ "embed"

	"github.com/latchkey-dev/latchkey/scopes"
)

// BuiltinDecision is the rule that holds the built-in policy's answer, a
// boolean; its input is the request with latchkey.scope_permits.
const BuiltinDecision = "data.latchkey.builtin.decision"

//go:embed builtin/scopes.rego
var scopesModule string

//go:embed builtin/builtin.rego
var builtinModule string

// Library returns latchkey's own modules, source by file name: packages
// latchkey.scopes and latchkey.builtin. They compile in strict mode under
// [Capabilities]. The map is the caller's.
func Library() map[string]string {
	return map[string]string{
		"latchkey/builtin.rego": builtinModule,
		"latchkey/scopes.rego":  scopesModule,
		"latchkey/values.rego":  scopes.ValuesRego("latchkey.scopes"),
	}
}
