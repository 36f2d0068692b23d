package authz_test

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
)

const epoch = 7

// change makes a change of the default customer's, as the process itself.
func (r *rig) change(do func(tx authz.Tx) error) (seq int64) {
	r.Helper()
	err := r.db.Change(r.Context(), authz.Change{Chain: authz.DefaultCustomer, At: morning}, func(tx authz.Tx) (audit.Draft, error) {
		seq = tx.Seq()
		return audit.Draft{ID: "e" + strconv.FormatInt(seq, 10), At: morning, Actor: audit.Actor{Type: "system", ID: "system"}, Action: "test",
			Resource: audit.Resource{Type: "test", ID: "test"}, Outcome: "success"}, do(tx)
	})
	if err != nil {
		r.Fatal(err)
	}
	return seq
}

func (r *rig) key(expires latchkey.Instant) authz.Created {
	r.Helper()
	text := `{"customer":{"decision":true}}`
	set, err := r.parser.Parse(text)
	if err != nil {
		r.Fatal(err)
	}
	created, err := r.keys.Create(r.Context(), r.rootCall(*r.made), authz.NewKey{Set: set, Scopes: text,
		Metadata: `{"keyname":"k","username":"u"}`, Keyname: "k", Username: "u", ExpiresAt: expires})
	if err != nil {
		r.Fatal(err)
	}
	return created
}

func (r *rig) grant(id string, subject authz.EntityRef, expires latchkey.Instant) {
	r.Helper()
	r.change(func(tx authz.Tx) error {
		return tx.InsertGrant(r.Context(), authz.GrantRecord{ID: id, Subject: subject, Entries: `{"doc":[{"f":"*","p":2}]}`, NotBefore: morning,
			ExpiresAt: expires, RevokedAt: latchkey.Never, CreatedAt: morning})
	})
}

func body[T any](t *testing.T, r *feed.Record) (b T) {
	t.Helper()
	if err := json.Unmarshal(r.Body, &b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRecordMaker_TellsOfAKeyUnderItsIDAndItsKids(t *testing.T) {
	r := open(t, t.TempDir(), "")
	ends := morning.Add(time.Hour)
	created := r.key(ends)
	r.grant("g1", authz.EntityRef{Type: authz.SubjectAccessKey, ID: created.Key.ID.String()}, morning.Add(2*time.Hour))
	m := &authz.RecordMaker{Record: r.db, Epoch: epoch}
	ref := feed.Ref{Kind: feed.Key, ID: created.Key.ID.String()}
	got, err := m.Make(t.Context(), authz.DefaultCustomer, ref, morning)
	if err != nil {
		t.Fatal(err)
	}
	at, err := r.db.Position(t.Context(), authz.DefaultCustomer)
	if err != nil {
		t.Fatal(err)
	}
	if got.Ref != ref || got.Customer != authz.DefaultCustomer || got.Version != at.Seq || got.Epoch != epoch || got.Until != ends {
		t.Errorf("%+v", got)
	}
	k := body[feed.KeyBody](t, got)
	if k.ID != ref.ID || k.RevokedAt != latchkey.Never || len(k.Secrets) != 1 || len(k.Secrets[0].Digest) != 32 || len(k.Grants) != 1 || k.Grants[0].ID != "g1" {
		t.Errorf("%+v", k)
	}
	if strings.Contains(string(got.Body), created.Token.Reveal()) {
		t.Error("the record holds the secret")
	}
	byKid, err := m.Make(t.Context(), authz.DefaultCustomer, feed.Ref{Kind: feed.Secret, ID: k.Secrets[0].Kid}, morning)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, byKid); diff != "" {
		t.Error("by its kid it is another record:", diff)
	}
	for _, kid := range []string{"000000000000", "short", "", strings.Repeat("\x00", 12)} {
		if _, err := m.Make(t.Context(), authz.DefaultCustomer, feed.Ref{Kind: feed.Secret, ID: kid}, morning); latchkey.KindOf(err) != latchkey.NotFound {
			t.Errorf("kid %q: %v", kid, err)
		}
	}
	// One of another customer is not there.
	if err := authz.NewCustomers(r.db, r.table).Establish(t.Context(), "other", morning); err != nil {
		t.Fatal(err)
	}
	if other, err := m.Make(t.Context(), "other", ref, morning); err != nil || other.Exists() {
		t.Errorf("another customer's key: %+v, %v", other, err)
	}
	if _, err := m.Make(t.Context(), "other", feed.Ref{Kind: feed.Secret, ID: k.Secrets[0].Kid}, morning); latchkey.KindOf(err) != latchkey.NotFound {
		t.Errorf("another customer's kid: %v", err)
	}
	for _, id := range []string{"none", "", "00000000-0000-0000-0000-000000000000"} {
		if none, err := m.Make(t.Context(), authz.DefaultCustomer, feed.Ref{Kind: feed.Key, ID: id}, morning); err != nil || none.Exists() || none.Until != 0 {
			t.Errorf("key %q: %+v, %v", id, none, err)
		}
	}
}

func TestRecordMaker_ARevokedKeyStaysARecordThatSaysSo(t *testing.T) {
	r := open(t, t.TempDir(), "")
	created := r.key(latchkey.Never)
	m := &authz.RecordMaker{Record: r.db, Epoch: epoch}
	at := morning.Add(time.Minute)
	r.change(func(tx authz.Tx) error { return tx.RevokeKey(t.Context(), created.Key.ID, at) })
	got, err := m.Make(t.Context(), authz.DefaultCustomer, feed.Ref{Kind: feed.Key, ID: created.Key.ID.String()}, at)
	if err != nil {
		t.Fatal(err)
	}
	if k := body[feed.KeyBody](t, got); !got.Exists() || k.RevokedAt != at || got.Until != at {
		t.Errorf("%+v %+v", got, k)
	}
}

func TestRecordMaker_TheEndOfACustomerIsTheEndOfAllItsRecords(t *testing.T) {
	r := open(t, t.TempDir(), "")
	created := r.key(latchkey.Never)
	alice := authz.EntityRef{Type: "user", ID: "alice"}
	r.grant("g1", alice, latchkey.Never)
	r.grant("g2", authz.EntityRef{Type: authz.SubjectAccessKey, ID: created.Key.ID.String()}, latchkey.Never)
	at := morning.Add(time.Minute)
	r.change(func(tx authz.Tx) error {
		c, err := tx.Customer(t.Context())
		if err != nil {
			return err
		}
		c.DeletedAt = at
		return tx.UpdateCustomer(t.Context(), c)
	})
	m := &authz.RecordMaker{Record: r.db, Epoch: epoch}
	got, err := m.Make(t.Context(), authz.DefaultCustomer, feed.Ref{Kind: feed.Key, ID: created.Key.ID.String()}, at)
	if err != nil {
		t.Fatal(err)
	}
	if k := body[feed.KeyBody](t, got); k.RevokedAt != at || len(k.Grants) != 0 || got.Until != at {
		t.Errorf("the key: %+v", k)
	}
	for _, ref := range []feed.Ref{{Kind: feed.Subject, Type: alice.Type, ID: alice.ID}, {Kind: feed.Resource, Type: "doc", ID: "a"}} {
		if got, err := m.Make(t.Context(), authz.DefaultCustomer, ref, at); err != nil || got.Exists() {
			t.Errorf("%s: %+v, %v", ref, got, err)
		}
	}
	if _, err := m.Make(t.Context(), "never", feed.Ref{Kind: feed.Subject, Type: "user", ID: "a"}, at); latchkey.KindOf(err) != latchkey.NotFound {
		t.Errorf("a customer that never was: %v", err)
	}
}

// A grant that is revoked touches the key's record alone: a copy of it in another
// one would outlive it.
func TestRecordMaker_GrantsOfAKeyAreInItsOwnRecordAlone(t *testing.T) {
	r := open(t, t.TempDir(), "")
	subject := authz.EntityRef{Type: authz.SubjectAccessKey, ID: r.key(latchkey.Never).Key.ID.String()}
	r.grant("g1", subject, latchkey.Never)
	m := &authz.RecordMaker{Record: r.db, Epoch: epoch}
	ref := feed.Ref{Kind: feed.Subject, Type: subject.Type, ID: subject.ID}
	if got, err := m.Make(t.Context(), authz.DefaultCustomer, ref, morning); err != nil || got.Exists() {
		t.Errorf("%s, %v", got.Body, err)
	}
	properties := `{"a":1}`
	r.change(func(tx authz.Tx) error {
		_, err := tx.UpsertSubjects(t.Context(), []authz.SubjectUpdate{{EntityRef: subject, Properties: &properties}})
		return err
	})
	got, err := m.Make(t.Context(), authz.DefaultCustomer, ref, morning)
	if err != nil {
		t.Fatal(err)
	}
	if s := body[feed.SubjectBody](t, got); s.Properties != properties || len(s.Grants) != 0 {
		t.Errorf("%+v", s)
	}
}

func TestRecordMaker_TellsOfSubjectsAndResources(t *testing.T) {
	r := open(t, t.TempDir(), "")
	properties := `{"team":"red"}`
	r.change(func(tx authz.Tx) error {
		_, err := tx.UpsertSubjects(t.Context(), []authz.SubjectUpdate{{EntityRef: authz.EntityRef{Type: "user", ID: "bob"}, Properties: &properties}})
		return err
	})
	r.change(func(tx authz.Tx) error {
		_, err := tx.UpsertResources(t.Context(), []authz.ResourceUpdate{{EntityRef: authz.EntityRef{Type: "doc", ID: "a"}, Properties: &properties}})
		return err
	})
	hour, day := morning.Add(time.Hour), morning.Add(24*time.Hour)
	r.grant("g1", authz.EntityRef{Type: "user", ID: "alice"}, hour)
	r.grant("g2", authz.EntityRef{Type: "user", ID: "alice"}, day)
	r.grant("g3", authz.EntityRef{Type: "user", ID: "bob"}, hour)
	m := &authz.RecordMaker{Record: r.db, Epoch: epoch}
	for _, c := range []struct {
		ref    feed.Ref
		now    latchkey.Instant
		until  latchkey.Instant
		exists bool
		has    string
	}{
		{feed.Ref{Kind: feed.Subject, Type: "user", ID: "alice"}, morning, day, true, `"g2"`},
		{feed.Ref{Kind: feed.Subject, Type: "user", ID: "alice"}, day, 0, false, `null`}, // at its end a grant has ended
		{feed.Ref{Kind: feed.Subject, Type: "user", ID: "bob"}, morning, latchkey.Never, true, `"g3"`},
		{feed.Ref{Kind: feed.Subject, Type: "user", ID: "bob"}, day, latchkey.Never, true, `red`},
		{feed.Ref{Kind: feed.Subject, Type: "user", ID: "carol"}, morning, 0, false, `null`},
		{feed.Ref{Kind: feed.Resource, Type: "doc", ID: "a"}, morning, latchkey.Never, true, `red`},
		{feed.Ref{Kind: feed.Resource, Type: "doc", ID: "b"}, morning, 0, false, `null`},
	} {
		got, err := m.Make(t.Context(), authz.DefaultCustomer, c.ref, c.now)
		if err != nil {
			t.Fatal(err)
		}
		if got.Until != c.until || got.Exists() != c.exists || !strings.Contains(string(got.Body), c.has) {
			t.Errorf("%s at %s: until %s, %s", c.ref, c.now, got.Until, got.Body)
		}
	}
	if _, err := m.Make(t.Context(), authz.DefaultCustomer, feed.Ref{Kind: feed.Policy, ID: "p"}, morning); err == nil {
		t.Error("there is a record of a policy")
	}
}

func TestRecordMaker_MessagesHoldWhatAVerifierTakes(t *testing.T) {
	r := open(t, t.TempDir(), "")
	long := `{"text":"` + strings.Repeat("x", 6<<10) + `"}`
	list := make([]authz.SubjectUpdate, 10)
	for i := range list {
		list[i] = authz.SubjectUpdate{EntityRef: authz.EntityRef{Type: "user", ID: strconv.Itoa(i)}, Properties: &long}
	}
	seq := r.change(func(tx authz.Tx) error {
		_, err := tx.UpsertSubjects(t.Context(), list)
		return err
	})
	later := r.change(func(tx authz.Tx) error { return nil })
	changes, err := r.db.Changes(t.Context(), authz.DefaultCustomer, seq-1, 10)
	if err != nil || len(changes) != 2 {
		t.Fatalf("%v, %v", changes, err)
	}
	m := &authz.RecordMaker{Record: r.db, Epoch: epoch}
	msg, err := m.Message(t.Context(), authz.DefaultCustomer, changes[0], morning)
	if err != nil {
		t.Fatal(err)
	}
	if msg.Seq != seq || len(msg.Touched) != 10 || len(msg.Records) == 0 || len(msg.Records) == 10 {
		t.Errorf("change %d touched %d, with %d records; want it bounded", msg.Seq, len(msg.Touched), len(msg.Records))
	}
	for _, rec := range msg.Records {
		if rec.Version != later {
			t.Errorf("%s holds as of %d, want %d: its present form", rec.Ref, rec.Version, later)
		}
	}
	signer, err := feed.NewSigner(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	text, err := signer.SignMessage(msg)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := feed.NewVerifier(signer.Public()).OpenMessage(text, authz.DefaultCustomer)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(msg, opened); diff != "" {
		t.Error(diff)
	}
	// A database that is behind what it told of is not believed.
	if _, err := m.Message(t.Context(), authz.DefaultCustomer, authz.Touched{Seq: later + 1}, morning); err == nil {
		t.Error("a message of a change that is not made")
	}
}
