package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/tidwall/gjson"
)

// WebhooksCmd keeps webhooks, which are told of access requests.
type WebhooksCmd struct {
	Create     WebhooksCreateCmd     `cmd:"" help:"Make a webhook from a JSON file; its secret is shown once."`
	List       WebhooksListCmd       `cmd:"" help:"List webhooks, oldest first."`
	Get        WebhooksGetCmd        `cmd:"" help:"Show a webhook; with --json as 'update' takes it."`
	Update     WebhooksUpdateCmd     `cmd:"" help:"Replace a webhook by a JSON file; a header that is null keeps its value."`
	Delete     WebhooksDeleteCmd     `cmd:"" help:"Delete a webhook and its deliveries."`
	Rotate     WebhooksRotateCmd     `cmd:"" help:"Give a webhook a new secret; those of before sign beside it for a while."`
	Deliveries WebhooksDeliveriesCmd `cmd:"" help:"List the deliveries of a webhook, or those by e-mail, latest event first."`
	Replay     WebhooksReplayCmd     `cmd:"" help:"Deliver once more."`
}

func webhookPath(id string) string { return "/v1/webhooks/" + url.PathEscape(id) }

// webhookFile reads settings without what the server sets, so that what get prints
// can be changed and given to update.
func webhookFile(file string, in io.Reader) (map[string]json.RawMessage, error) {
	text, err := readJSON(file, in)
	if err != nil {
		return nil, err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, usage("%s: want a JSON object", file)
	}
	for _, name := range []string{"id", "secrets", "created_at"} {
		delete(members, name)
	}
	return members, nil
}

// WebhooksCreateCmd makes a webhook.
type WebhooksCreateCmd struct {
	Remote `embed:""`
	File   string `arg:"" help:"{\"url\" or \"task_id\", \"events\", \"headers\", …}; - for standard input." placeholder:"FILE"`
}

// Run implements the command.
func (cmd *WebhooksCreateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	body, err := webhookFile(cmd.File, std.in)
	if err != nil {
		return err
	}
	reply, err := cmd.call(ctx, http.MethodPost, "/v1/webhooks", body)
	return showWebhook(g, std.out, reply, err)
}

// WebhooksUpdateCmd replaces a webhook.
type WebhooksUpdateCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The webhook's id."`
	File   string `arg:"" help:"The settings as JSON; - for standard input." placeholder:"FILE"`
}

// Run implements the command.
func (cmd *WebhooksUpdateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	body, err := webhookFile(cmd.File, std.in)
	if err != nil {
		return err
	}
	reply, err := cmd.call(ctx, http.MethodPut, webhookPath(cmd.ID), body)
	return showWebhook(g, std.out, reply, err)
}

func showWebhook(g *Globals, out io.Writer, reply gjson.Result, err error) error {
	members := []string{"id", "url", "task_id", "events", "headers", "compat", "description", "secrets", "created_at"}
	if reply.Get("secret").Exists() {
		members = append(members, "secret")
	}
	return showOne(g, out, reply, err, members...)
}

// WebhooksListCmd lists webhooks.
type WebhooksListCmd struct {
	Remote `embed:""`
}

// Run implements the command.
func (cmd *WebhooksListCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, "/v1/webhooks", nil)
	return showAll(g, std.out, reply, err, "webhooks", []string{"ID", "TARGET", "EVENTS", "DESCRIPTION"}, func(r gjson.Result) []string {
		target := r.Get("url").String()
		if target == "" {
			target = "task " + r.Get("task_id").String()
		}
		return []string{r.Get("id").String(), target, strconv.Itoa(len(r.Get("events").Array())), dash(r.Get("description"))}
	})
}

// WebhooksGetCmd shows a webhook.
type WebhooksGetCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The webhook's id."`
}

// Run implements the command.
func (cmd *WebhooksGetCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, webhookPath(cmd.ID), nil)
	return showWebhook(g, std.out, reply, err)
}

// WebhooksDeleteCmd deletes a webhook.
type WebhooksDeleteCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The webhook's id."`
}

// Run implements the command.
func (cmd *WebhooksDeleteCmd) Run(ctx context.Context, g *Globals, std streams) error {
	return cmd.end(ctx, g, std.out, webhookPath(cmd.ID), "id", cmd.ID, "deleted")
}

// WebhooksRotateCmd gives a webhook a new secret.
type WebhooksRotateCmd struct {
	Remote `embed:""`
	ID     string        `arg:"" help:"The webhook's id."`
	Grace  time.Duration `help:"How long the secrets of before go on signing; 0 after a leak." default:"24h"`
}

// Run implements the command.
func (cmd *WebhooksRotateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodPost, webhookPath(cmd.ID)+"/rotate", map[string]string{"grace": cmd.Grace.String()})
	return showOne(g, std.out, reply, err, "id", "secrets", "secret")
}

// WebhooksDeliveriesCmd lists deliveries.
type WebhooksDeliveriesCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The webhook's id, or email."`
	Status string `help:"Only these: pending, delivered, dead or dropped." enum:",pending,delivered,dead,dropped" default:""`
	Limit  int    `help:"Deliveries a page, 1 to 200." default:"50"`
	Cursor string `help:"The next_cursor of the page before."`
}

// Run implements the command.
func (cmd *WebhooksDeliveriesCmd) Run(ctx context.Context, g *Globals, std streams) error {
	q := url.Values{"limit": {strconv.Itoa(cmd.Limit)}}
	for name, value := range map[string]string{"status": cmd.Status, "cursor": cmd.Cursor} {
		if value != "" {
			q.Set(name, value)
		}
	}
	reply, err := cmd.call(ctx, http.MethodGet, webhookPath(cmd.ID)+"/deliveries?"+q.Encode(), nil)
	return showMore(g, std.out, reply, showDeliveries(g, std.out, reply, err))
}

// WebhooksReplayCmd delivers once more.
type WebhooksReplayCmd struct {
	Remote   `embed:""`
	ID       string `arg:"" help:"The webhook's id, or email."`
	Delivery string `arg:"" help:"The delivery's id."`
}

// Run implements the command.
func (cmd *WebhooksReplayCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodPost, webhookPath(cmd.ID)+"/deliveries/"+url.PathEscape(cmd.Delivery)+"/replay", nil)
	return showDeliveries(g, std.out, reply, err)
}

func showDeliveries(g *Globals, out io.Writer, reply gjson.Result, err error) error {
	return showAll(g, out, reply, err, "deliveries", []string{"ID", "EVENT", "REQUEST", "STATUS", "ATTEMPTS", "RESULT", "REPLY", "NEXT", "PERSON"}, func(r gjson.Result) []string {
		return []string{r.Get("id").String(), r.Get("event").String(), r.Get("request_id").String(), r.Get("status").String(), r.Get("attempts").String(),
			dash(r.Get("last_attempt.result")), dash(r.Get("last_attempt.reply_status")), dash(r.Get("next_attempt_at")), dash(r.Get("recipient_id"))}
	})
}
