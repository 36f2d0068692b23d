package server

import (
	_ "embed"
	"net/http"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
)

//go:embed openapi.yaml
var openapi []byte

// live answers as long as the process can answer at all.
func (*Server) live(r *request) error {
	r.out = append(r.out[:0], `{"status":"live"}`...)
	return r.json(http.StatusOK)
}

// waiting is what the server is not ready for want of, "" when it is ready.
func (s *Server) waiting() string {
	if s.cfg.Ready == nil {
		return ""
	}
	return s.cfg.Ready()
}

func errNotReady(waiting string) error {
	return latchkey.Errorf(latchkey.Unavailable, "not_ready", "not ready: %s", waiting)
}

// notReady answers what comes before the server is ready: a single decision is
// a deny, for a PEP that looks at nothing else, and all the rest 503.
func (r *request) notReady(waiting string) error {
	if !r.route.single {
		return errNotReady(waiting)
	}
	r.decision = authz.Decision{}
	r.decision.NotReady(r.now)
	r.s.metrics.decided(&r.decision) // not logged: nobody knows who asks, nor what
	r.out = appendDecision(r.out[:0], &r.decision, nil)
	return r.json(http.StatusOK)
}

// ready answers 200 while decisions can be made, by every customer's own
// policies, and changes recorded.
func (s *Server) ready(r *request) error {
	if waiting := s.waiting(); waiting != "" {
		return errNotReady(waiting)
	}
	if s.cfg.Bundles != nil {
		if name := s.cfg.Bundles.Pending(); name != "" {
			return errNotReady("the bundle " + name + " has not come into force yet")
		}
	}
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
