// Package keyring keeps the secrets that a server makes for itself in one
// file outside the database, so that a copy of the database alone is worth
// nothing: neither can its audit chains be forged, nor its kept replies read.
//
// It imports the standard library only.
package keyring

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// keyBytes is the length of every key.
const keyBytes = 32

// Keyring holds 32 random bytes for each purpose.
type Keyring struct {
	AuditMAC []byte `json:"audit_mac"` // authenticates the heads of audit chains
	Seal     []byte `json:"seal"`      // seals replies kept for idempotent requests
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
	if len(k.AuditMAC) != keyBytes || len(k.Seal) != keyBytes {
		return nil, fmt.Errorf("the keyring %s lacks a key, or one has the wrong length", path)
	}
	return k, nil
}

// LoadOrCreate reads the file, making it where it is missing, for its owner
// alone to read. It is there whole or not at all.
func LoadOrCreate(path string) (*Keyring, error) {
	k, err := Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	k = &Keyring{AuditMAC: make([]byte, keyBytes), Seal: make([]byte, keyBytes)}
	rand.Read(k.AuditMAC)
	rand.Read(k.Seal)
	text, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := writeNew(path, append(text, '\n')); err != nil {
		return nil, fmt.Errorf("make the keyring: %w", err)
	}
	return k, nil
}

// writeNew writes through a temporary file, and never over an existing one.
func writeNew(path string, text []byte) (err error) {
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
	return os.Link(tmp.Name(), path)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
