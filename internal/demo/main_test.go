package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// binary is the program, built once for the tests of this package.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "latchkey-demo-test-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "latchkey")
		build := exec.Command("go", "build", "-o", binary, "../../cmd/latchkey")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			panic(err)
		}
		return m.Run()
	}())
}

func TestDemo_TheExampleHolds(t *testing.T) {
	var out strings.Builder
	if err := run(context.Background(), binary, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	// It must not become true by trying less.
	for _, want := range []string{
		"It may: call any /decision endpoint", "PUT /v1/policies/staging ", "POST /v1/access_keys ", "the eleventh ", "401 key_revoked", "deny key_expired",
		`write "10.0.0.1"`, "create_needs_all",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q", want)
		}
	}
	if n := strings.Count(out.String(), "  ok\n"); n < 160 {
		t.Errorf("%d rows are as expected, want 160 at least", n)
	}
}

func TestDemo_SaysWhatDiffers(t *testing.T) {
	w := &walk{part: "a part"}
	w.add("tried", "HTTP", "allow", "allow")
	w.add("tried too", "HTTP", "deny", "allow")
	var out strings.Builder
	if err := w.print(&out); !errors.Is(err, errDiffers) {
		t.Errorf("err = %v, want errDiffers", err)
	}
	if !strings.Contains(out.String(), "DIFFERS") || !strings.Contains(out.String(), "2 tried, 1 as expected") {
		t.Errorf("got %s", out.String())
	}
}

func TestDemo_FailsWithoutAServer(t *testing.T) {
	if err := run(context.Background(), "/bin/false", io.Discard); err == nil {
		t.Error("no error where the server ends at once")
	}
}
