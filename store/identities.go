package store

import (
	"context"
	"fmt"

	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/people"
)

// Identities is the database as people.Identities needs it.
type Identities struct{ db *DB }

var _ people.IdentityRecord = Identities{}

// Identities returns it.
func (db *DB) Identities() Identities { return Identities{db} }

// Change implements people.IdentityRecord.
func (i Identities) Change(ctx context.Context, c authz.Change, do func(people.IdentityTx) (audit.Draft, error)) error {
	return i.db.Change(ctx, c, func(t authz.Tx) (audit.Draft, error) { return do(identityTx{t.(*tx)}) })
}

// Linked implements people.IdentityRecord.
func (i Identities) Linked(ctx context.Context, customer, issuer, subject string) (authz.Person, bool, error) {
	return linked(ctx, i.db.read, customer, issuer, subject)
}

// PersonByEmail implements people.IdentityRecord.
func (i Identities) PersonByEmail(ctx context.Context, customer, email string) (authz.Person, bool, error) {
	return personByEmail(ctx, i.db.read, customer, email)
}

// identityTx is a change as people.Identities makes it.
type identityTx struct{ *tx }

// Linked implements people.IdentityTx.
func (t identityTx) Linked(ctx context.Context, issuer, subject string) (authz.Person, bool, error) {
	return linked(ctx, t, t.chain, issuer, subject)
}

// PersonByEmail implements people.IdentityTx.
func (t identityTx) PersonByEmail(ctx context.Context, email string) (authz.Person, bool, error) {
	return personByEmail(ctx, t, t.chain, email)
}

// KnownTo implements people.IdentityTx.
func (t identityTx) KnownTo(ctx context.Context, person, issuer string) (bool, error) {
	n, err := t.count(ctx, `SELECT count(*) FROM person_identities WHERE customer_id = $1 AND person_id = $2 AND issuer = $3`, t.chain, person, issuer)
	return n > 0, err
}

// Link implements people.IdentityTx.
func (t identityTx) Link(ctx context.Context, issuer, subject, person string) error {
	_, err := t.ExecContext(ctx, `INSERT INTO person_identities (customer_id, issuer, subject, person_id, linked_at) VALUES ($1, $2, $3, $4, $5)`,
		t.chain, issuer, subject, person, int64(t.at))
	if err != nil {
		return fmt.Errorf("link a person of %s: %w", t.chain, err)
	}
	return nil
}

func linked(ctx context.Context, q rows, customer, issuer, subject string) (authz.Person, bool, error) {
	p, err := scanPerson(q.QueryRowContext(ctx, `SELECT `+personColumns+` FROM person_identities i JOIN persons p ON p.id = i.person_id
		WHERE i.customer_id = $1 AND i.issuer = $2 AND i.subject = $3 AND p.customer_id = $1`, customer, issuer, subject))
	return found(p, err, "person")
}

func personByEmail(ctx context.Context, q rows, customer, email string) (authz.Person, bool, error) {
	p, err := scanPerson(q.QueryRowContext(ctx, `SELECT `+personColumns+` FROM persons p WHERE p.customer_id = $1 AND p.email = $2 AND p.email <> ''`, customer, email))
	return found(p, err, "person")
}
