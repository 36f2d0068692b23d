package server

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
)

// Jobs are access requests in the words of another product's API (docs/jobs.md): a
// login account is a resource, a job the request for one. Nothing is decided here.
const (
	accountKind = "account"
	loginAction = "login"
	loginAccess = "Login"
	loginScript = "/lib/jobs/server_account_access.js"

	// grantMinutes is how long a login is asked for where nobody says.
	grantMinutes = 60
	// maxJobs bounds what a list of jobs is made of, and maxRequests how many requests
	// are looked at for them.
	maxJobs     = 1000
	maxRequests = 10_000
)

// jobRoutes are those of the compatibility group.
func (s *Server) jobRoutes() []route {
	if !s.cfg.CompatJobFlow || s.cfg.Upstream != nil {
		return nil
	}
	return []route{
		{method: http.MethodPost, path: "/ServerManage/GetAccountsForLogin", action: "resource.read", jobs: true, body: jsonBody, may: anyone, handle: s.listAccounts},
		{method: http.MethodPost, path: "/JobFlow/StartJob", action: "access_request.submit", jobs: true, change: true, body: jsonBody, deadline: decisionDeadline, may: anyone, handle: s.startJob},
		{method: http.MethodPost, path: "/JobFlow/GetJob", action: "access_request.read", jobs: true, body: jsonBody, may: anyone, handle: s.getJob},
		{method: http.MethodPost, path: "/JobFlow/GetMyJobs", action: "access_request.read", jobs: true, body: jsonBody, may: anyone, handle: s.listJobs},
		{method: http.MethodPost, path: "/JobFlow/Event", action: "access_request.decide", jobs: true, change: true, body: jsonBody, deadline: decisionDeadline, may: anyone, handle: s.jobEvent},
	}
}

// foldJobPaths lets clients write the paths of the group in any case, and no other
// path.
func foldJobPaths(routes []route, next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(c *fasthttp.RequestCtx) {
		path := c.URI().PathOriginal()
		for i := range routes {
			if want := routes[i].path; len(path) == len(want) && string(path) != want && strings.EqualFold(string(path), want) {
				c.URI().SetPath(want)
				c.Request.SetRequestURIBytes(c.URI().RequestURI())
				break
			}
		}
		next(c)
	}
}

// saysSo reports whether a refusal is told in the envelope of the group. Who is not
// let in, and what is no answer, has its status.
func saysSo(k latchkey.Kind) bool {
	switch k {
	case latchkey.Invalid, latchkey.Forbidden, latchkey.NotFound, latchkey.Conflict, latchkey.Unprocessable, latchkey.LimitReached, latchkey.TaskFailed, latchkey.TaskTimeout:
		return true
	default:
		return false
	}
}

// listAccounts answers POST /ServerManage/GetAccountsForLogin: the accounts of a
// host that the caller may log in to, or ask for.
func (s *Server) listAccounts(r *request) error {
	b, err := r.jobBody()
	if err != nil {
		return err
	}
	host, filter, domain := b.required("host"), b.text("filter"), b.flag("domainOnly")
	args := b.args()
	if err := b.err(); err != nil {
		return err
	}
	if err := mayVote(&r.caller); err != nil { // nobody else has accounts
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	templates, err := s.loginTemplates(ctx, r.call())
	if err != nil {
		return err
	}
	accounts := []account{}
	q := authz.EntityQuery{Customer: r.caller.Customer.ID, Type: accountKind, Labels: map[string]string{"host": host}, Limit: 1000}
	for more := true; more; {
		records, err := s.cfg.Record.Resources(ctx, q) // which fails once the time is over
		if err != nil {
			return err
		}
		for _, record := range records {
			a := accountOf(record)
			if !strings.Contains(strings.ToLower(a.Name), strings.ToLower(filter)) || domain && !strings.EqualFold(a.AuthorityType, "Domain") {
				continue
			}
			allowed, err := s.mayLogIn(&r.caller, record.EntityRef, r.now)
			if err != nil {
				return err
			}
			if !allowed {
				if _, err := access.Match(templates, record); err != nil {
					continue
				}
			}
			a.RequestRequired = !allowed
			accounts = append(accounts, a)
		}
		if more = len(records) == q.Limit; more {
			q.After = records[len(records)-1].EntityRef
		}
	}
	slices.SortStableFunc(accounts, func(a, b account) int { return strings.Compare(a.Name, b.Name) })
	page, err := pageOf(args, accounts)
	if err != nil {
		return err
	}
	return r.sendJob(page)
}

// mayLogIn asks whether the caller may log in now, as any decision is made.
func (s *Server) mayLogIn(c *authz.Caller, ref authz.EntityRef, now latchkey.Instant) (bool, error) {
	var d authz.Decision
	q := authz.Request{Subject: authz.Entity{Type: authz.SubjectUser, ID: c.Person.ID}, Action: authz.Action{Name: loginAction},
		Resource: authz.Entity{Type: ref.Type, ID: ref.ID}}
	err := s.cfg.PDP.Decide(&d, c.Customer, &q, now)
	return err == nil && d.Permit, err
}

// loginTemplates are those that give logins, and that the caller may ask by.
func (s *Server) loginTemplates(ctx context.Context, call authz.Call) (list []access.Template, err error) {
	const page = 100
	name, id := "", ""
	for {
		found, err := s.cfg.Templates.List(ctx, call, name, id, page)
		if err != nil {
			return nil, err
		}
		for _, t := range found {
			if t.Selector != nil && t.Selector.Kind == accountKind && slices.ContainsFunc(t.Access.Actions, func(a string) bool { return a == "*" || a == loginAction }) {
				list = append(list, t)
			}
			name, id = t.Name, t.ID
		}
		if len(found) < page {
			return s.cfg.Requests.Allowing(ctx, call, list)
		}
	}
}

// startJob answers POST /JobFlow/StartJob: it submits a request.
func (s *Server) startJob(r *request) error {
	b, err := r.jobBody()
	if err != nil {
		return err
	}
	script := b.required("script")
	if script != "" && script != loginScript {
		b.fault("script", "unknown_script", "there is no such job; known is "+loginScript)
	}
	args := b.object("args")
	id := args.required("PVID")
	if kind := args.required("AccessType"); kind != "" && kind != loginAccess {
		args.fault("AccessType", "invalid_value", "want "+loginAccess)
	}
	in := access.Submission{Justification: args.text("Reason"), Resources: []authz.EntityRef{{Type: accountKind, ID: id}}}
	args.object("RequestedOptions").assignment(&in)
	if err := b.err(); err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	templates, err := s.loginTemplates(ctx, r.call())
	if err != nil {
		return err
	}
	record, found, err := s.cfg.Record.Resource(ctx, r.caller.Customer.ID, in.Resources[0])
	if err != nil {
		return err
	}
	if !found { // nobody is told of accounts that they could not ask for
		templates = nil
	}
	t, err := access.Match(templates, record)
	if err != nil {
		return err
	}
	in.Template = t.ID
	if in.Assignment == access.Temporary && in.Duration == 0 {
		if in.Duration = t.DefaultDuration; in.Duration == 0 {
			in.Duration = grantMinutes
		}
	}
	q, err := s.cfg.Requests.Submit(ctx, r.call(), in)
	if err != nil {
		return inJobWords(err, args, args.object("RequestedOptions"))
	}
	return r.sendJob(q.ID)
}

// job finds the request that a body names, where it is one for a login.
func (s *Server) job(ctx context.Context, r *request, id string) (access.Request, error) {
	q, err := s.cfg.Requests.Get(ctx, r.call(), id)
	if err == nil && !isJob(&q) {
		err = latchkey.Errorf(latchkey.NotFound, "access_request_not_found", "there is no such access request")
	}
	return q, err
}

func isJob(q *access.Request) bool {
	return len(q.Resources) == 1 && q.Resources[0].Type == accountKind
}

// getJob answers POST /JobFlow/GetJob.
func (s *Server) getJob(r *request) error {
	b, err := r.jobBody()
	if err != nil {
		return err
	}
	id := b.required("jobid")
	if err := b.err(); err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	q, err := s.job(ctx, r, id)
	if err != nil {
		return err
	}
	return r.sendOneJob(ctx, &q)
}

func (r *request) sendOneJob(ctx context.Context, q *access.Request) error {
	v, err := r.s.jobView(ctx, r, q, accountCache{})
	if err != nil {
		return err
	}
	return r.sendJob(v.result())
}

// listJobs answers POST /JobFlow/GetMyJobs: those that wait for the caller
// ("approve"), those that the caller asked for ("request"), or both; all of the
// customer's, for managers.
func (s *Server) listJobs(r *request) error {
	b, err := r.jobBody()
	if err != nil {
		return err
	}
	kind := b.text("type")
	args := b.args()
	var lists []requestList
	switch strings.ToLower(kind) {
	case "", "all":
		if lists = []requestList{s.cfg.Requests.Mine, s.cfg.Requests.Pending}; r.caller.Manages() {
			lists = []requestList{s.cfg.Requests.List}
		}
	case "approve":
		lists = []requestList{s.cfg.Requests.Pending}
	case "request":
		lists = []requestList{s.cfg.Requests.Mine}
	default:
		b.fault("type", "invalid_value", "want all, approve or request")
	}
	if err := b.err(); err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	jobs, err := gatherJobs(ctx, r.call(), lists)
	if err != nil {
		return err
	}
	rows, accounts := make([]jobRecord, len(jobs)), accountCache{}
	for i := range jobs {
		v, err := s.jobView(ctx, r, &jobs[i], accounts)
		if err != nil {
			return err
		}
		rows[i] = v.record()
	}
	page, err := pageOf(args, rows)
	if err != nil {
		return err
	}
	list := jobList{Count: len(page), FullCount: len(jobs), Columns: jobColumns, Results: []jobRow{}}
	for _, row := range page {
		list.Results = append(list.Results, jobRow{Entities: []jobEntity{{Type: "WorkFlowJob", Key: row.ID}}, Row: row})
	}
	return r.sendJob(list)
}

// gatherJobs reads lists to their ends, or as far as may be, newest first. Among jobs
// there may be many other requests.
func gatherJobs(ctx context.Context, call authz.Call, lists []requestList) (jobs []access.Request, err error) {
	seen := map[string]bool{}
	for _, list := range lists {
		q, before := access.Query{Limit: 500}, len(jobs)
		for read := 0; read < maxRequests && len(jobs)-before < maxJobs; read += q.Limit {
			page, err := list(ctx, call, q)
			if err != nil {
				return nil, err
			}
			for _, found := range page {
				if isJob(&found) && !seen[found.ID] {
					seen[found.ID] = true
					jobs = append(jobs, found)
				}
				q.AfterCreated, q.AfterID = found.CreatedAt, found.ID
			}
			if len(page) < q.Limit {
				break
			}
		}
	}
	slices.SortStableFunc(jobs, func(a, b access.Request) int {
		return cmp.Or(cmp.Compare(b.CreatedAt, a.CreatedAt), strings.Compare(b.ID, a.ID))
	})
	return jobs[:min(len(jobs), maxJobs)], nil
}

// jobEvent answers POST /JobFlow/Event. It is carried out when it is answered,
// whatever sync says.
func (s *Server) jobEvent(r *request) error {
	b, err := r.jobBody()
	if err != nil {
		return err
	}
	id, event, args := b.required("jobid"), strings.ToLower(b.required("event")), b.object("args")
	reason := args.text("Reason")
	b.flag("sync")
	if err := b.err(); err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	q, err := s.job(ctx, r, id)
	if err != nil {
		return err
	}
	switch event {
	case "approve":
		q, err = s.approveJob(ctx, r, &q, args, reason)
	case "reject", "deny":
		q, err = s.cfg.Requests.Deny(ctx, r.call(), id, reason)
	case "cancel":
		q, err = s.cfg.Requests.Revoke(ctx, r.call(), id, reason)
	default:
		err = faultAt("/event", "invalid_value", "want approve, reject or cancel")
	}
	if err != nil {
		return inJobWords(err, args, args)
	}
	return r.sendOneJob(ctx, &q)
}

// approveJob approves, in another window where args name one. Who approves must have
// an e-mail address, or the job fails.
func (s *Server) approveJob(ctx context.Context, r *request, q *access.Request, args jobBody, reason string) (access.Request, error) {
	v := access.Verdict{Comment: reason}
	var in access.Submission
	if args.says("AssignmentType", "GrantMin", "StartTime", "EndTime") {
		args.assignment(&in)
		switch {
		case in.Assignment != q.Assignment && args.err() == nil:
			args.fault("AssignmentType", "not_changeable", "the job asks for "+string(q.Assignment))
		case in.Duration != 0 && in.Duration != q.Duration:
			args.fault("GrantMin", "not_changeable", "the job asks for "+strconv.FormatInt(int64(q.Duration), 10)+" minutes")
		case in.Window != nil && (q.Window == nil || *in.Window != *q.Window):
			v.Window = in.Window
		}
		if err := args.err(); err != nil {
			return access.Request{}, err
		}
	}
	if p := r.caller.Person; r.caller.IsPerson() && p.Email == "" {
		name := p.Name
		if name == "" {
			name = p.Username
		}
		return s.cfg.Requests.Fail(ctx, r.call(), q.ID, "approve failed: User "+name+" ("+p.Username+") has no email address")
	}
	return s.cfg.Requests.Approve(ctx, r.call(), q.ID, v)
}

// refuseJob is a refusal in the envelope of the group.
func (r *request) refuseJob(e *latchkey.Error) {
	text, id := public(e.Public), r.id
	r.out = appendJobReply(r.out[:0], jobReply{Message: &text, MessageID: &e.Code, ErrorID: &id, ErrorCode: &e.Code})
	r.flush(fiber.StatusOK, fiber.MIMEApplicationJSON)
}

func (r *request) sendJob(result any) error {
	r.out = appendJobReply(r.out[:0], jobReply{Success: true, Result: result})
	return r.json(fiber.StatusOK)
}
