package store

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/latchkey-dev/latchkey"
)

var sqliteEngine = engine{
	name:     "SQLite",
	dialect:  goose.DialectSQLite3,
	snapshot: sql.LevelDefault, // a reader sees the database as of its first statement
}

func openSQLite(cfg Config) (*DB, error) {
	if cfg.ReadOnly {
		pool, err := sql.Open("sqlite", sqliteDSN(cfg.Path, "mode=ro"))
		if err != nil {
			return nil, fmt.Errorf("open the database %s: %w", cfg.Path, err)
		}
		return &DB{engine: sqliteEngine, write: pool, read: pool}, nil
	}
	// SQLite would make it for everybody to read, and its log files like it.
	f, err := os.OpenFile(cfg.Path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	write, err := sql.Open("sqlite", sqliteDSN(cfg.Path, "_txlock=immediate"))
	if err != nil {
		return nil, fmt.Errorf("open the database %s: %w", cfg.Path, err)
	}
	write.SetMaxOpenConns(1) // SQLite has one writer
	read, err := sql.Open("sqlite", sqliteDSN(cfg.Path, "_txlock=deferred"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the database %s: %w", cfg.Path, err), write.Close())
	}
	read.SetMaxOpenConns(max(4, 2*runtime.NumCPU()))
	read.SetMaxIdleConns(max(4, 2*runtime.NumCPU()))
	return &DB{engine: sqliteEngine, write: write, read: read}, nil
}

func sqliteDSN(path, extra string) string {
	pragmas := "_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)" +
		"&_pragma=foreign_keys(ON)&_pragma=temp_store(MEMORY)&_pragma=cache_size(-8192)"
	if extra == "mode=ro" {
		pragmas = "_pragma=busy_timeout(5000)&_pragma=query_only(ON)&_pragma=temp_store(MEMORY)"
	}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + pragmas + "&" + extra
}

// refineSQLite says what an error of SQLite means to the caller, nil for
// nothing.
func refineSQLite(err error) *latchkey.Error {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return nil
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return errStorageFull()
	case sqlite3.SQLITE_IOERR:
		return latchkey.Errorf(latchkey.Unavailable, "storage_failed", "the change was not made: the database could not be written")
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
		return errStorageReadOnly()
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return errStorageBusy()
	}
	return nil
}

func uniqueSQLite(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && (e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY || e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE)
}
