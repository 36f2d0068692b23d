package server_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestReplies_NeverHoldAnothersBytes tells of a reply whose buffer went back
// to the pool while it was still being written: under load a client could read
// part of another customer's reply, a new secret included.
func TestReplies_NeverHoldAnothersBytes(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.maxActive, o.config.AuthFailureRate = 100, 1e6 })
	a.customer("acme")
	var wg sync.WaitGroup
	for i := range 24 {
		customer := map[bool]string{true: "acme", false: "default"}[i%2 == 0]
		k := a.createFor(customer, `{"decision":true,"policies":[{"f":"`+strings.Repeat(string(rune('a'+i)), 120)+`*","p":2}]}`)
		wg.Go(func() {
			about := evaluation(subject(k.id), "read", "policies", strings.Repeat(string(rune('a'+i)), 121))
			for range 60 {
				self, err := a.try("GET", selfPath, k.secret, "")
				if err != nil || self.text("id") != k.id || self.text("customer_id") != customer {
					t.Errorf("%v: another's record: %s", err, self.body)
					return
				}
				decision, err := a.try("POST", "/decision", k.secret, about)
				if err != nil || !decision.get("decision").Bool() || decision.text("context.reasons.0.id") != k.id {
					t.Errorf("%v: another's decision: %s", err, decision.body)
					return
				}
				refusal, err := a.try("GET", "/v1/access_keys/"+k.id, k.secret, "")
				if err != nil || refusal.text("instance") != "/v1/access_keys/"+k.id {
					t.Errorf("%v: another's refusal: %s", err, refusal.body)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestReplies_ToASlowReaderStayWhatTheyWere: a reply larger than the socket's
// buffers waits half written, while others are made.
func TestReplies_ToASlowReaderStayWhatTheyWere(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.maxActive = 100 })
	entry := `{"f":"` + strings.Repeat("s", 1000) + `","p":2}`
	entries := `[` + strings.TrimSuffix(strings.Repeat(entry+",", 10), ",") + `]`
	var types []string
	for i := range 6 {
		types = append(types, fmt.Sprintf(`"type_%d":%s`, i, entries))
	}
	for range 100 {
		a.create(`{` + strings.Join(types, ",") + `}`)
		a.clock.advance(time.Second)
	}
	const newestFirst, oldestFirst = "/v1/access_keys?limit=100", "/v1/access_keys?limit=100&sort_direction=asc"
	want := a.do("GET", newestFirst, a.root, "").is(200).body
	w := a.dial()
	w.send("GET " + newestFirst + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + a.root + "\r\n\r\n")
	if _, err := w.r.Peek(1); err != nil { // it is being written
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if r, err := a.try("GET", oldestFirst, a.root, ""); err != nil || r.status != 200 {
				t.Errorf("%v %+v", err, r)
			}
		})
	}
	wg.Wait()
	if _, _, got := w.answer(); got != want {
		t.Error("the reply was written over while it was being sent")
	}
}
