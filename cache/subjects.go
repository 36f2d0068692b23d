package cache

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Subject is what Records keep of a subject that is not an access key.
type Subject struct {
	Grants     *authz.Grants
	Properties *policies.Properties // nil for none
}

// subjectOverhead and grantOverhead are about what they take beside their texts
// and sets, in bytes; entryOverhead is an entry of a set, which equal ones share.
const (
	subjectOverhead = 80
	grantOverhead   = 96
)

// DecodeSubject makes a *Subject of a record of kind feed.Subject, for
// RecordsConfig.Decode.
func DecodeSubject(p *scopes.Parser, rec *feed.Record) (value any, size int, err error) {
	var body feed.SubjectBody
	if rec.Exists() {
		if err := json.Unmarshal(rec.Body, &body); err != nil {
			return nil, 0, fmt.Errorf("read a subject's record: %w", err)
		}
	}
	s := &Subject{}
	if s.Grants, err = authz.NewHeld(p, &body, rec.Version); err != nil {
		return nil, 0, err
	}
	size = subjectOverhead
	for i := range body.Grants {
		g := &body.Grants[i]
		size += grantOverhead + len(g.ID) + len(g.Reason) + 2*len(g.Entries) // their set
	}
	for i := range body.Entitlements {
		e := &body.Entitlements[i]
		size += grantOverhead + len(e.ID) + len(e.Group) + len(e.Reason) + 2*len(e.Entries)
	}
	if body.Properties != "" && body.Properties != "{}" {
		if s.Properties, err = policies.NewProperties(body.Properties); err != nil {
			return nil, 0, fmt.Errorf("read a subject's record: %w", err)
		}
		size += 2 * len(body.Properties) // the text, and the tape of it
	}
	return s, size, nil
}

// Subjects finds the grants of subjects that are not access keys among records.
// Safe for concurrent use.
type Subjects struct {
	records *Records
	feed    authz.FeedRecord
	epoch   int64
}

// NewSubjects makes one over records whose Decode is DecodeSubject for records of
// subjects, in the process that the database's changes are made by. It finds
// nothing before Start.
func NewSubjects(records *Records, changes authz.FeedRecord, epoch int64) *Subjects {
	return &Subjects{records: records, feed: changes, epoch: epoch}
}

// Start begins to follow the changes of all customers that there are.
func (s *Subjects) Start(ctx context.Context) error {
	positions, err := s.feed.Positions(ctx)
	for _, p := range positions {
		s.records.Start(p.Chain, s.epoch, p.Seq)
	}
	return err
}

var _ authz.GrantCache = (*Subjects)(nil)

// Grants implements authz.GrantSource. The texts may lie in a buffer that is
// used again.
func (s *Subjects) Grants(c *authz.Customer, typ, id string) (*authz.Grants, error) {
	v, err := s.records.Get(c.ID, feed.Ref{Kind: feed.Subject, Type: typ, ID: id})
	if latchkey.KindOf(err) == latchkey.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return v.(*Subject).Grants, nil
}

// Observe takes in a change that this process has come to know of; it is an
// observer of authz.Follower.
func (s *Subjects) Observe(customer string, t authz.Touched) {
	if !s.records.Apply(&feed.Message{Customer: customer, Epoch: s.epoch, Seq: t.Seq, At: t.At, Touched: t.Refs, All: t.All}) {
		s.records.Skip(customer, s.epoch, t.Seq) // it does not follow the one before, or is the first
	}
}

// changesAtOnce bounds one reading of changes.
const changesAtOnce = 256

// Reach implements authz.GrantCache.
func (s *Subjects) Reach(ctx context.Context, customer string, seq int64) {
	for {
		known, at := s.records.At(customer)
		if known == s.epoch && at >= seq {
			return
		}
		list, err := s.feed.Changes(ctx, customer, at, changesAtOnce)
		for i := range list {
			t := &list[i]
			if !s.records.Apply(&feed.Message{Customer: customer, Epoch: s.epoch, Seq: t.Seq, At: t.At, Touched: t.Refs, All: t.All}) {
				list = nil
				break
			}
		}
		if err != nil || len(list) == 0 { // not to be had, or not known any more, or nothing was followed
			s.records.Skip(customer, s.epoch, seq)
			return
		}
	}
}

// SubjectSource reads what subjects hold from the database, which is the last
// source of all. The properties of subjects are not among what it reads.
type SubjectSource struct {
	Record authz.FeedRecord
	Epoch  int64
	Now    func() latchkey.Instant
}

// Fetch implements Source.
func (s *SubjectSource) Fetch(ctx context.Context, customer string, ref feed.Ref) (*feed.Record, error) {
	if ref.Kind != feed.Subject {
		return nil, ErrMiss
	}
	held, asOf, err := s.Record.Held(ctx, customer, authz.EntityRef{Type: ref.Type, ID: ref.ID}, s.Now())
	if err != nil {
		return nil, err
	}
	rec := &feed.Record{Customer: customer, Ref: ref, Version: asOf, Epoch: s.Epoch}
	var body feed.SubjectBody
	body, rec.Until = held.Body()
	rec.Body, err = json.Marshal(&body)
	return rec, err
}
