package people

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

const (
	maxMembers           = 10_000
	maxGroupEntitlements = 100
)

// Groups makes, shows and changes groups. Safe for concurrent use.
type Groups struct{ cfg Config }

// NewGroups makes the service.
func NewGroups(cfg Config) *Groups { return &Groups{cfg: cfg} }

func errGroupNotFound() error {
	return latchkey.Errorf(latchkey.NotFound, "group_not_found", "there is no such group")
}

// GroupFields are what a manager says of a group.
type GroupFields struct {
	Name string
	// Members are ids of persons, or authz.Bot, in their order.
	Members      []string
	Entitlements []string // ids
}

// ParseGroup reads {name, member_ids=[], entitlement_ids=[]}; errors are as
// ParsePerson's.
func ParseGroup(body strictjson.Value) (in GroupFields, err error) {
	var f faults
	m := f.members(body, "name", "member_ids", "entitlement_ids")
	if in.Name = f.text(m["name"], "/name", true); strings.HasPrefix(strings.ToLower(in.Name), systemGroups) {
		f.add("/name", "reserved_name", "the names of groups that stand for a grant begin so")
	}
	in.Members = f.ids(m["member_ids"], "/member_ids", maxMembers, authz.Bot)
	in.Entitlements = f.ids(m["entitlement_ids"], "/entitlement_ids", maxGroupEntitlements, "")
	return in, f.err()
}

// ids reads a list of ids, each once; other is taken too.
func (f *faults) ids(v strictjson.Value, at string, most int, other string) (list []string) {
	switch k := v.Kind(); {
	case k == strictjson.Missing:
		return nil
	case k != strictjson.Array:
		f.add(at, "wrong_type", "want an array, got "+k.String())
		return nil
	case v.Len() > most:
		f.add(at, "too_many_items", "at most "+strconv.Itoa(most))
		return nil
	}
	seen := map[string]bool{}
	for i, e := range v.Elements() {
		id := strings.Clone(e.Text())
		switch {
		case e.Kind() != strictjson.String:
			f.add(strictjson.PointerIndex(at, i), "wrong_type", "want a string, got "+e.Kind().String())
		case !authz.IsID(id) && (other == "" || id != other):
			f.add(strictjson.PointerIndex(at, i), "invalid_id", "want an id")
		case seen[id]:
			f.add(strictjson.PointerIndex(at, i), "duplicate_item", "the id stands in the list already")
		}
		seen[id] = true
		list = append(list, id)
	}
	return list
}

// May refuses who neither manages people nor is one.
func (*Groups) May(c *authz.Caller) error { return (*Persons)(nil).May(c) }

// Create makes a group.
func (s *Groups) Create(ctx context.Context, call authz.Call, in GroupFields) (made Group, err error) {
	return s.write(ctx, call, "group.create", func(ctx context.Context, tx Writer) (was, is Group, err error) {
		is = Group{ID: uuid.NewString(), Customer: call.Customer.ID, CreatedAt: call.Now}
		in.put(&is, call.Now)
		return was, is, nil
	})
}

// put replaces what fields say. A member who stays keeps the place that AddedAt
// says, as long as the order allows it.
func (in *GroupFields) put(g *Group, now latchkey.Instant) {
	was := map[string]latchkey.Instant{}
	for _, m := range g.Members {
		was[m.Person] = m.AddedAt
	}
	members := make([]Member, 0, len(in.Members))
	last := Member{AddedAt: -1}
	for _, person := range in.Members {
		m := Member{Person: person, AddedAt: now}
		if at, there := was[person]; there {
			m.AddedAt = at
		}
		if !last.before(m) {
			m.AddedAt = max(now, last.AddedAt+1)
		}
		members, last = append(members, m), m
	}
	g.Name, g.Members, g.Entitlements = in.Name, members, slices.Clone(in.Entitlements)
}

func (m Member) before(n Member) bool {
	return m.AddedAt < n.AddedAt || m.AddedAt == n.AddedAt && m.Person < n.Person
}

// write makes one change of a group: do tells what it was, and what it is to be.
func (s *Groups) write(ctx context.Context, call authz.Call, action string, do func(context.Context, Writer) (was, is Group, err error)) (is Group, err error) {
	if err := authz.MayManage(&call.Caller); err != nil {
		return is, err
	}
	var seq int64
	err = s.cfg.Record.Change(ctx, call.Change(func() any { return is }), func(tx Writer) (audit.Draft, error) {
		var was Group
		if was, is, err = do(ctx, tx); err != nil {
			return audit.Draft{}, err
		}
		if err := s.mayHold(ctx, tx, &call, &was, &is); err != nil {
			return audit.Draft{}, err
		}
		is.Version, seq = tx.Seq(), tx.Seq()
		slices.Sort(is.Entitlements) // they have no order, but what is wrong with them is told by that of the body
		if was.ID == "" {
			err = tx.InsertGroup(ctx, is)
		} else {
			err = tx.UpdateGroup(ctx, was, is)
		}
		d := call.Draft(action, audit.Resource{Type: "group", Name: is.Name, ID: is.ID})
		d.Changes = groupChanges(&was, &is)
		return d, err
	})
	if err != nil {
		return Group{}, err
	}
	s.cfg.reached(ctx, call.Customer, seq)
	return is, nil
}

// mayHold checks whom a change adds, and what: they must be there, and nobody
// gives an entitlement to themselves.
func (s *Groups) mayHold(ctx context.Context, tx Writer, call *authz.Call, was, is *Group) error {
	if len(is.Members) > maxMembers {
		return latchkey.Errorf(latchkey.Conflict, "too_many_members", "a group has at most %d members", maxMembers)
	}
	var f faults
	gains := false
	for i, id := range is.Entitlements {
		if slices.Contains(was.Entitlements, id) {
			continue
		}
		gains = true
		switch _, err := tx.Entitlement(ctx, id); {
		case latchkey.KindOf(err) == latchkey.NotFound:
			f.add(strictjson.PointerIndex("/entitlement_ids", i), "entitlement_not_found", "there is no such entitlement")
		case err != nil:
			return err
		}
	}
	before := map[string]bool{}
	for _, m := range was.Members {
		before[m.Person] = true
	}
	var gaining []authz.EntityRef
	for i, m := range is.Members {
		if gains || !before[m.Person] && len(is.Entitlements) > 0 {
			gaining = append(gaining, authz.EntityRef{Type: authz.SubjectUser, ID: m.Person})
		}
		if before[m.Person] || m.Person == authz.Bot {
			continue
		}
		switch p, err := tx.Person(ctx, m.Person); {
		case latchkey.KindOf(err) == latchkey.NotFound:
			f.add(strictjson.PointerIndex("/member_ids", i), "user_not_found", "there is no such person")
		case err != nil:
			return err
		case !p.Active:
			f.add(strictjson.PointerIndex("/member_ids", i), "person_inactive", "the person is not active")
		}
	}
	if err := f.err(); err != nil {
		return err
	}
	return authz.NotToOneselfIn(ctx, tx, &call.Caller, gaining...)
}

// groupChanges tells who came and went.
func groupChanges(was, is *Group) string {
	people := func(g *Group) (ids []string) {
		for _, m := range g.Members {
			ids = append(ids, m.Person)
		}
		return ids
	}
	b := strictjson.AppendString([]byte(`{"name":`), is.Name)
	for _, part := range []struct {
		name    string
		was, is []string
	}{{"members", people(was), people(is)}, {"entitlements", was.Entitlements, is.Entitlements}} {
		b = appendIDs(append(b, `,"`+part.name+`_added":`...), part.is, part.was)
		b = appendIDs(append(b, `,"`+part.name+`_removed":`...), part.was, part.is)
	}
	return string(append(b, '}'))
}

// appendIDs appends those of a list that are not in another one.
func appendIDs(b []byte, list, without []string) []byte {
	known := make(map[string]bool, len(without))
	for _, id := range without {
		known[id] = true
	}
	b = append(b, '[')
	for _, id := range list {
		if !known[id] {
			b = append(strictjson.AppendString(b, id), ',')
		}
	}
	if b[len(b)-1] == ',' {
		b = b[:len(b)-1]
	}
	return append(b, ']')
}

// Get returns a group: to managers any, to persons those that they are in.
func (s *Groups) Get(ctx context.Context, call authz.Call, id string) (Group, error) {
	if err := s.May(&call.Caller); err != nil {
		return Group{}, err
	}
	if !authz.IsID(id) {
		return Group{}, errGroupNotFound()
	}
	g, err := s.cfg.Record.Group(ctx, call.Customer.ID, id)
	if err == nil && !call.Manages() && !slices.ContainsFunc(g.Members, func(m Member) bool { return m.Person == call.Person.ID }) {
		return Group{}, errGroupNotFound()
	}
	return g, err
}

// List returns a page of groups; to who does not manage, of their own.
func (s *Groups) List(ctx context.Context, call authz.Call, q Query) ([]Group, error) {
	if err := s.May(&call.Caller); err != nil {
		return nil, err
	}
	q.Customer = call.Customer.ID
	if !call.Manages() {
		if q.Member != "" && q.Member != call.Person.ID {
			return nil, nil
		}
		q.Member = call.Person.ID
	}
	return s.cfg.Record.Groups(ctx, q)
}

// Update replaces a group's record whole.
func (s *Groups) Update(ctx context.Context, call authz.Call, id string, in GroupFields) (Group, error) {
	return s.update(ctx, call, id, func(_ Writer, g *Group) error {
		in.put(g, call.Now)
		return nil
	})
}

func (s *Groups) update(ctx context.Context, call authz.Call, id string, change func(Writer, *Group) error) (Group, error) {
	if err := authz.MayManage(&call.Caller); err != nil {
		return Group{}, err
	}
	if !authz.IsID(id) {
		return Group{}, errGroupNotFound()
	}
	return s.write(ctx, call, "group.update", func(ctx context.Context, tx Writer) (was, is Group, err error) {
		if was, err = tx.Group(ctx, id); err != nil {
			return was, is, err
		}
		is = was
		is.Members = slices.Clone(was.Members)
		return was, is, change(tx, &is)
	})
}

// AddMember puts a person at the end of a group; one who is in it already stays
// in place. One who is not there is NotFound, one who is not active a Conflict.
func (s *Groups) AddMember(ctx context.Context, call authz.Call, id, person string) (Group, error) {
	return s.update(ctx, call, id, func(tx Writer, g *Group) error {
		if slices.ContainsFunc(g.Members, func(m Member) bool { return m.Person == person }) {
			return nil
		}
		if person != authz.Bot {
			if !authz.IsID(person) {
				return errPersonNotFound()
			}
			switch p, err := tx.Person(ctx, person); {
			case err != nil:
				return err
			case !p.Active:
				return latchkey.Errorf(latchkey.Conflict, "person_inactive", "the person is not active")
			}
		}
		m := Member{Person: person, AddedAt: call.Now}
		if n := len(g.Members); n > 0 && !g.Members[n-1].before(m) {
			m.AddedAt = g.Members[n-1].AddedAt + 1
		}
		g.Members = append(g.Members, m)
		return nil
	})
}

// RemoveMember takes a person out of a group.
func (s *Groups) RemoveMember(ctx context.Context, call authz.Call, id, person string) error {
	_, err := s.update(ctx, call, id, func(_ Writer, g *Group) error {
		n := len(g.Members)
		if g.Members = slices.DeleteFunc(g.Members, func(m Member) bool { return m.Person == person }); len(g.Members) == n {
			return latchkey.Errorf(latchkey.NotFound, "member_not_found", "the person is not in the group")
		}
		return nil
	})
	return err
}

// Delete deletes a group that nothing uses; one in use is a Conflict.
func (s *Groups) Delete(ctx context.Context, call authz.Call, id string) error {
	if err := authz.MayManage(&call.Caller); err != nil {
		return err
	}
	if !authz.IsID(id) {
		return errGroupNotFound()
	}
	var seq int64
	err := s.cfg.Record.Change(ctx, call.Change(nil), func(tx Writer) (audit.Draft, error) {
		g, err := tx.Group(ctx, id)
		if err == nil {
			err = unused(ctx, tx, "group", id)
		}
		if err != nil {
			return audit.Draft{}, err
		}
		seq = tx.Seq()
		d := call.Draft("group.delete", audit.Resource{Type: "group", Name: g.Name, ID: id})
		d.Changes = groupChanges(&g, &Group{Name: g.Name})
		return d, tx.DeleteGroup(ctx, g)
	})
	if err == nil {
		s.cfg.reached(ctx, call.Customer, seq)
	}
	return err
}

// unused refuses to delete what something uses.
func unused(ctx context.Context, tx Writer, kind, id string) error {
	by, err := tx.UsedBy(ctx, kind, id)
	if err == nil && by != "" {
		return latchkey.Errorf(latchkey.Conflict, kind+"_in_use", "the %s is in use by %s", kind, by)
	}
	return err
}
