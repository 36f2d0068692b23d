package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
)

// maxTouched is how many records of a kind a change lists; beyond it the feed
// says that all of the kind were touched.
const maxTouched = 256

// touch notes that the change touches something that nodes keep copies of.
func (t *tx) touch(ref feed.Ref, detail string) {
	if t.touched == nil {
		t.touched = map[feed.Ref]string{}
	}
	t.touched[ref] = detail
}

// writeFeed writes what the change touched.
func (t *tx) writeFeed(ctx context.Context) error {
	counts := map[feed.Kind]int{}
	for ref := range t.touched {
		counts[ref.Kind]++
	}
	for ref := range t.touched {
		if counts[ref.Kind] > maxTouched {
			delete(t.touched, ref)
		}
	}
	for kind, n := range counts {
		if n > maxTouched {
			t.touched[feed.Ref{Kind: kind}] = authz.AllTouched
		}
	}
	if len(t.touched) == 0 {
		t.touched = map[feed.Ref]string{{}: ""}
	}
	for ref, detail := range t.touched {
		_, err := t.ExecContext(ctx, `INSERT INTO feed (chain, seq, kind, type, id, at, detail) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			t.chain, t.seq, string(ref.Kind), ref.Type, ref.ID, int64(t.at), detail)
		if err != nil {
			return fmt.Errorf("write the feed of %s: %w", t.chain, err)
		}
	}
	return nil
}

// Positions implements authz.Record.
func (db *DB) Positions(ctx context.Context) ([]authz.Position, error) {
	found, err := db.read.QueryContext(ctx, `SELECT id, seq, policies_seq, deleted_at FROM customers`)
	list, err := collect(found, err, func(s scanner) (p authz.Position, err error) {
		err = s.Scan(&p.Chain, &p.Seq, &p.Policies, (*int64)(&p.DeletedAt))
		return p, err
	})
	if err != nil {
		return nil, refine(fmt.Errorf("read how far changes go: %w", err))
	}
	return list, nil
}

// Position implements authz.Record.
func (db *DB) Position(ctx context.Context, chain string) (authz.Position, error) {
	p := authz.Position{Chain: chain}
	err := db.read.QueryRowContext(ctx, `SELECT seq, policies_seq, deleted_at FROM customers WHERE id = $1`, chain).Scan(&p.Seq, &p.Policies, (*int64)(&p.DeletedAt))
	if errors.Is(err, sql.ErrNoRows) {
		return p, errCustomerNotFound()
	}
	if err != nil {
		return p, refine(fmt.Errorf("read how far the changes of %s go: %w", chain, err))
	}
	return p, nil
}

// Changes implements authz.Record.
func (db *DB) Changes(ctx context.Context, chain string, after int64, limit int) ([]authz.Touched, error) {
	found, err := db.read.QueryContext(ctx, `SELECT seq, kind, type, id, at, detail FROM feed
		WHERE chain = $1 AND seq > $2 AND seq <= $3 ORDER BY seq, kind, type, id`, chain, after, after+int64(limit))
	if err != nil {
		return nil, refine(fmt.Errorf("read the feed of %s: %w", chain, err))
	}
	defer found.Close()
	var list []authz.Touched
	for found.Next() {
		var seq int64
		var at latchkey.Instant
		var ref feed.Ref
		var detail string
		if err := found.Scan(&seq, (*string)(&ref.Kind), &ref.Type, &ref.ID, (*int64)(&at), &detail); err != nil {
			return nil, refine(err)
		}
		if len(list) == 0 || list[len(list)-1].Seq != seq {
			if seq != after+1+int64(len(list)) {
				break // the next one has been swept
			}
			list = append(list, authz.Touched{Seq: seq, At: at})
		}
		last := &list[len(list)-1]
		switch {
		case ref.Kind == "":
		case detail == authz.AllTouched:
			last.All = append(last.All, ref.Kind)
		default:
			last.Refs = append(last.Refs, ref)
			last.Details = append(last.Details, detail)
		}
	}
	return list, refine(found.Err())
}

// SweepFeed deletes what the feed tells of changes made before the given time,
// and returns the number of rows.
func (db *DB) SweepFeed(ctx context.Context, before latchkey.Instant) (swept int64, err error) {
	return db.sweep(ctx, "the feed", `DELETE FROM feed WHERE (chain, seq, kind, type, id) IN
		(SELECT chain, seq, kind, type, id FROM feed WHERE at < $1 LIMIT $2)`, before)
}

// sweep deletes what is from before a time, $1, in pieces of $2 rows: so that no
// statement takes long, nor keeps SQLite's one writer. It returns how many rows.
func (db *DB) sweep(ctx context.Context, what, query string, before latchkey.Instant) (swept int64, err error) {
	const atOnce = 10_000
	for {
		res, err := db.write.ExecContext(ctx, query, int64(before), atOnce)
		if err != nil {
			return swept, refine(fmt.Errorf("sweep %s: %w", what, err))
		}
		n, err := res.RowsAffected()
		if swept += n; err != nil || n < atOnce {
			return swept, refine(err)
		}
	}
}

// FullKey implements authz.Record.
func (db *DB) FullKey(ctx context.Context, customer string, id authz.KeyID, now latchkey.Instant) (k authz.FullKey, err error) {
	if k.AsOf, err = db.position(ctx, customer); err != nil {
		return k, err
	}
	if k.Key, err = readKey(ctx, db.read, customer, id); err != nil {
		return k, err
	}
	found, err := db.read.QueryContext(ctx, `SELECT kid, key_id, mode, digest, pepper, ends_at FROM access_key_secrets WHERE key_id = $1`, id.String())
	if k.Secrets, err = collect(found, err, scanSecret); err != nil {
		return k, refine(fmt.Errorf("read the secrets of key %s: %w", id, err))
	}
	slices.SortFunc(k.Secrets, func(a, b authz.KeySecret) int { return strings.Compare(a.Kid.String(), b.Kid.String()) })
	k.Grants, err = subjectGrants(ctx, db.read, customer, authz.EntityRef{Type: authz.SubjectAccessKey, ID: id.String()}, now)
	return k, err
}

// KeyOfKid implements authz.Record.
func (db *DB) KeyOfKid(ctx context.Context, customer string, kid authz.Kid) (authz.KeyID, bool, error) {
	found, err := db.read.QueryContext(ctx, `SELECT s.key_id FROM access_key_secrets s JOIN access_keys k ON k.id = s.key_id
		WHERE s.kid = $1 AND k.customer_id = $2`, kid.String(), customer)
	list, err := collect(found, err, scanText)
	if err != nil || len(list) == 0 {
		return authz.KeyID{}, false, refine(err)
	}
	id, ok := authz.ParseKeyID(list[0])
	return id, ok, nil
}

// position is the number of a chain's last change.
func (db *DB) position(ctx context.Context, chain string) (seq int64, err error) {
	if err := db.read.QueryRowContext(ctx, `SELECT seq FROM customers WHERE id = $1`, chain).Scan(&seq); err != nil {
		return 0, refine(fmt.Errorf("read how far the changes of %s go: %w", chain, err))
	}
	return seq, nil
}
