package authz

import (
	"context"
	"fmt"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Grant is a right that a subject holds for a while, on application resources,
// or, as an entitlement of a group, for as long as it is in the group. It holds from
// NotBefore on until ExpiresAt, and not at that instant any more. Where one that began
// as it was made is known it has begun, and where it is known that it was revoked it has
// ended, whatever the clocks say. Immutable.
type Grant struct {
	ID string
	// Group is the one through which an entitlement is held, whose id ID is then;
	// "" for a grant.
	Group     string
	Set       *scopes.Set // entries on application types
	Reason    string
	NotBefore latchkey.Instant
	ExpiresAt latchkey.Instant // Never for a permanent one
	// Begun says that it began as it was made.
	Begun bool
}

// ahead reports whether it is still to begin.
func (g *Grant) ahead(now latchkey.Instant) bool { return !g.Begun && now < g.NotBefore }

// Grants are those of one subject that had neither ended nor been revoked when
// they were read, in the order of their ids, and after them entitlements, in the
// order of theirs. Immutable; a nil one is empty.
type Grants struct {
	// Version is the sequence number as of which they are so.
	Version int64
	// Person is the id of the person whose they are, "" for any other subject.
	Person string
	List   []Grant
}

func (g *Grants) isPerson() bool { return g != nil && g.Person != "" }

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
	// Request is the id of the access request that it came of, "" for none.
	Request string
	// Entitlements are the ids of those that it was made of, and Claims, a canonical
	// JSON object, what token issuers are told of its subject: name → list of
	// strings. Both are by value: what becomes of an entitlement later changes
	// neither. "" claims nothing.
	Entitlements []string
	Claims       string
}

// EndsAt is when it ends, or ended.
func (g *GrantRecord) EndsAt() latchkey.Instant { return min(g.ExpiresAt, g.RevokedAt) }

// begun reports whether it began as it was made, and not at a time that was set for
// it: that was a clock's which may be ahead.
func (g *GrantRecord) begun() bool { return g.NotBefore <= g.CreatedAt }

// Status is what has become of it at now: active, scheduled or ended.
func (g *GrantRecord) Status(now latchkey.Instant) GrantStatus {
	switch {
	case now >= g.ExpiresAt, g.RevokedAt != latchkey.Never: // it was revoked by a clock that may be ahead
		return GrantEnded
	case now < g.NotBefore && !g.begun():
		return GrantScheduled
	}
	return GrantActive
}

// NewGrants makes the grants of one subject, given in the order of their ids,
// as they were as of version. Entries that do not parse are an error: who cannot
// tell what is granted does not decide.
func NewGrants(p *scopes.Parser, list []feed.GrantBody, version int64) (*Grants, error) {
	grants := &Grants{Version: version, List: make([]Grant, 0, len(list))}
	for i := range list {
		b := &list[i]
		if b.RevokedAt != latchkey.Never || b.Entries == "{}" {
			continue
		}
		set, err := p.LoadEntries(b.Entries)
		if err != nil {
			return nil, fmt.Errorf("entries of grant %s: %w", b.ID, err)
		}
		grants.List = append(grants.List, Grant{ID: b.ID, Set: set, Reason: b.Reason, NotBefore: b.NotBefore, ExpiresAt: b.ExpiresAt, Begun: b.Begun})
	}
	return grants, nil
}

// NewHeld makes what a subject's record says that it holds.
func NewHeld(p *scopes.Parser, body *feed.SubjectBody, version int64) (*Grants, error) {
	grants, err := NewGrants(p, body.Grants, version)
	if err != nil {
		return nil, err
	}
	grants.Person = body.Person
	for i := range body.Entitlements {
		b := &body.Entitlements[i]
		set, err := p.LoadEntries(b.Entries)
		if err != nil {
			return nil, fmt.Errorf("entries of entitlement %s: %w", b.ID, err)
		}
		grants.List = append(grants.List, Grant{ID: b.ID, Group: b.Group, Set: set, Reason: b.Reason, ExpiresAt: latchkey.Never})
	}
	return grants, nil
}

// LoadGrants gives the keys of a table what is granted to them, and notes of
// which customers other subjects hold grants or entitlements. What it reads may be newer than it
// says, never older.
func LoadGrants(ctx context.Context, record FeedRecord, table KeyTable, p *scopes.Parser, now latchkey.Instant) error {
	positions, err := record.Positions(ctx) // first: what is read later holds at least as of then
	if err != nil {
		return err
	}
	asOf := make(map[string]int64, len(positions))
	for _, at := range positions {
		asOf[at.Chain] = at.Seq
	}
	var customer string
	var subject EntityRef
	var list []feed.GrantBody
	flush := func() error {
		id, ok := ParseKeyID(subject.ID)
		key := table.Key(id)
		if !ok || subject.Type != SubjectAccessKey || key == nil || len(list) == 0 {
			return nil
		}
		grants, err := NewGrants(p, list, asOf[customer])
		if err == nil {
			key.SetGrants(grants)
		}
		return err
	}
	err = record.EachGrant(ctx, now, func(g GrantRecord) error {
		if g.Customer != customer || g.Subject != subject {
			if err := flush(); err != nil {
				return err
			}
			customer, subject, list = g.Customer, g.Subject, list[:0]
		}
		if subject.Type == SubjectAccessKey {
			one, _ := GrantBodies([]GrantRecord{g})
			list = append(list, one...)
		} else if c := table.Customer(customer); c != nil {
			c.ExpectGrants()
		}
		return nil
	})
	if err != nil {
		return err
	}
	entitled, err := record.Entitled(ctx)
	if err != nil {
		return err
	}
	for _, id := range entitled {
		if c := table.Customer(id); c != nil {
			c.ExpectGrants()
		}
	}
	return flush()
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
