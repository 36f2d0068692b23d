package deliveries

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/vault"
)

// What is sealed of a webhook, by name: its secrets, numbered by the changes that
// made them; the secret of its compat; the value of each header.
const (
	sealedKind   = "webhook"
	secretNames  = "secret:"
	compatName   = "compat"
	headerNames  = "header:"
	secretPrefix = "whsec_" // of Standard Webhooks
)

func secretName(seq int64) string     { return fmt.Sprintf("%s%020d", secretNames, seq) }
func isSecretName(name string) bool   { return strings.HasPrefix(name, secretNames) }
func headerName(header string) string { return headerNames + header }

func newSecret() []byte {
	key := make([]byte, 32)
	rand.Read(key)
	return key
}

// formatSecret is how a secret is shown, once.
func formatSecret(key []byte) string { return secretPrefix + base64.StdEncoding.EncodeToString(key) }

// Secrets are those of a webhook, opened for one attempt.
type Secrets struct {
	Keys    [][]byte // that sign, oldest first
	Compat  []byte   // nil for none
	Headers map[string]string
}

// ErrSecretMissing says that a webhook lacks a secret that it was made with, as
// after the keys of secrets were lost. Nothing is sent then: what is unsigned, or
// lacks a header, is not what the receiver was promised.
var ErrSecretMissing = errors.New("a secret of the webhook is missing")

// OpenSecrets opens those that are good at now. ErrSecretMissing where not all
// that the webhook needs are there.
func OpenSecrets(ctx context.Context, from vault.Record, v *vault.Vault, w *Webhook, now latchkey.Instant) (s Secrets, err error) {
	sealed, err := from.Secrets(ctx, w.Customer, sealedKind, w.ID)
	if err != nil {
		return s, err
	}
	s.Headers = map[string]string{}
	for _, box := range sealed {
		if box.EndsAt <= now {
			continue
		}
		plain, err := v.Open(box.Label, box.Box)
		if err != nil {
			return Secrets{}, fmt.Errorf("open %s of webhook %s: %w", box.Name, w.ID, err)
		}
		switch header, isHeader := strings.CutPrefix(box.Name, headerNames); {
		case isSecretName(box.Name):
			s.Keys = append(s.Keys, plain)
		case box.Name == compatName:
			s.Compat = plain
		case isHeader:
			s.Headers[header] = string(plain)
		}
	}
	missing := len(s.Keys) == 0 || w.Compat != "" && s.Compat == nil
	for _, name := range w.Headers {
		if _, there := s.Headers[name]; !there {
			missing = true
		}
	}
	if missing {
		return Secrets{}, fmt.Errorf("%w: %s", ErrSecretMissing, w.ID)
	}
	return s, nil
}
