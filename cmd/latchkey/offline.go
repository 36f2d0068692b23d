package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/keyring"
	"github.com/latchkey-dev/latchkey/scopes"
	"github.com/latchkey-dev/latchkey/store"
)

// InitCmd sets up a data directory.
type InitCmd struct {
	Storage `embed:""`
}

// Run implements the command. On a directory that is set up already it changes
// nothing.
func (cmd *InitCmd) Run(ctx context.Context, g *Globals, std streams) (err error) {
	b, err := cmd.open(ctx, newClock())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	path := ""
	if b.madeRoot != nil {
		if path, err = writeRootKey(cmd.Data, b.madeRoot.Reveal()); err != nil {
			return err
		}
	}
	if g.JSON {
		return json.NewEncoder(std.out).Encode(map[string]any{"data": cmd.Data, "root_key_file": path, "made": b.madeRoot != nil})
	}
	if path == "" {
		fmt.Fprintln(std.out, cmd.Data, "is set up already")
		return nil
	}
	fmt.Fprintf(std.out, "%s is set up\nthe root key is in %s, for its owner alone to read\n", cmd.Data, path)
	return nil
}

// ScopesCmd works on scopes in files.
type ScopesCmd struct {
	Check ScopesCheckCmd `cmd:"" help:"Check scopes; exit code 3 when they do not parse."`
	Rego  ScopesRegoCmd  `cmd:"" help:"Show scopes as Rego, for any OPA."`
}

// ScopesCheckCmd checks scopes.
type ScopesCheckCmd struct {
	File string `arg:"" help:"File with {\"customer\": {…}}; - for standard input."`
}

// Run implements the command.
func (cmd *ScopesCheckCmd) Run(g *Globals, std streams) error {
	set, err := readScopes(cmd.File, std.in)
	if err != nil {
		if g.JSON {
			faults := scopes.Faults(err)
			if faults == nil {
				return err
			}
			_ = json.NewEncoder(std.out).Encode(map[string]any{"valid": false, "errors": faults})
		}
		return err
	}
	if g.JSON {
		return json.NewEncoder(std.out).Encode(map[string]any{"valid": true, "booleans": orEmpty(set.Booleans()), "access_keys": orEmpty(set.Visible()), "types": orEmpty(set.Types())})
	}
	fmt.Fprintln(std.out, "valid")
	for _, name := range set.Booleans() {
		fmt.Fprintf(std.out, "  %s\n", name)
	}
	if visible := set.Visible(); len(visible) > 0 {
		fmt.Fprintf(std.out, "  access_keys: %s\n", strings.Join(visible, ", "))
	}
	for _, typ := range set.Types() {
		for i, e := range set.Entries(typ) {
			may := append(e.Permissions.Implied().Names(), e.Actions...)
			restricted := ""
			if r := e.Restriction; r != nil {
				restricted = fmt.Sprintf(", values of type %q like %q", r.EntityType, r.Filter)
			}
			fmt.Fprintf(std.out, "  %s[%d] %q: %s%s\n", typ, i, e.Selector, strings.Join(may, ", "), restricted)
		}
	}
	return nil
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func readScopes(path string, in io.Reader) (*scopes.Set, error) {
	text, err := readInput(path, in)
	if err != nil {
		return nil, err
	}
	set, err := scopes.NewParser(16).Parse(string(text))
	if err != nil {
		return nil, &exitError{exitCompile, err}
	}
	return set, nil
}

// ScopesRegoCmd renders scopes.
type ScopesRegoCmd struct {
	File string `arg:"" help:"File with {\"customer\": {…}}; - for standard input."`
	ID   string `help:"Id of the access key that the file is for." default:"00000000-0000-0000-0000-000000000000"`
}

// Run implements the command.
func (cmd *ScopesRegoCmd) Run(g *Globals, std streams) error {
	set, err := readScopes(cmd.File, std.in)
	if err != nil {
		return err
	}
	text := set.Rego(scopes.RegoKey{ID: cmd.ID, ExpiresAt: latchkey.Never})
	if g.JSON {
		return json.NewEncoder(std.out).Encode(map[string]any{"rego": text})
	}
	_, err = io.WriteString(std.out, text)
	return err
}

// AuditCmd looks after the audit trail.
type AuditCmd struct {
	Verify AuditVerifyCmd `cmd:"" help:"Check every chain of events; exit code 1 when one was tampered with. Works beside a running server."`
}

// AuditVerifyCmd checks chains in the database itself.
type AuditVerifyCmd struct {
	Storage  `embed:""`
	Customer string   `help:"Only this customer's chain; _system for what is outside customers." placeholder:"ID"`
	Anchor   []string `help:"File with anchors, the server's log say, or - for standard input; the chains must pass through each. May be given several times." sep:"none" placeholder:"FILE"`
}

// Run implements the command.
func (cmd *AuditVerifyCmd) Run(ctx context.Context, g *Globals, std streams) (err error) {
	keys, err := keyring.Load(cmd.keyring())
	if err != nil {
		return err
	}
	database, err := cmd.database()
	if err != nil {
		return err
	}
	database.MAC, database.ReadOnly = keys.AuditMAC, true
	db, err := store.OpenConfig(ctx, database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	anchors, err := cmd.anchors(std.in)
	if err != nil {
		return err
	}
	chains := []string{cmd.Customer}
	if cmd.Customer == "" {
		if chains, err = db.Chains(ctx); err != nil {
			return err
		}
		for _, a := range anchors { // one that is gone from the database, too
			if !slices.Contains(chains, a.Chain) {
				chains = append(chains, a.Chain)
			}
		}
	}
	holds := true
	reports := []audit.Report{}
	for _, chain := range chains {
		report, err := db.VerifyChain(ctx, chain, anchors...)
		if latchkey.KindOf(err) == latchkey.NotFound {
			report, err = missingChain(chain, keys.AuditMAC, anchors, err)
		}
		if err != nil {
			return err
		}
		holds = holds && report.Holds
		reports = append(reports, report)
	}
	if g.JSON {
		if err := json.NewEncoder(std.out).Encode(map[string]any{"holds": holds, "chains": reports}); err != nil {
			return err
		}
	} else {
		for _, r := range reports {
			word := "holds"
			if !r.Holds {
				word = "DOES NOT HOLD"
			}
			fmt.Fprintf(std.out, "%s: %d events, %s\n", r.Chain, r.Events, word)
			for _, f := range r.Findings {
				fmt.Fprintf(std.out, "  event %d: %s: %s\n", f.Seq, f.Code, f.Detail)
			}
		}
	}
	if !holds {
		return &exitError{exitFailed, errors.New("the audit trail was tampered with")}
	}
	return nil
}

// anchors reads what the files hold; some anchor there must be, or the check
// would say less than it seems to.
func (cmd *AuditVerifyCmd) anchors(stdin io.Reader) (all []audit.Head, err error) {
	for _, name := range cmd.Anchor {
		var anchors []audit.Head
		if name == "-" {
			anchors, err = audit.ReadAnchors(stdin)
		} else {
			var f *os.File
			if f, err = os.Open(name); err != nil {
				return nil, usage("--anchor: %w", err)
			}
			anchors, err = audit.ReadAnchors(f)
			_ = f.Close() // it was only read
		}
		if err != nil {
			return nil, usage("--anchor %s: %w", name, err)
		}
		if len(anchors) == 0 {
			return nil, usage("--anchor %s: there is no anchor in it", name)
		}
		all = append(all, anchors...)
	}
	return all, nil
}

// missingChain reports on a chain that the database does not have: with an
// anchor of it, it once did.
func missingChain(chain string, key audit.MACKey, anchors []audit.Head, notFound error) (audit.Report, error) {
	if !slices.ContainsFunc(anchors, func(a audit.Head) bool { return a.Chain == chain }) {
		return audit.Report{}, notFound
	}
	return audit.Verify(key.Sign(audit.Head{Chain: chain}), key, anchors, func(func(audit.Event, error) bool) {})
}

// RootCmd is about the root key.
type RootCmd struct {
	Rotate RootRotateCmd `cmd:"" help:"Replace the root key: over the API, or with --data in the directory of a server that is down."`
}

// RootRotateCmd replaces the root key.
type RootRotateCmd struct {
	Remote      `embed:""`
	Data        string `help:"Data directory of a server that is down." type:"path" placeholder:"DIR"`
	KeyringFile string `help:"With --data: the keyring, where it is not in the directory." type:"path" placeholder:"FILE"`
	PepperFile  string `help:"With --data: the peppers, where the server has some." type:"path" placeholder:"FILE"`
	Database    string `help:"With --data: the URL of PostgreSQL, where that holds the record." env:"LATCHKEY_DATABASE" placeholder:"URL"`
}

// Run implements the command.
func (cmd *RootRotateCmd) Run(ctx context.Context, g *Globals, std streams) (err error) {
	var key string
	if cmd.Data == "" {
		reply, err := cmd.call(ctx, http.MethodPost, "/v1/root/rotate", nil)
		if err != nil {
			return err
		}
		key = reply.Get("key").String()
	} else {
		now := newClock()
		storage := Storage{Data: cmd.Data, KeyringFile: cmd.KeyringFile, PepperFile: cmd.PepperFile, Database: cmd.Database}
		if _, err := os.Stat(storage.sqlite()); err != nil && cmd.Database == "" {
			return usage("--data %s: there is no database: %w", cmd.Data, err)
		}
		b, err := storage.open(ctx, now)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.close()) }()
		token, err := b.root.Rotate(ctx, authz.Call{Now: latchkey.InstantOf(now())})
		if err != nil {
			return err
		}
		key = token.Reveal()
	}
	if g.JSON {
		return json.NewEncoder(std.out).Encode(map[string]string{"key": key})
	}
	fmt.Fprintf(std.out, "%s\n\nThe root key is shown this once; the one before it has ended.\n", key)
	return nil
}

// HealthcheckCmd asks a server whether it is ready.
type HealthcheckCmd struct {
	URL string `help:"What to ask: a URL, or unix:/PATH for a server that listens on a socket." default:"http://127.0.0.1:5540/health/ready" env:"LATCHKEY_HEALTH_URL" placeholder:"URL"`
}

// Run implements the command.
func (cmd *HealthcheckCmd) Run(ctx context.Context, g *Globals, std streams) error {
	client, address := http.DefaultClient, cmd.URL
	if path, ok := strings.CutPrefix(cmd.URL, "unix:"); ok {
		client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}}}
		address = "http://localhost/health/ready"
	}
	if u, err := url.Parse(address); err != nil || u.Host == "" {
		return usage("--url: want http://…, https://… or unix:/PATH")
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return usage("%w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("not ready: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: status %d", resp.StatusCode)
	}
	if g.JSON {
		return json.NewEncoder(std.out).Encode(map[string]string{"status": "ready"})
	}
	fmt.Fprintln(std.out, "ready")
	return nil
}

// VersionCmd shows the version.
type VersionCmd struct{}

// Run implements the command.
func (VersionCmd) Run(g *Globals, std streams) error {
	if g.JSON {
		return json.NewEncoder(std.out).Encode(map[string]string{"version": version(), "go": goVersion()})
	}
	fmt.Fprintln(std.out, "latchkey", version(), goVersion())
	return nil
}

// released is set by the linker for a release.
var released string

func version() string {
	if released != "" {
		return released
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func goVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.GoVersion
	}
	return "unknown"
}
