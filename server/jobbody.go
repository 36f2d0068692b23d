package server

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// jobBody reads a body of the group: members of the types that its document shows,
// and others beside them, which its clients send.
type jobBody struct {
	v      strictjson.Value
	at     string
	faults *[]latchkey.Fault
}

func (r *request) jobBody() (jobBody, error) {
	root := r.root()
	if root.Kind() != strictjson.Object {
		return jobBody{}, faultAt("", "wrong_type", "want an object, got "+root.Kind().String())
	}
	return jobBody{v: root, faults: new([]latchkey.Fault)}, nil
}

func (b jobBody) fault(member, code, detail string) {
	*b.faults = append(*b.faults, latchkey.Fault{Pointer: b.at + "/" + member, Code: code, Detail: detail})
}

func (b jobBody) err() error {
	if len(*b.faults) == 0 {
		return nil
	}
	return latchkey.InvalidFaults(*b.faults...)
}

func absent(v strictjson.Value) bool {
	return v.Kind() == strictjson.Missing || v.Kind() == strictjson.Null
}

// text reads a string, "" where it is absent.
func (b jobBody) text(member string) string {
	v := b.v.Get(member)
	if absent(v) {
		return ""
	}
	if v.Kind() != strictjson.String {
		b.fault(member, "wrong_type", "want a string, got "+v.Kind().String())
		return ""
	}
	return strings.Clone(v.Text())
}

// required is text that must be there.
func (b jobBody) required(member string) string {
	text := b.text(member)
	if text == "" && b.err() == nil {
		b.fault(member, "missing_member", "the member is required")
	}
	return text
}

// flag reads a bool, or the word for one.
func (b jobBody) flag(member string) bool {
	switch v := b.v.Get(member); {
	case absent(v):
		return false
	case v.Kind() == strictjson.Bool:
		return v.True()
	case v.Kind() == strictjson.String && strings.EqualFold(v.Text(), "true"):
		return true
	case v.Kind() == strictjson.String && (strings.EqualFold(v.Text(), "false") || v.Text() == ""):
		return false
	default:
		b.fault(member, "wrong_type", "want a bool")
		return false
	}
}

// number reads a whole number from 1, or the text of one.
func (b jobBody) number(member string, otherwise int) int {
	v := b.v.Get(member)
	if absent(v) {
		return otherwise
	}
	text := v.Raw()
	if v.Kind() == strictjson.String {
		text = v.Text()
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		b.fault(member, "out_of_range", "want a whole number from 1")
		return otherwise
	}
	return n
}

// object reads a part of the body, one without members where it is absent.
func (b jobBody) object(member string) jobBody {
	v := b.v.Get(member)
	part := jobBody{v: strictjson.EmptyObject(), at: b.at + "/" + member, faults: b.faults}
	switch {
	case absent(v):
	case v.Kind() == strictjson.Object:
		part.v = v
	default:
		b.fault(member, "wrong_type", "want an object, got "+v.Kind().String())
	}
	return part
}

// time reads a time as HTTP writes it, or by RFC 3339. Other zones than GMT are not
// guessed from their letters.
func (b jobBody) time(member string) latchkey.Instant {
	text := b.required(member)
	if at, ok := latchkey.ParseInstant(text); ok {
		return at
	}
	t, err := time.Parse(http.TimeFormat, strings.Replace(text, " UTC", " GMT", 1))
	if err != nil || t.Year() < 1970 {
		if text != "" {
			b.fault(member, "invalid_time", "want a time such as Fri, 02 Feb 2018 20:11:00 GMT")
		}
		return 0
	}
	return latchkey.InstantOf(t)
}

// says reports whether one of the members is there, and not empty.
func (b jobBody) says(members ...string) bool {
	return slices.ContainsFunc(members, func(member string) bool {
		v := b.v.Get(member)
		return !absent(v) && (v.Kind() != strictjson.String || v.Text() != "")
	})
}

// assignment reads for how long a login is wanted: {AssignmentType, StartTime,
// EndTime}, or {AssignmentType, GrantMin}. Times without a type are a window: if they
// were passed over, more would be given than somebody meant.
func (b jobBody) assignment(in *access.Submission) {
	kind := strings.ToLower(b.text("AssignmentType"))
	if kind == "" && b.says("StartTime", "EndTime") {
		kind = "window"
	}
	switch kind {
	case "window":
		in.Assignment, in.Window = access.InWindow, &access.Window{Start: b.time("StartTime"), End: b.time("EndTime")}
	case "", "temporary":
		in.Assignment, in.Duration = access.Temporary, access.Minutes(b.number("GrantMin", 0))
	case "permanent", "perm":
		in.Assignment = access.Permanent
	default:
		b.fault("AssignmentType", "invalid_value", "want window, temporary or permanent")
	}
}

// inJobWords points a refusal of a request at the members of a job: of its args, and
// of the options, where its times are.
func inJobWords(err error, args, options jobBody) error {
	e, ok := errors.AsType[*latchkey.Error](err)
	if !ok || e.Kind != latchkey.Invalid {
		return err
	}
	names := map[string]string{
		"/justification": args.at + "/Reason", "/comment": args.at + "/Reason", "/resources/0": args.at + "/PVID",
		"/assignment_type": options.at + "/AssignmentType", "/requested_duration_mins": options.at + "/GrantMin",
		"/window": options.at, "/window/start": options.at + "/StartTime", "/window/end": options.at + "/EndTime",
	}
	faults := slices.Clone(e.Faults)
	for i := range faults {
		if name, ok := names[faults[i].Pointer]; ok {
			faults[i].Pointer = name
		}
	}
	return latchkey.InvalidFaults(faults...)
}
