package cache

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/feed"
)

// ControlPlane is what a Follower asks of a control plane. Its answers are those
// of an authenticated connection; what is signed in them is verified all the
// same. Implemented by control.Client.
type ControlPlane interface {
	// Welcome tells where the customer's changes are, and who signs.
	Welcome(ctx context.Context) (*feed.Welcome, error)
	// Feed returns the changes after the given one, once there are any or the wait
	// is over. What it is asked is the node's acknowledgement.
	Feed(ctx context.Context, epoch, after int64, node string, wait time.Duration) (*feed.Page, error)
}

// Carrier is what carries the feed beside the control planes. Nothing that it
// brings is trusted but for its signature. Implemented by Redis.
type Carrier interface {
	// Feed returns up to limit messages after the given change, of those that it
	// still has.
	Feed(ctx context.Context, customer string, after int64, limit int) ([]Posted, error)
	// Follow hands over messages after the given change, and heartbeats, until the
	// context ends.
	Follow(ctx context.Context, customer string, after int64, take func(Posted), failed func(error))
}

// FollowerState is what a Follower knows that outlives the process.
type FollowerState struct {
	Customer string
	Epoch    int64
	Keys     []ed25519.PublicKey
}

// FollowerConfig are the collaborators and settings of a Follower.
type FollowerConfig struct {
	Records *Records
	Control ControlPlane
	Carrier Carrier // nil for none
	Lease   *feed.Lease
	// Node names this process to the control planes.
	Node string
	// State is what was saved before; its zero value for nothing.
	State FollowerState
	// Save keeps what is known for the next start.
	Save func(FollowerState) error
	// Trusted is told of the keys that count, each time that they are others; nil
	// where nobody wants to know.
	Trusted func(*feed.Verifier)
	// Pinned are the only keys whose signatures count; none leaves it to the
	// control plane.
	Pinned []ed25519.PublicKey
	// Begin is told whose changes are followed, and of each epoch, before anything
	// of it counts.
	Begin func(customer string, epoch int64) error
	// Policies is the sequence number of the last change to policies that is in
	// force here, as one of the epoch; -1 for none.
	Policies func(epoch int64) int64
	// Behind is called when a control plane tells of policies that are not in force
	// here yet.
	Behind func()
	// Applied is told how long a change took to be in force here, by the clocks of
	// two machines; nil where nobody wants to know.
	Applied func(age time.Duration)
	// Staleness is the lease's: a tenth of it is how long the control plane may let
	// the node wait.
	Staleness time.Duration
	Now       func() latchkey.Instant
	Log       *slog.Logger
}

// Follower keeps Records up to date with one customer's changes, by what control
// planes tell it and what the carrier brings, whichever comes first; and the
// lease for as long as everything that a control plane knows of is in force here.
// Safe for concurrent use.
type Follower struct {
	cfg      FollowerConfig
	verifier atomic.Pointer[feed.Verifier]

	mu       sync.Mutex
	state    FollowerState
	begun    bool
	welcomed bool             // by a control plane, since the start or the last doubt
	alone    bool             // the control plane did not answer the last question
	asked    latchkey.Instant // when the keys were asked for last
	unmet    []beat           // heartbeats that tell of more than is in force here, oldest first
	heard    feed.Heartbeat   // the last one
	moved    chan struct{}    // closed when more was applied

	refused atomic.Int64
	applied atomic.Int64
}

type beat struct {
	feed.Heartbeat
	sent latchkey.Instant
}

// Bounds of a Follower's patience.
const (
	maxUnmet    = 64
	keysAgain   = 10 * time.Second // between two questions for keys, of what did not verify
	least       = 100 * time.Millisecond
	longest     = 5 * time.Second
	carrierWait = time.Second

	maxPosted      = 20_000 // messages that are read back
	maxPostedBytes = 64 << 20
	postedAtOnce   = 64
)

// NewFollower makes one; it follows from Run on.
func NewFollower(cfg FollowerConfig) *Follower {
	f := &Follower{cfg: cfg, state: cfg.State, moved: make(chan struct{})}
	f.trust(cfg.State.Keys)
	return f
}

// trust takes the keys that signatures are verified by from now on.
func (f *Follower) trust(keys []ed25519.PublicKey) {
	if len(f.cfg.Pinned) > 0 {
		keys = f.cfg.Pinned
	}
	v := feed.NewVerifier(keys...)
	f.verifier.Store(v)
	if f.cfg.Trusted != nil {
		f.cfg.Trusted(v)
	}
}

// Verifier holds the keys that are trusted now; without any before a control
// plane was reached.
func (f *Follower) Verifier() *feed.Verifier { return f.verifier.Load() }

// Run follows until ctx ends.
func (f *Follower) Run(ctx context.Context) {
	var loops sync.WaitGroup
	defer loops.Wait()
	first := make(chan struct{}) // the control plane was asked once
	loops.Go(func() { f.followControl(ctx, sync.OnceFunc(func() { close(first) })) })
	if f.cfg.Carrier == nil {
		return
	}
	select {
	case <-first: // it knows better, where it answers
	case <-ctx.Done():
	}
	loops.Go(func() { f.followCarrier(ctx) })
}

// followControl asks a control plane, again and again. The first question is
// answered, or has failed, when done is called.
func (f *Follower) followControl(ctx context.Context, done func()) {
	retry, wait := least, time.Duration(0)
	for ctx.Err() == nil {
		err := f.askControl(ctx, wait)
		f.mu.Lock()
		f.alone = err != nil
		f.mu.Unlock()
		done()
		if err != nil {
			if retry == least && ctx.Err() == nil {
				f.cfg.Log.Warn("the control plane does not tell of changes", "error", err.Error())
			}
			pause(ctx, retry, nil)
			retry, wait = min(2*retry, longest), 0
			continue
		}
		retry, wait = least, max(time.Second, f.cfg.Staleness/10)
	}
}

func (f *Follower) askControl(ctx context.Context, wait time.Duration) error {
	f.mu.Lock()
	welcomed := f.welcomed
	f.mu.Unlock()
	if !welcomed {
		w, err := f.cfg.Control.Welcome(ctx)
		if err != nil {
			return err
		}
		if err := f.welcome(ctx, w); err != nil {
			return err
		}
	}
	f.mu.Lock()
	epoch, after := f.cfg.Records.At(f.state.Customer)
	f.mu.Unlock()
	sent := f.cfg.Now()
	page, err := f.cfg.Control.Feed(ctx, epoch, after, f.cfg.Node, wait)
	if err != nil {
		return err
	}
	return f.page(page, epoch, after, sent)
}

// welcome takes in what a control plane tells at the beginning, or when the
// keys were in doubt.
func (f *Follower) welcome(ctx context.Context, w *feed.Welcome) error {
	f.mu.Lock()
	begun := f.begun && f.state.Epoch == w.Epoch
	f.mu.Unlock()
	var posted []Posted
	if !begun && latchkey.ValidName(w.Customer) {
		posted = f.posted(ctx, w.Customer)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !latchkey.ValidName(w.Customer) || f.state.Customer != "" && f.state.Customer != w.Customer:
		return fmt.Errorf("the key is the customer %q's, and what is kept here is %q's", w.Customer, f.state.Customer)
	case w.Epoch < f.state.Epoch:
		return fmt.Errorf("the control plane is in the epoch %d, before %d", w.Epoch, f.state.Epoch)
	}
	state := FollowerState{Customer: w.Customer, Epoch: w.Epoch, Keys: w.Public()}
	f.trust(state.Keys)
	if !f.begun || f.state.Epoch != state.Epoch {
		chain := f.chain(posted, state.Customer, state.Epoch)
		if len(chain) > 0 && chain[0].Epoch != state.Epoch {
			chain = nil
		}
		if err := f.begin(state, w.Head, chain); err != nil {
			return err
		}
	}
	f.state, f.welcomed, f.asked = state, true, f.cfg.Now()
	if f.cfg.Save != nil {
		if err := f.cfg.Save(state); err != nil {
			f.cfg.Log.Error("what a start without the control plane needs cannot be kept", "error", err.Error())
		}
	}
	return nil
}

// posted reads back what the carrier has of the feed, or the end of it where it
// has more than fits.
func (f *Follower) posted(ctx context.Context, customer string) (all []Posted) {
	if f.cfg.Carrier == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	size := 0
	for after, read := int64(0), 0; read < maxPosted; read += postedAtOnce {
		list, err := f.cfg.Carrier.Feed(ctx, customer, after, postedAtOnce)
		if err != nil || len(list) == 0 {
			return all
		}
		all = append(all, list...)
		for i := range list {
			size += len(list[i].Text)
		}
		for size > maxPostedBytes {
			size -= len(all[0].Text)
			all[0] = Posted{}
			all = all[1:]
		}
		next := list[len(list)-1].Seq
		if next <= after {
			return all
		}
		after = next
	}
	return all
}

// chain is the end of what was posted that verifies and has no gap, of the
// highest epoch that is not below the given one.
func (f *Follower) chain(posted []Posted, customer string, epoch int64) (chain []*feed.Message) {
	v := f.Verifier()
	for _, p := range posted {
		if p.Beat {
			continue
		}
		m, err := v.OpenMessage(p.Text, customer)
		if err != nil {
			f.refused.Add(1)
			continue
		}
		if m.Epoch < epoch {
			continue
		}
		if n := len(chain); n > 0 && (m.Epoch != epoch || m.Seq != chain[n-1].Seq+1) {
			chain = chain[:0]
		}
		epoch = m.Epoch
		chain = append(chain, m)
	}
	return chain
}

// begin starts the records in an epoch: where the chain begins, all of which is
// applied, or else at the head. Who hides or replays some of what was posted
// gains nothing: without a fresh heartbeat the lease does not hold, and with it
// everything up to its head must have been applied. f.mu is held.
func (f *Follower) begin(state FollowerState, head int64, chain []*feed.Message) error {
	if err := f.cfg.Begin(state.Customer, state.Epoch); err != nil {
		return err
	}
	if len(chain) > 0 {
		head = chain[0].Seq - 1
	}
	f.start(state, head)
	for _, m := range chain {
		f.cfg.Records.Apply(m)
		head = m.Seq
	}
	f.progress(head)
	return nil
}

// start forgets everything from before a change; f.mu is held.
func (f *Follower) start(state FollowerState, head int64) {
	f.state, f.begun, f.unmet = state, true, nil
	f.cfg.Records.Start(state.Customer, state.Epoch, head)
	f.progress(head)
}

func (f *Follower) progress(seq int64) {
	f.applied.Store(seq)
	close(f.moved)
	f.moved = make(chan struct{})
}

// page takes in a piece of the feed that was asked for.
func (f *Follower) page(p *feed.Page, epoch, after int64, sent latchkey.Instant) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p.Epoch != epoch || f.state.Epoch != epoch {
		f.welcomed = false // one of us is elsewhere
		if p.Epoch < f.state.Epoch {
			return fmt.Errorf("the control plane is in the epoch %d, before %d", p.Epoch, f.state.Epoch)
		}
		return nil
	}
	if len(p.Messages) == 0 && p.From > after+1 {
		if _, at := f.cfg.Records.At(f.state.Customer); at <= after { // else the carrier knew more
			f.cfg.Log.Warn("changes were missed; what was read before is read again", "after", after, "head", p.Head)
			f.start(f.state, p.Head)
		}
	}
	for _, text := range p.Messages {
		if err := f.message([]byte(text)); err != nil {
			f.doubt()
			return err
		}
	}
	if p.Heartbeat == "" {
		return nil
	}
	if err := f.heartbeat([]byte(p.Heartbeat), sent, true); err != nil {
		f.doubt()
		return err
	}
	return nil
}

// errGap answers a message after one that is not known.
var errGap = errors.New("a change before it is not known")

// message takes in one; f.mu is held.
func (f *Follower) message(text []byte) error {
	m, err := f.Verifier().OpenMessage(text, f.state.Customer)
	if err != nil {
		f.refused.Add(1)
		return err
	}
	switch {
	case m.Epoch > f.state.Epoch:
		f.welcomed = false
		return errGap
	case m.Epoch < f.state.Epoch:
		f.refused.Add(1)
		return errGap
	}
	_, at := f.cfg.Records.At(f.state.Customer)
	if m.Seq <= at {
		return nil
	}
	if !f.cfg.Records.Apply(m) {
		return errGap
	}
	if f.cfg.Applied != nil {
		f.cfg.Applied(since(m.At, f.cfg.Now()))
	}
	f.progress(m.Seq)
	f.settle()
	return nil
}

// heartbeat takes in one; f.mu is held. sent is when it was asked for, or came.
func (f *Follower) heartbeat(text []byte, sent latchkey.Instant, asked bool) error {
	h, err := f.Verifier().OpenHeartbeat(text, f.state.Customer)
	if err != nil {
		f.refused.Add(1)
		return err
	}
	now := f.cfg.Now()
	if asked && since(sent, now) >= time.Second { // it was waited for
		sent, asked = now, false
	}
	switch {
	case h.Epoch > f.state.Epoch:
		f.welcomed = false
		return nil
	case h.Epoch < f.state.Epoch, h.At <= f.heard.At && h.Issuer == f.heard.Issuer && h.Epoch == f.heard.Epoch:
		return nil // it was heard already
	}
	f.heard = *h
	f.cfg.Lease.Compare(h.At, sent, now, asked)
	if len(f.unmet) < maxUnmet {
		f.unmet = append(f.unmet, beat{*h, sent})
	}
	f.settle()
	return nil
}

// settle renews the lease by the heartbeats whose changes are all in force here;
// f.mu is held.
func (f *Follower) settle() {
	_, at := f.cfg.Records.At(f.state.Customer)
	policies := f.cfg.Policies(f.state.Epoch)
	left := f.unmet[:0]
	for _, b := range f.unmet {
		if b.Head > at || b.Policies > policies {
			left = append(left, b)
			continue
		}
		f.cfg.Lease.Renew(b.At, b.sent)
	}
	if f.unmet = left; len(left) > 0 && left[len(left)-1].Policies > policies && f.cfg.Behind != nil {
		f.cfg.Behind()
	}
}

// Activated tells it that other policies are in force.
func (f *Follower) Activated() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settle()
}

// doubt asks for the keys again, but not at every turn: what does not verify may
// be anybody's. f.mu is held.
func (f *Follower) doubt() {
	if since(f.asked, f.cfg.Now()) >= keysAgain {
		f.welcomed = false
	}
}

// followCarrier takes in what the carrier brings. Where that leads nowhere it is
// read again from where the records are.
func (f *Follower) followCarrier(ctx context.Context) {
	said := false
	for ctx.Err() == nil {
		stuck := int64(-1) // where the last heartbeat that told of more found the records
		f.mu.Lock()
		customer, begun, moved := f.state.Customer, f.begun, f.moved
		f.mu.Unlock()
		if customer == "" { // nobody has said yet whose changes they are
			pause(ctx, carrierWait, moved)
			continue
		}
		if !begun {
			f.beginAlone(f.posted(ctx, customer), nil)
		}
		_, after := f.cfg.Records.At(customer)
		round, end := context.WithCancel(ctx)
		var over *time.Timer
		f.cfg.Carrier.Follow(round, customer, after, func(p Posted) {
			said = false
			led := f.carried(p)
			if p.Beat {
				at, behind := f.behind()
				switch {
				case !behind:
					stuck = -1
				case at == stuck: // what it tells of does not come
					end()
					return
				default:
					stuck = at
				}
			}
			if led || over != nil {
				return
			}
			over = time.AfterFunc(carrierWait, end)
		}, func(err error) {
			if !said {
				said = true
				f.cfg.Log.Warn("the carrier of changes does not answer", "error", err.Error())
			}
		})
		end()
		if over != nil {
			over.Stop()
		}
	}
}

// carried takes in what a carrier brought, and reports whether it led somewhere.
func (f *Follower) carried(p Posted) bool {
	f.mu.Lock()
	begun := f.begun
	f.mu.Unlock()
	if !begun {
		if p.Beat {
			return f.beginAlone(nil, p.Text)
		}
		return f.beginAlone([]Posted{p}, nil)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var err error
	if p.Beat {
		err = f.heartbeat(p.Text, f.cfg.Now(), false)
	} else {
		err = f.message(p.Text)
	}
	switch {
	case err == nil:
		return true
	case errors.Is(err, feed.ErrForged):
		f.doubt()
	case f.alone: // nobody fills the gap
		f.jump(p)
	}
	return false
}

// behind is where the records are, and whether the last heartbeat told of more.
func (f *Follower) behind() (at int64, behind bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, at = f.cfg.Records.At(f.state.Customer)
	return at, f.begun && f.heard.Epoch == f.state.Epoch && f.heard.Head > at
}

// jump goes on after a gap; f.mu is held.
func (f *Follower) jump(p Posted) {
	m, err := f.Verifier().OpenMessage(p.Text, f.state.Customer)
	_, at := f.cfg.Records.At(f.state.Customer)
	if err != nil || m.Epoch != f.state.Epoch || m.Seq <= at {
		return
	}
	f.cfg.Log.Warn("changes were missed; what was read before is read again", "after", at, "next", m.Seq)
	f.start(f.state, m.Seq-1)
	_ = f.message(p.Text) // it is the next now
}

// beginAlone begins without a control plane, by the keys of an earlier start:
// with what was posted, or where a heartbeat says that the changes are.
func (f *Follower) beginAlone(posted []Posted, heartbeat []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.begun || !f.alone {
		return false
	}
	state := f.state
	chain := f.chain(posted, state.Customer, state.Epoch)
	var head int64
	if len(chain) > 0 {
		state.Epoch = chain[0].Epoch
	} else {
		h, err := f.Verifier().OpenHeartbeat(heartbeat, state.Customer)
		if err != nil || h.Epoch < state.Epoch {
			return false
		}
		state.Epoch, head = h.Epoch, h.Head
	}
	if err := f.begin(state, head, chain); err != nil {
		f.cfg.Log.Error("the changes cannot be followed", "error", err.Error())
		return false
	}
	if heartbeat != nil {
		_ = f.heartbeat(heartbeat, f.cfg.Now(), false) // it verified
	}
	return true
}

func since(then, now latchkey.Instant) time.Duration {
	return time.Duration(now-then) * time.Microsecond
}

// pause waits, less where something moves.
func pause(ctx context.Context, d time.Duration, moved <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-moved:
	case <-ctx.Done():
	}
}

// FollowerStats is where a Follower stands.
type FollowerStats struct {
	Begun   bool
	Applied int64 // sequence number of the last change that was applied
	Head    int64 // of the last one that a heartbeat told of
	Refused int64 // messages and heartbeats that were not what they were taken for
}

// Records are those that it keeps up to date.
func (f *Follower) Records() *Records { return f.cfg.Records }

// Stats tells.
func (f *Follower) Stats() FollowerStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return FollowerStats{Begun: f.begun, Applied: f.applied.Load(), Head: f.heard.Head, Refused: f.refused.Load()}
}
