package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// The page about the approval kit runs as it stands, on a new server: its
// commands, what they print, and its programs for Node.
func TestDocs_ApprovalKitRunsAsItStands(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "approval-kit.md"))
	if err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	p, err := startServer(data, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.end(syscall.SIGTERM)
	root, err := rootKey(data)
	if err != nil {
		t.Fatal(err)
	}

	const mark = "--- a block ends ---"
	script, want := "set -euo pipefail\n", []string{}
	var programs []string
	for _, block := range regexp.MustCompile("(?s)```(sh|text|js)\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		switch block[1] {
		case "sh":
			script += block[2] + "echo '" + mark + "'\n"
			want = append(want, "")
		case "text":
			want[len(want)-1] += block[2]
		case "js":
			programs = append(programs, block[2])
		}
	}
	if len(want) != 9 || len(programs) != 2 {
		t.Fatalf("%d blocks of commands, %d programs: the page has changed its form", len(want), len(programs))
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script+"echo \"$PORTAL\" >portal\n")
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "LATCHKEY_URL="+p.url, "ROOT="+root)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s\n%s", err, &out, &errs, p.err)
	}
	ids := regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	for i, got := range strings.Split(out.String(), mark+"\n")[:len(want)] {
		if got = ids.ReplaceAllString(got, "…"); got != want[i] {
			t.Errorf("block %d prints\n%s\nthe page says\n%s", i+1, got, want[i])
		}
	}

	dir := nodeProject(t)
	portal, err := os.ReadFile(filepath.Join(cmd.Dir, "portal"))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"", "waiting\n"} {
		if err := os.WriteFile(filepath.Join(dir, "page.mjs"), []byte(programs[i]), 0o600); err != nil {
			t.Fatal(err)
		}
		out, errs, err := runNode(t.Context(), t, dir, []string{"LATCHKEY_URL=" + p.url, "LATCHKEY_KEY=" + strings.TrimSpace(string(portal))}, "page.mjs")
		if err != nil || out != want {
			t.Errorf("program %d: %v\n%s%s\nwant %q", i+1, err, out, errs, want)
		}
	}
}

// Other pages end with a whole way, which is walked as it stands.
func TestDocs_WholeWaysRunAsTheyStand(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"access-requests.md", "jobs.md"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			page, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
			if err != nil {
				t.Fatal(err)
			}
			_, way, found := strings.Cut(string(page), "\n## A whole way")
			if !found {
				t.Fatal("the page has changed its form")
			}
			data := t.TempDir()
			p, err := startServer(data, nil, []string{"--compat-jobflow"}, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer p.end(syscall.SIGTERM)
			root, err := rootKey(data)
			if err != nil {
				t.Fatal(err)
			}
			script, want := "set -euo pipefail\n", ""
			for _, block := range regexp.MustCompile("(?s)```(sh|text)\n(.*?)```").FindAllStringSubmatch(way, -1) {
				if block[1] == "sh" {
					script += block[2]
				} else {
					want += block[2]
				}
			}
			cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
			cmd.Dir = t.TempDir()
			cmd.Env = append(os.Environ(), "LATCHKEY_URL="+p.url, "ROOT="+root)
			var errs bytes.Buffer
			cmd.Stderr = &errs
			out, err := cmd.Output()
			if err != nil || string(out) != want || want == "" {
				t.Errorf("%v: it prints\n%s%s\nthe page says\n%s", err, out, &errs, want)
			}
		})
	}
}
