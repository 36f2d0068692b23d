package authz

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// maxGrantReason is in characters.
const maxGrantReason = 500

// NewGrant is what a grant is made of.
type NewGrant struct {
	// Subject is as given: an access key by its id or a handle.
	Subject EntityRef
	Entries string // canonical JSON object: resource type → entries
	// Entitlements are ids of those that it is made of, in place of Entries.
	Entitlements []string
	Reason       string
	NotBefore    latchkey.Instant
	ExpiresAt    latchkey.Instant
}

// maxEntitlements of one grant.
const maxEntitlements = 100

// ParseNewGrant reads the body of POST /v1/grants: {subject: {type, id},
// entries | entitlement_ids, not_before?, expires_at, reason}. The error is of kind Invalid with a
// pointer for everything that is wrong. The strings are copies.
func ParseNewGrant(p *scopes.Parser, body strictjson.Value, now latchkey.Instant) (in NewGrant, err error) {
	m, err := entityMembers(body, "", "subject", "entries", "entitlement_ids", "not_before", "expires_at", "reason")
	if err != nil {
		return in, err
	}
	var faults []latchkey.Fault
	note := func(err error) { faults = append(faults, scopes.Faults(err)...) }
	in.Subject, err = grantSubject(m["subject"], "/subject")
	note(err)
	ids := m["entitlement_ids"].Kind() != strictjson.Missing
	switch {
	case ids && m["entries"].Kind() != strictjson.Missing:
		note(entityFault("/entitlement_ids", "two_rights", "give either entries or entitlement_ids"))
	case ids:
		in.Entitlements, err = grantEntitlements(m["entitlement_ids"], "/entitlement_ids")
		note(err)
	default:
		_, in.Entries, err = p.ParseEntries(m["entries"], "/entries")
		note(err)
	}
	if ContainsToken(in.Entries) {
		note(entityFault("/entries", "credential_in_entries", "entries are shown to everyone who manages grants; they must not hold a credential"))
	}
	in.NotBefore = now
	if given := m["not_before"]; given.Kind() != strictjson.Missing {
		at, err := grantTime(given, "/not_before")
		note(err)
		in.NotBefore = max(at, now) // nothing was granted before it was
	}
	in.ExpiresAt, err = grantTime(m["expires_at"], "/expires_at")
	switch {
	case err != nil:
		note(err)
	case in.ExpiresAt <= now:
		note(entityFault("/expires_at", "expiry_in_past", "expires_at must lie in the future"))
	case in.ExpiresAt <= in.NotBefore:
		note(entityFault("/expires_at", "expiry_before_start", "expires_at must lie after not_before"))
	}
	in.Reason, err = grantReason(m["reason"], "/reason")
	note(err)
	if len(faults) > 0 {
		return NewGrant{}, latchkey.InvalidFaults(faults...)
	}
	return in, nil
}

func grantEntitlements(v strictjson.Value, at string) (list []string, err error) {
	switch {
	case v.Kind() != strictjson.Array:
		return nil, entityFault(at, "wrong_type", "want an array of ids, got "+v.Kind().String())
	case v.Len() == 0 || v.Len() > maxEntitlements:
		return nil, entityFault(at, "invalid_entitlements", fmt.Sprintf("want 1 to %d ids", maxEntitlements))
	}
	for i, e := range v.Elements() {
		at := strictjson.PointerIndex(at, i)
		id := strings.Clone(e.Text())
		_, ok := ParseKeyID(id)
		switch {
		case e.Kind() != strictjson.String:
			return nil, entityFault(at, "wrong_type", "want a string, got "+e.Kind().String())
		case !ok:
			return nil, entityFault(at, "invalid_id", "want an id: a UUID in lower case")
		case slices.Contains(list, id):
			return nil, entityFault(at, "duplicate", "stands twice")
		}
		list = append(list, id)
	}
	return list, nil
}

func grantSubject(v strictjson.Value, at string) (ref EntityRef, err error) {
	if v.Kind() == strictjson.Missing {
		return ref, entityFault(at, "missing_member", "the member is required")
	}
	m, err := entityMembers(v, at, "type", "id")
	if err != nil {
		return ref, err
	}
	if ref.Type, err = entityText(m["type"], at+"/type", maxSubjectType); err != nil {
		return ref, err
	}
	if ConfusableSubject(ref.Type) {
		return ref, entityFault(at+"/type", "confusable_subject_type", `the type only looks like "access_key"`)
	}
	ref.ID, err = entityText(m["id"], at+"/id", scopes.MaxID)
	return ref, err
}

// grantTime reads a required time. A grant always ends: null, which stands for
// no end elsewhere, is refused.
func grantTime(v strictjson.Value, at string) (latchkey.Instant, error) {
	switch k := v.Kind(); {
	case k == strictjson.Missing:
		return 0, entityFault(at, "missing_member", "the member is required")
	case k == strictjson.Null && at == "/expires_at":
		return 0, entityFault(at, "permanent_not_allowed", "a grant ends: give a time")
	case k != strictjson.String:
		return 0, entityFault(at, "wrong_type", "want a string, got "+k.String())
	}
	when, ok := latchkey.ParseInstant(v.Text())
	if !ok {
		return 0, entityFault(at, "invalid_timestamp", "want an RFC 3339 timestamp, like 2027-01-31T23:59:59Z")
	}
	return when, nil
}

func grantReason(v strictjson.Value, at string) (string, error) {
	text := v.Text()
	switch k := v.Kind(); {
	case k == strictjson.Missing:
		return "", entityFault(at, "missing_member", "the member is required")
	case k != strictjson.String:
		return "", entityFault(at, "wrong_type", "want a string, got "+k.String())
	case strings.TrimSpace(text) == "":
		return "", entityFault(at, "blank_reason", "say why it is granted")
	case utf8.RuneCountInString(text) > maxGrantReason:
		return "", entityFault(at, "too_long", fmt.Sprintf("at most %d characters", maxGrantReason))
	case strings.ContainsFunc(text, unicode.IsControl):
		return "", entityFault(at, "control_character", "must not hold control characters")
	case ContainsToken(text):
		return "", entityFault(at, "credential_in_reason", "a reason is shown, and seen by policies; it must not hold a credential")
	}
	return strings.Clone(text), nil
}
