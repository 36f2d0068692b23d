package cache_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/internal/servers"
)

// as is the configuration for a user.
func as(c cache.RedisConfig, user, password string) cache.RedisConfig {
	scheme, rest, _ := strings.Cut(c.URL, "://")
	c.URL = scheme + "://" + url.UserPassword(user, password).String() + "@" + rest
	return c
}

// What a control plane and a sidecar do, each as its own user: it is enough, and
// no more than that.
func TestRedisUsers_MayDoWhatTheyNeedAndNothingElse(t *testing.T) {
	topologies(t, func(t *testing.T, s *servers.RedisServer, c cache.RedisConfig) {
		control, err := cache.ControlPlaneUser("control's secret: #1")
		if err != nil {
			t.Fatal(err)
		}
		sidecar, err := cache.SidecarUser(acme, "sidecar-secret")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(control+sidecar, "secret") {
			t.Error("the rule tells the password")
		}
		s.Do(t, append([]string{"ACL", "SETUSER", "lk-control"}, strings.Fields(control)...)...)
		s.Do(t, append([]string{"ACL", "SETUSER", "lk-sidecar"}, strings.Fields(sidecar)...)...)
		writer, reader := openRedis(t, as(c, "lk-control", "control's secret: #1")), openRedis(t, as(c, "lk-sidecar", "sidecar-secret"))

		db := newRecord(t, acme, "other")
		relay, _ := db.relay(writer)
		last := db.touch(acme, "a")
		db.touch("other", "a")
		relay.Kick(acme, last)
		awaitHead(t, writer, acme, 1, last)
		awaitHead(t, writer, "other", 1, 1)
		nodes := cache.NewRedisNodes(writer, nil)
		if err := nodes.WriteNodes(t.Context(), []authz.Node{{Customer: acme, ID: "n", SeenAt: now()}, {Customer: acme, ID: "gone", SeenAt: 0}}); err != nil {
			t.Error(err)
		}
		if list, err := nodes.Nodes(t.Context(), acme, now().Add(-time.Minute)); err != nil || len(list) != 1 {
			t.Errorf("%v, %v", list, err)
		}
		if _, err := writer.Health(t.Context()); err != nil {
			t.Error(err)
		}
		if denied := writer.Stats().Denied; denied != 0 {
			t.Errorf("a control plane was refused %d times", denied)
		}

		if v := version(t, reader, acme, "a"); v != last {
			t.Errorf("a sidecar reads a as of %d", v)
		}
		if posted, err := reader.Feed(t.Context(), acme, 0, 10); err != nil || int64(len(posted)) != last {
			t.Errorf("a sidecar reads %v, %v", posted, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		message, beat := false, false
		reader.Follow(ctx, acme, 0, func(p cache.Posted) {
			message, beat = message || !p.Beat, beat || p.Beat
			if message && beat {
				cancel()
			}
		}, func(err error) { t.Error(err); cancel() })
		if denied := reader.Stats().Denied; denied != 0 {
			t.Errorf("a sidecar was refused %d times", denied)
		}

		if _, _, err := reader.Get(t.Context(), "other", subject("a")); err == nil {
			t.Error("a sidecar reads another customer's record")
		}
		if _, err := reader.Feed(t.Context(), "other", 0, 10); err == nil {
			t.Error("a sidecar reads another customer's feed")
		}
		if _, _, _, err := reader.Publish(t.Context(), acme, 1, []cache.Entry{entry(last + 1)}); err == nil {
			t.Error("a sidecar publishes")
		}
		if _, err := reader.Fill(t.Context(), acme, 1, stored(t, acme, "a", 1, last+1), now()); err == nil {
			t.Error("a sidecar fills a record in")
		}
		if err := reader.Beats(t.Context(), []cache.Beat{{Customer: acme, Text: []byte("x")}}); err == nil {
			t.Error("a sidecar sends heartbeats")
		}
		if reader.Stats().Denied == 0 {
			t.Error("what was refused is not counted")
		}
		for _, command := range []string{"SET lk1:{acme}:x y", "DEL lk1:{acme}:head", "XADD lk1:{acme}:feed * m x", "KEYS *", "SCAN 0", "FLUSHALL", "CONFIG GET *", "ACL LIST",
			"EVAL return 1 0", "INFO", "GET elsewhere", "HGETALL lk1:{acme}:nodes", "CLIENT KILL TYPE normal", "SUBSCRIBE x", "CLUSTER RESET", "DEBUG SLEEP 0", "MONITOR"} {
			if answer := dryRun(t, s, "lk-sidecar", command); answer == "OK" {
				t.Errorf("a sidecar may %s", command)
			}
		}
		for _, command := range []string{"KEYS *", "FLUSHALL", "CONFIG GET *", "ACL LIST", "GET elsewhere", "SET elsewhere y", "SHUTDOWN", "DEBUG SLEEP 0", "MONITOR", "REPLICAOF no one"} {
			if answer := dryRun(t, s, "lk-control", command); answer == "OK" {
				t.Errorf("a control plane may %s", command)
			}
		}
	})
}

func dryRun(t *testing.T, s *servers.RedisServer, user, command string) string {
	t.Helper()
	answer, err := s.Try(append([]string{"ACL", "DRYRUN", user}, strings.Fields(command)...)...)
	if err != nil {
		if strings.Contains(err.Error(), "unknown subcommand") || strings.Contains(err.Error(), "Unknown subcommand") {
			t.Skip("the server is too old to be asked")
		}
		t.Fatal(err)
	}
	return answer
}

func TestRedisUsers_AreRefusedWithoutPasswordOrCustomer(t *testing.T) {
	for _, c := range [][2]string{{"", "x"}, {"a*", "x"}, {"a b", "x"}, {"a}", "x"}, {acme, ""}} {
		if rule, err := cache.SidecarUser(c[0], c[1]); err == nil {
			t.Errorf("%q: %s", c, rule)
		}
	}
	if rule, err := cache.ControlPlaneUser(""); err == nil {
		t.Error(rule)
	}
}

func TestRedisConfig_IsReadStrictlyAndTellsNoPassword(t *testing.T) {
	const secret = "s3cr3t%40"
	for _, c := range []struct{ url, where string }{
		{"redis://localhost:6379", "redis://localhost:6379"},
		{"redis://u:" + secret + "@localhost:6379/3", "redis://localhost:6379"},
		{"rediss://u:" + secret + "@[::1]:6379", "rediss://[::1]:6379"},
		{"unix://u:" + secret + "@/run/redis.sock?db=2", "unix:///run/redis.sock"},
		{"redis+cluster://u:" + secret + "@a:1,b:2,c:3", "redis+cluster://a:1,b:2,c:3"},
		{"rediss+sentinel://u:" + secret + "@a:1,b:2/1?master=main&sentinel_user=s&sentinel_password=" + secret, "rediss+sentinel://a:1,b:2"},
	} {
		config := cache.RedisConfig{URL: c.url}
		if err := config.Check(); err != nil || config.Redacted() != c.where {
			t.Errorf("%s: %v, %s", c.url, err, config.Redacted())
		}
	}
	for _, bad := range []string{"", "localhost:6379", "http://u:" + secret + "@localhost:6379", "redis://u:" + secret + "@localhost", "redis://u:" + secret + "@a:1,b:2",
		"redis://u:" + secret + "@localhost:6379/x", "redis://u:" + secret + "@localhost:6379/-1", "redis://u:" + secret + "@localhost:6379?what=1", "redis://u:" + secret + "@localhost:6379#x",
		"unix://u:" + secret + "@host/run/x", "unix://run/x", "redis+cluster://u:" + secret + "@a:1/2", "redis+cluster://", "redis+sentinel://u:" + secret + "@a:1",
		"redis://u:s3cr3t%zz@localhost:6379", "redis://u:s3cr3t\x7f@localhost:6379", "redis://localhost:6379?x=%zz",
		// One with a sign that should have been escaped.
		"redis://u:1?s3cr3t@localhost:6379", "redis://u:1/s3cr3t@localhost:6379", "redis://u:1#s3cr3t@localhost:6379", "redis://u:1?master=s3cr3t@localhost:6379"} {
		err := cache.RedisConfig{URL: bad}.Check()
		if err == nil {
			t.Errorf("%q is taken", bad)
		} else if strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%q: the error tells the password: %v", bad, err)
		}
	}
	if err := (cache.RedisConfig{URL: "redis://localhost:6379", CA: "ca.pem"}).Check(); err == nil {
		t.Error("an authority without TLS is taken")
	}
	for _, c := range []cache.RedisConfig{{CA: "none.pem"}, {Cert: "none.pem"}, {Cert: "none.pem", Key: "none.pem"}} {
		c.URL = "rediss://localhost:6379"
		if err := c.Check(); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}

// A password that is wrong, or a server that is not there, is told without it.
func TestRedis_ErrorsTellNoPassword(t *testing.T) {
	s := servers.Redis(t)
	s.Do(t, "ACL", "SETUSER", "u", "on", ">right", "~*", "+@all")
	for _, address := range []string{s.UserURL("u", "s3cr3t"), "redis://u:s3cr3t@127.0.0.1:1", "redis+cluster://u:s3cr3t@127.0.0.1:1", "redis+sentinel://u:s3cr3t@127.0.0.1:1?master=m&sentinel_password=s3cr3t"} {
		r := openRedis(t, cache.RedisConfig{URL: address})
		_, err := r.Head(t.Context(), acme)
		if err == nil || strings.Contains(fmt.Sprintf("%+v %s", err, r.Where()), "s3cr3t") {
			t.Errorf("%s: %v", r.Where(), err)
		}
		// Many at once are no answer either.
		if heads, err := r.Heads(t.Context(), []string{acme, "other"}); err == nil {
			t.Errorf("%s: %v", r.Where(), heads)
		}
		if err := r.Fills(t.Context(), acme, 1, []cache.Stored{stored(t, acme, "a", 1, 1), stored(t, acme, "b", 1, 1)}, now(), nil); err == nil {
			t.Errorf("%s: fills were taken", r.Where())
		}
	}
}
