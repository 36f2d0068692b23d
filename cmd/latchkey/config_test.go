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
	n := 0
	for _, command := range parser.Model.Children {
		if command.Name != "serve" {
			continue
		}
		for _, f := range command.Flags {
			n++
			if got := strings.Count(reference.String(), "| `--"+f.Name+"` |"); got != 1 {
				t.Errorf("--%s stands in the reference %d times", f.Name, got)
			}
			if len(f.Envs) != 1 || !strings.HasPrefix(f.Envs[0], "LATCHKEY_") {
				t.Errorf("--%s has the environment variables %v, want one LATCHKEY_…", f.Name, f.Envs)
			}
			if strings.TrimSpace(f.Help) == "" {
				t.Errorf("--%s has no help", f.Name)
			}
		}
	}
	if n == 0 {
		t.Error("serve has no settings")
	}
}
