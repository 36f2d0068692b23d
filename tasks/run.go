package tasks

import (
	"strconv"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// Status is how far a run is.
type Status string

// The statuses of runs.
const (
	Queued    Status = "queued" // waits for its first attempt, or for another one
	Running   Status = "running"
	Succeeded Status = "succeeded"
	Failed    Status = "failed"
)

// Source says by what a task is bound to an event.
type Source string

// The sources.
const (
	ByTemplate     Source = "template"
	BySubscription Source = "subscription"
)

// Run is a task on its way.
type Run struct {
	ID       string // UUID
	Customer string
	Task     string // id
	Source   Source
	Seq      int64  // of the event in the customer's chain; 0 for a run before the change
	Event    string // of Triggers
	Request  string // id of the access request
	// Mode is the template's failure mode. Only a run of mode retry is attempted
	// again after a failure.
	Mode   access.FailureMode
	Status Status
	// Attempts is how many have begun. It tells an attempt from the next: only the
	// last one's outcome counts.
	Attempts  int
	NextAt    latchkey.Instant // of the next attempt; of one that is running, when it is lost
	StartedAt latchkey.Instant // the last attempt; 0 for none
	EndedAt   latchkey.Instant
	CreatedAt latchkey.Instant
	Outcome
}

// Outcome is what became of an attempt. Its texts hold no secret that the task was
// given.
type Outcome struct {
	Output string // what a script printed; how the reply to a webhook begins
	Cut    bool   // there was more
	Result string // what a script returned; the status of the reply
	Error  string // "" for success
	// TimedOut says that its time was over.
	TimedOut bool
}

// What is kept of a run's texts, in bytes.
const (
	keptOutput = 8 << 10
	keptText   = 2 << 10
)

// Times of attempts after the first: each after four times the wait before.
const (
	firstWait = 10 * time.Second
	maxWait   = time.Hour
	// Lease is how long a run is its process's before it is due again: longer than
	// an attempt can take.
	Lease = 2 * time.Minute
	// lostAttempts is how often a run is made again because its process went away.
	lostAttempts = 2
	// Kept is for how long a run that has ended is shown.
	Kept = 30 * 24 * time.Hour
)

// After moves a run on by the outcome of its last attempt, which may be made again
// retries times. jitter is from 0 up to 1.
func (r Run) After(o Outcome, retries int, now latchkey.Instant, jitter float64) Run {
	r.Outcome, r.EndedAt, r.NextAt = o, now, now
	switch {
	case o.Error == "":
		r.Status = Succeeded
	case r.Mode == access.Retry && r.Attempts <= retries:
		wait := firstWait
		for i := 1; i < r.Attempts && wait < maxWait; i++ {
			wait *= 4
		}
		wait = time.Duration(float64(min(wait, maxWait)) * (0.8 + 0.4*jitter))
		r.Status, r.NextAt = Queued, now.Add(wait)
	default:
		r.Status = Failed
	}
	return r
}

// lost reports whether so many attempts have begun that none can be made again:
// each time its process went away.
func (r *Run) lost(retries int) bool {
	most := 1
	if r.Mode == access.Retry {
		most += retries
	}
	return r.Attempts > most+lostAttempts
}

// AppendJSON appends a run as the API shows it.
func (r *Run) AppendJSON(b []byte) []byte {
	text := func(name, value string) {
		b = strictjson.AppendString(append(append(append(b, ',', '"'), name...), `":`...), value)
	}
	b = strictjson.AppendString(append(b, `{"id":`...), r.ID)
	text("task_id", r.Task)
	text("source", string(r.Source))
	text("trigger_event", r.Event)
	text("request_id", r.Request)
	text("failure_mode", string(r.Mode))
	text("status", string(r.Status))
	b = strconv.AppendInt(append(b, `,"attempts":`...), int64(r.Attempts), 10)
	text("result", r.Result)
	text("error", r.Error)
	text("output", r.Output)
	b = strconv.AppendBool(append(b, `,"output_truncated":`...), r.Cut)
	b = appendInstant(append(b, `,"created_at":`...), r.CreatedAt)
	b = appendInstant(append(b, `,"started_at":`...), r.StartedAt)
	b = appendInstant(append(b, `,"ended_at":`...), r.EndedAt)
	b = append(b, `,"duration_ms":`...)
	if r.EndedAt == 0 {
		b = append(b, `null`...)
	} else {
		b = strconv.AppendInt(b, r.EndedAt.Time().Sub(r.StartedAt.Time()).Milliseconds(), 10)
	}
	next := latchkey.Instant(0)
	if r.Status == Queued {
		next = r.NextAt
	}
	b = appendInstant(append(b, `,"next_attempt_at":`...), next)
	return append(b, '}')
}
