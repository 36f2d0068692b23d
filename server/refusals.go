package server

import (
	"net/http"
	"strings"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
)

// noteRefusal counts a request that was refused for what it may not do, for the
// state of a record, or for its credential. Faults of the request, and ours,
// are no refusals; nor is a decision that denies.
func (r *request) noteRefusal(e *latchkey.Error) {
	if r.s.cfg.Refusals == nil {
		return
	}
	refusal := authz.Refusal{Chain: audit.SystemChain, Action: r.route.action, Code: e.Code, At: r.now}
	switch e.Kind {
	case latchkey.Forbidden, latchkey.Conflict, latchkey.LimitReached:
		refusal.Actor = r.caller.Actor()
		if r.caller.Customer != nil { // root has none where it acts outside customers
			refusal.Chain = r.caller.Customer.ID
		}
	case latchkey.Unauthenticated:
		refusal.Actor = authz.Stranger(r.source())
		if r.ended == nil {
			break
		}
		if authz.OfPerson(r.ended) {
			if was, proven, _ := r.present(r.ended); proven && was.Customer != nil {
				refusal.Actor, refusal.Chain = was.Actor(), was.Customer.ID
			}
			break
		}
		// Whose key it was is known, and is its customer's to see.
		known := r.s.cfg.Authenticator.Resolve(r.ended, r.now, r.source())
		if known.Key != nil && known.Key.Customer != nil {
			caller := authz.Caller{Kind: known.Kind, Key: known.Key, Handle: known.Handle, Source: r.source()}
			refusal.Actor, refusal.Chain = caller.Actor(), known.Key.Customer.ID
		}
	case latchkey.TooManyRequests:
		if r.caller.Kind != 0 {
			return // of a caller that is known: no failed authentication
		}
		refusal.Actor = authz.Stranger(r.source())
	default:
		return
	}
	r.s.cfg.Refusals.Note(&refusal)
}

// derivedAction makes "noun.verb" of a route that does what its method says to
// what its path names.
func derivedAction(method, path string) string {
	verb, ok := map[string]string{
		http.MethodGet: "read", http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "update", http.MethodDelete: "delete",
	}[method]
	if !ok {
		verb = strings.ToLower(method)
	}
	noun, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(path, "/"), "v1/"), "/")
	noun, _, _ = strings.Cut(noun, ":") // "subjects:bulkUpdate"
	if stem, plural := strings.CutSuffix(noun, "ies"); plural {
		noun = stem + "y"
	} else {
		noun = strings.TrimSuffix(noun, "s")
	}
	return noun + "." + verb
}
