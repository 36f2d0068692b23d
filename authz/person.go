package authz

import (
	"context"

	"github.com/latchkey-dev/latchkey"
)

// SubjectUser is the subject type that stands for a person, named by id, by
// username, or by an e-mail address in lower case.
const SubjectUser = "user"

// Bot is the principal that approves by itself. It is no person: it has no
// credential, and no person can have its name.
const Bot = "bot"

// PersonType says what a person may do to latchkey itself.
type PersonType string

// The types of persons.
const (
	UserPerson          PersonType = "user"
	AdminPerson         PersonType = "admin"
	InternalAdminPerson PersonType = "internal_admin"
)

// Person is somebody who acts with a credential of their own. The zero Person is
// nobody, and not active.
type Person struct {
	ID        string // UUID, immutable: the one thing that identifies
	Customer  string
	Username  string // NAME
	Email     string // in lower case; "" for none, which matches nobody
	Name      string
	Type      PersonType
	Active    bool
	CreatedAt latchkey.Instant
	Version   int64 // sequence number of the last change
}

// Ref is the person as the subject of grants and decisions.
func (p *Person) Ref() EntityRef { return EntityRef{Type: SubjectUser, ID: p.ID} }

// IsAdmin reports whether an active person administers its customer.
func (p *Person) IsAdmin() bool {
	return p != nil && p.Active && (p.Type == AdminPerson || p.Type == InternalAdminPerson)
}

// PersonAuthenticator finds the person that a personal token or an OIDC token
// stands for. Errors are those of Authenticator.Authenticate: proven says that
// the secret was right though it does not hold any more. It may wait for I/O, a
// bounded time. Implemented by people.Tokens.
type PersonAuthenticator interface {
	AuthenticatePerson(ctx context.Context, credential string, now latchkey.Instant) (c PersonCredential, proven bool, err error)
}

// PersonCredential is what proves a person.
type PersonCredential struct {
	Kind   CredentialKind // PersonalTokenCredential, OIDCCredential
	Person *Person
	Kid    Kid    // of a personal token
	Handle string // that may be logged: of a token, or "oidc:" and the issuer
	// Issuer and Subject are those of an OIDC token.
	Issuer, Subject string
}
