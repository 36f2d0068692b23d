package server

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unsafe"

	"github.com/gofiber/fiber/v2"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// route declares one route: what it needs, and who answers it.
type route struct {
	method, path string
	// action names what the route does, for the events of refusals; where it is
	// empty it is derived: "POST /v1/access_keys" is access_key.create.
	action   string
	open     bool          // needs no credential
	local    bool          // a sidecar answers it itself
	forward  bool          // a proxy asks about somebody else's request
	decision bool          // logs failures and a sample only
	decides  bool          // answers by decisions, which say what they rest on; derived from the action
	single   bool          // answers one decision
	authzen  bool          // errors are AuthZEN's JSON strings
	jobs     bool          // answers in the envelope of jobs
	query    bool          // reads the query; without it any parameter is a fault
	ended    bool          // root may act in a customer that has ended
	change   bool          // changes records: root must name the customer once there are two
	system   bool          // is not about a customer
	body     string        // content type; "" for none
	bodyless bool          // a request may come without one all the same
	both     bool          // answered under /api, too
	deadline time.Duration // of everything that waits
	may      func(*authz.Caller) error
	named    func(*authz.Caller, string) error // the same of the path's name, where that counts
	handle   func(*request) error
	observe  observers
}

func (s *Server) acquire(c *fiber.Ctx, rt *route) *request {
	r := s.pool.Get().(*request)
	r.c, r.route, r.start = c, rt, s.cfg.Now()
	r.now = latchkey.InstantOf(r.start)
	r.readHead()
	r.identify()
	c.Response().Header.SetCanonical(requestIDName, append(r.out[:0], r.id...))
	return r
}

// wallClock is the clock of deadlines, which are the kernel's to keep.
func wallClock() time.Time { return time.Now() }

func (s *Server) release(r *request) {
	r.reset()
	s.pool.Put(r)
}

// mount makes a Fiber handler of the route: the one way of every request.
func (s *Server) mount(app *fiber.App, rt *route) {
	if rt.deadline == 0 {
		rt.deadline = 10 * time.Second
	}
	if rt.action == "" {
		rt.action = derivedAction(rt.method, rt.path)
	}
	rt.decides = strings.HasPrefix(rt.action, "decision.")
	rt.observe = s.metrics.route(rt.method, rt.path)
	handler := func(c *fiber.Ctx) error {
		r := s.acquire(c, rt)
		defer s.release(r)
		var refused *latchkey.Error
		if err := r.run(); err != nil {
			refused = r.refuse(err)
			r.noteRefusal(refused)
		}
		status := c.Response().StatusCode()
		took := time.Since(r.start)
		counted := class(status)
		if refused != nil && refused.Kind == latchkey.LimitReached {
			counted = class(fiber.StatusConflict) // whatever its status, no fault of the server
		}
		rt.observe.seconds[counted].Observe(took.Seconds())
		r.log(status, took, refused)
		if s.cfg.Tracer != nil {
			r.trace(status, took, refused)
		}
		return nil
	}
	path := fiberPath(rt.path)
	switch rt.method {
	case anyMethod:
		app.All(path, handler)
	case fiber.MethodGet: // the same without the body
		app.Add(fiber.MethodHead, path, handler)
		fallthrough
	default:
		app.Add(rt.method, path, handler)
	}
}

// fiberPath escapes a colon that begins no parameter, as in
// /v1/resources:bulkUpdate.
func fiberPath(path string) string {
	var b []byte
	for i := range len(path) {
		if path[i] == ':' && path[i-1] != '/' {
			b = append(b, '\\')
		}
		b = append(b, path[i])
	}
	return string(b)
}

func (r *request) run() (err error) {
	defer func() {
		// A bug must not end the process, nor leak what it was about.
		if p := recover(); p != nil {
			r.s.metrics.panics.Inc()
			r.s.cfg.Log.Error("panic", "route", r.route.path, "request_id", r.id, "panic", p, "stack", stack())
			err = latchkey.Errorf(latchkey.Internal, "internal_error", "the request could not be answered")
		}
	}()
	if r.route.forward { // nothing of the request is the caller's own but one header
		return r.route.handle(r)
	}
	if err := r.noCredentialInQuery(); err != nil {
		return err
	}
	if !r.route.open {
		if rd := r.s.readiness(r.now); !rd.answers(r.route) { // who asks cannot be told
			return r.notReady(&rd)
		}
		if err := r.authenticate(); err != nil {
			return err
		}
		if rd := r.customerReadiness(); !rd.answers(r.route) {
			return r.notReady(&rd)
		}
		if err := r.route.may(&r.caller); err != nil {
			return err
		}
		if r.route.named != nil {
			if err := r.route.named(&r.caller, r.param("name")); err != nil {
				return err
			}
		}
		if !r.route.query && !r.route.authzen && !r.route.jobs && len(r.c.Context().URI().QueryString()) > 0 {
			if err := r.query().err(); err != nil {
				return err
			}
		}
	}
	if r.route.body != "" {
		if err := r.readBody(); err != nil {
			return err
		}
	}
	return r.route.handle(r)
}

// noCredentialInQuery refuses a key in the URL, where every proxy logs it.
func (r *request) noCredentialInQuery() error {
	raw := r.c.Context().URI().QueryString() // as sent
	if len(raw) == 0 {
		return nil
	}
	if credentialIn(string(raw)) {
		return latchkey.InvalidFaults(latchkey.Fault{Pointer: "query", Code: "credential_in_query", Detail: "the query holds a credential; send it in Authorization: Bearer, and consider this one disclosed"})
	}
	return nil
}

// credentialIn reports whether a query, as it was sent, holds a credential.
func credentialIn(query string) bool {
	found := authz.ContainsToken(query)
	for part := range strings.FieldsFuncSeq(query, func(c rune) bool { return c == '&' || c == '=' || c == ';' }) {
		// One by one: a part that does not decode must not hide the others.
		decoded, err := url.QueryUnescape(part)
		found = found || err == nil && authz.ContainsToken(decoded)
	}
	return found
}

var (
	bearer        = []byte("bearer ")
	requestIDName = []byte("X-Request-Id") // as fasthttp writes it
)

func (r *request) authenticate() error {
	switch r.head.authorizations {
	case 0:
		return authz.ErrUnauthenticated()
	case 1:
	default:
		return latchkey.InvalidFaults(latchkey.Fault{Pointer: "header:Authorization", Code: "two_credentials", Detail: "one credential a request"})
	}
	value := r.head.authorization
	if len(value) < len(bearer) || !bytes.EqualFold(value[:len(bearer)], bearer) {
		return r.failed(authz.ErrUnauthenticated())
	}
	caller, proven, err := r.present(value[len(bearer):])
	if err != nil {
		if !proven {
			return r.failed(err)
		}
		r.ended = value[len(bearer):]
		return err
	}
	caller.RequestID = r.id
	r.caller = caller
	return r.chooseCustomer()
}

// present finds who presents a credential. Proven says that the secret was right,
// whether or not it still holds.
func (r *request) present(credential []byte) (caller authz.Caller, proven bool, err error) {
	if !authz.OfPerson(credential) {
		return r.s.cfg.Authenticator.Authenticate(credential, r.now, r.source())
	}
	if r.s.cfg.People == nil {
		return caller, false, authz.ErrUnauthenticated()
	}
	ctx, cancel := r.context()
	defer cancel()
	c, proven, err := r.s.cfg.People.AuthenticatePerson(ctx, string(credential), r.now)
	if c.Person == nil {
		if err == nil {
			err = authz.ErrUnauthenticated()
		}
		return caller, false, err
	}
	caller = authz.Caller{Kind: c.Kind, Customer: r.s.cfg.Table.Customer(c.Person.Customer), Person: c.Person, Proof: c,
		Standing: r.s.standings[c.Person.Type], Kid: c.Kid, Handle: c.Token, Source: r.source()}
	if err == nil && (caller.Customer.Deleted() || !c.Person.Active) {
		err = authz.ErrUnauthenticated()
	}
	return caller, proven, err
}

// checkAgain refuses, after a wait, a caller whose credential has ended since
// the request began, and whom the server may not answer any more.
func (r *request) checkAgain() error {
	r.now = latchkey.InstantOf(r.s.cfg.Now())
	if rd := r.s.readiness(r.now); !rd.answers(r.route) {
		return rd.err()
	}
	value := r.head.authorization[len(bearer):]
	again, proven, err := r.present(value)
	if err == nil && r.caller.Person != nil && (again.Person == nil || again.Person.ID != r.caller.Person.ID || again.Person.Type != r.caller.Person.Type) {
		err = authz.ErrUnauthenticated()
	}
	if err != nil {
		if proven {
			r.ended = value
		}
		return err
	}
	if rd := r.customerReadiness(); !rd.answers(r.route) {
		return rd.err()
	}
	return nil
}

// failed counts a failed authentication against its source.
func (r *request) failed(err error) error {
	r.s.metrics.authFailures.Inc()
	if r.s.failed.allow(r.source(), r.start) {
		return err
	}
	return latchkey.Errorf(latchkey.TooManyRequests, "too_many_failures", "too many failed authentications from this address")
}

// chooseCustomer binds the request to the one customer that it acts in.
func (r *request) chooseCustomer() error {
	named := string(r.head.customer)
	switch {
	case r.head.customers > 1:
		return errTwice("X-Customer-ID")
	case !r.caller.IsRoot():
		switch {
		case named == "" || named == r.caller.Customer.ID:
			return nil
		case r.caller.IsPerson() && r.caller.Person.Type == authz.InternalAdminPerson && r.caller.Customer.ID == authz.DefaultCustomer:
			return r.enter(named)
		}
		return latchkey.Errorf(latchkey.Forbidden, "wrong_customer", "the credential belongs to another customer than X-Customer-ID names")
	case r.route.system:
		return nil
	case named == "" && r.route.change && r.s.cfg.Table.Customers() > 1:
		return latchkey.InvalidFaults(latchkey.Fault{Pointer: "header:X-Customer-ID", Code: "customer_required", Detail: "there is more than one customer: name the one to change in X-Customer-ID"})
	case named == "":
		named = authz.DefaultCustomer
	}
	customer := r.s.cfg.Table.Customer(named)
	if customer == nil || customer.Deleted() && !r.route.ended || !latchkey.ValidName(named) {
		return latchkey.Errorf(latchkey.NotFound, "customer_not_found", "there is no such customer")
	}
	r.caller.Customer = customer
	return nil
}

// maxReason is of X-Reason, in bytes.
const maxReason = 500

// enter lets an internal admin act in another customer, and writes into that
// customer's trail that it does, and why, before anything else is done or shown.
func (r *request) enter(named string) error {
	reason, err := r.header("X-Reason")
	if err != nil {
		return err
	}
	switch {
	case strings.TrimSpace(reason) == "":
		return faultAt("header:X-Reason", "reason_required", "say in X-Reason why you act in another customer than your own")
	case len(reason) > maxReason || !isText(reason) || strings.ContainsFunc(reason, unicode.IsControl):
		return faultAt("header:X-Reason", "invalid_reason", "want at most "+strconv.Itoa(maxReason)+" bytes of UTF-8 without control characters")
	case authz.ContainsToken(reason):
		return faultAt("header:X-Reason", "credential_in_reason", "a reason is kept; it must not hold a credential")
	}
	customer := r.s.cfg.Table.Customer(named)
	if customer.Deleted() || !latchkey.ValidName(named) {
		return latchkey.Errorf(latchkey.NotFound, "customer_not_found", "there is no such customer")
	}
	r.caller.Customer = customer
	call := r.call()
	ctx, cancel := r.context()
	defer cancel()
	return r.s.cfg.Record.Change(ctx, call.Change(nil), func(authz.Tx) (audit.Draft, error) {
		d := call.Draft("customer.enter", audit.Resource{Type: "customer", ID: named})
		d.Reason, d.Changes = reason, authz.Changes("action", r.route.action)
		return d, nil
	})
}

// readBody checks the content type and takes the one copy of the body that
// everything else is a view of. JSON is parsed strictly.
func (r *request) readBody() error {
	h := &r.c.Request().Header
	if r.route.bodyless && len(r.c.Request().Body()) == 0 {
		return nil
	}
	if enc := r.head.encoding; len(enc) > 0 && !bytes.EqualFold(enc, []byte("identity")) {
		return latchkey.Errorf(latchkey.UnsupportedMedia, "unsupported_encoding", "a body is read as it is, without Content-Encoding")
	}
	if !isMediaType(h.ContentType(), r.route.body) {
		return latchkey.Errorf(latchkey.UnsupportedMedia, "unsupported_media_type", "want Content-Type: %s", r.route.body)
	}
	if body := r.c.Request().Body(); r.route.decision {
		// Decisions keep nothing of their request, so its text may stand in a
		// buffer that the next request on r writes over: what a request leaves
		// behind is what the collector has to walk a million keys for.
		r.buffer = append(r.buffer[:0], body...)
		r.body = unsafe.String(unsafe.SliceData(r.buffer), len(r.buffer)) //nolint:gosec // as said; reset by release
	} else {
		r.body = string(body)
	}
	if r.route.body != fiber.MIMEApplicationJSON {
		return nil
	}
	return r.doc.Parse(r.body)
}

// isMediaType compares the type itself; of its parameters only charset=utf-8
// is accepted.
func isMediaType(header []byte, want string) bool {
	if string(header) == want {
		return true
	}
	media, params, _ := strings.Cut(string(header), ";")
	if !strings.EqualFold(strings.TrimSpace(media), want) {
		return false
	}
	params = strings.ToLower(strings.TrimSpace(params))
	return params == "" || params == "charset=utf-8" || params == `charset="utf-8"`
}

// root returns the top value of the parsed body.
func (r *request) root() strictjson.Value { return r.doc.Root() }

// log writes one event a request; on decision paths only failures, and a
// sample where that is asked for.
func (r *request) log(status int, took time.Duration, refused *latchkey.Error) {
	level := slog.LevelInfo
	switch {
	case refused != nil && (refused.Kind == latchkey.Internal || refused.Kind == latchkey.Unavailable):
		level = slog.LevelError
	case status == fiber.StatusTooManyRequests:
		return // counted; a log line each would be the attacker's to fill
	case r.route.decision && (status < fiber.StatusBadRequest || r.route.forward) && (r.s.cfg.LogDecisions == 0 || rand.Float64() >= r.s.cfg.LogDecisions):
		return
	}
	attrs := []slog.Attr{
		slog.String("request_id", r.id), slog.String("method", r.route.method), slog.String("route", r.route.path),
		slog.String("path", r.path()), slog.Int("status", status), slog.Duration("took", took),
		slog.String("source", r.source().String()),
	}
	if !r.caller.Handle.IsZero() {
		attrs = append(attrs, slog.String("credential", r.caller.Handle.String()))
	}
	if r.caller.Person != nil {
		attrs = append(attrs, slog.String("user", r.caller.Person.ID))
	}
	if r.caller.Customer != nil {
		attrs = append(attrs, slog.String("customer", r.caller.Customer.ID))
	}
	if refused != nil {
		attrs = append(attrs, slog.String("code", refused.Code))
		if level == slog.LevelError {
			attrs = append(attrs, slog.String("error", authz.Redact(refused.Error())))
		}
	}
	r.s.cfg.Log.LogAttrs(noContext, level, "request", attrs...)
}
