package server

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/forward"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// Why a request that a proxy asks about is denied, beside what decisions say.
const (
	noRoute          authz.ReasonCode = "no_route"
	ambiguousPath    authz.ReasonCode = "ambiguous_path"
	invalidOriginal  authz.ReasonCode = "invalid_original"
	obligationsUnmet authz.ReasonCode = "obligations_unmet"
	credentialInPath authz.ReasonCode = "credential_in_query" //nolint:gosec // no credential: the code of a refusal; it may be in the path too
)

// checking is one check of a proxy on its way, taken from a pool.
type checking struct {
	s     *Server
	check *forward.Check
	start time.Time
	now   latchkey.Instant

	customer *authz.Customer
	path     forward.Path
	question authz.Request
	decision authz.Decision
	doc      strictjson.Doc
	text     []byte
}

// forwardWait is how long a decision for a proxy waits for room in the decision
// log: less than proxies wait for it.
const forwardWait = 100 * time.Millisecond

// verdict is what comes of a check, before it is written down.
type verdict struct {
	status     int
	code       authz.ReasonCode
	detail     string
	invalid    bool // a credential was presented and does not hold
	key        *authz.KeyState
	decisionID string
	action     string
	reasons    []authz.ReasonCode
	reusable   time.Duration // how long an allow holds
}

func (v *verdict) refuse(status int, code authz.ReasonCode, detail string) verdict {
	v.status, v.code, v.detail = status, code, detail
	if len(v.reasons) == 0 {
		v.reasons = []authz.ReasonCode{code}
	}
	return *v
}

// Forward answers one check of a proxy; every dialect and gRPC come here. It
// never fails: where latchkey itself did, the answer says 500. Safe for
// concurrent use.
func (s *Server) Forward(check *forward.Check) forward.Answer {
	check.RequestID = requestID([]byte(check.RequestID))
	return s.forward(check, s.cfg.Now())
}

func (s *Server) forward(check *forward.Check, start time.Time) (answer forward.Answer) {
	k := s.checks.Get().(*checking)
	k.check, k.start, k.now = check, start, latchkey.InstantOf(start)
	defer func() {
		if p := recover(); p != nil {
			s.metrics.panics.Inc()
			s.cfg.Log.Error("panic", "dialect", check.Dialect, "request_id", check.RequestID, "panic", p, "stack", stack())
			answer = k.answer(&verdict{status: fiber.StatusInternalServerError, code: "internal_error", detail: "the request could not be answered"})
		}
		s.metrics.forwards.WithLabelValues(string(check.Dialect), strconv.Itoa(answer.Status)).Inc()
		k.check, k.customer, k.path, k.question = nil, nil, forward.Path{}, authz.Request{}
		s.checks.Put(k)
	}()
	if rd := s.readiness(k.now); rd.Code != "" && !rd.Decides {
		return k.answer(&verdict{status: fiber.StatusServiceUnavailable, code: rd.Code, detail: rd.err().Public})
	}
	refused := k.caller()
	if refused != nil {
		if s.failed.allow(check.Peer, start) { // else it would be an attacker's to fill the log
			s.cfg.Log.Warn("a proxy was refused", "dialect", check.Dialect, "request_id", check.RequestID, "peer", check.Peer.String(), "code", string(refused.code))
		}
		return k.answer(refused)
	}
	v := k.decide()
	return k.answer(&v)
}

// caller finds the customer that the proxy acts for; the verdict is nil where
// it may. What is wrong with the proxy's key is not told to the end client,
// who may be the one to see the answer.
func (k *checking) caller() *verdict {
	s, check := k.s, k.check
	v := &verdict{}
	id := check.Bound
	if id == "" {
		switch len(check.Callers) {
		case 0:
			v.refuse(fiber.StatusUnauthorized, "caller_required", "the proxy must present a key in "+forward.CallerHeader)
			return v
		case 1:
		default:
			v.refuse(fiber.StatusUnauthorized, "invalid_caller", "the proxy presents more than one key")
			return v
		}
		caller, _, err := s.cfg.Authenticator.Authenticate([]byte(check.Callers[0]), k.now, check.Peer)
		switch {
		case latchkey.KindOf(err) == latchkey.Unavailable:
			v.refuse(fiber.StatusServiceUnavailable, "caller_unverified", "the proxy's key cannot be verified now")
			return v
		case err != nil:
			v.refuse(fiber.StatusUnauthorized, "invalid_caller", "the proxy's key does not hold")
			return v
		case !caller.MayDecide():
			v.refuse(fiber.StatusForbidden, "caller_not_permitted", "the proxy's key lacks the scope decision")
			return v
		case !caller.IsRoot():
			k.customer = caller.Customer
			return nil
		}
		id = authz.DefaultCustomer
	}
	if k.customer = s.cfg.Table.Customer(id); k.customer == nil || k.customer.Deleted() {
		k.customer = nil
		v.refuse(fiber.StatusUnauthorized, "invalid_caller", "the proxy acts for a customer that there is not")
		return v
	}
	return nil
}

// decide is the whole of a decision for a proxy whose customer is known.
func (k *checking) decide() (v verdict) {
	s, check := k.s, k.check
	secret := ""
	switch len(check.Authorization) {
	case 0:
		return v.refuse(fiber.StatusUnauthorized, "invalid_credential", "a valid credential is required")
	case 1:
		if text := check.Authorization[0]; len(text) > len(bearer) && strings.EqualFold(text[:len(bearer)], string(bearer)) {
			secret = text[len(bearer):]
		}
	}
	if secret == "" {
		v.invalid = true
		return v.refuse(fiber.StatusUnauthorized, "invalid_credential", "a valid credential is required")
	}
	target, code := k.target()
	if code != "" {
		return k.deny(secret, code)
	}
	k.question = authz.Request{
		Subject:  authz.Entity{Type: authz.SubjectAccessKey},
		Action:   authz.Action{Name: target.Action},
		Resource: authz.Entity{Type: target.Type, ID: target.ID},
		Context:  k.context(),
		Secret:   secret,
	}
	begun := wallClock()
	if err := s.cfg.PDP.Decide(&k.decision, k.customer, &k.question, k.now); err != nil {
		s.cfg.Log.Error("a proxy could not be answered", "dialect", check.Dialect, "request_id", check.RequestID, "error", authz.Redact(err.Error()))
		return v.refuse(fiber.StatusInternalServerError, "internal_error", "the request could not be answered")
	}
	s.metrics.took(&k.decision, wallClock().Sub(begun))
	err := s.decided(&asked{caller: &authz.Caller{Customer: k.customer}, question: &k.question, decision: &k.decision, requestID: check.RequestID,
		source: check.Source, at: k.now, start: k.start, wait: forwardWait, record: new([]byte)})
	if err != nil {
		return v.refuse(fiber.StatusServiceUnavailable, "decision_log_full", "the decision is not given, because it could not be logged")
	}
	return k.judge(&k.decision)
}

// target finds what the original request stands for, or why there is no
// telling.
func (k *checking) target() (forward.Target, authz.ReasonCode) {
	check := k.check
	host, hostOK := forward.ParseHost(check.Host)
	if check.Unreadable != "" || !hostOK || !forward.ValidMethod(check.Method) || check.Scheme != "" && !forward.ValidScheme(check.Scheme) {
		return forward.Target{}, invalidOriginal
	}
	check.Host = host
	path, ok := forward.ParsePath(check.Target)
	if !ok {
		return forward.Target{}, ambiguousPath
	}
	k.path = path
	if _, query, _ := strings.Cut(check.Target, "?"); credentialIn(query) || authz.ContainsToken(path.String()) {
		return forward.Target{}, credentialInPath
	}
	target, ok := k.s.cfg.Routes.Match(k.customer.ID, check.Method, host, path)
	if !ok {
		return forward.Target{}, noRoute
	}
	return target, ""
}

// deny refuses a request that stands for nothing: with 401 where its
// credential does not hold, so that only who has one learns of the routes.
func (k *checking) deny(secret string, code authz.ReasonCode) (v verdict) {
	r := k.s.cfg.Authenticator.Resolve([]byte(secret), k.now, netip.Addr{})
	switch {
	case r.Status != authz.Active || r.Key != nil && r.Key.Customer != k.customer:
		v.invalid = true
		return v.refuse(fiber.StatusUnauthorized, "invalid_credential", "a valid credential is required")
	case r.Key != nil:
		v.key = r.Key
	}
	k.s.metrics.decidedBy(false, code)
	v.action = "deny"
	return v.refuse(fiber.StatusForbidden, code, denial(code))
}

// denial is the reason in words.
func denial(code authz.ReasonCode) string {
	switch code {
	case noRoute:
		return "no route of the operator's matches the request"
	case ambiguousPath:
		return "the path could be read in more than one way"
	case credentialInPath:
		return "the request's URL holds a credential; consider it disclosed"
	default:
		return "the proxy does not tell of the original request as it should"
	}
}

// judge turns a decision into a verdict: the one place that reads a decision's
// members for proxies.
func (k *checking) judge(d *authz.Decision) (v verdict) {
	v.decisionID, v.action = string(d.ID[:]), d.Action
	for i := range d.Reasons {
		if !slices.Contains(v.reasons, d.Reasons[i].Code) {
			v.reasons = append(v.reasons, d.Reasons[i].Code)
		}
		if d.Reasons[i].Key != nil {
			v.key = d.Reasons[i].Key
		}
	}
	if v.key == nil { // a policy decided, within the ceiling of a key that holds
		if r := k.s.cfg.Authenticator.Resolve([]byte(k.question.Secret), k.now, netip.Addr{}); r.Key != nil && r.Key.Customer == k.customer {
			v.key = r.Key
		}
	}
	code := authz.ReasonCode("policy_error")
	if len(v.reasons) > 0 {
		code = v.reasons[0]
	}
	if d.Permit && d.Obligations != "" { // no proxy meets them, so who must meet them to be let in is not
		return v.refuse(fiber.StatusForbidden, obligationsUnmet, "the policy allows this with obligations, which a proxy cannot meet")
	}
	if d.Permit {
		v.status, v.code = fiber.StatusOK, code
		v.reusable = time.Duration(d.ExpiresAt-k.now) * time.Microsecond
		return v
	}
	v.invalid = code == authz.KeyUnknown || code == authz.KeyExpired || code == authz.KeyRevoked
	switch {
	case code == authz.KeyUnknown:
		v.reasons, v.key = nil, nil // as any other credential that does not hold
		return v.refuse(fiber.StatusUnauthorized, "invalid_credential", "a valid credential is required")
	case v.invalid:
		return v.refuse(fiber.StatusUnauthorized, code, "the key has ended")
	case code == authz.NotReady || code == authz.Stale: // no denial, but our failure
		return v.refuse(fiber.StatusServiceUnavailable, code, "the request cannot be decided now")
	}
	return v.refuse(fiber.StatusForbidden, code, "the decision is to deny the request")
}

// context is what policies see of the original request.
func (k *checking) context() strictjson.Value {
	check := k.check
	b := append(k.text[:0], `{"http":{"method":`...)
	b = strictjson.AppendString(b, check.Method)
	b = strictjson.AppendString(append(b, `,"host":`...), check.Host)
	b = strictjson.AppendString(append(b, `,"path":`...), k.path.String())
	if check.Scheme != "" {
		b = strictjson.AppendString(append(b, `,"scheme":`...), check.Scheme)
	}
	b = append(b, '}')
	if check.Source.IsValid() {
		b = strictjson.AppendString(append(b, `,"ip":`...), check.Source.String())
	}
	k.text = append(b, '}')
	if err := k.doc.Parse(string(k.text)); err != nil {
		panic(err) // it was written just above
	}
	return k.doc.Root()
}

// answer writes a verdict down.
func (k *checking) answer(v *verdict) (a forward.Answer) {
	keyID, customer := "", ""
	if v.key != nil {
		keyID = v.key.ID.String()
	}
	if k.customer != nil {
		customer = k.customer.ID
	}
	a.Status = v.status
	a.Identity = [...]forward.Header{
		{Name: forward.SubjectHeader, Value: keyID},
		{Name: forward.CustomerHeader, Value: customer},
		{Name: forward.KeyIDHeader, Value: keyID},
		{Name: forward.DecisionIDHeader, Value: v.decisionID},
		{Name: forward.ActionHeader, Value: v.action},
		{Name: forward.ReasonHeader, Value: string(v.code)},
	}
	add := func(name, value string) { a.Headers = append(a.Headers, forward.Header{Name: name, Value: value}) }
	if seconds := int64(v.reusable / time.Second); v.status == fiber.StatusOK && k.s.cfg.ForwardCache && seconds > 0 {
		add(fiber.HeaderCacheControl, "public, max-age="+strconv.FormatInt(seconds, 10))
		add(fiber.HeaderVary, k.vary())
	} else {
		add(fiber.HeaderCacheControl, "no-store")
	}
	if v.status == fiber.StatusOK {
		return a
	}
	switch {
	case v.status == fiber.StatusUnauthorized && v.invalid:
		add(fiber.HeaderWWWAuthenticate, `Bearer realm="latchkey", error="invalid_token"`)
	case v.status == fiber.StatusUnauthorized:
		add(fiber.HeaderWWWAuthenticate, `Bearer realm="latchkey"`)
	case v.status == fiber.StatusForbidden:
		add(fiber.HeaderWWWAuthenticate, `Bearer realm="latchkey", error="insufficient_scope"`)
	}
	if v.status == fiber.StatusServiceUnavailable {
		add(fiber.HeaderRetryAfter, "1")
	}
	add(fiber.HeaderContentType, "application/problem+json")
	e := &latchkey.Error{Code: string(v.code), Public: v.detail}
	b := appendProblem(nil, e, v.status, authz.Redact(k.path.String()), k.check.RequestID)
	b = append(b[:len(b)-1], `,"reasons":[`...)
	for i, code := range v.reasons {
		if i > 0 {
			b = append(b, ',')
		}
		b = strictjson.AppendString(b, string(code))
	}
	b = append(b, `],"decision_id":`...)
	b = strictjson.AppendString(b, v.decisionID)
	a.Body = append(b, '}')
	if v.status == fiber.StatusUnauthorized {
		k.s.metrics.authFailures.Inc()
	}
	return a
}

// vary names what an answer rests on.
func (k *checking) vary() string {
	names := fiber.HeaderAuthorization + ", " + forward.CallerHeader
	for _, n := range originals[k.check.Dialect] {
		names += ", " + n
	}
	if k.check.Dialect != forward.Forwarded {
		names += ", " + fiber.HeaderHost
	}
	if k.s.cfg.TrustedProxies > 0 {
		names += ", " + fiber.HeaderXForwardedFor
	}
	return names
}

// originals are the headers that tell of the original request, by dialect.
// Those of another dialect are not read: a client may have sent them, through a
// proxy that does not know them. Every one must stand there once.
var originals = map[forward.Dialect][]string{
	forward.Nginx:     {"X-Original-Method", "X-Original-URI"},
	forward.Forwarded: {"X-Forwarded-Method", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Uri"},
}

const (
	forwardPrefix = "/decision/forward/"
	envoyPrefix   = forwardPrefix + "envoy"

	anyMethod = "ANY"
	// otherMethod stands for every method that the router does not know. It is
	// no token, so no request and no rule can name it.
	otherMethod = "(OTHER)"
)

// admitMethods lets every method through to the paths for proxies, which
// answer whatever a client may ask for. Elsewhere the router refuses those that
// it does not know.
func admitMethods(next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(c *fasthttp.RequestCtx) {
		if strings.HasPrefix(string(c.URI().PathOriginal()), forwardPrefix) && !slices.Contains(fiber.DefaultMethods, string(c.Method())) {
			c.SetUserValue(otherMethod, string(c.Method()))
			c.Request.Header.SetMethod(otherMethod)
		}
		next(c)
	}
}

// forwardRoutes mounts the routes for proxies. On an app that is bound to one
// customer that is what proxies act for.
func (s *Server) forwardRoutes(app *fiber.App, bound string) {
	for _, rt := range []struct {
		dialect forward.Dialect
		path    string
	}{
		{forward.Nginx, forwardPrefix + "nginx"},
		{forward.Forwarded, forwardPrefix + "forwarded"},
		{forward.Envoy, envoyPrefix + "/*"},
	} {
		s.mount(app, &route{method: anyMethod, path: rt.path, forward: true, decision: true, handle: func(r *request) error {
			check := r.check(rt.dialect)
			check.Bound = bound
			answer := s.forward(&check, r.start)
			h := &r.c.Response().Header
			for _, set := range answer.Identity {
				h.Set(set.Name, set.Value)
			}
			for _, set := range answer.Headers {
				h.Set(set.Name, set.Value)
			}
			r.c.Response().SetStatusCode(answer.Status)
			r.c.Response().SetBodyRaw(answer.Body)
			return nil
		}})
	}
}

// check reads what the proxy asks, in its dialect. Names of headers are
// compared as they are: X_Original_URI and X.Original.URI are other headers,
// whatever some servers make of them.
func (r *request) check(d forward.Dialect) forward.Check {
	header := &r.c.Request().Header
	check := forward.Check{
		Dialect: d, RequestID: r.id, Source: r.source(), Peer: r.peer(),
		Host: string(header.Host()),
	}
	names := originals[d]
	var values [4]string
	var seen [4]int
	for name, value := range header.All() {
		switch string(name) {
		case fiber.HeaderAuthorization:
			check.Authorization = append(check.Authorization, string(value))
		case forward.CallerHeader:
			check.Callers = append(check.Callers, string(value))
		default:
			for i, n := range names {
				if strings.EqualFold(n, string(name)) {
					values[i] = string(value)
					seen[i]++
				}
			}
		}
	}
	for i, n := range names {
		if seen[i] != 1 || values[i] == "" {
			check.Unreadable = n
		}
	}
	switch d {
	case forward.Nginx:
		check.Method, check.Target = values[0], values[1]
	case forward.Forwarded:
		check.Method, check.Scheme, check.Host, check.Target = values[0], values[1], values[2], values[3]
	case forward.Envoy:
		check.Method = r.c.Method()
		if was, ok := r.c.Context().UserValue(otherMethod).(string); ok {
			check.Method = was
		}
		// As it was sent: the router's own reading is not the client's.
		target, ok := strings.CutPrefix(string(header.RequestURI()), envoyPrefix)
		check.Target = target
		if !ok {
			check.Unreadable = "path"
		}
	case forward.GRPC:
	}
	return check
}

// boundApps are the apps of listeners that are one customer's each.
type boundApps struct {
	mu      sync.Mutex
	list    []*fiber.App
	stopped bool
}

// ServeForward answers the routes for proxies, and nothing else, on ln until
// Shutdown. Who reaches the listener needs no key of its own: it acts for the
// customer.
func (s *Server) ServeForward(ln net.Listener, customer string) error {
	app := s.newApp()
	s.forwardRoutes(app, customer)
	s.bound.mu.Lock()
	if s.bound.stopped {
		s.bound.mu.Unlock()
		return ln.Close()
	}
	s.bound.list = append(s.bound.list, app)
	s.bound.mu.Unlock()
	return app.Listener(s.timed(ln))
}

func (b *boundApps) shutdown(ctx context.Context) (err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
	for _, app := range b.list {
		err = errors.Join(err, app.ShutdownWithContext(ctx))
	}
	return err
}
