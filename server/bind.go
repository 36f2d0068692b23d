package server

import (
	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// dialect is how an evaluation is read: /decision refuses unknown members and
// takes the subject's secret in place of its id; /access/v1 is AuthZEN's.
type dialect struct {
	strict bool
	// searched is the member that a search asks for, as a pointer; only its type
	// is read of it.
	searched string
}

var (
	latchkeyDialect = dialect{strict: true}
	authzenDialect  = dialect{}
)

// maxTypeName bounds types and action names in a decision, in bytes.
const maxTypeName = 256

func faultAt(pointer, code, detail string) error {
	return latchkey.InvalidFaults(latchkey.Fault{Pointer: pointer, Code: code, Detail: detail})
}

// evaluation reads one evaluation into q. Members that item lacks are taken
// whole from defaults, which may be missing.
func (d dialect) evaluation(q *authz.Request, item, defaults strictjson.Value, at string) error {
	*q = authz.Request{}
	if item.Kind() != strictjson.Object {
		return faultAt(at, "wrong_type", "want an object, got "+item.Kind().String())
	}
	var subject, action, resource strictjson.Value
	read := func(v strictjson.Value, top bool) error {
		for name, m := range v.Members() {
			switch name {
			case "subject":
				subject = m
			case "action":
				action = m
			case "resource":
				resource = m
			case "context":
				q.Context = m
			case "policy":
				if !d.strict {
					continue
				}
				if m.Kind() != strictjson.String || !latchkey.ValidName(m.Text()) {
					return faultAt(at+"/policy", "invalid_policy_name", "want a policy's name")
				}
				q.Policy = m.Text()
			case "evaluations", "options":
				if !top && d.strict {
					return faultAt(at+"/"+name, "unknown_member", "unknown member")
				}
			default:
				if d.strict {
					return faultAt(strictjson.Pointer(at, name), "unknown_member", "unknown member")
				}
			}
		}
		return nil
	}
	if defaults.Kind() == strictjson.Object {
		if err := read(defaults, true); err != nil {
			return err
		}
	}
	if err := read(item, false); err != nil {
		return err
	}
	if err := d.entity(&q.Subject, subject, place{at, "/subject"}, &q.Secret); err != nil {
		return err
	}
	if authz.ConfusableSubject(q.Subject.Type) {
		return faultAt(at+"/subject/type", "confusable_subject_type", `the type only looks like "access_key"`)
	}
	if d.searched != "/action" {
		if err := d.action(&q.Action, action, place{at, "/action"}); err != nil {
			return err
		}
	}
	if err := d.entity(&q.Resource, resource, place{at, "/resource"}, nil); err != nil {
		return err
	}
	if k := q.Context.Kind(); k != strictjson.Object && k != strictjson.Missing {
		return faultAt(at+"/context", "wrong_type", "want an object, got "+k.String())
	}
	return nil
}

// entity reads a subject or resource. secret is where the subject's own secret
// goes, nil for a resource.
func (d dialect) entity(e *authz.Entity, v strictjson.Value, at place, secret *string) error {
	if v.Kind() != strictjson.Object {
		return object(v, at.String())
	}
	var typ, id strictjson.Value
	for name, m := range v.Members() {
		switch name {
		case "type":
			typ = m
		case "id":
			id = m
		case "properties":
			e.Properties = m
		default:
			if d.strict {
				return faultAt(strictjson.Pointer(at.String(), name), "unknown_member", "unknown member")
			}
		}
	}
	var err error
	if e.Type, err = text(typ, at, "/type", maxTypeName); err != nil {
		return err
	}
	if k := e.Properties.Kind(); k != strictjson.Object && k != strictjson.Missing {
		return faultAt(at.String()+"/properties", "wrong_type", "want an object, got "+k.String())
	}
	if at.member == d.searched {
		if e.Type == authz.SubjectAccessKey {
			e.Properties = strictjson.Value{} // among them may be a secret, of a key that is not asked about
		}
		return nil
	}
	if secret != nil && e.Type == authz.SubjectAccessKey {
		if key := e.Properties.Get("key"); key.Kind() != strictjson.Missing {
			if key.Kind() != strictjson.String || key.Text() == "" {
				return faultAt(at.String()+"/properties/key", "wrong_type", "want the key's secret as a string")
			}
			*secret = key.Text()
			if d.strict && id.Kind() == strictjson.Missing {
				return nil
			}
		}
	}
	e.ID, err = text(id, at, "/id", scopes.MaxID)
	return err
}

func (d dialect) action(a *authz.Action, v strictjson.Value, at place) error {
	if v.Kind() != strictjson.Object {
		return object(v, at.String())
	}
	var name strictjson.Value
	for n, m := range v.Members() {
		switch n {
		case "name":
			name = m
		case "properties":
			a.Properties = m
		default:
			if d.strict {
				return faultAt(strictjson.Pointer(at.String(), n), "unknown_member", "unknown member")
			}
		}
	}
	if k := a.Properties.Kind(); k != strictjson.Object && k != strictjson.Missing {
		return faultAt(at.String()+"/properties", "wrong_type", "want an object, got "+k.String())
	}
	var err error
	a.Name, err = text(name, at, "/name", maxTypeName)
	return err
}

func object(v strictjson.Value, at string) error {
	switch k := v.Kind(); k {
	case strictjson.Object:
		return nil
	case strictjson.Missing:
		return faultAt(at, "missing_member", "the member is required")
	default:
		return faultAt(at, "wrong_type", "want an object, got "+k.String())
	}
}

// place is a JSON pointer in two parts, put together for a fault only.
type place struct{ base, member string }

func (p place) String() string { return p.base + p.member }

// text reads a required, non-empty string of at most most bytes, the given
// member of what stands at a place.
func text(v strictjson.Value, at place, member string, most int) (string, error) {
	switch k := v.Kind(); k {
	case strictjson.String:
	case strictjson.Missing:
		return "", faultAt(at.String()+member, "missing_member", "the member is required")
	default:
		return "", faultAt(at.String()+member, "wrong_type", "want a string, got "+k.String())
	}
	s := v.Text()
	switch {
	case s == "":
		return "", faultAt(at.String()+member, "empty_string", "must not be empty")
	case len(s) > most:
		return "", faultAt(at.String()+member, "too_long", "the text is too long")
	}
	return s, nil
}

// members reads an object of a known shape: each member goes to its place,
// an unknown one is a fault.
func members(v strictjson.Value, at string, into map[string]*strictjson.Value) error {
	if v.Kind() != strictjson.Object {
		return faultAt(at, "wrong_type", "want an object, got "+v.Kind().String())
	}
	for name, m := range v.Members() {
		place, ok := into[name]
		if !ok {
			return faultAt(strictjson.Pointer(at, name), "unknown_member", "unknown member")
		}
		*place = m
	}
	return nil
}
