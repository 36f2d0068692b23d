package latchkey.builtin

import data.latchkey.grants

# The policy of a customer that names none: an access key is allowed what its
# ceiling permits, its scopes or a live grant; any other subject what a live
# grant covers.
default decision := false

decision if {
	input.subject.type == "access_key"
	input.latchkey.scope_permits == true
}

decision if {
	is_string(input.subject.type)
	grants.permits
}
