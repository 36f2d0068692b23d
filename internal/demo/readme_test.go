package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the output of the README's tour into it")

// tourBlock is one fenced block marked "sh tour", and the block marked
// "output" that may follow it.
type tourBlock struct {
	script string
	output string
	begin  int // of the output's text in the README, 0 without
	end    int
}

// readTour finds the blocks of the tour.
func readTour(readme string) (blocks []tourBlock) {
	fence := regexp.MustCompile("(?m)^```([a-z]* ?[a-z]*)\n")
	for at := 0; ; {
		open := fence.FindStringSubmatchIndex(readme[at:])
		if open == nil {
			return blocks
		}
		kind, begin := readme[at+open[2]:at+open[3]], at+open[1]
		end := begin + strings.Index(readme[begin:], "```\n")
		switch {
		case kind == "sh tour":
			blocks = append(blocks, tourBlock{script: readme[begin:end]})
		case strings.HasSuffix(kind, " output"):
			last := &blocks[len(blocks)-1]
			last.output, last.begin, last.end = readme[begin:end], begin, end
		}
		at = end + len("```\n")
	}
}

// volatile is what differs from one run to the next, by a name.
var volatile = []struct {
	pattern *regexp.Regexp
	name    string
}{
	{regexp.MustCompile(`lk1_live_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}`), "SECRET"},
	{regexp.MustCompile(`lk1_live_[0-9A-Za-z]{12}`), "HANDLE"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "ID"},
	{regexp.MustCompile(`dec_[0-9A-Za-z_-]{22}`), "DECISION"},
	{regexp.MustCompile(`[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z`), "TIME"},
	{regexp.MustCompile(`"request_id":"[0-9a-f]{32}"`), "REQUEST"},
	{regexp.MustCompile(` +`), " "},
}

func steady(text string) string {
	for _, v := range volatile {
		text = v.pattern.ReplaceAllString(text, v.name)
	}
	return text
}

// TestReadme_TourIsTrue runs the tour's blocks in one shell against a server
// that was just started, as "make run" does it, and compares what they print.
func TestReadme_TourIsTrue(t *testing.T) {
	for _, need := range []string{"bash", "curl", "sed"} {
		if _, err := exec.LookPath(need); err != nil {
			t.Skipf("the tour needs %s: %v", need, err)
		}
	}
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(text)
	blocks := readTour(readme)
	if len(blocks) < 7 {
		t.Fatalf("the README has %d blocks of a tour", len(blocks))
	}
	srv, err := startServer(context.Background(), binary)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.stop(); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(filepath.Join(srv.dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(binary, filepath.Join(srv.dir, "bin", "latchkey")); err != nil {
		t.Fatal(err)
	}

	const mark = "==== the next block ===="
	var script strings.Builder
	for _, b := range blocks {
		script.WriteString(strings.ReplaceAll(b.script, "http://127.0.0.1:5539", srv.url))
		script.WriteString("\necho '" + mark + "'\n")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-u")
	shell.Dir = srv.dir
	shell.Env = append(withoutSettings(os.Environ()), "LATCHKEY_URL="+srv.url)
	shell.Stdin = strings.NewReader(script.String())
	var out bytes.Buffer
	shell.Stdout, shell.Stderr = &out, &out
	if err := shell.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	printed := strings.Split(out.String(), mark+"\n")
	if len(printed) != len(blocks)+1 {
		t.Fatalf("%d blocks, %d outputs:\n%s", len(blocks), len(printed)-1, &out)
	}
	for i := len(blocks) - 1; i >= 0; i-- { // from the end, so that places stay true
		b, got := blocks[i], strings.ReplaceAll(printed[i], srv.url, "http://127.0.0.1:5539")
		if *update && b.begin > 0 {
			readme = readme[:b.begin] + got + readme[b.end:]
			continue
		}
		if diff := cmp.Diff(steady(b.output), steady(got)); diff != "" {
			t.Errorf("this prints something else than the README says (-README +printed):\n%s%s", b.script, diff)
		}
	}
	if *update {
		if err := os.WriteFile("../../README.md", []byte(readme), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// The tour has to show these, whatever its words become.
func TestReadme_TourShowsWhatMatters(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var output strings.Builder
	for _, b := range readTour(string(text)) {
		output.WriteString(b.output)
	}
	for _, want := range []string{`"key":"lk1_live_`, `"decision":true`, "scope_permits", `"decision":false`, "scope_missing", "permission_missing", "selector_mismatch", "204", "key_revoked", "holds", "policy_rule", "blocked networks", `"obligations":[{"notify":"security"}]`, "invalid_expression"} {
		if !strings.Contains(output.String(), want) {
			t.Errorf("no output of the tour shows %s", want)
		}
	}
}

// TestReadme_LinksLeadSomewhere checks the documents' links to files.
func TestReadme_LinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`)
	for _, document := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/integrations/README.md"} {
		text, err := os.ReadFile(filepath.Join("../..", document))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join("../..", filepath.Dir(document), m[1])); err != nil {
				t.Errorf("%s: %v", document, err)
			}
		}
	}
}

// TestDependencies_AreEachExplained holds docs/dependencies.md to go.mod.
func TestDependencies_AreEachExplained(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile("../../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^(?:require )?\t?(\S+\.\S+/\S+) (v\S+)$`).FindAllStringSubmatch(string(mod), -1) {
		named["`"+m[1]+"` "+m[2]] = true
		if !bytes.Contains(document, []byte("| `"+m[1]+"` "+m[2]+" |")) {
			t.Errorf("docs/dependencies.md lacks %s %s", m[1], m[2])
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| (`[^`]+` v\\S+) \\|").FindAllStringSubmatch(string(document), -1) {
		if !named[m[1]] {
			t.Errorf("docs/dependencies.md explains %s, which go.mod does not name", m[1])
		}
	}
}
