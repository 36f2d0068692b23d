package policies_test

import (
	"hash/fnv"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
)

// dice decides everything that is random here: from bytes while there are
// any, then from a generator.
type dice struct {
	bytes []byte
	rand  *rand.Rand
	extra []string // texts to use beside the built-in ones
}

func seeded(a, b uint64) *dice { return &dice{rand: rand.New(rand.NewPCG(a, b))} }

func fuzzed(data []byte, extra ...string) *dice {
	h := fnv.New64a()
	_, _ = h.Write(data)
	return &dice{bytes: data, rand: rand.New(rand.NewPCG(h.Sum64(), 1)), extra: extra}
}

func (d *dice) n(n int) int {
	if len(d.bytes) > 0 {
		b := d.bytes[0]
		d.bytes = d.bytes[1:]
		return int(b) % n
	}
	return d.rand.IntN(n)
}

func (d *dice) chance(percent int) bool { return d.n(100) < percent }

func pick[T any](d *dice, list []T) T { return list[d.n(len(list))] }

var (
	names = []string{
		"staging", "staging.eu", "staging-2", "prod", "prod:db", "p", "A", "0", "a_b", "x.y-z:1",
		"9017501f-9fa4-4a88-b657-5bd49c1bb722", strings.Repeat("n", 127),
	}
	// nasty are texts that a careless rendering or comparison would get wrong.
	nasty = []string{
		"a*b", "**", "*", "a*", `say "hi"`, `back\slash\`, `\`, `"`, `\"`, "${x}", `$"{x}"`, "{{.}}", "{{", "#no", "a#b",
		"/todos/{todoId}", "`tick`", "line1\nline2", "cr\rlf\r\n", "tab\t", "\u2028", "a\u2029b", "\u007f", "x\u0085\u009f",
		"😀", "😀/x", "\U0010ffff", "\U000e0001", "\ufeffbom", "bom\ufeff", "\ufffd", "\u202ertl", "e\u0301", "\u00e9", "%s%d%!",
		"</script>&<>", strings.Repeat("x", 1024), strings.Repeat("é", 512), strings.Repeat("y", 1023),
		`") } granted if { true } #`, "\"\n}\ngranted if true\n#", " ", "  ", "permits", "input.resource.id", "a\u00a0b", "\u200b",
		"\u0001\u001f", `\u0041`, `\n`, "null", "true", "A", "a",
	}
	appTypes = []string{"doc", "invoice_2", "t", "granted", "set", "sets2", "policy"}
	custom   = []string{"lock", "open", "Read", "create2", "a.b:c-d", "x", "permits"}
	regexes  = []string{
		`^[A-Z]+\.[A-Z]+$`, `^[A-Z]{3}-[A-Z]{1,3}$`, `^[0-1][0-3][0-5]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}$`, `^[A-Z]{1,5}$`,
		`^1`, `0$`, `.`, `^$`, `(?i)abc`, `(?s)a.b`, `a.b`, `\Aabc\z`, "quo\"te|abc", "`|A", "\ufeff|B", "\u2028|C", "😀|^1", `\\|\.`,
		`[^\x00-\x7f]`, `\x{1F600}`, "\u007f|a", "a\nb|A", "\r|^1", `^[0-9]{1,3}$`, `:`, `/`, `^10\.`, `^2001:db8:`, `\pL`, "#|A", `[(?m)]|A`, `^(a|b)*$`,
	}
	typeRegexes = []string{`^string$`, `^ip$`, `^uint$`, `string|ip`, `^(ip|uint)$`, `i`, `.`, `^nothing$`}

	strs = []string{
		"ABC.DEF", "ABC-AB", "ABC-ABCD", "abc", "ABC", "a\nb", "", "1", "10", "1.2.3.4", "A", "a", "ab", "\u0080",
		strings.Repeat("z", 1024), strings.Repeat("z", 1025), strings.Repeat("é", 512), strings.Repeat("é", 513), "nul\x00", "abc\n",
	}
	uints = []string{
		"0", "1", "10", "42", "999", "18446744073709551615", "18446744073709551614", "9999999999999999999", "10000000000000000000",
		"18446744073709551616", "19999999999999999999", "99999999999999999999", "100000000000000000000", "00", "01", "-1", "+1", "1.0", "1e3",
		"", " 1", "1 ", "1\n", "0x1", "1_0", "١", "０",
	}
	ips = []string{
		"1.2.3.4", "10.0.0.1", "10.0.0.0/8", "0.0.0.0/0", "255.255.255.255/32", "100.1.2.0/24", "::ffff:1.2.3.4", "2001:DB8::1", "135.9.9.9",
		"10.0.0.1/8", "0.0.0.0", "255.255.255.255", "999.999.999.999", "1.2.3", "01.2.3.4", "1.2.3.4.", "1.2.3.4/33", "1.2.3.4/032", "1.2.3.4/", "/8", "1.2.3.4/8/8", "1.2.3.4/-1", "1.2.3.4/+8",
		"::", "::1", "::/0", "::1/0", "::1/128", "2001:db8:0:0:0:0:0:1", "2001:0db8::/32", "2001:db8::1/32", "2001:db8::/129",
		"::FFFF:102:304", "::ffff:1.2.3.4/128", "::ffff:1.2.3.0/120", "::ffff:1.2.3.4/120", "::ffff:0:0/96", "::ffff:0:0/95",
		"::fffe:0:0/95", "0:0:0:0:0:ffff:a00:1", "::1.2.3.4", "::1.2.3.4/128", "64:ff9b::1.2.3.4", "fe80::1%eth0", "fe80::1%eth0/64", "fe80::%/10",
		"1::2::3", ":::", ":", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8:9", "1:0:0:2:0:0:0:3", "12345::", "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255",
		"", " 1.2.3.4", "1.2.3.4\n", "1.2.3.4/8\n", "localhost", "1.2.3.4%0", "[::1]", "0x1.2.3.4", "1", "16909060", "１.2.3.4", "::/000", "::/00", "::ffff:1.2.3.4/32",
	}
)

func (d *dice) text() string {
	if len(d.extra) > 0 && d.chance(30) {
		return pick(d, d.extra)
	}
	if d.chance(50) {
		return pick(d, names)
	}
	return pick(d, nasty)
}

// selector makes one that the parser accepts.
func (d *dice) selector(builtin bool) string {
	switch {
	case d.chance(25):
		return "*"
	case builtin && d.chance(50):
		return pick(d, names)
	case builtin:
		return d.cut(pick(d, names)) + "*"
	}
	text := d.text()
	if text == "" || len(text) > 1023 || strings.ContainsFunc(text, unicode.IsControl) {
		text = pick(d, names)
	}
	if d.chance(50) {
		return d.cut(text) + "*"
	}
	return text
}

// cut drops characters from the end, leaving one at least.
func (d *dice) cut(text string) string {
	runes := []rune(text)
	if len(runes) < 2 || d.chance(30) {
		return text
	}
	return string(runes[:1+d.n(len(runes)-1)])
}

func (d *dice) scopes() map[string]any {
	customer := map[string]any{}
	for range 1 + d.n(3) {
		switch d.n(10) {
		case 0, 1, 2, 3, 4:
			customer["sets"] = d.entries("sets")
		case 5, 6:
			typ := pick(d, appTypes)
			customer[typ] = d.entries(typ)
		case 7:
			customer["bundles"] = d.entries("bundles")
		default:
			customer["policies"] = d.entries("policies")
		}
	}
	if d.chance(20) {
		customer["decision"] = d.chance(70)
	}
	if d.chance(20) {
		customer["access_keys"] = pick(d, []any{[]any{"*"}, []any{"policies", "sets"}, []any{}})
	}
	return map[string]any{"customer": customer}
}

func (d *dice) entries(typ string) []any {
	list := make([]any, 1+d.n(5))
	if d.chance(5) {
		list = make([]any, 10)
	}
	for i := range list {
		list[i] = d.entry(typ)
	}
	return list
}

func (d *dice) entry(typ string) map[string]any {
	builtin := typ == "sets" || typ == "policies" || typ == "bundles"
	f := d.selector(builtin)
	p := 1 + d.n(15)
	if f != "*" {
		p &^= 1
	}
	e := map[string]any{"f": f}
	if p != 0 {
		e["p"] = float64(p)
	}
	if !builtin && (p == 0 || d.chance(50)) {
		if d.chance(50) {
			delete(e, "p")
		}
		actions := make([]any, 1+d.n(3))
		for i := range actions {
			actions[i] = pick(d, custom)
		}
		if d.chance(25) {
			actions[0] = "*"
		}
		e["a"] = actions
	} else if p == 0 {
		e["p"] = float64(2 + d.n(7)*2)
	}
	if typ == "sets" && d.chance(65) {
		r := map[string]any{}
		if d.chance(70) {
			r["filter"] = pick(d, regexes)
		}
		if len(r) == 0 || d.chance(50) {
			r["entity_type"] = pick(d, typeRegexes)
		}
		e["r"] = r
	}
	return e
}

// request asks, most of the time, something near what some entry permits.
func (d *dice) request(k *key) map[string]any {
	typ, id, action := pick(d, append(appTypes, "sets", "policies", "bundles", "decision", "access_keys", "", "Sets")), d.text(), d.action()
	if len(k.lists) > 0 && d.chance(90) {
		typ = pick(d, k.lists)
		entry := pick(d, k.scopes["customer"].(map[string]any)[typ].([]any)).(map[string]any)
		if d.chance(85) {
			id = d.near(entry["f"].(string))
		}
		if a, ok := entry["a"].([]any); ok && d.chance(40) {
			action = pick(d, a).(string)
		} else if p, ok := entry["p"].(float64); ok && d.chance(60) {
			action = []string{"create", "read", "update", "delete"}[bits.TrailingZeros8(rotate(uint8(p), d.n(4)))]
		}
	}
	resource := map[string]any{"type": typ, "id": id}
	if typ == "sets" && d.chance(85) || d.chance(5) {
		resource["properties"] = d.properties()
	}
	subject := map[string]any{"type": "access_key", "id": k.id}
	switch {
	case k.former != "" && d.chance(15):
		subject["id"] = k.former
	case len(k.handles) > 0 && d.chance(15):
		subject["id"] = pick(d, k.handles)
	case d.chance(3):
		subject["id"] = d.text()
	case d.chance(3):
		subject["type"] = pick(d, []string{"user", "Access_Key", "access-key", ""})
	}
	if d.chance(10) {
		subject["properties"] = map[string]any{"metadata": map[string]any{"username": d.text()}}
	}
	return map[string]any{"subject": subject, "action": map[string]any{"name": action}, "resource": resource, "context": map[string]any{}}
}

func (d *dice) action() string {
	if d.chance(80) {
		return pick(d, []string{"create", "read", "update", "delete", "update", "delete"})
	}
	return pick(d, append([]string{"*", "", "CREATE", "read ", "patch"}, custom...))
}

// rotate clears the lowest bits of a mask, but not the last.
func rotate(mask uint8, times int) uint8 {
	for range times {
		if rest := mask & (mask - 1); rest != 0 {
			mask = rest
		}
	}
	return mask
}

// near makes an id that the selector matches, or almost.
func (d *dice) near(f string) string {
	prefix, isPrefix := strings.CutSuffix(f, "*")
	switch {
	case d.chance(8):
		return f // with the star: literal in an id
	case d.chance(8):
		return d.short(strings.ToUpper(f))
	case isPrefix && d.chance(20) && prefix != "":
		return d.short(prefix)
	case isPrefix:
		return d.short(prefix + d.text())
	case d.chance(10):
		return d.cut(f)
	}
	return f
}

// short keeps an id legal.
func (d *dice) short(id string) string {
	if len(id) > 1024 {
		id = strings.ToValidUTF8(id[:1024], "")
	}
	if id == "" {
		return "x"
	}
	return id
}

func (d *dice) properties() map[string]any {
	p := map[string]any{}
	pool := pick(d, [][]string{strs, ips, uints})
	switch {
	case d.chance(80):
		p["entity_type"] = map[string]string{strs[0]: "string", ips[0]: "ip", uints[0]: "uint"}[pool[0]]
	case d.chance(70):
		p["entity_type"] = pick(d, []any{"String", "", nil, 7.0, []any{"ip"}, "IP"})
	}
	for _, member := range []string{"values", "removed_values"} {
		switch {
		case d.chance(55):
			p[member] = d.values(pool)
		case d.chance(6):
			p[member] = pick(d, []any{nil, "1.2.3.4", map[string]any{"0": "a"}, true, 1.0})
		case d.chance(10):
			p[member] = []any{}
		}
	}
	return p
}

func (d *dice) values(pool []string) []any {
	list := make([]any, 1+d.n(2))
	for i := range list {
		switch {
		case d.chance(2):
			list[i] = pick(d, []any{nil, 1.0, true, []any{"a"}, map[string]any{}})
		case d.chance(6):
			list[i] = d.text()
		case d.chance(60):
			list[i] = pool[d.n(min(len(pool), 9))] // the first ones are well-formed
		case d.chance(40):
			list[i] = d.made()
		default:
			list[i] = pick(d, pool)
		}
	}
	return list
}

// made is an address, block or number nobody thought of.
func (d *dice) made() string {
	if d.chance(25) {
		return strconv.FormatUint(d.rand.Uint64()>>d.n(64), 10)
	}
	var b [16]byte
	for i := range b {
		if d.chance(50) {
			b[i] = byte(d.n(256))
		}
	}
	addr := netip.AddrFrom16(b)
	switch d.n(3) {
	case 0:
		addr = netip.AddrFrom4([4]byte(b[:4]))
	case 1:
		addr = netip.AddrFrom16(netip.AddrFrom4([4]byte(b[:4])).As16())
	}
	text := addr.String()
	if d.chance(30) {
		text = strings.ToUpper(addr.StringExpanded())
	}
	if d.chance(50) {
		bits := d.n(addr.BitLen() + 2)
		if block, err := addr.Prefix(bits); err == nil && d.chance(70) {
			text = block.Addr().String()
		}
		text += "/" + strconv.Itoa(bits)
	}
	return text
}
