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
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
)

// Record is the database as Identities needs it. Implemented by store.Identities;
// errors are as authz.Record's.
type Record interface {
	// Change is authz.Record's.
	Change(ctx context.Context, c authz.Change, do func(Tx) (audit.Draft, error)) error
	// Linked finds whom an issuer's subject is linked to, active or not.
	Linked(ctx context.Context, customer, issuer, subject string) (authz.Person, bool, error)
	// PersonByEmail finds the person with an address, which is folded and not "".
	PersonByEmail(ctx context.Context, customer, email string) (authz.Person, bool, error)
}

// Tx is what a change may do, in the chain's customer.
type Tx interface {
	Linked(ctx context.Context, issuer, subject string) (authz.Person, bool, error)
	PersonByEmail(ctx context.Context, email string) (authz.Person, bool, error)
	// KnownTo reports whether a person is linked to any subject of the issuer.
	KnownTo(ctx context.Context, person, issuer string) (bool, error)
	// Link links a subject that is not linked.
	Link(ctx context.Context, issuer, subject, person string) error
}

// Config are the collaborators and settings of Identities.
type Config struct {
	Issuers []Issuer // that CheckIssuers has no fault to find with
	Record  Record
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
	person, err := i.person(ctx, is, &token, now)
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

func errNobody() *latchkey.Error {
	return latchkey.Errorf(latchkey.Unauthenticated, "identity_unknown", "the token is good, and stands for no person here")
}

// person finds whom a verified token stands for, and links a person to it where it
// is the first with a verified address of one.
func (i *Identities) person(ctx context.Context, is *Issuer, c *claims, now latchkey.Instant) (authz.Person, error) {
	p, found, err := i.cfg.Record.Linked(ctx, is.Customer, c.issuer, c.subject)
	if err != nil || found {
		return p, err
	}
	if c.email == "" {
		return p, errNobody()
	}
	// Without the customer's lock first: whoever stands for nobody makes no change.
	if p, found, err = i.cfg.Record.PersonByEmail(ctx, is.Customer, c.email); err != nil || !found || !p.Active {
		if err == nil {
			err = errNobody()
		}
		return p, err
	}
	already := errors.New("it has been linked meanwhile")
	err = i.cfg.Record.Change(ctx, authz.Change{Chain: is.Customer, At: now}, func(tx Tx) (audit.Draft, error) {
		linked, found, err := tx.Linked(ctx, c.issuer, c.subject)
		if err != nil {
			return audit.Draft{}, err
		}
		if found {
			p = linked
			return audit.Draft{}, already
		}
		if p, found, err = tx.PersonByEmail(ctx, c.email); err != nil {
			return audit.Draft{}, err
		}
		if !found || !p.Active {
			return audit.Draft{}, errNobody()
		}
		// An address goes from one employee to the next; the person that it was linked
		// to before does not go with it.
		if known, err := tx.KnownTo(ctx, p.ID, c.issuer); err != nil || known {
			if err == nil {
				err = errNobody()
			}
			return audit.Draft{}, err
		}
		if err := tx.Link(ctx, c.issuer, c.subject, p.ID); err != nil {
			return audit.Draft{}, err
		}
		call := authz.Call{Now: now}
		d := call.Draft("user.link_identity", audit.Resource{Type: authz.SubjectUser, Name: p.Username, ID: p.ID})
		d.Changes = authz.Changes("issuer", c.issuer, "subject", c.subject)
		return d, nil
	})
	switch {
	case err == nil, errors.Is(err, already):
		return p, nil
	case latchkey.KindOf(err) == latchkey.NotFound: // the customer has ended
		return p, errNobody()
	}
	return p, err
}
