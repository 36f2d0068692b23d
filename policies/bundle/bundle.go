package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/latchkey-dev/latchkey"
)

// Codes of what is wrong with a bundle, or with getting one. They are stable:
// they stand in the status, in metrics and in the command line's output.
const (
	CodeNotABundle          = "not_a_bundle"             // not a gzip tar, cut short, or with names that no bundle has
	CodeTooBig              = "too_big"                  // over a limit on size or number of files
	CodeSignatureMissing    = "signature_missing"        // keys are configured, the bundle is unsigned
	CodeSignatureInvalid    = "signature_invalid"        // no configured key made this signature over these files
	CodeNoVerificationKey   = "no_verification_key"      // signed, but no keys are configured
	CodeDeltaNotSupported   = "delta_not_supported"      // patch.json
	CodeFileNotSupported    = "file_not_supported"       // compiled policies, manifests in other encodings
	CodeManifestInvalid     = "manifest_invalid"         // the manifest does not parse or says what it cannot
	CodeRegoVersion         = "rego_version_unsupported" // a Rego other than version 1
	CodeWrongRoots          = "wrong_roots"              // roots, or content, outside policies and latchkey
	CodePackageNotSupported = "package_not_supported"    // a Rego file that is no policy's
	CodeDuplicatePolicy     = "duplicate_policy"         // two files of one policy
	CodePolicyInvalid       = "policy_invalid"           // a policy document or file that cannot be read
	CodeDataNotSupported    = "data_not_supported"       // data other than sets
	CodeSetInvalid          = "set_invalid"              // a set with an unknown type or malformed values
	CodeWrongCustomer       = "wrong_customer"           // a latchkey bundle of another customer
	CodeOlderSequence       = "older_sequence"           // a latchkey bundle from before the one in force

	CodeRequestFailed    = "request_failed"         // the server cannot be reached, or the connection broke
	CodeTimeout          = "timeout"                // the server hangs or trickles
	CodeUnexpectedStatus = "unexpected_status"      // any status but 200 and 304
	CodeRedirectRefused  = "redirect_refused"       // a redirect to another host
	CodeCredential       = "credential_unavailable" //nolint:gosec // it is none
	CodeActivationFailed = "activation_failed"      // the engine refused it for a reason without a code
	CodePersistFailed    = "persist_failed"         // in force, but not kept on disk
)

// Profile is the form in which latchkey writes a bundle.
type Profile string

const (
	ProfileOPA      Profile = "opa"      // for stock OPA: Rego, the library, sets as data
	ProfileLatchkey Profile = "latchkey" // for sidecars: everything as stored
)

// generator marks the bundles that latchkey made, in their metadata.
const (
	generator = "latchkey"
	format    = 1
)

// Bundle is what a bundle holds, checked. It is immutable.
type Bundle struct {
	Revision string
	// Digest is the SHA-256 of the compressed bytes in lower-case hex.
	Digest string
	Size   int // compressed bytes
	// Signed says that a configured key's signature over every file held.
	Signed bool
	// Origin is what the metadata says of a bundle that latchkey made, nil for
	// any other.
	Origin   *Origin
	Policies []Policy // by name
	Sets     []Set    // by name
}

// Origin is where a bundle made by latchkey comes from.
type Origin struct {
	Profile       Profile
	Customer      string
	Sequence      int64  // of the customer's last change that is in the bundle
	DefaultPolicy string // "" for the built-in one
}

// Policy is one policy: its source, for one in Rego, and the whole document as
// it is stored, which a Rego file of a bundle does not have.
type Policy struct {
	Name     string
	Language string // "cel" or "rego"
	Version  int64  // 0 where the bundle does not say
	Rego     string
	Document json.RawMessage
	File     string // where in the bundle it stands
}

// Set is one set with its values in canonical form, in the bundle's order.
type Set struct {
	Name       string
	EntityType string // string, ip or uint
	Version    int64  // 0 where the bundle does not say
	Values     []string
}

// ETag returns the strong entity tag of a bundle's bytes, quoted.
func ETag(raw []byte) string { return `"` + digest(raw) + `"` }

func digest(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// refuse is a bundle's fault. It is nobody's credential and no address of
// ours, so it may be shown.
func refuse(code, text string, args ...any) *latchkey.Error {
	return latchkey.Errorf(latchkey.Invalid, code, "%s", fmt.Sprintf(text, args...))
}
