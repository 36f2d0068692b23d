package bundle_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/policies/bundle"
)

// stockOPA finds the opa program, which most of these tests hold us to.
func stockOPA(t *testing.T) string {
	t.Helper()
	candidates := []string{"opa"}
	for _, dir := range []string{os.Getenv("GOBIN"), filepath.Join(os.Getenv("GOPATH"), "bin"), filepath.Join(os.Getenv("HOME"), "go", "bin")} {
		candidates = append(candidates, filepath.Join(dir, "opa"))
	}
	for _, c := range candidates {
		if path, err := exec.LookPath(c); err == nil {
			return path
		}
	}
	t.Skip("needs the opa program: go install github.com/open-policy-agent/opa@v1.22.2")
	return ""
}

func opa(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	out, err := tryOPA(t, dir, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

type opaError struct{ text string }

func (e opaError) Error() string { return e.text }

func tryOPA(t *testing.T, dir string, args ...string) ([]byte, error) {
	t.Helper()
	c := exec.Command(stockOPA(t), args...)
	c.Dir = dir
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return nil, opaError{"opa " + strings.Join(args, " ") + ": " + err.Error() + "\n" + stderr.String() + stdout.String()}
	}
	return stdout.Bytes(), nil
}

func write(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func newSigner(t testing.TB, id, scope string) (*bundle.Signer, bundle.VerificationKey) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := bundle.NewSigner(private, id, scope)
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.Key()
	if err != nil {
		t.Fatal(err)
	}
	return s, key
}

const tokyoPolicy = `package policies.main

import data.latchkey

decision := {"allow": latchkey.in_set("office", input.context.ip), "reasons": [{"code": "policy_rule", "rule": "office"}]}
`

func exampleInput() bundle.Input {
	in := bundle.Input{
		Customer: "acme", Sequence: 41, DefaultPolicy: "main",
		Policies: []bundle.Policy{
			{Name: "main", Language: "rego", Version: 3, Rego: tokyoPolicy},
			{Name: "a.b:c", Language: "rego", Version: 1, Rego: "package policies[\"a.b:c\"]\n\nallow if input.subject.type == \"service\"\n"},
			{Name: "cel", Language: "cel", Version: 2, Document: json.RawMessage(`{"name":"cel","language":"cel","rules":[],"default":{"action":"allow"}}`)},
			{Name: "nosy", Language: "rego", Version: 1, Rego: "package policies.nosy\n\nallow if data.latchkey[input.context.x]\n"},
			{Name: "broken", Language: "rego", Version: 1, Rego: "package policies.broken\n\ndecision := 1\n\nallow := true\n"},
			{Name: "custom", Language: "rego", Version: 1, Rego: "package policies.custom\n\nallow if data.latchkey.scopes.permits({}, input)\n\nallow if input.latchkey.scope_permits\n"},
		},
		Sets: []bundle.SetInput{
			{Name: "office", EntityType: "ip", Version: 7, Values: slices.Values([]string{"10.0.0.0/8", "192.0.2.1", "2001:db8::/32"})},
			{Name: "big", EntityType: "uint", Version: 1, Values: slices.Values([]string{"5", "18446744073709551615", "0"})},
			{Name: "words", EntityType: "string", Version: 1, Values: slices.Values([]string{"a", "<&>", "\u2028", `"`})},
		},
	}
	for i, p := range in.Policies {
		if p.Language == "rego" {
			d := policies.Document{Name: p.Name, Language: policies.Rego, Rego: p.Rego}
			in.Policies[i].Document = d.AppendJSON(nil)
		}
	}
	return in
}

func build(t testing.TB, in bundle.Input, profile bundle.Profile, signer *bundle.Signer) *bundle.Built {
	t.Helper()
	built, err := new(bundle.Builder).Build(in, profile, signer)
	if err != nil {
		t.Fatal(err)
	}
	return built
}

// ask evaluates one rule of a bundle in stock OPA.
func ask(t *testing.T, raw []byte, rule string, input any) any {
	t.Helper()
	dir := t.TempDir()
	text, err := json.Marshal(input)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, map[string]string{"b.tar.gz": string(raw), "input.json": string(text)})
	var answer struct {
		Result []struct{ Expressions []struct{ Value any } }
	}
	if err := json.Unmarshal(opa(t, dir, "eval", "-b", "b.tar.gz", "-i", "input.json", "--format=json", rule), &answer); err != nil {
		t.Fatal(err)
	}
	if len(answer.Result) == 0 {
		return nil
	}
	return answer.Result[0].Expressions[0].Value
}

type object = map[string]any

func question(subject, action, resource string, more object) object {
	q := object{}
	for member, name := range map[string]string{"subject": subject, "resource": resource} {
		typ, id, _ := strings.Cut(name, " ")
		q[member] = object{"type": typ, "id": id}
	}
	q["action"] = object{"name": action}
	for k, v := range more {
		q[k] = v
	}
	return q
}

func TestStockOPA_AnswersFromOurBundle(t *testing.T) {
	raw := build(t, exampleInput(), bundle.ProfileOPA, nil).Raw
	scopes := object{"customer": object{
		"doc":  []any{object{"f": "*", "p": 2}, object{"f": "staging", "p": 4}},
		"sets": []any{object{"f": "s", "p": 6, "r": object{"filter": "^A"}}},
	}}
	live := object{"key": object{"scopes": scopes, "expires_at": nil, "revoked_at": nil}}
	key := "access_key 9017501f-9fa4-4a88-b657-5bd49c1bb722"
	id := strings.TrimPrefix(key, "access_key ")
	reason := func(code string) []any { return []any{object{"code": code}} }
	rule := func(name string, more object) []any {
		r := object{"code": "policy_rule", "source": "policy", "id": name}
		for k, v := range more {
			r[k] = v
		}
		return []any{r}
	}
	failed := func(name, why string) []any {
		return []any{object{"code": "policy_error", "source": "policy", "id": name, "failure": why}}
	}
	office := rule("main", object{"detail": object{"code": "policy_rule", "rule": "office"}})
	granting := func(action string, more []any) []any {
		return append([]any{object{"code": "scope_permits", "source": "access_key", "id": id, "entry": 0.0, "selector": "*", "permission": action}}, more...)
	}
	ofKey := func(code string) []any {
		return []any{object{"code": code, "source": "access_key", "id": id}}
	}
	grant := object{"id": "g1", "expires_at": "2999-01-01T00:00:00Z", "not_before": "2020-01-01T00:00:00Z"}
	granted := func(entries object) object {
		return object{"key": live["key"], "grants": []any{object{"id": "g1", "expires_at": "2999-01-01T00:00:00Z", "not_before": "2020-01-01T00:00:00Z", "entries": entries}}}
	}
	byGrant := func(more object, others []any) []any {
		r := object{"code": "grant_permits", "source": "grant", "id": "g1"}
		for k, v := range more {
			r[k] = v
		}
		return append([]any{r}, others...)
	}
	inOffice := object{"ip": "10.0.0.1"}
	for name, c := range map[string]struct {
		input   object
		allow   bool
		reasons []any
	}{
		"the default policy, in a block":       {question("service x", "read", "doc 1", object{"context": object{"ip": "10.1.2.3"}}), true, office},
		"the default policy, in an IPv6 block": {question("service x", "read", "doc 1", object{"context": object{"ip": "2001:DB8::1"}}), true, office},
		"the default policy, not in the set":   {question("service x", "read", "doc 1", object{"context": object{"ip": "11.1.2.3"}}), false, office},
		"the policy is undefined":              {question("service x", "read", "doc 1", nil), false, failed("main", "undefined")},
		"a named policy":                       {question("service x", "read", "doc 1", object{"policy": "a.b:c"}), true, rule("a.b:c", nil)},
		"a named policy does not answer":       {question("user x", "read", "doc 1", object{"policy": "a.b:c"}), false, failed("a.b:c", "undefined")},
		"an unknown policy":                    {question("service x", "read", "doc 1", object{"policy": "nope"}), false, reason("policy_not_found")},
		"a CEL policy":                         {question("service x", "read", "doc 1", object{"policy": "cel"}), false, []any{object{"code": "policy_not_portable", "source": "policy", "id": "cel"}}},
		"a policy that reads all of latchkey":  {question("service x", "read", "doc 1", object{"policy": "nosy"}), false, []any{object{"code": "policy_not_portable", "source": "policy", "id": "nosy"}}},
		"two results":                          {question("service x", "read", "doc 1", object{"policy": "broken"}), false, failed("broken", "two_results")},
		"a key within its ceiling":             {question(key, "read", "doc 1", object{"latchkey": live, "policy": "custom"}), true, granting("read", rule("custom", nil))},
		"a key without its scopes":             {question(key, "read", "doc 1", object{"policy": "custom"}), false, ofKey("key_unknown")},
		"a key outside its ceiling":            {question(key, "update", "doc 1", object{"latchkey": live, "policy": "a.b:c"}), false, ofKey("scope_missing")},
		"a grant raises the ceiling":           {question(key, "update", "doc 1", object{"latchkey": object{"key": live["key"], "grants": []any{grant}}, "context": inOffice}), true, byGrant(nil, office)},
		"a grant by its entries":               {question(key, "update", "doc 1", object{"latchkey": granted(object{"doc": []any{object{"f": "2", "p": 15}, object{"f": "*", "p": 4}}}), "context": inOffice}), true, byGrant(object{"entry": 1.0, "selector": "*", "permission": "update"}, office)},
		"a grant of another type":              {question(key, "update", "doc 1", object{"latchkey": granted(object{"host": []any{object{"f": "*", "p": 15}}}), "context": inOffice}), false, ofKey("scope_missing")},
		"a grant of another right":             {question(key, "update", "doc 1", object{"latchkey": granted(object{"doc": []any{object{"f": "*", "p": 2}}}), "context": inOffice}), false, ofKey("scope_missing")},
		"a grant whose entries are no object":  {question(key, "update", "doc 1", object{"latchkey": object{"key": live["key"], "grants": []any{object{"id": "g1", "expires_at": nil, "entries": "all"}}}, "context": inOffice}), false, ofKey("scope_missing")},
		"a grant that has not started":         {question(key, "update", "doc 1", object{"latchkey": object{"key": live["key"], "grants": []any{object{"id": "g", "not_before": "2999-01-01T00:00:00Z", "expires_at": nil}}}}), false, ofKey("scope_missing")},
		"a grant has ended":                    {question(key, "update", "doc 1", object{"latchkey": object{"key": live["key"], "grants": []any{object{"id": "g", "expires_at": "2020-01-01T00:00:00Z"}}}}), false, ofKey("scope_missing")},
		"a value is refused":                   {question(key, "update", "sets s", object{"latchkey": live, "resource": object{"type": "sets", "id": "s", "properties": object{"entity_type": "string", "values": []any{"A1", "b"}}}}), false, []any{object{"code": "value_not_permitted", "source": "access_key", "id": id, "indexes": []any{1.0}}}},
		"an expired key":                       {question(key, "read", "doc 1", object{"latchkey": object{"key": object{"scopes": scopes, "expires_at": "2020-01-01T00:00:00Z", "revoked_at": nil}}}), false, ofKey("key_expired")},
		"a key that ends far off":              {question(key, "read", "doc 1", object{"latchkey": object{"key": object{"scopes": scopes, "expires_at": "9999-12-31T23:59:59Z", "revoked_at": nil}}, "policy": "custom"}), true, granting("read", rule("custom", nil))},
		"an end that is no time":               {question(key, "read", "doc 1", object{"latchkey": object{"key": object{"scopes": scopes, "expires_at": "never", "revoked_at": nil}}, "policy": "custom"}), false, ofKey("key_expired")},
		"a revoked key":                        {question(key, "read", "doc 1", object{"latchkey": object{"key": object{"scopes": scopes, "expires_at": nil, "revoked_at": "2020-01-01T00:00:00Z"}}, "policy": "custom"}), false, ofKey("key_revoked")},
		"a type that looks like a key":         {question("Access-Key x", "read", "doc 1", object{"policy": "a.b:c"}), false, reason("invalid_request")},
		"no subject":                           {object{"action": object{"name": "read"}, "resource": object{"type": "doc", "id": "1"}}, false, reason("invalid_request")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, _ := ask(t, raw, "data.latchkey.decision", c.input).(object)
			if got["decision"] != c.allow {
				t.Errorf("got %v", got)
			}
			context, _ := got["context"].(object)
			if diff := cmp.Diff(c.reasons, context["reasons"]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Without a policy the built-in one answers, with one reason per entry.
func TestStockOPA_AnswersByTheBuiltinPolicy(t *testing.T) {
	in := exampleInput()
	in.DefaultPolicy = ""
	raw := build(t, in, bundle.ProfileOPA, nil).Raw
	scopes := object{"customer": object{"doc": []any{object{"f": "*", "p": 2}, object{"f": "b", "p": 4}, object{"f": "a*", "p": 4}}}}
	live := object{"key": object{"scopes": scopes, "expires_at": nil, "revoked_at": nil}}
	got := ask(t, raw, "data.latchkey.decision", question("access_key k", "read", "doc abc", object{"latchkey": live}))
	want := object{"decision": true, "context": object{"action": "allow", "obligations": []any{}, "reasons": []any{
		object{"code": "scope_permits", "source": "access_key", "id": "k", "entry": 0.0, "selector": "*", "permission": "read"},
		object{"code": "scope_permits", "source": "access_key", "id": "k", "entry": 2.0, "selector": "a*", "permission": "read"},
	}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for subject, allow := range map[string]bool{"user u": false, "access_key k": false} {
		got := ask(t, raw, "data.latchkey.decision.decision", question(subject, "delete", "doc abc", object{"latchkey": live}))
		if got != allow {
			t.Errorf("%s: %v", subject, got)
		}
	}
}

func TestStockOPA_TestsMembershipAsWeDo(t *testing.T) {
	in := bundle.Input{Customer: "acme", Sets: exampleInput().Sets}
	raw := build(t, in, bundle.ProfileOPA, nil).Raw
	cases := []object{}
	want := []any{}
	for _, c := range []struct {
		set   string
		value any
		in    bool
	}{
		{"big", 5, true}, {"big", "5", true}, {"big", 6, false}, {"big", json.Number("18446744073709551615"), true},
		{"words", "<&>", true}, {"words", "\u2028", true}, {"words", `"`, true}, {"words", "A", false}, {"words", "", false}, {"words", 5, false},
		{"office", "10.255.0.1", true}, {"office", "::ffff:10.0.0.1", true}, {"office", "192.0.2.1", true}, {"office", "192.0.2.2", false}, {"office", "10.0.0.0/8", true}, {"office", "10.9.0.0/16", true}, {"office", "0.0.0.0/0", false}, {"office", "192.0.2.1/32", true}, {"office", "192.0.2.2/32", false}, {"office", "2001:db8::5/128", true},
	} {
		cases = append(cases, object{"set": c.set, "value": c.value})
		want = append(want, c.in)
	}
	for _, c := range []object{{"set": "nope", "value": "x"}, {"set": "big", "value": "05"}, {"set": "big", "value": 5.5}, {"set": "big", "value": -1}, {"set": "big", "value": nil}, {"set": "office", "value": "fe80::1%eth0"}, {"set": "office", "value": "10.0.0.1/8"}, {"set": "words", "value": "a\u0000"}} {
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		dir := write(t, t.TempDir(), map[string]string{"b.tar.gz": string(raw), "input.json": string(text)})
		if out, err := tryOPA(t, dir, "eval", "-b", "b.tar.gz", "-i", "input.json", "not data.latchkey.in_set(input.set, input.value)"); err == nil {
			t.Errorf("%v: an answer: %s", c, out)
		}
	}
	got := ask(t, raw, "[r | some c in input; r := data.latchkey.in_set(c.set, c.value)]", cases)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestStockOPA_VerifiesOurSignature(t *testing.T) {
	signer, key := newSigner(t, "k1", "read")
	built := build(t, exampleInput(), bundle.ProfileOPA, signer)
	dir := write(t, t.TempDir(), map[string]string{"b.tar.gz": string(built.Raw), "pub.pem": key.Key, "unsigned.tar.gz": string(build(t, exampleInput(), bundle.ProfileOPA, nil).Raw)})
	args := []string{"build", "-b", "-o", "out.tar.gz", "--verification-key", "pub.pem", "--verification-key-id", "k1", "--signing-alg", "ES256", "--scope", "read"}
	opa(t, dir, append(args, "b.tar.gz")...)
	if _, err := tryOPA(t, dir, append(args, "unsigned.tar.gz")...); err == nil {
		t.Error("opa took the unsigned one: it does not verify here")
	}
	_, other := newSigner(t, "k1", "read")
	write(t, dir, map[string]string{"pub.pem": other.Key})
	if _, err := tryOPA(t, dir, append(args, "b.tar.gz")...); err == nil {
		t.Error("opa took another key's signature")
	}
	// The bundle for sidecars is well-formed for OPA as well.
	write(t, dir, map[string]string{"b.tar.gz": string(build(t, exampleInput(), bundle.ProfileLatchkey, signer).Raw), "pub.pem": key.Key})
	opa(t, dir, append(args, "b.tar.gz")...)
}

// pemKeys are a pair of each kind, by file name.
func pemKeys(t testing.TB) map[string]string {
	t.Helper()
	files := map[string]string{}
	put := func(name string, private crypto.Signer) {
		der, err := x509.MarshalPKCS8PrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		files[name+".pem"] = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		if der, err = x509.MarshalPKIXPublicKey(private.Public()); err != nil {
			t.Fatal(err)
		}
		files[name+".pub"] = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	put("ec", ec)
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	put("rsa", private)
	return files
}

func certificatePEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// A stock OPA that runs follows our bundles: it verifies the signature, long
// polls, keeps the good one when a bad one comes, and answers by the new one.
func TestStockOPA_FollowsOurBundles(t *testing.T) {
	program := stockOPA(t)
	signer, key := newSigner(t, "k1", "")
	stranger, _ := newSigner(t, "k1", "")
	publish := func(sequence int64, allow bool, signer *bundle.Signer) []byte {
		in := bundle.Input{Customer: "acme", Sequence: sequence, DefaultPolicy: "main", Policies: []bundle.Policy{
			{Name: "main", Language: "rego", Version: sequence, Rego: fmt.Sprintf("package policies.main\n\nallow := %v\n", allow)},
		}}
		return build(t, in, bundle.ProfileOPA, signer).Raw
	}
	var mu sync.Mutex
	raw, changed, served := publish(1, false, signer), make(chan struct{}), make(chan string, 100)
	set := func(next []byte) {
		mu.Lock()
		defer mu.Unlock()
		raw = next
		close(changed)
		changed = make(chan struct{})
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !strings.HasSuffix(req.URL.Path, "/acme.tar.gz") {
			w.WriteHeader(http.StatusOK) // its status reports
			return
		}
		mu.Lock()
		now, wait := raw, changed
		mu.Unlock()
		if req.Header.Get("If-None-Match") == bundle.ETag(now) && strings.Contains(req.Header.Get("Prefer"), "wait=") {
			select {
			case <-wait:
			case <-req.Context().Done():
				return
			}
			mu.Lock()
			now = raw
			mu.Unlock()
		}
		w.Header().Set("Content-Type", "application/vnd.openpolicyagent.bundles")
		tagged(w, req, now)
		served <- bundle.ETag(now)
	}))
	defer server.Close()
	config := fmt.Sprintf(`
services: {latchkey: {url: %q}}
keys: {k1: {algorithm: ES256, key: %q}}
bundles: {acme: {service: latchkey, resource: acme.tar.gz, signing: {keyid: k1}, polling: {min_delay_seconds: 1, max_delay_seconds: 1, long_polling_timeout_seconds: 30}}}
`, server.URL, key.Key)
	dir := write(t, t.TempDir(), map[string]string{"opa.yaml": config})
	socket := filepath.Join(dir, "opa.sock")
	c := exec.Command(program, "run", "--server", "--addr", "unix://"+socket, "--config-file", "opa.yaml", "--log-level", "error")
	c.Dir = dir
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	// answer asks until the policy of that version answers.
	answer := func(version float64) bool {
		body, err := json.Marshal(object{"input": question("service x", "read", "doc 1", nil)})
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
			resp, err := client.Post("http://opa/v1/data/latchkey/decision", "application/json", bytes.NewReader(body))
			if err != nil {
				runtime.Gosched()
				continue
			}
			var got struct {
				Result struct {
					Decision bool
					Context  struct{ Policy struct{ Version float64 } }
				}
			}
			err = json.NewDecoder(resp.Body).Decode(&got)
			resp.Body.Close()
			if err == nil && got.Result.Context.Policy.Version == version {
				return got.Result.Decision
			}
		}
		t.Fatalf("version %v never came", version)
		return false
	}
	if answer(1) {
		t.Error("version 1 allows")
	}
	set(publish(2, true, signer))
	if !answer(2) {
		t.Error("version 2 denies")
	}
	forged := publish(3, false, stranger)
	set(forged)
	for tries := 0; tries < 2; { // who asks again has looked at the first
		if tag := <-served; tag == bundle.ETag(forged) {
			tries++
		}
	}
	if !answer(2) {
		t.Error("the forged one is in force")
	}
}
