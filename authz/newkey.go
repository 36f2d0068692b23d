package authz

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Limits of a key's metadata (2-access-keys, "Objects").
const (
	maxMetadataFields = 50
	maxMetadataName   = 40  // characters
	maxMetadataValue  = 500 // characters
	maxMetadataBytes  = 8 << 10
)

// NewKey is what a key is made of.
type NewKey struct {
	Set       *scopes.Set
	Scopes    string // canonical JSON
	Metadata  string // canonical JSON
	Keyname   string
	Username  string
	ExpiresAt latchkey.Instant
}

// ParseNewKey reads the body of POST /v1/access_keys. The error is of kind
// Invalid with a pointer for everything that is wrong.
func ParseNewKey(p *scopes.Parser, body strictjson.Value, now latchkey.Instant) (NewKey, error) {
	if body.Kind() != strictjson.Object {
		return NewKey{}, latchkey.InvalidFaults(latchkey.Fault{Code: "wrong_type", Detail: "want an object, got " + body.Kind().String()})
	}
	in := NewKey{ExpiresAt: latchkey.Never}
	var faults []latchkey.Fault
	fault := func(at, code, detail string) {
		faults = append(faults, latchkey.Fault{Pointer: at, Code: code, Detail: detail})
	}
	for name := range body.Members() {
		if name != "scopes" && name != "metadata" && name != "expires_at" {
			fault(strictjson.Pointer("", name), "unknown_member", "unknown member; a new key has scopes, metadata and expires_at")
		}
	}
	given := body.Get("scopes")
	set, err := p.ParseValue(given, "/scopes", "metadata")
	if err != nil {
		faults = append(faults, scopes.Faults(err)...)
	}
	in.Set = set
	in.Scopes = `{"customer":` + string(given.Get("customer").AppendCanonical(nil)) + `}`
	if ContainsToken(in.Scopes) {
		fault("/scopes", "credential_in_scopes", "scopes are shown to everyone who may list keys; they must not hold a credential")
	}

	meta, at := body.Get("metadata"), "/metadata"
	inside := given.Get("metadata")
	switch {
	case meta.Kind() == strictjson.Missing && inside.Kind() != strictjson.Missing:
		meta, at = inside, "/scopes/metadata"
	case inside.Kind() != strictjson.Missing && string(inside.AppendCanonical(nil)) != string(meta.AppendCanonical(nil)):
		fault("/scopes/metadata", "metadata_conflict", "metadata stands inside scopes and beside it, and the two differ")
	}
	in.Metadata = string(meta.AppendCanonical(nil))
	in.Username, in.Keyname = strings.Clone(meta.Get("username").Text()), strings.Clone(meta.Get("keyname").Text())
	faults = append(faults, checkMetadata(meta, at)...)

	switch expiry := body.Get("expires_at"); expiry.Kind() {
	case strictjson.Missing, strictjson.Null:
	case strictjson.String:
		when, ok := latchkey.ParseInstant(expiry.Text())
		switch {
		case !ok:
			fault("/expires_at", "invalid_timestamp", "want an RFC 3339 timestamp, like 2027-01-31T23:59:59Z")
		case when <= now:
			fault("/expires_at", "expiry_in_past", "expires_at must lie in the future")
		}
		in.ExpiresAt = when
	default:
		fault("/expires_at", "wrong_type", "want a string or null, got "+expiry.Kind().String())
	}
	if len(faults) > 0 {
		return NewKey{}, latchkey.InvalidFaults(faults...)
	}
	return in, nil
}

func checkMetadata(meta strictjson.Value, at string) (faults []latchkey.Fault) {
	fault := func(at, code, detail string) {
		faults = append(faults, latchkey.Fault{Pointer: at, Code: code, Detail: detail})
	}
	switch meta.Kind() {
	case strictjson.Object:
	case strictjson.Missing, strictjson.Null:
		fault(at, "missing_metadata", "metadata with username and keyname is required")
		return faults
	default:
		fault(at, "wrong_type", "want an object, got "+meta.Kind().String())
		return faults
	}
	for _, name := range []string{"username", "keyname"} {
		if v := meta.Get(name); v.Kind() == strictjson.Missing || v.Kind() == strictjson.String && strings.TrimSpace(v.Text()) == "" {
			fault(at+"/"+name, "missing_metadata", name+" is mandatory and not blank")
		}
	}
	if n := meta.Len(); n > maxMetadataFields {
		fault(at, "metadata_too_large", fmt.Sprintf("at most %d fields", maxMetadataFields))
		return faults
	}
	for name, v := range meta.Members() {
		at := strictjson.Pointer(at, name)
		switch {
		case name == "" || utf8.RuneCountInString(name) > maxMetadataName:
			fault(at, "metadata_too_large", fmt.Sprintf("a field's name has 1 to %d characters", maxMetadataName))
		case v.Kind() != strictjson.String:
			fault(at, "wrong_type", "want a string, got "+v.Kind().String())
		case utf8.RuneCountInString(v.Text()) > maxMetadataValue:
			fault(at, "metadata_too_large", fmt.Sprintf("a field's value has at most %d characters", maxMetadataValue))
		case ContainsToken(v.Text()) || ContainsToken(name):
			fault(at, "credential_in_metadata", "metadata is shown to everyone who may list keys; it must not hold a credential")
		}
	}
	if len(meta.AppendCanonical(nil)) > maxMetadataBytes {
		fault(at, "metadata_too_large", "metadata has at most 8 KiB in all")
	}
	return faults
}
