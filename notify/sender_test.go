package notify

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/deliveries"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/internal/vault"
	"github.com/latchkey-dev/latchkey/store"
)

// world is everything from an event to its receiver, but for the API.
type world struct {
	testing.TB
	db       *store.DB
	service  *deliveries.Webhooks
	maker    *deliveries.Maker
	sender   *Sender
	registry *prometheus.Registry
	log      *logText
	now      atomic.Int64
	call     authz.Call
}

type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newWorld(t testing.TB, change ...func(*SenderConfig)) *world {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := context.Background()
	w := &world{TB: t, log: &logText{}, registry: prometheus.NewRegistry()}
	w.now.Store(int64(latchkey.InstantOf(time.Now()))) // receivers look at real clocks
	var err error
	w.db, err = store.Open(ctx, filepath.Join(t.TempDir(), "latchkey.db"), bytes.Repeat([]byte{1}, 32))
	must(err)
	t.Cleanup(func() { must(w.db.Close()) })
	must(authz.NewCustomers(w.db, &cache.Table{}).Establish(ctx, authz.DefaultCustomer, w.at()))
	root, err := authz.NewRootKey(w.db, &authz.Peppers{}).Establish(ctx, nil, w.at())
	must(err)
	w.call = authz.Call{Caller: authz.Caller{Kind: authz.RootCredential, Kid: root.Kid, Customer: &authz.Customer{ID: authz.DefaultCustomer}}, Now: w.at()}
	v, err := vault.New(bytes.Repeat([]byte{5}, vault.KeyBytes))
	must(err)
	allow, err := ParseAllowed([]string{"127.0.0.0/8"})
	must(err)
	cfg := SenderConfig{
		Queue: w.db.Deliveries(), Vault: v, Guard: NewGuard(GuardConfig{Allow: allow}), Log: slog.New(slog.NewJSONHandler(w.log, nil)), Registry: w.registry,
		Now: w.at, Redact: authz.Redact, Jitter: func() float64 { return 0.5 },
	}
	for _, c := range change {
		c(&cfg)
	}
	w.sender = NewSender(cfg)
	t.Cleanup(w.sender.Close)
	w.service = deliveries.New(deliveries.Config{Record: w.db.Deliveries(), Vault: v, Addresses: NewGuard(GuardConfig{Allow: allow})})
	w.maker = deliveries.NewMaker(w.db.Deliveries(), cfg.Mail != nil)
	return w
}

func (w *world) at() latchkey.Instant    { return latchkey.Instant(w.now.Load()) }
func (w *world) advance(d time.Duration) { w.now.Add(int64(d / time.Microsecond)) }

// webhook makes one for approvals; more are further members of its settings.
func (w *world) webhook(url, more string) deliveries.Shown {
	w.Helper()
	var doc strictjson.Doc
	if err := doc.Parse(`{"url":"` + url + `","events":["access_request.approved"]` + more + `}`); err != nil {
		w.Fatal(err)
	}
	in, err := w.service.Parse(doc.Root())
	if err != nil {
		w.Fatal(err)
	}
	call := w.call
	call.Now = w.at()
	made, err := w.service.Create(context.Background(), call, in)
	if err != nil {
		w.Fatal(err)
	}
	return made
}

// happened writes an event, with further members of its changes.
func (w *world) happened(event, more string) (request string) {
	w.Helper()
	request = uuid.NewString()
	err := w.db.Change(context.Background(), authz.Change{Chain: authz.DefaultCustomer, At: w.at()}, func(authz.Tx) (audit.Draft, error) {
		return audit.Draft{ID: uuid.NewString(), At: w.at(), Actor: audit.Actor{Type: "system", ID: "system"}, Action: "access_request.approve", Outcome: "success",
			Resource: audit.Resource{Type: "access_request", ID: request, Name: "T"}, Changes: `{"event":"` + event + `","request_id":"` + request + `"` + more + `}`}, nil
	})
	if err != nil {
		w.Fatal(err)
	}
	if _, err := w.maker.RunOnce(context.Background(), w.at()); err != nil {
		w.Fatal(err)
	}
	return request
}

// send makes the attempts that are due, and returns their number.
func (w *world) send() (n int) {
	w.Helper()
	n, err := w.sender.RunOnce(context.Background(), w.at())
	if err != nil {
		w.Fatal(err)
	}
	w.sender.Wait()
	return n
}

func (w *world) deliveries(of string) []deliveries.Delivery {
	w.Helper()
	list, err := w.db.Deliveries().Deliveries(context.Background(), deliveries.Query{Customer: authz.DefaultCustomer, Target: of, Limit: 1000})
	if err != nil {
		w.Fatal(err)
	}
	return list
}

// got is a request as a receiver had it.
type got struct {
	header http.Header
	body   string
}

// receiver answers with the given status and keeps what it got.
func receiver(t testing.TB, answer func(w http.ResponseWriter, n int)) (url string, requests func() []got) {
	t.Helper()
	var mu sync.Mutex
	var list []got
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost {
			t.Errorf("%s: %v", r.Method, err)
		}
		mu.Lock()
		list = append(list, got{r.Header.Clone(), string(body)})
		n := len(list)
		mu.Unlock()
		if answer != nil {
			answer(w, n)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, func() []got {
		mu.Lock()
		defer mu.Unlock()
		return list
	}
}

func status(code int) func(http.ResponseWriter, int) {
	return func(w http.ResponseWriter, _ int) { w.WriteHeader(code) }
}

func TestSender_ReceiversVerifyByStandardWebhooks(t *testing.T) {
	w := newWorld(t)
	url, requests := receiver(t, status(http.StatusNoContent))
	hook := w.webhook(url+"/path?x=1", `,"headers":{"X-Team":"a"}`)
	request := w.happened(deliveries.Approved, `,"template_name":"Production <\u2028> & more","decided_by":"p","justification":"for deciders only","grant_id":"g"`)
	w.happened(deliveries.Denied, "") // not wanted
	if n := w.send(); n != 1 {
		t.Fatalf("%d attempts", n)
	}
	r := requests()[0]
	first, err := standardwebhooks.NewWebhook(hook.Secret)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Verify([]byte(r.body), r.header); err != nil {
		t.Errorf("%v: %v", err, r.header)
	}
	if first.Verify([]byte(r.body+" "), r.header) == nil {
		t.Error("an altered body verifies")
	}
	want := `{"type":"access_request.approved","timestamp":"` + w.at().String() + `","data":{"request_id":"` + request + `","template_name":"Production <` + "\u2028" + `> & more","decided_by":"p"}}`
	d := w.deliveries(hook.ID)[0]
	if r.body != want || r.header.Get("Content-Type") != "application/json" || r.header.Get("X-Team") != "a" || r.header.Get("webhook-id") != d.ID || r.header.Get("User-Agent") != "latchkey" {
		t.Errorf("%s\nwant %s\n%v", r.body, want, r.header)
	}
	if d.Status != deliveries.Delivered || d.Attempts != 1 || d.Outcome != (deliveries.Outcome{Result: "ok", ReplyStatus: 204}) {
		t.Errorf("%+v", d)
	}
	if w.send() != 0 || len(requests()) != 1 {
		t.Error("it was sent twice")
	}

	// While a secret is rotated, receivers with either verify; then those with the new
	// one alone.
	call := w.call
	call.Now = w.at()
	rotated, err := w.service.Rotate(context.Background(), call, hook.ID, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	second, err := standardwebhooks.NewWebhook(rotated.Secret)
	if err != nil {
		t.Fatal(err)
	}
	for i, oldHolds := range []bool{true, false} {
		w.happened(deliveries.Approved, "")
		w.send()
		r := requests()[i+1]
		if err := second.Verify([]byte(r.body), r.header); err != nil {
			t.Errorf("the new secret: %v", err)
		}
		if err := first.Verify([]byte(r.body), r.header); (err == nil) != oldHolds {
			t.Errorf("the old secret: %v, want %v", err, oldHolds)
		}
		w.advance(time.Minute)
	}
	for _, secret := range []string{hook.Secret, rotated.Secret, "for deciders only"} {
		if strings.Contains(w.log.String(), secret) {
			t.Error("the log has a secret")
		}
	}
}

func TestSender_TriesAgainForADayAndThenNoMore(t *testing.T) {
	w := newWorld(t)
	url, requests := receiver(t, func(w http.ResponseWriter, _ int) {
		w.WriteHeader(500)
		fmt.Fprint(w, "no")
	})
	hook := w.webhook(url, "")
	w.happened(deliveries.Approved, "")
	began := w.at()
	var waits []time.Duration
	last := began
	for range 100 {
		w.send()
		d := w.deliveries(hook.ID)[0]
		if d.Attempts != len(requests()) || d.Outcome.Result != "http_status" || d.Outcome.ReplyStatus != 500 || d.Outcome.ReplyHead != "no" {
			t.Fatalf("%+v", d)
		}
		if d.Status == deliveries.Dead {
			break
		}
		waits = append(waits, time.Duration(d.NextAt-last)*time.Microsecond)
		w.now.Store(int64(d.NextAt) - 1)
		if w.send() != 0 {
			t.Fatal("an attempt before its time")
		}
		last = d.NextAt
		w.now.Store(int64(last))
	}
	if d := w.deliveries(hook.ID)[0]; d.Status != deliveries.Dead || w.at() != began.Add(deliveries.Patience) {
		t.Fatalf("after %v: %+v", time.Duration(w.at()-began)*time.Microsecond, d)
	}
	if n := len(requests()); n < 12 || n > 25 {
		t.Errorf("%d attempts: %v", n, waits)
	}
	for i := 1; i < len(waits)-1; i++ {
		if waits[i] < waits[i-1] {
			t.Errorf("wait %d is shorter than the one before: %v", i, waits)
		}
	}
	id := requests()[0].header.Get("webhook-id")
	for _, r := range requests() {
		if r.header.Get("webhook-id") != id {
			t.Error("the id changed")
		}
	}
	w.advance(time.Hour)
	if w.send() != 0 {
		t.Error("a dead one was tried again")
	}
	if !strings.Contains(w.log.String(), `"status":"dead"`) {
		t.Error("nobody was told")
	}
	if got := testutil.ToFloat64(w.sender.ended.WithLabelValues("webhook", "dead")); got != 1 {
		t.Errorf("%v dead ones are counted", got)
	}
	call := w.call
	call.Now = w.at()
	if _, err := w.service.Replay(context.Background(), call, hook.ID, id); err != nil {
		t.Fatal(err)
	}
	n := len(requests())
	if w.send(); len(requests()) != n+1 || requests()[n].header.Get("webhook-id") != id {
		t.Error("the replay was not sent under its id")
	}
}

func TestSender_HeedsWhatAReceiverAsksFor(t *testing.T) {
	w := newWorld(t)
	url, _ := receiver(t, func(w http.ResponseWriter, n int) {
		w.Header().Set("Retry-After", map[int]string{1: "3600", 2: "Thu, 01 Jan 1970 00:00:00 GMT", 3: "999999999"}[n])
		w.WriteHeader(map[int]int{1: 429, 2: 503, 3: 503, 4: 410}[n])
	})
	hook := w.webhook(url, "")
	w.happened(deliveries.Approved, "")
	for i, want := range []func(wait time.Duration) bool{
		func(wait time.Duration) bool { return wait == time.Hour },
		func(wait time.Duration) bool { return wait > time.Hour && wait < 3*time.Hour }, // by our own reckoning
		func(wait time.Duration) bool { return wait == 4*time.Hour },                    // as long as we ever wait
	} {
		w.send()
		d := w.deliveries(hook.ID)[0]
		if wait := time.Duration(d.NextAt-w.at()) * time.Microsecond; !want(wait) {
			t.Errorf("attempt %d: again after %v", i+1, wait)
		}
		w.now.Store(int64(d.NextAt))
	}
	w.send()
	if d := w.deliveries(hook.ID)[0]; d.Status != deliveries.Dead || d.Attempts != 4 {
		t.Errorf("after 410: %+v", d)
	}
}

// A name that was public when it was saved leads inside when it is dialled.
func TestSender_AnInwardAddressIsNotDialled(t *testing.T) {
	inside, hits := inward(t)
	var guard *Guard
	w := newWorld(t, func(c *SenderConfig) {
		guard = NewGuard(GuardConfig{Resolver: resolver(t, func(int) string { return "127.0.0.1" })})
		c.Guard = guard
	})
	hook := w.webhook("http://hook.example.com:"+portOf(t, inside)+"/", "")
	w.happened(deliveries.Approved, "")
	w.send()
	d := w.deliveries(hook.ID)[0]
	if hits.Load() != 0 || d.Outcome.Result != "address_refused" || d.Outcome.ReplyHead != "" {
		t.Errorf("%d hits, %+v", hits.Load(), d)
	}
	if strings.Contains(w.log.String(), "127.0.0.1") {
		t.Error("the log tells an inward address")
	}
}

func TestSender_ARedirectIsAFailureAndNotFollowed(t *testing.T) {
	inside, hits := inward(t)
	w := newWorld(t)
	url, _ := receiver(t, func(w http.ResponseWriter, _ int) {
		w.Header().Set("Location", inside.URL)
		w.WriteHeader(http.StatusPermanentRedirect)
	})
	hook := w.webhook(url, "")
	w.happened(deliveries.Approved, "")
	w.send()
	if d := w.deliveries(hook.ID)[0]; hits.Load() != 0 || d.Status != deliveries.Pending || d.Outcome.Result != "http_status" || d.Outcome.ReplyStatus != 308 {
		t.Errorf("%d hits, %+v", hits.Load(), d)
	}
}

// A receiver sends back what it got, credentials included, and much more; it is
// not kept for everybody who may look at deliveries.
func TestSender_KeepsLittleOfAReplyAndNoSecrets(t *testing.T) {
	const bearer, compat = "receivers-own-credential", "receivers-compat-secret"
	w := newWorld(t)
	token := authz.NewRootToken().Reveal()
	url, _ := receiver(t, func(w http.ResponseWriter, _ int) {
		w.WriteHeader(400)
		fmt.Fprintf(w, "you sent Bearer %s, %s\nor %s, signed %s \x00\xff\x1b[31m%s", bearer, bearer, token, compat, strings.Repeat("é", 1<<20))
	})
	hook := w.webhook(url, `,"headers":{"Authorization":"Bearer `+bearer+`","X-Team":"receivers"},"compat":"indent","compat_secret":"`+compat+`"`)
	w.happened(deliveries.Approved, "")
	w.send()
	head := w.deliveries(hook.ID)[0].Outcome.ReplyHead
	// Where one value is part of another, nothing of either is left.
	if strings.Contains(head, "-credential") || strings.Contains(head, "-secret") {
		t.Errorf("the rest of a secret is kept: %q", head)
	}
	if n := len([]rune(head)); n != maxReplyKept || strings.Contains(head, bearer) || strings.Contains(head, compat) || strings.Contains(head, token) ||
		strings.ContainsAny(head, "\x00\x1b\n") || !strings.HasPrefix(head, "you sent [redacted], [redacted] or ") {
		t.Errorf("%d characters: %q", n, head)
	}
	for _, secret := range []string{bearer, compat, token} {
		if strings.Contains(w.log.String(), secret) {
			t.Error("the log has a secret")
		}
	}
	// One that is cut where reading ends, after others that were taken out.
	long := strings.Repeat("0123456789abcdef", 200)
	url, _ = receiver(t, func(w http.ResponseWriter, _ int) {
		w.WriteHeader(400)
		_, _ = io.WriteString(w, strings.Repeat(long, 3))
	})
	hook = w.webhook(url, `,"headers":{"X-Token":"`+long+`"}`)
	w.happened(deliveries.Approved, "")
	w.send()
	if head := w.deliveries(hook.ID)[0].Outcome.ReplyHead; head != "[redacted][redacted][redacted]" {
		t.Errorf("%q", head)
	}
}

func TestSender_AReceiverThatDoesNotAnswerIsGivenUp(t *testing.T) {
	w := newWorld(t, func(c *SenderConfig) { c.Timeout = 500 * time.Millisecond })
	ended := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-ended:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(slow.Close)
	t.Cleanup(func() { close(ended) })
	hook := w.webhook(slow.URL+"/secret-path", "").ID
	w.happened(deliveries.Approved, "")
	w.send()
	if d := w.deliveries(hook)[0]; d.Outcome.Result != "timeout" || d.Status != deliveries.Pending {
		t.Errorf("%+v", d)
	}
	if strings.Contains(w.log.String(), "secret-path") {
		t.Error("the log tells a URL")
	}
}

func TestSender_FailuresHaveANameAndNothingElse(t *testing.T) {
	w := newWorld(t, func(c *SenderConfig) { c.Timeout = time.Minute })
	huge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Filler", strings.Repeat("x", 2*maxResponseHead))
	}))
	t.Cleanup(huge.Close)
	secure := httptest.NewTLSServer(http.NotFoundHandler()) // of an authority that nobody knows
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(secure.Close)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	hooks := map[string]string{}
	for want, url := range map[string]string{"connection_failed": nobody, "tls_failed": secure.URL} {
		hooks[w.webhook(url+"/secret-path", "").ID] = want
	}
	hugeHook := w.webhook(huge.URL, "").ID
	hooks[hugeHook] = "connection_failed"
	w.happened(deliveries.Approved, "")
	w.send()
	for id, want := range hooks {
		if d := w.deliveries(id)[0]; d.Outcome.Result != want || d.Status != deliveries.Pending {
			t.Errorf("want %s: %+v", want, d)
		}
	}
	if strings.Contains(w.log.String(), "secret-path") {
		t.Error("the log tells a URL")
	}
}

// A receiver that does not answer, with a long backlog, keeps nobody else waiting.
func TestSender_ASlowReceiverKeepsNobodyWaiting(t *testing.T) {
	w := newWorld(t, func(c *SenderConfig) { c.Concurrency, c.PerTarget = 8, 2 })
	release := make(chan struct{})
	var waiting, most atomic.Int64
	slow, _ := receiver(t, func(http.ResponseWriter, int) {
		most.Store(max(most.Load(), waiting.Add(1)))
		<-release
		waiting.Add(-1)
	})
	quick, requests := receiver(t, nil)
	slowHook, quickHook := w.webhook(slow, ""), w.webhook(quick, "")
	for range 10 {
		w.happened(deliveries.Approved, "")
	}
	for deadline := time.Now().Add(time.Minute); len(requests()) < 10; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of the quick one's were delivered", len(requests()))
		}
		if _, err := w.sender.RunOnce(context.Background(), w.at()); err != nil {
			t.Fatal(err)
		}
		select {
		case <-w.sender.Freed():
		case <-time.After(time.Second):
		}
	}
	close(release)
	w.sender.Wait()
	if n := most.Load(); n > 2 {
		t.Errorf("%d attempts at a time at the slow one", n)
	}
	for n := 1; n > 0; {
		n = w.send()
	}
	for _, id := range []string{slowHook.ID, quickHook.ID} {
		for _, d := range w.deliveries(id) {
			if d.Status != deliveries.Delivered || d.Attempts != 1 {
				t.Errorf("%+v", d)
			}
		}
	}
}

// A process that ends in the middle of an attempt leaves it to the next one.
func TestSender_AnAttemptThatTheProcessEndsIsDueAtOnce(t *testing.T) {
	w := newWorld(t)
	begun := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(context.Background())
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		_, _ = io.Copy(io.Discard, r.Body) // so that the server sees the client go
		<-r.Context().Done()
	}))
	t.Cleanup(s.Close)
	hook := w.webhook(s.URL, "")
	w.happened(deliveries.Approved, "")
	if _, err := w.sender.RunOnce(ctx, w.at()); err != nil {
		t.Fatal(err)
	}
	<-begun
	cancel()
	w.sender.Wait()
	d := w.deliveries(hook.ID)[0]
	if d.Status != deliveries.Pending || d.NextAt != w.at() || d.Outcome.Result != "" {
		t.Errorf("%+v", d)
	}
}

func TestSender_WhatIsGoneIsNotToldOf(t *testing.T) {
	w := newWorld(t)
	url, requests := receiver(t, nil)
	hook := w.webhook(url, "")
	w.happened(deliveries.Approved, "")
	call := w.call
	call.Now = w.at()
	if err := w.service.Delete(context.Background(), call, hook.ID); err != nil {
		t.Fatal(err)
	}
	if w.send() != 0 || len(requests()) != 0 {
		t.Error("a deleted webhook was told")
	}
}

// The keys that sealed the secrets were lost. What went out without a signature, or
// without the header that lets it in, would be taken for somebody else's: nothing
// does, until the webhook has a secret again.
func TestSender_NothingGoesOutUnsigned(t *testing.T) {
	w := newWorld(t)
	url, requests := receiver(t, nil)
	plain := w.webhook(url, "")
	compat := w.webhook(url, `,"compat":"indent","compat_secret":"secret_123"`)
	header := w.webhook(url, `,"headers":{"X-Api-Key":"let me in"}`)
	w.happened(deliveries.Approved, "")
	other, err := vault.New(bytes.Repeat([]byte{6}, vault.KeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := w.db.ForgetSecrets(context.Background(), other); err != nil || n != 5 { // three that sign, two more
		t.Fatalf("%d, %v", n, err)
	}
	if w.send() != 3 || len(requests()) != 0 {
		t.Fatalf("sent: %v", requests())
	}
	for _, hook := range []deliveries.Shown{plain, compat, header} {
		if list := w.deliveries(hook.ID); len(list) != 1 || list[0].Outcome.Result != "secret_missing" || list[0].Status != deliveries.Pending {
			t.Errorf("%+v", list)
		}
	}
	call := w.call
	for _, hook := range []deliveries.Shown{plain, compat, header} {
		call.Now = w.at()
		if _, err := w.service.Rotate(context.Background(), call, hook.ID, 0); err != nil {
			t.Fatal(err)
		}
	}
	w.advance(24 * time.Hour)
	w.send()
	if got := requests(); len(got) != 1 || !strings.HasPrefix(got[0].header.Get("webhook-signature"), "v1,") {
		t.Errorf("only what needs no more than a new secret goes out: %v", got)
	}
}

// The attack: who can write to the database puts one webhook's sealed secrets into
// another's place, to have them sent to a server of their own, or to sign with them.
func TestSender_SealedSecretsAreTheirWebhooksAlone(t *testing.T) {
	w := newWorld(t)
	theirs, _ := receiver(t, nil)
	mine, requests := receiver(t, nil)
	victim := w.webhook(theirs, `,"headers":{"X-Token":"the-victims-token"}`)
	evil := w.webhook(mine, `,"headers":{"X-Token":"x"}`)
	for _, name := range []string{"X-Token", "secret"} {
		evil := evil
		if name == "secret" {
			evil = w.webhook(mine, "")
		}
		err := w.db.Deliveries().Change(t.Context(), authz.Change{Chain: authz.DefaultCustomer, At: w.at()}, func(tx deliveries.Tx) (audit.Draft, error) {
			from, err := tx.Secrets(t.Context(), "webhook", victim.ID)
			if err != nil {
				return audit.Draft{}, err
			}
			to, err := tx.Secrets(t.Context(), "webhook", evil.ID)
			if err != nil {
				return audit.Draft{}, err
			}
			for _, a := range from {
				for _, b := range to {
					if strings.Contains(a.Name, name) && strings.Contains(b.Name, name) {
						b.Box = a.Box
						err = tx.PutSecret(t.Context(), b)
					}
				}
			}
			return w.call.Draft("test", audit.Resource{}), err
		})
		if err != nil {
			t.Fatal(err)
		}
		w.happened(deliveries.Approved, "")
		w.send()
		if d := w.deliveries(evil.ID)[0]; d.Outcome.Result != "not_prepared" || d.Status != deliveries.Pending {
			t.Errorf("%s: %+v", name, d)
		}
	}
	if got := requests(); len(got) != 0 {
		t.Errorf("it was sent: %+v", got)
	}
	if strings.Contains(w.log.String(), "the-victims-token") {
		t.Error("the log tells it")
	}
}
