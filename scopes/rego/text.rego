package latchkey.scopes

# Text of at most 1 KiB without U+0000. The limit is in bytes, while count()
# alone would count characters.
legal(text) if {
	is_string(text)
	contains(text, "\u0000") == false
	count(hex.encode(text)) <= 2048
}
