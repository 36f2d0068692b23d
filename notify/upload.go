package notify

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// UploadConfig are the settings of an upload.
type UploadConfig struct {
	// URL is where events are POSTed to, http or https.
	URL string
	// Token, when set, returns the bearer token; it is asked for each upload, so
	// that a token may be renewed.
	Token func() (string, error)
	// Chunk is the most bytes of one upload after compression, but for a single
	// event that is larger. Default 32 KiB.
	Chunk int
	// Timeout bounds one upload. Default 10 s.
	Timeout time.Duration
	// TLS is for tests with a certificate of their own; nil is the system's.
	TLS *tls.Config
}

// upload speaks OPA's decision log service API: JSON arrays of events,
// compressed with gzip.
type upload struct {
	UploadConfig
	client *http.Client
	ratio  int // of text to compressed text, as the last upload had it
}

// NewUploadSink makes a sink that uploads events. It connects only when there
// is something to send.
func NewUploadSink(cfg UploadConfig) (Sink, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("want an http or https URL, without a user or a fragment")
	}
	if cfg.Chunk == 0 {
		cfg.Chunk = 32 << 10
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.TLS == nil {
		cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return &upload{UploadConfig: cfg, ratio: 4, client: &http.Client{
		// A redirect would take decisions, and the token, where nobody said.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: cfg.TLS, ForceAttemptHTTP2: true,
			MaxIdleConnsPerHost: 1, IdleConnTimeout: 90 * time.Second,
		},
	}}, nil
}

// Send implements Sink. It makes one upload that the target takes, or finds out
// that it never will.
func (u *upload) Send(ctx context.Context, events [][]byte) (delivered, rejected int, err error) {
	n := len(events)
	for {
		var body []byte
		if body, n, err = u.pack(events[:n]); err != nil {
			return 0, 0, err
		}
		status, err := u.post(ctx, body)
		switch {
		case err != nil:
			return 0, 0, err
		case status >= 200 && status < 300:
			return n, 0, nil
		case status == http.StatusBadRequest, status == http.StatusRequestEntityTooLarge, status == http.StatusUnsupportedMediaType, status == http.StatusUnprocessableEntity:
			// It will not take these bytes however often they come. One event may
			// spoil the others, or they are too many.
			if n == 1 {
				return 0, 1, nil
			}
			n /= 2
		default:
			return 0, 0, fmt.Errorf("upload decisions: the target answered %d", status)
		}
	}
}

// pack compresses as many of the events as fit, at least one.
func (u *upload) pack(events [][]byte) (body []byte, n int, err error) {
	size := 0
	for n < len(events) && (n == 0 || size+len(events[n]) <= u.Chunk*u.ratio) {
		size += len(events[n])
		n++
	}
	for {
		if body, err = compress(events[:n]); err != nil {
			return nil, 0, err
		}
		if len(body) <= u.Chunk || n == 1 {
			size = 0
			for _, e := range events[:n] {
				size += len(e)
			}
			u.ratio = min(max(size/len(body), 1), 32)
			return body, n, nil
		}
		n /= 2
	}
}

func compress(events [][]byte) ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	between := byte('[')
	for _, e := range events {
		if _, err := z.Write([]byte{between}); err != nil {
			return nil, err
		}
		if _, err := z.Write(e); err != nil {
			return nil, err
		}
		between = ','
	}
	if _, err := z.Write([]byte{']'}); err != nil {
		return nil, err
	}
	err := z.Close()
	return out.Bytes(), err
}

func (u *upload) post(ctx context.Context, body []byte) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, u.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.URL, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Content-Encoding", "gzip")
	req.Header.Set("User-Agent", "latchkey")
	if u.Token != nil {
		token, err := u.Token()
		if err != nil {
			return 0, fmt.Errorf("the token of the decision log: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := u.client.Do(req)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		err = failed.Err // without the URL, whose query may be meant for the target alone
	}
	if err != nil {
		return 0, fmt.Errorf("upload decisions: %w", err)
	}
	// A short reply is read so that the connection can be used again.
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	return resp.StatusCode, resp.Body.Close()
}

// Close implements Sink.
func (u *upload) Close() error {
	u.client.CloseIdleConnections()
	return nil
}
