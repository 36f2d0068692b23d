package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/latchkey-dev/latchkey"
)

// Establish makes the record's installation at its first start: the epoch
// begins now. fingerprints, where given, are those of the keys that all servers
// of the record must share, by name. A key that the record does not know yet is
// added to those it knows; another one under a known name is a Conflict.
func (db *DB) Establish(ctx context.Context, now latchkey.Instant, fingerprints map[string]string) error {
	return db.install(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO installation (slot, epoch, keyring) VALUES ('current', $1, '') ON CONFLICT DO NOTHING`, int64(now))
		if err != nil || len(fingerprints) == 0 {
			return err
		}
		var text string
		// Nothing is changed by it, but who comes at the same time waits.
		if err := tx.QueryRowContext(ctx, `UPDATE installation SET slot = slot WHERE slot = 'current' RETURNING keyring`).Scan(&text); err != nil {
			return err
		}
		known := parseFingerprints(text)
		for name, print := range fingerprints {
			if was, ok := known[name]; ok && was != print {
				return latchkey.Errorf(latchkey.Conflict, "another_keyring",
					"the record belongs to another keyring: its key %q is not the one that other servers of this database use; give them all the same --keyring-file", name)
			}
		}
		maps.Copy(known, fingerprints)
		_, err = tx.ExecContext(ctx, `UPDATE installation SET keyring = $1 WHERE slot = 'current'`, formatFingerprints(known))
		return err
	})
}

// ReplaceKeyring makes the given keys those of the record, whatever they were.
func (db *DB) ReplaceKeyring(ctx context.Context, fingerprints map[string]string) error {
	return db.install(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE installation SET keyring = $1 WHERE slot = 'current'`, formatFingerprints(fingerprints))
		return err
	})
}

// Epoch returns the record's epoch, 0 before it was established. It changes
// when a backup is put back.
func (db *DB) Epoch(ctx context.Context) (epoch int64, err error) {
	err = db.read.QueryRowContext(ctx, `SELECT epoch FROM installation WHERE slot = 'current'`).Scan(&epoch)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, refine(fmt.Errorf("read the epoch: %w", err))
	}
	return epoch, nil
}

// NewEpoch begins an epoch, after every one that the record has had, and
// returns it.
func (db *DB) NewEpoch(ctx context.Context, now latchkey.Instant) (epoch int64, err error) {
	err = db.install(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `INSERT INTO installation (slot, epoch, keyring) VALUES ('current', $1, '')
			ON CONFLICT (slot) DO UPDATE SET epoch = CASE WHEN installation.epoch < $1 THEN $1 ELSE installation.epoch + 1 END
			RETURNING epoch`, int64(now)).Scan(&epoch)
	})
	return epoch, err
}

func (db *DB) install(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return refine(fmt.Errorf("begin to change the installation: %w", err))
	}
	defer tx.Rollback() //nolint:errcheck // nothing to do after a commit
	if err := do(tx); err != nil {
		return refine(fmt.Errorf("change the installation: %w", err))
	}
	return refine(tx.Commit())
}

// The fingerprints are kept as name=print, in the order of names, with spaces
// between them.
func formatFingerprints(prints map[string]string) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(prints)) {
		list = append(list, name+"="+prints[name])
	}
	return strings.Join(list, " ")
}

func parseFingerprints(text string) map[string]string {
	prints := map[string]string{}
	for _, pair := range strings.Fields(text) {
		if name, print, ok := strings.Cut(pair, "="); ok {
			prints[name] = print
		}
	}
	return prints
}
