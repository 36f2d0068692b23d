package access_test

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/internal/servers"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/people"
	"github.com/latchkey-dev/latchkey/scopes"
	"github.com/latchkey-dev/latchkey/store"
	"github.com/latchkey-dev/latchkey/tasks"
)

var morning = latchkey.InstantOf(time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC))

const minute = latchkey.Instant(time.Minute / time.Microsecond)

// world is the services over a real database, with people in it.
type world struct {
	testing.TB
	db        *store.DB
	table     *cache.Table
	customer  *authz.Customer
	root      authz.Kid
	requests  *access.Requests
	templates *access.Templates
	keys      *authz.Keys
	auth      *authz.Authenticator

	mu      sync.Mutex
	reached []int64 // how far decisions of this process were told to see
	auto    func(context.Context, access.AutoQuestion) (access.AutoAnswer, error)
	trigger func(context.Context, access.TriggerEvent) error
	trouble []string
	at      latchkey.Instant // the clock
	app     string
}

func (w *world) Grants(*authz.Customer, string, string) (*authz.Grants, error) { return nil, nil }

func (w *world) Reach(_ context.Context, _ string, seq int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reached = append(w.reached, seq)
}

func (w *world) Evaluate(ctx context.Context, q access.AutoQuestion) (access.AutoAnswer, error) {
	if w.auto == nil {
		return access.AutoAnswer{}, nil
	}
	return w.auto(ctx, q)
}

func (w *world) Check(_ []string, when string) error {
	if strings.Contains(when, "((") {
		return latchkey.InvalidFaults(latchkey.Fault{Pointer: "/auto_approve_when", Code: "invalid_condition", Detail: "it does not compile"})
	}
	return nil
}

func (w *world) Before(ctx context.Context, e access.TriggerEvent) error {
	if w.trigger == nil {
		return nil
	}
	return w.trigger(ctx, e)
}

// engines are the databases that what concerns them is tested on.
var engines = map[string]func(testing.TB) store.Config{
	"sqlite":   func(t testing.TB) store.Config { return store.Config{Path: filepath.Join(t.TempDir(), "latchkey.db")} },
	"postgres": func(t testing.TB) store.Config { return store.Config{URL: servers.Postgres(t)} },
}

func onEach(t *testing.T, test func(t *testing.T, w *world)) {
	for name, config := range engines {
		t.Run(name, func(t *testing.T) { test(t, begin(t, config(t))) })
	}
}

func newWorld(t testing.TB) *world { return begin(t, engines["sqlite"](t)) }

func begin(t testing.TB, config store.Config) *world {
	t.Helper()
	config.MAC = bytes.Repeat([]byte{1}, 32)
	db, err := store.OpenConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	w := &world{TB: t, db: db, table: &cache.Table{}, at: morning}
	if err := authz.NewCustomers(db, w.table).Establish(t.Context(), authz.DefaultCustomer, morning); err != nil {
		t.Fatal(err)
	}
	parser, peppers := scopes.NewParser(64), &authz.Peppers{}
	root := authz.NewRootKey(db, peppers)
	made, err := root.Establish(t.Context(), nil, morning)
	if err != nil {
		t.Fatal(err)
	}
	w.root = made.Kid
	if err := db.Load(t.Context(), w.table, parser, peppers, morning); err != nil {
		t.Fatal(err)
	}
	w.customer = w.table.Customer(authz.DefaultCustomer)
	w.keys = authz.NewKeys(authz.KeysConfig{Record: db, Table: w.table, Parser: parser, Peppers: peppers, Mode: authz.Live, MaxActive: 100})
	w.auth = authz.NewAuthenticator(w.table, peppers, root, nil)
	w.requests = access.NewRequests(access.RequestsConfig{
		Record: db.Access(), Parser: parser, Subjects: w, Auto: w, Trigger: w, Now: func() latchkey.Instant { return w.at },
		Troubled: func(_ context.Context, what string, err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.trouble = append(w.trouble, what+": "+err.Error())
		},
	})
	w.templates = access.NewTemplates(access.TemplatesConfig{Record: db.Access(), Parser: parser, Auto: w})
	w.app = id("app")
	w.write(func(tx people.Writer) error {
		return tx.InsertApplication(t.Context(), people.Application{ID: w.app, Customer: w.customer.ID, Name: "Ledger", CreatedAt: morning, Version: tx.Seq()})
	})
	return w
}

// id is the UUID of what a test calls by a name.
func id(name string) string { return uuid.NewSHA1(uuid.NameSpaceOID, []byte(name)).String() }

// write changes people, as their own services would.
func (w *world) write(do func(people.Writer) error) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute) // a change has less time by itself
	defer cancel()
	err := w.db.People().Change(ctx, authz.Change{Chain: authz.DefaultCustomer, At: w.at}, func(tx people.Writer) (audit.Draft, error) {
		return audit.Draft{ID: uuid.NewString(), At: w.at, Action: "test", Outcome: "success"}, do(tx)
	})
	if err != nil {
		w.Fatal(err)
	}
}

func kid(name string) (k authz.Kid) {
	copy(k[:], strings.ReplaceAll(id("kid "+name), "-", ""))
	return k
}

// person makes people with a credential each, of the given type.
func (w *world) person(typ authz.PersonType, names ...string) {
	w.Helper()
	w.write(func(tx people.Writer) error {
		for i, name := range names {
			p := authz.Person{
				ID: id(name), Customer: w.customer.ID, Username: name, Email: name + "@example.com", Name: strings.ToUpper(name), Type: typ, Active: true,
				CreatedAt: w.at + latchkey.Instant(i), Version: tx.Seq(),
			}
			if err := tx.InsertPerson(w.Context(), p); err != nil {
				return err
			}
			s := people.Secret{Kid: kid(name), ID: uuid.NewString(), Person: p.ID, Customer: p.Customer, CreatedAt: w.at, EndsAt: latchkey.Never}
			if err := tx.InsertSecret(w.Context(), s); err != nil {
				return err
			}
		}
		return nil
	})
}

// people makes plain people.
func (w *world) people(names ...string) { w.Helper(); w.person(authz.UserPerson, names...) }

// group makes a group of people, in their order, or makes one anew.
func (w *world) group(name string, members ...string) string {
	w.Helper()
	g := people.Group{ID: id("group " + name), Customer: w.customer.ID, Name: name, CreatedAt: morning}
	for i, m := range members {
		one := people.Member{Person: id(m), AddedAt: morning + latchkey.Instant(i)}
		if m == authz.Bot {
			one.Person = authz.Bot
		}
		g.Members = append(g.Members, one)
	}
	w.setGroup(g)
	return g.ID
}

func (w *world) setGroup(g people.Group) {
	w.Helper()
	w.write(func(tx people.Writer) error {
		g.Version = tx.Seq()
		was, err := tx.Group(w.Context(), g.ID)
		if latchkey.KindOf(err) == latchkey.NotFound {
			return tx.InsertGroup(w.Context(), g)
		}
		if err != nil {
			return err
		}
		return tx.UpdateGroup(w.Context(), was, g)
	})
}

// entitlement makes one of the rig's application.
func (w *world) entitlement(name, entries, claims string) string {
	w.Helper()
	e := people.Entitlement{ID: id("entitlement " + name), Customer: w.customer.ID, Application: w.app, Name: name, Entries: entries, Claims: claims, CreatedAt: morning}
	w.write(func(tx people.Writer) error {
		e.Version = tx.Seq()
		return tx.InsertEntitlement(w.Context(), e)
	})
	return e.ID
}

// resource stores one.
func (w *world) resource(kind, name string, labels map[string]string) {
	w.Helper()
	text, err := json.Marshal(labels)
	if err != nil {
		w.Fatal(err)
	}
	label := string(text)
	w.write(func(tx people.Writer) error {
		_, err := tx.UpsertResources(w.Context(), []authz.ResourceUpdate{{EntityRef: authz.EntityRef{Type: kind, ID: name}, Labels: &label}})
		return err
	})
}

// deactivate ends a person's time, without anything else that this brings.
func (w *world) deactivate(name string) {
	w.Helper()
	w.write(func(tx people.Writer) error {
		was, err := tx.Person(w.Context(), id(name))
		if err != nil {
			return err
		}
		is := was
		is.Active = false
		return tx.UpdatePerson(w.Context(), was, is)
	})
}

// as is a call by a person, "root", or a key that service made.
func (w *world) as(name string) authz.Call {
	w.Helper()
	c := authz.Caller{Customer: w.customer, Source: netip.MustParseAddr("192.0.2.7")}
	if name == "root" {
		c.Kind, c.Kid = authz.RootCredential, w.root
		return authz.Call{Caller: c, Now: w.at}
	}
	p, err := w.db.Access().Person(w.Context(), w.customer.ID, id(name))
	if err != nil {
		w.Fatal(err)
	}
	c.Kind, c.Person = authz.PersonalTokenCredential, &p
	c.Proof = authz.PersonCredential{Kind: c.Kind, Person: &p, Kid: kid(name), Handle: "lkp1_" + kid(name).String()}
	return authz.Call{Caller: c, Now: w.at}
}

// service makes an access key with scopes, and returns a call by it.
func (w *world) service(customerScopes string) authz.Call {
	w.Helper()
	var doc strictjson.Doc
	if err := doc.Parse(`{"scopes":{"customer":` + customerScopes + `},"metadata":{"username":"u","keyname":"k"}}`); err != nil {
		w.Fatal(err)
	}
	in, err := authz.ParseNewKey(scopes.NewParser(4), doc.Root(), w.at)
	if err != nil {
		w.Fatal(err)
	}
	created, err := w.keys.Create(w.Context(), w.as("root"), in)
	if err != nil {
		w.Fatal(err)
	}
	caller, _, err := w.auth.Authenticate([]byte(created.Token.Reveal()), w.at, netip.MustParseAddr("192.0.2.8"))
	if err != nil {
		w.Fatal(err)
	}
	return authz.Call{Caller: caller, Now: w.at}
}

// template makes one that says what most tests want, as changed.
func (w *world) template(change func(*access.Template)) access.Template {
	w.Helper()
	t := access.DefaultTemplate()
	t.Name, t.Application, t.AllowedDurations = "Read the ledger", w.app, []access.Minutes{60, 240}
	if change != nil {
		change(&t)
	}
	made, _, err := w.templates.Create(w.Context(), w.as("root"), t)
	if err != nil {
		w.Fatal(err)
	}
	return made
}

// ask is a submission for an hour.
func ask(t access.Template) access.Submission {
	return access.Submission{Template: t.ID, Duration: 60, Justification: "the incident"}
}

func (w *world) submit(name string, in access.Submission) access.Request {
	w.Helper()
	r, err := w.requests.Submit(w.Context(), w.as(name), in)
	if err != nil {
		w.Fatalf("submit by %s: %v", name, err)
	}
	return r
}

func (w *world) approve(name string, r access.Request) access.Request {
	w.Helper()
	r, err := w.requests.Approve(w.Context(), w.as(name), r.ID, access.Verdict{Comment: "fine"})
	if err != nil {
		w.Fatalf("approve by %s: %v", name, err)
	}
	return r
}

// read is a request as the record has it.
func (w *world) read(r access.Request) access.Request {
	w.Helper()
	r, err := w.db.Access().Request(w.Context(), w.customer.ID, r.ID)
	if err != nil {
		w.Fatal(err)
	}
	return r
}

// grants are those of a person that have not ended.
func (w *world) grants(name string) []authz.GrantRecord {
	w.Helper()
	list, err := w.db.Grants(w.Context(), authz.GrantQuery{Customer: w.customer.ID, Subject: authz.EntityRef{Type: authz.SubjectUser, ID: id(name)}, Status: authz.GrantAll, Now: w.at, Limit: 5000})
	if err != nil {
		w.Fatal(err)
	}
	return slices.DeleteFunc(list, func(g authz.GrantRecord) bool { return g.Status(w.at) == authz.GrantEnded })
}

// told are the lifecycle events of the trail about a request, in their order, as
// "event by actor".
func (w *world) told(r access.Request) (list []string) {
	w.Helper()
	for _, e := range w.events(r) {
		if name, ok := e["event"].(string); ok {
			list = append(list, strings.TrimPrefix(name, "access_request."))
		}
	}
	return list
}

// events are what the trail tells of a request, in its order: the changes, with
// action and actor.
func (w *world) events(r access.Request) (list []map[string]any) {
	w.Helper()
	page, err := w.db.Events(w.Context(), w.customer.ID, audit.Filter{ResourceType: "access_request", Limit: 5000})
	if err != nil {
		w.Fatal(err)
	}
	slices.Reverse(page)
	for _, e := range page {
		if e.Resource.ID != r.ID {
			continue
		}
		changes := map[string]any{}
		if err := json.Unmarshal([]byte(e.Changes), &changes); err != nil {
			w.Fatal(err)
		}
		maps.Copy(changes, map[string]any{"action": e.Action, "actor": e.Actor.Type + ":" + e.Actor.ID})
		list = append(list, changes)
	}
	return list
}

// refused fails unless err is a refusal with the code.
func (w *world) refused(err error, code string) {
	w.Helper()
	if err == nil || latchkey.CodeOf(err) != code {
		w.Fatalf("want %s, got %v", code, err)
	}
}

// task makes one that templates can name.
func (w *world) task() string {
	w.Helper()
	task := tasks.Task{ID: id("task"), Customer: w.customer.ID, Name: "check", Type: "webhook", URL: "https://example.com", CreatedAt: w.at, UpdatedAt: w.at}
	err := w.db.Tasks().Change(w.Context(), authz.Change{Chain: w.customer.ID, At: w.at}, func(tx tasks.Tx) (audit.Draft, error) {
		task.Version = tx.Seq()
		return audit.Draft{ID: uuid.NewString(), At: w.at, Action: "test"}, tx.InsertTask(w.Context(), task)
	})
	if err != nil {
		w.Fatal(err)
	}
	return task.ID
}
