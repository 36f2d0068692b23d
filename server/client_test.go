package server_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/authz"
)

// reply is an answer, read whole.
type reply struct {
	testing.TB
	request string
	status  int
	header  http.Header
	body    string
}

// do sends one request. Headers come in pairs after the body; a body is JSON
// unless they say otherwise; a value of "-" leaves a header out.
func (a *api) do(method, path, credential, body string, headers ...string) *reply {
	a.Helper()
	r, err := a.try(method, path, credential, body, headers...)
	if err != nil {
		a.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

func (a *api) try(method, path, credential, body string, headers ...string) (*reply, error) {
	a.Helper()
	var rd *strings.Reader
	req, err := http.NewRequest(method, "http://"+a.addr+path, nil)
	if body != "" {
		rd = strings.NewReader(body)
		req, err = http.NewRequest(method, "http://"+a.addr+path, rd)
	}
	if err != nil {
		return nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if credential != "" {
		req.Header.Set("Authorization", "Bearer "+credential)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "-" {
			req.Header.Del(headers[i])
			continue
		}
		if headers[i] == "Content-Type" {
			req.Header.Del(headers[i])
		}
		req.Header.Add(headers[i], headers[i+1])
	}
	res, err := a.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close() // read whole
	text, err := readAll(res.Body)
	if err != nil {
		return nil, err
	}
	r := &reply{TB: a.TB, request: method + " " + path, status: res.StatusCode, header: res.Header, body: text}
	r.check(a)
	if method != http.MethodGet {
		a.follow()
	}
	return r, nil
}

// check holds every reply to what all replies keep.
func (r *reply) check(a *api) {
	r.Helper()
	if r.header.Get("X-Request-Id") == "" {
		r.Errorf("%s: no X-Request-ID", r.request)
	}
	if ct := r.header.Get("Content-Type"); strings.Contains(ct, "json") && ct != "application/x-ndjson" && !gjson.Valid(r.body) && !strings.HasPrefix(r.request, "HEAD ") {
		r.Errorf("%s: the body is not JSON: %s", r.request, r.body)
	}
	if r.status >= 400 && a.leaks(r.body) {
		r.Errorf("%s: a refusal shows a secret: %s", r.request, r.body)
	}
	if shown := r.get("key"); r.status != http.StatusCreated && shown.Type == gjson.String {
		r.Errorf("%s: %d shows a secret: %s", r.request, r.status, r.body)
	}
	if (r.status == 401 || r.status == 403) && !strings.HasPrefix(r.header.Get("Www-Authenticate"), `Bearer realm="latchkey"`) {
		r.Errorf("%s: %d without WWW-Authenticate", r.request, r.status)
	}
	if r.status >= 400 && !strings.Contains(r.request, " /access/v1/") && !strings.HasPrefix(r.request, "HEAD ") {
		r.checkProblem()
	}
}

// checkProblem: a refusal is a whole problem document.
func (r *reply) checkProblem() {
	r.Helper()
	if ct := r.header.Get("Content-Type"); ct != "application/problem+json" {
		r.Errorf("%s: a refusal of type %q: %s", r.request, ct, r.body)
	}
	var p struct {
		Type, Title, Detail, Code, Instance string
		Status                              int
		RequestID                           string `json:"request_id"`
		Errors                              []struct {
			Pointer, Code, Detail string
			Line, Column          int
		} `json:"errors"`
	}
	d := json.NewDecoder(strings.NewReader(r.body))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		r.Errorf("%s: %v in %s", r.request, err, r.body)
	}
	if p.Type != "urn:latchkey:problem:"+p.Code || p.Status != r.status || p.Title != http.StatusText(r.status) || p.Code == "" || p.Detail == "" ||
		p.RequestID != r.header.Get("X-Request-Id") {
		r.Errorf("%s: not a whole problem document: %s", r.request, r.body)
	}
}

func (r *reply) get(path string) gjson.Result { return gjson.Get(r.body, path) }
func (r *reply) text(path string) string      { return r.get(path).String() }

// is fails the test unless the reply has the status.
func (r *reply) is(status int) *reply {
	r.Helper()
	if r.status != status {
		r.Fatalf("%s: got %d, want %d: %s", r.request, r.status, status, r.body)
	}
	return r
}

// refused holds a reply to a status and code, and where a pointer is given to
// a fault at it.
func (r *reply) refused(status int, code string, pointer ...string) *reply {
	r.Helper()
	if r.status != status || r.text("code") != code && !strings.Contains(r.body, `"code":"`+code+`"`) {
		r.Errorf("%s: got %d, want %d %s: %s", r.request, r.status, status, code, r.body)
		return r
	}
	for _, p := range pointer {
		found := false
		for _, e := range r.get("errors").Array() {
			found = found || e.Get("pointer").String() == p && e.Get("code").String() == code
		}
		if !found {
			r.Errorf("%s: want %s at %q: %s", r.request, code, p, r.body)
		}
	}
	return r
}

// key is an access key as its maker holds it.
type key struct{ id, secret, handle string }

const everyScope = `{"decision":true,"audit_events":true,"search":true,"access_keys":["*"],"policies":[{"f":"*","p":15}],"sets":[{"f":"*","p":15}]}`

// newKeyBody is a body of POST /v1/access_keys; more are further members.
func newKeyBody(customerScopes string, more ...string) string {
	body := `{"scopes":{"customer":` + customerScopes + `},"metadata":{"username":"dale.cooper","keyname":"dale"}`
	for _, m := range more {
		body += "," + m
	}
	return body + "}"
}

// create makes a key of the default customer; headers may name another.
func (a *api) create(customerScopes string, more ...string) key {
	a.Helper()
	return a.made(a.do("POST", "/v1/access_keys", a.root, newKeyBody(customerScopes, more...)))
}

func (a *api) createFor(customer, customerScopes string, more ...string) key {
	a.Helper()
	return a.made(a.do("POST", "/v1/access_keys", a.root, newKeyBody(customerScopes, more...), "X-Customer-ID", customer))
}

func (a *api) made(r *reply) key {
	a.Helper()
	r.is(http.StatusCreated)
	return key{id: r.text("id"), secret: a.keep(r.text("key")), handle: r.text("handle")}
}

// human is somebody with a credential of their own.
type human struct{ id, username, token string }

// person makes a person of a type in the default customer, who has claimed a
// token; headers may name another customer.
func (a *api) person(username, typ string, headers ...string) human {
	a.Helper()
	if len(headers) == 0 {
		headers = []string{"X-Customer-ID", authz.DefaultCustomer}
	}
	r := a.do("POST", "/v1/users", a.root, `{"username":"`+username+`","email":"`+username+`@example.com","type":"`+typ+`"}`, headers...).is(http.StatusCreated)
	if key := r.text("access_key.key"); key != "" {
		a.keep(key)
	}
	return human{r.text("id"), username, a.claimed(a.keep(r.text("claim.code")))}
}

// claimed exchanges a claim code for a token.
func (a *api) claimed(code string) string {
	a.Helper()
	return a.keep(a.do("POST", "/v1/personal_tokens", "", `{"claim_code":"`+code+`","name":"laptop"}`).is(http.StatusCreated).text("token"))
}

func (a *api) customer(id string) {
	a.Helper()
	a.do("POST", "/v1/customers", a.root, `{"id":"`+id+`","name":"`+id+`"}`).is(http.StatusCreated)
}

// evaluation is a body of POST /decision.
func evaluation(subject, action, resourceType, resourceID string) string {
	return `{"subject":` + subject + `,"action":{"name":"` + action + `"},"resource":{"type":"` + resourceType + `","id":"` + resourceID + `"}}`
}

func subject(id string) string { return `{"type":"access_key","id":"` + id + `"}` }

// decide asks for one decision that must be made.
func (a *api) decide(credential, body string) *reply {
	a.Helper()
	return a.do("POST", "/decision", credential, body).is(http.StatusOK)
}

// events returns a chain's events, oldest first, as root sees them.
func (a *api) events(customer string) []gjson.Result {
	a.Helper()
	path, headers := "/v1/auditing?limit=1000", []string{"X-Customer-ID", customer}
	if customer == "_system" {
		path, headers = path+"&chain=system", nil
	}
	list := a.do("GET", path, a.root, "", headers...).is(http.StatusOK).get("events").Array()
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
	return list
}
