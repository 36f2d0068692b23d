package server

// OpenAPIRoutes lists what the server answers as "METHOD /path/{parameter}".
func OpenAPIRoutes(s *Server) (routes []string) {
	for _, r := range s.app.GetRoutes(true) {
		routes = append(routes, r.Method+" "+openapiPath(r.Path))
	}
	return routes
}

// openapiPath turns /a/:id/b into /a/{id}/b.
func openapiPath(path string) string {
	var b []byte
	open := false
	for i := range len(path) {
		switch c := path[i]; {
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
