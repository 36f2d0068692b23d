package authz

import (
	"cmp"
	"slices"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/feed"
)

// Held is what a subject that is not an access key holds. A subject of type user
// is the person that has the name, where one has: what is held is the person's
// then, whichever of its names was asked by, and nothing of what was granted to
// the bare name. A person that is not active holds nothing.
type Held struct {
	// Person is the id of the person, "" where the subject is none.
	Person string
	Grants []GrantRecord // that have not ended, by id
	// Standing are the entitlements of the groups that the person is in, one for
	// each entitlement, by id.
	Standing []Standing
}

// Standing is an entitlement that a person holds for as long as it is in a group
// that gives it.
type Standing struct {
	Entitlement, Name string
	Entries           string // canonical JSON object: resource type → entries
	// Group is the first, by its id, that gives it.
	Group, GroupName string
}

// Reason is why the person holds it, as decisions and policies are told.
func (s *Standing) Reason() string {
	return "entitlement " + s.Name + " of group " + s.GroupName
}

// Body is what a record tells of it, with when the last of it ends on its own.
// That a name is a person's does not end.
func (h *Held) Body() (body feed.SubjectBody, until latchkey.Instant) {
	body.Grants, until = GrantBodies(h.Grants)
	for i := range h.Standing {
		s := &h.Standing[i]
		body.Entitlements = append(body.Entitlements, feed.EntitlementBody{ID: s.Entitlement, Group: s.Group, Entries: s.Entries, Reason: s.Reason()})
	}
	if body.Person = h.Person; h.Person != "" {
		until = latchkey.Never
	}
	return body, until
}

// Hold keeps of the entitlements the first of each, by entitlement and group.
func (h *Held) Hold(list []Standing) {
	slices.SortFunc(list, func(a, b Standing) int {
		return cmp.Or(cmp.Compare(a.Entitlement, b.Entitlement), cmp.Compare(a.Group, b.Group))
	})
	h.Standing = slices.CompactFunc(list, func(a, b Standing) bool { return a.Entitlement == b.Entitlement })
}
