package main

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey"
)

// A provider that does not answer holds up what asks it, and nothing else; that it
// did, the operator is told.
func TestRequestJobs_GoByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		n := &node{log: slog.New(slog.NewTextHandler(&log, nil)), now: time.Now}
		ctx, end := context.WithTimeout(t.Context(), 10*time.Minute)
		defer end()
		times := 0
		n.repeat(ctx,
			requestJob{"recheck", time.Minute, func(ctx context.Context, _ latchkey.Instant) (int, error) { <-ctx.Done(); return 0, ctx.Err() }},
			requestJob{"escalate", time.Minute, func(context.Context, latchkey.Instant) (int, error) { times++; return 1, nil }})
		if times < 8 {
			t.Errorf("escalated %d times in ten minutes", times)
		}
		if n := strings.Count(log.String(), "job=access_requests_recheck"); n != 1 { // not that of the end
			t.Errorf("told %d times:\n%s", n, &log)
		}
	})
}
