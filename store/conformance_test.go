package store_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/store"
)

// names sort differently by their bytes than in most languages.
var names = []string{"a", "B", "b", "A", "Z", "z", "é", "e", "ä", "_", "-", "10", "9", "ﬀ", "ß", "💡", "a b", "aé", "aB", "ab", `%`, `\`}

func id(of string) uuid.UUID { return uuid.NewSHA1(uuid.Nil, []byte(of)) }

func text(s string) *string { return &s }

// fill writes something to every table, the same in every database.
func fill(t *testing.T, db *store.DB) {
	t.Helper()
	ctx := context.Background()
	n := latchkey.Instant(0)
	write := func(chain string, what string, do func(tx authz.Tx) error) {
		t.Helper()
		n++
		c := authz.Change{Chain: chain, At: start + n, Reply: func() (authz.Reply, error) {
			return authz.Reply{ID: sha256.Sum256([]byte(what)), Body: [32]byte{1}, Sealed: []byte(what), EndsAt: start + 1000 + n}, nil
		}}
		err := db.Change(ctx, c, func(tx authz.Tx) (audit.Draft, error) {
			d := draft(what)
			d.ID, d.At, d.Changes = id(what).String(), start+n, `{"é":"`+what+`"}`
			return d, do(tx)
		})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	write(audit.SystemChain, "root", func(tx authz.Tx) error {
		return tx.SetRootSecret(ctx, authz.KeySecret{Kid: kid("root"), Digest: authz.Digest{9}, Pepper: "p"}, start)
	})
	for i, c := range []string{authz.DefaultCustomer, "Other", "other", "ended"} {
		write(audit.SystemChain, "customer "+c, func(tx authz.Tx) error {
			return tx.InsertCustomer(ctx, authz.CustomerRecord{ID: c, Name: "Kunde " + c, MaxActiveKeys: i, CreatedAt: start, DeletedAt: latchkey.Never})
		})
	}
	for i, name := range names {
		write(authz.DefaultCustomer, "key "+name, func(tx authz.Tx) error {
			k := authz.Key{ID: authz.KeyID(id("key " + name)), Handle: "h" + name, Scopes: `{"customer":{"decision":true}}`, Metadata: `{"keyname":"` + string(strictString(name)) + `","username":"u"}`,
				CreatedAt: start + latchkey.Instant(i%3), ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never, LastUsedAt: latchkey.Never, Version: tx.Seq()}
			if i%4 == 0 {
				k.ExpiresAt = start + 500
			}
			if err := tx.InsertKey(ctx, k, int64(i), authz.KeySecret{Kid: kid(name), Mode: authz.Live, Key: k.ID, Digest: authz.Digest{byte(i)}, EndsAt: latchkey.Never}); err != nil {
				return err
			}
			if i%5 == 0 {
				return tx.RevokeKey(ctx, k.ID, start+latchkey.Instant(100-i))
			}
			return nil
		})
	}
	write(authz.DefaultCustomer, "rotate", func(tx authz.Tx) error {
		k, secrets, err := tx.KeySecrets(ctx, authz.KeyID(id("key a")))
		if err != nil {
			return err
		}
		k.RotatedFrom, k.Handle, k.Version = k.Handle, "new", tx.Seq()
		return tx.RotateKey(ctx, k, authz.KeySecret{Kid: kid("rotated"), Mode: authz.Test, Key: k.ID, Digest: authz.Digest{7}, EndsAt: latchkey.Never},
			map[authz.Kid]latchkey.Instant{secrets[0].Kid: start + 50})
	})
	for i, name := range names {
		p := newPolicy(name)
		p.ID = id("policy " + name).String()
		write(authz.DefaultCustomer, "policy "+name, func(tx authz.Tx) error { return tx.InsertPolicy(ctx, p) })
		if i < 3 {
			p.Version, p.Document, p.UpdatedAt = 2, `{"n":2}`, start+1
			write(authz.DefaultCustomer, "policy again "+name, func(tx authz.Tx) error { return tx.UpdatePolicy(ctx, p, 5) })
		}
		s := authz.SetRecord{ID: id("set " + name).String(), Customer: authz.DefaultCustomer, Name: name, EntityType: "string", Description: "d", Version: 1, CreatedAt: start, UpdatedAt: start}
		write(authz.DefaultCustomer, "set "+name, func(tx authz.Tx) error {
			s.Seq = tx.Seq()
			if err := tx.InsertSet(ctx, s); err != nil {
				return err
			}
			added, err := tx.AddSetValues(ctx, s.ID, append(slices.Clone(names), "twice"))
			if err == nil && len(added) != len(names)+1 {
				err = fmt.Errorf("added %q", added)
			}
			if err != nil {
				return err
			}
			if again, err := tx.AddSetValues(ctx, s.ID, []string{"twice", "é"}); err != nil || len(again) != 0 {
				return fmt.Errorf("added again %q: %w", again, err)
			}
			removed, err := tx.RemoveSetValues(ctx, s.ID, []string{"B", "nothing", "twice"})
			if err == nil && len(removed) != 2 {
				err = fmt.Errorf("removed %q", removed)
			}
			if err != nil {
				return err
			}
			s.Size, s.Version = len(names)-1, 2
			return tx.UpdateSet(ctx, s)
		})
	}
	write(authz.DefaultCustomer, "directory", func(tx authz.Tx) error {
		var subjects []authz.SubjectUpdate
		var resources []authz.ResourceUpdate
		for _, name := range names {
			ref := authz.EntityRef{Type: "user", ID: name}
			subjects = append(subjects, authz.SubjectUpdate{EntityRef: ref, Properties: text(`{"n":"` + string(strictString(name)) + `"}`)}, authz.SubjectUpdate{EntityRef: authz.EntityRef{Type: "User", ID: name}})
			resources = append(resources, authz.ResourceUpdate{EntityRef: authz.EntityRef{Type: "doc", ID: name}, DisplayName: text("D " + name), Labels: text(`{"env":"é","Env":"e"}`)},
				authz.ResourceUpdate{EntityRef: authz.EntityRef{Type: "doc", ID: name}, Properties: text(`{"x":1}`)})
		}
		if _, err := tx.UpsertSubjects(ctx, subjects); err != nil {
			return err
		}
		stored, err := tx.UpsertResources(ctx, resources)
		if err != nil {
			return err
		}
		if got := stored[1]; got.DisplayName != "D a" || got.Labels != `{"env":"é","Env":"e"}` || got.Properties != `{"x":1}` {
			return fmt.Errorf("what an update leaves out did not stay: %+v", got)
		}
		for _, name := range names {
			if err := tx.SetResourceType(ctx, authz.ResourceType{Type: "t" + name, Actions: []string{"read", "é"}}); err != nil {
				return err
			}
		}
		for _, gone := range []struct {
			err   func() (bool, error)
			found bool
		}{
			{func() (bool, error) { return tx.DeleteSubject(ctx, authz.EntityRef{Type: "user", ID: "10"}) }, true},
			{func() (bool, error) { return tx.DeleteSubject(ctx, authz.EntityRef{Type: "user", ID: "10"}) }, false},
			{func() (bool, error) { return tx.DeleteResource(ctx, authz.EntityRef{Type: "doc", ID: "10"}) }, true},
			{func() (bool, error) { return tx.DeleteResourceType(ctx, "t10") }, true},
			{func() (bool, error) { return tx.DeleteResourceType(ctx, "T9") }, false},
		} {
			if found, err := gone.err(); err != nil || found != gone.found {
				return fmt.Errorf("a deletion: %v, %w", found, err)
			}
		}
		return nil
	})
	for i, name := range names {
		write(authz.DefaultCustomer, "grant "+name, func(tx authz.Tx) error {
			g := authz.GrantRecord{ID: id("grant " + name).String(), Subject: authz.EntityRef{Type: "user", ID: names[i%2]}, Entries: `{}`, Reason: name,
				NotBefore: start + latchkey.Instant(i), ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never, CreatedAt: start + latchkey.Instant(i%3), Author: audit.Actor{Type: "root", ID: "root"}}
			if err := tx.InsertGrant(ctx, g); err != nil || i%7 != 0 {
				return err
			}
			return tx.RevokeGrant(ctx, g, start+5)
		})
	}
	write("ended", "end", func(tx authz.Tx) error {
		c, err := tx.Customer(ctx)
		if err != nil {
			return err
		}
		c.DeletedAt, c.DefaultPolicy = start, "gone"
		return tx.UpdateCustomer(ctx, c)
	})
	for _, seen := range []latchkey.Instant{start + 9, start + 5} { // the later one stays
		nodes := []authz.Node{{Customer: authz.DefaultCustomer, ID: "é", Epoch: 1, Seq: int64(seen), SeenAt: seen}, {Customer: "Other", ID: "E", SeenAt: start}}
		if err := db.WriteNodes(ctx, nodes); err != nil {
			t.Fatal(err)
		}
	}
	uses := []authz.Use{{Key: authz.KeyID(id("key b")), At: start + 5, Source: netip.MustParseAddr("192.0.2.1")}, {Key: authz.KeyID(id("key z")), At: start + 6}, {Key: authz.KeyID{1}, At: start}}
	if err := db.WriteUses(ctx, uses, []authz.Rehash{{Kid: kid("b"), Digest: authz.Digest{0xee}, Pepper: "new"}, {Kid: kid("root"), Digest: authz.Digest{0xff}, Pepper: "new"}}); err != nil {
		t.Fatal(err)
	}
	fillDeliveries(t, db)
	fillTasks(t, db)
}

// strictString is a text as it stands within the quotes of JSON.
func strictString(s string) []byte {
	var b []byte
	for _, c := range []byte(s) {
		if c == '\\' || c == '"' {
			b = append(b, '\\')
		}
		b = append(b, c)
	}
	return b
}

func kid(of string) (k authz.Kid) {
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(of)))
	copy(k[:], sum)
	return k
}

// record is what every reading method of the record answers.
func record(t *testing.T, db *store.DB) map[string]any {
	t.Helper()
	ctx := context.Background()
	all := map[string]any{}
	add := func(name string, answer any, err error) {
		if e, ok := errors.AsType[*latchkey.Error](err); ok {
			all[name+" error"] = e.Code
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		all[name] = answer
	}
	for _, c := range []string{authz.DefaultCustomer, "Other", "OTHER", "ended", audit.SystemChain} {
		customer, err := db.CustomerRecord(ctx, c)
		add("customer "+c, customer, err)
		head, err := db.Head(ctx, c)
		add("head "+c, head, err)
		report, err := db.VerifyChain(ctx, c)
		add("verify "+c, report, err)
		if err == nil && !report.Holds {
			t.Errorf("chain %s: %+v", c, report.Findings)
		}
		touched, err := db.Changes(ctx, c, 0, 1000)
		add("changes "+c, touched, err)
		for i, f := range []audit.Filter{{Limit: 1000}, {Limit: 5, Before: 20}, {Limit: 10, ResourceName: "key é"}, {Limit: 10, ResourceName: "key É"}, {Limit: 10, From: start + 9, To: start + 14}, {Limit: 10, Action: "access_key.create", Actor: "system", ResourceType: "access_key", Outcome: "success", RequestID: "none"}} {
			events, err := db.Events(ctx, c, f)
			add(fmt.Sprint("events ", c, i), events, err)
			events, err = db.EventRange(ctx, c, f, 3, 17)
			add(fmt.Sprint("range ", c, i), events, err)
		}
	}
	event, err := db.Event(ctx, authz.DefaultCustomer, id("key é").String())
	add("event", event, err)
	_, err = db.Event(ctx, "Other", id("key é").String())
	add("another's event", nil, err)
	for _, odd := range []string{"\x00", "\xff", ""} {
		_, err = db.Event(ctx, authz.DefaultCustomer, odd)
		add("event "+odd, nil, err)
	}
	chains, err := db.Chains(ctx)
	add("chains", chains, err)
	heads, forged, err := db.Heads(ctx)
	add("heads", [][]audit.Head{heads, forged}, err)
	positions, err := db.Positions(ctx)
	slices.SortFunc(positions, func(a, b authz.Position) int { return cmpText(a.Chain, b.Chain) })
	add("positions", positions, err)
	for offset := range 4 {
		list, total, err := db.CustomerRecords(ctx, 2, offset)
		add(fmt.Sprint("customers ", offset, total), list, err)
	}
	for _, status := range []string{"active", "all", "revoked"} {
		for i, q := range []authz.KeyQuery{{SortField: "created_at", Limit: 100}, {SortField: "created_at", Ascending: true, Limit: 5, Offset: 3}, {SortField: "revoked_at", Limit: 100}, {SortField: "revoked_at", Ascending: true, Limit: 100},
			{HiddenNames: 5, Limit: 100, SortField: "created_at"}, {Metadata: map[string]string{"keyname": "é"}, Limit: 100, SortField: "created_at"}, {Metadata: map[string]string{"keyname": "É", "username": "u"}, Limit: 100, SortField: "created_at"}} {
			q.Customer, q.Status, q.Now = authz.DefaultCustomer, status, start+600
			page, err := db.Keys(ctx, q)
			add(fmt.Sprint("keys ", status, i), page, err)
		}
	}
	for _, name := range append(slices.Clone(names), "É", "nothing") {
		key, err := db.Key(ctx, authz.DefaultCustomer, authz.KeyID(id("key "+name)))
		add("key "+name, key, err)
		full, err := db.FullKey(ctx, authz.DefaultCustomer, authz.KeyID(id("key "+name)), start+1)
		add("full key "+name, full, err)
		of, found, err := db.KeyOfKid(ctx, authz.DefaultCustomer, kid(name))
		add(fmt.Sprint("kid ", name, found), of, err)
		p, err := db.Policy(ctx, authz.DefaultCustomer, name)
		add("policy "+name, p, err)
		versions, err := db.PolicyVersions(ctx, authz.DefaultCustomer, name)
		add("versions "+name, versions, err)
		version, err := db.PolicyVersion(ctx, authz.DefaultCustomer, name, 1)
		add("version "+name, version, err)
		set, err := db.SetRecord(ctx, authz.DefaultCustomer, name)
		add("set "+name, set, err)
		has, err := db.HasSetValue(ctx, id("set a").String(), name)
		add("has "+name, has, err)
		for i, q := range []authz.ValueQuery{{First: true, Limit: 100}, {After: name, Limit: 3}, {Prefix: name, First: true, Limit: 100}} {
			values, err := db.SetValues(ctx, id("set "+name).String(), q)
			add(fmt.Sprint("values ", name, i), values, err)
		}
		ref := authz.EntityRef{Type: "user", ID: name}
		s, found, err := db.Subject(ctx, authz.DefaultCustomer, ref)
		add(fmt.Sprint("subject ", name, found), s, err)
		ref.Type = "doc"
		r, found, err := db.Resource(ctx, authz.DefaultCustomer, ref)
		add(fmt.Sprint("resource ", name, found), r, err)
		typ, found, err := db.ResourceType(ctx, authz.DefaultCustomer, "t"+name)
		add(fmt.Sprint("type ", name, found), typ, err)
		for i, q := range []authz.EntityQuery{{After: authz.EntityRef{Type: "doc", ID: name}, Limit: 5}, {Type: "doc", After: authz.EntityRef{Type: "doc", ID: name}, Limit: 100}, {Type: "user", Prefix: name, Limit: 100},
			{Type: "doc", Labels: map[string]string{"env": "é"}, Limit: 100}, {Type: "doc", Labels: map[string]string{"env": "e"}, Limit: 100}} {
			q.Customer = authz.DefaultCustomer
			resources, err := db.Resources(ctx, q)
			add(fmt.Sprint("resources ", name, i), resources, err)
			q.Labels = nil
			subjects, err := db.Subjects(ctx, q)
			add(fmt.Sprint("subjects ", name, i), subjects, err)
			q.Type, q.After.Type = "", "t"+name
			types, err := db.ResourceTypes(ctx, q)
			add(fmt.Sprint("types ", name, i), types, err)
		}
		ids, err := db.SubjectIDs(ctx, authz.DefaultCustomer, "user", name, start+1, 100)
		add("subject ids "+name, ids, err)
		ids, err = db.ResourceIDs(ctx, authz.DefaultCustomer, "doc", name, 100)
		add("resource ids "+name, ids, err)
		grant, err := db.Grant(ctx, authz.DefaultCustomer, id("grant "+name).String())
		add("grant "+name, grant, err)
		held, asOf, err := db.Held(ctx, authz.DefaultCustomer, authz.EntityRef{Type: "user", ID: name}, start+1)
		add(fmt.Sprint("held by ", name, asOf), held, err)
		reply, found, err := db.Reply(ctx, sha256.Sum256([]byte("key "+name)), start+1010)
		add(fmt.Sprint("reply ", name, found), reply, err)
	}
	records, err := db.PolicyRecords(ctx, authz.DefaultCustomer)
	add("policies", records, err)
	sets, err := db.SetRecords(ctx, authz.DefaultCustomer)
	add("sets", sets, err)
	loaded, err := db.LoadPolicies(ctx)
	for _, c := range loaded {
		slices.SortFunc(c.Policies, func(a, b authz.PolicyRecord) int { return cmpText(a.ID, b.ID) })
	}
	add("loaded policies", loaded, err)
	for _, status := range []authz.GrantStatus{authz.GrantAll, authz.GrantActive, authz.GrantScheduled, authz.GrantEnded} {
		list, err := db.Grants(ctx, authz.GrantQuery{Customer: authz.DefaultCustomer, Status: status, Now: start + 9, AfterCreated: start + 1, AfterID: "8", Limit: 7})
		add("grants "+string(status), list, err)
	}
	candidates, err := db.ActiveKeyIDs(ctx, authz.KeyCandidates{Customer: authz.DefaultCustomer, Now: start + 200, HiddenNames: 2, Own: id("key B").String(), After: "2", Limit: 50})
	add("active keys", candidates, err)
	var each []string
	collect := func(kind string) func(string, any) error {
		return func(customer string, v any) error {
			each = append(each, fmt.Sprint(kind, customer, v))
			return nil
		}
	}
	add("each subject", nil, db.EachSubject(ctx, func(c string, r authz.SubjectRecord) error { return collect("s")(c, r) }))
	add("each resource", nil, db.EachResource(ctx, func(c string, r authz.ResourceRecord) error { return collect("r")(c, r) }))
	for _, after := range []int64{0, 1 << 40} {
		add(fmt.Sprint("since ", after), nil, db.EntitiesSince(ctx, authz.DefaultCustomer, after, func(r authz.SubjectRecord) error { return collect("s since")("", r) },
			func(r authz.ResourceRecord) error { return collect("r since")("", r) }))
	}
	for _, customer := range []string{"", authz.DefaultCustomer, "OTHER"} {
		nodes, err := db.Nodes(ctx, customer, start+1)
		add("nodes "+customer, nodes, err)
	}
	add("each grant", nil, db.EachGrant(ctx, start+1, func(g authz.GrantRecord) error { return collect("g")(g.Customer, g) }))
	slices.Sort(each)
	all["each"] = each
	recordDeliveries(db, add)
	recordTasks(db, add)
	return all
}

func cmpText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func sameRecord(t *testing.T, a, b *store.DB) {
	t.Helper()
	if diff := cmp.Diff(record(t, a), record(t, b)); diff != "" {
		t.Errorf("they answer differently:\n%s", diff)
	}
}

// The record answers alike whichever engine holds it, the order of texts
// included.
func TestRecord_IsTheSameOnEveryEngine(t *testing.T) {
	dbs := map[string]*store.DB{}
	for _, e := range engines { // subtests would skip what is not installed without a word here
		dbs[e.name] = e.place(t).open(t)
		fill(t, dbs[e.name])
	}
	sameRecord(t, dbs["sqlite"], dbs["postgres"])
	values, err := dbs["postgres"].SetValues(context.Background(), id("set a").String(), authz.ValueQuery{First: true, Limit: 100})
	if err != nil || !slices.IsSorted(values) || len(values) != len(names)-1 {
		t.Errorf("%q is not the order of bytes: %v", values, err)
	}
}

func addCustomers(t *testing.T, db *store.DB, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := authz.NewCustomers(db, &cache.Table{}).Establish(context.Background(), id, start); err != nil {
			t.Fatal(err)
		}
	}
}

// The attack: as many requests at once as there are, each of which would be the
// last key that the customer may have.
func TestChange_NobodyGetsPastALimitAtOnce(t *testing.T) {
	eachEngine(t, func(t *testing.T, _ *store.DB, at place) {
		ctx := context.Background()
		dbs := []*store.DB{at.open(t)} // SQLite has one process only
		if at.URL != "" {
			dbs = append(dbs, at.open(t))
		}
		const limit = 7
		full := errors.New("full")
		var made atomic.Int64
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				db := dbs[i%len(dbs)]
				err := db.Change(ctx, authz.Change{Chain: authz.DefaultCustomer, At: start}, func(tx authz.Tx) (audit.Draft, error) {
					n, err := tx.CountActiveKeys(ctx, start)
					if err != nil {
						return audit.Draft{}, err
					}
					if n >= limit {
						return audit.Draft{}, full
					}
					k := authz.Key{ID: authz.KeyID(uuid.New()), Scopes: `{}`, Metadata: `{}`, ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never}
					return draft("k"), tx.InsertKey(ctx, k, 0, authz.KeySecret{Kid: kid(k.ID.String()), Mode: authz.Live, Key: k.ID})
				})
				switch {
				case err == nil:
					made.Add(1)
				case !errors.Is(err, full):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if made.Load() != limit {
			t.Errorf("%d were made, %d may be", made.Load(), limit)
		}
		if report, err := dbs[0].VerifyChain(ctx, authz.DefaultCustomer); err != nil || !report.Holds || report.Events != limit {
			t.Errorf("%+v, %v", report, err)
		}
	})
}

// One customer's changes wait for each other, and not with the connections of
// all.
func TestChange_ACustomersLineKeepsNobodyElseWaiting(t *testing.T) {
	at := engines[1].place(t)
	at.Connections = 4 // two for changes
	db := at.open(t)
	addCustomers(t, db, "slow", "quick")
	ctx := context.Background()
	inside, goOn := make(chan struct{}), make(chan struct{})
	var first sync.Once
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			err := db.Change(ctx, authz.Change{Chain: "slow", At: start}, func(authz.Tx) (audit.Draft, error) {
				first.Do(func() {
					close(inside)
					<-goOn
				})
				return draft("slow"), nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	<-inside
	for range 5 {
		if err := db.Change(ctx, authz.Change{Chain: "quick", At: start}, func(authz.Tx) (audit.Draft, error) { return draft("quick"), nil }); err != nil {
			t.Error(err)
		}
	}
	// Who waits can give up.
	gone, cancel := context.WithCancel(ctx)
	cancel()
	err := db.Change(gone, authz.Change{Chain: "slow", At: start}, func(authz.Tx) (audit.Draft, error) { return draft("slow"), nil })
	if latchkey.KindOf(err) != latchkey.Unavailable {
		t.Errorf("one that gave up: %v", err)
	}
	close(goOn)
	wg.Wait()
	if seq, err := db.Head(ctx, "slow"); err != nil || seq.Seq != 10 {
		t.Errorf("head %+v, %v", seq, err)
	}
}

func TestChange_RollsBackAllOfItWhereAnythingFails(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		before := record(t, db)
		failed := errors.New("failed")
		for name, c := range map[string]struct {
			change authz.Change
			do     func(authz.Tx) error
		}{
			"the work":  {authz.Change{}, func(authz.Tx) error { return failed }},
			"the reply": {authz.Change{Reply: func() (authz.Reply, error) { return authz.Reply{}, failed }}, func(authz.Tx) error { return nil }},
		} {
			c.change.Chain, c.change.At = authz.DefaultCustomer, start
			err := db.Change(ctx, c.change, func(tx authz.Tx) (audit.Draft, error) {
				if _, err := tx.UpsertSubjects(ctx, []authz.SubjectUpdate{{EntityRef: authz.EntityRef{Type: "user", ID: "a"}}}); err != nil {
					return audit.Draft{}, err
				}
				if err := tx.InsertPolicy(ctx, newPolicy("p")); err != nil {
					return audit.Draft{}, err
				}
				return draft("x"), c.do(tx)
			})
			if !errors.Is(err, failed) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if diff := cmp.Diff(before, record(t, db)); diff != "" {
			t.Error(diff)
		}
	})
}

// A reader sees all of a change or nothing of it, and what it saw first stays
// so while it reads: a chain that grows meanwhile still verifies.
func TestVerifyChain_ReadsAsOfOneMoment(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		done := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			defer close(done)
			for i := range 60 {
				if _, err := insert(ctx, db, fmt.Sprint(i), nil); err != nil {
					t.Error(err)
				}
			}
		})
		for running := true; running; {
			select {
			case <-done:
				running = false
			default:
			}
			if report, err := db.VerifyChain(ctx, authz.DefaultCustomer); err != nil || !report.Holds {
				t.Errorf("%+v, %v", report, err)
				break
			}
		}
		wg.Wait()
	})
}
