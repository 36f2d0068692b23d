package server_test

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/latchkey-dev/latchkey/forward"
	"github.com/latchkey-dev/latchkey/server/extauthz"
)

// envoyClient asks over gRPC as Envoy does.
type envoyClient struct {
	*front
	envoy authv3.AuthorizationClient
}

func startEnvoy(t *testing.T) *envoyClient {
	t.Helper()
	f := startForward(t)
	return &envoyClient{f, dialEnvoy(t, f.server)}
}

func dialEnvoy(t *testing.T, d extauthz.Decider) authv3.AuthorizationClient {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := extauthz.New(extauthz.Config{Decider: d, ConnectTimeout: 10 * time.Second, IdleTimeout: time.Minute})
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	conn, err := grpc.NewClient("passthrough:///"+ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shut down: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return authv3.NewAuthorizationClient(conn)
}

// httpRequest is a check as Envoy makes one.
func httpRequest(method, host, path string, headers map[string]string) *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: "203.0.113.9", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 40000}}}}},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Id: "1234567890", Method: method, Scheme: "https", Host: host, Path: path, Protocol: "HTTP/2", Headers: headers,
		}},
	}}
}

func (e *envoyClient) check(req *authv3.CheckRequest, callers ...string) *authv3.CheckResponse {
	e.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, c := range callers {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-latchkey-caller", c)
	}
	resp, err := e.envoy.Check(ctx, req)
	if err != nil {
		e.Fatalf("%v: %v", req, err)
	}
	if e.leaks(resp.String()) {
		e.Errorf("the answer shows a secret: %v", resp)
	}
	return resp
}

func headersSet(t testing.TB, list []*corev3.HeaderValueOption) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, o := range list {
		if o.AppendAction != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD || !o.KeepEmptyValue {
			t.Errorf("%v does not write over a client's", o)
		}
		if _, twice := m[o.Header.Key]; twice {
			t.Errorf("%s stands twice", o.Header.Key)
		}
		m[o.Header.Key] = o.Header.Value
	}
	return m
}

func (e *envoyClient) allowed(resp *authv3.CheckResponse) {
	e.Helper()
	ok := resp.GetOkResponse()
	if ok == nil || resp.Status.Code != int32(grpccodes.OK) {
		e.Errorf("denied: %v", resp)
		return
	}
	h := headersSet(e, ok.Headers)
	if h["x-latchkey-subject"] != e.client.id || h["x-latchkey-customer"] != "default" || h["x-latchkey-key-id"] != e.client.id ||
		!strings.HasPrefix(h["x-latchkey-decision-id"], "dec_") || h["x-latchkey-action"] != "allow" || len(h) != 6 {
		e.Errorf("headers %v", h)
	}
	if strings.Join(ok.HeadersToRemove, " ") != "x-latchkey-caller" {
		e.Errorf("removes %v", ok.HeadersToRemove)
	}
}

func (e *envoyClient) denied(resp *authv3.CheckResponse, want int, code string) {
	e.Helper()
	d := resp.GetDeniedResponse()
	if d == nil || resp.Status.Code == int32(grpccodes.OK) || int(d.Status.Code) != want || !strings.Contains(d.Body, `"code":"`+code+`"`) {
		e.Errorf("want %d %s: %v", want, code, resp)
		return
	}
	h := headersSet(e, d.Headers)
	if h["content-type"] != "application/problem+json" || h["cache-control"] != "no-store" || h["www-authenticate"] == "" || h["x-latchkey-reason"] != code || h["x-latchkey-action"] == "allow" {
		e.Errorf("headers %v", h)
	}
	for _, name := range []string{"subject", "customer", "key-id", "decision-id"} {
		if _, there := h["x-latchkey-"+name]; !there {
			e.Errorf("no x-latchkey-%s", name)
		}
	}
}

func TestForward_GRPC(t *testing.T) {
	t.Parallel()
	e := startEnvoy(t)
	proxy, bearer := e.proxy.secret, "Bearer "+e.client.secret
	auth := map[string]string{"authorization": bearer}
	ask := func(method, host, path string, headers map[string]string) *authv3.CheckResponse {
		e.Helper()
		return e.check(httpRequest(method, host, path, headers), proxy)
	}
	expired := e.create(forwardKeyScopes, `"expires_at":"`+e.clock.in(time.Second)+`"`)
	e.customer("acme")
	foreign := e.createFor("acme", forwardKeyScopes)
	e.clock.advance(time.Second)

	e.allowed(ask("GET", "api.example.com", "/orders/1?full=1", auth))
	e.allowed(ask("LOCK", "api", "/orders/7/lock", auth))
	e.denied(ask("DELETE", "api", "/orders/7", auth), 403, "scope_missing")
	e.denied(ask("GET", "OTHER.example.com:443", "/orders/7", auth), 403, "scope_missing")
	e.denied(ask("GET", "api", "/nowhere", auth), 403, "no_route")
	e.denied(ask("OPTIONS", "api", "/orders/7", auth), 403, "no_route")
	for _, path := range []string{"/public/../admin/x", "/public/%2e%2e/admin/x", "/public%2fx", "/public//x", "/public/%252e", "/public/%ff", "/public/;x", "/public/a#b", "", "x", "*", "http://api/public/x"} {
		e.denied(ask("GET", "api", path, auth), 403, "ambiguous_path")
	}
	for _, host := range []string{"", "a b", "u@api"} {
		e.denied(ask("GET", host, "/public/x", auth), 403, "invalid_original")
	}
	e.denied(ask("", "api", "/public/x", auth), 403, "invalid_original")
	e.denied(ask("GET", "api", "/public/x?k="+e.client.secret, auth), 403, "credential_in_query")

	// The client's credential.
	e.denied(ask("GET", "api", "/orders/1", nil), 401, "invalid_credential")
	e.denied(ask("GET", "api", "/orders/1", map[string]string{"authorization": "Bearer x"}), 401, "invalid_credential")
	e.denied(ask("GET", "api", "/orders/1", map[string]string{"authorization": bearer + "," + bearer}), 401, "invalid_credential") // Envoy joins two of a header
	e.denied(ask("GET", "api", "/orders/1", map[string]string{"authorization": "Bearer " + expired.secret}), 401, "key_expired")
	e.denied(ask("GET", "api", "/orders/1", map[string]string{"authorization": "Bearer " + foreign.secret}), 401, "invalid_credential")
	e.denied(ask("GET", "api", "/orders/1", map[string]string{"authorization": "Bearer " + e.root}), 403, "subject_not_allowed")

	// The proxy's: as metadata of the call, never from the request.
	req := httpRequest("GET", "api", "/orders/1", auth)
	e.denied(e.check(req), 401, "caller_required")
	e.denied(e.check(req, "x"), 401, "invalid_caller")
	e.denied(e.check(req, proxy, proxy), 401, "invalid_caller")
	e.denied(e.check(req, e.client.secret), 403, "caller_not_permitted")
	e.denied(e.check(httpRequest("GET", "api", "/orders/1", map[string]string{"authorization": bearer, "x-latchkey-caller": proxy})), 401, "caller_required")

	// Headers of the request that other dialects read say nothing here.
	more := map[string]string{"authorization": bearer, "x-customer-id": "acme", "x-latchkey-subject": "admin", "x-latchkey-caller": "x"}
	for i := 0; i < len(headersOf); i += 2 {
		more[strings.ToLower(headersOf[i])] = headersOf[i+1]
		more[strings.ReplaceAll(headersOf[i], "-", "_")] = headersOf[i+1]
	}
	e.denied(ask("GET", "api", "/admin/x", more), 403, "scope_missing")
	e.allowed(ask("GET", "api", "/public/x", more))

	// encode_raw_headers sends a list instead of a map.
	raw := func(values ...string) *authv3.CheckRequest {
		req := httpRequest("GET", "api", "/orders/1", nil)
		list := &corev3.HeaderMap{}
		for _, v := range values {
			list.Headers = append(list.Headers, &corev3.HeaderValue{Key: "authorization", RawValue: []byte(v)})
		}
		req.Attributes.Request.Http.HeaderMap = list
		return req
	}
	e.allowed(e.check(raw(bearer), proxy))
	e.denied(e.check(raw(bearer, bearer), proxy), 401, "invalid_credential")
	both := raw(bearer)
	both.Attributes.Request.Http.Headers = auth
	e.denied(e.check(both, proxy), 401, "invalid_credential")

	for _, empty := range []*authv3.CheckRequest{{}, {Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{}}}} {
		e.denied(e.check(empty, proxy), 401, "invalid_credential")
	}
	if got := e.metrics(); !strings.Contains(got, `latchkey_forward_answers_total{dialect="grpc",status="200"}`) {
		t.Error("the answers are not counted")
	}
}

func TestForward_GRPC_RefusesWhatIsTooLarge(t *testing.T) {
	t.Parallel()
	e := startEnvoy(t)
	req := httpRequest("GET", "api", "/orders/1", map[string]string{"authorization": "Bearer " + e.client.secret})
	req.Attributes.Request.Http.RawBody = bytes.Repeat([]byte("a"), 1<<20)
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "x-latchkey-caller", e.proxy.secret), 30*time.Second)
	defer cancel()
	if _, err := e.envoy.Check(ctx, req); status.Code(err) != grpccodes.ResourceExhausted {
		t.Errorf("err = %v", err)
	}
}

// cannotAnswer cannot answer.
type cannotAnswer struct{}

func (cannotAnswer) Forward(*forward.Check) forward.Answer { return forward.Answer{Status: 500} }

// Only latchkey's own failure is an error of gRPC, for which Envoy has its own
// settings.
func TestForward_GRPC_TellsAFailureFromADenial(t *testing.T) {
	t.Parallel()
	client := dialEnvoy(t, cannotAnswer{})
	if resp, err := client.Check(context.Background(), httpRequest("GET", "api", "/", nil)); status.Code(err) != grpccodes.Internal {
		t.Errorf("%v, %v", resp, err)
	}
}
