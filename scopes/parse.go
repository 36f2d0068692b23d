package scopes

import (
	"crypto/sha256"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"weak"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

const (
	// MaxEntries is how many entries a list may hold (the access-key document).
	MaxEntries = 10
	// MaxActions is how many action names an entry may hold.
	MaxActions = 32
	// MaxTypeName and MaxActionName are lengths in bytes.
	MaxTypeName   = 64
	MaxActionName = 64
	maxFaults     = 20
)

// Parser turns scopes as JSON into sets, giving equal sets the same memory.
// Safe for concurrent use.
type Parser struct {
	regexps *Regexps

	mu       sync.Mutex
	interned map[[sha256.Size]byte]weak.Pointer[Set]
}

// NewParser makes a parser whose sets share a cache of at most n compiled
// regexes.
func NewParser(n int) *Parser {
	return &Parser{regexps: NewRegexps(n), interned: map[[sha256.Size]byte]weak.Pointer[Set]{}}
}

// Parse reads {"customer": {…}}. The error is a *latchkey.Error of kind
// Invalid whose faults carry JSON pointers into text; a member "metadata"
// beside "customer" is refused.
func (p *Parser) Parse(text string) (*Set, error) {
	var doc strictjson.Doc
	if err := doc.Parse(text); err != nil {
		return nil, err
	}
	return p.ParseValue(doc.Root(), "")
}

// ParseValue is Parse for a value that stands at pointer at of a larger body.
// Members called in besides are left to the caller.
func (p *Parser) ParseValue(v strictjson.Value, at string, besides ...string) (*Set, error) {
	r := reading{regexps: p.regexps}
	set := r.scopes(v, at, besides)
	if len(r.faults) > 0 {
		return nil, latchkey.InvalidFaults(r.faults...)
	}
	return set, nil
}

// Load is Parse for text that was stored in canonical form: equal texts give
// the one same Set for as long as somebody holds it.
func (p *Parser) Load(text string) (*Set, error) { return p.intern("", text, p.Parse) }

// intern finds the set of a text, which parse makes where it is not there yet.
// The form tells texts of different grammars apart.
func (p *Parser) intern(form, text string, parse func(string) (*Set, error)) (*Set, error) {
	key := sha256.Sum256([]byte(form + text))
	if set := p.find(key); set != nil {
		return set, nil
	}
	set, err := parse(text)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if first := p.interned[key].Value(); first != nil {
		return first, nil
	}
	p.interned[key] = weak.Make(set)
	runtime.AddCleanup(set, p.forget, key)
	return set, nil
}

func (p *Parser) find(key [sha256.Size]byte) *Set {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.interned[key].Value()
}

func (p *Parser) forget(key [sha256.Size]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.interned[key].Value() == nil {
		delete(p.interned, key)
	}
}

// reading is one pass over a body, collecting faults.
type reading struct {
	regexps *Regexps
	faults  []latchkey.Fault
}

func (r *reading) fault(at, code, detail string) {
	if len(r.faults) < maxFaults {
		r.faults = append(r.faults, latchkey.Fault{Pointer: at, Code: code, Detail: detail})
	}
}

// is reports whether v is of the wanted kind, a fault if not.
func (r *reading) is(v strictjson.Value, want strictjson.Kind, at string) bool {
	if v.Kind() == want {
		return true
	}
	r.fault(at, "wrong_type", "want "+article(want)+", got "+v.Kind().String())
	return false
}

func article(k strictjson.Kind) string {
	if k == strictjson.Array || k == strictjson.Object {
		return "an " + k.String()
	}
	return "a " + k.String()
}

func (r *reading) scopes(v strictjson.Value, at string, besides []string) *Set {
	if v.Kind() == strictjson.Missing || v.Kind() == strictjson.Null {
		r.fault(at, "missing_scopes", "scopes are required")
		return nil
	}
	if !r.is(v, strictjson.Object, at) {
		return nil
	}
	for name := range v.Members() {
		if name != "customer" && !slices.Contains(besides, name) {
			r.fault(strictjson.Pointer(at, name), "unknown_member", "unknown member")
		}
	}
	at += "/customer"
	customer := v.Get("customer")
	if customer.Kind() == strictjson.Missing {
		r.fault(at, "missing_scopes", "scopes need a customer object")
		return nil
	}
	if !r.is(customer, strictjson.Object, at) {
		return nil
	}
	set := new(Set)
	for name, member := range customer.Members() {
		r.member(set, name, member, strictjson.Pointer(at, name))
	}
	slices.SortFunc(set.types, func(a, b typeEntries) int { return strings.Compare(a.name, b.name) })
	if len(r.faults) == 0 && !set.gives() {
		r.fault(at, "empty_scopes", "the scopes give nothing: no boolean is true and every list is empty")
	}
	set.compact()
	return set
}

func (r *reading) member(set *Set, name string, v strictjson.Value, at string) {
	bit := nameBit(name)
	switch {
	case bit&booleans != 0:
		if r.is(v, strictjson.Bool, at) && v.True() {
			set.on |= bit
		}
		set.given |= bit
	case name == AccessKeys:
		set.sees = r.accessKeys(v, at)
		set.given |= bit
	case bit != 0 || ValidTypeName(name):
		entries := r.entries(v, name, at)
		if len(entries) > 0 {
			// Cloned, like every text below: the set must neither keep the whole
			// body in memory nor change with it.
			set.types = append(set.types, typeEntries{name: name, entries: entries})
		}
		if bit == 0 {
			bit = foreign
		}
		set.given |= bit
	default:
		r.fault(at, "invalid_scope_name", "a scope name is one of latchkey's own, or an application's type: [a-z][a-z0-9_]{0,63}, not beginning with latchkey_")
	}
}

// ValidTypeName reports whether name may be a resource type: [a-z][a-z0-9_]{0,63},
// not beginning with latchkey_.
func ValidTypeName(name string) bool {
	if name == "" || len(name) > MaxTypeName || name[0] < 'a' || name[0] > 'z' || strings.HasPrefix(name, "latchkey_") {
		return false
	}
	return !strings.ContainsFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_'
	})
}

func (r *reading) accessKeys(v strictjson.Value, at string) (sees names) {
	if !r.is(v, strictjson.Array, at) {
		return 0
	}
	for i, e := range v.Elements() {
		at := strictjson.PointerIndex(at, i)
		if !r.is(e, strictjson.String, at) {
			continue
		}
		switch bit := nameBit(e.Text()); {
		case e.Text() == "*":
			sees = everyName
		case bit != 0:
			sees |= bit
		default:
			r.fault(at, "invalid_access_keys", `access_keys lists latchkey's own scope names (`+strings.Join(builtins[:], ", ")+`) or "*"`)
		}
	}
	return sees
}

func (r *reading) entries(v strictjson.Value, typ, at string) []Entry {
	if !r.is(v, strictjson.Array, at) {
		return nil
	}
	n := v.Len()
	if n > MaxEntries {
		r.fault(at, "too_many_entries", "at most 10 entries")
		return nil
	}
	entries := make([]Entry, 0, n)
	for i, e := range v.Elements() {
		entries = append(entries, r.entry(e, typ, strictjson.PointerIndex(at, i)))
	}
	return entries
}

func (r *reading) entry(v strictjson.Value, typ, at string) (e Entry) {
	if !r.is(v, strictjson.Object, at) {
		return e
	}
	builtin := IsBuiltin(typ)
	var f, p, a strictjson.Value
	for name, m := range v.Members() {
		switch at := strictjson.Pointer(at, name); {
		case name == "f":
			f = m
		case name == "p":
			p = m
		case name == "a" && !builtin:
			a = m
			e.Actions = r.actions(m, at)
		case name == "r" && typ == Sets:
			e.Restriction = r.restriction(m, at)
		case name == "r":
			r.fault(at, "restriction_not_allowed", "r is for sets only")
		case name == "a":
			r.fault(at, "actions_not_allowed", "a is for an application's types only")
		default:
			r.fault(at, "unknown_member", "unknown member; an entry has f, p, and where they apply a and r")
		}
	}
	switch {
	case f.Kind() == strictjson.Missing:
		r.fault(at+"/f", "missing_selector", "a selector f is required")
	case !r.is(f, strictjson.String, at+"/f"):
	case builtin && !validBuiltinSelector(f.Text()):
		r.fault(at+"/f", "invalid_selector", `a selector is "*", a name ([A-Za-z0-9._:-], at most 128, first alphanumeric), or a name followed by *`)
	case !builtin && !validSelector(f.Text()):
		r.fault(at+"/f", "invalid_selector", "a selector is 1 to 1024 bytes of UTF-8 without control characters")
	default:
		e.Selector = newSelector(f.Text())
	}
	switch {
	case p.Kind() != strictjson.Missing:
		e.Permissions = r.permission(p, at+"/p")
	case builtin:
		r.fault(at+"/p", "missing_permission", "a permission p is required")
	case a.Kind() == strictjson.Missing:
		r.fault(at, "missing_permission", "a permission p or actions a are required")
	}
	if e.Permissions&Create != 0 && f.Kind() == strictjson.String && !e.Selector.All() {
		r.fault(at+"/f", "create_needs_all", `Create (1) is only possible with the selector "*"`)
	}
	return e
}

// permission takes the literals 1 to 15 and no other spelling of a number.
func (r *reading) permission(v strictjson.Value, at string) Permission {
	raw := v.Raw()
	n := 0
	for _, c := range []byte(raw) {
		if c < '0' || c > '9' || n > int(AllPermissions) {
			n = 0
			break
		}
		n = n*10 + int(c-'0')
	}
	if v.Kind() != strictjson.Number || n < 1 || n > int(AllPermissions) || raw[0] == '0' {
		r.fault(at, "invalid_permission", "p is an integer from 1 to 15")
		return 0
	}
	return Permission(n)
}

func (r *reading) actions(v strictjson.Value, at string) []string {
	if !r.is(v, strictjson.Array, at) {
		return nil
	}
	if n := v.Len(); n == 0 || n > MaxActions {
		r.fault(at, "invalid_actions", "a lists 1 to 32 action names")
		return nil
	}
	var list []string
	for i, e := range v.Elements() {
		at := strictjson.PointerIndex(at, i)
		if !r.is(e, strictjson.String, at) {
			continue
		}
		switch name := e.Text(); {
		case PermissionOf(name) != 0:
			r.fault(at, "invalid_action", name+" is given by p only")
		case name != "*" && !ValidActionName(name):
			r.fault(at, "invalid_action", `an action is "*" or a name ([A-Za-z0-9._:-], at most 64, first alphanumeric)`)
		default:
			list = append(list, name)
		}
	}
	return list
}

// ValidActionName reports whether name may be an action: [A-Za-z0-9._:-], 1 to
// 64 of them, the first alphanumeric.
func ValidActionName(name string) bool {
	return len(name) <= MaxActionName && latchkey.ValidName(name)
}

func (r *reading) restriction(v strictjson.Value, at string) *Restriction {
	if !r.is(v, strictjson.Object, at) {
		return nil
	}
	rest := &Restriction{regexps: r.regexps}
	if v.Len() == 0 {
		r.fault(at, "empty_restriction", "r needs entity_type or filter; leave it out to restrict nothing")
	}
	for name, m := range v.Members() {
		at := strictjson.Pointer(at, name)
		var into *string
		switch name {
		case "entity_type":
			into = &rest.EntityType
		case "filter":
			into = &rest.Filter
		default:
			r.fault(at, "unknown_member", "unknown member; r has entity_type and filter")
			continue
		}
		if !r.is(m, strictjson.String, at) {
			continue
		}
		if code, detail := checkRegexp(m.Text()); code != "" {
			r.fault(at, code, detail)
			continue
		}
		*into = strings.Clone(m.Text())
	}
	for _, t := range entityTypes {
		if rest.EntityType == "" || r.regexps.match(rest.EntityType, string(t)) {
			rest.types |= t.bit()
		}
	}
	return rest
}

// Faults returns the faults of an error of this package, for a caller that
// adds its own.
func Faults(err error) []latchkey.Fault {
	if e, ok := errors.AsType[*latchkey.Error](err); ok {
		return e.Faults
	}
	return nil
}
