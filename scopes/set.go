package scopes

import (
	"slices"
	"strings"
	"unique"
)

// The names that latchkey itself understands; everything that begins
// "latchkey_" is reserved beside them.
const (
	Decision             = "decision"
	AuditEvents          = "audit_events"
	Search               = "search"
	Sidecar              = "sidecar"
	Approvals            = "approvals"
	ResourcesManage      = "resources_manage"
	AccessRequestsManage = "access_requests_manage"
	AccessKeys           = "access_keys"
	Policies             = "policies"
	Bundles              = "bundles"
	Sets                 = "sets"
)

// builtins lists them; the position is the bit in a names mask.
var builtins = [...]string{
	Decision, AuditEvents, Search, Sidecar, Approvals, ResourcesManage, AccessRequestsManage,
	AccessKeys, Policies, Bundles, Sets,
}

// names is a mask over builtins.
type names uint16

const (
	booleans  names = 1<<7 - 1
	everyName names = 1<<15 - 1 // what "*" in an access_keys list stands for
	foreign   names = 1 << 14   // some application type is given
)

// nameBit is a switch, since it is asked at every decision.
func nameBit(name string) names {
	switch name {
	case Decision:
		return 1 << 0
	case AuditEvents:
		return 1 << 1
	case Search:
		return 1 << 2
	case Sidecar:
		return 1 << 3
	case Approvals:
		return 1 << 4
	case ResourcesManage:
		return 1 << 5
	case AccessRequestsManage:
		return 1 << 6
	case AccessKeys:
		return 1 << 7
	case Policies:
		return 1 << 8
	case Bundles:
		return 1 << 9
	case Sets:
		return 1 << 10
	}
	return 0
}

// BuiltinNames lists the scope names that latchkey itself understands.
func BuiltinNames() []string { return slices.Clone(builtins[:]) }

// IsBuiltin reports whether the name is one of latchkey's own.
func IsBuiltin(name string) bool { return nameBit(name) != 0 }

// Set is the compiled scopes of one key: immutable, safe for concurrent use.
// The zero and the nil Set permit nothing.
type Set struct {
	given names // all names that are spelled out, those of false booleans too
	on    names // booleans that are true
	sees  names // names listed in access_keys
	types []typeEntries
}

type typeEntries struct {
	name    string
	entries []Entry
}

// Entry is one element of an entry list: the resources it selects, what it
// permits on them, and for sets the values it may write.
type Entry struct {
	Selector    Selector
	Permissions Permission   // as written; 0 where only actions are given
	Actions     []string     // application types: further action names, "*" all of them
	Restriction *Restriction // sets only; nil restricts nothing
}

// Restriction limits the values that an entry may write: unanchored RE2
// searches, an empty one admits all.
type Restriction struct {
	EntityType string
	Filter     string
	regexps    *Regexps
	// types are the entity types that EntityType matches, by their place in
	// entityTypes: three answers that need not be asked for again.
	types uint8
}

// admits takes a canonical value.
func (r *Restriction) admits(t EntityType, canonical string) bool {
	return r == nil ||
		r.types&t.bit() != 0 &&
			(r.Filter == "" || r.regexps.match(r.Filter, canonical))
}

// permits reports whether the entry has the permission for an action, its
// selector apart.
func (e *Entry) permits(action string) bool {
	if bit := PermissionOf(action); bit != 0 {
		return e.Permissions.Implied()&bit != 0
	}
	for _, a := range e.Actions {
		if a == action || a == "*" {
			return true
		}
	}
	return false
}

// Has reports whether the boolean scope of that name is true.
func (s *Set) Has(name string) bool { return s != nil && s.on&nameBit(name) != 0 }

// SeesKeys reports whether the access_keys list holds anything.
func (s *Set) SeesKeys() bool { return s != nil && s.sees != 0 }

// Lists reports whether the access_keys list holds the name, or "*".
func (s *Set) Lists(name string) bool { return s != nil && s.sees&nameBit(name) != 0 }

// Sees reports whether the holder of s may see a key with the scopes of other:
// every name that other spells out stands in s's access_keys list. Application
// types are seen through "*" only.
func (s *Set) Sees(other *Set) bool {
	return s != nil && other != nil && s.sees != 0 && other.given&^s.sees == 0
}

// Entries returns the entry list of a type, nil when there is none. The slice
// is the set's own and must not be changed.
func (s *Set) Entries(resourceType string) []Entry {
	if s == nil {
		return nil
	}
	for i := range s.types {
		if s.types[i].name == resourceType {
			return s.types[i].entries
		}
	}
	return nil
}

// Types lists the resource types that have entries, sorted.
func (s *Set) Types() []string {
	if s == nil {
		return nil
	}
	types := make([]string, 0, len(s.types))
	for i := range s.types {
		types = append(types, s.types[i].name)
	}
	return types
}

// Booleans lists the boolean scopes that are true, in a fixed order.
func (s *Set) Booleans() []string {
	if s == nil {
		return nil
	}
	return s.on.list()
}

// Visible lists what the access_keys list opens: "*" alone, or names.
func (s *Set) Visible() []string {
	switch {
	case s == nil:
		return nil
	case s.sees == everyName:
		return []string{"*"}
	}
	return s.sees.list()
}

func (n names) list() []string {
	var list []string
	for i, name := range builtins {
		if n&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	return list
}

// compact moves what a decision looks at together in memory, so that it waits
// for few cache lines, and lets go of the text that was parsed. Names that many
// sets share are kept once for all of them.
func (s *Set) compact() {
	count, length := 0, 0
	for _, t := range s.types {
		count += len(t.entries)
		for i := range t.entries {
			length += len(t.entries[i].Selector.text)
		}
	}
	var selectors strings.Builder
	selectors.Grow(length)
	for _, t := range s.types {
		for i := range t.entries {
			selectors.WriteString(t.entries[i].Selector.text)
		}
	}
	text, all := selectors.String(), make([]Entry, 0, count)
	for i := range s.types {
		t := &s.types[i]
		t.name = unique.Make(t.name).Value()
		from := len(all)
		for _, e := range t.entries {
			n := len(e.Selector.text)
			e.Selector.text, text = text[:n], text[n:]
			for j, a := range e.Actions {
				e.Actions[j] = unique.Make(a).Value()
			}
			all = append(all, e)
		}
		t.entries = all[from:len(all):len(all)]
	}
	s.types = slices.Clip(slices.Clone(s.types))
}

// gives reports whether the set permits anything at all.
func (s *Set) gives() bool { return s.on != 0 || s.sees != 0 || len(s.types) > 0 }

// NamesMask is the set of names that s spells out, as a bitmask to be stored;
// a key is visible to a caller when it shares no bit with the caller's
// HiddenMask.
func (s *Set) NamesMask() int64 { return int64(s.given) }

// HiddenMask is the names of which a key may spell out none to be seen by the
// holder of s.
func (s *Set) HiddenMask() int64 {
	if s == nil {
		return int64(everyName)
	}
	return int64(everyName &^ s.sees)
}
