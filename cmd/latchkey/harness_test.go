package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/internal/servers"
)

// The test binary is latchkey itself when it is called by that name: scripts
// and crash tests run the whole program in processes of their own.
func TestMain(m *testing.M) {
	if os.Getenv("LATCHKEY_TEST_RUN") == "main" {
		main()
	}
	// Tests wait for processes more than they compute, one of them for a minute: two
	// more than usual run side by side, unless -parallel says otherwise.
	if err := flag.Set("test.parallel", strconv.Itoa(runtime.GOMAXPROCS(0)+2)); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){"latchkey": main})
}

// process is a running server.
type process struct {
	cmd    *exec.Cmd
	url    string
	out    *bytes.Buffer
	err    *bytes.Buffer
	exited chan error
}

// startServer runs "latchkey serve" on the data directory and waits until it is
// ready. change may alter the command before it starts.
func startServer(data string, env []string, args []string, change func(*exec.Cmd)) (*process, error) {
	api, err := servers.FreeAddress()
	if err != nil {
		return nil, err
	}
	return startServerAt(api, data, env, args, change)
}

// startServerAt is startServer on an address of the caller's.
func startServerAt(api, data string, env []string, args []string, change func(*exec.Cmd)) (*process, error) {
	p, err := startProcess(api, env, append([]string{"serve", "--data", data, "--listen", api, "--private-listen", ""}, args...), change)
	if err != nil {
		return nil, err
	}
	return p, p.waitReady()
}

// startProcess runs latchkey, which is to answer at the address; it may not yet.
func startProcess(api string, env []string, args []string, change func(*exec.Cmd)) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{url: "http://" + api, out: &bytes.Buffer{}, err: &bytes.Buffer{}, exited: make(chan error, 1)}
	p.cmd = exec.Command(exe, args...)
	p.cmd.Env = append(append(os.Environ(), "LATCHKEY_TEST_RUN=main"), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.err
	if change != nil {
		change(p.cmd)
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.exited <- p.cmd.Wait() }()
	return p, nil
}

func (p *process) waitReady() error {
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for {
		select {
		case err := <-p.exited:
			p.exited <- err
			return fmt.Errorf("the server ended: %w\n%s", err, p.err)
		case <-deadline.C:
			return fmt.Errorf("the server is not ready after 30 s\n%s", p.err)
		case <-retry.C:
			resp, err := http.Get(p.url + "/health/ready")
			if err != nil {
				continue
			}
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
	}
}

// end sends the signal and waits for the process.
func (p *process) end(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return err
	}
	err := <-p.exited
	p.exited <- err
	return err
}

// rootKey reads the key that a first start left.
func rootKey(data string) (string, error) {
	text, err := os.ReadFile(filepath.Join(data, "root.key"))
	return strings.TrimSpace(string(text)), err
}

// send makes one request in the customer default; a nil body sends none.
func (p *process) send(ctx context.Context, key, method, path string, body any, headers ...string) (status int, reply gjson.Result, err error) {
	return p.sendAs(ctx, key, "default", method, path, body, headers...)
}

func (p *process) sendAs(ctx context.Context, key, customer, method, path string, body any, headers ...string) (status int, reply gjson.Result, err error) {
	var payload io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, reply, err
		}
		payload = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.url+path, payload)
	if err != nil {
		return 0, reply, err
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	if customer != "" {
		req.Header.Set("X-Customer-ID", customer)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, reply, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, gjson.ParseBytes(text), err
}

// newKeyBody is the body that makes a plain key of that name.
func newKeyBody(name string) map[string]any {
	return map[string]any{
		"scopes":   map[string]any{"customer": map[string]any{"decision": true, "policies": []any{map[string]any{"f": "*", "p": 2}}}},
		"metadata": map[string]any{"username": "dale.cooper", "keyname": name},
	}
}
