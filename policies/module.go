package policies

import (
	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/latchkey-dev/latchkey"
)

// ModuleName is the name of the policy that a Rego module is: that of its
// package, policies.NAME or policies["NAME"]. Its errors are Invalid, at /rego.
func ModuleName(source string) (string, error) {
	module, err := ast.ParseModuleWithOpts("", source, ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: Capabilities()})
	if errs, ok := err.(ast.Errors); ok { //nolint:errorlint // the parser's own, as it is
		var faults []latchkey.Fault
		for _, e := range errs {
			f := latchkey.Fault{Pointer: "/rego", Code: e.Code, Detail: e.Message}
			if e.Location != nil {
				f.Line, f.Column = e.Location.Row, e.Location.Col
			}
			faults = append(faults, f)
		}
		return "", latchkey.InvalidFaults(faults...)
	}
	if err != nil || module == nil {
		return "", latchkey.InvalidFaults(latchkey.Fault{Pointer: "/rego", Code: "rego_parse_error", Detail: "there is no module"})
	}
	if path := module.Package.Path; len(path) == 3 && path[1].Value.Compare(ast.String("policies")) == 0 {
		if name, ok := path[2].Value.(ast.String); ok {
			return string(name), nil
		}
	}
	at := module.Package.Location
	return "", latchkey.InvalidFaults(latchkey.Fault{Pointer: "/rego", Code: "wrong_package",
		Detail: `the package of a policy is policies.NAME, or policies["NAME"]`, Line: at.Row, Column: at.Col})
}
