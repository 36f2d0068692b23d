package cache_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/feed"
)

func feedSigner(t *testing.T, seed byte) *feed.Signer {
	t.Helper()
	b := make([]byte, 32)
	b[0] = seed
	s, err := feed.NewSigner(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fleet is a control plane and a carrier, as a follower sees them.
type fleet struct {
	t      *testing.T
	signer *feed.Signer

	mu       sync.Mutex
	down     bool // the control plane
	silent   bool // the carrier
	epoch    int64
	messages map[int64][]byte // of the control plane
	head     int64
	oldest   int64 // the first change that the control plane still tells
	policies int64
	welcomes int
	acks     []int64
	posted   []cache.Posted // in the carrier
	keys     []ed25519.PublicKey
}

func newFleet(t *testing.T) *fleet {
	s := feedSigner(t, 1)
	return &fleet{t: t, signer: s, epoch: 1, oldest: 1, messages: map[int64][]byte{}, keys: []ed25519.PublicKey{s.Public()}}
}

// change makes a change that touches a record; carried says that the carrier has
// it too.
func (f *fleet) change(ref feed.Ref, carried bool) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.head++
	text, err := f.signer.SignMessage(&feed.Message{Customer: "acme", Epoch: f.epoch, Seq: f.head, At: now(), Touched: []feed.Ref{ref}})
	if err != nil {
		f.t.Fatal(err)
	}
	f.messages[f.head] = text
	if carried {
		f.posted = append(f.posted, cache.Posted{Seq: f.head, Text: text})
	}
}

func (f *fleet) beat() []byte {
	text, err := f.signer.SignHeartbeat(&feed.Heartbeat{Customer: "acme", Issuer: "cp", At: now(), Epoch: f.epoch, Head: f.head, Policies: f.policies})
	if err != nil {
		f.t.Fatal(err)
	}
	return text
}

var errDown = errors.New("down")

func (f *fleet) Welcome(context.Context) (*feed.Welcome, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, errDown
	}
	f.welcomes++
	w := &feed.Welcome{Customer: "acme", Epoch: f.epoch, Head: f.head, Policies: f.policies}
	for _, k := range f.keys {
		w.Keys = append(w.Keys, feed.VerificationKey{ID: feed.KeyID(k), PublicKey: k})
	}
	return w, nil
}

func (f *fleet) Feed(ctx context.Context, epoch, after int64, _ string, wait time.Duration) (*feed.Page, error) {
	deadline := time.Now().Add(wait)
	for {
		f.mu.Lock()
		if f.down {
			f.mu.Unlock()
			return nil, errDown
		}
		p := &feed.Page{Epoch: f.epoch, Head: f.head, From: after + 1, Heartbeat: string(f.beat())}
		switch {
		case epoch != f.epoch, after+1 < f.oldest:
			p.From = f.head + 1
		default:
			for seq := after + 1; seq <= f.head; seq++ {
				p.Messages = append(p.Messages, string(f.messages[seq]))
			}
		}
		f.acks = append(f.acks, after)
		f.mu.Unlock()
		if len(p.Messages) > 0 || p.From > after+1 || epoch != p.Epoch || !time.Now().Before(deadline) {
			return p, nil
		}
		if !tick(ctx) {
			return nil, ctx.Err()
		}
	}
}

func tick(ctx context.Context) bool {
	timer := time.NewTimer(10 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// carrier is the fleet's other side.
type carrier struct{ *fleet }

func (c carrier) Feed(_ context.Context, _ string, after int64, limit int) (list []cache.Posted, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silent {
		return nil, errDown
	}
	for _, p := range c.posted {
		if p.Seq > after && len(list) < limit && !p.Beat {
			list = append(list, p)
		}
	}
	return list, nil
}

func (c carrier) Follow(ctx context.Context, _ string, after int64, take func(cache.Posted), failed func(error)) {
	next := 0
	for tick(ctx) {
		c.mu.Lock()
		list, silent := c.posted[next:], c.silent
		next = len(c.posted)
		c.mu.Unlock()
		if silent {
			failed(errDown)
			continue
		}
		for _, p := range list {
			if p.Beat || p.Seq > after {
				take(p)
			}
		}
	}
}

func (f *fleet) post(p cache.Posted) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.posted = append(f.posted, p)
}

func (f *fleet) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// follower is one that runs until the test ends.
type follower struct {
	*cache.Follower
	records *cache.Records
	lease   *feed.Lease
	saved   []cache.FollowerState
	began   []int64
	held    int64 // policies in force
	behind  int
}

func (f *fleet) follow(t *testing.T, change func(*cache.FollowerConfig)) *follower {
	t.Helper()
	n := &follower{lease: feed.NewLease(30*time.Second, 5*time.Second)}
	n.records = cache.NewRecords(cache.RecordsConfig{MaxBytes: 1 << 20, Wait: time.Second, Missing: time.Second, Now: now,
		Decode: func(r *feed.Record) (any, int, error) { return r.Version, 8, nil }})
	cfg := cache.FollowerConfig{Records: n.records, Control: f, Lease: n.lease, Node: "n1", Staleness: 30 * time.Second, Now: now,
		Save:     func(s cache.FollowerState) error { n.saved = append(n.saved, s); return nil },
		Begin:    func(_ string, epoch int64) error { n.began = append(n.began, epoch); return nil },
		Policies: func(int64) int64 { return n.held },
		Behind:   func() { n.behind++ },
		Log:      slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	n.Follower = cache.NewFollower(cfg)
	ctx, end := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { n.Run(ctx); close(done) }()
	t.Cleanup(func() { end(); <-done })
	return n
}

func (n *follower) at() int64 {
	_, seq := n.records.At("acme")
	return seq
}

// settle lets time pass, in a bubble.
func settle(d time.Duration) {
	timer := time.NewTimer(d)
	<-timer.C
	synctest.Wait()
}

var alice = feed.Ref{Kind: feed.Subject, Type: "user", ID: "alice"}

func TestFollower_FollowsTheControlPlaneAndAcknowledges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.change(alice, false)
		n := f.follow(t, nil)
		settle(100 * time.Millisecond)
		if n.at() != 1 || !n.lease.Holds(now()) || len(n.saved) != 1 || n.saved[0].Customer != "acme" {
			t.Fatalf("at %d, lease until %v, saved %v", n.at(), n.lease.Until(), n.saved)
		}
		f.change(alice, false)
		settle(50 * time.Millisecond)
		f.mu.Lock()
		last := f.acks[len(f.acks)-1]
		f.mu.Unlock()
		if n.at() != 2 || last < 1 {
			t.Errorf("at %d, acknowledged %d", n.at(), last)
		}
		settle(time.Minute)
		if !n.lease.Holds(now()) {
			t.Error("with a control plane that answers the lease runs out")
		}
		f.set(func() { f.down = true })
		settle(26 * time.Second)
		if !n.lease.Holds(now()) {
			t.Error("the lease ends too early")
		}
		settle(5 * time.Second)
		if n.lease.Holds(now()) {
			t.Error("without a control plane the lease goes on")
		}
		f.set(func() { f.down = false })
		f.change(alice, false)
		settle(10 * time.Second)
		if n.at() != 3 || !n.lease.Holds(now()) {
			t.Errorf("after it came back: at %d, lease %v", n.at(), n.lease.Holds(now()))
		}
	})
}

// A heartbeat counts once everything that it tells of is in force here.
func TestFollower_TheLeaseWaitsForThePolicies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.change(alice, false)
		f.set(func() { f.policies = 1 })
		n := f.follow(t, nil)
		settle(10 * time.Second)
		if n.lease.Until() != 0 || n.behind == 0 {
			t.Fatalf("the lease is %v without the policies; asked for them %d times", n.lease.Until(), n.behind)
		}
		n.held = 1
		n.Activated()
		if !n.lease.Holds(now()) {
			t.Error("the policies are in force, and the lease does not hold")
		}
	})
}

func TestFollower_TakesWhatSpeaksFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		for range 5 {
			f.change(alice, true)
		}
		n := f.follow(t, func(c *cache.FollowerConfig) { c.Carrier = carrier{f} })
		settle(100 * time.Millisecond)
		if n.at() != 5 {
			t.Fatalf("at %d", n.at())
		}
		f.set(func() { f.down = true })
		f.change(alice, true)
		f.post(cache.Posted{Beat: true, Text: f.beat()})
		settle(time.Second)
		if n.at() != 6 {
			t.Errorf("by the carrier alone: at %d", n.at())
		}
		f.set(func() { f.down, f.silent = false, true })
		f.change(alice, false)
		settle(6 * time.Second)
		if n.at() != 7 {
			t.Errorf("by the control plane alone: at %d", n.at())
		}
	})
}

// What was posted goes back further than the start: records from before it are
// good as long as nothing has touched them since.
func TestFollower_ReadsBackWhatWasPosted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		bob := feed.Ref{Kind: feed.Subject, Type: "user", ID: "bob"}
		for range 5 {
			f.change(alice, true)
		}
		old := cache.Source(sourceFunc(func(ref feed.Ref) (*feed.Record, error) {
			return &feed.Record{Customer: "acme", Ref: ref, Version: 2, Epoch: 1, Body: json.RawMessage(`{}`)}, nil
		}))
		n := f.follow(t, func(c *cache.FollowerConfig) {
			c.Carrier = carrier{f}
			c.Records = cache.NewRecords(cache.RecordsConfig{MaxBytes: 1 << 20, Wait: time.Second, Now: now, Sources: []cache.Source{old},
				Decode: func(r *feed.Record) (any, int, error) { return r.Version, 8, nil }})
		})
		settle(100 * time.Millisecond)
		_ = n
		records := n.Records()
		if _, err := records.Get("acme", bob); err != nil {
			t.Errorf("untouched since: %v", err)
		}
		if _, err := records.Get("acme", alice); err == nil {
			t.Error("a record from before a change that is known was taken")
		}
	})
}

func TestFollower_WithoutAControlPlaneBeginsByWhatIsSigned(t *testing.T) {
	kept := func(f *fleet) cache.FollowerState {
		return cache.FollowerState{Customer: "acme", Epoch: 1, Keys: f.keys}
	}
	t.Run("by what was posted, and denied without a heartbeat", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t)
			f.change(alice, true)
			f.change(alice, true)
			f.down = true
			n := f.follow(t, func(c *cache.FollowerConfig) { c.Carrier, c.State = carrier{f}, kept(f) })
			settle(3 * time.Second)
			if n.at() != 2 || n.lease.Until() != 0 {
				t.Fatalf("at %d, lease %v", n.at(), n.lease.Until())
			}
			f.post(cache.Posted{Beat: true, Text: f.beat()})
			settle(3 * time.Second)
			if !n.lease.Holds(now()) {
				t.Error("with a heartbeat it does not hold")
			}
		})
	})
	t.Run("some are hidden", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t)
			f.change(alice, true)
			f.change(alice, false) // hidden
			f.down = true
			n := f.follow(t, func(c *cache.FollowerConfig) { c.Carrier, c.State = carrier{f}, kept(f) })
			settle(3 * time.Second)
			f.post(cache.Posted{Beat: true, Text: f.beat()})
			settle(10 * time.Second)
			if n.lease.Until() != 0 {
				t.Errorf("a change is hidden, and the lease holds; at %d", n.at())
			}
		})
	})
	t.Run("an old heartbeat is replayed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t)
			f.change(alice, true)
			old := f.beat()
			f.down = true
			settle(time.Minute)
			n := f.follow(t, func(c *cache.FollowerConfig) { c.Carrier, c.State = carrier{f}, kept(f) })
			f.post(cache.Posted{Beat: true, Text: old})
			settle(3 * time.Second)
			if n.lease.Holds(now()) {
				t.Error("an old heartbeat makes the lease hold")
			}
		})
	})
	t.Run("of an earlier epoch", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t)
			f.change(alice, true)
			f.post(cache.Posted{Beat: true, Text: f.beat()})
			f.down = true
			n := f.follow(t, func(c *cache.FollowerConfig) {
				c.Carrier, c.State = carrier{f}, kept(f)
				c.State.Epoch = 2
			})
			settle(3 * time.Second)
			if n.Stats().Begun {
				t.Error("it began in an epoch that is over")
			}
		})
	})
	t.Run("without keys", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t)
			f.change(alice, true)
			f.down = true
			n := f.follow(t, func(c *cache.FollowerConfig) {
				c.Carrier, c.State = carrier{f}, cache.FollowerState{Customer: "acme", Epoch: 1}
			})
			settle(3 * time.Second)
			if n.Stats().Begun || n.Stats().Refused == 0 {
				t.Errorf("%+v", n.Stats())
			}
		})
	})
}

// Whatever lies in the carrier that is not what it is taken for changes nothing,
// and is counted.
func TestFollower_TrustsNoForgery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.change(alice, true)
		n := f.follow(t, func(c *cache.FollowerConfig) { c.Carrier = carrier{f} })
		settle(100 * time.Millisecond)
		thief := feedSigner(t, 9)
		forged := func(s *feed.Signer, m feed.Message) []byte {
			text, err := s.SignMessage(&m)
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
		beat, err := thief.SignHeartbeat(&feed.Heartbeat{Customer: "acme", Issuer: "cp", At: now().Add(time.Hour), Epoch: 1, Head: 1})
		if err != nil {
			t.Fatal(err)
		}
		f.set(func() { f.down = true })
		before := n.lease.Until()
		for _, p := range []cache.Posted{
			{Seq: 2, Text: []byte("garbage")},
			{Seq: 2, Text: forged(thief, feed.Message{Customer: "acme", Epoch: 1, Seq: 2})},
			{Seq: 2, Text: forged(f.signer, feed.Message{Customer: "other", Epoch: 1, Seq: 2})},
			{Beat: true, Text: beat},
			{Beat: true, Text: forged(f.signer, feed.Message{Customer: "acme", Epoch: 1, Seq: 2})},
		} {
			f.post(p)
		}
		settle(2 * time.Second)
		if n.at() != 1 || n.Stats().Refused < 5 || n.lease.Until() > before.Add(5*time.Second) {
			t.Errorf("at %d, %+v", n.at(), n.Stats())
		}
		f.mu.Lock()
		welcomes := f.welcomes
		f.mu.Unlock()
		if welcomes > 2 {
			t.Errorf("keys were asked for %d times", welcomes)
		}
	})
}

func TestFollower_AsksForKeysThatItDoesNotKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		n := f.follow(t, nil)
		settle(11 * time.Second)
		f.set(func() {
			f.signer = feedSigner(t, 2)
			f.keys = []ed25519.PublicKey{f.signer.Public()}
		})
		f.change(alice, false)
		settle(10 * time.Second)
		if n.at() != 1 {
			t.Errorf("at %d after the key was replaced", n.at())
		}
	})
}

func TestFollower_PinnedKeysAloneCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		n := f.follow(t, func(c *cache.FollowerConfig) { c.Pinned = []ed25519.PublicKey{feedSigner(t, 7).Public()} })
		f.change(alice, false)
		settle(20 * time.Second)
		if n.lease.Until() != 0 || n.Stats().Refused == 0 {
			t.Errorf("another key than the pinned one counts: %+v", n.Stats())
		}
	})
}

func TestFollower_BeginsAnewWhereChangesAreNotKnownAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.change(alice, false)
		n := f.follow(t, nil)
		settle(100 * time.Millisecond)
		f.set(func() { f.down = true })
		for range 10 {
			f.change(alice, false)
		}
		f.set(func() { f.down, f.oldest = false, 8 })
		settle(10 * time.Second)
		if n.at() != 11 || !n.lease.Holds(now()) {
			t.Errorf("at %d", n.at())
		}
	})
}

func TestFollower_ANewEpochBeginsEverythingAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		for range 3 {
			f.change(alice, false)
		}
		n := f.follow(t, nil)
		settle(100 * time.Millisecond)
		f.set(func() { f.epoch, f.head, f.messages = 2, 1, map[int64][]byte{} }) // from a backup
		settle(10 * time.Second)
		if epoch, at := n.records.At("acme"); epoch != 2 || at != 1 || len(n.began) != 2 || n.began[1] != 2 {
			t.Errorf("epoch %d at %d, began %v", epoch, at, n.began)
		}
		// A control plane that was left in the epoch before is not followed back.
		f.set(func() { f.epoch, f.head = 1, 3 })
		settle(10 * time.Second)
		if epoch, _ := n.records.At("acme"); epoch != 2 {
			t.Errorf("followed back into epoch %d", epoch)
		}
	})
}

// After a backup was put back changes have numbers that were read past before.
func TestFollower_TheCarrierIsReadAgainWhereItsHeartbeatsTellOfMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		for range 9 {
			f.change(alice, true)
		}
		n := f.follow(t, func(c *cache.FollowerConfig) { c.Carrier = carrier{f} })
		settle(10 * time.Second)
		f.set(func() { f.epoch, f.head, f.messages = 2, 1, map[int64][]byte{} })
		settle(10 * time.Second)
		f.set(func() { f.down = true })
		f.change(alice, true)
		for range 60 {
			f.post(cache.Posted{Beat: true, Text: f.beat()})
			settle(time.Second)
		}
		if epoch, at := n.records.At("acme"); epoch != 2 || at != 2 || !n.lease.Holds(now()) {
			t.Errorf("epoch %d at %d, lease holds: %t", epoch, at, n.lease.Holds(now()))
		}
	})
}

// What is read back at the start takes bounded memory, however large changes are:
// the end of it counts.
func TestFollower_ReadsBackNoMoreThanFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.set(func() { f.down = true })
		large := feed.Ref{Kind: feed.Subject, Type: "user", ID: strings.Repeat("x", 1<<20)}
		for range 70 {
			f.change(large, true)
		}
		c := &counting{carrier: carrier{f}}
		n := f.follow(t, func(cfg *cache.FollowerConfig) {
			cfg.Carrier, cfg.State = c, cache.FollowerState{Customer: "acme", Epoch: 1, Keys: f.keys}
		})
		settle(time.Second)
		if n.at() != 70 {
			t.Errorf("at %d", n.at())
		}
		if from := n.records.From("acme"); from < 5 || from > 30 {
			t.Errorf("70 changes of 1 MiB were read back from %d on", from)
		}
		if c.most > 64 {
			t.Errorf("%d messages were asked for at once", c.most)
		}
	})
}

// counting is a carrier that notes how much it is asked for at once.
type counting struct {
	carrier
	most int
}

func (c *counting) Feed(ctx context.Context, customer string, after int64, limit int) ([]cache.Posted, error) {
	c.most = max(c.most, limit)
	return c.carrier.Feed(ctx, customer, after, limit)
}

func TestFollower_AnswersForOneCustomerAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		n := f.follow(t, func(c *cache.FollowerConfig) {
			c.State = cache.FollowerState{Customer: "other", Epoch: 1, Keys: f.keys}
		})
		settle(10 * time.Second)
		if n.Stats().Begun {
			t.Error("another customer's directory is taken over")
		}
	})
}

func TestFollower_AClockThatIsOffDecidesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, off := range []time.Duration{10 * time.Minute, -10 * time.Minute} {
			f := newFleet(t)
			n := f.follow(t, func(c *cache.FollowerConfig) { c.Now = func() latchkey.Instant { return now().Add(off) } })
			settle(5 * time.Second)
			if n.lease.Holds(now().Add(off)) {
				t.Errorf("a clock that is %v off decides", off)
			}
			if offset, skewed := n.lease.Offset(); !skewed || (offset+off).Abs() > time.Second {
				t.Errorf("%v: seen as %v, %v", off, offset, skewed)
			}
		}
	})
}
