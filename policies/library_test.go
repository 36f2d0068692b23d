package policies_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/latchkey-dev/latchkey/policies"
)

// compile builds modules as strictly as OPA can, under our capabilities.
func compile(t testing.TB, sources map[string]string) *ast.Compiler {
	t.Helper()
	modules := map[string]*ast.Module{}
	for name, source := range sources {
		module, err := ast.ParseModuleWithOpts(name, source, ast.ParserOptions{RegoVersion: ast.RegoV1})
		if err != nil {
			t.Fatalf("parse %s: %v\n%s", name, err, source)
		}
		modules[name] = module
	}
	compiler := ast.NewCompiler().WithCapabilities(policies.Capabilities()).WithStrict(true)
	if compiler.Compile(modules); compiler.Failed() {
		t.Fatalf("compile: %v\n%v", compiler.Errors, sources)
	}
	return compiler
}

func TestLibrary_CompilesStrictlyUnderItsCapabilities(t *testing.T) {
	compile(t, policies.Library())
}

func TestLibrary_IsFormatted(t *testing.T) {
	for name, source := range policies.Library() {
		formatted, err := format.SourceWithOpts(name, []byte(source), format.Opts{RegoVersion: ast.RegoV1})
		if err != nil {
			t.Fatal(err)
		}
		if string(formatted) != source {
			t.Errorf("%s: want\n%s\ngot\n%s", name, formatted, source)
		}
	}
}

func TestLibrary_IsTheCallersOwn(t *testing.T) {
	clear(policies.Library())
	if len(policies.Library()) == 0 {
		t.Error("a caller emptied the library for everybody")
	}
}

func TestCapabilities_AllowOnlyPureBuiltins(t *testing.T) {
	c := policies.Capabilities()
	var names []string
	for _, b := range c.Builtins {
		names = append(names, b.Name)
		if b.IsDeprecated() {
			t.Errorf("%s is deprecated", b.Name)
		}
		if b.Nondeterministic && b.Name != "time.now_ns" {
			t.Errorf("%s does not answer from its arguments alone", b.Name)
		}
	}
	for _, impure := range []string{
		"http.send", "net.lookup_ip_addr", "opa.runtime", "rand.intn", "uuid.rfc4122", "bits.lsh",
		"crypto.x509.parse_certificates", "crypto.x509.parse_keypair", "io.jwt.encode_sign", "trace",
	} {
		if slices.Contains(names, impure) {
			t.Errorf("%s is allowed", impure)
		}
	}
	if c.AllowNet == nil || len(c.AllowNet) > 0 {
		t.Errorf("AllowNet = %v, want empty and not nil", c.AllowNet)
	}
	if missing := policies.Unknown(); len(missing) > 0 {
		t.Errorf("this OPA does not know %s", strings.Join(missing, " "))
	}
}

func TestCapabilities_RefuseAModuleThatReachesOut(t *testing.T) {
	for _, call := range []string{
		`http.send({"method": "get", "url": "http://127.0.0.1/"})`,
		`net.lookup_ip_addr("localhost")`,
		`opa.runtime()`,
		`rand.intn("x", 2)`,
		`bits.lsh(1, 1000000000)`,
		`json.patch({}, [])`,
		`graph.reachable_paths({}, [])`,
	} {
		module := ast.MustParseModuleWithOpts("package p\nx := "+call, ast.ParserOptions{RegoVersion: ast.RegoV1})
		compiler := ast.NewCompiler().WithCapabilities(policies.Capabilities())
		if compiler.Compile(map[string]*ast.Module{"p.rego": module}); !compiler.Failed() {
			t.Errorf("%s compiles", call)
		}
	}
}

func TestBuiltin_AllowsAKeyWhatItsCeilingPermitsAndOthersWhatAGrantCovers(t *testing.T) {
	query, err := rego.New(
		rego.Query(policies.BuiltinDecision),
		rego.Compiler(compile(t, policies.Library())),
		rego.StrictBuiltinErrors(true),
	).PrepareForEval(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, input string
		want        bool
	}{
		{"key within its ceiling", `{"subject": {"type": "access_key"}, "latchkey": {"scope_permits": true}}`, true},
		{"key outside its ceiling", `{"subject": {"type": "access_key"}, "latchkey": {"scope_permits": false}}`, false},
		{"key of unknown ceiling", `{"subject": {"type": "access_key"}}`, false},
		{"ceiling that is no boolean", `{"subject": {"type": "access_key"}, "latchkey": {"scope_permits": "true"}}`, false},
		{"another subject", `{"subject": {"type": "user"}, "latchkey": {"scope_permits": true}}`, false},
		{"a type that looks alike", `{"subject": {"type": "Access_Key"}, "latchkey": {"scope_permits": true}}`, false},
		{"another subject with a grant", `{"subject": {"type": "user"}, "latchkey": {"scope_permits": false, "grants": [{"id": "g"}]}}`, true},
		{"another subject without one", `{"subject": {"type": "user"}, "latchkey": {"grants": []}}`, false},
		{"grants that are no list", `{"subject": {"type": "user"}, "latchkey": {"grants": "all"}}`, false},
		{"key outside its scopes with a grant", `{"subject": {"type": "access_key"}, "latchkey": {"scope_permits": false, "grants": [{"id": "g"}]}}`, true},
		{"key outside its scopes without one", `{"subject": {"type": "access_key"}, "latchkey": {"scope_permits": false, "grants": []}}`, false},
		{"a grant of nobody", `{"latchkey": {"grants": [{"id": "g"}]}}`, false},
		{"no subject", `{"latchkey": {"scope_permits": true}}`, false},
		{"nothing", `null`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			results, err := query.Eval(t.Context(), rego.EvalParsedInput(ast.MustParseTerm(tt.input).Value))
			if err != nil {
				t.Fatal(err)
			}
			if len(results) != 1 || results[0].Expressions[0].Value != tt.want {
				t.Errorf("decision = %v, want %v", results, tt.want)
			}
		})
	}
}
