package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pages are what an operator reads, and how many commands each holds at least:
// with fewer it has changed its form, and its commands are not found.
var pages = map[string]int{"operations.md": 14, "postgresql.md": 5, "redis.md": 4, "sidecars.md": 3}

// What the operator is told to run exists: every command of the pages, with every
// flag, and every flag that their text names.
func TestPages_NameWhatTheProgramHas(t *testing.T) {
	for page, least := range pages {
		t.Run(page, func(t *testing.T) {
			text, err := os.ReadFile("../docs/" + page)
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
			take("sidecar")
			commands := regexp.MustCompile("(?m)(?:`|^)latchkey((?: [a-z][a-z-]*)+)((?: +--[^`#\\n]*)?)").FindAllStringSubmatch(string(text), -1)
			if len(commands) < least {
				t.Fatalf("%d commands: the page has changed its form", len(commands))
			}
			for _, c := range commands {
				words := strings.Fields(c[1])
				take(words...)
				for _, m := range regexp.MustCompile(`--([a-z-]+)`).FindAllStringSubmatch(c[2], -1) {
					if _, known := describe(t, words...).flags[m[1]]; !known {
						t.Errorf("latchkey%s has no --%s", c[1], m[1])
					}
				}
			}
			for _, m := range regexp.MustCompile("`--([a-z-]+)").FindAllStringSubmatch(string(text), -1) {
				if !flags[m[1]] {
					t.Errorf("no command of the page has --%s", m[1])
				}
			}
			settings := append(describe(t, "serve").settings, describe(t, "sidecar").settings...)
			settings = append(append(settings, "LATCHKEY_ROOT_KEY", "LATCHKEY_KEY"), secretFiles...)
			for _, name := range regexp.MustCompile(`LATCHKEY_[A-Z_]+`).FindAllString(string(text), -1) {
				if !slices.Contains(settings, name) {
					t.Errorf("nothing reads %s", name)
				}
			}
		})
	}
}

// Links between all pages, and to what lies beside them, lead somewhere.
func TestPages_LinksLeadSomewhere(t *testing.T) {
	found, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found = append(found, "../README.md", "../CONTRIBUTING.md", "../ARCHITECTURE.md")
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	headings := func(path string) map[string]bool {
		all := map[string]bool{}
		for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(read(path), -1) {
			all[strings.ReplaceAll(regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
		}
		return all
	}
	links := 0
	for _, page := range found {
		for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(read(page), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			path, heading, section := strings.Cut(m[1], "#")
			if path = filepath.Join(filepath.Dir(page), path); strings.HasPrefix(m[1], "#") {
				path = page
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: %v", page, err)
			} else if section && !headings(path)[heading] {
				t.Errorf("%s: %s has no heading %s", page, path, heading)
			}
		}
	}
	if links < 30 {
		t.Errorf("%d links: the pages have changed their form", links)
	}
}
