package authz_test

import (
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
)

func document(tb rapid.TB, name, match string) *policies.Document {
	var doc strictjson.Doc
	err := doc.Parse(`{"language":"cel","rules":[{"label":"one","match":"` + match + `","action":"allow"}],"default":{"action":"deny"}}`)
	if err != nil {
		tb.Fatal(err)
	}
	d, err := policies.ParseDocument(doc.Root(), name)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// modelPolicy is what a policy should be.
type modelPolicy struct{ versions []string }

// Whatever is put, rolled back, deleted and made again: the version counts on,
// a version that is kept is as it was written, what is in force is the latest,
// and a fresh start comes to the same.
func TestPolicies_StoredAndInForceAgreeWithAModel(t *testing.T) {
	matches := []string{"true", "false", "action.name == 'x'"}
	names := []string{"a", "b"}
	rapid.Check(t, func(rt *rapid.T) {
		r := open(t, t.TempDir(), "")
		s := authz.NewPolicies(authz.PoliciesConfig{Record: r.db, Table: r.table})
		call, ctx := r.rootCall(*r.made), t.Context()
		model := map[string]*modelPolicy{}
		check := func(live *policies.Live) {
			for _, name := range names {
				m, p := model[name], live.Snapshot().Policy(name)
				if (m == nil) != (p == nil) {
					rt.Fatalf("%s: in force %v, want %v", name, p != nil, m != nil)
				}
				if m != nil && (p.Version != int64(len(m.versions)) || p.Document.Rules[0].Match != m.versions[len(m.versions)-1]) {
					rt.Fatalf("%s: version %d %q is in force, want %q", name, p.Version, p.Document.Rules[0].Match, m.versions)
				}
			}
		}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			name := rapid.SampledFrom(names).Draw(rt, "name")
			m := model[name]
			switch rapid.SampledFrom([]string{"put", "put", "rollback", "delete", "version"}).Draw(rt, "step") {
			case "put":
				match := rapid.SampledFrom(matches).Draw(rt, "match")
				p, made, err := s.Put(ctx, call, document(rt, name, match), authz.Conditions{})
				if err != nil || made != (m == nil) {
					rt.Fatalf("put %s: made %v, %v", name, made, err)
				}
				if m == nil {
					m = &modelPolicy{}
					model[name] = m
				}
				if len(m.versions) == 0 || m.versions[len(m.versions)-1] != match {
					m.versions = append(m.versions, match)
				}
				if p.Version != int64(len(m.versions)) {
					rt.Fatalf("put %s: version %d, want %d", name, p.Version, len(m.versions))
				}
			case "rollback":
				n := rapid.Int64Range(0, 6).Draw(rt, "version")
				p, err := s.Rollback(ctx, call, name, n, authz.Conditions{})
				if m == nil || n < 1 || n > int64(len(m.versions)) {
					if latchkey.KindOf(err) != latchkey.NotFound {
						rt.Fatalf("roll %s back to %d: %v", name, n, err)
					}
					break
				}
				m.versions = append(m.versions, m.versions[n-1])
				if err != nil || p.Version != int64(len(m.versions)) {
					rt.Fatalf("roll %s back to %d: %+v, %v", name, n, p, err)
				}
			case "delete":
				if err := s.Delete(ctx, call, name, authz.Conditions{}); (err == nil) != (m != nil) {
					rt.Fatalf("delete %s: %v", name, err)
				}
				delete(model, name)
			case "version":
				n := rapid.Int64Range(1, 6).Draw(rt, "version")
				p, err := s.Version(ctx, call, name, n)
				if m == nil || n > int64(len(m.versions)) {
					if latchkey.KindOf(err) != latchkey.NotFound {
						rt.Fatalf("version %d of %s: %v", n, name, err)
					}
				} else if want := string(document(rt, name, m.versions[n-1]).AppendJSON(nil)); err != nil || p.Document != want {
					rt.Fatalf("version %d of %s: %v %s, want %s", n, name, err, p.Document, want)
				}
			}
			check(&call.Customer.Policies)
		}
		fresh := &authz.Customer{ID: authz.DefaultCustomer}
		table := &oneCustomer{KeyTable: r.table, customer: fresh}
		if unusable, err := authz.NewPolicies(authz.PoliciesConfig{Record: r.db, Table: table}).Load(ctx, morning); err != nil || len(unusable) > 0 {
			rt.Fatalf("load: %v, %v", unusable, err)
		}
		check(&fresh.Policies)
	})
}

// oneCustomer is a table after a restart.
type oneCustomer struct {
	authz.KeyTable
	customer *authz.Customer
}

func (t *oneCustomer) Customer(string) *authz.Customer { return t.customer }

// The attack: a policy is deleted and made again, between the reading of its
// old version and the rollback, and comes out as what it never was.
func TestPolicies_ARollbackIsOfTheRecordThatWasRead(t *testing.T) {
	r := open(t, t.TempDir(), "")
	call, ctx := r.rootCall(*r.made), t.Context()
	s := authz.NewPolicies(authz.PoliciesConfig{Record: r.db, Table: r.table})
	if _, _, err := s.Put(ctx, call, document(t, "a", "true"), authz.Conditions{}); err != nil {
		t.Fatal(err)
	}
	between := authz.NewPolicies(authz.PoliciesConfig{Table: r.table, Record: r.db, Origin: func(string) string {
		// Asked for after the version was read and before the change begins.
		if err := s.Delete(ctx, call, "a", authz.Conditions{}); err != nil {
			t.Error(err)
		}
		if _, _, err := s.Put(ctx, call, document(t, "a", "false"), authz.Conditions{}); err != nil {
			t.Error(err)
		}
		return ""
	}})
	if _, err := between.Rollback(ctx, call, "a", 1, authz.Conditions{}); latchkey.CodeOf(err) != "policy_replaced" {
		t.Errorf("got %v", err)
	}
	if p := call.Customer.Policies.Snapshot().Policy("a"); p.Document.Rules[0].Match != "false" {
		t.Error("the old record's document is in force")
	}
}

func BenchmarkPolicies_Put(b *testing.B) {
	r := open(b, b.TempDir(), "")
	call, ctx := r.rootCall(*r.made), b.Context()
	s := authz.NewPolicies(authz.PoliciesConfig{Record: r.db, Table: r.table})
	for i := 0; b.Loop(); i++ {
		if _, _, err := s.Put(ctx, call, document(b, "a", "action.name == '"+strconv.Itoa(i)+"'"), authz.Conditions{}); err != nil {
			b.Fatal(err)
		}
	}
}
