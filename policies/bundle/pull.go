package bundle

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/latchkey-dev/latchkey"
)

// Config is how one bundle is pulled. Durations that are zero have defaults.
type Config struct {
	// Name is what the bundle is called in the status.
	Name string
	// Customer is whose policies the bundle holds.
	Customer string
	// Source is an http or https URL, a file URL, or a path.
	Source string
	Limits Limits
	// Keys verify signatures; see [Options].
	Keys             *Keys
	SkipVerification bool

	// MinDelay and MaxDelay bound the time between polls, 60 and 120 s.
	MinDelay, MaxDelay time.Duration
	// LongPoll is how long a server that can may hold its answer, 5 min; it is
	// not asked to when negative.
	LongPoll time.Duration
	// MinRetry and MaxRetry bound the time after failures, 1 s and 2 min.
	MinRetry, MaxRetry time.Duration
	// IdleTimeout bounds a server's silence, 30 s; Timeout a whole download,
	// 5 min.
	IdleTimeout, Timeout time.Duration

	// Token returns the bearer token; nil for none. It is not sent in plain
	// text to another machine, unless AllowInsecure says so.
	Token         func() (string, error)
	AllowInsecure bool
	// RootCAs sign the server's certificate; nil for the system's.
	RootCAs *x509.CertPool
	// Certificate is the client's own, where the server wants one; nil for none.
	Certificate func() (*tls.Certificate, error)
	// Dial opens connections; nil for a plain dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Dir keeps the last good bundle; "" for nowhere.
	Dir string

	// Now is the clock, and Jitter a number from 0 to 1 at random.
	Now    func() time.Time
	Jitter func() float64
	// Activate puts a bundle into force. After an error the one before stays;
	// a *latchkey.Error is shown with its code and faults.
	Activate func(context.Context, *Bundle) error
	Log      *slog.Logger
}

func (c *Config) setDefaults() error {
	for _, d := range []struct {
		value    *time.Duration
		standard time.Duration
	}{
		{&c.MinDelay, time.Minute}, {&c.MaxDelay, 2 * time.Minute}, {&c.LongPoll, 5 * time.Minute},
		{&c.MinRetry, time.Second}, {&c.MaxRetry, 2 * time.Minute},
		{&c.IdleTimeout, 30 * time.Second}, {&c.Timeout, 5 * time.Minute},
	} {
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	c.Limits = c.Limits.withDefaults()
	switch {
	case !latchkey.ValidName(c.Customer):
		return errors.New("a bundle is pulled for a customer")
	case c.Source == "":
		return errors.New("a bundle needs a source")
	case c.MinDelay < 0 || c.MinDelay > c.MaxDelay || c.MinRetry < 0 || c.MinRetry > c.MaxRetry:
		return errors.New("a delay's lower bound is above its upper one")
	case c.IdleTimeout < 0 || c.Timeout < 0:
		return errors.New("a timeout is below zero")
	case c.Now == nil || c.Jitter == nil || c.Activate == nil || c.Log == nil:
		return errors.New("a puller needs a clock, chance, a log, and somebody who activates")
	}
	if c.Name == "" {
		c.Name = c.Customer
	}
	c.LongPoll = c.LongPoll.Truncate(time.Second)
	return nil
}

// Puller keeps one customer's bundle up to date. Whatever goes wrong, the last
// good one stays in force.
type Puller struct {
	cfg    Config
	source source
	disk   lastGood
	wake   chan struct{}

	mu       sync.Mutex
	status   Status
	counters Counters

	// Only Run touches these.
	etag     string  // of the bundle in force, as the source names it
	digest   string  // of its bytes
	origin   *Origin // of the newest one seen, in force or not compiling
	longPoll bool
	retries  int
	unsaved  *unsaved
}

// unsaved is the bundle in force while the disk did not take it.
type unsaved struct {
	raw  []byte
	note note
}

// NewPuller checks the configuration; it does no I/O.
func NewPuller(cfg Config) (*Puller, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	src, err := sourceOf(&cfg)
	if err != nil {
		return nil, err
	}
	return &Puller{
		cfg: cfg, source: src, disk: lastGood{cfg.Dir}, wake: make(chan struct{}, 1),
		status:   Status{Name: cfg.Name, Customer: cfg.Customer, Source: src.String()},
		counters: Counters{Failures: map[string]uint64{}},
	}, nil
}

// Trigger asks for a poll now, if none is under way.
func (p *Puller) Trigger() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run puts the last good bundle into force and then polls until ctx ends. It
// is called once.
func (p *Puller) Run(ctx context.Context) {
	if h, ok := p.source.(*httpSource); ok {
		defer h.close()
	}
	p.coldStart(ctx)
	for {
		delay := p.round(ctx)
		if ctx.Err() != nil {
			return
		}
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-p.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// coldStart serves what was good before, without the server. It is checked as
// if it came from there: the disk is no more trusted than the network.
func (p *Puller) coldStart(ctx context.Context) {
	raw, n, err := p.disk.load(p.cfg.Limits.Size)
	if err == nil && raw == nil {
		return
	}
	var b *Bundle
	if err == nil {
		b, err = Read(raw, p.options())
	}
	if err == nil {
		if n.Source == p.source.String() {
			p.origin = b.Origin // nothing older from there, even if this one no longer compiles
		}
		err = p.cfg.Activate(ctx, b)
	}
	if err != nil {
		p.failed(err)
		p.cfg.Log.LogAttrs(ctx, slog.LevelError, "the bundle on disk cannot be used", slog.String("bundle", p.cfg.Name), slog.Any("error", err))
		return
	}
	if n.Source != p.source.String() { // it says nothing of this source's tags and sequences
		p.activated(ctx, b, "")
		p.origin = nil
		return
	}
	p.longPoll = n.LongPoll
	p.activated(ctx, b, n.ETag)
}

func (p *Puller) options() Options {
	return Options{Limits: p.cfg.Limits, Keys: p.cfg.Keys, SkipVerification: p.cfg.SkipVerification, Customer: p.cfg.Customer, After: p.origin}
}

// minRound is the least time between two requests to a server that answers at
// once though it was asked to wait.
const minRound = time.Second

// round polls once and returns how long to wait before the next.
func (p *Puller) round(ctx context.Context) time.Duration {
	began := p.cfg.Now()
	var wait time.Duration
	if p.longPoll && p.cfg.LongPoll > 0 {
		wait = p.cfg.LongPoll
	}
	fresh, err := p.poll(ctx, began, wait)
	if err != nil {
		if ctx.Err() != nil {
			return 0
		}
		p.failed(err)
		p.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "the bundle was not updated", slog.String("bundle", p.cfg.Name), slog.Any("error", err))
		return p.backoff()
	}
	p.retries = 0
	p.note(func(s *Status, _ *Counters) { s.Code, s.Message, s.Errors = "", "", nil })
	if !p.longPoll || p.cfg.LongPoll <= 0 {
		return p.delay()
	}
	took := p.cfg.Now().Sub(began)
	if wait > 0 && !fresh && took < min(wait/2, 10*time.Second) {
		return p.delay() // it does not wait after all
	}
	return max(0, minRound-took)
}

// poll asks the source and activates what is new. fresh says that a bundle
// came into force.
func (p *Puller) poll(ctx context.Context, now time.Time, wait time.Duration) (fresh bool, err error) {
	p.note(func(s *Status, c *Counters) { s.LastRequest = now; c.Requests++ })
	got, err := p.source.fetch(ctx, p.etag, wait)
	if err != nil {
		return false, err
	}
	p.longPoll = got.longPoll
	now = p.cfg.Now()
	p.note(func(s *Status, c *Counters) {
		s.LastSuccessfulRequest = now
		c.Bytes += uint64(len(got.raw))
		if got.notModified {
			c.NotModified++
		}
	})
	if got.raw == nil {
		return false, p.save(p.unsaved)
	}
	p.note(func(s *Status, c *Counters) { s.LastSuccessfulDownload = now; c.Downloads++ })
	if digest(got.raw) == p.digest { // a server without tags, or the same under another
		p.etag = got.etag
		p.note(func(s *Status, _ *Counters) { s.ActiveETag = got.etag })
		return false, p.save(p.unsaved)
	}
	b, err := Read(got.raw, p.options())
	if err != nil {
		return false, err
	}
	if err := p.cfg.Activate(ctx, b); err != nil {
		return false, err
	}
	p.activated(ctx, b, got.etag)
	return true, p.save(&unsaved{got.raw, note{Source: p.source.String(), ETag: got.etag, LongPoll: got.longPoll}})
}

// save keeps the bundle in force on disk, and remembers it for the next round
// where that fails.
func (p *Puller) save(u *unsaved) error {
	if p.unsaved = u; u == nil {
		return nil
	}
	if err := p.disk.save(u.raw, u.note); err != nil {
		return latchkey.Errorf(latchkey.Internal, CodePersistFailed, "the bundle is in force and could not be kept on disk").Because(err)
	}
	p.unsaved = nil
	return nil
}

func (p *Puller) activated(ctx context.Context, b *Bundle, etag string) {
	p.etag, p.digest, p.origin = etag, b.Digest, b.Origin
	now := p.cfg.Now()
	var sequence int64
	if b.Origin != nil {
		sequence = b.Origin.Sequence
	}
	p.note(func(s *Status, c *Counters) {
		s.ActiveRevision, s.ActiveETag, s.ActiveSequence, s.Signed = b.Revision, etag, sequence, b.Signed
		s.LastSuccessfulActivation = now
		c.Activations++
		c.Size, c.Sequence, c.ActivatedAt = b.Size, sequence, now
	})
	p.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "the bundle is in force", slog.String("bundle", p.cfg.Name), slog.String("revision", b.Revision),
		slog.Int("policies", len(b.Policies)), slog.Int("sets", len(b.Sets)))
}

// delay is the time to the next poll; nodes that start together do not poll
// together.
func (p *Puller) delay() time.Duration {
	return p.cfg.MinDelay + time.Duration(p.cfg.Jitter()*float64(p.cfg.MaxDelay-p.cfg.MinDelay))
}

// backoff doubles from MinRetry to MaxRetry, less up to a half at random.
func (p *Puller) backoff() time.Duration {
	d := p.cfg.MaxRetry
	if p.retries < 32 {
		d = min(d, p.cfg.MinRetry<<p.retries)
	}
	if d <= 0 { // the shift ran over
		d = p.cfg.MaxRetry
	}
	p.retries++
	return d - time.Duration(p.cfg.Jitter()*float64(d/2))
}

func asError(err error) (*latchkey.Error, bool) { return errors.AsType[*latchkey.Error](err) }
