package servers

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// RedisServer is a Redis of the test's own, on a unix socket.
type RedisServer struct {
	dir, socket string
	args        []string
	running     *process
	// Port is that of 127.0.0.1 it listens on as well, 0 for none.
	Port int
	// TLSPort is the same for TLS.
	TLSPort int
}

// Redis starts a server, which ends with the test. args are settings as on the
// command line of redis-server ("--maxmemory", "10mb"); PORT, TLSPORT and
// ANYPORT among them stand for free ports.
func Redis(t testing.TB, args ...string) *RedisServer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		Missing(t, "redis-server")
	}
	dir, err := directory(nil, onDisk)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s := &RedisServer{dir: dir, socket: filepath.Join(dir, "redis.sock")}
	if len(args) > 0 && strings.HasSuffix(args[0], ".conf") {
		s.args = append(s.args, args[0])
		args = args[1:]
	}
	s.args = append(s.args, "--port", "0", "--unixsocket", s.socket, "--dir", dir, "--save", "", "--appendonly", "no")
	for _, arg := range args {
		switch arg {
		case "PORT":
			s.Port = freePort(t)
			arg = strconv.Itoa(s.Port)
		case "TLSPORT":
			s.TLSPort = freePort(t)
			arg = strconv.Itoa(s.TLSPort)
		case "ANYPORT":
			arg = strconv.Itoa(freePort(t))
		}
		s.args = append(s.args, arg)
	}
	s.Start(t)
	t.Cleanup(func() {
		_ = s.running.signal(syscall.SIGCONT) // one that is paused does not end
		if err := s.running.end(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// RedisCluster starts a Cluster of one server, on 127.0.0.1 at its Port.
func RedisCluster(t testing.TB) *RedisServer {
	t.Helper()
	s := Redis(t, "--port", "PORT", "--cluster-enabled", "yes", "--cluster-port", "ANYPORT")
	slots := []string{"CLUSTER", "ADDSLOTS"}
	for i := range 16384 {
		slots = append(slots, strconv.Itoa(i))
	}
	s.Do(t, slots...)
	err := await("the Cluster does not start", s.running.done, func() error {
		info, err := s.try("CLUSTER", "INFO")
		if err == nil && !strings.Contains(info, "cluster_state:ok") {
			err = errors.New(info)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// RedisSentinel starts a server with a Sentinel that knows it by the name, both
// on 127.0.0.1 at their Port. The Sentinel moves on to a replica once the server
// has been gone for half a second.
func RedisSentinel(t testing.TB, name string) (server, sentinel *RedisServer) {
	t.Helper()
	server = Redis(t, "--port", "PORT")
	dir, err := directory(nil, onDisk)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	config := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor %[1]s 127.0.0.1 %[2]d 1\nsentinel down-after-milliseconds %[1]s 500\nsentinel failover-timeout %[1]s 3000\n", name, server.Port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	sentinel = Redis(t, config, "--sentinel", "--port", "PORT", "--bind", "127.0.0.1")
	return server, sentinel
}

// freePort is one that nobody listens on.
func freePort(t testing.TB) int {
	t.Helper()
	at, err := FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return int(netip.MustParseAddrPort(at).Port())
}

// Start starts a server that was stopped or killed; it comes back empty unless
// its settings say otherwise.
func (s *RedisServer) Start(t testing.TB) {
	t.Helper()
	log := filepath.Join(s.dir, "log")
	var err error
	if s.running, err = run(nil, log, "TERM", "", append([]string{"redis-server"}, s.args...)...); err != nil {
		t.Fatal(err)
	}
	err = await("Redis does not start", s.running.done, func() error {
		_, err := s.try("PING")
		if err != nil && strings.HasPrefix(err.Error(), "NOAUTH") {
			return nil
		}
		return err
	})
	if err != nil {
		text, _ := os.ReadFile(log)
		t.Fatalf("%v\n%s", err, text)
	}
}

// URL is the server's address on its socket.
func (s *RedisServer) URL() string { return "unix://" + s.socket }

// UserURL is the same for a user.
func (s *RedisServer) UserURL(user, password string) string {
	return (&url.URL{Scheme: "unix", User: url.UserPassword(user, password), Path: s.socket}).String()
}

// Socket is the path of its socket.
func (s *RedisServer) Socket() string { return s.socket }

// Kill ends the server with no chance to put anything in order.
func (s *RedisServer) Kill(t testing.TB) {
	t.Helper()
	if err := errors.Join(s.running.signal(syscall.SIGKILL), s.running.end()); err != nil {
		t.Fatal(err)
	}
}

// Pause stops the server where it is: connections stay, and nobody answers.
func (s *RedisServer) Pause(t testing.TB) {
	t.Helper()
	if err := s.running.signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

// Resume lets a paused server go on.
func (s *RedisServer) Resume(t testing.TB) {
	t.Helper()
	if err := s.running.signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// Do runs a command and returns the answer: texts, one a line.
func (s *RedisServer) Do(t testing.TB, args ...string) string {
	t.Helper()
	answer, err := s.try(args...)
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	return answer
}

// Try is Do, with the error that the server answers.
func (s *RedisServer) Try(args ...string) (string, error) { return s.try(args...) }

// try speaks to the server by itself, so that what is tested and what tests it
// have no client in common.
func (s *RedisServer) try(args ...string) (string, error) {
	conn, err := net.DialTimeout("unix", s.socket, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer time.AfterFunc(patience, func() { _ = conn.Close() }).Stop()
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := conn.Write([]byte(b.String())); err != nil {
		return "", err
	}
	return readAnswer(bufio.NewReader(conn))
}

// readAnswer reads one answer of the Redis protocol.
func readAnswer(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", errors.New("an empty answer")
	}
	rest := line[1:]
	switch line[0] {
	case '-':
		return "", errors.New(rest)
	case '+', ':':
		return rest, nil
	}
	n, err := strconv.Atoi(rest)
	if err != nil {
		return "", fmt.Errorf("an answer of another shape: %q", line)
	}
	if n < 0 {
		return "", nil
	}
	if line[0] == '$' {
		text := make([]byte, n+2)
		for read := 0; read < len(text); {
			k, err := r.Read(text[read:])
			if err != nil {
				return "", err
			}
			read += k
		}
		return string(text[:n]), nil
	}
	var list []string
	for range n {
		one, err := readAnswer(r)
		if err != nil {
			return "", err
		}
		list = append(list, one)
	}
	return strings.Join(list, "\n"), nil
}
