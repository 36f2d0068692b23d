// Package access is temporary access: templates of what may be asked for,
// requests, the people who decide on them, and the one state machine that a
// request goes through. What is approved becomes a grant of package authz.
//
// It stands on floor 0: it decides on values, and reaches the database, on-call
// providers and tasks through ports. It imports people, authz, policies, audit and
// scopes, and knows neither HTTP nor SQL.
package access
