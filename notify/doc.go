// Package notify sends what happens to places outside: decisions to the
// decision log's target. It asks some of them too: providers, who know who is on
// call, whether a request for access is approved by itself.
//
// It stands on floor 1: it imports the root package and audit, whose values it
// delivers, and knows neither records nor requests. What it is given it copies;
// it holds a bounded amount of memory, whatever its targets do.
package notify
