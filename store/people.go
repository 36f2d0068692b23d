package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/people"
)

// People is the database as package people needs it. Safe for concurrent use.
type People struct{ db *DB }

var (
	_ people.Record = People{}
	_ people.Writer = (*tx)(nil)
)

// People returns it.
func (db *DB) People() People { return People{db} }

// Change implements people.Record.
func (p People) Change(ctx context.Context, c authz.Change, do func(people.Writer) (audit.Draft, error)) error {
	return p.db.Change(ctx, c, func(t authz.Tx) (audit.Draft, error) { return do(t.(*tx)) })
}

func notFound(code, what string) error {
	return latchkey.Errorf(latchkey.NotFound, code, "there is no such %s", what)
}

// one is the result of a query for one row.
func one[T any](v T, err error, code, what string) (T, error) {
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return v, notFound(code, what)
	case err != nil:
		return v, refine(fmt.Errorf("read a %s: %w", what, err))
	}
	return v, nil
}

const personColumns = `p.id, p.customer_id, p.username, p.email, p.name, p.type, p.active, p.created_at, p.version`

func personDest(p *authz.Person, active *int64) []any {
	return []any{&p.ID, &p.Customer, &p.Username, &p.Email, &p.Name, (*string)(&p.Type), active, (*int64)(&p.CreatedAt), &p.Version}
}

func scanPerson(row scanner) (p authz.Person, err error) {
	var active int64
	err = row.Scan(personDest(&p, &active)...)
	p.Active = active == 1
	return p, err
}

func readPerson(ctx context.Context, q rows, customer, id string) (authz.Person, error) {
	p, err := scanPerson(q.QueryRowContext(ctx, `SELECT `+personColumns+` FROM persons p WHERE p.id = $1 AND p.customer_id = $2`, id, customer))
	return one(p, err, "user_not_found", "person")
}

// Person implements people.Record.
func (p People) Person(ctx context.Context, customer, id string) (authz.Person, error) {
	return readPerson(ctx, p.db.read, customer, id)
}

func (t *tx) Person(ctx context.Context, id string) (authz.Person, error) {
	return readPerson(ctx, t, t.chain, id)
}

// filter puts the conditions of a query together. prefix is that of the table's
// columns.
type filter struct {
	prefix string
	where  []string
	args   []any
}

func newFilter(prefix string, q *people.Query) *filter {
	f := &filter{prefix: prefix}
	f.add(`customer_id = `, q.Customer)
	f.unless(q.ID == "", `id = `, q.ID)
	if q.AfterID != "" {
		at, id := f.arg(int64(q.AfterCreated)), f.arg(q.AfterID)
		f.where = append(f.where, `(`+prefix+`created_at > `+at+` OR `+prefix+`created_at = `+at+` AND `+prefix+`id > `+id+`)`)
	}
	return f
}

func (f *filter) arg(v any) string {
	f.args = append(f.args, v)
	return "$" + strconv.Itoa(len(f.args))
}

func (f *filter) add(condition string, v any) {
	f.where = append(f.where, f.prefix+condition+f.arg(v))
}

func (f *filter) unless(absent bool, condition string, v any) {
	if !absent {
		f.add(condition, v)
	}
}

// given says that a group which the person is in gives the entitlement.
func (f *filter) given(entitlement, person string) string {
	return `EXISTS (SELECT 1 FROM group_entitlements x JOIN group_members m ON m.group_id = x.group_id
		WHERE x.entitlement_id = ` + entitlement + ` AND m.person_id = ` + f.arg(person) + `)`
}

func (f *filter) text(limit int) string {
	return ` WHERE ` + strings.Join(f.where, ` AND `) + ` ORDER BY ` + f.prefix + `created_at, ` + f.prefix + `id LIMIT ` + f.arg(limit)
}

// Persons implements people.Record.
func (p People) Persons(ctx context.Context, q people.Query) ([]authz.Person, error) {
	f := newFilter(`p.`, &q)
	f.unless(q.Username == "", `username = `, q.Username)
	f.unless(q.Email == "", `email = `, q.Email)
	f.unless(q.Type == "", `type = `, string(q.Type))
	if q.Active != nil {
		f.add(`active = `, truth(*q.Active))
	}
	where := f.text(q.Limit)
	found, err := p.db.read.QueryContext(ctx, `SELECT `+personColumns+` FROM persons p`+where, f.args...) //nolint:gosec // values are parameters
	return listed(found, err, scanPerson, "persons")
}

// textList is a list of strings as it is kept: as JSON.
func textList(list []string) string { return string(strictjson.AppendStrings(nil, list)) }

func truth(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// taken refuses a name that another person of the customer has.
func (t *tx) taken(ctx context.Context, p *authz.Person) error {
	for _, by := range []struct{ column, value, code, what string }{
		{`username`, p.Username, "username_taken", "that username is another person's"},
		{`email`, p.Email, "email_taken", "that e-mail address is another person's"},
	} {
		if by.value == "" {
			continue
		}
		n, err := t.count(ctx, `SELECT count(*) FROM persons WHERE customer_id = $1 AND `+by.column+` = $2 AND id <> $3`, t.chain, by.value, p.ID)
		if err != nil {
			return err
		}
		if n > 0 {
			return latchkey.Errorf(latchkey.Conflict, by.code, "%s", by.what)
		}
	}
	return nil
}

// InsertPerson implements people.Writer.
func (t *tx) InsertPerson(ctx context.Context, p authz.Person) error {
	if err := t.taken(ctx, &p); err != nil {
		return err
	}
	t.touchPerson(&p)
	_, err := t.ExecContext(ctx, `INSERT INTO persons (id, customer_id, username, email, name, type, active, created_at, version)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		p.ID, t.chain, p.Username, p.Email, p.Name, string(p.Type), truth(p.Active), int64(p.CreatedAt), t.seq)
	if err != nil {
		return fmt.Errorf("insert a person of %s: %w", t.chain, err)
	}
	return nil
}

// UpdatePerson implements people.Writer.
func (t *tx) UpdatePerson(ctx context.Context, was, is authz.Person) error {
	if err := t.taken(ctx, &is); err != nil {
		return err
	}
	t.touchPerson(&was) // by the names before, too
	t.touchPerson(&is)
	_, err := t.ExecContext(ctx, `UPDATE persons SET username = $2, email = $3, name = $4, type = $5, active = $6, version = $7 WHERE id = $1`,
		is.ID, is.Username, is.Email, is.Name, string(is.Type), truth(is.Active), t.seq)
	if err != nil {
		return fmt.Errorf("update person %s: %w", is.ID, err)
	}
	return nil
}

// touchPerson notes that what a person holds has changed: decisions find it by the
// person's id, by the username and by the e-mail address.
func (t *tx) touchPerson(p *authz.Person) {
	for _, name := range []string{p.ID, p.Username, p.Email} {
		if name != "" {
			t.touch(feed.Ref{Kind: feed.Subject, Type: authz.SubjectUser, ID: name}, authz.GrantsTouched)
		}
	}
}

// touchPersons is touchPerson for those that a query selects by ids of persons;
// past as many as are told of one by one it stops.
func (t *tx) touchPersons(ctx context.Context, ids string, args ...any) error {
	found, err := t.QueryContext(ctx, `SELECT `+personColumns+` FROM persons p WHERE p.id IN (`+ids+`) ORDER BY p.id LIMIT `+strconv.Itoa(maxTouched+1), args...)
	list, err := collect(found, err, scanPerson)
	if err != nil {
		return fmt.Errorf("read whom a change touches: %w", err)
	}
	for i := range list {
		t.touchPerson(&list[i])
	}
	return nil
}

// touchMembers touches the persons of a group.
func (t *tx) touchMembers(ctx context.Context, group string) error {
	return t.touchPersons(ctx, `SELECT m.person_id FROM group_members m WHERE m.group_id = $1`, group)
}

// proves tells by 1 that a person's credential still holds, and makes the person
// what it was when it was presented.
func (t *tx) proves(ctx context.Context, by *authz.Caller, at latchkey.Instant) (n int, err error) {
	const active = `SELECT count(*) FROM persons p JOIN customers c ON c.id = p.customer_id AND c.deleted_at = $1
		WHERE p.id = $2 AND p.active = 1 AND p.type = $3 AND EXISTS (`
	args := []any{int64(latchkey.Never), by.Person.ID, string(by.Person.Type)}
	switch by.Proof.Kind { //nolint:exhaustive // nothing else proves a person
	case authz.PersonalTokenCredential:
		err = t.QueryRowContext(ctx, active+`SELECT 1 FROM person_secrets s WHERE s.kid = $4 AND s.person_id = p.id AND s.kind = 'token' AND s.ends_at > $5)`,
			append(args, by.Proof.Kid.String(), int64(at))...).Scan(&n)
	case authz.OIDCCredential:
		err = t.QueryRowContext(ctx, active+`SELECT 1 FROM person_identities i WHERE i.customer_id = p.customer_id AND i.issuer = $4 AND i.subject = $5 AND i.person_id = p.id)`,
			append(args, by.Proof.Issuer, by.Proof.Subject)...).Scan(&n)
	}
	return n, err
}

// KeyPersons implements authz.KeyPersonsTx.
func (t *tx) KeyPersons(ctx context.Context, id authz.KeyID) ([]authz.Person, error) {
	found, err := t.QueryContext(ctx, `SELECT `+personColumns+` FROM persons p WHERE p.id IN (
		SELECT person_id FROM access_keys WHERE id = $1 AND person_id <> '' UNION SELECT person_id FROM access_key_persons WHERE key_id = $1) ORDER BY p.id`, id.String())
	list, err := collect(found, err, scanPerson)
	if err != nil {
		return nil, fmt.Errorf("read whose key %s is: %w", id, err)
	}
	return list, nil
}

// NoteKeyPerson implements authz.Tx.
func (t *tx) NoteKeyPerson(ctx context.Context, id authz.KeyID, person string) error {
	_, err := t.ExecContext(ctx, `INSERT INTO access_key_persons (key_id, person_id, customer_id) VALUES ($1, $2, $3) ON CONFLICT (key_id, person_id) DO NOTHING`,
		id.String(), person, t.chain)
	if err != nil {
		return fmt.Errorf("note who was shown key %s: %w", id, err)
	}
	return nil
}

// KeysOf implements people.Writer.
func (t *tx) KeysOf(ctx context.Context, person string) ([]authz.KeyID, error) {
	found, err := t.QueryContext(ctx, `SELECT id FROM access_keys WHERE person_id = $1 AND person_id <> '' AND revoked_at = $2 ORDER BY id`, person, int64(latchkey.Never))
	list, err := collect(found, err, func(s scanner) (id authz.KeyID, err error) {
		var text string
		if err := s.Scan(&text); err != nil {
			return id, err
		}
		id, ok := authz.ParseKeyID(text)
		if !ok {
			return id, fmt.Errorf("a stored key has the malformed id %q", text)
		}
		return id, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the keys of person %s: %w", person, err)
	}
	return list, nil
}

//nolint:gosec // names of columns
const personSecretColumns = `s.kid, s.id, s.person_id, s.customer_id, s.kind, s.name, s.digest, s.pepper, s.created_at, s.ends_at`

// secretScan receives the columns of a secret.
type secretScan struct {
	people.Secret
	kid, kind string
	digest    []byte
}

func (s *secretScan) dest() []any {
	return []any{&s.kid, &s.ID, &s.Person, &s.Customer, &s.kind, &s.Name, &s.digest, &s.Pepper, (*int64)(&s.CreatedAt), (*int64)(&s.EndsAt)}
}

func (s *secretScan) secret() (people.Secret, error) {
	var ok bool
	if s.Kid, ok = authz.ParseKid(s.kid); !ok || len(s.digest) != len(s.Digest) {
		return s.Secret, fmt.Errorf("a stored secret of person %q is malformed", s.Person)
	}
	copy(s.Digest[:], s.digest)
	s.Claim = s.kind == "claim"
	return s.Secret, nil
}

func scanPersonSecret(row scanner) (people.Secret, error) {
	var s secretScan
	if err := row.Scan(s.dest()...); err != nil {
		return s.Secret, err
	}
	return s.secret()
}

// FindSecret implements people.Record.
func (p People) FindSecret(ctx context.Context, kid authz.Kid) (people.Secret, authz.Person, bool, error) {
	var s secretScan
	var person authz.Person
	var active int64
	err := p.db.read.QueryRowContext(ctx, `SELECT `+personSecretColumns+`, `+personColumns+`
		FROM person_secrets s JOIN persons p ON p.id = s.person_id WHERE s.kid = $1`, kid.String()).Scan(append(s.dest(), personDest(&person, &active)...)...)
	if errors.Is(err, sql.ErrNoRows) {
		return people.Secret{}, authz.Person{}, false, nil
	}
	if err != nil {
		return people.Secret{}, authz.Person{}, false, refine(fmt.Errorf("find a person's secret: %w", err))
	}
	person.Active = active == 1
	secret, err := s.secret()
	return secret, person, err == nil, err
}

// Tokens implements people.Record.
func (p People) Tokens(ctx context.Context, customer, person string, now latchkey.Instant) ([]people.Secret, error) {
	found, err := p.db.read.QueryContext(ctx, `SELECT `+personSecretColumns+` FROM person_secrets s
		WHERE s.person_id = $1 AND s.customer_id = $2 AND s.kind = 'token' AND s.ends_at > $3 ORDER BY s.created_at DESC, s.id`, person, customer, int64(now))
	return listed(found, err, scanPersonSecret, "personal tokens")
}

// Secret implements people.Writer.
func (t *tx) Secret(ctx context.Context, kid authz.Kid) (people.Secret, error) {
	s, err := scanPersonSecret(t.QueryRowContext(ctx, `SELECT `+personSecretColumns+` FROM person_secrets s WHERE s.kid = $1 AND s.customer_id = $2`, kid.String(), t.chain))
	return one(s, err, "token_not_found", "personal token")
}

func secretKind(claim bool) string {
	if claim {
		return "claim"
	}
	return "token"
}

// InsertSecret implements people.Writer.
func (t *tx) InsertSecret(ctx context.Context, s people.Secret) error {
	_, err := t.ExecContext(ctx, `INSERT INTO person_secrets (kid, id, person_id, customer_id, kind, name, digest, pepper, created_at, ends_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		s.Kid.String(), s.ID, s.Person, t.chain, secretKind(s.Claim), s.Name, s.Digest[:], s.Pepper, int64(s.CreatedAt), int64(s.EndsAt))
	if err != nil {
		return fmt.Errorf("insert a secret of person %s: %w", s.Person, err)
	}
	return nil
}

// EndSecrets implements people.Writer. What was ended ends at 0, for every clock: at
// is when the change came in, and who comes after it in line may have come in
// before it, or by a server whose clock is behind.
func (t *tx) EndSecrets(ctx context.Context, person string, claims bool, id string, at latchkey.Instant) (int, error) {
	res, err := t.ExecContext(ctx, `UPDATE person_secrets SET ends_at = 0 WHERE person_id = $1 AND kind = $2 AND ($3 = '' OR id = $3) AND ends_at > $4`,
		person, secretKind(claims), id, int64(at))
	if err != nil {
		return 0, fmt.Errorf("end secrets of person %s: %w", person, err)
	}
	n, err := res.RowsAffected()
	return int(n), err
}

// CountTokens implements people.Writer.
func (t *tx) CountTokens(ctx context.Context, person string, now latchkey.Instant) (int, error) {
	return t.count(ctx, `SELECT count(*) FROM person_secrets WHERE person_id = $1 AND kind = 'token' AND ends_at > $2`, person, int64(now))
}

// Proven implements people.Writer.
func (t *tx) Proven(ctx context.Context, person string) (bool, error) {
	n, err := t.count(ctx, `SELECT (SELECT count(*) FROM person_secrets WHERE person_id = $1 AND kind = 'token')
		+ (SELECT count(*) FROM person_identities WHERE person_id = $1)`, person)
	return n > 0, err
}

const groupColumns = `g.id, g.customer_id, g.name, g.created_at, g.version`

func scanGroup(row scanner) (g people.Group, err error) {
	err = row.Scan(&g.ID, &g.Customer, &g.Name, (*int64)(&g.CreatedAt), &g.Version)
	return g, err
}

func readGroup(ctx context.Context, q rows, customer, id string) (people.Group, error) {
	g, err := scanGroup(q.QueryRowContext(ctx, `SELECT `+groupColumns+` FROM groups g WHERE g.id = $1 AND g.customer_id = $2`, id, customer))
	if g, err = one(g, err, "group_not_found", "group"); err != nil {
		return g, err
	}
	return g, fillGroup(ctx, q, &g)
}

// fillGroup reads members and entitlements.
func fillGroup(ctx context.Context, q rows, g *people.Group) error {
	found, err := q.QueryContext(ctx, `SELECT person_id, added_at FROM group_members WHERE group_id = $1 ORDER BY added_at, person_id`, g.ID)
	g.Members, err = collect(found, err, func(s scanner) (m people.Member, err error) {
		err = s.Scan(&m.Person, (*int64)(&m.AddedAt))
		return m, err
	})
	if err != nil {
		return refine(fmt.Errorf("read the members of group %s: %w", g.ID, err))
	}
	found, err = q.QueryContext(ctx, `SELECT entitlement_id FROM group_entitlements WHERE group_id = $1 ORDER BY entitlement_id`, g.ID)
	if g.Entitlements, err = collect(found, err, scanText); err != nil {
		return refine(fmt.Errorf("read the entitlements of group %s: %w", g.ID, err))
	}
	return nil
}

// Group implements people.Record.
func (p People) Group(ctx context.Context, customer, id string) (people.Group, error) {
	return readGroup(ctx, p.db.read, customer, id)
}

func (t *tx) Group(ctx context.Context, id string) (people.Group, error) {
	return readGroup(ctx, t, t.chain, id)
}

// Groups implements people.Record.
func (p People) Groups(ctx context.Context, q people.Query) ([]people.Group, error) {
	f := newFilter(`g.`, &q)
	f.unless(q.Name == "", `name = `, q.Name)
	if q.Member != "" {
		f.where = append(f.where, `EXISTS (SELECT 1 FROM group_members m WHERE m.group_id = g.id AND m.person_id = `+f.arg(q.Member)+`)`)
	}
	where := f.text(q.Limit)
	snapshot, err := p.db.snapshot(ctx)
	if err != nil {
		return nil, refine(err)
	}
	defer snapshot.Rollback()                                                                          //nolint:errcheck // it only reads
	found, err := snapshot.QueryContext(ctx, `SELECT `+groupColumns+` FROM groups g`+where, f.args...) //nolint:gosec // values are parameters
	list, err := listed(found, err, scanGroup, "groups")
	for i := range list {
		if err := fillGroup(ctx, snapshot, &list[i]); err != nil {
			return nil, err
		}
	}
	return list, err
}

func (t *tx) GroupsOf(ctx context.Context, person string) ([]string, error) {
	found, err := t.QueryContext(ctx, `SELECT m.group_id FROM group_members m WHERE m.customer_id = $1 AND m.person_id = $2 ORDER BY m.group_id`, t.chain, person)
	list, err := collect(found, err, scanText)
	if err != nil {
		return nil, fmt.Errorf("read the groups of person %s: %w", person, err)
	}
	return list, nil
}

// InsertGroup implements people.Writer.
func (t *tx) InsertGroup(ctx context.Context, g people.Group) error {
	_, err := t.ExecContext(ctx, `INSERT INTO groups (id, customer_id, name, created_at, version) VALUES ($1, $2, $3, $4, $5)`,
		g.ID, t.chain, g.Name, int64(g.CreatedAt), t.seq)
	if err := named(err, "group"); err != nil {
		return err
	}
	return t.putGroup(ctx, &people.Group{}, &g)
}

// named refuses a name that is taken.
func named(err error, what string) error {
	if unique(err) {
		return latchkey.Errorf(latchkey.Conflict, what+"_exists", "there is one of that name already")
	}
	if err != nil {
		return fmt.Errorf("write a %s: %w", what, err)
	}
	return nil
}

// UpdateGroup implements people.Writer.
func (t *tx) UpdateGroup(ctx context.Context, was, is people.Group) error {
	if err := t.touchMembers(ctx, is.ID); err != nil { // those who leave, too
		return err
	}
	_, err := t.ExecContext(ctx, `UPDATE groups SET name = $2, version = $3 WHERE id = $1`, is.ID, is.Name, t.seq)
	if err := named(err, "group"); err != nil {
		return err
	}
	return t.putGroup(ctx, &was, &is)
}

// putGroup makes members and entitlements of a group what they are to be.
func (t *tx) putGroup(ctx context.Context, was, is *people.Group) error {
	before := map[string]latchkey.Instant{}
	for _, m := range was.Members {
		before[m.Person] = m.AddedAt
	}
	for _, m := range is.Members {
		at, there := before[m.Person]
		delete(before, m.Person)
		if there && at == m.AddedAt {
			continue
		}
		_, err := t.ExecContext(ctx, `INSERT INTO group_members (group_id, person_id, customer_id, added_at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (group_id, person_id) DO UPDATE SET added_at = excluded.added_at`, is.ID, m.Person, t.chain, int64(m.AddedAt))
		if err != nil {
			return fmt.Errorf("put a member into group %s: %w", is.ID, err)
		}
	}
	for person := range before {
		if _, err := t.ExecContext(ctx, `DELETE FROM group_members WHERE group_id = $1 AND person_id = $2`, is.ID, person); err != nil {
			return fmt.Errorf("take a member out of group %s: %w", is.ID, err)
		}
	}
	if _, err := t.ExecContext(ctx, `DELETE FROM group_entitlements WHERE group_id = $1`, is.ID); err != nil {
		return fmt.Errorf("change the entitlements of group %s: %w", is.ID, err)
	}
	for _, e := range is.Entitlements {
		if _, err := t.ExecContext(ctx, `INSERT INTO group_entitlements (group_id, entitlement_id, customer_id) VALUES ($1, $2, $3)`, is.ID, e, t.chain); err != nil {
			return fmt.Errorf("change the entitlements of group %s: %w", is.ID, err)
		}
	}
	return t.touchMembers(ctx, is.ID)
}

// DeleteGroup implements people.Writer.
func (t *tx) DeleteGroup(ctx context.Context, g people.Group) error {
	if err := t.touchMembers(ctx, g.ID); err != nil {
		return err
	}
	for _, statement := range []string{`DELETE FROM group_members WHERE group_id = $1`, `DELETE FROM group_entitlements WHERE group_id = $1`, `DELETE FROM groups WHERE id = $1`} {
		if _, err := t.ExecContext(ctx, statement, g.ID); err != nil {
			return fmt.Errorf("delete group %s: %w", g.ID, err)
		}
	}
	return nil
}

const applicationColumns = `a.id, a.customer_id, a.name, a.created_at, a.version`

func scanApplication(row scanner) (a people.Application, err error) {
	err = row.Scan(&a.ID, &a.Customer, &a.Name, (*int64)(&a.CreatedAt), &a.Version)
	return a, err
}

// Application implements people.Tx.
func (t *tx) Application(ctx context.Context, id string) (people.Application, error) {
	a, err := scanApplication(t.QueryRowContext(ctx, `SELECT `+applicationColumns+` FROM applications a WHERE a.id = $1 AND a.customer_id = $2`, id, t.chain))
	return one(a, err, "application_not_found", "application")
}

// Applications implements people.Record.
func (p People) Applications(ctx context.Context, q people.Query) ([]people.Application, error) {
	f := newFilter(`a.`, &q)
	f.unless(q.Name == "", `name = `, q.Name)
	if q.For != "" {
		f.where = append(f.where, `(EXISTS (SELECT 1 FROM access_templates t WHERE t.customer_id = a.customer_id AND t.app_id = a.id)
			OR EXISTS (SELECT 1 FROM entitlements e WHERE e.app_id = a.id AND `+f.given(`e.id`, q.For)+`))`)
	}
	where := f.text(q.Limit)
	found, err := p.db.read.QueryContext(ctx, `SELECT `+applicationColumns+` FROM applications a`+where, f.args...) //nolint:gosec // values are parameters
	return listed(found, err, scanApplication, "applications")
}

// InsertApplication implements people.Writer.
func (t *tx) InsertApplication(ctx context.Context, a people.Application) error {
	_, err := t.ExecContext(ctx, `INSERT INTO applications (id, customer_id, name, created_at, version) VALUES ($1, $2, $3, $4, $5)`,
		a.ID, t.chain, a.Name, int64(a.CreatedAt), t.seq)
	return named(err, "application")
}

// UpdateApplication implements people.Writer.
func (t *tx) UpdateApplication(ctx context.Context, a people.Application) error {
	_, err := t.ExecContext(ctx, `UPDATE applications SET name = $2, version = $3 WHERE id = $1`, a.ID, a.Name, t.seq)
	return named(err, "application")
}

// DeleteApplication implements people.Writer.
func (t *tx) DeleteApplication(ctx context.Context, id string) error {
	if _, err := t.ExecContext(ctx, `DELETE FROM applications WHERE id = $1`, id); err != nil {
		return fmt.Errorf("delete application %s: %w", id, err)
	}
	return nil
}

const entitlementColumns = `e.id, e.customer_id, e.app_id, e.name, e.entries, e.claims, e.created_at, e.version`

func scanEntitlement(row scanner) (e people.Entitlement, err error) {
	err = row.Scan(&e.ID, &e.Customer, &e.Application, &e.Name, &e.Entries, &e.Claims, (*int64)(&e.CreatedAt), &e.Version)
	return e, err
}

// Entitlement implements people.Tx.
func (t *tx) Entitlement(ctx context.Context, id string) (people.Entitlement, error) {
	e, err := scanEntitlement(t.QueryRowContext(ctx, `SELECT `+entitlementColumns+` FROM entitlements e WHERE e.id = $1 AND e.customer_id = $2`, id, t.chain))
	return one(e, err, "entitlement_not_found", "entitlement")
}

// Entitlements implements people.Record.
func (p People) Entitlements(ctx context.Context, q people.Query) ([]people.Entitlement, error) {
	f := newFilter(`e.`, &q)
	f.unless(q.Name == "", `name = `, q.Name)
	f.unless(q.Application == "", `app_id = `, q.Application)
	if q.For != "" {
		f.where = append(f.where, `(EXISTS (SELECT 1 FROM access_template_refs r WHERE r.customer_id = e.customer_id AND r.kind = 'entitlement' AND r.ref_id = e.id)
			OR `+f.given(`e.id`, q.For)+`)`)
	}
	where := f.text(q.Limit)
	found, err := p.db.read.QueryContext(ctx, `SELECT `+entitlementColumns+` FROM entitlements e`+where, f.args...) //nolint:gosec // values are parameters
	return listed(found, err, scanEntitlement, "entitlements")
}

// InsertEntitlement implements people.Writer.
func (t *tx) InsertEntitlement(ctx context.Context, e people.Entitlement) error {
	_, err := t.ExecContext(ctx, `INSERT INTO entitlements (id, customer_id, app_id, name, entries, claims, created_at, version) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		e.ID, t.chain, e.Application, e.Name, e.Entries, e.Claims, int64(e.CreatedAt), t.seq)
	return named(err, "entitlement")
}

// UpdateEntitlement implements people.Writer.
func (t *tx) UpdateEntitlement(ctx context.Context, e people.Entitlement) error {
	_, err := t.ExecContext(ctx, `UPDATE entitlements SET name = $2, entries = $3, claims = $4, version = $5 WHERE id = $1`, e.ID, e.Name, e.Entries, e.Claims, t.seq)
	if err := named(err, "entitlement"); err != nil {
		return err
	}
	return t.touchPersons(ctx, holders, e.ID)
}

// holders selects the persons in groups that have an entitlement.
const holders = `SELECT m.person_id FROM group_members m JOIN group_entitlements x ON x.group_id = m.group_id WHERE x.entitlement_id = $1`

// Holders implements people.Writer.
func (t *tx) Holders(ctx context.Context, entitlement string) ([]string, error) {
	found, err := t.QueryContext(ctx, holders+` ORDER BY m.person_id`, entitlement)
	list, err := collect(found, err, scanText)
	if err != nil {
		return nil, fmt.Errorf("read who holds entitlement %s: %w", entitlement, err)
	}
	return list, nil
}

// DeleteEntitlement implements people.Writer.
func (t *tx) DeleteEntitlement(ctx context.Context, id string) error {
	if _, err := t.ExecContext(ctx, `DELETE FROM entitlements WHERE id = $1`, id); err != nil {
		return fmt.Errorf("delete entitlement %s: %w", id, err)
	}
	return nil
}

// use is something that keeps another thing from being deleted.
type use struct{ what, query string }

func namedByTemplate(kind string) use {
	return use{"a template", `SELECT count(*) FROM access_template_refs WHERE ref_id = $1 AND customer_id = $2 AND kind = '` + kind + `'`}
}

// uses says by kind what keeps a thing from being deleted: queries that count it,
// with what they count. $1 is the thing's id, $2 its customer's.
var uses = map[string][]use{
	"application": {{"an entitlement", `SELECT count(*) FROM entitlements WHERE app_id = $1 AND customer_id = $2`}, {"a template", `SELECT count(*) FROM access_templates WHERE app_id = $1 AND customer_id = $2`}},
	"entitlement": {{"a group", `SELECT count(*) FROM group_entitlements WHERE entitlement_id = $1 AND customer_id = $2`}, namedByTemplate("entitlement")},
	"group":       {namedByTemplate("group")},
	"task":        {namedByTemplate("task"), {"a subscription", `SELECT count(*) FROM webhooks WHERE task_id = $1 AND customer_id = $2`}},
}

// UsedBy implements people.Writer and tasks.Tx.
func (t *tx) UsedBy(ctx context.Context, kind, id string) (string, error) {
	for _, use := range uses[kind] {
		if n, err := t.count(ctx, use.query, id, t.chain); err != nil || n > 0 {
			return use.what, err
		}
	}
	return "", nil
}
