package access_test

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
)

// model is a request as a person would keep it on paper: what happened, in words.
type model struct {
	created, ttl, start, end latchkey.Instant // end of the window, of the pending time
	kind                     access.Assignment
	minutes                  access.Minutes
	k                        int

	votes     []string
	decision  string // "", approved, denied, failed
	decided   string
	revoked   string
	swept     bool
	escalated bool
	from, to  latchkey.Instant // of the grant
}

// state is where it stands at now.
func (m *model) state(now latchkey.Instant) access.Status {
	switch {
	case m.revoked != "":
		return access.Revoked
	case m.decision == "denied":
		return access.Denied
	case m.decision == "failed":
		return access.Failed
	case m.decision == "approved" && now >= m.to, m.decision == "" && now >= min(m.ttl, m.end), m.swept:
		return access.Expired
	case m.decision == "approved":
		return access.Approved
	default:
		return access.Pending
	}
}

func newRequest(k int, ttl access.Minutes, kind access.Assignment, minutes access.Minutes, w *access.Window, created, escalates latchkey.Instant) access.Request {
	t := access.DefaultTemplate()
	t.ApprovalsRequired, t.PendingTTL = k, ttl
	r := access.Request{
		ID: id("request"), Snapshot: access.Snapshot{Template: t}, Assignment: kind, Duration: minutes, Window: w, Status: access.Pending, CreatedAt: created,
		PendingUntil: latchkey.Never, EscalatesAt: escalates, EscalatedAt: latchkey.Never, DecidedAt: latchkey.Never, NotBefore: latchkey.Never,
		ExpiresAt: latchkey.Never, ClosedAt: latchkey.Never, RecheckAt: latchkey.Never,
	}
	if ttl > 0 {
		r.PendingUntil = created.Add(ttl.Duration())
	}
	if w != nil {
		r.PendingUntil = min(r.PendingUntil, w.End)
	}
	return r
}

// TestStep_IsTheModel walks at random, and after every step compares with a model
// that knows nothing of the machine.
func TestStep_IsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{created: morning, ttl: latchkey.Never, end: latchkey.Never}
		m.k = rapid.IntRange(1, 3).Draw(t, "k")
		m.kind = rapid.SampledFrom([]access.Assignment{access.Temporary, access.InWindow, access.Permanent}).Draw(t, "kind")
		ttl := access.Minutes(rapid.SampledFrom([]int{0, 3, 30}).Draw(t, "ttl"))
		if ttl > 0 {
			m.ttl = morning + latchkey.Instant(ttl)*minute
		}
		var w *access.Window
		switch m.kind {
		case access.Temporary:
			m.minutes = access.Minutes(rapid.IntRange(1, 20).Draw(t, "minutes"))
		case access.InWindow:
			m.start = morning + latchkey.Instant(rapid.IntRange(-5, 20).Draw(t, "start"))*minute
			m.end = max(m.start, morning) + latchkey.Instant(rapid.IntRange(1, 20).Draw(t, "length"))*minute
			w = &access.Window{Start: m.start, End: m.end}
		case access.Permanent:
		}
		escalates := morning + latchkey.Instant(rapid.IntRange(1, 20).Draw(t, "escalates"))*minute
		r := newRequest(m.k, ttl, m.kind, m.minutes, w, morning, escalates)

		now := morning
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			now += latchkey.Instant(rapid.IntRange(0, 4).Draw(t, "later")) * minute / 2
			before, state := r, m.state(now)
			if got := r.StatusAt(now); got != state {
				t.Fatalf("at %s it is %s, want %s", now, got, state)
			}
			who := "p" + strconv.Itoa(rapid.IntRange(1, 4).Draw(t, "who"))
			event := rapid.SampledFrom([]string{"approve", "auto", "deny", "revoke", "expire", "escalate", "fail"}).Draw(t, "event")
			var e access.Event
			allowed := state == access.Pending
			switch event {
			case "approve":
				e = access.Approve{By: access.Party{ID: who}, Method: access.ManualDecision, Grant: "grant"}
				allowed = allowed && !slices.Contains(m.votes, who)
				if allowed {
					m.votes = append(m.votes, who)
					if len(m.votes) == m.k {
						m.approve(who, now, 0)
					}
				}
			case "auto":
				limit := time.Duration(rapid.IntRange(0, 9).Draw(t, "limit")) * time.Minute
				e = access.Approve{By: access.Party{ID: access.System}, Method: access.AutoDecision, Grant: "grant", Final: true, Limit: limit}
				if allowed {
					m.votes = append(m.votes, access.System)
					m.approve(access.System, now, limit)
				}
			case "deny":
				e = access.Deny{By: access.Party{ID: who}}
				if allowed {
					m.decision, m.decided = "denied", who
				}
			case "revoke":
				e = access.Revoke{By: who, Reason: "done"}
				if allowed = state == access.Pending || state == access.Approved; allowed {
					m.revoked = who
				}
			case "expire":
				e = access.Expire{}
				if allowed = state == access.Expired && !m.swept; allowed {
					m.swept = true
				}
			case "escalate":
				e = access.Escalate{Notified: []access.Party{{ID: "boss"}}}
				if allowed = allowed && !m.escalated && now >= escalates; allowed {
					m.escalated = true
				}
			case "fail":
				e = access.Fail{Why: "no address"}
				if allowed {
					m.decision = "failed"
				}
			}
			next, err := access.Step(r, e, now)
			if (err == nil) != allowed {
				t.Fatalf("%s by %s at %s on %s: %v", event, who, now, state, err)
			}
			if diff := cmp.Diff(before, r); diff != "" {
				t.Fatalf("%s changed what it was given: %s", event, diff)
			}
			if err != nil {
				if diff := cmp.Diff(before, next); diff != "" || latchkey.KindOf(err) != latchkey.Conflict {
					t.Fatalf("a refused %s is a change, or no conflict (%v): %s", event, err, diff)
				}
			}
			if before.Status.Final() && err == nil {
				t.Fatalf("%s left %s, which is final", event, before.Status)
			}
			r = next
			m.same(t, &r, now)
		}
	})
}

func (m *model) approve(who string, now latchkey.Instant, limit time.Duration) {
	m.decision, m.decided, m.from, m.to = "approved", who, now, latchkey.Never
	switch m.kind {
	case access.Temporary:
		m.to = now + latchkey.Instant(m.minutes)*minute
	case access.InWindow:
		m.from, m.to = max(now, m.start), m.end
	case access.Permanent:
	}
	if limit > 0 {
		m.to = min(m.to, m.from+latchkey.Instant(limit/time.Microsecond))
	}
}

// same compares what both say of the request.
func (m *model) same(t *rapid.T, r *access.Request, now latchkey.Instant) {
	type said struct {
		Status              access.Status
		Votes               int
		DecidedBy, Revoked  string
		Cancelled, Grant    bool
		From, To            latchkey.Instant
		Closed, HasDecision bool
	}
	state := m.state(now)
	want := said{
		Status: state, Votes: len(m.votes), DecidedBy: m.decided, Revoked: m.revoked, Cancelled: m.revoked != "" && m.decided == "", Grant: m.decision == "approved",
		From: latchkey.Never, To: latchkey.Never, Closed: state.Final(), HasDecision: m.decided != "",
	}
	if want.Grant {
		want.From, want.To = m.from, m.to
	}
	got := said{
		Status: r.StatusAt(now), Votes: len(r.Approvals), DecidedBy: r.DecidedBy, Revoked: r.RevokedBy, Cancelled: r.Cancelled(), Grant: r.Grant != "",
		From: r.NotBefore, To: r.ExpiresAt, Closed: r.ClosedSince(now) != latchkey.Never, HasDecision: r.DecidedAt != latchkey.Never,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("at %s: %s", now, diff)
	}
	if r.Grant != "" && r.NotBefore < r.DecidedAt {
		t.Fatalf("the grant holds from %s, before the decision at %s", r.NotBefore, r.DecidedAt)
	}
}

func TestStep_TheFirstToApproveMayMoveTheWindow(t *testing.T) {
	w := access.Window{Start: morning + 10*minute, End: morning + 70*minute}
	moved := access.Window{Start: morning + 20*minute, End: morning + 50*minute}
	r := newRequest(2, 0, access.InWindow, 0, &w, morning, latchkey.Never)
	first, err := access.Step(r, access.Approve{By: access.Party{ID: "p1"}, Window: &moved, Grant: "g"}, morning)
	if err != nil || *first.Window != moved || first.PendingUntil != moved.End || *r.Window != w {
		t.Fatalf("%+v, %v", first.Window, err)
	}
	_, err = access.Step(first, access.Approve{By: access.Party{ID: "p2"}, Window: &w, Grant: "g"}, morning)
	if latchkey.CodeOf(err) != "window_settled" {
		t.Errorf("the second moved what the first approved: %v", err)
	}
	for name, bad := range map[string]access.Window{
		"window_empty":         {Start: moved.End, End: moved.Start},
		"window_over":          {Start: morning - 2*minute, End: morning},
		"duration_not_allowed": {Start: morning, End: morning + (latchkey.Instant(access.MaxMinutes)+1)*minute},
		"window_open":          {Start: morning, End: latchkey.Never},
	} {
		if _, err := access.Step(r, access.Approve{By: access.Party{ID: "p1"}, Window: &bad}, morning); latchkey.CodeOf(err) != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = access.Step(newRequest(1, 0, access.Temporary, 60, nil, morning, latchkey.Never), access.Approve{By: access.Party{ID: "p1"}, Window: &w}, morning)
	if latchkey.CodeOf(err) != "no_window" {
		t.Errorf("a temporary request was given a window: %v", err)
	}
}

func TestStep_ABotsApprovalIsLookedAtAgain(t *testing.T) {
	r := newRequest(1, 0, access.Temporary, 60, nil, morning, latchkey.Never)
	r.Snapshot.Template.RevokeWhenOffCall = 5
	for by, want := range map[string]latchkey.Instant{authz.Bot: morning + 5*minute, "p1": latchkey.Never} {
		got, err := access.Step(r, access.Approve{By: access.Party{ID: by}}, morning)
		if err != nil || got.RecheckAt != want {
			t.Errorf("by %s: again at %s, %v", by, got.RecheckAt, err)
		}
	}
	r.Snapshot.Template.ApprovalsRequired = 2
	for _, by := range []string{authz.Bot, "p1"} { // one vote of two, and not the last
		var err error
		if r, err = access.Step(r, access.Approve{By: access.Party{ID: by}}, morning); err != nil {
			t.Fatal(err)
		}
	}
	if r.RecheckAt != morning+5*minute {
		t.Errorf("a bot's and a person's: again at %s", r.RecheckAt)
	}
}
