package main

import (
	"context"
	"fmt"
	"os"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/keyring"
	"github.com/latchkey-dev/latchkey/internal/vault"
)

// newVault makes the vault of customers' secrets, with the operator's keys or the
// keyring's.
func newVault(path string, keys *keyring.Keyring) (*vault.Vault, error) {
	if path == "" {
		return vault.New(keys.Secrets)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the keys of secrets: %w", err)
	}
	given, err := vault.ParseKeys(text)
	clear(text)
	if err != nil {
		return nil, usage("--secrets-key-file: %w", err)
	}
	return vault.New(append(given, keys.Secrets)...) // which opens what was sealed before there was a file
}

// openVault makes the vault, and holds it to what the record has.
func (n *node) openVault(ctx context.Context, path string) error {
	var err error
	if n.vault, err = newVault(path, n.keyring); err != nil {
		return err
	}
	resealed, err := n.db.OpenVault(ctx, n.vault, latchkey.InstantOf(n.now()))
	if err == nil && resealed > 0 {
		n.log.Info("secrets", "status", "sealed anew under the first key", "secrets", resealed, "key", string(n.vault.Sealing()))
	}
	return err
}
