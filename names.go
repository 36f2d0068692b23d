package latchkey

// MaxName is the greatest length of a NAME in bytes.
const MaxName = 128

// ValidName reports whether s is a NAME: 1 to 128 of [A-Za-z0-9._:-], the
// first alphanumeric. Customers, policies and sets are called by NAMEs.
func ValidName(s string) bool {
	if s == "" || len(s) > MaxName || !alphanumeric(s[0]) {
		return false
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case alphanumeric(c), c == '.', c == '_', c == ':', c == '-':
		default:
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
