package proxies

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// find skips the test, saying so, where the proxy is not installed.
func find(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin/", "/usr/local/sbin/", "/usr/local/bin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path
		}
	}
	t.Skipf("%s is not installed (apt-get install %s): its configuration goes untested here", name, name)
	return ""
}

// starter runs a proxy between addresses, with a key or, where it can, with
// latchkey's socket instead of address and key.
type starter func(t *testing.T, front, latchkey, upstream, key string)

func startNginx(t *testing.T, front, latchkey, upstream, key string) {
	t.Helper()
	path := find(t, "nginx")
	dir := t.TempDir()
	conf := config(t, "nginx.conf", "127.0.0.1:8080", front, "127.0.0.1:5539", latchkey, "127.0.0.1:9000", upstream, "LATCHKEY_CALLER", key)
	write(t, filepath.Join(dir, "latchkey.conf"), conf)
	main := write(t, filepath.Join(dir, "nginx.conf"), `
daemon off;
worker_processes 1;
pid `+dir+`/pid;
error_log stderr warn;
events {}
http {
    access_log off;
    client_body_temp_path `+dir+`/body;
    proxy_temp_path `+dir+`/proxy;
    fastcgi_temp_path `+dir+`/fastcgi;
    uwsgi_temp_path `+dir+`/uwsgi;
    scgi_temp_path `+dir+`/scgi;
    include `+dir+`/latchkey.conf;
}
`)
	if os.Getuid() == 0 { // its workers give up root; let them read and write there
		text, err := os.ReadFile(main)
		if err != nil {
			t.Fatal(err)
		}
		write(t, main, "user root;\n"+string(text))
	}
	run(t, front, exec.Command(path, "-e", "stderr", "-p", dir, "-c", main))
}

func startCaddy(t *testing.T, front, latchkey, upstream, key string) {
	t.Helper()
	path := find(t, "caddy")
	dir := t.TempDir()
	conf := config(t, "caddy.Caddyfile", ":8080", front[strings.LastIndexByte(front, ':'):], "127.0.0.1:5539", latchkey, "127.0.0.1:9000", upstream)
	file := write(t, filepath.Join(dir, "Caddyfile"), "{\n\tadmin off\n}\n"+conf)
	cmd := exec.Command(path, "run", "--config", file, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir, "LATCHKEY_CALLER="+key)
	run(t, front, cmd)
}

func startHAProxy(t *testing.T, front, latchkey, upstream, key string) {
	t.Helper()
	path := find(t, "haproxy")
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "haproxy.cfg"), config(t, "haproxy.cfg", "127.0.0.1:8080", front, "127.0.0.1:9000", upstream))
	write(t, filepath.Join(dir, "haproxy.lua"), config(t, "haproxy.lua", "127.0.0.1:5539", latchkey))
	cmd := exec.Command(path, "-db", "-f", file)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LATCHKEY_CALLER="+key)
	run(t, front, cmd)
}

var proxies = []struct {
	name  string
	start starter
}{{"nginx", startNginx}, {"caddy", startCaddy}, {"haproxy", startHAProxy}}

// site is a client's view of one proxy, with what stands behind.
type site struct {
	*testing.T
	proxy string
	front string
	pdp   *pdp
	up    *upstream
}

func eachProxy(t *testing.T, test func(*site)) {
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			find(t, p.name)
			s := &site{T: t, proxy: p.name, front: freeAddress(t), pdp: startLatchkey(t), up: startUpstream(t)}
			p.start(t, s.front, s.pdp.address, s.up.address, s.pdp.caller)
			test(s)
		})
	}
}

func (s *site) bearer() string { return "Authorization: Bearer " + s.pdp.client.secret }

// passes sends a request that must reach the upstream, once and unharmed.
func (s *site) passes(body string, lines ...string) arrived {
	s.Helper()
	s.up.take()
	a := sendBody(s, s.front, body, lines...)
	list := s.up.take()
	if a.status != 200 || a.header.Get("X-Upstream") != "reached" || len(list) != 1 {
		s.Fatalf("%q: %d %v %q, reached the upstream %d times", lines, a.status, a.header, a.body, len(list))
	}
	got := list[0]
	method, rest, _ := strings.Cut(lines[0], " ")
	target, _, _ := strings.Cut(rest, " ")
	if got.method != method || got.uri != target || got.body != body {
		s.Errorf("%q: the upstream got %s %s %q", lines, got.method, got.uri, got.body)
	}
	s.identity(got)
	return got
}

// identity holds what reached the upstream to latchkey's word: nothing in its
// name from anybody else, in any spelling, and no key.
func (s *site) identity(got arrived) {
	s.Helper()
	for name, values := range got.header {
		plain := strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(name))
		if strings.HasPrefix(plain, "x-latchkey-") && (plain != strings.ToLower(name) || len(values) != 1) {
			s.Errorf("the upstream got %s: %q", name, values)
		}
		if joined := strings.Join(values, " "); strings.Contains(joined, s.pdp.caller) || strings.Contains(joined, s.pdp.client.secret) {
			s.Errorf("the upstream got a key in %s", name)
		}
	}
	h := got.header
	if h.Get("X-Latchkey-Subject") != s.pdp.client.id || h.Get("X-Latchkey-Customer") != "default" || h.Get("X-Latchkey-Key-Id") != s.pdp.client.id ||
		!strings.HasPrefix(h.Get("X-Latchkey-Decision-Id"), "dec_") || h.Get("X-Latchkey-Action") != "allow" || h.Get("X-Latchkey-Reason") != "scope_permits" || h["X-Latchkey-Caller"] != nil {
		s.Errorf("the upstream got %v", h)
	}
}

// stopped sends a request that must not reach the upstream; status 0 takes any
// but a success, for what a proxy itself may refuse.
func (s *site) stopped(status int, code string, lines ...string) answer {
	s.Helper()
	s.up.take()
	a := send(s, s.front, lines...)
	if list := s.up.take(); len(list) != 0 || a.header.Get("X-Upstream") != "" {
		s.Errorf("%q: reached the upstream as %+v", lines, list)
	}
	if status != 0 && a.status != status || a.status >= 200 && a.status < 400 {
		s.Errorf("%q: %d, want %d: %s", lines, a.status, status, a.body)
	}
	ownPage := s.proxy == "nginx" && a.status == 401
	if code != "" && !ownPage && !strings.Contains(a.body, `"code":"`+code+`"`) {
		s.Errorf("%q: want %s: %s", lines, code, a.body)
	}
	if strings.Contains(a.body, s.pdp.caller) || a.header.Get("X-Latchkey-Caller") != "" {
		s.Errorf("%q: the proxy's key shows: %v %s", lines, a.header, a.body)
	}
	return a
}

func TestProxy_AllowsAndDenies(t *testing.T) {
	eachProxy(t, func(s *site) {
		got := s.passes("", "GET /orders/1?full=1&x=%2F HTTP/1.1", "Host: app.example.com", s.bearer())
		if s.proxy != "caddy" && got.host != "app.example.com" {
			s.Errorf("the upstream was called %q", got.host)
		}
		s.passes(`{"a":1}`, "PUT /orders/7 HTTP/1.1", "Host: app", s.bearer(), "Content-Type: application/json", "Content-Length: 7")
		s.passes("", "POST /orders/7/approve HTTP/1.1", "Host: app", s.bearer(), "Content-Length: 0")
		s.passes("", "GET /public/a/b.txt HTTP/1.1", "Host: files.example.com", s.bearer())
		s.passes("", "GET /public/%61%20b HTTP/1.1", "Host: FILES.example.com", s.bearer())

		s.stopped(403, "scope_missing", "PUT /orders/8 HTTP/1.1", "Host: app", s.bearer(), "Content-Length: 0")
		s.stopped(403, "scope_missing", "DELETE /orders/7 HTTP/1.1", "Host: app", s.bearer())
		s.stopped(403, "scope_missing", "GET /secret/x HTTP/1.1", "Host: files.example.com", s.bearer())
		s.stopped(403, "no_route", "GET /secret/x HTTP/1.1", "Host: app", s.bearer())
		s.stopped(403, "no_route", "OPTIONS /orders/7 HTTP/1.1", "Host: app", s.bearer())
		if a := s.stopped(403, "scope_missing", "GET /secret/x HTTP/1.1", "Host: files.example.com", s.bearer()); a.header.Get("Content-Type") != "application/problem+json" {
			s.Errorf("a denial of type %q", a.header.Get("Content-Type"))
		}
	})
}

func TestProxy_AsksForACredential(t *testing.T) {
	eachProxy(t, func(s *site) {
		s.pdp.waitExpired()
		for code, lines := range map[string][]string{
			"":                   {},
			"invalid_credential": {"Authorization: Bearer nonsense"},
			"key_expired":        {"Authorization: Bearer " + s.pdp.expired.secret},
		} {
			a := s.stopped(401, code, append([]string{"GET /orders/1 HTTP/1.1", "Host: app"}, lines...)...)
			if got := a.header.Get("WWW-Authenticate"); !strings.HasPrefix(got, `Bearer realm="latchkey"`) {
				s.Errorf("%s: WWW-Authenticate %q", code, got)
			}
		}
		s.stopped(401, "invalid_credential", "GET /orders/1 HTTP/1.1", "Host: app", "Authorization: Bearer "+s.pdp.foreign.secret, "X-Customer-ID: acme")
		s.stopped(401, "invalid_credential", "GET /orders/1 HTTP/1.1", "Host: app", "Authorization: Bearer "+s.pdp.foreign.secret, "X-Latchkey-Customer: acme")
		// Two credentials: whichever the proxy passes on, the second never adds to the first.
		s.stopped(0, "", "GET /orders/1 HTTP/1.1", "Host: app", s.bearer(), s.bearer())
		s.stopped(0, "", "GET /orders/1 HTTP/1.1", "Host: app", "Authorization: Bearer x", s.bearer())
	})
}

// spoofed are headers by which a client tells of another request than its own,
// or of another client.
func spoofed(s *site) (lines []string) {
	for _, h := range []string{
		"X-Original-Method: GET", "X-Original-URI: /public/x", "X-Original-URL: http://files.example.com/public/x",
		"X-Forwarded-Method: GET", "X-Forwarded-Proto: https", "X-Forwarded-Host: files.example.com", "X-Forwarded-Uri: /public/x", "X-Forwarded-For: 10.0.0.1",
		"Forwarded: host=files.example.com;proto=https", "X-Forwarded-Prefix: /public", "X-Rewrite-Url: /public/x", "X-Envoy-Original-Path: /public/x",
		"X-Customer-Id: acme",
		"X-Latchkey-Subject: admin", "X-Latchkey-Customer: acme", "X-Latchkey-Key-Id: 1", "X-Latchkey-Decision-Id: dec_1", "X-Latchkey-Action: allow", "X-Latchkey-Reason: none",
	} {
		name, value, _ := strings.Cut(h, ":")
		lines = append(lines, h, strings.ReplaceAll(name, "-", "_")+":"+value, strings.ReplaceAll(name, "-", ".")+":"+value)
	}
	lines = append(lines, "X-Latchkey_Subject: admin", "X_Latchkey-Subject: admin", "x.latchkey-subject: admin")
	return append(lines, "X-Latchkey-Caller: "+s.pdp.client.secret, "X_Latchkey_Caller: "+s.pdp.client.secret)
}

func TestProxy_Attack_SpoofedHeaders(t *testing.T) {
	eachProxy(t, func(s *site) {
		fake := spoofed(s)
		// Caddy and HAProxy refuse some of these names themselves: one by one,
		// then, so that none hides another.
		for _, h := range fake {
			s.stopped(0, "", "GET /secret/x HTTP/1.1", "Host: files.example.com", s.bearer(), h)
			s.stopped(0, "", "GET /secret/x HTTP/1.1", "Host: files.example.com", h, s.bearer(), h)
			s.stopped(0, "", "DELETE /orders/7 HTTP/1.1", "Host: app", s.bearer(), h)
			s.stopped(0, "", "GET /public/x HTTP/1.1", "Host: files.example.com", h) // no credential
		}
		for _, h := range fake { // and a request that may pass does, with latchkey's word alone
			s.passes("", "GET /orders/1 HTTP/1.1", "Host: app", s.bearer(), h)
		}
		s.passes("", append([]string{"GET /orders/1 HTTP/1.1", "Host: app", s.bearer()}, fake...)...)
		s.stopped(403, "scope_missing", append([]string{"GET /secret/x HTTP/1.1", "Host: files.example.com", s.bearer()}, fake...)...)
	})
}

// However a proxy reads them, no such request may reach the upstream.
func TestProxy_Attack_AmbiguousPaths(t *testing.T) {
	eachProxy(t, func(s *site) {
		for _, target := range []string{
			"/public/../secret/x", "/public/%2e%2e/secret/x", "/public/.%2e/secret/x", "/public/./x", "/public/..%2fsecret/x", "/public/..%5csecret/x", "/public/a%2fb",
			`/public/..\secret\x`, "/public/%252e%252e/secret/x", "/public/%25", "/public//secret/x", "//secret/x", "/public/x;/../secret", "/public/..;/secret/x", "/public/%3bx",
			"/public/%00", "/public/%0a", "/public/%ff", "/public/%c0%ae%c0%ae/secret", "/public/%zz", "/public/a#b", "/public/%3f", "/public/%23",
			"http://files.example.com/secret/x", "http://files.example.com/public/../secret/x", "*", "secret/x",
		} {
			s.stopped(0, "", "GET "+target+" HTTP/1.1", "Host: files.example.com", s.bearer())
		}
		s.stopped(0, "", "GET /public/x?key="+s.pdp.client.secret+" HTTP/1.1", "Host: files.example.com", s.bearer())
		s.stopped(0, "", "GET /public/x HTTP/1.1", "Host: files.example.com", "Host: app", s.bearer())
		s.stopped(0, "", "GET /secret/x HTTP/1.1", "Host: FILES.example.com.:80", s.bearer())
	})
}

// A proxy whose latchkey is gone lets nothing pass, and neither does one whose
// own key does not hold.
func TestProxy_FailsClosed(t *testing.T) {
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			find(t, p.name)
			up, k := startUpstream(t), startLatchkey(t)
			for name, c := range map[string]struct {
				latchkey, key string
				status        [2]int
			}{
				"outage":     {freeAddress(t), k.caller, [2]int{500, 599}},
				"wrong key":  {k.address, "nonsense", [2]int{401, 401}},
				"client key": {k.address, k.client.secret, [2]int{403, 403}},
			} {
				t.Run(name, func(t *testing.T) {
					front := freeAddress(t)
					p.start(t, front, c.latchkey, up.address, c.key)
					a := send(t, front, "GET /orders/1 HTTP/1.1", "Host: app", "Authorization: Bearer "+k.client.secret)
					if a.status < c.status[0] || a.status > c.status[1] || len(up.take()) != 0 {
						t.Errorf("%d %v %s", a.status, a.header, a.body)
					}
				})
			}
		})
	}
}

// The socket needs no key: nginx with the line that its file tells of.
func TestProxy_NginxOverTheSocket(t *testing.T) {
	find(t, "nginx")
	k, up, front := startLatchkey(t), startUpstream(t), freeAddress(t)
	info, err := os.Stat(k.socket)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
	startNginx(t, front, "unix:"+k.socket, up.address, "none")
	s := &site{T: t, proxy: "nginx", front: front, pdp: k, up: up}
	s.passes("", "GET /orders/1 HTTP/1.1", "Host: app", s.bearer())
	s.stopped(403, "scope_missing", "DELETE /orders/7 HTTP/1.1", "Host: app", s.bearer())
	s.stopped(401, "", "GET /orders/1 HTTP/1.1", "Host: app", "Authorization: Bearer "+k.foreign.secret)
	// Nothing but the paths for proxies is served there.
	client := &http.Client{Transport: &http.Transport{Dial: func(string, string) (net.Conn, error) { return net.Dial("unix", k.socket) }}}
	resp, err := client.Get("http://latchkey/health/live")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 404 {
		t.Errorf("the socket serves /health/live: %d", resp.StatusCode)
	}
}
