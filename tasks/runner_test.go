package tasks_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/deliveries"
	"github.com/latchkey-dev/latchkey/internal/vault"
	"github.com/latchkey-dev/latchkey/store"
	"github.com/latchkey-dev/latchkey/tasks"
)

// rig is a database with a customer, one request of a template that runs a task,
// and an executor that the test plays.
type rig struct {
	t       *testing.T
	db      *store.DB
	vault   *vault.Vault
	service *tasks.Tasks
	call    authz.Call
	mu      sync.Mutex
	now     latchkey.Instant
	request access.Request

	away   bool // the database, for who reads the request
	script func(ctx context.Context, job tasks.ScriptJob) (tasks.Outcome, error)
	posts  []tasks.Message
	reply  tasks.Outcome
	// deadline is that of the last post.
	deadline time.Time
	ran      []map[string]string // configurations of the scripts that ran
}

type anything struct{}

func (anything) CheckScript(string) string     { return "" }
func (anything) CheckURL(string, string) error { return nil }
func (anything) CompileScript(context.Context, string) (string, error) {
	return "", nil
}

func newRig(t *testing.T) *rig {
	t.Helper()
	ctx := context.Background()
	r := &rig{t: t, now: latchkey.InstantOf(time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC))}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	r.db, err = store.OpenConfig(ctx, store.Config{Path: filepath.Join(t.TempDir(), "latchkey.db"), MAC: bytes.Repeat([]byte{1}, 32)})
	must(err)
	t.Cleanup(func() { _ = r.db.Close() })
	table := &cache.Table{}
	must(authz.NewCustomers(r.db, table).Establish(ctx, "acme", r.now))
	root := authz.NewRootKey(r.db, &authz.Peppers{})
	token, err := root.Establish(ctx, nil, r.now)
	must(err)
	r.vault, err = vault.New(bytes.Repeat([]byte{7}, vault.KeyBytes))
	must(err)
	r.service = tasks.New(tasks.Config{Record: r.db.Tasks(), Vault: r.vault, Checks: anything{}, Scripts: true})
	r.call = authz.Call{Caller: authz.Caller{Kind: authz.RootCredential, Kid: token.Kid, Customer: &authz.Customer{ID: "acme"}}, Now: r.now}
	r.request = access.Request{
		ID: uuid.NewString(), Customer: "acme", Justification: "the justification", Requester: access.Party{ID: "p1", Email: "dale@example.com", Name: "Dale"},
		Beneficiary: access.Party{ID: "p1"}, Notified: []access.Party{{ID: "p2", Email: "ada@example.com", Name: "Ada"}},
		Snapshot: access.Snapshot{AppName: "internal-db", Template: access.Template{ID: "t1", Name: "Database", Application: "a1", TriggerFailureMode: access.Ignore}},
	}
	return r
}

func (r *rig) clock() latchkey.Instant {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rig) pass(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

// Request implements tasks.Requests.
func (r *rig) Request(_ context.Context, customer, id string) (access.Request, error) {
	if r.away {
		return access.Request{}, latchkey.Errorf(latchkey.Unavailable, "storage_unavailable", "the database does not answer")
	}
	if customer != "acme" || id != r.request.ID {
		return access.Request{}, latchkey.Errorf(latchkey.NotFound, "request_not_found", "there is no such request")
	}
	return r.request, nil
}

// RunScript implements tasks.Executor.
func (r *rig) RunScript(ctx context.Context, job tasks.ScriptJob) (tasks.Outcome, error) {
	r.mu.Lock()
	r.ran = append(r.ran, job.Config)
	script := r.script
	r.mu.Unlock()
	if script == nil {
		return tasks.Outcome{Result: "done"}, nil
	}
	return script(ctx, job)
}

// Post implements tasks.Executor.
func (r *rig) Post(ctx context.Context, m tasks.Message) tasks.Outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.posts = append(r.posts, m)
	r.deadline, _ = ctx.Deadline()
	return r.reply
}

func (r *rig) runner() *tasks.Runner {
	return tasks.NewRunner(tasks.RunnerConfig{Queue: r.db.Tasks(), Requests: r, Vault: r.vault, Executor: r, Now: r.clock, Workers: 3,
		Troubled: func(_ context.Context, what string, err error) { r.t.Logf("%s: %v", what, err) }})
}

// run runs what is due, and returns how many runs began.
func (r *rig) run(runner *tasks.Runner) int {
	r.t.Helper()
	begun := 0
	for {
		n, err := runner.RunOnce(context.Background(), r.clock())
		if err != nil {
			r.t.Fatal(err)
		}
		runner.Wait()
		if begun += n; n == 0 {
			return begun
		}
	}
}

func (r *rig) task(in tasks.Settings) tasks.Made {
	r.t.Helper()
	if in.Name == "" {
		in.Name = uuid.NewString()
	}
	if in.Type == "" {
		in.Type, in.Script = tasks.Script, "package task"
	}
	made, err := r.service.Create(context.Background(), r.call, in)
	if err != nil {
		r.t.Fatal(err)
	}
	return made
}

// happens writes a lifecycle event of the request.
func (r *rig) happens(event, further string) {
	r.t.Helper()
	err := r.db.Change(context.Background(), authz.Change{Chain: "acme", At: r.clock()}, func(authz.Tx) (audit.Draft, error) {
		return audit.Draft{
			ID: uuid.NewString(), At: r.clock(), Actor: audit.Actor{Type: "system", ID: "system"}, Action: "access_request." + event, Outcome: "success",
			Resource: audit.Resource{Type: "access_request", ID: r.request.ID, Name: "Database"},
			Changes:  fmt.Sprintf(`{"event":"access_request.%s","request_id":%q,"template_name":"Database"%s}`, event, r.request.ID, further),
		}, nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) subscribe(task string, events ...string) {
	r.t.Helper()
	err := r.db.Deliveries().Change(context.Background(), authz.Change{Chain: "acme", At: r.clock()}, func(tx deliveries.Tx) (audit.Draft, error) {
		w := deliveries.Webhook{ID: uuid.NewString(), Customer: "acme", TaskID: task, Events: events, Since: tx.Seq(), CreatedAt: r.clock()}
		return audit.Draft{ID: uuid.NewString(), At: r.clock(), Actor: audit.Actor{Type: "system", ID: "system"}, Action: "webhook.create", Outcome: "success"}, tx.InsertWebhook(context.Background(), w)
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// runs are those of a task, oldest first.
func (r *rig) runs(task string) []tasks.Run {
	r.t.Helper()
	list, err := r.db.Tasks().Runs(context.Background(), "acme", task, tasks.Page{Limit: 100})
	if err != nil {
		r.t.Fatal(err)
	}
	slices.SortFunc(list, func(a, b tasks.Run) int { return int(a.Seq - b.Seq) })
	return list
}

func TestRunner_TellsScriptsTheKeysOfTheDocument(t *testing.T) {
	r := newRig(t)
	task := r.task(tasks.Settings{})
	r.request.Snapshot.Template.TriggerTask = task.ID
	for event, trigger := range map[string]string{"submitted": "created", "approved": "approved", "denied": "denied", "revoked": "revoked", "expired": "expired"} {
		r.ran = nil
		r.happens(event, `,"decided_by":"p2","cancelled":true,"notified_approvers":[{"id":"p2","email":"ada@example.com"}]`)
		if n := r.run(r.runner()); n != 1 {
			t.Fatalf("%s: %d runs", event, n)
		}
		want := map[string]string{
			"trigger_event": trigger, "request_id": r.request.ID, "request_status": trigger, "template_id": "t1", "template_name": "Database",
			"app_id": "a1", "app_name": "internal-db", "requester_id": "p1", "requester_email": "dale@example.com", "requester_name": "Dale",
			"justification": "the justification", "beneficiary_id": "p1", "decided_by": "p2", "cancelled": "true", "event": "access_request." + event,
			"notified_approvers": `[{"email":"ada@example.com","id":"p2"}]`,
		}
		if diff := cmp.Diff(want, r.ran[0]); diff != "" {
			t.Errorf("%s: %s", event, diff)
		}
	}
	r.happens("escalated", "")
	if n := r.run(r.runner()); n != 0 {
		t.Errorf("escalated is no trigger of a template: %d runs", n)
	}
}

func TestRunner_RunsATaskOncePerEvent(t *testing.T) {
	r := newRig(t)
	task := r.task(tasks.Settings{})
	r.happens("submitted", "") // before anything is bound to it
	r.run(r.runner())
	r.request.Snapshot.Template.TriggerTask = task.ID
	r.subscribe(task.ID, "access_request.approved", "access_request.escalated")
	r.subscribe(task.ID, "access_request.approved")
	r.happens("approved", "")
	r.happens("escalated", "")
	for range 2 {
		r.run(r.runner())
	}
	var got []string
	for _, run := range r.runs(task.ID) {
		got = append(got, fmt.Sprint(run.Event, " ", run.Source, " ", run.Mode, " ", run.Status))
	}
	if diff := cmp.Diff([]string{"approved template ignore succeeded", "escalated subscription retry succeeded"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestRunner_TwoProcessesRunNothingTwice(t *testing.T) {
	r := newRig(t)
	task := r.task(tasks.Settings{})
	r.request.Snapshot.Template.TriggerTask = task.ID
	const events = 40
	for range events {
		r.happens("revoked", "")
	}
	a, b := r.runner(), r.runner()
	var both sync.WaitGroup
	for _, one := range []*tasks.Runner{a, b} {
		both.Go(func() {
			for range 2 * events {
				if _, err := one.RunOnce(context.Background(), r.clock()); err != nil {
					t.Error(err)
				}
				one.Wait()
			}
		})
	}
	both.Wait()
	if len(r.ran) != events || len(r.runs(task.ID)) != events {
		t.Fatalf("%d runs of %d events, %d kept", len(r.ran), events, len(r.runs(task.ID)))
	}
	if a.Stats().Succeeded+b.Stats().Succeeded != events {
		t.Errorf("%+v %+v", a.Stats(), b.Stats())
	}
}

func TestRunner_FailureModes(t *testing.T) {
	for _, tc := range []struct {
		mode     access.FailureMode
		attempts int
	}{{access.Ignore, 1}, {access.Retry, 3}, {access.Block, 1}} { // block is ignore for what is not an approval
		t.Run(string(tc.mode), func(t *testing.T) {
			r := newRig(t)
			task := r.task(tasks.Settings{MaxRetries: 2})
			r.request.Snapshot.Template.TriggerTask, r.request.Snapshot.Template.TriggerFailureMode = task.ID, tc.mode
			r.script = func(context.Context, tasks.ScriptJob) (tasks.Outcome, error) {
				return tasks.Outcome{Output: "printed", Error: "no luck"}, nil
			}
			r.happens("denied", "")
			runner := r.runner()
			attempts := r.run(runner)
			for range 10 { // each wait is shorter than what passes
				if waiting := r.runs(task.ID)[0]; waiting.Status == tasks.Queued && r.run(runner) > 0 {
					t.Fatal("it was tried again at once")
				}
				r.pass(time.Hour)
				attempts += r.run(runner)
			}
			got := r.runs(task.ID)[0]
			if attempts != tc.attempts || got.Attempts != tc.attempts || got.Status != tasks.Failed || got.Error != "no luck" || got.Output != "printed" || got.EndedAt == 0 {
				t.Fatalf("%d attempts, %+v", attempts, got)
			}
		})
	}
}

// A process that dies in the middle of a run leaves it to another one, and what it
// says of it afterwards counts for nothing.
func TestRunner_ALostRunIsMadeAgain(t *testing.T) {
	r := newRig(t)
	task := r.task(tasks.Settings{})
	r.request.Snapshot.Template.TriggerTask = task.ID
	began := make(chan struct{})
	r.script = func(ctx context.Context, _ tasks.ScriptJob) (tasks.Outcome, error) {
		close(began)
		<-ctx.Done()
		return tasks.Outcome{}, ctx.Err()
	}
	r.happens("approved", "")
	ctx, die := context.WithCancel(context.Background())
	lost := r.runner()
	if n, err := lost.RunOnce(ctx, r.clock()); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	<-began
	taken := r.runs(task.ID)[0]
	if n := r.run(r.runner()); n != 0 {
		t.Fatal("a run that is being made was taken")
	}
	die()
	lost.Wait()
	if n := r.run(r.runner()); n != 0 {
		t.Fatal("it was taken before the lease ended")
	}
	r.pass(tasks.Lease + time.Second)
	r.script = nil
	if n := r.run(r.runner()); n != 1 {
		t.Fatalf("%d runs after the lease", n)
	}
	late := taken.After(tasks.Outcome{Error: "from the grave"}, 0, r.clock(), 0)
	if written, err := r.db.Tasks().FinishRun(context.Background(), late); written || err != nil {
		t.Fatal(written, err)
	}
	if got := r.runs(task.ID)[0]; got.Status != tasks.Succeeded || got.Attempts != 2 || got.Error != "" {
		t.Fatalf("%+v", got)
	}
}

func TestRunner_ARunThatKillsItsProcessIsGivenUp(t *testing.T) {
	r := newRig(t)
	task := r.task(tasks.Settings{})
	run := tasks.Run{ID: uuid.NewString(), Customer: "acme", Task: task.ID, Source: tasks.ByTemplate, Seq: 1, Event: "approved", Request: r.request.ID, Mode: access.Ignore,
		Status: tasks.Queued, NextAt: r.now, CreatedAt: r.now}
	if err := r.db.Tasks().InsertRun(context.Background(), run); err != nil {
		t.Fatal(err)
	}
	for range 3 { // processes that die before they have written anything
		got, err := r.db.Tasks().Claim(context.Background(), "acme", r.clock(), r.clock().Add(tasks.Lease), 1)
		if err != nil || len(got) != 1 {
			t.Fatal(got, err)
		}
		r.pass(tasks.Lease + time.Second)
	}
	r.run(r.runner())
	if got := r.runs(task.ID)[0]; len(r.ran) != 0 || got.Status != tasks.Failed || !strings.Contains(got.Error, "went away") {
		t.Fatalf("%+v", got)
	}
}

// A database that is away for a moment ends no run, not even one that is made once.
func TestRunner_ARunThatCouldNotBeTriedIsMadeLater(t *testing.T) {
	r := newRig(t)
	task := r.task(tasks.Settings{})
	r.request.Snapshot.Template.TriggerTask = task.ID
	r.happens("approved", "")
	runner := r.runner()
	ctx := context.Background()
	if _, err := deliveries.NewTrail[tasks.Run](r.db.Tasks()).Follow(ctx, func(e *audit.Event, _ []deliveries.Webhook) ([]tasks.Run, error) {
		return []tasks.Run{{ID: uuid.NewString(), Customer: "acme", Task: task.ID, Source: tasks.ByTemplate, Seq: e.Seq, Event: "approved", Request: r.request.ID,
			Mode: access.Ignore, Status: tasks.Queued, NextAt: r.clock(), CreatedAt: r.clock()}}, nil
	}); err != nil {
		t.Fatal(err)
	}
	r.away = true
	if n := r.run(runner); n != 1 {
		t.Fatalf("%d runs began", n)
	}
	r.away = false
	if got := r.runs(task.ID)[0]; got.Status != tasks.Running || len(r.ran) != 0 {
		t.Fatalf("%+v", got)
	}
	r.pass(tasks.Lease)
	if n := r.run(runner); n != 1 || len(r.ran) != 1 || r.runs(task.ID)[0].Status != tasks.Succeeded {
		t.Errorf("%d runs: %+v", n, r.runs(task.ID))
	}
}

// More runs than there is room for do not wait for the clock.
func TestRunner_TellsThatAnotherRunCanBegin(t *testing.T) {
	r := newRig(t)
	for range 4 { // one more than there is room for
		task := r.task(tasks.Settings{})
		r.subscribe(task.ID, "access_request.approved")
	}
	r.happens("approved", "")
	runner := r.runner()
	begun := 0
	for begun < 4 {
		n, err := runner.RunOnce(context.Background(), r.clock())
		if begun += n; err != nil {
			t.Fatal(err)
		}
		<-runner.Freed()
	}
	runner.Wait()
}

// The cursor is moved past an event about a request, and not for each other event.
func TestRunner_WritesNothingForWhatIsNotAboutRequests(t *testing.T) {
	r := newRig(t)
	runner := r.runner()
	cursor := func() int64 {
		t.Helper()
		list, err := r.db.Tasks().Behind(context.Background())
		if err != nil || len(list) > 1 {
			t.Fatal(list, err)
		}
		if len(list) == 0 {
			return -1 // at the last event
		}
		return list[0].Cursor
	}
	task := r.task(tasks.Settings{})
	r.run(runner)
	if at := cursor(); at != 0 {
		t.Errorf("the cursor went to %d", at)
	}
	r.happens("approved", "")
	r.run(runner)
	if at := cursor(); at != -1 {
		t.Errorf("the cursor stayed at %d", at)
	}
	r.request.Snapshot.Template.TriggerTask = task.ID
	r.task(tasks.Settings{})
	r.happens("denied", "")
	if n := r.run(runner); n != 1 || r.runs(task.ID)[0].Event != "denied" {
		t.Errorf("%d runs: %+v", n, r.runs(task.ID))
	}
}

// A subscription is told of what happens while it wants it: not of what had happened
// when it came to want it, though the process has been started anew since.
func TestRunner_ASubscriptionThatIsChangedRunsNothingForThePast(t *testing.T) {
	r := newRig(t)
	task := r.task(tasks.Settings{})
	r.subscribe(task.ID, "access_request.denied")
	r.happens("approved", "")
	r.run(r.runner())
	ctx := context.Background()
	list, err := r.db.Tasks().Webhooks(ctx, "acme")
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	list[0].Events = []string{"access_request.approved", "access_request.denied"}
	err = r.db.Deliveries().Change(ctx, authz.Change{Chain: "acme", At: r.clock()}, func(tx deliveries.Tx) (audit.Draft, error) {
		return audit.Draft{ID: uuid.NewString(), At: r.clock(), Actor: audit.Actor{Type: "system", ID: "system"}, Action: "webhook.update", Outcome: "success"}, tx.UpdateWebhook(ctx, list[0])
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := r.run(r.runner()); n != 0 {
		t.Errorf("%d runs for what was over", n)
	}
	r.happens("approved", "")
	if n := r.run(r.runner()); n != 1 {
		t.Errorf("%d runs", n)
	}
}

func TestBefore(t *testing.T) {
	var leave context.CancelFunc // of whoever waits for the approval
	for name, tc := range map[string]struct {
		script func(ctx context.Context, _ tasks.ScriptJob) (tasks.Outcome, error)
		kind   latchkey.Kind
		status tasks.Status
	}{
		"it succeeds": {nil, 0, tasks.Succeeded},
		"it fails": {func(context.Context, tasks.ScriptJob) (tasks.Outcome, error) {
			return tasks.Outcome{Error: "the ticket is closed"}, nil
		}, latchkey.TaskFailed, tasks.Failed},
		"it cannot be run": {func(context.Context, tasks.ScriptJob) (tasks.Outcome, error) {
			return tasks.Outcome{}, errors.New("no landlock")
		}, latchkey.TaskFailed, tasks.Failed},
		"it takes too long by itself": {func(context.Context, tasks.ScriptJob) (tasks.Outcome, error) {
			return tasks.Outcome{Error: "the script took longer than 30s", TimedOut: true}, nil
		}, latchkey.TaskTimeout, tasks.Failed},
		"nobody waits any longer": {func(ctx context.Context, _ tasks.ScriptJob) (tasks.Outcome, error) {
			leave()
			<-ctx.Done()
			return tasks.Outcome{}, ctx.Err()
		}, latchkey.TaskTimeout, tasks.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			task := r.task(tasks.Settings{MaxRetries: 5})
			r.request.Snapshot.Template.TriggerTask, r.request.Snapshot.Template.TriggerFailureMode = task.ID, access.Block
			r.script = tc.script
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			leave = cancel
			err := r.runner().Before(ctx, access.TriggerEvent{Customer: "acme", Event: "approved", Request: r.request, Now: r.now})
			if (err == nil) != (tc.kind == 0) || err != nil && latchkey.KindOf(err) != tc.kind {
				t.Fatal(err)
			}
			got := r.runs(task.ID)
			if len(got) != 1 || got[0].Status != tc.status || got[0].Mode != access.Block || got[0].Attempts != 1 {
				t.Fatalf("%+v", got)
			}
			if r.ran[0]["trigger_event"] != "approved" || r.ran[0]["request_status"] != "approved" || r.ran[0]["justification"] != "the justification" {
				t.Errorf("the event to come: %v", r.ran[0])
			}
			r.happens("approved", "")
			r.pass(time.Hour)
			if n := r.run(r.runner()); n != 0 || len(r.runs(task.ID)) != 1 {
				t.Errorf("the approval ran it once more: %d", n)
			}
		})
	}
}

func TestBefore_WithoutItsTaskNothingIsApproved(t *testing.T) {
	r := newRig(t)
	r.request.Snapshot.Template.TriggerTask = uuid.NewString()
	err := r.runner().Before(context.Background(), access.TriggerEvent{Customer: "acme", Event: "approved", Request: r.request})
	if latchkey.KindOf(err) != latchkey.TaskFailed {
		t.Fatal(err)
	}
}

// A run before an approval whose process went away is nobody's to make again: who
// waited for it is gone.
func TestSweepRuns_EndsWhatNobodyWaitsFor(t *testing.T) {
	r := newRig(t)
	task := r.task(tasks.Settings{})
	left := tasks.Run{ID: uuid.NewString(), Customer: "acme", Task: task.ID, Source: tasks.ByTemplate, Event: "approved", Mode: access.Block, Status: tasks.Running, Attempts: 1,
		NextAt: r.now.Add(tasks.Lease), StartedAt: r.now, CreatedAt: r.now}
	if err := r.db.Tasks().InsertRun(context.Background(), left); err != nil {
		t.Fatal(err)
	}
	r.pass(tasks.Lease + time.Second)
	if n := r.run(r.runner()); n != 0 {
		t.Fatal("it was made again")
	}
	if _, err := r.db.SweepRuns(context.Background(), r.now, 0); err != nil {
		t.Fatal(err)
	}
	if got := r.runs(task.ID)[0]; got.Status != tasks.Failed || !strings.Contains(got.Error, "went away") {
		t.Fatalf("%+v", got)
	}
	r.pass(tasks.Kept + time.Hour)
	if n, err := r.db.SweepRuns(context.Background(), r.now, r.now.Add(-tasks.Kept)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
}

// secretReads counts how often secrets are read.
type secretReads struct {
	tasks.Queue
	n atomic.Int64
}

func (q *secretReads) Secrets(ctx context.Context, customer, kind, owner string) ([]vault.Sealed, error) {
	q.n.Add(1)
	return q.Queue.Secrets(ctx, customer, kind, owner)
}

// The attack: a script asks for a secret as often as it may, and has the server read
// and keep all secrets of the customer each time.
func TestRunner_ASecretIsReadOnceARun(t *testing.T) {
	r := newRig(t)
	if _, err := r.service.PutSecret(context.Background(), r.call, "MINE", "the secret"); err != nil {
		t.Fatal(err)
	}
	task := r.task(tasks.Settings{Secrets: []string{"MINE"}})
	r.request.Snapshot.Template.TriggerTask = task.ID
	r.script = func(ctx context.Context, job tasks.ScriptJob) (tasks.Outcome, error) {
		for range 1000 {
			if v, err := job.Host.Secret(ctx, "MINE"); v != "the secret" || err != nil {
				t.Fatalf("%q, %v", v, err)
			}
		}
		return tasks.Outcome{Result: "with the secret"}, nil
	}
	r.happens("approved", "")
	reads := &secretReads{Queue: r.db.Tasks()}
	runner := tasks.NewRunner(tasks.RunnerConfig{Queue: reads, Requests: r, Vault: r.vault, Executor: r, Now: r.clock, Workers: 1})
	r.run(runner)
	if got := r.runs(task.ID)[0]; reads.n.Load() != 1 || got.Result != "with [redacted]" {
		t.Errorf("%d reads: %+v", reads.n.Load(), got)
	}
}

func TestRunner_ScriptsGetTheirOwnSecretsAlone(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	for name, value := range map[string]string{"MINE": "https://hooks.example.com/?a=\"b\"&c", "OTHER": "not yours"} {
		if _, err := r.service.PutSecret(ctx, r.call, name, value); err != nil {
			t.Fatal(err)
		}
	}
	task, token := r.task(tasks.Settings{Secrets: []string{"GONE", "MINE"}}), authz.NewPersonalToken().Reveal() // and one that it came by otherwise
	r.request.Snapshot.Template.TriggerTask = task.ID
	r.script = func(ctx context.Context, job tasks.ScriptJob) (tasks.Outcome, error) {
		mine, err := job.Host.Secret(ctx, "MINE")
		if err != nil {
			return tasks.Outcome{}, err
		}
		for _, name := range []string{"OTHER", "GONE", "signing", ""} {
			if v, err := job.Host.Secret(ctx, name); err == nil || v != "" {
				t.Errorf("%s: %q, %v", name, v, err)
			}
		}
		if _, err := job.Host.Approvers(ctx, uuid.NewString()); err == nil {
			t.Error("it learns of another request")
		}
		who, err := job.Host.Approvers(ctx, r.request.ID)
		if err != nil || len(who) != 1 || who[0].Email != "ada@example.com" {
			t.Error(who, err)
		}
		quoted := strings.ReplaceAll(mine, `"`, `\"`)
		return tasks.Outcome{
			Output: "plain " + mine + " quoted " + quoted + " base64 " + base64.StdEncoding.EncodeToString([]byte(mine)) + " cut " + mine[:20],
			Result: mine, Error: "failed with " + mine + " and " + token,
		}, nil
	}
	r.happens("approved", "")
	r.run(r.runner())
	got := r.runs(task.ID)[0]
	all := got.Output + got.Result + got.Error
	if strings.Contains(all, token) {
		t.Errorf("a credential is kept: %+v", got)
	}
	if strings.Contains(all, "hooks.example") || strings.Contains(all, base64.StdEncoding.EncodeToString([]byte("https://hooks"))[:12]) || strings.Count(all, "[redacted]") != 7 {
		t.Fatalf("%+v", got)
	}
}

func TestRunner_WebhookTasksAreToldTheEventAndNoReason(t *testing.T) {
	r := newRig(t)
	task := r.task(tasks.Settings{Type: tasks.Webhook, URL: "https://board.example.com/hook"})
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(task.Secret, "whsec_"))
	if err != nil || len(key) != 32 {
		t.Fatal(task.Secret, err)
	}
	r.request.Snapshot.Template.TriggerTask = task.ID
	r.reply = tasks.Outcome{Result: "HTTP 204"}
	r.happens("approved", `,"decided_by":"p2"`)
	r.run(r.runner())
	if err := r.runner().Before(context.Background(), access.TriggerEvent{Customer: "acme", Event: "approved", Request: r.request}); err != nil {
		t.Fatal(err)
	}
	if len(r.posts) != 2 {
		t.Fatalf("%d posts", len(r.posts))
	}
	if left := time.Until(r.deadline); left > access.TriggerTimeout || left < access.TriggerTimeout-10*time.Second {
		t.Errorf("the receiver has %v, an approval waits %v", left, access.TriggerTimeout)
	}
	for _, m := range r.posts {
		if m.URL != "https://board.example.com/hook" || !bytes.Equal(m.Key, key) || m.ID == "" || bytes.Contains(m.Body, []byte("justification")) ||
			!bytes.HasPrefix(m.Body, []byte(`{"type":"access_request.approved","timestamp":"2027-01-02T03:04:05Z","data":{"request_id":"`+r.request.ID)) {
			t.Errorf("%+v %s", m, m.Body)
		}
	}
	if got := r.runs(task.ID); len(got) != 2 || got[1].Result != "HTTP 204" {
		t.Errorf("%+v", got)
	}
}

func TestTasks_WhoMayDoWhat(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	stranger, manager := r.call, r.call
	stranger.Caller = authz.Caller{Customer: r.call.Customer}
	manager.Caller = authz.Caller{Kind: authz.PersonalTokenCredential, Customer: r.call.Customer, Person: &authz.Person{ID: uuid.NewString(), Customer: "acme", Type: authz.AdminPerson, Active: true}}
	script := r.task(tasks.Settings{Name: "script"})
	in := tasks.Settings{Name: "x", Type: tasks.Script, Script: "package task"}
	code := func(err error) string {
		e, ok := errors.AsType[*latchkey.Error](err)
		if !ok {
			return fmt.Sprint(err)
		}
		return e.Code
	}
	if _, err := r.service.Create(ctx, manager, in); code(err) != "root_required" {
		t.Errorf("an admin makes a script: %v", err)
	}
	if _, err := r.service.Update(ctx, manager, script.ID, in); code(err) != "root_required" {
		t.Errorf("an admin changes a script: %v", err)
	}
	// By another type the check of the old one must not be got round.
	if _, err := r.service.Update(ctx, manager, script.ID, tasks.Settings{Name: "x", Type: tasks.Webhook, URL: "https://a.example"}); err == nil {
		t.Error("an admin changes a script to a webhook")
	}
	off := tasks.New(tasks.Config{Record: r.db.Tasks(), Vault: r.vault, Checks: anything{}})
	if _, err := off.Create(ctx, r.call, in); code(err) != "script_tasks_disabled" {
		t.Errorf("a script where they are off: %v", err)
	}
	for name, err := range map[string]error{
		"create": second(r.service.Create(ctx, stranger, tasks.Settings{Name: "w", Type: tasks.Webhook, URL: "https://a.example"})),
		"get":    second(r.service.Get(ctx, stranger, script.ID)), "list": second(r.service.List(ctx, stranger, tasks.Page{Limit: 1})),
		"runs": second(r.service.Runs(ctx, stranger, script.ID, tasks.Page{Limit: 1})), "delete": r.service.Delete(ctx, stranger, script.ID),
		"secret": second(r.service.PutSecret(ctx, stranger, "A", "v")), "secrets": second(r.service.Secrets(ctx, stranger)), "delete secret": r.service.DeleteSecret(ctx, stranger, "A"),
	} {
		if latchkey.KindOf(err) != latchkey.Forbidden {
			t.Errorf("a stranger: %s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// No value of a secret, and nothing of a script or behind a URL's host, is in what
// the audit trail tells.
func TestTasks_EventsTellNoSecrets(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	r.task(tasks.Settings{Name: "s", Type: tasks.Script, Script: "package task // hunter2"})
	r.task(tasks.Settings{Name: "w", Type: tasks.Webhook, URL: "https://board.example.com/hunter2"})
	if _, err := r.service.PutSecret(ctx, r.call, "A", "hunter2"); err != nil {
		t.Fatal(err)
	}
	events, err := r.db.Events(ctx, "acme", audit.Filter{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	actions := map[string]bool{}
	for _, e := range events {
		actions[e.Action] = true
		if bytes.Contains(e.Body, []byte("hunter2")) || bytes.Contains(e.Body, []byte("whsec")) {
			t.Errorf("%s", e.Body)
		}
	}
	if want := []string{"secret.create", "task.create"}; !slices.Equal(slices.Sorted(maps.Keys(actions)), want) {
		t.Errorf("%v", actions)
	}
}

// The attack: who can write to the database puts a sealed secret into the place of
// another, one's own or another customer's, that a script may read or a task signs by.
func TestRunner_SealedSecretsAreOfTheirNamesAlone(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	if err := authz.NewCustomers(r.db, &cache.Table{}).Establish(ctx, "other", r.now); err != nil {
		t.Fatal(err)
	}
	elsewhere := r.call
	elsewhere.Customer = &authz.Customer{ID: "other"}
	for _, s := range []struct {
		call        authz.Call
		name, value string
	}{{r.call, "MINE", "mine"}, {r.call, "ROOT", "the secret of root's script"}, {elsewhere, "MINE", "the secret of another customer"}} {
		if _, err := r.service.PutSecret(ctx, s.call, s.name, s.value); err != nil {
			t.Fatal(err)
		}
	}
	script := r.task(tasks.Settings{Secrets: []string{"MINE"}})
	victim, evil := r.task(tasks.Settings{Type: tasks.Webhook, URL: "https://a.example"}), r.task(tasks.Settings{Type: tasks.Webhook, URL: "https://evil.example"})
	box := func(customer, kind, owner, name string) []byte {
		list, err := r.db.Secrets(ctx, customer, kind, owner)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			if s.Name == name {
				return s.Box
			}
		}
		t.Fatalf("no secret %s of %s %q", name, kind, owner)
		return nil
	}
	put := func(owner, kind, name string, box []byte) {
		err := r.db.Tasks().Change(ctx, authz.Change{Chain: "acme", At: r.now}, func(tx tasks.Tx) (audit.Draft, error) {
			return r.call.Draft("test", audit.Resource{}), tx.PutSecret(ctx, vault.Sealed{Label: vault.Label{Customer: "acme", Kind: kind, Owner: owner, Name: name}, Box: box, EndsAt: latchkey.Never})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	r.script = func(ctx context.Context, job tasks.ScriptJob) (tasks.Outcome, error) {
		if v, err := job.Host.Secret(ctx, "MINE"); err == nil || v != "" {
			t.Errorf("it reads %q", v)
		}
		return tasks.Outcome{Result: "done"}, nil
	}
	r.request.Snapshot.Template.TriggerTask = script.ID
	for _, b := range [][]byte{box("acme", "secret", "", "ROOT"), box("other", "secret", "", "MINE"), box("acme", "task", victim.ID, "signing")} {
		put("", "secret", "MINE", b)
		r.happens("approved", "")
		r.run(r.runner())
	}
	if len(r.ran) != 3 {
		t.Errorf("the script ran %d times", len(r.ran))
	}
	put(evil.ID, "task", "signing", box("acme", "task", victim.ID, "signing"))
	r.request.Snapshot.Template.TriggerTask = evil.ID
	r.happens("approved", "")
	r.run(r.runner())
	if len(r.posts) != 0 {
		t.Errorf("signed by another's secret: %+v", r.posts)
	}
}

// What a customer's tasks still had to do ends with the customer.
func TestRunner_NothingRunsForACustomerThatHasEnded(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	task := r.task(tasks.Settings{Type: tasks.Webhook, URL: "https://a.example", MaxRetries: 5})
	r.request.Snapshot.Template.TriggerTask, r.request.Snapshot.Template.TriggerFailureMode = task.ID, access.Retry
	r.reply = tasks.Outcome{Error: "the receiver is away"}
	r.happens("approved", "")
	r.run(r.runner())
	if len(r.posts) != 1 || r.runs(task.ID)[0].Status != tasks.Queued {
		t.Fatalf("%d posts, %+v", len(r.posts), r.runs(task.ID))
	}
	if err := authz.NewCustomers(r.db, &cache.Table{}).Delete(ctx, r.call, "acme"); err != nil {
		t.Fatal(err)
	}
	r.pass(time.Hour)
	r.run(r.runner())
	if got := r.runs(task.ID)[0]; len(r.posts) != 1 || got.Status != tasks.Failed {
		t.Errorf("%d posts, %+v", len(r.posts), got)
	}
}
