package main

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// customer is the example's.
const customer = "123456"

// example is the worked example, its metadata inside scopes as it stands there.
const example = `{"scopes":{"customer":{"decision":true,"access_keys":["*"],"policies":[{"f":"*","p":2},{"f":"staging","p":4}]},` +
	`"metadata":{"username":"dale.cooper","keyname":"dashboard_dale.cooper"}}}`

const (
	allow       = "allow"
	denyScope   = "deny scope_missing"
	denyValue   = "deny value_not_permitted"
	get         = http.MethodGet
	post        = http.MethodPost
	del         = http.MethodDelete
	nobody      = "00000000-0000-4000-8000-000000000000"
	asCustomer  = "X-Customer-ID"
	accessKeys  = "/v1/access_keys"
	auditing    = "/v1/auditing"
	staging     = "staging"
	policies    = "policies"
	sets        = "sets"
	stringsOnly = "^string$"
)

// everything walks the example from end to end.
func (w *walk) everything() error {
	k, other, err := w.begin()
	if err != nil {
		return err
	}
	w.may(k)
	w.mayNot(k, other)
	return errors.Join(w.restrictions(), w.keys(k), w.refusedKeys(), w.limit(), w.revocation(), w.expiry(), w.grants())
}

// begin makes the customer, the example key, and a key for it to look at.
func (w *walk) begin() (k, other key, err error) {
	w.part = "The example key is made"
	w.http("POST /v1/customers, by root", "201", w.root, post, "/v1/customers", `{"name":"Dale's","id":"`+customer+`"}`)
	r := w.http("POST /v1/access_keys as in the example, by root", "201", w.root, post, accessKeys, example, asCustomer, customer)
	id, _ := r.at("id").(string)
	secret, _ := r.at("key").(string)
	if k = (key{id, secret}); id == "" || secret == "" {
		return k, other, fmt.Errorf("the example key was not made: %s", r.text)
	}
	var missing []string
	for _, name := range []string{"id", "customer_id", "key", "scopes", "metadata", "expires_at", "created_at", "revoked_at"} {
		if _, ok := r.body[name]; !ok {
			missing = append(missing, name)
		}
	}
	w.add("the reply has every member", "HTTP", "missing []", fmt.Sprint("missing ", missing))
	w.add("… and the customer's id", "HTTP", customer, fmt.Sprint(r.at("customer_id")))
	w.add("… and the metadata", "HTTP", "dashboard_dale.cooper", fmt.Sprint(r.at("metadata", "keyname")))
	w.add("… and is neither expiring nor revoked", "HTTP", "<nil> <nil>", fmt.Sprint(r.at("expires_at"), " ", r.at("revoked_at")))
	w.http("PATCH /v1/customers/"+customer+", by root", "200", w.root, http.MethodPatch, "/v1/customers/"+customer, `{"name":"Dale's customer"}`)
	other, err = w.make(customer, newKey(`"decision":true,"doc":[{"f":"/todos/*","p":14,"a":["lock"]}]`))
	return k, other, err
}

// may walks the five bullets of what the example key is permitted.
func (w *walk) may(k key) {
	w.part = "It may: call any /decision endpoint"
	own := question(k.id, "read", policies, "main", "")
	w.http("POST /decision", "200", k.secret, post, "/decision", own)
	w.http("POST /decision/batch", "200", k.secret, post, "/decision/batch", `{"evaluations":[`+own+`]}`)
	w.http("POST /decision/explain", "200", k.secret, post, "/decision/explain", own)
	w.http("POST /decision/{policy}: let in, there is no such policy", "404 policy_not_found", k.secret, post, "/decision/main", own)

	w.part = "It may: call GET /v1/access_keys"
	r := w.http("GET /v1/access_keys", "200", k.secret, get, accessKeys, "")
	w.add("… it sees both keys of the customer", "HTTP", "2", fmt.Sprint(r.at("total")))
	w.add("… and no secret", "HTTP", "false", fmt.Sprint(strings.Contains(r.text, `"key":`)))

	w.part = "It may: call any /v1/auditing endpoint"
	r = w.http("GET /v1/auditing", "200", k.secret, get, auditing, "")
	w.add("… and sees events about access keys only", "HTTP", "[access_key]", fmt.Sprint(resourceTypes(r)))
	event, _ := r.at("events", "id").(string)
	w.http("GET /v1/auditing/{id}", "200", k.secret, get, auditing+"/"+event, "")
	r = w.http("POST /v1/auditing/verify", "200", k.secret, post, auditing+"/verify", "")
	w.add("… the chain of events holds", "HTTP", "true", fmt.Sprint(r.at("holds")))

	w.part = "It may: call GET /v1/policies and GET /v1/policies/{policyname}"
	for _, name := range []string{"main", staging, "made-later"} {
		w.ask("GET /v1/policies/"+name, allow, k, "read", policies, name, "")
	}
	w.part = "It may: call PUT and GET /v1/policies/staging"
	w.ask("PUT /v1/policies/staging", allow, k, "update", policies, staging, "")
	w.ask("GET /v1/policies/staging", allow, k, "read", policies, staging, "")
}

// resourceTypes lists what kinds of resource the events are about.
func resourceTypes(r reply) (types []string) {
	events, _ := r.at("events").([]any)
	for _, e := range events {
		typ := fmt.Sprint(reply{body: map[string]any{"e": e}}.at("e", "resource", "type"))
		if !slices.Contains(types, typ) {
			types = append(types, typ)
		}
	}
	return types
}

// mayNot walks what the example key must not do.
func (w *walk) mayNot(k, other key) {
	w.part = "It may not: anything else on policies"
	w.ask("POST /v1/policies", denyScope, k, "create", policies, "new", "")
	w.ask("POST /v1/policies, named staging", denyScope, k, "create", policies, staging, "")
	w.ask("PUT /v1/policies/main", denyScope, k, "update", policies, "main", "")
	w.ask("PUT /v1/policies/staging2", denyScope, k, "update", policies, "staging2", "")
	w.ask("PUT /v1/policies/Staging", denyScope, k, "update", policies, "Staging", "")
	w.ask("DELETE /v1/policies/staging", denyScope, k, "delete", policies, staging, "")
	w.ask("DELETE /v1/policies/main", denyScope, k, "delete", policies, "main", "")

	w.part = "It may not: touch sets, bundles, other types"
	for _, action := range []string{"read", "create", "update", "delete"} {
		w.ask(action+" a set", denyScope, k, action, sets, staging, values("string", "A.B"))
	}
	w.ask("read a bundle", denyScope, k, "read", "bundles", "main", "")
	w.ask("read an application's document", denyScope, k, "read", "doc", "/todos/1", "")
	w.ask("booleans and access_keys are no rights in a decision", denyScope, k, "read", "access_keys", "*", "")

	w.part = "It may not: make, rotate or end keys"
	w.http("POST /v1/access_keys", "403 access_keys_cannot_create", k.secret, post, accessKeys, newKey(`"decision":true`))
	w.http("POST /v1/access_keys/{its own}/rotate", "403 access_keys_cannot_create", k.secret, post, accessKeys+"/"+k.id+"/rotate", `{}`)
	w.http("DELETE /v1/access_keys/{another}", "403 not_permitted", k.secret, del, accessKeys+"/"+other.id, "")

	w.part = "It may not: leave its customer"
	w.http("GET /v1/access_keys of another customer", "403 wrong_customer", k.secret, get, accessKeys, "", asCustomer, "default")
	w.http("GET /v1/customers", "403 not_permitted", k.secret, get, "/v1/customers", "")
	w.http("POST /v1/root/rotate", "403 not_permitted", k.secret, post, "/v1/root/rotate", "")
	w.http("GET /v1/auditing?chain=system", "403 not_permitted", k.secret, get, auditing+"?chain=system", "")
	w.http("POST /decision/explain about a person", "403 not_permitted", k.secret, post, "/decision/explain",
		`{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"policies","id":"main"}}`)

	w.part = "A key without decision and access_keys"
	poor, err := w.make(customer, newKey(`"policies":[{"f":"*","p":2}]`))
	if err != nil {
		w.add("made", "HTTP", "201", err.Error())
		return
	}
	w.http("POST /decision", "403 scope_missing", poor.secret, post, "/decision", question(poor.id, "read", policies, "main", ""))
	w.http("GET /v1/access_keys", "403 scope_missing", poor.secret, get, accessKeys, "")
	w.http("GET /v1/auditing", "403 scope_missing", poor.secret, get, auditing, "")
	w.http("GET /v1/access_keys/self", "200", poor.secret, get, accessKeys+"/self", "")
}

// restrictions walks the examples of restrictions on the values of sets.
func (w *walk) restrictions() error {
	const of = "sets"
	if r, err := w.call(w.root, post, "/v1/customers", `{"name":"sets","id":"`+of+`"}`); err != nil || r.status != http.StatusCreated {
		return fmt.Errorf("make a customer: %w: %s", err, r.text)
	}
	w.part = "Sets: a restriction on type and values"
	example := `{"scopes":{"customer":{"decision":true,"access_keys":["*"],"sets":[{"f":"*","p":15,"r":{"entity_type":"^string$","filter":"^[A-Z]+\\.[A-Z]+$"}}]}}`
	w.http("POST /v1/access_keys as in the example, which lacks metadata", "400 missing_metadata", w.root, post, accessKeys, example+`}`, asCustomer, of)
	k, err := w.make(of, example+`,"metadata":{"username":"dale.cooper","keyname":"sets"}}`)
	if err != nil {
		return err
	}
	w.ask("read a set", allow, k, "read", sets, "any", "")
	w.ask("create a set of strings with ABC.DEF", allow, k, "create", sets, "any", values("string", "ABC.DEF"))
	w.ask("delete a set that holds ABC.DEF", allow, k, "delete", sets, "any", `{"entity_type":"string","removed_values":["ABC.DEF"]}`)
	w.ask("update a set of ip", denyValue, k, "update", sets, "any", values("ip", "100.1.2.3"))
	w.ask("update, giving no values", denyValue, k, "update", sets, "any", "")
	w.ask("one bad value among good ones", denyValue, k, "update", sets, "any", values("string", "A.B", "a.b"))
	w.ask("removing a value that it may not write", denyValue, k, "update", sets, "any", `{"entity_type":"string","values":["A.B"],"removed_values":["ab"]}`)

	for _, f := range []struct {
		title, entityType, filter, of string
		admitted, blocked             []string
	}{
		{"Sets: CAPITALS.CAPITALS", stringsOnly, `^[A-Z]+\.[A-Z]+$`, "string",
			[]string{"ABC.DEF", "A.B"}, []string{"ABC", "abc.def", "A.B.C", "ABC.", ".DEF", "A.B\n", "A1.B"}},
		{"Sets: three capitals, a dash, up to three capitals", stringsOnly, `^[A-Z]{3}-[A-Z]{1,3}$`, "string",
			[]string{"ABC-A", "ABC-AB", "ABC-ABC"}, []string{"ABC-", "ABC-ABCD", "AB-ABC", "ABCD-A", "abc-a"}},
		{"Sets: ip addresses; the regex admits just the octets it spells", "^ip$", `^[0-1][0-3][0-5]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}$`, "ip",
			[]string{"100.1.2.3", "135.255.0.0", "125.10.20.30", "::ffff:100.1.2.3"},
			[]string{"10.0.0.1", "99.1.1.1", "0.0.0.1", "106.1.1.1", "136.1.1.1", "140.1.1.1", "200.1.1.1", "999.999.999.999", "100.1.2", "2001:db8::1"}},
		{"Sets: a filter that is meaningless for uint blocks all values", "^uint$", `^[A-Z]{1,5}$`, "uint",
			nil, []string{"1", "12345", "ABC"}},
	} {
		w.part = f.title
		if k, err = w.make(of, newKey(restricted(f.entityType, f.filter))); err != nil {
			return err
		}
		for _, v := range f.admitted {
			w.ask(fmt.Sprintf("write %q", v), allow, k, "update", sets, "any", values(f.of, v))
		}
		for _, v := range f.blocked {
			w.ask(fmt.Sprintf("write %q", v), denyValue, k, "update", sets, "any", values(f.of, v))
		}
	}

	w.part = "Selectors and permissions: sets {team-*, 4}, {public, 2}"
	if k, err = w.make(of, newKey(`"decision":true,"sets":[{"f":"team-*","p":4},{"f":"public","p":2}]`)); err != nil {
		return err
	}
	w.ask("update team-a", allow, k, "update", sets, "team-a", values("string", "x"))
	w.ask("update team-, the prefix itself", allow, k, "update", sets, "team-", values("string", "x"))
	w.ask("read team-a: Update implies Read", allow, k, "read", sets, "team-a", "")
	w.ask("read public", allow, k, "read", sets, "public", "")
	w.ask("read private: the implied Read stays on its selector", denyScope, k, "read", sets, "private", "")
	w.ask("update public", denyScope, k, "update", sets, "public", values("string", "x"))
	w.ask("delete team-a", denyScope, k, "delete", sets, "team-a", values("string", "x"))
	w.ask("create team-b: Create needs the selector *", denyScope, k, "create", sets, "team-b", values("string", "x"))
	return nil
}

// keys walks the endpoints that show keys.
func (w *walk) keys(k key) error {
	w.part = "Showing keys"
	one := w.http("GET /v1/access_keys/{id}", "200", k.secret, get, accessKeys+"/"+k.id, "")
	w.add("… it is that key", "HTTP", k.id, fmt.Sprint(one.at("id")))
	w.http("GET /v1/access_keys/{unknown}", "404 key_not_found", k.secret, get, accessKeys+"/"+nobody, "")
	w.http("GET /v1/access_keys/{malformed}", "404 key_not_found", k.secret, get, accessKeys+"/7", "")
	r := w.http("GET ?limit=1&offset=1&sort_direction=asc", "200", k.secret, get, accessKeys+"?limit=1&offset=1&sort_field=created_at&sort_direction=asc", "")
	w.add("… limit, offset and total are told", "HTTP", "1 1 3", fmt.Sprint(r.at("limit"), " ", r.at("offset"), " ", r.at("total")))
	r = w.http("GET ?metadata.username=nobody", "200", k.secret, get, accessKeys+"?metadata.username=nobody", "")
	w.add("… finds none", "HTTP", "0", fmt.Sprint(r.at("total")))
	w.http("GET ?status=gone", "400 invalid_parameter", k.secret, get, accessKeys+"?status=gone", "")
	w.http("no credential that holds", "401 invalid_credential", "nonsense", get, accessKeys, "")
	seer, err := w.make(customer, newKey(`"access_keys":["decision","access_keys"]`))
	if err != nil {
		return err
	}
	r = w.http("GET by a key with access_keys [decision, access_keys]", "200", seer.secret, get, accessKeys, "")
	w.add("… it sees itself alone", "HTTP", "1", fmt.Sprint(r.at("total")))
	w.http("… and not the example key", "404 key_not_found", seer.secret, get, accessKeys+"/"+k.id, "")
	return nil
}

// refusedKeys walks what a key cannot be made of.
func (w *walk) refusedKeys() error {
	w.part = "Keys that cannot be made"
	entry := func(e string) string { return newKey(`"policies":[` + e + `]`) }
	many := strings.TrimSuffix(strings.Repeat(`{"f":"a","p":2},`, 11), ",")
	for _, f := range []struct{ tried, want, body string }{
		{"Create on an exact selector", "create_needs_all", entry(`{"f":"staging","p":1}`)},
		{"Create on a prefix", "create_needs_all", entry(`{"f":"stag*","p":7}`)},
		{"p = 0", "invalid_permission", entry(`{"f":"*","p":0}`)},
		{"p = 16", "invalid_permission", entry(`{"f":"*","p":16}`)},
		{"p = -1", "invalid_permission", entry(`{"f":"*","p":-1}`)},
		{"p = 7.0", "invalid_permission", entry(`{"f":"*","p":7.0}`)},
		{`p = "7"`, "invalid_permission", entry(`{"f":"*","p":"7"}`)},
		{`f = ""`, "invalid_selector", entry(`{"f":"","p":2}`)},
		{`f = "a*b"`, "invalid_selector", entry(`{"f":"a*b","p":2}`)},
		{"eleven entries", "too_many_entries", entry(many)},
		{"r on policies", "restriction_not_allowed", entry(`{"f":"*","p":2,"r":{"filter":"x"}}`)},
		{"a filter that is no regex", "invalid_regex", newKey(`"sets":[{"f":"*","p":4,"r":{"filter":"["}}]`)},
		{`access_keys ["nonsense"]`, "invalid_access_keys", newKey(`"access_keys":["nonsense"]`)},
		{"no scopes", "missing_scopes", `{"metadata":{"username":"a","keyname":"b"}}`},
		{"scopes that give nothing", "empty_scopes", newKey(`"decision":false`)},
		{"no metadata", "missing_metadata", `{"scopes":{"customer":{"decision":true}}}`},
		{"no keyname", "missing_metadata", `{"scopes":{"customer":{"decision":true}},"metadata":{"username":"a"}}`},
		{"a blank username", "missing_metadata", `{"scopes":{"customer":{"decision":true}},"metadata":{"username":" ","keyname":"b"}}`},
		{"An end in the past", "expiry_in_past", `{"scopes":{"customer":{"decision":true}},"metadata":{"username":"a","keyname":"b"},"expires_at":"2022-12-31T23:59:59Z"}`},
		{"An end that is no time", "invalid_timestamp", `{"scopes":{"customer":{"decision":true}},"metadata":{"username":"a","keyname":"b"},"expires_at":"tomorrow"}`},
		{"a member twice", "duplicate_name", `{"scopes":{"customer":{"decision":false,"decision":true}},"metadata":{"username":"a","keyname":"b"}}`},
	} {
		w.http(f.tried, "400 "+f.want, w.root, post, accessKeys, f.body, asCustomer, customer)
	}
	for _, p := range []string{"1", "3", "7", "15"} {
		r := w.http("Create on *: p = "+p, "201", w.root, post, accessKeys, entry(`{"f":"*","p":`+p+`}`), asCustomer, customer)
		if id, ok := r.at("id").(string); ok { // makes room for the next
			if _, err := w.call(w.root, del, accessKeys+"/"+id, "", asCustomer, customer); err != nil {
				return err
			}
		}
	}
	return nil
}

// limit walks the limit of ten active keys.
func (w *walk) limit() error {
	w.part = "A customer has at most 10 active keys"
	const of = "limit"
	if r, err := w.call(w.root, post, "/v1/customers", `{"name":"limit","id":"`+of+`"}`); err != nil || r.status != http.StatusCreated {
		return fmt.Errorf("make a customer: %w: %s", err, r.text)
	}
	body := newKey(`"decision":true`)
	var last key
	made := 0
	for made < 10 {
		var err error
		if last, err = w.make(of, body); err != nil {
			break
		}
		made++
	}
	w.add("POST /v1/access_keys, ten times", "HTTP", "10 made", fmt.Sprint(made, " made"))
	w.http("the eleventh", "500 too_many_keys", w.root, post, accessKeys, body, asCustomer, of)
	w.http("another customer is not concerned", "201", w.root, post, accessKeys, body, asCustomer, "default")
	w.http("one is revoked", "204", w.root, del, accessKeys+"/"+last.id, "", asCustomer, of)
	w.http("one more", "201", w.root, post, accessKeys, body, asCustomer, of)
	w.http("and no other", "500 too_many_keys", w.root, post, accessKeys, body, asCustomer, of)
	return nil
}

// revocation walks the end of a key by DELETE.
func (w *walk) revocation() error {
	w.part = "Revocation is seen at once"
	k, err := w.make(customer, newKey(`"decision":true,"policies":[{"f":"*","p":2}]`))
	if err != nil {
		return err
	}
	rootAsks := func(tried, want string) {
		r, err := w.call(w.root, post, "/decision", question(k.id, "read", policies, "main", ""), asCustomer, customer)
		w.add(tried, "/decision", want, verdict(r, err))
	}
	w.http("the key is let in", "200", k.secret, get, accessKeys+"/self", "")
	rootAsks("it may read", allow)
	r := w.http("DELETE /v1/access_keys/{id}, by root", "204", w.root, del, accessKeys+"/"+k.id, "", asCustomer, customer)
	w.add("… without a body", "HTTP", "0 bytes", fmt.Sprint(len(r.text), " bytes"))
	w.http("the next request with it", "401 key_revoked", k.secret, get, accessKeys+"/self", "")
	rootAsks("the next decision about it", "deny key_revoked")
	w.http("DELETE again", "409 already_revoked", w.root, del, accessKeys+"/"+k.id, "", asCustomer, customer)
	w.http("DELETE of an unknown key", "404 key_not_found", w.root, del, accessKeys+"/"+nobody, "", asCustomer, customer)
	r = w.http("GET ?status=revocked", "200", w.root, get, accessKeys+"?status=revocked&sort_field=revoked_at", "", asCustomer, customer)
	w.add("… the last one comes first", "HTTP", k.id, fmt.Sprint(r.at("access_keys", "id")))
	r = w.http("GET, the active ones", "200", w.root, get, accessKeys+"?limit=100", "", asCustomer, customer)
	w.add("… it is not among them", "HTTP", "false", fmt.Sprint(strings.Contains(r.text, k.id)))
	if k, err = w.make(customer, newKey(`"decision":true`)); err != nil {
		return err
	}
	r = w.http("DELETE of itself, with Prefer: return=representation", "200", k.secret, del, accessKeys+"/"+k.id, "", "Prefer", "return=representation")
	w.add("… the record tells when", "HTTP", "true", fmt.Sprint(r.at("revoked_at") != nil))
	w.http("the next request with it", "401 key_revoked", k.secret, get, accessKeys+"/self", "")
	return nil
}

// lifetime of the key that expires while the demonstration waits.
const lifetime = 1500 * time.Millisecond

// expiry walks the end of a key by its expires_at. Its customer may have one
// active key.
func (w *walk) expiry() error {
	const customer = "short"
	if r, err := w.call(w.root, post, "/v1/customers", `{"name":"short","id":"`+customer+`","max_active_keys":1}`); err != nil || r.status != http.StatusCreated {
		return fmt.Errorf("make a customer: %w: %s", err, r.text)
	}
	w.part = "An end in time"
	end := time.Now().Add(lifetime)
	k, err := w.make(customer, `{"scopes":{"customer":{"decision":true,"policies":[{"f":"*","p":2}]}},"metadata":{"username":"dale.cooper","keyname":"short"},"expires_at":"`+end.Format(time.RFC3339Nano)+`"}`)
	if err != nil {
		return err
	}
	ask := question(k.id, "read", policies, "main", "")
	r, err := w.call(k.secret, post, "/decision", ask)
	w.add("before its end: may it read?", "/decision", allow, verdict(r, err))
	until, _ := r.at("context", "expires_at").(string)
	at, err := time.Parse(time.RFC3339Nano, until)
	w.add("… the answer may be reused until then at most", "/decision", "true", fmt.Sprint(err == nil && !at.After(end)))
	another := newKey(`"decision":true`)
	w.http("before its end: another key, where one is the limit", "500 too_many_keys", w.root, post, accessKeys, another, asCustomer, customer)
	select {
	case <-w.ctx.Done():
		return w.ctx.Err()
	case <-time.After(time.Until(end)):
	}
	w.http("after its end: a request with it", "401 key_expired", k.secret, get, accessKeys+"/self", "")
	r, err = w.call(w.root, post, "/decision", ask, asCustomer, customer)
	w.add("after its end: may it read?", "/decision", "deny key_expired", verdict(r, err))
	w.http("DELETE of an expired key", "204", w.root, del, accessKeys+"/"+k.id, "", asCustomer, customer)
	r = w.http("after its end: another key", "201", w.root, post, accessKeys, another, asCustomer, customer)
	w.add("… without expires_at it is valid until it is revoked", "HTTP", "<nil>", fmt.Sprint(r.at("expires_at")))
	return nil
}

// grants walks a right for a while: of a key that manages, and of a person.
func (w *walk) grants() error {
	const of, path = "grants", "/v1/grants"
	if r, err := w.call(w.root, post, "/v1/customers", `{"name":"grants","id":"`+of+`"}`); err != nil || r.status != http.StatusCreated {
		return fmt.Errorf("make a customer: %w: %s", err, r.text)
	}
	w.part = "A right for a while"
	k, err := w.make(of, newKey(`"decision":true,"access_requests_manage":true,"doc":[{"f":"own","p":2}]`))
	if err != nil {
		return err
	}
	end := time.Now().Add(lifetime)
	grant := func(typ, id, entries string) string {
		return `{"subject":{"type":"` + typ + `","id":"` + id + `"},"entries":{` + entries + `},"expires_at":"` + end.Format(time.RFC3339Nano) + `","reason":"on call"}`
	}
	const lent = `"doc":[{"f":"lent","p":4}]`
	person := `{"subject":{"type":"user","id":"alice"},"action":{"name":"update"},"resource":{"type":"doc","id":"lent"}}`
	asks := func(tried, want, body string) {
		r, err := w.call(k.secret, post, "/decision", body)
		w.add(tried, "/decision", want, verdict(r, err))
	}
	own := question(k.id, "update", "doc", "lent", "")
	asks("before: may alice update it?", "deny no_grant", person)
	w.http("a service gives itself a right", "403 self_approval_forbidden", k.secret, post, path, grant("access_key", k.id, lent))
	w.http("… and alice one over policies", "400 builtin_type", k.secret, post, path, grant("user", "alice", `"policies":[{"f":"*","p":2}]`))
	w.http("… and alice one over a document", "201", k.secret, post, path, grant("user", "alice", lent))
	asks("may alice update it?", allow, person)
	asks("may the service?", denyScope, own)
	r := w.http("root gives the service the same right", "201", w.root, post, path, grant("access_key", k.id, lent), asCustomer, of)
	asks("may it now?", allow, own)
	id, _ := r.at("id").(string)
	w.http("DELETE /v1/grants/{id}", "204", k.secret, del, path+"/"+id, "")
	asks("and now?", denyScope, own)
	select {
	case <-w.ctx.Done():
		return w.ctx.Err()
	case <-time.After(time.Until(end)):
	}
	asks("after its end: may alice?", "deny no_grant", person)
	w.http("DELETE of one that has ended", "409 already_ended", k.secret, del, path+"/"+id, "")
	return nil
}
