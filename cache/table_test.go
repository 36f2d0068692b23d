package cache_test

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
)

func newState(id authz.KeyID, revoked latchkey.Instant) *authz.KeyState {
	return authz.NewKeyState(&authz.Key{ID: id, ExpiresAt: latchkey.Never, RevokedAt: revoked, LastUsedAt: latchkey.Never}, &authz.Customer{ID: "c"}, nil)
}

// Changes may be applied in any order and more than once: the key ends at the
// earliest end that any of them names.
func TestTable_EndsTheSameInWhateverOrderChangesAreApplied(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id, kid := authz.KeyID(uuid.New()), authz.NewAccessKeyToken(authz.Live).Kid
		instants := rapid.SliceOfN(rapid.Int64Range(1, 50), 1, 8)
		revocations, endings := instants.Draw(t, "revocations"), instants.Draw(t, "endings")
		earliest := func(list []int64) latchkey.Instant {
			least := latchkey.Never
			for _, at := range list {
				least = min(least, latchkey.Instant(at))
			}
			return least
		}
		table := &cache.Table{}
		var changes []func()
		for _, at := range revocations {
			changes = append(changes, func() {
				table.AddSecret(kid, authz.SecretState{EndsAt: latchkey.Never, Key: newState(id, latchkey.Instant(at))})
			})
		}
		for _, at := range endings {
			changes = append(changes, func() { table.EndSecret(kid, latchkey.Instant(at)) })
		}
		seed := rapid.Uint64().Draw(t, "order")
		r := rand.New(rand.NewPCG(seed, 0))
		r.Shuffle(len(changes), func(i, j int) { changes[i], changes[j] = changes[j], changes[i] })
		for _, change := range append(changes, changes[:len(changes)/2]...) {
			change()
		}
		if got, want := table.Key(id).RevokedAt(), earliest(revocations); got != want {
			t.Errorf("revoked at %d, want %d", got, want)
		}
		secret, ok := table.Secret(kid)
		if !ok {
			t.Fatal("the secret is gone")
		}
		if want := earliest(endings); secret.EndsAt != want {
			t.Errorf("the secret ends at %d, want %d", secret.EndsAt, want)
		}
	})
}

func TestTable_KeepsOneStateAKeyUnderConcurrentUse(t *testing.T) {
	table := &cache.Table{}
	id := authz.KeyID(uuid.New())
	kids := make([]authz.Kid, 32)
	var wg sync.WaitGroup
	for i := range kids {
		kids[i] = authz.NewAccessKeyToken(authz.Live).Kid
		wg.Go(func() {
			table.AddSecret(kids[i], authz.SecretState{EndsAt: latchkey.Never, Key: newState(id, latchkey.Never)})
			table.Key(id).Revoke(latchkey.Instant(100 + i))
		})
	}
	wg.Wait()
	for _, kid := range kids {
		s, ok := table.Secret(kid)
		if !ok || s.Key != table.Key(id) {
			t.Fatal("a secret has a state of its own: a revocation would miss it")
		}
	}
	if table.Len() != 1 || table.Key(id).RevokedAt() != 100 {
		t.Errorf("%d keys, revoked at %d", table.Len(), table.Key(id).RevokedAt())
	}
}

func TestTable_AnswersForWhatIsNotThere(t *testing.T) {
	table := &cache.Table{}
	if table.Key(authz.KeyID{}) != nil || table.Customer("c") != nil || table.Customers() != 0 || table.Len() != 0 {
		t.Error("an empty table holds something")
	}
	if s, ok := table.Secret(authz.Kid{}); ok || s.Key.Status(0) != authz.Unknown {
		t.Error("an unknown secret stands for something")
	}
	gone := &authz.Customer{ID: "gone"}
	gone.Delete()
	table.AddCustomer(gone)
	table.AddCustomer(&authz.Customer{ID: "gone"})
	if table.Customers() != 0 || !table.Customer("gone").Deleted() {
		t.Error("an ended customer came back")
	}
	if table.Lookups() != 1 {
		t.Errorf("%d look-ups, want 1", table.Lookups())
	}
}
