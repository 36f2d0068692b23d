package authz

import (
	"context"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// turnWait is how long an evaluation waits for its turn.
const turnWait = 50 * time.Millisecond

// turns bounds how many evaluations of a customer's policies run at once, so
// that one customer's heavy policy leaves processors to the others.
type turns struct {
	once  sync.Once
	slots *semaphore.Weighted
}

// take waits for a turn, turnWait at most, and reports whether it came; give
// hands it on.
func (t *turns) take(atOnce int) bool {
	t.once.Do(func() { t.slots = semaphore.NewWeighted(int64(max(1, atOnce))) })
	for range 4 { // most evaluations are over in a microsecond
		if t.slots.TryAcquire(1) {
			return true
		}
		runtime.Gosched()
	}
	ctx, cancel := context.WithTimeout(context.Background(), turnWait)
	defer cancel()
	return t.slots.Acquire(ctx, 1) == nil
}

func (t *turns) give() { t.slots.Release(1) }
