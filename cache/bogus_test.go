package cache_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/internal/servers"
)

// calls is how many commands of a name the server has run.
func calls(t *testing.T, s *servers.RedisServer, command string) int {
	t.Helper()
	_, rest, found := strings.Cut(s.Do(t, "INFO", "commandstats"), "cmdstat_"+command+":calls=")
	if !found {
		return 0
	}
	text, _, _ := strings.Cut(rest, ",")
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Somebody has put entries into the feed whose places are none that a change can
// have: before the next one, after it, and at the end of all numbers.
func TestRedis_FollowsOnWhatSomebodyElsePutIntoTheFeed(t *testing.T) {
	for _, place := range []string{"1-1", "7-5", "9223372036854775807-1", "18446744073709551615-0", "18446744073709551615-18446744073709551615"} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			s := servers.Redis(t)
			r := openRedis(t, cache.RedisConfig{URL: s.URL()})
			reset(t, r, 1, 0)
			publish(t, r, 1, cache.OutcomeTaken, entry(1))
			ctx, cancel := context.WithCancel(t.Context())
			posted := make(chan cache.Posted, 10_000)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				r.Follow(ctx, acme, 0, func(p cache.Posted) { posted <- p }, func(error) {})
			}()
			seen := map[string]bool{}
			next := func(want string) {
				t.Helper()
				late := time.NewTimer(time.Minute)
				defer late.Stop()
				for !seen[want] {
					select {
					case p := <-posted:
						seen[string(p.Text)] = true
					case <-late.C:
						t.Fatalf("%q does not come", want)
					}
				}
			}
			beat := func(text string) {
				t.Helper()
				if err := r.Beats(t.Context(), []cache.Beat{{Customer: acme, Text: []byte(text)}}); err != nil {
					t.Fatal(err)
				}
				next(text)
			}
			next("message 1")
			s.Do(t, "XADD", "lk1:{"+acme+"}:feed", place, "m", "bogus")
			beat("b1")
			// It is looked at now and then, and not as fast as the server can answer.
			before := calls(t, s, "xread")
			for i := range 5 {
				<-time.NewTimer(100 * time.Millisecond).C
				beat("b" + strconv.Itoa(i+2))
			}
			if n := calls(t, s, "xread") - before; n > 50 {
				t.Errorf("Redis was asked %d times in half a second", n)
			}
			// The control plane finds the feed damaged, where its next change has no
			// place any more, and begins it anew.
			if head, outcome, _, err := r.Publish(t.Context(), acme, 1, []cache.Entry{entry(2)}); err != nil {
				t.Fatal(err)
			} else if outcome == cache.OutcomeDamaged {
				if _, outcome, err := r.Reset(t.Context(), acme, head, 1, 1); err != nil || outcome != cache.OutcomeReset {
					t.Fatal(outcome, err)
				}
				publish(t, r, 1, cache.OutcomeTaken, entry(2))
			}
			beat("b9")
			next("message 2")
			cancel()
			<-ended
		})
	}
}

// What somebody else put in the place of a heartbeat keeps neither it from being
// told again, nor those of other customers.
func TestRedis_TellsHeartbeatsWhateverIsInTheirPlace(t *testing.T) {
	s := servers.Redis(t)
	r := openRedis(t, cache.RedisConfig{URL: s.URL()})
	for name, put := range map[string][]string{
		"another type":          {"SET", "lk1:{" + acme + "}:beat", "bogus"},
		"the end of all places": {"XADD", "lk1:{" + acme + "}:beat", "18446744073709551615-18446744073709551615", "h", "bogus"},
	} {
		s.Do(t, "DEL", "lk1:{"+acme+"}:beat", "lk1:{other}:beat")
		s.Do(t, put...)
		if err := r.Beats(t.Context(), []cache.Beat{{Customer: acme, Text: []byte("ours")}, {Customer: "other", Text: []byte("theirs")}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for customer, want := range map[string]string{acme: "ours", "other": "theirs"} {
			if got := s.Do(t, "XRANGE", "lk1:{"+customer+"}:beat", "-", "+"); !strings.HasSuffix(got, want) {
				t.Errorf("%s: of %s there is %q", name, customer, got)
			}
		}
	}
	if n := r.Stats().Malformed; n != 2 {
		t.Errorf("%d counted", n)
	}
}
