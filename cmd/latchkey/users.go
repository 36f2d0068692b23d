package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// Paging are the flags of lists that go on with a cursor.
type Paging struct {
	Limit  int    `help:"Entries a page, 1 to 200." default:"50"`
	Cursor string `help:"The next_cursor of the page before."`
}

// query puts limit, cursor and those of the given pairs of names and values that
// are not empty together.
func (p *Paging) query(pairs ...string) string {
	q := url.Values{"limit": {strconv.Itoa(p.Limit)}}
	for i, pairs := 0, append(pairs, "cursor", p.Cursor); i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return "?" + q.Encode()
}

// UsersCmd manages persons over the API.
type UsersCmd struct {
	Create     UsersCreateCmd     `cmd:"" help:"Make a person; the claim code and the access key are printed this once."`
	List       UsersListCmd       `cmd:"" help:"List persons."`
	Get        UsersGetCmd        `cmd:"" help:"Show a person."`
	Update     UsersUpdateCmd     `cmd:"" help:"Change a person."`
	Deactivate UsersDeactivateCmd `cmd:"" help:"End all credentials and grants of a person."`
	Claim      UsersClaimCmd      `cmd:"" help:"Make a new claim code; it is printed this once."`
}

func userPath(id string) string { return "/v1/users/" + url.PathEscape(id) }

// UsersCreateCmd makes a person.
type UsersCreateCmd struct {
	Remote   `embed:""`
	Username string `arg:"" help:"What the person is called by."`
	Email    string `help:"E-mail address."`
	Name     string `help:"Full name."`
	Type     string `help:"What the person may do: ${enum}." enum:"user,admin,internal_admin" default:"user"`
}

// Run implements the command.
func (cmd *UsersCreateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	body := map[string]any{"username": cmd.Username, "type": cmd.Type}
	if cmd.Email != "" {
		body["email"] = cmd.Email
	}
	if cmd.Name != "" {
		body["name"] = cmd.Name
	}
	reply, err := cmd.call(ctx, http.MethodPost, "/v1/users", body)
	if err != nil || g.JSON {
		return showUsers(g, std.out, reply, err)
	}
	fmt.Fprintf(std.out, "id          %s\nclaim code  %s\n            good until %s\naccess key  %s\n", reply.Get("id"), reply.Get("claim.code"), reply.Get("claim.expires_at"), dash(reply.Get("access_key.key")))
	for _, w := range reply.Get("warnings").Array() {
		fmt.Fprintln(std.out, w.Get("detail"))
	}
	fmt.Fprintln(std.out, "\nThey are shown this once. The person makes a token of the code: latchkey tokens create NAME --claim FILE")
	return nil
}

// UsersListCmd lists persons.
type UsersListCmd struct {
	Remote   `embed:""`
	Paging   `embed:""`
	Username string `help:"Only the person of this username."`
	Email    string `help:"Only the person with this e-mail address."`
	Type     string `help:"Only persons of this type: ${enum}." enum:"user,admin,internal_admin," default:""`
	Active   string `help:"Only persons who are active, or not: ${enum}." enum:"true,false," default:""`
}

// Run implements the command.
func (cmd *UsersListCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, "/v1/users"+cmd.query("username", cmd.Username, "email", cmd.Email, "type", cmd.Type, "active", cmd.Active), nil)
	return showMore(g, std.out, reply, showUsers(g, std.out, reply, err))
}

// UsersGetCmd shows a person.
type UsersGetCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The person's id; self for your own."`
}

// Run implements the command.
func (cmd *UsersGetCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, userPath(cmd.ID), nil)
	return showUsers(g, std.out, reply, err)
}

// UsersUpdateCmd changes a person; what no flag names stays.
type UsersUpdateCmd struct {
	Remote   `embed:""`
	ID       string  `arg:"" help:"The person's id."`
	Username *string `help:"What the person is called by from now on."`
	Email    *string `help:"E-mail address; empty for none."`
	Name     *string `help:"Full name; empty for none."`
	Type     *string `help:"What the person may do: user, admin or internal_admin."`
	Active   *bool   `help:"Whether the person may act at all." negatable:""`
}

// Run implements the command.
func (cmd *UsersUpdateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	was, err := cmd.call(ctx, http.MethodGet, userPath(cmd.ID), nil)
	if err != nil {
		return err
	}
	body := map[string]any{}
	for _, name := range []string{"username", "email", "name", "type", "active"} {
		body[name] = was.Get(name).Value()
	}
	for name, to := range map[string]*string{"username": cmd.Username, "email": cmd.Email, "name": cmd.Name, "type": cmd.Type} {
		if to != nil {
			body[name] = *to
			if *to == "" {
				body[name] = nil
			}
		}
	}
	if cmd.Active != nil {
		body["active"] = *cmd.Active
	}
	reply, err := cmd.call(ctx, http.MethodPut, userPath(cmd.ID), body)
	return showUsers(g, std.out, reply, err)
}

// UsersDeactivateCmd ends what a person has.
type UsersDeactivateCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The person's id."`
}

// Run implements the command.
func (cmd *UsersDeactivateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	return cmd.end(ctx, g, std.out, userPath(cmd.ID), "id", cmd.ID, "deactivated")
}

// UsersClaimCmd makes a claim code.
type UsersClaimCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The person's id."`
}

// Run implements the command.
func (cmd *UsersClaimCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodPost, userPath(cmd.ID)+"/claim", nil)
	if err != nil {
		return err
	}
	if g.JSON {
		return printJSON(std.out, reply)
	}
	fmt.Fprintf(std.out, "claim code  %s\n            good until %s\n\nIt is shown this once; the code before it is dead.\n", reply.Get("claim.code"), reply.Get("claim.expires_at"))
	return nil
}

// showUsers shows a list of persons, or one.
func showUsers(g *Globals, out io.Writer, reply gjson.Result, err error) error {
	return showAll(g, out, reply, err, "users", []string{"ID", "USERNAME", "EMAIL", "NAME", "TYPE", "ACTIVE"}, func(u gjson.Result) []string {
		return []string{u.Get("id").String(), u.Get("username").String(), dash(u.Get("email")), dash(u.Get("name")), u.Get("type").String(), u.Get("active").String()}
	})
}

// TokensCmd manages personal tokens over the API.
type TokensCmd struct {
	Create TokensCreateCmd `cmd:"" help:"Make a personal token; it is printed this once."`
	List   TokensListCmd   `cmd:"" help:"List tokens that have not ended."`
	Revoke TokensRevokeCmd `cmd:"" help:"End a token at once."`
}

// TokensCreateCmd makes a token.
type TokensCreateCmd struct {
	Remote `embed:""`
	Name   string `arg:"" help:"What the token is for."`
	Claim  string `help:"File with a claim code, in place of the key; - for standard input." placeholder:"FILE"`
}

// Run implements the command.
func (cmd *TokensCreateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	body, key := map[string]any{"name": cmd.Name}, os.Getenv("LATCHKEY_KEY")
	switch {
	case cmd.Claim != "":
		code, err := readInput(cmd.Claim, std.in)
		if err != nil {
			return err
		}
		body["claim_code"], key = strings.TrimSpace(string(code)), ""
	case key == "":
		return usage("set the environment variable LATCHKEY_KEY to a token of your own, or give --claim")
	}
	reply, err := cmd.callAs(ctx, key, http.MethodPost, "/v1/personal_tokens", body)
	if err != nil {
		return err
	}
	if g.JSON {
		return printJSON(std.out, reply)
	}
	fmt.Fprintf(std.out, "id       %s\nexpires  %s\ntoken    %s\n\nThe token is shown this once.\n", reply.Get("id"), reply.Get("expires_at"), reply.Get("token"))
	return nil
}

// TokensListCmd lists tokens.
type TokensListCmd struct {
	Remote `embed:""`
	User   string `help:"Of this person; for root and admins." placeholder:"ID"`
}

func tokenQuery(user string) string {
	if user == "" {
		return ""
	}
	return "?" + url.Values{"user_id": {user}}.Encode()
}

// Run implements the command.
func (cmd *TokensListCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, "/v1/personal_tokens"+tokenQuery(cmd.User), nil)
	return showAll(g, std.out, reply, err, "personal_tokens", []string{"ID", "NAME", "HANDLE", "CREATED", "EXPIRES"}, func(t gjson.Result) []string {
		return []string{t.Get("id").String(), t.Get("name").String(), t.Get("handle").String(), t.Get("created_at").String(), t.Get("expires_at").String()}
	})
}

// TokensRevokeCmd ends a token.
type TokensRevokeCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The token's id."`
	User   string `help:"Of this person; for root and admins." placeholder:"ID"`
}

// Run implements the command.
func (cmd *TokensRevokeCmd) Run(ctx context.Context, g *Globals, std streams) error {
	return cmd.end(ctx, g, std.out, "/v1/personal_tokens/"+url.PathEscape(cmd.ID)+tokenQuery(cmd.User), "id", cmd.ID, "revoked")
}

// GroupsCmd manages groups over the API.
type GroupsCmd struct {
	Create GroupsCreateCmd `cmd:"" help:"Make a group."`
	List   GroupsListCmd   `cmd:"" help:"List groups."`
	Get    GroupsGetCmd    `cmd:"" help:"Show a group."`
	Update GroupsUpdateCmd `cmd:"" help:"Change a group's name, members or entitlements."`
	Add    GroupsAddCmd    `cmd:"" help:"Put a person at the end of a group."`
	Remove GroupsRemoveCmd `cmd:"" help:"Take a person out of a group."`
	Delete GroupsDeleteCmd `cmd:"" help:"Delete a group."`
}

func groupPath(id string) string { return "/v1/groups/" + url.PathEscape(id) }

func memberPath(group, user string) string {
	return groupPath(group) + "/members/" + url.PathEscape(user)
}

// GroupsCreateCmd makes a group.
type GroupsCreateCmd struct {
	Remote       `embed:""`
	Name         string   `arg:"" help:"What the group is called."`
	Members      []string `name:"member" help:"Persons in it, in their order; bot for the principal that approves by itself." placeholder:"ID"`
	Entitlements []string `name:"entitlement" help:"What its members hold." placeholder:"ID"`
}

// Run implements the command.
func (cmd *GroupsCreateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	body := map[string]any{"name": cmd.Name, "member_ids": append([]string{}, cmd.Members...), "entitlement_ids": append([]string{}, cmd.Entitlements...)}
	reply, err := cmd.call(ctx, http.MethodPost, "/v1/groups", body)
	return showGroups(g, std.out, reply, err)
}

// GroupsListCmd lists groups.
type GroupsListCmd struct {
	Remote `embed:""`
	Paging `embed:""`
	Name   string `help:"Only the group of this name."`
	Member string `help:"Only groups that this person is in." placeholder:"ID"`
}

// Run implements the command.
func (cmd *GroupsListCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, "/v1/groups"+cmd.query("name", cmd.Name, "member_id", cmd.Member), nil)
	return showMore(g, std.out, reply, showGroups(g, std.out, reply, err))
}

// GroupsGetCmd shows a group.
type GroupsGetCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The group's id."`
}

// Run implements the command.
func (cmd *GroupsGetCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, groupPath(cmd.ID), nil)
	return showOne(g, std.out, reply, err, "id", "customer_id", "name", "member_ids", "entitlement_ids", "created_at")
}

// GroupsUpdateCmd changes a group; what no flag names stays.
type GroupsUpdateCmd struct {
	Remote         `embed:""`
	ID             string   `arg:"" help:"The group's id."`
	Name           string   `help:"What it is called from now on."`
	Members        []string `name:"member" help:"All persons in it from now on, in their order." placeholder:"ID"`
	NoMembers      bool     `help:"Nobody is in it from now on."`
	Entitlements   []string `name:"entitlement" help:"All that its members hold from now on." placeholder:"ID"`
	NoEntitlements bool     `help:"Its members hold nothing from now on."`
}

// Run implements the command.
func (cmd *GroupsUpdateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	was, err := cmd.call(ctx, http.MethodGet, groupPath(cmd.ID), nil)
	if err != nil {
		return err
	}
	body := map[string]any{"name": was.Get("name").String(), "member_ids": was.Get("member_ids").Value(), "entitlement_ids": was.Get("entitlement_ids").Value()}
	if cmd.Name != "" {
		body["name"] = cmd.Name
	}
	for name, to := range map[string][]string{"member_ids": cmd.Members, "entitlement_ids": cmd.Entitlements} {
		if len(to) > 0 {
			body[name] = to
		}
	}
	if cmd.NoMembers {
		body["member_ids"] = []string{}
	}
	if cmd.NoEntitlements {
		body["entitlement_ids"] = []string{}
	}
	reply, err := cmd.call(ctx, http.MethodPut, groupPath(cmd.ID), body)
	return showGroups(g, std.out, reply, err)
}

// GroupsAddCmd adds a member.
type GroupsAddCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The group's id."`
	User   string `arg:"" help:"The person's id, or bot."`
}

// Run implements the command.
func (cmd *GroupsAddCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodPut, memberPath(cmd.ID, cmd.User), nil)
	return showGroups(g, std.out, reply, err)
}

// GroupsRemoveCmd removes a member.
type GroupsRemoveCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The group's id."`
	User   string `arg:"" help:"The person's id, or bot."`
}

// Run implements the command.
func (cmd *GroupsRemoveCmd) Run(ctx context.Context, g *Globals, std streams) error {
	return cmd.end(ctx, g, std.out, memberPath(cmd.ID, cmd.User), "id", cmd.User, "removed")
}

// GroupsDeleteCmd deletes a group.
type GroupsDeleteCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The group's id."`
}

// Run implements the command.
func (cmd *GroupsDeleteCmd) Run(ctx context.Context, g *Globals, std streams) error {
	return cmd.end(ctx, g, std.out, groupPath(cmd.ID), "id", cmd.ID, "deleted")
}

// showGroups shows a list of groups, or one.
func showGroups(g *Globals, out io.Writer, reply gjson.Result, err error) error {
	return showAll(g, out, reply, err, "groups", []string{"ID", "NAME", "MEMBERS", "ENTITLEMENTS"}, func(r gjson.Result) []string {
		return []string{r.Get("id").String(), r.Get("name").String(), r.Get("member_ids.#").String(), r.Get("entitlement_ids.#").String()}
	})
}

// ApplicationsCmd manages applications over the API.
type ApplicationsCmd struct {
	Create ApplicationsCreateCmd `cmd:"" help:"Make an application."`
	List   ApplicationsListCmd   `cmd:"" help:"List applications."`
	Rename ApplicationsRenameCmd `cmd:"" help:"Give an application another name."`
	Delete ApplicationsDeleteCmd `cmd:"" help:"Delete an application."`
}

func applicationPath(id string) string { return "/v1/applications/" + url.PathEscape(id) }

// ApplicationsCreateCmd makes an application.
type ApplicationsCreateCmd struct {
	Remote `embed:""`
	Name   string `arg:"" help:"What the application is called."`
}

// Run implements the command.
func (cmd *ApplicationsCreateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodPost, "/v1/applications", map[string]any{"name": cmd.Name})
	return showApplications(g, std.out, reply, err)
}

// ApplicationsListCmd lists applications.
type ApplicationsListCmd struct {
	Remote `embed:""`
	Paging `embed:""`
	Name   string `help:"Only the application of this name."`
}

// Run implements the command.
func (cmd *ApplicationsListCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, "/v1/applications"+cmd.query("name", cmd.Name), nil)
	return showMore(g, std.out, reply, showApplications(g, std.out, reply, err))
}

// ApplicationsRenameCmd renames an application.
type ApplicationsRenameCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The application's id."`
	Name   string `arg:"" help:"What it is called from now on."`
}

// Run implements the command.
func (cmd *ApplicationsRenameCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodPut, applicationPath(cmd.ID), map[string]any{"name": cmd.Name})
	return showApplications(g, std.out, reply, err)
}

// ApplicationsDeleteCmd deletes an application.
type ApplicationsDeleteCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The application's id."`
}

// Run implements the command.
func (cmd *ApplicationsDeleteCmd) Run(ctx context.Context, g *Globals, std streams) error {
	return cmd.end(ctx, g, std.out, applicationPath(cmd.ID), "id", cmd.ID, "deleted")
}

func showApplications(g *Globals, out io.Writer, reply gjson.Result, err error) error {
	return showAll(g, out, reply, err, "applications", []string{"ID", "NAME", "CREATED"}, func(r gjson.Result) []string {
		return []string{r.Get("id").String(), r.Get("name").String(), r.Get("created_at").String()}
	})
}

// EntitlementsCmd manages entitlements over the API.
type EntitlementsCmd struct {
	Create EntitlementsCreateCmd `cmd:"" help:"Make an entitlement."`
	List   EntitlementsListCmd   `cmd:"" help:"List entitlements."`
	Get    EntitlementsGetCmd    `cmd:"" help:"Show an entitlement."`
	Update EntitlementsUpdateCmd `cmd:"" help:"Change an entitlement."`
	Delete EntitlementsDeleteCmd `cmd:"" help:"Delete an entitlement."`
}

func entitlementPath(id string) string { return "/v1/entitlements/" + url.PathEscape(id) }

// EntitlementsCreateCmd makes an entitlement.
type EntitlementsCreateCmd struct {
	Remote  `embed:""`
	App     string `arg:"" help:"The application's id."`
	Name    string `arg:"" help:"What the entitlement is called."`
	Entries string `arg:"" help:"File with {\"<resource type>\": [{f, p, a}, …]}; - for standard input." placeholder:"FILE"`
	Claims  string `help:"File with {\"<claim>\": [\"<value>\", …]} for issuers of tokens." placeholder:"FILE"`
}

// Run implements the command.
func (cmd *EntitlementsCreateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	body := map[string]any{"app_id": cmd.App, "name": cmd.Name}
	if err := filesInto(body, std, "entries", cmd.Entries, "claims", cmd.Claims); err != nil {
		return err
	}
	reply, err := cmd.call(ctx, http.MethodPost, "/v1/entitlements", body)
	return showEntitlements(g, std.out, reply, err)
}

// filesInto puts files of JSON into a body, given as pairs of member and path;
// an empty path is none.
func filesInto(body map[string]any, std streams, pairs ...string) error {
	for pair := range slices.Chunk(pairs, 2) {
		member, path := pair[0], pair[1]
		if path == "" {
			continue
		}
		text, err := readInput(path, std.in)
		if err != nil {
			return err
		}
		if !gjson.ValidBytes(text) {
			return usage("%s is not JSON", path)
		}
		body[member] = json.RawMessage(text)
	}
	return nil
}

// EntitlementsListCmd lists entitlements.
type EntitlementsListCmd struct {
	Remote `embed:""`
	Paging `embed:""`
	App    string `help:"Only those of this application." placeholder:"ID"`
	Name   string `help:"Only those of this name."`
}

// Run implements the command.
func (cmd *EntitlementsListCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, "/v1/entitlements"+cmd.query("app_id", cmd.App, "name", cmd.Name), nil)
	return showMore(g, std.out, reply, showEntitlements(g, std.out, reply, err))
}

// EntitlementsGetCmd shows an entitlement.
type EntitlementsGetCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The entitlement's id."`
}

// Run implements the command.
func (cmd *EntitlementsGetCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, entitlementPath(cmd.ID), nil)
	return showOne(g, std.out, reply, err, "id", "customer_id", "app_id", "name", "entries", "claims", "created_at")
}

// EntitlementsUpdateCmd changes an entitlement; what no flag names stays.
type EntitlementsUpdateCmd struct {
	Remote  `embed:""`
	ID      string `arg:"" help:"The entitlement's id."`
	Name    string `help:"What it is called from now on."`
	Entries string `help:"File with what it gives from now on; - for standard input." placeholder:"FILE"`
	Claims  string `help:"File with its claims from now on." placeholder:"FILE"`
}

// Run implements the command.
func (cmd *EntitlementsUpdateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	was, err := cmd.call(ctx, http.MethodGet, entitlementPath(cmd.ID), nil)
	if err != nil {
		return err
	}
	body := map[string]any{"app_id": was.Get("app_id").String(), "name": was.Get("name").String(),
		"entries": json.RawMessage(was.Get("entries").Raw), "claims": json.RawMessage(was.Get("claims").Raw)}
	if cmd.Name != "" {
		body["name"] = cmd.Name
	}
	if err := filesInto(body, std, "entries", cmd.Entries, "claims", cmd.Claims); err != nil {
		return err
	}
	reply, err := cmd.call(ctx, http.MethodPut, entitlementPath(cmd.ID), body)
	return showEntitlements(g, std.out, reply, err)
}

// EntitlementsDeleteCmd deletes an entitlement.
type EntitlementsDeleteCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The entitlement's id."`
}

// Run implements the command.
func (cmd *EntitlementsDeleteCmd) Run(ctx context.Context, g *Globals, std streams) error {
	return cmd.end(ctx, g, std.out, entitlementPath(cmd.ID), "id", cmd.ID, "deleted")
}

func showEntitlements(g *Globals, out io.Writer, reply gjson.Result, err error) error {
	return showAll(g, out, reply, err, "entitlements", []string{"ID", "APPLICATION", "NAME", "ENTRIES"}, func(r gjson.Result) []string {
		return []string{r.Get("id").String(), r.Get("app_id").String(), r.Get("name").String(), r.Get("entries").Raw}
	})
}

// ResourcesCmd manages stored resources over the API.
type ResourcesCmd struct {
	Put    ResourcesPutCmd    `cmd:"" help:"Store a resource; what no flag names stays."`
	List   ResourcesListCmd   `cmd:"" help:"List resources."`
	Get    ResourcesGetCmd    `cmd:"" help:"Show a resource."`
	Delete ResourcesDeleteCmd `cmd:"" help:"Delete a resource."`
}

func resourcePath(kind, id string) string {
	return "/v1/resources/" + url.PathEscape(kind) + "/" + url.PathEscape(id)
}

// ResourcesPutCmd stores a resource.
type ResourcesPutCmd struct {
	Remote      `embed:""`
	Kind        string            `arg:"" help:"The resource's type."`
	ID          string            `arg:"" help:"The resource's id."`
	DisplayName *string           `help:"What people call it."`
	Label       map[string]string `help:"All labels that it has from now on." placeholder:"NAME=VALUE"`
	Properties  string            `help:"File with an object that policies see; - for standard input." placeholder:"FILE"`
}

// Run implements the command.
func (cmd *ResourcesPutCmd) Run(ctx context.Context, g *Globals, std streams) error {
	resource := map[string]any{"kind": cmd.Kind, "id": cmd.ID}
	if cmd.DisplayName != nil {
		resource["displayName"] = *cmd.DisplayName
	}
	if cmd.Label != nil {
		resource["labels"] = cmd.Label
	}
	if err := filesInto(resource, std, "properties", cmd.Properties); err != nil {
		return err
	}
	reply, err := cmd.call(ctx, http.MethodPost, "/v1/resources:bulkUpdate", map[string]any{"resources": []any{resource}})
	if fault := reply.Get("resources.0.error"); err == nil && fault.Exists() {
		return &refusal{status: int(fault.Get("status").Int()), code: fault.Get("code").String(), detail: fault.Get("message").String()}
	}
	return showResources(g, std.out, reply, err)
}

// ResourcesListCmd lists resources.
type ResourcesListCmd struct {
	Remote `embed:""`
	Paging `embed:""`
	Kind   string            `help:"Only resources of this type."`
	Prefix string            `help:"Only those whose id begins so."`
	Label  map[string]string `help:"Only those with these labels." placeholder:"NAME=VALUE"`
}

// Run implements the command.
func (cmd *ResourcesListCmd) Run(ctx context.Context, g *Globals, std streams) error {
	pairs := []string{"kind", cmd.Kind, "prefix", cmd.Prefix}
	for name, value := range cmd.Label {
		pairs = append(pairs, "label."+name, value)
	}
	reply, err := cmd.call(ctx, http.MethodGet, "/v1/resources"+cmd.query(pairs...), nil)
	return showMore(g, std.out, reply, showResources(g, std.out, reply, err))
}

// ResourcesGetCmd shows a resource.
type ResourcesGetCmd struct {
	Remote `embed:""`
	Kind   string `arg:"" help:"The resource's type."`
	ID     string `arg:"" help:"The resource's id."`
}

// Run implements the command.
func (cmd *ResourcesGetCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, resourcePath(cmd.Kind, cmd.ID), nil)
	return showOne(g, std.out, reply, err, "kind", "id", "displayName", "labels", "properties")
}

// ResourcesDeleteCmd deletes a resource.
type ResourcesDeleteCmd struct {
	Remote `embed:""`
	Kind   string `arg:"" help:"The resource's type."`
	ID     string `arg:"" help:"The resource's id."`
}

// Run implements the command.
func (cmd *ResourcesDeleteCmd) Run(ctx context.Context, g *Globals, std streams) error {
	return cmd.end(ctx, g, std.out, resourcePath(cmd.Kind, cmd.ID), "id", cmd.Kind+"/"+cmd.ID, "deleted")
}

func showResources(g *Globals, out io.Writer, reply gjson.Result, err error) error {
	return showAll(g, out, reply, err, "resources", []string{"KIND", "ID", "NAME", "LABELS"}, func(r gjson.Result) []string {
		return []string{r.Get("kind").String(), r.Get("id").String(), dash(r.Get("displayName")), r.Get("labels").Raw}
	})
}
