package server

import (
	"net/netip"
	"sync"
	"time"

	"github.com/latchkey-dev/latchkey/authz"
)

const (
	// burstSeconds is how many seconds' worth of failures may come at once.
	burstSeconds = 10
	// maxSources bounds the memory of the limiter.
	maxSources = 1 << 16
)

// failureLimiter is a token bucket a source of failed authentications. It is
// asked only after a failure, so a credential that holds is never refused.
type failureLimiter struct {
	rate, burst float64

	mu      sync.Mutex
	buckets map[netip.Addr]bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newFailureLimiter(rate float64) *failureLimiter {
	return &failureLimiter{rate: rate, burst: rate * burstSeconds, buckets: map[netip.Addr]bucket{}}
}

// allow takes one token of the source's, and reports whether there was one.
func (l *failureLimiter) allow(source netip.Addr, now time.Time) bool {
	source = authz.Network(source)
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.buckets[source]
	if !ok {
		if len(l.buckets) >= maxSources {
			l.forget(now)
		}
		b = bucket{tokens: l.burst, at: now}
	}
	b.tokens = min(l.burst, b.tokens+l.rate*max(0, now.Sub(b.at).Seconds()))
	b.at = now
	if b.tokens < 1 {
		l.buckets[source] = b
		return false
	}
	b.tokens--
	l.buckets[source] = b
	return true
}

// forget drops the buckets that are full again, and if none are, all of them:
// an attacker with 65,536 networks is not stopped by counting them.
func (l *failureLimiter) forget(now time.Time) {
	for source, b := range l.buckets {
		if b.tokens+l.rate*now.Sub(b.at).Seconds() >= l.burst {
			delete(l.buckets, source)
		}
	}
	if len(l.buckets) >= maxSources {
		clear(l.buckets)
	}
}
