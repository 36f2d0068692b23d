package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/servers"
)

const jsDir = "../../js"

// nodeProject is a directory in which both packages are installed as npm would:
// with the files that they publish, and no others. It holds what is in js/test.
func nodeProject(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		servers.Missing(t, "node")
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(jsDir, "test"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"api", "approvals"} {
		from, to := filepath.Join(jsDir, name), filepath.Join(dir, "node_modules", "@latchkey", name)
		text, err := os.ReadFile(filepath.Join(from, "package.json"))
		if err != nil {
			t.Fatal(err)
		}
		var about struct {
			Name                                                          string
			Files                                                         []string
			Dependencies, PeerDependencies, OptionalDependencies, Scripts map[string]string
			BundleDependencies, BundledDependencies                       []string
		}
		if err := json.Unmarshal(text, &about); err != nil || about.Name != "@latchkey/"+name {
			t.Fatalf("%s: %v", name, err)
		}
		if n := len(about.Dependencies) + len(about.PeerDependencies) + len(about.OptionalDependencies) + len(about.BundleDependencies) + len(about.BundledDependencies) + len(about.Scripts); n > 0 {
			t.Errorf("@latchkey/%s has dependencies, or runs scripts", name)
		}
		if err := os.MkdirAll(to, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, file := range append(about.Files, "package.json") {
			text, err := os.ReadFile(filepath.Join(from, file))
			if err == nil {
				err = os.WriteFile(filepath.Join(to, file), text, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// runNode runs a program of the project, with nothing of this process's environment
// but what it needs to run.
func runNode(ctx context.Context, t *testing.T, dir string, env []string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", args...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

func TestKit_PackagesPassNodesOwnRunner(t *testing.T) {
	t.Parallel()
	dir := nodeProject(t)
	if out, errs, err := runNode(t.Context(), t, dir, nil, "--test", "packages.test.mjs"); err != nil {
		t.Errorf("%v\n%s%s", err, out, errs)
	}
}

// Neither package depends on the other, so that each holds how to speak HTTP.
func TestKit_BothPackagesSpeakAlike(t *testing.T) {
	var texts [2][]byte
	for i, name := range []string{"api", "approvals"} {
		var err error
		if texts[i], err = os.ReadFile(filepath.Join(jsDir, name, "http.cjs")); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(texts[0], texts[1]) {
		t.Error("js/api/http.cjs and js/approvals/http.cjs differ")
	}
}
