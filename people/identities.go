package people

import (
	"context"
	"errors"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
)

// Identity is who somebody is at an issuer of OpenID Connect tokens, as the issuer
// says: Issuer and Subject together are one person's for good.
type Identity struct {
	Customer        string
	Issuer, Subject string
	// Email is an address that the issuer has verified, folded; "" for none.
	Email string
}

// Identities finds the persons that identities are linked to, and links them once.
// Safe for concurrent use.
type Identities struct{ record IdentityRecord }

// IdentityRecord is the database as Identities needs it. Implemented by
// store.Identities; errors are as authz.Record's.
type IdentityRecord interface {
	// Change is authz.Record's.
	Change(ctx context.Context, c authz.Change, do func(IdentityTx) (audit.Draft, error)) error
	// Linked finds whom an issuer's subject is linked to, active or not.
	Linked(ctx context.Context, customer, issuer, subject string) (authz.Person, bool, error)
	// PersonByEmail finds the person with an address, which is folded and not "".
	PersonByEmail(ctx context.Context, customer, email string) (authz.Person, bool, error)
}

// IdentityTx is what a change may do, in the chain's customer.
type IdentityTx interface {
	Linked(ctx context.Context, issuer, subject string) (authz.Person, bool, error)
	PersonByEmail(ctx context.Context, email string) (authz.Person, bool, error)
	// KnownTo reports whether a person is linked to any subject of the issuer.
	KnownTo(ctx context.Context, person, issuer string) (bool, error)
	// Link links a subject that is not linked.
	Link(ctx context.Context, issuer, subject, person string) error
}

// NewIdentities makes the service.
func NewIdentities(record IdentityRecord) *Identities { return &Identities{record: record} }

func errNobody() *latchkey.Error {
	return latchkey.Errorf(latchkey.Unauthenticated, "identity_unknown", "the token is good, and stands for no person here")
}

// errLinked ends a change that another has made before.
var errLinked = errors.New("it has been linked meanwhile")

// Person finds the person of an identity that has been proven, active or not. One
// that is not linked is linked to the active person with its address, unless that
// person is somebody else at the issuer already; else it is Unauthenticated. No
// person is ever made.
func (i *Identities) Person(ctx context.Context, is Identity, now latchkey.Instant) (authz.Person, error) {
	p, found, err := i.record.Linked(ctx, is.Customer, is.Issuer, is.Subject)
	if err != nil || found {
		return p, err
	}
	if is.Email == "" {
		return p, errNobody()
	}
	// Without the customer's lock first: whoever stands for nobody makes no change.
	p, found, err = i.record.PersonByEmail(ctx, is.Customer, is.Email)
	switch {
	case err != nil:
		return p, err
	case !found || !p.Active:
		return p, errNobody()
	}
	err = i.record.Change(ctx, authz.Change{Chain: is.Customer, At: now}, func(tx IdentityTx) (audit.Draft, error) {
		p, err = link(ctx, tx, &is)
		if err != nil {
			return audit.Draft{}, err
		}
		call := authz.Call{Now: now} // the process itself: nobody is anybody yet
		d := call.Draft("user.link_identity", audit.Resource{Type: authz.SubjectUser, Name: p.Username, ID: p.ID})
		d.Changes = authz.Changes("issuer", is.Issuer, "subject", is.Subject)
		return d, nil
	})
	switch {
	case err == nil, errors.Is(err, errLinked):
		return p, nil
	case latchkey.KindOf(err) == latchkey.NotFound: // the customer has ended
		return p, errNobody()
	}
	return p, err
}

func link(ctx context.Context, tx IdentityTx, is *Identity) (authz.Person, error) {
	p, found, err := tx.Linked(ctx, is.Issuer, is.Subject)
	switch {
	case err != nil:
		return p, err
	case found:
		return p, errLinked
	}
	if p, found, err = tx.PersonByEmail(ctx, is.Email); err != nil {
		return p, err
	}
	if !found || !p.Active {
		return p, errNobody()
	}
	// An address goes from one employee to the next: who had it before is another
	// person, though the account here was left as it is.
	known, err := tx.KnownTo(ctx, p.ID, is.Issuer)
	switch {
	case err != nil:
		return p, err
	case known:
		return p, errNobody()
	}
	return p, tx.Link(ctx, is.Issuer, is.Subject, p.ID)
}
