package bundle

import (
	"errors"
	"slices"
	"strings"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

// maxFaults is how many things wrong with a bundle are told.
const maxFaults = 50

// Compile makes the snapshot that a bundle is put into force by, beside the
// one before: policies and sets that are the same in both are shared, the
// others compiled anew. last is where the bundle of before came from, nil for
// elsewhere. It does no I/O and takes as long as it takes to compile.
//
// An error is Invalid, with pointers like /policies/<name>/rego.
func Compile(before *policies.Snapshot, last *Origin, b *Bundle, at latchkey.Instant) (*policies.Snapshot, error) {
	var compiled []*policies.Policy
	var faults []latchkey.Fault
	for _, p := range b.Policies {
		c, err := compilePolicy(before.Policy(p.Name), p)
		if err != nil {
			e, ok := errors.AsType[*latchkey.Error](err)
			if !ok || e.Kind != latchkey.Invalid {
				return nil, err
			}
			faults = append(faults, below(strictjson.Pointer("/policies", p.Name), e)...)
			continue
		}
		compiled = append(compiled, c)
	}
	sets := make(map[string]*policies.Set, len(b.Sets))
	for _, s := range b.Sets {
		sets[s.Name] = compileSet(before.Set(s.Name), sameOrigin(last, b.Origin), s)
	}
	for _, c := range compiled {
		for _, name := range c.Reads.Sets {
			if sets[name] == nil {
				faults = append(faults, latchkey.Fault{Pointer: strictjson.Pointer("/policies", c.Document.Name), Code: "unknown_set", Detail: "the bundle has no set " + name})
			}
		}
	}
	otherwise := ""
	if b.Origin != nil {
		otherwise = b.Origin.DefaultPolicy
	}
	if otherwise != "" && !slices.ContainsFunc(b.Policies, func(p Policy) bool { return p.Name == otherwise }) {
		faults = append(faults, latchkey.Fault{Pointer: "/default_policy", Code: "unknown_policy", Detail: "the bundle has no policy " + otherwise})
	}
	if len(faults) > 0 {
		faults = faults[:min(len(faults), maxFaults)]
		return nil, latchkey.InvalidFaults(faults...)
	}
	revision := before.Revision + 1
	if b.Origin != nil {
		revision = b.Origin.Sequence
	}
	return before.Edit(revision, at, func(d *policies.Draft) {
		for _, name := range before.Policies() {
			d.DropPolicy(name)
		}
		for _, c := range compiled {
			d.PutPolicy(c)
		}
		for _, name := range before.Sets() {
			if sets[name] == nil {
				d.DropSet(name)
			}
		}
		for name, set := range sets {
			d.PutSet(name, set)
		}
		d.SetDefault(otherwise)
	}), nil
}

// below puts an error's faults under a policy.
func below(at string, e *latchkey.Error) []latchkey.Fault {
	if len(e.Faults) == 0 {
		return []latchkey.Fault{{Pointer: at, Code: e.Code, Detail: e.Public}}
	}
	faults := slices.Clone(e.Faults)
	for i := range faults {
		faults[i].Pointer = at + faults[i].Pointer
	}
	return faults
}

func compilePolicy(before *policies.Policy, p Policy) (*policies.Policy, error) {
	d, err := Document(p)
	if err != nil {
		return nil, err
	}
	same := before != nil && string(before.Document.AppendJSON(nil)) == string(d.AppendJSON(nil))
	version := p.Version
	if version == 0 { // the bundle does not count
		if version = 1; before != nil {
			if version = before.Version; !same {
				version++
			}
		}
	}
	if same && before.Version == version {
		return before, nil
	}
	return policies.Compile(d, version)
}

// Document is the policy document that a bundle's policy stands for.
func Document(p Policy) (*policies.Document, error) {
	if len(p.Document) == 0 {
		if !policies.ValidPolicyName(p.Name) {
			return nil, latchkey.InvalidFaults(latchkey.Fault{Code: "reserved_name", Detail: "no policy may be called " + p.Name})
		}
		return &policies.Document{Name: p.Name, Language: policies.Rego, Rego: strings.Clone(p.Rego)}, nil
	}
	var doc strictjson.Doc
	if err := doc.Parse(string(p.Document)); err != nil {
		return nil, err
	}
	return policies.ParseDocument(doc.Root(), p.Name)
}

// sameOrigin reports whether equal versions in two bundles are equal content:
// both were made by latchkey, for one customer.
func sameOrigin(last, now *Origin) bool {
	return last != nil && now != nil && last.Customer == now.Customer && last.Sequence <= now.Sequence
}

// compileSet never gives two contents one version.
func compileSet(before *policies.Set, counted bool, s Set) *policies.Set {
	t := scopes.EntityType(s.EntityType)
	version := s.Version
	if before != nil {
		if counted && before.Version == version && before.Type == t && before.Len() == len(s.Values) {
			return before
		}
		version = max(version, before.Version+1)
	}
	return policies.NewSet(t, version, slices.Values(s.Values))
}
