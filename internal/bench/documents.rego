# Who may do what to a document: roles within a team, owners, and what is
# public. The same text is latchkey's policy and OPA's module.
package policies.documents

rights := {
	"viewer": {"read"},
	"commenter": {"read", "comment"},
	"editor": {"read", "comment", "update"},
	"lead": {"read", "comment", "update", "share", "delete"},
}

default allow := false

allow if {
	input.resource.properties.team == input.subject.properties.team
	some role in input.subject.properties.roles
	input.action.name in rights[role]
	not sealed
}

allow if {
	input.resource.properties.owner == input.subject.id
	not sealed
}

allow if {
	input.action.name == "read"
	input.resource.properties.classification == "public"
}

# Nothing is done to a document under legal hold.
sealed if {
	input.action.name != "read"
	input.resource.properties.hold == true
}
