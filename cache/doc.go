// Package cache holds what a decision needs near to where it is made.
//
// In memory: the compact table of access keys, the stored properties, and, of
// what does not all fit there, Records that are never older than the changes
// that are known, with the Follower that tells of those. In Redis, which is in
// this room alone: signed copies of records, the feed, and heartbeats, brought
// there by the Relay of each control plane and trusted by nobody without a look
// at the signature.
//
// It stands on floor 1 and knows floor 0 only. A warm decision waits for neither
// SQL nor Redis.
package cache
