package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/deliveries"
)

// cursors is a table of how far something has been made of the events of each
// customer.
type cursors string

const (
	deliveryCursors cursors = "delivery_cursors"
	taskCursors     cursors = "task_cursors"
)

// behind returns the customers, ended ones apart, whose cursor is not at their last
// event.
func (c cursors) behind(ctx context.Context, db *DB) ([]deliveries.Behind, error) {
	//nolint:gosec // the table is one of those above
	found, err := db.read.QueryContext(ctx, `SELECT c.id, coalesce(d.seq, 0), c.seq FROM customers c LEFT JOIN `+string(c)+` d ON d.customer_id = c.id
		WHERE c.seq > coalesce(d.seq, 0) AND c.deleted_at = $1 AND c.id <> $2`, int64(latchkey.Never), audit.SystemChain)
	list, err := collect(found, err, func(row scanner) (b deliveries.Behind, err error) {
		err = row.Scan(&b.Customer, &b.Cursor, &b.Head)
		return b, err
	})
	if err != nil {
		return nil, refine(fmt.Errorf("read %s: %w", c, err))
	}
	return list, nil
}

// advance moves a customer's cursor from one event to another together with what
// write writes, all or nothing. Where the cursor is not at from, another process
// has moved it: nothing is written, and it returns false.
func (c cursors) advance(ctx context.Context, db *DB, customer string, from, to int64, write func(*sql.Tx) error) (moved bool, err error) {
	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return false, refine(fmt.Errorf("begin to move a cursor: %w", err))
	}
	defer tx.Rollback() //nolint:errcheck // nothing to do after a commit
	// The row is there from the first time on; who comes at the same time waits for
	// it, and then finds it moved.
	_, err = tx.ExecContext(ctx, `INSERT INTO `+string(c)+` (customer_id, seq) VALUES ($1, 0) ON CONFLICT DO NOTHING`, customer) //nolint:gosec // as above
	var res sql.Result
	if err == nil {
		res, err = tx.ExecContext(ctx, `UPDATE `+string(c)+` SET seq = $3 WHERE customer_id = $1 AND seq = $2`, customer, from, to) //nolint:gosec // as above
	}
	if err != nil {
		return false, refine(fmt.Errorf("move the cursor of %s in %s: %w", customer, c, err))
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return false, refine(err)
	}
	if err := write(tx); err != nil {
		return false, refine(err)
	}
	if err := tx.Commit(); err != nil {
		return false, refine(fmt.Errorf("commit a move of the cursor of %s: %w", customer, err))
	}
	return true, nil
}
