package authz

import (
	"context"
	"strconv"
	"sync"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

// PropertySource finds stored properties for decisions; nil where there are
// none. Where not all are in memory a call may wait for I/O, a bounded time; an
// error says that nobody can tell now. Safe for concurrent use.
type PropertySource interface {
	FindSubject(c *Customer, typ, id string) (*policies.Properties, error)
	FindResource(c *Customer, typ, id string) (*policies.Properties, error)
}

// PropertyTable is a PropertySource that holds all properties in memory and is
// kept up to date; nil removes. No call waits for I/O. Implemented by
// cache.Directory.
type PropertyTable interface {
	PropertySource
	Subject(customer, typ, id string) *policies.Properties
	Resource(customer, typ, id string) *policies.Properties
	SetSubject(customer string, ref EntityRef, p *policies.Properties)
	SetResource(customer string, ref EntityRef, p *policies.Properties)
	// Retain removes the customer's entities of which it is not told to keep them.
	Retain(customer string, subject, resource func(EntityRef) bool)
	// Size is about how much memory a customer's entities take, in bytes.
	Size(customer string) int64
}

// Directory keeps what customers tell of their subjects and resources, and the
// catalogues of actions. Policies see the properties, search goes through the
// ids. Safe for concurrent use.
type Directory struct {
	record Record
	table  PropertyTable
	most   int64 // bytes of memory that a customer's entities may take
	// turns holds a chan struct{} a customer: memory takes changes in the order
	// in which the database did.
	turns sync.Map
}

// NewDirectory makes the service. A customer's properties, which all lie in
// memory, may take about most bytes of it.
func NewDirectory(record Record, table PropertyTable, most int64) *Directory {
	return &Directory{record: record, table: table, most: most}
}

// May allows root, admins, and keys with the scope resources_manage.
func (*Directory) May(c *Caller) error {
	if c.IsRoot() || c.IsAdmin() || c.Scopes().Has(scopes.ResourcesManage) {
		return nil
	}
	return latchkey.Errorf(latchkey.Forbidden, "scope_missing", "the key lacks the scope resources_manage")
}

var (
	errSubjectNotFound      = latchkey.Errorf(latchkey.NotFound, "subject_not_found", "there is no such subject")
	errResourceNotFound     = latchkey.Errorf(latchkey.NotFound, "resource_not_found", "there is no such resource")
	errResourceTypeNotFound = latchkey.Errorf(latchkey.NotFound, "resource_type_not_found", "there is no catalogue for this type")
)

// UpdateSubjects makes and changes subjects in the order given, all or none,
// and returns what is stored then.
func (d *Directory) UpdateSubjects(ctx context.Context, call Call, updates []SubjectUpdate) (stored []SubjectRecord, err error) {
	refs := func() []EntityRef { return refsOf(updates, func(u *SubjectUpdate) EntityRef { return u.EntityRef }) }
	var adds int64
	for i := range updates {
		adds += added(updates[i].EntityRef, updates[i].Properties, d.table.Subject, call.Customer.ID)
	}
	err = d.change(ctx, call, "subject.bulk_update", "subject", adds, refs, func(tx Tx) error {
		stored, err = tx.UpsertSubjects(ctx, updates)
		return err
	}, func() error {
		for i := range stored {
			p, err := keptProperties(stored[i].Properties)
			if err != nil {
				return err
			}
			d.table.SetSubject(call.Customer.ID, stored[i].EntityRef, p)
		}
		return nil
	})
	return stored, err
}

// UpdateResources is UpdateSubjects for resources.
func (d *Directory) UpdateResources(ctx context.Context, call Call, updates []ResourceUpdate) (stored []ResourceRecord, err error) {
	refs := func() []EntityRef { return refsOf(updates, func(u *ResourceUpdate) EntityRef { return u.EntityRef }) }
	var adds int64
	for i := range updates {
		adds += added(updates[i].EntityRef, updates[i].Properties, d.table.Resource, call.Customer.ID)
	}
	err = d.change(ctx, call, "resource.bulk_update", "resource", adds, refs, func(tx Tx) error {
		stored, err = tx.UpsertResources(ctx, updates)
		return err
	}, func() error {
		for i := range stored {
			p, err := keptProperties(stored[i].Properties)
			if err != nil {
				return err
			}
			d.table.SetResource(call.Customer.ID, stored[i].EntityRef, p)
		}
		return nil
	})
	return stored, err
}

// DeleteSubject forgets a subject; NotFound when there is none.
func (d *Directory) DeleteSubject(ctx context.Context, call Call, ref EntityRef) error {
	return d.change(ctx, call, "subject.delete", "subject", 0, one(ref), func(tx Tx) error {
		return deleted(errSubjectNotFound)(tx.DeleteSubject(ctx, ref))
	}, func() error {
		d.table.SetSubject(call.Customer.ID, ref, nil)
		return nil
	})
}

// DeleteResource forgets a resource; NotFound when there is none.
func (d *Directory) DeleteResource(ctx context.Context, call Call, ref EntityRef) error {
	if err := d.May(&call.Caller); err != nil {
		return err
	}
	if err := checkResource(ref, "path:id"); err != nil {
		return err
	}
	return d.change(ctx, call, "resource.delete", "resource", 0, one(ref), func(tx Tx) error {
		return deleted(errResourceNotFound)(tx.DeleteResource(ctx, ref))
	}, func() error {
		d.table.SetResource(call.Customer.ID, ref, nil)
		return nil
	})
}

// SetResourceType replaces the catalogue of a type's actions.
func (d *Directory) SetResourceType(ctx context.Context, call Call, t ResourceType) error {
	return d.change(ctx, call, "resource_type.update", "resource_type", 0, one(EntityRef{ID: t.Type}), func(tx Tx) error {
		return tx.SetResourceType(ctx, t)
	}, nil)
}

// DeleteResourceType forgets the catalogue of a type; NotFound when there is
// none.
func (d *Directory) DeleteResourceType(ctx context.Context, call Call, typ string) error {
	return d.change(ctx, call, "resource_type.delete", "resource_type", 0, one(EntityRef{ID: typ}), func(tx Tx) error {
		return deleted(errResourceTypeNotFound)(tx.DeleteResourceType(ctx, typ))
	}, nil)
}

// Subject returns one stored subject.
func (d *Directory) Subject(ctx context.Context, call Call, ref EntityRef) (SubjectRecord, error) {
	if err := d.May(&call.Caller); err != nil {
		return SubjectRecord{}, err
	}
	r, found, err := d.record.Subject(ctx, call.Customer.ID, ref)
	if err == nil && !found {
		err = errSubjectNotFound
	}
	return r, err
}

// Resource returns one stored resource.
func (d *Directory) Resource(ctx context.Context, call Call, ref EntityRef) (ResourceRecord, error) {
	if err := d.May(&call.Caller); err != nil {
		return ResourceRecord{}, err
	}
	if err := checkResource(ref, "path:id"); err != nil {
		return ResourceRecord{}, err
	}
	r, found, err := d.record.Resource(ctx, call.Customer.ID, ref)
	if err == nil && !found {
		err = errResourceNotFound
	}
	return r, err
}

// ResourceType returns one catalogue.
func (d *Directory) ResourceType(ctx context.Context, call Call, typ string) (ResourceType, error) {
	if err := d.May(&call.Caller); err != nil {
		return ResourceType{}, err
	}
	t, found, err := d.record.ResourceType(ctx, call.Customer.ID, typ)
	if err == nil && !found {
		err = errResourceTypeNotFound
	}
	return t, err
}

// Subjects returns a page of stored subjects, by type and id.
func (d *Directory) Subjects(ctx context.Context, call Call, q EntityQuery) ([]SubjectRecord, error) {
	if err := d.May(&call.Caller); err != nil {
		return nil, err
	}
	q.Customer = call.Customer.ID
	return d.record.Subjects(ctx, q)
}

// Resources returns a page of stored resources, by kind and id.
func (d *Directory) Resources(ctx context.Context, call Call, q EntityQuery) ([]ResourceRecord, error) {
	if err := d.May(&call.Caller); err != nil {
		return nil, err
	}
	q.Customer = call.Customer.ID
	return d.record.Resources(ctx, q)
}

// ResourceTypes returns a page of catalogues, by type.
func (d *Directory) ResourceTypes(ctx context.Context, call Call, q EntityQuery) ([]ResourceType, error) {
	if err := d.May(&call.Caller); err != nil {
		return nil, err
	}
	q.Customer = call.Customer.ID
	return d.record.ResourceTypes(ctx, q)
}

// change makes one change with one event, and then the same in memory, of which
// it adds as many bytes at most.
func (d *Directory) change(ctx context.Context, call Call, action, about string, adds int64, refs func() []EntityRef, do func(Tx) error, apply func() error) error {
	if err := d.May(&call.Caller); err != nil {
		return err
	}
	done, err := d.turn(ctx, call.Customer.ID)
	if err != nil {
		return err
	}
	defer done()
	if adds > 0 && d.table.Size(call.Customer.ID)+adds > d.most {
		return latchkey.Errorf(latchkey.Conflict, "directory_full", "the properties of the customer's subjects and resources would take more than %d MiB of memory; delete some", d.most>>20)
	}
	err = d.record.Change(ctx, call.Change(nil), func(tx Tx) (audit.Draft, error) {
		if err := do(tx); err != nil {
			return audit.Draft{}, err
		}
		list := refs()
		draft := call.Draft(action, audit.Resource{Type: about})
		if len(list) == 1 {
			draft.Resource.Name, draft.Resource.ID = list[0].Type, list[0].ID
		}
		draft.Changes = countAndNames(list)
		return draft, nil
	})
	if err != nil || apply == nil {
		return err
	}
	return apply()
}

// turn waits until nobody else brings what the database holds of the customer
// into memory.
func (d *Directory) turn(ctx context.Context, customer string) (done func(), err error) {
	turn, _ := d.turns.LoadOrStore(customer, make(chan struct{}, 1))
	select {
	case turn.(chan struct{}) <- struct{}{}:
		return func() { <-turn.(chan struct{}) }, nil
	case <-ctx.Done():
		return nil, latchkey.Errorf(latchkey.Unavailable, "busy", "other changes of the directory are being made; try again")
	}
}

// manyEntities is how many are read at once rather than one by one.
const manyEntities = 8

// follow brings into memory what changes after the given one have touched: the
// given subjects and resources, and with all whatever they have made or changed.
func (d *Directory) follow(ctx context.Context, customer string, after int64, subjects, resources []EntityRef, all bool) error {
	done, err := d.turn(ctx, customer)
	if err != nil {
		return err
	}
	defer done()
	changed := entities{}
	if all || len(subjects)+len(resources) > manyEntities {
		if changed, err = d.load(ctx, customer, after); err != nil {
			return err
		}
	}
	for _, ref := range subjects {
		if changed.subjects[ref] {
			continue
		}
		r, found, err := d.record.Subject(ctx, customer, ref)
		if err == nil && !found {
			r = SubjectRecord{EntityRef: ref, Properties: "{}"}
		}
		if err == nil {
			err = d.setSubject(customer, r)
		}
		if err != nil {
			return err
		}
	}
	for _, ref := range resources {
		if changed.resources[ref] {
			continue
		}
		r, found, err := d.record.Resource(ctx, customer, ref)
		if err == nil && !found {
			r = ResourceRecord{EntityRef: ref, Properties: "{}"}
		}
		if err == nil {
			err = d.setResource(customer, r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// reload makes memory hold what the database does of a customer.
func (d *Directory) reload(ctx context.Context, customer string) error {
	done, err := d.turn(ctx, customer)
	if err != nil {
		return err
	}
	defer done()
	there, err := d.load(ctx, customer, -1)
	if err == nil {
		d.table.Retain(customer, func(ref EntityRef) bool { return there.subjects[ref] }, func(ref EntityRef) bool { return there.resources[ref] })
	}
	return err
}

type entities struct{ subjects, resources map[EntityRef]bool }

// load brings what changes after the given one have made or changed into memory.
func (d *Directory) load(ctx context.Context, customer string, after int64) (entities, error) {
	e := entities{map[EntityRef]bool{}, map[EntityRef]bool{}}
	err := d.record.EntitiesSince(ctx, customer, after, func(r SubjectRecord) error {
		e.subjects[r.EntityRef] = true
		return d.setSubject(customer, r)
	}, func(r ResourceRecord) error {
		e.resources[r.EntityRef] = true
		return d.setResource(customer, r)
	})
	return e, err
}

func (d *Directory) setSubject(customer string, r SubjectRecord) error {
	p, err := keptProperties(r.Properties)
	if err == nil {
		d.table.SetSubject(customer, r.EntityRef, p)
	}
	return err
}

func (d *Directory) setResource(customer string, r ResourceRecord) error {
	p, err := keptProperties(r.Properties)
	if err == nil {
		d.table.SetResource(customer, r.EntityRef, p)
	}
	return err
}

// added is about how many bytes of memory an update takes beyond what its entity
// takes already.
func added(ref EntityRef, properties *string, stored func(customer, typ, id string) *policies.Properties, customer string) int64 {
	if properties == nil {
		return 0
	}
	return 2 * int64(len(*properties)-len(stored(customer, ref.Type, ref.ID).Text()))
}

// namedEntities is how many entities an event names.
const namedEntities = 100

// countAndNames tells which entities an event is about, not what of them was
// changed: that may be anybody's personal data, and an event stays for ever.
func countAndNames(refs []EntityRef) string {
	b := strconv.AppendInt([]byte(`{"count":`), int64(len(refs)), 10)
	b = append(b, `,"ids":[`...)
	for i, ref := range refs[:min(len(refs), namedEntities)] {
		if i > 0 {
			b = append(b, ',')
		}
		name := ref.ID
		if ref.Type != "" {
			name = ref.Type + ":" + ref.ID
		}
		b = strictjson.AppendString(b, name)
	}
	return string(append(b, `]}`...))
}

func refsOf[T any](list []T, ref func(*T) EntityRef) []EntityRef {
	refs := make([]EntityRef, len(list))
	for i := range list {
		refs[i] = ref(&list[i])
	}
	return refs
}

func one(ref EntityRef) func() []EntityRef { return func() []EntityRef { return []EntityRef{ref} } }

func deleted(missing error) func(bool, error) error {
	return func(found bool, err error) error {
		if err == nil && !found {
			return missing
		}
		return err
	}
}

// keptProperties is what memory keeps of stored properties: nothing of an empty
// object.
func keptProperties(text string) (*policies.Properties, error) {
	if text == "{}" {
		return nil, nil
	}
	return policies.NewProperties(text)
}

// LoadProperties fills an empty table from the database.
func LoadProperties(ctx context.Context, record DirectoryRecord, table PropertyTable) error {
	err := record.EachSubject(ctx, func(customer string, r SubjectRecord) error {
		p, err := keptProperties(r.Properties)
		if p != nil {
			table.SetSubject(customer, r.EntityRef, p)
		}
		return err
	})
	if err != nil {
		return err
	}
	return record.EachResource(ctx, func(customer string, r ResourceRecord) error {
		p, err := keptProperties(r.Properties)
		if p != nil {
			table.SetResource(customer, r.EntityRef, p)
		}
		return err
	})
}

// builtinActions are the actions of a type without a catalogue.
var builtinActions = []string{"create", "read", "update", "delete"}

// customActions are the further action names that entries of a type spell out, in
// their order.
func customActions(sets []*scopes.Set, typ string) (list []string) {
	seen := map[string]bool{"*": true}
	for _, set := range sets {
		for _, e := range set.Entries(typ) {
			for _, name := range e.Actions {
				if !seen[name] {
					seen[name] = true
					list = append(list, name)
				}
			}
		}
	}
	return list
}
