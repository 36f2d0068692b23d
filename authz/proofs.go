package authz

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/latchkey-dev/latchkey"
)

// Proofs verifies secrets whose digests were made with a pepper that is not
// here, by who has it, and keeps what it was told: of a right secret its SHA-256
// for as long as its digest is the same, of a wrong one for a moment. Whether the
// key still holds is not its concern. Safe for concurrent use.
type Proofs struct {
	ask   func(ctx context.Context, secret []byte) (bool, error)
	now   func() latchkey.Instant
	right *lru.Cache[Kid, proof]
	wrong *lru.Cache[Digest, latchkey.Instant] // until when
	turns chan struct{}
}

type proof struct {
	of    Digest // as kept of the secret, with the pepper
	plain Digest
}

// Bounds of Proofs.
const (
	proofWait  = time.Second
	wrongProof = time.Second
	wrongKept  = 4096
	asksAtOnce = 16 // at a time
)

// NewProofs makes one that keeps up to most right secrets.
func NewProofs(ask func(ctx context.Context, secret []byte) (bool, error), most int, now func() latchkey.Instant) *Proofs {
	right, err := lru.New[Kid, proof](max(1, most))
	if err != nil {
		panic(err) // the size is positive
	}
	wrong, err := lru.New[Digest, latchkey.Instant](wrongKept)
	if err != nil {
		panic(err)
	}
	return &Proofs{ask: ask, now: now, right: right, wrong: wrong, turns: make(chan struct{}, asksAtOnce)}
}

// Verify implements SecretVerifier.
func (p *Proofs) Verify(t Token, s SecretState) (bool, error) {
	plain := Digest(sha256.Sum256(t.text))
	if known, ok := p.right.Get(t.Kid); ok && known.of == s.Digest {
		// There is one secret of a digest: any other is wrong, and nobody asked.
		return subtle.ConstantTimeCompare(known.plain[:], plain[:]) == 1, nil
	}
	if until, ok := p.wrong.Get(plain); ok && p.now() < until {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), proofWait)
	defer cancel()
	select {
	case p.turns <- struct{}{}:
		defer func() { <-p.turns }()
	case <-ctx.Done():
		return false, latchkey.Errorf(latchkey.Unavailable, "busy", "other secrets are being verified; try again")
	}
	holds, err := p.ask(ctx, bytes.Clone(t.text))
	switch {
	case err != nil:
		return false, err
	case holds:
		p.right.Add(t.Kid, proof{s.Digest, plain})
	default:
		p.wrong.Add(plain, p.now().Add(wrongProof))
	}
	return holds, nil
}
