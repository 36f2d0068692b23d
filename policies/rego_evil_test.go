package policies_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/policies"
)

// doubling is n lines, each from the one before.
func doubling(n int, line string) string {
	var b strings.Builder
	for i := 1; i <= n; i++ {
		fmt.Fprintln(&b, strings.NewReplacer("X", fmt.Sprint("x", i), "W", fmt.Sprint("x", i-1)).Replace(line))
	}
	return b.String()
}

// Policies that turn a few bytes into gigabytes or minutes end soon, by an
// error, and take little memory.
func TestRego_EvilPoliciesEndSoonAndSmall(t *testing.T) {
	const start = "x0 := input.context.v\n"
	tests := map[string]string{
		"arrays that double":       start + doubling(60, "X := [W, W]") + doubled("y") + "allow if x60 == y60",
		"objects that double":      start + doubling(60, `X := {"a": W, "b": W}`) + "allow if json.marshal(x60) == \"\"",
		"sets that double":         start + doubling(60, `X := {[W, 1], [W, 2]}`) + "allow if count(x60) == 3",
		"locals that double":       "allow if {\nx0 := input.context.v\n" + doubling(60, "X := [W, W]") + "x60 == [1, x60]\n}",
		"comprehensions":           start + doubling(60, "X := [W | some _ in [1, 2]]") + "allow if sprintf(\"%v\", [x60]) == \"\"",
		"functions that double":    "f(a) := [a, a]\n" + start + doubling(60, "X := f(W)") + "allow if x60[0] == x59[1]",
		"heads that double":        start + doubling(60, "X contains [W, i] if some i in [1, 2]") + "allow if x60 == {1}",
		"object rules that double": start + doubling(60, "X[i] := W if some i in [1, 2]") + "allow if json.marshal(x60) == \"\"",
		"strings that double":      "x0 := \"0123456789\"\n" + doubling(60, `X := concat("", [W, W])`) + "allow if x60 == \"\"",
		"templates that double":    "x0 := \"0123456789\"\n" + doubling(60, `X := $"{W}{W}"`) + "allow if x60 == \"\"",
		"sprintf that doubles":     "x0 := \"0123456789\"\n" + doubling(60, `X := sprintf("%s%s", [W, W])`) + "allow if x60 == \"\"",
		"array.concat":             "x0 := [1, 2]\n" + doubling(60, `X := array.concat(W, W)`) + "allow if count(x60) == 1",
		"object.union":             start + doubling(60, `X := object.union({"a": W}, {"b": W})`) + "allow if x60 == {}",
		"union":                    "x0 := {1}\n" + doubling(60, `X := W | {[W, 1], [W, 2]}`) + "allow if count(x60) == 1",
		"replace":                  "x0 := \"aaaaaaaa\"\n" + doubling(60, `X := replace(W, "a", "aaaaaaaa")`) + "allow if x60 == \"\"",
		"replace the empty":        "x0 := \"aaaaaaaa\"\n" + doubling(60, `X := replace(W, "", W)`) + "allow if x60 == \"\"",
		"replace_n":                "x0 := \"aaaaaaaa\"\n" + doubling(60, `X := strings.replace_n({"a": W}, W)`) + "allow if x60 == \"\"",
		"regex.replace":            "x0 := \"aaaaaaaa\"\n" + doubling(60, `X := regex.replace(W, "a", "$0$0$0$0")`) + "allow if x60 == \"\"",
		"json.marshal":             "x0 := \"\\\"\"\n" + doubling(60, `X := json.marshal([W, W])`) + "allow if x60 == \"\"",
		"urlquery.encode":          "x0 := \"%%%%%%%%\"\n" + doubling(60, `X := urlquery.encode(W)`) + "allow if x60 == \"\"",
		"base64":                   "x0 := \"%%%%%%%%\"\n" + doubling(60, `X := base64.encode(W)`) + "allow if x60 == \"\"",
		"sprintf width":            `allow if sprintf("%1000000000d", [1]) == ""`,
		"sprintf star":             `allow if sprintf("%*d", [1000000000, 1]) == ""`,
		"sprintf precision":        `allow if sprintf("%.1000000000f", [1.5]) == ""`,
		"sprintf index":            `allow if sprintf("%[1]*[2]d", [1000000000, 1]) == ""`,
		"squares":                  "x0 := 99999999999\n" + doubling(60, `X := W * W`) + "allow if x60 == 1",
		"floor of a great number":  `allow if floor(to_number(input.context.big)) == 1`,
		"sum of great numbers":     `allow if sum([to_number("1e-999999999"), 1]) == 1`,
		"unmarshalled number":      `allow if json.unmarshal("1e999999") + 1 == 1`,
		"cidr_expand 6":            `allow if count(net.cidr_expand("::/64")) == 1`,
		"cidr_expand 4":            `allow if count(net.cidr_expand("10.0.0.0/8")) == 1`,
		"reachable":                "edges := {sprintf(\"%d\", [i]): [sprintf(\"%d\", [i + 1]), sprintf(\"%d%s\", [i + 1, \"b\"])] | some i, _ in input.context.list}\n" + `allow if count(graph.reachable(edges, ["0"])) == 0`,
		"nested loops":             "allow if {\n" + strings.Repeat("some _ in input.context.list\n", 12) + "1 == 2\n}",
		"nested walks":             "allow if {\nwalk(input, [a, b])\nwalk(input, [c, d])\nwalk(input, [e, f])\nwalk(input, [g, h])\ncount([a, b, c, d, e, f, g, h]) == 1\n}",
		"regex":                    `allow if regex.match("(x+x+){200,400}y", input.context.long)`,
		"regex too long":           `allow if regex.match("((a{100}){100}){100}", "a")`,
		"indexof":                  "x0 := \"aé\"\n" + doubling(16, `X := concat("", [W, W])`) + `allow if indexof(x16, concat("", [x15, "b"])) == 1`,
		"calls that go deep":       "f0(a) := a + 1\n" + functions(40) + "allow if f40(1) == 1",
		"split":                    "x0 := \"aaaaaaaa\"\n" + doubling(18, `X := concat("", [W, W])`) + `allow if count(split(x18, "")) == 1`,
		"with":                     "y0 := input\n" + withs(60) + "allow if y60 == {}",
	}
	for name, rego := range tests {
		t.Run(name, func(t *testing.T) {
			p := compileRego(t, rego)
			in := asked()
			in.Context = parseValue(t, `{"v": 1, "big": "1e300", "list": [`+strings.Repeat("1,", 300)+`1], "long": "`+strings.Repeat("x", 20000)+`"}`)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			result, err := p.Evaluate(&policies.Snapshot{}, in)
			took := time.Since(began)
			runtime.ReadMemStats(&after)
			t.Log(took, (after.TotalAlloc-before.TotalAlloc)>>20, "MiB", err)
			if _, ok := errors.AsType[*policies.EvaluationError](err); !ok || result.Permit {
				t.Errorf("result %+v, error %v, want a failure", result, err)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 512<<20 {
				t.Errorf("it took %d MiB", grown>>20)
			}
			if took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// doubled is another such value of its own.
func doubled(name string) string {
	return name + "0 := input.context.v\n" + strings.ReplaceAll(doubling(60, "X := [W, W]"), "x", name)
}

func functions(n int) string {
	var b strings.Builder
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, "f%d(a) := c if {\n\tb := f%d(a)\n\tc := f%d(b + 1)\n}\n", i, i-1, i-1)
	}
	return b.String()
}

func withs(n int) string {
	var b strings.Builder
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, "y%d := v if v := y%d with input.a as input\n", i, i-1)
	}
	return b.String()
}

func TestRego_ADeadlineEndsAnEvaluation(t *testing.T) {
	defer policies.SetRegoTime(time.Millisecond)()
	p := compileRego(t, "allow if {\n"+strings.Repeat("some _ in input.context.list\n", 12)+"1 == 2\n}")
	in := asked()
	in.Context = parseValue(t, `{"list": [`+strings.Repeat("1,", 300)+`1]}`)
	wantFailure(t, p, &policies.Snapshot{}, in, policies.Deadline)
}

// lines are n lines, with I their number and J the next one.
func lines(n int, line string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintln(&b, strings.NewReplacer("I", fmt.Sprint(i), "J", fmt.Sprint(i+1)).Replace(line))
	}
	return b.String()
}

// The attack: a small document whose statements stand in the wrong order takes
// the compiler, which nothing can stop, minutes.
func TestRego_StatementsOutOfOrderAreNotCompiledForMinutes(t *testing.T) {
	for name, rego := range map[string]string{
		"unifications":   "allow if {\n" + lines(2500, "xI = xJ") + "x2500 = 1\n}",
		"calls":          "allow if {\n" + lines(1200, "xI = xJ + 1") + "x1200 = 1\n}",
		"comprehensions": "allow if {\n" + lines(800, "yI = [z | z = yJ]") + "y800 = 1\n}",
		"bodies within": "allow if {\n" + lines(25, "yI = [z |\n"+strings.NewReplacer("I", "A", "J", "B").Replace(lines(25, "aI = aJ"))+
			"a25 = yJ\nz = a0]") + "y25 = 1\n}",
		"in a function": "allow if f(1)\nf(a) if {\n" + lines(2500, "xI = xJ") + "x2500 = a\n}",
		"in an else":    "allow if false\nelse if {\n" + lines(2500, "xI = xJ") + "x2500 = 1\n}",
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			_, err := policies.Compile(&policies.Document{Name: "p", Language: policies.Rego, Rego: "package policies.p\n" + rego}, 1)
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %v: %v", took, err)
			}
			if name != "bodies within" && (err == nil || !strings.Contains(err.Error(), "too_complex")) {
				t.Errorf("got %v", err)
			}
		})
	}
	for name, rego := range map[string]string{
		"a long body":      "allow if {\n" + lines(100, `input.context.mI == "J"`) + "}",
		"locals":           "allow if {\nx0 := 1\n" + lines(100, "xJ := xI + 1") + "x100 == 1\n}",
		"many elses":       "allow if input.context.a\n" + lines(300, "else := false if input.context.mI == J"),
		"many rules":       lines(900, `allow if input.context.mI == {x | some x in ["J"]}`),
		"nested, in order": "allow if {\n" + lines(10, `some aI in input.context.l; every b in [c | some c in aI; c.x == I] { b.y == J; b.z != I }`) + "}",
	} {
		if _, err := policies.Compile(&policies.Document{Name: "p", Language: policies.Rego, Rego: "package policies.p\n" + rego}, 1); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
