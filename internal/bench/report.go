package main

import (
	"fmt"
	"time"

	"github.com/latchkey-dev/latchkey/internal/page"
)

// Goals of the comparison over HTTP.
const (
	wantOfConstant = 0.70
	wantOfOPA      = 10.0
)

// comparison makes the page of the three servers.
func comparison(answer int, r *rounds, lines []benchmark) *page.Page {
	const constant, latchkey, opa = 0, 1, 2
	ofConstant, ofOPA := r.ratio(latchkey, constant, bySecond), r.ratio(latchkey, opa, bySecond)
	p99, p99OPA := r.summary(latchkey).p99, r.summary(opa).p99
	p := &page.Page{
		Title: "Benchmarks",
		What: "What one decision over HTTP costs, next to a handler that answers a constant and next to a stock Open Policy Agent.\n" +
			"`make bench` measures it anew; `make bench WRITE=1` rewrites this page.",
		Busy: r.busy,
		Goals: []page.Goal{
			{Name: "Requests per second, latchkey / constant handler", Want: fmt.Sprintf("≥ %.2f", wantOfConstant), Got: fmt.Sprintf("%.2f", ofConstant), Met: ofConstant >= wantOfConstant},
			{Name: "Requests per second, latchkey / OPA", Want: fmt.Sprintf("≥ %.0f", wantOfOPA), Got: fmt.Sprintf("%.1f", ofOPA), Met: ofOPA >= wantOfOPA},
			{Name: "p99 latency, latchkey / OPA", Want: "≤ 1", Got: fmt.Sprintf("%.2f", float64(p99)/float64(p99OPA)), Met: p99 <= p99OPA},
		},
	}
	for _, l := range limits {
		p.Goals = append(p.Goals, l.goal(lines))
	}
	compared := page.Table{Title: "Ratios", Rows: [][]string{{"Requests, latchkey to", "per second", "per second of processor time", "p99 latency"}}}
	figures := page.Table{Title: "Figures, as context", Rows: [][]string{{"Server", "Requests/s", "p50", "p99", "Requests per second of processor time"}}}
	for i, name := range []string{"constant handler", "latchkey", "OPA, yes or no", "OPA, with reasons"} {
		figures.Rows = append(figures.Rows, r.summary(i).row(name))
		if i != latchkey {
			compared.Rows = append(compared.Rows, []string{name, fmt.Sprintf("%.2f", r.ratio(latchkey, i, bySecond)),
				fmt.Sprintf("%.2f", r.ratio(latchkey, i, byCPU)), fmt.Sprintf("%.2f", float64(p99)/float64(r.summary(i).p99))})
		}
	}
	p.Tables = []page.Table{compared, figures}
	for _, b := range lines {
		p.Raw = append(p.Raw, b.String())
	}
	p.How = []string{
		page.Machine(),
		fmt.Sprintf("All three servers run at once, each pinned to the same core with GOMAXPROCS=1; the client, wrk with one thread and %d connections that stay open, is pinned to another core.", connections),
		r.String(),
		fmt.Sprintf("%s keys of one customer, each with scopes of its own: one to five resource types, one to four entries a type. Two questions about each, one permitted and one not, %s in all, picked at random with the same seed. Before measuring, every question is asked of latchkey and of OPA, and every answer is held to the right one.", page.Thousands(keyCount), page.Thousands(2*keyCount)),
		"latchkey is the binary of `make build` as it ships, with its data in a temporary directory: `POST /decision`, authenticated by an access key, with its counters, histograms and last-use records on.",
		fmt.Sprintf("The constant handler uses the same Fiber and fasthttp, is sent the same requests and answers every one with the same %d bytes of JSON, latchkey's mean. It neither authenticates nor reads the body.", answer),
		"OPA is stock `opa run --server`, release " + opaVersion + ", with the read-optimised store, logging errors only, asked `POST /v1/data/latchkey/…` about the same keys' scopes, expiry and revocation as data. The policy is `internal/bench/decision.rego`, written for speed: one look-up by key and type, then a loop over a handful of entries; masks become actions by a table. The goal is held to the rule that says yes or no; the rule that names its reasons, as latchkey's every answer does, is measured beside it. OPA does not authenticate its caller here.",
		"Requests per second of processor time are what a server would do had it the core all to itself.",
	}
	return p
}

func (s sample) row(name string) []string {
	return []string{name, page.Thousands(s.perSecond), milliseconds(s.p50), milliseconds(s.p99), page.Thousands(s.perCPU)}
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}
