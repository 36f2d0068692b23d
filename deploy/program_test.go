package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// latchkey and helm are built once, from the repository and from this module's
// own go.mod.
var latchkey, helm string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "latchkey-deploy-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		latchkey, helm = filepath.Join(dir, "latchkey"), filepath.Join(dir, "helm")
		build(".", helm, "helm.sh/helm/v3/cmd/helm")
		build("..", latchkey, "./cmd/latchkey")
		return m.Run()
	}())
}

func build(dir, to, name string) {
	cmd := exec.Command("go", "build", "-o", to, name)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, os.Stderr, os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := cmd.Run(); err != nil {
		panic(fmt.Sprintf("build %s: %v", name, err))
	}
}

// verb is what the program says of one of its commands.
type verb struct {
	flags    map[string]bool // without the dashes; false where it takes a value
	settings []string        // environment variables
}

var (
	flagLine    = regexp.MustCompile(`(?m)^  (?:-\w, |    )--(?:\[no-\])?([a-z0-9][a-z0-9.-]*)(=?)`)
	settingWord = regexp.MustCompile(`\$(LATCHKEY_[A-Z0-9_]+)`)
	verbs       sync.Map
)

// describe asks the program about a command; words are its name. A command that
// is not there fails the test.
func describe(t *testing.T, words ...string) verb {
	t.Helper()
	name := strings.Join(words, " ")
	if v, ok := verbs.Load(name); ok {
		return v.(verb)
	}
	out, err := exec.Command(latchkey, append(slices.Clone(words), "--help")...).CombinedOutput()
	if err != nil {
		t.Fatalf("latchkey %s: %v\n%s", name, err, out)
	}
	v := verb{flags: map[string]bool{}}
	for _, m := range flagLine.FindAllStringSubmatch(string(out), -1) {
		v.flags[m[1]] = m[2] == ""
	}
	// The help breaks lines between words, and within long ones not at all.
	for _, m := range settingWord.FindAllStringSubmatch(string(out), -1) {
		v.settings = append(v.settings, m[1])
	}
	if len(v.flags) == 0 {
		t.Fatalf("latchkey %s --help names no flags:\n%s", name, out)
	}
	verbs.Store(name, v)
	return v
}

// secretFiles are the variables that the program takes as files.
var secretFiles = []string{"LATCHKEY_DATABASE_FILE", "LATCHKEY_REDIS_FILE", "LATCHKEY_ROOT_KEY_FILE", "LATCHKEY_KEY_FILE"}

// checkCommand holds one command line of the program, and the environment that
// it gets, to what the program has.
func checkCommand(t *testing.T, where string, args []string, environment map[string]string) {
	t.Helper()
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		t.Errorf("%s: the command %q names no verb", where, args)
		return
	}
	v := describe(t, args[0])
	for _, arg := range args[1:] {
		name, dashes := strings.CutPrefix(arg, "--")
		if !dashes {
			t.Errorf("%s: %q is no flag: write --name=value, so that it can be held to the program", where, arg)
			continue
		}
		name, _, valued := strings.Cut(name, "=")
		boolean, known := v.flags[name]
		switch {
		case !known:
			t.Errorf("%s: latchkey %s has no --%s", where, args[0], name)
		case !boolean && !valued:
			t.Errorf("%s: --%s wants a value", where, name)
		}
	}
	for name := range environment {
		if strings.HasPrefix(name, "LATCHKEY_") && !slices.Contains(secretFiles, name) && !slices.Contains(v.settings, name) {
			t.Errorf("%s: latchkey %s does not read %s", where, args[0], name)
		}
	}
}

// The check itself: it has to find what it is for.
func TestProgram_TellsItsFlags(t *testing.T) {
	v := describe(t, "serve")
	for name, boolean := range map[string]bool{"listen": false, "insecure-listen": true, "keyring-file": false, "max-staleness": false, "help": true} {
		if got, known := v.flags[name]; !known || got != boolean {
			t.Errorf("--%s: known %t, boolean %t", name, known, got)
		}
	}
	if !slices.Contains(v.settings, "LATCHKEY_PRIVATE_LISTEN") {
		t.Errorf("no LATCHKEY_PRIVATE_LISTEN in %v", v.settings)
	}
	// A file that the program does not know would be silently unread.
	for _, name := range secretFiles {
		cmd := exec.Command(latchkey, "version")
		cmd.Env = append(os.Environ(), name+"=/there/is/no/such/file")
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), name) {
			t.Errorf("%s is not read: %v %s", name, err, out)
		}
	}
}
