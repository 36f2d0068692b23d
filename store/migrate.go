package store

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/latchkey-dev/latchkey"
)

//go:embed migrations/*.sql
var migrations embed.FS

// engine is what differs between SQLite and PostgreSQL, errors apart, which
// tell by themselves whose they are.
type engine struct {
	name     string
	dialect  goose.Dialect
	snapshot sql.IsolationLevel // at which a transaction sees one moment
	types    map[string]string  // a column's type in the migrations → in this engine
	migrator func() *sql.DB     // connections for migrations; nil for those of changes
	clock    string             // asks its own clock for microseconds; "" where it has none
	// dial makes a connection beside the pools, for hints; nil where there is one
	// process alone.
	dial func(context.Context) (*pgx.Conn, error)
}

// errBehind says that a database's tables are those of an earlier release.
func errBehind() error {
	return latchkey.Errorf(latchkey.Conflict, "database_behind", "the database is of an earlier release: run 'latchkey migrate' first")
}

// Version is how far a database's tables are: the number of the last migration.
// Known is that of the last one that this release has.
type Version struct{ Was, Is, Known int64 }

// Migrate brings the tables of a database up to date, making the file of SQLite
// where it is missing, and tells from where it went where.
func Migrate(ctx context.Context, cfg Config) (Version, error) {
	cfg.ReadOnly = false
	db, err := openEngine(cfg)
	if err != nil {
		return Version{}, err
	}
	v, err := db.migrate(ctx, false)
	return v, errors.Join(err, db.Close())
}

// migrate brings the tables up to date. Where several processes may do so,
// one does and the others wait for it. A database that is ahead has all that
// this release knows, since every migration works with the release before.
func (db *DB) migrate(ctx context.Context, refuse bool) (v Version, err error) {
	pool := db.write
	var options []goose.ProviderOption
	if db.engine.migrator != nil {
		pool = db.engine.migrator()
		defer pool.Close() // nothing is under way by then
		// Asked for once a second, for five minutes.
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
		if err != nil {
			return v, fmt.Errorf("migrate: %w", err)
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return v, err
	}
	provider, err := goose.NewProvider(db.engine.dialect, pool, inTypesOf(files, db.engine.types), append(options, goose.WithDisableGlobalRegistry(true))...)
	if err != nil {
		return v, fmt.Errorf("read the migrations: %w", err)
	}
	pending, err := provider.HasPending(ctx)
	if err == nil {
		v.Was, v.Known, err = provider.GetVersions(ctx)
	}
	if err != nil {
		return v, refine(fmt.Errorf("migrate: %w", err))
	}
	v.Is = v.Was
	switch {
	case !pending:
		return v, nil
	case refuse:
		return v, errBehind()
	}
	done, err := provider.Up(ctx)
	if err != nil {
		return v, refine(fmt.Errorf("migrate: %w", err))
	}
	if len(done) > 0 {
		v.Is = done[len(done)-1].Source.Version
	}
	return v, nil
}

// inTypesOf gives the files of migrations with the engine's names of types.
func inTypesOf(files fs.FS, types map[string]string) fs.FS {
	if len(types) == 0 {
		return files
	}
	return typedFiles{files, types}
}

type typedFiles struct {
	fs.FS
	types map[string]string
}

var capitals = regexp.MustCompile(`\b[A-Z]+\b`)

// Open implements fs.FS.
func (t typedFiles) Open(name string) (fs.File, error) {
	f, err := t.FS.Open(name)
	if err != nil || !strings.HasSuffix(name, ".sql") {
		return f, err
	}
	defer f.Close()
	text, err := fs.ReadFile(t.FS, name)
	if err != nil {
		return nil, err
	}
	text = capitals.ReplaceAllFunc(text, func(word []byte) []byte {
		if typ, ok := t.types[string(word)]; ok {
			return []byte(typ)
		}
		return word
	})
	info, err := f.Stat()
	return &typedFile{bytes.NewReader(text), info}, err
}

type typedFile struct {
	*bytes.Reader
	info fs.FileInfo
}

func (f *typedFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (*typedFile) Close() error                 { return nil }
