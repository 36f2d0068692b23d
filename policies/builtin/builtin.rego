package latchkey.builtin

# The policy of a customer that names none: an access key is allowed what its
# ceiling permits, any other subject nothing.
default decision := false

decision if {
	input.subject.type == "access_key"
	input.latchkey.scope_permits == true
}
