package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

// RequestsCmd asks for access and decides on it over the API. A person's own
// credential belongs in LATCHKEY_KEY.
type RequestsCmd struct {
	Submit   RequestsSubmitCmd   `cmd:"" help:"Ask for access by a template."`
	List     RequestsListCmd     `cmd:"" help:"List requests, newest first: your own, those that wait for you, or all."`
	Get      RequestsGetCmd      `cmd:"" help:"Show one request."`
	Approve  RequestsApproveCmd  `cmd:"" help:"Approve a request."`
	Deny     RequestsDenyCmd     `cmd:"" help:"Deny a request."`
	Revoke   RequestsRevokeCmd   `cmd:"" help:"Cancel a pending request, or end what was approved."`
	Watch    RequestsWatchCmd    `cmd:"" help:"Wait for the decision on a request; exit code 1 when it is not approved."`
	Messages RequestsMessagesCmd `cmd:"" help:"Show the discussion of a request, oldest first."`
	Say      RequestsSayCmd      `cmd:"" help:"Add a message to the discussion of a request."`
}

const requestsPath = "/v1/access-requests"

func requestPath(id string) string { return requestsPath + "/" + url.PathEscape(id) }

// RequestsSubmitCmd submits a request.
type RequestsSubmitCmd struct {
	Remote        `embed:""`
	Template      string        `arg:"" help:"The template's id."`
	For           time.Duration `help:"How long, from the approval on; whole minutes." placeholder:"DURATION"`
	Start         string        `help:"Start of the window in which it is wanted, as an RFC 3339 timestamp." placeholder:"TIME"`
	End           string        `help:"End of that window." placeholder:"TIME"`
	Permanent     bool          `help:"Until it is revoked, where the template allows that."`
	Justification string        `help:"Why."`
	Resource      []string      `help:"A resource that it is for; may be repeated." placeholder:"KIND:ID" sep:"none"`
	Answers       string        `help:"File with the answers to the template's fields: {\"<field's id>\": \"text\" | [\"option\", …] | true}; - for standard input." placeholder:"FILE"`
	Beneficiary   string        `help:"Id of the person that it is for; for services." placeholder:"ID"`
}

// Run implements the command.
func (cmd *RequestsSubmitCmd) Run(ctx context.Context, g *Globals, std streams) error {
	body := map[string]any{"template_id": cmd.Template}
	if cmd.Justification != "" {
		body["justification"] = cmd.Justification
	}
	if cmd.Beneficiary != "" {
		body["beneficiary_id"] = cmd.Beneficiary
	}
	switch {
	case (cmd.Start == "") != (cmd.End == ""):
		return usage("--start and --end go together")
	case cmd.For != 0 && cmd.Start != "" || cmd.Permanent && (cmd.For != 0 || cmd.Start != ""):
		return usage("give one of --for, --start with --end, and --permanent")
	case cmd.Start != "":
		body["assignment_type"], body["window"] = "window", map[string]string{"start": cmd.Start, "end": cmd.End}
	case cmd.Permanent:
		body["assignment_type"] = "permanent"
	case cmd.For%time.Minute != 0:
		return usage("--for: want whole minutes")
	case cmd.For != 0:
		body["requested_duration_mins"] = int64(cmd.For / time.Minute)
	}
	var resources []map[string]string
	for _, text := range cmd.Resource {
		kind, id, ok := strings.Cut(text, ":")
		if !ok || kind == "" || id == "" {
			return usage("--resource %s: want KIND:ID, like account:db-1/admin", text)
		}
		resources = append(resources, map[string]string{"kind": kind, "id": id})
	}
	if resources != nil {
		body["resources"] = resources
	}
	if cmd.Answers != "" {
		answers, err := readJSON(cmd.Answers, std.in)
		if err != nil {
			return err
		}
		body["custom_answers"] = answers
	}
	reply, err := cmd.call(ctx, http.MethodPost, requestsPath, body)
	return showRequest(g, std.out, reply, err)
}

// readJSON reads a file that holds JSON.
func readJSON(file string, in io.Reader) (json.RawMessage, error) {
	text, err := readInput(file, in)
	if err != nil {
		return nil, err
	}
	if !json.Valid(text) {
		return nil, usage("%s is not JSON", file)
	}
	return text, nil
}

// RequestsListCmd lists requests.
type RequestsListCmd struct {
	Remote    `embed:""`
	Pending   bool   `help:"Those that wait for your decision." xor:"which"`
	All       bool   `help:"Those of everybody; for managers." xor:"which"`
	Status    string `help:"Which requests: ${enum}." enum:"all,pending,approved,denied,revoked,expired,failed" default:"all"`
	Template  string `help:"Only those of the template with this id." placeholder:"ID"`
	Requester string `help:"Only those of people whose e-mail address holds this, in any case." placeholder:"TEXT"`
	Limit     int    `help:"Requests a page, 1 to 200." default:"50"`
	Cursor    string `help:"The next_cursor of the page before."`
}

// Run implements the command.
func (cmd *RequestsListCmd) Run(ctx context.Context, g *Globals, std streams) error {
	q := url.Values{"limit": {strconv.Itoa(cmd.Limit)}, "status": {cmd.Status}}
	for name, value := range map[string]string{"template_id": cmd.Template, "requester": cmd.Requester, "cursor": cmd.Cursor} {
		if value != "" {
			q.Set(name, value)
		}
	}
	path := requestsPath
	switch {
	case cmd.Pending:
		path += "/pending"
	case cmd.All:
		path += "/all"
	}
	reply, err := cmd.call(ctx, http.MethodGet, path+"?"+q.Encode(), nil)
	err = showAll(g, std.out, reply, err, "access_requests", []string{"ID", "TEMPLATE", "REQUESTER", "STATUS", "DECISION", "CREATED", "ENDS"}, func(r gjson.Result) []string {
		return []string{r.Get("id").String(), r.Get("template_label").String(), who(r, "requester_email", "requester_id"), r.Get("status").String(),
			dash(r.Get("decision")), r.Get("created_at").String(), dash(r.Get("expires_at"))}
	})
	return showMore(g, std.out, reply, err)
}

// who is a person's address, else the id.
func who(r gjson.Result, email, id string) string {
	if address := r.Get(email).String(); address != "" {
		return address
	}
	return dash(r.Get(id))
}

// showMore tells that a list goes on.
func showMore(g *Globals, out io.Writer, reply gjson.Result, err error) error {
	if err != nil || g.JSON {
		return err
	}
	if next := reply.Get("next_cursor"); next.Type != gjson.Null {
		fmt.Fprintln(out, "more with --cursor", next)
	}
	return nil
}

// showRequest shows one request.
func showRequest(g *Globals, out io.Writer, reply gjson.Result, err error) error {
	return showOne(g, out, reply, err, "id", "template_id", "template_name", "template_label", "app_id", "app_name", "requester_id", "requester_email", "requester_name", "beneficiary_id",
		"submitted_by", "resources", "status", "decision", "decided_by", "decision_method", "comment", "revoked_by", "revoke_reason", "assignment_type", "requested_duration_mins",
		"window", "justification", "custom_answers", "approvals_required", "approvals", "notified_approvers", "grant_id", "not_before", "expires_at", "created_at", "pending_until",
		"escalated_at", "decided_at", "closed_at", "failure", "trigger_failure")
}

// RequestsGetCmd shows a request.
type RequestsGetCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The request's id."`
}

// Run implements the command.
func (cmd *RequestsGetCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, requestPath(cmd.ID), nil)
	return showRequest(g, std.out, reply, err)
}

// RequestsApproveCmd approves a request.
type RequestsApproveCmd struct {
	Remote  `embed:""`
	ID      string `arg:"" help:"The request's id."`
	Comment string `help:"What to say with it."`
	Start   string `help:"Another start than was asked for, of a request in a window, as an RFC 3339 timestamp." placeholder:"TIME"`
	End     string `help:"And another end." placeholder:"TIME"`
}

// Run implements the command.
func (cmd *RequestsApproveCmd) Run(ctx context.Context, g *Globals, std streams) error {
	body := comment(cmd.Comment)
	if (cmd.Start == "") != (cmd.End == "") {
		return usage("--start and --end go together")
	}
	if cmd.Start != "" {
		body["window"] = map[string]string{"start": cmd.Start, "end": cmd.End}
	}
	reply, err := cmd.call(ctx, http.MethodPost, requestPath(cmd.ID)+"/approve", body)
	return showRequest(g, std.out, reply, err)
}

func comment(text string) map[string]any {
	if text == "" {
		return map[string]any{}
	}
	return map[string]any{"comment": text}
}

// RequestsDenyCmd denies a request.
type RequestsDenyCmd struct {
	Remote  `embed:""`
	ID      string `arg:"" help:"The request's id."`
	Comment string `help:"What to say with it."`
}

// Run implements the command.
func (cmd *RequestsDenyCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodPost, requestPath(cmd.ID)+"/deny", comment(cmd.Comment))
	return showRequest(g, std.out, reply, err)
}

// RequestsRevokeCmd cancels or revokes a request.
type RequestsRevokeCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The request's id."`
	Reason string `help:"Why."`
}

// Run implements the command.
func (cmd *RequestsRevokeCmd) Run(ctx context.Context, g *Globals, std streams) error {
	body := map[string]any{}
	if cmd.Reason != "" {
		body["reason"] = cmd.Reason
	}
	reply, err := cmd.call(ctx, http.MethodPost, requestPath(cmd.ID)+"/revoke", body)
	return showRequest(g, std.out, reply, err)
}

// RequestsWatchCmd waits for a decision.
type RequestsWatchCmd struct {
	Remote  `embed:""`
	ID      string        `arg:"" help:"The request's id."`
	Timeout time.Duration `help:"How long to wait for it." default:"1h"`
}

// longWait is for how long the server is asked to wait at a time.
const longWait = 30 * time.Second

// Run implements the command.
func (cmd *RequestsWatchCmd) Run(ctx context.Context, g *Globals, std streams) error {
	if cmd.Timeout <= 0 {
		return usage("--timeout: want more than 0")
	}
	until := time.Now().Add(cmd.Timeout)
	for {
		wait := min(longWait, time.Until(until))
		// Rounded up: the last call waits, too.
		reply, err := cmd.call(ctx, http.MethodGet, fmt.Sprintf("%s?wait=%d", requestPath(cmd.ID), max(0, (wait+time.Second-1)/time.Second)), nil)
		if err != nil {
			return err
		}
		status := reply.Get("status").String()
		if status == "pending" && time.Now().Before(until) {
			continue
		}
		if err := showRequest(g, std.out, reply, nil); err != nil {
			return err
		}
		switch status {
		case "approved":
			return nil
		case "pending":
			return fmt.Errorf("nobody has decided within %s", cmd.Timeout)
		default:
			return fmt.Errorf("the request is %s", printable(status))
		}
	}
}

// RequestsMessagesCmd shows a discussion.
type RequestsMessagesCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The request's id."`
	Limit  int    `help:"Messages a page, 1 to 200." default:"50"`
	Cursor string `help:"The next_cursor of the page before."`
}

// Run implements the command.
func (cmd *RequestsMessagesCmd) Run(ctx context.Context, g *Globals, std streams) error {
	q := url.Values{"limit": {strconv.Itoa(cmd.Limit)}}
	if cmd.Cursor != "" {
		q.Set("cursor", cmd.Cursor)
	}
	reply, err := cmd.call(ctx, http.MethodGet, requestPath(cmd.ID)+"/messages?"+q.Encode(), nil)
	return showMore(g, std.out, reply, showMessages(g, std.out, reply, err))
}

func showMessages(g *Globals, out io.Writer, reply gjson.Result, err error) error {
	return showAll(g, out, reply, err, "messages", []string{"AT", "BY", "MESSAGE"}, func(r gjson.Result) []string {
		return []string{r.Get("created_at").String(), who(r, "author.email", "author.id"), r.Get("body").String()}
	})
}

// RequestsSayCmd adds a message.
type RequestsSayCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The request's id."`
	Body   string `arg:"" help:"The message."`
}

// Run implements the command.
func (cmd *RequestsSayCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodPost, requestPath(cmd.ID)+"/messages", map[string]string{"body": cmd.Body})
	return showMessages(g, std.out, reply, err)
}
