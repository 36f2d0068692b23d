package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"go/build"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey/authz"

	"github.com/latchkey-dev/latchkey/internal/page"
)

//go:embed decision.rego
var decisionRego []byte

// opaVersion is the release that latchkey is compared with.
const opaVersion = "1.22.2"

// keyCount is how many keys the comparison is about.
const keyCount = 1000

// compare measures latchkey between the constant handler and OPA.
func compare(ctx context.Context, s settings, dir string) (_ *page.Page, err error) {
	if err := tools("wrk", "taskset"); err != nil {
		return nil, err
	}
	var lines []benchmark
	if s.pprof == "" {
		if lines, err = goBenchmarks(ctx, benchmarked...); err != nil {
			return nil, err
		}
	}
	var running []*process
	defer func() {
		for _, p := range running {
			err = errors.Join(err, p.stop())
		}
	}()
	l, err := startLatchkey(ctx, s, start, "latchkey", filepath.Join(dir, "data"), authz.NewRootToken().Reveal())
	if err != nil {
		return nil, err
	}
	running = append(running, l.process)
	progress("making %d keys over the API", keyCount)
	w, err := populate(ctx, l, keyCount)
	if err != nil {
		return nil, err
	}
	size, err := w.answerSize(ctx, l)
	if err != nil {
		return nil, err
	}
	c, err := startConstant(ctx, dir, fmt.Appendf(nil, `{"decision":true,"context":{"padding":%q}}`, strings.Repeat("x", size-42)))
	if err != nil {
		return nil, err
	}
	running = append(running, c)
	o, err := startOPA(ctx, s, dir, w)
	if err != nil {
		return nil, err
	}
	running = append(running, o)
	short, full := o.at("OPA, yes or no", "decision"), o.at("OPA, with reasons", "answer")

	progress("holding all answers to the right ones")
	plain := question.body
	wrapped := func(q question) string { return `{"input":` + q.body() + `}` }
	if err := errors.Join(w.verify(ctx, l.process, plain, "decision"),
		w.verify(ctx, short, wrapped, "result"), w.verify(ctx, full, wrapped, "result.decision")); err != nil {
		return nil, err
	}
	var bodies, inputs []byte
	for _, q := range w.questions {
		bodies = append(append(bodies, plain(q)...), '\n')
		inputs = append(append(inputs, wrapped(q)...), '\n')
	}
	script, plainFile, wrappedFile := filepath.Join(dir, "questions.lua"), filepath.Join(dir, "bodies"), filepath.Join(dir, "inputs")
	if err := writeFiles(map[string][]byte{script: questionsLua, plainFile: bodies, wrappedFile: inputs}); err != nil {
		return nil, err
	}
	headers := []string{"Authorization: Bearer " + w.caller, "Content-Type: application/json"}
	loads := []*load{
		{server: c, script: script, headers: headers, args: []string{plainFile}},
		{server: l.process, script: script, headers: headers, args: []string{plainFile}},
		{server: short, script: script, headers: headers, args: []string{wrappedFile}},
		{server: full, script: script, headers: headers, args: []string{wrappedFile}},
	}
	if s.pprof != "" {
		return nil, profile(ctx, s, l, loads[1])
	}
	r, err := inTurns(ctx, s, loads...)
	if err != nil {
		return nil, err
	}
	return comparison(size, r, lines), nil
}

// startOPA runs a stock OPA with the keys' scopes as data.
func startOPA(ctx context.Context, s settings, dir string, w *world) (*process, error) {
	data, err := w.dataForOPA()
	if err != nil {
		return nil, err
	}
	dataFile := filepath.Join(dir, "data.json")
	if err := writeFiles(map[string][]byte{dataFile: data}); err != nil {
		return nil, err
	}
	p, err := startOPAWith(ctx, s, dir, string(decisionRego), dataFile)
	if err == nil {
		p.url += "latchkey/"
	}
	return p, err
}

// startOPAWith runs a stock OPA with a module and data files.
func startOPAWith(ctx context.Context, s settings, dir, module string, data ...string) (*process, error) {
	opa, err := findOPA(ctx, s)
	if err != nil {
		return nil, err
	}
	policyFile := filepath.Join(dir, "policy.rego")
	if err := writeFiles(map[string][]byte{policyFile: []byte(module)}); err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	base := "http://" + address
	return start(ctx, "OPA", base+"/v1/data/", base+"/health", nil,
		append([]string{opa, "run", "--server", "--addr", address, "--skip-version-check", "--log-level", "error",
			"--optimize-store-for-read-speed", policyFile}, data...)...)
}

func findOPA(ctx context.Context, s settings) (string, error) {
	opa := s.opa
	if opa == "" {
		opa = "opa"
		if own := filepath.Join(build.Default.GOPATH, "bin", "opa"); exec.CommandContext(ctx, own, "version").Run() == nil {
			opa = own
		}
	}
	out, err := exec.CommandContext(ctx, opa, "version").Output()
	if err != nil || !bytes.Contains(out, []byte("Version: "+opaVersion+"\n")) {
		return "", fmt.Errorf("this measurement needs a stock OPA %[1]s: go install github.com/open-policy-agent/opa@v%[1]s", opaVersion)
	}
	return opa, nil
}

// profile keeps a CPU profile of latchkey under load.
func profile(ctx context.Context, s settings, l *pdp, under *load) error {
	const seconds = 30
	busy := make(chan error, 1)
	go func() { _, err := under.run(ctx, seconds+2); busy <- err }()
	time.Sleep(time.Second)
	resp, err := http.Get(fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", l.private, seconds))
	if err != nil {
		return errors.Join(err, <-busy)
	}
	defer resp.Body.Close()
	f, err := os.Create(filepath.Join(s.pprof, "latchkey.pprof"))
	if err != nil {
		return errors.Join(err, <-busy)
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close(), <-busy)
}
