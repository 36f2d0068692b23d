package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/deliveries"
	"github.com/latchkey-dev/latchkey/notify/sandbox"
	"github.com/latchkey-dev/latchkey/tasks"
)

// TaskExecutor does what tasks say: it runs scripts in a sandbox and sends what
// webhooks are to be told, both by way of the guard. Safe for concurrent use.
type TaskExecutor struct {
	guard   *Guard
	client  *http.Client
	scripts *sandbox.Runner
}

var (
	_ tasks.Executor = (*TaskExecutor)(nil)
	_ tasks.Checks   = (*TaskExecutor)(nil)
)

// Bounds of what tasks send.
const taskReplyHead = 1 << 10 // kept of a reply that is no success

// NewTaskExecutor makes one; scripts is nil where the operator does not let them
// run.
func NewTaskExecutor(guard *Guard, scripts *sandbox.Runner) *TaskExecutor {
	// How long it may take is the run's to say: a bound of its own, if shorter, would
	// end it before whoever approves gives up.
	return &TaskExecutor{guard: guard, client: guard.Client(0), scripts: scripts}
}

// Close closes its idle connections.
func (x *TaskExecutor) Close() { x.client.CloseIdleConnections() }

// CheckScript implements tasks.Checks.
func (*TaskExecutor) CheckScript(script string) string {
	if err := sandbox.Check(script); err != nil {
		return err.Error()
	}
	return ""
}

// CompileScript implements tasks.Checks.
func (x *TaskExecutor) CompileScript(ctx context.Context, script string) (why string, err error) {
	if x.scripts == nil {
		return "", nil // nor would it ever be run
	}
	if why, err = x.scripts.Compile(ctx, script); err != nil {
		err = latchkey.Errorf(latchkey.Unavailable, "script_not_checked", "whether the script compiles could not be told; try again").Because(err)
	}
	return why, err
}

// CheckURL implements tasks.Checks.
func (x *TaskExecutor) CheckURL(pointer, url string) error { return x.guard.CheckURL(pointer, url) }

// RunScript implements tasks.Executor.
func (x *TaskExecutor) RunScript(ctx context.Context, job tasks.ScriptJob) (tasks.Outcome, error) {
	if x.scripts == nil {
		return tasks.Outcome{Error: "this server does not run scripts"}, nil
	}
	got, err := x.scripts.Run(ctx, sandbox.Job{Script: job.Script, Config: job.Config, Host: &scriptHost{x, job.Host}})
	if err != nil {
		return tasks.Outcome{}, err
	}
	return tasks.Outcome{Output: got.Output, Cut: got.Cut, Result: got.Result, Error: got.Error, TimedOut: got.TimedOut}, nil
}

// Post implements tasks.Executor: a message signed by Standard Webhooks. A status
// from 200 to 299 is success.
func (x *TaskExecutor) Post(ctx context.Context, m tasks.Message) tasks.Outcome {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.URL, bytes.NewReader(m.Body))
	if err != nil {
		return tasks.Outcome{Error: "the URL is not one to send to"}
	}
	at := m.At.Time()
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", taskAgent)
	req.Header.Set("webhook-id", m.ID)
	req.Header.Set("webhook-timestamp", strconv.FormatInt(at.Unix(), 10))
	req.Header.Set("webhook-signature", deliveries.Sign([][]byte{m.Key}, m.ID, at, m.Body))
	res, err := x.client.Do(req)
	if err != nil {
		return tasks.Outcome{Error: unreached(err).Error(), TimedOut: ctx.Err() != nil}
	}
	defer func() { _ = res.Body.Close() }()
	o := tasks.Outcome{Result: fmt.Sprintf("HTTP %d", res.StatusCode)}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		head, _ := io.ReadAll(io.LimitReader(res.Body, taskReplyHead)) // what has come of it
		o.Output, o.Error = strings.ToValidUTF8(string(head), "\uFFFD"), fmt.Sprintf("the receiver answered with status %d", res.StatusCode)
	}
	return o
}

const taskAgent = "latchkey-task"

// unreached says why a request got no reply, and nothing of the network inside.
func unreached(err error) error {
	switch {
	case AddressRefused(err):
		return errors.New("the URL leads to an address that is not public, and that the operator has not allowed")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return errors.New("there was no reply in time")
	}
	return errors.New("the URL cannot be reached")
}

// scriptHost answers a script.
type scriptHost struct {
	executor *TaskExecutor
	host     tasks.Host
}

// Secret implements sandbox.Host.
func (h *scriptHost) Secret(ctx context.Context, name string) (string, error) {
	return h.host.Secret(ctx, name)
}

// Approvers implements sandbox.Host.
func (h *scriptHost) Approvers(ctx context.Context, request string) ([]sandbox.Approver, error) {
	parties, err := h.host.Approvers(ctx, request)
	list := make([]sandbox.Approver, len(parties))
	for i, p := range parties {
		list[i] = approver(p)
	}
	return list, err
}

func approver(p access.Party) sandbox.Approver {
	return sandbox.Approver{ID: p.ID, Email: p.Email, Name: p.Name}
}

// Fetch implements sandbox.Host. It sends what every client does and nothing that
// a script could not say itself.
func (h *scriptHost) Fetch(ctx context.Context, r sandbox.Request) (sandbox.Answer, error) {
	if err := h.executor.guard.CheckURL("", r.URL); err != nil {
		return sandbox.Answer{}, err
	}
	var body io.Reader // nil for no body, and then no Content-Length
	if r.Method == http.MethodPost {
		body = bytes.NewReader(r.Body)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, body)
	if err != nil {
		return sandbox.Answer{}, errors.New("the request is not well-formed")
	}
	req.Header.Set("User-Agent", taskAgent)
	if r.ContentType != "" {
		req.Header.Set("Content-Type", r.ContentType)
	}
	res, err := h.executor.client.Do(req)
	if err != nil {
		return sandbox.Answer{}, unreached(err)
	}
	defer func() { _ = res.Body.Close() }()
	got, err := io.ReadAll(io.LimitReader(res.Body, sandbox.MaxBody+1))
	switch {
	case err != nil:
		return sandbox.Answer{}, errors.New("the reply broke off")
	case len(got) > sandbox.MaxBody:
		return sandbox.Answer{}, fmt.Errorf("the reply is longer than %d bytes", sandbox.MaxBody)
	}
	a := sandbox.Answer{Status: res.StatusCode, Header: map[string]string{}, Body: got}
	for name := range res.Header {
		a.Header[name] = res.Header.Get(name)
	}
	return a, nil
}
