package feed

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Form is what kind of thing a signed text is; the signature covers it, so that
// one never stands in for another.
type form string

const (
	recordForm    form = "lk1r"
	messageForm   form = "lk1m"
	heartbeatForm form = "lk1h"
)

// ErrForged answers a text that was not signed by a known key, or is not what
// it was taken for.
var ErrForged = errors.New("feed: not signed by a known key, or malformed")

// KeyID names a public key: the beginning of its SHA-256 in hex.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// Signer signs what a control plane tells. Safe for concurrent use.
type Signer struct {
	id  string
	key ed25519.PrivateKey
}

// NewSigner makes one from the seed of an Ed25519 key, of 32 bytes.
func NewSigner(seed []byte) (*Signer, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, errors.New("feed: a signing key has 32 bytes")
	}
	key := ed25519.NewKeyFromSeed(seed)
	return &Signer{id: KeyID(key.Public().(ed25519.PublicKey)), key: key}, nil
}

// Public is the key that verifies.
func (s *Signer) Public() ed25519.PublicKey { return s.key.Public().(ed25519.PublicKey) }

// sign makes the text: form, key id, signature, and the JSON that is signed, as
// it is, with a space between.
func (s *Signer) sign(f form, v any) ([]byte, error) {
	payload, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("feed: %w", err)
	}
	sig := ed25519.Sign(s.key, signed(f, payload))
	b := append(append([]byte(f), ' '), s.id...)
	b = append(b, ' ')
	b = base64.RawURLEncoding.AppendEncode(b, sig)
	return append(append(b, ' '), payload...), nil
}

func signed(f form, payload []byte) []byte {
	return append(append([]byte("latchkey feed "), f...), append([]byte{0}, payload...)...)
}

// Verifier holds the public keys that a node trusts. Immutable.
type Verifier struct{ keys map[string]ed25519.PublicKey }

// NewVerifier makes one that trusts the given keys.
func NewVerifier(keys ...ed25519.PublicKey) *Verifier {
	v := &Verifier{keys: map[string]ed25519.PublicKey{}}
	for _, k := range keys {
		if len(k) == ed25519.PublicKeySize {
			v.keys[KeyID(k)] = k
		}
	}
	return v
}

// Keys lists the ids of the trusted keys, sorted.
func (v *Verifier) Keys() []string { return slices.Sorted(maps.Keys(v.keys)) }

// open checks a text and reads its payload into dst. Members that dst does not
// know are left out: a newer release may have written them.
func (v *Verifier) open(f form, text []byte, dst any) error {
	head, rest, ok := bytes.Cut(text, []byte{' '})
	if !ok || string(head) != string(f) {
		return ErrForged
	}
	id, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return ErrForged
	}
	sig64, payload, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return ErrForged
	}
	key, known := v.keys[string(id)]
	if !known {
		return ErrForged
	}
	sig := make([]byte, 0, ed25519.SignatureSize+2)
	sig, err := base64.RawURLEncoding.AppendDecode(sig, sig64)
	if err != nil || len(sig) != ed25519.SignatureSize || !ed25519.Verify(key, signed(f, payload), sig) {
		return ErrForged
	}
	if err := json.Unmarshal(payload, dst); err != nil {
		return ErrForged
	}
	return nil
}
