package access

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
)

// Minutes is a length of time as templates and requests give it; 0 stands for
// none.
type Minutes int64

// MaxMinutes is the longest that may be named: a year.
const MaxMinutes Minutes = 366 * 24 * 60

// Duration is it as a time.Duration.
func (m Minutes) Duration() time.Duration {
	return time.Duration(min(m, math.MaxInt64/Minutes(time.Minute))) * time.Minute
}

func (m Minutes) text() string {
	if m == 1 {
		return "1 minute"
	}
	return strconv.FormatInt(int64(m), 10) + " minutes"
}

// Template says what may be asked for, by whom, and who decides. Its JSON is what
// the API shows, and what is kept.
type Template struct {
	ID          string           `json:"id"` // UUID
	Customer    string           `json:"-"`
	Name        string           `json:"name"`
	Description string           `json:"description"`
	Application string           `json:"app_id"` // never changes
	CreatedAt   latchkey.Instant `json:"created_at"`
	UpdatedAt   latchkey.Instant `json:"updated_at"`
	Version     int64            `json:"-"` // sequence number of the last change

	// Entitlements are what it gives, and Selector which resources may be asked for
	// besides, with Access; nil where none may.
	Entitlements []string          `json:"mapping_ids"`
	Selector     *ResourceSelector `json:"resource_selector"`
	Access       ResourceAccess    `json:"resource_access"`

	// AssignmentTypes are how it may be given. AllowedDurations are those of a
	// temporary one; where there are none, any up to MaxDuration, which bounds a
	// window too. DefaultDuration is what stands for none where that is allowed.
	AssignmentTypes  []Assignment `json:"assignment_types"`
	AllowedDurations []Minutes    `json:"allowed_durations"`
	DefaultDuration  Minutes      `json:"default_duration_mins"`
	MaxDuration      Minutes      `json:"max_duration_mins"`

	// AllowedGroups may ask; where there are none, anybody. ApproverGroups decide;
	// where there are none, admins. All of them are ids.
	AllowedGroups         []string `json:"allowed_group_ids"`
	ApproverGroups        []string `json:"approver_group_ids"`
	ApprovalsRequired     int      `json:"approvals_required"`
	AllowSelfApproval     bool     `json:"allow_self_approval"`
	PendingTTL            Minutes  `json:"pending_ttl_mins"`
	RequireJustification  bool     `json:"require_justification"`
	PreferRequesterGroups bool     `json:"prefer_requester_groups"`

	NotificationPolicy NotificationPolicy `json:"notification_policy"`
	NotificationCount  int                `json:"notification_count"`
	EscalationAfter    Minutes            `json:"escalation_after_mins"`
	EscalationGroup    string             `json:"escalation_group_id"`

	// AutoApprove approves every valid request. AutoApproveSources and
	// AutoApproveWhen ask providers, and count as a vote of authz.Bot where that is
	// a member of an approver group.
	AutoApprove        bool     `json:"auto_approve"`
	AutoApproveSources []string `json:"auto_approve_sources"`
	AutoApproveWhen    string   `json:"auto_approve_when"`
	MaxAutoDuration    Minutes  `json:"max_auto_duration_mins"`
	// RevokeWhenOffCall is how often it is asked again whether what was approved so
	// would still be; 0 is never. Outside it is revoke_when_off_call.
	RevokeWhenOffCall Minutes `json:"revoke_when_off_call_mins"`

	CustomFields []CustomField `json:"custom_fields"`

	TriggerTask        string      `json:"trigger_task_id"`
	TriggerFailureMode FailureMode `json:"trigger_task_failure_mode"`
}

// DefaultTemplate is a template with what stands for members that a body leaves
// out; DefaultDuration and MaxDuration are settled when it is saved.
func DefaultTemplate() Template {
	return Template{
		Access: ResourceAccess{Permission: 2, Actions: []string{"*"}}, AssignmentTypes: []Assignment{Temporary},
		ApprovalsRequired: 1, RequireJustification: true, NotificationPolicy: NotifyAll, NotificationCount: 1, TriggerFailureMode: Ignore,
	}
}

// Assignment is how long a right is given for.
type Assignment string

// The assignments.
const (
	// Temporary begins with the approval and lasts for a duration.
	Temporary Assignment = "temporary"
	// InWindow has both ends.
	InWindow Assignment = "window"
	// Permanent lasts until it is revoked.
	Permanent Assignment = "permanent"
)

// NotificationPolicy chooses which approvers are told of a request. Who is told
// never limits who may decide.
type NotificationPolicy string

// The policies.
const (
	NotifyAll  NotificationPolicy = "all"
	FirstN     NotificationPolicy = "first_n"
	RandomN    NotificationPolicy = "random_n"
	RoundRobin NotificationPolicy = "round_robin"
)

// FailureMode says what becomes of a trigger task that fails.
type FailureMode string

// The modes.
const (
	Ignore FailureMode = "ignore"
	Retry  FailureMode = "retry"
	// Block runs the task before an approval, which its failure prevents.
	Block FailureMode = "block"
)

// ResourceSelector selects the resources of a kind that have all of the labels.
type ResourceSelector struct {
	Kind   string            `json:"kind"`
	Labels map[string]string `json:"labels"`
}

// ResourceAccess is what of a resource is given, in the terms of a scope entry.
type ResourceAccess struct {
	Permission int      `json:"p,omitempty"`
	Actions    []string `json:"a,omitempty"`
}

// FieldType is what a custom field takes.
type FieldType string

// The types of custom fields, and what an answer to them is.
const (
	TextField        FieldType = "text"         // one line
	TextAreaField    FieldType = "textarea"     // text
	SelectField      FieldType = "select"       // one of the options
	MultiSelectField FieldType = "multi_select" // some of the options
	CheckboxField    FieldType = "checkbox"     // a bool
)

// CustomField is a further question that a template asks. Its ID, a UUID, is the
// server's: an update keeps that of a field with the same id or, without one, the
// same label.
type CustomField struct {
	ID          string    `json:"id"`
	Label       string    `json:"label"`
	Type        FieldType `json:"type"`
	Required    bool      `json:"required"`
	Placeholder string    `json:"placeholder"`
	Options     []string  `json:"options"`
}

// asksProviders reports whether it has what providers are asked by.
func (t *Template) asksProviders() bool {
	return t.AutoApproveWhen != "" || len(t.AutoApproveSources) > 0
}

// conditional reports whether providers say if a request is approved.
func (t *Template) conditional() bool { return !t.AutoApprove && t.asksProviders() }

// selects reports whether the resource may be asked for.
func (t *Template) selects(r authz.ResourceRecord) bool {
	return t.Selector != nil && t.Selector.Matches(r)
}

// escalates reports whether a request that nobody decides goes to further people.
func (t *Template) escalates() bool { return t.EscalationAfter > 0 && t.EscalationGroup != "" }

// allows reports whether a member of the groups may ask.
func (t *Template) allows(groups []string) bool {
	return len(t.AllowedGroups) == 0 || slices.ContainsFunc(groups, func(g string) bool { return slices.Contains(t.AllowedGroups, g) })
}

// decides reports whether somebody may decide: a member of an approver group or,
// once it has escalated, of that group; with no approver groups an admin.
func (t *Template) decides(groups []string, admin, escalated bool) bool {
	if escalated && t.EscalationGroup != "" && slices.Contains(groups, t.EscalationGroup) {
		return true
	}
	if len(t.ApproverGroups) == 0 {
		return admin
	}
	return slices.ContainsFunc(groups, func(g string) bool { return slices.Contains(t.ApproverGroups, g) })
}

// Matches reports whether it selects the resource.
func (s *ResourceSelector) Matches(r authz.ResourceRecord) bool {
	if r.Type != s.Kind {
		return false
	}
	if len(s.Labels) == 0 {
		return true
	}
	var labels map[string]string
	if err := json.Unmarshal([]byte(r.Labels), &labels); err != nil {
		return false // a selector that cannot tell selects nothing
	}
	for name, want := range s.Labels {
		if have, ok := labels[name]; !ok || have != want {
			return false
		}
	}
	return true
}

// longest is how long a right by it may last; 0 is no bound but MaxMinutes.
func (t *Template) longest() Minutes {
	longest := t.MaxDuration
	if longest == 0 && len(t.AllowedDurations) > 0 {
		longest = slices.Max(t.AllowedDurations)
	}
	if longest == 0 {
		longest = MaxMinutes
	}
	return longest
}

// checkDuration refuses what a temporary right cannot last.
func (t *Template) checkDuration(d Minutes, at string) error {
	allowed := d > 0 && d <= t.longest() && (len(t.AllowedDurations) == 0 || slices.Contains(t.AllowedDurations, d))
	if !allowed {
		return fault(at, "duration_not_allowed", "the template allows "+t.durations())
	}
	return nil
}

// durations says what a temporary right may last, to who asked for something else.
func (t *Template) durations() string {
	if len(t.AllowedDurations) == 0 {
		return "at most " + t.longest().text()
	}
	last := len(t.AllowedDurations) - 1
	text := ""
	for _, d := range t.AllowedDurations[:last] {
		text += strconv.FormatInt(int64(d), 10) + ", "
	}
	return text + t.AllowedDurations[last].text()
}

// checkWindow refuses what cannot be a window now. One that has begun is cut when
// it is approved: nothing holds before it was.
func (t *Template) checkWindow(w Window, at string, now latchkey.Instant) error {
	switch {
	case w.End <= w.Start:
		return fault(at+"/end", "window_empty", "a window ends after it begins")
	case w.End <= now:
		return fault(at+"/end", "window_over", "the window is over")
	case w.End == latchkey.Never:
		return fault(at+"/end", "window_open", "a window has an end")
	case w.End > max(w.Start, now).Add(t.longest().Duration()):
		return fault(at+"/end", "duration_not_allowed", "the template allows at most "+t.longest().text())
	}
	return nil
}

func fault(at, code, detail string) error {
	return latchkey.InvalidFaults(latchkey.Fault{Pointer: at, Code: code, Detail: detail})
}
