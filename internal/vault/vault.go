// Package vault seals the secrets of customers, so that they stand in no table in
// the clear: AES-256 in Galois/Counter Mode under keys that lie outside the
// database. What is sealed is bound to whose it is, of which kind, and by which
// name: moved to another row it does not open.
//
// It imports the root package alone, for times.
package vault

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// KeyBytes is the length of a key.
const KeyBytes = 32

// KeyID tells a key from others and nothing else of it.
type KeyID string // 16 hex digits

// Label says what a sealed text is.
type Label struct {
	Customer string
	Kind     string // "webhook", "task", …
	Owner    string // id of the record that it belongs to; "" for the customer
	Name     string
}

// Vault seals and opens. Safe for concurrent use.
type Vault struct {
	keys []key
}

type key struct {
	id   KeyID
	aead cipher.AEAD
}

// New makes a vault: the first key seals, all of them open.
func New(keys ...[]byte) (*Vault, error) {
	v := &Vault{}
	for _, secret := range keys {
		if len(secret) != KeyBytes {
			return nil, fmt.Errorf("a key of the vault has %d bytes: want %d", len(secret), KeyBytes)
		}
		id := keyID(secret)
		if v.Knows(id) {
			continue
		}
		block, err := aes.NewCipher(secret)
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, err
		}
		v.keys = append(v.keys, key{id, aead})
	}
	if len(v.keys) == 0 {
		return nil, errors.New("a vault needs a key")
	}
	return v, nil
}

// ParseKeys reads a file of keys: base64 of 32 bytes a line, the one that seals
// first. Empty lines, and those that begin with #, say nothing. The error repeats
// nothing of the file.
func ParseKeys(text []byte) (keys [][]byte, err error) {
	number := 0
	for line := range bytes.Lines(text) {
		number++
		s := strings.TrimSpace(string(line))
		if s == "" || strings.HasPrefix(s, "#") {
			continue
		}
		k, err := base64.StdEncoding.Strict().DecodeString(s)
		if err != nil || len(k) != KeyBytes {
			return nil, fmt.Errorf("line %d is not base64 of %d bytes; 'openssl rand -base64 %d' makes one", number, KeyBytes, KeyBytes)
		}
		if bytes.Equal(k, make([]byte, KeyBytes)) {
			return nil, fmt.Errorf("line %d is a key of zeros", number)
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no key in it")
	}
	return keys, nil
}

func keyID(secret []byte) KeyID {
	sum := sha256.Sum256(append([]byte("latchkey vault key\x00"), secret...))
	return KeyID(hex.EncodeToString(sum[:idBytes]))
}

// A box is its version, the id of its key, the nonce, and what GCM makes.
const (
	version    = 1
	idBytes    = 8
	nonceBytes = 12
	headBytes  = 1 + idBytes + nonceBytes
)

// Sealing returns the key that seals.
func (v *Vault) Sealing() KeyID { return v.keys[0].id }

// Knows reports whether what was sealed under a key can be opened.
func (v *Vault) Knows(id KeyID) bool {
	for _, k := range v.keys {
		if k.id == id {
			return true
		}
	}
	return false
}

// Seal encrypts a text under the first key.
func (v *Vault) Seal(l Label, plain []byte) []byte {
	k := v.keys[0]
	box := make([]byte, headBytes, headBytes+len(plain)+k.aead.Overhead())
	box[0] = version
	id, err := hex.DecodeString(string(k.id))
	if err != nil {
		panic(err) // of our own making
	}
	copy(box[1:], id)
	nonce := box[1+idBytes : headBytes]
	rand.Read(nonce)
	return k.aead.Seal(box, nonce, plain, l.bind(box[:1+idBytes]))
}

// ErrUnknownKey says that a box was sealed under a key that is not here.
var ErrUnknownKey = errors.New("sealed under a key that this server does not have")

var errBox = errors.New("what is sealed was altered, or is not what it is taken for")

// Open decrypts what Seal returned for the same label. It fails with
// ErrUnknownKey where another server's key may open it.
func (v *Vault) Open(l Label, box []byte) ([]byte, error) {
	id, err := KeyOf(box)
	if err != nil {
		return nil, err
	}
	for _, k := range v.keys {
		if k.id == id {
			plain, err := k.aead.Open(nil, box[1+idBytes:headBytes], box[headBytes:], l.bind(box[:1+idBytes]))
			if err != nil {
				return nil, errBox
			}
			return plain, nil
		}
	}
	return nil, ErrUnknownKey
}

// KeyOf tells which key a box was sealed under.
func KeyOf(box []byte) (KeyID, error) {
	if len(box) < headBytes || box[0] != version {
		return "", errBox
	}
	return KeyID(hex.EncodeToString(box[1 : 1+idBytes])), nil
}

// bind is what a box is authenticated with: its head and the label, each part
// with its length before it, so that no two labels give the same bytes.
func (l Label) bind(head []byte) []byte {
	b := append([]byte("latchkey vault\x00"), head...)
	for _, part := range []string{l.Customer, l.Kind, l.Owner, l.Name} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	return b
}
