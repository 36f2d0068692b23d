package authz

import (
	"crypto/subtle"
	"errors"
	"net/netip"
	"sync/atomic"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Caller is the authenticated client of the API. The zero Caller may do
// nothing.
type Caller struct {
	Kind     CredentialKind
	Customer *Customer // the customer that is acted in
	Key      *KeyState // for an access key
	// Person is who acts, for a personal token or an OIDC token. An access key never
	// makes its bearer a person.
	Person *Person
	// Proof is how Person was authenticated, and Standing what the person's type
	// gives.
	Proof    PersonCredential
	Standing *scopes.Set

	Kid       Kid
	Handle    Handle
	Source    netip.Addr // the zero Addr where there is none
	RequestID string
}

// IsRoot reports whether the caller is the operator.
func (c *Caller) IsRoot() bool { return c.Kind == RootCredential }

// Scopes are an access key's, or those that a person's type gives; nil for anybody
// else.
func (c *Caller) Scopes() *scopes.Set {
	switch {
	case c.Kind == AccessKeyCredential && c.Key != nil:
		return c.Key.Scopes
	case c.IsPerson():
		return c.Standing
	}
	return nil
}

// IsPerson reports whether a person acts, by a credential of a person's own.
func (c *Caller) IsPerson() bool {
	return (c.Kind == PersonalTokenCredential || c.Kind == OIDCCredential) && c.Person != nil && c.Person.Active
}

// IsAdmin reports whether a person acts who administers the customer.
func (c *Caller) IsAdmin() bool { return c.IsPerson() && c.Person.IsAdmin() }

// Manages reports whether the caller manages people, what they may ask for, and
// their requests: root, admins, and keys with the scope access_requests_manage.
func (c *Caller) Manages() bool {
	return c.IsRoot() || c.IsAdmin() || c.Kind == AccessKeyCredential && c.Scopes().Has(scopes.AccessRequestsManage)
}

// MayManage refuses everybody but managers.
func MayManage(c *Caller) error {
	switch {
	case c.Manages():
		return nil
	case c.IsPerson():
		return latchkey.Errorf(latchkey.Forbidden, "not_permitted", "only managers may do this: root, admins, and services with the scope access_requests_manage")
	}
	return latchkey.Errorf(latchkey.Forbidden, "scope_missing", "the key lacks the scope access_requests_manage")
}

// MayDecide reports whether the caller may ask for decisions.
func (c *Caller) MayDecide() bool { return c.IsRoot() || c.Scopes().Has(scopes.Decision) }

// Actor is the caller as events name it.
func (c *Caller) Actor() audit.Actor {
	a := audit.Actor{Type: "system", ID: "system"}
	if c.Source.IsValid() {
		a.IP = c.Source.String()
	}
	switch {
	case c.IsRoot():
		a.Type, a.ID, a.Credential = "root", "root", c.Handle.String()
	case c.Key != nil:
		a.Type, a.ID, a.Credential = "access_key", c.Key.ID.String(), c.Handle.String()
	case c.Person != nil:
		a.Type, a.ID, a.Credential, a.Username = SubjectUser, c.Person.ID, c.Proof.Handle, c.Person.Username
	}
	return a
}

// Call is one request to a service.
type Call struct {
	Caller
	Now latchkey.Instant
	// Replay, when set, keeps the reply for a client that repeats the request.
	Replay *Replay
}

// Replay binds a reply to an idempotent request. Seal encrypts what Render
// made of the result.
type Replay struct {
	ID   ReplyID
	Body [32]byte
	Seal func(result any) ([]byte, error)
}

// Authenticator resolves tokens against the table. Safe for concurrent use.
type Authenticator struct {
	keys    KeyFinder
	peppers *Peppers
	root    *RootKey
	uses    *Uses
	foreign SecretVerifier

	refusedUnread atomic.Int64
}

// SecretVerifier asks who can tell whether a token is the one that a Foreign
// secret is kept of. It may wait for I/O, a bounded time.
type SecretVerifier func(Token, SecretState) (bool, error)

// NewAuthenticator makes one; uses may be nil, then last uses go unrecorded, and
// so may root, then no token is the root key.
func NewAuthenticator(keys KeyFinder, peppers *Peppers, root *RootKey, uses *Uses) *Authenticator {
	return &Authenticator{keys: keys, peppers: peppers, root: root, uses: uses}
}

// Ask makes it ask verify about foreign secrets, of which nobody can tell
// without; it is called before any other method, and returns a.
func (a *Authenticator) Ask(verify SecretVerifier) *Authenticator {
	a.foreign = verify
	return a
}

// RefusedUnread counts the tokens that were refused for their form or
// checksum, with no look-up.
func (a *Authenticator) RefusedUnread() int64 { return a.refusedUnread.Load() }

// Resolved is what a token stands for. Status is Unknown unless the digest
// matched, and then Key is nil.
type Resolved struct {
	Kind   CredentialKind
	Status Status
	Key    *KeyState // for an access key
	Kid    Kid
	Handle Handle
	EndsAt latchkey.Instant // of the secret or the key, whichever is first
	// Err says that nobody can tell now what the token stands for; Status is
	// Unknown then.
	Err error
}

// Resolve looks up a token. An unknown one costs the same comparison as a
// known one.
func (a *Authenticator) Resolve(text []byte, now latchkey.Instant, source netip.Addr) Resolved {
	token, ok := ParseToken(text)
	if !ok {
		a.refusedUnread.Add(1)
		return Resolved{}
	}
	if token.Kind == RootCredential {
		if a.root == nil {
			return Resolved{}
		}
		if holds, err := a.root.holds(token, a.peppers); !holds {
			return Resolved{Err: err}
		}
		if a.uses != nil {
			a.uses.noteRoot(a.peppers, token, a.root)
		}
		return Resolved{Kind: RootCredential, Status: Active, Kid: token.Kid, Handle: token.Ref(), EndsAt: latchkey.Never}
	}
	if token.Kind != AccessKeyCredential { // a person's, which is no access key whatever its kid is
		return Resolved{}
	}
	secret, _, err := a.keys.FindSecret(token.Kid)
	if err != nil {
		return Resolved{Err: err}
	}
	if holds, err := a.holds(token, secret); !holds {
		return Resolved{Err: err}
	}
	r := Resolved{
		Kind: AccessKeyCredential, Key: secret.Key, Kid: token.Kid, Handle: token.Ref(),
		Status: secret.Key.Status(now), EndsAt: min(secret.EndsAt, secret.Key.ExpiresAt),
	}
	if r.Status == Active && now >= secret.EndsAt {
		r.Status = Expired // replaced by a rotation whose grace is over
	}
	if r.Status == Active && a.uses != nil {
		a.uses.note(a.peppers, token, secret, now, source)
	}
	return r
}

// holds reports whether the token is the one that the secret is kept of. A
// secret that is not known is the zero one, whose digest is the dummy.
func (a *Authenticator) holds(token Token, secret SecretState) (bool, error) {
	if secret.Foreign && secret.Key != nil {
		if a.foreign == nil {
			return false, errForeign
		}
		return a.foreign(token, secret)
	}
	digest := a.peppers.Digest(secret.Pepper, token)
	equal := subtle.ConstantTimeCompare(digest[:], secret.Digest[:]) == 1
	return equal && secret.Key != nil, nil
}

var errForeign = errors.New("the secret was digested with a pepper that this server does not hold")

// ErrUnauthenticated is the uniform refusal of a credential that is unknown,
// malformed or absent.
func ErrUnauthenticated() *latchkey.Error {
	return latchkey.Errorf(latchkey.Unauthenticated, "invalid_credential", "a valid credential is required")
}

// ErrUnverified says that nobody can tell now whether a credential holds: no
// reason to take it for one that does not.
func ErrUnverified(cause error) *latchkey.Error {
	return latchkey.Errorf(latchkey.Unavailable, "credential_unverified", "the credential cannot be verified now; try again").Because(cause)
}

// Authenticate turns a token into a caller. What became of an ended key is
// told only to who holds its secret. Proven says that the secret was right,
// whether or not the key still holds.
func (a *Authenticator) Authenticate(text []byte, now latchkey.Instant, source netip.Addr) (caller Caller, proven bool, err error) {
	r := a.Resolve(text, now, source)
	switch r.Status {
	case Active:
	case Expired:
		return Caller{}, true, latchkey.Errorf(latchkey.Unauthenticated, "key_expired", "the key has expired")
	case Revoked:
		return Caller{}, true, latchkey.Errorf(latchkey.Unauthenticated, "key_revoked", "the key has been revoked")
	default:
		if r.Err != nil {
			return Caller{}, false, ErrUnverified(r.Err)
		}
		return Caller{}, false, ErrUnauthenticated()
	}
	c := Caller{Kind: r.Kind, Key: r.Key, Kid: r.Kid, Handle: r.Handle, Source: source}
	if r.Key != nil {
		c.Customer = r.Key.Customer
	}
	return c, true, nil
}

// SeesEvents reports whether the caller may read the audit trail at all. A key
// whose access_keys list holds audit_events or "*", as in the worked example,
// reads the events about access keys.
func (c *Caller) SeesEvents() bool {
	return c.SeesAllEvents() || c.Scopes().Lists(scopes.AuditEvents)
}

// SeesAllEvents reports whether the caller may read every event.
func (c *Caller) SeesAllEvents() bool { return c.IsRoot() || c.Scopes().Has(scopes.AuditEvents) }
