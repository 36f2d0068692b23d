// Package page makes the pages of what was measured: goals first, then figures
// as context, for a terminal and as Markdown. It is of the workshop; nothing of the
// product imports it.
package page

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Page is what a run found: goals first, then figures as context.
type Page struct {
	Title, What string
	Busy        bool // the machine was: what is measured is worth little
	Goals       []Goal
	Tables      []Table
	How         []string
	Raw         []string // lines of Go benchmarks
}

// Goal is one of the project's, and whether it is met.
type Goal struct {
	Name, Want, Got string
	Met             bool
	Missing         bool // nothing was measured
}

// Table is one of figures.
type Table struct {
	Title string
	Rows  [][]string // the first is the head
}

func (g Goal) verdict() string {
	switch {
	case g.Missing:
		return "not measured"
	case g.Met:
		return "met"
	}
	return "NOT MET"
}

func (p *Page) goalTable() Table {
	t := Table{Title: "Goals"}
	if p.Busy {
		t.Title = "Goals (the machine was busy with other things: measure again)"
	}
	t.Rows = append(t.Rows, []string{"Goal", "Wanted", "Measured", ""})
	for _, g := range p.Goals {
		t.Rows = append(t.Rows, []string{g.Name, g.Want, g.Got, g.verdict()})
	}
	return t
}

// Text is the page for a terminal.
func (p *Page) Text() string {
	var b strings.Builder
	for _, t := range append([]Table{p.goalTable()}, p.Tables...) {
		fmt.Fprintf(&b, "%s\n", t.Title)
		widths := make([]int, len(t.Rows[0]))
		for _, row := range t.Rows {
			for i, cell := range row {
				widths[i] = max(widths[i], len([]rune(cell)))
			}
		}
		for _, row := range t.Rows {
			line := ""
			for i, cell := range row {
				line += "  " + cell + strings.Repeat(" ", widths[i]-len([]rune(cell)))
			}
			fmt.Fprintln(&b, strings.TrimRight(line, " "))
		}
		fmt.Fprintln(&b)
	}
	for _, line := range p.Raw {
		fmt.Fprintln(&b, line)
	}
	return b.String()
}

// Markdown is the page as a document.
func (p *Page) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s\n", p.Title, p.What)
	for _, t := range append([]Table{p.goalTable()}, p.Tables...) {
		fmt.Fprintf(&b, "\n## %s\n\n", t.Title)
		for i, row := range t.Rows {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
			if i == 0 {
				fmt.Fprintf(&b, "|%s\n", strings.Repeat("---|", len(row)))
			}
		}
	}
	if len(p.Raw) > 0 {
		fmt.Fprintf(&b, "\n## Go benchmarks\n\n```\n%s\n```\n", strings.Join(p.Raw, "\n"))
	}
	fmt.Fprint(&b, "\n## How it was measured\n\n")
	for _, line := range p.How {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	return b.String()
}

// Machine is what the figures were taken on, in general terms.
func Machine() string {
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

// Thousands writes 12345 as 12,345.
func Thousands(f float64) string {
	s := fmt.Sprintf("%.0f", f)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
