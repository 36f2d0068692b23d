package scopes_test

import (
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/scopes"
)

func TestCanonical_GivesOneTextOrRefuses(t *testing.T) {
	const refused = "\x00refused"
	kib := strings.Repeat("é", 512)
	tests := map[scopes.EntityType]map[string]string{
		scopes.EntityString: {
			"": "", "a": "a", " A ": " A ", "a\nb": "a\nb", "é": "é", "e\u0301": "e\u0301", "01": "01", kib: kib,
			"a\x00": refused, "\xff": refused, kib + "x": refused,
		},
		scopes.EntityUint: {
			"0": "0", "1": "1", "18446744073709551615": "18446744073709551615",
			"": refused, "00": refused, "01": refused, "-1": refused, "+1": refused, "-0": refused, " 1": refused, "1 ": refused, "1\n": refused,
			"1.0": refused, "1e3": refused, "0x1": refused, "1_000": refused, "١": refused, "18446744073709551616": refused, "100000000000000000000": refused,
		},
		scopes.EntityIP: {
			"1.2.3.4": "1.2.3.4", "0.0.0.0": "0.0.0.0", "::": "::", "::1": "::1", "2001:DB8:0:0:0:0:0:1": "2001:db8::1", "1:0:0:2:0:0:0:3": "1:0:0:2::3",
			"::ffff:1.2.3.4": "1.2.3.4", "::FFFF:102:304": "1.2.3.4", "::1.2.3.4": "::102:304", "64:ff9b::1.2.3.4": "64:ff9b::102:304",
			"10.0.0.0/8": "10.0.0.0/8", "0.0.0.0/0": "0.0.0.0/0", "1.2.3.4/32": "1.2.3.4/32", "::/0": "::/0", "2001:DB8::/32": "2001:db8::/32",
			"::ffff:1.2.3.0/120": "1.2.3.0/24", "::ffff:0:0/96": "0.0.0.0/0", "::ffff:1.2.3.4/128": "1.2.3.4/32", "::fffe:0:0/95": "::fffe:0:0/95",
			"": refused, "1.2.3": refused, "1.2.3.4.5": refused, "01.2.3.4": refused, "256.1.1.1": refused, "999.999.999.999": refused, " 1.2.3.4": refused, "1.2.3.4\n": refused,
			"fe80::1%eth0": refused, "fe80::%eth0/10": refused, "1.2.3.4%1": refused, "[::1]": refused, "1::2::3": refused, "12345::": refused,
			"10.0.0.1/8": refused, "1.2.3.5/31": refused, "1.2.3.4/33": refused, "::/129": refused, "1.2.3.4/": refused, "/8": refused, "1.2.3.4/08": refused, "1.2.3.4/+8": refused,
			"1.2.3.4/8/8": refused, "::ffff:0:0/95": refused, "::ffff:1.2.3.4/120": refused, "::ffff:1.2.3.4/32": refused, "localhost": refused, "1": refused,
		},
		"": {"a": refused, "1": refused, "::1": refused}, "String": {"a": refused}, "IP": {"::1": refused},
	}
	for entityType, values := range tests {
		for value, want := range values {
			got, ok := entityType.Canonical(value)
			if ok != (want != refused) || ok && got != want {
				t.Errorf("%s %.30q = %q, %v, want %q", entityType, value, got, ok, want)
			}
			if again, okAgain := entityType.Canonical(got); ok && (!okAgain || again != got) {
				t.Errorf("%s %q: the canonical text of %q is %q", entityType, value, got, again)
			}
		}
	}
}
