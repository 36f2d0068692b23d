package authz

import (
	"context"
	"strconv"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

// MayReadBundle refuses a caller that may not read a customer's bundle: it
// needs the scope bundles with Read for the customer's id, and is the
// customer's own. What it may not read it is not told the existence of.
func MayReadBundle(c *Caller, customer string) error {
	switch {
	case c.IsRoot():
		return nil
	case !c.Scopes().Permits(scopes.Question{Type: scopes.Bundles, ID: customer, Action: "read"}):
		return latchkey.Errorf(latchkey.Forbidden, "scope_missing", "the key's bundles scope does not permit to read this bundle")
	case c.Customer == nil || c.Customer.ID != customer:
		return latchkey.Errorf(latchkey.Forbidden, "wrong_customer", "the key belongs to another customer")
	}
	return nil
}

// MayFollow refuses a caller that may not follow a customer as a sidecar does:
// it needs the scope sidecar, and is the customer's own. What a sidecar decides
// by, the bundle in latchkey's profile too, is part of that.
func MayFollow(c *Caller, customer string) error {
	switch {
	case c.IsRoot():
		return nil
	case !c.Scopes().Has(scopes.Sidecar):
		return latchkey.Errorf(latchkey.Forbidden, "scope_missing", "the key lacks the scope sidecar")
	case c.Customer == nil || c.Customer.ID != customer:
		return latchkey.Errorf(latchkey.Forbidden, "wrong_customer", "the key belongs to another customer")
	}
	return nil
}

// notActive is the default policy of a customer whose bundle has not come into
// force yet. There is none of that name, so every question is denied.
const notActive = "bundle.not_active"

// AwaitBundle denies whatever the customer is asked until its bundle comes into
// force.
func AwaitBundle(c *Customer) error {
	return c.Policies.Update(func(*policies.Snapshot) (*policies.Snapshot, error) {
		return new(policies.Snapshot).Edit(0, 0, func(d *policies.Draft) { d.SetDefault(notActive) }), nil
	})
}

// Activation is what the audit trail tells of a bundle that comes into force.
type Activation struct {
	Name     string // of the source, in the configuration
	Revision string
	SHA256   string // of its bytes
	Sequence int64  // 0 of a bundle that has none
	Policies int
	Sets     int
}

// ActivateBundle puts in force what next makes of the customer's snapshot, and
// writes so into its audit trail; when that fails, nothing has changed. next is
// called beside decisions and changes, before anything is written, and may take
// its time.
func ActivateBundle(ctx context.Context, record Record, c *Customer, now latchkey.Instant, a Activation, next func(*policies.Snapshot) (*policies.Snapshot, error)) error {
	if c.Deleted() {
		return errCustomerNotFound
	}
	made, err := next(c.Policies.Snapshot())
	if err != nil {
		return err
	}
	return c.Policies.Update(func(*policies.Snapshot) (*policies.Snapshot, error) {
		err := record.Change(ctx, Change{Chain: c.ID, At: now}, func(Tx) (audit.Draft, error) {
			by := Call{Now: now}
			d := by.Draft("bundle.activate", audit.Resource{Type: "bundle", Name: a.Name})
			d.Changes = a.changes()
			return d, nil
		})
		return made, err
	})
}

func (a *Activation) changes() string {
	b := strictjson.AppendString([]byte(`{"revision":`), a.Revision)
	b = strictjson.AppendString(append(b, `,"sha256":`...), a.SHA256)
	for _, n := range []struct {
		name  string
		value int64
	}{{"sequence", a.Sequence}, {"policies", int64(a.Policies)}, {"sets", int64(a.Sets)}} {
		b = strictjson.AppendString(append(b, ','), n.name)
		b = strconv.AppendInt(append(b, ':'), n.value, 10)
	}
	return string(append(b, '}'))
}
