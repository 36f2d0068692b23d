package cache_test

import (
	"context"
	"encoding/json"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/feed"
)

// history is a customer's records at every sequence number; body n of a record
// was written by change n.
type history struct {
	epoch int64
	last  []map[feed.Ref]int64
}

func (h *history) head() int64 { return int64(len(h.last) - 1) }

func (h *history) change(ref feed.Ref) {
	next := map[feed.Ref]int64{}
	for k, v := range h.last[h.head()] {
		next[k] = v
	}
	next[ref] = h.head() + 1
	h.last = append(h.last, next)
}

func (h *history) record(ref feed.Ref, asOf int64) *feed.Record {
	of := ref
	body := `{"properties":"` + strconv.FormatInt(h.last[asOf][ref], 10) + `"}`
	if ref.Kind == feed.Secret {
		of = feed.Ref{Kind: feed.Key, ID: ref.ID[:1]}
	}
	if of.Kind == feed.Key {
		body = `{"id":"` + of.ID + `","metadata":"` + strconv.FormatInt(h.last[asOf][of], 10) + `","secrets":[{"kid":"` + of.ID + `1"},{"kid":"` + of.ID + `2"}]}`
	}
	return &feed.Record{Customer: "acme", Ref: of, Version: asOf, Epoch: h.epoch, Until: latchkey.Never, Body: []byte(body)}
}

type sourceFunc func(ref feed.Ref) (*feed.Record, error)

func (f sourceFunc) Fetch(_ context.Context, _ string, ref feed.Ref) (*feed.Record, error) {
	return f(ref)
}

func number(r *feed.Record) (any, int, error) {
	var body struct{ Properties, Metadata string }
	if err := json.Unmarshal(r.Body, &body); err != nil {
		return nil, 0, err
	}
	n, err := strconv.ParseInt(body.Properties+body.Metadata, 10, 64)
	return n, 8, err
}

// Whatever the sources answer from, and whichever messages come twice, after a
// gap, or without their records: what is served is never older than what this
// process has applied.
func TestRecords_ServeNothingThatAnAppliedChangeMadeOutOfDate(t *testing.T) {
	refs := []feed.Ref{{Kind: feed.Subject, Type: "user", ID: "a"}, {Kind: feed.Resource, Type: "doc", ID: "a"}, {Kind: feed.Key, ID: "a"}, {Kind: feed.Key, ID: "b"}}
	asked := append([]feed.Ref{{Kind: feed.Secret, ID: "a1"}, {Kind: feed.Secret, ID: "b2"}}, refs...)
	rapid.Check(t, func(t *rapid.T) {
		h := &history{epoch: 1, last: []map[feed.Ref]int64{{}}}
		now := latchkey.Instant(1)
		late := sourceFunc(func(ref feed.Ref) (*feed.Record, error) { // a cache elsewhere
			if rapid.Bool().Draw(t, "has none") {
				return nil, cache.ErrMiss
			}
			r := h.record(ref, rapid.Int64Range(0, h.head()).Draw(t, "as of"))
			r.Epoch -= rapid.SampledFrom([]int64{0, 0, 0, 1}).Draw(t, "epochs ago")
			return r, nil
		})
		truth := sourceFunc(func(ref feed.Ref) (*feed.Record, error) { return h.record(ref, h.head()), nil })
		r := cache.NewRecords(cache.RecordsConfig{MaxBytes: 1 << 20, Sources: []cache.Source{late, truth}, Decode: number, Wait: time.Second, Missing: time.Second,
			Now: func() latchkey.Instant { return now }})
		touched := map[int64]feed.Ref{}
		applied := int64(0)
		r.Start("acme", 1, 0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0, 1:
				ref := rapid.SampledFrom(refs).Draw(t, "changed")
				h.change(ref)
				touched[h.head()] = ref
			case 2, 3:
				seq := rapid.Int64Range(max(0, applied-1), applied+2).Draw(t, "message")
				if seq == 0 || seq > h.head() {
					continue
				}
				m := &feed.Message{Customer: "acme", Epoch: 1, Seq: seq, Touched: []feed.Ref{touched[seq]}}
				switch rapid.IntRange(0, 2).Draw(t, "records") {
				case 0:
					m.Records = []feed.Record{*h.record(touched[seq], rapid.Int64Range(seq, h.head()).Draw(t, "as of"))}
				case 1:
					m.Touched, m.All = nil, []feed.Kind{touched[seq].Kind}
				}
				if known := r.Apply(m); known != (seq <= applied+1) {
					t.Fatalf("message %d after %d: %v", seq, applied, known)
				} else if known {
					applied = max(applied, seq)
				}
			case 4:
				if rapid.IntRange(0, 9).Draw(t, "restart") == 0 {
					applied = h.head()
					r.Start("acme", 1, applied)
				}
			case 5:
				ref := rapid.SampledFrom(asked).Draw(t, "asked")
				got, err := r.Get("acme", ref)
				if err != nil {
					t.Fatal(err)
				}
				of := h.record(ref, 0).Ref
				if least := h.last[applied][of]; got.(int64) < least {
					t.Fatalf("%v: change %d was applied, and %d is served", ref, least, got)
				}
			}
		}
	})
}

func TestRecords_KeepThatThereIsNoneUntilAChangeOrForAWhile(t *testing.T) {
	now, asked, exists := latchkey.Instant(1), 0, false
	h := &history{epoch: 1, last: []map[feed.Ref]int64{{}, {}}}
	r := cache.NewRecords(cache.RecordsConfig{MaxBytes: 1 << 20, Decode: number, Wait: time.Second, Missing: time.Second,
		Now: func() latchkey.Instant { return now },
		Sources: []cache.Source{sourceFunc(func(ref feed.Ref) (*feed.Record, error) {
			if asked++; !exists {
				return nil, latchkey.Errorf(latchkey.NotFound, "key_not_found", "no")
			}
			return h.record(ref, 1), nil
		})}})
	r.Start("acme", 1, 0)
	kid := feed.Ref{Kind: feed.Secret, ID: "a1"}
	miss := func(want int) {
		t.Helper()
		if _, err := r.Get("acme", kid); latchkey.KindOf(err) != latchkey.NotFound || asked != want {
			t.Errorf("%v, asked %d times", err, asked)
		}
	}
	miss(1)
	miss(1)
	now = now.Add(time.Second)
	miss(2)
	exists = true
	if !r.Apply(&feed.Message{Customer: "acme", Epoch: 1, Seq: 1, Touched: []feed.Ref{{Kind: feed.Key, ID: "a"}}, Records: []feed.Record{*h.record(kid, 1)}}) {
		t.Fatal("not applied")
	}
	if _, err := r.Get("acme", kid); err != nil {
		t.Errorf("after the key was made: %v", err)
	}
}

func TestRecords_BeforeStartAndAcrossEpochsServeNothing(t *testing.T) {
	h := &history{epoch: 2, last: []map[feed.Ref]int64{{}}}
	r := cache.NewRecords(cache.RecordsConfig{MaxBytes: 1 << 20, Decode: number, Wait: time.Second, Now: func() latchkey.Instant { return 1 },
		Sources: []cache.Source{sourceFunc(func(ref feed.Ref) (*feed.Record, error) { return h.record(ref, 0), nil })}})
	ref := feed.Ref{Kind: feed.Subject, Type: "user", ID: "a"}
	if _, err := r.Get("acme", ref); latchkey.KindOf(err) != latchkey.Unavailable {
		t.Errorf("before the start: %v", err)
	}
	r.Start("acme", 2, 0)
	if _, err := r.Get("acme", ref); err != nil {
		t.Error(err)
	}
	r.Start("acme", 3, 0)
	if _, err := r.Get("acme", ref); latchkey.KindOf(err) != latchkey.Unavailable {
		t.Errorf("a record of another epoch: %v", err)
	}
}

func BenchmarkRecords_Warm(b *testing.B) {
	h := &history{epoch: 1, last: []map[feed.Ref]int64{{}}}
	r := cache.NewRecords(cache.RecordsConfig{MaxBytes: 1 << 20, Decode: number, Wait: time.Second, Now: func() latchkey.Instant { return 1 },
		Sources: []cache.Source{sourceFunc(func(ref feed.Ref) (*feed.Record, error) { return h.record(ref, 0), nil })}})
	r.Start("acme", 1, 0)
	ref := feed.Ref{Kind: feed.Subject, Type: "user", ID: "a"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Get("acme", ref); err != nil {
			b.Fatal(err)
		}
	}
}
