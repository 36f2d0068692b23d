package vault_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey/internal/vault"
)

func key(b byte) []byte { return bytes.Repeat([]byte{b}, vault.KeyBytes) }

func open(t *testing.T, keys ...[]byte) *vault.Vault {
	t.Helper()
	v, err := vault.New(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

var label = vault.Label{Customer: "acme", Kind: "webhook", Owner: "w1", Name: "secret"}

func TestOpen_GivesWhatWasSealed(t *testing.T) {
	v := open(t, key(1))
	rapid.Check(t, func(t *rapid.T) {
		l := vault.Label{Customer: rapid.String().Draw(t, "customer"), Kind: rapid.String().Draw(t, "kind"), Owner: rapid.String().Draw(t, "owner"), Name: rapid.String().Draw(t, "name")}
		plain := rapid.SliceOf(rapid.Byte()).Draw(t, "plain")
		box := v.Seal(l, plain)
		if len(plain) > 8 && bytes.Contains(box, plain) {
			t.Fatal("it can be read")
		}
		got, err := v.Open(l, box)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%q, %v", got, err)
		}
	})
}

// Who can write to the database moves a sealed secret to a place that shows it to
// somebody else, or changes it.
func TestOpen_RefusesWhatWasMovedOrAltered(t *testing.T) {
	v := open(t, key(1))
	box := v.Seal(label, []byte("secret"))
	for name, l := range map[string]vault.Label{
		"another customer": {Customer: "evil", Kind: label.Kind, Owner: label.Owner, Name: label.Name},
		"another kind":     {Customer: label.Customer, Kind: "task", Owner: label.Owner, Name: label.Name},
		"another owner":    {Customer: label.Customer, Kind: label.Kind, Owner: "w2", Name: label.Name},
		"another name":     {Customer: label.Customer, Kind: label.Kind, Owner: label.Owner, Name: "compat"},
		"shifted parts":    {Customer: "acmewebhook", Kind: "", Owner: label.Owner, Name: label.Name},
	} {
		if plain, err := v.Open(l, box); err == nil || plain != nil {
			t.Errorf("%s: opened", name)
		}
	}
	for i := range box {
		altered := bytes.Clone(box)
		altered[i] ^= 1
		if _, err := v.Open(label, altered); err == nil {
			t.Errorf("byte %d altered: opened", i)
		}
	}
	for n := range box {
		if _, err := v.Open(label, box[:n]); err == nil {
			t.Errorf("cut to %d: opened", n)
		}
	}
}

func TestRotation_OldBoxesOpenNewOnesAreUnderTheFirstKey(t *testing.T) {
	before := open(t, key(1))
	box := before.Seal(label, []byte("secret"))
	after := open(t, key(2), key(1))
	if plain, err := after.Open(label, box); err != nil || string(plain) != "secret" {
		t.Fatalf("%q, %v", plain, err)
	}
	again := after.Seal(label, []byte("secret"))
	if id, err := vault.KeyOf(again); err != nil || id != after.Sealing() || id == before.Sealing() {
		t.Errorf("sealed under %s, %v", id, err)
	}
	if _, err := before.Open(label, again); !errors.Is(err, vault.ErrUnknownKey) {
		t.Errorf("a key that is not there: %v", err)
	}
}

func TestParseKeys(t *testing.T) {
	one, two := base64.StdEncoding.EncodeToString(key(1)), base64.StdEncoding.EncodeToString(key(2))
	keys, err := vault.ParseKeys([]byte("# the present one\n" + one + "\r\n\n  " + two))
	if err != nil || len(keys) != 2 || !bytes.Equal(keys[0], key(1)) || !bytes.Equal(keys[1], key(2)) {
		t.Fatalf("%x, %v", keys, err)
	}
	for name, text := range map[string]string{
		"empty": "", "a comment alone": "# nothing\n", "short": base64.StdEncoding.EncodeToString(key(1)[:31]), "not base64": "secret-that-nobody-sees",
		"hex": strings.Repeat("0a", 32), "zeros": base64.StdEncoding.EncodeToString(make([]byte, 32)), "the second is bad": one + "\nsecret-that-nobody-sees",
	} {
		if _, err := vault.ParseKeys([]byte(text)); err == nil {
			t.Errorf("%s: taken", name)
		} else if strings.Contains(err.Error(), "nobody-sees") {
			t.Errorf("%s: the error shows the file", name)
		}
	}
}
