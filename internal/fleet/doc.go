// Command fleet starts a whole fleet on this machine (PostgreSQL, Redis, two
// control planes, four sidecars: the topology of deploy/compose.yaml), puts load
// on it, breaks parts of it, and says whether the project's goals are met.
//
//	go run ./internal/fleet                       revocation, expiry, outages: at most five minutes
//	go run ./internal/fleet -small                the same in half a minute, of less worth as figures
//	go run ./internal/fleet -large                a million keys and a million grants
//	go run ./internal/fleet -write FILE           writes the page as Markdown too
//
// Its tests run the small form, and break real servers in ways of their own.
//
// The package stands beside the house: nothing imports it.
package main
