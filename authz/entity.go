package authz

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Limits of what is stored of an entity, in bytes where nothing else is said.
const (
	maxSubjectType = 256
	maxProperties  = 16 << 10
	maxDisplayName = 500 // characters
	maxLabels      = 50
	maxLabelName   = 128
	maxLabelValue  = 512
	maxCatalogue   = 200
)

// EntityRef names a subject or a resource of a customer.
type EntityRef struct{ Type, ID string }

// SubjectRecord is a stored subject. Properties is a canonical JSON object.
type SubjectRecord struct {
	EntityRef
	Properties string
}

// ResourceRecord is a stored resource; its type is what the API calls its kind.
// Labels (of strings) and Properties are canonical JSON objects.
type ResourceRecord struct {
	EntityRef
	DisplayName, Labels, Properties string
}

// SubjectUpdate makes or changes a subject; what is nil stays as it is.
type SubjectUpdate struct {
	EntityRef
	Properties *string
}

// ResourceUpdate makes or changes a resource; what is nil stays as it is.
type ResourceUpdate struct {
	EntityRef
	DisplayName, Labels, Properties *string
}

// ResourceType is the catalogue of a type's actions, in the order in which they
// are shown.
type ResourceType struct {
	Type    string
	Actions []string
}

// ParseSubjectUpdate reads {type, id, properties?}, which stands at pointer at.
// The strings are copies.
func ParseSubjectUpdate(v strictjson.Value, at string) (u SubjectUpdate, err error) {
	m, err := entityMembers(v, at, "type", "id", "properties")
	if err != nil {
		return u, err
	}
	if u.Type, err = entityText(m["type"], at+"/type", maxSubjectType); err != nil {
		return u, err
	}
	if u.ID, err = entityText(m["id"], at+"/id", scopes.MaxID); err != nil {
		return u, err
	}
	if err := checkSubject(u.EntityRef, at); err != nil {
		return u, err
	}
	u.Properties, err = properties(m["properties"], at+"/properties")
	if err == nil && u.Type == SubjectAccessKey {
		for _, reserved := range []string{"key", "metadata"} {
			if m["properties"].Get(reserved).Kind() != strictjson.Missing {
				return u, entityFault(at+"/properties/"+reserved, "reserved_property", "an access key has this property already: its secret, or its metadata")
			}
		}
	}
	return u, err
}

// ParseResourceUpdate reads {kind, id, displayName?, labels?, properties?},
// which stands at pointer at; type is another name of kind. The strings are
// copies.
func ParseResourceUpdate(v strictjson.Value, at string) (u ResourceUpdate, err error) {
	m, err := entityMembers(v, at, "kind", "type", "id", "displayName", "labels", "properties")
	if err != nil {
		return u, err
	}
	kind := "kind"
	switch {
	case m["type"].Kind() == strictjson.Missing:
	case m["kind"].Kind() != strictjson.Missing:
		return u, entityFault(at+"/type", "two_kinds", "type is another name of kind: give one of them")
	default:
		kind = "type"
	}
	if u.Type, err = entityText(m[kind], at+"/"+kind, scopes.MaxTypeName); err != nil {
		return u, err
	}
	if !scopes.ValidTypeName(u.Type) {
		return u, entityFault(at+"/"+kind, "invalid_kind", "a kind is [a-z][a-z0-9_]{0,63}, not beginning with latchkey_")
	}
	if u.ID, err = entityText(m["id"], at+"/id", scopes.MaxID); err != nil {
		return u, err
	}
	if err := checkResource(u.EntityRef, at+"/id"); err != nil {
		return u, err
	}
	if u.DisplayName, err = displayName(m["displayName"], at+"/displayName"); err != nil {
		return u, err
	}
	if u.Labels, err = labels(m["labels"], at+"/labels"); err != nil {
		return u, err
	}
	u.Properties, err = properties(m["properties"], at+"/properties")
	return u, err
}

// ParseResourceType reads {actions, type?} for the catalogue of a type that the
// path names.
func ParseResourceType(v strictjson.Value, typ string) (t ResourceType, err error) {
	if !scopes.ValidTypeName(typ) {
		return t, entityFault("path:type", "invalid_kind", "a type is [a-z][a-z0-9_]{0,63}, not beginning with latchkey_")
	}
	t.Type = strings.Clone(typ)
	m, err := entityMembers(v, "", "type", "actions")
	if err != nil {
		return t, err
	}
	if named := m["type"]; named.Kind() != strictjson.Missing && named.Text() != typ {
		return t, entityFault("/type", "type_conflict", "the path names another type than the body")
	}
	switch list := m["actions"]; {
	case list.Kind() == strictjson.Missing:
		return t, entityFault("/actions", "missing_member", "the member is required")
	case list.Kind() != strictjson.Array:
		return t, entityFault("/actions", "wrong_type", "want an array, got "+list.Kind().String())
	case list.Len() == 0 || list.Len() > maxCatalogue:
		return t, entityFault("/actions", "invalid_actions", fmt.Sprintf("a catalogue has 1 to %d actions", maxCatalogue))
	}
	for i, e := range m["actions"].Elements() {
		at := strictjson.PointerIndex("/actions", i)
		name := strings.Clone(e.Text())
		switch {
		case e.Kind() != strictjson.String:
			return t, entityFault(at, "wrong_type", "want a string, got "+e.Kind().String())
		case !scopes.ValidActionName(name) || ContainsToken(name):
			return t, entityFault(at, "invalid_action", "an action is a name ([A-Za-z0-9._:-], at most 64, first alphanumeric)")
		case slices.Contains(t.Actions, name):
			return t, entityFault(at, "duplicate_action", "the action stands twice")
		}
		t.Actions = append(t.Actions, name)
	}
	return t, nil
}

// checkSubject refuses a subject that only looks like an access key: policies
// would take its properties for those of a key.
func checkSubject(ref EntityRef, at string) error {
	switch {
	case ConfusableSubject(ref.Type):
		return entityFault(at+"/type", "confusable_subject_type", `the type only looks like "access_key"`)
	case ref.Type == SubjectAccessKey:
		if _, ok := ParseKeyID(ref.ID); !ok {
			return entityFault(at+"/id", "invalid_key_id", "an access key is stored by its id")
		}
	}
	return nil
}

// checkResource refuses an id that a scope entry would read as a prefix.
func checkResource(ref EntityRef, at string) error {
	if strings.HasSuffix(ref.ID, "*") {
		return entityFault(at, "invalid_resource_id", "an id must not end in *: in a scope entry it would select others too")
	}
	return nil
}

func entityFault(pointer, code, detail string) error {
	return latchkey.InvalidFaults(latchkey.Fault{Pointer: pointer, Code: code, Detail: detail})
}

// entityMembers reads an object with the given members and no others.
func entityMembers(v strictjson.Value, at string, names ...string) (map[string]strictjson.Value, error) {
	if v.Kind() != strictjson.Object {
		return nil, entityFault(at, "wrong_type", "want an object, got "+v.Kind().String())
	}
	m := make(map[string]strictjson.Value, len(names))
	for name, member := range v.Members() {
		if !slices.Contains(names, name) {
			return nil, entityFault(strictjson.Pointer(at, name), "unknown_member", "unknown member")
		}
		m[name] = member
	}
	return m, nil
}

// entityText reads a required text without control characters.
func entityText(v strictjson.Value, at string, most int) (string, error) {
	text := v.Text()
	switch k := v.Kind(); {
	case k == strictjson.Missing:
		return "", entityFault(at, "missing_member", "the member is required")
	case k != strictjson.String:
		return "", entityFault(at, "wrong_type", "want a string, got "+k.String())
	case text == "":
		return "", entityFault(at, "empty_string", "must not be empty")
	case len(text) > most:
		return "", entityFault(at, "too_long", fmt.Sprintf("at most %d bytes", most))
	case strings.ContainsFunc(text, unicode.IsControl):
		return "", entityFault(at, "control_character", "must not hold control characters")
	case ContainsToken(text):
		return "", entityFault(at, "credential_in_name", "must not hold a credential")
	}
	return strings.Clone(text), nil
}

func displayName(v strictjson.Value, at string) (*string, error) {
	text := strings.Clone(v.Text())
	switch k := v.Kind(); {
	case k == strictjson.Missing:
		return nil, nil
	case k != strictjson.String:
		return nil, entityFault(at, "wrong_type", "want a string, got "+k.String())
	case utf8.RuneCountInString(text) > maxDisplayName:
		return nil, entityFault(at, "too_long", fmt.Sprintf("at most %d characters", maxDisplayName))
	case ContainsToken(text):
		return nil, entityFault(at, "credential_in_name", "must not hold a credential")
	}
	return &text, nil
}

func labels(v strictjson.Value, at string) (*string, error) {
	switch k := v.Kind(); {
	case k == strictjson.Missing:
		return nil, nil
	case k != strictjson.Object:
		return nil, entityFault(at, "wrong_type", "want an object, got "+k.String())
	case v.Len() > maxLabels:
		return nil, entityFault(at, "too_many_labels", fmt.Sprintf("at most %d labels", maxLabels))
	}
	for name, value := range v.Members() {
		at := strictjson.Pointer(at, name)
		switch {
		// Names that are numbers are put in another order by JavaScript, and receivers
		// sign what they have parsed and written again.
		case !beginsWithLetter(name) || len(name) > maxLabelName || strings.ContainsFunc(name, unicode.IsControl):
			return nil, entityFault(at, "invalid_label", fmt.Sprintf("a label's name has up to %d bytes, begins with a letter of ASCII, and has no control characters", maxLabelName))
		case value.Kind() != strictjson.String:
			return nil, entityFault(at, "wrong_type", "want a string, got "+value.Kind().String())
		case len(value.Text()) > maxLabelValue:
			return nil, entityFault(at, "too_long", fmt.Sprintf("a label's value has at most %d bytes", maxLabelValue))
		case ContainsToken(name), ContainsToken(value.Text()):
			return nil, entityFault(at, "credential_in_label", "labels are shown; they must not hold a credential")
		}
	}
	text := string(v.AppendCanonical(nil))
	return &text, nil
}

func beginsWithLetter(name string) bool {
	return name != "" && ('a' <= name[0] && name[0] <= 'z' || 'A' <= name[0] && name[0] <= 'Z')
}

func properties(v strictjson.Value, at string) (*string, error) {
	switch k := v.Kind(); k {
	case strictjson.Missing:
		return nil, nil
	case strictjson.Object:
	default:
		return nil, entityFault(at, "wrong_type", "want an object, got "+k.String())
	}
	text := string(v.AppendCanonical(nil))
	switch {
	case len(text) > maxProperties:
		return nil, entityFault(at, "properties_too_large", "properties have at most 16 KiB in all")
	case ContainsToken(text):
		return nil, entityFault(at, "credential_in_properties", "properties are shown, and seen by policies; they must not hold a credential")
	}
	return &text, nil
}
