package authz

import (
	"context"
	"crypto/subtle"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
)

// RootKey is the operator's credential, exactly one at a time. Safe for
// concurrent use.
type RootKey struct {
	record  Record
	peppers *Peppers
	current atomic.Pointer[rootSecret]
	// Fixed: the key comes from the environment and cannot be rotated here.
	fixed bool
	// turn is held from a change, or a look at the record, until current is what
	// that says: memory takes changes in the order in which the record did.
	turn sync.Mutex
}

type rootSecret struct {
	kid    Kid
	digest Digest
	pepper PepperRef
	noted  atomic.Bool // its digest is being made again
	// foreign is not nil where the digest was made with a pepper that is not here.
	foreign error
}

// NewRootKey makes the service; Load or Establish gives it its key.
func NewRootKey(record Record, peppers *Peppers) *RootKey {
	return &RootKey{record: record, peppers: peppers}
}

// holds reports whether a token is the root key; an error says that nobody can
// tell here.
func (r *RootKey) holds(t Token, peppers *Peppers) (bool, error) {
	s := r.current.Load()
	switch {
	case s == nil:
		return false, nil
	case s.foreign != nil:
		return false, s.foreign
	}
	digest := peppers.Digest(s.pepper, t)
	return subtle.ConstantTimeCompare(digest[:], s.digest[:]) == 1, nil
}

// follow takes in a root key that another process has set.
func (r *RootKey) follow(ctx context.Context) error {
	r.turn.Lock()
	defer r.turn.Unlock()
	stored, ok, err := r.record.RootSecret(ctx)
	if had := r.current.Load(); err != nil || !ok || had != nil && had.kid == stored.Kid && had.foreign == nil {
		return err // a digest that is made again is that of the same key
	}
	pepper, ok := r.peppers.Find(stored.Pepper)
	next := &rootSecret{kid: stored.Kid, digest: stored.Digest, pepper: pepper}
	if !ok {
		next.foreign = ErrPepperMissing(stored.Pepper)
	}
	r.current.Store(next)
	return next.foreign
}

// stale reports whether the digest was made under another pepper than the
// current one, once for each process.
func (r *RootKey) stale(current PepperRef) bool {
	s := r.current.Load()
	return s != nil && s.pepper != current && !s.noted.Swap(true)
}

// Establish makes sure that there is a root key. A fixed token, when given, is
// the root key from now on, a change being recorded as a rotation; else the
// stored one stays, and where there is none a new one is made and returned for
// the one time that it is shown.
func (r *RootKey) Establish(ctx context.Context, fixed *Token, now latchkey.Instant) (made *Token, err error) {
	call := Call{Now: now}
	var next *Token
	err = r.record.Change(ctx, Change{Chain: audit.SystemChain, By: call.Caller, At: now}, func(tx Tx) (audit.Draft, error) {
		stored, ok, err := tx.RootSecret(ctx)
		if err != nil {
			return audit.Draft{}, err
		}
		switch {
		case fixed == nil && ok:
			return audit.Draft{}, r.use(stored, errUnchanged)
		case fixed != nil && ok:
			pepper, found := r.peppers.Find(stored.Pepper)
			digest := r.peppers.Digest(0, *fixed)
			if found {
				digest = r.peppers.Digest(pepper, *fixed)
			}
			if found && subtle.ConstantTimeCompare(digest[:], stored.Digest[:]) == 1 {
				return audit.Draft{}, r.use(stored, errUnchanged)
			}
			next = fixed
			return r.replace(ctx, tx, *fixed, call, "root_key.rotate", "set by the environment")
		case fixed != nil:
			next = fixed
			return r.replace(ctx, tx, *fixed, call, "root_key.create", "set by the environment")
		}
		token := NewRootToken()
		next, made = &token, &token
		return r.replace(ctx, tx, token, call, "root_key.create", "first start")
	})
	r.fixed = fixed != nil
	switch {
	case errors.Is(err, errUnchanged):
		return nil, nil
	case err != nil:
		return nil, err
	}
	r.hold(*next)
	return made, nil
}

// errUnchanged ends a change that turned out to have nothing to do.
var errUnchanged = latchkey.Errorf(latchkey.Internal, "unchanged", "nothing to change")

func (r *RootKey) use(stored KeySecret, then error) error {
	pepper, ok := r.peppers.Find(stored.Pepper)
	if !ok {
		return ErrPepperMissing(stored.Pepper)
	}
	r.current.Store(&rootSecret{kid: stored.Kid, digest: stored.Digest, pepper: pepper})
	return then
}

const pepperMissing = "pepper_missing"

// ErrPepperMissing says that a stored digest was made with a pepper that this
// server was not given: it could only ever refuse that secret, so it does not
// start.
func ErrPepperMissing(id string) error {
	return latchkey.Errorf(latchkey.Internal, pepperMissing,
		"a stored secret was digested with the pepper of fingerprint %s, which the pepper file does not hold", id)
}

// Rotate replaces the root key; the old one ends with the reply.
func (r *RootKey) Rotate(ctx context.Context, call Call) (Token, error) {
	if r.fixed {
		return Token{}, latchkey.Errorf(latchkey.Conflict, "root_key_fixed", "the root key is set by LATCHKEY_ROOT_KEY; change it there and restart")
	}
	token := NewRootToken()
	r.turn.Lock()
	defer r.turn.Unlock()
	err := r.record.Change(ctx, Change{Chain: audit.SystemChain, By: call.Caller, At: call.Now}, func(tx Tx) (audit.Draft, error) {
		return r.replace(ctx, tx, token, call, "root_key.rotate", "")
	})
	if err != nil {
		return Token{}, err
	}
	r.hold(token)
	return token, nil
}

func (r *RootKey) replace(ctx context.Context, tx Tx, t Token, call Call, action, reason string) (audit.Draft, error) {
	ref, name := r.peppers.Current()
	secret := KeySecret{Kid: t.Kid, Digest: r.peppers.Digest(ref, t), Pepper: name, EndsAt: latchkey.Never}
	if err := tx.SetRootSecret(ctx, secret, call.Now); err != nil {
		return audit.Draft{}, err
	}
	d := call.Draft(action, audit.Resource{Type: "root_key", Name: t.Handle(), ID: t.Kid.String()})
	d.Reason = reason
	return d, nil
}

func (r *RootKey) hold(t Token) {
	ref, _ := r.peppers.Current()
	r.current.Store(&rootSecret{kid: t.Kid, digest: r.peppers.Digest(ref, t), pepper: ref})
}

// Draft begins the event of a change.
func (c *Call) Draft(action string, about audit.Resource) audit.Draft {
	return audit.Draft{
		ID: uuid.NewString(), At: c.Now, Actor: c.Actor(), Action: action, Resource: about,
		Outcome: "success", RequestID: c.RequestID,
	}
}
