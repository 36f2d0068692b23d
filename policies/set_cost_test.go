package policies_test

import (
	"runtime"
	"strconv"
	"testing"

	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

// A set with one other value shares almost everything with the one before:
// what it costs does not grow with the set.
func TestSet_WithOneOtherValueCostsLittle(t *testing.T) {
	spell := map[scopes.EntityType]func(int) string{
		scopes.EntityString: func(i int) string { return "user-" + strconv.Itoa(i) },
		scopes.EntityUint:   strconv.Itoa,
		scopes.EntityIP: func(i int) string {
			return "10." + strconv.Itoa(i>>16&255) + "." + strconv.Itoa(i>>8&255) + "." + strconv.Itoa(i&255)
		},
	}
	const size = 200_000
	for entityType, value := range spell {
		set := policies.NewSet(entityType, 1, func(yield func(string) bool) {
			for i := range size {
				if !yield(value(i)) {
					return
				}
			}
		})
		const changes = 200
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i := range changes {
			if next := set.With(2, []string{value(size + i)}, []string{value(i)}); next.Len() != size {
				t.Fatalf("%d values", next.Len())
			}
		}
		runtime.ReadMemStats(&after)
		if bytes := (after.TotalAlloc - before.TotalAlloc) / changes; bytes > 64<<10 {
			t.Errorf("%s: %d bytes a change", entityType, bytes)
		}
	}
}
