package strictjson

import (
	"iter"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Value is a view of one value in a Doc. The zero Value is Missing.
type Value struct {
	d  *Doc
	at int32
}

// Kind returns the value's type, Missing for the zero Value.
func (v Value) Kind() Kind {
	if v.d == nil {
		return Missing
	}
	return v.d.nodes[v.at].kind
}

// Raw returns the value's own text in the source, "" when missing.
func (v Value) Raw() string {
	if v.d == nil {
		return ""
	}
	n := v.d.nodes[v.at]
	return v.d.src[n.start:n.end]
}

// Text returns a string's text with its escapes decoded, "" for any other
// kind.
func (v Value) Text() string {
	if v.Kind() != String {
		return ""
	}
	n := v.d.nodes[v.at]
	raw := v.d.src[n.start+1 : n.end-1]
	if !n.escaped {
		return raw
	}
	return unescape(raw)
}

// True reports whether the value is the literal true.
func (v Value) True() bool { return v.Kind() == Bool && v.Raw() == "true" }

// Len counts an array's elements or an object's members.
func (v Value) Len() int {
	n := 0
	for range v.Elements() {
		n++
	}
	for range v.Members() {
		n++
	}
	return n
}

// Members yields an object's members in order; nothing for another kind.
func (v Value) Members() iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		if v.Kind() != Object {
			return
		}
		end := v.d.nodes[v.at].next
		for i := v.at + 1; i < end; i = v.d.nodes[i+1].next {
			if !yield((Value{d: v.d, at: i}).Text(), Value{d: v.d, at: i + 1}) {
				return
			}
		}
	}
}

// Elements yields an array's elements in order; nothing for another kind.
func (v Value) Elements() iter.Seq2[int, Value] {
	return func(yield func(int, Value) bool) {
		if v.Kind() != Array {
			return
		}
		end := v.d.nodes[v.at].next
		index := 0
		for i := v.at + 1; i < end; i = v.d.nodes[i].next {
			if !yield(index, Value{d: v.d, at: i}) {
				return
			}
			index++
		}
	}
}

// Get returns the member called name, Missing when there is none.
func (v Value) Get(name string) Value {
	for n, m := range v.Members() {
		if n == name {
			return m
		}
	}
	return Value{}
}

// Pointer appends one reference token to an RFC 6901 pointer.
func Pointer(base, token string) string {
	return string(appendPointer([]byte(base), token))
}

func appendPointer(p []byte, token string) []byte {
	p = append(p, '/')
	token = strings.ReplaceAll(token, "~", "~0")
	return append(p, strings.ReplaceAll(token, "/", "~1")...)
}

// unescape decodes what escape has already checked.
func unescape(raw string) string {
	b := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			b = append(b, raw[i])
			i++
			continue
		}
		switch c := raw[i+1]; c {
		case 'u':
			r := unhex(raw[i+2 : i+6])
			i += 6
			if utf16.IsSurrogate(r) {
				r = utf16.DecodeRune(r, unhex(raw[i+2:i+6]))
				i += 6
			}
			b = utf8.AppendRune(b, r)
			continue
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		default:
			b = append(b, c)
		}
		i += 2
	}
	return string(b)
}

func unhex(s string) rune {
	n, _ := strconv.ParseUint(s, 16, 32) // checked by Doc.escape
	return rune(n)
}

// AppendCanonical appends the value without white space, members sorted by the
// bytes of their names and strings with the fewest escapes; numbers stay as
// written. Two bodies that mean the same, number spellings apart, give the
// same bytes.
func (v Value) AppendCanonical(b []byte) []byte {
	switch v.Kind() {
	case Missing:
		return b
	case String:
		return AppendString(b, v.Text())
	case Array:
		b = append(b, '[')
		for i, e := range v.Elements() {
			if i > 0 {
				b = append(b, ',')
			}
			b = e.AppendCanonical(b)
		}
		return append(b, ']')
	case Object:
		type member struct {
			name  string
			value Value
		}
		var members []member
		for name, value := range v.Members() {
			members = append(members, member{name, value})
		}
		slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.name, b.name) })
		b = append(b, '{')
		for i, m := range members {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(AppendString(b, m.name), ':')
			b = m.value.AppendCanonical(b)
		}
		return append(b, '}')
	default:
		return append(b, v.Raw()...)
	}
}

// AppendString appends s as a JSON string with the fewest escapes: the quote,
// the backslash, and control characters. s must be valid UTF-8.
func AppendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}

// PointerIndex appends an array index to an RFC 6901 pointer.
func PointerIndex(base string, i int) string { return base + "/" + strconv.Itoa(i) }

// EmptyObject returns the value {}.
func EmptyObject() Value { return Value{d: &empty} }

var empty = Doc{src: "{}", nodes: []node{{kind: Object, end: 2, next: 1}}}

// AppendStrings appends a list of strings as a JSON array; each must be valid UTF-8.
func AppendStrings(b []byte, list []string) []byte {
	b = append(b, '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendString(b, s)
	}
	return append(b, ']')
}
