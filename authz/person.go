package authz

import (
	"context"
	"strings"

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

// Valid reports whether it is one of the types.
func (t PersonType) Valid() bool {
	return t == UserPerson || t == AdminPerson || t == InternalAdminPerson
}

// Rank orders the types by what they may do.
func (t PersonType) Rank() int {
	switch t {
	case UserPerson:
		return 1
	case AdminPerson:
		return 2
	case InternalAdminPerson:
		return 3
	}
	return 0
}

// StandingScopes are the canonical scopes that persons of a type have, and the
// access keys that are made with them.
func (t PersonType) StandingScopes() string {
	switch t {
	case UserPerson:
		return `{"customer":{"decision":true,"policies":[{"f":"*","p":2}],"sets":[{"f":"*","p":2}]}}`
	case AdminPerson, InternalAdminPerson:
		return `{"customer":{"access_keys":["*"],"audit_events":true,"decision":true,"policies":[{"f":"*","p":15}],"search":true,"sets":[{"f":"*","p":15}]}}`
	}
	return `{"customer":{}}`
}

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

// Answers reports whether s names the person in its customer: by id, by username,
// or by an e-mail address, whose case does not count.
func (p *Person) Answers(s string) bool {
	folded, isEmail := FoldEmail(s)
	return s != "" && (s == p.ID || s == p.Username) || isEmail && folded == p.Email
}

// maxEmail is in bytes (RFC 5321, 4.5.3.1).
const maxEmail = 254

// FoldEmail writes an e-mail address in lower case, which is how addresses are
// kept and compared; false for what is none. Only ASCII is taken: letters of other
// scripts fold to ASCII ones, and one person's address would be another's.
func FoldEmail(s string) (string, bool) {
	local, domain, ok := strings.Cut(s, "@")
	if !ok || local == "" || domain == "" || len(s) > maxEmail || strings.Contains(domain, "@") {
		return "", false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\"(),:;<>[\\]", c) >= 0 {
			return "", false
		}
	}
	return strings.ToLower(s), true
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
	Token  Handle // of a personal token
	Kid    Kid    // of the same
	Handle string // that may be logged: of a token, or "oidc:" and the issuer
	// Issuer and Subject are those of an OIDC token.
	Issuer, Subject string
}
