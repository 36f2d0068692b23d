package authz

import (
	"context"
	"slices"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/scopes"
)

// MaxCandidates is how many candidates one page of a search looks at.
const MaxCandidates = 1000

// Searcher answers which subjects, resources or actions a question would be
// permitted for (OpenID AuthZEN 1.0, Search). Each candidate is decided as a
// question of its own. Safe for concurrent use.
type Searcher struct {
	record DirectoryRecord
	pdp    *PDP
}

// NewSearcher makes one.
func NewSearcher(record DirectoryRecord, pdp *PDP) *Searcher {
	return &Searcher{record: record, pdp: pdp}
}

// May allows root and keys with the scope search.
func (*Searcher) May(c *Caller) error {
	if c.IsRoot() || c.Scopes().Has(scopes.Search) {
		return nil
	}
	return latchkey.Errorf(latchkey.Forbidden, "scope_missing", "the key lacks the scope search")
}

// Page is which part of the results is wanted.
type Page struct {
	After string // the Next of the page before, "" for the first
	Limit int    // at least 1
}

// Found is one page of results: ids, or names of actions. A page may hold fewer
// than the limit though others follow.
type Found struct {
	Names []string
	Next  string // "" on the last page
}

// Subjects finds the subjects of q's subject type, whose id is not looked at.
// Of access keys, those in force count that the caller may see.
func (s *Searcher) Subjects(ctx context.Context, caller *Caller, q *Request, page Page, now latchkey.Instant) (Found, error) {
	if err := s.May(caller); err != nil {
		return Found{}, err
	}
	var ids []string
	var err error
	if q.Subject.Type == SubjectAccessKey {
		visible := KeyCandidates{Customer: caller.Customer.ID, Now: now, After: page.After, Limit: MaxCandidates + 1}
		if !caller.IsRoot() {
			visible.HiddenNames = caller.Scopes().HiddenMask()
			if caller.Key != nil { // a person has none
				visible.Own = caller.Key.ID.String()
			}
		}
		ids, err = s.record.ActiveKeyIDs(ctx, visible)
	} else {
		ids, err = s.record.SubjectIDs(ctx, caller.Customer.ID, q.Subject.Type, page.After, now, MaxCandidates+1)
	}
	if err != nil {
		return Found{}, err
	}
	q.Secret = ""
	return s.look(ctx, caller.Customer, q, &q.Subject.ID, ids, page.Limit, now), nil
}

// Resources finds the resources of q's resource type, whose id is not looked
// at.
func (s *Searcher) Resources(ctx context.Context, caller *Caller, q *Request, page Page, now latchkey.Instant) (Found, error) {
	if err := s.May(caller); err != nil {
		return Found{}, err
	}
	ids, err := s.record.ResourceIDs(ctx, caller.Customer.ID, q.Resource.Type, page.After, MaxCandidates+1)
	if err != nil {
		return Found{}, err
	}
	return s.look(ctx, caller.Customer, q, &q.Resource.ID, ids, page.Limit, now), nil
}

// Actions finds the actions, among those of the resource type's catalogue;
// where it has none, among create, read, update, delete and what the scopes of
// a key, and grants, name besides.
func (s *Searcher) Actions(ctx context.Context, caller *Caller, q *Request, page Page, now latchkey.Instant) (Found, error) {
	if err := s.May(caller); err != nil {
		return Found{}, err
	}
	t, catalogued, err := s.record.ResourceType(ctx, caller.Customer.ID, q.Resource.Type)
	if err != nil {
		return Found{}, err
	}
	names := t.Actions
	if !catalogued {
		if names, err = s.named(caller.Customer, q, now); err != nil {
			return Found{}, err
		}
	}
	if page.After != "" {
		i := slices.Index(names, page.After)
		if i < 0 {
			return Found{}, latchkey.InvalidFaults(latchkey.Fault{Pointer: "/page/token", Code: "stale_token", Detail: "the catalogue of actions has changed; begin again"})
		}
		names = names[i+1:]
	}
	return s.look(ctx, caller.Customer, q, &q.Action.Name, names, page.Limit, now), nil
}

// named are the actions that are known without a catalogue.
func (s *Searcher) named(c *Customer, q *Request, now latchkey.Instant) ([]string, error) {
	key, _, _ := s.pdp.subject(c, q, now)
	var sets []*scopes.Set
	grants, err := (*Grants)(nil), error(nil)
	switch {
	case key != nil:
		sets, grants = append(sets, key.Scopes), key.Grants()
	case q.Subject.Type != SubjectAccessKey:
		if grants, err = s.pdp.grants(c, q); err != nil {
			return nil, latchkey.Errorf(latchkey.Unavailable, "not_ready", "the subject's grants cannot be had now; try again").Because(err)
		}
	}
	if grants != nil {
		for i := range grants.List {
			sets = append(sets, grants.List[i].Set)
		}
	}
	return slices.Concat(builtinActions, customActions(sets, q.Resource.Type)), nil
}

// look decides on one candidate after the other, put into q, until the limit is
// reached, as many as a page may look at, or ctx ends; at least one.
func (s *Searcher) look(ctx context.Context, c *Customer, q *Request, into *string, candidates []string, limit int, now latchkey.Instant) (f Found) {
	var d Decision
	for i, candidate := range candidates {
		if i == MaxCandidates || len(f.Names) == limit || i > 0 && ctx.Err() != nil {
			f.Next = candidates[i-1]
			return f
		}
		*into = candidate
		if err := s.pdp.Decide(&d, c, q, now); err == nil && d.Permit {
			f.Names = append(f.Names, candidate)
		}
	}
	return f
}
