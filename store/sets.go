package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/policies"
)

const setColumns = `id, customer_id, name, entity_type, description, size, version, seq, created_at, updated_at`

func scanSet(row scanner) (s authz.SetRecord, err error) {
	err = row.Scan(&s.ID, &s.Customer, &s.Name, (*string)(&s.EntityType), &s.Description, &s.Size, &s.Version, &s.Seq,
		(*int64)(&s.CreatedAt), (*int64)(&s.UpdatedAt))
	return s, err
}

func readSet(ctx context.Context, q rows, customer, name string) (authz.SetRecord, error) {
	s, err := scanSet(q.QueryRowContext(ctx, `SELECT `+setColumns+` FROM sets WHERE customer_id = $1 AND name = $2`, customer, name))
	if errors.Is(err, sql.ErrNoRows) {
		return s, latchkey.Errorf(latchkey.NotFound, "set_not_found", "there is no such set")
	}
	if err != nil {
		return s, refine(fmt.Errorf("read set %s of %s: %w", name, customer, err))
	}
	return s, nil
}

// SetRecord implements authz.Record.
func (db *DB) SetRecord(ctx context.Context, customer, name string) (authz.SetRecord, error) {
	return readSet(ctx, db.read, customer, name)
}

// SetRecords implements authz.Record.
func (db *DB) SetRecords(ctx context.Context, customer string) ([]authz.SetRecord, error) {
	found, err := db.read.QueryContext(ctx, `SELECT `+setColumns+` FROM sets WHERE customer_id = $1 ORDER BY name`, customer)
	list, err := collect(found, err, scanSet)
	if err != nil {
		return nil, refine(fmt.Errorf("list sets of %s: %w", customer, err))
	}
	return list, nil
}

// SetValues implements authz.Record.
func (db *DB) SetValues(ctx context.Context, set string, q authz.ValueQuery) ([]string, error) {
	where, args := []string{`set_id = $1`}, []any{set}
	add := func(condition, value string) {
		args = append(args, value)
		where = append(where, condition+"$"+strconv.Itoa(len(args)))
	}
	if q.Prefix != "" {
		add(`value >= `, q.Prefix)
		if end, ok := after(q.Prefix); ok {
			add(`value < `, end)
		}
	}
	if !q.First {
		add(`value > `, q.After)
	}
	args = append(args, q.Limit)
	//nolint:gosec // what is put together is written above; values are parameters
	found, err := db.read.QueryContext(ctx, `SELECT value FROM set_values WHERE `+strings.Join(where, ` AND `)+
		` ORDER BY value LIMIT $`+strconv.Itoa(len(args)), args...)
	list, err := collect(found, err, scanText)
	if err != nil {
		return nil, refine(fmt.Errorf("list values of set %s: %w", set, err))
	}
	return list, nil
}

func scanText(row scanner) (text string, err error) {
	err = row.Scan(&text)
	return text, err
}

// after returns the least text that follows every text with the prefix, and
// false where there is none. In UTF-8 the order of bytes is that of code
// points, so the last one is raised.
func after(prefix string) (string, bool) {
	for prefix != "" {
		last, size := utf8.DecodeLastRuneInString(prefix)
		prefix = prefix[:len(prefix)-size]
		switch last {
		case utf8.MaxRune:
			continue
		case 0xD7FF: // what follows are surrogates, which are no text
			last = 0xDFFF
		}
		return prefix + string(last+1), true
	}
	return "", false
}

// HasSetValue implements authz.Record.
func (db *DB) HasSetValue(ctx context.Context, set, value string) (bool, error) {
	var n int
	err := db.read.QueryRowContext(ctx, `SELECT count(*) FROM set_values WHERE set_id = $1 AND value = $2`, set, value).Scan(&n)
	if err != nil {
		return false, refine(fmt.Errorf("look for a value in set %s: %w", set, err))
	}
	return n > 0, nil
}

func (t *tx) Set(ctx context.Context, name string) (authz.SetRecord, error) {
	return readSet(ctx, t, t.chain, name)
}

func (t *tx) CountSets(ctx context.Context) (n int, err error) {
	if err := t.QueryRowContext(ctx, `SELECT count(*) FROM sets WHERE customer_id = $1`, t.chain).Scan(&n); err != nil {
		return 0, fmt.Errorf("count sets of %s: %w", t.chain, err)
	}
	return n, nil
}

func (t *tx) InsertSet(ctx context.Context, s authz.SetRecord) error {
	t.touch(feed.Ref{Kind: feed.Set, ID: s.ID}, "")
	t.decides = true
	_, err := t.ExecContext(ctx, `INSERT INTO sets (`+setColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		s.ID, t.chain, s.Name, string(s.EntityType), s.Description, s.Size, s.Version, s.Seq, int64(s.CreatedAt), int64(s.UpdatedAt))
	if unique(err) {
		return latchkey.Errorf(latchkey.Conflict, "set_exists", "there is a set of that name")
	}
	if err != nil {
		return fmt.Errorf("insert set %s: %w", s.Name, err)
	}
	return nil
}

func (t *tx) UpdateSet(ctx context.Context, s authz.SetRecord) error {
	if err := t.touchSet(ctx, s.ID); err != nil {
		return err
	}
	t.decides = true
	_, err := t.ExecContext(ctx, `UPDATE sets SET description = $2, size = $3, version = $4, seq = $5, updated_at = $6 WHERE id = $1`,
		s.ID, s.Description, s.Size, s.Version, s.Seq, int64(s.UpdatedAt))
	if err != nil {
		return fmt.Errorf("update set %s: %w", s.Name, err)
	}
	return nil
}

func (t *tx) DeleteSet(ctx context.Context, set string) error {
	t.touch(feed.Ref{Kind: feed.Set, ID: set}, "")
	t.decides = true
	_, err := t.ExecContext(ctx, `DELETE FROM set_values WHERE set_id = $1`, set)
	if err == nil {
		_, err = t.ExecContext(ctx, `DELETE FROM sets WHERE id = $1`, set)
	}
	if err != nil {
		return fmt.Errorf("delete set %s: %w", set, err)
	}
	return nil
}

func (t *tx) AddSetValues(ctx context.Context, set string, values []string) ([]string, error) {
	added, err := t.eachChunk(ctx, set, values, func(n int) string {
		var b strings.Builder
		b.WriteString(`INSERT INTO set_values (set_id, value) VALUES `)
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(`($1,$` + strconv.Itoa(i+2) + `)`)
		}
		return b.String() + ` ON CONFLICT DO NOTHING RETURNING value`
	})
	t.noteValues(set, added, nil)
	return added, err
}

func (t *tx) RemoveSetValues(ctx context.Context, set string, values []string) ([]string, error) {
	removed, err := t.eachChunk(ctx, set, values, func(n int) string {
		var b strings.Builder
		b.WriteString(`DELETE FROM set_values WHERE set_id = $1 AND value IN (`)
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(`$` + strconv.Itoa(i+2))
		}
		return b.String() + `) RETURNING value`
	})
	t.noteValues(set, nil, removed)
	return removed, err
}

// perStatement is how many values go into one statement: engines limit
// parameters, and look for them one by one.
const perStatement = 200

// eachChunk runs a statement over the values, as many at a time as statement
// is told, and returns the values of the rows that it changed.
func (t *tx) eachChunk(ctx context.Context, set string, values []string, statement func(n int) string) (changed []string, err error) {
	run := func(values []string, n int) error {
		stmt, err := t.PrepareContext(ctx, statement(n))
		if err != nil {
			return err
		}
		defer stmt.Close()
		for ; len(values) > 0; values = values[n:] {
			args := make([]any, 0, n+1)
			args = append(args, set)
			for _, v := range values[:n] {
				args = append(args, v)
			}
			found, err := stmt.QueryContext(ctx, args...)
			list, err := collect(found, err, scanText)
			if err != nil {
				return err
			}
			changed = append(changed, list...)
		}
		return nil
	}
	rest := len(values) % perStatement
	if whole := values[:len(values)-rest]; len(whole) > 0 {
		err = run(whole, perStatement)
	}
	if err == nil && rest > 0 {
		err = run(values[len(values)-rest:], rest)
	}
	if err != nil {
		return nil, fmt.Errorf("write values of set %s: %w", set, err)
	}
	return changed, nil
}

func (t *tx) EachSetValue(ctx context.Context, set string, visit func(string)) error {
	return eachSetValue(ctx, t.Tx, set, visit)
}

// querier is what both a pool and a transaction can do.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func eachSetValue(ctx context.Context, q querier, set string, visit func(string)) error {
	found, err := q.QueryContext(ctx, `SELECT value FROM set_values WHERE set_id = $1 ORDER BY value`, set)
	if err != nil {
		return fmt.Errorf("read values of set %s: %w", set, err)
	}
	defer found.Close()
	for found.Next() {
		var value sql.RawBytes
		if err := found.Scan(&value); err != nil {
			return fmt.Errorf("read values of set %s: %w", set, err)
		}
		visit(string(value))
	}
	if err := found.Err(); err != nil {
		return fmt.Errorf("read values of set %s: %w", set, err)
	}
	return nil
}

// loadSets puts every set into the snapshot of its customer, all as of one
// moment. One whose values are not those that its record counts stops it:
// policies would decide on half a set.
func (db *DB) loadSets(ctx context.Context, table authz.KeyTable) error {
	tx, err := db.snapshot(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // it only reads
	found, err := tx.QueryContext(ctx, `SELECT `+setColumns+` FROM sets ORDER BY customer_id, name`)
	list, err := collect(found, err, scanSet)
	if err != nil {
		return err
	}
	for len(list) > 0 {
		n := slices.IndexFunc(list, func(s authz.SetRecord) bool { return s.Customer != list[0].Customer })
		if n < 0 {
			n = len(list)
		}
		of := list[:n]
		list = list[n:]
		customer := table.Customer(of[0].Customer)
		if customer.Deleted() { // or made since the customers were read
			continue
		}
		if err := loadSetsOf(ctx, tx, customer, of); err != nil {
			return err
		}
	}
	return nil
}

func loadSetsOf(ctx context.Context, tx *sql.Tx, customer *authz.Customer, records []authz.SetRecord) error {
	return customer.Policies.Update(func(s *policies.Snapshot) (*policies.Snapshot, error) {
		revision, at := s.Revision, s.ActivatedAt
		sets := map[string]*policies.Set{}
		for _, r := range records {
			revision, at = max(revision, r.Seq), max(at, r.UpdatedAt)
			set, err := loadSet(ctx, tx, &r)
			if err != nil {
				return nil, err
			}
			sets[r.Name] = set
		}
		return s.Edit(revision, at, func(d *policies.Draft) {
			for name, set := range sets {
				d.PutSet(name, set)
			}
		}), nil
	})
}
