package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// DecideCmd asks for one decision.
type DecideCmd struct {
	Remote      `embed:""`
	Subject     string            `arg:"" help:"The subject's id; of an access key its id or handle."`
	Action      string            `arg:"" help:"What is to be done: create, read, update, delete, or an application's action."`
	Type        string            `arg:"" help:"The resource's type."`
	ID          string            `arg:"" help:"The resource's id."`
	SubjectType string            `help:"The subject's type." default:"access_key"`
	Property    map[string]string `help:"Properties of the resource, as texts."`
	Explain     bool              `help:"Show every scope entry that was looked at."`
}

// errDenied is the exit code of a deny.
var errDenied = errors.New("denied")

// Run implements the command.
func (cmd *DecideCmd) Run(ctx context.Context, g *Globals, std streams) error {
	resource := map[string]any{"type": cmd.Type, "id": cmd.ID}
	if len(cmd.Property) > 0 {
		resource["properties"] = cmd.Property
	}
	path := "/decision"
	if cmd.Explain {
		path = "/decision/explain"
	}
	reply, err := cmd.call(ctx, http.MethodPost, path, map[string]any{
		"subject":  map[string]any{"type": cmd.SubjectType, "id": cmd.Subject},
		"action":   map[string]any{"name": cmd.Action},
		"resource": resource,
	})
	if err != nil {
		return err
	}
	if g.JSON {
		err = printJSON(std.out, reply)
	} else {
		err = showDecision(std, reply)
	}
	if err == nil && !reply.Get("decision").Bool() {
		return &exitError{exitFailed, errDenied}
	}
	return err
}

func list(v gjson.Result) string {
	var texts []string
	for _, e := range v.Array() {
		texts = append(texts, e.String())
	}
	return strings.Join(texts, ", ")
}

func showDecision(std streams, reply gjson.Result) error {
	answer := reply.Get("context")
	fmt.Fprintf(std.out, "%s  (until %s)\n", answer.Get("action"), answer.Get("expires_at"))
	for _, r := range answer.Get("reasons").Array() {
		if r.Get("entry").Exists() {
			fmt.Fprintf(std.out, "  %s: entry %s, selector %q permits %s\n", r.Get("code"), r.Get("entry"), r.Get("selector"), r.Get("permission"))
			continue
		}
		fmt.Fprintf(std.out, "  %s\n", r.Get("code"))
	}
	explain := answer.Get("explain")
	if !explain.Exists() {
		return nil
	}
	rows := [][]string{{"  ENTRY", "SELECTOR", "PERMISSIONS", "SELECTOR MATCHES", "ACTION PERMITTED", "WHY"}}
	for _, e := range explain.Get("entries").Array() {
		rows = append(rows, []string{"  " + e.Get("entry").String(), e.Get("selector").String(), list(e.Get("permissions")),
			strconv.FormatBool(e.Get("selector_matches").Bool()), strconv.FormatBool(e.Get("action_permitted").Bool()), e.Get("why").String()})
	}
	return table(std.out, rows)
}
