package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/tidwall/gjson"
)

// KeysCmd manages access keys over the API.
type KeysCmd struct {
	Create KeysCreateCmd `cmd:"" help:"Make an access key; its secret is printed this once."`
	List   KeysListCmd   `cmd:"" help:"List access keys."`
	Get    KeysGetCmd    `cmd:"" help:"Show one access key."`
	Revoke KeysRevokeCmd `cmd:"" help:"End an access key at once."`
	Rotate KeysRotateCmd `cmd:"" help:"Give an access key a new secret; it is printed this once."`
}

// KeysCreateCmd makes a key.
type KeysCreateCmd struct {
	Remote    `embed:""`
	Scopes    string            `arg:"" help:"File with {\"customer\": {…}}; - for standard input." placeholder:"FILE"`
	Username  string            `required:"" help:"Who the key belongs to."`
	Keyname   string            `required:"" help:"What the key is called."`
	Metadata  map[string]string `help:"Further fields."`
	ExpiresIn time.Duration     `help:"Lifetime; without it the key is valid until it is revoked." placeholder:"DURATION"`
	ExpiresAt string            `help:"End, as an RFC 3339 timestamp." xor:"expiry" placeholder:"TIME"`
}

// Run implements the command.
func (cmd *KeysCreateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	text, err := readInput(cmd.Scopes, std.in)
	if err != nil {
		return err
	}
	if !gjson.ValidBytes(text) {
		return usage("%s is not JSON", cmd.Scopes)
	}
	metadata := map[string]string{}
	for k, v := range cmd.Metadata {
		metadata[k] = v
	}
	metadata["username"], metadata["keyname"] = cmd.Username, cmd.Keyname
	body := map[string]any{"scopes": json.RawMessage(text), "metadata": metadata}
	switch {
	case cmd.ExpiresAt != "" && cmd.ExpiresIn != 0:
		return usage("--expires-in and --expires-at exclude each other")
	case cmd.ExpiresAt != "":
		body["expires_at"] = cmd.ExpiresAt
	case cmd.ExpiresIn != 0:
		body["expires_at"] = time.Now().Add(cmd.ExpiresIn).UTC().Format(time.RFC3339)
	}
	reply, err := cmd.call(ctx, http.MethodPost, "/v1/access_keys", body)
	if err != nil {
		return err
	}
	return showNewKey(g, std.out, reply)
}

func showNewKey(g *Globals, out io.Writer, reply gjson.Result) error {
	if g.JSON {
		return printJSON(out, reply)
	}
	fmt.Fprintf(out, "id       %s\nexpires  %s\nkey      %s\n\nThe key is shown this once.\n", reply.Get("id"), dash(reply.Get("expires_at")), reply.Get("key"))
	return nil
}

// readInput reads a file, or standard input for "-".
func readInput(path string, in io.Reader) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(io.LimitReader(in, maxReply))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, usage("%w", err)
	}
	return text, nil
}

// KeysListCmd lists keys.
type KeysListCmd struct {
	Remote   `embed:""`
	Status   string            `help:"Which keys: ${enum}." enum:"active,all,revoked" default:"active"`
	Metadata map[string]string `help:"Only keys with these fields."`
	Limit    int               `help:"Keys a page, 1 to 100." default:"10"`
	Offset   int               `help:"Keys to pass over." default:"0"`
}

// Run implements the command.
func (cmd *KeysListCmd) Run(ctx context.Context, g *Globals, std streams) error {
	q := url.Values{"limit": {strconv.Itoa(cmd.Limit)}, "offset": {strconv.Itoa(cmd.Offset)}}
	if cmd.Status != "active" {
		q.Set("status", cmd.Status)
	}
	for k, v := range cmd.Metadata {
		q.Set("metadata."+k, v)
	}
	reply, err := cmd.call(ctx, http.MethodGet, "/v1/access_keys?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	if g.JSON {
		return printJSON(std.out, reply)
	}
	rows := [][]string{{"ID", "HANDLE", "USERNAME", "KEYNAME", "CREATED", "EXPIRES", "REVOKED"}}
	keys := reply.Get("access_keys").Array()
	for _, k := range keys {
		rows = append(rows, []string{k.Get("id").String(), k.Get("handle").String(), k.Get("metadata.username").String(), k.Get("metadata.keyname").String(),
			k.Get("created_at").String(), dash(k.Get("expires_at")), dash(k.Get("revoked_at"))})
	}
	if err := table(std.out, rows); err != nil {
		return err
	}
	fmt.Fprintf(std.out, "%d of %s\n", len(keys), reply.Get("total"))
	return nil
}

// KeysGetCmd shows a key.
type KeysGetCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The key's id, or 'self' for the calling key."`
}

// Run implements the command.
func (cmd *KeysGetCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, "/v1/access_keys/"+url.PathEscape(cmd.ID), nil)
	return showOne(g, std.out, reply, err, "id", "customer_id", "handle", "created_at", "expires_at", "revoked_at", "last_used_at", "metadata", "scopes")
}

// KeysRevokeCmd revokes a key.
type KeysRevokeCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The key's id."`
}

// Run implements the command.
func (cmd *KeysRevokeCmd) Run(ctx context.Context, g *Globals, std streams) error {
	return cmd.end(ctx, g, std.out, "/v1/access_keys/"+url.PathEscape(cmd.ID), "id", cmd.ID, "revoked")
}

// KeysRotateCmd rotates a key.
type KeysRotateCmd struct {
	Remote `embed:""`
	ID     string        `arg:"" help:"The key's id."`
	Grace  time.Duration `help:"How long the present secret goes on working, 0s to 720h." default:"0s"`
}

// Run implements the command.
func (cmd *KeysRotateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodPost, "/v1/access_keys/"+url.PathEscape(cmd.ID)+"/rotate", map[string]any{"grace": cmd.Grace.String()})
	if err != nil {
		return err
	}
	return showNewKey(g, std.out, reply)
}
