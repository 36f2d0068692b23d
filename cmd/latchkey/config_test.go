package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func TestConfigReference_IsTheDocument(t *testing.T) {
	document, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	var reference bytes.Buffer
	if err := writeReference(&reference); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(reference.Bytes(), document) {
		t.Error("docs/configuration.md is not what 'latchkey config reference' prints: run 'make docs'")
	}
}

func TestConfigReference_HasEverySettingOnce(t *testing.T) {
	var reference bytes.Buffer
	if err := writeReference(&reference); err != nil {
		t.Fatal(err)
	}
	parser, err := newParser(&CLI{}, streams{os.Stdin, &bytes.Buffer{}, &bytes.Buffer{}}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	ofServe, ofSidecar, _ := strings.Cut(reference.String(), "\n## sidecar\n")
	parts := map[string]string{"serve": ofServe, "sidecar": ofSidecar}
	for _, command := range parser.Model.Children {
		part, configured := parts[command.Name]
		if !configured {
			continue
		}
		delete(parts, command.Name)
		for _, f := range command.Flags {
			if got := strings.Count(part, "| `--"+f.Name+"` |") + strings.Count(part, " `--"+f.Name+"`,") + strings.Count(part, " `--"+f.Name+"`."); got != 1 {
				t.Errorf("%s: --%s stands in the reference %d times", command.Name, f.Name, got)
			}
			if len(f.Envs) != 1 || !strings.HasPrefix(f.Envs[0], "LATCHKEY_") {
				t.Errorf("--%s has the environment variables %v, want one LATCHKEY_…", f.Name, f.Envs)
			}
			if strings.TrimSpace(f.Help) == "" {
				t.Errorf("--%s has no help", f.Name)
			}
		}
	}
	if len(parts) > 0 {
		t.Errorf("these have no settings: %v", parts)
	}
}
