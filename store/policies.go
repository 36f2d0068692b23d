package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
)

func errPolicyNotFound() error {
	return latchkey.Errorf(latchkey.NotFound, "policy_not_found", "there is no such policy")
}

// policyColumns are of a policy p and a version v of it, the document apart.
const policyColumns = `p.id, p.name, v.language, v.version, p.created_at, v.created_at, v.author_type, v.author_id`

func policyFields(p *authz.PolicyRecord) []any {
	return []any{&p.ID, &p.Name, &p.Language, &p.Version, (*int64)(&p.CreatedAt), (*int64)(&p.UpdatedAt), &p.Author.Type, &p.Author.ID}
}

// policy reads one row of columns, description and document.
func policy(row scanner) (p authz.PolicyRecord, err error) {
	err = row.Scan(append(policyFields(&p), &p.Description, &p.Document)...)
	if errors.Is(err, sql.ErrNoRows) {
		return p, errPolicyNotFound()
	}
	return p, err
}

func readPolicy(ctx context.Context, q rows, customer, name string) (authz.PolicyRecord, error) {
	p, err := policy(q.QueryRowContext(ctx, `SELECT `+policyColumns+`, p.description, v.document
		FROM policies p JOIN policy_versions v ON v.policy_id = p.id AND v.version = p.version
		WHERE p.customer_id = $1 AND p.name = $2`, customer, name))
	if err != nil {
		return p, refine(fmt.Errorf("read a policy of %s: %w", customer, err))
	}
	return p, nil
}

// Policy implements authz.Record.
func (db *DB) Policy(ctx context.Context, customer, name string) (authz.PolicyRecord, error) {
	return readPolicy(ctx, db.read, customer, name)
}

// PolicyRecords implements authz.Record.
func (db *DB) PolicyRecords(ctx context.Context, customer string) ([]authz.PolicyRecord, error) {
	found, err := db.read.QueryContext(ctx, `SELECT `+policyColumns+`, p.description, ''
		FROM policies p JOIN policy_versions v ON v.policy_id = p.id AND v.version = p.version
		WHERE p.customer_id = $1 ORDER BY p.name`, customer)
	list, err := collect(found, err, policy)
	if err != nil {
		return nil, refine(fmt.Errorf("list policies of %s: %w", customer, err))
	}
	return list, nil
}

// PolicyVersions implements authz.Record.
func (db *DB) PolicyVersions(ctx context.Context, customer, name string) ([]authz.PolicyRecord, error) {
	found, err := db.read.QueryContext(ctx, `SELECT `+policyColumns+`, '', ''
		FROM policies p JOIN policy_versions v ON v.policy_id = p.id
		WHERE p.customer_id = $1 AND p.name = $2 ORDER BY v.version DESC`, customer, name)
	list, err := collect(found, err, policy)
	switch {
	case err != nil:
		return nil, refine(fmt.Errorf("list versions of a policy of %s: %w", customer, err))
	case len(list) == 0: // every policy has one
		return nil, errPolicyNotFound()
	}
	return list, nil
}

// PolicyVersion implements authz.Record.
func (db *DB) PolicyVersion(ctx context.Context, customer, name string, version int64) (authz.PolicyRecord, error) {
	p, err := policy(db.read.QueryRowContext(ctx, `SELECT `+policyColumns+`, '', v.document
		FROM policies p JOIN policy_versions v ON v.policy_id = p.id
		WHERE p.customer_id = $1 AND p.name = $2 AND v.version = $3`, customer, name, version))
	if latchkey.KindOf(err) == latchkey.NotFound {
		if _, err := readPolicy(ctx, db.read, customer, name); err != nil {
			return p, err
		}
		return p, latchkey.Errorf(latchkey.NotFound, "version_not_found", "there is no such version; the last %d are kept", authz.KeptVersions)
	}
	if err != nil {
		return p, refine(fmt.Errorf("read version %d of a policy of %s: %w", version, customer, err))
	}
	return p, nil
}

// LoadPolicies implements authz.Record. All of it is as of one moment.
func (db *DB) LoadPolicies(ctx context.Context) ([]authz.CustomerPolicies, error) {
	list, err := db.loadPolicies(ctx)
	if err != nil {
		return nil, refine(fmt.Errorf("load policies: %w", err))
	}
	return list, nil
}

func (db *DB) loadPolicies(ctx context.Context) ([]authz.CustomerPolicies, error) {
	snapshot, err := db.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	defer snapshot.Rollback() //nolint:errcheck // it only reads
	found, err := snapshot.QueryContext(ctx, `SELECT c.id, c.policies_seq, c.default_policy FROM customers c
		WHERE c.deleted_at = $1 AND (c.default_policy <> '' OR EXISTS (SELECT 1 FROM policies p WHERE p.customer_id = c.id))`, int64(latchkey.Never))
	list, err := collect(found, err, func(row scanner) (c authz.CustomerPolicies, err error) {
		err = row.Scan(&c.Customer, &c.Seq, &c.Default)
		return c, err
	})
	if err != nil {
		return nil, err
	}
	of := make(map[string]*authz.CustomerPolicies, len(list))
	for i := range list {
		of[list[i].Customer] = &list[i]
	}
	found, err = snapshot.QueryContext(ctx, `SELECT p.customer_id, `+policyColumns+`, p.description, v.document
		FROM policies p JOIN policy_versions v ON v.policy_id = p.id AND v.version = p.version`)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	for found.Next() {
		var customer string
		var p authz.PolicyRecord
		if err := found.Scan(append(append([]any{&customer}, policyFields(&p)...), &p.Description, &p.Document)...); err != nil {
			return nil, err
		}
		if c := of[customer]; c != nil { // else it has ended
			c.Policies = append(c.Policies, p)
		}
	}
	return list, found.Err()
}

func (t *tx) Policy(ctx context.Context, name string) (authz.PolicyRecord, error) {
	return readPolicy(ctx, t, t.chain, name)
}

func (t *tx) CountPolicies(ctx context.Context) (n int, err error) {
	if err := t.QueryRowContext(ctx, `SELECT count(*) FROM policies WHERE customer_id = $1`, t.chain).Scan(&n); err != nil {
		return 0, fmt.Errorf("count policies of %s: %w", t.chain, err)
	}
	return n, nil
}

func (t *tx) InsertPolicy(ctx context.Context, p authz.PolicyRecord) error {
	t.touch(feed.Ref{Kind: feed.Policy, ID: p.ID}, "")
	t.decides = true
	_, err := t.ExecContext(ctx, `INSERT INTO policies (id, customer_id, name, language, description, version, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		p.ID, t.chain, p.Name, p.Language, p.Description, p.Version, int64(p.CreatedAt), int64(p.UpdatedAt))
	if unique(err) {
		return latchkey.Errorf(latchkey.Conflict, "policy_exists", "there is a policy of that name already")
	}
	if err != nil {
		return fmt.Errorf("insert a policy of %s: %w", t.chain, err)
	}
	return t.insertVersion(ctx, p)
}

func (t *tx) insertVersion(ctx context.Context, p authz.PolicyRecord) error {
	_, err := t.ExecContext(ctx, `INSERT INTO policy_versions (policy_id, version, language, document, created_at, author_type, author_id)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		p.ID, p.Version, p.Language, p.Document, int64(p.UpdatedAt), p.Author.Type, p.Author.ID)
	if err != nil {
		return fmt.Errorf("insert version %d of policy %s: %w", p.Version, p.ID, err)
	}
	return nil
}

func (t *tx) UpdatePolicy(ctx context.Context, p authz.PolicyRecord, keep int) error {
	t.touch(feed.Ref{Kind: feed.Policy, ID: p.ID}, "")
	t.decides = true
	if err := t.insertVersion(ctx, p); err != nil {
		return err
	}
	_, err := t.ExecContext(ctx, `UPDATE policies SET language = $3, description = $4, version = $5, updated_at = $6
		WHERE id = $1 AND customer_id = $2`, p.ID, t.chain, p.Language, p.Description, p.Version, int64(p.UpdatedAt))
	if err != nil {
		return fmt.Errorf("update policy %s: %w", p.ID, err)
	}
	_, err = t.ExecContext(ctx, `DELETE FROM policy_versions WHERE policy_id = $1 AND version <= $2`, p.ID, p.Version-int64(keep))
	if err != nil {
		return fmt.Errorf("drop old versions of policy %s: %w", p.ID, err)
	}
	return nil
}

func (t *tx) DeletePolicy(ctx context.Context, id string) error {
	t.touch(feed.Ref{Kind: feed.Policy, ID: id}, "")
	t.decides = true
	_, err := t.ExecContext(ctx, `DELETE FROM policy_versions WHERE policy_id = $1 AND EXISTS
		(SELECT 1 FROM policies WHERE id = $1 AND customer_id = $2)`, id, t.chain)
	if err == nil {
		_, err = t.ExecContext(ctx, `DELETE FROM policies WHERE id = $1 AND customer_id = $2`, id, t.chain)
	}
	if err != nil {
		return fmt.Errorf("delete policy %s: %w", id, err)
	}
	return nil
}
