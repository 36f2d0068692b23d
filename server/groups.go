package server

import (
	"net/http"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/people"
)

func (s *Server) createGroup(r *request) error {
	return once(r, func(call authz.Call) (people.Group, error) {
		in, err := people.ParseGroup(r.root())
		if err != nil {
			return people.Group{}, err
		}
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Groups.Create(ctx, call, in)
	}, func(g people.Group) reply {
		return reply{Status: http.StatusCreated, Location: "/v1/groups/" + g.ID, Body: appendGroup(nil, &g)}
	})
}

func appendGroup(b []byte, g *people.Group) []byte {
	b = strictjson.AppendString(append(b, `{"id":`...), g.ID)
	b = strictjson.AppendString(append(b, `,"customer_id":`...), g.Customer)
	b = strictjson.AppendString(append(b, `,"name":`...), g.Name)
	b = append(b, `,"member_ids":[`...)
	for i, m := range g.Members {
		if i > 0 {
			b = append(b, ',')
		}
		b = strictjson.AppendString(b, m.Person)
	}
	b = strictjson.AppendStrings(append(b, `],"entitlement_ids":`...), g.Entitlements)
	b = appendInstant(append(b, `,"created_at":`...), g.CreatedAt)
	return append(b, '}')
}

func (r *request) group(g people.Group, err error) error {
	if err != nil {
		return err
	}
	r.out = appendGroup(r.out[:0], &g)
	return r.json(http.StatusOK)
}

func (s *Server) getGroup(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	return r.group(s.cfg.Groups.Get(ctx, r.call(), r.named("id")))
}

func (s *Server) listGroups(r *request) error {
	q := r.query("name", "member_id", "limit", "cursor")
	pq := q.people("group")
	pq.Name, pq.Member = q.values["name"], q.values["member_id"]
	return listed(r, q, pq, "groups", s.cfg.Groups.List, func(g *people.Group) creation { return creation{g.CreatedAt, g.ID} }, "group", appendGroup)
}

func (s *Server) putGroup(r *request) error {
	in, err := people.ParseGroup(r.root())
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	return r.group(s.cfg.Groups.Update(ctx, r.call(), r.named("id"), in))
}

func (s *Server) deleteGroup(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	return r.deleted(s.cfg.Groups.Delete(ctx, r.call(), r.named("id")))
}

func (s *Server) putMember(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	return r.group(s.cfg.Groups.AddMember(ctx, r.call(), r.named("id"), r.named("user_id")))
}

func (s *Server) deleteMember(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	return r.deleted(s.cfg.Groups.RemoveMember(ctx, r.call(), r.named("id"), r.named("user_id")))
}

func (s *Server) createApplication(r *request) error {
	return once(r, func(call authz.Call) (people.Application, error) {
		name, err := people.ParseApplication(r.root())
		if err != nil {
			return people.Application{}, err
		}
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Catalogue.CreateApplication(ctx, call, name)
	}, func(a people.Application) reply {
		return reply{Status: http.StatusCreated, Location: "/v1/applications/" + a.ID, Body: appendApplication(nil, &a)}
	})
}

func appendApplication(b []byte, a *people.Application) []byte {
	b = strictjson.AppendString(append(b, `{"id":`...), a.ID)
	b = strictjson.AppendString(append(b, `,"customer_id":`...), a.Customer)
	b = strictjson.AppendString(append(b, `,"name":`...), a.Name)
	b = appendInstant(append(b, `,"created_at":`...), a.CreatedAt)
	return append(b, '}')
}

func (r *request) application(a people.Application, err error) error {
	if err != nil {
		return err
	}
	r.out = appendApplication(r.out[:0], &a)
	return r.json(http.StatusOK)
}

func (s *Server) getApplication(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	return r.application(s.cfg.Catalogue.Application(ctx, r.call(), r.named("id")))
}

func (s *Server) listApplications(r *request) error {
	q := r.query("name", "limit", "cursor")
	pq := q.people("application")
	pq.Name = q.values["name"]
	return listed(r, q, pq, "applications", s.cfg.Catalogue.Applications, func(a *people.Application) creation { return creation{a.CreatedAt, a.ID} }, "application", appendApplication)
}

func (s *Server) putApplication(r *request) error {
	name, err := people.ParseApplication(r.root())
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	return r.application(s.cfg.Catalogue.UpdateApplication(ctx, r.call(), r.named("id"), name))
}

func (s *Server) deleteApplication(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	return r.deleted(s.cfg.Catalogue.DeleteApplication(ctx, r.call(), r.named("id")))
}

func (s *Server) createEntitlement(r *request) error {
	return once(r, func(call authz.Call) (people.Entitlement, error) {
		in, err := people.ParseEntitlement(s.cfg.Parser, r.root())
		if err != nil {
			return people.Entitlement{}, err
		}
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Catalogue.CreateEntitlement(ctx, call, in)
	}, func(e people.Entitlement) reply {
		return reply{Status: http.StatusCreated, Location: "/v1/entitlements/" + e.ID, Body: appendEntitlement(nil, &e)}
	})
}

func appendEntitlement(b []byte, e *people.Entitlement) []byte {
	b = strictjson.AppendString(append(b, `{"id":`...), e.ID)
	b = strictjson.AppendString(append(b, `,"customer_id":`...), e.Customer)
	b = strictjson.AppendString(append(b, `,"app_id":`...), e.Application)
	b = strictjson.AppendString(append(b, `,"name":`...), e.Name)
	b = append(append(b, `,"entries":`...), e.Entries...)
	b = append(append(b, `,"claims":`...), e.Claims...)
	b = appendInstant(append(b, `,"created_at":`...), e.CreatedAt)
	return append(b, '}')
}

func (r *request) entitlement(e people.Entitlement, err error) error {
	if err != nil {
		return err
	}
	r.out = appendEntitlement(r.out[:0], &e)
	return r.json(http.StatusOK)
}

func (s *Server) getEntitlement(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	return r.entitlement(s.cfg.Catalogue.Entitlement(ctx, r.call(), r.named("id")))
}

func (s *Server) listEntitlements(r *request) error {
	q := r.query("app_id", "name", "limit", "cursor")
	pq := q.people("entitlement")
	pq.Application, pq.Name = q.values["app_id"], q.values["name"]
	return listed(r, q, pq, "entitlements", s.cfg.Catalogue.Entitlements, func(e *people.Entitlement) creation { return creation{e.CreatedAt, e.ID} }, "entitlement", appendEntitlement)
}

func (s *Server) putEntitlement(r *request) error {
	in, err := people.ParseEntitlement(s.cfg.Parser, r.root())
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	return r.entitlement(s.cfg.Catalogue.UpdateEntitlement(ctx, r.call(), r.named("id"), in))
}

func (s *Server) deleteEntitlement(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	return r.deleted(s.cfg.Catalogue.DeleteEntitlement(ctx, r.call(), r.named("id")))
}
