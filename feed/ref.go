package feed

import "strconv"

// Kind tells records apart.
type Kind string

// Kinds of what a change touches. Records exist of the first four.
const (
	Key      Kind = "key"      // an access key, with its secrets and grants; ID is the key's id
	Secret   Kind = "secret"   // the same record, found by a kid
	Subject  Kind = "subject"  // grants and stored properties of any other subject
	Resource Kind = "resource" // stored properties of a resource
	Policy   Kind = "policy"   // ID is the record's
	Set      Kind = "set"      // ID is the record's
	Customer Kind = "customer" // the customer's own record, its default policy in it
	Type     Kind = "type"     // a resource type's catalogue of actions
	Root     Kind = "root"     // the root key; on the system chain
	Request  Kind = "request"  // an access request: who waits for it looks again
)

// Ref names something that a change can touch, within a customer.
type Ref struct {
	Kind Kind   `json:"kind"`
	Type string `json:"type,omitempty"` // of a subject or a resource
	ID   string `json:"id"`
}

// String is the name as one text; no two refs have the same.
func (r Ref) String() string {
	b := append([]byte(r.Kind), ':')
	b = strconv.AppendInt(b, int64(len(r.Type)), 10)
	b = append(append(b, ':'), r.Type...)
	b = append(append(b, ':'), r.ID...)
	return string(b)
}
