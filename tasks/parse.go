package tasks

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// Checks are what a task is held to beside its form.
type Checks interface {
	// CheckScript returns a sentence that says why a script can never run, "" where
	// it may. It runs nothing.
	CheckScript(script string) string
	// CompileScript returns a sentence that says why a script of that form does not
	// compile, "" where it does, or where none is run. It runs nothing. The error says
	// that it cannot be told.
	CompileScript(ctx context.Context, script string) (string, error)
	// CheckURL refuses an address that can be told from itself alone, as Invalid with
	// the pointer.
	CheckURL(pointer, url string) error
}

type faults []latchkey.Fault

func (f *faults) add(at, code, detail string) {
	*f = append(*f, latchkey.Fault{Pointer: at, Code: code, Detail: detail})
}

// ParseSettings reads the body of POST /v1/tasks and PUT /v1/tasks/{id}: {name,
// task_type, schedule_type?, script | url, secrets?, max_retries?}. The error is
// Invalid with a pointer for everything that is wrong. The strings are copies.
func ParseSettings(body strictjson.Value, checks Checks) (in Settings, err error) {
	var f faults
	m := map[string]strictjson.Value{}
	known := []string{"name", "task_type", "schedule_type", "script", "url", "secrets", "max_retries"}
	if k := body.Kind(); k != strictjson.Object {
		f.add("", "wrong_type", "want an object, got "+k.String())
		return in, latchkey.InvalidFaults(f...)
	}
	for name, v := range body.Members() {
		if !slices.Contains(known, name) {
			f.add(strictjson.Pointer("", name), "unknown_member", "unknown member; there are "+strings.Join(known, ", "))
			continue
		}
		m[name] = v
	}
	in.Name = f.text(m["name"], "/name", true)
	if in.Name != "" {
		switch {
		case strings.TrimSpace(in.Name) != in.Name:
			f.add("/name", "blank", "must not begin or end with white space")
		case utf8.RuneCountInString(in.Name) > maxName:
			f.add("/name", "too_long", fmt.Sprintf("at most %d characters", maxName))
		case strings.ContainsFunc(in.Name, unicode.IsControl):
			f.add("/name", "control_character", "must not hold control characters")
		case authz.ContainsToken(in.Name):
			f.add("/name", "credential_in_name", "must not hold a credential")
		}
	}
	if s := f.text(m["schedule_type"], "/schedule_type", false); s != "" && s != ScheduleOnce {
		f.add("/schedule_type", "invalid_value", `want "once"`)
	}
	in.Type = Type(f.text(m["task_type"], "/task_type", true))
	switch in.Type {
	case Script:
		f.without(m["url"], "/url", "is of tasks of type webhook")
		if in.Script = f.text(m["script"], "/script", true); in.Script != "" {
			if why := checks.CheckScript(in.Script); why != "" {
				f.add("/script", invalidScript, why)
			} else if authz.ContainsToken(in.Script) {
				f.add("/script", "credential_in_script", "a script is shown to everyone who manages tasks: keep a credential as a secret, and read it by secrets.Get")
			}
		}
		in.Secrets = f.names(m["secrets"], "/secrets")
	case Webhook:
		f.without(m["script"], "/script", "is of tasks of type script")
		f.without(m["secrets"], "/secrets", "are read by scripts alone")
		if in.URL = f.text(m["url"], "/url", true); in.URL != "" {
			if err := checks.CheckURL("/url", in.URL); err != nil {
				f = append(f, faultsOf(err)...)
			} else if authz.ContainsToken(in.URL) {
				f.add("/url", "credential_in_url", "a URL is shown to everyone who manages tasks; it must not hold a credential of latchkey")
			}
		}
	case "":
	default:
		f.add("/task_type", "invalid_value", `want "script" or "webhook"`)
	}
	in.MaxRetries = DefaultRetries
	if v := m["max_retries"]; given(v) {
		n, err := strconv.Atoi(v.Raw())
		switch {
		case v.Kind() != strictjson.Number:
			f.add("/max_retries", "wrong_type", "want a number, got "+v.Kind().String())
		case err != nil || n < 0 || n > MaxRetries:
			f.add("/max_retries", "out_of_range", fmt.Sprintf("want 0 to %d", MaxRetries))
		default:
			in.MaxRetries = n
		}
	}
	if len(f) > 0 {
		return Settings{}, latchkey.InvalidFaults(f...)
	}
	return in, nil
}

func faultsOf(err error) []latchkey.Fault {
	if e, ok := err.(*latchkey.Error); ok && len(e.Faults) > 0 { //nolint:errorlint // CheckURL's own
		return e.Faults
	}
	return []latchkey.Fault{{Pointer: "/url", Code: "invalid_url", Detail: "the URL is not one to send to"}}
}

func given(v strictjson.Value) bool {
	return v.Kind() != strictjson.Missing && v.Kind() != strictjson.Null
}

func (f *faults) without(v strictjson.Value, at, what string) {
	if given(v) {
		f.add(at, "not_applicable", at[1:]+" "+what)
	}
}

// text reads a string, as a copy; "" where there is a fault.
func (f *faults) text(v strictjson.Value, at string, required bool) string {
	switch k := v.Kind(); {
	case !given(v):
		if required {
			f.add(at, "missing_member", "the member is required")
		}
		return ""
	case k != strictjson.String:
		f.add(at, "wrong_type", "want a string, got "+k.String())
		return ""
	}
	text := v.Text()
	switch {
	case required && strings.TrimSpace(text) == "":
		f.add(at, "blank", "must not be blank")
		return ""
	case strings.ContainsRune(text, 0):
		f.add(at, "control_character", "must not hold U+0000")
		return ""
	}
	return strings.Clone(text)
}

// names reads a list of names of secrets, in their order.
func (f *faults) names(v strictjson.Value, at string) []string {
	list := []string{}
	if !given(v) {
		return list
	}
	if k := v.Kind(); k != strictjson.Array {
		f.add(at, "wrong_type", "want an array, got "+k.String())
		return list
	}
	for i, e := range v.Elements() {
		switch name := strings.Clone(e.Text()); {
		case e.Kind() != strictjson.String || !ValidSecretName(name):
			f.add(strictjson.PointerIndex(at, i), "invalid_name", namingRule)
		case slices.Contains(list, name):
			f.add(strictjson.PointerIndex(at, i), "duplicate", "is named twice")
		case len(list) == maxTaskSecrets:
			f.add(at, "too_many", fmt.Sprintf("at most %d", maxTaskSecrets))
			return list
		default:
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

const namingRule = "want 1 to 64 of A-Z, a-z, 0-9 and _, the first not a digit"

// ValidSecretName reports whether a secret can be called so.
func ValidSecretName(s string) bool {
	if s == "" || len(s) > 64 || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// ParseSecret reads the body of PUT /v1/secrets/{name}: {value}. The error never
// repeats it.
func ParseSecret(body strictjson.Value) (string, error) {
	var f faults
	var value strictjson.Value
	if k := body.Kind(); k != strictjson.Object {
		f.add("", "wrong_type", "want an object, got "+k.String())
	} else {
		for name, v := range body.Members() {
			if name != "value" {
				f.add(strictjson.Pointer("", name), "unknown_member", "unknown member; there is value")
				continue
			}
			value = v
		}
		switch k := value.Kind(); {
		case k == strictjson.Missing:
			f.add("/value", "missing_member", "the member is required")
		case k != strictjson.String:
			f.add("/value", "wrong_type", "want a string, got "+k.String())
		case value.Text() == "":
			f.add("/value", "blank", "must not be empty")
		case len(value.Text()) > maxSecret:
			f.add("/value", "too_long", fmt.Sprintf("at most %d bytes", maxSecret))
		}
	}
	if len(f) > 0 {
		return "", latchkey.InvalidFaults(f...)
	}
	return strings.Clone(value.Text()), nil
}
