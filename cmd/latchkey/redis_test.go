package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/servers"
)

const head, messages = "lk1:{default}:head", "lk1:{default}:feed"

// seqIn is the number of the last change in Redis.
func seqIn(t *testing.T, s *servers.RedisServer) (epoch, seq int64) {
	t.Helper()
	if text := s.Do(t, "GET", head); text != "" {
		var floor int64
		if _, err := fmt.Sscanf(text, "%d %d %d", &epoch, &seq, &floor); err != nil {
			t.Fatal(text, err)
		}
	}
	return epoch, seq
}

// published waits until Redis has so many changes, each once.
func published(t *testing.T, s *servers.RedisServer, want int64) {
	t.Helper()
	eventually(t, fmt.Sprint("Redis has change ", want), func() bool {
		_, seq := seqIn(t, s)
		return seq == want
	})
	if n := s.Do(t, "XLEN", messages); n != fmt.Sprint(want) {
		t.Errorf("%s messages of %d changes", n, want)
	}
}

func sidecarKey(name string) object {
	return object{"scopes": object{"customer": object{"decision": true, "sidecar": true}}, "metadata": object{"username": "dale.cooper", "keyname": name}}
}

// A server that is killed after a change was answered, and before it is in Redis.
func TestRedis_WhatWasCommittedIsPublishedThoughTheServerIsKilled(t *testing.T) {
	t.Parallel()
	s := servers.Redis(t)
	data := t.TempDir()
	proxy := servers.NewProxy(t, "unix:"+s.Socket())
	p, err := startServer(data, []string{"LATCHKEY_REDIS=redis://" + proxy.Addr()}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	root, err := rootKey(data)
	if err != nil {
		t.Fatal(err)
	}
	made := p.must(t, root, http.MethodPost, "/v1/access_keys", sidecarKey("first"))
	published(t, s, 1)
	eventually(t, "a heartbeat", func() bool { return s.Do(t, "EXISTS", "lk1:{default}:beat") == "1" })
	proxy.Blackhole()
	// Redis keeps no request waiting.
	p.must(t, root, http.MethodDelete, "/v1/access_keys/"+made.Get("id").String(), nil)
	if err := p.end(syscall.SIGKILL); err == nil {
		t.Fatal("it ended by itself")
	}
	proxy.Refuse() // what waits there is lost
	if _, seq := seqIn(t, s); seq != 1 {
		t.Fatalf("the test is none: Redis is at %d", seq)
	}
	again, err := startServer(data, []string{"LATCHKEY_REDIS=" + s.URL()}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.end(syscall.SIGKILL) }()
	published(t, s, 2)
	record := s.Do(t, "GET", "lk1:{default}:r:key:0::"+made.Get("id").String())
	if !strings.Contains(record, `"version":2`) || strings.Contains(record, `"revoked_at":null`) {
		t.Errorf("the key's record does not say that it was revoked: %s", record)
	}
	if strings.Contains(record, made.Get("key").String()) {
		t.Error("the record holds the secret")
	}
}

// Another server publishes what the one that was killed did not.
func TestRedis_AnotherServerPublishesForOneThatWasKilled(t *testing.T) {
	t.Parallel()
	s := servers.Redis(t)
	proxy := servers.NewProxy(t, "unix:"+s.Socket())
	dir := t.TempDir()
	environment := []string{"LATCHKEY_DATABASE=" + servers.Postgres(t)}
	args := []string{"--keyring-file", filepath.Join(dir, "keyring.json")}
	a, err := startServer(filepath.Join(dir, "a"), append(environment, "LATCHKEY_REDIS=redis://"+proxy.Addr()), args, nil)
	if err != nil {
		t.Fatal(err)
	}
	root, err := rootKey(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := startServer(filepath.Join(dir, "b"), append(environment, "LATCHKEY_REDIS="+s.URL()), args, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.end(syscall.SIGKILL) }()
	for i := range int64(5) { // both publish
		a.must(t, root, http.MethodPost, "/v1/access_keys", newKeyBody(fmt.Sprint("k", i)))
		published(t, s, i+1)
	}
	proxy.Blackhole()
	a.must(t, root, http.MethodPost, "/v1/access_keys", newKeyBody("last"))
	if err := a.end(syscall.SIGKILL); err == nil {
		t.Fatal("it ended by itself")
	}
	proxy.Refuse()
	published(t, s, 6)
}

func TestRedis_ADatabaseOfBeforeIsNotServedBesideARedisThatKnowsMore(t *testing.T) {
	t.Parallel()
	s := servers.Redis(t)
	dir := t.TempDir()
	data, backup := filepath.Join(dir, "data"), filepath.Join(dir, "backup")
	redis := []string{"LATCHKEY_REDIS=" + s.URL()}
	start := func(data string) *process {
		t.Helper()
		p, err := startServer(data, redis, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := start(data)
	root, err := rootKey(data)
	if err != nil {
		t.Fatal(err)
	}
	made := p.must(t, root, http.MethodPost, "/v1/access_keys", newKeyBody("first"))
	published(t, s, 1)
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Fatal(err, p.err)
	}
	if err := os.CopyFS(backup, os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	p = start(data)
	p.must(t, root, http.MethodDelete, "/v1/access_keys/"+made.Get("id").String(), nil)
	published(t, s, 2)
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Fatal(err, p.err)
	}
	epoch, _ := seqIn(t, s)
	refused, err := startServer(backup, redis, nil, nil)
	if err == nil {
		_ = refused.end(syscall.SIGKILL)
		t.Fatal("it started")
	}
	if !strings.Contains(err.Error(), "latchkey store new-epoch") {
		t.Errorf("it does not tell what to do: %v", err)
	}
	if text, err := command(t, nil, "store", "new-epoch", "--data", backup); err != nil {
		t.Fatal(text, err)
	}
	p = start(backup)
	defer func() { _ = p.end(syscall.SIGKILL) }()
	eventually(t, "a new epoch in Redis", func() bool {
		now, seq := seqIn(t, s)
		return now > epoch && seq == 1
	})
	// The stream of before, with the revocation that never was in this epoch.
	published(t, s, 1)
}

func TestRedis_IsNotNeededToServe(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := servers.Redis(t)
	s.Kill(t)
	p, err := startServer(data, []string{"LATCHKEY_REDIS=" + s.URL()}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.end(syscall.SIGKILL) }()
	root, err := rootKey(data)
	if err != nil {
		t.Fatal(err)
	}
	made := p.must(t, root, http.MethodPost, "/v1/access_keys", newKeyBody("first"))
	if permit, reasons := p.ask(t, made.Get("key").String(), "access_key", made.Get("id").String()); permit || !strings.Contains(reasons, "scope_missing") {
		t.Errorf("%v %s", permit, reasons)
	}
	s.Start(t)
	published(t, s, 1)
	s.Do(t, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	again, err := startServer(data, []string{"LATCHKEY_REDIS=" + s.URL()}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(again.err.String(), "noeviction") {
		t.Errorf("an evicting policy is not warned of: %s", again.err)
	}
	for _, log := range []string{p.err.String(), again.err.String()} {
		if strings.Contains(log, root) {
			t.Error("the log tells a secret")
		}
	}
}

// A node's question for what Redis does not have brings it there.
func TestRedis_IsFilledByWhatSidecarsAskFor(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := servers.Redis(t)
	p, err := startServer(data, []string{"LATCHKEY_REDIS=" + s.URL()}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.end(syscall.SIGKILL) }()
	root, err := rootKey(data)
	if err != nil {
		t.Fatal(err)
	}
	made := p.must(t, root, http.MethodPost, "/v1/access_keys", sidecarKey("first"))
	id, secret := made.Get("id").String(), made.Get("key").String()
	published(t, s, 1)
	kid := strings.Split(secret, "_")[2]
	byID, byKid := "lk1:{default}:r:key:0::"+id, "lk1:{default}:r:secret:0::"+kid
	if s.Do(t, "EXISTS", byID, byKid) != "2" {
		t.Fatalf("the key is not in Redis under both of its names: %s", s.Do(t, "KEYS", "*"))
	}
	s.Do(t, "DEL", byID, byKid)
	if status, _, err := p.send(context.Background(), secret, http.MethodGet, "/v1/sidecar/keys?kid="+kid, nil); err != nil || status != http.StatusOK {
		t.Fatal(status, err)
	}
	eventually(t, "the record", func() bool { return s.Do(t, "EXISTS", byID, byKid) == "2" })
	if status, _, err := p.send(context.Background(), secret, http.MethodGet, "/v1/sidecar/subjects?type=user&id=nobody", nil); err != nil || status != http.StatusOK {
		t.Fatal(status, err)
	}
	eventually(t, "the record that there is nobody", func() bool { return s.Do(t, "EXISTS", "lk1:{default}:r:subject:4:user:nobody") == "1" })
}

func TestCacheRebuild_PutsKeysAndGrantsIntoRedis(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := servers.Redis(t)
	p, err := startServer(data, nil, []string{"--max-active-keys", "100"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	root, err := rootKey(data)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		made := p.must(t, root, http.MethodPost, "/v1/access_keys", newKeyBody(fmt.Sprint("k", i)))
		if i == 0 {
			p.must(t, root, http.MethodDelete, "/v1/access_keys/"+made.Get("id").String(), nil)
		}
		p.must(t, root, http.MethodPost, "/v1/grants", object{"subject": object{"type": "user", "id": fmt.Sprint("u", i)},
			"entries": object{"document": []any{object{"f": "*", "p": 2}}}, "reason": "test", "expires_at": "2099-01-01T00:00:00Z"})
	}
	// Beside the server, and once more when it is down.
	for range 2 {
		s.Do(t, "FLUSHALL")
		text, err := command(t, []string{"LATCHKEY_REDIS=" + s.URL()}, "cache", "rebuild", "--data", data, "--json")
		if err != nil {
			t.Fatal(text, err)
		}
		var got struct{ Customers, Keys, Subjects, Refused int }
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatal(text, err)
		}
		if got.Customers != 1 || got.Keys != 4 || got.Subjects != 5 || got.Refused != 0 {
			t.Errorf("%+v", got)
		}
		if n := s.Do(t, "EXISTS", "lk1:{default}:r:subject:4:user:u3"); n != "1" {
			t.Error("a subject with a grant is not there")
		}
		_ = p.end(syscall.SIGKILL)
	}
	if text, err := command(t, []string{"LATCHKEY_REDIS=" + s.URL()}, "cache", "rebuild", "--data", data, "--customer", "nobody"); err == nil || !strings.Contains(text+err.Error(), "nobody") {
		t.Errorf("a customer that is not there: %s %v", text, err)
	}
}

func TestRedisACL_PrintsAUserThatRedisTakes(t *testing.T) {
	t.Parallel()
	s := servers.Redis(t)
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("file's secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--customer", "default"}, {"--control-plane"}, {"--customer", "default", "--user", "other"}} {
		text, err := command(t, nil, append([]string{"redis", "acl", "--json"}, args...)...)
		var got struct{ User, Rule, Password string }
		if err != nil || json.Unmarshal([]byte(text), &got) != nil || len(got.Password) < 40 || strings.Contains(got.Rule, got.Password) {
			t.Fatalf("%v: %s %v", args, text, err)
		}
		s.Do(t, append([]string{"ACL", "SETUSER", got.User}, strings.Fields(got.Rule)...)...)
		if who := s.Do(t, "AUTH", got.User, got.Password); who != "OK" {
			t.Errorf("%v: %s", args, who)
		}
		line, err := command(t, nil, append([]string{"redis", "acl", "--password-file", file}, args...)...)
		words := strings.Fields(line)
		if err != nil || len(words) < 5 || words[0] != "ACL" || words[1] != "SETUSER" || words[2] != got.User || strings.Contains(line, "secret") {
			t.Fatalf("%v: %s %v", args, line, err)
		}
		s.Do(t, words...)
		if who := s.Do(t, "AUTH", got.User, "file's secret"); who != "OK" {
			t.Errorf("%v: %s", args, who)
		}
	}
	for _, args := range [][]string{{}, {"--customer", "a*"}, {"--customer", "default", "--control-plane"}, {"--customer", "default", "--user", "a b"}, {"--customer", "default", "--password-file", file + ".none"}} {
		if text, err := command(t, nil, append([]string{"redis", "acl"}, args...)...); err == nil {
			t.Errorf("%v: %s", args, text)
		}
	}
}

func TestServe_RefusesAnAddressOfRedisWithoutTellingIt(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"redis://u:s3cr3t@host", "what://u:s3cr3t@host:1", "redis://u:s3cr3t@host:1?x=1"} {
		p, err := startServer(t.TempDir(), []string{"LATCHKEY_REDIS=" + address}, nil, nil)
		if err == nil {
			_ = p.end(syscall.SIGKILL)
			t.Fatalf("%s is taken", address)
		}
		if strings.Contains(err.Error(), "s3cr3t") || !strings.Contains(err.Error(), "--redis") {
			t.Errorf("%v", err)
		}
	}
}
