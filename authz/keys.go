package authz

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// MaxGrace is the longest time that a rotated secret may go on working.
const MaxGrace = 30 * 24 * time.Hour

// Keys makes, shows and ends access keys. Safe for concurrent use.
type Keys struct {
	cfg KeysConfig
}

// KeysConfig are the collaborators and settings of Keys; all are required.
type KeysConfig struct {
	Record  Record
	Table   KeyTable
	Parser  *scopes.Parser
	Peppers *Peppers
	Mode    Mode // what new keys are marked with
	// MaxActive is how many active keys a customer has that sets no number of
	// its own.
	MaxActive int
}

// NewKeys makes the service.
func NewKeys(cfg KeysConfig) *Keys { return &Keys{cfg: cfg} }

// Created is a new secret with its key's record: the one time it is shown.
type Created struct {
	Key   Key
	Token Token
}

var errKeyNotFound = latchkey.Errorf(latchkey.NotFound, "key_not_found", "there is no such access key")

// MayCreate refuses everybody but root and persons who administer the customer: a
// key never makes keys.
func (*Keys) MayCreate(c *Caller) error {
	switch {
	case c.IsRoot(), c.IsAdmin():
		return nil
	case c.IsPerson():
		return latchkey.Errorf(latchkey.Forbidden, "not_permitted", "access keys are made by root and by admins")
	case c.Kind == AccessKeyCredential:
		return latchkey.Errorf(latchkey.Forbidden, "access_keys_cannot_create", "an access key cannot create or rotate access keys, whatever its scopes")
	}
	return ErrUnauthenticated()
}

// MayList refuses a key whose access_keys scope is empty.
func (*Keys) MayList(c *Caller) error {
	if c.IsRoot() || c.Scopes().SeesKeys() {
		return nil
	}
	if c.IsPerson() {
		return latchkey.Errorf(latchkey.Forbidden, "not_permitted", "access keys are shown to root and to admins")
	}
	return latchkey.Errorf(latchkey.Forbidden, "scope_missing", "the key's access_keys scope is empty")
}

// Create makes a key. A customer that has as many active keys as it may have
// gets LimitReached.
func (k *Keys) Create(ctx context.Context, call Call, in NewKey) (Created, error) {
	if err := k.MayCreate(&call.Caller); err != nil {
		return Created{}, err
	}
	if err := mayGive(&call.Caller, in.Set); err != nil {
		return Created{}, err
	}
	var created Created
	err := k.cfg.Record.Change(ctx, call.Change(func() any { return created }), func(tx Tx) (d audit.Draft, err error) {
		created, d, err = k.Issue(ctx, tx, call, in, "")
		return d, err
	})
	if err != nil {
		return Created{}, err
	}
	return created, k.Know(call.Customer, &created)
}

// Issue makes a key within a change, for whoever has made sure that the caller
// may, and returns it with its event. person is whom it is made with, "" for
// nobody. Once the change is committed, Know must be called.
func (k *Keys) Issue(ctx context.Context, tx Tx, call Call, in NewKey, person string) (Created, audit.Draft, error) {
	token := NewAccessKeyToken(k.cfg.Mode)
	made := Created{Token: token, Key: Key{
		ID: KeyID(uuid.New()), Customer: call.Customer.ID, Handle: token.Handle(), Scopes: in.Scopes, Metadata: in.Metadata,
		ExpiresAt: in.ExpiresAt, CreatedAt: call.Now, RevokedAt: latchkey.Never, LastUsedAt: latchkey.Never, Version: tx.Seq(), Person: person,
	}}
	customer, err := tx.Customer(ctx)
	if err != nil {
		return Created{}, audit.Draft{}, err
	}
	limit := customer.MaxActiveKeys
	if limit == 0 {
		limit = k.cfg.MaxActive
	}
	active, err := tx.CountActiveKeys(ctx, call.Now)
	if err != nil {
		return Created{}, audit.Draft{}, err
	}
	if active >= limit {
		return Created{}, audit.Draft{}, latchkey.Errorf(latchkey.LimitReached, "too_many_keys", "the customer already has %d active access keys; revoke one, or raise max_active_keys", active)
	}
	if err := tx.InsertKey(ctx, made.Key, in.Set.NamesMask(), k.secret(token, made.Key.ID)); err != nil {
		return Created{}, audit.Draft{}, err
	}
	if call.Person != nil {
		if err := tx.NoteKeyPerson(ctx, made.Key.ID, call.Person.ID); err != nil {
			return Created{}, audit.Draft{}, err
		}
	}
	d := call.Draft("access_key.create", keyResource(made.Key.ID, in.Keyname))
	d.Changes = Changes("handle", made.Key.Handle, "username", in.Username)
	d.Changes = d.Changes[:len(d.Changes)-1] + `,"scopes":` + in.Scopes + `,"expires_at":` + instantJSON(in.ExpiresAt) + `}`
	return made, d, nil
}

// Know makes a key that was issued, and committed, good in this process.
func (k *Keys) Know(c *Customer, made *Created) error {
	set, err := k.cfg.Parser.Load(made.Key.Scopes) // the interned one
	if err != nil {
		return err
	}
	secret := k.secret(made.Token, made.Key.ID)
	k.cfg.Table.AddSecret(secret.Kid, k.state(secret, NewKeyState(&made.Key, c, set)))
	return nil
}

// mayGive refuses an admin a key that could do what admins cannot: a sidecar's
// reads what is kept of every secret.
func mayGive(c *Caller, set *scopes.Set) error {
	if c.IsRoot() || !set.Has(scopes.Sidecar) {
		return nil
	}
	return latchkey.Errorf(latchkey.Forbidden, "scope_not_held", "only root makes and rotates keys with the scope sidecar")
}

// List returns the keys that the caller may see.
func (k *Keys) List(ctx context.Context, call Call, q KeyQuery) (KeyPage, error) {
	if err := k.MayList(&call.Caller); err != nil {
		return KeyPage{}, err
	}
	q.Customer, q.Now = call.Customer.ID, call.Now
	if !call.IsRoot() {
		q.HiddenNames = call.Scopes().HiddenMask()
	}
	return k.cfg.Record.Keys(ctx, q)
}

// Get returns one key's record, NotFound for one that the caller may not see.
func (k *Keys) Get(ctx context.Context, call Call, id KeyID) (Key, error) {
	if err := k.MayList(&call.Caller); err != nil {
		return Key{}, err
	}
	if !k.Sees(&call.Caller, k.cfg.Table.Key(id)) {
		return Key{}, errKeyNotFound
	}
	return k.cfg.Record.Key(ctx, call.Customer.ID, id)
}

// Self returns the caller's own record.
func (k *Keys) Self(ctx context.Context, call Call) (Key, error) {
	if call.Key == nil {
		return Key{}, latchkey.Errorf(latchkey.NotFound, "key_not_found", "the caller is not an access key")
	}
	return k.cfg.Record.Key(ctx, call.Customer.ID, call.Key.ID)
}

// Rego renders a key's scopes as a module for any OPA, as of now: the handle of
// a rotated secret is in it until the grace of that ends.
func (k *Keys) Rego(ctx context.Context, call Call, id KeyID) (string, error) {
	key, err := k.Get(ctx, call, id)
	if err != nil {
		return "", err
	}
	set, err := k.cfg.Parser.Load(key.Scopes)
	if err != nil {
		return "", err
	}
	r := scopes.RegoKey{ID: key.ID.String(), Handles: []string{key.Handle}, ExpiresAt: key.ExpiresAt}
	if kid, _, ok := parseHandle(key.RotatedFrom); ok {
		if s, ok := k.cfg.Table.Secret(kid); ok && call.Now < s.EndsAt {
			r.Former, r.FormerEndsAt = key.RotatedFrom, s.EndsAt
		}
	}
	return set.Rego(r), nil
}

// Sees reports whether the caller may see a key; nobody sees a nil one, nor
// another customer's.
func (*Keys) Sees(c *Caller, key *KeyState) bool {
	return key != nil && key.Customer == c.Customer && (c.IsRoot() || c.Scopes().Sees(key.Scopes))
}

// MayRevoke allows root and admins, and a key its own end.
func (*Keys) MayRevoke(c *Caller, id KeyID) error {
	if c.IsRoot() || c.IsAdmin() || c.Key != nil && c.Key.ID == id {
		return nil
	}
	if c.IsPerson() {
		return latchkey.Errorf(latchkey.Forbidden, "not_permitted", "access keys are revoked by root and by admins")
	}
	return latchkey.Errorf(latchkey.Forbidden, "not_permitted", "an access key may revoke itself only")
}

// Revoke ends a key. From its return on, no request that starts later is
// accepted by this process. Revoking twice is a Conflict; an expired key can
// be revoked.
func (k *Keys) Revoke(ctx context.Context, call Call, id KeyID) (Key, int64, error) {
	if err := k.MayRevoke(&call.Caller, id); err != nil {
		return Key{}, 0, err
	}
	var key Key
	var secrets []KeySecret
	var seq int64
	err := k.cfg.Record.Change(ctx, call.Change(nil), func(tx Tx) (audit.Draft, error) {
		var err error
		if key, secrets, err = tx.KeySecrets(ctx, id); err != nil {
			return audit.Draft{}, err
		}
		if key.RevokedAt != latchkey.Never {
			return audit.Draft{}, latchkey.Errorf(latchkey.Conflict, "already_revoked", "the key was revoked at %s", key.RevokedAt)
		}
		key.RevokedAt, key.Version, seq = call.Now, tx.Seq(), tx.Seq()
		if err := tx.RevokeKey(ctx, id, call.Now); err != nil {
			return audit.Draft{}, err
		}
		return call.Draft("access_key.revoke", keyResource(id, key.Keyname())), nil
	})
	if err != nil {
		return Key{}, 0, err
	}
	if k.cfg.Table.Key(id) == nil {
		// It is just being made: its maker has committed, and will find it known.
		if err := k.know(&key, call.Customer, secrets); err != nil {
			return Key{}, 0, err
		}
	}
	if state := k.cfg.Table.Key(id); state != nil {
		state.Revoke(call.Now)
	}
	return key, seq, nil
}

// know puts a stored key into the table.
func (k *Keys) know(key *Key, c *Customer, secrets []KeySecret) error {
	set, err := k.cfg.Parser.Load(key.Scopes)
	if err != nil {
		return err
	}
	for _, s := range secrets {
		ref, ok := k.cfg.Peppers.Find(s.Pepper)
		if !ok {
			return ErrPepperMissing(s.Pepper)
		}
		k.cfg.Table.AddSecret(s.Kid, SecretState{Digest: s.Digest, Pepper: ref, Test: s.Mode == Test, EndsAt: s.EndsAt, Key: NewKeyState(key, c, set)})
	}
	return nil
}

// Rotate gives a key a new secret. The present one goes on for the grace, at
// most to the key's own expiry; one that was before it ends now.
func (k *Keys) Rotate(ctx context.Context, call Call, id KeyID, grace time.Duration) (Created, error) {
	if err := k.MayCreate(&call.Caller); err != nil {
		return Created{}, err
	}
	token := NewAccessKeyToken(k.cfg.Mode)
	secret := k.secret(token, id)
	ends := map[Kid]latchkey.Instant{}
	created := Created{Token: token}
	err := k.cfg.Record.Change(ctx, call.Change(func() any { return created }), func(tx Tx) (audit.Draft, error) {
		key, secrets, err := tx.KeySecrets(ctx, id)
		switch {
		case err != nil:
			return audit.Draft{}, err
		case key.RevokedAt != latchkey.Never:
			return audit.Draft{}, latchkey.Errorf(latchkey.Conflict, "already_revoked", "the key was revoked at %s", key.RevokedAt)
		case call.Now >= key.ExpiresAt:
			return audit.Draft{}, latchkey.Errorf(latchkey.Conflict, "already_expired", "the key expired at %s", key.ExpiresAt)
		}
		set, err := k.cfg.Parser.Load(key.Scopes)
		if err != nil {
			return audit.Draft{}, err
		}
		if err := mayGive(&call.Caller, set); err != nil {
			return audit.Draft{}, err
		}
		if call.Person != nil {
			if err := tx.NoteKeyPerson(ctx, id, call.Person.ID); err != nil {
				return audit.Draft{}, err
			}
		}
		clear(ends)
		for i, old := range secrets {
			end := call.Now
			if i == 0 { // the current one
				end = min(call.Now.Add(grace), key.ExpiresAt)
			}
			ends[old.Kid] = min(end, old.EndsAt)
		}
		key.RotatedFrom, key.Handle, key.Version = key.Handle, token.Handle(), tx.Seq()
		created.Key = key
		if err := tx.RotateKey(ctx, key, secret, ends); err != nil {
			return audit.Draft{}, err
		}
		d := call.Draft("access_key.rotate", keyResource(id, key.Keyname()))
		d.Changes = Changes("handle", key.Handle, "rotated_from", key.RotatedFrom, "grace", grace.String())
		return d, nil
	})
	if err != nil {
		return Created{}, err
	}
	for kid, end := range ends {
		k.cfg.Table.EndSecret(kid, end)
	}
	state := k.cfg.Table.Key(id)
	if state == nil { // another process has just made it
		set, err := k.cfg.Parser.Load(created.Key.Scopes)
		if err != nil {
			return Created{}, err
		}
		state = NewKeyState(&created.Key, call.Customer, set)
	}
	k.cfg.Table.AddSecret(secret.Kid, k.state(secret, state))
	return created, nil
}

func (k *Keys) secret(t Token, id KeyID) KeySecret {
	ref, name := k.cfg.Peppers.Current()
	return KeySecret{Kid: t.Kid, Mode: k.cfg.Mode, Key: id, Digest: k.cfg.Peppers.Digest(ref, t), Pepper: name, EndsAt: latchkey.Never}
}

func (k *Keys) state(s KeySecret, key *KeyState) SecretState {
	ref, _ := k.cfg.Peppers.Current()
	return SecretState{Digest: s.Digest, Pepper: ref, Test: s.Mode == Test, EndsAt: s.EndsAt, Key: key}
}

// Change describes the transaction of the call in its customer's chain; where
// the call acts in no customer, the maker of the change names the chain.
func (c *Call) Change(result func() any) Change {
	ch := Change{By: c.Caller, At: c.Now}
	if c.Customer != nil {
		ch.Chain = c.Customer.ID
	}
	if c.Replay != nil && result != nil {
		ch.Reply = func() (Reply, error) {
			sealed, err := c.Replay.Seal(result())
			return Reply{ID: c.Replay.ID, Body: c.Replay.Body, Sealed: sealed, EndsAt: c.Now.Add(24 * time.Hour)}, err
		}
	}
	return ch
}

// Keyname is the metadata field of that name.
func (k *Key) Keyname() string { return k.metadata("keyname") }

// Username is the metadata field of that name.
func (k *Key) Username() string { return k.metadata("username") }

func (k *Key) metadata(field string) string {
	var doc strictjson.Doc
	if doc.Parse(k.Metadata) != nil {
		return ""
	}
	return doc.Root().Get(field).Text()
}

func keyResource(id KeyID, keyname string) audit.Resource {
	return audit.Resource{Type: "access_key", Name: keyname, ID: id.String()}
}

// Changes writes a JSON object of strings, of names and values in turns.
func Changes(pairs ...string) string {
	b := []byte{'{'}
	for i, text := range pairs {
		switch {
		case i%2 == 1:
			b = append(b, ':')
		case i > 0:
			b = append(b, ',')
		}
		b = strictjson.AppendString(b, text)
	}
	return string(append(b, '}'))
}

func instantJSON(i latchkey.Instant) string {
	b, _ := i.MarshalJSON() // cannot fail
	return string(b)
}
