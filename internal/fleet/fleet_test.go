package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// binary is the program, built once for the tests of this package.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "latchkey-fleet-")
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

// The figures in their small form: what no machine is too slow for is a failure,
// and no revocation takes long.
func TestFleet_Small(t *testing.T) {
	f := measure(t, binary, small)
	f.check(t)
	t.Logf("\n%s", f.page().Text())
	if p99 := quantile(f.revoked.lag, 0.99); p99 > 2*time.Second {
		t.Errorf("the last allow came %v after the reply to a revocation", p99)
	}
}

// two is a small fleet for faults.
func two(t *testing.T, change ...func(*plan)) *fleet {
	t.Helper()
	p := plan{binary: binary, controls: 2, sidecars: 2, staleness: 60 * time.Second, skew: 5 * time.Second}
	for _, c := range change {
		c(&p)
	}
	return startFleet(t, p)
}

// reasonOf asks a node, which has to deny.
func (f *fleet) reasonOf(t *testing.T, n *node, body string) string {
	t.Helper()
	a, err := n.ask(t.Context(), f.caller, body)
	if err != nil || a.allow {
		t.Fatalf("%s: allow %t, %v", n.name, a.allow, err)
	}
	return a.reason
}

// key makes a key that may read, and waits until every node allows by it.
func (f *fleet) key(t *testing.T, name string) (id, body string) {
	t.Helper()
	id = f.makeKey(t, f.controls[0], name, name+"/*")
	body = question{"access_key", id, name + "/a"}.body()
	for _, n := range f.nodes() {
		await(t, 20*time.Second, n.name+" allows by "+name, func() error { return f.allows(n, body) })
	}
	return id, body
}

func (f *fleet) revokeKey(t *testing.T, n *node, id string) {
	t.Helper()
	n.must(t, http.StatusNoContent, f.root, http.MethodDelete, "/v1/access_keys/"+id, nil, "X-Customer-ID", "default")
}

// gone waits until nodes deny because the key was revoked: not because they
// cannot tell.
func (f *fleet) gone(t *testing.T, body string, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		await(t, 20*time.Second, n.name+" denies", func() error { return f.denies(n, body) })
		if reason := f.reasonOf(t, n, body); reason != "key_revoked" {
			t.Errorf("%s denies for %s", n.name, reason)
		}
	}
}

// The server that made the change dies before anybody was told: the other one
// tells.
func TestFault_ControlPlaneKilledBetweenCommitAndPublish(t *testing.T) {
	t.Parallel()
	f := two(t)
	id, body := f.key(t, "doomed")
	for _, p := range f.toControl { // what they learn, they learn from Redis
		p.Blackhole()
	}
	f.toRedis[0].Blackhole()
	f.revokeKey(t, f.controls[0], id)
	f.controls[0].kill()
	f.gone(t, body, f.controls[1])
	f.gone(t, body, f.sidecars...)
}

func TestFault_RedisFlushed(t *testing.T) {
	t.Parallel()
	f := two(t)
	id, body := f.key(t, "flushed")
	other, otherBody := f.key(t, "later")
	for _, p := range f.toControl {
		p.Blackhole()
	}
	f.redis.Do(t, "FLUSHALL")
	f.revokeKey(t, f.controls[0], id)
	f.gone(t, body, f.sidecars...)
	f.redis.Do(t, "FLUSHALL")
	f.revokeKey(t, f.controls[1], other)
	f.gone(t, otherBody, f.sidecars...)
}

// Redis that has no room takes no change; the control planes tell it all the
// same, and once there is room again Redis has everything.
func TestFault_RedisOutOfMemory(t *testing.T) {
	t.Parallel()
	f := two(t)
	id, body := f.key(t, "crowded")
	other, otherBody := f.key(t, "roomy")
	f.redis.Do(t, "CONFIG", "SET", "maxmemory", "1")
	f.revokeKey(t, f.controls[0], id)
	f.gone(t, body, f.nodes()...)
	f.redis.Do(t, "CONFIG", "SET", "maxmemory", "0")
	for _, p := range f.toControl {
		p.Blackhole()
	}
	f.revokeKey(t, f.controls[0], other)
	f.gone(t, otherBody, f.nodes()...)
}

func TestFault_RedisThatEvictsIsWarnedOf(t *testing.T) {
	t.Parallel()
	f := two(t, func(p *plan) { p.redisArgs = []string{"--maxmemory-policy", "allkeys-lru"} })
	for _, n := range f.controls {
		await(t, 20*time.Second, n.name+" warns", func() error {
			if log := n.log.String(); !strings.Contains(log, "allkeys-lru") {
				return fmt.Errorf("it says %s", log)
			}
			return nil
		})
	}
}

func TestFault_SidecarWithoutRedisOrWithoutControlPlane(t *testing.T) {
	t.Parallel()
	f := two(t)
	id, body := f.key(t, "partitioned")
	f.toRedis[len(f.controls)].Blackhole() // of the first sidecar
	f.toControl[1].Blackhole()             // of the second
	f.revokeKey(t, f.controls[0], id)
	f.gone(t, body, f.nodes()...)
}

// Whoever may write to Redis can put there what he wants: it is no record of
// ours, counted, and asked for elsewhere.
func TestFault_RedisHoldsForgedEntries(t *testing.T) {
	t.Parallel()
	f := two(t)
	id, body := f.key(t, "forged")
	f.revokeKey(t, f.controls[0], id)
	f.gone(t, body, f.nodes()...)
	_, live := f.key(t, "genuine")
	kept := strings.Fields(f.redis.Do(t, "KEYS", "lk1:{default}:r:*"))
	if len(kept) == 0 {
		t.Fatal("there are no records in Redis")
	}
	for i, key := range kept {
		switch value := f.redis.Do(t, "GET", key); i % 3 {
		case 0:
			f.redis.Do(t, "SET", key, "garbage")
		case 1:
			f.redis.Do(t, "SET", key, strings.NewReplacer(`"revoked_at":`, `"revoked_at":9`).Replace(value))
		case 2:
			f.redis.Do(t, "SET", key, f.redis.Do(t, "GET", kept[(i+1)%len(kept)]))
		}
	}
	for _, n := range f.sidecars { // nothing is in memory
		n.stop(t)
		n.start(t)
		n.ready(t)
	}
	for _, n := range f.nodes() {
		if reason := f.reasonOf(t, n, body); reason != "key_revoked" {
			t.Errorf("%s denies for %s", n.name, reason)
		}
		await(t, 10*time.Second, n.name+" allows by what is genuine", func() error { return f.allows(n, live) })
	}
	counted := 0
	for _, n := range f.sidecars {
		for _, line := range strings.Split(n.metrics(t), "\n") {
			if strings.Contains(line, "forged") && !strings.HasPrefix(line, "#") && !strings.HasSuffix(line, " 0") {
				counted++
			}
		}
	}
	if counted == 0 {
		t.Error("no forged record was counted")
	}
}

// A backup that was put back knows nothing of what came after it, and Redis and
// the sidecars do.
func TestFault_RestoredBackup(t *testing.T) {
	t.Parallel()
	f := two(t)
	_, before := f.key(t, "before")
	stop := func() {
		for _, n := range f.controls {
			n.stop(t)
		}
	}
	start := func() {
		for _, n := range f.controls {
			n.start(t)
		}
		for _, n := range f.controls {
			n.ready(t)
		}
	}
	stop()
	f.pg.Copy(t, f.database, "backup")
	start()
	_, after := f.key(t, "after")
	stop()
	f.pg.Copy(t, "backup", f.database)

	n := f.controls[0]
	n.start(t)
	select {
	case <-n.exited:
	case <-time.NewTimer(30 * time.Second).C:
		t.Fatalf("a server starts on a database that is behind Redis\n%s", n.log)
	}
	if log := n.log.String(); n.cmd.ProcessState.Success() || !strings.Contains(log, "new-epoch") {
		t.Errorf("%v\n%s", n.cmd.ProcessState, log)
	}
	if out, err := f.verb("store", "new-epoch", "--database", f.database, "--keyring-file", f.keyringFile()); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	start()
	for _, n := range f.nodes() {
		await(t, 30*time.Second, n.name+" denies what the backup does not know", func() error { return f.denies(n, after) })
		await(t, 30*time.Second, n.name+" allows what it does", func() error { return f.allows(n, before) })
		if reason := f.reasonOf(t, n, after); reason != "key_unknown" {
			t.Errorf("%s denies for %s", n.name, reason)
		}
	}
}

// During an upgrade the newer release has brought the tables up to date, and the
// one before it still serves, and may be started again.
func TestFault_ReleaseBeforeOnTablesOfTheOneAfter(t *testing.T) {
	t.Parallel()
	f := two(t)
	_, body := f.key(t, "upgraded")
	for _, statement := range []string{
		`ALTER TABLE access_keys ADD COLUMN newer TEXT NOT NULL DEFAULT 'x'`, `ALTER TABLE grants ADD COLUMN newer BIGINT`,
		`ALTER TABLE feed ADD COLUMN newer TEXT NOT NULL DEFAULT ''`, `ALTER TABLE customers ADD COLUMN newer BIGINT NOT NULL DEFAULT 0`,
		`CREATE TABLE newer (id TEXT PRIMARY KEY)`, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, true)`,
	} {
		f.pg.SQL(t, f.database, statement)
	}
	f.controls[1].stop(t)
	f.controls[1].start(t)
	f.controls[1].ready(t)
	id, later := f.key(t, "afterwards")
	f.revokeKey(t, f.controls[1], id)
	f.gone(t, later, f.nodes()...)
	for _, n := range f.nodes() {
		await(t, 10*time.Second, n.name+" still allows", func() error { return f.allows(n, body) })
	}
}

// A control plane whose clock stands still, as under a debugger, holds nobody up.
func TestFault_FrozenControlPlane(t *testing.T) {
	t.Parallel()
	f := two(t)
	id, body := f.key(t, "frozen")
	f.controls[1].signal(t, syscall.SIGSTOP)
	t.Cleanup(func() { f.controls[1].signal(t, syscall.SIGCONT) })
	f.revokeKey(t, f.controls[0], id)
	f.gone(t, body, f.controls[0], f.sidecars[0], f.sidecars[1]) // the second one hears it from Redis
}
