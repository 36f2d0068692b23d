package forward

import (
	"slices"
	"strings"
)

// Bounds of a routes file.
const (
	maxFile  = 1 << 20
	maxRules = 1000
	maxText  = 256 // of types and actions, as in a decision
	maxID    = 1 << 10
)

// Routes are the operator's rules, in the order of their file. Nil and the
// zero Routes match nothing.
type Routes struct {
	rules []rule
}

// Target is what a request stands for.
type Target struct {
	Type, ID, Action string
}

// rule is one compiled rule.
type rule struct {
	customer string // "" for every one
	host     string // "" for every one
	pattern  []part
	typ      string
	id       []piece
	actions  map[string]string // by method
}

// part is one segment of a pattern: a literal, one parameter, or all the rest.
type part struct {
	literal string
	param   bool
	rest    bool
}

// piece is a part of an id: a literal, or what a segment of the path holds.
type piece struct {
	literal string
	segment int // from 0; -1 for a literal
	rest    bool
}

// defaultActions are those of methods that a rule gives no action.
var defaultActions = map[string]string{
	"GET": "read", "HEAD": "read", "POST": "create", "PUT": "update", "PATCH": "update", "DELETE": "delete",
}

// Match returns what the first rule that matches makes of a request. Host is
// as ParseHost returns it, or "". A rule whose host and path match, but whose
// methods do not, is passed over like any other.
func (t *Routes) Match(customer, method, host string, path Path) (Target, bool) {
	if t == nil {
		return Target{}, false
	}
	for i := range t.rules {
		r := &t.rules[i]
		if r.host != "" && r.host != host || r.customer != "" && r.customer != customer || !r.matches(path.segments) {
			continue
		}
		action, ok := r.actions[method]
		if !ok {
			continue
		}
		id := r.render(path.segments)
		if id == "" || len(id) > maxID {
			return Target{}, false
		}
		return Target{Type: r.typ, ID: id, Action: action}, true
	}
	return Target{}, false
}

// Len is the number of rules.
func (t *Routes) Len() int {
	if t == nil {
		return 0
	}
	return len(t.rules)
}

// Methods are all methods that rules list, sorted.
func (t *Routes) Methods() (list []string) {
	if t == nil {
		return nil
	}
	for i := range t.rules {
		for m := range t.rules[i].actions {
			if !slices.Contains(list, m) {
				list = append(list, m)
			}
		}
	}
	slices.Sort(list)
	return list
}

func (r *rule) matches(segments []string) bool {
	for i := range r.pattern {
		p := &r.pattern[i]
		switch {
		case i >= len(segments):
			return false
		case p.rest:
			return segments[i] != ""
		case p.param:
			if segments[i] == "" {
				return false
			}
		case p.literal != segments[i]:
			return false
		}
	}
	return len(segments) == len(r.pattern)
}

func (r *rule) render(segments []string) string {
	if len(r.id) == 1 && !r.id[0].rest { // no copy for the usual one
		if at := r.id[0].segment; at >= 0 {
			return segments[at]
		}
		return r.id[0].literal
	}
	var b strings.Builder
	for _, p := range r.id {
		switch {
		case p.rest:
			b.WriteString(strings.Join(segments[p.segment:], "/"))
		case p.segment >= 0:
			b.WriteString(segments[p.segment])
		default:
			b.WriteString(p.literal)
		}
	}
	return b.String()
}
