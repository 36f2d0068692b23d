package cache

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/feed"
)

// ErrMiss is a source's answer that it does not have the record, which says
// nothing about whether there is such a thing.
var ErrMiss = errors.New("cache: no such record here")

// Source is where records come from that are not in memory. A record that it
// returns has been verified, or comes from where nothing needs to be. ErrMiss
// sends the question to the next source; NotFound says that there is no such
// thing. Safe for concurrent use.
type Source interface {
	Fetch(ctx context.Context, customer string, ref feed.Ref) (*feed.Record, error)
}

// RecordsConfig are the collaborators and settings of Records.
type RecordsConfig struct {
	// MaxBytes bounds about what the values take in memory.
	MaxBytes int64
	// Sources are asked in this order.
	Sources []Source
	// Decode makes of a record what is kept of it, and says about how many bytes
	// that takes. What it makes of a record whose body is null is kept like any
	// other.
	Decode func(*feed.Record) (value any, size int, err error)
	// Wait bounds one look-up in the sources.
	Wait time.Duration
	// Missing is how long it is kept that there is no such thing.
	Missing time.Duration
	Now     func() latchkey.Instant
}

// Records is the part of many records that is in memory: a bounded cache that
// never serves, as of now, what a change that this process knows of has made out
// of date. Safe for concurrent use; what is in memory is found without a lock.
type Records struct {
	cfg     RecordsConfig
	kept    *otter.Cache[recordKey, *kept]
	chains  sync.Map // customer → *chain
	flights singleflight.Group

	hits, misses, refused atomic.Int64
}

type recordKey struct {
	customer string
	ref      feed.Ref
}

// kept is one entry. Immutable.
type kept struct {
	ref     feed.Ref // the record's own
	version int64
	value   any
	until   latchkey.Instant // of an entry that says that there is no such thing; else 0
	weight  uint32
}

// chain is what is known of one customer's changes.
type chain struct {
	mu     sync.Mutex
	window feed.Window
	epoch  int64
	// floors are the versions below which nothing kept counts, for each kind.
	floors [3]atomic.Int64
}

// floor is the place of a kind in floors.
func floor(k feed.Kind) int {
	switch k {
	case feed.Subject:
		return 1
	case feed.Resource:
		return 2
	default: // keys
		return 0
	}
}

const recordOverhead = 300 // bytes of an entry beside its value, about

// NewRecords makes an empty one; it serves nothing of a customer before Start.
func NewRecords(cfg RecordsConfig) *Records {
	return &Records{cfg: cfg, kept: otter.Must(&otter.Options[recordKey, *kept]{
		MaximumWeight: uint64(max(cfg.MaxBytes, 1<<16)),
		Weigher:       func(_ recordKey, k *kept) uint32 { return k.weight },
	})}
}

func (r *Records) chain(customer string) *chain {
	if c, ok := r.chains.Load(customer); ok {
		return c.(*chain)
	}
	c, _ := r.chains.LoadOrStore(strings.Clone(customer), new(chain))
	return c.(*chain)
}

// Start begins to follow a customer's changes after the one with the given
// number: nothing that was read before it counts any more.
func (r *Records) Start(customer string, epoch, seq int64) {
	c := r.chain(customer)
	c.mu.Lock()
	defer c.mu.Unlock()
	r.start(c, customer, epoch, seq)
}

// start is Start; the chain is locked.
func (r *Records) start(c *chain, customer string, epoch, seq int64) {
	if c.epoch != epoch { // numbers of another epoch mean nothing
		for k := range r.kept.Keys() {
			if k.customer == customer {
				r.kept.Invalidate(k)
			}
		}
	}
	c.epoch = epoch
	c.window.Start(seq)
	for i := range c.floors {
		c.floors[i].Store(seq)
	}
}

// Skip is Start, unless the change is known already: what came before it and was
// not applied is taken to have touched everything.
func (r *Records) Skip(customer string, epoch, seq int64) {
	c := r.chain(customer)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.window.Started() || c.epoch != epoch || c.window.At() < seq {
		r.start(c, customer, epoch, seq)
	}
}

// At is the number of the last change of a customer that was applied, and the
// epoch that it is one of.
func (r *Records) At(customer string) (epoch, seq int64) {
	c := r.chain(customer)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch, c.window.At()
}

// Apply takes in a change: from its return on nothing that it made out of date
// is served. It reports whether the change is now known; false says that there
// is a gap before it, or that it is one of another epoch.
func (r *Records) Apply(m *feed.Message) bool {
	c := r.chain(m.Customer)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.window.Started() || m.Epoch != c.epoch || m.Seq > c.window.At()+1 {
		return false
	}
	if m.Seq <= c.window.At() {
		return true // a repeat
	}
	c.window.Note(m.Seq, m.Touched, m.All)
	for _, kind := range m.All {
		c.floors[floor(kind)].Store(m.Seq)
	}
	for _, ref := range m.Touched {
		key := recordKey{m.Customer, ref}
		if _, ok := r.kept.GetIfPresent(key); !ok {
			continue
		}
		r.kept.Invalidate(key)
		for i := range m.Records {
			if m.Records[i].Ref == ref {
				_, _ = r.put(key, &m.Records[i]) // one that cannot be read is a miss
			}
		}
	}
	for i := range m.Records { // secrets that were not known may be now
		if m.Records[i].Ref.Kind == feed.Key {
			r.forgetMissing(m.Customer, &m.Records[i])
		}
	}
	return true
}

// forgetMissing drops what is kept of a key's kids: that there are none.
func (r *Records) forgetMissing(customer string, rec *feed.Record) {
	for _, kid := range rec.Kids() {
		key := recordKey{customer, feed.Ref{Kind: feed.Secret, ID: kid}}
		if k, ok := r.kept.GetIfPresent(key); ok && k.until != 0 {
			r.kept.Invalidate(key)
		}
	}
}

// put keeps a record that was accepted; the chain is locked.
func (r *Records) put(key recordKey, rec *feed.Record) (*kept, error) {
	value, size, err := r.cfg.Decode(rec)
	if err != nil {
		return nil, err
	}
	k := &kept{ref: rec.Ref, version: rec.Version, value: value, weight: uint32(size + recordOverhead + len(key.ref.ID))}
	if had, ok := r.kept.GetIfPresent(key); !ok || had.until != 0 || had.version < k.version {
		r.kept.Set(key, k)
	}
	return k, nil
}

// Get finds what is kept of a record, and asks the sources where nothing is.
// With Secret, ref asks for the key that has it. NotFound says that there is no
// such thing; any other error, that nobody can tell now.
func (r *Records) Get(customer string, ref feed.Ref) (any, error) {
	c := r.chain(customer)
	key := recordKey{customer, ref}
	if k := r.peek(c, key); k != nil {
		r.hits.Add(1)
		if k.until != 0 {
			return nil, errMissing
		}
		return k.value, nil
	}
	r.misses.Add(1)
	// What is asked for may lie in a buffer that is used again.
	key = recordKey{strings.Clone(customer), feed.Ref{Kind: ref.Kind, Type: strings.Clone(ref.Type), ID: strings.Clone(ref.ID)}}
	for range 3 {
		v, err, _ := r.flights.Do(key.customer+"\x00"+key.ref.String(), func() (any, error) { return r.fetch(c, key) })
		switch {
		case errors.Is(err, errOutrun): // by a change that came meanwhile, perhaps before this caller asked
			continue
		case err != nil:
			return nil, err
		}
		// It may have been fetched before a change that this caller knows of.
		if k := v.(*kept); c.accepts(k.ref, k.version) {
			return k.value, nil
		}
	}
	return nil, errOutrun
}

var (
	errMissing = latchkey.Errorf(latchkey.NotFound, "not_found", "there is no such record")
	errOutrun  = latchkey.Errorf(latchkey.Unavailable, "record_unavailable", "the record changes faster than it can be read; try again")
)

func (r *Records) peek(c *chain, key recordKey) *kept {
	k, ok := r.kept.GetIfPresent(key)
	switch {
	case !ok:
		return nil
	case k.until != 0:
		if r.cfg.Now() >= k.until {
			return nil
		}
	case k.version < c.floors[floor(k.ref.Kind)].Load():
		return nil
	case key.ref.Kind == feed.Secret: // only tells whose it is: changes are noted of the key
		return r.peek(c, recordKey{key.customer, k.ref})
	}
	return k
}

func (c *chain) accepts(ref feed.Ref, version int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.window.Accepts(ref, version)
}

// fetch asks the sources. A record that a known change has made out of date is
// a miss.
func (r *Records) fetch(c *chain, key recordKey) (*kept, error) {
	ctx, cancel := context.WithTimeout(context.Background(), r.cfg.Wait)
	defer cancel()
	err := error(errOutrun)
	for _, source := range r.cfg.Sources {
		rec, failed := source.Fetch(ctx, key.customer, key.ref)
		switch {
		case errors.Is(failed, ErrMiss):
			continue
		case latchkey.KindOf(failed) == latchkey.NotFound:
			r.kept.Set(key, &kept{ref: key.ref, until: r.cfg.Now().Add(r.cfg.Missing), weight: uint32(recordOverhead + len(key.ref.ID))})
			return nil, errMissing
		case failed != nil:
			err = failed
			continue
		}
		k, failed := r.keep(c, key, rec)
		if failed == nil {
			return k, nil
		}
		err = failed
	}
	return nil, latchkey.Errorf(latchkey.Unavailable, "record_unavailable", "a record that the answer needs cannot be had now; try again").Because(err)
}

func (r *Records) keep(c *chain, key recordKey, rec *feed.Record) (*kept, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rec.Epoch != c.epoch || !c.window.Accepts(rec.Ref, rec.Version) {
		r.refused.Add(1)
		return nil, errOutrun
	}
	k, err := r.put(recordKey{key.customer, rec.Ref}, rec)
	if err == nil && key.ref.Kind == feed.Secret {
		r.kept.Set(key, &kept{ref: rec.Ref, version: rec.Version, weight: uint32(recordOverhead + len(key.ref.ID))})
	}
	return k, err
}

// RecordStats are counts since the start, and what is kept now.
type RecordStats struct {
	Hits, Misses int64
	Refused      int64 // records from sources that were out of date
	Bytes        int64 // about
}

// Stats counts.
func (r *Records) Stats() RecordStats {
	return RecordStats{Hits: r.hits.Load(), Misses: r.misses.Load(), Refused: r.refused.Load(), Bytes: int64(r.kept.WeightedSize())}
}
