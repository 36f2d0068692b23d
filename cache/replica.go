package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Replica finds one customer's keys, grants and properties in Records: what a
// node without the database decides by. Before it is told whose they are nobody
// can tell of anything. Safe for concurrent use.
type Replica struct {
	records  *Records
	customer atomic.Pointer[authz.Customer]
}

var (
	_ authz.KeyFinder      = (*Replica)(nil)
	_ authz.GrantSource    = (*Replica)(nil)
	_ authz.PropertySource = (*Replica)(nil)
	_ authz.MetadataSource = (*Replica)(nil)
)

// ReplicaConfig are the collaborators of a Replica. Of Records all but Decode is
// the caller's to say.
type ReplicaConfig struct {
	Records RecordsConfig
	Parser  *scopes.Parser
	Peppers *authz.Peppers
}

// NewReplica makes an empty one.
func NewReplica(cfg ReplicaConfig) *Replica {
	r := &Replica{}
	d := decoder{parser: cfg.Parser, peppers: cfg.Peppers, customer: r.Customer}
	cfg.Records.Decode = d.decode
	r.records = NewRecords(cfg.Records)
	return r
}

// Records are what it finds things in.
func (r *Replica) Records() *Records { return r.records }

// Customer is whose things they are; nil before Follow.
func (r *Replica) Customer() *authz.Customer { return r.customer.Load() }

// Follow says whose things they are; it is called once, before Start of the
// records.
func (r *Replica) Follow(c *authz.Customer) {
	c.ExpectGrants()
	r.customer.Store(c)
}

var errNobody = latchkey.Errorf(latchkey.Unavailable, "record_unavailable", "it is not known yet whose keys these are")

func (r *Replica) get(ref feed.Ref) (any, error) {
	c := r.customer.Load()
	if c == nil {
		return nil, errNobody
	}
	v, err := r.records.Get(c.ID, ref)
	if latchkey.KindOf(err) == latchkey.NotFound {
		return nil, nil
	}
	return v, err
}

// key finds a key by its id, or by the kid of a secret; nil where there is none.
func (r *Replica) key(ref feed.Ref) (*keyValue, error) {
	v, err := r.get(ref)
	if err != nil {
		return nil, err
	}
	k, _ := v.(*keyValue)
	return k, nil
}

// FindSecret implements authz.KeyFinder.
func (r *Replica) FindSecret(kid authz.Kid) (authz.SecretState, bool, error) {
	k, err := r.key(feed.Ref{Kind: feed.Secret, ID: kid.String()})
	if k == nil {
		return authz.SecretState{}, false, err
	}
	for i := range k.secrets {
		if k.secrets[i].kid == kid {
			return k.secrets[i].SecretState, true, nil
		}
	}
	return authz.SecretState{}, false, nil // the secret is gone since
}

// FindKey implements authz.KeyFinder.
func (r *Replica) FindKey(id authz.KeyID) (*authz.KeyState, error) {
	k, err := r.key(feed.Ref{Kind: feed.Key, ID: id.String()})
	if k == nil {
		return nil, err
	}
	return k.state, nil
}

// Key finds a key's record as far as the feed tells of it: not when it was used
// last.
func (r *Replica) Key(_ context.Context, _ string, id authz.KeyID) (authz.Key, error) {
	k, err := r.key(feed.Ref{Kind: feed.Key, ID: id.String()})
	switch {
	case err != nil:
		return authz.Key{}, err
	case k == nil:
		return authz.Key{}, errMissing
	}
	return k.stored, nil
}

// Of implements authz.MetadataSource.
func (r *Replica) Of(key *authz.KeyState) (*policies.Properties, error) {
	k, err := r.key(feed.Ref{Kind: feed.Key, ID: key.ID.String()})
	switch {
	case err != nil:
		return nil, err
	case k == nil:
		return nil, errMissing
	}
	return k.metadata, nil
}

// Grants implements authz.GrantSource.
func (r *Replica) Grants(_ *authz.Customer, typ, id string) (*authz.Grants, error) {
	v, err := r.get(feed.Ref{Kind: feed.Subject, Type: typ, ID: id})
	if s, ok := v.(*Subject); ok {
		return s.Grants, nil
	}
	return nil, err
}

// FindSubject implements authz.PropertySource.
func (r *Replica) FindSubject(_ *authz.Customer, typ, id string) (*policies.Properties, error) {
	v, err := r.get(feed.Ref{Kind: feed.Subject, Type: typ, ID: id})
	if s, ok := v.(*Subject); ok {
		return s.Properties, nil
	}
	return nil, err
}

// FindResource implements authz.PropertySource.
func (r *Replica) FindResource(_ *authz.Customer, typ, id string) (*policies.Properties, error) {
	v, err := r.get(feed.Ref{Kind: feed.Resource, Type: typ, ID: id})
	properties, _ := v.(*policies.Properties)
	return properties, err
}

// keyValue is what is kept of a key's record. Immutable.
type keyValue struct {
	state    *authz.KeyState
	stored   authz.Key
	metadata *policies.Properties
	secrets  []keySecret
}

type keySecret struct {
	kid authz.Kid
	authz.SecretState
}

// decoder makes of the feed's records what decisions are made by.
type decoder struct {
	parser   *scopes.Parser
	peppers  *authz.Peppers
	customer func() *authz.Customer
}

// decode implements RecordsConfig.Decode. Of a thing that is not there nothing is
// kept but that.
func (d *decoder) decode(rec *feed.Record) (value any, size int, err error) {
	c := d.customer()
	if c == nil || c.ID != rec.Customer {
		return nil, 0, errNobody
	}
	switch {
	case rec.Ref.Kind == feed.Subject:
		return DecodeSubject(d.parser, rec)
	case !rec.Exists():
		return nil, 0, nil
	case rec.Ref.Kind == feed.Key:
		value, err = d.key(c, rec)
	case rec.Ref.Kind == feed.Resource:
		var body feed.ResourceBody
		if err = json.Unmarshal(rec.Body, &body); err == nil && body.Properties != "" && body.Properties != "{}" {
			value, err = policies.NewProperties(body.Properties)
		}
	default:
		err = errors.New("there are none of its kind")
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read the record of %s: %w", rec.Ref, err)
	}
	return value, decodedOverhead + 3*len(rec.Body), nil // texts, the tape over them, and what is parsed
}

// decodedOverhead is about what a value takes beside what its record says, in
// bytes.
const decodedOverhead = 400

func (d *decoder) key(c *authz.Customer, rec *feed.Record) (*keyValue, error) {
	var body feed.KeyBody
	if err := json.Unmarshal(rec.Body, &body); err != nil {
		return nil, err
	}
	id, ok := authz.ParseKeyID(body.ID)
	if !ok || body.ID != rec.Ref.ID {
		return nil, fmt.Errorf("it is of the key %q", body.ID)
	}
	set, err := d.parser.Load(body.Scopes)
	if err != nil {
		return nil, err
	}
	k := &keyValue{stored: authz.Key{ID: id, Customer: c.ID, Handle: body.Handle, Scopes: body.Scopes, Metadata: body.Metadata, ExpiresAt: body.ExpiresAt, CreatedAt: body.CreatedAt,
		RevokedAt: body.RevokedAt, RotatedFrom: body.RotatedFrom, LastUsedAt: latchkey.Never, Version: rec.Version}}
	k.state = authz.NewKeyState(&k.stored, c, set)
	if k.metadata, err = policies.NewProperties(body.Metadata); err != nil {
		return nil, err
	}
	for _, s := range body.Secrets {
		kid, ok := authz.ParseKid(s.Kid)
		if !ok || len(s.Digest) != len(authz.Digest{}) {
			return nil, errors.New("a secret of it is malformed")
		}
		state := authz.SecretState{Digest: authz.Digest(s.Digest), Test: authz.Mode(s.Mode) == authz.Test, EndsAt: s.EndsAt, Key: k.state}
		ref, here := d.peppers.Find(s.Pepper)
		state.Pepper, state.Foreign = ref, !here
		k.secrets = append(k.secrets, keySecret{kid, state})
	}
	if len(body.Grants) > 0 {
		grants, err := authz.NewGrants(d.parser, body.Grants, rec.Version)
		if err != nil {
			return nil, err
		}
		k.state.SetGrants(grants)
	}
	return k, nil
}
