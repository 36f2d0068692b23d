package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/deliveries"
	"github.com/latchkey-dev/latchkey/tasks"
)

// Tasks is the database as tasks and their runs need it.
func (db *DB) Tasks() TaskRecord { return TaskRecord{db} }

// TaskRecord implements tasks.Record and tasks.Queue.
type TaskRecord struct{ *DB }

var (
	_ tasks.Record = TaskRecord{}
	_ tasks.Queue  = TaskRecord{}
	_ tasks.Tx     = taskTx{}
)

type taskTx struct{ *tx }

// Change implements tasks.Record.
func (db TaskRecord) Change(ctx context.Context, c authz.Change, do func(tasks.Tx) (audit.Draft, error)) error {
	return db.DB.Change(ctx, c, func(t authz.Tx) (audit.Draft, error) { return do(taskTx{t.(*tx)}) })
}

const taskColumns = `id, customer_id, name, type, script, url, secrets, max_retries, created_at, updated_at, version`

func scanTask(row scanner) (t tasks.Task, err error) {
	var secrets string
	err = row.Scan(&t.ID, &t.Customer, &t.Name, (*string)(&t.Type), &t.Script, &t.URL, &secrets, &t.MaxRetries, (*int64)(&t.CreatedAt), (*int64)(&t.UpdatedAt), &t.Version)
	if err == nil {
		err = json.Unmarshal([]byte(secrets), &t.Secrets)
	}
	return t, err
}

func readTask(ctx context.Context, q rows, customer, id string) (tasks.Task, error) {
	t, err := scanTask(q.QueryRowContext(ctx, `SELECT `+taskColumns+` FROM tasks WHERE id = $1 AND customer_id = $2
		AND EXISTS (SELECT 1 FROM customers c WHERE c.id = tasks.customer_id AND c.deleted_at = $3)`, id, customer, int64(latchkey.Never)))
	if errors.Is(err, sql.ErrNoRows) || unstorable(err) {
		return t, notFound("task_not_found", "task")
	}
	if err != nil {
		return t, refine(fmt.Errorf("read task %s: %w", id, err))
	}
	return t, nil
}

// Task implements tasks.Record and tasks.Queue.
func (db TaskRecord) Task(ctx context.Context, customer, id string) (tasks.Task, error) {
	return readTask(ctx, db.read, customer, id)
}

// Tasks implements tasks.Record.
func (db TaskRecord) Tasks(ctx context.Context, customer string, p tasks.Page) ([]tasks.Task, error) {
	where, args := `customer_id = $1`, []any{customer, p.Limit}
	if p.AfterID != "" {
		where += ` AND (created_at > $3 OR created_at = $3 AND id > $4)`
		args = append(args, int64(p.AfterCreated), p.AfterID)
	}
	//nolint:gosec // what is put together is written above; values are parameters
	found, err := db.read.QueryContext(ctx, `SELECT `+taskColumns+` FROM tasks WHERE `+where+` ORDER BY created_at, id LIMIT $2`, args...)
	list, err := collect(found, err, scanTask)
	if err != nil {
		return nil, refine(fmt.Errorf("list tasks of %s: %w", customer, err))
	}
	return list, nil
}

// Task implements tasks.Tx.
func (t taskTx) Task(ctx context.Context, id string) (tasks.Task, error) {
	return readTask(ctx, t, t.chain, id)
}

// CountTasks implements tasks.Tx.
func (t taskTx) CountTasks(ctx context.Context) (int, error) {
	return t.count(ctx, `SELECT count(*) FROM tasks WHERE customer_id = $1`, t.chain)
}

func errTaskName() error {
	return latchkey.Errorf(latchkey.Conflict, "task_name_taken", "another task has the name")
}

// InsertTask implements tasks.Tx.
func (t taskTx) InsertTask(ctx context.Context, k tasks.Task) error {
	_, err := t.ExecContext(ctx, `INSERT INTO tasks (`+taskColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		k.ID, t.chain, k.Name, string(k.Type), k.Script, k.URL, textList(k.Secrets), k.MaxRetries, int64(k.CreatedAt), int64(k.UpdatedAt), k.Version)
	if unique(err) {
		return errTaskName()
	}
	if err != nil {
		return fmt.Errorf("insert task %s: %w", k.ID, err)
	}
	return nil
}

// UpdateTask implements tasks.Tx.
func (t taskTx) UpdateTask(ctx context.Context, k tasks.Task) error {
	_, err := t.ExecContext(ctx, `UPDATE tasks SET name = $3, script = $4, url = $5, secrets = $6, max_retries = $7, updated_at = $8, version = $9
		WHERE id = $1 AND customer_id = $2`,
		k.ID, t.chain, k.Name, k.Script, k.URL, textList(k.Secrets), k.MaxRetries, int64(k.UpdatedAt), k.Version)
	if unique(err) {
		return errTaskName()
	}
	if err != nil {
		return fmt.Errorf("update task %s: %w", k.ID, err)
	}
	return nil
}

// DeleteTask implements tasks.Tx.
func (t taskTx) DeleteTask(ctx context.Context, id string) error {
	_, err := t.ExecContext(ctx, `DELETE FROM task_runs WHERE task_id = $1 AND customer_id = $2`, id, t.chain)
	if err == nil {
		_, err = t.ExecContext(ctx, `DELETE FROM tasks WHERE id = $1 AND customer_id = $2`, id, t.chain)
	}
	if err != nil {
		return fmt.Errorf("delete task %s: %w", id, err)
	}
	return nil
}

const runColumns = `id, customer_id, task_id, source, seq, event, request_id, mode, status, attempts, next_at, started_at, ended_at, output, cut, result, error, created_at`

func scanRun(row scanner) (r tasks.Run, err error) {
	var cut int
	err = row.Scan(&r.ID, &r.Customer, &r.Task, (*string)(&r.Source), &r.Seq, &r.Event, &r.Request, (*string)(&r.Mode), (*string)(&r.Status), &r.Attempts,
		(*int64)(&r.NextAt), (*int64)(&r.StartedAt), (*int64)(&r.EndedAt), &r.Output, &cut, &r.Result, &r.Error, (*int64)(&r.CreatedAt))
	r.Cut = cut == 1
	return r, err
}

// Runs implements tasks.Record.
func (db TaskRecord) Runs(ctx context.Context, customer, task string, p tasks.Page) ([]tasks.Run, error) {
	where, args := `task_id = $1 AND customer_id = $2`, []any{task, customer, p.Limit}
	if p.AfterID != "" {
		where += ` AND (created_at < $4 OR created_at = $4 AND id > $5)`
		args = append(args, int64(p.AfterCreated), p.AfterID)
	}
	//nolint:gosec // what is put together is written above; values are parameters
	found, err := db.read.QueryContext(ctx, `SELECT `+runColumns+` FROM task_runs WHERE `+where+` ORDER BY created_at DESC, id LIMIT $3`, args...)
	list, err := collect(found, err, scanRun)
	if err != nil {
		return nil, refine(fmt.Errorf("list runs of task %s: %w", task, err))
	}
	return list, nil
}

// executor is what rows are written by: a transaction, or the pool.
type executor interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func insertRun(ctx context.Context, to executor, r *tasks.Run) error {
	_, err := to.ExecContext(ctx, `INSERT INTO task_runs (`+runColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
		ON CONFLICT DO NOTHING`,
		r.ID, r.Customer, r.Task, string(r.Source), r.Seq, r.Event, r.Request, string(r.Mode), string(r.Status), r.Attempts,
		int64(r.NextAt), int64(r.StartedAt), int64(r.EndedAt), r.Output, truth(r.Cut), r.Result, r.Error, int64(r.CreatedAt))
	if err != nil {
		return fmt.Errorf("insert a run of task %s: %w", r.Task, err)
	}
	return nil
}

// InsertRun implements tasks.Queue.
func (db TaskRecord) InsertRun(ctx context.Context, r tasks.Run) error {
	return refine(insertRun(ctx, db.write, &r))
}

// Behind implements tasks.Queue.
func (db TaskRecord) Behind(ctx context.Context) ([]deliveries.Behind, error) {
	return taskCursors.behind(ctx, db.DB)
}

// Lifecycle implements tasks.Queue.
func (db TaskRecord) Lifecycle(ctx context.Context, customer string, after, through int64) ([]audit.Event, error) {
	return db.Deliveries().Lifecycle(ctx, customer, after, through)
}

// Webhooks implements tasks.Queue.
func (db TaskRecord) Webhooks(ctx context.Context, customer string) ([]deliveries.Webhook, error) {
	return db.Deliveries().Webhooks(ctx, customer)
}

// Event implements tasks.Queue.
func (db TaskRecord) Event(ctx context.Context, chain string, seq int64) (audit.Event, error) {
	return db.Deliveries().Event(ctx, chain, seq)
}

// Advance implements tasks.Queue.
func (db TaskRecord) Advance(ctx context.Context, customer string, from, to int64, made []tasks.Run) (bool, error) {
	return taskCursors.advance(ctx, db.DB, customer, from, to, func(tx *sql.Tx) error {
		for i := range made {
			if err := insertRun(ctx, tx, &made[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// unended are runs that somebody has to make. One that must succeed before an
// approval is made by who waits for it, or not at all.
const unended = `status IN ('queued', 'running') AND mode <> '` + string(access.Block) + `'`

// DueCustomers implements tasks.Queue.
func (db TaskRecord) DueCustomers(ctx context.Context, now latchkey.Instant) ([]string, error) {
	found, err := db.read.QueryContext(ctx, `SELECT customer_id FROM task_runs WHERE `+unended+` AND next_at <= $1
		GROUP BY customer_id ORDER BY min(next_at)`, int64(now))
	list, err := collect(found, err, scanText)
	if err != nil {
		return nil, refine(fmt.Errorf("read what runs are due: %w", err))
	}
	return list, nil
}

// Claim implements tasks.Queue. Of two processes at once the second one finds
// next_at moved, for it is looked at again when the row's lock is had.
func (db TaskRecord) Claim(ctx context.Context, customer string, now, lease latchkey.Instant, limit int) ([]tasks.Run, error) {
	found, err := db.write.QueryContext(ctx, `UPDATE task_runs SET status = 'running', attempts = attempts + 1, started_at = $2, ended_at = 0, next_at = $3
		WHERE `+unended+` AND next_at <= $2 AND id IN
			(SELECT id FROM task_runs WHERE customer_id = $1 AND `+unended+` AND next_at <= $2 ORDER BY next_at, seq LIMIT $4)
		RETURNING `+runColumns, customer, int64(now), int64(lease), limit)
	list, err := collect(found, err, scanRun)
	if err != nil {
		return nil, refine(fmt.Errorf("claim runs of %s: %w", customer, err))
	}
	return list, nil
}

// FinishRun implements tasks.Queue.
func (db TaskRecord) FinishRun(ctx context.Context, r tasks.Run) (bool, error) {
	res, err := db.write.ExecContext(ctx, `UPDATE task_runs SET status = $3, next_at = $4, ended_at = $5, output = $6, cut = $7, result = $8, error = $9
		WHERE id = $1 AND attempts = $2 AND status = 'running'`,
		r.ID, r.Attempts, string(r.Status), int64(r.NextAt), int64(r.EndedAt), r.Output, truth(r.Cut), r.Result, r.Error)
	if err != nil {
		return false, refine(fmt.Errorf("finish a run of task %s: %w", r.Task, err))
	}
	n, err := res.RowsAffected()
	return n > 0, refine(err)
}

// SweepRuns deletes runs that ended before the given time, and returns their
// number. A run before an approval whose process went away ends here.
func (db *DB) SweepRuns(ctx context.Context, now, before latchkey.Instant) (int64, error) {
	_, err := db.write.ExecContext(ctx, `UPDATE task_runs SET status = 'failed', ended_at = next_at, error = 'the server went away while the task ran'
		WHERE status = 'running' AND mode = $1 AND next_at <= $2`, string(access.Block), int64(now))
	if err != nil {
		return 0, refine(fmt.Errorf("end runs that were left: %w", err))
	}
	return db.sweep(ctx, "runs", `DELETE FROM task_runs WHERE id IN (SELECT id FROM task_runs WHERE status IN ('succeeded', 'failed') AND ended_at < $1 LIMIT $2)`, before)
}
