package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
)

// tables are all tables of the record, each after those that it refers to.
var tables = []string{
	"installation", "root_key", "customers",
	"persons", "person_secrets", "person_identities", "applications", "entitlements", "groups", "group_members", "group_entitlements",
	"access_keys", "access_key_metadata", "access_key_secrets", "access_key_persons",
	"policies", "policy_versions", "sets", "set_values",
	"subjects", "resources", "resource_labels", "resource_types",
	"grants", "audit_events", "audit_heads", "feed", "nodes", "replies",
	"access_templates", "access_template_refs", "access_places", "access_requests", "access_requesters", "access_awaited", "access_messages", "approval_promises",
	"sealed_secrets", "webhooks", "deliveries", "delivery_cursors", "tasks", "task_runs", "task_cursors",
}

// Copied is what a copy holds.
type Copied struct {
	Rows   []CopiedTable  `json:"tables"`
	Chains []audit.Report `json:"chains"`
}

// CopiedTable is one table of a copy.
type CopiedTable struct {
	Table string `json:"table"`
	Rows  int64  `json:"rows"`
}

// Copy copies a whole record from a file of SQLite, which nobody else may have
// open and which is only read, to an empty PostgreSQL database. It is there
// whole, counted and with every audit chain verified, or not at all. The
// fingerprints are those of the keyring that goes with the record.
func Copy(ctx context.Context, from, to Config, fingerprints map[string]string) (done Copied, err error) {
	from.ReadOnly, to.ReadOnly = true, false
	source, err := openEngine(from)
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	version, err := source.migrate(ctx, true)
	if err != nil {
		return done, fmt.Errorf("the source: %w", err)
	}
	target, err := OpenConfig(ctx, to)
	if err != nil {
		return done, fmt.Errorf("the target: %w", err)
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	there, err := target.migrate(ctx, true)
	if err != nil {
		return done, fmt.Errorf("the target: %w", err)
	}
	if version.Is != version.Known || there.Is != there.Known {
		return done, latchkey.Errorf(latchkey.Conflict, "database_ahead", "a database is of a later release, with tables that this one does not know: copy it with that release")
	}
	snapshot, err := source.snapshot(ctx)
	if err != nil {
		return done, refine(err)
	}
	defer snapshot.Rollback() //nolint:errcheck // it only reads
	conn, err := target.write.Conn(ctx)
	if err != nil {
		return done, refine(fmt.Errorf("reach the target: %w", err))
	}
	defer conn.Close() // the transaction has ended by then
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return done, refine(err)
	}
	defer tx.Rollback() //nolint:errcheck // nothing to do after a commit
	if _, err := tx.ExecContext(ctx, `SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0`); err != nil {
		return done, refine(err)
	}
	if err := empty(ctx, tx); err != nil {
		return done, err
	}
	for _, table := range tables {
		n, err := copyTable(ctx, snapshot, tx, conn, table)
		if err != nil {
			return done, refine(fmt.Errorf("copy %s: %w", table, err))
		}
		done.Rows = append(done.Rows, CopiedTable{Table: table, Rows: n})
	}
	if _, err := tx.ExecContext(ctx, `UPDATE installation SET keyring = $1`, formatFingerprints(fingerprints)); err != nil {
		return done, refine(err)
	}
	found, err := tx.QueryContext(ctx, `SELECT id FROM customers ORDER BY id`)
	chains, err := collect(found, err, scanText)
	if err != nil {
		return done, refine(err)
	}
	for _, chain := range chains {
		report, err := verifyChain(ctx, tx, target.mac, chain)
		if err != nil {
			return done, err
		}
		done.Chains = append(done.Chains, report)
		if !report.Holds {
			return done, latchkey.Errorf(latchkey.Conflict, "chain_broken", "nothing was copied: the audit chain of %s does not hold with this keyring; 'latchkey audit verify' tells more of the source", chain)
		}
	}
	if err := tx.Commit(); err != nil {
		return done, refine(fmt.Errorf("commit the copy: %w", err))
	}
	return done, nil
}

// empty makes sure that nothing is in the target yet but what migrations put
// there, and takes that away. Two copies to one target wait for each other
// here, and so does a server's first start.
func empty(ctx context.Context, tx *sql.Tx) error {
	if _, err := tx.ExecContext(ctx, `UPDATE customers SET name = name WHERE id = $1`, audit.SystemChain); err != nil {
		return refine(err)
	}
	for _, table := range tables {
		query := `SELECT count(*) FROM (SELECT 1 FROM ` + table + ` LIMIT 1) AS first`
		if table == "customers" {
			query = `SELECT count(*) FROM customers WHERE id <> '` + audit.SystemChain + `' OR seq <> 0`
		}
		var n int
		if err := tx.QueryRowContext(ctx, query).Scan(&n); err != nil {
			return refine(err)
		}
		if n > 0 {
			return latchkey.Errorf(latchkey.Conflict, "target_not_empty", "the target holds a record already: its table %s has rows", table)
		}
	}
	_, err := tx.ExecContext(ctx, `DELETE FROM customers WHERE id = $1`, audit.SystemChain)
	return refine(err)
}

// copyTable copies all rows, and holds their number in the target to that in
// the source.
func copyTable(ctx context.Context, source, target *sql.Tx, conn *sql.Conn, table string) (int64, error) {
	rows, err := source.QueryContext(ctx, `SELECT * FROM `+table) //nolint:gosec // a name of our own
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return 0, err
	}
	err = conn.Raw(func(driver any) error {
		_, err := driver.(*stdlib.Conn).Conn().CopyFrom(ctx, pgx.Identifier{table}, columns, &rowSource{Rows: rows, columns: len(columns)})
		return err
	})
	if err := errors.Join(err, rows.Err()); err != nil {
		return 0, err
	}
	var has, want int64
	if err := source.QueryRowContext(ctx, `SELECT count(*) FROM `+table).Scan(&want); err != nil {
		return 0, err
	}
	if err := target.QueryRowContext(ctx, `SELECT count(*) FROM `+table).Scan(&has); err != nil {
		return 0, err
	}
	if has != want {
		return 0, fmt.Errorf("%d rows have become %d", want, has)
	}
	return has, nil
}

// rowSource gives the rows of one database to the other.
type rowSource struct {
	*sql.Rows
	columns int
}

// Values implements pgx.CopyFromSource.
func (r *rowSource) Values() ([]any, error) {
	values, to := make([]any, r.columns), make([]any, r.columns)
	for i := range values {
		to[i] = &values[i]
	}
	return values, r.Scan(to...)
}
