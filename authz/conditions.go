package authz

import (
	"strings"

	"github.com/latchkey-dev/latchkey"
)

// Conditions are what a client requires of a record's present state before it
// is shown or changed (RFC 9110, 13.1). The zero Conditions require nothing.
type Conditions struct {
	Match     Tags // If-Match
	NoneMatch Tags // If-None-Match
}

// Tags are the entity tags of one condition. The zero Tags are of a header that
// was not sent.
type Tags struct {
	Given bool
	Any   bool // "*"
	list  []tag
}

type tag struct {
	opaque string // with its quotes
	weak   bool
}

// ParseTags reads the value of If-Match or If-None-Match: "*", or a list of
// entity tags. False says that it is neither.
func ParseTags(value string) (t Tags, ok bool) {
	t.Given = true
	if strings.Trim(value, " \t") == "*" {
		t.Any = true
		return t, true
	}
	for rest := value; ; {
		rest = strings.TrimLeft(rest, " \t,")
		if rest == "" {
			return t, len(t.list) > 0
		}
		var next tag
		rest, next.weak = strings.CutPrefix(rest, "W/")
		if rest == "" || rest[0] != '"' {
			return Tags{}, false
		}
		end := strings.IndexByte(rest[1:], '"')
		if end < 0 {
			return Tags{}, false
		}
		next.opaque, rest = rest[:end+2], rest[end+2:]
		if strings.ContainsFunc(next.opaque, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return Tags{}, false
		}
		t.list = append(t.list, next)
		if rest = strings.TrimLeft(rest, " \t"); rest != "" && rest[0] != ',' {
			return Tags{}, false
		}
	}
}

// match compares with the tag of the present state, "" of what is not there. A
// strong comparison never holds for a weak tag.
func (t *Tags) match(current string, strong bool) bool {
	if current == "" {
		return false
	}
	for _, other := range t.list {
		if other.opaque == current && (!strong || !other.weak) {
			return true
		}
	}
	return t.Any
}

// Changed reports whether a reader has to be sent the state that has this
// strong tag: If-None-Match compares weakly.
func (c *Conditions) Changed(current string) bool {
	return !c.NoneMatch.Given || !c.NoneMatch.match(current, false)
}

// Met refuses unless the state with this strong tag, "" for none, is what the
// client requires: If-Match compares strongly, If-None-Match weakly.
func (c *Conditions) Met(current string) error {
	if c.Match.Given && !c.Match.match(current, true) {
		return latchkey.Errorf(latchkey.PreconditionFailed, "precondition_failed", "If-Match: the record is not, or no longer, what was read")
	}
	if c.NoneMatch.Given && c.NoneMatch.match(current, false) {
		return latchkey.Errorf(latchkey.PreconditionFailed, "precondition_failed", "If-None-Match: there is such a record")
	}
	return nil
}
