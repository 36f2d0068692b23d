package bundle

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey"
)

// longPollType is the content type by which a server says that it can wait.
const longPollType = "application/vnd.openpolicyagent.bundles"

// fetched is what a source answered.
type fetched struct {
	raw         []byte // nil where there is nothing new
	notModified bool   // 304; otherwise without raw, an empty 200
	etag        string
	longPoll    bool
}

// source gets bundles. etag is that of the bundle in force, wait how long the
// server may hold the answer back.
type source interface {
	fetch(ctx context.Context, etag string, wait time.Duration) (fetched, error)
	String() string
}

// fileSource reads a bundle from the disk.
type fileSource struct {
	path  string
	limit int64
}

func (f *fileSource) String() string { return f.path }

func (f *fileSource) fetch(_ context.Context, etag string, _ time.Duration) (fetched, error) {
	raw, err := readFile(f.path, f.limit)
	if err != nil {
		return fetched{}, err
	}
	if tag := ETag(raw); tag != etag {
		return fetched{raw: raw, etag: tag}, nil
	}
	return fetched{notModified: true, etag: etag}, nil
}

func readFile(path string, limit int64) ([]byte, error) {
	fail := func(err error) error {
		return latchkey.Errorf(latchkey.Unavailable, CodeRequestFailed, "the file cannot be read").Because(err)
	}
	info, err := os.Stat(path) // a pipe would be waited for
	if err != nil {
		return nil, fail(err)
	}
	if !info.Mode().IsRegular() {
		return nil, fail(errors.New("not a regular file"))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fail(err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fail(err)
	}
	if int64(len(raw)) > limit {
		return nil, refuse(CodeTooBig, "the bundle is larger than %d bytes", limit)
	}
	return raw, nil
}

// httpSource asks an OPA bundle server.
type httpSource struct {
	url    *url.URL
	client *http.Client
	token  func() (string, error)
	limit  int64
	// header and idle bound how long the server may be silent, total a whole
	// answer once it has begun.
	header, idle, total time.Duration
}

func (h *httpSource) String() string { return shownURL(h.url) }

// shownURL leaves out what may be secret.
func shownURL(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

func newHTTPSource(u *url.URL, cfg *Config) *httpSource {
	dial := cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	}
	secure := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.RootCAs}
	if own := cfg.Certificate; own != nil {
		secure.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own() }
	}
	transport := &http.Transport{
		Proxy:                  nil, // the environment has no say
		DialContext:            dial,
		TLSClientConfig:        secure,
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // a bundle is compressed, and its size is counted as it comes
		MaxIdleConnsPerHost:    1,
		MaxConnsPerHost:        2,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > 3 || req.URL.Scheme != u.Scheme || req.URL.Host != u.Host {
			return errRedirect
		}
		return nil
	}}
	return &httpSource{url: u, client: client, token: cfg.Token, limit: cfg.Limits.Size, header: cfg.IdleTimeout, idle: cfg.IdleTimeout, total: cfg.Timeout}
}

var errRedirect = errors.New("redirect to another host, or one too many")

func (h *httpSource) close() { h.client.CloseIdleConnections() }

func (h *httpSource) fetch(ctx context.Context, etag string, wait time.Duration) (got fetched, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// One timer watches over silence, one over the whole: each ends the request.
	silence := time.AfterFunc(h.header+wait, func() { cancel(errSilent) })
	defer silence.Stop()
	fail := func(err error) error {
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, errSilent) || errors.Is(cause, errSlow):
			return latchkey.Errorf(latchkey.Unavailable, CodeTimeout, "%s", cause.Error()).Because(err)
		case errors.Is(err, errRedirect):
			return latchkey.Errorf(latchkey.Unavailable, CodeRedirectRefused, "the server redirects to another host")
		}
		return latchkey.Errorf(latchkey.Unavailable, CodeRequestFailed, "the request failed").Because(scrub(err))
	}
	req, err := h.request(ctx, etag, wait)
	if err != nil {
		return fetched{}, err
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return fetched{}, fail(err)
	}
	defer resp.Body.Close()
	got.longPoll = isLongPoll(resp.Header)
	switch {
	case resp.StatusCode == http.StatusNotModified && etag != "":
		return fetched{notModified: true, etag: etag, longPoll: wait > 0 || got.longPoll}, nil
	case resp.StatusCode != http.StatusOK:
		return fetched{}, latchkey.Errorf(latchkey.Unavailable, CodeUnexpectedStatus, "the server answered with status %d", resp.StatusCode)
	case resp.ContentLength > h.limit:
		return fetched{}, refuse(CodeTooBig, "the bundle is larger than %d bytes", h.limit)
	}
	slow := time.AfterFunc(h.total, func() { cancel(errSlow) })
	defer slow.Stop()
	silence.Reset(h.idle)
	got.raw, err = readBounded(&watched{r: resp.Body, timer: silence, idle: h.idle}, h.limit)
	switch {
	case errors.Is(err, errBound):
		return fetched{}, refuse(CodeTooBig, "the bundle is larger than %d bytes", h.limit)
	case err != nil:
		return fetched{}, fail(err)
	case len(got.raw) == 0:
		return fetched{etag: etag, longPoll: got.longPoll}, nil
	}
	got.etag = resp.Header.Get("ETag")
	return got, nil
}

var (
	errSilent = errors.New("the server stopped sending")
	errSlow   = errors.New("the server sends too slowly")
)

func (h *httpSource) request(ctx context.Context, etag string, wait time.Duration) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url.String(), http.NoBody)
	if err != nil {
		return nil, latchkey.Errorf(latchkey.Unavailable, CodeRequestFailed, "the request could not be made")
	}
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	prefer := "modes=snapshot"
	if wait > 0 {
		prefer += ";wait=" + strconv.FormatInt(int64(wait/time.Second), 10)
	}
	req.Header.Set("Prefer", prefer)
	req.Header.Set("Accept", longPollType+", application/gzip, application/octet-stream")
	req.Header.Set("User-Agent", "latchkey")
	if h.token != nil {
		token, err := h.token() // anew each time: files are rotated
		if err != nil || token == "" {
			return nil, latchkey.Errorf(latchkey.Unavailable, CodeCredential, "the bearer token cannot be read").Because(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req, nil
}

// scrub keeps a URL, which may hold a secret, out of the log.
func scrub(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

func isLongPoll(h http.Header) bool {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && t == longPollType
}

// watched pushes the timer back whenever something comes.
type watched struct {
	r     io.Reader
	timer *time.Timer
	idle  time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.timer.Reset(w.idle)
	}
	return n, err
}

func readBounded(r io.Reader, limit int64) ([]byte, error) {
	var b bytes.Buffer
	_, err := b.ReadFrom(&boundedReader{r: r, left: limit})
	return b.Bytes(), err
}

// sourceOf reads a source: http, https, or a file by its path or file URL.
func sourceOf(cfg *Config) (source, error) {
	if !strings.Contains(cfg.Source, "://") {
		return &fileSource{path: cfg.Source, limit: cfg.Limits.Size}, nil
	}
	u, err := url.Parse(cfg.Source)
	if err != nil {
		return nil, errors.New("the bundle's source is no URL") // err would show it
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			return nil, errors.New("a file URL is file:///path")
		}
		return &fileSource{path: u.Path, limit: cfg.Limits.Size}, nil
	case "http", "https":
		if u.Host == "" || u.User != nil || u.Fragment != "" {
			return nil, errors.New("the bundle's URL needs a host, and holds no user and no fragment")
		}
		if u.Scheme == "http" && cfg.Token != nil && !cfg.AllowInsecure && !loopback(u.Hostname()) {
			return nil, errors.New("a bearer token is sent by https only")
		}
		return newHTTPSource(u, cfg), nil
	}
	return nil, fmt.Errorf("bundles come by http, https or from a file, not by %q", u.Scheme)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// TokenFile reads a bearer token from a file at each request.
func TokenFile(path string) func() (string, error) {
	return func() (string, error) {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		token := strings.TrimSpace(string(text))
		if strings.ContainsAny(token, "\r\n") {
			return "", errors.New("the token's file holds more than one line")
		}
		return token, nil
	}
}

// LoadRootCAs reads the certificates that a bundle server's may be signed by,
// in place of the system's.
func LoadRootCAs(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New("the file holds no certificate")
	}
	return pool, nil
}
