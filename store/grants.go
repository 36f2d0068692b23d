package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
)

const grantColumns = `id, customer_id, subject_type, subject_id, entries, reason, not_before, expires_at, revoked_at, created_at, author_type, author_id, version,
	request_id, entitlement_ids, claims`

func scanGrant(row scanner) (authz.GrantRecord, error) { return scanGrantAnd(row) }

// scanGrantAnd scans a grant, and further columns that come after its own.
func scanGrantAnd(row scanner, further ...any) (g authz.GrantRecord, err error) {
	var entitlements string
	err = row.Scan(append([]any{&g.ID, &g.Customer, &g.Subject.Type, &g.Subject.ID, &g.Entries, &g.Reason, (*int64)(&g.NotBefore), (*int64)(&g.ExpiresAt),
		(*int64)(&g.RevokedAt), (*int64)(&g.CreatedAt), &g.Author.Type, &g.Author.ID, &g.Version, &g.Request, &entitlements, &g.Claims}, further...)...)
	if err == nil && entitlements != "[]" {
		err = json.Unmarshal([]byte(entitlements), &g.Entitlements)
	}
	if g.Claims == "{}" {
		g.Claims = ""
	}
	return g, err
}

func readGrant(ctx context.Context, q rows, customer, id string) (authz.GrantRecord, error) {
	g, err := scanGrant(q.QueryRowContext(ctx, `SELECT `+grantColumns+` FROM grants WHERE id = $1 AND customer_id = $2`, id, customer))
	if errors.Is(err, sql.ErrNoRows) {
		return g, latchkey.Errorf(latchkey.NotFound, "grant_not_found", "there is no such grant")
	}
	if err != nil {
		return g, refine(fmt.Errorf("read a grant of %s: %w", customer, err))
	}
	return g, nil
}

// Grant implements authz.Record.
func (db *DB) Grant(ctx context.Context, customer, id string) (authz.GrantRecord, error) {
	return readGrant(ctx, db.read, customer, id)
}

// Grants implements authz.Record.
func (db *DB) Grants(ctx context.Context, q authz.GrantQuery) ([]authz.GrantRecord, error) {
	where, args := []string{`customer_id = $1`}, []any{q.Customer}
	arg := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	if q.Subject.Type != "" {
		where = append(where, `subject_type = `+arg(q.Subject.Type))
	}
	if q.Subject.ID != "" {
		where = append(where, `subject_id = `+arg(q.Subject.ID))
	}
	now, never := int64(q.Now), int64(latchkey.Never)
	switch q.Status {
	case authz.GrantAll:
	case authz.GrantActive:
		where = append(where, `(not_before <= `+arg(now)+` OR not_before <= created_at)`, `expires_at > `+arg(now), `revoked_at = `+arg(never))
	case authz.GrantScheduled:
		where = append(where, `not_before > `+arg(now), `not_before > created_at`, `expires_at > `+arg(now), `revoked_at = `+arg(never))
	case authz.GrantEnded:
		where = append(where, `(expires_at <= `+arg(now)+` OR revoked_at <> `+arg(never)+`)`)
	}
	if q.AfterID != "" {
		at, id := arg(int64(q.AfterCreated)), arg(q.AfterID)
		where = append(where, `(created_at < `+at+` OR created_at = `+at+` AND id > `+id+`)`)
	}
	//nolint:gosec // what is put together is written above; values are parameters
	found, err := db.read.QueryContext(ctx, `SELECT `+grantColumns+` FROM grants WHERE `+strings.Join(where, ` AND `)+
		` ORDER BY created_at DESC, id LIMIT `+arg(q.Limit), args...)
	list, err := collect(found, err, scanGrant)
	if err != nil {
		return nil, refine(fmt.Errorf("list grants of %s: %w", q.Customer, err))
	}
	return list, nil
}

func subjectGrants(ctx context.Context, q rows, customer string, subject authz.EntityRef, now latchkey.Instant) ([]authz.GrantRecord, error) {
	found, err := q.QueryContext(ctx, `SELECT `+grantColumns+` FROM grants
		WHERE customer_id = $1 AND subject_type = $2 AND subject_id = $3 AND expires_at > $4 AND revoked_at = $5 ORDER BY id`,
		customer, subject.Type, subject.ID, int64(now), int64(latchkey.Never))
	list, err := collect(found, err, scanGrant)
	if err != nil {
		return nil, refine(fmt.Errorf("read the grants of a subject of %s: %w", customer, err))
	}
	return list, nil
}

// EachGrant implements authz.Record.
func (db *DB) EachGrant(ctx context.Context, now latchkey.Instant, do func(authz.GrantRecord) error) error {
	found, err := db.read.QueryContext(ctx, `SELECT `+grantColumns+` FROM grants WHERE expires_at > $1 AND revoked_at = $2
		ORDER BY customer_id, subject_type, subject_id, id`, int64(now), int64(latchkey.Never))
	if err != nil {
		return refine(fmt.Errorf("read grants: %w", err))
	}
	defer found.Close()
	for found.Next() {
		g, err := scanGrant(found)
		if err != nil {
			return refine(fmt.Errorf("read grants: %w", err))
		}
		if err := do(g); err != nil {
			return err
		}
	}
	return refine(found.Err())
}

func (t *tx) Grant(ctx context.Context, id string) (authz.GrantRecord, error) {
	return readGrant(ctx, t, t.chain, id)
}

func (t *tx) SubjectGrants(ctx context.Context, subject authz.EntityRef, now latchkey.Instant) ([]authz.GrantRecord, error) {
	return subjectGrants(ctx, t, t.chain, subject, now)
}

func (t *tx) CountLiveGrants(ctx context.Context, subject authz.EntityRef, now latchkey.Instant) (n int, err error) {
	err = t.QueryRowContext(ctx, `SELECT count(*) FROM grants
		WHERE customer_id = $1 AND subject_type = $2 AND subject_id = $3 AND expires_at > $4 AND revoked_at = $5`,
		t.chain, subject.Type, subject.ID, int64(now), int64(latchkey.Never)).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count the grants of a subject of %s: %w", t.chain, err)
	}
	return n, nil
}

func (t *tx) InsertGrant(ctx context.Context, g authz.GrantRecord) error {
	if err := t.touchGrant(ctx, g.Subject); err != nil {
		return err
	}
	entitlements, claims := "[]", "{}"
	if len(g.Entitlements) > 0 {
		text, err := json.Marshal(g.Entitlements)
		if err != nil {
			return fmt.Errorf("insert grant %s: %w", g.ID, err)
		}
		entitlements = string(text)
	}
	if g.Claims != "" {
		claims = g.Claims
	}
	_, err := t.ExecContext(ctx, `INSERT INTO grants (`+grantColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)`,
		g.ID, t.chain, g.Subject.Type, g.Subject.ID, g.Entries, g.Reason, int64(g.NotBefore), int64(g.ExpiresAt),
		int64(g.RevokedAt), int64(g.CreatedAt), g.Author.Type, g.Author.ID, t.seq,
		g.Request, entitlements, claims)
	if err != nil {
		return fmt.Errorf("insert grant %s: %w", g.ID, err)
	}
	return nil
}

func (t *tx) RevokeGrant(ctx context.Context, g authz.GrantRecord, at latchkey.Instant) error {
	if err := t.touchGrant(ctx, g.Subject); err != nil {
		return err
	}
	_, err := t.ExecContext(ctx, `UPDATE grants SET revoked_at = $2, version = $3 WHERE id = $1`, g.ID, int64(at), t.seq)
	if err != nil {
		return fmt.Errorf("revoke grant %s: %w", g.ID, err)
	}
	return nil
}

// touchGrant: the grants of an access key are part of the key's record, those of
// a person of the records of all its names.
func (t *tx) touchGrant(ctx context.Context, subject authz.EntityRef) error {
	switch subject.Type {
	case authz.SubjectAccessKey:
		t.touch(feed.Ref{Kind: feed.Key, ID: subject.ID}, "")
	case authz.SubjectUser:
		return t.touchHolder(ctx, subject.ID)
	default:
		t.touch(feed.Ref{Kind: feed.Subject, Type: subject.Type, ID: subject.ID}, authz.GrantsTouched)
	}
	return nil
}
