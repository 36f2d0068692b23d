package server

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
)

// chain is the one that the caller reads: its customer's, or for root with
// ?chain=system the one outside customers.
func (r *request) chain(q *query) (string, error) {
	system := q.oneOf("chain", "customer", "system") == "system"
	if err := q.err(); err != nil {
		return "", err
	}
	if !system {
		return r.caller.Customer.ID, nil
	}
	if err := mayRoot(&r.caller); err != nil {
		return "", err
	}
	return audit.SystemChain, nil
}

// onlyKeys is the resource type that a caller is limited to who may see the
// events about access keys alone.
const onlyKeys = "access_key"

// listEvents lists events, newest first.
func (s *Server) listEvents(r *request) error {
	q, f := r.eventQuery("limit", "cursor")
	f.Limit = q.number("limit", 50, 1, 1000)
	if cursor, ok := q.values["cursor"]; ok {
		if f.Before, ok = parseCursor(cursor); !ok {
			q.fault("cursor", "invalid_cursor", "want a next_cursor of an earlier page")
		}
	}
	chain, err := r.chain(q)
	if err != nil {
		return err
	}
	var events []audit.Event
	if visible(&r.caller, &f) {
		ctx, cancel := r.context()
		defer cancel()
		f.Limit++ // one more tells whether there is a next page
		if events, err = s.cfg.Events.Events(ctx, chain, f); err != nil {
			return err
		}
		f.Limit--
	}
	more := len(events) > f.Limit
	events = events[:min(len(events), f.Limit)]
	b := append(r.out[:0], `{"events":[`...)
	for i := range events {
		if i > 0 {
			b = append(b, ',')
		}
		b = events[i].AppendJSON(b)
	}
	b = append(b, `],"next_cursor":`...)
	if more {
		b = append(b, '"')
		b = append(b, formatCursor(events[len(events)-1].Seq)...)
		b = append(b, '"')
	} else {
		b = append(b, `null`...)
	}
	r.out = append(b, '}')
	return r.json(http.StatusOK)
}

// A cursor is a place in the caller's own chain; it opens nothing, so it is
// not authenticated.
func formatCursor(seq int64) string {
	return base64.RawURLEncoding.EncodeToString(strconv.AppendInt([]byte("seq:"), seq, 10))
}

func parseCursor(text string) (int64, bool) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) < 5 || string(b[:4]) != "seq:" {
		return 0, false
	}
	seq, err := strconv.ParseInt(string(b[4:]), 10, 64)
	return seq, err == nil && seq > 0
}

func (s *Server) getEvent(r *request) error {
	chain, err := r.chain(r.query("chain"))
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	e, err := s.cfg.Events.Event(ctx, chain, r.param("id"))
	if err != nil {
		return err
	}
	if !r.caller.SeesAllEvents() && e.Resource.Type != onlyKeys {
		return latchkey.Errorf(latchkey.NotFound, "event_not_found", "there is no such event")
	}
	r.out = e.AppendJSON(r.out[:0])
	return r.json(http.StatusOK)
}

// verifyChain checks the caller's chain from end to end. One runs at a time:
// it reads every event there is.
func (s *Server) verifyChain(r *request) error {
	chain, err := r.chain(r.query("chain"))
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	select {
	case s.verify <- struct{}{}:
		defer func() { <-s.verify }()
	case <-ctx.Done():
		return latchkey.Errorf(latchkey.Unavailable, "busy", "another verification is running")
	}
	report, err := s.cfg.Events.VerifyChain(ctx, chain)
	if err != nil {
		return err
	}
	b, err := json.Marshal(report)
	if err != nil {
		return err
	}
	r.out = append(r.out[:0], b...)
	return r.json(http.StatusOK)
}
