package store

import (
	"context"
	"database/sql"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Load fills an empty table with every customer and key, and the snapshots of
// the customers with their sets. A secret that is good at now and was made under
// a pepper that is not among peppers, and scopes that no longer parse, stop it:
// a server that cannot tell who may do what does not start. A secret that is good
// for nothing any more is unknown without its pepper.
func (db *DB) Load(ctx context.Context, table authz.KeyTable, parser *scopes.Parser, peppers *authz.Peppers, now latchkey.Instant) error {
	if err := db.loadCustomers(ctx, table); err != nil {
		return refine(fmt.Errorf("load customers: %w", err))
	}
	// Scans in the order of the rows, side by side, and not a join: a million
	// look-ups of keys by id cost more than all the rest.
	var secrets [][]authz.KeySecret
	scans, ctx := errgroup.WithContext(ctx)
	scans.Go(func() error { return db.loadKeys(ctx, table, parser) })
	scans.Go(func() (err error) {
		secrets, err = db.readSecrets(ctx)
		return err
	})
	scans.Go(func() error { return db.loadSets(ctx, table) })
	if err := scans.Wait(); err != nil {
		return refine(fmt.Errorf("load keys and sets: %w", err))
	}
	for _, chunk := range secrets {
		for i := range chunk {
			s := &chunk[i]
			ref, ok := peppers.Find(s.Pepper)
			key := table.Key(s.Key)
			if key == nil && ok { // made since the keys were read: whoever follows the changes will find it
				continue
			}
			if !ok {
				if key != nil && (key.Status(now) != authz.Active || now >= s.EndsAt) {
					continue
				}
				return authz.ErrPepperMissing(s.Pepper)
			}
			table.AddSecret(s.Kid, authz.SecretState{Digest: s.Digest, Pepper: ref, Test: s.Mode == authz.Test, EndsAt: s.EndsAt, Key: key})
		}
	}
	return nil
}

// readSecrets reads all of them, in chunks, which need no copying to grow.
func (db *DB) readSecrets(ctx context.Context) (chunks [][]authz.KeySecret, err error) {
	const chunk = 4096
	found, err := db.read.QueryContext(ctx, `SELECT kid, key_id, mode, digest, pepper, ends_at FROM access_key_secrets`)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	var last []authz.KeySecret
	for found.Next() {
		s, err := scanSecret(found)
		if err != nil {
			return nil, err
		}
		if last = append(last, s); len(last) == chunk {
			chunks, last = append(chunks, last), make([]authz.KeySecret, 0, chunk)
		}
	}
	return append(chunks, last), found.Err()
}

func (db *DB) loadKeys(ctx context.Context, table authz.KeyTable, parser *scopes.Parser) error {
	found, err := db.read.QueryContext(ctx, `SELECT id, customer_id, scopes, expires_at, revoked_at, last_used_at FROM access_keys`)
	if err != nil {
		return err
	}
	defer found.Close()
	var states authz.KeyStates
	for found.Next() {
		var k authz.Key
		var id, customer, text sql.RawBytes
		if err := found.Scan(&id, &customer, &text, (*int64)(&k.ExpiresAt), (*int64)(&k.RevokedAt), (*int64)(&k.LastUsedAt)); err != nil {
			return err
		}
		var ok bool
		if k.ID, ok = authz.ParseKeyID(string(id)); !ok {
			return fmt.Errorf("a stored key has the malformed id %q", id)
		}
		of := table.Customer(string(customer))
		if of == nil { // made since the customers were read
			continue
		}
		set, err := parser.Load(string(text))
		if err != nil {
			return fmt.Errorf("scopes of key %s: %w", k.ID, err)
		}
		table.AddKey(states.New(&k, of, set))
	}
	return found.Err()
}

func (db *DB) loadCustomers(ctx context.Context, table authz.KeyTable) error {
	type row struct {
		id        string
		deletedAt latchkey.Instant
		seq       int64
	}
	found, err := db.read.QueryContext(ctx, `SELECT id, deleted_at, policies_seq FROM customers WHERE id <> $1`, audit.SystemChain)
	list, err := collect(found, err, func(s scanner) (r row, err error) {
		err = s.Scan(&r.id, (*int64)(&r.deletedAt), &r.seq)
		return r, err
	})
	if err != nil {
		return err
	}
	for _, r := range list {
		c := &authz.Customer{ID: r.id}
		if r.deletedAt != latchkey.Never {
			c.Delete()
		}
		// A bundle of before the restart is one of now, even where nothing is left.
		err := c.Policies.Update(func(s *policies.Snapshot) (*policies.Snapshot, error) {
			return s.Edit(r.seq, 0, func(*policies.Draft) {}), nil
		})
		if err != nil {
			return err
		}
		table.AddCustomer(c)
	}
	return nil
}
