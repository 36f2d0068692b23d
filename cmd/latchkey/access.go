package main

import (
	"context"
	"math/rand/v2"
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

// runRequests does what the time brings to access requests, until ctx ends.
func (n *node) runRequests(ctx context.Context, sweep time.Duration) {
	swept := n.now()
	for {
		wait := min(askedAgain, sweep)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait + rand.N(wait/10+1)): // jitter
		}
		now := n.now()
		n.requestJob(ctx, "escalate", n.requests.Escalate)
		n.requestJob(ctx, "recheck", n.requests.Recheck)
		if now.Sub(swept) >= sweep {
			swept = now
			n.requestJob(ctx, "sweep", n.requests.Sweep)
		}
	}
}

func (n *node) requestJob(ctx context.Context, job string, run func(context.Context, latchkey.Instant) (int, error)) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if _, err := run(ctx, latchkey.InstantOf(n.now())); err != nil && ctx.Err() == nil {
		n.log.Warn("background", "job", "access_requests_"+job, "error", err.Error())
	}
}
