package latchkey

# The entry rule for stock OPA.
decision := data.latchkey.entry.decision

# What policies call as latchkey.in_set(name, value): whether a value, a string
# or an integer, is in one of the customer's sets. Sets are data here,
# {"entity_type", "values": {value: true}, "blocks": [...]}.
in_set(name, value) := set_holds(data.latchkey.sets[name], set_text(name, value))

# An unknown set, or a value that is none of the set's type, is neither in nor
# out. Undefined would make "not latchkey.in_set(...)" true, so the evaluation
# is made to fail: one call has two results.
in_set(name, value) := failure if {
	not set_text(name, value)
	some failure in [true, false]
}

set_text(name, value) := data.latchkey.scopes.canonical(data.latchkey.sets[name].entity_type, value) if is_string(value)

set_text(name, value) := data.latchkey.scopes.canonical(data.latchkey.sets[name].entity_type, json.marshal(value)) if is_number(value)

default set_holds(_, _) := false

set_holds(set, text) if set.values[text]

# An address, or a block, within one of the blocks. The canonical text is
# always one that the built-in can read.
set_holds(set, text) if {
	set.entity_type == "ip"
	some block in set.blocks
	net.cidr_contains(block, text)
}

# The block of just one address.
set_holds(set, text) if {
	set.entity_type == "ip"
	regex.match(`^([^:]*/32|.*:.*/128)$`, text)
	set.values[split(text, "/")[0]]
}
