package keyring_test

import (
	"bytes"
	"encoding/base64"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/keyring"
)

func TestLoadOrCreate_MakesKeysOnceForTheOwnerAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyring.json")
	first, err := keyring.LoadOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	again, err := keyring.LoadOrCreate(path)
	if err != nil || !bytes.Equal(first.AuditMAC, again.AuditMAC) || !bytes.Equal(first.Seal, again.Seal) {
		t.Errorf("the keys changed: %v", err)
	}
	if bytes.Equal(first.AuditMAC, first.Seal) {
		t.Error("two purposes share a key")
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 2 { // the keyring, and its lock
		t.Errorf("left behind: %v %v", left, err)
	}
}

var aKey = base64.StdEncoding.EncodeToString(make([]byte, 32))

// A server of before there were bundles is upgraded in place: its chains and
// kept replies still hold.
func TestLoadOrCreate_AddsTheBundleKeyToAnOlderFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyring.json")
	if err := os.WriteFile(path, []byte(`{"audit_mac":"`+aKey+`","seal":"`+aKey+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if k, err := keyring.Load(path); err != nil || k.Bundle != nil {
		t.Fatalf("the older file: %v", err)
	}
	first, err := keyring.LoadOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.AuditMAC, make([]byte, 32)) {
		t.Error("another key changed")
	}
	one, err := first.BundleKey()
	if err != nil {
		t.Fatal(err)
	}
	again, err := keyring.LoadOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	if two, err := again.BundleKey(); err != nil || !one.Equal(two) {
		t.Errorf("the key was not kept: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 2 { // the keyring, and its lock
		t.Errorf("left behind: %v %v", left, err)
	}
}

// A damaged keyring must never be replaced by a fresh one: every chain would
// look forged.
func TestLoadOrCreate_RefusesADamagedFile(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "not JSON": "x", "short key": `{"audit_mac":"AAAA","seal":"AAAA"}`, "a key missing": `{}`,
		"bundle key": `{"audit_mac":"` + aKey + `","seal":"` + aKey + `","bundle":"AAAA"}`} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keyring.json")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := keyring.LoadOrCreate(path); err == nil {
				t.Error("it was taken")
			}
			if now, err := os.ReadFile(path); err != nil || string(now) != text {
				t.Errorf("the file changed: %q %v", now, err)
			}
		})
	}
}

// Servers of one fleet share the file, and may start on it at the same time.
func TestLoadOrCreate_GivesAllWhoComeAtOnceTheSameKeys(t *testing.T) {
	for name, before := range map[string]string{"new": "", "older": `{"audit_mac":"` + aKey + `","seal":"` + aKey + `"}`} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keyring.json")
			if before != "" {
				if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var rings [8]*keyring.Keyring
			var wg sync.WaitGroup
			for i := range rings {
				wg.Go(func() {
					var err error
					if rings[i], err = keyring.LoadOrCreate(path); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			for _, k := range rings[1:] {
				if !maps.Equal(k.Fingerprints(), rings[0].Fingerprints()) {
					t.Fatal("they have different keys")
				}
			}
		})
	}
}

func TestFingerprints_TellKeysApartAndNothingOfThem(t *testing.T) {
	key := bytes.Repeat([]byte{1}, 32)
	k := keyring.Keyring{AuditMAC: key, Seal: key}
	prints := k.Fingerprints()
	if len(prints) != 2 || prints["audit_mac"] == prints["seal"] || len(prints["seal"]) != 32 {
		t.Errorf("of two purposes with the same bytes: %v", prints)
	}
	k.Feed = key // a later release's
	if later := k.Fingerprints(); len(later) != 3 || later["seal"] != prints["seal"] {
		t.Errorf("a further key changed the others: %v, %v", prints, later)
	}
}
