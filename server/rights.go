package server

import (
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// userGroups answers the groups that a person is in now.
func (s *Server) userGroups(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	list, err := s.cfg.Rights.Groups(ctx, r.call(), r.userID())
	if err != nil {
		return err
	}
	b := append(r.out[:0], `{"groups":[`...)
	for i := range list {
		g := &list[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = strictjson.AppendString(append(b, `{"id":`...), g.ID)
		b = strictjson.AppendString(append(b, `,"name":`...), g.Name)
		b = strconv.AppendBool(append(b, `,"system":`...), g.System)
		b = append(appendInstant(append(b, `,"expires_at":`...), g.ExpiresAt), '}')
	}
	r.out = append(b, `]}`...)
	return r.now200()
}

// userClaims answers what a token issuer is to tell of a person now.
func (s *Server) userClaims(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	claims, err := s.cfg.Rights.Claims(ctx, r.call(), r.userID())
	if err != nil {
		return err
	}
	b := append(r.out[:0], `{"claims":{`...)
	for i, name := range slices.Sorted(maps.Keys(claims.Values)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = strictjson.AppendStrings(append(strictjson.AppendString(b, name), ':'), claims.Values[name])
	}
	b = appendInstant(append(b, `},"expires_at":`...), claims.ExpiresAt)
	r.out = append(b, '}')
	return r.now200()
}

// now200 answers what holds now and is not to be kept.
func (r *request) now200() error {
	r.c.Response().Header.Set("Cache-Control", "no-store")
	return r.json(http.StatusOK)
}
