package feed

import (
	"sync"
	"time"

	"github.com/latchkey-dev/latchkey"
)

// Lease is until when a node may decide by what it knows. Safe for concurrent
// use.
type Lease struct {
	staleness, skew time.Duration

	mu     sync.Mutex
	until  latchkey.Instant
	offset time.Duration // of the issuer's clock against the own one, as last seen
	skewed bool
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
	l.until = max(l.until, min(sent, issued.Add(l.skew)).Add(l.staleness))
}

// Compare judges the own clock by a heartbeat: by one that the node asked for,
// with a round trip from sent to now of less than a second, either way; by any
// other only whether the own clock is behind the issuer's.
func (l *Lease) Compare(issued, sent, now latchkey.Instant, asked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	trip := time.Duration(now-sent) * time.Microsecond
	if asked && trip >= 0 && trip < time.Second {
		l.offset = time.Duration(issued-(sent+now)/2) * time.Microsecond
		l.skewed = l.offset.Abs()-trip/2 > l.skew
		return
	}
	if ahead := time.Duration(issued-now) * time.Microsecond; ahead > l.skew {
		l.offset, l.skewed = ahead, true
	} else if l.skewed && l.offset > 0 {
		l.offset, l.skewed = ahead, false
	}
}

// Until is when the lease runs out.
func (l *Lease) Until() latchkey.Instant {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.until
}

// Offset is how far the issuer's clock is ahead of the own one, as last seen,
// and whether that is more than is permitted.
func (l *Lease) Offset() (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.offset, l.skewed
}

// Holds reports whether the node may decide at now.
func (l *Lease) Holds(now latchkey.Instant) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.skewed && now < l.until
}
