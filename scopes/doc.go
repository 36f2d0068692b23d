// Package scopes says what an access key may ever do, and decides it.
//
// A scope set maps a resource type to a list of entries; an entry is a
// selector ("*", exact or "prefix*"), a bitmask of permissions, and for sets a
// restriction on the values that may be written. The rules are those of
// the access-key document ("Scopes", "Set Granularity"): rights on a name are the OR over all
// entries whose selector matches, Create, Update and Delete imply Read on
// that entry's own selector, and nothing denies.
//
//	set, err := scopes.NewParser(1024).Parse(`{"customer": {"policies": [{"f": "staging", "p": 4}]}}`)
//	set.Permits(scopes.Question{Type: "policies", ID: "staging", Action: "update"}) // true
//
// [Set.Rego] writes the same rules down as a module that any OPA can evaluate.
//
// The package is pure and stands on floor 0: it imports the root package, the
// strict decoder, and nothing that does I/O. A Set is immutable and safe for
// concurrent use; asking it about names allocates nothing.
package scopes
