package bundle

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"
	yaml "go.yaml.in/yaml/v3"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Roots of everything that a bundle may hold.
const (
	rootPolicies = "policies"
	rootLatchkey = "latchkey"
)

// Options say what is asked of a bundle.
type Options struct {
	Limits Limits
	// Keys verify the signature. Without them an unsigned bundle is taken, and
	// a signed one refused, as stock OPA does.
	Keys *Keys
	// SkipVerification takes any bundle whatever its signature.
	SkipVerification bool
	// Customer, when set, must be the customer of a bundle that latchkey made.
	Customer string
	// After, when set, is the bundle in force: none of an older sequence is
	// taken in its place.
	After *Origin
}

// Read checks a bundle as a whole and returns what it holds. Every refusal is
// a *latchkey.Error of kind Invalid with one of the codes of this package.
func Read(raw []byte, o Options) (*Bundle, error) {
	files, err := unpack(raw, o.Limits)
	if err != nil {
		return nil, err
	}
	b := &Bundle{Digest: digest(raw), Size: len(raw)}
	sorted, err := sortFiles(files)
	if err != nil {
		return nil, err
	}
	if b.Signed, err = o.signature(sorted.signatures, files); err != nil {
		return nil, err
	}
	roots, err := b.manifest(sorted.manifest)
	if err != nil {
		return nil, err
	}
	if err := o.origin(b.Origin); err != nil {
		return nil, err
	}
	r := reading{bundle: b, roots: roots, sets: map[string]bool{}, policies: map[string]string{}}
	for _, f := range sorted.rego {
		if err := r.rego(f); err != nil {
			return nil, err
		}
	}
	for _, d := range sorted.data {
		if err := r.data(d); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(b.Policies, func(x, y Policy) int { return cmp.Compare(x.Name, y.Name) })
	slices.SortFunc(b.Sets, func(x, y Set) int { return cmp.Compare(x.Name, y.Name) })
	return b, nil
}

// contents are a bundle's files by what they are. JSON and YAML is parsed, so
// that no later reader meets a document that it could take for another.
type contents struct {
	manifest   *strictjson.Doc
	signatures *file
	rego       []file
	data       []dataFile
}

type dataFile struct {
	name string
	doc  *strictjson.Doc
}

func sortFiles(files []file) (contents, error) {
	var c contents
	for i, f := range files {
		base := path.Base(f.name)
		switch {
		case f.name == signaturesFile:
			c.signatures = &files[i]
		case f.name == manifestFile:
			doc, err := parseJSON(f)
			if err != nil {
				return c, err
			}
			c.manifest = doc
		case base == "data.json":
			doc, err := parseJSON(f)
			if err != nil {
				return c, err
			}
			c.data = append(c.data, dataFile{f.name, doc})
		case base == "data.yaml" || base == "data.yml":
			doc, err := parseYAML(f)
			if err != nil {
				return c, err
			}
			c.data = append(c.data, dataFile{f.name, doc})
		case strings.HasSuffix(base, ".rego"):
			c.rego = append(c.rego, f)
		case base == "patch.json":
			return c, refuse(CodeDeltaNotSupported, "delta bundles are not taken; ask for a snapshot")
		case base == signaturesFile, strings.HasSuffix(base, manifestFile), strings.HasSuffix(base, ".manifest.pb"),
			base == "policy.wasm", base == "plan.json", base == "plan.pb":
			return c, refuse(CodeFileNotSupported, "%q is not taken", shown(f.name))
		}
	}
	return c, nil
}

func parseJSON(f file) (*strictjson.Doc, error) {
	doc := &strictjson.Doc{}
	if err := doc.Parse(string(f.data)); err != nil {
		return nil, refuse(unparsedCode(f.name), "%q does not parse", shown(f.name)).Because(err)
	}
	return doc, nil
}

// unparsedCode is the code for a file of JSON or YAML that does not parse.
func unparsedCode(name string) string {
	if name == manifestFile {
		return CodeManifestInvalid
	}
	return CodeDataNotSupported
}

// parseYAML refuses aliases, by which a few bytes stand for any number.
func parseYAML(f file) (*strictjson.Doc, error) {
	bad := func(err error) error {
		return refuse(CodeDataNotSupported, "%q does not parse", shown(f.name)).Because(err)
	}
	d := yaml.NewDecoder(bytes.NewReader(f.data))
	var node yaml.Node
	if err := d.Decode(&node); err != nil {
		return nil, bad(err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, refuse(CodeDataNotSupported, "%q holds more than one document", shown(f.name))
	}
	if hasAlias(&node, 0) {
		return nil, refuse(CodeDataNotSupported, "%q holds aliases, or is nested too deep", shown(f.name))
	}
	var value any
	if err := util.Unmarshal(f.data, &value); err != nil {
		return nil, bad(err)
	}
	text, err := json.Marshal(value)
	if err != nil {
		return nil, bad(err)
	}
	return parseJSON(file{f.name, text})
}

func hasAlias(n *yaml.Node, depth int) bool {
	if n.Kind == yaml.AliasNode || depth > strictjson.MaxDepth {
		return true
	}
	return slices.ContainsFunc(n.Content, func(c *yaml.Node) bool { return hasAlias(c, depth+1) })
}

func (o *Options) signature(signatures *file, files []file) (bool, error) {
	switch {
	case o.SkipVerification:
		return false, nil
	case o.Keys == nil && signatures != nil:
		return false, refuse(CodeNoVerificationKey, "the bundle is signed, and no verification key is configured")
	case o.Keys == nil:
		return false, nil
	case signatures == nil:
		return false, refuse(CodeSignatureMissing, "the bundle is not signed")
	}
	return true, o.Keys.verify(signatures.data, files)
}

// manifest reads .manifest and returns the roots, which are checked.
func (b *Bundle) manifest(doc *strictjson.Doc) ([]string, error) {
	bad := func(text string) error { return refuse(CodeManifestInvalid, "%s", text) }
	if doc == nil {
		return []string{""}, nil
	}
	m := doc.Root()
	if m.Kind() != strictjson.Object {
		return nil, bad("the manifest is no object")
	}
	if v := m.Get("revision"); v.Kind() == strictjson.String {
		b.Revision = v.Text()
	} else if v.Kind() != strictjson.Missing {
		return nil, bad("the manifest's revision is no string")
	}
	if v := m.Get("wasm"); v.Len() > 0 {
		return nil, refuse(CodeFileNotSupported, "compiled policies are not taken")
	}
	if v := m.Get("rego_version"); v.Kind() != strictjson.Missing && v.Raw() != "1" {
		return nil, refuse(CodeRegoVersion, "only Rego version 1 is taken")
	}
	for _, v := range m.Get("file_rego_versions").Members() {
		if v.Raw() != "1" {
			return nil, refuse(CodeRegoVersion, "only Rego version 1 is taken")
		}
	}
	origin, err := readOrigin(m.Get("metadata"))
	if err != nil {
		return nil, err
	}
	b.Origin = origin
	v := m.Get("roots")
	if v.Kind() == strictjson.Missing || v.Kind() == strictjson.Null {
		return []string{""}, nil
	}
	if v.Kind() != strictjson.Array {
		return nil, bad("the manifest's roots are no list")
	}
	roots := []string{}
	for _, e := range v.Elements() {
		if e.Kind() != strictjson.String {
			return nil, bad("a root is no string")
		}
		roots = append(roots, strings.Trim(e.Text(), "/"))
	}
	return roots, checkRoots(roots)
}

// checkRoots takes roots at or below those that are ours, and the one empty
// root that "opa build" writes where none is declared.
func checkRoots(roots []string) error {
	if len(roots) == 1 && roots[0] == "" {
		return nil
	}
	for i, root := range roots {
		if !within(root, rootPolicies) && !within(root, rootLatchkey) {
			return refuse(CodeWrongRoots, "the root %q is not below policies or latchkey", shown(root))
		}
		for _, other := range roots[:i] {
			if within(root, other) || within(other, root) {
				return refuse(CodeWrongRoots, "the roots %q and %q overlap", shown(root), shown(other))
			}
		}
	}
	return nil
}

// within reports whether a slash-separated path equals root or lies below it.
func within(p, root string) bool {
	return root == "" || p == root || strings.HasPrefix(p, root+"/")
}

func readOrigin(metadata strictjson.Value) (*Origin, error) {
	if k := metadata.Kind(); k != strictjson.Object {
		if k == strictjson.Missing || k == strictjson.Null {
			return nil, nil //nolint:nilnil // no origin is an answer: another program made the bundle
		}
		return nil, refuse(CodeManifestInvalid, "the manifest's metadata is no object")
	}
	if g := metadata.Get("generator"); g.Kind() != strictjson.String || g.Text() != generator {
		return nil, nil //nolint:nilnil // as above
	}
	o := &Origin{
		Profile:       Profile(metadata.Get("profile").Text()),
		Customer:      metadata.Get("customer").Text(),
		DefaultPolicy: metadata.Get("default_policy").Text(),
	}
	sequence, err := strconv.ParseInt(metadata.Get("sequence").Raw(), 10, 64)
	switch {
	case metadata.Get("format").Raw() != strconv.Itoa(format):
		return nil, refuse(CodeManifestInvalid, "a later latchkey made the bundle, in a format of its own")
	case o.Profile != ProfileOPA && o.Profile != ProfileLatchkey,
		!latchkey.ValidName(o.Customer), err != nil || sequence < 0,
		o.DefaultPolicy != "" && !latchkey.ValidName(o.DefaultPolicy):
		return nil, refuse(CodeManifestInvalid, "the manifest's metadata lacks a profile, a customer or a sequence")
	}
	o.Sequence = sequence
	return o, nil
}

// origin holds a latchkey bundle to the customer and to the one in force. A
// bundle without a sequence could be any age, so it does not follow one with.
func (o *Options) origin(from *Origin) error {
	if from != nil && o.Customer != "" && from.Customer != o.Customer {
		return refuse(CodeWrongCustomer, "the bundle is of customer %q", from.Customer)
	}
	if o.After == nil {
		return nil
	}
	switch {
	case from == nil:
		return refuse(CodeOlderSequence, "the bundle has no sequence, and the one in force has %d", o.After.Sequence)
	case from.Customer != o.After.Customer:
		return refuse(CodeWrongCustomer, "the bundle is of customer %q", from.Customer)
	case from.Sequence < o.After.Sequence:
		return refuse(CodeOlderSequence, "the bundle's sequence %d is older than %d, which is in force", from.Sequence, o.After.Sequence)
	}
	return nil
}

// reading gathers the policies and sets.
type reading struct {
	bundle   *Bundle
	roots    []string
	sets     map[string]bool
	policies map[string]string // name → file
}

func (r *reading) profile() Profile {
	if r.bundle.Origin == nil {
		return ""
	}
	return r.bundle.Origin.Profile
}

// owned reports whether the roots permit content at a path.
func (r *reading) owned(segments ...string) error {
	p := strings.Join(segments, "/")
	if !slices.ContainsFunc(r.roots, func(root string) bool { return within(p, root) }) {
		return refuse(CodeWrongRoots, "the roots do not permit what lies at %q", shown(p))
	}
	return nil
}

func (r *reading) rego(f file) error {
	ref, err := packageOf(f)
	if err != nil {
		return err
	}
	segments, ok := constants(ref)
	if !ok {
		return refuse(CodePackageNotSupported, "%q: the package is no name", shown(f.name))
	}
	if err := r.owned(segments...); err != nil {
		return err
	}
	if segments[0] == rootLatchkey && r.profile() == ProfileOPA {
		return nil // latchkey's library, of which it has its own
	}
	if r.profile() == ProfileLatchkey || len(segments) != 2 || segments[0] != rootPolicies || !latchkey.ValidName(segments[1]) {
		return refuse(CodePackageNotSupported, "%q: the package must be policies.<name>", shown(f.name))
	}
	return r.policy(Policy{Name: segments[1], Language: "rego", Rego: string(f.data), File: f.name})
}

func (r *reading) policy(p Policy) error {
	if other, twice := r.policies[p.Name]; twice {
		return refuse(CodeDuplicatePolicy, "%q and %q are both the policy %q; a policy is one file", shown(other), shown(p.File), p.Name)
	}
	r.policies[p.Name] = p.File
	r.bundle.Policies = append(r.bundle.Policies, p)
	return nil
}

// constants turns a package's path into its names, without the leading data.
func constants(ref ast.Ref) ([]string, bool) {
	var segments []string
	for _, t := range ref[1:] {
		s, ok := t.Value.(ast.String)
		if !ok {
			return nil, false
		}
		segments = append(segments, string(s))
	}
	return segments, len(segments) > 0
}

// packageOf reads a module's package. Nearly always the line that begins with
// the word says it all; the module itself is parsed by who compiles it.
func packageOf(f file) (ast.Ref, error) {
	text := string(f.data)
	options := ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: ast.CapabilitiesForThisVersion()}
	for at := 0; at < len(text); {
		line, _, _ := strings.Cut(text[at:], "\n")
		end := at + len(line)
		if bare := strings.TrimSpace(line); bare != "" && bare[0] != '#' {
			if m, err := ast.ParseModuleWithOpts(f.name, line, options); err == nil && m != nil && m.Package != nil {
				return m.Package.Path, nil
			}
			break
		}
		at = end + 1
	}
	m, err := ast.ParseModuleWithOpts(f.name, text, options)
	if err != nil {
		return nil, refuse(CodePolicyInvalid, "%q does not parse: %s", shown(f.name), firstLine(err))
	}
	if m == nil || m.Package == nil {
		return nil, refuse(CodePolicyInvalid, "%q is empty", shown(f.name))
	}
	return m.Package.Path, nil
}

// firstLine is what OPA says of the first thing wrong, with its place.
func firstLine(err error) string {
	var all ast.Errors
	if errors.As(err, &all) && len(all) > 0 {
		e := all[0]
		if e.Location != nil {
			return strconv.Itoa(e.Location.Row) + ":" + strconv.Itoa(e.Location.Col) + ": " + e.Message
		}
		return e.Message
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// data walks a document down to the sets; whatever else it meets is refused
// by its path.
func (r *reading) data(f dataFile) error {
	var at []string
	if dir := path.Dir(f.name); dir != "." {
		at = strings.Split(dir, "/")
	}
	return r.walk(f.name, at, f.doc.Root())
}

func (r *reading) walk(name string, at []string, v strictjson.Value) error {
	switch {
	case len(at) == 3 && at[0] == rootLatchkey && at[1] == "sets":
		return r.set(at, v)
	case len(at) == 3 && at[0] == rootLatchkey && at[1] == "policies" && r.profile() == ProfileLatchkey:
		return r.document(name, at, v)
	case len(at) == 2 && at[0] == rootLatchkey && at[1] == "bundle" && r.profile() == ProfileOPA:
		return nil // what the entry rule reads
	case len(at) > 2, v.Kind() != strictjson.Object,
		len(at) > 0 && at[0] != rootLatchkey,
		len(at) > 1 && at[1] != "sets" && (at[1] != "policies" || r.profile() != ProfileLatchkey):
		return refuse(CodeDataNotSupported, "%q holds data at %q; only sets are taken, at latchkey/sets/<name>", shown(name), shown("/"+strings.Join(at, "/")))
	}
	for member, below := range v.Members() {
		if err := r.walk(name, append(slices.Clone(at), member), below); err != nil {
			return err
		}
	}
	return nil
}

// set reads {"entity_type", "values"}: a list, or as our own profile has it an
// object whose members are the values.
func (r *reading) set(at []string, v strictjson.Value) error {
	name := at[2]
	bad := func(format string, args ...any) error {
		return refuse(CodeSetInvalid, "set %q: "+format, append([]any{shown(name)}, args...)...)
	}
	if err := r.owned(at...); err != nil {
		return err
	}
	if !latchkey.ValidName(name) || r.sets[name] || v.Kind() != strictjson.Object {
		return bad("it has no valid name, is there twice, or is no object")
	}
	r.sets[name] = true
	s := Set{Name: name, EntityType: v.Get("entity_type").Text()}
	entityType := scopes.EntityType(s.EntityType)
	if entityType != scopes.EntityString && entityType != scopes.EntityIP && entityType != scopes.EntityUint {
		return bad("entity_type must be string, ip or uint")
	}
	for member := range v.Members() {
		switch {
		case member == "entity_type", member == "values", member == "version", member == "blocks" && r.profile() == ProfileOPA:
		default:
			return bad("unknown member %q", shown(member))
		}
	}
	if version := v.Get("version"); version.Kind() != strictjson.Missing {
		n, err := strconv.ParseInt(version.Raw(), 10, 64)
		if err != nil || n < 0 {
			return bad("the version is no number")
		}
		s.Version = n
	}
	values := v.Get("values")
	s.Values = make([]string, 0, values.Len())
	seen := make(map[string]struct{}, values.Len())
	add := func(value string) error {
		canonical, ok := entityType.Canonical(value)
		if !ok {
			return bad("value %d is malformed for the type %s", len(s.Values), s.EntityType)
		}
		if _, twice := seen[canonical]; !twice {
			seen[canonical] = struct{}{}
			s.Values = append(s.Values, canonical)
		}
		return nil
	}
	switch values.Kind() {
	case strictjson.Array:
		for i, value := range values.Elements() {
			text := value.Text()
			if value.Kind() == strictjson.Number && entityType == scopes.EntityUint {
				text = value.Raw()
			} else if value.Kind() != strictjson.String {
				return bad("value %d is no string", i)
			}
			if err := add(text); err != nil {
				return err
			}
		}
	case strictjson.Object:
		for value := range values.Members() {
			if err := add(value); err != nil {
				return err
			}
		}
	default:
		return bad("values are neither a list nor an object")
	}
	r.bundle.Sets = append(r.bundle.Sets, s)
	return nil
}

// document reads a policy of the latchkey profile.
func (r *reading) document(file string, at []string, v strictjson.Value) error {
	if err := r.owned(at...); err != nil {
		return err
	}
	document := v.Get("document")
	p := Policy{
		Name: at[2], Language: document.Get("language").Text(), Rego: document.Get("rego").Text(),
		Document: json.RawMessage(strings.Clone(document.Raw())), File: file,
	}
	version, err := strconv.ParseInt(v.Get("version").Raw(), 10, 64)
	switch {
	case !latchkey.ValidName(p.Name), err != nil || version < 0, document.Kind() != strictjson.Object,
		p.Language != "cel" && p.Language != "rego",
		(p.Language == "rego") != (p.Rego != ""):
		return refuse(CodePolicyInvalid, "%q is no policy document", shown(file))
	}
	p.Version = version
	return r.policy(p)
}
