package main

import (
	"bytes"
	"context"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/duty"
	"github.com/latchkey-dev/latchkey/internal/servers"
)

var (
	docBlock  = regexp.MustCompile("(?ms)^```(sh|text|go|js) ?([\\w.]*)\n(.*?)^```")
	docServer = regexp.MustCompile(`(?m)^    ((?:[A-Z_]+=\S+ )*)make run(?: ARGS='([^']*)')?$`)
	docPort   = regexp.MustCompile(`\b808\d\b`)
	docID     = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
)

// followed is what is there after somebody has followed a page.
type followed struct {
	p        *process
	dir      string   // where its commands were run
	programs []string // for Node
}

// followPage does as a page of docs says below a heading, or all over: it starts a server with
// the flags and the environment that the page names and no others, runs the commands
// in a directory that is like a clone after "make run", and holds what they print to
// the page. Of the page nothing is changed but the ports of this machine.
func followPage(t *testing.T, name, heading string, replace ...string) *followed {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	_, way, found := strings.Cut(page, "\n"+heading)
	if !found {
		t.Fatalf("the page has no %q", heading)
	}
	if heading != "" {
		way, _, _ = strings.Cut(way, "\n## ")
	}
	ports := map[string]string{}
	local := func(text string) string {
		return docPort.ReplaceAllStringFunc(strings.NewReplacer(replace...).Replace(text), func(port string) string {
			if ports[port] == "" {
				free, err := servers.FreeAddress()
				if err != nil {
					t.Fatal(err)
				}
				_, ports[port], _ = strings.Cut(free, ":")
			}
			return ports[port]
		})
	}
	start := docServer.FindStringSubmatch(local(way))
	if start == nil {
		t.Fatal("the page does not say how to start a server")
	}
	f := &followed{dir: t.TempDir()}
	if f.p, err = startServer(filepath.Join(f.dir, "data"), strings.Fields(start[1]), strings.Fields(start[2]), nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.p.end(syscall.SIGTERM) })
	replace = append(replace, "http://127.0.0.1:5539", f.p.url)

	exe, err := os.Executable()
	if err == nil {
		err = os.Mkdir(filepath.Join(f.dir, "bin"), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(f.dir, "bin", "latchkey"), []byte("#!/bin/sh\nLATCHKEY_TEST_RUN=main exec '"+exe+"' \"$@\"\n"), 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	script, want := "set -euo pipefail\n", ""
	for _, block := range docBlock.FindAllStringSubmatch(page, -1) {
		switch kind, file, text := block[1], block[2], local(block[3]); {
		case file != "": // wherever it is on the page
			if err := os.WriteFile(filepath.Join(f.dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		case !strings.Contains(way, block[0]):
		case kind == "sh":
			script += text
		case kind == "text":
			want += text
		case kind == "js":
			f.programs = append(f.programs, text)
		}
	}
	for _, tool := range []string{"bash", "curl", "jq", "python3"} {
		if _, err := exec.LookPath(tool); err != nil && strings.Contains(script, tool+" ") || err != nil && tool == "bash" {
			servers.Missing(t, tool)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir, cmd.WaitDelay = f.dir, time.Second
	for _, setting := range os.Environ() {
		if !strings.HasPrefix(setting, "LATCHKEY_") && !strings.HasPrefix(setting, "ROOT=") {
			cmd.Env = append(cmd.Env, setting)
		}
	}
	cmd.Env = append(cmd.Env, "TMPDIR="+f.dir)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if got := docID.ReplaceAllString(string(out), "…"); err != nil || got != want || want == "" {
		t.Errorf("%v: it prints\n%s%s\nthe page says\n%s\nthe server\n%s", err, got, &errs, want, f.p.err)
	}
	return f
}

// Pages end with a whole way, which is walked as it stands.
func TestDocs_WholeWaysRunAsTheyStand(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"access-requests.md", "jobs.md", "webhooks.md", "tasks.md", "people.md"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "tasks.md" {
				requireSandbox(t)
			}
			followPage(t, name, "## A whole way")
		})
	}
}

// The page about on-call access is followed against the stand-in that it names.
func TestDocs_OnCallRunsAsItStands(t *testing.T) {
	t.Parallel()
	fake := &duty.Fake{Key: "secret"}
	fake.Set([]duty.Incident{{ID: "01H", Reference: "INC-1", Category: "live", Roles: []duty.Role{{Name: "DBA", Email: "jane@example.com"}}}}, nil)
	provider := httptest.NewServer(fake)
	t.Cleanup(provider.Close)
	followPage(t, "on-call.md", "## Try it", "http://127.0.0.1:9911", provider.URL)
}

// The page about the approval kit is one whole way, its programs for Node too.
func TestDocs_ApprovalKitRunsAsItStands(t *testing.T) {
	t.Parallel()
	f := followPage(t, "approval-kit.md", "")
	if len(f.programs) != 2 {
		t.Fatalf("%d programs: the page has changed its form", len(f.programs))
	}
	dir := nodeProject(t)
	portal, err := os.ReadFile(filepath.Join(f.dir, "portal", "key"))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"", "waiting\n"} {
		if err := os.WriteFile(filepath.Join(dir, "page.mjs"), []byte(f.programs[i]), 0o600); err != nil {
			t.Fatal(err)
		}
		out, errs, err := runNode(t.Context(), t, dir, []string{"LATCHKEY_URL=" + f.p.url, "LATCHKEY_KEY=" + strings.TrimSpace(string(portal))}, "page.mjs")
		if err != nil || out != want {
			t.Errorf("program %d: %v\n%s%s\nwant %q", i+1, err, out, errs, want)
		}
	}
}
