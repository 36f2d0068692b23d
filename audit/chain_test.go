package audit_test

import (
	"bytes"
	"errors"
	"iter"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

var key = audit.MACKey("0123456789abcdef0123456789abcdef")

func chain(n int) (audit.Head, []audit.Event) {
	var events []audit.Event
	head := audit.Head{Chain: "c"}
	for i := range n {
		d := audit.Draft{ID: strings.Repeat("x", i+1), At: 1, Actor: audit.Actor{Type: "root", ID: "root"}, Action: "a\"b\n", Outcome: "success", Changes: `{"n":1}`}
		e := d.Seal("c", head.Seq+1, head.Hash)
		events = append(events, e)
		head.Seq, head.Hash = e.Seq, e.Hash
	}
	return key.Sign(head), events
}

func each(events []audit.Event) iter.Seq2[audit.Event, error] {
	return func(yield func(audit.Event, error) bool) {
		for _, e := range events {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func verify(t *testing.T, head audit.Head, events []audit.Event) audit.Report {
	t.Helper()
	r, err := audit.Verify(head, key, nil, each(events))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestVerify_NamesEveryTampering(t *testing.T) {
	reseal := func(e *audit.Event) { *e = e.Seal(e.Chain, e.Seq, e.Prev) }
	tests := []struct {
		name   string
		tamper func(h *audit.Head, list []audit.Event) []audit.Event
		seq    int64
		code   string
	}{
		{"a column", func(_ *audit.Head, l []audit.Event) []audit.Event { l[2].Action = "other"; return l }, 3, "edited"},
		{"the bytes", func(_ *audit.Head, l []audit.Event) []audit.Event {
			l[2].Body = bytes.Replace(l[2].Body, []byte("root"), []byte("toor"), 1)
			return l
		}, 3, "edited"},
		{"columns, bytes and hash", func(_ *audit.Head, l []audit.Event) []audit.Event {
			l[2].Action = "other"
			reseal(&l[2])
			return l
		}, 4, "reordered"}, // the next event no longer follows
		{"the last event whole", func(_ *audit.Head, l []audit.Event) []audit.Event {
			l[4].Action = "other"
			reseal(&l[4])
			return l
		}, 5, "edited"},
		{"first removed", func(_ *audit.Head, l []audit.Event) []audit.Event { return l[1:] }, 1, "removed"},
		{"middle removed", func(_ *audit.Head, l []audit.Event) []audit.Event { return slices.Delete(l, 1, 3) }, 2, "removed"},
		{"tail cut", func(_ *audit.Head, l []audit.Event) []audit.Event { return l[:3] }, 4, "truncated"},
		{"tail cut, head moved", func(h *audit.Head, l []audit.Event) []audit.Event {
			h.Seq, h.Hash = 3, l[2].Hash
			return l[:3]
		}, 3, "head_forged"},
		{"all gone", func(h *audit.Head, _ []audit.Event) []audit.Event { *h = audit.Head{Chain: "c"}; return nil }, 0, "head_forged"},
		{"head of another chain", func(h *audit.Head, l []audit.Event) []audit.Event {
			other := key.Sign(audit.Head{Chain: "d", Seq: h.Seq, Hash: h.Hash})
			h.MAC = other.MAC
			return l
		}, 5, "head_forged"},
		{"another key's head", func(h *audit.Head, l []audit.Event) []audit.Event {
			*h = audit.MACKey("another key, of thirty-two bytes").Sign(*h)
			return l
		}, 5, "head_forged"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			head, events := chain(5)
			events = tt.tamper(&head, events)
			r := verify(t, head, events)
			if r.Holds || !slices.ContainsFunc(r.Findings, func(f audit.Finding) bool { return f.Seq == tt.seq && f.Code == tt.code }) {
				t.Errorf("%+v, want %s at %d", r, tt.code, tt.seq)
			}
		})
	}
}

// Any one change of any one bit of a chain's bytes is found.
func TestVerify_FindsAnyFlippedBit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		head, events := chain(rapid.IntRange(1, 6).Draw(t, "events"))
		if r, err := audit.Verify(head, key, nil, each(events)); err != nil || !r.Holds || r.Events != head.Seq {
			t.Fatalf("an untouched chain: %+v %v", r, err)
		}
		e := &events[rapid.IntRange(0, len(events)-1).Draw(t, "event")]
		bit := byte(1) << rapid.IntRange(0, 7).Draw(t, "bit")
		where := rapid.SampledFrom([][]byte{e.Body, e.Hash[:], e.Prev[:]}).Draw(t, "where")
		where[rapid.IntRange(0, len(where)-1).Draw(t, "byte")] ^= bit
		if r, err := audit.Verify(head, key, nil, each(events)); err != nil || r.Holds {
			t.Fatalf("not found: %+v %v", r, err)
		}
	})
}

func TestVerify_AnEmptyChainHolds(t *testing.T) {
	head, _ := chain(0)
	if r := verify(t, head, nil); !r.Holds {
		t.Errorf("%+v", r)
	}
}

func TestVerify_SaysWhenTheChainCouldNotBeRead(t *testing.T) {
	head, events := chain(2)
	boom := errors.New("boom")
	_, err := audit.Verify(head, key, nil, func(yield func(audit.Event, error) bool) {
		_ = yield(events[0], nil) && yield(audit.Event{}, boom)
	})
	if !errors.Is(err, boom) {
		t.Errorf("got %v: a chain that cannot be read must not pass for one that holds", err)
	}
}

func TestEvent_IsStrictJSONWithItsHashLast(t *testing.T) {
	_, events := chain(1)
	var doc strictjson.Doc
	if err := doc.Parse(string(events[0].AppendJSON(nil))); err != nil {
		t.Fatal(err)
	}
	if got := doc.Root().Get("hash").Text(); got != events[0].Hash.String() {
		t.Errorf("hash %q", got)
	}
	if got := doc.Root().Get("action").Text(); got != "a\"b\n" {
		t.Errorf("action %q", got)
	}
}
