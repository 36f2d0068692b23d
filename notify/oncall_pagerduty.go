package notify

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// PagerDutyURL is where PagerDuty answers; accounts of its European region have
// another address.
const PagerDutyURL = "https://api.pagerduty.com"

// PagerDutyConfig are the settings of a provider that asks PagerDuty.
type PagerDutyConfig struct {
	URL    string // default PagerDutyURL
	Key    string // an API key; one that may only read suffices
	Client *http.Client
	// Schedules are ids of the schedules that count. Empty is every schedule, and
	// the levels of escalation policies that name a person without one.
	Schedules []string
}

type pagerDuty struct {
	PagerDutyConfig
	base *url.URL
}

// NewPagerDuty makes a provider that reads GET /oncalls of PagerDuty's published
// schema.
func NewPagerDuty(cfg PagerDutyConfig) (OnCallProvider, error) {
	if cfg.URL == "" {
		cfg.URL = PagerDutyURL
	}
	base, err := onCallBase(cfg.URL)
	if err != nil {
		return nil, err
	}
	return &pagerDuty{cfg, base.JoinPath("oncalls")}, nil
}

// Name implements OnCallProvider.
func (p *pagerDuty) Name() string { return "pagerduty" }

const (
	onCallPage = 100         // the most that PagerDuty gives
	onCallSkew = time.Minute // between its clock and ours
)

// Ask implements OnCallProvider.
func (p *pagerDuty) Ask(ctx context.Context, q *OnCallQuestion) (state OnCallState, err error) {
	offset := 0
	var doc strictjson.Doc
	for range onCallPages {
		query := url.Values{"include[]": {"users"}, "limit": {strconv.Itoa(onCallPage)}, "offset": {strconv.Itoa(offset)}}
		for _, id := range p.Schedules {
			query.Add("schedule_ids[]", id)
		}
		at := *p.base
		at.RawQuery = query.Encode()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
		if err != nil {
			return OnCallState{}, err
		}
		req.Header.Set("Authorization", "Token token="+p.Key)
		req.Header.Set("Accept", "application/vnd.pagerduty+json;version=2")
		if err := exchange(p.Client, req, &doc); err != nil {
			return OnCallState{}, err
		}
		n, more, err := p.page(doc.Root(), q, &state)
		if err != nil {
			return OnCallState{}, err
		}
		if !more || n == 0 {
			return state, nil
		}
		offset += n
	}
	return OnCallState{}, errEndless
}

// page reads one page, and returns how many entries it had.
func (p *pagerDuty) page(root strictjson.Value, q *OnCallQuestion, state *OnCallState) (n int, more bool, err error) {
	var r reply
	for _, v := range r.list(root.Get("oncalls")).Elements() {
		if entry, ok := r.object(v, true); ok {
			p.entry(&r, entry, q, state)
		}
		n++
	}
	return n, root.Get("more").True(), r.err()
}

// entry reads one person's place in a level of an escalation policy, which a
// schedule may fill.
func (p *pagerDuty) entry(r *reply, entry strictjson.Value, q *OnCallQuestion, state *OnCallState) {
	start, end := r.time(entry.Get("start")), r.time(entry.Get("end"))
	level := r.integer(entry.Get("escalation_level"))
	policy, _ := r.object(entry.Get("escalation_policy"), true)
	user, ok := r.object(entry.Get("user"), false)
	if !ok {
		return
	}
	email := r.text(user.Get("email"), false) // absent of a reference
	e := OnCallEvidence{Provider: p.Name(), Kind: "escalation_policy", Level: level, ID: r.text(policy.Get("id"), true), Name: r.text(policy.Get("summary"), false)}
	schedule := ""
	if s, ok := r.object(entry.Get("schedule"), false); ok {
		schedule = r.text(s.Get("id"), true)
		e.Kind, e.ID, e.Name = "schedule", schedule, r.text(s.Get("summary"), false)
	}
	switch {
	case !sameEmail(email, q.Person.Email):
	// Without start and end somebody is always on call.
	case !start.IsZero() && q.At.Before(start.Add(-onCallSkew)), !end.IsZero() && !q.At.Before(end):
	case len(p.Schedules) > 0 && !slices.Contains(p.Schedules, schedule):
	default:
		state.add(e)
	}
}

// time reads a timestamp that may be null.
func (r *reply) time(v strictjson.Value) time.Time {
	text := r.text(v, false)
	if text == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, text)
	r.malformed = r.malformed || err != nil
	return t
}

// integer reads a number that may be absent.
func (r *reply) integer(v strictjson.Value) int64 {
	switch v.Kind() {
	case strictjson.Number:
		n, err := strconv.ParseInt(v.Raw(), 10, 64)
		r.malformed = r.malformed || err != nil
		return n
	case strictjson.Missing, strictjson.Null:
	default:
		r.malformed = true
	}
	return 0
}
