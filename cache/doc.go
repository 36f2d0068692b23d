// Package cache holds in memory what a decision needs, so that a warm decision
// waits for neither SQL nor Redis: the compact table of access keys.
//
// It stands on floor 1, knows floor 0 only, and does no I/O; the store fills
// it at start and the services of authz keep it up with every change before
// they answer.
package cache
