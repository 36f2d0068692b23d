// Package store is the only room with SQL: the record of customers, access
// keys, the root key, kept replies, and the chained events that every change
// is one transaction with.
//
// There are two engines and one text of SQL: SQLite through modernc.org/sqlite
// (one writer, a pool of readers, WAL, and a full sync at every commit), and
// PostgreSQL through pgx, where several processes may work on one record. What
// differs is in sqlite.go and postgres.go. SQL is written out with its columns;
// parameters are $1, $2; columns are TEXT, BIGINT and BLOB, texts in the order
// of their bytes; times are BIGINT microseconds.
//
// It stands on floor 1 and implements the ports that authz declares.
package store
