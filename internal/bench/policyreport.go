package main

import (
	"fmt"
	"time"

	"github.com/latchkey-dev/latchkey/internal/page"
)

// policyResults are the figures of decisions by policy.
type policyResults struct {
	answer                   int     // bytes of a CEL decision
	cel, repeating, distinct *rounds // constant and latchkey; latchkey and OPA, twice
	publishing               *published
	lines                    []benchmark
	activation               *activated
	beside                   *neighbours
}

func (p *policyResults) page() *page.Page {
	celRatio, repeating, distinct := p.cel.ratio(1, 0, bySecond), p.repeating.ratio(0, 1, bySecond), p.distinct.ratio(0, 1, bySecond)
	slower := p.publishing.slowdown()
	activating := p.activation.slowdown()
	goalOf := func(name string, got, want float64) page.Goal {
		return page.Goal{Name: name, Want: fmt.Sprintf("≥ %.1f", want), Got: fmt.Sprintf("%.2f", got), Met: got >= want}
	}
	figures := page.Table{Title: "Figures, as context", Rows: [][]string{{"What is asked", "Server", "Requests/s", "p50", "p99", "Requests per second of processor time"}}}
	for _, m := range []struct {
		what    string
		r       *rounds
		servers []string
	}{
		{"CEL, 20 rules", p.cel, []string{"constant handler", "latchkey"}},
		{"Rego, inputs repeat", p.repeating, []string{"latchkey", "OPA"}},
		{"Rego, inputs never repeat", p.distinct, []string{"latchkey", "OPA"}},
	} {
		for i, name := range m.servers {
			figures.Rows = append(figures.Rows, append([]string{m.what}, m.r.summary(i).row(name)...))
		}
	}
	at := func(list []sample) string {
		return milliseconds(time.Duration(middle(list, func(s sample) float64 { return float64(s.p999) })))
	}
	report := &page.Page{
		Title: "Benchmarks of policies",
		What: "What a decision by a customer's own policy costs, next to a handler that answers a constant and next to a stock Open Policy Agent\n" +
			"with the same Rego. `make bench` measures it anew; `make bench WRITE=1` rewrites this page.",
		Busy: p.cel.busy || p.repeating.busy || p.distinct.busy,
		Goals: []page.Goal{
			goalOf("CEL policy of 20 rules, the tenth matching: requests per second, latchkey / constant handler", celRatio, wantCELOfConstant),
			goalOf("Rego policy, inputs that repeat (Zipf over 10,000): latchkey / OPA", repeating, wantRepeating),
			goalOf("Rego policy, inputs that never repeat: latchkey / OPA", distinct, wantDistinct),
			{Name: "p99.9 while one of 200 policies is published, to that at rest; no request failed", Want: fmt.Sprintf("≤ %.1f", wantPublishing), Got: fmt.Sprintf("%.2f", slower), Met: slower <= wantPublishing},
			{Name: "p99.9 while bundles of 2 MiB come into force, to that at rest; no request failed", Want: fmt.Sprintf("≤ %.1f", wantActivating), Got: fmt.Sprintf("%.2f", activating), Met: activating <= wantActivating},
			{Name: "p99 of a customer's light policy beside another's heavy one, to that alone", Want: fmt.Sprintf("≤ %.1f", wantBeside), Got: fmt.Sprintf("%.2f", p.beside.slowdown()), Met: p.beside.slowdown() <= wantBeside},
			{Name: "Peak memory of an activation above that before, in bytes a byte of policies", Want: fmt.Sprintf("≤ %d", wantPeak), Got: fmt.Sprintf("%.0f", p.activation.peak), Met: p.activation.peak <= wantPeak},
		},
		Tables: []page.Table{figures, {Title: "Publishing", Rows: [][]string{
			{"p99.9 at rest", "p99.9 while publishing", "Versions published"},
			{at(p.publishing.rest), at(p.publishing.during), page.Thousands(float64(p.publishing.versions))},
		}}, {Title: "Bundles coming into force", Rows: [][]string{
			{"p99.9 at rest", "p99.9 meanwhile", "Bundles", "Longest, from the file to being in force"},
			{at(p.activation.rest), at(p.activation.during), page.Thousands(float64(p.activation.bundles)), milliseconds(p.activation.longest)},
		}}, {Title: "A heavy policy beside a light one", Rows: [][]string{
			{"p99 alone", "p99 beside it", "Questions to the heavy policy"},
			{milliseconds(time.Duration(middle(p.beside.alone, p99))), milliseconds(time.Duration(middle(p.beside.beside, p99))), page.Thousands(float64(p.beside.heavy))},
		}}},
		How: []string{
			page.Machine(),
			fmt.Sprintf("Speed: the servers are pinned to one core with GOMAXPROCS=1, the client, wrk with one thread and %d connections that stay open, to another. latchkey is the binary of `make build`: `POST /decision/{policy}`, authenticated by an access key.", connections),
			p.cel.String(),
			fmt.Sprintf("The constant handler answers with the same %d bytes that latchkey's CEL decision has.", p.answer),
			"OPA is stock `opa run --server`, release " + opaVersion + ", with the same module, `internal/bench/documents.rego`, asked `POST /v1/data/policies/documents/allow`. 500 questions are asked of both first, and every answer is held to the right one.",
			fmt.Sprintf("Inputs that repeat: %s drawn by Zipf's law (s = 1.1) from %s different ones, asked at random. Inputs that never repeat: %s different ones in order, more than any memo of latchkey's keeps.", page.Thousands(drawn), page.Thousands(distinctInputs), page.Thousands(endlessInputs)),
			fmt.Sprintf("Publishing: the server has all cores, and the client shares them. In turns of %d s: at rest, and while one Rego policy of 200 is published ten times a second. The median of %d turns counts; a failed request would end the measurement.", publishingSeconds, len(p.publishing.rest)),
			fmt.Sprintf("Bundles: the same, while a file is replaced by a bundle of %d other Rego policies, %s bytes in all, as soon as the one before is in force. Memory is VmHWM, begun anew before each, above VmRSS then.", bundlePolicies, page.Thousands(float64(p.activation.source))),
			"Neighbours: the same, while four clients of another customer ask, without pause, a Rego policy that looks at each pair of 1,000 numbers until it is stopped by its bounds. One evaluation of a customer's runs at a time on two cores (`--policy-concurrency`).",
		},
	}
	for _, l := range policyLimits {
		report.Goals = append(report.Goals, l.goal(p.lines))
	}
	for _, b := range p.lines {
		report.Raw = append(report.Raw, b.String())
	}
	return report
}
