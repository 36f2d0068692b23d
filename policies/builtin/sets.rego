package latchkey

# Whether a value is in the set of that name, for a set of addresses in one of
# its blocks. The name is a string literal; the value is a string or an integer.
in_set(name, value) := latchkey_in_set(name, value)
