package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/internal/servers"
)

// plan is what a fleet consists of.
type plan struct {
	binary             string
	controls, sidecars int
	staleness, skew    time.Duration
	redisArgs          []string
	controlArgs        []string
	sidecarArgs        []string
}

// fleet is PostgreSQL, Redis, control planes and sidecars, all processes of this
// machine. Every node reaches each of the others through a proxy of its own, that
// can be cut.
type fleet struct {
	tb              testing.TB
	plan            plan
	dir             string
	staleness, skew time.Duration

	pg       *servers.PostgresServer
	database string // its URL, not through a proxy
	redis    *servers.RedisServer

	controls, sidecars []*node
	// links, by the node that they begin at: to PostgreSQL, to Redis, to the
	// control plane.
	toPostgres, toRedis, toControl []*servers.Proxy

	root   string // key
	caller string // key of those who ask for decisions
	marks  int
}

// keyringFile is shared by all control planes.
func (f *fleet) keyringFile() string { return filepath.Join(f.dir, "keyring.json") }

// startFleet starts one, and waits until all of it is ready.
func startFleet(tb testing.TB, p plan) *fleet {
	tb.Helper()
	f := &fleet{tb: tb, plan: p, dir: tb.TempDir(), staleness: p.staleness, skew: p.skew}
	// As it is run: without statistics of what was just written it would go over
	// all grants to find those of one subject.
	f.pg = servers.StartPostgres(tb, "autovacuum=on", "autovacuum_naptime=5s")
	f.database = f.pg.Database(tb)
	f.redis = servers.Redis(tb, append([]string{"--port", "PORT"}, p.redisArgs...)...)
	for i := range p.controls {
		f.addControl(tb, i)
		f.controls[i].start(tb)
	}
	for _, n := range f.controls {
		n.ready(tb)
	}
	f.root = f.findRoot(tb)
	f.caller = f.newKey(tb, f.controls[0], "caller", `{"customer":{"decision":true}}`).Get("key").String()
	sidecarKey := f.newKey(tb, f.controls[0], "sidecars", `{"customer":{"decision":true,"sidecar":true}}`).Get("key").String()
	for i := range p.sidecars {
		f.addSidecar(tb, i, sidecarKey)
		f.sidecars[i].start(tb)
	}
	for _, n := range f.sidecars {
		n.ready(tb)
	}
	return f
}

func (f *fleet) addControl(tb testing.TB, i int) {
	tb.Helper()
	pg, redis := servers.NewProxy(tb, "unix:"+f.pg.Socket()), servers.NewProxy(tb, "unix:"+f.redis.Socket())
	f.toPostgres, f.toRedis = append(f.toPostgres, pg), append(f.toRedis, redis)
	args := []string{"serve", "--data=" + filepath.Join(f.dir, fmt.Sprintf("control-%d", i+1)), "--keyring-file=" + f.keyringFile(),
		"--max-staleness=" + f.staleness.String(), "--max-clock-skew=" + f.skew.String(), "--max-active-keys=1000000"}
	f.controls = append(f.controls, newNode(tb, f.plan.binary, fmt.Sprintf("control-%d", i+1),
		[]string{"LATCHKEY_DATABASE=" + f.pg.Through(tb, f.database, pg.Addr()), "LATCHKEY_REDIS=redis://" + redis.Addr() + "/0"},
		append(args, f.plan.controlArgs...)...))
}

// addSidecar makes one that follows a control plane, in turns one of them.
func (f *fleet) addSidecar(tb testing.TB, i int, key string) {
	tb.Helper()
	control := f.controls[i%len(f.controls)]
	link, redis := servers.NewProxy(tb, strings.TrimPrefix(control.base, "http://")), servers.NewProxy(tb, "unix:"+f.redis.Socket())
	f.toControl, f.toRedis = append(f.toControl, link), append(f.toRedis, redis)
	args := []string{"sidecar", "--data=" + filepath.Join(f.dir, fmt.Sprintf("sidecar-%d", i+1)), "--control=http://" + link.Addr(),
		"--max-staleness=" + f.staleness.String(), "--max-clock-skew=" + f.skew.String()}
	f.sidecars = append(f.sidecars, newNode(tb, f.plan.binary, fmt.Sprintf("sidecar-%d", i+1),
		[]string{"LATCHKEY_KEY=" + key, "LATCHKEY_REDIS=redis://" + redis.Addr() + "/0"}, append(args, f.plan.sidecarArgs...)...))
}

// findRoot reads the root key, which one of the control planes has made.
func (f *fleet) findRoot(tb testing.TB) string {
	tb.Helper()
	found, err := filepath.Glob(filepath.Join(f.dir, "control-*", "root.key"))
	if err != nil || len(found) != 1 {
		tb.Fatalf("root keys: %v %v", found, err)
	}
	text, err := os.ReadFile(found[0])
	if err != nil {
		tb.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// nodes are all that decide.
func (f *fleet) nodes() []*node {
	return append(append([]*node{}, f.controls...), f.sidecars...)
}

// newKey makes an access key; the reply has its secret.
func (f *fleet) newKey(tb testing.TB, n *node, name, scopes string) gjson.Result {
	tb.Helper()
	return n.must(tb, http.StatusCreated, f.root, http.MethodPost, "/v1/access_keys",
		fmt.Sprintf(`{"scopes":%s,"metadata":{"username":"fleet","keyname":%q}}`, scopes, name), "X-Customer-ID", "default")
}

// makeKey makes one that may read the documents of a selector, and returns its id.
func (f *fleet) makeKey(tb testing.TB, n *node, name, selector string) string {
	tb.Helper()
	return f.newKey(tb, n, name, fmt.Sprintf(`{"customer":{"documents":[{"f":%q,"p":2}]}}`, selector)).Get("id").String()
}

func grantBody(typ, id, selector string, ends time.Time) string {
	return fmt.Sprintf(`{"subject":{"type":%q,"id":%q},"entries":{"documents":[{"f":%q,"p":2}]},"expires_at":%q,"reason":"fleet"}`,
		typ, id, selector, ends.UTC().Format(time.RFC3339Nano))
}

// makeGrant lets a subject read the documents of a selector, and returns the
// grant's id.
func (f *fleet) makeGrant(tb testing.TB, n *node, typ, id, selector string, ends time.Time) string {
	tb.Helper()
	return n.must(tb, http.StatusCreated, f.root, http.MethodPost, "/v1/grants", grantBody(typ, id, selector, ends), "X-Customer-ID", "default").Get("id").String()
}

// errGrant is a grant that was not made.
var errGrant = errors.New("the grant was not made")

func (f *fleet) tryGrant(n *node, typ, id, selector string, ends time.Time) error {
	status, reply, err := n.call(context.Background(), f.root, http.MethodPost, "/v1/grants", grantBody(typ, id, selector, ends), "X-Customer-ID", "default")
	if err == nil && status != http.StatusCreated {
		err = fmt.Errorf("%w: %d %s", errGrant, status, reply.Raw)
	}
	return err
}

func (f *fleet) revokeGrant(tb testing.TB, n *node, id string) {
	tb.Helper()
	n.must(tb, http.StatusNoContent, f.root, http.MethodDelete, "/v1/grants/"+id, nil, "X-Customer-ID", "default")
}

// questions makes so many keys and grants, and two questions about each: one
// that is permitted, and one that is not.
func (f *fleet) questions(tb testing.TB, n int) []known {
	tb.Helper()
	list := make([]known, 0, 2*n)
	for i := range n {
		control, own, other := f.controls[i%len(f.controls)], fmt.Sprintf("team-%d/report", i), fmt.Sprintf("team-%d/report", i+1)
		q := question{typ: "user", id: fmt.Sprintf("reader-%d", i)}
		if i%2 == 0 {
			q = question{typ: "access_key", id: f.makeKey(tb, control, fmt.Sprintf("reader-%d", i), fmt.Sprintf("team-%d/*", i))}
		} else {
			f.makeGrant(tb, control, q.typ, q.id, fmt.Sprintf("team-%d/*", i), time.Now().Add(time.Hour))
		}
		q.resource = own
		list = append(list, known{q.body(), true})
		q.resource = other
		list = append(list, known{q.body(), false})
	}
	return list
}

// warm asks every node everything until it knows it, so that from then on all
// lies in memory.
func (f *fleet) warm(tb testing.TB, questions []known) {
	tb.Helper()
	for _, n := range f.nodes() {
		for _, q := range questions {
			check := f.denies
			if q.permit {
				check = f.allows
			}
			await(tb, 10*time.Second, n.name+" knows "+q.body, func() error { return check(n, q.body) })
		}
	}
}

// cutAll takes from every node all that it follows.
func (f *fleet) cutAll() {
	for _, p := range f.links() {
		p.Blackhole()
	}
}

func (f *fleet) mendAll() {
	for _, p := range f.links() {
		p.Pass()
	}
}

func (f *fleet) links() []*servers.Proxy {
	return append(append(append([]*servers.Proxy{}, f.toPostgres...), f.toRedis...), f.toControl...)
}

// replica starts one of Redis, and waits until it has what Redis has.
func (f *fleet) replica(tb testing.TB) *servers.RedisServer {
	tb.Helper()
	replica := servers.Redis(tb, "--port", "PORT", "--replicaof", "127.0.0.1", strconv.Itoa(f.redis.Port))
	await(tb, 30*time.Second, "the replica has what Redis has", func() error {
		if info := replica.Do(tb, "INFO", "replication"); !strings.Contains(info, "master_link_status:up") {
			return errors.New(info)
		}
		return nil
	})
	return replica
}

// failOver loses Redis and puts its replica in its place.
func (f *fleet) failOver(tb testing.TB, replica *servers.RedisServer) {
	tb.Helper()
	f.redis.Kill(tb)
	replica.Do(tb, "REPLICAOF", "NO", "ONE")
	for _, p := range f.toRedis {
		p.To("unix:" + replica.Socket())
		p.Cut()
	}
	f.redis = replica
}

// verb runs the program once and returns what it printed.
func (f *fleet) verb(args ...string) (string, error) {
	cmd := exec.Command(f.plan.binary, args...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
