package policies

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// Language is what a policy is written in.
type Language string

const (
	CEL  Language = "cel"
	Rego Language = "rego"
)

// Limits of a document (3-decisions, "Policies").
const (
	MaxDocument    = 64 << 10 // bytes of its JSON
	MaxRules       = 200
	MaxLabel       = 128 // bytes of a rule's label
	MaxDescription = 1024
	MaxObligations = 32 // of one rule
)

// Document is a policy as its author wrote it: CEL rules of which the first
// that matches decides, or a Rego module. Immutable.
type Document struct {
	Name        string
	Language    Language
	Description string
	Rules       []Rule  // of CEL
	Default     Outcome // of CEL
	Rego        string
}

// Rule is one CEL rule.
type Rule struct {
	Label string
	Match string // a CEL expression of static type bool
	Outcome
}

// Outcome is what a rule, or the default, decides. The zero Outcome denies.
type Outcome struct {
	// Action is "allow", "deny", or the author's own word, whose effect Permit
	// gives.
	Action      string
	Permit      bool
	Obligations string // JSON array of objects; "" is none
}

// reserved names are paths under /decision.
var reserved = map[string]bool{"batch": true, "explain": true, "forward": true}

// ValidPolicyName reports whether a policy may be called that.
func ValidPolicyName(name string) bool { return latchkey.ValidName(name) && !reserved[name] }

// ParseDocument reads {name, language, description?, rules?, default?, rego?}
// strictly; name may be absent where the path gives it, and must equal it. All
// that is wrong comes as faults with pointers; nothing is compiled.
func ParseDocument(v strictjson.Value, name string) (*Document, error) {
	p := &documentReader{}
	d := p.document(v, name)
	if len(p.faults) > 0 {
		return nil, latchkey.InvalidFaults(p.faults...)
	}
	return d, nil
}

type documentReader struct{ faults []latchkey.Fault }

func (p *documentReader) fault(at, code, detail string) {
	p.faults = append(p.faults, latchkey.Fault{Pointer: at, Code: code, Detail: detail})
}

// text reads a string of at most most bytes.
func (p *documentReader) text(v strictjson.Value, at string, required bool, most int) string {
	switch k := v.Kind(); {
	case k == strictjson.Missing && !required:
		return ""
	case k == strictjson.Missing:
		p.fault(at, "missing_member", "the member is required")
		return ""
	case k != strictjson.String:
		p.fault(at, "wrong_type", "want a string, got "+k.String())
		return ""
	}
	s := string([]byte(v.Text())) // outlives the request
	switch {
	case s == "" && required:
		p.fault(at, "empty_string", "must not be empty")
	case len(s) > most || !utf8.ValidString(s):
		p.fault(at, "too_long", "at most "+strconv.Itoa(most)+" bytes")
	}
	return s
}

// members gives an object's known members their place; others are faults.
func (p *documentReader) members(v strictjson.Value, at string, into map[string]*strictjson.Value) bool {
	if v.Kind() != strictjson.Object {
		p.fault(at, "wrong_type", "want an object, got "+v.Kind().String())
		return false
	}
	for name, m := range v.Members() {
		if place, ok := into[name]; ok {
			*place = m
		} else {
			p.fault(strictjson.Pointer(at, name), "unknown_member", "unknown member")
		}
	}
	return true
}

func (p *documentReader) document(v strictjson.Value, path string) *Document {
	var name, language, description, rules, otherwise, rego strictjson.Value
	if !p.members(v, "", map[string]*strictjson.Value{"name": &name, "language": &language, "description": &description,
		"rules": &rules, "default": &otherwise, "rego": &rego}) {
		return nil
	}
	d := &Document{
		Name:        p.text(name, "/name", path == "", latchkey.MaxName),
		Language:    Language(p.text(language, "/language", true, 16)),
		Description: p.text(description, "/description", false, MaxDescription),
	}
	switch {
	case path != "" && d.Name != "" && d.Name != path:
		p.fault("/name", "name_conflict", "the path names another policy")
	case path != "":
		d.Name = strings.Clone(path) // outlives the request
	}
	switch {
	case d.Name == "": // told already
	case reserved[d.Name]:
		p.fault("/name", "reserved_name", "the name is a path of its own under /decision")
	case !latchkey.ValidName(d.Name):
		p.fault("/name", "invalid_policy_name", "a name is 1 to 128 of [A-Za-z0-9._:-], the first alphanumeric")
	}
	switch d.Language {
	case CEL:
		p.foreign(rego, "/rego", d.Language)
		p.rules(d, rules, otherwise)
	case Rego:
		p.foreign(rules, "/rules", d.Language)
		p.foreign(otherwise, "/default", d.Language)
		d.Rego = p.text(rego, "/rego", true, MaxDocument)
	case "": // told already
	default:
		p.fault("/language", "unknown_language", "want cel or rego")
	}
	return d
}

func (p *documentReader) foreign(v strictjson.Value, at string, l Language) {
	if v.Kind() != strictjson.Missing {
		p.fault(at, "wrong_language", "a policy in "+string(l)+" does not have this member")
	}
}

func (p *documentReader) rules(d *Document, rules, otherwise strictjson.Value) {
	switch k := rules.Kind(); {
	case k != strictjson.Array && k != strictjson.Missing:
		p.fault("/rules", "wrong_type", "want an array, got "+k.String())
	case rules.Len() > MaxRules:
		p.fault("/rules", "too_many_rules", "at most "+strconv.Itoa(MaxRules)+" rules a policy")
		return
	}
	labels := map[string]bool{}
	for i, v := range rules.Elements() {
		at := strictjson.PointerIndex("/rules", i)
		var label, match, action, effect, obligations strictjson.Value
		if !p.members(v, at, map[string]*strictjson.Value{"label": &label, "match": &match, "action": &action, "effect": &effect, "obligations": &obligations}) {
			continue
		}
		r := Rule{
			Label:   p.text(label, at+"/label", true, MaxLabel),
			Match:   p.text(match, at+"/match", true, MaxDocument),
			Outcome: p.outcome(at, action, effect, obligations),
		}
		if r.Label != "" && labels[r.Label] {
			p.fault(at+"/label", "duplicate_label", "another rule has this label")
		}
		labels[r.Label] = true
		d.Rules = append(d.Rules, r)
	}
	if otherwise.Kind() == strictjson.Missing {
		p.fault("/default", "missing_member", "the member is required")
		return
	}
	var action, effect, obligations strictjson.Value
	if p.members(otherwise, "/default", map[string]*strictjson.Value{"action": &action, "effect": &effect, "obligations": &obligations}) {
		d.Default = p.outcome("/default", action, effect, obligations)
	}
}

func (p *documentReader) outcome(at string, action, effect, obligations strictjson.Value) Outcome {
	o := Outcome{Action: p.text(action, at+"/action", true, latchkey.MaxName)}
	given := p.text(effect, at+"/effect", false, 16)
	switch given {
	case "", "permit", "deny":
	default:
		p.fault(at+"/effect", "unknown_effect", "want permit or deny")
	}
	o.Permit = o.Action == "allow" || given == "permit"
	switch {
	case o.Action == "": // told already
	case !latchkey.ValidName(o.Action):
		p.fault(at+"/action", "invalid_action", "an action is allow, deny, or a word of [A-Za-z0-9._:-]")
	case o.Action == "allow" && given == "deny", o.Action == "deny" && given == "permit":
		p.fault(at+"/effect", "effect_conflict", "the action says the opposite")
	case o.Action != "allow" && o.Action != "deny" && given == "":
		p.fault(at+"/effect", "missing_member", "an action of your own needs the effect permit or deny")
	}
	o.Obligations = p.obligations(obligations, at+"/obligations")
	return o
}

func (p *documentReader) obligations(v strictjson.Value, at string) string {
	switch k := v.Kind(); {
	case k == strictjson.Missing:
		return ""
	case k != strictjson.Array:
		p.fault(at, "wrong_type", "want an array, got "+k.String())
		return ""
	case v.Len() > MaxObligations:
		p.fault(at, "too_many_obligations", "at most "+strconv.Itoa(MaxObligations)+" obligations")
		return ""
	case v.Len() == 0:
		return ""
	}
	for i, o := range v.Elements() {
		if o.Kind() != strictjson.Object {
			p.fault(strictjson.PointerIndex(at, i), "wrong_type", "want an object, got "+o.Kind().String())
		}
	}
	return string(v.AppendCanonical(nil))
}

// AppendJSON appends the document in its one canonical form: members in a
// fixed order, absent ones left out. ParseDocument reads it back.
func (d *Document) AppendJSON(b []byte) []byte {
	b = strictjson.AppendString(append(b, `{"name":`...), d.Name)
	b = strictjson.AppendString(append(b, `,"language":`...), string(d.Language))
	if d.Description != "" {
		b = strictjson.AppendString(append(b, `,"description":`...), d.Description)
	}
	if d.Language == Rego {
		b = strictjson.AppendString(append(b, `,"rego":`...), d.Rego)
		return append(b, '}')
	}
	b = append(b, `,"rules":[`...)
	for i := range d.Rules {
		r := &d.Rules[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = strictjson.AppendString(append(b, `{"label":`...), r.Label)
		b = strictjson.AppendString(append(b, `,"match":`...), r.Match)
		b = append(r.appendMembers(append(b, ',')), '}')
	}
	b = d.Default.appendMembers(append(b, `],"default":{`...))
	return append(b, '}', '}')
}

// appendMembers appends the outcome's members without braces.
func (o *Outcome) appendMembers(b []byte) []byte {
	b = strictjson.AppendString(append(b, `"action":`...), o.Action)
	switch {
	case o.Action == "allow", o.Action == "deny":
	case o.Permit:
		b = append(b, `,"effect":"permit"`...)
	default:
		b = append(b, `,"effect":"deny"`...)
	}
	if o.Obligations != "" {
		b = append(append(b, `,"obligations":`...), o.Obligations...)
	}
	return b
}
