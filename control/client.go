package control

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/feed"
)

// Config is where the control plane is and how it is talked to.
type Config struct {
	// URL is http://…, https://… or unix:/PATH; a path in it goes before every
	// other.
	URL string
	// Key is the sidecar's own; it goes nowhere but to the URL.
	Key string
	// AllowInsecure permits plain HTTP over the network.
	AllowInsecure bool
	// RootCAs sign the control plane's certificate; nil for the system's.
	RootCAs *x509.CertPool
	// Certificate is the sidecar's own, where the control plane wants one; nil for
	// none. It is asked for each connection.
	Certificate func() (*tls.Certificate, error)
	// Timeout bounds a call, beside what it may have to wait; default 5 s.
	Timeout time.Duration
	// Verifier verifies records.
	Verifier func() *feed.Verifier
}

// Client talks to a control plane. Safe for concurrent use.
type Client struct {
	cfg  Config
	base *url.URL
	// Each has its own connections: what is passed on for others, however much of
	// it, must not keep the feed or a record waiting.
	feed, records, passed *http.Transport

	refused atomic.Int64
}

// Bounds of replies, in bytes.
const (
	maxPage    = 96 << 20 // 256 messages of the largest size
	maxRecord  = 8 << 20
	maxSmall   = 1 << 20
	maxHeaders = 64 << 10
	maxProblem = 64 << 10
)

// passedWait is how long a reply to a request that is passed on may take to
// begin: longer than the control plane lets anybody wait.
const passedWait = 75 * time.Second

// New checks the configuration; it does no I/O.
func New(cfg Config) (*Client, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	base, socket, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	if base.Scheme == "http" && socket == "" && !cfg.AllowInsecure && !loopback(base.Hostname()) {
		return nil, errors.New("keys would go in plain text over the network: use https")
	}
	if cfg.Key == "" || strings.ContainsFunc(cfg.Key, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return nil, errors.New("there is no key for the control plane, or a malformed one")
	}
	c := &Client{cfg: cfg, base: base}
	c.feed, c.records, c.passed = c.transport(socket, 4), c.transport(socket, 64), c.transport(socket, 512)
	c.passed.ResponseHeaderTimeout = passedWait
	return c, nil
}

func parseURL(text string) (base *url.URL, socket string, err error) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		if !filepath.IsAbs(path) {
			return nil, "", errors.New("want unix:/PATH")
		}
		return &url.URL{Scheme: "http", Host: "localhost"}, path, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "" {
		return nil, "", errors.New("want http://HOST, https://HOST or unix:/PATH, without a user or a query") // not the URL: it may hold a secret
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimRight(u.Path, "/")}, "", nil
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

func (c *Client) transport(socket string, most int) *http.Transport {
	dialer := &net.Dialer{Timeout: c.cfg.Timeout, KeepAlive: 15 * time.Second}
	t := &http.Transport{
		Proxy:                  nil, // the environment has no say
		DialContext:            dialer.DialContext,
		TLSClientConfig:        c.TLS(),
		TLSHandshakeTimeout:    c.cfg.Timeout,
		DisableCompression:     true, // replies are bounded as they come
		MaxConnsPerHost:        most,
		MaxIdleConnsPerHost:    most,
		IdleConnTimeout:        50 * time.Second, // less than the server's
		MaxResponseHeaderBytes: maxHeaders,
	}
	if socket != "" {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		}
	}
	return t
}

// TLS is the configuration of its connections.
func (c *Client) TLS() *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.cfg.RootCAs}
	if own := c.cfg.Certificate; own != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own() }
	}
	return cfg
}

// Address is where a path of the API is, and how connections to it are opened.
func (c *Client) Address(path string) (address string, dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	return c.base.JoinPath(path).String(), c.feed.DialContext
}

// Close closes connections that nobody uses.
func (c *Client) Close() {
	for _, t := range []*http.Transport{c.feed, c.records, c.passed} {
		t.CloseIdleConnections()
	}
}

// Refused counts records from the control plane that did not verify.
func (c *Client) Refused() int64 { return c.refused.Load() }

// call sends one request with the sidecar's own key, and returns the body of a
// 200.
func (c *Client) call(ctx context.Context, by *http.Transport, method, path string, query url.Values, header http.Header, body []byte, wait time.Duration, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout+wait)
	defer cancel()
	u := *c.base
	u.Path += path
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, unreachable(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Authorization", "Bearer "+c.cfg.Key)
	req.Header.Set("User-Agent", "latchkey-sidecar")
	resp, err := by.RoundTrip(req) // which follows no redirect
	if err != nil {
		return nil, unreachable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, refusal(resp)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, unreachable(err)
	case int64(len(text)) > limit:
		return nil, latchkey.Errorf(latchkey.Unavailable, "control_plane_unreachable", "the control plane's reply is over %d bytes", limit)
	}
	return text, nil
}

func unreachable(cause error) error {
	return latchkey.Errorf(latchkey.Unavailable, "control_plane_unreachable", "the control plane cannot be reached").Because(cause)
}

// refusal is what a reply other than 200 says: NotFound where it is latchkey's
// own, and else Unavailable, for a 404 may be of whoever stands between.
func refusal(resp *http.Response) error {
	var problem struct{ Type, Code string }
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	if err == nil {
		err = json.Unmarshal(text, &problem)
	}
	if err == nil && problem.Code == "key_not_found" && resp.StatusCode == http.StatusNotFound && problem.Type == "urn:latchkey:problem:key_not_found" {
		return latchkey.Errorf(latchkey.NotFound, "key_not_found", "there is no such key")
	}
	if !wellFormedCode(problem.Code) {
		problem.Code = "no code"
	}
	return latchkey.Errorf(latchkey.Unavailable, "control_plane_refused", "the control plane refuses the sidecar: %d %s", resp.StatusCode, problem.Code)
}

func wellFormedCode(code string) bool {
	return code != "" && len(code) < 64 && !strings.ContainsFunc(code, func(c rune) bool { return (c < 'a' || c > 'z') && c != '_' })
}

// Welcome asks where the customer's changes are and who signs.
func (c *Client) Welcome(ctx context.Context) (*feed.Welcome, error) {
	text, err := c.call(ctx, c.feed, http.MethodGet, "/v1/sidecar/verification_keys", nil, nil, nil, 0, maxSmall)
	if err != nil {
		return nil, err
	}
	w := new(feed.Welcome)
	if err := json.Unmarshal(text, w); err != nil {
		return nil, unreachable(err)
	}
	return w, nil
}

// Feed asks for the changes after the given one, and lets the control plane wait
// for one.
func (c *Client) Feed(ctx context.Context, epoch, after int64, node string, wait time.Duration) (*feed.Page, error) {
	wait = wait.Truncate(time.Second)
	query := url.Values{"epoch": {strconv.FormatInt(epoch, 10)}, "after": {strconv.FormatInt(after, 10)}, "node": {node}}
	header := http.Header{"Prefer": {"wait=" + strconv.FormatInt(int64(wait/time.Second), 10)}}
	text, err := c.call(ctx, c.feed, http.MethodGet, "/v1/sidecar/feed", query, header, nil, wait, maxPage)
	if err != nil {
		return nil, err
	}
	p := new(feed.Page)
	if err := json.Unmarshal(text, p); err != nil {
		return nil, unreachable(err)
	}
	return p, nil
}

// Fetch implements cache.Source: it gets a record and verifies it.
func (c *Client) Fetch(ctx context.Context, customer string, ref feed.Ref) (*feed.Record, error) {
	path, query := "/v1/sidecar/keys", url.Values{}
	switch ref.Kind {
	case feed.Key:
		query.Set("id", ref.ID)
	case feed.Secret:
		query.Set("kid", ref.ID)
	case feed.Subject, feed.Resource:
		path = "/v1/sidecar/" + string(ref.Kind) + "s"
		query.Set("type", ref.Type)
		query.Set("id", ref.ID)
	default:
		return nil, fmt.Errorf("no record is of the kind %q", ref.Kind)
	}
	text, err := c.call(ctx, c.records, http.MethodGet, path, query, nil, nil, 0, maxRecord)
	if err != nil {
		return nil, err
	}
	rec, err := c.cfg.Verifier().OpenRecord(bytes.TrimSpace(text), customer, ref)
	if err != nil {
		c.refused.Add(1)
		return nil, err
	}
	return rec, nil
}

// Proves asks whether a text is the secret of an access key of the customer,
// ended ones too.
func (c *Client) Proves(ctx context.Context, secret []byte) (bool, error) {
	body, err := json.Marshal(map[string]string{"key": string(secret)})
	if err != nil {
		return false, err
	}
	text, err := c.call(ctx, c.records, http.MethodPost, "/v1/access_keys/verify", nil, http.Header{"Content-Type": {"application/json"}}, body, 0, maxSmall)
	if err != nil {
		return false, err
	}
	var reply struct{ Code string }
	if err := json.Unmarshal(text, &reply); err != nil {
		return false, unreachable(err)
	}
	switch reply.Code {
	case "valid", "key_expired", "key_revoked": // what became of it is told to who has it
		return true, nil
	case "key_unknown":
		return false, nil
	}
	return false, latchkey.Errorf(latchkey.Unavailable, "control_plane_unreachable", "the control plane does not say whether the key is right")
}

// RoundTrip implements http.RoundTripper for requests of others, which are
// passed on as they are: the request's URL holds a path and a query alone. What
// it is given keeps its own credential, and gets none of the sidecar's.
func (c *Client) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.URL.Scheme, req.URL.Host, req.Host = c.base.Scheme, c.base.Host, c.base.Host
	if c.base.Path != "" {
		req.URL.Opaque = c.base.EscapedPath() + req.URL.Opaque
	}
	return c.passed.RoundTrip(req)
}
