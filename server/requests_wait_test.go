package server_test

import (
	"sync"
	"testing"
	"time"
)

// await asks for a request in the background, and to be answered once it is
// decided.
func (o *office) await(path, credential string) <-chan *reply {
	answered := make(chan *reply, 1)
	go func() {
		r, err := o.try("GET", path+"?wait=30", credential, "")
		if err != nil {
			o.Error(err)
		}
		answered <- r
	}()
	return answered
}

func TestRequests_WhoWaitsIsWokenByTheDecision(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	template := o.newTemplate(`"approvals_required":2`)
	path, other := o.submit(o.alice, template), o.submit(o.eve, template)
	answered := o.await(path, o.alice.token)
	o.gauge("latchkey_access_request_waiting", 1)
	o.do("POST", other+"/deny", o.dora.token, "").is(200)   // somebody else's
	o.do("POST", path+"/approve", o.dora.token, "").is(200) // one of two
	select {
	case r := <-answered:
		t.Fatalf("answered before the decision: %s", r.body)
	default:
	}
	began := time.Now()
	o.do("POST", path+"/approve", o.dan.token, "").is(200)
	if r := (<-answered).is(200); r.text("status") != "approved" {
		t.Errorf("woken with %s", r.body)
	}
	t.Logf("from the decision's call to the answer: %s", time.Since(began))
	// What is decided is answered at once, and what nobody decides when the time is over.
	if r := (<-o.await(path, o.dan.token)).is(200); r.text("status") != "approved" {
		t.Errorf("a decided one: %s", r.body)
	}
	pending := o.submit(o.eve, template)
	if r := o.do("GET", pending+"?wait=1", o.eve.token, "").is(200); r.text("status") != "pending" {
		t.Errorf("after a second: %s", r.body)
	}
	o.gauge("latchkey_access_request_waiting", 0)
}

// The attack: a token is stolen, its owner ends it, and the thief's call still waits.
func TestRequests_WhoWaitsIsAskedAgainWhoTheyAre(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	path := o.submit(o.alice, o.newTemplate())
	second := o.do("POST", "/v1/personal_tokens", o.alice.token, `{"name":"phone"}`).is(201)
	answered := o.await(path, o.keep(second.text("token")))
	o.gauge("latchkey_access_request_waiting", 1)
	o.do("DELETE", "/v1/personal_tokens/"+second.text("id"), o.alice.token, "").is(204)
	o.do("POST", path+"/approve", o.dora.token, "").is(200)
	(<-answered).is(401)
}

func TestRequests_ManyWaitForOneDecision(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	path := o.submit(o.alice, o.newTemplate())
	const waiting = 200
	var all []<-chan *reply
	for range waiting {
		all = append(all, o.await(path, o.alice.token))
	}
	o.gauge("latchkey_access_request_waiting", waiting)
	began := time.Now()
	o.do("POST", path+"/approve", o.dora.token, "").is(200)
	var each sync.WaitGroup
	for _, answered := range all {
		each.Go(func() {
			if r := <-answered; r.status != 200 || r.text("status") != "approved" {
				t.Errorf("woken with %d %s", r.status, r.body)
			}
		})
	}
	each.Wait()
	t.Logf("%d clients answered %s after the decision's call", waiting, time.Since(began))
	o.gauge("latchkey_access_request_waiting", 0)
}
