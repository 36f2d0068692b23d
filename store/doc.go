// Package store is the only room with SQL: the record of customers, access
// keys, the root key, kept replies, and the chained events that every change
// is one transaction with.
//
// The engine is SQLite through modernc.org/sqlite: one writer, a pool of
// readers, WAL, and a full sync at every commit. SQL is written out with its
// columns; parameters are $1, $2; times are BIGINT microseconds.
//
// It stands on floor 1 and implements the ports that authz declares.
package store
