package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/tidwall/gjson"
)

// TemplatesCmd keeps the templates of what may be asked for.
type TemplatesCmd struct {
	Create TemplatesCreateCmd `cmd:"" help:"Make a template from a JSON file."`
	List   TemplatesListCmd   `cmd:"" help:"List templates by name."`
	Get    TemplatesGetCmd    `cmd:"" help:"Show a template; with --json as 'update' takes it."`
	Update TemplatesUpdateCmd `cmd:"" help:"Replace a template by a JSON file."`
	Delete TemplatesDeleteCmd `cmd:"" help:"Delete a template that no open request is of."`
}

const templatesPath = "/v1/access-request-templates"

func templatePath(id string) string { return templatesPath + "/" + url.PathEscape(id) }

// templateFile reads a template without what the server sets, so that what get
// prints can be changed and given to update.
func templateFile(file string, in io.Reader) (map[string]json.RawMessage, error) {
	text, err := readJSON(file, in)
	if err != nil {
		return nil, err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, usage("%s: want a JSON object", file)
	}
	for _, name := range []string{"id", "created_at", "updated_at", "warnings"} {
		delete(members, name)
	}
	return members, nil
}

// TemplatesCreateCmd makes a template.
type TemplatesCreateCmd struct {
	Remote `embed:""`
	File   string `arg:"" help:"The template as JSON; - for standard input." placeholder:"FILE"`
}

// Run implements the command.
func (cmd *TemplatesCreateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	body, err := templateFile(cmd.File, std.in)
	if err != nil {
		return err
	}
	reply, err := cmd.call(ctx, http.MethodPost, templatesPath, body)
	return savedTemplate(g, std, reply, err)
}

// TemplatesUpdateCmd replaces a template.
type TemplatesUpdateCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The template's id."`
	File   string `arg:"" help:"The template as JSON; - for standard input." placeholder:"FILE"`
}

// Run implements the command.
func (cmd *TemplatesUpdateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	body, err := templateFile(cmd.File, std.in)
	if err != nil {
		return err
	}
	reply, err := cmd.call(ctx, http.MethodPut, templatePath(cmd.ID), body)
	return savedTemplate(g, std, reply, err)
}

func savedTemplate(g *Globals, std streams, reply gjson.Result, err error) error {
	if err := showTemplate(g, std.out, reply, err); err != nil {
		return err
	}
	for _, warning := range reply.Get("warnings").Array() {
		fmt.Fprintln(std.err, "warning:", printable(warning.String()))
	}
	return nil
}

func showTemplate(g *Globals, out io.Writer, reply gjson.Result, err error) error {
	return showOne(g, out, reply, err, "id", "name", "description", "app_id", "mapping_ids", "resource_selector", "resource_access", "assignment_types", "allowed_durations",
		"default_duration_mins", "max_duration_mins", "allowed_group_ids", "approver_group_ids", "approvals_required", "allow_self_approval", "pending_ttl_mins", "require_justification",
		"custom_fields", "auto_approve", "auto_approve_sources", "auto_approve_when", "max_auto_duration_mins", "revoke_when_off_call", "notification_policy", "notification_count",
		"prefer_requester_groups", "escalation_after_mins", "escalation_group_id", "trigger_task_id", "trigger_task_failure_mode", "created_at", "updated_at")
}

// TemplatesListCmd lists templates.
type TemplatesListCmd struct {
	Remote `embed:""`
	Limit  int    `help:"Templates a page, 1 to 200." default:"50"`
	Cursor string `help:"The next_cursor of the page before."`
}

// Run implements the command.
func (cmd *TemplatesListCmd) Run(ctx context.Context, g *Globals, std streams) error {
	q := url.Values{"limit": {strconv.Itoa(cmd.Limit)}}
	if cmd.Cursor != "" {
		q.Set("cursor", cmd.Cursor)
	}
	reply, err := cmd.call(ctx, http.MethodGet, templatesPath+"?"+q.Encode(), nil)
	err = showAll(g, std.out, reply, err, "access_request_templates", []string{"ID", "NAME", "DURATIONS", "APPROVALS", "DESCRIPTION"}, func(r gjson.Result) []string {
		return []string{r.Get("id").String(), r.Get("name").String(), r.Get("allowed_durations").Raw, r.Get("approvals_required").String(), dash(r.Get("description"))}
	})
	return showMore(g, std.out, reply, err)
}

// TemplatesGetCmd shows a template.
type TemplatesGetCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The template's id."`
}

// Run implements the command.
func (cmd *TemplatesGetCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, templatePath(cmd.ID), nil)
	return showTemplate(g, std.out, reply, err)
}

// TemplatesDeleteCmd deletes a template.
type TemplatesDeleteCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The template's id."`
}

// Run implements the command.
func (cmd *TemplatesDeleteCmd) Run(ctx context.Context, g *Globals, std streams) error {
	return cmd.end(ctx, g, std.out, templatePath(cmd.ID), "id", cmd.ID, "deleted")
}
