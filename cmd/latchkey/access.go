package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/server"
)

// access gives the server the services of access requests.
func (n *node) access(cfg *server.Config) {
	record := n.db.Access()
	cfg.Templates = access.NewTemplates(access.TemplatesConfig{Record: record, Parser: n.parser, Auto: n.auto})
	n.requests = access.NewRequests(access.RequestsConfig{Record: record, Parser: n.parser, Subjects: n.subjects, Auto: n.auto, Trigger: n.tasks,
		Now: func() latchkey.Instant { return latchkey.InstantOf(n.now()) },
		Troubled: func(_ context.Context, what string, err error) {
			n.log.Warn("access_request", "problem", what, "error", err.Error())
		}})
	cfg.Requests = n.requests
	cfg.Granter = authz.NewGranter(authz.GranterConfig{Record: n.db, Table: n.table, Parser: n.parser, Subjects: n.subjects, Requests: n.requests, Entitlements: access.Entitled{}})
	cfg.Approvals = access.NewApprovals(access.ApprovalsConfig{Record: record, Requests: n.requests, Parser: n.parser})
}

// askedAgain is how often it is looked for requests that nobody decided in time, and
// for those whose approval providers are to be asked about again.
const askedAgain = 30 * time.Second

// requestJob is something that the time brings to access requests.
type requestJob struct {
	name  string
	every time.Duration
	run   func(context.Context, latchkey.Instant) (int, error)
}

// runRequests does what the time brings to access requests, until ctx ends.
func (n *node) runRequests(ctx context.Context, sweep time.Duration) {
	often := min(askedAgain, sweep)
	n.repeat(ctx, requestJob{"escalate", often, n.requests.Escalate}, requestJob{"recheck", often, n.requests.Recheck}, requestJob{"sweep", sweep, n.requests.Sweep})
}

// repeat does jobs until ctx ends, each by itself: one that waits for providers keeps
// no other waiting.
func (n *node) repeat(ctx context.Context, jobs ...requestJob) {
	var all sync.WaitGroup
	for _, job := range jobs {
		all.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-time.After(job.every + rand.N(job.every/10+1)): // jitter
				}
				bounded, cancel := context.WithTimeout(ctx, 5*time.Minute)
				_, err := job.run(bounded, latchkey.InstantOf(n.now()))
				cancel()
				if err != nil && ctx.Err() == nil {
					n.log.Warn("background", "job", "access_requests_"+job.name, "error", err.Error())
				}
			}
		})
	}
	all.Wait()
}
