package authz

import (
	"bytes"
	"crypto/rand"
	"hash/crc32"
	"log/slog"
	"math/big"
	"strings"
)

// Lengths of the parts of a credential in base62 digits, and of the random
// bytes behind the secret.
const (
	kidDigits    = 12
	secretDigits = 43
	crcDigits    = 6
	secretBytes  = 32
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// Kid names one secret. It is no secret itself: it is how the secret is found.
type Kid [kidDigits]byte

func (k Kid) String() string { return string(k[:]) }

// ParseKid takes a kid as String writes it.
func ParseKid(text string) (kid Kid, ok bool) {
	if len(text) != kidDigits || !allBase62(text) {
		return kid, false
	}
	return Kid([]byte(text)), true
}

// CredentialKind tells credentials apart; kinds never stand in for one
// another. The zero kind is none.
type CredentialKind uint8

const (
	RootCredential CredentialKind = iota + 1
	AccessKeyCredential
	PersonalTokenCredential
	OIDCCredential
	ClaimCode // is exchanged once for a personal token, and proves nothing else
)

// Mode is what access keys are marked with: live or test, as the server is.
type Mode string

const (
	Live Mode = "live"
	Test Mode = "test"
)

// Token is a credential as it is presented, well-formed and with a checksum
// that holds; whether it stands for anybody is another question. It prints as
// its handle, so that a slip does not log a secret. A parsed Token is a view of
// the text that it was parsed from and must not outlive it.
type Token struct {
	Kind CredentialKind
	Kid  Kid
	form uint8
	text []byte
}

// Handle is the part of a credential that may be logged: everything before the
// secret. The zero Handle is none, and prints as nothing.
type Handle struct {
	form uint8 // place in prefixes, from 1
	kid  Kid
}

func (h Handle) String() string {
	if h.form == 0 {
		return ""
	}
	return prefixes[h.form-1].text + h.kid.String()
}

// IsZero reports whether it is no handle.
func (h Handle) IsZero() bool { return h.form == 0 }

// Handle is the part that may be logged, as text.
func (t Token) Handle() string { return t.Ref().String() }

// Ref is the same as a value.
func (t Token) Ref() Handle { return Handle{form: t.form, kid: t.Kid} }

func (t Token) String() string { return t.Handle() }

// GoString keeps %#v from showing the secret.
func (t Token) GoString() string { return t.Handle() }

// LogValue keeps a log from showing the secret.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.Handle()) }

// MarshalText keeps encoders from showing the secret.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.Handle()), nil }

// Reveal returns the whole token, for the one answer that shows it.
func (t Token) Reveal() string { return string(t.text) }

// NewAccessKeyToken makes the secret of an access key.
func NewAccessKeyToken(mode Mode) Token {
	if mode == Test {
		return newToken(testForm)
	}
	return newToken(liveForm)
}

// NewRootToken makes a root key.
func NewRootToken() Token { return newToken(rootForm) }

// NewPersonalToken makes the secret of a person.
func NewPersonalToken() Token { return newToken(personForm) }

// NewClaimCode makes the secret by which a person comes by the first token.
func NewClaimCode() Token { return newToken(claimForm) }

func newToken(form uint8) Token {
	kidSpace := new(big.Int).Exp(big.NewInt(62), big.NewInt(kidDigits), nil)
	kid, err := rand.Int(rand.Reader, kidSpace)
	if err != nil {
		panic(err) // crypto/rand does not fail on a working system
	}
	secret := make([]byte, secretBytes)
	rand.Read(secret)
	t := Token{Kind: prefixes[form-1].kind, form: form}
	copy(t.Kid[:], digits(kid, kidDigits))
	t.text = []byte(prefixes[form-1].text + t.Kid.String() + "_" + digits(new(big.Int).SetBytes(secret), secretDigits))
	crc := checksum(t.text)
	t.text = append(append(t.text, '_'), crc[:]...)
	return t
}

// digits writes n in base62, most significant first, padded with 0.
func digits(n *big.Int, width int) string {
	b := make([]byte, width)
	base, rest, digit := big.NewInt(62), new(big.Int).Set(n), new(big.Int)
	for i := width - 1; i >= 0; i-- {
		rest.DivMod(rest, base, digit)
		b[i] = base62[digit.Int64()]
	}
	return string(b)
}

// checksum is CRC-32/IEEE in six base62 digits. It finds a mistyped key before
// anything is looked up; it proves nothing.
func checksum(body []byte) (b [crcDigits]byte) {
	n := crc32.ChecksumIEEE(body)
	for i := crcDigits - 1; i >= 0; i-- {
		b[i] = base62[n%62]
		n /= 62
	}
	return b
}

// The forms of credentials, as places in prefixes from 1.
const (
	liveForm uint8 = iota + 1
	testForm
	rootForm
	personForm
	claimForm
)

var prefixes = [...]struct {
	text string
	kind CredentialKind
}{
	{"lk1_live_", AccessKeyCredential},
	{"lk1_test_", AccessKeyCredential},
	{"lkr1_", RootCredential},
	{"lkp1_", PersonalTokenCredential},
	{"lkc1_", ClaimCode},
}

// OfPerson reports whether a credential has the form of one that stands for a
// person: a personal token, or a signed token of an issuer (a JWT). Nothing of it
// has been checked.
func OfPerson(text []byte) bool {
	return bytes.HasPrefix(text, []byte(prefixes[personForm-1].text)) || bytes.HasPrefix(text, []byte("ey")) && bytes.Count(text, []byte{'.'}) == 2
}

// ParseToken reads a credential strictly; false for a wrong form or checksum,
// before any look-up.
func ParseToken(text []byte) (Token, bool) {
	for i := range prefixes {
		p := &prefixes[i]
		if len(text) < len(p.text) || string(text[:len(p.text)]) != p.text {
			continue
		}
		rest := text[len(p.text):]
		if len(rest) != kidDigits+1+secretDigits+1+crcDigits || rest[kidDigits] != '_' || rest[kidDigits+1+secretDigits] != '_' {
			return Token{}, false
		}
		crcAt := len(text) - crcDigits
		if !allBase62(rest[:kidDigits]) || !allBase62(rest[kidDigits+1:kidDigits+1+secretDigits]) ||
			checksum(text[:crcAt-1]) != [crcDigits]byte(text[crcAt:]) {
			return Token{}, false
		}
		return Token{Kind: p.kind, Kid: Kid(rest[:kidDigits]), form: uint8(i + 1), text: text}, true
	}
	return Token{}, false
}

// parseHandle reads the handle of an access key.
func parseHandle(text string) (kid Kid, test, ok bool) {
	for _, p := range prefixes {
		if rest, cut := strings.CutPrefix(text, p.text); cut && p.kind == AccessKeyCredential && len(rest) == kidDigits && allBase62(rest) {
			copy(kid[:], rest)
			return kid, p.text == "lk1_test_", true
		}
	}
	return kid, false, false
}

func allBase62[T string | []byte](s T) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// Redacted is what stands in place of a secret in a text.
const Redacted = "[redacted]"

var tokenMarks = [...]string{"lk1_", "lkr1_", "lkp1_", "lkc1_"}

// ContainsToken reports whether some part of s has the shape of a credential
// of any kind, personal tokens included, whatever its checksum.
func ContainsToken(s string) bool {
	_, _, found := findToken(s)
	return found
}

// Redact replaces everything in s that has the shape of a credential.
func Redact(s string) string {
	for {
		from, to, found := findToken(s)
		if !found {
			return s
		}
		s = s[:from] + Redacted + s[to:]
	}
}

// findToken finds mark, optional mode, kid, underscore and at least 20 digits
// of a secret: enough of one to matter.
func findToken(s string) (from, to int, found bool) {
	for i := 0; i < len(s); i++ {
		if s[i] != 'l' {
			continue
		}
		for _, mark := range tokenMarks {
			rest, ok := strings.CutPrefix(s[i:], mark)
			if !ok {
				continue
			}
			rest = strings.TrimPrefix(strings.TrimPrefix(rest, "live_"), "test_")
			if len(rest) <= kidDigits || rest[kidDigits] != '_' || !allBase62(rest[:kidDigits]) {
				continue
			}
			secret := rest[kidDigits+1:]
			n := 0
			for n < len(secret) && (allBase62(secret[n:n+1]) || secret[n] == '_') {
				n++
			}
			if n >= 20 {
				return i, len(s) - len(secret) + n, true
			}
		}
	}
	return 0, 0, false
}
