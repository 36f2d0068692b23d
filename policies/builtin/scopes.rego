package latchkey.scopes

# What a key's scopes, {"customer": {...}}, say of a decision request. The rules
# are those of the compiled matcher: rights are the OR over all entries whose
# selector matches, and nothing denies. Booleans and access_keys are no entry
# lists and permit nothing.
default permits(_, _) := false

permits(scopes, request) if {
	not_a_write_to_a_set(request)
	count(matching(scopes, request)) > 0
}

# Without values nothing is there to hold to a restriction.
permits(scopes, request) if {
	writes_to_a_set(request)
	given(request.resource) == []
	some entry in matching(scopes, request)
	object.get(entry, "r", "none") == "none"
}

# Each value needs an entry that admits it.
permits(scopes, request) if {
	writes_to_a_set(request)
	values := given(request.resource)
	count(values) > 0
	entries := matching(scopes, request)
	entity_type := request.resource.properties.entity_type
	every value in values {
		admits(entries, entity_type, canonical(entity_type, value))
	}
}

writes := {"create", "update", "delete"}

# Said without "not": whatever cannot be read is neither of the two.
writes_to_a_set(request) if {
	request.resource.type == "sets"
	request.action.name in writes
}

not_a_write_to_a_set(request) if request.resource.type != "sets"

not_a_write_to_a_set(request) if request.action.name == "read"

matching(scopes, request) := [entry |
	legal(request.resource.id)
	is_string(request.action.name)
	some entry in scopes.customer[request.resource.type]
	selects(entry.f, request.resource.id)
	permits_action(entry, request.action.name)
]

selects(selector, id) if selector == id

selects(selector, id) if {
	endswith(selector, "*")
	startswith(id, trim_suffix(selector, "*"))
}

# Actions by permission mask, the implied Read included.
actions := [
	set(),
	{"create", "read"},
	{"read"},
	{"create", "read"},
	{"read", "update"},
	{"create", "read", "update"},
	{"read", "update"},
	{"create", "read", "update"},
	{"read", "delete"},
	{"create", "read", "delete"},
	{"read", "delete"},
	{"create", "read", "delete"},
	{"read", "update", "delete"},
	{"create", "read", "update", "delete"},
	{"read", "update", "delete"},
	{"create", "read", "update", "delete"},
]

permits_action(entry, action) if action in actions[entry.p]

permits_action(entry, action) if {
	some given_action in entry.a
	given_action in {action, "*"}
	not action in actions[15]
}

admits(entries, entity_type, value) if {
	some entry in entries
	restriction := object.get(entry, "r", {})
	regex.match(object.get(restriction, "entity_type", ""), entity_type)
	regex.match(object.get(restriction, "filter", ""), value)
}
