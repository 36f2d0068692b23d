package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/internal/servers"
)

// node is a process of latchkey: a control plane or a sidecar.
type node struct {
	name    string
	base    string // of its API
	private string // of health and metrics
	binary  string
	args    []string
	env     []string
	cmd     *exec.Cmd
	log     *servers.Output
	exited  chan struct{}
	client  *http.Client
}

// newNode prepares one; verb and its flags but for the addresses.
func newNode(tb testing.TB, binary, name string, env []string, args ...string) *node {
	tb.Helper()
	api, private := freeAddress(tb), freeAddress(tb)
	n := &node{
		name: name, base: "http://" + api, private: "http://" + private, binary: binary, env: env,
		args: append(args, "--listen="+api, "--private-listen="+private, "--log-level=warn"),
		log:  &servers.Output{},
		// Probes and load have their connections kept.
		client: &http.Client{Transport: &http.Transport{MaxIdleConns: 512, MaxIdleConnsPerHost: 512}, Timeout: 10 * time.Second},
	}
	tb.Cleanup(func() {
		n.kill()
		n.client.CloseIdleConnections()
		if tb.Failed() && os.Getenv("FLEET_LOG") != "" {
			tb.Logf("%s:\n%s", n.name, n.log)
		}
	})
	return n
}

// freeAddress is one that nobody listens on.
func freeAddress(tb testing.TB) string {
	tb.Helper()
	at, err := servers.FreeAddress()
	if err != nil {
		tb.Fatal(err)
	}
	return at
}

// start runs it; it may not be ready yet.
func (n *node) start(tb testing.TB) {
	tb.Helper()
	cmd := exec.Command(n.binary, n.args...)
	cmd.Env = append(os.Environ(), n.env...)
	cmd.Stdout, cmd.Stderr = n.log, n.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("start %s: %v", n.name, err)
	}
	exited := make(chan struct{})
	n.cmd, n.exited = cmd, exited
	go func() {
		_ = cmd.Wait() // what matters is that it has ended
		close(exited)
	}()
}

// ready waits until it says that it is.
func (n *node) ready(tb testing.TB) {
	tb.Helper()
	await(tb, 60*time.Second, n.name+" gets ready", func() error {
		select {
		case <-n.exited:
			tb.Fatalf("%s ended: %v\n%s", n.name, n.cmd.ProcessState, n.log)
		default:
		}
		return n.health()
	})
}

// health is nil once the node says that it is ready.
func (n *node) health() error {
	resp, err := n.client.Get(n.base + "/health/ready")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	return nil
}

func (n *node) running() bool {
	if n.cmd == nil {
		return false
	}
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

func (n *node) signal(tb testing.TB, sig syscall.Signal) {
	tb.Helper()
	if err := n.cmd.Process.Signal(sig); err != nil {
		tb.Fatalf("%s: %v", n.name, err)
	}
}

// kill ends it with no chance to put anything in order.
func (n *node) kill() {
	if n.running() {
		_ = n.cmd.Process.Kill() // it may have ended by itself
		<-n.exited
	}
}

// stop ends it in order.
func (n *node) stop(tb testing.TB) {
	tb.Helper()
	n.signal(tb, syscall.SIGTERM)
	select {
	case <-n.exited:
	case <-time.NewTimer(30 * time.Second).C:
		tb.Fatalf("%s does not end\n%s", n.name, n.log)
	}
}

// await asks until the answer is yes.
func await(tb testing.TB, patience time.Duration, what string, ask func() error) time.Duration {
	tb.Helper()
	began := time.Now()
	for {
		err := ask()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > patience {
			tb.Fatalf("%s: not after %v: %v", what, patience, err)
		}
		pause(5 * time.Millisecond)
	}
}

// pause waits between two looks at something that others change.
func pause(d time.Duration) { <-time.NewTimer(d).C }

// call makes a request and returns the reply, whatever its status.
func (n *node) call(ctx context.Context, key, method, path string, body any, headers ...string) (int, gjson.Result, error) {
	var payload io.Reader
	switch v := body.(type) {
	case nil:
	case string:
		payload = bytes.NewReader([]byte(v))
	default:
		text, err := json.Marshal(body)
		if err != nil {
			return 0, gjson.Result{}, err
		}
		payload = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, n.base+path, payload)
	if err != nil {
		return 0, gjson.Result{}, err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := n.client.Do(req)
	if err != nil {
		return 0, gjson.Result{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, gjson.Result{}, err
	}
	return resp.StatusCode, gjson.ParseBytes(text), nil
}

// must is call for what has to succeed with that status.
func (n *node) must(tb testing.TB, want int, key, method, path string, body any, headers ...string) gjson.Result {
	tb.Helper()
	status, reply, err := n.call(context.Background(), key, method, path, body, headers...)
	if err != nil || status != want {
		tb.Fatalf("%s: %s %s: %d %s %v, want %d", n.name, method, path, status, reply.Raw, err, want)
	}
	return reply
}

// metrics is what it tells of itself.
func (n *node) metrics(tb testing.TB) string {
	tb.Helper()
	resp, err := n.client.Get(n.private + "/metrics")
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		tb.Fatalf("%s: metrics: %s %v", n.name, resp.Status, err)
	}
	return string(text)
}

// answer is a decision as a node made it.
type answer struct {
	allow  bool
	reason string // code of the first one
	// The decision was made between these.
	sent, received time.Time
}

// errStatus is a reply that is no decision.
var errStatus = errors.New("no decision")

// ask asks for one decision, by a body that question.body made.
func (n *node) ask(ctx context.Context, key, body string) (a answer, err error) {
	a.sent = time.Now()
	status, reply, err := n.call(ctx, key, http.MethodPost, "/decision", body)
	a.received = time.Now()
	if err != nil {
		return a, err
	}
	if status != http.StatusOK {
		return a, fmt.Errorf("%w: %s answered %d %s", errStatus, n.name, status, reply.Raw)
	}
	a.allow, a.reason = reply.Get("decision").Bool(), reply.Get("context.reasons.0.code").String()
	return a, nil
}

// question is what is asked of nodes: whether a subject may read a document.
type question struct {
	typ, id  string
	resource string
}

func (q question) body() string {
	text, err := json.Marshal(map[string]any{"subject": map[string]string{"type": q.typ, "id": q.id},
		"action": map[string]string{"name": "read"}, "resource": map[string]string{"type": "documents", "id": q.resource}})
	if err != nil {
		panic(err) // texts
	}
	return string(text)
}
