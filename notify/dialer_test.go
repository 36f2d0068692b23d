package notify

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/latchkey-dev/latchkey"
)

func TestGuard_RefusesEveryFormOfAnInwardAddress(t *testing.T) {
	g := NewGuard(GuardConfig{})
	for text, want := range map[string]bool{
		"8.8.8.8": true, "1.1.1.1": true, "172.32.0.1": true, "100.128.0.1": true, "2606:4700::1111": true, "2a00:1450:4001::1": true,

		"127.0.0.1": false, "127.255.255.254": false, "0.0.0.0": false, "0.1.2.3": false,
		"10.0.0.1": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false,
		"169.254.169.254": false, "169.254.170.2": false, "168.63.129.16": false, "100.100.100.200": false, "192.0.0.192": false, // metadata
		"100.64.0.1": false, "100.127.255.255": false, // carrier-grade NAT
		"192.0.2.1": false, "198.51.100.1": false, "203.0.113.1": false, "198.18.0.1": false, "192.88.99.1": false,
		"224.0.0.1": false, "239.255.255.255": false, "240.0.0.1": false, "255.255.255.255": false,

		"::": false, "::1": false, "::127.0.0.1": false, "::8.8.8.8": false, // IPv4-compatible
		"::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false, "::ffff:169.254.169.254": false, "::ffff:8.8.8.8": true,
		"::ffff:0:127.0.0.1": false, // IPv4-translated
		"fe80::1":            false, "fe80::1%eth0": false, "fec0::1": false, "fc00::1": false, "fd00:ec2::254": false, "ff02::1": false, "100::1": false,
		"64:ff9b::7f00:1": false, "64:ff9b::808:808": false, "64:ff9b:1::a00:1": false, // NAT64
		"2002:7f00:1::": false, "2002:a00:1::1": false, // 6to4
		"2001:0:4136:e378::1": false, "2001:10::1": false, "2001:20::1": false, "2001:db8::1": false, "3fff::1": false, "5f00::1": false, "4000::1": false,
	} {
		if got := g.Allows(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
		if err := g.control("tcp", net.JoinHostPort(text, "80"), nil); (err == nil) != want {
			t.Errorf("dial %s: %v, want %v", text, err, want)
		}
	}
	if g.Allows(netip.Addr{}) {
		t.Error("the zero address")
	}
}

func TestGuard_ReachesWhatTheOperatorAllows(t *testing.T) {
	allow, err := ParseAllowed([]string{"10.1.0.0/16", "127.0.0.1", "fd00:1::/64", "::ffff:192.168.7.0/120", "64:ff9b::/96"})
	if err != nil {
		t.Fatal(err)
	}
	g := NewGuard(GuardConfig{Allow: allow})
	for text, want := range map[string]bool{
		"10.1.2.3": true, "10.2.0.1": false, "127.0.0.1": true, "127.0.0.2": false, "::ffff:10.1.2.3": true, "fd00:1::5": true, "fd00:1::5%eth0": true, "fd00:2::5": false,
		"192.168.7.9": true, "192.168.8.9": false, "64:ff9b::a00:1": true, "::1": false,
	} {
		if got := g.Allows(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	for _, text := range []string{"", "10.0.0.0/33", "host.example", "10.0.0.1:80", "fe80::1%eth0", "::ffff:0:0/64"} {
		if _, err := ParseAllowed([]string{text}); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestCheckURL(t *testing.T) {
	g := NewGuard(GuardConfig{})
	for text, code := range map[string]string{
		"https://example.com/hook": "", "http://example.com:8080/x?y=z": "", "https://8.8.8.8/": "", "https://[2606:4700::1111]:444/": "", "https://EXAMPLE.com./": "",

		"": "invalid_url", "example.com": "invalid_url", "/path": "invalid_url", "//example.com/": "invalid_url", "ftp://example.com/": "invalid_url",
		"file:///etc/passwd": "invalid_url", "gopher://example.com/": "invalid_url", "unix:///run/x": "invalid_url", "https:example.com": "invalid_url",
		"https://user@example.com/": "invalid_url", "https://user:password@example.com/": "invalid_url", "https://example.com@127.0.0.1/": "invalid_url",
		"https://example.com/#x": "invalid_url", "https://example.com:0/": "invalid_url", "https://example.com:65536/": "invalid_url", "https://exa mple.com/": "invalid_url",
		"https://:80/": "invalid_url", "https://[fe80::1%25eth0]/": "invalid_url", "https://example.com/\n": "invalid_url", "https://" + strings.Repeat("a", maxURL): "invalid_url",

		"http://127.0.0.1/": "address_refused", "http://127.0.0.1:5540/metrics": "address_refused", "http://[::1]/": "address_refused", "http://[::ffff:127.0.0.1]/": "address_refused",
		"http://[::ffff:7f00:1]/": "address_refused", "http://169.254.169.254/latest/meta-data/": "address_refused", "http://0.0.0.0/": "address_refused", "http://[::]/": "address_refused",
		"http://[64:ff9b::7f00:1]/": "address_refused", "http://10.0.0.1/": "address_refused", "http://localhost/": "address_refused", "http://LOCALHOST./": "address_refused", "http://a.localhost/": "address_refused",

		// Addresses to resolvers of the C library.
		"http://2130706433/": "invalid_url", "http://0x7f000001/": "invalid_url", "http://0177.0.0.1/": "invalid_url", "http://127.1/": "invalid_url",
		"http://0x7f.0.0.1/": "invalid_url", "http://017700000001/": "invalid_url", "http://127.0.0.1./": "invalid_url", "http://127.0.0.01/": "invalid_url", "http://1.2.3.0x/": "invalid_url",
	} {
		err := g.CheckURL("/url", text)
		if latchkey.CodeOf(err) != code || err != nil && latchkey.KindOf(err) != latchkey.Invalid {
			t.Errorf("%q: %v, want %q", text, err, code)
		}
	}
	allow, err := ParseAllowed([]string{"127.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	inside := NewGuard(GuardConfig{Allow: allow})
	for _, text := range []string{"http://127.0.0.1/", "http://localhost:1234/", "http://[::ffff:127.0.0.1]/"} {
		if err := inside.CheckURL("/url", text); err != nil {
			t.Errorf("allowed: %q: %v", text, err)
		}
	}
}

// inward is a server on loopback that nobody may reach.
func inward(t *testing.T) (target *httptest.Server, hits *atomic.Int64) {
	t.Helper()
	hits = new(atomic.Int64)
	target = httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	t.Cleanup(target.Close)
	return target, hits
}

func get(t *testing.T, g *Guard, address string) (*http.Response, error) {
	t.Helper()
	client := g.Client(time.Minute)
	t.Cleanup(client.CloseIdleConnections)
	resp, err := client.Get(address) //nolint:noctx // the client has a timeout
	if err == nil {
		t.Cleanup(func() { _ = resp.Body.Close() })
	}
	return resp, err
}

func portOf(t *testing.T, s *httptest.Server) string {
	t.Helper()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

// A name that passes every look at the URL, and whose answer leads inside.
func TestClient_NamesThatLeadInsideAreNotDialled(t *testing.T) {
	target, hits := inward(t)
	for name, answer := range map[string]string{"loopback": "127.0.0.1", "mapped": "::ffff:127.0.0.1", "IPv6 loopback": "::1", "unspecified": "0.0.0.0", "NAT64": "64:ff9b::7f00:1", "CGNAT": "100.64.0.1", "metadata": "169.254.169.254"} {
		t.Run(name, func(t *testing.T) {
			g := NewGuard(GuardConfig{Resolver: resolver(t, func(int) string { return answer })})
			if err := g.CheckURL("/url", "http://hook.example.com/"); err != nil {
				t.Fatal(err) // nothing can be told of it yet
			}
			if _, err := get(t, g, "http://hook.example.com:"+portOf(t, target)+"/"); !AddressRefused(err) {
				t.Errorf("dialled: %v", err)
			}
		})
	}
	if n := hits.Load(); n != 0 {
		t.Errorf("the inside was reached %d times", n)
	}
}

// The first answer is allowed, the second one leads inside: each connection is
// judged by itself.
func TestClient_RebindingLeadsNowhere(t *testing.T) {
	target, hits := inward(t)
	allow, err := ParseAllowed([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	g := NewGuard(GuardConfig{Allow: allow, Resolver: resolver(t, func(n int) string {
		if n == 0 {
			return "127.0.0.1"
		}
		return "127.0.0.2"
	})})
	address := "http://hook.example.com:" + portOf(t, target) + "/"
	if _, err := get(t, g, address); err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, g, address); !AddressRefused(err) {
		t.Errorf("the second one: %v", err)
	}
	if n := hits.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestClient_RedirectsAreNotFollowed(t *testing.T) {
	target, hits := inward(t)
	outside := httptest.NewServer(http.RedirectHandler(target.URL, http.StatusTemporaryRedirect))
	t.Cleanup(outside.Close)
	allow, err := ParseAllowed([]string{"127.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := get(t, NewGuard(GuardConfig{Allow: allow}), outside.URL)
	if err != nil || resp.StatusCode != http.StatusTemporaryRedirect {
		t.Errorf("%v, %v", resp, err)
	}
	if hits.Load() != 0 {
		t.Error("it was followed")
	}
}

// A proxy of the operator's environment would do the dialling, and reach what
// this process must not.
func TestClient_UsesNoProxy(t *testing.T) {
	proxy, hits := inward(t)
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	allow, err := ParseAllowed([]string{"127.0.0.1"}) // where the proxy is, so that nothing but the guard's own way keeps it out
	if err != nil {
		t.Fatal(err)
	}
	_, err = get(t, NewGuard(GuardConfig{Allow: allow, Resolver: resolver(t, func(int) string { return "10.0.0.1" })}), "http://hook.example.com/")
	if !AddressRefused(err) || hits.Load() != 0 {
		t.Errorf("%v, %d hits", err, hits.Load())
	}
}

// Whoever makes a request without asking CheckURL first is held to it still.
func TestClient_RefusesURLsThatCheckURLRefuses(t *testing.T) {
	for _, address := range []string{"ftp://example.com/", "http://user:password@example.com/", "http://127.0.0.1/", "http://2130706433/"} {
		if _, err := get(t, NewGuard(GuardConfig{}), address); err == nil {
			t.Errorf("%s was requested", address)
		}
	}
	// One that could be reached.
	target, hits := inward(t)
	allow, err := ParseAllowed([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	g := NewGuard(GuardConfig{Allow: allow, Resolver: resolver(t, func(int) string { return "127.0.0.1" })})
	if _, err := get(t, g, "http://user:password@hook.example.com:"+portOf(t, target)+"/"); err == nil || hits.Load() != 0 {
		t.Errorf("a URL with a password was requested: %v", err)
	}
}

func TestClient_BoundsTheHeadOfAResponse(t *testing.T) {
	huge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 100 {
			w.Header().Add("X-Filler", strings.Repeat("x", 1<<10))
		}
	}))
	t.Cleanup(huge.Close)
	allow, err := ParseAllowed([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, NewGuard(GuardConfig{Allow: allow}), huge.URL); err == nil {
		t.Error("100 KiB of head were taken")
	}
}

func TestDialContext_TakesNoSockets(t *testing.T) {
	for _, network := range []string{"unix", "unixgram", "udp", "ip4:icmp"} {
		if _, err := NewGuard(GuardConfig{}).DialContext(t.Context(), network, "/run/docker.sock"); !AddressRefused(err) {
			t.Errorf("%s: %v", network, err)
		}
	}
}

// resolver answers every name with the address that answer gives for the n-th
// look-up of one.
func resolver(t *testing.T, answer func(n int) string) *net.Resolver {
	t.Helper()
	var asked atomic.Int64
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		t.Cleanup(func() { _ = client.Close() })
		go func() {
			defer server.Close()
			for {
				query, err := readMessage(server)
				if err != nil {
					return
				}
				if query.Questions[0].Type == dnsmessage.TypeA { // each look-up asks for both
					asked.Add(1)
				}
				if _, err := server.Write(dnsAnswer(query, netip.MustParseAddr(answer(int(max(asked.Load(), 1)-1))))); err != nil {
					return
				}
			}
		}()
		return client, nil
	}}
}

// readMessage reads one with its length before it, as over TCP, which is what a
// connection that is no net.PacketConn is taken for.
func readMessage(r io.Reader) (m dnsmessage.Message, err error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return m, err
	}
	b := make([]byte, int(size[0])<<8|int(size[1]))
	if _, err := io.ReadFull(r, b); err != nil {
		return m, err
	}
	if err = m.Unpack(b); err == nil && len(m.Questions) != 1 {
		err = errors.New("not one question")
	}
	return m, err
}

func dnsAnswer(query dnsmessage.Message, addr netip.Addr) []byte {
	q := query.Questions[0]
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: query.ID, Response: true, RecursionAvailable: true}, Questions: query.Questions}
	head := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type}
	switch {
	case q.Type == dnsmessage.TypeA && addr.Is4():
		m.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.AResource{A: addr.As4()}}}
	case q.Type == dnsmessage.TypeAAAA && addr.Is6():
		m.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}}}
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return append([]byte{byte(len(b) >> 8), byte(len(b))}, b...)
}
