package server

import (
	"context"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// deletedTemplate is what the template of a request is called that there is no
// more.
const deletedTemplate = "(deleted template)"

// decisionDeadline leaves a task that must succeed first its 30 seconds.
const decisionDeadline = access.TriggerTimeout + 10*time.Second

// mayVote allows persons alone: neither root nor an access key decides, whoever
// holds it.
func mayVote(c *authz.Caller) error {
	if c.IsPerson() {
		return nil
	}
	return latchkey.Errorf(latchkey.Forbidden, "person_required", "a person decides, by a credential of their own")
}

func (s *Server) submitRequest(r *request) error {
	return once(r, func(call authz.Call) (access.Request, error) {
		in, err := access.ParseSubmission(r.root())
		if err != nil {
			return access.Request{}, err
		}
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Requests.Submit(ctx, call, in)
	}, func(q access.Request) reply {
		return reply{Status: http.StatusCreated, Location: r.prefix() + "/access-requests/" + q.ID, Body: r.appendRequest(nil, &q)}
	})
}

// getRequest answers one; with ?wait=SECONDS, one that is pending is answered once
// something has become of it, or the time is over.
func (s *Server) getRequest(r *request) error {
	q := r.query("wait")
	wait := time.Duration(q.number("wait", 0, 0, int(maxRequestWait/time.Second))) * time.Second
	if err := q.err(); err != nil {
		return err
	}
	id := r.param("id")
	var found access.Request
	err := r.awaitRequest(id, wait, func() (done bool, again latchkey.Instant, err error) {
		ctx, cancel := r.context()
		defer cancel()
		found, err = s.cfg.Requests.Get(ctx, r.call(), id)
		return found.StatusAt(r.now) != access.Pending, found.PendingUntil, err
	})
	if err != nil {
		return err
	}
	return r.sendRequest(&found)
}

func (r *request) sendRequest(q *access.Request) error {
	r.out = r.appendRequest(r.out[:0], q)
	return r.json(http.StatusOK)
}

// optionalRoot is the body, Missing where there is none.
func (r *request) optionalRoot() strictjson.Value {
	if r.body == "" {
		return strictjson.Value{}
	}
	return r.root()
}

func (s *Server) approveRequest(r *request) error {
	v, err := access.ParseVerdict(r.optionalRoot(), true)
	if err != nil {
		return err
	}
	return r.answerDecision(func(call authz.Call, id string) (access.Request, error) {
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Requests.Approve(ctx, call, id, v)
	})
}

func (s *Server) denyRequest(r *request) error {
	v, err := access.ParseVerdict(r.optionalRoot(), false)
	if err != nil {
		return err
	}
	return r.answerDecision(func(call authz.Call, id string) (access.Request, error) {
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Requests.Deny(ctx, call, id, v.Comment)
	})
}

func (s *Server) revokeRequest(r *request) error {
	reason, err := access.ParseRevocation(r.optionalRoot())
	if err != nil {
		return err
	}
	return r.answerDecision(func(call authz.Call, id string) (access.Request, error) {
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Requests.Revoke(ctx, call, id, reason)
	})
}

// answerDecision makes a change to the request that the path names, and answers it as
// it is then; with Prefer: wait, once the nodes of the customer have applied it.
func (r *request) answerDecision(change func(call authz.Call, id string) (access.Request, error)) error {
	prefer, err := r.preferences()
	if err != nil {
		return err
	}
	q, err := change(r.call(), r.param("id"))
	if err != nil {
		return err
	}
	if prefer.applied == "" {
		return r.sendRequest(&q)
	}
	return r.changed(&prefer, q.Version, func(b []byte) []byte { return r.appendRequest(b, &q) })
}

func (s *Server) listMyRequests(r *request) error { return s.listRequests(r, s.cfg.Requests.Mine) }
func (s *Server) listPendingRequests(r *request) error {
	return s.listRequests(r, s.cfg.Requests.Pending)
}
func (s *Server) listAllRequests(r *request) error { return s.listRequests(r, s.cfg.Requests.List) }

// requestList is one of the lists of access.Requests.
type requestList func(context.Context, authz.Call, access.Query) ([]access.Request, error)

// listRequests lists requests, newest first.
func (s *Server) listRequests(r *request, list requestList) error {
	q := r.query("status", "template_id", "requester", "limit", "cursor")
	aq := access.Query{
		Template:  q.values["template_id"],
		Requester: q.values["requester"],
		Status: access.Status(q.oneOf("status", "all", string(access.Pending), string(access.Approved), string(access.Denied), string(access.Revoked),
			string(access.Expired), string(access.Failed))),
	}
	limit := q.number("limit", 50, 1, 200)
	aq.Limit = limit + 1 // one more tells whether there is a next page
	if aq.Status == "all" {
		aq.Status = ""
	}
	if _, given := q.values["template_id"]; given {
		if _, ok := authz.ParseKeyID(aq.Template); !ok {
			q.fault("template_id", "invalid_parameter", "want an id: a UUID in lower case")
		}
	}
	if text, given := q.values["requester"]; given && (!isText(text) || text == "" || len(text) > 254) {
		q.fault("requester", "invalid_parameter", "want part of an e-mail address")
	}
	if cursor, given := q.values["cursor"]; given {
		var ok bool
		if aq.AfterCreated, aq.AfterID, ok = parsePlace(cursor, "request"); !ok {
			q.fault("cursor", "invalid_cursor", "want a next_cursor of an earlier page")
		}
	}
	if err := q.err(); err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	found, err := list(ctx, r.call(), aq)
	if err != nil {
		return err
	}
	return page(r, "access_requests", found, limit, r.appendRequest, func(q *access.Request) string { return cursorTo("request", q.CreatedAt, q.ID) })
}

// cursorTo is where a list of things goes on after one of them, and parsePlace reads
// its cursor.
func cursorTo(of string, created latchkey.Instant, id string) string {
	return of + ":" + strconv.FormatInt(int64(created), 10) + ":" + id
}

func parsePlace(cursor, of string) (created latchkey.Instant, id string, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	text, ok := strings.CutPrefix(string(b), of+":")
	at, id, both := strings.Cut(text, ":")
	n, malformed := strconv.ParseInt(at, 10, 64)
	_, isID := authz.ParseKeyID(id)
	return latchkey.Instant(n), id, err == nil && ok && both && malformed == nil && n >= 0 && isID
}

// listMessages lists the discussion of a request, oldest first.
func (s *Server) listMessages(r *request) error {
	q := r.query("limit", "cursor")
	limit := q.number("limit", 50, 1, 200)
	var after access.Message
	if cursor, given := q.values["cursor"]; given {
		var ok bool
		if after.CreatedAt, after.ID, ok = parsePlace(cursor, "message"); !ok {
			q.fault("cursor", "invalid_cursor", "want a next_cursor of an earlier page")
		}
	}
	if err := q.err(); err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	list, err := s.cfg.Requests.Messages(ctx, r.call(), r.param("id"), after, limit+1)
	if err != nil {
		return err
	}
	return page(r, "messages", list, limit, appendMessage, func(m *access.Message) string { return cursorTo("message", m.CreatedAt, m.ID) })
}

func (s *Server) createMessage(r *request) error {
	return once(r, func(call authz.Call) (access.Message, error) {
		body, err := access.ParseMessage(r.root())
		if err != nil {
			return access.Message{}, err
		}
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Requests.AddMessage(ctx, call, r.param("id"), body)
	}, func(m access.Message) reply {
		return reply{Status: http.StatusCreated, Body: appendMessage(nil, &m)}
	})
}

func appendMessage(b []byte, m *access.Message) []byte {
	b = strictjson.AppendString(append(b, `{"id":`...), m.ID)
	b = strictjson.AppendString(append(b, `,"request_id":`...), m.Request)
	b = appendParty(append(b, `,"author":`...), &m.Author)
	b = strictjson.AppendString(append(b, `,"body":`...), m.Body)
	b = appendInstant(append(b, `,"created_at":`...), m.CreatedAt)
	return append(b, '}')
}

func appendParty(b []byte, p *access.Party) []byte {
	b = strictjson.AppendString(append(b, `{"id":`...), p.ID)
	b = appendOptional(append(b, `,"email":`...), p.Email)
	b = appendOptional(append(b, `,"name":`...), p.Name)
	return append(b, '}')
}

// sees reports whether the caller, whom a request concerns, is shown why it was
// made: its requester, managers, and those who may decide, who are all persons that
// it concerns but those from whom it is withheld, and a beneficiary for whom somebody
// else asked.
func (r *request) sees(q *access.Request) bool {
	c := &r.caller
	return c.Manages() || c.IsPerson() && !q.Withheld && (c.Person.ID == q.Requester.ID || c.Person.ID != q.Beneficiary.ID)
}

// appendRequest appends a request, as it is now and as the caller may see it. What
// there is not is null.
func (r *request) appendRequest(b []byte, q *access.Request) []byte {
	t := &q.Snapshot.Template
	label := t.Name
	if q.Template == "" {
		label = deletedTemplate
	}
	b = strictjson.AppendString(append(b, `{"id":`...), q.ID)
	b = appendOptional(append(b, `,"template_id":`...), q.Template)
	b = strictjson.AppendString(append(b, `,"template_name":`...), t.Name)
	b = strictjson.AppendString(append(b, `,"template_label":`...), label)
	b = strictjson.AppendString(append(b, `,"app_id":`...), t.Application)
	b = strictjson.AppendString(append(b, `,"app_name":`...), q.Snapshot.AppName)
	b = strictjson.AppendString(append(b, `,"requester_id":`...), q.Requester.ID)
	b = appendOptional(append(b, `,"requester_email":`...), q.Requester.Email)
	b = appendOptional(append(b, `,"requester_name":`...), q.Requester.Name)
	b = strictjson.AppendString(append(b, `,"beneficiary_id":`...), q.Beneficiary.ID)
	b = strictjson.AppendString(append(b, `,"submitted_by":{"type":`...), q.SubmittedBy.Type)
	b = strictjson.AppendString(append(b, `,"id":`...), q.SubmittedBy.ID)
	b = append(b, `},"resources":[`...)
	for i, ref := range q.Resources {
		if i > 0 {
			b = append(b, ',')
		}
		b = strictjson.AppendString(append(b, `{"kind":`...), ref.Type)
		b = append(strictjson.AppendString(append(b, `,"id":`...), ref.ID), '}')
	}
	b = strictjson.AppendString(append(b, `],"status":`...), string(q.StatusAt(r.now)))
	b = appendOptional(append(b, `,"decision":`...), q.Decision(r.now))
	b = appendOptional(append(b, `,"decided_by":`...), q.DecidedBy)
	b = appendOptional(append(b, `,"decision_method":`...), q.DecisionMethod)
	b = appendInstant(append(b, `,"decided_at":`...), q.DecidedAt)
	b = appendOptional(append(b, `,"comment":`...), q.Comment)
	b = strconv.AppendInt(append(b, `,"approvals_required":`...), int64(t.ApprovalsRequired), 10)
	b = append(b, `,"approvals":[`...)
	for i := range q.Approvals {
		if i > 0 {
			b = append(b, ',')
		}
		b = r.appendVote(b, &q.Approvals[i], q)
	}
	b = appendOptional(append(b, `],"revoked_by":`...), q.RevokedBy)
	b = appendOptional(append(b, `,"revoke_reason":`...), q.RevokeReason)
	b = strictjson.AppendString(append(b, `,"assignment_type":`...), string(q.Assignment))
	b = appendMinutes(append(b, `,"requested_duration_mins":`...), q.Duration)
	b = append(b, `,"window":`...)
	if q.Window == nil {
		b = append(b, `null`...)
	} else {
		b = appendInstant(append(b, `{"start":`...), q.Window.Start)
		b = append(appendInstant(append(b, `,"end":`...), q.Window.End), '}')
	}
	if r.sees(q) {
		b = strictjson.AppendString(append(b, `,"justification":`...), q.Justification)
		b = appendAnswers(append(b, `,"custom_answers":`...), q.Answers)
	}
	b = append(b, `,"notified_approvers":[`...)
	for i := range q.Notified {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendParty(b, &q.Notified[i])
	}
	b = appendOptional(append(b, `],"grant_id":`...), q.Grant)
	b = appendInstant(append(b, `,"not_before":`...), q.NotBefore)
	b = appendInstant(append(b, `,"expires_at":`...), q.ExpiresAt)
	b = appendInstant(append(b, `,"pending_until":`...), q.PendingUntil)
	b = appendInstant(append(b, `,"escalated_at":`...), q.EscalatedAt)
	b = appendInstant(append(b, `,"created_at":`...), q.CreatedAt)
	b = appendInstant(append(b, `,"closed_at":`...), q.ClosedSince(r.now))
	b = appendOptional(append(b, `,"failure":`...), q.Failure)
	b = appendOptional(append(b, `,"trigger_failure":`...), q.TriggerFailure)
	return append(b, '}')
}

func (r *request) appendVote(b []byte, v *access.Vote, q *access.Request) []byte {
	b = strictjson.AppendString(append(b, `{"by":`...), v.By.ID)
	b = appendOptional(append(b, `,"name":`...), v.By.Name)
	b = appendInstant(append(b, `,"at":`...), v.At)
	b = appendOptional(append(b, `,"comment":`...), v.Comment)
	if len(v.Evidence) > 0 && r.sees(q) {
		b = append(append(b, `,"evidence":`...), v.Evidence...)
	}
	return append(b, '}')
}

// appendAnswers appends what was answered, by the ids of the fields.
func appendAnswers(b []byte, answers []access.Answer) []byte {
	b = append(b, '{')
	for i := range answers {
		if i > 0 {
			b = append(b, ',')
		}
		a := &answers[i]
		b = strictjson.AppendString(append(strictjson.AppendString(b, a.Field), `:{"label":`...), a.Label)
		b = strictjson.AppendString(append(b, `,"type":`...), string(a.Type))
		b = append(b, `,"value":`...)
		switch a.Value.Kind {
		case access.OptionsAnswer:
			b = strictjson.AppendStrings(b, a.Value.Options)
		case access.CheckedAnswer:
			b = strconv.AppendBool(b, a.Value.Checked)
		default:
			b = strictjson.AppendString(b, a.Value.Text)
		}
		b = append(b, '}')
	}
	return append(b, '}')
}
