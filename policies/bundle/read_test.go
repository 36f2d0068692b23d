package bundle_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/policies/bundle"
)

func mustKeys(t testing.TB, keyID, scope string, keys ...bundle.VerificationKey) *bundle.Keys {
	t.Helper()
	k, err := bundle.NewKeys(keyID, scope, keys...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if latchkey.CodeOf(err) != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

func TestRead_GivesBackWhatWasBuiltForASidecar(t *testing.T) {
	signer, key := newSigner(t, "", "")
	in := exampleInput()
	built := build(t, in, bundle.ProfileLatchkey, signer)
	b, err := bundle.Read(built.Raw, bundle.Options{Keys: mustKeys(t, "", "", key), Customer: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&bundle.Origin{Profile: bundle.ProfileLatchkey, Customer: "acme", Sequence: 41, DefaultPolicy: "main"}, b.Origin); diff != "" {
		t.Error(diff)
	}
	if !b.Signed || b.Revision != "41" || `"`+b.Digest+`"` != built.ETag || b.Size != len(built.Raw) {
		t.Errorf("got %+v", b)
	}
	for i := range b.Policies {
		b.Policies[i].File = ""
	}
	want := slices.SortedFunc(slices.Values(in.Policies), func(x, y bundle.Policy) int { return strings.Compare(x.Name, y.Name) })
	if diff := cmp.Diff(want, b.Policies); diff != "" {
		t.Error(diff)
	}
	wantSets := []bundle.Set{
		{Name: "big", EntityType: "uint", Version: 1, Values: []string{"0", "18446744073709551615", "5"}},
		{Name: "office", EntityType: "ip", Version: 7, Values: []string{"10.0.0.0/8", "192.0.2.1", "2001:db8::/32"}},
		{Name: "words", EntityType: "string", Version: 1, Values: []string{`"`, "<&>", "a", "\u2028"}},
	}
	if diff := cmp.Diff(wantSets, b.Sets); diff != "" {
		t.Error(diff)
	}
}

func TestRead_TakesOurBundleForStockOPA(t *testing.T) {
	b, err := bundle.Read(build(t, exampleInput(), bundle.ProfileOPA, nil).Raw, bundle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Policies) != 6 || len(b.Sets) != 3 || b.Origin.Profile != bundle.ProfileOPA || b.Policies[4].Rego != tokyoPolicy {
		t.Errorf("got %+v", b)
	}
}

// The strong ETag and 304 rest on this.
func TestBuild_MakesEqualBytesOfEqualContent(t *testing.T) {
	signer, _ := newSigner(t, "", "")
	for _, profile := range []bundle.Profile{bundle.ProfileOPA, bundle.ProfileLatchkey} {
		one := build(t, exampleInput(), profile, signer)
		in := exampleInput()
		slices.Reverse(in.Policies)
		slices.Reverse(in.Sets)
		in.Sets[2].Values = slices.Values([]string{"192.0.2.1", "2001:db8::/32", "10.0.0.0/8", "10.0.0.0/8"})
		if two := build(t, in, profile, signer); !bytes.Equal(one.Raw, two.Raw) {
			t.Errorf("%s: the bytes differ", profile)
		}
		in.Sequence++
		if three := build(t, in, profile, signer); one.ETag == three.ETag {
			t.Errorf("%s: other content, same tag", profile)
		}
	}
}

func TestBuild_RefusesWhatItCouldNotReadBack(t *testing.T) {
	values := slices.Values([]string{"010.0.0.1"})
	for name, change := range map[string]func(*bundle.Input){
		"customer":          func(in *bundle.Input) { in.Customer = "../x" },
		"policy name":       func(in *bundle.Input) { in.Policies[0].Name = "../x" },
		"policy twice":      func(in *bundle.Input) { in.Policies[1].Name = "main" },
		"language":          func(in *bundle.Input) { in.Policies[0].Language = "lua" },
		"document":          func(in *bundle.Input) { in.Policies[0].Document = json.RawMessage("{") },
		"set name":          func(in *bundle.Input) { in.Sets[0].Name = "a/b" },
		"set twice":         func(in *bundle.Input) { in.Sets[0].Name = "big" },
		"malformed value":   func(in *bundle.Input) { in.Sets[0].Values = values },
		"unknown type":      func(in *bundle.Input) { in.Sets[0].EntityType = "float" },
		"negative sequence": func(in *bundle.Input) { in.Sequence = -1 },
	} {
		in := exampleInput()
		change(&in)
		if _, err := new(bundle.Builder).Build(in, bundle.ProfileLatchkey, nil); latchkey.KindOf(err) != latchkey.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// entry is one file of an archive made by hand.
type entry struct {
	name, text string
	typ        byte
	size       int64
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.typ, Mode: 0o600, Size: int64(len(e.text))}
		if e.typ == 0 {
			h.Typeflag = tar.TypeReg
		}
		if e.typ == tar.TypeSymlink || e.typ == tar.TypeLink {
			h.Linkname, h.Size = "/etc/passwd", 0
		}
		if e.size > 0 {
			h.Size = e.size
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.text)); err != nil && h.Typeflag == tar.TypeReg {
			t.Fatal(err)
		}
	}
	if !slices.ContainsFunc(entries, func(e entry) bool { return e.size > 0 }) {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func manifest(text string) entry { return entry{name: "/.manifest", text: text} }

func policy(name string) entry {
	return entry{name: "/" + name + ".rego", text: "package policies." + name + "\n\nallow := true\n"}
}

const ours = `{"roots":["policies","latchkey"],"metadata":{"generator":"latchkey","format":1,"profile":%q,"customer":%q,"sequence":%s}}`

func TestRead_RefusesBadBundles(t *testing.T) {
	good := archive(t, policy("a"))
	zeros := strings.Repeat("\x00", 1<<20)
	limits := bundle.Limits{Size: 1 << 16, Unpacked: 1 << 18, File: 1 << 17, Files: 10}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	for range 64 {
		_, _ = z.Write([]byte(zeros))
	}
	_ = z.Close()
	many := make([]entry, 11)
	for i := range many {
		many[i] = entry{name: fmt.Sprintf("f%d", i)}
	}
	data := func(text string) []byte { return archive(t, entry{name: "/data.json", text: text}) }
	for name, c := range map[string]struct {
		raw  []byte
		code string
	}{
		"nothing":                       {nil, bundle.CodeNotABundle},
		"no gzip":                       {[]byte("<html>not found</html>"), bundle.CodeNotABundle},
		"gzip of no tar":                {gz(t, []byte(strings.Repeat("x", 2048))), bundle.CodeNotABundle},
		"cut short":                     {good[:len(good)-9], bundle.CodeNotABundle},
		"checksum broken":               {flip(good, len(good)-6), bundle.CodeNotABundle},
		"bytes after the end":           {append(slices.Clone(good), "tail"...), bundle.CodeNotABundle},
		"a second gzip member":          {append(slices.Clone(good), good...), bundle.CodeNotABundle},
		"a second archive inside":       {gz(t, append(ungz(t, good), ungz(t, archive(t, policy("b")))...)), bundle.CodeNotABundle},
		"a length that is a lie":        {archive(t, entry{name: "a.rego", text: "package policies.a", size: 4096}), bundle.CodeNotABundle},
		"compressed too large":          {slices.Concat(good, make([]byte, 1<<16)), bundle.CodeTooBig},
		"a file too large":              {archive(t, entry{name: "a.rego", text: zeros[:1<<17+1]}), bundle.CodeTooBig},
		"a promise too large":           {archive(t, entry{name: "a.rego", size: 1 << 40}), bundle.CodeTooBig},
		"all files too large":           {archive(t, entry{name: "a", text: zeros[:1<<17]}, entry{name: "b", text: zeros[:1<<17]}, entry{name: "c", text: "x"}), bundle.CodeTooBig},
		"a bomb of padding":             {bomb.Bytes(), bundle.CodeTooBig},
		"too many files":                {archive(t, many...), bundle.CodeTooBig},
		"a path that leaves":            {archive(t, entry{name: "../a.rego"}), bundle.CodeNotABundle},
		"a path that leaves within":     {archive(t, entry{name: "a/../../b.rego"}), bundle.CodeNotABundle},
		"a path that is not clean":      {archive(t, entry{name: "a//b.rego"}), bundle.CodeNotABundle},
		"two slashes":                   {archive(t, entry{name: "//a.rego"}), bundle.CodeNotABundle},
		"a backslash":                   {archive(t, entry{name: `..\a.rego`}), bundle.CodeNotABundle},
		"the same file twice":           {archive(t, policy("a"), policy("a")), bundle.CodeNotABundle},
		"the same file in two spelling": {archive(t, entry{name: "/data.json", text: "{}"}, entry{name: "./data.json", text: "{}"}), bundle.CodeNotABundle},
		"a symbolic link":               {archive(t, entry{name: "a.rego", typ: tar.TypeSymlink}), bundle.CodeNotABundle},
		"a hard link":                   {archive(t, entry{name: "a.rego", typ: tar.TypeLink}), bundle.CodeNotABundle},
		"a device":                      {archive(t, entry{name: "a.rego", typ: tar.TypeChar}), bundle.CodeNotABundle},

		"a delta":                    {archive(t, entry{name: "/patch.json", text: `{"data":[]}`}), bundle.CodeDeltaNotSupported},
		"compiled code":              {archive(t, entry{name: "/policy.wasm", text: "x"}), bundle.CodeFileNotSupported},
		"a binary manifest":          {archive(t, entry{name: "/.manifest.pb", text: "x"}), bundle.CodeFileNotSupported},
		"a manifest below":           {archive(t, entry{name: "/a/.manifest", text: "{}"}), bundle.CodeFileNotSupported},
		"signatures below":           {archive(t, entry{name: "/a/.signatures.json", text: "{}"}), bundle.CodeFileNotSupported},
		"signed, without keys":       {archive(t, entry{name: "/.signatures.json", text: `{"signatures":["x"]}`}), bundle.CodeNoVerificationKey},
		"a manifest that is a list":  {archive(t, manifest(`[]`)), bundle.CodeManifestInvalid},
		"a manifest of two readings": {archive(t, manifest(`{"roots":["policies"],"roots":[""]}`)), bundle.CodeManifestInvalid},
		"rego of version 0":          {archive(t, manifest(`{"rego_version":0}`)), bundle.CodeRegoVersion},
		"one file of version 0":      {archive(t, manifest(`{"file_rego_versions":{"/a.rego":0}}`)), bundle.CodeRegoVersion},
		"wasm in the manifest":       {archive(t, manifest(`{"wasm":[{"entrypoint":"x"}]}`)), bundle.CodeFileNotSupported},

		"another root":                 {archive(t, manifest(`{"roots":["policies","system"]}`)), bundle.CodeWrongRoots},
		"a root that begins like ours": {archive(t, manifest(`{"roots":["policies2"]}`)), bundle.CodeWrongRoots},
		"an empty root among others":   {archive(t, manifest(`{"roots":["policies",""]}`)), bundle.CodeWrongRoots},
		"overlapping roots":            {archive(t, manifest(`{"roots":["policies","policies/a"]}`)), bundle.CodeWrongRoots},
		"a policy outside the roots":   {archive(t, manifest(`{"roots":["policies/b"]}`), policy("a")), bundle.CodeWrongRoots},
		"no roots at all":              {archive(t, manifest(`{"roots":[]}`), policy("a")), bundle.CodeWrongRoots},
		"a set outside the roots":      {archive(t, manifest(`{"roots":["policies"]}`), entry{name: "/data.json", text: `{"latchkey":{"sets":{"s":{"entity_type":"ip","values":[]}}}}`}), bundle.CodeWrongRoots},
		"a package elsewhere":          {archive(t, entry{name: "a.rego", text: "package system.authz\nallow := true"}), bundle.CodePackageNotSupported},
		"a package in latchkey":        {archive(t, entry{name: "a.rego", text: "package latchkey.scopes\npermits(_, _) := true"}), bundle.CodePackageNotSupported},
		"a package too deep":           {archive(t, entry{name: "a.rego", text: "package policies.a.b"}), bundle.CodePackageNotSupported},
		"a package that is no name":    {archive(t, entry{name: "a.rego", text: `package policies["../a"]`}), bundle.CodePackageNotSupported},
		"rego that does not parse":     {archive(t, entry{name: "a.rego", text: "allow if {"}), bundle.CodePolicyInvalid},
		"an empty rego file":           {archive(t, entry{name: "a.rego", text: "# nothing\n"}), bundle.CodePolicyInvalid},
		"one policy in two files":      {archive(t, policy("a"), entry{name: "/b.rego", text: "package policies.a\nx := 1"}), bundle.CodeDuplicatePolicy},

		"other data":                {data(`{"users":{"a":1}}`), bundle.CodeDataNotSupported},
		"data over policies":        {data(`{"policies":{"a":{"allow":true}}}`), bundle.CodeDataNotSupported},
		"data over the library":     {data(`{"latchkey":{"scopes":{"permits":true}}}`), bundle.CodeDataNotSupported},
		"policies as foreign data":  {data(`{"latchkey":{"policies":{"a":{"language":"cel"}}}}`), bundle.CodeDataNotSupported},
		"data by its directory":     {archive(t, entry{name: "/users/data.json", text: `{}`}), bundle.CodeDataNotSupported},
		"a list as data":            {data(`[]`), bundle.CodeDataNotSupported},
		"data of two readings":      {data(`{"latchkey":{},"latchkey":{}}`), bundle.CodeDataNotSupported},
		"data that does not parse":  {data(`{`), bundle.CodeDataNotSupported},
		"aliases":                   {archive(t, entry{name: "/data.yaml", text: "latchkey: &a {}\nx: *a\n"}), bundle.CodeDataNotSupported},
		"two YAML documents":        {archive(t, entry{name: "/data.yaml", text: "{}\n---\n{}\n"}), bundle.CodeDataNotSupported},
		"a set of an unknown type":  {data(`{"latchkey":{"sets":{"s":{"entity_type":"float","values":[]}}}}`), bundle.CodeSetInvalid},
		"a set without values":      {data(`{"latchkey":{"sets":{"s":{"entity_type":"ip"}}}}`), bundle.CodeSetInvalid},
		"a set with a bad value":    {data(`{"latchkey":{"sets":{"s":{"entity_type":"ip","values":["1.2.3.4","x"]}}}}`), bundle.CodeSetInvalid},
		"a set with a bad name":     {data(`{"latchkey":{"sets":{"a/b":{"entity_type":"ip","values":[]}}}}`), bundle.CodeSetInvalid},
		"a set with something more": {data(`{"latchkey":{"sets":{"s":{"entity_type":"ip","values":[],"x":1}}}}`), bundle.CodeSetInvalid},
		"a set twice": {archive(t, entry{name: "/data.json", text: `{"latchkey":{"sets":{"s":{"entity_type":"ip","values":[]}}}}`},
			entry{name: "/latchkey/sets/s/data.json", text: `{"entity_type":"ip","values":[]}`}), bundle.CodeSetInvalid},

		"another customer":          {archive(t, manifest(fmt.Sprintf(ours, "opa", "globex", "50"))), bundle.CodeWrongCustomer},
		"an older sequence":         {archive(t, manifest(fmt.Sprintf(ours, "opa", "acme", "40"))), bundle.CodeOlderSequence},
		"no sequence":               {good, bundle.CodeOlderSequence},
		"a sequence that is text":   {archive(t, manifest(fmt.Sprintf(ours, "opa", "acme", `"99"`))), bundle.CodeManifestInvalid},
		"an unknown profile":        {archive(t, manifest(fmt.Sprintf(ours, "wasm", "acme", "50"))), bundle.CodeManifestInvalid},
		"rego in the other profile": {archive(t, manifest(fmt.Sprintf(ours, "latchkey", "acme", "50")), policy("a")), bundle.CodePackageNotSupported},
		"a document that is none": {archive(t, manifest(fmt.Sprintf(ours, "latchkey", "acme", "50")),
			entry{name: "/latchkey/policies/a/data.json", text: `{"language":"lua","version":1}`}), bundle.CodePolicyInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			o := bundle.Options{Limits: limits, Customer: "acme"}
			if strings.Contains(name, "sequence") {
				o.After = &bundle.Origin{Customer: "acme", Sequence: 41}
			}
			_, err := bundle.Read(c.raw, o)
			wantCode(t, err, c.code)
			if latchkey.KindOf(err) != latchkey.Invalid {
				t.Errorf("kind %v", latchkey.KindOf(err))
			}
		})
	}
}

func gz(t testing.TB, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func ungz(t testing.TB, raw []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(z); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func flip(raw []byte, at int) []byte {
	raw = slices.Clone(raw)
	raw[at] ^= 1
	return raw
}

// repack changes the files of a bundle and leaves its signature as it was.
func repack(t testing.TB, raw []byte, change func(name, text string) (string, bool), more ...entry) []byte {
	t.Helper()
	var entries []entry
	r := tar.NewReader(bytes.NewReader(ungz(t, raw)))
	for h, err := r.Next(); err == nil; h, err = r.Next() {
		var b bytes.Buffer
		if _, err := b.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		if text, keep := change(h.Name, b.String()); keep {
			entries = append(entries, entry{name: h.Name, text: text})
		}
	}
	return archive(t, append(entries, more...)...)
}

func same(_, text string) (string, bool) { return text, true }

func TestRead_NoticesWhateverIsChangedUnderASignature(t *testing.T) {
	signer, key := newSigner(t, "k1", "read")
	keys := mustKeys(t, "", "read", key)
	raw := build(t, exampleInput(), bundle.ProfileOPA, signer).Raw
	if _, err := bundle.Read(repack(t, raw, same), bundle.Options{Keys: keys}); err != nil {
		t.Fatalf("packed again as it was: %v", err)
	}
	replace := func(file, old, text string) []byte {
		return repack(t, raw, func(name, was string) (string, bool) {
			if name == file {
				if !strings.Contains(was, old) {
					t.Fatalf("%s does not hold %s", file, old)
				}
				return strings.Replace(was, old, text, 1), true
			}
			return was, true
		})
	}
	drop := func(file string) []byte {
		return repack(t, raw, func(name, was string) (string, bool) { return was, name != file })
	}
	otherSigner, otherKey := newSigner(t, "k1", "read")
	_, second := newSigner(t, "k2", "")
	for name, c := range map[string]struct {
		raw  []byte
		keys *bundle.Keys
		code string
	}{
		"a policy changed":         {replace("/policies/main.rego", "office", "words"), keys, bundle.CodeSignatureInvalid},
		"a policy added":           {repack(t, raw, same, policy("evil")), keys, bundle.CodeSignatureInvalid},
		"a policy removed":         {drop("/policies/main.rego"), keys, bundle.CodeSignatureInvalid},
		"the sequence changed":     {replace("/.manifest", `"sequence":41`, `"sequence":99`), keys, bundle.CodeSignatureInvalid},
		"a set changed":            {replace("/latchkey/sets/office/data.json", "10.0.0.0/8", "0.0.0.0/0"), keys, bundle.CodeSignatureInvalid},
		"a file nobody reads":      {repack(t, raw, same, entry{name: "README.md", text: "x"}), keys, bundle.CodeSignatureInvalid},
		"the signature removed":    {drop("/.signatures.json"), keys, bundle.CodeSignatureMissing},
		"two signatures":           {replace("/.signatures.json", `{"signatures":["`, `{"signatures":["x","`), keys, bundle.CodeSignatureInvalid},
		"no signature in the list": {repack(t, raw, func(name, was string) (string, bool) { return was, name != "/.signatures.json" }, entry{name: "/.signatures.json", text: `{"signatures":[]}`}), keys, bundle.CodeSignatureInvalid},
		"a plugin named":           {replace("/.signatures.json", `{`, `{"plugin":"none",`), keys, bundle.CodeSignatureInvalid},
		"alg none":                 {repack(t, raw, func(name, was string) (string, bool) { return was, name != "/.signatures.json" }, entry{name: "/.signatures.json", text: `{"signatures":["eyJhbGciOiJub25lIiwia2lkIjoiazEifQ.eyJmaWxlcyI6W10sInNjb3BlIjoicmVhZCJ9."]}`}), keys, bundle.CodeSignatureInvalid},
		"another key of that id":   {build(t, exampleInput(), bundle.ProfileOPA, otherSigner).Raw, keys, bundle.CodeSignatureInvalid},
		"another key than we hold": {raw, mustKeys(t, "", "read", second), bundle.CodeSignatureInvalid},
		"another scope":            {raw, mustKeys(t, "", "write", key), bundle.CodeSignatureInvalid},
		"no scope":                 {raw, mustKeys(t, "", "", bundle.VerificationKey{ID: key.ID, Algorithm: key.Algorithm, Key: key.Key}), bundle.CodeSignatureInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := bundle.Read(c.raw, bundle.Options{Keys: c.keys})
			wantCode(t, err, c.code)
		})
	}
	unnamed := key
	unnamed.ID = ""
	if _, err := bundle.Read(raw, bundle.Options{Keys: mustKeys(t, "", "read", second, unnamed)}); err != nil {
		t.Errorf("by a key without a name: %v", err)
	}
	rotated := mustKeys(t, "", "read", second, key)
	if _, err := bundle.Read(raw, bundle.Options{Keys: rotated}); err != nil {
		t.Errorf("with a second key beside: %v", err)
	}
	otherKey.ID = "k3"
	if _, err := bundle.Read(raw, bundle.Options{Keys: mustKeys(t, "k3", "read", otherKey, key)}); err == nil {
		t.Error("a key was used that is not the one configured")
	}
}

func TestNewKeys_RefusesKeysThatVerifyNothing(t *testing.T) {
	_, key := newSigner(t, "k", "")
	for name, keys := range map[string][]bundle.VerificationKey{
		"none":             nil,
		"twice":            {key, key},
		"unknown alg":      {{ID: "k", Algorithm: "none", Key: key.Key}},
		"another curve's":  {{ID: "k", Algorithm: "ES384", Key: key.Key}},
		"an EC key as RSA": {{ID: "k", Algorithm: "RS256", Key: key.Key}},
		"no PEM":           {{ID: "k", Algorithm: "ES256", Key: "x"}},
		"empty secret":     {{ID: "k", Algorithm: "HS256"}},
	} {
		if _, err := bundle.NewKeys("", "", keys...); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := bundle.NewKeys("other", "", key); err == nil {
		t.Error("a key id without a key was taken")
	}
}

// What stock OPA builds and signs, by every kind of key.
func TestRead_TakesWhatStockOPABuildsAndSigns(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{
		"in/main.rego":                 policy("main").text,
		"in/other.rego":                "package policies[\"a.b\"]\n\nallow := true\n",
		"in/data.yaml":                 "latchkey:\n  sets:\n    office: {entity_type: ip, values: [10.0.0.0/8]}\n",
		"in/latchkey/sets/n/data.json": `{"entity_type":"uint","values":[1, "2"]}`,
		"rooted/.manifest":             `{"revision":"r1","roots":["policies"]}`,
		"rooted/main.rego":             policy("main").text,
	})
	private := pemKeys(t)
	for name, text := range private {
		write(t, dir, map[string]string{name: text})
	}
	check := func(t *testing.T, raw []byte, o bundle.Options) *bundle.Bundle {
		t.Helper()
		b, err := bundle.Read(raw, o)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	read := func(name string) []byte {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	opa(t, dir, "build", "-b", "rooted", "-o", "rooted.tar.gz")
	if b := check(t, read("rooted.tar.gz"), bundle.Options{}); b.Revision != "r1" || b.Origin != nil || len(b.Policies) != 1 {
		t.Errorf("got %+v", b)
	}
	for name, c := range map[string]struct{ alg, private, public string }{
		"ES256": {"ES256", "ec.pem", "ec.pub"},
		"RS256": {"RS256", "rsa.pem", "rsa.pub"},
		"PS512": {"PS512", "rsa.pem", "rsa.pub"},
		"HS256": {"HS256", "a shared secret of some length", "a shared secret of some length"},
	} {
		t.Run(name, func(t *testing.T) {
			out := c.alg + ".tar.gz"
			opa(t, dir, "build", "-b", "in", "-o", out, "--signing-alg", c.alg, "--signing-key", c.private, "-r", "42")
			key := bundle.VerificationKey{ID: "default", Algorithm: c.alg, Key: private[c.public]}
			if key.Key == "" {
				key.Key = c.public
			}
			b := check(t, read(out), bundle.Options{Keys: mustKeys(t, "", "", key)})
			if !b.Signed || b.Revision != "42" || len(b.Policies) != 2 || b.Policies[0].Name != "a.b" || len(b.Sets) != 2 {
				t.Errorf("got %+v", b)
			}
			wrong := key
			key.ID = "ours" // configured by id, whatever the signature names
			check(t, read(out), bundle.Options{Keys: mustKeys(t, "ours", "", key)})
			wrong.Key = "another shared secret altogether"
			if c.alg != "HS256" {
				_, wrong = newSigner(t, "default", "")
			}
			_, err := bundle.Read(read(out), bundle.Options{Keys: mustKeys(t, "", "", wrong)})
			wantCode(t, err, bundle.CodeSignatureInvalid)
		})
	}
}

// "opa sign" makes the signatures of a directory, which tar then packs.
func TestRead_TakesWhatOPASignAndTarMake(t *testing.T) {
	private := pemKeys(t)
	dir := write(t, t.TempDir(), map[string]string{
		"b/main.rego": policy("main").text, "b/.manifest": `{"roots":["policies","latchkey"],"revision":"7"}`,
		"b/latchkey/sets/office/data.json": `{ "entity_type": "ip", "values": ["10.0.0.0/8"] }`,
		"ec.pem":                           private["ec.pem"],
	})
	opa(t, filepath.Join(dir, "b"), "sign", "--signing-alg", "ES256", "--signing-key", "../ec.pem", "--bundle", ".")
	var entries []entry
	for _, name := range []string{".manifest", ".signatures.json", "main.rego", "latchkey/sets/office/data.json"} {
		text, err := os.ReadFile(filepath.Join(dir, "b", name))
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry{name: "./" + name, text: string(text)})
	}
	entries = append(entries, entry{name: "./latchkey/", typ: tar.TypeDir})
	keys := mustKeys(t, "", "", bundle.VerificationKey{ID: "x", Algorithm: "ES256", Key: private["ec.pub"]})
	b, err := bundle.Read(archive(t, entries...), bundle.Options{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	if !b.Signed || b.Revision != "7" || len(b.Sets) != 1 {
		t.Errorf("got %+v", b)
	}
}

func FuzzRead(f *testing.F) {
	signer, key := newSigner(f, "k", "")
	small := bundle.Input{Customer: "acme", Sequence: 1, Policies: exampleInput().Policies[1:3], Sets: exampleInput().Sets[:1]}
	f.Add(ungz(f, build(f, small, bundle.ProfileLatchkey, signer).Raw), true)
	f.Add(ungz(f, build(f, small, bundle.ProfileLatchkey, nil).Raw), true)
	f.Add(build(f, small, bundle.ProfileLatchkey, signer).Raw, false)
	f.Add(ungz(f, archive(f, manifest(`{"roots":["policies","latchkey"]}`), policy("a"), entry{name: "/data.yaml", text: "latchkey: {sets: {s: {entity_type: ip, values: [1.2.3.4]}}}"})), true)
	keys := mustKeys(f, "", "", key)
	limits := bundle.Limits{Size: 1 << 20, Unpacked: 1 << 20, Files: 100}
	f.Fuzz(func(t *testing.T, raw []byte, compress bool) {
		if compress {
			raw = gz(t, raw)
		}
		for _, o := range []bundle.Options{{Limits: limits, SkipVerification: true, Customer: "acme"}, {Limits: limits, Keys: keys}} {
			b, err := bundle.Read(raw, o)
			switch {
			case err != nil && (latchkey.KindOf(err) != latchkey.Invalid || latchkey.CodeOf(err) == ""):
				t.Fatalf("an error without a code: %v", err)
			case err != nil:
				continue
			}
			for _, p := range b.Policies {
				if !latchkey.ValidName(p.Name) {
					t.Fatalf("a policy called %q", p.Name)
				}
			}
			for _, s := range b.Sets {
				if !latchkey.ValidName(s.Name) {
					t.Fatalf("a set called %q", s.Name)
				}
			}
		}
	})
}
