package store

// Tables are those that Copy copies.
var Tables = tables
