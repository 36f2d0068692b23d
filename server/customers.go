package server

import (
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// maxCustomerName is in characters.
const maxCustomerName = 200

func (s *Server) createCustomer(r *request) error {
	return once(r, func(call authz.Call) (authz.CustomerRecord, error) {
		var name, id, limit strictjson.Value
		err := members(r.root(), "", map[string]*strictjson.Value{"name": &name, "id": &id, "max_active_keys": &limit})
		if err != nil {
			return authz.CustomerRecord{}, err
		}
		c := authz.CustomerRecord{ID: uuid.NewString()}
		if c.Name, err = customerName(name); err != nil {
			return c, err
		}
		if id.Kind() != strictjson.Missing {
			if c.ID = strings.Clone(id.Text()); !latchkey.ValidName(c.ID) || authz.ContainsToken(c.ID) {
				return c, faultAt("/id", "invalid_customer_id", "an id is 1 to 128 of [A-Za-z0-9._:-], the first alphanumeric")
			}
		}
		if limit.Kind() != strictjson.Missing {
			if c.MaxActiveKeys, err = maxActiveKeys(limit); err != nil {
				return c, err
			}
		}
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Customers.Create(ctx, call, c)
	}, func(c authz.CustomerRecord) reply {
		return reply{Status: http.StatusCreated, Location: "/v1/customers/" + c.ID, Body: appendCustomer(nil, &c)}
	})
}

func customerName(v strictjson.Value) (string, error) {
	name, err := text(v, place{}, "/name", 4*maxCustomerName)
	if err == nil && (strings.TrimSpace(name) == "" || utf8.RuneCountInString(name) > maxCustomerName) {
		err = faultAt("/name", "invalid_customer_name", "a name has 1 to 200 characters and is not blank")
	}
	if err == nil && authz.ContainsToken(name) {
		err = faultAt("/name", "credential_in_name", "a name must not hold a credential")
	}
	return strings.Clone(name), err
}

func maxActiveKeys(v strictjson.Value) (int, error) {
	n, err := strconv.Atoi(v.Raw())
	if v.Kind() != strictjson.Number || err != nil || n < 1 || n > authz.MaxMaxActiveKeys {
		return 0, faultAt("/max_active_keys", "invalid_max_active_keys", "want an integer from 1 to "+strconv.Itoa(authz.MaxMaxActiveKeys))
	}
	return n, nil
}

func (s *Server) listCustomers(r *request) error {
	q := r.query("limit", "offset")
	limit, offset := q.number("limit", 10, 1, 100), q.number("offset", 0, 0, 1<<31-1)
	if err := q.err(); err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	list, total, err := s.cfg.Customers.List(ctx, r.call(), limit, offset)
	if err != nil {
		return err
	}
	b := append(appendEnvelope(r.out[:0], limit, offset, total), `"customers":[`...)
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendCustomer(b, &list[i])
	}
	r.out = append(b, `]}`...)
	return r.json(http.StatusOK)
}

func (s *Server) getCustomer(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	c, err := s.cfg.Customers.Get(ctx, r.call(), r.param("id"))
	if err != nil {
		return err
	}
	r.out = appendCustomer(r.out[:0], &c)
	return r.json(http.StatusOK)
}

// patchCustomer takes name, max_active_keys and default_policy, where null is
// the built-in policy.
func (s *Server) patchCustomer(r *request) error {
	var name, limit, policy strictjson.Value
	err := members(r.root(), "", map[string]*strictjson.Value{"name": &name, "max_active_keys": &limit, "default_policy": &policy})
	if err != nil {
		return err
	}
	var patch authz.CustomerPatch
	if name.Kind() != strictjson.Missing {
		text, err := customerName(name)
		if err != nil {
			return err
		}
		patch.Name = &text
	}
	if limit.Kind() != strictjson.Missing {
		n, err := maxActiveKeys(limit)
		if err != nil {
			return err
		}
		patch.MaxActiveKeys = &n
	}
	switch policy.Kind() {
	case strictjson.Missing:
	case strictjson.Null:
		patch.DefaultPolicy = new(string)
	case strictjson.String:
		name := strings.Clone(policy.Text())
		if !latchkey.ValidName(name) {
			return faultAt("/default_policy", "policy_not_found", "there is no such policy")
		}
		patch.DefaultPolicy = &name
	default:
		return faultAt("/default_policy", "wrong_type", "want a policy's name or null, got "+policy.Kind().String())
	}
	ctx, cancel := r.context()
	defer cancel()
	c, err := s.cfg.Customers.Patch(ctx, r.call(), r.param("id"), patch)
	if err != nil {
		return err
	}
	r.out = appendCustomer(r.out[:0], &c)
	return r.json(http.StatusOK)
}

func (s *Server) deleteCustomer(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	if err := s.cfg.Customers.Delete(ctx, r.call(), r.param("id")); err != nil {
		return err
	}
	r.c.Status(http.StatusNoContent)
	return nil
}

// appendCustomer appends a customer's record; max_active_keys is null where
// the server's default holds.
func appendCustomer(b []byte, c *authz.CustomerRecord) []byte {
	b = strictjson.AppendString(append(b, `{"id":`...), c.ID)
	b = strictjson.AppendString(append(b, `,"name":`...), c.Name)
	b = append(b, `,"max_active_keys":`...)
	if c.MaxActiveKeys == 0 {
		b = append(b, `null`...)
	} else {
		b = strconv.AppendInt(b, int64(c.MaxActiveKeys), 10)
	}
	b = append(b, `,"default_policy":`...)
	if c.DefaultPolicy == "" {
		b = append(b, `null`...)
	} else {
		b = strictjson.AppendString(b, c.DefaultPolicy)
	}
	b = appendInstant(append(b, `,"created_at":`...), c.CreatedAt)
	return append(b, '}')
}

// rotateRoot replaces the operator's key; the old one ends with the reply.
func (s *Server) rotateRoot(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	token, err := s.cfg.Root.Rotate(ctx, r.call())
	if err != nil {
		return err
	}
	b := strictjson.AppendString(append(r.out[:0], `{"key":`...), token.Reveal())
	b = strictjson.AppendString(append(b, `,"handle":`...), token.Handle())
	r.out = append(b, '}')
	r.c.Set("Cache-Control", "no-store")
	return r.json(http.StatusCreated)
}
