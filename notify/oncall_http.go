package notify

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/latchkey-dev/latchkey/deliveries"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// DecisionWebhookConfig are the settings of a provider that asks a webhook of the
// operator's own.
type DecisionWebhookConfig struct {
	URL    string
	Secret string // signs what is sent
	Client *http.Client
}

type decisionWebhook struct {
	DecisionWebhookConfig
	url *url.URL
}

// NewDecisionWebhook makes a provider that POSTs a request for access to a webhook,
// in the form of Indent's GetDecision and with its signature, and reads the claims
// of the reply: nothing of them but that they approve, for whom and for what, and
// for how long at most.
func NewDecisionWebhook(cfg DecisionWebhookConfig) (OnCallProvider, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("want an http or https URL, without a user or a fragment")
	}
	return &decisionWebhook{cfg, u}, nil
}

// Name implements OnCallProvider.
func (p *decisionWebhook) Name() string { return "http" }

// The kinds under which a webhook is told of a person, and of a template that
// stands for itself.
const (
	claimPerson   = "user"
	claimTemplate = "access_request_template"
)

// Ask implements OnCallProvider.
func (p *decisionWebhook) Ask(ctx context.Context, q *OnCallQuestion) (OnCallState, error) {
	at := deliveries.IndentTime(q.At)
	asked := q.Resources
	if len(asked) == 0 {
		asked = []OnCallResource{{Kind: claimTemplate, ID: q.Template.ID, Name: q.Template.Name}}
	}
	body := decisionQuestion(q, asked, at)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url.String(), bytes.NewReader(body))
	if err != nil {
		return OnCallState{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("X-Indent-Timestamp", at)
	req.Header.Set("X-Indent-Signature", deliveries.SignIndent([]byte(p.Secret), at, body))
	var doc strictjson.Doc
	if err := exchange(p.Client, req, &doc); err != nil {
		return OnCallState{}, err
	}
	return p.read(doc.Root(), q, asked)
}

// decisionQuestion writes one event access/request. Receivers may check the
// signature over what they have parsed and written again, so it is written as
// JavaScript does. It tells no reason, which is for people, and no labels of time,
// which receivers copy into their claims.
func decisionQuestion(q *OnCallQuestion, asked []OnCallResource, at string) []byte {
	member := func(b []byte, name, value string) []byte {
		b = append(strictjson.AppendString(b, name), ':')
		return append(strictjson.AppendString(b, value), ',')
	}
	end := func(b []byte) []byte { b[len(b)-1] = '}'; return b }
	b := member([]byte(`{"events":[{`), "event", "access/request")
	b = member(append(b, `"actor":{`...), "id", q.Person.ID)
	b = member(member(b, "kind", claimPerson), "email", q.Person.Email)
	b = append(end(member(b, "displayName", q.Person.Name)), `,"resources":[`...)
	for _, r := range asked {
		b = member(append(b, '{'), "id", r.ID)
		b = member(member(b, "kind", r.Kind), "displayName", r.Name)
		b = append(b, `"labels":{`...)
		n := len(b)
		for _, name := range slices.Sorted(maps.Keys(r.Labels)) {
			b = member(b, name, r.Labels[name])
		}
		if len(b) > n {
			b = b[:len(b)-1]
		}
		b = append(b, `}},`...)
	}
	b = append(b[:len(b)-1], `],`...)
	b = member(b, "timestamp", at)
	b = member(append(b, `"meta":{"labels":{`...), "indent.com/workflow/origin/id", q.Template.ID)
	return append(end(b), `}}]}`...)
}

// read takes what the claims say of this person and these resources. Claims that
// are of something else count for nothing; a reply that says of itself that it
// failed tells nothing.
func (p *decisionWebhook) read(root strictjson.Value, q *OnCallQuestion, asked []OnCallResource) (OnCallState, error) {
	var r reply
	if status, ok := r.object(root.Get("status"), false); ok && r.integer(status.Get("code")) != 0 {
		return OnCallState{}, errors.New("its reply has a status that is not OK")
	}
	covered := make([]bool, len(asked))
	var state OnCallState
	for _, v := range r.list(root.Get("claims")).Elements() {
		claim, ok := r.object(v, true)
		if !ok || r.text(claim.Get("event"), true) != "access/approve" {
			continue
		}
		theirs := false
		mine := make([]bool, len(asked))
		for _, v := range r.list(claim.Get("resources")).Elements() {
			resource, ok := r.object(v, true)
			if !ok {
				continue
			}
			kind, id := r.text(resource.Get("kind"), false), r.text(resource.Get("id"), true)
			theirs = theirs || id != "" && id == q.Person.ID && kind == claimPerson
			for at, want := range asked {
				mine[at] = mine[at] || kind == want.Kind && id == want.ID
			}
		}
		if !theirs {
			continue
		}
		most, ok := r.claimed(claim, q.At)
		if !ok {
			continue
		}
		counts := false
		for at := range mine {
			counts = counts || mine[at]
			covered[at] = covered[at] || mine[at]
		}
		if counts {
			state.add(OnCallEvidence{Provider: p.Name(), Kind: "claim", ID: r.text(claim.Get("id"), false), Name: r.text(claim.Get("reason"), false)})
			if most > 0 && (state.Most == 0 || most < state.Most) {
				state.Most = most
			}
		}
	}
	if err := r.err(); err != nil {
		return OnCallState{}, err
	}
	for _, c := range covered {
		if !c { // all or nothing
			return OnCallState{}, nil
		}
	}
	return state, nil
}

// claimed reads how long a claim lets an approval last, 0 where it does not say.
// Not ok is a claim that has ended.
func (r *reply) claimed(claim strictjson.Value, now time.Time) (most time.Duration, ok bool) {
	meta, _ := r.object(claim.Get("meta"), false)
	labels, has := r.object(meta.Get("labels"), false)
	if !has {
		return 0, true
	}
	if text := r.text(labels.Get("indent.com/time/duration"), false); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			r.malformed = true
			return 0, false
		}
		most = d
	}
	if text := r.text(labels.Get("indent.com/time/expires"), false); text != "" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			r.malformed = true
			return 0, false
		}
		left := at.Sub(now)
		if left <= 0 {
			return 0, false
		}
		if most == 0 || left < most {
			most = left
		}
	}
	return most, true
}
