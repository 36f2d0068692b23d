package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/policies/bundle"
)

// stockOPA finds the opa program.
func stockOPA(t *testing.T) string {
	t.Helper()
	candidates := []string{"opa"}
	for _, dir := range []string{os.Getenv("GOBIN"), filepath.Join(os.Getenv("GOPATH"), "bin"), filepath.Join(os.Getenv("HOME"), "go", "bin")} {
		candidates = append(candidates, filepath.Join(dir, "opa"))
	}
	for _, c := range candidates {
		if path, err := exec.LookPath(c); err == nil {
			return path
		}
	}
	t.Skip("needs the opa program: go install github.com/open-policy-agent/opa@v1.22.2")
	return ""
}

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// bundleHost is a web server with one bundle, and a token that it asks for.
type bundleHost struct {
	mu  sync.Mutex
	raw []byte
}

func (h *bundleHost) put(raw []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.raw = raw
}

func (h *bundleHost) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	raw := h.raw
	h.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer sesame" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	tag := bundle.ETag(raw)
	w.Header().Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(raw) // who hangs up is gone
}

const officePolicy = `package policies.main

allow if net.cidr_contains("10.0.0.0/8", input.context.ip)
`

// opaBuild builds and signs a bundle as its users do, with opa alone.
func opaBuild(t *testing.T, dir, revision string, files map[string]string, key string) []byte {
	t.Helper()
	src := filepath.Join(dir, "src-"+revision)
	writeFiles(t, src, files)
	out := filepath.Join(dir, "out-"+revision+".tar.gz")
	c := exec.Command(stockOPA(t), "build", "-b", ".", "-o", out, "--signing-key", key, "--signing-alg", "ES256", "-r", revision)
	c.Dir = src
	if text, err := c.CombinedOutput(); err != nil {
		t.Fatalf("opa build: %v\n%s", err, text)
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// pulling is a server whose default customer's policies come from a host.
type pulling struct {
	*process
	t    *testing.T
	root string
}

func (p *pulling) get(path string) gjson.Result {
	p.t.Helper()
	status, body, err := p.send(context.Background(), p.root, "GET", path, nil)
	if err != nil || status != http.StatusOK {
		p.t.Fatalf("%s: %d %s %v", path, status, body, err)
	}
	return body
}

// comesTo waits until the bundle's status has that at that path.
func (p *pulling) comesTo(path, want string) gjson.Result {
	p.t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		status := p.get("/v1/bundles").Get("bundles.0")
		if status.Get(path).String() == want {
			return status
		}
		select {
		case <-deadline.C:
			p.t.Fatalf("%s does not come to %q: %s", path, want, status)
		case <-tick.C:
		}
	}
}

func (p *pulling) allows(ip string) bool {
	p.t.Helper()
	status, body, err := p.send(context.Background(), p.root, "POST", "/decision", map[string]any{
		"subject": map[string]any{"type": "user", "id": "u"}, "action": map[string]any{"name": "read"}, "resource": map[string]any{"type": "doc", "id": "1"},
		"context": map[string]any{"ip": ip},
	})
	if err != nil || status != http.StatusOK {
		p.t.Fatalf("decision: %d %s %v", status, body, err)
	}
	return body.Get("decision").Bool()
}

// A server takes what opa built and signed, over HTTP; what is wrong never
// takes its place; and it goes on from its disk when nobody answers.
func TestServe_PullsWhatStockOPABuiltAndSigned(t *testing.T) {
	stockOPA(t)
	t.Parallel()
	dir := t.TempDir()
	signKey, verifyKey := pemPair(t, dir, "signing"), filepath.Join(dir, "signing.pub")
	otherKey := pemPair(t, dir, "other")
	writeFiles(t, dir, map[string]string{"token": "sesame\n"})
	files := func(ip, policy, roots string) map[string]string {
		return map[string]string{
			".manifest":                      fmt.Sprintf(`{"roots":%s,"rego_version":1}`, roots),
			"policies/main.rego":             policy,
			"latchkey/sets/office/data.json": fmt.Sprintf(`{"entity_type":"ip","version":1,"values":[%q]}`, ip),
		}
	}
	const roots = `["policies","latchkey/sets"]`
	good := opaBuild(t, dir, "r1", files("10.0.0.0/8", officePolicy, roots), signKey)
	host := &bundleHost{raw: good}
	web := httptest.NewServer(host)
	defer web.Close()
	writeFiles(t, dir, map[string]string{"bundles.yaml": fmt.Sprintf(`
- customer: default
  name: control-plane
  url: %s/bundle.tar.gz
  token_file: token
  verification_keys: [{file: %s}]
  poll: {min: 20ms, max: 40ms}
  retry: {min: 20ms, max: 40ms}
  default_policy: main
`, web.URL, verifyKey)})
	data := filepath.Join(dir, "data")
	serve := func() *pulling {
		p, err := startServer(data, nil, []string{"--bundles", filepath.Join(dir, "bundles.yaml")}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.end(syscall.SIGKILL) })
		root, err := rootKey(data)
		if err != nil {
			t.Fatal(err)
		}
		return &pulling{p, t, root}
	}
	s := serve()
	first := s.comesTo("active_revision", "r1")
	if !first.Get("signed").Bool() || first.Get("code").Exists() {
		t.Errorf("status %s", first)
	}
	holds := func(p *pulling, what string) {
		t.Helper()
		if !p.allows("10.1.2.3") || p.allows("11.1.2.3") {
			t.Errorf("%s: the good bundle is not in force", what)
		}
	}
	holds(s, "at first")
	if status, body, _ := s.send(context.Background(), s.root, "PUT", "/v1/policies/main", map[string]any{"language": "rego", "rego": officePolicy}); status != http.StatusConflict || body.Get("code").String() != "policies_from_bundle" {
		t.Errorf("a policy was written: %d %s", status, body)
	}

	forged := opaBuild(t, dir, "r2", files("11.0.0.0/8", officePolicy, roots), otherKey)
	latchkeys := func(customer string, sequence int64) []byte {
		text, err := os.ReadFile(signKey)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := bundle.ParseSigner(text, "", "")
		if err != nil {
			t.Fatal(err)
		}
		built, err := new(bundle.Builder).Build(bundle.Input{Customer: customer, Sequence: sequence, DefaultPolicy: "main",
			Policies: []bundle.Policy{{Name: "main", Language: "rego", Version: 1, Rego: "package policies.main\n\nallow if input.context.ip == \"10.1.2.3\"\n"}}}, bundle.ProfileLatchkey, signer)
		if err != nil {
			t.Fatal(err)
		}
		return built.Raw
	}
	refused := func(what string, raw []byte, code string) {
		t.Helper()
		host.put(raw)
		s.comesTo("code", code)
		holds(s, what)
		if got := s.get("/v1/bundles").Get("bundles.0.active_revision").String(); got != first.Get("active_revision").String() {
			t.Errorf("%s: revision %s is in force", what, got)
		}
	}
	refused("another's signature", forged, "signature_invalid")
	refused("cut short", good[:len(good)-20], "not_a_bundle")
	refused("other roots", opaBuild(t, dir, "r3", map[string]string{".manifest": `{"roots":["app"],"rego_version":1}`, "app/data.json": `{"x":1}`}, signKey), "wrong_roots")
	refused("one that does not compile here", opaBuild(t, dir, "r4", files("11.0.0.0/8", officePolicy+"\ndeny if http.send({\"url\": \"http://x\", \"method\": \"get\"})\n", roots), signKey), "rego_type_error")
	refused("another customer's", latchkeys("acme", 9), "wrong_customer")
	host.put(good)
	s.comesTo("code", "")

	// A bundle of latchkey's, and then an older one.
	host.put(latchkeys("default", 9))
	first = s.comesTo("active_revision", "9")
	refused("an older one", latchkeys("default", 8), "older_sequence")

	// Cold, without the web server.
	web.Close()
	if err := s.end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s = serve()
	s.comesTo("code", "request_failed")
	if got := s.get("/v1/bundles").Get("bundles.0.active_sequence").Int(); got != 9 {
		t.Errorf("after a restart, sequence %d", got)
	}
	holds(s, "from disk")
	events := s.get("/v1/auditing?action=bundle.activate").Get("events").Array()
	if len(events) != 3 || events[0].Get("actor.type").String() != "system" || events[0].Get("resource.name").String() != "control-plane" || events[2].Get("changes.revision").String() != "r1" {
		t.Errorf("events %s", events)
	}
}

// pemPair makes a P-256 pair; it returns the private half's file. The public
// one stands beside it, as .pub.
func pemPair(t *testing.T, dir, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	writeFiles(t, dir, map[string]string{
		name:          string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		name + ".pub": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
	})
	return filepath.Join(dir, name)
}
