package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

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
	deadline := time.After(time.Minute)
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

// running is a program that a test has started.
type running struct {
	cmd    *exec.Cmd
	exited chan struct{}
	out    bytes.Buffer // to be read once it has exited
}

// start runs a program until stop, or until the test ends.
func start(t *testing.T, cmd *exec.Cmd) (*running, error) {
	r := &running{cmd: cmd, exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &r.out, &r.out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = cmd.Wait() // how it ended, its output tells
		close(r.exited)
	}()
	t.Cleanup(func() {
		r.stop()
		if t.Failed() {
			t.Logf("%q:\n%s", cmd.Args, &r.out)
		}
	})
	return r, nil
}

func (r *running) stop() {
	_ = r.cmd.Process.Signal(syscall.SIGINT) // it may have ended; PostgreSQL's sessions end too
	select {
	case <-r.exited:
	case <-time.After(time.Minute):
		_ = r.cmd.Process.Kill()
		<-r.exited
	}
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

// The fleet of compose.yaml, started by setup.sh with real programs.
func TestFleet(t *testing.T) {
	s := newStage(t)
	s.setup(t)
	t.Run("secrets are made once", s.makesEverySecretOnce)
	t.Run("users of Redis may do what they need", s.redisUsersMayDoWhatTheyNeed)
	t.Run("the front asks about every request", s.frontAsksAboutEveryRequest)
	t.Run("a revoked key is refused", s.revokedKeyIsRefused)
	t.Run("outages", s.outages)
}

func (s *stage) makesEverySecretOnce(t *testing.T) {
	secrets := s.secrets()
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
	// What sidecars can be pinned to is what the control planes sign by.
	key, err := exec.Command(latchkey, "feed", "key", "--keyring-file="+filepath.Join(secrets, "keyring")).Output()
	if err != nil {
		t.Fatal(err)
	}
	status, told := ask(t, "GET", s.url+"/v1/sidecar/verification_keys", "", "Authorization", "Bearer "+strings.TrimSpace(before["sidecar_key"]))
	if status != http.StatusOK || !strings.Contains(told, `"public_key":"`+strings.TrimSpace(string(key))+`"`) {
		t.Errorf("feed key says %s, a control plane %d %s", key, status, told)
	}
	// A second run changes nothing, one after the root key was moved away neither.
	root := s.secret(t, "root.key")
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
	if err := os.WriteFile(filepath.Join(secrets, "root.key"), []byte(root), 0o600); err != nil { // for the tests that follow
		t.Fatal(err)
	}
	asked := strings.Join(s.asked, "\n") + "\n"
	if strings.Count(asked, " up --detach --wait\n") != 3 {
		t.Errorf("compose was asked:\n%s", asked)
	}
	for _, secret := range before {
		if strings.Contains(asked, strings.TrimSpace(secret)) {
			t.Error("a secret is an argument, which every user of the machine sees")
		}
	}
}

// Attack on Redis from a sidecar's place, with its user, or without any.
func (s *stage) redisUsersMayDoWhatTheyNeed(t *testing.T) {
	control, sidecar := s.secret(t, "redis_control_url"), s.secret(t, "redis_sidecar_url")
	const mine, others = "lk1:{default}:tried", "lk1:{other}:tried"
	for _, key := range []string{mine, others} {
		if got := s.call(control, "set", key, "x"); got != "OK" {
			t.Errorf("a control plane writes %s: %s", key, got)
		}
	}
	if got := s.call(control, "eval", "return redis.call('XADD', KEYS[1], '1-0', 'm', 'x')", "1", "lk1:{other}:feed"); got != "1-0" {
		t.Errorf("a control plane runs a script: %s", got)
	}
	for _, args := range [][]string{{"get", mine}, {"get", "lk1:{default}:head"}, {"xread", "STREAMS", "lk1:{default}:feed", "0"}, {"ping"}} {
		if got := s.call(sidecar, args...); strings.Contains(got, "NOPERM") || strings.Contains(got, "ERR") {
			t.Errorf("a sidecar asks %v: %s", args, got)
		}
	}
	for who, may := range map[string][][]string{
		"": {{"get", mine}, {"set", mine, "y"}, {"info"}, {"acl", "whoami"}},
		sidecar: {
			{"get", others}, {"xread", "STREAMS", "lk1:{other}:feed", "0"}, {"hgetall", "lk1:{default}:nodes"}, {"set", mine, "y"}, {"del", mine}, {"xadd", "lk1:{default}:feed", "*", "m", "y"},
			{"eval", "return redis.call('SET', KEYS[1], 'y')", "1", mine}, {"flushall"}, {"config", "set", "maxmemory-policy", "allkeys-lru"}, {"acl", "list"},
			{"keys", "*"}, {"scan", "0"}, {"randomkey"}, {"debug", "sleep", "1"}, {"shutdown"}, {"monitor"}, {"replicaof", "evil", "1"}, {"publish", "lk1:{other}:x", "y"},
		},
		control: {{"flushall"}, {"config", "get", "requirepass"}, {"config", "set", "maxmemory-policy", "allkeys-lru"}, {"acl", "list"}, {"shutdown"}, {"replicaof", "evil", "1"}, {"set", "elsewhere", "x"}},
	} {
		for _, args := range may {
			if got := s.call(who, args...); !strings.Contains(got, "NOPERM") && !strings.Contains(got, "NOAUTH") && !strings.Contains(got, "not allowed") {
				t.Errorf("%.30s may %v: %s", who, args, got)
			}
		}
	}
	if got := s.call(control, "info", "memory"); !strings.Contains(got, "maxmemory_policy:noeviction") {
		t.Errorf("eviction: %s", got)
	}
	// What the services did was not refused to any of them.
	for _, name := range []string{"control-1", "control-2", "sidecar-1", "sidecar-2"} {
		status, body := ask(t, "GET", "http://"+s.private[name]+"/metrics", "")
		if status != http.StatusOK || !strings.Contains(body, "latchkey_redis_up 1\n") || !strings.Contains(body, `latchkey_redis_errors_total{reason="denied"} 0`+"\n") {
			t.Errorf("%s: %d; Redis refuses it something:\n%s", name, status, regexp.MustCompile(`(?m)^latchkey_redis_.*$`).FindAllString(body, -1))
		}
	}
}

// makeKey makes a key at a control plane and returns its id and secret.
func (s *stage) makeKey(t *testing.T, at, scopes string) (id, secret string) {
	t.Helper()
	status, text := ask(t, "POST", "http://"+s.address[at]+"/v1/access_keys", `{"scopes": {"customer": `+scopes+`}, "metadata": {"username": "u", "keyname": "k"}}`,
		"Authorization", "Bearer "+strings.TrimSpace(s.secret(t, "root.key")), "Content-Type", "application/json")
	var made struct{ ID, Key string }
	if err := json.Unmarshal([]byte(text), &made); err != nil || status != http.StatusCreated {
		t.Fatalf("%d %s", status, text)
	}
	return made.ID, made.Key
}

// revoke ends a key at a control plane.
func (s *stage) revoke(t *testing.T, at, id string, headers ...string) string {
	t.Helper()
	status, text := ask(t, "DELETE", "http://"+s.address[at]+"/v1/access_keys/"+id, "",
		append(headers, "Authorization", "Bearer "+strings.TrimSpace(s.secret(t, "root.key")))...)
	if status != http.StatusOK && status != http.StatusNoContent {
		t.Fatalf("%d %s", status, text)
	}
	return text
}

// read asks the front for a page of the application.
func (s *stage) read(t *testing.T, key string) (int, string) {
	t.Helper()
	return ask(t, "GET", "http://"+s.address["front"]+"/docs/public/plan", "", "Authorization", "Bearer "+key)
}

const readsPublic = `{"doc": [{"f": "/docs/public/*", "p": 2}]}`

func (s *stage) frontAsksAboutEveryRequest(t *testing.T) {
	_, reader := s.makeKey(t, "control-1", readsPublic)
	front := s.address["front"]
	root := strings.TrimSpace(s.secret(t, "root.key"))
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
		headers := []string{"X-Latchkey-Subject", "forged", "X-Latchkey-Caller", root, "X-Original-URI", "/docs/public/plan"}
		if c.key != "" {
			headers = append(headers, "Authorization", "Bearer "+c.key)
		}
		status, body := ask(t, c.method, "http://"+front+c.path, "", headers...)
		if status != c.status || !strings.Contains(body, c.says) || strings.Contains(body, "forged") {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, body)
		}
	}
}

// A key that was revoked at one control plane opens nothing any more.
func (s *stage) revokedKeyIsRefused(t *testing.T) {
	for _, at := range []string{"control-1", "control-2"} {
		id, key := s.makeKey(t, at, readsPublic)
		if status, body := s.read(t, key); status != http.StatusOK {
			t.Fatalf("before: %d %s", status, body)
		}
		s.revoke(t, at, id)
		begun := time.Now()
		eventually(t, func() error {
			if status, body := s.read(t, key); status == http.StatusOK {
				return fmt.Errorf("%d %s", status, body)
			}
			return nil
		})
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("revoked at %s, it was good for %s", at, took)
		}
		if status, body := s.read(t, key); status != http.StatusUnauthorized && status != http.StatusForbidden {
			t.Errorf("after: %d %s", status, body)
		}
		// Or the reply itself says that all nodes know.
		id, key = s.makeKey(t, at, readsPublic)
		if status, body := s.read(t, key); status != http.StatusOK {
			t.Fatalf("before: %d %s", status, body)
		}
		told := s.revoke(t, at, id, "Prefer", "wait=30")
		if !strings.Contains(told, `"pending":[]`) || strings.Count(told, `"node":`) < 3 {
			t.Errorf("told: %s", told)
		}
		if status, body := s.read(t, key); status != http.StatusUnauthorized && status != http.StatusForbidden {
			t.Errorf("told that all nodes know: %d %s", status, body)
		}
	}
}

// One after the other goes away. What remains lets nobody in whom it should not,
// and everybody whom it can.
func (s *stage) outages(t *testing.T) {
	_, key := s.makeKey(t, "control-1", readsPublic)
	works := func(when string) {
		t.Helper()
		if status, body := s.read(t, key); status != http.StatusOK || !strings.Contains(body, "GET /docs/public/plan for ") {
			t.Errorf("%s: %d %s", when, status, body)
		}
	}
	revokes := func(when, at string) {
		t.Helper()
		id, key := s.makeKey(t, at, readsPublic)
		eventually(t, func() error {
			if status, body := s.read(t, key); status != http.StatusOK {
				return fmt.Errorf("%s: %d %s", when, status, body)
			}
			return nil
		})
		s.revoke(t, at, id)
		eventually(t, func() error {
			if status, body := s.read(t, key); status == http.StatusOK {
				return fmt.Errorf("%s: a revoked key: %d %s", when, status, body)
			}
			return nil
		})
	}
	works("all are there")
	s.down("sidecar-1")
	works("nginx has its second choice")
	s.down("sidecar-2")
	if status, body := s.read(t, key); status < 500 || strings.Contains(body, "/docs/public/plan") {
		t.Errorf("nobody decides, and nginx answers %d %s", status, body)
	}
	s.start(t, "sidecar-1")
	works("a sidecar is back")
	s.down("control-1")
	works("one control plane")
	revokes("one control plane", "control-2")
	s.down("redis")
	works("no Redis")
	revokes("no Redis", "control-2")
	s.start(t, "redis")
	s.down("control-2")
	works("no control plane")
	s.start(t, "control-1")
	works("a control plane is back")
	revokes("a control plane is back", "control-1")
}
