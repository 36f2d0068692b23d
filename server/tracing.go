package server

import (
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/latchkey-dev/latchkey"
)

// carrier reads the W3C trace context of a request.
type carrier struct{ r *request }

func (c carrier) Get(name string) string {
	if all := c.r.c.Request().Header.PeekAll(name); len(all) == 1 {
		return string(all[0])
	}
	return ""
}
func (carrier) Set(string, string) {}
func (carrier) Keys() []string     { return nil }

// trace makes the request's span, once all of it is known: until then it costs
// nothing. The client's trace is gone on with only where its credential held,
// so that a stranger cannot have every request of theirs recorded. No span
// holds what a client chose, but for the id of the trace.
func (r *request) trace(status int, took time.Duration, refused *latchkey.Error) {
	ctx := noContext
	if r.caller.Customer != nil || r.caller.IsRoot() {
		ctx = propagation.TraceContext{}.Extract(ctx, carrier{r})
	}
	_, span := r.s.cfg.Tracer.Start(ctx, r.route.method+" "+r.route.path, trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(r.start))
	if span.IsRecording() {
		span.SetAttributes(
			attribute.String("http.request.method", r.route.method),
			attribute.String("http.route", r.route.path),
			attribute.Int("http.response.status_code", status),
			attribute.String("latchkey.request_id", r.id),
		)
		if r.caller.Customer != nil {
			span.SetAttributes(attribute.String("latchkey.customer", r.caller.Customer.ID))
		}
		if len(r.decision.Reasons) > 0 && r.route.decision && refused == nil {
			span.SetAttributes(
				attribute.Bool("latchkey.decision", r.decision.Permit),
				attribute.String("latchkey.decision_id", string(r.decision.ID[:])),
				attribute.String("latchkey.reason", string(r.decision.Reasons[0].Code)),
			)
			if p := r.decision.Policy; p != nil {
				span.SetAttributes(attribute.String("latchkey.policy", p.Document.Name), attribute.Int64("latchkey.policy_version", p.Version))
			}
		}
		if refused != nil {
			span.SetAttributes(attribute.String("latchkey.code", refused.Code))
			if status >= 500 {
				span.SetStatus(codes.Error, refused.Code)
			}
		}
	}
	span.End(trace.WithTimestamp(r.start.Add(took)))
}
