package authz

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/latchkey-dev/latchkey"
)

// maxPending bounds what waits to be written; beyond it uses are dropped and
// counted, since a last-use time is worth less than memory.
const maxPending = 1 << 16

// Uses gathers last uses and digests to be made again, so that no request
// waits for their writing. A background loop calls RunOnce.
type Uses struct {
	mu      sync.Mutex
	uses    map[KeyID]Use
	digests map[Kid]Rehash
	dropped atomic.Int64
	record  interface {
		WriteUses(context.Context, []Use, []Rehash) error
	}
}

// NewUses makes a gatherer that writes to record.
func NewUses(record Record) *Uses {
	return &Uses{record: record, uses: map[KeyID]Use{}, digests: map[Kid]Rehash{}}
}

// Dropped counts the uses that went unrecorded because too many waited.
func (u *Uses) Dropped() int64 { return u.dropped.Load() }

func (u *Uses) note(peppers *Peppers, token Token, s SecretState, now latchkey.Instant, source netip.Addr) {
	if !s.Key.Touch(now) {
		return
	}
	current, name := peppers.Current()
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.uses) >= maxPending {
		u.dropped.Add(1)
		return
	}
	u.uses[s.Key.ID] = Use{Key: s.Key.ID, At: now, Source: source}
	if s.Pepper != current {
		u.digests[token.Kid] = Rehash{Kid: token.Kid, Digest: peppers.Digest(current, token), Pepper: name}
	}
}

// noteRoot has the root key's digest made again under the current pepper.
func (u *Uses) noteRoot(peppers *Peppers, token Token, root *RootKey) {
	current, name := peppers.Current()
	if !root.stale(current) {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.digests[token.Kid] = Rehash{Kid: token.Kid, Digest: peppers.Digest(current, token), Pepper: name}
}

// RunOnce writes what has gathered and returns how many uses that was. What
// cannot be written is dropped.
func (u *Uses) RunOnce(ctx context.Context) (int, error) {
	u.mu.Lock()
	uses, digests := u.uses, u.digests
	u.uses, u.digests = map[KeyID]Use{}, map[Kid]Rehash{}
	u.mu.Unlock()
	if len(uses) == 0 && len(digests) == 0 {
		return 0, nil
	}
	var list []Use
	for _, use := range uses {
		list = append(list, use)
	}
	var again []Rehash
	for _, d := range digests {
		again = append(again, d)
	}
	if err := u.record.WriteUses(ctx, list, again); err != nil {
		u.dropped.Add(int64(len(list)))
		return 0, fmt.Errorf("write last uses: %w", err)
	}
	return len(list), nil
}
