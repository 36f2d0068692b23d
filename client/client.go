package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Config says where latchkey is and who asks.
type Config struct {
	// URL is http://…, https://… or unix:/PATH, of a control plane or of a
	// sidecar; a path in it goes before every other. Plain HTTP is for
	// loopback, unless AllowInsecure is set.
	URL string
	// Key is an access key of a service, or a personal token. It goes nowhere but
	// to the URL.
	Key string
	// Customer is sent as X-Customer-ID: the root key needs it, with any other
	// credential it must be the credential's own. Default: not sent.
	Customer string
	// AllowInsecure permits plain HTTP over the network.
	AllowInsecure bool
	// Timeout bounds a call with its repetitions, beside what it is to wait for
	// an approval; default 5 s.
	Timeout time.Duration
	// HTTPClient sends the requests; default one of its own, which takes no proxy
	// from the environment. Its redirects are not followed, its Timeout, where one
	// is set, must be longer than anybody is to wait.
	HTTPClient *http.Client
}

// Client talks to latchkey. Safe for concurrent use.
type Client struct {
	base    *url.URL
	timeout time.Duration
	http    *http.Client
	// sign puts the credential into a request, and scrub takes it out of a text:
	// the key itself is in no field, so that no way of printing the client shows it.
	sign  func(*http.Request)
	scrub func([]byte) []byte
	pause func(context.Context, time.Duration) error
}

// maxReply bounds what is read of a reply, in bytes: one to the largest bulk
// update that the server takes.
const maxReply = 64 << 20

// New checks the configuration; it does no I/O.
func New(cfg Config) (*Client, error) {
	base, socket, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	if base.Scheme == "http" && socket == "" && !cfg.AllowInsecure && !loopback(base.Hostname()) {
		return nil, errors.New("latchkey: the key would go in plain text over the network: use https, or set AllowInsecure")
	}
	if !isHeaderValue(cfg.Key) {
		return nil, errors.New("latchkey: there is no key, or a malformed one")
	}
	if cfg.Customer != "" && !isHeaderValue(cfg.Customer) {
		return nil, errors.New("latchkey: the customer is malformed")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	c := &Client{base: base, timeout: cfg.Timeout, http: &http.Client{}, pause: pause}
	if cfg.HTTPClient != nil {
		*c.http = *cfg.HTTPClient
	} else {
		c.http.Transport = transport(socket)
	}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.sign = func(req *http.Request) {
		req.Header.Set("Authorization", "Bearer "+cfg.Key)
		if cfg.Customer != "" {
			req.Header.Set("X-Customer-ID", cfg.Customer)
		}
	}
	c.scrub = func(text []byte) []byte { return bytes.ReplaceAll(text, []byte(cfg.Key), []byte("[redacted]")) }
	return c, nil
}

func isHeaderValue(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' })
}

func parseURL(text string) (base *url.URL, socket string, err error) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		if !filepath.IsAbs(path) {
			return nil, "", errors.New("latchkey: want unix:/PATH")
		}
		return &url.URL{Scheme: "http", Host: "localhost"}, path, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, "", errors.New("latchkey: want a URL like http://HOST, https://HOST or unix:/PATH, without a user or a query") // not the URL: it may hold a secret
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimRight(u.Path, "/")}, "", nil
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

func transport(socket string) *http.Transport {
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}
	t := &http.Transport{
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    5 * time.Second,
		DisableCompression:     true, // replies are bounded as they come
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    256,
		IdleConnTimeout:        50 * time.Second, // less than the server's
		MaxResponseHeaderBytes: 64 << 10,
	}
	if socket != "" {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		}
	}
	return t
}

// Close closes connections that nobody uses.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// repeats says after which failures a call is made again.
type repeats uint8

const (
	// whenUndone is when the server has surely done nothing: it was not reached, or
	// says so itself.
	whenUndone repeats = iota
	// always is for calls that change nothing: also when a connection breaks.
	always
)

// attempts is how often a call is made at most.
const attempts = 3

// post sends in as JSON, and reads the reply, a 200, into out.
func (c *Client) post(ctx context.Context, path string, in, out any, again repeats, wait time.Duration) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("latchkey: %s: %w", path, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout+wait)
	defer cancel()
	for attempt := 1; ; attempt++ {
		text, err := c.once(ctx, path, body)
		if err == nil {
			if err := json.Unmarshal(text, out); err != nil {
				return fmt.Errorf("latchkey: %s: the reply is not what latchkey answers: %w", path, err)
			}
			return nil
		}
		if attempt == attempts || !repeatable(err, again) || c.pause(ctx, backoff(err, attempt)) != nil {
			return err
		}
	}
}

func (c *Client) once(ctx context.Context, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.JoinPath(path).String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("latchkey: %s: %w", path, err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, application/problem+json")
	req.Header.Set("User-Agent", "latchkey-go")
	c.sign(req)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	switch {
	case err != nil:
		return nil, c.unreachable(path, err)
	case len(text) > maxReply:
		return nil, fmt.Errorf("latchkey: %s: the reply is over %d bytes", path, maxReply)
	case resp.StatusCode != http.StatusOK:
		return nil, problem(resp, c.scrub(text))
	}
	return text, nil
}

// unreachable is that nothing was answered, without the address, which url.Error
// repeats, and without the key, which a transport of the caller's may.
func (c *Client) unreachable(path string, err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if text := err.Error(); string(c.scrub([]byte(text))) != text {
		err = errors.New(string(c.scrub([]byte(text))))
	}
	return &Unreachable{Path: path, cause: err}
}

// Unreachable is that no answer came: latchkey may have done what it was asked
// for, or not.
type Unreachable struct {
	Path  string // of the API
	cause error
}

func (e *Unreachable) Error() string {
	return "latchkey: " + e.Path + ": no answer: " + e.cause.Error()
}

// Unwrap is the cause: context.DeadlineExceeded, say.
func (e *Unreachable) Unwrap() error { return e.cause }

func repeatable(err error, again repeats) bool {
	if p, ok := errors.AsType[*Problem](err); ok {
		// Where the code is missing whoever stands between may have answered, after
		// latchkey had done it.
		return (p.Status == http.StatusTooManyRequests || p.Status == http.StatusServiceUnavailable) && (p.Code != "" || again == always)
	}
	if _, ok := errors.AsType[*Unreachable](err); !ok {
		return false
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return true
	}
	return again == always
}

// backoff is how long to wait after the n-th failure: as long as the server says,
// at most 2 s, and a random part more, so that not all come again at once.
func backoff(err error, n int) time.Duration {
	wait := 50 * time.Millisecond << n
	if p, ok := errors.AsType[*Problem](err); ok && p.RetryAfter > 0 {
		wait = min(p.RetryAfter, 2*time.Second)
	}
	return wait + rand.N(wait/2)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Problem is a refusal: a problem document (RFC 9457), or what could be read of
// another reply that is no success.
type Problem struct {
	Status int `json:"status"` // of HTTP
	// Code is for programs: "scope_missing", "unknown_petitioner". It is empty where
	// somebody else than latchkey answered.
	Code      string  `json:"code"`
	Detail    string  `json:"detail"` // for people
	RequestID string  `json:"request_id"`
	Errors    []Fault `json:"errors"`
	// RetryAfter is how long to wait before the next try, 0 where the server does
	// not say.
	RetryAfter time.Duration `json:"-"`
}

// Fault is one thing wrong with a request. Pointer is a JSON pointer (RFC 6901)
// into its body.
type Fault struct {
	Pointer string `json:"pointer"`
	Code    string `json:"code"`
	Detail  string `json:"detail"`
}

func (p *Problem) Error() string {
	b := "latchkey: " + strconv.Itoa(p.Status)
	if p.Code == "" {
		return b + " " + http.StatusText(p.Status)
	}
	b += " " + p.Code + ": " + p.Detail
	if p.RequestID != "" {
		b += " (request " + p.RequestID + ")"
	}
	return b
}

func problem(resp *http.Response, text []byte) *Problem {
	p := &Problem{}
	if json.Unmarshal(text, p) != nil || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") {
		*p = Problem{}
	}
	p.Status = resp.StatusCode
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 && n <= 3600 {
		p.RetryAfter = time.Duration(n) * time.Second
	}
	return p
}
