package authz

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/feed"
)

// Limits of a Feed.
const (
	// MaxPage is how many messages it gives at a time, and pageBytes of about what
	// size together.
	MaxPage   = 256
	pageBytes = 1 << 20
	// keptChanges and keptChangeBytes bound what it keeps of one customer.
	keptChanges     = 1024
	keptChangeBytes = 4 << 20
	// forgetAfter is how long it keeps changes for a customer whom nobody follows.
	forgetAfter = 2 * time.Minute
	// headsEvery is how often it reads how far changes go, at most.
	headsEvery = 100 * time.Millisecond
	// changeOverhead is about what a change takes beside its texts, and a ref.
	changeOverhead, refOverhead = 200, 60
)

// FeedConfig are the collaborators and settings of a Feed; all are required.
type FeedConfig struct {
	Record FeedRecord
	Maker  *RecordMaker
	Signer *feed.Signer
	Issuer string // this process, in heartbeats
	Now    func() latchkey.Instant
	// MaxBytes bounds about what is kept of all customers' changes.
	MaxBytes int64
}

// Feed tells the nodes that follow a control plane what changes. A change is
// read, written down and signed once, when the first node asks for it; the
// latest ones of the customers that are followed are kept, in bounded memory.
// Safe for concurrent use.
type Feed struct {
	cfg FeedConfig

	mu        sync.Mutex
	customers map[string]*published
	bytes     int64

	heads  heads
	signed atomic.Int64
}

// published is a customer that somebody follows.
type published struct {
	// head is the last change that is known here. The kept ones end with it, and
	// have no gap.
	head    int64
	kept    []*keptChange
	bytes   int64
	asked   latchkey.Instant
	changed chan struct{} // closed by the next change

	beatAt latchkey.Instant
	beat   []byte
}

type keptChange struct {
	change Touched
	size   int64

	mu   sync.Mutex // held while the text is made
	text []byte     // nil until somebody asks for it
}

// heads are how far the changes of all customers went when they were last read.
type heads struct {
	mu    sync.Mutex // held while they are read
	at    latchkey.Instant
	every time.Duration // how old they may become
	of    map[string]Position
}

// NewFeed makes one that knows of no change yet.
func NewFeed(cfg FeedConfig) *Feed {
	return &Feed{cfg: cfg, customers: map[string]*published{}}
}

// Epoch is that of the record.
func (f *Feed) Epoch() int64 { return f.cfg.Maker.Epoch }

// Signer signs what the feed tells.
func (f *Feed) Signer() *feed.Signer { return f.cfg.Signer }

// FeedStats are counts since the start, and what is kept now.
type FeedStats struct {
	Signed int64 // messages
	Bytes  int64 // about
}

// Stats counts.
func (f *Feed) Stats() FeedStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return FeedStats{Signed: f.signed.Load(), Bytes: f.bytes}
}

// Applied takes in changes of a customer that this process has applied, in
// their order, and wakes those that wait for them. It does no I/O.
func (f *Feed) Applied(customer string, changes []Touched) {
	now := f.cfg.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := f.customers[customer]
	if !ok || len(changes) == 0 {
		return
	}
	if now > c.asked.Add(forgetAfter) {
		f.empty(c)
		delete(f.customers, customer)
		close(c.changed)
		return
	}
	for _, change := range changes {
		if change.Seq <= c.head {
			continue
		}
		if change.Seq != c.head+1 {
			f.empty(c) // there is a gap: what is before it can be read from the record
		}
		size := int64(changeOverhead)
		for _, ref := range change.Refs {
			size += int64(refOverhead + len(ref.Type) + len(ref.ID))
		}
		c.head = change.Seq
		c.kept = append(c.kept, &keptChange{change: change, size: size})
		f.grow(c, size)
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// grow counts n more bytes of a customer, and lets go of what is too much.
func (f *Feed) grow(c *published, n int64) {
	c.bytes += n
	f.bytes += n
	for len(c.kept) > 0 && (len(c.kept) > keptChanges || c.bytes > keptChangeBytes) {
		oldest := c.kept[0]
		c.kept[0] = nil
		c.kept = c.kept[1:]
		c.bytes -= oldest.size
		f.bytes -= oldest.size
	}
	for f.bytes > f.cfg.MaxBytes {
		var least *published
		for _, other := range f.customers {
			if other.bytes > 0 && (least == nil || other.asked < least.asked) {
				least = other
			}
		}
		if least == nil {
			return
		}
		f.empty(least)
	}
}

func (f *Feed) empty(c *published) {
	f.bytes -= c.bytes
	c.kept, c.bytes = nil, 0
}

// follow finds a customer, and notes that somebody asked for it; f is locked.
func (f *Feed) follow(customer string) *published {
	c, ok := f.customers[customer]
	if !ok {
		c = &published{changed: make(chan struct{})}
		f.customers[customer] = c
	}
	c.asked = f.cfg.Now()
	return c
}

// Changed is closed once a customer has changed again.
func (f *Feed) Changed(customer string) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.follow(customer).changed
}

// FeedPage is a part of a customer's feed.
type FeedPage struct {
	// Head is the last change that is known.
	Head int64
	// From is the number of the first change that can be told: more than the one
	// after the one asked for says that those between are not known any more.
	From     int64
	Messages [][]byte // signed; none where there is nothing new. Immutable
}

// Messages returns those that come after a change, without a gap, and at most
// MaxPage of them. What this process has not applied yet is not among them.
func (f *Feed) Messages(ctx context.Context, customer string, after int64) (FeedPage, error) {
	head, kept := f.recent(customer, after)
	if head > 0 && (after >= head || len(kept) > 0) {
		p, size := FeedPage{Head: head, From: after + 1}, 0
		for _, k := range kept {
			text, err := f.text(ctx, customer, k)
			if err != nil {
				return FeedPage{}, err
			}
			if size += len(text); len(p.Messages) > 0 && size > pageBytes {
				break // the rest comes with the next page
			}
			p.Messages = append(p.Messages, text)
		}
		return p, nil
	}
	return f.Older(ctx, customer, after)
}

// recent finds the kept changes after one, and the last that is known, 0 where
// none is yet.
func (f *Feed) recent(customer string, after int64) (head int64, kept []*keptChange) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.follow(customer)
	if len(c.kept) == 0 || after >= c.head || after+1 < c.kept[0].change.Seq {
		return c.head, nil
	}
	kept = c.kept[after+1-c.kept[0].change.Seq:]
	return c.head, kept[:min(len(kept), MaxPage)]
}

// text is the message of a kept change; who asks first makes it.
func (f *Feed) text(ctx context.Context, customer string, k *keptChange) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.text != nil {
		return k.text, nil
	}
	m, err := f.cfg.Maker.Message(ctx, customer, k.change, f.cfg.Now())
	if err != nil {
		return nil, err
	}
	text, err := f.sign(m)
	if err != nil {
		return nil, err
	}
	k.text = text
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.customers[customer]; c != nil && len(c.kept) > 0 && k.change.Seq >= c.kept[0].change.Seq { // still kept
		k.size += int64(len(text))
		f.grow(c, int64(len(text)))
	}
	return text, nil
}

func (f *Feed) sign(m *feed.Message) ([]byte, error) {
	f.signed.Add(1)
	return f.cfg.Signer.SignMessage(m)
}

// Older is Messages from the record, whatever is known here. The messages hold
// no records: who is behind reads what it needs again.
func (f *Feed) Older(ctx context.Context, customer string, after int64) (FeedPage, error) {
	// How far the changes go comes first: one that is made meanwhile is no gap.
	at, err := f.cfg.Record.Position(ctx, customer)
	if err != nil {
		return FeedPage{}, err
	}
	f.know(customer, at.Seq)
	if after >= at.Seq {
		return FeedPage{Head: at.Seq, From: after + 1}, nil
	}
	list, err := f.cfg.Record.Changes(ctx, customer, after, MaxPage)
	if err != nil {
		return FeedPage{}, err
	}
	if len(list) == 0 {
		return FeedPage{Head: at.Seq, From: at.Seq + 1}, nil
	}
	p, size := FeedPage{Head: at.Seq, From: after + 1}, 0
	for _, t := range list {
		text, err := f.sign(&feed.Message{Customer: customer, Epoch: f.Epoch(), Seq: t.Seq, At: t.At, Touched: t.Refs, All: t.All})
		if err != nil {
			return FeedPage{}, err
		}
		if size += len(text); len(p.Messages) > 0 && size > pageBytes {
			break
		}
		p.Messages = append(p.Messages, text)
		p.Head = max(p.Head, t.Seq)
	}
	return p, nil
}

// know notes how far changes go where none has been applied since somebody
// follows them.
func (f *Feed) know(customer string, seq int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.follow(customer); c.head == 0 {
		c.head = seq
	}
}

// Position is how far a customer's changes go, as of at, which is not more
// than a moment ago. NotFound answers a customer that never was.
func (f *Feed) Position(ctx context.Context, customer string) (p Position, at latchkey.Instant, err error) {
	h := &f.heads
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := f.cfg.Now(); h.of == nil || now >= h.at.Add(h.every) || now < h.at {
		list, err := f.cfg.Record.Positions(ctx)
		if err != nil {
			return p, 0, err
		}
		of := make(map[string]Position, len(list))
		for _, p := range list {
			of[p.Chain] = p
		}
		h.at, h.of = now, of
		// Where there are so many that it takes long, they are read less often.
		h.every = min(max(headsEvery, 20*time.Duration(f.cfg.Now()-now)*time.Microsecond), time.Second)
	}
	p, ok := h.of[customer]
	if !ok {
		return p, h.at, errCustomerNotFound
	}
	return p, h.at, nil
}

// Heartbeat returns a customer's signed heartbeat, not older than a moment, and
// what it tells.
func (f *Feed) Heartbeat(ctx context.Context, customer string) ([]byte, Position, error) {
	p, at, err := f.Position(ctx, customer)
	if err != nil {
		return nil, p, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.follow(customer)
	if c.beatAt != at || c.beat == nil {
		beat, err := f.cfg.Signer.SignHeartbeat(&feed.Heartbeat{Customer: customer, Issuer: f.cfg.Issuer, At: at, Epoch: f.Epoch(), Head: p.Seq, Policies: p.Policies})
		if err != nil {
			return nil, p, err
		}
		c.beat, c.beatAt = beat, at
	}
	return c.beat, p, nil
}

// Record makes the signed record of something.
func (f *Feed) Record(ctx context.Context, customer string, ref feed.Ref) (*feed.Record, []byte, error) {
	r, err := f.cfg.Maker.Make(ctx, customer, ref, f.cfg.Now())
	if err != nil {
		return nil, nil, err
	}
	text, err := f.cfg.Signer.SignRecord(r)
	return r, text, err
}
