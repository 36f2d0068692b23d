package notify

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// IncidentIOURL is where incident.io answers.
const IncidentIOURL = "https://api.incident.io"

// IncidentIOConfig are the settings of a provider that asks incident.io.
type IncidentIOConfig struct {
	URL    string // default IncidentIOURL
	Key    string // an API key that may view incidents
	Client *http.Client
	// Roles are the roles that count, by name or short form, to the letter. Empty
	// is every role.
	Roles []string
}

type incidentIO struct {
	IncidentIOConfig
	base *url.URL
}

// NewIncidentIO makes a provider by which somebody is on call who has a role in an
// incident whose status is of the category live. It reads GET /v2/incidents of
// incident.io's published schema.
func NewIncidentIO(cfg IncidentIOConfig) (OnCallProvider, error) {
	if cfg.URL == "" {
		cfg.URL = IncidentIOURL
	}
	base, err := onCallBase(cfg.URL)
	if err != nil {
		return nil, err
	}
	return &incidentIO{cfg, base.JoinPath("v2", "incidents")}, nil
}

// Name implements OnCallProvider.
func (p *incidentIO) Name() string { return "incidentio" }

// incidentPage is how many incidents are asked for at once: with all that they
// hold, they are well under the bound of a reply.
const incidentPage = 50

// Ask implements OnCallProvider.
func (p *incidentIO) Ask(ctx context.Context, q *OnCallQuestion) (state OnCallState, err error) {
	after := ""
	var doc strictjson.Doc
	for range onCallPages {
		query := url.Values{"page_size": {strconv.Itoa(incidentPage)}, "status_category[one_of]": {"live"}}
		if after != "" {
			query.Set("after", after)
		}
		at := *p.base
		at.RawQuery = query.Encode()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
		if err != nil {
			return OnCallState{}, err
		}
		req.Header.Set("Authorization", "Bearer "+p.Key)
		req.Header.Set("Accept", "application/json")
		if err := exchange(p.Client, req, &doc); err != nil {
			return OnCallState{}, err
		}
		if after, err = p.page(doc.Root(), q, &state); err != nil {
			return OnCallState{}, err
		}
		if after == "" {
			return state, nil
		}
	}
	return OnCallState{}, errEndless
}

// page reads one page, and returns where the next one begins.
func (p *incidentIO) page(root strictjson.Value, q *OnCallQuestion, state *OnCallState) (after string, err error) {
	var r reply
	n := 0
	for _, v := range r.list(root.Get("incidents")).Elements() {
		if incident, ok := r.object(v, true); ok {
			p.incident(&r, incident, q, state)
		}
		n++
	}
	if meta, ok := r.object(root.Get("pagination_meta"), false); ok && n > 0 {
		after = r.text(meta.Get("after"), false)
	}
	return after, r.err()
}

func (p *incidentIO) incident(r *reply, incident strictjson.Value, q *OnCallQuestion, state *OnCallState) {
	status, _ := r.object(incident.Get("incident_status"), true)
	category, mode := r.text(status.Get("category"), true), r.text(incident.Get("mode"), false)
	id, reference := r.text(incident.Get("id"), true), r.text(incident.Get("reference"), false)
	for _, v := range r.list(incident.Get("incident_role_assignments")).Elements() {
		assignment, ok := r.object(v, true)
		if !ok {
			continue
		}
		role, _ := r.object(assignment.Get("role"), true)
		name, short := r.text(role.Get("name"), true), r.text(role.Get("shortform"), false)
		assignee, ok := r.object(assignment.Get("assignee"), false)
		if !ok {
			continue // nobody yet
		}
		email := r.text(assignee.Get("email"), false)
		// What was asked for is looked at all the same: a filter that somebody did
		// not understand lets closed incidents through, and exercises.
		switch {
		case category != "live" || mode == "test" || mode == "tutorial":
		case !sameEmail(email, q.Person.Email):
		case len(p.Roles) > 0 && !slices.Contains(p.Roles, name) && (short == "" || !slices.Contains(p.Roles, short)):
		default:
			state.add(OnCallEvidence{Provider: p.Name(), Kind: "incident", ID: id, Name: reference, Role: name})
		}
	}
}
