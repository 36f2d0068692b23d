package authz

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkey-dev/latchkey"
)

// maxNodes is how many nodes of a customer are remembered.
const maxNodes = 1000

// Node is a process that follows a customer's changes, as it last said.
type Node struct {
	Customer string
	ID       string // its own name for itself
	Epoch    int64
	Seq      int64 // the change up to which it has applied all
	SeenAt   latchkey.Instant
}

// NodeStore shares what the nodes said among the processes that they say it to.
// Safe for concurrent use.
type NodeStore interface {
	// WriteNodes keeps each, unless it is kept already as it was later on.
	WriteNodes(ctx context.Context, nodes []Node) error
	// Nodes returns those of a customer, or of all where it is "", that were seen
	// at the given time or later.
	Nodes(ctx context.Context, customer string, since latchkey.Instant) ([]Node, error)
}

// Nodes remembers which nodes follow a customer and how far they have come. No
// request waits for what is shared of it: a background loop calls RunOnce. Safe
// for concurrent use.
type Nodes struct {
	store     NodeStore
	shared    bool
	staleness time.Duration
	urgent    chan struct{}
	forgotten atomic.Int64

	mu        sync.Mutex
	customers map[string]*nodesOf
}

type nodesOf struct {
	nodes   map[string]*nodeState
	changed chan struct{} // closed when one has come further; nil until somebody waits
}

type nodeState struct {
	Node
	shared latchkey.Instant // SeenAt of what was written last
	dirty  bool
}

// NewNodes makes one that knows of none. A node that has not been seen for
// staleness is no live one. The store may be nil, then a restart forgets them;
// shared says that nodes speak to other processes too, which write to it.
func NewNodes(store NodeStore, shared bool, staleness time.Duration) *Nodes {
	return &Nodes{store: store, shared: shared, staleness: staleness, urgent: make(chan struct{}, 1), customers: map[string]*nodesOf{}}
}

// ValidNode reports whether a node may call itself so.
func ValidNode(id string) bool {
	return id != "" && len(id) <= 128 && !strings.ContainsFunc(id, func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && !strings.ContainsRune("._:-", c)
	})
}

// Seen takes in what a node has just said of itself; the last word counts.
func (n *Nodes) Seen(node Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.take(node)
	switch {
	case s == nil || n.store == nil:
	case s.dirty:
		select {
		case n.urgent <- struct{}{}:
		default:
		}
	case s.SeenAt > s.shared.Add(n.staleness/3):
		s.dirty = true // in time
	}
}

// take remembers a node, nil where there is no place for it; n is locked.
func (n *Nodes) take(node Node) *nodeState {
	c := n.of(node.Customer)
	s, ok := c.nodes[node.ID]
	if !ok {
		if len(c.nodes) >= maxNodes && !n.makeRoom(c, node.SeenAt) {
			n.forgotten.Add(1)
			return nil
		}
		node.Customer, node.ID = strings.Clone(node.Customer), strings.Clone(node.ID)
		s = &nodeState{Node: node, dirty: true}
		c.nodes[node.ID] = s
	}
	moved := !ok || s.Seq != node.Seq || s.Epoch != node.Epoch
	s.Epoch, s.Seq, s.SeenAt = node.Epoch, node.Seq, node.SeenAt
	if moved {
		s.dirty = true
		if c.changed != nil {
			close(c.changed)
			c.changed = nil
		}
	}
	return s
}

func (n *Nodes) of(customer string) *nodesOf {
	c, ok := n.customers[customer]
	if !ok {
		c = &nodesOf{nodes: map[string]*nodeState{}}
		n.customers[strings.Clone(customer)] = c
	}
	return c
}

// makeRoom forgets the node that was seen longest ago, unless it is live.
func (n *Nodes) makeRoom(c *nodesOf, now latchkey.Instant) bool {
	var oldest *nodeState
	for _, s := range c.nodes {
		if oldest == nil || s.SeenAt < oldest.SeenAt {
			oldest = s
		}
	}
	if n.live(oldest.SeenAt, now) {
		return false
	}
	delete(c.nodes, oldest.ID)
	return true
}

func (n *Nodes) live(seen, now latchkey.Instant) bool { return now < seen.Add(n.staleness) }

// Live reports whether a node was seen lately.
func (n *Nodes) Live(node Node, now latchkey.Instant) bool { return n.live(node.SeenAt, now) }

// Changed is closed once a node of the customer has come further, or a new one
// was seen.
func (n *Nodes) Changed(customer string) <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.of(customer)
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return c.changed
}

// Read takes in what was said to other processes of a customer's nodes, or of
// all where it is "".
func (n *Nodes) Read(ctx context.Context, customer string, now latchkey.Instant) error {
	if n.store == nil {
		return nil
	}
	list, err := n.store.Nodes(ctx, customer, now.Add(-n.staleness))
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, node := range list {
		c := n.of(node.Customer)
		if s := c.nodes[node.ID]; s != nil && s.SeenAt >= node.SeenAt {
			continue
		}
		if s := n.take(node); s != nil {
			s.shared, s.dirty = node.SeenAt, false
		}
	}
	return nil
}

// Standing tells which of a customer's live nodes have applied the change of
// an epoch, and which have not yet; by name.
func (n *Nodes) Standing(customer string, epoch, seq int64, now latchkey.Instant) (applied, pending []Node) {
	for _, node := range n.List(customer) {
		switch {
		case !n.live(node.SeenAt, now):
		case node.Epoch == epoch && node.Seq >= seq:
			applied = append(applied, node)
		default:
			pending = append(pending, node)
		}
	}
	return applied, pending
}

// List returns the nodes of a customer that are remembered, or of all where it
// is "", by customer and name.
func (n *Nodes) List(customer string) (list []Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	add := func(c *nodesOf) {
		for _, s := range c.nodes {
			list = append(list, s.Node)
		}
	}
	if customer != "" {
		if c := n.customers[customer]; c != nil {
			add(c)
		}
	} else {
		for _, c := range n.customers {
			add(c)
		}
	}
	slices.SortFunc(list, func(a, b Node) int {
		return cmp.Or(strings.Compare(a.Customer, b.Customer), strings.Compare(a.ID, b.ID))
	})
	return list
}

// CountLive counts the live nodes of all customers.
func (n *Nodes) CountLive(now latchkey.Instant) (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.customers {
		for _, s := range c.nodes {
			if n.live(s.SeenAt, now) {
				count++
			}
		}
	}
	return count
}

// Forgotten counts the times that a node was not remembered, because as many
// are live as may be.
func (n *Nodes) Forgotten() int64 { return n.forgotten.Load() }

// Shared reports whether other processes may know more of nodes.
func (n *Nodes) Shared() bool { return n.store != nil && n.shared }

// Urgent tells that there is something to share that somebody may wait for.
func (n *Nodes) Urgent() <-chan struct{} { return n.urgent }

// RunOnce shares what has gathered, forgets the nodes that have long been gone,
// and returns how many were shared.
func (n *Nodes) RunOnce(ctx context.Context, now latchkey.Instant) (int, error) {
	var list []Node
	n.mu.Lock()
	for customer, c := range n.customers {
		maps.DeleteFunc(c.nodes, func(_ string, s *nodeState) bool { return now > s.SeenAt.Add(max(10*n.staleness, time.Hour)) })
		for _, s := range c.nodes {
			if s.dirty {
				list = append(list, s.Node)
				s.dirty, s.shared = false, s.SeenAt
			}
		}
		if len(c.nodes) == 0 && c.changed == nil {
			delete(n.customers, customer)
		}
	}
	n.mu.Unlock()
	if len(list) == 0 || n.store == nil {
		return 0, nil
	}
	if err := n.store.WriteNodes(ctx, list); err != nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, node := range list { // once more, next time
			if c := n.customers[node.Customer]; c != nil && c.nodes[node.ID] != nil {
				c.nodes[node.ID].dirty = true
			}
		}
		return 0, err
	}
	return len(list), nil
}
