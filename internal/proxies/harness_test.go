package proxies

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/servers"
)

const integrations = "../../docs/integrations"

// binary is the program, built once for the tests of this package.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "latchkey-proxies-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "latchkey")
		build := exec.Command("go", "build", "-o", binary, "../../cmd/latchkey")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			panic(err)
		}
		return m.Run()
	}())
}

// config reads a file of docs/integrations and puts a test's addresses and key
// in the place of those that it names.
func config(t testing.TB, name string, replace ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(integrations, name))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(string(text), replace[i]) {
			t.Errorf("%s does not name %s", name, replace[i])
		}
	}
	return strings.NewReplacer(replace...).Replace(string(text))
}

func write(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// freeAddress is one that nobody listens on.
func freeAddress(t testing.TB) string {
	t.Helper()
	at, err := servers.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// run starts a program that serves on address, waits until it does, and ends
// it with the test.
func run(t testing.TB, address string, cmd *exec.Cmd) *servers.Output {
	t.Helper()
	out := &servers.Output{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
		select {
		case <-exited:
		case <-time.After(time.Minute):
			_ = cmd.Process.Kill()
			<-exited
			t.Errorf("%s did not end by itself\n%s", cmd.Path, out)
		}
		if t.Failed() && os.Getenv("PROXIES_LOG") != "" {
			t.Logf("%s:\n%s", cmd.Path, out)
		}
	})
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for {
		select {
		case err := <-exited:
			exited <- err
			t.Fatalf("%s ended: %v\n%s", cmd.Path, err, out)
		case <-deadline.C:
			t.Fatalf("%s does not listen on %s\n%s", cmd.Path, address, out)
		case <-retry.C:
			network := "tcp"
			if strings.HasPrefix(address, "/") {
				network = "unix"
			}
			if conn, err := net.Dial(network, address); err == nil {
				conn.Close()
				return out
			}
		}
	}
}

// arrived is one request as it reached the upstream.
type arrived struct {
	method, uri, host, body string
	header                  http.Header
}

// upstream is the application behind the proxies.
type upstream struct {
	address string

	mu   sync.Mutex
	list []arrived
}

func startUpstream(t testing.TB) *upstream {
	u := &upstream{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		u.mu.Lock()
		u.list = append(u.list, arrived{r.Method, r.RequestURI, r.Host, string(body), r.Header.Clone()})
		u.mu.Unlock()
		w.Header().Set("X-Upstream", "reached")
		fmt.Fprint(w, "upstream")
	}))
	t.Cleanup(srv.Close)
	u.address = srv.Listener.Addr().String()
	return u
}

// take returns what arrived since it was last called.
func (u *upstream) take() []arrived {
	u.mu.Lock()
	defer u.mu.Unlock()
	list := u.list
	u.list = nil
	return list
}

// pdp is a running latchkey with a proxy's key and a client's.
type pdp struct {
	testing.TB
	address, grpc, socket string
	root                  string
	caller                string
	client, expired       accessKey
	foreign               accessKey
	out                   *servers.Output
}

type accessKey struct{ id, secret string }

// clientScopes permit reading every order, changing and approving the seventh,
// and everything public among the files.
const clientScopes = `{"order":[{"f":"*","p":2},{"f":"7","p":4,"a":["approve"]}],"file":[{"f":"/public/*","p":14}]}`

func startLatchkey(t testing.TB, args ...string) *pdp {
	t.Helper()
	dir := t.TempDir()
	socketDir, err := os.MkdirTemp("", "lk") // short: sockets' names have 108 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(socketDir) })
	p := &pdp{TB: t, address: freeAddress(t), grpc: freeAddress(t), socket: filepath.Join(socketDir, "s")}
	cmd := exec.Command(binary, append([]string{"serve", "--data", filepath.Join(dir, "data"), "--listen", p.address, "--private-listen", "",
		"--forward-routes", filepath.Join(integrations, "routes.yaml"), "--forward-socket", p.socket + "=default", "--ext-authz-listen", p.grpc}, args...)...)
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "LATCHKEY_") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	p.out = run(t, p.address, cmd)
	// It takes the address before it is ready.
	until(t, "latchkey is not ready", func() bool { return strings.Contains(p.out.String(), " listens on ") })
	text, err := os.ReadFile(filepath.Join(dir, "data", "root.key"))
	if err != nil {
		t.Fatal(err)
	}
	p.root = strings.TrimSpace(string(text))
	p.caller = p.key("", `{"decision":true}`, "null").secret
	p.client = p.key("", clientScopes, "null")
	p.expired = p.key("", clientScopes, `"`+time.Now().Add(2*time.Second).UTC().Format(time.RFC3339Nano)+`"`)
	p.call("POST", "/v1/customers", "", `{"id":"acme","name":"Acme"}`)
	p.foreign = p.key("acme", clientScopes, "null")
	return p
}

func (p *pdp) key(customer, scopes, expires string) accessKey {
	p.Helper()
	var made struct{ ID, Key string }
	body := p.call("POST", "/v1/access_keys", customer, `{"scopes":{"customer":`+scopes+`},"metadata":{"username":"u","keyname":"k"},"expires_at":`+expires+`}`)
	if err := json.Unmarshal(body, &made); err != nil {
		p.Fatal(err)
	}
	return accessKey{made.ID, made.Key}
}

// waitExpired waits for the end of the key that has two seconds to live.
func (p *pdp) waitExpired() {
	p.Helper()
	until(p, "the key does not expire", func() bool {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+p.address+"/v1/access_keys/self", nil)
		if err != nil {
			p.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+p.expired.secret)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			p.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusUnauthorized
	})
}

// until asks again and again whether what another process has to do is done.
func until(t testing.TB, otherwise string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for !done() {
		select {
		case <-deadline.C:
			t.Fatal(otherwise)
		case <-again.C:
		}
	}
}

func (p *pdp) call(method, path, customer, body string) []byte {
	p.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+p.address+path, strings.NewReader(body))
	if err != nil {
		p.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.root)
	req.Header.Set("Content-Type", "application/json")
	if customer != "" {
		req.Header.Set("X-Customer-ID", customer)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusCreated {
		p.Fatalf("%s: %d %s, %v", path, resp.StatusCode, text, err)
	}
	return text
}

// answer is what came back to the client.
type answer struct {
	status int
	header http.Header
	body   string
}

// send writes a request as it stands, and reads the answer. A connection that
// is closed without one is status 0.
func send(t testing.TB, address string, lines ...string) answer {
	t.Helper()
	return sendBody(t, address, "", lines...)
}

func sendBody(t testing.TB, address, body string, lines ...string) answer {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\nConnection: close\r\n\r\n"+body); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(lines[0], " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return answer{}
	}
	if err != nil {
		t.Fatalf("%q: %v", lines, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%q: %v", lines, err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}
