package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/term"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/notify"
	"github.com/latchkey-dev/latchkey/server"
)

// ServeCmd runs the server. Its fields are the configuration reference:
// docs/configuration.md is generated from them.
type ServeCmd struct {
	Storage `embed:""`

	DatabaseConnections int  `help:"Connections to PostgreSQL at most, half of them for changes; 0 is four a processor, at least 16." default:"0" env:"LATCHKEY_DATABASE_CONNECTIONS"`
	NoMigrate           bool `help:"Refuse to start on a database of an earlier release, rather than to bring it up to date; 'latchkey migrate' does that." env:"LATCHKEY_NO_MIGRATE"`

	RedisFlags `embed:""`

	Front `embed:""`

	KeyMode       string `help:"What new access keys are marked with: ${enum}." enum:"live,test" default:"live" env:"LATCHKEY_KEY_MODE"`
	MaxDirectory  int    `help:"MiB of memory that the properties of a customer's subjects and resources may take." default:"256" env:"LATCHKEY_MAX_DIRECTORY"`
	GrantCache    int    `help:"MiB of memory for the grants of subjects that are not access keys; what is not there is read from the database." default:"64" env:"LATCHKEY_GRANT_CACHE"`
	MaxActiveKeys int    `help:"Active access keys that a customer may have, unless the customer says otherwise." default:"10" env:"LATCHKEY_MAX_ACTIVE_KEYS"`

	Telling `embed:""`

	EnableScriptTasks bool `help:"Let the root key make tasks of type script, which run in a confined process; refuses to start where the kernel has no landlock or no seccomp." env:"LATCHKEY_ENABLE_SCRIPT_TASKS"`

	Bundles string `help:"Bundles (YAML) that customers' policies and sets come from, in place of the API." type:"path" env:"LATCHKEY_BUNDLES" placeholder:"FILE"`

	OIDC string `help:"OpenID Connect issuers (YAML) whose tokens stand for persons." name:"oidc" type:"path" env:"LATCHKEY_OIDC" placeholder:"FILE"`

	OnCall    OnCall `embed:""`
	Staleness `embed:""`
	Compat    Compat `embed:"" prefix:"compat."`

	AccessSweep   time.Duration `name:"access-request-sweep" help:"How often the end of access requests that have run out is written down and told; they end on time all the same." default:"5m" env:"LATCHKEY_ACCESS_REQUEST_SWEEP"`
	CompatJobflow bool          `name:"compat-jobflow" help:"Answer /JobFlow and /ServerManage too, which ask for logins in the words of another product (docs/jobs.md)." env:"LATCHKEY_COMPAT_JOBFLOW"`
}

// Compat are the points where the default follows the access-key document to the
// letter, and a saner choice exists.
type Compat struct {
	TooManyKeysStatus int `help:"Status of a key over the limit: ${enum}." enum:"500,409" default:"500" env:"LATCHKEY_COMPAT_TOO_MANY_KEYS_STATUS"`
}

func (cmd *ServeCmd) validate() error {
	switch {
	case cmd.DatabaseConnections < 0 || cmd.DatabaseConnections == 1:
		return usage("--database-connections: want 0, or at least 2")
	case cmd.MaxDirectory < 1 || cmd.MaxDirectory > 1<<20:
		return usage("--max-directory: want 1 to 1048576 MiB")
	case cmd.GrantCache < 1 || cmd.GrantCache > 1<<20:
		return usage("--grant-cache: want 1 to 1048576 MiB")
	case cmd.AccessSweep < time.Second || cmd.AccessSweep > 24*time.Hour:
		return usage("--access-request-sweep: want 1s to 24h")
	case cmd.MaxActiveKeys < 1:
		return usage("--max-active-keys: want at least 1")
	}
	return errors.Join(cmd.Staleness.validate(cmd.Database != ""), cmd.validateRedis(), cmd.OnCall.validate(), cmd.Front.validate())
}

// Run serves until the context ends, then lets running requests finish.
func (cmd *ServeCmd) Run(ctx context.Context, std streams) (err error) {
	if err := cmd.validate(); err != nil {
		return err
	}
	return cmd.run(ctx, std, func(with nodeConfig) (service, error) { return openNode(ctx, cmd, with) })
}

// server implements service.
func (n *node) server() *server.Server { return n.api }

// metrics implements service.
func (n *node) metrics() *prometheus.Registry { return n.registry }

// decisions implements service.
func (n *node) decisions() *notify.DecisionLog { return n.decisionLog }

// healthy implements service.
func (n *node) healthy(ctx context.Context) bool {
	return (n.db.Shared() || n.db.Ping(ctx) == nil) && n.ready(latchkey.InstantOf(n.now())).Code == "" && n.bundles.Pending() == ""
}

// begin implements service.
func (n *node) begin(ctx context.Context, out io.Writer, at listening) error {
	if err := n.load(ctx); err != nil {
		return err
	}
	file := ""
	if n.madeRoot != nil && !onTerminal(out) {
		// Before anybody is told that the server is ready: who waited for that finds it.
		var err error
		if file, err = writeRootKey(n.data, n.madeRoot.Reveal()); err != nil {
			return err
		}
	}
	n.waitFor("") // what is shown now works as it stands
	if n.madeRoot != nil {
		showRootKey(out, file, n.madeRoot.Reveal(), at.baseURL, at.ln.Addr())
	} else {
		fmt.Fprintf(out, "latchkey %s listens on %s\n", version(), at.ln.Addr())
	}
	return nil
}

// loops implements service.
func (n *node) loops(ctx context.Context) {
	var background sync.WaitGroup
	background.Go(func() { n.loop(ctx) })
	background.Go(func() { n.bundles.run(ctx) })
	background.Go(func() { n.follow.run(ctx, n) })
	background.Go(func() { n.shareNodes(ctx) })
	background.Go(func() { n.deliver(ctx) })
	background.Go(func() { n.runRedis(ctx) })
	background.Go(func() { n.runRequests(ctx, n.sweep) })
	background.Go(func() { n.runTasks(ctx) })
	background.Wait()
}

func onTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// showRootKey shows a new root key the one time that it can be shown: on a
// terminal, or else by the file that it has been written to.
func showRootKey(out io.Writer, file, key, baseURL string, addr net.Addr) {
	bearer := key
	if file == "" {
		fmt.Fprintf(out, "The root key, shown this once:\n\n  %s\n\n", key)
	} else {
		fmt.Fprintf(out, "The root key is in %s, for its owner alone to read; move it to a safe place.\n\n", file)
		bearer = "$(cat '" + file + "')"
	}
	socket := ""
	if addr.Network() == "unix" {
		socket = "--unix-socket '" + addr.String() + "' "
	}
	fmt.Fprintf(out, `Make an access key with it:

  curl -s %s%s/v1/access_keys -H "Authorization: Bearer %s" -H 'Content-Type: application/json' -d '{"scopes":{"customer":{"decision":true,"policies":[{"f":"*","p":2}]}},"metadata":{"username":"dale.cooper","keyname":"first"}}'

latchkey %s listens on %s
`, socket, baseURL, bearer, version(), addr)
}

func writeRootKey(data, key string) (string, error) {
	path, err := filepath.Abs(filepath.Join(data, "root.key"))
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", fmt.Errorf("write the root key: %w", err)
	}
	if err := f.Chmod(0o600); err != nil {
		return "", errors.Join(err, f.Close())
	}
	_, err = fmt.Fprintln(f, key)
	return path, errors.Join(err, f.Sync(), f.Close())
}
