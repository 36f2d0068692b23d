package authz

import (
	"context"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/policies"
)

// DefaultCustomer is the customer that a first start makes; it cannot end.
const DefaultCustomer = "default"

// MaxMaxActiveKeys bounds what a customer may be given.
const MaxMaxActiveKeys = 1_000_000

// Customers makes, changes and ends tenants, for root. Safe for concurrent
// use.
type Customers struct {
	record Record
	table  KeyTable
	origin Origin
}

// NewCustomers makes the service.
func NewCustomers(record Record, table KeyTable) *Customers {
	return &Customers{record: record, table: table}
}

// From says where customers' policies come from; it is called before any other
// method, and returns s.
func (s *Customers) From(origin Origin) *Customers {
	s.origin = origin
	return s
}

// May refuses everybody but root.
func (*Customers) May(c *Caller) error {
	if c.IsRoot() {
		return nil
	}
	return latchkey.Errorf(latchkey.Forbidden, "not_permitted", "customers are managed with the root key")
}

var errCustomerNotFound = latchkey.Errorf(latchkey.NotFound, "customer_not_found", "there is no such customer")

// Create makes a customer; an id that is or ever was another's is a Conflict.
func (s *Customers) Create(ctx context.Context, call Call, c CustomerRecord) (CustomerRecord, error) {
	if err := s.May(&call.Caller); err != nil {
		return c, err
	}
	c.CreatedAt, c.DeletedAt = call.Now, latchkey.Never
	ch := call.Change(func() any { return c })
	ch.Chain = audit.SystemChain // it has no chain of its own yet
	err := s.record.Change(ctx, ch, func(tx Tx) (audit.Draft, error) {
		if err := tx.InsertCustomer(ctx, c); err != nil {
			return audit.Draft{}, err
		}
		return call.Draft("customer.create", customerResource(c)), nil
	})
	if err != nil {
		return c, err
	}
	s.table.AddCustomer(&Customer{ID: c.ID})
	return c, nil
}

// Get returns a customer that has not ended.
func (s *Customers) Get(ctx context.Context, call Call, id string) (CustomerRecord, error) {
	if err := s.May(&call.Caller); err != nil {
		return CustomerRecord{}, err
	}
	c, err := s.record.CustomerRecord(ctx, id)
	if err == nil && c.DeletedAt != latchkey.Never {
		return CustomerRecord{}, errCustomerNotFound
	}
	return c, err
}

// List returns a page of the customers that have not ended, oldest first, and
// their number.
func (s *Customers) List(ctx context.Context, call Call, limit, offset int) ([]CustomerRecord, int, error) {
	if err := s.May(&call.Caller); err != nil {
		return nil, 0, err
	}
	return s.record.CustomerRecords(ctx, limit, offset)
}

// CustomerPatch changes what is not nil.
type CustomerPatch struct {
	Name          *string
	MaxActiveKeys *int
	DefaultPolicy *string // "": the built-in one
}

// Patch changes a customer. A default policy that is not there is Invalid, at
// /default_policy; a new one decides in this process when the call returns.
func (s *Customers) Patch(ctx context.Context, call Call, id string, p CustomerPatch) (c CustomerRecord, err error) {
	change := func(c *CustomerRecord) {
		if p.Name != nil {
			c.Name = *p.Name
		}
		if p.MaxActiveKeys != nil {
			c.MaxActiveKeys = *p.MaxActiveKeys
		}
	}
	if p.DefaultPolicy == nil {
		c, _, err = s.update(ctx, call, id, "customer.update", "", func(_ Tx, c *CustomerRecord) error {
			change(c)
			return nil
		})
		return c, err
	}
	if err := s.May(&call.Caller); err != nil {
		return c, err
	}
	customer := s.table.Customer(id)
	if customer == nil {
		return c, errCustomerNotFound
	}
	if err := s.origin.writable(id); err != nil {
		return c, err
	}
	name, said := *p.DefaultPolicy, `{"default_policy":null}`
	if name != "" {
		said = Changes("default_policy", name)
	}
	err = customer.Policies.Update(func(in *policies.Snapshot) (*policies.Snapshot, error) {
		var seq int64
		var err error
		c, seq, err = s.update(ctx, call, id, "customer.update", said, func(tx Tx, c *CustomerRecord) (err error) {
			if in, err = inForce(ctx, tx, in, call.Now); err != nil {
				return err
			}
			if name != "" && in.Policy(name) == nil {
				return latchkey.InvalidFaults(latchkey.Fault{Pointer: "/default_policy", Code: "policy_not_found", Detail: "there is no such policy"})
			}
			change(c)
			c.DefaultPolicy = name
			return nil
		})
		if err != nil {
			return nil, err
		}
		if in.Default == name {
			return nil, nil
		}
		return in.Edit(seq, call.Now, func(d *policies.Draft) { d.SetDefault(name) }), nil
	})
	return c, err
}

// Delete ends a customer and every credential of it at once. Its id is never
// used again.
func (s *Customers) Delete(ctx context.Context, call Call, id string) error {
	if id == DefaultCustomer {
		if err := s.May(&call.Caller); err != nil {
			return err
		}
		return latchkey.Errorf(latchkey.Conflict, "default_customer", "the default customer cannot be deleted")
	}
	_, _, err := s.update(ctx, call, id, "customer.delete", "", func(_ Tx, c *CustomerRecord) error {
		c.DeletedAt = call.Now
		return nil
	})
	if err != nil {
		return err
	}
	s.table.AddCustomer(&Customer{ID: id}) // for one that is just being made, whose maker will find it known
	s.table.Customer(id).Delete()
	return nil
}

// update changes the record; said is what its event tells of the change.
func (s *Customers) update(ctx context.Context, call Call, id, action, said string, change func(Tx, *CustomerRecord) error) (c CustomerRecord, seq int64, err error) {
	if err := s.May(&call.Caller); err != nil {
		return c, 0, err
	}
	if id == audit.SystemChain {
		return c, 0, errCustomerNotFound
	}
	err = s.record.Change(ctx, Change{Chain: id, By: call.Caller, At: call.Now}, func(tx Tx) (audit.Draft, error) {
		if c, err = tx.Customer(ctx); err != nil {
			return audit.Draft{}, err
		}
		if err := change(tx, &c); err != nil {
			return audit.Draft{}, err
		}
		if err := tx.UpdateCustomer(ctx, c); err != nil {
			return audit.Draft{}, err
		}
		seq = tx.Seq()
		d := call.Draft(action, customerResource(c))
		d.Changes = said
		return d, nil
	})
	return c, seq, err
}

func customerResource(c CustomerRecord) audit.Resource {
	return audit.Resource{Type: "customer", Name: c.Name, ID: c.ID}
}

// Establish makes the customer of a first start; the process itself does it.
func (s *Customers) Establish(ctx context.Context, id string, now latchkey.Instant) error {
	call := Call{Now: now}
	c := CustomerRecord{ID: id, Name: id, CreatedAt: now, DeletedAt: latchkey.Never}
	return s.record.Change(ctx, Change{Chain: audit.SystemChain, At: now}, func(tx Tx) (audit.Draft, error) {
		d := call.Draft("customer.create", customerResource(c))
		d.Reason = "first start"
		return d, tx.InsertCustomer(ctx, c)
	})
}
