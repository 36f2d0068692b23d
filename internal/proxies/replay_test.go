package proxies

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"

	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
)

// The proxies of this file are not here: what they would send is put together
// from their documentation and from the files of docs/integrations, and what
// they would do with the answer likewise.

var identityHeaders = []string{"X-Latchkey-Subject", "X-Latchkey-Customer", "X-Latchkey-Key-Id", "X-Latchkey-Decision-Id", "X-Latchkey-Action", "X-Latchkey-Reason"}

// client is a request as a client sends it.
type client struct {
	method, target, host string
	header               http.Header
}

// ask makes one request of a proxy's to latchkey.
func ask(t testing.TB, method, address, target string, host string, header http.Header) answer {
	t.Helper()
	lines := []string{method + " " + target + " HTTP/1.1", "Host: " + host}
	for name, values := range header {
		for _, v := range values {
			lines = append(lines, name+": "+v)
		}
	}
	return send(t, address, lines...)
}

// replays holds a replayed proxy to the same cases: pass is what the upstream
// would get, nil where the request is refused with status.
func replays(t *testing.T, k *pdp, pass func(c client) (http.Header, int)) {
	t.Helper()
	bearer := "Bearer " + k.client.secret
	for _, c := range []struct {
		method, target, host, authorization string
		status                              int
	}{
		{"GET", "/orders/1?full=1", "app.example.com", bearer, 200},
		{"PUT", "/orders/7", "app", bearer, 200},
		{"POST", "/orders/7/approve", "app", bearer, 200},
		{"GET", "/public/a/b", "files.example.com:443", bearer, 200},
		{"DELETE", "/orders/7", "app", bearer, 403},
		{"GET", "/secret/x", "files.example.com", bearer, 403},
		{"OPTIONS", "/orders/7", "app", bearer, 403},
		{"PROPFIND", "/orders/7", "app", bearer, 403},
		{"GET", "/public/../secret/x", "files.example.com", bearer, 403},
		{"GET", "/public/%2e%2e/secret/x", "files.example.com", bearer, 403},
		{"GET", "/public/..%2fsecret/x", "files.example.com", bearer, 403},
		{"GET", "/public//x", "files.example.com", bearer, 403},
		{"GET", "/orders/1", "app", "", 401},
		{"GET", "/orders/1", "app", "Bearer nonsense", 401},
		{"GET", "/orders/1", "app", "Bearer " + k.foreign.secret, 401},
	} {
		h := http.Header{}
		if c.authorization != "" {
			h.Set("Authorization", c.authorization)
		}
		for _, name := range identityHeaders { // what a client says of itself
			h.Set(name, "admin")
		}
		h.Set("X-Latchkey-Caller", k.client.secret)
		h.Set("X-Customer-Id", "acme")
		h.Set("X-Original-Uri", "/orders/1")
		h.Set("X-Original-Method", "GET")
		h.Set("X_Forwarded_Uri", "/orders/1")
		got, status := pass(client{c.method, c.target, c.host, h})
		if status != c.status {
			t.Errorf("%s %s at %s: %d, want %d", c.method, c.target, c.host, status, c.status)
			continue
		}
		if status != 200 {
			continue
		}
		if got.Get("X-Latchkey-Subject") != k.client.id || got.Get("X-Latchkey-Customer") != "default" || got.Get("X-Latchkey-Action") != "allow" || !strings.HasPrefix(got.Get("X-Latchkey-Decision-Id"), "dec_") ||
			got.Get("X-Latchkey-Caller") != "" || got.Get("Authorization") != "" {
			t.Errorf("%s %s: the upstream would get %v", c.method, c.target, got)
		}
		for _, name := range identityHeaders {
			if v := got[name]; len(v) != 1 || v[0] == "admin" {
				t.Errorf("%s %s: the upstream would get %s %q", c.method, c.target, name, v)
			}
		}
	}
}

func asked(t testing.TB, address string) (host, path string) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host, u.Path
}

func strictYAML(t testing.TB, text string, into any) {
	t.Helper()
	d := yaml.NewDecoder(strings.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		t.Fatal(err)
	}
}

func TestReplay_Traefik(t *testing.T) {
	k := startLatchkey(t)
	type middleware struct {
		Headers *struct {
			CustomRequestHeaders map[string]string `yaml:"customRequestHeaders"`
		}
		ForwardAuth *struct {
			Address             string
			TrustForwardHeader  bool     `yaml:"trustForwardHeader"`
			AuthRequestHeaders  []string `yaml:"authRequestHeaders"`
			AuthResponseHeaders []string `yaml:"authResponseHeaders"`
		} `yaml:"forwardAuth"`
	}
	var file struct {
		HTTP struct {
			Routers map[string]struct {
				Rule, Service string
				Middlewares   []string
			}
			Middlewares map[string]middleware
			Services    map[string]any
		} `yaml:"http"`
	}
	strictYAML(t, config(t, "traefik.yaml", "127.0.0.1:5539", k.address, "X-Latchkey-Caller: LATCHKEY_CALLER", "X-Latchkey-Caller: "+k.caller), &file)
	replays(t, k, func(c client) (http.Header, int) {
		h := c.header.Clone()
		for _, name := range file.HTTP.Routers["app"].Middlewares {
			m := file.HTTP.Middlewares[name]
			if m.Headers != nil {
				for name, value := range m.Headers.CustomRequestHeaders {
					if h.Del(name); value != "" {
						h.Set(name, value)
					}
				}
				continue
			}
			if m.ForwardAuth == nil || m.ForwardAuth.TrustForwardHeader {
				t.Fatalf("middleware %s", name)
			}
			forward := http.Header{"X-Forwarded-Method": {c.method}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {c.host}, "X-Forwarded-Uri": {c.target}, "X-Forwarded-For": {"203.0.113.9"}, "X-Forwarded-Port": {"443"}, "X-Forwarded-Server": {"t"}}
			for _, name := range m.ForwardAuth.AuthRequestHeaders {
				if v, ok := h[http.CanonicalHeaderKey(name)]; ok {
					forward[http.CanonicalHeaderKey(name)] = v
				}
			}
			host, path := asked(t, m.ForwardAuth.Address)
			a := ask(t, "GET", host, path, host, forward)
			if a.status < 200 || a.status > 299 {
				return nil, a.status
			}
			for _, name := range m.ForwardAuth.AuthResponseHeaders {
				if h.Del(name); a.header.Get(name) != "" {
					h[http.CanonicalHeaderKey(name)] = a.header.Values(name)
				}
			}
		}
		return h, 200
	})
}

func TestReplay_APISIX(t *testing.T) {
	k := startLatchkey(t)
	var file struct {
		Routes []struct {
			URI     string `yaml:"uri"`
			Plugins map[string]struct {
				URI              string            `yaml:"uri"`
				RequestHeaders   []string          `yaml:"request_headers"`
				ExtraHeaders     map[string]string `yaml:"extra_headers"`
				UpstreamHeaders  []string          `yaml:"upstream_headers"`
				ClientHeaders    []string          `yaml:"client_headers"`
				Timeout          int               `yaml:"timeout"`
				StatusOnError    int               `yaml:"status_on_error"`
				AllowDegradation bool              `yaml:"allow_degradation"`
				Phase            string            `yaml:"phase"`
				Functions        []string          `yaml:"functions"`
			}
			Upstream any
		}
	}
	text := config(t, "apisix.yaml", "127.0.0.1:5539", k.address, "X-Latchkey-Caller: LATCHKEY_CALLER", "X-Latchkey-Caller: "+k.caller)
	if !strings.HasSuffix(text, "\n#END\n") {
		t.Error("APISIX reads no file that does not end in #END")
	}
	strictYAML(t, text, &file)
	replays(t, k, func(c client) (http.Header, int) {
		h := c.header.Clone()
		plugin := file.Routes[0].Plugins["forward-auth"]
		if plugin.AllowDegradation || plugin.StatusOnError < 500 {
			t.Error("it fails open")
		}
		forward := http.Header{"X-Forwarded-Proto": {"http"}, "X-Forwarded-Method": {c.method}, "X-Forwarded-Host": {c.host}, "X-Forwarded-Uri": {c.target}, "X-Forwarded-For": {"203.0.113.9"}}
		for name, value := range plugin.ExtraHeaders {
			forward.Set(name, value)
		}
		for _, name := range plugin.RequestHeaders {
			if v := h.Get(name); v != "" {
				forward.Set(name, v)
			}
		}
		host, path := asked(t, plugin.URI)
		a := ask(t, "GET", host, path, host, forward)
		if a.status >= 300 {
			return nil, a.status
		}
		for _, name := range plugin.UpstreamHeaders {
			if h.Del(name); a.header.Get(name) != "" {
				h.Set(name, a.header.Get(name))
			}
		}
		// The function is Lua of APISIX's; what it removes can be read.
		clean := file.Routes[0].Plugins["serverless-post-function"]
		for _, name := range []string{"Authorization", "X-Latchkey-Caller"} {
			if clean.Phase == "before_proxy" && strings.Contains(clean.Functions[0], `set_header(ctx, "`+name+`", nil)`) {
				h.Del(name)
			}
		}
		return h, 200
	})
}

// envoyFilter reads the file with Envoy's own types, holds it to their rules,
// and returns its ext_authz filter.
func envoyFilter(t *testing.T, name string, replace ...string) (*extauthzv3.ExtAuthz, []string) {
	t.Helper()
	var tree any
	if err := yaml.Unmarshal([]byte(config(t, name, replace...)), &tree); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	var bootstrap bootstrapv3.Bootstrap
	if err := protojson.Unmarshal(text, &bootstrap); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if err := bootstrap.ValidateAll(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var hcm hcmv3.HttpConnectionManager
	if err := bootstrap.StaticResources.Listeners[0].FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(&hcm); err != nil {
		t.Fatal(err)
	}
	if err := hcm.ValidateAll(); err != nil {
		t.Fatal(err)
	}
	if hcm.CommonHttpProtocolOptions.HeadersWithUnderscoresAction != corev3.HttpProtocolOptions_REJECT_REQUEST || hcm.PathWithEscapedSlashesAction != hcmv3.HttpConnectionManager_REJECT_REQUEST {
		t.Errorf("%s lets through what it should refuse", name)
	}
	at := slices.IndexFunc(hcm.HttpFilters, func(f *hcmv3.HttpFilter) bool { return f.Name == "envoy.filters.http.ext_authz" })
	var filter extauthzv3.ExtAuthz
	if err := hcm.HttpFilters[at].GetTypedConfig().UnmarshalTo(&filter); err != nil {
		t.Fatal(err)
	}
	if err := filter.ValidateAll(); err != nil {
		t.Fatal(err)
	}
	if filter.FailureModeAllow || filter.StatusOnError.GetCode() < 500 {
		t.Errorf("%s fails open, or calls an outage a denial", name)
	}
	return &filter, hcm.GetRouteConfig().VirtualHosts[0].Routes[0].RequestHeadersToRemove
}

func TestReplay_EnvoyHTTP(t *testing.T) {
	k := startLatchkey(t)
	filter, removed := envoyFilter(t, "envoy-http.yaml", "127.0.0.1:5539", k.address, "value: LATCHKEY_CALLER", "value: "+k.caller)
	service := filter.GetHttpService()
	host, _ := asked(t, service.ServerUri.Uri)
	replays(t, k, func(c client) (http.Header, int) {
		// Host, method, path, Content-Length and Authorization go by themselves.
		sent := http.Header{"Content-Length": {"0"}}
		if v := c.header.Get("Authorization"); v != "" {
			sent.Set("Authorization", v)
		}
		for _, add := range service.AuthorizationRequest.HeadersToAdd {
			sent.Set(add.Key, add.Value)
		}
		a := ask(t, c.method, host, service.PathPrefix+c.target, c.host, sent)
		if a.status != 200 {
			return nil, a.status
		}
		h := c.header.Clone()
		h.Del("X-Latchkey-Caller") // the filter before removes it
		for name, values := range a.header {
			for _, p := range service.AuthorizationResponse.AllowedUpstreamHeaders.Patterns {
				if strings.HasPrefix(strings.ToLower(name), p.GetPrefix()) {
					h[name] = values
				}
			}
		}
		for _, name := range removed {
			h.Del(name)
		}
		return h, 200
	})
}

func TestReplay_EnvoyGRPC(t *testing.T) {
	k := startLatchkey(t)
	_, port, err := net.SplitHostPort(k.grpc)
	if err != nil {
		t.Fatal(err)
	}
	filter, removed := envoyFilter(t, "envoy-grpc.yaml", "port_value: 5541", "port_value: "+port, "value: LATCHKEY_CALLER", "value: "+k.caller)
	conn, err := grpc.NewClient("passthrough:///"+k.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	envoy := authv3.NewAuthorizationClient(conn)
	replays(t, k, func(c client) (http.Header, int) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for _, m := range filter.GetGrpcService().InitialMetadata {
			ctx = metadata.AppendToOutgoingContext(ctx, m.Key, m.Value)
		}
		headers := map[string]string{}
		for name, values := range c.header {
			headers[strings.ToLower(name)] = strings.Join(values, ",")
		}
		resp, err := envoy.Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{
			Http: &authv3.AttributeContext_HttpRequest{Method: c.method, Host: c.host, Path: c.target, Scheme: "https", Headers: headers}}}})
		if err != nil {
			t.Fatal(err)
		}
		ok := resp.GetOkResponse()
		if ok == nil {
			return nil, int(resp.GetDeniedResponse().GetStatus().GetCode())
		}
		h := c.header.Clone()
		for _, o := range ok.Headers {
			h.Set(o.Header.Key, o.Header.Value)
		}
		for _, name := range append(slices.Clone(ok.HeadersToRemove), removed...) {
			h.Del(name)
		}
		return h, 200
	})
}
