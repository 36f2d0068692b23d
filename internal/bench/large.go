package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/internal/page"
)

// Goals at a million keys.
const (
	manyKeys        = 1_000_000
	wantSlowdown    = 1.25
	wantBytesPerKey = 500
	wantStart       = 10 * time.Second
)

// measured is one server's memory and start.
type measured struct {
	name         string
	start        time.Duration // on all cores, as it is run
	confined     time.Duration // on one core
	fresh, after int64         // resident bytes: once ready, and after the load
	keys         int
}

// compareLarge measures a million keys against a thousand, and against none.
func compareLarge(ctx context.Context, s settings, dir string) (_ *page.Page, err error) {
	if err := tools("wrk", "taskset"); err != nil {
		return nil, err
	}
	many, err := filled(ctx, inMemory(), manyKeys)
	if err != nil {
		return nil, err
	}
	few := filepath.Join(dir, "few")
	if err := fill(ctx, few, keyCount); err != nil {
		return nil, err
	}
	none := filepath.Join(dir, "none")
	if err := fill(ctx, none, 0); err != nil {
		return nil, err
	}
	script := filepath.Join(dir, "records.lua")
	if err := os.WriteFile(script, recordsLua, 0o600); err != nil {
		return nil, err
	}
	// The empty server is asked about keys that it does not know.
	unknown := filepath.Join(none, recordsFile)
	if err := os.WriteFile(unknown, []byte("default00000000-0000-4000-8000-0000000000000000"), 0o600); err != nil {
		return nil, err
	}

	var last *pdp
	var loads []*load
	found := []*measured{{name: "no keys"}, {name: "1,000 keys", keys: keyCount}, {name: "1,000,000 keys", keys: manyKeys}}
	defer func() {
		for _, l := range loads {
			err = errors.Join(err, l.server.stop())
		}
	}()
	for i, data := range []string{none, few, many} {
		root, err := os.ReadFile(filepath.Join(data, rootFile))
		if err != nil {
			return nil, err
		}
		if err := readWhole(filepath.Join(data, "latchkey.db")); err != nil {
			return nil, err
		}
		free, err := startLatchkey(ctx, s, launch, found[i].name, data, string(root))
		if err != nil {
			return nil, err
		}
		found[i].start = free.ready
		if err := free.stop(); err != nil {
			return nil, err
		}
		l, err := startLatchkey(ctx, s, start, found[i].name, data, string(root))
		if err != nil {
			return nil, err
		}
		loads = append(loads, &load{server: l.process, script: script, args: []string{filepath.Join(data, recordsFile), string(root)}})
		last, found[i].confined = l, l.ready
		if found[i].fresh, err = residentBytes(l.cmd.Process.Pid); err != nil {
			return nil, err
		}
		progress("%s: ready after %.2f s, on one core %.2f s, %s MiB", l.name, free.ready.Seconds(), l.ready.Seconds(), mebibytes(found[i].fresh))
		if found[i].keys > 0 {
			if err := verifyRecords(ctx, l, filepath.Join(data, recordsFile)); err != nil {
				return nil, err
			}
		}
	}
	if s.pprof != "" {
		return nil, profile(ctx, s, last, loads[2])
	}
	if _, err := loads[0].run(ctx, s.seconds); err != nil {
		return nil, err
	}
	r, err := inTurns(ctx, s, loads[1:]...)
	if err != nil {
		return nil, err
	}
	for i, l := range loads {
		if found[i].after, err = residentBytes(l.server.cmd.Process.Pid); err != nil {
			return nil, err
		}
	}
	return largePage(found, r), nil
}

// verifyRecords asks about some of the keys, spread over all, and holds each
// answer to the right one.
func verifyRecords(ctx context.Context, l *pdp, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	const width = 7 + 36 + 4
	n := len(text) / width
	for i := 0; i < n; i += max(1, n/997) { // a prime, so that every kind of key comes up
		record := string(text[i*width:][:width])
		q := question{key: record[7:43], action: "update", resource: "documents", name: "team-" + record[43:] + "/report"}
		reply, err := post(ctx, l.url, l.root, record[:7], q.body())
		if err != nil {
			return err
		}
		if got, want := gjson.GetBytes(reply, "decision").Bool(), teamAsked(i) == i%sharedTexts; got != want {
			return fmt.Errorf("%s answers %s with %s, want %t", l.name, q.body(), reply, want)
		}
	}
	return nil
}

// largePage makes the page of a million keys.
func largePage(found []*measured, r *rounds) *page.Page {
	const few, many = 0, 1
	slowdown := 1 / r.ratio(many, few, bySecond)
	empty, full := found[0], found[2]
	perKey := func(resident int64) float64 { return float64(resident-empty.fresh) / float64(full.keys) }
	worst := max(perKey(full.fresh), perKey(full.after))
	p := &page.Page{
		Title: "Benchmarks at a million keys",
		What: "What a million active keys cost against a thousand: time per decision, memory, start.\n" +
			"`make bench-large` measures it anew; `make bench-large WRITE=1` rewrites this page.",
		Busy: r.busy,
		Goals: []page.Goal{
			{Name: "Time per request, 1,000,000 keys / 1,000 keys", Want: fmt.Sprintf("≤ %.2f", wantSlowdown), Got: fmt.Sprintf("%.2f", slowdown), Met: slowdown <= wantSlowdown},
			{Name: "Resident memory per key, on top of the empty process", Want: fmt.Sprintf("≤ %d bytes", wantBytesPerKey), Got: fmt.Sprintf("%.0f bytes", worst), Met: worst <= wantBytesPerKey},
			{Name: "Start with 1,000,000 keys, to readiness", Want: fmt.Sprintf("≤ %.0f s", wantStart.Seconds()), Got: fmt.Sprintf("%.1f s", full.start.Seconds()), Met: full.start <= wantStart},
		},
	}
	memory := page.Table{Title: "Memory and start", Rows: [][]string{{"Server", "Ready after", "On one core", "Resident once ready", "Resident after the load", "Per key once ready", "Per key after the load"}}}
	for _, m := range found {
		row := []string{m.name, seconds(m.start), seconds(m.confined), mebibytes(m.fresh) + " MiB", mebibytes(m.after) + " MiB", "", ""}
		if m == full {
			row[5], row[6] = fmt.Sprintf("%.0f bytes", perKey(m.fresh)), fmt.Sprintf("%.0f bytes", perKey(m.after))
		}
		memory.Rows = append(memory.Rows, row)
	}
	figures := page.Table{Title: "Figures, as context", Rows: [][]string{{"Server", "Requests/s", "p50", "p99", "Requests per second of processor time"}}}
	for i, m := range found[1:] {
		figures.Rows = append(figures.Rows, r.summary(i).row(m.name))
	}
	figures.Rows = append(figures.Rows, []string{"time per request, 1,000,000 / 1,000", fmt.Sprintf("%.2f", slowdown), "", "", fmt.Sprintf("%.2f", 1/r.ratio(many, few, byCPU))})
	p.Tables = []page.Table{memory, figures}
	p.How = []string{
		page.Machine(),
		fmt.Sprintf("Both servers run at once, each pinned to the same core with GOMAXPROCS=1; the client, wrk with one thread and %d connections that stay open, is pinned to another core.", connections),
		r.String(),
		fmt.Sprintf("Every customer has %d active keys, so there are 100,000 customers and 100. Nine keys in ten share %s different scope texts of two to ten entries; every tenth has scopes that no other key has. All keys have an expiry, a username and a name.", keysPerCustomer, page.Thousands(sharedTexts)),
		"`POST /decision` about keys picked at random, all equally likely, half of the questions permitted and half not. A key may ask about its own customer only, so the caller is the root key with `X-Customer-ID`, for the thousand keys as for the million.",
		"The database is filled by the server's own services, one transaction and one event for each key, and kept for the next run.",
		"Start is the time from executing the program on that database, its file read once before so that the system holds it (from a cold disk, add the time to read it), until `/health/ready` answers 200. The goal is held to the start on all cores, as the program is run.",
		"Resident memory is VmRSS; what a process of the same binary without any key holds once ready is taken off. After the load it includes the garbage of the requests that the collector lets stand; the goal is held to the larger of the two.",
	}
	return p
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func mebibytes(n int64) string { return fmt.Sprintf("%.1f", float64(n)/(1<<20)) }

// readWhole reads a file so that the system holds it: from a cold disk a start
// takes as long as the disk does.
func readWhole(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, f)
	return errors.Join(err, f.Close())
}
