package deliveries

import (
	"fmt"
	"net/textproto"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// Types of events that can be told.
const (
	Submitted = "access_request.submitted"
	Approved  = "access_request.approved"
	Denied    = "access_request.denied"
	Revoked   = "access_request.revoked"
	Expired   = "access_request.expired"
	Escalated = "access_request.escalated"
)

// Types are all of them, in the order in which they can happen.
var Types = []string{Submitted, Approved, Denied, Revoked, Expired, Escalated}

// CompatIndent marks webhooks that carry the signature of Indent beside ours.
const CompatIndent = "indent"

// Limits of webhooks.
const (
	MaxWebhooks     = 50 // a customer
	maxHeaders      = 16
	maxHeaderValue  = 4096
	minCompatSecret = 8
	maxCompatSecret = 1024
	maxDescription  = 500
)

// Webhook is who is told of events: a URL, or a task.
type Webhook struct {
	ID          string // UUID
	Customer    string
	URL         string   // "" for a task
	TaskID      string   // "" for a URL
	Events      []string // of Types, in their order, each once
	Headers     []string // names, in their order; the values are sealed
	Compat      string   // "" or CompatIndent
	Description string
	// Since is the sequence number of the change that made it: earlier events are
	// not told.
	Since     int64
	CreatedAt latchkey.Instant
	Version   int64 // sequence number of the last change
}

// Wants reports whether an event is for the webhook.
func (w *Webhook) Wants(event string, seq int64) bool {
	return seq > w.Since && slices.Contains(w.Events, event)
}

// Settings are what a client says of a webhook.
type Settings struct {
	URL    string
	TaskID string
	Events []string
	// Headers are values by canonical names; nil keeps the value that there is.
	Headers map[string]*string
	Compat  string
	// CompatSecret is "" to keep the one that there is.
	CompatSecret string
	Description  string
}

// Addresses refuses URLs that lead where no customer's may. Implemented by
// notify.Guard.
type Addresses interface {
	// CheckURL returns an Invalid error at the pointer.
	CheckURL(pointer, text string) error
}

// ParseSettings reads the body of POST /v1/webhooks and PUT /v1/webhooks/{id}:
// {url or task_id, events, headers?, compat?, compat_secret?, description?}. The
// error is of kind Invalid with a pointer for everything that is wrong, and
// repeats no value of the body. The strings are copies.
func ParseSettings(body strictjson.Value, addresses Addresses) (in Settings, err error) {
	p := parser{}
	p.object(body, "url", "task_id", "events", "headers", "compat", "compat_secret", "description")
	in.URL, in.TaskID = p.text("url", 1<<16), p.text("task_id", 64)
	switch {
	case in.URL != "" && in.TaskID != "":
		p.fault("/task_id", "one_target", "give url or task_id, not both")
	case in.URL == "" && in.TaskID == "" && len(p.faults) == 0:
		p.fault("/url", "missing_member", "give url, or task_id")
	case in.URL != "":
		if err := addresses.CheckURL("/url", in.URL); err != nil {
			p.note(err)
		} else if authz.ContainsToken(in.URL) {
			p.fault("/url", "credential_in_url", "a URL is shown to everyone who manages webhooks; it must not hold a credential of latchkey")
		}
	case in.TaskID != "":
		if !authz.IsID(in.TaskID) {
			p.fault("/task_id", "invalid_id", "want the id of a task")
		}
	}
	in.Events = p.events()
	in.Headers = p.headers()
	in.Compat = p.text("compat", 32)
	in.CompatSecret = p.text("compat_secret", maxCompatSecret)
	switch {
	case in.Compat != "" && in.Compat != CompatIndent:
		p.fault("/compat", "unknown_compat", `want "indent"`)
	case in.CompatSecret != "" && in.Compat == "":
		p.fault("/compat_secret", "compat_missing", `a compat_secret belongs to compat: "indent"`)
	case in.CompatSecret != "" && len(in.CompatSecret) < minCompatSecret:
		p.fault("/compat_secret", "too_short", fmt.Sprintf("want at least %d bytes", minCompatSecret))
	}
	if in.TaskID != "" {
		if len(in.Headers) > 0 {
			p.fault("/headers", "not_for_tasks", "a task is not called by HTTP: it has no headers")
		}
		if in.Compat != "" {
			p.fault("/compat", "not_for_tasks", "a task is not called by HTTP: nothing is signed")
		}
	}
	in.Description = p.text("description", maxDescription)
	if strings.ContainsFunc(in.Description, unicode.IsControl) {
		p.fault("/description", "control_character", "must not hold control characters")
	} else if authz.ContainsToken(in.Description) {
		p.fault("/description", "credential_in_description", "a description is shown; it must not hold a credential")
	}
	return in, p.err()
}

// parser notes all faults of one body.
type parser struct {
	members map[string]strictjson.Value
	faults  []latchkey.Fault
}

func (p *parser) fault(pointer, code, detail string) {
	p.faults = append(p.faults, latchkey.Fault{Pointer: pointer, Code: code, Detail: detail})
}

func (p *parser) note(err error) {
	if e, ok := err.(*latchkey.Error); ok { //nolint:errorlint // made by CheckURL itself
		p.faults = append(p.faults, e.Faults...)
	}
}

func (p *parser) err() error {
	if len(p.faults) == 0 {
		return nil
	}
	return latchkey.InvalidFaults(p.faults...)
}

func (p *parser) object(v strictjson.Value, known ...string) {
	p.members = map[string]strictjson.Value{}
	if k := v.Kind(); k != strictjson.Object {
		p.fault("", "wrong_type", "want an object, got "+k.String())
		return
	}
	for name, m := range v.Members() {
		switch {
		case !slices.Contains(known, name):
			p.fault(strictjson.Pointer("", name), "unknown_member", "unknown member; known are "+strings.Join(known, ", "))
		case m.Kind() != strictjson.Null: // what is shown as null may come back
			p.members[name] = m
		}
	}
}

// text reads a string of so many characters at most, "" where it is absent.
func (p *parser) text(name string, most int) string {
	v := p.members[name]
	switch k := v.Kind(); {
	case k == strictjson.Missing:
		return ""
	case k != strictjson.String:
		p.fault("/"+name, "wrong_type", "want a string, got "+k.String())
		return ""
	}
	text := v.Text()
	if utf8.RuneCountInString(text) > most {
		p.fault("/"+name, "too_long", fmt.Sprintf("at most %d characters", most))
		return ""
	}
	return strings.Clone(text)
}

func (p *parser) events() (events []string) {
	v := p.members["events"]
	switch k := v.Kind(); {
	case k == strictjson.Missing:
		p.fault("/events", "missing_member", "the member is required")
		return nil
	case k != strictjson.Array:
		p.fault("/events", "wrong_type", "want a list, got "+k.String())
		return nil
	}
	n := 0
	for i, e := range v.Elements() {
		at := strictjson.PointerIndex("/events", i)
		n++
		switch {
		case e.Kind() != strictjson.String:
			p.fault(at, "wrong_type", "want a string, got "+e.Kind().String())
		case !slices.Contains(Types, e.Text()):
			p.fault(at, "unknown_event", "want one of "+strings.Join(Types, ", "))
		case slices.Contains(events, e.Text()):
			p.fault(at, "duplicate", "the event stands twice")
		default:
			events = append(events, strings.Clone(e.Text()))
		}
		if n > len(Types) {
			break
		}
	}
	if n == 0 {
		p.fault("/events", "empty", "name at least one event")
	}
	slices.SortFunc(events, func(a, b string) int { return slices.Index(Types, a) - slices.Index(Types, b) })
	return events
}

// ownHeaders are those that a webhook does not set: the request's own, and what
// belongs to one connection alone.
var ownHeaders = []string{"Host", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Connection", "Proxy-Connection", "Keep-Alive",
	"Upgrade", "Te", "Trailer", "Expect", "Accept-Encoding", "User-Agent"}

func (p *parser) headers() map[string]*string {
	v := p.members["headers"]
	switch k := v.Kind(); {
	case k == strictjson.Missing:
		return nil
	case k != strictjson.Object:
		p.fault("/headers", "wrong_type", "want an object, got "+k.String())
		return nil
	}
	headers := map[string]*string{}
	for given, value := range v.Members() {
		at := strictjson.Pointer("/headers", given)
		if len(headers) == maxHeaders {
			p.fault("/headers", "too_many", fmt.Sprintf("at most %d headers", maxHeaders))
			break
		}
		if !validHeaderName(given) {
			p.fault(at, "invalid_header", "the name is not one of a header")
			continue
		}
		name := textproto.CanonicalMIMEHeaderKey(given)
		_, twice := headers[name]
		switch {
		case twice:
			p.fault(at, "duplicate", "the header stands twice")
		case slices.Contains(ownHeaders, name) || strings.HasPrefix(name, "Proxy-") || strings.HasPrefix(name, "Webhook-") || strings.HasPrefix(name, "X-Indent-"):
			p.fault(at, "reserved_header", "this header is not for webhooks to set")
		case value.Kind() == strictjson.Null:
			headers[name] = nil
		case value.Kind() != strictjson.String:
			p.fault(at, "wrong_type", "want a string, got "+value.Kind().String())
		case !validHeaderValue(value.Text()):
			p.fault(at, "invalid_header", fmt.Sprintf("want 1 to %d printable ASCII characters", maxHeaderValue))
		case authz.ContainsToken(value.Text()):
			p.fault(at, "credential_in_header", "a credential of latchkey is not sent to others")
		default:
			text := strings.Clone(value.Text())
			headers[name] = &text
		}
	}
	return headers
}

// validHeaderName takes a token of RFC 9110.
func validHeaderName(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (c < '0' || c > '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return true
}

func validHeaderValue(s string) bool {
	if s == "" || len(s) > maxHeaderValue || strings.TrimSpace(s) != s {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
