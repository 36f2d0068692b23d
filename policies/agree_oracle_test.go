package policies_test

import (
	"math/big"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/latchkey-dev/latchkey"
)

// The oracle answers as the documents say, in the plainest way and from
// nothing but decoded JSON. It tells note what an answer hung on.

func oraclePermits(scopes, request map[string]any, note func(string)) bool {
	resource := request["resource"].(map[string]any)
	typ, id := resource["type"].(string), resource["id"].(string)
	action := request["action"].(map[string]any)["name"].(string)
	entries, _ := scopes["customer"].(map[string]any)[typ].([]any)

	var matching []map[string]any
	for _, e := range entries {
		entry, ok := e.(map[string]any)
		if ok && oracleSelects(entry["f"].(string), id) && oracleAction(entry, action, note) {
			matching = append(matching, entry)
			if f := entry["f"].(string); f != "*" && strings.HasSuffix(f, "*") {
				note("prefix selector")
			} else if f != "*" {
				note("exact selector")
			}
		}
	}
	if len(matching) == 0 {
		note("no entry")
		return false
	}
	if typ != "sets" || action == "read" {
		return true
	}
	return oracleWrite(matching, resource, note)
}

func oracleSelects(f, id string) bool {
	if !strings.HasSuffix(f, "*") {
		return f == id
	}
	prefix := f[:len(f)-1]
	return len(id) >= len(prefix) && id[:len(prefix)] == prefix
}

func oracleAction(entry map[string]any, action string, note func(string)) bool {
	p, _ := entry["p"].(float64)
	mask := int(p)
	bits := map[string]int{"create": 1, "read": 2, "update": 4, "delete": 8}
	if bit, crud := bits[action]; crud {
		if action == "read" && mask&2 == 0 && mask != 0 {
			note("implied read")
			return true
		}
		return mask&bit != 0
	}
	list, _ := entry["a"].([]any)
	for _, a := range list {
		if a == action {
			note("custom action")
			return true
		}
		if a == "*" {
			note("star action")
			return true
		}
	}
	return false
}

func oracleWrite(matching []map[string]any, resource map[string]any, note func(string)) bool {
	properties, _ := resource["properties"].(map[string]any)
	entityType, _ := properties["entity_type"].(string)
	var values []any
	for _, member := range []string{"values", "removed_values"} {
		if given, present := properties[member]; present {
			list, ok := given.([]any)
			if !ok {
				note("unreadable values")
				return false
			}
			values = append(values, list...)
		}
	}
	if len(values) == 0 {
		for _, entry := range matching {
			if entry["r"] == nil {
				note("no values, no restriction")
				return true
			}
		}
		note("values required")
		return false
	}
	for _, v := range values {
		text, ok := v.(string)
		if ok {
			text, ok = oracleCanonical(entityType, text)
		}
		if !ok {
			note("malformed value")
			return false
		}
		if text != v {
			note("value canonicalised")
		}
		admitted := false
		for _, entry := range matching {
			r, restricted := entry["r"].(map[string]any)
			if oracleSearch(r["entity_type"], entityType) && oracleSearch(r["filter"], text) {
				admitted = true
				if restricted {
					note("restriction admits " + entityType)
				}
			}
		}
		if !admitted {
			note("restriction blocks " + entityType)
			return false
		}
	}
	return true
}

func oracleSearch(pattern any, text string) bool {
	if pattern == nil {
		return true
	}
	return regexp.MustCompile(pattern.(string)).MatchString(text)
}

func oracleCanonical(entityType, value string) (string, bool) {
	if len(value) > 1024 {
		return "", false
	}
	switch entityType {
	case "string":
		return value, !strings.Contains(value, "\x00")
	case "uint":
		n, ok := new(big.Int).SetString(value, 10)
		if !ok || n.String() != value || n.Sign() < 0 || n.BitLen() > 64 {
			return "", false
		}
		return value, true
	case "ip":
		return oracleIP(value)
	}
	return "", false
}

var decimal = regexp.MustCompile(`^(0|[1-9][0-9]*)$`)

func oracleIP(value string) (string, bool) {
	text, length, isBlock := strings.Cut(value, "/")
	ip := net.ParseIP(text)
	if ip == nil {
		return "", false
	}
	if !isBlock {
		return ip.String(), true
	}
	if !decimal.MatchString(length) {
		return "", false
	}
	bits, err := strconv.Atoi(length)
	if err != nil {
		return "", false
	}
	octets := []byte(ip.To16())
	if four := ip.To4(); four != nil {
		octets = four
		if strings.Contains(text, ":") {
			bits -= 96
		}
	}
	if bits < 0 || bits > 8*len(octets) {
		return "", false
	}
	for i := bits; i < 8*len(octets); i++ {
		if octets[i/8]&(0x80>>(i%8)) != 0 {
			return "", false
		}
	}
	return ip.String() + "/" + strconv.Itoa(bits), true
}

// oracleKey says whether the question is about this key while it lives.
func oracleKey(k *key, request map[string]any, now latchkey.Instant, note func(string)) bool {
	subject := request["subject"].(map[string]any)
	id := subject["id"].(string)
	switch {
	case subject["type"] != "access_key":
		note("other subject type")
		return false
	case k.former != "" && id == k.former && id != k.id && !slices.Contains(k.handles, id):
		if now >= k.formerEnds || now >= k.expires {
			note("former handle ended")
			return false
		}
		note("former handle")
		return true
	case id != k.id && !slices.Contains(k.handles, id):
		note("other subject")
		return false
	case now >= k.expires:
		note("expired")
		return false
	}
	if id != k.id {
		note("handle")
	}
	if k.expires != latchkey.Never {
		note("not yet expired")
	}
	return true
}
