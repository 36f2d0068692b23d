package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/people"
)

// personNamed finds the person that a subject of type user is: by id, else by
// username, else by the e-mail address as it is kept.
func personNamed(ctx context.Context, q rows, customer, name string) (p authz.Person, found bool, err error) {
	var active, place int64
	err = q.QueryRowContext(ctx, `SELECT `+personColumns+`, 0 AS place FROM persons p WHERE p.customer_id = $1 AND p.id = $2
		UNION ALL SELECT `+personColumns+`, 1 AS place FROM persons p WHERE p.customer_id = $1 AND p.username = $2
		UNION ALL SELECT `+personColumns+`, 2 AS place FROM persons p WHERE p.customer_id = $1 AND p.email = $2 AND p.email <> ''
		ORDER BY place LIMIT 1`, customer, name).Scan(append(personDest(&p, &active), &place)...)
	if errors.Is(err, sql.ErrNoRows) {
		return p, false, nil
	}
	if err != nil {
		return p, false, refine(fmt.Errorf("find a person of %s: %w", customer, err))
	}
	p.Active = active == 1
	return p, true, nil
}

// PersonNamed implements authz.FeedRecord.
func (db *DB) PersonNamed(ctx context.Context, customer, name string) (authz.Person, bool, error) {
	return personNamed(ctx, db.read, customer, name)
}

// PersonNamed implements authz.GrantTx.
func (t *tx) PersonNamed(ctx context.Context, name string) (authz.Person, bool, error) {
	return personNamed(ctx, t, t.chain, name)
}

// Held implements authz.FeedRecord. What is told of a name that is a person's is
// as of one moment: names go from one person to another.
func (db *DB) Held(ctx context.Context, customer string, subject authz.EntityRef, now latchkey.Instant) (h authz.Held, asOf int64, err error) {
	if subject.Type != authz.SubjectUser {
		if asOf, err = db.position(ctx, customer); err != nil {
			return h, 0, err
		}
		h.Grants, err = subjectGrants(ctx, db.read, customer, subject, now)
		return h, asOf, err
	}
	tx, err := db.snapshot(ctx)
	if err != nil {
		return h, 0, refine(fmt.Errorf("read what a user of %s holds: %w", customer, err))
	}
	defer tx.Rollback() //nolint:errcheck // it only reads
	if err := tx.QueryRowContext(ctx, `SELECT seq FROM customers WHERE id = $1`, customer).Scan(&asOf); err != nil {
		return h, 0, refine(fmt.Errorf("read how far the changes of %s go: %w", customer, err))
	}
	person, found, err := personNamed(ctx, tx, customer, subject.ID)
	switch {
	case err != nil:
		return h, 0, err
	case found:
		if subject, h.Person = person.Ref(), person.ID; !person.Active {
			return h, asOf, nil
		}
		list, err := standing(ctx, tx, `m.person_id = $2`, customer, person.ID)
		if err != nil {
			return h, 0, err
		}
		h.Hold(standingOf(list))
	}
	h.Grants, err = subjectGrants(ctx, tx, customer, subject, now)
	return h, asOf, err
}

// personStanding is an entitlement with whose it is.
type personStanding struct {
	person string
	authz.Standing
}

func standingOf(list []personStanding) (all []authz.Standing) {
	for i := range list {
		all = append(all, list[i].Standing)
	}
	return all
}

// standing reads what groups give to persons, who are selected by members m.
func standing(ctx context.Context, q rows, members string, args ...any) ([]personStanding, error) {
	found, err := q.QueryContext(ctx, `SELECT m.person_id, e.id, e.name, e.entries, g.id, g.name FROM group_members m
		JOIN groups g ON g.id = m.group_id
		JOIN group_entitlements b ON b.group_id = g.id
		JOIN entitlements e ON e.id = b.entitlement_id
		WHERE m.customer_id = $1 AND `+members, args...)
	list, err := collect(found, err, func(s scanner) (p personStanding, err error) {
		err = s.Scan(&p.person, &p.Entitlement, &p.Name, &p.Entries, &p.Group, &p.GroupName)
		return p, err
	})
	if err != nil {
		return nil, refine(fmt.Errorf("read the entitlements of persons: %w", err))
	}
	return list, nil
}

// Entitled implements authz.FeedRecord.
func (db *DB) Entitled(ctx context.Context) ([]string, error) {
	found, err := db.read.QueryContext(ctx, `SELECT DISTINCT customer_id FROM group_entitlements`)
	return listed(found, err, scanText, "the customers of which groups give entitlements")
}

// personsPerRead is how many persons FullPersons reads at a time.
const personsPerRead = 256

// FullPersons implements authz.FeedRecord.
func (db *DB) FullPersons(ctx context.Context, customer, after string, now latchkey.Instant) ([]authz.FullSubject, string, error) {
	list, last, err := db.fullPersons(ctx, customer, after, now)
	if err != nil {
		return nil, "", refine(fmt.Errorf("read the persons of %s with what they hold: %w", customer, err))
	}
	return list, last, nil
}

func (db *DB) fullPersons(ctx context.Context, customer, after string, now latchkey.Instant) (list []authz.FullSubject, last string, err error) {
	tx, err := db.snapshot(ctx)
	if err != nil {
		return nil, "", err
	}
	defer tx.Rollback() //nolint:errcheck // it only reads
	var asOf int64
	if err := tx.QueryRowContext(ctx, `SELECT seq FROM customers WHERE id = $1`, customer).Scan(&asOf); err != nil {
		return nil, "", err
	}
	// A username that is another's id is not that person's name in a decision.
	found, err := tx.QueryContext(ctx, `SELECT p.id, CASE WHEN EXISTS (SELECT 1 FROM persons o WHERE o.customer_id = p.customer_id AND o.id = p.username) THEN '' ELSE p.username END, p.email
		FROM persons p WHERE p.customer_id = $1 AND p.id > $2 AND p.active <> 0 ORDER BY p.id LIMIT $3`, customer, after, personsPerRead)
	type names [3]string
	persons, err := collect(found, err, func(s scanner) (n names, err error) {
		err = s.Scan(&n[0], &n[1], &n[2])
		return n, err
	})
	if err != nil || len(persons) == 0 {
		return nil, "", err
	}
	last = persons[len(persons)-1][0]
	held := make(map[string]*authz.Held, len(persons))
	for _, n := range persons {
		held[n[0]] = &authz.Held{Person: n[0]}
	}
	found, err = tx.QueryContext(ctx, `SELECT `+grantColumns+` FROM grants
		WHERE customer_id = $1 AND subject_type = $2 AND subject_id > $3 AND subject_id <= $4 AND expires_at > $5 AND revoked_at = $6 ORDER BY id`,
		customer, authz.SubjectUser, after, last, int64(now), int64(latchkey.Never))
	grants, err := collect(found, err, scanGrant)
	if err != nil {
		return nil, "", err
	}
	for _, g := range grants {
		if h := held[g.Subject.ID]; h != nil {
			h.Grants = append(h.Grants, g)
		}
	}
	entitlements, err := standing(ctx, tx, `m.person_id > $2 AND m.person_id <= $3`, customer, after, last)
	if err != nil {
		return nil, "", err
	}
	given := map[string][]authz.Standing{}
	for _, e := range entitlements {
		given[e.person] = append(given[e.person], e.Standing)
	}
	stored := map[string]string{}
	for _, name := range []string{`p.id`, `p.username`, `p.email`} {
		//nolint:gosec // what is put together is written above
		found, err := tx.QueryContext(ctx, `SELECT s.id, s.properties FROM persons p JOIN subjects s ON s.customer_id = p.customer_id AND s.type = $4 AND s.id = `+name+`
			WHERE p.customer_id = $1 AND p.id > $2 AND p.id <= $3`, customer, after, last, authz.SubjectUser)
		texts, err := collect(found, err, func(s scanner) (t [2]string, err error) {
			err = s.Scan(&t[0], &t[1])
			return t, err
		})
		if err != nil {
			return nil, "", err
		}
		for _, t := range texts {
			stored[t[0]] = t[1]
		}
	}
	for _, n := range persons {
		h := held[n[0]]
		h.Hold(given[h.Person])
		for _, name := range n {
			if name == "" {
				continue
			}
			properties, ok := stored[name]
			list = append(list, authz.FullSubject{Subject: authz.SubjectRecord{EntityRef: authz.EntityRef{Type: authz.SubjectUser, ID: name}, Properties: properties},
				Stored: ok, Held: *h, AsOf: asOf})
		}
	}
	return list, last, nil
}

// touchHolder notes a change to what a person holds, in the records of all names
// that the person has now. Where a name changes it is called before and after.
func (t *tx) touchHolder(ctx context.Context, id string) error {
	names := make([]string, 3)
	err := t.QueryRowContext(ctx, `SELECT id, username, email FROM persons WHERE id = $1 AND customer_id = $2`, id, t.chain).Scan(&names[0], &names[1], &names[2])
	if errors.Is(err, sql.ErrNoRows) { // the subject of the name is no person
		names = []string{id}
	} else if err != nil {
		return fmt.Errorf("read the names of a person of %s: %w", t.chain, err)
	}
	for _, name := range names {
		if name != "" {
			t.touch(feed.Ref{Kind: feed.Subject, Type: authz.SubjectUser, ID: name}, authz.GrantsTouched)
		}
	}
	return nil
}

var _ people.RightsRecord = (*DB)(nil)

// MembershipsAt implements people.RightsRecord.
func (db *DB) MembershipsAt(ctx context.Context, customer, person string, now latchkey.Instant) ([]people.Membership, error) {
	found, err := db.read.QueryContext(ctx, `SELECT 0 AS place, g.id AS id, g.name AS name, CAST($5 AS BIGINT) AS expires_at FROM group_members m
			JOIN groups g ON g.id = m.group_id JOIN persons p ON p.id = m.person_id
			WHERE m.customer_id = $1 AND m.person_id = $2 AND p.active <> 0
		UNION ALL SELECT 1 AS place, r.request_id, r.request_id, r.expires_at FROM grants r JOIN persons p ON p.id = r.subject_id
			WHERE r.customer_id = $1 AND r.subject_type = $3 AND r.subject_id = $2 AND p.active <> 0
			AND r.request_id <> '' AND (r.not_before <= $4 OR r.not_before <= r.created_at) AND r.expires_at > $4 AND r.revoked_at = $5
		ORDER BY place, expires_at, name, id`, customer, person, authz.SubjectUser, int64(now), int64(latchkey.Never))
	return listed(found, err, func(s scanner) (m people.Membership, err error) {
		var place int64
		err = s.Scan(&place, &m.ID, &m.Name, (*int64)(&m.ExpiresAt))
		if m.System = place == 1; m.System {
			m.ID = people.SystemGroup(m.ID)
			m.Name = m.ID
		}
		return m, err
	}, "the groups of a person")
}

// ClaimsAt implements people.RightsRecord.
func (db *DB) ClaimsAt(ctx context.Context, customer, person string, now latchkey.Instant) ([]people.ClaimsHeld, error) {
	found, err := db.read.QueryContext(ctx, `SELECT e.claims, CAST($5 AS BIGINT) AS expires_at FROM group_members m
			JOIN persons p ON p.id = m.person_id
			JOIN group_entitlements b ON b.group_id = m.group_id
			JOIN entitlements e ON e.id = b.entitlement_id
			WHERE m.customer_id = $1 AND m.person_id = $2 AND p.active <> 0
		UNION ALL SELECT r.claims, r.expires_at FROM grants r JOIN persons p ON p.id = r.subject_id
			WHERE r.customer_id = $1 AND r.subject_type = $3 AND r.subject_id = $2 AND p.active <> 0
			AND (r.not_before <= $4 OR r.not_before <= r.created_at) AND r.expires_at > $4 AND r.revoked_at = $5`, customer, person, authz.SubjectUser, int64(now), int64(latchkey.Never))
	return listed(found, err, func(s scanner) (c people.ClaimsHeld, err error) {
		err = s.Scan(&c.Claims, (*int64)(&c.ExpiresAt))
		return c, err
	}, "the claims of a person")
}
