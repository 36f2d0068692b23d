package server

import (
	"net/http"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
)

const jsonBody = fiber.MIMEApplicationJSON

// routes is the list of everything that the API answers; openapi.yaml is held
// to it by a test. A sidecar answers what is local, and passes on the rest.
func (s *Server) routes() {
	for _, rt := range []route{
		{method: http.MethodPost, path: "/decision", local: true, action: "decision.evaluate", decision: true, single: true, body: jsonBody, may: mayDecide, handle: s.decide},
		{method: http.MethodPost, path: "/decision/batch", local: true, action: "decision.evaluate", decision: true, body: jsonBody, may: mayDecide, handle: s.decideBatch},
		{method: http.MethodPost, path: "/decision/explain", local: true, action: "decision.explain", decision: true, body: jsonBody, may: mayDecide, handle: s.explain},
		{method: http.MethodPost, path: "/decision/:policy", local: true, action: "decision.evaluate", decision: true, single: true, body: jsonBody, may: mayDecide, handle: s.decide},
		{method: http.MethodPost, path: "/access/v1/evaluation", local: true, action: "decision.evaluate", decision: true, single: true, authzen: true, body: jsonBody, may: mayDecide, handle: s.evaluation},
		{method: http.MethodPost, path: "/access/v1/evaluations", local: true, action: "decision.evaluate", decision: true, authzen: true, body: jsonBody, may: mayDecide, handle: s.evaluations},
		{method: http.MethodPost, path: "/access/v1/search/subject", action: "decision.search", decision: true, authzen: true, body: jsonBody, may: s.cfg.Searcher.May, handle: s.searchSubjects},
		{method: http.MethodPost, path: "/access/v1/search/resource", action: "decision.search", decision: true, authzen: true, body: jsonBody, may: s.cfg.Searcher.May, handle: s.searchResources},
		{method: http.MethodPost, path: "/access/v1/search/action", action: "decision.search", decision: true, authzen: true, body: jsonBody, may: s.cfg.Searcher.May, handle: s.searchActions},
		{method: http.MethodGet, path: "/.well-known/authzen-configuration", local: true, open: true, handle: s.authzenConfiguration},

		{method: http.MethodPost, path: "/v1/access_keys", change: true, body: jsonBody, may: s.cfg.Keys.MayCreate, handle: s.createKey},
		{method: http.MethodGet, path: "/v1/access_keys", query: true, may: s.cfg.Keys.MayList, handle: s.listKeys},
		{method: http.MethodPost, path: "/v1/access_keys/verify", local: true, action: "access_key.verify", decision: true, body: jsonBody, may: mayDecide, handle: s.verifyKey},
		{method: http.MethodGet, path: "/v1/access_keys/self", may: anyone, handle: s.getSelf},
		{method: http.MethodGet, path: "/v1/access_keys/:id", may: s.cfg.Keys.MayList, handle: s.getKey},
		{method: http.MethodDelete, path: "/v1/access_keys/:id", action: "access_key.revoke", query: true, change: true, may: anyone, handle: s.revokeKey},
		{method: http.MethodPost, path: "/v1/access_keys/:id/rotate", action: "access_key.rotate", change: true, body: jsonBody, may: s.cfg.Keys.MayCreate, handle: s.rotateKey},
		{method: http.MethodGet, path: "/v1/access_keys/:id/rego", may: s.cfg.Keys.MayList, handle: s.keyRego},
		{method: http.MethodPost, path: "/v1/introspect", local: true, action: "access_key.verify", decision: true, body: fiber.MIMEApplicationForm, may: mayDecide, handle: s.introspect},

		{method: http.MethodPost, path: "/v1/policies", change: true, body: jsonBody, may: s.cfg.Policies.MayCreate, handle: s.createPolicy},
		{method: http.MethodGet, path: "/v1/policies", query: true, may: s.cfg.Policies.MayList, handle: s.listPolicies},
		{method: http.MethodGet, path: "/v1/policies/:name", may: anyone, named: s.cfg.Policies.MayRead, handle: s.getPolicy},
		{method: http.MethodPut, path: "/v1/policies/:name", change: true, body: jsonBody, may: anyone, named: s.cfg.Policies.MayUpdate, handle: s.putPolicy},
		{method: http.MethodDelete, path: "/v1/policies/:name", change: true, may: anyone, named: s.cfg.Policies.MayDelete, handle: s.deletePolicy},
		{method: http.MethodGet, path: "/v1/policies/:name/versions", query: true, may: anyone, named: s.cfg.Policies.MayRead, handle: s.listVersions},
		{method: http.MethodGet, path: "/v1/policies/:name/versions/:version", may: anyone, named: s.cfg.Policies.MayRead, handle: s.getVersion},
		{method: http.MethodPost, path: "/v1/sets", change: true, body: jsonBody, may: s.cfg.Sets.MayCreate, deadline: setDeadline, handle: s.createSet},
		{method: http.MethodGet, path: "/v1/sets", query: true, may: s.cfg.Sets.MayList, handle: s.listSets},
		{method: http.MethodGet, path: "/v1/sets/:name", may: anyone, named: s.cfg.Sets.MayRead, handle: s.getSet},
		{method: http.MethodPut, path: "/v1/sets/:name", action: "set.replace", change: true, body: jsonBody, may: anyone, named: s.cfg.Sets.MayUpdate, deadline: setDeadline, handle: s.replaceSet},
		{method: http.MethodPatch, path: "/v1/sets/:name", change: true, body: jsonBody, may: anyone, named: s.cfg.Sets.MayUpdate, deadline: setDeadline, handle: s.patchSet},
		{method: http.MethodDelete, path: "/v1/sets/:name", change: true, may: anyone, named: s.cfg.Sets.MayDelete, deadline: setDeadline, handle: s.deleteSet},
		{method: http.MethodGet, path: "/v1/sets/:name/values", query: true, may: anyone, named: s.cfg.Sets.MayRead, handle: s.listSetValues},
		{method: http.MethodGet, path: "/v1/sets/:name/values/:value", may: anyone, named: s.cfg.Sets.MayRead, handle: s.getSetValue},
		{method: http.MethodDelete, path: "/v1/sets/:name/values/:value", change: true, may: anyone, named: s.cfg.Sets.MayUpdate, handle: s.deleteSetValue},
		{method: http.MethodPost, path: "/v1/policies/:name/rollback", action: "policy.rollback", change: true, body: jsonBody, may: anyone, named: s.cfg.Policies.MayUpdate, handle: s.rollbackPolicy},
		{method: http.MethodPost, path: "/v1/policies/:name/test", action: "policy.test", body: jsonBody, may: anyone, named: s.cfg.Policies.MayRead, handle: s.testPolicy},

		{method: http.MethodGet, path: "/v1/bundles", may: mayListBundles, handle: s.listBundles},
		{method: http.MethodGet, path: "/v1/bundles/:name", query: true, system: true, may: anyone, named: mayReadBundle, handle: s.getBundle},

		{method: http.MethodGet, path: "/v1/sidecar/verification_keys", action: "sidecar.read", may: mayFollow, handle: s.sidecarKeys},
		{method: http.MethodGet, path: "/v1/sidecar/keys", action: "sidecar.read", query: true, may: mayFollow, handle: s.sidecarKey},
		{method: http.MethodGet, path: "/v1/sidecar/subjects", action: "sidecar.read", query: true, may: mayFollow, handle: s.sidecarSubject},
		{method: http.MethodGet, path: "/v1/sidecar/resources", action: "sidecar.read", query: true, may: mayFollow, handle: s.sidecarResource},
		{method: http.MethodGet, path: "/v1/sidecar/feed", action: "sidecar.read", query: true, may: mayFollow, handle: s.sidecarFeed},
		{method: http.MethodGet, path: "/v1/nodes", action: "node.read", query: true, system: true, may: mayRoot, handle: s.listNodes},

		{method: http.MethodPost, path: "/v1/customers", system: true, body: jsonBody, may: s.cfg.Customers.May, handle: s.createCustomer},
		{method: http.MethodGet, path: "/v1/customers", query: true, system: true, may: s.cfg.Customers.May, handle: s.listCustomers},
		{method: http.MethodGet, path: "/v1/customers/:id", system: true, may: s.cfg.Customers.May, handle: s.getCustomer},
		{method: http.MethodPatch, path: "/v1/customers/:id", system: true, body: jsonBody, may: s.cfg.Customers.May, handle: s.patchCustomer},
		{method: http.MethodDelete, path: "/v1/customers/:id", system: true, may: s.cfg.Customers.May, handle: s.deleteCustomer},
		{method: http.MethodPost, path: "/v1/root/rotate", action: "root_key.rotate", system: true, may: mayRoot, handle: s.rotateRoot},

		{method: http.MethodPost, path: "/v1/subjects:bulkUpdate", action: "subject.bulk_update", change: true, body: jsonBody, deadline: bulkDeadline, may: s.cfg.Directory.May, handle: s.updateSubjects},
		{method: http.MethodGet, path: "/v1/subjects", action: "subject.read", query: true, may: s.cfg.Directory.May, handle: s.listSubjects},
		{method: http.MethodGet, path: "/v1/subjects/:type/:id", action: "subject.read", may: s.cfg.Directory.May, handle: s.getSubject},
		{method: http.MethodDelete, path: "/v1/subjects/:type/:id", action: "subject.delete", change: true, may: s.cfg.Directory.May, handle: s.deleteSubject},
		{method: http.MethodPost, path: "/v1/resources:bulkUpdate", action: "resource.bulk_update", change: true, body: jsonBody, deadline: bulkDeadline, may: s.cfg.Directory.May, handle: s.updateResources},
		{method: http.MethodGet, path: "/v1/resources", action: "resource.read", query: true, may: s.cfg.Directory.May, handle: s.listResources},
		{method: http.MethodGet, path: "/v1/resources/:kind/:id", action: "resource.read", may: s.cfg.Directory.May, handle: s.getResource},
		{method: http.MethodDelete, path: "/v1/resources/:kind/:id", action: "resource.delete", change: true, may: s.cfg.Directory.May, handle: s.deleteResource},
		{method: http.MethodGet, path: "/v1/resource_types", action: "resource_type.read", query: true, may: s.cfg.Directory.May, handle: s.listResourceTypes},
		{method: http.MethodGet, path: "/v1/resource_types/:type", action: "resource_type.read", may: s.cfg.Directory.May, handle: s.getResourceType},
		{method: http.MethodPut, path: "/v1/resource_types/:type", action: "resource_type.update", change: true, body: jsonBody, may: s.cfg.Directory.May, handle: s.putResourceType},
		{method: http.MethodDelete, path: "/v1/resource_types/:type", action: "resource_type.delete", change: true, may: s.cfg.Directory.May, handle: s.deleteResourceType},

		{method: http.MethodPost, path: "/v1/grants", change: true, body: jsonBody, may: s.cfg.Granter.May, handle: s.createGrant},
		{method: http.MethodGet, path: "/v1/grants", query: true, may: s.cfg.Granter.MayRead, handle: s.listGrants},
		{method: http.MethodGet, path: "/v1/grants/:id", may: s.cfg.Granter.MayRead, handle: s.getGrant},
		{method: http.MethodDelete, path: "/v1/grants/:id", action: "grant.revoke", change: true, may: s.cfg.Granter.May, handle: s.revokeGrant},

		{method: http.MethodPost, path: "/v1/tasks", change: true, body: jsonBody, may: s.cfg.Tasks.May, handle: s.createTask},
		{method: http.MethodGet, path: "/v1/tasks", query: true, may: s.cfg.Tasks.May, handle: s.listTasks},
		{method: http.MethodGet, path: "/v1/tasks/:id", may: s.cfg.Tasks.May, handle: s.getTask},
		{method: http.MethodPut, path: "/v1/tasks/:id", change: true, body: jsonBody, may: s.cfg.Tasks.May, handle: s.putTask},
		{method: http.MethodDelete, path: "/v1/tasks/:id", change: true, may: s.cfg.Tasks.May, handle: s.deleteTask},
		{method: http.MethodGet, path: "/v1/tasks/:id/runs", action: "task.read", query: true, may: s.cfg.Tasks.May, handle: s.listRuns},
		{method: http.MethodGet, path: "/v1/secrets", action: "secret.read", may: s.cfg.Tasks.May, handle: s.listSecrets},
		{method: http.MethodPut, path: "/v1/secrets/:name", change: true, body: jsonBody, may: s.cfg.Tasks.May, handle: s.putSecret},
		{method: http.MethodDelete, path: "/v1/secrets/:name", change: true, may: s.cfg.Tasks.May, handle: s.deleteSecret},

		{method: http.MethodPost, path: "/v1/users", change: true, body: jsonBody, may: authz.MayManage, handle: s.createUser},
		{method: http.MethodGet, path: "/v1/users", query: true, may: s.cfg.Persons.May, handle: s.listUsers},
		{method: http.MethodGet, path: "/v1/users/:id", may: s.cfg.Persons.May, handle: s.getUser},
		{method: http.MethodPut, path: "/v1/users/:id", change: true, body: jsonBody, may: authz.MayManage, handle: s.putUser},
		{method: http.MethodDelete, path: "/v1/users/:id", action: "user.deactivate", change: true, may: authz.MayManage, handle: s.deleteUser},
		{method: http.MethodPost, path: "/v1/users/:id/claim", action: "user.claim", change: true, may: authz.MayManage, handle: s.claimUser},
		{method: http.MethodGet, path: "/v1/users/:id/groups", may: s.cfg.Persons.May, handle: s.userGroups},
		{method: http.MethodGet, path: "/v1/users/:id/claims", may: s.cfg.Persons.May, handle: s.userClaims},
		{method: http.MethodPost, path: "/v1/personal_tokens", action: "personal_token.create", open: true, body: jsonBody, handle: s.createToken},
		{method: http.MethodGet, path: "/v1/personal_tokens", action: "personal_token.read", query: true, may: anyone, handle: s.listTokens},
		{method: http.MethodDelete, path: "/v1/personal_tokens/:id", action: "personal_token.revoke", query: true, change: true, may: anyone, handle: s.revokeToken},
		{method: http.MethodPost, path: "/v1/access-request-templates", action: "access_request_template.create", both: true, change: true, body: jsonBody, may: s.cfg.Templates.May, handle: s.createTemplate},
		{method: http.MethodGet, path: "/v1/access-request-templates", action: "access_request_template.read", both: true, query: true, may: s.cfg.Templates.MayRead, handle: s.listTemplates},
		{method: http.MethodGet, path: "/v1/access-request-templates/:id", action: "access_request_template.read", both: true, may: s.cfg.Templates.MayRead, handle: s.getTemplate},
		{method: http.MethodPut, path: "/v1/access-request-templates/:id", action: "access_request_template.update", both: true, change: true, body: jsonBody, may: s.cfg.Templates.May, handle: s.putTemplate},
		{method: http.MethodDelete, path: "/v1/access-request-templates/:id", action: "access_request_template.delete", both: true, change: true, may: s.cfg.Templates.May, handle: s.deleteTemplate},
		{method: http.MethodPost, path: "/v1/access-requests", action: "access_request.submit", both: true, change: true, body: jsonBody, may: s.cfg.Templates.MayRead, deadline: decisionDeadline, handle: s.submitRequest},
		{method: http.MethodGet, path: "/v1/access-requests", action: "access_request.read", both: true, query: true, may: s.cfg.Templates.MayRead, handle: s.listMyRequests},
		{method: http.MethodGet, path: "/v1/access-requests/pending", action: "access_request.read", both: true, query: true, may: s.cfg.Templates.MayRead, handle: s.listPendingRequests},
		{method: http.MethodGet, path: "/v1/access-requests/all", action: "access_request.read", both: true, query: true, may: s.cfg.Requests.MayList, handle: s.listAllRequests},
		{method: http.MethodGet, path: "/v1/access-requests/:id", action: "access_request.read", both: true, query: true, may: s.cfg.Templates.MayRead, handle: s.getRequest},
		{method: http.MethodPost, path: "/v1/access-requests/:id/approve", action: "access_request.approve", both: true, change: true, body: jsonBody, bodyless: true, may: mayVote, deadline: decisionDeadline, handle: s.approveRequest},
		{method: http.MethodPost, path: "/v1/access-requests/:id/deny", action: "access_request.deny", both: true, change: true, body: jsonBody, bodyless: true, may: mayVote, handle: s.denyRequest},
		{method: http.MethodPost, path: "/v1/access-requests/:id/revoke", action: "access_request.revoke", both: true, change: true, body: jsonBody, bodyless: true, may: s.cfg.Templates.MayRead, handle: s.revokeRequest},
		{method: http.MethodGet, path: "/v1/access-requests/:id/messages", action: "access_request.read", both: true, query: true, may: s.cfg.Templates.MayRead, handle: s.listMessages},
		{method: http.MethodPost, path: "/v1/access-requests/:id/messages", action: "access_request.discuss", both: true, change: true, body: jsonBody, may: s.cfg.Templates.MayRead, handle: s.createMessage},

		{method: http.MethodPost, path: "/v1/groups", change: true, body: jsonBody, may: authz.MayManage, handle: s.createGroup},
		{method: http.MethodGet, path: "/v1/groups", query: true, may: s.cfg.Groups.May, handle: s.listGroups},
		{method: http.MethodGet, path: "/v1/groups/:id", may: s.cfg.Groups.May, handle: s.getGroup},
		{method: http.MethodPut, path: "/v1/groups/:id", change: true, body: jsonBody, may: authz.MayManage, handle: s.putGroup},
		{method: http.MethodDelete, path: "/v1/groups/:id", change: true, may: authz.MayManage, handle: s.deleteGroup},
		{method: http.MethodPut, path: "/v1/groups/:id/members/:user_id", action: "group.update", change: true, may: authz.MayManage, handle: s.putMember},
		{method: http.MethodDelete, path: "/v1/groups/:id/members/:user_id", action: "group.update", change: true, may: authz.MayManage, handle: s.deleteMember},
		{method: http.MethodPost, path: "/v1/applications", change: true, body: jsonBody, may: authz.MayManage, handle: s.createApplication},
		{method: http.MethodGet, path: "/v1/applications", query: true, may: s.cfg.Catalogue.MayRead, handle: s.listApplications},
		{method: http.MethodGet, path: "/v1/applications/:id", may: s.cfg.Catalogue.MayRead, handle: s.getApplication},
		{method: http.MethodPut, path: "/v1/applications/:id", change: true, body: jsonBody, may: authz.MayManage, handle: s.putApplication},
		{method: http.MethodDelete, path: "/v1/applications/:id", change: true, may: authz.MayManage, handle: s.deleteApplication},
		{method: http.MethodPost, path: "/v1/entitlements", change: true, body: jsonBody, may: authz.MayManage, handle: s.createEntitlement},
		{method: http.MethodGet, path: "/v1/entitlements", query: true, may: s.cfg.Catalogue.MayRead, handle: s.listEntitlements},
		{method: http.MethodGet, path: "/v1/entitlements/:id", may: s.cfg.Catalogue.MayRead, handle: s.getEntitlement},
		{method: http.MethodPut, path: "/v1/entitlements/:id", change: true, body: jsonBody, may: authz.MayManage, handle: s.putEntitlement},
		{method: http.MethodDelete, path: "/v1/entitlements/:id", change: true, may: authz.MayManage, handle: s.deleteEntitlement},
		{method: http.MethodPost, path: "/v1/approvals", action: "access_request.ask", change: true, body: jsonBody, may: s.cfg.Approvals.May, deadline: approvalDeadline, handle: s.askApproval},

		{method: http.MethodPost, path: "/v1/webhooks", change: true, body: jsonBody, may: s.cfg.Webhooks.May, handle: s.createWebhook},
		{method: http.MethodGet, path: "/v1/webhooks", may: s.cfg.Webhooks.May, handle: s.listWebhooks},
		{method: http.MethodGet, path: "/v1/webhooks/:id", may: s.cfg.Webhooks.May, handle: s.getWebhook},
		{method: http.MethodPut, path: "/v1/webhooks/:id", change: true, body: jsonBody, may: s.cfg.Webhooks.May, handle: s.putWebhook},
		{method: http.MethodDelete, path: "/v1/webhooks/:id", change: true, may: s.cfg.Webhooks.May, handle: s.deleteWebhook},
		{method: http.MethodPost, path: "/v1/webhooks/:id/rotate", action: "webhook.rotate", change: true, body: jsonBody, bodyless: true, may: s.cfg.Webhooks.May, handle: s.rotateWebhook},
		{method: http.MethodGet, path: "/v1/webhooks/:id/deliveries", action: "webhook.read", query: true, may: s.cfg.Webhooks.May, handle: s.listDeliveries},
		{method: http.MethodPost, path: "/v1/webhooks/:id/deliveries/:delivery/replay", action: "webhook.replay", change: true, may: s.cfg.Webhooks.May, handle: s.replayDelivery},

		{method: http.MethodGet, path: "/v1/auditing", action: "audit_event.read", query: true, ended: true, may: mayAudit, handle: s.listEvents},
		{method: http.MethodGet, path: "/v1/auditing/export", action: "audit_event.export", query: true, ended: true, may: mayAudit, handle: s.exportEvents},
		{method: http.MethodGet, path: "/v1/auditing/:id", action: "audit_event.read", query: true, ended: true, may: mayAudit, handle: s.getEvent},
		{method: http.MethodPost, path: "/v1/auditing/verify", action: "audit_event.verify", query: true, ended: true, may: mayAudit, deadline: time.Minute, handle: s.verifyChain},

		{method: http.MethodGet, path: "/health/live", local: true, open: true, decision: true, handle: s.live},
		{method: http.MethodGet, path: "/health/ready", local: true, open: true, decision: true, handle: s.ready},
		{method: http.MethodGet, path: "/openapi.yaml", open: true, handle: s.openapi},
	} {
		if rt.local || s.cfg.Upstream == nil {
			s.mount(s.app, &rt)
		}
		if rt.both && s.cfg.Upstream == nil {
			same := rt
			same.path = "/api" + rt.path
			s.mount(s.app, &same)
		}
	}
	for _, rt := range s.jobRoutes() {
		s.mount(s.app, &rt)
	}
	s.forwardRoutes(s.app, "")
	if s.cfg.Upstream != nil {
		s.passRoute()
	}
}

func anyone(*authz.Caller) error { return nil }

func mayDecide(c *authz.Caller) error {
	if c.MayDecide() {
		return nil
	}
	return latchkey.Errorf(latchkey.Forbidden, "scope_missing", "the key lacks the scope decision")
}

func mayRoot(c *authz.Caller) error {
	if c.IsRoot() {
		return nil
	}
	return latchkey.Errorf(latchkey.Forbidden, "not_permitted", "only the root key may do this")
}

func mayAudit(c *authz.Caller) error {
	if c.SeesEvents() {
		return nil
	}
	return latchkey.Errorf(latchkey.Forbidden, "scope_missing", "the key lacks the scope audit_events")
}
