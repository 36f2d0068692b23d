// Package extauthz answers Envoy's external authorization over gRPC: the
// service envoy.service.auth.v3.Authorization. It only translates; the decision
// is made where those over HTTP are.
//
// It stands on floor 2, beside package server, and is the only one to import
// gRPC and Envoy's types. It imports forward and nothing else of ours.
package extauthz

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/latchkey-dev/latchkey/forward"
)

// CallerMetadata is where Envoy presents its own key (initial_metadata of the
// gRPC service in its configuration).
const CallerMetadata = "x-latchkey-caller"

// maxMessage bounds a check, in bytes: the headers of a request and, where
// Envoy is told to send it, its body.
const maxMessage = 1 << 20

// Decider answers checks. Implemented by server.Server.
type Decider interface {
	Forward(check *forward.Check) forward.Answer
}

// Server is the gRPC server.
type Server struct {
	grpc *grpc.Server
}

// Config are a Server's settings; Decider is required.
type Config struct {
	Decider Decider
	// TLS is nil for plain text.
	TLS *tls.Config
	// ConnectTimeout bounds the handshake, IdleTimeout the life of a
	// connection without calls. 0 is gRPC's own default.
	ConnectTimeout, IdleTimeout time.Duration
}

// New makes a server; Serve runs it.
func New(cfg Config) *Server {
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(16 << 10),
		grpc.MaxConcurrentStreams(1000),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: cfg.IdleTimeout, Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
	if cfg.ConnectTimeout > 0 {
		options = append(options, grpc.ConnectionTimeout(cfg.ConnectTimeout))
	}
	if cfg.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(cfg.TLS)))
	}
	s := &Server{grpc: grpc.NewServer(options...)}
	authv3.RegisterAuthorizationServer(s.grpc, &authorization{decider: cfg.Decider})
	return s
}

// Serve answers on ln until Shutdown.
func (s *Server) Serve(ln net.Listener) error { return s.grpc.Serve(ln) }

// Shutdown stops taking calls and waits for those that run, until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
		return ctx.Err()
	}
}

type authorization struct {
	authv3.UnimplementedAuthorizationServer
	decider Decider
}

// Check implements envoy.service.auth.v3.Authorization. A refusal is an answer
// and never an error of gRPC, which Envoy may be told to let pass
// (failure_mode_allow): only latchkey's own failure is one.
func (a *authorization) Check(ctx context.Context, req *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	check := read(ctx, req)
	answer := a.decider.Forward(check)
	switch answer.Status {
	case 200:
		return allow(&answer), nil
	case 401, 403:
		return deny(&answer), nil
	}
	return nil, status.Error(codes.Internal, "the request could not be answered")
}

// read takes from Envoy's attributes what a decision is made of, and nothing
// else: no header of the request's but its credential.
func read(ctx context.Context, req *authv3.CheckRequest) *forward.Check {
	check := &forward.Check{Dialect: forward.GRPC}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		check.Callers = md.Get(CallerMetadata)
	}
	if p, ok := peer.FromContext(ctx); ok {
		if tcp, ok := p.Addr.(*net.TCPAddr); ok {
			check.Peer = tcp.AddrPort().Addr().Unmap()
		}
	}
	source := req.GetAttributes().GetSource().GetAddress().GetSocketAddress().GetAddress()
	if addr, err := netip.ParseAddr(source); err == nil {
		check.Source = addr.Unmap().WithZone("")
	}
	http := req.GetAttributes().GetRequest().GetHttp()
	if http == nil {
		check.Unreadable = "http"
		return check
	}
	check.Method, check.Scheme, check.Host, check.Target, check.RequestID = http.GetMethod(), http.GetScheme(), http.GetHost(), http.GetPath(), http.GetId()
	check.Authorization = authorizations(http)
	return check
}

// authorizations are the values of the Authorization header. Envoy sends
// headers in a map, repeated ones joined by commas, or with encode_raw_headers
// as a list.
func authorizations(http *authv3.AttributeContext_HttpRequest) (values []string) {
	for name, value := range http.GetHeaders() {
		if strings.EqualFold(name, "authorization") {
			values = append(values, value)
		}
	}
	for _, h := range http.GetHeaderMap().GetHeaders() {
		if strings.EqualFold(h.GetKey(), "authorization") {
			value := h.GetValue()
			if raw := h.GetRawValue(); len(raw) > 0 {
				value = string(raw)
			}
			values = append(values, value)
		}
	}
	return values
}

// allow lets the request pass with latchkey's headers in place of a client's
// copies of them, and without the key of a caller, which only a client can have
// put there.
func allow(answer *forward.Answer) *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status: &statuspb.Status{Code: int32(codes.OK)},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers:         options(answer.Identity[:]),
			HeadersToRemove: []string{CallerMetadata},
		}},
	}
}

func deny(answer *forward.Answer) *authv3.CheckResponse {
	code := codes.PermissionDenied
	if answer.Status == 401 {
		code = codes.Unauthenticated
	}
	return &authv3.CheckResponse{
		Status: &statuspb.Status{Code: int32(code)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status:  &typev3.HttpStatus{Code: typev3.StatusCode(answer.Status)},
			Headers: options(slices.Concat(answer.Identity[:], answer.Headers)),
			Body:    string(answer.Body),
		}},
	}
}

// options sets headers, writing over what is there.
func options(headers []forward.Header) []*corev3.HeaderValueOption {
	list := make([]*corev3.HeaderValueOption, len(headers))
	for i, h := range headers {
		list[i] = &corev3.HeaderValueOption{
			Header:         &corev3.HeaderValue{Key: strings.ToLower(h.Name), Value: h.Value},
			AppendAction:   corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
			KeepEmptyValue: true,
		}
	}
	return list
}
