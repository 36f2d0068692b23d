package forward

import (
	"strings"
	"unicode/utf8"
)

// MaxTarget bounds a request target, in bytes.
const MaxTarget = 8 << 10

// Path is a request's path, decoded once and without its query. The zero Path
// matches nothing.
type Path struct {
	segments []string // decoded; the last one is "" where the path ends in a slash
}

// String is the decoded path. No segment holds a slash, so it can be read in
// one way only.
func (p Path) String() string {
	if p.segments == nil {
		return ""
	}
	return "/" + strings.Join(p.segments, "/")
}

// ParsePath reads a request target in origin form, as the client sent it (RFC
// 9112, 3.2.1). It is false for a path that two servers could read differently:
//
//   - dot segments, encoded or not, and empty segments ("//");
//   - an encoded slash, backslash, semicolon, percent, question mark, hash or
//     control character, which mean something else to who decodes twice;
//   - a semicolon, which begins a parameter that servlet engines cut off, a
//     backslash, which some take for a slash, and a fragment;
//   - bytes that do not belong in a target (control characters, blanks, bytes
//     over 0x7e), malformed escapes, and what does not decode to UTF-8.
//
// The query is cut off unread.
func ParsePath(target string) (Path, bool) {
	if len(target) == 0 || len(target) > MaxTarget || target[0] != '/' {
		return Path{}, false
	}
	raw, query, _ := strings.Cut(target, "?")
	for i := 0; i < len(query); i++ {
		if c := query[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return Path{}, false
		}
	}
	segments := make([]string, 0, strings.Count(raw, "/"))
	for rest, more := raw[1:], true; more; {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		decoded, ok := decode(segment)
		if !ok || decoded == "." || decoded == ".." || decoded == "" && more {
			return Path{}, false
		}
		segments = append(segments, decoded)
	}
	return Path{segments}, true
}

// decode percent-decodes a segment once.
func decode(segment string) (string, bool) {
	escaped := false
	for i := 0; i < len(segment); i++ {
		switch c := segment[i]; {
		case c <= ' ', c >= 0x7f, c == ';', c == '\\', c == '#':
			return "", false
		case c == '%':
			escaped = true
		}
	}
	if !escaped {
		return segment, true
	}
	b := make([]byte, 0, len(segment))
	for i := 0; i < len(segment); i++ {
		c := segment[i]
		if c == '%' {
			if i+2 >= len(segment) {
				return "", false
			}
			high, low := unhex(segment[i+1]), unhex(segment[i+2])
			if high > 15 || low > 15 {
				return "", false
			}
			c, i = high<<4|low, i+2
			switch {
			case c < ' ', c == 0x7f, c == '/', c == '\\', c == ';', c == '%', c == '?', c == '#':
				return "", false
			}
		}
		b = append(b, c)
	}
	if !utf8.Valid(b) {
		return "", false
	}
	for _, r := range string(b) {
		if r >= 0x80 && r < 0xa0 { // control characters too
			return "", false
		}
	}
	return string(b), true
}

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

// ParseHost reads a Host header: the name in lower case, without port and
// without the dot of a fully qualified name. It is false for what is no host.
func ParseHost(text string) (string, bool) {
	host := text
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		if !isPort(host[i+1:]) {
			return "", false
		}
		host = host[:i]
	}
	if literal, ok := strings.CutPrefix(host, "["); ok {
		literal, ok = strings.CutSuffix(literal, "]")
		if !ok || literal == "" || strings.Trim(literal, "0123456789abcdefABCDEF:.") != "" {
			return "", false
		}
		return strings.ToLower(host), true
	}
	host = strings.TrimSuffix(host, ".")
	if host == "" || len(host) > 253 || host[0] == '.' || strings.HasSuffix(host, ".") || strings.Contains(host, "..") {
		return "", false
	}
	for i := 0; i < len(host); i++ {
		switch c := host[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		default:
			return "", false
		}
	}
	return strings.ToLower(host), true
}

func isPort(s string) bool {
	if s == "" || len(s) > 5 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// ValidMethod reports whether s can be a request method: a token of RFC 9110,
// 32 bytes at most. Methods know upper and lower case apart.
func ValidMethod(s string) bool {
	if s == "" || len(s) > 32 {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return true
}

// ValidScheme reports whether s is a scheme that proxies name; ws and wss are
// those of WebSocket handshakes.
func ValidScheme(s string) bool {
	return s == "http" || s == "https" || s == "ws" || s == "wss"
}
