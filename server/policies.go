package server

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
)

func (s *Server) createPolicy(r *request) error {
	return once(r, func(call authz.Call) (authz.PolicyRecord, error) {
		cond, err := r.conditions()
		if err != nil {
			return authz.PolicyRecord{}, err
		}
		d, err := policies.ParseDocument(r.root(), "")
		if err != nil {
			return authz.PolicyRecord{}, err
		}
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Policies.Create(ctx, call, d, cond)
	}, func(p authz.PolicyRecord) reply {
		return reply{Status: http.StatusCreated, Location: "/v1/policies/" + p.Name, ETag: p.ETag(), Body: appendPolicy(nil, &p)}
	})
}

// policyName is the path's, which a policy may bear.
func (r *request) policyName() (string, error) {
	name := r.param("name")
	switch {
	case policies.ValidPolicyName(name):
		return strings.Clone(name), nil // it may be kept
	case latchkey.ValidName(name):
		return "", faultAt("path:name", "reserved_name", "the name is a path of its own under /decision")
	}
	return "", faultAt("path:name", "invalid_policy_name", "a name is 1 to 128 of [A-Za-z0-9._:-], the first alphanumeric")
}

func (s *Server) putPolicy(r *request) error {
	name, err := r.policyName()
	if err != nil {
		return err
	}
	cond, err := r.conditions()
	if err != nil {
		return err
	}
	d, err := policies.ParseDocument(r.root(), name)
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	p, made, err := s.cfg.Policies.Put(ctx, r.call(), d, cond)
	if err != nil {
		return err
	}
	if made {
		r.c.Set("Location", "/v1/policies/"+p.Name)
		return r.sendPolicy(http.StatusCreated, &p)
	}
	return r.sendPolicy(http.StatusOK, &p)
}

func (s *Server) getPolicy(r *request) error {
	cond, err := r.conditions()
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	p, err := s.cfg.Policies.Get(ctx, r.call(), r.param("name"))
	if err != nil {
		return err
	}
	return r.policyIf(&p, cond)
}

// policyIf replies with the policy as far as the conditions want it.
func (r *request) policyIf(p *authz.PolicyRecord, cond authz.Conditions) error {
	if err := (&authz.Conditions{Match: cond.Match}).Met(p.ETag()); err != nil {
		return err
	}
	if !cond.Changed(p.ETag()) {
		r.c.Set("ETag", p.ETag())
		r.c.Status(http.StatusNotModified)
		return nil
	}
	return r.sendPolicy(http.StatusOK, p)
}

func (r *request) sendPolicy(status int, p *authz.PolicyRecord) error {
	r.c.Set("ETag", p.ETag())
	r.out = appendPolicy(r.out[:0], p)
	return r.json(status)
}

func (s *Server) deletePolicy(r *request) error {
	cond, err := r.conditions()
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	if err := s.cfg.Policies.Delete(ctx, r.call(), r.param("name"), cond); err != nil {
		return err
	}
	r.c.Status(http.StatusNoContent)
	return nil
}

func (s *Server) listPolicies(r *request) error {
	return r.policyList("policies", func(limit, offset int) ([]authz.PolicyRecord, int, error) {
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Policies.List(ctx, r.call(), limit, offset)
	}, func(b []byte, p *authz.PolicyRecord) []byte {
		b = strictjson.AppendString(append(b, `{"id":`...), p.ID)
		b = strictjson.AppendString(append(b, `,"name":`...), p.Name)
		b = strconv.AppendInt(append(b, `,"version":`...), p.Version, 10)
		b = strictjson.AppendString(append(b, `,"language":`...), p.Language)
		if p.Description != "" {
			b = strictjson.AppendString(append(b, `,"description":`...), p.Description)
		}
		return appendTimes(b, p)
	})
}

func (s *Server) listVersions(r *request) error {
	return r.policyList("versions", func(limit, offset int) ([]authz.PolicyRecord, int, error) {
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Policies.Versions(ctx, r.call(), r.param("name"), limit, offset)
	}, func(b []byte, p *authz.PolicyRecord) []byte {
		b = strconv.AppendInt(append(b, `{"version":`...), p.Version, 10)
		b = strictjson.AppendString(append(b, `,"language":`...), p.Language)
		b = appendInstant(append(b, `,"created_at":`...), p.UpdatedAt)
		return append(appendAuthor(b, p), '}')
	})
}

// policyList replies with a page in the envelope of all lists.
func (r *request) policyList(name string, find func(limit, offset int) ([]authz.PolicyRecord, int, error), appendOne func([]byte, *authz.PolicyRecord) []byte) error {
	q := r.query("limit", "offset")
	limit, offset := q.number("limit", 50, 1, 200), q.number("offset", 0, 0, 1<<31-1)
	if err := q.err(); err != nil {
		return err
	}
	list, total, err := find(limit, offset)
	if err != nil {
		return err
	}
	b := appendEnvelope(r.out[:0], limit, offset, total)
	b = append(strictjson.AppendString(b, name), ":["...)
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendOne(b, &list[i])
	}
	r.out = append(b, `]}`...)
	return r.json(http.StatusOK)
}

func (s *Server) getVersion(r *request) error {
	cond, err := r.conditions()
	if err != nil {
		return err
	}
	version, ok := versionNumber(r.param("version"))
	if !ok {
		version = 0 // there is none
	}
	ctx, cancel := r.context()
	defer cancel()
	p, err := s.cfg.Policies.Version(ctx, r.call(), r.param("name"), version)
	if err != nil {
		return err
	}
	return r.policyIf(&p, cond)
}

// versionNumber reads the one spelling of a version.
func versionNumber(text string) (int64, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && n > 0 && strconv.FormatInt(n, 10) == text
}

// rollbackPolicy takes {version}.
func (s *Server) rollbackPolicy(r *request) error {
	return once(r, func(call authz.Call) (authz.PolicyRecord, error) {
		cond, err := r.conditions()
		if err != nil {
			return authz.PolicyRecord{}, err
		}
		var version strictjson.Value
		if err := members(r.root(), "", map[string]*strictjson.Value{"version": &version}); err != nil {
			return authz.PolicyRecord{}, err
		}
		n, ok := versionNumber(version.Raw())
		if version.Kind() == strictjson.Missing {
			return authz.PolicyRecord{}, faultAt("/version", "missing_member", "the member is required")
		}
		if version.Kind() != strictjson.Number || !ok {
			return authz.PolicyRecord{}, faultAt("/version", "invalid_version", "want a version's number")
		}
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Policies.Rollback(ctx, call, r.param("name"), n, cond)
	}, func(p authz.PolicyRecord) reply {
		return reply{Status: http.StatusOK, ETag: p.ETag(), Body: appendPolicy(nil, &p)}
	})
}

// testPolicy takes {document?, cases[]} and publishes nothing.
func (s *Server) testPolicy(r *request) error {
	name, err := r.policyName()
	if err != nil {
		return err
	}
	var document, cases strictjson.Value
	if err := members(r.root(), "", map[string]*strictjson.Value{"document": &document, "cases": &cases}); err != nil {
		return err
	}
	var d *policies.Document
	if document.Kind() != strictjson.Missing {
		if d, err = policies.ParseDocument(document, name); err != nil {
			return below("/document", err)
		}
	}
	list, err := policies.ParseCases(cases, "/cases", r.now)
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	t, err := s.cfg.Policies.Test(ctx, r.call(), name, d, list)
	if err != nil {
		return below("/document", err)
	}
	r.out = appendTest(r.out[:0], &t)
	return r.json(http.StatusOK)
}

// below moves the pointers of an Invalid error to below a member.
func below(member string, err error) error {
	e, ok := errors.AsType[*latchkey.Error](err)
	if !ok || e.Kind != latchkey.Invalid {
		return err
	}
	faults := slices.Clone(e.Faults)
	for i := range faults {
		faults[i].Pointer = member + faults[i].Pointer
	}
	return latchkey.InvalidFaults(faults...)
}

func appendTest(b []byte, t *authz.PolicyTest) []byte {
	b = strictjson.AppendString(append(b, `{"policy":{"name":`...), t.Policy.Document.Name)
	b = append(b, `,"version":`...)
	if t.Policy.Version == 0 {
		b = append(b, `null`...)
	} else {
		b = strconv.AppendInt(b, t.Policy.Version, 10)
	}
	passed := 0
	for i := range t.Results {
		if t.Results[i].Passed() {
			passed++
		}
	}
	b = strconv.AppendInt(append(b, `},"passed":`...), int64(passed), 10)
	b = strconv.AppendInt(append(b, `,"failed":`...), int64(len(t.Results)-passed), 10)
	b = append(b, `,"results":[`...)
	for i := range t.Results {
		if i > 0 {
			b = append(b, ',')
		}
		b = t.Results[i].AppendJSON(b)
	}
	return append(t.Coverage.AppendJSON(append(b, `],"coverage":`...)), '}')
}

// appendPolicy appends a version of a policy: its document, with what the
// record adds to that.
func appendPolicy(b []byte, p *authz.PolicyRecord) []byte {
	b = strictjson.AppendString(append(b, `{"id":`...), p.ID)
	b = strconv.AppendInt(append(b, `,"version":`...), p.Version, 10)
	b = append(append(b, ','), strings.TrimSuffix(p.Document[1:], "}")...)
	return appendTimes(b, p)
}

func appendTimes(b []byte, p *authz.PolicyRecord) []byte {
	b = appendInstant(append(b, `,"created_at":`...), p.CreatedAt)
	b = appendInstant(append(b, `,"updated_at":`...), p.UpdatedAt)
	return append(appendAuthor(b, p), '}')
}

// appendAuthor appends who made the version.
func appendAuthor(b []byte, p *authz.PolicyRecord) []byte {
	b = strictjson.AppendString(append(b, `,"created_by":{"type":`...), p.Author.Type)
	b = strictjson.AppendString(append(b, `,"id":`...), p.Author.ID)
	return append(b, '}')
}
