package scopes_test

import (
	"encoding/json"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/scopes"
)

func withFilter(pattern string) string {
	quoted, _ := json.Marshal(pattern) // a string always marshals
	return customer("sets", `[{"f": "*", "p": 4, "r": {"filter": `+string(quoted)+`}}]`)
}

func TestRegexp_RefusesWhatIsTooMuchOrUnclear(t *testing.T) {
	tests := []struct{ name, pattern, code string }{
		{"no regex", `(`, "invalid_regex"},
		{"backreference", `(a)\\1`, "invalid_regex"},
		{"lookahead", `(?=a)`, "invalid_regex"},
		{"513 bytes", strings.Repeat("a", 513), "regex_too_long"},
		{"513 bytes in fewer characters", strings.Repeat("é", 257), "regex_too_long"},

		{"m", `(?m)^a$`, "regex_flag"},
		{"m without an anchor", `(?m)a`, "regex_flag"},
		{"m cleared", `(?-m)a`, "regex_flag"},
		{"m of a group", `(?m:^a$)`, "regex_flag"},
		{"m among others", `(?im-s:a)`, "regex_flag"},
		{"m cleared among others", `(?i-ms)a`, "regex_flag"},
		{"m in the middle", `ab(?m)^c`, "regex_flag"},
		{"m after a class", `[]a-](?m)^`, "regex_flag"},
		{"m after a negated class", `[^]](?m)$`, "regex_flag"},
		{"m after a class with an escape", `[\\]](?m)$`, "regex_flag"},
		{"m after a named class", `[[:alpha:]](?m)$`, "regex_flag"},
		{"m after a class with a bracket", `[[](?m)$`, "regex_flag"},
		{"m after a class with a bracket and a colon", `[[:x](?m)$`, "regex_flag"},
		{"m after a quotation", `\\Q[\\E(?m)$`, "regex_flag"},
		{"m after an empty quotation", `\\Q\\E(?m)$`, "regex_flag"},
		{"m after an escaped backslash", `\\\\Q(?m)$`, "regex_flag"},
		{"m in a nested group", `(a(?m:$))`, "regex_flag"},

		{"nested repetitions", `((a{100}){100}){100}`, "invalid_regex regex_too_complex"},
		{"nested repetitions of classes", `(([a-z]{30}){30}){30}`, "invalid_regex regex_too_complex"},
		{"repetitions side by side", strings.Repeat(`a{1000}`, 70), "invalid_regex regex_too_complex"},
		{"open repetitions", `((a{30,}){30,}){30,}`, "invalid_regex regex_too_complex"},
		{"optional repetitions", `((a?){0,30}){0,30}`, "invalid_regex regex_too_complex"},
		{"just too much", `a{1000}`, "regex_too_complex"},
		{"folded literals", `(?i)((abcdefgh){10}){13}`, "regex_too_complex"},
		{"folded ranges", `(?i)[` + strings.Repeat("B-\U0001e942", 80) + `]`, "regex_too_complex"},
		{"folded ranges by number", `(?s-U)(?si)` + strings.Repeat(`[^B-\\x{1e942}]`, 30), "regex_too_complex"},
		{"alternatives", `(` + strings.Repeat("ab|cd|", 40) + `e){10}`, "regex_too_complex"},
	}
	p := scopes.NewParser(8)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pattern := strings.ReplaceAll(tt.pattern, `\\`, `\`)
			_, err := p.Parse(withFilter(pattern))
			got := faults(t, err)
			if len(got) != 1 || !slices.Contains(strings.Fields(tt.code), strings.TrimSuffix(got[0], " /customer/sets/0/r/filter")) {
				t.Errorf("%s: %v, want %s", pattern, got, tt.code)
			}
		})
	}
}

// Refusing costs next to nothing; building the automaton of a monster would
// take a million instructions.
func TestRegexp_RefusesAMonsterWithoutBuildingIt(t *testing.T) {
	p := scopes.NewParser(8)
	for _, monster := range []string{`((a{100}){100}){100}`, `((a{30}){30}){1}{1}`, `(((a?){0,9}){0,9}){0,9}`, `(a{1000}|b{1000})`, `(?i)[` + strings.Repeat(`B-\x{1e942}`, 40) + `]`} {
		text := withFilter(monster)
		allocs := testing.AllocsPerRun(3, func() {
			if _, err := p.Parse(text); err == nil {
				t.Errorf("%s is accepted", monster)
			}
		})
		if allocs > 10_000 {
			t.Errorf("%s: %.0f allocations to refuse", monster, allocs)
		}
	}
}

func TestRegexp_AcceptsWhatOnlyLooksLikeTheFlag(t *testing.T) {
	for _, pattern := range []string{
		`[(?m)]`, `[^(?m)]`, `[](?m)]`, `[^](?m)]`, `[\](?m)]`, `[[:alpha:](?m)]`, `\(?m\)`, `\(?m)`[:4] + `\)`, `\Q(?m)\E`, `\Q(?m)`, `\Q\Q(?m)\E`,
		`(?P<m>a)`, `(?P<im>a)`, `(?i)a`, `(?s:.)`, `(?U)a+`, `(?:m)`, `(m)?`, `\[(?:m)\]`, `a|m`, `(?i-s:m)`,
	} {
		if _, err := scopes.NewParser(1).Parse(withFilter(pattern)); err != nil {
			t.Errorf("%s: %v", pattern, err)
		}
	}
}

func TestRegexp_AcceptsTheLimitsThemselves(t *testing.T) {
	for _, pattern := range []string{strings.Repeat("a", 512), `a{990}`, `(?i)[à-ÿĀ-žа-яα-ω]`, `(?i)^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`, `[` + strings.Repeat("à-ÿ", 80) + `]`, strings.Repeat("é", 256)} {
		if _, err := scopes.NewParser(1).Parse(withFilter(pattern)); err != nil {
			t.Errorf("%.20s: %v", pattern, err)
		}
	}
}

func TestRegexp_DollarIsTheEndOfTheTextAndSearchIsUnanchored(t *testing.T) {
	write := func(pattern, value string) bool {
		set := mustParse(t, withFilter(pattern))
		return set.Permits(scopes.Question{Type: "sets", ID: "x", Action: "update", Values: &scopes.Values{EntityType: "string", Added: []scopes.Value{{Text: value}}}})
	}
	for _, tt := range []struct {
		pattern, value string
		want           bool
	}{
		{`^abc$`, "abc", true},
		{`^abc$`, "abc\n", false},
		{`^abc$`, "abc\nabc", false},
		{`^abc$`, "x\nabc", false},
		{`b`, "abc", true},
		{`a.c`, "a\nc", false},
		{`(?s)a.c`, "a\nc", true},
		{`B`, "abc", false},
		{`(?i)B`, "abc", true},
		{`^$`, "", true},
		{`^.$`, "😀", true},
	} {
		if got := write(tt.pattern, tt.value); got != tt.want {
			t.Errorf("%s on %q = %v, want %v", tt.pattern, tt.value, got, tt.want)
		}
	}
}

// A full cache changes nothing but time.
func TestRegexps_AnswersTheSameWithASmallCache(t *testing.T) {
	p := scopes.NewParser(0)
	var sets []*scopes.Set
	for i := range 20 {
		set, err := p.Parse(withFilter("^" + strconv.Itoa(i) + "$"))
		if err != nil {
			t.Fatal(err)
		}
		sets = append(sets, set)
	}
	for range 2 {
		for i, set := range sets {
			for j := range sets {
				q := scopes.Question{Type: "sets", ID: "x", Action: "update", Values: &scopes.Values{EntityType: "uint", Added: []scopes.Value{{Text: strconv.Itoa(j)}}}}
				if got := set.Permits(q); got != (i == j) {
					t.Errorf("filter %d on %d = %v", i, j, got)
				}
			}
		}
	}
}

// checkAccepted holds what the rest relies on for every accepted regex.
func checkAccepted(t *testing.T, pattern string) {
	t.Helper()
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		t.Fatalf("%q is accepted: %v", pattern, err)
	}
	var walk func(*syntax.Regexp)
	walk = func(re *syntax.Regexp) {
		if re.Op == syntax.OpBeginLine || re.Op == syntax.OpEndLine {
			t.Errorf("%q is accepted and looks at lines", pattern)
		}
		for _, sub := range re.Sub {
			walk(sub)
		}
	}
	walk(re)
	prog, err := syntax.Compile(re.Simplify())
	if err != nil || len(prog.Inst) > scopes.MaxInstructions || len(pattern) > scopes.MaxRegexp {
		t.Errorf("%q is accepted: %d bytes, %d instructions, %v", pattern, len(pattern), len(prog.Inst), err)
	}
}
