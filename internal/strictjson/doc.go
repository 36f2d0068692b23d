// Package strictjson is the one JSON decoder at latchkey's edges.
//
// encoding/json takes the last of two members with the same name, replaces
// broken UTF-8 and folds the case of names; gjson takes the first and does not
// validate. Two readers that disagree about one body are how authorization is
// bypassed, so this decoder refuses everything that two readers could see
// differently: duplicate names, invalid UTF-8, U+0000, lone surrogates,
// trailing data, numbers beyond a float64, and nesting past 64 levels
// (RFC 8259 and the I-JSON profile, RFC 7493).
//
// Parse makes a flat tape of nodes over the source text; reading it allocates
// nothing but the text of strings that hold escapes. A Doc may be reused for
// the next body, and is not safe for concurrent use; a Value is a view into
// its Doc and dies with the next Parse.
//
// It sits on the ground floor and imports only the root package.
package strictjson
