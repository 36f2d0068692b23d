package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/latchkey-dev/latchkey/internal/page"
)

// benchmark is one line of `go test -bench`, the median over its repetitions.
type benchmark struct {
	pkg, name   string
	nanoseconds float64
	allocations float64
	bytes       float64
}

// benchmarked are the packages whose in-process benchmarks belong to the page.
var benchmarked = []string{"scopes", "authz", "internal/strictjson"}

// goBenchmarks runs the packages' own benchmarks. A package that has none adds
// nothing.
func goBenchmarks(ctx context.Context, packages ...string) ([]benchmark, error) {
	var all []benchmark
	for _, pkg := range packages {
		progress("benchmarks of %s", pkg)
		cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", ".", "-benchmem", "-benchtime", "1s", "-count", "3", "-cpu", "1", "./"+pkg)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("benchmarks of %s: %w\n%s%s", pkg, err, out, stderr.Bytes())
		}
		all = append(all, parseBenchmarks(pkg, string(out))...)
	}
	return all, nil
}

func parseBenchmarks(pkg, out string) []benchmark {
	var names []string
	runs := map[string][]benchmark{}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		b := benchmark{pkg: pkg, name: f[0]}
		for i := 2; i+1 < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				continue
			}
			switch f[i+1] {
			case "ns/op":
				b.nanoseconds = v
			case "B/op":
				b.bytes = v
			case "allocs/op":
				b.allocations = v
			}
		}
		if !slices.Contains(names, b.name) {
			names = append(names, b.name)
		}
		runs[b.name] = append(runs[b.name], b)
	}
	var list []benchmark
	for _, name := range names {
		list = append(list, benchmark{
			pkg: pkg, name: name,
			nanoseconds: middle(runs[name], func(b benchmark) float64 { return b.nanoseconds }),
			allocations: middle(runs[name], func(b benchmark) float64 { return b.allocations }),
			bytes:       middle(runs[name], func(b benchmark) float64 { return b.bytes }),
		})
	}
	return list
}

func (b benchmark) String() string {
	return fmt.Sprintf("%-20s %-44s %10.1f ns/op %6.0f B/op %4.0f allocs/op", b.pkg, b.name, b.nanoseconds, b.bytes, b.allocations)
}

// limit is a goal of the benchmarks whose name begins so.
type limit struct {
	title, pkg, name string
	holds            func(name string) bool // nil: all of them
	nanoseconds      float64
	allocations      float64
}

var limits = []limit{
	{"scope check", "scopes", "BenchmarkDecide", func(name string) bool { return strings.Contains(name, "names") }, 200, 0},
	{"decision at 1,000 keys", "authz", "BenchmarkDecide", func(name string) bool { return !atAMillion(name) }, 1000, 4},
	{"decision at 1,000,000 keys", "authz", "BenchmarkDecide", atAMillion, 1500, 4},
}

// policyLimits are those of the page about policies.
var policyLimits = []limit{
	{"membership in a set of a million values", "policies", "BenchmarkSet/contains", atAMillion, 1000, 0},
}

func atAMillion(name string) bool {
	return strings.Contains(strings.NewReplacer("_", "", ",", "").Replace(name), "1000000") || strings.Contains(name, "1M") || strings.Contains(strings.ToLower(name), "million")
}

// goal holds the slowest of the benchmarks that the limit is about to it.
func (l limit) goal(all []benchmark) page.Goal {
	g := page.Goal{
		Name:    "In process: " + l.title,
		Want:    fmt.Sprintf("≤ %s ns, ≤ %.0f allocations", page.Thousands(l.nanoseconds), l.allocations),
		Missing: true, Got: "-",
	}
	var ns, allocs float64
	for _, b := range all {
		if b.pkg == l.pkg && strings.HasPrefix(b.name, l.name) && (l.holds == nil || l.holds(b.name)) {
			g.Missing = false
			ns, allocs = max(ns, b.nanoseconds), max(allocs, b.allocations)
		}
	}
	if !g.Missing {
		g.Got = fmt.Sprintf("%s ns, %.0f allocations", page.Thousands(ns), allocs)
		g.Met = ns <= l.nanoseconds && allocs <= l.allocations
	}
	return g
}
