package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

// GrantsCmd manages grants over the API.
type GrantsCmd struct {
	Create GrantsCreateCmd `cmd:"" help:"Give a subject a right for a while."`
	List   GrantsListCmd   `cmd:"" help:"List grants, newest first."`
	Get    GrantsGetCmd    `cmd:"" help:"Show one grant."`
	Revoke GrantsRevokeCmd `cmd:"" help:"End a grant at once."`
}

func grantPath(id string) string { return "/v1/grants/" + url.PathEscape(id) }

// GrantsCreateCmd makes a grant.
type GrantsCreateCmd struct {
	Remote    `embed:""`
	Subject   string        `arg:"" help:"Who holds it, as TYPE:ID; an access key by its id or a handle." placeholder:"TYPE:ID"`
	Entries   string        `arg:"" help:"File with {\"<resource type>\": [{f, p, a}, …]}; - for standard input." placeholder:"FILE"`
	Reason    string        `required:"" help:"Why it is granted."`
	For       time.Duration `help:"How long it holds, from its start." placeholder:"DURATION"`
	ExpiresAt string        `help:"End, as an RFC 3339 timestamp." placeholder:"TIME"`
	NotBefore string        `help:"Start, as an RFC 3339 timestamp; without it, now." placeholder:"TIME"`
}

// Run implements the command.
func (cmd *GrantsCreateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	typ, id, ok := strings.Cut(cmd.Subject, ":")
	if !ok || typ == "" || id == "" {
		return usage("%s: want TYPE:ID, like user:alice", cmd.Subject)
	}
	text, err := readInput(cmd.Entries, std.in)
	if err != nil {
		return err
	}
	if !gjson.ValidBytes(text) {
		return usage("%s is not JSON", cmd.Entries)
	}
	body := map[string]any{"subject": map[string]string{"type": typ, "id": id}, "entries": json.RawMessage(text), "reason": cmd.Reason}
	begins := time.Now()
	if cmd.NotBefore != "" {
		if begins, err = time.Parse(time.RFC3339, cmd.NotBefore); err != nil {
			return usage("--not-before: %w", err)
		}
		body["not_before"] = cmd.NotBefore
	}
	switch {
	case (cmd.For == 0) == (cmd.ExpiresAt == ""):
		return usage("give one of --for and --expires-at")
	case cmd.ExpiresAt != "":
		body["expires_at"] = cmd.ExpiresAt
	default:
		body["expires_at"] = begins.Add(cmd.For).UTC().Format(time.RFC3339Nano)
	}
	reply, err := cmd.call(ctx, http.MethodPost, "/v1/grants", body)
	return showGrants(g, std.out, reply, err)
}

// GrantsListCmd lists grants.
type GrantsListCmd struct {
	Remote      `embed:""`
	SubjectType string `help:"Only grants of subjects of this type."`
	SubjectID   string `name:"subject-id" help:"Only grants of the subject with this id; of an access key, a handle will do."`
	Status      string `help:"Which grants: ${enum}." enum:"active,scheduled,ended,all" default:"active"`
	Limit       int    `help:"Grants a page, 1 to 200." default:"50"`
	Cursor      string `help:"The next_cursor of the page before."`
}

// Run implements the command.
func (cmd *GrantsListCmd) Run(ctx context.Context, g *Globals, std streams) error {
	q := url.Values{"limit": {strconv.Itoa(cmd.Limit)}, "status": {cmd.Status}}
	for name, value := range map[string]string{"subject_type": cmd.SubjectType, "subject_id": cmd.SubjectID, "cursor": cmd.Cursor} {
		if value != "" {
			q.Set(name, value)
		}
	}
	reply, err := cmd.call(ctx, http.MethodGet, "/v1/grants?"+q.Encode(), nil)
	return showMore(g, std.out, reply, showGrants(g, std.out, reply, err))
}

// GrantsGetCmd shows a grant.
type GrantsGetCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The grant's id."`
}

// Run implements the command.
func (cmd *GrantsGetCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, grantPath(cmd.ID), nil)
	return showOne(g, std.out, reply, err, "id", "customer_id", "subject", "status", "not_before", "expires_at", "revoked_at", "created_at", "created_by", "reason", "entries")
}

// GrantsRevokeCmd ends a grant.
type GrantsRevokeCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The grant's id."`
}

// Run implements the command.
func (cmd *GrantsRevokeCmd) Run(ctx context.Context, g *Globals, std streams) error {
	return cmd.end(ctx, g, std.out, grantPath(cmd.ID), "id", cmd.ID, "revoked")
}

// showGrants shows a list of grants, or one.
func showGrants(g *Globals, out io.Writer, reply gjson.Result, err error) error {
	return showAll(g, out, reply, err, "grants", []string{"ID", "SUBJECT", "STATUS", "STARTS", "ENDS", "REVOKED", "REASON"}, func(r gjson.Result) []string {
		return []string{r.Get("id").String(), r.Get("subject.type").String() + ":" + r.Get("subject.id").String(), r.Get("status").String(),
			r.Get("not_before").String(), dash(r.Get("expires_at")), dash(r.Get("revoked_at")), r.Get("reason").String()}
	})
}
