package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/term"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/forward"
	"github.com/latchkey-dev/latchkey/server/extauthz"
)

// ServeCmd runs the server. Its fields are the configuration reference:
// docs/configuration.md is generated from them.
type ServeCmd struct {
	Storage `embed:""`

	DatabaseConnections int  `help:"Connections to PostgreSQL at most, half of them for changes; 0 is four a processor, at least 16." default:"0" env:"LATCHKEY_DATABASE_CONNECTIONS"`
	NoMigrate           bool `help:"Refuse to start on a database of an earlier release, rather than to bring it up to date; 'latchkey migrate' does that." env:"LATCHKEY_NO_MIGRATE"`

	Listen            string        `help:"Address of the API: HOST:PORT or unix:/PATH." default:"127.0.0.1:5539" env:"LATCHKEY_LISTEN"`
	PrivateListen     string        `help:"Address of metrics and health, apart from the API; empty for none." default:"127.0.0.1:5540" env:"LATCHKEY_PRIVATE_LISTEN"`
	PublicURL         string        `help:"Base of the URLs that the server tells of itself; made from --listen where empty." env:"LATCHKEY_PUBLIC_URL" placeholder:"URL"`
	TLSCert           string        `help:"Certificate chain (PEM) for the API; read again when the file changes." type:"path" env:"LATCHKEY_TLS_CERT" placeholder:"FILE"`
	TLSKey            string        `help:"Private key (PEM) of the certificate." type:"path" env:"LATCHKEY_TLS_KEY" placeholder:"FILE"`
	TLSClientCA       string        `help:"Clients must show a certificate of one of these authorities (PEM)." type:"path" env:"LATCHKEY_TLS_CLIENT_CA" placeholder:"FILE"`
	InsecureListen    bool          `help:"Allow plain HTTP on an address that is not loopback." env:"LATCHKEY_INSECURE_LISTEN"`
	Pprof             bool          `help:"Serve /debug/pprof on the private address." env:"LATCHKEY_PPROF"`
	KeyMode           string        `help:"What new access keys are marked with: ${enum}." enum:"live,test" default:"live" env:"LATCHKEY_KEY_MODE"`
	MaxDirectory      int           `help:"MiB of memory that the properties of a customer's subjects and resources may take." default:"256" env:"LATCHKEY_MAX_DIRECTORY"`
	GrantCache        int           `help:"MiB of memory for the grants of subjects that are not access keys; what is not there is read from the database." default:"64" env:"LATCHKEY_GRANT_CACHE"`
	MaxActiveKeys     int           `help:"Active access keys that a customer may have, unless the customer says otherwise." default:"10" env:"LATCHKEY_MAX_ACTIVE_KEYS"`
	PolicyConcurrency int           `help:"Evaluations of one customer's policies at the same time; 0 is half of the processors, at least one." default:"0" env:"LATCHKEY_POLICY_CONCURRENCY"`
	AuthFailures      float64       `name:"auth-failure-rate" help:"Failed authentications a second that one address may make, after a burst of ten times as many." default:"10" env:"LATCHKEY_AUTH_FAILURE_RATE"`
	TrustedProxies    int           `help:"Proxies in front, each adding to X-Forwarded-For; the source is taken that many hops from the right." default:"0" env:"LATCHKEY_TRUSTED_PROXIES"`
	LogDecisions      float64       `help:"Share of decisions to log, 0 to 1; failures are always logged." default:"0" env:"LATCHKEY_LOG_DECISIONS"`
	LogLevel          string        `help:"Least level of the log: ${enum}." enum:"debug,info,warn,error" default:"info" env:"LATCHKEY_LOG_LEVEL"`
	ReadTimeout       time.Duration `help:"Time for a whole request to arrive; a later one on the same connection may take twice that." default:"10s" env:"LATCHKEY_READ_TIMEOUT"`
	WriteTimeout      time.Duration `help:"Time for a whole reply to leave; a later one on the same connection may take twice that." default:"10s" env:"LATCHKEY_WRITE_TIMEOUT"`
	IdleTimeout       time.Duration `help:"Time that a connection may wait for its next request." default:"60s" env:"LATCHKEY_IDLE_TIMEOUT"`
	StopTimeout       time.Duration `help:"Time for running requests to end after SIGTERM, and for the decision log to be delivered." default:"10s" env:"LATCHKEY_STOP_TIMEOUT"`

	ForwardRoutes  string   `help:"Routes (YAML) by which requests that proxies ask about become questions; without them all are denied." type:"path" env:"LATCHKEY_FORWARD_ROUTES" placeholder:"FILE"`
	ForwardSocket  []string `help:"Unix sockets for proxies that act for one customer and need no key, PATH=CUSTOMER, several by commas; they serve /decision/forward alone, to owner and group." env:"LATCHKEY_FORWARD_SOCKET" placeholder:"PATH=CUSTOMER" sep:","`
	ForwardCache   bool     `help:"Let proxies keep an allow until it expires (--max-staleness at most)." env:"LATCHKEY_FORWARD_CACHE"`
	ExtAuthzListen string   `help:"Address of Envoy's external authorization by gRPC: HOST:PORT or unix:/PATH; empty for none." env:"LATCHKEY_EXT_AUTHZ_LISTEN" placeholder:"ADDRESS"`

	Bundles string `help:"Bundles (YAML) that customers' policies and sets come from, in place of the API." type:"path" env:"LATCHKEY_BUNDLES" placeholder:"FILE"`

	Staleness   `embed:""`
	DecisionLog DecisionLog `embed:""`
	Tracing     `embed:""`
	Compat      Compat `embed:"" prefix:"compat."`
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
	case cmd.MaxActiveKeys < 1:
		return usage("--max-active-keys: want at least 1")
	case cmd.PolicyConcurrency < 0:
		return usage("--policy-concurrency: want 0 or more")
	case cmd.AuthFailures <= 0:
		return usage("--auth-failure-rate: want more than 0")
	case cmd.TrustedProxies < 0:
		return usage("--trusted-proxies: want 0 or more")
	case cmd.LogDecisions < 0 || cmd.LogDecisions > 1:
		return usage("--log-decisions: want 0 to 1")
	case cmd.ReadTimeout <= 0 || cmd.WriteTimeout <= 0 || cmd.IdleTimeout <= 0 || cmd.StopTimeout <= 0:
		return usage("a timeout must be more than 0")
	case (cmd.TLSCert == "") != (cmd.TLSKey == ""):
		return usage("--tls-cert and --tls-key go together")
	case cmd.TLSClientCA != "" && cmd.TLSCert == "":
		return usage("--tls-client-ca needs --tls-cert")
	case cmd.TLSCert == "" && !cmd.InsecureListen && !local(cmd.Listen):
		return usage("--listen %s would send keys in plain text over the network: give --tls-cert and --tls-key, or --insecure-listen", cmd.Listen)
	case cmd.ExtAuthzListen != "" && cmd.TLSCert == "" && !cmd.InsecureListen && !local(cmd.ExtAuthzListen):
		return usage("--ext-authz-listen %s would send keys in plain text over the network: give --tls-cert and --tls-key, or --insecure-listen", cmd.ExtAuthzListen)
	}
	for _, s := range cmd.ForwardSocket {
		if path, customer, ok := forwardSocket(s); !ok || path == "" || !latchkey.ValidName(customer) {
			return usage("--forward-socket %s: want PATH=CUSTOMER", s)
		}
	}
	return errors.Join(cmd.Staleness.validate(cmd.Database != ""), cmd.DecisionLog.validate(), cmd.Tracing.validate())
}

// forwardSocket takes PATH=CUSTOMER apart; the path may hold further signs of
// equality.
func forwardSocket(s string) (path, customer string, ok bool) {
	i := strings.LastIndexByte(s, '=')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// routes reads the routes file; none is nil.
func (cmd *ServeCmd) routes() (*forward.Routes, error) {
	if cmd.ForwardRoutes == "" {
		return nil, nil
	}
	text, err := os.ReadFile(cmd.ForwardRoutes)
	if err != nil {
		return nil, fmt.Errorf("read the routes: %w", err)
	}
	routes, err := forward.ParseRoutes(text)
	if err != nil {
		return nil, usage("--forward-routes %s: %w", cmd.ForwardRoutes, err)
	}
	return routes, nil
}

// local reports whether only this machine can reach the address.
func local(listen string) bool {
	if strings.HasPrefix(listen, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

func listen(address string) (net.Listener, error) {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		return net.Listen("tcp", address)
	}
	// A socket that a crash left behind is in nobody's use; a live one answers.
	if conn, err := net.Dial("unix", path); err == nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: another process does", address), conn.Close())
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	return ln, os.Chmod(path, 0o660) //nolint:gosec // the group is whom the socket is shared with
}

// Run serves until the context ends, then lets running requests finish.
func (cmd *ServeCmd) Run(ctx context.Context, std streams) (err error) {
	if err := cmd.validate(); err != nil {
		return err
	}
	log := newLog(std.err, cmd.LogLevel)
	ln, err := listen(cmd.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer ln.Close() // the server has closed it, or never took it
	baseURL := "http://" + ln.Addr().String()
	secure, err := cmd.tls()
	if err != nil {
		return err
	}
	if secure != nil {
		baseURL = "https://" + ln.Addr().String()
	}
	if ln.Addr().Network() == "unix" {
		baseURL = "http://localhost"
	}
	id := nodeID()
	tracer, flush, err := cmd.startTraces(ctx, id)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), cmd.StopTimeout)
		defer cancel()
		if lost := flush(ctx); lost != nil {
			log.Warn("spans were lost", "error", lost.Error())
		}
	}()
	n, err := openNode(ctx, cmd, nodeConfig{id: id, baseURL: baseURL, tracer: tracer, log: log, stdout: std.out})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()

	private, err := cmd.private(n)
	if err != nil {
		return err
	}
	if private != nil {
		defer func() { err = errors.Join(err, private.Close()) }()
	}
	servers := []running{{ln: ln, serve: func() error { return n.api.Serve(ln, secure) }, shutdown: n.api.Shutdown}}
	defer func() {
		for _, s := range servers {
			_ = s.ln.Close() // its server has closed it, or never took it
		}
	}()
	for _, s := range cmd.ForwardSocket {
		path, customer, _ := forwardSocket(s) // valid, as validate found
		socket, err := listen("unix:" + path)
		if err != nil {
			return fmt.Errorf("listen for proxies: %w", err)
		}
		servers = append(servers, running{ln: socket, serve: func() error { return n.api.ServeForward(socket, customer) }})
	}
	if cmd.ExtAuthzListen != "" {
		grpcListener, err := listen(cmd.ExtAuthzListen)
		if err != nil {
			return fmt.Errorf("listen for Envoy: %w", err)
		}
		srv := extauthz.New(extauthz.Config{Decider: n.api, TLS: secure, ConnectTimeout: cmd.ReadTimeout, IdleTimeout: cmd.IdleTimeout})
		servers = append(servers, running{ln: grpcListener, serve: func() error { return srv.Serve(grpcListener) }, shutdown: srv.Shutdown})
	}
	served := make(chan error, len(servers))
	for _, s := range servers { // they deny until all is loaded
		go func() { served <- s.serve() }()
	}
	waiting := len(servers)
	stop := func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), cmd.StopTimeout)
		defer cancel()
		for _, s := range servers {
			if s.shutdown != nil {
				err = errors.Join(err, s.shutdown(ctx))
			}
			_ = s.ln.Close() // where the stop came before the server took the listener
		}
		for range waiting {
			<-served
		}
		return err
	}
	if err := n.load(ctx); err != nil {
		err = errors.Join(err, stop())
		if ctx.Err() != nil {
			log.Info("stopped")
			return nil
		}
		return err
	}
	if n.madeRoot != nil {
		if err := showRootKey(std.out, cmd.Data, n.madeRoot.Reveal(), baseURL, ln.Addr()); err != nil {
			return errors.Join(err, stop())
		}
	}
	n.waitFor("")
	if n.madeRoot == nil {
		fmt.Fprintf(std.out, "latchkey %s listens on %s\n", version(), ln.Addr())
	}

	loops, stopLoops := context.WithCancel(context.Background())
	var background sync.WaitGroup
	background.Go(func() { n.loop(loops) })
	background.Go(func() { n.bundles.run(loops) })
	background.Go(func() { n.follow.run(loops, n) })
	background.Go(func() { n.shareNodes(loops) })
	log.Info("serving", "listen", ln.Addr().String(), "private_listen", cmd.PrivateListen, "version", version(), "keys", n.table.Len())
	for _, s := range servers[1:] {
		log.Info("serving proxies", "listen", s.ln.Addr().String())
	}
	var stopping time.Time
	select {
	case err = <-served:
		stopping = time.Now()
		waiting--
		err = errors.Join(err, stop())
	case <-ctx.Done():
		stopping = time.Now()
		log.Info("stopping")
		err = stop()
	}
	stopLoops()
	background.Wait()
	err = errors.Join(err, cmd.flush(n, stopping))
	log.Info("stopped")
	return err
}

// flush delivers what the decision log holds, in what is left of the time to
// stop: at least a quarter of it.
func (cmd *ServeCmd) flush(n *node, stopping time.Time) error {
	if n.decisionLog == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), max(cmd.StopTimeout-time.Since(stopping), cmd.StopTimeout/4))
	defer cancel()
	return n.decisionLog.Close(ctx)
}

// running is one listener and who serves it.
type running struct {
	ln       net.Listener
	serve    func() error
	shutdown func(context.Context) error // nil where another's does it
}

// private serves metrics and health on an address of their own.
func (cmd *ServeCmd) private(n *node) (*http.Server, error) {
	if cmd.PrivateListen == "" {
		return nil, nil
	}
	ln, err := listen(cmd.PrivateListen)
	if err != nil {
		return nil, fmt.Errorf("listen privately: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /health/live", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, `{"status":"live"}`)
	})
	mux.HandleFunc("GET /health/ready", func(w http.ResponseWriter, r *http.Request) {
		if err := n.db.Ping(r.Context()); err != nil || n.ready(latchkey.InstantOf(n.now())).Code != "" || n.bundles.Pending() != "" {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, `{"status":"not_ready"}`)
			return
		}
		fmt.Fprintln(w, `{"status":"ready"}`)
	})
	if cmd.Pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	srv := &http.Server{Handler: mux, ReadTimeout: cmd.ReadTimeout, IdleTimeout: cmd.IdleTimeout, ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelWarn)}
	go srv.Serve(ln) //nolint:errcheck // it ends with Close
	return srv, nil
}

// showRootKey shows a new root key the one time that it can be shown: on a
// terminal, or else in a file that only its owner reads.
func showRootKey(out io.Writer, data, key, baseURL string, addr net.Addr) error {
	bearer := key
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintf(out, "The root key, shown this once:\n\n  %s\n\n", key)
	} else {
		path, err := writeRootKey(data, key)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "The root key is in %s, for its owner alone to read; move it to a safe place.\n\n", path)
		bearer = "$(cat '" + path + "')"
	}
	socket := ""
	if addr.Network() == "unix" {
		socket = "--unix-socket '" + addr.String() + "' "
	}
	fmt.Fprintf(out, `Make an access key with it:

  curl -s %s%s/v1/access_keys -H "Authorization: Bearer %s" -H 'Content-Type: application/json' -d '{"scopes":{"customer":{"decision":true,"policies":[{"f":"*","p":2}]}},"metadata":{"username":"dale.cooper","keyname":"first"}}'

latchkey %s listens on %s
`, socket, baseURL, bearer, version(), addr)
	return nil
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

func newLog(w io.Writer, level string) *slog.Logger {
	var l slog.Level
	_ = l.UnmarshalText([]byte(level)) // one of the enum
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l}))
}
