package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/servers"
)

// beside is a control plane on SQLite, and what a sidecar of it needs.
type beside struct {
	t       *testing.T
	control *process
	data    string // the control plane's
	env     []string
	args    []string
	root    string
	key     string // of sidecars
}

func startControl(t *testing.T, args ...string) *beside {
	t.Helper()
	return startControlIn(t, nil, args...)
}

// startControlIn is startControl with an environment of its own.
func startControlIn(t *testing.T, env []string, args ...string) *beside {
	t.Helper()
	b := &beside{t: t, data: t.TempDir(), env: env, args: args}
	b.start()
	var err error
	if b.root, err = rootKey(b.data); err != nil {
		t.Fatal(err)
	}
	b.key = b.control.must(t, b.root, http.MethodPost, "/v1/access_keys", object{"scopes": object{"customer": object{"decision": true, "sidecar": true}},
		"metadata": object{"username": "sidecar", "keyname": "sidecar"}}).Get("key").String()
	return b
}

// start starts the control plane, where it was before.
func (b *beside) start() {
	b.t.Helper()
	at, err := servers.FreeAddress()
	if err != nil {
		b.t.Fatal(err)
	}
	if b.control != nil {
		at = strings.TrimPrefix(b.control.url, "http://")
	}
	p, err := startServerAt(at, b.data, b.env, b.args, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	b.control = p
	b.t.Cleanup(func() { b.end(p) })
}

func (b *beside) end(p *process) {
	select {
	case err := <-p.exited:
		p.exited <- err
	default:
		_ = p.end(syscall.SIGKILL)
	}
}

// sidecar starts one; a directory "" is a new one. It does not wait until it is
// ready.
func (b *beside) sidecar(data string, env []string, args ...string) *process {
	b.t.Helper()
	api, err := servers.FreeAddress()
	if err != nil {
		b.t.Fatal(err)
	}
	if data == "" {
		data = b.t.TempDir()
	}
	p, err := startProcess(api, append([]string{"LATCHKEY_KEY=" + b.key, "LATCHKEY_ROOT_KEY=" + b.root}, env...),
		append([]string{"sidecar", "--control", b.control.url, "--data", data, "--listen", api, "--private-listen", ""}, args...), nil)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		b.end(p)
		if b.t.Failed() {
			b.t.Logf("the sidecar:\n%s", p.err)
		}
	})
	return p
}

func (b *beside) ready(p *process) *process {
	b.t.Helper()
	if err := p.waitReady(); err != nil {
		b.t.Fatal(err)
	}
	return p
}

// keptPolicies waits until a sidecar's directory has its policies.
func (b *beside) keptPolicies(data string) {
	b.t.Helper()
	eventually(b.t, "the policies are on disk", func() bool {
		kept, err := filepath.Glob(filepath.Join(data, "policies", "*", "*.json"))
		return err == nil && len(kept) > 0
	})
}

// newKey makes a key that may read documents, by way of any node.
func (b *beside) newKey(by *process, name string) (id, secret string) {
	b.t.Helper()
	made := by.must(b.t, b.root, http.MethodPost, "/v1/access_keys", reader(name))
	return made.Get("id").String(), made.Get("key").String()
}

func TestSidecar_AnswersAsTheControlPlaneWould(t *testing.T) {
	t.Parallel()
	b := startControl(t)
	p := b.ready(b.sidecar("", nil))
	id, secret := b.newKey(p, "one") // passed on
	if permit, why := p.ask(t, secret, "access_key", id); !permit || why != "scope_permits" {
		t.Errorf("%v for %s", permit, why)
	}
	verified, at := p.must(t, secret, http.MethodPost, "/v1/access_keys/verify", object{"key": secret}), b.control.must(t, secret, http.MethodPost, "/v1/access_keys/verify", object{"key": secret})
	if verified.Get("code").String() != "valid" || verified.Get("key.handle").String() == "" || verified.Get("key.created_at").Raw != at.Get("key.created_at").Raw || verified.Get("key.metadata").Raw != at.Get("key.metadata").Raw {
		t.Errorf("the sidecar says\n%s\nthe control plane\n%s", verified.Raw, at.Raw)
	}
	if list := p.must(t, b.root, http.MethodGet, "/v1/access_keys", nil); list.Get("access_keys.#").Int()+list.Get("items.#").Int() < 2 && !strings.Contains(list.Raw, id) {
		t.Errorf("what is passed on: %s", list.Raw)
	}
	// The root key is nobody here, though the environment has it.
	if status, reply, err := p.send(t.Context(), b.root, http.MethodPost, "/decision", object{}); err != nil || status != http.StatusUnauthorized {
		t.Errorf("the root key: %d %s %v", status, reply.Raw, err)
	}
	for name, key := range map[string]string{"nobody's": "lk1_live_" + strings.Repeat("0", 12) + "_x", "none": ""} {
		if status, reply, err := p.send(t.Context(), key, http.MethodPost, "/decision", object{}); err != nil || status != http.StatusUnauthorized {
			t.Errorf("%s key: %d %s %v", name, status, reply.Raw, err)
		}
	}
	// Policies come by themselves, and so do properties and grants.
	p.must(t, b.root, http.MethodPut, "/v1/policies/main", object{"language": "cel", "default": object{"action": "deny"},
		"rules": []any{object{"label": "team", "match": `has(subject.properties.team) && subject.properties.team == "red"`, "action": "allow"}}})
	p.must(t, b.root, http.MethodPatch, "/v1/customers/default", object{"default_policy": "main"})
	p.must(t, b.root, http.MethodPost, "/v1/subjects:bulkUpdate", object{"subjects": []any{object{"type": "user", "id": "bob", "properties": object{"team": "red"}}}})
	eventually(t, "the policy decides by the subject's team", func() bool { permit, _ := p.ask(t, secret, "user", "bob"); return permit })
	if permit, why := p.ask(t, secret, "user", "eve"); permit {
		t.Errorf("eve is let in: %s", why)
	}
	p.must(t, b.root, http.MethodPost, "/v1/subjects:bulkUpdate", object{"subjects": []any{object{"type": "user", "id": "bob", "properties": object{"team": "blue"}}}})
	eventually(t, "bob's team is another", func() bool { permit, _ := p.ask(t, secret, "user", "bob"); return !permit })
	p.must(t, b.root, http.MethodPatch, "/v1/customers/default", object{"default_policy": nil})
	grant := p.must(t, b.root, http.MethodPost, "/v1/grants", object{"subject": object{"type": "user", "id": "eve"}, "reason": "on call", "entries": object{"document": []any{object{"f": "7", "p": 2}}}, "expires_at": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)})
	eventually(t, "eve's grant", func() bool { permit, why := p.ask(t, secret, "user", "eve"); return permit && why == "grant_permits" })

	// A revocation that says it has arrived has.
	for _, path := range []string{"/v1/grants/" + grant.Get("id").String(), "/v1/access_keys/" + id} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, p.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+b.root)
		req.Header.Set("X-Customer-ID", "default")
		req.Header.Set("Prefer", "wait=10")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || gjson.GetBytes(text, "pending.#").Int() != 0 || gjson.GetBytes(text, "applied.#").Int() != 2 {
			t.Fatalf("%s: %s %v", path, text, err)
		}
		if path != "/v1/access_keys/"+id {
			if permit, why := p.ask(t, secret, "user", "eve"); permit {
				t.Errorf("after its end a grant permits: %s", why)
			}
		}
	}
	if permit, why := p.ask(t, b.key, "access_key", id); permit || why != "key_revoked" {
		t.Errorf("after the revocation: %v for %s", permit, why)
	}
	if status, reply, err := p.send(t.Context(), secret, http.MethodPost, "/decision", object{}); err != nil || status != http.StatusUnauthorized || reply.Get("code").String() != "key_revoked" {
		t.Errorf("the revoked key asks: %d %s %v", status, reply.Raw, err)
	}
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// newAccessKey is a well-formed key that nobody has made.
func newAccessKey() string { return authz.NewAccessKeyToken(authz.Live).Reveal() }

// otherSecretOf is a well-formed key with the kid of another one, and a secret of
// its own.
func otherSecretOf(key string) string {
	const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	other := newAccessKey()
	kid := len("lk1_live_") + 12
	text := key[:kid] + other[kid:len(other)-7]
	sum := crc32.ChecksumIEEE([]byte(text))
	var crc [6]byte
	for i := len(crc) - 1; i >= 0; i-- {
		crc[i] = base62[sum%62]
		sum /= 62
	}
	return text + "_" + string(crc[:])
}

// By sockets: the control plane's, and its own.
func TestSidecar_BySockets(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "latchkey-sidecar") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := startControl(t)
	far, near := filepath.Join(dir, "control.sock"), filepath.Join(dir, "sidecar.sock")
	relay(t, far, strings.TrimPrefix(b.control.url, "http://"))
	b.sidecar("", nil, "--control", "unix:"+far, "--listen", "unix:"+near)
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", near)
	}}}
	defer client.CloseIdleConnections()
	eventually(t, "it is ready", func() bool {
		resp, err := client.Get("http://localhost/health/ready")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	post := func(key, path string, body any) gjson.Result {
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost"+path, bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key)
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		reply, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return gjson.ParseBytes(reply)
	}
	made := post(b.root, "/v1/access_keys", reader("one"))
	reply := post(made.Get("key").String(), "/decision", object{"subject": object{"type": "access_key", "id": made.Get("id").String()}, "action": object{"name": "read"}, "resource": object{"type": "document", "id": "7"}})
	if !reply.Get("decision").Bool() {
		t.Errorf("%s after %s", reply.Raw, made.Raw)
	}
}

// relay connects a socket to an address, until the test ends.
func relay(t *testing.T, socket, to string) {
	t.Helper()
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	relayFrom(t, ln, to)
}

func relayFrom(t *testing.T, ln net.Listener, to string) {
	t.Helper()
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			from, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				from.Close()
				continue
			}
			go func() { _, _ = io.Copy(out, from); out.Close() }()
			go func() { _, _ = io.Copy(from, out); from.Close() }()
		}
	}()
}

// By TLS, to a control plane that asks for certificates; whoever cannot prove
// what it is is not spoken to.
func TestSidecar_ByTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, stranger := newAuthority(t), newAuthority(t)
	ca.write(t, dir, 100)
	writePEM(t, filepath.Join(dir, "ca.pem"), "CERTIFICATE", ca.cert.Raw)
	writePEM(t, filepath.Join(dir, "stranger.pem"), "CERTIFICATE", stranger.cert.Raw)
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	b := startControl(t)
	secure, err := (&Front{TLSCert: cert, TLSKey: key, TLSClientCA: filepath.Join(dir, "ca.pem")}).tls()
	if err != nil {
		t.Fatal(err)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	relayFrom(t, tls.NewListener(inner, secure), strings.TrimPrefix(b.control.url, "http://"))
	address := "https://" + inner.Addr().String()
	p := b.ready(b.sidecar("", nil, "--control", address, "--control-ca", filepath.Join(dir, "ca.pem"), "--control-cert", cert, "--control-cert-key", key))
	id, secret := b.newKey(p, "one")
	if permit, why := p.ask(t, secret, "access_key", id); !permit {
		t.Error(why)
	}
	for name, args := range map[string][]string{
		"of another authority":  {"--control-ca", filepath.Join(dir, "stranger.pem"), "--control-cert", cert, "--control-cert-key", key},
		"of no authority":       {"--control-cert", cert, "--control-cert-key", key},
		"without a certificate": {"--control-ca", filepath.Join(dir, "ca.pem")},
	} {
		p := b.sidecar("", nil, append([]string{"--control", address}, args...)...)
		eventually(t, name+": it is not spoken to", func() bool {
			status, reply, err := p.send(t.Context(), b.root, http.MethodGet, "/v1/access_keys", nil)
			return err == nil && status == http.StatusServiceUnavailable && reply.Get("code").String() == "control_plane_unreachable"
		})
		if permit, why := p.ask(t, secret, "access_key", id); permit || why != "not_ready" {
			t.Errorf("%s: %v for %s", name, permit, why)
		}
	}
}

// Without its control plane it goes on for as long as is promised, denies then,
// and goes on by itself when it is back.
func TestSidecar_WithoutItsControlPlaneDecidesForAsLongAsIsPromised(t *testing.T) {
	t.Parallel()
	b := startControl(t)
	p := b.ready(b.sidecar("", nil, "--max-staleness", "4s"))
	id, secret := b.newKey(p, "one")
	if permit, why := p.ask(t, secret, "access_key", id); !permit {
		t.Fatal(why)
	}
	killed := time.Now()
	_ = b.control.end(syscall.SIGKILL)
	if permit, why := p.ask(t, secret, "access_key", id); !permit {
		t.Errorf("at once without its control plane: %s", why)
	}
	status, reply, err := p.send(t.Context(), b.root, http.MethodGet, "/v1/access_keys", nil)
	if err != nil || status != http.StatusServiceUnavailable || reply.Get("code").String() != "control_plane_unreachable" {
		t.Errorf("what is passed on: %d %s %v", status, reply.Raw, err)
	}
	// Nobody can tell of a key that was never seen: 503, and no 401.
	stranger := newAccessKey()
	if status, reply, err := p.send(t.Context(), stranger, http.MethodPost, "/decision", object{}); err != nil || status != http.StatusServiceUnavailable || reply.Get("code").String() != "credential_unverified" {
		t.Errorf("an unseen key: %d %s %v", status, reply.Raw, err)
	}
	eventually(t, "stale", func() bool { permit, why := p.ask(t, secret, "access_key", id); return !permit && why == "stale" })
	if took := time.Since(killed); took > 15*time.Second {
		t.Errorf("it was stale after %v", took)
	}
	if status, reply, err := p.send(t.Context(), secret, http.MethodPost, "/v1/access_keys/verify", object{"key": secret}); err != nil || status != http.StatusServiceUnavailable || reply.Get("code").String() != "stale" {
		t.Errorf("verify: %d %s %v", status, reply.Raw, err)
	}
	b.start()
	eventually(t, "fresh again", func() bool { permit, _ := p.ask(t, secret, "access_key", id); return permit })
	if status, _, err := p.send(t.Context(), stranger, http.MethodPost, "/decision", object{}); err != nil || status != http.StatusUnauthorized {
		t.Errorf("an unseen key: %d %v", status, err)
	}
}

// Started with nobody there it denies, with the policies that were good last;
// and begins when somebody is.
func TestSidecar_AColdStartWithNobodyThereDenies(t *testing.T) {
	t.Parallel()
	b := startControl(t)
	b.control.must(t, b.root, http.MethodPut, "/v1/policies/main", object{"language": "cel", "rules": []any{}, "default": object{"action": "allow"}})
	data := t.TempDir()
	p := b.ready(b.sidecar(data, nil))
	id, secret := b.newKey(p, "one")
	if permit, why := p.ask(t, secret, "access_key", id); !permit {
		t.Fatal(why)
	}
	b.keptPolicies(data)
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = b.control.end(syscall.SIGKILL)
	for _, dir := range []string{data, ""} {
		p = b.sidecar(dir, nil)
		eventually(t, "it answers", func() bool {
			resp, err := http.Get(p.url + "/health/live")
			if err == nil {
				resp.Body.Close()
			}
			return err == nil
		})
		if permit, why := p.ask(t, secret, "access_key", id); permit || why != "not_ready" {
			t.Errorf("with nobody there: %v for %s", permit, why)
		}
		if permit, why := p.ask(t, "nonsense", "access_key", id); permit || why != "not_ready" {
			t.Errorf("whoever asks: %v for %s", permit, why)
		}
		for _, path := range []string{"/v1/access_keys/verify", "/decision/batch", "/v1/introspect"} {
			if status, reply, err := p.send(t.Context(), secret, http.MethodPost, path, object{}); err != nil || status != http.StatusServiceUnavailable || reply.Get("code").String() != "not_ready" {
				t.Errorf("%s: %d %s %v", path, status, reply.Raw, err)
			}
		}
		if resp, err := http.Get(p.url + "/health/ready"); err != nil || resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("readiness: %v %v", resp, err)
		}
		if dir == "" {
			b.start()
			b.ready(p)
			if permit, why := p.ask(t, secret, "access_key", id); !permit {
				t.Error(why)
			}
		}
		b.end(p)
	}
}

// A secret that was kept under a pepper is verified by the control plane once,
// and from then on here; who has the pepper needs nobody.
func TestSidecar_SecretsUnderAPepper(t *testing.T) {
	t.Parallel()
	pepper := filepath.Join(t.TempDir(), "pepper")
	if err := os.WriteFile(pepper, []byte(strings.Repeat("p", 40)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := startControl(t, "--pepper-file", pepper)
	without, with := b.ready(b.sidecar("", nil)), b.ready(b.sidecar("", nil, "--pepper-file", pepper))
	id, secret := b.newKey(b.control, "one")
	wrong := otherSecretOf(secret)
	for _, p := range []*process{without, with} {
		if status, reply, err := p.send(t.Context(), wrong, http.MethodPost, "/decision", object{}); err != nil || status != http.StatusUnauthorized {
			t.Errorf("a wrong secret of a key that there is: %d %s %v", status, reply.Raw, err)
		}
		if permit, why := p.ask(t, secret, "access_key", id); !permit {
			t.Errorf("the secret: %s", why)
		}
	}
	_, second := b.newKey(b.control, "two")
	secondID := with.must(t, secret, http.MethodPost, "/v1/access_keys/verify", object{"key": second}).Get("key.id").String()
	if permit, why := without.ask(t, secret, "access_key", secondID); !permit { // the record is there now, the secret was not seen
		t.Error(why)
	}
	_ = b.control.end(syscall.SIGKILL)
	if permit, why := without.ask(t, secret, "access_key", id); !permit {
		t.Errorf("what was verified once: %s", why)
	}
	if status, reply, err := without.send(t.Context(), wrong, http.MethodPost, "/decision", object{}); err != nil || status != http.StatusUnauthorized {
		t.Errorf("a wrong secret of one that was verified: %d %s %v", status, reply.Raw, err)
	}
	if status, reply, err := without.send(t.Context(), second, http.MethodPost, "/decision", object{}); err != nil || status != http.StatusServiceUnavailable || reply.Get("code").String() != "credential_unverified" {
		t.Errorf("a secret that was never verified: %d %s %v", status, reply.Raw, err)
	}
	if permit, why := with.ask(t, second, "access_key", secondID); !permit {
		t.Errorf("by the pepper: %s", why)
	}
}

func TestSidecar_RefusesToStart(t *testing.T) {
	t.Parallel()
	good := newAccessKey()
	root := "lkr1" + strings.TrimPrefix(good, "lk1_live")
	for name, c := range map[string]struct {
		key  string
		args []string
	}{
		"without a key":         {"", []string{"--control", "http://127.0.0.1:1"}},
		"with a malformed key":  {"lk1_live_x", []string{"--control", "http://127.0.0.1:1"}},
		"with a root key":       {root, []string{"--control", "http://127.0.0.1:1"}},
		"plain over a network":  {good, []string{"--control", "http://10.0.0.1:1"}},
		"no address":            {good, []string{"--control", "control:5539"}},
		"a short pin":           {good, []string{"--control", "http://127.0.0.1:1", "--verification-key", "AAAA"}},
		"no cache":              {good, []string{"--control", "http://127.0.0.1:1", "--cache-size", "0"}},
		"no time to be told":    {good, []string{"--control", "http://127.0.0.1:1", "--max-staleness", "1s"}},
		"half a certificate":    {good, []string{"--control", "http://127.0.0.1:1", "--control-cert", "x"}},
		"no authority":          {good, []string{"--control", "https://127.0.0.1:1", "--control-ca", "/dev/null"}},
		"an open listener":      {good, []string{"--control", "http://127.0.0.1:1", "--listen", "0.0.0.0:0"}},
		"serving without bound": {good, []string{"--control", "http://127.0.0.1:1", "--when-stale", "serve"}},
	} {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), exe, append([]string{"sidecar", "--data", t.TempDir(), "--listen", "127.0.0.1:0", "--private-listen", ""}, c.args...)...)
		cmd.Env = append(os.Environ(), "LATCHKEY_TEST_RUN=main", "LATCHKEY_KEY="+c.key)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != exitUsage {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if c.key != "" && strings.Contains(string(out), c.key) {
			t.Errorf("%s: it tells the key", name)
		}
	}
}
