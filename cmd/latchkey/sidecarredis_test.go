package main

import (
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/servers"
)

// metric reads one of a process's, from its private address.
func metric(t *testing.T, private, name string) float64 {
	t.Helper()
	resp, err := http.Get("http://" + private + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(text)
	if found == nil {
		t.Fatalf("no metric %s", name)
	}
	value, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// Redis alone is enough for a start, for as long as a control plane speaks
// through it.
func TestSidecarRedis_AColdStartByRedisAlone(t *testing.T) {
	t.Parallel()
	s := servers.Redis(t)
	b := startControl(t, "--redis", s.URL())
	link := servers.NewProxy(t, strings.TrimPrefix(b.control.url, "http://"))
	data := t.TempDir()
	args := []string{"--control", "http://" + link.Addr(), "--redis", s.URL(), "--max-staleness", "4s", "--max-clock-skew", "1s"}
	first := b.ready(b.sidecar(data, nil, args...))
	b.keptPolicies(data)
	b.end(first)
	id, secret := b.newKey(b.control, "one")
	link.Refuse()
	p := b.ready(b.sidecar(data, nil, args...))
	if permit, why := p.ask(t, secret, "access_key", id); !permit {
		t.Errorf("by what Redis has: %s", why)
	}
	if status, reply, err := p.send(t.Context(), b.root, http.MethodGet, "/v1/access_keys", nil); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("the control plane is cut off, and answers %d %s %v", status, reply.Raw, err)
	}
	b.control.must(t, b.root, http.MethodDelete, "/v1/access_keys/"+id, nil)
	eventually(t, "the revocation comes by Redis", func() bool {
		permit, why := p.ask(t, b.key, "access_key", id)
		return !permit && why == "key_revoked"
	})
	// Without heartbeats what is there does not count, however long it stays.
	_ = b.control.end(syscall.SIGKILL)
	eventually(t, "stale", func() bool { _, why := p.ask(t, b.key, "access_key", id); return why == "stale" })
	b.end(p)
	p = b.sidecar(data, nil, args...)
	eventually(t, "it answers", func() bool {
		_, why := p.ask(t, b.key, "access_key", id)
		return why == "not_ready" || why == "stale"
	})
	b.start()
	b.ready(p)
}

// Redis speaks to whoever may read it; a sidecar whose own key was revoked does
// not decide by it.
func TestSidecarRedis_ItsOwnKeyRevokedItDecidesNothing(t *testing.T) {
	t.Parallel()
	s := servers.Redis(t)
	b := startControl(t, "--redis", s.URL())
	p := b.ready(b.sidecar("", nil, "--redis", s.URL()))
	id, secret := b.newKey(b.control, "one")
	if permit, why := p.ask(t, secret, "access_key", id); !permit {
		t.Fatal(why)
	}
	b.control.must(t, b.root, http.MethodPost, "/v1/access_keys", sidecarKey("another")) // heartbeats go on
	own := b.control.must(t, b.key, http.MethodGet, "/v1/access_keys/self", nil).Get("id").String()
	b.control.must(t, b.root, http.MethodDelete, "/v1/access_keys/"+own, nil)
	eventually(t, "it denies", func() bool { permit, why := p.ask(t, secret, "access_key", id); return !permit && why == "not_ready" })
}

func TestSidecarRedis_WithoutRedisTheControlPlaneIsAsked(t *testing.T) {
	t.Parallel()
	s := servers.Redis(t)
	b := startControl(t, "--redis", s.URL())
	proxy := servers.NewProxy(t, "unix:"+s.Socket())
	proxy.Refuse()
	p := b.ready(b.sidecar("", nil, "--redis", "redis://"+proxy.Addr()))
	one, secret := b.newKey(b.control, "one")
	if permit, why := p.ask(t, secret, "access_key", one); !permit {
		t.Errorf("while it refuses: %s", why)
	}
	proxy.Pass()
	two, _ := b.newKey(b.control, "two")
	if permit, why := p.ask(t, secret, "access_key", two); !permit {
		t.Errorf("while it answers: %s", why)
	}
	proxy.Blackhole()
	three, third := b.newKey(b.control, "three")
	if permit, why := p.ask(t, third, "access_key", three); !permit {
		t.Errorf("while it hangs: %s", why)
	}
	b.control.must(t, b.root, http.MethodDelete, "/v1/access_keys/"+three, nil)
	eventually(t, "the revocation comes without it", func() bool {
		permit, why := p.ask(t, secret, "access_key", three)
		return !permit && why == "key_revoked"
	})
	proxy.Pass()
	s.Do(t, "FLUSHALL")
	four, fourth := b.newKey(b.control, "four")
	if permit, why := p.ask(t, fourth, "access_key", four); !permit {
		t.Errorf("after all was lost: %s", why)
	}
}

// Whatever somebody puts into Redis: the answers are the same, and it is counted.
func TestSidecarRedis_PoisonIsAMissThatIsCounted(t *testing.T) {
	t.Parallel()
	s := servers.Redis(t)
	b := startControl(t, "--redis", s.URL())
	b.control.must(t, b.root, http.MethodPost, "/v1/customers", object{"id": "other", "name": "Other"})
	private, err := servers.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	p := b.ready(b.sidecar("", nil, "--redis", s.URL(), "--private-listen", private))
	_, seen := b.newKey(b.control, "seen")
	text := func(id string) string { return "lk1:{default}:r:key:0::" + id }
	stored := func(id string) string {
		t.Helper()
		eventually(t, "the record is in Redis", func() bool { return s.Do(t, "GET", text(id)) != "" })
		return s.Do(t, "GET", text(id))
	}
	old, _ := b.newKey(b.control, "old")
	before := stored(old)
	b.control.must(t, b.root, http.MethodDelete, "/v1/access_keys/"+old, nil)
	eventually(t, "its revocation is in Redis", func() bool { return stored(old) != before })
	for name, c := range map[string]struct {
		poison func(good string) string
		forged bool // else out of date
	}{
		"garbage":            {func(string) string { return "what?" }, false},
		"a version alone":    {func(string) string { return "99999|" }, false},
		"another signature":  {func(good string) string { return strings.Replace(good, `"scopes":`, `"scopes" :`, 1) }, true},
		"of another key":     {func(string) string { return stored(old) }, true},
		"a higher version":   {func(good string) string { _, rest, _ := strings.Cut(good, "|"); return "99999|" + rest }, false},
		"another customer's": {func(good string) string { return strings.ReplaceAll(good, `"default"`, `"other"`) }, true},
	} {
		id, _ := b.newKey(b.control, name)
		forged := metric(t, private, "latchkey_records_forged_total")
		poison := c.poison(stored(id))
		s.Do(t, "SET", text(id), poison)
		if permit, why := p.ask(t, seen, "access_key", id); !permit || why != "scope_permits" {
			t.Errorf("%s: %v for %s", name, permit, why)
		}
		if now := metric(t, private, "latchkey_records_forged_total"); c.forged && now != forged+1 {
			t.Errorf("%s: %v were counted", name, now-forged)
		}
	}
	// An older record is signed, and was right once.
	s.Do(t, "SET", text(old), before)
	if permit, why := p.ask(t, seen, "access_key", old); permit || why != "key_revoked" {
		t.Errorf("a record from before the revocation: %v for %s", permit, why)
	}
	if n := metric(t, private, "latchkey_records_out_of_date_total"); n < 1 {
		t.Errorf("%v records were out of date", n)
	}
	// The feed and the heartbeat.
	position := metric(t, private, "latchkey_feed_position")
	forged := metric(t, private, "latchkey_records_forged_total")
	s.Do(t, "XADD", "lk1:{default}:feed", strconv.Itoa(int(position)+1)+"-0", "m", "lk1m 0123456789abcdef x {}")
	s.Do(t, "XADD", "lk1:{default}:beat", "*", "h", "lk1h 0123456789abcdef x {}")
	eventually(t, "both are counted", func() bool { return metric(t, private, "latchkey_records_forged_total") >= forged+2 })
	id, secret := b.newKey(b.control, "after")
	eventually(t, "changes come all the same", func() bool { permit, _ := p.ask(t, secret, "access_key", id); return permit })
}
