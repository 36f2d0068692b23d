package scopes

import (
	"regexp"
	"regexp/syntax"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// MaxRegexp is the greatest length of a restriction's regex in bytes.
	MaxRegexp = 512
	// MaxInstructions is the greatest size of its compiled form.
	MaxInstructions = 1000
)

// Regexps holds compiled forms of restrictions, shared by all sets of one
// parser and bounded: a set keeps only the text, so that a million keys with a
// million different regexes cost a million texts and not a million automata.
// Safe for concurrent use.
type Regexps struct {
	compiled *lru.Cache[string, *regexp.Regexp]
}

// NewRegexps makes a cache of at most n compiled regexes; n below 1 is 1.
func NewRegexps(n int) *Regexps {
	compiled, err := lru.New[string, *regexp.Regexp](max(n, 1))
	if err != nil {
		panic(err) // only for a size below 1
	}
	return &Regexps{compiled: compiled}
}

// match is an unanchored search. A pattern that does not compile (it cannot
// have come from a parsed set) matches nothing.
func (r *Regexps) match(pattern, text string) bool {
	re, ok := r.compiled.Get(pattern)
	if !ok {
		var err error
		if re, err = regexp.Compile(pattern); err != nil {
			return false
		}
		r.compiled.Add(pattern, re)
	}
	return re.MatchString(text)
}

// checkRegexp returns what is wrong with a restriction's regex, "" if nothing.
// It measures the automaton before it is built: 512 bytes of nested
// repetitions can ask for a million instructions.
func checkRegexp(pattern string) (code, detail string) {
	switch {
	case pattern == "":
		return "empty_regex", "an empty regex restricts nothing; leave the member out"
	case len(pattern) > MaxRegexp:
		return "regex_too_long", "a regex is at most 512 bytes"
	}
	if foldFlag.MatchString(pattern) && len(wideRange.FindAllString(pattern, -1)) > maxWideFolds {
		return "regex_too_complex", "too many ranges beyond ASCII under the flag i"
	}
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return "invalid_regex", "not an RE2 regex: " + strings.TrimPrefix(err.Error(), "error parsing regexp: ")
	}
	if hasMultilineFlag(pattern) {
		return "regex_flag", "the inline flag m is not accepted: $ means the end of the text"
	}
	if estimate(parsed) > 4*MaxInstructions {
		return "regex_too_complex", "the regex compiles to more than 1000 instructions"
	}
	prog, err := syntax.Compile(parsed.Simplify())
	if err != nil || len(prog.Inst) > MaxInstructions {
		return "regex_too_complex", "the regex compiles to more than 1000 instructions"
	}
	return "", ""
}

// Under the flag i the regexp package walks a class range character by
// character, a hundred thousand of them where it ends far beyond ASCII: forty
// such ranges in 512 bytes cost a tenth of a second at each compilation. The
// two patterns look at the text alone and rather find too much.
var (
	foldFlag  = regexp.MustCompile(`\(\?[imsU-]*i`)
	wideRange = regexp.MustCompile(`-(\\x\{|[^\x00-\x7f])`)
)

const maxWideFolds = 4

// estimate bounds from above, roughly, how many instructions the simplified
// tree will have, saturating well past the limit.
func estimate(re *syntax.Regexp) int {
	const enough = 1 << 20
	n := 1
	switch re.Op { //nolint:exhaustive // the others are one instruction and what is below them
	case syntax.OpLiteral:
		n = len(re.Rune)
	case syntax.OpRepeat:
		times := re.Max
		if times < 0 {
			times = re.Min + 1
		}
		return min(enough, 1+max(times, 1)*(1+estimate(re.Sub[0])))
	}
	for _, sub := range re.Sub {
		n = min(enough, n+1+estimate(sub))
	}
	return n
}

// hasMultilineFlag finds m among the flags of a group, "(?m)", "(?im-s:…)",
// set or cleared. The pattern is known to parse.
func hasMultilineFlag(pattern string) bool {
	inClass := false
	for i := 0; i < len(pattern); i++ {
		switch {
		case strings.HasPrefix(pattern[i:], `\Q`) && !inClass:
			quoted, _, closed := strings.Cut(pattern[i+2:], `\E`)
			if !closed {
				return false
			}
			i += len(`\Q`) + len(quoted) + len(`\E`) - 1
		case pattern[i] == '\\':
			i++
		case inClass && strings.HasPrefix(pattern[i:], "[:"):
			if name, _, closed := strings.Cut(pattern[i+2:], ":]"); closed && strings.Trim(name, "^abcdefghijklmnopqrstuvwxyz") == "" {
				i += len("[:") + len(name) + len(":]") - 1
			}
		case pattern[i] == '[' && !inClass:
			inClass = true
			rest := strings.TrimPrefix(pattern[i+1:], "^")
			i = len(pattern) - len(rest) - 1
			if strings.HasPrefix(rest, "]") { // a first ] is literal
				i++
			}
		case pattern[i] == ']':
			inClass = false
		case !inClass && strings.HasPrefix(pattern[i:], "(?"):
			flags := pattern[i+2:]
			end := strings.IndexFunc(flags, func(r rune) bool { return !strings.ContainsRune("imsU-", r) })
			if end >= 0 && (flags[end] == ')' || flags[end] == ':') && strings.Contains(flags[:end], "m") {
				return true
			}
		}
	}
	return false
}
