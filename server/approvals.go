package server

import (
	"context"
	"net/http"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// approvalDeadline bounds the asking, beside the wait: providers and a task may
// be asked on the way.
const approvalDeadline = access.AutoTimeout + access.TriggerTimeout + 10*time.Second

// askApproval takes {petitioners, resources, reason?, duration?, wait?}. It waits
// by the request's change; where no more clients may wait it answers at once, for
// the request is there.
func (s *Server) askApproval(r *request) error {
	ask, seconds, err := access.ParseAsk(r.root())
	if err != nil {
		return err
	}
	out, err := aside(r, func(ctx context.Context) (access.Outcome, error) {
		return s.cfg.Approvals.Ask(ctx, r.call(), ask)
	})
	if err != nil {
		return err
	}
	if id := out.Request; out.Status == access.OutcomeWaiting && seconds > 0 {
		r.body, r.doc = "", strictjson.Doc{} // nothing is kept for a minute that nobody reads
		r.c.Request().ResetBody()
		err = r.awaitRequest(id, time.Duration(seconds)*time.Second, func() (bool, latchkey.Instant, error) {
			now, err := aside(r, func(ctx context.Context) (access.Outcome, error) {
				return s.cfg.Approvals.Look(ctx, r.call(), id)
			})
			if err == nil {
				out = now
			}
			return out.Status != access.OutcomeWaiting, out.Again, err
		})
		if err != nil && latchkey.KindOf(err) != latchkey.TooManyRequests {
			return err
		}
	}
	r.out = appendOutcome(r.out[:0], &out, r.now)
	return r.json(http.StatusOK)
}

// aside calls do with the route's deadline, on a stack of its own: that of the
// connection, which waits for a minute with it, stays as small as an idle one's.
func aside[T any](r *request, do func(context.Context) (T, error)) (out T, err error) {
	var failed any
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { failed = recover() }()
		ctx, cancel := r.context()
		defer cancel()
		out, err = do(ctx)
	}()
	<-done
	if failed != nil {
		panic(failed) // for who answers for the request
	}
	return out, err
}

func appendOutcome(b []byte, o *access.Outcome, now latchkey.Instant) []byte {
	b = append(append(b, `{"status":"`...), o.Status...)
	b = append(b, `","request_id":`...)
	if o.Request == "" {
		b = append(b, `null`...)
	} else {
		b = strictjson.AppendString(b, o.Request)
	}
	b = append(b, `,"grant":`...)
	if o.Grant == nil {
		b = append(b, `null`...)
	} else {
		b = appendGrant(b, o.Grant, now)
	}
	b = append(b, `,"denial":`...)
	if o.Status != access.OutcomeDenied {
		return append(b, `null}`...)
	}
	b = strictjson.AppendString(append(b, `{"code":`...), o.Code)
	b = strictjson.AppendString(append(b, `,"detail":`...), o.Detail)
	return append(b, `}}`...)
}
