package main

import (
	"context"
	"fmt"
	"os"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/vault"
)

// openVault makes the vault of customers' secrets, with the operator's keys or
// the keyring's, and holds it to what the record has.
func (n *node) openVault(ctx context.Context, path string) error {
	keys := [][]byte{n.keyring.Secrets}
	if path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read the keys of secrets: %w", err)
		}
		given, err := vault.ParseKeys(text)
		clear(text)
		if err != nil {
			return usage("--secrets-key-file: %w", err)
		}
		keys = append(given, n.keyring.Secrets) // which opens what was sealed before there was a file
	}
	var err error
	if n.vault, err = vault.New(keys...); err != nil {
		return err
	}
	resealed, err := n.db.OpenVault(ctx, n.vault, latchkey.InstantOf(n.now()))
	if err == nil && resealed > 0 {
		n.log.Info("secrets", "status", "sealed anew under the first key", "secrets", resealed, "key", string(n.vault.Sealing()))
	}
	return err
}
