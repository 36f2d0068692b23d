package people

import (
	"context"

	"github.com/latchkey-dev/latchkey"
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
