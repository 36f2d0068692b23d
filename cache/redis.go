package cache

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
)

// feedLength is how many changes of a customer Redis keeps, about.
const feedLength = 10_000

// How long records live in Redis: what an event has written, what was filled
// in, and how old the latter may be.
const (
	eventLife = 24 * time.Hour
	fillLife  = time.Hour
	fillAge   = time.Minute
)

// Redis is where control planes put signed records, changes and heartbeats, and
// where sidecars find them. It is trusted with nothing: who reads verifies. All
// keys of a customer begin with lk1:{CUSTOMER}:, and only control planes write.
// Safe for concurrent use.
type Redis struct {
	client redis.UniversalClient
	where  string
	stats  redisStats
}

type redisStats struct {
	reached                    atomic.Bool
	failures, denied, full     atomic.Int64
	malformed, filled, refused atomic.Int64
}

// RedisStats counts since the start.
type RedisStats struct {
	Up        bool  // the last call was answered
	Failures  int64 // calls that were not answered, or not as they should be
	Denied    int64 // … because the user may not
	Full      int64 // … for want of memory
	Malformed int64 // entries that were found and are none of ours
	Filled    int64 // records filled in
	Refused   int64 // records not filled in, as they may be out of date
}

var quiet = sync.OnceFunc(func() { redis.SetLogger(&logging.VoidLogger{}) })

// OpenRedis makes the client; it connects when it is used.
func OpenRedis(c RedisConfig) (*Redis, error) {
	o, err := c.options()
	if err != nil {
		return nil, err
	}
	quiet() // what goes wrong is told by errors
	return &Redis{client: redis.NewUniversalClient(o), where: c.Redacted()}, nil
}

// Close ends all connections.
func (r *Redis) Close() error { return r.client.Close() }

// Where is the address, without credentials.
func (r *Redis) Where() string { return r.where }

// Stats returns the counters.
func (r *Redis) Stats() RedisStats {
	s := &r.stats
	return RedisStats{Up: s.reached.Load(), Failures: s.failures.Load(), Denied: s.denied.Load(), Full: s.full.Load(),
		Malformed: s.malformed.Load(), Filled: s.filled.Load(), Refused: s.refused.Load()}
}

// done takes note of how a call went.
func (r *Redis) done(err error) error {
	switch {
	case err == nil, errors.Is(err, redis.Nil):
		r.stats.reached.Store(true)
		return nil
	case errors.Is(err, context.Canceled):
		return err
	}
	r.stats.failures.Add(1)
	var answered redis.Error
	r.stats.reached.Store(errors.As(err, &answered))
	switch {
	case redis.IsOOMError(err):
		r.stats.full.Add(1)
	case redis.IsPermissionError(err), redis.IsAuthError(err):
		r.stats.denied.Add(1)
	}
	return fmt.Errorf("redis: %w", err)
}

// keyOf is a customer's key of that name in Redis; in a Cluster all of a
// customer's are in one place.
func keyOf(customer, name string) string { return "lk1:{" + customer + "}:" + name }

const recordPrefix = "r:"

func redisRecord(customer, ref string) string { return keyOf(customer, recordPrefix+ref) }

//go:embed scripts/event.lua
var eventSource string

//go:embed scripts/fill.lua
var fillSource string

//go:embed scripts/reset.lua
var resetSource string

//go:embed scripts/nodes.lua
var nodesSource string

var (
	nodesScript = redis.NewScript(nodesSource)
	eventScript = redis.NewScript(eventSource)
	fillScript  = redis.NewScript(fillSource)
	resetScript = redis.NewScript(resetSource)
)

// Head is how far a customer's changes have come in Redis.
type Head struct {
	Epoch, Seq int64
	// Floor is the change after which Redis has had all, each record that they
	// touched among them.
	Floor int64
	// Found is false where there is no head, or none that can be read.
	Found bool
	raw   string
}

func parseHead(text string) Head {
	h := Head{raw: text}
	fields := strings.Split(text, " ")
	if len(fields) != 3 {
		return h
	}
	var err [3]error
	h.Epoch, err[0] = strconv.ParseInt(fields[0], 10, 64)
	h.Seq, err[1] = strconv.ParseInt(fields[1], 10, 64)
	h.Floor, err[2] = strconv.ParseInt(fields[2], 10, 64)
	h.Found = errors.Join(err[:]...) == nil && h.Epoch >= 0 && h.Seq >= 0 && h.Floor >= 0 &&
		text == fmt.Sprintf("%d %d %d", h.Epoch, h.Seq, h.Floor)
	return h
}

// Heads returns how far the changes of customers have come, in their order.
func (r *Redis) Heads(ctx context.Context, customers []string) ([]Head, error) {
	const atOnce = 1000
	heads := make([]Head, 0, len(customers))
	for len(customers) > 0 {
		n := min(atOnce, len(customers))
		cmds := make([]*redis.StringCmd, n)
		err := r.pipelined(ctx, func(p redis.Pipeliner) {
			for i, c := range customers[:n] {
				cmds[i] = p.Get(ctx, keyOf(c, "head"))
			}
		})
		if err != nil {
			return nil, r.done(err)
		}
		for _, cmd := range cmds {
			err := cmd.Err()
			if wrongType(err) {
				err = nil
			}
			if err := r.done(err); err != nil {
				return nil, err
			}
			heads = append(heads, parseHead(cmd.Val()))
		}
		customers = customers[n:]
	}
	return heads, nil
}

// pipelined sends commands in one go. Its error is one of all of them: that of a
// connection which was refused is on none. What became of each is told by it.
func (r *Redis) pipelined(ctx context.Context, add func(redis.Pipeliner)) error {
	cmds, err := r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		add(p)
		return nil
	})
	for _, cmd := range cmds {
		if cmd.Err() != nil {
			return nil
		}
	}
	return err
}

// Head returns how far a customer's changes have come.
func (r *Redis) Head(ctx context.Context, customer string) (Head, error) {
	heads, err := r.Heads(ctx, []string{customer})
	if err != nil {
		return Head{}, err
	}
	return heads[0], nil
}

// wrongType reports whether a key holds something that latchkey does not put
// there.
func wrongType(err error) bool { return redis.HasErrorPrefix(err, "WRONGTYPE") }

// Entry is a change as Redis takes it.
type Entry struct {
	Seq     int64
	Text    []byte   // the signed message
	All     bool     // it touched all records of some kind
	Records []Stored // what it touched
}

// Stored is a record as Redis takes it.
type Stored struct {
	Names   []string // of feed.Ref.String: its own, and for a key those of its secrets
	Version int64
	Until   latchkey.Instant
	Text    []byte // signed; none says that what is there is out of date
}

// StoredRecord is a record with its signed text, under all its names.
func StoredRecord(rec *feed.Record, text []byte) Stored {
	s := Stored{Names: []string{rec.Ref.String()}, Version: rec.Version, Until: rec.Until, Text: text}
	for _, kid := range rec.Kids() {
		s.Names = append(s.Names, feed.Ref{Kind: feed.Secret, ID: kid}.String())
	}
	return s
}

// Outcome is what has become of something that was given to Redis.
type Outcome string

// The outcomes. Only the first two have written anything.
const (
	OutcomeTaken    Outcome = "taken"
	OutcomeReset    Outcome = "reset"
	OutcomeRepeated Outcome = "repeated" // it is there already
	OutcomeGap      Outcome = "gap"      // changes before it are missing
	OutcomeNoHead   Outcome = "none"     // Redis knows nothing of the customer
	OutcomeEpoch    Outcome = "epoch"    // Redis is of another epoch
	OutcomeDamaged  Outcome = "damaged"  // the feed in Redis is not as it was left
	OutcomeMoved    Outcome = "moved"    // the head is no longer what was seen
	OutcomeNewer    Outcome = "newer"    // a newer record is there
	OutcomeFloor    Outcome = "floor"    // what came after it is not known in Redis
	OutcomeLate     Outcome = "late"     // it was read too long ago
)

// milliseconds is when a record ends, as the scripts take it: "" for never.
func milliseconds(at latchkey.Instant) string {
	if at == latchkey.Never {
		return ""
	}
	return strconv.FormatInt(int64(at)/1000+1, 10)
}

// Publish gives Redis changes in their order, each whole or not at all, and
// returns the head as it is then. It stops at the first that is neither taken
// nor there already, and says what has become of that one. One that failed may
// have been taken nonetheless; to give it again does no harm.
func (r *Redis) Publish(ctx context.Context, customer string, epoch int64, entries []Entry) (Head, Outcome, int, error) {
	var head Head
	taken := 0
	outcome := OutcomeRepeated
	err := r.scripts(ctx, eventScript, len(entries), func(i int) ([]string, []any) {
		e := &entries[i]
		keys := []string{keyOf(customer, "head"), keyOf(customer, "feed")}
		all := "0"
		if e.All {
			all = "1"
		}
		args := []any{epoch, e.Seq, e.Text, feedLength, eventLife.Milliseconds(), all}
		for _, s := range e.Records {
			until := milliseconds(s.Until)
			if len(s.Text) == 0 {
				until = "0"
			}
			for _, name := range s.Names {
				keys = append(keys, redisRecord(customer, name))
				args = append(args, s.Version, until, s.Text)
			}
		}
		return keys, args
	}, func(_ int, v any) error {
		var o Outcome
		var err error
		if o, head, err = answer(v); err != nil {
			return err
		}
		switch o {
		case OutcomeTaken:
			taken++
			outcome = OutcomeTaken
			return nil
		case OutcomeRepeated:
			return nil
		default:
			outcome = o
			return errStop
		}
	})
	return head, outcome, taken, err
}

// errStop ends what goes over answers, without being an error.
var errStop = errors.New("stop")

// answer reads what the scripts that move the head return.
func answer(v any) (Outcome, Head, error) {
	list, ok := v.([]any)
	if !ok || len(list) != 2 {
		return "", Head{}, errors.New("redis: an answer of another shape")
	}
	outcome, ok := list[0].(string)
	head, ok2 := list[1].(string)
	if !ok || !ok2 {
		return "", Head{}, errors.New("redis: an answer of another shape")
	}
	return Outcome(outcome), parseHead(head), nil
}

// scripts runs a script n times in one go, in order. A server that does not know
// it yet is told it.
func (r *Redis) scripts(ctx context.Context, s *redis.Script, n int, call func(int) ([]string, []any), take func(int, any) error) error {
	if n == 1 {
		keys, args := call(0)
		v, err := s.Run(ctx, r.client, keys, args...).Result()
		if err := r.done(err); err != nil {
			return err
		}
		if err := take(0, v); !errors.Is(err, errStop) {
			return err
		}
		return nil
	}
	for from, told := 0, false; from < n; {
		cmds := make([]*redis.Cmd, 0, n-from)
		err := r.pipelined(ctx, func(p redis.Pipeliner) {
			for i := from; i < n; i++ {
				keys, args := call(i)
				cmds = append(cmds, p.EvalSha(ctx, s.Hash(), keys, args...))
			}
		})
		if err != nil {
			return r.done(err)
		}
		for _, cmd := range cmds {
			v, err := cmd.Result()
			if redis.HasErrorPrefix(err, "NOSCRIPT") && !told {
				break
			}
			if err := r.done(err); err != nil {
				return err
			}
			if err := take(from, v); err != nil {
				if errors.Is(err, errStop) {
					return nil
				}
				return err
			}
			from++
		}
		if from < n {
			if told = true; r.done(s.Load(ctx, r.client).Err()) != nil {
				return errors.New("redis: the server does not take the script")
			}
		}
	}
	return nil
}

// Fill gives Redis a record that was read from the database at readAt, and tells
// what has become of it.
func (r *Redis) Fill(ctx context.Context, customer string, epoch int64, rec Stored, readAt latchkey.Instant) (Outcome, error) {
	var outcome Outcome
	err := r.Fills(ctx, customer, epoch, []Stored{rec}, readAt, func(_ int, o Outcome) { outcome = o })
	return outcome, err
}

// Fills is Fill for many records.
func (r *Redis) Fills(ctx context.Context, customer string, epoch int64, list []Stored, readAt latchkey.Instant, tell func(int, Outcome)) error {
	return r.scripts(ctx, fillScript, len(list), func(i int) ([]string, []any) {
		keys := []string{keyOf(customer, "head")}
		for _, name := range list[i].Names {
			keys = append(keys, redisRecord(customer, name))
		}
		return keys, []any{epoch, list[i].Version, int64(readAt) / 1000, fillAge.Milliseconds(), fillLife.Milliseconds(), milliseconds(list[i].Until), list[i].Text}
	}, func(i int, v any) error {
		text, _ := v.(string)
		if tell != nil {
			tell(i, Outcome(text))
		}
		if Outcome(text) == OutcomeTaken {
			r.stats.filled.Add(1)
		} else {
			r.stats.refused.Add(1)
		}
		return nil
	})
}

// Reset makes a customer begin anew after the change seq, where the head is
// still the one that was seen and not of a later epoch.
func (r *Redis) Reset(ctx context.Context, customer string, seen Head, epoch, seq int64) (Head, Outcome, error) {
	var head Head
	var outcome Outcome
	err := r.scripts(ctx, resetScript, 1, func(int) ([]string, []any) {
		return []string{keyOf(customer, "head"), keyOf(customer, "feed"), keyOf(customer, "beat")}, []any{seen.raw, epoch, seq}
	}, func(_ int, v any) (err error) {
		outcome, head, err = answer(v)
		return err
	})
	return head, outcome, err
}

// Get finds the signed text of a record, in one round trip; who asked verifies
// it. What is there and is no record of ours is counted, and not found.
func (r *Redis) Get(ctx context.Context, customer string, ref feed.Ref) (text []byte, found bool, err error) {
	value, err := r.client.Get(ctx, redisRecord(customer, ref.String())).Bytes()
	if wrongType(err) {
		r.stats.malformed.Add(1)
		return nil, false, nil
	}
	missing := errors.Is(err, redis.Nil)
	if err := r.done(err); err != nil || missing {
		return nil, false, err
	}
	for i, c := range value {
		if c == '|' {
			return value[i+1:], len(value) > i+1, nil
		}
	}
	r.stats.malformed.Add(1)
	return nil, false, nil
}

// Beat gives Redis a customer's signed heartbeat, in place of the one before.
type Beat struct {
	Customer string
	Text     []byte
}

// Beats gives Redis heartbeats.
func (r *Redis) Beats(ctx context.Context, beats []Beat) error {
	const atOnce = 1000
	for batch := range slices.Chunk(beats, atOnce) {
		cmds, err := r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := range batch {
				batch[i].add(ctx, p)
			}
			return nil
		})
		if len(cmds) != len(batch) {
			return r.done(err)
		}
		err = nil
		for i := range batch {
			failed := cmds[i].Err()
			if badStream(failed) {
				r.stats.malformed.Add(1)
				_, failed = r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
					p.Del(ctx, keyOf(batch[i].Customer, "beat"))
					batch[i].add(ctx, p)
					return nil
				})
			}
			if err == nil { // one customer's says nothing of the others'
				err = failed
			}
		}
		if err := r.done(err); err != nil {
			return err
		}
	}
	return nil
}

func (b *Beat) add(ctx context.Context, p redis.Pipeliner) {
	p.XAdd(ctx, &redis.XAddArgs{Stream: keyOf(b.Customer, "beat"), MaxLen: 1, Values: []any{"h", b.Text}})
}

// badStream reports whether nothing can be added to a stream, as somebody else
// has left it: it is none, or its numbers are at their end.
func badStream(err error) bool {
	return wrongType(err) || redis.HasErrorPrefix(err, "The stream has exhausted")
}

// nodeLife is how long it is kept what a node said.
const nodeLife = time.Hour

// RedisNodes shares what nodes said of themselves among control planes.
type RedisNodes struct {
	redis     *Redis
	customers func() []string
}

var _ authz.NodeStore = (*RedisNodes)(nil)

// NewRedisNodes makes one; customers lists all that there are.
func NewRedisNodes(r *Redis, customers func() []string) *RedisNodes {
	return &RedisNodes{r, customers}
}

// WriteNodes implements authz.NodeStore.
func (n *RedisNodes) WriteNodes(ctx context.Context, nodes []authz.Node) error {
	of := map[string][]any{}
	for _, node := range nodes {
		of[node.Customer] = append(of[node.Customer], node.ID, fmt.Sprintf("%d %d %d", node.Epoch, node.Seq, int64(node.SeenAt)), int64(node.SeenAt))
	}
	customers := slices.Sorted(maps.Keys(of))
	return n.redis.scripts(ctx, nodesScript, len(customers), func(i int) ([]string, []any) {
		return []string{keyOf(customers[i], "nodes")}, of[customers[i]]
	}, func(int, any) error { return nil })
}

// Nodes implements authz.NodeStore. Those that have long been gone are
// forgotten.
func (n *RedisNodes) Nodes(ctx context.Context, customer string, since latchkey.Instant) ([]authz.Node, error) {
	customers := []string{customer}
	if customer == "" {
		customers = n.customers()
	}
	var list []authz.Node
	for _, c := range customers {
		all, err := n.redis.client.HGetAll(ctx, keyOf(c, "nodes")).Result()
		if wrongType(err) {
			n.redis.stats.malformed.Add(1)
			continue
		}
		if err := n.redis.done(err); err != nil {
			return nil, err
		}
		var gone []string
		for id, said := range all {
			node := authz.Node{Customer: c, ID: id}
			_, err := fmt.Sscanf(said, "%d %d %d", &node.Epoch, &node.Seq, (*int64)(&node.SeenAt))
			switch {
			case err != nil || !authz.ValidNode(id):
				n.redis.stats.malformed.Add(1)
				gone = append(gone, id)
			case node.SeenAt >= since:
				list = append(list, node)
			case node.SeenAt.Add(nodeLife) < since:
				gone = append(gone, id)
			}
		}
		if len(gone) > 0 {
			if err := n.redis.done(n.redis.client.HDel(ctx, keyOf(c, "nodes"), gone...).Err()); err != nil {
				return list, err
			}
		}
	}
	return list, nil
}

// ErrRedisTooOld answers a server that lacks what the scripts need.
var ErrRedisTooOld = errors.New("redis: the server is older than 6.2")

// Health is what a Redis server says of itself.
type Health struct {
	Version string
	// Policy is its maxmemory-policy; any but noeviction drops what nobody may
	// drop.
	Policy string
}

// Evicts reports whether the server may drop records to make room.
func (h Health) Evicts() bool { return h.Policy != "noeviction" && h.Policy != "" }

// Health asks the server, or every one of a Cluster that takes writes, and tells
// the worst.
func (r *Redis) Health(ctx context.Context) (worst Health, err error) {
	if cluster, ok := r.client.(*redis.ClusterClient); ok {
		var mu sync.Mutex
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
			h, err := r.health(ctx, c)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && (worst.Version == "" || h.Evicts()) {
				worst = h
			}
			return err
		})
		return worst, err
	}
	return r.health(ctx, r.client)
}

func (r *Redis) health(ctx context.Context, c redis.Cmdable) (h Health, err error) {
	text, err := c.Info(ctx).Result()
	if err := r.done(err); err != nil {
		return h, err
	}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "redis_version":
			h.Version = value
		case "maxmemory_policy":
			h.Policy = value
		}
	}
	var major, minor int
	if n, _ := fmt.Sscanf(h.Version, "%d.%d", &major, &minor); n == 2 && (major < 6 || major == 6 && minor < 2) {
		return h, fmt.Errorf("%w: %s", ErrRedisTooOld, h.Version)
	}
	return h, nil
}
