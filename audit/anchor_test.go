package audit_test

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/audit"
)

// heads are the heads that a chain of events had on its way.
func heads(events []audit.Event) (list []audit.Head) {
	for _, e := range events {
		list = append(list, key.Sign(audit.Head{Chain: e.Chain, Seq: e.Seq, Hash: e.Hash}))
	}
	return list
}

func TestVerify_HoldsAChainToItsAnchors(t *testing.T) {
	head, events := chain(5)
	anchors := heads(events)
	slices.Reverse(anchors) // logs come in any order
	verify := func(head audit.Head, events []audit.Event, anchors ...audit.Head) audit.Report {
		t.Helper()
		r, err := audit.Verify(head, key, anchors, each(events))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := verify(head, events, anchors...); !r.Holds {
		t.Errorf("an untouched chain: %+v", r)
	}
	early := key.Sign(audit.Head{Chain: "c", Seq: 3, Hash: events[2].Hash})
	if r := verify(early, events[:3]); !r.Holds {
		t.Errorf("without anchors an earlier copy holds: %+v", r)
	}
	if r := verify(early, events[:3], anchors...); r.Holds || len(r.Findings) != 1 || r.Findings[0].Code != "truncated" || r.Findings[0].Seq != 4 {
		t.Errorf("an earlier copy: %+v", r)
	}
	if r := verify(early, events[:3], anchors[2:]...); !r.Holds {
		t.Errorf("with anchors of its own time it holds: %+v", r)
	}
	// Rewritten from the fourth on, with a head that fits.
	other := slices.Clone(events)
	other[3].Action = "other"
	other[3] = other[3].Seal("c", 4, other[2].Hash)
	other[4] = other[4].Seal("c", 5, other[3].Hash)
	rewritten := key.Sign(audit.Head{Chain: "c", Seq: 5, Hash: other[4].Hash})
	if r := verify(rewritten, other); !r.Holds {
		t.Errorf("without anchors: %+v", r)
	}
	if r := verify(rewritten, other, anchors...); len(r.Findings) != 2 || r.Findings[0].Seq != 4 || r.Findings[0].Code != "rewritten" || r.Findings[1].Seq != 5 {
		t.Errorf("rewritten: %+v", r)
	}
	foreign := audit.MACKey("another key, of thirty-two bytes").Sign(anchors[0])
	if r := verify(head, events, foreign); len(r.Findings) != 1 || r.Findings[0].Code != "anchor_forged" {
		t.Errorf("another key's anchor: %+v", r)
	}
	stolen := anchors[0]
	stolen.Chain = "d"
	if r := verify(head, events, stolen); !r.Holds {
		t.Errorf("another chain's anchor says nothing of this one: %+v", r)
	}
}

func TestReadAnchors_FindsThemAmongOtherLines(t *testing.T) {
	_, events := chain(2)
	h := heads(events)[1]
	hash, mac := h.Hash.String(), hex.EncodeToString(h.MAC)
	bare := fmt.Sprintf(`{"chain":"c","seq":2,"hash":"%s","mac":"%s"}`, hash, mac)
	logged := fmt.Sprintf(`{"time":"2026-11-21T22:10:00Z","level":"INFO","msg":"audit_anchor","chain":"c","seq":2,"hash":"%s","mac":"%s"}`, hash, mac)
	text := strings.Join([]string{
		bare, logged, "Nov 21 host latchkey[7]: " + logged, "", "{", `"mac"`, `{"mac":"00:11"}`, `{"msg":"request","mac":"x","chain":"c"}`,
		strings.Repeat("x", 200<<10) + `"mac"`, strings.Replace(logged, "audit_anchor", "other", 1), logged + "\r",
	}, "\n") // the last without an end of line
	anchors, err := audit.ReadAnchors(strings.NewReader(text))
	if err != nil || len(anchors) != 4 {
		t.Fatalf("%d anchors, %v", len(anchors), err)
	}
	for _, a := range anchors {
		if a.Chain != "c" || a.Seq != 2 || a.Hash != h.Hash || !key.Holds(a) {
			t.Errorf("%+v", a)
		}
	}
	for _, bad := range []string{
		strings.Replace(logged, `"seq":2`, `"seq":-2`, 1), strings.Replace(logged, hash, hash[2:], 1), strings.Replace(logged, `"seq":2`, `"seq":2.5`, 1),
		strings.Replace(logged, mac, "zz", 1), strings.Replace(logged, `"chain":"c"`, `"chain":""`, 1), strings.Replace(bare, `"seq":2`, `"seq":99999999999999999999`, 1),
	} {
		if _, err := audit.ReadAnchors(strings.NewReader("\n" + bad)); err == nil || !strings.HasPrefix(err.Error(), "line 2:") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func FuzzReadAnchors(f *testing.F) {
	f.Add(`{"msg":"audit_anchor","chain":"c","seq":2,"hash":"00","mac":"00"}`)
	f.Fuzz(func(t *testing.T, text string) {
		anchors, err := audit.ReadAnchors(strings.NewReader(text))
		for _, a := range anchors {
			if err == nil && (a.Seq < 1 || a.Chain == "" || key.Holds(a)) {
				t.Errorf("%+v", a)
			}
		}
	})
}
