package people

import (
	"context"
	"strconv"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Config are the collaborators of the services; all are required.
type Config struct {
	Record  Record
	Tokens  *Tokens
	Keys    *authz.Keys
	Table   authz.KeyTable
	Parser  *scopes.Parser
	Grants  authz.GrantCache
	Leaving []Leaving
}

// Leaving ends, within the change that deactivates a person, what else the person
// holds or has asked for. It may write events of its own.
type Leaving func(ctx context.Context, tx Tx, call authz.Call, p authz.Person) error

// reached makes this process as new as a change to what people hold.
func (c *Config) reached(ctx context.Context, customer *authz.Customer, seq int64) {
	customer.ExpectGrants()
	c.Grants.Reach(ctx, customer.ID, seq)
}

// Persons makes, shows and changes persons. Safe for concurrent use.
type Persons struct{ cfg Config }

// NewPersons makes the service.
func NewPersons(cfg Config) *Persons { return &Persons{cfg: cfg} }

// Claim is a code, shown once, by which a person comes by a first token.
type Claim struct {
	Code   authz.Token
	EndsAt latchkey.Instant
}

// Made is a new person with what is shown once.
type Made struct {
	Person authz.Person
	Claim  Claim
	Key    *authz.Created // nil where there is none
	// Without says why there is none, as a code and a text.
	Without, WithoutDetail string
}

func errPersonNotFound() error {
	return latchkey.Errorf(latchkey.NotFound, "user_not_found", "there is no such person")
}

// May refuses who neither manages people nor is one.
func (*Persons) May(c *authz.Caller) error {
	if c.IsPerson() {
		return nil
	}
	return authz.MayManage(c)
}

// mayAlter refuses a manager a principal that may do more than the manager: a
// service makes users, an admin also admins, and root anybody.
func mayAlter(c *authz.Caller, types ...authz.PersonType) error {
	rank := authz.UserPerson.Rank()
	switch {
	case c.IsRoot():
		rank = authz.InternalAdminPerson.Rank()
	case c.IsAdmin():
		rank = authz.AdminPerson.Rank()
	}
	for _, t := range types {
		if t.Rank() > rank {
			return latchkey.Errorf(latchkey.Forbidden, "stronger_person", "a person of type %s may do more than the caller: somebody who may do as much must", t)
		}
	}
	return nil
}

// Create makes a person with a claim code and, where the customer may have one
// more key and the maker is no service, the default key of its type.
func (s *Persons) Create(ctx context.Context, call authz.Call, in PersonFields) (made Made, err error) {
	if err := authz.MayManage(&call.Caller); err != nil {
		return made, err
	}
	if err := mayAlter(&call.Caller, in.Type); err != nil {
		return made, err
	}
	if in.Type == authz.InternalAdminPerson && call.Customer.ID != authz.DefaultCustomer {
		return made, latchkey.InvalidFaults(latchkey.Fault{Pointer: "/type", Code: "wrong_customer", Detail: "internal admins are persons of the operator's customer, " + authz.DefaultCustomer})
	}
	var seq int64
	err = s.cfg.Record.Change(ctx, call.Change(func() any { return made }), func(tx Writer) (audit.Draft, error) {
		made = Made{Person: authz.Person{ID: uuid.NewString(), Customer: call.Customer.ID, CreatedAt: call.Now}}
		in.put(&made.Person)
		if err := s.giveKey(ctx, tx, call, &made); err != nil {
			return audit.Draft{}, err
		}
		made.Person.Version, seq = tx.Seq(), tx.Seq()
		if err := tx.InsertPerson(ctx, made.Person); err != nil {
			return audit.Draft{}, err
		}
		if made.Person.Active {
			if made.Claim, err = s.claim(ctx, tx, call, &made.Person); err != nil {
				return audit.Draft{}, err
			}
		}
		d := call.Draft("user.create", personResource(&made.Person))
		d.Changes = fieldsJSON(&made.Person)
		return d, nil
	})
	if err != nil {
		return Made{}, err
	}
	s.cfg.reached(ctx, call.Customer, seq)
	if made.Key != nil {
		err = s.cfg.Keys.Know(call.Customer, made.Key)
	}
	return made, err
}

// giveKey makes the default key of a person, in an event of its own, or says why
// there is none.
func (s *Persons) giveKey(ctx context.Context, tx Writer, call authz.Call, made *Made) error {
	p := &made.Person
	switch {
	case !p.Active:
		made.Without, made.WithoutDetail = "person_inactive", "no access key was made: the person is not active"
		return nil
	case !call.IsRoot() && !call.IsAdmin():
		made.Without, made.WithoutDetail = "made_by_service", "no access key was made: a service cannot make one"
		return nil
	}
	set, err := s.cfg.Parser.Parse(p.Type.StandingScopes())
	if err != nil {
		return err
	}
	keyname := "dashboard_" + p.Username
	in := authz.NewKey{Set: set, Scopes: p.Type.StandingScopes(), Keyname: keyname, Username: p.Username, ExpiresAt: latchkey.Never,
		Metadata: authz.Changes("keyname", keyname, "username", p.Username)}
	key, d, err := s.cfg.Keys.Issue(ctx, tx, call, in, p.ID)
	if latchkey.CodeOf(err) == "too_many_keys" {
		made.Without, made.WithoutDetail = "too_many_keys", "no access key was made: the customer has as many as it may have"
		return nil
	}
	if err != nil {
		return err
	}
	made.Key = &key
	return tx.Event(ctx, d)
}

func (s *Persons) claim(ctx context.Context, tx Writer, call authz.Call, p *authz.Person) (Claim, error) {
	code := authz.NewClaimCode()
	secret := s.cfg.Tokens.secret(code, p, "", call.Now)
	if _, err := tx.EndSecrets(ctx, p.ID, true, "", call.Now); err != nil {
		return Claim{}, err
	}
	return Claim{Code: code, EndsAt: secret.EndsAt}, tx.InsertSecret(ctx, secret)
}

// Get returns a person: to managers anybody, to persons themselves.
func (s *Persons) Get(ctx context.Context, call authz.Call, id string) (authz.Person, error) {
	if err := s.May(&call.Caller); err != nil {
		return authz.Person{}, err
	}
	if !authz.IsID(id) || !call.Manages() && id != call.Person.ID {
		return authz.Person{}, errPersonNotFound()
	}
	customer := call.Customer.ID
	if call.Person != nil && id == call.Person.ID {
		customer = call.Person.Customer // also where an internal admin acts elsewhere
	}
	return s.cfg.Record.Person(ctx, customer, id)
}

// List returns a page of persons; to who does not manage, of themselves.
func (s *Persons) List(ctx context.Context, call authz.Call, q Query) ([]authz.Person, error) {
	if err := s.May(&call.Caller); err != nil {
		return nil, err
	}
	q.Customer = call.Customer.ID
	if !call.Manages() {
		q.ID = call.Person.ID
	}
	return s.cfg.Record.Persons(ctx, q)
}

// Update replaces a person's record whole. A person who is not active any more
// loses what Deactivate takes; one whose type changes the keys that were made with
// the person, which have the scopes of the former type, and a claim code that waits:
// who made it for somebody weaker may know it.
func (s *Persons) Update(ctx context.Context, call authz.Call, id string, in PersonFields) (authz.Person, error) {
	return s.update(ctx, call, id, func(was authz.Person) (PersonFields, error) { return in, nil })
}

// Deactivate ends all credentials of a person, the keys that were made with the
// person, and the person's grants. The record stays, as what names the person
// does. One who is not active is a Conflict.
func (s *Persons) Deactivate(ctx context.Context, call authz.Call, id string) (authz.Person, error) {
	return s.update(ctx, call, id, func(was authz.Person) (PersonFields, error) {
		if !was.Active {
			return PersonFields{}, latchkey.Errorf(latchkey.Conflict, "already_inactive", "the person is not active")
		}
		return PersonFields{Username: was.Username, Email: was.Email, Name: was.Name, Type: was.Type}, nil
	})
}

func (s *Persons) update(ctx context.Context, call authz.Call, id string, change func(authz.Person) (PersonFields, error)) (is authz.Person, err error) {
	if err := authz.MayManage(&call.Caller); err != nil {
		return is, err
	}
	if !authz.IsID(id) {
		return is, errPersonNotFound()
	}
	var seq int64
	var ended []authz.KeyID
	err = s.cfg.Record.Change(ctx, call.Change(func() any { return is }), func(tx Writer) (audit.Draft, error) {
		was, err := tx.Person(ctx, id)
		if err != nil {
			return audit.Draft{}, err
		}
		if err := mayAlter(&call.Caller, was.Type); err != nil { // whatever is to become of it
			return audit.Draft{}, err
		}
		in, err := change(was)
		if err != nil {
			return audit.Draft{}, err
		}
		if err := s.mayBecome(ctx, tx, &call, &was, &in); err != nil {
			return audit.Draft{}, err
		}
		is = was
		in.put(&is)
		ended = nil
		grants := 0
		if was.Active && !is.Active {
			if grants, err = s.leave(ctx, tx, call, was); err != nil {
				return audit.Draft{}, err
			}
		}
		if was.Active && !is.Active || was.Type != is.Type {
			if ended, err = s.endKeys(ctx, tx, call, id); err != nil {
				return audit.Draft{}, err
			}
			if _, err := tx.EndSecrets(ctx, id, true, "", call.Now); err != nil {
				return audit.Draft{}, err
			}
		}
		is.Version, seq = tx.Seq(), tx.Seq()
		if err := tx.UpdatePerson(ctx, was, is); err != nil {
			return audit.Draft{}, err
		}
		action := "user.update"
		if was.Active && !is.Active {
			action = "user.deactivate"
		}
		d := call.Draft(action, personResource(&is))
		d.Changes = fieldsJSON(&is)
		d.Changes = d.Changes[:len(d.Changes)-1] + `,"keys_ended":` + strconv.Itoa(len(ended)) + `,"grants_ended":` + strconv.Itoa(grants) + `}`
		return d, nil
	})
	if err != nil {
		return authz.Person{}, err
	}
	for _, key := range ended {
		if state := s.cfg.Table.Key(key); state != nil {
			state.Revoke(call.Now)
		}
	}
	s.cfg.reached(ctx, call.Customer, seq)
	return is, nil
}

// mayBecome refuses a change by which a caller would come to more than it has.
func (s *Persons) mayBecome(ctx context.Context, tx Writer, call *authz.Call, was *authz.Person, in *PersonFields) error {
	if err := mayAlter(&call.Caller, in.Type); err != nil {
		return err
	}
	if in.Type == authz.InternalAdminPerson && was.Customer != authz.DefaultCustomer {
		return latchkey.InvalidFaults(latchkey.Fault{Pointer: "/type", Code: "wrong_customer", Detail: "internal admins are persons of the operator's customer, " + authz.DefaultCustomer})
	}
	if in.Username != was.Username || in.Email != was.Email {
		// Decisions find a person by these. Who could leave a name could give it to
		// somebody who may do more, and be taken for them by whoever asks by names.
		err := authz.NotToOneselfIn(ctx, tx, &call.Caller, was.Ref())
		if latchkey.KindOf(err) == latchkey.Forbidden {
			err = latchkey.Errorf(latchkey.Forbidden, "own_name", "nobody changes the names by which applications know them: somebody else must").Because(err)
		}
		if err != nil {
			return err
		}
	}
	if in.Email != was.Email { // an issuer's token finds the person by it
		return mayReissue(ctx, tx, call, was)
	}
	return nil
}

// mayReissue refuses a service what would make it, or somebody of its choice, a
// person who has had a credential: what the person then does would be told of the
// person.
func mayReissue(ctx context.Context, tx Writer, call *authz.Call, p *authz.Person) error {
	if call.IsRoot() || call.IsAdmin() {
		return nil
	}
	proven, err := tx.Proven(ctx, p.ID)
	if err == nil && proven {
		return latchkey.Errorf(latchkey.Forbidden, "person_has_credentials", "the person has had a credential: root or an admin must do this")
	}
	return err
}

// leave ends a person's own credentials and grants, and returns how many grants
// that were.
func (s *Persons) leave(ctx context.Context, tx Writer, call authz.Call, p authz.Person) (grants int, err error) {
	for _, claims := range []bool{true, false} {
		if _, err := tx.EndSecrets(ctx, p.ID, claims, "", call.Now); err != nil {
			return 0, err
		}
	}
	for _, do := range s.cfg.Leaving {
		if err := do(ctx, tx, call, p); err != nil {
			return 0, err
		}
	}
	for _, name := range []string{p.ID, p.Username, p.Email} {
		if name == "" {
			continue
		}
		list, err := tx.SubjectGrants(ctx, authz.EntityRef{Type: authz.SubjectUser, ID: name}, call.Now)
		if err != nil {
			return 0, err
		}
		for _, g := range list {
			if err := tx.RevokeGrant(ctx, g, call.Now); err != nil {
				return 0, err
			}
			grants++
		}
	}
	return grants, nil
}

func (s *Persons) endKeys(ctx context.Context, tx Writer, call authz.Call, person string) ([]authz.KeyID, error) {
	keys, err := tx.KeysOf(ctx, person)
	if err != nil {
		return nil, err
	}
	for _, id := range keys {
		if err := tx.RevokeKey(ctx, id, call.Now); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// Reclaim makes a new claim code; the one before is dead.
func (s *Persons) Reclaim(ctx context.Context, call authz.Call, id string) (p authz.Person, claim Claim, err error) {
	if err := authz.MayManage(&call.Caller); err != nil {
		return p, claim, err
	}
	if !authz.IsID(id) {
		return p, claim, errPersonNotFound()
	}
	err = s.cfg.Record.Change(ctx, call.Change(func() any { return Reclaimed{p, claim} }), func(tx Writer) (audit.Draft, error) {
		if p, err = tx.Person(ctx, id); err != nil {
			return audit.Draft{}, err
		}
		if err := mayAlter(&call.Caller, p.Type); err != nil {
			return audit.Draft{}, err
		}
		if err := mayReissue(ctx, tx, &call, &p); err != nil {
			return audit.Draft{}, err
		}
		if !p.Active {
			return audit.Draft{}, latchkey.Errorf(latchkey.Conflict, "person_inactive", "the person is not active")
		}
		if claim, err = s.claim(ctx, tx, call, &p); err != nil {
			return audit.Draft{}, err
		}
		d := call.Draft("user.claim", personResource(&p))
		d.Changes = authz.Changes("handle", claim.Code.Handle())
		return d, nil
	})
	return p, claim, err
}

// Reclaimed is the result of Reclaim, as a reply is made of it.
type Reclaimed struct {
	Person authz.Person
	Claim  Claim
}

func personResource(p *authz.Person) audit.Resource {
	return audit.Resource{Type: "user", Name: p.Username, ID: p.ID}
}

func fieldsJSON(p *authz.Person) string {
	b := strictjson.AppendString([]byte(`{"username":`), p.Username)
	b = strictjson.AppendString(append(b, `,"email":`...), p.Email)
	b = strictjson.AppendString(append(b, `,"type":`...), string(p.Type))
	b = strconv.AppendBool(append(b, `,"active":`...), p.Active)
	return string(append(b, '}'))
}
