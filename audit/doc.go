// Package audit records what happened, so that nobody can quietly change it
// afterwards.
//
// Every change to a customer's records is one [Event] with the customer's next
// sequence number, written in the transaction of the change itself. The
// events of a customer form a hash chain: each holds the hash of the one
// before, and the chain's [Head] is MACed with a key that lies outside the
// database, so that [Verify] names a row that was edited, removed, moved, or
// cut off the end.
//
// The package holds values only and stands on floor 0: it imports the root
// package and the strict JSON encoder, and knows neither SQL nor HTTP.
package audit
