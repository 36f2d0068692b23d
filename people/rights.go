package people

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
)

// systemGroups is how the names of groups begin that stand for grants: no other
// group has such a name, for whoever goes by names.
const systemGroups = "__access_req_"

// SystemGroup is the name of the group that stands for the grant of a request.
func SystemGroup(request string) string { return systemGroups + request }

// Membership is a group that a person is in at some time: one of the customer's,
// or the one that stands for a grant that a request came to.
type Membership struct {
	ID, Name string
	System   bool
	// ExpiresAt is when it ends on its own; Never for no such time.
	ExpiresAt latchkey.Instant
}

// Claims are what token issuers are told of a person, by name. The values are
// distinct and sorted.
type Claims struct {
	Values map[string][]string
	// ExpiresAt is the first end of a grant that they rest on; Never for none.
	ExpiresAt latchkey.Instant
}

// Rights tells what persons are in and hold at the moment of the question. It keeps
// nothing: what has ended is in no answer, whether or not anybody has swept it.
// Safe for concurrent use.
type Rights struct{ record RightsRecord }

// RightsRecord is the database as Rights needs it. Implemented by store.DB.
type RightsRecord interface {
	// PersonNamed is authz.FeedRecord's.
	PersonNamed(ctx context.Context, customer, name string) (authz.Person, bool, error)
	// MembershipsAt are the groups that an active person is in, by name and id, and
	// then those that stand for its grants that are live at now, by the end.
	MembershipsAt(ctx context.Context, customer, person string, now latchkey.Instant) ([]Membership, error)
	// ClaimsAt are those of each entitlement that an active person holds through
	// groups, and of each grant of its that is live at now, as of one moment.
	ClaimsAt(ctx context.Context, customer, person string, now latchkey.Instant) ([]ClaimsHeld, error)
}

// ClaimsHeld are the claims of one entitlement or grant.
type ClaimsHeld struct {
	Claims    string           // JSON object: name → list of strings
	ExpiresAt latchkey.Instant // Never for an entitlement of a group
}

// NewRights makes the service.
func NewRights(record RightsRecord) *Rights { return &Rights{record: record} }

// Groups are the groups that a person is in now. Managers ask about everybody,
// persons about themselves; whoever may not is told that there is no such person.
func (r *Rights) Groups(ctx context.Context, call authz.Call, id string) ([]Membership, error) {
	if err := r.may(ctx, &call, id); err != nil {
		return nil, err
	}
	return r.record.MembershipsAt(ctx, call.Customer.ID, id, call.Now)
}

// Claims are what a token issuer is to tell of a person now. Who may ask is as for
// Groups.
func (r *Rights) Claims(ctx context.Context, call authz.Call, id string) (Claims, error) {
	c := Claims{Values: map[string][]string{}, ExpiresAt: latchkey.Never}
	if err := r.may(ctx, &call, id); err != nil {
		return c, err
	}
	held, err := r.record.ClaimsAt(ctx, call.Customer.ID, id, call.Now)
	if err != nil {
		return c, err
	}
	for _, h := range held {
		var claims map[string][]string
		if err := json.Unmarshal([]byte(h.Claims), &claims); err != nil {
			return c, fmt.Errorf("read the claims of a person: %w", err)
		}
		for name, values := range claims {
			c.Values[name] = append(c.Values[name], values...)
			c.ExpiresAt = min(c.ExpiresAt, h.ExpiresAt)
		}
	}
	for name, values := range c.Values {
		slices.Sort(values)
		c.Values[name] = slices.Compact(values)
	}
	return c, nil
}

func (r *Rights) may(ctx context.Context, call *authz.Call, id string) error {
	errNotFound := latchkey.Errorf(latchkey.NotFound, "user_not_found", "there is no such person")
	own := call.IsPerson() && call.Person.ID == id && call.Person.Customer == call.Customer.ID
	if !own && !call.Manages() {
		return errNotFound
	}
	switch p, found, err := r.record.PersonNamed(ctx, call.Customer.ID, id); {
	case err != nil:
		return err
	case !found || p.ID != id: // a username or an address is no id
		return errNotFound
	}
	return nil
}
