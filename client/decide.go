package client

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Entity is a subject or a resource.
type Entity struct {
	Type       string         `json:"type"`
	ID         string         `json:"id,omitempty"`
	Properties map[string]any `json:"properties,omitempty"`
}

// KeySubject is who holds an access key: the key itself is asked about, whatever
// its id.
func KeySubject(secret string) Entity {
	return Entity{Type: "access_key", Properties: map[string]any{"key": secret}}
}

// User is a person, by id, username or e-mail address.
func User(id string) Entity { return Entity{Type: "user", ID: id} }

// Question is what a decision is asked about.
type Question struct {
	Subject  Entity
	Action   string // read, create, update, delete, or one of the application's own
	Resource Entity
	Context  map[string]any
	// Policy names the policy that is to answer; "" for the customer's default.
	Policy string
}

// Decision is an answer. The zero one denies.
type Decision struct {
	Allowed bool
	ID      string // as in the decision log
	// Action is "allow", "deny", or a word of the policy's own, "mfa" say, with
	// which it allows or denies.
	Action  string
	Reasons []Reason
	// Obligations are what must be done beside, as the policy wrote them: a program
	// that does not know one must not let the request through.
	Obligations []json.RawMessage
	// ExpiresAt is until when the answer may be used again.
	ExpiresAt time.Time
}

// Reason is why: a code, and what of the subject's rights, or which policy,
// decided.
type Reason struct {
	Code       string `json:"code"`
	Source     string `json:"source"` // access_key, grant, policy
	ID         string `json:"id"`
	Rule       string `json:"rule"`
	Selector   string `json:"selector"`
	Permission string `json:"permission"`
}

// Because reports whether one of the reasons has the code.
func (d *Decision) Because(code string) bool {
	for i := range d.Reasons {
		if d.Reasons[i].Code == code {
			return true
		}
	}
	return false
}

// Decide asks for one decision. An error means that there is none: whoever asks
// must not go on. It changes nothing, so it is repeated where a connection breaks.
func (c *Client) Decide(ctx context.Context, q Question) (Decision, error) {
	type action struct {
		Name string `json:"name"`
	}
	in := struct {
		Subject  Entity         `json:"subject"`
		Action   action         `json:"action"`
		Resource Entity         `json:"resource"`
		Context  map[string]any `json:"context,omitempty"`
		Policy   string         `json:"policy,omitempty"`
	}{q.Subject, action{q.Action}, q.Resource, q.Context, q.Policy}
	const path = "/decision"
	var out struct {
		Decision *bool
		Context  struct {
			DecisionID  string `json:"decision_id"`
			Action      string
			Reasons     []Reason
			Obligations []json.RawMessage
			ExpiresAt   time.Time `json:"expires_at"`
		}
	}
	if err := c.post(ctx, path, in, &out, always, 0); err != nil {
		return Decision{}, err
	}
	if out.Decision == nil {
		return Decision{}, fmt.Errorf("latchkey: %s: the reply has no decision", path)
	}
	a := &out.Context
	return Decision{Allowed: *out.Decision, ID: a.DecisionID, Action: a.Action, Reasons: a.Reasons, Obligations: a.Obligations, ExpiresAt: a.ExpiresAt}, nil
}
