package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/latchkey-dev/latchkey"
)

// passWait bounds the whole of a request that is passed on, but for a reply that
// keeps coming: longer than the control plane lets anybody wait.
const passWait = 80 * time.Second

// passRoute takes everything that a sidecar does not answer itself. Whoever asks
// is the control plane's to tell: nothing is looked up here.
func (s *Server) passRoute() {
	s.mount(s.app, &route{method: anyMethod, path: "/*", action: "sidecar.pass", open: true, handle: s.pass})
}

// dropped are the header fields that are about one connection (RFC 9110, 7.6.1),
// and those that the next one's client sets itself.
var dropped = []string{
	"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"Expect", "Host", "Content-Length", "X-Forwarded-For", "X-Request-Id",
}

// pass hands a request on with the caller's own credential, and the reply back
// as it comes.
func (s *Server) pass(r *request) error {
	in := r.c.Request()
	method := string(in.Header.Method())
	if method == http.MethodConnect || method == http.MethodTrace {
		return latchkey.Errorf(latchkey.MethodNotAllowed, "method_not_allowed", "this path does not answer to that method")
	}
	path, query := string(in.URI().PathOriginal()), string(in.URI().QueryString())
	// Two slashes would read as a host's name in an absolute URL.
	if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || !plainTarget(path) || !plainTarget(query) || climbs(path) {
		return latchkey.Errorf(latchkey.NotFound, "route_not_found", "there is nothing at this path")
	}
	header, ok := r.passedHeader(&in.Header)
	if !ok {
		return latchkey.Errorf(latchkey.Invalid, "malformed_request", "the request is not well-formed HTTP")
	}
	// It outlives the handler where the reply is a stream; body and all.
	ctx, cancel := context.WithCancel(context.Background())
	timer := time.AfterFunc(passWait, cancel)
	body := bytes.Clone(in.Body())
	out := (&http.Request{
		Method: method, URL: &url.URL{Opaque: path, RawQuery: query}, Header: header, ContentLength: int64(len(body)),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	if len(body) > 0 {
		out.Body = io.NopCloser(bytes.NewReader(body))
	}
	resp, err := s.cfg.Upstream.RoundTrip(out) //nolint:bodyclose // passBack closes it once all has been passed on
	timer.Stop()
	if err != nil {
		cancel()
		return latchkey.Errorf(latchkey.Unavailable, "control_plane_unreachable", "the control plane cannot be reached").Because(err)
	}
	r.passBack(resp, cancel)
	return nil
}

// plainTarget reports whether a part of a request target has only what may stand
// in one.
func plainTarget(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return false
		}
	}
	return true
}

// climbs reports whether a path leads above where it begins, for whoever it is
// that decodes it and takes out its dots: the control plane may lie under a path
// of a host with others beside it, which are nothing to the sidecar's clients.
func climbs(path string) bool {
	decoded, err := url.PathUnescape(path)
	if err != nil {
		return true // who knows
	}
	depth := 0
	for segment := range strings.FieldsFuncSeq(decoded, func(c rune) bool { return c == '/' || c == '\\' }) {
		segment, _, _ = strings.Cut(segment, ";") // parameters, to some
		switch segment {
		case "..":
			if depth--; depth < 0 {
				return true
			}
		case ".":
		default:
			depth++
		}
	}
	return false
}

// passedHeader is the request's header as it is passed on: what is about the
// connection stays here, and the peer is added to X-Forwarded-For. It is false
// where a name has a blank in it, which the reader here lets pass.
func (r *request) passedHeader(in *fasthttp.RequestHeader) (http.Header, bool) {
	header := http.Header{}
	var named []string // by Connection
	for _, line := range in.PeekAll(fiber.HeaderConnection) {
		for name := range strings.SplitSeq(string(line), ",") {
			named = append(named, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	for name, value := range in.All() {
		if bytes.ContainsAny(name, " \t") {
			return nil, false
		}
		key := http.CanonicalHeaderKey(string(name))
		if slices.Contains(dropped, key) || slices.Contains(named, key) {
			continue
		}
		header[key] = append(header[key], string(value))
	}
	// Without an address of the peer there is still a hop: who counts hops from the
	// right must not come upon what the client wrote.
	hop := "unknown"
	if peer := r.peer(); peer.IsValid() {
		hop = peer.WithZone("").String()
	}
	var hops []string
	for _, line := range in.PeekAll(fiber.HeaderXForwardedFor) {
		hops = append(hops, string(line))
	}
	header.Set(fiber.HeaderXForwardedFor, strings.Join(append(hops, hop), ", "))
	header.Set("X-Request-Id", r.id)
	if len(header["User-Agent"]) == 0 {
		header["User-Agent"] = []string{""} // none, rather than this program's
	}
	return header, true
}

// passBack makes the control plane's reply the request's own. Its body is read
// as it is sent.
func (r *request) passBack(resp *http.Response, cancel context.CancelFunc) {
	out := r.c.Response()
	out.SetStatusCode(resp.StatusCode)
	var named []string
	for _, line := range resp.Header["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			named = append(named, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	for name, values := range resp.Header {
		if slices.Contains(dropped, name) || slices.Contains(named, name) || name == "Date" {
			continue
		}
		for _, v := range values {
			out.Header.Add(name, v)
		}
	}
	if resp.Header.Get("Content-Type") == "" {
		out.Header.SetNoDefaultContentType(true)
	}
	if r.c.Method() == http.MethodHead {
		out.SkipBody = true
	}
	length := int(resp.ContentLength)
	if resp.ContentLength < 0 {
		length = -1 // to its end
	}
	out.SetBodyStream(&passedBody{resp.Body, cancel}, length)
}

// passedBody ends the request with its reply.
type passedBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (b *passedBody) Close() error {
	b.cancel()
	err := b.ReadCloser.Close()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
