package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// Sink delivers events to a target. One goroutine calls it.
type Sink interface {
	// Send delivers the first of the events, JSON documents each, in order, and
	// returns how many of them are done with: delivered, and after those
	// rejected, which is refused for good. Those left are sent again. An error
	// says why there is no progress now.
	Send(ctx context.Context, events [][]byte) (delivered, rejected int, err error)
	Close() error
}

// DecisionLogConfig are the settings of a DecisionLog.
type DecisionLogConfig struct {
	Sink Sink
	Log  *slog.Logger
	// Registry takes the metrics.
	Registry *prometheus.Registry
	// Labels name the process in every event.
	Labels map[string]string
	// Buffer is how many bytes of events may wait. An event that is larger alone
	// waits alone.
	Buffer int
	// Block makes a decision wait for room in the buffer; else what finds none
	// is dropped.
	Block bool
	// SampleAllows is the share of allows, 0 to 1, that is kept. Denies always
	// are.
	SampleAllows float64
	Masks        audit.Masks
	// Redact takes credentials out of the text of an event.
	Redact func(string) string
	// Delay is how long the first event of a batch waits for others.
	Delay time.Duration
	// RetryMin and RetryMax bound the wait after a failure, which doubles each
	// time. Defaults 100 ms and 30 s.
	RetryMin, RetryMax time.Duration
}

// Bounds of a batch, which is what is in memory twice.
const (
	batchEvents = 512
	batchBytes  = 1 << 20
)

// DecisionLog buffers decisions and delivers them in the background. Safe for
// concurrent use.
type DecisionLog struct {
	cfg    DecisionLogConfig
	labels []byte
	results
	failures prometheus.Counter
	number   atomic.Uint64 // of decisions

	mu      sync.Mutex
	queue   []audit.DecisionEvent
	waiting int  // bytes of what is queued and of what is being sent
	pending int  // events likewise
	pressed bool // one found no room: it is no time to wait for more
	closing bool
	room    chan struct{} // closed and made anew when room becomes free

	more   chan struct{} // something was queued, or the log is closing
	closed chan struct{} // the log is closing
	ended  chan struct{} // the sender has
	cancel context.CancelFunc
}

// results count what became of every decision.
type results struct {
	delivered, dropped, refused, rejected, undelivered, sampled prometheus.Counter
}

// NewDecisionLog makes a log and starts its sender; Close ends it.
func NewDecisionLog(cfg DecisionLogConfig) (*DecisionLog, error) {
	labels, err := json.Marshal(cfg.Labels)
	if err != nil {
		return nil, fmt.Errorf("labels of the decision log: %w", err)
	}
	if cfg.RetryMin == 0 {
		cfg.RetryMin = 100 * time.Millisecond
	}
	if cfg.RetryMax == 0 {
		cfg.RetryMax = 30 * time.Second
	}
	events := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "latchkey_decision_log_events_total",
		Help: "Decisions by what became of them in the decision log: delivered; dropped, for want of room; refused, the decision with them; rejected by the target; undelivered at the end; sampled_out, as configured.",
	}, []string{"result"})
	l := &DecisionLog{
		cfg: cfg, labels: labels,
		results: results{
			delivered: events.WithLabelValues("delivered"), dropped: events.WithLabelValues("dropped"), refused: events.WithLabelValues("refused"),
			rejected: events.WithLabelValues("rejected"), undelivered: events.WithLabelValues("undelivered"), sampled: events.WithLabelValues("sampled_out"),
		},
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "latchkey_decision_log_failures_total", Help: "Attempts to deliver decisions that failed."}),
		room: make(chan struct{}), more: make(chan struct{}, 1), closed: make(chan struct{}), ended: make(chan struct{}),
	}
	cfg.Registry.MustRegister(events, l.failures, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "latchkey_decision_log_buffer_bytes", Help: "Memory of the decisions that wait to be delivered."}, func() float64 {
		l.mu.Lock()
		defer l.mu.Unlock()
		return float64(l.waiting)
	}))
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	go l.run(ctx)
	return l, nil
}

// Wants reports whether the next decision of this outcome is to be logged. It
// draws, so it is asked once a decision.
func (l *DecisionLog) Wants(permit bool) bool {
	if !permit || l.cfg.SampleAllows >= 1 || rand.Float64() < l.cfg.SampleAllows {
		return true
	}
	l.sampled.Inc()
	return false
}

// Log takes a decision, keeping nothing of r. False says that it could not be
// taken and that the decision must not be given: never when losses are
// accepted, else after wait.
func (l *DecisionLog) Log(r *audit.DecisionRecord, wait time.Duration) bool {
	e := r.Event(l.labels, l.number.Add(1))
	var timer *time.Timer
	for {
		room, queued := l.offer(&e)
		switch {
		case queued:
			return true
		case !l.cfg.Block:
			l.dropped.Inc()
			return true
		case timer == nil:
			timer = time.NewTimer(wait)
			defer timer.Stop()
		}
		select {
		case <-room:
		case <-timer.C:
			l.refused.Inc()
			return false
		case <-l.closed:
			l.refused.Inc()
			return false
		}
	}
}

// offer queues the event if there is room, and else returns what to wait for.
func (l *DecisionLog) offer(e *audit.DecisionEvent) (room <-chan struct{}, queued bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if queued = !l.closing && (l.waiting == 0 || l.waiting+e.Size() <= l.cfg.Buffer); queued {
		l.queue = append(l.queue, *e)
		l.waiting += e.Size()
		l.pending++
	} else {
		l.pressed = true
	}
	select {
	case l.more <- struct{}{}:
	default:
	}
	return l.room, queued
}

// Close takes no more decisions and delivers those that were taken, until ctx
// ends. What is then left is lost: counted and logged.
func (l *DecisionLog) Close(ctx context.Context) error {
	l.mu.Lock()
	if !l.closing {
		l.closing = true
		close(l.closed)
	}
	l.mu.Unlock()
	defer l.cancel()
	select {
	case <-l.ended:
		return l.cfg.Sink.Close()
	case <-ctx.Done():
	}
	l.mu.Lock()
	left := l.pending
	l.mu.Unlock()
	l.undelivered.Add(float64(left))
	l.cfg.Log.Error("decision_log", "problem", "the target did not take all decisions before the end", "undelivered", left)
	return fmt.Errorf("decision log: %d decisions were not delivered", left)
}

// run is the sender.
func (l *DecisionLog) run(ctx context.Context) {
	defer close(l.ended)
	var doc strictjson.Doc
	for l.gather(ctx) {
		batch := l.take()
		texts := make([][]byte, len(batch))
		sizes := make([]int, len(batch))
		for i := range batch {
			texts[i], sizes[i] = batch[i].Append(nil, &doc, l.cfg.Masks, l.cfg.Redact), batch[i].Size()
			batch[i] = audit.DecisionEvent{}
		}
		if !l.send(ctx, texts, sizes) {
			return
		}
	}
}

// gather waits for events, and for more of them as configured. False: there
// will be none.
func (l *DecisionLog) gather(ctx context.Context) bool {
	for {
		l.mu.Lock()
		queued, closing := len(l.queue), l.closing
		l.mu.Unlock()
		switch {
		case queued > 0 && (closing || l.cfg.Delay == 0):
			return true
		case queued > 0:
			l.linger(ctx)
			return ctx.Err() == nil
		case closing:
			return false
		}
		select {
		case <-l.more:
		case <-l.closed:
		case <-ctx.Done():
			return false
		}
	}
}

// linger waits for a batch to fill, for the delay at most.
func (l *DecisionLog) linger(ctx context.Context) {
	timer := time.NewTimer(l.cfg.Delay)
	defer timer.Stop()
	for {
		l.mu.Lock()
		full := l.pressed || l.waiting >= min(batchBytes, l.cfg.Buffer/2) || len(l.queue) >= batchEvents
		l.mu.Unlock()
		if full {
			return
		}
		select {
		case <-l.more:
		case <-timer.C:
			return
		case <-l.closed:
			return
		case <-ctx.Done():
			return
		}
	}
}

// take removes a batch from the queue; what it holds still counts as waiting.
func (l *DecisionLog) take() []audit.DecisionEvent {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pressed = false
	n, bytes := 0, 0
	for n < len(l.queue) && n < batchEvents && (n == 0 || bytes+l.queue[n].Size() <= batchBytes) {
		bytes += l.queue[n].Size()
		n++
	}
	batch := make([]audit.DecisionEvent, n)
	copy(batch, l.queue)
	clear(l.queue[:n])
	if l.queue = l.queue[n:]; len(l.queue) == 0 {
		l.queue = nil // its array has grown with the burst
	}
	return batch
}

// send delivers a batch, however often it takes, until ctx ends.
func (l *DecisionLog) send(ctx context.Context, texts [][]byte, sizes []int) bool {
	wait, failing := l.cfg.RetryMin, false
	for len(texts) > 0 {
		delivered, rejected, err := l.cfg.Sink.Send(ctx, texts)
		n := delivered + rejected
		l.delivered.Add(float64(delivered))
		l.rejected.Add(float64(rejected))
		l.release(sizes[:n])
		texts, sizes = texts[n:], sizes[n:]
		if rejected > 0 {
			l.cfg.Log.Error("decision_log", "problem", "the target refused decisions for good", "rejected", rejected)
		}
		if err == nil {
			if failing {
				l.cfg.Log.Info("decision_log", "status", "the target takes decisions again")
			}
			wait, failing = l.cfg.RetryMin, false
			continue
		}
		if ctx.Err() != nil {
			return false
		}
		l.failures.Inc()
		if !failing { // once an outage
			l.cfg.Log.Warn("decision_log", "problem", "the target does not take decisions; trying again", "error", err.Error())
		}
		failing = true
		if !l.pause(ctx, wait) {
			return false
		}
		wait = min(2*wait, l.cfg.RetryMax)
	}
	return true
}

// pause waits before another attempt; at the end of the process it is short.
func (l *DecisionLog) pause(ctx context.Context, wait time.Duration) bool {
	closed := l.closed
	select {
	case <-l.closed:
		wait, closed = l.cfg.RetryMin, nil
	default:
	}
	timer := time.NewTimer(wait/2 + rand.N(wait/2+1)) // jitter
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-closed:
	case <-ctx.Done():
		return false
	}
	return true
}

// release makes room for those who wait for it.
func (l *DecisionLog) release(sizes []int) {
	if len(sizes) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range sizes {
		l.waiting -= n
	}
	l.pending -= len(sizes)
	close(l.room)
	l.room = make(chan struct{})
}
