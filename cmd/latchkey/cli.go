package main

import (
	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
)

// CLI is the command line.
type CLI struct {
	Globals

	Serve        ServeCmd                  `cmd:"" help:"Run the server: control plane and decision point in one process."`
	Sidecar      SidecarCmd                `cmd:"" help:"Run a decision point beside an application, without the database."`
	Init         InitCmd                   `cmd:"" help:"Make the data directory, the customer 'default' and the root key, without serving."`
	Keys         KeysCmd                   `cmd:"" help:"Make, list, rotate and revoke access keys."`
	Sets         SetsCmd                   `cmd:"" help:"Write and read the sets that policies ask."`
	Grants       GrantsCmd                 `cmd:"" help:"Give, show and end rights that subjects hold for a while."`
	Requests     RequestsCmd               `cmd:"" help:"Ask for access, decide on requests, and end them."`
	Tasks        TasksCmd                  `cmd:"" help:"Keep the tasks that events of requests run, and see their runs."`
	Secrets      SecretsCmd                `cmd:"" help:"Keep what scripts of tasks read."`
	Templates    TemplatesCmd              `cmd:"" help:"Keep the templates of what may be asked for."`
	Webhooks     WebhooksCmd               `cmd:"" help:"Tell others what happens to access requests."`
	Users        UsersCmd                  `cmd:"" help:"Make, show, change and deactivate persons, and give them claim codes."`
	Tokens       TokensCmd                 `cmd:"" help:"Make, list and revoke personal tokens of your own."`
	Groups       GroupsCmd                 `cmd:"" help:"Make, show and change groups of persons."`
	Applications ApplicationsCmd           `cmd:"" help:"Make, show, rename and delete applications."`
	Entitlements EntitlementsCmd           `cmd:"" help:"Make, show, change and delete what groups and requests give."`
	Resources    ResourcesCmd              `cmd:"" help:"Store, show and delete resources."`
	Customers    CustomersCmd              `cmd:"" help:"Make, list, change and end customers."`
	Policies     PoliciesCmd               `cmd:"" help:"Publish, show, check and test policies."`
	Decide       DecideCmd                 `cmd:"" help:"Ask for a decision; exit code 1 when it is a deny."`
	Scopes       ScopesCmd                 `cmd:"" help:"Check scopes and show them as Rego, offline."`
	Audit        AuditCmd                  `cmd:"" help:"Check the audit trail."`
	Bundle       BundleCmd                 `cmd:"" help:"Build and verify bundles of policies and sets, offline."`
	Feed         FeedCmd                   `cmd:"" help:"Show the key that signs what sidecars follow."`
	Root         RootCmd                   `cmd:"" help:"The operator's root key."`
	Migrate      MigrateCmd                `cmd:"" help:"Bring the tables of a database up to date; serve does so by itself."`
	Store        StoreCmd                  `cmd:"" help:"Copy the record to PostgreSQL; begin a new epoch after a restore."`
	Cache        CacheCmd                  `cmd:"" help:"Fill Redis from the database."`
	Redis        RedisCmd                  `cmd:"" help:"Make users of Redis."`
	Healthcheck  HealthcheckCmd            `cmd:"" help:"Exit with 0 when a server is ready, else with 1."`
	Config       ConfigCmd                 `cmd:"" help:"Show the configuration."`
	Version      VersionCmd                `cmd:"" help:"Show the version."`
	Completion   kongcompletion.Completion `cmd:"" help:"Print shell code that completes latchkey commands."`
}

// Globals are the flags of every command.
type Globals struct {
	JSON       bool   `help:"Print JSON for programs instead of text for people."`
	ConfigFile string `name:"config" help:"YAML file with settings of 'serve' or 'sidecar'." type:"path" env:"LATCHKEY_CONFIG" placeholder:"FILE"`
}

// Remote are the flags of commands that talk to a server. The credential comes
// from the environment only, where other users of the machine do not see it.
type Remote struct {
	URL      string `help:"Server to talk to. The key comes from the environment variable LATCHKEY_KEY." default:"http://127.0.0.1:5539" env:"LATCHKEY_URL" placeholder:"URL"`
	Customer string `help:"Customer to act in; for the root key and internal admins." env:"LATCHKEY_CUSTOMER" placeholder:"ID"`

	CustomerReason string `help:"Why an internal admin acts in another customer; it is recorded there." env:"LATCHKEY_CUSTOMER_REASON" placeholder:"TEXT"`
}

func newParser(cli *CLI, std streams, exit func(int)) (*kong.Kong, error) {
	return kong.New(cli,
		kong.Name("latchkey"),
		kong.Description("Policy decisions and key scopes: may this subject do this to that, now?"),
		kong.Writers(std.out, std.err),
		kong.Exit(exit),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Resolvers(&fileResolver{}),
	)
}
