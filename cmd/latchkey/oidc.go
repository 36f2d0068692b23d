package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/identity"
	"github.com/latchkey-dev/latchkey/people"
)

const maxOIDCFile = 1 << 20 // bytes

// issuers reads the file of --oidc; none without one.
func (cmd *ServeCmd) issuers() ([]identity.Issuer, error) {
	if cmd.OIDC == "" {
		return nil, nil
	}
	text, err := os.ReadFile(cmd.OIDC)
	if err != nil {
		return nil, fmt.Errorf("read the issuers: %w", err)
	}
	list, err := parseIssuers(text)
	if err != nil {
		return nil, usage("--oidc %s: %w", cmd.OIDC, err)
	}
	return list, nil
}

// parseIssuers reads the list strictly.
func parseIssuers(text []byte) ([]identity.Issuer, error) {
	if len(text) > maxOIDCFile {
		return nil, fmt.Errorf("the file is over %d bytes", maxOIDCFile)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	var list []identity.Issuer
	if err := d.Decode(&list); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the file is empty")
		}
		return nil, err
	}
	var more any
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("the file holds a second document")
	}
	return list, identity.CheckIssuers(list)
}

// identities finds the persons of the issuers' tokens. Issuers are the operator's
// to name, inside or outside.
func identities(list []identity.Issuer, record people.IdentityRecord, log *slog.Logger) *identity.Identities {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	return identity.New(identity.Config{Issuers: list, Persons: people.NewIdentities(record), Dial: dialer.DialContext, Failed: func(issuer string, err error) {
		log.Warn("an issuer's keys cannot be had", "issuer", issuer, "error", err.Error())
	}})
}

// persons authenticates by personal tokens, and by those of issuers.
type persons struct{ tokens, issuers authz.PersonAuthenticator }

// AuthenticatePerson implements authz.PersonAuthenticator.
func (p *persons) AuthenticatePerson(ctx context.Context, credential string, now latchkey.Instant) (authz.PersonCredential, bool, error) {
	if strings.HasPrefix(credential, "ey") { // of JSON in base64; see authz.OfPerson
		return p.issuers.AuthenticatePerson(ctx, credential, now)
	}
	return p.tokens.AuthenticatePerson(ctx, credential, now)
}
