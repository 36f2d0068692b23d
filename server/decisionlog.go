package server

import (
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// DecisionLog takes the decisions that are made. Implemented by
// notify.DecisionLog.
type DecisionLog interface {
	// Wants reports whether the next decision of this outcome is to be logged.
	Wants(permit bool) bool
	// Log takes a decision and keeps nothing of r. It may wait; false says that
	// the decision must not be given, for want of a record of it.
	Log(r *audit.DecisionRecord, wait time.Duration) bool
}

// logDecision hands the decision to the decision log, if there is one that
// wants it.
func (s *Server) logDecision(a *asked) error {
	if s.cfg.DecisionLog == nil || !s.cfg.DecisionLog.Wants(a.decision.Permit) {
		return nil
	}
	var record audit.DecisionRecord
	record, *a.record = newDecisionRecord((*a.record)[:0], a.caller, a.question, a.decision)
	took := s.cfg.Now().Sub(a.start)
	record.At, record.Took, record.RequestID, record.RequestedBy = a.at, took, a.requestID, a.source.String()
	if !s.cfg.DecisionLog.Log(&record, max(0, a.wait-took)) {
		return latchkey.Errorf(latchkey.Unavailable, "decision_log_full", "the decision is not given, because it could not be logged")
	}
	return nil
}

// newDecisionRecord tells of one decision. Input and Result are written to b,
// which is returned for the next one.
func newDecisionRecord(b []byte, c *authz.Caller, q *authz.Request, d *authz.Decision) (audit.DecisionRecord, []byte) {
	b = appendInput(b, q)
	input := len(b)
	b = appendDecision(b, d, nil)
	record := audit.DecisionRecord{
		ID: string(d.ID[:]), Path: "latchkey/decision", Caller: c.Handle.String(),
		Input: b[:input], Result: b[input:],
	}
	if c.Customer != nil {
		record.Customer = c.Customer.ID
	}
	return record, b
}

// appendInput appends the question as it was asked, but for the subject's own
// secret.
func appendInput(b []byte, q *authz.Request) []byte {
	b = appendEntity(append(b, `{"subject":`...), &q.Subject, q.Subject.Type == authz.SubjectAccessKey)
	b = strictjson.AppendString(append(b, `,"action":{"name":`...), q.Action.Name)
	if q.Action.Properties.Kind() != strictjson.Missing {
		b = append(append(b, `,"properties":`...), q.Action.Properties.Raw()...)
	}
	b = appendEntity(append(b, `},"resource":`...), &q.Resource, false)
	if q.Context.Kind() != strictjson.Missing {
		b = append(append(b, `,"context":`...), q.Context.Raw()...)
	}
	if q.Policy != "" {
		b = strictjson.AppendString(append(b, `,"policy":`...), q.Policy)
	}
	return append(b, '}')
}

func appendEntity(b []byte, e *authz.Entity, withoutKey bool) []byte {
	b = strictjson.AppendString(append(b, `{"type":`...), e.Type)
	if e.ID != "" {
		b = strictjson.AppendString(append(b, `,"id":`...), e.ID)
	}
	if e.Properties.Kind() == strictjson.Missing {
		return append(b, '}')
	}
	b = append(b, `,"properties":`...)
	if !withoutKey {
		return append(append(b, e.Properties.Raw()...), '}')
	}
	b = append(b, '{')
	first := true
	for name, v := range e.Properties.Members() {
		if name == "key" {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(strictjson.AppendString(b, name), ':')
		b = append(b, v.Raw()...)
	}
	return append(b, '}', '}')
}
