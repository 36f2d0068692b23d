package server

import (
	"net/http"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// createGrant takes {subject: {type, id}, entries | entitlement_ids, not_before?,
// expires_at, reason}.
func (s *Server) createGrant(r *request) error {
	now := r.now
	return once(r, func(call authz.Call) (authz.GrantRecord, error) {
		in, err := authz.ParseNewGrant(s.cfg.Parser, r.root(), now)
		if err != nil {
			return authz.GrantRecord{}, err
		}
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Granter.Create(ctx, call, in)
	}, func(g authz.GrantRecord) reply {
		return reply{Status: http.StatusCreated, Location: "/v1/grants/" + g.ID, Body: appendGrant(nil, &g, now)}
	})
}

func (s *Server) getGrant(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	g, err := s.cfg.Granter.Get(ctx, r.call(), r.param("id"))
	if err != nil {
		return err
	}
	r.out = appendGrant(r.out[:0], &g, r.now)
	return r.json(http.StatusOK)
}

// listGrants lists grants, newest first.
func (s *Server) listGrants(r *request) error {
	q := r.query("subject_type", "subject_id", "status", "limit", "cursor")
	gq := authz.GrantQuery{
		Subject: authz.EntityRef{Type: q.values["subject_type"], ID: q.values["subject_id"]},
		Status:  authz.GrantStatus(q.oneOf("status", string(authz.GrantActive), string(authz.GrantScheduled), string(authz.GrantEnded), string(authz.GrantAll))),
		Limit:   q.number("limit", 50, 1, 200),
	}
	for name, text := range map[string]string{"subject_type": gq.Subject.Type, "subject_id": gq.Subject.ID} {
		if _, given := q.values[name]; given && !scopes.ValidID(text) {
			q.fault(name, "invalid_parameter", "want UTF-8 of 1 to 1024 bytes")
		}
	}
	if cursor, ok := q.values["cursor"]; ok {
		if gq.AfterCreated, gq.AfterID, ok = parsePlace(cursor, "grant"); !ok {
			q.fault("cursor", "invalid_cursor", "want a next_cursor of an earlier page")
		}
	}
	if err := q.err(); err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	gq.Limit++ // one more tells whether there is a next page
	list, err := s.cfg.Granter.List(ctx, r.call(), gq)
	if err != nil {
		return err
	}
	return page(r, "grants", list, gq.Limit-1, func(b []byte, g *authz.GrantRecord) []byte { return appendGrant(b, g, r.now) },
		func(g *authz.GrantRecord) string { return cursorTo("grant", g.CreatedAt, g.ID) })
}

func (s *Server) revokeGrant(r *request) error {
	prefer, err := r.preferences()
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	g, err := s.cfg.Granter.Revoke(ctx, r.call(), r.param("id"))
	if err != nil {
		return err
	}
	return r.changed(&prefer, g.Version, func(b []byte) []byte { return appendGrant(b, &g, r.now) })
}

// appendGrant appends a grant, with what has become of it at now.
func appendGrant(b []byte, g *authz.GrantRecord, now latchkey.Instant) []byte {
	b = strictjson.AppendString(append(b, `{"id":`...), g.ID)
	b = strictjson.AppendString(append(b, `,"customer_id":`...), g.Customer)
	b = strictjson.AppendString(append(b, `,"subject":{"type":`...), g.Subject.Type)
	b = strictjson.AppendString(append(b, `,"id":`...), g.Subject.ID)
	b = append(append(b, `},"entries":`...), g.Entries...)
	b = strictjson.AppendStrings(append(b, `,"entitlement_ids":`...), g.Entitlements)
	b = appendOptional(append(b, `,"request_id":`...), g.Request)
	b = strictjson.AppendString(append(b, `,"reason":`...), g.Reason)
	b = strictjson.AppendString(append(b, `,"status":`...), string(g.Status(now)))
	b = appendInstant(append(b, `,"not_before":`...), g.NotBefore)
	b = appendInstant(append(b, `,"expires_at":`...), g.ExpiresAt)
	b = appendInstant(append(b, `,"revoked_at":`...), g.RevokedAt)
	b = appendInstant(append(b, `,"created_at":`...), g.CreatedAt)
	b = strictjson.AppendString(append(b, `,"created_by":{"type":`...), g.Author.Type)
	b = strictjson.AppendString(append(b, `,"id":`...), g.Author.ID)
	return append(b, `}}`...)
}
