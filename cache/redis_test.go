package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/internal/servers"
)

const acme = "acme"

var (
	signer   = newSigner(1)
	verifier = feed.NewVerifier(signer.Public())
)

func newSigner(seed byte) *feed.Signer {
	s, err := feed.NewSigner(bytes.Repeat([]byte{seed}, 32))
	if err != nil {
		panic(err)
	}
	return s
}

func now() latchkey.Instant { return latchkey.InstantOf(time.Now()) }

func openRedis(t testing.TB, c cache.RedisConfig) *cache.Redis {
	t.Helper()
	r, err := cache.OpenRedis(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func subject(id string) feed.Ref { return feed.Ref{Kind: feed.Subject, Type: "user", ID: id} }

// failer is what tests of both kinds have.
type failer interface {
	Helper()
	Fatal(args ...any)
}

// stored is a record of a subject as of a version; that is all that it tells.
func stored(t failer, customer, id string, epoch, version int64) cache.Stored {
	t.Helper()
	rec := &feed.Record{Customer: customer, Ref: subject(id), Version: version, Epoch: epoch, Until: latchkey.Never, Body: []byte("null")}
	text, err := signer.SignRecord(rec)
	if err != nil {
		t.Fatal(err)
	}
	return cache.StoredRecord(rec, text)
}

func entry(seq int64, records ...cache.Stored) cache.Entry {
	return cache.Entry{Seq: seq, Text: []byte("message " + strconv.FormatInt(seq, 10)), Records: records}
}

func version(t testing.TB, r *cache.Redis, customer, id string) int64 {
	t.Helper()
	text, found, err := r.Get(t.Context(), customer, subject(id))
	if err != nil {
		t.Fatal(err)
	}
	if !found {
		return 0
	}
	rec, err := verifier.OpenRecord(text, customer, subject(id))
	if err != nil {
		t.Fatal(err)
	}
	return rec.Version
}

func publish(t testing.TB, r *cache.Redis, epoch int64, want cache.Outcome, entries ...cache.Entry) cache.Head {
	t.Helper()
	head, outcome, _, err := r.Publish(t.Context(), acme, epoch, entries)
	if err != nil {
		t.Fatal(err)
	}
	if outcome != want {
		t.Fatalf("it was %q, want %q", outcome, want)
	}
	return head
}

func reset(t testing.TB, r *cache.Redis, epoch, seq int64) {
	t.Helper()
	head, err := r.Head(t.Context(), acme)
	if err != nil {
		t.Fatal(err)
	}
	if _, outcome, err := r.Reset(t.Context(), acme, head, epoch, seq); err != nil || outcome != cache.OutcomeReset {
		t.Fatalf("%q, %v", outcome, err)
	}
}

func fill(t testing.TB, r *cache.Redis, epoch int64, s cache.Stored, readAt latchkey.Instant, want cache.Outcome) {
	t.Helper()
	got, err := r.Fill(t.Context(), acme, epoch, s, readAt)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("a fill was %q, want %q", got, want)
	}
}

// topologies are the ways to run Redis; what is promised holds on each.
func topologies(t *testing.T, test func(t *testing.T, s *servers.RedisServer, c cache.RedisConfig)) {
	t.Run("single", func(t *testing.T) {
		s := servers.Redis(t)
		test(t, s, cache.RedisConfig{URL: s.URL()})
	})
	t.Run("cluster", func(t *testing.T) {
		s := servers.RedisCluster(t)
		test(t, s, cache.RedisConfig{URL: fmt.Sprintf("redis+cluster://127.0.0.1:%d", s.Port)})
	})
	t.Run("sentinel", func(t *testing.T) {
		s, sentinel := servers.RedisSentinel(t, "main")
		test(t, s, cache.RedisConfig{URL: fmt.Sprintf("redis+sentinel://127.0.0.1:%d/0?master=main", sentinel.Port)})
	})
}

func TestRedis_TakesChangesInTheirOrderAndNoOther(t *testing.T) {
	topologies(t, func(t *testing.T, _ *servers.RedisServer, c cache.RedisConfig) {
		r := openRedis(t, c)
		publish(t, r, 1, cache.OutcomeNoHead, entry(1))
		reset(t, r, 1, 4)
		publish(t, r, 1, cache.OutcomeGap, entry(6, stored(t, acme, "a", 1, 6)))
		publish(t, r, 2, cache.OutcomeEpoch, entry(5, stored(t, acme, "a", 2, 5)))
		if v := version(t, r, acme, "a"); v != 0 {
			t.Errorf("what was refused is there, as of %d", v)
		}
		head := publish(t, r, 1, cache.OutcomeTaken, entry(5, stored(t, acme, "a", 1, 5)), entry(6, stored(t, acme, "b", 1, 7)), entry(7, stored(t, acme, "b", 1, 7)))
		if head.Epoch != 1 || head.Seq != 7 || head.Floor != 4 || !head.Found {
			t.Errorf("%+v", head)
		}
		publish(t, r, 1, cache.OutcomeRepeated, entry(6, stored(t, acme, "a", 1, 9)))
		if a, b := version(t, r, acme, "a"), version(t, r, acme, "b"); a != 5 || b != 7 {
			t.Errorf("a as of %d, b as of %d", a, b)
		}
		posted, err := r.Feed(t.Context(), acme, 4, 10)
		if err != nil || len(posted) != 3 || posted[0].Seq != 5 || string(posted[2].Text) != "message 7" {
			t.Errorf("%+v, %v", posted, err)
		}
		if posted, err := r.Feed(t.Context(), acme, 5, 1); err != nil || len(posted) != 1 || posted[0].Seq != 6 {
			t.Errorf("%+v, %v", posted, err)
		}
		// What is touched and not at hand is out of date all the same.
		publish(t, r, 1, cache.OutcomeTaken, entry(8, cache.Stored{Names: []string{subject("a").String()}, Version: 8}))
		if v := version(t, r, acme, "a"); v != 0 {
			t.Errorf("a is there as of %d, and out of date", v)
		}
		fill(t, r, 1, stored(t, acme, "a", 1, 7), now(), cache.OutcomeNewer)
		fill(t, r, 1, stored(t, acme, "a", 1, 8), now(), cache.OutcomeTaken)
	})
}

func TestRedis_RefusesFillsThatMayBeOutOfDate(t *testing.T) {
	r := openRedis(t, cache.RedisConfig{URL: servers.Redis(t).URL()})
	fill(t, r, 1, stored(t, acme, "a", 1, 5), now(), cache.OutcomeNoHead)
	reset(t, r, 1, 4)
	for _, c := range []struct {
		name    string
		epoch   int64
		version int64
		age     time.Duration
		want    cache.Outcome
	}{
		{"as of before the beginning", 1, 3, 0, cache.OutcomeFloor},
		{"of an earlier epoch", 0, 5, 0, cache.OutcomeEpoch},
		{"of a later epoch", 2, 5, 0, cache.OutcomeEpoch},
		{"read long ago", 1, 5, 61 * time.Second, cache.OutcomeLate},
		{"read a while ago", 1, 5, 50 * time.Second, cache.OutcomeTaken},
		{"older than what is there", 1, 4, 0, cache.OutcomeNewer},
		{"the same again", 1, 5, 0, cache.OutcomeTaken},
		{"as of after the head", 1, 9, 0, cache.OutcomeTaken},
	} {
		t.Run(c.name, func(t *testing.T) {
			fill(t, r, c.epoch, stored(t, acme, "a", c.epoch, c.version), now().Add(-c.age), c.want)
		})
	}
	publish(t, r, 1, cache.OutcomeTaken, entry(5, stored(t, acme, "a", 1, 5)))
	if v := version(t, r, acme, "a"); v != 9 {
		t.Errorf("a change with an older record took the place of a newer: as of %d", v)
	}
	// Where all of a kind were touched, what was read before is refused.
	publish(t, r, 1, cache.OutcomeTaken, cache.Entry{Seq: 6, Text: []byte("m"), All: true})
	fill(t, r, 1, stored(t, acme, "b", 1, 5), now(), cache.OutcomeFloor)
	fill(t, r, 1, stored(t, acme, "b", 1, 6), now(), cache.OutcomeTaken)
}

func TestRedis_BeginsAnewOnlyFromWhatWasSeen(t *testing.T) {
	r := openRedis(t, cache.RedisConfig{URL: servers.Redis(t).URL()})
	none, err := r.Head(t.Context(), acme)
	if err != nil || none.Found {
		t.Fatalf("%+v, %v", none, err)
	}
	reset(t, r, 5, 10)
	if head, outcome, err := r.Reset(t.Context(), acme, none, 5, 3); err != nil || outcome != cache.OutcomeMoved || head.Seq != 10 {
		t.Errorf("from a head that is gone: %+v %q %v", head, outcome, err)
	}
	publish(t, r, 5, cache.OutcomeTaken, entry(11, stored(t, acme, "a", 5, 11)))
	// A later epoch counts from a lower number, and its records take the place of
	// those before.
	reset(t, r, 6, 2)
	head := publish(t, r, 6, cache.OutcomeTaken, entry(3, stored(t, acme, "a", 6, 3)))
	if head.Epoch != 6 || head.Seq != 3 || head.Floor != 2 {
		t.Errorf("%+v", head)
	}
	if v := version(t, r, acme, "a"); v != 3 {
		t.Errorf("the record is one of before: as of %d", v)
	}
	// A server that still runs on the epoch before does no harm.
	if _, outcome, err := r.Reset(t.Context(), acme, head, 5, 11); err != nil || outcome != cache.OutcomeEpoch {
		t.Errorf("an earlier epoch: %q %v", outcome, err)
	}
	fill(t, r, 5, stored(t, acme, "a", 5, 11), now(), cache.OutcomeEpoch)
}

func TestRedis_KeepsRecordsAsLongAsTheyMayBeOfUse(t *testing.T) {
	s := servers.Redis(t)
	r := openRedis(t, cache.RedisConfig{URL: s.URL()})
	reset(t, r, 1, 0)
	ttl := func(id string) time.Duration {
		t.Helper()
		ms, err := strconv.ParseInt(s.Do(t, "PTTL", "lk1:{acme}:r:"+subject(id).String()), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return time.Duration(ms) * time.Millisecond
	}
	until := func(id string, end latchkey.Instant, v int64) cache.Stored {
		s := stored(t, acme, id, 1, v)
		s.Until = end
		return s
	}
	day, hour := 24*time.Hour, time.Hour
	publish(t, r, 1, cache.OutcomeTaken, entry(1, until("never", latchkey.Never, 1), until("ended", 0, 1), until("later", now().Add(72*hour), 1),
		cache.Stored{Names: []string{subject("gone").String()}, Version: 1}))
	fill(t, r, 1, until("filled-never", latchkey.Never, 1), now(), cache.OutcomeTaken)
	fill(t, r, 1, until("filled-ended", 0, 1), now(), cache.OutcomeTaken)
	fill(t, r, 1, until("filled-later", now().Add(2*hour), 1), now(), cache.OutcomeTaken)
	for id, want := range map[string]time.Duration{"never": -time.Millisecond, "ended": day, "later": 72 * hour, "gone": day,
		"filled-never": -time.Millisecond, "filled-ended": hour, "filled-later": 2 * hour} {
		if got := ttl(id); got > want+time.Second || got < want-time.Minute {
			t.Errorf("%s lives %s, want about %s", id, got, want)
		}
	}
}

func TestRedis_FindsAKeyByItsKids(t *testing.T) {
	r := openRedis(t, cache.RedisConfig{URL: servers.Redis(t).URL()})
	reset(t, r, 1, 0)
	ref := feed.Ref{Kind: feed.Key, ID: "9bd0ff3d-5ae7-4a9b-8e8e-6f7f3e8a0f00"}
	rec := &feed.Record{Customer: acme, Ref: ref, Version: 1, Epoch: 1, Until: latchkey.Never,
		Body: []byte(`{"id":"` + ref.ID + `","secrets":[{"kid":"AAAAAAAAAAAA"},{"kid":"BBBBBBBBBBBB"}]}`)}
	text, err := signer.SignRecord(rec)
	if err != nil {
		t.Fatal(err)
	}
	publish(t, r, 1, cache.OutcomeTaken, entry(1, cache.StoredRecord(rec, text)))
	source := cache.NewRedisSource(r, verifier)
	for _, ask := range []feed.Ref{ref, {Kind: feed.Secret, ID: "AAAAAAAAAAAA"}, {Kind: feed.Secret, ID: "BBBBBBBBBBBB"}} {
		if got, err := source.Fetch(t.Context(), acme, ask); err != nil || got.Ref != ref {
			t.Errorf("%s: %+v, %v", ask, got, err)
		}
	}
	if _, err := source.Fetch(t.Context(), acme, feed.Ref{Kind: feed.Secret, ID: "CCCCCCCCCCCC"}); !errors.Is(err, cache.ErrMiss) {
		t.Errorf("an unknown kid: %v", err)
	}
}

// Who can write into Redis can make it useless, and nothing else.
func TestRedisSource_TakesNothingThatIsNotSignedForWhatWasAsked(t *testing.T) {
	s := servers.Redis(t)
	r := openRedis(t, cache.RedisConfig{URL: s.URL()})
	source := cache.NewRedisSource(r, verifier)
	sign := func(by *feed.Signer, customer, id string) string {
		text, err := by.SignRecord(&feed.Record{Customer: customer, Ref: subject(id), Version: 1, Epoch: 1, Body: []byte(`{"grants":[]}`)})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	good := sign(signer, acme, "alice")
	message, err := signer.SignMessage(&feed.Message{Customer: acme, Epoch: 1, Seq: 1})
	if err != nil {
		t.Fatal(err)
	}
	name := "lk1:{acme}:r:" + subject("alice").String()
	s.Do(t, "SET", name, "1 1|"+good)
	if _, err := source.Fetch(t.Context(), acme, subject("alice")); err != nil {
		t.Fatal(err)
	}
	for attack, value := range map[string]string{
		"garbage":                "\x00\xff garbage",
		"empty":                  "",
		"a head and no record":   "1 1|",
		"no head":                good,
		"signed by another":      "1 1|" + sign(newSigner(2), acme, "alice"),
		"another customer's":     "1 1|" + sign(signer, "other", "alice"),
		"another subject's":      "1 1|" + sign(signer, acme, "bob"),
		"a message for a record": "1 1|" + string(message),
		"changed":                "1 1|" + strings.Replace(good, "grants", "grantz", 1),
		"cut off":                "1 1|" + good[:len(good)-1],
	} {
		t.Run(attack, func(t *testing.T) {
			before := source.Forged() + r.Stats().Malformed
			s.Do(t, "SET", name, value)
			if rec, err := source.Fetch(t.Context(), acme, subject("alice")); !errors.Is(err, cache.ErrMiss) {
				t.Errorf("%+v, %v", rec, err)
			}
			if counted := source.Forged()+r.Stats().Malformed > before; counted != (attack != "a head and no record") {
				t.Errorf("counted: %v", counted)
			}
		})
	}
	t.Run("another type", func(t *testing.T) {
		s.Do(t, "DEL", name)
		s.Do(t, "LPUSH", name, good)
		if rec, err := source.Fetch(t.Context(), acme, subject("alice")); !errors.Is(err, cache.ErrMiss) {
			t.Errorf("%+v, %v", rec, err)
		}
		// The next change puts it right.
		reset(t, r, 1, 0)
		publish(t, r, 1, cache.OutcomeTaken, entry(1, stored(t, acme, "alice", 1, 1)))
		if v := version(t, r, acme, "alice"); v != 1 {
			t.Errorf("as of %d", v)
		}
	})
}

func TestRedis_PutsADamagedHeadOrFeedRight(t *testing.T) {
	s := servers.Redis(t)
	r := openRedis(t, cache.RedisConfig{URL: s.URL()})
	for damage, do := range map[string][][]string{
		"garbage for a head":       {{"SET", "lk1:{acme}:head", "what"}},
		"a head of another type":   {{"DEL", "lk1:{acme}:head"}, {"LPUSH", "lk1:{acme}:head", "1"}},
		"an endless head":          {{"SET", "lk1:{acme}:head", "1 99999999999999999999999 0"}},
		"a head with zeros":        {{"SET", "lk1:{acme}:head", "01 1 1"}},
		"a feed of another type":   {{"DEL", "lk1:{acme}:feed"}, {"SET", "lk1:{acme}:feed", "1"}},
		"a feed that is far ahead": {{"XADD", "lk1:{acme}:feed", "999999-0", "m", "x"}},
	} {
		t.Run(damage, func(t *testing.T) {
			s.Do(t, "FLUSHALL")
			reset(t, r, 1, 1)
			for _, command := range do {
				s.Do(t, command...)
			}
			_, outcome, _, err := r.Publish(t.Context(), acme, 1, []cache.Entry{entry(2)})
			if err != nil || outcome == cache.OutcomeTaken {
				t.Fatalf("%q %v", outcome, err)
			}
			reset(t, r, 1, 1)
			publish(t, r, 1, cache.OutcomeTaken, entry(2))
		})
	}
}

func TestRedis_FollowsMessagesAndHeartbeatsThroughFailures(t *testing.T) {
	s := servers.Redis(t)
	proxy := servers.NewProxy(t, "unix:"+s.Socket())
	r := openRedis(t, cache.RedisConfig{URL: s.URL()})
	reset(t, r, 1, 0)
	publish(t, r, 1, cache.OutcomeTaken, entry(1), entry(2))
	follower := openRedis(t, cache.RedisConfig{URL: "redis://" + proxy.Addr()})
	ctx, cancel := context.WithCancel(t.Context())
	posted := make(chan cache.Posted, 100)
	failures := make(chan error, 100)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		follower.Follow(ctx, acme, 1, func(p cache.Posted) { posted <- p }, func(err error) {
			select {
			case failures <- err:
			default:
			}
		})
	}()
	next := func(want string) {
		t.Helper()
		select {
		case p := <-posted:
			if string(p.Text) != want {
				t.Fatalf("got %q, want %q", p.Text, want)
			}
		case <-time.NewTimer(time.Minute).C:
			t.Fatalf("%q does not come", want)
		}
	}
	beat := func(text string) {
		t.Helper()
		if err := r.Beats(t.Context(), []cache.Beat{{Customer: acme, Text: []byte(text)}}); err != nil {
			t.Fatal(err)
		}
	}
	next("message 2")
	beat("b1")
	next("b1")
	publish(t, r, 1, cache.OutcomeTaken, entry(3))
	next("message 3")
	proxy.Cut()
	publish(t, r, 1, cache.OutcomeTaken, entry(4))
	next("message 4")
	proxy.Blackhole()
	publish(t, r, 1, cache.OutcomeTaken, entry(5))
	<-failures
	proxy.Refuse()
	proxy.Pass()
	next("message 5")
	beat("b2")
	next("b2")
	// A server that comes back empty, and counts anew.
	s.Do(t, "FLUSHALL")
	reset(t, r, 1, 5)
	publish(t, r, 1, cache.OutcomeTaken, entry(6))
	next("message 6")
	cancel()
	<-ended
}

func TestRedis_OutOfMemoryNothingIsHalfWritten(t *testing.T) {
	s := servers.Redis(t, "--maxmemory-policy", "noeviction")
	r := openRedis(t, cache.RedisConfig{URL: s.URL()})
	reset(t, r, 1, 0)
	publish(t, r, 1, cache.OutcomeTaken, entry(1, stored(t, acme, "a", 1, 1)))
	s.Do(t, "CONFIG", "SET", "maxmemory", "1mb")
	_, _, taken, err := r.Publish(t.Context(), acme, 1, []cache.Entry{entry(2, stored(t, acme, "a", 1, 2))})
	if err == nil || taken != 0 || r.Stats().Full == 0 {
		t.Fatalf("%d taken, %v, %+v", taken, err, r.Stats())
	}
	if v := version(t, r, acme, "a"); v != 1 {
		t.Errorf("as of %d", v)
	}
	if posted, err := r.Feed(t.Context(), acme, 0, 10); err != nil || len(posted) != 1 {
		t.Errorf("%v, %v", posted, err)
	}
	if _, err := r.Fill(t.Context(), acme, 1, stored(t, acme, "b", 1, 1), now()); err == nil {
		t.Error("a fill was taken")
	}
	head, err := r.Head(t.Context(), acme)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Reset(t.Context(), acme, head, 2, 0); err == nil {
		t.Error("a new beginning was taken")
	}
	if posted, err := r.Feed(t.Context(), acme, 0, 10); err != nil || len(posted) != 1 {
		t.Errorf("a reset that was refused left %v, %v", posted, err)
	}
	s.Do(t, "CONFIG", "SET", "maxmemory", "0")
	publish(t, r, 1, cache.OutcomeTaken, entry(2, stored(t, acme, "a", 1, 2)))
}

func TestRedis_TellsOfEviction(t *testing.T) {
	topologies(t, func(t *testing.T, s *servers.RedisServer, c cache.RedisConfig) {
		r := openRedis(t, c)
		h, err := r.Health(t.Context())
		if err != nil || h.Evicts() || h.Version == "" {
			t.Errorf("%+v, %v", h, err)
		}
		s.Do(t, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
		if h, err := r.Health(t.Context()); err != nil || !h.Evicts() {
			t.Errorf("%+v, %v", h, err)
		}
	})
}

func TestRedisNodes_KnowWhoHasAppliedWhat(t *testing.T) {
	s := servers.Redis(t)
	nodes := cache.NewRedisNodes(openRedis(t, cache.RedisConfig{URL: s.URL()}), func() []string { return []string{acme, "other"} })
	at := now()
	said := func(customer, id string, seq int64, at latchkey.Instant) authz.Node {
		return authz.Node{Customer: customer, ID: id, Epoch: 1, Seq: seq, SeenAt: at}
	}
	for _, list := range [][]authz.Node{
		{said(acme, "a", 4, at), said("other", "o", 1, at)},
		{said(acme, "a", 5, at.Add(time.Second))},
		{said(acme, "a", 3, at)}, // late
		{said(acme, "quiet", 5, at.Add(-time.Minute)), said(acme, "gone", 5, at.Add(-2*time.Hour))},
		nil,
	} {
		if err := nodes.WriteNodes(t.Context(), list); err != nil {
			t.Fatal(err)
		}
	}
	s.Do(t, "HSET", "lk1:{acme}:nodes", "bad", "what", "bad name", "1 1 1")
	want := []authz.Node{said(acme, "a", 5, at.Add(time.Second))}
	got, err := nodes.Nodes(t.Context(), acme, at.Add(-30*time.Second))
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if left := strings.Split(s.Do(t, "HKEYS", "lk1:{acme}:nodes"), "\n"); len(left) != 2 {
		t.Errorf("kept: %q", left)
	}
	if all, err := nodes.Nodes(t.Context(), "", at); err != nil || len(all) != 2 {
		t.Errorf("of all customers: %v, %v", all, err)
	}
	s.Do(t, "SET", "lk1:{acme}:nodes", "what")
	if got, err := nodes.Nodes(t.Context(), acme, at); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	if err := nodes.WriteNodes(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if got, err := nodes.Nodes(t.Context(), acme, at); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

// The fence: whatever comes in whatever order, a record is only ever replaced by
// one that is not older, and what is there is not from before the floor.
func TestRedis_FenceHoldsInWhateverOrder(t *testing.T) {
	s := servers.Redis(t)
	r := openRedis(t, cache.RedisConfig{URL: s.URL()})
	ids := []string{"a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		flush := func() {
			if _, err := s.Try("FLUSHALL"); err != nil {
				t.Fatal(err)
			}
		}
		flush()
		ctx := context.Background()
		// The database: of each subject the changes that touched it.
		touched := map[string][]int64{}
		changes := []string{}
		head := int64(0)
		epoch, base := int64(1), int64(0)
		lastTouch := func(id string, upTo int64) (seq int64) {
			for _, c := range touched[id] {
				if c <= upTo {
					seq = c
				}
			}
			return seq
		}
		mustHead := func() cache.Head {
			h, err := r.Head(ctx, acme)
			if err != nil {
				t.Fatal(err)
			}
			return h
		}
		publishOne := func(seq int64) {
			// Its records hold as of now, or as of any time since.
			id := changes[seq-1-base]
			v := rapid.Int64Range(seq, head).Draw(t, "read")
			if _, _, _, err := r.Publish(ctx, acme, epoch, []cache.Entry{entry(seq, stored(t, acme, id, epoch, v))}); err != nil {
				t.Fatal(err)
			}
		}
		seldom := func(t *rapid.T) bool { return rapid.IntRange(0, 7).Draw(t, "seldom") == 0 }
		seen := map[string]int64{} // the versions that were there, in epochs
		t.Repeat(map[string]func(*rapid.T){
			"change": func(t *rapid.T) {
				id := rapid.SampledFrom(ids).Draw(t, "id")
				head++
				changes = append(changes, id)
				touched[id] = append(touched[id], head)
			},
			"publish next": func(t *rapid.T) {
				if h := mustHead(); h.Found && h.Epoch == epoch && h.Seq < head && h.Seq >= base {
					publishOne(h.Seq + 1)
				}
			},
			"publish any, late or too early": func(t *rapid.T) {
				if head > base {
					publishOne(rapid.Int64Range(base+1, head).Draw(t, "seq"))
				}
			},
			"fill, read at any time": func(t *rapid.T) {
				id := rapid.SampledFrom(ids).Draw(t, "id")
				v := rapid.Int64Range(base, head).Draw(t, "version")
				h := mustHead()
				outcome, err := r.Fill(ctx, acme, epoch, stored(t, acme, id, epoch, v), now())
				if err != nil {
					t.Fatal(err)
				}
				if outcome == cache.OutcomeTaken && v < h.Floor {
					t.Fatalf("a fill as of %d, from before the floor %d, was taken", v, h.Floor)
				}
			},
			"of the epoch before": func(t *rapid.T) {
				h := mustHead()
				if !h.Found || h.Epoch != epoch {
					return
				}
				late := stored(t, acme, rapid.SampledFrom(ids).Draw(t, "id"), epoch-1, 1000)
				filled, err := r.Fill(ctx, acme, epoch-1, late, now())
				if err != nil || filled != cache.OutcomeEpoch {
					t.Fatalf("a fill was %q, %v", filled, err)
				}
				_, published, _, err := r.Publish(ctx, acme, epoch-1, []cache.Entry{entry(h.Seq+1, late)})
				if err != nil || published != cache.OutcomeEpoch {
					t.Fatalf("a change was %q, %v", published, err)
				}
			},
			"begin anew": func(t *rapid.T) {
				if h := mustHead(); h.Found && h.Epoch == epoch && !seldom(t) {
					return
				}
				if _, _, err := r.Reset(ctx, acme, mustHead(), epoch, rapid.Int64Range(base, head).Draw(t, "at")); err != nil {
					t.Fatal(err)
				}
			},
			"flush": func(t *rapid.T) {
				if seldom(t) {
					flush()
					clear(seen)
				}
			},
			"new epoch": func(t *rapid.T) {
				if !seldom(t) {
					return
				}
				epoch++
				head = rapid.Int64Range(0, head).Draw(t, "back to")
				base, changes, touched = head, nil, map[string][]int64{}
			},
			"": func(t *rapid.T) {
				h := mustHead()
				if !h.Found || h.Epoch != epoch {
					return
				}
				for _, id := range ids {
					raw, err := s.Try("GET", "lk1:{acme}:r:"+subject(id).String())
					if err != nil {
						t.Fatal(err)
					}
					if raw != "" {
						var e, v int64
						if _, err := fmt.Sscanf(raw, "%d %d|", &e, &v); err != nil {
							t.Fatal(err)
						}
						if e*1000+v < seen[id] {
							t.Fatalf("%s went from %d back to %d", id, seen[id], e*1000+v)
						}
						seen[id] = e*1000 + v
					}
					text, found, err := r.Get(ctx, acme, subject(id))
					if err != nil {
						t.Fatal(err)
					}
					if !found {
						continue
					}
					rec, err := verifier.OpenRecord(text, acme, subject(id))
					if err != nil {
						t.Fatal(err)
					}
					if rec.Epoch != epoch {
						continue // from before: a reader refuses it, and the next write replaces it
					}
					if last := lastTouch(id, h.Seq); last > h.Floor && rec.Version < last {
						t.Fatalf("%s is there as of %d, with change %d in (head %d, floor %d)", id, rec.Version, last, h.Seq, h.Floor)
					}
				}
			},
		})
	})
}
