// Package tasks keeps what customers let run when something happens to a request
// for access: scripts, and requests to URLs; the secrets that scripts read; and
// every run, with what became of it.
//
// A run is made from an event of the audit trail, after its commit, by a cursor:
// once for each event and task, and run until it has ended. A template may want a
// task to succeed before an approval; then it is run before the change.
//
// It stands on floor 0: it decides on values, and reaches I/O through its ports.
// Package notify runs scripts and sends, package store keeps the rows.
package tasks
