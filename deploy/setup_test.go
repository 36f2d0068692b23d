package deploy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// engine is the docker that setup.sh finds: it runs the program itself, as the
// services of compose.yaml would, and writes down what it was asked.
const engine = `#!/bin/sh
set -eu
echo "$*" >> "$STAGE/asked"
case "$*" in
*" run --rm --user "*" init")
	"$LATCHKEY" init --data="$STAGE/compose/secrets" --keyring-file="$STAGE/compose/secrets/keyring" --pepper-file="$STAGE/compose/secrets/pepper"
	;;
*" up --detach --wait control-1 control-2")
	if [ ! -e "$STAGE/pid" ]; then
		"$LATCHKEY" serve --data="$STAGE/compose/secrets" --keyring-file="$STAGE/compose/secrets/keyring" --pepper-file="$STAGE/compose/secrets/pepper" \
			--listen="$ADDRESS" --private-listen= > "$STAGE/log" 2>&1 &
		echo $! > "$STAGE/pid"
	fi
	n=0
	until "$LATCHKEY" healthcheck --url "http://$ADDRESS/health/ready"; do
		n=$((n + 1)); [ $n -lt 100 ]; sleep 0.1
	done
	;;
esac
`

// needs finds a program that a test cannot do without. It may be missing on a
// developer's machine, not where CI says that all is there.
func needs(t *testing.T, name string) string {
	t.Helper()
	for _, at := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(at); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" || os.Getenv("LATCHKEY_REQUIRE_SERVERS") != "" {
		t.Fatalf("%s is not installed", name)
	}
	t.Skipf("%s is not installed", name)
	return ""
}

func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// eventually tries until it works, or ten seconds have passed.
func eventually(t *testing.T, try func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}

// background runs a program until the test ends.
func background(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		select {
		case <-exited:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-exited
		}
		if t.Failed() {
			t.Logf("%s:\n%s", cmd.Path, &out)
		}
	})
}

// stage is a copy of the files that compose uses, set up.
type stage struct {
	dir, url string
}

func (s *stage) secret(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "compose", "secrets", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (s *stage) setup(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("sh", filepath.Join(s.dir, "compose", "setup.sh"))
	cmd.Env = append(os.Environ(), "PATH="+s.dir+":"+os.Getenv("PATH"), "STAGE="+s.dir, "LATCHKEY="+latchkey,
		"ADDRESS="+strings.TrimPrefix(s.url, "http://"), "LATCHKEY_URL="+s.url)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("setup.sh: %v\n%s", err, out)
	}
	return string(out)
}

func setUp(t *testing.T) *stage {
	t.Helper()
	needs(t, "curl")
	s := &stage{dir: t.TempDir(), url: "http://" + freeAddress(t)}
	if err := os.CopyFS(s.dir, os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(s.dir, "compose", "secrets")); err != nil { // a developer's own
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "docker"), []byte(engine), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		text, err := os.ReadFile(filepath.Join(s.dir, "pid"))
		if err != nil {
			return // it never got there
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		_ = syscall.Kill(pid, syscall.SIGTERM)
		eventually(t, func() error {
			if syscall.Kill(pid, 0) == nil {
				return fmt.Errorf("the server %d did not end", pid)
			}
			return nil
		})
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			t.Logf("%s", log)
		}
	})
	s.setup(t)
	return s
}

// ask sends one request and returns the status and the body.
func ask(t *testing.T, method, url, body string, headers ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestSetup_MakesEverySecretOnce(t *testing.T) {
	s := setUp(t)
	secrets := filepath.Join(s.dir, "compose", "secrets")
	if info, err := os.Stat(secrets); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v: other users of the machine may look in", info.Mode(), err)
	}
	before := map[string]string{}
	for name := range readCompose(t).Secrets {
		info, err := os.Stat(filepath.Join(secrets, name))
		if err != nil || info.Size() == 0 || info.Mode().Perm()&0o444 != 0o444 {
			t.Errorf("%s: %v %v: a container could not read it", name, info, err)
		}
		before[name] = s.secret(t, name)
	}
	if info, err := os.Stat(filepath.Join(secrets, "root.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("root.key: %v %v", info.Mode(), err)
	}
	// The keys are what they should be, no more.
	for name, want := range map[string]string{"sidecar_key": `"scopes":{"customer":{"decision":true,"sidecar":true}}`, "nginx_caller": `"scopes":{"customer":{"decision":true}}`} {
		key := before[name]
		if _, rest, ok := strings.Cut(key, `"`); ok {
			key = strings.TrimSuffix(rest, "\";\n")
		}
		status, body := ask(t, "GET", s.url+"/v1/access_keys/self", "", "Authorization", "Bearer "+strings.TrimSpace(key))
		if status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	// A second run changes nothing, one after the root key was moved away neither.
	for range 2 {
		s.setup(t)
		for name, was := range before {
			if s.secret(t, name) != was {
				t.Errorf("%s was made anew", name)
			}
		}
		if err := os.RemoveAll(filepath.Join(secrets, "root.key")); err != nil {
			t.Fatal(err)
		}
	}
	asked, err := os.ReadFile(filepath.Join(s.dir, "asked"))
	if err != nil || strings.Count(string(asked), " up --detach --wait\n") != 3 {
		t.Errorf("compose was asked:\n%s", asked)
	}
	for _, secret := range before {
		if strings.Contains(string(asked), strings.TrimSpace(secret)) {
			t.Error("a secret is an argument, which every user of the machine sees")
		}
	}
}

// Attack on Redis from a sidecar's place, with its user, or without any.
func TestSetup_RedisUsersMayDoWhatTheyNeed(t *testing.T) {
	server, client := needs(t, "redis-server"), needs(t, "redis-cli")
	s := setUp(t)
	address := freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	text, err := os.ReadFile("compose/redis.conf")
	if err != nil {
		t.Fatal(err)
	}
	config := strings.NewReplacer("/run/secrets/redis_acl", filepath.Join(s.dir, "compose", "secrets", "redis_acl"), "dir /data", "dir "+t.TempDir(), "bind * -::*", "bind 127.0.0.1").Replace(string(text))
	path := filepath.Join(s.dir, "redis.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	background(t, exec.Command(server, path, "--port", port))
	// call says what the user of that URL is answered.
	call := func(url string, args ...string) string {
		cmd := exec.Command(client, append([]string{"-p", port}, args...)...)
		if rest, ok := strings.CutPrefix(url, "redis://"); ok {
			user, rest, _ := strings.Cut(rest, ":")
			password, _, _ := strings.Cut(rest, "@")
			cmd.Args = append([]string{client, "-p", port, "--no-auth-warning", "--user", user, "--pass", password}, args...)
		}
		out, _ := cmd.CombinedOutput() // the answer tells
		return strings.TrimSpace(string(out))
	}
	control, sidecar := s.secret(t, "redis_control_url"), s.secret(t, "redis_sidecar_url")
	eventually(t, func() error { // as the health check does
		if got := call("", "ping"); got != "PONG" {
			return fmt.Errorf("ping without a user: %s", got)
		}
		return nil
	})
	const mine, others = "lk1:{default}:r:key", "lk1:{other}:r:key"
	for _, key := range []string{mine, others} {
		if got := call(control, "set", key, "x"); got != "OK" {
			t.Errorf("a control plane writes %s: %s", key, got)
		}
	}
	if got := call(control, "eval", "return redis.call('XADD', KEYS[1], '1-0', 'm', 'x')", "1", "lk1:{default}:feed"); got != "1-0" {
		t.Errorf("a control plane runs a script: %s", got)
	}
	for _, args := range [][]string{{"get", mine}, {"mget", mine, "lk1:{default}:head"}, {"xread", "STREAMS", "lk1:{default}:feed", "0"}, {"hgetall", "lk1:{default}:nodes"}, {"time"}, {"ping"}} {
		if got := call(sidecar, args...); strings.Contains(got, "NOPERM") || strings.Contains(got, "ERR") {
			t.Errorf("a sidecar asks %v: %s", args, got)
		}
	}
	for who, may := range map[string][][]string{
		"": {{"get", mine}, {"set", mine, "y"}, {"info"}, {"acl", "whoami"}},
		sidecar: {
			{"get", others}, {"xread", "STREAMS", "lk1:{other}:feed", "0"}, {"set", mine, "y"}, {"del", mine}, {"xadd", "lk1:{default}:feed", "*", "m", "y"},
			{"eval", "return redis.call('SET', KEYS[1], 'y')", "1", mine}, {"flushall"}, {"config", "set", "maxmemory-policy", "allkeys-lru"}, {"acl", "list"},
			{"keys", "*"}, {"scan", "0"}, {"randomkey"}, {"debug", "sleep", "1"}, {"shutdown"}, {"monitor"}, {"replicaof", "evil", "1"}, {"publish", "lk1:{other}:x", "y"},
		},
		control: {{"flushall"}, {"config", "set", "maxmemory-policy", "allkeys-lru"}, {"acl", "list"}, {"shutdown"}, {"replicaof", "evil", "1"}, {"set", "elsewhere", "x"}},
	} {
		for _, args := range may {
			if got := call(who, args...); !strings.Contains(got, "NOPERM") && !strings.Contains(got, "NOAUTH") && !strings.Contains(got, "not allowed") {
				t.Errorf("%.30s may %v: %s", who, args, got)
			}
		}
	}
	if got := call(control, "config", "get", "maxmemory-policy"); !strings.Contains(got, "noeviction") {
		t.Errorf("eviction: %s", got)
	}
}

// The front's nginx and the sample application, run as they stand, but for
// addresses. What they ask is a server of ours in the sidecar's place.
func TestCompose_FrontAsksAboutEveryRequest(t *testing.T) {
	nginx := needs(t, "nginx")
	s := setUp(t)
	dir := t.TempDir()
	front, app := freeAddress(t), freeAddress(t)
	socket := filepath.Join(dir, "sidecar.sock")
	start := func(name string, replace ...string) {
		text, err := os.ReadFile("compose/" + name)
		if err != nil {
			t.Fatal(err)
		}
		own := filepath.Join(dir, name+".d")
		if err := os.Mkdir(own, 0o755); err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(replace); i += 2 {
			if !strings.Contains(string(text), replace[i]) {
				t.Errorf("%s does not name %s", name, replace[i])
			}
		}
		config := strings.NewReplacer(append(replace, "/tmp/", own+"/", "127.0.0.1:8081", freeAddress(t))...).Replace(string(text))
		if os.Geteuid() == 0 {
			config = "user root;\n" + config
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		background(t, exec.Command(nginx, "-c", path, "-g", "daemon off;"))
	}
	data := filepath.Join(t.TempDir(), "data")
	background(t, exec.Command(latchkey, "serve", "--data="+data, "--listen=unix:"+socket, "--private-listen=", "--forward-routes=compose/routes.yaml"))
	overSocket := &http.Transport{Dial: func(string, string) (net.Conn, error) { return net.Dial("unix", socket) }}
	defer overSocket.CloseIdleConnections()
	eventually(t, func() error {
		return exec.Command(latchkey, "healthcheck", "--url=unix:"+socket).Run()
	})
	root, err := os.ReadFile(filepath.Join(data, "root.key"))
	if err != nil {
		t.Fatal(err)
	}
	make := func(scopes string) string {
		req, err := http.NewRequest("POST", "http://localhost/v1/access_keys", strings.NewReader(`{"scopes": {"customer": `+scopes+`}, "metadata": {"username": "u", "keyname": "k"}}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(root)))
		req.Header.Set("Content-Type", "application/json")
		resp, err := (&http.Client{Transport: overSocket}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		_, rest, ok := strings.Cut(string(text), `"key":"`)
		if err != nil || !ok {
			t.Fatalf("%s %v", text, err)
		}
		key, _, _ := strings.Cut(rest, `"`)
		return key
	}
	caller := filepath.Join(dir, "nginx_caller")
	line, _, _ := strings.Cut(s.secret(t, "nginx_caller"), `"`) // as setup.sh writes it
	if err := os.WriteFile(caller, []byte(line+`"`+make(`{"decision": true}`)+"\";\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	reader := make(`{"doc": [{"f": "/docs/public/*", "p": 2}]}`)

	start("app.conf", "listen 8080", "listen "+app)
	start("front.conf", "listen 8080", "listen "+front, "server app:8080", "server "+app, "/run/latchkey/sidecar.sock", socket,
		"sidecar-2:5539", freeAddress(t), "/run/secrets/nginx_caller", caller)
	for _, address := range []string{app, front} {
		eventually(t, func() error {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				err = conn.Close()
			}
			return err
		})
	}
	for _, c := range []struct {
		method, path, key string
		status            int
		says              string
	}{
		{"GET", "/docs/public/plan", reader, 200, "GET /docs/public/plan for "},
		{"HEAD", "/docs/public/plan", reader, 200, ""},
		{"DELETE", "/docs/public/plan", reader, 403, "scope_missing"},
		{"GET", "/docs/secret/plan", reader, 403, "scope_missing"},
		{"GET", "/docs/public/../secret/plan", reader, 403, "ambiguous_path"},
		{"GET", "/elsewhere", reader, 403, ""},
		{"GET", "/health", reader, 403, ""},
		{"GET", "/_latchkey", reader, 404, ""},
		{"GET", "/docs/public/plan", "", 401, ""},
		{"GET", "/docs/public/plan", reader[:len(reader)-1] + "x", 401, ""},
	} {
		headers := []string{"X-Latchkey-Subject", "forged", "X-Latchkey-Caller", strings.TrimSpace(string(root)), "X-Original-URI", "/docs/public/plan"}
		if c.key != "" {
			headers = append(headers, "Authorization", "Bearer "+c.key)
		}
		status, body := ask(t, c.method, "http://"+front+c.path, "", headers...)
		if status != c.status || !strings.Contains(body, c.says) || strings.Contains(body, "forged") {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, body)
		}
	}
}
