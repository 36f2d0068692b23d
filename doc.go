// Package latchkey is a policy-decision sidecar and a key-scope authorizer.
//
// It answers one question for other programs: may this subject do this to
// that, now? This root package holds only what every room of the house
// shares: the error type that refusals travel in, instants, and names. It
// imports nothing but the standard library.
//
// The map of the house, floor by floor; imports go down only (arch_test.go
// holds the allowed edges):
//
//	floor 3   cmd/latchkey   wiring and CLI: signals, configuration, loops
//	floor 2   server         HTTP: routes, middleware, bind, problem documents
//	floor 1   store          the only SQL: records, events, migrations
//	          cache          the in-process table of access keys
//	floor 0   authz          credentials, access keys, customers, the PDP
//	          policies       the built-in Rego library
//	          audit          events, canonical bytes, hash chain
//	          scopes         selectors, permissions, restrictions
//	ground    latchkey       errors, instants, names
//	          internal/strictjson  the one strict JSON decoder
package latchkey
