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
	Context     map[string]string `help:"Members of the context, as texts."`
	Policy      string            `help:"Policy to ask; the customer's default one where empty." placeholder:"NAME"`
	Explain     bool              `help:"Show every scope entry, grant and rule that was looked at."`
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
	question := map[string]any{
		"subject":  map[string]any{"type": cmd.SubjectType, "id": cmd.Subject},
		"action":   map[string]any{"name": cmd.Action},
		"resource": resource,
	}
	if len(cmd.Context) > 0 {
		question["context"] = cmd.Context
	}
	if cmd.Policy != "" {
		question["policy"] = cmd.Policy
	}
	reply, err := cmd.call(ctx, http.MethodPost, path, question)
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
		switch {
		case r.Get("source").String() == "grant":
			fmt.Fprintf(std.out, "  %s: grant %s, entry %s, selector %q permits %s\n", r.Get("code"), r.Get("id"), r.Get("entry"), r.Get("selector"), r.Get("permission"))
		case r.Get("entry").Exists():
			fmt.Fprintf(std.out, "  %s: entry %s, selector %q permits %s\n", r.Get("code"), r.Get("entry"), r.Get("selector"), r.Get("permission"))
		case r.Get("source").String() == "policy":
			fmt.Fprintf(std.out, "  %s: %s\n", r.Get("code"), policyReason(answer, r))
		default:
			fmt.Fprintf(std.out, "  %s\n", r.Get("code"))
		}
	}
	explain := answer.Get("explain")
	if !explain.Exists() {
		return nil
	}
	if entries := explain.Get("entries").Array(); len(entries) > 0 {
		rows := [][]string{{"  ENTRY", "SELECTOR", "PERMISSIONS", "SELECTOR MATCHES", "ACTION PERMITTED", "WHY"}}
		for _, e := range entries {
			rows = append(rows, []string{"  " + e.Get("entry").String(), e.Get("selector").String(), list(e.Get("permissions")),
				strconv.FormatBool(e.Get("selector_matches").Bool()), strconv.FormatBool(e.Get("action_permitted").Bool()), e.Get("why").String()})
		}
		if err := table(std.out, rows); err != nil {
			return err
		}
	}
	if grants := explain.Get("grants").Array(); len(grants) > 0 {
		rows := [][]string{{"  GRANT", "STARTS", "ENDS", "WHY", "REASON"}}
		for _, r := range grants {
			rows = append(rows, []string{"  " + r.Get("id").String(), r.Get("not_before").String(), dash(r.Get("expires_at")), r.Get("why").String(), r.Get("reason").String()})
		}
		if err := table(std.out, rows); err != nil {
			return err
		}
	}
	if rules := explain.Get("policy.rules").Array(); len(rules) > 0 {
		rows := [][]string{{"  RULE", "WHY"}}
		for _, r := range rules {
			rows = append(rows, []string{"  " + r.Get("rule").String(), r.Get("why").String()})
		}
		return table(std.out, rows)
	}
	return nil
}

// policyReason tells which policy answered, by which rule, and of an evaluation
// that came to nothing why.
func policyReason(answer, reason gjson.Result) string {
	text := fmt.Sprintf("%s version %s", reason.Get("id"), answer.Get("policy.version"))
	if rule := reason.Get("rule").String(); rule != "" {
		text += fmt.Sprintf(", rule %q", rule)
	}
	if failure := reason.Get("failure").String(); failure != "" {
		text += ": " + failure
	}
	return text
}
