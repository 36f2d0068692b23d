package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// startTimeout and stopTimeout bound how long a server may take.
const (
	startTimeout = 30 * time.Second
	stopTimeout  = 20 * time.Second
)

// process is a server that was started here, with a data directory of its own.
type process struct {
	cmd     *exec.Cmd
	dir     string // its working directory; the data lies in dir/data
	url     string
	rootKey string
	log     *bytes.Buffer
	read    chan struct{} // closed when its output has ended
}

// startServer runs "latchkey serve" on ports that the kernel chooses, in a new
// temporary directory, and waits until it listens.
func startServer(ctx context.Context, bin string) (p *process, err error) {
	bin, err = filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	p = &process{log: &bytes.Buffer{}, read: make(chan struct{})}
	if p.dir, err = os.MkdirTemp("", "latchkey-demo-"); err != nil {
		return nil, err
	}
	p.cmd = exec.CommandContext(ctx, bin, "serve", "--listen", "127.0.0.1:0", "--private-listen", "127.0.0.1:0")
	p.cmd.Dir, p.cmd.Env, p.cmd.Stderr = p.dir, withoutSettings(os.Environ()), p.log
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = stopTimeout
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(p.dir))
	}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", bin, err), os.RemoveAll(p.dir))
	}
	address := make(chan string, 1)
	go p.follow(stdout, address)
	select {
	case addr := <-address:
		p.url = "http://" + addr
	case <-p.read:
		return nil, p.fail(errors.New("the server ended"))
	case <-time.After(startTimeout):
		return nil, p.fail(errors.New("the server does not listen"))
	}
	key, err := os.ReadFile(filepath.Join(p.dir, "data", "root.key"))
	if err != nil {
		return nil, p.fail(err)
	}
	p.rootKey = strings.TrimSpace(string(key))
	return p, nil
}

// follow reads the server's output to its end and tells the address once.
func (p *process) follow(stdout io.Reader, address chan<- string) {
	defer close(p.read)
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if _, addr, ok := strings.Cut(lines.Text(), " listens on "); ok {
			select {
			case address <- addr:
			default:
			}
		}
	}
}

// fail stops the server and tells what it logged, which is whole only then.
func (p *process) fail(err error) error {
	stopped := p.stop()
	if stopped != nil {
		return errors.Join(err, stopped) // it tells the log too
	}
	return fmt.Errorf("%w\n%s", err, p.log)
}

// stop ends the server by its own handle and removes its files.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	dead := time.AfterFunc(stopTimeout, func() { _ = p.cmd.Process.Kill() })
	defer dead.Stop()
	<-p.read
	err := p.cmd.Wait()
	if err != nil {
		err = fmt.Errorf("the server did not end well: %w\n%s", err, p.log)
	}
	return errors.Join(err, os.RemoveAll(p.dir))
}

// withoutSettings leaves out the caller's own LATCHKEY_ variables.
func withoutSettings(environ []string) (kept []string) {
	for _, e := range environ {
		if !strings.HasPrefix(e, "LATCHKEY_") {
			kept = append(kept, e)
		}
	}
	return kept
}
