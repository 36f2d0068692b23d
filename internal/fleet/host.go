package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// host is to this program what a test is to tests: whoever starts servers is
// given one, tells it of failures, and leaves with it how to end them.
type host struct {
	testing.TB // nil: what is not below is not used

	ctx     context.Context
	cleanup []func()
	failed  []error
}

// errStopped ends a run that said why.
var errStopped = errors.New("stopped")

// hosted runs do with a host, then what it left to be done at the end.
func hosted(ctx context.Context, do func(testing.TB) error) error {
	h := &host{ctx: ctx}
	var err error
	done := make(chan struct{})
	go func() { // Fatal ends it
		defer close(done)
		err = errStopped
		err = do(h)
	}()
	<-done
	for len(h.cleanup) > 0 {
		last := h.cleanup[len(h.cleanup)-1]
		h.cleanup = h.cleanup[:len(h.cleanup)-1]
		done := make(chan struct{})
		go func() {
			defer close(done)
			last()
		}()
		<-done
	}
	if errors.Is(err, errStopped) {
		err = nil // told by what is in failed
	}
	return errors.Join(append(h.failed, err)...)
}

func (h *host) Helper() {}

func (h *host) Name() string { return "fleet" }

func (h *host) Context() context.Context { return h.ctx }

func (h *host) Cleanup(f func()) { h.cleanup = append(h.cleanup, f) }

func (h *host) Failed() bool { return len(h.failed) > 0 }

func (h *host) Error(args ...any) {
	h.failed = append(h.failed, errors.New(fmt.Sprint(args...)))
}

func (h *host) Errorf(format string, args ...any) {
	h.failed = append(h.failed, fmt.Errorf(format, args...))
}

func (h *host) Fatal(args ...any) {
	h.Error(args...)
	runtime.Goexit()
}

func (h *host) Fatalf(format string, args ...any) {
	h.Errorf(format, args...)
	runtime.Goexit()
}

func (h *host) Skipf(format string, args ...any) { h.Fatalf(format, args...) }

func (h *host) Logf(format string, args ...any) { progress(format, args...) }

func (h *host) TempDir() string {
	dir, err := os.MkdirTemp("", "latchkey-fleet-")
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			h.Error(err)
		}
	})
	return dir
}

var began = time.Now()

// progress tells whoever waits what is going on.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "# %4.0f s: "+format+"\n", append([]any{time.Since(began).Seconds()}, args...)...)
}
