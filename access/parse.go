package access

import (
	"slices"
	"strconv"
	"strings"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Limits of what clients send; of texts, in characters.
const (
	maxName        = 200
	maxDescription = 2000
	maxReferences  = 100 // groups or entitlements of a template
	maxDurations   = 50
	maxSources     = 10
	maxCondition   = 4096
	maxApprovals   = 20
	maxNotified    = 100
	maxLabels      = 20 // of a selector
	maxActions     = 50
	maxResources   = 50 // of a request
	maxFields      = 50
	maxOptions     = 100
	maxFieldText   = 200
	maxText        = 4096 // of a justification, a comment, a reason, an answer, a message
)

// ParseTemplate reads the body of POST and PUT /v1/access-request-templates; what
// the server sets itself is no member of it. A member that is null is as one that
// is left out. The error is of kind Invalid, with a pointer for everything that is
// wrong. The strings are copies.
func ParseTemplate(body strictjson.Value) (Template, error) {
	var faults []latchkey.Fault
	t := DefaultTemplate()
	r := readObject(body, "", &faults,
		"name", "description", "app_id", "mapping_ids", "allowed_durations", "approver_group_ids", "allowed_group_ids",
		"prefer_requester_groups", "require_justification", "auto_approve", "notification_policy", "notification_count",
		"escalation_after_mins", "escalation_group_id", "custom_fields", "trigger_task_id", "trigger_task_failure_mode",
		"default_duration_mins", "max_duration_mins", "auto_approve_sources", "auto_approve_when", "max_auto_duration_mins",
		"revoke_when_off_call", "approvals_required", "allow_self_approval", "pending_ttl_mins", "assignment_types",
		"resource_selector", "resource_access")
	r.require("name", "app_id")
	t.Name, t.Description, t.Application = r.name("name"), r.prose("description", maxDescription), r.id("app_id")

	t.Entitlements = r.ids("mapping_ids", maxReferences)
	t.Selector = r.selector("resource_selector")
	if r.given("resource_access") {
		t.Access = r.access("resource_access")
	}

	if r.given("assignment_types") {
		t.AssignmentTypes = r.assignments("assignment_types")
	}
	t.AllowedDurations = r.durations("allowed_durations")
	t.DefaultDuration, t.MaxDuration = r.minutes("default_duration_mins"), r.minutes("max_duration_mins")

	t.AllowedGroups, t.ApproverGroups = r.ids("allowed_group_ids", maxReferences), r.ids("approver_group_ids", maxReferences)
	t.ApprovalsRequired = r.number("approvals_required", t.ApprovalsRequired, 1, maxApprovals)
	t.AllowSelfApproval = r.flag("allow_self_approval", false)
	t.PendingTTL = r.minutes("pending_ttl_mins")
	t.RequireJustification = r.flag("require_justification", t.RequireJustification)
	t.PreferRequesterGroups = r.flag("prefer_requester_groups", false)

	t.NotificationPolicy = oneOf(r, "notification_policy", NotifyAll, FirstN, RandomN, RoundRobin)
	t.NotificationCount = r.number("notification_count", t.NotificationCount, 1, maxNotified)
	t.EscalationAfter, t.EscalationGroup = r.minutes("escalation_after_mins"), r.id("escalation_group_id")
	for member, other := range map[string]string{"escalation_after_mins": "escalation_group_id", "escalation_group_id": "escalation_after_mins"} {
		if r.given(member) && !r.given(other) {
			r.fault(other, "missing_member", "goes with "+member)
		}
	}

	t.AutoApprove = r.flag("auto_approve", false)
	t.AutoApproveSources = r.sources("auto_approve_sources")
	t.AutoApproveWhen = r.prose("auto_approve_when", maxCondition)
	t.MaxAutoDuration, t.RevokeWhenOffCall = r.minutes("max_auto_duration_mins"), r.minutes("revoke_when_off_call")

	t.CustomFields = r.customFields("custom_fields")
	t.TriggerTask = r.id("trigger_task_id")
	t.TriggerFailureMode = oneOf(r, "trigger_task_failure_mode", Ignore, Retry, Block)
	if len(faults) > 0 {
		return Template{}, latchkey.InvalidFaults(faults...)
	}
	return t, nil
}

// name reads a line that says something.
func (r reader) name(member string) string {
	before := len(*r.faults)
	name := strings.TrimSpace(r.text(member, maxName))
	if r.given(member) && name == "" && len(*r.faults) == before {
		r.fault(member, "empty_string", "must not be empty")
	}
	return name
}

// minutes reads a length of time, 0 where it is not given.
func (r reader) minutes(member string) Minutes {
	return Minutes(r.number(member, 0, 1, int(MaxMinutes)))
}

// durations reads distinct lengths of time, in their order.
func (r reader) durations(member string) (list []Minutes) {
	r.elements(member, maxDurations, func(in reader, index string, v strictjson.Value) {
		n, ok := wholeNumber(v)
		switch {
		case v.Kind() != strictjson.Number:
			in.fault(index, "wrong_type", "want a number of minutes, got "+v.Kind().String())
		case !ok || n < 1 || n > int64(MaxMinutes):
			in.fault(index, "out_of_range", "want whole minutes from 1 to "+strconv.Itoa(int(MaxMinutes)))
		case slices.Contains(list, Minutes(n)):
			in.fault(index, "duplicate", "stands twice")
		default:
			list = append(list, Minutes(n))
		}
	})
	return list
}

// sources reads the names of on-call providers.
func (r reader) sources(member string) (list []string) {
	r.elements(member, maxSources, func(in reader, index string, v strictjson.Value) {
		name := strings.Clone(v.Text())
		switch {
		case v.Kind() != strictjson.String:
			in.fault(index, "wrong_type", "want a string, got "+v.Kind().String())
		case !latchkey.ValidName(name) || authz.ContainsToken(name):
			in.fault(index, "invalid_name", "want the name of a provider")
		case slices.Contains(list, name):
			in.fault(index, "duplicate", "stands twice")
		default:
			list = append(list, name)
		}
	})
	return list
}

var assignments = []Assignment{Temporary, InWindow, Permanent}

func (r reader) assignments(member string) (list []Assignment) {
	before := len(*r.faults)
	r.elements(member, len(assignments), func(in reader, index string, v strictjson.Value) {
		a := Assignment(v.Text())
		switch {
		case v.Kind() != strictjson.String:
			in.fault(index, "wrong_type", "want a string, got "+v.Kind().String())
		case !slices.Contains(assignments, a):
			in.fault(index, "invalid_value", "want one of "+join(assignments))
		case slices.Contains(list, a):
			in.fault(index, "duplicate", "stands twice")
		default:
			list = append(list, assignments[slices.Index(assignments, a)])
		}
	})
	if len(list) == 0 && len(*r.faults) == before {
		r.fault(member, "empty_list", "want one of "+join(assignments))
	}
	return list
}

// selector reads {kind, labels?}.
func (r reader) selector(member string) *ResourceSelector {
	if !r.given(member) {
		return nil
	}
	s := &ResourceSelector{Labels: map[string]string{}}
	in := readObject(r.members[member], r.at+"/"+member, r.faults, "kind", "labels")
	in.require("kind")
	s.Kind = in.kind("kind")
	if !in.is("labels", strictjson.Object) {
		return s
	}
	labels := in.members["labels"]
	if labels.Len() > maxLabels {
		in.fault("labels", "too_many", "at most "+strconv.Itoa(maxLabels))
		return s
	}
	for name, v := range labels.Members() {
		at := strictjson.Pointer(in.at+"/labels", name)
		for _, text := range []string{name, v.Text()} {
			if _, fault := checkText(text, maxFieldText, notPrintable); fault != nil {
				fault.Pointer = at
				*r.faults = append(*r.faults, *fault)
			}
		}
		if v.Kind() != strictjson.String {
			*r.faults = append(*r.faults, latchkey.Fault{Pointer: at, Code: "wrong_type", Detail: "want a string, got " + v.Kind().String()})
		}
		s.Labels[strings.Clone(name)] = strings.Clone(v.Text())
	}
	return s
}

// kind reads a resource type.
func (r reader) kind(member string) string {
	if !r.is(member, strictjson.String) {
		return ""
	}
	kind := r.members[member].Text()
	if !scopes.ValidTypeName(kind) || scopes.IsBuiltin(kind) {
		r.fault(member, "invalid_kind", "want a type of application resources: [a-z][a-z0-9_]{0,63}, none of latchkey's own")
	}
	return strings.Clone(kind)
}

// access reads {p?, a?}, in the terms of a scope entry.
func (r reader) access(member string) (a ResourceAccess) {
	before := len(*r.faults)
	in := readObject(r.members[member], r.at+"/"+member, r.faults, "p", "a")
	a.Permission = in.number("p", 0, 1, 15)
	in.elements("a", maxActions, func(list reader, index string, v strictjson.Value) {
		name := strings.Clone(v.Text())
		switch {
		case v.Kind() != strictjson.String:
			list.fault(index, "wrong_type", "want a string, got "+v.Kind().String())
		case name != "*" && !scopes.ValidActionName(name) || authz.ContainsToken(name):
			list.fault(index, "invalid_action", `an action is a name ([A-Za-z0-9._:-], at most 64, first alphanumeric), or "*"`)
		case slices.Contains(a.Actions, name):
			list.fault(index, "duplicate", "stands twice")
		default:
			a.Actions = append(a.Actions, name)
		}
	})
	if a.Permission == 0 && len(a.Actions) == 0 && len(*r.faults) == before {
		r.fault(member, "no_access", "want p, a or both")
	}
	return a
}

// customFields reads a list of fields: an array, or a string that holds one as
// JSON, as Terraform's argument does.
func (r reader) customFields(member string) (list []CustomField) {
	if !r.given(member) {
		return nil
	}
	if v := r.members[member]; v.Kind() == strictjson.String {
		var doc strictjson.Doc
		if err := doc.Parse(v.Text()); err != nil {
			r.fault(member, "invalid_json", "the text is not JSON: "+detail(err))
			return nil
		}
		r.members = map[string]strictjson.Value{member: doc.Root()}
	}
	r.elements(member, maxFields, func(in reader, index string, v strictjson.Value) {
		f := in.customField(index, v)
		same := func(other CustomField) bool { return f.Label == other.Label || f.ID != "" && f.ID == other.ID }
		if f.Label != "" && slices.ContainsFunc(list, same) {
			in.fault(index, "duplicate", "another field has the same label or id")
		}
		list = append(list, f)
	})
	return list
}

func (r reader) customField(index string, v strictjson.Value) (f CustomField) {
	in := readObject(v, r.at+"/"+index, r.faults, "id", "label", "type", "required", "placeholder", "options")
	in.require("label", "type")
	f.ID, f.Label = in.id("id"), in.name("label")
	f.Type = oneOf(in, "type", TextField, TextAreaField, SelectField, MultiSelectField, CheckboxField)
	f.Required, f.Placeholder = in.flag("required", false), in.text("placeholder", maxFieldText)
	f.Options = in.texts("options", maxOptions, maxFieldText)
	choice := f.Type == SelectField || f.Type == MultiSelectField
	switch {
	case choice && !in.given("options") && in.members != nil:
		in.fault("options", "missing_member", "a field of this type has options")
	case choice && in.members["options"].Len() == 0 && in.members["options"].Kind() == strictjson.Array:
		in.fault("options", "empty_list", "a field of this type has options")
	case !choice && in.members["options"].Len() > 0:
		in.fault("options", "unexpected_options", "a field of this type has no options")
	}
	return f
}

// ParseSubmission reads the body of POST /v1/access-requests: {template_id,
// assignment_type?, requested_duration_mins? | window? {start, end},
// justification?, custom_answers?, resources? [{kind, id}], beneficiary_id?}. What
// becomes of a request is not its submitter's to say: status, decided_by and their
// like are unknown members. Errors are as of ParseTemplate.
func ParseSubmission(body strictjson.Value) (Submission, error) {
	var faults []latchkey.Fault
	r := readObject(body, "", &faults, "template_id", "assignment_type", "requested_duration_mins", "window", "justification",
		"custom_answers", "resources", "beneficiary_id")
	r.require("template_id")
	s := Submission{
		Template: r.id("template_id"), Beneficiary: r.id("beneficiary_id"), Resources: r.resources("resources"),
		Duration: r.duration("requested_duration_mins"), Window: r.window("window"),
		Justification: strings.TrimSpace(r.prose("justification", maxText)), Answers: r.answers("custom_answers"),
	}
	if r.given("assignment_type") {
		s.Assignment = oneOf(r, "assignment_type", assignments...)
	}
	if r.given("requested_duration_mins") && r.given("window") {
		r.fault("window", "two_durations", "give either requested_duration_mins or window")
	}
	if len(faults) > 0 {
		return Submission{}, latchkey.InvalidFaults(faults...)
	}
	return s, nil
}

// duration reads the minutes that are asked for, 0 where none are.
func (r reader) duration(member string) Minutes {
	if !r.is(member, strictjson.Number) {
		return 0
	}
	n, ok := wholeNumber(r.members[member])
	if !ok || n < 1 || n > int64(MaxMinutes) {
		r.fault(member, "duration_not_allowed", "want whole minutes from 1 to "+strconv.Itoa(int(MaxMinutes)))
		return 0
	}
	return Minutes(n)
}

// window reads {start, end}.
func (r reader) window(member string) *Window {
	if !r.given(member) {
		return nil
	}
	before := len(*r.faults)
	in := readObject(r.members[member], r.at+"/"+member, r.faults, "start", "end")
	in.require("start", "end")
	w := &Window{Start: in.instant("start"), End: in.instant("end")}
	if len(*r.faults) == before && w.End <= w.Start {
		in.fault("end", "end_before_start", "the end must lie after the start")
	}
	return w
}

func (r reader) instant(member string) latchkey.Instant {
	if !r.is(member, strictjson.String) {
		return 0
	}
	at, ok := latchkey.ParseInstant(r.members[member].Text())
	if !ok {
		r.fault(member, "invalid_timestamp", "want an RFC 3339 timestamp, like 2027-01-31T23:59:59Z")
	}
	return at
}

// resources reads [{kind, id}].
func (r reader) resources(member string) (list []authz.EntityRef) {
	r.elements(member, maxResources, func(in reader, index string, v strictjson.Value) {
		one := readObject(v, in.at+"/"+index, in.faults, "kind", "id")
		one.require("kind", "id")
		ref := authz.EntityRef{Type: one.kind("kind"), ID: one.text("id", scopes.MaxID)}
		switch {
		case !one.given("id"):
		case strings.HasSuffix(ref.ID, "*"):
			one.fault("id", "invalid_resource_id", "an id must not end in *: in a scope entry it would select others too")
		case ref.ID == "" && one.members["id"].Text() == "":
			one.fault("id", "empty_string", "must not be empty")
		case len(ref.ID) > scopes.MaxID:
			one.fault("id", "too_long", "at most "+strconv.Itoa(scopes.MaxID)+" bytes")
		case slices.Contains(list, ref):
			in.fault(index, "duplicate", "stands twice")
		}
		list = append(list, ref)
	})
	return list
}

// answers reads {"<field's id>": "text" | ["option", …] | true | false}. Whether
// they answer what is asked is the template's to say.
func (r reader) answers(member string) map[string]AnswerValue {
	if !r.is(member, strictjson.Object) {
		return nil
	}
	given := r.members[member]
	if given.Len() > maxFields {
		r.fault(member, "too_many", "at most "+strconv.Itoa(maxFields))
		return nil
	}
	all := map[string]AnswerValue{}
	for name, v := range given.Members() {
		id := strings.Clone(name)
		if !authz.IsID(id) {
			*r.faults = append(*r.faults, latchkey.Fault{Pointer: strictjson.Pointer(r.at+"/"+member, name), Code: "unknown_field", Detail: "answers are named by the ids of the template's fields"})
			continue
		}
		one := reader{at: r.at + "/" + member, members: map[string]strictjson.Value{id: v}, faults: r.faults}
		switch v.Kind() {
		case strictjson.Null: // as one that is not given
		case strictjson.String:
			all[id] = AnswerValue{Kind: TextAnswer, Text: one.prose(id, maxText)}
		case strictjson.Array:
			all[id] = AnswerValue{Kind: OptionsAnswer, Options: one.texts(id, maxOptions, maxFieldText)}
		case strictjson.Bool:
			all[id] = AnswerValue{Kind: CheckedAnswer, Checked: v.True()}
		default:
			one.fault(id, "wrong_type", "want a string, an array of strings, or a bool, got "+v.Kind().String())
		}
	}
	return all
}

// ParseVerdict reads the body of …/approve and …/deny, which may be absent:
// {comment?}, of an approval also {window? {start, end}}.
func ParseVerdict(body strictjson.Value, approval bool) (Verdict, error) {
	if body.Kind() == strictjson.Missing {
		return Verdict{}, nil
	}
	known := []string{"comment"}
	if approval {
		known = append(known, "window")
	}
	var faults []latchkey.Fault
	r := readObject(body, "", &faults, known...)
	v := Verdict{Comment: strings.TrimSpace(r.prose("comment", maxText)), Window: r.window("window")}
	if len(faults) > 0 {
		return Verdict{}, latchkey.InvalidFaults(faults...)
	}
	return v, nil
}

// ParseRevocation reads the body of …/revoke, which may be absent: {reason?}, or
// {comment?} as the other two have it.
func ParseRevocation(body strictjson.Value) (reason string, err error) {
	if body.Kind() == strictjson.Missing {
		return "", nil
	}
	var faults []latchkey.Fault
	r := readObject(body, "", &faults, "reason", "comment")
	member := "reason"
	if r.given("comment") {
		member = "comment"
		if r.given("reason") {
			r.fault("comment", "two_reasons", "comment is another name of reason: give one of them")
		}
	}
	reason = strings.TrimSpace(r.prose(member, maxText))
	if len(faults) > 0 {
		return "", latchkey.InvalidFaults(faults...)
	}
	return reason, nil
}

// ParseMessage reads the body of POST …/messages: {body}.
func ParseMessage(body strictjson.Value) (string, error) {
	var faults []latchkey.Fault
	r := readObject(body, "", &faults, "body")
	r.require("body")
	text := strings.TrimSpace(r.prose("body", maxText))
	if r.given("body") && text == "" && len(faults) == 0 {
		r.fault("body", "empty_string", "must not be empty")
	}
	if len(faults) > 0 {
		return "", latchkey.InvalidFaults(faults...)
	}
	return text, nil
}
