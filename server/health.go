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

// Readiness is whether decisions can be made, and why not. The zero Readiness is
// ready.
type Readiness struct {
	// Code is "", authz.NotReady (not yet) or authz.Stale (what is known may be
	// out of date).
	Code   authz.ReasonCode
	Detail string // why, for people
	// Decides says of Stale that decisions are made all the same, by the
	// operator's choice; they say so, and nothing else is answered.
	Decides bool
}

// readiness is that of the whole server at now.
func (s *Server) readiness(now latchkey.Instant) Readiness {
	if s.cfg.Ready == nil {
		return Readiness{}
	}
	return s.cfg.Ready(now)
}

// answers reports whether a call of the route can be answered.
func (rd *Readiness) answers(rt *route) bool { return rd.Code == "" || rd.Decides && rt.decides }

func (rd *Readiness) err() *latchkey.Error {
	if rd.Code == authz.Stale {
		return latchkey.Errorf(latchkey.Unavailable, string(authz.Stale), "what is known here may be out of date: %s", rd.Detail)
	}
	return latchkey.Errorf(latchkey.Unavailable, string(authz.NotReady), "not ready: %s", rd.Detail)
}

// customerReadiness is that of what is known of the caller's customer. Root is
// let through: it may be what mends it.
func (r *request) customerReadiness() Readiness {
	if r.caller.IsRoot() || r.caller.Customer == nil {
		return Readiness{}
	}
	f, _ := r.s.cfg.PDP.Freshness(r.caller.Customer, r.now)
	if f == authz.Fresh {
		return Readiness{}
	}
	return Readiness{Code: authz.Stale, Detail: "the customer's last changes could not be applied", Decides: f == authz.ServedStale}
}

// notReady answers what cannot be answered as it should be: a single decision is
// a deny, for a PEP that looks at nothing else, and all the rest 503.
func (r *request) notReady(rd *Readiness) error {
	if !r.route.single {
		return rd.err()
	}
	r.decision = authz.Decision{}
	r.decision.Undecided(rd.Code, r.now)
	r.s.metrics.decided(&r.decision) // not logged: nobody knows who asks, nor what
	r.out = appendDecision(r.out[:0], &r.decision, nil)
	return r.json(http.StatusOK)
}

// ready answers 200 while decisions can be made, by every customer's own
// policies. Where a lease says until when that is, a database that is gone for a
// moment takes no decision point out of service; where there is none, the server
// is ready only as long as changes can be recorded.
func (s *Server) ready(r *request) error {
	rd := s.readiness(r.now)
	if rd.Code == "" && s.cfg.Bundles != nil {
		if name := s.cfg.Bundles.Pending(); name != "" {
			rd = Readiness{Code: authz.NotReady, Detail: "the bundle " + name + " has not come into force yet"}
		}
	}
	if rd.Code != "" {
		return rd.err()
	}
	if s.cfg.Events != nil && !s.cfg.PDP.Leased() { // a sidecar has no database
		ctx, cancel := r.context()
		defer cancel()
		if err := s.cfg.Events.Ping(ctx); err != nil {
			return latchkey.Errorf(latchkey.Unavailable, "not_ready", "the database does not answer").Because(err)
		}
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
