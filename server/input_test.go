package server_test

import (
	"net/http"
	"strings"
	"testing"
)

// jsonRoutes are the routes with a JSON body: a credential that may, and a
// body that is taken.
func jsonRoutes(a *api) map[string][2]string {
	k := a.create(everyScope)
	ask := evaluation(subject(k.id), "read", "policies", "x")
	return map[string][2]string{
		"POST /v1/access_keys": {a.root, newKeyBody(`{"decision":true}`)}, "POST /v1/access_keys/" + k.id + "/rotate": {a.root, `{"grace":"1h"}`},
		"POST /v1/access_keys/verify": {k.secret, `{"key":"x"}`}, "POST /v1/customers": {a.root, `{"name":"x"}`},
		"PATCH /v1/customers/default": {a.root, `{"name":"x"}`}, "POST /decision": {k.secret, ask}, "POST /decision/explain": {k.secret, ask},
		"POST /decision/batch": {k.secret, ask}, "POST /access/v1/evaluation": {k.secret, ask}, "POST /access/v1/evaluations": {k.secret, ask},
	}
}

func TestJSON_IsReadStrictlyOnEveryRoute(t *testing.T) {
	t.Parallel()
	a := start(t)
	routes := jsonRoutes(a)
	for route, with := range routes {
		method, path, _ := strings.Cut(route, " ")
		inside := strings.TrimSuffix(with[1], "}")
		for _, tt := range []struct{ name, body, code string }{
			{"duplicate names", inside + `,"z":{"a":1,"\u0061":2}}`, "duplicate_name"},
			{"duplicate top names", inside + `,"z":1,"z":1}`, "duplicate_name"},
			{"trailing bytes", with[1] + `x`, "trailing_data"},
			{"two values", with[1] + with[1], "trailing_data"},
			{"invalid UTF-8", inside + ",\"z\":\"\xff\"}", "invalid_utf8"},
			{"overlong UTF-8", inside + ",\"z\":\"\xc0\x80\"}", "invalid_utf8"},
			{"U+0000", inside + `,"z":"\u0000"}`, "nul_character"},
			{"U+0000 in a name", inside + `,"\u0000":1}`, "nul_character"},
			{"lone surrogate", inside + `,"z":"\ud800"}`, "lone_surrogate"},
			{"NaN", inside + `,"z":NaN}`, "invalid_json"},
			{"Infinity", inside + `,"z":-Infinity}`, "invalid_json"},
			{"infinite number", inside + `,"z":1e999}`, "number_out_of_range"},
			{"long number", inside + `,"z":` + strings.Repeat("9", 65) + `}`, "number_too_long"},
			{"deep nesting", inside + `,"z":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`, "too_deep"},
			{"deep nesting, unclosed", strings.Repeat(`{"a":`, 10000), "too_deep"},
			{"comment", inside + `/* */}`, "invalid_json"},
			{"trailing comma", inside + `,}`, "invalid_json"},
			{"byte order mark", "\ufeff" + with[1], "invalid_json"},
			{"white space only", " \r\n", "empty_body"},
			{"raw control character", inside + ",\"z\":\"\x01\"}", "invalid_json"},
		} {
			r := a.do(method, path, with[0], tt.body)
			if strings.HasPrefix(path, "/access/v1/") {
				r.is(400)
			} else {
				r.refused(400, tt.code)
			}
		}
		r := a.do(method, path, with[0], "", "Content-Type", "application/json")
		if r.status != 400 {
			t.Errorf("%s, empty body: %d %s", route, r.status, r.body)
		}
	}
	if n := len(a.events("default")); n != 1 {
		t.Errorf("%d events: something was changed", n)
	}
	for route, with := range routes { // the bodies are good but for what was added
		method, path, _ := strings.Cut(route, " ")
		r := a.do(method, path, with[0], with[1], "X-Customer-ID", "default")
		if r.status >= 300 {
			t.Errorf("%s: %d %s", route, r.status, r.body)
		}
		if r.status == 201 && r.get("key").Exists() {
			a.keep(r.text("key"))
		}
	}
}

func TestJSON_NamesAreCaseSensitiveAndKnown(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(everyScope)
	for _, tt := range []struct{ method, path, credential, body, pointer string }{
		{"POST", "/v1/access_keys", a.root, `{"Scopes":{"customer":{"decision":true}},"metadata":{"username":"u","keyname":"k"}}`, "/Scopes"},
		{"POST", "/v1/access_keys", a.root, newKeyBody(`{"decision":true}`, `"Expires_at":null`), "/Expires_at"},
		{"POST", "/v1/customers", a.root, `{"name":"x","ID":"y"}`, "/ID"},
		{"PATCH", "/v1/customers/default", a.root, `{"Name":"x"}`, "/Name"},
		{"POST", "/v1/access_keys/verify", k.secret, `{"key":"x","~/ ":1}`, "/~0~1 "},
		{"POST", "/decision", k.secret, `{"SUBJECT":{}}`, "/SUBJECT"},
		{"POST", "/decision/explain", k.secret, `{"subjects":{}}`, "/subjects"},
	} {
		a.do(tt.method, tt.path, tt.credential, tt.body).refused(400, "unknown_member", tt.pointer)
	}
}

func TestContentType_MustBeTheRoutes(t *testing.T) {
	t.Parallel()
	a := start(t)
	for route, with := range jsonRoutes(a) {
		method, path, _ := strings.Cut(route, " ")
		for _, bad := range []string{"-", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "application/json, text/plain",
			"application/json; charset=latin1", "application/json; charset=utf-16", "application/problem+json", "multipart/form-data; boundary=x", "*/*"} {
			if r := a.do(method, path, with[0], with[1], "Content-Type", bad); r.status != 415 {
				t.Errorf("%s %s: %d %s", route, bad, r.status, r.body)
			}
		}
		for _, encoding := range []string{"gzip", "br", "deflate", "gzip, identity"} {
			if r := a.do(method, path, with[0], with[1], "Content-Encoding", encoding); r.status != 415 {
				t.Errorf("%s %s: %d %s", route, encoding, r.status, r.body)
			}
		}
	}
	k := a.create(everyScope)
	for _, good := range []string{"application/json", "Application/JSON", "application/json;charset=utf-8", `application/json; charset="UTF-8"`} {
		a.do("POST", "/decision", k.secret, evaluation(subject(k.id), "read", "policies", "x"), "Content-Type", good, "Content-Encoding", "identity").is(200)
	}
}

func TestRoutes_AnswerWhatTheyDoNotKnowWithProblems(t *testing.T) {
	t.Parallel()
	a := start(t)
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/access_keys/", "/V1/access_keys", "/v1/Access_Keys", "/decision/", "/decision/a/b", "/metrics",
		"/debug/pprof", "/v1/access_keys/x/y", "/v1//access_keys", "/index.html", "/openapi.json", "/%2e%2e/etc/passwd", "/v1/access_keys%2F"} {
		for _, credential := range []string{"", a.root} {
			for _, method := range []string{"GET", "POST"} {
				r := a.do(method, path, credential, "")
				if r.status != 404 && (r.status != 405 || path != "/decision/") {
					t.Errorf("%s %s: %d %s", method, path, r.status, r.body)
				}
			}
		}
	}
	for _, tt := range [][3]string{
		{"GET", "/decision", "POST"}, {"PUT", "/decision", "POST"}, {"DELETE", "/v1/access_keys", "GET, HEAD, POST"}, {"PATCH", "/v1/access_keys/x", "GET, HEAD, DELETE"},
		{"GET", "/v1/introspect", "POST"}, {"POST", "/openapi.yaml", "GET, HEAD"}, {"PUT", "/v1/customers/x", "DELETE, GET, HEAD, PATCH"}, {"OPTIONS", "/v1/access_keys", "GET, HEAD, POST"},
		{"TRACE", "/v1/access_keys", "GET, HEAD, POST"},
	} {
		r := a.do(tt[0], tt[1], a.root, "").refused(405, "method_not_allowed")
		allowed := strings.Split(r.header.Get("Allow"), ", ")
		for _, want := range strings.Split(tt[2], ", ") {
			if !strings.Contains(r.header.Get("Allow"), want) {
				t.Errorf("%s %s: Allow %q, want %s", tt[0], tt[1], r.header.Get("Allow"), tt[2])
			}
		}
		if len(allowed) != len(strings.Split(tt[2], ", ")) {
			t.Errorf("%s %s: Allow %q, want %s", tt[0], tt[1], allowed, tt[2])
		}
	}
	if r, err := a.try("HEAD", "/v1/access_keys", a.root, ""); err != nil || r.status != http.StatusOK || r.body != "" || r.header.Get("Content-Length") == "" {
		t.Errorf("HEAD: %v %v", err, r)
	}
	if r, err := a.try("HEAD", "/v1/access_keys", "", ""); err != nil || r.status != http.StatusUnauthorized {
		t.Errorf("HEAD without a credential: %v %v", err, r)
	}
}

func TestOpenRoutes_NeedNoCredential(t *testing.T) {
	t.Parallel()
	a := start(t)
	r := a.do("GET", "/openapi.yaml", "", "").is(200)
	if r.header.Get("Content-Type") != "application/yaml" || !strings.Contains(r.body, "openapi: 3") {
		t.Errorf("%v %.200s", r.header, r.body)
	}
	if r := a.do("GET", "/health/live", "", "").is(200); r.body != `{"status":"live"}` {
		t.Error(r.body)
	}
	if r := a.do("GET", "/health/ready", "", "").is(200); r.body != `{"status":"ready"}` {
		t.Error(r.body)
	}
	a.do("GET", "/.well-known/authzen-configuration", "", "").is(200)
	a.do("GET", "/health/live", "nonsense", "").is(200) // nor do they look at one
}

func TestReady_SaysSoWhenTheDatabaseDoesNotAnswer(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(everyScope)
	a.loseDatabase()
	a.do("GET", "/health/ready", "", "").refused(503, "not_ready")
	a.do("GET", "/health/live", "", "").is(200)
	a.decide(k.secret, evaluation(subject(k.id), "read", "policies", "x")) // a warm decision needs no database
	if r := a.do("GET", "/v1/access_keys", k.secret, ""); r.status < 500 || strings.Contains(r.body, "sql") || r.header.Get("X-Request-Id") == "" {
		t.Errorf("%d %s", r.status, r.body)
	}
}

// What a path names may be kept: it must not be a view of the connection's
// buffer, which the next request on it writes over.
func TestInput_ANameFromThePathOutlivesItsRequest(t *testing.T) {
	t.Parallel()
	a := start(t)
	for range 8 {
		a.do("PUT", "/v1/policies/first", a.root, `{"language":"cel","rules":[],"default":{"action":"allow"}}`).is(201)
		a.do("PATCH", "/v1/customers/default", a.root, `{"default_policy":"first"}`).is(200)
		a.do("POST", "/v1/access_keys/verify", a.root, `{"key":"something that is much longer than a policy's name"}`).is(200)
		a.do("POST", "/decision/first", a.root, evaluation(`{"type":"user","id":"alice"}`, "read", "doc", "x")).is(200)
		a.do("PATCH", "/v1/customers/default", a.root, `{"default_policy":null}`).is(200)
		a.do("DELETE", "/v1/policies/first", a.root, "").is(204)
	}
}
