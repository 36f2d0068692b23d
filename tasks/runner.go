package tasks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/deliveries"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/internal/vault"
)

// triggers are what a task is told of a lifecycle event. That a request has
// escalated is told to subscriptions alone.
var triggers = map[string]string{
	access.Submitted: "created", access.ApprovedEvent: "approved", access.DeniedEvent: "denied",
	access.RevokedEvent: "revoked", access.ExpiredEvent: "expired", access.Escalated: escalated,
}

const escalated = "escalated"

// Executor does what a task says. Implemented by notify.TaskExecutor.
type Executor interface {
	// RunScript runs a script, for no longer than ctx. The error says that it was not
	// run, or that nobody can tell.
	RunScript(ctx context.Context, job ScriptJob) (Outcome, error)
	// Post sends a message, for no longer than ctx. The error is in the outcome.
	Post(ctx context.Context, m Message) Outcome
}

// ScriptJob is one run of a script.
type ScriptJob struct {
	Script string
	Config map[string]string // what config.Get returns
	Host   Host
}

// Host is what a script may ask for. Its errors are told to the script.
type Host interface {
	Secret(ctx context.Context, name string) (string, error)
	Approvers(ctx context.Context, request string) ([]access.Party, error)
}

// Message is what a webhook task sends: an event as JSON.
type Message struct {
	ID   string // of the run: the same in every attempt
	URL  string
	Key  []byte // that signs
	At   latchkey.Instant
	Body []byte
}

// RunnerConfig are the collaborators of a Runner.
type RunnerConfig struct {
	Queue    Queue
	Requests Requests
	Vault    *vault.Vault
	Executor Executor
	Now      func() latchkey.Instant
	// Workers is how many runs go on at a time, beside those that must succeed before
	// an approval.
	Workers int
	// Troubled is told what went wrong with the machinery, not with a task; may be
	// nil.
	Troubled func(ctx context.Context, what string, err error)
	// Failed is told of each attempt that failed, with its outcome; may be nil.
	Failed func(ctx context.Context, run Run)
}

// Runner makes runs of events, and runs them. Several processes may run one each:
// a cursor lets one of them at an event, a lease one of them at a run. Safe for
// concurrent use.
type Runner struct {
	cfg   RunnerConfig
	trail *deliveries.Trail[Run]
	slots chan struct{}
	freed chan struct{}
	going sync.WaitGroup
	stats struct{ succeeded, failed, retried, timedOut atomic.Int64 }
}

// NewRunner makes one.
func NewRunner(cfg RunnerConfig) *Runner {
	return &Runner{cfg: cfg, trail: deliveries.NewTrail(cfg.Queue), slots: make(chan struct{}, cfg.Workers), freed: make(chan struct{}, 1)}
}

// Stats counts the attempts that this process has made.
type Stats struct{ Succeeded, Failed, Retried, TimedOut int64 }

// Stats returns them.
func (r *Runner) Stats() Stats {
	return Stats{r.stats.succeeded.Load(), r.stats.failed.Load(), r.stats.retried.Load(), r.stats.timedOut.Load()}
}

// RunOnce makes runs of all events so far and begins those that are due, as many
// as there is room for; it does not wait for them. ctx is theirs too: what it ends is
// made again once its lease is over. It returns how many it began; the error is as
// deliveries.Trail's.
func (r *Runner) RunOnce(ctx context.Context, now latchkey.Instant) (begun int, err error) {
	_, err = r.trail.Follow(ctx, func(e *audit.Event, webhooks []deliveries.Webhook) ([]Run, error) { return r.of(ctx, e, webhooks, now) })
	begun, failed := r.begin(ctx, now)
	return begun, errors.Join(err, failed)
}

// Freed tells, after a run has ended, that another can begin.
func (r *Runner) Freed() <-chan struct{} { return r.freed }

// Wait waits for what RunOnce has begun.
func (r *Runner) Wait() { r.going.Wait() }

// of returns the runs of an event: that which the template of its request wants,
// and those of subscriptions. A task runs once for an event, whatever is bound to it
// how often; the template says how.
func (r *Runner) of(ctx context.Context, e *audit.Event, webhooks []deliveries.Webhook, now latchkey.Instant) (list []Run, err error) {
	changes, err := deliveries.Changes(e)
	if err != nil {
		return nil, nil // about a request, and no step of its life
	}
	event := changes.Get("event").Text()
	trigger, ok := triggers[event]
	if !ok {
		return nil, nil
	}
	base := Run{Customer: e.Chain, Seq: e.Seq, Event: trigger, Request: e.Resource.ID, Status: Queued, NextAt: now, CreatedAt: now}
	task, mode, err := r.templateTask(ctx, e, trigger)
	if err != nil {
		return nil, err
	}
	if task != "" {
		run := base
		run.ID, run.Task, run.Source, run.Mode = uuid.NewString(), task, ByTemplate, mode
		list = append(list, run)
	}
	for i := range webhooks {
		if w := &webhooks[i]; w.TaskID != "" && w.Wants(event, e.Seq) && !slices.ContainsFunc(list, func(r Run) bool { return r.Task == w.TaskID }) {
			run := base
			run.ID, run.Task, run.Source, run.Mode = uuid.NewString(), w.TaskID, BySubscription, access.Retry
			list = append(list, run)
		}
	}
	return list, nil
}

// templateTask is the task that the template of an event's request runs, "" for
// none, and whether it is tried again.
func (r *Runner) templateTask(ctx context.Context, e *audit.Event, trigger string) (task string, mode access.FailureMode, err error) {
	if trigger == escalated {
		return "", "", nil
	}
	request, err := r.cfg.Requests.Request(ctx, e.Chain, e.Resource.ID)
	if err != nil {
		if latchkey.KindOf(err) == latchkey.NotFound {
			err = nil
		}
		return "", "", err
	}
	t := &request.Snapshot.Template
	switch {
	case t.TriggerFailureMode == access.Retry:
		return t.TriggerTask, access.Retry, nil
	case t.TriggerFailureMode == access.Block && trigger == "approved":
		return "", "", nil // it was run before the change
	}
	return t.TriggerTask, access.Ignore, nil
}

// begin claims runs that are due, of each customer one after the other, and makes
// them beside this.
func (r *Runner) begin(ctx context.Context, now latchkey.Instant) (begun int, err error) {
	for {
		customers, err := r.cfg.Queue.DueCustomers(ctx, now)
		if err != nil || len(customers) == 0 {
			return begun, err
		}
		before := begun
		for _, customer := range customers {
			select {
			case r.slots <- struct{}{}:
			default:
				return begun, nil // all hands are busy; whoever hears of the first that is freed goes on
			}
			claimed, err := r.cfg.Queue.Claim(ctx, customer, now, now.Add(Lease), 1)
			if err != nil || len(claimed) == 0 {
				<-r.slots
				if err != nil {
					return begun, err
				}
				continue
			}
			begun++
			r.going.Go(func() {
				defer r.free()
				r.attempt(ctx, claimed[0])
			})
		}
		if begun == before {
			return begun, nil
		}
	}
}

func (r *Runner) free() {
	<-r.slots
	select {
	case r.freed <- struct{}{}:
	default:
	}
}

// attempt makes a claimed run and writes what became of it.
func (r *Runner) attempt(ctx context.Context, run Run) {
	task, err := r.cfg.Queue.Task(ctx, run.Customer, run.Task)
	var o Outcome
	switch {
	case latchkey.KindOf(err) == latchkey.NotFound:
		o, task.MaxRetries = Outcome{Error: "the task was deleted"}, 0
		run.Mode = access.Ignore
	case err != nil:
		r.troubled(ctx, "read a task", err)
		return // due again when the lease ends
	case run.lost(task.MaxRetries):
		o, run.Mode = Outcome{Error: "the server went away each time the task ran"}, access.Ignore
	default:
		var request access.Request
		if request, err = r.cfg.Requests.Request(ctx, run.Customer, run.Request); err == nil {
			o, err = r.execute(ctx, &task, &run, &request)
		}
		if ctx.Err() != nil {
			return // this process ends; another one makes it again
		}
		if err != nil {
			r.troubled(ctx, "run a task", err)
			if latchkey.KindOf(err) == latchkey.Unavailable {
				return // the database is away, and nothing was tried: as above
			}
			o = Outcome{Error: "the task could not be run: " + public(err)}
		}
	}
	run = run.After(o, task.MaxRetries, r.cfg.Now(), rand.Float64())
	r.ended(ctx, run)
}

// ended counts, tells of and writes what became of a run.
func (r *Runner) ended(ctx context.Context, run Run) {
	r.count(&run)
	if run.Error != "" && r.cfg.Failed != nil {
		r.cfg.Failed(ctx, run)
	}
	r.finish(ctx, run)
}

// public is what may be told of an error to who may read runs.
func public(err error) string {
	if e, ok := errors.AsType[*latchkey.Error](err); ok {
		return e.Public
	}
	return "the server's log says why"
}

func (r *Runner) count(run *Run) {
	if run.TimedOut {
		r.stats.timedOut.Add(1)
	}
	switch run.Status {
	case Succeeded:
		r.stats.succeeded.Add(1)
	case Queued:
		r.stats.retried.Add(1)
	case Failed, Running:
		r.stats.failed.Add(1)
	}
}

func (r *Runner) finish(ctx context.Context, run Run) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if _, err := r.cfg.Queue.FinishRun(ctx, run); err != nil {
		r.troubled(ctx, "write what became of a run", err)
	}
}

func (r *Runner) troubled(ctx context.Context, what string, err error) {
	if r.cfg.Troubled != nil {
		r.cfg.Troubled(ctx, what, err)
	}
}

// Before implements access.Trigger: it runs the task of the request's template and
// returns nil where it succeeded. Its errors are trigger_task_failed (TaskFailed)
// and trigger_task_timeout (TaskTimeout).
func (r *Runner) Before(ctx context.Context, e access.TriggerEvent) error {
	run := Run{
		ID: uuid.NewString(), Customer: e.Customer, Task: e.Request.Snapshot.Template.TriggerTask, Source: ByTemplate, Event: e.Event, Request: e.Request.ID,
		Mode: access.Block, Status: Running, Attempts: 1, NextAt: r.cfg.Now().Add(Lease), StartedAt: r.cfg.Now(), CreatedAt: r.cfg.Now(),
	}
	refuse := func(cause error) error {
		if ctx.Err() != nil {
			return latchkey.Errorf(latchkey.TaskTimeout, "trigger_task_timeout", "the task that must succeed first took too long").Because(cause)
		}
		return latchkey.Errorf(latchkey.TaskFailed, "trigger_task_failed", "the task that must succeed first failed").Because(cause)
	}
	task, err := r.cfg.Queue.Task(ctx, e.Customer, run.Task)
	if err != nil {
		return refine(refuse(err), err)
	}
	if err := r.cfg.Queue.InsertRun(ctx, run); err != nil {
		return refine(refuse(err), err)
	}
	o, err := r.execute(ctx, &task, &run, &e.Request)
	if err != nil {
		if ctx.Err() == nil {
			r.troubled(ctx, "run a task", err)
		}
		o = Outcome{Error: "the task could not be run: " + public(err)}
	}
	if o.Error != "" && ctx.Err() != nil {
		o.TimedOut, o.Error = true, "the task took longer than whoever approves can wait"
	}
	run = run.After(o, 0, r.cfg.Now(), 0)
	r.ended(ctx, run)
	switch {
	case o.Error == "":
		return nil
	case o.TimedOut:
		return latchkey.Errorf(latchkey.TaskTimeout, "trigger_task_timeout", "the task that must succeed first took too long")
	}
	return refuse(errors.New(o.Error))
}

// refine keeps an error that says that the database is away as what it is.
func refine(refused, err error) error {
	if latchkey.KindOf(err) == latchkey.Unavailable {
		return err
	}
	return refused
}

// execute does what the task says.
func (r *Runner) execute(ctx context.Context, task *Task, run *Run, request *access.Request) (Outcome, error) {
	// Before the change there is no event yet: the one that is to come.
	event := audit.Event{Draft: audit.Draft{At: r.cfg.Now(), Changes: request.Told("access_request." + run.Event)}}
	if run.Seq > 0 {
		var err error
		if event, err = r.cfg.Queue.Event(ctx, run.Customer, run.Seq); err != nil {
			return Outcome{}, err
		}
	}
	if task.Type == Webhook {
		key, err := r.signing(ctx, task)
		if err != nil {
			return Outcome{}, err
		}
		body, err := deliveries.Message(&event)
		if err != nil {
			return Outcome{}, err
		}
		ctx, cancel := context.WithTimeout(ctx, access.TriggerTimeout) // as long as an approval waits
		defer cancel()
		return r.cfg.Executor.Post(ctx, Message{ID: run.ID, URL: task.URL, Key: key, At: r.cfg.Now(), Body: body}).kept(nil), nil
	}
	settings, err := settings(run, request, &event)
	if err != nil {
		return Outcome{}, err
	}
	h := &host{runner: r, task: task, request: request, given: map[string]string{}}
	o, err := r.cfg.Executor.RunScript(ctx, ScriptJob{Script: task.Script, Config: settings, Host: h})
	return o.kept(slices.Collect(maps.Values(h.given))), err
}

func (r *Runner) signing(ctx context.Context, task *Task) ([]byte, error) {
	sealed, err := r.cfg.Queue.Secrets(ctx, task.Customer, signingKind, task.ID)
	if err != nil {
		return nil, err
	}
	for _, one := range sealed {
		if one.Name == signingName {
			return r.cfg.Vault.Open(one.Label, one.Box)
		}
	}
	return nil, fmt.Errorf("task %s has no secret to sign with", task.ID)
}

// host answers one run of a script.
type host struct {
	runner  *Runner
	task    *Task
	request *access.Request
	mu      sync.Mutex
	given   map[string]string // the secrets that the script was given, by name
}

// Secret implements Host.
func (h *host) Secret(ctx context.Context, name string) (string, error) {
	if !slices.Contains(h.task.Secrets, name) {
		return "", errors.New("it is not one of the task's secrets")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if value, had := h.given[name]; had { // a script may ask a thousand times
		return value, nil
	}
	sealed, err := h.runner.cfg.Queue.Secrets(ctx, h.task.Customer, secretKind, "")
	if err != nil {
		h.runner.troubled(ctx, "read a secret", err)
		return "", errors.New("it cannot be read now")
	}
	for _, one := range sealed {
		if one.Name != name {
			continue
		}
		value, err := h.runner.cfg.Vault.Open(one.Label, one.Box)
		if err != nil {
			h.runner.troubled(ctx, "open a secret", err)
			return "", errors.New("it cannot be read now")
		}
		h.given[name] = string(value)
		return h.given[name], nil
	}
	return "", errors.New("there is no secret of that name")
}

// Approvers implements Host. A script learns of the request that it runs for, and
// of no other.
func (h *host) Approvers(_ context.Context, request string) ([]access.Party, error) {
	if request != h.request.ID {
		return nil, errors.New("it is not the request that the task runs for")
	}
	return h.request.Notified, nil
}

// kept cuts an outcome to what is kept of it, without the secrets.
func (o Outcome) kept(secrets []string) Outcome {
	hide := Redactor(secrets)
	cut := len(o.Output) > keptOutput
	o.Output, o.Cut = head(hide(o.Output), keptOutput), o.Cut || cut
	o.Result, o.Error = head(hide(o.Result), keptText), head(hide(o.Error), keptText)
	return o
}

// head cuts a text, which no database refuses then.
func head(s string, most int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}

// settings are the configuration of a script.
func settings(run *Run, request *access.Request, event *audit.Event) (map[string]string, error) {
	t := &request.Snapshot.Template
	m := map[string]string{}
	if run.Seq > 0 {
		changes, err := deliveries.Changes(event)
		if err != nil {
			return nil, err
		}
		for name, v := range changes.Members() {
			switch v.Kind() {
			case strictjson.String:
				m[name] = strings.Clone(v.Text())
			case strictjson.Missing, strictjson.Null:
			default: // a number, a flag, a list: as JSON
				m[name] = string(v.AppendCanonical(nil))
			}
		}
	}
	maps.Copy(m, map[string]string{
		"trigger_event": run.Event, "request_id": request.ID, "request_status": run.Event, "template_id": t.ID, "template_name": t.Name,
		"app_id": t.Application, "app_name": request.Snapshot.AppName, "requester_id": request.Requester.ID,
		"requester_email": request.Requester.Email, "requester_name": request.Requester.Name, "beneficiary_id": request.Beneficiary.ID,
		"justification": request.Justification,
	})
	return m, nil
}
