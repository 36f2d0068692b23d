package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/policies/bundle"
)

// Limits of bundles.
const (
	maxBundleWait      = 60 * time.Second
	maxWaiters         = 1024 // at a time, in the process; each holds a connection
	maxCustomerWaiters = 256  // of them, of one customer
	keptBundles        = 64
	keptBundleBytes    = 64 << 20
	goneCheck          = time.Second // how often a waiting client is looked for
)

// Content types of a bundle. The first says that the server can wait.
const (
	bundleType = "application/vnd.openpolicyagent.bundles"
	gzipType   = "application/gzip"
)

// PulledBundles are the bundles that customers' policies come from. Safe for
// concurrent use.
type PulledBundles interface {
	// Statuses are those of one customer.
	Statuses(customer string) []bundle.Status
	// Origin is "bundle" of a customer whose policies come from one.
	Origin(customer string) string
	// Pending names a bundle that has not come into force since the start, ""
	// when all have.
	Pending() string
}

func mayReadBundle(c *authz.Caller, file string) error {
	customer, _ := strings.CutSuffix(file, ".tar.gz")
	if authz.MayFollow(c, customer) == nil { // in a form of its own, which getBundle sees to
		return nil
	}
	return authz.MayReadBundle(c, customer)
}

func mayListBundles(c *authz.Caller) error { return authz.MayReadBundle(c, c.Customer.ID) }

// listBundles answers how the bundles stand that the customer's policies come
// from.
func (s *Server) listBundles(r *request) error {
	list := []bundle.Status{}
	if s.cfg.Bundles != nil {
		list = append(list, s.cfg.Bundles.Statuses(r.caller.Customer.ID)...)
	}
	text, err := json.Marshal(struct {
		Bundles []bundle.Status `json:"bundles"`
	}{list})
	if err != nil {
		return err
	}
	r.out = append(r.out[:0], text...)
	return r.json(http.StatusOK)
}

// getBundle answers a customer's policies and sets as a bundle. With Prefer:
// wait it answers once they are others than the client has, or the time is over.
func (s *Server) getBundle(r *request) error {
	q := r.query("profile", "signature")
	profile := bundle.Profile(q.oneOf("profile", string(bundle.ProfileOPA), string(bundle.ProfileLatchkey)))
	signed := q.oneOf("signature", "es256", "none") == "es256"
	if err := q.err(); err != nil {
		return err
	}
	cond, err := r.conditions()
	if err != nil {
		return err
	}
	prefers, wait := r.bundlePreference()
	name, ok := strings.CutSuffix(r.param("name"), ".tar.gz")
	if profile != bundle.ProfileLatchkey {
		if err := authz.MayReadBundle(&r.caller, name); err != nil {
			return err
		}
	}
	customer := s.cfg.Table.Customer(name)
	if !ok || customer.Deleted() {
		return latchkey.Errorf(latchkey.NotFound, "bundle_not_found", "there is no such bundle: want a customer's id and .tar.gz")
	}
	if s.cfg.Bundles != nil && s.cfg.Bundles.Origin(name) == "bundle" {
		return latchkey.Errorf(latchkey.Conflict, "policies_from_bundle", "the customer's policies come from a bundle: take it from where this server does")
	}
	built, err := s.awaitBundle(r, customer, profile, signed, &cond, wait)
	if err != nil {
		return err
	}
	if err := (&authz.Conditions{Match: cond.Match}).Met(built.ETag); err != nil {
		return err
	}
	h := &r.c.Response().Header
	h.Set("ETag", built.ETag)
	h.Set("Cache-Control", "no-cache")
	if !cond.Changed(built.ETag) {
		r.c.Status(http.StatusNotModified)
		return nil
	}
	media := gzipType
	if prefers {
		media = bundleType
	}
	h.SetContentType(media)
	r.c.Status(http.StatusOK)
	// In pieces, each with a timeout of its own: a large one takes longer to
	// leave than any other reply may.
	r.c.Response().SetBodyStream(struct{ io.Reader }{bytes.NewReader(built.Raw)}, len(built.Raw))
	return nil
}

// bundlePreference reads Prefer as bundle clients send it: preferences apart by
// commas or semicolons, of which wait=n is understood. prefers says that the
// client knows how to be made to wait.
func (r *request) bundlePreference() (prefers bool, wait time.Duration) {
	for _, line := range r.c.Request().Header.PeekAll("Prefer") {
		for part := range strings.FieldsFuncSeq(string(line), func(c rune) bool { return c == ',' || c == ';' }) {
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "modes":
				prefers = true
			case "wait":
				if n, err := strconv.ParseUint(strings.Trim(strings.TrimSpace(value), `"`), 10, 32); err == nil {
					prefers, wait = true, min(time.Duration(n)*time.Second, maxBundleWait)
				}
			}
		}
	}
	return prefers, wait
}

// awaitBundle returns the bundle in force, once it is another than the client
// has or the wait is over.
func (s *Server) awaitBundle(r *request, c *authz.Customer, profile bundle.Profile, signed bool, cond *authz.Conditions, most time.Duration) (*bundle.Built, error) {
	var waits *wait
	for {
		changed := c.Policies.Changed() // before the snapshot
		built, err := s.bundles.get(c.ID, c.Policies.Snapshot(), profile, signed)
		if err != nil || most == 0 || cond.Changed(built.ETag) || cond.Match.Given {
			return built, err
		}
		if waits == nil {
			if waits = r.wait(s.bundles.waiters, c.ID, most); waits == nil {
				return nil, s.bundles.waiters.errFull()
			}
			defer waits.end()
		}
		if waits.until(changed, 0) != byChange {
			return built, nil
		}
		// What held at the beginning may not hold any more.
		if err := r.checkAgain(); err != nil {
			return nil, err
		}
		if c.Deleted() {
			return nil, authz.ErrUnauthenticated()
		}
	}
}

// hungUp reports whether the peer has closed a TCP connection on which nothing
// lies unread. What it does not know it denies.
func hungUp(c net.Conn) bool {
	for {
		switch inner := c.(type) {
		case interface{ NetConn() net.Conn }:
			c = inner.NetConn()
			continue
		case *timedConn:
			c = inner.Conn
			continue
		}
		break
	}
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		gone = err == nil && n == 0 || err != nil && !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR)
	})
	return err == nil && gone
}

// bundles builds the bundles of customers, each once, and keeps the last ones.
type bundles struct {
	signer   *bundle.Signer
	builder  bundle.Builder
	building chan struct{} // bounds how many are built at a time
	flights  singleflight.Group

	waiters *waiters

	mu    sync.Mutex
	kept  []keptBundle // the one used last at the end
	bytes int
}

type keptBundle struct {
	key   bundleKey
	built *bundle.Built
}

// bundleKey is what a bundle is made of; the snapshot of a revision is always
// the same.
type bundleKey struct {
	customer string
	revision int64
	profile  bundle.Profile
	signed   bool
}

func (k bundleKey) String() string {
	return k.customer + " " + strconv.FormatInt(k.revision, 10) + " " + string(k.profile) + " " + strconv.FormatBool(k.signed)
}

func newBundles(signer *bundle.Signer) *bundles {
	return &bundles{signer: signer, building: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), waiters: newWaiters(maxWaiters, maxCustomerWaiters)}
}

func (b *bundles) get(customer string, s *policies.Snapshot, profile bundle.Profile, signed bool) (*bundle.Built, error) {
	key := bundleKey{customer, s.Revision, profile, signed}
	if built := b.find(key); built != nil {
		return built, nil
	}
	made, err, _ := b.flights.Do(key.String(), func() (any, error) {
		if built := b.find(key); built != nil {
			return built, nil
		}
		b.building <- struct{}{}
		defer func() { <-b.building }()
		signer := b.signer
		if !signed {
			signer = nil
		} else if signer == nil {
			return nil, latchkey.Errorf(latchkey.Internal, "signing_failed", "the server has no key to sign bundles with")
		}
		built, err := b.builder.Build(bundleInput(customer, s), profile, signer)
		if err == nil {
			b.keep(key, built)
		}
		return built, err
	})
	if err != nil {
		return nil, err
	}
	return made.(*bundle.Built), nil
}

func (b *bundles) find(key bundleKey) *bundle.Built {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.kept, func(k keptBundle) bool { return k.key == key })
	if i < 0 {
		return nil
	}
	k := b.kept[i]
	b.kept = append(slices.Delete(b.kept, i, i+1), k)
	return k.built
}

// keep lets go of an older revision's bundle, and of those that were asked for
// longest ago.
func (b *bundles) keep(key bundleKey, built *bundle.Built) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept = slices.DeleteFunc(b.kept, func(k keptBundle) bool {
		old := k.key.customer == key.customer && k.key.revision < key.revision
		if old {
			b.bytes -= len(k.built.Raw)
		}
		return old
	})
	b.kept = append(b.kept, keptBundle{key, built})
	b.bytes += len(built.Raw)
	for len(b.kept) > 1 && (len(b.kept) > keptBundles || b.bytes > keptBundleBytes) {
		b.bytes -= len(b.kept[0].built.Raw)
		b.kept = slices.Delete(b.kept, 0, 1)
	}
}

func bundleInput(customer string, s *policies.Snapshot) bundle.Input {
	in := bundle.Input{Customer: customer, Sequence: s.Revision, DefaultPolicy: s.Default}
	for _, name := range s.Policies() {
		p := s.Policy(name)
		in.Policies = append(in.Policies, bundle.Policy{
			Name: name, Language: string(p.Document.Language), Version: p.Version, Rego: p.Document.Rego, Document: p.Document.AppendJSON(nil),
		})
	}
	for _, name := range s.Sets() {
		set := s.Set(name)
		in.Sets = append(in.Sets, bundle.SetInput{Name: name, EntityType: string(set.Type), Version: set.Version, Values: set.Values})
	}
	return in
}
