package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// page is what a run found: goals first, then figures as context.
type page struct {
	title, what string
	busy        bool // the machine was: what is measured is worth little
	goals       []goal
	tables      []table
	how         []string
	raw         []string // lines of Go benchmarks
}

// goal is one of the project's, and whether it is met.
type goal struct {
	name, want, got string
	met             bool
	missing         bool // nothing was measured
}

type table struct {
	title string
	rows  [][]string // the first is the head
}

func (g goal) verdict() string {
	switch {
	case g.missing:
		return "not measured"
	case g.met:
		return "met"
	}
	return "NOT MET"
}

func (p *page) goalTable() table {
	t := table{title: "Goals"}
	if p.busy {
		t.title = "Goals (the machine was busy with other things: measure again)"
	}
	t.rows = append(t.rows, []string{"Goal", "Wanted", "Measured", ""})
	for _, g := range p.goals {
		t.rows = append(t.rows, []string{g.name, g.want, g.got, g.verdict()})
	}
	return t
}

// text is the page for a terminal.
func (p *page) text() string {
	var b strings.Builder
	for _, t := range append([]table{p.goalTable()}, p.tables...) {
		fmt.Fprintf(&b, "%s\n", t.title)
		widths := make([]int, len(t.rows[0]))
		for _, row := range t.rows {
			for i, cell := range row {
				widths[i] = max(widths[i], len([]rune(cell)))
			}
		}
		for _, row := range t.rows {
			line := ""
			for i, cell := range row {
				line += "  " + cell + strings.Repeat(" ", widths[i]-len([]rune(cell)))
			}
			fmt.Fprintln(&b, strings.TrimRight(line, " "))
		}
		fmt.Fprintln(&b)
	}
	for _, line := range p.raw {
		fmt.Fprintln(&b, line)
	}
	return b.String()
}

// markdown is the page as a document.
func (p *page) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s\n", p.title, p.what)
	for _, t := range append([]table{p.goalTable()}, p.tables...) {
		fmt.Fprintf(&b, "\n## %s\n\n", t.title)
		for i, row := range t.rows {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
			if i == 0 {
				fmt.Fprintf(&b, "|%s\n", strings.Repeat("---|", len(row)))
			}
		}
	}
	if len(p.raw) > 0 {
		fmt.Fprintf(&b, "\n## Go benchmarks\n\n```\n%s\n```\n", strings.Join(p.raw, "\n"))
	}
	fmt.Fprint(&b, "\n## How it was measured\n\n")
	for _, line := range p.how {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	return b.String()
}

// machine is what the figures were taken on, in general terms.
func machine() string {
	memory := "unknown"
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kib int64
		if _, err := fmt.Sscanf(string(text), "MemTotal: %d kB", &kib); err == nil {
			memory = fmt.Sprintf("%.0f GiB", float64(kib)/(1<<20))
		}
	}
	return fmt.Sprintf("%d cores, %s of memory, %s/%s, %s. Absolute figures belong to this machine and to whatever else it did; the ratios travel better.",
		runtime.NumCPU(), memory, runtime.GOOS, runtime.GOARCH, runtime.Version())
}

// thousands writes 12345 as 12,345.
func thousands(f float64) string {
	s := fmt.Sprintf("%.0f", f)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
