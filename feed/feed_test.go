package feed_test

import (
	"crypto/ed25519"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/feed"
)

func signer(t testing.TB, b byte) (*feed.Signer, *feed.Verifier) {
	t.Helper()
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = b
	s, err := feed.NewSigner(seed)
	if err != nil {
		t.Fatal(err)
	}
	return s, feed.NewVerifier(s.Public())
}

func TestSign_WhatIsOpenedIsWhatWasSigned(t *testing.T) {
	s, v := signer(t, 1)
	ref := feed.Ref{Kind: feed.Subject, Type: "user", ID: "alice"}
	r := feed.Record{Customer: "acme", Ref: ref, Version: 7, Epoch: 3, Until: latchkey.Never, Body: []byte(`{"grants":[{"id":"g","entries":"{}","not_before":"1970-01-01T00:00:00Z","expires_at":null,"revoked_at":null}]}`)}
	text, err := s.SignRecord(&r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := v.OpenRecord(text, "acme", ref)
	if err != nil || got.Version != 7 || got.Epoch != 3 || got.Until != latchkey.Never || string(got.Body) != string(r.Body) || !got.Exists() {
		t.Fatalf("got %+v, %v", got, err)
	}
	for name, open := range map[string]func() error{
		"another customer's": func() error { _, err := v.OpenRecord(text, "other", ref); return err },
		"another subject's": func() error {
			_, err := v.OpenRecord(text, "acme", feed.Ref{Kind: feed.Subject, Type: "user", ID: "bob"})
			return err
		},
		"taken for a message":   func() error { _, err := v.OpenMessage(text, "acme"); return err },
		"renamed to a message":  func() error { _, err := v.OpenMessage([]byte("lk1m"+string(text[4:])), "acme"); return err },
		"taken for a heartbeat": func() error { _, err := v.OpenHeartbeat(text, "acme"); return err },
		"by another key": func() error {
			_, other := signer(t, 2)
			_, err := other.OpenRecord(text, "acme", ref)
			return err
		},
		"cut":   func() error { _, err := v.OpenRecord(text[:len(text)-1], "acme", ref); return err },
		"empty": func() error { _, err := v.OpenRecord(nil, "acme", ref); return err },
		"edited": func() error {
			_, err := v.OpenRecord([]byte(strings.Replace(string(text), `"version":7`, `"version":9`, 1)), "acme", ref)
			return err
		},
	} {
		if err := open(); !errors.Is(err, feed.ErrForged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRecord_OfAKeyIsFoundByItsKidsOnly(t *testing.T) {
	s, v := signer(t, 1)
	r := feed.Record{Customer: "acme", Ref: feed.Ref{Kind: feed.Key, ID: "k"}, Body: []byte(`{"id":"k","secrets":[{"kid":"aaa"},{"kid":"bbb"}]}`)}
	text, err := s.SignRecord(&r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.OpenRecord(text, "acme", feed.Ref{Kind: feed.Secret, ID: "bbb"}); err != nil {
		t.Error(err)
	}
	if _, err := v.OpenRecord(text, "acme", feed.Ref{Kind: feed.Secret, ID: "ccc"}); !errors.Is(err, feed.ErrForged) {
		t.Errorf("a kid that is not the key's: %v", err)
	}
}

func TestMessage_HoldsNoRecordOfBeforeOrOfOthers(t *testing.T) {
	s, v := signer(t, 1)
	for name, r := range map[string]feed.Record{
		"older":     {Customer: "acme", Epoch: 1, Version: 4},
		"of others": {Customer: "other", Epoch: 1, Version: 5},
		"of before": {Customer: "acme", Epoch: 0, Version: 5},
	} {
		text, err := s.SignMessage(&feed.Message{Customer: "acme", Epoch: 1, Seq: 5, Records: []feed.Record{r}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.OpenMessage(text, "acme"); !errors.Is(err, feed.ErrForged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRef_NamesAreDistinct(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.StringMatching(`[a:0-9]{0,6}`)
		gen := rapid.Custom(func(t *rapid.T) feed.Ref {
			return feed.Ref{Kind: rapid.SampledFrom([]feed.Kind{feed.Subject, feed.Resource}).Draw(t, "kind"), Type: part.Draw(t, "type"), ID: part.Draw(t, "id")}
		})
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		if (a == b) != (a.String() == b.String()) {
			t.Fatalf("%+v and %+v: %q, %q", a, b, a, b)
		}
	})
}

// A window may refuse what is up to date, never accept what is not.
func TestWindow_AcceptsNothingThatAChangeTouchedSince(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w feed.Window
		last := map[feed.Ref]int64{} // the truth
		refs := []feed.Ref{{Kind: feed.Key, ID: "a"}, {Kind: feed.Key, ID: "b"}, {Kind: feed.Subject, ID: "a"}}
		seq := rapid.Int64Range(0, 5).Draw(t, "start")
		w.Start(seq)
		start := seq
		for range rapid.IntRange(0, 40).Draw(t, "changes") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0: // a message twice, or after a gap
				w.Note(seq+rapid.SampledFrom([]int64{0, -1, 2, 7}).Draw(t, "out of place"), refs, nil)
			case 1:
				seq++
				w.Note(seq, nil, []feed.Kind{feed.Key})
				last[refs[0]], last[refs[1]] = seq, seq
			default:
				seq++
				ref := rapid.SampledFrom(refs).Draw(t, "ref")
				w.Note(seq, []feed.Ref{ref}, nil)
				last[ref] = seq
			}
			for _, ref := range refs {
				for version := range seq + 2 {
					want := version >= start && version >= last[ref]
					if got := w.Accepts(ref, version); got != want {
						t.Fatalf("at %d: %v of version %d accepted: %v", seq, ref, version, got)
					}
				}
			}
		}
	})
}

func TestWindow_ForgetsTheOldestAndAcceptsNothingFromBeforeThem(t *testing.T) {
	var w feed.Window
	if w.Accepts(feed.Ref{}, 1) {
		t.Error("a window that was not started accepts")
	}
	w.Start(0)
	const n = feed.MaxWindow + 10
	ref := func(i int64) feed.Ref { return feed.Ref{Kind: feed.Subject, ID: strconv.FormatInt(i, 10)} }
	for i := int64(1); i <= n; i++ {
		w.Note(i, []feed.Ref{ref(i)}, nil)
	}
	if w.At() != n || w.From() != 10 {
		t.Errorf("from %d to %d", w.From(), w.At())
	}
	other := feed.Ref{Kind: feed.Key, ID: "untouched"}
	if w.Accepts(other, 9) || !w.Accepts(other, 10) || w.Accepts(ref(11), 10) {
		t.Error("what was forgotten counts")
	}
	for i := int64(1); i <= 3*feed.MaxWindow; i++ { // one record again and again
		w.Note(n+i, []feed.Ref{other}, nil)
	}
	if !w.Accepts(other, w.At()) || w.Accepts(other, w.At()-1) {
		t.Error("the last change does not count")
	}
}

func at(d time.Duration) latchkey.Instant { return latchkey.Instant(time.Hour+d) / 1000 }

func TestLease(t *testing.T) {
	const staleness, skew = 30 * time.Second, 5 * time.Second
	t.Run("has run out at first", func(t *testing.T) {
		if feed.NewLease(staleness, skew).Holds(at(0)) {
			t.Error("it holds")
		}
	})
	t.Run("lasts from when it was asked for", func(t *testing.T) {
		l := feed.NewLease(staleness, skew)
		l.Renew(at(2*time.Second), at(0))
		if !l.Holds(at(staleness)-1) || l.Holds(at(staleness)) {
			t.Error("not 30 s from the question")
		}
	})
	t.Run("an old heartbeat that comes late renews by its age", func(t *testing.T) {
		l := feed.NewLease(staleness, skew)
		l.Renew(at(0), at(20*time.Second))
		if !l.Holds(at(staleness+skew)-1) || l.Holds(at(staleness+skew)) {
			t.Error("not 35 s from when it was issued")
		}
		l.Renew(at(-time.Hour), at(21*time.Second))
		if !l.Holds(at(staleness)) {
			t.Error("an old one shortened it")
		}
	})
	t.Run("a clock behind the issuer's denies at once", func(t *testing.T) {
		l := feed.NewLease(staleness, skew)
		l.Renew(at(0), at(0))
		l.Compare(at(skew+time.Second), at(0), at(0), false)
		if l.Holds(at(0)) {
			t.Error("it holds")
		}
		if offset, skewed := l.Offset(); offset != skew+time.Second || !skewed {
			t.Error(offset, skewed)
		}
		l.Compare(at(time.Second), at(0), at(0), false)
		if !l.Holds(at(0)) {
			t.Error("it does not hold again once the clock is right")
		}
	})
	t.Run("a clock ahead is told by a short round trip alone", func(t *testing.T) {
		l := feed.NewLease(staleness, skew)
		l.Renew(at(0), at(0))
		l.Compare(at(-time.Minute), at(0), at(0), false) // may be late
		l.Compare(at(-time.Minute), at(0), at(2*time.Second), true)
		if !l.Holds(at(0)) {
			t.Error("judged by what proves nothing")
		}
		l.Compare(at(-time.Minute), at(0), at(time.Millisecond), true)
		if l.Holds(at(0)) {
			t.Error("it holds")
		}
	})
}
