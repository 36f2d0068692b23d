package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
)

// Limits of a relay.
const (
	relayBatch    = 64               // changes that are published in one go
	relayBackfill = 256              // changes of before, where Redis knows none
	relayAtOnce   = 4                // customers that are published at the same time
	relayTime     = 10 * time.Second // for one batch
	relayLeast    = 50 * time.Millisecond
	relayMost     = 2 * time.Second
	healthEvery   = 30 * time.Second
)

// RelayConfig are the collaborators of a Relay; all are required but Log.
type RelayConfig struct {
	Redis  *Redis
	Record authz.Record
	// Epoch reads the database's.
	Epoch    func(context.Context) (int64, error)
	Signer   *feed.Signer
	Verifier *feed.Verifier
	Node     string // id of the control plane
	Now      func() latchkey.Instant
	// Sidecars reports whether a customer has, or had since the start, a key
	// that sidecars may use: it gets heartbeats.
	Sidecars func(customer string) bool
	Log      *slog.Logger
}

// Relay brings changes from the database to Redis. What is to be published is
// found by comparing the two, so that nothing is lost with a process that ends
// between commit and publish, and several relays side by side do each other no
// harm. No call of its methods waits for Redis or the database, Run apart. Safe
// for concurrent use.
type Relay struct {
	cfg RelayConfig

	mu     sync.Mutex
	work   []string            // customers that wait for their turn, in order
	states map[string]*relayed // of every customer that was ever looked at
	failed map[string]struct{} // customers whose turn failed, until the next tick
	lags   map[string]int64    // customer → changes that are not published
	pause  latchkey.Instant    // until then Redis is left alone
	delay  time.Duration       // of the next pause
	wake   chan struct{}       // there is work
	health Health              // as last told
	blind  bool                // the last tick failed; its own
	asked  latchkey.Instant    // when it was
	stats  struct{ published, beats, resets atomic.Int64 }
}

// relayed is what a relay knows of a customer.
type relayed struct {
	queued, running, again bool
	head                   Head // the last that was seen; what is published begins after it
	checked                bool // what is in Redis was found to be of the database's own history
	held                   string
}

// NewRelay makes one; it works while Run does.
func NewRelay(cfg RelayConfig) *Relay {
	return &Relay{cfg: cfg, states: map[string]*relayed{}, failed: map[string]struct{}{}, lags: map[string]int64{},
		wake: make(chan struct{}, 1)}
}

// RelayStats are counts since the start, and the present state.
type RelayStats struct {
	Published int64 // changes that this relay brought to Redis
	Beats     int64 // heartbeats
	Resets    int64 // customers begun anew in Redis
	Lag       int64 // changes of all customers that are not in Redis, as last compared
	Held      int   // customers that are not published: Redis is ahead of the database, or of a later epoch
	Evicts    bool  // Redis may drop records to make room
}

// Stats returns them.
func (r *Relay) Stats() RelayStats {
	s := RelayStats{Published: r.stats.published.Load(), Beats: r.stats.beats.Load(), Resets: r.stats.resets.Load()}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, lag := range r.lags {
		s.Lag += lag
	}
	for _, state := range r.states {
		if state.held != "" {
			s.Held++
		}
	}
	s.Evicts = r.health.Evicts()
	return s
}

// Kick says that a customer's changes now go up to seq.
func (r *Relay) Kick(customer string, seq int64) {
	if !latchkey.ValidName(customer) {
		return // the chain outside customers
	}
	r.mu.Lock()
	state := r.state(customer)
	if state.head.Found && state.head.Seq >= seq && state.held == "" {
		r.mu.Unlock()
		return
	}
	r.enqueue(customer, state)
	r.mu.Unlock()
	poke(r.wake)
}

// Fill gives Redis a record that a node asked for, with its signed text and the
// time before it was read. One that may be out of date is left out.
func (r *Relay) Fill(ctx context.Context, rec *feed.Record, text []byte, readAt latchkey.Instant) error {
	_, err := r.cfg.Redis.Fill(ctx, rec.Customer, rec.Epoch, StoredRecord(rec, text), readAt)
	return err
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// state finds what is known of a customer; r is locked.
func (r *Relay) state(customer string) *relayed {
	state, ok := r.states[customer]
	if !ok {
		state = new(relayed)
		r.states[customer] = state
	}
	return state
}

// enqueue gives a customer a turn, after the present one where it has one; r is
// locked.
func (r *Relay) enqueue(customer string, state *relayed) {
	switch {
	case state.running:
		state.again = true
	case !state.queued:
		state.queued = true
		r.work = append(r.work, customer)
	}
}

// Run works until the context ends: for what it is kicked for at once, and at
// each tick it sends heartbeats and looks at everything.
func (r *Relay) Run(ctx context.Context, ticks <-chan time.Time) {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() {
		for {
			r.tick(ctx)
			select {
			case <-ctx.Done():
				return
			case <-ticks:
			}
		}
	})
	turns := make(chan struct{}, relayAtOnce)
	for {
		customer, ok := r.next()
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-r.wake:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case turns <- struct{}{}:
		}
		if !r.rest(ctx) {
			return
		}
		all.Go(func() {
			defer func() { <-turns }()
			r.turn(ctx, customer)
		})
	}
}

func (r *Relay) next() (customer string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.work) == 0 {
		return "", false
	}
	customer, r.work = r.work[0], r.work[1:]
	state := r.states[customer]
	state.queued, state.running = false, true
	return customer, true
}

// rest waits while Redis is left alone.
func (r *Relay) rest(ctx context.Context) bool {
	for {
		r.mu.Lock()
		left := time.Duration(r.pause-r.cfg.Now()) * time.Microsecond
		r.mu.Unlock()
		if left <= 0 {
			return ctx.Err() == nil
		}
		timer := time.NewTimer(left)
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
		}
	}
}

// turn publishes one customer's changes.
func (r *Relay) turn(ctx context.Context, customer string) {
	err := r.publish(ctx, customer)
	r.mu.Lock()
	defer r.mu.Unlock()
	state := r.states[customer]
	state.running = false
	if err == nil {
		r.delay = 0
		delete(r.failed, customer)
		if state.again {
			state.again = false
			r.enqueue(customer, state)
			poke(r.wake)
		}
		return
	}
	state.again = false
	if ctx.Err() != nil {
		return
	}
	r.cfg.Log.Warn("changes were not published", "customer", customer, "error", err.Error())
	state.head = Head{}
	r.failed[customer] = struct{}{}
	r.delay = min(max(2*r.delay, relayLeast), relayMost)
	r.pause = r.cfg.Now().Add(r.delay/2 + rand.N(r.delay))
}

// errHeld answers a customer that is not published until an operator has acted.
var errHeld = errors.New("it is held")

// Catch publishes a customer's changes, and returns when Redis has them all or
// the customer is held.
func (r *Relay) Catch(ctx context.Context, customer string) error { return r.publish(ctx, customer) }

// publish brings Redis to where the database is. What is remembered of Redis'
// head saves asking for it; the scripts say when it is not so any more.
func (r *Relay) publish(ctx context.Context, customer string) error {
	r.mu.Lock()
	head := r.state(customer).head
	r.mu.Unlock()
	epoch, err := r.cfg.Epoch(ctx)
	if err != nil {
		return err
	}
	for starts := 0; ; {
		if !head.Found || head.Epoch != epoch {
			if starts++; starts > 10 {
				return errors.New("somebody else changes what is in Redis")
			}
			if head, err = r.start(ctx, customer, epoch); err != nil {
				if errors.Is(err, errHeld) {
					return nil
				}
				return err
			}
			if !head.Found {
				continue
			}
		}
		more, next, err := r.batch(ctx, customer, epoch, head)
		if err != nil {
			return err
		}
		head = next
		if !more && head.Found {
			r.note(customer, head, "")
			return nil
		}
	}
}

// start looks at Redis' head and its last message, and makes the customer begin anew there where the
// head is of an earlier epoch, none at all, or ahead of the database.
func (r *Relay) start(ctx context.Context, customer string, epoch int64) (Head, error) {
	ctx, cancel := context.WithTimeout(ctx, relayTime)
	defer cancel()
	head, err := r.cfg.Redis.Head(ctx, customer)
	if err != nil {
		return head, err
	}
	if head.Found && head.Epoch > epoch {
		return head, r.hold(customer, fmt.Sprintf("Redis is of the later epoch %d, the database of %d", head.Epoch, epoch))
	}
	// After the head: what is committed meanwhile is no reason to doubt it.
	at, err := r.cfg.Record.Position(ctx, customer)
	if err != nil {
		return head, err
	}
	why := "it was not there"
	switch {
	case head.Found && head.Epoch < epoch:
		why = "it was of an earlier epoch"
	case head.Found:
		what, err := r.lost(ctx, customer, epoch, at.Seq)
		switch {
		case err != nil:
			return head, err
		case what != "":
			return head, r.hold(customer, what)
		case head.Seq <= at.Seq:
			r.check(customer)
			return head, nil
		}
		why = "its head was ahead of the database"
		r.cfg.Log.Error("the head in Redis is not one that a control plane has put there", "customer", customer, "head", head.Seq, "database", at.Seq)
	case head.raw != "":
		why = "its head was not one"
	}
	// Those who follow then find no gap, where the changes are still known.
	seq := max(at.Seq-relayBackfill, 0)
	if seq < at.Seq {
		known, err := r.cfg.Record.Changes(ctx, customer, seq, 1)
		if err != nil {
			return head, err
		}
		if len(known) == 0 {
			seq = at.Seq
		}
	}
	next, outcome, err := r.cfg.Redis.Reset(ctx, customer, head, epoch, seq)
	if err != nil {
		return head, err
	}
	if outcome != OutcomeReset {
		return Head{}, nil // another relay was first: look again
	}
	r.stats.resets.Add(1)
	r.check(customer)
	r.cfg.Log.Warn("a customer begins anew in Redis", "customer", customer, "because", why, "after", seq)
	return next, nil
}

// check notes that Redis and the database were found to be of one history.
func (r *Relay) check(customer string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state(customer).checked = true
}

// lost tells what the database, which is at seq, has lost: a change of this
// epoch of which Redis has the signed message, and the database none, or
// another. Nodes may have applied it; what has its number now they would not
// take.
func (r *Relay) lost(ctx context.Context, customer string, epoch, seq int64) (string, error) {
	last, found, err := r.cfg.Redis.lastPosted(ctx, customer)
	if err != nil || !found {
		return "", err
	}
	m, err := r.cfg.Verifier.OpenMessage(last.Text, customer)
	if err != nil || m.Epoch != epoch {
		return "", nil
	}
	if m.Seq > seq {
		return fmt.Sprintf("Redis has change %d, which the database has lost: it is at %d", m.Seq, seq), nil
	}
	same, err := r.cfg.Record.Changes(ctx, customer, m.Seq-1, 1)
	if err != nil {
		return "", err
	}
	if len(same) > 0 && same[0].At != m.At {
		return fmt.Sprintf("Redis has a change %d of %s, and the database another one of %s", m.Seq, m.At, same[0].At), nil
	}
	return "", nil
}

// hold stops publishing for a customer, and its heartbeats, until Redis or the
// database has changed.
func (r *Relay) hold(customer string, why string) error {
	r.note(customer, Head{}, why)
	return errHeld
}

func (r *Relay) note(customer string, head Head, held string) {
	r.mu.Lock()
	state := r.state(customer)
	before := state.held
	state.head, state.held = head, held
	if held == "" {
		delete(r.lags, customer)
	}
	r.mu.Unlock()
	switch {
	case held != "" && before == "":
		r.cfg.Log.Error("a customer is not published any more: where a backup was put back, run 'latchkey store new-epoch'", "customer", customer, "because", held)
	case held == "" && before != "":
		r.cfg.Log.Info("a customer is published again", "customer", customer)
	}
}

// batch publishes what comes after the head. It reports whether there may be
// more, and the head then; one that is not found is to be looked at again.
func (r *Relay) batch(ctx context.Context, customer string, epoch int64, head Head) (more bool, next Head, err error) {
	ctx, cancel := context.WithTimeout(ctx, relayTime)
	defer cancel()
	changes, err := r.cfg.Record.Changes(ctx, customer, head.Seq, relayBatch)
	if err != nil {
		return false, head, err
	}
	if len(changes) == 0 {
		at, err := r.cfg.Record.Position(ctx, customer)
		switch {
		case err != nil:
			return false, head, err
		case at.Seq == head.Seq:
			return false, head, nil
		case at.Seq < head.Seq: // it may be ahead
			return true, Head{}, nil
		}
		// The change after the head may just have been made, else it is not known any
		// more.
		if changes, err = r.cfg.Record.Changes(ctx, customer, head.Seq, relayBatch); err != nil {
			return false, head, err
		}
		if len(changes) == 0 {
			next, outcome, err := r.cfg.Redis.Reset(ctx, customer, head, epoch, at.Seq)
			if err != nil {
				return false, head, err
			}
			if outcome == OutcomeReset {
				r.stats.resets.Add(1)
				r.cfg.Log.Warn("a customer begins anew in Redis", "customer", customer, "because", "the changes after its head are not known any more", "after", at.Seq)
				return true, next, nil
			}
			return true, Head{}, nil
		}
	}
	// A full batch is a backlog: whoever follows knows most of it, and to read a
	// record for each change would cost the database as much as the changes did.
	entries := make([]Entry, len(changes))
	maker := &authz.RecordMaker{Record: r.cfg.Record, Epoch: epoch}
	for i, c := range changes {
		if entries[i], err = r.entry(ctx, maker, customer, c, len(changes) < relayBatch); err != nil {
			return false, head, err
		}
	}
	next, outcome, taken, err := r.cfg.Redis.Publish(ctx, customer, epoch, entries)
	r.stats.published.Add(int64(taken))
	if err != nil {
		return false, head, err
	}
	if outcome == OutcomeTaken || outcome == OutcomeRepeated {
		return true, next, nil
	}
	if outcome == OutcomeDamaged { // no end of changes could be put there
		_, outcome, err := r.cfg.Redis.Reset(ctx, customer, next, epoch, changes[0].Seq-1)
		if err != nil || outcome != OutcomeReset {
			return true, Head{}, err
		}
		r.stats.resets.Add(1)
		r.cfg.Log.Error("the feed in Redis is not as a control plane has left it: it begins anew", "customer", customer)
		return true, Head{}, nil // to be counted: it may be damaged again at once
	}
	return true, Head{}, nil // it is not where it was taken to be
}

// entry makes of a change what Redis takes: message and records, signed. Without
// records who needs one asks for it.
func (r *Relay) entry(ctx context.Context, maker *authz.RecordMaker, customer string, c authz.Touched, records bool) (Entry, error) {
	m := maker.Bare(customer, c)
	if records {
		var err error
		if m, err = maker.Message(ctx, customer, c, r.cfg.Now()); err != nil {
			return Entry{}, err
		}
	}
	var err error
	e := Entry{Seq: c.Seq, All: len(c.All) > 0}
	if e.Text, err = r.cfg.Signer.SignMessage(m); err != nil {
		return e, err
	}
	for i := range m.Records {
		text, err := r.cfg.Signer.SignRecord(&m.Records[i])
		if err != nil {
			return e, err
		}
		e.Records = append(e.Records, StoredRecord(&m.Records[i], text))
	}
	for _, ref := range c.Refs {
		switch ref.Kind {
		case feed.Key, feed.Subject, feed.Resource:
		default:
			continue
		}
		if !slices.ContainsFunc(m.Records, func(rec feed.Record) bool { return rec.Ref == ref }) {
			e.Records = append(e.Records, Stored{Names: []string{ref.String()}, Version: c.Seq})
		}
	}
	return e, nil
}

// tick compares Redis with the database, gives customers that are behind a turn,
// and sends heartbeats.
func (r *Relay) tick(ctx context.Context) {
	r.mu.Lock()
	for customer := range r.failed {
		r.enqueue(customer, r.state(customer))
	}
	clear(r.failed)
	r.mu.Unlock()
	poke(r.wake)
	ctx, cancel := context.WithTimeout(ctx, relayTime)
	defer cancel()
	err := r.compare(ctx)
	switch {
	case errors.Is(err, context.Canceled):
	case err != nil && !r.blind:
		r.cfg.Log.Error("Redis is not compared with the database, and there are no heartbeats", "error", err.Error())
		r.blind = true
	case err == nil && r.blind:
		r.cfg.Log.Info("Redis is compared with the database again")
		r.blind = false
	}
}

func (r *Relay) compare(ctx context.Context) error {
	at := r.cfg.Now() // before what heartbeats tell is read
	swept, err := r.cfg.Record.Positions(ctx)
	if err != nil {
		return err
	}
	epoch, err := r.cfg.Epoch(ctx)
	if err != nil {
		return err
	}
	positions := make([]authz.Position, 0, len(swept))
	customers := make([]string, 0, len(swept))
	for _, p := range swept {
		if latchkey.ValidName(p.Chain) {
			positions, customers = append(positions, p), append(customers, p.Chain)
		}
	}
	heads, err := r.cfg.Redis.Heads(ctx, customers)
	if err != nil {
		return err
	}
	var beats []authz.Position // of customers whom Redis is not ahead of
	for i, p := range positions {
		head := heads[i]
		if head.Found && head.Epoch == epoch && head.Seq > p.Seq { // unless it was published just now
			again, err := r.cfg.Record.Position(ctx, p.Chain)
			if err != nil {
				return err
			}
			p.Seq = again.Seq
		}
		if r.see(p, head, epoch) && p.DeletedAt == latchkey.Never && r.cfg.Sidecars(p.Chain) {
			beats = append(beats, positions[i])
		}
	}
	poke(r.wake)
	if err := r.beat(ctx, at, epoch, beats); err != nil {
		return err
	}
	r.look(ctx)
	return nil
}

// see compares Redis with the database for a customer, and gives it a turn where
// they differ. It reports whether Redis is known not to be ahead.
func (r *Relay) see(p authz.Position, head Head, epoch int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	state := r.state(p.Chain)
	if head.Found && head.Epoch == epoch && head.Seq == p.Seq && state.checked && state.held == "" {
		if !state.running {
			state.head = head
		}
		delete(r.lags, p.Chain)
		return true
	}
	r.lags[p.Chain] = p.Seq
	if head.Epoch == epoch {
		r.lags[p.Chain] = max(p.Seq-head.Seq, 0)
	}
	if !state.running {
		state.head = Head{}
	}
	r.enqueue(p.Chain, state)
	return state.checked && state.held == "" && (!head.Found || head.Epoch < epoch || head.Epoch == epoch && head.Seq <= p.Seq)
}

// beat sends heartbeats.
func (r *Relay) beat(ctx context.Context, at latchkey.Instant, epoch int64, positions []authz.Position) error {
	beats := make([]Beat, len(positions))
	for i, p := range positions {
		text, err := r.cfg.Signer.SignHeartbeat(&feed.Heartbeat{Customer: p.Chain, Issuer: r.cfg.Node, At: at, Epoch: epoch, Head: p.Seq, Policies: p.Policies})
		if err != nil {
			return err
		}
		beats[i] = Beat{p.Chain, text}
	}
	if err := r.cfg.Redis.Beats(ctx, beats); err != nil {
		return err
	}
	r.stats.beats.Add(int64(len(beats)))
	return nil
}

// look asks Redis now and then how it is.
func (r *Relay) look(ctx context.Context) {
	now := r.cfg.Now()
	r.mu.Lock()
	due := r.asked == 0 || now >= r.asked.Add(healthEvery)
	r.mu.Unlock()
	if !due {
		return
	}
	health, err := r.cfg.Redis.Health(ctx)
	r.mu.Lock()
	before := r.health
	r.asked = now
	if err == nil {
		r.health = health
	}
	r.mu.Unlock()
	if err != nil {
		r.cfg.Log.Error("Redis is not as it should be, or does not tell", "error", err.Error())
		return
	}
	if health.Evicts() && !before.Evicts() {
		WarnOfEviction(r.cfg.Log, health)
	}
}

// WarnOfEviction says that Redis is set up to drop what it must keep.
func WarnOfEviction(log *slog.Logger, h Health) {
	log.Error("Redis drops records to make room: set its maxmemory-policy to noeviction", "maxmemory_policy", h.Policy)
}

// Ahead lists the customers that Redis knows changes of which the database does
// not have: after a start, the sign of a backup that was put back.
func (r *Relay) Ahead(ctx context.Context, positions []authz.Position) ([]string, error) {
	epoch, err := r.cfg.Epoch(ctx)
	if err != nil {
		return nil, err
	}
	var customers []string
	seqs := map[string]int64{}
	for _, p := range positions {
		if latchkey.ValidName(p.Chain) {
			customers = append(customers, p.Chain)
			seqs[p.Chain] = p.Seq
		}
	}
	heads, err := r.cfg.Redis.Heads(ctx, customers)
	if err != nil {
		return nil, err
	}
	var ahead []string
	for i, head := range heads {
		customer := customers[i]
		switch {
		case !head.Found || head.Epoch < epoch || head.Epoch == epoch && head.Seq <= seqs[customer]:
			continue
		case head.Epoch == epoch: // another server may have made the change just now
			at, err := r.cfg.Record.Position(ctx, customer)
			if err != nil {
				return nil, err
			}
			if head.Seq <= at.Seq {
				continue
			}
		}
		ahead = append(ahead, customer)
	}
	return ahead, nil
}
