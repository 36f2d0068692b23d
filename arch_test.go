package latchkey_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/latchkey-dev/latchkey"

// edges are the imports that are allowed between rooms (tests apart): a room
// may import those listed, the ground (the root package and strictjson), and
// nothing else of ours. Imports go down only.
var edges = map[string][]string{
	"":                    nil,
	"internal/strictjson": {""},
	"internal/keyring":    nil,
	"internal/vault":      nil,

	"scopes":   nil,
	"audit":    nil,
	"policies": {"scopes", "audit"},
	"authz":    {"scopes", "audit", "policies", "feed"},
	"people":   {"authz", "scopes", "audit", "feed"},
	"access":   {"people", "authz", "scopes", "audit", "policies", "feed"},
	"tasks":    {"access", "deliveries", "people", "authz", "audit", "feed", "internal/vault"},
	"forward":  nil,
	"feed":     nil,

	// Webhooks, and what is told to people.
	"deliveries": {"people", "authz", "audit", "feed", "internal/vault"},

	"store":    {"internal/vault", "authz", "people", "access", "deliveries", "tasks", "audit", "scopes", "policies", "feed"},
	"identity": {"people", "authz"},

	"cache": {"authz", "policies", "scopes", "feed"},
	// The sidecar's line to its control plane.
	"control": {"feed"},
	// The Go SDK: nothing of ours but the ground.
	"client": nil,

	"policies/bundle": {"policies", "audit", "scopes"},

	"notify": {"notify/sandbox", "audit", "access", "deliveries", "tasks", "authz", "policies", "internal/vault"},

	// Scripts, in a process of their own; it knows nothing of what it runs for.
	"notify/sandbox": nil,

	"server":          {"authz", "people", "access", "deliveries", "tasks", "audit", "scopes", "policies", "forward", "policies/bundle", "feed"},
	"server/extauthz": {"forward"},

	"cmd/latchkey": {"scopes", "policies", "audit", "authz", "people", "identity", "access", "deliveries", "tasks", "forward", "feed", "store", "cache", "control", "notify", "notify/sandbox", "policies/bundle", "server", "server/extauthz", "internal/keyring", "internal/vault"},

	// Programs of the workshop; nothing of the product imports them.
	"internal/bench":      {"scopes", "authz", "store", "cache", "internal/keyring", "policies/bundle", "internal/page"},
	"internal/demo":       nil,
	"internal/duty":       nil,
	"internal/duty/serve": {"internal/duty"},
	"internal/page":       nil,
	"internal/container":  nil,
	"internal/fleet":      {"internal/page", "internal/servers"},
	"internal/proxies":    nil,
	"internal/servers":    nil,
}

var ground = []string{"", "internal/strictjson"}

// confined are the dependencies that may be imported in their own rooms only.
var confined = map[string][]string{
	"github.com/gofiber/fiber":         {"server", "internal/bench"},
	"github.com/valyala/fasthttp":      {"server", "internal/bench"},
	"database/sql":                     {"store"},
	"modernc.org/sqlite":               {"store"},
	"github.com/jackc/pgx":             {"store"},
	"github.com/pressly/goose":         {"store"},
	"github.com/open-policy-agent/opa": {"policies", "policies/bundle"},
	"github.com/google/cel-go":         {"policies"},
	"github.com/redis/go-redis":        {"cache"},
	"github.com/maypok86/otter":        {"cache"},
	"google.golang.org/grpc":           {"server/extauthz"},
	"github.com/envoyproxy":            {"server/extauthz"},
	"github.com/alecthomas/kong":       {"cmd/latchkey"},
	"github.com/coreos/go-oidc":        {"identity"},
	"github.com/go-jose/go-jose":       {"identity"},
	"github.com/traefik/yaegi":         {"notify/sandbox"},
	"github.com/landlock-lsm":          {"notify/sandbox"},
	"github.com/elastic":               {"notify/sandbox"},
	"go.opentelemetry.io/otel":         {"server", "cmd/latchkey"},
	"net/http":                         {"server", "notify", "control", "identity", "client", "policies/bundle", "cmd/latchkey", "internal/bench", "internal/demo", "internal/duty", "internal/duty/serve", "internal/fleet"},
}

// clockReaders are the places where time.Now may stand: everywhere else the
// time comes in as an argument.
var clockReaders = []string{"cmd/latchkey/", "server/middleware.go", "server/waiters.go", "internal/bench/", "internal/demo/", "internal/fleet/", "notify/sandbox/symbols.go"}

func TestArchitecture_ImportsGoDownOnly(t *testing.T) {
	rooms := map[string]bool{}
	eachFile(t, func(file string, f *ast.File, _ *token.FileSet) {
		room := path.Dir(file)
		if room == "." {
			room = ""
		}
		rooms[room] = true
		allowed, known := edges[room]
		if !known {
			t.Errorf("%s: the room %q is not on the map", file, room)
			return
		}
		for _, spec := range f.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if ours, ok := strings.CutPrefix(name, module); ok {
				ours = strings.TrimPrefix(ours, "/")
				if !slices.Contains(allowed, ours) && (!slices.Contains(ground, ours) || room == "" || room == "internal/keyring") {
					t.Errorf("%s: the room %q may not import %q", file, room, ours)
				}
			}
			for dependency, home := range confined {
				if (name == dependency || strings.HasPrefix(name, dependency+"/")) && !slices.Contains(home, room) {
					t.Errorf("%s: %s belongs to %v only", file, name, home)
				}
			}
		}
	})
	for _, room := range []string{"", "scopes", "authz", "policies", "audit", "store", "cache", "notify", "policies/bundle", "server", "cmd/latchkey"} {
		if !rooms[room] {
			t.Errorf("the room %q has no Go files", room)
		}
	}
}

func TestArchitecture_TimeComesInAsAnArgument(t *testing.T) {
	eachFile(t, func(file string, f *ast.File, fset *token.FileSet) {
		if slices.ContainsFunc(clockReaders, func(p string) bool { return strings.HasPrefix(file, p) }) {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "After", "Sleep", "Tick"}, sel.Sel.Name) {
					t.Errorf("%s: time.%s", fset.Position(sel.Pos()), sel.Sel.Name)
				}
			}
			return true
		})
	})
}

func TestArchitecture_EveryPackageHasADocComment(t *testing.T) {
	documented := map[string]bool{}
	eachFile(t, func(file string, f *ast.File, _ *token.FileSet) {
		dir := path.Dir(file)
		documented[dir] = documented[dir] || f.Doc != nil
	})
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: no package comment", dir)
		}
	}
}

// eachFile parses every Go file of the module that is not a test. A directory
// with a go.mod of its own is another module.
func eachFile(t *testing.T, visit func(file string, f *ast.File, fset *token.FileSet)) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && file != "."):
			return fs.SkipDir
		case d.IsDir() && file != "." && isModule(file):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go"):
			return nil
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, file, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		n++
		visit(filepath.ToSlash(file), f, fset)
		return nil
	})
	if err != nil || n == 0 {
		t.Fatalf("read %d files: %v", n, err)
	}
}

func isModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}
