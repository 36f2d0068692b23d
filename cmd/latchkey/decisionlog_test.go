package main

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/internal/servers"
)

// decisions asks n different questions of a server and returns the ids of the
// answers. Every tenth is an allow.
func decisions(t *testing.T, p *process, root string, n int) (ids []string) {
	t.Helper()
	status, key, err := p.send(context.Background(), root, http.MethodPost, "/v1/access_keys", newKeyBody("asked"))
	if err != nil || status != http.StatusCreated {
		t.Fatalf("%d %s %v", status, key.Raw, err)
	}
	for i := range n {
		action := "delete"
		if i%10 == 0 {
			action = "read"
		}
		status, reply, err := p.send(context.Background(), root, http.MethodPost, "/decision", map[string]any{
			"subject": map[string]any{"type": "access_key", "properties": map[string]any{"key": key.Get("key").String()}}, "action": map[string]any{"name": action},
			"resource": map[string]any{"type": "policies", "id": fmt.Sprint("p", i)}, "context": map[string]any{"password": "hunter2", "n": i}})
		if err != nil || status != http.StatusOK {
			t.Fatalf("%d %s %v", status, reply.Raw, err)
		}
		ids = append(ids, reply.Get("context.decision_id").String())
	}
	return ids
}

// holds checks that the events are those of the decisions, in order, masked.
func holdsDecisions(t *testing.T, text string, ids []string) {
	t.Helper()
	var got []string
	for line := range strings.Lines(text) {
		if e := gjson.Parse(line); e.Get("decision_id").Exists() {
			got = append(got, e.Get("decision_id").String())
			if e.Get("erased").Raw != `["/input/context/password"]` || e.Get("input.context.n").Int() != int64(len(got)-1) || e.Get("input.subject.properties.key").Exists() ||
				e.Get("labels.id").String() == "" || e.Get("req_id").Int() != int64(len(got)) {
				t.Errorf("%s", line)
			}
		}
	}
	if strings.Join(got, " ") != strings.Join(ids, " ") {
		t.Errorf("%d events for %d decisions", len(got), len(ids))
	}
	if strings.Contains(text, "hunter2") {
		t.Error("what is masked is in the log")
	}
}

const maskPassword = "--decision-log-mask=/input/context/password"

func decisionLogServer(t *testing.T, args ...string) (p *process, root string) {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	p, err := startServer(data, []string{"LATCHKEY_DECISION_LOG_TOKEN=s3cret"}, append([]string{maskPassword}, args...), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		select {
		case <-p.exited:
		default:
			_ = p.end(syscall.SIGKILL)
		}
	})
	if root, err = rootKey(data); err != nil {
		t.Fatal(err)
	}
	return p, root
}

func TestDecisionLog_ToStandardOutput(t *testing.T) {
	t.Parallel()
	p, root := decisionLogServer(t, "--decision-log=stdout")
	ids := decisions(t, p, root, 25)
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Fatalf("%v\n%s", err, p.err)
	}
	holdsDecisions(t, p.out.String(), ids)
}

func TestDecisionLog_ToAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "decisions.log")
	p, root := decisionLogServer(t, "--decision-log=file:"+path)
	ids := decisions(t, p, root, 25)
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Fatalf("%v\n%s", err, p.err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	holdsDecisions(t, string(text), ids)
}

// What waits to be uploaded when the signal comes is uploaded before the
// process ends, though the target fails at first.
func TestDecisionLog_NothingIsLostAtSIGTERM(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got strings.Builder
	failures := 2
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if failures--; failures >= 0 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		var events []json.RawMessage
		z, err := gzip.NewReader(r.Body)
		if err == nil {
			err = json.NewDecoder(z).Decode(&events)
		}
		if err != nil || r.Header.Get("Authorization") != "Bearer s3cret" {
			t.Errorf("%v %v", err, r.Header)
		}
		for _, e := range events {
			fmt.Fprintf(&got, "%s\n", e)
		}
	}))
	defer target.Close()
	p, root := decisionLogServer(t, "--decision-log="+target.URL+"/logs", "--decision-log-delay=1h")
	ids := decisions(t, p, root, 200)
	mu.Lock()
	if got.Len() != 0 {
		t.Error("they did not wait")
	}
	mu.Unlock()
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Fatalf("%v\n%s", err, p.err)
	}
	mu.Lock()
	defer mu.Unlock()
	holdsDecisions(t, got.String(), ids)
	if strings.Contains(p.err.String()+p.out.String(), "s3cret") {
		t.Error("the token is in the log")
	}
}

// A target that never answers must not keep the process, nor hide what was lost.
func TestDecisionLog_CountsWhatATargetThatHangsDidNotTake(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer target.Close()
	defer close(hang)
	p, root := decisionLogServer(t, "--decision-log="+target.URL, "--stop-timeout=1s")
	ids := decisions(t, p, root, 10)
	if err := p.end(syscall.SIGTERM); err == nil {
		t.Error("it ended as if all were well")
	}
	if !strings.Contains(p.err.String(), fmt.Sprintf(`"undelivered":%d`, len(ids))) {
		t.Errorf("%s", p.err)
	}
}

func TestDecisionLog_CountsWhatFoundNoRoom(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-hang
	}))
	defer target.Close()
	defer close(hang)
	private, err := servers.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	p, root := decisionLogServer(t, "--decision-log="+target.URL, "--decision-log-buffer=1048576", "--stop-timeout=1s", "--private-listen="+private)
	begun := time.Now()
	pad := strings.Repeat("x", 100<<10)
	for i := range 20 { // 2 MiB
		status, reply, err := p.send(context.Background(), root, http.MethodPost, "/decision", map[string]any{
			"subject": map[string]any{"type": "user", "id": "u"}, "action": map[string]any{"name": "read"}, "resource": map[string]any{"type": "doc", "id": fmt.Sprint(i)}, "context": map[string]any{"pad": pad}})
		if err != nil || status != http.StatusOK {
			t.Fatalf("%d %s %v", status, reply.Raw, err)
		}
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("the decisions waited: %v", took)
	}
	resp, err := http.Get("http://" + private + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), `latchkey_decision_log_events_total{result="dropped"} 10`) && !strings.Contains(string(text), `latchkey_decision_log_events_total{result="dropped"} 11`) {
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "latchkey_decision_log") {
				t.Error(line)
			}
		}
	}
}

func TestDecisionLog_SettingsThatCannotBeMeantAreRefused(t *testing.T) {
	t.Setenv("LATCHKEY_DECISION_LOG_TOKEN", "s3cret")
	for _, args := range [][]string{
		{"--decision-log=nowhere"}, {"--decision-log=file:"}, {"--decision-log=ftp://x/"}, {"--decision-log=http://logs.example.com/logs"},
		{"--decision-log=stdout", "--decision-log-mask=password"}, {"--decision-log-buffer=10"}, {"--decision-log-sample-allows=1.5"},
		{"--decision-log-overflow=explode"}, {"--decision-log-delay=-1s"}, {"--decision-log=https://user:pw@host/logs"},
	} {
		var out, errs strings.Builder
		code := run(context.Background(), append([]string{"serve", "--data", t.TempDir(), "--listen", "127.0.0.1:0", "--private-listen", ""}, args...), streams{strings.NewReader(""), &out, &errs})
		if code != exitUsage || strings.Contains(errs.String(), "s3cret") {
			t.Errorf("%v: exit code %d, %s", args, code, &errs)
		}
	}
}
