package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
)

var _ authz.NodeStore = (*DB)(nil)

// WriteNodes implements authz.NodeStore.
func (db *DB) WriteNodes(ctx context.Context, nodes []authz.Node) error {
	// In one order everywhere: two servers that write the same rows wait for
	// each other, and do not lock each other out.
	nodes = slices.SortedFunc(slices.Values(nodes), func(a, b authz.Node) int {
		return cmp.Or(strings.Compare(a.Customer, b.Customer), strings.Compare(a.ID, b.ID))
	})
	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return refine(fmt.Errorf("begin to write what nodes said: %w", err))
	}
	defer tx.Rollback() //nolint:errcheck // nothing to do after a commit
	for _, n := range nodes {
		_, err := tx.ExecContext(ctx, `INSERT INTO nodes (customer_id, node, epoch, seq, seen_at) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (customer_id, node) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq, seen_at = excluded.seen_at
			WHERE nodes.seen_at <= excluded.seen_at`, n.Customer, n.ID, n.Epoch, n.Seq, int64(n.SeenAt))
		if err != nil {
			return refine(fmt.Errorf("write what a node of %s said: %w", n.Customer, err))
		}
	}
	return refine(tx.Commit())
}

// Nodes implements authz.NodeStore.
func (db *DB) Nodes(ctx context.Context, customer string, since latchkey.Instant) ([]authz.Node, error) {
	query, args := `SELECT customer_id, node, epoch, seq, seen_at FROM nodes WHERE seen_at >= $1`, []any{int64(since)}
	if customer != "" {
		query, args = query+` AND customer_id = $2`, append(args, customer)
	}
	found, err := db.read.QueryContext(ctx, query, args...)
	list, err := collect(found, err, func(s scanner) (n authz.Node, err error) {
		err = s.Scan(&n.Customer, &n.ID, &n.Epoch, &n.Seq, (*int64)(&n.SeenAt))
		return n, err
	})
	if err != nil {
		return nil, refine(fmt.Errorf("read what nodes said: %w", err))
	}
	return list, nil
}

// SweepNodes deletes the nodes that were seen last before the given time, and
// returns their number.
func (db *DB) SweepNodes(ctx context.Context, before latchkey.Instant) (int64, error) {
	res, err := db.write.ExecContext(ctx, `DELETE FROM nodes WHERE seen_at < $1`, int64(before))
	if err != nil {
		return 0, refine(fmt.Errorf("sweep nodes: %w", err))
	}
	n, err := res.RowsAffected()
	return n, refine(err)
}
