package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/authz"
)

// neighbours is what one customer notices of another's heavy policy.
type neighbours struct {
	alone, beside []sample
	heavy         int // evaluations of the heavy policy
}

// A policy that looks at each pair of a list, and what it is asked: it goes on
// until a bound of the evaluation stops it.
const heavyPolicy = `package policies["heavy"]

default allow := false

allow if {
	some a in input.context.list
	some b in input.context.list
	a + b == -1
}
`

// besideHeavy loads a server on all cores with one customer's light policy, in
// turns alone and while clients of another customer ask a heavy one without
// pause.
func besideHeavy(ctx context.Context, s settings, dir, script, questions string) (_ *neighbours, err error) {
	l, err := startLatchkey(ctx, s, launch, "latchkey", filepath.Join(dir, "neighbours"), authz.NewRootToken().Reveal())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.stop()) }()
	caller, err := callerWithPolicies(ctx, l)
	if err != nil {
		return nil, err
	}
	const other = "neighbour"
	if _, err := post(ctx, l.base+"/v1/customers", l.root, "", `{"id":"`+other+`","name":"neighbour"}`); err != nil {
		return nil, err
	}
	if _, err := send(ctx, http.MethodPut, l.base+"/v1/policies/heavy", l.root, other, regoPolicy("heavy", heavyPolicy)); err != nil {
		return nil, err
	}
	made, err := post(ctx, l.base+"/v1/access_keys", l.root, other, newKey(`{"customer":{"decision":true}}`, "bench", "neighbour"))
	if err != nil {
		return nil, err
	}
	key := gjson.GetBytes(made, "key").String()
	heavy := `{"subject":{"type":"user","id":"u"},"action":{"name":"read"},"resource":{"type":"document","id":"d"},"context":{"list":[` +
		strings.TrimSuffix(strings.Repeat("1,", 1000), ",") + `]}}`
	server := *l.process
	server.url = l.base + "/decision/rules"
	under := &load{server: &server, script: script, headers: []string{"Authorization: Bearer " + caller, "Content-Type: application/json"}, args: []string{questions, "random"}}
	n := &neighbours{}
	for round := range s.rounds/3 + 2 {
		alone, err := under.run(ctx, publishingSeconds)
		if err != nil {
			return nil, err
		}
		busy, stop := context.WithCancel(ctx)
		var clients sync.WaitGroup
		var mu sync.Mutex
		var failed error
		for range 4 {
			clients.Go(func() {
				for busy.Err() == nil {
					reply, err := post(busy, l.base+"/decision/heavy", key, "", heavy)
					if busy.Err() != nil {
						return
					}
					mu.Lock()
					n.heavy++
					if code := gjson.GetBytes(reply, "context.reasons.0.code").String(); err == nil && code != "policy_error" {
						err = fmt.Errorf("the heavy policy answers %s", reply)
					}
					failed = errors.Join(failed, err)
					mu.Unlock()
					if err != nil {
						return
					}
				}
			})
		}
		time.Sleep(50 * time.Millisecond) // until they are at it
		beside, err := under.run(ctx, publishingSeconds)
		stop()
		clients.Wait()
		if err := errors.Join(err, failed); err != nil {
			return nil, err
		}
		progress("round %d: p99 alone %v, beside a heavy policy %v", round, alone.p99, beside.p99)
		if round > 0 {
			n.alone, n.beside = append(n.alone, alone), append(n.beside, beside)
		}
	}
	return n, nil
}

// slowdown is the median p99 beside the heavy policy against that alone.
func (n *neighbours) slowdown() float64 {
	return middle(n.beside, p99) / middle(n.alone, p99)
}

func p99(s sample) float64 { return float64(s.p99) }
