package policies_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/policies"
)

// An author, or whoever sends the question, tries to spend more time or memory
// than a decision may take. Each attempt is refused when it is published, or
// fails or answers within moments.
func TestCEL_NoRuleTakesTimeOrMemoryWithoutBound(t *testing.T) {
	chain := func(start, step string, n int) string { return start + strings.Repeat(step, n) }
	share := chain(`[[1]]`, `.map(x, [x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x])`, 7)
	shareMaps := chain(`[{"a": 1}]`, `.map(x, {"a": x, "b": x, "c": x, "d": x, "e": x, "f": x, "g": x, "h": x, "i": x})`, 7)
	shareOptionals := chain(`[optional.of([1])]`, `.map(x, optional.of([x, x, x, x, x, x, x, x, x, x, x, x, x, x]))`, 7)
	number := strings.Builder{}
	for i := range 60_000 {
		if i > 0 {
			number.WriteByte(',')
		}
		fmt.Fprintf(&number, "%d", i)
	}
	var members strings.Builder
	for i := range 15_000 {
		if i > 0 {
			members.WriteByte(',')
		}
		fmt.Fprintf(&members, `"k%d":%d`, i, i)
	}
	in := celQuestion(t)
	in.Resource.Given = value(t, `{"long":"`+strings.Repeat("a", 250_000)+`","half":"`+strings.Repeat("a", 125_000)+`b"}`)
	in.Context = value(t, `{"list":[`+number.String()+`],"object":{`+members.String()+`},"pattern":"(x+x+)+y|((a{0,30}){0,30}){0,1}z"}`)
	tests := []struct{ name, rule string }{
		{"texts that double", chain(`[resource.properties.half]`, `.map(x, x + x + x + x + x + x + x + x + x + x)`, 8) + `.size() == 1`},
		{"a long text that doubles", chain(`["aaaaaaaaaaaaaaaa"]`, `.map(x, x + x + x + x + x + x + x + x + x + x)`, 8) + `.size() == 2`},
		{"lists that double", chain(`[[1]]`, `.map(x, x + x + x + x + x + x + x + x + x + x + x + x)`, 8) + `[0].size() == 2`},
		{"doubled lists that are searched", `7 in ` + chain(`[[1]]`, `.map(x, x + x + x + x + x + x + x + x + x + x + x + x)`, 8) + `[0]`},
		{"too many loops", chain(`[[1]]`, `.map(x, [x, x])`, 60) + ` == []`},
		{"lists that share their parts, compared", share + ` == ` + share},
		{"maps that share their parts, compared", shareMaps + ` == ` + shareMaps},
		{"shared parts, in optionals", shareOptionals + ` == ` + shareOptionals},
		{"shared parts, flattened", share + `.flatten(100).size() == 1`},
		{"shared parts, written out", `"%s".format([` + share + `]) == ""`},
		{"shared parts, made distinct", share + `[0].distinct().size() == 1`},
		{"shared parts in sets", `sets.contains(` + share + `, ` + share + `)`},
		{"every pair of a long list", `sets.contains(context.list, context.list.map(x, x + 1))`},
		{"every pair of a long list, again", `context.list.distinct().size() == 1`},
		{"sets of the question's lists", `sets.equivalent(context.list, context.list)`},
		{"loops in loops", `context.list.exists(a, context.list.exists(b, context.list.exists(c, a + b + c == -1)))`},
		{"loops in loops of constants", `lists.range(99999).all(a, lists.range(99999).all(b, lists.range(99999).all(c, true)))`},
		{"a list of a thousand million", `lists.range(1000000000).size() == 1`},
		{"members by name", `context.object.all(k, context.object[k] >= 0)`},
		{"objects compared", `context.object == context.object && context.object == {"a": 1} || context.object != context.object`},
		{"elements by number", `lists.range(60000).all(i, context.list[i] == i)`},
		{"a text replaced into giants", `resource.properties.long.replace("a", resource.properties.long) == ""`},
		{"a text replaced between all letters", `resource.properties.long.replace("", resource.properties.long) == ""`},
		{"a regex replaced into giants", `regex.replace(resource.properties.long, "a", resource.properties.long) == ""`},
		{"joined by giants", `context.list.map(x, string(x)).join(resource.properties.long) == ""`},
		{"joined giants", `context.list.map(x, resource.properties.long).join() == ""`},
		{"a long text in a long text", `resource.properties.long.indexOf(resource.properties.half) == 1 || resource.properties.long.lastIndexOf(resource.properties.half) == 1`},
		{"split to letters", `resource.properties.long.split("").map(x, resource.properties.long.split("")).size() == 1`},
		{"a pattern that repeats repetitions", `resource.properties.long.matches("((a{0,30}){0,30}){0,1}z")`},
		{"nested quantifiers", `resource.properties.long.matches("(a+a+)+b")`},
		{"a pattern of the question", `resource.properties.long.matches(context.pattern)`},
		{"a long pattern of the question", `resource.properties.half.matches(resource.properties.long)`},
		{"patterns in a loop", `context.list.exists(x, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".matches("(a{0,30}){0,30}b" + string(x)))`},
		{"the length of a number", `"%.100000000f".format([1.0]) == ""`},
		{"sorted", `context.list.map(x, -x).sort() == []`},
		{"sorted by", `context.list.sortBy(x, -x) == []`},
		{"many comparisons of long texts", `context.list.exists(x, resource.properties.long == resource.properties.half + string(x))`},
		{"many comparisons of a long list", `context.list.exists(x, context.list == context.list.map(y, y + 1))`},
		{"reversed", `context.list.exists(x, resource.properties.long.reverse() == string(x))`},
		{"many addresses", `context.list.all(x, cidr("10.0.0.0/8").containsIP("10.0.0.1"))`},
		{"set members", `context.list.all(x, in_set("gone", x) || true)`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			outcome := "refused"
			p, err := policies.Compile(celDocument(tt.rule), 1)
			compiled := time.Since(start)
			if err == nil {
				var r policies.Result
				r, err = p.Evaluate(&policies.Snapshot{}, in)
				outcome = fmt.Sprint(r.Permit)
			}
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			t.Logf("%s in %v (compiled in %v), %d MiB: %v", outcome, took, compiled, (after.TotalAlloc-before.TotalAlloc)>>20, err)
			// Generous: the machine may be busy, and there may be a race detector.
			if took > 10*time.Second {
				t.Errorf("took %v", took)
			}
			if spent := after.TotalAlloc - before.TotalAlloc; spent > 256<<20 {
				t.Errorf("allocated %d MiB", spent>>20)
			}
		})
	}
}
