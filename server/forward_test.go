package server_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/forward"
)

const forwardRules = `
routes:
  - {path: "/admin/{rest...}", type: admin, id: "{rest}"}
  - {host: other.example.com, path: "/orders/{id}", type: foreign, id: "{id}"}
  - {customer: acme, path: "/acme/{id}", type: order, id: "{id}"}
  - {path: "/orders/{id}", type: order, id: "{id}"}
  - {path: "/orders/{id}/lock", methods: [LOCK, POST], action: lock, type: order, id: "{id}"}
  - {path: "/public/{rest...}", type: public, id: "{rest}"}
`

// forwardKeyScopes may read and update orders and everything public, and
// nothing of admin.
const forwardKeyScopes = `{"order":[{"f":"*","p":2},{"f":"7","p":4,"a":["lock"]}],"public":[{"f":"*","p":15}]}`

// front is a server with routes, a proxy's key, and a client's.
type front struct {
	*api
	proxy, client key
}

func startForward(t *testing.T, change ...func(*options)) *front {
	t.Helper()
	routes, err := forward.ParseRoutes([]byte(forwardRules))
	if err != nil {
		t.Fatal(err)
	}
	a := start(t, append([]func(*options){func(o *options) { o.config.Routes = routes }}, change...)...)
	return &front{api: a, proxy: a.create(`{"decision":true}`), client: a.create(forwardKeyScopes)}
}

// raw sends a request as it is written, and reads the reply.
func (f *front) raw(lines ...string) *reply {
	f.Helper()
	return rawTo(f.api, "tcp", f.addr, lines...)
}

func rawTo(a *api, network, addr string, lines ...string) *reply {
	a.Helper()
	conn, err := net.Dial(network, addr)
	if err != nil {
		a.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	text := strings.Join(lines, "\r\n") + "\r\nConnection: close\r\n\r\n"
	if _, err := conn.Write([]byte(text)); err != nil {
		a.Fatal(err)
	}
	method, _, _ := strings.Cut(lines[0], " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		a.Fatalf("%q: %v", lines[0], err)
	}
	defer resp.Body.Close()
	body, err := readAll(resp.Body)
	if err != nil {
		a.Fatal(err)
	}
	r := &reply{TB: a.TB, request: lines[0], status: resp.StatusCode, header: resp.Header, body: body}
	if a.leaks(body) || a.leaks(fmt.Sprint(resp.Header)) {
		a.Errorf("%q: the answer shows a secret: %v %s", lines[0], resp.Header, body)
	}
	return r
}

// identity are the headers that every answer has, as it has them.
func (r *reply) identity() (list []string) {
	for _, name := range []string{"Subject", "Customer", "Key-Id", "Decision-Id", "Action", "Reason"} {
		values := r.header["X-Latchkey-"+name]
		if len(values) != 1 {
			r.Errorf("%s: X-Latchkey-%s stands %d times: %q", r.request, name, len(values), values)
		}
		list = append(list, strings.Join(values, "|"))
	}
	return list
}

// allowed holds an answer to an allow for the key.
func (r *reply) allowed(k key) *reply {
	r.Helper()
	if r.status != 200 || r.body != "" || r.header.Get("Content-Type") != "" || r.header.Get("Cache-Control") != "no-store" {
		r.Fatalf("%s: want a bare 200: %d %v %s", r.request, r.status, r.header, r.body)
	}
	id := r.identity()
	if id[0] != k.id || id[2] != k.id || id[1] == "" || !strings.HasPrefix(id[3], "dec_") || id[4] != "allow" || id[5] != "scope_permits" {
		r.Errorf("%s: identity %q", r.request, id)
	}
	return r
}

// denied holds an answer to a refusal that a proxy can pass on.
func (r *reply) denied(status int, code string) *reply {
	r.Helper()
	if r.status != status || !strings.HasPrefix(r.request, "HEAD ") && (r.text("code") != code || !slices.ContainsFunc(r.get("reasons").Array(), func(v gjson.Result) bool { return v.String() == code })) {
		r.Errorf("%s: got %d %s, want %d %s", r.request, r.status, r.body, status, code)
		return r
	}
	if r.header.Get("Content-Type") != "application/problem+json" || r.header.Get("Cache-Control") != "no-store" || !strings.HasPrefix(r.header.Get("WWW-Authenticate"), `Bearer realm="latchkey"`) {
		r.Errorf("%s: headers %v", r.request, r.header)
	}
	if id := r.identity(); id[4] == "allow" || id[5] != code {
		r.Errorf("%s: identity %q", r.request, id)
	}
	return r
}

// way is one dialect: how it tells of an original request.
type way struct {
	name string
	ask  func(method, host, target string) []string
}

var ways = []way{
	{"nginx", func(method, host, target string) []string {
		return []string{"GET /decision/forward/nginx HTTP/1.1", "Host: " + host, "X-Original-Method: " + method, "X-Original-URI: " + target}
	}},
	{"forwarded", func(method, host, target string) []string {
		return []string{"GET /decision/forward/forwarded HTTP/1.1", "Host: latchkey", "X-Forwarded-Method: " + method, "X-Forwarded-Proto: https", "X-Forwarded-Host: " + host, "X-Forwarded-Uri: " + target}
	}},
	{"envoy", func(method, host, target string) []string {
		return []string{method + " /decision/forward/envoy" + target + " HTTP/1.1", "Host: " + host, "Content-Length: 0"}
	}},
}

func eachWay(t *testing.T, test func(t *testing.T, f *front, ask func(method, host, target string, more ...string) *reply)) {
	t.Helper()
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			f := startForward(t)
			test(t, f, func(method, host, target string, more ...string) *reply {
				t.Helper()
				return f.raw(append(w.ask(method, host, target), more...)...)
			})
		})
	}
}

func (f *front) asProxy() string              { return "X-Latchkey-Caller: " + f.proxy.secret }
func bearerOf(k key) string                   { return "Authorization: Bearer " + k.secret }
func (f *front) by(k key) []string            { return []string{f.asProxy(), bearerOf(k)} }
func (f *front) with(more ...string) []string { return append(f.by(f.client), more...) }

func TestForward_AllowsWhatTheClientsKeyPermits(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, f *front, ask func(method, host, target string, more ...string) *reply) {
		for _, q := range []struct{ method, target string }{
			{"GET", "/orders/1"}, {"HEAD", "/orders/1"}, {"GET", "/orders/1?x=%2F..%2Fadmin&y=//"}, {"PUT", "/orders/7"}, {"PATCH", "/orders/7"},
			{"POST", "/orders/7/lock"}, {"LOCK", "/orders/7/lock"}, {"GET", "/orders/%61%20b"}, {"GET", "/orders/%C3%A9"}, {"DELETE", "/public/a/b/"},
		} {
			ask(q.method, "api.example.com", q.target, f.by(f.client)...).allowed(f.client)
		}
	})
}

func TestForward_DeniesWhatTheClientsKeyDoesNotPermit(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, f *front, ask func(method, host, target string, more ...string) *reply) {
		for _, q := range []struct{ method, host, target, code string }{
			{"PUT", "api", "/orders/8", "scope_missing"},
			{"DELETE", "api", "/orders/7", "scope_missing"},
			{"GET", "api", "/admin/x", "scope_missing"},
			{"GET", "other.example.com", "/orders/7", "scope_missing"},
			{"GET", "OTHER.example.com.:8443", "/orders/7", "scope_missing"}, // the same host, in another spelling
			{"GET", "api", "/acme/7", "no_route"},                            // another customer's rule
			{"GET", "api", "/orders", "no_route"},
			{"GET", "api", "/orders/", "no_route"},
			{"GET", "api", "/orders/7/", "no_route"},
			{"GET", "api", "/Orders/7", "no_route"},
			{"OPTIONS", "api", "/orders/7", "no_route"},
			{"TRACE", "api", "/orders/7", "no_route"},
			{"PROPFIND", "api", "/orders/7", "no_route"},
			{"get", "api", "/orders/7", "no_route"},
			{"GET", "api", "/", "no_route"},
		} {
			r := ask(q.method, q.host, q.target, f.by(f.client)...).denied(403, q.code)
			id := r.identity()
			if id[0] != f.client.id || id[1] != "default" || id[2] != f.client.id || id[4] != "deny" || (id[3] == "") != (q.code == "no_route") {
				t.Errorf("%+v: identity %q", q, id)
			}
			if got := r.header.Get("WWW-Authenticate"); !strings.Contains(got, "insufficient_scope") {
				t.Errorf("%+v: WWW-Authenticate %q", q, got)
			}
		}
	})
}

// 401 asks the client for another credential; a proxy passes it on. It says
// what became of a key only to who holds its secret.
func TestForward_AsksForACredential(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, f *front, ask func(method, host, target string, more ...string) *reply) {
		expired := f.create(forwardKeyScopes, `"expires_at":"`+f.clock.in(time.Second)+`"`)
		revoked := f.create(forwardKeyScopes)
		f.do("DELETE", "/v1/access_keys/"+revoked.id, f.root, "").is(204)
		f.customer("acme")
		foreign := f.createFor("acme", forwardKeyScopes)
		f.clock.advance(time.Second)
		for _, target := range []string{"/orders/1", "/nowhere", "/orders/%2e%2e"} {
			known := target == "/orders/1" // elsewhere there is no decision to tell of
			for _, c := range []struct {
				name, code string
				headers    []string
				challenge  string
			}{
				{"none", "invalid_credential", nil, `Bearer realm="latchkey"`},
				{"empty", "invalid_credential", []string{"Authorization: "}, "invalid_token"},
				{"basic", "invalid_credential", []string{"Authorization: Basic " + f.client.secret}, "invalid_token"},
				{"unknown", "invalid_credential", []string{"Authorization: Bearer " + reseal(f.client.handle+"_"+strings.Repeat("0", 43)+"_x")}, "invalid_token"},
				{"handle", "invalid_credential", []string{"Authorization: Bearer " + f.client.handle}, "invalid_token"},
				{"two", "invalid_credential", []string{bearerOf(f.client), bearerOf(f.client)}, "invalid_token"},
				{"two in one", "invalid_credential", []string{"Authorization: Bearer " + f.client.secret + ", Bearer " + f.client.secret}, "invalid_token"},
				{"another customer's", "invalid_credential", []string{bearerOf(foreign)}, "invalid_token"},
				{"expired", "key_expired", []string{bearerOf(expired)}, "invalid_token"},
				{"revoked", "key_revoked", []string{bearerOf(revoked)}, "invalid_token"},
			} {
				if !known {
					c.code = "invalid_credential"
				}
				r := ask("GET", "api", target, append(c.headers, f.asProxy())...).denied(401, c.code)
				if got := r.header.Get("WWW-Authenticate"); !strings.HasSuffix(got, c.challenge) && !strings.HasSuffix(got, c.challenge+`"`) {
					t.Errorf("%s: WWW-Authenticate %q", c.name, got)
				}
				if id := r.identity(); c.code == "invalid_credential" && id[0]+id[2] != "" {
					t.Errorf("%s: identity %q", c.name, id)
				}
			}
		}
		// The root key is nobody's subject.
		ask("GET", "api", "/orders/1", f.asProxy(), "Authorization: Bearer "+f.root).denied(403, "subject_not_allowed")
	})
}

// A proxy that cannot say who it is gets no decisions: anybody could ask.
func TestForward_ProxiesAuthenticateThemselves(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, f *front, ask func(method, host, target string, more ...string) *reply) {
		expired := f.create(`{"decision":true}`, `"expires_at":"`+f.clock.in(time.Second)+`"`)
		f.clock.advance(time.Second)
		ask("GET", "api", "/orders/1", bearerOf(f.client)).denied(401, "caller_required")
		for name, headers := range map[string][]string{
			"unknown":    {"X-Latchkey-Caller: nobody"},
			"empty":      {"X-Latchkey-Caller: "},
			"two":        {f.asProxy(), f.asProxy()},
			"expired":    {"X-Latchkey-Caller: " + expired.secret},
			"look-alike": {"X_Latchkey_Caller: " + f.proxy.secret, "X-Latchkey-Caller: x"},
		} {
			r := ask("GET", "api", "/orders/1", append(headers, bearerOf(f.client))...).denied(401, "invalid_caller")
			if id := r.identity(); id[0]+id[1]+id[2]+id[3]+id[4] != "" {
				t.Errorf("%s: identity %q", name, id)
			}
		}
		ask("GET", "api", "/orders/1", "X_Latchkey_Caller: "+f.proxy.secret, "X.Latchkey.Caller: "+f.proxy.secret, bearerOf(f.client)).denied(401, "caller_required")
		// The client's own key has no scope to ask for decisions.
		ask("GET", "api", "/orders/1", "X-Latchkey-Caller: "+f.client.secret, bearerOf(f.client)).denied(403, "caller_not_permitted")
		ask("GET", "api", "/orders/1", "X-Latchkey-Caller: "+f.root, bearerOf(f.client)).allowed(f.client)
		if !strings.Contains(f.log.String(), "a proxy was refused") {
			t.Error("a proxy that is not let in is in no log")
		}
	})
}

// X-Customer-ID is a header of the API's own clients; here it is the end
// client's, who must not choose whose keys hold.
func TestForward_ClientsCannotChooseTheCustomer(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, f *front, ask func(method, host, target string, more ...string) *reply) {
		f.customer("acme")
		foreign := f.createFor("acme", forwardKeyScopes)
		ask("GET", "api", "/orders/1", append(f.by(f.client), "X-Customer-ID: acme", "X-Customer-ID: nobody")...).allowed(f.client)
		ask("GET", "api", "/orders/1", append(f.by(foreign), "X-Customer-ID: acme")...).denied(401, "invalid_credential")
		ask("GET", "api", "/orders/1", "X-Latchkey-Caller: "+f.root, bearerOf(foreign), "X-Customer-ID: acme").denied(401, "invalid_credential")
		acme := f.createFor("acme", `{"decision":true}`)
		ask("GET", "api", "/acme/1", "X-Latchkey-Caller: "+acme.secret, bearerOf(foreign)).allowed(foreign)
	})
}

// A path that latchkey and the server behind could read differently would let
// a client ask for one resource and get another.
func TestForward_AmbiguousPathsAreDenied(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, f *front, ask func(method, host, target string, more ...string) *reply) {
		for _, target := range []string{
			"/public/../admin/x", "/public/%2e%2e/admin/x", "/public/.%2E/admin/x", "/public/./x", "/public/..", "/public/%2e",
			"/public/..%2fadmin/x", "/public/..%5cadmin/x", "/public/a%2Fb", `/public/..\admin\x`, "/public%2fx",
			"/public/%252e%252e/admin/x", "/public/%25", "/public/a%00", "/public/a%0d%0ab", "/public/%7f", "/public/%c2%85",
			"/public//admin/x", "//admin/x", "/public/a//", "/public/x;/../admin", "/public/a;b=c", "/public/a%3bb", "/public/%3fadmin", "/public/%23",
			"/public/%", "/public/%2", "/public/%zz", "/public/%ff", "/public/%c0%ae%c0%ae/x", "/public/%ed%a0%80", "/public/a#b", "/public/é",
		} {
			if r := ask("GET", "api", target, f.by(f.client)...); r.status != 400 { // what is no HTTP at all
				r.denied(403, "ambiguous_path")
			} else if strings.HasPrefix(r.request, "GET /decision/forward/envoy") == false {
				t.Errorf("%q: %d %s", target, r.status, r.body)
			}
		}
		for _, target := range []string{"/public/..a", "/public/...", "/public/a.b", "/public/a+b", "/public/a:b@c,d=e&f!$'()*~", "/public/%40"} {
			ask("GET", "api", target, f.by(f.client)...).allowed(f.client)
		}
	})
}

// A credential in a URL stands in the logs of every server on its way.
func TestForward_CredentialsInURLsAreDenied(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, f *front, ask func(method, host, target string, more ...string) *reply) {
		for _, target := range []string{"/orders/1?key=" + f.client.secret, "/orders/1?a=%6" + strings.TrimPrefix(fmt.Sprintf("%x", "l"), "6") + f.client.secret[1:], "/orders/" + f.client.secret} {
			ask("GET", "api", target, f.by(f.client)...).denied(403, "credential_in_query")
		}
	})
}

// Whatever answers, the headers about the subject are there, once, and
// latchkey's own: a client's copies of them say nothing.
func TestForward_ClientsHeadersOfOursAreNotRead(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, f *front, ask func(method, host, target string, more ...string) *reply) {
		fake := []string{"X-Latchkey-Subject: admin", "X-Latchkey-Customer: acme", "X-Latchkey-Key-Id: 1", "X-Latchkey-Decision-Id: dec_1", "X-Latchkey-Action: allow", "X-Latchkey-Reason: none"}
		ask("GET", "api", "/orders/1", append(f.by(f.client), fake...)...).allowed(f.client)
		r := ask("GET", "api", "/orders/1", append(fake, f.asProxy())...).denied(401, "invalid_credential")
		if id := r.identity(); id[0] != "" || id[1] != "default" || id[2] != "" || id[3] != "" || id[4] != "" {
			t.Errorf("identity %q", id)
		}
	})
}

func TestForward_OddHostsAreDenied(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, f *front, ask func(method, host, target string, more ...string) *reply) {
		for _, host := range []string{"a b", "api:x", "api:", "user@api", "api/x", "a..b", ".", "api..", "[::1", "api,other.example.com", "é"} {
			if r := ask("GET", host, "/orders/1", f.by(f.client)...); r.status != 400 { // what is no HTTP at all
				r.denied(403, "invalid_original")
			}
		}
		for _, host := range []string{"api:443", "[::1]:8080", "10.0.0.1", "API.Example.COM"} {
			ask("GET", host, "/orders/1", f.by(f.client)...).allowed(f.client)
		}
	})
}

// Without routes there is nothing that a request could stand for.
func TestForward_WithoutRoutesEverythingIsDenied(t *testing.T) {
	t.Parallel()
	f := startForward(t, func(o *options) { o.config.Routes = nil })
	for _, w := range ways {
		f.raw(append(w.ask("GET", "api", "/orders/1"), f.by(f.client)...)...).denied(403, "no_route")
	}
}

func TestForward_AnswersMayBeKeptOnlyWhereConfigured(t *testing.T) {
	t.Parallel()
	f := startForward(t, func(o *options) { o.config.ForwardCache = true })
	ends := f.create(forwardKeyScopes, `"expires_at":"`+f.clock.in(10*time.Second)+`"`)
	last := f.create(forwardKeyScopes, `"expires_at":"`+f.clock.in(500*time.Millisecond)+`"`)
	for i, vary := range []string{
		"Authorization, X-Latchkey-Caller, X-Original-Method, X-Original-URI, Host",
		"Authorization, X-Latchkey-Caller, X-Forwarded-Method, X-Forwarded-Proto, X-Forwarded-Host, X-Forwarded-Uri",
		"Authorization, X-Latchkey-Caller, Host",
	} {
		ask := func(target string, k key) *reply {
			return f.raw(append(ways[i].ask("GET", "api", target), f.by(k)...)...)
		}
		for _, c := range []struct {
			k       key
			control string
		}{{f.client, "public, max-age=30"}, {ends, "public, max-age=10"}} {
			r := ask("/orders/1", c.k)
			if r.status != 200 || r.header.Get("Cache-Control") != c.control || r.header.Get("Vary") != vary || len(vary) > 128 { // nginx keeps no longer one
				t.Errorf("%s: %d %v", ways[i].name, r.status, r.header)
			}
		}
		// What has less than a second to live, and every refusal, is nobody's to keep.
		ask("/orders/1", last).allowed(last)
		ask("/admin/1", f.client).denied(403, "scope_missing")
		ask("/nowhere", f.client).denied(403, "no_route")
	}
}

// A listener that is one customer's knows its caller by the socket.
func TestForward_SocketsActForTheirCustomer(t *testing.T) {
	t.Parallel()
	f := startForward(t)
	f.customer("acme")
	foreign := f.createFor("acme", forwardKeyScopes)
	s := f.server
	serve := func(customer string) string {
		path := filepath.Join(t.TempDir(), "s")
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- s.ServeForward(ln, customer) }()
		f.sockets = append(f.sockets, served)
		return path
	}
	acme, gone := serve("acme"), serve("nobody")
	for _, w := range ways {
		ask := func(socket string, more ...string) *reply {
			return rawTo(f.api, "unix", socket, append(w.ask("GET", "api", "/acme/1"), more...)...)
		}
		ask(acme, bearerOf(foreign)).allowed(foreign)
		// A key in the header, which may well be the client's, does not count here.
		ask(acme, bearerOf(foreign), f.asProxy(), "X-Customer-ID: default").allowed(foreign)
		ask(acme, bearerOf(f.client), f.asProxy()).denied(401, "invalid_credential")
		ask(acme).denied(401, "invalid_credential")
		ask(gone, bearerOf(foreign)).denied(401, "invalid_caller")
	}
	// Nothing else is served there: not even with the root key.
	for _, path := range []string{"/v1/access_keys", "/decision", "/health/live", "/openapi.yaml", "/decision/forward/other"} {
		if r := rawTo(f.api, "unix", acme, "GET "+path+" HTTP/1.1", "Host: x", "Authorization: Bearer "+f.root); r.status != 404 {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
	f.do("DELETE", "/v1/customers/acme", f.root, "").is(204)
	rawTo(f.api, "unix", acme, append(ways[0].ask("GET", "api", "/acme/1"), bearerOf(foreign))...).denied(401, "invalid_caller")
}
