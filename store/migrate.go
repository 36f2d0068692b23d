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

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
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
}

// ErrBehind says that a database's tables are those of an earlier release.
var ErrBehind = errors.New("the database is of an earlier release: run 'latchkey migrate' first")

// migrate brings the tables up to date. Where several processes may do so,
// one does and the others wait for it. A database that is ahead has all that
// this release knows, since every migration works with the release before.
func (db *DB) migrate(ctx context.Context, refuse bool) error {
	pool := db.write
	var options []goose.ProviderOption
	if db.engine.migrator != nil {
		pool = db.engine.migrator()
		defer pool.Close() // nothing is under way by then
		// Asked for once a second, for five minutes.
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
		if err != nil {
			return fmt.Errorf("migrate: %w", err)
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(db.engine.dialect, pool, inTypesOf(files, db.engine.types), append(options, goose.WithDisableGlobalRegistry(true))...)
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	pending, err := provider.HasPending(ctx)
	if err != nil {
		return fmt.Errorf("migrate: %w", refine(err))
	}
	switch {
	case !pending:
		return nil
	case refuse:
		return ErrBehind
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", refine(err))
	}
	return nil
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
