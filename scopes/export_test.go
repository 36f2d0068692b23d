package scopes

// Interned counts the sets that the parser shares at present.
func Interned(p *Parser) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.interned)
}

// CheckRegexp returns the code with which a restriction's regex is refused.
func CheckRegexp(pattern string) string {
	code, _ := checkRegexp(pattern)
	return code
}
