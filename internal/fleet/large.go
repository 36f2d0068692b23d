package main

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/page"
)

// Goals at a million records of each kind.
const (
	wantTrips = 1.0  // to Redis, a miss
	wantWarm  = 1.25 // processor time of a warm decision, to that with a thousand
)

// cacheSize is what sidecars are given, in MiB.
const cacheSize = 128

// few is what many is compared with.
const few = 1000

// world is a fleet of one control plane and one sidecar, with so many keys and so
// many grants.
type world struct {
	*fleet
	n       int
	empty   int64 // bytes that the sidecar holds before it is asked anything
	rebuilt time.Duration
	ready   time.Duration // of the control plane
}

// keyOf is the id of the nth key, as the database makes it.
func keyOf(n int) string {
	sum := md5.Sum([]byte("key" + strconv.Itoa(n)))
	h := hex.EncodeToString(sum[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// fill writes keys and grants of the customer into tables that a server has made:
// rows as it writes them itself, all at once and without events. What only lists
// are filtered by is left out.
func (w *world) fill(tb testing.TB) {
	tb.Helper()
	const never = "9223372036854775807"
	for _, statement := range []string{
		`INSERT INTO access_keys (id, customer_id, handle, scopes, names, metadata, created_at, expires_at, revoked_at, rotated_from, last_used_at, last_used_source, version)
			SELECT md5('key' || n)::uuid::text, 'default', 'lk_live_' || lpad(to_hex(n), 12, '0'),
				'{"customer":{"documents":[{"f":"team-' || n % 1000 || '/*","p":6}]}}', 0, '{"keyname":"key ' || n || '","username":"user' || n % 97 || '"}',
				1800000000000000, 4100000000000000, ` + never + `, '', ` + never + `, '', 0 FROM generate_series(0, LAST) AS n`,
		`INSERT INTO access_key_secrets (kid, key_id, mode, digest, pepper, ends_at)
			SELECT lpad(to_hex(n), 12, '0'), md5('key' || n)::uuid::text, 'live', sha256(('secret' || n)::bytea), '', ` + never + ` FROM generate_series(0, LAST) AS n`,
		`INSERT INTO grants (id, customer_id, subject_type, subject_id, entries, reason, not_before, expires_at, revoked_at, created_at, author_type, author_id, version)
			SELECT md5('grant' || n)::uuid::text, 'default', 'user', 'user-' || n, '{"documents":[{"f":"team-' || n % 1000 || '/*","p":6}]}', 'fleet',
				1700000000000000, 4100000000000000, ` + never + `, 1700000000000000, 'root', 'root', 0 FROM generate_series(0, LAST) AS n`,
		`ANALYZE`,
	} {
		w.pg.SQL(tb, w.database, strings.ReplaceAll(statement, "LAST", strconv.Itoa(w.n-1)))
	}
}

// startWorld makes the records, brings them to Redis, and starts a sidecar.
func startWorld(tb testing.TB, binary string, n int) *world {
	tb.Helper()
	w := &world{fleet: startFleet(tb, plan{binary: binary, controls: 1, sidecars: 1, staleness: 30 * time.Second, skew: 5 * time.Second,
		sidecarArgs: []string{"--cache-size=" + strconv.Itoa(cacheSize)}}), n: n}
	control, side := w.controls[0], w.sidecars[0]
	side.stop(tb)
	control.stop(tb)
	w.fill(tb)
	began := time.Now()
	control.start(tb)
	await(tb, 3*time.Minute, "the control plane is ready with all keys", control.health)
	w.ready = time.Since(began)
	w.redis.Do(tb, "FLUSHALL")
	began = time.Now()
	out, err := w.verb("cache", "rebuild", "--database="+w.database, "--keyring-file="+w.keyringFile(), "--redis="+w.redis.URL())
	if err != nil {
		tb.Fatalf("cache rebuild: %v\n%s", err, out)
	}
	w.rebuilt = time.Since(began)
	progress("%s keys and grants: control plane ready after %.1f s, Redis rebuilt in %.1f s", page.Thousands(float64(n)), w.ready.Seconds(), w.rebuilt.Seconds())
	side.start(tb)
	side.ready(tb)
	await(tb, 20*time.Second, "the sidecar decides", func() error { return w.allows(side, w.about(0)) })
	w.empty = resident(tb, side)
	return w
}

// about is a question that is permitted: of the even ones about keys, of the odd
// ones about grants.
func (w *world) about(i int) string {
	n := i / 2 % w.n
	q := question{"access_key", keyOf(n), fmt.Sprintf("team-%d/report", n%1000)}
	if i%2 == 1 {
		q.typ, q.id = "user", fmt.Sprintf("user-%d", n)
	}
	return q.body()
}

// sweep asks the sidecar about all of [from, to), each once, a hundred at a time.
func (w *world) sweep(tb testing.TB, from, to int) {
	tb.Helper()
	const batch, clients = 100, 8
	var running sync.WaitGroup
	var once sync.Once
	var failed error
	for c := range clients {
		running.Go(func() {
			for i := from + c*batch; i < to; i += clients * batch {
				var b strings.Builder
				for k := i; k < min(i+batch, to); k++ {
					if k > i {
						b.WriteByte(',')
					}
					b.WriteString(w.about(k))
				}
				status, reply, err := w.sidecars[0].call(context.Background(), w.caller, http.MethodPost, "/decision/batch", `{"evaluations":[`+b.String()+`]}`)
				if n := strings.Count(reply.Raw, `"decision":true`); err != nil || status != http.StatusOK || n != min(i+batch, to)-i {
					once.Do(func() { failed = fmt.Errorf("%d allows of %d: %d %.300s %w", n, batch, status, reply.Raw, err) })
					return
				}
			}
		})
	}
	running.Wait()
	if failed != nil {
		tb.Fatal(failed)
	}
}

// resident is the memory that a process holds, in bytes.
func resident(tb testing.TB, n *node) int64 {
	tb.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(n.cmd.Process.Pid) + "/status")
	if err != nil {
		tb.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return kib << 10
}

// processorTime is how much a process has used.
func processorTime(tb testing.TB, n *node) time.Duration {
	tb.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(n.cmd.Process.Pid) + "/stat")
	if err != nil {
		tb.Fatal(err)
	}
	// The name in parentheses may hold anything; what follows does not.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	ticks := 0
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			tb.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100 // USER_HZ on every Linux that Go runs on
}

// warm asks for so many decisions, picked among the first of, and returns the
// sidecar's processor time for one.
func (w *world) warm(tb testing.TB, of, count int) time.Duration {
	tb.Helper()
	const clients = 8
	before := processorTime(tb, w.sidecars[0])
	var running sync.WaitGroup
	var once sync.Once
	var failed error
	for c := range clients {
		running.Go(func() {
			random := rand.New(rand.NewPCG(uint64(c), 5539))
			for range count / clients {
				if a, err := w.sidecars[0].ask(context.Background(), w.caller, w.about(random.IntN(of))); err != nil || !a.allow {
					once.Do(func() { failed = fmt.Errorf("%+v %w", a, err) })
					return
				}
			}
		})
	}
	running.Wait()
	if failed != nil {
		tb.Fatal(failed)
	}
	return (processorTime(tb, w.sidecars[0]) - before) / time.Duration(count)
}

var commandCalls = regexp.MustCompile(`cmdstat_([^:]+):calls=(\d+)`)

// commands are how often Redis was asked for each since the last reset.
func (w *world) commands(tb testing.TB) map[string]int {
	tb.Helper()
	all := map[string]int{}
	for _, m := range commandCalls.FindAllStringSubmatch(w.redis.Do(tb, "INFO", "commandstats"), -1) {
		all[m[1]], _ = strconv.Atoi(m[2])
	}
	return all
}

// large measures many keys and as many grants against a thousand of each.
func large(tb testing.TB, binary string, many int) *page.Page {
	tb.Helper()
	one, all := startWorld(tb, binary, few), startWorld(tb, binary, many)
	side := all.sidecars[0]

	// What a miss costs: each of these is asked about once, and was never before.
	const misses = 2000
	all.redis.Do(tb, "CONFIG", "RESETSTAT")
	for i := range misses {
		if a, err := side.ask(tb.Context(), all.caller, all.about(2+i)); err != nil || !a.allow {
			tb.Fatalf("%+v %v", a, err)
		}
	}
	stats := all.commands(tb)
	trips := float64(stats["get"]+stats["mget"]+stats["evalsha_ro"]+stats["hget"]) / misses

	// Memory, after so many different records and after many more.
	var memory []int64
	marks := []int{min(50_000, many), min(200_000, many), min(800_000, 2*many)}
	from := 2 + misses
	for _, to := range marks {
		all.sweep(tb, min(from, to), to)
		from = to
		memory = append(memory, resident(tb, side))
		progress("%s different records asked for: %s MiB", page.Thousands(float64(to)), mebibytes(memory[len(memory)-1]))
	}
	worst := int64(0)
	for _, m := range memory {
		worst = max(worst, m-all.empty)
	}

	// What a warm decision costs: as many records as the sidecar keeps, against all
	// of the few.
	const count = 20_000
	kept := min(100_000, 2*many)
	all.sweep(tb, 0, kept)
	one.sweep(tb, 0, 2*few)
	var of, to time.Duration
	for round := range 7 {
		a, b := all.warm(tb, kept, count), one.warm(tb, 2*few, count)
		progress("a warm decision: %v of processor time with %s keys and grants, %v with %s", a, page.Thousands(float64(many)), b, page.Thousands(few))
		if round > 0 {
			of, to = of+a, to+b
		}
	}
	slower := float64(of) / float64(to)
	limit := int64(2 * cacheSize << 20)
	return &page.Page{
		Title: "Benchmarks of a fleet with a million records",
		What: "What a sidecar of a customer with a million keys and a million grants costs, next to one with a thousand of each.\n" +
			"`make fleet-large` measures it anew; `make fleet-large WRITE=1` rewrites this page.",
		Goals: []page.Goal{
			{Name: "Round trips to Redis for a record that is not in memory", Want: fmt.Sprintf("%.0f", wantTrips), Got: fmt.Sprintf("%.3f", trips), Met: trips <= wantTrips*1.005},
			{Name: fmt.Sprintf("Memory of a sidecar with --cache-size=%d, on top of the empty process", cacheSize), Want: "≤ " + mebibytes(limit) + " MiB", Got: mebibytes(worst) + " MiB", Met: worst <= limit},
			{Name: fmt.Sprintf("Processor time of a warm decision, %s / %s keys and grants", page.Thousands(float64(many)), page.Thousands(few)), Want: fmt.Sprintf("≤ %.2f", wantWarm), Got: fmt.Sprintf("%.2f", slower), Met: slower <= wantWarm},
		},
		Tables: []page.Table{
			{Title: "Memory of the sidecar", Rows: [][]string{
				{"Different records asked for", "Resident", "On top of the empty process"},
				{"none", mebibytes(all.empty) + " MiB", ""},
				{page.Thousands(float64(marks[0])), mebibytes(memory[0]) + " MiB", mebibytes(memory[0]-all.empty) + " MiB"},
				{page.Thousands(float64(marks[1])), mebibytes(memory[1]) + " MiB", mebibytes(memory[1]-all.empty) + " MiB"},
				{page.Thousands(float64(marks[2])), mebibytes(memory[2]) + " MiB", mebibytes(memory[2]-all.empty) + " MiB"},
			}},
			{Title: "Figures, as context", Rows: [][]string{
				{"Keys, and as many grants", "Control plane ready after", "Redis rebuilt in", "A warm decision"},
				{page.Thousands(few), seconds(one.ready), seconds(one.rebuilt), fmt.Sprintf("%.0f µs", float64(to.Microseconds())/6)},
				{page.Thousands(float64(many)), seconds(all.ready), seconds(all.rebuilt), fmt.Sprintf("%.0f µs", float64(of.Microseconds())/6)},
			}},
		},
		How: []string{
			page.Machine(),
			"Two fleets of PostgreSQL, Redis, one `latchkey serve` and one `latchkey sidecar` run side by side. All keys and grants of each are one customer's; a key has a scope of its own team, a grant is a user's. They are written into PostgreSQL as rows, and into Redis by `latchkey cache rebuild`.",
			fmt.Sprintf("Round trips: %s decisions about keys and users that the sidecar was never asked about, one after the other; Redis counts the look-ups (`INFO commandstats`). The control plane is not asked.", page.Thousands(misses)),
			"Memory is VmRSS, the garbage that the collector lets stand included.",
			fmt.Sprintf("A warm decision is `POST /decision` over HTTP about records that are in memory, picked at random among %s and %s; processor time is the sidecar's alone, over 6 rounds of %s decisions in turns, after one that does not count.", page.Thousands(float64(kept)), page.Thousands(2*few), page.Thousands(count)),
		},
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func mebibytes(n int64) string { return fmt.Sprintf("%.1f", float64(n)/(1<<20)) }
