package access

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
)

// dueAtOnce is how many requests a job takes from the record at a time.
const dueAtOnce = 200

// Sweep writes down what has expired, and returns how many requests. Nothing rests
// on it: what has run out is expired to everybody at once.
func (s *Requests) Sweep(ctx context.Context, now latchkey.Instant) (int, error) {
	return s.each(ctx, DueExpiry, now, func(d DueRequest) error {
		_, err := s.own(ctx, d, now, func(tx Tx, _ *authz.Call, r *Request) (audit.Draft, error) {
			return s.expire(ctx, tx, r, now)
		})
		return err
	})
}

// expire writes down that a request has expired.
func (s *Requests) expire(ctx context.Context, tx Tx, r *Request, now latchkey.Instant) (audit.Draft, error) {
	pending := r.Status == Pending
	next, err := s.step(ctx, tx, *r, Expire{}, now)
	if err != nil {
		return audit.Draft{}, err
	}
	*r = next
	return draft(&authz.Call{Now: now}, r, "expire", r.told(ExpiredEvent).flag("pending", pending)), nil
}

// Escalate takes requests that nobody decided in time to further people, once, and
// returns how many.
func (s *Requests) Escalate(ctx context.Context, now latchkey.Instant) (int, error) {
	return s.each(ctx, DueEscalation, now, func(d DueRequest) error {
		_, err := s.own(ctx, d, now, func(tx Tx, call *authz.Call, r *Request) (audit.Draft, error) {
			further, err := approvers(ctx, tx, []string{r.Snapshot.Template.EscalationGroup})
			if err != nil {
				return audit.Draft{}, err
			}
			var told []Party
			for _, c := range others(further, r.Requester.ID, r.Beneficiary.ID) {
				told = append(told, c.party())
			}
			next, err := s.step(ctx, tx, *r, Escalate{Notified: told}, now)
			if err != nil {
				return audit.Draft{}, err
			}
			return draft(call, &next, "escalate", next.told(Escalated).people("notified_approvers", told)), nil
		})
		return err
	})
}

// recheckTurn is for how long a request is one process's to ask providers about
// again: longer than that takes. Where the process ends meanwhile, another one asks.
const recheckTurn = 30 * time.Second

// Recheck asks providers again about what they approved, where the template wants
// that, and revokes what they would not approve any more; it returns about how many
// requests were due. What they do not say revokes nothing. Of several processes one
// asks about a request.
func (s *Requests) Recheck(ctx context.Context, now latchkey.Instant) (int, error) {
	if s.cfg.Auto == nil {
		return 0, nil
	}
	return s.each(ctx, DueRecheck, now, func(d DueRequest) error {
		r, err := s.cfg.Record.Request(ctx, d.Customer, d.ID)
		if err != nil || r.RecheckAt > now {
			return err
		}
		now := now // those before it may have taken a while
		if s.cfg.Now != nil {
			now = max(now, s.cfg.Now())
		}
		turn := now.Add(recheckTurn)
		if mine, err := s.cfg.Record.Postpone(ctx, d.Customer, d.ID, r.RecheckAt, turn); !mine || err != nil {
			return err
		}
		q := AutoQuestion{Customer: d.Customer, Template: r.Snapshot.Template, Request: r, Now: now}
		if q.Requester, err = s.cfg.Record.Person(ctx, d.Customer, r.Requester.ID); err != nil {
			return err
		}
		if q.Beneficiary, err = s.cfg.Record.Person(ctx, d.Customer, r.Beneficiary.ID); err != nil {
			return err
		}
		for _, ref := range r.Resources {
			resource, found, err := s.cfg.Record.Resource(ctx, d.Customer, ref)
			if err != nil {
				return err
			}
			if !found { // then nothing says that it would be approved, nor that not
				resource = authz.ResourceRecord{EntityRef: ref, Labels: "{}", Properties: "{}"}
			}
			q.Resources = append(q.Resources, resource)
		}
		bounded, cancel := context.WithTimeout(ctx, AutoTimeout)
		defer cancel()
		answer, err := s.cfg.Auto.Evaluate(bounded, q)
		if err != nil {
			s.troubled(ctx, "recheck", fmt.Errorf("request %s of %s: %w", d.ID, d.Customer, err))
		}
		if err != nil || answer.Approve {
			_, err := s.cfg.Record.Postpone(ctx, d.Customer, d.ID, turn, now.Add(r.Snapshot.Template.RevokeWhenOffCall.Duration()))
			return err
		}
		seq, err := s.own(ctx, d, now, func(tx Tx, call *authz.Call, r *Request) (audit.Draft, error) {
			next, err := s.step(ctx, tx, *r, Revoke{By: authz.Bot, Reason: "not on call any more"}, now)
			if err == nil {
				err = s.endGrant(ctx, tx, &next, now)
			}
			if err != nil {
				return audit.Draft{}, err
			}
			return by(revoked(call, &next), authz.Bot), nil
		})
		if err == nil && seq > 0 {
			s.cfg.Subjects.Reach(ctx, d.Customer, seq)
		}
		return err
	})
}

// own makes a change of latchkey's own to a request, and returns its number. One
// that something has become of meanwhile is left as it is.
func (s *Requests) own(ctx context.Context, d DueRequest, now latchkey.Instant, do func(Tx, *authz.Call, *Request) (audit.Draft, error)) (seq int64, err error) {
	call := authz.Call{Now: now}
	err = s.cfg.Record.Change(ctx, authz.Change{Chain: d.Customer, At: now}, func(tx Tx) (audit.Draft, error) {
		seq = tx.Seq()
		r, err := tx.Request(ctx, d.ID)
		if err != nil {
			return audit.Draft{}, err
		}
		return do(tx, &call, &r)
	})
	switch latchkey.CodeOf(err) {
	case "request_not_due", "request_not_pending":
		return 0, nil
	}
	return seq, err
}

// each does something with everything that is due, until ctx ends, and returns with
// how much it succeeded. What fails is left for the next time, and keeps nothing else
// waiting; the error is that of the first, and how many there were.
func (s *Requests) each(ctx context.Context, what Due, now latchkey.Instant, do func(DueRequest) error) (n int, err error) {
	seen := map[DueRequest]bool{}
	failed := 0
	defer func() {
		if failed > 1 {
			err = fmt.Errorf("%d of them failed, first %w", failed, err)
		}
	}()
	for {
		list, e := s.cfg.Record.Due(ctx, what, now, dueAtOnce+failed)
		if e != nil {
			return n, cmp.Or(err, e)
		}
		fresh := false
		for _, d := range list {
			if seen[d] {
				continue
			}
			if ctx.Err() != nil {
				return n, cmp.Or(err, ctx.Err())
			}
			fresh, seen[d] = true, true
			if e := do(d); e != nil {
				failed++
				err = cmp.Or(err, fmt.Errorf("%s of request %s of %s: %w", what, d.ID, d.Customer, e))
				continue
			}
			n++
		}
		if !fresh {
			return n, err
		}
	}
}
