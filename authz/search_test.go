package authz_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
)

// Page after page, each from where the one before ended, gives every permitted
// candidate once and in order, whatever the limit and however short the time.
func TestSearcher_PagesGiveEveryPermittedCandidateOnce(t *testing.T) {
	table := &cache.Table{}
	_, key := fill(t, table, 1, `{"doc":[{"f":"yes*","p":2}]}`)
	s := authz.NewSearcher(nil, authz.NewPDP(authz.PDPConfig{Keys: table, MaxStaleness: time.Second}))
	over, cancel := context.WithCancel(t.Context())
	cancel()
	rapid.Check(t, func(t *rapid.T) {
		permitted := rapid.SliceOfN(rapid.Bool(), 0, 40).Draw(t, "permitted")
		limit := rapid.IntRange(1, 10).Draw(t, "limit")
		ctx := t.Context()
		if rapid.Bool().Draw(t, "out of time") {
			ctx = over
		}
		var all, want []string
		for i, yes := range permitted {
			name := fmt.Sprint("no", i)
			if yes {
				name = fmt.Sprint("yes", i)
				want = append(want, name)
			}
			all = append(all, name)
		}
		var got []string
		for rest, pages := all, 0; ; pages++ {
			q := &authz.Request{
				Subject:  authz.Entity{Type: authz.SubjectAccessKey, ID: key.ID.String()},
				Action:   authz.Action{Name: "read"},
				Resource: authz.Entity{Type: "doc"},
			}
			found := s.Look(ctx, key.Customer, q, rest, limit, morning)
			if len(found.Names) > limit {
				t.Fatalf("%d results, the limit is %d", len(found.Names), limit)
			}
			got = append(got, found.Names...)
			if found.Next == "" {
				break
			}
			i := slices.Index(rest, found.Next)
			if i < 0 || pages > len(all) {
				t.Fatalf("the page ends at %q of %v", found.Next, rest)
			}
			rest = rest[i+1:]
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestSearcher_APageLooksAtAThousandCandidates(t *testing.T) {
	table := &cache.Table{}
	_, key := fill(t, table, 1, `{"doc":[{"f":"x","p":2}]}`)
	s := authz.NewSearcher(nil, authz.NewPDP(authz.PDPConfig{Keys: table, MaxStaleness: time.Second}))
	candidates := make([]string, authz.MaxCandidates+1)
	for i := range candidates {
		candidates[i] = fmt.Sprint(i)
	}
	q := &authz.Request{Subject: authz.Entity{Type: authz.SubjectAccessKey, ID: key.ID.String()}, Action: authz.Action{Name: "read"}, Resource: authz.Entity{Type: "doc"}}
	if found := s.Look(t.Context(), key.Customer, q, candidates, 1000, morning); found.Next != "999" || len(found.Names) != 0 {
		t.Errorf("%+v", found)
	}
	if found := s.Look(t.Context(), key.Customer, q, candidates[:1000], 1000, morning); found.Next != "" {
		t.Errorf("%+v", found)
	}
}
