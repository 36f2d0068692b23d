package audit

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// DecisionRecord is one decision as the decision log takes it. Unlike an
// [Event] it is no part of a chain: it tells of traffic, not of changes.
type DecisionRecord struct {
	ID          string // decision_id
	At          latchkey.Instant
	Took        time.Duration
	Path        string // what was asked, as "latchkey/decision"
	RequestedBy string // source address
	Customer    string
	RequestID   string
	Caller      string // the handle of who asked; never a secret
	// Input and Result are the question and the answer as JSON objects. The
	// subject's own secret is in neither.
	Input, Result []byte
}

// DecisionEvent is a record in the form in which it waits to be delivered: its
// text is complete but for masks. It holds nothing of the record that it was
// made of.
type DecisionEvent struct {
	text     []byte // of the whole event
	from, to int    // the input's place in it
}

// Size is the memory that the event takes, in bytes.
func (e *DecisionEvent) Size() int { return cap(e.text) }

// Event gives the record the form of an event of OPA's decision log (decision
// log service API, v1). Labels is a JSON object of strings; number counts the
// events of this process from 1, so that gaps show what was lost.
func (r *DecisionRecord) Event(labels []byte, number uint64) DecisionEvent {
	b := make([]byte, 0, 320+len(labels)+len(r.Path)+len(r.Customer)+len(r.RequestID)+len(r.Input)+len(r.Result))
	text := func(name, value string) {
		if value != "" {
			b = append(strictjson.AppendString(append(b, ','), name), ':')
			b = strictjson.AppendString(b, value)
		}
	}
	b = append(append(b, `{"labels":`...), labels...)
	text("decision_id", r.ID)
	text("path", r.Path)
	text("requested_by", r.RequestedBy)
	b = append(b, `,"timestamp":"`...)
	b = append(r.At.AppendText(b), `","metrics":{"timer_server_handler_ns":`...)
	b = strconv.AppendInt(b, r.Took.Nanoseconds(), 10)
	b = append(b, `},"req_id":`...)
	b = strconv.AppendUint(b, number, 10)
	b = append(b, `,"custom":{"engine":"latchkey"`...)
	text("customer", r.Customer)
	text("request_id", r.RequestID)
	text("caller", r.Caller)
	b = append(b, `},"result":`...)
	b = append(b, r.Result...)
	e := DecisionEvent{from: len(b)}
	b = append(b, r.Input...)
	e.text, e.to = b, len(b)
	return e
}

// Masks say what is left out of the input of every event.
type Masks []mask

type mask struct {
	pointer string
	parts   []string
}

// ParseMasks reads JSON pointers (RFC 6901) into the event: /input/context/pin,
// say. A number passes into an array.
func ParseMasks(pointers []string) (Masks, error) {
	var list Masks
	for _, p := range pointers {
		if p != "/input" && !strings.HasPrefix(p, "/input/") {
			return nil, errors.New("a mask is a JSON pointer that begins with /input, not " + strconv.Quote(p))
		}
		m := mask{pointer: p}
		for _, part := range strings.Split(p, "/")[2:] {
			if strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(part), "~") {
				return nil, errors.New("a ~ in a JSON pointer is written ~0, a / ~1: " + strconv.Quote(p))
			}
			m.parts = append(m.parts, strings.NewReplacer("~1", "/", "~0", "~").Replace(part))
		}
		list = append(list, m)
	}
	return list, nil
}

// Append appends the event as it is delivered: the input in canonical form,
// what the masks name left out and listed in "erased" as OPA does it, and redact
// applied to all of the text. Doc is a place to work in.
func (e *DecisionEvent) Append(b []byte, doc *strictjson.Doc, masks Masks, redact func(string) string) []byte {
	out := append(make([]byte, 0, len(e.text)+64), e.text[:e.from]...)
	var erased []string
	whole := slices.IndexFunc(masks, func(m mask) bool { return len(m.parts) == 0 })
	switch {
	case whole >= 0:
		erased = append(erased, masks[whole].pointer)
	case doc.Parse(string(e.text[e.from:e.to])) != nil:
		erased = append(erased, "/input") // what cannot be read cannot be masked
	default:
		// Canonical text has the fewest escapes, so nothing hides from redact.
		out = append(out, `,"input":`...)
		out = appendMasked(out, doc.Root(), masks, 0, &erased)
	}
	if len(erased) > 0 {
		out = append(out, `,"erased":[`...)
		for i, pointer := range erased {
			if i > 0 {
				out = append(out, ',')
			}
			out = strictjson.AppendString(out, pointer)
		}
		out = append(out, ']')
	}
	return append(b, redact(string(append(out, '}')))...)
}

// appendMasked appends v without what the masks name. All of them have led to v
// with their first parts.
func appendMasked(b []byte, v strictjson.Value, masks Masks, depth int, erased *[]string) []byte {
	if len(masks) == 0 {
		return v.AppendCanonical(b)
	}
	first := true
	each := func(name, prefix string, value strictjson.Value) {
		var below Masks
		for _, m := range masks {
			if m.parts[depth] != name {
				continue
			}
			if len(m.parts) == depth+1 {
				*erased = append(*erased, m.pointer)
				return
			}
			below = append(below, m)
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, prefix...)
		b = appendMasked(b, value, below, depth+1, erased)
	}
	switch v.Kind() {
	case strictjson.Object:
		b = append(b, '{')
		for _, name := range sortedMembers(v) {
			each(name, string(append(strictjson.AppendString(nil, name), ':')), v.Get(name))
		}
		return append(b, '}')
	case strictjson.Array:
		b = append(b, '[')
		for i, element := range v.Elements() {
			each(strconv.Itoa(i), "", element)
		}
		return append(b, ']')
	default:
		return v.AppendCanonical(b)
	}
}

func sortedMembers(v strictjson.Value) (names []string) {
	for name := range v.Members() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
