package latchkey.entry

# What data.latchkey.decision answers to a stock OPA: the same as latchkey's
# POST /decision. The input is that request, and beside it in input.latchkey
# what latchkey would look up:
#
#   key     of an access_key subject: {"scopes", "expires_at", "revoked_at"},
#           and its "metadata" where policies read it; the times are RFC 3339,
#           or null
#   grants  those of the subject: {"id", "entitlement", "reason", "not_before",
#           "expires_at", "revoked_at"}, and "entries"; without them, only such
#           as cover the question
#
# Whatever is missing or cannot be read denies.
decision := answer(false, "deny", refused, []) if {
	count(refused) > 0
} else := answer(builtin_allows, word(builtin_allows), builtin_reasons, []) if {
	policy_name == ""
} else := object.union(
	answer(outcome.allow, outcome.action, policy_reasons, outcome.obligations),
	{"context": {"policy": {"name": policy_name, "version": data.latchkey.bundle.policies[policy_name].version}}},
) if {
	policy_known
} else := answer(false, "deny", [policy_reason("policy_error", {"failure": "unusable"})], [])

answer(allow, action, reasons, obligations) := {
	"decision": allow,
	"context": {"action": action, "reasons": reasons, "obligations": obligations},
}

word(allow) := {true: "allow", false: "deny"}[allow]

# Before any policy: the request, the key, the ceiling.
refused := [{"code": "invalid_request"}] if {
	not well_formed
} else := [{"code": "policy_not_found"}] if {
	input.policy
	not policy_known
} else := [{"code": "subject_not_allowed"}] if {
	is_key
	startswith(input.subject.id, "lkr1_") # the root key is nobody's subject
} else := [key_reason("key_unknown", {})] if {
	is_key
	not key_given
} else := [key_reason("key_revoked", {})] if {
	is_key
	not unrevoked
} else := [key_reason("key_expired", {})] if {
	is_key
	not unexpired
} else := [key_reason("subject_not_allowed", {})] if {
	is_key
	input.latchkey.key.scopes.customer.sidecar
} else := [key_reason("value_not_permitted", refused_indexes)] if {
	is_key
	not under_ceiling
	values_refused
} else := [key_reason("scope_missing", {})] if {
	is_key
	not under_ceiling
} else := []

well_formed if {
	every text in [input.subject.type, input.subject.id, input.action.name, input.resource.type, input.resource.id] {
		is_string(text)
		text != ""
	}
	is_object(object.get(input, "context", {}))
	is_object(object.get(input.subject, "properties", {}))
	is_object(object.get(input.resource, "properties", {}))
	is_object(object.get(input.action, "properties", {}))
	not confusable
}

# A type that only looks like access_key would be a subject without a ceiling.
confusable if {
	input.subject.type != "access_key"
	regex.replace(lower(input.subject.type), `[\p{Pd}\p{Pc}\s\p{Z}\p{Cf}]`, "") == "accesskey"
}

is_key if input.subject.type == "access_key"

key_given if {
	is_object(input.latchkey.key)
	is_object(input.latchkey.key.scopes)
	input.latchkey.key.expires_at != "" # there at all
	input.latchkey.key.revoked_at != ""
}

unexpired if ahead(input.latchkey.key.expires_at)

unrevoked if ahead(input.latchkey.key.revoked_at)

# ahead is true of null, and of a time that has not come.
ahead(at) if at == null

ahead(at) if {
	is_string(at)
	regex.match(timestamp, at)
	to_number(substring(at, 0, 4)) < 2262
	time.now_ns() < time.parse_rfc3339_ns(at)
}

# Nanoseconds end in 2262.
ahead(at) if {
	is_string(at)
	regex.match(timestamp, at)
	to_number(substring(at, 0, 4)) >= 2262
}

timestamp := `^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$`

key_reason(code, more) := object.union({"code": code, "source": "access_key", "id": input.subject.id}, more)

# What key, scopes and grants say.
default scope_permits := false

scope_permits if {
	is_key
	data.latchkey.scopes.permits(input.latchkey.key.scopes, input)
}

live_grants := [grant |
	some grant in object.get(object.get(input, "latchkey", {}), "grants", [])
	ahead(object.get(grant, "expires_at", null))
	begun(object.get(grant, "not_before", null))
	object.get(grant, "revoked_at", null) == null
	covers(grant)
]

covers(grant) if object.get(grant, "entries", "none") == "none"

covers(grant) if count(grant_entries(grant)) > 0

# The entries of a grant that permit, by their places in the list.
grant_entries(grant) := {i: entry |
	some i, entry in grant.entries[input.resource.type]
	matches(entry)
}

begun(at) if at == null

begun(at) if {
	regex.match(timestamp, at)
	to_number(substring(at, 0, 4)) < 2262
	time.parse_rfc3339_ns(at) <= time.now_ns()
}

under_ceiling if scope_permits

under_ceiling if count(live_grants) > 0

granting := [{
	"code": "scope_permits", "source": "access_key", "id": input.subject.id,
	"entry": i, "selector": entry.f, "permission": input.action.name,
} |
	scope_permits
	some i, entry in input.latchkey.key.scopes.customer[input.resource.type]
	matches(entry)
	contributes(entry)
]

matches(entry) if {
	data.latchkey.scopes.selects(entry.f, input.resource.id)
	data.latchkey.scopes.permits_action(entry, input.action.name)
}

contributes(_) if data.latchkey.scopes.not_a_write_to_a_set(input)

contributes(entry) if {
	data.latchkey.scopes.writes_to_a_set(input)
	data.latchkey.scopes.given(input.resource) == []
	object.get(entry, "r", "none") == "none"
}

contributes(entry) if {
	data.latchkey.scopes.writes_to_a_set(input)
	entity_type := input.resource.properties.entity_type
	some value in data.latchkey.scopes.given(input.resource)
	data.latchkey.scopes.admits([entry], entity_type, data.latchkey.scopes.canonical(entity_type, value))
}

# A write to a set that some entry permits but for its values.
values_refused if {
	data.latchkey.scopes.writes_to_a_set(input)
	count(data.latchkey.scopes.matching(input.latchkey.key.scopes, input)) > 0
}

refused_indexes := object.union({"indexes": indexes("values")}, removed_indexes)

removed_indexes := {"removed_indexes": indexes("removed_values")} if {
	count(indexes("removed_values")) > 0
} else := {}

indexes(member) := [i |
	readable
	some i, value in object.get(object.get(input.resource, "properties", {}), member, [])
	not admitted(value)
]

readable if count(data.latchkey.scopes.given(input.resource)) > 0

admitted(value) if {
	entity_type := input.resource.properties.entity_type
	entries := data.latchkey.scopes.matching(input.latchkey.key.scopes, input)
	data.latchkey.scopes.admits(entries, entity_type, data.latchkey.scopes.canonical(entity_type, value))
}

granted := [reason |
	some grant in live_grants
	some reason in grant_reasons(grant)
]

grant_reasons(grant) := [grant_reason(grant, {})] if {
	object.get(grant, "entries", "none") == "none"
} else := [grant_reason(grant, {"entry": i, "selector": entry.f, "permission": input.action.name}) |
	some i, entry in grant_entries(grant)
]

grant_reason(grant, more) := object.union({"code": "grant_permits", "source": "grant", "id": object.get(grant, "id", "")}, more)

# What a key's ceiling rests on; nobody else has one.
default ceiling_reasons := []

ceiling_reasons := array.concat(granting, granted) if is_key

# The built-in policy: a key is allowed what its ceiling permits, which was
# asked above; anybody else what a grant covers.
default builtin_allows := false

builtin_allows if under_ceiling

builtin_reasons := array.concat(granting, granted) if {
	builtin_allows
} else := [{"code": "no_grant"}]

# The policy that is asked.
policy_name := object.get(input, "policy", data.latchkey.bundle.default_policy)

policy_known if data.latchkey.bundle.policies[policy_name]

# A policy sees the request as latchkey shows it: properties and context are
# always objects, the subject's secret is gone, and a key's metadata is its own.
visible := {
	"subject": {"type": input.subject.type, "id": input.subject.id, "properties": subject_properties},
	"action": {"name": input.action.name, "properties": object.get(input.action, "properties", {})},
	"resource": {"type": input.resource.type, "id": input.resource.id, "properties": object.get(input.resource, "properties", {})},
	"context": object.get(input, "context", {}),
	"latchkey": {
		"scope_permits": scope_permits,
		"grants": [object.filter(grant, ["id", "entitlement", "reason", "not_before", "expires_at"]) | some grant in live_grants],
		"now": time.format([time.now_ns(), "UTC", "2006-01-02T15:04:05.999999Z07:00"]),
	},
}

subject_properties := object.get(input.subject, "properties", {}) if {
	not is_key
} else := object.union(
	object.remove(object.get(input.subject, "properties", {}), ["key", "metadata"]),
	object.filter(input.latchkey.key, ["metadata"]),
)

# The name is bound first: inside "with" the input has none.
decided := [result |
	name := policy_name
	result := data.policies[name].decision with input as visible
]

allowed := [result |
	name := policy_name
	result := data.policies[name].allow with input as visible
]

outcome := plain(result) if {
	[result] := array.concat(decided, allowed)
	is_boolean(result)
} else := full(result) if {
	[result] := array.concat(decided, allowed)
	is_boolean(result.allow)
	object.keys(result) - {"allow", "action", "reasons", "obligations"} == set()
	fits(result.allow, object.get(result, "action", word(result.allow)))
	is_list(object.get(result, "reasons", []))
	is_list(object.get(result, "obligations", []))
	count(object.get(result, "obligations", [])) <= 32
	every obligation in object.get(result, "obligations", []) {
		is_object(obligation)
	}
} else := failed("undefined") if {
	count(decided) + count(allowed) == 0
} else := failed("two_results")

fits(allow, action) if action == word(allow)

fits(_, action) if {
	is_string(action)
	not action in {"allow", "deny"}
	regex.match(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$`, action)
}

is_list(value) if is_array(value)

is_list(value) if is_set(value)

plain(allow) := {"allow": allow, "action": word(allow), "reasons": [policy_reason("policy_rule", {})], "obligations": []}

full(result) := object.union(plain(result.allow), object.union(
	object.filter(result, ["action", "obligations"]),
	own_reasons([reason | some reason in object.get(result, "reasons", [])]),
))

own_reasons(list) := {"reasons": [policy_reason("policy_rule", {"detail": reason}) | some reason in list]} if {
	count(list) > 0
} else := {}

failed(why) := {"allow": false, "action": "deny", "reasons": [policy_reason("policy_error", {"failure": why})], "obligations": []}

policy_reason(code, more) := object.union({"code": code, "source": "policy", "id": policy_name}, more)

# What the scopes permit is a reason to allow, and none to deny. A policy that
# cannot be evaluated here says only that.
policy_reasons := [policy_reason("policy_not_portable", {})] if {
	not data.latchkey.bundle.policies[policy_name].portable
} else := array.concat(ceiling_reasons, outcome.reasons) if {
	outcome.allow
} else := outcome.reasons
