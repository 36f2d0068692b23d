package server_test

import (
	"net/http"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

const (
	traceID     = "4bf92f3577b34da6a3ce929d0e0e4736"
	traceparent = "00-" + traceID + "-00f067aa0ba902b7-01"
)

func traced(t *testing.T, root sdktrace.Sampler) (*api, *tracetest.SpanRecorder) {
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(sdktrace.ParentBased(root)))
	return start(t, func(o *options) { o.config.Tracer = provider.Tracer("test") }), spans
}

func TestTraces_ASpanSaysWhatBecameOfTheRequest(t *testing.T) {
	a, spans := traced(t, sdktrace.AlwaysSample())
	key := a.create(`{"decision":true,"policies":[{"f":"*","p":2}]}`)
	before := len(spans.Ended())
	a.do("POST", "/decision", key.secret, `{"subject":{"type":"access_key","properties":{"key":"`+key.secret+`"}},"action":{"name":"read"},"resource":{"type":"policies","id":"x"}}`, "traceparent", traceparent)
	a.do("GET", "/v1/access_keys?status=nonsense", a.root, "")
	ended := spans.Ended()[before:]
	if len(ended) != 2 {
		t.Fatalf("%d spans", len(ended))
	}
	got := map[string]string{}
	for _, s := range ended {
		for _, attr := range s.Attributes() {
			got[s.Name()+" "+string(attr.Key)] = attr.Value.String()
			if strings.Contains(attr.Value.String(), secretPart(key.secret)) {
				t.Errorf("%s holds the secret", attr.Key)
			}
		}
	}
	for name, want := range map[string]string{
		"POST /decision latchkey.decision": "true", "POST /decision latchkey.reason": "scope_permits", "POST /decision http.response.status_code": "200",
		"POST /decision latchkey.customer": "default", "GET /v1/access_keys http.response.status_code": "400", "GET /v1/access_keys latchkey.code": "invalid_parameter",
	} {
		if got[name] != want {
			t.Errorf("%s = %q, want %q", name, got[name], want)
		}
	}
	if id := ended[0].SpanContext().TraceID().String(); id != traceID {
		t.Errorf("trace %s, want the caller's", id)
	}
}

// A stranger who marks every request as sampled would have all of them
// recorded.
func TestTraces_AStrangersTraceIsNotGoneOnWith(t *testing.T) {
	a, spans := traced(t, sdktrace.NeverSample())
	if r := a.do("POST", "/decision", "lk1_live_nonsense", `{}`, "traceparent", traceparent); r.status != http.StatusUnauthorized {
		t.Fatalf("%d", r.status)
	}
	a.do("GET", "/health/live", "", "", "traceparent", traceparent)
	if n := len(spans.Ended()); n != 0 {
		t.Errorf("%d spans for a stranger", n)
	}
	a.do("GET", "/v1/access_keys", a.root, "", "traceparent", traceparent)
	if n := len(spans.Ended()); n != 1 {
		t.Errorf("%d spans for a caller", n)
	}
}
