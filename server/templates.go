package server

import (
	"encoding/base64"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// prefix is that of the path by which the request came: /v1, or /api/v1.
func (r *request) prefix() string {
	if strings.HasPrefix(r.c.Path(), "/api/") {
		return "/api/v1"
	}
	return "/v1"
}

func (s *Server) createTemplate(r *request) error {
	return once(r, func(call authz.Call) (access.Saved, error) {
		in, err := access.ParseTemplate(r.root())
		if err != nil {
			return access.Saved{}, err
		}
		ctx, cancel := r.context()
		defer cancel()
		t, warnings, err := s.cfg.Templates.Create(ctx, call, in)
		return access.Saved{Template: t, Warnings: warnings}, err
	}, func(made access.Saved) reply {
		return reply{Status: http.StatusCreated, Location: r.prefix() + "/access-request-templates/" + made.Template.ID, Body: appendSavedTemplate(nil, &made)}
	})
}

func (s *Server) putTemplate(r *request) error {
	in, err := access.ParseTemplate(r.root())
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	t, warnings, err := s.cfg.Templates.Update(ctx, r.call(), r.param("id"), in)
	if err != nil {
		return err
	}
	r.out = appendSavedTemplate(r.out[:0], &access.Saved{Template: t, Warnings: warnings})
	return r.json(http.StatusOK)
}

func (s *Server) getTemplate(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	t, err := s.cfg.Templates.Get(ctx, r.call(), r.param("id"))
	if err != nil {
		return err
	}
	r.out = appendTemplate(r.out[:0], &t)
	return r.json(http.StatusOK)
}

// listTemplates lists templates by name.
func (s *Server) listTemplates(r *request) error {
	q := r.query("limit", "cursor")
	limit := q.number("limit", 50, 1, 200)
	afterName, afterID := "", ""
	if cursor, given := q.values["cursor"]; given {
		text, err := base64.RawURLEncoding.DecodeString(cursor)
		place, ok := strings.CutPrefix(string(text), "template:")
		var both bool
		afterID, afterName, both = strings.Cut(place, ":")
		if _, isID := authz.ParseKeyID(afterID); err != nil || !ok || !both || !isID || !isText(afterName) {
			q.fault("cursor", "invalid_cursor", "want a next_cursor of an earlier page")
		}
	}
	if err := q.err(); err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	list, err := s.cfg.Templates.List(ctx, r.call(), afterName, afterID, limit+1) // one more tells whether there is a next page
	if err != nil {
		return err
	}
	return page(r, "access_request_templates", list, limit, appendTemplate, func(t *access.Template) string { return "template:" + t.ID + ":" + t.Name })
}

func (s *Server) deleteTemplate(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	if err := s.cfg.Templates.Delete(ctx, r.call(), r.param("id")); err != nil {
		return err
	}
	r.c.Status(http.StatusNoContent)
	return nil
}

// page answers a list of which there may be more than limit; place is where a
// page that ends with an element goes on. A cursor opens nothing, so it is not
// authenticated.
func page[T any](r *request, member string, list []T, limit int, appendTo func([]byte, *T) []byte, place func(*T) string) error {
	more := len(list) > limit
	if more {
		list = list[:limit]
	}
	b := append(append(append(r.out[:0], `{"`...), member...), `":[`...)
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendTo(b, &list[i])
	}
	b = append(b, `],"next_cursor":`...)
	if more {
		b = strictjson.AppendString(b, base64.RawURLEncoding.EncodeToString([]byte(place(&list[len(list)-1]))))
	} else {
		b = append(b, `null`...)
	}
	r.out = append(b, '}')
	return r.json(http.StatusOK)
}

// appendTemplate appends a template: what a PUT takes, with its id and times. What
// there is not is null.
func appendTemplate(b []byte, t *access.Template) []byte {
	b = strictjson.AppendString(append(b, `{"id":`...), t.ID)
	b = strictjson.AppendString(append(b, `,"name":`...), t.Name)
	b = strictjson.AppendString(append(b, `,"description":`...), t.Description)
	b = strictjson.AppendString(append(b, `,"app_id":`...), t.Application)
	b = strictjson.AppendStrings(append(b, `,"mapping_ids":`...), t.Entitlements)
	b = append(b, `,"allowed_durations":[`...)
	for i, d := range t.AllowedDurations {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(d), 10)
	}
	b = strictjson.AppendStrings(append(b, `],"approver_group_ids":`...), t.ApproverGroups)
	b = strictjson.AppendStrings(append(b, `,"allowed_group_ids":`...), t.AllowedGroups)
	b = strconv.AppendBool(append(b, `,"prefer_requester_groups":`...), t.PreferRequesterGroups)
	b = strconv.AppendBool(append(b, `,"require_justification":`...), t.RequireJustification)
	b = strconv.AppendBool(append(b, `,"auto_approve":`...), t.AutoApprove)
	b = strictjson.AppendString(append(b, `,"notification_policy":`...), string(t.NotificationPolicy))
	b = strconv.AppendInt(append(b, `,"notification_count":`...), int64(t.NotificationCount), 10)
	b = appendMinutes(append(b, `,"escalation_after_mins":`...), t.EscalationAfter)
	b = appendOptional(append(b, `,"escalation_group_id":`...), t.EscalationGroup)
	b = append(b, `,"custom_fields":[`...)
	for i := range t.CustomFields {
		if i > 0 {
			b = append(b, ',')
		}
		f := &t.CustomFields[i]
		b = strictjson.AppendString(append(b, `{"id":`...), f.ID)
		b = strictjson.AppendString(append(b, `,"label":`...), f.Label)
		b = strictjson.AppendString(append(b, `,"type":`...), string(f.Type))
		b = strconv.AppendBool(append(b, `,"required":`...), f.Required)
		b = strictjson.AppendString(append(b, `,"placeholder":`...), f.Placeholder)
		b = append(strictjson.AppendStrings(append(b, `,"options":`...), f.Options), '}')
	}
	b = appendOptional(append(b, `],"trigger_task_id":`...), t.TriggerTask)
	b = strictjson.AppendString(append(b, `,"trigger_task_failure_mode":`...), string(t.TriggerFailureMode))
	b = appendMinutes(append(b, `,"default_duration_mins":`...), t.DefaultDuration)
	b = appendMinutes(append(b, `,"max_duration_mins":`...), t.MaxDuration)
	b = strictjson.AppendStrings(append(b, `,"auto_approve_sources":`...), t.AutoApproveSources)
	b = appendOptional(append(b, `,"auto_approve_when":`...), t.AutoApproveWhen)
	b = appendMinutes(append(b, `,"max_auto_duration_mins":`...), t.MaxAutoDuration)
	b = appendMinutes(append(b, `,"revoke_when_off_call":`...), t.RevokeWhenOffCall)
	b = strconv.AppendInt(append(b, `,"approvals_required":`...), int64(t.ApprovalsRequired), 10)
	b = strconv.AppendBool(append(b, `,"allow_self_approval":`...), t.AllowSelfApproval)
	b = appendMinutes(append(b, `,"pending_ttl_mins":`...), t.PendingTTL)
	b = append(b, `,"assignment_types":`...)
	types := make([]string, len(t.AssignmentTypes))
	for i, a := range t.AssignmentTypes {
		types[i] = string(a)
	}
	b = strictjson.AppendStrings(b, types)
	b = append(b, `,"resource_selector":`...)
	if t.Selector == nil {
		b = append(b, `null`...)
	} else {
		b = strictjson.AppendString(append(b, `{"kind":`...), t.Selector.Kind)
		b = append(b, `,"labels":{`...)
		for i, name := range slices.Sorted(maps.Keys(t.Selector.Labels)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(strictjson.AppendString(b, name), ':')
			b = strictjson.AppendString(b, t.Selector.Labels[name])
		}
		b = append(b, `}}`...)
	}
	b = append(b, `,"resource_access":{`...)
	if t.Access.Permission != 0 {
		b = append(strconv.AppendInt(append(b, `"p":`...), int64(t.Access.Permission), 10), ',')
	}
	b = append(strictjson.AppendStrings(append(b, `"a":`...), t.Access.Actions), '}')
	b = appendInstant(append(b, `,"created_at":`...), t.CreatedAt)
	b = appendInstant(append(b, `,"updated_at":`...), t.UpdatedAt)
	return append(b, '}')
}

// appendSavedTemplate appends a template with what its author should know of it.
func appendSavedTemplate(b []byte, made *access.Saved) []byte {
	b = appendTemplate(b, &made.Template)
	b = strictjson.AppendStrings(append(b[:len(b)-1], `,"warnings":`...), made.Warnings)
	return append(b, '}')
}

// appendMinutes appends a length of time, null for none.
func appendMinutes(b []byte, m access.Minutes) []byte {
	if m == 0 {
		return append(b, `null`...)
	}
	return strconv.AppendInt(b, int64(m), 10)
}
