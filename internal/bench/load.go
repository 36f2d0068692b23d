package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"
)

//go:embed questions.lua
var questionsLua []byte

//go:embed records.lua
var recordsLua []byte

// connections that the client keeps open, each with one request under way.
const connections = 32

// load is what the client does to one server.
type load struct {
	server  *process
	script  string
	headers []string
	args    []string
}

// sample is one measurement of one server.
type sample struct {
	perSecond float64
	p50, p99  time.Duration
	p999      time.Duration // where the script tells it
	perCPU    float64       // requests per second of the server's processor time
}

// run sends requests for that many seconds.
func (l *load) run(ctx context.Context, seconds int) (sample, error) {
	argv := pinned(clientCore, "wrk", "-t", "1", "-c", strconv.Itoa(connections),
		"-d", strconv.Itoa(seconds)+"s", "-s", l.script)
	for _, h := range l.headers {
		argv = append(argv, "-H", h)
	}
	argv = append(append(argv, l.server.url, "--"), l.args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	before, err := cpuSeconds(l.server.cmd.Process.Pid)
	if err != nil {
		return sample{}, err
	}
	out, err := cmd.Output()
	if err != nil {
		return sample{}, fmt.Errorf("wrk: %w\n%s%s", err, stderr.Bytes(), out)
	}
	after, err := cpuSeconds(l.server.cmd.Process.Pid)
	if err != nil {
		return sample{}, err
	}
	var told struct{ Requests, Microseconds, P50, P99, P999, Failed int64 }
	at := bytes.LastIndexByte(out, '{')
	if at < 0 {
		return sample{}, fmt.Errorf("wrk said %q", out)
	}
	if err := json.Unmarshal(out[at:], &told); err != nil {
		return sample{}, fmt.Errorf("wrk said %q: %w", out, err)
	}
	if told.Failed > 0 || told.Requests == 0 {
		return sample{}, fmt.Errorf("%s: %d of %d requests failed", l.server.name, told.Failed, told.Requests)
	}
	return sample{
		perSecond: float64(told.Requests) / float64(told.Microseconds) * 1e6,
		p50:       time.Duration(told.P50) * time.Microsecond,
		p99:       time.Duration(told.P99) * time.Microsecond,
		p999:      time.Duration(told.P999) * time.Microsecond,
		perCPU:    float64(told.Requests) / (after - before),
	}, nil
}

// A measurement counts when the server had this share of its core: where the
// client starves it, or a neighbour takes the core away, figures say little.
const undisturbed = 0.90

func (s sample) disturbed() bool { return s.perSecond < undisturbed*s.perCPU }

// rounds are what was measured in turns: per server, a sample a round.
type rounds struct {
	samples [][]sample
	seconds int // of each
	busy    bool
}

// fewest is how many measurements must count for a figure.
const fewest = 3

// inTurns measures all servers in turns, after a round that does not count.
// Disturbed rounds are made up for, by half as many again at most.
func inTurns(ctx context.Context, s settings, loads ...*load) (*rounds, error) {
	r := &rounds{samples: make([][]sample, len(loads)), seconds: s.seconds}
	for round, calm := 0, 0; calm < s.rounds && round <= s.rounds+s.rounds/2; round++ {
		all := true
		for i, l := range loads {
			got, err := l.run(ctx, s.seconds)
			if err != nil {
				return nil, err
			}
			progress("round %d: %-18s %8.0f requests/s, p50 %v, p99 %v, %.0f%% of its core", round, l.server.name, got.perSecond, got.p50, got.p99, 100*got.perSecond/got.perCPU)
			if round > 0 {
				r.samples[i] = append(r.samples[i], got)
			}
			all = all && !got.disturbed()
		}
		if all && round > 0 {
			calm++
		}
	}
	for i := range loads {
		if calm, _ := r.pairs(i, 0); len(calm) < min(fewest, s.rounds) {
			r.busy = true
		}
	}
	return r, nil
}

// pairs are the measurements of two servers that stood next to each other in
// time, without the disturbed ones unless there are too few others.
func (r *rounds) pairs(a, b int) (of, to []sample) {
	for i := range r.samples[a] {
		if x, y := r.samples[a][i], r.samples[b][i]; r.busy || !x.disturbed() && !y.disturbed() {
			of, to = append(of, x), append(to, y)
		}
	}
	return of, to
}

// ratio is that of all requests of a to all of b. No median of rounds: a server
// that is fast in most seconds and collects garbage in the others is as fast as
// all of them together.
func (r *rounds) ratio(a, b int, by func(sample) float64) float64 {
	of, to := r.pairs(a, b)
	return mean(of, by) / mean(to, by)
}

// summary is a server's mean rates, and the median of its latencies.
func (r *rounds) summary(server int) sample {
	list, _ := r.pairs(server, server)
	return sample{
		perSecond: mean(list, bySecond),
		p50:       time.Duration(middle(list, func(s sample) float64 { return float64(s.p50) })),
		p99:       time.Duration(middle(list, func(s sample) float64 { return float64(s.p99) })),
		perCPU:    mean(list, byCPU),
	}
}

// mean is that of rates over times of one length.
func mean(list []sample, by func(sample) float64) float64 {
	sum := 0.0
	for _, s := range list {
		sum += by(s)
	}
	return sum / float64(len(list))
}

func bySecond(s sample) float64 { return s.perSecond }
func byCPU(s sample) float64    { return s.perCPU }

func (r *rounds) String() string {
	disturbed, all := 0, 0
	for _, list := range r.samples {
		for _, s := range list {
			all++
			if s.disturbed() {
				disturbed++
			}
		}
	}
	text := fmt.Sprintf("The servers are measured in turns, %d s each, for %d rounds after one that does not count.", r.seconds, len(r.samples[0]))
	if disturbed > 0 {
		verb := "were left out"
		if r.busy {
			verb = "had to be taken all the same"
		}
		text += fmt.Sprintf(" %d of the %d measurements, in which the server had less than %.0f %% of its core, %s.", disturbed, all, 100*undisturbed, verb)
	}
	return text + " Rates are those of all rounds together, latencies the median of the rounds'."
}

// middle is the median of what f makes of the samples.
func middle[T any](list []T, f func(T) float64) float64 {
	values := make([]float64, len(list))
	for i, v := range list {
		values[i] = f(v)
	}
	return median(values)
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	n := len(values)
	if n == 0 {
		return 0
	}
	return (values[(n-1)/2] + values[n/2]) / 2
}

// tools makes sure that what the measurement needs is there.
func tools(names ...string) error {
	var missing []error
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, fmt.Errorf("this measurement needs %s: %w", name, err))
		}
	}
	return errors.Join(missing...)
}

func writeFiles(files map[string][]byte) error {
	for name, text := range files {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			return err
		}
	}
	return nil
}
