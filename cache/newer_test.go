package cache_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/scopes"
)

// signText signs a text as a control plane of any release does.
func signText(form, payload string) []byte {
	seed := make([]byte, ed25519.SeedSize)
	for i := range seed {
		seed[i] = 1 // as signer's
	}
	sig := ed25519.Sign(ed25519.NewKeyFromSeed(seed), []byte("latchkey feed "+form+"\x00"+payload))
	return []byte(form + " " + feed.KeyID(signer.Public()) + " " + base64.RawURLEncoding.EncodeToString(sig) + " " + payload)
}

// During an upgrade a node of this release is told of things that only the next
// one knows: kinds of records, and members of messages, records and heartbeats. It
// takes what it knows, and leaves out the rest; a revocation among them counts.
func TestReplica_TakesWhatANewerReleaseWrites(t *testing.T) {
	const id = "11111111-0000-4000-8000-000000000001"
	key, _ := authz.ParseKeyID(id)
	body := func(revoked string) string {
		return fmt.Sprintf(`{"id":%q,"handle":"h","scopes":"{\"customer\":{\"documents\":[{\"f\":\"*\",\"p\":2}]}}","metadata":"{\"keyname\":\"k\",\"username\":\"u\"}",
			"expires_at":null,"revoked_at":%s,"secrets":[{"kid":"000000000001","mode":"live","digest":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","ends_at":null,"newer":1}],
			"newer":{"quota":5}}`, id, revoked)
	}
	record := func(kind, body string, version int64) string {
		return fmt.Sprintf(`{"customer":"acme","ref":{"kind":%q,"id":%q,"newer":1},"version":%d,"epoch":1,"until":null,"newer":[1],"body":%s}`, kind, id, version, body)
	}
	first, err := verifier.OpenRecord(signText("lk1r", record("key", body("null"), 1)), "acme", feed.Ref{Kind: feed.Key, ID: id})
	if err != nil {
		t.Fatal(err)
	}
	replica := cache.NewReplica(cache.ReplicaConfig{Parser: scopes.NewParser(16), Peppers: &authz.Peppers{}, Records: cache.RecordsConfig{
		MaxBytes: 1 << 20, Wait: time.Second, Now: now, Sources: []cache.Source{sourceFunc(func(feed.Ref) (*feed.Record, error) { return first, nil })}}})
	replica.Follow(&authz.Customer{ID: "acme"})
	replica.Records().Start("acme", 1, 1)
	if k, err := replica.FindKey(key); err != nil || k.Status(now()) != authz.Active {
		t.Fatalf("%v %v", k, err)
	}
	m, err := verifier.OpenMessage(signText("lk1m", `{"customer":"acme","epoch":1,"seq":2,"at":"2026-01-02T03:04:05Z","newer":true,"touched":[{"kind":"entitlement","id":"e"}],"all":["group"],"records":[`+
		record("entitlement", `{"newer":1}`, 2)+`]}`), "acme")
	if err != nil || !replica.Records().Apply(m) {
		t.Fatalf("a change to what is not known here is not taken: %v", err)
	}
	if k, err := replica.FindKey(key); err != nil || k.Status(now()) != authz.Active {
		t.Errorf("after a change to what is not known here: %v %v", k, err)
	}
	m, err = verifier.OpenMessage(signText("lk1m", `{"customer":"acme","epoch":1,"seq":3,"at":"2026-01-02T03:04:05Z","newer":{},"touched":[{"kind":"group","id":"g"},{"kind":"key","id":"`+id+`","newer":1}],"records":[`+
		record("group", `{}`, 3)+","+record("key", body(`"2026-01-02T03:04:05Z"`), 3)+`]}`), "acme")
	if err != nil || !replica.Records().Apply(m) {
		t.Fatal(err)
	}
	if k, err := replica.FindKey(key); err != nil || k.Status(now()) != authz.Revoked {
		t.Errorf("after the revocation: %v %v", k, err)
	}
	if h, err := verifier.OpenHeartbeat(signText("lk1h", `{"customer":"acme","issuer":"n","at":"2026-01-02T03:04:05Z","epoch":1,"head":3,"policies":0,"newer":"x"}`), "acme"); err != nil || h.Head != 3 {
		t.Errorf("heartbeat: %+v %v", h, err)
	}
}
