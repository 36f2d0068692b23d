package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"runtime"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
)

//go:embed migrations/*.sql
var migrations embed.FS

// DB is the database. Safe for concurrent use.
type DB struct {
	write *sql.DB // one connection: SQLite has one writer
	read  *sql.DB
	mac   audit.MACKey
}

var _ authz.Record = (*DB)(nil)

// Open opens the SQLite file at path, makes it where it is missing, and brings
// its tables up to date. mac authenticates the heads of the audit chains.
func Open(ctx context.Context, path string, mac audit.MACKey) (*DB, error) {
	// SQLite would make it for everybody to read, and its log files like it.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	db, err := open(path, mac)
	if err != nil {
		return nil, err
	}
	if err := db.migrate(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open the database %s: %w", path, err), db.Close())
	}
	return db, nil
}

// OpenReadOnly opens an existing, up-to-date file to look at, beside a running
// server too.
func OpenReadOnly(path string, mac audit.MACKey) (*DB, error) {
	pool, err := sql.Open("sqlite", dsn(path, "mode=ro"))
	if err != nil {
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	return &DB{write: pool, read: pool, mac: mac}, nil
}

func open(path string, mac audit.MACKey) (*DB, error) {
	write, err := sql.Open("sqlite", dsn(path, "_txlock=immediate"))
	if err != nil {
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	write.SetMaxOpenConns(1)
	read, err := sql.Open("sqlite", dsn(path, "_txlock=deferred"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the database %s: %w", path, err), write.Close())
	}
	read.SetMaxOpenConns(max(4, 2*runtime.NumCPU()))
	read.SetMaxIdleConns(max(4, 2*runtime.NumCPU()))
	return &DB{write: write, read: read, mac: mac}, nil
}

func dsn(path, extra string) string {
	pragmas := "_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)" +
		"&_pragma=foreign_keys(ON)&_pragma=temp_store(MEMORY)&_pragma=cache_size(-8192)"
	if extra == "mode=ro" {
		pragmas = "_pragma=busy_timeout(5000)&_pragma=query_only(ON)&_pragma=temp_store(MEMORY)"
	}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + pragmas + "&" + extra
}

func (db *DB) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db.write, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", refine(err))
	}
	return nil
}

// Close ends all connections. The last one folds the write-ahead log back.
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

// lockWait is how long a change waits for its turn to write.
const lockWait = 5 * time.Second

// refine turns an engine's error that means something to the caller into one
// that says it; SQL stays in the cause.
func refine(err error) error {
	var known *latchkey.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	var e *sqlite.Error
	if errors.As(err, &e) {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_FULL:
			return latchkey.Errorf(latchkey.Unavailable, "storage_full", "the change was not made: the disk of the database is full").Because(err)
		case sqlite3.SQLITE_IOERR:
			return latchkey.Errorf(latchkey.Unavailable, "storage_failed", "the change was not made: the database could not be written").Because(err)
		case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
			return latchkey.Errorf(latchkey.Unavailable, "storage_read_only", "the database cannot be opened for writing").Because(err)
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
			return latchkey.Errorf(latchkey.Unavailable, "storage_busy", "the database is busy; try again").Because(err)
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return latchkey.Errorf(latchkey.Unavailable, "deadline_exceeded", "the request took too long").Because(err)
	}
	return err
}

// unique reports whether err is a row that stood there already.
func unique(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY || e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE)
}
