package main

import (
	"encoding/json"
	"fmt"

	"github.com/latchkey-dev/latchkey/internal/keyring"
	"github.com/latchkey-dev/latchkey/policies/bundle"
)

// BundleKeyCmd shows what a puller verifies this server's bundles with. It only
// reads the keyring, so the server may run.
type BundleKeyCmd struct {
	Data        string `help:"Data directory of the server." default:"data" type:"path" env:"LATCHKEY_DATA" placeholder:"DIR"`
	KeyringFile string `help:"The server's keyring; in the data directory where empty." type:"path" env:"LATCHKEY_KEYRING_FILE" placeholder:"FILE"`
}

// Run implements the command.
func (cmd *BundleKeyCmd) Run(g *Globals, std streams) error {
	ring, err := keyring.Load((&Storage{Data: cmd.Data, KeyringFile: cmd.KeyringFile}).keyring())
	if err != nil {
		return err
	}
	signer, err := bundleSigner(ring)
	if err != nil {
		return err
	}
	key, err := signer.Key()
	if err != nil {
		return err
	}
	if g.JSON {
		return json.NewEncoder(std.out).Encode(map[string]string{"id": key.ID, "algorithm": key.Algorithm, "key": key.Key})
	}
	_, err = fmt.Fprint(std.out, key.Key)
	return err
}

// bundleSigner signs the server's bundles.
func bundleSigner(ring *keyring.Keyring) (*bundle.Signer, error) {
	key, err := ring.BundleKey()
	if err != nil {
		return nil, err
	}
	return bundle.NewSigner(key, "", "")
}
