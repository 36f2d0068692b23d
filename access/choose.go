package access

import (
	"cmp"
	"context"
	"crypto/rand"
	"math/big"
	"slices"

	"github.com/latchkey-dev/latchkey/authz"
)

// candidate is an approver at the first place that it has.
type candidate struct {
	Member
	group int // index of the group in its template's list
}

func (c *candidate) party() Party { return PartyOf(&c.Person) }

// approvers are the active members of the groups, in the order of the groups and
// of the places in them, each once, at the first place; admins stand for no groups.
// authz.Bot is not among them: nobody tells it anything.
func approvers(ctx context.Context, tx Tx, groups []string) ([]candidate, error) {
	var list []candidate
	if len(groups) == 0 {
		admins, err := tx.Admins(ctx)
		for _, p := range admins {
			list = append(list, candidate{Member: Member{p, Place{AddedAt: p.CreatedAt, Person: p.ID}}})
		}
		return list, err
	}
	seen := map[string]bool{}
	for i, id := range groups {
		members, err := tx.MembersOf(ctx, id)
		if err != nil {
			return nil, err
		}
		for _, m := range members {
			if !seen[m.ID] {
				seen[m.ID] = true
				list = append(list, candidate{m, i})
			}
		}
	}
	return list, nil
}

// botDecides reports whether authz.Bot is in an approver group of a template.
func botDecides(ctx context.Context, tx Tx, t *Template) (bool, error) {
	groups, err := tx.GroupsOf(ctx, authz.Bot)
	return slices.ContainsFunc(groups, func(g string) bool { return slices.Contains(t.ApproverGroups, g) }), err
}

// others are those who are none of the given persons.
func others(list []candidate, ids ...string) []candidate {
	return slices.DeleteFunc(slices.Clone(list), func(c candidate) bool { return slices.Contains(ids, c.ID) })
}

// narrowed are those who share a group with the requester, the approver groups
// apart; everybody where nobody does.
func narrowed(ctx context.Context, tx Tx, t *Template, pool []candidate, requesters []string) ([]candidate, error) {
	if !t.PreferRequesterGroups {
		return pool, nil
	}
	shared := slices.DeleteFunc(slices.Clone(requesters), func(g string) bool { return slices.Contains(t.ApproverGroups, g) })
	if len(shared) == 0 {
		return pool, nil
	}
	var near []candidate
	for _, c := range pool {
		groups, err := tx.GroupsOf(ctx, c.ID)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(groups, func(g string) bool { return slices.Contains(shared, g) }) {
			near = append(near, c)
		}
	}
	if len(near) == 0 {
		return pool, nil
	}
	return near, nil
}

// choose says who of the pool is told of a request, and where the turn is then.
func (t *Template) choose(pool []candidate, last Place) ([]Party, Place, error) {
	n := min(max(t.NotificationCount, 1), len(pool))
	switch t.NotificationPolicy {
	case FirstN:
		if len(pool) > 0 { // of the first listed group that has somebody, as far as it goes
			pool = slices.DeleteFunc(slices.Clone(pool), func(c candidate) bool { return c.group != pool[0].group })
			n = min(n, len(pool))
		}
	case RandomN:
		pool = slices.Clone(pool)
		for i := range n {
			k, err := rand.Int(rand.Reader, big.NewInt(int64(len(pool)-i)))
			if err != nil {
				return nil, last, err
			}
			j := i + int(k.Int64())
			pool[i], pool[j] = pool[j], pool[i]
		}
	case RoundRobin:
		pool = t.turn(pool, last)
		if n > 0 {
			last = pool[n-1].Place
		}
	case NotifyAll:
		n = len(pool)
	}
	told := make([]Party, 0, n)
	for i := range pool[:n] {
		told = append(told, pool[i].party())
	}
	return told, last, nil
}

// turn is the pool beginning with who comes after the last place. The place is that
// of a member, so that who comes or goes meanwhile takes nobody's turn.
func (t *Template) turn(pool []candidate, last Place) []candidate {
	group := 0
	if len(t.ApproverGroups) > 0 {
		if group = slices.Index(t.ApproverGroups, last.Group); group < 0 {
			return pool // that group approves no more: from the first on
		}
	}
	first := slices.IndexFunc(pool, func(c candidate) bool {
		return cmp.Or(cmp.Compare(c.group, group), cmp.Compare(c.Place.AddedAt, last.AddedAt), cmp.Compare(c.ID, last.Person)) > 0
	})
	if first <= 0 {
		return pool
	}
	return slices.Concat(pool[first:], pool[:first])
}
