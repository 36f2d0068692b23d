# The question as latchkey answers it, for an OPA of its own: may this access
# key do this to that, now? data.keys holds each key under its id: its scopes
# as latchkey is given them, when it ends in nanoseconds, and whether it was
# revoked.
package latchkey

# decision is yes or no. Its two rules are one thought: an entry permits by its
# mask, or by a list of actions. They are written out, which OPA evaluates
# faster than helper functions.
default decision := false

decision if {
	input.subject.type == "access_key"
	key := data.keys[input.subject.id]
	not key.revoked
	time.now_ns() < key.expires_at
	some entry in key.scopes.customer[input.resource.type]
	input.action.name in actions[entry.p]
	selects(entry.f, input.resource.id)
}

decision if {
	not input.action.name in actions[15]
	input.subject.type == "access_key"
	key := data.keys[input.subject.id]
	not key.revoked
	time.now_ns() < key.expires_at
	some entry in key.scopes.customer[input.resource.type]
	some given in entry.a
	given in {input.action.name, "*"}
	selects(entry.f, input.resource.id)
}

selects(selector, id) if selector == id

selects(selector, id) if {
	endswith(selector, "*")
	startswith(id, trim_suffix(selector, "*"))
}

# actions are those of each mask of permissions, the implied read included.
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

# answer says also why, as latchkey's answer does.
answer := {"decision": count(reasons) > 0, "context": {"reasons": reasons}}

reasons := [reason |
	input.subject.type == "access_key"
	key := data.keys[input.subject.id]
	not key.revoked
	time.now_ns() < key.expires_at
	some index, entry in key.scopes.customer[input.resource.type]
	permits(entry, input.action.name)
	selects(entry.f, input.resource.id)
	reason := {
		"code": "scope_permits", "source": "access_key", "id": input.subject.id,
		"entry": index, "selector": entry.f, "permission": input.action.name,
	}
]

permits(entry, action) if action in actions[entry.p]

permits(entry, action) if {
	some given in entry.a
	given in {action, "*"}
	not action in actions[15]
}
