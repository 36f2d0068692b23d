package server

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/gofiber/fiber/v2"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// statuses maps every kind of error to its status; a kind that is missing here
// is 500.
var statuses = map[latchkey.Kind]int{
	latchkey.Internal:           http.StatusInternalServerError,
	latchkey.Invalid:            http.StatusBadRequest,
	latchkey.Unauthenticated:    http.StatusUnauthorized,
	latchkey.Forbidden:          http.StatusForbidden,
	latchkey.NotFound:           http.StatusNotFound,
	latchkey.MethodNotAllowed:   http.StatusMethodNotAllowed,
	latchkey.Conflict:           http.StatusConflict,
	latchkey.PreconditionFailed: http.StatusPreconditionFailed,
	latchkey.TooLarge:           http.StatusRequestEntityTooLarge,
	latchkey.UnsupportedMedia:   http.StatusUnsupportedMediaType,
	latchkey.Unprocessable:      http.StatusUnprocessableEntity,
	latchkey.TooManyRequests:    http.StatusTooManyRequests,
	latchkey.Unavailable:        http.StatusServiceUnavailable,
	latchkey.TaskFailed:         http.StatusBadGateway,
	latchkey.TaskTimeout:        http.StatusGatewayTimeout,
}

// status is the table above, but for the one code whose status the access-key document fixes.
func (s *Server) status(e *latchkey.Error) int {
	if e.Kind == latchkey.LimitReached {
		return s.cfg.TooManyKeysStatus
	}
	if status, ok := statuses[e.Kind]; ok {
		return status
	}
	return http.StatusInternalServerError
}

// classify makes an Error of any error: what nobody classified is Internal and
// says nothing to the outside.
func classify(err error) *latchkey.Error {
	if e, ok := errors.AsType[*latchkey.Error](err); ok {
		if e.Kind == latchkey.Internal {
			return latchkey.Errorf(latchkey.Internal, "internal_error", "the request could not be answered").Because(err)
		}
		return e
	}
	return latchkey.Errorf(latchkey.Internal, "internal_error", "the request could not be answered").Because(err)
}

// refuse writes the error as the reply.
func (r *request) refuse(err error) *latchkey.Error {
	e := classify(err)
	if r.route != nil && r.route.jobs && saysSo(e.Kind) {
		r.refuseJob(e)
		return e
	}
	status := r.s.status(e)
	h := &r.c.Response().Header
	switch status {
	case http.StatusUnauthorized:
		challenge := `Bearer realm="latchkey"`
		if r.c.Request().Header.Peek(fiber.HeaderAuthorization) != nil {
			challenge += `, error="invalid_token"`
		}
		h.Set(fiber.HeaderWWWAuthenticate, challenge)
	case http.StatusForbidden:
		h.Set(fiber.HeaderWWWAuthenticate, `Bearer realm="latchkey", error="insufficient_scope"`)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		h.Set(fiber.HeaderRetryAfter, "1")
	}
	r.out = r.out[:0]
	contentType := "application/problem+json"
	if r.authzen() {
		contentType = fiber.MIMEApplicationJSON
		r.out = strictjson.AppendString(r.out, public(e.Public))
	} else {
		r.out = appendProblem(r.out, e, status, r.path(), r.id)
	}
	r.flush(status, contentType)
	return e
}

// authzen reports whether refusals have AuthZEN's form: on its paths, whether
// or not there is a route.
func (r *request) authzen() bool {
	if r.route != nil {
		return r.route.authzen
	}
	return strings.HasPrefix(r.c.Path(), "/access/v1/")
}

// appendProblem appends a problem document (RFC 9457).
func appendProblem(b []byte, e *latchkey.Error, status int, instance, id string) []byte {
	text := func(name, value string) {
		b = append(strictjson.AppendString(b, name), ':')
		b = append(strictjson.AppendString(b, public(value)), ',')
	}
	b = append(b, '{')
	text("type", "urn:latchkey:problem:"+e.Code)
	text("title", http.StatusText(status))
	b = append(b, `"status":`...)
	b = append(strconv.AppendInt(b, int64(status), 10), ',')
	text("detail", e.Public)
	text("instance", instance)
	text("code", e.Code)
	text("request_id", id)
	b = append(b, `"errors":[`...)
	for i, f := range e.Faults {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		text("pointer", f.Pointer)
		text("code", f.Code)
		text("detail", f.Detail)
		if f.Line > 0 {
			b = append(strconv.AppendInt(append(b, `"line":`...), int64(f.Line), 10), `,"column":`...)
			b = append(strconv.AppendInt(b, int64(f.Column), 10), ',')
		}
		b[len(b)-1] = '}'
	}
	return append(b, `]}`...)
}

// public is a text of a refusal as it may be sent: what it repeats of the
// request, a member's name say, may be a credential.
func public(s string) string { return authz.Redact(strings.ToValidUTF8(s, "\uFFFD")) }

// unrouted answers what reaches no route of ours: unknown paths, wrong
// methods, and what fasthttp refused while reading. It repeats nothing of the
// request, whose text may be half of anything.
func (s *Server) unrouted(c *fiber.Ctx, err error) error {
	e := latchkey.Errorf(latchkey.Internal, "internal_error", "the request could not be answered").Because(err)
	if fe, ok := errors.AsType[*fiber.Error](err); ok {
		switch fe.Code {
		case http.StatusNotFound:
			e = latchkey.Errorf(latchkey.NotFound, "route_not_found", "there is nothing at this path")
		case http.StatusMethodNotAllowed:
			e = latchkey.Errorf(latchkey.MethodNotAllowed, "method_not_allowed", "this path does not answer to that method")
		case http.StatusRequestEntityTooLarge:
			e = latchkey.Errorf(latchkey.TooLarge, "body_too_large", "the body is over the limit of this path")
		case http.StatusRequestHeaderFieldsTooLarge:
			return s.bare(c, fe.Code, "headers_too_large", "the request line and headers are over "+strconv.Itoa(s.headLimit()>>10)+" KiB")
		case http.StatusRequestTimeout:
			return s.bare(c, fe.Code, "request_timeout", "the request did not arrive in time")
		default:
			e = latchkey.Errorf(latchkey.Invalid, "malformed_request", "the request is not well-formed HTTP")
		}
	}
	r := s.acquire(c, nil)
	defer s.release(r)
	_ = r.refuse(e)
	s.metrics.unrouted.Inc()
	return nil
}

func (s *Server) bare(c *fiber.Ctx, status int, code, detail string) error {
	r := s.acquire(c, nil)
	defer s.release(r)
	r.out = appendProblem(r.out[:0], latchkey.Errorf(latchkey.Invalid, code, "%s", detail), status, "", r.id)
	s.metrics.unrouted.Inc()
	r.flush(status, "application/problem+json")
	return nil
}
