package authz

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
)

// Limits of what is kept of refusals. Whoever is refused chooses how often, and
// from how many addresses; neither may fill memory or the audit trail.
const (
	refusalsPerChain = 100              // distinct ones a minute
	strangersTotal   = 20               // of them, of callers without a known key
	refusalsKept     = 10 * time.Minute // for a database that does not answer
	refusalsOther    = "other"          // stands for the ones beyond
)

// Refusal is one request that was refused: forbidden, in conflict, or without a
// credential that holds.
type Refusal struct {
	// Chain is the customer's, or audit.SystemChain.
	Chain  string
	Actor  audit.Actor
	Action string // as "access_key.create"
	Code   string // why
	At     latchkey.Instant
}

// Stranger is the actor of a failed authentication that no key is known for. An
// IPv6 network is one actor, whatever address of it calls.
func Stranger(source netip.Addr) audit.Actor {
	a := audit.Actor{Type: "anonymous", ID: "unknown"}
	if source.IsValid() {
		a.ID, a.IP = Network(source).String(), source.String()
	}
	return a
}

// Network is what one party holds: an IPv4 address, or an IPv6 /64.
func Network(addr netip.Addr) netip.Addr {
	if !addr.Is6() || addr.Is4In6() {
		return addr.Unmap()
	}
	prefix, err := addr.WithZone("").Prefix(64)
	if err != nil {
		return addr
	}
	return prefix.Addr()
}

// Refusals sums up refusals, so that each actor, action and code is one event a
// minute, however often it came. A background loop calls RunOnce. Safe for
// concurrent use; a nil *Refusals notes nothing.
type Refusals struct {
	record  Record
	dropped atomic.Int64

	mu   sync.Mutex
	sums map[refusalKey]*refusalSum
	// distinct counts the entries of a chain and minute, and of those the
	// strangers.
	distinct map[chainMinute]*[2]int
}

type refusalKey struct {
	chainMinute
	actorType, actorID, action, code string
}

type chainMinute struct {
	chain  string
	minute latchkey.Instant
}

type refusalSum struct {
	actor       audit.Actor
	count       int64
	first, last latchkey.Instant
}

// NewRefusals makes a gatherer that writes to record.
func NewRefusals(record Record) *Refusals {
	return &Refusals{record: record, sums: map[refusalKey]*refusalSum{}, distinct: map[chainMinute]*[2]int{}}
}

// Dropped counts the refusals that went unrecorded because the database did not
// take them in time.
func (r *Refusals) Dropped() int64 { return r.dropped.Load() }

// Note counts one refusal. It keeps none of its strings.
func (r *Refusals) Note(f *Refusal) {
	if r == nil {
		return
	}
	key := refusalKey{chainMinute{f.Chain, minuteOf(f.At)}, f.Actor.Type, f.Actor.ID, f.Action, f.Code}
	r.mu.Lock()
	defer r.mu.Unlock()
	if sum := r.sums[key]; sum != nil {
		sum.add(f.At)
		return
	}
	actor := f.Actor
	key.chain = strings.Clone(key.chain)
	n := r.distinct[key.chainMinute]
	if n == nil {
		n = &[2]int{}
		r.distinct[key.chainMinute] = n
	}
	stranger := actor.Type == "anonymous"
	if n[0] >= refusalsPerChain || stranger && n[1] >= strangersTotal {
		key = refusalKey{chainMinute: key.chainMinute, actorType: refusalsOther, actorID: refusalsOther, action: refusalsOther, code: refusalsOther}
		actor = audit.Actor{Type: refusalsOther, ID: refusalsOther}
		if sum := r.sums[key]; sum != nil {
			sum.add(f.At)
			return
		}
	} else {
		n[0]++
		if stranger {
			n[1]++
		}
		key.actorType, key.actorID = strings.Clone(key.actorType), strings.Clone(key.actorID)
		key.action, key.code = strings.Clone(key.action), strings.Clone(key.code)
	}
	r.sums[key] = &refusalSum{actor: actor, count: 1, first: f.At, last: f.At}
}

func (s *refusalSum) add(at latchkey.Instant) {
	s.count++
	s.first, s.last = min(s.first, at), max(s.last, at)
}

func minuteOf(at latchkey.Instant) latchkey.Instant {
	const minute = latchkey.Instant(time.Minute / time.Microsecond)
	return at - at%minute
}

// RunOnce writes the sums of the minutes that are over, at the end of the
// process of the one that runs too, and returns how many events that made. What
// cannot be written stays for the next time, for ten minutes.
func (r *Refusals) RunOnce(ctx context.Context, now latchkey.Instant, final bool) (written int, err error) {
	entries := r.take(now, final)
	for i := range entries {
		failed := r.write(ctx, &entries[i], now)
		if failed == nil {
			written++
			continue
		}
		if err == nil {
			err = fmt.Errorf("write the refusals of chain %s: %w", entries[i].chain, failed)
		}
		r.putBack(&entries[i], now)
		if ctx.Err() != nil || latchkey.KindOf(failed) == latchkey.Unavailable {
			for j := range entries[i+1:] { // they would fail alike, each after a wait
				r.putBack(&entries[i+1+j], now)
			}
			break
		}
	}
	return written, err
}

type refusalEntry struct {
	refusalKey
	refusalSum
}

// take removes what is ready, in the order in which it began.
func (r *Refusals) take(now latchkey.Instant, final bool) (ready []refusalEntry) {
	current := minuteOf(now)
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, sum := range r.sums {
		if final || key.minute < current {
			ready = append(ready, refusalEntry{key, *sum})
			delete(r.sums, key)
		}
	}
	for at := range r.distinct {
		if final || at.minute < current {
			delete(r.distinct, at)
		}
	}
	slices.SortFunc(ready, func(a, b refusalEntry) int {
		return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.chain, b.chain), cmp.Compare(a.actorID, b.actorID),
			cmp.Compare(a.action, b.action), cmp.Compare(a.code, b.code))
	})
	return ready
}

func (r *Refusals) putBack(e *refusalEntry, now latchkey.Instant) {
	if now >= e.minute.Add(refusalsKept) {
		r.dropped.Add(e.count)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	sum := e.refusalSum
	if late := r.sums[e.refusalKey]; late != nil { // the clock of a request was behind
		sum.count += late.count
		sum.first, sum.last = min(sum.first, late.first), max(sum.last, late.last)
	}
	r.sums[e.refusalKey] = &sum
}

// write makes the event, in a change of its own. One of a customer that has
// ended goes to the system's chain, since its own takes no more.
func (r *Refusals) write(ctx context.Context, e *refusalEntry, now latchkey.Instant) error {
	chain := e.chain
	about, _, _ := strings.Cut(e.action, ".")
	changes := append(strconv.AppendInt([]byte(`{"count":`), e.count, 10), `,"first_at":"`...)
	changes = append(e.first.AppendText(changes), `","last_at":"`...)
	changes = append(e.last.AppendText(changes), `"}`...)
	for {
		err := r.record.Change(ctx, Change{Chain: chain, At: now}, func(Tx) (audit.Draft, error) {
			return audit.Draft{
				ID: uuid.NewString(), At: now, Actor: e.actor, Action: e.action, Resource: audit.Resource{Type: about},
				Outcome: "refused", Reason: e.code, Changes: string(changes),
			}, nil
		})
		if latchkey.KindOf(err) != latchkey.NotFound || chain == audit.SystemChain {
			return err
		}
		chain = audit.SystemChain
	}
}
