package notify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/latchkey-dev/latchkey"
)

// Guard decides which addresses may be reached on behalf of customers, who set
// URLs of webhooks, tasks and providers: the public internet alone, and what the
// operator has allowed beside. A name is judged by the addresses that are really
// dialled, so that no DNS answer, redirect or rebinding leads inside. Safe for
// concurrent use.
type Guard struct {
	cfg GuardConfig
}

// GuardConfig are the settings of a Guard.
type GuardConfig struct {
	// Allow are prefixes that may be reached though they are not public.
	Allow []netip.Prefix
	// Resolver looks up names; nil is the system's.
	Resolver *net.Resolver
	// TLS is for tests with a certificate of their own; nil is the system's.
	TLS *tls.Config
}

// NewGuard makes a guard.
func NewGuard(cfg GuardConfig) *Guard {
	cfg.Allow = slices.Clone(cfg.Allow)
	for i, p := range cfg.Allow {
		cfg.Allow[i] = p.Masked()
	}
	return &Guard{cfg: cfg}
}

// ParseAllowed reads the prefixes or addresses of an operator.
func ParseAllowed(texts []string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			addr, err := netip.ParseAddr(text)
			if err != nil || addr.Zone() != "" {
				return nil, fmt.Errorf("%q is neither an address nor a block such as 10.1.0.0/16", text)
			}
			p = netip.PrefixFrom(addr, addr.BitLen())
		}
		if p.Addr().Is4In6() { // dialled as IPv4, and so compared as such
			if p.Bits() < 96 {
				return nil, fmt.Errorf("%q holds addresses of IPv4 in the form of IPv6: write them as IPv4", text)
			}
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		list = append(list, p)
	}
	return list, nil
}

// errAddressRefused is what dialling an address that is not allowed fails with.
var errAddressRefused = errors.New("the address is not public, and the operator has not allowed it")

// AddressRefused reports whether a call failed because of where it led.
func AddressRefused(err error) bool { return errors.Is(err, errAddressRefused) }

// private4 are the blocks of IPv4 that are not public, by the registry of
// special-purpose addresses (RFC 6890 and after), multicast, what is reserved,
// and the address at which one cloud answers its machines.
var private4 = prefixes("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
	"192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"168.63.129.16/32")

// global6 is all of IPv6 that has been given out for public use: loopback,
// link-local, unique local, multicast, NAT64 and every other form that holds an
// address of IPv4 lie outside, but for those of private6: Teredo and its
// neighbours, documentation, 6to4.
var (
	global6  = netip.MustParsePrefix("2000::/3")
	private6 = prefixes("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

// Allows reports whether an address may be dialled.
func (g *Guard) Allows(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("") // no prefix contains an address with a zone
	within := func(p netip.Prefix) bool { return p.Contains(addr) }
	switch {
	case !addr.IsValid():
		return false
	case slices.ContainsFunc(g.cfg.Allow, within):
		return true
	case addr.Is4():
		return !slices.ContainsFunc(private4, within)
	}
	return global6.Contains(addr) && !slices.ContainsFunc(private6, within)
}

// control implements net.Dialer.Control: address is what connect is about to be
// called with.
func (g *Guard) control(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !g.Allows(at.Addr()) {
		return errAddressRefused
	}
	return nil
}

// DialContext dials as a net.Dialer does, to allowed addresses alone. network is
// "tcp", "tcp4" or "tcp6".
func (g *Guard) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default: // control sees no address in a path
		return nil, errAddressRefused
	}
	d := net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, Resolver: g.cfg.Resolver, Control: g.control}
	return d.DialContext(ctx, network, address)
}

// maxURL is how long an address may be.
const maxURL = 2048

// CheckURL refuses an address for what can be told from it alone, before it is
// saved; what its name leads to is seen when it is dialled. The error is Invalid
// at the pointer.
func (g *Guard) CheckURL(pointer, text string) error {
	refuse := func(code, detail string) error {
		return latchkey.InvalidFaults(latchkey.Fault{Pointer: pointer, Code: code, Detail: detail})
	}
	if len(text) > maxURL {
		return refuse("invalid_url", "the URL is over "+strconv.Itoa(maxURL)+" bytes")
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Opaque != "" {
		return refuse("invalid_url", "want a URL such as https://example.com/hook")
	}
	switch err := g.checkURL(u); {
	case errors.Is(err, errAddressRefused):
		return refuse("address_refused", "the URL leads to an address that is not public")
	case err != nil:
		return refuse("invalid_url", err.Error())
	}
	return nil
}

func (g *Guard) checkURL(u *url.URL) error {
	host := u.Hostname()
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("want http or https")
	case u.User != nil:
		return errors.New("a URL with a user or a password is not taken: use a header")
	case u.Fragment != "":
		return errors.New("a fragment is never sent")
	case host == "" || strings.ContainsAny(host, "%\x00"): // %: a zone
		return errors.New("the host is not well-formed")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("the port is not one")
		}
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if !g.Allows(addr) {
			return errAddressRefused
		}
		return nil
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		if !g.Allows(netip.AddrFrom4([4]byte{127, 0, 0, 1})) {
			return errAddressRefused
		}
		return nil
	}
	// 2130706433, 0177.1 and 0x7f.0.0.1 are addresses to some resolvers, and no
	// names to anybody.
	if last := name[strings.LastIndexByte(name, '.')+1:]; last == "" || numeric(last) {
		return errors.New("write an address in its usual form")
	}
	return nil
}

// numeric reports whether the last label of a host makes it an address, as the
// URL standard has it ("ends in a number").
func numeric(label string) bool {
	digits := "0123456789"
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		label, digits = hex, "0123456789abcdef"
	}
	return strings.Trim(label, digits) == ""
}

// maxResponseHead is how many bytes the head of a response may have.
const maxResponseHead = 32 << 10

// Client makes a client for requests on behalf of customers, each bounded by
// timeout with all that belongs to it; 0 leaves that to its context. It uses no proxy, follows no redirect (the
// response with it is what the caller gets), and unpacks nothing. The body of a
// response is the caller's to bound. Close its idle connections at the end.
func (g *Guard) Client(timeout time.Duration) *http.Client {
	conf := g.cfg.TLS.Clone()
	if conf == nil {
		conf = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &guarded{guard: g, Transport: &http.Transport{
			Proxy:       nil, // one would do the dialling
			DialContext: g.DialContext, TLSClientConfig: conf, TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true,
			MaxResponseHeaderBytes: maxResponseHead, DisableCompression: true,
			MaxIdleConns: 64, MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second,
		}},
	}
}

// guarded looks at each URL, whoever made the request.
type guarded struct {
	*http.Transport
	guard *Guard
}

// RoundTrip implements http.RoundTripper.
func (t *guarded) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.guard.checkURL(req.URL); err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // a round trip always does
		}
		return nil, err
	}
	return t.Transport.RoundTrip(req)
}
