package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
)

var _ access.ApprovalRecord = Access{}

// PersonByEmail implements access.ApprovalRecord.
func (a Access) PersonByEmail(ctx context.Context, customer, email string) (authz.Person, error) {
	if email == "" { // many have none
		return authz.Person{}, notFound("person_not_found", "person")
	}
	p, err := scanPerson(a.db.read.QueryRowContext(ctx, `SELECT `+personColumns+` FROM persons p WHERE p.customer_id = $1 AND p.email = $2`, customer, email))
	return one(p, err, "person_not_found", "person")
}

// PendingLike implements access.ApprovalRecord.
func (a Access) PendingLike(ctx context.Context, customer, key string) (access.Request, bool, error) {
	return readPendingLike(ctx, a.db.read, customer, key)
}

// Grant implements access.ApprovalRecord.
func (a Access) Grant(ctx context.Context, customer, id string) (authz.GrantRecord, error) {
	return a.db.Grant(ctx, customer, id)
}

// Grants implements access.ApprovalRecord.
func (a Access) Grants(ctx context.Context, q authz.GrantQuery) ([]authz.GrantRecord, error) {
	return a.db.Grants(ctx, q)
}

// Promised implements access.ApprovalRecord.
func (a Access) Promised(ctx context.Context, customer, key string) (request string, err error) {
	err = a.db.read.QueryRowContext(ctx, `SELECT request_id FROM approval_promises WHERE customer_id = $1 AND ask = $2`, customer, key).Scan(&request)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", refine(fmt.Errorf("read what an application of %s waits for: %w", customer, err))
	}
	return request, nil
}

// Promise implements access.ApprovalRecord.
func (a Access) Promise(ctx context.Context, customer, key, request string) error {
	_, err := a.write(ctx, `INSERT INTO approval_promises (customer_id, ask, request_id) VALUES ($1, $2, $3)
		ON CONFLICT (customer_id, ask) DO UPDATE SET request_id = excluded.request_id`, customer, key, request)
	return err
}

// Fulfil implements access.ApprovalRecord.
func (a Access) Fulfil(ctx context.Context, customer, key, request string) (bool, error) {
	n, err := a.write(ctx, `DELETE FROM approval_promises WHERE customer_id = $1 AND ask = $2 AND request_id = $3`, customer, key, request)
	return n > 0, err
}
