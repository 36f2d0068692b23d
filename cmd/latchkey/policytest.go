package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

// PoliciesTestCmd runs cases.
type PoliciesTestCmd struct {
	Remote      `embed:""`
	Target      string `arg:"" help:"Directory whose files *_test.yaml (or .yml, .json) are run, or one such file; with --cases the name of a policy on the server."`
	Cases       string `help:"Run the cases of this file against the server's policy." placeholder:"FILE"`
	Document    string `help:"With --cases: test this policy in place of the one that is published." placeholder:"FILE"`
	MinCoverage int    `help:"Fail when less of a policy's rules, in percent, decided a case." default:"0" placeholder:"PERCENT"`
}

// Run implements the command.
func (cmd *PoliciesTestCmd) Run(ctx context.Context, g *Globals, std streams) error {
	if cmd.MinCoverage < 0 || cmd.MinCoverage > 100 {
		return usage("--min-coverage: want 0 to 100")
	}
	if cmd.Cases != "" {
		return cmd.remote(ctx, g, std)
	}
	if cmd.Document != "" {
		return usage("--document goes with --cases")
	}
	files, err := caseFiles(cmd.Target)
	if err != nil {
		return err
	}
	run := &testRun{coverage: map[string]*policies.Coverage{}, compiled: map[string]*policies.Policy{}}
	for _, path := range files {
		if f, err := run.file(ctx, path, std); err != nil {
			return notCompiled(g, std, f, err)
		}
	}
	return run.report(g, std, cmd.MinCoverage)
}

// caseFiles lists a directory's case files, in order.
func caseFiles(target string) (files []string, err error) {
	err = filepath.WalkDir(target, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		ext := filepath.Ext(path)
		if path == target && !d.IsDir() || d.Type().IsRegular() && slices.Contains([]string{".yaml", ".yml", ".json"}, ext) && strings.HasSuffix(strings.TrimSuffix(path, ext), "_test") {
			files = append(files, path)
		}
		return nil
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, usage("%s: there is no such file or directory; to test a policy of the server, give --cases", target)
	case err != nil:
		return nil, err
	case len(files) == 0:
		return nil, usage("%s: there is no file *_test.yaml, *_test.yml or *_test.json in it", target)
	}
	return files, nil
}

// testRun gathers what case files come to.
type testRun struct {
	results  []fileResult
	compiled map[string]*policies.Policy   // by path
	coverage map[string]*policies.Coverage // by path
	order    []string
}

type fileResult struct {
	file    string
	policy  string
	results []policies.CaseResult
}

// file runs one case file. With an error it returns the file that is wrong.
func (t *testRun) file(ctx context.Context, path string, std streams) (*sourceFile, error) {
	f, err := readSource(path, std.in)
	if err != nil {
		return f, err
	}
	var doc strictjson.Doc
	if err := doc.Parse(string(f.json)); err != nil {
		return f, err
	}
	var subject, sets, cases strictjson.Value
	for name, v := range doc.Root().Members() {
		switch name {
		case "policy":
			subject = v
		case "sets":
			sets = v
		case "cases":
			cases = v
		default:
			return f, faultAt(strictjson.Pointer("", name), "unknown_member", "want policy, sets, cases")
		}
	}
	if subject.Text() == "" {
		return f, faultAt("/policy", "missing_member", "want the path of a policy's file, from this file's directory")
	}
	list, err := policies.ParseCases(cases, "/cases", latchkey.InstantOf(time.Now()))
	if err != nil {
		return f, err
	}
	snapshot, err := setsOf(sets)
	if err != nil {
		return f, err
	}
	of := filepath.Join(filepath.Dir(path), filepath.FromSlash(subject.Text()))
	if t.compiled[of] == nil {
		p, source, err := compileFile(of, std)
		if err != nil {
			return source, err
		}
		c := policies.CoverageOf(p.Document)
		t.compiled[of], t.coverage[of], t.order = p, &c, append(t.order, of)
	}
	p := t.compiled[of]
	if missing := snapshot.Missing(p); len(missing) > 0 {
		return f, faultAt("/sets", "set_not_found", "the policy reads the sets "+strings.Join(missing, ", ")+", which are not given here")
	}
	results, err := policies.Run(ctx, p, snapshot, list, t.coverage[of])
	t.results = append(t.results, fileResult{path, of, results})
	return f, err
}

func faultAt(pointer, code, detail string) error {
	return latchkey.InvalidFaults(latchkey.Fault{Pointer: pointer, Code: code, Detail: detail})
}

func compileFile(path string, std streams) (*policies.Policy, *sourceFile, error) {
	f, d, err := readPolicy(path, std.in)
	if err != nil {
		return nil, f, err
	}
	p, err := policies.Compile(d, 0)
	return p, f, err
}

// setsOf reads {NAME: {entity_type, values[]}}.
func setsOf(v strictjson.Value) (s *policies.Snapshot, err error) {
	s = &policies.Snapshot{}
	if k := v.Kind(); k != strictjson.Missing && k != strictjson.Object {
		return nil, faultAt("/sets", "wrong_type", "want an object, got "+k.String())
	}
	for name, set := range v.Members() {
		at := strictjson.Pointer("/sets", name)
		kind := scopes.EntityType(set.Get("entity_type").Text())
		if !latchkey.ValidName(name) {
			return nil, faultAt(at, "invalid_set_name", "a name is 1 to 128 of [A-Za-z0-9._:-], the first alphanumeric")
		}
		if kind != scopes.EntityString && kind != scopes.EntityIP && kind != scopes.EntityUint {
			return nil, faultAt(at, "invalid_entity_type", "want {entity_type: string, ip or uint, values: [texts]}")
		}
		var values []string
		for i, value := range set.Get("values").Elements() {
			canonical, ok := kind.Canonical(value.Text())
			if value.Kind() != strictjson.String || !ok {
				return nil, faultAt(strictjson.PointerIndex(at+"/values", i), "invalid_value", "not a value of the type, as a text")
			}
			values = append(values, canonical)
		}
		s = s.Edit(0, 0, func(d *policies.Draft) { d.PutSet(name, policies.NewSet(kind, 0, slices.Values(values))) })
	}
	return s, nil
}

// report prints the results; the error says whether cases failed, or too
// little was covered.
func (t *testRun) report(g *Globals, std streams, least int) error {
	failed, low := 0, 0
	var b []byte
	b = append(b, `{"files":[`...)
	for i, f := range t.results {
		if i > 0 {
			b = append(b, ',')
		}
		b = strictjson.AppendString(append(b, `{"file":`...), f.file)
		b = strictjson.AppendString(append(b, `,"policy":`...), f.policy)
		b = append(b, `,"results":[`...)
		bad := 0
		for j := range f.results {
			r := &f.results[j]
			if j > 0 {
				b = append(b, ',')
			}
			if b = r.AppendJSON(b); !r.Passed() {
				bad++
			}
		}
		b = append(b, `]}`...)
		failed += bad
		if g.JSON {
			continue
		}
		if bad == 0 {
			fmt.Fprintf(std.out, "ok    %s: %d cases\n", f.file, len(f.results))
			continue
		}
		fmt.Fprintf(std.out, "FAIL  %s: %d of %d cases\n", f.file, bad, len(f.results))
		for _, r := range f.results {
			printFailure(std, r.Name, r.Differences)
		}
	}
	b = append(b, `],"coverage":[`...)
	for i, path := range t.order {
		c := t.coverage[path]
		if i > 0 {
			b = append(b, ',')
		}
		b = strictjson.AppendString(append(b, `{"policy":`...), path)
		b = append(c.AppendJSON(append(b, `,"coverage":`...)), '}')
		if c.Known() && c.Percent() < least {
			low++
		}
		if !g.JSON {
			printCoverage(std, path, gjson.ParseBytes(c.AppendJSON(nil)))
		}
	}
	b = append(b, `]}`...)
	if g.JSON {
		if err := printJSON(std.out, gjson.ParseBytes(b)); err != nil {
			return err
		}
	}
	return verdict(failed, low, least)
}

func printFailure(std streams, name string, differences []string) {
	for _, d := range differences {
		fmt.Fprintf(std.out, "      %s: %s\n", name, d)
	}
}

func printCoverage(std streams, policy string, c gjson.Result) {
	if c.Type == gjson.Null {
		return // Rego has no rules that could be counted
	}
	fmt.Fprintf(std.out, "%s: %s%% of its rules decided a case", policy, c.Get("percent"))
	if missed := never(c); missed != "" {
		fmt.Fprint(std.out, "; never: ", missed)
	}
	fmt.Fprintln(std.out)
}

func verdict(failed, low, least int) error {
	switch {
	case failed == 1:
		return &exitError{exitCases, errors.New("1 case failed")}
	case failed > 1:
		return &exitError{exitCases, fmt.Errorf("%d cases failed", failed)}
	case low > 0:
		return &exitError{exitCases, fmt.Errorf("coverage is below %d%%", least)}
	}
	return nil
}

// remote runs a case file's cases against a policy of the server, with the
// sets that are there.
func (cmd *PoliciesTestCmd) remote(ctx context.Context, g *Globals, std streams) error {
	f, err := readSource(cmd.Cases, std.in)
	if err != nil {
		return notCompiled(g, std, f, err)
	}
	var doc strictjson.Doc
	if err := doc.Parse(string(f.json)); err != nil {
		return notCompiled(g, std, f, err)
	}
	body := map[string]any{"cases": json.RawMessage(doc.Root().Get("cases").Raw())}
	if _, err := policies.ParseCases(doc.Root().Get("cases"), "/cases", 0); err != nil {
		return notCompiled(g, std, f, err)
	}
	if cmd.Document != "" {
		source, d, err := readPolicy(cmd.Document, os.Stdin)
		if err != nil {
			return notCompiled(g, std, source, err)
		}
		body["document"] = json.RawMessage(d.AppendJSON(nil))
	}
	reply, err := cmd.call(ctx, http.MethodPost, policyPath(cmd.Target)+"/test", body)
	if err != nil {
		return err
	}
	failed := int(reply.Get("failed").Int())
	if g.JSON {
		err = printJSON(std.out, reply)
	} else {
		fmt.Fprintf(std.out, "%s: %s passed, %d failed\n", cmd.Target, reply.Get("passed"), failed)
		for _, r := range reply.Get("results").Array() {
			var differences []string
			for _, d := range r.Get("differences").Array() {
				differences = append(differences, d.String())
			}
			printFailure(std, r.Get("name").String(), differences)
		}
		printCoverage(std, cmd.Target, reply.Get("coverage"))
	}
	if err != nil {
		return err
	}
	c, low := reply.Get("coverage"), 0
	if c.Type != gjson.Null && int(c.Get("percent").Int()) < cmd.MinCoverage {
		low = 1
	}
	return verdict(failed, low, cmd.MinCoverage)
}
