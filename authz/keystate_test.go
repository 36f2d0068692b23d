package authz_test

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
)

func state(expires, revoked latchkey.Instant) *authz.KeyState {
	return authz.NewKeyState(&authz.Key{ExpiresAt: expires, RevokedAt: revoked, LastUsedAt: latchkey.Never}, &authz.Customer{ID: "c"}, nil)
}

func TestKeyState_ZeroValuesNeverHold(t *testing.T) {
	var none *authz.KeyState
	if s := none.Status(0); s != authz.Unknown {
		t.Errorf("nil: %d", s)
	}
	for _, now := range []latchkey.Instant{0, morning} {
		if s := (&authz.KeyState{Customer: &authz.Customer{}}).Status(now); s != authz.Revoked {
			t.Errorf("zero at %d: %d", now, s)
		}
	}
	if s := authz.NewKeyState(&authz.Key{ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never}, nil, nil).Status(morning); s == authz.Active {
		t.Error("a key of no customer holds")
	}
}

func TestKeyState_EndsAtTheVeryInstant(t *testing.T) {
	for _, tt := range []struct {
		expires, revoked, now latchkey.Instant
		want                  authz.Status
	}{
		{latchkey.Never, latchkey.Never, morning, authz.Active},
		{morning + 1, latchkey.Never, morning, authz.Active},
		{morning, latchkey.Never, morning, authz.Expired},
		{latchkey.Never, morning + 1, morning, authz.Revoked}, // by a node whose clock is ahead
		{latchkey.Never, morning, morning, authz.Revoked},
		{morning, morning, morning, authz.Revoked}, // revocation is told before expiry
	} {
		if got := state(tt.expires, tt.revoked).Status(tt.now); got != tt.want {
			t.Errorf("%+v: %d", tt, got)
		}
	}
	customer := &authz.Customer{ID: "c"}
	k := authz.NewKeyState(&authz.Key{ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never}, customer, nil)
	customer.Delete()
	if k.Status(morning) != authz.Revoked {
		t.Error("the end of its customer is not the end of the key")
	}
}

// TestKeyState_RevocationOnlyComesNearer: whatever the order and number of
// revocations, the earliest holds.
func TestKeyState_RevocationOnlyComesNearer(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		k, least := state(latchkey.Never, latchkey.Never), latchkey.Never
		var wg sync.WaitGroup
		for range 8 {
			at := morning + latchkey.Instant(rng.IntN(50))
			least = min(least, at)
			wg.Go(func() { k.Revoke(at) })
		}
		wg.Wait()
		if k.RevokedAt() != least {
			t.Fatalf("revoked at %d, want %d", k.RevokedAt(), least)
		}
		k.Revoke(latchkey.Never)
		k.Revoke(least + 1)
		if k.RevokedAt() != least || k.Status(least-1) != authz.Revoked || k.Status(least) != authz.Revoked {
			t.Fatal("a later revocation moved an earlier one")
		}
	}
}

func TestTable_ChangesInAnyOrderEndTheSame(t *testing.T) {
	_, made := fill(t, &cache.Table{}, 1, `{"decision":true}`)
	kid := authz.NewAccessKeyToken(authz.Live).Kid
	steps := []func(*cache.Table){
		func(tb *cache.Table) {
			k := authz.NewKeyState(&authz.Key{ID: made.ID, ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never}, made.Customer, nil)
			tb.AddSecret(kid, authz.SecretState{EndsAt: latchkey.Never, Key: k})
		},
		func(tb *cache.Table) {
			k := authz.NewKeyState(&authz.Key{ID: made.ID, ExpiresAt: latchkey.Never, RevokedAt: morning}, made.Customer, nil)
			tb.AddSecret(kid, authz.SecretState{EndsAt: latchkey.Never, Key: k})
		},
		func(tb *cache.Table) { tb.EndSecret(kid, morning) },
	}
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}, {0, 1, 2, 0, 0}} {
		var tb cache.Table
		for _, i := range order {
			steps[i](&tb)
		}
		s, ok := tb.Secret(kid)
		if k := tb.Key(made.ID); !ok || k == nil || k.RevokedAt() != morning || s.EndsAt > morning || s.Key != k {
			t.Errorf("order %v: %+v", order, s)
		}
	}
}

func TestKeyState_TouchesOnceAMinute(t *testing.T) {
	k := state(latchkey.Never, latchkey.Never)
	for _, tt := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {0, false}, {59 * time.Second, false}, {time.Minute, true}, {61 * time.Second, false}, {2 * time.Minute, true}} {
		if got := k.Touch(morning.Add(tt.after)); got != tt.want {
			t.Errorf("after %s: %v", tt.after, got)
		}
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	n := 0
	for range 64 {
		wg.Go(func() {
			if k.Touch(morning.Add(time.Hour)) {
				mu.Lock()
				n++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if n != 1 {
		t.Errorf("%d touches of 64 at once count", n)
	}
}

func TestKeyID_HasOneSpelling(t *testing.T) {
	const id = "9017501f-9fa4-4a88-b657-5bd49c1bb722"
	if got, ok := authz.ParseKeyID(id); !ok || got.String() != id || string(got.AppendText(nil)) != id {
		t.Errorf("%s %v", got, ok)
	}
	for _, other := range []string{"", "9017501F-9fa4-4a88-b657-5bd49c1bb722", "9017501f9fa44a88b6575bd49c1bb722", "{" + id + "}", "urn:uuid:" + id, id + " ",
		"9017501f-9fa4-4a88-b657-5bd49c1bb72g", "9017501f-9fa4-4a88-b6575-bd49c1bb722", "9017501f_9fa4_4a88_b657_5bd49c1bb722"} {
		if _, ok := authz.ParseKeyID(other); ok {
			t.Errorf("%q is taken", other)
		}
	}
}
