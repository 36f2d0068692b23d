package people

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// maxName is of names for people, in characters.
const maxName = 200

// PersonFields are what a manager says of a person.
type PersonFields struct {
	Username string
	Email    string // in lower case, "" for none
	Name     string
	Type     authz.PersonType
	Active   bool
}

func (f *PersonFields) put(p *authz.Person) {
	p.Username, p.Email, p.Name, p.Type, p.Active = f.Username, f.Email, f.Name, f.Type, f.Active
}

// faults gathers what is wrong with a body.
type faults []latchkey.Fault

func (f *faults) add(at, code, detail string) {
	*f = append(*f, latchkey.Fault{Pointer: at, Code: code, Detail: detail})
}

func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return latchkey.InvalidFaults(f...)
}

// members reads an object that has no other members than the given ones.
func (f *faults) members(v strictjson.Value, names ...string) map[string]strictjson.Value {
	m := make(map[string]strictjson.Value, len(names))
	if v.Kind() != strictjson.Object {
		f.add("", "wrong_type", "want an object, got "+v.Kind().String())
		return m
	}
	for _, name := range names {
		m[name] = strictjson.Value{}
	}
	for name, value := range v.Members() {
		if _, known := m[name]; !known {
			f.add(strictjson.Pointer("", name), "unknown_member", "unknown member; there are "+strings.Join(names, ", "))
			continue
		}
		m[name] = value
	}
	return m
}

// text reads a string for people, "" where it is absent or null and need not be
// there. What it returns is a copy.
func (f *faults) text(v strictjson.Value, at string, required bool) string {
	s := v.Text()
	switch k := v.Kind(); {
	case (k == strictjson.Missing || k == strictjson.Null) && !required:
		return ""
	case k == strictjson.Missing:
		f.add(at, "missing_member", "the member is required")
	case k != strictjson.String:
		f.add(at, "wrong_type", "want a string, got "+k.String())
	case strings.TrimSpace(s) == "":
		f.add(at, "blank", "must not be blank")
	case utf8.RuneCountInString(s) > maxName:
		f.add(at, "too_long", "at most "+strconv.Itoa(maxName)+" characters")
	case strings.ContainsFunc(s, unicode.IsControl):
		f.add(at, "control_character", "must not hold control characters")
	case authz.ContainsToken(s):
		f.add(at, "credential_in_name", "must not hold a credential")
	default:
		return strings.Clone(s)
	}
	return ""
}

var personTypes = map[string]authz.PersonType{
	"user": authz.UserPerson, "admin": authz.AdminPerson, "internal_admin": authz.InternalAdminPerson,
	// As the access-key document writes them.
	"User": authz.UserPerson, "Admin": authz.AdminPerson, "InternalAdmin": authz.InternalAdminPerson,
}

// ParsePersonType reads a type in either spelling.
func ParsePersonType(s string) (authz.PersonType, bool) {
	t, ok := personTypes[s]
	return t, ok
}

// ParsePerson reads {username, email?, name?, type="user", active=true}. The
// error is of kind Invalid with a pointer for everything that is wrong; the
// strings are copies.
func ParsePerson(body strictjson.Value) (in PersonFields, err error) {
	var f faults
	m := f.members(body, "username", "email", "name", "type", "active")
	in = PersonFields{Type: authz.UserPerson, Active: true}
	if in.Username = f.text(m["username"], "/username", true); in.Username != "" && !validUsername(in.Username) {
		f.add("/username", "invalid_username", `a username is 1 to 128 of [A-Za-z0-9._:-], the first alphanumeric, neither a UUID nor "bot"`)
	}
	if email := m["email"]; email.Kind() != strictjson.Missing && email.Kind() != strictjson.Null {
		var ok bool
		if email.Kind() != strictjson.String {
			f.add("/email", "wrong_type", "want a string or null, got "+email.Kind().String())
		} else if in.Email, ok = authz.FoldEmail(email.Text()); !ok {
			f.add("/email", "invalid_email", "want an e-mail address in ASCII, of at most 254 bytes; leave it out where there is none")
		} else if authz.ContainsToken(email.Text()) {
			f.add("/email", "credential_in_name", "must not hold a credential")
		}
		in.Email = strings.Clone(in.Email)
	}
	in.Name = f.text(m["name"], "/name", false)
	switch t := m["type"]; t.Kind() {
	case strictjson.Missing:
	case strictjson.String:
		var ok bool
		if in.Type, ok = ParsePersonType(t.Text()); !ok {
			f.add("/type", "invalid_type", "want one of user, admin, internal_admin")
		}
	default:
		f.add("/type", "wrong_type", "want a string, got "+t.Kind().String())
	}
	if active := m["active"]; active.Kind() != strictjson.Missing {
		if active.Kind() != strictjson.Bool {
			f.add("/active", "wrong_type", "want true or false, got "+active.Kind().String())
		}
		in.Active = active.True()
	}
	return in, f.err()
}

// validUsername keeps usernames apart from everything else that names a person.
func validUsername(s string) bool {
	return latchkey.ValidName(s) && !strings.EqualFold(s, authz.Bot) && !authz.IsID(strings.ToLower(s))
}

// ParseTokenName reads the name of a token.
func ParseTokenName(v strictjson.Value) (string, error) {
	var f faults
	name := f.text(v, "/name", true)
	return name, f.err()
}
