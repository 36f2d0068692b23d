package cache

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
)

// Rebuilt counts what a rebuild has put into Redis.
type Rebuilt struct {
	Customers, Keys, Subjects int64
	Refused                   int64 // records of which newer ones are there
}

// Rebuild gives Redis the active keys, the subjects that hold grants, and the
// active persons by each of their names, of a customer, or of all where it is "". The memory that it takes does not grow with
// their number. It may run beside servers that publish.
func (r *Relay) Rebuild(ctx context.Context, customer string) (Rebuilt, error) {
	positions, err := r.cfg.Record.Positions(ctx)
	if err != nil {
		return Rebuilt{}, err
	}
	epoch, err := r.cfg.Epoch(ctx)
	if err != nil {
		return Rebuilt{}, err
	}
	b := &rebuild{Relay: r, maker: &authz.RecordMaker{Record: r.cfg.Record, Epoch: epoch}}
	for _, p := range positions {
		if customer != "" && p.Chain != customer || p.DeletedAt != latchkey.Never || !latchkey.ValidName(p.Chain) {
			continue
		}
		if err := r.publish(ctx, p.Chain); err != nil {
			return b.counts(), fmt.Errorf("publish the changes of %s: %w", p.Chain, err)
		}
		if r.isHeld(p.Chain) {
			return b.counts(), fmt.Errorf("customer %s: Redis knows of changes that the database does not have", p.Chain)
		}
		if err := b.customer(ctx, p.Chain); err != nil {
			return b.counts(), fmt.Errorf("customer %s: %w", p.Chain, err)
		}
		b.customers.Add(1)
	}
	if n := b.counts(); n.Customers > 0 || customer == "" {
		return n, nil
	}
	return Rebuilt{}, latchkey.Errorf(latchkey.NotFound, "customer_not_found", "there is no customer %q", customer)
}

func (r *Relay) isHeld(customer string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state(customer).held != ""
}

type rebuild struct {
	*Relay
	maker                              *authz.RecordMaker
	customers, keys, subjects, refused atomic.Int64
}

func (b *rebuild) counts() Rebuilt {
	return Rebuilt{b.customers.Load(), b.keys.Load(), b.subjects.Load(), b.refused.Load()}
}

// customer reads page by page, while those before are signed and written.
func (b *rebuild) customer(ctx context.Context, customer string) error {
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(runtime.GOMAXPROCS(0) + 1)
	err := b.read(ctx, work, customer)
	if failed := work.Wait(); failed != nil {
		return failed
	}
	return err
}

func (b *rebuild) read(ctx context.Context, work *errgroup.Group, customer string) error {
	for after := (authz.Key{}); ctx.Err() == nil; {
		at, now, err := b.position(ctx, customer)
		if err != nil {
			return err
		}
		page, err := b.cfg.Record.FullKeys(ctx, customer, after, now)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		after = page[len(page)-1].Key
		work.Go(func() error {
			return b.put(ctx, at, now, &b.keys, len(page), func(i int) (*feed.Record, error) {
				if k := &page[i].Key; min(k.ExpiresAt, k.RevokedAt) <= now {
					return nil, nil
				}
				return b.maker.RecordOf(at, &page[i])
			})
		})
	}
	for after := (authz.EntityRef{}); ctx.Err() == nil; {
		at, now, err := b.position(ctx, customer)
		if err != nil {
			return err
		}
		page, err := b.cfg.Record.FullSubjects(ctx, customer, after, now)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		after = page[len(page)-1].Subject.EntityRef
		work.Go(func() error {
			return b.put(ctx, at, now, &b.subjects, len(page), func(i int) (*feed.Record, error) { return b.maker.SubjectRecordOf(at, &page[i]) })
		})
	}
	for after := ""; ctx.Err() == nil; {
		at, now, err := b.position(ctx, customer)
		if err != nil {
			return err
		}
		page, last, err := b.cfg.Record.FullPersons(ctx, customer, after, now)
		if err != nil || last == "" {
			return err
		}
		after = last
		work.Go(func() error {
			return b.put(ctx, at, now, &b.subjects, len(page), func(i int) (*feed.Record, error) { return b.maker.SubjectRecordOf(at, &page[i]) })
		})
	}
	return ctx.Err()
}

// position is how far the customer's changes go before a page is read, and the
// time before that.
func (b *rebuild) position(ctx context.Context, customer string) (authz.Position, latchkey.Instant, error) {
	now := b.cfg.Now()
	at, err := b.cfg.Record.Position(ctx, customer)
	return at, now, err
}

// put signs n records and writes them; nil ones are left out.
func (b *rebuild) put(ctx context.Context, at authz.Position, readAt latchkey.Instant, count *atomic.Int64, n int, record func(int) (*feed.Record, error)) error {
	const atOnce = 256
	list := make([]Stored, 0, min(n, atOnce))
	flush := func() error {
		err := b.cfg.Redis.Fills(ctx, at.Chain, b.maker.Epoch, list, readAt, func(_ int, o Outcome) {
			if o == OutcomeTaken {
				count.Add(1)
			} else {
				b.refused.Add(1)
			}
		})
		list = list[:0]
		return err
	}
	for i := range n {
		rec, err := record(i)
		if err != nil {
			return err
		}
		if rec == nil {
			continue
		}
		text, err := b.cfg.Signer.SignRecord(rec)
		if err != nil {
			return err
		}
		if list = append(list, StoredRecord(rec, text)); len(list) == atOnce {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}
