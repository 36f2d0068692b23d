// Package deliveries tells others of what happens to requests for access:
// webhooks, which customers set, and e-mail to the people concerned. Every
// delivery is made from an event of the audit trail, after its commit, by a
// cursor: nothing is lost, and nothing is told that did not happen.
//
// It stands on floor 0: it decides on values, which events go to whom, what is
// sent and signed, and when it is tried again. It imports authz, people, audit
// and the vault; package notify does the sending, package store keeps the rows.
package deliveries
