package deploy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
)

// shim is the docker that setup.sh finds: it hands what it is asked to the
// stage.
const shim = `#!/bin/sh
printf '%s\n' "$@" | exec curl --silent --show-error --fail-with-body --max-time 300 --unix-socket "$ENGINE" --data-binary @- http://engine/
`

// stage runs the services of compose.yaml as programs of this machine, with the
// commands, settings, secrets and files that stand there. What is another is
// where they listen: on loopback, each at an address of its own.
type stage struct {
	t        *testing.T
	dir, url string // url is control-1's
	project  *types.Project
	files    *strings.Replacer // what stands in a secret or file → what it is here
	programs map[string]string

	address, private map[string]string
	socket           string

	mu    sync.Mutex
	asked []string
	runs  map[string]*running
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, project: readCompose(t), programs: map[string]string{}, address: map[string]string{}, private: map[string]string{}, runs: map[string]*running{}}
	for _, name := range []string{"curl", "nginx", "redis-server", "redis-cli"} {
		s.programs[name] = needs(t, name)
	}
	for _, name := range []string{"initdb", "postgres", "createdb"} {
		s.programs[name] = needsPostgres(t, name)
	}
	var err error
	if s.dir, err = os.MkdirTemp("/tmp", "latchkey-"); err != nil { // sockets have short names
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(s.dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.CopyFS(s.dir, os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(s.secrets()); err != nil { // a developer's own
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path("docker"), []byte(shim), 0o755); err != nil {
		t.Fatal(err)
	}
	for name := range s.project.Services {
		s.address[name], s.private[name] = freeAddress(t), freeAddress(t)
	}
	s.url, s.socket = "http://"+s.address["control-1"], s.path("sidecar.sock")
	s.files = strings.NewReplacer("@postgres:5432", "@"+s.address["postgres"], "@redis:6379", "@"+s.address["redis"], "app:8080", s.address["app"],
		"sidecar-2:5539", s.address["sidecar-2"], "http://control:5539", "http://"+s.balance("control-1", "control-2"), "/run/latchkey/sidecar.sock", s.socket,
		"/run/secrets/", s.path("native")+"/", "/secrets/database_url", s.path("native/database_url"), "/secrets", s.secrets(),
		"/etc/latchkey/", s.path("compose")+"/")
	engine, err := net.Listen("unix", s.path("engine"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(engine) }() // until it is closed
	t.Cleanup(func() { _ = server.Close() })
	return s
}

// needsPostgres finds a program of PostgreSQL, which Debian keeps off the path.
func needsPostgres(t *testing.T, name string) string {
	t.Helper()
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name); len(found) > 0 { // the pattern is well-formed
		return found[len(found)-1]
	}
	return needs(t, name)
}

func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

func (s *stage) secrets() string { return s.path("compose/secrets") }

func (s *stage) secret(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.secrets(), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// setup runs setup.sh.
func (s *stage) setup(t *testing.T) {
	t.Helper()
	cmd := exec.Command("sh", s.path("compose/setup.sh"))
	cmd.Env = append(os.Environ(), "PATH="+s.dir+":"+os.Getenv("PATH"), "ENGINE="+s.path("engine"), "LATCHKEY_URL="+s.url)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("setup.sh: %v\n%s", err, out)
	}
}

// balance is an address at which whichever of the services is there answers, as
// behind one name of several addresses.
func (s *stage) balance(names ...string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for next := 0; ; next++ {
			conn, err := ln.Accept()
			if err != nil {
				return // closed
			}
			go s.pass(conn, slices.Concat(names[next%len(names):], names[:next%len(names)]))
		}
	}()
	return ln.Addr().String()
}

func (s *stage) pass(conn net.Conn, to []string) {
	defer conn.Close()
	for _, name := range to {
		upstream, err := net.Dial("tcp", s.address[name])
		if err != nil {
			continue
		}
		defer upstream.Close()
		go func() {
			_, _ = io.Copy(upstream, conn) // either side may go away
			_ = upstream.Close()
		}()
		_, _ = io.Copy(conn, upstream)
		return
	}
}

// ServeHTTP does what docker is asked to.
func (s *stage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	args := strings.Fields(string(text))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, strings.Join(args, " "))
	out, err := s.do(args)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(out) // to a client that is there, or not
}

func (s *stage) do(args []string) ([]byte, error) {
	if len(args) < 4 || !slices.Equal(args[:3], []string{"compose", "--file", "../compose.yaml"}) {
		return nil, fmt.Errorf("asked for %q", args)
	}
	switch verb, args := args[3], args[4:]; verb {
	case "build":
		return nil, nil
	case "run":
		at := slices.Index(args, "init")
		if at < 0 {
			return nil, fmt.Errorf("run %q", args)
		}
		command := args[at+1:]
		if len(command) == 0 {
			command = s.project.Services["init"].Command
		}
		cmd, err := s.program("init", command)
		if err != nil {
			return nil, err
		}
		out, err := cmd.Output()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			err = fmt.Errorf("%q: %w: %s", command, err, exit.Stderr)
		}
		return out, err
	case "up":
		if !slices.Equal(args[:2], []string{"--detach", "--wait"}) {
			return nil, fmt.Errorf("up %q", args)
		}
		names := args[2:]
		if len(names) == 0 {
			names = []string{"postgres", "redis", "control-1", "control-2", "app", "sidecar-1", "sidecar-2", "front"}
		}
		for _, name := range names {
			if err := s.up(name); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil, nil
	default:
		return nil, fmt.Errorf("asked for %q", args)
	}
}

// handOut puts the secrets where the services here find them.
func (s *stage) handOut() error {
	if err := os.MkdirAll(s.path("native"), 0o700); err != nil {
		return err
	}
	for name := range s.project.Secrets {
		text, err := os.ReadFile(filepath.Join(s.secrets(), name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(s.path("native/"+name), []byte(s.files.Replace(string(text))), 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// program is a service of ours with a command.
func (s *stage) program(name string, command []string) (*exec.Cmd, error) {
	if err := s.handOut(); err != nil {
		return nil, err
	}
	cmd := exec.Command(latchkey)
	for _, arg := range command {
		cmd.Args = append(cmd.Args, s.files.Replace(strings.Replace(arg, "0.0.0.0:5539", s.address[name], 1)))
	}
	for _, setting := range os.Environ() {
		if !strings.HasPrefix(setting, "LATCHKEY_") {
			cmd.Env = append(cmd.Env, setting)
		}
	}
	cmd.Env = append(cmd.Env, "LATCHKEY_DATA="+s.path("data-"+name), "LATCHKEY_PRIVATE_LISTEN="+s.private[name])
	for key, value := range s.project.Services[name].Environment {
		cmd.Env = append(cmd.Env, key+"="+s.files.Replace(*value))
	}
	return cmd, nil
}

// up starts a service that does not run, and waits until it is healthy.
func (s *stage) up(name string) error {
	if s.runs[name] != nil {
		return nil
	}
	healthy := func() error {
		conn, err := net.Dial("tcp", s.address[name])
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	var cmd *exec.Cmd
	var err error
	switch name {
	case "postgres":
		cmd, err = s.postgres()
		healthy = s.createDatabase
	case "redis":
		cmd, err = s.redis()
		healthy = func() error { // as the health check of compose.yaml asks
			if got := s.call("", "ping"); got != "PONG" {
				return errors.New(got)
			}
			return nil
		}
	case "app", "front":
		cmd, err = s.nginx(name)
	default:
		cmd, err = s.program(name, s.project.Services[name].Command)
		healthy = func() error {
			out, err := exec.Command(latchkey, "healthcheck", "--url=http://"+s.private[name]+"/health/ready").CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			return err
		}
	}
	if err != nil {
		return err
	}
	r, err := start(s.t, cmd)
	if err != nil {
		return err
	}
	s.runs[name] = r
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for {
		if err = healthy(); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-r.exited:
			return fmt.Errorf("it has ended: %s", &r.out)
		case <-deadline:
			return err
		}
	}
}

// down stops a service, and start starts it again.
func (s *stage) down(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runs[name].stop()
	delete(s.runs, name)
}

func (s *stage) start(t *testing.T, name string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.up(name); err != nil {
		t.Fatal(err)
	}
}

// postgres makes a cluster as the image does. It refuses to run as root.
func (s *stage) postgres() (*exec.Cmd, error) {
	_, port, err := net.SplitHostPort(s.address["postgres"])
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/tmp", "latchkey-postgres-")
	if err != nil {
		return nil, err
	}
	s.t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			s.t.Error(err)
		}
	})
	password, err := os.ReadFile(filepath.Join(s.secrets(), "postgres_password"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "password"), password, 0o644) // in a directory for its owner alone
	}
	if err != nil {
		return nil, err
	}
	as := &syscall.SysProcAttr{}
	if os.Geteuid() == 0 {
		account, err := user.Lookup("postgres")
		if err != nil {
			return nil, err
		}
		uid, err1 := strconv.Atoi(account.Uid)
		gid, err2 := strconv.Atoi(account.Gid)
		if err := errors.Join(err1, err2, os.Chown(dir, uid, gid)); err != nil {
			return nil, err
		}
		as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	environment := s.project.Services["postgres"].Environment
	init := exec.Command(s.programs["initdb"], append(strings.Fields(*environment["POSTGRES_INITDB_ARGS"]), "--pgdata="+dir+"/data", "--no-sync",
		"--username="+*environment["POSTGRES_USER"], "--pwfile="+dir+"/password")...)
	init.Dir, init.SysProcAttr = dir, as
	if out, err := init.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	cmd := exec.Command(s.programs["postgres"], "-D", dir+"/data", "-k", dir, "-p", port, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "shared_buffers=32MB")
	cmd.Dir, cmd.SysProcAttr = dir, &syscall.SysProcAttr{Credential: as.Credential}
	return cmd, nil
}

func (s *stage) createDatabase() error {
	host, port, err := net.SplitHostPort(s.address["postgres"])
	if err != nil {
		return err
	}
	password, err := os.ReadFile(filepath.Join(s.secrets(), "postgres_password"))
	if err != nil {
		return err
	}
	environment := s.project.Services["postgres"].Environment
	cmd := exec.Command(s.programs["createdb"], "--host="+host, "--port="+port, "--username="+*environment["POSTGRES_USER"], *environment["POSTGRES_DB"])
	cmd.Env = append(os.Environ(), "PGPASSWORD="+string(password))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// config writes a file of ./compose as it is here.
func (s *stage) config(name string, replace ...string) (string, error) {
	text, err := os.ReadFile(s.path("compose/" + name))
	if err != nil {
		return "", err
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(string(text), replace[i]) {
			return "", fmt.Errorf("%s does not name %s", name, replace[i])
		}
	}
	path := s.path("native/" + name)
	return path, os.WriteFile(path, []byte(strings.NewReplacer(replace...).Replace(s.files.Replace(string(text)))), 0o600)
}

func (s *stage) redis() (*exec.Cmd, error) {
	host, port, err := net.SplitHostPort(s.address["redis"])
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.handOut(), os.MkdirAll(s.path("data-redis"), 0o700)); err != nil {
		return nil, err
	}
	config, err := s.config("redis.conf", "dir /data", "dir "+s.path("data-redis"), "bind * -::*", "bind "+host)
	return exec.Command(s.programs["redis-server"], config, "--port", port), err
}

// call says what the user of that URL is answered by Redis.
func (s *stage) call(url string, args ...string) string {
	_, port, _ := net.SplitHostPort(s.address["redis"])
	cmd := exec.Command(s.programs["redis-cli"], append([]string{"-p", port}, args...)...)
	if rest, ok := strings.CutPrefix(url, "redis://"); ok {
		user, rest, _ := strings.Cut(rest, ":")
		password, _, _ := strings.Cut(rest, "@")
		cmd.Args = append([]string{s.programs["redis-cli"], "-p", port, "--no-auth-warning", "--user", user, "--pass", password}, args...)
	}
	out, _ := cmd.CombinedOutput() // the answer tells
	return strings.TrimSpace(string(out))
}

func (s *stage) nginx(name string) (*exec.Cmd, error) {
	own := s.path("data-" + name)
	if err := errors.Join(s.handOut(), os.MkdirAll(own, 0o700)); err != nil {
		return nil, err
	}
	config, err := s.config(name+".conf", "listen 8080", "listen "+s.address[name], "127.0.0.1:8081", s.private[name],
		"/tmp/body", own+"/body", "/tmp/proxy", own+"/proxy", "/tmp/fastcgi", own+"/fastcgi", "/tmp/uwsgi", own+"/uwsgi", "/tmp/scgi", own+"/scgi", "/tmp/nginx.pid", own+"/nginx.pid")
	directives := "daemon off;"
	if os.Geteuid() == 0 {
		directives += " user root;"
	}
	return exec.Command(s.programs["nginx"], "-c", config, "-g", directives), err
}
