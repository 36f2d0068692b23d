package authz_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
)

// trail keeps the events of changes; while down it refuses them.
type trail struct {
	authz.Record
	down   error
	ended  string // a chain that takes no more
	events map[string][]audit.Draft
}

func (r *trail) Change(_ context.Context, c authz.Change, do func(authz.Tx) (audit.Draft, error)) error {
	if c.Chain == r.ended {
		return latchkey.Errorf(latchkey.NotFound, "customer_not_found", "there is no such customer")
	}
	if r.down != nil {
		return r.down
	}
	d, err := do(nil)
	if err == nil {
		if r.events == nil {
			r.events = map[string][]audit.Draft{}
		}
		r.events[c.Chain] = append(r.events[c.Chain], d)
	}
	return err
}

var minute0 = latchkey.InstantOf(time.Date(2026, 11, 21, 22, 10, 0, 0, time.UTC))

func flush(t *testing.T, r *authz.Refusals, now latchkey.Instant) int {
	t.Helper()
	n, err := r.RunOnce(context.Background(), now, false)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRefusals_AreOneEventAMinuteWithTheirCount(t *testing.T) {
	record := &trail{}
	r := authz.NewRefusals(record)
	key := audit.Actor{Type: "access_key", ID: "k", Credential: "lk1_live_x", IP: "192.0.2.1"}
	for i := range 1000 {
		r.Note(&authz.Refusal{Chain: "acme", Actor: key, Action: "access_key.create", Code: "key_creates_keys", At: minute0.Add(time.Duration(i) * 59 * time.Millisecond)})
	}
	r.Note(&authz.Refusal{Chain: "acme", Actor: key, Action: "access_key.create", Code: "scope_missing", At: minute0})
	if n := flush(t, r, minute0.Add(59*time.Second)); n != 0 {
		t.Errorf("%d events before the minute was over", n)
	}
	r.Note(&authz.Refusal{Chain: "acme", Actor: key, Action: "access_key.create", Code: "scope_missing", At: minute0.Add(time.Minute)})
	if n := flush(t, r, minute0.Add(61*time.Second)); n != 2 {
		t.Errorf("%d events, want those of the first minute", n)
	}
	got := record.events["acme"][0]
	if got.Reason != "key_creates_keys" {
		got = record.events["acme"][1]
	}
	if got.Actor != key || got.Action != "access_key.create" || got.Outcome != "refused" || got.Resource.Type != "access_key" || got.At != minute0.Add(61*time.Second) ||
		got.Changes != `{"count":1000,"first_at":"2026-11-21T22:10:00Z","last_at":"2026-11-21T22:10:58.941Z"}` {
		t.Errorf("%+v", got)
	}
	if n, err := r.RunOnce(context.Background(), minute0.Add(62*time.Second), true); n != 1 || err != nil {
		t.Errorf("at the end: %d %v", n, err)
	}
	if n := flush(t, r, minute0.Add(time.Hour)); n != 0 {
		t.Errorf("%d events again", n)
	}
}

// Whoever calls from many addresses makes neither the memory nor the trail grow.
func TestRefusals_OfManySourcesAreFewEvents(t *testing.T) {
	record := &trail{}
	r := authz.NewRefusals(record)
	for i := range 100_000 {
		source := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		r.Note(&authz.Refusal{Chain: audit.SystemChain, Actor: authz.Stranger(source), Action: "decision.evaluate", Code: "invalid_credential", At: minute0})
		// A network of IPv6 is one caller however many addresses it has.
		v6 := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
		r.Note(&authz.Refusal{Chain: "acme", Actor: authz.Stranger(v6), Action: "decision.evaluate", Code: "invalid_credential", At: minute0})
	}
	for i := range 1000 {
		r.Note(&authz.Refusal{Chain: "keys", Actor: audit.Actor{Type: "access_key", ID: fmt.Sprint(i)}, Action: "a.b", Code: "c", At: minute0})
	}
	flush(t, r, minute0.Add(time.Minute))
	for chain, want := range map[string]int{audit.SystemChain: 21, "acme": 1, "keys": 101} {
		if got := len(record.events[chain]); got != want {
			t.Errorf("%s: %d events, want %d", chain, got, want)
		}
	}
	counts := 0
	for _, d := range record.events[audit.SystemChain] {
		n := 0
		if _, err := fmt.Sscanf(d.Changes, `{"count":%d,`, &n); err != nil {
			t.Fatal(err)
		}
		counts += n
		if d.Action == "other" && (d.Actor.Type != "other" || n != 100_000-20) {
			t.Errorf("%+v", d)
		}
	}
	if counts != 100_000 {
		t.Errorf("%d refusals in all", counts)
	}
	if id := record.events["acme"][0].Actor.ID; id != "2001:db8::" {
		t.Errorf("the network is %s", id)
	}
}

func TestRefusals_WaitForADatabaseThatIsDownButNotForEver(t *testing.T) {
	record := &trail{down: latchkey.Errorf(latchkey.Unavailable, "storage_full", "full")}
	r := authz.NewRefusals(record)
	note := func(at latchkey.Instant) {
		for _, code := range []string{"a", "b", "c"} {
			r.Note(&authz.Refusal{Chain: "acme", Actor: authz.Stranger(netip.Addr{}), Action: "x.y", Code: code, At: at})
		}
	}
	note(minute0)
	for i := range 9 {
		if n, err := r.RunOnce(context.Background(), minute0.Add(time.Duration(i+1)*time.Minute), false); n != 0 || !errors.Is(err, record.down) {
			t.Fatalf("%d %v", n, err)
		}
	}
	note(minute0.Add(9 * time.Minute))
	if _, err := r.RunOnce(context.Background(), minute0.Add(10*time.Minute), false); err == nil {
		t.Error("no error")
	}
	if got := r.Dropped(); got != 3 {
		t.Errorf("%d dropped, want the three of the first minute", got)
	}
	record.down = nil
	if n := flush(t, r, minute0.Add(11*time.Minute)); n != 3 {
		t.Errorf("%d written, want the three that waited", n)
	}
}

func TestRefusals_OfACustomerThatHasEndedGoToTheSystemChain(t *testing.T) {
	record := &trail{ended: "acme"}
	r := authz.NewRefusals(record)
	r.Note(&authz.Refusal{Chain: "acme", Actor: audit.Actor{Type: "access_key", ID: "k"}, Action: "x.y", Code: "key_revoked", At: minute0})
	flush(t, r, minute0.Add(time.Minute))
	if len(record.events[audit.SystemChain]) != 1 {
		t.Errorf("%v", record.events)
	}
}

func TestRefusals_MayBeOff(*testing.T) {
	var off *authz.Refusals
	off.Note(&authz.Refusal{Chain: "acme", At: minute0})
}
