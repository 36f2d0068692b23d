package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// isComing reports whether a command is on the list of those to come and not
// there.
func isComing(words ...string) bool {
	return slices.Equal(coming[strings.Join(words, " ")], []string{"*"}) && exec.Command(latchkey, append(slices.Clone(words), "--help")...).Run() != nil
}

// What the operator is told to run exists: every command of the page, with every
// flag, and every flag that its text names.
func TestOperations_NamesWhatTheProgramHas(t *testing.T) {
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	flags := map[string]bool{}
	take := func(words ...string) {
		for name := range describe(t, words...).flags {
			flags[name] = true
		}
	}
	take("serve")
	missing := false // a verb that might have the flag
	commands := regexp.MustCompile("(?m)(?:`|^)latchkey((?: [a-z][a-z-]*)+)((?: +--[^`#\\n]*)?)").FindAllStringSubmatch(string(text), -1)
	if len(commands) < 10 {
		t.Fatalf("%d commands: the page has changed its form", len(commands))
	}
	for _, c := range commands {
		words := strings.Fields(c[1])
		if isComing(words...) {
			t.Logf("latchkey%s is still to come: not checked", c[1])
			missing = true
			continue
		}
		take(words...)
		for _, m := range regexp.MustCompile(`--([a-z-]+)`).FindAllStringSubmatch(c[2], -1) {
			if _, known := describe(t, words...).flags[m[1]]; !known {
				t.Errorf("latchkey%s has no --%s", c[1], m[1])
			}
		}
	}
	for _, m := range regexp.MustCompile("`--([a-z-]+)").FindAllStringSubmatch(string(text), -1) {
		if !flags[m[1]] {
			if missing || slices.Contains(coming["serve"], m[1]) {
				t.Logf("--%s is still to come: not checked", m[1])
				continue
			}
			t.Errorf("no command of the page has --%s", m[1])
		}
	}
}

// Links of the page lead somewhere.
func TestOperations_LinksLeadSomewhere(t *testing.T) {
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	headings := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(text), -1) {
		headings["#"+strings.ReplaceAll(regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	links := regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(string(text), -1)
	for _, m := range links {
		if strings.HasPrefix(m[1], "#") {
			if !headings[m[1]] {
				t.Errorf("there is no heading %s", m[1])
			}
		} else if _, err := os.Stat(filepath.Join("../docs", m[1])); err != nil {
			t.Errorf("%s: %v", m[1], err)
		}
	}
	if len(links) < 8 {
		t.Errorf("%d links: the page has changed its form", len(links))
	}
}
