package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/keyring"
	"github.com/latchkey-dev/latchkey/store"
)

// MigrateCmd brings the tables of a database up to date.
type MigrateCmd struct {
	Storage `embed:""`
}

// Run implements the command. Servers of the release before may go on beside
// it, on PostgreSQL.
func (cmd *MigrateCmd) Run(ctx context.Context, g *Globals, std streams) (err error) {
	database, err := cmd.database()
	if err != nil {
		return err
	}
	if cmd.Database == "" { // the file is a server's own
		unlock, err := cmd.lock()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unlock()) }()
	}
	v, err := store.Migrate(ctx, database)
	if err != nil {
		return err
	}
	if g.JSON {
		return json.NewEncoder(std.out).Encode(map[string]int64{"was": v.Was, "is": v.Is, "known": v.Known})
	}
	switch {
	case v.Is > v.Known:
		fmt.Fprintf(std.out, "the database is at version %d, of a later release; this one knows %d\n", v.Is, v.Known)
	case v.Is > v.Was:
		fmt.Fprintf(std.out, "the database went from version %d to %d\n", v.Was, v.Is)
	default:
		fmt.Fprintf(std.out, "the database is at version %d already\n", v.Is)
	}
	return nil
}

// StoreCmd looks after the database.
type StoreCmd struct {
	Copy     StoreCopyCmd     `cmd:"" help:"Copy the record of a data directory, whose server is down, to an empty PostgreSQL database; counted and verified, or not at all."`
	NewEpoch StoreNewEpochCmd `cmd:"" help:"Begin a new epoch, after a backup was put back and before a server starts on it."`
}

// StoreNewEpochCmd begins an epoch.
type StoreNewEpochCmd struct {
	Storage         `embed:""`
	KeyringReplaced bool   `help:"Take the present keyring for the record's, where the one before is lost. Audit heads that it signed verify no longer, and customers' secrets that it sealed are deleted: nothing opens them."`
	SecretsKeyFile  string `help:"With --keyring-replaced, the file of keys that servers have; what is sealed under them stays." type:"path" env:"LATCHKEY_SECRETS_KEY_FILE" placeholder:"FILE"`
}

// Run implements the command.
func (cmd *StoreNewEpochCmd) Run(ctx context.Context, g *Globals, std streams) (err error) {
	database, err := cmd.database()
	if err != nil {
		return err
	}
	if cmd.Database == "" {
		if _, err := os.Stat(cmd.sqlite()); err != nil {
			return usage("--data %s: there is no database: %w", cmd.Data, err)
		}
		unlock, err := cmd.lock()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unlock()) }()
	}
	keys, err := keyring.Load(cmd.keyring())
	if err != nil {
		return err
	}
	database.MAC = keys.AuditMAC
	db, err := store.OpenConfig(ctx, database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	epoch, err := db.NewEpoch(ctx, latchkey.InstantOf(newClock()()))
	var lost int64
	if err == nil && cmd.KeyringReplaced {
		lost, err = cmd.replaceKeyring(ctx, db)
	}
	if err != nil {
		return err
	}
	if g.JSON {
		return json.NewEncoder(std.out).Encode(map[string]int64{"epoch": epoch, "secrets_deleted": lost})
	}
	fmt.Fprintf(std.out, "the epoch is now %d\n", epoch)
	if lost > 0 {
		fmt.Fprintf(std.out, "%d secrets of customers could not be opened any more, and are deleted: webhooks need new ones, tasks theirs again\n", lost)
	}
	return nil
}

// replaceKeyring makes the present keyring the record's, and returns how many
// secrets of customers are lost by it.
func (cmd *StoreNewEpochCmd) replaceKeyring(ctx context.Context, db *store.DB) (lost int64, err error) {
	keys, err := keyring.LoadOrCreate(cmd.keyring()) // with the keys that an older one lacks
	if err != nil {
		return 0, err
	}
	vault, err := newVault(cmd.SecretsKeyFile, keys)
	if err != nil {
		return 0, err
	}
	if lost, err = db.ForgetSecrets(ctx, vault); err != nil {
		return 0, err
	}
	return lost, db.ReplaceKeyring(ctx, keys.Fingerprints())
}

// StoreCopyCmd copies a record.
type StoreCopyCmd struct {
	Data        string `help:"Data directory to copy from; it stays as it is." default:"data" type:"path" env:"LATCHKEY_DATA" placeholder:"DIR"`
	KeyringFile string `help:"The keyring, where it is not in the directory." type:"path" env:"LATCHKEY_KEYRING_FILE" placeholder:"FILE"`
	To          string `help:"PostgreSQL database to copy to, which must be empty." required:"" env:"LATCHKEY_DATABASE" placeholder:"URL"`
}

// Run implements the command.
func (cmd *StoreCopyCmd) Run(ctx context.Context, g *Globals, std streams) (err error) {
	from := Storage{Data: cmd.Data, KeyringFile: cmd.KeyringFile}
	if _, err := os.Stat(from.sqlite()); err != nil {
		return usage("--data %s: there is no database: %w", cmd.Data, err)
	}
	if err := store.ParsePostgresURL(cmd.To); err != nil {
		return usage("--to: %w", err)
	}
	unlock, err := from.lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	keys, err := keyring.Load(from.keyring())
	if err != nil {
		return err
	}
	done, err := store.Copy(ctx, store.Config{Path: from.sqlite(), MAC: keys.AuditMAC}, store.Config{URL: cmd.To, MAC: keys.AuditMAC}, keys.Fingerprints())
	if err != nil {
		return err
	}
	if g.JSON {
		return json.NewEncoder(std.out).Encode(done)
	}
	for _, t := range done.Rows {
		fmt.Fprintf(std.out, "%-20s %d\n", t.Table, t.Rows)
	}
	for _, r := range done.Chains {
		fmt.Fprintf(std.out, "%s: %d events, holds\n", r.Chain, r.Events)
	}
	fmt.Fprintf(std.out, "copied; start servers with --database and --keyring-file %s\n", from.keyring())
	return nil
}
