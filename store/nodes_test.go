package store_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/store"
)

func TestNodes_KeepTheLastWord(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		write := func(nodes ...authz.Node) {
			t.Helper()
			if err := db.WriteNodes(ctx, nodes); err != nil {
				t.Fatal(err)
			}
		}
		want := func(customer string, since time.Duration, want ...authz.Node) {
			t.Helper()
			got, err := db.Nodes(ctx, customer, start.Add(since))
			slices.SortFunc(got, func(a, b authz.Node) int { return int(a.SeenAt - b.SeenAt) })
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%+v, want %+v: %v", got, want, err)
			}
		}
		one := authz.Node{Customer: "c", ID: "1", Epoch: 1, Seq: 5, SeenAt: start}
		two := authz.Node{Customer: "c", ID: "2", Epoch: 1, Seq: 5, SeenAt: start + 1}
		other := authz.Node{Customer: "d", ID: "1", Epoch: 1, Seq: 9, SeenAt: start + 2}
		write(two, one, other)
		want("c", 0, one, two)
		want("", 0, one, two, other)
		want("", 2*time.Microsecond, other)
		one.Seq, one.Epoch, one.SeenAt = 4, 2, start+3 // lower, and later
		write(one)
		late := one
		late.Seq, late.SeenAt = 8, start+2 // higher, and earlier
		write(late)
		want("c", 0, two, one)
		if n, err := db.SweepNodes(ctx, start+3); err != nil || n != 2 {
			t.Errorf("%d were swept: %v", n, err)
		}
		want("", 0, one)
	})
}
