// Package people keeps the persons of a customer, the groups that they are in,
// what proves who they are, and the applications and entitlements that groups and
// templates give.
//
// It stands on floor 0: it decides on values, and reaches the database through
// the ports Record and Tx. It imports authz, audit and scopes, and knows neither
// HTTP nor SQL.
package people
