package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.40.0"
	"go.opentelemetry.io/otel/trace"
)

// Tracing are the flags of traces; without an endpoint there are none.
type Tracing struct {
	OTLPEndpoint string  `help:"URL of an OpenTelemetry collector (OTLP over HTTP) that request spans go to; none where empty. OTEL_EXPORTER_OTLP_HEADERS adds headers." env:"LATCHKEY_OTLP_ENDPOINT" placeholder:"URL"`
	TraceRatio   float64 `help:"Share of requests, 0 to 1, that are traced though their caller does not trace them." default:"0.01" env:"LATCHKEY_TRACE_RATIO"`
}

func (t *Tracing) validate() error {
	if t.TraceRatio < 0 || t.TraceRatio > 1 {
		return usage("--trace-ratio: want 0 to 1")
	}
	if t.OTLPEndpoint == "" {
		return nil
	}
	u, err := url.Parse(t.OTLPEndpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return usage("--otlp-endpoint: want http://HOST:PORT or https://HOST:PORT")
	}
	return nil
}

// startTraces begins to export; flush sends what waits and ends it. Without an
// endpoint the tracer is nil. A collector that is down loses spans, never
// requests.
func (t *Tracing) startTraces(ctx context.Context, node string) (tracer trace.Tracer, flush func(context.Context) error, err error) {
	if t.OTLPEndpoint == "" {
		return nil, func(context.Context) error { return nil }, nil
	}
	endpoint, err := url.JoinPath(t.OTLPEndpoint, "v1/traces")
	if err != nil {
		return nil, nil, usage("--otlp-endpoint: %w", err)
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(endpoint), otlptracehttp.WithTimeout(5*time.Second))
	if err != nil {
		return nil, nil, fmt.Errorf("start traces: %w", err)
	}
	about, err := resource.Merge(resource.Default(), resource.NewSchemaless(
		semconv.ServiceName("latchkey"), semconv.ServiceVersion(version()), semconv.ServiceInstanceID(node)))
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("start traces: %w", err), exporter.Shutdown(ctx))
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(t.TraceRatio))))
	return provider.Tracer("github.com/latchkey-dev/latchkey"), provider.Shutdown, nil
}
