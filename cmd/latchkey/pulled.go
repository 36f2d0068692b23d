package main

import (
	"context"
	"math/rand/v2"
	"runtime/debug"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/policies/bundle"
)

// pulledBundles are the bundles that customers' policies come from. Implements
// server.PulledBundles.
type pulledBundles struct {
	node    *node
	sources map[string]*pulledBundle // by customer
	list    []*pulledBundle
	// compiling is one bundle's at a time: the other processors answer meanwhile.
	compiling chan struct{}
}

// pulledBundle is one of them.
type pulledBundle struct {
	*bundle.Puller
	all    *pulledBundles
	source bundleSource
	last   *bundle.Origin // of the bundle in force; Activate's alone
}

func newPulledBundles(sources []bundleSource, n *node, data string) (*pulledBundles, error) {
	p := &pulledBundles{node: n, sources: map[string]*pulledBundle{}, compiling: make(chan struct{}, 1)}
	for _, s := range sources {
		b := &pulledBundle{all: p, source: s}
		cfg, err := s.config(data)
		if err == nil {
			cfg.Now, cfg.Jitter, cfg.Log, cfg.Activate = n.now, rand.Float64, n.log, b.activate
			b.Puller, err = bundle.NewPuller(cfg)
		}
		if err != nil {
			return nil, usage("--bundles: bundle %s: %w", s.Name, err)
		}
		p.list, p.sources[s.Customer] = append(p.list, b), b
	}
	if len(p.list) > 0 {
		n.registry.MustRegister(p)
	}
	return p, nil
}

// Origin implements server.PulledBundles.
func (p *pulledBundles) Origin(customer string) string {
	if p.sources[customer] != nil {
		return "bundle"
	}
	return ""
}

// Statuses implements server.PulledBundles.
func (p *pulledBundles) Statuses(customer string) []bundle.Status {
	if b := p.sources[customer]; b != nil {
		return []bundle.Status{b.Status()}
	}
	return nil
}

// Pending implements server.PulledBundles.
func (p *pulledBundles) Pending() string {
	for _, b := range p.list {
		if b.Status().LastSuccessfulActivation.IsZero() {
			return b.source.Name
		}
	}
	return ""
}

// await denies what the customers are asked until their bundles come into
// force; all of them must be there.
func (p *pulledBundles) await() error {
	for _, b := range p.list {
		c := p.node.table.Customer(b.source.Customer)
		if c.Deleted() {
			return usage("--bundles: bundle %s: there is no customer %s; make it first", b.source.Name, b.source.Customer)
		}
		if err := authz.AwaitBundle(c); err != nil {
			return err
		}
	}
	return nil
}

// run pulls until ctx ends.
func (p *pulledBundles) run(ctx context.Context) {
	var pullers sync.WaitGroup
	for _, b := range p.list {
		pullers.Go(func() { b.Run(ctx) })
	}
	pullers.Wait()
}

func (b *pulledBundle) activate(ctx context.Context, got *bundle.Bundle) error {
	select {
	case b.all.compiling <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-b.all.compiling }()
	if sourceBytes(got) > sparedBytes {
		defer sparing()()
	}
	n := b.all.node
	now := latchkey.InstantOf(n.now())
	a := authz.Activation{Name: b.source.Name, Revision: got.Revision, SHA256: got.Digest, Policies: len(got.Policies), Sets: len(got.Sets)}
	if got.Origin != nil {
		a.Sequence = got.Origin.Sequence
	}
	err := authz.ActivateBundle(ctx, n.db, n.table.Customer(b.source.Customer), now, a, func(before *policies.Snapshot) (*policies.Snapshot, error) {
		next, err := bundle.Compile(before, b.last, got, now)
		if err != nil || b.source.DefaultPolicy == "" {
			return next, err
		}
		if next.Policy(b.source.DefaultPolicy) == nil {
			return nil, latchkey.InvalidFaults(latchkey.Fault{Pointer: "/default_policy", Code: "unknown_policy",
				Detail: "the bundle has no policy " + b.source.DefaultPolicy + ", which is configured as the default"})
		}
		return next.Edit(next.Revision, now, func(d *policies.Draft) { d.SetDefault(b.source.DefaultPolicy) }), nil
	})
	if err == nil {
		b.last = got.Origin
	}
	return err
}

// sparedBytes is how much a bundle's policies may have that are compiled in the
// memory that the server has for everything.
const sparedBytes = 256 << 10

func sourceBytes(b *bundle.Bundle) (n int) {
	for i := range b.Policies {
		n += len(b.Policies[i].Rego) + len(b.Policies[i].Document)
	}
	return n
}

// sparing keeps the heap small until it is undone: a compiler leaves much behind
// at once, and the room that the server gives the collector is measured for
// decisions.
func sparing() (undo func()) {
	before := debug.SetGCPercent(50)
	return func() { setHeadroom(before) }
}

// Metrics of a bundle; the label is its name in the configuration.
var (
	bundleLabels      = []string{"bundle"}
	bundleRequests    = bundleDesc("requests_total", "Requests to the bundle's source.")
	bundleNotModified = bundleDesc("not_modified_total", "Answers that nothing has changed.")
	bundleDownloads   = bundleDesc("downloads_total", "Bundles received whole.")
	bundleActivations = bundleDesc("activations_total", "Bundles that came into force.")
	bundleBytes       = bundleDesc("received_bytes_total", "Bytes of bundles received, compressed.")
	bundleFailures    = bundleDesc("failures_total", "Attempts that came to nothing, by code.", "code")
	bundleSize        = bundleDesc("size_bytes", "Compressed size of the bundle in force, 0 without one.")
	bundleSequence    = bundleDesc("sequence", "Sequence number of the bundle in force, 0 where it has none.")
	bundleActivated   = bundleDesc("activated_timestamp_seconds", "When the bundle in force came into force, 0 without one.")
)

func bundleDesc(name, help string, more ...string) *prometheus.Desc {
	return prometheus.NewDesc("latchkey_bundle_"+name, help, append(bundleLabels[:1:1], more...), nil)
}

// Describe implements prometheus.Collector.
func (*pulledBundles) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{bundleRequests, bundleNotModified, bundleDownloads, bundleActivations, bundleBytes, bundleFailures, bundleSize, bundleSequence, bundleActivated} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (p *pulledBundles) Collect(ch chan<- prometheus.Metric) {
	for _, b := range p.list {
		c := b.Counters()
		counter := func(d *prometheus.Desc, n uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), append([]string{b.source.Name}, labels...)...)
		}
		gauge := func(d *prometheus.Desc, n float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, b.source.Name)
		}
		counter(bundleRequests, c.Requests)
		counter(bundleNotModified, c.NotModified)
		counter(bundleDownloads, c.Downloads)
		counter(bundleActivations, c.Activations)
		counter(bundleBytes, c.Bytes)
		for code, n := range c.Failures {
			counter(bundleFailures, n, code)
		}
		gauge(bundleSize, float64(c.Size))
		gauge(bundleSequence, float64(c.Sequence))
		var at float64
		if !c.ActivatedAt.IsZero() {
			at = float64(c.ActivatedAt.UnixMicro()) / 1e6
		}
		gauge(bundleActivated, at)
	}
}
