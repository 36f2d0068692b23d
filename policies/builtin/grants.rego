package latchkey.grants

# Whether a live grant covers the question: input.latchkey.grants holds those
# that do, and no others.
default permits := false

permits if {
	is_array(input.latchkey.grants)
	count(input.latchkey.grants) > 0
}
