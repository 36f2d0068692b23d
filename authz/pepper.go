package authz

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strings"
	"sync"
)

// Digest is what is kept of a secret: SHA-256 of the whole token, or
// HMAC-SHA-256 under a pepper.
type Digest [sha256.Size]byte

// minPepper is the least length of a pepper in bytes.
const minPepper = 32

// Peppers are the keys under which digests are made: the first one for new
// secrets, the others for those that were made before. Without any, digests
// are plain SHA-256. Safe for concurrent use; the zero value has none.
type Peppers struct {
	keys []pepper
}

type pepper struct {
	id   string // fingerprint, safe to store
	pool *sync.Pool
}

// ParsePeppers reads a pepper file: one pepper a line, the current one first,
// each at least 32 bytes; blank lines and lines that begin with # are skipped.
func ParsePeppers(file string) (*Peppers, error) {
	p := &Peppers{}
	for n, line := range strings.Split(file, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if len(line) < minPepper {
			return nil, fmt.Errorf("line %d: a pepper has at least %d bytes", n+1, minPepper)
		}
		key := []byte(line)
		sum := sha256.Sum256(append([]byte("latchkey pepper\x00"), key...))
		p.keys = append(p.keys, pepper{
			id:   hex.EncodeToString(sum[:8]),
			pool: &sync.Pool{New: func() any { return hmac.New(sha256.New, key) }},
		})
	}
	if len(p.keys) == 0 {
		return nil, errors.New("the pepper file holds no pepper")
	}
	return p, nil
}

// PepperRef is a pepper's place in Peppers, from 1; 0 is none.
type PepperRef uint8

// Current returns the pepper for new digests, and its stored name.
func (p *Peppers) Current() (PepperRef, string) {
	if len(p.keys) == 0 {
		return 0, ""
	}
	return 1, p.keys[0].id
}

// Find returns the pepper of a stored name; false when this server does not
// hold it, so that secrets made with it cannot be checked.
func (p *Peppers) Find(id string) (PepperRef, bool) {
	if id == "" {
		return 0, true
	}
	for i := range p.keys {
		if p.keys[i].id == id {
			return PepperRef(i + 1), true
		}
	}
	return 0, false
}

// Digest makes the digest of a token under the pepper.
func (p *Peppers) Digest(ref PepperRef, t Token) (d Digest) {
	if ref == 0 {
		return sha256.Sum256(t.text)
	}
	k := p.keys[ref-1]
	mac := k.pool.Get().(hash.Hash)
	mac.Reset()
	mac.Write(t.text)
	mac.Sum(d[:0])
	k.pool.Put(mac)
	return d
}
