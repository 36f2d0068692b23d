package sandbox

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// MaxScript is how long a script may be, in bytes.
const MaxScript = 64 << 10

// hostPackages are what the server gives to scripts; one that uses them without
// an import has them all the same.
var hostPackages = []string{"config", "secrets", "idp"}

// Check reports what keeps a script from being run at all: it must be of package
// task, have func Run() (string, error), and import only what there is. It runs
// nothing. Safe for concurrent use.
func Check(script string) error {
	_, err := prepare(script)
	return err
}

// prepare returns the script with the imports that it forgot, in the line of its
// package clause, so that lines keep their numbers.
func prepare(script string) (string, error) {
	if len(script) > MaxScript {
		return "", fmt.Errorf("the script is longer than %d bytes", MaxScript)
	}
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "", script, parser.SkipObjectResolution)
	if err != nil {
		if list, ok := err.(scanner.ErrorList); ok && len(list) > 0 { //nolint:errorlint // the parser wraps nothing
			return "", fmt.Errorf("line %d: %s", list[0].Pos.Line, list[0].Msg)
		}
		return "", err
	}
	if f.Name.Name != "task" {
		return "", fmt.Errorf("the package is %s: want task", f.Name.Name)
	}
	known := packages()
	named := map[string]bool{} // what names stand for at the file's level
	for _, spec := range f.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil || !slices.Contains(known, name) {
			return "", fmt.Errorf("line %d: there is no package %s for scripts; there are %s", fset.Position(spec.Pos()).Line, spec.Path.Value, strings.Join(known, ", "))
		}
		switch {
		case spec.Name == nil:
			named[path.Base(name)] = true
		case spec.Name.Name == "." || spec.Name.Name == "_":
			return "", fmt.Errorf("line %d: packages are imported under a name", fset.Position(spec.Pos()).Line)
		default:
			named[spec.Name.Name] = true
		}
	}
	if !hasRun(f) {
		return "", fmt.Errorf("want func Run() (string, error)")
	}
	forgotten := map[string]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(hostPackages, x.Name) && !named[x.Name] && !declares(f, x.Name) {
				forgotten[x.Name] = true
			}
		}
		return true
	})
	at := fset.Position(f.Name.End()).Offset
	var b strings.Builder
	b.WriteString(script[:at])
	for _, name := range slices.Sorted(maps.Keys(forgotten)) {
		fmt.Fprintf(&b, "; import %q", name)
	}
	b.WriteString(script[at:])
	return b.String(), nil
}

// hasRun reports whether the file declares func Run() (string, error).
func hasRun(f *ast.File) bool {
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Name.Name != "Run" || fn.Recv != nil || fn.Body == nil {
			continue
		}
		var results []string
		if fn.Type.Results != nil {
			for _, field := range fn.Type.Results.List {
				name := ""
				if id, ok := field.Type.(*ast.Ident); ok {
					name = id.Name
				}
				for range max(1, len(field.Names)) {
					results = append(results, name)
				}
			}
		}
		return fn.Type.TypeParams == nil && fn.Type.Params.NumFields() == 0 && slices.Equal(results, []string{"string", "error"})
	}
	return false
}

// declares reports whether anything in the file is called so: then it is not a
// package that was forgotten.
func declares(f *ast.File, name string) (found bool) {
	is := func(ids ...*ast.Ident) {
		for _, id := range ids {
			found = found || id != nil && id.Name == name
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			is(n.Name)
		case *ast.Field:
			is(n.Names...)
		case *ast.TypeSpec:
			is(n.Name)
		case *ast.ValueSpec:
			is(n.Names...)
		case *ast.AssignStmt:
			if n.Tok == token.DEFINE {
				for _, e := range n.Lhs {
					if id, ok := e.(*ast.Ident); ok {
						is(id)
					}
				}
			}
		case *ast.RangeStmt:
			for _, e := range []ast.Expr{n.Key, n.Value} {
				if id, ok := e.(*ast.Ident); ok {
					is(id)
				}
			}
		}
		return !found
	})
	return found
}

// packages are the import paths that scripts may name, in their order.
func packages() []string {
	var list []string
	for key := range standard() {
		list = append(list, path.Dir(key))
	}
	list = append(append(list, hostPackages...), "net/http")
	slices.Sort(list)
	return list
}
