package authz_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
)

const (
	oldPepper = "the old pepper, which is long enough"
	newPepper = "the new pepper, which is long enough"
)

func TestPeppers_DigestIsHMACUnderThePepperElseSHA256(t *testing.T) {
	token := authz.NewAccessKeyToken(authz.Live)
	plain := &authz.Peppers{}
	if ref, name := plain.Current(); ref != 0 || name != "" || plain.Digest(0, token) != sha256.Sum256([]byte(token.Reveal())) {
		t.Error("without peppers the digest is not SHA-256 of the whole token")
	}
	both, err := authz.ParsePeppers("# current first\n\n  " + newPepper + "  \n" + oldPepper + "\n")
	if err != nil {
		t.Fatal(err)
	}
	for ref, pepper := range map[authz.PepperRef]string{1: newPepper, 2: oldPepper} {
		mac := hmac.New(sha256.New, []byte(pepper))
		mac.Write([]byte(token.Reveal()))
		for range 3 { // the hash is reused
			if digest := both.Digest(ref, token); string(digest[:]) != string(mac.Sum(nil)) {
				t.Errorf("pepper %d: not its HMAC", ref)
			}
		}
	}
	if both.Digest(0, token) != plain.Digest(0, token) {
		t.Error("a digest from before the peppers cannot be checked")
	}
}

func TestPeppers_NamesTellNothingOfThePepper(t *testing.T) {
	both, err := authz.ParsePeppers(newPepper + "\n" + oldPepper)
	if err != nil {
		t.Fatal(err)
	}
	alone, err := authz.ParsePeppers(oldPepper)
	if err != nil {
		t.Fatal(err)
	}
	_, current := both.Current()
	_, old := alone.Current()
	if ref, ok := both.Find(old); !ok || ref != 2 {
		t.Errorf("the old pepper is not found by its name: %d %v", ref, ok)
	}
	if ref, ok := both.Find(current); !ok || ref != 1 {
		t.Errorf("the current pepper is not found by its name: %d %v", ref, ok)
	}
	if ref, ok := both.Find(""); !ok || ref != 0 {
		t.Errorf("no pepper is not found: %d %v", ref, ok)
	}
	if _, ok := alone.Find(current); ok {
		t.Error("a pepper that is not held is found")
	}
	if sum := sha256.Sum256([]byte(oldPepper)); len(old) != 16 || strings.Contains(oldPepper, old) || strings.HasPrefix(string(sum[:]), old) {
		t.Errorf("name %q", old)
	}
}

func TestPeppers_RefusesFilesThatWouldProtectNothing(t *testing.T) {
	for _, file := range []string{"", "\n# only a comment\n", strings.Repeat("x", 31), newPepper + "\nshort"} {
		if _, err := authz.ParsePeppers(file); err == nil || strings.Contains(err.Error(), "short") {
			t.Errorf("%q: %v", file, err)
		}
	}
}

// TestPeppers_RotateAsKeysAreUsed: a key made without a pepper, and under the
// old one, is digested anew when it is used, and then needs the old one no more.
func TestPeppers_RotateAsKeysAreUsed(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir, "")
	root := *first.made
	plain := first.create(root, `{"decision":true}`)
	close := func(r *rig) {
		t.Helper()
		if _, err := r.uses.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	close(first)
	second := open(t, dir, oldPepper)
	made := second.create(root, `{"decision":true}`)
	for _, c := range []authz.Created{plain, made} {
		if s := second.status(c.Token, morning.Add(time.Minute)); s != authz.Active {
			t.Errorf("status %d", s)
		}
	}
	close(second)

	third := open(t, dir, newPepper+"\n"+oldPepper)
	unused := third.create(root, `{"decision":true}`)
	for _, c := range []authz.Created{plain, made, unused} {
		if s := third.status(c.Token, morning.Add(2*time.Minute)); s != authz.Active {
			t.Errorf("status %d", s)
		}
	}
	close(third)

	fourth := open(t, dir, newPepper) // the old one is gone
	for _, c := range []authz.Created{plain, made, unused} {
		if s := fourth.status(c.Token, morning.Add(3*time.Minute)); s != authz.Active {
			t.Errorf("status %d", s)
		}
	}
	close(fourth)

	if _, err := tryOpen(t, dir, ""); latchkey.CodeOf(err) != "pepper_missing" {
		t.Errorf("a server without the pepper starts: %v", err)
	}
}

// A pepper can go though secrets that ended were kept under it: nobody would use
// them ever, and a pepper that leaked must not stay for their sake.
func TestPeppers_WhatEndedNeedsNone(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir, oldPepper)
	root := *first.made
	revoked, rotated := first.create(root, `{"decision":true}`), first.create(root, `{"decision":true}`)
	if err := first.db.Close(); err != nil {
		t.Fatal(err)
	}
	second := open(t, dir, newPepper+"\n"+oldPepper)
	call := second.rootCall(root)
	next, err := second.keys.Rotate(t.Context(), call, rotated.Key.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	close := func(r *rig) {
		t.Helper()
		if _, err := r.uses.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	close(second)
	if _, err := tryOpen(t, dir, newPepper); latchkey.CodeOf(err) != "pepper_missing" {
		t.Errorf("a server starts that could only refuse a key: %v", err)
	}
	third := open(t, dir, newPepper+"\n"+oldPepper)
	if _, _, err := third.keys.Revoke(t.Context(), third.rootCall(root), revoked.Key.ID); err != nil {
		t.Fatal(err)
	}
	close(third)
	fourth := open(t, dir, newPepper)
	for _, c := range []authz.Created{revoked, rotated} {
		if s := fourth.status(c.Token, morning.Add(time.Minute)); s != authz.Unknown {
			t.Errorf("status %d", s)
		}
	}
	if s := fourth.status(next.Token, morning.Add(time.Minute)); s != authz.Active {
		t.Errorf("status %d", s)
	}
}

func TestPeppers_TheRootKeyStandsUnderTheCurrentOneAfterItsRotation(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir, oldPepper)
	root := *first.made
	_ = first.db.Close()
	if _, err := tryOpen(t, dir, newPepper); latchkey.CodeOf(err) != "pepper_missing" {
		t.Errorf("a server that cannot check its root key starts: %v", err)
	}
	second := open(t, dir, newPepper+"\n"+oldPepper)
	next, err := second.root.Rotate(t.Context(), second.rootCall(root))
	if err != nil {
		t.Fatal(err)
	}
	if second.status(root, morning) != authz.Unknown || second.status(next, morning) != authz.Active {
		t.Error("the rotation did not take")
	}
	_ = second.db.Close()
	third := open(t, dir, newPepper)
	if third.status(next, morning) != authz.Active {
		t.Error("the new root key is not known")
	}
}
