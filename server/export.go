package server

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
)

// Limits of exports. Each holds a connection for as long as its client reads.
const (
	maxExports         = 8 // at a time, in the process
	maxChainExports    = 2 // of them, of one chain
	exportPage         = 256
	exportPageDeadline = 30 * time.Second
	exportDeadline     = time.Hour // of a whole export
)

// eventQuery reads the filters that a list and an export share.
func (r *request) eventQuery(more ...string) (*query, audit.Filter) {
	q := r.query(append([]string{"chain", "from", "to", "actor", "action", "resource_type", "resource_name", "outcome", "request_id"}, more...)...)
	return q, audit.Filter{
		From: q.instant("from"), To: q.instant("to"),
		Actor: q.values["actor"], Action: q.values["action"], ResourceType: q.values["resource_type"],
		ResourceName: q.values["resource_name"], Outcome: q.oneOf("outcome", "", "success", "refused"), RequestID: q.values["request_id"],
	}
}

// visible narrows the filter to what the caller may see, and reports whether
// that can be anything at all.
func visible(c *authz.Caller, f *audit.Filter) bool {
	if c.SeesAllEvents() {
		return true
	}
	if f.ResourceType != "" && f.ResourceType != onlyKeys {
		return false
	}
	f.ResourceType = onlyKeys
	return true
}

// exportEvents streams the events of a chain, oldest first, one a line, up to
// the one that is the last when it begins: events are only ever added, so that
// is the chain as of one moment, with no transaction held open for the client.
func (s *Server) exportEvents(r *request) error {
	q, filter := r.eventQuery()
	chain, err := r.chain(q)
	if err != nil {
		return err
	}
	through := int64(0)
	if visible(&r.caller, &filter) {
		ctx, cancel := r.context()
		defer cancel()
		head, err := s.cfg.Events.Head(ctx, chain)
		if err != nil {
			return err
		}
		through = head.Seq
	}
	h := &r.c.Response().Header
	h.SetContentType("application/x-ndjson")
	h.Set("Cache-Control", "no-store")
	r.c.Status(http.StatusOK)
	if r.c.Method() == http.MethodHead {
		return nil // a stream would end in an empty line, which belongs to no reply
	}
	if !s.exports.begin(chain) {
		return latchkey.Errorf(latchkey.TooManyRequests, "too_many_exports", "%d exports of a chain run at a time, and %d in all; try again later", maxChainExports, maxExports)
	}
	// From here on the stream is fasthttp's to read, and in any case to close.
	r.c.Response().SetBodyStream(&export{
		s: s, chain: chain, filter: filter, through: through, id: r.id, ends: s.cfg.Now().Add(exportDeadline),
	}, -1)
	return nil
}

// export reads a chain page by page as its client takes it; a client that does
// not read costs one page of memory, and the connection's write timeout ends
// it. An export that fails is cut short without the last chunk, so that nobody
// takes it for whole.
type export struct {
	s              *Server
	chain          string
	filter         audit.Filter
	after, through int64
	id             string // of the request
	ends           time.Time
	page           []byte
	rest           []byte // of page, not read yet
	closed         sync.Once
}

// Read implements io.Reader.
func (e *export) Read(b []byte) (int, error) {
	for len(e.rest) == 0 {
		if e.after >= e.through {
			return 0, io.EOF
		}
		if err := e.next(); err != nil {
			e.s.cfg.Log.Error("audit_export", "chain", e.chain, "request_id", e.id, "error", authz.Redact(err.Error()))
			return 0, err
		}
	}
	n := copy(b, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

func (e *export) next() error {
	if !e.s.cfg.Now().Before(e.ends) {
		return context.DeadlineExceeded
	}
	ctx, cancel := context.WithTimeout(context.Background(), exportPageDeadline)
	defer cancel()
	to := min(e.after+exportPage, e.through)
	events, err := e.s.cfg.Events.EventRange(ctx, e.chain, e.filter, e.after, to)
	if err != nil {
		return err
	}
	e.after, e.page = to, e.page[:0]
	for i := range events {
		e.page = append(events[i].AppendJSON(e.page), '\n')
	}
	e.rest = e.page
	return nil
}

// Close implements io.Closer.
func (e *export) Close() error {
	e.closed.Do(func() { e.s.exports.end(e.chain) })
	return nil
}

// exports counts those that run.
type exports struct {
	mu      sync.Mutex
	running int
	byChain map[string]int
}

func (x *exports) begin(chain string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.running >= maxExports || x.byChain[chain] >= maxChainExports {
		return false
	}
	if x.byChain == nil {
		x.byChain = map[string]int{}
	}
	x.running++
	x.byChain[chain]++
	return true
}

func (x *exports) end(chain string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.running--
	if x.byChain[chain]--; x.byChain[chain] == 0 {
		delete(x.byChain, chain)
	}
}
