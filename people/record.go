package people

import (
	"context"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
)

// Group is an ordered list of persons, who hold its entitlements for as long as
// they are in it.
type Group struct {
	ID        string // UUID
	Customer  string
	Name      string
	CreatedAt latchkey.Instant
	Version   int64 // sequence number of the last change
	// Members are in the order of AddedAt, then of their ids.
	Members []Member
	// Entitlements are ids, in their order.
	Entitlements []string
}

// Member is a person's place in a group. Person may be authz.Bot.
type Member struct {
	Person  string
	AddedAt latchkey.Instant
}

// Application is what entitlements are for.
type Application struct {
	ID        string // UUID
	Customer  string
	Name      string
	CreatedAt latchkey.Instant
	Version   int64
}

// Entitlement is a named bundle of entries on application resources, with what
// token issuers are told of whoever holds it.
type Entitlement struct {
	ID          string // UUID
	Customer    string
	Application string // id
	Name        string
	Entries     string // canonical JSON object: resource type → entries
	Claims      string // canonical JSON object: name → list of strings
	CreatedAt   latchkey.Instant
	Version     int64
}

// Tx is what a change may read of people, in the chain's customer, under its
// lock. Other packages that change what people hold embed it.
type Tx interface {
	authz.Tx

	// Person returns one, NotFound without it, active or not.
	Person(ctx context.Context, id string) (authz.Person, error)
	// GroupsOf returns the ids of the groups that a person is a member of, in
	// their order.
	GroupsOf(ctx context.Context, person string) ([]string, error)
	// Group returns one with members and entitlements, NotFound without it.
	Group(ctx context.Context, id string) (Group, error)
	Application(ctx context.Context, id string) (Application, error)
	Entitlement(ctx context.Context, id string) (Entitlement, error)
}

// Secret is what is kept of a personal token, or of a claim code.
type Secret struct {
	Kid       authz.Kid
	ID        string // UUID
	Person    string // id
	Customer  string
	Claim     bool
	Name      string // that the person gave a token
	Digest    authz.Digest
	Pepper    string // stored name; "" is plain SHA-256
	CreatedAt latchkey.Instant
	EndsAt    latchkey.Instant // 0 where it was ended
}

// Record is the database as the services of this package need it. Implemented by
// store.People; errors are as authz.Record's.
type Record interface {
	// Change is authz.Record's.
	Change(ctx context.Context, c authz.Change, do func(Writer) (audit.Draft, error)) error

	// FindSecret finds a token or a claim code, ended ones too, with whose it is.
	FindSecret(ctx context.Context, kid authz.Kid) (Secret, authz.Person, bool, error)
	// Tokens are a person's tokens that have not ended, newest first.
	Tokens(ctx context.Context, customer, person string, now latchkey.Instant) ([]Secret, error)

	Person(ctx context.Context, customer, id string) (authz.Person, error)
	// Persons, Groups, Applications and Entitlements list what a query selects, in
	// the order of creation, then of ids.
	Persons(ctx context.Context, q Query) ([]authz.Person, error)
	Group(ctx context.Context, customer, id string) (Group, error)
	Groups(ctx context.Context, q Query) ([]Group, error)
	Applications(ctx context.Context, q Query) ([]Application, error)
	Entitlements(ctx context.Context, q Query) ([]Entitlement, error)
}

// Query selects records of one customer. What is empty selects all.
type Query struct {
	Customer string
	ID       string

	Username, Email string // of persons
	Type            authz.PersonType
	Active          *bool
	Member          string // of groups: a person's id
	Application     string // of entitlements
	Name            string // of all but persons
	// For is a person's id: of applications and entitlements it selects those that
	// concern the person, since a template or one of the person's groups gives them.
	For string

	// AfterCreated and AfterID are of the last one of the page before.
	AfterCreated latchkey.Instant
	AfterID      string
	Limit        int
}

// Writer is what a change of people may write. Names that are taken are a
// Conflict. All of it touches what decisions find the persons by.
type Writer interface {
	Tx

	InsertPerson(ctx context.Context, p authz.Person) error
	// UpdatePerson writes everything but id, customer and creation.
	UpdatePerson(ctx context.Context, was, is authz.Person) error
	// KeysOf are the ids of the keys that were made with a person and have not been
	// revoked.
	KeysOf(ctx context.Context, person string) ([]authz.KeyID, error)

	Secret(ctx context.Context, kid authz.Kid) (Secret, error)
	InsertSecret(ctx context.Context, s Secret) error
	// EndSecrets ends a person's tokens, or claim codes, that have not ended; of
	// tokens those with the given id alone, unless it is "". It returns how many.
	// They end for who came in before at, too.
	EndSecrets(ctx context.Context, person string, claims bool, id string, at latchkey.Instant) (int, error)
	CountTokens(ctx context.Context, person string, now latchkey.Instant) (int, error)
	// Proven reports whether the person ever had a credential of their own.
	Proven(ctx context.Context, person string) (bool, error)

	InsertGroup(ctx context.Context, g Group) error
	// UpdateGroup writes name, members and entitlements.
	UpdateGroup(ctx context.Context, was, is Group) error
	DeleteGroup(ctx context.Context, g Group) error
	InsertApplication(ctx context.Context, a Application) error
	UpdateApplication(ctx context.Context, a Application) error
	DeleteApplication(ctx context.Context, id string) error
	InsertEntitlement(ctx context.Context, e Entitlement) error
	UpdateEntitlement(ctx context.Context, e Entitlement) error
	DeleteEntitlement(ctx context.Context, id string) error
	// Holders are the ids of the persons in groups that have an entitlement.
	Holders(ctx context.Context, entitlement string) ([]string, error)
	// UsedBy names something that keeps a group, an application or an entitlement
	// from being deleted; "" for nothing. The kinds are as in events.
	UsedBy(ctx context.Context, kind, id string) (string, error)
}
