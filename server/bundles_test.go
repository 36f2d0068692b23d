package server_test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/policies/bundle"
)

const defaultBundle = "/v1/bundles/default.tar.gz"

func verify(t *testing.T, raw string, o bundle.Options) *bundle.Bundle {
	t.Helper()
	key, err := bundleSigner(t).Key()
	if err != nil {
		t.Fatal(err)
	}
	if o.Keys, err = bundle.NewKeys("", "", key); err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Read([]byte(raw), o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func names(t *testing.T, raw string) (list []string) {
	t.Helper()
	z, err := gzip.NewReader(strings.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, strings.TrimPrefix(h.Name, "/"))
	}
}

func TestBundles_AreServedSignedAndTagged(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.do("POST", "/v1/sets", a.root, `{"name":"nets","entity_type":"ip","values":["10.0.0.0/8","192.0.2.1"]}`).is(201)
	a.do("POST", "/v1/sets", a.root, `{"name":"ids","entity_type":"uint","values":["7","8"]}`).is(201)
	a.do("POST", "/v1/sets", a.root, `{"name":"words","entity_type":"string","values":["a","b"]}`).is(201)
	a.putPolicy("main", "true").is(201)
	a.do("PATCH", "/v1/customers/default", a.root, `{"default_policy":"main"}`).is(200)
	reader := a.create(`{"bundles":[{"f":"default","p":2}]}`)

	got := a.do("GET", defaultBundle+"?profile=latchkey", reader.secret, "").is(200)
	b := verify(t, got.body, bundle.Options{Customer: "default"})
	revision := a.table.Customer("default").Policies.Snapshot().Revision
	if b.Origin == nil || b.Origin.Sequence != revision || b.Origin.DefaultPolicy != "main" || len(b.Policies) != 1 || b.Policies[0].Name != "main" {
		t.Errorf("origin %+v, policies %+v", b.Origin, b.Policies)
	}
	sets := map[string][]string{}
	for _, s := range b.Sets {
		sets[s.Name] = s.Values
	}
	for name, want := range map[string][]string{"nets": {"10.0.0.0/8", "192.0.2.1"}, "ids": {"7", "8"}, "words": {"a", "b"}} {
		if !slices.Equal(sets[name], want) {
			t.Errorf("set %s: %q", name, sets[name])
		}
	}
	if media := got.header.Get("Content-Type"); media != "application/gzip" {
		t.Errorf("content type %s", media)
	}
	if got.header.Get("ETag") != bundle.ETag([]byte(got.body)) {
		t.Errorf("tag %s", got.header.Get("ETag"))
	}
	forOPA := a.do("GET", defaultBundle, reader.secret, "", "Prefer", "modes=snapshot,delta").is(200)
	if media := forOPA.header.Get("Content-Type"); media != "application/vnd.openpolicyagent.bundles" {
		t.Errorf("to OPA: content type %s", media)
	}
	verify(t, forOPA.body, bundle.Options{Customer: "default"})
	unsigned := a.do("GET", defaultBundle+"?signature=none", reader.secret, "").is(200)
	if slices.Contains(names(t, unsigned.body), ".signatures.json") || !slices.Contains(names(t, forOPA.body), ".signatures.json") {
		t.Errorf("unsigned: %q, signed: %q", names(t, unsigned.body), names(t, forOPA.body))
	}

	tag := forOPA.header.Get("ETag")
	for _, known := range []string{tag, "W/" + tag, `"x", ` + tag, "*"} {
		r := a.do("GET", defaultBundle, reader.secret, "", "If-None-Match", known).is(304)
		if r.header.Get("ETag") != tag || r.body != "" {
			t.Errorf("If-None-Match %s: tag %s, %d bytes", known, r.header.Get("ETag"), len(r.body))
		}
	}
	a.do("GET", defaultBundle, reader.secret, "", "If-None-Match", `"x"`).is(200)
	a.do("GET", defaultBundle, reader.secret, "", "If-None-Match", `x`).is(400)
	a.do("GET", defaultBundle, reader.secret, "", "If-Match", `"x"`).is(412)

	// What is not in it does not change it, nor does a restart.
	a.create(`{"decision":true}`)
	a.do("PATCH", "/v1/customers/default", a.root, `{"name":"Renamed","default_policy":"main"}`).is(200)
	a.do("GET", defaultBundle, reader.secret, "", "If-None-Match", tag).is(304)
	a.do("DELETE", "/v1/sets/words", a.root, "").is(204)
	tag = a.do("GET", defaultBundle, reader.secret, "", "If-None-Match", tag).is(200).header.Get("ETag")
	a.stop()
	again := start(t, func(o *options) { o.dir, o.clock = a.dir, a.clock })
	again.do("GET", defaultBundle, again.root, "", "If-None-Match", tag).is(304)
	for _, path := range []string{"/v1/sets/ids", "/v1/sets/nets"} { // none is left to count by
		again.do("DELETE", path, again.root, "").is(204)
	}
	tag = again.do("GET", defaultBundle, again.root, "").is(200).header.Get("ETag")
	again.stop()
	last := start(t, func(o *options) { o.dir, o.clock = a.dir, a.clock })
	last.do("GET", defaultBundle, last.root, "", "If-None-Match", tag).is(304)
}

func TestBundles_AreRefused(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.customer("acme")
	reader := a.createFor("default", `{"bundles":[{"f":"*","p":2}]}`)
	for name, c := range map[string]struct {
		key, path string
		status    int
		code      string
	}{
		"another customer's":        {reader.secret, "/v1/bundles/acme.tar.gz", 403, "wrong_customer"},
		"one that does not exist":   {reader.secret, "/v1/bundles/nobody.tar.gz", 403, "wrong_customer"}, // as of one that does
		"without the scope":         {a.createFor("default", `{"decision":true,"policies":[{"f":"*","p":15}]}`).secret, defaultBundle, 403, "scope_missing"},
		"with the scope of another": {a.createFor("default", `{"bundles":[{"f":"acme","p":2}]}`).secret, defaultBundle, 403, "scope_missing"},
		"without a key":             {"", defaultBundle, 401, "invalid_credential"},
		"an unknown profile":        {reader.secret, defaultBundle + "?profile=OPA", 400, "invalid_parameter"},
		"another signature":         {reader.secret, defaultBundle + "?signature=None", 400, "invalid_parameter"},
		"another parameter":         {reader.secret, defaultBundle + "?customer=acme", 400, "unknown_parameter"},
		"no bundle":                 {reader.secret, "/v1/bundles/default", 404, "bundle_not_found"},
		"no customer, to root":      {a.root, "/v1/bundles/nobody.tar.gz", 404, "bundle_not_found"},
		"out of the path":           {a.root, "/v1/bundles/..%2fdefault.tar.gz", 404, "bundle_not_found"},
		"the status, without":       {a.createFor("default", `{"decision":true}`).secret, "/v1/bundles", 403, "scope_missing"},
	} {
		r := a.do("GET", c.path, c.key, "").is(c.status)
		if got := r.text("code"); got != c.code {
			t.Errorf("%s: %s", name, r.body)
		}
	}
	a.do("GET", "/v1/bundles/acme.tar.gz", a.root, "").is(200)
	if r := a.do("GET", "/v1/bundles", reader.secret, "").is(200); r.body != `{"bundles":[]}` {
		t.Errorf("status: %s", r.body)
	}
}

// poll asks with a wait, beside the test.
func (a *api) poll(key, path string, headers ...string) <-chan *reply {
	a.Helper()
	answered := make(chan *reply, 1)
	go func() {
		r, err := a.try("GET", path, key, "", headers...)
		if err != nil {
			r = &reply{} // the test finds no status
		}
		answered <- r
	}()
	return answered
}

// waits returns once so many clients wait for bundles.
func (a *api) waits(n int) { a.Helper(); a.gauge("latchkey_bundle_waiting", n) }

// gauge returns once a metric has the value.
func (a *api) gauge(name string, n int) {
	a.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		for line := range strings.Lines(a.metrics()) {
			if strings.TrimSpace(line) == name+" "+strconv.Itoa(n) {
				return
			}
		}
		select {
		case <-deadline.C:
			a.Fatalf("%s is not %d", name, n)
		case <-tick.C:
		}
	}
}

func TestBundles_AWaitEndsWithAChangeOfTheCustomer(t *testing.T) {
	t.Parallel()
	// A connection's own timeouts must not end the wait.
	a := start(t, func(o *options) {
		o.config.ReadTimeout, o.config.WriteTimeout = 50*time.Millisecond, 50*time.Millisecond
	})
	a.customer("acme")
	here := []string{"X-Customer-ID", "default"}
	tag := a.do("GET", defaultBundle, a.root, "").is(200).header.Get("ETag")
	answer := a.poll(a.root, defaultBundle, "If-None-Match", tag, "Prefer", "modes=snapshot,delta;wait=60")
	a.waits(1)
	a.putPolicy("main", "true", "X-Customer-ID", "acme").is(201)
	a.createFor("default", `{"decision":true}`)
	select {
	case r := <-answer:
		t.Fatalf("a change elsewhere ended the wait: %d", r.status)
	case <-time.NewTimer(200 * time.Millisecond).C:
	}
	a.putPolicy("main", "true", here...).is(201)
	r := <-answer
	if r.status != 200 || r.header.Get("ETag") == tag || r.header.Get("Content-Type") != "application/vnd.openpolicyagent.bundles" {
		t.Errorf("%d %v", r.status, r.header)
	}
	tag = r.header.Get("ETag")
	began := time.Now()
	a.do("GET", defaultBundle, a.root, "", "If-None-Match", tag, "Prefer", "wait=1").is(304)
	if took := time.Since(began); took < 900*time.Millisecond {
		t.Errorf("the wait took %v", took)
	}
	a.do("GET", defaultBundle, a.root, "", "Prefer", "wait=30").is(200)                                // has none
	a.do("GET", defaultBundle, a.root, "", "If-None-Match", tag, "Prefer", "wait=-1, modes=x").is(304) // wants none
	a.waits(0)
}

func TestBundles_AWaitEndsWithTheKeyTheServerAndTheClient(t *testing.T) {
	t.Parallel()
	a := start(t)
	reader := a.create(`{"bundles":[{"f":"default","p":2}]}`)
	tag := a.do("GET", defaultBundle, a.root, "").is(200).header.Get("ETag")

	// A key that was revoked meanwhile gets nothing of what is new.
	answer := a.poll(reader.secret, defaultBundle, "If-None-Match", tag, "Prefer", "wait=60")
	a.waits(1)
	a.do("DELETE", "/v1/access_keys/"+reader.id, a.root, "").is(204)
	a.putPolicy("main", "true").is(201)
	if r := <-answer; r.status != http.StatusUnauthorized {
		t.Errorf("a revoked key: %d", r.status)
	}

	tag = a.do("GET", defaultBundle, a.root, "").is(200).header.Get("ETag")
	ctx, hangUp := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+a.addr+defaultBundle, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"Authorization": "Bearer " + a.root, "If-None-Match": tag, "Prefer": "wait=60"} {
		req.Header.Set(name, value)
	}
	left := make(chan error, 1)
	go func() {
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err == nil {
			resp.Body.Close()
		}
		left <- err
	}()
	a.waits(1)
	hangUp()
	if err := <-left; err == nil {
		t.Error("the client was answered")
	}
	a.waits(0) // well before the 60 s

	answer = a.poll(a.root, defaultBundle, "If-None-Match", tag, "Prefer", "wait=60")
	a.waits(1)
	began := time.Now()
	a.stop()
	if r := <-answer; r.status != 304 || time.Since(began) > 30*time.Second {
		t.Errorf("at the end: %d after %v", r.status, time.Since(began))
	}
}

func TestBundles_WaitersAreBounded(t *testing.T) {
	t.Parallel()
	a := start(t)
	tag := a.do("GET", defaultBundle, a.root, "").is(200).header.Get("ETag")
	const most = 256
	var answers []<-chan *reply
	for range most {
		answers = append(answers, a.poll(a.root, defaultBundle, "If-None-Match", tag, "Prefer", "wait=60"))
	}
	a.waits(most)
	r := a.do("GET", defaultBundle, a.root, "", "If-None-Match", tag, "Prefer", "wait=60").is(http.StatusTooManyRequests)
	if r.text("code") != "too_many_waiting" || r.header.Get("Retry-After") == "" {
		t.Errorf("%s %v", r.body, r.header)
	}
	a.do("GET", defaultBundle, a.root, "", "If-None-Match", tag).is(304) // who does not wait is answered
	a.putPolicy("main", "true").is(201)
	first := ""
	for _, answer := range answers {
		r := <-answer
		if first == "" {
			first = r.body
		}
		if r.status != 200 || r.body != first {
			t.Fatalf("%d, %d bytes", r.status, len(r.body))
		}
	}
	a.waits(0)
}

// A customer whose policies come from a bundle is not written to.
func TestBundles_TheirCustomersAreNotWrittenTo(t *testing.T) {
	t.Parallel()
	pulled := ""
	a := start(t, func(o *options) {
		o.origin = func(customer string) string { return map[bool]string{true: "bundle"}[customer == pulled] }
		o.config.Bundles = fixedBundles{o.origin, "control-plane"}
	})
	a.putPolicy("main", "true").is(201)
	a.do("POST", "/v1/sets", a.root, `{"name":"s","entity_type":"string","values":["a"]}`).is(201)
	pulled = "default"
	for _, c := range [][3]string{
		{"PUT", "/v1/policies/main", celPolicy("main", "false")}, {"POST", "/v1/policies", celPolicy("other", "true")}, {"DELETE", "/v1/policies/main", ""},
		{"POST", "/v1/sets", `{"name":"t","entity_type":"string","values":[]}`}, {"PUT", "/v1/sets/s", `{"values":["b"]}`}, {"PATCH", "/v1/sets/s", `{"add":["b"]}`},
		{"DELETE", "/v1/sets/s", ""}, {"DELETE", "/v1/sets/s/values/a", ""}, {"PATCH", "/v1/customers/default", `{"default_policy":"main"}`}, {"GET", defaultBundle, ""},
	} {
		if r := a.do(c[0], c[1], a.root, c[2]).is(http.StatusConflict); r.text("code") != "policies_from_bundle" {
			t.Errorf("%s %s: %s", c[0], c[1], r.body)
		}
	}
	a.do("PATCH", "/v1/customers/default", a.root, `{"name":"Still"}`).is(200)
	if r := a.do("GET", "/health/ready", "", "").is(503); !strings.Contains(r.body, "control-plane") {
		t.Errorf("ready: %s", r.body)
	}
	reader := a.create(`{"bundles":[{"f":"default","p":2}]}`)
	if r := a.do("GET", "/v1/bundles", reader.secret, "").is(200); r.text("bundles.0.name") != "control-plane" {
		t.Errorf("status: %s", r.body)
	}
}

// fixedBundles stand as they stand.
type fixedBundles struct {
	origin  authz.Origin
	pending string
}

func (f fixedBundles) Origin(customer string) string { return f.origin(customer) }
func (f fixedBundles) Pending() string               { return f.pending }
func (fixedBundles) Statuses(customer string) []bundle.Status {
	return []bundle.Status{{Name: "control-plane", Customer: customer, Source: "https://example.com/b.tar.gz"}}
}
