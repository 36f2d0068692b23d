package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
)

// tx is one change in its transaction.
type tx struct {
	*sql.Tx
	mac   audit.MACKey
	at    latchkey.Instant
	chain string
	seq   int64
	// decides says that the change is to what the customer decides by.
	decides bool
	// policies is the number of the last change before this one to what the
	// customer decides by.
	policies int64
	// touched are what nodes keep copies of, with what the feed tells of each.
	touched map[feed.Ref]string
	// sets are the values that it adds to sets and removes from them, by id.
	sets map[string]*setChange
}

var _ authz.Tx = (*tx)(nil)

// Change implements authz.Record.
func (db *DB) Change(ctx context.Context, c authz.Change, do func(authz.Tx) (audit.Draft, error)) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 2*lockWait)
		defer cancel()
	}
	leave, err := db.lines.enter(ctx, c.Chain)
	if err != nil {
		return refine(fmt.Errorf("wait for the turn of a change: %w", err))
	}
	defer leave()
	var seq int64
	err = repeatedly(func() (err error) {
		seq, err = db.change(ctx, c, do)
		return err
	})
	if err == nil {
		db.committed(c.Chain, seq)
	}
	return err
}

// attempts is how often something is tried that others beside it made fail.
const attempts = 5

// repeatedly runs a transaction until it does not fail for others' sake.
func repeatedly(run func() error) (err error) {
	for range attempts {
		if err = run(); !again(err) {
			return err
		}
	}
	return err
}

// lockWait is how long a change waits for its turn to write.
const lockWait = 5 * time.Second

func (db *DB) change(ctx context.Context, c authz.Change, do func(authz.Tx) (audit.Draft, error)) (seq int64, err error) {
	sqltx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return 0, refine(fmt.Errorf("begin a change: %w", err))
	}
	defer func() {
		if err != nil { // the first failure is the one that counts
			_ = sqltx.Rollback()
			if errors.Is(err, sql.ErrTxDone) && ctx.Err() != nil { // it was undone for that alone
				err = fmt.Errorf("%w: %w", ctx.Err(), err)
			}
			err = refine(err)
		}
	}()
	t := &tx{Tx: sqltx, mac: db.mac, at: c.At, chain: c.Chain}
	// First of all statements: the row lock on it is what puts all changes of a
	// customer in one line, and the number is gapless because it is rolled back
	// with the rest.
	err = t.QueryRowContext(ctx, `UPDATE customers SET seq = seq + 1 WHERE id = $1 AND deleted_at = $2 RETURNING seq, policies_seq`,
		c.Chain, int64(latchkey.Never)).Scan(&t.seq, &t.policies)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, errCustomerNotFound()
	}
	if err != nil {
		return 0, fmt.Errorf("take the next sequence number of %s: %w", c.Chain, err)
	}
	if err := t.recheck(ctx, &c.By, c.At); err != nil {
		return 0, err
	}
	draft, err := do(t)
	if err != nil {
		return 0, err
	}
	if t.decides {
		if _, err := t.ExecContext(ctx, `UPDATE customers SET policies_seq = seq WHERE id = $1`, t.chain); err != nil {
			return 0, fmt.Errorf("note a change to the policies of %s: %w", t.chain, err)
		}
	}
	if err := t.writeEvent(ctx, draft); err != nil {
		return 0, err
	}
	if err := t.writeFeed(ctx); err != nil {
		return 0, err
	}
	if c.Reply != nil {
		reply, err := c.Reply()
		if err != nil {
			return 0, fmt.Errorf("seal the reply: %w", err)
		}
		if err := t.writeReply(ctx, reply, c.At); err != nil {
			return 0, err
		}
	}
	if err := sqltx.Commit(); err != nil {
		return 0, fmt.Errorf("commit a change of %s: %w", c.Chain, err)
	}
	return t.seq, nil
}

// recheck makes sure that the caller's credential still holds, now that no
// other change can come between.
func (t *tx) recheck(ctx context.Context, by *authz.Caller, at latchkey.Instant) error {
	var n int
	var err error
	switch {
	case by.IsRoot():
		err = t.QueryRowContext(ctx, `SELECT count(*) FROM root_key WHERE kid = $1`, by.Kid.String()).Scan(&n)
	case by.Key != nil:
		err = t.QueryRowContext(ctx, `SELECT count(*) FROM access_keys k JOIN access_key_secrets s ON s.key_id = k.id
			WHERE s.kid = $1 AND s.ends_at > $2 AND k.revoked_at = $3 AND k.expires_at > $2`, by.Kid.String(), int64(at), int64(latchkey.Never)).Scan(&n)
	case by.Person != nil:
		n, err = t.proves(ctx, by, at)
	default: // the process itself
		return nil
	}
	if err != nil {
		return fmt.Errorf("check the caller's credential again: %w", err)
	}
	if n == 0 {
		return authz.ErrUnauthenticated()
	}
	return nil
}

func (t *tx) Seq() int64 { return t.seq }

// Event implements authz.Tx.
func (t *tx) Event(ctx context.Context, d audit.Draft) error {
	if err := t.writeEvent(ctx, d); err != nil {
		return err
	}
	if err := t.writeFeed(ctx); err != nil {
		return err
	}
	t.touched = nil
	if err := t.QueryRowContext(ctx, `UPDATE customers SET seq = seq + 1 WHERE id = $1 RETURNING seq`, t.chain).Scan(&t.seq); err != nil {
		return fmt.Errorf("take a further sequence number of %s: %w", t.chain, err)
	}
	return nil
}

func (t *tx) writeEvent(ctx context.Context, d audit.Draft) error {
	head, err := readHead(ctx, t.Tx, t.chain)
	if err != nil {
		return err
	}
	if head.Seq != t.seq-1 {
		return fmt.Errorf("chain %s: its head is at %d, the customer at %d", t.chain, head.Seq, t.seq)
	}
	e := d.Seal(t.chain, t.seq, head.Hash)
	_, err = t.ExecContext(ctx, `INSERT INTO audit_events
		(chain, seq, id, at, actor_type, actor_id, actor_credential, actor_username, actor_ip, action,
		 resource_type, resource_name, resource_id, outcome, reason, changes, request_id, prev_hash, hash, body)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)`,
		e.Chain, e.Seq, e.ID, int64(e.At), e.Actor.Type, e.Actor.ID, e.Actor.Credential, e.Actor.Username, e.Actor.IP, e.Action,
		e.Resource.Type, e.Resource.Name, e.Resource.ID, e.Outcome, e.Reason, e.Changes, e.RequestID, e.Prev[:], e.Hash[:], e.Body)
	if err != nil {
		return fmt.Errorf("write event %d of chain %s: %w", e.Seq, e.Chain, err)
	}
	head = t.mac.Sign(audit.Head{Chain: e.Chain, Seq: e.Seq, Hash: e.Hash})
	_, err = t.ExecContext(ctx, `INSERT INTO audit_heads (chain, seq, hash, mac) VALUES ($1, $2, $3, $4)
		ON CONFLICT (chain) DO UPDATE SET seq = excluded.seq, hash = excluded.hash, mac = excluded.mac`,
		head.Chain, head.Seq, head.Hash[:], head.MAC)
	if err != nil {
		return fmt.Errorf("move the head of chain %s: %w", e.Chain, err)
	}
	return nil
}

func (t *tx) writeReply(ctx context.Context, r authz.Reply, now latchkey.Instant) error {
	// One that has ended may stand in the way until it is swept.
	_, err := t.ExecContext(ctx, `DELETE FROM replies WHERE id = $1 AND ends_at <= $2`, r.ID[:], int64(now))
	if err == nil {
		_, err = t.ExecContext(ctx, `INSERT INTO replies (id, body, sealed, ends_at) VALUES ($1, $2, $3, $4)`,
			r.ID[:], r.Body[:], r.Sealed, int64(r.EndsAt))
	}
	if unique(err) {
		return latchkey.Errorf(latchkey.Conflict, "idempotency_in_flight", "a request with this Idempotency-Key has just been answered; repeat this one")
	}
	if err != nil {
		return fmt.Errorf("keep a reply: %w", err)
	}
	return nil
}

// Reply implements authz.Record.
func (db *DB) Reply(ctx context.Context, id authz.ReplyID, now latchkey.Instant) (authz.Reply, bool, error) {
	r := authz.Reply{ID: id}
	var body []byte
	err := db.read.QueryRowContext(ctx, `SELECT body, sealed, ends_at FROM replies WHERE id = $1 AND ends_at > $2`,
		id[:], int64(now)).Scan(&body, &r.Sealed, (*int64)(&r.EndsAt))
	if errors.Is(err, sql.ErrNoRows) {
		return authz.Reply{}, false, nil
	}
	if err != nil {
		return authz.Reply{}, false, refine(fmt.Errorf("read a kept reply: %w", err))
	}
	copy(r.Body[:], body)
	return r, true, nil
}

// SweepReplies deletes the replies that have ended and returns their number.
func (db *DB) SweepReplies(ctx context.Context, now latchkey.Instant) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	res, err := db.write.ExecContext(ctx, `DELETE FROM replies WHERE ends_at <= $1`, int64(now))
	if err != nil {
		return 0, refine(fmt.Errorf("sweep kept replies: %w", err))
	}
	n, err := res.RowsAffected()
	return n, refine(err)
}
