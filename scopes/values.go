package scopes

import (
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxValue is the greatest length of a set value in bytes.
const MaxValue = 1 << 10

// EntityType is the type of a set's values.
type EntityType string

const (
	EntityString EntityType = "string"
	EntityIP     EntityType = "ip"
	EntityUint   EntityType = "uint"
)

var entityTypes = [...]EntityType{EntityString, EntityIP, EntityUint}

// bit is the type's own in a mask of types; none for an unknown type.
func (t EntityType) bit() uint8 {
	for i, known := range entityTypes {
		if t == known {
			return 1 << i
		}
	}
	return 0
}

// Canonical returns the one text by which a value is compared and stored, and
// false when the value is malformed for the type. Strings are taken as they
// are; an ip is an address, or a CIDR block without host bits, in netip's
// form with IPv4-mapped addresses unmapped and no zone; a uint is decimal,
// 0 to 2^64-1, without leading zeros.
func (t EntityType) Canonical(value string) (string, bool) {
	if len(value) > MaxValue {
		return "", false
	}
	switch t {
	case EntityString:
		return value, utf8.ValidString(value) && !strings.ContainsRune(value, 0)
	case EntityUint:
		if value == "" || value[0] == '0' && value != "0" || strings.TrimLeft(value, "0123456789") != "" {
			return "", false
		}
		_, err := strconv.ParseUint(value, 10, 64)
		return value, err == nil
	case EntityIP:
		return canonicalIP(value)
	}
	return "", false
}

func canonicalIP(value string) (string, bool) {
	if !strings.Contains(value, "/") {
		addr, err := netip.ParseAddr(value)
		if err != nil || addr.Zone() != "" {
			return "", false
		}
		return addr.Unmap().String(), true
	}
	block, err := netip.ParsePrefix(value) // refuses zones
	if err != nil {
		return "", false
	}
	if addr := block.Addr(); addr.Is4In6() {
		if block.Bits() < 96 {
			return "", false // the mapping prefix itself would be host bits
		}
		block = netip.PrefixFrom(addr.Unmap(), block.Bits()-96)
	}
	if block.Masked() != block {
		return "", false
	}
	return block.String(), true
}
