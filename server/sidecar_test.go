package server_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/feed"
)

const testEpoch = 7

func feedSigner(t testing.TB) *feed.Signer {
	t.Helper()
	s, err := feed.NewSigner(bytes.Repeat([]byte{3}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// follow tells the feed what has changed, as a server's own loop does.
func (a *api) follow() {
	a.Helper()
	a.following.Lock()
	defer a.following.Unlock()
	ctx := context.Background()
	chains, err := a.db.Positions(ctx)
	if err != nil {
		return // a test that took the database away
	}
	for _, at := range chains {
		for a.followed[at.Chain] < at.Seq {
			changes, err := a.db.Changes(ctx, at.Chain, a.followed[at.Chain], 1000)
			if err != nil {
				return
			}
			if len(changes) == 0 {
				a.Errorf("%s: a gap after %d", at.Chain, a.followed[at.Chain])
				return
			}
			a.feed.Applied(at.Chain, changes)
			for _, touched := range changes {
				a.server.Observe(at.Chain, touched)
			}
			a.followed[at.Chain] = changes[len(changes)-1].Seq
		}
	}
}

// sidecar follows a customer as a node does, without its memory.
type sidecar struct {
	*api
	key      key
	customer string
	node     string
	verifier *feed.Verifier
	after    int64
	epoch    int64
}

const sidecarScope = `{"decision":true,"sidecar":true}`

func (a *api) sidecar(node string) *sidecar { return a.sidecarOf("default", node) }

func (a *api) sidecarOf(customer, node string) *sidecar {
	a.Helper()
	s := &sidecar{api: a, key: a.createFor(customer, sidecarScope), customer: customer, node: node}
	s.begin()
	return s
}

func (s *sidecar) begin() {
	s.Helper()
	s.clock.advance(100 * time.Millisecond) // heads are read again
	r := s.do("GET", "/v1/sidecar/verification_keys", s.key.secret, "").is(http.StatusOK)
	raw, err := base64.StdEncoding.DecodeString(r.text("keys.0.public_key"))
	if err != nil || len(raw) != ed25519.PublicKeySize || r.text("keys.0.id") != feed.KeyID(raw) {
		s.Fatalf("%v: %s", err, r.body)
	}
	s.verifier, s.after, s.epoch = feed.NewVerifier(raw), r.get("head").Int(), r.get("epoch").Int()
}

func (s *sidecar) feedPath() string {
	return "/v1/sidecar/feed?after=" + strconv.FormatInt(s.after, 10) + "&epoch=" + strconv.FormatInt(s.epoch, 10) + "&node=" + url.QueryEscape(s.node)
}

// page asks for what comes next, and verifies all of it.
func (s *sidecar) page(r *reply) (messages []*feed.Message, beat *feed.Heartbeat) {
	s.Helper()
	r.is(http.StatusOK)
	for _, text := range r.get("messages").Array() {
		m, err := s.verifier.OpenMessage([]byte(text.String()), s.customer)
		if err != nil {
			s.Fatalf("%v: %s", err, text)
		}
		messages = append(messages, m)
	}
	beat, err := s.verifier.OpenHeartbeat([]byte(r.text("heartbeat")), s.customer)
	if err != nil {
		s.Fatalf("%v: %s", err, r.body)
	}
	return messages, beat
}

func (s *sidecar) poll(wait string) <-chan *reply {
	s.Helper()
	return s.api.poll(s.key.secret, s.feedPath(), "Prefer", "wait="+wait)
}

// waiters returns once so many clients wait for changes.
func (a *api) waiters(n int) { a.Helper(); a.gauge("latchkey_sidecar_waiters", n) }

func (s *sidecar) record(path string, ref feed.Ref) *feed.Record {
	s.Helper()
	r := s.do("GET", path, s.key.secret, "").is(http.StatusOK)
	if media := r.header.Get("Content-Type"); media != "text/plain; charset=utf-8" {
		s.Errorf("%s: %s", path, media)
	}
	rec, err := s.verifier.OpenRecord([]byte(r.body), s.customer, ref)
	if err != nil {
		s.Fatalf("%s: %v", path, err)
	}
	return rec
}

func TestSidecar_ReadsSignedRecords(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"docs":[{"f":"*","p":2}]}`)
	a.do("POST", "/v1/subjects:bulkUpdate", a.root, `{"subjects":[{"type":"user","id":"laura & co","properties":{"room":"red"}}]}`).is(200)
	a.do("POST", "/v1/resources:bulkUpdate", a.root, `{"resources":[{"kind":"doc","id":"diary","properties":{"secret":true}}]}`).is(200)
	s := a.sidecar("n1")
	kid := k.handle[strings.LastIndexByte(k.handle, '_')+1:]
	byID := s.record("/v1/sidecar/keys?id="+k.id, feed.Ref{Kind: feed.Key, ID: k.id})
	byKid := s.record("/v1/sidecar/keys?kid="+kid, feed.Ref{Kind: feed.Secret, ID: kid})
	var body feed.KeyBody
	if err := json.Unmarshal(byKid.Body, &body); err != nil || body.ID != k.id || len(body.Secrets) != 1 || body.Secrets[0].Kid != kid || byID.Version != s.after || byID.Epoch != testEpoch {
		t.Errorf("%v %+v %+v", err, byID, body)
	}
	if strings.Contains(string(byKid.Body), secretPart(k.secret)) {
		t.Error("a record holds a secret")
	}
	subject := s.record("/v1/sidecar/subjects?type=user&id="+url.QueryEscape("laura & co"), feed.Ref{Kind: feed.Subject, Type: "user", ID: "laura & co"})
	resource := s.record("/v1/sidecar/resources?type=doc&id=diary", feed.Ref{Kind: feed.Resource, Type: "doc", ID: "diary"})
	if !strings.Contains(string(subject.Body), "red") || !strings.Contains(string(resource.Body), "secret") {
		t.Errorf("%s %s", subject.Body, resource.Body)
	}
	for path, ref := range map[string]feed.Ref{
		"/v1/sidecar/subjects?type=user&id=bob":              {Kind: feed.Subject, Type: "user", ID: "bob"},
		"/v1/sidecar/resources?type=doc&id=none%2A":          {Kind: feed.Resource, Type: "doc", ID: "none*"},
		"/v1/sidecar/subjects?type=User%20X&id=%F0%9F%94%91": {Kind: feed.Subject, Type: "User X", ID: "🔑"},
	} {
		if rec := s.record(path, ref); rec.Exists() || rec.Version < s.after {
			t.Errorf("%s: %+v", path, rec)
		}
	}
}

// The attack: a key reads what is another customer's, or more than its scopes
// say; a sidecar's key without the scope decision decides.
func TestSidecar_IsRefused(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.customer("acme")
	theirs := a.createFor("acme", `{"decision":true}`)
	a.do("POST", "/v1/subjects:bulkUpdate", a.root, `{"subjects":[{"type":"user","id":"laura","properties":{"room":"red"}}]}`, "X-Customer-ID", "acme").is(200)
	s := &sidecar{api: a, key: a.createFor("default", `{"sidecar":true}`), customer: "default", node: "n"}
	s.begin()
	kid := theirs.handle[strings.LastIndexByte(theirs.handle, '_')+1:]
	for _, path := range []string{
		"/v1/sidecar/keys?id=" + theirs.id, "/v1/sidecar/keys?kid=" + kid, "/v1/sidecar/keys?kid=" + strings.Repeat("0", len(kid)),
		"/v1/sidecar/keys?id=x", "/v1/sidecar/keys?kid=", "/v1/sidecar/keys?id=" + strings.ToUpper(theirs.id),
	} {
		a.do("GET", path, s.key.secret, "").refused(404, "key_not_found")
	}
	if rec := s.record("/v1/sidecar/subjects?type=user&id=laura", feed.Ref{Kind: feed.Subject, Type: "user", ID: "laura"}); rec.Exists() {
		t.Errorf("another customer's subject: %s", rec.Body)
	}
	feedPath := s.feedPath()
	for _, path := range []string{feedPath, "/v1/sidecar/verification_keys", "/v1/sidecar/keys?id=" + theirs.id, "/v1/sidecar/subjects?type=user&id=laura", "/v1/sidecar/resources?type=a&id=b"} {
		a.do("GET", path, s.key.secret, "", "X-Customer-ID", "acme").refused(403, "wrong_customer")
		a.do("GET", path, theirs.secret, "").refused(403, "scope_missing")
		a.do("GET", path, "", "").refused(401, "invalid_credential")
		a.do("GET", path, a.root, "", "X-Customer-ID", "nobody").refused(404, "customer_not_found")
	}
	a.do("POST", "/decision", s.key.secret, evaluation(subject(theirs.id), "read", "policies", "x")).refused(403, "scope_missing")
	a.do("GET", "/v1/nodes", s.key.secret, "").refused(403, "not_permitted")
	for path, pointer := range map[string]string{
		"/v1/sidecar/keys": "query:id", "/v1/sidecar/keys?id=" + theirs.id + "&kid=" + kid: "query:id",
		"/v1/sidecar/subjects?type=user": "query:id", "/v1/sidecar/subjects?id=x": "query:type", "/v1/sidecar/subjects?type=user&id=%00": "query:id",
		"/v1/sidecar/resources?type=doc&id=%FF": "query:id", "/v1/sidecar/resources?type=doc&id=" + strings.Repeat("x", 1025): "query:id",
		"/v1/sidecar/feed?epoch=7&node=n": "query:after", "/v1/sidecar/feed?after=-1&epoch=7&node=n": "query:after", "/v1/sidecar/feed?after=1&node=n": "query:epoch",
		"/v1/sidecar/feed?after=1&epoch=7": "query:node", "/v1/sidecar/feed?after=1&epoch=7&node=a%20b": "query:node",
		"/v1/sidecar/feed?after=1&epoch=7&node=" + strings.Repeat("n", 129): "query:node", "/v1/sidecar/feed?after=99999999999999999999&epoch=7&node=n": "query:after",
	} {
		a.do("GET", path, s.key.secret, "").refused(400, "invalid_parameter", pointer)
	}
	a.do("GET", feedPath+"&customer=acme", s.key.secret, "").refused(400, "unknown_parameter")
	a.do("GET", feedPath, s.key.secret, "", "Prefer", "wait=61").refused(400, "invalid_preference", "header:Prefer")
	// Root, in the customer that it names.
	if r := a.do("GET", "/v1/sidecar/keys?id="+theirs.id, a.root, "", "X-Customer-ID", "acme").is(200); !strings.Contains(r.body, kid) {
		t.Errorf("%s", r.body)
	}
	// The bundle, in latchkey's profile and of the own customer.
	a.do("GET", defaultBundle+"?profile=latchkey", s.key.secret, "").is(200)
	a.do("GET", defaultBundle, s.key.secret, "").refused(403, "scope_missing")
	a.do("GET", "/v1/bundles/acme.tar.gz?profile=latchkey", s.key.secret, "").refused(403, "scope_missing")
	a.do("GET", "/v1/bundles", s.key.secret, "").refused(403, "scope_missing")
}

func TestSidecar_FollowsTheFeed(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.customer("acme")
	here := []string{"X-Customer-ID", "default"}
	s := a.sidecar("n1")
	r := a.do("GET", s.feedPath(), s.key.secret, "")
	messages, beat := s.page(r)
	if len(messages) != 0 || beat.Head != s.after || beat.Epoch != testEpoch || beat.Issuer != "node-1" || beat.At != latchkey.InstantOf(a.clock.now()) ||
		r.get("head").Int() != s.after || r.get("from").Int() != s.after+1 {
		t.Errorf("%+v %s", beat, r.body)
	}
	// A change elsewhere is none here.
	answer := s.poll("30")
	a.waiters(1)
	a.createFor("acme", `{"decision":true}`)
	k := a.createFor("default", `{"decision":true}`)
	messages, _ = s.page(<-answer)
	if len(messages) != 1 || messages[0].Seq != s.after+1 || len(messages[0].Records) != 1 || messages[0].Records[0].Ref.ID != k.id {
		t.Fatalf("%+v", messages)
	}
	s.after++
	// Several at once, in order; and it is the same text for everybody.
	a.do("DELETE", "/v1/access_keys/"+k.id, a.root, "", here...).is(204)
	a.do("POST", "/v1/subjects:bulkUpdate", a.root, `{"subjects":[{"type":"user","id":"laura"}]}`, here...).is(200)
	a.putPolicy("main", "true", here...).is(201)
	r = a.do("GET", s.feedPath(), s.key.secret, "", "Prefer", "wait=30")
	messages, _ = s.page(r)
	if len(messages) != 3 || r.header.Get("Preference-Applied") != "wait=30" {
		t.Fatalf("%s", r.body)
	}
	for i, m := range messages {
		if m.Seq != s.after+1+int64(i) {
			t.Errorf("message %d: %d", i, m.Seq)
		}
	}
	var body feed.KeyBody
	if err := json.Unmarshal(messages[0].Records[0].Body, &body); err != nil || body.RevokedAt == latchkey.Never {
		t.Errorf("%v %+v", err, body)
	}
	signed := a.feed.Stats().Signed
	if again := a.do("GET", s.feedPath(), s.key.secret, ""); again.text("messages.0") != r.text("messages.0") || a.feed.Stats().Signed != signed {
		t.Errorf("a change was signed again")
	}
	// What is not kept comes from the record.
	first := *s
	first.after = 1
	messages, _ = first.page(a.do("GET", first.feedPath(), s.key.secret, ""))
	if len(messages) != int(s.after)+2 || messages[0].Seq != 2 {
		t.Errorf("%d messages from %d", len(messages), messages[0].Seq)
	}
	// Without a change the wait lasts.
	s.after += 3
	began := time.Now()
	messages, _ = s.page(a.do("GET", s.feedPath(), s.key.secret, "", "Prefer", "wait=1"))
	if took := time.Since(began); len(messages) != 0 || took < 900*time.Millisecond {
		t.Errorf("%d messages after %v", len(messages), took)
	}
	a.waiters(0)
}

func TestSidecar_IsToldOfGapsAndEpochs(t *testing.T) {
	t.Parallel()
	a := start(t)
	s := a.sidecar("n1")
	old := *s
	old.after = 1
	for range 3 {
		a.create(`{"decision":true}`)
	}
	if _, err := a.db.SweepFeed(context.Background(), latchkey.InstantOf(a.clock.now())+1); err != nil {
		t.Fatal(err)
	}
	a.clock.advance(100 * time.Millisecond)
	r := a.do("GET", old.feedPath(), s.key.secret, "", "Prefer", "wait=30") // at once
	messages, beat := old.page(r)
	if head := r.get("head").Int(); len(messages) != 0 || r.get("from").Int() != head+1 || head != beat.Head || head != s.after+3 {
		t.Errorf("%s", r.body)
	}
	// The window begins anew there, and goes on.
	old.after = r.get("head").Int()
	answer := old.poll("30")
	a.waiters(1)
	a.create(`{"decision":true}`)
	if messages, _ := old.page(<-answer); len(messages) != 1 || messages[0].Seq != old.after+1 {
		t.Errorf("%+v", messages)
	}
	old.epoch--
	r = a.do("GET", old.feedPath(), s.key.secret, "", "Prefer", "wait=30") // at once
	if messages, beat := old.page(r); len(messages) != 0 || r.get("epoch").Int() != testEpoch || beat.Epoch != testEpoch || r.get("from").Int() != r.get("head").Int()+1 {
		t.Errorf("%s", r.body)
	}
	// What a node of another epoch says to have applied is none of these changes.
	old.after = 1 << 40
	a.do("GET", old.feedPath(), s.key.secret, "").is(200)
	k := a.create(`{"decision":true}`)
	r = a.do("DELETE", "/v1/access_keys/"+k.id, a.root, "", "Prefer", "wait=0").is(200)
	if r.text("pending.0.node") != "n1" || r.get("applied.#").Int() != 1 {
		t.Errorf("%s", r.body)
	}
}

// The attack: a sidecar's key has been revoked, and its bearer waits for what
// is new.
func TestSidecar_AWaitEndsWithTheKeyTheServerAndTheClient(t *testing.T) {
	t.Parallel()
	a := start(t)
	s := a.sidecar("n1")
	answer := s.poll("30")
	a.waiters(1)
	a.do("DELETE", "/v1/access_keys/"+s.key.id, a.root, "").is(204)
	if r := <-answer; r.status != http.StatusUnauthorized || r.text("code") != "key_revoked" {
		t.Errorf("a revoked key: %d %s", r.status, r.body)
	}
	a.do("GET", s.feedPath(), s.key.secret, "").refused(401, "key_revoked")

	// A secret that was replaced, without grace, while it waited.
	s = a.sidecar("n2")
	answer = s.poll("30")
	a.waiters(1)
	s.keep(a.do("POST", "/v1/access_keys/"+s.key.id+"/rotate", a.root, `{}`).is(201).text("key"))
	if r := <-answer; r.status != http.StatusUnauthorized {
		t.Errorf("a replaced secret: %d %s", r.status, r.body)
	}

	s = a.sidecar("n3")
	ctx, hangUp := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+a.addr+s.feedPath(), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.key.secret)
	req.Header.Set("Prefer", "wait=30")
	left := make(chan error, 1)
	go func() {
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err == nil {
			resp.Body.Close()
		}
		left <- err
	}()
	a.waiters(1)
	hangUp()
	if err := <-left; err == nil {
		t.Error("the client was answered")
	}
	a.waiters(0) // well before the 30 s

	answer = s.poll("30")
	a.waiters(1)
	began := time.Now()
	a.stop()
	if r := <-answer; r.status != 200 || time.Since(began) > 15*time.Second {
		t.Errorf("at the end: %d after %v", r.status, time.Since(began))
	}
}

func TestSidecar_WaitersAreBounded(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.client.Transport.(*http.Transport).MaxIdleConnsPerHost = 1100
	s := a.sidecar("n1")
	const most = 1024
	var answers []<-chan *reply
	for range most {
		answers = append(answers, s.poll("30"))
	}
	a.waiters(most)
	r := a.do("GET", s.feedPath(), s.key.secret, "", "Prefer", "wait=30").is(http.StatusTooManyRequests)
	if r.text("code") != "too_many_waiting" || r.header.Get("Retry-After") == "" {
		t.Errorf("%s %v", r.body, r.header)
	}
	a.do("GET", s.feedPath(), s.key.secret, "").is(200) // who does not wait is answered
	a.create(`{"decision":true}`)
	first, signed := "", a.feed.Stats().Signed
	for _, answer := range answers {
		r := <-answer
		if first == "" {
			first = r.text("messages.0")
		}
		if r.status != 200 || first == "" || r.text("messages.0") != first {
			t.Fatalf("%d %s", r.status, r.body)
		}
	}
	if got := a.feed.Stats().Signed; got > signed+1 || got == 0 {
		t.Errorf("signed %d times", got-signed)
	}
	a.waiters(0)
}

func TestRevoke_WaitsForTheNodes(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.customer("acme")
	here := []string{"X-Customer-ID", "default"}
	one, two, theirs := a.sidecar("n1"), a.sidecar("n2"), a.sidecarOf("acme", "n3")
	for _, s := range []*sidecar{one, two, theirs} {
		s.begin()
		a.do("GET", s.feedPath(), s.key.secret, "").is(200)
	}
	victim := a.createFor("default", `{"decision":true}`)
	revoke := func(k key, wait string) *reply {
		return a.do("DELETE", "/v1/access_keys/"+k.id, a.root, "", append([]string{"Prefer", "return=representation, wait=" + wait}, here...)...).is(200)
	}
	nodes := func(r *reply, list string) (names []string) {
		for _, n := range r.get(list).Array() {
			names = append(names, n.Get("node").String()+" "+n.Get("seq").Raw)
		}
		return names
	}
	// Nobody answers for n2: the call ends with its time.
	ends := make(chan *reply, 1)
	began := time.Now()
	go func() { ends <- revoke(victim, "3") }()
	a.waiters(1)
	one.after += 2
	a.do("GET", one.feedPath(), one.key.secret, "").is(200)
	r := <-ends
	if took := time.Since(began); took < 2900*time.Millisecond {
		t.Errorf("it took %v", took)
	}
	seq := strconv.FormatInt(one.after, 10)
	if got := nodes(r, "applied"); !slices.Equal(got, []string{"node-1 " + seq, "n1 " + seq}) {
		t.Errorf("applied: %q", got)
	}
	if got := nodes(r, "pending"); !slices.Equal(got, []string{"n2 " + strconv.FormatInt(two.after, 10)}) {
		t.Errorf("pending: %q", got)
	}
	if r.header.Get("Preference-Applied") != "return=representation, wait=3" || r.text("id") != victim.id || r.text("revoked_at") == "" {
		t.Errorf("%v %s", r.header, r.body)
	}
	// Both do: the call ends with the later one.
	victim = a.createFor("default", `{"decision":true}`)
	go func() { ends <- revoke(victim, "60") }()
	a.waiters(1)
	for _, s := range []*sidecar{one, two} {
		s.begin()
		a.do("GET", s.feedPath(), s.key.secret, "").is(200)
	}
	if r := <-ends; r.get("applied.#").Int() != 3 || r.get("pending").Raw != "[]" {
		t.Errorf("%s", r.body)
	}
	// n1 has not been seen for as long as a node may be without word: it has
	// denied ever since, and is waited for no more.
	a.clock.advance(30 * time.Second)
	victim = a.createFor("default", `{"decision":true}`)
	two.begin()
	a.do("GET", two.feedPath(), two.key.secret, "").is(200)
	if r := revoke(victim, "0"); !slices.Equal(nodes(r, "pending"), []string{"n2 " + strconv.FormatInt(two.after, 10)}) || r.get("applied.#").Int() != 1 {
		t.Errorf("%s", r.body)
	}
	a.clock.advance(100 * time.Millisecond)
	if r := a.do("GET", "/v1/nodes?customer=default", a.root, "").is(200); r.text("nodes.0.node") != "n1" || r.get("nodes.0.live").Bool() || !r.get("nodes.1.live").Bool() ||
		r.get("nodes.1.head").Int() != two.after+1 || r.get("nodes.1.seq").Int() != two.after || r.get("total").Int() != 2 {
		t.Errorf("%s", r.body)
	}
	if r := a.do("GET", "/v1/nodes?limit=1&offset=2", a.root, "").is(200); r.get("total").Int() != 3 || r.get("nodes.#").Int() != 1 {
		t.Errorf("%s", r.body)
	}
}

// Nodes may speak to any server of the record.
func TestRevoke_WaitsForNodesOfOtherServers(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.nodes = &sharedNodes{} })
	shared := a.nodesStore.(*sharedNodes)
	s := a.sidecar("n1")
	say := func(seq int64) {
		shared.put(authz.Node{Customer: "default", ID: "n1", Epoch: testEpoch, Seq: seq, SeenAt: latchkey.InstantOf(a.clock.now())})
	}
	say(s.after)
	k := a.create(`{"decision":true}`)
	ends := make(chan *reply, 1)
	go func() { ends <- a.do("DELETE", "/v1/access_keys/"+k.id, a.root, "", "Prefer", "wait=60") }()
	a.waiters(1)
	a.clock.advance(time.Microsecond)
	say(s.after + 2)
	if r := (<-ends).is(200); r.get("applied.1.seq").Int() != s.after+2 || r.get("pending").Raw != "[]" {
		t.Errorf("%s", r.body)
	}
}

// Thousands of changes while nobody, or somebody slow, follows.
func TestFeed_KeepsWithinItsMemory(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.feedBytes = 64 << 10 })
	s := a.sidecar("n1")
	a.do("GET", s.feedPath(), s.key.secret, "").is(200)
	var changes []authz.Touched
	for i := range int64(5000) {
		changes = append(changes, authz.Touched{Seq: s.after + 1 + i, Refs: []feed.Ref{{Kind: feed.Subject, Type: "user", ID: strings.Repeat("x", 500)}}})
	}
	for _, c := range changes {
		a.feed.Applied("default", []authz.Touched{c})
		if kept := a.feed.Stats().Bytes; kept > 64<<10 {
			t.Fatalf("%d bytes are kept", kept)
		}
	}
	a.feed.Applied("nobody follows", changes)
	if kept := a.feed.Stats().Bytes; kept > 64<<10 || kept == 0 {
		t.Errorf("%d bytes are kept", kept)
	}
}

// sharedNodes is what servers share, in memory.
type sharedNodes struct {
	mu    sync.Mutex
	nodes []authz.Node
}

func (s *sharedNodes) put(n authz.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes = append(s.nodes, n)
}

func (s *sharedNodes) WriteNodes(_ context.Context, nodes []authz.Node) error {
	for _, n := range nodes {
		s.put(n)
	}
	return nil
}

func (s *sharedNodes) Nodes(_ context.Context, customer string, since latchkey.Instant) ([]authz.Node, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.nodes), func(n authz.Node) bool { return n.Customer != customer && customer != "" || n.SeenAt < since }), nil
}

// BenchmarkFeed_FanOut is one change told to a hundred who wait for it.
func BenchmarkFeed_FanOut(b *testing.B) {
	a := start(b)
	a.client.Transport.(*http.Transport).MaxIdleConnsPerHost = 128
	s := a.sidecar("n")
	a.clock.advance(time.Second)
	for b.Loop() {
		var answers []<-chan *reply
		for range 100 {
			answers = append(answers, s.poll("30"))
		}
		b.StopTimer()
		a.waiters(100)
		b.StartTimer()
		a.do("POST", "/v1/subjects:bulkUpdate", a.root, `{"subjects":[{"type":"user","id":"laura"}]}`)
		for _, answer := range answers {
			if r := <-answer; r.get("messages.#").Int() != 1 {
				b.Fatalf("%s", r.body)
			}
		}
		s.after++
	}
}
