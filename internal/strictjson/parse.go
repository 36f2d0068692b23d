package strictjson

import (
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/latchkey-dev/latchkey"
)

const (
	// MaxDepth is how many arrays and objects may stand inside one another.
	MaxDepth = 64
	// MaxNumber is the greatest length of a number literal in bytes.
	MaxNumber = 64
	// fewMembers is up to how many names are compared pair by pair.
	fewMembers = 12
)

// Kind is the type of a JSON value; the zero Kind is Missing.
type Kind uint8

const (
	Missing Kind = iota
	Null
	Bool
	Number
	String
	Array
	Object
)

func (k Kind) String() string {
	return [...]string{"missing", "null", "boolean", "number", "string", "array", "object"}[k]
}

// node is one value, or one member name, on the tape. The children of an
// array follow it; those of an object are name, value, name, value. next is
// the index just past the node and all below it.
type node struct {
	start, end int32
	next       int32
	kind       Kind
	escaped    bool
}

// Doc is a parsed body. The zero Doc is ready to Parse.
type Doc struct {
	src   string
	nodes []node
	pos   int
	high  bool // some byte is outside ASCII
	path  []int32
	fault *latchkey.Fault
}

// Parse reads src, which must be one JSON value with nothing but white space
// around it. The error is a *latchkey.Error of kind Invalid whose one fault
// points at what was wrong. src must not change while the Doc is in use.
func (d *Doc) Parse(src string) error {
	d.src, d.nodes, d.pos, d.high, d.path, d.fault = src, d.nodes[:0], 0, false, d.path[:0], nil
	if len(src) > math.MaxInt32-1 {
		return d.fail("body_too_large", "the body is too large")
	}
	d.space()
	if d.pos == len(src) {
		return d.fail("empty_body", "a JSON body is required")
	}
	if !d.value() {
		return d.failed()
	}
	d.space()
	if d.pos < len(src) {
		d.path = d.path[:0]
		return d.fail("trailing_data", fmt.Sprintf("unexpected data after the JSON value, at byte %d", d.pos))
	}
	if d.high && !utf8.ValidString(src) {
		d.path = d.path[:0]
		return d.fail("invalid_utf8", "the body is not valid UTF-8")
	}
	return nil
}

// Root returns the top value of the last successful Parse.
func (d *Doc) Root() Value { return Value{d: d, at: 0} }

// Clip lets go of the memory that parsing needed and reading does not, for a
// Doc that is kept.
func (d *Doc) Clip() {
	d.nodes = append(make([]node, 0, len(d.nodes)), d.nodes...)
	d.path = nil
}

func (d *Doc) failed() error { return latchkey.InvalidFaults(*d.fault) }

func (d *Doc) fail(code, detail string) error {
	d.stop(code, detail)
	return d.failed()
}

// stop records the first fault with a pointer made of the open containers.
func (d *Doc) stop(code, detail string) bool {
	if d.fault == nil {
		d.fault = &latchkey.Fault{Pointer: d.pointer(), Code: code, Detail: detail}
	}
	return false
}

func (d *Doc) syntax(what string) bool {
	return d.stop("invalid_json", fmt.Sprintf("%s at byte %d", what, d.pos))
}

// pointer walks the open containers, whose nodes path holds. In each, the last
// child on the tape says where we are: still open, it is the way; complete, the
// fault lies in the element after it, or in the object itself.
func (d *Doc) pointer() string {
	var p []byte
	end := int32(len(d.nodes))
	for _, at := range d.path {
		if d.nodes[at].kind == Array {
			index := 0
			for i := at + 1; i < end && d.nodes[i].next != 0; i = d.nodes[i].next {
				index++
			}
			p = appendPointer(p, strconv.Itoa(index))
			continue
		}
		for i := at + 1; i < end; i = d.nodes[i+1].next {
			if i+1 == end || d.nodes[i+1].next == 0 {
				p = appendPointer(p, Value{d: d, at: i}.Text())
				break
			}
		}
	}
	return string(p)
}

func (d *Doc) space() {
	for d.pos < len(d.src) {
		switch d.src[d.pos] {
		case ' ', '\t', '\n', '\r':
			d.pos++
		default:
			return
		}
	}
}

func (d *Doc) value() bool {
	if d.pos == len(d.src) {
		return d.syntax("unexpected end of the body")
	}
	switch c := d.src[d.pos]; {
	case c == '{':
		return d.object()
	case c == '[':
		return d.array()
	case c == '"':
		return d.text()
	case c == '-' || '0' <= c && c <= '9':
		return d.number()
	case c == 't':
		return d.literal("true", Bool)
	case c == 'f':
		return d.literal("false", Bool)
	case c == 'n':
		return d.literal("null", Null)
	}
	return d.syntax("unexpected character")
}

func (d *Doc) literal(word string, kind Kind) bool {
	if len(d.src)-d.pos < len(word) || d.src[d.pos:d.pos+len(word)] != word {
		return d.syntax("unexpected character")
	}
	d.add(kind, d.pos, d.pos+len(word), false)
	d.pos += len(word)
	return true
}

func (d *Doc) add(kind Kind, start, end int, escaped bool) {
	d.nodes = append(d.nodes, node{kind: kind, start: int32(start), end: int32(end), next: int32(len(d.nodes) + 1), escaped: escaped})
}

// open puts a container on the tape; its next stays 0 until close.
func (d *Doc) open(kind Kind) (int32, bool) {
	at := int32(len(d.nodes))
	if len(d.path) == MaxDepth {
		return 0, d.stop("too_deep", fmt.Sprintf("nested deeper than %d levels", MaxDepth))
	}
	d.nodes = append(d.nodes, node{kind: kind, start: int32(d.pos)})
	d.path = append(d.path, at)
	d.pos++
	return at, true
}

func (d *Doc) close(at int32) bool {
	d.pos++
	d.nodes[at].end = int32(d.pos)
	d.nodes[at].next = int32(len(d.nodes))
	d.path = d.path[:len(d.path)-1]
	return true
}

func (d *Doc) array() bool {
	at, ok := d.open(Array)
	if !ok {
		return false
	}
	d.space()
	if d.peek() == ']' {
		return d.close(at)
	}
	for {
		d.space()
		if !d.value() {
			return false
		}
		d.space()
		switch d.peek() {
		case ',':
			d.pos++
		case ']':
			return d.close(at)
		default:
			return d.syntax("expected a comma or the end of the array")
		}
	}
}

func (d *Doc) object() bool {
	at, ok := d.open(Object)
	if !ok {
		return false
	}
	d.space()
	if d.peek() == '}' {
		return d.close(at)
	}
	members := 0
	var seen map[string]struct{}
	for {
		d.space()
		if d.peek() != '"' {
			return d.syntax("expected a member name in double quotes")
		}
		name := int32(len(d.nodes))
		if !d.text() {
			return false
		}
		members++
		if members > fewMembers {
			if seen == nil {
				seen = make(map[string]struct{}, 2*members)
				for i := at + 1; i < name; i = d.nodes[i+1].next {
					seen[(Value{d: d, at: i}).Text()] = struct{}{}
				}
			}
			text := Value{d: d, at: name}.Text()
			if _, dup := seen[text]; dup {
				return d.stop("duplicate_name", "the member name stands twice in its object")
			}
			seen[text] = struct{}{}
		} else if d.twice(at, name) {
			return d.stop("duplicate_name", "the member name stands twice in its object")
		}
		d.space()
		if d.peek() != ':' {
			return d.syntax("expected a colon after the member name")
		}
		d.pos++
		d.space()
		if !d.value() {
			return false
		}
		d.space()
		switch d.peek() {
		case ',':
			d.pos++
		case '}':
			return d.close(at)
		default:
			return d.syntax("expected a comma or the end of the object")
		}
	}
}

// twice compares the newest name with those before it in its object.
func (d *Doc) twice(object, name int32) bool {
	n := d.nodes[name]
	raw := d.src[n.start+1 : n.end-1]
	for i := object + 1; i < name; i = d.nodes[i+1].next {
		o := d.nodes[i]
		if o.escaped || n.escaped {
			if (Value{d: d, at: i}).Text() == (Value{d: d, at: name}).Text() {
				return true
			}
		} else if d.src[o.start+1:o.end-1] == raw {
			return true
		}
	}
	return false
}

func (d *Doc) peek() byte {
	if d.pos < len(d.src) {
		return d.src[d.pos]
	}
	return 0
}
