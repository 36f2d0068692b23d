package forward

import "net/netip"

// Check is one question of a proxy: may the request that I hold pass?
type Check struct {
	// Dialect is how the proxy asks; see the constants.
	Dialect Dialect
	// Callers are the values of X-Latchkey-Caller, the proxy's own credential.
	Callers []string
	// Bound is the customer of a listener that is one customer's alone; then
	// Callers are not looked at.
	Bound string
	// RequestID is the client's X-Request-ID, "" for none.
	RequestID string

	// Authorization are the values of the original request's header.
	Authorization []string
	// Unreadable says why there is no original request to decide about; such a
	// check is denied.
	Unreadable string
	// Method, Scheme, Host and Target (path and query) are the original
	// request's, as its client sent them. Scheme is "" where the dialect does
	// not tell it.
	Method, Scheme, Host, Target string
	// Source is the address that the original request came from, Peer the
	// proxy's; the zero Addr where one is not known.
	Source, Peer netip.Addr
}

// Dialect is a way in which proxies ask.
type Dialect string

const (
	Nginx     Dialect = "nginx"     // auth_request
	Forwarded Dialect = "forwarded" // X-Forwarded-*: Traefik, Caddy, APISIX, HAProxy
	Envoy     Dialect = "envoy"     // ext_authz over HTTP
	GRPC      Dialect = "grpc"      // ext_authz over gRPC
)

// Answer is what a proxy is told. Its status is 200, 401 or 403; 500 where
// latchkey itself failed.
type Answer struct {
	Status int
	// Identity are the headers about the subject and the decision. All of them
	// are always there, empty where nothing is known, so that a proxy that
	// copies them writes over a client's.
	Identity [6]Header
	// Headers are the others; Body is that of a refusal, nil for none.
	Headers []Header
	Body    []byte
}

// Header is one header of an answer.
type Header struct{ Name, Value string }

// Names of headers of ours.
const (
	CallerHeader = "X-Latchkey-Caller"

	SubjectHeader    = "X-Latchkey-Subject"
	CustomerHeader   = "X-Latchkey-Customer"
	KeyIDHeader      = "X-Latchkey-Key-Id"
	DecisionIDHeader = "X-Latchkey-Decision-Id"
	ActionHeader     = "X-Latchkey-Action"
	ReasonHeader     = "X-Latchkey-Reason"
)
