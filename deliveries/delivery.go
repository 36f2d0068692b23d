package deliveries

import (
	"time"

	"github.com/latchkey-dev/latchkey"
)

// Channel is how a delivery goes.
type Channel string

// The channels.
const (
	ByWebhook Channel = "webhook"
	ByEmail   Channel = "email"
)

// Status is how far a delivery is.
type Status string

// The statuses of deliveries. A dead one, which nobody took, is not tried again by
// itself; of a dropped one there was nobody left to tell, which is no failure.
const (
	Pending   Status = "pending"
	Delivered Status = "delivered"
	Dead      Status = "dead"
	Dropped   Status = "dropped"
)

// Delivery is one event on its way to a webhook, or to a person.
type Delivery struct {
	ID        string // UUID; the webhook-id of every attempt
	Customer  string
	Channel   Channel
	Target    string // id of the webhook, or EmailTarget's
	Recipient string // id of the person, "" where it is none
	Seq       int64  // of the event in the customer's chain
	Event     string // of Types
	EventAt   latchkey.Instant
	RequestID string // of the access request
	Status    Status
	// Attempts is how many have begun. It tells an attempt from the next: only the
	// last one's outcome counts.
	Attempts    int
	NextAt      latchkey.Instant // of the next attempt
	EndsAt      latchkey.Instant // when an attempt that fails is the last
	AttemptedAt latchkey.Instant // when the last one began; 0 for none
	Outcome     Outcome          // of the last one
	CreatedAt   latchkey.Instant
}

// EmailTarget stands for all of a customer's e-mail.
func EmailTarget(customer string) string { return "email:" + customer }

// Outcome is what became of an attempt.
type Outcome struct {
	// Result is "ok", or a code that says why it failed; "" before there was one.
	Result string
	// ReplyStatus is the status of the HTTP reply, 0 for none; ReplyHead is how the
	// body of one that was no success begins, redacted.
	ReplyStatus int
	ReplyHead   string
	// RetryAfter is what the receiver asked for, 0 for nothing.
	RetryAfter time.Duration
	// Final says that another attempt would end no other way, and Moot that there is
	// nobody left to tell.
	Final, Moot bool
}

// OK is the result of an attempt that succeeded.
const OK = "ok"

// Times of attempts: the first one at once, each further one at about thrice the
// time that has gone by since, but after firstWait at least and maxWait at most,
// give or take a fifth, for Patience in all.
const (
	Patience  = 24 * time.Hour
	firstWait = 5 * time.Second
	maxWait   = 4 * time.Hour
)

// Lease is how long a delivery is its sender's before it is due again: longer
// than an attempt can take.
const Lease = 2 * time.Minute

// After moves a delivery on by the outcome of its last attempt. jitter is from 0
// up to 1.
func (d Delivery) After(o Outcome, now latchkey.Instant, jitter float64) Delivery {
	d.Outcome = o
	switch {
	case o.Result == OK:
		d.Status = Delivered
	case o.Moot:
		d.Status = Dropped
	case o.Final || now >= d.EndsAt:
		d.Status = Dead
	default:
		since := Patience - time.Duration(d.EndsAt-now)*time.Microsecond
		wait := min(max(2*since, firstWait), maxWait)
		wait = time.Duration(float64(wait) * (0.8 + 0.4*jitter))
		wait = max(wait, min(o.RetryAfter, maxWait))
		d.NextAt = min(now.Add(wait), d.EndsAt) // the last one is at the very end
	}
	return d
}

// Again makes a delivery that has ended due once more, as if it were new.
func (d Delivery) Again(now latchkey.Instant) Delivery {
	d.Status, d.NextAt, d.EndsAt = Pending, now, now.Add(Patience)
	return d
}
