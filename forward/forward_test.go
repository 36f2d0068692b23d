package forward_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey/forward"
)

func parse(t testing.TB, text string) *forward.Routes {
	t.Helper()
	routes, err := forward.ParseRoutes([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return routes
}

const rules = `
routes:
  - {host: api.example.com, path: "/orders/{id}", type: order, id: "{id}"}
  - {path: "/orders/{id}", methods: [GET, OPTIONS], action: peek, type: order, id: "any-{id}"}
  - {customer: acme, path: "/tenant", type: tenant, id: acme}
  - {path: "/t/{a}/x/{b}/", type: pair, id: "{b}:{a}"}
  - {path: "/files/{rest...}", methods: [GET, PROPFIND], action: read, type: file, id: "/{rest}"}
  - {path: "/a b/é", type: literal, id: fixed}
  - {path: "/{x}", methods: [DELETE], type: last, id: "{x}"}
  - {path: "/", type: root, id: home}
`

func TestRoutes_FirstMatchDecides(t *testing.T) {
	t.Parallel()
	routes := parse(t, rules)
	for _, c := range []struct{ customer, method, host, target, want string }{
		{"", "GET", "api.example.com", "/orders/7", "order 7 read"},
		{"", "HEAD", "api.example.com", "/orders/7?x", "order 7 read"},
		{"", "POST", "api.example.com", "/orders/7", "order 7 create"},
		{"", "PUT", "api.example.com", "/orders/7", "order 7 update"},
		{"", "PATCH", "api.example.com", "/orders/7", "order 7 update"},
		{"", "DELETE", "api.example.com", "/orders/7", "order 7 delete"},
		{"", "OPTIONS", "api.example.com", "/orders/7", "order any-7 peek"}, // the first rule does not list it
		{"", "GET", "other", "/orders/7", "order any-7 peek"},
		{"", "POST", "other", "/orders/7", ""},
		{"", "TRACE", "api.example.com", "/orders/7", ""},
		{"", "get", "api.example.com", "/orders/7", ""},
		{"", "GET", "sub.api.example.com", "/orders/7", "order any-7 peek"},
		{"", "GET", "api.example.com", "/orders/", ""},
		{"", "GET", "api.example.com", "/orders/7/", ""},
		{"", "GET", "api.example.com", "/orders/%37", "order 7 read"},
		{"acme", "GET", "", "/tenant", "tenant acme read"},
		{"other", "GET", "", "/tenant", ""},
		{"", "GET", "", "/t/1/x/2/", "pair 2:1 read"},
		{"", "GET", "", "/t/1/x/2", ""},
		{"", "GET", "", "/files/a/b%20c/", "file /a/b c/ read"},
		{"", "PROPFIND", "", "/files/a", "file /a read"},
		{"", "PUT", "", "/files/a", ""},
		{"", "GET", "", "/files/", ""},
		{"", "GET", "", "/files", ""},
		{"", "GET", "", "/a%20b/%C3%A9", "literal fixed read"},
		{"", "DELETE", "", "/z", "last z delete"},
		{"", "GET", "", "/z", ""},
		{"", "GET", "", "/", "root home read"},
		{"", "DELETE", "", "/", "root home delete"},
		{"", "DELETE", "", "/" + strings.Repeat("x", 1025), ""},
	} {
		path, ok := forward.ParsePath(c.target)
		if !ok {
			t.Errorf("%s: not a path", c.target)
		}
		got := ""
		if target, ok := routes.Match(c.customer, c.method, c.host, path); ok {
			got = target.Type + " " + target.ID + " " + target.Action
		}
		if got != c.want {
			t.Errorf("%+v: got %q", c, got)
		}
	}
	if got := strings.Join(routes.Methods(), " "); got != "DELETE GET HEAD OPTIONS PATCH POST PROPFIND PUT" {
		t.Errorf("methods %s", got)
	}
	var none *forward.Routes
	if _, ok := none.Match("", "GET", "", forward.Path{}); ok || none.Len() != 0 || none.Methods() != nil {
		t.Error("no routes match something")
	}
	if _, ok := parse(t, rules).Match("", "GET", "", forward.Path{}); ok {
		t.Error("no path matches something")
	}
}

func TestParseRoutes_RefusesAndNamesTheLine(t *testing.T) {
	t.Parallel()
	rule := func(members string) string { return "routes:\n  - {" + members + "}\n" }
	const fine = `path: "/x/{id}", type: a, id: "{id}"`
	for text, want := range map[string]string{
		"":                                                  "empty",
		"routes: [":                                         "line 1",
		"a: 1\n":                                            `line 1: unknown key "a"`,
		"routes: {}\n":                                      "line 1: routes: want a list",
		"{}\n":                                              "line 1: routes: missing",
		"- 1\n":                                             "line 1: want a mapping",
		"routes: []\n---\nroutes: []\n":                     "more than one document",
		"routes: []\nroutes: []\n":                          "line 2",
		"routes:\n\n  - x\n":                                "line 3: want a mapping",
		rule(fine + ", hosts: x"):                           `line 2: unknown key "hosts"; known are host, path, methods, type, id, action, customer`,
		rule(fine + ", Host: x"):                            `unknown key "Host"`,
		rule(fine + ", type: b"):                            "line 2: type: stands twice",
		rule(`type: a, id: b`):                              "line 2: path: missing",
		rule(`path: /x, id: b`):                             "type: missing",
		rule(`path: /x, type: b`):                           "id: missing",
		rule(`path: /x, type: 7, id: b`):                    "type: want a text",
		rule(`path: /x, type: [a], id: b`):                  "type: want a text",
		rule(`path: /x, type: "", id: b`):                   "type: want 1 to 256 bytes",
		rule(`path: /x, type: "a\nb", id: b`):               "type: holds a control character",
		rule(`path: x, type: a, id: b`):                     "path: want a slash first",
		rule(`path: //x, type: a, id: b`):                   "is in no path",
		rule(`path: /x/../y, type: a, id: b`):               "is in no path",
		rule(`path: /x%20y, type: a, id: b`):                "write it decoded",
		rule(`path: "/x;y", type: a, id: b`):                "is in no path",
		rule(`path: "/x{y}", type: a, id: b`):               "a parameter is a whole segment",
		rule(`path: "/{y", type: a, id: b`):                 "a parameter is a whole segment",
		rule(`path: "/{}", type: a, id: b`):                 "is no name of a parameter",
		rule(`path: "/{a-b}", type: a, id: b`):              "is no name of a parameter",
		rule(`path: "/{a}/{a}", type: a, id: b`):            "{a} stands twice",
		rule(`path: "/{a...}/b", type: a, id: b`):           "{a...} must be last",
		rule(`path: "/{a}", type: a, id: "{b}"`):            "the path has no parameter {b}",
		rule(`path: "/{a}", type: a, id: "{a"`):             "braces",
		rule(`path: "/{a}", type: a, id: "a}"`):             "braces",
		rule(fine + `, host: API.example.com`):              "host: want a name in lower case",
		rule(fine + `, host: "api:80"`):                     "host: want a name in lower case",
		rule(fine + `, host: "*.example.com"`):              "host: want a name in lower case",
		rule(fine + `, methods: GET`):                       "methods: want a list",
		rule(fine + `, methods: []`):                        "methods: want a list",
		rule(fine + `, methods: [get]`):                     "written in capitals",
		rule(fine + `, methods: ["*"]`):                     "",
		rule(fine + `, methods: ["G T"]`):                   "is no method",
		rule(fine + `, methods: [GET, GET]`):                "GET stands twice",
		rule(fine + `, methods: [OPTIONS]`):                 "OPTIONS has no action of its own",
		rule(fine + `, action: ""`):                         "action: want 1 to 256 bytes",
		rule(fine + `, customer: "a b"`):                    "is no name",
		"routes:\n  - &r {" + fine + "}\n  - *r\n":          "line 3: want a mapping",
		"routes:\n  - {<<: {type: b}, " + fine + "}\n":      `unknown key "<<"`,
		"routes:\n  - {path: &p /x, type: *p, id: b}\n":     "type: aliases are not read",
		"routes: [" + strings.Repeat("{a: b},", 1001) + "]": "at most 1000",
		"routes: \xff":                                      "not valid UTF-8",
		strings.Repeat(" ", 2<<20):                          "over",
	} {
		_, err := forward.ParseRoutes([]byte(text))
		if strings.Contains(text, `["*"]`) { // a token like any other; it needs an action
			want = "has no action of its own"
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80q: %v, want %q", text, err, want)
		}
	}
}

func TestParsePath_TakesWhatReadsInOneWayOnly(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{
		"/": "/", "/a": "/a", "/a/": "/a/", "/a/b?c=/../d": "/a/b", "/%61": "/a", "/a%20b": "/a b", "/%C3%A9": "/é", "/%c3%a9": "/é", "/a.b/..c/...": "/a.b/..c/...", "/?": "/",
		"/a:b@c!$&'()*+,=~": "/a:b@c!$&'()*+,=~",
	} {
		if got, ok := forward.ParsePath(target); !ok || got.String() != want {
			t.Errorf("%q: %q, %v", target, got, ok)
		}
	}
	for _, target := range []string{
		"", "a", "*", "?", "http://h/a", "//", "//a", "/a//b", "/a//", "/.", "/..", "/a/.", "/a/..", "/a/./b", "/a/../b", "/%2e", "/%2E%2e/", "/.%2e",
		"/a%2fb", "/a%2Fb", "/a%5cb", `/a\b`, "/a;b", "/a%3bb", "/%25", "/%2561", "/a%3fb", "/a%23b", "/a#b", "/a?b#c", "/a b", "/a\tb", "/a\x00", "/a\x7f", "/é", "/a?é", "/a? b",
		"/%00", "/%1f", "/%7f", "/%c2%80", "/%", "/%4", "/%4g", "/%g4", "/%ff", "/%c0%af", "/%e0%80%af", "/%ed%a0%80", "/" + strings.Repeat("a", forward.MaxTarget),
	} {
		if got, ok := forward.ParsePath(target); ok || got.String() != "" {
			t.Errorf("%q: %q", target, got)
		}
	}
}

func TestParseHost(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a": "a", "A.B-c_d": "a.b-c_d", "a.": "a", "a:80": "a", "a.:65535": "a", "10.0.0.1:8080": "10.0.0.1", "[::1]": "[::1]", "[2001:DB8::1]:443": "[2001:db8::1]",
	} {
		if got, ok := forward.ParseHost(text); !ok || got != want {
			t.Errorf("%q: %q, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", ".", ":80", "a:", "a:x", "a:123456", "a..b", ".a", "a..", "a b", "u@a", "a/b", "a?b", "[::1", "::1]", "[]", "[g]", "[::1]x", "[::1]:", "a,b", "é", "a%2e", strings.Repeat("a", 254)} {
		if got, ok := forward.ParseHost(text); ok {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// Every text, escaped as a client may escape it, comes back as it was, or not
// at all.
func TestParsePath_IsTheInverseOfEscaping(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		segments := rapid.SliceOfN(rapid.StringMatching(`[a-z0-9 .~_éü%/;?#\\-]{1,6}`), 1, 4).Draw(t, "segments")
		var target strings.Builder
		plain := true
		for _, s := range segments {
			target.WriteByte('/')
			plain = plain && s != "." && s != ".." && !strings.ContainsAny(s, `%/;?#\`)
			for i := 0; i < len(s); i++ {
				if c := s[i]; ('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '-') && rapid.Bool().Draw(t, "literal") {
					target.WriteByte(c)
				} else {
					fmt.Fprintf(&target, "%%%02x", c)
				}
			}
		}
		got, ok := forward.ParsePath(target.String())
		if ok != plain || ok && got.String() != "/"+strings.Join(segments, "/") {
			t.Fatalf("%s of %q: %q, %v", &target, segments, got, ok)
		}
	})
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"/", "/a/%2e%2e/b", "/a%20b/?c", "//", "/%c3%a9/é", "/;"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		p, ok := forward.ParsePath(target)
		text := p.String()
		if ok != (text != "") {
			t.Fatalf("%q: %q, %v", target, text, ok)
		}
		if !ok {
			return
		}
		if !utf8.ValidString(text) || strings.ContainsAny(text, "\\;%?#\x00") || strings.Contains(text, "//") || slices.ContainsFunc(strings.Split(text, "/"), func(s string) bool { return s == "." || s == ".." }) {
			t.Errorf("%q is read as %q", target, text)
		}
	})
}

func FuzzParseRoutes(f *testing.F) {
	f.Add(rules, "/orders/7", "GET")
	f.Add(`routes: [{path: "/{a...}", type: t, id: "{a}-{a}"}]`, "/x/y/", "PUT")
	f.Fuzz(func(t *testing.T, text, target, method string) {
		routes, err := forward.ParseRoutes([]byte(text))
		if err != nil {
			if routes != nil || err.Error() == "" {
				t.Error("an error with routes, or without words")
			}
			return
		}
		path, _ := forward.ParsePath(target)
		if got, ok := routes.Match("acme", method, "api.example.com", path); ok && (got.Type == "" || got.ID == "" || got.Action == "" || !forward.ValidMethod(method)) {
			t.Errorf("%q %q is %+v", method, target, got)
		}
	})
}
