package store

import (
	"context"
	"fmt"

	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Load fills an empty table with every customer and key. A secret made under a
// pepper that is not among peppers, and scopes that no longer parse, stop it:
// a server that cannot tell who may do what does not start.
func (db *DB) Load(ctx context.Context, table authz.KeyTable, parser *scopes.Parser, peppers *authz.Peppers) error {
	if err := db.loadCustomers(ctx, table); err != nil {
		return refine(fmt.Errorf("load customers: %w", err))
	}
	found, err := db.read.QueryContext(ctx, `SELECT s.kid, s.key_id, s.mode, s.digest, s.pepper, s.ends_at,
		k.customer_id, k.scopes, k.expires_at, k.revoked_at, k.last_used_at
		FROM access_key_secrets s JOIN access_keys k ON k.id = s.key_id`)
	if err != nil {
		return refine(fmt.Errorf("load keys: %w", err))
	}
	defer found.Close()
	var customer, text string
	for found.Next() {
		var k authz.Key
		s, err := scanSecret(scanMore{found, []any{&customer, &text, (*int64)(&k.ExpiresAt), (*int64)(&k.RevokedAt), (*int64)(&k.LastUsedAt)}})
		if err != nil {
			return refine(fmt.Errorf("load keys: %w", err))
		}
		k.ID = s.Key
		ref, ok := peppers.Find(s.Pepper)
		if !ok {
			return authz.ErrPepperMissing(s.Pepper)
		}
		set, err := parser.Load(text)
		if err != nil {
			return fmt.Errorf("scopes of key %s: %w", k.ID, err)
		}
		table.AddSecret(s.Kid, authz.SecretState{
			Digest: s.Digest, Pepper: ref, Test: s.Mode == authz.Test, EndsAt: s.EndsAt,
			Key: authz.NewKeyState(&k, table.Customer(customer), set),
		})
	}
	if err := found.Err(); err != nil {
		return refine(fmt.Errorf("load keys: %w", err))
	}
	return nil
}

// scanMore scans further columns behind those that are asked for.
type scanMore struct {
	row  scanner
	more []any
}

func (s scanMore) Scan(dest ...any) error { return s.row.Scan(append(dest, s.more...)...) }

func (db *DB) loadCustomers(ctx context.Context, table authz.KeyTable) error {
	found, err := db.read.QueryContext(ctx, `SELECT `+customerColumns+` FROM customers WHERE id <> $1`, audit.SystemChain)
	list, err := collect(found, err, scanCustomer)
	if err != nil {
		return err
	}
	for _, record := range list {
		c := &authz.Customer{ID: record.ID}
		if record.Ended() {
			c.Delete()
		}
		table.AddCustomer(c)
	}
	return nil
}
