package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tidwall/gjson"

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
	text, err := command(t, nil, "audit", "verify", "--json", "--database", f.database, "--keyring-file", f.keyring)
	out := []byte(text)
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

// PostgreSQL goes away under load, by an operator's restart and by a crash, and
// comes back: clients are told to come again, what was acknowledged is there,
// each key has one event, and the servers go on by themselves.
func TestPostgres_RestartedUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	server := servers.StartPostgres(t)
	database := server.Database(t)
	f := startFleet(t, 2, database, "--max-active-keys", "1000000")
	var mu sync.Mutex
	var acknowledged []string
	var refused int
	answered := make(chan int, 1024) // the status of each reply, as far as somebody looks
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for c := range 6 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				status, retry, id, err := f.create(f.nodes[c%2], fmt.Sprintf("k%d-%d", c, n))
				mu.Lock()
				switch {
				case err != nil:
					t.Error(err)
				case status == http.StatusCreated:
					acknowledged = append(acknowledged, id)
				case status == http.StatusServiceUnavailable:
					refused++
					if retry == "" {
						t.Error("503 without Retry-After")
					}
				default:
					t.Errorf("status %d", status)
				}
				mu.Unlock()
				select {
				case answered <- status:
				default:
				}
			}
		})
	}
	await := func(status int, times int) {
		t.Helper()
		deadline := time.NewTimer(time.Minute)
		defer deadline.Stop()
		for times > 0 {
			select {
			case got := <-answered:
				if got == status {
					times--
				}
			case <-deadline.C:
				t.Fatalf("no reply with the status %d", status)
			}
		}
	}
	drain := func() {
		for len(answered) > 0 {
			<-answered
		}
	}
	await(http.StatusCreated, 50)
	for _, end := range []func(testing.TB){server.Stop, server.Kill} {
		end(t)
		drain()
		await(http.StatusServiceUnavailable, 12)
		if status, reply, err := f.nodes[0].send(ctx, f.root, http.MethodPost, "/decision", map[string]any{
			"subject": map[string]any{"type": "access_key", "id": acknowledged[0]}, "action": map[string]any{"name": "read"},
			"resource": map[string]any{"type": "policies", "id": "x"}}); err != nil || status != http.StatusOK {
			t.Errorf("a decision meanwhile: %d %s %v", status, reply.Raw, err)
		}
		server.Start(t)
		drain()
		await(http.StatusCreated, 50)
	}
	stop()
	wg.Wait()
	stored := strings.Fields(server.SQL(t, database, `SELECT id FROM access_keys`))
	for _, id := range acknowledged {
		if !slices.Contains(stored, id) {
			t.Errorf("the acknowledged key %s is lost", id)
		}
	}
	events := f.verify(t)
	if got, want := server.SQL(t, database, `SELECT count(*), count(DISTINCT resource_id) FROM audit_events WHERE action = 'access_key.create'`),
		fmt.Sprintf("%d|%d", len(stored), len(stored)); got != want || events < int64(len(stored)) {
		t.Errorf("events of keys, and keys with one: %s; want %s (of %d events)", got, want, events)
	}
	if unknown := len(stored) - len(acknowledged); unknown > refused {
		t.Errorf("%d keys beyond those acknowledged, after %d refusals", unknown, refused)
	}
}

// create makes a key and tells its id, or what the refusal says of when to come
// again.
func (f *fleet) create(p *process, name string) (status int, retryAfter, id string, err error) {
	body, err := json.Marshal(newKeyBody(name))
	if err != nil {
		return 0, "", "", err
	}
	req, err := http.NewRequest(http.MethodPost, p.url+"/v1/access_keys", bytes.NewReader(body))
	if err != nil {
		return 0, "", "", err
	}
	for name, value := range map[string]string{"Authorization": "Bearer " + f.root, "X-Customer-ID": "default", "Content-Type": "application/json"} {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header.Get("Retry-After"), gjson.GetBytes(text, "id").String(), err
}

// command runs latchkey to its end.
func command(t *testing.T, env []string, args ...string) (out string, err error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(append(os.Environ(), "LATCHKEY_TEST_RUN=main"), env...)
	text, err := cmd.CombinedOutput()
	return string(text), err
}

func TestPostgres_RefusesAServerWithAnotherKeyring(t *testing.T) {
	t.Parallel()
	database := servers.Postgres(t)
	f := startFleet(t, 1, database)
	other := t.TempDir()
	_, err := startServer(other, nil, []string{"--database", database}, nil)
	if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), "another_keyring") {
		t.Fatalf("got %v", err)
	}
	// Where the keyring of before is lost, an operator may say so.
	if err := f.nodes[0].end(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	out, err := command(t, []string{"LATCHKEY_DATABASE=" + database}, "store", "new-epoch", "--data", other, "--keyring-replaced")
	if err != nil || !strings.Contains(out, "the epoch is now ") {
		t.Fatalf("%v\n%s", err, out)
	}
	p, err := startServer(other, nil, []string{"--database", database}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = p.end(syscall.SIGKILL) // the test is over
}

// A record moves from its file to PostgreSQL: its keys and its trail with it.
func TestStoreCopy_MovesARecordToPostgreSQL(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	p, err := startServer(data, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	root, err := rootKey(data)
	if err != nil {
		t.Fatal(err)
	}
	status, made, err := p.send(t.Context(), root, http.MethodPost, "/v1/access_keys", newKeyBody("moves"))
	if err != nil || status != http.StatusCreated {
		t.Fatalf("%d %s %v", status, made.Raw, err)
	}
	database := servers.Postgres(t)
	args := []string{"store", "copy", "--data", data, "--to", database}
	if out, err := command(t, nil, args...); err == nil || !strings.Contains(out, "another latchkey process") {
		t.Errorf("beside the server: %v\n%s", err, out)
	}
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(data, "latchkey.db"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := command(t, nil, args...)
	if err != nil || !strings.Contains(out, "default: 1 events, holds") || !strings.Contains(out, "access_keys          1\n") {
		t.Fatalf("%v\n%s", err, out)
	}
	if after, err := os.ReadFile(filepath.Join(data, "latchkey.db")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the source changed: %v", err)
	}
	if out, err := command(t, nil, args...); err == nil || !strings.Contains(out, "target_not_empty") {
		t.Errorf("a second time: %v\n%s", err, out)
	}
	p, err = startServer(t.TempDir(), nil, []string{"--database", database, "--keyring-file", filepath.Join(data, "keyring.json")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.end(syscall.SIGKILL) // the test is over
	key := made.Get("key").String()
	if status, reply, err := p.send(t.Context(), key, http.MethodPost, "/decision", map[string]any{
		"subject": map[string]any{"type": "access_key", "id": made.Get("id").String()}, "action": map[string]any{"name": "read"},
		"resource": map[string]any{"type": "policies", "id": "x"}}); err != nil || !reply.Get("decision").Bool() {
		t.Errorf("with the key of before: %d %s %v", status, reply.Raw, err)
	}
}

// The password of the database comes up in nothing that is printed or logged.
func TestPostgres_ThePasswordIsSecret(t *testing.T) {
	t.Parallel()
	const secret = "hunter2-hunter2"
	database := servers.Postgres(t) + "&password=" + secret // which this server does not ask for
	f := startFleet(t, 1, database, "--log-level", "debug")
	nobody := "postgres://me:" + secret + "@127.0.0.1:1/db"
	for _, args := range [][]string{
		{"migrate"}, {"init"}, {"audit", "verify"}, {"serve", "--listen", "127.0.0.1:0"}, {"store", "new-epoch"}, {"root", "rotate"},
	} {
		for _, url := range []string{nobody, nobody + "?sslmode=" + secret, secret} {
			if args[0] != "root" {
				args = append(args[:len(args):len(args)], "--keyring-file", f.keyring)
			}
			out, err := command(t, []string{"LATCHKEY_DATABASE=" + url, "LATCHKEY_DATA=" + t.TempDir()}, args...)
			if err == nil || strings.Contains(out, secret) {
				t.Errorf("%v with %s: %v\n%s", args, url, err, out)
			}
		}
	}
	if err := f.nodes[0].end(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if log := f.nodes[0].out.String() + f.nodes[0].err.String(); strings.Contains(log, secret) {
		t.Error(log)
	}
}

func TestMigrate_GoesBeforeAServerThatMayNot(t *testing.T) {
	t.Parallel()
	database := servers.Postgres(t)
	data := t.TempDir()
	_, err := startServer(data, nil, []string{"--database", database, "--no-migrate"}, nil)
	if err == nil || !strings.Contains(err.Error(), "database_behind") {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"the database went from version 0 to ", "already"} {
		if out, err := command(t, nil, "migrate", "--database", database); err != nil || !strings.Contains(out, want) {
			t.Errorf("%v\n%s", err, out)
		}
	}
	p, err := startServer(data, nil, []string{"--database", database, "--no-migrate"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = p.end(syscall.SIGKILL) // the test is over
}
