package policies

import (
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// Input is one question as policies see it. Its texts may be views of a buffer
// that the next request overwrites: an evaluation keeps none of them. The
// subject's own secret is never in it.
type Input struct {
	Subject, Resource Entity
	Action            Action
	Context           strictjson.Value // an object, or Missing for {}
	// ScopePermits says that the subject's scopes permit the question; false
	// for a subject without a ceiling.
	ScopePermits bool
	Grants       []Grant // live ones that cover the question
	Now          latchkey.Instant
}

// Entity is a subject or a resource.
type Entity struct {
	Type, ID string
	// Given are the request's properties (an object, or Missing), which overlay
	// Stored member by member; Metadata, an access key's own, is the member
	// "metadata", which requests cannot overlay.
	Given            strictjson.Value
	Stored, Metadata *Properties
	// Key says that the entity is an access key: the given members "key" and
	// "metadata" do not count.
	Key bool
}

// Action is what is to be done.
type Action struct {
	Name       string
	Properties strictjson.Value // an object, or Missing for {}
}

// Grant is a live grant that covers the question.
type Grant struct {
	ID, Entitlement, Reason string
	NotBefore, ExpiresAt    latchkey.Instant
}

// Property finds a top-level property: a key's metadata, else the request's,
// else the stored one; Missing when there is none.
func (e *Entity) Property(name string) strictjson.Value {
	if e.Key && name == "metadata" {
		return e.Metadata.Value()
	}
	if !e.Key || name != "key" {
		if v := e.Given.Get(name); v.Kind() != strictjson.Missing {
			return v
		}
	}
	return e.Stored.Value().Get(name)
}

// Properties yields all top-level properties, each name once, in no
// particular order.
func (e *Entity) Properties(yield func(string, strictjson.Value) bool) {
	if e.Key && e.Metadata != nil && !yield("metadata", e.Metadata.Value()) {
		return
	}
	for name, v := range e.Given.Members() {
		if e.Key && (name == "key" || name == "metadata") {
			continue
		}
		if !yield(name, v) {
			return
		}
	}
	for name, v := range e.Stored.Value().Members() {
		if e.Key && name == "metadata" || e.Given.Get(name).Kind() != strictjson.Missing && (!e.Key || name != "key") {
			continue
		}
		if !yield(name, v) {
			return
		}
	}
}

// Properties is a stored JSON object, parsed once. Immutable; a nil one is
// empty.
type Properties struct {
	doc  strictjson.Doc
	text string
	rego atomic.Pointer[ast.Term] // the same as OPA's value, once asked for
}

// NewProperties parses the text of a JSON object.
func NewProperties(text string) (*Properties, error) {
	p := &Properties{text: text}
	if err := p.doc.Parse(text); err != nil {
		return nil, err
	}
	if k := p.doc.Root().Kind(); k != strictjson.Object {
		return nil, latchkey.InvalidFaults(latchkey.Fault{Code: "wrong_type", Detail: "want an object, got " + k.String()})
	}
	p.doc.Clip()
	return p, nil
}

// Value is the object; Missing of a nil one.
func (p *Properties) Value() strictjson.Value {
	if p == nil {
		return strictjson.Value{}
	}
	return p.doc.Root()
}

// Text is the object's JSON text, "{}" of a nil one.
func (p *Properties) Text() string {
	if p == nil {
		return "{}"
	}
	return p.text
}
