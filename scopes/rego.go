package scopes

import (
	_ "embed"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"

	"github.com/latchkey-dev/latchkey"
)

//go:embed rego/text.rego
var textRego string

//go:embed rego/values.rego
var valuesRego string

// ValuesRego returns the Rego rules that read and canonicalise the values of a
// write to a set, as a module of the given package (a Rego reference such as
// "latchkey.scopes"). They give what [EntityType.Canonical] gives.
func ValuesRego(pkg string) string {
	return "package " + pkg + "\n\n" + withoutPackage(textRego) + "\n" + withoutPackage(valuesRego)
}

func withoutPackage(module string) string {
	_, rules, _ := strings.Cut(module, "\n\n")
	return rules
}

// RegoKey is what a rendered module says of the key beside its scopes.
type RegoKey struct {
	ID        string
	Handles   []string // those that hold as long as the key
	ExpiresAt latchkey.Instant
	// Former is the handle of a rotated secret, "" for none, that holds until
	// FormerEndsAt.
	Former       string
	FormerEndsAt latchkey.Instant
}

const (
	regoHead = `# What the scopes of one access key permit, for any OPA from 1.0 on. The input is
# the body of a decision request. Revocation is not in this file: the module of a
# key that was revoked goes on permitting. Nor are grants.
package latchkey.access_key

default permits := false
`

	regoValues = `
# A write to a set is permitted when some entry that may do it admits each of
# the values.
granted if {
	values := given(input.resource)
	count(values) > 0
	every value in values {
		writes(input.resource.properties.entity_type, canonical(input.resource.properties.entity_type, value))
	}
}
`
	regoAnyValue = `
writes(_, _) if writes_any_value

# Without values nothing is there to hold to a restriction.
granted if {
	given(input.resource) == []
	writes_any_value
}
`
)

// Rego renders the set as a Rego module for any OPA from 1.0 on that needs
// nothing else: package latchkey.access_key, rule permits, with the body of a
// decision request as input. It permits just what [Set.Decide] permits, to
// this key, until it expires; a request that cannot be read, or whose resource
// is not of a [ValidID], it refuses. The key's id and handles must be valid
// UTF-8. Equal arguments give equal text; a nil set gives a module that
// permits nothing.
func (s *Set) Rego(key RegoKey) string {
	m := module{b: []byte(regoHead)}
	ids := append([]string{key.ID}, key.Handles...)
	slices.Sort(ids)
	m.permits(slices.Compact(ids), key.ExpiresAt)
	if key.Former != "" {
		m.permits([]string{key.Former}, min(key.FormerEndsAt, key.ExpiresAt))
	}
	m.add("\ndefault granted := false\n")
	restricts, writes, writesAny := false, false, false
	if s != nil {
		for _, t := range s.types {
			for i := range t.entries {
				e := &t.entries[i]
				m.entry(t.name, i, e)
				if t.name == Sets && e.Permissions&^Read != 0 {
					writes = true
					restricts = restricts || e.Restriction != nil
					writesAny = writesAny || e.Restriction == nil
				}
			}
		}
	}
	if writes {
		m.add(regoValues)
	}
	if writesAny {
		m.add(regoAnyValue)
	}
	m.add("\n", withoutPackage(textRego))
	if writes {
		m.add("\n", withoutPackage(valuesRego))
	}
	return string(m.b)
}

// module is a text under construction.
type module struct{ b []byte }

func (m *module) add(parts ...string) {
	for _, p := range parts {
		m.b = append(m.b, p...)
	}
}

// permits writes the rule for a subject that goes by one of the ids.
func (m *module) permits(ids []string, until latchkey.Instant) {
	m.add("\npermits if {\n\tinput.subject.type == \"access_key\"\n\tinput.subject.id")
	m.oneOf(ids)
	if until != latchkey.Never {
		m.add("\n\ttime.now_ns() < ", nanoseconds(until))
	}
	m.add("\n\tlegal(input.resource.id)\n\tgranted\n}\n")
}

// entry writes the rule of one entry; of one that writes to sets, two.
func (m *module) entry(typ string, index int, e *Entry) {
	number := strconv.Itoa(index)
	readable := e.Permissions.Implied()
	if typ == Sets {
		readable &= Read
	}
	m.add("\n# entry ", number, "\ngranted if {\n\tinput.resource.type == ", literal(typ))
	m.actions(readable, e.Actions)
	m.selector(e.Selector)
	m.add("}\n")
	if typ != Sets || e.Permissions&^Read == 0 {
		return
	}
	head := "writes_any_value"
	if r := e.Restriction; r != nil {
		head = "writes(" + argument("entity_type", r.EntityType) + ", " + argument("value", r.Filter) + ")"
	}
	m.add("\n# entry ", number, ", writes\n", head, " if {\n\tinput.resource.type == ", literal(typ))
	m.actions(e.Permissions&^Read, nil)
	m.selector(e.Selector)
	if r := e.Restriction; r != nil {
		m.search(r.EntityType, "entity_type")
		m.search(r.Filter, "value")
	}
	m.add("}\n")
}

// argument is a wildcard where no regex reads it: strict compilers refuse
// arguments that nothing uses.
func argument(name, pattern string) string {
	if pattern == "" {
		return "_"
	}
	return name
}

func (m *module) search(pattern, argument string) {
	if pattern != "" {
		m.add("\tregex.match(", literal(pattern), ", ", argument, ")\n")
	}
}

// actions writes the condition on the action as one set, worked out here: the
// rule index can use it, and masks at run time it could not.
func (m *module) actions(p Permission, further []string) {
	if slices.Contains(further, "*") {
		m.add("\n\tis_string(input.action.name)\n")
		if missing := (AllPermissions &^ p).Names(); len(missing) > 0 {
			m.add("\tnot input.action.name")
			m.in(missing)
			m.add("\n")
		}
		return
	}
	names := p.Names()
	for _, a := range further {
		if !slices.Contains(names, a) {
			names = append(names, a)
		}
	}
	m.add("\n\tinput.action.name")
	m.oneOf(names)
	m.add("\n")
}

// selector relies on the id being a string, which permits has checked.
func (m *module) selector(s Selector) {
	if id, ok := s.Exact(); ok {
		m.add("\tinput.resource.id == ", literal(id), "\n")
	} else if prefix, _ := s.Prefix(); prefix != "" {
		m.add("\tstartswith(input.resource.id, ", literal(prefix), ")\n")
	}
}

func (m *module) oneOf(texts []string) {
	if len(texts) == 1 {
		m.add(" == ", literal(texts[0]))
		return
	}
	m.in(texts)
}

func (m *module) in(texts []string) {
	m.add(" in {")
	for i, t := range texts {
		if i > 0 {
			m.add(", ")
		}
		m.add(literal(t))
	}
	m.add("}")
}

// nanoseconds is the instant as Rego's clock counts; the year 9999 does not
// fit an int64, nor need it.
func nanoseconds(i latchkey.Instant) string {
	if i == 0 {
		return "0"
	}
	return strconv.FormatInt(int64(i), 10) + "000"
}

// literal is a JSON string, all of whose characters that do not print are
// escaped. Rego's scanner refuses some of them raw (U+FEFF) and an editor
// shows others as what they are not (line separators, bidirectional controls).
// strconv.Quote would write escapes that Rego does not know.
func literal(text string) string {
	const hex = "0123456789abcdef"
	b := make([]byte, 0, len(text)+2)
	escape := func(r rune) {
		b = append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
	}
	b = append(b, '"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, '\\', 'n')
		case unicode.IsPrint(r):
			b = append(b, string(r)...)
		case r > 0xFFFF:
			high, low := utf16.EncodeRune(r)
			escape(high)
			escape(low)
		default:
			escape(r)
		}
	}
	return string(append(b, '"'))
}
