package authz

import (
	"context"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/scopes"
)

// MaxGrants is how many grants that have not ended a subject may hold.
const MaxGrants = 1000

// Granter makes, shows and ends grants. Safe for concurrent use.
type Granter struct {
	cfg GranterConfig
}

// GranterConfig are the collaborators of a Granter; what does not say otherwise is
// required.
type GranterConfig struct {
	Record Record
	Table  KeyTable
	Parser *scopes.Parser
	// Subjects are the grants of subjects that are not access keys, as far as
	// they are in memory.
	Subjects GrantCache
	// Requests ends the grants that access requests gave; nil where there are none.
	Requests GrantRevoker
	// Entitlements tells what entitlements give; nil where there are none.
	Entitlements Entitlements
}

// GrantRevoker ends a grant that an access request gave, and with it the request.
// Implemented by access.Requests.
type GrantRevoker interface {
	RevokeGrant(ctx context.Context, call Call, g GrantRecord) error
}

// Entitlements tells what entitlements of the chain's customer give together:
// canonical JSON objects, resource type → entries and name → list of strings. One
// that is not there is NotFound. Implemented by access.Entitled.
type Entitlements interface {
	Entitled(ctx context.Context, tx Tx, ids []string) (entries, claims string, err error)
}

// GrantCache keeps grants of subjects that are not access keys in memory.
// Implemented by cache.Subjects.
type GrantCache interface {
	GrantSource
	// Reach takes in the customer's changes up to the given one: from its return
	// on nothing that they made out of date is found. Where they cannot be read,
	// all that is kept of the customer's subjects is dropped.
	Reach(ctx context.Context, customer string, seq int64)
}

// NewGranter makes the service.
func NewGranter(cfg GranterConfig) *Granter { return &Granter{cfg: cfg} }

var errGrantNotFound = latchkey.Errorf(latchkey.NotFound, "grant_not_found", "there is no such grant")

// May allows managers.
func (*Granter) May(c *Caller) error { return MayManage(c) }

// MayRead allows persons too, who read what they hold themselves.
func (*Granter) MayRead(c *Caller) error {
	if c.IsPerson() {
		return nil
	}
	return MayManage(c)
}

// NotToOneself refuses a caller who would decide about a right of its own,
// whether it grants or approves: none of the subjects may be the caller. It is
// the one rule against self-approval; every path by which somebody comes by a
// right asks it, with all the subjects that would have it. An access key is
// named by its id here, never by a handle.
func NotToOneself(c *Caller, subjects ...EntityRef) error {
	for _, s := range subjects {
		if c.Key != nil && s.Type == SubjectAccessKey && s.ID == c.Key.ID.String() || c.Person != nil && c.isPerson(c.Person, s) {
			return errSelfApproval()
		}
	}
	return nil
}

func errSelfApproval() error {
	return latchkey.Errorf(latchkey.Forbidden, "self_approval_forbidden", "nobody grants to themselves: somebody else must")
}

// isPerson reports whether a subject is p, by any of its names: of those, only the
// id means something in another customer than its own.
func (c *Caller) isPerson(p *Person, s EntityRef) bool {
	return s.Type == SubjectUser && (s.ID == p.ID || c.Customer != nil && p.Customer == c.Customer.ID && p.Answers(s.ID))
}

// NotToOneselfIn is NotToOneself within a change, where the persons who stand
// behind an access key count as the key, and the key as each of them: a right must
// not come back to somebody by a second credential.
func NotToOneselfIn(ctx context.Context, tx KeyPersonsTx, c *Caller, subjects ...EntityRef) error {
	if err := NotToOneself(c, subjects...); err != nil {
		return err
	}
	var mine []Person
	if c.Key != nil {
		var err error
		if mine, err = tx.KeyPersons(ctx, c.Key.ID); err != nil {
			return err
		}
	} else if c.Person != nil {
		mine = []Person{*c.Person}
	}
	for _, s := range subjects {
		if len(mine) == 0 {
			return nil
		}
		if id, ok := ParseKeyID(s.ID); ok && s.Type == SubjectAccessKey {
			theirs, err := tx.KeyPersons(ctx, id)
			if err != nil {
				return err
			}
			for i := range theirs {
				if slices.ContainsFunc(mine, func(p Person) bool { return p.ID == theirs[i].ID }) {
					return errSelfApproval()
				}
			}
		}
		if slices.ContainsFunc(mine, func(p Person) bool { return c.isPerson(&p, s) }) {
			return errSelfApproval()
		}
	}
	return nil
}

// KeyPersonsTx tells whose an access key is.
type KeyPersonsTx interface {
	// KeyPersons are the persons who stand behind an access key: it was made with
	// them, or they were shown a secret of it.
	KeyPersons(ctx context.Context, id KeyID) ([]Person, error)
}

// Create makes a grant. An access key that it is for must be one of the
// customer's that is in force, and a person active: a subject of type user is the
// person of that id, username or e-mail address, where there is one. MaxGrants a
// subject are a Conflict.
func (g *Granter) Create(ctx context.Context, call Call, in NewGrant) (GrantRecord, error) {
	if err := g.May(&call.Caller); err != nil {
		return GrantRecord{}, err
	}
	named := in.Subject.ID
	if in.Subject.Type == SubjectAccessKey {
		var err error
		if in.Subject.ID, err = g.keyNamed(ctx, call.Customer.ID, named); err != nil {
			return GrantRecord{}, err
		}
	}
	if err := NotToOneself(&call.Caller, in.Subject); err != nil { // before anything is told of the subject
		return GrantRecord{}, err
	}
	actor := call.Actor()
	made := GrantRecord{
		ID: uuid.NewString(), Customer: call.Customer.ID, Subject: in.Subject, Entries: in.Entries, Entitlements: in.Entitlements, Reason: in.Reason,
		NotBefore: in.NotBefore, ExpiresAt: in.ExpiresAt, RevokedAt: latchkey.Never, CreatedAt: call.Now,
		Author: audit.Actor{Type: actor.Type, ID: actor.ID},
	}
	err := g.change(ctx, call, func() any { return made }, func(tx Tx) (EntityRef, audit.Draft, error) {
		made.Subject = in.Subject
		switch made.Subject.Type {
		case SubjectAccessKey:
			if err := g.inForce(ctx, tx, made.Subject.ID, named, call.Now); err != nil {
				return made.Subject, audit.Draft{}, err
			}
		case SubjectUser:
			var err error
			if made.Subject, err = grantee(ctx, tx, &call.Caller, in.Subject); err != nil {
				return made.Subject, audit.Draft{}, err
			}
		}
		if err := NotToOneselfIn(ctx, tx, &call.Caller, made.Subject); err != nil {
			return made.Subject, audit.Draft{}, err
		}
		n, err := tx.CountLiveGrants(ctx, made.Subject, call.Now)
		if err != nil {
			return made.Subject, audit.Draft{}, err
		}
		if n >= MaxGrants {
			return made.Subject, audit.Draft{}, latchkey.Errorf(latchkey.Conflict, "too_many_grants", "the subject already holds %d grants; wait for some to end, or revoke them", n)
		}
		if len(in.Entitlements) > 0 {
			if made.Entries, made.Claims, err = g.entitled(ctx, tx, in.Entitlements); err != nil {
				return made.Subject, audit.Draft{}, err
			}
		}
		made.Version = tx.Seq()
		if err := tx.InsertGrant(ctx, made); err != nil {
			return made.Subject, audit.Draft{}, err
		}
		d := call.Draft("grant.create", made.resource())
		d.Changes = made.changes()
		return made.Subject, d, nil
	})
	return made, err
}

// entitled is what entitlements give, as it is now: what becomes of them later does
// not change the grant.
func (g *Granter) entitled(ctx context.Context, tx Tx, ids []string) (entries, claims string, err error) {
	if g.cfg.Entitlements == nil {
		return "", "", entityFault("/entitlement_ids", "entitlement_not_found", "there are no entitlements here")
	}
	if entries, claims, err = g.cfg.Entitlements.Entitled(ctx, tx, ids); err != nil {
		if latchkey.KindOf(err) == latchkey.NotFound {
			err = entityFault("/entitlement_ids", "entitlement_not_found", "there is no such entitlement")
		}
		return "", "", err
	}
	if claims == "{}" {
		claims = ""
	}
	if entries == "{}" {
		return entries, claims, nil
	}
	if _, err := g.cfg.Parser.LoadEntries(entries); err != nil {
		return "", "", entityFault("/entitlement_ids", "entries_too_large", "the entitlements cannot be granted together")
	}
	return entries, claims, nil
}

// keyNamed finds the id of the access key that a subject names by its id or by
// a handle.
func (g *Granter) keyNamed(ctx context.Context, customer, name string) (string, error) {
	if _, ok := ParseKeyID(name); ok {
		return name, nil
	}
	if strings.HasPrefix(name, "lkr1_") {
		return "", errSubjectNotAllowed()
	}
	kid, _, ok := parseHandle(name)
	if !ok {
		return "", errKeyNotFound
	}
	id, found, err := g.cfg.Record.KeyOfKid(ctx, customer, kid)
	if err == nil && !found {
		err = errKeyNotFound
	}
	return id.String(), err
}

func errSubjectNotAllowed() error {
	return entityFault("/subject/id", "subject_not_allowed", "the root key and keys of sidecars are never subjects of a decision")
}

// inForce refuses a key that could not use a grant, and a name of it, an id or
// a handle, that names nothing in a decision.
func (g *Granter) inForce(ctx context.Context, tx Tx, id, named string, now latchkey.Instant) error {
	keyID, _ := ParseKeyID(id)
	key, secrets, err := tx.KeySecrets(ctx, keyID)
	if err != nil {
		return err
	}
	if kid, test, ok := parseHandle(named); ok && !slices.ContainsFunc(secrets, func(s KeySecret) bool {
		return s.Kid == kid && (s.Mode == Test) == test && now < s.EndsAt
	}) {
		return errKeyNotFound
	}
	set, err := g.cfg.Parser.Load(key.Scopes)
	switch {
	case err != nil:
		return err
	case set.Has(scopes.Sidecar):
		return errSubjectNotAllowed()
	case key.RevokedAt != latchkey.Never:
		return latchkey.Errorf(latchkey.Conflict, "already_revoked", "the key was revoked at %s", key.RevokedAt)
	case now >= key.ExpiresAt:
		return latchkey.Errorf(latchkey.Conflict, "already_expired", "the key expired at %s", key.ExpiresAt)
	}
	return nil
}

// grantee is the person that a subject of type user names, where there is one; it
// must be active, or the grant would wait for its return. What the caller's own
// name stands for is known only here.
func grantee(ctx context.Context, tx Tx, c *Caller, named EntityRef) (EntityRef, error) {
	person, found, err := tx.PersonNamed(ctx, named.ID)
	if folded, isEmail := FoldEmail(named.ID); err == nil && !found && isEmail {
		// In whatever letters an address is a person's: a grant to the bare text would be
		// nobody's, and stay when the person leaves.
		person, found, err = tx.PersonNamed(ctx, folded)
	}
	switch {
	case err != nil || !found:
		return named, err
	case !person.Active:
		return named, latchkey.Errorf(latchkey.Conflict, "person_inactive", "the person is not active, and holds nothing")
	}
	return person.Ref(), NotToOneself(c, person.Ref())
}

// Get returns one grant: to managers any, to persons their own.
func (g *Granter) Get(ctx context.Context, call Call, id string) (GrantRecord, error) {
	if err := g.MayRead(&call.Caller); err != nil {
		return GrantRecord{}, err
	}
	if !IsID(id) {
		return GrantRecord{}, errGrantNotFound
	}
	found, err := g.cfg.Record.Grant(ctx, call.Customer.ID, id)
	if err == nil && !call.Manages() && found.Subject != call.Person.Ref() {
		return GrantRecord{}, errGrantNotFound
	}
	return found, err
}

// List returns a page of grants, newest first; to who does not manage, of their
// own. An access key may be named by a handle; a name that is no key's finds
// nothing. A person may be named as in a decision.
func (g *Granter) List(ctx context.Context, call Call, q GrantQuery) ([]GrantRecord, error) {
	if err := g.MayRead(&call.Caller); err != nil {
		return nil, err
	}
	q.Customer, q.Now = call.Customer.ID, call.Now
	if !call.Manages() {
		own := call.Person.Ref()
		other := q.Subject.Type != "" && q.Subject.Type != own.Type || q.Subject.ID != "" && !call.Person.Answers(q.Subject.ID)
		if other {
			return nil, nil
		}
		q.Subject = own
	}
	if q.Subject.Type == SubjectAccessKey && q.Subject.ID != "" {
		id, err := g.keyNamed(ctx, q.Customer, q.Subject.ID)
		if kind := latchkey.KindOf(err); err != nil && (kind == latchkey.NotFound || kind == latchkey.Invalid) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		q.Subject.ID = id
	}
	if q.Subject.Type == SubjectUser && q.Subject.ID != "" {
		person, found, err := g.cfg.Record.PersonNamed(ctx, q.Customer, q.Subject.ID)
		if err != nil {
			return nil, err
		}
		if found {
			q.Subject = person.Ref()
		}
	}
	return g.cfg.Record.Grants(ctx, q)
}

// Revoke ends a grant, and returns it with the sequence number of the change; that of
// an access request by ending the request.
// From its return on no decision of this process that starts later rests on it.
// That of an access request ends with the request. One that has ended already is a
// Conflict.
func (g *Granter) Revoke(ctx context.Context, call Call, id string) (revoked GrantRecord, err error) {
	if err := g.May(&call.Caller); err != nil {
		return revoked, err
	}
	if !IsID(id) {
		return revoked, errGrantNotFound
	}
	if revoked, err = g.cfg.Record.Grant(ctx, call.Customer.ID, id); err != nil {
		return revoked, err
	}
	if revoked.Request != "" && g.cfg.Requests != nil && revoked.Status(call.Now) != GrantEnded {
		if err := g.cfg.Requests.RevokeGrant(ctx, call, revoked); err != nil {
			return revoked, err
		}
		return g.cfg.Record.Grant(ctx, call.Customer.ID, id)
	}
	err = g.change(ctx, call, nil, func(tx Tx) (EntityRef, audit.Draft, error) {
		if revoked, err = tx.Grant(ctx, id); err != nil {
			return EntityRef{}, audit.Draft{}, err
		}
		if revoked.Status(call.Now) == GrantEnded {
			return revoked.Subject, audit.Draft{}, latchkey.Errorf(latchkey.Conflict, "already_ended", "the grant ended at %s", revoked.EndsAt())
		}
		if err := tx.RevokeGrant(ctx, revoked, call.Now); err != nil {
			return revoked.Subject, audit.Draft{}, err
		}
		revoked.RevokedAt, revoked.Version = call.Now, tx.Seq()
		d := call.Draft("grant.revoke", revoked.resource())
		d.Changes = Changes("subject_type", revoked.Subject.Type, "subject_id", revoked.Subject.ID)
		return revoked.Subject, d, nil
	})
	return revoked, err
}

// change makes one change to the grants of a subject, and then the same in
// memory. What memory needs is read before the commit: after it nothing can fail.
func (g *Granter) change(ctx context.Context, call Call, reply func() any, do func(Tx) (EntityRef, audit.Draft, error)) error {
	var subject EntityRef
	var grants *Grants
	err := g.cfg.Record.Change(ctx, call.Change(reply), func(tx Tx) (draft audit.Draft, err error) {
		if subject, draft, err = do(tx); err != nil {
			return draft, err
		}
		var bodies []feed.GrantBody
		if subject.Type == SubjectAccessKey { // of others it needs no more than the number
			list, err := tx.SubjectGrants(ctx, subject, call.Now)
			if err != nil {
				return draft, err
			}
			bodies, _ = GrantBodies(list)
		}
		grants, err = NewGrants(g.cfg.Parser, bodies, tx.Seq())
		return draft, err
	})
	if err == nil {
		g.apply(ctx, call.Customer, subject, grants)
	}
	return err
}

// apply makes memory as new as the given grants; those of any other subject
// than an access key are read when they are asked for.
func (g *Granter) apply(ctx context.Context, c *Customer, subject EntityRef, grants *Grants) {
	if subject.Type != SubjectAccessKey {
		c.ExpectGrants()
		g.cfg.Subjects.Reach(ctx, c.ID, grants.Version)
		return
	}
	id, _ := ParseKeyID(subject.ID)
	if key := g.cfg.Table.Key(id); key != nil { // else it is read with its grants
		key.SetGrants(grants)
	}
}

func (g *GrantRecord) resource() audit.Resource {
	return audit.Resource{Type: "grant", Name: g.Subject.Type + ":" + g.Subject.ID, ID: g.ID}
}

func (g *GrantRecord) changes() string {
	c := Changes("subject_type", g.Subject.Type, "subject_id", g.Subject.ID, "reason", g.Reason)
	b := append([]byte(c[:len(c)-1]), `,"entries":`...)
	b = append(append(b, g.Entries...), `,"not_before":`...)
	b = append(append(b, instantJSON(g.NotBefore)...), `,"expires_at":`...)
	return string(append(append(b, instantJSON(g.ExpiresAt)...), '}'))
}
