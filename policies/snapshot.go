package policies

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/latchkey-dev/latchkey"
)

// Snapshot is the compiled form of one customer's policies, with its sets
// beside them. Immutable: a change makes another one, which shares all that
// did not change. The zero Snapshot has no policies.
type Snapshot struct {
	// Revision is the sequence number of the customer's last change to what is
	// here; it is the same again after a restart.
	Revision int64
	// ActivatedAt is when it became the one in force.
	ActivatedAt latchkey.Instant
	// Default names the policy of questions that name none; "" is the built-in.
	Default  string
	policies map[string]*Policy
	sets     map[string]*Set
}

// Policy finds a policy by name, nil when there is none.
func (s *Snapshot) Policy(name string) *Policy { return s.policies[name] }

// Set finds a set by name, nil when there is none.
func (s *Snapshot) Set(name string) *Set { return s.sets[name] }

// Policies lists the names of all policies, sorted.
func (s *Snapshot) Policies() []string { return slices.Sorted(maps.Keys(s.policies)) }

// Sets lists the names of all sets, sorted.
func (s *Snapshot) Sets() []string { return slices.Sorted(maps.Keys(s.sets)) }

// Users lists the policies that read a set, sorted.
func (s *Snapshot) Users(set string) []string {
	var users []string
	for name, p := range s.policies {
		if _, reads := slices.BinarySearch(p.Reads.Sets, set); reads {
			users = append(users, name)
		}
	}
	slices.Sort(users)
	return users
}

// Missing lists the sets that a policy reads and that are not there.
func (s *Snapshot) Missing(p *Policy) []string {
	var missing []string
	for _, name := range p.Reads.Sets {
		if s.sets[name] == nil {
			missing = append(missing, name)
		}
	}
	return missing
}

// Edit makes a changed copy.
func (s *Snapshot) Edit(revision int64, at latchkey.Instant, change func(*Draft)) *Snapshot {
	d := &Draft{next: &Snapshot{Revision: revision, ActivatedAt: at, Default: s.Default, policies: s.policies, sets: s.sets}}
	change(d)
	return d.next
}

// Draft is a snapshot in the making.
type Draft struct {
	next                 *Snapshot
	ownPolicies, ownSets bool // copied already
}

func (d *Draft) policies() map[string]*Policy {
	own(&d.next.policies, &d.ownPolicies)
	return d.next.policies
}

func (d *Draft) sets() map[string]*Set {
	own(&d.next.sets, &d.ownSets)
	return d.next.sets
}

// own copies a map before its first change.
func own[V any](m *map[string]V, owned *bool) {
	if *owned {
		return
	}
	if *m = maps.Clone(*m); *m == nil {
		*m = map[string]V{}
	}
	*owned = true
}

// PutPolicy puts a policy in force under its name.
func (d *Draft) PutPolicy(p *Policy) { d.policies()[p.Document.Name] = p }

// DropPolicy takes one out.
func (d *Draft) DropPolicy(name string) { delete(d.policies(), name) }

// PutSet puts a set in force.
func (d *Draft) PutSet(name string, set *Set) { d.sets()[name] = set }

// DropSet takes one out.
func (d *Draft) DropSet(name string) { delete(d.sets(), name) }

// SetDefault names the default policy; "" is the built-in.
func (d *Draft) SetDefault(name string) { d.next.Default = name }

// Live is the snapshot in force of one customer. The zero Live holds an empty
// one. Safe for concurrent use: readers never wait.
type Live struct {
	mu      sync.Mutex
	current atomic.Pointer[Snapshot]

	waiting sync.Mutex
	changed chan struct{} // nil while nobody waits
}

var empty Snapshot

// Snapshot returns the one in force, never nil.
func (l *Live) Snapshot() *Snapshot {
	if s := l.current.Load(); s != nil {
		return s
	}
	return &empty
}

// Update puts in force what next makes of the snapshot that is; without one
// (nil), or with an error, nothing changes. One update runs at a time, so next
// may write to the database: changes then take effect in the order in which
// they were written.
func (l *Live) Update(next func(*Snapshot) (*Snapshot, error)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, err := next(l.Snapshot())
	if err == nil && s != nil {
		l.current.Store(s)
		l.wake()
	}
	return err
}

// Changed returns a channel that is closed by the next change. Who takes it
// before the snapshot misses none.
func (l *Live) Changed() <-chan struct{} {
	l.waiting.Lock()
	defer l.waiting.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

func (l *Live) wake() {
	l.waiting.Lock()
	defer l.waiting.Unlock()
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}
