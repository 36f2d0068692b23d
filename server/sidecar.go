package server

import (
	"context"
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Limits of sidecars.
const (
	maxFeedWait            = 30 * time.Second
	maxFeedWaiters         = 4096 // at a time, in the process; each holds a connection
	maxCustomerFeedWaiters = 1024 // of them, of one customer
	maxSidecarType         = 256  // bytes of a subject's or resource's type
	shareLook              = 50 * time.Millisecond
	maxFills               = 16 // under way at a time
	fillTime               = 2 * time.Second
)

// Filler puts a record, that was asked for and is signed, where other nodes
// find it. read is when its making began. It may be called beside itself.
type Filler interface {
	Fill(ctx context.Context, record *feed.Record, signed []byte, read latchkey.Instant) error
}

func mayFollow(c *authz.Caller) error {
	if c.IsRoot() {
		return nil
	}
	return authz.MayFollow(c, c.Customer.ID)
}

// sidecarKeys answers what a sidecar begins with: the public keys that what it
// follows is signed with, and how far its customer's changes go.
func (s *Server) sidecarKeys(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	at, _, err := s.cfg.Feed.Position(ctx, r.caller.Customer.ID)
	if err != nil {
		return err
	}
	public := s.cfg.Feed.Signer().Public()
	b := strictjson.AppendString(append(r.out[:0], `{"customer":`...), r.caller.Customer.ID)
	b = strconv.AppendInt(append(b, `,"epoch":`...), s.cfg.Feed.Epoch(), 10)
	b = strconv.AppendInt(append(b, `,"head":`...), at.Seq, 10)
	b = strconv.AppendInt(append(b, `,"policies":`...), at.Policies, 10)
	b = strictjson.AppendString(append(b, `,"max_staleness":`...), s.cfg.MaxStaleness.String())
	b = strictjson.AppendString(append(b, `,"keys":[{"id":`...), feed.KeyID(public))
	b = strictjson.AppendString(append(b, `,"public_key":`...), base64.StdEncoding.EncodeToString(public))
	r.out = append(b, `}]}`...)
	return r.json(http.StatusOK)
}

// sidecarKey answers the record of a key, found by its id or by the kid of one
// of its secrets.
func (s *Server) sidecarKey(r *request) error {
	q := r.query("id", "kid")
	id, byID := q.values["id"]
	kid, byKid := q.values["kid"]
	if byID == byKid {
		q.fault("id", "invalid_parameter", "want either id or kid")
	}
	if err := q.err(); err != nil {
		return err
	}
	ref := feed.Ref{Kind: feed.Key, ID: id}
	if byKid {
		ref = feed.Ref{Kind: feed.Secret, ID: kid}
	}
	return s.sidecarRecord(r, ref)
}

func (s *Server) sidecarSubject(r *request) error  { return s.sidecarEntity(r, feed.Subject) }
func (s *Server) sidecarResource(r *request) error { return s.sidecarEntity(r, feed.Resource) }

// sidecarEntity answers the record of a subject or a resource, whether or not
// anything is stored of it.
func (s *Server) sidecarEntity(r *request, kind feed.Kind) error {
	q := r.query("type", "id")
	ref := feed.Ref{Kind: kind, Type: q.name("type", maxSidecarType), ID: q.name("id", scopes.MaxID)}
	if err := q.err(); err != nil {
		return err
	}
	return s.sidecarRecord(r, ref)
}

// name reads a required text, as decisions take one.
func (q *query) name(name string, most int) string {
	text := q.values[name]
	if text == "" || len(text) > most || strings.ContainsRune(text, 0) || !utf8.ValidString(text) {
		q.fault(name, "invalid_parameter", "want 1 to "+strconv.Itoa(most)+" bytes of UTF-8 without U+0000")
	}
	return text
}

func (s *Server) sidecarRecord(r *request, ref feed.Ref) error {
	ctx, cancel := r.context()
	defer cancel()
	read := latchkey.InstantOf(s.cfg.Now())
	record, text, err := s.cfg.Feed.Record(ctx, r.caller.Customer.ID, ref)
	if err != nil {
		return err
	}
	if record.Ref.Kind == feed.Key && !record.Exists() {
		return errKeyNotFound
	}
	s.fills.fill(record, text, read)
	r.c.Response().Header.Set("Cache-Control", "no-store")
	r.out = append(r.out[:0], text...)
	r.flush(http.StatusOK, "text/plain; charset=utf-8")
	return nil
}

// fills hands records on, beside the requests that asked for them.
type fills struct {
	to      Filler // nil for nowhere
	places  chan struct{}
	running sync.WaitGroup
	dropped atomic.Int64
}

func (f *fills) fill(record *feed.Record, signed []byte, read latchkey.Instant) {
	if f.to == nil {
		return
	}
	select {
	case f.places <- struct{}{}:
	default: // it is as well asked for again
		f.dropped.Add(1)
		return
	}
	f.running.Go(func() {
		defer func() { <-f.places }()
		ctx, cancel := context.WithTimeout(context.Background(), fillTime)
		defer cancel()
		if err := f.to.Fill(ctx, record, signed, read); err != nil {
			f.dropped.Add(1)
		}
	})
}

// sidecarFeed answers what has changed after the change that the node has
// applied, and notes that it has. With Prefer: wait it answers once there is
// something, or the time is over.
func (s *Server) sidecarFeed(r *request) error {
	q := r.query("after", "epoch", "node")
	node := authz.Node{Customer: r.caller.Customer.ID, ID: q.values["node"], Epoch: q.count("epoch"), Seq: q.count("after")}
	if !authz.ValidNode(node.ID) {
		q.fault("node", "invalid_parameter", "want 1 to 128 of [A-Za-z0-9._:-]")
	}
	if err := q.err(); err != nil {
		return err
	}
	prefer, err := r.preferences()
	if err != nil {
		return err
	}
	node.SeenAt = r.now
	s.cfg.Nodes.Seen(node)
	var page authz.FeedPage
	known := node.Epoch == s.cfg.Feed.Epoch() // of another epoch, its numbers mean nothing
	if known {
		waited := false
		if page, waited, err = s.awaitChange(r, node, min(prefer.waits, maxFeedWait)); err != nil {
			return err
		}
		if waited {
			node.SeenAt = latchkey.InstantOf(s.cfg.Now())
			s.cfg.Nodes.Seen(node)
		}
	}
	ctx, cancel := r.context()
	defer cancel()
	beat, at, err := s.cfg.Feed.Heartbeat(ctx, node.Customer)
	if err != nil {
		return err
	}
	switch {
	case !known:
		page = authz.FeedPage{Head: at.Seq, From: at.Seq + 1}
	case len(page.Messages) == 0 && page.From == node.Seq+1 && at.Seq > node.Seq:
		// There is more than this process has applied. A heartbeat that says so
		// and nothing to apply would not help the node.
		if page, err = s.cfg.Feed.Older(ctx, node.Customer, node.Seq); err != nil {
			return err
		}
	}
	b := append(r.out[:0], `{"epoch":`...)
	b = strconv.AppendInt(b, s.cfg.Feed.Epoch(), 10)
	b = strconv.AppendInt(append(b, `,"head":`...), page.Head, 10)
	b = strconv.AppendInt(append(b, `,"from":`...), page.From, 10)
	b = append(b, `,"messages":[`...)
	for i, m := range page.Messages {
		if i > 0 {
			b = append(b, ',')
		}
		b = strictjson.AppendString(b, string(m))
	}
	b = strictjson.AppendString(append(b, `],"heartbeat":`...), string(beat))
	r.out = append(b, '}')
	r.c.Response().Header.Set("Cache-Control", "no-store")
	if prefer.applied != "" {
		r.c.Set("Preference-Applied", prefer.applied)
	}
	return r.json(http.StatusOK)
}

// count reads a required whole number, 0 or more.
func (q *query) count(name string) int64 {
	n, err := strconv.ParseInt(q.values[name], 10, 64)
	if err != nil || n < 0 {
		q.fault(name, "invalid_parameter", "want a whole number from 0")
		return 0
	}
	return n
}

// awaitChange returns the changes after the one that the node has applied, once
// there are any or the wait is over.
func (s *Server) awaitChange(r *request, node authz.Node, most time.Duration) (page authz.FeedPage, waited bool, err error) {
	var waits *wait
	for woke := byChange; ; {
		changed := s.cfg.Feed.Changed(node.Customer) // before the messages
		if page, err = r.messages(node); err != nil {
			return page, waited, err
		}
		if len(page.Messages) > 0 || page.From > node.Seq+1 || most == 0 || woke != byChange {
			return page, waited && woke != byClient, nil
		}
		if waits == nil {
			if waits = r.wait(s.feedWaiters, node.Customer, most); waits == nil {
				return page, waited, s.feedWaiters.errFull()
			}
			defer waits.end()
		}
		woke, waited = waits.until(changed, 0), true
		// What held at the beginning may not hold any more.
		if err := r.checkAgain(); err != nil {
			return page, waited, err
		}
	}
}

func (r *request) messages(node authz.Node) (authz.FeedPage, error) {
	ctx, cancel := r.context()
	defer cancel()
	return r.s.cfg.Feed.Messages(ctx, node.Customer, node.Seq)
}

// changed answers a change whose client may prefer to be shown what has become
// of the record, and to wait until the nodes of the customer have applied it.
// appendTo appends the record, an object.
func (r *request) changed(prefer *preferences, seq int64, appendTo func([]byte) []byte) error {
	if !prefer.representation && !prefer.wait {
		r.c.Status(http.StatusNoContent)
		return nil
	}
	r.c.Set("Preference-Applied", prefer.applied)
	r.out = appendTo(r.out[:0])
	if !prefer.wait {
		return r.json(http.StatusOK)
	}
	applied, pending := r.awaitNodes(seq, prefer.waits)
	// This process has applied it, whatever others say in its name.
	applied = slices.DeleteFunc(applied, func(n authz.Node) bool { return n.ID == r.s.cfg.NodeID })
	pending = slices.DeleteFunc(pending, func(n authz.Node) bool { return n.ID == r.s.cfg.NodeID })
	applied = slices.Insert(applied, 0, authz.Node{ID: r.s.cfg.NodeID, Seq: seq})
	b := append(r.out[:len(r.out)-1], `,"applied":`...)
	b = append(appendNodes(b, applied), `,"pending":`...)
	r.out = append(appendNodes(b, pending), '}')
	return r.json(http.StatusOK)
}

func appendNodes(b []byte, nodes []authz.Node) []byte {
	b = append(b, '[')
	for i, n := range nodes {
		if i > 0 {
			b = append(b, ',')
		}
		b = strictjson.AppendString(append(b, `{"node":`...), n.ID)
		b = append(strconv.AppendInt(append(b, `,"seq":`...), n.Seq, 10), '}')
	}
	return append(b, ']')
}

// awaitNodes waits until all live nodes of the customer have applied a change,
// and tells which have and which have not when the time is over. The change is
// made: where there is no place to wait, it tells how things stand.
func (r *request) awaitNodes(seq int64, most time.Duration) (applied, pending []authz.Node) {
	s := r.s
	customer := r.caller.Customer.ID
	var waits *wait
	for {
		changed := s.cfg.Nodes.Changed(customer) // before they are asked
		now := latchkey.InstantOf(s.cfg.Now())
		if s.cfg.Nodes.Shared() {
			ctx, cancel := r.context()
			if err := s.cfg.Nodes.Read(ctx, customer, now); err != nil {
				s.cfg.Log.Warn("what nodes said to other servers cannot be read", "error", err.Error())
			}
			cancel()
		}
		applied, pending = s.cfg.Nodes.Standing(customer, s.cfg.Feed.Epoch(), seq, now)
		if len(pending) == 0 || most == 0 {
			return applied, pending
		}
		if waits == nil {
			if waits = r.wait(s.feedWaiters, customer, most); waits == nil {
				return applied, pending
			}
			defer waits.end()
		}
		if waits.until(changed, shareLook) != byChange {
			most = 0 // once more, and no further
		}
	}
}

// listNodes answers which nodes follow customers, and how far each has come.
func (s *Server) listNodes(r *request) error {
	q := r.query("limit", "offset", "customer")
	limit, offset := q.number("limit", 100, 1, 1000), q.number("offset", 0, 0, 1<<31-1)
	customer := q.values["customer"]
	if err := q.err(); err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	if err := s.cfg.Nodes.Read(ctx, customer, r.now); err != nil {
		return err
	}
	list := s.cfg.Nodes.List(customer)
	b := append(appendEnvelope(r.out[:0], limit, offset, len(list)), `"nodes":[`...)
	list = list[min(offset, len(list)):]
	for i, n := range list[:min(limit, len(list))] {
		if i > 0 {
			b = append(b, ',')
		}
		at, _, err := s.cfg.Feed.Position(ctx, n.Customer)
		if err != nil && latchkey.KindOf(err) != latchkey.NotFound {
			return err
		}
		b = strictjson.AppendString(append(b, `{"node":`...), n.ID)
		b = strictjson.AppendString(append(b, `,"customer":`...), n.Customer)
		b = strconv.AppendInt(append(b, `,"seq":`...), n.Seq, 10)
		b = strconv.AppendInt(append(b, `,"head":`...), at.Seq, 10)
		b = appendInstant(append(b, `,"seen_at":`...), n.SeenAt)
		b = append(strconv.AppendBool(append(b, `,"live":`...), s.cfg.Nodes.Live(n, r.now)), '}')
	}
	r.out = append(b, `]}`...)
	return r.json(http.StatusOK)
}

func (s *Server) registerFeed(registry *prometheus.Registry) {
	gauge := func(name, help string, value func() float64) {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	counter := func(name, help string, value func() float64) {
		registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value))
	}
	gauge("latchkey_sidecar_waiters", "Clients that wait for a change of their customer, or for nodes to apply one.", func() float64 { return float64(s.feedWaiters.waiting()) })
	gauge("latchkey_nodes_live", "Nodes that follow a customer and were seen lately.", func() float64 { return float64(s.cfg.Nodes.CountLive(latchkey.InstantOf(s.cfg.Now()))) })
	counter("latchkey_nodes_unremembered_total", "Times that a node was not remembered, because as many of its customer are live as may be.", func() float64 { return float64(s.cfg.Nodes.Forgotten()) })
	gauge("latchkey_feed_bytes", "About how many bytes of changes are kept for those that follow them.", func() float64 { return float64(s.cfg.Feed.Stats().Bytes) })
	counter("latchkey_feed_messages_signed_total", "Messages of changes that were signed.", func() float64 { return float64(s.cfg.Feed.Stats().Signed) })
	counter("latchkey_feed_fills_dropped_total", "Records that sidecars asked for and that were not handed on.", func() float64 { return float64(s.fills.dropped.Load()) })
}
