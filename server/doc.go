// Package server speaks HTTP: the only room with Fiber.
//
// Every route is declared once, in routes.go, with what it needs (a
// credential, a right, a body), and every request goes the same way: request
// id, credential, right by name, content type, strict JSON, handler, and one
// reply, a problem document (RFC 9457) where it is a refusal. Handlers bind,
// call a service of authz, and reply; *fiber.Ctx does not leave this package.
//
// It stands on floor 2 and reaches the database through the small port that it
// declares ([Events]) and the services of authz.
package server
