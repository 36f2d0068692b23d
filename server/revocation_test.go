package server_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestRevocation_IsSeenByEveryRequestThatStartsAfterItsReply: 64 clients ask
// with and about keys while these are revoked one after the other.
func TestRevocation_IsSeenByEveryRequestThatStartsAfterItsReply(t *testing.T) {
	t.Parallel()
	const rounds, clients = 10, 64
	a := start(t, func(o *options) { o.config.AuthFailureRate = 1e6 })
	asker := a.create(`{"decision":true}`)
	for range rounds {
		k := a.create(`{"decision":true,"policies":[{"f":"*","p":2}]}`)
		about := evaluation(subject(k.id), "read", "policies", "x")
		var gone, stop atomic.Bool
		var before, after atomic.Int64
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() {
				credential := asker.secret
				if i%2 == 0 {
					credential = k.secret // the caller itself is revoked
				}
				for !stop.Load() {
					startedAfter := gone.Load()
					r, err := a.try("POST", "/decision", credential, about)
					if err != nil {
						t.Error(err)
						return
					}
					allowed := r.status == 200 && r.get("decision").Bool()
					switch {
					case startedAfter && allowed:
						t.Errorf("allowed after the reply: %s", r.body)
						return
					case startedAfter:
						after.Add(1)
					case allowed:
						before.Add(1)
					}
				}
			})
		}
		a.until(func() bool { return before.Load() > clients })
		a.do("DELETE", "/v1/access_keys/"+k.id, a.root, "").is(204)
		gone.Store(true)
		a.until(func() bool { return after.Load() > clients })
		stop.Store(true)
		wg.Wait()
	}
}

// until waits for other goroutines' work, for so long as the test may run.
func (a *api) until(done func() bool) {
	a.Helper()
	ticks, over := time.NewTicker(time.Millisecond), time.After(time.Minute)
	defer ticks.Stop()
	for !done() {
		select {
		case <-ticks.C:
		case <-over:
			a.Fatal("waited in vain")
		}
		if a.Failed() {
			a.FailNow()
		}
	}
}

func TestRotation_AndCustomerDeletionAreSeenAtOnceToo(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.config.AuthFailureRate, o.maxActive = 1e6, 100 })
	a.customer("acme")
	k, lost := a.createFor("acme", everyScope), a.createFor("acme", everyScope)
	var rotated, deleted, stop atomic.Bool
	var asked atomic.Int64
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for !stop.Load() {
				secret, over := k.secret, &rotated
				if i%2 == 0 {
					secret, over = lost.secret, &deleted
				}
				startedAfter := over.Load()
				r, err := a.try("GET", selfPath, secret, "")
				if err != nil || startedAfter && r.status != 401 {
					t.Errorf("%v %+v", err, r)
					return
				}
				asked.Add(1)
			}
		})
	}
	a.until(func() bool { return asked.Load() > 50 })
	a.made(a.do("POST", "/v1/access_keys/"+k.id+"/rotate", a.root, `{}`, "X-Customer-ID", "acme"))
	rotated.Store(true)
	n := asked.Load()
	a.until(func() bool { return asked.Load() > n+50 })
	a.do("DELETE", "/v1/customers/acme", a.root, "").is(204)
	deleted.Store(true)
	n = asked.Load()
	a.until(func() bool { return asked.Load() > n+50 })
	stop.Store(true)
	wg.Wait()
}
