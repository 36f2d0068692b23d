package store

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/people"
)

// Access is the database as package access sees it.
type Access struct{ db *DB }

// accessTx is a change as package access sees it.
type accessTx struct{ *tx }

var (
	_ access.Record = Access{}
	_ access.Tx     = accessTx{}
)

// Access returns it.
func (db *DB) Access() Access { return Access{db} }

// Change implements access.Record.
func (a Access) Change(ctx context.Context, c authz.Change, do func(access.Tx) (audit.Draft, error)) error {
	return a.db.Change(ctx, c, func(t authz.Tx) (audit.Draft, error) { return do(accessTx{t.(*tx)}) })
}

// Leaving makes of what is to be done with requests what people do it by.
func (a Access) Leaving(do func(context.Context, access.Tx, authz.Call, authz.Person) error) people.Leaving {
	return func(ctx context.Context, t people.Tx, call authz.Call, p authz.Person) error {
		return do(ctx, accessTx{t.(*tx)}, call, p)
	}
}

// Person implements access.Record.
func (a Access) Person(ctx context.Context, customer, id string) (authz.Person, error) {
	p, err := scanPerson(a.db.read.QueryRowContext(ctx, `SELECT `+personColumns+` FROM persons p JOIN customers c ON c.id = p.customer_id AND c.deleted_at = $3
		WHERE p.id = $1 AND p.customer_id = $2`, id, customer, int64(latchkey.Never)))
	return one(p, err, "user_not_found", "person")
}

// GroupsOf implements access.Record.
func (a Access) GroupsOf(ctx context.Context, customer, person string) ([]string, error) {
	found, err := a.db.read.QueryContext(ctx, `SELECT group_id FROM group_members WHERE customer_id = $1 AND person_id = $2 ORDER BY group_id`, customer, person)
	return listed(found, err, scanText, "groups")
}

// Resource implements access.Record.
func (a Access) Resource(ctx context.Context, customer string, ref authz.EntityRef) (authz.ResourceRecord, bool, error) {
	return a.db.Resource(ctx, customer, ref)
}

// Resource implements access.Tx.
func (t accessTx) Resource(ctx context.Context, ref authz.EntityRef) (authz.ResourceRecord, bool, error) {
	r, err := scanResource(t.QueryRowContext(ctx, `SELECT kind, id, display_name, labels, properties FROM resources
		WHERE customer_id = $1 AND kind = $2 AND id = $3`, t.chain, ref.Type, ref.ID))
	return found(r, err, "resource")
}

// Admins implements access.Tx.
func (t accessTx) Admins(ctx context.Context) ([]authz.Person, error) {
	found, err := t.QueryContext(ctx, `SELECT `+personColumns+` FROM persons p
		WHERE p.customer_id = $1 AND p.type IN ($2, $3) AND p.active = 1 ORDER BY p.created_at, p.id`,
		t.chain, string(authz.AdminPerson), string(authz.InternalAdminPerson))
	return listed(found, err, scanPerson, "admins")
}

// MembersOf implements access.Tx.
func (t accessTx) MembersOf(ctx context.Context, group string) ([]access.Member, error) {
	found, err := t.QueryContext(ctx, `SELECT `+personColumns+`, m.added_at FROM group_members m JOIN persons p ON p.id = m.person_id
		WHERE m.group_id = $1 AND m.customer_id = $2 AND p.active = 1 ORDER BY m.added_at, m.person_id`, group, t.chain)
	return listed(found, err, func(row scanner) (m access.Member, err error) {
		var active int64
		err = row.Scan(append(personDest(&m.Person, &active), (*int64)(&m.Place.AddedAt))...)
		m.Active, m.Place.Group, m.Place.Person = active == 1, group, m.ID
		return m, err
	}, "members")
}

// HasTask implements access.Tx and deliveries.Tx.
func (t *tx) HasTask(ctx context.Context, id string) (bool, error) {
	n, err := t.count(ctx, `SELECT count(*) FROM tasks WHERE id = $1 AND customer_id = $2`, id, t.chain)
	return n > 0, err
}

func (t *tx) count(ctx context.Context, query string, args ...any) (n int, err error) {
	if err := t.QueryRowContext(ctx, query, args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("count: %w", err)
	}
	return n, nil
}

const templateColumns = `id, customer_id, version, body`

func scanTemplate(row scanner) (t access.Template, err error) {
	var id, customer, body string
	var version int64
	if err := row.Scan(&id, &customer, &version, &body); err != nil {
		return t, err
	}
	err = json.Unmarshal([]byte(body), &t)
	t.ID, t.Customer, t.Version = id, customer, version
	return t, err
}

func readTemplate(ctx context.Context, q rows, customer, id string) (access.Template, error) {
	t, err := scanTemplate(q.QueryRowContext(ctx, `SELECT `+templateColumns+` FROM access_templates WHERE id = $1 AND customer_id = $2`, id, customer))
	return one(t, err, "template_not_found", "template")
}

// Template implements access.Record.
func (a Access) Template(ctx context.Context, customer, id string) (access.Template, error) {
	return readTemplate(ctx, a.db.read, customer, id)
}

// Template implements access.Tx.
func (t accessTx) Template(ctx context.Context, id string) (access.Template, error) {
	return readTemplate(ctx, t, t.chain, id)
}

// Templates implements access.Record.
func (a Access) Templates(ctx context.Context, customer, afterName, afterID string, limit int) ([]access.Template, error) {
	found, err := a.db.read.QueryContext(ctx, `SELECT `+templateColumns+` FROM access_templates
		WHERE customer_id = $1 AND (name, id) > ($2, $3) ORDER BY name, id LIMIT $4`, customer, afterName, afterID, limit)
	return listed(found, err, scanTemplate, "templates")
}

// CountTemplates implements access.Tx.
func (t accessTx) CountTemplates(ctx context.Context) (int, error) {
	return t.count(ctx, `SELECT count(*) FROM access_templates WHERE customer_id = $1`, t.chain)
}

// InsertTemplate implements access.Tx.
func (t accessTx) InsertTemplate(ctx context.Context, template access.Template) error {
	body, err := json.Marshal(template)
	if err == nil {
		_, err = t.ExecContext(ctx, `INSERT INTO access_templates (id, customer_id, app_id, name, version, body) VALUES ($1, $2, $3, $4, $5, $6)`,
			template.ID, t.chain, template.Application, template.Name, t.seq, string(body))
	}
	if err != nil {
		return fmt.Errorf("insert template %s: %w", template.ID, err)
	}
	return t.refer(ctx, &template)
}

// UpdateTemplate implements access.Tx.
func (t accessTx) UpdateTemplate(ctx context.Context, template access.Template) error {
	body, err := json.Marshal(template)
	if err == nil {
		_, err = t.ExecContext(ctx, `UPDATE access_templates SET name = $2, version = $3, body = $4 WHERE id = $1`,
			template.ID, template.Name, t.seq, string(body))
	}
	if err == nil {
		_, err = t.ExecContext(ctx, `DELETE FROM access_template_refs WHERE template_id = $1`, template.ID)
	}
	if err != nil {
		return fmt.Errorf("update template %s: %w", template.ID, err)
	}
	return t.refer(ctx, &template)
}

// refer notes what a template names.
func (t accessTx) refer(ctx context.Context, template *access.Template) error {
	refs := map[string][]string{
		"group":       append(slices.Concat(template.ApproverGroups, template.AllowedGroups), template.EscalationGroup),
		"entitlement": template.Entitlements,
		"task":        {template.TriggerTask},
	}
	for kind, ids := range refs {
		for _, id := range slices.Compact(slices.Sorted(slices.Values(ids))) { // the template keeps its own order
			if id == "" {
				continue
			}
			_, err := t.ExecContext(ctx, `INSERT INTO access_template_refs (template_id, kind, ref_id, customer_id) VALUES ($1, $2, $3, $4)`,
				template.ID, kind, id, t.chain)
			if err != nil {
				return fmt.Errorf("note what template %s names: %w", template.ID, err)
			}
		}
	}
	return nil
}

// DeleteTemplate implements access.Tx.
func (t accessTx) DeleteTemplate(ctx context.Context, id string) error {
	for _, statement := range []string{
		`UPDATE access_requests SET template_id = '' WHERE customer_id = $2 AND template_id = $1`,
		`DELETE FROM access_template_refs WHERE template_id = $1 AND customer_id = $2`,
		`DELETE FROM access_places WHERE template_id = $1 AND customer_id = $2`,
		`DELETE FROM access_templates WHERE id = $1 AND customer_id = $2`,
	} {
		if _, err := t.ExecContext(ctx, statement, id, t.chain); err != nil {
			return fmt.Errorf("delete template %s: %w", id, err)
		}
	}
	return nil
}

// OpenRequests implements access.Tx.
func (t accessTx) OpenRequests(ctx context.Context, template string, now latchkey.Instant) (int, error) {
	return t.count(ctx, `SELECT count(*) FROM access_requests WHERE customer_id = $1 AND template_id = $2 AND status IN ($3, $4) AND ends_at > $5`,
		t.chain, template, string(access.Pending), string(access.Approved), int64(now))
}

// Place implements access.Tx.
func (t accessTx) Place(ctx context.Context, template string) (p access.Place, err error) {
	err = t.QueryRowContext(ctx, `SELECT group_id, added_at, person_id FROM access_places WHERE template_id = $1`, template).
		Scan(&p.Group, (*int64)(&p.AddedAt), &p.Person)
	p, _, err = found(p, err, "place")
	return p, err
}

// SetPlace implements access.Tx.
func (t accessTx) SetPlace(ctx context.Context, template string, p access.Place) error {
	_, err := t.ExecContext(ctx, `INSERT INTO access_places (template_id, customer_id, group_id, added_at, person_id) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (template_id) DO UPDATE SET group_id = excluded.group_id, added_at = excluded.added_at, person_id = excluded.person_id`,
		template, t.chain, p.Group, int64(p.AddedAt), p.Person)
	if err != nil {
		return fmt.Errorf("note whose turn it was by template %s: %w", template, err)
	}
	return nil
}

const requestColumns = `r.id, r.customer_id, r.template_id, r.recheck_at, r.lease, r.lease_until, r.trigger_failure, r.version, r.body`

func scanRequest(row scanner) (access.Request, error) {
	var in access.Request // what stands in columns of its own
	var body string
	if err := row.Scan(&in.ID, &in.Customer, &in.Template, (*int64)(&in.RecheckAt), &in.Lease, (*int64)(&in.LeaseUntil), &in.TriggerFailure, &in.Version, &body); err != nil {
		return in, err
	}
	r := in
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		return r, err
	}
	r.ID, r.RecheckAt = in.ID, in.RecheckAt
	return r, nil
}

func readRequest(ctx context.Context, q rows, customer, id string) (access.Request, error) {
	r, err := scanRequest(q.QueryRowContext(ctx, `SELECT `+requestColumns+` FROM access_requests r WHERE r.id = $1 AND r.customer_id = $2`, id, customer))
	return one(r, err, "access_request_not_found", "access request")
}

// Request implements access.Record.
func (a Access) Request(ctx context.Context, customer, id string) (access.Request, error) {
	return readRequest(ctx, a.db.read, customer, id)
}

// Request implements access.Tx.
func (t accessTx) Request(ctx context.Context, id string) (access.Request, error) {
	return readRequest(ctx, t, t.chain, id)
}

// OpenRequestsOf implements access.Tx.
func (t accessTx) OpenRequestsOf(ctx context.Context, person string, now latchkey.Instant) ([]access.Request, error) {
	found, err := t.QueryContext(ctx, `SELECT `+requestColumns+` FROM access_requests r
		WHERE r.customer_id = $1 AND (r.requester_id = $2 OR r.beneficiary_id = $2) AND r.status IN ($3, $4) AND r.ends_at > $5 ORDER BY r.id`,
		t.chain, person, string(access.Pending), string(access.Approved), int64(now))
	return listed(found, err, scanRequest, "open access requests")
}

// PendingOf implements access.Tx.
func (t accessTx) PendingOf(ctx context.Context, person string, now latchkey.Instant) (int, error) {
	return t.count(ctx, `SELECT count(*) FROM access_requests WHERE customer_id = $1 AND requester_id = $2 AND pending_key <> '' AND ends_at > $3`,
		t.chain, person, int64(now))
}

// PendingLike implements access.Tx.
func (t accessTx) PendingLike(ctx context.Context, key string) (access.Request, bool, error) {
	return readPendingLike(ctx, t, t.chain, key)
}

func readPendingLike(ctx context.Context, q rows, customer, key string) (access.Request, bool, error) {
	r, err := scanRequest(q.QueryRowContext(ctx, `SELECT `+requestColumns+` FROM access_requests r WHERE r.customer_id = $1 AND r.pending_key = $2 AND r.pending_key <> ''`, customer, key))
	return found(r, err, "pending request")
}

// requestRow is what of a request stands in columns.
func requestRow(r *access.Request) (endsAt, escalatesAt, recheckAt latchkey.Instant, pendingKey, body string, err error) {
	escalatesAt, recheckAt = latchkey.Never, latchkey.Never
	switch r.Status {
	case access.Pending:
		pendingKey = r.PendingKey()
		if r.EscalatedAt == latchkey.Never {
			escalatesAt = r.EscalatesAt
		}
	case access.Approved:
		recheckAt = r.RecheckAt
	case access.Denied, access.Revoked, access.Expired, access.Failed:
	}
	text, err := json.Marshal(r)
	return r.EndsAt(), escalatesAt, recheckAt, pendingKey, string(text), err
}

// InsertRequest implements access.Tx.
func (t accessTx) InsertRequest(ctx context.Context, r access.Request) error {
	t.touch(feed.Ref{Kind: feed.Request, ID: r.ID}, "")
	endsAt, escalatesAt, recheckAt, key, body, err := requestRow(&r)
	submittedBy := ""
	if r.SubmittedBy.Type == authz.SubjectAccessKey {
		submittedBy = r.SubmittedBy.ID
	}
	if err == nil {
		_, err = t.ExecContext(ctx, `INSERT INTO access_requests
			(id, customer_id, template_id, requester_id, requester_email, beneficiary_id, submitted_by, status, created_at, ends_at,
			 escalates_at, recheck_at, pending_key, lease, lease_until, trigger_failure, version, body)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, '', 0, $14, $15, $16)`,
			r.ID, t.chain, r.Template, r.Requester.ID, strings.ToLower(r.Requester.Email), r.Beneficiary.ID, submittedBy, string(r.Status),
			int64(r.CreatedAt), int64(endsAt), int64(escalatesAt), int64(recheckAt), key, r.TriggerFailure, t.seq, body)
	}
	if unique(err) {
		return latchkey.Errorf(latchkey.Conflict, "pending_request_exists", "a request for this is pending already").Because(err)
	}
	if err == nil && r.Requester.Email != "" {
		_, err = t.ExecContext(ctx, `INSERT INTO access_requesters (customer_id, email, requests) VALUES ($1, $2, 1)
			ON CONFLICT (customer_id, email) DO UPDATE SET requests = access_requesters.requests + 1`, t.chain, strings.ToLower(r.Requester.Email))
	}
	if err != nil {
		return fmt.Errorf("insert request %s: %w", r.ID, err)
	}
	return t.await(ctx, &r)
}

// UpdateRequest implements access.Tx.
func (t accessTx) UpdateRequest(ctx context.Context, r access.Request) error {
	t.touch(feed.Ref{Kind: feed.Request, ID: r.ID}, "")
	endsAt, escalatesAt, recheckAt, key, body, err := requestRow(&r)
	if err == nil {
		// A lease is not this change's to take or give, but ends with what it was for.
		_, err = t.ExecContext(ctx, `UPDATE access_requests SET status = $2, ends_at = $3, escalates_at = $4, recheck_at = $5, pending_key = $6,
			lease = CASE WHEN $7 = 1 THEN lease ELSE '' END, trigger_failure = CASE WHEN $7 = 1 THEN trigger_failure ELSE '' END,
			version = $8, body = $9 WHERE id = $1`,
			r.ID, string(r.Status), int64(endsAt), int64(escalatesAt), int64(recheckAt), key, truth(r.Status == access.Pending), t.seq, body)
	}
	if err == nil {
		_, err = t.ExecContext(ctx, `DELETE FROM access_awaited WHERE request_id = $1`, r.ID)
	}
	if err != nil {
		return fmt.Errorf("update request %s: %w", r.ID, err)
	}
	return t.await(ctx, &r)
}

// await notes which groups may decide on a request.
func (t accessTx) await(ctx context.Context, r *access.Request) error {
	if r.Status != access.Pending {
		return nil
	}
	groups := slices.Clone(r.Snapshot.Template.ApproverGroups)
	if len(groups) == 0 {
		groups = []string{""}
	}
	if g := r.Snapshot.Template.EscalationGroup; g != "" && r.EscalatedAt != latchkey.Never {
		groups = append(groups, g)
	}
	slices.Sort(groups)
	for _, g := range slices.Compact(groups) {
		_, err := t.ExecContext(ctx, `INSERT INTO access_awaited (request_id, group_id, customer_id, created_at) VALUES ($1, $2, $3, $4)`,
			r.ID, g, t.chain, int64(r.CreatedAt))
		if err != nil {
			return fmt.Errorf("note who may decide on request %s: %w", r.ID, err)
		}
	}
	return nil
}

// fewRequests is how many requests of matching addresses are looked at one by one;
// where there are more, they are found soon among all.
const fewRequests = 2000

// Requests implements access.Record.
func (a Access) Requests(ctx context.Context, q access.RequestQuery) ([]access.Request, error) {
	var matching int64
	if q.Requester != "" {
		err := a.db.read.QueryRowContext(ctx, `SELECT coalesce(sum(requests), 0) FROM access_requesters WHERE customer_id = $1 AND replace(email, $2, '') <> email`,
			q.Customer, q.Requester).Scan(&matching)
		if err != nil {
			return nil, refine(fmt.Errorf("look for requesters: %w", err))
		}
		if matching == 0 {
			return nil, nil
		}
	}
	if q.Status != access.Expired {
		return requests(ctx, a.db.read, &q, matching, false)
	}
	// What is written down as expired, and what is not yet: each has its index. As of
	// one moment, since between the two it might be written down.
	snapshot, err := a.db.snapshot(ctx)
	if err != nil {
		return nil, refine(err)
	}
	defer snapshot.Rollback() //nolint:errcheck // it only reads
	list, err := requests(ctx, snapshot, &q, matching, false)
	if err != nil {
		return nil, err
	}
	due, err := requests(ctx, snapshot, &q, matching, true)
	if err != nil {
		return nil, err
	}
	list = append(list, due...)
	slices.SortFunc(list, func(a, b access.Request) int {
		return cmp.Or(cmp.Compare(b.CreatedAt, a.CreatedAt), strings.Compare(b.ID, a.ID))
	})
	return list[:min(len(list), q.Limit)], nil
}

func requests(ctx context.Context, from querier, q *access.RequestQuery, matching int64, due bool) ([]access.Request, error) {
	var args []any
	arg := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	tables, order := `access_requests r`, `r.created_at DESC, r.id DESC`
	customer, column := `r.customer_id`, func(name string) string { return name }
	if due { // by when they end, of which there are few: nothing else is to look like a way in
		customer, order = `r.customer_id || ''`, `r.created_at + 0 DESC, r.id DESC`
		column = func(name string) string { return name + ` || ''` }
	}
	where := []string{customer + ` = ` + arg(q.Customer)}
	switch {
	case q.Requester == "", due:
	case matching <= fewRequests: // by the addresses, and nothing else
		tables = `access_requesters q CROSS JOIN access_requests r`
		where = append(where, `q.customer_id = `+arg(q.Customer), `replace(q.email, `+arg(q.Requester)+`, '') <> q.email`, `r.requester_email = q.email`)
		column = func(name string) string { return name + ` || ''` }
	default:
		where = append(where, `replace(r.requester_email, `+arg(q.Requester)+`, '') <> r.requester_email`)
	}
	if due && q.Requester != "" {
		where = append(where, `replace(r.requester_email, `+arg(q.Requester)+`, '') <> r.requester_email`)
	}
	if q.Template != "" {
		where = append(where, column(`r.template_id`)+` = `+arg(q.Template))
	}
	switch {
	case due:
		where = append(where, `r.ends_at <= `+arg(int64(q.Now)), `r.ends_at < 9223372036854775807`)
	case q.Status != "":
		where = append(where, column(`r.status`)+` = `+arg(string(q.Status)))
		if !q.Status.Final() {
			where = append(where, `r.ends_at > `+arg(int64(q.Now)))
		}
	}
	if q.For != "" {
		id := arg(q.For)
		where = append(where, `(r.requester_id = `+id+` OR r.beneficiary_id = `+id+`)`)
	}
	if q.SubmittedBy != "" {
		where = append(where, `r.submitted_by = `+arg(q.SubmittedBy), `r.submitted_by <> ''`)
	}
	if q.Awaiting != nil {
		groups := slices.Clone(q.Awaiting.Groups)
		if q.Awaiting.Admin {
			groups = append(groups, "")
		}
		if len(groups) == 0 {
			return nil, nil
		}
		for i, g := range groups {
			groups[i] = arg(g)
		}
		where = append(where, `r.id IN (SELECT w.request_id FROM access_awaited w WHERE w.customer_id = `+arg(q.Customer)+` AND w.group_id IN (`+strings.Join(groups, `, `)+`))`,
			`r.status = `+arg(string(access.Pending)), `r.ends_at > `+arg(int64(q.Now)))
	}
	if q.AfterID != "" {
		where = append(where, `(r.created_at, r.id) < (`+arg(int64(q.AfterCreated))+`, `+arg(q.AfterID)+`)`)
	}
	found, err := from.QueryContext(ctx, `SELECT `+requestColumns+` FROM `+tables+` WHERE `+strings.Join(where, ` AND `)+
		` ORDER BY `+order+` LIMIT `+arg(q.Limit), args...)
	return listed(found, err, scanRequest, "access requests")
}

// InsertMessage implements access.Tx.
func (t accessTx) InsertMessage(ctx context.Context, m access.Message) error {
	_, err := t.ExecContext(ctx, `INSERT INTO access_messages (id, request_id, customer_id, author_id, author_email, author_name, body, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`, m.ID, m.Request, t.chain, m.Author.ID, m.Author.Email, m.Author.Name, m.Body, int64(m.CreatedAt))
	if err != nil {
		return fmt.Errorf("insert a message of request %s: %w", m.Request, err)
	}
	return nil
}

// Messages implements access.Record.
func (a Access) Messages(ctx context.Context, customer, request string, after access.Message, limit int) ([]access.Message, error) {
	found, err := a.db.read.QueryContext(ctx, `SELECT id, request_id, author_id, author_email, author_name, body, created_at FROM access_messages
		WHERE request_id = $1 AND customer_id = $2 AND (created_at, id) > ($3, $4) ORDER BY created_at, id LIMIT $5`,
		request, customer, int64(after.CreatedAt), after.ID, limit)
	return listed(found, err, func(row scanner) (m access.Message, err error) {
		err = row.Scan(&m.ID, &m.Request, &m.Author.ID, &m.Author.Email, &m.Author.Name, &m.Body, (*int64)(&m.CreatedAt))
		return m, err
	}, "messages")
}

// due says by what when which requests are due; $1 is now. The last condition is
// that of the partial index.
var due = map[access.Due]string{
	access.DueExpiry:     `r.ends_at <= $1 AND r.ends_at < 9223372036854775807 ORDER BY r.ends_at`,
	access.DueEscalation: `r.escalates_at <= $1 AND r.ends_at > $1 AND r.escalates_at < 9223372036854775807 ORDER BY r.escalates_at`,
	access.DueRecheck:    `r.recheck_at <= $1 AND r.ends_at > $1 AND r.recheck_at < 9223372036854775807 ORDER BY r.recheck_at`,
}

// Due implements access.Record.
func (a Access) Due(ctx context.Context, what access.Due, now latchkey.Instant, limit int) ([]access.DueRequest, error) {
	//nolint:gosec // what is put together is written above
	found, err := a.db.read.QueryContext(ctx, `SELECT r.customer_id, r.id FROM access_requests r JOIN customers c ON c.id = r.customer_id
		WHERE c.deleted_at = 9223372036854775807 AND `+due[what]+`, r.id LIMIT $2`, int64(now), limit)
	return listed(found, err, func(row scanner) (d access.DueRequest, err error) {
		err = row.Scan(&d.Customer, &d.ID)
		return d, err
	}, "requests that are due")
}

// Lease implements access.Record.
func (a Access) Lease(ctx context.Context, customer, id, holder string, now, until latchkey.Instant) (bool, error) {
	n, err := a.write(ctx, `UPDATE access_requests SET lease = $3, lease_until = $4
		WHERE id = $1 AND customer_id = $2 AND status = $6 AND ends_at > $5 AND (lease = '' OR lease_until <= $5)`,
		id, customer, holder, int64(until), int64(now), string(access.Pending))
	return n > 0, err
}

// Release implements access.Record.
func (a Access) Release(ctx context.Context, customer, id, holder, failure string) error {
	_, err := a.write(ctx, `UPDATE access_requests SET lease = '', trigger_failure = $4 WHERE id = $1 AND customer_id = $2 AND lease = $3`,
		id, customer, holder, failure)
	return err
}

// Postpone implements access.Record.
func (a Access) Postpone(ctx context.Context, customer, id string, known, until latchkey.Instant) (bool, error) {
	n, err := a.write(ctx, `UPDATE access_requests SET recheck_at = $4 WHERE id = $1 AND customer_id = $2 AND recheck_at = $3 AND recheck_at < 9223372036854775807`,
		id, customer, int64(known), int64(until))
	return n > 0, err
}

// write writes outside of a change what is no fact about the customer.
func (a Access) write(ctx context.Context, query string, args ...any) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = repeatedly(func() error {
		res, err := a.db.write.ExecContext(ctx, query, args...)
		if err == nil {
			n, err = res.RowsAffected()
		}
		return err
	})
	if err != nil {
		return 0, refine(fmt.Errorf("write about a request: %w", err))
	}
	return n, nil
}
