package servers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long a server may take to start or to stop.
const patience = time.Minute

// Missing skips the test because a server is not installed, where that may be:
// on a machine that says CI or LATCHKEY_REQUIRE_SERVERS it fails.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" || os.Getenv("LATCHKEY_REQUIRE_SERVERS") != "" {
		t.Fatalf("%s is not installed", what)
	}
	t.Skipf("%s is not installed", what)
}

// process is one run of a server, under a shell that ends it once our end of
// a pipe is closed: by end, or by the kernel when this process is gone.
type process struct {
	shell *exec.Cmd
	pipe  io.WriteCloser
	pid   int // the server's own
	done  chan struct{}
}

// keeper runs the server given by its arguments, tells its id, ends it at the end
// of its own input, and ends with it.
const keeper = `exec 3>&1 4<&0 >"$LOG" 2>&1
"$@" </dev/null 3>&- 4<&- & pid=$!
echo $pid >&3; exec 3>&-
(cat <&4 >/dev/null; kill -"$END" $pid; kill -CONT $pid) & watcher=$!
wait $pid; kill $watcher
[ -z "$REMOVE" ] || rm -rf "$REMOVE"`

// run starts a server that ends by the signal. With remove, what it worked on
// goes with it.
func run(as *syscall.Credential, log, end, remove string, args ...string) (*process, error) {
	p := &process{done: make(chan struct{})}
	p.shell = exec.Command("/bin/sh", append([]string{"-c", keeper, "keeper"}, args...)...) //nolint:gosec // the arguments are a test's own
	p.shell.Dir = filepath.Dir(log)
	p.shell.Env = append(os.Environ(), "LOG="+log, "END="+end, "REMOVE="+remove)
	p.shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: as} // a ^C is for the test, whose end it sees
	var err error
	if p.pipe, err = p.shell.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.shell.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.shell.Start(); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(out)
	if err == nil {
		p.pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	go func() {
		_ = p.shell.Wait() // what matters is that it has ended
		close(p.done)
	}()
	if err != nil {
		return nil, errors.Join(err, p.end())
	}
	return p, nil
}

// signal sends one to the server itself.
func (p *process) signal(sig syscall.Signal) error { return syscall.Kill(p.pid, sig) }

// end stops the server and waits for it.
func (p *process) end() error {
	_ = p.pipe.Close()
	select {
	case <-p.done:
		return nil
	case <-time.NewTimer(patience).C:
		return fmt.Errorf("the server %d does not end", p.pid)
	}
}

// await asks until there is no error, or the one that is asked is gone.
func await(what string, gone <-chan struct{}, ask func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-gone:
			return fmt.Errorf("%s: it has ended: %w", what, err)
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, err)
		case <-again.C:
		}
	}
}

// account is whom a server that refuses to run as root runs as; nil for whom
// this process runs as.
func account(name string) (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// directory makes one for the account, with a short name: it will hold sockets.
func directory(as *syscall.Credential, in string) (string, error) {
	dir, err := os.MkdirTemp(in, "lk-")
	if err == nil && as != nil {
		err = os.Chown(dir, int(as.Uid), int(as.Gid))
	}
	return dir, err
}

const onDisk = "/tmp"

// inMemory is where files cost little, if there is room for them: making and
// removing the hundreds of files of a database takes far longer on a disk than
// all that a test does with it.
func inMemory() string {
	const memory, room = "/dev/shm", 2 << 30
	var fs syscall.Statfs_t
	if err := syscall.Statfs(memory, &fs); err != nil || fs.Bavail*uint64(fs.Bsize) < room {
		return onDisk
	}
	return memory
}
