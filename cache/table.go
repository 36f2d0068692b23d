package cache

import (
	"sync"
	"sync/atomic"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/scopes"
)

// shards is how many locks the table has; a power of two. More of them spread
// a small table over more memory than the processor keeps near.
const shards = 64

// Table holds every access key and customer: about 210 bytes a key beside its
// scopes, which equal keys share. Ended keys stay, so that a refusal can say
// what became of them. Safe for concurrent use; the zero Table is empty.
type Table struct {
	secrets [shards]secretShard
	keys    [shards]keyShard

	mu        sync.RWMutex
	customers map[string]*authz.Customer

	lookups atomic.Int64

	// followed holds the ids of customers that have, or had, a key for sidecars.
	followed sync.Map
}

var _ authz.KeyTable = (*Table)(nil)

type keyShard struct {
	mu   sync.RWMutex
	keys map[authz.KeyID]*authz.KeyState
}

// secretShard keeps its secrets side by side in chunks, and an index into them
// that holds no pointers: a map of the secrets themselves would stand half
// empty, and the collector would walk all of it.
type secretShard struct {
	mu      sync.RWMutex
	index   map[authz.Kid]uint32
	secrets [][]authz.SecretState
}

// chunk is how many secrets stand side by side.
const chunk = 64

func (s *secretShard) get(kid authz.Kid) (secret authz.SecretState, ok bool) {
	s.mu.RLock()
	i, ok := s.index[kid]
	if ok {
		secret = s.secrets[i/chunk][i%chunk]
	}
	s.mu.RUnlock()
	return secret, ok
}

// update puts the given secret, at the earlier of its end and that of the one
// that is known already.
func (s *secretShard) update(kid authz.Kid, secret authz.SecretState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.index[kid]; ok {
		known := &s.secrets[i/chunk][i%chunk]
		secret.EndsAt = min(secret.EndsAt, known.EndsAt)
		if secret.Key == nil { // an end, which says nothing else
			known.EndsAt = secret.EndsAt
			return
		}
		*known = secret
		return
	}
	if s.index == nil {
		s.index = map[authz.Kid]uint32{}
	}
	i := uint32(len(s.index))
	if i%chunk == 0 {
		s.secrets = append(s.secrets, make([]authz.SecretState, chunk))
	}
	s.secrets[i/chunk][i%chunk] = secret
	s.index[kid] = i
}

// Kids and key ids are random, so any of their bytes spread well; a base62
// digit holds less than a byte, hence two.
func (t *Table) secretsOf(k authz.Kid) *secretShard {
	return &t.secrets[(int(k[10])*62+int(k[11]))%shards]
}
func (t *Table) keysOf(k authz.KeyID) *keyShard { return &t.keys[int(k[0])%shards] }

// Secret finds a secret by its kid.
func (t *Table) Secret(kid authz.Kid) (authz.SecretState, bool) {
	t.lookups.Add(1)
	return t.secretsOf(kid).get(kid)
}

// FindSecret is Secret; it never fails.
func (t *Table) FindSecret(kid authz.Kid) (authz.SecretState, bool, error) {
	s, ok := t.Secret(kid)
	return s, ok, nil
}

// FindKey is Key; it never fails.
func (t *Table) FindKey(id authz.KeyID) (*authz.KeyState, error) { return t.Key(id), nil }

// Lookups counts the calls of Secret.
func (t *Table) Lookups() int64 { return t.lookups.Load() }

// Key finds a key's state, nil when there is none.
func (t *Table) Key(id authz.KeyID) *authz.KeyState {
	s := t.keysOf(id)
	s.mu.RLock()
	k := s.keys[id]
	s.mu.RUnlock()
	return k
}

// AddKey makes a key known; a known one keeps the earlier end.
func (t *Table) AddKey(k *authz.KeyState) { t.know(k) }

func (t *Table) know(k *authz.KeyState) *authz.KeyState {
	s := t.keysOf(k.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.keys[k.ID]; known != nil {
		known.Revoke(k.RevokedAt())
		return known
	}
	if s.keys == nil {
		s.keys = map[authz.KeyID]*authz.KeyState{}
	}
	s.keys[k.ID] = k
	if k.Customer != nil && k.Scopes.Has(scopes.Sidecar) {
		t.followed.Store(k.Customer.ID, nil)
	}
	return k
}

// AddSecret makes a secret known, and its key where it is new. A secret that
// is known already keeps the earlier end.
func (t *Table) AddSecret(kid authz.Kid, s authz.SecretState) {
	s.Key = t.know(s.Key)
	t.secretsOf(kid).update(kid, s)
}

// EndSecret brings the end of a secret nearer; of one that is not known yet, it
// is kept for when it becomes known.
func (t *Table) EndSecret(kid authz.Kid, at latchkey.Instant) {
	t.secretsOf(kid).update(kid, authz.SecretState{EndsAt: at})
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

// EachCustomer visits those that have not ended, in no order.
func (t *Table) EachCustomer(visit func(*authz.Customer)) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, c := range t.customers {
		if !c.Deleted() {
			visit(c)
		}
	}
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

// Followed reports whether a customer has, or had while this process knew of it,
// a key that sidecars can use.
func (t *Table) Followed(customer string) bool {
	_, ok := t.followed.Load(customer)
	return ok
}

// Len counts the keys, ended ones too.
func (t *Table) Len() int {
	n := 0
	for i := range t.keys {
		s := &t.keys[i]
		s.mu.RLock()
		n += len(s.keys)
		s.mu.RUnlock()
	}
	return n
}
