package server_test

import (
	"net/http"
	"strings"
	"testing"
)

// celPolicy is a document with one rule, whose match is given.
func celPolicy(name, match string, more ...string) string {
	body := `{"name":"` + name + `","language":"cel","rules":[{"label":"one","match":` + quoted(match) + `,"action":"allow"}],"default":{"action":"deny"}`
	for _, m := range more {
		body += "," + m
	}
	return body + "}"
}

func quoted(s string) string { return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"` }

func (a *api) putPolicy(name, match string, headers ...string) *reply {
	a.Helper()
	return a.do("PUT", "/v1/policies/"+name, a.root, celPolicy(name, match), headers...)
}

func TestPolicies_AreMadeShownChangedAndDeleted(t *testing.T) {
	t.Parallel()
	a := start(t)
	made := a.do("POST", "/v1/policies", a.root, celPolicy("main", "true", `"description":"first"`)).is(http.StatusCreated)
	if made.text("name") != "main" || made.text("version") != "1" || made.text("language") != "cel" || made.text("description") != "first" ||
		made.text("rules.0.match") != "true" || made.text("default.action") != "deny" || made.text("created_at") == "" || made.text("created_by.type") != "root" {
		t.Errorf("made %s", made.body)
	}
	if made.header.Get("Location") != "/v1/policies/main" {
		t.Errorf("Location %q", made.header.Get("Location"))
	}
	got := a.do("GET", "/v1/policies/main", a.root, "").is(http.StatusOK)
	if got.body != made.body || got.header.Get("ETag") == "" || got.header.Get("ETag") != made.header.Get("ETag") {
		t.Errorf("made %s %s, got %s %s", made.header.Get("ETag"), made.body, got.header.Get("ETag"), got.body)
	}
	changed := a.putPolicy("main", "false").is(http.StatusOK)
	if changed.text("version") != "2" || changed.text("id") != made.text("id") || changed.header.Get("ETag") == made.header.Get("ETag") {
		t.Errorf("changed %s", changed.body)
	}
	a.do("GET", "/v1/policies/main/versions/1", a.root, "").is(http.StatusOK)
	back := a.do("POST", "/v1/policies/main/rollback", a.root, `{"version":1}`).is(http.StatusOK)
	if back.text("version") != "3" || back.text("rules.0.match") != "true" || back.text("description") != "first" {
		t.Errorf("rolled back %s", back.body)
	}
	if v := a.do("GET", "/v1/policies/main/versions", a.root, "").is(200); v.text("total") != "3" || v.text("versions.0.version") != "3" {
		t.Errorf("versions %s", v.body)
	}
	a.do("DELETE", "/v1/policies/main", a.root, "").is(http.StatusNoContent)
	a.do("GET", "/v1/policies/main", a.root, "").refused(404, "policy_not_found")
	again := a.putPolicy("main", "true").is(http.StatusCreated)
	if again.text("version") != "1" || again.text("id") == made.text("id") {
		t.Errorf("made again %s", again.body)
	}
}
