package cache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/internal/servers"
	"github.com/latchkey-dev/latchkey/store"
)

// record is a database whose changes a relay publishes.
type record struct {
	testing.TB
	*store.DB
	epoch atomic.Int64
}

func newRecord(t testing.TB, customers ...string) *record {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "latchkey.db"), bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, c := range customers {
		if err := authz.NewCustomers(db, &cache.Table{}).Establish(t.Context(), c, now()); err != nil {
			t.Fatal(err)
		}
	}
	r := &record{TB: t, DB: db}
	r.epoch.Store(1)
	return r
}

// touch changes a subject's properties, and returns the number of the change.
func (r *record) touch(customer, id string) (seq int64) {
	r.Helper()
	properties := `{"at":"` + uuid.NewString() + `"}`
	err := r.Change(context.Background(), authz.Change{Chain: customer, At: now()}, func(tx authz.Tx) (audit.Draft, error) {
		seq = tx.Seq()
		_, err := tx.UpsertSubjects(context.Background(), []authz.SubjectUpdate{{EntityRef: authz.EntityRef{Type: "user", ID: id}, Properties: &properties}})
		return audit.Draft{ID: uuid.NewString(), At: now(), Actor: audit.Actor{Type: "system", ID: "system"}, Action: "test",
			Resource: audit.Resource{Type: "test", ID: "test"}, Outcome: "success"}, err
	})
	if err != nil {
		r.Fatal(err)
	}
	return seq
}

// relay starts one, which ends with the test or by the returned function.
func (r *record) relay(redis *cache.Redis) (relay *cache.Relay, stop func()) {
	relay = r.makeRelay(redis)
	ctx, cancel := context.WithCancel(context.Background())
	ticker := time.NewTicker(50 * time.Millisecond)
	var running sync.WaitGroup
	running.Go(func() { relay.Run(ctx, ticker.C) })
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		ticker.Stop()
	})
	r.Cleanup(stop)
	return relay, stop
}

func (r *record) makeRelay(redis *cache.Redis) *cache.Relay {
	return cache.NewRelay(cache.RelayConfig{Redis: redis, Record: r.DB, Signer: signer, Verifier: verifier, Node: "control-1", Now: now,
		Epoch:    func(context.Context) (int64, error) { return r.epoch.Load(), nil },
		Sidecars: func(customer string) bool { return customer == acme },
		Log:      slog.New(slog.NewTextHandler(io.Discard, nil))})
}

// await asks until there is nothing to complain of.
func await(t testing.TB, complaint func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		err := complaint()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-again.C:
		}
	}
}

// awaitHead waits until Redis is at a change.
func awaitHead(t testing.TB, r *cache.Redis, customer string, epoch, seq int64) {
	t.Helper()
	await(t, func() error {
		head, err := r.Head(context.Background(), customer)
		if err == nil && (head.Epoch != epoch || head.Seq != seq) {
			err = errors.New("the head is " + strconv.FormatInt(head.Epoch, 10) + "/" + strconv.FormatInt(head.Seq, 10) + ", want " + strconv.FormatInt(seq, 10))
		}
		return err
	})
}

// checkFeed finds the messages from one change to another, signed, each once.
func checkFeed(t testing.TB, r *cache.Redis, customer string, epoch, from, to int64) {
	t.Helper()
	posted, err := r.Feed(context.Background(), customer, from-1, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(posted)) != to-from+1 {
		t.Fatalf("%d messages, want %d to %d", len(posted), from, to)
	}
	for i, p := range posted {
		m, err := verifier.OpenMessage(p.Text, customer)
		if err != nil || m.Seq != from+int64(i) || m.Seq != p.Seq || m.Epoch != epoch {
			t.Fatalf("message %d: %+v, %v", p.Seq, m, err)
		}
	}
}

func TestRelay_PublishesEveryChangeInOrderWhoeverMakesIt(t *testing.T) {
	topologies(t, func(t *testing.T, _ *servers.RedisServer, c cache.RedisConfig) {
		db := newRecord(t, acme, "other")
		r := openRedis(t, c)
		// Two relays side by side, and changes while they begin.
		first, _ := db.relay(r)
		second, _ := db.relay(openRedis(t, c))
		var last int64
		for i := range 100 {
			last = db.touch(acme, strconv.Itoa(i%7))
			first.Kick(acme, last)
			second.Kick(acme, last)
		}
		other := db.touch("other", "a") // nobody is told of it: the next tick finds it
		awaitHead(t, r, acme, 1, last)
		awaitHead(t, r, "other", 1, other)
		checkFeed(t, r, acme, 1, 1, last)
		source := cache.NewRedisSource(r, verifier)
		for i := range 7 {
			rec, err := source.Fetch(t.Context(), acme, subject(strconv.Itoa(i)))
			if err != nil || !rec.Exists() || rec.Version < last-6 {
				t.Errorf("subject %d: %+v, %v", i, rec, err)
			}
		}
		if n := first.Stats().Published + second.Stats().Published; n != last+other {
			t.Errorf("%d changes were published, of %d", n, last+other)
		}
		await(t, func() error {
			if lag := first.Stats().Lag; lag != 0 {
				return errors.New("it says that there is more")
			}
			return nil
		})
	})
}

func TestRelay_AHeartbeatTellsHowFarTheDatabaseGoes(t *testing.T) {
	db := newRecord(t, acme, "other")
	last := db.touch(acme, "a")
	r := openRedis(t, cache.RedisConfig{URL: servers.Redis(t).URL()})
	started := now()
	db.relay(r)
	ctx, cancel := context.WithCancel(t.Context())
	beats := make(chan []byte, 1000)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Follow(ctx, acme, 0, func(p cache.Posted) {
			if p.Beat {
				beats <- p.Text
			}
		}, func(error) {})
	}()
	for range 2 {
		h, err := verifier.OpenHeartbeat(<-beats, acme)
		if err != nil || h.Head != last || h.Epoch != 1 || h.Issuer != "control-1" || h.At < started || h.At > now() {
			t.Errorf("%+v, %v", h, err)
		}
	}
	cancel()
	<-ended
	if beats, err := r.Head(t.Context(), "other"); err != nil || !beats.Found {
		t.Errorf("%+v, %v", beats, err)
	}
	if posted := hasBeat(t, r, "other"); posted {
		t.Error("a customer without sidecars has heartbeats")
	}
}

// Who follows a customer that has ended is to hear of the end, and then nothing
// that a lease could be renewed by.
func TestRelay_GivesACustomerThatHasEndedNoHeartbeat(t *testing.T) {
	db := newRecord(t, acme)
	err := db.Change(t.Context(), authz.Change{Chain: acme, At: now()}, func(tx authz.Tx) (audit.Draft, error) {
		c, err := tx.Customer(t.Context())
		if err != nil {
			return audit.Draft{}, err
		}
		c.DeletedAt = now()
		return audit.Draft{ID: uuid.NewString(), At: now(), Actor: audit.Actor{Type: "system", ID: "system"}, Action: "test",
			Resource: audit.Resource{Type: "test", ID: "test"}, Outcome: "success"}, tx.UpdateCustomer(t.Context(), c)
	})
	if err != nil {
		t.Fatal(err)
	}
	r := openRedis(t, cache.RedisConfig{URL: servers.Redis(t).URL()})
	db.relay(r)
	awaitHead(t, r, acme, 1, 1)
	checkFeed(t, r, acme, 1, 1, 1)
	if hasBeat(t, r, acme) {
		t.Error("there are heartbeats")
	}
}

// Where what is put right is wrong again at once, be it for want of permission, a
// turn ends, for others to have theirs, and is tried again later.
func TestRelay_EndsATurnThatLeadsNowhere(t *testing.T) {
	db := newRecord(t, acme)
	db.touch(acme, "a")
	s := servers.Redis(t)
	s.Do(t, "ACL", "SETUSER", "u", "on", ">secret", "~*", "+@all", "-xadd")
	relay := db.makeRelay(openRedis(t, cache.RedisConfig{URL: s.UserURL("u", "secret")}))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := relay.Catch(ctx, acme); err == nil || ctx.Err() != nil {
		t.Errorf("%v", err)
	}
	if n := relay.Stats().Resets; n > 20 {
		t.Errorf("the customer was begun anew %d times", n)
	}
}

func hasBeat(t *testing.T, r *cache.Redis, customer string) bool {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	found := false
	r.Follow(ctx, customer, 0, func(p cache.Posted) { found = found || p.Beat }, func(error) {})
	return found
}

func TestRelay_BringsAnEmptyRedisBack(t *testing.T) {
	topologies(t, func(t *testing.T, s *servers.RedisServer, c cache.RedisConfig) {
		db := newRecord(t, acme)
		r := openRedis(t, c)
		relay, _ := db.relay(r)
		var last int64
		for range 10 {
			last = db.touch(acme, "a")
		}
		awaitHead(t, r, acme, 1, last)
		s.Do(t, "FLUSHALL")
		awaitHead(t, r, acme, 1, last)
		// Those who follow find no gap.
		checkFeed(t, r, acme, 1, 1, last)
		s.Do(t, "SCRIPT", "FLUSH")
		last = db.touch(acme, "a")
		relay.Kick(acme, last)
		awaitHead(t, r, acme, 1, last)
	})
}

// A failover loses what the replica did not have yet.
func TestRelay_CatchesUpWithAServerThatIsBehind(t *testing.T) {
	db := newRecord(t, acme)
	s := servers.Redis(t)
	r := openRedis(t, cache.RedisConfig{URL: s.URL()})
	_, stop := db.relay(r)
	for range 5 {
		db.touch(acme, "a")
	}
	awaitHead(t, r, acme, 1, 5)
	stop()
	s.Do(t, "SET", "lk1:{acme}:head", "1 3 0")
	s.Do(t, "XTRIM", "lk1:{acme}:feed", "MAXLEN", "0")
	s.Do(t, "DEL", "lk1:{acme}:feed")
	db.relay(r)
	awaitHead(t, r, acme, 1, 5)
	checkFeed(t, r, acme, 1, 4, 5)
}

// Of a backlog the records are not read: whoever needs one asks for it. What Redis
// had of the same subject must be gone all the same, or it would be found again.
func TestRelay_OfABacklogTellsWhatWasTouchedAndTakesAwayWhatWasThere(t *testing.T) {
	db := newRecord(t, acme)
	r := openRedis(t, cache.RedisConfig{URL: servers.Redis(t).URL()})
	_, stop := db.relay(r)
	known := cache.NewRedisSource(r, verifier)
	before := db.touch(acme, "b")
	awaitHead(t, r, acme, 1, before)
	if rec, err := known.Fetch(t.Context(), acme, subject("b")); err != nil || rec.Version < before {
		t.Fatalf("%+v, %v", rec, err)
	}
	stop()
	changed, last := db.touch(acme, "b"), int64(0)
	for i := range 80 {
		last = db.touch(acme, strconv.Itoa(i))
	}
	db.relay(r)
	awaitHead(t, r, acme, 1, last)
	if rec, err := known.Fetch(t.Context(), acme, subject("b")); !errors.Is(err, cache.ErrMiss) {
		t.Errorf("of before: %+v, %v", rec, err)
	}
	if rec, err := known.Fetch(t.Context(), acme, subject("79")); err != nil || rec.Version < last {
		t.Errorf("the newest: %+v, %v", rec, err)
	}
	posted, err := r.Feed(t.Context(), acme, changed-1, 1)
	if err != nil || len(posted) != 1 {
		t.Fatalf("%d, %v", len(posted), err)
	}
	if m, err := verifier.OpenMessage(posted[0].Text, acme); err != nil || len(m.Records) != 0 || !slices.Contains(m.Touched, subject("b")) {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestRelay_BeginsAnewWhereTheChangesAreNotKnownAnyMore(t *testing.T) {
	db := newRecord(t, acme)
	r := openRedis(t, cache.RedisConfig{URL: servers.Redis(t).URL()})
	_, stop := db.relay(r)
	for range 3 {
		db.touch(acme, "a")
	}
	awaitHead(t, r, acme, 1, 3)
	stop()
	for range 3 {
		db.touch(acme, "a")
	}
	if _, err := db.SweepFeed(t.Context(), now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	relay, _ := db.relay(r)
	awaitHead(t, r, acme, 1, 6)
	if head, err := r.Head(t.Context(), acme); err != nil || head.Floor != 6 {
		t.Errorf("%+v, %v", head, err)
	}
	seq := db.touch(acme, "a")
	relay.Kick(acme, seq)
	awaitHead(t, r, acme, 1, seq)
	if stats := relay.Stats(); stats.Resets != 1 { // counted before the next change was published
		t.Errorf("%+v", stats)
	}
	checkFeed(t, r, acme, 1, seq, seq)
}

func TestRelay_BeginsANewEpoch(t *testing.T) {
	db := newRecord(t, acme)
	r := openRedis(t, cache.RedisConfig{URL: servers.Redis(t).URL()})
	old, stop := db.relay(r)
	for range 3 {
		db.touch(acme, "a")
	}
	awaitHead(t, r, acme, 1, 3)
	stop()
	db.epoch.Store(2)
	db.relay(r)
	awaitHead(t, r, acme, 2, 3)
	checkFeed(t, r, acme, 2, 1, 3)
	_ = old
	// A server that was left on the epoch before does not take it back.
	db2 := newRecord(t, acme)
	for range 9 {
		db2.touch(acme, "a")
	}
	stale, _ := db2.relay(r)
	await(t, func() error {
		if stale.Stats().Held != 1 {
			return errors.New("it is not held")
		}
		return nil
	})
	awaitHead(t, r, acme, 2, 3)
	if posted := stale.Stats(); posted.Published != 0 {
		t.Errorf("%+v", posted)
	}
}

// Attack: who can write into Redis sets the head ahead, so that nothing more is
// published, and revocations do not come.
func TestRelay_IsNotFooledByAHeadThatIsAhead(t *testing.T) {
	db := newRecord(t, acme)
	s := servers.Redis(t)
	r := openRedis(t, cache.RedisConfig{URL: s.URL()})
	relay, _ := db.relay(r)
	for range 3 {
		db.touch(acme, "a")
	}
	awaitHead(t, r, acme, 1, 3)
	for _, head := range []string{"1 1000 0", "1 4 4", "what", "1 99999999999999999999 0", "0 3 3", "01 3 3"} {
		s.Do(t, "SET", "lk1:{acme}:head", head)
		seq := db.touch(acme, "a")
		relay.Kick(acme, seq)
		await(t, func() error {
			posted, err := r.Feed(t.Context(), acme, seq-1, 10)
			if err == nil && (len(posted) != 1 || posted[0].Seq != seq) {
				err = errors.New("after a head of " + head + " the change is not published")
			}
			return err
		})
		awaitHead(t, r, acme, 1, seq)
	}
	// The same with the feed.
	s.Do(t, "XADD", "lk1:{acme}:feed", "9999-0", "m", "forged")
	seq := db.touch(acme, "a")
	relay.Kick(acme, seq)
	awaitHead(t, r, acme, 1, seq)
}

// A database that has lost changes which nodes have applied is not told of as if
// nothing were.
func TestRelay_HoldsWhatTheDatabaseHasLost(t *testing.T) {
	s := servers.Redis(t)
	r := openRedis(t, cache.RedisConfig{URL: s.URL()})
	before := newRecord(t, acme)
	_, stop := before.relay(r)
	for range 5 {
		before.touch(acme, "a")
	}
	awaitHead(t, r, acme, 1, 5)
	stop()
	restored := newRecord(t, acme)
	for range 3 {
		restored.touch(acme, "a")
	}
	check := restored.makeRelay(r)
	positions, err := restored.Positions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ahead, err := check.Ahead(t.Context(), positions); err != nil || len(ahead) != 1 || ahead[0] != acme {
		t.Errorf("at the start: %v, %v", ahead, err)
	}
	s.Do(t, "DEL", "lk1:{acme}:beat")
	relay, stop := restored.relay(r)
	await(t, func() error {
		if relay.Stats().Held != 1 {
			return errors.New("it is not held")
		}
		return nil
	})
	for range 4 { // past the changes that were lost, whose numbers are used again
		relay.Kick(acme, restored.touch(acme, "a"))
		if hasBeat(t, r, acme) {
			t.Fatal("there are heartbeats")
		}
		if relay.Stats().Published != 0 {
			t.Fatal("a change was published")
		}
	}
	stop()
	relay, _ = restored.relay(r) // one that starts then is not fooled either
	await(t, func() error {
		if relay.Stats().Held != 1 {
			return errors.New("it is not held")
		}
		return nil
	})
	restored.epoch.Store(2)
	awaitHead(t, r, acme, 2, 7)
	checkFeed(t, r, acme, 2, 1, 7)
	await(t, func() error {
		if relay.Stats().Held != 0 {
			return errors.New("it is held")
		}
		return nil
	})
	if ahead, err := check.Ahead(t.Context(), positions); err != nil || len(ahead) != 0 {
		t.Errorf("of the new epoch: %v, %v", ahead, err)
	}
}

func TestRelay_GoesOnByItselfAfterFailures(t *testing.T) {
	db := newRecord(t, acme)
	s := servers.Redis(t)
	proxy := servers.NewProxy(t, "unix:"+s.Socket())
	r := openRedis(t, cache.RedisConfig{URL: s.URL()})
	through := openRedis(t, cache.RedisConfig{URL: "redis://" + proxy.Addr()})
	relay, _ := db.relay(through)
	kick := func() int64 {
		seq := db.touch(acme, "a")
		relay.Kick(acme, seq)
		return seq
	}
	awaitHead(t, r, acme, 1, kick())
	t.Run("cut off", func(t *testing.T) {
		proxy.Refuse()
		var seq int64
		for range 20 {
			seq = kick() // does not wait
		}
		await(t, func() error {
			if through.Stats().Up {
				return errors.New("it says that all is well")
			}
			return nil
		})
		proxy.Pass()
		awaitHead(t, r, acme, 1, seq)
	})
	t.Run("nothing comes through", func(t *testing.T) {
		proxy.Blackhole()
		failures := through.Stats().Failures
		seq := kick()
		await(t, func() error {
			if through.Stats().Failures == failures {
				return errors.New("nothing has failed yet")
			}
			return nil
		})
		proxy.Pass()
		awaitHead(t, r, acme, 1, seq)
	})
	t.Run("out of memory", func(t *testing.T) {
		s.Do(t, "CONFIG", "SET", "maxmemory", "1mb")
		seq := kick()
		await(t, func() error {
			if through.Stats().Full == 0 {
				return errors.New("nobody has noticed")
			}
			return nil
		})
		s.Do(t, "CONFIG", "SET", "maxmemory", "0")
		awaitHead(t, r, acme, 1, seq)
	})
	t.Run("killed and empty", func(t *testing.T) {
		s.Kill(t)
		seq := kick()
		s.Start(t)
		awaitHead(t, r, acme, 1, seq)
	})
	t.Run("paused", func(t *testing.T) {
		s.Pause(t)
		seq := kick()
		s.Resume(t)
		awaitHead(t, r, acme, 1, seq)
	})
	checkFeed(t, r, acme, 1, 1, func() int64 { p, _ := db.Position(t.Context(), acme); return p.Seq }())
	t.Run("an evicting policy is told of", func(t *testing.T) {
		s.Do(t, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
		other, _ := db.relay(r)
		await(t, func() error {
			if !other.Stats().Evicts {
				return errors.New("nobody has noticed")
			}
			return nil
		})
	})
}

// A change of more than a message holds is a miss for what it touched, and all
// that it touched.
func TestRelay_MarksWhatAMessageHasNoRoomFor(t *testing.T) {
	db := newRecord(t, acme)
	r := openRedis(t, cache.RedisConfig{URL: servers.Redis(t).URL()})
	relay, _ := db.relay(r)
	const many = 200
	list := make([]authz.SubjectUpdate, many)
	for i := range list {
		p := `{"text":"` + string(bytes.Repeat([]byte("x"), 1000)) + strconv.Itoa(i) + `"}`
		list[i] = authz.SubjectUpdate{EntityRef: authz.EntityRef{Type: "user", ID: strconv.Itoa(i)}, Properties: &p}
	}
	var seq int64
	for range 2 { // records of the first change must not be there after the second
		err := db.Change(t.Context(), authz.Change{Chain: acme, At: now()}, func(tx authz.Tx) (audit.Draft, error) {
			seq = tx.Seq()
			_, err := tx.UpsertSubjects(t.Context(), list)
			return audit.Draft{ID: uuid.NewString(), At: now(), Actor: audit.Actor{Type: "system", ID: "system"}, Action: "test",
				Resource: audit.Resource{Type: "test", ID: "test"}, Outcome: "success"}, err
		})
		if err != nil {
			t.Fatal(err)
		}
		relay.Kick(acme, seq)
		awaitHead(t, r, acme, 1, seq)
		epochRecords := &authz.RecordMaker{Record: db.DB, Epoch: 1}
		for i := range many {
			rec, err := epochRecords.Make(t.Context(), acme, subject(strconv.Itoa(i)), now())
			if err != nil {
				t.Fatal(err)
			}
			text, err := signer.SignRecord(rec)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Fill(t.Context(), acme, 1, cache.StoredRecord(rec, text), now()); err != nil {
				t.Fatal(err)
			}
		}
	}
	seq = func() int64 {
		var seq int64
		err := db.Change(t.Context(), authz.Change{Chain: acme, At: now()}, func(tx authz.Tx) (audit.Draft, error) {
			seq = tx.Seq()
			_, err := tx.UpsertSubjects(t.Context(), list)
			return audit.Draft{ID: uuid.NewString(), At: now(), Actor: audit.Actor{Type: "system", ID: "system"}, Action: "test",
				Resource: audit.Resource{Type: "test", ID: "test"}, Outcome: "success"}, err
		})
		if err != nil {
			t.Fatal(err)
		}
		return seq
	}()
	relay.Kick(acme, seq)
	awaitHead(t, r, acme, 1, seq)
	there := 0
	for i := range many {
		switch v := version(t, r, acme, strconv.Itoa(i)); {
		case v == seq:
			there++
		case v != 0:
			t.Fatalf("subject %d is there as of %d, before change %d", i, v, seq)
		}
	}
	if there == 0 || there == many {
		t.Errorf("%d of %d records are there", there, many)
	}
}
