package server

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// maxChecks bounds the questions of one verification.
const maxChecks = 100

// verifyKey answers POST /v1/access_keys/verify: is this secret good, and what
// of these may it do? Always 200; a key of another customer is unknown.
func (s *Server) verifyKey(r *request) error {
	var key, checks strictjson.Value
	if err := members(r.root(), "", map[string]*strictjson.Value{"key": &key, "checks": &checks}); err != nil {
		return err
	}
	secret, err := text(key, place{}, "/key", 1<<10)
	if err != nil {
		return err
	}
	questions, err := readChecks(checks)
	if err != nil {
		return err
	}
	resolved, err := r.resolve(secret)
	if err != nil {
		return err
	}
	r.c.Set("Cache-Control", "no-store")
	b := append(r.out[:0], `{"valid":`...)
	b = strconv.AppendBool(b, resolved.Status == authz.Active)
	b = strictjson.AppendString(append(b, `,"code":`...), statusCode(resolved.Status))
	b = append(b, `,"key":`...)
	if resolved.Key == nil {
		b = append(b, `null`...)
	} else {
		ctx, cancel := r.context()
		defer cancel()
		record, err := s.cfg.KeyRecords.Key(ctx, r.caller.Customer.ID, resolved.Key.ID)
		if err != nil {
			return err
		}
		b = appendKey(b, &record, "")
	}
	b = append(b, `,"results":[`...)
	for i, q := range questions {
		if i > 0 {
			b = append(b, ',')
		}
		var verdict scopes.Verdict
		code := authz.ReasonCode(statusCode(resolved.Status))
		if resolved.Status == authz.Active {
			verdict = resolved.Key.Scopes.Decide(q)
			switch {
			case verdict.Permitted:
				code = authz.ScopePermits
			case verdict.Blocked: // the write needs values to be held to a restriction
				code = authz.ValueNotPermitted
			default:
				code = authz.ScopeMissing
			}
		}
		b = strconv.AppendBool(append(b, `{"permitted":`...), verdict.Permitted)
		b = append(strictjson.AppendString(append(b, `,"code":`...), string(code)), '}')
	}
	r.out = append(b, `]}`...)
	return r.json(http.StatusOK)
}

func readChecks(v strictjson.Value) (questions []scopes.Question, err error) {
	switch k := v.Kind(); {
	case k == strictjson.Missing:
		return nil, nil
	case k != strictjson.Array:
		return nil, faultAt("/checks", "wrong_type", "want an array, got "+k.String())
	case v.Len() > maxChecks:
		return nil, faultAt("/checks", "too_many_checks", "at most 100 checks")
	}
	for i, item := range v.Elements() {
		at := strictjson.PointerIndex("/checks", i)
		var resource, permission, typ, id strictjson.Value
		if err := members(item, at, map[string]*strictjson.Value{"resource": &resource, "permission": &permission}); err != nil {
			return nil, err
		}
		if err := object(resource, at+"/resource"); err != nil {
			return nil, err
		}
		if err := members(resource, at+"/resource", map[string]*strictjson.Value{"type": &typ, "id": &id}); err != nil {
			return nil, err
		}
		var q scopes.Question
		if q.Type, err = text(typ, place{at, "/resource"}, "/type", maxTypeName); err != nil {
			return nil, err
		}
		if q.ID, err = text(id, place{at, "/resource"}, "/id", scopes.MaxID); err != nil {
			return nil, err
		}
		if q.Action, err = text(permission, place{base: at}, "/permission", maxTypeName); err != nil {
			return nil, err
		}
		questions = append(questions, q)
	}
	return questions, nil
}

// resolve finds what an access key's secret stands for in the caller's
// customer; a root key and another customer's key stand for nothing.
func (r *request) resolve(secret string) (authz.Resolved, error) {
	resolved := r.s.cfg.Authenticator.Resolve([]byte(secret), r.now, r.source())
	if resolved.Err != nil {
		return authz.Resolved{}, authz.ErrUnverified(resolved.Err)
	}
	if resolved.Key == nil || resolved.Key.Customer != r.caller.Customer {
		return authz.Resolved{}, nil
	}
	return resolved, nil
}

func statusCode(s authz.Status) string {
	switch s {
	case authz.Active:
		return "valid"
	case authz.Expired:
		return string(authz.KeyExpired)
	case authz.Revoked:
		return string(authz.KeyRevoked)
	case authz.Unknown:
	}
	return string(authz.KeyUnknown)
}

// introspect answers POST /v1/introspect (RFC 7662).
func (s *Server) introspect(r *request) error {
	form, err := url.ParseQuery(r.body)
	if err != nil || len(form["token"]) != 1 || form.Get("token") == "" {
		return latchkey.InvalidFaults(latchkey.Fault{Pointer: "form:token", Code: "missing_token", Detail: "the form needs token, once"})
	}
	resolved, err := r.resolve(form.Get("token"))
	if err != nil {
		return err
	}
	r.c.Set("Cache-Control", "no-store")
	if resolved.Status != authz.Active {
		r.out = append(r.out[:0], `{"active":false}`...)
		return r.json(http.StatusOK)
	}
	ctx, cancel := r.context()
	defer cancel()
	record, err := s.cfg.KeyRecords.Key(ctx, r.caller.Customer.ID, resolved.Key.ID)
	if err != nil {
		return err
	}
	set := resolved.Key.Scopes
	b := append(r.out[:0], `{"active":true,"token_type":"access_key","sub":`...)
	b = strictjson.AppendString(b, record.ID.String())
	b = strictjson.AppendString(append(b, `,"client_id":`...), resolved.Handle.String())
	b = strictjson.AppendString(append(b, `,"username":`...), record.Username())
	b = strictjson.AppendString(append(b, `,"scope":`...), scopeNames(set))
	b = append(b, `,"iat":`...)
	b = strconv.AppendInt(b, record.CreatedAt.Time().Unix(), 10)
	if resolved.EndsAt != latchkey.Never {
		b = append(b, `,"exp":`...)
		b = strconv.AppendInt(b, resolved.EndsAt.Time().Unix(), 10)
	}
	b = strictjson.AppendString(append(b, `,"customer_id":`...), record.Customer)
	b = append(append(b, `,"scopes":`...), record.Scopes...)
	r.out = append(b, '}')
	return r.json(http.StatusOK)
}

// scopeNames lists, blank-separated as RFC 7662 wants, what the set gives
// something of.
func scopeNames(set *scopes.Set) string {
	var b []byte
	add := func(names ...string) {
		for _, n := range names {
			if len(b) > 0 {
				b = append(b, ' ')
			}
			b = append(b, n...)
		}
	}
	add(set.Booleans()...)
	if set.SeesKeys() {
		add(scopes.AccessKeys)
	}
	add(set.Types()...)
	return string(b)
}
