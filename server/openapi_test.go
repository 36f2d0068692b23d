package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/deliveries"
	"github.com/latchkey-dev/latchkey/forward"
	"github.com/latchkey-dev/latchkey/internal/keyring"
	"github.com/latchkey-dev/latchkey/notify"
	"github.com/latchkey-dev/latchkey/people"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
	"github.com/latchkey-dev/latchkey/server"
	"github.com/latchkey-dev/latchkey/store"
	"github.com/latchkey-dev/latchkey/tasks"
)

// openapiDocument is openapi.yaml as a value, with its schemas compiled as
// they are asked for.
type openapiDocument struct {
	root     map[string]any
	compiler *jsonschema.Compiler
}

func readOpenAPI(t *testing.T) *openapiDocument {
	t.Helper()
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return parseOpenAPI(t, text)
}

func parseOpenAPI(t *testing.T, text []byte) *openapiDocument {
	t.Helper()
	var tree any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		t.Fatalf("openapi.yaml: %v", err)
	}
	asJSON, err := json.Marshal(tree)
	if err != nil {
		t.Fatalf("openapi.yaml: %v", err)
	}
	root, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatalf("openapi.yaml: %v", err)
	}
	d := &openapiDocument{root: root.(map[string]any), compiler: jsonschema.NewCompiler()}
	d.compiler.DefaultDraft(jsonschema.Draft2020)
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource("openapi", root); err != nil {
		t.Fatal(err)
	}
	return d
}

// at follows names from the root and returns what stands there, references
// resolved, and where it was found.
func (d *openapiDocument) at(pointer string) (value map[string]any, where string) {
	v := any(d.root)
	for part := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		object, _ := v.(map[string]any)
		if object == nil {
			return nil, ""
		}
		v = object[strings.NewReplacer("~1", "/", "~0", "~").Replace(part)]
		if next, _ := v.(map[string]any); next != nil && next["$ref"] != nil {
			target, _ := strings.CutPrefix(next["$ref"].(string), "#")
			v, pointer = d.at(target)
		}
	}
	value, _ = v.(map[string]any)
	return value, pointer
}

// child is at for one more name.
func (d *openapiDocument) child(of, name string) (map[string]any, string) {
	_, of = d.at(of)
	return d.at(of + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
}

func (d *openapiDocument) validate(pointer string, value any) error {
	schema, err := d.compiler.Compile("openapi#" + (&url.URL{Fragment: pointer}).EscapedFragment())
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

var openapiMethods = []string{"get", "put", "post", "delete", "patch", "head", "options", "trace"}

// operations lists "METHOD /path" as the document has them.
func (d *openapiDocument) operations() (list []string) {
	for path, item := range d.root["paths"].(map[string]any) {
		for method := range item.(map[string]any) {
			if slices.Contains(openapiMethods, method) {
				list = append(list, strings.ToUpper(method)+" "+path)
			}
		}
	}
	slices.Sort(list)
	return list
}

func openapiPointer(operation string) string {
	method, path, _ := strings.Cut(operation, " ")
	return "/paths/" + strings.ReplaceAll(path, "/", "~1") + "/" + strings.ToLower(method)
}

// statuses are those that the document gives for an operation.
func (d *openapiDocument) statuses(operation string) (list []string) {
	responses, _ := d.child(openapiPointer(operation), "responses")
	for status := range responses {
		list = append(list, status)
	}
	slices.Sort(list)
	return list
}

// check holds a reply to the document.
func (d *openapiDocument) check(operation string, resp *http.Response, body []byte) error {
	pointer := openapiPointer(operation) + "/responses"
	response, pointer := d.child(pointer, strconv.Itoa(resp.StatusCode))
	if response == nil {
		return fmt.Errorf("%s: the document knows no %d", operation, resp.StatusCode)
	}
	headers, _ := d.child(pointer, "headers")
	for name := range headers {
		header, at := d.child(pointer+"/headers", name)
		value := resp.Header.Get(name)
		if value == "" {
			if header["required"] == true {
				return fmt.Errorf("%s %d: the header %s is missing", operation, resp.StatusCode, name)
			}
			continue
		}
		if err := d.validate(at+"/schema", value); err != nil {
			return fmt.Errorf("%s %d: header %s: %w", operation, resp.StatusCode, name, err)
		}
	}
	for _, name := range []string{"X-Request-ID", "WWW-Authenticate", "Retry-After", "Location", "Preference-Applied", "Idempotency-Replayed"} {
		if h, _ := d.child(pointer+"/headers", name); h == nil && resp.Header.Get(name) != "" {
			return fmt.Errorf("%s %d: the document does not have the header %s", operation, resp.StatusCode, name)
		}
	}
	if response["content"] == nil {
		if len(body) > 0 || resp.Header.Get("Content-Type") != "" {
			return fmt.Errorf("%s %d: want no body, got %s", operation, resp.StatusCode, body)
		}
		return nil
	}
	media := resp.Header.Get("Content-Type")
	content, pointer := d.child(pointer+"/content", media)
	if content == nil {
		return fmt.Errorf("%s %d: the document does not have the type %q", operation, resp.StatusCode, media)
	}
	if media == "application/x-ndjson" { // the schema is that of a line
		for line := range bytes.Lines(body) {
			value, err := jsonschema.UnmarshalJSON(bytes.NewReader(line))
			if err == nil {
				err = d.validate(pointer+"/schema", value)
			}
			if err != nil {
				return fmt.Errorf("%s %d: %w in %s", operation, resp.StatusCode, err, line)
			}
		}
		return nil
	}
	value := any(string(body))
	if base, _, _ := mime.ParseMediaType(media); strings.HasSuffix(base, "json") {
		var err error
		if value, err = jsonschema.UnmarshalJSON(bytes.NewReader(body)); err != nil {
			return fmt.Errorf("%s %d: %w in %s", operation, resp.StatusCode, err, body)
		}
	}
	if err := d.validate(pointer+"/schema", value); err != nil {
		return fmt.Errorf("%s %d: %w in %s", operation, resp.StatusCode, err, body)
	}
	return nil
}

// checkRequest holds a body that the server has accepted to the document.
func (d *openapiDocument) checkRequest(operation, media, body string) error {
	content, pointer := d.child(openapiPointer(operation)+"/requestBody/content", media)
	if content == nil {
		return fmt.Errorf("%s: the document does not take the type %q", operation, media)
	}
	value := any(nil)
	if media == "application/json" {
		var err error
		if value, err = jsonschema.UnmarshalJSON(strings.NewReader(body)); err != nil {
			return err
		}
	} else {
		form, err := url.ParseQuery(body)
		if err != nil {
			return err
		}
		object := map[string]any{}
		for name := range form {
			object[name] = form.Get(name)
		}
		value = object
	}
	return d.validate(pointer+"/schema", value)
}

// openapiServer is a server wired as the program does it, on a real database.
type openapiServer struct {
	t      *testing.T
	doc    *openapiDocument
	url    string
	root   string
	db     *store.DB
	ahead  atomic.Int64 // of the real clock, in nanoseconds
	seen   map[string]bool
	server *server.Server

	summed   *authz.Refusals
	task     openapiTask // of access requests
	approver string      // a person's token
	// bundled says that all policies come from a bundle; calls are made one by one.
	bundled bool
}

func startOpenAPI(t *testing.T, doc *openapiDocument, change func(*server.Config)) *openapiServer {
	t.Helper()
	s := &openapiServer{t: t, doc: doc, seen: map[string]bool{}}
	ctx, dir := context.Background(), t.TempDir()
	now := func() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }
	began := latchkey.InstantOf(now())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	secrets, err := keyring.LoadOrCreate(filepath.Join(dir, "keyring.json"))
	must(err)
	at := databaseIn(t, dir)
	at.MAC = secrets.AuditMAC
	s.db, err = store.OpenConfig(ctx, at)
	must(err)
	t.Cleanup(func() { _ = s.db.Close() }) // a test may have closed it
	table, parser, peppers := &cache.Table{}, scopes.NewParser(64), &authz.Peppers{}
	must(authz.NewCustomers(s.db, table).Establish(ctx, authz.DefaultCustomer, began))
	s.summed = authz.NewRefusals(s.db)
	root := authz.NewRootKey(s.db, peppers)
	made, err := root.Establish(ctx, nil, began)
	must(err)
	s.root = made.Reveal()
	must(s.db.Load(ctx, table, parser, peppers, began))
	auth := authz.NewAuthenticator(table, peppers, root, authz.NewUses(s.db))
	subjects := subjectGrants(s.db, parser, func() latchkey.Instant { return latchkey.InstantOf(now()) })
	must(subjects.Start(ctx))
	entities, pdp := cache.NewDirectory(), authz.NewPDP(authz.PDPConfig{Keys: table, Auth: auth, Grants: subjects, MaxStaleness: 30 * time.Second})
	cfg := server.Config{
		Authenticator: auth,
		Directory:     authz.NewDirectory(s.db, entities, 32<<10),
		Searcher:      authz.NewSearcher(s.db, pdp),
		Rights:        people.NewRights(s.db),
		Keys:          authz.NewKeys(authz.KeysConfig{Record: s.db, Table: table, Parser: parser, Peppers: peppers, Mode: authz.Live, MaxActive: 10}),
		Customers:     authz.NewCustomers(s.db, table),
		Policies:      authz.NewPolicies(authz.PoliciesConfig{Record: s.db, Table: table, Origin: func(string) string { return map[bool]string{true: "bundle"}[s.bundled] }}),
		Root:          root, PDP: pdp, Table: table, Parser: parser, Record: s.db, Events: s.db, Refusals: s.summed,
		Sets:    authz.NewSets(authz.SetsConfig{Record: s.db}),
		Bundles: fixedBundles{func(customer string) string { return map[bool]string{true: "bundle"}[s.bundled] }, ""}, BundleSigner: bundleSigner(t),
		Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(), Now: now,
		PublicURL: "http://latchkey.example", NodeID: "openapi", SealKey: secrets.Seal, AuthFailureRate: 1000,
	}
	cfg.Tokens = people.NewTokens(s.db.People(), peppers)
	cfg.People = cfg.Tokens
	staff := people.Config{Record: s.db.People(), Tokens: cfg.Tokens, Keys: cfg.Keys, Table: table, Parser: parser, Grants: subjects}
	cfg.Persons, cfg.Groups, cfg.Catalogue = people.NewPersons(staff), people.NewGroups(staff), people.NewCatalogue(staff)
	cfg.Webhooks = deliveries.New(deliveries.Config{Record: s.db.Deliveries(), Vault: testVault(t), Addresses: notify.NewGuard(notify.GuardConfig{})})
	cfg.Templates = access.NewTemplates(access.TemplatesConfig{Record: s.db.Access(), Parser: parser})
	cfg.Requests = access.NewRequests(access.RequestsConfig{Record: s.db.Access(), Parser: parser, Subjects: subjects, Trigger: &s.task})
	cfg.Granter = authz.NewGranter(authz.GranterConfig{Record: s.db, Table: table, Parser: parser, Subjects: subjects, Requests: cfg.Requests, Entitlements: access.Entitled{}})
	cfg.Approvals = access.NewApprovals(access.ApprovalsConfig{Record: s.db.Access(), Requests: cfg.Requests, Parser: parser})
	cfg.Feed = authz.NewFeed(authz.FeedConfig{Record: s.db, Maker: &authz.RecordMaker{Record: s.db, Epoch: testEpoch}, Signer: feedSigner(t), Issuer: "openapi",
		Now: func() latchkey.Instant { return latchkey.InstantOf(now()) }, MaxBytes: 1 << 20})
	cfg.Nodes = authz.NewNodes(nil, false, 30*time.Second)
	cfg.Tasks = taskService(t, s.db, true)
	if change != nil {
		change(&cfg)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	s.url = "http://" + ln.Addr().String()
	if cfg.Routes, err = forward.ParseRoutes([]byte(`routes: [{path: "/docs/{id}", type: doc, id: "/docs/{id}"}]`)); err != nil {
		t.Fatal(err)
	}
	s.server = server.New(cfg)
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(ln, nil) }()
	t.Cleanup(func() {
		if err := s.server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		_ = ln.Close() // one that was shut down before it began to serve has not closed it
		<-served
	})
	return s
}

// openapiCall is one request to an operation.
type openapiCall struct {
	operation string // "METHOD /path/{of}/the/document"
	path      string // with values; the operation's where empty
	key       string // bearer
	headers   map[string]string
	body      string
	media     string // of the body; application/json where empty
}

// send makes the call and holds the reply to the document; want is its status.
func (s *openapiServer) send(c openapiCall, want int) (body []byte) {
	s.t.Helper()
	method, path, _ := strings.Cut(c.operation, " ")
	if c.path != "" {
		path = c.path
	}
	req, err := http.NewRequest(method, s.url+path, strings.NewReader(c.body))
	if err != nil {
		s.t.Fatal(err)
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	if c.media == "" {
		c.media = "application/json"
	}
	if c.body != "" {
		req.Header.Set("Content-Type", c.media)
	}
	for name, value := range c.headers {
		req.Header.Add(name, value)
	}
	do := http.DefaultClient.Do
	if want == http.StatusRequestEntityTooLarge {
		do = s.headOnly
	}
	resp, err := do(req)
	if err != nil {
		s.t.Fatalf("%s: %v", c.operation, err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		s.t.Fatalf("%s: %v", c.operation, err)
	}
	if resp.StatusCode != want {
		s.t.Errorf("%s %s: %d, want %d: %s", c.operation, c.body, resp.StatusCode, want, body)
		return body
	}
	if err := s.doc.check(c.operation, resp, body); err != nil {
		s.t.Error(err)
	}
	if c.body != "" && want < 300 {
		if err := s.doc.checkRequest(c.operation, c.media, c.body); err != nil {
			s.t.Errorf("%s takes what the document refuses: %v in %s", c.operation, err, c.body)
		}
	}
	s.seen[c.operation+" "+strconv.Itoa(want)] = true
	return body
}

// headOnly promises 32 MiB and sends none of them: what is too large is refused
// before it is read.
func (s *openapiServer) headOnly(req *http.Request) (*http.Response, error) {
	conn, err := net.Dial("tcp", req.URL.Host)
	if err != nil {
		return nil, err
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	var head bytes.Buffer
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n", req.Method, req.URL.RequestURI(), 32<<20)
	if err := req.Header.Write(&head); err != nil {
		return nil, err
	}
	head.WriteString("\r\n")
	if _, err := conn.Write(head.Bytes()); err != nil {
		return nil, err
	}
	return http.ReadResponse(bufio.NewReader(conn), req)
}

func openapiField(t *testing.T, body []byte, names ...string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	for _, name := range names {
		if list, ok := v.([]any); ok && len(list) > 0 {
			v = list[0]
		}
		object, _ := v.(map[string]any)
		v = object[name]
	}
	text, ok := v.(string)
	if !ok {
		t.Fatalf("no text at %v in %s", names, body)
	}
	return text
}

func TestOpenAPI_HasEveryRouteAndNoOther(t *testing.T) {
	doc := readOpenAPI(t)
	s := startOpenAPI(t, doc, nil)
	routes := server.OpenAPIRoutes(s.server)
	slices.Sort(routes)
	documented := doc.operations()
	for _, op := range doc.operations() { // those that are answered under a second path too
		method, path, _ := strings.Cut(op, " ")
		item := doc.root["paths"].(map[string]any)[path].(map[string]any)
		servers, _ := item["servers"].([]any)
		for _, one := range servers {
			if base := one.(map[string]any)["url"].(string); base != "/" {
				documented = append(documented, method+" "+base+path)
			}
		}
	}
	for _, r := range documented {
		if !slices.Contains(routes, r) {
			t.Errorf("the server lacks %s", r)
		}
	}
	for _, r := range routes {
		if method, _, _ := strings.Cut(r, " "); method != http.MethodHead && !slices.Contains(documented, r) {
			t.Errorf("the document lacks %s", r)
		}
	}
	ids := map[any]string{}
	for _, op := range doc.operations() {
		operation, at := doc.at(openapiPointer(op))
		id := operation["operationId"]
		if id == nil || ids[id] != "" {
			t.Errorf("%s: the operationId %v is missing, or %s has it too", op, id, ids[id])
		}
		ids[id] = op
		checkOpenAPIParameters(t, doc, op, operation, at)
	}
}

// checkOpenAPIParameters holds the path's parameters to its template.
func checkOpenAPIParameters(t *testing.T, doc *openapiDocument, op string, operation map[string]any, at string) {
	t.Helper()
	item, _ := doc.at(at[:strings.LastIndex(at, "/")])
	var inPath []string
	for _, list := range []any{item["parameters"], operation["parameters"]} {
		parameters, _ := list.([]any)
		for _, p := range parameters {
			parameter := p.(map[string]any)
			if ref, ok := parameter["$ref"].(string); ok {
				if parameter, _ = doc.at(strings.TrimPrefix(ref, "#")); parameter == nil {
					t.Errorf("%s: nothing at %s", op, ref)
					continue
				}
			}
			if parameter["in"] == "path" {
				inPath = append(inPath, parameter["name"].(string))
			}
		}
	}
	var inTemplate []string
	for part := range strings.SplitSeq(op, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			inTemplate = append(inTemplate, strings.TrimSuffix(name, "}"))
		}
	}
	if !slices.Equal(inPath, inTemplate) {
		t.Errorf("%s: the parameters %v, the template %v", op, inPath, inTemplate)
	}
}

func TestOpenAPI_EverySchemaCompilesAndIsUsed(t *testing.T) {
	doc := readOpenAPI(t)
	text, err := json.Marshal(doc.root)
	if err != nil {
		t.Fatal(err)
	}
	for kind, all := range doc.root["components"].(map[string]any) {
		for name := range all.(map[string]any) {
			pointer := "/components/" + kind + "/" + name
			if kind == "schemas" {
				if _, err := doc.compiler.Compile("openapi#" + pointer); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if kind != "securitySchemes" && !bytes.Contains(text, []byte(`"#`+pointer+`"`)) {
				t.Errorf("nothing refers to %s", pointer)
			}
		}
	}
}

func TestOpenAPI_ExamplesFitTheirSchemas(t *testing.T) {
	doc := readOpenAPI(t)
	n := 0
	for _, op := range doc.operations() {
		examples, at := doc.at(openapiPointer(op) + "/requestBody/content/application~1json/examples")
		for name := range examples {
			example, _ := doc.child(at, name)
			if err := doc.validate(strings.TrimSuffix(at, "/examples")+"/schema", example["value"]); err != nil {
				t.Errorf("%s: example %s: %v", op, name, err)
			}
			n++
		}
	}
	if n == 0 {
		t.Error("there are no examples")
	}
}

const (
	openapiExample = `{"scopes":{"customer":{"decision":true,"access_keys":["*"],"policies":[{"f":"*","p":2},{"f":"staging","p":4}]},` +
		`"metadata":{"username":"dale.cooper","keyname":"dashboard_dale.cooper"}}}`
	openapiFull = `{"scopes":{"customer":{"decision":true,"audit_events":true,"search":true,"sidecar":false,"access_keys":["decision","sets"],` +
		`"sets":[{"f":"*","p":15,"r":{"entity_type":"^string$","filter":"^[A-Z]+$"}},{"f":"open","p":4}],"bundles":[{"f":"b*","p":2}],` +
		`"doc":[{"f":"/docs/*","p":2,"a":["lock"]},{"f":"/docs/{id}","a":["*"]}]}},` +
		`"metadata":{"username":"u","keyname":"k","environment":"staging"},"expires_at":"2099-12-31T23:59:59.5+01:00"}`
	openapiPoor = `{"scopes":{"customer":{"policies":[{"f":"*","p":2}]}},"metadata":{"username":"u","keyname":"poor"},"expires_at":null}`
	openapiNone = "00000000-0000-4000-8000-000000000000"
)

// TestOpenAPI_RepliesAreAsDocumented asks every operation for every status that
// the document gives it, but for faults of the server.
func TestOpenAPI_RepliesAreAsDocumented(t *testing.T) {
	oneByOne(t)
	doc := readOpenAPI(t)
	s := startOpenAPI(t, doc, nil)
	s.customers()
	example, full, poor := s.keys()
	event := s.auditing(example.secret)
	s.decisions(example, full)
	s.checkKeys(example, full)
	s.sets(full)
	s.policies()
	s.directory(full)
	grant := s.grants(example, full)
	task := s.tasks()
	people := s.people(full)
	s.approvals(people)
	template, request := s.accessRequests(people, task)
	s.searches(full)
	hook := s.webhooks()
	s.bundles()
	s.sidecars(example)
	s.refusals(map[string]string{
		"/v1/access_keys/{id}": example.id, "/v1/access_keys/{id}/rotate": example.id, "/v1/access_keys/{id}/rego": example.id,
		"/v1/customers/{id}": "acme", "/v1/auditing/{id}": event, "/decision/{policy}": "main",
		"/v1/policies/{name}": "main", "/v1/policies/{name}/versions": "main", "/v1/policies/{name}/versions/{version}": "main/versions/1",
		"/v1/policies/{name}/rollback": "main", "/v1/policies/{name}/test": "main",
		"/v1/bundles/{name}": "acme.tar.gz",
		"/v1/grants/{id}":    grant,
		"/v1/tasks/{id}":     task, "/v1/tasks/{id}/runs": task, "/v1/secrets/{name}": "KEY",
		"/v1/webhooks/{id}": hook, "/v1/webhooks/{id}/rotate": hook, "/v1/webhooks/{id}/deliveries": hook,
		"/v1/webhooks/{id}/deliveries/{delivery}/replay": hook + "/deliveries/" + openapiNone,
		"/v1/users/{id}": people.user, "/v1/users/{id}/claim": people.user, "/v1/users/{id}/groups": people.user, "/v1/users/{id}/claims": people.user, "/v1/personal_tokens/{id}": people.token,
		"/v1/access-request-templates/{id}": template, "/v1/access-requests/{id}": request, "/v1/access-requests/{id}/approve": request, "/v1/access-requests/{id}/deny": request,
		"/v1/access-requests/{id}/revoke": request, "/v1/access-requests/{id}/messages": request,
		"/v1/groups/{id}": people.group, "/v1/groups/{id}/members/{user_id}": people.group + "/members/" + people.user,
		"/v1/applications/{id}": people.application, "/v1/entitlements/{id}": people.entitlement,
		"/v1/sets/{name}": "open", "/v1/sets/{name}/values": "open", "/v1/sets/{name}/values/{value}": "open/values/A",
		"/v1/subjects/{type}/{id}": "user/alice", "/v1/resources/{kind}/{id}": "host/a", "/v1/resource_types/{type}": "host",
	}, poor.secret)
	s.forwards(full)
	s.ends(example, full, poor)
	s.service()
	s.settings()

	for _, op := range doc.operations() {
		for _, status := range doc.statuses(op) {
			if status == "500" || status == "503" {
				continue // nothing here fails; where one is ours to ask for, it was checked
			}
			if !s.seen[op+" "+status] {
				t.Errorf("%s never answered %s", op, status)
			}
		}
	}
}

// openapiKey is a key that was made.
type openapiKey struct{ id, handle, secret string }

func (s *openapiServer) customers() {
	s.t.Helper()
	const create, one = "POST /v1/customers", "PATCH /v1/customers/{id}"
	once := map[string]string{"Idempotency-Key": "customers 1"}
	s.send(openapiCall{operation: create, key: s.root, headers: once, body: `{"name":"Acme","id":"acme"}`}, 201)
	s.send(openapiCall{operation: create, key: s.root, headers: once, body: `{"name":"Acme","id":"acme"}`}, 201)
	s.send(openapiCall{operation: create, key: s.root, headers: once, body: `{"name":"Other"}`}, 422)
	s.send(openapiCall{operation: create, key: s.root, body: `{"name":"Made","max_active_keys":3}`}, 201)
	s.send(openapiCall{operation: create, key: s.root, body: `{"name":"Acme","id":"acme"}`}, 409)
	s.send(openapiCall{operation: create, key: s.root, body: `{"name":" "}`}, 400)
	s.send(openapiCall{operation: "GET /v1/customers", path: "/v1/customers?limit=2&offset=1", key: s.root}, 200)
	s.send(openapiCall{operation: "GET /v1/customers", path: "/v1/customers?limit=0", key: s.root}, 400)
	s.send(openapiCall{operation: "GET /v1/customers/{id}", path: "/v1/customers/acme", key: s.root}, 200)
	s.send(openapiCall{operation: "GET /v1/customers/{id}", path: "/v1/customers/nobody", key: s.root}, 404)
	s.send(openapiCall{operation: one, path: "/v1/customers/acme", key: s.root, body: `{"name":"ACME","max_active_keys":4,"default_policy":null}`}, 200)
	s.send(openapiCall{operation: one, path: "/v1/customers/acme", key: s.root, body: `{"default_policy":"main"}`}, 400)
	s.send(openapiCall{operation: one, path: "/v1/customers/nobody", key: s.root, body: `{}`}, 404)
	s.send(openapiCall{operation: "DELETE /v1/customers/{id}", path: "/v1/customers/default", key: s.root}, 409)
	s.send(openapiCall{operation: "DELETE /v1/customers/{id}", path: "/v1/customers/nobody", key: s.root}, 404)
}

var openapiAcme = map[string]string{"X-Customer-ID": "acme"}

func (s *openapiServer) keys() (example, full, poor openapiKey) {
	s.t.Helper()
	const create = "POST /v1/access_keys"
	key := func(body []byte) openapiKey {
		s.t.Helper()
		return openapiKey{openapiField(s.t, body, "id"), openapiField(s.t, body, "handle"), openapiField(s.t, body, "key")}
	}
	example = key(s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: openapiExample}, 201))
	poor = key(s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: openapiPoor}, 201))
	once := map[string]string{"X-Customer-ID": "acme", "Idempotency-Key": "keys 1"}
	full = key(s.send(openapiCall{operation: create, key: s.root, headers: once, body: openapiFull}, 201))
	s.send(openapiCall{operation: create, key: s.root, headers: once, body: openapiFull}, 201)
	s.send(openapiCall{operation: create, key: s.root, headers: once, body: openapiPoor}, 422)
	s.send(openapiCall{operation: create, key: s.root, body: openapiPoor}, 400) // customer_required
	s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: `{"scopes":{"customer":{"policies":[{"f":"x","p":1},{"f":"*","p":16}]}},"metadata":{}}`}, 400)
	s.send(openapiCall{operation: create, key: example.secret, body: openapiPoor}, 403)
	s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: strings.Replace(openapiPoor, "null", `"2099-01-01T00:00:00Z"`, 1)}, 201)
	s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: openapiPoor}, 500) // too many

	list := "GET /v1/access_keys"
	s.send(openapiCall{operation: list, key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: list, path: "/v1/access_keys?status=all&limit=1&offset=1&sort_field=revoked_at&sort_direction=asc&metadata.username=u&metadata.keyname=poor", key: example.secret}, 200)
	s.send(openapiCall{operation: list, path: "/v1/access_keys?status=gone", key: s.root}, 400)
	s.send(openapiCall{operation: "GET /v1/access_keys/self", key: full.secret}, 200)
	s.send(openapiCall{operation: "GET /v1/access_keys/self", key: s.root}, 404)

	one := "/v1/access_keys/" + example.id
	s.send(openapiCall{operation: "GET /v1/access_keys/{id}", path: one, key: example.secret}, 200)
	s.send(openapiCall{operation: "GET /v1/access_keys/{id}", path: "/v1/access_keys/" + openapiNone, key: example.secret}, 404)
	s.send(openapiCall{operation: "GET /v1/access_keys/{id}/rego", path: one + "/rego", key: example.secret}, 200)
	s.send(openapiCall{operation: "GET /v1/access_keys/{id}/rego", path: "/v1/access_keys/" + openapiNone + "/rego", key: example.secret}, 404)

	rotate := "POST /v1/access_keys/{id}/rotate"
	before := example
	once = map[string]string{"X-Customer-ID": "acme", "Idempotency-Key": "rotate 1"}
	example = key(s.send(openapiCall{operation: rotate, path: one + "/rotate", key: s.root, headers: once, body: `{"grace":"1h"}`}, 201))
	s.send(openapiCall{operation: rotate, path: one + "/rotate", key: s.root, headers: once, body: `{"grace":"1h"}`}, 201)
	s.send(openapiCall{operation: rotate, path: one + "/rotate", key: s.root, headers: once, body: `{"grace":3600}`}, 422)
	s.send(openapiCall{operation: rotate, path: one + "/rotate", key: s.root, headers: openapiAcme, body: `{"grace":"31d"}`}, 400)
	s.send(openapiCall{operation: "GET /v1/access_keys/{id}", path: one, key: before.secret}, 200)
	return example, full, poor
}

func (s *openapiServer) auditing(secret string) (event string) {
	s.t.Helper()
	const list, one, verify = "GET /v1/auditing", "GET /v1/auditing/{id}", "POST /v1/auditing/verify"
	body := s.send(openapiCall{operation: list, path: "/v1/auditing?limit=1", key: secret}, 200)
	event = openapiField(s.t, body, "events", "id")
	s.send(openapiCall{operation: list, path: "/v1/auditing?cursor=" + openapiField(s.t, body, "next_cursor"), key: secret}, 200)
	s.send(openapiCall{operation: list, path: "/v1/auditing?from=2000-01-01T00:00:00Z&to=2099-01-01T00:00:00%2B02:00&actor=root&action=access_key.create&resource_type=access_key&resource_name=poor&outcome=success&request_id=none", key: secret}, 200)
	s.send(openapiCall{operation: list, path: "/v1/auditing?chain=system", key: s.root}, 200)
	s.send(openapiCall{operation: list, key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: list, path: "/v1/auditing?chain=system", key: secret}, 403)
	s.send(openapiCall{operation: list, path: "/v1/auditing?cursor=x", key: secret}, 400)
	const export = "GET /v1/auditing/export"
	s.send(openapiCall{operation: export, key: secret}, 200)
	s.send(openapiCall{operation: export, path: "/v1/auditing/export?chain=system&from=2000-01-01T00:00:00Z", key: s.root}, 200)
	s.send(openapiCall{operation: export, path: "/v1/auditing/export?limit=1", key: secret}, 400)
	s.send(openapiCall{operation: one, path: "/v1/auditing/" + event, key: secret}, 200)
	s.send(openapiCall{operation: one, path: "/v1/auditing/" + openapiNone, key: secret}, 404)
	s.send(openapiCall{operation: verify, key: secret}, 200)
	s.send(openapiCall{operation: verify, path: "/v1/auditing/verify?chain=system", key: s.root}, 200)
	return event
}

func (s *openapiServer) bundles() {
	s.t.Helper()
	const one, path = "GET /v1/bundles/{name}", "/v1/bundles/acme.tar.gz"
	s.send(openapiCall{operation: "GET /v1/bundles", key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: one, path: path + "?profile=latchkey&signature=none", key: s.root}, 200)
	s.send(openapiCall{operation: one, path: path, key: s.root, headers: map[string]string{"Prefer": "modes=snapshot,delta;wait=1"}}, 200)
	s.send(openapiCall{operation: one, path: path, key: s.root, headers: map[string]string{"If-None-Match": "*"}}, 304)
	s.send(openapiCall{operation: one, path: path, key: s.root, headers: map[string]string{"If-Match": `"other"`}}, 412)
	s.send(openapiCall{operation: one, path: "/v1/bundles/nobody.tar.gz", key: s.root}, 404)
	s.bundled = true
	s.send(openapiCall{operation: one, path: path, key: s.root}, 409)
	s.bundled = false
}

// sets are written with a key that may write capitals only.
func (s *openapiServer) sidecars(example openapiKey) {
	s.t.Helper()
	const feed, key = "GET /v1/sidecar/feed", "GET /v1/sidecar/keys"
	s.send(openapiCall{operation: "GET /v1/sidecar/verification_keys", key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: key, path: "/v1/sidecar/keys?id=" + example.id, key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: key, path: "/v1/sidecar/keys?id=" + openapiNone, key: s.root, headers: openapiAcme}, 404)
	s.send(openapiCall{operation: key, key: s.root, headers: openapiAcme}, 400)
	for _, of := range []string{"subjects", "resources"} {
		s.send(openapiCall{operation: "GET /v1/sidecar/" + of, path: "/v1/sidecar/" + of + "?type=user&id=alice", key: s.root, headers: openapiAcme}, 200)
		s.send(openapiCall{operation: "GET /v1/sidecar/" + of, key: s.root, headers: openapiAcme}, 400)
	}
	s.send(openapiCall{operation: feed, path: "/v1/sidecar/feed?after=1&epoch=7&node=n", key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: feed, path: "/v1/sidecar/feed?after=99999&epoch=7&node=n", key: s.root, headers: map[string]string{"X-Customer-ID": "acme", "Prefer": "wait=0"}}, 200)
	s.send(openapiCall{operation: feed, path: "/v1/sidecar/feed?after=1&epoch=6&node=n", key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: feed, path: "/v1/sidecar/feed?after=1&epoch=7&node=", key: s.root, headers: openapiAcme}, 400)
	s.send(openapiCall{operation: "GET /v1/nodes", key: s.root}, 200)
	s.send(openapiCall{operation: "GET /v1/nodes", path: "/v1/nodes?limit=0", key: s.root}, 400)
}

func (s *openapiServer) sets(full openapiKey) {
	s.t.Helper()
	const create, list, one = "POST /v1/sets", "GET /v1/sets", "/v1/sets/{name}"
	const values, value = "GET /v1/sets/{name}/values", "/v1/sets/{name}/values/{value}"
	other := map[string]string{"If-Match": `"other"`}
	made := func(name, of string) string {
		return `{"name":"` + name + `","entity_type":"string","values":` + of + `}`
	}
	once := map[string]string{"Idempotency-Key": "sets 1"}
	s.send(openapiCall{operation: create, key: full.secret, headers: once, body: made("open", `["A","B","C"]`)}, 201)
	s.send(openapiCall{operation: create, key: full.secret, headers: once, body: made("open", `["A","B","C"]`)}, 201)
	s.send(openapiCall{operation: create, key: full.secret, headers: once, body: made("open", `["A"]`)}, 422)
	s.send(openapiCall{operation: create, key: full.secret, body: made("open", `["A"]`)}, 409)
	s.send(openapiCall{operation: create, key: full.secret, body: made("x", `["A","a"]`)}, 403)
	s.send(openapiCall{operation: create, key: full.secret, body: made("x", `[7]`)}, 400)
	s.send(openapiCall{operation: create, key: full.secret, headers: other, body: made("x", `["A"]`)}, 412)
	s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: `{"name":"nets","entity_type":"ip","description":"x"}`}, 201)

	s.send(openapiCall{operation: list, path: "/v1/sets?limit=1&offset=1", key: full.secret}, 200)
	got := s.send(openapiCall{operation: "GET " + one, path: "/v1/sets/open", key: full.secret}, 200)
	tag := map[string]string{"If-None-Match": `"` + openapiField(s.t, got, "id") + `-1"`}
	s.send(openapiCall{operation: "GET " + one, path: "/v1/sets/open", key: full.secret, headers: tag}, 304)
	s.send(openapiCall{operation: "GET " + one, path: "/v1/sets/open", key: full.secret, headers: other}, 412)

	s.send(openapiCall{operation: "PUT " + one, path: "/v1/sets/open", key: full.secret, body: `{"values":["A","B","D"],"description":"letters"}`}, 200)
	s.send(openapiCall{operation: "PATCH " + one, path: "/v1/sets/open", key: full.secret, body: `{"add":["E"],"remove":["D","Z"]}`}, 200)
	for op, body := range map[string]string{"PUT " + one: `{"values":["X"]}`, "PATCH " + one: `{"add":["X"]}`, "DELETE " + one: ""} {
		s.send(openapiCall{operation: op, path: "/v1/sets/open", key: s.root, headers: map[string]string{"X-Customer-ID": "acme", "If-Match": `"other"`}, body: body}, 412)
		s.send(openapiCall{operation: op, path: "/v1/sets/none", key: s.root, headers: openapiAcme, body: body}, 404)
	}
	first := s.send(openapiCall{operation: values, path: "/v1/sets/open/values?limit=1", key: full.secret}, 200)
	s.send(openapiCall{operation: values, path: "/v1/sets/open/values?prefix=B&cursor=" + openapiField(s.t, first, "next_cursor"), key: full.secret}, 200)
	s.send(openapiCall{operation: "GET " + value, path: "/v1/sets/open/values/A", key: full.secret}, 200)
	s.send(openapiCall{operation: "GET " + value, path: "/v1/sets/open/values/Z", key: full.secret}, 404)
	s.send(openapiCall{operation: "DELETE " + value, path: "/v1/sets/open/values/A", key: full.secret, headers: other}, 412)
	s.send(openapiCall{operation: "DELETE " + value, path: "/v1/sets/open/values/A", key: full.secret}, 204)
	s.send(openapiCall{operation: "DELETE " + one, path: "/v1/sets/nets", key: s.root, headers: openapiAcme}, 204)
}

// openapiQuestion asks whether the subject may do it to that.
func openapiQuestion(subject, action, resource string) string {
	return `{"subject":` + subject + `,"action":{"name":"` + action + `"},"resource":` + resource + `}`
}

func (s *openapiServer) decisions(example, full openapiKey) {
	s.t.Helper()
	const staging, main = `{"type":"policies","id":"staging"}`, `{"type":"policies","id":"main"}`
	byID := `{"type":"access_key","id":"` + example.id + `"}`
	bySecret := `{"type":"access_key","properties":{"key":"` + full.secret + `"}}`
	fullByHandle := `{"type":"access_key","id":"` + full.handle + `","properties":{"key":"` + full.secret + `"}}`
	bad := `{"type":"sets","id":"s","properties":{"entity_type":"string","values":["A","b"],"removed_values":["c"]}}`
	for _, q := range []string{
		openapiQuestion(byID, "update", staging),
		openapiQuestion(byID, "update", main),
		openapiQuestion(byID, "read", staging),
		openapiQuestion(fullByHandle, "lock", `{"type":"doc","id":"/docs/{id}"}`),
		openapiQuestion(bySecret, "update", bad),
		openapiQuestion(bySecret, "update", `{"type":"sets","id":"s"}`),
		openapiQuestion(bySecret, "update", `{"type":"sets","id":"open"}`),
		openapiQuestion(bySecret, "read", `{"type":"bundles","id":"x"}`),
		openapiQuestion(`{"type":"user","id":"alice","properties":{"email":"a@example.com"}}`, "read", main),
		openapiQuestion(`{"type":"access_key","id":"`+openapiNone+`"}`, "read", main),
		openapiQuestion(`{"type":"access_key","id":"`+s.root[:17]+`"}`, "read", main),
	} {
		s.send(openapiCall{operation: "POST /decision", key: full.secret, body: q}, 200)
		s.send(openapiCall{operation: "POST /decision/explain", key: full.secret, body: q}, 200)
		s.send(openapiCall{operation: "POST /decision/batch", key: full.secret, body: q}, 200)
		s.send(openapiCall{operation: "POST /decision/batch", key: full.secret, body: `{"evaluations":[` + q + `]}`}, 200)
		s.send(openapiCall{operation: "POST /access/v1/evaluations", key: full.secret, body: `{"evaluations":[` + openapiQuestion(byID, "read", main) + `,` + q + `]}`}, 200)
		s.send(openapiCall{operation: "POST /decision/{policy}", path: "/decision/main", key: full.secret, body: q}, 404)
	}
	q := openapiQuestion(byID, "read", main)
	s.send(openapiCall{operation: "POST /access/v1/evaluation", key: full.secret, body: q}, 200)
	s.send(openapiCall{operation: "POST /access/v1/evaluation", key: full.secret, body: strings.Replace(q, "{", `{"policy":"ignored","more":1,`, 1)}, 200)
	s.send(openapiCall{operation: "POST /access/v1/evaluations", key: full.secret, body: q}, 200)
	s.send(openapiCall{operation: "POST /decision/batch", key: full.secret, body: `{"subject":` + byID + `,"action":{"name":"read"},"options":{"evaluations_semantic":"permit_on_first_permit"},
		"evaluations":[{"resource":{"type":"policies"}},{"policy":"main","resource":` + main + `},{"resource":` + main + `},{}]}`}, 200)
	for _, op := range []string{"POST /decision", "POST /decision/explain", "POST /decision/batch"} {
		s.send(openapiCall{operation: op, key: full.secret, body: strings.Replace(q, "{", `{"policy":"main",`, 1)}, 404)
		s.send(openapiCall{operation: op, key: full.secret, body: `{"subject":7}`}, 400)
	}
	s.send(openapiCall{operation: "POST /decision/{policy}", path: "/decision/main", key: full.secret, body: strings.Replace(q, "{", `{"policy":"other",`, 1)}, 400)
	s.send(openapiCall{operation: "POST /access/v1/evaluation", key: full.secret, body: `{"subject":7}`}, 400)
	s.send(openapiCall{operation: "POST /access/v1/evaluations", key: full.secret, body: `{"evaluations":7}`}, 400)
	s.send(openapiCall{operation: "POST /decision/explain", key: example.secret, body: openapiQuestion(`{"type":"user","id":"alice"}`, "read", main)}, 403)
}

func (s *openapiServer) forwards(full openapiKey) {
	s.t.Helper()
	const root = "/decision/forward/"
	for op, c := range map[string]struct {
		path    string
		headers map[string]string
	}{
		"GET " + root + "nginx":        {root + "nginx", map[string]string{"X-Original-Method": "GET", "X-Original-URI": "/docs/1"}},
		"GET " + root + "forwarded":    {root + "forwarded", map[string]string{"X-Forwarded-Method": "GET", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "api", "X-Forwarded-Uri": "/docs/1"}},
		"GET " + root + "envoy/{path}": {root + "envoy/docs/1", map[string]string{}},
	} {
		call := openapiCall{operation: op, path: c.path, headers: c.headers}
		s.send(call, 401) // caller_required
		call.headers["X-Latchkey-Caller"] = full.secret
		s.send(call, 401) // invalid_credential
		call.key = full.secret
		s.send(call, 200)
		call.headers["X-Original-URI"], call.headers["X-Forwarded-Uri"] = "/nowhere", "/nowhere"
		call.path = strings.Replace(c.path, "docs/1", "nowhere", 1)
		s.send(call, 403)
		call.body, call.path = "", c.path
		s.send(call, 413)
	}
}

func (s *openapiServer) checkKeys(example, full openapiKey) {
	s.t.Helper()
	const verify, introspect, form = "POST /v1/access_keys/verify", "POST /v1/introspect", "application/x-www-form-urlencoded"
	for _, key := range []string{example.secret, full.secret, s.root, "nonsense"} {
		s.send(openapiCall{operation: verify, key: full.secret, body: `{"key":"` + key + `","checks":[{"resource":{"type":"policies","id":"staging"},"permission":"update"},{"resource":{"type":"sets","id":"s"},"permission":"delete"}]}`}, 200)
		s.send(openapiCall{operation: introspect, key: full.secret, media: form, body: url.Values{"token": {key}, "token_type_hint": {"access_token"}}.Encode()}, 200)
	}
	s.send(openapiCall{operation: verify, key: s.root, headers: openapiAcme, body: `{"key":"` + full.secret + `"}`}, 200)
	s.send(openapiCall{operation: verify, key: full.secret, body: `{"key":7}`}, 400)
	s.send(openapiCall{operation: introspect, key: full.secret, media: form, body: `key=x`}, 400)
}

const (
	openapiCEL = `{"name":"rules","language":"cel","description":"d","rules":[{"label":"a","match":"true","action":"throttle","effect":"permit","obligations":[{"rate":1}]}],"default":{"action":"deny"}}`
	openapiBad = `{"name":"rules","language":"cel","rules":[{"label":"a","match":"nosuch","action":"allow"}],"default":{"action":"deny"}}`
)

func (s *openapiServer) policies() {
	s.t.Helper()
	const one, at = "/v1/policies/{name}", "/v1/policies/rules"
	call := func(operation, path, body string, want int, headers ...string) []byte {
		s.t.Helper()
		head := map[string]string{"X-Customer-ID": "acme"}
		for i := 0; i < len(headers); i += 2 {
			head[headers[i]] = headers[i+1]
		}
		return s.send(openapiCall{operation: operation, path: path, key: s.root, headers: head, body: body}, want)
	}
	call("POST /v1/policies", "", openapiCEL, 201, "Idempotency-Key", "policies 1")
	call("POST /v1/policies", "", openapiCEL, 201, "Idempotency-Key", "policies 1")
	call("POST /v1/policies", "", openapiBad, 422, "Idempotency-Key", "policies 1")
	call("POST /v1/policies", "", openapiBad, 400)
	call("POST /v1/policies", "", openapiCEL, 409)
	call("POST /v1/policies", "", strings.Replace(openapiCEL, "rules", "new", 1), 412, "If-Match", "*")
	call("PUT "+one, "/v1/policies/rego", `{"language":"rego","rego":"package policies.rego\nallow := true\n"}`, 201)
	call("PUT "+one, at, openapiCEL, 200)
	call("PUT "+one, at, strings.Replace(openapiCEL, "true", "false", 1), 200)
	call("PUT "+one, at, openapiBad, 400)
	call("PUT "+one, at, openapiCEL, 412, "If-None-Match", "*")
	call("GET /v1/policies", "/v1/policies?limit=1&offset=1", "", 200)
	call("GET /v1/policies", "", "", 200)
	call("GET "+one, at, "", 200)
	call("GET "+one, at, "", 304, "If-None-Match", "*")
	call("GET "+one, at, "", 412, "If-Match", `"x"`)
	call("GET "+one+"/versions", at+"/versions", "", 200)
	call("GET "+one+"/versions/{version}", at+"/versions/1", "", 200)
	call("GET "+one+"/versions/{version}", at+"/versions/1", "", 304, "If-None-Match", "*")
	call("GET "+one+"/versions/{version}", at+"/versions/1", "", 412, "If-Match", `"x"`)
	call("GET "+one+"/versions/{version}", at+"/versions/9", "", 404)
	call("POST "+one+"/rollback", at+"/rollback", `{"version":1}`, 200, "Idempotency-Key", "policies 2")
	call("POST "+one+"/rollback", at+"/rollback", `{"version":2}`, 422, "Idempotency-Key", "policies 2")
	call("POST "+one+"/rollback", at+"/rollback", `{"version":1}`, 412, "If-Match", `"x"`)
	call("POST "+one+"/rollback", at+"/rollback", `{}`, 400)
	q := openapiQuestion(`{"type":"user","id":"u"}`, "read", `{"type":"doc","id":"d"}`)
	cases := `"cases":[{"name":"n","request":` + q + `,"scope_permits":true,"now":"2030-01-01T00:00:00Z","grants":[{"id":"g"}],"expect":{"decision":true,"rule":"a","obligations":[{"rate":1}]}},{"request":` + q + `,"expect":{"rule":null,"error":"error"}}]`
	call("POST "+one+"/test", at+"/test", `{`+cases+`}`, 200)
	call("POST "+one+"/test", at+"/test", `{"document":`+openapiCEL+`,`+cases+`}`, 200)
	call("POST "+one+"/test", "/v1/policies/rego/test", `{`+cases+`}`, 200)
	s.send(openapiCall{operation: "PATCH /v1/customers/{id}", path: "/v1/customers/acme", key: s.root, body: `{"default_policy":"rules"}`}, 200)
	s.send(openapiCall{operation: "GET /v1/customers", key: s.root}, 200)
	call("DELETE "+one, at, "", 409)
	call("DELETE "+one, at, "", 412, "If-Match", `"x"`)
	s.send(openapiCall{operation: "PATCH /v1/customers/{id}", path: "/v1/customers/acme", key: s.root, body: `{"default_policy":null}`}, 200)
	call("DELETE "+one, at, "", 204)

	s.bundled = true
	call("PUT "+one, "/v1/policies/rego", openapiCEL, 400)
	call("PUT "+one, at, openapiCEL, 409)
	call("POST "+one+"/rollback", "/v1/policies/rego/rollback", `{"version":1}`, 409)
	s.bundled = false
}

// refusals asks every operation for what all of them refuse alike.
func (s *openapiServer) refusals(values map[string]string, poor string) {
	s.t.Helper()
	few := startOpenAPI(s.t, s.doc, func(cfg *server.Config) { cfg.AuthFailureRate = 0.1 })
	for _, op := range s.doc.operations() {
		operation, at := s.doc.at(openapiPointer(op))
		_, path, _ := strings.Cut(op, " ")
		if strings.HasPrefix(path, "/decision/forward/") {
			continue // what is asked there is an end client's request: see forwards
		}
		if value, ok := values[path]; ok {
			path = path[:strings.Index(path, "{")] + value + path[strings.LastIndex(path, "}")+1:]
		}
		call := openapiCall{operation: op, path: path}
		call.path += "?x=" + openapiToken
		s.send(call, 400) // credential_in_query
		who := s.root
		if strings.HasSuffix(path, "/approve") || strings.HasSuffix(path, "/deny") {
			who = s.approver // nobody else gets that far
		}
		call.path, call.key, call.headers = path+"?nosuch=1", who, openapiAcme
		open := operation["security"] != nil
		if !open && !strings.Contains(path, "/access/v1/") {
			s.parameters(op, s.send(call, 400))
		}
		call = openapiCall{operation: op, path: path}
		if open {
			continue
		}
		s.send(call, 401)
		call.key = "nonsense"
		s.send(call, 401)
		few.send(call, map[bool]int{true: 429, false: 401}[few.seen["limited"]])
		if !few.seen["limited"] {
			few.seen["limited"] = true
			few.send(call, 429)
		}
		call.key = poor
		call.headers = map[string]string{"X-Customer-ID": "default"}
		s.send(call, 403)
		if !strings.Contains(op, "/v1/customers") && !strings.Contains(op, "/v1/bundles/") && !strings.Contains(op, "/v1/root") && !strings.HasSuffix(op, "/v1/nodes") && who == s.root {
			call.key, call.headers = s.root, map[string]string{"X-Customer-ID": "nobody"}
			s.send(call, 404)
		}
		body, _ := s.doc.at(at + "/requestBody")
		if body == nil {
			continue
		}
		call.key, call.headers = who, openapiAcme
		call.body, call.media = "x", "text/plain"
		s.send(call, 415)
		call.media, call.body = "application/json", ""
		s.send(call, 413)
	}
	for seen := range few.seen {
		s.seen[seen] = true
	}
}

// parameters holds the query parameters of the document to those that the
// refusal of an unknown one names.
func (s *openapiServer) parameters(op string, refusal []byte) {
	s.t.Helper()
	detail := openapiField(s.t, refusal, "errors", "detail")
	_, list, found := strings.Cut(detail, "known are ")
	if !found && detail != "this path takes no query parameters" {
		s.t.Errorf("%s: an unknown parameter is refused with %s", op, refusal)
		return
	}
	known := strings.FieldsFunc(list, func(c rune) bool { return c == ',' || c == ' ' })
	var documented []string
	operation, _ := s.doc.at(openapiPointer(op))
	parameters, _ := operation["parameters"].([]any) // none of those beside the methods is of the query
	for _, p := range parameters {
		parameter := p.(map[string]any)
		if ref, ok := parameter["$ref"].(string); ok {
			parameter, _ = s.doc.at(strings.TrimPrefix(ref, "#"))
		}
		name := parameter["name"].(string)
		if parameter["in"] == "query" {
			documented = append(documented, strings.NewReplacer("metadata.username", "metadata.NAME", "label.plan", "label.NAME").Replace(name))
		}
	}
	slices.Sort(known)
	slices.Sort(documented)
	if !slices.Equal(known, documented) {
		s.t.Errorf("%s: the server knows the parameters %v, the document %v", op, known, documented)
	}
}

// openapiToken has the shape of a key, and stands for nobody.
const openapiToken = "lk1_live_000000000000_0000000000000000000000000000000000000000000_000000"

func (s *openapiServer) ends(example, full, poor openapiKey) {
	s.t.Helper()
	const revoke = "DELETE /v1/access_keys/{id}"
	path := func(k openapiKey) string { return "/v1/access_keys/" + k.id }
	s.send(openapiCall{operation: revoke, path: path(poor), key: example.secret}, 403)
	s.send(openapiCall{operation: revoke, path: path(poor), key: poor.secret}, 204)
	s.send(openapiCall{operation: "GET /v1/access_keys/self", key: poor.secret}, 401)
	s.send(openapiCall{operation: revoke, path: path(poor), key: s.root, headers: openapiAcme}, 409)
	s.send(openapiCall{operation: "POST /v1/grants", key: s.root, headers: openapiAcme, body: `{"subject":{"type":"access_key","id":"` + poor.id + `"},"entries":{"a":[{"f":"*","p":2}]},"expires_at":"2099-01-01T00:00:00Z","reason":"too late"}`}, 409)
	s.send(openapiCall{operation: revoke, path: "/v1/access_keys/" + openapiNone, key: s.root, headers: openapiAcme}, 404)
	s.send(openapiCall{operation: revoke, path: path(example), key: s.root, headers: map[string]string{"X-Customer-ID": "acme", "Prefer": "wait=61"}}, 400)
	s.send(openapiCall{operation: revoke, path: path(example), key: s.root, headers: map[string]string{"X-Customer-ID": "acme", "Prefer": "return=representation, wait=5"}}, 200)
	s.send(openapiCall{operation: "POST /v1/access_keys/{id}/rotate", path: path(example) + "/rotate", key: s.root, headers: openapiAcme, body: `{}`}, 409)

	// Of a revoked and of an expired key, every answer that tells of it.
	body := `{"scopes":{"customer":{"decision":true}},"metadata":{"username":"u","keyname":"short"},"expires_at":"` + time.Now().Add(time.Hour).Format(time.RFC3339Nano) + `"}`
	made := s.send(openapiCall{operation: "POST /v1/access_keys", key: s.root, headers: openapiAcme, body: body}, 201)
	short := openapiKey{id: openapiField(s.t, made, "id"), secret: openapiField(s.t, made, "key")}
	s.ahead.Add(int64(2 * time.Hour))
	for _, ended := range []openapiKey{example, short} {
		s.send(openapiCall{operation: "GET /v1/access_keys/self", key: ended.secret}, 401)
		s.send(openapiCall{operation: "POST /access/v1/evaluation", key: ended.secret, body: `{}`}, 401)
		s.send(openapiCall{operation: "POST /v1/access_keys/verify", key: full.secret, body: `{"key":"` + ended.secret + `","checks":[{"resource":{"type":"a","id":"b"},"permission":"read"}]}`}, 200)
		s.send(openapiCall{operation: "POST /decision/explain", key: full.secret, body: openapiQuestion(`{"type":"access_key","id":"`+ended.id+`"}`, "read", `{"type":"a","id":"b"}`)}, 200)
	}
	s.send(openapiCall{operation: "GET /v1/access_keys", path: "/v1/access_keys?status=revocked&sort_field=revoked_at", key: s.root, headers: openapiAcme}, 200)

	s.send(openapiCall{operation: "DELETE /v1/customers/{id}", path: "/v1/customers/acme", key: s.root}, 204)
	s.send(openapiCall{operation: "GET /v1/access_keys/self", key: full.secret}, 401)
	s.send(openapiCall{operation: "GET /v1/auditing", key: s.root, headers: openapiAcme}, 200)
	if n, err := s.summed.RunOnce(context.Background(), latchkey.InstantOf(time.Now().Add(2*time.Hour)), true); err != nil || n == 0 {
		s.t.Errorf("%d events of refusals: %v", n, err)
	}
	for _, chain := range []string{"", "?chain=system"} { // events of refusals are as documented, too
		s.send(openapiCall{operation: "GET /v1/auditing/export", path: "/v1/auditing/export" + chain, key: s.root, headers: openapiAcme}, 200)
	}
	rotated := s.send(openapiCall{operation: "POST /v1/root/rotate", key: s.root}, 201)
	s.root = openapiField(s.t, rotated, "key")
	s.send(openapiCall{operation: "GET /v1/customers", key: s.root}, 200)
}

// settings asks for what only another configuration answers.
func (s *openapiServer) settings() {
	s.t.Helper()
	full := startOpenAPI(s.t, s.doc, func(cfg *server.Config) {
		cfg.TooManyKeysStatus = http.StatusConflict
		cfg.Keys = authz.NewKeys(authz.KeysConfig{Record: cfg.Record, Table: cfg.Table, Parser: cfg.Parser, Peppers: &authz.Peppers{}, MaxActive: 1, Mode: authz.Test})
	})
	full.send(openapiCall{operation: "POST /v1/access_keys", key: full.root, body: openapiPoor}, 201)
	full.send(openapiCall{operation: "POST /v1/access_keys", key: full.root, body: openapiPoor}, 409)
	if err := full.db.Close(); err != nil {
		s.t.Fatal(err)
	}
	full.send(openapiCall{operation: "GET /health/ready"}, 503)
	full.send(openapiCall{operation: "GET /v1/access_keys", key: full.root}, 500) // a database that is closed is a bug of ours

	var table authz.KeyTable
	small := startOpenAPI(s.t, s.doc, func(cfg *server.Config) {
		cfg.Sets = authz.NewSets(authz.SetsConfig{Record: cfg.Record, MaxValues: 1})
		table = cfg.Table
	})
	small.send(openapiCall{operation: "POST /v1/sets", key: small.root, body: `{"name":"s","entity_type":"string","values":["A"]}`}, 201)
	small.send(openapiCall{operation: "PATCH /v1/sets/{name}", path: "/v1/sets/s", key: small.root, body: `{"add":["B"]}`}, 409)
	small.send(openapiCall{operation: "PUT /v1/sets/{name}", path: "/v1/sets/s", key: small.root, body: `{"values":["A","B"]}`}, 409)
	_ = table.Customer(authz.DefaultCustomer).Policies.Update(func(in *policies.Snapshot) (*policies.Snapshot, error) {
		return in.Edit(in.Revision, in.ActivatedAt, func(d *policies.Draft) {
			d.PutPolicy(&policies.Policy{Document: &policies.Document{Name: "main"}, Reads: policies.Reads{Sets: []string{"s"}}})
		}), nil
	})
	small.send(openapiCall{operation: "DELETE /v1/sets/{name}", path: "/v1/sets/s", key: small.root}, 409) // in use

	fixed := startOpenAPI(s.t, s.doc, func(cfg *server.Config) {
		token := authz.NewRootToken() // as if it came from the environment
		cfg.Root = authz.NewRootKey(cfg.Record, &authz.Peppers{})
		if _, err := cfg.Root.Establish(context.Background(), &token, latchkey.InstantOf(cfg.Now())); err != nil {
			s.t.Fatal(err)
		}
	})
	fixed.send(openapiCall{operation: "POST /v1/root/rotate", key: fixed.root}, 409)
	for _, other := range []*openapiServer{full, small, fixed} {
		for seen := range other.seen {
			s.seen[seen] = true
		}
	}
}

// tasks returns one.
func (s *openapiServer) tasks() string {
	s.t.Helper()
	const create, list, one, runs, secret = "POST /v1/tasks", "GET /v1/tasks", "/v1/tasks/{id}", "GET /v1/tasks/{id}/runs", "/v1/secrets/{name}"
	webhook := func(name string) string {
		return `{"name":"` + name + `","task_type":"webhook","url":"https://board.example.com/hook","max_retries":0}`
	}
	const script = `{"name":"log","task_type":"script","schedule_type":"once","script":"package task\nfunc Run() (string, error) { return secrets.Get(\"KEY\"), nil }\n","secrets":["KEY"]}`
	once := map[string]string{"X-Customer-ID": "acme", "Idempotency-Key": "tasks 1"}
	s.send(openapiCall{operation: create, key: s.root, headers: once, body: webhook("board")}, 201)
	made := s.send(openapiCall{operation: create, key: s.root, headers: once, body: webhook("board")}, 201)
	s.send(openapiCall{operation: create, key: s.root, headers: once, body: webhook("another")}, 422)
	s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: webhook("board")}, 409)
	s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: `{"name":"","task_type":"cron"}`}, 400)
	s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: script}, 201)
	page := s.send(openapiCall{operation: list, path: "/v1/tasks?limit=1", key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: list, path: "/v1/tasks?cursor=" + openapiField(s.t, page, "next_cursor"), key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: list, path: "/v1/tasks?limit=0", key: s.root, headers: openapiAcme}, 400)
	id := openapiField(s.t, made, "id")
	path, nobody := "/v1/tasks/"+id, "/v1/tasks/"+openapiNone
	s.send(openapiCall{operation: "GET " + one, path: path, key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: "GET " + one, path: nobody, key: s.root, headers: openapiAcme}, 404)
	s.send(openapiCall{operation: "PUT " + one, path: path, key: s.root, headers: openapiAcme, body: webhook("renamed")}, 200)
	s.send(openapiCall{operation: "PUT " + one, path: path, key: s.root, headers: openapiAcme, body: webhook("log")}, 409)
	s.send(openapiCall{operation: "PUT " + one, path: path, key: s.root, headers: openapiAcme, body: script}, 400)
	s.send(openapiCall{operation: "PUT " + one, path: nobody, key: s.root, headers: openapiAcme, body: webhook("x")}, 404)
	s.send(openapiCall{operation: "DELETE " + one, path: nobody, key: s.root, headers: openapiAcme}, 404)
	gone := openapiField(s.t, s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: webhook("gone")}, 201), "id")
	s.send(openapiCall{operation: "DELETE " + one, path: "/v1/tasks/" + gone, key: s.root, headers: openapiAcme}, 204)
	useTask(s.t, s.db, "acme", id)
	s.send(openapiCall{operation: "DELETE " + one, path: path, key: s.root, headers: openapiAcme}, 409)
	for i := range 2 {
		if err := s.db.Tasks().InsertRun(context.Background(), tasks.Run{ID: openapiNone[:35] + strconv.Itoa(i+1), Customer: "acme", Task: id, Source: tasks.ByTemplate, Seq: int64(i),
			Event: "created", Request: openapiNone, Mode: "ignore", Status: tasks.Queued, CreatedAt: latchkey.Instant(i + 1)}); err != nil {
			s.t.Fatal(err)
		}
	}
	page = s.send(openapiCall{operation: runs, path: path + "/runs?limit=1", key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: runs, path: path + "/runs?cursor=" + openapiField(s.t, page, "next_cursor"), key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: runs, path: path + "/runs?cursor=x", key: s.root, headers: openapiAcme}, 400)
	s.send(openapiCall{operation: runs, path: nobody + "/runs", key: s.root, headers: openapiAcme}, 404)

	put := openapiCall{operation: "PUT " + secret, path: "/v1/secrets/KEY", key: s.root, headers: openapiAcme, body: `{"value":"hidden"}`}
	s.send(put, 200)
	s.send(put, 200)
	put.path = "/v1/secrets/1"
	s.send(put, 400)
	for i := range tasks.MaxSecrets - 1 {
		put.path = "/v1/secrets/S" + strconv.Itoa(i)
		s.send(put, 200)
	}
	put.path = "/v1/secrets/ONE_MORE"
	s.send(put, 409)
	s.send(openapiCall{operation: "GET /v1/secrets", key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: "DELETE " + secret, path: "/v1/secrets/S0", key: s.root, headers: openapiAcme}, 204)
	s.send(openapiCall{operation: "DELETE " + secret, path: "/v1/secrets/S0", key: s.root, headers: openapiAcme}, 404)
	return id
}

// grants returns one that is live.
func (s *openapiServer) grants(example, full openapiKey) string {
	s.t.Helper()
	const create, list, one = "POST /v1/grants", "GET /v1/grants", "/v1/grants/{id}"
	grant := func(typ, id string) string {
		return `{"subject":{"type":"` + typ + `","id":"` + id + `"},"entries":{"host":[{"f":"db-*","p":2,"a":["login"]}],"doc":[{"f":"*","p":1}]},` +
			`"expires_at":"2099-01-01T00:00:00Z","reason":"on call"}`
	}
	once := map[string]string{"X-Customer-ID": "acme", "Idempotency-Key": "grants 1"}
	s.send(openapiCall{operation: create, key: s.root, headers: once, body: grant("user", "alice")}, 201)
	made := s.send(openapiCall{operation: create, key: s.root, headers: once, body: grant("user", "alice")}, 201)
	s.send(openapiCall{operation: create, key: s.root, headers: once, body: grant("user", "bob")}, 422)
	s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: `{"entries":{"sets":[{"f":"*","p":2}]}}`}, 400)
	s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: grant("access_key", openapiNone)}, 404)
	s.send(openapiCall{operation: create, key: example.secret, body: grant("user", "bob")}, 403)
	s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: grant("access_key", full.handle)}, 201)
	later := strings.Replace(grant("user", "alice"), `"expires_at"`, `"not_before":"2098-01-01T00:00:00+01:00","expires_at"`, 1)
	s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: later}, 201)
	for _, subject := range []string{`{"type":"user","id":"alice"}`, `{"type":"access_key","id":"` + full.id + `"}`} {
		for _, action := range []string{"login", "delete"} {
			q := openapiQuestion(subject, action, `{"type":"host","id":"db-1"}`)
			s.send(openapiCall{operation: "POST /decision", key: full.secret, body: q}, 200)
			s.send(openapiCall{operation: "POST /decision/explain", key: full.secret, body: q}, 200)
		}
	}
	s.send(openapiCall{operation: list, key: s.root, headers: openapiAcme}, 200)
	page := s.send(openapiCall{operation: list, path: list[4:] + "?status=all&subject_type=user&subject_id=alice&limit=1", key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: list, path: list[4:] + "?status=scheduled&cursor=" + openapiField(s.t, page, "next_cursor"), key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: list, path: list[4:] + "?status=gone", key: s.root, headers: openapiAcme}, 400)
	path := "/v1/grants/" + openapiField(s.t, made, "id")
	s.send(openapiCall{operation: "GET " + one, path: path, key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: "GET " + one, path: "/v1/grants/" + openapiNone, key: s.root, headers: openapiAcme}, 404)
	revoke := openapiCall{operation: "DELETE " + one, path: path, key: s.root, headers: map[string]string{"X-Customer-ID": "acme", "Prefer": "wait=61"}}
	s.send(revoke, 400)
	revoke.headers["Prefer"] = "return=representation, wait=2"
	s.send(revoke, 200)
	s.send(revoke, 409)
	body := s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: grant("user", "bob")}, 201)
	s.send(openapiCall{operation: "DELETE " + one, path: "/v1/grants/" + openapiField(s.t, body, "id"), key: s.root, headers: openapiAcme}, 204)
	return openapiField(s.t, s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: grant("user", "carol")}, 201), "id")
}

// webhooks returns one.
func (s *openapiServer) webhooks() string {
	s.t.Helper()
	const create, one, rotate, list, replay = "POST /v1/webhooks", "/v1/webhooks/{id}", "POST /v1/webhooks/{id}/rotate", "GET /v1/webhooks/{id}/deliveries", "POST /v1/webhooks/{id}/deliveries/{delivery}/replay"
	body := func(more string) string {
		return `{"url":"https://example.com/","events":["access_request.approved"]` + more + `}`
	}
	once := func(key string) map[string]string {
		return map[string]string{"X-Customer-ID": "acme", "Idempotency-Key": "webhooks " + key}
	}
	s.send(openapiCall{operation: create, key: s.root, headers: once("1"), body: body("")}, 201)
	made := s.send(openapiCall{operation: create, key: s.root, headers: once("1"), body: body("")}, 201)
	s.send(openapiCall{operation: create, key: s.root, headers: once("1"), body: body(`,"description":"x"`)}, 422)
	s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: body(`,"url2":1`)}, 400)
	full := body(`,"headers":{"authorization":"Bearer x"},"compat":"indent","compat_secret":"12345678","description":"x"`)
	id := openapiField(s.t, s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: full}, 201), "id")
	there := s.send(openapiCall{operation: "GET /v1/webhooks", key: s.root, headers: openapiAcme}, 200)
	for range deliveries.MaxWebhooks - bytes.Count(there, []byte(`"task_id"`)) {
		s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: body("")}, 201)
	}
	s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: body("")}, 409)
	s.send(openapiCall{operation: "GET /v1/webhooks", key: s.root, headers: openapiAcme}, 200)
	path, none := "/v1/webhooks/"+id, "/v1/webhooks/"+openapiNone
	s.send(openapiCall{operation: "GET " + one, path: path, key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: "GET " + one, path: none, key: s.root, headers: openapiAcme}, 404)
	s.send(openapiCall{operation: "PUT " + one, path: path, key: s.root, headers: once("2"), body: body(`,"headers":{"Authorization":null}`)}, 200)
	s.send(openapiCall{operation: "PUT " + one, path: path, key: s.root, headers: once("2"), body: body("")}, 422)
	s.send(openapiCall{operation: "PUT " + one, path: path, key: s.root, headers: openapiAcme, body: `{}`}, 400)
	s.send(openapiCall{operation: "PUT " + one, path: none, key: s.root, headers: openapiAcme, body: body("")}, 404)
	for range 4 {
		s.send(openapiCall{operation: rotate, path: path + "/rotate", key: s.root, headers: openapiAcme}, 200)
	}
	s.send(openapiCall{operation: rotate, path: path + "/rotate", key: s.root, headers: openapiAcme, body: `{"grace":"1h"}`}, 409)
	s.send(openapiCall{operation: rotate, path: path + "/rotate", key: s.root, headers: openapiAcme, body: `{"grace":"x"}`}, 400)
	s.send(openapiCall{operation: rotate, path: path + "/rotate", key: s.root, headers: once("3"), body: `{"grace":0}`}, 200)
	s.send(openapiCall{operation: rotate, path: path + "/rotate", key: s.root, headers: once("3"), body: `{"grace":1}`}, 422)
	s.send(openapiCall{operation: rotate, path: none + "/rotate", key: s.root, headers: openapiAcme}, 404)

	at := latchkey.InstantOf(time.Now().Add(time.Duration(s.ahead.Load())))
	happened(s.t, s.db, "acme", deliveries.Approved, at)
	happened(s.t, s.db, "acme", deliveries.Approved, at)
	page := s.send(openapiCall{operation: list, path: path + "/deliveries?limit=1", key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: list, path: path + "/deliveries?status=pending&cursor=" + openapiField(s.t, page, "next_cursor"), key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: list, path: path + "/deliveries?status=x", key: s.root, headers: openapiAcme}, 400)
	s.send(openapiCall{operation: list, path: none + "/deliveries", key: s.root, headers: openapiAcme}, 404)
	queue := s.db.Deliveries()
	claimed, err := queue.Claim(s.t.Context(), id, at, 1)
	if err != nil || len(claimed) != 1 {
		s.t.Fatal(claimed, err)
	}
	again := path + "/deliveries/" + claimed[0].ID + "/replay"
	s.send(openapiCall{operation: list, path: path + "/deliveries", key: s.root, headers: openapiAcme}, 200) // one is under way
	s.send(openapiCall{operation: replay, path: again, key: s.root, headers: openapiAcme}, 409)
	if _, err := queue.Finish(s.t.Context(), claimed[0].After(deliveries.Outcome{Result: "http_status", ReplyStatus: 410, ReplyHead: "gone", Final: true}, at, 0)); err != nil {
		s.t.Fatal(err)
	}
	s.send(openapiCall{operation: list, path: path + "/deliveries?status=dead", key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: replay, path: again, key: s.root, headers: once("4")}, 202)
	s.send(openapiCall{operation: replay, path: path + "/deliveries/" + openapiNone + "/replay", key: s.root, headers: openapiAcme}, 404)
	s.send(openapiCall{operation: "DELETE " + one, path: path, key: s.root, headers: openapiAcme}, 204)
	s.send(openapiCall{operation: "DELETE " + one, path: path, key: s.root, headers: openapiAcme}, 404)
	return openapiField(s.t, made, "id")
}

func (s *openapiServer) directory(full openapiKey) {
	s.t.Helper()
	send := func(op, path, body string, want int) {
		s.t.Helper()
		s.send(openapiCall{operation: op, path: path, key: s.root, headers: openapiAcme, body: body}, want)
	}
	for _, list := range []struct{ name, kind, good, bad string }{
		{"subjects", "type", `{"type":"user","id":"alice","properties":{"role":"x"}},{"type":"access_key","id":"` + full.id + `"},{"type":"user","id":"bob"}`, `{"type":"user"}`},
		{"resources", "kind", `{"kind":"host","id":"a","displayName":"A","labels":{"plan":"pro"},"properties":{"n":1}},{"type":"host","id":"b"},{"kind":"doc","id":"/docs/1"}`, `{"kind":"host","id":"*"}`},
	} {
		bulk, all := "POST /v1/"+list.name+":bulkUpdate", "GET /v1/"+list.name
		one := "/v1/" + list.name + "/{" + list.kind + "}/{id}"
		send(bulk, "", `{"`+list.name+`":[`+list.good+`,`+list.bad+`]}`, 200)
		send(bulk, "", `{"`+list.name+`":[]}`, 200)
		send(bulk, "", `{}`, 400)
		send(bulk, "", `{"`+list.name+`":[{"type":"host","id":"big","properties":{"x":"`+strings.Repeat("x", 16000)+`"}},{"type":"host","id":"big2","properties":{"x":"`+strings.Repeat("x", 16000)+`"}}]}`, 409)
		s.send(openapiCall{operation: bulk, key: s.root, body: `{"` + list.name + `":[]}`}, 400) // customer_required
		send(all, "", "", 200)
		page := s.send(openapiCall{operation: all, path: "/v1/" + list.name + "?limit=1", key: s.root, headers: openapiAcme}, 200)
		send(all, "/v1/"+list.name+"?limit=1&prefix=b&"+list.kind+"=host&cursor="+openapiField(s.t, page, "next_cursor"), "", 200)
		send(all, "/v1/"+list.name+"?limit=0", "", 400)
		there := map[string]string{"subjects": "/v1/subjects/user/alice", "resources": "/v1/resources/host/a"}[list.name]
		send("GET "+one, there, "", 200)
		send("DELETE "+one, there, "", 204)
		send("GET "+one, there, "", 404)
		send("DELETE "+one, there, "", 404)
		send("DELETE "+one, there+"?x=1", "", 400)
	}
	send("GET /v1/resources", "/v1/resources?label.plan=pro", "", 200)
	const one = "/v1/resource_types/{type}"
	send("PUT "+one, "/v1/resource_types/host", `{"type":"host","actions":["view","read"]}`, 200)
	send("PUT "+one, "/v1/resource_types/host", `{"actions":[]}`, 400)
	send("PUT "+one, "/v1/resource_types/gone", `{"actions":["a"]}`, 200)
	send("GET "+one, "/v1/resource_types/gone", "", 200)
	send("GET /v1/resource_types", "/v1/resource_types?limit=1", "", 200)
	send("GET /v1/resource_types", "/v1/resource_types?limit=0", "", 400)
	send("DELETE "+one, "/v1/resource_types/gone", "", 204)
	send("DELETE "+one, "/v1/resource_types/gone", "", 404)
	send("GET "+one, "/v1/resource_types/gone", "", 404)
}

func (s *openapiServer) searches(full openapiKey) {
	s.t.Helper()
	byID := `{"type":"access_key","id":"` + full.id + `"}`
	for op, body := range map[string]string{
		"POST /access/v1/search/subject":  `{"subject":{"type":"access_key"},"action":{"name":"read"},"resource":{"type":"doc","id":"/docs/1"}`,
		"POST /access/v1/search/resource": `{"subject":` + byID + `,"action":{"name":"read"},"resource":{"type":"doc"}`,
		"POST /access/v1/search/action":   `{"subject":` + byID + `,"resource":{"type":"doc","id":"/docs/1"}`,
	} {
		for _, page := range []string{``, `,"page":{}`, `,"page":{"limit":1},"more":1`} {
			s.send(openapiCall{operation: op, key: full.secret, body: body + page + `}`}, 200)
		}
		s.send(openapiCall{operation: op, key: full.secret, body: body + `,"page":{"token":"x"}}`}, 400)
	}
}

func (s *openapiServer) service() {
	s.t.Helper()
	s.send(openapiCall{operation: "GET /.well-known/authzen-configuration"}, 200)
	s.send(openapiCall{operation: "GET /health/live", headers: map[string]string{"X-Request-ID": "mine"}}, 200)
	s.send(openapiCall{operation: "GET /health/ready"}, 200)
	served := s.send(openapiCall{operation: "GET /openapi.yaml"}, 200)
	if want, err := os.ReadFile("openapi.yaml"); err != nil || !bytes.Equal(served, want) {
		s.t.Errorf("the server serves another document: %v", err)
	}
}

// openapiPeople are the ids of what stays.
type openapiPeople struct{ user, token, group, application, entitlement string }

func (s *openapiServer) people(full openapiKey) (ids openapiPeople) {
	s.t.Helper()
	// made makes one of a kind with and without an Idempotency-Key, and asks for
	// everything that is alike for all kinds.
	made := func(kind, body, other, wrong string) (id string) {
		s.t.Helper()
		create, list, one := "POST /v1/"+kind, "GET /v1/"+kind, "/v1/"+kind+"/{id}"
		once := map[string]string{"X-Customer-ID": "acme", "Idempotency-Key": kind + " 1"}
		first := s.send(openapiCall{operation: create, key: s.root, headers: once, body: body}, 201)
		s.send(openapiCall{operation: create, key: s.root, headers: once, body: body}, 201)
		s.send(openapiCall{operation: create, key: s.root, headers: once, body: other}, 422)
		s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: wrong}, 400)
		s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: body}, 409)
		s.send(openapiCall{operation: create, key: s.root, headers: openapiAcme, body: other}, 201)
		s.send(openapiCall{operation: create, key: full.secret, body: body}, 403)
		page := s.send(openapiCall{operation: list, path: list[4:] + "?limit=1", key: s.root, headers: openapiAcme}, 200)
		s.send(openapiCall{operation: list, path: list[4:] + "?cursor=" + openapiField(s.t, page, "next_cursor"), key: s.root, headers: openapiAcme}, 200)
		s.send(openapiCall{operation: list, path: list[4:] + "?cursor=x", key: s.root, headers: openapiAcme}, 400)
		id = openapiField(s.t, first, "id")
		at, nowhere := "/v1/"+kind+"/"+id, "/v1/"+kind+"/"+openapiNone
		s.send(openapiCall{operation: "GET " + one, path: at, key: s.root, headers: openapiAcme}, 200)
		s.send(openapiCall{operation: "GET " + one, path: nowhere, key: s.root, headers: openapiAcme}, 404)
		s.send(openapiCall{operation: "PUT " + one, path: at, key: s.root, headers: openapiAcme, body: body}, 200)
		s.send(openapiCall{operation: "PUT " + one, path: nowhere, key: s.root, headers: openapiAcme, body: body}, 404)
		s.send(openapiCall{operation: "PUT " + one, path: at, key: s.root, headers: openapiAcme, body: wrong}, 400)
		s.send(openapiCall{operation: "PUT " + one, path: at, key: s.root, headers: openapiAcme, body: other}, 409)
		s.send(openapiCall{operation: "DELETE " + one, path: nowhere, key: s.root, headers: openapiAcme}, 404)
		return id
	}
	ids.user = made("users", `{"username":"alice","email":"Alice@Example.com","name":"Alice"}`, `{"username":"bob","type":"Admin","email":null,"name":null}`, `{"username":"bot","id":"x"}`)
	s.send(openapiCall{operation: "GET /v1/users", path: "/v1/users?username=alice&email=ALICE@example.com&type=User&active=true", key: s.root, headers: openapiAcme}, 200)
	gone := openapiField(s.t, s.send(openapiCall{operation: "POST /v1/users", key: s.root, headers: map[string]string{"X-Customer-ID": "default"}, body: `{"username":"carol","type":"internal_admin"}`}, 201), "id")
	inactive := openapiField(s.t, s.send(openapiCall{operation: "POST /v1/users", key: s.root, headers: openapiAcme, body: `{"username":"dora","active":false}`}, 201), "id")
	s.send(openapiCall{operation: "DELETE /v1/users/{id}", path: "/v1/users/" + gone, key: s.root, headers: map[string]string{"X-Customer-ID": "default"}}, 204)
	s.send(openapiCall{operation: "DELETE /v1/users/{id}", path: "/v1/users/" + gone, key: s.root, headers: map[string]string{"X-Customer-ID": "default"}}, 409)

	const claim, create, list, revoke = "POST /v1/users/{id}/claim", "POST /v1/personal_tokens", "GET /v1/personal_tokens", "DELETE /v1/personal_tokens/{id}"
	at := "/v1/users/" + ids.user + "/claim"
	s.send(openapiCall{operation: claim, path: "/v1/users/" + openapiNone + "/claim", key: s.root, headers: openapiAcme}, 404)
	s.send(openapiCall{operation: claim, path: "/v1/users/" + gone + "/claim", key: s.root, headers: map[string]string{"X-Customer-ID": "default"}}, 409)
	once := map[string]string{"X-Customer-ID": "acme", "Idempotency-Key": "claim 1"}
	s.send(openapiCall{operation: claim, path: at, key: s.root, headers: once}, 201)
	code := openapiField(s.t, s.send(openapiCall{operation: claim, path: at, key: s.root, headers: once}, 201), "claim", "code")
	once = map[string]string{"Idempotency-Key": "token 1"}
	body := `{"claim_code":"` + code + `","name":"laptop"}`
	token := openapiField(s.t, s.send(openapiCall{operation: create, headers: once, body: body}, 201), "token")
	s.send(openapiCall{operation: create, headers: once, body: body}, 201)
	s.send(openapiCall{operation: create, headers: once, body: `{"name":"other"}`}, 401)
	s.send(openapiCall{operation: create, headers: once, body: strings.Replace(body, "laptop", "desk", 1)}, 422)
	s.send(openapiCall{operation: create, body: body}, 401)
	s.send(openapiCall{operation: create, key: token, body: body}, 400)
	s.send(openapiCall{operation: create, key: s.root, body: `{"name":"of root"}`}, 403)
	for range 4 {
		ids.token = openapiField(s.t, s.send(openapiCall{operation: create, key: token, body: `{"name":"desk"}`}, 201), "id")
	}
	s.send(openapiCall{operation: create, key: token, body: `{"name":"desk"}`}, 409)
	s.send(openapiCall{operation: create, body: "x", media: "text/plain"}, 415)
	s.send(openapiCall{operation: create}, 413)
	s.send(openapiCall{operation: list, key: token}, 200)
	s.send(openapiCall{operation: list, path: list[4:] + "?user_id=" + ids.user, key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: list, path: list[4:] + "?user_id=" + openapiNone, key: token}, 404)
	s.send(openapiCall{operation: revoke, path: "/v1/personal_tokens/" + ids.token, key: token}, 204)
	s.send(openapiCall{operation: revoke, path: "/v1/personal_tokens/" + ids.token, key: token}, 404)
	few := startOpenAPI(s.t, s.doc, func(cfg *server.Config) { cfg.AuthFailureRate = 0.1 })
	few.send(openapiCall{operation: create, body: body}, 401)
	few.send(openapiCall{operation: create, body: body}, 429)
	s.seen[create+" 429"] = few.seen[create+" 429"]

	ids.application = made("applications", `{"name":"Databases"}`, `{"name":"Other"}`, `{"name":" "}`)
	entitlement := func(name string) string {
		return `{"app_id":"` + ids.application + `","name":"` + name + `","entries":{"host":[{"f":"db-*","p":2,"a":["login"]}]},"claims":{"groups":["dba"]}}`
	}
	ids.entitlement = made("entitlements", entitlement("Log in"), entitlement("Other"), `{"app_id":"`+ids.application+`","name":"x","entries":{"sets":[{"f":"*","p":2}]}}`)
	s.send(openapiCall{operation: "GET /v1/entitlements", path: "/v1/entitlements?app_id=" + ids.application + "&name=Other", key: s.root, headers: openapiAcme}, 200)
	group := func(name string) string {
		return `{"name":"` + name + `","member_ids":["bot","` + ids.user + `"],"entitlement_ids":["` + ids.entitlement + `"]}`
	}
	ids.group = made("groups", group("On call"), group("Other"), `{"name":"x","member_ids":["`+openapiNone+`"]}`)
	s.send(openapiCall{operation: "GET /v1/groups", path: "/v1/groups?member_id=" + ids.user + "&name=Other", key: s.root, headers: openapiAcme}, 200)
	const member = "/v1/groups/{id}/members/{user_id}"
	at = "/v1/groups/" + ids.group + "/members/" + ids.user
	s.send(openapiCall{operation: "DELETE " + member, path: at, key: s.root, headers: openapiAcme}, 204)
	s.send(openapiCall{operation: "DELETE " + member, path: at, key: s.root, headers: openapiAcme}, 404)
	s.send(openapiCall{operation: "PUT " + member, path: at, key: s.root, headers: openapiAcme}, 200)
	s.send(openapiCall{operation: "PUT " + member, path: "/v1/groups/" + openapiNone + "/members/bot", key: s.root, headers: openapiAcme}, 404)
	s.send(openapiCall{operation: "PUT " + member, path: "/v1/groups/" + ids.group + "/members/" + inactive, key: s.root, headers: openapiAcme}, 409)
	s.send(openapiCall{operation: "POST /v1/access-request-templates", key: s.root, headers: openapiAcme, body: `{"name":"of people","app_id":"` + ids.application + `","mapping_ids":["` +
		ids.entitlement + `"],"allowed_durations":[60],"approver_group_ids":["` + ids.group + `"]}`}, 201)
	for kind, id := range map[string]string{"entitlements": ids.entitlement, "applications": ids.application, "groups": ids.group} {
		s.send(openapiCall{operation: "DELETE /v1/" + kind + "/{id}", path: "/v1/" + kind + "/" + id, key: s.root, headers: openapiAcme}, 409)
	}
	for kind, body := range map[string]string{"entitlements": entitlement("gone"), "applications": `{"name":"gone"}`, "groups": `{"name":"gone"}`} {
		id := openapiField(s.t, s.send(openapiCall{operation: "POST /v1/" + kind, key: s.root, headers: openapiAcme, body: body}, 201), "id")
		s.send(openapiCall{operation: "DELETE /v1/" + kind + "/{id}", path: "/v1/" + kind + "/" + id, key: s.root, headers: openapiAcme}, 204)
	}
	for _, what := range []string{"groups", "claims"} {
		op := "GET /v1/users/{id}/" + what
		s.send(openapiCall{operation: op, path: "/v1/users/" + ids.user + "/" + what, key: s.root, headers: openapiAcme}, 200)
		s.send(openapiCall{operation: op, path: "/v1/users/self/" + what, key: token}, 200)
		s.send(openapiCall{operation: op, path: "/v1/users/" + ids.user + "/" + what, key: full.secret}, 403)
		s.send(openapiCall{operation: op, path: "/v1/users/" + openapiNone + "/" + what, key: s.root, headers: openapiAcme}, 404)
	}
	return ids
}

func (s *openapiServer) approvals(people openapiPeople) {
	s.t.Helper()
	const op = "POST /v1/approvals"
	s.send(openapiCall{operation: "POST /v1/resources:bulkUpdate", key: s.root, headers: openapiAcme, body: `{"resources":[{"kind":"asked","id":"1"},{"kind":"tied","id":"1"}]}`}, 200)
	for _, kind := range []string{"asked", "tied", "tied"} {
		s.template(`{"name":"Ask for ` + kind + strconv.Itoa(len(s.seen)) + `","app_id":"` + people.application + `","resource_selector":{"kind":"` + kind + `"},
			"auto_approve":true,"allowed_durations":[60],"require_justification":false}`)
	}
	ask := func(petitioner, kind string) string {
		return `{"petitioners":[{"kind":"user",` + petitioner + `}],"resources":[{"kind":"` + kind + `","id":"1"}],"wait":1}`
	}
	s.send(openapiCall{operation: op, key: s.root, headers: openapiAcme, body: ask(`"id":"`+people.user+`"`, "asked")}, 200)
	s.send(openapiCall{operation: op, key: s.root, headers: openapiAcme, body: ask(`"email":"nobody@example.com"`, "asked")}, 404)
	s.send(openapiCall{operation: op, key: s.root, headers: openapiAcme, body: ask(`"id":"`+people.user+`"`, "tied")}, 409)
	s.send(openapiCall{operation: op, key: s.root, headers: openapiAcme, body: `{"petitioners":[]}`}, 400)
}

// template makes one in acme.
func (s *openapiServer) template(body string) {
	s.t.Helper()
	s.send(openapiCall{operation: "POST /v1/access-request-templates", key: s.root, headers: openapiAcme, body: body}, 201)
}
