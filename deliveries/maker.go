package deliveries

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// Maker makes deliveries of events. Safe for concurrent use.
type Maker struct {
	trail *Trail[Delivery]
	email bool
}

// NewMaker makes one; email says that people are told by e-mail too.
func NewMaker(cursor Cursor[Delivery], email bool) *Maker {
	return &Maker{trail: NewTrail(cursor), email: email}
}

// RunOnce makes deliveries of all events so far, and returns how many. The error is
// as Trail.Follow's.
func (m *Maker) RunOnce(ctx context.Context, now latchkey.Instant) (made int, err error) {
	return m.trail.Follow(ctx, func(e *audit.Event, webhooks []Webhook) ([]Delivery, error) { return m.of(e, webhooks, now), nil })
}

// of returns the deliveries of one event.
func (m *Maker) of(e *audit.Event, webhooks []Webhook, now latchkey.Instant) (list []Delivery) {
	changes, err := Changes(e)
	if err != nil || !strings.HasPrefix(changes.Get("event").Text(), "access_request.") {
		return nil // about a request, and no step of its life
	}
	base := Delivery{
		Customer: e.Chain, Seq: e.Seq, Event: strings.Clone(changes.Get("event").Text()), EventAt: e.At, RequestID: e.Resource.ID,
		Status: Pending, NextAt: now, EndsAt: now.Add(Patience), CreatedAt: now,
	}
	for i := range webhooks {
		// Tasks are run from the same events by a cursor of their own.
		if w := &webhooks[i]; w.TaskID == "" && w.Wants(base.Event, e.Seq) {
			d := base
			d.ID, d.Channel, d.Target = uuid.NewString(), ByWebhook, w.ID
			list = append(list, d)
		}
	}
	if m.email {
		for _, person := range told(e, base.Event, changes) {
			d := base
			d.ID, d.Channel, d.Target, d.Recipient = uuid.NewString(), ByEmail, EmailTarget(e.Chain), person
			list = append(list, d)
		}
	}
	return list
}

// told are the persons that an event is told by e-mail: those who are asked to
// decide, each once, and of an outcome the requester, unless it is the
// requester's own doing.
func told(e *audit.Event, event string, changes strictjson.Value) (persons []string) {
	switch event {
	case Submitted, Escalated:
		seen := map[string]bool{authz.Bot: true}
		for _, a := range changes.Get("notified_approvers").Elements() {
			if id := a.Get("id").Text(); authz.IsID(id) && !seen[id] {
				seen[id] = true
				persons = append(persons, strings.Clone(id))
			}
		}
	case Approved, Denied, Revoked, Expired:
		if id := changes.Get("requester_id").Text(); authz.IsID(id) && (e.Actor.Type != authz.SubjectUser || e.Actor.ID != id) {
			persons = append(persons, strings.Clone(id))
		}
	}
	return persons
}

// Changes parses what an event holds of a change: an object, an empty one where it
// holds nothing.
func Changes(e *audit.Event) (strictjson.Value, error) {
	var doc strictjson.Doc
	text := e.Changes
	if text == "" {
		text = "{}"
	}
	if err := doc.Parse(text); err != nil {
		return strictjson.Value{}, fmt.Errorf("event %d of %s: %w", e.Seq, e.Chain, err)
	}
	return doc.Root(), nil
}

// Message is what is sent of a delivery's event.
func Message(e *audit.Event) ([]byte, error) {
	changes, err := Changes(e)
	if err != nil {
		return nil, err
	}
	return Body(changes.Get("event").Text(), e.At, changes), nil
}
