package scopes

import "strings"

// Permission is a bitmask of what may be done (the access-key document,
// "Permissions").
type Permission uint8

const (
	Create Permission = 1
	Read   Permission = 2
	Update Permission = 4
	Delete Permission = 8

	// AllPermissions is the greatest mask an entry can hold.
	AllPermissions = Create | Read | Update | Delete
)

// Implied returns p with Read added where p has Create, Update or Delete.
func (p Permission) Implied() Permission {
	if p&(Create|Update|Delete) != 0 {
		return p | Read
	}
	return p
}

// PermissionOf returns the bit that an action name stands for, 0 for a name
// that is not create, read, update or delete.
func PermissionOf(action string) Permission {
	switch action {
	case "create":
		return Create
	case "read":
		return Read
	case "update":
		return Update
	case "delete":
		return Delete
	}
	return 0
}

// Names lists the action names of the mask in bit order.
func (p Permission) Names() []string {
	var names []string
	for _, n := range []string{"create", "read", "update", "delete"} {
		if p&PermissionOf(n) != 0 {
			names = append(names, n)
		}
	}
	return names
}

func (p Permission) String() string { return strings.Join(p.Names(), "|") }
