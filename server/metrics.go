package server

import (
	"context"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/policies"
)

// metrics are the server's own; labels never hold a customer, a key or
// anything else that a client chooses.
type metrics struct {
	seconds      *prometheus.HistogramVec
	decisions    []decisionCounter
	other        prometheus.Counter
	deciding     [3]prometheus.Observer // by policy: none of the customer's, CEL, Rego
	failures     map[policies.Failure]prometheus.Counter
	forwards     *prometheus.CounterVec
	authFailures prometheus.Counter
	unrouted     prometheus.Counter
	panics       prometheus.Counter
}

// decisionCounter counts decisions by their result and first reason.
type decisionCounter struct {
	permit bool
	reason authz.ReasonCode
	count  prometheus.Counter
}

// observers are a route's histograms by class of status, found once.
type observers struct {
	seconds [6]prometheus.Observer
}

func newMetrics(registry *prometheus.Registry) *metrics {
	m := &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "latchkey_http_request_duration_seconds", Help: "Time from a request's headers and body being read to its reply.",
			Buckets: prometheus.ExponentialBuckets(1e-6, 4, 13), // 1 µs to 16 s
		}, []string{"method", "route", "status"}),
		authFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "latchkey_auth_failures_total", Help: "Requests with a credential that did not hold."}),
		unrouted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "latchkey_http_unrouted_total", Help: "Requests that reached no route: unknown paths, wrong methods, malformed or oversized."}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "latchkey_http_panics_total", Help: "Requests that were answered 500 because of a bug."}),
	}
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "latchkey_decisions_total", Help: "Decisions made, by their first reason."}, []string{"result", "reason"})
	for _, c := range []struct {
		permit  bool
		reasons []authz.ReasonCode
	}{
		{true, []authz.ReasonCode{authz.ScopePermits, authz.PolicyRule, authz.PolicyDefault, authz.GrantPermits}},
		{false, []authz.ReasonCode{authz.ScopeMissing, authz.PolicyRule, authz.PolicyDefault, authz.PolicyError, authz.KeyUnknown, authz.KeyExpired,
			authz.KeyRevoked, authz.SubjectNotAllowed, authz.ValueNotPermitted, authz.NoGrant, authz.NotReady, authz.Stale,
			noRoute, ambiguousPath, invalidOriginal, credentialInPath}},
	} {
		result := "deny"
		if c.permit {
			result = "allow"
		}
		for _, code := range c.reasons {
			m.decisions = append(m.decisions, decisionCounter{c.permit, code, decisions.WithLabelValues(result, string(code))})
		}
	}
	deciding := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "latchkey_decision_duration_seconds", Help: "Time to make a decision, without HTTP, by the language of the policy that was asked.",
		Buckets: prometheus.ExponentialBuckets(1e-6, 2, 18), // 1 µs to 131 ms
	}, []string{"policy"})
	for i, language := range []string{"builtin", "cel", "rego"} {
		m.deciding[i] = deciding.WithLabelValues(language)
	}
	errors := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "latchkey_policy_errors_total", Help: "Evaluations of a policy that came to nothing, and so denied."}, []string{"failure"})
	m.failures = map[policies.Failure]prometheus.Counter{}
	for _, f := range policies.Failures() {
		m.failures[f] = errors.WithLabelValues(string(f))
	}
	m.other = decisions.WithLabelValues("deny", "other")
	m.forwards = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "latchkey_forward_answers_total", Help: "Answers to proxies, by the way they ask and the status they got."}, []string{"dialect", "status"})
	for _, dialect := range []string{"nginx", "forwarded", "envoy", "grpc"} { // told from the start
		for _, status := range []string{"200", "401", "403"} {
			m.forwards.WithLabelValues(dialect, status)
		}
	}
	registry.MustRegister(m.seconds, decisions, deciding, errors, m.forwards, m.authFailures, m.unrouted, m.panics)
	return m
}

// took records how long a decision was in the making.
func (m *metrics) took(d *authz.Decision, t time.Duration) {
	language := 0
	if d.Policy != nil {
		if language = 1; d.Policy.Document.Language == policies.Rego {
			language = 2
		}
	}
	m.deciding[language].Observe(t.Seconds())
}

func (m *metrics) decided(d *authz.Decision) {
	if d.Failure != nil {
		m.failures[d.Failure.Failure].Inc()
	}
	if len(d.Reasons) > 0 {
		m.decidedBy(d.Permit, d.Reasons[0].Code)
		return
	}
	m.other.Inc()
}

func (m *metrics) decidedBy(permit bool, code authz.ReasonCode) {
	for i := range m.decisions { // few, the common ones first
		if m.decisions[i].reason == code && m.decisions[i].permit == permit {
			m.decisions[i].count.Inc()
			return
		}
	}
	m.other.Inc()
}

func (m *metrics) route(method, path string) (o observers) {
	for i := range o.seconds {
		o.seconds[i] = m.seconds.WithLabelValues(method, path, strconv.Itoa(i)+"xx")
	}
	return o
}

// class is the first digit of a status.
func class(status int) int { return min(max(status/100, 0), 5) }

func stack() string { return string(debug.Stack()) }

// noContext is for calls that want a context and wait for nothing.
var noContext = context.Background()
