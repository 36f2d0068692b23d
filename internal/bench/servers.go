package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// The servers share one core and the client has the other.
const (
	serverCore = "0"
	clientCore = "1"
)

// pinned runs a program on one core.
func pinned(core string, argv ...string) []string {
	return append([]string{"taskset", "-c", core}, argv...)
}

// process is a server under measurement, pinned to its core.
type process struct {
	name    string
	url     string // of the question
	cmd     *exec.Cmd
	ended   chan error
	output  bytes.Buffer
	started time.Time
	ready   time.Duration // from exec to readiness
}

// start runs argv on the servers' core with one Go processor and waits until
// readyURL answers 200.
func start(ctx context.Context, name, url, readyURL string, env []string, argv ...string) (*process, error) {
	return launch(ctx, name, url, readyURL, append(env, "GOMAXPROCS=1"), pinned(serverCore, argv...)...)
}

// launch is start without the confinement.
func launch(ctx context.Context, name, url, readyURL string, env []string, argv ...string) (*process, error) {
	p := &process{name: name, url: url, ended: make(chan error, 1)}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.started = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		if status(ctx, readyURL) == http.StatusOK {
			p.ready = time.Since(p.started)
			return p, nil
		}
		select {
		case err := <-p.ended:
			return nil, fmt.Errorf("%s ended before it was ready: %w\n%s", name, err, p.output.Bytes())
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%s did not get ready", name), p.stop())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// at is the same process asked at another path.
func (p *process) at(name, path string) *process {
	return &process{name: name, url: p.url + path, cmd: p.cmd}
}

func status(ctx context.Context, url string) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// stop ends the process in order, and by force where it does not.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		return nil
	case <-time.After(10 * time.Second):
		return errors.Join(p.cmd.Process.Kill(), <-p.ended)
	}
}

// freeAddress is a loopback address that nobody listened on a moment ago.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

// startConstant runs this program as the constant server.
func startConstant(ctx context.Context, dir string, body []byte) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "constant.json")
	if err := os.WriteFile(file, body, 0o600); err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	base := "http://" + address
	return start(ctx, "constant", base+"/decision", base+"/health/ready", nil, self, constantCommand, address, file)
}

// pdp is a running latchkey with its operator's key.
type pdp struct {
	*process
	base    string
	private string
	root    string
}

// starter is start or launch.
type starter func(ctx context.Context, name, url, readyURL string, env []string, argv ...string) (*process, error)

// startLatchkey runs the server as built on a data directory, with the root key.
func startLatchkey(ctx context.Context, s settings, by starter, name, data, root string, more ...string) (*pdp, error) {
	binary, err := filepath.Abs(s.binary)
	if err != nil {
		return nil, err
	}
	address, err1 := freeAddress()
	private, err2 := freeAddress()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	base := "http://" + address
	argv := []string{binary, "serve", "--data", data, "--listen", address, "--private-listen", private, "--log-level", "warn"}
	argv = append(argv, more...)
	if s.pprof != "" {
		argv = append(argv, "--pprof")
	}
	p, err := by(ctx, name, base+"/decision", base+"/health/ready", []string{"LATCHKEY_ROOT_KEY=" + root}, argv...)
	if err != nil {
		return nil, err
	}
	return &pdp{process: p, base: base, private: "http://" + private, root: root}, nil
}

// post is send with that method.
func post(ctx context.Context, url, key, customer, body string) ([]byte, error) {
	return send(ctx, http.MethodPost, url, key, customer, body)
}

// send sends a JSON body and returns the reply's.
func send(ctx context.Context, method, url, key, customer, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader([]byte(body)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+key)
	if customer != "" {
		req.Header.Set("X-Customer-ID", customer)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		return nil, fmt.Errorf("%s answered %d: %s", url, resp.StatusCode, text)
	}
	return text, nil
}
