package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/deliveries"
)

// Deliveries is the database as the webhooks and their deliveries need it.
func (db *DB) Deliveries() DeliveryRecord { return DeliveryRecord{db} }

// DeliveryRecord implements deliveries.Record, deliveries.Cursor and
// deliveries.Queue.
type DeliveryRecord struct{ *DB }

var (
	_ deliveries.Record = DeliveryRecord{}
	_ deliveries.Queue  = DeliveryRecord{}
	_ deliveries.Tx     = deliveryTx{}

	_ deliveries.Cursor[deliveries.Delivery] = DeliveryRecord{}
)

type deliveryTx struct{ *tx }

// Change implements deliveries.Record.
func (db DeliveryRecord) Change(ctx context.Context, c authz.Change, do func(deliveries.Tx) (audit.Draft, error)) error {
	return db.DB.Change(ctx, c, func(t authz.Tx) (audit.Draft, error) { return do(deliveryTx{t.(*tx)}) })
}

const webhookColumns = `id, customer_id, url, task_id, events, headers, compat, description, since, created_at, version`

func scanWebhook(row scanner) (w deliveries.Webhook, err error) {
	var events, headers string
	err = row.Scan(&w.ID, &w.Customer, &w.URL, &w.TaskID, &events, &headers, &w.Compat, &w.Description, &w.Since, (*int64)(&w.CreatedAt), &w.Version)
	if err == nil {
		err = errors.Join(json.Unmarshal([]byte(events), &w.Events), json.Unmarshal([]byte(headers), &w.Headers))
	}
	return w, err
}

func readWebhook(ctx context.Context, q rows, customer, id string) (deliveries.Webhook, error) {
	w, err := scanWebhook(q.QueryRowContext(ctx, `SELECT `+webhookColumns+` FROM webhooks WHERE id = $1 AND customer_id = $2
		AND EXISTS (SELECT 1 FROM customers c WHERE c.id = webhooks.customer_id AND c.deleted_at = $3)`, id, customer, int64(latchkey.Never)))
	if errors.Is(err, sql.ErrNoRows) {
		return w, latchkey.Errorf(latchkey.NotFound, "webhook_not_found", "there is no such webhook")
	}
	if err != nil {
		return w, refine(fmt.Errorf("read webhook %s: %w", id, err))
	}
	return w, nil
}

// Webhook implements deliveries.Record and deliveries.Queue.
func (db DeliveryRecord) Webhook(ctx context.Context, customer, id string) (deliveries.Webhook, error) {
	return readWebhook(ctx, db.read, customer, id)
}

// Webhooks implements deliveries.Record and deliveries.Cursor.
func (db DeliveryRecord) Webhooks(ctx context.Context, customer string) ([]deliveries.Webhook, error) {
	found, err := db.read.QueryContext(ctx, `SELECT `+webhookColumns+` FROM webhooks WHERE customer_id = $1 ORDER BY created_at, id`, customer)
	list, err := collect(found, err, scanWebhook)
	if err != nil {
		return nil, refine(fmt.Errorf("list webhooks of %s: %w", customer, err))
	}
	return list, nil
}

// Webhook implements deliveries.Tx.
func (t deliveryTx) Webhook(ctx context.Context, id string) (deliveries.Webhook, error) {
	return readWebhook(ctx, t, t.chain, id)
}

// CountWebhooks implements deliveries.Tx.
func (t deliveryTx) CountWebhooks(ctx context.Context) (int, error) {
	return t.count(ctx, `SELECT count(*) FROM webhooks WHERE customer_id = $1`, t.chain)
}

// InsertWebhook implements deliveries.Tx.
func (t deliveryTx) InsertWebhook(ctx context.Context, w deliveries.Webhook) error {
	_, err := t.ExecContext(ctx, `INSERT INTO webhooks (`+webhookColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		w.ID, t.chain, w.URL, w.TaskID, textList(w.Events), textList(w.Headers), w.Compat, w.Description, w.Since, int64(w.CreatedAt), w.Version)
	if err != nil {
		return fmt.Errorf("insert webhook %s: %w", w.ID, err)
	}
	return nil
}

// UpdateWebhook implements deliveries.Tx.
func (t deliveryTx) UpdateWebhook(ctx context.Context, w deliveries.Webhook) error {
	_, err := t.ExecContext(ctx, `UPDATE webhooks SET url = $3, task_id = $4, events = $5, headers = $6, compat = $7, description = $8, version = $9
		WHERE id = $1 AND customer_id = $2`,
		w.ID, t.chain, w.URL, w.TaskID, textList(w.Events), textList(w.Headers), w.Compat, w.Description, w.Version)
	if err != nil {
		return fmt.Errorf("update webhook %s: %w", w.ID, err)
	}
	return nil
}

// DeleteWebhook implements deliveries.Tx.
func (t deliveryTx) DeleteWebhook(ctx context.Context, id string) error {
	_, err := t.ExecContext(ctx, `DELETE FROM deliveries WHERE target = $1 AND customer_id = $2`, id, t.chain)
	if err == nil {
		_, err = t.ExecContext(ctx, `DELETE FROM webhooks WHERE id = $1 AND customer_id = $2`, id, t.chain)
	}
	if err != nil {
		return fmt.Errorf("delete webhook %s: %w", id, err)
	}
	return nil
}

const deliveryColumns = `id, customer_id, channel, target, recipient, seq, event, event_at, request_id, status, attempts, next_at, ends_at, attempted_at,
	result, reply_status, reply_head, created_at`

func scanDelivery(row scanner) (d deliveries.Delivery, err error) {
	err = row.Scan(&d.ID, &d.Customer, (*string)(&d.Channel), &d.Target, &d.Recipient, &d.Seq, &d.Event, (*int64)(&d.EventAt), &d.RequestID, (*string)(&d.Status),
		&d.Attempts, (*int64)(&d.NextAt), (*int64)(&d.EndsAt), (*int64)(&d.AttemptedAt), &d.Outcome.Result, &d.Outcome.ReplyStatus, &d.Outcome.ReplyHead, (*int64)(&d.CreatedAt))
	return d, err
}

// Deliveries implements deliveries.Record.
func (db DeliveryRecord) Deliveries(ctx context.Context, q deliveries.Query) ([]deliveries.Delivery, error) {
	where, args := `target = $1 AND customer_id = $2`, []any{q.Target, q.Customer}
	arg := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	if q.Status != "" {
		where += ` AND status = ` + arg(string(q.Status))
	}
	if q.Before > 0 {
		where += ` AND (seq, recipient) < (` + arg(q.Before) + `, ` + arg(q.BeforeRecipient) + `)`
	}
	//nolint:gosec // what is put together is written above; values are parameters
	found, err := db.read.QueryContext(ctx, `SELECT `+deliveryColumns+` FROM deliveries WHERE `+where+` ORDER BY seq DESC, recipient DESC LIMIT `+arg(q.Limit), args...)
	list, err := collect(found, err, scanDelivery)
	if err != nil {
		return nil, refine(fmt.Errorf("list deliveries to %s: %w", q.Target, err))
	}
	return list, nil
}

// Delivery implements deliveries.Tx.
func (t deliveryTx) Delivery(ctx context.Context, target, id string) (deliveries.Delivery, error) {
	d, err := scanDelivery(t.QueryRowContext(ctx, `SELECT `+deliveryColumns+` FROM deliveries WHERE id = $1 AND target = $2 AND customer_id = $3`, id, target, t.chain))
	if errors.Is(err, sql.ErrNoRows) {
		return d, latchkey.Errorf(latchkey.NotFound, "delivery_not_found", "there is no such delivery")
	}
	if err != nil {
		return d, fmt.Errorf("read delivery %s: %w", id, err)
	}
	return d, nil
}

// UpdateDelivery implements deliveries.Tx.
func (t deliveryTx) UpdateDelivery(ctx context.Context, d deliveries.Delivery) error {
	_, err := t.ExecContext(ctx, `UPDATE deliveries SET status = $2, next_at = $3, ends_at = $4 WHERE id = $1`,
		d.ID, string(d.Status), int64(d.NextAt), int64(d.EndsAt))
	if err != nil {
		return fmt.Errorf("update delivery %s: %w", d.ID, err)
	}
	return nil
}

// Behind implements deliveries.Cursor.
func (db DeliveryRecord) Behind(ctx context.Context) ([]deliveries.Behind, error) {
	return deliveryCursors.behind(ctx, db.DB)
}

// Lifecycle implements deliveries.Cursor.
func (db DeliveryRecord) Lifecycle(ctx context.Context, customer string, after, through int64) ([]audit.Event, error) {
	found, err := db.read.QueryContext(ctx, `SELECT `+eventColumns+` FROM audit_events
		WHERE chain = $1 AND seq > $2 AND seq <= $3 AND resource_type = 'access_request' AND outcome = 'success' ORDER BY seq`, customer, after, through)
	list, err := collect(found, err, scanEvent)
	if err != nil {
		return nil, refine(fmt.Errorf("read events of %s: %w", customer, err))
	}
	return list, nil
}

// Event implements deliveries.Queue.
func (db DeliveryRecord) Event(ctx context.Context, chain string, seq int64) (audit.Event, error) {
	e, err := scanEvent(db.read.QueryRowContext(ctx, `SELECT `+eventColumns+` FROM audit_events WHERE chain = $1 AND seq = $2`, chain, seq))
	if err != nil {
		return e, refine(fmt.Errorf("read event %d of %s: %w", seq, chain, err))
	}
	return e, nil
}

// Advance implements deliveries.Cursor.
func (db DeliveryRecord) Advance(ctx context.Context, customer string, from, to int64, made []deliveries.Delivery) (moved bool, err error) {
	return deliveryCursors.advance(ctx, db.DB, customer, from, to, func(tx *sql.Tx) error {
		for _, d := range made {
			_, err := tx.ExecContext(ctx, `INSERT INTO deliveries (`+deliveryColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
				ON CONFLICT DO NOTHING`,
				d.ID, d.Customer, string(d.Channel), d.Target, d.Recipient, d.Seq, d.Event, int64(d.EventAt), d.RequestID, string(d.Status),
				d.Attempts, int64(d.NextAt), int64(d.EndsAt), int64(d.AttemptedAt), d.Outcome.Result, d.Outcome.ReplyStatus, d.Outcome.ReplyHead, int64(d.CreatedAt))
			if err != nil {
				return fmt.Errorf("insert a delivery of %s: %w", customer, err)
			}
		}
		return nil
	})
}

// DueTargets implements deliveries.Queue. It goes from target to target along the
// index of what is pending, however much of it each has.
func (db DeliveryRecord) DueTargets(ctx context.Context, now latchkey.Instant) ([]deliveries.Target, error) {
	found, err := db.read.QueryContext(ctx, `WITH RECURSIVE targets (target) AS (
			SELECT min(target) FROM deliveries WHERE status = 'pending'
			UNION ALL
			SELECT (SELECT min(d.target) FROM deliveries d WHERE d.status = 'pending' AND d.target > t.target) FROM targets t WHERE t.target IS NOT NULL
		) SELECT t.target, (SELECT d.customer_id FROM deliveries d WHERE d.status = 'pending' AND d.target = t.target LIMIT 1) FROM targets t WHERE t.target IS NOT NULL
			AND EXISTS (SELECT 1 FROM deliveries d WHERE d.status = 'pending' AND d.target = t.target AND d.next_at <= $1)`, int64(now))
	list, err := collect(found, err, func(row scanner) (t deliveries.Target, err error) {
		err = row.Scan(&t.ID, &t.Customer)
		return t, err
	})
	if err != nil {
		return nil, refine(fmt.Errorf("read what deliveries are due: %w", err))
	}
	return list, nil
}

// Claim implements deliveries.Queue. Of two processes at once the second one finds
// next_at moved, for it is looked at again when the row's lock is had.
func (db DeliveryRecord) Claim(ctx context.Context, target string, now latchkey.Instant, limit int) ([]deliveries.Delivery, error) {
	found, err := db.write.QueryContext(ctx, `UPDATE deliveries SET next_at = $3, attempts = attempts + 1, attempted_at = $2
		WHERE status = 'pending' AND next_at <= $2 AND id IN
			(SELECT id FROM deliveries WHERE status = 'pending' AND target = $1 AND next_at <= $2 ORDER BY next_at, seq LIMIT $4)
		RETURNING `+deliveryColumns, target, int64(now), int64(now.Add(deliveries.Lease)), limit)
	list, err := collect(found, err, scanDelivery)
	if err != nil {
		return nil, refine(fmt.Errorf("claim deliveries: %w", err))
	}
	return list, nil
}

// Finish implements deliveries.Queue.
func (db DeliveryRecord) Finish(ctx context.Context, d deliveries.Delivery) (bool, error) {
	head := strings.ToValidUTF8(d.Outcome.ReplyHead, "\ufffd")
	res, err := db.write.ExecContext(ctx, `UPDATE deliveries SET status = $3, next_at = $4, result = $5, reply_status = $6, reply_head = $7
		WHERE id = $1 AND attempts = $2 AND status = 'pending'`,
		d.ID, d.Attempts, string(d.Status), int64(d.NextAt), d.Outcome.Result, d.Outcome.ReplyStatus, head)
	if err != nil {
		return false, refine(fmt.Errorf("finish delivery %s: %w", d.ID, err))
	}
	n, err := res.RowsAffected()
	return n > 0, refine(err)
}

// SweepDeliveries deletes deliveries that have ended and were made before the
// given time, and returns their number.
func (db *DB) SweepDeliveries(ctx context.Context, before latchkey.Instant) (swept int64, err error) {
	return db.sweep(ctx, "deliveries", `DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries WHERE created_at < $1 AND status <> 'pending' LIMIT $2)`, before)
}
