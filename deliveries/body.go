package deliveries

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// payload are the members of an event's changes that are told, in this order.
// Whatever else an event holds stays inside: above all nothing that a requester
// wrote.
var payload = []string{
	"request_id", "template_id", "template_name", "app_id", "app_name", "requester_id", "requester_email", "requester_name", "beneficiary_id",
	"notified_approvers", "decided_by", "decision_method", "cancelled", "pending",
}

// Body is what is sent of an event: {type, timestamp, data}. Receivers often
// parse a body and serialise it again before they check its signature, so it is
// byte for byte what JSON.stringify(JSON.parse(body)) gives: no white space, no
// escape that is not needed, numbers and names in JavaScript's order and form.
func Body(event string, at latchkey.Instant, changes strictjson.Value) []byte {
	b := append(make([]byte, 0, 512), `{"type":`...)
	b = appendText(b, event)
	b = append(b, `,"timestamp":"`...)
	b = at.AppendText(b)
	b = append(b, `","data":{`...)
	first := true
	for _, name := range payload {
		v := changes.Get(name)
		if v.Kind() == strictjson.Missing {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(appendText(b, name), ':')
		b = appendValue(b, v)
	}
	return append(b, '}', '}')
}

func appendValue(b []byte, v strictjson.Value) []byte {
	switch v.Kind() {
	case strictjson.String:
		return appendText(b, v.Text())
	case strictjson.Number:
		return appendNumber(b, v.Raw())
	case strictjson.Array:
		b = append(b, '[')
		for i, e := range v.Elements() {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendValue(b, e)
		}
		return append(b, ']')
	case strictjson.Object:
		type member struct {
			name  string
			value strictjson.Value
		}
		var members []member
		for name, value := range v.Members() {
			members = append(members, member{name, value})
		}
		// An object of JavaScript gives names that are array indexes first, in the
		// order of their numbers, whatever order they were written in.
		slices.SortStableFunc(members, func(a, b member) int { return cmp.Compare(arrayIndex(a.name), arrayIndex(b.name)) })
		b = append(b, '{')
		for i, m := range members {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendText(b, m.name), ':')
			b = appendValue(b, m.value)
		}
		return append(b, '}')
	default: // null, true, false
		return append(b, v.Raw()...)
	}
}

// arrayIndex is the number that a name is the canonical form of, up to 2^32-2,
// and for any other name one that is larger than all of these.
func arrayIndex(name string) uint64 {
	const none = math.MaxUint32
	n, err := strconv.ParseUint(name, 10, 32)
	if err != nil || n == none || len(name) > 1 && name[0] == '0' || strings.HasPrefix(name, "+") {
		return none
	}
	return n
}

// appendNumber writes a number as JavaScript does (ECMA-262, Number::toString).
func appendNumber(b []byte, raw string) []byte {
	f, err := strconv.ParseFloat(raw, 64)
	switch {
	case err != nil: // beyond what a double holds: JSON.parse gives Infinity, which JSON.stringify writes so
		return append(b, "null"...)
	case f == 0:
		return append(b, '0')
	}
	if size := math.Abs(f); size >= 1e-6 && size < 1e21 {
		return strconv.AppendFloat(b, f, 'f', -1, 64)
	}
	b = strconv.AppendFloat(b, f, 'e', -1, 64)
	if n := len(b); n >= 4 && b[n-4] == 'e' && b[n-3] == '-' && b[n-2] == '0' { // e-07
		b[n-2] = b[n-1]
		b = b[:n-1]
	}
	return b
}

// appendText writes a string as JSON.stringify does: escapes for the quote, the
// backslash and control characters alone, with the short ones where there are
// any. U+2028 and <, > and & stand as they are. s is valid UTF-8.
func appendText(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= 0x20:
			b = append(b, c)
		case strings.IndexByte("\b\t\n\f\r", c) >= 0:
			b = append(b, '\\', "btn-fr"[c-'\b'])
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(b, '"')
}
