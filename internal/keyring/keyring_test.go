package keyring_test

import (
	"bytes"
	"os"
	"path/filepath"
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
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// A damaged keyring must never be replaced by a fresh one: every chain would
// look forged.
func TestLoadOrCreate_RefusesADamagedFile(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "not JSON": "x", "short key": `{"audit_mac":"AAAA","seal":"AAAA"}`, "a key missing": `{}`} {
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
