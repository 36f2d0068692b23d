package authz_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
)

const nodesAt latchkey.Instant = 1_000_000_000

// The attack: a sidecar's key calls itself by ever new names, to fill the
// memory or to push the real nodes out of sight.
func TestNodes_AreBounded(t *testing.T) {
	n := authz.NewNodes(nil, false, 30*time.Second)
	n.Seen(authz.Node{Customer: "c", ID: "real", Epoch: 1, Seq: 3, SeenAt: nodesAt})
	for i := range 5000 {
		n.Seen(authz.Node{Customer: "c", ID: "made-up-" + strconv.Itoa(i), Epoch: 1, Seq: 9, SeenAt: nodesAt + 1})
	}
	n.Seen(authz.Node{Customer: "d", ID: "theirs", Epoch: 1, Seq: 9, SeenAt: nodesAt})
	if got := len(n.List("c")); got != 1000 || n.Forgotten() != 4001 || len(n.List("d")) != 1 || len(n.List("")) != 1001 {
		t.Errorf("%d nodes, %d forgotten", got, n.Forgotten())
	}
	if _, pending := n.Standing("c", 1, 9, nodesAt+2); len(pending) != 1 || pending[0].ID != "real" {
		t.Errorf("pending: %+v", pending)
	}
	// Those that are gone make room.
	late := nodesAt.Add(31 * time.Second)
	n.Seen(authz.Node{Customer: "c", ID: "new", Epoch: 1, Seq: 9, SeenAt: late})
	if applied, pending := n.Standing("c", 1, 9, late); len(applied) != 1 || applied[0].ID != "new" || len(pending) != 0 {
		t.Errorf("applied %+v, pending %+v", applied, pending)
	}
	if _, err := n.RunOnce(context.Background(), late.Add(2*time.Hour)); err != nil || len(n.List("")) != 0 {
		t.Errorf("%v, %d are remembered", err, len(n.List("")))
	}
}

// The last word of a node counts: one that began anew behind where it was has
// not applied what it once had.
func TestNodes_TheLastWordCounts(t *testing.T) {
	n := authz.NewNodes(nil, false, 30*time.Second)
	changed := n.Changed("c")
	n.Seen(authz.Node{Customer: "c", ID: "n", Epoch: 1, Seq: 9, SeenAt: nodesAt})
	select {
	case <-changed:
	default:
		t.Error("who waits was not woken")
	}
	changed = n.Changed("c")
	n.Seen(authz.Node{Customer: "c", ID: "n", Epoch: 1, Seq: 9, SeenAt: nodesAt + 1})
	select {
	case <-changed:
		t.Error("who waits was woken by nothing new")
	default:
	}
	n.Seen(authz.Node{Customer: "c", ID: "n", Epoch: 1, Seq: 4, SeenAt: nodesAt + 2})
	if applied, pending := n.Standing("c", 1, 5, nodesAt+3); len(applied) != 0 || len(pending) != 1 {
		t.Errorf("applied %+v, pending %+v", applied, pending)
	}
	n.Seen(authz.Node{Customer: "c", ID: "n", Epoch: 2, Seq: 40, SeenAt: nodesAt + 4})
	if applied, _ := n.Standing("c", 1, 5, nodesAt+5); len(applied) != 0 {
		t.Errorf("applied in another epoch: %+v", applied)
	}
}

// nodeShelf is a store that may fail.
type nodeShelf struct {
	written []authz.Node
	fails   error
}

func (s *nodeShelf) WriteNodes(_ context.Context, nodes []authz.Node) error {
	if s.fails == nil {
		s.written = append(s.written, nodes...)
	}
	return s.fails
}

func (s *nodeShelf) Nodes(_ context.Context, customer string, _ latchkey.Instant) (list []authz.Node, err error) {
	for _, n := range s.written {
		if customer == "" || n.Customer == customer {
			list = append(list, n)
		}
	}
	return list, s.fails
}

func TestNodes_AreSharedTogetherAndNotForNothing(t *testing.T) {
	shelf := &nodeShelf{}
	n := authz.NewNodes(shelf, true, 30*time.Second)
	urgent := func() bool {
		select {
		case <-n.Urgent():
			return true
		default:
			return false
		}
	}
	run := func(at latchkey.Instant, want int) {
		t.Helper()
		if got, err := n.RunOnce(context.Background(), at); err != nil || got != want {
			t.Errorf("%d were shared, want %d: %v", got, want, err)
		}
	}
	say := func(seq int64, at latchkey.Instant) {
		n.Seen(authz.Node{Customer: "c", ID: "n", Epoch: 1, Seq: seq, SeenAt: at})
	}
	for seq := range int64(100) {
		say(seq, nodesAt)
	}
	if !urgent() || urgent() {
		t.Error("want it told once that there is something to share")
	}
	run(nodesAt, 1)
	say(99, nodesAt.Add(time.Second)) // seen, and no further
	if urgent() {
		t.Error("nothing is urgent")
	}
	run(nodesAt, 0)
	say(99, nodesAt.Add(11*time.Second)) // or others would take it for gone
	run(nodesAt, 1)

	shelf.fails = errors.New("down")
	say(100, nodesAt.Add(12*time.Second))
	if _, err := n.RunOnce(context.Background(), nodesAt); err == nil {
		t.Error("want the store's error")
	}
	shelf.fails = nil
	run(nodesAt, 1) // kept for the next time

	// What others wrote is taken in where it is later.
	shelf.written = []authz.Node{{Customer: "c", ID: "n", Epoch: 1, Seq: 7, SeenAt: nodesAt}, {Customer: "c", ID: "m", Epoch: 1, Seq: 8, SeenAt: nodesAt.Add(12 * time.Second)}}
	if err := n.Read(context.Background(), "c", nodesAt.Add(12*time.Second)); err != nil {
		t.Fatal(err)
	}
	if applied, pending := n.Standing("c", 1, 100, nodesAt.Add(13*time.Second)); len(applied) != 1 || applied[0].ID != "n" || len(pending) != 1 || pending[0].Seq != 8 {
		t.Errorf("applied %+v, pending %+v", applied, pending)
	}
	run(nodesAt, 0) // what came from there does not go back
}

func TestNodes_HaveNamesThatCanBeShown(t *testing.T) {
	for name, ok := range map[string]bool{"a": true, "pod-1.ns:8080_x": true, "": false, "a b": false, "ä": false, "a\n": false, "a/b": false} {
		if authz.ValidNode(name) != ok {
			t.Errorf("%q: want %v", name, ok)
		}
	}
}
