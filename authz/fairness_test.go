package authz_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

// heavyRego loops until a bound of the evaluation ends it, after tens of
// milliseconds; it has no input that the memo could know it by.
const heavyRego = `package policies.heavy

list := [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]

allow if {
	some a in list
	some b in list
	some c in list
	some d in list
	a + b + c + d == input.context.n
}
`

func compileDocument(tb testing.TB, d *policies.Document) *policies.Policy {
	tb.Helper()
	p, err := policies.Compile(d, 1)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func heavyDocument() *policies.Document {
	return &policies.Document{Name: "heavy", Language: policies.Rego, Rego: heavyRego}
}

// inForce makes a customer with one policy, its default.
func inForce(tb testing.TB, table *cache.Table, id string, p *policies.Policy) *authz.Customer {
	tb.Helper()
	c := &authz.Customer{ID: id}
	table.AddCustomer(c)
	err := c.Policies.Update(func(s *policies.Snapshot) (*policies.Snapshot, error) {
		return s.Edit(1, morning, func(d *policies.Draft) {
			d.PutPolicy(p)
			d.SetDefault(p.Document.Name)
		}), nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// numbered is a question that no memo has answered.
func numbered(tb testing.TB, n int) *authz.Request {
	tb.Helper()
	var doc strictjson.Doc
	if err := doc.Parse(fmt.Sprintf(`{"n":%d}`, 1000+n)); err != nil {
		tb.Fatal(err)
	}
	return &authz.Request{Subject: authz.Entity{Type: "user", ID: "u"}, Action: authz.Action{Name: "read"},
		Resource: authz.Entity{Type: "doc", ID: "d"}, Context: doc.Root()}
}

// The attack: one customer's policy is as heavy as a policy may be, and is asked
// by many at once. It is denied to those for whom there is no turn; the other
// customer, whose policy is light, is answered every time.
func TestDecide_OneCustomersHeavyPolicyLeavesTheOthersTheirTurns(t *testing.T) {
	table := &cache.Table{}
	p := authz.NewPDP(authz.PDPConfig{Keys: table, MaxStaleness: 30 * time.Second, Concurrency: 1})
	heavy := inForce(t, table, "heavy", compileDocument(t, heavyDocument()))
	light := inForce(t, table, "light", compileDocument(t, document(t, "light", "action.name == 'read'")))

	release := authz.HoldTurn(heavy, 1)
	var wg sync.WaitGroup
	busy := make([]bool, 8)
	for i := range busy {
		wg.Go(func() {
			var d authz.Decision
			if err := p.Decide(&d, heavy, numbered(t, i), morning); err != nil || d.Permit || d.ExpiresAt != morning {
				t.Errorf("%v, %+v", err, d)
			}
			busy[i] = d.Failure != nil && d.Failure.Failure == policies.Busy
		})
	}
	for i := range 1000 {
		var d authz.Decision
		if err := p.Decide(&d, light, numbered(t, i), morning); err != nil || !d.Permit {
			t.Fatalf("%v, %+v", err, d)
		}
	}
	wg.Wait()
	release()
	if slices.Contains(busy, false) {
		t.Errorf("a customer evaluates more at once than it may: %v", busy)
	}
	var d authz.Decision
	if err := p.Decide(&d, heavy, numbered(t, 0), morning); err != nil || d.Failure == nil || d.Failure.Failure == policies.Busy {
		t.Errorf("the turn was not given back: %v, %+v", err, d.Failure)
	}
}

// The attack: many authors of one customer test a heavy policy without end, so
// that no other customer can publish one.
func TestPolicies_AuthorsOfOneCustomerDoNotKeepOutThoseOfAnother(t *testing.T) {
	r := open(t, t.TempDir(), "")
	if err := authz.NewCustomers(r.db, r.table).Establish(t.Context(), "acme", morning); err != nil {
		t.Fatal(err)
	}
	r.table.AddCustomer(&authz.Customer{ID: "acme"})
	s := authz.NewPolicies(authz.PoliciesConfig{Record: r.db, Table: r.table})
	attacker, victim := r.rootCall(*r.made), r.rootCall(*r.made)
	victim.Customer = r.table.Customer("acme")

	var doc strictjson.Doc
	one := `{"request":{"subject":{"type":"user","id":"u"},"action":{"name":"read"},"resource":{"type":"doc","id":"d"},"context":{"n":N}},"expect":{"decision":true}}`
	var list []string
	for i := range policies.MaxCases {
		list = append(list, strings.Replace(one, "N", fmt.Sprint(1000+i), 1))
	}
	if err := doc.Parse("[" + strings.Join(list, ",") + "]"); err != nil {
		t.Fatal(err)
	}
	cases, err := policies.ParseCases(doc.Root(), "", morning)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	running := make(chan struct{}, 8)
	for range cap(running) {
		wg.Go(func() {
			running <- struct{}{}
			if _, err := s.Test(ctx, attacker, "heavy", heavyDocument(), cases); err == nil {
				t.Error("the cases are not heavy enough to test anything")
			} else if latchkey.KindOf(err) != latchkey.Unavailable {
				t.Error(err)
			}
		})
	}
	defer wg.Wait()
	defer cancel()
	for range cap(running) {
		<-running
	}
	for i := range 3 {
		deadline, stop := context.WithTimeout(t.Context(), 10*time.Second) // as the API has it
		_, _, err := s.Put(deadline, victim, document(t, "mine", fmt.Sprintf("%d == 1", i)), authz.Conditions{})
		stop()
		if err != nil {
			t.Fatalf("publishing beside them: %v", err)
		}
	}
}

// swapping is a source of properties that a change of a set comes in between
// with, after the decision has begun.
type swapping struct{ change func() }

func (*swapping) FindSubject(*authz.Customer, string, string) (*policies.Properties, error) {
	return nil, nil
}
func (s *swapping) FindResource(*authz.Customer, string, string) (*policies.Properties, error) {
	s.change()
	return nil, nil
}

// An explanation is of the decision that it comes with, whatever is put in
// force meanwhile.
func TestExplain_IsOfWhatDecided(t *testing.T) {
	table := &cache.Table{}
	var c *authz.Customer
	put := func(values ...string) {
		_ = c.Policies.Update(func(s *policies.Snapshot) (*policies.Snapshot, error) {
			return s.Edit(s.Revision+1, morning, func(d *policies.Draft) {
				d.PutSet("guests", policies.NewSet(scopes.EntityString, s.Revision+1, slices.Values(values)))
			}), nil
		})
	}
	p := authz.NewPDP(authz.PDPConfig{Keys: table, MaxStaleness: 30 * time.Second, Concurrency: 1,
		Properties: &swapping{func() { put("somebody else") }}})
	c = inForce(t, table, "c", compileDocument(t, document(t, "p", `in_set('guests', subject.id) && !has(resource.properties.closed)`)))
	put("u")
	var d authz.Decision
	e, err := p.Explain(&d, &authz.Caller{Kind: authz.RootCredential, Customer: c}, numbered(t, 0), morning)
	if err != nil || !d.Permit || len(e.Rules) != 1 || !e.Rules[0].Matched {
		t.Errorf("%v: permit %t, but %+v", err, d.Permit, e.Rules)
	}
}

// BenchmarkLightBesideHeavy measures a light policy's decisions alone and
// beside another customer's, which is asked by eight at once without pause.
func BenchmarkLightBesideHeavy(b *testing.B) {
	table := &cache.Table{}
	p := authz.NewPDP(authz.PDPConfig{Keys: table, MaxStaleness: 30 * time.Second, Concurrency: 1})
	heavy := inForce(b, table, "heavy", compileDocument(b, heavyDocument()))
	light := inForce(b, table, "light", compileDocument(b, document(b, "light", "action.name == 'read'")))
	p99 := func() float64 {
		took := make([]time.Duration, 20_000)
		var d authz.Decision
		q := numbered(b, 0)
		for i := range took {
			began := time.Now()
			if err := p.Decide(&d, light, q, morning); err != nil || !d.Permit {
				b.Fatalf("%v, %+v", err, d)
			}
			took[i] = time.Since(began)
		}
		slices.Sort(took)
		return float64(took[len(took)*99/100].Nanoseconds())
	}
	for b.Loop() {
		alone := p99()
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				var d authz.Decision
				for n := i; ; n += 8 {
					select {
					case <-stop:
						return
					default:
						_ = p.Decide(&d, heavy, numbered(b, n), morning) // the errors are in d
					}
				}
			})
		}
		beside := p99()
		close(stop)
		wg.Wait()
		b.ReportMetric(alone, "p99-alone-ns")
		b.ReportMetric(beside, "p99-beside-ns")
		b.ReportMetric(beside/alone, "times")
	}
}
