package server_test

import (
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

func TestAuthZEN_RefusalsAreJSONStrings(t *testing.T) {
	t.Parallel()
	a := start(t)
	k, mute := a.create(`{"decision":true}`), a.create(`{"search":true}`)
	ask := evaluation(subject(k.id), "read", "policies", "x")
	for _, path := range []string{"/access/v1/evaluation", "/access/v1/evaluations"} {
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
			{k.secret, `{"` + k.secret + `":1,"` + k.secret + `":2}`, "application/json", 400},
		} {
			r := a.do("POST", path, tt.credential, tt.body, "Content-Type", tt.contentType, "X-Request-ID", "mine")
			if r.status != tt.status || r.header.Get("Content-Type") != "application/json" || gjson.Parse(r.body).Type != gjson.String ||
				r.text("@this") == "" || r.header.Get("X-Request-Id") != "mine" {
				t.Errorf("%s: %d %v %s, want %d", path, r.status, r.header, r.body, tt.status)
			}
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
			`"access_evaluations_endpoint":"https://pdp.example.com/access/v1/evaluations"}`
		if status != 200 || body != want || header.Get("Content-Type") != "application/json" {
			t.Errorf("%d %s\nwant %s", status, body, want)
		}
	}
}
