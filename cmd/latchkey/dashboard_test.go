package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/servers"
)

// The dashboard may only ask for what a server tells.
func TestDashboard_ShowsMetricsThatExist(t *testing.T) {
	text, err := os.ReadFile("../../docs/grafana-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile("../../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	private, err := servers.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"main.rego": "package policies.main\n\nallow := true\n",
		"bundles.yaml": "- {customer: default, name: main, file: bundle.tar.gz}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if code := run(t.Context(), []string{"bundle", "build", filepath.Join(dir, "main.rego"), "-o", filepath.Join(dir, "bundle.tar.gz")}, streams{nil, io.Discard, os.Stderr}); code != exitOK {
		t.Fatalf("bundle build: %d", code)
	}
	p, err := startServer(t.TempDir(), []string{"LATCHKEY_REDIS=unix://" + filepath.Join(dir, "none.sock")}, []string{"--private-listen", private, "--decision-log", "stdout", "--bundles", filepath.Join(dir, "bundles.yaml")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.cmd.Process.Kill() }()
	types := map[string]string{"latchkey_bundle_failures_total": "counter"} // told once something failed
	for _, private := range []string{private, besideIt(t, p)} {
		resp, err := http.Get("http://" + private + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		metrics, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`).FindAllStringSubmatch(string(metrics), -1) {
			types[m[1]] = m[2]
		}
	}
	name, shown := regexp.MustCompile(`\b(?:latchkey|process|go)_[a-z_]+\b`), 0
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			for _, metric := range name.FindAllString(target.Expr, -1) {
				shown++
				family := metric
				for _, suffix := range []string{"_bucket", "_sum", "_count"} {
					if base := strings.TrimSuffix(metric, suffix); types[base] == "histogram" {
						family = base
					}
				}
				if types[family] == "" {
					t.Errorf("%q asks for %s, which the server does not tell", panel.Title, metric)
				}
			}
		}
	}
	if shown < 20 {
		t.Errorf("the dashboard asks for %d metrics only", shown)
	}
	for metric := range types {
		if strings.HasPrefix(metric, "latchkey_") && !strings.Contains(string(text), metric) && metric != "latchkey_key_lookups" && metric != "latchkey_tokens_refused_unread" {
			t.Errorf("the dashboard does not show %s", metric)
		}
		if strings.HasPrefix(metric, "latchkey_") && !strings.Contains(string(document), "`"+metric+"`") {
			t.Errorf("docs/observability.md does not tell of %s", metric)
		}
	}
}

// besideIt starts a sidecar, and returns its private address.
func besideIt(t *testing.T, control *process) string {
	t.Helper()
	private, err := servers.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	b := &beside{t: t, control: control, key: newAccessKey()} // it need not be let in to tell of itself
	p := b.sidecar("", nil, "--private-listen", private)
	eventually(t, "the sidecar answers", func() bool {
		resp, err := http.Get(p.url + "/health/live")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	})
	return private
}
