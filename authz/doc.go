// Package authz decides: who is calling, what their key may do, and whether a
// subject may do this to that, now.
//
// [Authenticator] turns a presented token into a [Caller]; [Keys], [Customers]
// and [RootKey] are the services that change what latchkey stores, each change
// one transaction with its event; [PDP] answers decision requests from the
// in-memory key table alone.
//
// The package stands on floor 0. It decides on values and reaches I/O through
// the small ports that it declares ([Record], [KeyTable]); it imports scopes,
// audit and policies, never store, cache or server.
package authz
