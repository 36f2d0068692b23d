package cache

import (
	"sync"
	"sync/atomic"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
)

// shards is how many locks the table has; a power of two.
const shards = 256

// Table holds every access key and customer: about 210 bytes a key beside its
// scopes, which equal keys share. Ended keys stay, so that a refusal can say
// what became of them. Safe for concurrent use; the zero Table is empty.
type Table struct {
	secrets [shards]shard[authz.Kid, authz.SecretState]
	keys    [shards]shard[authz.KeyID, *authz.KeyState]

	mu        sync.RWMutex
	customers map[string]*authz.Customer

	lookups atomic.Int64
}

var _ authz.KeyTable = (*Table)(nil)

// shard is a map that only grows. Its values stand side by side in chunks, and
// the index into them holds no pointers: a map of the values themselves stands
// half empty, and the collector would walk all of it.
type shard[K comparable, V any] struct {
	mu    sync.RWMutex
	index map[K]uint32
	list  [][]V
}

// chunk is how many values stand side by side.
const chunk = 64

func (s *shard[K, V]) get(k K) (v V, ok bool) {
	s.mu.RLock()
	i, ok := s.index[k]
	if ok {
		v = s.list[i/chunk][i%chunk]
	}
	s.mu.RUnlock()
	return v, ok
}

// update puts what change makes of the present value, which is the zero V
// where there is none.
func (s *shard[K, V]) update(k K, change func(V, bool) V) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.index[k]; ok {
		at := &s.list[i/chunk][i%chunk]
		*at = change(*at, true)
		return
	}
	if s.index == nil {
		s.index = map[K]uint32{}
	}
	i := uint32(len(s.index))
	if i%chunk == 0 {
		s.list = append(s.list, make([]V, chunk))
	}
	var none V
	s.list[i/chunk][i%chunk] = change(none, false)
	s.index[k] = i
}

// Kids and key ids are random, so any of their bytes spread well; a base62
// digit holds less than a byte, hence two.
func kidShard(k authz.Kid) int   { return (int(k[10])*62 + int(k[11])) % shards }
func keyShard(k authz.KeyID) int { return int(k[0]) % shards }

// Secret finds a secret by its kid.
func (t *Table) Secret(kid authz.Kid) (authz.SecretState, bool) {
	t.lookups.Add(1)
	return t.secrets[kidShard(kid)].get(kid)
}

// Lookups counts the calls of Secret.
func (t *Table) Lookups() int64 { return t.lookups.Load() }

// Key finds a key's state, nil when there is none.
func (t *Table) Key(id authz.KeyID) *authz.KeyState {
	k, _ := t.keys[keyShard(id)].get(id)
	return k
}

// AddKey makes a key known; a known one keeps the earlier end.
func (t *Table) AddKey(k *authz.KeyState) { t.know(k) }

func (t *Table) know(k *authz.KeyState) (state *authz.KeyState) {
	t.keys[keyShard(k.ID)].update(k.ID, func(known *authz.KeyState, ok bool) *authz.KeyState {
		state = k
		if ok {
			known.Revoke(k.RevokedAt())
			state = known
		}
		return state
	})
	return state
}

// AddSecret makes a secret known, and its key where it is new. A secret that
// is known already keeps the earlier end.
func (t *Table) AddSecret(kid authz.Kid, s authz.SecretState) {
	s.Key = t.know(s.Key)
	t.secrets[kidShard(kid)].update(kid, func(known authz.SecretState, ok bool) authz.SecretState {
		if ok {
			s.EndsAt = min(s.EndsAt, known.EndsAt)
		}
		return s
	})
}

// EndSecret brings the end of a secret nearer; of one that is not known yet, it
// is kept for when it becomes known.
func (t *Table) EndSecret(kid authz.Kid, at latchkey.Instant) {
	t.secrets[kidShard(kid)].update(kid, func(known authz.SecretState, ok bool) authz.SecretState {
		if !ok {
			return authz.SecretState{EndsAt: at}
		}
		known.EndsAt = min(known.EndsAt, at)
		return known
	})
}

// Customer finds a customer, nil when there is none.
func (t *Table) Customer(id string) *authz.Customer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.customers[id]
}

// Customers counts those that have not ended.
func (t *Table) Customers() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n := 0
	for _, c := range t.customers {
		if !c.Deleted() {
			n++
		}
	}
	return n
}

// AddCustomer makes a customer known; a known one stays.
func (t *Table) AddCustomer(c *authz.Customer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.customers == nil {
		t.customers = map[string]*authz.Customer{}
	}
	if _, ok := t.customers[c.ID]; !ok {
		t.customers[c.ID] = c
	}
}

// Len counts the keys, ended ones too.
func (t *Table) Len() int {
	n := 0
	for i := range t.keys {
		s := &t.keys[i]
		s.mu.RLock()
		n += len(s.index)
		s.mu.RUnlock()
	}
	return n
}
