// Package forward reads the requests that proxies ask about: which resource
// and action a request of theirs stands for, by the operator's routes.
//
//	routes, err := forward.ParseRoutes(text)
//	path, ok := forward.ParsePath("/orders/7?full=1")
//	target, ok := routes.Match("acme", "GET", "api.example.com", path)
//	// target: {Type: "order", ID: "7", Action: "read"}
//
// A path is percent-decoded once. What a proxy, latchkey and the server behind
// could read differently is no path at all, and denied: latchkey decides about
// one resource, and the server must not serve another.
//
// The package is pure and stands on floor 0: it imports nothing of ours but the
// ground, and does no I/O. Routes are immutable and safe for concurrent use.
package forward
