package server

import (
	"context"
	"net/http"
	"strconv"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/people"
)

// createUser takes {username, email?, name?, type?, active?}, and shows what is
// shown once: the claim code, and the default key.
func (s *Server) createUser(r *request) error {
	return once(r, func(call authz.Call) (people.Made, error) {
		in, err := people.ParsePerson(r.root())
		if err != nil {
			return people.Made{}, err
		}
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Persons.Create(ctx, call, in)
	}, func(m people.Made) reply {
		b := appendPerson(nil, &m.Person)
		b = append(b[:len(b)-1], `,"claim":`...)
		if m.Claim.EndsAt == 0 {
			b = append(b, `null`...)
		} else {
			b = appendClaim(b, &m.Claim)
		}
		b = append(b, `,"access_key":`...)
		if m.Key == nil {
			b = strictjson.AppendString(append(b, `null,"warnings":[{"code":`...), m.Without)
			b = strictjson.AppendString(append(b, `,"detail":`...), m.WithoutDetail)
			b = append(b, `}]}`...)
		} else {
			b = append(appendKey(b, &m.Key.Key, m.Key.Token.Reveal()), `,"warnings":[]}`...)
		}
		return reply{Status: http.StatusCreated, Location: "/v1/users/" + m.Person.ID, Body: b}
	})
}

func appendPerson(b []byte, p *authz.Person) []byte {
	b = strictjson.AppendString(append(b, `{"id":`...), p.ID)
	b = strictjson.AppendString(append(b, `,"customer_id":`...), p.Customer)
	b = strictjson.AppendString(append(b, `,"username":`...), p.Username)
	b = appendOptional(append(b, `,"email":`...), p.Email)
	b = appendOptional(append(b, `,"name":`...), p.Name)
	b = strictjson.AppendString(append(b, `,"type":`...), string(p.Type))
	b = strconv.AppendBool(append(b, `,"active":`...), p.Active)
	b = appendInstant(append(b, `,"created_at":`...), p.CreatedAt)
	return append(b, '}')
}

// appendOptional appends a string, or null for none.
func appendOptional(b []byte, s string) []byte {
	if s == "" {
		return append(b, `null`...)
	}
	return strictjson.AppendString(b, s)
}

func appendClaim(b []byte, c *people.Claim) []byte {
	b = strictjson.AppendString(append(b, `{"code":`...), c.Code.Reveal())
	b = appendInstant(append(b, `,"expires_at":`...), c.EndsAt)
	return append(b, '}')
}

// userID is the person that the path names; "self" is who calls.
func (r *request) userID() string {
	id := r.named("id")
	if id == "self" && r.caller.Person != nil {
		return r.caller.Person.ID
	}
	return id
}

func (s *Server) getUser(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	p, err := s.cfg.Persons.Get(ctx, r.call(), r.userID())
	if err != nil {
		return err
	}
	r.out = appendPerson(r.out[:0], &p)
	return r.json(http.StatusOK)
}

func (s *Server) listUsers(r *request) error {
	q := r.query("username", "email", "type", "active", "limit", "cursor")
	pq := q.people("user")
	pq.Username = q.values["username"]
	if email, ok := q.values["email"]; ok {
		if pq.Email, ok = authz.FoldEmail(email); !ok {
			q.fault("email", "invalid_parameter", "want an e-mail address")
		}
	}
	if text, ok := q.values["type"]; ok {
		if pq.Type, ok = people.ParsePersonType(text); !ok {
			q.fault("type", "invalid_parameter", "want one of user, admin, internal_admin")
		}
	}
	if _, ok := q.values["active"]; ok {
		active := q.oneOf("active", "true", "false") == "true"
		pq.Active = &active
	}
	return listed(r, q, pq, "users", s.cfg.Persons.List, func(p *authz.Person) creation { return creation{p.CreatedAt, p.ID} }, "user", appendPerson)
}

func (s *Server) putUser(r *request) error {
	in, err := people.ParsePerson(r.root())
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	p, err := s.cfg.Persons.Update(ctx, r.call(), r.userID(), in)
	if err != nil {
		return err
	}
	r.out = appendPerson(r.out[:0], &p)
	return r.json(http.StatusOK)
}

// deleteUser deactivates a person, whose record stays.
func (s *Server) deleteUser(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	_, err := s.cfg.Persons.Deactivate(ctx, r.call(), r.userID())
	return r.deleted(err)
}

func (s *Server) claimUser(r *request) error {
	return once(r, func(call authz.Call) (people.Reclaimed, error) {
		ctx, cancel := r.context()
		defer cancel()
		p, claim, err := s.cfg.Persons.Reclaim(ctx, call, r.userID())
		return people.Reclaimed{Person: p, Claim: claim}, err
	}, func(c people.Reclaimed) reply {
		b := strictjson.AppendString([]byte(`{"id":`), c.Person.ID)
		b = appendClaim(append(b, `,"claim":`...), &c.Claim)
		return reply{Status: http.StatusCreated, Body: append(b, '}')}
	})
}

// createToken takes {name} of a person who calls, or {claim_code, name} of a
// stranger: a code that does not hold is a failed authentication.
func (s *Server) createToken(r *request) error {
	if rd := s.readiness(r.now); !rd.answers(r.route) {
		return r.notReady(&rd)
	}
	var code, name strictjson.Value
	if err := members(r.root(), "", map[string]*strictjson.Value{"claim_code": &code, "name": &name}); err != nil {
		return err
	}
	stranger := r.head.authorizations == 0
	switch k := code.Kind(); {
	case !stranger && k != strictjson.Missing:
		return faultAt("/claim_code", "two_credentials", "one credential a request: a claim code, or a credential of your own")
	case !stranger:
		if err := r.authenticate(); err != nil {
			return err
		}
		if rd := r.customerReadiness(); !rd.answers(r.route) {
			return r.notReady(&rd)
		}
		if err := s.cfg.Tokens.May(&r.caller); err != nil {
			return err
		}
	case k == strictjson.Missing:
		return authz.ErrUnauthenticated()
	case k != strictjson.String:
		return faultAt("/claim_code", "wrong_type", "want a string, got "+k.String())
	}
	if stranger {
		r.caller = authz.Caller{Source: r.source(), RequestID: r.id}
		if token, ok := authz.ParseToken([]byte(code.Text())); ok {
			r.claim = token.Handle()
		}
	}
	err := once(r, func(call authz.Call) (people.NewToken, error) {
		called, err := people.ParseTokenName(name)
		if err != nil {
			return people.NewToken{}, err
		}
		ctx, cancel := r.context()
		defer cancel()
		if stranger {
			return s.cfg.Tokens.Claim(ctx, call, code.Text(), called)
		}
		return s.cfg.Tokens.Create(ctx, call, called)
	}, func(t people.NewToken) reply {
		b := appendToken(nil, &t.Secret)
		b = strictjson.AppendString(append(b[:len(b)-1], `,"token":`...), t.Token.Reveal())
		return reply{Status: http.StatusCreated, Location: "/v1/personal_tokens/" + t.ID, Body: append(b, '}')}
	})
	if stranger && latchkey.KindOf(err) == latchkey.Unauthenticated {
		if latchkey.CodeOf(err) == "invalid_credential" { // which of these it is, nobody is told
			err = latchkey.Errorf(latchkey.Unauthenticated, "invalid_credential", "the claim code is unknown, or was used, replaced, or made more than 72 hours ago").Because(err)
		}
		return r.failed(err)
	}
	return err
}

func appendToken(b []byte, t *people.Secret) []byte {
	b = strictjson.AppendString(append(b, `{"id":`...), t.ID)
	b = strictjson.AppendString(append(b, `,"user_id":`...), t.Person)
	b = strictjson.AppendString(append(b, `,"name":`...), t.Name)
	b = strictjson.AppendString(append(b, `,"handle":`...), "lkp1_"+t.Kid.String())
	b = appendInstant(append(b, `,"created_at":`...), t.CreatedAt)
	b = appendInstant(append(b, `,"expires_at":`...), t.EndsAt)
	return append(b, '}')
}

func (s *Server) listTokens(r *request) error {
	q := r.query("user_id")
	if err := q.err(); err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	list, err := s.cfg.Tokens.List(ctx, r.call(), q.values["user_id"])
	if err != nil {
		return err
	}
	b := append(r.out[:0], `{"personal_tokens":[`...)
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendToken(b, &list[i])
	}
	r.out = append(b, `]}`...)
	return r.json(http.StatusOK)
}

func (s *Server) revokeToken(r *request) error {
	q := r.query("user_id")
	if err := q.err(); err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	id := r.named("id")
	if _, ok := authz.ParseKeyID(id); !ok {
		return latchkey.Errorf(latchkey.NotFound, "token_not_found", "there is no such personal token")
	}
	return r.deleted(s.cfg.Tokens.Revoke(ctx, r.call(), q.values["user_id"], id))
}

// creation is where a record stands in a list by creation.
type creation struct {
	at latchkey.Instant
	id string
}

// people reads limit and cursor of a list of a kind.
func (q *query) people(kind string) people.Query {
	pq := people.Query{Limit: q.number("limit", 50, 1, 200)}
	for name, value := range q.values {
		if !isText(value) {
			q.fault(name, "invalid_parameter", "want UTF-8 without U+0000")
		}
	}
	if cursor, ok := q.values["cursor"]; ok {
		if pq.AfterCreated, pq.AfterID, ok = parsePlace(cursor, kind); !ok {
			q.fault("cursor", "invalid_cursor", "want a next_cursor of an earlier page")
		}
	}
	return pq
}

// listed answers one page of a list by creation.
func listed[T any](r *request, q *query, pq people.Query, name string, find func(context.Context, authz.Call, people.Query) ([]T, error), at func(*T) creation, kind string, render func([]byte, *T) []byte) error {
	if err := q.err(); err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	limit := pq.Limit
	pq.Limit++ // one more tells whether there is a next page
	found, err := find(ctx, r.call(), pq)
	if err != nil {
		return err
	}
	return page(r, name, found, limit, render, func(of *T) string {
		p := at(of)
		return cursorTo(kind, p.at, p.id)
	})
}
