package access

import (
	"context"

	"github.com/latchkey-dev/latchkey/authz"
)

// Reader is a person who reads about a request, and whether they may decide on it.
// Only then is the justification for their eyes.
type Reader struct {
	Person  authz.Person
	Request Request
	Decides bool
}

// Reader looks a person up who is to be told of a request, by the rules of Approve
// and Get: NotFound where either is gone, the person is not active, or the request
// does not concern them any more.
func (s *Requests) Reader(ctx context.Context, customer, person, id string) (Reader, error) {
	if !authz.IsID(id) || !authz.IsID(person) {
		return Reader{}, errRequestNotFound
	}
	r, err := s.cfg.Record.Request(ctx, customer, id)
	if err != nil {
		return Reader{}, err
	}
	p, err := s.cfg.Record.Person(ctx, customer, person)
	if err != nil {
		return Reader{}, err
	}
	if !p.Active {
		return Reader{}, errRequestNotFound
	}
	present, err := s.present(ctx, &r)
	if err != nil {
		return Reader{}, err
	}
	groups, err := s.cfg.Record.GroupsOf(ctx, customer, person)
	if err != nil {
		return Reader{}, err
	}
	own := person == r.Requester.ID || person == r.Beneficiary.ID
	decides := r.decides(&present, groups, p.IsAdmin()) && (!own || r.Snapshot.Template.AllowSelfApproval && present.AllowSelfApproval)
	if !own && !decides && !r.concerns(&authz.Caller{Kind: authz.PersonalTokenCredential, Person: &p}, &present, groups) {
		return Reader{}, errRequestNotFound
	}
	return Reader{Person: p, Request: r, Decides: decides}, nil
}
