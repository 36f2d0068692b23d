package scopes

import "math/bits"

// Question is one thing asked of a scope set: may the action be done to the
// resource of that type and id? The caller has checked [ValidID].
type Question struct {
	Type, ID, Action string
	// Values are what a write to a set adds and removes; nil when the question
	// gives none. Looked at for type "sets" and create, update, delete only.
	Values *Values
}

// Values are the values of a write to a set, as the question spells them.
type Values struct {
	EntityType EntityType
	Added      []Value
	Removed    []Value
	// Malformed says that the lists could not be read at all.
	Malformed bool
}

// Value is one value of a write. NotText marks one that was not a string.
type Value struct {
	Text    string
	NotText bool
}

func (v *Values) empty() bool {
	return v == nil || len(v.Added) == 0 && len(v.Removed) == 0 && !v.Malformed
}

// Verdict answers a Question. The zero Verdict refuses.
type Verdict struct {
	Permitted bool
	// Blocked: an entry matches and has the permission, and it is the values
	// that are malformed or not admitted.
	Blocked bool
	// BadAdded and BadRemoved are the indexes of those values.
	BadAdded, BadRemoved []int
	granting             uint16
}

// Granting yields the indexes of the entries that contribute to a permit, in
// list order.
func (v Verdict) Granting(yield func(int) bool) {
	for m := v.granting; m != 0; m &= m - 1 {
		if !yield(bits.TrailingZeros16(m)) {
			return
		}
	}
}

// Permits is Decide's Permitted.
func (s *Set) Permits(q Question) bool { return s.Decide(q).Permitted }

// Decide answers q. It is linear in the entries of the type (at most ten) and
// allocates only where values are refused, and for the canonical text of ip
// values. A set that lacks the right, an
// unknown type and a boolean scope asked about as a type all refuse.
func (s *Set) Decide(q Question) Verdict {
	entries := s.Entries(q.Type)
	var matching uint16
	for i := range entries {
		if e := &entries[i]; e.Selector.Matches(q.ID) && e.permits(q.Action) {
			matching |= 1 << i
		}
	}
	if matching == 0 {
		return Verdict{}
	}
	if q.Type != Sets || PermissionOf(q.Action)&^Read == 0 {
		return Verdict{Permitted: true, granting: matching}
	}
	return decideValues(entries, matching, q.Values)
}

// decideValues holds a write's values to the restrictions of the matching
// entries: each needs one entry that admits it.
func decideValues(entries []Entry, matching uint16, values *Values) Verdict {
	if values.empty() {
		granting := matching
		for i := range entries {
			if entries[i].Restriction != nil {
				granting &^= 1 << i
			}
		}
		return Verdict{Permitted: granting != 0, Blocked: granting == 0, granting: granting}
	}
	if values.Malformed {
		return Verdict{Blocked: true}
	}
	var v Verdict
	check := func(list []Value) (bad []int) {
		for i, value := range list {
			admitting := admitting(entries, matching, values.EntityType, value)
			if admitting == 0 {
				bad = append(bad, i)
			}
			v.granting |= admitting
		}
		return bad
	}
	v.BadAdded, v.BadRemoved = check(values.Added), check(values.Removed)
	v.Blocked = len(v.BadAdded)+len(v.BadRemoved) > 0
	v.Permitted = !v.Blocked
	if v.Blocked {
		v.granting = 0
	}
	return v
}

func admitting(entries []Entry, matching uint16, t EntityType, value Value) (mask uint16) {
	canonical, ok := t.Canonical(value.Text)
	if !ok || value.NotText {
		return 0
	}
	for i := range entries {
		if matching&(1<<i) != 0 && entries[i].Restriction.admits(t, canonical) {
			mask |= 1 << i
		}
	}
	return mask
}

// EntryTrace tells, for one entry of the type asked about, why it did or did
// not grant.
type EntryTrace struct {
	Index           int
	Entry           *Entry
	SelectorMatches bool
	ActionPermitted bool
	// Refused are the indexes of the values that this entry does not admit.
	RefusedAdded, RefusedRemoved []int
	// Grants: the entry contributes to the permit.
	Grants bool
	// Why is selector_mismatch, permission_missing, values_required,
	// value_not_permitted or granted.
	Why string
}

// Explain looks at every entry of the type, whether or not an earlier one
// granted; the verdict is Decide's.
func (s *Set) Explain(q Question) (Verdict, []EntryTrace) {
	verdict := s.Decide(q)
	entries := s.Entries(q.Type)
	traces := make([]EntryTrace, 0, len(entries))
	for i := range entries {
		t := EntryTrace{
			Index: i, Entry: &entries[i],
			SelectorMatches: entries[i].Selector.Matches(q.ID),
			ActionPermitted: entries[i].permits(q.Action),
			Grants:          verdict.granting&(1<<i) != 0,
		}
		switch {
		case !t.SelectorMatches:
			t.Why = "selector_mismatch"
		case !t.ActionPermitted:
			t.Why = "permission_missing"
		case q.Type == Sets && PermissionOf(q.Action)&^Read != 0:
			alone := decideValues(entries, 1<<i, q.Values)
			t.RefusedAdded, t.RefusedRemoved = alone.BadAdded, alone.BadRemoved
			switch {
			case alone.Permitted || t.Grants:
				t.Why = "granted"
			case q.Values.empty():
				t.Why = "values_required"
			default:
				t.Why = "value_not_permitted"
			}
		default:
			t.Why = "granted"
		}
		traces = append(traces, t)
	}
	return verdict, traces
}
