package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/latchkey-dev/latchkey"
)

const (
	// askEvery is how often an issuer is asked for its keys at most, whatever key
	// tokens claim to be signed by.
	askEvery = 30 * time.Second
	// keysFresh is for how long keys are used before the issuer is asked whether
	// they are still its own, and keysKept for how long where it does not answer.
	keysFresh = 10 * time.Minute
	keysKept  = 24 * time.Hour

	fetchWait   = 5 * time.Second
	maxDocument = 512 << 10 // bytes
	maxKeys     = 64        // of one issuer
	leastRSA    = 2048      // bits
)

// algorithms are the signatures that count: of public keys alone. With none, or
// one by a secret that both sides know, anybody could sign.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// keySet is what is known of an issuer's public keys. Safe for concurrent use.
type keySet struct {
	issuer string
	client *http.Client
	url    string // of the keys, where the operator says it
	failed func(issuer string, err error)

	turn  chan struct{} // held by who asks
	known atomic.Pointer[published]
	asked atomic.Int64 // when; 0 for never
}

// published are the keys of an issuer at a time. Immutable.
type published struct {
	at   latchkey.Instant
	keys []jose.JSONWebKey
}

func newKeySet(is *Issuer, client *http.Client, failed func(string, error)) *keySet {
	return &keySet{issuer: is.URL, url: is.Keys, client: client, failed: failed, turn: make(chan struct{}, 1)}
}

var (
	errNoSuchKey = errors.New("the issuer has no such key")
	errNoKeys    = errors.New("the issuer's keys cannot be had now")
)

// find returns the keys that a signature with the given header may be by.
// errNoKeys says that nobody can tell now.
func (s *keySet) find(ctx context.Context, kid, algorithm string, now latchkey.Instant) ([]jose.JSONWebKey, error) {
	had := s.known.Load()
	found := had.by(kid, algorithm, now)
	if len(found) > 0 && now < had.at.Add(keysFresh) {
		return found, nil
	}
	if !s.mayAsk(now) {
		return s.outcome(kid, algorithm, now)
	}
	select {
	case s.turn <- struct{}{}:
	default:
		if len(found) > 0 { // another asks already
			return found, nil
		}
		select {
		case s.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, errNoKeys
		}
	}
	defer func() { <-s.turn }()
	if s.mayAsk(now) { // another may have, meanwhile
		keys, err := s.fetch(ctx)
		if err == nil {
			s.known.Store(&published{at: now, keys: keys})
		} else if s.failed != nil {
			s.failed(s.issuer, err)
		}
		s.asked.Store(int64(now)) // last: whoever sees it finds what came of it
	}
	return s.outcome(kid, algorithm, now)
}

func (s *keySet) mayAsk(now latchkey.Instant) bool {
	asked := s.asked.Load()
	return asked == 0 || now >= latchkey.Instant(asked).Add(askEvery)
}

// outcome is what is found without asking. A key that is not among those which
// were just published is none of the issuer's.
func (s *keySet) outcome(kid, algorithm string, now latchkey.Instant) ([]jose.JSONWebKey, error) {
	had := s.known.Load()
	found := had.by(kid, algorithm, now)
	switch {
	case len(found) > 0:
		return found, nil
	case had != nil && now < had.at.Add(askEvery):
		return nil, errNoSuchKey
	}
	return nil, errNoKeys
}

// by are the keys with the id, or all for none, that can have made a signature of
// the algorithm, as far as they may still be used.
func (p *published) by(kid, algorithm string, now latchkey.Instant) (found []jose.JSONWebKey) {
	if p == nil || now >= p.at.Add(keysKept) {
		return nil
	}
	for _, k := range p.keys {
		if (kid == "" || k.KeyID == kid) && (k.Algorithm == "" || k.Algorithm == algorithm) && fits(k.Key, algorithm) {
			found = append(found, k)
		}
	}
	return found
}

// fits reports whether a key is of the algorithm's kind.
func fits(key any, algorithm string) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")
	case *ecdsa.PublicKey:
		return algorithm == map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[k.Curve.Params().BitSize]
	case ed25519.PublicKey:
		return algorithm == string(jose.EdDSA)
	}
	return false
}

// fetch asks the issuer for its keys. The metadata is asked for each time: it may
// have moved them.
func (s *keySet) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	// Whoever asked first may have gone; the others wait for the same answer.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchWait)
	defer cancel()
	at := s.url
	if at == "" {
		var metadata struct {
			Issuer string `json:"issuer"`
			Keys   string `json:"jwks_uri"`
		}
		if err := s.get(ctx, strings.TrimSuffix(s.issuer, "/")+"/.well-known/openid-configuration", &metadata); err != nil {
			return nil, fmt.Errorf("read the issuer's metadata: %w", err)
		}
		if metadata.Issuer != s.issuer { // OpenID Connect Discovery 1.0, 4.3
			return nil, fmt.Errorf("the metadata is of the issuer %.200q", metadata.Issuer)
		}
		if err := checkURL(metadata.Keys); err != nil {
			return nil, fmt.Errorf("the metadata's jwks_uri: %w", err)
		}
		at = metadata.Keys
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := s.get(ctx, at, &set); err != nil {
		return nil, fmt.Errorf("read the issuer's keys: %w", err)
	}
	var keys []jose.JSONWebKey
	for _, text := range set.Keys {
		var k jose.JSONWebKey
		// One of a kind that is not known here is for somebody else (RFC 7517, 5).
		if json.Unmarshal(text, &k) != nil || !k.Valid() || !k.IsPublic() || k.Use != "" && k.Use != "sig" {
			continue
		}
		if weak, ok := k.Key.(*rsa.PublicKey); ok && weak.N.BitLen() < leastRSA {
			continue
		}
		if keys = append(keys, k); len(keys) == maxKeys {
			break
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("the issuer publishes no key that could be used")
	}
	return keys, nil
}

func (s *keySet) get(ctx context.Context, at string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, http.NoBody)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the answer is %s", resp.Status)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	switch {
	case err != nil:
		return err
	case len(text) > maxDocument:
		return fmt.Errorf("the answer is over %d bytes", maxDocument)
	}
	return json.Unmarshal(text, into)
}
