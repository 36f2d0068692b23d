package tasks

import (
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"slices"
	"strings"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// hidden is what stands for a secret.
const hidden = "[redacted]"

// Redactor returns a function that takes secrets out of a text, and whatever else
// looks like a credential of latchkey: as they are, and in the forms in which a script,
// or a receiver, most likely passes them on. Who wants to show a secret finds another
// form; who reads such texts manages the secrets as well.
func Redactor(secrets []string) func(string) string {
	var forms []string
	for _, s := range secrets {
		if s == "" {
			continue
		}
		quoted := string(strictjson.AppendString(nil, s))
		forms = append(forms, s, quoted[1:len(quoted)-1], url.QueryEscape(s), url.PathEscape(s),
			base64.StdEncoding.EncodeToString([]byte(s)), base64.URLEncoding.EncodeToString([]byte(s)),
			base64.RawStdEncoding.EncodeToString([]byte(s)), base64.RawURLEncoding.EncodeToString([]byte(s)), hex.EncodeToString([]byte(s)))
		for line := range strings.Lines(s) { // of a key in PEM, say
			if line = strings.TrimSpace(line); len(line) >= 8 {
				forms = append(forms, line)
			}
		}
	}
	slices.SortFunc(forms, func(a, b string) int { return len(b) - len(a) }) // the longest first
	pairs := make([]string, 0, 2*len(forms))
	for _, f := range slices.Compact(forms) {
		pairs = append(pairs, f, hidden)
	}
	replacer := strings.NewReplacer(pairs...)
	return func(text string) string {
		text = replacer.Replace(text)
		// Where the text was cut within a secret, its beginning stands at the end.
		for _, f := range forms {
			for n := min(len(f)-1, len(text)); n >= leastPart; n-- {
				if strings.HasSuffix(text, f[:n]) {
					text = text[:len(text)-n] + hidden
					break
				}
			}
		}
		return authz.Redact(text)
	}
}

// leastPart is how much of the beginning of a secret is taken for a part of it.
const leastPart = 4
