package people

import (
	"context"
	"crypto/subtle"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
)

const (
	// TokenLife is how long a personal token works.
	TokenLife = 90 * 24 * time.Hour
	// ClaimLife is how long a claim code can be presented.
	ClaimLife = 72 * time.Hour
	// MaxTokens is how many live tokens a person may have.
	MaxTokens = 5
)

// Tokens makes, shows and ends personal tokens, and tells whom they stand for.
// Safe for concurrent use.
type Tokens struct {
	record  Record
	peppers *authz.Peppers
}

var _ authz.PersonAuthenticator = (*Tokens)(nil)

// NewTokens makes the service.
func NewTokens(record Record, peppers *authz.Peppers) *Tokens {
	return &Tokens{record: record, peppers: peppers}
}

// NewToken is a token with its record: the one time it is shown.
type NewToken struct {
	Secret
	Token authz.Token
}

// secret is what is kept of a token.
func (t *Tokens) secret(token authz.Token, p *authz.Person, name string, now latchkey.Instant) Secret {
	ref, pepper := t.peppers.Current()
	s := Secret{Kid: token.Kid, ID: uuid.NewString(), Person: p.ID, Customer: p.Customer, Claim: token.Kind == authz.ClaimCode, Name: name,
		Digest: t.peppers.Digest(ref, token), Pepper: pepper, CreatedAt: now, EndsAt: now.Add(TokenLife)}
	if s.Claim {
		s.EndsAt = now.Add(ClaimLife)
	}
	return s
}

// find looks a credential up. An unknown one costs the same comparison as a
// known one.
func (t *Tokens) find(ctx context.Context, text string, kind authz.CredentialKind) (token authz.Token, s Secret, p authz.Person, err error) {
	token, ok := authz.ParseToken([]byte(text))
	if !ok || token.Kind != kind {
		return token, s, p, authz.ErrUnauthenticated()
	}
	s, p, found, err := t.record.FindSecret(ctx, token.Kid)
	if err != nil {
		return token, s, p, authz.ErrUnverified(err)
	}
	ref, known := t.peppers.Find(s.Pepper)
	if !known {
		return token, s, p, authz.ErrUnverified(authz.ErrPepperMissing(s.Pepper))
	}
	digest := t.peppers.Digest(ref, token)
	if subtle.ConstantTimeCompare(digest[:], s.Digest[:]) != 1 || !found || s.Claim != (kind == authz.ClaimCode) {
		return token, s, p, authz.ErrUnauthenticated()
	}
	return token, s, p, nil
}

// AuthenticatePerson implements authz.PersonAuthenticator, for personal tokens.
func (t *Tokens) AuthenticatePerson(ctx context.Context, credential string, now latchkey.Instant) (c authz.PersonCredential, proven bool, err error) {
	token, s, p, err := t.find(ctx, credential, authz.PersonalTokenCredential)
	if err != nil {
		return c, false, err
	}
	c = authz.PersonCredential{Kind: authz.PersonalTokenCredential, Person: &p, Token: token.Ref(), Kid: token.Kid, Handle: token.Handle()}
	switch {
	case !p.Active:
		return c, true, latchkey.Errorf(latchkey.Unauthenticated, "person_inactive", "the person is not active any more")
	case now >= s.EndsAt:
		return c, true, latchkey.Errorf(latchkey.Unauthenticated, "token_ended", "the personal token has expired or was revoked")
	}
	return c, true, nil
}

// Claim makes the first token of whoever presents a claim code, which is dead
// then. call is a stranger's: nothing but where it comes from. A code that is
// unknown, used, replaced or old is Unauthenticated, and says nothing else.
func (t *Tokens) Claim(ctx context.Context, call authz.Call, code, name string) (made NewToken, err error) {
	claim, s, p, err := t.find(ctx, code, authz.ClaimCode)
	if err != nil {
		return made, err
	}
	call.Customer = &authz.Customer{ID: s.Customer} // whose chain it is
	err = t.record.Change(ctx, call.Change(func() any { return made }), func(tx Writer) (audit.Draft, error) {
		// As it is now that nobody can come between: of many who present one code at
		// the same time the first has it.
		s, err := tx.Secret(ctx, claim.Kid)
		if latchkey.KindOf(err) == latchkey.NotFound {
			return audit.Draft{}, authz.ErrUnauthenticated()
		}
		if err != nil {
			return audit.Draft{}, err
		}
		if p, err = tx.Person(ctx, s.Person); err != nil {
			return audit.Draft{}, err
		}
		if !s.Claim || call.Now >= s.EndsAt || !p.Active {
			return audit.Draft{}, authz.ErrUnauthenticated()
		}
		if _, err := tx.EndSecrets(ctx, p.ID, true, "", call.Now); err != nil {
			return audit.Draft{}, err
		}
		by := call
		by.Person, by.Proof = &p, authz.PersonCredential{Handle: claim.Handle()}
		return t.make(ctx, tx, by, &p, name, &made)
	})
	return made, err
}

// Create makes a further token of the person who calls.
func (t *Tokens) Create(ctx context.Context, call authz.Call, name string) (made NewToken, err error) {
	if err := t.May(&call.Caller); err != nil {
		return made, err
	}
	err = t.record.Change(ctx, ownChain(&call, func() any { return made }), func(tx Writer) (audit.Draft, error) {
		return t.make(ctx, tx, call, call.Person, name, &made)
	})
	return made, err
}

// ownChain is the change of something that is the person's own, wherever the
// person acts.
func ownChain(call *authz.Call, result func() any) authz.Change {
	c := call.Change(result)
	c.Chain = call.Person.Customer
	return c
}

func (t *Tokens) make(ctx context.Context, tx Writer, call authz.Call, p *authz.Person, name string, made *NewToken) (audit.Draft, error) {
	n, err := tx.CountTokens(ctx, p.ID, call.Now)
	if err != nil {
		return audit.Draft{}, err
	}
	if n >= MaxTokens {
		return audit.Draft{}, latchkey.Errorf(latchkey.Conflict, "too_many_tokens", "a person has at most %d tokens; end one first", MaxTokens)
	}
	made.Token = authz.NewPersonalToken()
	made.Secret = t.secret(made.Token, p, name, call.Now)
	if err := tx.InsertSecret(ctx, made.Secret); err != nil {
		return audit.Draft{}, err
	}
	d := call.Draft("personal_token.create", audit.Resource{Type: "personal_token", Name: name, ID: made.ID})
	d.Changes = authz.Changes("user_id", p.ID, "username", p.Username, "handle", made.Token.Handle())
	return d, nil
}

// May refuses everybody but persons: nobody has a token made for them.
func (*Tokens) May(c *authz.Caller) error {
	if c.IsPerson() {
		return nil
	}
	return errPersonRequired()
}

func errPersonRequired() error {
	return latchkey.Errorf(latchkey.Forbidden, "person_required", "only a person's own credential can do this")
}

// List returns the tokens that the caller has, or for those who may reissue the
// person's credentials those of person, newest first; "" is the caller.
func (t *Tokens) List(ctx context.Context, call authz.Call, person string) ([]Secret, error) {
	if person == "" || call.Person != nil && person == call.Person.ID {
		if err := t.May(&call.Caller); err != nil {
			return nil, err
		}
		return t.record.Tokens(ctx, call.Person.Customer, call.Person.ID, call.Now)
	}
	p, err := t.other(ctx, call, person)
	if err != nil {
		return nil, err
	}
	return t.record.Tokens(ctx, p.Customer, p.ID, call.Now)
}

// other is a person whose credentials the caller may see and end.
func (t *Tokens) other(ctx context.Context, call authz.Call, id string) (authz.Person, error) {
	if !call.IsRoot() && !call.IsAdmin() {
		return authz.Person{}, errPersonNotFound()
	}
	p, err := t.record.Person(ctx, call.Customer.ID, id)
	if err == nil {
		err = mayAlter(&call.Caller, p.Type)
	}
	return p, err
}

// Revoke ends a token, of the caller or of a person whose credentials the caller
// may end. From its return on no request that starts later is accepted by it.
func (t *Tokens) Revoke(ctx context.Context, call authz.Call, person, id string) error {
	var change authz.Change
	var owner authz.Person
	if person == "" || call.Person != nil && person == call.Person.ID {
		if err := t.May(&call.Caller); err != nil {
			return err
		}
		owner, change = *call.Person, ownChain(&call, nil)
	} else {
		p, err := t.other(ctx, call, person)
		if err != nil {
			return err
		}
		owner, change = p, call.Change(nil)
	}
	return t.record.Change(ctx, change, func(tx Writer) (audit.Draft, error) {
		n, err := tx.EndSecrets(ctx, owner.ID, false, id, call.Now)
		if err != nil {
			return audit.Draft{}, err
		}
		if n == 0 {
			return audit.Draft{}, latchkey.Errorf(latchkey.NotFound, "token_not_found", "there is no such personal token")
		}
		d := call.Draft("personal_token.revoke", audit.Resource{Type: "personal_token", ID: id})
		d.Changes = authz.Changes("user_id", owner.ID, "username", owner.Username)
		return d, nil
	})
}
