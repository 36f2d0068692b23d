package store

import (
	"bytes"
	"context"
	"fmt"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/internal/vault"
)

var _ vault.Record = (*DB)(nil)
var _ vault.Tx = (*tx)(nil)

const secretColumns = `customer_id, kind, owner, name, box, created_at, ends_at`

func scanSealed(row scanner) (s vault.Sealed, err error) {
	err = row.Scan(&s.Customer, &s.Kind, &s.Owner, &s.Name, &s.Box, (*int64)(&s.CreatedAt), (*int64)(&s.EndsAt))
	return s, err
}

func readSecrets(ctx context.Context, q rows, customer, kind, owner string) ([]vault.Sealed, error) {
	found, err := q.QueryContext(ctx, `SELECT `+secretColumns+` FROM sealed_secrets
		WHERE customer_id = $1 AND kind = $2 AND owner = $3 ORDER BY name`, customer, kind, owner)
	list, err := collect(found, err, scanSealed)
	if err != nil {
		return nil, refine(fmt.Errorf("read secrets of %s: %w", customer, err))
	}
	return list, nil
}

// Secrets implements vault.Record.
func (db *DB) Secrets(ctx context.Context, customer, kind, owner string) ([]vault.Sealed, error) {
	return readSecrets(ctx, db.read, customer, kind, owner)
}

// Secrets implements vault.Tx.
func (t *tx) Secrets(ctx context.Context, kind, owner string) ([]vault.Sealed, error) {
	return readSecrets(ctx, t, t.chain, kind, owner)
}

// PutSecret implements vault.Tx.
func (t *tx) PutSecret(ctx context.Context, s vault.Sealed) error {
	key, err := vault.KeyOf(s.Box)
	if err != nil {
		return err
	}
	_, err = t.ExecContext(ctx, `INSERT INTO sealed_secrets (customer_id, kind, owner, name, key_id, box, created_at, ends_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (customer_id, kind, owner, name) DO UPDATE SET key_id = excluded.key_id, box = excluded.box, created_at = excluded.created_at, ends_at = excluded.ends_at`,
		t.chain, s.Kind, s.Owner, s.Name, string(key), s.Box, int64(s.CreatedAt), int64(s.EndsAt))
	if err != nil {
		return fmt.Errorf("write a secret of %s: %w", t.chain, err)
	}
	return nil
}

// DeleteSecret implements vault.Tx.
func (t *tx) DeleteSecret(ctx context.Context, kind, owner, name string) (bool, error) {
	res, err := t.ExecContext(ctx, `DELETE FROM sealed_secrets WHERE customer_id = $1 AND kind = $2 AND owner = $3 AND name = $4`, t.chain, kind, owner, name)
	if err != nil {
		return false, fmt.Errorf("delete a secret of %s: %w", t.chain, err)
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// DeleteSecrets implements vault.Tx.
func (t *tx) DeleteSecrets(ctx context.Context, kind, owner string) error {
	_, err := t.ExecContext(ctx, `DELETE FROM sealed_secrets WHERE customer_id = $1 AND kind = $2 AND owner = $3`, t.chain, kind, owner)
	if err != nil {
		return fmt.Errorf("delete secrets of %s: %w", t.chain, err)
	}
	return nil
}

// OpenVault holds the vault to the record: another one's keys are a Conflict, if
// only one secret could not be opened with those at hand. What was sealed under
// another key than the first is sealed anew, so that the others can go; it
// returns how many that were.
func (db *DB) OpenVault(ctx context.Context, v *vault.Vault, now latchkey.Instant) (resealed int, err error) {
	// The first server of a record leaves a mark; it is opened by those that come.
	mark := vault.Sealed{Label: vault.Label{Customer: audit.SystemChain, Kind: "vault", Name: "mark"}, CreatedAt: now, EndsAt: latchkey.Never}
	_, err = db.write.ExecContext(ctx, `INSERT INTO sealed_secrets (customer_id, kind, owner, name, key_id, box, created_at, ends_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT DO NOTHING`, mark.Customer, mark.Kind, mark.Owner, mark.Name, string(v.Sealing()), v.Seal(mark.Label, nil), int64(mark.CreatedAt), int64(mark.EndsAt))
	if err != nil {
		return 0, refine(fmt.Errorf("mark the record of secrets: %w", err))
	}
	found, err := db.write.QueryContext(ctx, `SELECT DISTINCT key_id FROM sealed_secrets`)
	keys, err := collect(found, err, scanText)
	if err != nil {
		return 0, refine(fmt.Errorf("read the keys of secrets: %w", err))
	}
	for _, key := range keys {
		if !v.Knows(vault.KeyID(key)) {
			return 0, latchkey.Errorf(latchkey.Conflict, "another_vault",
				"the record holds secrets that were sealed under the key %s, which this server does not have: give it the keys of the other servers, or those of before", key)
		}
	}
	for {
		n, err := db.reseal(ctx, v)
		if resealed += n; err != nil || n == 0 {
			return resealed, err
		}
	}
}

// ForgetSecrets deletes the secrets that the vault has no key for, and returns how
// many they were.
func (db *DB) ForgetSecrets(ctx context.Context, v *vault.Vault) (lost int64, err error) {
	found, err := db.write.QueryContext(ctx, `SELECT DISTINCT key_id FROM sealed_secrets`)
	keys, err := collect(found, err, scanText)
	if err != nil {
		return 0, refine(fmt.Errorf("read the keys of secrets: %w", err))
	}
	for _, key := range keys {
		if v.Knows(vault.KeyID(key)) {
			continue
		}
		res, err := db.write.ExecContext(ctx, `DELETE FROM sealed_secrets WHERE key_id = $1 AND customer_id <> $2`, key, audit.SystemChain)
		if err != nil {
			return lost, refine(fmt.Errorf("delete secrets that nothing opens: %w", err))
		}
		n, err := res.RowsAffected()
		if err != nil {
			return lost, refine(err)
		}
		lost += n
		if _, err := db.write.ExecContext(ctx, `DELETE FROM sealed_secrets WHERE key_id = $1`, key); err != nil { // the mark
			return lost, refine(fmt.Errorf("delete the mark of another vault: %w", err))
		}
	}
	return lost, nil
}

// reseal seals some secrets anew that are not under the first key, and returns
// how many it found.
func (db *DB) reseal(ctx context.Context, v *vault.Vault) (int, error) {
	found, err := db.write.QueryContext(ctx, `SELECT `+secretColumns+` FROM sealed_secrets WHERE key_id <> $1 LIMIT 256`, string(v.Sealing()))
	list, err := collect(found, err, scanSealed)
	if err != nil {
		return 0, refine(fmt.Errorf("read what is sealed under another key: %w", err))
	}
	for _, s := range list {
		plain, err := v.Open(s.Label, s.Box)
		if err != nil {
			return 0, fmt.Errorf("the %s secret %q of %s: %w", s.Kind, s.Name, s.Customer, err)
		}
		box := v.Seal(s.Label, plain)
		clear(plain)
		// Only over what was read: it may just have been replaced.
		_, err = db.write.ExecContext(ctx, `UPDATE sealed_secrets SET key_id = $5, box = $6
			WHERE customer_id = $1 AND kind = $2 AND owner = $3 AND name = $4 AND box = $7`,
			s.Customer, s.Kind, s.Owner, s.Name, string(v.Sealing()), box, bytes.Clone(s.Box))
		if err != nil {
			return 0, refine(fmt.Errorf("seal a secret anew: %w", err))
		}
	}
	return len(list), nil
}
