package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The page about policies is run as it stands: its files are written, its
// commands are run, and what they print is what it says.
func TestDocs_PoliciesRunAsTheyStand(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "policies.md"))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	files, commands := 0, 0
	for _, block := range regexp.MustCompile("(?s)```(\\w+) ?([\\w.]*)\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		if name := block[2]; name != "" {
			files++
			if err := os.WriteFile(name, []byte(block[3]), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		for _, session := range strings.Split(block[3], "$ latchkey ")[1:] {
			commands++
			command, want, _ := strings.Cut(session, "\n")
			var out, stderr bytes.Buffer
			code := run(t.Context(), strings.Fields(command), streams{os.Stdin, &out, &stderr})
			if code != exitOK || out.String() != want {
				t.Errorf("latchkey %s: exit code %d\n%s%s\nthe page says\n%s", command, code, &out, &stderr, want)
			}
		}
	}
	if files != 3 || commands != 2 {
		t.Errorf("ran %d files and %d commands: the page has changed its form", files, commands)
	}
}
