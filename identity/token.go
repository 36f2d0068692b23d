package identity

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

const (
	maxToken   = 16 << 10 // bytes
	maxSubject = 255      // bytes (OpenID Connect Core 1.0, 2)
	// skew is how far an issuer's clock may be ahead where a token says from when on
	// it is good. No token is good past its end.
	skew = 30 * time.Second
)

// claims are what counts of a token.
type claims struct {
	issuer, subject string
	audience        []string
	expires         latchkey.Instant
	notBefore       latchkey.Instant
	email           string // folded, "" where the issuer has not verified one
}

var errMalformed = errors.New("the token is malformed")

// readClaims reads a payload, strictly: a name that stands twice, or in other
// letters, is not one that a careless reader would take for ours.
func readClaims(payload string) (c claims, err error) {
	var doc strictjson.Doc
	if err := doc.Parse(payload); err != nil || doc.Root().Kind() != strictjson.Object {
		return c, errMalformed
	}
	root := doc.Root()
	if root.Get("events").Kind() != strictjson.Missing {
		return c, errors.New("it tells of an event, and proves nobody")
	}
	c.issuer, c.subject = strings.Clone(root.Get("iss").Text()), strings.Clone(root.Get("sub").Text())
	switch aud := root.Get("aud"); aud.Kind() {
	case strictjson.String:
		c.audience = []string{strings.Clone(aud.Text())}
	case strictjson.Array:
		for _, e := range aud.Elements() {
			if e.Kind() != strictjson.String {
				return c, errMalformed
			}
			c.audience = append(c.audience, strings.Clone(e.Text()))
		}
	default:
		return c, errMalformed
	}
	var ok bool
	if c.expires, ok = numericDate(root.Get("exp")); !ok {
		return c, errMalformed
	}
	if from := root.Get("nbf"); from.Kind() != strictjson.Missing {
		if c.notBefore, ok = numericDate(from); !ok {
			return c, errMalformed
		}
	}
	if c.issuer == "" || c.subject == "" || len(c.subject) > maxSubject || strings.ContainsFunc(c.subject, unicode.IsControl) {
		return c, errMalformed
	}
	if root.Get("email_verified").True() { // the literal: "true" may be a user's own word
		if email, ok := authz.FoldEmail(root.Get("email").Text()); ok {
			c.email = strings.Clone(email)
		}
	}
	return c, nil
}

// numericDate reads seconds since 1970, with or without a fraction (RFC 7519, 2).
func numericDate(v strictjson.Value) (latchkey.Instant, bool) {
	seconds, err := strconv.ParseFloat(v.Raw(), 64)
	if v.Kind() != strictjson.Number || err != nil || math.IsNaN(seconds) || seconds < 0 || seconds > 1<<38 {
		return 0, false
	}
	return latchkey.Instant(seconds * 1e6), true
}

// unverified reads what a token says of itself, to know whose word it is said to
// be; nothing is believed of it.
func unverified(token string) (c claims, err error) {
	header, rest, ok := strings.Cut(token, ".")
	payload, _, also := strings.Cut(rest, ".")
	if !ok || !also || len(token) > maxToken || header == "" {
		return c, errMalformed
	}
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return c, errMalformed
	}
	return readClaims(string(text))
}

// verify holds a token to an issuer, its audience and the time, and returns what it
// says. errNoKeys says that nobody can tell now; errEnded that it was good once.
func verify(ctx context.Context, is *Issuer, keys *keySet, token string, now latchkey.Instant) (claims, error) {
	accepted := make([]string, len(algorithms))
	for i, a := range algorithms {
		accepted[i] = string(a)
	}
	signed := &callKeys{set: keys, now: now}
	// What the library checks besides, the end of the token among it, is checked
	// again below by our own reading of the claims.
	verifier := oidc.NewVerifier(is.URL, signed, &oidc.Config{ClientID: is.Audience, SupportedSigningAlgs: accepted, SkipExpiryCheck: true})
	verified, err := verifier.Verify(ctx, token)
	if err != nil {
		if errors.Is(signed.err, errNoKeys) {
			err = errNoKeys
		}
		return claims{}, err
	}
	var payload json.RawMessage
	if err := verified.Claims(&payload); err != nil {
		return claims{}, err
	}
	c, err := readClaims(string(payload))
	switch {
	case err != nil:
		return c, err
	case c.issuer != is.URL: // the library takes two spellings of one issuer for another
		return c, errors.New("it is another issuer's")
	case now >= c.expires:
		return c, errEnded
	case now.Add(skew) < c.notBefore:
		return c, errors.New("it is not good yet")
	}
	return c, nil
}

var errEnded = errors.New("the token has expired")

// callKeys implements oidc.KeySet for one token at one time.
type callKeys struct {
	set *keySet
	now latchkey.Instant
	err error
}

// VerifySignature implements oidc.KeySet.
func (k *callKeys) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	payload, err := k.verify(ctx, token)
	k.err = err
	return payload, err
}

func (k *callKeys) verify(ctx context.Context, token string) ([]byte, error) {
	jws, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil || len(jws.Signatures) != 1 {
		return nil, errMalformed
	}
	header := jws.Signatures[0].Protected
	if !bearer(header.ExtraHeaders[jose.HeaderType]) {
		return nil, errors.New("it is a token of another kind")
	}
	keys, err := k.set.find(ctx, header.KeyID, header.Algorithm, k.now)
	if err != nil {
		return nil, err
	}
	for i := range keys {
		if payload, err := jws.Verify(keys[i].Key); err == nil {
			return payload, nil
		}
	}
	return nil, errors.New("the signature is not by a key of the issuer")
}

// bearer reports whether a token of that type proves its bearer: an ID token, or
// an access token (RFC 9068). One that tells of a logout, or proves a possession,
// is signed by the same keys.
func bearer(typ any) bool {
	if typ == nil {
		return true
	}
	text, _ := typ.(string)
	switch strings.ToLower(text) {
	case "jwt", "at+jwt", "application/at+jwt":
		return true
	}
	return false
}
