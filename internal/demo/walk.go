package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// walk is one way through the example; rows is what happened.
type walk struct {
	ctx  context.Context
	url  string
	root string
	part string
	rows []row
}

// key is an access key that was made.
type key struct{ id, secret string }

// reply is an answer of the server.
type reply struct {
	status int
	body   map[string]any
	text   string
}

// short is the status with the code of a problem document.
func (r reply) short() string {
	if code, ok := r.body["code"].(string); ok && r.status >= 400 {
		return fmt.Sprint(r.status, " ", code)
	}
	return fmt.Sprint(r.status)
}

// at follows names into the body; a list is entered at its first element.
func (r reply) at(names ...string) any {
	v := any(r.body)
	for _, name := range names {
		if list, ok := v.([]any); ok && len(list) > 0 {
			v = list[0]
		}
		object, _ := v.(map[string]any)
		v = object[name]
	}
	return v
}

// call sends one request. headers are name, value, name, value.
func (w *walk) call(bearer, method, path, body string, headers ...string) (reply, error) {
	ctx, cancel := context.WithTimeout(w.ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, w.url+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return reply{}, err
	}
	r := reply{status: resp.StatusCode, text: string(text)}
	if bytes.HasPrefix(text, []byte("{")) {
		if err := json.Unmarshal(text, &r.body); err != nil {
			return r, fmt.Errorf("%s %s: %w in %s", method, path, err, text)
		}
	}
	return r, nil
}

// add notes what came of something.
func (w *walk) add(tried, how, want, got string) {
	w.rows = append(w.rows, row{w.part, tried, how, want, got})
}

// http makes a call and expects a status, with the code where it is a refusal.
func (w *walk) http(tried, want, bearer, method, path, body string, headers ...string) reply {
	r, err := w.call(bearer, method, path, body, headers...)
	got := r.short()
	if err != nil {
		got = err.Error()
	}
	w.add(tried, "HTTP", want, got)
	return r
}

// question is a decision request about an access key.
func question(id, action, typ, name, properties string) string {
	if properties != "" {
		properties = `,"properties":` + properties
	}
	return fmt.Sprintf(`{"subject":{"type":"access_key","id":%q},"action":{"name":%q},"resource":{"type":%q,"id":%q%s}}`, id, action, typ, name, properties)
}

// ask asks /decision, as the key itself, whether it may do it, and expects
// "allow", or "deny" with the first reason.
func (w *walk) ask(tried, want string, k key, action, typ, name, properties string) {
	r, err := w.call(k.secret, http.MethodPost, "/decision", question(k.id, action, typ, name, properties))
	w.add(tried, "/decision", want, verdict(r, err))
}

func verdict(r reply, err error) string {
	switch {
	case err != nil:
		return err.Error()
	case r.status != http.StatusOK:
		return r.short()
	case r.body["decision"] == true:
		return "allow"
	}
	return fmt.Sprint("deny ", r.at("context", "reasons", "code"))
}

// make makes an access key as root, which the table does not show.
func (w *walk) make(customer, body string) (key, error) {
	r, err := w.call(w.root, http.MethodPost, "/v1/access_keys", body, "X-Customer-ID", customer)
	if err != nil {
		return key{}, err
	}
	id, secret := r.at("id"), r.at("key")
	if r.status != http.StatusCreated || id == nil || secret == nil {
		return key{}, fmt.Errorf("make a key for %s: %d %s", customer, r.status, r.text)
	}
	return key{id.(string), secret.(string)}, nil
}

// newKey is the body that makes a key of these scopes.
func newKey(scopes string) string {
	return `{"scopes":{"customer":{` + scopes + `}},"metadata":{"username":"dale.cooper","keyname":"demo"}}`
}

// restricted are the scopes of a key that may write to any set what the
// restriction admits.
func restricted(entityType, filter string) string {
	return fmt.Sprintf(`"decision":true,"sets":[{"f":"*","p":15,"r":{"entity_type":%q,"filter":%q}}]`, entityType, filter)
}

// values are the properties of a write to a set.
func values(entityType string, added ...string) string {
	text, err := json.Marshal(added)
	if err != nil {
		panic(err) // strings always marshal
	}
	return fmt.Sprintf(`{"entity_type":%q,"values":%s}`, entityType, text)
}
