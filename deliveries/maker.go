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

// Maker makes deliveries of events. Several processes may run one each: the
// cursor lets one of them at an event. One goroutine uses it.
type Maker struct {
	queue Queue
	email bool
	// looked is how far the events of each customer were looked at, where that is
	// past the cursor: it is not worth a write that nothing happened.
	looked map[string]int64
}

// NewMaker makes one; email says that people are told by e-mail too.
func NewMaker(queue Queue, email bool) *Maker {
	return &Maker{queue: queue, email: email, looked: map[string]int64{}}
}

// stride is how many events are looked at in one go, and how far the cursor may
// stay behind where they are not about requests.
const stride = 500

// RunOnce makes deliveries of all events so far, and returns how many. One
// customer's trouble does not keep the others waiting; the error tells of the
// last.
func (m *Maker) RunOnce(ctx context.Context, now latchkey.Instant) (made int, err error) {
	behind, err := m.queue.Behind(ctx)
	if err != nil {
		return 0, err
	}
	for _, b := range behind {
		n, failed := m.catchUp(ctx, b, now)
		if made += n; failed != nil {
			err = fmt.Errorf("make deliveries of %s: %w", b.Customer, failed)
		}
	}
	return made, err
}

func (m *Maker) catchUp(ctx context.Context, b Behind, now latchkey.Instant) (made int, err error) {
	for at := max(b.Cursor, min(m.looked[b.Customer], b.Head)); at < b.Head; {
		to := min(at+stride, b.Head)
		events, err := m.queue.Lifecycle(ctx, b.Customer, at, to)
		if err != nil {
			return made, err
		}
		var list []Delivery
		if len(events) > 0 {
			webhooks, err := m.queue.Webhooks(ctx, b.Customer)
			if err != nil {
				return made, err
			}
			for i := range events {
				list = append(list, m.of(&events[i], webhooks, now)...)
			}
		}
		at = to
		if len(list) == 0 && to-b.Cursor < stride {
			m.looked[b.Customer] = to
			continue
		}
		moved, err := m.queue.Advance(ctx, b.Customer, b.Cursor, to, list)
		if err != nil || !moved {
			delete(m.looked, b.Customer)
			return made, err
		}
		delete(m.looked, b.Customer)
		made += len(list)
		b.Cursor = to
	}
	return made, nil
}

// of returns the deliveries of one event.
func (m *Maker) of(e *audit.Event, webhooks []Webhook, now latchkey.Instant) (list []Delivery) {
	changes, err := eventChanges(e)
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
			if id := a.Get("id").Text(); isID(id) && !seen[id] {
				seen[id] = true
				persons = append(persons, strings.Clone(id))
			}
		}
	case Approved, Denied, Revoked, Expired:
		if id := changes.Get("requester_id").Text(); isID(id) && (e.Actor.Type != authz.SubjectUser || e.Actor.ID != id) {
			persons = append(persons, strings.Clone(id))
		}
	}
	return persons
}

// eventChanges parses what an event holds of a change.
func eventChanges(e *audit.Event) (strictjson.Value, error) {
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
	changes, err := eventChanges(e)
	if err != nil {
		return nil, err
	}
	return Body(changes.Get("event").Text(), e.At, changes), nil
}
