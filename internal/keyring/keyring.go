// Package keyring keeps the secrets that a server makes for itself in one
// file outside the database, so that a copy of the database alone is worth
// nothing: neither can its audit chains be forged, nor its kept replies read.
//
// It imports the standard library only.
package keyring

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// keyBytes is the length of every key.
const keyBytes = 32

// Keyring holds a secret for each purpose: 32 random bytes, or a private key
// where others verify.
type Keyring struct {
	AuditMAC []byte `json:"audit_mac"` // authenticates the heads of audit chains
	Seal     []byte `json:"seal"`      // seals replies kept for idempotent requests
	// Bundle is the PKCS #8 form of the P-256 key that signs bundles; nil in a
	// file from before there were bundles, until LoadOrCreate adds it.
	Bundle []byte `json:"bundle,omitempty"`
	// Feed is the seed of the Ed25519 key that signs what nodes of a fleet follow;
	// nil in a file from before there was a feed, as Bundle.
	Feed []byte `json:"feed,omitempty"`
	// Secrets seals the secrets of customers, where the operator brings no keys for
	// that; nil in a file from before there were any, as Bundle.
	Secrets []byte `json:"secrets,omitempty"`
}

// BundleKey returns the key that signs bundles.
func (k *Keyring) BundleKey() (*ecdsa.PrivateKey, error) {
	key, err := x509.ParsePKCS8PrivateKey(k.Bundle)
	if err != nil {
		return nil, errors.New("the keyring's bundle key does not parse") // err could tell of it
	}
	p256, ok := key.(*ecdsa.PrivateKey)
	if !ok || p256.Curve != elliptic.P256() {
		return nil, errors.New("the keyring's bundle key is not a P-256 key")
	}
	return p256, nil
}

// complete makes the keys that an older file lacks.
func (k *Keyring) complete() error {
	if k.Feed == nil {
		k.Feed = make([]byte, keyBytes)
		rand.Read(k.Feed)
	}
	if k.Secrets == nil {
		k.Secrets = make([]byte, keyBytes)
		rand.Read(k.Secrets)
	}
	if k.Bundle != nil {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	k.Bundle, err = x509.MarshalPKCS8PrivateKey(key)
	return err
}

// Fingerprints tell the keys from those of another keyring, and nothing else of
// them: by the name of each key that there is, half of a SHA-256 over its name
// and its bytes. A key that a later release adds leaves the others' as they are.
func (k *Keyring) Fingerprints() map[string]string {
	prints := map[string]string{}
	for name, key := range map[string][]byte{"audit_mac": k.AuditMAC, "seal": k.Seal, "bundle": k.Bundle, "feed": k.Feed, "secrets": k.Secrets} {
		if key == nil {
			continue
		}
		sum := sha256.Sum256(append([]byte("latchkey keyring fingerprint\x00"+name+"\x00"), key...))
		prints[name] = hex.EncodeToString(sum[:16])
	}
	return prints
}

// Load reads the file.
func Load(path string) (*Keyring, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the keyring: %w", err)
	}
	k := &Keyring{}
	if err := json.Unmarshal(text, k); err != nil {
		return nil, fmt.Errorf("the keyring %s is not what this server wrote", path)
	}
	if len(k.AuditMAC) != keyBytes || len(k.Seal) != keyBytes || k.Feed != nil && len(k.Feed) != keyBytes || k.Secrets != nil && len(k.Secrets) != keyBytes {
		return nil, fmt.Errorf("the keyring %s lacks a key, or one has the wrong length", path)
	}
	if k.Bundle != nil {
		if _, err := k.BundleKey(); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return k, nil
}

// LoadOrCreate reads the file, making it where it is missing, for its owner
// alone to read; a key that an older file lacks is added to it. It is there
// whole or not at all, and of several servers that find it missing or older one
// writes it, while the others wait. What needs no change may be on a file
// system that cannot be written.
func LoadOrCreate(path string) (*Keyring, error) {
	k, err := Load(path)
	if !errors.Is(err, fs.ErrNotExist) && (err != nil || k.whole()) {
		return k, err
	}
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make the keyring: %w", err)
	}
	defer lock.Close() // which unlocks
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("make the keyring: %w", err)
	}
	k, err = Load(path) // again: another one may just have written it
	switch {
	case errors.Is(err, fs.ErrNotExist):
		k = &Keyring{AuditMAC: make([]byte, keyBytes), Seal: make([]byte, keyBytes)}
		rand.Read(k.AuditMAC)
		rand.Read(k.Seal)
		if err := k.complete(); err != nil {
			return nil, err
		}
		if err := k.write(path, os.Link); err != nil { // never over an existing one
			return nil, fmt.Errorf("make the keyring: %w", err)
		}
	case err != nil:
		return nil, err
	case !k.whole():
		if err := k.complete(); err != nil {
			return nil, err
		}
		if err := k.write(path, os.Rename); err != nil {
			return nil, fmt.Errorf("add a key to the keyring: %w", err)
		}
	}
	return k, nil
}

// whole reports whether no key is missing.
func (k *Keyring) whole() bool { return k.Bundle != nil && k.Feed != nil && k.Secrets != nil }

// write writes through a temporary file, which put brings to its place.
func (k *Keyring) write(path string, put func(from, to string) error) (err error) {
	text, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	tmp, err := os.CreateTemp(filepath.Dir(path), ".keyring-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ignoreMissing(os.Remove(tmp.Name()))) }()
	if _, err := tmp.Write(text); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return put(tmp.Name(), path)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
