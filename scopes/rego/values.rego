package latchkey.scopes

# What a write to a set adds and removes, as one list; undefined where that
# cannot be read as lists.
given(resource) := array.concat(added, removed) if {
	is_object(resource)
	properties := object.get(resource, "properties", {})
	is_object(properties)
	added := object.get(properties, "values", [])
	removed := object.get(properties, "removed_values", [])
	is_array(added)
	is_array(removed)
}

# The one text by which a value is compared; undefined where it is malformed.
# Every built-in below is asked only what it can answer: a failing one would
# stop an evaluation with strict errors.
canonical("string", value) := value if legal(value)

canonical("uint", value) := value if {
	is_string(value)
	regex.match(`^(0|[1-9][0-9]{0,18})$`, value)
}

# 20 digits: of equal length, the order of the texts is that of the numbers.
canonical("uint", value) := value if {
	is_string(value)
	regex.match(`^1[0-9]{19}$`, value)
	value <= "18446744073709551615"
}

canonical("ip", value) := address(value)

canonical("ip", value) := block(value)

# An address is expanded as the block of just itself, which gives the canonical
# text and turns an IPv4-mapped address into the IPv4 one. Zones fall to the
# shape.
address(text) := canonical_text if {
	is_string(text)
	regex.match(`^[0-9A-Fa-f.:]+$`, text)
	alone := concat("/", [text, width(text)])
	net.cidr_is_valid(alone)
	some canonical_text in net.cidr_expand(alone)
}

width(text) := "128" if contains(text, ":")

width(text) := "32" if contains(text, ":") == false

# A block with host bits comes back from the merge as another text.
block(text) := canonical_text if {
	is_string(text)
	regex.match(`^[0-9A-Fa-f.:]+/(0|[1-9][0-9]{0,2})$`, text)
	[start, length] := split(text, "/")
	network := address(start)
	bits := to_number(length) - mapping(start, network)
	bits >= 0
	canonical_text := concat("/", [network, format_int(bits, 10)])
	net.cidr_is_valid(canonical_text)
	net.cidr_merge([canonical_text]) == {canonical_text}
}

# How many bits of the length belong to the IPv4-mapping prefix.
mapping(start, network) := 96 if width(start) != width(network)

mapping(start, network) := 0 if width(start) == width(network)
