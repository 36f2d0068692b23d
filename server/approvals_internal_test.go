package server

// LimitRequestWaiters lets fewer clients wait for access requests, from then on.
func (s *Server) LimitRequestWaiters(most int) { s.requestWaiters = newWaiters(most, most) }
