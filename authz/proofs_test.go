package authz_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
)

// sameKid is a token with the kid of another, and a secret of its own.
func sameKid(t *testing.T, of authz.Token) authz.Token {
	t.Helper()
	other := authz.NewAccessKeyToken(authz.Live)
	other.Kid = of.Kid
	return other
}

func TestProofs_AskOnceForASecretThatIsRight(t *testing.T) {
	right := authz.NewAccessKeyToken(authz.Live)
	wrong := sameKid(t, right)
	asked, now, down := 0, latchkey.Instant(1), false
	p := authz.NewProofs(func(_ context.Context, secret []byte) (bool, error) {
		if asked++; down {
			return false, errors.New("down")
		}
		return string(secret) == right.Reveal(), nil
	}, 10, func() latchkey.Instant { return now })
	state := authz.SecretState{Digest: authz.Digest{1}, Foreign: true}
	verify := func(what string, token authz.Token, s authz.SecretState, want bool, asks int) {
		t.Helper()
		if got, err := p.Verify(token, s); err != nil || got != want || asked != asks {
			t.Errorf("%s: %v, %v, asked %d times", what, got, err, asked)
		}
	}
	verify("a wrong one", wrong, state, false, 1)
	verify("again", wrong, state, false, 1)
	now = now.Add(time.Second)
	verify("a second later", wrong, state, false, 2)
	verify("the right one", right, state, true, 3)
	verify("again", right, state, true, 3)
	now = now.Add(time.Second)
	verify("a wrong one, where the right one is known", wrong, state, false, 3)
	down = true
	verify("without who could tell", right, state, true, 3)
	// After a rotation the digest is another: what was right says nothing.
	rotated := authz.SecretState{Digest: authz.Digest{2}, Foreign: true}
	if got, err := p.Verify(right, rotated); err == nil || got {
		t.Errorf("of another digest: %v, %v", got, err)
	}
	down = false
	verify("of another digest", right, rotated, true, 5)
}

func TestProofs_AreBounded(t *testing.T) {
	asked := 0
	p := authz.NewProofs(func(context.Context, []byte) (bool, error) { asked++; return true, nil }, 2, func() latchkey.Instant { return 1 })
	tokens := []authz.Token{authz.NewAccessKeyToken(authz.Live), authz.NewAccessKeyToken(authz.Live), authz.NewAccessKeyToken(authz.Live)}
	for _, token := range append(tokens, tokens[0]) {
		if holds, err := p.Verify(token, authz.SecretState{}); err != nil || !holds {
			t.Fatal(holds, err)
		}
	}
	if asked != 4 {
		t.Errorf("asked %d times: the first is to be forgotten", asked)
	}
}
