package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

func scanSubject(row scanner) (s authz.SubjectRecord, err error) {
	err = row.Scan(&s.Type, &s.ID, &s.Properties)
	return s, err
}

func scanResource(row scanner) (r authz.ResourceRecord, err error) {
	err = row.Scan(&r.Type, &r.ID, &r.DisplayName, &r.Labels, &r.Properties)
	return r, err
}

func scanResourceType(row scanner) (t authz.ResourceType, err error) {
	var actions string
	if err := row.Scan(&t.Type, &actions); err != nil {
		return t, err
	}
	if err := json.Unmarshal([]byte(actions), &t.Actions); err != nil {
		return t, fmt.Errorf("the stored catalogue of type %s: %w", t.Type, err)
	}
	return t, nil
}

// Subject implements authz.DirectoryRecord.
func (db *DB) Subject(ctx context.Context, customer string, ref authz.EntityRef) (authz.SubjectRecord, bool, error) {
	s, err := scanSubject(db.read.QueryRowContext(ctx, `SELECT type, id, properties FROM subjects
		WHERE customer_id = $1 AND type = $2 AND id = $3`, customer, ref.Type, ref.ID))
	return found(s, err, "subject")
}

// Resource implements authz.DirectoryRecord.
func (db *DB) Resource(ctx context.Context, customer string, ref authz.EntityRef) (authz.ResourceRecord, bool, error) {
	r, err := scanResource(db.read.QueryRowContext(ctx, `SELECT kind, id, display_name, labels, properties FROM resources
		WHERE customer_id = $1 AND kind = $2 AND id = $3`, customer, ref.Type, ref.ID))
	return found(r, err, "resource")
}

// ResourceType implements authz.DirectoryRecord.
func (db *DB) ResourceType(ctx context.Context, customer, typ string) (authz.ResourceType, bool, error) {
	t, err := scanResourceType(db.read.QueryRowContext(ctx, `SELECT type, actions FROM resource_types
		WHERE customer_id = $1 AND type = $2`, customer, typ))
	return found(t, err, "resource type")
}

func found[T any](v T, err error, what string) (T, bool, error) {
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return v, false, nil
	case err != nil:
		return v, false, refine(fmt.Errorf("read a %s: %w", what, err))
	}
	return v, true, nil
}

// entityFilter puts the conditions of a query together. typ is the column of
// the type, id that of the id, "" where the type is all there is.
func entityFilter(q *authz.EntityQuery, typ, id string) (where string, args []any) {
	conditions := []string{`customer_id = $1`}
	args = []any{q.Customer}
	arg := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	if q.Type != "" {
		conditions = append(conditions, typ+` = `+arg(q.Type))
	}
	named := id
	if id == "" {
		named = typ
	}
	if q.Prefix != "" { // by characters, as substr counts
		conditions = append(conditions, `substr(`+named+`, 1, `+arg(utf8.RuneCountInString(q.Prefix))+`) = `+arg(q.Prefix))
	}
	for _, name := range slices.Sorted(maps.Keys(q.Labels)) {
		conditions = append(conditions, `EXISTS (SELECT 1 FROM resource_labels l WHERE l.customer_id = resources.customer_id
			AND l.kind = resources.kind AND l.id = resources.id AND l.name = `+arg(name)+` AND l.value = `+arg(q.Labels[name])+`)`)
	}
	switch after := q.After; {
	case after.Type == "":
	case id == "":
		conditions = append(conditions, typ+` > `+arg(after.Type))
	case q.Type != "":
		conditions = append(conditions, id+` > `+arg(after.ID))
	default:
		t := arg(after.Type)
		conditions = append(conditions, `(`+typ+` > `+t+` OR `+typ+` = `+t+` AND `+id+` > `+arg(after.ID)+`)`)
	}
	order := typ
	if id != "" {
		order += `, ` + id
	}
	where = strings.Join(conditions, ` AND `) + ` ORDER BY ` + order + ` LIMIT ` + arg(q.Limit)
	return where, args
}

// Subjects implements authz.DirectoryRecord.
func (db *DB) Subjects(ctx context.Context, q authz.EntityQuery) ([]authz.SubjectRecord, error) {
	where, args := entityFilter(&q, `type`, `id`)
	rows, err := db.read.QueryContext(ctx, `SELECT type, id, properties FROM subjects WHERE `+where, args...) //nolint:gosec // values are parameters
	return listed(rows, err, scanSubject, "subjects")
}

// Resources implements authz.DirectoryRecord.
func (db *DB) Resources(ctx context.Context, q authz.EntityQuery) ([]authz.ResourceRecord, error) {
	where, args := entityFilter(&q, `kind`, `id`)
	rows, err := db.read.QueryContext(ctx, `SELECT kind, id, display_name, labels, properties FROM resources WHERE `+where, args...) //nolint:gosec // values are parameters
	return listed(rows, err, scanResource, "resources")
}

// ResourceTypes implements authz.DirectoryRecord.
func (db *DB) ResourceTypes(ctx context.Context, q authz.EntityQuery) ([]authz.ResourceType, error) {
	where, args := entityFilter(&q, `type`, ``)
	rows, err := db.read.QueryContext(ctx, `SELECT type, actions FROM resource_types WHERE `+where, args...) //nolint:gosec // values are parameters
	return listed(rows, err, scanResourceType, "resource types")
}

func listed[T any](rows *sql.Rows, err error, scan func(scanner) (T, error), what string) ([]T, error) {
	list, err := collect(rows, err, scan)
	if err != nil {
		return nil, refine(fmt.Errorf("list %s: %w", what, err))
	}
	return list, nil
}

// SubjectIDs implements authz.DirectoryRecord.
func (db *DB) SubjectIDs(ctx context.Context, customer, typ, after string, now latchkey.Instant, limit int) ([]string, error) {
	persons := ``
	if typ == authz.SubjectUser {
		persons = `UNION SELECT id FROM persons WHERE customer_id = $1 AND id > $3 AND active <> 0`
	}
	rows, err := db.read.QueryContext(ctx, `SELECT id FROM subjects WHERE customer_id = $1 AND type = $2 AND id > $3
		UNION SELECT subject_id AS id FROM grants WHERE customer_id = $1 AND subject_type = $2 AND subject_id > $3 AND expires_at > $4 AND revoked_at = $5
		`+persons+` ORDER BY id LIMIT $6`, customer, typ, after, int64(now), int64(latchkey.Never), limit)
	return listed(rows, err, scanText, "subjects")
}

// ResourceIDs implements authz.DirectoryRecord.
func (db *DB) ResourceIDs(ctx context.Context, customer, typ, after string, limit int) ([]string, error) {
	rows, err := db.read.QueryContext(ctx, `SELECT id FROM resources WHERE customer_id = $1 AND kind = $2 AND id > $3
		ORDER BY id LIMIT $4`, customer, typ, after, limit)
	return listed(rows, err, scanText, "resources")
}

// ActiveKeyIDs implements authz.DirectoryRecord.
func (db *DB) ActiveKeyIDs(ctx context.Context, q authz.KeyCandidates) ([]string, error) {
	rows, err := db.read.QueryContext(ctx, `SELECT id FROM access_keys WHERE customer_id = $1 AND revoked_at > $2 AND expires_at > $2
		AND ((names & $3) = 0 OR id = $4) AND id > $5 ORDER BY id LIMIT $6`,
		q.Customer, int64(q.Now), q.HiddenNames, q.Own, q.After, q.Limit)
	return listed(rows, err, scanText, "keys")
}

// EachSubject implements authz.DirectoryRecord.
func (db *DB) EachSubject(ctx context.Context, do func(string, authz.SubjectRecord) error) error {
	return db.each(ctx, `subjects`, `type`, func(customer string, ref authz.EntityRef, properties string) error {
		return do(customer, authz.SubjectRecord{EntityRef: ref, Properties: properties})
	})
}

// EachResource implements authz.DirectoryRecord.
func (db *DB) EachResource(ctx context.Context, do func(string, authz.ResourceRecord) error) error {
	return db.each(ctx, `resources`, `kind`, func(customer string, ref authz.EntityRef, properties string) error {
		return do(customer, authz.ResourceRecord{EntityRef: ref, Properties: properties})
	})
}

func (db *DB) each(ctx context.Context, table, typ string, do func(string, authz.EntityRef, string) error) error {
	//nolint:gosec // what is put together are names of our own
	rows, err := db.read.QueryContext(ctx, `SELECT e.customer_id, e.`+typ+`, e.id, e.properties FROM `+table+` e
		JOIN customers c ON c.id = e.customer_id WHERE c.deleted_at = $1`, int64(latchkey.Never))
	if err != nil {
		return refine(fmt.Errorf("load %s: %w", table, err))
	}
	defer rows.Close()
	for rows.Next() {
		var customer, properties string
		var ref authz.EntityRef
		if err := rows.Scan(&customer, &ref.Type, &ref.ID, &properties); err != nil {
			return refine(fmt.Errorf("load %s: %w", table, err))
		}
		if err := do(customer, ref, properties); err != nil {
			return fmt.Errorf("load %s: %w", table, err)
		}
	}
	if err := rows.Err(); err != nil {
		return refine(fmt.Errorf("load %s: %w", table, err))
	}
	return nil
}

// UpsertSubjects implements authz.DirectoryTx.
func (t *tx) UpsertSubjects(ctx context.Context, updates []authz.SubjectUpdate) ([]authz.SubjectRecord, error) {
	for i := range updates {
		t.touch(feed.Ref{Kind: feed.Subject, Type: updates[i].Type, ID: updates[i].ID}, "")
	}
	upsert, err := t.PrepareContext(ctx, `INSERT INTO subjects (customer_id, type, id, properties, version) VALUES ($1, $2, $3, COALESCE($4, '{}'), $5)
		ON CONFLICT (customer_id, type, id) DO UPDATE SET properties = COALESCE($4, subjects.properties), version = excluded.version
		RETURNING type, id, properties`)
	if err != nil {
		return nil, fmt.Errorf("prepare to store subjects: %w", err)
	}
	defer upsert.Close()
	stored := make([]authz.SubjectRecord, len(updates))
	for i := range updates {
		u := &updates[i]
		if stored[i], err = scanSubject(upsert.QueryRowContext(ctx, t.chain, u.Type, u.ID, nullable(u.Properties), t.seq)); err != nil {
			return nil, fmt.Errorf("store a subject: %w", err)
		}
	}
	return stored, nil
}

// UpsertResources implements authz.DirectoryTx.
func (t *tx) UpsertResources(ctx context.Context, updates []authz.ResourceUpdate) ([]authz.ResourceRecord, error) {
	for i := range updates {
		t.touch(feed.Ref{Kind: feed.Resource, Type: updates[i].Type, ID: updates[i].ID}, "")
	}
	upsert, err := t.PrepareContext(ctx, `INSERT INTO resources (customer_id, kind, id, display_name, labels, properties, version)
		VALUES ($1, $2, $3, COALESCE($4, ''), COALESCE($5, '{}'), COALESCE($6, '{}'), $7)
		ON CONFLICT (customer_id, kind, id) DO UPDATE SET display_name = COALESCE($4, resources.display_name),
			labels = COALESCE($5, resources.labels), properties = COALESCE($6, resources.properties), version = excluded.version
		RETURNING kind, id, display_name, labels, properties`)
	if err != nil {
		return nil, fmt.Errorf("prepare to store resources: %w", err)
	}
	defer upsert.Close()
	label, err := t.PrepareContext(ctx, `INSERT INTO resource_labels (customer_id, kind, id, name, value) VALUES ($1, $2, $3, $4, $5)`)
	if err != nil {
		return nil, fmt.Errorf("prepare to store labels: %w", err)
	}
	defer label.Close()
	stored := make([]authz.ResourceRecord, len(updates))
	for i := range updates {
		u := &updates[i]
		stored[i], err = scanResource(upsert.QueryRowContext(ctx, t.chain, u.Type, u.ID, nullable(u.DisplayName), nullable(u.Labels), nullable(u.Properties), t.seq))
		if err == nil && u.Labels != nil {
			err = t.setLabels(ctx, label, u.EntityRef, *u.Labels)
		}
		if err != nil {
			return nil, fmt.Errorf("store a resource: %w", err)
		}
	}
	return stored, nil
}

func nullable(text *string) sql.NullString {
	if text == nil {
		return sql.NullString{}
	}
	return sql.NullString{String: *text, Valid: true}
}

func (t *tx) setLabels(ctx context.Context, insert *sql.Stmt, ref authz.EntityRef, labels string) error {
	if err := t.dropLabels(ctx, ref); err != nil {
		return err
	}
	var doc strictjson.Doc
	if err := doc.Parse(labels); err != nil {
		return err
	}
	for name, value := range doc.Root().Members() {
		if _, err := insert.ExecContext(ctx, t.chain, ref.Type, ref.ID, name, value.Text()); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) dropLabels(ctx context.Context, ref authz.EntityRef) error {
	_, err := t.ExecContext(ctx, `DELETE FROM resource_labels WHERE customer_id = $1 AND kind = $2 AND id = $3`, t.chain, ref.Type, ref.ID)
	return err
}

// SetResourceType implements authz.DirectoryTx.
func (t *tx) SetResourceType(ctx context.Context, rt authz.ResourceType) error {
	t.touch(feed.Ref{Kind: feed.Type, ID: rt.Type}, "")
	actions, err := json.Marshal(rt.Actions)
	if err == nil {
		_, err = t.ExecContext(ctx, `INSERT INTO resource_types (customer_id, type, actions, version) VALUES ($1, $2, $3, $4)
			ON CONFLICT (customer_id, type) DO UPDATE SET actions = excluded.actions, version = excluded.version`,
			t.chain, rt.Type, string(actions), t.seq)
	}
	if err != nil {
		return fmt.Errorf("store a resource type: %w", err)
	}
	return nil
}

// DeleteSubject implements authz.DirectoryTx.
func (t *tx) DeleteSubject(ctx context.Context, ref authz.EntityRef) (bool, error) {
	t.touch(feed.Ref{Kind: feed.Subject, Type: ref.Type, ID: ref.ID}, "")
	return gone(t.ExecContext(ctx, `DELETE FROM subjects WHERE customer_id = $1 AND type = $2 AND id = $3`, t.chain, ref.Type, ref.ID))
}

// DeleteResource implements authz.DirectoryTx.
func (t *tx) DeleteResource(ctx context.Context, ref authz.EntityRef) (bool, error) {
	t.touch(feed.Ref{Kind: feed.Resource, Type: ref.Type, ID: ref.ID}, "")
	if err := t.dropLabels(ctx, ref); err != nil {
		return false, fmt.Errorf("delete the labels of a resource: %w", err)
	}
	return gone(t.ExecContext(ctx, `DELETE FROM resources WHERE customer_id = $1 AND kind = $2 AND id = $3`, t.chain, ref.Type, ref.ID))
}

// DeleteResourceType implements authz.DirectoryTx.
func (t *tx) DeleteResourceType(ctx context.Context, typ string) (bool, error) {
	t.touch(feed.Ref{Kind: feed.Type, ID: typ}, "")
	return gone(t.ExecContext(ctx, `DELETE FROM resource_types WHERE customer_id = $1 AND type = $2`, t.chain, typ))
}

func gone(res sql.Result, err error) (bool, error) {
	if err != nil {
		return false, fmt.Errorf("delete of the directory: %w", err)
	}
	n, err := res.RowsAffected()
	return n > 0, err
}
