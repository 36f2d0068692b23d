package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// A collector of our own gets the spans that wait when the process is told to
// stop.
func TestTraces_AreSentBeforeTheEnd(t *testing.T) {
	var mu sync.Mutex
	var got strings.Builder
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		got.WriteString(r.URL.Path + "\n")
		got.Write(body)
	}))
	defer collector.Close()
	p, err := startServer(t.TempDir(), nil, []string{"--otlp-endpoint", collector.URL, "--trace-ratio", "1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(p.url + "/health/live")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, want := range []string{"/v1/traces\n", "GET /health/live", "latchkey", "http.response.status_code"} {
		if !strings.Contains(got.String(), want) {
			t.Errorf("the collector was not told %q", want)
		}
	}
}
