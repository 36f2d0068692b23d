package server

import (
	"fmt"
	"sync"
	"testing"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
)

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestRequestHub_WakesWhoWaitsForWhatChanged(t *testing.T) {
	t.Parallel()
	mine, other, elsewhere := awaitedRequest{"acme", "r1"}, awaitedRequest{"acme", "r2"}, awaitedRequest{"other", "r1"}
	for name, c := range map[string]struct {
		customer string
		touched  authz.Touched
		want     [3]bool // mine, other, elsewhere
	}{
		"it":                {"acme", authz.Touched{Refs: []feed.Ref{{Kind: feed.Request, ID: "r1"}}}, [3]bool{true, false, false}},
		"it among others":   {"acme", authz.Touched{Refs: []feed.Ref{{Kind: feed.Subject, ID: "x"}, {Kind: feed.Request, ID: "r1"}, {Kind: feed.Request, ID: "r1"}}}, [3]bool{true, false, false}},
		"both":              {"acme", authz.Touched{Refs: []feed.Ref{{Kind: feed.Request, ID: "r1"}, {Kind: feed.Request, ID: "r2"}}}, [3]bool{true, true, false}},
		"of that name":      {"other", authz.Touched{Refs: []feed.Ref{{Kind: feed.Request, ID: "r1"}}}, [3]bool{false, false, true}},
		"all of a customer": {"acme", authz.Touched{All: []feed.Kind{feed.Subject, feed.Request}}, [3]bool{true, true, false}},
		"all of a kind":     {"acme", authz.Touched{All: []feed.Kind{feed.Subject}}, [3]bool{}},
		"something else":    {"acme", authz.Touched{Refs: []feed.Ref{{Kind: feed.Subject, ID: "r1"}}}, [3]bool{}},
		"nobody's":          {"none", authz.Touched{Refs: []feed.Ref{{Kind: feed.Request, ID: "r1"}}}, [3]bool{}},
	} {
		h := newRequestHub()
		var changed [3]<-chan struct{}
		for i, of := range []awaitedRequest{mine, other, elsewhere} {
			h.join(of)
			changed[i] = h.changed(of)
		}
		h.observe(c.customer, c.touched)
		for i := range changed {
			if closed(changed[i]) != c.want[i] {
				t.Errorf("%s: %d woken is %v", name, i, !c.want[i])
			}
		}
		if closed(h.changed(mine)) {
			t.Errorf("%s: the next wait is over before it begins", name)
		}
	}
}

// Whoever waits may come and go while changes are taken in; nothing is left then.
func TestRequestHub_KeepsNothingOfWhatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	h := newRequestHub()
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			of := awaitedRequest{"acme", fmt.Sprint(i % 4)}
			for range 200 {
				h.join(of)
				changed := h.changed(of)
				h.observe("acme", authz.Touched{Refs: []feed.Ref{{Kind: feed.Request, ID: of.id}}})
				if !closed(changed) {
					t.Error("a change did not wake")
				}
				h.leave(of)
			}
		})
	}
	all.Wait()
	if len(h.awaited) != 0 || len(h.customer) != 0 {
		t.Errorf("left: %v, %v", h.awaited, h.customer)
	}
}
