package access

import (
	"strconv"

	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// The names of the lifecycle events, which the events of the audit trail carry
// in their changes; subscriptions and tasks are told of those that do.
const (
	Submitted     = "access_request.submitted"
	ApprovedEvent = "access_request.approved"
	DeniedEvent   = "access_request.denied"
	RevokedEvent  = "access_request.revoked"
	ExpiredEvent  = "access_request.expired"
	Escalated     = "access_request.escalated"
)

func (r *Request) resource() audit.Resource {
	return audit.Resource{Type: "access_request", Name: r.Snapshot.Template.Name, ID: r.ID}
}

// payload is what a lifecycle event tells: never the justification, nor answers or
// comments, which are for those who may decide.
type payload []byte

// Told is the JSON object that the named event tells of a request, as far as it is
// the same of every event.
func (r *Request) Told(event string) string { return r.told(event).String() }

// told begins what the named event tells of a request; with "" it is no lifecycle
// event.
func (r *Request) told(event string) payload {
	p := payload{'{'}
	if event != "" {
		p = p.text("event", event)
	}
	p = p.text("request_id", r.ID).text("template_id", r.Snapshot.Template.ID).text("template_name", r.Snapshot.Template.Name)
	p = p.text("app_id", r.Snapshot.Template.Application).text("app_name", r.Snapshot.AppName)
	p = p.text("requester_id", r.Requester.ID).text("requester_email", r.Requester.Email).text("requester_name", r.Requester.Name)
	return p.text("beneficiary_id", r.Beneficiary.ID)
}

func (p payload) name(name string) payload {
	if len(p) > 1 {
		p = append(p, ',')
	}
	return append(strictjson.AppendString(p, name), ':')
}

func (p payload) text(name, value string) payload {
	return strictjson.AppendString(p.name(name), value)
}

func (p payload) flag(name string, value bool) payload {
	return strconv.AppendBool(p.name(name), value)
}

func (p payload) people(name string, list []Party) payload {
	p = append(p.name(name), '[')
	for i, one := range list {
		if i > 0 {
			p = append(p, ',')
		}
		p = strictjson.AppendString(append(p, `{"id":`...), one.ID)
		p = append(strictjson.AppendString(append(p, `,"email":`...), one.Email), '}')
	}
	return append(p, ']')
}

func (p payload) raw(name string, json []byte) payload { return append(p.name(name), json...) }

func (p payload) String() string { return string(append(p, '}')) }

// draft is the event of the trail.
func draft(call *authz.Call, r *Request, action string, told payload) audit.Draft {
	d := call.Draft("access_request."+action, r.resource())
	d.Changes = told.String()
	return d
}

// by makes the draft one of latchkey itself, as the named principal.
func by(d audit.Draft, principal string) audit.Draft {
	d.Actor = audit.Actor{Type: System, ID: principal}
	return d
}

func (r *Request) submitted() payload {
	return r.told(Submitted).people("notified_approvers", r.Notified)
}

func (r *Request) approved() payload {
	p := r.told(ApprovedEvent).text("decided_by", r.DecidedBy).text("decision_method", r.DecisionMethod)
	p = p.text("grant_id", r.Grant)
	if last := r.Approvals[len(r.Approvals)-1]; len(last.Evidence) > 0 {
		p = p.raw("evidence", last.Evidence)
	}
	return p
}
