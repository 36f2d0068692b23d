package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/latchkey-dev/latchkey/authz"
)

// publishing is what those who ask notice of a policy being published.
type published struct {
	rest, during []sample
	versions     int
}

// publishingSeconds is the length of one measurement at rest, and of one while
// policies are published.
const publishingSeconds = 3

// publishing loads a server on all cores, whose customer has 200 policies, in
// turns at rest and while one of them is published again and again.
func publishing(ctx context.Context, s settings, dir, script, questions string) (_ *published, err error) {
	l, err := startLatchkey(ctx, s, launch, "latchkey", filepath.Join(dir, "publishing"), authz.NewRootToken().Reveal())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.stop()) }()
	caller, err := callerWithPolicies(ctx, l)
	if err != nil {
		return nil, err
	}
	put := func(name string, version int) error {
		text := documentsRego + fmt.Sprintf("\nversion := %d\n", version)
		_, err := send(ctx, http.MethodPut, l.base+"/v1/policies/"+name, l.root, customer, regoPolicy(name, text))
		return err
	}
	for n := range otherPolicies - 1 {
		if err := put(fmt.Sprintf("other-%03d", n), 0); err != nil {
			return nil, err
		}
	}
	server := *l.process
	server.url = l.base + "/decision/rules"
	under := &load{server: &server, script: script, headers: []string{"Authorization: Bearer " + caller, "Content-Type: application/json"}, args: []string{questions, "random"}}
	p := &published{}
	for round := range s.rounds/3 + 2 {
		rest, err := under.run(ctx, publishingSeconds)
		if err != nil {
			return nil, err
		}
		stop := make(chan struct{})
		var failed error
		var publisher sync.WaitGroup
		publisher.Go(func() {
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
					p.versions++
					if failed = put("other-007", p.versions); failed != nil {
						return
					}
				}
			}
		})
		during, err := under.run(ctx, publishingSeconds)
		close(stop)
		publisher.Wait()
		if err := errors.Join(err, failed); err != nil {
			return nil, err
		}
		progress("round %d: p99.9 at rest %v, while publishing %v", round, rest.p999, during.p999)
		if round > 0 {
			p.rest, p.during = append(p.rest, rest), append(p.during, during)
		}
	}
	return p, nil
}

// slowdown is the median p99.9 while publishing against that at rest.
func (p *published) slowdown() float64 {
	by := func(s sample) float64 { return float64(s.p999) }
	return middle(p.during, by) / middle(p.rest, by)
}
