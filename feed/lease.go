package feed

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkey-dev/latchkey"
)

// Lease is until when a node may decide by what it knows. Safe for concurrent
// use; asking takes no lock.
type Lease struct {
	staleness, skew time.Duration

	mu     sync.Mutex   // held by who renews or compares
	until  atomic.Int64 // latchkey.Instant
	offset atomic.Int64 // of the issuer's clock against the own one, as last seen; time.Duration
	skewed atomic.Bool
}

// NewLease makes one that has run out. A node may be without word for
// staleness; clocks may differ by skew.
func NewLease(staleness, skew time.Duration) *Lease {
	return &Lease{staleness: staleness, skew: skew}
}

// Renew takes in a heartbeat issued at the issuer's time, everything up to
// whose head has been applied. sent is the node's own time when it asked for it,
// or where it did not ask, when it came. An old or late one does not make the
// lease shorter, nor longer than the age of what it tells permits.
func (l *Lease) Renew(issued, sent latchkey.Instant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until.Store(max(l.until.Load(), int64(min(sent, issued.Add(l.skew)).Add(l.staleness))))
}

// Compare judges the own clock by a heartbeat: by one that the node asked for,
// with a round trip from sent to now of less than a second, either way; by any
// other only whether the own clock is behind the issuer's.
func (l *Lease) Compare(issued, sent, now latchkey.Instant, asked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	trip := time.Duration(now-sent) * time.Microsecond
	if asked && trip >= 0 && trip < time.Second {
		offset := time.Duration(issued-(sent+now)/2) * time.Microsecond
		l.judge(offset, offset.Abs()-trip/2 > l.skew)
		return
	}
	if ahead := time.Duration(issued-now) * time.Microsecond; ahead > l.skew {
		l.judge(ahead, true)
	} else if l.skewed.Load() && l.offset.Load() > 0 {
		l.judge(ahead, false)
	}
}

func (l *Lease) judge(offset time.Duration, skewed bool) {
	l.offset.Store(int64(offset))
	l.skewed.Store(skewed)
}

// Until is when the lease runs out by what was heard; whether the clock can be
// trusted is not in it.
func (l *Lease) Until() latchkey.Instant { return latchkey.Instant(l.until.Load()) }

// End is from when on the node may not decide any more: Until, or at once, the
// zero Instant, where the own clock is not to be trusted.
func (l *Lease) End() latchkey.Instant {
	if l.skewed.Load() {
		return 0
	}
	return l.Until()
}

// Offset is how far the issuer's clock is ahead of the own one, as last seen,
// and whether that is more than is permitted.
func (l *Lease) Offset() (time.Duration, bool) {
	return time.Duration(l.offset.Load()), l.skewed.Load()
}

// Holds reports whether the node may decide at now.
func (l *Lease) Holds(now latchkey.Instant) bool { return now < l.End() }
