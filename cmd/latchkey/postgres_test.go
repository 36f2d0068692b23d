package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/servers"
)

// fleet are servers on one PostgreSQL, each in a process and a data directory
// of its own, with one keyring and one root key.
type fleet struct {
	nodes    []*process
	keyring  string
	database string
	root     string
}

// startFleet starts n servers at the same time, on a database that is empty.
func startFleet(t *testing.T, n int, database string, args ...string) *fleet {
	t.Helper()
	dir := t.TempDir()
	f := &fleet{nodes: make([]*process, n), keyring: filepath.Join(dir, "keyring.json"), database: database}
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			f.nodes[i], errs[i] = startServer(filepath.Join(dir, fmt.Sprint("node", i)), []string{"LATCHKEY_DATABASE=" + database},
				append([]string{"--keyring-file", f.keyring}, args...), nil)
		})
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, p := range f.nodes {
			if p != nil {
				_ = p.end(syscall.SIGKILL) // one that has ended has nothing to say
			}
		}
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	made := 0
	for i := range n {
		if key, err := rootKey(filepath.Join(dir, fmt.Sprint("node", i))); err == nil {
			f.root = key
			made++
		}
	}
	if made != 1 {
		t.Fatalf("%d root keys were made", made)
	}
	return f
}

// verify runs latchkey audit verify and returns how many events the customer's
// chain has.
func (f *fleet) verify(t *testing.T) int64 {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "audit", "verify", "--json", "--database", f.database, "--keyring-file", f.keyring)
	cmd.Env = append(os.Environ(), "LATCHKEY_TEST_RUN=main")
	out, err := cmd.CombinedOutput()
	var report struct {
		Holds  bool
		Chains []struct {
			Chain  string
			Events int64
		}
	}
	if err != nil || json.Unmarshal(out, &report) != nil || !report.Holds {
		t.Fatalf("audit verify: %v\n%s", err, out)
	}
	for _, c := range report.Chains {
		if c.Chain == "default" {
			return c.Events
		}
	}
	t.Fatalf("no chain of the customer: %s", out)
	return 0
}

// Attack on the limit: two servers are asked at the same time for the last keys
// that a customer may have.
func TestPostgres_TwoServersKeepOneLimitAndOneSequence(t *testing.T) {
	t.Parallel()
	database := servers.Postgres(t)
	const limit = 20
	f := startFleet(t, 2, database, "--max-active-keys", fmt.Sprint(limit))
	var made, refused atomic.Int64
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for n := range 5 {
				status, reply, err := f.nodes[c%2].send(context.Background(), f.root, http.MethodPost, "/v1/access_keys", newKeyBody(fmt.Sprintf("k%d-%d", c, n)))
				switch {
				case err != nil:
					t.Error(err)
				case status == http.StatusCreated:
					made.Add(1)
				case reply.Get("code").String() == "too_many_keys":
					refused.Add(1)
				default:
					t.Errorf("%d %s", status, reply.Raw)
				}
			}
		})
	}
	wg.Wait()
	if made.Load() != limit || refused.Load() != 40-limit {
		t.Errorf("made %d keys and refused %d, want %d and %d", made.Load(), refused.Load(), limit, 40-limit)
	}
	if got := servers.SQL(t, database, `SELECT count(*) FROM access_keys`); got != fmt.Sprint(limit) {
		t.Errorf("%s keys are stored", got)
	}
	if events := f.verify(t); events != limit {
		t.Errorf("%d events for %d changes", events, limit)
	}
	for _, p := range f.nodes {
		if strings.Contains(p.err.String(), "panic") {
			t.Error(p.err)
		}
	}
}
