package scopes

import (
	"slices"
	"strconv"
	"strings"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// Limits of what one grant or entitlement names: what is granted to a subject
// is looked at in every decision about it, and travels as one record.
const (
	// MaxTypes is how many resource types it may name.
	MaxTypes = 20
	// MaxEntriesText is the length of its canonical JSON, in bytes.
	MaxEntriesText = 16 << 10
)

// ParseEntries reads the entries of a grant: a JSON object of lists by resource
// type, {"<type>": [{f, p?, a?}, …]}, which stands at pointer at of a larger
// body. The types are an application's: latchkey's own names are refused, since
// grants never open latchkey itself. It returns the canonical JSON text beside
// the set. The error is a *latchkey.Error of kind Invalid with a pointer for
// everything that is wrong.
func (p *Parser) ParseEntries(v strictjson.Value, at string) (*Set, string, error) {
	r := reading{regexps: p.regexps}
	set := r.granted(v, at)
	text := string(v.AppendCanonical(nil))
	if len(r.faults) == 0 && len(text) > MaxEntriesText {
		r.fault(at, "entries_too_large", "entries have at most "+strconv.Itoa(MaxEntriesText>>10)+" KiB in all")
	}
	if len(r.faults) > 0 {
		return nil, "", latchkey.InvalidFaults(r.faults...)
	}
	return set, text, nil
}

// LoadEntries is ParseEntries for text that was stored in canonical form: equal
// texts give the one same Set for as long as somebody holds it.
func (p *Parser) LoadEntries(text string) (*Set, error) {
	return p.intern("entries\x00", text, func(text string) (*Set, error) {
		var doc strictjson.Doc
		if err := doc.Parse(text); err != nil {
			return nil, err
		}
		set, _, err := p.ParseEntries(doc.Root(), "")
		return set, err
	})
}

func (r *reading) granted(v strictjson.Value, at string) *Set {
	switch {
	case v.Kind() == strictjson.Missing:
		r.fault(at, "missing_member", "the member is required")
		return nil
	case !r.is(v, strictjson.Object, at):
		return nil
	case v.Len() == 0:
		r.fault(at, "empty_entries", "entries name at least one resource type")
		return nil
	case v.Len() > MaxTypes:
		r.fault(at, "too_many_types", "entries name at most "+strconv.Itoa(MaxTypes)+" resource types")
		return nil
	}
	set := new(Set)
	for name, list := range v.Members() {
		at := strictjson.Pointer(at, name)
		switch {
		case IsBuiltin(name) || strings.HasPrefix(name, "latchkey_"):
			r.fault(at, "builtin_type", "grants are for an application's types; what latchkey itself understands is given by a key's scopes alone")
		case !ValidTypeName(name):
			r.fault(at, "invalid_type", "a resource type is [a-z][a-z0-9_]{0,63}, not beginning with latchkey_")
		case list.Kind() == strictjson.Array && list.Len() == 0:
			r.fault(at, "empty_entries", "the list of a type has at least one entry")
		default:
			set.types = append(set.types, typeEntries{name: name, entries: r.entries(list, name, at)})
			set.given |= foreign
		}
	}
	slices.SortFunc(set.types, func(a, b typeEntries) int { return strings.Compare(a.name, b.name) })
	set.compact()
	return set
}
