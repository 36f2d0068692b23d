// Package policies holds latchkey's own Rego: the library that policies import
// as data.latchkey, and the built-in decision policy.
//
//	modules := policies.Library() // file name -> source
//	compiler := ast.NewCompiler().WithCapabilities(policies.Capabilities()).WithStrict(true)
//
// The library speaks of a key's scopes as JSON and of a decision request:
//
//	latchkey.scopes.permits(scopes, request)   what the scopes permit, true or false
//	latchkey.grants.permits                    whether a live grant covers the question
//	data.latchkey.builtin.decision             the built-in policy's answer
//
// A Rego policy is compiled alone with it, and with latchkey.in_set(name, value),
// which asks the customer's sets:
//
//	package policies.main
//
//	import data.latchkey
//
//	decision := {"allow": true, "action": "allow"} if latchkey.in_set("staff", input.subject.id)
//
// [scopes.Set.Decide], the library and the module that [scopes.Set.Rego]
// renders for one key agree on every question; a property test holds them
// together.
//
// The package stands on floor 0 and does no I/O. It may import the root
// package, audit and scopes; OPA and CEL appear here and nowhere else.
package policies
