package server_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestQuota_TheEleventhKeyIsRefused(t *testing.T) {
	t.Parallel()
	for status, set := range map[int]int{500: 0, 409: 409} { // 500 is the access-key document's
		a := start(t, func(o *options) { o.config.TooManyKeysStatus = set })
		for range 10 {
			a.create(`{"decision":true}`)
		}
		a.do("POST", "/v1/access_keys", a.root, newKeyBody(`{"decision":true}`)).refused(status, "too_many_keys")
		if n := len(a.events("default")); n != 10 {
			t.Errorf("%d events", n)
		}
		// It is no fault of the server's, whatever the status says.
		if m := a.metrics(); !strings.Contains(m, `latchkey_http_request_duration_seconds_count{method="POST",route="/v1/access_keys",status="5xx"} 0`) {
			t.Error("a refused key counts as a server fault")
		}
		if strings.Contains(a.log.String(), `"level":"ERROR"`) {
			t.Errorf("a refused key is logged as a server fault: %s", a.log)
		}
	}
}

func TestQuota_CountsNeitherExpiredNorRevokedKeys(t *testing.T) {
	t.Parallel()
	a := start(t)
	for i := range 10 {
		if i < 5 {
			a.create(`{"decision":true}`, `"expires_at":"`+a.clock.in(time.Minute)+`"`)
		} else if k := a.create(`{"decision":true}`); i < 8 {
			a.do("DELETE", "/v1/access_keys/"+k.id, a.root, "").is(204)
		}
	}
	for range 3 { // the room of the revoked ones
		a.create(`{"decision":true}`)
	}
	a.do("POST", "/v1/access_keys", a.root, newKeyBody(`{"decision":true}`)).refused(500, "too_many_keys")
	a.clock.advance(time.Minute)
	for range 5 { // the room of the expired ones
		a.create(`{"decision":true}`)
	}
	a.do("POST", "/v1/access_keys", a.root, newKeyBody(`{"decision":true}`)).refused(500, "too_many_keys")
}

func TestQuota_IsTheCustomersOwn(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.maxActive = 1 })
	a.create(`{"decision":true}`)
	a.do("POST", "/v1/customers", a.root, `{"id":"acme","name":"Acme","max_active_keys":2}`).is(201)
	a.createFor("acme", `{"decision":true}`)
	a.createFor("acme", `{"decision":true}`)
	body := newKeyBody(`{"decision":true}`)
	a.do("POST", "/v1/access_keys", a.root, body, "X-Customer-ID", "acme").refused(500, "too_many_keys")
	a.do("POST", "/v1/access_keys", a.root, body, "X-Customer-ID", "default").refused(500, "too_many_keys")
	a.do("PATCH", "/v1/customers/acme", a.root, `{"max_active_keys":3}`).is(200)
	a.createFor("acme", `{"decision":true}`)
	a.do("PATCH", "/v1/customers/acme", a.root, `{"max_active_keys":1}`).is(200) // ends none, makes none
	a.do("POST", "/v1/access_keys", a.root, body, "X-Customer-ID", "acme").refused(500, "too_many_keys")
}

func TestQuota_HoldsUnderTwoHundredParallelCreates(t *testing.T) {
	t.Parallel()
	a := start(t)
	var wg sync.WaitGroup
	var made, refused atomic.Int64
	for range 200 {
		wg.Go(func() {
			r, err := a.try("POST", "/v1/access_keys", a.root, newKeyBody(`{"decision":true}`))
			switch {
			case err != nil:
				t.Error(err)
			case r.status == 201:
				a.keep(r.text("key"))
				made.Add(1)
			case r.status == 500 && r.text("code") == "too_many_keys":
				refused.Add(1)
			default:
				t.Errorf("%d %s", r.status, r.body)
			}
		})
	}
	wg.Wait()
	if made.Load() != 10 || refused.Load() != 190 {
		t.Errorf("%d made, %d refused", made.Load(), refused.Load())
	}
	if n := a.do("GET", "/v1/access_keys?limit=100", a.root, "").get("total").Int(); n != 10 {
		t.Errorf("%d active keys", n)
	}
	if n := len(a.events("default")); n != 10 {
		t.Errorf("%d events", n)
	}
}
