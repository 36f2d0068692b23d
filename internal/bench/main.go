package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

// settings are the command line.
type settings struct {
	binary  string // latchkey as built
	opa     string
	write   string
	large   bool
	policy  bool
	pprof   string
	seconds int
	rounds  int
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == constantCommand {
		fail(constant(os.Args[2], os.Args[3]))
		return
	}
	var s settings
	flag.StringVar(&s.binary, "bin", "bin/latchkey", "latchkey as built")
	flag.StringVar(&s.opa, "opa", "", "stock OPA; looked for where empty")
	flag.StringVar(&s.write, "write", "", "write the page to `FILE` as Markdown")
	flag.BoolVar(&s.large, "large", false, "a million keys against a thousand")
	flag.BoolVar(&s.policy, "policies", false, "decisions by CEL and Rego policies")
	flag.StringVar(&s.pprof, "pprof", "", "write a CPU profile of latchkey under this load into `DIR` instead of measuring")
	flag.IntVar(&s.seconds, "seconds", 1, "length of one measurement")
	flag.IntVar(&s.rounds, "rounds", 17, "measurements of each server; the median counts")
	flag.Parse()
	if flag.NArg() > 0 || s.seconds < 1 || s.rounds < 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	fail(run(ctx, s))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s settings) error {
	dir, err := os.MkdirTemp("", "latchkey-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	measure := compare
	if s.large {
		measure = compareLarge
	}
	if s.policy {
		measure = comparePolicies
	}
	p, err := measure(ctx, s, dir)
	if err != nil || p == nil {
		return err
	}
	fmt.Print("\n", p.Text())
	if s.write == "" {
		return nil
	}
	return os.WriteFile(s.write, []byte(p.Markdown()), 0o644)
}

// progress tells whoever waits what is going on.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "# "+format+"\n", args...)
}

// cpuSeconds is how much processor time a process has used.
func cpuSeconds(pid int) (float64, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The name in parentheses may hold anything; what follows does not.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 13 {
		return 0, errors.New("read the processor time: malformed")
	}
	user, err1 := strconv.ParseFloat(fields[11], 64)
	system, err2 := strconv.ParseFloat(fields[12], 64)
	const ticks = 100 // USER_HZ on every Linux that Go runs on
	return (user + system) / ticks, errors.Join(err1, err2)
}

// residentBytes is the memory that a process holds.
func residentBytes(pid int) (int64, error) { return memory(pid, "VmRSS") }

// memory reads one of the kernel's figures of a process, in bytes.
func memory(pid int, name string) (int64, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(text), name+":")
	if !ok {
		return 0, errors.New("read the memory of a process: there is no " + name)
	}
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	return kib << 10, err
}
