package cache_test

import (
	"fmt"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/policies"
)

func properties(t testing.TB, text string) *policies.Properties {
	t.Helper()
	p, err := policies.NewProperties(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Whatever is set and removed, in whatever order, an entity has what was set
// last, and nothing of another's: not of the other kind's, customer's or type's.
func TestDirectory_HoldsWhatWasSetLast(t *testing.T) {
	all := make([]*policies.Properties, 3)
	for i := range all {
		all[i] = properties(t, fmt.Sprintf(`{"n":%d}`, i))
	}
	rapid.Check(t, func(t *rapid.T) {
		type name struct {
			resource          bool
			customer, typ, id string
		}
		d, want := cache.NewDirectory(), map[name]*policies.Properties{}
		some := rapid.SampledFrom([]string{"a", "b", "ab", ""})
		names := rapid.Custom(func(t *rapid.T) name {
			return name{rapid.Bool().Draw(t, "resource"), some.Draw(t, "customer"), some.Draw(t, "type"), some.Draw(t, "id")}
		})
		for range rapid.IntRange(0, 60).Draw(t, "changes") {
			n := names.Draw(t, "name")
			p := rapid.SampledFrom(append(all, nil)).Draw(t, "properties")
			set := d.SetSubject
			if n.resource {
				set = d.SetResource
			}
			set(n.customer, authz.EntityRef{Type: n.typ, ID: n.id}, p)
			if want[n] = p; p == nil {
				delete(want, n)
			}
		}
		n := names.Draw(t, "asked")
		got := d.Subject(n.customer, n.typ, n.id)
		if n.resource {
			got = d.Resource(n.customer, n.typ, n.id)
		}
		if got != want[n] || d.Len() != len(want) {
			t.Errorf("%+v: got %v, want %v; %d of %d", n, got, want[n], d.Len(), len(want))
		}
	})
}

// Who reads while others write gets one of the values that were set, whole.
func TestDirectory_ReadersSeeWholeValues(t *testing.T) {
	d := cache.NewDirectory()
	ref := authz.EntityRef{Type: "user", ID: "alice"}
	set := []*policies.Properties{properties(t, `{"a":1,"b":1}`), properties(t, `{"a":2,"b":2}`)}
	d.SetSubject("c", ref, set[0])
	var wg sync.WaitGroup
	for _, p := range set {
		wg.Go(func() {
			for range 1000 {
				d.SetSubject("c", ref, p)
			}
		})
		wg.Go(func() {
			for range 1000 {
				v := d.Subject("c", "user", "alice").Value()
				if v.Get("a").Raw() != v.Get("b").Raw() {
					t.Errorf("torn: %s", v.Raw())
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkDirectory_Subject(b *testing.B) {
	d := cache.NewDirectory()
	for i := range 10_000 {
		d.SetSubject("default", authz.EntityRef{Type: "user", ID: fmt.Sprint("user-", i)}, properties(b, `{"n":1}`))
	}
	for b.Loop() {
		if d.Subject("default", "user", "user-77") == nil {
			b.Fatal("it is gone")
		}
	}
	b.ReportAllocs()
}
