package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/internal/keyring"
)

// FeedCmd is about what sidecars follow.
type FeedCmd struct {
	Key FeedKeyCmd `cmd:"" help:"Show the public key by which sidecars verify what they are told, as --verification-key takes it."`
}

// FeedKeyCmd shows what a sidecar can be pinned to. It only reads the keyring, so
// the server may run, or not be there yet.
type FeedKeyCmd struct {
	Data        string `help:"Data directory of the server." default:"data" type:"path" env:"LATCHKEY_DATA" placeholder:"DIR"`
	KeyringFile string `help:"The server's keyring; in the data directory where empty." type:"path" env:"LATCHKEY_KEYRING_FILE" placeholder:"FILE"`
}

// Run implements the command.
func (cmd *FeedKeyCmd) Run(g *Globals, std streams) error {
	ring, err := keyring.Load((&Storage{Data: cmd.Data, KeyringFile: cmd.KeyringFile}).keyring())
	if err != nil {
		return err
	}
	signer, err := feedSigner(ring)
	if err != nil {
		return err
	}
	key := base64.StdEncoding.EncodeToString(signer.Public())
	if g.JSON {
		return json.NewEncoder(std.out).Encode(map[string]string{"id": feed.KeyID(signer.Public()), "public_key": key})
	}
	_, err = fmt.Fprintln(std.out, key)
	return err
}

// feedSigner signs what sidecars follow. Whoever only reads a keyring adds no key
// to it.
func feedSigner(ring *keyring.Keyring) (*feed.Signer, error) {
	signer, err := feed.NewSigner(ring.Feed)
	if err != nil {
		return nil, fmt.Errorf("%w: start the server once, which adds the key to the keyring", err)
	}
	return signer, nil
}
