package server_test

import (
	"context"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/people"
)

const manages = `{"access_requests_manage":true}`

// mustKeep notes the key that a reply shows, and returns it.
func (a *api) mustKeep(r *reply, path string) string {
	a.Helper()
	secret := r.is(201).text(path)
	if secret == "" {
		a.Fatalf("%s: nothing at %s: %s", r.request, path, r.body)
	}
	return a.keep(secret)
}

// The attack: somebody with a token of their own looks at what is another's.
func TestPeople_SeeWhatConcernsThem(t *testing.T) {
	t.Parallel()
	a := start(t)
	alice, bob := a.person("alice", "user"), a.person("bob", "user")
	own := a.do("POST", "/v1/groups", a.root, `{"name":"hers","member_ids":["`+alice.id+`"]}`).is(201).text("id")
	other := a.do("POST", "/v1/groups", a.root, `{"name":"his","member_ids":["`+bob.id+`"]}`).is(201).text("id")
	a.do("GET", "/v1/users/"+alice.id, alice.token, "").is(200)
	a.do("GET", "/v1/users/"+bob.id, alice.token, "").refused(404, "user_not_found")
	a.do("GET", "/v1/users/"+strings.ToUpper(bob.id), a.root, "").refused(404, "user_not_found")
	if list := a.do("GET", "/v1/users?username=bob", alice.token, "").is(200).get("users"); len(list.Array()) != 0 {
		t.Errorf("alice finds %s", list)
	}
	if list := a.do("GET", "/v1/users", alice.token, "").is(200).get("users.#.id"); list.String() != `["`+alice.id+`"]` {
		t.Errorf("alice lists %s", list)
	}
	a.do("GET", "/v1/groups/"+own, alice.token, "").is(200)
	a.do("GET", "/v1/groups/"+other, alice.token, "").refused(404, "group_not_found")
	for _, query := range []string{"", "?member_id=" + alice.id} {
		if list := a.do("GET", "/v1/groups"+query, alice.token, "").is(200).get("groups.#.id"); list.String() != `["`+own+`"]` {
			t.Errorf("alice lists %s", list)
		}
	}
	if list := a.do("GET", "/v1/groups?member_id="+bob.id, alice.token, "").is(200).get("groups.#"); list.Int() != 0 {
		t.Errorf("alice lists %s groups of bob", list)
	}
	a.do("GET", "/v1/personal_tokens?user_id="+bob.id, alice.token, "").refused(404, "user_not_found")
	tokens := a.do("GET", "/v1/personal_tokens?user_id="+bob.id, a.root, "").is(200)
	a.do("DELETE", "/v1/personal_tokens/"+tokens.text("personal_tokens.0.id"), alice.token, "").refused(404, "token_not_found")
	a.do("DELETE", "/v1/personal_tokens/"+tokens.text("personal_tokens.0.id")+"?user_id="+bob.id, alice.token, "").refused(404, "user_not_found")
	for _, call := range []string{"GET /v1/access_keys", "GET /v1/auditing", "GET /v1/customers", "GET /v1/resources", "GET /v1/webhooks", "GET /v1/tasks",
		"DELETE /v1/users/" + bob.id, "POST /v1/users/" + alice.id + "/claim", "DELETE /v1/groups/" + own, "PUT /v1/groups/" + other + "/members/" + alice.id} {
		method, path, _ := strings.Cut(call, " ")
		if r := a.do(method, path, alice.token, ""); r.status != 403 {
			t.Errorf("%s: %d %s", call, r.status, r.body)
		}
	}
	for _, path := range []string{"/v1/users", "/v1/groups", "/v1/applications", "/v1/entitlements", "/v1/access_keys", "/v1/grants"} {
		if r := a.do("POST", path, alice.token, `{"username":"x","name":"x"}`); r.status != 403 {
			t.Errorf("POST %s: %d %s", path, r.status, r.body)
		}
	}
}

// The attack: a person looks at what others hold, and at what nobody may ask for.
func TestPeople_ReadWhatTheyHoldAndMayAskFor(t *testing.T) {
	t.Parallel()
	a := start(t)
	alice, bob := a.person("alice", "user"), a.person("bob", "user")
	made := func(path, body string) string {
		t.Helper()
		return a.do("POST", path, a.root, body).is(201).text("id")
	}
	app, ent := map[string]string{}, map[string]string{}
	for _, name := range []string{"asked", "held", "hidden"} {
		app[name] = made("/v1/applications", `{"name":"`+name+`"}`)
		ent[name] = made("/v1/entitlements", `{"app_id":"`+app[name]+`","name":"`+name+`","entries":{"host":[{"f":"`+name+`","p":2}]}}`)
	}
	made("/v1/access-request-templates", `{"name":"t","app_id":"`+app["asked"]+`","mapping_ids":["`+ent["asked"]+`"],"allowed_durations":[60]}`)
	made("/v1/groups", `{"name":"g","member_ids":["`+alice.id+`"],"entitlement_ids":["`+ent["held"]+`"]}`)
	for token, want := range map[string][]string{alice.token: {"asked", "held"}, bob.token: {"asked"}, a.root: {"asked", "held", "hidden"}} {
		for path, ids := range map[string]map[string]string{"applications": app, "entitlements": ent} {
			if got := slices.Sorted(slices.Values(texts(a.do("GET", "/v1/"+path, token, "").is(200).get(path + ".#.name")))); !slices.Equal(got, want) {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
			for name, id := range ids {
				status := 404
				if slices.Contains(want, name) {
					status = 200
				}
				a.do("GET", "/v1/"+path+"/"+id, token, "").is(status)
			}
		}
	}

	grant := func(to string) string {
		return made("/v1/grants", `{"subject":{"type":"user","id":"`+to+`"},"entries":{"host":[{"f":"x","p":2}]},"expires_at":"2099-01-01T00:00:00Z","reason":"x"}`)
	}
	hers, his := grant("alice"), grant("bob")
	grant("nobody in particular")
	for query, want := range map[string]string{
		"": `["` + hers + `"]`, "?subject_type=user&subject_id=ALICE@example.com": `["` + hers + `"]`, "?subject_id=alice": `["` + hers + `"]`, "?status=ended": `[]`,
		"?subject_type=user&subject_id=bob": `[]`, "?subject_type=user&subject_id=" + bob.id: `[]`, "?subject_type=access_key": `[]`, "?subject_id=nobody%20in%20particular": `[]`,
	} {
		if got := a.do("GET", "/v1/grants"+query, alice.token, "").is(200).get("grants.#.id").String(); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	a.do("GET", "/v1/grants/"+hers, alice.token, "").is(200)
	a.do("GET", "/v1/grants/"+his, alice.token, "").refused(404, "grant_not_found")
	a.do("DELETE", "/v1/grants/"+hers, alice.token, "").refused(403, "not_permitted")
	key := a.createFor(authz.DefaultCustomer, `{"decision":true}`).secret
	for _, path := range []string{"/v1/grants", "/v1/grants/" + hers, "/v1/applications", "/v1/entitlements/" + ent["asked"]} {
		a.do("GET", path, key, "").refused(403, "scope_missing")
	}
}

// The attack: ids of one customer are used in another.
func TestPeople_OfOneCustomerAreNothingToAnother(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.customer("acme")
	admin, theirs := a.person("admin", "admin"), a.person("alice", "user", "X-Customer-ID", "acme")
	at := []string{"X-Customer-ID", "acme"}
	group := a.do("POST", "/v1/groups", a.root, `{"name":"g","member_ids":["`+theirs.id+`"]}`, at...).is(201).text("id")
	app := a.do("POST", "/v1/applications", a.root, `{"name":"app"}`, at...).is(201).text("id")
	ent := a.do("POST", "/v1/entitlements", a.root, `{"app_id":"`+app+`","name":"e","entries":{"host":[{"f":"*","p":2}]}}`, at...).is(201).text("id")
	for _, call := range [][3]string{
		{"GET", "/v1/users/" + theirs.id}, {"PUT", "/v1/users/" + theirs.id, `{"username":"mine"}`}, {"DELETE", "/v1/users/" + theirs.id}, {"POST", "/v1/users/" + theirs.id + "/claim"},
		{"GET", "/v1/groups/" + group}, {"PUT", "/v1/groups/" + group, `{"name":"mine"}`}, {"DELETE", "/v1/groups/" + group}, {"PUT", "/v1/groups/" + group + "/members/" + admin.id},
		{"GET", "/v1/applications/" + app}, {"PUT", "/v1/applications/" + app, `{"name":"mine"}`}, {"DELETE", "/v1/applications/" + app},
		{"GET", "/v1/entitlements/" + ent}, {"PUT", "/v1/entitlements/" + ent, `{"app_id":"` + app + `","name":"mine","entries":{"host":[{"f":"*","p":15}]}}`}, {"DELETE", "/v1/entitlements/" + ent},
		{"GET", "/v1/personal_tokens?user_id=" + theirs.id},
	} {
		if r := a.do(call[0], call[1], admin.token, call[2]); r.status != 404 {
			t.Errorf("%s: %d %s", r.request, r.status, r.body)
		}
		if r := a.do(call[0], call[1], admin.token, call[2], at...); r.status != 403 || r.text("code") != "wrong_customer" {
			t.Errorf("%s in their customer: %d %s", r.request, r.status, r.body)
		}
	}
	a.do("POST", "/v1/groups", admin.token, `{"name":"g","member_ids":["`+theirs.id+`"]}`).refused(400, "user_not_found", "/member_ids/0")
	a.do("POST", "/v1/groups", admin.token, `{"name":"g","entitlement_ids":["`+ent+`"]}`).refused(400, "entitlement_not_found", "/entitlement_ids/0")
	mine := a.do("POST", "/v1/applications", admin.token, `{"name":"own"}`).is(201).text("id")
	own := a.do("POST", "/v1/entitlements", admin.token, `{"app_id":"`+mine+`","name":"own","entries":{"host":[{"f":"*","p":2}]}}`).is(201).text("id")
	for at, ids := range map[string]string{"/entitlement_ids/0": ent + `","` + own, "/entitlement_ids/1": own + `","` + ent} { // whatever their order is when they are kept
		a.do("POST", "/v1/groups", admin.token, `{"name":"g","entitlement_ids":["`+ids+`"]}`).refused(400, "entitlement_not_found", at)
	}
	a.do("POST", "/v1/entitlements", admin.token, `{"app_id":"`+app+`","name":"e","entries":{"host":[{"f":"*","p":2}]}}`).refused(400, "application_not_found", "/app_id")
	a.person("alice", "user") // a name is taken in its own customer only
	// The end of a customer is the end of its people.
	a.do("DELETE", "/v1/customers/acme", a.root, "").is(204)
	a.do("GET", "/v1/users/self", theirs.token, "").refused(401, "invalid_credential")
}

// The attack: who manages people makes one, or takes one over, that may do more.
func TestPeople_NobodyMakesSomebodyStronger(t *testing.T) {
	t.Parallel()
	a := start(t)
	service := a.create(manages)
	admin, internal, user := a.person("admin", "admin"), a.person("internal", "internal_admin"), a.person("user", "user")
	claim := func(p human, by string) *reply { return a.do("POST", "/v1/users/"+p.id+"/claim", by, "") }
	put := func(p human, by, members string) *reply {
		return a.do("PUT", "/v1/users/"+p.id, by, `{"username":"`+p.username+`"`+members+`}`)
	}
	for _, typ := range []string{"admin", "Admin", "internal_admin", "InternalAdmin"} {
		a.do("POST", "/v1/users", service.secret, `{"username":"eve","type":"`+typ+`"}`).refused(403, "stronger_person")
		put(user, service.secret, `,"type":"`+typ+`"`).refused(403, "stronger_person")
	}
	for _, p := range []human{admin, internal} {
		claim(p, service.secret).refused(403, "stronger_person")
		put(p, service.secret, ``).refused(403, "stronger_person")
		put(p, service.secret, `,"active":false`).refused(403, "stronger_person")
		a.do("DELETE", "/v1/users/"+p.id, service.secret, "").refused(403, "stronger_person")
	}
	for _, by := range []string{admin.token, internal.token} {
		a.do("POST", "/v1/users", by, `{"username":"eve","type":"internal_admin"}`).refused(403, "stronger_person")
		put(admin, by, `,"type":"internal_admin"`).refused(403, "stronger_person")
		claim(internal, by).refused(403, "stronger_person")
		put(internal, by, ``).refused(403, "stronger_person")
		a.do("DELETE", "/v1/users/"+internal.id, by, "").refused(403, "stronger_person")
		a.do("GET", "/v1/personal_tokens?user_id="+internal.id, admin.token, "").refused(403, "stronger_person")
	}
	// A service does not become somebody who has had a credential.
	claim(user, service.secret).refused(403, "person_has_credentials")
	put(user, service.secret, `,"email":"eve@example.com"`).refused(403, "person_has_credentials")
	put(user, service.secret, `,"email":"user@example.com","name":"Une"`).is(200)
	made := a.do("POST", "/v1/users", service.secret, `{"username":"fred"}`)
	if made.is(201).get("access_key").Type != gjson.Null || made.text("warnings.0.code") != "made_by_service" {
		t.Errorf("a service made %s", made.body)
	}
	a.keep(made.text("claim.code"))
	fred := human{id: made.text("id"), username: "fred"}
	fred.token = a.claimed(a.mustKeep(claim(fred, service.secret), "claim.code"))
	claim(fred, service.secret).refused(403, "person_has_credentials")
	a.mustKeep(claim(fred, admin.token), "claim.code")
	a.do("POST", "/v1/users", a.root, `{"username":"eve","type":"internal_admin"}`, "X-Customer-ID", "default").is(201)
	a.customer("acme")
	a.do("POST", "/v1/users", a.root, `{"username":"eve","type":"internal_admin"}`, "X-Customer-ID", "acme").refused(400, "wrong_customer", "/type")
	guest := a.person("guest", "user", "X-Customer-ID", "acme")
	a.do("PUT", "/v1/users/"+guest.id, a.root, `{"username":"guest","type":"internal_admin"}`, "X-Customer-ID", "acme").refused(400, "wrong_customer", "/type")
}

// The attack: a service makes a user, keeps the claim code, and waits until somebody
// makes an admin of the user.
func TestClaimCode_IsOfTheTypeThatItWasMadeFor(t *testing.T) {
	t.Parallel()
	a := start(t)
	service, admin := a.create(manages), a.person("admin", "admin")
	made := a.do("POST", "/v1/users", service.secret, `{"username":"dave"}`)
	code, path := a.mustKeep(made, "claim.code"), "/v1/users/"+made.text("id")
	put := func(more string) { a.do("PUT", path, admin.token, `{"username":"dave"`+more+`}`).is(200) }
	present := func(code string) *reply {
		return a.do("POST", "/v1/personal_tokens", "", `{"claim_code":"`+code+`","name":"x"}`)
	}
	put(`,"name":"Dave"`) // which leaves it as it is
	put(`,"type":"admin"`)
	present(code).refused(401, "invalid_credential")
	put(``) // and it does not come back
	present(code).refused(401, "invalid_credential")
	put(`,"type":"admin"`)
	dave := a.claimed(a.mustKeep(a.do("POST", path+"/claim", admin.token, ""), "claim.code"))
	a.do("GET", "/v1/access_keys", dave, "").is(200)
	fred := a.do("POST", "/v1/users", service.secret, `{"username":"fred"}`)
	a.do("PUT", "/v1/users/"+fred.text("id"), admin.token, `{"username":"fred","name":"Fred"}`).is(200)
	a.claimed(a.mustKeep(fred, "claim.code"))
}

// The attack: a grant is made to an address in other letters than it is kept in, for
// somebody who has left, or to keep it when they leave.
func TestPeople_AreTheSameByAnAddressInOtherLetters(t *testing.T) {
	t.Parallel()
	a := start(t)
	alice, decides := a.person("alice", "user"), a.create(`{"decision":true}`)
	grant := func() *reply {
		return a.do("POST", "/v1/grants", a.root, `{"subject":{"type":"user","id":"Alice@Example.com"},"entries":{"host":[{"f":"x","a":["login"]}]},"expires_at":"2099-01-01T00:00:00Z","reason":"x"}`)
	}
	may := func(name string) bool {
		return a.decide(decides.secret, evaluation(`{"type":"user","id":"`+name+`"}`, "login", "host", "x")).get("decision").Bool()
	}
	made := grant()
	if made.is(201).text("subject.id") != alice.id || !may("alice@example.com") {
		t.Errorf("granted to %s", made.get("subject"))
	}
	a.do("DELETE", "/v1/users/"+alice.id, a.root, "").is(204)
	for _, name := range []string{"alice", "alice@example.com", "Alice@Example.com", alice.id} {
		if may(name) {
			t.Errorf("%s, who has left, may log in", name)
		}
	}
	grant().refused(409, "person_inactive")
}

// The attack: members that the server sets are sent along.
func TestPeople_TakeNoMembersThatTheServerSets(t *testing.T) {
	t.Parallel()
	a := start(t)
	alice := a.person("alice", "user")
	for _, extra := range []string{`"id":"` + alice.id + `"`, `"customer_id":"acme"`, `"created_at":"2020-01-01T00:00:00Z"`, `"version":1`, `"claim":{}`, `"access_key":{}`, `"user_id":"x"`, `"Type":"admin"`} {
		name := "/" + strings.Split(extra, `"`)[1]
		a.do("POST", "/v1/users", a.root, `{"username":"x",`+extra+`}`).refused(400, "unknown_member", name)
		a.do("PUT", "/v1/users/"+alice.id, a.root, `{"username":"alice",`+extra+`}`).refused(400, "unknown_member", name)
		a.do("POST", "/v1/groups", a.root, `{"name":"x",`+extra+`}`).refused(400, "unknown_member", name)
		a.do("POST", "/v1/applications", a.root, `{"name":"x",`+extra+`}`).refused(400, "unknown_member", name)
		a.do("POST", "/v1/personal_tokens", alice.token, `{"name":"x",`+extra+`}`).refused(400, "unknown_member", name)
	}
}

func TestUsers_HaveNamesThatAreNobodyElses(t *testing.T) {
	t.Parallel()
	a := start(t)
	alice := a.person("alice", "user")
	for body, want := range map[string]string{
		`{"username":"alice"}`: "409 username_taken", `{"username":"bob","email":"ALICE@example.COM"}`: "409 email_taken",
		`{"username":"bot"}`: "400 invalid_username", `{"username":"BOT"}`: "400 invalid_username", `{"username":"` + alice.id + `"}`: "400 invalid_username",
		`{"username":"` + strings.ToUpper(alice.id) + `"}`: "400 invalid_username", `{"username":"a b"}`: "400 invalid_username", `{"username":"alice@example.com"}`: "400 invalid_username",
		`{"username":""}`: "400 blank", `{}`: "400 missing_member", `{"username":7}`: "400 wrong_type",
		`{"username":"x","email":""}`: "400 invalid_email", `{"username":"x","email":"x"}`: "400 invalid_email", `{"username":"x","email":"a@b@c"}`: "400 invalid_email",
		// A Kelvin sign is a k in lower case: an address of somebody else.
		`{"username":"x","email":"alice@example.com\u212a"}`: "400 invalid_email", `{"username":"x","email":"A\u0000@b"}`: "400 nul_character", `{"username":"x","email":"a,b@c"}`: "400 invalid_email",
		`{"username":"x","type":"root"}`: "400 invalid_type", `{"username":"x","active":"no"}`: "400 wrong_type", `{"username":"x","name":"\u0007"}`: "400 control_character",
	} {
		r := a.do("POST", "/v1/users", a.root, body)
		if got := fmt.Sprint(r.status, " ", r.text("code")); got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
	// None has no address; so have many, and nobody is found by it.
	for _, name := range []string{"carol", "dave"} {
		a.keep(a.do("POST", "/v1/users", a.root, `{"username":"`+name+`","email":null}`).is(201).text("access_key.key"))
	}
	a.do("GET", "/v1/users?email=", a.root, "").refused(400, "invalid_parameter", "query:email")
	if n := a.do("GET", "/v1/users?email=Alice@Example.com&type=User&active=true", a.root, "").is(200).get("users.#").Int(); n != 1 {
		t.Errorf("%d persons", n)
	}
}

// The attack: one kind of credential is presented as another, with its checksum
// put right.
func TestCredentials_OfOneKindAreNoOther(t *testing.T) {
	t.Parallel()
	a := start(t)
	key := a.create(everyScope)
	alice := a.person("alice", "admin")
	made := a.do("POST", "/v1/users", a.root, `{"username":"bob"}`)
	a.mustKeep(made, "access_key.key")
	code := a.mustKeep(made, "claim.code")
	as := func(prefix, token string) string {
		_, rest, _ := strings.Cut(strings.TrimPrefix(token, "lk1_live"), "_")
		if !strings.HasPrefix(token, "lk1_") {
			_, rest, _ = strings.Cut(token, "_")
		}
		body := prefix + rest[:strings.LastIndexByte(rest, '_')]
		return a.keep(body + "_" + base62CRC(body))
	}
	if as("lk1_live_", key.secret) != key.secret || as("lkp1_", alice.token) != alice.token {
		t.Fatal("the test makes other tokens")
	}
	for name, credential := range map[string]string{
		"a claim code": code, "a key as a token": as("lkp1_", key.secret), "a token as a key": as("lk1_live_", alice.token), "a token as root": as("lkr1_", alice.token),
		"a claim code as a token": as("lkp1_", code), "root as a token": as("lkp1_", a.root), "a key as a claim code": as("lkc1_", key.secret), "a JWT": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.",
	} {
		if r := a.do("GET", "/v1/users/self", credential, ""); r.status != 401 || r.text("code") != "invalid_credential" {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	for name, claim := range map[string]string{"a token as a claim code": as("lkc1_", alice.token), "a token": alice.token, "a key": key.secret} {
		if r := a.do("POST", "/v1/personal_tokens", "", `{"claim_code":"`+claim+`","name":"x"}`); r.status != 401 {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	for _, secret := range []string{alice.token, code} {
		if r := a.do("POST", "/v1/access_keys/verify", key.secret, `{"key":"`+secret+`"}`).is(200); r.get("valid").Bool() {
			t.Errorf("verified as an access key: %s", r.body)
		}
		r := a.do("POST", "/decision", key.secret, `{"subject":{"type":"access_key","properties":{"key":"`+secret+`"}},"action":{"name":"read"},"resource":{"type":"sets","id":"x"}}`).is(200)
		if r.get("decision").Bool() {
			t.Errorf("permitted: %s", r.body)
		}
	}
	a.do("POST", "/v1/personal_tokens", key.secret, `{"name":"x"}`).refused(403, "person_required")
	a.do("POST", "/v1/personal_tokens", a.root, `{"name":"x"}`).refused(403, "person_required")
	a.do("POST", "/v1/personal_tokens", alice.token, `{"claim_code":"`+code+`","name":"x"}`).refused(400, "two_credentials", "/claim_code")
	a.do("GET", "/v1/users/self?x="+alice.token, "", "").refused(400, "credential_in_query")
	a.do("GET", "/v1/users/self?x="+code, "", "").refused(400, "credential_in_query")
	a.keep(a.do("POST", "/v1/personal_tokens", "", `{"claim_code":"`+code+`","name":"x"}`).is(201).text("token")) // nothing of it used it up
}

// base62CRC is the checksum of a credential.
func base62CRC(body string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	n, b := crc32.ChecksumIEEE([]byte(body)), [6]byte{}
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = digits[n%62]
		n /= 62
	}
	return string(b[:])
}

// The attack: claim codes are tried. A right one is taken all the same.
func TestClaimCode_FailuresAreCountedLikeOthers(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.config.AuthFailureRate = 0.1 })
	made := a.do("POST", "/v1/users", a.root, `{"username":"alice"}`)
	a.mustKeep(made, "access_key.key")
	code := a.mustKeep(made, "claim.code")
	body := func(code string) string { return `{"claim_code":"` + code + `","name":"x"}` }
	a.do("POST", "/v1/personal_tokens", "", body(authz.NewClaimCode().Reveal())).refused(401, "invalid_credential")
	a.do("POST", "/v1/personal_tokens", "", body("guess")).refused(429, "too_many_failures")
	a.claimed(code)
	a.do("POST", "/v1/personal_tokens", "", body(code)).refused(429, "too_many_failures")
}

// The attack: who came in first, or by a server whose clock is behind, is served
// after who used a credential up, or ended it.
func TestPersonalCredentials_AreDeadWhateverTheTime(t *testing.T) {
	t.Parallel()
	a := start(t)
	body := func(code string) string { return `{"claim_code":"` + code + `","name":"x"}` }
	made := a.do("POST", "/v1/users", a.root, `{"username":"alice"}`).is(201)
	a.mustKeep(made, "access_key.key")
	used := a.mustKeep(made, "claim.code")
	at := "/v1/users/" + made.text("id")
	a.clock.advance(time.Second)
	alice := a.claimed(used)
	other := a.do("POST", "/v1/personal_tokens", alice, `{"name":"other"}`).is(201)
	a.keep(other.text("token"))
	a.do("DELETE", "/v1/personal_tokens/"+other.text("id"), alice, "").is(204)
	replaced := a.mustKeep(a.do("POST", at+"/claim", a.root, "").is(201), "claim.code")
	a.mustKeep(a.do("POST", at+"/claim", a.root, "").is(201), "claim.code")
	a.clock.advance(-time.Millisecond)
	for what, code := range map[string]string{"used": used, "replaced": replaced} {
		if r := a.do("POST", "/v1/personal_tokens", "", body(code)); r.status != 401 {
			t.Errorf("a claim code that was %s: %d", what, r.status)
		}
	}
	a.do("GET", "/v1/users/self", other.text("token"), "").refused(401, "token_ended")
	a.do("DELETE", "/v1/personal_tokens/"+other.text("id"), alice, "").refused(404, "token_not_found")
}

// The attack: an admin gives a right to themselves by a second credential, by
// another of their names, or by way of a group.
func TestPeople_NobodyGrantsToThemselvesByAnotherWay(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.maxActive = 20 })
	made := a.do("POST", "/v1/users", a.root, `{"username":"eve","email":"Eve@example.com","type":"admin"}`)
	own := key{made.text("access_key.id"), a.mustKeep(made, "access_key.key"), ""}
	eve := human{made.text("id"), "eve", a.claimed(a.mustKeep(made, "claim.code"))}
	bob := a.person("bob", "user")
	service := a.made(a.do("POST", "/v1/access_keys", eve.token, newKeyBody(manages)))
	rotated := a.create(manages)
	rotated = a.made(a.do("POST", "/v1/access_keys/"+rotated.id+"/rotate", eve.token, `{}`))
	clean := a.create(manages)
	plain := a.made(a.do("POST", "/v1/access_keys", eve.token, newKeyBody(`{"host":[{"f":"x","p":2}]}`)))

	for name, by := range map[string]string{"her token": eve.token, "a service key that she made": service.secret, "one that she rotated": rotated.secret} {
		for _, subject := range [][2]string{{"user", eve.id}, {"user", "eve"}, {"user", "eve@example.com"}, {"access_key", own.id}, {"access_key", plain.id}, {"access_key", service.id}} {
			r := a.do("POST", "/v1/grants", by, a.grantBody(subject[0], subject[1]))
			if r.status != 403 || r.text("code") != "self_approval_forbidden" {
				t.Errorf("%s, to %v: %d %s", name, subject, r.status, r.body)
			}
		}
		a.do("POST", "/v1/grants", by, a.grantBody("user", bob.id)).is(201)
	}
	a.do("POST", "/v1/grants", clean.secret, a.grantBody("user", eve.id)).is(201)
	a.do("POST", "/v1/grants", clean.secret, a.grantBody("access_key", plain.id)).is(201)

	app := a.do("POST", "/v1/applications", eve.token, `{"name":"app"}`).is(201).text("id")
	entitlement := func(p string) string {
		return `{"app_id":"` + app + `","name":"e","entries":{"host":[{"f":"*","p":` + p + `}]}}`
	}
	ent := a.do("POST", "/v1/entitlements", eve.token, entitlement("2")).is(201).text("id")
	group := func(members, entitlements string) string {
		return `{"name":"g","member_ids":[` + members + `],"entitlement_ids":[` + entitlements + `]}`
	}
	me, him, gives := `"`+eve.id+`"`, `"`+bob.id+`"`, `"`+ent+`"`
	for name, by := range map[string]string{"her token": eve.token, "a service key that she made": service.secret} {
		a.do("POST", "/v1/groups", by, group(me, gives)).refused(403, "self_approval_forbidden")
		with := a.do("POST", "/v1/groups", by, group(him, gives)).is(201).text("id")
		a.do("PUT", "/v1/groups/"+with+"/members/"+eve.id, by, "").refused(403, "self_approval_forbidden")
		a.do("PUT", "/v1/groups/"+with, by, group(him+","+me, gives)).refused(403, "self_approval_forbidden")
		a.do("DELETE", "/v1/groups/"+with, by, "").is(204)
		without := a.do("POST", "/v1/groups", by, group(me, "")).is(201).text("id")
		a.do("PUT", "/v1/groups/"+without, by, group(me, gives)).refused(403, "self_approval_forbidden")
		a.do("PUT", "/v1/groups/"+without, clean.secret, group(me, gives)).is(200)
		a.do("PUT", "/v1/entitlements/"+ent, by, entitlement("15")).refused(403, "self_approval_forbidden")
		if r := a.do("PUT", "/v1/groups/"+without, by, `{"name":"`+"renamed "+strings.Fields(name)[0]+`","member_ids":[`+me+`],"entitlement_ids":[`+gives+`]}`); r.status != 200 {
			t.Errorf("%s: a group stays what it is: %s", name, r.body)
		}
		a.do("DELETE", "/v1/groups/"+without, by, "").is(204)
	}
}

// The attack: an admin makes, or is given the secret of, a key that may do what
// admins may not.
func TestAdmins_MakeKeysButNoSidecars(t *testing.T) {
	t.Parallel()
	a := start(t)
	admin, user := a.person("admin", "admin"), a.person("user", "user")
	sidecar := a.create(`{"sidecar":true}`)
	a.do("POST", "/v1/access_keys", admin.token, newKeyBody(`{"decision":true,"sidecar":true}`)).refused(403, "scope_not_held")
	a.do("POST", "/v1/access_keys/"+sidecar.id+"/rotate", admin.token, `{}`).refused(403, "scope_not_held")
	made := a.made(a.do("POST", "/v1/access_keys", admin.token, newKeyBody(`{"decision":true}`)))
	a.do("POST", "/v1/access_keys", made.secret, newKeyBody(`{"decision":true}`)).refused(403, "access_keys_cannot_create")
	a.do("POST", "/v1/access_keys", user.token, newKeyBody(`{"decision":true}`)).refused(403, "not_permitted")
	a.do("DELETE", "/v1/access_keys/"+made.id, user.token, "").refused(403, "not_permitted")
	if n := a.do("GET", "/v1/access_keys", admin.token, "").is(200).get("total").Int(); n != 4 {
		t.Errorf("an admin sees %d keys", n)
	}
	a.do("GET", "/v1/auditing", admin.token, "").is(200)
	a.do("DELETE", "/v1/access_keys/"+made.id, admin.token, "").is(204)
	a.do("DELETE", "/v1/access_keys/"+sidecar.id, admin.token, "").is(204)
}

// Internal admins act in every customer, and none of it goes unrecorded there,
// what they only look at included.
func TestInternalAdmins_ActElsewhereForAReason(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.customer("acme")
	internal := a.person("internal", "internal_admin")
	at := func(reason string) []string {
		if reason == "" {
			return []string{"X-Customer-ID", "acme"}
		}
		return []string{"X-Customer-ID", "acme", "X-Reason", reason}
	}
	a.do("GET", "/v1/users", internal.token, "", at("")...).refused(400, "reason_required", "header:X-Reason")
	a.do("GET", "/v1/users", internal.token, "", at(" ")...).refused(400, "reason_required", "header:X-Reason")
	a.do("GET", "/v1/users", internal.token, "", at(strings.Repeat("x", 501))...).refused(400, "invalid_reason", "header:X-Reason")
	a.do("GET", "/v1/users", internal.token, "", at("see "+internal.token)...).refused(400, "credential_in_reason", "header:X-Reason")
	a.do("GET", "/v1/users", internal.token, "", "X-Customer-ID", "nobody", "X-Reason", "r").refused(404, "customer_not_found")
	a.do("GET", "/v1/users", internal.token, "", at("ticket 7")...).is(200)
	made := a.do("POST", "/v1/users", internal.token, `{"username":"alice"}`, at("ticket 8")...)
	a.mustKeep(made, "access_key.key")
	a.mustKeep(made, "claim.code")
	var told []string
	for _, e := range a.events("acme") {
		told = append(told, strings.TrimSpace(e.Get("action").String()+" "+e.Get("actor.id").String()+" "+e.Get("reason").String()))
	}
	want := []string{"customer.enter " + internal.id + " ticket 7", "customer.enter " + internal.id + " ticket 8", "access_key.create " + internal.id, "user.create " + internal.id}
	if !slices.Equal(told, want) {
		t.Errorf("recorded %q, want %q", told, want)
	}
	// The customer's people are found there; its own record is found everywhere.
	a.do("GET", "/v1/users/"+made.text("id"), internal.token, "", at("r")...).is(200)
	a.do("GET", "/v1/users/self", internal.token, "", at("r")...).is(200)
	a.do("GET", "/v1/users/"+made.text("id"), internal.token, "").refused(404, "user_not_found")
	a.do("GET", "/v1/customers", internal.token, "").refused(403, "not_permitted")
	// An admin of another customer is nobody's operator.
	admin := a.person("boss", "admin", "X-Customer-ID", "acme")
	a.do("GET", "/v1/users", admin.token, "", "X-Customer-ID", "default", "X-Reason", "r").refused(403, "wrong_customer")
}

func TestUsers_LoseEverythingTheyHaveWhenTheyLeave(t *testing.T) {
	t.Parallel()
	a := start(t)
	asker := a.create(`{"decision":true}`)
	made := a.do("POST", "/v1/users", a.root, `{"username":"alice","email":"alice@example.com"}`)
	id, own := made.text("id"), a.mustKeep(made, "access_key.key")
	token := a.claimed(a.mustKeep(made, "claim.code"))
	code := a.mustKeep(a.do("POST", "/v1/users/"+id+"/claim", a.root, ""), "claim.code")
	for _, name := range []string{id, "alice", "alice@example.com"} {
		a.grant("user", name)
	}
	permitted := func(want bool) {
		t.Helper()
		for _, name := range []string{id, "alice", "alice@example.com"} {
			if got := a.decide(asker.secret, login(`{"type":"user","id":"`+name+`"}`, "db-1")).get("decision").Bool(); got != want {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
	permitted(true)
	a.do("DELETE", "/v1/users/"+id, a.root, "").is(204)
	permitted(false)
	a.do("GET", "/v1/users/self", token, "").refused(401, "person_inactive")
	a.do("POST", "/decision", own, login(subject("x"), "db-1")).refused(401, "key_revoked")
	if r := a.do("GET", "/v1/access_keys/"+made.text("access_key.id"), a.root, "").is(200); r.get("revoked_at").Type != gjson.String { // for other servers, and after a restart
		t.Errorf("the key is on record as %s", r.body)
	}
	a.do("POST", "/v1/personal_tokens", "", `{"claim_code":"`+code+`","name":"x"}`).refused(401, "invalid_credential")
	a.do("POST", "/v1/users/"+id+"/claim", a.root, "").refused(409, "person_inactive")
	a.do("DELETE", "/v1/users/"+id, a.root, "").refused(409, "already_inactive")
	a.do("POST", "/v1/groups", a.root, `{"name":"g","member_ids":["`+id+`"]}`).refused(400, "person_inactive", "/member_ids/0")
	a.do("POST", "/v1/users", a.root, `{"username":"alice"}`).refused(409, "username_taken")
	// One who comes back begins with nothing.
	a.do("PUT", "/v1/users/"+id, a.root, `{"username":"alice","email":"alice@example.com"}`).is(200)
	permitted(false)
	a.do("GET", "/v1/users/self", token, "").refused(401, "token_ended")
	a.claimed(a.mustKeep(a.do("POST", "/v1/users/"+id+"/claim", a.root, ""), "claim.code"))
}

// A type counts from the change on, and the keys that were made with the former
// one end.
func TestUsers_AreNoAdminsAnyMoreAtOnce(t *testing.T) {
	t.Parallel()
	a := start(t)
	made := a.do("POST", "/v1/users", a.root, `{"username":"alice","type":"admin"}`)
	own, token := a.mustKeep(made, "access_key.key"), a.claimed(a.mustKeep(made, "claim.code"))
	a.do("GET", "/v1/access_keys", token, "").is(200)
	a.do("GET", "/v1/access_keys", own, "").is(200)
	a.do("PUT", "/v1/users/"+made.text("id"), a.root, `{"username":"alice"}`).is(200)
	a.do("GET", "/v1/access_keys", token, "").refused(403, "not_permitted")
	a.do("GET", "/v1/access_keys", own, "").refused(401, "key_revoked")
}

// hooked runs a function before the first change that is made after it was set.
type hooked struct {
	authz.Record
	before *func()
}

func (h hooked) Change(ctx context.Context, c authz.Change, do func(authz.Tx) (audit.Draft, error)) error {
	if f := *h.before; f != nil {
		*h.before = nil
		f()
	}
	return h.Record.Change(ctx, c, do)
}

// The attack: a change is begun with a credential that ends before it is made.
func TestPeople_CredentialsAreCheckedAgainWithinTheChange(t *testing.T) {
	t.Parallel()
	var before func()
	a := start(t, func(o *options) { o.record = func(r authz.Record) authz.Record { return hooked{r, &before} } })
	for name, end := range map[string]func(p human){
		"the token ends":     func(p human) { a.endTokens(p) },
		"the person leaves":  func(p human) { a.exec(`UPDATE persons SET active = 0 WHERE id = '` + p.id + `'`) },
		"is an admin before": func(p human) { a.exec(`UPDATE persons SET type = 'user' WHERE id = '` + p.id + `'`) },
	} {
		admin := a.person("admin-"+strings.ReplaceAll(name, " ", "-"), "admin")
		before = func() { end(admin) }
		a.do("POST", "/v1/access_keys", admin.token, newKeyBody(`{"decision":true}`)).refused(401, "invalid_credential")
	}
}

func (a *api) endTokens(p human) {
	a.exec(`UPDATE person_secrets SET ends_at = 1 WHERE person_id = '` + p.id + `'`)
}

func TestTokens_AreFiveAndLastNinetyDays(t *testing.T) {
	t.Parallel()
	a := start(t)
	alice := a.person("alice", "user")
	for range 4 {
		a.clock.advance(time.Hour)
		a.keep(a.do("POST", "/v1/personal_tokens", alice.token, `{"name":"x"}`).is(201).text("token"))
	}
	a.do("POST", "/v1/personal_tokens", alice.token, `{"name":"x"}`).refused(409, "too_many_tokens")
	a.clock.advance(people.TokenLife - 4*time.Hour - time.Second)
	a.do("GET", "/v1/users/self", alice.token, "").is(200)
	a.clock.advance(time.Second)
	a.do("GET", "/v1/users/self", alice.token, "").refused(401, "token_ended")
	if n := a.do("GET", "/v1/personal_tokens?user_id="+alice.id, a.root, "").is(200).get("personal_tokens.#").Int(); n != 4 {
		t.Errorf("%d tokens have not ended", n)
	}
	bob := a.person("bob", "user")
	tokens := a.do("GET", "/v1/personal_tokens", bob.token, "").is(200)
	a.do("DELETE", "/v1/personal_tokens/"+tokens.text("personal_tokens.0.id")+"?user_id="+bob.id, a.root, "").is(204)
	a.do("GET", "/v1/users/self", bob.token, "").refused(401, "token_ended")
}

func TestUsers_AreMadeWithoutAKeyWhereThereIsNoRoom(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.maxActive = 1 })
	first := a.do("POST", "/v1/users", a.root, `{"username":"alice"}`)
	a.mustKeep(first, "access_key.key")
	a.mustKeep(first, "claim.code")
	second := a.do("POST", "/v1/users", a.root, `{"username":"bob"}`).is(201)
	if second.get("access_key").Type != gjson.Null || second.text("warnings.0.code") != "too_many_keys" {
		t.Errorf("%s", second.body)
	}
	a.claimed(a.mustKeep(second, "claim.code"))
}

// A repeated request gets the same answer, to whichever credential of a person; a
// claim code's answer only to who knows code and Idempotency-Key.
func TestPeople_RepeatedRequestsAreAnsweredOnce(t *testing.T) {
	t.Parallel()
	a := start(t)
	once := []string{"Idempotency-Key", "1"}
	made := a.do("POST", "/v1/users", a.root, `{"username":"alice","type":"admin"}`, once...)
	if again := a.do("POST", "/v1/users", a.root, `{"username":"alice","type":"admin"}`, once...).is(201); again.body != made.body {
		t.Error("another answer")
	}
	a.mustKeep(made, "access_key.key")
	body := `{"claim_code":"` + a.mustKeep(made, "claim.code") + `","name":"x"}`
	token := a.keep(a.do("POST", "/v1/personal_tokens", "", body, once...).is(201).text("token"))
	if again := a.do("POST", "/v1/personal_tokens", "", body, once...).is(201); again.text("token") != token {
		t.Error("another token")
	}
	a.do("POST", "/v1/personal_tokens", "", body).refused(401, "invalid_credential")
	a.do("POST", "/v1/personal_tokens", "", body, "Idempotency-Key", "2").refused(401, "invalid_credential")
	a.do("POST", "/v1/personal_tokens", "", strings.Replace(body, `"x"`, `"y"`, 1), once...).refused(422, "idempotency_mismatch")

	other := a.keep(a.do("POST", "/v1/personal_tokens", token, `{"name":"other"}`).is(201).text("token"))
	first := a.made(a.do("POST", "/v1/access_keys", token, newKeyBody(`{"decision":true}`), once...))
	if second := a.made(a.do("POST", "/v1/access_keys", other, newKeyBody(`{"decision":true}`), once...)); second != first {
		t.Error("another key for the same person")
	}
	bob := a.person("bob", "admin")
	if third := a.made(a.do("POST", "/v1/access_keys", bob.token, newKeyBody(`{"decision":true}`), once...)); third.id == first.id {
		t.Error("the key of somebody else")
	}
}

func TestGroups_KeepTheirOrder(t *testing.T) {
	t.Parallel()
	a := start(t)
	var ids []string
	for i := range 4 {
		ids = append(ids, a.person(fmt.Sprint("p", i), "user").id)
	}
	ids = append(ids, authz.Bot)
	slices.SortFunc(ids, func(x, y string) int { return strings.Compare(y, x) }) // not the order of ids
	body := func(ids ...string) string {
		return `{"name":"g","member_ids":["` + strings.Join(ids, `","`) + `"]}`
	}
	members := func(r *reply) string { return strings.Join(texts(r.is(r.status).get("member_ids")), " ") }
	made := a.do("POST", "/v1/groups", a.root, body(ids...)).is(201)
	at := "/v1/groups/" + made.text("id")
	for _, step := range []struct {
		method, path, body string
		want               []string
	}{
		{"GET", at, "", ids},
		{"PUT", at + "/members/" + ids[1], "", ids}, // stays in place
		{"DELETE", at + "/members/" + ids[1], "", nil},
		{"GET", at, "", []string{ids[0], ids[2], ids[3], ids[4]}},
		{"PUT", at + "/members/" + ids[1], "", []string{ids[0], ids[2], ids[3], ids[4], ids[1]}},
		{"PUT", at, body(ids...), ids},
		{"PUT", at, body(ids[4], ids[0]), []string{ids[4], ids[0]}},
		{"GET", at, "", []string{ids[4], ids[0]}},
	} {
		r := a.do(step.method, step.path, a.root, step.body)
		if step.want == nil {
			r.is(204)
			continue
		}
		if got := members(r.is(200)); got != strings.Join(step.want, " ") {
			t.Errorf("%s %s: %s, want %s", step.method, step.path, got, step.want)
		}
	}
	a.do("PUT", at, a.root, body(ids[0], ids[0])).refused(400, "duplicate_item", "/member_ids/1")
	a.do("PUT", at, a.root, body("BOT")).refused(400, "invalid_id", "/member_ids/0")
	for _, nobody := range []string{"nobody", "11111111-2222-4333-8444-555555555555"} {
		a.do("PUT", at+"/members/"+nobody, a.root, "").refused(404, "user_not_found") // not a fault of a body that there is none of
	}
	gone := a.person("gone", "user").id
	a.do("DELETE", "/v1/users/"+gone, a.root, "").is(204)
	a.do("PUT", at+"/members/"+gone, a.root, "").refused(409, "person_inactive")
	a.do("DELETE", at+"/members/"+ids[1], a.root, "").refused(404, "member_not_found")
}

func texts(list gjson.Result) (all []string) {
	for _, v := range list.Array() {
		all = append(all, v.String())
	}
	return all
}

func TestEntitlements_GiveApplicationResourcesOnly(t *testing.T) {
	t.Parallel()
	a := start(t)
	app := a.do("POST", "/v1/applications", a.root, `{"name":"app"}`).is(201).text("id")
	other := a.do("POST", "/v1/applications", a.root, `{"name":"other"}`).is(201).text("id")
	with := func(more string) string { return `{"app_id":"` + app + `","name":"e",` + more + `}` }
	for more, want := range map[string]string{
		`"entries":{"decision":true}`: "/entries/decision", `"entries":{"sets":[{"f":"*","p":2}]}`: "/entries/sets", `"entries":{}`: "/entries", `"entries":{"host":[{"f":"x","p":16}]}`: "/entries/host/0/p",
		`"entries":{"host":[{"f":"*","p":2}]},"claims":{"g":"x"}`: "/claims/g", `"entries":{"host":[{"f":"*","p":2}]},"claims":{"g":[7]}`: "/claims/g/0",
		`"entries":{"host":[{"f":"*","p":2}]},"claims":{"":[]}`: "/claims/", `"claims":{}`: "/entries",
		`"entries":{"host":[{"f":"*","p":2}]},"claims":{"g":["` + authz.NewClaimCode().Reveal() + `"]}`: "/claims/g/0",
	} {
		r := a.do("POST", "/v1/entitlements", a.root, with(more)).is(400)
		if !slices.Contains(texts(r.get("errors.#.pointer")), want) {
			t.Errorf("%s: %s, want a fault at %s", more, r.body, want)
		}
	}
	made := a.do("POST", "/v1/entitlements", a.root, with(`"entries":{"host":[{"a":["login"],"f":"*"}]},"claims":{"b":["2","1"],"a":[]}`)).is(201)
	if made.get("claims").Raw != `{"a":[],"b":["2","1"]}` {
		t.Errorf("%s", made.body)
	}
	a.do("PUT", "/v1/entitlements/"+made.text("id"), a.root, `{"app_id":"`+other+`","name":"e","entries":{"host":[{"f":"*","p":2}]}}`).refused(400, "immutable_member", "/app_id")
	group := a.do("POST", "/v1/groups", a.root, `{"name":"g","entitlement_ids":["`+made.text("id")+`"]}`).is(201).text("id")
	a.do("DELETE", "/v1/entitlements/"+made.text("id"), a.root, "").refused(409, "entitlement_in_use")
	a.do("DELETE", "/v1/applications/"+app, a.root, "").refused(409, "application_in_use")
	a.do("DELETE", "/v1/groups/"+group, a.root, "").is(204)
	a.do("DELETE", "/v1/entitlements/"+made.text("id"), a.root, "").is(204)
	a.do("DELETE", "/v1/applications/"+app, a.root, "").is(204)
}

// Refusals of a person are in the trail of the person's customer.
func TestPeople_RefusalsAreTheirs(t *testing.T) {
	t.Parallel()
	a := start(t)
	alice := a.person("alice", "user")
	a.do("GET", "/v1/webhooks", alice.token, "").refused(403, "not_permitted")
	a.do("DELETE", "/v1/users/"+alice.id, a.root, "").is(204)
	a.do("GET", "/v1/users/self", alice.token, "").refused(401, "person_inactive")
	if _, err := a.refusals.RunOnce(context.Background(), latchkey.InstantOf(a.clock.now()), true); err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, e := range a.events("default") {
		if e.Get("outcome").String() == "refused" && e.Get("actor.id").String() == alice.id {
			told[e.Get("action").String()+" "+e.Get("reason").String()] = true
		}
	}
	if !told["webhook.read not_permitted"] || !told["user.read person_inactive"] {
		t.Errorf("told: %v", told)
	}
}
