package authz

import (
	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Grant is a right that a subject holds for a while, on application resources.
// It holds from NotBefore on, until ExpiresAt or RevokedAt, whichever is first,
// and not at that instant any more. Immutable.
type Grant struct {
	ID        string
	Set       *scopes.Set // entries on application types
	Reason    string
	NotBefore latchkey.Instant
	ExpiresAt latchkey.Instant // Never for a permanent one
	RevokedAt latchkey.Instant // Never while it is not revoked
}

// EndsAt is when it ends, or ended.
func (g *Grant) EndsAt() latchkey.Instant { return min(g.ExpiresAt, g.RevokedAt) }

// Live reports whether it holds at now.
func (g *Grant) Live(now latchkey.Instant) bool { return now >= g.NotBefore && now < g.EndsAt() }

// Grants are those of one subject that had not ended when they were read, in
// the order of their ids. Immutable; a nil one is empty.
type Grants struct {
	// Version is the sequence number as of which they are so.
	Version int64
	List    []Grant
}

// GrantSource finds the grants of subjects that are not access keys; nil where
// there are none. An error says that nobody can tell now, and denies. It is safe
// for concurrent use. What is asked often is answered from memory; the rest may
// wait for I/O, a bounded time.
type GrantSource interface {
	Grants(c *Customer, typ, id string) (*Grants, error)
}

// GrantRecord is a grant as stored.
type GrantRecord struct {
	ID        string // UUID
	Customer  string
	Subject   EntityRef // {access_key, key's id}, or any other subject
	Entries   string    // canonical JSON object: resource type → entries
	Reason    string
	NotBefore latchkey.Instant
	ExpiresAt latchkey.Instant // Never for a permanent one
	RevokedAt latchkey.Instant // Never while it is not revoked
	CreatedAt latchkey.Instant
	Author    audit.Actor // who made it: type and id
	Version   int64       // sequence number of its last change
}

// GrantStatus selects grants by what they are now.
type GrantStatus string

// The statuses of grants.
const (
	GrantAll       GrantStatus = "all"
	GrantActive    GrantStatus = "active"
	GrantScheduled GrantStatus = "scheduled"
	GrantEnded     GrantStatus = "ended"
)

// GrantQuery selects grants of a customer, newest first.
type GrantQuery struct {
	Customer string
	Subject  EntityRef // "" for any
	Status   GrantStatus
	Now      latchkey.Instant
	// AfterCreated and AfterID are of the last one of the page before.
	AfterCreated latchkey.Instant
	AfterID      string
	Limit        int
}
