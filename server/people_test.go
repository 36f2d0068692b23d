package server_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestUsers_ClaimATokenAndActAsThemselves(t *testing.T) {
	t.Parallel()
	a := start(t)
	made := a.do("POST", "/v1/users", a.root, `{"username":"alice","email":"Alice@Example.com","name":"Alice A."}`).is(201)
	if made.text("email") != "alice@example.com" || made.text("type") != "user" || !made.get("active").Bool() || made.text("access_key.metadata.keyname") != "dashboard_alice" {
		t.Errorf("made %s", made.body)
	}
	a.keep(made.text("access_key.key"))
	token := a.claimed(a.keep(made.text("claim.code")))
	if !strings.HasPrefix(token, "lkp1_") {
		t.Errorf("a token of another form: %s", token[:9])
	}
	self := a.do("GET", "/v1/users/self", token, "").is(200)
	if self.text("id") != made.text("id") || self.text("username") != "alice" {
		t.Errorf("self is %s", self.body)
	}
	a.do("POST", "/decision", token, evaluation(`{"type":"user","id":"alice"}`, "read", "doc", "1")).is(200)
	for _, e := range a.events("default") {
		if e.Get("action").String() == "personal_token.create" && (e.Get("actor.type").String() != "user" || e.Get("actor.id").String() != made.text("id")) {
			t.Errorf("recorded as %s", e)
		}
	}
}

// The attack: a claim code that was seen on its way is presented a second time,
// or at the same time as its owner presents it.
func TestClaimCode_IsGoodOnce(t *testing.T) {
	t.Parallel()
	a := start(t)
	for _, way := range []string{"in turn", "at once"} {
		made := a.do("POST", "/v1/users", a.root, `{"username":"alice-`+strings.Fields(way)[1]+`"}`).is(201)
		a.keep(made.text("access_key.key"))
		body := `{"claim_code":"` + a.keep(made.text("claim.code")) + `","name":"laptop"}`
		var tokens, refused atomic.Int64
		present := func() {
			r, err := a.try("POST", "/v1/personal_tokens", "", body)
			switch {
			case err != nil:
				t.Error(err)
			case r.status == 201:
				a.keep(r.text("token"))
				tokens.Add(1)
			default:
				r.refused(401, "invalid_credential")
				refused.Add(1)
			}
		}
		var wg sync.WaitGroup
		for range 8 {
			if way == "in turn" {
				present()
			} else {
				wg.Go(present)
			}
		}
		wg.Wait()
		if tokens.Load() != 1 || refused.Load() != 7 {
			t.Errorf("%s: %d tokens of one claim code, %d refused", way, tokens.Load(), refused.Load())
		}
	}
}

func TestClaimCode_EndsWithItsTimeAndWithItsReplacement(t *testing.T) {
	t.Parallel()
	a := start(t)
	made := a.do("POST", "/v1/users", a.root, `{"username":"alice"}`).is(201)
	a.keep(made.text("access_key.key"))
	first := a.keep(made.text("claim.code"))
	second := a.keep(a.do("POST", "/v1/users/"+made.text("id")+"/claim", a.root, "{}").is(201).text("claim.code"))
	present := func(code string) *reply {
		return a.do("POST", "/v1/personal_tokens", "", `{"claim_code":"`+code+`","name":"laptop"}`)
	}
	// Who holds a dead one is told what to look for, and never which it is.
	refused := func(code string) {
		t.Helper()
		const detail = "the claim code is unknown, or was used, replaced, or made more than 72 hours ago"
		if got := present(code).refused(401, "invalid_credential").text("detail"); got != detail {
			t.Errorf("told %q", got)
		}
	}
	refused(first)
	refused("lkc1_mistyped")
	a.clock.advance(72 * time.Hour)
	refused(second)
	third := a.keep(a.do("POST", "/v1/users/"+made.text("id")+"/claim", a.root, "{}").is(201).text("claim.code"))
	a.clock.advance(72*time.Hour - time.Second)
	a.keep(present(third).is(201).text("token"))
	refused(third)
}
