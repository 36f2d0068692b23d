package authz

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/feed"
)

// maxMessage is about how many bytes the records in one message may have; those
// beyond it are left out, and read when they are needed.
const maxMessage = 32 << 10

// RecordMaker makes the feed's records from the database. Safe for concurrent
// use.
type RecordMaker struct {
	Record Record
	Epoch  int64 // of the database
}

// Make makes the record of a key, a subject or a resource, or of the key that a
// secret belongs to. How far the customer's changes go is read first, and what
// the record tells after that, so that all changes up to its version are in it.
// A thing that is not there has a record without a body; a secret that is none
// of the customer's is NotFound, and so is a customer that never was. A customer
// that has ended has keys that are revoked, and nothing else.
func (m *RecordMaker) Make(ctx context.Context, customer string, ref feed.Ref, now latchkey.Instant) (*feed.Record, error) {
	at, err := m.Record.Position(ctx, customer)
	if err != nil {
		return nil, err
	}
	return m.make(ctx, at, ref, now)
}

func (m *RecordMaker) make(ctx context.Context, at Position, ref feed.Ref, now latchkey.Instant) (*feed.Record, error) {
	r := &feed.Record{Customer: at.Chain, Ref: ref, Version: at.Seq, Epoch: m.Epoch}
	var body any
	var err error
	switch ref.Kind {
	case feed.Key, feed.Secret:
		body, err = m.key(ctx, at, r, now)
	case feed.Subject:
		body, err = m.subject(ctx, at, r, now)
	case feed.Resource:
		body, err = m.resource(ctx, at, r)
	default:
		err = fmt.Errorf("there are no records of the kind %q", ref.Kind)
	}
	if err != nil {
		return nil, err
	}
	if r.Body, err = json.Marshal(body); err != nil { // null where body is nil
		return nil, fmt.Errorf("write the record of %s: %w", ref, err)
	}
	return r, nil
}

func (m *RecordMaker) key(ctx context.Context, at Position, r *feed.Record, now latchkey.Instant) (any, error) {
	var id KeyID
	switch r.Ref.Kind {
	case feed.Secret:
		kid, ok := ParseKid(r.Ref.ID)
		if ok {
			var err error
			if id, ok, err = m.Record.KeyOfKid(ctx, at.Chain, kid); err != nil {
				return nil, err
			}
		}
		if !ok {
			return nil, errKeyNotFound
		}
		r.Ref = feed.Ref{Kind: feed.Key, ID: id.String()}
	default:
		var ok bool
		if id, ok = ParseKeyID(r.Ref.ID); !ok {
			return nil, nil
		}
	}
	k, err := m.Record.FullKey(ctx, at.Chain, id, now)
	if latchkey.KindOf(err) == latchkey.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return keyBody(r, at, &k), nil
}

// RecordOf makes the record of a key that was read after how far the changes of
// its customer go.
func (m *RecordMaker) RecordOf(at Position, k *FullKey) (*feed.Record, error) {
	r := &feed.Record{Customer: at.Chain, Ref: feed.Ref{Kind: feed.Key, ID: k.Key.ID.String()}, Version: at.Seq, Epoch: m.Epoch}
	var err error
	if r.Body, err = json.Marshal(keyBody(r, at, k)); err != nil {
		return nil, fmt.Errorf("write the record of key %s: %w", k.Key.ID, err)
	}
	return r, nil
}

// keyBody writes down the key, and in r when it ends.
func keyBody(r *feed.Record, at Position, k *FullKey) *feed.KeyBody {
	body := &feed.KeyBody{ID: k.Key.ID.String(), Handle: k.Key.Handle, Scopes: k.Key.Scopes, Metadata: k.Key.Metadata,
		CreatedAt: k.Key.CreatedAt, RotatedFrom: k.Key.RotatedFrom, ExpiresAt: k.Key.ExpiresAt, RevokedAt: min(k.Key.RevokedAt, at.DeletedAt), Secrets: []feed.SecretBody{}}
	for _, s := range k.Secrets {
		body.Secrets = append(body.Secrets, feed.SecretBody{Kid: s.Kid.String(), Mode: string(s.Mode), Digest: s.Digest[:], Pepper: s.Pepper, EndsAt: s.EndsAt})
	}
	if at.DeletedAt == latchkey.Never {
		body.Grants, _ = GrantBodies(k.Grants)
	}
	r.Until = min(body.ExpiresAt, body.RevokedAt)
	return body
}

func (m *RecordMaker) subject(ctx context.Context, at Position, r *feed.Record, now latchkey.Instant) (any, error) {
	if at.DeletedAt != latchkey.Never {
		return nil, nil
	}
	ref := EntityRef{Type: r.Ref.Type, ID: r.Ref.ID}
	var held Held
	if ref.Type != SubjectAccessKey { // whose are in the key's own record, which is what a change to them touches
		var err error
		if held, _, err = m.Record.Held(ctx, at.Chain, ref, now); err != nil {
			return nil, err
		}
	}
	stored, found, err := m.Record.Subject(ctx, at.Chain, ref)
	if err != nil || !found && held.Person == "" && len(held.Grants) == 0 {
		return nil, err
	}
	return subjectBody(r, &held, stored.Properties, found), nil
}

// subjectBody writes down what a subject holds and, where they are stored, its
// properties, and in r when all of that ends.
func subjectBody(r *feed.Record, held *Held, properties string, stored bool) *feed.SubjectBody {
	body, until := held.Body()
	if stored {
		until = latchkey.Never // properties do not end on their own
	}
	body.Properties, r.Until = properties, until
	return &body
}

// SubjectRecordOf is RecordOf for a subject.
func (m *RecordMaker) SubjectRecordOf(at Position, s *FullSubject) (*feed.Record, error) {
	r := &feed.Record{Customer: at.Chain, Ref: feed.Ref{Kind: feed.Subject, Type: s.Subject.Type, ID: s.Subject.ID}, Version: at.Seq, Epoch: m.Epoch}
	var body any
	if at.DeletedAt == latchkey.Never {
		body = subjectBody(r, &s.Held, s.Subject.Properties, s.Stored)
	}
	var err error
	if r.Body, err = json.Marshal(body); err != nil {
		return nil, fmt.Errorf("write the record of %s: %w", r.Ref, err)
	}
	return r, nil
}

func (m *RecordMaker) resource(ctx context.Context, at Position, r *feed.Record) (any, error) {
	if at.DeletedAt != latchkey.Never {
		return nil, nil
	}
	stored, found, err := m.Record.Resource(ctx, at.Chain, EntityRef{Type: r.Ref.Type, ID: r.Ref.ID})
	if err != nil || !found {
		return nil, err
	}
	r.Until = latchkey.Never
	return &feed.ResourceBody{Properties: stored.Properties}, nil
}

// GrantBodies are grants as records have them, with when the last of them ends.
func GrantBodies(list []GrantRecord) (bodies []feed.GrantBody, until latchkey.Instant) {
	for _, g := range list {
		bodies = append(bodies, feed.GrantBody{ID: g.ID, Entries: g.Entries, Reason: g.Reason,
			NotBefore: g.NotBefore, ExpiresAt: g.ExpiresAt, RevokedAt: g.RevokedAt, Begun: g.begun()})
		until = max(until, min(g.ExpiresAt, g.RevokedAt))
	}
	return bodies, until
}

// Bare makes the message of a change without records.
func (m *RecordMaker) Bare(customer string, t Touched) *feed.Message {
	return &feed.Message{Customer: customer, Epoch: m.Epoch, Seq: t.Seq, At: t.At, Touched: t.Refs, All: t.All}
}

// Message makes the message of a change, with the present records of what it
// touched as far as there is room for them.
func (m *RecordMaker) Message(ctx context.Context, customer string, t Touched, now latchkey.Instant) (*feed.Message, error) {
	msg := m.Bare(customer, t)
	at, err := m.Record.Position(ctx, customer)
	if err != nil {
		return nil, err
	}
	if at.Seq < t.Seq {
		return nil, fmt.Errorf("change %d of %s is told of, and the database is at %d", t.Seq, customer, at.Seq)
	}
	size := 0
	for _, ref := range t.Refs {
		switch ref.Kind {
		case feed.Key, feed.Subject, feed.Resource:
		default: // there are no records of it
			continue
		}
		r, err := m.make(ctx, at, ref, now)
		if err != nil {
			return nil, err
		}
		if size += len(r.Body); size > maxMessage {
			break
		}
		msg.Records = append(msg.Records, *r)
	}
	return msg, nil
}
