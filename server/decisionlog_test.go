package server_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/server"
)

// keptLog keeps the events of decisions, as a target would get them.
type keptLog struct {
	mu     sync.Mutex
	events []gjson.Result
	full   bool
	waits  []time.Duration
}

func (*keptLog) Wants(bool) bool { return true }

func (l *keptLog) Log(r *audit.DecisionRecord, wait time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waits = append(l.waits, wait)
	if l.full {
		return false
	}
	e := r.Event([]byte(`{}`), uint64(len(l.events)+1))
	var doc strictjson.Doc
	l.events = append(l.events, gjson.ParseBytes(e.Append(nil, &doc, nil, authz.Redact)))
	return true
}

func (l *keptLog) take() []gjson.Result {
	l.mu.Lock()
	defer l.mu.Unlock()
	events := l.events
	l.events = nil
	return events
}

func TestDecisionLog_HasEveryDecisionAsItWasGiven(t *testing.T) {
	t.Parallel()
	log := &keptLog{}
	a := start(t, func(o *options) { o.config = server.Config{DecisionLog: log} })
	caller := a.create(`{"decision":true,"search":true,"policies":[{"f":"*","p":2}]}`)
	subject := `"subject":{"type":"access_key","id":"` + caller.id + `","properties":{"team":"a"}}`
	ask := func(subject, action string) string {
		return `{` + subject + `,"action":{"name":"` + action + `"},"resource":{"type":"policies","id":"staging","properties":{"n":1.50}},"context":{"b":[1,null],"a":"x"}}`
	}
	input := func(action string) string {
		return `{"action":{"name":"` + action + `"},"context":{"a":"x","b":[1,null]},"resource":{"id":"staging","properties":{"n":1.50},"type":"policies"},"subject":{"id":"` + caller.id + `","properties":{"team":"a"},"type":"access_key"}}`
	}
	for _, path := range []string{"/decision", "/access/v1/evaluation", "/decision/batch", "/access/v1/evaluations", "/decision/explain"} {
		for _, action := range []string{"read", "update"} {
			r := a.do("POST", path, caller.secret, ask(subject, action), "X-Request-ID", "req-7").is(200)
			events := log.take()
			if len(events) != 1 {
				t.Fatalf("%s: %d events", path, len(events))
			}
			e := events[0]
			if e.Get("decision_id").String() != r.text("context.decision_id") || e.Get("path").String() != "latchkey/decision" || e.Get("requested_by").String() != "127.0.0.1" ||
				e.Get("input").Raw != input(action) || e.Get("result.decision").Bool() != (action == "read") || e.Get("result.context.reasons").Raw != r.get("context.reasons").Raw ||
				e.Get("timestamp").String() != a.clock.in(0) || e.Get("custom.customer").String() != "default" || e.Get("custom.request_id").String() != "req-7" || e.Get("custom.caller").String() != caller.handle {
				t.Errorf("%s: %s\nanswered %s", path, e.Raw, r.body)
			}
			if path != "/decision/explain" && path != "/decision/batch" && e.Get("result").Raw != r.body && !strings.HasSuffix(path, "evaluations") {
				t.Errorf("%s: result %s, answered %s", path, e.Get("result").Raw, r.body)
			}
		}
	}
	r := a.do("POST", "/decision/batch", caller.secret, `{`+subject+`,"action":{"name":"read"},"evaluations":[{"resource":{"type":"policies","id":"a"}},{"resource":7},{"resource":{"type":"policies","id":"b"}}]}`).is(200)
	events := log.take()
	if len(events) != 2 || events[0].Get("decision_id").String() != r.text("evaluations.0.context.decision_id") || events[1].Get("input.resource.id").String() != "b" {
		t.Errorf("%v", events)
	}
	// What is no decision is none in the log either.
	a.do("POST", "/decision", caller.secret, `{}`).is(400)
	a.do("POST", "/decision/nosuch", caller.secret, ask(subject, "read")).is(404)
	a.do("POST", "/decision", "nonsense", `{}`).is(401)
	if events := log.take(); len(events) != 0 {
		t.Errorf("%v", events)
	}
}

// The subject's own secret, and whatever else has the shape of a credential, is
// in no event, however it is written.
func TestDecisionLog_NeverHoldsASecret(t *testing.T) {
	t.Parallel()
	log := &keptLog{}
	a := start(t, func(o *options) { o.config = server.Config{DecisionLog: log} })
	caller := a.create(`{"decision":true,"policies":[{"f":"*","p":2}]}`)
	escaped := strings.ReplaceAll(caller.secret, "_", `\u005f`)
	for _, subject := range []string{
		`{"type":"access_key","properties":{"key":"` + caller.secret + `","more":1}}`,
		`{"type":"access_key","properties":{"k\u0065y":"` + escaped + `","more":1}}`,
		`{"type":"access_key","id":"` + caller.secret + `"}`,
		`{"type":"user","id":"` + escaped + `","properties":{"key":"` + caller.secret + `"}}`,
	} {
		a.do("POST", "/decision", caller.secret, `{"subject":`+subject+`,"action":{"name":"read","properties":{"`+escaped+`":1}},"resource":{"type":"policies","id":"`+caller.secret+`"},"context":{"x":["`+escaped+`"]}}`).is(200)
		for _, e := range log.take() {
			if a.leaks(e.Raw) || !gjson.Valid(e.Raw) || e.Get("input.subject.type").String() == "access_key" && e.Get("input.subject.properties.key").Exists() {
				t.Errorf("%s", e.Raw)
			}
			if strings.Contains(subject, "more") && e.Get("input.subject.properties.more").Int() != 1 {
				t.Errorf("more than the key is missing: %s", e.Raw)
			}
		}
	}
}

// Where every decision must be on record, one that cannot be is not given: a
// proxy that asks lets nobody through then.
func TestDecisionLog_WithoutARecordThereIsNoDecision(t *testing.T) {
	t.Parallel()
	log := &keptLog{full: true}
	a := start(t, func(o *options) { o.config = server.Config{DecisionLog: log} })
	q := `{"subject":{"type":"user","id":"u"},"action":{"name":"read"},"resource":{"type":"policies","id":"x"}}`
	for _, path := range []string{"/decision", "/decision/batch", "/decision/explain"} {
		a.do("POST", path, a.root, q).refused(503, "decision_log_full")
	}
	// In a batch that is an item's own affair.
	r := a.do("POST", "/access/v1/evaluations", a.root, `{"evaluations":[`+q+`]}`).is(200)
	if r.get("evaluations.0.decision").Bool() || r.text("evaluations.0.context.error.code") != "decision_log_full" || strings.Contains(r.body, "decision_id") {
		t.Error(r.body)
	}
	for _, wait := range log.waits {
		if wait <= 0 || wait > 10*time.Second {
			t.Errorf("a request may wait %v", wait)
		}
	}
}
