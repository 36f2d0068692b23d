package cache_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/internal/servers"
)

// certificate writes NAME.pem and NAME.key, signed by the parent or itself.
func certificate(t *testing.T, dir, name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: parent == nil, BasicConstraintsValid: true}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

func TestRedis_SpeaksTLSWithWhomItKnowsAlone(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	ca, caKey := certificate(t, dir, "ca", nil, nil)
	certificate(t, dir, "server", ca, caKey)
	certificate(t, dir, "client", ca, caKey)
	certificate(t, dir, "stranger", nil, nil)
	s := servers.Redis(t, "--tls-port", "TLSPORT", "--tls-cert-file", in("server.pem"), "--tls-key-file", in("server.key"), "--tls-ca-cert-file", in("ca.pem"))
	address := fmt.Sprintf("rediss://127.0.0.1:%d/0", s.TLSPort)
	for name, c := range map[string]struct {
		config cache.RedisConfig
		works  bool
	}{
		"both know each other":                 {cache.RedisConfig{URL: address, CA: in("ca.pem"), Cert: in("client.pem"), Key: in("client.key")}, true},
		"Redis wants a certificate":            {cache.RedisConfig{URL: address, CA: in("ca.pem")}, false},
		"one that Redis does not know":         {cache.RedisConfig{URL: address, CA: in("ca.pem"), Cert: in("stranger.pem"), Key: in("stranger.key")}, false},
		"Redis' own is of an unknown one":      {cache.RedisConfig{URL: address, CA: in("stranger.pem"), Cert: in("client.pem"), Key: in("client.key")}, false},
		"Redis' own is not of the system's":    {cache.RedisConfig{URL: address, Cert: in("client.pem"), Key: in("client.key")}, false},
		"Redis' own is for another host":       {cache.RedisConfig{URL: fmt.Sprintf("rediss://localhost:%d/0", s.TLSPort), CA: in("ca.pem"), Cert: in("client.pem"), Key: in("client.key")}, false},
		"plain text where Redis wants secrecy": {cache.RedisConfig{URL: fmt.Sprintf("redis://127.0.0.1:%d/0", s.TLSPort)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := openRedis(t, c.config)
			_, err := r.Head(t.Context(), acme)
			if (err == nil) != c.works {
				t.Errorf("%v", err)
			}
		})
	}
}

// The Sentinel moves on to a replica: the relay goes on there.
func TestRelay_GoesOnAfterAFailover(t *testing.T) {
	t.Parallel()
	primary, sentinel := servers.RedisSentinel(t, "main")
	replica := servers.Redis(t, "--port", "PORT", "--replicaof", "127.0.0.1", fmt.Sprint(primary.Port))
	db := newRecord(t, acme)
	r := openRedis(t, cache.RedisConfig{URL: fmt.Sprintf("redis+sentinel://127.0.0.1:%d/0?master=main", sentinel.Port)})
	relay, _ := db.relay(r)
	relay.Kick(acme, db.touch(acme, "a"))
	awaitHead(t, r, acme, 1, 1)
	await(t, func() error {
		if head, err := replica.Try("GET", "lk1:{acme}:head"); err != nil || head == "" {
			return fmt.Errorf("the replica has no head: %w", err)
		}
		info, err := sentinel.Try("SENTINEL", "REPLICAS", "main")
		if err == nil && info == "" {
			err = errors.New("the Sentinel knows of no replica")
		}
		return err
	})
	primary.Kill(t)
	last := db.touch(acme, "a")
	relay.Kick(acme, last)
	awaitHead(t, r, acme, 1, last)
	if head := replica.Do(t, "GET", "lk1:{acme}:head"); head != fmt.Sprintf("1 %d 0", last) {
		t.Errorf("the replica has %q", head)
	}
	checkFeed(t, r, acme, 1, 1, last)
}
