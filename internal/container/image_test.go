package container

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// insideRoot names the image's root directory to the process inside.
const insideRoot = "LATCHKEY_TEST_IMAGE_ROOT"

func readDockerfile(t *testing.T) (builder, image *stage) {
	t.Helper()
	text, err := os.ReadFile("../../Dockerfile")
	must(t, err)
	stages := parseDockerfile(t, string(text))
	if len(stages) != 2 || stages[0].name != "build" || stages[1].base != "scratch" {
		t.Fatal("want two stages: build, and the image from scratch")
	}
	return stages[0], stages[1]
}

func TestDockerfile_MakesAStaticBinaryThatServesInAnEmptyRoot(t *testing.T) {
	builder, image := readDockerfile(t)
	if testing.Short() {
		t.Skip("builds the program")
	}
	// A home below a private directory would keep the image's user out.
	dir, err := os.MkdirTemp("", "latchkey-image-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	context, made, root := filepath.Join(dir, "context"), filepath.Join(dir, "builder"), filepath.Join(dir, "root")
	must(t, os.Mkdir(root, 0o755))
	buildContext(t, "../..", context)
	runBuilder(t, builder, context, made)
	checkStatic(t, filepath.Join(made, "out/latchkey"))

	if os.Geteuid() != 0 {
		t.Skip("what was built is static; starting it in a root directory of its own needs root")
	}
	makeRoot(t, image, made, root)
	// The rest happens in a network of its own, so that the image's addresses
	// are free, and nothing but the loopback is there.
	cmd := exec.Command(os.Args[0], "-test.run=^TestInside$", "-test.v")
	cmd.Env = append(os.Environ(), insideRoot+"="+root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, syscall.EPERM):
		t.Skipf("what was built is static; starting it in a network of its own is not permitted here: %v", err)
	case err != nil:
		t.Fatalf("inside: %v\n%s", err, out)
	case !bytes.Contains(out, []byte("--- PASS: TestInside")):
		t.Fatalf("inside, nothing was tested:\n%s", out)
	}
	for _, name := range []string{"tmp", "dev", "proc"} {
		if _, err := os.Stat(filepath.Join(root, name)); err == nil {
			t.Errorf("the program made /%s", name)
		}
	}
}

// checkStatic refuses a binary that asks for a loader or for libraries.
func checkStatic(t *testing.T, binary string) {
	t.Helper()
	f, err := elf.Open(binary)
	must(t, err)
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the binary is not static: it has %s", p.Type)
		}
	}
	if f.Section(".dynamic") != nil {
		t.Error("the binary is not static: it has a dynamic section")
	}
	if f.Section(".debug_info") != nil || f.Section(".symtab") != nil {
		t.Error("the binary is not stripped")
	}
}

// TestInside is run by the test above, in a network of its own.
func TestInside(t *testing.T) {
	root := os.Getenv(insideRoot)
	if root == "" {
		t.Skip("TestDockerfile_MakesAStaticBinaryThatServesInAnEmptyRoot runs it")
	}
	raiseLoopback(t)
	_, image := readDockerfile(t)
	box := newBox(t, image, root)
	health := image.find(t, "HEALTHCHECK")
	form, rest, _ := strings.Cut(health.rest, " ")
	if form != "CMD" {
		t.Fatalf("HEALTHCHECK %s: want CMD", health.rest)
	}
	health.rest = rest
	check := func() ([]byte, error) { return box.command(health.list(t)...).CombinedOutput() }

	if out, err := check(); err == nil {
		t.Errorf("the health check succeeds before the server runs: %s", out)
	}
	argv := append(image.find(t, "ENTRYPOINT").list(t), image.find(t, "CMD").list(t)...)
	server := box.command(argv...)
	var said bytes.Buffer
	server.Stdout, server.Stderr = &said, &said
	must(t, server.Start())
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	base := "http://127.0.0.1:" + image.find(t, "EXPOSE").rest
	awaitReady(t, base+"/health/ready", ended, &said)
	if out, err := check(); err != nil {
		t.Errorf("the health check fails though the server is ready: %v\n%s", err, out)
	}

	key, err := os.ReadFile(filepath.Join(root, "data/root.key"))
	must(t, err)
	made := post(t, base+"/v1/access_keys", string(bytes.TrimSpace(key)), http.StatusCreated,
		`{"scopes":{"customer":{"decision":true,"policies":[{"f":"staging","p":4}]}},"metadata":{"username":"dale.cooper","keyname":"image"}}`)
	for action, want := range map[string]bool{"update": true, "delete": false} {
		answer := post(t, base+"/decision", made["key"].(string), http.StatusOK,
			fmt.Sprintf(`{"subject":{"type":"access_key","id":%q},"action":{"name":%q},"resource":{"type":"policies","id":"staging"}}`, made["id"], action))
		if answer["decision"] != want {
			t.Errorf("%s: %v, want %t", action, answer, want)
		}
	}

	must(t, server.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("SIGTERM: %v, want exit code 0\n%s", err, &said)
		}
	case <-time.After(time.Minute):
		t.Errorf("SIGTERM does not end it: %v", server.Process.Kill())
	}
}

// box is the image's root directory, user, environment and working directory.
type box struct {
	root, work string
	env        []string
	uid, gid   int
}

func newBox(t *testing.T, image *stage, root string) *box {
	t.Helper()
	b := &box{root: root, work: image.find(t, "WORKDIR").rest}
	for _, in := range image.instructions {
		if in.word == "ENV" {
			b.env = append(b.env, variables(in)...)
		}
	}
	b.uid, b.gid = ids(t, image.find(t, "USER").rest)
	return b
}

// command is a program of the image, with nothing of this process.
func (b *box) command(argv ...string) *exec.Cmd {
	return &exec.Cmd{
		Path: argv[0], Args: argv, Dir: b.work, Env: b.env,
		SysProcAttr: &syscall.SysProcAttr{
			Chroot:     b.root,
			Credential: &syscall.Credential{Uid: uint32(b.uid), Gid: uint32(b.gid)},
			Pdeathsig:  syscall.SIGKILL,
		},
	}
}

// raiseLoopback switches on the one interface of the network.
func raiseLoopback(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd) // nothing was written
	lo, err := unix.NewIfreq("lo")
	must(t, err)
	lo.SetUint16(unix.IFF_UP)
	must(t, unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo))
}

// awaitReady asks until the server says that it is ready.
func awaitReady(t *testing.T, url string, ended <-chan error, said fmt.Stringer) {
	t.Helper()
	deadline := time.After(time.Minute)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		if resp, err := http.Get(url); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-again.C:
		case err := <-ended:
			t.Fatalf("the server ended: %v\n%s", err, said)
		case <-deadline:
			t.Fatal("the server does not get ready")
		}
	}
}

func post(t *testing.T, url, key string, want int, body string) map[string]any {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode != want {
		t.Fatalf("%s answers %d, want %d: %s", url, resp.StatusCode, want, text)
	}
	var answer map[string]any
	must(t, json.Unmarshal(text, &answer))
	return answer
}
