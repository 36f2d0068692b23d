package cache

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"unique"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/policies"
)

// Directory holds the stored properties of subjects and resources of all
// customers; an entity without any takes no memory. Properties never change: a
// change puts others in their place, and who has read the old ones may go on
// reading them. Safe for concurrent use.
type Directory struct {
	seed      maphash.Seed
	subjects  [shards]entityShard
	resources [shards]entityShard
	sizes     sync.Map // of customers, by id: *atomic.Int64
}

var _ authz.PropertyTable = (*Directory)(nil)

// NewDirectory makes an empty one.
func NewDirectory() *Directory { return &Directory{seed: maphash.MakeSeed()} }

type entity struct{ customer, typ, id string }

type entityShard struct {
	mu         sync.RWMutex
	properties map[entity]*policies.Properties
}

func (d *Directory) find(among *[shards]entityShard, customer, typ, id string) (*entityShard, entity) {
	// By the id alone: it is what spreads, whoever's it is.
	return &among[maphash.String(d.seed, id)%shards], entity{customer, typ, id}
}

func (d *Directory) get(among *[shards]entityShard, customer, typ, id string) *policies.Properties {
	shard, key := d.find(among, customer, typ, id)
	shard.mu.RLock()
	defer shard.mu.RUnlock()
	return shard.properties[key]
}

func (d *Directory) set(among *[shards]entityShard, customer string, ref authz.EntityRef, p *policies.Properties) {
	// Customers and types are few: all their keys share one text.
	shard, key := d.find(among, unique.Make(customer).Value(), unique.Make(ref.Type).Value(), ref.ID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	d.size(key.customer).Add(weight(key, p) - weight(key, shard.properties[key]))
	if p == nil {
		delete(shard.properties, key)
		return
	}
	if shard.properties == nil {
		shard.properties = map[entity]*policies.Properties{}
	}
	shard.properties[key] = p
}

// entityOverhead is about what an entity takes beside its texts, in bytes.
const entityOverhead = 200

func weight(key entity, p *policies.Properties) int64 {
	if p == nil {
		return 0
	}
	return int64(len(key.id) + 2*len(p.Text()) + entityOverhead) // the text, and the tape of it
}

func (d *Directory) size(customer string) *atomic.Int64 {
	n, ok := d.sizes.Load(customer)
	if !ok {
		n, _ = d.sizes.LoadOrStore(customer, new(atomic.Int64))
	}
	return n.(*atomic.Int64)
}

// Size is about how much memory a customer's entities take, in bytes.
func (d *Directory) Size(customer string) int64 { return d.size(customer).Load() }

// Subject finds a subject's stored properties, nil when there are none.
func (d *Directory) Subject(customer, typ, id string) *policies.Properties {
	return d.get(&d.subjects, customer, typ, id)
}

// Resource finds a resource's stored properties, nil when there are none.
func (d *Directory) Resource(customer, typ, id string) *policies.Properties {
	return d.get(&d.resources, customer, typ, id)
}

// FindSubject is Subject; it never fails.
func (d *Directory) FindSubject(c *authz.Customer, typ, id string) (*policies.Properties, error) {
	return d.Subject(c.ID, typ, id), nil
}

// FindResource is Resource; it never fails.
func (d *Directory) FindResource(c *authz.Customer, typ, id string) (*policies.Properties, error) {
	return d.Resource(c.ID, typ, id), nil
}

// SetSubject puts p in the place of a subject's properties; nil removes them.
func (d *Directory) SetSubject(customer string, ref authz.EntityRef, p *policies.Properties) {
	d.set(&d.subjects, customer, ref, p)
}

// SetResource puts p in the place of a resource's properties; nil removes them.
func (d *Directory) SetResource(customer string, ref authz.EntityRef, p *policies.Properties) {
	d.set(&d.resources, customer, ref, p)
}

// Retain removes the customer's entities of which it is not told to keep them.
func (d *Directory) Retain(customer string, subject, resource func(authz.EntityRef) bool) {
	for among, keep := range map[*[shards]entityShard]func(authz.EntityRef) bool{&d.subjects: subject, &d.resources: resource} {
		for i := range among {
			shard := &among[i]
			shard.mu.Lock()
			for key, p := range shard.properties {
				if key.customer == customer && !keep(authz.EntityRef{Type: key.typ, ID: key.id}) {
					d.size(customer).Add(-weight(key, p))
					delete(shard.properties, key)
				}
			}
			shard.mu.Unlock()
		}
	}
}

// Len counts the entities that have properties.
func (d *Directory) Len() int {
	n := 0
	for _, among := range []*[shards]entityShard{&d.subjects, &d.resources} {
		for i := range among {
			among[i].mu.RLock()
			n += len(among[i].properties)
			among[i].mu.RUnlock()
		}
	}
	return n
}
