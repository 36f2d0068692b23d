package cache

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/feed"
)

// Brief is a source that has others behind it: it is given up after a while, and
// after a failure left alone for a second, so that what it does not answer is
// still answered in time. Safe for concurrent use.
type Brief struct {
	source   Source
	patience time.Duration
	now      func() latchkey.Instant
	again    atomic.Int64
}

// alone is how long a source that has failed is left alone.
const alone = time.Second

// NewBrief makes one that waits for an answer as long as patience.
func NewBrief(source Source, patience time.Duration, now func() latchkey.Instant) *Brief {
	return &Brief{source: source, patience: patience, now: now}
}

// Fetch implements Source.
func (b *Brief) Fetch(ctx context.Context, customer string, ref feed.Ref) (*feed.Record, error) {
	if b.now() < latchkey.Instant(b.again.Load()) {
		return nil, ErrMiss
	}
	ctx, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	rec, err := b.source.Fetch(ctx, customer, ref)
	if err != nil && !errors.Is(err, ErrMiss) && latchkey.KindOf(err) != latchkey.NotFound {
		b.again.Store(int64(b.now().Add(alone)))
	}
	return rec, err
}
