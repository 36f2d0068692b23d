package strictjson

import (
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"
)

func (d *Doc) text() bool {
	start := d.pos
	escaped := false
	i := d.pos + 1
	for i < len(d.src) {
		c := d.src[i]
		if plain[c] {
			i++
			continue
		}
		switch {
		case c == '"':
			d.add(String, start, i+1, escaped)
			d.pos = i + 1
			return true
		case c == '\\':
			escaped = true
			n := d.escape(i)
			if n == 0 {
				return false
			}
			i += n
		case c < 0x20:
			d.pos = i
			return d.syntax("unescaped control character in a string")
		default:
			d.high = true
			i++
		}
	}
	d.pos = i
	return d.syntax("unterminated string")
}

// plain are the bytes of a string that mean just themselves: ASCII without
// control characters, the quote and the backslash.
var plain = func() (t [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// escape checks the escape at i and returns its length, 0 after a fault.
func (d *Doc) escape(i int) int {
	if i+1 >= len(d.src) {
		d.pos = i
		d.syntax("unterminated string")
		return 0
	}
	switch d.src[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		r, ok := d.hex4(i + 2)
		switch {
		case !ok:
		case r == 0:
			d.stop("nul_character", "U+0000 is not accepted")
			return 0
		case 0xDC00 <= r && r <= 0xDFFF:
			d.stop("lone_surrogate", "a low surrogate without its high one")
			return 0
		case 0xD800 <= r && r <= 0xDBFF:
			if i+7 < len(d.src) && d.src[i+6] == '\\' && d.src[i+7] == 'u' {
				if low, ok := d.hex4(i + 8); ok && 0xDC00 <= low && low <= 0xDFFF {
					return 12
				}
			}
			d.stop("lone_surrogate", "a high surrogate without its low one")
			return 0
		default:
			return 6
		}
	}
	d.pos = i
	d.syntax("invalid escape in a string")
	return 0
}

func (d *Doc) hex4(i int) (rune, bool) {
	if i+4 > len(d.src) {
		return 0, false
	}
	var r rune
	for _, c := range []byte(d.src[i : i+4]) {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case 'A' <= c && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

func (d *Doc) number() bool {
	start := d.pos
	i := d.pos
	digits := func() bool {
		from := i
		for i < len(d.src) && '0' <= d.src[i] && d.src[i] <= '9' {
			i++
		}
		return i > from
	}
	at := func(c byte) bool { return i < len(d.src) && d.src[i] == c }
	if at('-') {
		i++
	}
	if at('0') {
		i++
	} else if !digits() {
		d.pos = i
		return d.syntax("malformed number")
	}
	if at('.') {
		i++
		if !digits() {
			d.pos = i
			return d.syntax("malformed number")
		}
	}
	exponent := at('e') || at('E')
	if exponent {
		i++
		if at('+') || at('-') {
			i++
		}
		if !digits() {
			d.pos = i
			return d.syntax("malformed number")
		}
	}
	if i-start > MaxNumber {
		return d.stop("number_too_long", fmt.Sprintf("a number literal is longer than %d bytes", MaxNumber))
	}
	if exponent { // without one, 64 digits are always finite
		if f, err := strconv.ParseFloat(d.src[start:i], 64); err != nil || math.IsInf(f, 0) {
			return d.stop("number_out_of_range", "a number is outside the range of a double")
		}
	}
	d.add(Number, start, i, false)
	d.pos = i
	return true
}
