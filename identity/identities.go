package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/people"
)

// Linker finds the person of an identity that is proven, and links it the first
// time. Implemented by people.Identities; an Unauthenticated error says that there is
// no such person.
type Linker interface {
	Person(ctx context.Context, is people.Identity, now latchkey.Instant) (authz.Person, error)
}

// Config are the collaborators and settings of Identities.
type Config struct {
	Issuers []Issuer // that CheckIssuers has no fault to find with
	Persons Linker
	// Dial connects to issuers; nil dials whatever an operator names. TLS is the
	// system's where it is nil.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	TLS  *tls.Config
	// Failed is told when an issuer's keys cannot be had; nil for nobody.
	Failed func(issuer string, err error)
}

// Identities finds the persons that tokens of issuers stand for. Safe for
// concurrent use.
type Identities struct {
	cfg  Config
	keys map[string]*keySet // by issuer
}

var _ authz.PersonAuthenticator = (*Identities)(nil)

// New makes it. No issuer is asked before the first token of it comes.
func New(cfg Config) *Identities {
	transport := &http.Transport{DialContext: cfg.Dial, TLSClientConfig: cfg.TLS, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: fetchWait, ResponseHeaderTimeout: fetchWait, MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConns: 4, IdleConnTimeout: time.Minute}
	client := &http.Client{Transport: transport, Timeout: fetchWait,
		// Where an issuer's keys are is what its metadata says.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	i := &Identities{cfg: cfg, keys: map[string]*keySet{}}
	for n := range cfg.Issuers {
		is := &cfg.Issuers[n]
		if i.keys[is.URL] == nil {
			i.keys[is.URL] = newKeySet(is, client, cfg.Failed)
		}
	}
	return i
}

// AuthenticatePerson implements authz.PersonAuthenticator, for tokens of the
// issuers. It asks an issuer for its keys at most once in 30 seconds, and links a
// person at the first token.
func (i *Identities) AuthenticatePerson(ctx context.Context, credential string, now latchkey.Instant) (c authz.PersonCredential, proven bool, err error) {
	said, err := unverified(credential)
	if err != nil {
		return c, false, authz.ErrUnauthenticated().Because(err)
	}
	is, ok := i.issuer(&said)
	if !ok {
		return c, false, authz.ErrUnauthenticated()
	}
	if now >= said.expires { // before anybody is asked about it
		return c, false, authz.ErrUnauthenticated().Because(errEnded)
	}
	token, err := verify(ctx, is, i.keys[is.URL], credential, now)
	switch {
	case errors.Is(err, errNoKeys):
		return c, false, authz.ErrUnverified(err)
	case err != nil:
		return c, false, authz.ErrUnauthenticated().Because(err)
	}
	person, err := i.cfg.Persons.Person(ctx, people.Identity{Customer: is.Customer, Issuer: token.issuer, Subject: token.subject, Email: token.email}, now)
	if err != nil {
		return c, false, err
	}
	c = authz.PersonCredential{Kind: authz.OIDCCredential, Person: &person, Handle: "oidc:" + is.URL, Issuer: token.issuer, Subject: token.subject}
	if !person.Active {
		return c, true, latchkey.Errorf(latchkey.Unauthenticated, "person_inactive", "the person is not active any more")
	}
	return c, true, nil
}

// issuer is the one of the operator's list that a token is by and for. A token for
// two of them would stand for two persons, and stands for none.
func (i *Identities) issuer(c *claims) (found *Issuer, ok bool) {
	for n := range i.cfg.Issuers {
		is := &i.cfg.Issuers[n]
		if is.URL != c.issuer || !slices.Contains(c.audience, is.Audience) {
			continue
		}
		if found != nil {
			return nil, false
		}
		found = is
	}
	return found, found != nil
}
