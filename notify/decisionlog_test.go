package notify_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/notify"
)

// opaEvent has the members of logs.EventV1 of OPA v1.22.2 (v1/plugins/logs),
// whose package drags in a server.
type opaEvent struct {
	Labels              map[string]string `json:"labels"`
	DecisionID          string            `json:"decision_id"`
	BatchDecisionID     string            `json:"batch_decision_id"`
	TraceID             string            `json:"trace_id"`
	SpanID              string            `json:"span_id"`
	Revision            string            `json:"revision"`
	Bundles             map[string]struct{ Revision string }
	Path                string           `json:"path"`
	Query               string           `json:"query"`
	Input               *any             `json:"input"`
	Result              *any             `json:"result"`
	IntermediateResults map[string]any   `json:"intermediate_results"`
	MappedResult        *any             `json:"mapped_result"`
	NDBuiltinCache      *any             `json:"nd_builtin_cache"`
	Erased              []string         `json:"erased"`
	Masked              []string         `json:"masked"`
	RequestedBy         string           `json:"requested_by"`
	Timestamp           time.Time        `json:"timestamp"`
	Metrics             map[string]any   `json:"metrics"`
	RequestID           uint64           `json:"req_id"`
	RuleLabels          []map[string]any `json:"rule_labels"`
	Custom              map[string]any   `json:"custom"`
}

func record(id string) *audit.DecisionRecord {
	return &audit.DecisionRecord{
		ID: id, At: latchkey.InstantOf(time.Date(2026, 11, 21, 22, 10, 0, 5000, time.UTC)), Took: 1500, Path: "latchkey/decision", RequestedBy: "192.0.2.1",
		Customer: "acme", RequestID: "r1", Caller: "lk1_live_000000000000",
		Input: []byte(`{"subject":{"type":"user","id":"u"},"context":{"pin":"1234","ok":1}}`), Result: []byte(`{"decision":true}`),
	}
}

// open makes a log that ends with the test.
func open(t *testing.T, cfg notify.DecisionLogConfig) (*notify.DecisionLog, func(metric string) string) {
	t.Helper()
	cfg.Registry = prometheus.NewRegistry()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Buffer == 0 {
		cfg.Buffer = 1 << 20
	}
	cfg.Redact = func(s string) string { return strings.ReplaceAll(s, "SECRET", "[redacted]") }
	cfg.Labels = map[string]string{"id": "node-1", "version": "1"}
	cfg.RetryMin, cfg.RetryMax = time.Millisecond, 5*time.Millisecond
	l, err := notify.NewDecisionLog(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = l.Close(ctx) // most tests have closed it
	})
	return l, func(metric string) string {
		w := httptest.NewRecorder()
		promhttp.HandlerFor(cfg.Registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		for line := range strings.Lines(w.Body.String()) {
			if name, value, _ := strings.Cut(strings.TrimSpace(line), " "); name == metric || name == `latchkey_decision_log_events_total{result="`+metric+`"}` {
				return value
			}
		}
		return "no metric " + metric
	}
}

func closed(t *testing.T, l *notify.DecisionLog) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := l.Close(ctx); err != nil {
		t.Error(err)
	}
}

func until(t *testing.T, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline.C:
			t.Fatal("it never came to that")
		case <-tick.C:
		}
	}
}

// The members are those of OPA's own type, and mean the same.
func TestDecisionLog_EventsHaveOPAsForm(t *testing.T) {
	masks, err := audit.ParseMasks([]string{"/input/context/pin", "/input/nothing"})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	l, metric := open(t, notify.DecisionLogConfig{Sink: notify.NewWriterSink(&out), Masks: masks, SampleAllows: 1})
	r := record("dec_1")
	l.Log(r, 0)
	for _, b := range [][]byte{r.Input, r.Result} { // a reused buffer
		for i := range b {
			b[i] = 'x'
		}
	}
	closed(t, l)
	d := json.NewDecoder(strings.NewReader(out.String()))
	d.DisallowUnknownFields()
	var e opaEvent
	if err := d.Decode(&e); err != nil {
		t.Fatalf("%v in %s", err, &out)
	}
	input, _ := json.Marshal(e.Input)
	result, _ := json.Marshal(e.Result)
	if e.DecisionID != "dec_1" || e.Path != "latchkey/decision" || e.RequestedBy != "192.0.2.1" || e.RequestID != 1 || e.Labels["id"] != "node-1" ||
		!e.Timestamp.Equal(time.Date(2026, 11, 21, 22, 10, 0, 5000, time.UTC)) || e.Metrics["timer_server_handler_ns"] != 1500.0 ||
		string(input) != `{"context":{"ok":1},"subject":{"id":"u","type":"user"}}` || string(result) != `{"decision":true}` ||
		fmt.Sprint(e.Erased) != "[/input/context/pin]" || e.Custom["customer"] != "acme" || e.Custom["request_id"] != "r1" || e.Custom["caller"] != "lk1_live_000000000000" {
		t.Errorf("%s", &out)
	}
	if got := metric("delivered"); got != "1" {
		t.Errorf("delivered %s", got)
	}
}

func TestDecisionLog_RedactsWhatHidesBehindEscapes(t *testing.T) {
	var out bytes.Buffer
	l, _ := open(t, notify.DecisionLogConfig{Sink: notify.NewWriterSink(&out), SampleAllows: 1})
	r := record("1")
	r.Input = []byte(`{"context":{"a":"SEC\u0052ET","SE\u0043RET":1}}`)
	l.Log(r, 0)
	r.Input = []byte(`{"context":`) // cannot be, and is then left out
	l.Log(r, 0)
	closed(t, l)
	if got := out.String(); strings.Contains(got, "SECRET") || strings.Contains(got, `\u00`) || strings.Count(got, "[redacted]") != 2 ||
		!strings.Contains(got, `"erased":["/input"]`) || strings.Count(got, "\n") != 2 {
		t.Error(got)
	}
}

func TestDecisionLog_SamplingThinsAllowsAndNeverDenies(t *testing.T) {
	l, metric := open(t, notify.DecisionLogConfig{Sink: notify.NewWriterSink(io.Discard), SampleAllows: 0.1})
	allows := 0
	for range 10_000 {
		if l.Wants(true) {
			allows++
		}
		if !l.Wants(false) {
			t.Fatal("a deny is left out")
		}
	}
	if allows < 800 || allows > 1200 || metric("sampled_out") != fmt.Sprint(10_000-allows) {
		t.Errorf("%d allows kept, %s left out", allows, metric("sampled_out"))
	}
}

// target is OPA's decision log service, which a test may slow down or break.
type target struct {
	*httptest.Server
	mu      sync.Mutex
	ids     []string
	uploads int
	largest int                                                      // upload, in bytes
	answer  func(w http.ResponseWriter, r *http.Request, n int) bool // true: it has answered
}

func newTarget(t *testing.T) *target {
	s := &target{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		s.mu.Lock()
		s.uploads++
		n, answer := s.uploads, s.answer
		s.largest = max(s.largest, len(body))
		s.mu.Unlock()
		if answer != nil && answer(w, r, n) {
			return
		}
		var events []opaEvent
		z, zerr := gzip.NewReader(bytes.NewReader(body))
		if err == nil && zerr == nil {
			err = json.NewDecoder(z).Decode(&events)
		}
		if err = errors.Join(err, zerr); err != nil || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Content-Encoding") != "gzip" || r.Method != http.MethodPost || r.URL.Path != "/logs" {
			t.Errorf("%s %s %v: %v", r.Method, r.URL, r.Header, err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for i := range events {
			s.ids = append(s.ids, events[i].DecisionID)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *target) answers(answer func(w http.ResponseWriter, r *http.Request, n int) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// got returns how many events have come, and complains of any that came twice
// or out of order.
func (s *target) got(t *testing.T) int {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]bool{}
	for _, id := range s.ids {
		if seen[id] {
			t.Errorf("%s came twice", id)
		}
		seen[id] = true
	}
	return len(s.ids)
}

func (s *target) sink(t *testing.T, change func(*notify.UploadConfig)) notify.Sink {
	t.Helper()
	cfg := notify.UploadConfig{URL: s.URL + "/logs"}
	if change != nil {
		change(&cfg)
	}
	sink, err := notify.NewUploadSink(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return sink
}

func TestUpload_SendsChunksOfBoundedSizeAndAllOfThemAtTheEnd(t *testing.T) {
	s := newTarget(t)
	token := "one"
	s.answers(func(w http.ResponseWriter, r *http.Request, n int) bool {
		if want := map[bool]string{true: "Bearer one", false: "Bearer two"}[n == 1]; r.Header.Get("Authorization") != want {
			t.Errorf("upload %d: %q", n, r.Header.Get("Authorization"))
		}
		return false
	})
	sink := s.sink(t, func(c *notify.UploadConfig) {
		c.Chunk = 4 << 10
		c.Token = func() (string, error) { was := token; token = "two"; return was, nil }
	})
	l, metric := open(t, notify.DecisionLogConfig{Sink: sink, SampleAllows: 1, Delay: time.Hour}) // it ends with the log
	noise := rand.NewChaCha8([32]byte{})
	for i := range 300 {
		r := record(fmt.Sprint(i))
		random := make([]byte, 300)
		_, _ = noise.Read(random)
		r.Input = fmt.Appendf(nil, `{"context":{"noise":"%x"}}`, random)
		if !l.Log(r, 0) {
			t.Fatal("refused")
		}
	}
	closed(t, l)
	if got := s.got(t); got != 300 || metric("delivered") != "300" || metric("latchkey_decision_log_buffer_bytes") != "0" {
		t.Errorf("%d came, %s delivered, %s bytes wait", got, metric("delivered"), metric("latchkey_decision_log_buffer_bytes"))
	}
	if s.largest > 4<<10 || s.uploads < 300*300/(4<<10) {
		t.Errorf("%d uploads, the largest of %d bytes", s.uploads, s.largest)
	}
}

// A target that is down: memory stays within the buffer, every loss is counted,
// and what was kept arrives when the target is back.
func TestDecisionLog_DropCountsEveryLossWhileTheTargetIsDown(t *testing.T) {
	s := newTarget(t)
	s.answers(func(w http.ResponseWriter, _ *http.Request, _ int) bool { w.WriteHeader(503); return true })
	var log bytes.Buffer
	l, metric := open(t, notify.DecisionLogConfig{Sink: s.sink(t, nil), SampleAllows: 1, Buffer: 64 << 10, Log: slog.New(slog.NewJSONHandler(&log, nil))})
	for i := range 5000 {
		if !l.Log(record(fmt.Sprint(i)), 0) {
			t.Fatal("a decision was refused")
		}
		if bytes := metric("latchkey_decision_log_buffer_bytes"); i%500 == 0 && (len(bytes) > 5 || bytes > "65536" && len(bytes) == 5) {
			t.Fatalf("%s bytes wait", bytes)
		}
	}
	until(t, func() bool { return metric("latchkey_decision_log_failures_total") > "2" })
	s.answers(nil)
	closed(t, l)
	dropped := 0
	if _, err := fmt.Sscan(metric("dropped"), &dropped); err != nil || dropped == 0 || dropped == 5000 || dropped+s.got(t) != 5000 {
		t.Errorf("%d dropped, %d came", dropped, s.got(t))
	}
	if n := strings.Count(log.String(), "does not take"); n != 1 || !strings.Contains(log.String(), "answered 503") || !strings.Contains(log.String(), "again") {
		t.Errorf("the outage is told %d times:\n%s", n, &log)
	}
}

// With block a decision waits for room, and without it is not given: nothing is
// lost and nobody waits for ever.
func TestDecisionLog_BlockPressesBackAndLosesNothing(t *testing.T) {
	s := newTarget(t)
	gate := make(chan struct{})
	s.answers(func(http.ResponseWriter, *http.Request, int) bool { <-gate; return false })
	l, metric := open(t, notify.DecisionLogConfig{Sink: s.sink(t, nil), SampleAllows: 1, Buffer: 8 << 10, Block: true})
	taken := 0
	for l.Log(record(fmt.Sprint(taken)), 20*time.Millisecond) {
		if taken++; taken > 1000 {
			t.Fatal("the buffer has no end")
		}
	}
	if taken == 0 || metric("refused") != "1" || metric("dropped") != "0" {
		t.Fatalf("%d taken, %s refused", taken, metric("refused"))
	}
	waited := make(chan bool)
	go func() { waited <- l.Log(record("last"), time.Minute) }()
	close(gate)
	if !<-waited {
		t.Error("it did not wait for room")
	}
	closed(t, l)
	if got := s.got(t); got != taken+1 {
		t.Errorf("%d came of %d", got, taken+1)
	}
}

// Whoever waits for room does not wait for a batch to fill.
func TestDecisionLog_WantOfRoomEndsTheDelay(t *testing.T) {
	s := newTarget(t)
	l, _ := open(t, notify.DecisionLogConfig{Sink: s.sink(t, nil), SampleAllows: 1, Buffer: 8 << 10, Block: true, Delay: time.Hour})
	small, large := record("small"), record("large")
	large.Input = []byte(`{"context":{"pad":"` + strings.Repeat("x", 8<<10) + `"}}`)
	if !l.Log(small, 0) || !l.Log(large, 20*time.Second) {
		t.Error("there was no room for it")
	}
	closed(t, l)
	if got := s.got(t); got != 2 {
		t.Errorf("%d came", got)
	}
}

func TestUpload_TriesAgainButNeverFollowsARedirect(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	defer elsewhere.Close()
	s := newTarget(t)
	s.answers(func(w http.ResponseWriter, r *http.Request, n int) bool {
		switch n {
		case 1:
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		case 2:
			w.WriteHeader(401)
		case 3:
			w.WriteHeader(429)
		case 4:
			panic(http.ErrAbortHandler) // the connection breaks
		default:
			return false
		}
		return true
	})
	l, metric := open(t, notify.DecisionLogConfig{Sink: s.sink(t, nil), SampleAllows: 1})
	for i := range 10 {
		l.Log(record(fmt.Sprint(i)), 0)
	}
	closed(t, l)
	if got := s.got(t); got != 10 || metric("latchkey_decision_log_failures_total") != "4" {
		t.Errorf("%d came after %s failures", got, metric("latchkey_decision_log_failures_total"))
	}
}

// One event that the target never takes must not hold up all the others.
func TestUpload_AnEventThatIsRefusedForGoodIsCounted(t *testing.T) {
	s := newTarget(t)
	var seen sync.Map
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		text, _ := io.ReadAll(z)
		if bytes.Contains(text, []byte(`"poison"`)) {
			w.WriteHeader(400)
			return
		}
		var events []opaEvent
		if err := json.Unmarshal(text, &events); err != nil {
			t.Error(err)
		}
		for i := range events {
			seen.Store(events[i].DecisionID, true)
		}
	})
	l, metric := open(t, notify.DecisionLogConfig{Sink: s.sink(t, nil), SampleAllows: 1, Delay: time.Hour})
	for i := range 20 {
		id := fmt.Sprint(i)
		if i == 13 {
			id = "poison"
		}
		l.Log(record(id), 0)
	}
	closed(t, l)
	n := 0
	seen.Range(func(any, any) bool { n++; return true })
	if n != 19 || metric("rejected") != "1" || metric("delivered") != "19" {
		t.Errorf("%d came, %s rejected, %s delivered", n, metric("rejected"), metric("delivered"))
	}
}

// A target that hangs at the end: the process ends all the same, and says what
// was lost.
func TestDecisionLog_SaysWhatIsLeftAtTheEnd(t *testing.T) {
	s := newTarget(t)
	hang := make(chan struct{})
	defer close(hang)
	s.answers(func(http.ResponseWriter, *http.Request, int) bool { <-hang; return true })
	var log bytes.Buffer
	l, metric := open(t, notify.DecisionLogConfig{Sink: s.sink(t, nil), SampleAllows: 1, Log: slog.New(slog.NewJSONHandler(&log, nil))})
	for i := range 7 {
		l.Log(record(fmt.Sprint(i)), 0)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := l.Close(ctx); err == nil || !strings.Contains(err.Error(), "7 decisions") || metric("undelivered") != "7" || !strings.Contains(log.String(), `"undelivered":7`) {
		t.Errorf("%v, %s undelivered, log %s", err, metric("undelivered"), &log)
	}
	if !l.Log(record("late"), time.Second) || metric("dropped") != "1" {
		t.Errorf("after the end %s were dropped", metric("dropped"))
	}
}

func TestFile_IsItsOwnersAloneAndFollowsRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "decisions.log")
	sink, err := notify.NewFileSink(path)
	if err != nil {
		t.Fatal(err)
	}
	l, metric := open(t, notify.DecisionLogConfig{Sink: sink, SampleAllows: 1})
	log := func(id string) {
		t.Helper()
		was := metric("delivered")
		l.Log(record(id), 0)
		until(t, func() bool { return metric("delivered") != was })
	}
	log("one")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if err := os.Rename(path, path+".1"); err != nil { // logrotate's way
		t.Fatal(err)
	}
	log("two")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	log("three")
	closed(t, l)
	for name, id := range map[string]string{path + ".1": "one", path: "three"} {
		text, err := os.ReadFile(name)
		if err != nil || strings.Count(string(text), "\n") != 1 || !strings.Contains(string(text), `"decision_id":"`+id+`"`) {
			t.Errorf("%s: %s %v", name, text, err)
		}
	}
}

// meager takes a few bytes a time and then has no room for a while.
type meager struct {
	bytes.Buffer
	n int
}

func (w *meager) Write(p []byte) (int, error) {
	if w.n++; w.n%3 == 0 {
		return 0, errors.New("no space left on device")
	}
	if n := 700; len(p) > n {
		_, _ = w.Buffer.Write(p[:n])
		return n, errors.New("no space left on device")
	}
	return w.Buffer.Write(p)
}

// A disk that is full for a while tears no line and doubles none.
func TestLines_AreWholeAfterShortWrites(t *testing.T) {
	var w meager
	l, metric := open(t, notify.DecisionLogConfig{Sink: notify.NewWriterSink(&w), SampleAllows: 1})
	for i := range 50 {
		l.Log(record(fmt.Sprint("dec_", i)), 0)
	}
	closed(t, l)
	i := 0
	for line := range strings.Lines(w.String()) {
		var e opaEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.DecisionID != fmt.Sprint("dec_", i) {
			t.Fatalf("line %d: %v in %s", i, err, line)
		}
		i++
	}
	if i != 50 || metric("delivered") != "50" {
		t.Errorf("%d lines, %s delivered", i, metric("delivered"))
	}
}

func TestUpload_RefusesURLsThatHoldMoreThanAPlace(t *testing.T) {
	for _, u := range []string{"", "ftp://x/logs", "http://", "https://user:secret@host/logs", "https://host/logs#x", "://"} {
		if _, err := notify.NewUploadSink(notify.UploadConfig{URL: u}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", u, err)
		}
	}
}
