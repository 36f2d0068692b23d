package server

import (
	"strings"

	"github.com/gofiber/fiber/v2"
)

// OpenAPIRoutes lists what the server answers as "METHOD /path/{parameter}".
// Routes that answer every method alike are listed, and documented, under GET.
func OpenAPIRoutes(s *Server) (routes []string) {
	for _, r := range s.app.GetRoutes(true) {
		if strings.HasPrefix(r.Path, forwardPrefix) && r.Method != fiber.MethodGet {
			continue
		}
		routes = append(routes, r.Method+" "+openapiPath(r.Path))
	}
	return routes
}

// openapiPath turns /a/:id/* into /a/{id}/{path}.
func openapiPath(path string) string {
	var b []byte
	open := false
	for i := range len(path) {
		switch c := path[i]; {
		case c == '*':
			b, open = append(b, "{path"...), true
		case c == '\\': // of a colon that is no parameter's
		case c == ':' && i > 0 && path[i-1] == '\\':
			b = append(b, c)
		case c == ':':
			b, open = append(b, '{'), true
		case c == '/' && open:
			b, open = append(b, '}', '/'), false
		default:
			b = append(b, c)
		}
	}
	if open {
		b = append(b, '}')
	}
	return string(b)
}

// DerivedAction is what a route is called that has no action of its own.
var DerivedAction = derivedAction
