package authz_test

import (
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/big"
	"regexp"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/authz"
)

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// base62 is written out once more, apart from the code under test.
func base62(n *big.Int, width int) string {
	n = new(big.Int).Set(n)
	var out string
	for range width {
		digit := new(big.Int)
		n.DivMod(n, big.NewInt(62), digit)
		out = string(alphabet[digit.Int64()]) + out
	}
	return out
}

func withChecksum(body string) string {
	return body + "_" + base62(new(big.Int).SetUint64(uint64(crc32.ChecksumIEEE([]byte(body)))), 6)
}

// parse is what the tests need of ParseToken.
func parse(text string) (authz.Token, bool) { return authz.ParseToken([]byte(text)) }

func TestToken_KnownAnswers(t *testing.T) {
	if got := base62(big.NewInt(61*62+10), 3); got != "0zA" {
		t.Fatalf("the test's own base62 is wrong: %s", got)
	}
	most := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 256), big.NewInt(1)) // 32 bytes of 0xff fit in 43 digits
	if digits := base62(most, 44); digits[0] != '0' || digits[1] == '0' {
		t.Fatalf("32 bytes do not fill 43 digits: %s", digits)
	}
	for _, tt := range []struct {
		body, handle string
		kind         authz.CredentialKind
	}{
		{"lk1_live_000000000000_" + strings.Repeat("0", 43), "lk1_live_000000000000", authz.AccessKeyCredential},
		{"lk1_test_AZaz09AZaz09_" + base62(most, 43), "lk1_test_AZaz09AZaz09", authz.AccessKeyCredential},
		{"lkr1_zzzzzzzzzzzz_" + strings.Repeat("z", 43), "lkr1_zzzzzzzzzzzz", authz.RootCredential},
	} {
		text := withChecksum(tt.body)
		got, ok := parse(text)
		if !ok || got.Kind != tt.kind || got.Handle() != tt.handle || got.Reveal() != text || got.Kid.String() != tt.handle[len(tt.handle)-12:] {
			t.Errorf("%s: %v %v %q", text, ok, got.Kind, got.Handle())
		}
	}
	// CRC-32/IEEE of "123456789" is cbf43926: 3421780262 = 3:44:35:17:61:0 … by hand.
	if got := withChecksum("123456789"); got != "123456789_"+base62(big.NewInt(0xcbf43926), 6) {
		t.Errorf("the test's own checksum is wrong: %s", got)
	}
}

func TestToken_MadeOnesHaveTheForm(t *testing.T) {
	forms := map[string]func() authz.Token{
		`^lk1_live_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}$`: func() authz.Token { return authz.NewAccessKeyToken(authz.Live) },
		`^lk1_test_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}$`: func() authz.Token { return authz.NewAccessKeyToken(authz.Test) },
		`^lkr1_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}$`:     authz.NewRootToken,
	}
	seen := map[string]bool{}
	for form, make := range forms {
		for range 200 {
			token := make()
			text := token.Reveal()
			again, ok := parse(text)
			if !regexp.MustCompile(form).MatchString(text) || !ok || again.Reveal() != text || again.Handle() != token.Handle() || withChecksum(text[:len(text)-7]) != text {
				t.Fatalf("%s does not have the form", token)
			}
			if seen[text] || seen[token.Kid.String()] {
				t.Fatalf("%s came twice", token)
			}
			seen[text], seen[token.Kid.String()] = true, true
		}
	}
}

func TestToken_IsReadStrictly(t *testing.T) {
	live := withChecksum("lk1_live_AZaz09AZaz09_" + strings.Repeat("a", 43))
	for _, text := range []string{
		"", "lk1_live_", live[:len(live)-1], live + "0", " " + live, live + "\n", strings.ToUpper(live), strings.Replace(live, "_", "-", 1),
		withChecksum("lk1_prod_AZaz09AZaz09_" + strings.Repeat("a", 43)), withChecksum("lk1_AZaz09AZaz09_" + strings.Repeat("a", 43)),
		withChecksum("lk2_live_AZaz09AZaz09_" + strings.Repeat("a", 43)), withChecksum("lkp2_AZaz09AZaz09_" + strings.Repeat("a", 43)),
		withChecksum("lk1_live_AZaz09AZaz0_" + strings.Repeat("a", 44)), withChecksum("lk1_live_AZaz09AZaz09_" + strings.Repeat("a", 42)),
		withChecksum("lk1_live_AZaz09AZaz0-_" + strings.Repeat("a", 43)), withChecksum("lk1_live_AZaz09AZaz09_" + strings.Repeat("a", 42) + "é"),
		withChecksum("lk1_live_AZaz09AZaz09_" + strings.Repeat("a", 42) + "_"), withChecksum("lkr1_live_AZaz09AZaz09_" + strings.Repeat("a", 43)),
	} {
		if _, ok := parse(text); ok {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestToken_EveryFlipOfOneCharacterFailsTheChecksum(t *testing.T) {
	for _, text := range []string{authz.NewAccessKeyToken(authz.Live).Reveal(), authz.NewRootToken().Reveal(), authz.NewPersonalToken().Reveal(), authz.NewClaimCode().Reveal()} {
		for i := range text {
			for c := range 256 {
				if flipped := text[:i] + string([]byte{byte(c)}) + text[i+1:]; flipped != text {
					if _, ok := parse(flipped); ok {
						t.Errorf("place %d, byte %d is taken", i, c)
					}
				}
			}
			if i+1 < len(text) && text[i] != text[i+1] { // neighbours swapped, the common slip
				if _, ok := parse(text[:i] + text[i+1:i+2] + text[i:i+1] + text[i+2:]); ok {
					t.Errorf("place %d swapped is taken", i)
				}
			}
		}
	}
}

func TestToken_PrintsAsItsHandle(t *testing.T) {
	token := authz.NewAccessKeyToken(authz.Live)
	secret := token.Reveal()[len(token.Handle())+1:]
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "token", token)
	marshalled, err := token.MarshalText()
	for _, text := range []string{fmt.Sprint(token), fmt.Sprintf("%v %+v %#v %s %q", token, token, token, token, token), log.String(), string(marshalled)} {
		if strings.Contains(text, secret[:8]) || !strings.Contains(text, token.Handle()) || err != nil {
			t.Errorf("prints %q", text)
		}
	}
}

func TestRedact_TakesOutWhatHasTheShapeOfACredential(t *testing.T) {
	live, root := authz.NewAccessKeyToken(authz.Live).Reveal(), authz.NewRootToken().Reveal()
	person := "lkp1_" + root[len("lkr1_"):]
	for text, want := range map[string]string{
		live:                          "[redacted]",
		root:                          "[redacted]",
		person:                        "[redacted]",
		"a " + live + " b":            "a [redacted] b",
		live + "," + root:             "[redacted],[redacted]",
		"/x/" + live + "/y":           "/x/[redacted]/y",
		"xlk1_" + live:                "xlk1_[redacted]",
		live[:len(live)-1]:            "[redacted]", // cut short
		live[:len("lk1_live_")+12+21]: "[redacted]", // half of it still is half a secret
		live[:len("lk1_live_")+12]:    live[:len("lk1_live_")+12],
		"lk1_live_":                   "lk1_live_",
		"nothing":                     "nothing",
		"":                            "",
		strings.Repeat("l", 100):      strings.Repeat("l", 100),
	} {
		if got := authz.Redact(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		if got := authz.ContainsToken(text); got != (want != text) {
			t.Errorf("%q: contains %v", text, got)
		}
	}
}

// FuzzParseToken: what is taken has exactly one form and a checksum that
// holds, and is found again by ContainsToken; nothing panics.
func FuzzParseToken(f *testing.F) {
	for _, s := range []string{
		withChecksum("lk1_live_AZaz09AZaz09_" + strings.Repeat("a", 43)), withChecksum("lkr1_AZaz09AZaz09_" + strings.Repeat("0", 43)),
		withChecksum("lk1_test_AZaz09AZaz09_" + strings.Repeat("z", 43)), "lk1_live_AZaz09AZaz09", "lkp1_", "", "lk1_lk1_lk1_live_test_",
	} {
		f.Add(s)
	}
	form := regexp.MustCompile(`\A(lk1_live|lk1_test|lkr1)_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}\z`)
	f.Fuzz(func(t *testing.T, text string) {
		token, ok := parse(text)
		if want := form.MatchString(text) && withChecksum(text[:max(len(text)-7, 0)]) == text; ok != want {
			t.Fatalf("%q: taken %v, want %v", text, ok, want)
		}
		if redacted := authz.Redact(text); authz.ContainsToken(redacted) {
			t.Fatalf("%q is left as %q", text, redacted)
		}
		if !ok {
			return
		}
		if token.Reveal() != text || !strings.HasPrefix(text, token.Handle()+"_") || !authz.ContainsToken("x"+text+"y") {
			t.Fatalf("%q: %q", text, token.Handle())
		}
	})
}
