package authz

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Limits of sets.
const (
	// MaxShownValues is how many values a set may have whose values are shown
	// with its record.
	MaxShownValues = 1000
	// MaxValueFaults is how many values a refusal names; it counts them all.
	MaxValueFaults = 100
)

// Sets makes, changes and ends sets. Who may do what is said by the scope
// "sets", and which values they may write by its restrictions, as a decision
// about the same write would have it. When a call returns, decisions of this
// process see the change. Safe for concurrent use.
type Sets struct{ cfg SetsConfig }

// SetsConfig are the collaborators and limits of Sets.
type SetsConfig struct {
	Record    Record
	Origin    Origin
	MaxSets   int // of a customer; default 1,000
	MaxValues int // of a set; default 2,000,000
}

// NewSets makes the service.
func NewSets(cfg SetsConfig) *Sets {
	if cfg.MaxSets == 0 {
		cfg.MaxSets = 1000
	}
	if cfg.MaxValues == 0 {
		cfg.MaxValues = 2_000_000
	}
	return &Sets{cfg: cfg}
}

// SetView is a set's record, with its values where they are few; nil where
// there are more than MaxShownValues.
type SetView struct {
	SetRecord
	Values []string
}

// NewSet is what a set is made of. Values come in the order of the request;
// EntityType is one of the constants.
type NewSet struct {
	Name, Description string
	EntityType        scopes.EntityType
	Values            []scopes.Value
}

// SetPatched is what a patch has come to, and the tag of the set then.
type SetPatched struct {
	Added, Removed, Total int
	ETag                  string
}

// ETag is the strong entity tag of a set's version. It covers the record's id:
// what is made again under an old name is never taken for the old one.
func (s *SetRecord) ETag() string {
	return `"` + s.ID + "-" + strconv.FormatInt(s.Version, 10) + `"`
}

// MayRead refuses by the name alone, whether or not there is such a set.
func (*Sets) MayRead(c *Caller, name string) error { return maySet(c, name, "read") }

// MayUpdate refuses by the name alone, whatever the values.
func (*Sets) MayUpdate(c *Caller, name string) error { return maySet(c, name, "update") }

// MayDelete refuses by the name alone, whatever the values.
func (*Sets) MayDelete(c *Caller, name string) error { return maySet(c, name, "delete") }

// MayCreate refuses a caller that may not make sets.
func (*Sets) MayCreate(c *Caller) error {
	// A right to create is only ever given for all names, so the name asked
	// about does not matter.
	return maySet(c, "any", "create")
}

// MayList refuses a caller whose sets scope is empty.
func (*Sets) MayList(c *Caller) error {
	if c.IsRoot() || len(c.Scopes().Entries(scopes.Sets)) > 0 {
		return nil
	}
	return latchkey.Errorf(latchkey.Forbidden, "scope_missing", "the key's sets scope is empty")
}

func maySet(c *Caller, name, action string) error {
	if c.IsRoot() {
		return nil
	}
	v := c.Scopes().Decide(scopes.Question{Type: scopes.Sets, ID: name, Action: action})
	if v.Permitted || v.Blocked {
		return nil
	}
	return latchkey.Errorf(latchkey.Forbidden, "scope_missing", "the key's sets scope does not permit to %s this set", action)
}

// unrestricted reports whether the caller may write any value.
func unrestricted(c *Caller, action, name string) bool {
	return c.IsRoot() || c.Scopes().Permits(scopes.Question{Type: scopes.Sets, ID: name, Action: action})
}

// write is what a call adds to a set and removes from it, with where in the
// request each value stands.
type write struct {
	action         string
	name           string
	entityType     scopes.EntityType
	added, removed placed
}

// placed are values at places of the request: an array's, each at its index,
// or one that stands for all.
type placed struct {
	at      string
	indexes []int // nil: they have none
	values  []scopes.Value
}

func (p *placed) add(index int, value string) {
	p.indexes, p.values = append(p.indexes, index), append(p.values, scopes.Value{Text: value})
}

func (p *placed) pointer(i int) string {
	if p.indexes == nil {
		return p.at
	}
	return strictjson.PointerIndex(p.at, p.indexes[i])
}

// permit holds the values of a write to the caller's restrictions.
func (w *write) permit(c *Caller) error {
	if c.IsRoot() {
		return nil
	}
	v := c.Scopes().Decide(scopes.Question{Type: scopes.Sets, ID: w.name, Action: w.action, Values: &scopes.Values{
		EntityType: w.entityType, Added: w.added.values, Removed: w.removed.values,
	}})
	switch {
	case v.Permitted:
		return nil
	case !v.Blocked: // by name it was permitted; never the answer here
		return latchkey.Errorf(latchkey.Forbidden, "scope_missing", "the key's sets scope does not permit to %s this set", w.action)
	}
	bad, all := len(v.BadAdded)+len(v.BadRemoved), len(w.added.values)+len(w.removed.values)
	if all == 0 {
		return latchkey.Errorf(latchkey.Forbidden, "value_not_permitted", "the key may write certain values only, and this call names none")
	}
	e := latchkey.Errorf(latchkey.Forbidden, "value_not_permitted", "%d of the %d values that the call writes are not permitted to the key%s", bad, all, someOf(bad))
	for _, i := range v.BadAdded[:min(len(v.BadAdded), MaxValueFaults)] {
		e.Faults = append(e.Faults, latchkey.Fault{Pointer: w.added.pointer(i), Code: "value_not_permitted", Detail: "no entry of the key's sets scope permits to add this value"})
	}
	for _, i := range v.BadRemoved[:min(len(v.BadRemoved), MaxValueFaults-len(e.Faults))] {
		detail := "no entry of the key's sets scope permits to remove this value"
		if w.removed.indexes == nil {
			detail = "no entry of the key's sets scope permits to remove " + brief(w.removed.values[i].Text)
		}
		e.Faults = append(e.Faults, latchkey.Fault{Pointer: w.removed.pointer(i), Code: "value_not_permitted", Detail: detail})
	}
	return e
}

// brief quotes a value for a person.
func brief(value string) string {
	const most = 64
	if len(value) > most {
		value = strings.ToValidUTF8(value[:most], "") + "…"
	}
	return strconv.Quote(value)
}

func someOf(bad int) string {
	if bad <= MaxValueFaults {
		return ""
	}
	return "; the first " + strconv.Itoa(MaxValueFaults) + " are named"
}

// canonical returns the canonical texts of values that stand at a place of the
// request, in their order. Malformed ones are Invalid, each with its index.
func canonical(t scopes.EntityType, at string, values []scopes.Value) ([]string, error) {
	texts := make([]string, len(values))
	var faults []latchkey.Fault
	bad := 0
	fault := func(i int, code, detail string) {
		if bad++; bad <= MaxValueFaults {
			faults = append(faults, latchkey.Fault{Pointer: strictjson.PointerIndex(at, i), Code: code, Detail: detail})
		}
	}
	for i, v := range values {
		text, ok := t.Canonical(v.Text)
		switch {
		case v.NotText:
			fault(i, "invalid_value", "want a string, whatever the type of the set")
		case !ok:
			fault(i, "invalid_value", malformed[t])
		case ContainsToken(text):
			fault(i, "credential_in_value", "values are shown to everyone who may read the set; they must not hold a credential")
		}
		texts[i] = text
	}
	if bad == 0 {
		return texts, nil
	}
	e := latchkey.InvalidFaults(faults...)
	e.Public = strconv.Itoa(bad) + " of the " + strconv.Itoa(len(values)) + " values at " + at + " are malformed" + someOf(bad)
	return nil, e
}

var malformed = map[scopes.EntityType]string{
	scopes.EntityString: "want text of at most 1024 bytes without U+0000",
	scopes.EntityIP:     "want an IP address, or a CIDR block without host bits; no zone",
	scopes.EntityUint:   "want a decimal number from 0 to 18446744073709551615 without leading zeros, as a string",
}

// Create makes a set.
func (s *Sets) Create(ctx context.Context, call Call, in NewSet, cond Conditions) (SetView, error) {
	if err := s.MayCreate(&call.Caller); err != nil {
		return SetView{}, err
	}
	texts, err := canonical(in.EntityType, "/values", in.Values)
	if err != nil {
		return SetView{}, err
	}
	w := write{action: "create", name: in.Name, entityType: in.EntityType, added: placed{at: "/values", indexes: indexes(len(in.Values)), values: in.Values}}
	if err := w.permit(&call.Caller); err != nil {
		return SetView{}, err
	}
	values := sorted(texts)
	if len(values) > s.cfg.MaxValues {
		return SetView{}, s.tooManyValues(len(values))
	}
	// Nothing of the request may outlive it.
	view := SetView{SetRecord: SetRecord{
		ID: uuid.NewString(), Customer: call.Customer.ID, Name: strings.Clone(in.Name), EntityType: in.EntityType,
		Description: strings.Clone(in.Description), Size: len(values), Version: 1, CreatedAt: call.Now, UpdatedAt: call.Now,
	}, Values: shown(values)}
	return view, s.activate(ctx, call, call.Change(func() any { return view }), func(tx Tx, _ *policies.Snapshot) (audit.Draft, activation, error) {
		if err := cond.Met(""); err != nil {
			return audit.Draft{}, nil, err
		}
		if n, err := tx.CountSets(ctx); err != nil {
			return audit.Draft{}, nil, err
		} else if n >= s.cfg.MaxSets {
			return audit.Draft{}, nil, latchkey.Errorf(latchkey.Conflict, "too_many_sets", "the customer already has %d sets", n)
		}
		view.Seq = tx.Seq()
		if err := tx.InsertSet(ctx, view.SetRecord); err != nil {
			return audit.Draft{}, nil, err
		}
		if _, err := tx.AddSetValues(ctx, view.ID, values); err != nil {
			return audit.Draft{}, nil, err
		}
		return call.setDraft("set.create", &view.SetRecord, values, nil), func(d *policies.Draft, _ *policies.Set) {
			d.PutSet(view.Name, policies.NewSet(view.EntityType, view.Seq, slices.Values(values)))
		}, nil
	}, view.Name)
}

func (s *Sets) tooManyValues(n int) error {
	return latchkey.Errorf(latchkey.Conflict, "too_many_values", "the set would have %d values; %d are the most", n, s.cfg.MaxValues)
}

// activation puts a change into the snapshot, given the set that was there.
type activation func(d *policies.Draft, was *policies.Set)

// activate makes a change and puts it in force. Changes of a customer run one
// at a time, so that what is in force is always what was written last.
func (s *Sets) activate(ctx context.Context, call Call, c Change, do func(Tx, *policies.Snapshot) (audit.Draft, activation, error), name string) error {
	if err := s.cfg.Origin.writable(call.Customer.ID); err != nil {
		return err
	}
	return call.Customer.Policies.Update(func(now *policies.Snapshot) (*policies.Snapshot, error) {
		var put activation
		var seq int64
		err := s.cfg.Record.Change(ctx, c, func(tx Tx) (d audit.Draft, err error) {
			seq = tx.Seq()
			if now, err = inForce(ctx, tx, now, call.Now); err != nil {
				return d, err
			}
			d, put, err = do(tx, now)
			return d, err
		})
		switch {
		case errors.Is(err, errUnchanged):
			return nil, nil
		case err != nil:
			return nil, err
		}
		return now.Edit(seq, call.Now, func(d *policies.Draft) { put(d, now.Set(name)) }), nil
	})
}

// List returns the sets that the caller may read, by name, and their number.
func (s *Sets) List(ctx context.Context, call Call, limit, offset int) ([]SetRecord, int, error) {
	if err := s.MayList(&call.Caller); err != nil {
		return nil, 0, err
	}
	list, err := s.cfg.Record.SetRecords(ctx, call.Customer.ID)
	if err != nil {
		return nil, 0, err
	}
	list = slices.DeleteFunc(list, func(r SetRecord) bool { return maySet(&call.Caller, r.Name, "read") != nil })
	total := len(list)
	list = list[min(offset, total):]
	return list[:min(limit, len(list))], total, nil
}

// Get returns one set, with its values where they are few.
func (s *Sets) Get(ctx context.Context, call Call, name string) (SetView, error) {
	r, err := s.find(ctx, call, "read", name)
	if err != nil || r.Size > MaxShownValues {
		return SetView{SetRecord: r}, err
	}
	values, err := s.cfg.Record.SetValues(ctx, r.ID, ValueQuery{First: true, Limit: MaxShownValues})
	if values == nil {
		values = []string{}
	}
	return SetView{SetRecord: r, Values: values}, err
}

// Values returns a page of a set's values in the order of their bytes, and
// whether there are more.
func (s *Sets) Values(ctx context.Context, call Call, name string, q ValueQuery) (values []string, more bool, err error) {
	r, err := s.find(ctx, call, "read", name)
	if err != nil {
		return nil, false, err
	}
	limit := q.Limit
	q.Limit++ // one more tells whether there is a next page
	values, err = s.cfg.Record.SetValues(ctx, r.ID, q)
	return values[:min(limit, len(values))], len(values) > limit, err
}

var errValueNotFound = latchkey.Errorf(latchkey.NotFound, "value_not_found", "the set does not hold that value")

// HasValue returns the canonical text of a value that is stored in the set,
// NotFound for any other. Blocks of an ip set hold no other values than
// themselves here.
func (s *Sets) HasValue(ctx context.Context, call Call, name, value string) (string, error) {
	r, err := s.find(ctx, call, "read", name)
	if err != nil {
		return "", err
	}
	return s.stored(ctx, &r, value)
}

func (s *Sets) stored(ctx context.Context, r *SetRecord, value string) (string, error) {
	text, ok := r.EntityType.Canonical(value)
	if !ok {
		return "", errValueNotFound
	}
	found, err := s.cfg.Record.HasSetValue(ctx, r.ID, text)
	if err == nil && !found {
		err = errValueNotFound
	}
	return text, err
}

var errSetNotFound = latchkey.Errorf(latchkey.NotFound, "set_not_found", "there is no such set")

// find checks the right by name, and then returns the set.
func (s *Sets) find(ctx context.Context, call Call, action, name string) (SetRecord, error) {
	if err := maySet(&call.Caller, name, action); err != nil {
		return SetRecord{}, err
	}
	if !latchkey.ValidName(name) {
		return SetRecord{}, errSetNotFound
	}
	return s.cfg.Record.SetRecord(ctx, call.Customer.ID, name)
}

// SetReplacement are a set's new values, and its description where that is
// not nil.
type SetReplacement struct {
	Values      []scopes.Value
	Description *string
}

// Replace gives a set other values. What is held to the restrictions is what
// this adds and what it removes.
func (s *Sets) Replace(ctx context.Context, call Call, name string, in SetReplacement, cond Conditions) (SetView, error) {
	found, err := s.find(ctx, call, "update", name)
	if err != nil {
		return SetView{}, err
	}
	texts, err := canonical(found.EntityType, "/values", in.Values)
	if err != nil {
		return SetView{}, err
	}
	values := sorted(texts)
	view := SetView{Values: shown(values)}
	return view, s.update(ctx, call, &view.SetRecord, found, func(tx Tx, r *SetRecord) (change, error) {
		c := change{action: "set.replace", described: in.Description != nil && *in.Description != r.Description}
		kept := map[string]struct{}{}
		for _, v := range values {
			kept[v] = struct{}{}
		}
		added := maps.Clone(kept) // those that are not there yet
		err := tx.EachSetValue(ctx, r.ID, func(v string) {
			if _, stays := kept[v]; !stays {
				c.removed = append(c.removed, v)
			}
			delete(added, v)
		})
		if err != nil {
			return c, err
		}
		c.added = slices.Sorted(maps.Keys(added))
		if len(c.added)+len(c.removed) > len(values)/2 {
			c.whole = values
		}
		if (len(c.added) > 0 || len(c.removed) > 0 || c.described) && !unrestricted(&call.Caller, "update", name) {
			w := write{action: "update", name: name, entityType: r.EntityType, added: placed{at: "/values"}, removed: placed{at: "/values"}}
			for i, v := range texts {
				if _, new := added[v]; new {
					w.added.add(i, v)
				}
			}
			for _, v := range c.removed {
				w.removed.values = append(w.removed.values, scopes.Value{Text: v})
			}
			if err := w.permit(&call.Caller); err != nil {
				return c, err
			}
		}
		if err := cond.Met(r.ETag()); err != nil {
			return c, err
		}
		if in.Description != nil {
			r.Description = strings.Clone(*in.Description)
		}
		if _, err := tx.RemoveSetValues(ctx, r.ID, c.removed); err != nil {
			return c, err
		}
		_, err = tx.AddSetValues(ctx, r.ID, c.added)
		return c, err
	})
}

// Patch adds and removes values. Every value that the call names is held to
// the restrictions, whether or not it is there.
func (s *Sets) Patch(ctx context.Context, call Call, name string, add, remove []scopes.Value, cond Conditions) (SetPatched, error) {
	found, err := s.find(ctx, call, "update", name)
	if err != nil {
		return SetPatched{}, err
	}
	adds, err := canonical(found.EntityType, "/add", add)
	if err != nil {
		return SetPatched{}, err
	}
	removes, err := canonical(found.EntityType, "/remove", remove)
	if err != nil {
		return SetPatched{}, err
	}
	if err := disjoint(adds, removes); err != nil {
		return SetPatched{}, err
	}
	if len(add)+len(remove) > 0 {
		w := write{action: "update", name: name, entityType: found.EntityType,
			added: placed{"/add", indexes(len(add)), add}, removed: placed{"/remove", indexes(len(remove)), remove}}
		if err := w.permit(&call.Caller); err != nil {
			return SetPatched{}, err
		}
	}
	return s.patch(ctx, call, found, sorted(adds), sorted(removes), cond)
}

func (s *Sets) patch(ctx context.Context, call Call, found SetRecord, adds, removes []string, cond Conditions) (SetPatched, error) {
	var r SetRecord
	var made change
	err := s.update(ctx, call, &r, found, func(tx Tx, r *SetRecord) (c change, err error) {
		c.action = "set.patch"
		if err := cond.Met(r.ETag()); err != nil {
			return c, err
		}
		if c.removed, err = tx.RemoveSetValues(ctx, r.ID, removes); err != nil {
			return c, err
		}
		c.added, err = tx.AddSetValues(ctx, r.ID, adds)
		made = c
		return c, err
	})
	return SetPatched{Added: len(made.added), Removed: len(made.removed), Total: r.Size, ETag: r.ETag()}, err
}

// disjoint refuses a value that is to be added and removed.
func disjoint(adds, removes []string) error {
	at := map[string]int{}
	for i, v := range removes {
		at[v] = i
	}
	var faults []latchkey.Fault
	for i, v := range adds {
		if j, both := at[v]; both && len(faults) < MaxValueFaults {
			faults = append(faults, latchkey.Fault{Pointer: strictjson.PointerIndex("/add", i), Code: "added_and_removed",
				Detail: "the same value stands at " + strictjson.PointerIndex("/remove", j)})
		}
	}
	if faults == nil {
		return nil
	}
	return latchkey.InvalidFaults(faults...)
}

// DeleteValue removes one stored value, NotFound without it.
func (s *Sets) DeleteValue(ctx context.Context, call Call, name, value string, cond Conditions) error {
	found, err := s.find(ctx, call, "update", name)
	if err != nil {
		return err
	}
	text, err := s.stored(ctx, &found, value)
	if err != nil {
		return err
	}
	w := write{action: "update", name: name, entityType: found.EntityType, removed: placed{at: "path:value", values: []scopes.Value{{Text: text}}}}
	if err := w.permit(&call.Caller); err != nil {
		return err
	}
	done, err := s.patch(ctx, call, found, nil, []string{text}, cond)
	if err == nil && done.Removed == 0 { // somebody else has just removed it
		err = errValueNotFound
	}
	return err
}

// change is what an update does to a set.
type change struct {
	action         string
	added, removed []string // none of them twice
	described      bool     // the description is another
	// whole are all values then, where making the set anew costs less than
	// changing it.
	whole []string
}

// update changes the set that was found, which must still be the same one; r
// becomes its record afterwards. do writes the values.
func (s *Sets) update(ctx context.Context, call Call, r *SetRecord, found SetRecord, do func(Tx, *SetRecord) (change, error)) error {
	return s.activate(ctx, call, call.Change(nil), func(tx Tx, _ *policies.Snapshot) (audit.Draft, activation, error) {
		now, err := tx.Set(ctx, found.Name)
		if err == nil && now.ID != found.ID { // deleted meanwhile, and another made
			err = errSetNotFound
		}
		if err != nil {
			return audit.Draft{}, nil, err
		}
		*r = now
		c, err := do(tx, r)
		if err != nil {
			return audit.Draft{}, nil, err
		}
		if len(c.added) == 0 && len(c.removed) == 0 && !c.described {
			return audit.Draft{}, nil, errUnchanged
		}
		r.Size += len(c.added) - len(c.removed)
		r.Version, r.Seq, r.UpdatedAt = r.Version+1, tx.Seq(), call.Now
		if r.Size > s.cfg.MaxValues {
			return audit.Draft{}, nil, s.tooManyValues(r.Size)
		}
		if err := tx.UpdateSet(ctx, *r); err != nil {
			return audit.Draft{}, nil, err
		}
		seq, name := r.Seq, r.Name
		return call.setDraft(c.action, r, c.added, c.removed), func(d *policies.Draft, was *policies.Set) {
			switch {
			case c.whole != nil:
				d.PutSet(name, policies.NewSet(found.EntityType, seq, slices.Values(c.whole)))
			case len(c.added)+len(c.removed) > 0:
				d.PutSet(name, was.With(seq, c.added, c.removed))
			}
		}, nil
	}, found.Name)
}

// Delete ends a set. All its values are removed, so all of them are held to
// the restrictions. A set that a policy reads is a Conflict.
func (s *Sets) Delete(ctx context.Context, call Call, name string, cond Conditions) error {
	found, err := s.find(ctx, call, "delete", name)
	if err != nil {
		return err
	}
	return s.activate(ctx, call, call.Change(nil), func(tx Tx, now *policies.Snapshot) (audit.Draft, activation, error) {
		r, err := tx.Set(ctx, name)
		if err != nil {
			return audit.Draft{}, nil, err
		}
		var removed []string
		if restricted := !unrestricted(&call.Caller, "delete", name); restricted || r.Size <= maxEventValues {
			w := write{action: "delete", name: name, entityType: r.EntityType}
			err := tx.EachSetValue(ctx, r.ID, func(v string) {
				removed = append(removed, v)
				w.removed.values = append(w.removed.values, scopes.Value{Text: v})
			})
			if err == nil && restricted {
				err = w.permit(&call.Caller)
			}
			if err != nil {
				return audit.Draft{}, nil, err
			}
		}
		if users := now.Users(name); len(users) > 0 {
			return audit.Draft{}, nil, latchkey.Errorf(latchkey.Conflict, "set_in_use", "policies read the set: %s", strings.Join(users, ", "))
		}
		if err := cond.Met(r.ETag()); err != nil {
			return audit.Draft{}, nil, err
		}
		if err := tx.DeleteSet(ctx, r.ID); err != nil {
			return audit.Draft{}, nil, err
		}
		return call.setDraft("set.delete", &r, nil, removed), func(d *policies.Draft, _ *policies.Set) { d.DropSet(found.Name) }, nil
	}, found.Name)
}

// Limits of the values that an event spells out.
const (
	maxEventValues = 32
	maxEventBytes  = 4 << 10
)

// setDraft is the event of a change: what it added and removed is spelled out
// where it is little, and given by its hash where it is much. A set that is
// deleted with many values is told of by their number.
func (c *Call) setDraft(action string, s *SetRecord, added, removed []string) audit.Draft {
	d := c.Draft(action, audit.Resource{Type: "set", Name: s.Name, ID: s.ID})
	b := strictjson.AppendString([]byte(`{"entity_type":`), string(s.EntityType))
	number := func(name string, n int64) {
		b = strconv.AppendInt(append(append(append(b, `,"`...), name...), `":`...), n, 10)
	}
	total, removals := s.Size, len(removed)
	if action == "set.delete" {
		total, removals = 0, s.Size
	}
	number("version", s.Version)
	number("added", int64(len(added)))
	number("removed", int64(removals))
	number("total", int64(total))
	b = appendValues(b, "added", added)
	b = appendValues(b, "removed", removed)
	d.Changes = string(append(b, '}'))
	return d
}

// appendValues appends a member with the values, or with the SHA-256 of the
// JSON array that would have stood there, in the order of their bytes.
func appendValues(b []byte, name string, values []string) []byte {
	if len(values) == 0 {
		return b
	}
	values = slices.Clone(values)
	slices.Sort(values)
	list := []byte{'['}
	for i, v := range values {
		if i > 0 {
			list = append(list, ',')
		}
		list = strictjson.AppendString(list, v)
	}
	list = append(list, ']')
	b = append(append(b, `,"`...), name...)
	if len(values) <= maxEventValues && len(list) <= maxEventBytes {
		return append(append(b, `_values":`...), list...)
	}
	sum := sha256.Sum256(list)
	return append(append(append(b, `_sha256":"`...), hex.EncodeToString(sum[:])...), '"')
}

// sorted returns the values in the order of their bytes, each once.
func sorted(values []string) []string {
	values = slices.Clone(values)
	slices.Sort(values)
	return slices.Compact(values)
}

// shown are the values that are shown with a record: all or none.
func shown(values []string) []string {
	if len(values) > MaxShownValues {
		return nil
	}
	return append([]string{}, values...)
}

func indexes(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}
