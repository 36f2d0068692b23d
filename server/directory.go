package server

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

const (
	// maxBulk is how many entities one call may change: seconds of the one writer's
	// time, for which other changes wait.
	maxBulk      = 20_000
	bulkDeadline = 30 * time.Second
)

// bulk answers a bulk update: each item is parsed alone, what is right is
// stored, and what is wrong is answered in its place.
func bulk[U, R any](r *request, name string, parse func(strictjson.Value, string) (U, error), store func([]U) ([]R, error), render func([]byte, *R) []byte) error {
	var list strictjson.Value
	if err := members(r.root(), "", map[string]*strictjson.Value{name: &list}); err != nil {
		return err
	}
	switch k := list.Kind(); {
	case k == strictjson.Missing:
		return faultAt("/"+name, "missing_member", "the member is required")
	case k != strictjson.Array:
		return faultAt("/"+name, "wrong_type", "want an array, got "+k.String())
	case list.Len() > maxBulk:
		return faultAt("/"+name, "too_many_items", "at most "+strconv.Itoa(maxBulk)+" items a request")
	}
	faults := map[int]error{}
	updates := make([]U, 0, list.Len())
	for i, v := range list.Elements() {
		u, err := parse(v, strictjson.PointerIndex("/"+name, i))
		if err != nil {
			faults[i] = err
			continue
		}
		updates = append(updates, u)
	}
	var stored []R
	if len(updates) > 0 {
		var err error
		if stored, err = store(updates); err != nil {
			return err
		}
	}
	b := append(append(append(r.out[:0], `{"`...), name...), `":[`...)
	for i := range list.Elements() {
		if i > 0 {
			b = append(b, ',')
		}
		if err, wrong := faults[i]; wrong {
			b = r.appendFault(b, err)
			continue
		}
		b = render(b, &stored[0])
		stored = stored[1:]
	}
	r.out = append(b, `]}`...)
	return r.json(http.StatusOK)
}

// appendFault answers for an item that could not be taken.
func (r *request) appendFault(b []byte, err error) []byte {
	e := classify(err)
	b = append(b, `{"error":{"status":`...)
	b = strconv.AppendInt(b, int64(r.s.status(e)), 10)
	b = strictjson.AppendString(append(b, `,"code":`...), e.Code)
	b = strictjson.AppendString(append(b, `,"message":`...), public(e.Public))
	return append(b, `}}`...)
}

func (s *Server) updateSubjects(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	return bulk(r, "subjects", authz.ParseSubjectUpdate, func(updates []authz.SubjectUpdate) ([]authz.SubjectRecord, error) {
		return s.cfg.Directory.UpdateSubjects(ctx, r.call(), updates)
	}, appendSubject)
}

func (s *Server) updateResources(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	return bulk(r, "resources", authz.ParseResourceUpdate, func(updates []authz.ResourceUpdate) ([]authz.ResourceRecord, error) {
		return s.cfg.Directory.UpdateResources(ctx, r.call(), updates)
	}, appendResource)
}

func appendSubject(b []byte, s *authz.SubjectRecord) []byte {
	b = strictjson.AppendString(append(b, `{"type":`...), s.Type)
	b = strictjson.AppendString(append(b, `,"id":`...), s.ID)
	b = append(append(b, `,"properties":`...), s.Properties...)
	return append(b, '}')
}

func appendResource(b []byte, r *authz.ResourceRecord) []byte {
	b = strictjson.AppendString(append(b, `{"kind":`...), r.Type)
	b = strictjson.AppendString(append(b, `,"id":`...), r.ID)
	b = strictjson.AppendString(append(b, `,"displayName":`...), r.DisplayName)
	b = append(append(b, `,"labels":`...), r.Labels...)
	b = append(append(b, `,"properties":`...), r.Properties...)
	return append(b, '}')
}

func appendResourceType(b []byte, t *authz.ResourceType) []byte {
	b = strictjson.AppendString(append(b, `{"type":`...), t.Type)
	return append(strictjson.AppendStrings(append(b, `,"actions":`...), t.Actions), '}')
}

// named is a segment of the path; what cannot be a name is "", which finds
// nothing.
func (r *request) named(segment string) string {
	if name := r.param(segment); isText(name) {
		return name
	}
	return ""
}

// isText reports whether a database can be asked about s.
func isText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

func (r *request) subjectPath() authz.EntityRef {
	return authz.EntityRef{Type: r.named("type"), ID: r.named("id")}
}

func (r *request) resourcePath() authz.EntityRef {
	return authz.EntityRef{Type: r.named("kind"), ID: r.named("id")}
}

func (s *Server) getSubject(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	subject, err := s.cfg.Directory.Subject(ctx, r.call(), r.subjectPath())
	if err != nil {
		return err
	}
	r.out = appendSubject(r.out[:0], &subject)
	return r.json(http.StatusOK)
}

func (s *Server) getResource(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	resource, err := s.cfg.Directory.Resource(ctx, r.call(), r.resourcePath())
	if err != nil {
		return err
	}
	r.out = appendResource(r.out[:0], &resource)
	return r.json(http.StatusOK)
}

func (s *Server) getResourceType(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	t, err := s.cfg.Directory.ResourceType(ctx, r.call(), r.named("type"))
	if err != nil {
		return err
	}
	r.out = appendResourceType(r.out[:0], &t)
	return r.json(http.StatusOK)
}

func (s *Server) putResourceType(r *request) error {
	t, err := authz.ParseResourceType(r.root(), r.param("type"))
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	if err := s.cfg.Directory.SetResourceType(ctx, r.call(), t); err != nil {
		return err
	}
	r.out = appendResourceType(r.out[:0], &t)
	return r.json(http.StatusOK)
}

func (s *Server) deleteSubject(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	return r.deleted(s.cfg.Directory.DeleteSubject(ctx, r.call(), r.subjectPath()))
}

func (s *Server) deleteResource(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	return r.deleted(s.cfg.Directory.DeleteResource(ctx, r.call(), r.resourcePath()))
}

func (s *Server) deleteResourceType(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	return r.deleted(s.cfg.Directory.DeleteResourceType(ctx, r.call(), r.named("type")))
}

func (r *request) deleted(err error) error {
	if err == nil {
		r.c.Status(http.StatusNoContent)
	}
	return err
}

// entities reads the filters and the place of a list. kind is the parameter
// that filters by type.
func (r *request) entities(kind string, further ...string) (authz.EntityQuery, error) {
	q := r.query(append([]string{kind, "prefix", "limit", "cursor"}, further...)...)
	list := authz.EntityQuery{Type: q.values[kind], Prefix: q.values["prefix"], Limit: q.number("limit", 50, 1, 1000)}
	for name, value := range q.values {
		if !isText(name) || !isText(value) {
			q.fault(name, "invalid_parameter", "want UTF-8 without U+0000")
		}
		if label, ok := strings.CutPrefix(name, "label."); ok {
			if list.Labels == nil {
				list.Labels = map[string]string{}
			}
			list.Labels[label] = value
		}
	}
	if cursor, ok := q.values["cursor"]; ok {
		if list.After, ok = parseEntityCursor(cursor); !ok {
			q.fault("cursor", "invalid_cursor", "want a next_cursor of an earlier page")
		}
	}
	return list, q.err()
}

// list answers one page of a list; find is asked for one more than fits, which
// tells whether there is a next page.
func list[T any](r *request, name string, q authz.EntityQuery, find func(authz.EntityQuery) ([]T, error), ref func(*T) authz.EntityRef, render func([]byte, *T) []byte) error {
	limit := q.Limit
	q.Limit++
	found, err := find(q)
	if err != nil {
		return err
	}
	b := append(append(append(r.out[:0], `{"`...), name...), `":[`...)
	for i := range found[:min(limit, len(found))] {
		if i > 0 {
			b = append(b, ',')
		}
		b = render(b, &found[i])
	}
	b = append(b, `],"next_cursor":`...)
	if len(found) > limit {
		b = strictjson.AppendString(b, formatEntityCursor(ref(&found[limit-1])))
	} else {
		b = append(b, `null`...)
	}
	r.out = append(b, '}')
	return r.json(http.StatusOK)
}

func (s *Server) listSubjects(r *request) error {
	q, err := r.entities("type")
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	return list(r, "subjects", q, func(q authz.EntityQuery) ([]authz.SubjectRecord, error) {
		return s.cfg.Directory.Subjects(ctx, r.call(), q)
	}, func(s *authz.SubjectRecord) authz.EntityRef { return s.EntityRef }, appendSubject)
}

func (s *Server) listResources(r *request) error {
	q, err := r.entities("kind", "label.")
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	return list(r, "resources", q, func(q authz.EntityQuery) ([]authz.ResourceRecord, error) {
		return s.cfg.Directory.Resources(ctx, r.call(), q)
	}, func(r *authz.ResourceRecord) authz.EntityRef { return r.EntityRef }, appendResource)
}

func (s *Server) listResourceTypes(r *request) error {
	q, err := r.entities("type")
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	return list(r, "resource_types", q, func(q authz.EntityQuery) ([]authz.ResourceType, error) {
		return s.cfg.Directory.ResourceTypes(ctx, r.call(), q)
	}, func(t *authz.ResourceType) authz.EntityRef { return authz.EntityRef{Type: t.Type} }, appendResourceType)
}

// A cursor is a place in the caller's own list; it opens nothing, so it is not
// authenticated. Neither types nor ids hold control characters.
func formatEntityCursor(ref authz.EntityRef) string {
	return base64.RawURLEncoding.EncodeToString([]byte(ref.Type + "\x00" + ref.ID))
}

func parseEntityCursor(text string) (ref authz.EntityRef, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return ref, false
	}
	ref.Type, ref.ID, ok = strings.Cut(string(b), "\x00")
	return ref, ok && ref.Type != "" && isText(ref.Type) && isText(ref.ID)
}
