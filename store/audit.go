package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"strconv"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
)

const eventColumns = `chain, seq, id, at, actor_type, actor_id, actor_credential, actor_username, actor_ip, action,
	resource_type, resource_name, resource_id, outcome, reason, changes, request_id, prev_hash, hash, body`

func scanEvent(row scanner) (e audit.Event, err error) {
	var prev, hash []byte
	err = row.Scan(&e.Chain, &e.Seq, &e.ID, (*int64)(&e.At), &e.Actor.Type, &e.Actor.ID, &e.Actor.Credential, &e.Actor.Username, &e.Actor.IP, &e.Action,
		&e.Resource.Type, &e.Resource.Name, &e.Resource.ID, &e.Outcome, &e.Reason, &e.Changes, &e.RequestID, &prev, &hash, &e.Body)
	copy(e.Prev[:], prev)
	copy(e.Hash[:], hash)
	return e, err
}

// readHead returns the end of a chain; one without events has the zero head.
func readHead(ctx context.Context, q rows, chain string) (audit.Head, error) {
	h := audit.Head{Chain: chain}
	var hash []byte
	err := q.QueryRowContext(ctx, `SELECT seq, hash, mac FROM audit_heads WHERE chain = $1`, chain).Scan(&h.Seq, &hash, &h.MAC)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return h, fmt.Errorf("read the head of chain %s: %w", chain, err)
	}
	copy(h.Hash[:], hash)
	return h, nil
}

// Events returns events of a chain, newest first.
func (db *DB) Events(ctx context.Context, chain string, f audit.Filter) ([]audit.Event, error) {
	where, args := conditions(chain, f)
	if f.Before > 0 {
		args = append(args, f.Before)
		where += ` AND seq < $` + strconv.Itoa(len(args))
	}
	args = append(args, f.Limit)
	//nolint:gosec // what is put together is written here; values are parameters
	found, err := db.read.QueryContext(ctx, `SELECT `+eventColumns+` FROM audit_events WHERE `+where+
		` ORDER BY seq DESC LIMIT $`+strconv.Itoa(len(args)), args...)
	list, err := collect(found, err, scanEvent)
	if err != nil {
		return nil, refine(fmt.Errorf("list events of chain %s: %w", chain, err))
	}
	return list, nil
}

// EventRange returns the events of a chain that the filter lets through and
// that have after < seq <= through, oldest first. Its limit and place count
// for nothing: the range bounds what is read, and the same range gives the same
// events whatever is written meanwhile.
func (db *DB) EventRange(ctx context.Context, chain string, f audit.Filter, after, through int64) ([]audit.Event, error) {
	where, args := conditions(chain, f)
	args = append(args, after, through)
	//nolint:gosec // as above
	found, err := db.read.QueryContext(ctx, `SELECT `+eventColumns+` FROM audit_events WHERE `+where+
		` AND seq > $`+strconv.Itoa(len(args)-1)+` AND seq <= $`+strconv.Itoa(len(args))+` ORDER BY seq`, args...)
	list, err := collect(found, err, scanEvent)
	if err != nil {
		return nil, refine(fmt.Errorf("read events of chain %s: %w", chain, err))
	}
	return list, nil
}

// Head returns the end of a chain; one without events has the zero head.
func (db *DB) Head(ctx context.Context, chain string) (audit.Head, error) {
	h, err := readHead(ctx, db.read, chain)
	return h, refine(err)
}

// Heads returns the ends of all chains that have begun. Each is checked: a head
// that does not carry our MAC is not one to anchor, and comes in forged.
func (db *DB) Heads(ctx context.Context) (heads, forged []audit.Head, err error) {
	found, err := db.read.QueryContext(ctx, `SELECT chain, seq, hash, mac FROM audit_heads ORDER BY chain`)
	all, err := collect(found, err, func(row scanner) (h audit.Head, err error) {
		var hash []byte
		err = row.Scan(&h.Chain, &h.Seq, &hash, &h.MAC)
		copy(h.Hash[:], hash)
		return h, err
	})
	if err != nil {
		return nil, nil, refine(fmt.Errorf("read the heads of chains: %w", err))
	}
	for _, h := range all {
		if db.mac.Holds(h) {
			heads = append(heads, h)
		} else {
			forged = append(forged, h)
		}
	}
	return heads, forged, nil
}

// conditions is the filter as SQL over parameters from $1.
func conditions(chain string, f audit.Filter) (where string, args []any) {
	where, args = `chain = $1`, []any{chain}
	add := func(condition string, v any) {
		args = append(args, v)
		where += ` AND ` + condition + `$` + strconv.Itoa(len(args))
	}
	for _, c := range []struct{ condition, value string }{
		{`actor_id = `, f.Actor}, {`action = `, f.Action}, {`resource_type = `, f.ResourceType},
		{`resource_name = `, f.ResourceName}, {`outcome = `, f.Outcome}, {`request_id = `, f.RequestID},
	} {
		if c.value != "" {
			add(c.condition, c.value)
		}
	}
	if f.From > 0 {
		add(`at >= `, int64(f.From))
	}
	if f.To > 0 {
		add(`at < `, int64(f.To))
	}
	return where, args
}

// Event returns one event of a chain.
func (db *DB) Event(ctx context.Context, chain, id string) (audit.Event, error) {
	e, err := scanEvent(db.read.QueryRowContext(ctx, `SELECT `+eventColumns+` FROM audit_events WHERE chain = $1 AND id = $2`, chain, id))
	if errors.Is(err, sql.ErrNoRows) || unstorable(err) {
		return e, latchkey.Errorf(latchkey.NotFound, "event_not_found", "there is no such event")
	}
	if err != nil {
		return e, refine(fmt.Errorf("read event %s: %w", id, err))
	}
	return e, nil
}

// Chains lists the chains: one a customer, ended ones too, and the system's.
func (db *DB) Chains(ctx context.Context) ([]string, error) {
	found, err := db.read.QueryContext(ctx, `SELECT id FROM customers ORDER BY id`)
	list, err := collect(found, err, func(row scanner) (id string, err error) {
		err = row.Scan(&id)
		return id, err
	})
	if err != nil {
		return nil, refine(fmt.Errorf("list chains: %w", err))
	}
	return list, nil
}

// VerifyChain checks one chain from its first event to its head, all as of one
// moment, and that it passes through the anchors that are its own. A customer's
// sequence number is the third witness: it stands in the customer's own row.
func (db *DB) VerifyChain(ctx context.Context, chain string, anchors ...audit.Head) (audit.Report, error) {
	snapshot, err := db.snapshot(ctx)
	if err != nil {
		return audit.Report{}, refine(fmt.Errorf("verify chain %s: %w", chain, err))
	}
	defer snapshot.Rollback() //nolint:errcheck // it only reads
	return verifyChain(ctx, snapshot, db.mac, chain, anchors...)
}

func verifyChain(ctx context.Context, snapshot *sql.Tx, mac audit.MACKey, chain string, anchors ...audit.Head) (audit.Report, error) {
	var seq int64
	err := snapshot.QueryRowContext(ctx, `SELECT seq FROM customers WHERE id = $1`, chain).Scan(&seq)
	if errors.Is(err, sql.ErrNoRows) {
		return audit.Report{}, errCustomerNotFound()
	}
	if err != nil {
		return audit.Report{}, refine(fmt.Errorf("verify chain %s: %w", chain, err))
	}
	head, err := readHead(ctx, snapshot, chain)
	if err != nil {
		return audit.Report{}, refine(err)
	}
	if head.Seq == 0 && head.MAC == nil && seq == 0 {
		head = mac.Sign(head) // a chain that has not begun
	}
	report, err := audit.Verify(head, mac, anchors, events(ctx, snapshot, chain))
	if err != nil {
		return report, refine(err)
	}
	if seq != head.Seq {
		report.Holds = false
		report.Findings = append(report.Findings, audit.Finding{Seq: max(seq, head.Seq), Code: "head_forged",
			Detail: fmt.Sprintf("the customer's sequence stands at %d, the chain's head at %d", seq, head.Seq)})
	}
	return report, nil
}

func events(ctx context.Context, q *sql.Tx, chain string) iter.Seq2[audit.Event, error] {
	return func(yield func(audit.Event, error) bool) {
		found, err := q.QueryContext(ctx, `SELECT `+eventColumns+` FROM audit_events WHERE chain = $1 ORDER BY seq`, chain)
		if err != nil {
			yield(audit.Event{}, err)
			return
		}
		defer found.Close()
		for found.Next() {
			e, err := scanEvent(found)
			if !yield(e, err) || err != nil {
				return
			}
		}
		if err := found.Err(); err != nil {
			yield(audit.Event{}, err)
		}
	}
}
