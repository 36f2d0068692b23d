package cache

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/latchkey-dev/latchkey/feed"
)

// Posted is a signed text that lies in Redis, not verified: a message, or a
// heartbeat.
type Posted struct {
	Beat bool
	Seq  int64 // of a message, as Redis has it
	Text []byte
}

// Limits of reading what is posted.
const (
	followBlock = 2 * time.Second // how long Redis waits for something to come
	followGrace = 2 * time.Second // and how much later its answer may be here
	followCount = 64              // messages of one answer
	followLeast = 50 * time.Millisecond
	followMost  = 2 * time.Second
)

// Follow hands over a customer's messages after the given change, in the order
// of their numbers, and its heartbeats, until the context ends; what goes wrong
// meanwhile is told to failed, and tried again with a growing, random delay.
// Messages that Redis has dropped are left out: who follows finds the gap. When
// a heartbeat tells of another epoch, or of a head that does not come, who
// follows begins anew. Calls of take and failed come one after the other.
//
// An entry that no control plane has put there, wherever in the feed, is passed
// over, and keeps nothing that comes later from being read.
func (r *Redis) Follow(ctx context.Context, customer string, after int64, take func(Posted), failed func(error)) {
	streams := []string{keyOf(customer, "feed"), keyOf(customer, "beat"), idOf(after), "0-0"}
	// By its text: one that is there anew after a reset may have the id of the one
	// before.
	var beat []byte
	delay := followLeast
	for ctx.Err() == nil {
		found, err := r.wait(ctx, streams)
		switch {
		case errors.Is(err, redis.Nil):
			// Nothing came. After a failover a server may count heartbeats from where it
			// was before: the last one is asked for whatever its place.
			streams[2], streams[3], delay = idOf(after), "0-0", followLeast
			continue
		case err != nil:
			if ctx.Err() != nil {
				return
			}
			failed(r.done(err))
			timer := time.NewTimer(delay/2 + rand.N(delay))
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
			}
			delay = min(2*delay, followMost)
			streams[2], streams[3] = idOf(after), "0-0"
			continue
		}
		_ = r.done(nil)
		delay = followLeast
		for _, stream := range found {
			for _, m := range stream.Messages {
				if stream.Stream == streams[1] {
					streams[3] = m.ID
					if text := field(m, "h"); !bytes.Equal(text, beat) {
						beat = text
						take(Posted{Beat: true, Text: text})
						streams[2] = idOf(after) // what was passed over may have made room
					}
					continue
				}
				streams[2] = m.ID
				seq, ok := seqOf(m.ID)
				if !ok || seq <= after { // none that a control plane has put there
					r.stats.malformed.Add(1)
					continue
				}
				take(Posted{Seq: seq, Text: field(m, "m")})
				after = seq
			}
		}
	}
}

// wait reads what comes after the given places, with redis.Nil when nothing came
// in time.
func (r *Redis) wait(ctx context.Context, streams []string) ([]redis.XStream, error) {
	ctx, cancel := context.WithTimeout(ctx, followBlock+followGrace)
	defer cancel()
	return r.client.XRead(ctx, &redis.XReadArgs{Streams: streams, Count: followCount, Block: followBlock}).Result()
}

func field(m redis.XMessage, name string) []byte {
	text, _ := m.Values[name].(string)
	return []byte(text)
}

// idOf is the place of a change in the feed.
func idOf(seq int64) string { return strconv.FormatInt(seq, 10) + "-0" }

// seqOf reads the number of a change from its place in the feed.
func seqOf(id string) (int64, bool) {
	first, second, _ := strings.Cut(id, "-")
	seq, err := strconv.ParseInt(first, 10, 64)
	return seq, err == nil && second == "0" && seq > 0
}

// Feed returns up to limit messages after the given change, of those that Redis
// still has.
func (r *Redis) Feed(ctx context.Context, customer string, after int64, limit int) ([]Posted, error) {
	found, err := r.client.XRead(ctx, &redis.XReadArgs{Streams: []string{keyOf(customer, "feed"), idOf(after)}, Count: int64(limit), Block: -1}).Result()
	if wrongType(err) {
		r.stats.malformed.Add(1)
		return nil, nil
	}
	none := errors.Is(err, redis.Nil)
	if err := r.done(err); err != nil || none || len(found) == 0 {
		return nil, err
	}
	list := make([]Posted, 0, len(found[0].Messages))
	for _, m := range found[0].Messages {
		seq, ok := seqOf(m.ID)
		if !ok {
			r.stats.malformed.Add(1)
			continue
		}
		list = append(list, Posted{Seq: seq, Text: field(m, "m")})
	}
	return list, nil
}

// lastPosted returns the last message of a customer in Redis.
func (r *Redis) lastPosted(ctx context.Context, customer string) (Posted, bool, error) {
	found, err := r.client.XRevRangeN(ctx, keyOf(customer, "feed"), "+", "-", 1).Result()
	if wrongType(err) {
		return Posted{}, false, nil
	}
	if err := r.done(err); err != nil || len(found) == 0 {
		return Posted{}, false, err
	}
	seq, _ := seqOf(found[0].ID)
	return Posted{Seq: seq, Text: field(found[0], "m")}, true, nil
}

// RedisSource finds records in Redis for Records. Whatever is not signed as it
// should be is counted, and a miss. Safe for concurrent use.
type RedisSource struct {
	redis    *Redis
	verifier atomic.Pointer[feed.Verifier]
	forged   atomic.Int64
}

var _ Source = (*RedisSource)(nil)

// NewRedisSource makes one that trusts what the verifier does.
func NewRedisSource(r *Redis, v *feed.Verifier) *RedisSource {
	s := &RedisSource{redis: r}
	s.Trust(v)
	return s
}

// Trust puts another verifier in the place of the present one.
func (s *RedisSource) Trust(v *feed.Verifier) { s.verifier.Store(v) }

// Forged counts the records that were found and not signed as they should be.
func (s *RedisSource) Forged() int64 { return s.forged.Load() }

// Fetch implements Source.
func (s *RedisSource) Fetch(ctx context.Context, customer string, ref feed.Ref) (*feed.Record, error) {
	text, found, err := s.redis.Get(ctx, customer, ref)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, ErrMiss
	}
	rec, err := s.verifier.Load().OpenRecord(text, customer, ref)
	if err != nil {
		s.forged.Add(1)
		return nil, ErrMiss
	}
	return rec, nil
}
