package scopes

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/latchkey-dev/latchkey"
)

// MaxSelector is the greatest length of a selector, and MaxID of the id of a
// resource in a question, in bytes.
const (
	MaxSelector = 1 << 10
	MaxID       = 1 << 10
)

// Selector picks resources by id: "*" all, "prefix*" those that begin with the
// prefix (itself included), anything else the one of exactly that id. The zero
// Selector matches nothing that can be asked about.
type Selector struct {
	text   string // without the final star
	prefix bool
}

func newSelector(f string) Selector {
	if text, ok := strings.CutSuffix(f, "*"); ok {
		return Selector{text: text, prefix: true}
	}
	return Selector{text: f}
}

// Matches compares bytes, case-sensitively.
func (s Selector) Matches(id string) bool {
	if s.prefix {
		return strings.HasPrefix(id, s.text)
	}
	return id == s.text
}

// All reports whether the selector is "*".
func (s Selector) All() bool { return s.prefix && s.text == "" }

// Exact returns the one id that the selector matches, when it is of that form.
func (s Selector) Exact() (string, bool) { return s.text, !s.prefix }

// Prefix returns what ids must begin with, when the selector is of that form
// ("" for "*").
func (s Selector) Prefix() (string, bool) { return s.text, s.prefix }

func (s Selector) String() string {
	if s.prefix {
		return s.text + "*"
	}
	return s.text
}

// validBuiltinSelector: "*", NAME, NAME"*".
func validBuiltinSelector(f string) bool {
	return f == "*" || latchkey.ValidName(strings.TrimSuffix(f, "*"))
}

// validSelector is the wider grammar of application types, whose ids are the
// application's own.
func validSelector(f string) bool {
	if f == "" || len(f) > MaxSelector || !utf8.ValidString(f) {
		return false
	}
	return !strings.ContainsFunc(f, unicode.IsControl)
}

// ValidID reports whether id may be asked about in a decision: any UTF-8 of 1
// byte to 1 KiB without U+0000. Its characters are literal.
func ValidID(id string) bool {
	return id != "" && len(id) <= MaxID && !strings.ContainsRune(id, 0) && utf8.ValidString(id)
}
