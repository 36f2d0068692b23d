package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
)

func errCustomerNotFound() error {
	return latchkey.Errorf(latchkey.NotFound, "customer_not_found", "there is no such customer")
}

const customerColumns = `id, name, max_active_keys, default_policy, created_at, deleted_at`

// rows is what both a pool and a transaction can do.
type rows interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// scanner is one row of a result.
type scanner interface{ Scan(dest ...any) error }

func scanCustomer(row scanner) (c authz.CustomerRecord, err error) {
	err = row.Scan(&c.ID, &c.Name, &c.MaxActiveKeys, &c.DefaultPolicy, (*int64)(&c.CreatedAt), (*int64)(&c.DeletedAt))
	return c, err
}

func readCustomer(ctx context.Context, q rows, id string) (authz.CustomerRecord, error) {
	c, err := scanCustomer(q.QueryRowContext(ctx, `SELECT `+customerColumns+` FROM customers WHERE id = $1 AND id <> $2`, id, audit.SystemChain))
	if errors.Is(err, sql.ErrNoRows) {
		return c, errCustomerNotFound()
	}
	if err != nil {
		return c, refine(fmt.Errorf("read customer %s: %w", id, err))
	}
	return c, nil
}

// CustomerRecord implements authz.Record; ended customers are found.
func (db *DB) CustomerRecord(ctx context.Context, id string) (authz.CustomerRecord, error) {
	return readCustomer(ctx, db.read, id)
}

// CustomerRecords implements authz.Record: those that have not ended, oldest
// first.
func (db *DB) CustomerRecords(ctx context.Context, limit, offset int) (list []authz.CustomerRecord, total int, err error) {
	const which = ` FROM customers WHERE deleted_at = $1 AND id <> $2`
	if err := db.read.QueryRowContext(ctx, `SELECT count(*)`+which, int64(latchkey.Never), audit.SystemChain).Scan(&total); err != nil {
		return nil, 0, refine(fmt.Errorf("count customers: %w", err))
	}
	found, err := db.read.QueryContext(ctx, `SELECT `+customerColumns+which+` ORDER BY created_at, id LIMIT $3 OFFSET $4`,
		int64(latchkey.Never), audit.SystemChain, limit, offset)
	list, err = collect(found, err, scanCustomer)
	if err != nil {
		return nil, 0, refine(fmt.Errorf("list customers: %w", err))
	}
	return list, total, nil
}

func (t *tx) Customer(ctx context.Context) (authz.CustomerRecord, error) {
	return readCustomer(ctx, t, t.chain)
}

func (t *tx) InsertCustomer(ctx context.Context, c authz.CustomerRecord) error {
	t.touch(feed.Ref{Kind: feed.Customer, ID: c.ID}, "")
	_, err := t.ExecContext(ctx, `INSERT INTO customers (id, name, max_active_keys, default_policy, seq, created_at, deleted_at) VALUES ($1, $2, $3, $4, 0, $5, $6)`,
		c.ID, c.Name, c.MaxActiveKeys, c.DefaultPolicy, int64(c.CreatedAt), int64(c.DeletedAt))
	if unique(err) {
		return latchkey.Errorf(latchkey.Conflict, "customer_exists", "that id is, or was, another customer's")
	}
	if err != nil {
		return fmt.Errorf("insert customer %s: %w", c.ID, err)
	}
	return nil
}

func (t *tx) UpdateCustomer(ctx context.Context, c authz.CustomerRecord) error {
	t.touch(feed.Ref{Kind: feed.Customer, ID: c.ID}, "")
	if c.Ended() { // and with it all of which there are copies
		for _, kind := range []feed.Kind{feed.Key, feed.Subject, feed.Resource} {
			t.touch(feed.Ref{Kind: kind}, authz.AllTouched)
		}
	}
	_, err := t.ExecContext(ctx, `UPDATE customers SET name = $2, max_active_keys = $3, deleted_at = $5,
		policies_seq = CASE WHEN default_policy = $4 THEN policies_seq ELSE seq END, default_policy = $4 WHERE id = $1`,
		c.ID, c.Name, c.MaxActiveKeys, c.DefaultPolicy, int64(c.DeletedAt))
	if err != nil {
		return fmt.Errorf("update customer %s: %w", c.ID, err)
	}
	return nil
}

// collect reads all rows of a query.
func collect[T any](found *sql.Rows, err error, scan func(scanner) (T, error)) ([]T, error) {
	if err != nil {
		return nil, err
	}
	defer found.Close()
	var list []T
	for found.Next() {
		v, err := scan(found)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, found.Err()
}
