package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// A person comes with a token of the operator's issuer, beside who comes with a
// personal token, and is recorded as that person.
func TestServe_PersonsByTokensOfAnIssuer(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var issuer *httptest.Server
	issuer = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, issuer.URL, issuer.URL+"/keys")
		case "/keys":
			_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k", Use: "sig", Algorithm: "ES256"}}})
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(issuer.Close)
	token := func(sub string, claims object) string {
		t.Helper()
		c := object{"iss": issuer.URL, "aud": "latchkey", "sub": sub, "exp": time.Now().Add(time.Hour).Unix(), "email": "alice@example.com", "email_verified": true}
		for name, value := range claims {
			c[name] = value
		}
		payload, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "k"))
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign(payload)
		if err != nil {
			t.Fatal(err)
		}
		text, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	data := t.TempDir()
	file := filepath.Join(data, "oidc.yaml")
	if err := os.WriteFile(file, []byte("- issuer: "+issuer.URL+"\n  audience: latchkey\n  customer: default\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := startServer(data, nil, []string{"--oidc", file}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.end(syscall.SIGKILL) }()
	root, err := rootKey(data)
	if err != nil {
		t.Fatal(err)
	}
	made := p.must(t, root, http.MethodPost, "/v1/users", object{"username": "alice", "email": "Alice@Example.com", "type": "admin"})
	personal := p.must(t, "", http.MethodPost, "/v1/personal_tokens", object{"claim_code": made.Get("claim.code").String(), "name": "laptop"}).Get("token").String()

	alice := token("alice at the issuer", nil)
	for _, credential := range []string{alice, personal, alice} {
		if self := p.must(t, credential, http.MethodGet, "/v1/users/self", nil); self.Get("id").String() != made.Get("id").String() {
			t.Errorf("it is of %s", self.Raw)
		}
	}
	for name, credential := range map[string]string{
		"not verified":     token("x", object{"email_verified": "true"}),
		"her next one":     token("another alice", nil),
		"another audience": token("alice at the issuer", object{"aud": "other"}),
		"ended":            token("alice at the issuer", object{"exp": time.Now().Add(-time.Second).Unix()}),
		"unsigned":         "eyJhbGciOiJub25lIn0." + strings.Split(alice, ".")[1] + ".",
	} {
		if status, reply, err := p.send(t.Context(), credential, http.MethodGet, "/v1/users/self", nil); err != nil || status != http.StatusUnauthorized {
			t.Errorf("%s: %d %s %v", name, status, reply.Raw, err)
		}
	}
	// What she does is hers, and so is what she may not do: no right for herself.
	group := p.must(t, alice, http.MethodPost, "/v1/groups", object{"name": "made by alice"})
	events := p.must(t, root, http.MethodGet, "/v1/auditing?action=group.create", nil)
	if e := events.Get("events.0"); e.Get("actor.id").String() != made.Get("id").String() || e.Get("actor.type").String() != "user" || e.Get("actor.credential").String() != "oidc:"+issuer.URL || group.Get("id").String() == "" {
		t.Errorf("recorded as %s", events.Raw)
	}
	if n := p.must(t, root, http.MethodGet, "/v1/auditing?action=user.link_identity", nil).Get("events.#").Int(); n != 1 {
		t.Errorf("linked %d times", n)
	}
	status, reply, err := p.send(t.Context(), alice, http.MethodPost, "/v1/grants", object{"subject": object{"type": "user", "id": "alice"}, "reason": "me",
		"entries": object{"document": []any{object{"f": "*", "p": 2}}}, "expires_at": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)})
	if err != nil || status != http.StatusForbidden || reply.Get("code").String() != "self_approval_forbidden" {
		t.Errorf("a grant to herself: %d %s %v", status, reply.Raw, err)
	}
	// Where she is not active any more, her tokens are good for nothing.
	p.must(t, root, http.MethodDelete, "/v1/users/"+made.Get("id").String(), nil)
	for _, credential := range []string{alice, personal} {
		if status, reply, err := p.send(t.Context(), credential, http.MethodGet, "/v1/users/self", nil); err != nil || status != http.StatusUnauthorized {
			t.Errorf("not active: %d %s %v", status, reply.Raw, err)
		}
	}
	if strings.Contains(p.err.String(), strings.Split(alice, ".")[2]) {
		t.Error("a token is in the log")
	}
}

func TestServe_RefusesIssuersThatSayTooLittle(t *testing.T) {
	for name, text := range map[string]string{
		"empty":           "",
		"unknown member":  "- {issuer: https://idp.example.com, audience: a, customer: default, clientID: a}\n",
		"no audience":     "- {issuer: https://idp.example.com, customer: default}\n",
		"in the clear":    "- {issuer: http://idp.example.com, audience: a, customer: default}\n",
		"no list":         "issuer: https://idp.example.com\n",
		"two documents":   "- {issuer: https://idp.example.com, audience: a, customer: default}\n---\n[]\n",
		"the same twice":  "- {issuer: https://idp.example.com, audience: a, customer: default}\n- {issuer: https://idp.example.com, audience: a, customer: acme}\n",
		"a name twice":    "- {issuer: https://idp.example.com, issuer: https://idp.example.com, audience: a, customer: default}\n",
		"too long a file": strings.Repeat(" ", maxOIDCFile+1),
	} {
		if list, err := parseIssuers([]byte(text)); err == nil {
			t.Errorf("%s: %+v", name, list)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "oidc.yaml"), []byte("- {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := command(t, nil, "serve", "--data", dir, "--oidc", filepath.Join(dir, "oidc.yaml")); err == nil || !strings.Contains(text+err.Error(), "--oidc") {
		t.Errorf("it starts: %s %v", text, err)
	}
}
