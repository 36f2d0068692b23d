package main

import (
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/internal/servers"
)

// A sidecar speaks to one server, who revokes to another: the change wakes the
// sidecar, and its word ends the wait.
func TestFollowers_ARevocationWaitsForWhoFollowsAnotherServer(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 2, servers.Postgres(t))
	a, b := f.nodes[0], f.nodes[1]
	side := a.must(t, f.root, http.MethodPost, "/v1/access_keys", object{"scopes": object{"customer": object{"decision": true, "sidecar": true}}, "metadata": object{"username": "dale.cooper", "keyname": "sidecar"}})
	victim := a.must(t, f.root, http.MethodPost, "/v1/access_keys", reader("victim"))
	key := side.Get("key").String()
	eventually(t, "the other server knows the sidecar's key", func() bool {
		status, _, err := b.send(t.Context(), key, http.MethodGet, "/v1/sidecar/verification_keys", nil)
		return err == nil && status == http.StatusOK
	})
	begin := b.must(t, key, http.MethodGet, "/v1/sidecar/verification_keys", nil)
	follow := func(after int64, wait string) gjson.Result {
		path := "/v1/sidecar/feed?" + url.Values{"after": {strconv.FormatInt(after, 10)}, "epoch": {begin.Get("epoch").Raw}, "node": {"app-1"}}.Encode()
		_, page, err := b.send(t.Context(), key, http.MethodGet, path, nil, "Prefer", "wait="+wait)
		if err != nil {
			t.Error(err)
		}
		return page
	}
	head := begin.Get("head").Int()
	for follow(head, "0").Get("messages.#").Int() > 0 {
		head++
	}
	eventually(t, "the first server knows the node", func() bool {
		return a.must(t, f.root, http.MethodGet, "/v1/nodes", nil).Get("nodes.0.live").Bool()
	})
	woken := make(chan time.Time, 1)
	go func() {
		page := follow(head, "30")
		woken <- time.Now()
		follow(head+page.Get("messages.#").Int(), "0")
	}()
	began := time.Now()
	status, reply, err := a.send(t.Context(), f.root, http.MethodDelete, "/v1/access_keys/"+victim.Get("id").String(), nil, "Prefer", "wait=20")
	took := time.Since(began)
	if err != nil || status != http.StatusOK || reply.Get("pending.#").Int() != 0 || reply.Get("applied.1.node").String() != "app-1" || reply.Get("applied.1.seq").Int() != head+1 {
		t.Errorf("%d %s %v", status, reply.Raw, err)
	}
	t.Logf("the sidecar was woken after %v, and the wait was over after %v", (<-woken).Sub(began).Round(time.Millisecond), took.Round(time.Millisecond))
	// The sidecar's own key: it loses the feed at once, on the server that it speaks to.
	refused := make(chan string, 1)
	go func() { refused <- follow(head+1, "30").Get("code").String() }()
	a.must(t, f.root, http.MethodDelete, "/v1/access_keys/"+side.Get("id").String(), nil)
	if code := <-refused; code != "key_revoked" {
		t.Errorf("a revoked sidecar: %q", code)
	}
}
