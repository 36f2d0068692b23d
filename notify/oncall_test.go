package notify_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/PagerDuty/go-pagerduty"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/latchkey-dev/latchkey/internal/duty"
	"github.com/latchkey-dev/latchkey/notify"
)

var onCallNow = time.Date(2026, 3, 2, 10, 30, 0, 0, time.UTC)

func aboutJane() *notify.OnCallQuestion {
	return &notify.OnCallQuestion{At: onCallNow, Person: notify.OnCallPerson{ID: "p-jane", Email: "jane@example.com", Name: "Jane"},
		Template:  notify.OnCallResource{Kind: "access_request_template", ID: "t-1", Name: "Databases"},
		Resources: []notify.OnCallResource{{Kind: "database", ID: "payments", Labels: map[string]string{"env": "prod"}}}}
}

// standIn serves a fake, or a handler, for the length of the test.
func standIn(t *testing.T, h http.Handler) (string, *http.Client) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL, s.Client()
}

func incidentIO(t *testing.T, h http.Handler, roles ...string) notify.OnCallProvider {
	t.Helper()
	url, client := standIn(t, h)
	p, err := notify.NewIncidentIO(notify.IncidentIOConfig{URL: url, Key: "inc-key", Client: client, Roles: roles})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func pagerDuty(t *testing.T, h http.Handler, schedules ...string) notify.OnCallProvider {
	t.Helper()
	url, client := standIn(t, h)
	p, err := notify.NewPagerDuty(notify.PagerDutyConfig{URL: url, Key: "pd-key", Client: client, Schedules: schedules})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func webhook(t *testing.T, h http.Handler) notify.OnCallProvider {
	t.Helper()
	url, client := standIn(t, h)
	p, err := notify.NewDecisionWebhook(notify.DecisionWebhookConfig{URL: url + "/decision", Secret: "hush", Client: client})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestIncidentIO_AsksWhoHasARoleInALiveIncident(t *testing.T) {
	dba := duty.Role{Name: "DBA", Shortform: "dba", Email: "Jane@Example.com", Assignee: "Jane"}
	live := func(roles ...duty.Role) []duty.Incident {
		return []duty.Incident{{ID: "01", Reference: "INC-7", Category: "live", Roles: roles}}
	}
	evidence := []notify.OnCallEvidence{{Provider: "incidentio", Kind: "incident", ID: "01", Name: "INC-7", Role: "DBA"}}
	for _, tt := range []struct {
		name      string
		roles     []string
		incidents []duty.Incident
		active    bool
	}{
		{"a role, the e-mail in another case", nil, live(dba), true},
		{"no incident", nil, nil, false},
		{"a role that counts", []string{"API", "DBA"}, live(dba), true},
		{"by its short form", []string{"dba"}, live(dba), true},
		{"a role that does not count", []string{"API"}, live(dba), false},
		{"a role's name in another case", []string{"Dba"}, live(dba), false},
		{"somebody else", nil, live(duty.Role{Name: "DBA", Email: "joan@example.com"}), false},
		{"nobody yet", nil, live(duty.Role{Name: "DBA"}), false},
		{"somebody without an address", nil, live(duty.Role{Name: "DBA", Assignee: "Jane"}), false},
		{"an address that only folds to it", nil, live(duty.Role{Name: "DBA", Email: "jane@exam\u017fple.com"}), false},
		{"an incident that is closed", nil, []duty.Incident{{ID: "01", Category: "closed", Roles: []duty.Role{dba}}}, false},
	} {
		fake := &duty.Fake{Key: "inc-key"}
		fake.Set(tt.incidents, nil)
		state, err := incidentIO(t, fake, tt.roles...).Ask(context.Background(), aboutJane())
		if err != nil || state.Active != tt.active {
			t.Errorf("%s: %+v, %v", tt.name, state, err)
		}
		if tt.active && cmp.Diff(evidence, state.Evidence) != "" {
			t.Errorf("%s: %s", tt.name, cmp.Diff(evidence, state.Evidence))
		}
	}
}

// Somebody starts an exercise to be let in, or the filter is not understood.
func TestIncidentIO_CountsNoExerciseAndNothingThatIsOver(t *testing.T) {
	for _, i := range []duty.Incident{{ID: "1", Category: "live", Mode: "test"}, {ID: "1", Category: "live", Mode: "tutorial"}, {ID: "1", Category: "learning"}, {ID: "1", Category: "Live"}} {
		i.Roles = []duty.Role{{Name: "DBA", Email: "jane@example.com"}}
		fake := &duty.Fake{}
		fake.Set([]duty.Incident{i}, nil)
		unfiltered := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			q := r.URL.Query()
			q.Del("status_category[one_of]")
			r.URL.RawQuery = q.Encode()
			fake.ServeHTTP(w, r)
		})
		if state, err := incidentIO(t, unfiltered).Ask(context.Background(), aboutJane()); err != nil || state.Active {
			t.Errorf("%+v: %+v, %v", i, state, err)
		}
	}
}

func TestProviders_ReadAllPages(t *testing.T) {
	var incidents []duty.Incident
	var onCalls []duty.OnCall
	for n := range 7 {
		email := "x@example.com"
		if n == 6 {
			email = "jane@example.com"
		}
		incidents = append(incidents, duty.Incident{ID: fmt.Sprint("inc-", n), Category: "live", Roles: []duty.Role{{Name: "DBA", Email: email}}})
		onCalls = append(onCalls, duty.OnCall{Email: email, Name: fmt.Sprint(n), Policy: "EP"})
	}
	fake := &duty.Fake{PageSize: 3}
	fake.Set(incidents, onCalls)
	for _, p := range []notify.OnCallProvider{incidentIO(t, fake), pagerDuty(t, fake)} {
		if state, err := p.Ask(context.Background(), aboutJane()); err != nil || !state.Active || len(state.Evidence) != 1 {
			t.Errorf("%s: %+v, %v", p.Name(), state, err)
		}
	}
}

func TestPagerDuty_AsksWhoIsOnCallNow(t *testing.T) {
	hour := time.Hour
	jane := func(c duty.OnCall) []duty.OnCall {
		c.Email, c.Name, c.Policy = "jane@example.com", "Jane", "EP1"
		return []duty.OnCall{{Email: "joan@example.com", Name: "Joan", Policy: "EP1", Schedule: "S1"}, c}
	}
	for _, tt := range []struct {
		name      string
		schedules []string
		onCalls   []duty.OnCall
		want      string // evidence
	}{
		{"a shift", nil, jane(duty.OnCall{Schedule: "S1", ScheduleName: "Primary", Level: 1, Start: onCallNow.Add(-hour), End: onCallNow.Add(hour)}), "schedule S1 Primary 1"},
		{"always, by the policy itself", nil, jane(duty.OnCall{Level: 2}), "escalation_policy EP1 EP1 2"},
		{"a schedule that counts", []string{"S2", "S1"}, jane(duty.OnCall{Schedule: "S1", ScheduleName: "Primary"}), "schedule S1 Primary 1"},
		{"a schedule that does not count", []string{"S2"}, jane(duty.OnCall{Schedule: "S1"}), ""},
		{"by the policy, where schedules count", []string{"S1"}, jane(duty.OnCall{}), ""},
		{"a shift that is over", nil, jane(duty.OnCall{Schedule: "S1", Start: onCallNow.Add(-2 * hour), End: onCallNow}), ""},
		{"a shift to come", nil, jane(duty.OnCall{Schedule: "S1", Start: onCallNow.Add(hour), End: onCallNow.Add(2 * hour)}), ""},
		{"a user who stays a reference", nil, jane(duty.OnCall{Schedule: "S1", WithoutInclusion: true}), ""},
		{"somebody else", nil, []duty.OnCall{{Email: "joan@example.com", Name: "Joan", Policy: "EP1"}}, ""},
	} {
		fake := &duty.Fake{Key: "pd-key"}
		fake.Set(nil, tt.onCalls)
		state, err := pagerDuty(t, fake, tt.schedules...).Ask(context.Background(), aboutJane())
		got := ""
		for _, e := range state.Evidence {
			got = fmt.Sprint(e.Kind, " ", e.ID, " ", e.Name, " ", e.Level)
		}
		if err != nil || got != tt.want || state.Active != (tt.want != "") {
			t.Errorf("%s: %+v, %v; want %q", tt.name, state, err, tt.want)
		}
	}
}

// PagerDuty's own client reads what the stand-in says as it reads PagerDuty.
func TestDuty_AnswersAsPagerDutyDoes(t *testing.T) {
	fake := &duty.Fake{Key: "pd-key", PageSize: 1}
	fake.Set(nil, []duty.OnCall{{Email: "jane@example.com", Name: "Jane", Policy: "EP1", Schedule: "S1", ScheduleName: "Primary", Level: 2, Start: onCallNow, End: onCallNow.Add(time.Hour)},
		{Email: "joan@example.com", Name: "Joan", Policy: "EP1"}})
	url, _ := standIn(t, fake)
	client := pagerduty.NewClient("pd-key", pagerduty.WithAPIEndpoint(url))
	got, err := client.ListOnCallsWithContext(context.Background(), pagerduty.ListOnCallOptions{Includes: []string{"users"}, Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.OnCalls) != 1 || !got.More || got.OnCalls[0].User.Email != "jane@example.com" || got.OnCalls[0].Schedule.ID != "S1" ||
		got.OnCalls[0].EscalationLevel != 2 || got.OnCalls[0].End != "2026-03-02T11:30:00Z" || got.OnCalls[0].EscalationPolicy.ID != "EP1" {
		t.Errorf("%+v", got)
	}
	got, err = client.ListOnCallsWithContext(context.Background(), pagerduty.ListOnCallOptions{Offset: 1})
	if err != nil || len(got.OnCalls) != 1 || got.More || got.OnCalls[0].User.Email != "" || got.OnCalls[0].User.Type != "user_reference" || got.OnCalls[0].Start != "" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := pagerduty.NewClient("wrong", pagerduty.WithAPIEndpoint(url)).ListOnCallsWithContext(context.Background(), pagerduty.ListOnCallOptions{}); err == nil {
		t.Error("a wrong key was taken")
	}
}

func TestDecisionWebhook_SignsWhatItSendsAndTellsNoReason(t *testing.T) {
	fake := &duty.Fake{Secret: "hush"}
	fake.Approve(nil, "p-jane")
	sent := ""
	recorded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		sent = string(body)
		again := r.Clone(r.Context())
		again.Body = io.NopCloser(strings.NewReader(sent))
		fake.ServeHTTP(w, again)
	})
	state, err := webhook(t, recorded).Ask(context.Background(), aboutJane())
	if err != nil || !state.Active || state.Most != 0 {
		t.Fatalf("%+v, %v", state, err)
	}
	want := `{"events":[{"event":"access/request","actor":{"id":"p-jane","kind":"user","email":"jane@example.com","displayName":"Jane"},` +
		`"resources":[{"id":"payments","kind":"database","displayName":"","labels":{"env":"prod"}}],"timestamp":"2026-03-02T10:30:00.000Z",` +
		`"meta":{"labels":{"indent.com/workflow/origin/id":"t-1"}}}]}`
	if sent != want {
		t.Errorf("sent %s", sent)
	}
	if !json.Valid([]byte(sent)) {
		t.Error("no JSON")
	}
	fake.Secret = "another"
	if state, err := webhook(t, fake).Ask(context.Background(), aboutJane()); err == nil {
		t.Errorf("a receiver that refuses the signature told %+v", state)
	}
}

func TestDecisionWebhook_CountsOnlyClaimsOfThisPersonAndTheseResources(t *testing.T) {
	const jane, payments = `{"kind":"user","id":"p-jane","email":"jane@example.com"}`, `{"kind":"database","id":"payments"}`
	claim := func(rest string, resources ...string) string {
		return `{"event":"access/approve","actor":{"kind":"bot"},"resources":[` + strings.Join(resources, ",") + `]` + rest + `}`
	}
	labels := func(l string) string { return `,"meta":{"labels":{` + l + `}}` }
	for _, tt := range []struct {
		name   string
		claims []string
		active bool
		most   time.Duration
	}{
		{"no claim", nil, false, 0},
		{"this person and resource", []string{claim("", jane, payments)}, true, 0},
		{"with more of Indent's", []string{claim(`,"id":"c1","x":{"y":[1]}`, jane, payments)}, true, 0},
		{"another person", []string{claim("", `{"kind":"user","id":"p-joan"}`, payments)}, false, 0},
		{"another person of the same e-mail", []string{claim("", `{"kind":"user","id":"p-joan","email":"jane@example.com"}`, payments)}, false, 0},
		{"a resource that has the person's id", []string{claim("", `{"kind":"database","id":"p-jane"}`, payments)}, false, 0},
		{"another resource", []string{claim("", jane, `{"kind":"database","id":"ledger"}`)}, false, 0},
		{"the resource's id of another kind", []string{claim("", jane, `{"kind":"bucket","id":"payments"}`)}, false, 0},
		{"no resource", []string{claim("", jane)}, false, 0},
		{"a denial", []string{`{"event":"access/deny","resources":[` + jane + `,` + payments + `]}`}, false, 0},
		{"another event", []string{`{"event":"access/grant","resources":[` + jane + `,` + payments + `]}`}, false, 0},
		{"a shorter time", []string{claim(labels(`"indent.com/time/duration":"1h0m0s"`), jane, payments)}, true, time.Hour},
		{"a fraction of an hour", []string{claim(labels(`"indent.com/time/duration":"1.5h0m0s"`), jane, payments)}, true, 90 * time.Minute},
		{"a longer time, which is no more than the most", []string{claim(labels(`"indent.com/time/duration":"9000h"`), jane, payments)}, true, 9000 * time.Hour},
		{"until then", []string{claim(labels(`"indent.com/time/duration":"6h0m0s","indent.com/time/expires":"2026-03-02T11:00:00Z"`), jane, payments)}, true, 30 * time.Minute},
		{"for ever", []string{claim(labels(`"indent.com/time/indefinite":"true"`), jane, payments)}, true, 0},
		{"a claim that has ended", []string{claim(labels(`"indent.com/time/expires":"2026-03-02T10:00:00Z"`), jane, payments)}, false, 0},
	} {
		body := `{"status":{"code":0},"claims":[` + strings.Join(tt.claims, ",") + `],"more":1}`
		p := webhook(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
		state, err := p.Ask(context.Background(), aboutJane())
		if err != nil || state.Active != tt.active || state.Most != tt.most {
			t.Errorf("%s: %+v, %v", tt.name, state, err)
		}
	}
	// Of two resources both must be claimed.
	q := aboutJane()
	q.Resources = append(q.Resources, notify.OnCallResource{Kind: "database", ID: "ledger"})
	body := `{"claims":[` + claim("", jane, payments) + `]}`
	p := webhook(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
	if state, err := p.Ask(context.Background(), q); err != nil || state.Active {
		t.Errorf("half of it: %+v, %v", state, err)
	}
}

// Whatever a provider does that is not an answer, nobody can tell: it is never an
// error that reads as "off duty", and what it sent is in no error.
func TestProviders_WhatIsNoAnswerIsUnknown(t *testing.T) {
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = w.Write([]byte(`{"incidents":[],"oncalls":[],"claims":[]}`))
		}
	}
	says := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }
	}
	attacks := map[string]http.HandlerFunc{
		"401": status(401), "403": status(403), "404": status(404), "429": status(429), "500": status(500), "204": status(204),
		"a redirect":         func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
		"nothing":            says(""),
		"no JSON":            says("<html>s3cret</html>"),
		"no object":          says(`[]`),
		"other members":      says(`{"s3cret":1}`),
		"twice a member":     says(`{"incidents":[],"incidents":[],"oncalls":[],"oncalls":[],"claims":[],"claims":[]}`),
		"of other types":     says(`{"incidents":{},"oncalls":{},"claims":{}}`),
		"of other elements":  says(`{"incidents":["s3cret"],"oncalls":[7],"claims":[null]}`),
		"elements that lack": says(`{"incidents":[{}],"oncalls":[{"start":"yesterday"}],"claims":[{}]}`),
		"a reply without end": func(w http.ResponseWriter, _ *http.Request) {
			for range 3 << 10 {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 1024)); err != nil {
					return
				}
			}
		},
		"a claim that failed":   says(`{"incidents":7,"oncalls":7,"status":{"code":9,"message":"s3cret"},"claims":[]}`),
		"a duration of nothing": says(`{"incidents":7,"oncalls":7,"claims":[{"event":"access/approve","resources":[{"kind":"user","id":"p-jane"},{"kind":"database","id":"payments"}],"meta":{"labels":{"indent.com/time/duration":"-1h"}}}]}`),
		"pages without end": func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte(`{"incidents":[{"id":"1","incident_status":{"category":"live"},"incident_role_assignments":[]}],"pagination_meta":{"after":"1"},` +
				`"oncalls":[{"escalation_policy":{"id":"E"},"user":{}}],"more":true,"claims":7}`))
		},
		"gone": func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) },
	}
	for name, attack := range attacks {
		for _, p := range []notify.OnCallProvider{incidentIO(t, attack), pagerDuty(t, attack), webhook(t, attack)} {
			state, err := p.Ask(context.Background(), aboutJane())
			if err == nil || state.Active {
				t.Errorf("%s, %s: %+v, %v", name, p.Name(), state, err)
			}
			if err != nil && (strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "-key") || strings.Contains(err.Error(), "http://")) {
				t.Errorf("%s, %s: the error tells too much: %v", name, p.Name(), err)
			}
		}
	}
}

type slow struct{}

func (slow) Name() string { return "pagerduty" }
func (slow) Ask(ctx context.Context, _ *notify.OnCallQuestion) (notify.OnCallState, error) {
	<-ctx.Done()
	return notify.OnCallState{}, ctx.Err()
}

type quick struct{}

func (quick) Name() string { return "incidentio" }
func (quick) Ask(context.Context, *notify.OnCallQuestion) (notify.OnCallState, error) {
	return notify.OnCallState{Active: true}, nil
}

func TestOnCall_WaitsFiveSecondsForAllTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		o := notify.NewOnCall(registry, slow{}, quick{})
		began := time.Now()
		states, unknown := o.Ask(context.Background(), []string{"incidentio", "pagerduty", "http"}, aboutJane())
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("took %v", took)
		}
		if !states["incidentio"].Active || unknown["pagerduty"] == nil || len(states) != 1 || len(unknown) != 1 {
			t.Errorf("%v, %v", states, unknown)
		}
		if n := testutil.CollectAndCount(registry, "latchkey_oncall_asked_total"); n != 9 {
			t.Errorf("%d series", n)
		}
		if states, unknown := o.Ask(context.Background(), nil, aboutJane()); len(states)+len(unknown) != 0 {
			t.Errorf("asked who was not wanted: %v, %v", states, unknown)
		}
	})
}

func TestProviders_RefuseAddressesThatAreNone(t *testing.T) {
	for _, url := range []string{"ftp://x", "https://", "https://user:pw@x", "https://x#f", "::"} {
		if _, err := notify.NewIncidentIO(notify.IncidentIOConfig{URL: url}); err == nil {
			t.Errorf("incident.io at %s", url)
		}
		if _, err := notify.NewPagerDuty(notify.PagerDutyConfig{URL: url}); err == nil {
			t.Errorf("PagerDuty at %s", url)
		}
		if _, err := notify.NewDecisionWebhook(notify.DecisionWebhookConfig{URL: url}); err == nil {
			t.Errorf("a webhook at %s", url)
		}
	}
}

// Somebody sets the provider's address, or a name that the provider redirects to, to
// what lies inside: the guard is asked about what is really dialled.
func TestProviders_ReachNothingInsideThatTheOperatorHasNotAllowed(t *testing.T) {
	url, _ := standIn(t, dutyRoster())
	guard := notify.NewGuard(notify.GuardConfig{})
	for _, url := range []string{url, "http://169.254.169.254", "http://localhost:1"} {
		p, err := notify.NewIncidentIO(notify.IncidentIOConfig{URL: url, Key: "k", Client: guard.Client(time.Minute)})
		if err != nil {
			t.Fatal(err)
		}
		if state, err := p.Ask(context.Background(), aboutJane()); err == nil || state.Active || !notify.AddressRefused(err) {
			t.Errorf("%s: %+v, %v", url, state, err)
		}
	}
	allowed, err := notify.ParseAllowed([]string{"127.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	guard = notify.NewGuard(notify.GuardConfig{Allow: allowed})
	elsewhere := 0
	redirecting, _ := standIn(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metadata" {
			elsewhere++
		}
		http.Redirect(w, r, "/metadata", http.StatusTemporaryRedirect)
	}))
	for base, want := range map[string]bool{url: true, redirecting: false} {
		p, err := notify.NewIncidentIO(notify.IncidentIOConfig{URL: base, Key: "k", Client: guard.Client(time.Minute)})
		if err != nil {
			t.Fatal(err)
		}
		if state, err := p.Ask(context.Background(), aboutJane()); state.Active != want || (err == nil) != want {
			t.Errorf("%s: %+v, %v", base, state, err)
		}
	}
	if elsewhere > 0 {
		t.Error("a redirect was followed, with the key")
	}
}

// A person without an address is not everybody whose address a provider does not
// tell.
func TestProviders_AnEmptyAddressIsNobodys(t *testing.T) {
	blank := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"incidents":[{"id":"1","incident_status":{"category":"live"},"incident_role_assignments":[{"role":{"name":"DBA"},"assignee":{"id":"u","email":""}}]}],` +
			`"oncalls":[{"escalation_policy":{"id":"E"},"user":{"id":"u","email":""}}]}`))
	})
	q := aboutJane()
	q.Person.Email = ""
	for _, p := range []notify.OnCallProvider{incidentIO(t, blank), pagerDuty(t, blank)} {
		if state, err := p.Ask(context.Background(), q); err != nil || state.Active {
			t.Errorf("%s: %+v, %v", p.Name(), state, err)
		}
	}
}

// The attack: somebody registers an address at a provider that some program folds to
// one of ours: a Kelvin sign, a long s, a dotless i, other widths.
func TestProviders_ALookAlikeIsNobody(t *testing.T) {
	for ours, theirs := range map[string]string{
		"jack@example.com": "jac\u212a@example.com", "jess@example.com": "je\u017fs@example.com", "kim@example.com": "k\u0131m@example.com", "ivo@example.com": "\u0130vo@example.com",
		"jane@example.com": "\uff4aane@example.com", "ann@example.com": "ann@example.com\u200b", "bob@example.com": "bob@example.com ", "eve@example.com": "\u0435ve@example.com",
	} {
		fake := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprintf(w, `{"incidents":[{"id":"1","incident_status":{"category":"live"},"incident_role_assignments":[{"role":{"name":"DBA"},"assignee":{"id":"u","email":%[1]q}}]}],`+
				`"oncalls":[{"escalation_policy":{"id":"E"},"user":{"id":"u","email":%[1]q}}]}`, theirs)
		})
		q := aboutJane()
		q.Person.Email = ours
		for _, p := range []notify.OnCallProvider{incidentIO(t, fake), pagerDuty(t, fake)} {
			if state, err := p.Ask(context.Background(), q); err != nil || state.Active {
				t.Errorf("%s: %s is taken for %q: %+v, %v", p.Name(), ours, theirs, state, err)
			}
		}
	}
}
