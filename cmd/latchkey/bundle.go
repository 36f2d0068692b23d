package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/policies/bundle"
	"github.com/latchkey-dev/latchkey/scopes"
)

// BundleCmd makes and checks bundles, offline.
type BundleCmd struct {
	Key    BundleKeyCmd    `cmd:"" help:"Show the public key of the server's signature of bundles."`
	Build  BundleBuildCmd  `cmd:"" help:"Build a bundle from policies and sets in files; exit code 3 when a policy does not compile."`
	Verify BundleVerifyCmd `cmd:"" help:"Check a bundle: its form, signature and roots, and that its policies compile; exit code 3 when they do not."`
}

// BundleBuildCmd builds a bundle.
type BundleBuildCmd struct {
	Paths         []string `arg:"" help:"Files and directories: policies as .rego, policies and sets as .yaml or .json." type:"path" placeholder:"PATH"`
	Output        string   `short:"o" required:"" help:"File to write." type:"path" placeholder:"FILE"`
	Profile       string   `help:"Whom the bundle is for: ${enum}." enum:"latchkey,opa" default:"latchkey"`
	Customer      string   `help:"Customer whose policies these are." default:"default" placeholder:"ID"`
	Sequence      int64    `help:"Sequence number; a puller takes none that is lower than the one in force." default:"0"`
	DefaultPolicy string   `help:"Policy of questions that name none; empty for the built-in one." placeholder:"NAME"`
	SignKey       string   `help:"PEM private key to sign with: elliptic-curve (ES256, ES384, ES512) or RSA (RS256)." type:"existingfile" placeholder:"FILE"`
	KeyID         string   `name:"key-id" help:"Name of the key in the signature; the public key's fingerprint where empty." placeholder:"ID"`
	Scope         string   `help:"Scope of the signature." placeholder:"SCOPE"`
}

// Run implements the command.
func (cmd *BundleBuildCmd) Run(g *Globals, std streams) error {
	input := bundle.Input{Customer: cmd.Customer, Sequence: cmd.Sequence, DefaultPolicy: cmd.DefaultPolicy}
	if err := readBundleFiles(cmd.Paths, &input); err != nil {
		return err
	}
	var signer *bundle.Signer
	if cmd.SignKey != "" {
		text, err := os.ReadFile(cmd.SignKey)
		if err != nil {
			return usage("%w", err)
		}
		if signer, err = bundle.ParseSigner(text, cmd.KeyID, cmd.Scope); err != nil {
			return usage("--sign-key: %w", err)
		}
	}
	built, err := new(bundle.Builder).Build(input, bundle.Profile(cmd.Profile), signer)
	if err != nil {
		return err
	}
	// What was built is read and compiled as a puller would.
	if err := compileInput(&input); err != nil {
		return err
	}
	if err := os.WriteFile(cmd.Output, built.Raw, 0o600); err != nil { //nolint:gosec // the operator says where
		return err
	}
	if g.JSON {
		return json.NewEncoder(std.out).Encode(map[string]any{
			"file": cmd.Output, "bytes": len(built.Raw), "etag": built.ETag, "revision": built.Revision, "policies": len(input.Policies), "sets": len(input.Sets),
			"signed": signer != nil, "not_portable": built.NotPortable,
		})
	}
	fmt.Fprintf(std.out, "%s: %d policies, %d sets, %d bytes\n", cmd.Output, len(input.Policies), len(input.Sets), len(built.Raw))
	for _, p := range input.Policies {
		if why, ok := built.NotPortable[p.Name]; ok {
			fmt.Fprintf(std.out, "  %s denies in stock OPA: %s\n", p.Name, why)
		}
	}
	return nil
}

// compileInput compiles everything as latchkey does.
func compileInput(in *bundle.Input) error {
	b := &bundle.Bundle{Policies: in.Policies, Origin: &bundle.Origin{DefaultPolicy: in.DefaultPolicy, Customer: in.Customer}}
	for _, s := range in.Sets {
		b.Sets = append(b.Sets, bundle.Set{Name: s.Name, EntityType: s.EntityType, Version: s.Version, Values: slices.Collect(s.Values)})
	}
	if _, err := bundle.Compile(&policies.Snapshot{}, nil, b, 0); err != nil {
		return &exitError{exitCompile, err}
	}
	return nil
}

// readBundleFiles reads policies and sets from files and directories.
func readBundleFiles(paths []string, in *bundle.Input) error {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return usage("%w", err)
		}
		if !info.IsDir() {
			if err := readBundleFile(path, in); err != nil {
				return err
			}
			continue
		}
		err = filepath.WalkDir(path, func(file string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return usage("%w", err)
			case strings.HasPrefix(d.Name(), ".") && file != path:
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			case d.IsDir() || !slices.Contains([]string{".rego", ".yaml", ".yml", ".json"}, filepath.Ext(file)):
				return nil
			}
			return readBundleFile(file, in)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func readBundleFile(path string, in *bundle.Input) error {
	f, err := readSource(path, nil)
	// Whatever is wrong is told with the place it is at.
	wrong := func(err error) error {
		found := f.findings(err)
		if len(found) == 0 {
			return &exitError{exitCompile, fmt.Errorf("%s: %w", path, err)}
		}
		list := make([]error, len(found))
		for i, at := range found {
			list[i] = at
		}
		return &exitError{exitCompile, errors.Join(list...)}
	}
	if _, unreadable := errors.AsType[*exitError](err); unreadable {
		return err
	}
	if err != nil {
		return wrong(err)
	}
	var doc strictjson.Doc
	if err := doc.Parse(string(f.json)); err != nil {
		return wrong(err)
	}
	root := doc.Root()
	switch {
	case root.Get("entity_type").Kind() != strictjson.Missing:
		set, err := readSet(root)
		if err != nil {
			return wrong(err)
		}
		in.Sets = append(in.Sets, set)
	case root.Get("language").Kind() != strictjson.Missing:
		d, err := policies.ParseDocument(root, "")
		if err != nil {
			return wrong(err)
		}
		in.Policies = append(in.Policies, bundlePolicy(d))
	case root.Get("cases").Kind() != strictjson.Missing: // tests lie beside policies
	default:
		return wrong(errors.New("neither a policy, with a language, nor a set, with an entity_type"))
	}
	return nil
}

func bundlePolicy(d *policies.Document) bundle.Policy {
	return bundle.Policy{Name: d.Name, Language: string(d.Language), Version: 1, Rego: d.Rego, Document: d.AppendJSON(nil)}
}

// readSet reads {name, entity_type, values, description?}.
func readSet(v strictjson.Value) (bundle.SetInput, error) {
	s := bundle.SetInput{Name: v.Get("name").Text(), EntityType: v.Get("entity_type").Text(), Version: 1}
	for member := range v.Members() {
		if !slices.Contains([]string{"name", "entity_type", "values", "description"}, member) {
			return s, latchkey.InvalidFaults(latchkey.Fault{Pointer: strictjson.Pointer("", member), Code: "unknown_member", Detail: "unknown member"})
		}
	}
	if list := v.Get("values"); list.Kind() != strictjson.Array {
		return s, latchkey.InvalidFaults(latchkey.Fault{Pointer: "/values", Code: "wrong_type", Detail: "want an array"})
	}
	var values []string
	for i, e := range v.Get("values").Elements() {
		text := e.Text()
		if e.Kind() == strictjson.Number { // YAML reads 5 as one
			text = e.Raw()
		}
		canonical, ok := scopes.EntityType(s.EntityType).Canonical(text)
		if !ok || e.Kind() != strictjson.Number && e.Kind() != strictjson.String {
			return s, latchkey.InvalidFaults(latchkey.Fault{Pointer: strictjson.PointerIndex("/values", i), Code: "malformed_value", Detail: "malformed for the set's entity_type"})
		}
		values = append(values, canonical)
	}
	s.Values = slices.Values(values)
	return s, nil
}

// BundleVerifyCmd checks a bundle.
type BundleVerifyCmd struct {
	File              string   `arg:"" help:"The bundle; - for standard input." placeholder:"FILE"`
	VerificationKey   []string `help:"PEM public key, or a shared secret, that may have signed it, as FILE or ID=FILE; may be given again." placeholder:"[ID=]FILE"`
	VerificationAlg   string   `help:"Algorithm of the keys where it is not the usual one of their kind, as RS512 or HS256." placeholder:"ALG"`
	VerificationKeyID string   `name:"verification-key-id" help:"The one key to use, whatever the signature names." placeholder:"ID"`
	Scope             string   `help:"Scope that the signature must have." placeholder:"SCOPE"`
	Customer          string   `help:"Customer whose bundle it must be, where latchkey made it." placeholder:"ID"`
	MaxSize           int64    `help:"Greatest size in bytes." default:"67108864"`
}

// Run implements the command.
func (cmd *BundleVerifyCmd) Run(g *Globals, std streams) error {
	if cmd.MaxSize <= 0 {
		return usage("--max-size: want a number above zero")
	}
	o := bundle.Options{Limits: bundle.Limits{Size: cmd.MaxSize}, Customer: cmd.Customer, SkipVerification: len(cmd.VerificationKey) == 0}
	var err error
	if !o.SkipVerification {
		if o.Keys, err = cmd.keys(); err != nil {
			return usage("--verification-key: %w", err)
		}
	} else if cmd.VerificationKeyID != "" || cmd.Scope != "" {
		return usage("--verification-key-id and --scope go with --verification-key")
	}
	raw, err := cmd.read(std.in)
	if err != nil {
		return err
	}
	b, err := bundle.Read(raw, o)
	if err != nil {
		return err
	}
	if _, err := bundle.Compile(&policies.Snapshot{}, nil, b, 0); err != nil {
		return &exitError{exitCompile, err}
	}
	return cmd.show(g, std.out, b)
}

func (cmd *BundleVerifyCmd) read(in io.Reader) ([]byte, error) {
	if cmd.File != "-" {
		f, err := os.Open(cmd.File)
		if err != nil {
			return nil, usage("%w", err)
		}
		defer f.Close()
		in = f
	}
	return io.ReadAll(io.LimitReader(in, cmd.MaxSize+1))
}

func (cmd *BundleVerifyCmd) keys() (*bundle.Keys, error) {
	var keys []bundle.VerificationKey
	for _, arg := range cmd.VerificationKey {
		id, path, named := strings.Cut(arg, "=")
		if !named {
			id, path = "", arg
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		key := bundle.VerificationKey{ID: id, Algorithm: cmd.VerificationAlg, Key: string(text)}
		switch {
		case key.Algorithm == "":
			if key.Algorithm, err = bundle.AlgorithmOf(key.Key); err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
		case strings.HasPrefix(key.Algorithm, "HS"):
			key.Key = strings.TrimSpace(key.Key)
		}
		keys = append(keys, key)
	}
	return bundle.NewKeys(cmd.VerificationKeyID, cmd.Scope, keys...)
}

func (cmd *BundleVerifyCmd) show(g *Globals, out io.Writer, b *bundle.Bundle) error {
	var names, sets []string
	for _, p := range b.Policies {
		names = append(names, p.Name)
	}
	for _, s := range b.Sets {
		sets = append(sets, s.Name)
	}
	if g.JSON {
		answer := map[string]any{"valid": true, "signed": b.Signed, "revision": b.Revision, "sha256": b.Digest, "policies": orEmpty(names), "sets": orEmpty(sets)}
		if b.Origin != nil {
			answer["customer"], answer["sequence"], answer["profile"] = b.Origin.Customer, b.Origin.Sequence, b.Origin.Profile
		}
		return json.NewEncoder(out).Encode(answer)
	}
	fmt.Fprintf(out, "valid\n  revision   %s\n", orDash(b.Revision))
	if b.Origin != nil {
		fmt.Fprintf(out, "  customer   %s\n  sequence   %d\n  profile    %s\n", b.Origin.Customer, b.Origin.Sequence, b.Origin.Profile)
	}
	signature := "holds"
	if !b.Signed {
		signature = "not checked: no --verification-key"
	}
	fmt.Fprintf(out, "  signature  %s\n  policies   %s\n  sets       %s\n", signature, orDash(strings.Join(names, ", ")), orDash(strings.Join(sets, ", ")))
	return nil
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
