package identity

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/latchkey-dev/latchkey"
)

// Issuer is one that the operator trusts to say who is who, for one customer.
type Issuer struct {
	// URL is the issuer's identifier: what its tokens have as "iss", to the letter,
	// and where its metadata is (OpenID Connect Discovery 1.0).
	URL string `yaml:"issuer"`
	// Audience is what its tokens must have among "aud".
	Audience string `yaml:"audience"`
	// Customer is the id of the customer whose persons its tokens stand for.
	Customer string `yaml:"customer"`
	// Keys is the URL of its public keys; the metadata's where it is "".
	Keys string `yaml:"jwks_url"`
}

// maxIssuers bounds how many an operator may list.
const maxIssuers = 64

// CheckIssuers refuses a list that says too little, or twice what a token would be
// taken for.
func CheckIssuers(list []Issuer) error {
	if len(list) > maxIssuers {
		return fmt.Errorf("%d issuers are the most", maxIssuers)
	}
	type pair struct{ issuer, audience string }
	seen, keys := map[pair]bool{}, map[string]string{}
	for i := range list {
		is := &list[i]
		if err := is.check(); err != nil {
			return fmt.Errorf("issuer %d: %w", i+1, err)
		}
		if seen[pair{is.URL, is.Audience}] {
			return fmt.Errorf("issuer %d: another has the same issuer and audience, and a token stands for one person", i+1)
		}
		seen[pair{is.URL, is.Audience}] = true
		if had, ok := keys[is.URL]; ok && had != is.Keys {
			return fmt.Errorf("issuer %d: jwks_url: the same issuer has other keys above", i+1)
		}
		keys[is.URL] = is.Keys
	}
	return nil
}

func (is *Issuer) check() error {
	if err := checkURL(is.URL); err != nil {
		return fmt.Errorf("issuer: %w", err)
	}
	if is.Keys != "" {
		if err := checkURL(is.Keys); err != nil {
			return fmt.Errorf("jwks_url: %w", err)
		}
	}
	switch {
	case is.Audience == "":
		return errors.New("audience: want what the issuer's tokens for latchkey have as aud")
	case !latchkey.ValidName(is.Customer):
		return errors.New("customer: want the id of a customer")
	}
	return nil
}

// checkURL wants https, or http on this machine: who could answer in an issuer's
// place could be anybody.
func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("it is no URL")
	case u.Host == "" || u.User != nil || u.Fragment != "" || strings.Contains(text, "#"):
		return errors.New("want https://HOST/PATH, without a user or a fragment")
	case u.Scheme == "https", u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	}
	return errors.New("want https; http is for issuers on this machine alone")
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
