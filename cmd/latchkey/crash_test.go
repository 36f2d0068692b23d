package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/keyring"
	"github.com/latchkey-dev/latchkey/store"
)

// hammer makes keys from several clients until the server no longer answers,
// and returns the ids of those that were acknowledged. enough is closed once
// some were.
func hammer(t *testing.T, p *process, root, round string, enough chan<- struct{}) (acknowledged func() []string) {
	t.Helper()
	const clients, some = 8, 40
	var mu sync.Mutex
	var ids []string
	var wg sync.WaitGroup
	var once sync.Once
	for c := range clients {
		wg.Go(func() {
			for n := 0; ; n++ {
				status, reply, err := p.send(context.Background(), root, http.MethodPost, "/v1/access_keys", newKeyBody(fmt.Sprintf("%s-%d-%d", round, c, n)))
				if err != nil {
					return // the server is gone
				}
				if status == http.StatusServiceUnavailable {
					continue
				}
				if status != http.StatusCreated {
					t.Errorf("create: %d %s", status, reply.Raw)
					return
				}
				mu.Lock()
				ids = append(ids, reply.Get("id").String())
				if len(ids) >= some {
					once.Do(func() { close(enough) })
				}
				mu.Unlock()
			}
		})
	}
	return func() []string { wg.Wait(); return ids }
}

// checkAll finds every acknowledged key, and no fewer events than keys.
func checkAll(t *testing.T, p *process, root string, ids []string) {
	t.Helper()
	for _, id := range ids {
		status, reply, err := p.send(context.Background(), root, http.MethodGet, "/v1/access_keys/"+id, nil)
		if err != nil || status != http.StatusOK {
			t.Fatalf("the acknowledged key %s is lost: %d %s %v", id, status, reply.Raw, err)
		}
	}
	status, reply, err := p.send(context.Background(), root, http.MethodPost, "/v1/auditing/verify", nil)
	if err != nil || status != http.StatusOK || !reply.Get("holds").Bool() {
		t.Fatalf("the chain: %d %s %v", status, reply.Raw, err)
	}
	if n := reply.Get("events").Int(); n < int64(len(ids)) {
		t.Errorf("%d events for %d acknowledged keys", n, len(ids))
	}
}

func TestServe_LosesNoAcknowledgedWrite(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			data := filepath.Join(t.TempDir(), "data")
			var all []string
			for round := range 3 {
				p, err := startServer(data, nil, []string{"--max-active-keys", "1000000"}, nil)
				if err != nil {
					t.Fatal(err)
				}
				root, err := rootKey(data)
				if err != nil {
					t.Fatal(err)
				}
				checkAll(t, p, root, all)
				enough := make(chan struct{})
				acknowledged := hammer(t, p, root, fmt.Sprint(round), enough)
				<-enough
				if err := p.end(sig); sig == syscall.SIGTERM && err != nil {
					t.Errorf("SIGTERM: %v\n%s", err, p.err)
				}
				all = append(all, acknowledged()...)
			}
			p, err := startServer(data, nil, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer p.end(syscall.SIGKILL) // the test is over
			root, err := rootKey(data)
			if err != nil {
				t.Fatal(err)
			}
			checkAll(t, p, root, all)
			countAgrees(t, data)
		})
	}
}

// countAgrees: every key has its event and every event its key, so no change
// was half written.
func countAgrees(t *testing.T, data string) {
	t.Helper()
	keys, err := keyring.Load(filepath.Join(data, "keyring.json"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.OpenReadOnly(filepath.Join(data, "latchkey.db"), keys.AuditMAC)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	page, err := db.Keys(context.Background(), allKeys())
	if err != nil {
		t.Fatal(err)
	}
	report, err := db.VerifyChain(context.Background(), "default")
	if err != nil {
		t.Fatal(err)
	}
	if !report.Holds || report.Events != int64(page.Total) {
		t.Errorf("%d keys, %d events, %v", page.Total, report.Events, report.Findings)
	}
}

// A full disk: here a limit on the size of files, which the kernel enforces
// just the same at a write in the middle of a transaction.
func TestServe_FullDiskRefusesChangesAndGoesOnDeciding(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	p, err := startServer(data, nil, []string{"--max-active-keys", "1000000"}, func(c *exec.Cmd) {
		// In blocks of 512 bytes.
		c.Args = append([]string{"sh", "-c", `ulimit -f 2400; exec "$0" "$@"`}, append([]string{c.Path}, c.Args[1:]...)...)
		c.Path = "/bin/sh"
	})
	if err != nil {
		t.Fatal(err)
	}
	root, err := rootKey(data)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	refused := 0
	for n := 0; refused < 5; n++ {
		if n > 5000 {
			t.Fatal("the limit is never reached")
		}
		status, reply, err := p.send(context.Background(), root, http.MethodPost, "/v1/access_keys", newKeyBody(fmt.Sprint("k", n)))
		switch {
		case err != nil:
			t.Fatalf("the server is gone: %v\n%s", err, p.err)
		case status == http.StatusCreated:
			ids = append(ids, reply.Get("id").String())
		case status == http.StatusServiceUnavailable && strings.HasPrefix(reply.Get("code").String(), "storage_"):
			refused++
		default:
			t.Fatalf("%d %s", status, reply.Raw)
		}
	}
	if len(ids) == 0 {
		t.Fatal("nothing was written before the limit")
	}
	status, reply, err := p.send(context.Background(), root, http.MethodPost, "/decision", map[string]any{
		"subject": map[string]any{"type": "access_key", "id": ids[0]}, "action": map[string]any{"name": "read"},
		"resource": map[string]any{"type": "policies", "id": "x"}})
	if err != nil || status != http.StatusOK || !reply.Get("decision").Bool() {
		t.Errorf("a decision on a full disk: %d %s %v", status, reply.Raw, err)
	}
	_ = p.end(syscall.SIGTERM) // closing may fail to fold the log back; nothing is lost by that

	p, err = startServer(data, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.end(syscall.SIGKILL) // the test is over
	checkAll(t, p, root, ids)
	countAgrees(t, data)
}

func TestServe_SaysSoWhenTheDataDirectoryCannotBeWritten(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to run the server as another user")
	}
	t.Parallel()
	dir := t.TempDir()
	bin := filepath.Join(dir, "latchkey")
	copyProgram(t, bin)
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o555); err != nil {
		t.Fatal(err)
	}
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	_, err := startServer(data, nil, nil, func(c *exec.Cmd) {
		c.Path = bin
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	})
	if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), "data directory") || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("got %v, want exit status 1 and a reason", err)
	}
	if left, err := os.ReadDir(data); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// copyFile copies the test binary to where another user can run it.
// copyProgram copies this program by another: a file that this process has open
// for writing, however briefly, is inherited by children that tests start at the
// same time, and cannot be run until they close it.
func copyProgram(t *testing.T, to string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", exe, to).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func allKeys() authz.KeyQuery {
	return authz.KeyQuery{Customer: authz.DefaultCustomer, Status: "all", Limit: 1}
}
