package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// An anchor is a head that was written where the database's owner cannot reach
// it, a log above all. A database that is put back to an earlier copy, head and
// all, holds in itself; the anchor still names an event that it no longer has.

// AnchorEvent is the message of log lines that hold an anchor.
const AnchorEvent = "audit_anchor"

// maxAnchorLine bounds a line that is looked at; a longer one holds no anchor.
const maxAnchorLine = 64 << 10

// ReadAnchors finds the anchors among the lines of a log, or of a file with an
// anchor a line: JSON objects with chain, seq, hash and mac, which either are
// alone in their line's object or have the message audit_anchor. Every other
// line is passed over; an anchor that lacks something is an error.
func ReadAnchors(r io.Reader) (anchors []Head, err error) {
	lines := bufio.NewReaderSize(r, maxAnchorLine)
	for n := 1; ; n++ {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = lines.ReadSlice('\n')
			}
			line = nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read the anchors: %w", err)
		}
		if anchor, ok, bad := parseAnchor(line); bad != nil {
			return nil, fmt.Errorf("line %d: %w", n, bad)
		} else if ok {
			anchors = append(anchors, anchor)
		}
		if err != nil {
			return anchors, nil
		}
	}
}

func parseAnchor(line []byte) (h Head, ok bool, err error) {
	if !bytes.Contains(line, []byte(`"mac"`)) {
		return h, false, nil
	}
	// What stands before the object is the collector's: a time, a host.
	at := bytes.IndexByte(line, '{')
	if at < 0 {
		return h, false, nil
	}
	var doc strictjson.Doc
	if doc.Parse(string(bytes.TrimSpace(line[at:]))) != nil {
		return h, false, nil
	}
	root := doc.Root()
	msg, chain, seq, hash, mac := root.Get("msg"), root.Get("chain"), root.Get("seq"), root.Get("hash"), root.Get("mac")
	switch {
	case msg.Kind() != strictjson.Missing && msg.Text() != AnchorEvent:
		return h, false, nil
	case msg.Kind() == strictjson.Missing && (chain.Kind() != strictjson.String || seq.Kind() != strictjson.Number || hash.Kind() != strictjson.String):
		return h, false, nil // somebody else's mac
	}
	h.Chain = chain.Text()
	n, numErr := strconv.ParseInt(seq.Raw(), 10, 64)
	hashed, hashErr := hex.DecodeString(hash.Text())
	signed, macErr := hex.DecodeString(mac.Text())
	if h.Chain == "" || numErr != nil || n < 1 || len(hashed) != len(h.Hash) || hashErr != nil || macErr != nil {
		return h, false, errors.New("an anchor needs chain, seq, hash and mac")
	}
	h.Seq, h.Hash, h.MAC = n, Hash(hashed), signed
	return h, true, nil
}

// passes holds a walk of a chain to its anchors.
type passes struct {
	left []Head // by seq, those that were passed taken off
	find func(seq int64, code, format string, args ...any)
}

func newPasses(key MACKey, chain string, anchors []Head, find func(int64, string, string, ...any)) *passes {
	p := &passes{find: find}
	for _, a := range anchors {
		switch {
		case a.Chain != chain:
		case !key.Holds(a):
			find(a.Seq, "anchor_forged", "an anchor does not carry this server's MAC")
		default:
			p.left = append(p.left, a)
		}
	}
	slices.SortStableFunc(p.left, func(a, b Head) int { return cmp.Compare(a.Seq, b.Seq) })
	return p
}

// at tells of the next event of the walk.
func (p *passes) at(seq int64, hash Hash) {
	for len(p.left) > 0 && p.left[0].Seq <= seq {
		if a := p.left[0]; a.Seq == seq && a.Hash != hash {
			p.find(seq, "rewritten", "the event is not the one that stood here when its anchor was written")
		} // one that is missing from the middle has been named
		p.left = p.left[1:]
	}
}

// end tells that the walk is over and that next would have come.
func (p *passes) end(next int64) {
	if n := len(p.left); n > 0 {
		p.find(next, "truncated", "events %d to %d are missing from the end: an anchor names the last", next, p.left[n-1].Seq)
	}
}
