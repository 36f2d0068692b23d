package server_test

import (
	"strings"
	"testing"
)

// TestChecks_ComeInOneOrder: each request has the fault of its step and of all
// later ones, and is answered for the first: 413, 401, 403, 415 or 400 for its
// shape, 404, 400 for a value, 409.
func TestChecks_ComeInOneOrder(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.maxActive = 3 })
	k, mine := a.create(everyScope), a.create(`{"policies":[{"f":"*","p":2}]}`)
	gone := a.create(`{"decision":true}`)
	a.do("DELETE", "/v1/access_keys/"+gone.id, a.root, "").is(204)
	const text, unknown = "text/plain", "00000000-0000-4000-8000-000000000000"
	for _, tt := range []struct {
		name, method, path, credential, body, contentType string
		status                                            int
		code                                              string
	}{
		{"413 first", "POST", "/v1/access_keys", "", "", text, 413, "body_too_large"},
		{"then 401", "POST", "/v1/access_keys", "", `{`, text, 401, "invalid_credential"},
		{"then 403", "POST", "/v1/access_keys", k.secret, `{`, text, 403, "access_keys_cannot_create"},
		{"then 415", "POST", "/v1/access_keys", a.root, `{`, text, 415, "unsupported_media_type"},
		{"then 400", "POST", "/v1/access_keys", a.root, `{`, "application/json", 400, "invalid_json"},

		{"rotate: 413", "POST", "/v1/access_keys/" + unknown + "/rotate", "", "", text, 413, "body_too_large"},
		{"rotate: 401", "POST", "/v1/access_keys/" + unknown + "/rotate", "x", `{`, text, 401, "invalid_credential"},
		{"rotate: 403", "POST", "/v1/access_keys/" + unknown + "/rotate", k.secret, `{`, text, 403, "access_keys_cannot_create"},
		{"rotate: 415", "POST", "/v1/access_keys/" + unknown + "/rotate", a.root, `{`, text, 415, "unsupported_media_type"},
		{"rotate: 400 shape", "POST", "/v1/access_keys/" + unknown + "/rotate", a.root, `{"x":1}`, "application/json", 400, "unknown_member"},
		{"rotate: 404", "POST", "/v1/access_keys/x/rotate", a.root, `{"grace":"9999h"}`, "application/json", 404, "key_not_found"},
		{"rotate: 400 value", "POST", "/v1/access_keys/" + gone.id + "/rotate", a.root, `{"grace":"9999h"}`, "application/json", 400, "invalid_duration"},
		{"rotate: 409", "POST", "/v1/access_keys/" + gone.id + "/rotate", a.root, `{"grace":"1h"}`, "application/json", 409, "already_revoked"},

		{"revoke: 401", "DELETE", "/v1/access_keys/x?y=1", "", "", "", 401, "invalid_credential"},
		{"revoke: 403", "DELETE", "/v1/access_keys/x?y=1", k.secret, "", "", 403, "not_permitted"},
		{"revoke: 400", "DELETE", "/v1/access_keys/x?y=1", a.root, "", "", 400, "unknown_parameter"},
		{"revoke: 404", "DELETE", "/v1/access_keys/x", a.root, "", "", 404, "key_not_found"},
		{"revoke: 409", "DELETE", "/v1/access_keys/" + gone.id, a.root, "", "", 409, "already_revoked"},

		{"get: 401", "GET", "/v1/access_keys/x?y=1", "x", "", "", 401, "invalid_credential"},
		{"get: 403", "GET", "/v1/access_keys/x?y=1", mine.secret, "", "", 403, "scope_missing"},
		{"get: 400", "GET", "/v1/access_keys/x?y=1", k.secret, "", "", 400, "unknown_parameter"},
		{"get: 404", "GET", "/v1/access_keys/x", k.secret, "", "", 404, "key_not_found"},
		{"list: 403 before 400", "GET", "/v1/access_keys?y=1", mine.secret, "", "", 403, "scope_missing"},

		{"decision: 413", "POST", "/decision/nobody", "", "", text, 413, "body_too_large"},
		{"decision: 401", "POST", "/decision/nobody", "", `{`, text, 401, "invalid_credential"},
		{"decision: 403", "POST", "/decision/nobody", mine.secret, `{`, text, 403, "scope_missing"},
		{"decision: 415", "POST", "/decision/nobody", k.secret, `{`, text, 415, "unsupported_media_type"},
		{"decision: 400", "POST", "/decision/nobody", k.secret, `{}`, "application/json", 400, "missing_member"},
		{"decision: 404", "POST", "/decision/nobody", k.secret, evaluation(subject(k.id), "read", "x", "y"), "application/json", 404, "policy_not_found"},

		{"customers: 401", "POST", "/v1/customers", "", `{`, text, 401, "invalid_credential"},
		{"customers: 403", "POST", "/v1/customers", k.secret, `{`, text, 403, "not_permitted"},
		{"customers: 415", "POST", "/v1/customers", a.root, `{`, text, 415, "unsupported_media_type"},
		{"customers: 409", "POST", "/v1/customers", a.root, `{"id":"default","name":"x"}`, "application/json", 409, "customer_exists"},
		{"auditing: 403", "GET", "/v1/auditing?y=1", mine.secret, "", "", 403, "scope_missing"},
		{"root: 403", "POST", "/v1/root/rotate?y=1", k.secret, "", "", 403, "not_permitted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.status == 413 { // by what its length says; nothing is sent
				status, body := a.raw("POST " + tt.path + " HTTP/1.1\r\nHost: x\r\nContent-Type: " + tt.contentType + "\r\nContent-Length: 1048577\r\n\r\n")
				if status != 413 || !strings.Contains(body, tt.code) {
					t.Errorf("%d %s", status, body)
				}
				return
			}
			var headers []string
			if tt.body != "" {
				headers = []string{"Content-Type", tt.contentType}
			}
			a.do(tt.method, tt.path, tt.credential, tt.body, headers...).refused(tt.status, tt.code)
		})
	}
}
