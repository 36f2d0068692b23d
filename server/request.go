package server

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// request is one request on its way, taken from a pool: nothing of it may
// outlive the handler. Body and everything parsed from it are one copy of what
// the connection's buffer held; on decision routes that copy is written over by
// the next request.
type request struct {
	s      *Server
	c      *fiber.Ctx
	route  *route
	start  time.Time
	now    latchkey.Instant
	id     string
	head   head
	caller authz.Caller
	ended  []byte // the credential, where it was right but holds no more
	claim  string // handle of the claim code that a stranger presents
	body   string
	buffer []byte // of the body, on decision routes
	doc    strictjson.Doc

	question authz.Request
	decision authz.Decision
	out      []byte
	record   []byte // of the decision log
}

// keptBody is how large a body may be whose buffers serve the next request.
const keptBody = 1 << 20

func (r *request) reset() {
	if len(r.body) > keptBody { // the tape of a large set is not kept for everybody else
		r.doc = strictjson.Doc{}
	}
	r.c, r.route, r.caller, r.body, r.id, r.claim = nil, nil, authz.Caller{}, "", "", ""
	r.question, r.head, r.ended = authz.Request{}, head{}, nil
	r.decision.Reset()
	r.out = r.out[:0]
	if cap(r.out) > keptBuffer { // a bulk call's
		r.out, r.doc = nil, strictjson.Doc{}
	}
}

// keptBuffer is up to which size a request's buffers serve the next one.
const keptBuffer = 2 << 20

// head is what every request may bring in its header, found in one pass. The
// values are views of the connection's buffer.
type head struct {
	authorization, customer, requestID, encoding []byte
	authorizations, customers                    int
}

// readHead looks at each header once: looking each one up costs more than
// everything that is then done with it. Names come in their canonical form.
func (r *request) readHead() {
	for name, value := range r.c.Request().Header.All() {
		switch string(name) {
		case fiber.HeaderAuthorization:
			r.head.authorization = value
			r.head.authorizations++
		case "X-Customer-Id":
			r.head.customer = value
			r.head.customers++
		case "X-Request-Id":
			r.head.requestID = value
		case fiber.HeaderContentEncoding:
			r.head.encoding = value
		}
	}
}

// flush copies r.out into the reply. It must be a copy: the reply is written to
// the connection when the handler has returned and r serves another request.
// (Fiber's own Send keeps the slice.)
func (r *request) flush(status int, contentType string) {
	resp := r.c.Response()
	resp.SetStatusCode(status)
	resp.Header.SetContentType(contentType)
	resp.SetBody(r.out)
}

// context returns one that ends with the route's deadline. Decisions, which
// wait for nothing, do without.
func (r *request) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), r.route.deadline)
}

func (r *request) call() authz.Call { return authz.Call{Caller: r.caller, Now: r.now} }

// header returns the one value of a header, "" when it is absent. Two of them
// are a fault.
func (r *request) header(name string) (string, error) {
	all := r.c.Request().Header.PeekAll(name)
	switch len(all) {
	case 0:
		return "", nil
	case 1:
		return string(all[0]), nil
	}
	return "", errTwice(name)
}

func errTwice(header string) error {
	return latchkey.InvalidFaults(latchkey.Fault{Pointer: "header:" + header, Code: "duplicate_header", Detail: "the header may stand once"})
}

// identify takes the client's X-Request-ID where it is well-formed, and makes
// one where it is not, or where it has the shape of a credential.
func (r *request) identify() { r.id = requestID(r.head.requestID) }

func requestID(given []byte) string {
	if validRequestID(given) {
		if id := string(given); !authz.ContainsToken(id) {
			return id
		}
	}
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(b[8:], rand.Uint64())
	var text [2 * len(b)]byte
	hex.Encode(text[:], b[:])
	return string(text[:])
}

func validRequestID(id []byte) bool {
	if len(id) == 0 || len(id) > 128 {
		return false
	}
	for _, c := range id {
		if c <= ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// source is the address that the request came from: the peer's, or behind n
// trusted proxies the n-th from the right of X-Forwarded-For.
func (r *request) source() netip.Addr {
	if n := r.s.cfg.TrustedProxies; n > 0 {
		var hops []string
		for _, h := range r.c.Request().Header.PeekAll(fiber.HeaderXForwardedFor) {
			hops = append(hops, strings.Split(string(h), ",")...)
		}
		if len(hops) >= n {
			if addr, err := netip.ParseAddr(strings.TrimSpace(hops[len(hops)-n])); err == nil {
				return addr.Unmap().WithZone("")
			}
		}
	}
	return r.peer()
}

// peer is the address that the connection comes from.
func (r *request) peer() netip.Addr {
	if tcp, ok := r.c.Context().RemoteAddr().(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// param decodes one path segment, once. The text is the caller's to keep.
func (r *request) param(name string) string { return strings.Clone(r.paramView(name)) }

// paramView is param as a view of the connection's buffer, for routes that keep
// nothing of their request.
func (r *request) paramView(name string) string {
	decoded, err := url.PathUnescape(r.c.Params(name))
	if err != nil {
		return ""
	}
	return decoded
}

// path is the request's path for logs and problem documents, with anything
// like a credential taken out, percent-encoded ones too.
func (r *request) path() string {
	path := strings.Clone(r.c.Path())
	if decoded, err := url.PathUnescape(path); err == nil && authz.ContainsToken(decoded) {
		path = decoded
	}
	return authz.Redact(path)
}

// query reads the query strictly: a name that is not allowed, or that stands
// twice, is a fault. A trailing dot allows a family ("metadata.").
type query struct {
	values map[string]string
	faults []latchkey.Fault
}

func (r *request) query(allowed ...string) *query {
	q := &query{values: map[string]string{}}
	parsed, err := url.ParseQuery(string(r.c.Context().URI().QueryString()))
	if err != nil {
		q.fault("", "invalid_query", "the query string is malformed")
	}
	for name, values := range parsed {
		known := false
		for _, a := range allowed {
			known = known || name == a && !strings.HasSuffix(a, ".") || strings.HasSuffix(a, ".") && strings.HasPrefix(name, a) && len(name) > len(a)
		}
		switch {
		case !known:
			q.fault(name, "unknown_parameter", unknownParameter(allowed))
		case len(values) != 1:
			q.fault(name, "duplicate_parameter", "the parameter may stand once")
		default:
			q.values[name] = values[0]
		}
	}
	return q
}

func unknownParameter(known []string) string {
	if len(known) == 0 {
		return "this path takes no query parameters"
	}
	names := slices.Clone(known)
	for i, name := range names {
		if strings.HasSuffix(name, ".") {
			names[i] += "NAME"
		}
	}
	return "unknown query parameter; known are " + strings.Join(names, ", ")
}

func (q *query) fault(name, code, detail string) {
	q.faults = append(q.faults, latchkey.Fault{Pointer: "query:" + name, Code: code, Detail: detail})
}

// number reads an integer between least and most.
func (q *query) number(name string, otherwise, least, most int) int {
	text, ok := q.values[name]
	if !ok {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		q.fault(name, "invalid_parameter", "want an integer from "+strconv.Itoa(least)+" to "+strconv.Itoa(most))
		return otherwise
	}
	return n
}

// oneOf reads one of the given words, the first when absent.
func (q *query) oneOf(name string, words ...string) string {
	text, ok := q.values[name]
	if !ok {
		return words[0]
	}
	for _, w := range words {
		if w == text {
			return text
		}
	}
	q.fault(name, "invalid_parameter", "want one of "+strings.TrimPrefix(strings.Join(words, ", "), ", "))
	return words[0]
}

// instant reads an RFC 3339 timestamp, 0 when absent.
func (q *query) instant(name string) latchkey.Instant {
	text, ok := q.values[name]
	if !ok {
		return 0
	}
	at, ok := latchkey.ParseInstant(text)
	if !ok {
		q.fault(name, "invalid_parameter", "want an RFC 3339 timestamp")
	}
	return at
}

// err is nil when nothing was wrong.
func (q *query) err() error {
	if len(q.faults) == 0 {
		return nil
	}
	return latchkey.InvalidFaults(q.faults...)
}
