package latchkey

# What policies call as latchkey.in_set(name, value): whether a value, a string
# or an integer, is in one of the customer's sets. Sets are data here,
# {"entity_type", "values": {value: true}, "blocks": [...]}.
default in_set(_, _) := false

in_set(name, value) if {
	members := data.latchkey.sets[name]
	canonical := data.latchkey.scopes.canonical(members.entity_type, as_text(value))
	members.values[canonical]
}

# An address, or a block, within one of the blocks. The canonical text is
# always one that the built-in can read.
in_set(name, value) if {
	members := data.latchkey.sets[name]
	members.entity_type == "ip"
	canonical := data.latchkey.scopes.canonical("ip", as_text(value))
	some block in members.blocks
	net.cidr_contains(block, canonical)
}

as_text(value) := value if is_string(value)

as_text(value) := format_int(value, 10) if {
	is_number(value)
	floor(value) == value
}
