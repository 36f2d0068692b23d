package server_test

import (
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

func TestAuthZEN_RefusalsAreJSONStrings(t *testing.T) {
	t.Parallel()
	a := start(t)
	k, mute := a.create(`{"decision":true,"search":true}`), a.create(`{"audit_events":true}`)
	ask := evaluation(subject(k.id), "read", "policies", "x")
	for _, path := range []string{"/access/v1/evaluation", "/access/v1/evaluations", "/access/v1/search/subject", "/access/v1/search/resource", "/access/v1/search/action"} {
		for _, tt := range []struct {
			credential, body, contentType string
			status                        int
		}{
			{"", ask, "application/json", 401},
			{"x", ask, "application/json", 401},
			{mute.secret, ask, "application/json", 403},
			{k.secret, ask, "text/plain", 415},
			{k.secret, ask, "-", 415},
			{k.secret, `{`, "application/json", 400},
			{k.secret, `{}`, "application/json", 400},
			{k.secret, `{"subject":"alice","action":{"name":"read"},"resource":{"type":"a","id":"b"}}`, "application/json", 400},
			{k.secret, `{"` + k.secret + `":1,"` + k.secret + `":2}`, "application/json", 400},
		} {
			r := a.do("POST", path, tt.credential, tt.body, "Content-Type", tt.contentType, "X-Request-ID", "mine")
			if r.status != tt.status || r.header.Get("Content-Type") != "application/json" || gjson.Parse(r.body).Type != gjson.String ||
				r.text("@this") == "" || r.header.Get("X-Request-Id") != "mine" {
				t.Errorf("%s: %d %v %s, want %d", path, r.status, r.header, r.body, tt.status)
			}
		}
		w := a.dial() // with a length alone: what is too large is refused before it is sent
		w.send("POST " + path + " HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine\r\nContent-Type: application/json\r\nContent-Length: 2000000\r\n\r\n")
		if status, header, body := w.answer(); status != 413 || gjson.Parse(body).Type != gjson.String || header.Get("X-Request-Id") != "mine" {
			t.Errorf("%s: %d %v %s", path, status, header, body)
		}
		r := a.do("GET", path, k.secret, "").is(405)
		if r.header.Get("Allow") != "POST" || gjson.Parse(r.body).Type != gjson.String {
			t.Errorf("%v %s", r.header, r.body)
		}
	}
	if r := a.do("POST", "/access/v1/nothing", k.secret, ask).is(404); gjson.Parse(r.body).Type != gjson.String {
		t.Error(r.body)
	}
}

func TestAuthZEN_IgnoresUnknownMembersAndPolicies(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true,"policies":[{"f":"*","p":2}]}`)
	ask := strings.TrimSuffix(evaluation(subject(k.id), "read", "policies", "x"), "}") + `,"policy":"nothing","z":{"a":[1]}}`
	for _, path := range []string{"/access/v1/evaluation", "/access/v1/evaluations", "/access/v1/evaluation?x=1"} {
		if !a.do("POST", path, k.secret, ask).is(200).get("decision").Bool() {
			t.Errorf("%s denied", path)
		}
	}
}

func TestAuthZEN_MetadataComesFromTheConfiguration(t *testing.T) {
	t.Parallel()
	a := start(t)
	for _, host := range []string{"pdp.internal", "evil.example.com"} {
		w := a.dial()
		w.send("GET /.well-known/authzen-configuration HTTP/1.1\r\nHost: " + host + "\r\nX-Forwarded-Host: evil.example.com\r\n\r\n")
		status, header, body := w.answer()
		want := `{"policy_decision_point":"https://pdp.example.com","access_evaluation_endpoint":"https://pdp.example.com/access/v1/evaluation",` +
			`"access_evaluations_endpoint":"https://pdp.example.com/access/v1/evaluations",` +
			`"search_subject_endpoint":"https://pdp.example.com/access/v1/search/subject",` +
			`"search_resource_endpoint":"https://pdp.example.com/access/v1/search/resource",` +
			`"search_action_endpoint":"https://pdp.example.com/access/v1/search/action"}`
		if status != 200 || body != want || header.Get("Content-Type") != "application/json" {
			t.Errorf("%d %s\nwant %s", status, body, want)
		}
	}
}
