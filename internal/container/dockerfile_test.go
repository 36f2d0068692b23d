package container

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// instruction is one line of a Dockerfile, continuation lines joined.
type instruction struct {
	word  string            // FROM, RUN, …
	flags map[string]string // --from=build
	rest  string
}

// list reads the form ["a", "b"].
func (i instruction) list(t *testing.T) []string {
	t.Helper()
	var words []string
	if err := json.Unmarshal([]byte(i.rest), &words); err != nil || len(words) == 0 {
		t.Fatalf("%s %s: want the list form, which needs no shell", i.word, i.rest)
	}
	return words
}

// stage is what stands between two FROM lines.
type stage struct {
	base, name   string
	instructions []instruction
}

// find returns the last instruction of that word.
func (s *stage) find(t *testing.T, word string) instruction {
	t.Helper()
	for n := len(s.instructions) - 1; n >= 0; n-- {
		if s.instructions[n].word == word {
			return s.instructions[n]
		}
	}
	t.Fatalf("the stage from %s has no %s", s.base, word)
	return instruction{}
}

// parseDockerfile reads the words that this Dockerfile uses; an unknown one
// fails the test rather than being left out.
func parseDockerfile(t *testing.T, text string) []*stage {
	t.Helper()
	var stages []*stage
	var line string
	for raw := range strings.Lines(text) {
		raw = strings.TrimSpace(raw)
		if raw == "" || raw[0] == '#' {
			continue
		}
		if part, more := strings.CutSuffix(raw, `\`); more {
			line += part
			continue
		}
		in := parseInstruction(line + raw)
		line = ""
		switch in.word {
		case "FROM":
			base, name, _ := strings.Cut(in.rest, " AS ")
			stages = append(stages, &stage{base: base, name: name})
		case "ENV", "ARG", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT", "CMD":
			if len(stages) == 0 {
				t.Fatalf("%s stands before FROM", in.word)
			}
			s := stages[len(stages)-1]
			s.instructions = append(s.instructions, in)
		default:
			t.Fatalf("the test does not know %s", in.word)
		}
	}
	return stages
}

func parseInstruction(line string) instruction {
	in := instruction{flags: map[string]string{}}
	in.word, in.rest, _ = strings.Cut(line, " ")
	for in.rest = strings.TrimSpace(in.rest); strings.HasPrefix(in.rest, "--"); in.rest = strings.TrimSpace(in.rest) {
		var flag string
		flag, in.rest, _ = strings.Cut(in.rest, " ")
		name, value, _ := strings.Cut(flag, "=")
		in.flags[name] = value
	}
	return in
}

// variables are those that an ENV or ARG line sets.
func variables(in instruction) []string { return strings.Fields(in.rest) }

// ignored reports whether a pattern of .dockerignore matches the path, or a
// directory above it.
func ignored(patterns []string, name string) bool {
	for _, p := range patterns {
		deep, anywhere := strings.CutPrefix(p, "**/")
		for at := name; at != "."; at = path.Dir(at) {
			if ok, _ := path.Match(p, at); ok {
				return true
			}
			if ok, _ := path.Match(deep, path.Base(at)); ok && anywhere {
				return true
			}
		}
	}
	return false
}

// buildContext copies what .dockerignore leaves of the repository.
func buildContext(t *testing.T, repository, to string) {
	t.Helper()
	var patterns []string
	text, err := os.ReadFile(filepath.Join(repository, ".dockerignore"))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			patterns = append(patterns, line)
		}
	}
	must(t, filepath.WalkDir(repository, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(repository, file)
		switch {
		case err != nil || name == ".":
			return err
		case ignored(patterns, name) && d.IsDir():
			return fs.SkipDir
		case ignored(patterns, name) || !d.Type().IsRegular() && !d.IsDir():
			return nil
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		}
		return copyFile(file, filepath.Join(to, name))
	}))
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, text, info.Mode().Perm())
}

// runBuilder carries out the build stage below dir: absolute paths of the
// stage that it makes or copies to lie there.
func runBuilder(t *testing.T, s *stage, context, dir string) {
	t.Helper()
	env, work := os.Environ(), "/"
	for _, in := range s.instructions {
		switch in.word {
		case "ENV", "ARG":
			env = append(env, variables(in)...)
		case "WORKDIR":
			work = in.rest
			must(t, os.MkdirAll(filepath.Join(dir, work), 0o755))
		case "COPY":
			words := strings.Fields(in.rest)
			to := path.Join(work, words[len(words)-1])
			for _, from := range words[:len(words)-1] {
				copyInto(t, filepath.Join(context, from), filepath.Join(dir, to))
			}
		case "RUN":
			line := strings.ReplaceAll(in.rest, " /out/", " "+filepath.Join(dir, "out")+"/")
			cmd := exec.Command("sh", "-c", line)
			cmd.Dir, cmd.Env = filepath.Join(dir, work), env
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("RUN %s: %v\n%s", in.rest, err, out)
			}
		default:
			t.Fatalf("the build stage has %s, which the test does not carry out", in.word)
		}
	}
}

// copyInto copies a file into a directory, or what a directory holds.
func copyInto(t *testing.T, from, to string) {
	t.Helper()
	info, err := os.Stat(from)
	must(t, err)
	if !info.IsDir() {
		must(t, copyFile(from, filepath.Join(to, filepath.Base(from))))
		return
	}
	must(t, filepath.WalkDir(from, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		return copyFile(file, filepath.Join(to, name))
	}))
}

// makeRoot lays out the image's root directory from what the builder made.
func makeRoot(t *testing.T, s *stage, builder, root string) {
	t.Helper()
	for _, in := range s.instructions {
		if in.word != "COPY" {
			continue
		}
		words := strings.Fields(in.rest)
		if in.flags["--from"] == "" || len(words) != 2 {
			t.Fatalf("COPY %s: the image takes one thing at a time, from the builder", in.rest)
		}
		from, to := filepath.Join(builder, words[0]), filepath.Join(root, words[1])
		info, err := os.Stat(from)
		switch {
		case err != nil: // of the builder's own system; here that is this one
			if err := copyFile(words[0], to); err != nil {
				t.Logf("left out, since this system lacks it: %v", err)
			}
			continue
		case info.IsDir():
			must(t, os.MkdirAll(to, 0o755))
		default:
			must(t, copyFile(from, to))
		}
		if owner := in.flags["--chown"]; owner != "" {
			uid, gid := ids(t, owner)
			must(t, os.Chown(to, uid, gid))
		}
	}
}

// ids reads "uid:gid"; names have no meaning in an image without /etc/passwd.
func ids(t *testing.T, text string) (uid, gid int) {
	t.Helper()
	u, g, _ := strings.Cut(text, ":")
	uid, err1 := strconv.Atoi(u)
	gid, err2 := strconv.Atoi(g)
	if err1 != nil || err2 != nil || uid == 0 {
		t.Fatalf("%q: want the numbers of a user that is not root", text)
	}
	return uid, gid
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(fmt.Errorf("%s: %w", t.Name(), err))
	}
}
