package policies_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

// canonicalQuery asks the library alone, with strict errors: a built-in that
// failed would show.
func canonicalQuery(t testing.TB) rego.PreparedEvalQuery {
	t.Helper()
	query, err := rego.New(
		rego.Query("x := data.latchkey.scopes.canonical(input.t, input.v)"),
		rego.Compiler(compile(t, policies.Library())),
		rego.StrictBuiltinErrors(true),
	).PrepareForEval(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return query
}

func checkCanonical(t *testing.T, query rego.PreparedEvalQuery, entityType, value string) {
	t.Helper()
	want, ok := oracleCanonical(entityType, value)
	if got, gotOK := scopes.EntityType(entityType).Canonical(value); gotOK != ok || ok && got != want {
		t.Errorf("%s %q: Canonical = %q, %v, the oracle %q, %v", entityType, value, got, gotOK, want, ok)
	}
	input := ast.NewObject([2]*ast.Term{ast.StringTerm("t"), ast.StringTerm(entityType)}, [2]*ast.Term{ast.StringTerm("v"), ast.StringTerm(value)})
	results, err := query.Eval(t.Context(), rego.EvalParsedInput(input))
	switch {
	case err != nil:
		t.Errorf("%s %q: Rego fails: %v", entityType, value, err)
	case !ok && len(results) > 0:
		t.Errorf("%s %q: Rego gives %v, want undefined", entityType, value, results[0].Bindings["x"])
	case ok && (len(results) != 1 || results[0].Bindings["x"] != want):
		t.Errorf("%s %q: Rego gives %v, want %q", entityType, value, results, want)
	}
}

func TestCanonical_RegoMatcherAndOracleGiveOneText(t *testing.T) {
	query := canonicalQuery(t)
	for _, entityType := range []string{"string", "ip", "uint", "", "IP"} {
		for _, value := range slices.Concat(strs, ips, uints, nasty, names) {
			checkCanonical(t, query, entityType, value)
		}
	}
	d := seeded(*agreeSeed, 0)
	for range 20_000 {
		value := d.made()
		if d.chance(30) { // one character off
			at := d.n(len(value))
			value = value[:at] + pick(d, []string{":", "/", ".", "0", "f", "%", ""}) + value[at+d.n(2):]
		}
		checkCanonical(t, query, pick(d, []string{"ip", "ip", "uint"}), value)
	}
}

func FuzzCanonical(f *testing.F) {
	for _, value := range slices.Concat(strs, ips, uints) {
		f.Add(value)
	}
	query := canonicalQuery(f)
	f.Fuzz(func(t *testing.T, value string) {
		value = strings.ToValidUTF8(value, "?")
		for _, entityType := range []string{"string", "ip", "uint"} {
			checkCanonical(t, query, entityType, value)
		}
	})
}
