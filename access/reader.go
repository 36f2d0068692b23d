package access

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// reader reads the members of one object and notes everything that is wrong with
// them, each with its pointer. What it returns are copies.
type reader struct {
	at      string
	members map[string]strictjson.Value // nil where there is no object
	faults  *[]latchkey.Fault
}

// readObject begins to read v, an object with no members but those of known. Of
// anything else every member is missing.
func readObject(v strictjson.Value, at string, faults *[]latchkey.Fault, known ...string) reader {
	r := reader{at: at, faults: faults}
	switch k := v.Kind(); k {
	case strictjson.Object:
	case strictjson.Missing:
		r.fault("", "missing_member", "the member is required")
		return r
	default:
		r.fault("", "wrong_type", "want an object, got "+k.String())
		return r
	}
	r.members = map[string]strictjson.Value{}
	for name, m := range v.Members() {
		if !slices.Contains(known, name) {
			*faults = append(*faults, latchkey.Fault{Pointer: strictjson.Pointer(at, name), Code: "unknown_member", Detail: "unknown member"})
			continue
		}
		r.members[name] = m
	}
	return r
}

// fault notes one at a member, or with "" at the object.
func (r reader) fault(member, code, detail string) {
	at := r.at
	if member != "" {
		at += "/" + member
	}
	*r.faults = append(*r.faults, latchkey.Fault{Pointer: at, Code: code, Detail: detail})
}

// given reports whether a member is there and not null; null is what a client
// that writes every member sends for one that it leaves out.
func (r reader) given(member string) bool {
	k := r.members[member].Kind()
	return k != strictjson.Missing && k != strictjson.Null
}

// is checks the kind of a member that is given.
func (r reader) is(member string, want strictjson.Kind) bool {
	if !r.given(member) {
		return false
	}
	if k := r.members[member].Kind(); k != want {
		r.fault(member, "wrong_type", "want "+article(want)+", got "+k.String())
		return false
	}
	return true
}

func article(k strictjson.Kind) string {
	switch k {
	case strictjson.Array, strictjson.Object:
		return "an " + k.String()
	default:
		return "a " + k.String()
	}
}

// require notes which members are missing.
func (r reader) require(members ...string) {
	for _, m := range members {
		if r.members != nil && !r.given(m) {
			r.fault(m, "missing_member", "the member is required")
		}
	}
}

// text reads one line of at most most characters.
func (r reader) text(member string, most int) string {
	return r.checkedText(member, most, notPrintable)
}

// prose reads lines of at most most characters.
func (r reader) prose(member string, most int) string {
	return r.checkedText(member, most, notProse)
}

func notPrintable(c rune) bool { return unicode.IsControl(c) }

func notProse(c rune) bool { return unicode.IsControl(c) && c != '\n' && c != '\r' && c != '\t' }

func (r reader) checkedText(member string, most int, bad func(rune) bool) string {
	if !r.is(member, strictjson.String) {
		return ""
	}
	text, fault := checkText(r.members[member].Text(), most, bad)
	if fault != nil {
		r.fault(member, fault.Code, fault.Detail)
	}
	return text
}

// checkText returns a copy of a text that may be kept and shown.
func checkText(text string, most int, bad func(rune) bool) (string, *latchkey.Fault) {
	switch {
	case utf8.RuneCountInString(text) > most:
		return "", &latchkey.Fault{Code: "too_long", Detail: fmt.Sprintf("at most %d characters", most)}
	case strings.ContainsFunc(text, bad):
		return "", &latchkey.Fault{Code: "control_character", Detail: "must not hold control characters"}
	case authz.ContainsToken(text):
		return "", &latchkey.Fault{Code: "credential_in_text", Detail: "the text is shown to others; it must not hold a credential"}
	}
	return strings.Clone(text), nil
}

// flag reads true or false.
func (r reader) flag(member string, otherwise bool) bool {
	if !r.given(member) {
		return otherwise
	}
	if k := r.members[member].Kind(); k != strictjson.Bool {
		r.fault(member, "wrong_type", "want true or false, got "+k.String())
		return otherwise
	}
	return r.members[member].True()
}

// number reads a whole number from least to most.
func (r reader) number(member string, otherwise, least, most int) int {
	if !r.is(member, strictjson.Number) {
		return otherwise
	}
	n, ok := wholeNumber(r.members[member])
	if !ok || n < int64(least) || n > int64(most) {
		r.fault(member, "out_of_range", "want a whole number from "+strconv.Itoa(least)+" to "+strconv.Itoa(most))
		return otherwise
	}
	return int(n)
}

// wholeNumber reads 60, 60.0 and 6e1 alike.
func wholeNumber(v strictjson.Value) (int64, bool) {
	f, err := strconv.ParseFloat(v.Raw(), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int64(f), true
}

// oneOf reads a word, the first of words where it is not given.
func oneOf[W ~string](r reader, member string, words ...W) W {
	if !r.is(member, strictjson.String) {
		return words[0]
	}
	i := slices.Index(words, W(r.members[member].Text()))
	if i < 0 {
		r.fault(member, "invalid_value", "want one of "+join(words))
		return words[0]
	}
	return words[i]
}

func join[W ~string](words []W) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(w))
	}
	return b.String()
}

// detail is what is wrong, for people.
func detail(err error) string {
	if e, ok := errors.AsType[*latchkey.Error](err); ok {
		return e.Public
	}
	return "it cannot be read"
}

// id reads a UUID in its one spelling.
func (r reader) id(member string) string {
	if !r.is(member, strictjson.String) {
		return ""
	}
	id := strings.Clone(r.members[member].Text())
	if !authz.IsID(id) {
		r.fault(member, "invalid_id", "want an id: a UUID in lower case")
	}
	return id
}

// elements calls each for the elements of an array of at most most.
func (r reader) elements(member string, most int, each func(element reader, index string, v strictjson.Value)) {
	if !r.is(member, strictjson.Array) {
		return
	}
	v := r.members[member]
	if v.Len() > most {
		r.fault(member, "too_many", "at most "+strconv.Itoa(most))
		return
	}
	list := reader{at: r.at + "/" + member, faults: r.faults}
	for i, e := range v.Elements() {
		each(list, strconv.Itoa(i), e)
	}
}

// ids reads distinct UUIDs in their order.
func (r reader) ids(member string, most int) (list []string) {
	r.elements(member, most, func(in reader, index string, v strictjson.Value) {
		id := strings.Clone(v.Text())
		switch {
		case v.Kind() != strictjson.String:
			in.fault(index, "wrong_type", "want a string, got "+v.Kind().String())
		case !authz.IsID(id):
			in.fault(index, "invalid_id", "want an id: a UUID in lower case")
		case slices.Contains(list, id):
			in.fault(index, "duplicate", "stands twice")
		default:
			list = append(list, id)
		}
	})
	return list
}

// texts reads distinct lines that are not empty.
func (r reader) texts(member string, most, length int) (list []string) {
	r.elements(member, most, func(in reader, index string, v strictjson.Value) {
		text, fault := checkText(v.Text(), length, notPrintable)
		switch {
		case v.Kind() != strictjson.String:
			in.fault(index, "wrong_type", "want a string, got "+v.Kind().String())
		case fault != nil:
			in.fault(index, fault.Code, fault.Detail)
		case text == "":
			in.fault(index, "empty_string", "must not be empty")
		case slices.Contains(list, text):
			in.fault(index, "duplicate", "stands twice")
		default:
			list = append(list, text)
		}
	})
	return list
}
