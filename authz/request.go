package authz

import (
	"strings"
	"unicode"

	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// SubjectAccessKey is the one subject type with a ceiling of its own.
const SubjectAccessKey = "access_key"

// Request is one question: may this subject do this to that? (OpenID AuthZEN
// 1.0, Access Evaluation). Its strings are views of the request's body.
type Request struct {
	Subject  Entity
	Action   Action
	Resource Entity
	Context  strictjson.Value
	// Policy names the policy to ask; "" is the customer's default.
	Policy string
	// Secret is subject.properties.key: the subject's own secret, which nothing
	// but its resolution sees.
	Secret string
}

// Entity is a subject or a resource.
type Entity struct {
	Type, ID   string
	Properties strictjson.Value
}

// Action is what is to be done.
type Action struct {
	Name       string
	Properties strictjson.Value
}

// ConfusableSubject reports whether a subject type only looks like access_key:
// equal when case is folded and dashes, underscores and spaces are left out.
// Such a subject would be one without a ceiling.
func ConfusableSubject(subjectType string) bool {
	if subjectType == SubjectAccessKey || subjectType == "user" {
		return false
	}
	bare := strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Pd, unicode.Pc, unicode.White_Space, unicode.Cf) {
			return -1
		}
		return r
	}, subjectType)
	return strings.EqualFold(bare, "accesskey")
}

// question is the request as a scope set understands it.
func (q *Request) question() scopes.Question {
	sq := scopes.Question{Type: q.Resource.Type, ID: q.Resource.ID, Action: q.Action.Name}
	if sq.Type == scopes.Sets && scopes.PermissionOf(sq.Action)&^scopes.Read != 0 {
		sq.Values = setValues(q.Resource.Properties)
	}
	return sq
}

// setValues reads the values of a write to a set. Whatever is wrong with them
// refuses the decision; it is never a fault of the call.
func setValues(properties strictjson.Value) *scopes.Values {
	values := &scopes.Values{EntityType: scopes.EntityType(properties.Get("entity_type").Text())}
	read := func(name string) (list []scopes.Value) {
		v := properties.Get(name)
		if k := v.Kind(); k != strictjson.Array && k != strictjson.Missing {
			values.Malformed = true
		}
		for _, e := range v.Elements() {
			list = append(list, scopes.Value{Text: e.Text(), NotText: e.Kind() != strictjson.String})
		}
		return list
	}
	values.Added, values.Removed = read("values"), read("removed_values")
	return values
}
