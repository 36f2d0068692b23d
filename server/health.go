package server

import (
	_ "embed"
	"net/http"

	"github.com/latchkey-dev/latchkey"
)

//go:embed openapi.yaml
var openapi []byte

// live answers as long as the process can answer at all.
func (*Server) live(r *request) error {
	r.out = append(r.out[:0], `{"status":"live"}`...)
	return r.json(http.StatusOK)
}

// ready answers 200 while decisions can be made and changes recorded.
func (s *Server) ready(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	if err := s.cfg.Events.Ping(ctx); err != nil {
		return latchkey.Errorf(latchkey.Unavailable, "not_ready", "the database does not answer").Because(err)
	}
	r.out = append(r.out[:0], `{"status":"ready"}`...)
	return r.json(http.StatusOK)
}

// openapi answers the description of this API.
func (*Server) openapi(r *request) error {
	r.c.Response().Header.SetContentType("application/yaml")
	r.c.Response().SetBodyRaw(openapi)
	return nil
}
