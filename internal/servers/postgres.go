package servers

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// PostgresServer is a PostgreSQL of its own, on a unix socket. Its databases sort
// texts as people do, so that whoever relies on the order of bytes must ask
// for it.
type PostgresServer struct {
	bin, dir string
	settings []string
	as       *syscall.Credential
	remove   string
	running  *process
	made     atomic.Int64
}

var shared = sync.OnceValues(func() (*PostgresServer, error) { return startPostgres(true) })

// Postgres returns the URL of an empty database, which is dropped when the test
// ends. All tests of a process share one server, which ends with it.
func Postgres(t testing.TB) string {
	t.Helper()
	return sharedPostgres(t).Database(t)
}

func sharedPostgres(t testing.TB) *PostgresServer {
	t.Helper()
	if postgresPrograms() == "" {
		Missing(t, "PostgreSQL")
	}
	s, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var prepared struct {
	once sync.Once
	err  error
}

// PreparedPostgres is Postgres with a copy of what prepare, called once a process,
// has put into a database: for tables that every test needs. It must not stay
// connected.
func PreparedPostgres(t testing.TB, prepare func(url string) error) string {
	t.Helper()
	s := sharedPostgres(t)
	const name = "prepared"
	prepared.once.Do(func() {
		if prepared.err = s.program("createdb", "-h", s.dir, "-U", "postgres", "-T", "template0", name); prepared.err == nil {
			prepared.err = prepare(s.url(name))
		}
	})
	if prepared.err != nil {
		t.Fatal(prepared.err)
	}
	return s.database(t, name)
}

// StartPostgres starts a server for the test alone, to be stopped and killed.
// settings are NAME=VALUE, beside those of all servers here.
func StartPostgres(t testing.TB, settings ...string) *PostgresServer {
	t.Helper()
	if postgresPrograms() == "" {
		Missing(t, "PostgreSQL")
	}
	s, err := startPostgres(false, settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.running.end(); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(s.dir); err != nil {
			t.Error(err)
		}
	})
	return s
}

// postgresPrograms is the directory of the newest version's programs, "" where
// there is none.
func postgresPrograms() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres") // the pattern is well-formed
	if len(found) == 0 {
		path, err := exec.LookPath("postgres")
		if err != nil {
			return ""
		}
		found = []string{path}
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	slices.SortFunc(found, func(a, b string) int { return version(b) - version(a) })
	return filepath.Dir(found[0])
}

func startPostgres(removed bool, settings ...string) (*PostgresServer, error) {
	s := &PostgresServer{bin: postgresPrograms(), settings: settings}
	var err error
	if s.as, err = account("postgres"); err != nil {
		return nil, err
	}
	in := onDisk
	if removed {
		in = inMemory()
		s.settings = append(s.settings, "max_wal_size=256MB")
	}
	if s.dir, err = directory(s.as, in); err != nil {
		return nil, err
	}
	if removed {
		s.remove = s.dir
	}
	err = s.program("initdb", "--pgdata="+s.data(), "--username=postgres", "--auth=trust", "--no-sync",
		"--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US")
	if err == nil {
		err = s.start()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	return s, nil
}

func (s *PostgresServer) data() string { return filepath.Join(s.dir, "data") }

func (s *PostgresServer) start() (err error) {
	log := filepath.Join(s.dir, "log")
	args := []string{filepath.Join(s.bin, "postgres"), "-D", s.data(), "-k", s.dir,
		"-c", "listen_addresses=", "-c", "max_connections=300", "-c", "fsync=off", "-c", "full_page_writes=off",
		"-c", "shared_buffers=32MB", "-c", "autovacuum=off"}
	for _, setting := range s.settings { // the last one of a name counts
		args = append(args, "-c", setting)
	}
	s.running, err = run(s.as, log, "INT", s.remove, args...)
	if err != nil {
		return err
	}
	err = await("PostgreSQL does not start", s.running.done, func() error { return s.program("pg_isready", "-q", "-h", s.dir, "-U", "postgres") })
	if err != nil {
		text, _ := os.ReadFile(log)
		return errors.Join(fmt.Errorf("%w\n%s", err, text), s.running.end())
	}
	return nil
}

func (s *PostgresServer) program(name string, args ...string) error {
	cmd := exec.Command(filepath.Join(s.bin, name), args...) //nolint:gosec // PostgreSQL's own programs
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// Database makes an empty database, dropped when the test ends, and returns its
// URL.
func (s *PostgresServer) Database(t testing.TB) string {
	t.Helper()
	return s.database(t, "template0")
}

func (s *PostgresServer) url(name string) string {
	return "postgres:///" + name + "?" + url.Values{"host": {s.dir}, "user": {"postgres"}}.Encode()
}

func (s *PostgresServer) database(t testing.TB, from string) string {
	t.Helper()
	name := fmt.Sprintf("test%d", s.made.Add(1))
	if err := s.program("createdb", "-h", s.dir, "-U", "postgres", "-T", from, name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.stopped() {
			return
		}
		if err := s.program("dropdb", "-h", s.dir, "-U", "postgres", "--force", "--if-exists", name); err != nil {
			t.Error(err)
		}
	})
	return s.url(name)
}

// Socket is the path of the server's socket.
func (s *PostgresServer) Socket() string { return filepath.Join(s.dir, ".s.PGSQL.5432") }

// Through is the URL of a database as it is reached through a proxy at an
// address, HOST:PORT.
func (s *PostgresServer) Through(t testing.TB, database, address string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	u.User, u.Host, u.RawQuery = url.User("postgres"), address, "sslmode=disable"
	return u.String()
}

func (s *PostgresServer) stopped() bool { return s.running.signal(0) != nil }

// SQL runs a statement in the database of that URL and returns what psql prints
// of its rows: columns with | between them.
func (s *PostgresServer) SQL(t testing.TB, database, statement string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	return psql(t, s, strings.TrimPrefix(u.Path, "/"), statement)
}

// SQL runs a statement in a database that [Postgres] has made.
func SQL(t testing.TB, database, statement string) string {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return s.SQL(t, database, statement)
}

func psql(t testing.TB, s *PostgresServer, name, statement string) string {
	t.Helper()
	args := []string{"-h", s.dir, "-U", "postgres", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", name, "-c", statement}
	cmd := exec.Command(filepath.Join(s.bin, "psql"), args...) //nolint:gosec // as above
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", statement, err, out)
	}
	return strings.TrimSpace(string(out))
}

// Copy puts a copy of one database in the place of another, as a restored backup
// is: databases are given by their URLs or names. Nobody may be connected to
// them.
func (s *PostgresServer) Copy(t testing.TB, from, to string) {
	t.Helper()
	name := func(database string) string {
		u, err := url.Parse(database)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimPrefix(u.Path, "/")
	}
	from, to = name(from), name(to)
	if err := s.program("dropdb", "-h", s.dir, "-U", "postgres", "--if-exists", to); err != nil {
		t.Fatal(err)
	}
	if err := s.program("createdb", "-h", s.dir, "-U", "postgres", "-T", from, to); err != nil {
		t.Fatal(err)
	}
}

// Stop ends the server at once, with all sessions, as an operator's restart
// does. Start brings it back.
func (s *PostgresServer) Stop(t testing.TB) {
	t.Helper()
	if err := s.running.end(); err != nil {
		t.Fatal(err)
	}
}

// Kill ends the server with no chance to put anything in order.
func (s *PostgresServer) Kill(t testing.TB) {
	t.Helper()
	sessions := childrenOf(s.running.pid) // which would answer for a moment yet
	err := errors.Join(s.running.signal(syscall.SIGKILL), s.running.end())
	for _, pid := range sessions {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have gone with the server
	}
	err = errors.Join(err, await("PostgreSQL's sessions do not end", nil, func() error {
		for _, pid := range sessions {
			if _, state := parentOf(pid); state != "" && state != "Z" {
				return fmt.Errorf("process %d is there", pid)
			}
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
}

// childrenOf are the processes that a process has started.
func childrenOf(pid int) (list []int) {
	found, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well-formed
	for _, path := range found {
		child, err := strconv.Atoi(filepath.Base(path))
		if err != nil {
			continue
		}
		if parent, _ := parentOf(child); parent == pid {
			list = append(list, child)
		}
	}
	return list
}

// parentOf tells a process's parent and state; "" where there is no such process.
func parentOf(pid int) (parent int, state string) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, ""
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // after the name, which may hold anything but this
	if fields := strings.Fields(rest); len(fields) > 1 {
		parent, _ = strconv.Atoi(fields[1])
		state = fields[0]
	}
	return parent, state
}

// Start starts a server that was stopped or killed.
func (s *PostgresServer) Start(t testing.TB) {
	t.Helper()
	// What was killed may leave processes that still hold its memory.
	if err := await("PostgreSQL does not start again", nil, s.start); err != nil {
		t.Fatal(err)
	}
}
