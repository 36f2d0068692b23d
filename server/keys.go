package server

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

func (s *Server) createKey(r *request) error {
	return once(r, func(call authz.Call) (authz.Created, error) {
		in, err := authz.ParseNewKey(s.cfg.Parser, r.root(), r.now)
		if err != nil {
			return authz.Created{}, err
		}
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Keys.Create(ctx, call, in)
	}, createdReply)
}

func createdReply(c authz.Created) reply {
	return reply{
		Status: http.StatusCreated, Location: "/v1/access_keys/" + c.Key.ID.String(),
		Body: appendKey(nil, &c.Key, c.Token.Reveal()),
	}
}

// rotateKey takes {grace}: a duration like "24h", or seconds; absent is none.
func (s *Server) rotateKey(r *request) error {
	return once(r, func(call authz.Call) (authz.Created, error) {
		var grace strictjson.Value
		if err := members(r.root(), "", map[string]*strictjson.Value{"grace": &grace}); err != nil {
			return authz.Created{}, err
		}
		id, err := r.keyID()
		if err != nil {
			return authz.Created{}, err
		}
		if !s.cfg.Keys.Sees(&r.caller, s.cfg.Table.Key(id)) {
			return authz.Created{}, errKeyNotFound
		}
		wait, err := duration(grace, "/grace", authz.MaxGrace)
		if err != nil {
			return authz.Created{}, err
		}
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Keys.Rotate(ctx, call, id, wait)
	}, createdReply)
}

func duration(v strictjson.Value, at string, most time.Duration) (time.Duration, error) {
	var d time.Duration
	switch v.Kind() {
	case strictjson.Missing:
		return 0, nil
	case strictjson.String:
		var err error
		if d, err = time.ParseDuration(v.Text()); err != nil {
			return 0, faultAt(at, "invalid_duration", `want a duration like "24h" or "90s", or whole seconds`)
		}
	case strictjson.Number:
		seconds, err := strconv.ParseInt(v.Raw(), 10, 32)
		if err != nil {
			return 0, faultAt(at, "invalid_duration", `want a duration like "24h" or "90s", or whole seconds`)
		}
		d = time.Duration(seconds) * time.Second
	default:
		return 0, faultAt(at, "wrong_type", "want a string or a number, got "+v.Kind().String())
	}
	if d < 0 || d > most {
		return 0, faultAt(at, "invalid_duration", "want a duration from 0 to "+most.String())
	}
	return d, nil
}

var errKeyNotFound = latchkey.Errorf(latchkey.NotFound, "key_not_found", "there is no such access key")

func (r *request) keyID() (authz.KeyID, error) {
	id, ok := authz.ParseKeyID(r.param("id"))
	if !ok {
		return id, errKeyNotFound
	}
	return id, nil
}

func (s *Server) getKey(r *request) error {
	id, err := r.keyID()
	if err != nil {
		return err
	}
	return r.withKey(func(call authz.Call) (authz.Key, error) {
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Keys.Get(ctx, call, id)
	}, nil)
}

// getSelf shows the caller's own record with what its scopes come to.
func (s *Server) getSelf(r *request) error {
	return r.withKey(func(call authz.Call) (authz.Key, error) {
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Keys.Self(ctx, call)
	}, func(b []byte) []byte { return appendRights(b, r.caller.Scopes()) })
}

// withKey replies with one key's record and whatever extra appends to it.
func (r *request) withKey(find func(authz.Call) (authz.Key, error), extra func([]byte) []byte) error {
	k, err := find(r.call())
	if err != nil {
		return err
	}
	r.out = appendKey(r.out[:0], &k, "")
	if extra != nil {
		r.out = append(extra(r.out[:len(r.out)-1]), '}')
	}
	return r.json(http.StatusOK)
}

func (s *Server) keyRego(r *request) error {
	id, err := r.keyID()
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	module, err := s.cfg.Keys.Rego(ctx, r.call(), id)
	if err != nil {
		return err
	}
	r.c.Response().Header.SetContentType("text/plain; charset=utf-8")
	return r.c.SendString(module)
}

func (s *Server) listKeys(r *request) error {
	q := r.query("status", "limit", "offset", "sort_field", "sort_direction", "metadata.")
	kq := authz.KeyQuery{
		Status:    q.oneOf("status", "active", "all", "revoked", "revocked"),
		Limit:     q.number("limit", 10, 1, 100),
		Offset:    q.number("offset", 0, 0, 1<<31-1),
		SortField: q.oneOf("sort_field", "created_at", "revoked_at"),
		Ascending: q.oneOf("sort_direction", "desc", "asc") == "asc",
		Metadata:  map[string]string{},
	}
	if kq.Status == "revocked" { // the access-key document's spelling
		kq.Status = "revoked"
	}
	for name, value := range q.values {
		if field, ok := strings.CutPrefix(name, "metadata."); ok {
			kq.Metadata[field] = value
		}
	}
	if err := q.err(); err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	page, err := s.cfg.Keys.List(ctx, r.call(), kq)
	if err != nil {
		return err
	}
	b := appendEnvelope(r.out[:0], kq.Limit, kq.Offset, page.Total)
	b = append(b, `"access_keys":[`...)
	for i := range page.Keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendKey(b, &page.Keys[i], "")
	}
	r.out = append(b, `]}`...)
	return r.json(http.StatusOK)
}

// appendEnvelope begins a list: limit, offset, total, and a comma.
func appendEnvelope(b []byte, limit, offset, total int) []byte {
	b = append(b, `{"limit":`...)
	b = strconv.AppendInt(b, int64(limit), 10)
	b = append(b, `,"offset":`...)
	b = strconv.AppendInt(b, int64(offset), 10)
	b = append(b, `,"total":`...)
	b = strconv.AppendInt(b, int64(total), 10)
	return append(b, ',')
}

func (s *Server) revokeKey(r *request) error {
	id, ok := authz.ParseKeyID(r.param("id"))
	if err := s.cfg.Keys.MayRevoke(&r.caller, id); err != nil { // by name, so before anything else
		return err
	}
	if err := r.query().err(); err != nil {
		return err
	}
	prefer, err := r.preferences()
	if err != nil {
		return err
	}
	if !ok {
		return errKeyNotFound
	}
	ctx, cancel := r.context()
	defer cancel()
	k, seq, err := s.cfg.Keys.Revoke(ctx, r.call(), id)
	if err != nil {
		return err
	}
	return r.changed(&prefer, seq, func(b []byte) []byte { return appendKey(b, &k, "") })
}

// preferences are what Prefer asks for (RFC 7240).
type preferences struct {
	representation, wait bool
	waits                time.Duration // with wait
	applied              string
}

// maxWait bounds Prefer: wait, in seconds.
const maxWait = 60

func (r *request) preferences() (p preferences, err error) {
	var applied []string
	for _, header := range r.c.Request().Header.PeekAll("Prefer") {
		for part := range strings.SplitSeq(string(header), ",") {
			switch part = strings.TrimSpace(part); {
			case part == "return=representation":
				p.representation = true
			case strings.HasPrefix(part, "wait="):
				n, err := strconv.Atoi(part[len("wait="):])
				if err != nil || n < 0 || n > maxWait {
					return p, faultAt("header:Prefer", "invalid_preference", "wait is 0 to 60 seconds")
				}
				p.wait, p.waits = true, time.Duration(n)*time.Second
			default: // unknown preferences are ignored, as RFC 7240 says
				continue
			}
			applied = append(applied, part)
		}
	}
	p.applied = strings.Join(applied, ", ")
	return p, nil
}

// appendKey appends a key's record, with the secret where it is shown.
func appendKey(b []byte, k *authz.Key, secret string) []byte {
	text := func(name, value string) {
		b = append(strictjson.AppendString(b, name), ':')
		b = append(strictjson.AppendString(b, value), ',')
	}
	instant := func(name string, at latchkey.Instant) {
		b = append(strictjson.AppendString(b, name), ':')
		b = append(appendInstant(b, at), ',')
	}
	b = append(b, '{')
	text("id", k.ID.String())
	text("customer_id", k.Customer)
	if secret != "" {
		text("key", secret)
	}
	text("handle", k.Handle)
	b = append(append(append(b, `"scopes":`...), k.Scopes...), ',')
	b = append(append(append(b, `"metadata":`...), k.Metadata...), ',')
	instant("expires_at", k.ExpiresAt)
	instant("created_at", k.CreatedAt)
	instant("revoked_at", k.RevokedAt)
	instant("last_used_at", k.LastUsedAt)
	if k.RotatedFrom != "" {
		text("rotated_from", k.RotatedFrom)
	}
	b[len(b)-1] = '}'
	return b
}

// appendInstant appends a JSON string, or null for Never.
func appendInstant(b []byte, at latchkey.Instant) []byte {
	if at == latchkey.Never {
		return append(b, `null`...)
	}
	return append(at.AppendText(append(b, '"')), '"')
}

// appendRights appends a member "rights": what a scope set comes to, implied
// permissions spelled out.
func appendRights(b []byte, set *scopes.Set) []byte {
	b = append(b, `,"rights":{"booleans":`...)
	b = strictjson.AppendStrings(b, set.Booleans())
	b = append(b, `,"access_keys":`...)
	b = strictjson.AppendStrings(b, set.Visible())
	b = append(b, `,"resources":{`...)
	for i, typ := range set.Types() {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(strictjson.AppendString(b, typ), ':'), '[')
		for j, e := range set.Entries(typ) {
			if j > 0 {
				b = append(b, ',')
			}
			b = append(b, `{"selector":`...)
			b = appendSelector(b, e.Selector)
			b = append(b, `,"permissions":`...)
			b = strictjson.AppendStrings(b, e.Permissions.Implied().Names())
			b = append(b, `,"actions":`...)
			b = strictjson.AppendStrings(b, e.Actions)
			b = append(b, `,"restricted":`...)
			b = append(strconv.AppendBool(b, e.Restriction != nil), '}')
		}
		b = append(b, ']')
	}
	return append(b, `}}`...)
}
