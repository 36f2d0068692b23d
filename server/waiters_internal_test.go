package server

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestWait_EndsWithWhateverComesFirst(t *testing.T) {
	const never = time.Hour
	for name, tt := range map[string]struct {
		change, look, over, stop time.Duration
		want                     woken
		after                    time.Duration
	}{
		"a change":           {change: 20 * time.Millisecond, look: 100 * time.Millisecond, over: never, stop: never, want: byChange, after: 20 * time.Millisecond},
		"a time to look":     {change: never, look: 100 * time.Millisecond, over: never, stop: never, want: byChange, after: 100 * time.Millisecond},
		"the end, none":      {change: never, over: 200 * time.Millisecond, stop: never, want: byEnd, after: 200 * time.Millisecond},
		"the end, before it": {change: never, look: 300 * time.Millisecond, over: 200 * time.Millisecond, stop: never, want: byEnd, after: 200 * time.Millisecond},
		"the server's stop":  {change: never, look: 300 * time.Millisecond, over: never, stop: 30 * time.Millisecond, want: byEnd, after: 30 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &Server{stopping: make(chan struct{})}
				changed := make(chan struct{})
				defer time.AfterFunc(tt.change, func() { close(changed) }).Stop()
				defer time.AfterFunc(tt.stop, func() { close(s.stopping) }).Stop()
				waiters := newWaiters(1, 1)
				w := (&request{s: s}).wait(waiters, "acme", tt.over)
				if (&request{s: s}).wait(waiters, "acme", tt.over) != nil {
					t.Error("there was no place for another one")
				}
				began := time.Now()
				if got := w.until(changed, tt.look); got != tt.want || time.Since(began) != tt.after {
					t.Errorf("%d after %v, want %d after %v", got, time.Since(began), tt.want, tt.after)
				}
				w.end()
				if n := waiters.waiting(); n != 0 {
					t.Errorf("%d wait", n)
				}
			})
		})
	}
}
