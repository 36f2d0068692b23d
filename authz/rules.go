package authz

import (
	"context"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/policies"
)

// inForce is the snapshot that a change to a customer's policies, sets or default
// policy begins with: in, unless another process has changed them since. So a
// snapshot's revision always tells what is in it, whoever else writes. The change
// holds the customer's lock: what is read stays true until it commits.
func inForce(ctx context.Context, tx Tx, in *policies.Snapshot, now latchkey.Instant) (*policies.Snapshot, error) {
	if tx.Policies() == in.Revision {
		return in, nil
	}
	rules, err := tx.Rules(ctx, in)
	if err != nil {
		return nil, err
	}
	next, _ := rules.over(in, now)
	return next, nil
}

// over makes of the snapshot in force the one of r. Only what differs is
// compiled; what does not compile denies whoever asks it, and is returned.
func (r *Rules) over(in *policies.Snapshot, now latchkey.Instant) (*policies.Snapshot, []UnusablePolicy) {
	if r.Same {
		return in, nil
	}
	var unusable []UnusablePolicy
	return in.Edit(r.Seq, now, func(d *policies.Draft) {
		d.SetDefault(r.Default)
		there := map[string]bool{}
		for i := range r.Policies {
			p := &r.Policies[i]
			there[p.Name] = true
			if had := in.Policy(p.Name); had != nil && had.Record == p.ID && had.Version == p.Version {
				continue
			}
			compiled, err := compileStored(p)
			if err != nil {
				unusable = append(unusable, UnusablePolicy{r.Customer, p.Name, p.Version, err})
			}
			d.PutPolicy(compiled)
		}
		for _, name := range in.Policies() {
			if !there[name] {
				d.DropPolicy(name)
			}
		}
		clear(there)
		for i := range r.Sets {
			s := &r.Sets[i]
			there[s.Name] = true
			if in.Set(s.Name) != s.Set {
				d.PutSet(s.Name, s.Set)
			}
		}
		for _, name := range in.Sets() {
			if !there[name] {
				d.DropSet(name)
			}
		}
	}), unusable
}
