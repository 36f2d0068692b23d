package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/policies"
)

// Rules implements authz.Record: all of it is as of one moment.
func (db *DB) Rules(ctx context.Context, customer string, have *policies.Snapshot) (authz.Rules, error) {
	tx, err := db.snapshot(ctx)
	if err != nil {
		return authz.Rules{}, refine(fmt.Errorf("read the policies of %s: %w", customer, err))
	}
	defer tx.Rollback() //nolint:errcheck // it only reads
	r, err := readRules(ctx, tx, customer, have)
	return r, refine(err)
}

// Rules implements authz.Tx. The lock on the customer keeps all of it as it is.
func (t *tx) Rules(ctx context.Context, have *policies.Snapshot) (authz.Rules, error) {
	return readRules(ctx, t.Tx, t.chain, have)
}

// Policies implements authz.Tx.
func (t *tx) Policies() int64 { return t.policies }

func readRules(ctx context.Context, tx *sql.Tx, customer string, have *policies.Snapshot) (authz.Rules, error) {
	r := authz.Rules{CustomerPolicies: authz.CustomerPolicies{Customer: customer}}
	fail := func(err error) (authz.Rules, error) {
		return r, fmt.Errorf("read the policies and sets of %s: %w", customer, err)
	}
	if err := tx.QueryRowContext(ctx, `SELECT policies_seq, default_policy FROM customers WHERE id = $1`, customer).Scan(&r.Seq, &r.Default); err != nil {
		return fail(err)
	}
	if r.Seq == have.Revision {
		r.Same = true
		return r, nil
	}
	found, err := tx.QueryContext(ctx, `SELECT `+policyColumns+`, p.description, ''
		FROM policies p JOIN policy_versions v ON v.policy_id = p.id AND v.version = p.version
		WHERE p.customer_id = $1 ORDER BY p.name`, customer)
	if r.Policies, err = collect(found, err, policy); err != nil {
		return fail(err)
	}
	for i := range r.Policies {
		p := &r.Policies[i]
		if had := have.Policy(p.Name); had != nil && had.Record == p.ID && had.Version == p.Version {
			continue
		}
		err := tx.QueryRowContext(ctx, `SELECT document FROM policy_versions WHERE policy_id = $1 AND version = $2`, p.ID, p.Version).Scan(&p.Document)
		if err != nil {
			return fail(err)
		}
	}
	found, err = tx.QueryContext(ctx, `SELECT `+setColumns+` FROM sets WHERE customer_id = $1 ORDER BY name`, customer)
	records, err := collect(found, err, scanSet)
	if err != nil {
		return fail(err)
	}
	r.Sets = make([]authz.StoredSet, len(records))
	for i, record := range records {
		r.Sets[i].SetRecord = record
		if r.Sets[i].Set, err = readSetValues(ctx, tx, &record, have.Set(record.Name)); err != nil {
			return fail(err)
		}
	}
	return r, nil
}

// setChange is what the feed tells of a change to a set, where that is little.
type setChange struct {
	From   int64    `json:"from"` // sequence number of the set's change before
	Add    []string `json:"add,omitempty"`
	Remove []string `json:"remove,omitempty"`
}

const (
	maxSetChange      = 1000     // values
	maxSetChangeBytes = 64 << 10 // of them
	maxSetChanges     = 200      // that are followed back; beyond them the values are read
)

// touchSet notes a change to a set: which values, where they are few.
func (t *tx) touchSet(ctx context.Context, set string) error {
	c := t.sets[set]
	if c == nil {
		c = new(setChange)
	}
	detail := ""
	size := 0
	for _, values := range [][]string{c.Add, c.Remove} {
		for _, v := range values {
			size += len(v)
		}
	}
	if len(c.Add)+len(c.Remove) <= maxSetChange && size <= maxSetChangeBytes {
		if err := t.QueryRowContext(ctx, `SELECT seq FROM sets WHERE id = $1`, set).Scan(&c.From); err != nil {
			return fmt.Errorf("read set %s: %w", set, err)
		}
		text, err := json.Marshal(c)
		if err != nil {
			return fmt.Errorf("the change of set %s: %w", set, err)
		}
		detail = string(text)
	}
	t.touch(feed.Ref{Kind: feed.Set, ID: set}, detail)
	return nil
}

// noteValues keeps what the change adds to a set or removes from it.
func (t *tx) noteValues(set string, added, removed []string) {
	if t.sets == nil {
		t.sets = map[string]*setChange{}
	}
	c := t.sets[set]
	if c == nil {
		c = new(setChange)
		t.sets[set] = c
	}
	c.Add, c.Remove = append(c.Add, added...), append(c.Remove, removed...)
}

// readSetValues makes the set of a record: of the one before by what the feed
// tells of the changes since, or else of all values.
func readSetValues(ctx context.Context, tx *sql.Tx, r *authz.SetRecord, had *policies.Set) (*policies.Set, error) {
	if had != nil && had.Type == r.EntityType {
		next, err := followSet(ctx, tx, r, had)
		if next != nil || err != nil {
			return next, err
		}
	}
	return loadSet(ctx, tx, r)
}

// followSet is nil where the feed does not tell all changes.
func followSet(ctx context.Context, tx *sql.Tx, r *authz.SetRecord, had *policies.Set) (*policies.Set, error) {
	var changes []setChange // latest first
	for at := r.Seq; at != had.Version; at = changes[len(changes)-1].From {
		if at < had.Version || len(changes) == maxSetChanges {
			return nil, nil
		}
		var detail string
		err := tx.QueryRowContext(ctx, `SELECT detail FROM feed WHERE chain = $1 AND seq = $2 AND kind = $3 AND type = '' AND id = $4`,
			r.Customer, at, string(feed.Set), r.ID).Scan(&detail)
		switch {
		case errors.Is(err, sql.ErrNoRows) || err == nil && detail == "":
			return nil, nil
		case err != nil:
			return nil, err
		}
		var c setChange
		if json.Unmarshal([]byte(detail), &c) != nil || c.From >= at {
			return nil, nil
		}
		changes = append(changes, c)
	}
	next := had
	for i := len(changes) - 1; i >= 0; i-- {
		at := r.Seq
		if i > 0 {
			at = changes[i-1].From
		}
		next = next.With(at, changes[i].Add, changes[i].Remove)
	}
	if next.Len() != r.Size { // the set had is another one's, of the same name
		return nil, nil
	}
	return next, nil
}

// loadSet reads all values. A set that has others than its record counts is an
// error: policies would decide on half of one.
func loadSet(ctx context.Context, q querier, r *authz.SetRecord) (set *policies.Set, err error) {
	set = policies.NewSet(r.EntityType, r.Seq, func(yield func(string) bool) {
		err = eachSetValue(ctx, q, r.ID, func(value string) { yield(value) })
	})
	if err == nil && set.Len() != r.Size {
		err = fmt.Errorf("set %s of %s has %d values where its record counts %d", r.Name, r.Customer, set.Len(), r.Size)
	}
	return set, err
}

// RootSecret implements authz.Record.
func (db *DB) RootSecret(ctx context.Context) (authz.KeySecret, bool, error) {
	s, ok, err := readRootSecret(ctx, db.read)
	return s, ok, refine(err)
}

// EntitiesSince implements authz.DirectoryRecord.
func (db *DB) EntitiesSince(ctx context.Context, customer string, after int64, subject func(authz.SubjectRecord) error, resource func(authz.ResourceRecord) error) error {
	read := func(table, typ string, do func(ref authz.EntityRef, properties string) error) error {
		//nolint:gosec // what is put together are names of our own
		rows, err := db.read.QueryContext(ctx, `SELECT `+typ+`, id, properties FROM `+table+` WHERE customer_id = $1 AND version > $2`, customer, after)
		if err != nil {
			return refine(fmt.Errorf("read %s of %s: %w", table, customer, err))
		}
		defer rows.Close()
		for rows.Next() {
			var ref authz.EntityRef
			var properties string
			if err := rows.Scan(&ref.Type, &ref.ID, &properties); err != nil {
				return refine(fmt.Errorf("read %s of %s: %w", table, customer, err))
			}
			if err := do(ref, properties); err != nil {
				return err
			}
		}
		return refine(rows.Err())
	}
	err := read(`subjects`, `type`, func(ref authz.EntityRef, properties string) error {
		return subject(authz.SubjectRecord{EntityRef: ref, Properties: properties})
	})
	if err != nil {
		return err
	}
	return read(`resources`, `kind`, func(ref authz.EntityRef, properties string) error {
		return resource(authz.ResourceRecord{EntityRef: ref, Properties: properties})
	})
}

// keysPerRead is how many keys are read at a time.
const keysPerRead = 500

// EachFullKey implements authz.Record.
func (db *DB) EachFullKey(ctx context.Context, customer string, now latchkey.Instant, do func(*authz.FullKey) error) error {
	for after := (authz.Key{}); ; {
		list, err := db.FullKeys(ctx, customer, after, now)
		if err != nil {
			return err
		}
		for i := range list {
			if err := do(&list[i]); err != nil {
				return err
			}
		}
		if len(list) < keysPerRead {
			return nil
		}
		after = list[len(list)-1].Key
	}
}

// FullKeys implements authz.Record.
func (db *DB) FullKeys(ctx context.Context, customer string, after authz.Key, now latchkey.Instant) ([]authz.FullKey, error) {
	list, err := db.fullKeys(ctx, customer, after, now)
	if err != nil {
		return nil, refine(fmt.Errorf("read the keys of %s: %w", customer, err))
	}
	return list, nil
}

// fullKeys goes by the index of a customer's keys: each page costs what it holds.
func (db *DB) fullKeys(ctx context.Context, customer string, after authz.Key, now latchkey.Instant) ([]authz.FullKey, error) {
	asOf, err := db.position(ctx, customer)
	if err != nil {
		return nil, err
	}
	found, err := db.read.QueryContext(ctx, `SELECT `+keyColumns+` FROM access_keys k WHERE k.customer_id = $1 AND (k.created_at, k.id) > ($2, $3)
		ORDER BY k.created_at, k.id LIMIT $4`, customer, int64(after.CreatedAt), after.ID.String(), keysPerRead)
	keys, err := collect(found, err, scanKey)
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	list := make([]authz.FullKey, len(keys))
	at := map[authz.KeyID]*authz.FullKey{}
	for i, k := range keys {
		list[i] = authz.FullKey{Key: k, AsOf: asOf}
		at[k.ID] = &list[i]
	}
	last := &keys[len(keys)-1]
	found, err = db.read.QueryContext(ctx, `SELECT s.kid, s.key_id, s.mode, s.digest, s.pepper, s.ends_at FROM access_keys k
		JOIN access_key_secrets s ON s.key_id = k.id
		WHERE k.customer_id = $1 AND (k.created_at, k.id) > ($2, $3) AND (k.created_at, k.id) <= ($4, $5) ORDER BY s.kid`,
		customer, int64(after.CreatedAt), after.ID.String(), int64(last.CreatedAt), last.ID.String())
	secrets, err := collect(found, err, scanSecret)
	if err != nil {
		return nil, err
	}
	for _, s := range secrets {
		if k := at[s.Key]; k != nil { // else it was made since
			k.Secrets = append(k.Secrets, s)
		}
	}
	found, err = db.read.QueryContext(ctx, `SELECT `+grantsOf+` FROM access_keys k
		JOIN grants g ON g.customer_id = k.customer_id AND g.subject_type = $6 AND g.subject_id = k.id
		WHERE k.customer_id = $1 AND (k.created_at, k.id) > ($2, $3) AND (k.created_at, k.id) <= ($4, $5) AND g.expires_at > $7 AND g.revoked_at > $7 ORDER BY g.id`,
		customer, int64(after.CreatedAt), after.ID.String(), int64(last.CreatedAt), last.ID.String(), authz.SubjectAccessKey, int64(now))
	grants, err := collect(found, err, scanGrant)
	if err != nil {
		return nil, err
	}
	for _, g := range grants {
		if id, ok := authz.ParseKeyID(g.Subject.ID); ok && at[id] != nil {
			at[id].Grants = append(at[id].Grants, g)
		}
	}
	return list, nil
}

// grantsPerRead is how many grants FullSubjects reads at a time: more than a
// subject may hold.
const grantsPerRead = 4096

// grantsOf are the columns of a grant beside those of another table.
const grantsOf = `g.id, g.customer_id, g.subject_type, g.subject_id, g.entries, g.reason, g.not_before, g.expires_at, g.revoked_at, g.created_at, g.author_type, g.author_id, g.version,
	g.request_id, g.entitlement_ids, g.claims`

// FullSubjects implements authz.Record.
func (db *DB) FullSubjects(ctx context.Context, customer string, after authz.EntityRef, now latchkey.Instant) ([]authz.FullSubject, error) {
	list, err := db.fullSubjects(ctx, customer, after, now)
	if err != nil {
		return nil, refine(fmt.Errorf("read the subjects of %s that hold grants: %w", customer, err))
	}
	return list, nil
}

func (db *DB) fullSubjects(ctx context.Context, customer string, after authz.EntityRef, now latchkey.Instant) (list []authz.FullSubject, err error) {
	asOf, err := db.position(ctx, customer)
	if err != nil {
		return nil, err
	}
	found, err := db.read.QueryContext(ctx, `SELECT `+grantsOf+`, s.properties FROM grants g
		LEFT JOIN subjects s ON s.customer_id = g.customer_id AND s.type = g.subject_type AND s.id = g.subject_id
		WHERE g.customer_id = $1 AND (g.subject_type, g.subject_id) > ($2, $3) AND g.subject_type <> $4 AND g.expires_at > $5 AND g.revoked_at > $5
		AND NOT (g.subject_type = $7 AND (EXISTS (SELECT 1 FROM persons p WHERE p.customer_id = $1 AND p.id = g.subject_id)
			OR EXISTS (SELECT 1 FROM persons p WHERE p.customer_id = $1 AND p.username = g.subject_id)
			OR EXISTS (SELECT 1 FROM persons p WHERE p.customer_id = $1 AND p.email = g.subject_id AND p.email <> '')))
		ORDER BY g.subject_type, g.subject_id, g.id LIMIT $6`, customer, after.Type, after.ID, authz.SubjectAccessKey, int64(now), grantsPerRead, authz.SubjectUser)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	rows := 0
	for ; found.Next(); rows++ {
		var properties sql.NullString
		g, err := scanGrantAnd(found, &properties)
		if err != nil {
			return nil, err
		}
		if len(list) == 0 || list[len(list)-1].Subject.EntityRef != g.Subject {
			list = append(list, authz.FullSubject{Subject: authz.SubjectRecord{EntityRef: g.Subject, Properties: properties.String}, Stored: properties.Valid, AsOf: asOf})
		}
		last := &list[len(list)-1]
		last.Grants = append(last.Grants, g)
	}
	if rows == grantsPerRead && len(list) > 1 { // there may be more of the last one's
		list = list[:len(list)-1]
	}
	return list, found.Err()
}
