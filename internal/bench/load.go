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
	perCPU    float64 // requests per second of the server's processor time
}

// run sends requests for that many seconds.
func (l *load) run(ctx context.Context, seconds int) (sample, error) {
	argv := pinned(clientCore, "wrk", "-t", "1", "-c", strconv.Itoa(connections),
		"-d", strconv.Itoa(seconds) + "s", "-s", l.script)
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
	var told struct{ Requests, Microseconds, P50, P99, Failed int64 }
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
		perCPU:    float64(told.Requests) / (after - before),
	}, nil
}

// A round counts when each server had this share of its core: where the client
// starves them, or a neighbour takes the core away, figures say little.
const undisturbed = 0.90

// inTurns measures all servers in turns, after a round that does not count,
// and returns the samples per server. Disturbed rounds are made up for, by half
// as many again at most; where too few are left, all of them count.
func inTurns(ctx context.Context, s settings, loads ...*load) (*rounds, error) {
	samples, all := make([][]sample, len(loads)), make([][]sample, len(loads))
	for round := 0; len(samples[0]) < s.rounds && round <= s.rounds+s.rounds/2; round++ {
		var got []sample
		least := 1.0
		for _, l := range loads {
			one, err := l.run(ctx, s.seconds)
			if err != nil {
				return nil, err
			}
			got = append(got, one)
			least = min(least, one.perSecond/one.perCPU)
			progress("round %d: %-18s %8.0f requests/s, p50 %v, p99 %v, %.0f%% of its core", round, l.server.name, one.perSecond, one.p50, one.p99, 100*one.perSecond/one.perCPU)
		}
		if round == 0 {
			continue
		}
		for i := range loads {
			all[i] = append(all[i], got[i])
			if least >= undisturbed {
				samples[i] = append(samples[i], got[i])
			}
		}
	}
	r := &rounds{samples: samples, seconds: s.seconds, disturbed: len(all[0]) - len(samples[0])}
	if len(samples[0]) < min(3, s.rounds) {
		r.samples, r.included = all, true
	}
	return r, nil
}

// rounds are the samples that count, per server.
type rounds struct {
	samples   [][]sample
	seconds   int // of each
	disturbed int
	included  bool // the disturbed ones are, for want of others
}

func (r *rounds) String() string {
	text := fmt.Sprintf("The servers are measured in turns, %d s each, after a round that does not count; %d rounds are in the figures.", r.seconds, len(r.samples[0]))
	if r.disturbed > 0 {
		verb := "were left out"
		if r.included {
			verb = "are among them"
		}
		text += fmt.Sprintf(" %d in which some server had less than %.0f %% of its core %s.", r.disturbed, 100*undisturbed, verb)
	}
	return text + " A ratio is the median of the rounds' ratios, a figure the median of the rounds."
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

func bySecond(s sample) float64 { return s.perSecond }
func byCPU(s sample) float64    { return s.perCPU }

// ratio is the median of the ratios, each of two measurements that stood next
// to each other in time.
func ratio(of, to []sample, by func(sample) float64) float64 {
	var values []float64
	for i := range of {
		values = append(values, by(of[i])/by(to[i]))
	}
	return median(values)
}

// summary is the median of each figure.
func summary(list []sample) sample {
	return sample{
		perSecond: middle(list, bySecond),
		p50:       time.Duration(middle(list, func(s sample) float64 { return float64(s.p50) })),
		p99:       time.Duration(middle(list, func(s sample) float64 { return float64(s.p99) })),
		perCPU:    middle(list, byCPU),
	}
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
