package audit

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"

	"github.com/latchkey-dev/latchkey"
)

// Head is the end of a chain: the sequence number and hash of its last event.
// MAC binds both to the chain under a key outside the database.
type Head struct {
	Chain string
	Seq   int64
	Hash  Hash
	MAC   []byte
}

// MACKey authenticates heads; 32 random bytes.
type MACKey []byte

// Sign returns the head with its MAC.
func (k MACKey) Sign(h Head) Head {
	h.MAC = k.mac(h)
	return h
}

// Holds reports, in constant time, whether the head's MAC is ours.
func (k MACKey) Holds(h Head) bool { return hmac.Equal(k.mac(h), h.MAC) }

func (k MACKey) mac(h Head) []byte {
	m := hmac.New(sha256.New, k)
	m.Write([]byte("latchkey audit head\x00"))
	m.Write(binary.BigEndian.AppendUint64(nil, uint64(h.Seq)))
	m.Write(h.Hash[:])
	m.Write([]byte(h.Chain))
	return m.Sum(nil)
}

// Finding is one thing wrong with a chain. Seq is the event it is about.
type Finding struct {
	Seq    int64  `json:"seq"`
	Code   string `json:"code"` // edited, removed, reordered, truncated, rewritten, head_forged, anchor_forged
	Detail string `json:"detail"`
}

// Report is the outcome of Verify: Events were looked at, and the chain holds
// when there are no findings.
type Report struct {
	Chain    string    `json:"chain"`
	Events   int64     `json:"events"`
	Head     int64     `json:"head"`
	Holds    bool      `json:"holds"`
	Findings []Finding `json:"findings"`
}

// maxFindings bounds a report: after so many it is clear enough.
const maxFindings = 100

// Verify walks the events of one chain, which must come in the order of seq,
// and its head. Anchors are heads that the chain had earlier, as somebody kept
// them outside the database: it must pass through each. The error is the first
// of the sequence's own: the chain could not be read, which says nothing of
// whether it holds.
func Verify(head Head, key MACKey, anchors []Head, events iter.Seq2[Event, error]) (Report, error) {
	r := Report{Chain: head.Chain, Head: head.Seq, Findings: []Finding{}}
	find := func(seq int64, code, format string, args ...any) {
		if len(r.Findings) < maxFindings {
			r.Findings = append(r.Findings, Finding{Seq: seq, Code: code, Detail: fmt.Sprintf(format, args...)})
		}
	}
	if !key.Holds(head) {
		find(head.Seq, "head_forged", "the chain's head does not carry this server's MAC")
	}
	passes := newPasses(key, head.Chain, anchors, find)
	next, prev := int64(1), Hash{}
	for e, err := range events {
		if err != nil {
			return r, fmt.Errorf("read the events of chain %s: %w", head.Chain, err)
		}
		r.Events++
		switch {
		case e.Seq == next+1:
			find(next, "removed", "event %d is missing", next)
		case e.Seq > next:
			find(next, "removed", "events %d to %d are missing", next, e.Seq-1)
		}
		contiguous := e.Seq == next
		switch again := e.Seal(e.Chain, e.Seq, e.Prev); {
		case sha256.Sum256(e.Body) != e.Hash:
			find(e.Seq, "edited", "the event's bytes do not have its hash")
		case !bytes.Equal(again.Body, e.Body):
			find(e.Seq, "edited", "the event's columns do not say what its hashed bytes say")
		case contiguous && e.Prev != prev:
			find(e.Seq, "reordered", "the event does not follow event %d", e.Seq-1)
		}
		passes.at(e.Seq, e.Hash)
		next, prev = e.Seq+1, e.Hash
	}
	switch {
	case next-1 < head.Seq:
		find(next, "truncated", "events %d to %d are missing from the end", next, head.Seq)
	case next-1 > head.Seq:
		find(head.Seq+1, "head_forged", "there are events beyond the head")
	case prev != head.Hash:
		find(head.Seq, "edited", "the last event is not the one that the head names")
	}
	passes.end(next)
	r.Holds = len(r.Findings) == 0
	return r, nil
}

// Filter narrows a list of events; zero fields do not.
type Filter struct {
	From, To     latchkey.Instant // from <= at < to; To 0 has no end
	Actor        string           // actor id
	Action       string
	ResourceType string
	ResourceName string
	Outcome      string
	RequestID    string
	Before       int64 // seq < Before; 0 from the newest
	Limit        int
}
