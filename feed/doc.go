// Package feed holds what the nodes of a fleet tell each other: records of keys,
// subjects and resources, messages that say which records a change touched, and
// heartbeats that say how far the changes go. All of it is signed by a control
// plane; what carries it (Redis, HTTP) is not trusted.
//
// A customer's changes are numbered without gaps. A node follows them in this
// order and remembers in a Window which records they touched, so that a record
// read before a change is never taken for one read after it. A Lease says until
// when a node may go on without word from a control plane.
//
// The package is pure and stands on floor 0: values in, values out; the time
// comes in as an argument.
package feed
