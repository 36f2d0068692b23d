package access

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// MaxTemplates is how many templates a customer may have.
const MaxTemplates = 1000

// Templates keeps templates. Safe for concurrent use.
type Templates struct{ cfg TemplatesConfig }

// TemplatesConfig are the collaborators of Templates.
type TemplatesConfig struct {
	Record Record
	Parser *scopes.Parser
	Auto   AutoApprover // nil: no template can ask providers
}

// NewTemplates makes the service.
func NewTemplates(cfg TemplatesConfig) *Templates { return &Templates{cfg: cfg} }

var errTemplateNotFound = latchkey.Errorf(latchkey.NotFound, "template_not_found", "there is no such template")

// May allows managers.
func (*Templates) May(c *authz.Caller) error { return authz.MayManage(c) }

// MayRead allows people, managers, and services that ask for somebody.
func (*Templates) MayRead(c *authz.Caller) error {
	if c.IsPerson() || c.Manages() || c.Kind == authz.AccessKeyCredential && c.Scopes().Has(scopes.Approvals) {
		return nil
	}
	return latchkey.Errorf(latchkey.Forbidden, "scope_missing", "the key has neither the scope approvals nor access_requests_manage; a person uses a credential of their own")
}

// Create makes a template, and returns it with warnings. What the server settles,
// ids and times, is ignored in t.
func (s *Templates) Create(ctx context.Context, call authz.Call, t Template) (Template, []string, error) {
	if err := s.May(&call.Caller); err != nil {
		return Template{}, nil, err
	}
	t.ID, t.Customer, t.CreatedAt, t.UpdatedAt = uuid.NewString(), call.Customer.ID, call.Now, call.Now
	t.CustomFields = slices.Clone(t.CustomFields)
	for i := range t.CustomFields { // a new template has no fields yet that could be meant
		t.CustomFields[i].ID = ""
	}
	var made Saved
	err := s.cfg.Record.Change(ctx, call.Change(func() any { return made }), func(tx Tx) (audit.Draft, error) {
		n, err := tx.CountTemplates(ctx)
		if err != nil {
			return audit.Draft{}, err
		}
		if n >= MaxTemplates {
			return audit.Draft{}, latchkey.Errorf(latchkey.Conflict, "too_many_templates", "a customer has at most %d templates", MaxTemplates)
		}
		made = Saved{Template: t}
		if made.Warnings, err = s.settle(ctx, tx, &made.Template, nil); err != nil {
			return audit.Draft{}, err
		}
		made.Template.Version = tx.Seq()
		return templateDraft(&call, &made.Template, "create"), tx.InsertTemplate(ctx, made.Template)
	})
	if err != nil {
		return Template{}, nil, err
	}
	return made.Template, made.Warnings, nil
}

// Saved is a template as it was saved, with what its author should know: what a
// reply to a repeated request is made of.
type Saved struct {
	Template Template
	Warnings []string
}

// Update replaces a template whole. Its application never changes.
func (s *Templates) Update(ctx context.Context, call authz.Call, id string, t Template) (Template, []string, error) {
	if err := s.May(&call.Caller); err != nil {
		return Template{}, nil, err
	}
	if !authz.IsID(id) {
		return Template{}, nil, errTemplateNotFound
	}
	t.ID, t.Customer, t.UpdatedAt = id, call.Customer.ID, call.Now
	var made Saved
	err := s.cfg.Record.Change(ctx, call.Change(func() any { return made }), func(tx Tx) (audit.Draft, error) {
		was, err := tx.Template(ctx, id)
		if err != nil {
			return audit.Draft{}, err
		}
		made = Saved{Template: t}
		made.Template.CreatedAt = was.CreatedAt
		if made.Warnings, err = s.settle(ctx, tx, &made.Template, &was); err != nil {
			return audit.Draft{}, err
		}
		made.Template.Version = tx.Seq()
		return templateDraft(&call, &made.Template, "update"), tx.UpdateTemplate(ctx, made.Template)
	})
	if err != nil {
		return Template{}, nil, err
	}
	return made.Template, made.Warnings, nil
}

// Get returns one.
func (s *Templates) Get(ctx context.Context, call authz.Call, id string) (Template, error) {
	if err := s.MayRead(&call.Caller); err != nil {
		return Template{}, err
	}
	if !authz.IsID(id) {
		return Template{}, errTemplateNotFound
	}
	return s.cfg.Record.Template(ctx, call.Customer.ID, id)
}

// List returns a page of them by name, then by id; after are those of the last one
// of the page before.
func (s *Templates) List(ctx context.Context, call authz.Call, afterName, afterID string, limit int) ([]Template, error) {
	if err := s.MayRead(&call.Caller); err != nil {
		return nil, err
	}
	return s.cfg.Record.Templates(ctx, call.Customer.ID, afterName, afterID, limit)
}

// Delete deletes a template of which no request is pending, or approved and live.
// Closed ones keep their data.
func (s *Templates) Delete(ctx context.Context, call authz.Call, id string) error {
	if err := s.May(&call.Caller); err != nil {
		return err
	}
	if !authz.IsID(id) {
		return errTemplateNotFound
	}
	return s.cfg.Record.Change(ctx, call.Change(nil), func(tx Tx) (audit.Draft, error) {
		t, err := tx.Template(ctx, id)
		if err != nil {
			return audit.Draft{}, err
		}
		n, err := tx.OpenRequests(ctx, id, call.Now)
		if err != nil {
			return audit.Draft{}, err
		}
		if n > 0 {
			return audit.Draft{}, latchkey.Errorf(latchkey.Conflict, "template_in_use", "requests by it that are pending or approved: %d", n)
		}
		return templateDraft(&call, &t, "delete"), tx.DeleteTemplate(ctx, id)
	})
}

func templateDraft(call *authz.Call, t *Template, action string) audit.Draft {
	d := call.Draft("access_request_template."+action, audit.Resource{Type: "access_request_template", Name: t.Name, ID: t.ID})
	d.Changes = authz.Changes("app_id", t.Application)
	if action != "delete" { // who decides, on what and for how long, is worth a trail
		p := payload{'{'}.text("app_id", t.Application).texts("mapping_ids", t.Entitlements)
		p = p.texts("approver_group_ids", t.ApproverGroups).texts("allowed_group_ids", t.AllowedGroups).text("escalation_group_id", t.EscalationGroup)
		p = p.flag("allow_self_approval", t.AllowSelfApproval).flag("auto_approve", t.AutoApprove)
		p = append(p.name("approvals_required"), strconv.Itoa(t.ApprovalsRequired)...)
		p = p.text("auto_approve_when", t.AutoApproveWhen).texts("auto_approve_sources", t.AutoApproveSources).text("trigger_task_id", t.TriggerTask)
		p = p.value("trigger_task_failure_mode", t.TriggerFailureMode).value("resource_selector", t.Selector).value("resource_access", t.Access)
		p = p.value("assignment_types", t.AssignmentTypes).value("allowed_durations", t.AllowedDurations).value("max_duration_mins", t.MaxDuration)
		d.Changes = p.value("max_auto_duration_mins", t.MaxAutoDuration).value("pending_ttl_mins", t.PendingTTL).flag("require_justification", t.RequireJustification).String()
	}
	return d
}

// value writes a value of ours, which JSON can always be made of.
func (p payload) value(name string, v any) payload {
	text, err := json.Marshal(v)
	if err != nil {
		text = []byte("null")
	}
	return p.raw(name, text)
}

func (p payload) texts(name string, list []string) payload {
	return strictjson.AppendStrings(p.name(name), list)
}

// settle refuses a template that cannot be saved, gives its fields their ids and
// its durations their default, and returns what its author should know.
func (s *Templates) settle(ctx context.Context, tx Tx, t, was *Template) (warnings []string, err error) {
	var faults []latchkey.Fault
	note := func(err error) { faults = append(faults, scopes.Faults(err)...) }
	var before []CustomField
	if was != nil {
		before = was.CustomFields
		if t.Application != was.Application {
			note(fault("/app_id", "immutable_member", "the application of a template never changes"))
		}
	}
	fields, err := named(t.CustomFields, before)
	note(err)
	note(t.consistent())
	switch {
	case !t.asksProviders():
	case s.cfg.Auto == nil:
		note(fault("/auto_approve_when", "no_providers", "no on-call provider is configured here"))
	default:
		note(s.cfg.Auto.Check(t.AutoApproveSources, t.AutoApproveWhen))
	}
	if err := s.refers(ctx, tx, t, note); err != nil {
		return nil, err
	}
	if len(faults) > 0 {
		return nil, latchkey.InvalidFaults(faults...)
	}
	t.CustomFields = fields
	if t.DefaultDuration == 0 && len(t.AllowedDurations) > 0 {
		t.DefaultDuration = slices.Min(t.AllowedDurations)
	}
	if len(t.Entitlements) == 0 && t.Selector == nil {
		warnings = append(warnings, "what is approved gives nothing: there are neither mapping_ids nor a resource_selector")
	}
	if t.TriggerFailureMode == Block && t.TriggerTask != "" {
		warnings = append(warnings, "trigger_task_failure_mode block holds up approvals alone; on other events it acts as ignore")
	}
	if t.conditional() {
		member, err := botDecides(ctx, tx, t)
		if err != nil {
			return nil, err
		}
		if !member {
			warnings = append(warnings, "auto_approve_when and auto_approve_sources do nothing until bot is a member of an approver group")
		}
	}
	if t.AutoApprove && t.asksProviders() {
		warnings = append(warnings, "auto_approve approves every valid request; auto_approve_when and auto_approve_sources are not asked")
	}
	return warnings, nil
}

// consistent refuses a template that contradicts itself.
func (t *Template) consistent() error {
	var faults []latchkey.Fault
	note := func(at, code, detail string) {
		faults = append(faults, latchkey.Fault{Pointer: at, Code: code, Detail: detail})
	}
	switch {
	case strings.TrimSpace(t.Name) == "":
		note("/name", "empty_string", "must not be empty")
	case utf8.RuneCountInString(t.Name) > maxName:
		note("/name", "too_long", "at most "+strconv.Itoa(maxName)+" characters")
	}
	for at, text := range map[string]string{"/name": t.Name, "/description": t.Description} {
		if err := textAllowed(text, at); err != nil {
			faults = append(faults, scopes.Faults(err)...)
		}
	}
	if t.ApprovalsRequired < 1 {
		note("/approvals_required", "out_of_range", "at least one person approves")
	}
	if t.NotificationCount < 1 {
		note("/notification_count", "out_of_range", "at least one person is told")
	}
	if len(t.AssignmentTypes) == 0 {
		note("/assignment_types", "empty_list", "want at least one")
	}
	for i, a := range t.AssignmentTypes {
		if !slices.Contains(assignments, a) {
			note(strictjson.PointerIndex("/assignment_types", i), "invalid_value", "want one of "+join(assignments))
		}
	}
	if policies := []NotificationPolicy{NotifyAll, FirstN, RandomN, RoundRobin}; !slices.Contains(policies, t.NotificationPolicy) {
		note("/notification_policy", "invalid_value", "want one of "+join(policies))
	}
	if modes := []FailureMode{Ignore, Retry, Block}; !slices.Contains(modes, t.TriggerFailureMode) {
		note("/trigger_task_failure_mode", "invalid_value", "want one of "+join(modes))
	}
	for i, d := range t.AllowedDurations {
		at := strictjson.PointerIndex("/allowed_durations", i)
		switch {
		case d < 1 || d > MaxMinutes:
			note(at, "out_of_range", "want whole minutes from 1 to "+strconv.Itoa(int(MaxMinutes)))
		case t.MaxDuration > 0 && d > t.MaxDuration:
			note(at, "duration_not_allowed", "longer than max_duration_mins")
		}
	}
	for at, d := range map[string]Minutes{
		"/default_duration_mins": t.DefaultDuration, "/max_duration_mins": t.MaxDuration, "/max_auto_duration_mins": t.MaxAutoDuration,
		"/pending_ttl_mins": t.PendingTTL, "/escalation_after_mins": t.EscalationAfter, "/revoke_when_off_call": t.RevokeWhenOffCall,
	} {
		if d < 0 || d > MaxMinutes {
			note(at, "out_of_range", "want whole minutes up to "+strconv.Itoa(int(MaxMinutes)))
		}
	}
	if t.DefaultDuration > 0 {
		if err := t.checkDuration(t.DefaultDuration, "/default_duration_mins"); err != nil {
			faults = append(faults, scopes.Faults(err)...)
		}
	}
	if t.EscalationAfter > 0 && t.EscalationGroup == "" {
		note("/escalation_group_id", "missing_member", "goes with escalation_after_mins")
	}
	if t.Selector != nil && t.Access.Permission == 0 && len(t.Access.Actions) == 0 {
		note("/resource_access", "no_access", "want p, a or both")
	}
	slices.SortFunc(faults, func(a, b latchkey.Fault) int { return strings.Compare(a.Pointer, b.Pointer) })
	if len(faults) > 0 {
		return latchkey.InvalidFaults(faults...)
	}
	return nil
}

// refers notes what a template names that is not there, and what cannot be granted
// together.
func (s *Templates) refers(ctx context.Context, tx Tx, t *Template, note func(error)) error {
	absent := func(err error, at, code, detail string) (bool, error) {
		if latchkey.KindOf(err) == latchkey.NotFound {
			note(fault(at, code, detail))
			return true, nil
		}
		return err != nil, err
	}
	_, err := tx.Application(ctx, t.Application)
	nowhere, err := absent(err, "/app_id", "application_not_found", "there is no such application")
	if err != nil {
		return err
	}
	whole := true
	for i, id := range t.Entitlements {
		at := strictjson.PointerIndex("/mapping_ids", i)
		e, err := tx.Entitlement(ctx, id)
		missing, err := absent(err, at, "entitlement_not_found", "there is no such entitlement")
		if err != nil {
			return err
		}
		switch {
		case missing:
		case slices.Contains(t.Entitlements[:i], id):
			note(fault(at, "duplicate", "stands twice"))
		case e.Application != t.Application && !nowhere:
			note(fault(at, "other_application", "the entitlement is of another application"))
		default:
			continue
		}
		whole = false
	}
	for _, list := range []struct {
		at  string
		ids []string
	}{{"/approver_group_ids", t.ApproverGroups}, {"/allowed_group_ids", t.AllowedGroups}} {
		for i, id := range list.ids {
			at := strictjson.PointerIndex(list.at, i)
			_, err := tx.Group(ctx, id)
			if _, err := absent(err, at, "group_not_found", "there is no such group"); err != nil {
				return err
			}
			if slices.Contains(list.ids[:i], id) {
				note(fault(at, "duplicate", "stands twice"))
			}
		}
	}
	if t.EscalationGroup != "" {
		_, err := tx.Group(ctx, t.EscalationGroup)
		if _, err := absent(err, "/escalation_group_id", "group_not_found", "there is no such group"); err != nil {
			return err
		}
	}
	if t.TriggerTask != "" {
		found, err := tx.HasTask(ctx, t.TriggerTask)
		if err != nil {
			return err
		}
		if !found {
			note(fault("/trigger_task_id", "task_not_found", "there is no such task"))
		}
	}
	if t.Selector != nil && (t.Access.Permission != 0 || len(t.Access.Actions) > 0) {
		sample := Request{Snapshot: Snapshot{Template: *t, Entries: "{}"}, Resources: []authz.EntityRef{{Type: t.Selector.Kind, ID: "sample"}}}
		if _, err := entriesOf(s.cfg.Parser, &sample); err != nil {
			note(fault("/resource_access", "invalid_access", "the access cannot be granted: "+detail(err)))
		}
	}
	if !whole {
		return nil
	}
	entries, _, err := merged(ctx, tx, t.Entitlements)
	if err != nil || entries == "{}" {
		return err
	}
	if _, err := s.cfg.Parser.LoadEntries(entries); err != nil {
		note(fault("/mapping_ids", "entries_too_large", "the entitlements cannot be granted together: "+detail(err)))
	}
	return nil
}
