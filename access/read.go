package access

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
)

// discussed is how long after a request was closed its discussion goes on.
const discussed = 7 * 24 * time.Hour

// Get returns a request that concerns the caller; to anybody else there is none.
func (s *Requests) Get(ctx context.Context, call authz.Call, id string) (Request, error) {
	if !authz.IsID(id) {
		return Request{}, errRequestNotFound
	}
	r, err := s.cfg.Record.Request(ctx, call.Customer.ID, id)
	if err != nil {
		return Request{}, err
	}
	present, err := s.present(ctx, &r)
	if err != nil {
		return Request{}, err
	}
	groups, err := s.groups(ctx, &call)
	if err != nil {
		return Request{}, err
	}
	if !r.concerns(&call.Caller, &present, groups) {
		return Request{}, errRequestNotFound
	}
	r.Withheld = r.withheld(&call.Caller, &present, groups)
	return r, nil
}

// present is a request's template as it is now, the zero one where it was deleted.
func (s *Requests) present(ctx context.Context, r *Request) (Template, error) {
	if r.Template == "" {
		return Template{}, nil
	}
	t, err := s.cfg.Record.Template(ctx, r.Customer, r.Template)
	if latchkey.KindOf(err) == latchkey.NotFound { // since the request was read
		r.Template = ""
		return Template{}, nil
	}
	return t, err
}

func (s *Requests) groups(ctx context.Context, call *authz.Call) ([]string, error) {
	if !call.IsPerson() {
		return nil, nil
	}
	return s.cfg.Record.GroupsOf(ctx, call.Customer.ID, call.Person.ID)
}

// Allowing are those of the templates by which the caller may ask, as far as its
// groups go.
func (s *Requests) Allowing(ctx context.Context, call authz.Call, list []Template) ([]Template, error) {
	groups, err := s.groups(ctx, &call)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(t Template) bool { return !t.allows(groups) }), nil
}

// MayList allows managers.
func (*Requests) MayList(c *authz.Caller) error { return authz.MayManage(c) }

// List returns a page of all requests, for managers.
func (s *Requests) List(ctx context.Context, call authz.Call, q Query) ([]Request, error) {
	if err := s.MayList(&call.Caller); err != nil {
		return nil, err
	}
	return s.list(ctx, &call, RequestQuery{Query: q})
}

func (s *Requests) list(ctx context.Context, call *authz.Call, q RequestQuery) ([]Request, error) {
	q.Customer, q.Now, q.Requester = call.Customer.ID, call.Now, strings.ToLower(q.Requester)
	return s.cfg.Record.Requests(ctx, q)
}

// Mine returns a page of the caller's requests; of an access key, of those that it
// submitted.
func (s *Requests) Mine(ctx context.Context, call authz.Call, q Query) ([]Request, error) {
	switch {
	case call.IsPerson():
		return s.list(ctx, &call, RequestQuery{Query: q, For: call.Person.ID})
	case call.Key != nil:
		return s.list(ctx, &call, RequestQuery{Query: q, SubmittedBy: call.Key.ID.String()})
	default: // root has none
		return nil, nil
	}
}

// Pending returns a page of the requests that wait for the caller's decision: those
// that it may decide on and has not yet approved.
func (s *Requests) Pending(ctx context.Context, call authz.Call, q Query) ([]Request, error) {
	if !call.IsPerson() {
		return nil, nil
	}
	groups, err := s.groups(ctx, &call)
	if err != nil {
		return nil, err
	}
	me := call.Person.ID
	templates := map[string]Template{}
	page := RequestQuery{Query: q, Awaiting: &Approver{Groups: groups, Admin: call.IsAdmin()}}
	var list []Request
	for len(list) < q.Limit {
		some, err := s.list(ctx, &call, page)
		if err != nil {
			return nil, err
		}
		for i := range some {
			r := &some[i]
			t, known := templates[r.Template]
			if !known {
				if t, err = s.present(ctx, r); err != nil {
					return nil, err
				}
				templates[r.Template] = t
			}
			switch {
			case !r.decides(&t, groups, call.IsAdmin()),
				slices.ContainsFunc(r.Approvals, func(v Vote) bool { return v.By.ID == me }),
				(me == r.Requester.ID || me == r.Beneficiary.ID) && (!r.Snapshot.Template.AllowSelfApproval || !t.AllowSelfApproval):
				continue
			}
			if list = append(list, *r); len(list) == q.Limit {
				break
			}
		}
		if len(some) < q.Limit {
			break
		}
		last := &some[len(some)-1]
		page.AfterCreated, page.AfterID = last.CreatedAt, last.ID
	}
	return list, nil
}

// Messages returns a page of the discussion of a request, oldest first; after is
// the last one of the page before.
func (s *Requests) Messages(ctx context.Context, call authz.Call, id string, after Message, limit int) ([]Message, error) {
	if _, err := s.Get(ctx, call, id); err != nil {
		return nil, err
	}
	return s.cfg.Record.Messages(ctx, call.Customer.ID, id, after, limit)
}

// AddMessage adds a line to it, until a week after the request was closed: by a
// person whom the request concerns, or a manager.
func (s *Requests) AddMessage(ctx context.Context, call authz.Call, id, body string) (m Message, err error) {
	if strings.TrimSpace(body) == "" {
		return m, fault("/body", "blank_message", "say something")
	}
	if err := textAllowed(body, "/body"); err != nil {
		return m, err
	}
	if !call.IsPerson() && !call.Manages() {
		return m, errPersonRequired()
	}
	author := Party{ID: call.Actor().ID} // of root, or of an access key
	if call.IsPerson() {
		author = PartyOf(call.Person)
	}
	messageID := uuid.NewString()
	err = s.cfg.Record.Change(ctx, call.Change(func() any { return m }), func(tx Tx) (audit.Draft, error) {
		r, _, _, err := s.found(ctx, tx, &call, id)
		if err != nil {
			return audit.Draft{}, err
		}
		if closed := r.ClosedSince(call.Now); closed != latchkey.Never && call.Now >= closed.Add(discussed) {
			return audit.Draft{}, latchkey.Errorf(latchkey.Conflict, "discussion_closed", "the request was closed more than a week ago")
		}
		m = Message{ID: messageID, Request: id, Author: author, Body: body, CreatedAt: call.Now}
		return draft(&call, &r, "message", r.told("").text("message_id", m.ID)), tx.InsertMessage(ctx, m)
	})
	if err != nil {
		return Message{}, err
	}
	return m, nil
}

// ClosedSince is when a request came to its end, whether or not that is written
// down; Never of an open one.
func (r *Request) ClosedSince(now latchkey.Instant) latchkey.Instant {
	if at := r.EndsAt(); now >= at {
		return at
	}
	return r.ClosedAt
}
