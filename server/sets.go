package server

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

const (
	// setDeadline bounds writes to sets: a body may hold a million values.
	setDeadline = time.Minute
	// maxDescription is in characters.
	maxDescription = 1000
)

// createSet takes {name, entity_type, values?, description?}.
func (s *Server) createSet(r *request) error {
	return once(r, func(call authz.Call) (authz.SetView, error) {
		cond, err := r.conditions()
		if err != nil {
			return authz.SetView{}, err
		}
		var name, entityType, values, description strictjson.Value
		err = members(r.root(), "", map[string]*strictjson.Value{"name": &name, "entity_type": &entityType, "values": &values, "description": &description})
		if err != nil {
			return authz.SetView{}, err
		}
		var in authz.NewSet
		if in.Name, err = text(name, place{}, "/name", latchkey.MaxName); err != nil {
			return authz.SetView{}, err
		}
		if !latchkey.ValidName(in.Name) || authz.ContainsToken(in.Name) {
			return authz.SetView{}, faultAt("/name", "invalid_set_name", "a name is 1 to 128 of [A-Za-z0-9._:-], the first alphanumeric")
		}
		if in.EntityType, err = setType(entityType); err != nil {
			return authz.SetView{}, err
		}
		if in.Description, err = setDescription(description); err != nil {
			return authz.SetView{}, err
		}
		if in.Values, err = setValues(values, "/values"); err != nil {
			return authz.SetView{}, err
		}
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Sets.Create(ctx, call, in, cond)
	}, func(v authz.SetView) reply {
		return reply{Status: http.StatusCreated, Location: "/v1/sets/" + v.Name, ETag: v.ETag(), Body: appendSet(nil, &v.SetRecord, v.Values)}
	})
}

// setType returns one of the constants, which outlive the request.
func setType(v strictjson.Value) (scopes.EntityType, error) {
	name, err := text(v, place{}, "/entity_type", maxTypeName)
	if err != nil {
		return "", err
	}
	for _, t := range []scopes.EntityType{scopes.EntityString, scopes.EntityIP, scopes.EntityUint} {
		if name == string(t) {
			return t, nil
		}
	}
	return "", faultAt("/entity_type", "invalid_entity_type", "want string, ip or uint")
}

func setDescription(v strictjson.Value) (string, error) {
	switch k := v.Kind(); {
	case k == strictjson.Missing:
		return "", nil
	case k != strictjson.String:
		return "", faultAt("/description", "wrong_type", "want a string, got "+k.String())
	}
	text := v.Text()
	if utf8.RuneCountInString(text) > maxDescription {
		return "", faultAt("/description", "too_long", "a description has at most "+strconv.Itoa(maxDescription)+" characters")
	}
	if authz.ContainsToken(text) {
		return "", faultAt("/description", "credential_in_description", "a description must not hold a credential")
	}
	return text, nil
}

// setValues reads an array; what its elements are worth is the set's to say.
// An absent one is empty.
func setValues(v strictjson.Value, at string) ([]scopes.Value, error) {
	switch k := v.Kind(); k {
	case strictjson.Array, strictjson.Missing:
	default:
		return nil, faultAt(at, "wrong_type", "want an array of strings, got "+k.String())
	}
	var list []scopes.Value
	for _, e := range v.Elements() {
		list = append(list, scopes.Value{Text: e.Text(), NotText: e.Kind() != strictjson.String})
	}
	return list, nil
}

// replaceSet takes {values, description?}.
func (s *Server) replaceSet(r *request) error {
	cond, err := r.conditions()
	if err != nil {
		return err
	}
	var values, description strictjson.Value
	if err := members(r.root(), "", map[string]*strictjson.Value{"values": &values, "description": &description}); err != nil {
		return err
	}
	if values.Kind() == strictjson.Missing {
		return faultAt("/values", "missing_member", "the member is required")
	}
	var in authz.SetReplacement
	if in.Values, err = setValues(values, "/values"); err != nil {
		return err
	}
	if description.Kind() != strictjson.Missing {
		text, err := setDescription(description)
		if err != nil {
			return err
		}
		in.Description = &text
	}
	ctx, cancel := r.context()
	defer cancel()
	v, err := s.cfg.Sets.Replace(ctx, r.call(), r.param("name"), in, cond)
	if err != nil {
		return err
	}
	return r.sendSet(&v)
}

func (r *request) sendSet(v *authz.SetView) error {
	r.c.Set("ETag", v.ETag())
	r.out = appendSet(r.out[:0], &v.SetRecord, v.Values)
	return r.json(http.StatusOK)
}

// patchSet takes {add?, remove?}.
func (s *Server) patchSet(r *request) error {
	cond, err := r.conditions()
	if err != nil {
		return err
	}
	var add, remove strictjson.Value
	if err := members(r.root(), "", map[string]*strictjson.Value{"add": &add, "remove": &remove}); err != nil {
		return err
	}
	adds, err := setValues(add, "/add")
	if err != nil {
		return err
	}
	removes, err := setValues(remove, "/remove")
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	done, err := s.cfg.Sets.Patch(ctx, r.call(), r.param("name"), adds, removes, cond)
	if err != nil {
		return err
	}
	b := strconv.AppendInt(append(r.out[:0], `{"added":`...), int64(done.Added), 10)
	b = strconv.AppendInt(append(b, `,"removed":`...), int64(done.Removed), 10)
	b = strconv.AppendInt(append(b, `,"total":`...), int64(done.Total), 10)
	r.out = append(b, '}')
	r.c.Set("ETag", done.ETag)
	return r.json(http.StatusOK)
}

func (s *Server) getSet(r *request) error {
	cond, err := r.conditions()
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	v, err := s.cfg.Sets.Get(ctx, r.call(), r.param("name"))
	if err != nil {
		return err
	}
	if err := (&authz.Conditions{Match: cond.Match}).Met(v.ETag()); err != nil {
		return err
	}
	if !cond.Changed(v.ETag()) {
		r.c.Set("ETag", v.ETag())
		r.c.Status(http.StatusNotModified)
		return nil
	}
	return r.sendSet(&v)
}

func (s *Server) listSets(r *request) error {
	q := r.query("limit", "offset")
	limit, offset := q.number("limit", 50, 1, 200), q.number("offset", 0, 0, 1<<31-1)
	if err := q.err(); err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	list, total, err := s.cfg.Sets.List(ctx, r.call(), limit, offset)
	if err != nil {
		return err
	}
	b := append(appendEnvelope(r.out[:0], limit, offset, total), `"sets":[`...)
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendSet(b, &list[i], nil)
	}
	r.out = append(b, `]}`...)
	return r.json(http.StatusOK)
}

func (s *Server) deleteSet(r *request) error {
	cond, err := r.conditions()
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	if err := s.cfg.Sets.Delete(ctx, r.call(), r.param("name"), cond); err != nil {
		return err
	}
	r.c.Status(http.StatusNoContent)
	return nil
}

// listSetValues pages through a set in the order of the values' bytes.
func (s *Server) listSetValues(r *request) error {
	q := r.query("prefix", "limit", "cursor")
	vq := authz.ValueQuery{Prefix: q.values["prefix"], First: true, Limit: q.number("limit", 100, 1, 1000)}
	if len(vq.Prefix) > scopes.MaxValue || !utf8.ValidString(vq.Prefix) || strings.ContainsRune(vq.Prefix, 0) {
		q.fault("prefix", "invalid_parameter", "want UTF-8 of at most 1024 bytes")
	}
	if cursor, ok := q.values["cursor"]; ok {
		vq.First = false
		if vq.After, ok = parseValueCursor(cursor); !ok {
			q.fault("cursor", "invalid_cursor", "want a next_cursor of an earlier page")
		}
	}
	if err := q.err(); err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	values, more, err := s.cfg.Sets.Values(ctx, r.call(), r.param("name"), vq)
	if err != nil {
		return err
	}
	b := strictjson.AppendStrings(append(r.out[:0], `{"values":`...), values)
	b = append(b, `,"next_cursor":`...)
	if more {
		b = strictjson.AppendString(b, formatValueCursor(values[len(values)-1]))
	} else {
		b = append(b, `null`...)
	}
	r.out = append(b, '}')
	return r.json(http.StatusOK)
}

// A cursor is a place in a set that the caller may read; it opens nothing, so
// it is not authenticated.
func formatValueCursor(value string) string {
	return base64.RawURLEncoding.EncodeToString([]byte("value:" + value))
}

func parseValueCursor(text string) (string, bool) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	value, ok := strings.CutPrefix(string(b), "value:")
	return value, err == nil && ok && len(value) <= scopes.MaxValue && utf8.ValidString(value) && !strings.ContainsRune(value, 0)
}

// setValue is the path's value. The empty text, which a malformed segment
// decodes to, is not asked for by path.
func (r *request) setValue() (string, error) {
	value := r.param("value")
	if value == "" {
		return "", latchkey.Errorf(latchkey.NotFound, "value_not_found", "the set does not hold that value")
	}
	return value, nil
}

func (s *Server) getSetValue(r *request) error {
	value, err := r.setValue()
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	stored, err := s.cfg.Sets.HasValue(ctx, r.call(), r.param("name"), value)
	if err != nil {
		return err
	}
	r.out = append(strictjson.AppendString(append(r.out[:0], `{"value":`...), stored), '}')
	return r.json(http.StatusOK)
}

func (s *Server) deleteSetValue(r *request) error {
	cond, err := r.conditions()
	if err != nil {
		return err
	}
	value, err := r.setValue()
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	if err := s.cfg.Sets.DeleteValue(ctx, r.call(), r.param("name"), value, cond); err != nil {
		return err
	}
	r.c.Status(http.StatusNoContent)
	return nil
}

// appendSet appends a set's record, and its values where they are shown.
func appendSet(b []byte, s *authz.SetRecord, values []string) []byte {
	b = strictjson.AppendString(append(b, `{"id":`...), s.ID)
	b = strictjson.AppendString(append(b, `,"name":`...), s.Name)
	b = strictjson.AppendString(append(b, `,"entity_type":`...), string(s.EntityType))
	if s.Description != "" {
		b = strictjson.AppendString(append(b, `,"description":`...), s.Description)
	}
	b = strconv.AppendInt(append(b, `,"total":`...), int64(s.Size), 10)
	b = strconv.AppendInt(append(b, `,"version":`...), s.Version, 10)
	b = appendInstant(append(b, `,"created_at":`...), s.CreatedAt)
	b = appendInstant(append(b, `,"updated_at":`...), s.UpdatedAt)
	if values != nil {
		b = strictjson.AppendStrings(append(b, `,"values":`...), values)
	}
	return append(b, '}')
}
