package main

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/servers"
)

// reads reports whether a user, as named and with properties, may read document 7,
// and why.
func (p *process) reads(t *testing.T, key, user string, properties object) (bool, string) {
	t.Helper()
	subject := object{"type": "user", "id": user}
	if properties != nil {
		subject["properties"] = properties
	}
	r := p.must(t, key, http.MethodPost, "/decision", object{"subject": subject, "action": object{"name": "read"}, "resource": object{"type": "document", "id": "7"}})
	return r.Get("decision").Bool(), r.Get("context.reasons.0.source").String()
}

// What persons hold reaches sidecars, by every name and over either way, and so
// does the end of it.
func TestPersons_DecisionsOfSidecars(t *testing.T) {
	for _, way := range []string{"by the control plane", "by Redis"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			var args []string
			var redis *servers.RedisServer
			if way == "by Redis" {
				redis = servers.Redis(t)
				args = []string{"--redis", redis.URL()}
			}
			b := startControl(t, args...)
			near := b.ready(b.sidecar("", nil, args...))
			admin := func(method, path string, body any) string {
				t.Helper()
				return b.control.must(t, b.root, method, path, body).Get("id").String()
			}
			entries := object{"document": []any{object{"f": "7", "p": 2}}}
			app := admin(http.MethodPost, "/v1/applications", object{"name": "archive"})
			reading := admin(http.MethodPost, "/v1/entitlements", object{"app_id": app, "name": "reading", "entries": entries})
			alice := admin(http.MethodPost, "/v1/users", object{"username": "alice", "email": "Alice@Example.com"})
			mallory := admin(http.MethodPost, "/v1/users", object{"username": "mallory", "email": "mallory@example.com"})
			group := admin(http.MethodPost, "/v1/groups", object{"name": "readers", "member_ids": []string{mallory}, "entitlement_ids": []string{reading}})
			member := "/v1/groups/" + group + "/members/" + alice
			everyway := func(so bool, source, what string) {
				t.Helper()
				for _, p := range []*process{b.control, near} {
					for _, name := range []string{alice, "alice", "alice@example.com"} {
						eventually(t, what+", as "+name, func() bool { got, by := p.reads(t, b.key, name, nil); return got == so && (!so || by == source) })
					}
					eventually(t, what+", by the address", func() bool {
						got, by := p.reads(t, b.key, "whoever", object{"email": "ALICE@example.com"})
						return got == so && (!so || by == source)
					})
				}
			}
			everyway(false, "", "before anything")
			admin(http.MethodPut, member, nil)
			everyway(true, "entitlement", "as a member")

			var kept map[string]string
			if redis != nil {
				kept = map[string]string{}
				for _, name := range []string{"alice", alice, "alice@example.com"} {
					at := "lk1:{default}:r:subject:4:user:" + name
					eventually(t, "Redis has the record of "+name, func() bool { kept[at] = redis.Do(t, "GET", at); return strings.Contains(kept[at], "readers") })
				}
			}
			admin(http.MethodDelete, member, nil)
			everyway(false, "", "after leaving the group")

			grant := admin(http.MethodPost, "/v1/grants", object{"subject": object{"type": "user", "id": "alice@example.com"}, "reason": "on call", "entries": entries,
				"expires_at": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)})
			everyway(true, "grant", "with a grant")
			b.control.must(t, b.root, http.MethodDelete, "/v1/grants/"+grant, nil)
			everyway(false, "", "after its revocation")

			// Names go from one to another, and what is held does not.
			admin(http.MethodPut, member, nil)
			everyway(true, "entitlement", "a member once more")
			admin(http.MethodPut, "/v1/users/"+alice, object{"username": "alicia", "email": "alicia@example.com"})
			for _, gone := range []string{"alice", "alice@example.com"} {
				eventually(t, "the name that was hers: "+gone, func() bool { got, _ := near.reads(t, b.key, gone, nil); return !got })
			}
			eventually(t, "the new name", func() bool { got, _ := near.reads(t, b.key, "alicia", nil); return got })
			heir := admin(http.MethodPost, "/v1/users", object{"username": "alice", "email": "alice@example.com"})
			if got, by := near.reads(t, b.key, "alice", nil); got {
				t.Errorf("the heir of the name has what went with the person: %s", by)
			}
			admin(http.MethodPut, "/v1/groups/"+group+"/members/"+heir, nil)
			eventually(t, "the heir as a member", func() bool { got, _ := near.reads(t, b.key, "alice", nil); return got })

			// What an entitlement gives changes for who holds it; it goes with the person.
			admin(http.MethodPut, "/v1/entitlements/"+reading, object{"app_id": app, "name": "reading", "entries": object{"document": []any{object{"f": "8", "p": 2}}}})
			eventually(t, "another document", func() bool { got, _ := near.reads(t, b.key, "alicia", nil); return !got })
			admin(http.MethodPut, "/v1/entitlements/"+reading, object{"app_id": app, "name": "reading", "entries": entries})
			eventually(t, "the first again", func() bool { got, _ := near.reads(t, b.key, "alicia", nil); return got })
			b.control.must(t, b.root, http.MethodDelete, "/v1/users/"+alice, nil)
			for _, name := range []string{alice, "alicia", "alicia@example.com"} {
				eventually(t, "who is not active has nothing, as "+name, func() bool { got, _ := near.reads(t, b.key, name, nil); return !got })
			}
			if got, by := near.reads(t, b.key, "alicia", object{"email": "mallory@example.com"}); got {
				t.Errorf("who is not active comes back by another's address: %s", by)
			}

			if redis == nil {
				return
			}
			// A record of before, put back into Redis, is nobody's way in: not to a sidecar
			// that follows, nor to one that starts now.
			for at, text := range kept {
				redis.Do(t, "SET", at, text)
			}
			fresh := b.ready(b.sidecar("", nil, args...))
			for _, p := range []*process{near, fresh} {
				if got, by := p.reads(t, b.key, alice, nil); got {
					t.Errorf("by the record of before: %s", by)
				}
			}
			// A rebuilt Redis answers for persons by each name, without the control plane.
			if err := b.control.end(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			redis.Do(t, "FLUSHALL")
			if text, err := command(t, nil, "cache", "rebuild", "--data", b.data, "--redis", redis.URL()); err != nil {
				t.Fatal(text, err)
			}
			for _, name := range []string{heir, "alice", "alice@example.com"} {
				if record := redis.Do(t, "GET", "lk1:{default}:r:subject:4:user:"+name); !strings.Contains(record, heir) || !strings.Contains(record, reading) {
					t.Errorf("the record of %s is %s", name, record)
				}
			}
		})
	}
}
