package people

import (
	"context"
	"strconv"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Limits of an entitlement's claims; texts in characters.
const (
	maxClaims      = 50
	maxClaimName   = 128
	maxClaimValues = 100
	maxClaimValue  = 500
)

// Catalogue makes, shows and changes applications and entitlements. Safe for
// concurrent use.
type Catalogue struct{ cfg Config }

// NewCatalogue makes the service.
func NewCatalogue(cfg Config) *Catalogue { return &Catalogue{cfg: cfg} }

// MayRead refuses who neither manages people nor is one.
func (*Catalogue) MayRead(c *authz.Caller) error { return (*Persons)(nil).May(c) }

func errApplicationNotFound() error {
	return latchkey.Errorf(latchkey.NotFound, "application_not_found", "there is no such application")
}

func errEntitlementNotFound() error {
	return latchkey.Errorf(latchkey.NotFound, "entitlement_not_found", "there is no such entitlement")
}

// ParseApplication reads {name}; errors are as ParsePerson's.
func ParseApplication(body strictjson.Value) (name string, err error) {
	var f faults
	m := f.members(body, "name")
	name = f.text(m["name"], "/name", true)
	return name, f.err()
}

// EntitlementFields are what a manager says of an entitlement.
type EntitlementFields struct {
	Application string // id
	Name        string
	Entries     string // canonical JSON
	Claims      string // canonical JSON
}

// ParseEntitlement reads {app_id, name, entries: {"<resource type>": [{f, p?,
// a?}]}, claims?}; errors are as ParsePerson's. Built-in names are no resource
// types.
func ParseEntitlement(p *scopes.Parser, body strictjson.Value) (in EntitlementFields, err error) {
	var f faults
	m := f.members(body, "app_id", "name", "entries", "claims")
	in.Name = f.text(m["name"], "/name", true)
	if in.Application = f.text(m["app_id"], "/app_id", true); in.Application != "" && !authz.IsID(in.Application) {
		f.add("/app_id", "application_not_found", "there is no such application")
	}
	if m["entries"].Kind() == strictjson.Missing {
		f.add("/entries", "missing_member", "the member is required")
	} else if _, in.Entries, err = p.ParseEntries(m["entries"], "/entries"); err != nil {
		f = append(f, scopes.Faults(err)...)
	} else if authz.ContainsToken(in.Entries) {
		f.add("/entries", "credential_in_entries", "entries are shown to everyone who manages people; they must not hold a credential")
	}
	in.Claims = `{}`
	if claims := m["claims"]; claims.Kind() != strictjson.Missing {
		f.claims(claims)
		in.Claims = string(claims.AppendCanonical(nil))
	}
	return in, f.err()
}

// claims checks an object of lists of strings.
func (f *faults) claims(v strictjson.Value) {
	if v.Kind() != strictjson.Object {
		f.add("/claims", "wrong_type", "want an object, got "+v.Kind().String())
		return
	}
	if v.Len() > maxClaims {
		f.add("/claims", "too_many_items", "at most "+strconv.Itoa(maxClaims)+" claims")
		return
	}
	for name, list := range v.Members() {
		at := strictjson.Pointer("/claims", name)
		switch {
		case name == "" || utf8.RuneCountInString(name) > maxClaimName:
			f.add(at, "invalid_claim", "a claim's name has 1 to "+strconv.Itoa(maxClaimName)+" characters")
		case authz.ContainsToken(name):
			f.add("/claims", "credential_in_claims", "claims are told to issuers of tokens; they must not hold a credential")
		case list.Kind() != strictjson.Array:
			f.add(at, "wrong_type", "want an array of strings, got "+list.Kind().String())
		case list.Len() > maxClaimValues:
			f.add(at, "too_many_items", "at most "+strconv.Itoa(maxClaimValues)+" values")
		}
		if list.Kind() != strictjson.Array {
			continue
		}
		for i, e := range list.Elements() {
			at := strictjson.PointerIndex(at, i)
			switch text := e.Text(); {
			case e.Kind() != strictjson.String:
				f.add(at, "wrong_type", "want a string, got "+e.Kind().String())
			case utf8.RuneCountInString(text) > maxClaimValue:
				f.add(at, "too_long", "at most "+strconv.Itoa(maxClaimValue)+" characters")
			case authz.ContainsToken(text):
				f.add(at, "credential_in_claims", "claims are told to issuers of tokens; they must not hold a credential")
			}
		}
	}
}

// CreateApplication makes an application.
func (s *Catalogue) CreateApplication(ctx context.Context, call authz.Call, name string) (a Application, err error) {
	if err := authz.MayManage(&call.Caller); err != nil {
		return a, err
	}
	err = s.cfg.Record.Change(ctx, call.Change(func() any { return a }), func(tx Writer) (audit.Draft, error) {
		a = Application{ID: uuid.NewString(), Customer: call.Customer.ID, Name: name, CreatedAt: call.Now, Version: tx.Seq()}
		return call.Draft("application.create", a.resource()), tx.InsertApplication(ctx, a)
	})
	return a, err
}

func (a *Application) resource() audit.Resource {
	return audit.Resource{Type: "application", Name: a.Name, ID: a.ID}
}

// onlyOf is the one of a list that was asked for it alone.
func onlyOf[T any](list []T, err error, missing func() error) (one T, _ error) {
	if err == nil && len(list) == 0 {
		err = missing()
	}
	if err != nil {
		return one, err
	}
	return list[0], nil
}

// Application returns one that concerns the caller.
func (s *Catalogue) Application(ctx context.Context, call authz.Call, id string) (Application, error) {
	if !authz.IsID(id) {
		return Application{}, errApplicationNotFound()
	}
	list, err := s.Applications(ctx, call, Query{ID: id, Limit: 1})
	return onlyOf(list, err, errApplicationNotFound)
}

// Applications returns a page; to who does not manage, of those that concern them.
func (s *Catalogue) Applications(ctx context.Context, call authz.Call, q Query) ([]Application, error) {
	if err := s.MayRead(&call.Caller); err != nil {
		return nil, err
	}
	q.Customer = call.Customer.ID
	if !call.Manages() {
		q.For = call.Person.ID
	}
	return s.cfg.Record.Applications(ctx, q)
}

// UpdateApplication gives an application another name.
func (s *Catalogue) UpdateApplication(ctx context.Context, call authz.Call, id, name string) (a Application, err error) {
	if err := authz.MayManage(&call.Caller); err != nil {
		return a, err
	}
	if !authz.IsID(id) {
		return a, errApplicationNotFound()
	}
	err = s.cfg.Record.Change(ctx, call.Change(func() any { return a }), func(tx Writer) (audit.Draft, error) {
		if a, err = tx.Application(ctx, id); err != nil {
			return audit.Draft{}, err
		}
		d := call.Draft("application.update", a.resource())
		d.Changes = authz.Changes("was", a.Name, "name", name)
		a.Name, a.Version = name, tx.Seq()
		return d, tx.UpdateApplication(ctx, a)
	})
	return a, err
}

// DeleteApplication deletes one that nothing uses.
func (s *Catalogue) DeleteApplication(ctx context.Context, call authz.Call, id string) error {
	if err := authz.MayManage(&call.Caller); err != nil {
		return err
	}
	if !authz.IsID(id) {
		return errApplicationNotFound()
	}
	return s.cfg.Record.Change(ctx, call.Change(nil), func(tx Writer) (audit.Draft, error) {
		a, err := tx.Application(ctx, id)
		if err == nil {
			err = unused(ctx, tx, "application", id)
		}
		if err != nil {
			return audit.Draft{}, err
		}
		return call.Draft("application.delete", a.resource()), tx.DeleteApplication(ctx, id)
	})
}

// CreateEntitlement makes an entitlement. An application that is not there is
// Invalid, at /app_id.
func (s *Catalogue) CreateEntitlement(ctx context.Context, call authz.Call, in EntitlementFields) (e Entitlement, err error) {
	if err := authz.MayManage(&call.Caller); err != nil {
		return e, err
	}
	err = s.cfg.Record.Change(ctx, call.Change(func() any { return e }), func(tx Writer) (audit.Draft, error) {
		_, err := tx.Application(ctx, in.Application)
		if latchkey.KindOf(err) == latchkey.NotFound {
			return audit.Draft{}, latchkey.InvalidFaults(latchkey.Fault{Pointer: "/app_id", Code: "application_not_found", Detail: "there is no such application"})
		}
		if err != nil {
			return audit.Draft{}, err
		}
		e = Entitlement{ID: uuid.NewString(), Customer: call.Customer.ID, Application: in.Application, Name: in.Name, Entries: in.Entries, Claims: in.Claims,
			CreatedAt: call.Now, Version: tx.Seq()}
		d := call.Draft("entitlement.create", e.resource())
		d.Changes = e.changes()
		return d, tx.InsertEntitlement(ctx, e)
	})
	return e, err
}

func (e *Entitlement) resource() audit.Resource {
	return audit.Resource{Type: "entitlement", Name: e.Name, ID: e.ID}
}

func (e *Entitlement) changes() string {
	b := strictjson.AppendString([]byte(`{"app_id":`), e.Application)
	b = append(append(b, `,"entries":`...), e.Entries...)
	return string(append(append(append(b, `,"claims":`...), e.Claims...), '}'))
}

// Entitlement returns one that concerns the caller.
func (s *Catalogue) Entitlement(ctx context.Context, call authz.Call, id string) (Entitlement, error) {
	if !authz.IsID(id) {
		return Entitlement{}, errEntitlementNotFound()
	}
	list, err := s.Entitlements(ctx, call, Query{ID: id, Limit: 1})
	return onlyOf(list, err, errEntitlementNotFound)
}

// Entitlements returns a page; to who does not manage, of those that concern them.
func (s *Catalogue) Entitlements(ctx context.Context, call authz.Call, q Query) ([]Entitlement, error) {
	if err := s.MayRead(&call.Caller); err != nil {
		return nil, err
	}
	q.Customer = call.Customer.ID
	if !call.Manages() {
		q.For = call.Person.ID
	}
	return s.cfg.Record.Entitlements(ctx, q)
}

// UpdateEntitlement replaces a record whole; the application stays. Who holds the
// entitlement cannot change what it gives.
func (s *Catalogue) UpdateEntitlement(ctx context.Context, call authz.Call, id string, in EntitlementFields) (e Entitlement, err error) {
	if err := authz.MayManage(&call.Caller); err != nil {
		return e, err
	}
	if !authz.IsID(id) {
		return e, errEntitlementNotFound()
	}
	var seq int64
	err = s.cfg.Record.Change(ctx, call.Change(func() any { return e }), func(tx Writer) (audit.Draft, error) {
		if e, err = tx.Entitlement(ctx, id); err != nil {
			return audit.Draft{}, err
		}
		if e.Application != in.Application {
			return audit.Draft{}, latchkey.InvalidFaults(latchkey.Fault{Pointer: "/app_id", Code: "immutable_member", Detail: "an entitlement stays with its application"})
		}
		if e.Entries != in.Entries || e.Claims != in.Claims {
			holders, err := tx.Holders(ctx, id)
			if err != nil {
				return audit.Draft{}, err
			}
			subjects := make([]authz.EntityRef, len(holders))
			for i, h := range holders {
				subjects[i] = authz.EntityRef{Type: authz.SubjectUser, ID: h}
			}
			if err := authz.NotToOneselfIn(ctx, tx, &call.Caller, subjects...); err != nil {
				return audit.Draft{}, err
			}
		}
		e.Name, e.Entries, e.Claims, e.Version = in.Name, in.Entries, in.Claims, tx.Seq()
		seq = tx.Seq()
		d := call.Draft("entitlement.update", e.resource())
		d.Changes = e.changes()
		return d, tx.UpdateEntitlement(ctx, e)
	})
	if err == nil {
		s.cfg.reached(ctx, call.Customer, seq)
	}
	return e, err
}

// DeleteEntitlement deletes one that nothing uses.
func (s *Catalogue) DeleteEntitlement(ctx context.Context, call authz.Call, id string) error {
	if err := authz.MayManage(&call.Caller); err != nil {
		return err
	}
	if !authz.IsID(id) {
		return errEntitlementNotFound()
	}
	return s.cfg.Record.Change(ctx, call.Change(nil), func(tx Writer) (audit.Draft, error) {
		e, err := tx.Entitlement(ctx, id)
		if err == nil {
			err = unused(ctx, tx, "entitlement", id)
		}
		if err != nil {
			return audit.Draft{}, err
		}
		return call.Draft("entitlement.delete", e.resource()), tx.DeleteEntitlement(ctx, id)
	})
}
