package deliveries

import (
	"context"
	"fmt"
	"sync"

	"github.com/latchkey-dev/latchkey/audit"
)

// Cursor is the database as a Trail needs it: how far things have been made of the
// events of each customer. Several processes may share it. Implemented by store.
type Cursor[T any] interface {
	// Behind returns the customers, ended ones apart, with events that nothing has
	// been made of.
	Behind(ctx context.Context) ([]Behind, error)
	// Lifecycle returns the events about access requests with a sequence number
	// from after, without it, up to through, oldest first.
	Lifecycle(ctx context.Context, customer string, after, through int64) ([]audit.Event, error)
	// Webhooks returns the subscriptions of a customer.
	Webhooks(ctx context.Context, customer string) ([]Webhook, error)
	// Advance moves the customer's cursor from one event to another and writes what
	// was made of those between, all or nothing; what is there already is left out.
	// Where the cursor is not at from, another process has moved it: nothing is
	// written, and it returns false.
	Advance(ctx context.Context, customer string, from, to int64, made []T) (bool, error)
}

// Behind is a customer whose cursor is not at its last event.
type Behind struct {
	Customer     string
	Cursor, Head int64
}

// Trail goes over the events of customers, and writes down what is made of them.
// Several processes may have one each: the cursor lets one of them at an event. Safe
// for concurrent use.
type Trail[T any] struct {
	cursor Cursor[T]

	turn sync.Mutex
	// looked is how far the events of each customer were looked at, where that is
	// past the cursor: it is not worth a write that none was about a request.
	looked map[string]int64
}

// NewTrail makes one.
func NewTrail[T any](cursor Cursor[T]) *Trail[T] {
	return &Trail[T]{cursor: cursor, looked: map[string]int64{}}
}

// stride is how many events are looked at in one go, and how far the cursor may
// stay behind where they are not about requests.
const stride = 500

// Follow writes down what of makes of all events so far, in their order, and returns
// how much that was. An error of of leaves the event, and those after it, to the next
// time. One customer's trouble does not keep the others waiting; the error tells of
// the last.
func (t *Trail[T]) Follow(ctx context.Context, of func(e *audit.Event, webhooks []Webhook) ([]T, error)) (made int, err error) {
	t.turn.Lock()
	defer t.turn.Unlock()
	behind, err := t.cursor.Behind(ctx)
	if err != nil {
		return 0, err
	}
	for _, b := range behind {
		n, failed := t.catchUp(ctx, b, of)
		if made += n; failed != nil {
			err = fmt.Errorf("of the events of %s: %w", b.Customer, failed)
		}
	}
	return made, err
}

func (t *Trail[T]) catchUp(ctx context.Context, b Behind, of func(*audit.Event, []Webhook) ([]T, error)) (made int, err error) {
	for at := max(b.Cursor, min(t.looked[b.Customer], b.Head)); at < b.Head; {
		to := min(at+stride, b.Head)
		events, err := t.cursor.Lifecycle(ctx, b.Customer, at, to)
		if err != nil {
			return made, err
		}
		at = to
		if len(events) == 0 && to-b.Cursor < stride {
			t.looked[b.Customer] = to
			continue
		}
		list, err := t.make(ctx, b.Customer, events, of)
		if err != nil {
			return made, err
		}
		delete(t.looked, b.Customer)
		// Past an event that nothing is made of, too: subscriptions change, and what
		// is made of an event is what they want when it is new.
		moved, err := t.cursor.Advance(ctx, b.Customer, b.Cursor, to, list)
		if err != nil || !moved {
			return made, err
		}
		made += len(list)
		b.Cursor = to
	}
	return made, nil
}

func (t *Trail[T]) make(ctx context.Context, customer string, events []audit.Event, of func(*audit.Event, []Webhook) ([]T, error)) (list []T, err error) {
	if len(events) == 0 {
		return nil, nil
	}
	webhooks, err := t.cursor.Webhooks(ctx, customer)
	if err != nil {
		return nil, err
	}
	for i := range events {
		some, err := of(&events[i], webhooks)
		if err != nil {
			return nil, err
		}
		list = append(list, some...)
	}
	return list, nil
}
