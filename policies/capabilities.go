package policies

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// pure lists the built-ins that a policy may call: each answers from its
// arguments alone. Left out is what reaches the network (http.send,
// net.lookup_ip_addr), the host (opa.runtime) or chance (rand.intn,
// uuid.rfc4122); what handles keys and certificates; what turns a few bytes of
// argument into any amount of memory or time, which a deadline cannot stop
// (bits.lsh, numbers.range, strings.render_template); and what is deprecated.
// time.now_ns is in because every evaluation is given its time.
const pure = `
abs and array.concat array.flatten array.reverse array.slice assign
base64.decode base64.encode base64.is_valid base64url.decode base64url.encode base64url.encode_no_pad
bits.and bits.negate bits.or bits.rsh bits.xor
ceil concat contains count
crypto.hmac.equal crypto.hmac.sha256 crypto.hmac.sha512 crypto.md5 crypto.sha1 crypto.sha256
div endswith eq equal floor format_int glob.match glob.quote_meta graph.reachable
gt gte hex.decode hex.encode indexof indexof_n
internal.member_2 internal.member_3 internal.print internal.template_string intersection
is_array is_boolean is_null is_number is_object is_set is_string
json.filter json.is_valid json.marshal json.remove json.unmarshal
lower lt lte max min minus mul neq
net.cidr_contains net.cidr_contains_matches net.cidr_expand net.cidr_intersects net.cidr_is_valid net.cidr_merge
object.filter object.get object.keys object.remove object.subset object.union object.union_n
or plus print product
regex.find_all_string_submatch_n regex.find_n regex.is_valid regex.match regex.replace regex.split
rem replace round semver.compare semver.is_valid sort split sprintf startswith
strings.any_prefix_match strings.any_suffix_match strings.count strings.replace_n strings.reverse
substring sum
time.add_date time.clock time.date time.diff time.format time.now_ns time.parse_duration_ns time.parse_ns
time.parse_rfc3339_ns time.weekday
to_number trim trim_left trim_prefix trim_right trim_space trim_suffix type_name
union units.parse units.parse_bytes upper uri.is_valid uri.parse
urlquery.decode urlquery.decode_object urlquery.encode urlquery.encode_object uuid.parse walk
`

// Capabilities returns what Rego may use here: this OPA's language with the
// built-ins that are pure, and no network. Compilers keep the value they are
// given, so each call makes a fresh one.
func Capabilities() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	allowed := strings.Fields(pure)
	c.Builtins = slices.DeleteFunc(slices.Clone(c.Builtins), func(b *ast.Builtin) bool {
		return !slices.Contains(allowed, b.Name)
	})
	c.AllowNet = []string{} // nil would allow all
	return c
}
