package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/deliveries"
	"github.com/latchkey-dev/latchkey/internal/vault"
	"github.com/latchkey-dev/latchkey/tasks"
)

// SenderConfig are the settings of a Sender.
type SenderConfig struct {
	Queue deliveries.Queue
	Vault *vault.Vault
	Guard *Guard
	// Mail sends e-mail; nil for none.
	Mail *Mail
	Log  *slog.Logger
	// Registry takes the metrics.
	Registry *prometheus.Registry
	Now      func() latchkey.Instant
	// Redact takes credentials out of a text.
	Redact func(string) string
	// Jitter is from 0 up to 1, drawn for each wait; nil is random.
	Jitter func() float64
	// Timeout bounds one attempt; default 15 s.
	Timeout time.Duration
	// Concurrency is how many attempts are under way at most; default 32. Half of
	// them are one customer's at most, and PerTarget, default 2, one target's: a
	// receiver that does not answer keeps nobody else waiting.
	Concurrency, PerTarget int
}

// Sender makes the attempts of deliveries. Several processes may run one each.
type Sender struct {
	cfg    SenderConfig
	client *http.Client

	attempts *prometheus.CounterVec
	ended    *prometheus.CounterVec
	duration prometheus.Histogram

	mu       sync.Mutex
	running  int
	customer map[string]int
	target   map[string]int
	last     string // target that was served last
	freed    chan struct{}
	under    sync.WaitGroup
}

// NewSender makes a sender.
func NewSender(cfg SenderConfig) *Sender {
	if cfg.Timeout == 0 {
		cfg.Timeout = 15 * time.Second
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = 32
	}
	if cfg.PerTarget == 0 {
		cfg.PerTarget = 2
	}
	if cfg.Jitter == nil {
		cfg.Jitter = rand.Float64
	}
	s := &Sender{
		cfg: cfg, client: cfg.Guard.Client(cfg.Timeout), customer: map[string]int{}, target: map[string]int{}, freed: make(chan struct{}, 1),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "latchkey_delivery_attempts_total", Help: "Attempts to deliver an event, by channel and result."}, []string{"channel", "result"}),
		ended:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "latchkey_deliveries_total", Help: "Deliveries that ended, by channel and status: delivered, dead or dropped."}, []string{"channel", "status"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "latchkey_delivery_attempt_seconds", Help: "Time that an attempt took.", Buckets: []float64{.01, .03, .1, .3, 1, 3, 10, 30}}),
	}
	for _, channel := range []deliveries.Channel{deliveries.ByWebhook, deliveries.ByEmail} { // there from the start, so that a first one is a rise
		s.attempts.WithLabelValues(string(channel), deliveries.OK)
		s.ended.WithLabelValues(string(channel), string(deliveries.Delivered))
		s.ended.WithLabelValues(string(channel), string(deliveries.Dead))
		s.ended.WithLabelValues(string(channel), string(deliveries.Dropped))
	}
	cfg.Registry.MustRegister(s.attempts, s.ended, s.duration, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "latchkey_delivery_attempts_running", Help: "Attempts that are under way."}, func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(s.running)
	}))
	return s
}

// Freed tells, after an attempt has ended, that another can begin.
func (s *Sender) Freed() <-chan struct{} { return s.freed }

// Wait waits for the attempts that are under way.
func (s *Sender) Wait() { s.under.Wait() }

// Close ends it, once no attempt is under way.
func (s *Sender) Close() {
	s.under.Wait()
	s.client.CloseIdleConnections()
}

// RunOnce begins as many attempts as are due and may be under way, and returns
// how many; it does not wait for them. ctx is theirs too: one that it ends is due
// again at once.
func (s *Sender) RunOnce(ctx context.Context, now latchkey.Instant) (begun int, err error) {
	due, err := s.cfg.Queue.DueTargets(ctx, now)
	if err != nil {
		return 0, err
	}
	for _, target := range s.inTurn(due) {
		n := s.reserve(target)
		if n == 0 {
			continue
		}
		claimed, err := s.cfg.Queue.Claim(ctx, target.ID, now, n)
		s.release(target, n-len(claimed))
		if err != nil {
			return begun, err
		}
		begun += len(claimed)
		for _, d := range claimed {
			s.under.Go(func() {
				defer s.release(target, 1)
				s.deliver(ctx, d)
			})
		}
	}
	return begun, nil
}

// inTurn puts first whoever comes after the one that was served last.
func (s *Sender) inTurn(due []deliveries.Target) []deliveries.Target {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, t := range due { // in the order of their ids
		if t.ID > s.last {
			return append(due[i:len(due):len(due)], due[:i]...)
		}
	}
	return due
}

// reserve takes places for attempts at a target, as many as there are for it.
func (s *Sender) reserve(t deliveries.Target) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(s.cfg.PerTarget-s.target[t.ID], max(1, s.cfg.Concurrency/2)-s.customer[t.Customer], s.cfg.Concurrency-s.running)
	if n <= 0 {
		return 0
	}
	s.running += n
	s.customer[t.Customer] += n
	s.target[t.ID] += n
	s.last = t.ID
	return n
}

func (s *Sender) release(t deliveries.Target, n int) {
	if n == 0 {
		return
	}
	s.mu.Lock()
	s.running -= n
	if s.customer[t.Customer] -= n; s.customer[t.Customer] == 0 {
		delete(s.customer, t.Customer)
	}
	if s.target[t.ID] -= n; s.target[t.ID] == 0 {
		delete(s.target, t.ID)
	}
	s.mu.Unlock()
	select {
	case s.freed <- struct{}{}:
	default:
	}
}

// deliver makes one attempt and writes what became of it.
func (s *Sender) deliver(ctx context.Context, d deliveries.Delivery) {
	began := s.cfg.Now()
	o := s.attempt(ctx, &d)
	now := s.cfg.Now()
	if o.Result != deliveries.OK && ctx.Err() != nil { // the process ends, not the receiver
		d.NextAt = now
		o = d.Outcome
	} else {
		d = d.After(o, now, s.cfg.Jitter())
		s.attempts.WithLabelValues(string(d.Channel), o.Result).Inc()
		s.duration.Observe((time.Duration(now-began) * time.Microsecond).Seconds())
	}
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	wrote, err := s.cfg.Queue.Finish(finish, d)
	if err != nil { // it is due again after its lease; a receiver tells a repeat by its id
		s.cfg.Log.Warn("delivery", "problem", "what became of an attempt could not be written", "delivery", d.ID, "error", err.Error())
		return
	}
	if !wrote || d.Status == deliveries.Pending {
		return
	}
	s.ended.WithLabelValues(string(d.Channel), string(d.Status)).Inc()
	if d.Status == deliveries.Dead {
		s.cfg.Log.Warn("delivery", "status", "dead", "delivery", d.ID, "customer", d.Customer, "channel", string(d.Channel), "target", d.Target,
			"event", d.Event, "attempts", d.Attempts, "result", o.Result, "reply_status", o.ReplyStatus)
	}
}

func (s *Sender) attempt(ctx context.Context, d *deliveries.Delivery) deliveries.Outcome {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	switch d.Channel {
	case deliveries.ByWebhook:
		return s.post(ctx, d)
	case deliveries.ByEmail:
		return s.mail(ctx, d)
	}
	return deliveries.Outcome{Result: "unknown_channel", Final: true}
}

// unprepared is the outcome of an attempt that did not get as far as sending.
func (s *Sender) unprepared(d *deliveries.Delivery, err error) deliveries.Outcome {
	if latchkey.KindOf(err) == latchkey.NotFound {
		return deliveries.Outcome{Result: "gone", Moot: true} // the webhook, the customer, the person
	}
	if errors.Is(err, deliveries.ErrSecretMissing) {
		return deliveries.Outcome{Result: "secret_missing"}
	}
	s.cfg.Log.Warn("delivery", "problem", "a delivery could not be prepared", "delivery", d.ID, "customer", d.Customer, "error", err.Error())
	return deliveries.Outcome{Result: "not_prepared"}
}

// post makes an attempt at a webhook.
func (s *Sender) post(ctx context.Context, d *deliveries.Delivery) deliveries.Outcome {
	w, err := s.cfg.Queue.Webhook(ctx, d.Customer, d.Target)
	if err != nil {
		return s.unprepared(d, err)
	}
	e, err := s.cfg.Queue.Event(ctx, d.Customer, d.Seq)
	if err != nil {
		return s.unprepared(d, err)
	}
	body, err := deliveries.Message(&e)
	if err != nil {
		return s.unprepared(d, err)
	}
	now := s.cfg.Now()
	secrets, err := deliveries.OpenSecrets(ctx, s.cfg.Queue, s.cfg.Vault, &w, now)
	if err != nil {
		return s.unprepared(d, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return deliveries.Outcome{Result: "invalid_url"}
	}
	for name, value := range secrets.Headers {
		req.Header.Set(name, value)
	}
	sign(req.Header, d.ID, now, secrets, body)
	resp, err := s.client.Do(req)
	if err != nil {
		return deliveries.Outcome{Result: failure(err)}
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		// A short reply is read so that the connection can be used again.
		_, _ = io.CopyN(io.Discard, resp.Body, maxReplyRead)
		return deliveries.Outcome{Result: deliveries.OK, ReplyStatus: resp.StatusCode}
	}
	head, _ := io.ReadAll(io.LimitReader(resp.Body, maxReplyRead)) // what there is of it
	return deliveries.Outcome{
		Result: "http_status", ReplyStatus: resp.StatusCode, ReplyHead: s.redact(string(head), &secrets),
		RetryAfter: retryAfter(resp, now), Final: resp.StatusCode == http.StatusGone, // which asks for an end
	}
}

// sign sets the headers of a webhook's request.
func sign(h http.Header, id string, now latchkey.Instant, secrets deliveries.Secrets, body []byte) {
	h.Set("Content-Type", "application/json")
	h.Set("User-Agent", "latchkey")
	h.Set("webhook-id", id)
	h.Set("webhook-timestamp", strconv.FormatInt(now.Time().Unix(), 10))
	h.Set("webhook-signature", deliveries.Sign(secrets.Keys, id, now.Time(), body))
	if secrets.Compat != nil {
		at := deliveries.IndentTime(now.Time())
		h.Set("X-Indent-Timestamp", at)
		h.Set("X-Indent-Signature", deliveries.SignIndent(secrets.Compat, at, body))
	}
}

// failure says in a word why a request came to nothing. The error itself may hold
// the URL, and addresses of names that are nobody's business.
func failure(err error) string {
	var dns *net.DNSError
	var timeout net.Error
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	var unknown x509.UnknownAuthorityError
	switch {
	case AddressRefused(err):
		return "address_refused"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.As(err, &dns):
		return "name_not_resolved"
	case errors.As(err, &certificate), errors.As(err, &record), errors.As(err, &alert), errors.As(err, &unknown):
		return "tls_failed"
	}
	return "connection_failed"
}

// What is read of a reply, and kept of one that is no success.
const (
	maxReplyRead = 8 << 10
	maxReplyKept = 256 // characters
)

// redact keeps the beginning of a reply, without what was sent for the receiver's
// eyes alone and without anything like a credential.
func (s *Sender) redact(text string, secrets *deliveries.Secrets) string {
	var hidden []string
	for _, value := range secrets.Headers {
		hidden = append(hidden, value)
		if _, credential, found := strings.Cut(value, " "); found { // Bearer …
			hidden = append(hidden, credential)
		}
	}
	text = tasks.Redactor(append(hidden, string(secrets.Compat)))(strings.ToValidUTF8(text, ""))
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s.cfg.Redact(text))
	for i, n := 0, 0; i < len(text); n++ {
		if n == maxReplyKept {
			return text[:i]
		}
		_, size := utf8.DecodeRuneInString(text[i:])
		i += size
	}
	return text
}

// retryAfter reads when a receiver wants to be asked again.
func retryAfter(resp *http.Response, now latchkey.Instant) time.Duration {
	text := resp.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now.Time()))
	}
	return 0
}
