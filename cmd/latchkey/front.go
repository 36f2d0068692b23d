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
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/forward"
	"github.com/latchkey-dev/latchkey/notify"
	"github.com/latchkey-dev/latchkey/server"
	"github.com/latchkey-dev/latchkey/server/extauthz"
)

// Front are the flags of what answers requests: those of a server and of a
// sidecar alike.
type Front struct {
	Listen            string        `help:"Address of the API: HOST:PORT or unix:/PATH." default:"127.0.0.1:5539" env:"LATCHKEY_LISTEN"`
	PrivateListen     string        `help:"Address of metrics and health, apart from the API; empty for none." default:"127.0.0.1:5540" env:"LATCHKEY_PRIVATE_LISTEN"`
	PublicURL         string        `help:"Base of the URLs that the server tells of itself; made from --listen where empty." env:"LATCHKEY_PUBLIC_URL" placeholder:"URL"`
	TLSCert           string        `help:"Certificate chain (PEM) for the API; read again when the file changes." type:"path" env:"LATCHKEY_TLS_CERT" placeholder:"FILE"`
	TLSKey            string        `help:"Private key (PEM) of the certificate." type:"path" env:"LATCHKEY_TLS_KEY" placeholder:"FILE"`
	TLSClientCA       string        `help:"Clients must show a certificate of one of these authorities (PEM)." type:"path" env:"LATCHKEY_TLS_CLIENT_CA" placeholder:"FILE"`
	InsecureListen    bool          `help:"Allow plain HTTP on an address that is not loopback." env:"LATCHKEY_INSECURE_LISTEN"`
	Pprof             bool          `help:"Serve /debug/pprof on the private address." env:"LATCHKEY_PPROF"`
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

	DecisionLog DecisionLog `embed:""`
	Tracing     `embed:""`
}

func (f *Front) validate() error {
	switch {
	case f.PolicyConcurrency < 0:
		return usage("--policy-concurrency: want 0 or more")
	case f.AuthFailures <= 0:
		return usage("--auth-failure-rate: want more than 0")
	case f.TrustedProxies < 0:
		return usage("--trusted-proxies: want 0 or more")
	case f.LogDecisions < 0 || f.LogDecisions > 1:
		return usage("--log-decisions: want 0 to 1")
	case f.ReadTimeout <= 0 || f.WriteTimeout <= 0 || f.IdleTimeout <= 0 || f.StopTimeout <= 0:
		return usage("a timeout must be more than 0")
	case (f.TLSCert == "") != (f.TLSKey == ""):
		return usage("--tls-cert and --tls-key go together")
	case f.TLSClientCA != "" && f.TLSCert == "":
		return usage("--tls-client-ca needs --tls-cert")
	case f.TLSCert == "" && !f.InsecureListen && !local(f.Listen):
		return usage("--listen %s would send keys in plain text over the network: give --tls-cert and --tls-key, or --insecure-listen", f.Listen)
	case f.ExtAuthzListen != "" && f.TLSCert == "" && !f.InsecureListen && !local(f.ExtAuthzListen):
		return usage("--ext-authz-listen %s would send keys in plain text over the network: give --tls-cert and --tls-key, or --insecure-listen", f.ExtAuthzListen)
	}
	for _, s := range f.ForwardSocket {
		if path, customer, ok := forwardSocket(s); !ok || path == "" || !latchkey.ValidName(customer) {
			return usage("--forward-socket %s: want PATH=CUSTOMER", s)
		}
	}
	return errors.Join(f.DecisionLog.validate(), f.Tracing.validate())
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
func (f *Front) routes() (*forward.Routes, error) {
	if f.ForwardRoutes == "" {
		return nil, nil
	}
	text, err := os.ReadFile(f.ForwardRoutes)
	if err != nil {
		return nil, fmt.Errorf("read the routes: %w", err)
	}
	routes, err := forward.ParseRoutes(text)
	if err != nil {
		return nil, usage("--forward-routes %s: %w", f.ForwardRoutes, err)
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

// running is one listener and who serves it.
type running struct {
	ln       net.Listener
	serve    func() error
	shutdown func(context.Context) error // nil where another's does it
}

// service is what a front answers with: a server's node, or a sidecar.
type service interface {
	server() *server.Server
	metrics() *prometheus.Registry
	// decisions is the decision log, nil where there is none.
	decisions() *notify.DecisionLog
	// begin is called when the listeners answer, by denials where nothing else can
	// be told yet; what it writes to out is for people.
	begin(ctx context.Context, out io.Writer, at listening) error
	// loops does the background work until ctx ends.
	loops(ctx context.Context)
	// healthy is the answer to /health/ready.
	healthy(ctx context.Context) bool
	close() error
}

// listening is where the API answers.
type listening struct {
	ln      net.Listener
	baseURL string
}

// run answers requests with a service until ctx ends, then lets running requests
// finish. The listener is there before the service is opened.
func (f *Front) run(ctx context.Context, std streams, open func(nodeConfig) (service, error)) (err error) {
	log := newLog(std.err, f.LogLevel)
	ln, err := listen(f.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer ln.Close() // the server has closed it, or never took it
	baseURL := "http://" + ln.Addr().String()
	secure, err := f.tls()
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
	tracer, flush, err := f.startTraces(ctx, id)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), f.StopTimeout)
		defer cancel()
		if lost := flush(ctx); lost != nil {
			log.Warn("spans were lost", "error", lost.Error())
		}
	}()
	s, err := open(nodeConfig{id: id, baseURL: baseURL, tracer: tracer, log: log, stdout: std.out})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()

	private, err := f.private(s, log)
	if err != nil {
		return err
	}
	if private != nil {
		defer func() { err = errors.Join(err, private.Close()) }()
	}
	api := s.server()
	servers := []running{{ln: ln, serve: func() error { return api.Serve(ln, secure) }, shutdown: api.Shutdown}}
	defer func() {
		for _, s := range servers {
			_ = s.ln.Close() // its server has closed it, or never took it
		}
	}()
	for _, s := range f.ForwardSocket {
		path, customer, _ := forwardSocket(s) // valid, as validate found
		socket, err := listen("unix:" + path)
		if err != nil {
			return fmt.Errorf("listen for proxies: %w", err)
		}
		servers = append(servers, running{ln: socket, serve: func() error { return api.ServeForward(socket, customer) }})
	}
	if f.ExtAuthzListen != "" {
		grpcListener, err := listen(f.ExtAuthzListen)
		if err != nil {
			return fmt.Errorf("listen for Envoy: %w", err)
		}
		srv := extauthz.New(extauthz.Config{Decider: api, TLS: secure, ConnectTimeout: f.ReadTimeout, IdleTimeout: f.IdleTimeout})
		servers = append(servers, running{ln: grpcListener, serve: func() error { return srv.Serve(grpcListener) }, shutdown: srv.Shutdown})
	}
	served := make(chan error, len(servers))
	for _, s := range servers { // they deny until all is loaded
		go func() { served <- s.serve() }()
	}
	waiting := len(servers)
	stop := func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), f.StopTimeout)
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
	if err := s.begin(ctx, std.out, listening{ln, baseURL}); err != nil {
		err = errors.Join(err, stop())
		if ctx.Err() != nil {
			log.Info("stopped")
			return nil
		}
		return err
	}
	loops, stopLoops := context.WithCancel(context.Background())
	var background sync.WaitGroup
	background.Go(func() { s.loops(loops) })
	log.Info("serving", "listen", ln.Addr().String(), "private_listen", f.PrivateListen, "version", version())
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
	err = errors.Join(err, f.flush(s.decisions(), stopping))
	log.Info("stopped")
	return err
}

// flush delivers what the decision log holds, in what is left of the time to
// stop: at least a quarter of it.
func (f *Front) flush(decisions *notify.DecisionLog, stopping time.Time) error {
	if decisions == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), max(f.StopTimeout-time.Since(stopping), f.StopTimeout/4))
	defer cancel()
	return decisions.Close(ctx)
}

// private serves metrics and health on an address of their own.
func (f *Front) private(s service, log *slog.Logger) (*http.Server, error) {
	if f.PrivateListen == "" {
		return nil, nil
	}
	ln, err := listen(f.PrivateListen)
	if err != nil {
		return nil, fmt.Errorf("listen privately: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics(), promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /health/live", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, `{"status":"live"}`)
	})
	mux.HandleFunc("GET /health/ready", func(w http.ResponseWriter, r *http.Request) {
		if !s.healthy(r.Context()) {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, `{"status":"not_ready"}`)
			return
		}
		fmt.Fprintln(w, `{"status":"ready"}`)
	})
	if f.Pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	srv := &http.Server{Handler: mux, ReadTimeout: f.ReadTimeout, IdleTimeout: f.IdleTimeout, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	go srv.Serve(ln) //nolint:errcheck // it ends with Close
	return srv, nil
}

func newLog(w io.Writer, level string) *slog.Logger {
	var l slog.Level
	_ = l.UnmarshalText([]byte(level)) // one of the enum
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l}))
}
