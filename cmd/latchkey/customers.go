package main

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/tidwall/gjson"
)

// CustomersCmd manages customers over the API, with the root key.
type CustomersCmd struct {
	Create CustomersCreateCmd `cmd:"" help:"Make a customer."`
	List   CustomersListCmd   `cmd:"" help:"List customers."`
	Get    CustomersGetCmd    `cmd:"" help:"Show a customer."`
	Update CustomersUpdateCmd `cmd:"" help:"Change a customer."`
	Delete CustomersDeleteCmd `cmd:"" help:"End a customer and all its keys at once."`
}

// CustomersCreateCmd makes a customer.
type CustomersCreateCmd struct {
	Remote        `embed:""`
	Name          string `arg:"" help:"What the customer is called."`
	ID            string `help:"Its id; made where it is not given."`
	MaxActiveKeys int    `help:"Active keys that it may have; the server's default where it is not given."`
}

// Run implements the command.
func (cmd *CustomersCreateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	body := map[string]any{"name": cmd.Name}
	if cmd.ID != "" {
		body["id"] = cmd.ID
	}
	if cmd.MaxActiveKeys != 0 {
		body["max_active_keys"] = cmd.MaxActiveKeys
	}
	reply, err := cmd.call(ctx, http.MethodPost, "/v1/customers", body)
	return showCustomers(g, std.out, reply, err)
}

// CustomersListCmd lists customers.
type CustomersListCmd struct {
	Remote `embed:""`
	Limit  int `help:"Customers a page, 1 to 100." default:"10"`
	Offset int `help:"Customers to pass over." default:"0"`
}

// Run implements the command.
func (cmd *CustomersListCmd) Run(ctx context.Context, g *Globals, std streams) error {
	q := url.Values{"limit": {strconv.Itoa(cmd.Limit)}, "offset": {strconv.Itoa(cmd.Offset)}}
	reply, err := cmd.call(ctx, http.MethodGet, "/v1/customers?"+q.Encode(), nil)
	return showCustomers(g, std.out, reply, err)
}

// CustomersGetCmd shows a customer.
type CustomersGetCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The customer's id."`
}

// Run implements the command.
func (cmd *CustomersGetCmd) Run(ctx context.Context, g *Globals, std streams) error {
	reply, err := cmd.call(ctx, http.MethodGet, "/v1/customers/"+url.PathEscape(cmd.ID), nil)
	return showCustomers(g, std.out, reply, err)
}

// CustomersUpdateCmd changes a customer.
type CustomersUpdateCmd struct {
	Remote        `embed:""`
	ID            string  `arg:"" help:"The customer's id."`
	Name          string  `help:"What it is called from now on."`
	MaxActiveKeys int     `help:"Active keys that it may have from now on."`
	DefaultPolicy *string `help:"Policy that decides where a request names none; empty for the built-in one." placeholder:"NAME"`
}

// Run implements the command.
func (cmd *CustomersUpdateCmd) Run(ctx context.Context, g *Globals, std streams) error {
	body := map[string]any{}
	if cmd.Name != "" {
		body["name"] = cmd.Name
	}
	if cmd.MaxActiveKeys != 0 {
		body["max_active_keys"] = cmd.MaxActiveKeys
	}
	if cmd.DefaultPolicy != nil {
		body["default_policy"] = cmd.DefaultPolicy
		if *cmd.DefaultPolicy == "" {
			body["default_policy"] = nil
		}
	}
	reply, err := cmd.call(ctx, http.MethodPatch, "/v1/customers/"+url.PathEscape(cmd.ID), body)
	return showCustomers(g, std.out, reply, err)
}

// CustomersDeleteCmd ends a customer.
type CustomersDeleteCmd struct {
	Remote `embed:""`
	ID     string `arg:"" help:"The customer's id."`
}

// Run implements the command.
func (cmd *CustomersDeleteCmd) Run(ctx context.Context, g *Globals, std streams) error {
	return cmd.end(ctx, g, std.out, "/v1/customers/"+url.PathEscape(cmd.ID), "id", cmd.ID, "deleted")
}

// showCustomers shows a list of customers, or one.
func showCustomers(g *Globals, out io.Writer, reply gjson.Result, err error) error {
	return showAll(g, out, reply, err, "customers", []string{"ID", "NAME", "MAX ACTIVE KEYS", "CREATED"}, func(c gjson.Result) []string {
		return []string{c.Get("id").String(), c.Get("name").String(), dash(c.Get("max_active_keys")), c.Get("created_at").String()}
	})
}
