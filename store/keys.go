package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"maps"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

const keyColumns = `k.id, k.customer_id, k.handle, k.scopes, k.metadata, k.created_at, k.expires_at, k.revoked_at, k.rotated_from, k.last_used_at, k.version, k.person_id`

func scanKey(row scanner) (k authz.Key, err error) {
	var id string
	err = row.Scan(&id, &k.Customer, &k.Handle, &k.Scopes, &k.Metadata, (*int64)(&k.CreatedAt), (*int64)(&k.ExpiresAt),
		(*int64)(&k.RevokedAt), &k.RotatedFrom, (*int64)(&k.LastUsedAt), &k.Version, &k.Person)
	if err != nil {
		return k, err
	}
	var ok bool
	if k.ID, ok = authz.ParseKeyID(id); !ok {
		return k, fmt.Errorf("a stored key has the malformed id %q", id)
	}
	return k, nil
}

func readKey(ctx context.Context, q rows, customer string, id authz.KeyID) (authz.Key, error) {
	k, err := scanKey(q.QueryRowContext(ctx, `SELECT `+keyColumns+` FROM access_keys k WHERE k.id = $1 AND k.customer_id = $2`, id.String(), customer))
	if errors.Is(err, sql.ErrNoRows) {
		return k, latchkey.Errorf(latchkey.NotFound, "key_not_found", "there is no such access key")
	}
	if err != nil {
		return k, refine(fmt.Errorf("read key %s: %w", id, err))
	}
	return k, nil
}

// Key implements authz.Record.
func (db *DB) Key(ctx context.Context, customer string, id authz.KeyID) (authz.Key, error) {
	return readKey(ctx, db.read, customer, id)
}

// Keys implements authz.Record. The total counts what the filters and the
// caller's visibility leave, before paging.
func (db *DB) Keys(ctx context.Context, q authz.KeyQuery) (authz.KeyPage, error) {
	where := []string{`k.customer_id = $1`, `(k.names & $2) = 0`}
	args := []any{q.Customer, q.HiddenNames}
	arg := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	switch q.Status {
	case "all":
	case "revoked":
		where = append(where, `k.revoked_at <= `+arg(int64(q.Now)))
	default:
		now := arg(int64(q.Now))
		where = append(where, `k.revoked_at > `+now, `k.expires_at > `+now)
	}
	for _, field := range slices.Sorted(maps.Keys(q.Metadata)) {
		where = append(where, `EXISTS (SELECT 1 FROM access_key_metadata m WHERE m.key_id = k.id AND m.field = `+arg(field)+` AND m.value = `+arg(q.Metadata[field])+`)`)
	}
	from := ` FROM access_keys k WHERE ` + strings.Join(where, ` AND `)
	var page authz.KeyPage
	if err := db.read.QueryRowContext(ctx, `SELECT count(*)`+from, args...).Scan(&page.Total); err != nil {
		return page, refine(fmt.Errorf("count keys: %w", err))
	}
	direction := ` DESC`
	if q.Ascending {
		direction = ``
	}
	order := ` ORDER BY k.created_at` + direction + `, k.id`
	if q.SortField == "revoked_at" { // those without one come last, whichever way
		never := arg(int64(latchkey.Never))
		order = ` ORDER BY CASE WHEN k.revoked_at = ` + never + ` THEN 1 ELSE 0 END, k.revoked_at` + direction + `, k.id`
	}
	//nolint:gosec // what is put together is written above; values are parameters
	found, err := db.read.QueryContext(ctx, `SELECT `+keyColumns+from+order+` LIMIT `+arg(q.Limit)+` OFFSET `+arg(q.Offset), args...)
	if page.Keys, err = collect(found, err, scanKey); err != nil {
		return page, refine(fmt.Errorf("list keys: %w", err))
	}
	return page, nil
}

func (t *tx) CountActiveKeys(ctx context.Context, now latchkey.Instant) (n int, err error) {
	err = t.QueryRowContext(ctx, `SELECT count(*) FROM access_keys WHERE customer_id = $1 AND revoked_at > $2 AND expires_at > $2`,
		t.chain, int64(now)).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count active keys of %s: %w", t.chain, err)
	}
	return n, nil
}

func (t *tx) InsertKey(ctx context.Context, k authz.Key, names int64, s authz.KeySecret) error {
	t.touch(feed.Ref{Kind: feed.Key, ID: k.ID.String()}, "")
	_, err := t.ExecContext(ctx, `INSERT INTO access_keys
		(id, customer_id, handle, scopes, names, metadata, created_at, expires_at, revoked_at, rotated_from, last_used_at, last_used_source, version, person_id)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, '', $12, $13)`,
		k.ID.String(), t.chain, k.Handle, k.Scopes, names, k.Metadata, int64(k.CreatedAt), int64(k.ExpiresAt), int64(k.RevokedAt), k.RotatedFrom, int64(k.LastUsedAt), k.Version, k.Person)
	if err != nil {
		return fmt.Errorf("insert key %s: %w", k.ID, err)
	}
	var meta strictjson.Doc
	if err := meta.Parse(k.Metadata); err != nil {
		return fmt.Errorf("metadata of key %s: %w", k.ID, err)
	}
	for field, value := range meta.Root().Members() {
		_, err := t.ExecContext(ctx, `INSERT INTO access_key_metadata (key_id, field, value) VALUES ($1, $2, $3)`, k.ID.String(), field, value.Text())
		if err != nil {
			return fmt.Errorf("insert metadata of key %s: %w", k.ID, err)
		}
	}
	return t.insertSecret(ctx, s)
}

func (t *tx) insertSecret(ctx context.Context, s authz.KeySecret) error {
	_, err := t.ExecContext(ctx, `INSERT INTO access_key_secrets (kid, key_id, mode, digest, pepper, ends_at) VALUES ($1, $2, $3, $4, $5, $6)`,
		s.Kid.String(), s.Key.String(), string(s.Mode), s.Digest[:], s.Pepper, int64(s.EndsAt))
	if err != nil {
		return fmt.Errorf("insert a secret of key %s: %w", s.Key, err)
	}
	return nil
}

func scanSecret(row scanner) (s authz.KeySecret, err error) {
	var kid, key, mode string
	var digest []byte
	if err := row.Scan(&kid, &key, &mode, &digest, &s.Pepper, (*int64)(&s.EndsAt)); err != nil {
		return s, err
	}
	var ok bool
	if s.Key, ok = authz.ParseKeyID(key); !ok || len(kid) != len(s.Kid) || len(digest) != len(s.Digest) {
		return s, fmt.Errorf("a stored secret of key %q is malformed", key)
	}
	s.Mode = authz.Live
	if mode == string(authz.Test) {
		s.Mode = authz.Test
	}
	copy(s.Kid[:], kid)
	copy(s.Digest[:], digest)
	return s, nil
}

func (t *tx) KeySecrets(ctx context.Context, id authz.KeyID) (authz.Key, []authz.KeySecret, error) {
	k, err := readKey(ctx, t, t.chain, id)
	if err != nil {
		return k, nil, err
	}
	found, err := t.QueryContext(ctx, `SELECT kid, key_id, mode, digest, pepper, ends_at FROM access_key_secrets WHERE key_id = $1 ORDER BY ends_at DESC`, id.String())
	secrets, err := collect(found, err, scanSecret)
	if err != nil {
		return k, nil, fmt.Errorf("read the secrets of key %s: %w", id, err)
	}
	return k, secrets, nil
}

func (t *tx) RevokeKey(ctx context.Context, id authz.KeyID, at latchkey.Instant) error {
	t.touch(feed.Ref{Kind: feed.Key, ID: id.String()}, "")
	_, err := t.ExecContext(ctx, `UPDATE access_keys SET revoked_at = $2, version = $3 WHERE id = $1`, id.String(), int64(at), t.seq)
	if err != nil {
		return fmt.Errorf("revoke key %s: %w", id, err)
	}
	return nil
}

func (t *tx) RotateKey(ctx context.Context, k authz.Key, s authz.KeySecret, ends map[authz.Kid]latchkey.Instant) error {
	t.touch(feed.Ref{Kind: feed.Key, ID: k.ID.String()}, "")
	_, err := t.ExecContext(ctx, `UPDATE access_keys SET handle = $2, rotated_from = $3, version = $4 WHERE id = $1`, k.ID.String(), k.Handle, k.RotatedFrom, t.seq)
	if err != nil {
		return fmt.Errorf("rotate key %s: %w", k.ID, err)
	}
	for kid, end := range ends {
		if _, err := t.ExecContext(ctx, `UPDATE access_key_secrets SET ends_at = $2 WHERE kid = $1`, kid.String(), int64(end)); err != nil {
			return fmt.Errorf("end a secret of key %s: %w", k.ID, err)
		}
	}
	return t.insertSecret(ctx, s)
}

func (t *tx) RootSecret(ctx context.Context) (s authz.KeySecret, ok bool, err error) {
	return readRootSecret(ctx, t)
}

func readRootSecret(ctx context.Context, q rows) (s authz.KeySecret, ok bool, err error) {
	var kid string
	var digest []byte
	err = q.QueryRowContext(ctx, `SELECT kid, digest, pepper FROM root_key WHERE slot = 'current'`).Scan(&kid, &digest, &s.Pepper)
	if errors.Is(err, sql.ErrNoRows) {
		return s, false, nil
	}
	if err != nil {
		return s, false, fmt.Errorf("read the root key: %w", err)
	}
	s.EndsAt = latchkey.Never
	copy(s.Kid[:], kid)
	copy(s.Digest[:], digest)
	return s, true, nil
}

func (t *tx) SetRootSecret(ctx context.Context, s authz.KeySecret, at latchkey.Instant) error {
	t.touch(feed.Ref{Kind: feed.Root}, "")
	_, err := t.ExecContext(ctx, `INSERT INTO root_key (slot, kid, digest, pepper, set_at) VALUES ('current', $1, $2, $3, $4)
		ON CONFLICT (slot) DO UPDATE SET kid = excluded.kid, digest = excluded.digest, pepper = excluded.pepper, set_at = excluded.set_at`,
		s.Kid.String(), s.Digest[:], s.Pepper, int64(at))
	if err != nil {
		return fmt.Errorf("set the root key: %w", err)
	}
	return nil
}

// usesPerWrite is how many uses are written at a time. Their rows are locked
// until the commit, and changes of those keys wait.
const usesPerWrite = 500

// WriteUses implements authz.Record. What was written when it fails stays
// written.
func (db *DB) WriteUses(ctx context.Context, uses []authz.Use, digests []authz.Rehash) error {
	// In one order, so that servers that write uses of the same keys seldom wait
	// for each other in a ring.
	uses = slices.SortedFunc(slices.Values(uses), func(a, b authz.Use) int { return bytes.Compare(a.Key[:], b.Key[:]) })
	for chunk := range slices.Chunk(uses, usesPerWrite) {
		if err := repeatedly(func() error { return db.writeUses(ctx, chunk) }); err != nil {
			return refine(fmt.Errorf("write the last uses of %d keys: %w", len(chunk), err))
		}
	}
	for chunk := range slices.Chunk(digests, usesPerWrite) {
		if err := repeatedly(func() error { return db.writeDigests(ctx, chunk) }); err != nil {
			return refine(fmt.Errorf("write %d digests anew: %w", len(chunk), err))
		}
	}
	return nil
}

func (db *DB) writeDigests(ctx context.Context, digests []authz.Rehash) error {
	sqltx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer sqltx.Rollback() //nolint:errcheck // nothing to do after a commit
	for _, d := range digests {
		_, err := sqltx.ExecContext(ctx, `UPDATE access_key_secrets SET digest = $2, pepper = $3 WHERE kid = $1`, d.Kid.String(), d.Digest[:], d.Pepper)
		if err == nil { // or it is the root key's
			_, err = sqltx.ExecContext(ctx, `UPDATE root_key SET digest = $2, pepper = $3 WHERE kid = $1`, d.Kid.String(), d.Digest[:], d.Pepper)
		}
		if err != nil {
			return err
		}
	}
	return sqltx.Commit()
}

func (db *DB) writeUses(ctx context.Context, uses []authz.Use) error {
	var b strings.Builder
	args := []any{int64(latchkey.Never)}
	arg := func(v any, typ string) {
		args = append(args, v)
		b.WriteString(`CAST($` + strconv.Itoa(len(args)) + ` AS ` + typ + `)`)
	}
	b.WriteString(`UPDATE access_keys SET last_used_at = v.column2, last_used_source = v.column3 FROM (VALUES `)
	for i, u := range uses {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('(')
		arg(u.Key.String(), `TEXT`)
		b.WriteByte(',')
		arg(int64(u.At), `BIGINT`)
		b.WriteByte(',')
		arg(u.Source.String(), `TEXT`)
		b.WriteByte(')')
	}
	b.WriteString(`) AS v WHERE access_keys.id = v.column1 AND (access_keys.last_used_at < v.column2 OR access_keys.last_used_at = $1)`)
	_, err := db.write.ExecContext(ctx, b.String(), args...)
	return err
}
