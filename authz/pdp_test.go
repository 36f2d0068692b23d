package authz_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

const benchScopes = `{"decision":true,"policies":[{"f":"*","p":2},{"f":"staging","p":4}]}`

// pdp makes a decision point over n keys.
func pdp(tb testing.TB, n int) (*authz.PDP, *authz.Authenticator, authz.Token, *authz.KeyState) {
	tb.Helper()
	table := &cache.Table{}
	token, key := fill(tb, table, n, benchScopes)
	auth := authz.NewAuthenticator(table, &authz.Peppers{}, authz.NewRootKey(nil, &authz.Peppers{}), nil)
	return authz.NewPDP(authz.PDPConfig{Keys: table, Auth: auth, MaxStaleness: 30 * time.Second}), auth, token, key
}

// mustDecide is for questions that name no policy, or a known one.
func mustDecide(tb testing.TB, p *authz.PDP, d *authz.Decision, c *authz.Customer, q *authz.Request, now latchkey.Instant) {
	tb.Helper()
	if err := p.Decide(d, c, q, now); err != nil {
		tb.Fatal(err)
	}
}

func request(subject, action, typ, id string) *authz.Request {
	return &authz.Request{Subject: authz.Entity{Type: authz.SubjectAccessKey, ID: subject}, Action: authz.Action{Name: action},
		Resource: authz.Entity{Type: typ, ID: id}}
}

func TestDecide_TheZeroDecisionDenies(t *testing.T) {
	var d authz.Decision
	if d.Permit || d.ExpiresAt > 0 {
		t.Error("the zero decision permits, or may be reused")
	}
	p, _, _, key := pdp(t, 1)
	mustDecide(t, p, &d, key.Customer, &authz.Request{}, morning)
	if d.Permit {
		t.Error("an empty question is permitted")
	}
	mustDecide(t, p, &d, nil, request(key.ID.String(), "read", "policies", "x"), morning)
	if d.Permit {
		t.Error("a caller of no customer is answered")
	}
}

func TestDecide_LeavesNothingOfAnEarlierAnswer(t *testing.T) {
	p, _, _, key := pdp(t, 1)
	var d authz.Decision
	mustDecide(t, p, &d, key.Customer, request(key.ID.String(), "read", "policies", "staging"), morning)
	first := d.ID
	if !d.Permit || len(d.Reasons) != 2 {
		t.Fatalf("%+v", d)
	}
	mustDecide(t, p, &d, key.Customer, request(key.ID.String(), "delete", "policies", "staging"), morning)
	if d.Permit || len(d.Reasons) != 1 || d.Reasons[0].Code != authz.ScopeMissing || d.Reasons[0].Entry != nil || d.ID == first {
		t.Errorf("%+v", d)
	}
	key.Revoke(morning)
	mustDecide(t, p, &d, key.Customer, request(key.ID.String(), "read", "policies", "staging"), morning)
	if d.Permit || d.Reasons[0].Code != authz.KeyRevoked {
		t.Errorf("%+v", d)
	}
}

func TestDecide_IDsAreFreshAndOfOneForm(t *testing.T) {
	p, _, _, key := pdp(t, 1)
	var d authz.Decision
	seen := map[authz.DecisionID]bool{}
	for range 10_000 {
		mustDecide(t, p, &d, key.Customer, request(key.ID.String(), "read", "policies", "x"), morning)
		if seen[d.ID] || string(d.ID[:4]) != "dec_" {
			t.Fatalf("%s", d.ID)
		}
		seen[d.ID] = true
	}
}

// wholeDecision is what a request to /decision costs apart from HTTP: the
// caller's credential, the body, the answer.
func wholeDecision(tb testing.TB, n int) (decide func()) {
	p, auth, token, key := pdp(tb, n)
	bearer := []byte(token.Reveal())
	body := `{"subject":{"type":"access_key","id":"` + key.ID.String() + `"},"action":{"name":"update"},"resource":{"type":"policies","id":"staging"}}`
	var doc strictjson.Doc
	var d authz.Decision
	var q authz.Request
	return func() {
		caller, _, err := auth.Authenticate(bearer, morning, here)
		if err != nil || !caller.MayDecide() {
			tb.Fatal(err)
		}
		if err := doc.Parse(body); err != nil {
			tb.Fatal(err)
		}
		root := doc.Root()
		s, r := root.Get("subject"), root.Get("resource")
		q = authz.Request{Subject: authz.Entity{Type: s.Get("type").Text(), ID: s.Get("id").Text()},
			Action: authz.Action{Name: root.Get("action").Get("name").Text()}, Resource: authz.Entity{Type: r.Get("type").Text(), ID: r.Get("id").Text()}}
		if err := p.Decide(&d, caller.Customer, &q, morning); err != nil {
			tb.Fatal(err)
		}
		if !d.Permit || len(d.Reasons) != 1 || d.Reasons[0].Index != 1 {
			tb.Fatalf("%+v", d)
		}
	}
}

func TestDecide_AllocatesNextToNothing(t *testing.T) {
	decide := wholeDecision(t, 1000)
	decide() // what is reused is made once
	if n := testing.AllocsPerRun(200, decide); n > 4 {
		t.Errorf("%v allocations a decision, want at most 4", n)
	}
	p, _, _, key := pdp(t, 10)
	var d authz.Decision
	for name, q := range map[string]*authz.Request{
		"permit": request(key.ID.String(), "read", "policies", "x"), "deny": request(key.ID.String(), "delete", "policies", "x"),
		"unknown": request("9017501f-9fa4-4a88-b657-5bd49c1bb722", "read", "policies", "x"),
	} {
		mustDecide(t, p, &d, key.Customer, q, morning)
		if n := testing.AllocsPerRun(200, func() { mustDecide(t, p, &d, key.Customer, q, morning) }); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// BenchmarkDecide measures a decision without HTTP. The million keys are made
// when that one is asked for.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{1_000, 1_000_000} {
		b.Run("keys="+strconv.Itoa(n), func(b *testing.B) {
			decide := wholeDecision(b, n)
			b.ReportAllocs()
			for b.Loop() {
				decide()
			}
		})
	}
}

func TestAuthenticate_SaysNothingOfWhatItDoesNotKnow(t *testing.T) {
	_, auth, token, key := pdp(t, 3)
	zero := withChecksum(token.Handle() + "_" + "0000000000000000000000000000000000000000000")
	other := authz.NewAccessKeyToken(authz.Live)
	for name, text := range map[string]string{"wrong secret": zero, "unknown kid": other.Reveal(), "malformed": "x", "empty": "", "root without a root key": authz.NewRootToken().Reveal()} {
		caller, proven, err := auth.Authenticate([]byte(text), morning, here)
		if proven || latchkey.CodeOf(err) != "invalid_credential" || caller != (authz.Caller{}) {
			t.Errorf("%s: %v %v %+v", name, proven, err, caller)
		}
	}
	key.Revoke(morning)
	if _, proven, err := auth.Authenticate([]byte(token.Reveal()), morning, here); !proven || latchkey.CodeOf(err) != "key_revoked" {
		t.Errorf("%v %v", proven, err)
	}
	if _, proven, err := auth.Authenticate([]byte(token.Reveal()), morning-1, here); !proven || latchkey.CodeOf(err) != "key_revoked" { // by a clock that is ahead
		t.Errorf("%v %v", proven, err)
	}
}

func TestCaller_TheZeroOneMayDoNothing(t *testing.T) {
	var c authz.Caller
	keys := authz.NewKeys(authz.KeysConfig{})
	if c.IsRoot() || c.MayDecide() || c.SeesEvents() || c.SeesAllEvents() || c.Scopes() != nil || keys.MayCreate(&c) == nil || keys.MayList(&c) == nil ||
		keys.MayRevoke(&c, authz.KeyID{}) == nil || authz.NewCustomers(nil, nil).May(&c) == nil || keys.Sees(&c, nil) {
		t.Error("the zero caller may do something")
	}
}

func TestConfusableSubject_KnowsTheLookAlikes(t *testing.T) {
	for typ, want := range map[string]bool{
		"access_key": false, "user": false, "service": false, "access_keys": false, "xaccess_key": false, "": false, "_": false,
		"ACCESS_KEY": true, "accesskey": true, "access-key": true, "access key": true, "\u212A": false, "access_\u212Aey": true, "acce\u017Fs_key": true,
		"access\u2014key": true, "access\u203Fkey": true, "access\u3000key": true, "access\u200Dkey": true, "__access__key__": true,
	} {
		if got := authz.ConfusableSubject(typ); got != want {
			t.Errorf("%q: %v", typ, got)
		}
	}
}
