package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
	"go.yaml.in/yaml/v3"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/policies"
)

// PoliciesCmd manages policies over the API, and checks and tests them offline.
type PoliciesCmd struct {
	Put      PoliciesPutCmd      `cmd:"" help:"Publish policies from files; exit code 3 when one does not compile."`
	Get      PoliciesGetCmd      `cmd:"" help:"Show a policy as a file that 'put' takes."`
	List     PoliciesListCmd     `cmd:"" help:"List policies."`
	Versions PoliciesVersionsCmd `cmd:"" help:"List the versions of a policy that are kept."`
	Rollback PoliciesRollbackCmd `cmd:"" help:"Publish an earlier version again, as a new one."`
	Delete   PoliciesDeleteCmd   `cmd:"" help:"Delete a policy with all its versions."`
	Check    PoliciesCheckCmd    `cmd:"" help:"Check policies in files, offline; exit code 3 when one does not compile."`
	Test     PoliciesTestCmd     `cmd:"" help:"Run case files, offline; with --cases, run one against a policy of the server. Exit code 4 when a case fails."`
}

func policyPath(name string) string { return "/v1/policies/" + url.PathEscape(name) }

// PoliciesPutCmd publishes policies.
type PoliciesPutCmd struct {
	Remote `embed:""`
	Files  []string `arg:"" name:"file" help:"Policies: .yaml, .json or .rego; - for YAML or JSON from standard input."`
}

// Run implements the command. Nothing is published of a file that does not
// parse here already, nor of those after one that is refused.
func (cmd *PoliciesPutCmd) Run(ctx context.Context, g *Globals, std streams) error {
	for _, path := range cmd.Files {
		f, d, err := readPolicy(path, std.in)
		if err != nil {
			return notCompiled(g, std, f, err)
		}
		reply, err := cmd.call(ctx, http.MethodPut, policyPath(d.Name), json.RawMessage(d.AppendJSON(nil)))
		if r, ok := errors.AsType[*refusal](err); ok && r.status == http.StatusBadRequest {
			return notCompiled(g, std, f, latchkey.InvalidFaults(r.faults...))
		}
		if err != nil {
			return err
		}
		if g.JSON {
			err = printJSON(std.out, reply)
		} else {
			_, err = fmt.Fprintf(std.out, "%s version %s\n", reply.Get("name"), reply.Get("version"))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// notCompiled tells what is wrong with one file.
func notCompiled(g *Globals, std streams, f *sourceFile, err error) error {
	list := f.findings(err)
	if list == nil {
		return err
	}
	if g.JSON {
		if err := json.NewEncoder(std.out).Encode(map[string]any{"errors": list}); err != nil {
			return err
		}
	}
	for _, found := range list {
		fmt.Fprintln(std.err, found)
	}
	return &exitError{exitCompile, fmt.Errorf("errors in %s", f.path)}
}

// PoliciesGetCmd shows a policy.
type PoliciesGetCmd struct {
	Remote  `embed:""`
	Name    string `arg:"" help:"The policy's name."`
	Version int64  `help:"A version that is kept; the latest where it is not given."`
}

// Run implements the command.
func (cmd *PoliciesGetCmd) Run(ctx context.Context, g *Globals, std streams) error {
	path := policyPath(cmd.Name)
	if cmd.Version != 0 {
		path += "/versions/" + strconv.FormatInt(cmd.Version, 10)
	}
	reply, err := cmd.call(ctx, http.MethodGet, path, nil)
	switch {
	case err != nil:
		return err
	case g.JSON:
		return printJSON(std.out, reply)
	case reply.Get("language").String() == string(policies.Rego):
		_, err := io.WriteString(std.out, reply.Get("rego").String())
		return err
	}
	return printDocument(std.out, reply)
}

// printDocument prints the document of a policy's record as YAML.
func printDocument(out io.Writer, record gjson.Result) error {
	var root yaml.Node
	if err := yaml.Unmarshal([]byte(record.Raw), &root); err != nil {
		return err
	}
	object := root.Content[0]
	var kept []*yaml.Node
	for i := 0; i < len(object.Content); i += 2 {
		switch object.Content[i].Value {
		case "name", "language", "description", "rules", "default":
			kept = append(kept, object.Content[i:i+2]...)
		}
	}
	object.Content = kept
	plain(&root)
	e := yaml.NewEncoder(out)
	e.SetIndent(2)
	return errors.Join(e.Encode(&root), e.Close())
}

// plain takes JSON's braces and quotes off, where YAML does without.
func plain(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		plain(c)
	}
}

// PoliciesListCmd lists policies.
type PoliciesListCmd struct {
	Remote `embed:""`
	Limit  int `help:"Policies a page, 1 to 200." default:"50"`
	Offset int `help:"Policies to pass over." default:"0"`
}

// Run implements the command.
func (cmd *PoliciesListCmd) Run(ctx context.Context, g *Globals, std streams) error {
	q := url.Values{"limit": {strconv.Itoa(cmd.Limit)}, "offset": {strconv.Itoa(cmd.Offset)}}
	reply, err := cmd.call(ctx, http.MethodGet, "/v1/policies?"+q.Encode(), nil)
	switch {
	case err != nil:
		return err
	case g.JSON:
		return printJSON(std.out, reply)
	}
	rows := [][]string{{"NAME", "VERSION", "LANGUAGE", "UPDATED", "DESCRIPTION"}}
	for _, p := range reply.Get("policies").Array() {
		rows = append(rows, []string{p.Get("name").String(), p.Get("version").String(), p.Get("language").String(), p.Get("updated_at").String(), dash(p.Get("description"))})
	}
	return table(std.out, rows)
}

// PoliciesVersionsCmd lists versions.
type PoliciesVersionsCmd struct {
	Remote `embed:""`
	Name   string `arg:"" help:"The policy's name."`
	Limit  int    `help:"Versions a page, 1 to 200." default:"50"`
	Offset int    `help:"Versions to pass over." default:"0"`
}

// Run implements the command.
func (cmd *PoliciesVersionsCmd) Run(ctx context.Context, g *Globals, std streams) error {
	q := url.Values{"limit": {strconv.Itoa(cmd.Limit)}, "offset": {strconv.Itoa(cmd.Offset)}}
	reply, err := cmd.call(ctx, http.MethodGet, policyPath(cmd.Name)+"/versions?"+q.Encode(), nil)
	switch {
	case err != nil:
		return err
	case g.JSON:
		return printJSON(std.out, reply)
	}
	rows := [][]string{{"VERSION", "LANGUAGE", "CREATED", "BY"}}
	for _, v := range reply.Get("versions").Array() {
		rows = append(rows, []string{v.Get("version").String(), v.Get("language").String(), v.Get("created_at").String(), v.Get("created_by.id").String()})
	}
	return table(std.out, rows)
}

// PoliciesRollbackCmd publishes an earlier version.
type PoliciesRollbackCmd struct {
	Remote  `embed:""`
	Name    string `arg:"" help:"The policy's name."`
	Version int64  `arg:"" help:"The version to publish again."`
}

// Run implements the command.
func (cmd *PoliciesRollbackCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodPost, policyPath(cmd.Name)+"/rollback", map[string]int64{"version": cmd.Version})
	switch {
	case err != nil:
		return err
	case g.JSON:
		return printJSON(std.out, reply)
	}
	_, err = fmt.Fprintf(std.out, "%s version %s is version %d again\n", reply.Get("name"), reply.Get("version"), cmd.Version)
	return err
}

// PoliciesDeleteCmd deletes a policy.
type PoliciesDeleteCmd struct {
	Remote `embed:""`
	Name   string `arg:"" help:"The policy's name."`
}

// Run implements the command.
func (cmd *PoliciesDeleteCmd) Run(ctx context.Context, g *Globals, std streams) error {
	if _, err := cmd.call(ctx, http.MethodDelete, policyPath(cmd.Name), nil); err != nil {
		return err
	}
	if g.JSON {
		return json.NewEncoder(std.out).Encode(map[string]any{"name": cmd.Name, "deleted": true})
	}
	_, err := fmt.Fprintln(std.out, "deleted", cmd.Name)
	return err
}

// PoliciesCheckCmd checks policies offline.
type PoliciesCheckCmd struct {
	Files []string `arg:"" name:"file" help:"Policies: .yaml, .json or .rego; - for YAML or JSON from standard input."`
}

// Run implements the command. Every file is looked at. Whether the sets that a
// policy reads are there is for the server to say.
func (cmd *PoliciesCheckCmd) Run(g *Globals, std streams) error {
	type report struct {
		File   string    `json:"file"`
		Name   string    `json:"name"`
		Valid  bool      `json:"valid"`
		Errors []finding `json:"errors"`
	}
	var reports []report
	bad := 0
	for _, path := range cmd.Files {
		r := report{File: path, Errors: []finding{}}
		f, d, err := readPolicy(path, std.in)
		if err == nil {
			_, err = policies.Compile(d, 0)
		}
		if d != nil {
			r.Name = d.Name
		}
		r.Valid = err == nil
		if err != nil {
			bad++
			if r.Errors = f.findings(err); r.Errors == nil {
				return err
			}
		}
		reports = append(reports, r)
	}
	if g.JSON {
		if err := json.NewEncoder(std.out).Encode(map[string]any{"valid": bad == 0, "files": reports}); err != nil {
			return err
		}
	} else {
		for _, r := range reports {
			if r.Valid {
				fmt.Fprintf(std.out, "%s: policy %s compiles\n", r.File, r.Name)
			}
			for _, found := range r.Errors {
				fmt.Fprintln(std.err, found)
			}
		}
	}
	if bad > 0 {
		return &exitError{exitCompile, fmt.Errorf("%d of %d files do not compile", bad, len(cmd.Files))}
	}
	return nil
}

// never lists what decided no case.
func never(c gjson.Result) string {
	var list []string
	for _, r := range c.Get("rules").Array() {
		if r.Get("hits").Int() == 0 {
			list = append(list, strconv.Quote(r.Get("label").String()))
		}
	}
	if c.Get("default").Int() == 0 {
		list = append(list, "the default")
	}
	return strings.Join(list, ", ")
}
