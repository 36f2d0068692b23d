package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/authz"
)

// customer is the one that the thousand keys belong to: the server's first.
const customer = authz.DefaultCustomer

// expires is the end of every key, so that it has one to be checked.
var expires = time.Date(2099, 12, 31, 0, 0, 0, 0, time.UTC)

// scopesOf are the scopes of the nth key, no two alike: services that read
// everything, teams that own what begins with their name, deployers of one
// stage, and keys of several resource types with many entries.
func scopesOf(n int) string {
	switch n % 4 {
	case 0:
		return fmt.Sprintf(`{"customer":{"documents":[{"f":"team-%04d/*","p":6}],"policies":[{"f":"*","p":2}]}}`, n)
	case 1:
		return fmt.Sprintf(`{"customer":{"documents":[{"f":"shared/*","p":2},{"f":"team-%04d/*","p":6}],"policies":[{"f":"*","p":2},{"f":"staging-%04d","p":4}]}}`, n, n)
	case 2:
		return fmt.Sprintf(`{"customer":{"decision":true,"documents":[{"f":"*","p":2},{"f":"team-%04d/*","p":14}],"sets":[{"f":"blocked-%04d","p":6,"r":{"entity_type":"^ip$","filter":"^10\\."}}]}}`, n, n)
	default:
		return fmt.Sprintf(`{"customer":{"access_keys":["policies"],"bundles":[{"f":"*","p":2}],"documents":[{"f":"public/*","p":2},{"f":"shared/*","p":6},{"f":"team-%04d/report","p":4},{"a":["share"],"f":"team-%04d/*"}],"policies":[{"f":"prod*","p":2},{"f":"staging*","p":6}],"sets":[{"f":"*","p":2}]}}`, n, n)
	}
}

// question is one decision to ask for, with the right answer.
type question struct {
	key                    string // id
	action, resource, name string
	permit                 bool
}

func (q question) body() string {
	return fmt.Sprintf(`{"subject":{"type":"access_key","id":%q},"action":{"name":%q},"resource":{"type":%q,"id":%q}}`, q.key, q.action, q.resource, q.name)
}

// questionsOf asks two things of the nth key: one that it may do, one that it
// may not.
func questionsOf(n int, id string) []question {
	own, other := fmt.Sprintf("team-%04d/report", n), fmt.Sprintf("team-%04d/report", n+1)
	if n%4 == 1 {
		return []question{
			{id, "update", "policies", fmt.Sprintf("staging-%04d", n), true},
			{id, "update", "policies", fmt.Sprintf("staging-%04d", n+1), false},
		}
	}
	return []question{
		{id, "update", "documents", own, true},
		{id, "update", "documents", other, false},
	}
}

// world is a customer with its keys, and what is asked about them.
type world struct {
	caller    string // the access key that asks
	keys      []string
	questions []question
}

// populate makes the n keys, and one to call with, over the API.
func populate(ctx context.Context, l *pdp, n int) (*world, error) {
	_, err := send(ctx, http.MethodPatch, l.base+"/v1/customers/"+customer, l.root, "", fmt.Sprintf(`{"max_active_keys":%d}`, n+1))
	if err != nil {
		return nil, err
	}
	create := func(scopes, keyname string) (gjson.Result, error) {
		reply, err := post(ctx, l.base+"/v1/access_keys", l.root, customer, newKey(scopes, "bench", keyname))
		return gjson.ParseBytes(reply), err
	}
	caller, err := create(`{"customer":{"decision":true}}`, "caller")
	if err != nil {
		return nil, err
	}
	w := &world{caller: caller.Get("key").String()}
	for i := range n {
		made, err := create(scopesOf(i), fmt.Sprintf("key %d", i))
		if err != nil {
			return nil, err
		}
		id := made.Get("id").String()
		w.keys = append(w.keys, id)
		w.questions = append(w.questions, questionsOf(i, id)...)
	}
	return w, nil
}

// newKey is the body that makes a key.
func newKey(scopes, username, keyname string) string {
	return fmt.Sprintf(`{"scopes":%s,"metadata":{"username":%q,"keyname":%q},"expires_at":%q}`, scopes, username, keyname, expires.Format(time.RFC3339))
}

// verify asks every question once and holds each answer to the right one.
// wrap makes a server's body of a question, at is where the answer stands.
func (w *world) verify(ctx context.Context, p *process, wrap func(question) string, at string) error {
	for _, q := range w.questions {
		reply, err := post(ctx, p.url, w.caller, "", wrap(q))
		if err != nil {
			return err
		}
		if answer := gjson.GetBytes(reply, at); !answer.IsBool() || answer.Bool() != q.permit {
			return fmt.Errorf("%s answers %s with %s, want %t", p.name, q.body(), reply, q.permit)
		}
	}
	return nil
}

// answerSize is the mean length of the replies, in bytes.
func (w *world) answerSize(ctx context.Context, l *pdp) (int, error) {
	sum, n := 0, min(len(w.questions), 100)
	for _, q := range w.questions[:n] {
		reply, err := post(ctx, l.url, w.caller, "", q.body())
		if err != nil {
			return 0, err
		}
		sum += len(reply)
	}
	return sum / n, nil
}

// dataForOPA are the keys as OPA holds them: data.keys of decision.rego.
func (w *world) dataForOPA() ([]byte, error) {
	type key struct {
		Scopes    json.RawMessage `json:"scopes"`
		ExpiresAt int64           `json:"expires_at"` // nanoseconds
		Revoked   bool            `json:"revoked"`
	}
	keys := map[string]key{}
	for i, id := range w.keys {
		keys[id] = key{json.RawMessage(scopesOf(i)), expires.UnixNano(), false}
	}
	return json.Marshal(map[string]any{"keys": keys})
}
