package identity_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/identity"
	"github.com/latchkey-dev/latchkey/people"
	"github.com/latchkey-dev/latchkey/store"
)

var noon = latchkey.InstantOf(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC))

// issuer is an OpenID Connect issuer on this machine, over TLS.
type issuer struct {
	testing.TB
	*httptest.Server
	mu       sync.Mutex
	keys     []jose.JSONWebKey // published
	document string            // in place of the keys
	metadata string            // in place of the metadata
	down     atomic.Bool
	fetches  atomic.Int64 // of keys
	asks     atomic.Int64 // of metadata
}

func newIssuer(t testing.TB) *issuer {
	is := &issuer{TB: t}
	is.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if is.down.Load() {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		is.mu.Lock()
		defer is.mu.Unlock()
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			is.asks.Add(1)
			if is.metadata != "" {
				fmt.Fprint(w, is.metadata)
				return
			}
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, is.URL, is.URL+"/keys")
		case "/keys":
			is.fetches.Add(1)
			if is.document != "" {
				fmt.Fprint(w, is.document)
				return
			}
			_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: is.keys})
		case "/moved":
			http.Redirect(w, r, is.URL+"/keys", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(is.Close)
	return is
}

// publish makes keys those of the issuer, and no others.
func (is *issuer) publish(keys ...signer) {
	is.mu.Lock()
	defer is.mu.Unlock()
	is.keys = nil
	for _, k := range keys {
		is.keys = append(is.keys, jose.JSONWebKey{Key: k.public, KeyID: k.kid, Use: "sig"})
	}
}

// signer is a key of an issuer.
type signer struct {
	kid       string
	algorithm jose.SignatureAlgorithm
	private   any
	public    any
}

func rs256(t testing.TB, kid string, bits int) signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return signer{kid, jose.RS256, k, &k.PublicKey}
}

func es256(t testing.TB, kid string) signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{kid, jose.ES256, k, &k.PublicKey}
}

func ed(t testing.TB, kid string) signer {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{kid, jose.EdDSA, private, public}
}

type object = map[string]any

// token signs claims; header members are added.
func (s signer) token(t testing.TB, claims any, header object) string {
	t.Helper()
	payload, isText := claims.(string)
	if !isText {
		text, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		payload = string(text)
	}
	options := &jose.SignerOptions{}
	if s.kid != "" {
		options.WithHeader("kid", s.kid)
	}
	for name, value := range header {
		options.WithHeader(jose.HeaderKey(name), value)
	}
	signing, err := jose.NewSigner(jose.SigningKey{Algorithm: s.algorithm, Key: s.private}, options)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signing.Sign([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// setting is a database with people, and who trusts an issuer.
type setting struct {
	testing.TB
	db         *store.DB
	issuer     *issuer
	identities *identity.Identities
	failures   atomic.Int64
	persons    map[string]authz.Person
}

func newSetting(t testing.TB, more ...func(*issuer) identity.Issuer) *setting {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "latchkey.db"), audit.MACKey(bytes.Repeat([]byte{1}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	for _, customer := range []string{"default", "acme"} {
		if err := authz.NewCustomers(db, &cache.Table{}).Establish(t.Context(), customer, noon); err != nil {
			t.Fatal(err)
		}
	}
	s := &setting{TB: t, db: db, issuer: newIssuer(t), persons: map[string]authz.Person{}}
	list := []identity.Issuer{{URL: s.issuer.URL, Audience: "latchkey", Customer: "default"}}
	for _, add := range more {
		list = append(list, add(s.issuer))
	}
	if err := identity.CheckIssuers(list); err != nil {
		t.Fatal(err)
	}
	s.identities = s.trusting(list)
	s.add("default", "alice", "alice@example.com", true)
	s.add("default", "bob", "bob@example.com", true)
	s.add("default", "carol", "carol@example.com", false)
	s.add("default", "nomail", "", true)
	s.add("acme", "alice-of-acme", "alice@example.com", true)
	return s
}

func (s *setting) trusting(list []identity.Issuer) *identity.Identities {
	roots := x509.NewCertPool()
	roots.AddCert(s.issuer.Certificate())
	return identity.New(identity.Config{Issuers: list, Persons: people.NewIdentities(s.db.Identities()), TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		Failed: func(string, error) { s.failures.Add(1) }})
}

func (s *setting) change(customer string, do func(people.Writer) error) {
	s.Helper()
	err := s.db.People().Change(context.Background(), authz.Change{Chain: customer, At: noon}, func(tx people.Writer) (audit.Draft, error) {
		call := authz.Call{Now: noon}
		return call.Draft("user.test", audit.Resource{Type: "user"}), do(tx)
	})
	if err != nil {
		s.Fatal(err)
	}
}

func (s *setting) add(customer, username, email string, active bool) {
	s.Helper()
	id := fmt.Sprintf("0a000000-0000-4000-8000-%012d", len(s.persons))
	p := authz.Person{ID: id, Customer: customer, Username: username, Email: email, Type: authz.UserPerson, Active: active, CreatedAt: noon}
	s.change(customer, func(tx people.Writer) error { return tx.InsertPerson(context.Background(), p) })
	s.persons[username] = p
}

// edit changes a person.
func (s *setting) edit(username string, change func(*authz.Person)) {
	s.Helper()
	was := s.persons[username]
	is := was
	change(&is)
	s.change(was.Customer, func(tx people.Writer) error { return tx.UpdatePerson(context.Background(), was, is) })
	s.persons[username] = is
}

// claims are good ones of somebody at the issuer.
func (s *setting) claims(sub, email string) object {
	return object{"iss": s.issuer.URL, "aud": "latchkey", "sub": sub, "exp": seconds(noon) + 60, "iat": seconds(noon), "email": email, "email_verified": true}
}

func seconds(i latchkey.Instant) int64 { return int64(i) / 1e6 }

func with(base object, more object) object {
	c := maps.Clone(base)
	maps.Copy(c, more)
	return c
}

func without(base object, names ...string) object {
	c := maps.Clone(base)
	for _, name := range names {
		delete(c, name)
	}
	return c
}

func (s *setting) who(token string, now latchkey.Instant) (string, error) {
	c, proven, err := s.identities.AuthenticatePerson(context.Background(), token, now)
	if err != nil {
		return "", err
	}
	if !proven || c.Kind != authz.OIDCCredential || c.Person == nil || c.Issuer != s.issuer.URL || c.Subject == "" || c.Handle != "oidc:"+s.issuer.URL {
		s.Errorf("%+v", c)
	}
	return c.Person.Username, nil
}

func (s *setting) is(token, username string, now latchkey.Instant) {
	s.Helper()
	if got, err := s.who(token, now); got != username || err != nil {
		s.Errorf("the token is of %q, %v; want %s", got, err, username)
	}
}

func (s *setting) refused(what, token string, now latchkey.Instant, kind latchkey.Kind) {
	s.Helper()
	if got, err := s.who(token, now); err == nil || latchkey.KindOf(err) != kind {
		s.Errorf("%s: %q, %v; want to be refused as %v", what, got, err, kind)
	}
}

func TestIdentities_AcceptWhatTheIssuerSigned(t *testing.T) {
	s := newSetting(t)
	for i, key := range []signer{rs256(t, "a", 2048), es256(t, "b"), ed(t, "c"), rs256(t, "", 2048)} {
		s.issuer.publish(key)
		at := noon.Add(time.Duration(i) * time.Hour)
		claims := with(s.claims("sub-alice", "alice@example.com"), object{"exp": seconds(at) + 60})
		s.is(key.token(t, claims, nil), "alice", at)
		s.is(key.token(t, with(claims, object{"aud": []string{"other", "latchkey"}, "email": "ALICE@Example.com"}), object{"typ": "at+JWT"}), "alice", at)
		s.is(key.token(t, without(claims, "email", "email_verified"), object{"typ": "JWT"}), "alice", at) // linked since
	}
}

// Nothing else than what an issuer of the list has signed, for us, for now, proves
// anybody.
func TestIdentities_RefuseEverythingElse(t *testing.T) {
	s := newSetting(t)
	key, other, weak := rs256(t, "a", 2048), rs256(t, "a", 2048), rs256(t, "weak", 1024)
	curve := es256(t, "curve")
	encryption := es256(t, "enc")
	s.issuer.publish(key, weak, curve)
	s.issuer.mu.Lock()
	s.issuer.keys = append(s.issuer.keys, jose.JSONWebKey{Key: encryption.public, KeyID: "enc", Use: "enc"},
		jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "oct", Algorithm: "HS256"})
	s.issuer.mu.Unlock()
	good := s.claims("sub-alice", "alice@example.com")
	public, err := x509.MarshalPKIXPublicKey(key.public)
	if err != nil {
		t.Fatal(err)
	}
	b64 := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	payload, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	sound := key.token(t, good, nil)
	parts := strings.Split(sound, ".")
	hmac := func(secret []byte, kid string) string {
		return signer{kid, jose.HS256, secret, nil}.token(t, good, nil)
	}
	text := string(payload)
	for name, token := range map[string]string{
		"nothing":                     "",
		"no token":                    "eyeyey",
		"no JSON":                     b64("x") + "." + b64("y") + ".z",
		"unsigned":                    b64(`{"alg":"none"}`) + "." + b64(text) + ".",
		"unsigned, in other letters":  b64(`{"alg":"nOnE","kid":"a"}`) + "." + b64(text) + ".",
		"a signature taken off":       parts[0] + "." + parts[1] + ".",
		"another payload":             parts[0] + "." + b64(strings.Replace(text, "alice", "bob", 2)) + "." + parts[2],
		"another header":              b64(`{"alg":"RS512","kid":"a"}`) + "." + parts[1] + "." + parts[2],
		"a secret all know: the key":  hmac(public, "a"),
		"a secret that was published": hmac([]byte("0123456789abcdef0123456789abcdef"), "oct"),
		"a key of somebody else":      other.token(t, good, nil),
		"a weak key":                  weak.token(t, good, nil),
		"a key to encrypt to":         encryption.token(t, good, nil),
		"a key that is not known":     es256(t, "unknown").token(t, good, nil),
		"a key that it brings along":  other.token(t, good, object{"jwk": jose.JSONWebKey{Key: other.public}}),
		"a key by a URL of its own":   other.token(t, good, object{"jku": s.issuer.URL + "/keys", "x5u": "https://evil.example"}),
		"another's kid":               signer{"a", curve.algorithm, curve.private, curve.public}.token(t, good, nil),
		"another issuer":              key.token(t, with(good, object{"iss": "https://evil.example"}), nil),
		"the issuer with a slash":     key.token(t, with(good, object{"iss": s.issuer.URL + "/"}), nil),
		"the issuer in capitals":      key.token(t, with(good, object{"iss": strings.ToUpper(s.issuer.URL)}), nil),
		"no issuer":                   key.token(t, without(good, "iss"), nil),
		"issuers":                     key.token(t, with(good, object{"iss": []string{s.issuer.URL}}), nil),
		"another audience":            key.token(t, with(good, object{"aud": "somebody"}), nil),
		"no audience":                 key.token(t, without(good, "aud"), nil),
		"an audience that begins so":  key.token(t, with(good, object{"aud": "latchkey2"}), nil),
		"the audience as a client":    key.token(t, with(good, object{"aud": "somebody", "azp": "latchkey"}), nil),
		"an audience of numbers":      key.token(t, with(good, object{"aud": []any{"latchkey", 1}}), nil),
		"the end":                     key.token(t, with(good, object{"exp": seconds(noon)}), nil),
		"past its end":                key.token(t, with(good, object{"exp": seconds(noon) - 1}), nil),
		"no end":                      key.token(t, without(good, "exp"), nil),
		"an end as a text":            key.token(t, with(good, object{"exp": "2999-01-01"}), nil),
		"an end beyond time":          key.token(t, with(good, object{"exp": 1e300}), nil),
		"not yet good":                key.token(t, with(good, object{"nbf": seconds(noon) + 31}), nil),
		"no subject":                  key.token(t, without(good, "sub"), nil),
		"an empty subject":            key.token(t, with(good, object{"sub": ""}), nil),
		"a long subject":              key.token(t, with(good, object{"sub": strings.Repeat("x", 256)}), nil),
		"an end that stands twice":    key.token(t, strings.Replace(text, "{", fmt.Sprintf(`{"exp":%d,`, seconds(noon)+9), 1), nil),
		"an end in other letters":     key.token(t, strings.Replace(text, `"exp"`, `"EXP"`, 1), nil),
		"a logout":                    key.token(t, with(good, object{"events": object{"http://schemas.openid.net/event/backchannel-logout": object{}}}), nil),
		"a logout by its type":        key.token(t, good, object{"typ": "logout+jwt"}),
		"a proof of possession":       key.token(t, good, object{"typ": "dpop+jwt"}),
		"a type that is none":         key.token(t, good, object{"typ": 1}),
		"a header that must be known": key.token(t, good, object{"crit": []string{"x"}, "x": 1}),
		"too long":                    key.token(t, with(good, object{"x": strings.Repeat("x", 20<<10)}), nil),
		"a part too many":             sound + ".x",
		"a list":                      key.token(t, `[]`, nil),
	} {
		s.refused(name, token, noon, latchkey.Unauthenticated)
	}
	s.is(key.token(t, with(good, object{"nbf": seconds(noon) + 30}), nil), "alice", noon)
	s.is(sound, "alice", noon.Add(time.Minute)-1)
	s.refused("its very end", sound, noon.Add(time.Minute), latchkey.Unauthenticated)
}

// An address links only where the issuer says, with the literal true, that it is
// verified, and only the person who has it.
func TestIdentities_LinkByAVerifiedAddressAlone(t *testing.T) {
	s := newSetting(t)
	key := es256(t, "a")
	s.issuer.publish(key)
	n := 0
	fresh := func(more object, drop ...string) string {
		n++
		return key.token(t, without(with(s.claims(fmt.Sprint("sub-", n), "alice@example.com"), more), drop...), nil)
	}
	for name, token := range map[string]string{
		"not verified":                fresh(object{"email_verified": false}),
		"verified, as a text":         fresh(object{"email_verified": "true"}),
		"verified, as a number":       fresh(object{"email_verified": 1}),
		"verified, as a list":         fresh(object{"email_verified": []bool{true}}),
		"not said to be verified":     fresh(nil, "email_verified"),
		"verified, in other letters":  fresh(object{"Email_Verified": true}, "email_verified"),
		"an address in other letters": fresh(object{"EMAIL": "alice@example.com"}, "email"),
		"another claim of an address": fresh(object{"preferred_username": "alice@example.com", "upn": "alice@example.com"}, "email"),
		"no address":                  fresh(nil, "email"),
		"an empty address":            fresh(object{"email": ""}),
		"a username":                  fresh(object{"email": "alice"}),
		"an id":                       fresh(object{"email": s.persons["alice"].ID}),
		"a look-alike":                fresh(object{"email": "\u212alice@example.com"}),
		"two addresses":               fresh(object{"email": []string{"alice@example.com"}}),
		"with a name":                 fresh(object{"email": "Alice <alice@example.com>"}),
		"with a blank":                fresh(object{"email": "alice@example.com "}),
		"of nobody":                   fresh(object{"email": "dave@example.com"}),
		"of somebody not active":      fresh(object{"email": "carol@example.com"}),
	} {
		s.refused(name, token, noon, latchkey.Unauthenticated)
	}
	alice := key.token(t, s.claims("alice at the issuer", "Alice@Example.COM"), nil)
	s.is(alice, "alice", noon)
	s.is(alice, "alice", noon)

	// The address goes to a new employee, as it does: it is somebody else.
	s.refused("who has the address now", key.token(t, s.claims("the next alice", "alice@example.com"), nil), noon, latchkey.Unauthenticated)
	// Hers is another, and she is who she was, at the issuer and here.
	s.is(key.token(t, s.claims("alice at the issuer", "bob@example.com"), nil), "alice", noon)
	s.is(key.token(t, s.claims("alice at the issuer", "married@example.com"), nil), "alice", noon)
	s.edit("alice", func(p *authz.Person) { p.Email = "married@example.com" })
	s.is(alice, "alice", noon)
	s.edit("bob", func(p *authz.Person) { p.Email = "alice@example.com" })
	s.is(alice, "alice", noon)
	s.is(key.token(t, s.claims("bob at the issuer", "alice@example.com"), nil), "bob", noon)
	// Subjects are compared to the letter.
	s.refused("a subject in capitals", key.token(t, s.claims("ALICE at the issuer", "married@example.com"), nil), noon, latchkey.Unauthenticated)

	s.edit("alice", func(p *authz.Person) { p.Active = false })
	c, proven, err := s.identities.AuthenticatePerson(t.Context(), alice, noon)
	if !proven || c.Person == nil || latchkey.KindOf(err) != latchkey.Unauthenticated {
		t.Errorf("who is not active any more: %v, %v, %v", c.Person, proven, err)
	}
	s.edit("alice", func(p *authz.Person) { p.Active = true })
	s.is(alice, "alice", noon)
}

// However many come at once, one subject is linked to one person once, and one
// person to one subject of the issuer.
func TestIdentities_LinkOnce(t *testing.T) {
	s := newSetting(t)
	key := es256(t, "a")
	s.issuer.publish(key)
	var tokens []string
	for i := range 8 {
		tokens = append(tokens, key.token(t, s.claims(fmt.Sprint("sub-", i%2), "alice@example.com"), nil))
	}
	var alices, refused atomic.Int64
	var all sync.WaitGroup
	for _, token := range tokens {
		all.Go(func() {
			switch who, err := s.who(token, noon); {
			case who == "alice":
				alices.Add(1)
			case latchkey.KindOf(err) == latchkey.Unauthenticated:
				refused.Add(1)
			default:
				t.Errorf("%q, %v", who, err)
			}
		})
	}
	all.Wait()
	if alices.Load() != 4 || refused.Load() != 4 {
		t.Errorf("%d are alice and %d are refused", alices.Load(), refused.Load())
	}
	if n := s.issuer.fetches.Load(); n != 1 {
		t.Errorf("the keys were asked for %d times", n)
	}
	if events, err := s.db.Events(t.Context(), "default", audit.Filter{Action: "user.link_identity", Limit: 10}); err != nil || len(events) != 1 {
		t.Errorf("%d events, %v", len(events), err)
	}
}

// A token is for the customer that its audience is of; one for two is for none.
func TestIdentities_KeepCustomersApart(t *testing.T) {
	s := newSetting(t, func(is *issuer) identity.Issuer {
		return identity.Issuer{URL: is.URL, Audience: "latchkey of acme", Customer: "acme"}
	}, func(is *issuer) identity.Issuer {
		return identity.Issuer{URL: is.URL, Audience: "latchkey of nobody", Customer: "nobody"}
	})
	key := es256(t, "a")
	s.issuer.publish(key)
	claims := s.claims("sub", "alice@example.com")
	s.is(key.token(t, claims, nil), "alice", noon)
	s.is(key.token(t, with(claims, object{"aud": "latchkey of acme"}), nil), "alice-of-acme", noon)
	s.is(key.token(t, claims, nil), "alice", noon)
	s.refused("both", key.token(t, with(claims, object{"aud": []string{"latchkey", "latchkey of acme"}}), nil), noon, latchkey.Unauthenticated)
	s.refused("a customer that is not there", key.token(t, with(claims, object{"aud": "latchkey of nobody"}), nil), noon, latchkey.Unauthenticated)
	if n := s.issuer.fetches.Load(); n != 1 {
		t.Errorf("one issuer was asked %d times", n)
	}
}

// Two issuers may give one subject to two people: who somebody is is what both say
// together. Nor does one issuer's key speak for the other.
func TestIdentities_OneSubjectOfTwoIssuersIsTwoPeople(t *testing.T) {
	s := newSetting(t)
	other := newIssuer(t)
	s.identities = s.trusting([]identity.Issuer{{URL: s.issuer.URL, Audience: "latchkey", Customer: "default"}, {URL: other.URL, Audience: "latchkey", Customer: "default"}})
	key, others := es256(t, "a"), es256(t, "a")
	s.issuer.publish(key)
	other.publish(others)
	s.is(key.token(t, s.claims("42", "alice@example.com"), nil), "alice", noon)
	theirs := with(s.claims("42", "bob@example.com"), object{"iss": other.URL})
	person := func(token string) string {
		c, _, err := s.identities.AuthenticatePerson(t.Context(), token, noon)
		if err != nil || c.Issuer != other.URL || c.Handle != "oidc:"+other.URL {
			t.Fatalf("%+v, %v", c, err)
		}
		return c.Person.Username
	}
	for range 2 {
		if got := person(others.token(t, theirs, nil)); got != "bob" {
			t.Errorf("the other issuer's 42 is %s", got)
		}
	}
	s.is(key.token(t, without(s.claims("42", ""), "email", "email_verified"), nil), "alice", noon)
	s.refused("a key of the other issuer", others.token(t, s.claims("42", "alice@example.com"), nil), noon, latchkey.Unauthenticated)
	s.refused("a token for the other issuer's key", key.token(t, theirs, nil), noon, latchkey.Unauthenticated)
	// A subject that only one of them has is nobody's at the other.
	s.refused("a subject of one alone", others.token(t, with(theirs, object{"sub": "43", "email": "nobody@example.com"}), nil), noon, latchkey.Unauthenticated)
}

// A flood of tokens by keys that nobody knows asks the issuer once in 30 seconds.
func TestIdentities_AskTheIssuerRarely(t *testing.T) {
	s := newSetting(t)
	first, second := es256(t, "first"), es256(t, "second")
	s.issuer.publish(first)
	claims := with(s.claims("sub", "alice@example.com"), object{"exp": seconds(noon) + 1e6})
	s.is(first.token(t, claims, nil), "alice", noon)
	flood := func(now latchkey.Instant) {
		var all sync.WaitGroup
		for i := range 50 {
			token := signer{fmt.Sprint("kid-", i), second.algorithm, second.private, nil}.token(t, claims, nil)
			all.Go(func() {
				if who, err := s.who(token, now); latchkey.KindOf(err) != latchkey.Unauthenticated {
					t.Errorf("%q, %v", who, err)
				}
			})
		}
		all.Wait()
	}
	for i := range 30 { // one fetch was at noon
		flood(noon.Add(time.Duration(i) * time.Second))
	}
	if n := s.issuer.fetches.Load(); n != 1 {
		t.Errorf("%d fetches in 30 seconds", n)
	}
	flood(noon.Add(30 * time.Second))
	if n := s.issuer.fetches.Load(); n != 2 {
		t.Errorf("%d fetches in 31 seconds", n)
	}
	s.is(first.token(t, claims, nil), "alice", noon.Add(31*time.Second))

	// Tokens that are not even said to be for us ask nobody.
	for _, c := range []object{with(claims, object{"iss": "https://evil.example"}), with(claims, object{"aud": "x"}), with(claims, object{"exp": 1})} {
		s.refused("not for us", second.token(t, c, nil), noon.Add(2*time.Minute), latchkey.Unauthenticated)
	}
	if n := s.issuer.fetches.Load(); n != 2 {
		t.Errorf("%d fetches for tokens that are not for us", n)
	}

	// A rotation: the new key counts once it is published, the old one until it is not.
	later := noon.Add(3 * time.Minute)
	s.issuer.publish(first, second)
	s.is(second.token(t, claims, nil), "alice", later)
	s.is(first.token(t, claims, nil), "alice", later)
	s.issuer.publish(second)
	s.is(first.token(t, claims, nil), "alice", later.Add(time.Minute)) // not asked again yet
	s.refused("a key that is no longer published", first.token(t, claims, nil), later.Add(10*time.Minute), latchkey.Unauthenticated)
	s.is(second.token(t, claims, nil), "alice", later.Add(10*time.Minute))
}

// Where the issuer is away its keys go on for a day; of a key that is not known
// nobody can tell then, which is no refusal.
func TestIdentities_WhileTheIssuerIsAway(t *testing.T) {
	s := newSetting(t)
	key, unknown := es256(t, "a"), es256(t, "b")
	s.issuer.publish(key)
	claims := with(s.claims("sub", "alice@example.com"), object{"exp": seconds(noon) + 1e6})
	s.issuer.down.Store(true)
	s.refused("before anything is known", key.token(t, claims, nil), noon, latchkey.Unavailable)
	s.refused("and once more", key.token(t, claims, nil), noon.Add(time.Second), latchkey.Unavailable)
	if n := s.failures.Load(); n != 1 {
		t.Errorf("%d failures, want one asking", n)
	}
	s.issuer.down.Store(false)
	at := noon.Add(time.Minute)
	s.is(key.token(t, claims, nil), "alice", at)
	s.issuer.down.Store(true)
	s.is(key.token(t, claims, nil), "alice", at.Add(23*time.Hour))
	s.refused("a key that is not known", unknown.token(t, claims, nil), at.Add(23*time.Hour), latchkey.Unavailable)
	s.refused("after a day", key.token(t, claims, nil), at.Add(24*time.Hour), latchkey.Unavailable)
	s.issuer.down.Store(false)
	s.is(key.token(t, claims, nil), "alice", at.Add(25*time.Hour))
}

// What an issuer answers is not believed beyond its word, nor read without end.
func TestIdentities_HoldIssuersToTheirWord(t *testing.T) {
	for name, break_ := range map[string]func(*issuer){
		"metadata of another":     func(is *issuer) { is.metadata = `{"issuer":"https://evil.example","jwks_uri":"` + is.URL + `/keys"}` },
		"metadata without keys":   func(is *issuer) { is.metadata = `{"issuer":"` + is.URL + `"}` },
		"keys in the clear":       func(is *issuer) { is.metadata = `{"issuer":"` + is.URL + `","jwks_uri":"http://keys.example/"}` },
		"keys of a file":          func(is *issuer) { is.metadata = `{"issuer":"` + is.URL + `","jwks_uri":"file:///etc/passwd"}` },
		"keys behind a redirect":  func(is *issuer) { is.metadata = `{"issuer":"` + is.URL + `","jwks_uri":"` + is.URL + `/moved"}` },
		"no JSON":                 func(is *issuer) { is.document = "<html>" },
		"no keys":                 func(is *issuer) { is.document = `{"keys":[]}` },
		"keys of kinds not known": func(is *issuer) { is.document = `{"keys":[{"kty":"XX","kid":"a"},1,null,{"kty":"EC"}]}` },
		"a document without end":  func(is *issuer) { is.document = `{"keys":[` + strings.Repeat(" ", 600<<10) + `]}` },
	} {
		s := newSetting(t)
		key := es256(t, "a")
		s.issuer.publish(key)
		break_(s.issuer)
		token := key.token(t, s.claims("sub", "alice@example.com"), nil)
		s.refused(name, token, noon, latchkey.Unavailable)
		if s.failures.Load() != 1 {
			t.Errorf("%s: nobody was told", name)
		}
	}
	// A certificate of nobody's is not an issuer's.
	s := newSetting(t)
	key := es256(t, "a")
	s.issuer.publish(key)
	strangers := identity.New(identity.Config{Issuers: []identity.Issuer{{URL: s.issuer.URL, Audience: "latchkey", Customer: "default"}}, Persons: people.NewIdentities(s.db.Identities())})
	if _, _, err := strangers.AuthenticatePerson(t.Context(), key.token(t, s.claims("sub", "alice@example.com"), nil), noon); latchkey.KindOf(err) != latchkey.Unavailable {
		t.Error(err)
	}
}

func TestIdentities_KeysFromAURLOfTheOperators(t *testing.T) {
	s := newSetting(t)
	key := es256(t, "a")
	s.issuer.publish(key)
	s.identities = s.trusting([]identity.Issuer{{URL: s.issuer.URL, Audience: "latchkey", Customer: "default", Keys: s.issuer.URL + "/keys"}})
	s.is(key.token(t, s.claims("sub", "alice@example.com"), nil), "alice", noon)
	if s.issuer.asks.Load() != 0 || s.issuer.fetches.Load() != 1 {
		t.Errorf("%d metadata, %d keys", s.issuer.asks.Load(), s.issuer.fetches.Load())
	}
}

func TestCheckIssuers_RefusesWhatCouldBeAnybody(t *testing.T) {
	good := identity.Issuer{URL: "https://idp.example.com/realms/a", Audience: "latchkey", Customer: "default"}
	local := identity.Issuer{URL: "http://127.0.0.1:8080", Audience: "latchkey", Customer: "default"}
	if err := identity.CheckIssuers([]identity.Issuer{good, local, {URL: good.URL, Audience: "other", Customer: "acme"}}); err != nil {
		t.Error(err)
	}
	for name, list := range map[string][]identity.Issuer{
		"in the clear":       {{URL: "http://idp.example.com", Audience: "a", Customer: "default"}},
		"no URL":             {{URL: "", Audience: "a", Customer: "default"}},
		"with a user":        {{URL: "https://a:b@idp.example.com", Audience: "a", Customer: "default"}},
		"a file":             {{URL: "file:///etc/passwd", Audience: "a", Customer: "default"}},
		"a fragment":         {{URL: "https://idp.example.com#", Audience: "a", Customer: "default"}},
		"no audience":        {{URL: good.URL, Customer: "default"}},
		"no customer":        {{URL: good.URL, Audience: "a"}},
		"a customer of *":    {{URL: good.URL, Audience: "a", Customer: "*"}},
		"keys in the clear":  {{URL: good.URL, Audience: "a", Customer: "default", Keys: "http://keys.example.com"}},
		"twice":              {good, {URL: good.URL, Audience: good.Audience, Customer: "acme"}},
		"keys of two places": {good, {URL: good.URL, Audience: "b", Customer: "acme", Keys: "https://keys.example.com"}},
		"too many":           make([]identity.Issuer, 65),
	} {
		if identity.CheckIssuers(list) == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
