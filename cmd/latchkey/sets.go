package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// SetsCmd manages sets over the API.
type SetsCmd struct {
	Put    SetsPutCmd    `cmd:"" help:"Give a set the values of a file; with --type it is made where it is missing."`
	Get    SetsGetCmd    `cmd:"" help:"Show a set."`
	List   SetsListCmd   `cmd:"" help:"List sets."`
	Patch  SetsPatchCmd  `cmd:"" help:"Add values to a set and remove others."`
	Values SetsValuesCmd `cmd:"" help:"Print the values of a set, one a line."`
	Delete SetsDeleteCmd `cmd:"" help:"End a set."`
}

func setPath(name string) string { return "/v1/sets/" + url.PathEscape(name) }

// lines reads values, one a line; empty lines are passed over.
func lines(file string, in io.Reader) ([]string, error) {
	text, err := readInput(file, in)
	if err != nil {
		return nil, err
	}
	list := []string{}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			list = append(list, line)
		}
	}
	return list, nil
}

// SetsPutCmd replaces a set's values.
type SetsPutCmd struct {
	Remote      `embed:""`
	Name        string `arg:"" help:"The set's name."`
	File        string `arg:"" help:"File with one value a line; - for standard input." placeholder:"FILE"`
	Type        string `help:"Make the set with this type of values where it is missing: string, ip or uint." enum:",string,ip,uint" default:""`
	Description string `help:"What it is for."`
}

// Run implements the command.
func (cmd *SetsPutCmd) Run(ctx context.Context, g *Globals, std streams) error {
	values, err := lines(cmd.File, std.in)
	if err != nil {
		return err
	}
	body := map[string]any{"values": values}
	if cmd.Description != "" {
		body["description"] = cmd.Description
	}
	reply, err := cmd.call(ctx, http.MethodPut, setPath(cmd.Name), body)
	if refused, ok := errors.AsType[*refusal](err); ok && refused.code == "set_not_found" && cmd.Type != "" {
		body["name"], body["entity_type"] = cmd.Name, cmd.Type
		reply, err = cmd.call(ctx, http.MethodPost, "/v1/sets", body)
	}
	return showSets(g, std.out, reply, err)
}

// SetsGetCmd shows a set.
type SetsGetCmd struct {
	Remote `embed:""`
	Name   string `arg:"" help:"The set's name."`
}

// Run implements the command.
func (cmd *SetsGetCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, setPath(cmd.Name), nil)
	return showSets(g, std.out, reply, err)
}

// SetsListCmd lists sets.
type SetsListCmd struct {
	Remote `embed:""`
	Limit  int `help:"Sets a page, 1 to 200." default:"50"`
	Offset int `help:"Sets to pass over." default:"0"`
}

// Run implements the command.
func (cmd *SetsListCmd) Run(ctx context.Context, g *Globals, std streams) error {
	q := url.Values{"limit": {strconv.Itoa(cmd.Limit)}, "offset": {strconv.Itoa(cmd.Offset)}}
	reply, err := cmd.call(ctx, http.MethodGet, "/v1/sets?"+q.Encode(), nil)
	return showSets(g, std.out, reply, err)
}

// SetsPatchCmd adds and removes values, all or nothing.
type SetsPatchCmd struct {
	Remote     `embed:""`
	Name       string   `arg:"" help:"The set's name."`
	Add        []string `help:"Value to add; may be repeated." sep:"none" placeholder:"VALUE"`
	Remove     []string `help:"Value to remove; may be repeated." sep:"none" placeholder:"VALUE"`
	AddFile    string   `help:"File with values to add, one a line; - for standard input." placeholder:"FILE"`
	RemoveFile string   `help:"File with values to remove, one a line; - for standard input." placeholder:"FILE"`
}

// Run implements the command.
func (cmd *SetsPatchCmd) Run(ctx context.Context, g *Globals, std streams) error {
	body := map[string]any{}
	for name, from := range map[string]struct {
		values []string
		file   string
	}{"add": {cmd.Add, cmd.AddFile}, "remove": {cmd.Remove, cmd.RemoveFile}} {
		values := from.values
		if from.file != "" {
			more, err := lines(from.file, std.in)
			if err != nil {
				return err
			}
			values = append(values, more...)
		}
		if len(values) > 0 {
			body[name] = values
		}
	}
	if len(body) == 0 {
		return usage("give values to add or to remove")
	}
	reply, err := cmd.call(ctx, http.MethodPatch, setPath(cmd.Name), body)
	switch {
	case err != nil:
		return err
	case g.JSON:
		return printJSON(std.out, reply)
	}
	fmt.Fprintf(std.out, "added %s, removed %s, total %s\n", reply.Get("added"), reply.Get("removed"), reply.Get("total"))
	return nil
}

// SetsValuesCmd prints all values of a set.
type SetsValuesCmd struct {
	Remote `embed:""`
	Name   string `arg:"" help:"The set's name."`
	Prefix string `help:"Only values that begin like this."`
}

// Run implements the command: values as they are, or with --json as strings.
func (cmd *SetsValuesCmd) Run(ctx context.Context, g *Globals, std streams) error {
	q := url.Values{"limit": {"1000"}}
	if cmd.Prefix != "" {
		q.Set("prefix", cmd.Prefix)
	}
	for {
		reply, err := cmd.call(ctx, http.MethodGet, setPath(cmd.Name)+"/values?"+q.Encode(), nil)
		if err != nil {
			return err
		}
		for _, v := range reply.Get("values").Array() {
			text := v.String()
			if g.JSON {
				text = v.Raw
			}
			if _, err := fmt.Fprintln(std.out, text); err != nil {
				return err
			}
		}
		next := reply.Get("next_cursor")
		if next.Type == gjson.Null {
			return nil
		}
		q.Set("cursor", next.String())
	}
}

// SetsDeleteCmd ends a set.
type SetsDeleteCmd struct {
	Remote `embed:""`
	Name   string `arg:"" help:"The set's name."`
}

// Run implements the command.
func (cmd *SetsDeleteCmd) Run(ctx context.Context, g *Globals, std streams) error {
	return cmd.end(ctx, g, std.out, setPath(cmd.Name), "name", cmd.Name, "deleted")
}

// showSets shows a list of sets, or one.
func showSets(g *Globals, out io.Writer, reply gjson.Result, err error) error {
	return showAll(g, out, reply, err, "sets", []string{"NAME", "TYPE", "VALUES", "VERSION", "UPDATED", "DESCRIPTION"}, func(s gjson.Result) []string {
		return []string{s.Get("name").String(), s.Get("entity_type").String(), s.Get("total").String(), s.Get("version").String(),
			s.Get("updated_at").String(), dash(s.Get("description"))}
	})
}
