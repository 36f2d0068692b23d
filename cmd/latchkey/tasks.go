package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/notify"
	"github.com/latchkey-dev/latchkey/notify/sandbox"
	"github.com/latchkey-dev/latchkey/server"
	"github.com/latchkey-dev/latchkey/tasks"
)

const (
	// scriptsAtOnce is how many scripts may run at a time, one of them for somebody
	// who approves and waits.
	scriptsAtOnce = 4
	taskWorkers   = 3
	// taskTick is how often runs that are due are looked for; a change of a request is
	// noticed at once.
	taskTick  = 2 * time.Second
	taskSweep = 10 * time.Minute
)

// taskRunning is what runs tasks in a node.
type taskRunning struct {
	*tasks.Runner
	executor *notify.TaskExecutor
	wake     chan struct{} // holds one where a request has changed
}

// openTasks gives the server the service of tasks, and makes what runs them. With
// scripts enabled it refuses to start where they cannot be confined.
func (n *node) openTasks(ctx context.Context, scripts bool, cfg *server.Config) error {
	var sandboxed *sandbox.Runner
	if scripts {
		sandboxed = sandbox.New(scriptsAtOnce)
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := sandboxed.Probe(ctx); err != nil {
			return fmt.Errorf("--enable-script-tasks: %w", err)
		}
	}
	t := &taskRunning{executor: notify.NewTaskExecutor(n.guard, sandboxed), wake: make(chan struct{}, 1)}
	record := n.db.Tasks()
	cfg.Tasks = tasks.New(tasks.Config{Record: record, Vault: n.vault, Checks: t.executor, Scripts: scripts})
	t.Runner = tasks.NewRunner(tasks.RunnerConfig{
		Queue: record, Requests: n.db.Access(), Vault: n.vault, Executor: t.executor, Workers: taskWorkers,
		Now: func() latchkey.Instant { return latchkey.InstantOf(n.now()) },
		Troubled: func(_ context.Context, what string, err error) {
			n.log.Warn("background", "job", "tasks", "doing", what, "error", err.Error())
		},
		// What a script says of its failure is with the run, for those who may read it.
		Failed: func(_ context.Context, run tasks.Run) {
			n.log.Warn("task_failed", "customer", run.Customer, "task", run.Task, "run", run.ID, "event", run.Event, "access_request", run.Request,
				"attempt", run.Attempts, "again", run.Status == tasks.Queued, "timed_out", run.TimedOut)
		},
	})
	n.tasks = t
	n.follow.Observe(func(_ string, touched authz.Touched) {
		if slices.Contains(touched.All, feed.Request) || slices.ContainsFunc(touched.Refs, func(r feed.Ref) bool { return r.Kind == feed.Request }) {
			select {
			case t.wake <- struct{}{}:
			default:
			}
		}
	})
	n.registry.MustRegister(&taskMetrics{t.Runner, prometheus.NewDesc("latchkey_task_attempts_total", "Attempts to run a task that this process has made, by outcome.", []string{"outcome"}, nil)})
	return nil
}

// runTasks runs tasks until the context ends.
func (n *node) runTasks(ctx context.Context) {
	defer n.tasks.executor.Close()
	defer n.tasks.Wait()
	tick, sweep := time.NewTicker(taskTick), time.NewTicker(taskSweep)
	defer tick.Stop()
	defer sweep.Stop()
	for {
		now := latchkey.InstantOf(n.now())
		if _, err := n.tasks.RunOnce(ctx, now); err != nil && ctx.Err() == nil {
			n.log.Warn("background", "job", "tasks", "error", err.Error())
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-n.tasks.wake:
		case <-n.tasks.Freed():
		case <-sweep.C:
			if _, err := n.db.SweepRuns(ctx, now, now.Add(-tasks.Kept)); err != nil && ctx.Err() == nil {
				n.log.Warn("background", "job", "task runs", "error", err.Error())
			}
		}
	}
}

// taskMetrics are counts of attempts.
type taskMetrics struct {
	of   *tasks.Runner
	runs *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (m *taskMetrics) Describe(ch chan<- *prometheus.Desc) { ch <- m.runs }

// Collect implements prometheus.Collector.
func (m *taskMetrics) Collect(ch chan<- prometheus.Metric) {
	s := m.of.Stats()
	for outcome, n := range map[string]int64{"succeeded": s.Succeeded, "failed": s.Failed, "retried": s.Retried, "timed_out": s.TimedOut} {
		ch <- prometheus.MustNewConstMetric(m.runs, prometheus.CounterValue, float64(n), outcome)
	}
}

// TasksCmd keeps the tasks that events run.
type TasksCmd struct {
	Create TasksCreateCmd `cmd:"" help:"Make a task: a script, which only the root key may, or a request to a URL."`
	List   TasksListCmd   `cmd:"" help:"List tasks, oldest first."`
	Get    TasksGetCmd    `cmd:"" help:"Show one task."`
	Update TasksUpdateCmd `cmd:"" help:"Change a task; what no flag names stays."`
	Delete TasksDeleteCmd `cmd:"" help:"Delete a task that nothing runs, with its runs."`
	Runs   TasksRunsCmd   `cmd:"" help:"List the runs of a task, newest first."`
}

func taskPath(id string) string { return "/v1/tasks/" + url.PathEscape(id) }

// TasksCreateCmd makes a task.
type TasksCreateCmd struct {
	Remote     `embed:""`
	Name       string   `arg:"" help:"What it is called."`
	Script     string   `help:"File with the Go source of a script; - for standard input." placeholder:"FILE" xor:"what"`
	To         string   `help:"URL that events are posted to, signed." placeholder:"URL" xor:"what"`
	Secret     []string `help:"Name of a secret that the script may read; repeated." placeholder:"NAME"`
	MaxRetries int      `help:"How often a run is made again after a failure, where the failure mode is retry." default:"3"`
}

// Run implements the command.
func (cmd *TasksCreateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	body := map[string]any{"name": cmd.Name, "schedule_type": tasks.ScheduleOnce, "max_retries": cmd.MaxRetries}
	switch {
	case (cmd.Script == "") == (cmd.To == ""):
		return usage("give one of --script and --to")
	case cmd.Script != "":
		text, err := readInput(cmd.Script, std.in)
		if err != nil {
			return err
		}
		body["task_type"], body["script"] = string(tasks.Script), string(text)
		if len(cmd.Secret) > 0 {
			body["secrets"] = cmd.Secret
		}
	case len(cmd.Secret) > 0:
		return usage("--secret is for scripts")
	default:
		body["task_type"], body["url"] = string(tasks.Webhook), cmd.To
	}
	reply, err := cmd.call(ctx, http.MethodPost, "/v1/tasks", body)
	if err != nil || g.JSON {
		return showOne(g, std.out, reply, err)
	}
	members := []string{"id", "name", "task_type", "max_retries"}
	if reply.Get("secret").Exists() {
		members = append(members, "secret") // this once
	}
	return showOne(g, std.out, reply, nil, members...)
}

// TasksListCmd lists tasks.
type TasksListCmd struct {
	Remote `embed:""`
	Limit  int    `help:"Tasks a page, 1 to 200." default:"50"`
	Cursor string `help:"The next_cursor of the page before."`
}

// Run implements the command.
func (cmd *TasksListCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, "/v1/tasks?"+pageOf(cmd.Limit, cmd.Cursor), nil)
	err = showAll(g, std.out, reply, err, "tasks", []string{"ID", "TYPE", "RETRIES", "NAME"}, func(r gjson.Result) []string {
		return []string{r.Get("id").String(), r.Get("task_type").String(), r.Get("max_retries").String(), r.Get("name").String()}
	})
	return showMore(g, std.out, reply, err)
}

func pageOf(limit int, cursor string) string {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	if cursor != "" {
		q.Set("cursor", cursor)
	}
	return q.Encode()
}

// TasksGetCmd shows a task.
type TasksGetCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The task's id."`
}

// Run implements the command.
func (cmd *TasksGetCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, taskPath(cmd.ID), nil)
	if err := showOne(g, std.out, reply, err, "id", "name", "task_type", "url", "secrets", "max_retries", "created_at", "updated_at"); err != nil || g.JSON {
		return err
	}
	if script := reply.Get("script"); script.Exists() {
		fmt.Fprint(std.out, "\n", printableText(script.String()))
		if !strings.HasSuffix(script.String(), "\n") {
			fmt.Fprintln(std.out)
		}
	}
	return nil
}

// TasksUpdateCmd changes a task in place: one that a template or a subscription runs
// cannot be deleted to be made again.
type TasksUpdateCmd struct {
	Remote     `embed:""`
	ID         string   `arg:"" help:"The task's id."`
	Name       string   `help:"What it is called from now on."`
	Script     string   `help:"File with the Go source that a script has from now on; - for standard input." placeholder:"FILE" xor:"what"`
	To         string   `help:"URL that events are posted to from now on." placeholder:"URL" xor:"what"`
	Secret     []string `help:"Names of all secrets that the script may read from now on; repeated." placeholder:"NAME"`
	MaxRetries *int     `help:"How often a run is made again after a failure, where the failure mode is retry."`
}

// Run implements the command.
func (cmd *TasksUpdateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	was, err := cmd.call(ctx, http.MethodGet, taskPath(cmd.ID), nil)
	if err != nil {
		return err
	}
	body := map[string]any{}
	for _, name := range []string{"name", "task_type", "schedule_type", "script", "url", "secrets", "max_retries"} {
		if v := was.Get(name); v.Exists() {
			body[name] = v.Value()
		}
	}
	if cmd.Script != "" {
		text, err := readInput(cmd.Script, std.in)
		if err != nil {
			return err
		}
		body["script"] = string(text)
	}
	if cmd.Name != "" {
		body["name"] = cmd.Name
	}
	if cmd.To != "" {
		body["url"] = cmd.To
	}
	if len(cmd.Secret) > 0 {
		body["secrets"] = cmd.Secret
	}
	if cmd.MaxRetries != nil {
		body["max_retries"] = *cmd.MaxRetries
	}
	reply, err := cmd.call(ctx, http.MethodPut, taskPath(cmd.ID), body)
	return showOne(g, std.out, reply, err, "id", "name", "task_type", "url", "secrets", "max_retries", "created_at", "updated_at")
}

// TasksDeleteCmd deletes a task.
type TasksDeleteCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The task's id."`
}

// Run implements the command.
func (cmd *TasksDeleteCmd) Run(ctx context.Context, g *Globals, std streams) error {
	return cmd.end(ctx, g, std.out, taskPath(cmd.ID), "id", cmd.ID, "deleted")
}

// TasksRunsCmd lists runs.
type TasksRunsCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The task's id."`
	Limit  int    `help:"Runs a page, 1 to 200." default:"50"`
	Cursor string `help:"The next_cursor of the page before."`
}

// Run implements the command.
func (cmd *TasksRunsCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, taskPath(cmd.ID)+"/runs?"+pageOf(cmd.Limit, cmd.Cursor), nil)
	err = showAll(g, std.out, reply, err, "runs", []string{"ID", "EVENT", "REQUEST", "STATUS", "ATTEMPTS", "STARTED", "MS", "RESULT"}, func(r gjson.Result) []string {
		result := r.Get("error").String()
		if result == "" {
			result = r.Get("result").String()
		}
		return []string{r.Get("id").String(), r.Get("trigger_event").String(), r.Get("request_id").String(), r.Get("status").String(), r.Get("attempts").String(),
			dash(r.Get("started_at")), dash(r.Get("duration_ms")), result}
	})
	return showMore(g, std.out, reply, err)
}

// SecretsCmd keeps what scripts read.
type SecretsCmd struct {
	Set    SecretsSetCmd    `cmd:"" help:"Keep a value under a name, sealed; it is never shown again."`
	List   SecretsListCmd   `cmd:"" help:"List the names of secrets."`
	Delete SecretsDeleteCmd `cmd:"" help:"Delete a secret."`
}

func secretPath(name string) string { return "/v1/secrets/" + url.PathEscape(name) }

// SecretsSetCmd sets a secret.
type SecretsSetCmd struct {
	Remote `embed:""`
	Name   string `arg:"" help:"What scripts call it."`
	File   string `help:"File with the value, less one newline at its end; - for standard input. There is no flag for the value itself: others would see it." default:"-" placeholder:"FILE"`
}

// Run implements the command.
func (cmd *SecretsSetCmd) Run(ctx context.Context, g *Globals, std streams) error {
	value, err := readInput(cmd.File, std.in)
	if err != nil {
		return err
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(value), "\n"), "\r")
	reply, err := cmd.call(ctx, http.MethodPut, secretPath(cmd.Name), map[string]string{"value": text})
	return showOne(g, std.out, reply, err, "name", "updated_at")
}

// SecretsListCmd lists secrets.
type SecretsListCmd struct {
	Remote `embed:""`
}

// Run implements the command.
func (cmd *SecretsListCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, "/v1/secrets", nil)
	return showAll(g, std.out, reply, err, "secrets", []string{"NAME", "UPDATED"}, func(r gjson.Result) []string {
		return []string{r.Get("name").String(), r.Get("updated_at").String()}
	})
}

// SecretsDeleteCmd deletes a secret.
type SecretsDeleteCmd struct {
	Remote `embed:""`
	Name   string `arg:"" help:"What scripts call it."`
}

// Run implements the command.
func (cmd *SecretsDeleteCmd) Run(ctx context.Context, g *Globals, std streams) error {
	return cmd.end(ctx, g, std.out, secretPath(cmd.Name), "name", cmd.Name, "deleted")
}
