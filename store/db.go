package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
)

// DB is the database. Safe for concurrent use.
type DB struct {
	engine engine
	write  *sql.DB // for changes: what they wait for keeps nobody from reading
	read   *sql.DB
	mac    audit.MACKey
	lines  lines
	hints  hints
}

var _ authz.Record = (*DB)(nil)

// Config says which database to open, and how.
type Config struct {
	URL  string // PostgreSQL, as postgres://…; else
	Path string // the file of SQLite
	// MAC authenticates the heads of the audit chains.
	MAC audit.MACKey
	// Connections is how many are kept to PostgreSQL at most, half of them for
	// changes; 0 is DefaultConnections.
	Connections int
	// ReadOnly opens a database that is up to date to look at.
	ReadOnly bool
	// NoMigrate refuses a database whose tables are of an earlier release,
	// rather than to bring them up to date.
	NoMigrate bool
}

// Open opens the SQLite file at path, makes it where it is missing, and brings
// its tables up to date. mac authenticates the heads of the audit chains.
func Open(ctx context.Context, path string, mac audit.MACKey) (*DB, error) {
	return OpenConfig(ctx, Config{Path: path, MAC: mac})
}

// OpenReadOnly opens an existing, up-to-date file to look at, beside a running
// server too.
func OpenReadOnly(path string, mac audit.MACKey) (*DB, error) {
	return OpenConfig(context.Background(), Config{Path: path, MAC: mac, ReadOnly: true})
}

// OpenConfig opens a database of either engine. One that is new, or of an
// earlier release, is brought up to date unless the configuration forbids it;
// one of a later release is used as it is.
func OpenConfig(ctx context.Context, cfg Config) (*DB, error) {
	db, err := openEngine(cfg)
	if err != nil || cfg.ReadOnly {
		return db, err
	}
	if _, err := db.migrate(ctx, cfg.NoMigrate); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func openEngine(cfg Config) (db *DB, err error) {
	if cfg.URL != "" {
		db, err = openPostgres(cfg)
	} else {
		db, err = openSQLite(cfg)
	}
	if err != nil {
		return nil, err
	}
	db.mac = cfg.MAC
	return db, nil
}

// Close ends all connections. SQLite's last one folds the write-ahead log back.
func (db *DB) Close() error {
	if db.read == db.write {
		return db.read.Close()
	}
	return errors.Join(db.read.Close(), db.write.Close())
}

// Ping reports whether the database answers.
func (db *DB) Ping(ctx context.Context) error {
	var one int
	if err := db.read.QueryRowContext(ctx, `SELECT 1`).Scan(&one); err != nil {
		return refine(err)
	}
	return nil
}

// snapshot begins a transaction that only reads, and reads all as of one
// moment.
func (db *DB) snapshot(ctx context.Context) (*sql.Tx, error) {
	return db.read.BeginTx(ctx, &sql.TxOptions{Isolation: db.engine.snapshot, ReadOnly: true})
}

// refine turns an engine's error that means something to the caller into one
// that says it; SQL stays in the cause.
func refine(err error) error {
	if err == nil {
		return nil
	}
	if _, known := errors.AsType[*latchkey.Error](err); known {
		return err
	}
	if e := refineSQLite(err); e != nil {
		return e.Because(err)
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return latchkey.Errorf(latchkey.Unavailable, "deadline_exceeded", "the request took too long").Because(err)
	}
	if e := refinePostgres(err); e != nil {
		return e.Because(err)
	}
	return err
}

func errStorageBusy() *latchkey.Error {
	return latchkey.Errorf(latchkey.Unavailable, "storage_busy", "the database is busy; try again")
}

func errStorageFull() *latchkey.Error {
	return latchkey.Errorf(latchkey.Unavailable, "storage_full", "the change was not made: the disk of the database is full")
}

func errStorageReadOnly() *latchkey.Error {
	return latchkey.Errorf(latchkey.Unavailable, "storage_read_only", "the database cannot be opened for writing")
}

// unique reports whether err is a row that stood there already.
func unique(err error) bool { return uniqueSQLite(err) || uniquePostgres(err) }
