package access_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

const (
	appID   = "6a0c4e0e-27a5-4f27-9d0a-0b7f4be6f001"
	groupID = "6a0c4e0e-27a5-4f27-9d0a-0b7f4be6f002"
	otherID = "6a0c4e0e-27a5-4f27-9d0a-0b7f4be6f003"
	fieldID = "6a0c4e0e-27a5-4f27-9d0a-0b7f4be6f004"
)

// token has the shape of a credential, and is nobody's.
const token = "lk1_live_000000000000_0000000000000000000000000000000000000000000_000000"

func root(t testing.TB, body string) strictjson.Value {
	t.Helper()
	var doc strictjson.Doc
	if err := doc.Parse(body); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return doc.Root()
}

// faults are what is wrong, as "pointer code".
func faults(t testing.TB, err error) (list []string) {
	t.Helper()
	if err == nil {
		return nil
	}
	var e *latchkey.Error
	if !errors.As(err, &e) || e.Kind != latchkey.Invalid || len(e.Faults) == 0 {
		t.Fatalf("want faults, got %v", err)
	}
	for _, f := range e.Faults {
		if f.Detail == "" {
			t.Errorf("%s %s says nothing", f.Pointer, f.Code)
		}
		list = append(list, strings.TrimSpace(f.Pointer+" "+f.Code))
	}
	slices.Sort(list)
	return list
}

const least = `"name":"n","app_id":"` + appID + `"`

func TestParseTemplate_TheExample(t *testing.T) {
	t.Parallel()
	got, err := access.ParseTemplate(root(t, `{"name":" Database read-only access ","description":"Grants read-only database credentials for up to 8 hours.",
		"app_id":"`+appID+`","mapping_ids":["`+otherID+`"],"allowed_durations":[60,240,4.8e2],"approver_group_ids":["`+groupID+`"],
		"require_justification":true,"auto_approve":false,"notification_policy":"all","escalation_after_mins":30,"escalation_group_id":"`+groupID+`",
		"trigger_task_id":null,"custom_fields":"[{\"label\":\"Ticket\",\"type\":\"text\",\"required\":true}]"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := access.DefaultTemplate()
	want.Name, want.Description, want.Application = "Database read-only access", "Grants read-only database credentials for up to 8 hours.", appID
	want.Entitlements, want.AllowedDurations, want.ApproverGroups = []string{otherID}, []access.Minutes{60, 240, 480}, []string{groupID}
	want.EscalationAfter, want.EscalationGroup = 30, groupID
	want.CustomFields = []access.CustomField{{Label: "Ticket", Type: access.TextField, Required: true}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestParseTemplate_LeavesOutWhatIsLeftOut(t *testing.T) {
	t.Parallel()
	got, err := access.ParseTemplate(root(t, `{`+least+`}`))
	want := access.DefaultTemplate()
	want.Name, want.Application = "n", appID
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestParseTemplate_EverythingElse(t *testing.T) {
	t.Parallel()
	got, err := access.ParseTemplate(root(t, `{`+least+`,"default_duration_mins":60,"max_duration_mins":600,"auto_approve_sources":["pagerduty"],"auto_approve_when":"oncall.pagerduty.active",
		"max_auto_duration_mins":30,"revoke_when_off_call":5,"approvals_required":2,"allow_self_approval":true,"pending_ttl_mins":90,"assignment_types":["window","permanent"],
		"resource_selector":{"kind":"account","labels":{"env":"prod"}},"resource_access":{"a":["login","*"]},"notification_policy":"round_robin","notification_count":2,
		"trigger_task_id":"`+otherID+`","trigger_task_failure_mode":"block","allowed_group_ids":["`+groupID+`"],"prefer_requester_groups":true,"require_justification":false,"auto_approve":true,
		"custom_fields":[{"id":"`+fieldID+`","label":"Env","type":"multi_select","placeholder":"which","options":["a","b"]},{"label":"Sure","type":"checkbox","options":[]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := access.Template{
		Name: "n", Application: appID, DefaultDuration: 60, MaxDuration: 600, AutoApproveSources: []string{"pagerduty"}, AutoApproveWhen: "oncall.pagerduty.active",
		MaxAutoDuration: 30, RevokeWhenOffCall: 5, ApprovalsRequired: 2, AllowSelfApproval: true, PendingTTL: 90,
		AssignmentTypes: []access.Assignment{access.InWindow, access.Permanent},
		Selector:        &access.ResourceSelector{Kind: "account", Labels: map[string]string{"env": "prod"}}, Access: access.ResourceAccess{Actions: []string{"login", "*"}},
		NotificationPolicy: access.RoundRobin, NotificationCount: 2, TriggerTask: otherID, TriggerFailureMode: access.Block,
		AllowedGroups: []string{groupID}, PreferRequesterGroups: true, AutoApprove: true,
		CustomFields: []access.CustomField{{ID: fieldID, Label: "Env", Type: access.MultiSelectField, Placeholder: "which", Options: []string{"a", "b"}}, {Label: "Sure", Type: access.CheckboxField}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestParseTemplate_Refuses(t *testing.T) {
	t.Parallel()
	many := strings.Repeat(`"x",`, 101) + `"x"`
	for members, want := range map[string][]string{
		``:                      {"/app_id missing_member", "/name missing_member"},
		`"name":7,"app_id":"x"`: {"/app_id invalid_id", "/name wrong_type"},
		`"name":"  ","app_id":"` + strings.ToUpper(appID) + `"`:              {"/app_id invalid_id", "/name empty_string"},
		`"name":"a\u001b[31m","app_id":"` + appID + `"`:                      {"/name control_character"},
		`"name":"` + strings.Repeat("x", 201) + `","app_id":"` + appID + `"`: {"/name too_long"},
		`"name":"` + token + `","app_id":"` + appID + `"`:                    {"/name credential_in_text"},
		// What the server sets is nobody's to send.
		least + `,"id":"x","created_at":"y","version":1`: {"/created_at unknown_member", "/id unknown_member", "/version unknown_member"},
		least + `,"allowed_durations":[0,-1,1.5,1e99,"60",60,60,527041]`: {"/allowed_durations/0 out_of_range", "/allowed_durations/1 out_of_range",
			"/allowed_durations/2 out_of_range", "/allowed_durations/3 out_of_range", "/allowed_durations/4 wrong_type", "/allowed_durations/6 duplicate", "/allowed_durations/7 out_of_range"},
		least + `,"allowed_durations":60`:                                     {"/allowed_durations wrong_type"},
		least + `,"mapping_ids":["x",7,null]`:                                 {"/mapping_ids/0 invalid_id", "/mapping_ids/1 wrong_type", "/mapping_ids/2 wrong_type"},
		least + `,"mapping_ids":[` + many + `]`:                               {"/mapping_ids too_many"},
		least + `,"approver_group_ids":["` + groupID + `","` + groupID + `"]`: {"/approver_group_ids/1 duplicate"},
		// An approval by nobody at all would be no approval.
		least + `,"approvals_required":0`:                                                                      {"/approvals_required out_of_range"},
		least + `,"approvals_required":-1,"notification_count":0`:                                              {"/approvals_required out_of_range", "/notification_count out_of_range"},
		least + `,"require_justification":"no"`:                                                                {"/require_justification wrong_type"},
		least + `,"notification_policy":"some"`:                                                                {"/notification_policy invalid_value"},
		least + `,"escalation_after_mins":30`:                                                                  {"/escalation_group_id missing_member"},
		least + `,"escalation_group_id":"` + groupID + `"`:                                                     {"/escalation_after_mins missing_member"},
		least + `,"escalation_after_mins":0,"escalation_group_id":"` + groupID + `"`:                           {"/escalation_after_mins out_of_range"},
		least + `,"trigger_task_failure_mode":"abort"`:                                                         {"/trigger_task_failure_mode invalid_value"},
		least + `,"assignment_types":[]`:                                                                       {"/assignment_types empty_list"},
		least + `,"assignment_types":["temporary","temporary","for ever"]`:                                     {"/assignment_types/1 duplicate", "/assignment_types/2 invalid_value"},
		least + `,"auto_approve_sources":["a b",7,"x","x"]`:                                                    {"/auto_approve_sources/0 invalid_name", "/auto_approve_sources/1 wrong_type", "/auto_approve_sources/3 duplicate"},
		least + `,"resource_selector":{"labels":{"a":7}}`:                                                      {"/resource_selector/kind missing_member", "/resource_selector/labels/a wrong_type"},
		least + `,"resource_selector":{"kind":"policies"}`:                                                     {"/resource_selector/kind invalid_kind"},
		least + `,"resource_selector":{"kind":"*"}`:                                                            {"/resource_selector/kind invalid_kind"},
		least + `,"resource_selector":"account"`:                                                               {"/resource_selector wrong_type"},
		least + `,"resource_access":{}`:                                                                        {"/resource_access no_access"},
		least + `,"resource_access":{"p":16,"a":["*","a b"],"f":"*"}`:                                          {"/resource_access/a/1 invalid_action", "/resource_access/f unknown_member", "/resource_access/p out_of_range"},
		least + `,"custom_fields":"[{"`:                                                                        {"/custom_fields invalid_json"},
		least + `,"custom_fields":"{}"`:                                                                        {"/custom_fields wrong_type"},
		least + `,"custom_fields":"[{\"label\":\"x\",\"label\":\"y\",\"type\":\"text\"}]"`:                     {"/custom_fields invalid_json"},
		least + `,"custom_fields":[{"label":"x"},{"type":"date","label":"y"},7]`:                               {"/custom_fields/0/type missing_member", "/custom_fields/1/type invalid_value", "/custom_fields/2 wrong_type"},
		least + `,"custom_fields":[{"label":"x","type":"select"},{"label":"x","type":"text","options":["a"]}]`: {"/custom_fields/0/options missing_member", "/custom_fields/1 duplicate", "/custom_fields/1/options unexpected_options"},
		least + `,"custom_fields":[{"label":"x","type":"select","options":[]},{"label":"y","type":"select","options":["a","a",""]}]`: {"/custom_fields/0/options empty_list",
			"/custom_fields/1/options/1 duplicate", "/custom_fields/1/options/2 empty_string"},
	} {
		if _, err := access.ParseTemplate(root(t, `{`+members+`}`)); !slices.Equal(faults(t, err), want) {
			t.Errorf("%s:\n got %q\nwant %q", members, faults(t, err), want)
		}
	}
	for _, body := range []string{`[]`, `null`, `"x"`} {
		if _, err := access.ParseTemplate(root(t, body)); !slices.Equal(faults(t, err), []string{"wrong_type"}) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestParseSubmission(t *testing.T) {
	t.Parallel()
	at, _ := latchkey.ParseInstant("2026-11-21T22:10:00Z")
	for body, want := range map[string]access.Submission{
		`{"template_id":"` + groupID + `","requested_duration_mins":480,"justification":" Need access to debug the production incident. "}`: {
			Template: groupID, Duration: 480, Justification: "Need access to debug the production incident."},
		`{"template_id":"` + groupID + `","window":{"start":"2026-11-21T22:10:00Z","end":"2026-11-21T23:10:00+00:00"},"resources":[{"kind":"account","id":"a/b"}],"beneficiary_id":"` + otherID + `"}`: {
			Template: groupID, Window: &access.Window{Start: at, End: at + 3600e6}, Resources: []authz.EntityRef{{Type: "account", ID: "a/b"}}, Beneficiary: otherID},
		`{"template_id":"` + groupID + `","assignment_type":"permanent","window":null,"custom_answers":{"` + fieldID + `":"line\nline","` + otherID + `":["a","b"],"` + appID + `":true,"` + groupID + `":null}}`: {
			Template: groupID, Assignment: access.Permanent, Answers: map[string]access.AnswerValue{fieldID: {Kind: access.TextAnswer, Text: "line\nline"},
				otherID: {Kind: access.OptionsAnswer, Options: []string{"a", "b"}}, appID: {Kind: access.CheckedAnswer, Checked: true}}},
		// What somebody writes is kept as it is, whatever a page, a sheet or a chat would make of it.
		`{"template_id":"` + groupID + `","justification":"=cmd|'/c calc'!A1 <script>alert(1)</script> <!channel> @everyone\r\nline"}`: {
			Template: groupID, Justification: "=cmd|'/c calc'!A1 <script>alert(1)</script> <!channel> @everyone\r\nline"},
	} {
		got, err := access.ParseSubmission(root(t, body))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", body, got, err, want)
		}
	}
}

func TestParseSubmission_Refuses(t *testing.T) {
	t.Parallel()
	const of = `"template_id":"` + groupID + `"`
	for members, want := range map[string][]string{
		``:                    {"/template_id missing_member"},
		`"template_id":"x"`:   {"/template_id invalid_id"},
		`"template_id":["x"]`: {"/template_id wrong_type"},
		of + `,"status":"approved","decision":"Approved","decided_by":"me","decision_method":"auto","decided_at":"2026-11-21T22:10:00Z","approvals":[],"expires_at":null,"requester_id":"x","grant_id":"x"`: {
			"/approvals unknown_member", "/decided_at unknown_member", "/decided_by unknown_member", "/decision unknown_member", "/decision_method unknown_member",
			"/expires_at unknown_member", "/grant_id unknown_member", "/requester_id unknown_member", "/status unknown_member"},
		of + `,"requested_duration_mins":0`:                   {"/requested_duration_mins duration_not_allowed"},
		of + `,"requested_duration_mins":-480`:                {"/requested_duration_mins duration_not_allowed"},
		of + `,"requested_duration_mins":1e300`:               {"/requested_duration_mins duration_not_allowed"},
		of + `,"requested_duration_mins":9223372036854775807`: {"/requested_duration_mins duration_not_allowed"},
		of + `,"requested_duration_mins":0.5`:                 {"/requested_duration_mins duration_not_allowed"},
		of + `,"requested_duration_mins":"480"`:               {"/requested_duration_mins wrong_type"},
		of + `,"requested_duration_mins":480,"window":{"start":"2026-11-21T22:10:00Z","end":"2026-11-21T23:10:00Z"}`: {"/window two_durations"},
		of + `,"window":{"start":"2026-11-21T22:10:00Z"}`:                                                            {"/window/end missing_member"},
		of + `,"window":{"start":"2026-11-21T22:10:00Z","end":"2026-11-21T22:10:00Z"}`:                               {"/window/end end_before_start"},
		of + `,"window":{"start":"tomorrow","end":7,"zone":"CET"}`:                                                   {"/window/end wrong_type", "/window/start invalid_timestamp", "/window/zone unknown_member"},
		of + `,"assignment_type":"for ever"`:                                                                         {"/assignment_type invalid_value"},
		of + `,"justification":"a\u0007b"`:                                                                           {"/justification control_character"},
		of + `,"justification":"my key is ` + token + `"`:                                                            {"/justification credential_in_text"},
		of + `,"justification":"` + strings.Repeat("x", 4097) + `"`:                                                  {"/justification too_long"},
		of + `,"resources":[{"kind":"account","id":"*"}]`:                                                            {"/resources/0/id invalid_resource_id"},
		of + `,"resources":[{"kind":"account","id":"db-*"},{"kind":"x"},{"id":""},7]`:                                {"/resources/0/id invalid_resource_id", "/resources/1/id missing_member", "/resources/2/id empty_string", "/resources/2/kind missing_member", "/resources/3 wrong_type"},
		of + `,"resources":[{"kind":"sets","id":"a"},{"kind":"x","id":"a"},{"kind":"x","id":"a"}]`:                   {"/resources/0/kind invalid_kind", "/resources/2 duplicate"},
		of + `,"resources":[{"kind":"x","id":"` + strings.Repeat("é", 600) + `"}]`:                                   {"/resources/0/id too_long"},
		of + `,"custom_answers":{"ticket":"x"}`:                                                                      {"/custom_answers/ticket unknown_field"},
		of + `,"custom_answers":{"` + fieldID + `":7}`:                                                               {"/custom_answers/" + fieldID + " wrong_type"},
		of + `,"custom_answers":{"` + fieldID + `":["a","a"]}`:                                                       {"/custom_answers/" + fieldID + "/1 duplicate"},
		of + `,"beneficiary_id":"alice"`:                                                                             {"/beneficiary_id invalid_id"},
	} {
		if _, err := access.ParseSubmission(root(t, `{`+members+`}`)); !slices.Equal(faults(t, err), want) {
			t.Errorf("%s:\n got %q\nwant %q", members, faults(t, err), want)
		}
	}
}

func TestParseDecisionsAndMessages(t *testing.T) {
	t.Parallel()
	var absent strictjson.Value
	if v, err := access.ParseVerdict(absent, true); err != nil || v != (access.Verdict{}) {
		t.Errorf("an absent approval: %+v, %v", v, err)
	}
	if reason, err := access.ParseRevocation(absent); err != nil || reason != "" {
		t.Errorf("an absent revocation: %q, %v", reason, err)
	}
	if v, err := access.ParseVerdict(root(t, `{"comment":"Approved for the incident window."}`), true); err != nil || v.Comment != "Approved for the incident window." {
		t.Errorf("%+v, %v", v, err)
	}
	if v, err := access.ParseVerdict(root(t, `{"window":{"start":"2026-11-21T22:10:00Z","end":"2026-11-21T23:10:00Z"}}`), true); err != nil || v.Window == nil {
		t.Errorf("%+v, %v", v, err)
	}
	for _, body := range []string{`{"reason":"done"}`, `{"comment":"done","reason":null}`} {
		if reason, err := access.ParseRevocation(root(t, body)); err != nil || reason != "done" {
			t.Errorf("%s: %q, %v", body, reason, err)
		}
	}
	if text, err := access.ParseMessage(root(t, `{"body":" a\nb "}`)); err != nil || text != "a\nb" {
		t.Errorf("%q, %v", text, err)
	}
	approve := func(v strictjson.Value) error { _, err := access.ParseVerdict(v, true); return err }
	deny := func(v strictjson.Value) error { _, err := access.ParseVerdict(v, false); return err }
	revoke := func(v strictjson.Value) error { _, err := access.ParseRevocation(v); return err }
	message := func(v strictjson.Value) error { _, err := access.ParseMessage(v); return err }
	for _, c := range []struct {
		parse func(strictjson.Value) error
		body  string
		want  []string
	}{
		{approve, `{"status":"approved","duration":600,"decided_by":"x"}`, []string{"/decided_by unknown_member", "/duration unknown_member", "/status unknown_member"}},
		{approve, `{"comment":7}`, []string{"/comment wrong_type"}},
		{approve, `[]`, []string{"wrong_type"}},
		{deny, `{"window":{"start":"2026-11-21T22:10:00Z","end":"2026-11-21T23:10:00Z"}}`, []string{"/window unknown_member"}},
		{revoke, `{"reason":"a","comment":"b"}`, []string{"/comment two_reasons"}},
		{revoke, `{"revoked_by":"x"}`, []string{"/revoked_by unknown_member"}},
		{message, `{}`, []string{"/body missing_member"}},
		{message, `{"body":" \n"}`, []string{"/body empty_string"}},
		{message, `{"body":"` + strings.Repeat("x", 4097) + `","author":"x"}`, []string{"/author unknown_member", "/body too_long"}},
	} {
		if err := c.parse(root(t, c.body)); !slices.Equal(faults(t, err), c.want) {
			t.Errorf("%s:\n got %q\nwant %q", c.body, faults(t, err), c.want)
		}
	}
}

// Whatever a client sends is read or refused with pointers; what is read can be
// kept and shown: no control characters but those of lines, and no credentials.
func FuzzParse(f *testing.F) {
	for _, body := range []string{
		`{` + least + `,"allowed_durations":[60,240],"custom_fields":"[{\"label\":\"x\",\"type\":\"select\",\"options\":[\"a\"]}]","resource_selector":{"kind":"account","labels":{"a":"b"}}}`,
		`{"template_id":"` + groupID + `","requested_duration_mins":480,"justification":"x","custom_answers":{"` + fieldID + `":["a"]},"resources":[{"kind":"a","id":"b"}]}`,
		`{"comment":"x","window":{"start":"2026-11-21T22:10:00Z","end":"2026-11-21T23:10:00Z"}}`,
		`{"reason":"x"}`, `{"body":"x"}`, `{"name":"\u001b[2J","app_id":null}`, `{"custom_fields":"\"[]\""}`, `{"custom_answers":{"":{}}}`, `[[[[]]]]`, `{"/~":1}`,
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var doc strictjson.Doc
		if doc.Parse(body) != nil {
			return
		}
		results := map[string]func() (any, error){
			"template":   func() (any, error) { return access.ParseTemplate(doc.Root()) },
			"submission": func() (any, error) { return access.ParseSubmission(doc.Root()) },
			"approval":   func() (any, error) { return access.ParseVerdict(doc.Root(), true) },
			"denial":     func() (any, error) { return access.ParseVerdict(doc.Root(), false) },
			"revocation": func() (any, error) { return access.ParseRevocation(doc.Root()) },
			"message":    func() (any, error) { return access.ParseMessage(doc.Root()) },
		}
		for name, parse := range results {
			got, err := parse()
			if err != nil {
				faults(t, err)
				continue
			}
			again, _ := parse()
			if !reflect.DeepEqual(got, again) {
				t.Errorf("%s: %+v and then %+v", name, got, again)
			}
			text := fmt.Sprintf("%+v", got)
			if authz.ContainsToken(text) || strings.ContainsFunc(text, func(c rune) bool { return unicode.IsControl(c) && !strings.ContainsRune("\n\r\t", c) }) {
				t.Errorf("%s takes %q", name, text)
			}
		}
	})
}
