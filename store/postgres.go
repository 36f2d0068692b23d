package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"maps"
	"net"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/latchkey-dev/latchkey"
)

var postgresEngine = engine{
	name:    "PostgreSQL",
	dialect: goose.DialectPostgres,
	// At READ COMMITTED, where changes run, each statement sees another moment.
	snapshot: sql.LevelRepeatableRead,
	clock:    `SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)`,
	types:    map[string]string{"TEXT": `TEXT COLLATE "C"`, "BLOB": "BYTEA"},
}

// DefaultConnections is how many connections to PostgreSQL there are at most
// where nobody says otherwise.
func DefaultConnections() int { return max(16, 4*runtime.NumCPU()) }

// statementWait is how long one statement of a change may run, whatever its
// caller allows.
const statementWait = time.Minute

// ParsePostgresURL reports what is wrong with the URL of a database. It repeats
// nothing of it, which may hold a password.
func ParsePostgresURL(text string) error {
	_, err := postgresConfig(text)
	return err
}

func postgresConfig(text string) (*pgx.ConnConfig, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, errors.New("the URL of the database is not postgres://USER:PASSWORD@HOST:PORT/NAME") // err would show it
	}
	cfg, err := pgx.ParseConfig(text)
	if err != nil {
		return nil, errors.New("the URL of the database has a part that PostgreSQL's clients do not know, or a file that it names cannot be read")
	}
	set := func(name, value string) {
		if _, chosen := cfg.RuntimeParams[name]; !chosen {
			cfg.RuntimeParams[name] = value
		}
	}
	set("application_name", "latchkey")
	set("lock_timeout", milliseconds(lockWait))
	set("idle_in_transaction_session_timeout", milliseconds(lockWait))
	// The changes of a customer stand in line by a row's lock: under a stricter
	// isolation those behind would fail instead of going on.
	cfg.RuntimeParams["default_transaction_isolation"] = "read committed"
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = lockWait
	}
	return cfg, nil
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

func openPostgres(cfg Config) (*DB, error) {
	conn, err := postgresConfig(cfg.URL)
	if err != nil {
		return nil, err
	}
	n := cfg.Connections
	if n <= 0 {
		n = DefaultConnections()
	}
	n = max(n, 2)
	pool := func(size int, params map[string]string) *sql.DB {
		c := conn.Copy()
		maps.Copy(c.RuntimeParams, params)
		db := stdlib.OpenDB(*c)
		db.SetMaxOpenConns(size)
		db.SetMaxIdleConns(size)
		db.SetConnMaxIdleTime(5 * time.Minute)
		db.SetConnMaxLifetime(time.Hour)
		return db
	}
	readOnly := map[string]string{"default_transaction_read_only": "on"}
	db := &DB{engine: postgresEngine, read: pool(n-n/2, readOnly)}
	if db.write = db.read; !cfg.ReadOnly {
		var bounded map[string]string
		if conn.RuntimeParams["statement_timeout"] == "" {
			bounded = map[string]string{"statement_timeout": milliseconds(statementWait)}
		}
		db.write = pool(n/2, bounded)
	}
	// An index over much takes its time, and so does who migrates first.
	db.engine.migrator = func() *sql.DB { return pool(2, map[string]string{"statement_timeout": "0"}) }
	db.engine.dial = func(ctx context.Context) (*pgx.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, lockWait)
		defer cancel()
		return pgx.ConnectConfig(ctx, conn.Copy())
	}
	return db, nil
}

// refinePostgres says what an error of PostgreSQL, or of the way there, means
// to the caller, nil for nothing.
func refinePostgres(err error) *latchkey.Error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.Code {
		case "53100": // disk_full
			return errStorageFull()
		case "25006": // read_only_sql_transaction: a standby
			return errStorageReadOnly()
		case "55P03", "40001", "40P01": // lock_not_available, serialization_failure, deadlock_detected
			return errStorageBusy()
		case "57014": // query_canceled
			return latchkey.Errorf(latchkey.Unavailable, "deadline_exceeded", "the request took too long")
		case "25P03", "25P04", "57P01", "57P02", "57P03", "57P04", "57P05": // it ended the session, stops, or starts
			return errStorageUnavailable()
		case "22021": // character_not_in_repertoire: U+0000, or bytes that are not UTF-8
			return latchkey.Errorf(latchkey.Invalid, "invalid_text", "a text in the request has a character that cannot be stored")
		case "58030": // io_error
			return latchkey.Errorf(latchkey.Unavailable, "storage_failed", "the change was not made: the database could not be written")
		}
		if class := e.Code[:min(2, len(e.Code))]; class == "08" || class == "53" { // connection, resources
			return errStorageUnavailable()
		}
		return nil
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return errStorageUnavailable()
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return errStorageUnavailable()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, driver.ErrBadConn) ||
		pgconn.SafeToRetry(err) || strings.Contains(err.Error(), "conn closed") { // the last has no type of its own
		return errStorageUnavailable()
	}
	return nil
}

func errStorageUnavailable() *latchkey.Error {
	return latchkey.Errorf(latchkey.Unavailable, "storage_unavailable", "the database cannot be reached; try again")
}

func uniquePostgres(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == "23505" // unique_violation
}

// unstorable reports whether PostgreSQL did not take a parameter for a text, so
// that no row can have it.
func unstorable(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == "22021"
}

// again reports whether a transaction failed for no other reason than another
// one beside it, so that it can be made once more.
func again(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == "40001" || e.Code == "40P01")
}
