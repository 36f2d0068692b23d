package scopes_test

import (
	"runtime"
	"sync"
	"testing"

	"github.com/latchkey-dev/latchkey/scopes"
)

func TestLoad_GivesEqualTextsTheSameSet(t *testing.T) {
	p := scopes.NewParser(4)
	const text = `{"customer":{"policies":[{"f":"*","p":2}]}}`
	first, err := p.Load(text)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if again, err := p.Load(text); err != nil || again != first {
					t.Errorf("another set: %v", err)
				}
			}
		})
	}
	wg.Wait()
	other, err := p.Load(`{"customer":{"policies":[{"f":"*","p":3}]}}`)
	if err != nil || other == first {
		t.Errorf("another text gives the same set, or %v", err)
	}
	if _, err := p.Load(`{"customer":{}}`); err == nil {
		t.Error("scopes that give nothing are loaded")
	}
	runtime.KeepAlive(first)
}

func TestLoad_KeepsNoSetThatNobodyHolds(t *testing.T) {
	p := scopes.NewParser(4)
	const text = `{"customer":{"policies":[{"f":"*","p":2}]}}`
	held, err := p.Load(`{"customer":{"decision":true,"policies":[{"f":"*","p":2}]}}`)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 { // the text may come back
		if _, err := p.Load(text); err != nil {
			t.Fatal(err)
		}
		for range 1000 {
			if scopes.Interned(p) == 1 {
				break
			}
			runtime.GC()
			runtime.Gosched() // cleanups run on a goroutine of their own
		}
		if n := scopes.Interned(p); n != 1 {
			t.Fatalf("round %d: %d sets are interned, want the one that is held", round, n)
		}
	}
	runtime.KeepAlive(held)
}

const busy = `{"customer": {"decision": true,
	"policies": [{"f": "a", "p": 4}, {"f": "b*", "p": 2}, {"f": "c", "p": 2}, {"f": "d", "p": 2}, {"f": "e", "p": 2},
		{"f": "f", "p": 2}, {"f": "g", "p": 2}, {"f": "h", "p": 2}, {"f": "staging*", "p": 8}, {"f": "*", "p": 2}],
	"doc": [{"f": "/docs/*", "a": ["lock", "open"], "p": 6}],
	"sets": [{"f": "*", "p": 15, "r": {"entity_type": "^string$", "filter": "^[A-Z]+\\.[A-Z]+$"}}]}}`

func TestDecide_AllocatesNothing(t *testing.T) {
	set := mustParse(t, busy)
	for name, q := range map[string]scopes.Question{
		"permitted":     {Type: "policies", ID: "staging-1", Action: "delete"},
		"refused":       {Type: "policies", ID: "staging-1", Action: "create"},
		"unknown type":  {Type: "other", ID: "x", Action: "read"},
		"custom action": {Type: "doc", ID: "/docs/7", Action: "open"},
		"string values": {Type: "sets", ID: "x", Action: "update", Values: &scopes.Values{EntityType: "string", Added: texts("A.B", "CD.EF"), Removed: texts("G.H")}},
		"no values":     {Type: "sets", ID: "x", Action: "update"},
	} {
		if raceDetector && q.Values != nil {
			continue
		}
		var permitted bool
		if n := testing.AllocsPerRun(100, func() { permitted = set.Permits(q) }); n != 0 {
			t.Errorf("%s: %.0f allocations (permitted: %v)", name, n, permitted)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	set := mustParse(b, busy)
	for name, q := range map[string]scopes.Question{
		"names":  {Type: "policies", ID: "staging-1", Action: "delete"},
		"values": {Type: "sets", ID: "x", Action: "update", Values: &scopes.Values{EntityType: "string", Added: texts("ABC.DEF")}},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !set.Permits(q) {
					b.Fatal("refused")
				}
			}
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	p := scopes.NewParser(4)
	held, err := p.Load(busy)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if set, err := p.Load(busy); err != nil || set != held {
			b.Fatal(err)
		}
	}
}
