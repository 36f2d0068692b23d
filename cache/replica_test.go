package cache_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/scopes"
)

// records are a source by ref.
type records map[feed.Ref]any

func (r records) Fetch(_ context.Context, customer string, ref feed.Ref) (*feed.Record, error) {
	body, ok := r[ref]
	if key, is := body.(feed.KeyBody); is {
		ref = feed.Ref{Kind: feed.Key, ID: key.ID}
	} else if !ok && ref.Kind == feed.Secret {
		return nil, latchkey.Errorf(latchkey.NotFound, "key_not_found", "none")
	}
	text, err := json.Marshal(body)
	return &feed.Record{Customer: customer, Ref: ref, Version: 1, Epoch: 1, Body: text}, err
}

func replica(t *testing.T, size int64, source cache.Source) *cache.Replica {
	t.Helper()
	r := cache.NewReplica(cache.ReplicaConfig{Parser: scopes.NewParser(16), Peppers: &authz.Peppers{},
		Records: cache.RecordsConfig{MaxBytes: size, Sources: []cache.Source{source}, Wait: time.Second, Missing: time.Second, Now: now}})
	r.Follow(&authz.Customer{ID: acme})
	r.Records().Start(acme, 1, 1)
	return r
}

func keyBody(id, kid string) feed.KeyBody {
	digest := sha256.Sum256([]byte(kid))
	return feed.KeyBody{ID: id, Handle: "lk1_live_" + kid, Scopes: `{"customer":{"decision":true}}`, Metadata: `{"keyname":"k","username":"u"}`,
		CreatedAt: 5, ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never,
		Secrets: []feed.SecretBody{
			{Kid: "0123456789AA", Mode: "test", Digest: digest[:], Pepper: "0011223344556677", EndsAt: 9},
			{Kid: kid, Mode: "live", Digest: digest[:], EndsAt: latchkey.Never}},
		Grants: []feed.GrantBody{{ID: "g", Entries: `{"doc":[{"f":"*","p":2}]}`, NotBefore: 1, ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never}}}
}

func TestReplica_FindsWhatTheRecordsTell(t *testing.T) {
	id, kid := uuid.NewString(), "0123456789AB"
	body := keyBody(id, kid)
	eve := feed.Ref{Kind: feed.Subject, Type: "user", ID: "eve"}
	r := replica(t, 1<<20, records{
		{Kind: feed.Secret, ID: kid}: body, {Kind: feed.Secret, ID: "0123456789AA"}: body, {Kind: feed.Key, ID: id}: body,
		eve: feed.SubjectBody{Properties: `{"team":"red"}`, Grants: body.Grants},
		{Kind: feed.Resource, Type: "doc", ID: "7"}: feed.ResourceBody{Properties: `{"owner":"eve"}`},
	})
	k, _ := authz.ParseKid(kid)
	secret, found, err := r.FindSecret(k)
	if err != nil || !found || secret.Foreign || secret.Test || secret.EndsAt != latchkey.Never || secret.Key.ID.String() != id || secret.Key.Status(10) != authz.Active || len(secret.Key.Grants().List) != 1 {
		t.Fatalf("%+v, %v, %v", secret, found, err)
	}
	old, _ := authz.ParseKid("0123456789AA")
	if secret, found, err := r.FindSecret(old); err != nil || !found || !secret.Foreign || !secret.Test || secret.EndsAt != 9 {
		t.Errorf("under a pepper that is not here: %+v, %v, %v", secret, found, err)
	}
	none, _ := authz.ParseKid("ZZZZZZZZZZZZ")
	if _, found, err := r.FindSecret(none); err != nil || found {
		t.Errorf("none: %v, %v", found, err)
	}
	stored, err := r.Key(t.Context(), acme, secret.Key.ID)
	if err != nil || stored.Handle != body.Handle || stored.CreatedAt != 5 || stored.Metadata != body.Metadata || stored.LastUsedAt != latchkey.Never {
		t.Errorf("%+v, %v", stored, err)
	}
	if p, err := r.Of(secret.Key); err != nil || p.Text() != body.Metadata {
		t.Errorf("%v, %v", p, err)
	}
	if state, err := r.FindKey(authz.KeyID(uuid.New())); err != nil || state != nil {
		t.Errorf("a key that is none: %v, %v", state, err)
	}
	c := r.Customer()
	if g, err := r.Grants(c, "user", "eve"); err != nil || len(g.List) != 1 {
		t.Errorf("%+v, %v", g, err)
	}
	if g, err := r.Grants(c, "user", "bob"); err != nil || g != nil && len(g.List) != 0 {
		t.Errorf("bob's: %+v, %v", g, err)
	}
	if p, err := r.FindSubject(c, "user", "eve"); err != nil || p.Text() != `{"team":"red"}` {
		t.Errorf("%v, %v", p, err)
	}
	if p, err := r.FindResource(c, "doc", "7"); err != nil || p.Text() != `{"owner":"eve"}` {
		t.Errorf("%v, %v", p, err)
	}
	if p, err := r.FindResource(c, "doc", "8"); err != nil || p != nil {
		t.Errorf("nothing is stored of it: %v, %v", p, err)
	}
}

// A record that cannot be read tells nothing, and nobody is let in by it.
func TestReplica_WhatCannotBeReadIsNoAnswer(t *testing.T) {
	for name, change := range map[string]func(*feed.KeyBody){
		"scopes":         func(b *feed.KeyBody) { b.Scopes = `{"customer":{"nonsense":true}}` },
		"metadata":       func(b *feed.KeyBody) { b.Metadata = "[" },
		"of another key": func(b *feed.KeyBody) { b.ID = strings.ToUpper(b.ID) },
		"a short digest": func(b *feed.KeyBody) { b.Secrets[1].Digest = b.Secrets[1].Digest[:31] },
		"no kid":         func(b *feed.KeyBody) { b.Secrets[1].Kid = "x" },
		"a grant":        func(b *feed.KeyBody) { b.Grants[0].Entries = `{"access_keys":[{"f":"*"}]}` },
	} {
		body := keyBody("aaaaaaaa-0000-0000-0000-000000000000", "0123456789AB")
		change(&body)
		r := replica(t, 1<<20, records{{Kind: feed.Secret, ID: "0123456789AB"}: body})
		kid, _ := authz.ParseKid("0123456789AB")
		if secret, found, err := r.FindSecret(kid); err == nil || found || secret.Key != nil {
			t.Errorf("%s: %+v, %v, %v", name, secret, found, err)
		}
	}
}

func TestReplica_BeforeItIsToldWhoseTheyAreNobodyCanTell(t *testing.T) {
	r := cache.NewReplica(cache.ReplicaConfig{Parser: scopes.NewParser(16), Peppers: &authz.Peppers{}, Records: cache.RecordsConfig{MaxBytes: 1 << 20, Now: now}})
	if _, found, err := r.FindSecret(authz.Kid{}); latchkey.KindOf(err) != latchkey.Unavailable || found {
		t.Errorf("%v, %v", found, err)
	}
}

// However many are asked about, memory holds as much as was said.
func TestReplica_MemoryIsBounded(t *testing.T) {
	const size = 1 << 20
	text := strings.Repeat("x", 2000)
	r := replica(t, size, sourceFunc(func(ref feed.Ref) (*feed.Record, error) {
		if ref.Kind == feed.Secret {
			return nil, latchkey.Errorf(latchkey.NotFound, "key_not_found", "none")
		}
		body, err := json.Marshal(feed.SubjectBody{Properties: `{"text":"` + text + `"}`})
		return &feed.Record{Customer: acme, Ref: ref, Version: 1, Epoch: 1, Body: body}, err
	}))
	for i := range 5000 {
		if p, err := r.FindSubject(r.Customer(), "user", strconv.Itoa(i)); err != nil || p == nil {
			t.Fatal(err)
		}
		kid, _ := authz.ParseKid("0123456" + strconv.Itoa(10000+i))
		if _, found, err := r.FindSecret(kid); err != nil || found { // what is not there takes room as well
			t.Fatal(found, err)
		}
	}
	deadline := time.Now().Add(time.Minute) // it is let go of in the background
	for r.Records().Stats().Bytes > size {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes", r.Records().Stats().Bytes)
		}
	}
	if got := r.Records().Stats().Bytes; got < size/4 {
		t.Errorf("%d bytes are all that is kept of %d", got, size)
	}
}

func TestBrief_GivesUpAndLeavesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		hangs := true
		b := cache.NewBrief(contextSource(func(ctx context.Context) (*feed.Record, error) {
			if asked.Add(1); hangs {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return nil, cache.ErrMiss
		}), 100*time.Millisecond, now)
		begun := time.Now()
		if _, err := b.Fetch(t.Context(), acme, alice); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != 100*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		if _, err := b.Fetch(t.Context(), acme, alice); !errors.Is(err, cache.ErrMiss) || asked.Load() != 1 {
			t.Errorf("%v, asked %d times", err, asked.Load())
		}
		hangs = false
		settle(time.Second)
		for want := int64(2); want < 4; want++ { // a miss is no failure
			if _, err := b.Fetch(t.Context(), acme, alice); !errors.Is(err, cache.ErrMiss) || asked.Load() != want {
				t.Errorf("%v, asked %d times", err, asked.Load())
			}
		}
	})
}

type contextSource func(context.Context) (*feed.Record, error)

func (f contextSource) Fetch(ctx context.Context, _ string, _ feed.Ref) (*feed.Record, error) {
	return f(ctx)
}
