package latchkey

import (
	"math"
	"strings"
	"time"
)

// Instant is a point in time in microseconds since the Unix epoch, the
// resolution that the record keeps. The zero Instant lies in 1970, so an
// expiry that nobody set has passed.
type Instant int64

// Never is later than every time that can be written: the expiry of what
// does not expire, the revocation of what is not revoked.
const Never Instant = math.MaxInt64

// InstantOf cuts t to microseconds.
func InstantOf(t time.Time) Instant { return Instant(t.UnixMicro()) }

// Time returns the instant in UTC; it has no meaning for Never.
func (i Instant) Time() time.Time { return time.UnixMicro(int64(i)).UTC() }

// Add returns i moved by d, Never staying Never.
func (i Instant) Add(d time.Duration) Instant {
	if i == Never {
		return Never
	}
	return i + Instant(d/time.Microsecond)
}

// AppendText appends RFC 3339 in UTC with Z, the fraction only where it is not
// zero. Never appends nothing.
func (i Instant) AppendText(b []byte) []byte {
	if i == Never {
		return b
	}
	return i.Time().AppendFormat(b, time.RFC3339Nano)
}

func (i Instant) String() string {
	if i == Never {
		return "never"
	}
	return string(i.AppendText(nil))
}

// MarshalJSON writes the RFC 3339 text, or null for Never.
func (i Instant) MarshalJSON() ([]byte, error) {
	if i == Never {
		return []byte("null"), nil
	}
	return append(i.AppendText([]byte{'"'}), '"'), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (i *Instant) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*i = Never
		return nil
	}
	if len(b) >= 2 && b[0] == '"' && b[len(b)-1] == '"' {
		if at, ok := ParseInstant(string(b[1 : len(b)-1])); ok {
			*i = at
			return nil
		}
	}
	return Errorf(Invalid, "invalid_time", "want an RFC 3339 time, or null")
}

// ParseInstant reads an RFC 3339 timestamp of the years 1970 to 9999, cutting
// it to microseconds.
func ParseInstant(text string) (Instant, bool) {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || !strict(text) {
		return 0, false
	}
	if y := t.UTC().Year(); y < 1970 || y > 9999 {
		return 0, false
	}
	return InstantOf(t), true
}

// strict refuses what time.Parse takes beside RFC 3339: an hour of one digit, a comma,
// an offset of 24 hours or 60 minutes. Others read it as another time, or as none.
func strict(text string) bool {
	if text[len("2006-01-02T15")] != ':' || strings.Contains(text, ",") {
		return false
	}
	offset := text[len(text)-len("07:00"):]
	return strings.HasSuffix(text, "Z") || offset[:2] <= "23" && offset[3:] <= "59"
}
