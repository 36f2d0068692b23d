package bundle

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

//go:embed rego/entry.rego
var entryModule string

//go:embed rego/latchkey.rego
var latchkeyModule string

// Input is what a bundle is built from.
type Input struct {
	Customer string
	// Sequence is that of the customer's last change to what is here; equal
	// input has an equal sequence, or its bundles differ.
	Sequence      int64
	DefaultPolicy string // "" for the built-in one
	Policies      []Policy
	Sets          []SetInput
}

// SetInput is one set whose values come in any order, canonical.
type SetInput struct {
	Name       string
	EntityType string
	Version    int64
	Values     iter.Seq[string]
}

// Built is a bundle made.
type Built struct {
	Raw      []byte
	ETag     string // strong, quoted
	Revision string
	// NotPortable names the policies that a stock OPA cannot evaluate, with
	// the reason; they deny there. Empty for the latchkey profile.
	NotPortable map[string]string
}

// remembered bounds the verdicts that a Builder keeps.
const remembered = 1 << 12

// Builder builds bundles and remembers which policies a stock OPA takes. The
// zero Builder is ready; it is safe for concurrent use.
type Builder struct {
	mu       sync.Mutex
	verdicts map[[sha256.Size]byte]string // why a policy is not portable, "" where it is
}

// Build makes a bundle. A nil signer leaves it unsigned. Equal input gives
// equal bytes.
func (b *Builder) Build(in Input, profile Profile, signer *Signer) (*Built, error) {
	if !latchkey.ValidName(in.Customer) || in.Sequence < 0 {
		return nil, latchkey.Errorf(latchkey.Invalid, CodeManifestInvalid, "a bundle needs a customer's name and a sequence")
	}
	policies := slices.SortedFunc(slices.Values(in.Policies), func(x, y Policy) int { return cmp.Compare(x.Name, y.Name) })
	if err := checkNames(policies, in.Sets); err != nil {
		return nil, err
	}
	built := &Built{Revision: strconv.FormatInt(in.Sequence, 10)}
	roots := []string{rootLatchkey}
	var files []file
	var err error
	if profile == ProfileOPA {
		roots = []string{rootLatchkey, rootPolicies}
		files, built.NotPortable, err = b.opaFiles(in, policies)
	} else {
		files, err = policyFiles(policies)
	}
	if err != nil {
		return nil, err
	}
	for _, s := range in.Sets {
		text, err := appendSet(s, profile)
		if err != nil {
			return nil, err
		}
		files = append(files, file{rootLatchkey + "/sets/" + s.Name + "/data.json", text})
	}
	manifest, err := encode(map[string]any{
		"revision": built.Revision, "roots": roots, "rego_version": 1,
		"metadata": map[string]any{
			"generator": generator, "format": format, "profile": profile,
			"customer": in.Customer, "sequence": in.Sequence, "default_policy": in.DefaultPolicy,
		},
	})
	if err != nil {
		return nil, err
	}
	files = append(files, file{manifestFile, manifest})
	slices.SortFunc(files, func(x, y file) int { return cmp.Compare(x.name, y.name) })
	if signer != nil {
		signatures, err := signer.sign(files)
		if err != nil {
			return nil, latchkey.Errorf(latchkey.Internal, "signing_failed", "the bundle could not be signed").Because(err)
		}
		files = append([]file{signatures}, files...)
	}
	if built.Raw, err = pack(files); err != nil {
		return nil, err
	}
	built.ETag = ETag(built.Raw)
	return built, nil
}

func checkNames(sorted []Policy, sets []SetInput) error {
	for i, p := range sorted {
		if !latchkey.ValidName(p.Name) || i > 0 && p.Name == sorted[i-1].Name {
			return refuse(CodePolicyInvalid, "%q is no name for a policy, or is there twice", shown(p.Name))
		}
		if p.Language != "cel" && p.Language != "rego" {
			return refuse(CodePolicyInvalid, "policy %q: the language is neither cel nor rego", p.Name)
		}
	}
	seen := map[string]bool{}
	for _, s := range sets {
		if !latchkey.ValidName(s.Name) || seen[s.Name] {
			return refuse(CodeSetInvalid, "%q is no name for a set, or is there twice", shown(s.Name))
		}
		seen[s.Name] = true
	}
	return nil
}

// encode writes JSON whose objects are sorted, without HTML escapes.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// policyFiles are the policies of the latchkey profile.
func policyFiles(policies []Policy) ([]file, error) {
	var files []file
	for _, p := range policies {
		document := p.Document
		if len(document) == 0 {
			var err error
			if document, err = encode(map[string]string{"name": p.Name, "language": p.Language, "rego": p.Rego}); err != nil {
				return nil, err
			}
		}
		text, err := encode(struct {
			Document json.RawMessage `json:"document"`
			Version  int64           `json:"version"`
		}{document, p.Version})
		if err != nil {
			return nil, refuse(CodePolicyInvalid, "policy %q: the document is no JSON", p.Name).Because(err)
		}
		files = append(files, file{rootLatchkey + "/policies/" + p.Name + "/data.json", text})
	}
	return files, nil
}

// opaFiles are what a stock OPA evaluates.
func (b *Builder) opaFiles(in Input, sorted []Policy) ([]file, map[string]string, error) {
	var files []file
	for name, source := range opaLibrary() {
		files = append(files, file{name, []byte(source)})
	}
	known := map[string]any{}
	notPortable := map[string]string{}
	for _, p := range sorted {
		source, why := p.Rego, "it is written in CEL"
		if p.Language == "rego" {
			why = b.whyNotPortable(p)
		}
		if why != "" {
			notPortable[p.Name] = why
			source = notPortableModule(p.Name)
		}
		known[p.Name] = map[string]any{"language": p.Language, "version": p.Version, "portable": why == ""}
		files = append(files, file{rootPolicies + "/" + p.Name + ".rego", []byte(source)})
	}
	facts, err := encode(map[string]any{"customer": in.Customer, "sequence": in.Sequence, "default_policy": in.DefaultPolicy, "policies": known})
	if err != nil {
		return nil, nil, err
	}
	return append(files, file{rootLatchkey + "/bundle/data.json", facts}), notPortable, nil
}

// opaLibrary is latchkey's own Rego as a stock OPA takes it: what in the
// server stands over a built-in of its own stands over data here.
func opaLibrary() map[string]string {
	library := policies.Library()
	library[rootLatchkey+"/entry.rego"] = entryModule
	library[rootLatchkey+"/latchkey.rego"] = latchkeyModule
	return library
}

func notPortableModule(name string) string {
	quoted := strictjson.AppendString(nil, name)
	return "package policies[" + string(quoted) + "]\n\n" +
		"decision := {\"allow\": false, \"reasons\": [{\"code\": \"policy_not_portable\"}]}\n"
}

// whyNotPortable says why a stock OPA would refuse the whole bundle for this
// policy, "" where it would not. The policy has compiled in latchkey; what is
// left are built-ins of ours, and references into the library that a stock OPA
// could take for recursion.
func (b *Builder) whyNotPortable(p Policy) string {
	sum := sha256.Sum256([]byte(p.Name + "\x00" + p.Rego))
	b.mu.Lock()
	why, known := b.verdicts[sum]
	b.mu.Unlock()
	if known {
		return why
	}
	if err := compileForOPA(p); err != nil {
		why = "a stock OPA does not take it: " + firstLine(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.verdicts == nil || len(b.verdicts) >= remembered {
		b.verdicts = map[[sha256.Size]byte]string{}
	}
	b.verdicts[sum] = why
	return why
}

func compileForOPA(p Policy) error {
	options := ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: ast.CapabilitiesForThisVersion()}
	sources := opaLibrary()
	name := rootPolicies + "/" + p.Name + ".rego"
	sources[name] = p.Rego
	modules := map[string]*ast.Module{}
	for file, source := range sources {
		m, err := ast.ParseModuleWithOpts(file, source, options)
		if err != nil {
			return err
		}
		modules[file] = m
	}
	if m := modules[name]; m == nil || !m.Package.Path.Equal(ast.MustParseRef("data.policies").Append(ast.StringTerm(p.Name))) {
		return refuse(CodePackageNotSupported, "the package must be policies[%q]", p.Name)
	}
	c := ast.NewCompiler().WithCapabilities(ast.CapabilitiesForThisVersion())
	if c.Compile(modules); c.Failed() {
		return c.Errors
	}
	if ref := strayReference(c.Modules[name]); ref != nil { // imports are resolved now
		return refuse(CodePolicyInvalid, "%s is not the same there", ref)
	}
	return nil
}

// offered are the parts of data.latchkey that policies find in latchkey and in
// a bundle alike.
var offered = []string{"scopes", "grants", "builtin", "in_set"}

// strayReference finds a reference to any other part of data.latchkey, nil
// where there is none.
func strayReference(m *ast.Module) (stray ast.Ref) {
	library := ast.MustParseRef("data." + rootLatchkey)
	ast.WalkRefs(m, func(ref ast.Ref) bool {
		if !ref.HasPrefix(library) {
			return false
		}
		if len(ref) > len(library) {
			if part, ok := ref[len(library)].Value.(ast.String); ok && slices.Contains(offered, string(part)) {
				return false
			}
		}
		stray = ref
		return true
	})
	return stray
}

// appendSet writes a set as data. For stock OPA the values are an object, so
// that membership is a look-up, and blocks a list beside it.
func appendSet(s SetInput, profile Profile) ([]byte, error) {
	entityType := scopes.EntityType(s.EntityType)
	values := slices.Sorted(s.Values)
	for _, v := range values {
		if canonical, ok := entityType.Canonical(v); !ok || canonical != v {
			return nil, refuse(CodeSetInvalid, "set %q: a value is malformed for the type %q", s.Name, s.EntityType)
		}
	}
	values = slices.Compact(values)
	b := []byte(`{"entity_type":`)
	b = strictjson.AppendString(b, s.EntityType)
	if profile == ProfileOPA && entityType == scopes.EntityIP {
		b = append(b, `,"blocks":[`...)
		n := 0
		for _, v := range values {
			if strings.Contains(v, "/") {
				if n++; n > 1 {
					b = append(b, ',')
				}
				b = strictjson.AppendString(b, v)
			}
		}
		b = append(b, ']')
	}
	b = append(b, `,"version":`...)
	b = strconv.AppendInt(b, s.Version, 10)
	open, end, mark := "[", byte(']'), ""
	if profile == ProfileOPA {
		open, end, mark = "{", '}', ":true"
	}
	b = append(b, `,"values":`...)
	b = append(b, open...)
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = strictjson.AppendString(b, v)
		b = append(b, mark...)
	}
	return append(b, end, '}'), nil
}
