package authz

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Follower brings what changes into memory: those of other processes, and those
// of this one whose outcome it was not told. For each chain it knows up to which
// change memory is as the record is; to apply one again does nothing. Safe for
// concurrent use.
//
// What it knows to be behind it gives a bounded time: a customer that it cannot
// bring up to date within MaxStaleness is denied, alone, and all are once
// nothing is heard of the record for that long.
type Follower struct {
	cfg       FollowerConfig
	observers []func(chain string, t Touched)

	mu     sync.Mutex
	chains map[string]*followed
	hinted map[string]int64 // chains that have gone on, and how far at least
	wake   chan struct{}    // something is in hinted
	looks  sync.Mutex       // one look at a time
	tasks  chan struct{}    // bounds how many chains are brought up to date at once
}

// FollowerConfig are the collaborators and settings of a Follower; what does not
// say otherwise is required.
type FollowerConfig struct {
	Record    Record
	Table     KeyTable
	Parser    *scopes.Parser
	Peppers   *Peppers
	Root      *RootKey
	Directory *Directory
	Origin    Origin // may be nil
	// Lease is renewed by each look at the record; nil where nobody else writes.
	Lease *feed.Lease
	// MaxStaleness is how long a customer may be behind.
	MaxStaleness time.Duration
	Now          func() latchkey.Instant
	// Applied is told how old a change was when it was applied; Failed of what of a
	// chain could not be applied, once, and with no chain, each time, that nothing
	// could be read; Unusable of policies that do not compile. All may be nil, and
	// are called from several goroutines.
	Applied  func(age time.Duration)
	Failed   func(chain string, err error)
	Unusable func(UnusablePolicy)
}

// followed is a chain.
type followed struct {
	id      string
	turn    chan struct{} // held by who brings it up to date
	applied atomic.Int64  // written by who has the turn

	mu       sync.Mutex
	seen     int64              // how far it went at the last look
	marks    []mark             // looks that found more than was applied, oldest first
	upToDate latchkey.Instant   // the last time as of which memory is known to hold everything
	failed   map[feed.Ref]error // what could not be applied, to be tried again
	policies int64              // of the position before memory was filled
	unsure   bool               // policies and sets may have been read at two moments
	target   int64              // how far it is to be brought
	running  bool               // somebody brings it there
}

// mark is a look: at that time the chain went as far as seq.
type mark struct {
	seq int64
	at  latchkey.Instant
}

// maxMarks bounds the looks that are remembered of a chain that is behind.
const maxMarks = 64

// NewFollower makes one; Begin comes before everything else but Observe.
func NewFollower(cfg FollowerConfig) *Follower {
	return &Follower{cfg: cfg, chains: map[string]*followed{}, hinted: map[string]int64{}, wake: make(chan struct{}, 1), tasks: make(chan struct{}, 4)}
}

// Observe has observer called for each change of each chain, in its order and
// once, when memory holds it; the next one waits for it to return. Where the
// record no longer tells of changes, one call stands for all up to its Seq, which
// does not follow the one before, with every kind in All. It is called before
// Begin.
func (f *Follower) Observe(observer func(chain string, t Touched)) {
	f.observers = append(f.observers, observer)
}

// Begin notes how far the changes go; memory is filled after it, and then a
// Sweep takes in what has changed meanwhile.
func (f *Follower) Begin(ctx context.Context) error {
	positions, err := f.cfg.Record.Positions(ctx)
	if err != nil {
		return err
	}
	now := f.cfg.Now()
	for _, p := range positions {
		c := f.chain(p.Chain)
		c.applied.Store(p.Seq)
		c.seen, c.upToDate, c.policies, c.unsure = p.Seq, now, p.Policies, true
	}
	return nil
}

func (f *Follower) chain(id string) *followed {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.chains[id]
	if c == nil {
		c = &followed{id: id, turn: make(chan struct{}, 1), upToDate: f.cfg.Now()}
		f.chains[id] = c
	}
	return c
}

func (f *Follower) known(id string) *followed {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.chains[id]
}

// Applied is the number of the chain's last change that memory holds.
func (f *Follower) Applied(chain string) int64 {
	if c := f.known(chain); c != nil {
		return c.applied.Load()
	}
	return 0
}

// Behind counts the chains of which memory does not hold what the last look saw.
func (f *Follower) Behind() int {
	f.mu.Lock()
	chains := slices.Collect(maps.Values(f.chains))
	f.mu.Unlock()
	n := 0
	for _, c := range chains {
		c.mu.Lock()
		if c.applied.Load() < c.seen || len(c.failed) > 0 {
			n++
		}
		c.mu.Unlock()
	}
	return n
}

// Kick says that a chain has gone on, at least to seq; "" that any may have. It
// does not wait.
func (f *Follower) Kick(chain string, seq int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.chains[chain]; c != nil && c.applied.Load() >= seq {
		return
	}
	f.hinted[chain] = max(f.hinted[chain], seq)
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Run follows until ctx ends: what it is kicked for at once, and everything at
// each tick.
func (f *Follower) Run(ctx context.Context, ticks <-chan time.Time) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	var looking atomic.Bool
	look := func() { // beside hints, which a slow one must not keep waiting
		if looking.Swap(true) {
			return
		}
		tasks.Go(func() {
			defer looking.Store(false)
			behind, err := f.look(ctx)
			if err != nil && ctx.Err() == nil {
				f.fail("", err)
			}
			for _, c := range behind {
				f.bring(ctx, &tasks, c, 0)
			}
		})
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
			look()
		case <-f.wake:
			f.mu.Lock()
			hinted := f.hinted
			f.hinted = map[string]int64{}
			f.mu.Unlock()
			anew := false
			for id, seq := range hinted {
				if c := f.known(id); c != nil {
					f.bring(ctx, &tasks, c, seq)
				} else { // a customer's that is new, or nobody's
					anew = true
				}
			}
			if anew {
				look()
			}
		}
	}
}

// Sweep looks how far all changes go and takes in those that memory does not
// hold.
func (f *Follower) Sweep(ctx context.Context) error {
	behind, err := f.look(ctx)
	if err != nil {
		return err
	}
	for _, c := range behind {
		if err := f.catchUp(ctx, c, 0); err != nil {
			return err
		}
	}
	return nil
}

// bring has a chain brought to target, or to where it was last seen to go, by
// one task at a time.
func (f *Follower) bring(ctx context.Context, tasks *sync.WaitGroup, c *followed, target int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.target = max(c.target, target, c.seen)
	if c.running {
		return
	}
	c.running = true
	tasks.Go(func() {
		for {
			c.mu.Lock()
			target := c.target
			c.mu.Unlock()
			var err error
			select {
			case f.tasks <- struct{}{}:
				err = f.catchUp(ctx, c, target)
				<-f.tasks
			case <-ctx.Done():
				err = ctx.Err()
			}
			if err != nil && ctx.Err() == nil {
				f.fail(c.id, err)
			}
			c.mu.Lock()
			if err != nil || c.target <= target { // on an error the next look tries again
				c.running, c.target = false, 0
				c.mu.Unlock()
				return
			}
			c.mu.Unlock()
		}
	})
}

// lookWait bounds a look: a record that does not answer in that time is asked
// again. catchUpWait bounds what bringing one chain up to date may take.
const (
	lookWait    = 5 * time.Second
	catchUpWait = 2 * time.Minute
)

// errWentBack says that the record knows less than it did: an earlier copy has
// been put in its place under a running process, whose memory cannot follow.
var errWentBack = errors.New("the record has fewer changes than before: it was put back to an earlier state; restart this process")

// look reads how far all chains go, renews the lease, and returns those of which
// memory does not hold everything.
func (f *Follower) look(ctx context.Context) (behind []*followed, err error) {
	f.looks.Lock()
	defer f.looks.Unlock()
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	if f.cfg.Lease != nil {
		sent := f.cfg.Now()
		at, apart, err := f.cfg.Record.Clock(ctx)
		if err != nil {
			return nil, err
		}
		if apart {
			f.cfg.Lease.Compare(at, sent, f.cfg.Now(), true)
		}
	}
	sent := f.cfg.Now()
	positions, err := f.cfg.Record.Positions(ctx)
	if err != nil {
		return nil, err
	}
	system := slices.IndexFunc(positions, func(p Position) bool { return p.Chain == audit.SystemChain })
	if system >= 0 { // first: what is the operator's is everybody's
		if c := f.found(&positions[system], sent); c != nil {
			if err := f.catchUp(ctx, c, 0); err != nil {
				return nil, err
			}
		}
	}
	for i := range positions {
		p := &positions[i]
		if last := f.lastSeen(p.Chain); p.Seq < last {
			return nil, fmt.Errorf("chain %s is at %d after %d: %w", p.Chain, p.Seq, last, errWentBack)
		}
		if i == system {
			continue
		}
		if c := f.found(p, sent); c != nil {
			behind = append(behind, c)
		}
	}
	if f.cfg.Lease != nil {
		f.cfg.Lease.Renew(sent, sent)
	}
	return behind, nil
}

func (f *Follower) lastSeen(chain string) int64 {
	c := f.known(chain)
	if c == nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen
}

// found takes in how far a chain went at a time; it returns the chain where
// memory does not hold everything.
func (f *Follower) found(p *Position, at latchkey.Instant) *followed {
	c := f.chain(p.Chain)
	if p.Chain != audit.SystemChain {
		f.meet(p.Chain)
		if p.DeletedAt != latchkey.Never {
			f.cfg.Table.Customer(p.Chain).Delete()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = max(c.seen, p.Seq)
	if c.unsure && p.Policies == c.policies {
		c.unsure = false // nothing has changed between two readings of them
	}
	if len(c.marks) == maxMarks {
		c.marks = c.marks[:maxMarks-1]
	}
	c.marks = append(c.marks, mark{p.Seq, at})
	f.settle(c)
	if c.applied.Load() >= p.Seq && len(c.failed) == 0 {
		return nil
	}
	return c
}

// settle says as of when everything is applied; c is locked.
func (f *Follower) settle(c *followed) {
	for len(c.marks) > 0 && len(c.failed) == 0 && c.applied.Load() >= c.marks[0].seq {
		c.upToDate = max(c.upToDate, c.marks[0].at)
		c.marks = c.marks[1:]
	}
	customer := f.cfg.Table.Customer(c.id)
	switch {
	case customer == nil:
	case len(c.marks) == 0:
		customer.SetStaleAt(latchkey.Never)
	default:
		customer.SetStaleAt(c.upToDate.Add(f.cfg.MaxStaleness))
	}
}

// meet makes a customer known.
func (f *Follower) meet(id string) *Customer {
	c := f.cfg.Table.Customer(id)
	if c == nil {
		f.cfg.Table.AddCustomer(&Customer{ID: id})
		c = f.cfg.Table.Customer(id)
	}
	return c
}

// changesAtOnce is how many changes are read and applied together.
const changesAtOnce = 256

// catchUp applies what the record has of a chain, at least up to target and to
// where it was last seen to go, and tries again what could not be applied. What
// a change touched and cannot be applied keeps nothing else of it back: a
// revocation is not kept waiting by a record that does not parse.
func (f *Follower) catchUp(ctx context.Context, c *followed, target int64) error {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, catchUpWait)
	defer cancel()
	c.mu.Lock()
	target = max(target, c.seen)
	again := c.failed
	c.mu.Unlock()
	if len(again) > 0 {
		if err := f.apply(ctx, c, nil, again); err != nil {
			return err
		}
	}
	for c.applied.Load() < target {
		changes, err := f.cfg.Record.Changes(ctx, c.id, c.applied.Load(), changesAtOnce)
		if err != nil {
			return err
		}
		if len(changes) > 0 {
			if err := f.apply(ctx, c, changes, nil); err != nil {
				return err
			}
			continue
		}
		p, err := f.cfg.Record.Position(ctx, c.id)
		if err != nil {
			return err
		}
		if p.Seq <= c.applied.Load() { // there was nothing to the hint
			return nil
		}
		// Between the two readings a change may have come, so once more.
		if changes, err = f.cfg.Record.Changes(ctx, c.id, c.applied.Load(), 1); err != nil {
			return err
		}
		if len(changes) == 0 {
			if err := f.reload(ctx, c, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// rules is what stands among what could not be applied for policies, sets and
// the default policy together.
var rules = feed.Ref{Kind: feed.Policy}

// apply applies what changes touched, and what could not be applied before. An
// error says that nothing has been; what fails by itself is kept for the next
// time.
func (f *Follower) apply(ctx context.Context, c *followed, changes []Touched, again map[feed.Ref]error) error {
	touched := maps.Clone(again)
	if touched == nil {
		touched = map[feed.Ref]error{}
	}
	for _, t := range changes {
		for i, ref := range t.Refs {
			touched[ref] = nil
			if ref.Kind == feed.Subject && t.Details[i] == GrantsTouched { // the rest is for whoever keeps grants
				f.meet(c.id).ExpectGrants()
			}
		}
		for _, kind := range t.All {
			touched[feed.Ref{Kind: kind}] = nil
		}
	}
	var failed map[feed.Ref]error
	if c.id == audit.SystemChain {
		failed = f.applySystem(ctx, touched)
	} else {
		failed = f.applyCustomer(ctx, c, touched)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	for ref := range touched {
		err := failed[ref]
		if err == nil {
			delete(c.failed, ref)
			continue
		}
		if c.failed[ref] == nil {
			f.fail(c.id, fmt.Errorf("%s: %w", ref.Kind, err))
		}
		if c.failed == nil {
			c.failed = map[feed.Ref]error{}
		}
		c.failed[ref] = err
	}
	c.mu.Unlock()
	for _, t := range changes {
		f.applied(c, t)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f.settle(c)
	return nil
}

func (f *Follower) applied(c *followed, t Touched) {
	for _, observe := range f.observers {
		observe(c.id, t)
	}
	c.applied.Store(t.Seq)
	if f.cfg.Applied != nil {
		f.cfg.Applied(time.Duration(f.cfg.Now()-t.At) * time.Microsecond)
	}
}

func (f *Follower) fail(chain string, err error) {
	if f.cfg.Failed != nil {
		f.cfg.Failed(chain, err)
	}
}

func (f *Follower) applySystem(ctx context.Context, touched map[feed.Ref]error) map[feed.Ref]error {
	failed := map[feed.Ref]error{}
	for ref := range touched {
		switch ref.Kind {
		case feed.Customer:
			f.meet(ref.ID)
			f.chain(ref.ID) // its changes begin with the first one
		case feed.Root:
			if err := f.followRoot(ctx); err != nil {
				failed[ref] = err
			}
		default: // the chain has nothing else
		}
	}
	return failed
}

// followRoot takes in the root key. One whose pepper is not here is nobody's
// failure to follow: the one before has ended.
func (f *Follower) followRoot(ctx context.Context) error {
	err := f.cfg.Root.follow(ctx)
	if e := (*latchkey.Error)(nil); errors.As(err, &e) && e.Code == pepperMissing {
		f.fail(audit.SystemChain, err)
		return nil
	}
	return err
}

func (f *Follower) applyCustomer(ctx context.Context, c *followed, touched map[feed.Ref]error) map[feed.Ref]error {
	customer := f.meet(c.id)
	failed := map[feed.Ref]error{}
	for ref := range touched {
		if ref.Kind == feed.Customer {
			if err := f.knowCustomer(ctx, customer); err != nil {
				failed[ref] = err
			}
		}
	}
	if customer.Deleted() { // nothing that is told of it counts any more
		return failed
	}
	var subjects, resources []EntityRef
	all := false
	for ref := range touched {
		var err error
		switch ref.Kind {
		case feed.Key:
			if ref.ID == "" {
				err = f.knowAll(ctx, customer)
			} else {
				err = f.knowKey(ctx, customer, ref.ID)
			}
		case feed.Subject:
			if ref.ID != "" {
				subjects = append(subjects, EntityRef{ref.Type, ref.ID})
				break
			}
			all, err = true, f.expectGrants(ctx, customer)
		case feed.Resource:
			if all = all || ref.ID == ""; ref.ID != "" {
				resources = append(resources, EntityRef{ref.Type, ref.ID})
			}
		case feed.Customer: // above
		case feed.Policy, feed.Set: // below
		case feed.Secret, feed.Type, feed.Root, feed.Request: // nothing of it is in memory, or not here
		}
		if err != nil {
			failed[ref] = err
		}
	}
	if all || len(subjects)+len(resources) > 0 {
		if err := f.cfg.Directory.follow(ctx, c.id, c.applied.Load(), subjects, resources, all); err != nil {
			for ref := range touched {
				if ref.Kind == feed.Subject || ref.Kind == feed.Resource {
					failed[ref] = err
				}
			}
		}
	}
	for ref := range touched {
		if ref.Kind == feed.Policy || ref.Kind == feed.Set || ref.Kind == feed.Customer {
			touched[rules] = nil
			// Last, because it may take its time.
			if err := f.knowRules(ctx, c, customer); err != nil {
				failed[rules] = err
			}
			break
		}
	}
	return failed
}

// knowKey takes in what the record has of a key.
func (f *Follower) knowKey(ctx context.Context, customer *Customer, id string) error {
	key, ok := ParseKeyID(id)
	if !ok {
		return fmt.Errorf("the feed names the malformed key %q", id)
	}
	full, err := f.cfg.Record.FullKey(ctx, customer.ID, key, f.cfg.Now())
	if err != nil {
		return err
	}
	return f.know(customer, &full)
}

func (f *Follower) knowAll(ctx context.Context, customer *Customer) error {
	var failed error
	err := f.cfg.Record.EachFullKey(ctx, customer.ID, f.cfg.Now(), func(k *FullKey) error {
		if err := f.know(customer, k); err != nil { // the others are no less to be known
			failed = fmt.Errorf("key %s: %w", k.Key.ID, err)
		}
		return nil
	})
	return errors.Join(err, failed)
}

func (f *Follower) know(customer *Customer, k *FullKey) error {
	state := f.cfg.Table.Key(k.Key.ID)
	if state == nil {
		set, err := f.cfg.Parser.Load(k.Key.Scopes)
		if err != nil {
			return err
		}
		f.cfg.Table.AddKey(NewKeyState(&k.Key, customer, set))
		state = f.cfg.Table.Key(k.Key.ID)
	}
	state.Revoke(k.Key.RevokedAt)
	for _, s := range k.Secrets {
		pepper, ok := f.cfg.Peppers.Find(s.Pepper)
		if !ok {
			if had, known := f.cfg.Table.Secret(s.Kid); known && had.Key != nil {
				f.cfg.Table.EndSecret(s.Kid, s.EndsAt) // the digest that is known is still of the same secret
				continue
			}
		}
		f.cfg.Table.AddSecret(s.Kid, SecretState{Digest: s.Digest, Pepper: pepper, Foreign: !ok, Test: s.Mode == Test, EndsAt: s.EndsAt, Key: state})
	}
	bodies, _ := GrantBodies(k.Grants)
	grants, err := NewGrants(f.cfg.Parser, bodies, k.AsOf)
	if err != nil {
		return err
	}
	state.SetGrants(grants)
	return nil
}

// expectGrants finds out whether there may be grants of other subjects than keys.
func (f *Follower) expectGrants(ctx context.Context, customer *Customer) error {
	list, err := f.cfg.Record.Grants(ctx, GrantQuery{Customer: customer.ID, Status: GrantAll, Now: f.cfg.Now(), Limit: 1})
	if err != nil {
		return err
	}
	entitled, err := f.cfg.Record.Entitled(ctx)
	if len(list) > 0 || slices.Contains(entitled, customer.ID) {
		customer.ExpectGrants()
	}
	return err
}

// knowCustomer takes in whether the customer has ended.
func (f *Follower) knowCustomer(ctx context.Context, customer *Customer) error {
	r, err := f.cfg.Record.CustomerRecord(ctx, customer.ID)
	if err == nil && r.Ended() {
		customer.Delete()
	}
	return err
}

// knowRules puts in force what the customer decides by, unless it is. Where a
// bundle is what it decides by, there is nothing to follow.
func (f *Follower) knowRules(ctx context.Context, c *followed, customer *Customer) error {
	if customer.Deleted() || f.cfg.Origin != nil && f.cfg.Origin(customer.ID) != "" {
		return nil
	}
	c.mu.Lock()
	unsure := c.unsure
	c.mu.Unlock()
	var unusable []UnusablePolicy
	err := customer.Policies.Update(func(in *policies.Snapshot) (*policies.Snapshot, error) {
		have := in
		if unsure { // its revision says nothing
			have = in.Edit(-1, in.ActivatedAt, func(*policies.Draft) {})
		}
		stored, err := f.cfg.Record.Rules(ctx, customer.ID, have)
		if err != nil || stored.Same {
			return nil, err
		}
		next, bad := stored.over(in, f.cfg.Now())
		unusable = bad
		return next, nil
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.unsure = false
	c.mu.Unlock()
	if f.cfg.Unusable != nil {
		for _, p := range unusable {
			f.cfg.Unusable(p)
		}
	}
	return nil
}

// allKinds are what may have changed where nobody knows what has.
var allKinds = []feed.Kind{feed.Key, feed.Subject, feed.Resource, feed.Policy, feed.Set, feed.Customer, feed.Type, feed.Root}

// reload reads everything of a chain, of whose changes up to p the record no
// longer tells what they touched.
func (f *Follower) reload(ctx context.Context, c *followed, p Position) error {
	var err error
	if c.id == audit.SystemChain {
		err = f.followRoot(ctx) // customers are met by looks
	} else {
		customer := f.meet(c.id)
		if p.DeletedAt != latchkey.Never {
			customer.Delete()
		}
		err = errors.Join(f.knowAll(ctx, customer), f.expectGrants(ctx, customer), f.cfg.Directory.reload(ctx, c.id), f.knowRules(ctx, c, customer))
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.failed = nil
	c.mu.Unlock()
	f.applied(c, Touched{Seq: p.Seq, At: f.cfg.Now(), All: allKinds})
	c.mu.Lock()
	defer c.mu.Unlock()
	f.settle(c)
	return nil
}
