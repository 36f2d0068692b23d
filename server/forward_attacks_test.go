package server_test

import (
	"strings"
	"testing"
)

// Each of these attacks worked against some proxy or authorizer. The client's
// key may do everything to public, and nothing to admin: who gets an allow for
// a request that reaches admin has broken in.

// headersOf are those that tell of the original request in every dialect, for
// an allowed one: what a client adds to talk latchkey into another reading.
var headersOf = []string{
	"X-Original-Method", "GET", "X-Original-URI", "/public/x", "X-Original-URL", "http://api/public/x",
	"X-Forwarded-Method", "GET", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "api", "X-Forwarded-Uri", "/public/x",
}

// The attack: underscores or dots instead of dashes. Gateways and CGI make the
// same variable of both, so a proxy that replaces X-Forwarded-Uri lets
// X_Forwarded_Uri through, and the authorizer reads it (Traefik
// GHSA-5m6w-wvh7-57vm and GHSA-x677-9fxg-v5c5, header-name smuggling of
// oauth2-proxy CVE-2025-64484).
func TestForward_Attack_LookAlikeHeaders(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, f *front, ask func(method, host, target string, more ...string) *reply) {
		names := append([]string{"Authorization", "x", "X-Latchkey-Caller", "x", "X-Customer-ID", "nobody", "Host", "api"}, headersOf...)
		for _, sign := range []string{"_", "."} {
			var fake []string
			for i := 0; i < len(names); i += 2 {
				if alike := strings.ReplaceAll(names[i], "-", sign); alike != names[i] {
					fake = append(fake, alike+": "+names[i+1])
				}
			}
			fake = append(fake, "X-Forwarded"+sign+"Uri: /public/x", "X"+sign+"Original-URI: /public/x")
			ask("GET", "api", "/admin/x", f.with(fake...)...).denied(403, "scope_missing")
			ask("GET", "api", "/public/x", f.with(fake...)...).allowed(f.client) // they are as good as absent
		}
	})
	// Alone they tell nothing: the proxy did not say which request it is about.
	f := startForward(t)
	f.raw("GET /decision/forward/nginx HTTP/1.1", "Host: api", "X_Original_Method: GET", "X_Original_URI: /public/x", f.asProxy(), bearerOf(f.client)).denied(403, "invalid_original")
	f.raw("GET /decision/forward/forwarded HTTP/1.1", "Host: api", "X.Forwarded.Method: GET", "X.Forwarded.Proto: https", "X.Forwarded.Host: api", "X.Forwarded.Uri: /public/x", f.asProxy(), bearerOf(f.client)).denied(403, "invalid_original")
}

// The attack: the client sends X-Forwarded-Uri itself, through a proxy that
// adds its own beside it or does not know the header (oauth2-proxy
// CVE-2026-40575, ory/oathkeeper#1003). Two of a header are no answer to which
// of them counts; another dialect's are not read.
func TestForward_Attack_SpoofedAndDuplicatedHeaders(t *testing.T) {
	t.Parallel()
	f := startForward(t)
	for _, w := range ways {
		own := w.ask("GET", "api", "/admin/x")
		var spoofed []string // everything that is not this dialect's own
		for i := 0; i < len(headersOf); i += 2 {
			duplicate := false
			for _, line := range own[1:] {
				duplicate = duplicate || strings.HasPrefix(line, headersOf[i]+":")
			}
			if !duplicate {
				spoofed = append(spoofed, headersOf[i]+": "+headersOf[i+1])
				continue
			}
			// Before the proxy's and after it, in any case, and even with the same value.
			for _, name := range []string{headersOf[i], strings.ToLower(headersOf[i]), strings.ToUpper(headersOf[i])} {
				line := name + ": " + headersOf[i+1]
				f.raw(append(append(append([]string{}, own...), line), f.by(f.client)...)...).denied(403, "invalid_original")
				f.raw(append(append([]string{own[0], line}, own[1:]...), f.by(f.client)...)...).denied(403, "invalid_original")
			}
		}
		f.raw(append(append(own, spoofed...), f.by(f.client)...)...).denied(403, "scope_missing")
		allowed := w.ask("GET", "api", "/public/x")
		f.raw(append(append(allowed, spoofed...), f.by(f.client)...)...).allowed(f.client)

		// A proxy that leaves one out is misconfigured: nothing is guessed.
		for i := 1; i < len(allowed); i++ {
			if strings.HasPrefix(allowed[i], "X-") {
				without := append(append([]string{}, allowed[:i]...), allowed[i+1:]...)
				f.raw(append(without, f.by(f.client)...)...).denied(403, "invalid_original")
				name, _, _ := strings.Cut(allowed[i], ":")
				f.raw(append(append(without, name+": "), f.by(f.client)...)...).denied(403, "invalid_original")
			}
		}
	}
}

// The attack: RFC 7239 Forwarded, X-Forwarded-Prefix, X-Forwarded-Port,
// X-Rewrite-Url and method overrides pass through the proxy untouched, and an
// authorizer that honours them decides about another request
// (traefik/traefik#12657, GHSA-6384-m2mw-rf54).
func TestForward_Attack_HeadersThatNobodyReplaces(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, f *front, ask func(method, host, target string, more ...string) *reply) {
		more := []string{
			"Forwarded: for=1.2.3.4;host=api;proto=https", "X-Forwarded-Prefix: /public", "X-Forwarded-Port: 443", "X-Forwarded-Server: x",
			"X-Rewrite-Url: /public/x", "X-Http-Method-Override: GET", "X-Method-Override: GET", "X-Envoy-Original-Path: /public/x", "X-Real-Ip: 1.2.3.4",
			"X-Auth-Request-Redirect: /public/x", "X-Forwarded-Path: /public/x", "X-Envoy-Auth-Failure-Mode-Allowed: true",
		}
		ask("GET", "api", "/admin/x", f.with(more...)...).denied(403, "scope_missing")
		ask("DELETE", "api", "/orders/7", f.with(more...)...).denied(403, "scope_missing")
		ask("GET", "other.example.com", "/orders/7", f.with(more...)...).denied(403, "scope_missing")
	})
}

// The attack: a path whose encoded and decoded forms match different routes;
// the router goes by one, the server behind by the other (Traefik
// GHSA-6jwx-7vp4-9847). There is one form here, and what has two is denied.
func TestForward_Attack_EncodedPathAgainstDecodedPath(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, f *front, ask func(method, host, target string, more ...string) *reply) {
		ask("GET", "api", "/%61dmin/x", f.by(f.client)...).denied(403, "scope_missing") // it is admin
		ask("GET", "api", "/%2561dmin/x", f.by(f.client)...).denied(403, "ambiguous_path")
		ask("GET", "api", "/public%2f..%2fadmin/x", f.by(f.client)...).denied(403, "ambiguous_path")
		ask("GET", "api", "/public/%2e%2e%2fadmin%2fx", f.by(f.client)...).denied(403, "ambiguous_path")
	})
}

// The attack: a query that looks like the end of a path, or a path that looks
// like a query, so that a rule on the path matches text of the query
// (ory/oathkeeper#1139 and #1265).
func TestForward_Attack_QueryAsPath(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, f *front, ask func(method, host, target string, more ...string) *reply) {
		ask("GET", "api", "/admin/x?/public/x", f.by(f.client)...).denied(403, "scope_missing")
		ask("GET", "api", "/admin/x?a=/../public/x", f.by(f.client)...).denied(403, "scope_missing")
		ask("GET", "api", "/admin%3f/../public/x", f.by(f.client)...).denied(403, "ambiguous_path")
		if r := ask("GET", "api", "?/public/x", f.by(f.client)...); r.status < 400 {
			t.Errorf("%d", r.status)
		}
		ask("GET", "api", "/public/x?next=/admin/x", f.by(f.client)...).allowed(f.client)
	})
}

// The attack: the dialect is the path, so a client of Envoy tries to climb out
// of the prefix that Envoy puts before its path, into a dialect whose headers
// it may send itself.
func TestForward_Attack_ClimbingOutOfEnvoysPrefix(t *testing.T) {
	t.Parallel()
	f := startForward(t)
	spoofed := []string{"Host: api", f.asProxy(), bearerOf(f.client)}
	for i := 0; i < len(headersOf); i += 2 {
		spoofed = append(spoofed, headersOf[i]+": "+headersOf[i+1])
	}
	for _, target := range []string{
		"/../nginx", "/..//nginx", "/%2e%2e/nginx", "/..%2fnginx", "/../forwarded", "/x/../../nginx", "//../nginx", `/..\nginx`, "/./../nginx", "/../../../v1/access_keys", "//api/../nginx", "/..;/nginx",
	} {
		f.raw(append([]string{"GET /decision/forward/envoy" + target + " HTTP/1.1"}, spoofed...)...).denied(403, "ambiguous_path")
	}
	for _, line := range []string{
		"GET http://api/decision/forward/envoy/public/x HTTP/1.1", // not what Envoy sends
		"OPTIONS * HTTP/1.1",
		"GET /decision/forward/envoypublic/x HTTP/1.1",
		"GET /decision/forward/envoy HTTP/1.1",
		"GET /decision/forward/ENVOY/public/x HTTP/1.1",
		"GET /decision/forward/nginx/ HTTP/1.1",
		"GET /decision/forward/nginx%2f HTTP/1.1",
		"GET //decision/forward/nginx HTTP/1.1",
		"GET /decision/forward/./nginx HTTP/1.1",
		"GET /decision/forward HTTP/1.1",
		"GET /decision/forward/ HTTP/1.1",
	} {
		if r := f.raw(append([]string{line}, spoofed...)...); r.status < 400 || r.header.Get("X-Latchkey-Action") == "allow" {
			t.Errorf("%s: %d %s", line, r.status, r.body)
		}
	}
}

// The attack: a method that the rules do not list, in the hope that the
// authorizer falls back to one that they do, or fails open.
func TestForward_Attack_OddMethods(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, f *front, ask func(method, host, target string, more ...string) *reply) {
		for _, method := range []string{"OPTIONS", "TRACE", "CONNECT", "PROPFIND", "GeT", "FOO", "DELETE1", "QUERY"} {
			ask(method, "api", "/public/x", f.by(f.client)...).denied(403, "no_route")
		}
		for _, method := range []string{"(OTHER)", "G@T", strings.Repeat("A", 33)} {
			if r := ask(method, "api", "/public/x", f.by(f.client)...); r.status != 400 { // what is no HTTP at all
				r.denied(403, "invalid_original")
			}
		}
	})
}

// The attack: an outage of the authorizer, brought about by a body or headers
// that it chokes on, where the proxy fails open. What is too much is refused
// with a status that no proxy takes for an allow.
func TestForward_Attack_TooMuch(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, f *front, ask func(method, host, target string, more ...string) *reply) {
		ask("GET", "api", "/public/x", f.with("Cookie: "+strings.Repeat("a", 32<<10))...).allowed(f.client)
		if r := ask("GET", "api", "/public/x", f.with("Cookie: "+strings.Repeat("a", 100<<10))...); r.status != 431 {
			t.Errorf("%d %s", r.status, r.body)
		}
		ask("GET", "api", "/public/"+strings.Repeat("a", 1024), f.by(f.client)...).allowed(f.client)
		ask("GET", "api", "/public/"+strings.Repeat("a", 1025), f.by(f.client)...).denied(403, "no_route") // no id is as long
		ask("GET", "api", "/public/"+strings.Repeat("a/", 5000), f.by(f.client)...).denied(403, "ambiguous_path")
	})
}

// Traefik's ForwardAuth sends GET with these headers (its documentation,
// "Forwarded headers"), and the client's own beside them.
func TestForward_ReplaysTraefik(t *testing.T) {
	t.Parallel()
	f := startForward(t)
	replay := func(method, target string) *reply {
		return f.raw("GET /decision/forward/forwarded HTTP/1.1", "Host: 127.0.0.1:5539", "User-Agent: curl/8.5.0", "Accept: */*", bearerOf(f.client), f.asProxy(),
			"X-Forwarded-For: 203.0.113.9", "X-Forwarded-Host: api.example.com", "X-Forwarded-Method: "+method, "X-Forwarded-Port: 443",
			"X-Forwarded-Proto: https", "X-Forwarded-Server: traefik-1", "X-Forwarded-Uri: "+target, "X-Real-Ip: 203.0.113.9", "Accept-Encoding: gzip")
	}
	replay("GET", "/orders/1?full=1").allowed(f.client)
	replay("DELETE", "/orders/7").denied(403, "scope_missing")
	replay("GET", "/public/../admin/x").denied(403, "ambiguous_path")
	// preserveRequestMethod: the call has the client's method too; a body comes with forwardBody.
	r := f.raw("PUT /decision/forward/forwarded HTTP/1.1", "Host: 127.0.0.1:5539", bearerOf(f.client), f.asProxy(), "Content-Length: 0", "X-Forwarded-For: 203.0.113.9",
		"X-Forwarded-Host: api.example.com", "X-Forwarded-Method: PUT", "X-Forwarded-Proto: wss", "X-Forwarded-Uri: /orders/7")
	r.allowed(f.client)
}

// APISIX's forward-auth sends GET with these headers (its documentation, "Data
// definition") and those of request_headers; X-Latchkey-Caller is set on the
// route by proxy-rewrite, which runs before it.
func TestForward_ReplaysAPISIX(t *testing.T) {
	t.Parallel()
	f := startForward(t)
	replay := func(method, target string) *reply {
		return f.raw("GET /decision/forward/forwarded HTTP/1.1", "Host: 127.0.0.1:5539", "User-Agent: lua-resty-http/0.17.1 (Lua) ngx_lua/10026",
			"X-Forwarded-Proto: http", "X-Forwarded-Method: "+method, "X-Forwarded-Host: api.example.com", "X-Forwarded-Uri: "+target, "X-Forwarded-For: 203.0.113.9",
			bearerOf(f.client), f.asProxy())
	}
	replay("GET", "/orders/1?full=1").allowed(f.client)
	replay("DELETE", "/orders/7").denied(403, "scope_missing")
	replay("GET", "/public/%2e%2e/admin/x").denied(403, "ambiguous_path")
}

// Envoy's ext_authz over HTTP sends the client's own method and path behind
// path_prefix, its Host, Content-Length 0, and what allowed_headers names.
func TestForward_ReplaysEnvoy(t *testing.T) {
	t.Parallel()
	f := startForward(t)
	replay := func(method, target string) *reply {
		return f.raw(method+" /decision/forward/envoy"+target+" HTTP/1.1", "Host: api.example.com", "Content-Length: 0", bearerOf(f.client), f.asProxy(),
			"X-Envoy-Internal: true", "X-Forwarded-For: 203.0.113.9", "X-Envoy-Expected-Rq-Timeout-Ms: 200")
	}
	replay("GET", "/orders/1?full=1").allowed(f.client)
	replay("HEAD", "/orders/1").allowed(f.client)
	replay("LOCK", "/orders/7/lock").allowed(f.client)
	replay("DELETE", "/orders/7").denied(403, "scope_missing")
	replay("GET", "/public/%2e%2e/admin/x").denied(403, "ambiguous_path")
	// with_request_body: the body comes along, and says nothing.
	f.raw("PUT /decision/forward/envoy/orders/7 HTTP/1.1", "Host: api", f.asProxy(), bearerOf(f.client), "X-Envoy-Auth-Partial-Body: false", "Content-Type: application/json", "Content-Length: 0").allowed(f.client)
}

// nginx asks with a GET subrequest, whatever the client's method.
func TestForward_ReplaysIngressNginx(t *testing.T) {
	t.Parallel()
	f := startForward(t)
	// ingress-nginx sends X-Original-URL and not X-Original-URI unless it is
	// told to: nothing is guessed from it.
	f.raw("GET /decision/forward/nginx HTTP/1.0", "Host: api.example.com", "X-Original-URL: https://api.example.com/public/x", "X-Original-Method: GET", "X-Sent-From: nginx-ingress-controller",
		f.asProxy(), bearerOf(f.client)).denied(403, "invalid_original")
	f.raw("GET /decision/forward/nginx HTTP/1.0", "Host: api.example.com", "X-Original-URI: /public/x", "X-Original-Method: DELETE", f.asProxy(), bearerOf(f.client)).allowed(f.client)
}
