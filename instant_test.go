package latchkey_test

import (
	"testing"

	"github.com/latchkey-dev/latchkey"
)

// The attack: a time that this server reads in another way than whoever shows it to
// those who decide.
func TestParseInstant_ReadsNothingButRFC3339(t *testing.T) {
	for text, want := range map[string]string{
		"2027-01-31T23:59:59Z":         "2027-01-31T23:59:59Z",
		"2027-01-01T00:00:00.1234567Z": "2027-01-01T00:00:00.123456Z",
		"2027-01-01T00:00:00+23:59":    "2026-12-31T00:01:00Z",
		"1970-01-01T00:00:00Z":         "1970-01-01T00:00:00Z",
		"9999-12-31T23:59:59.999999Z":  "9999-12-31T23:59:59.999999Z",
		"2028-02-29T00:00:00-00:00":    "2028-02-29T00:00:00Z",
		"2027-01-01T00:00:00,5Z":       "",
		"2027-01-01T00:00:00+24:00":    "",
		"2027-01-01T00:00:00+00:60":    "",
		"2027-01-01T0:00:00Z":          "",
		"2027-01-01t00:00:00z":         "",
		"2027-01-01 00:00:00Z":         "",
		"2027-01-01T00:00:00":          "",
		"2027-02-29T00:00:00Z":         "",
		"2027-06-30T23:59:60Z":         "",
		"1970-01-01T00:00:00+00:01":    "",
		"9999-12-31T23:59:59-00:01":    "",
		"0001-01-01T00:00:00Z":         "",
		"12027-01-01T00:00:00Z":        "",
		"2027-01-01T00:00:00Z2027":     "",
		"２2027-01-01T00:00:00Z":        "",
		"":                             "",
	} {
		at, ok := latchkey.ParseInstant(text)
		if got := at.String(); ok != (want != "") || ok && got != want {
			t.Errorf("%q: %s, %v; want %q", text, got, ok, want)
		}
	}
}
