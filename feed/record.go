package feed

import (
	"encoding/json"
	"slices"

	"github.com/latchkey-dev/latchkey"
)

// Record is what is so of one key, subject or resource as of a sequence number.
type Record struct {
	Customer string `json:"customer"`
	Ref      Ref    `json:"ref"`
	// Version is the sequence number of the customer's chain as of which the
	// record holds: all changes up to it are in it. Of two records of the same
	// ref the one with the higher version is never the older.
	Version int64 `json:"version"`
	Epoch   int64 `json:"epoch"`
	// Until is when the last right in it ends on its own; Never for no such time.
	// After it the record says no more than that everything has ended.
	Until latchkey.Instant `json:"until"`
	// Body is a KeyBody, SubjectBody or ResourceBody; null says that there is no
	// such thing.
	Body json.RawMessage `json:"body"`
}

// KeyBody is an access key in a record. It holds no secret.
type KeyBody struct {
	ID          string           `json:"id"`
	Handle      string           `json:"handle"`
	Scopes      string           `json:"scopes"`   // canonical JSON of {"customer": {…}}
	Metadata    string           `json:"metadata"` // canonical JSON object of strings
	CreatedAt   latchkey.Instant `json:"created_at"`
	ExpiresAt   latchkey.Instant `json:"expires_at"`
	RevokedAt   latchkey.Instant `json:"revoked_at"`
	RotatedFrom string           `json:"rotated_from,omitempty"`
	Secrets     []SecretBody     `json:"secrets"`
	Grants      []GrantBody      `json:"grants,omitempty"`
}

// SecretBody is the digest of one secret of a key.
type SecretBody struct {
	Kid    string           `json:"kid"`
	Mode   string           `json:"mode"` // "live", "test"
	Digest []byte           `json:"digest"`
	Pepper string           `json:"pepper,omitempty"` // fingerprint; "" is plain SHA-256
	EndsAt latchkey.Instant `json:"ends_at"`
}

// GrantBody is a grant that has not ended when it was read.
type GrantBody struct {
	ID        string           `json:"id"`
	Entries   string           `json:"entries"` // canonical JSON object: resource type → entries
	Reason    string           `json:"reason,omitempty"`
	NotBefore latchkey.Instant `json:"not_before"`
	ExpiresAt latchkey.Instant `json:"expires_at"`
	RevokedAt latchkey.Instant `json:"revoked_at"`
	// Begun says that it holds already, whatever a clock says of NotBefore.
	Begun bool `json:"begun,omitempty"`
}

// EntitlementBody is an entitlement that a person holds through a group.
type EntitlementBody struct {
	ID      string `json:"id"`
	Group   string `json:"group"`   // id
	Entries string `json:"entries"` // canonical JSON object: resource type → entries
	Reason  string `json:"reason,omitempty"`
}

// SubjectBody is what is stored of a subject that is not an access key, and what
// it holds: of a subject of type user the person's that has the name, if any has.
type SubjectBody struct {
	Properties   string            `json:"properties,omitempty"` // JSON object; "" is {}
	Person       string            `json:"person,omitempty"`     // id; "" where the subject is no person
	Grants       []GrantBody       `json:"grants,omitempty"`
	Entitlements []EntitlementBody `json:"entitlements,omitempty"`
}

// ResourceBody is what is stored of a resource.
type ResourceBody struct {
	Properties string `json:"properties,omitempty"`
}

// Exists reports whether the record tells of something that is there.
func (r *Record) Exists() bool { return len(r.Body) > 0 && string(r.Body) != "null" }

// SignRecord makes a record's signed text.
func (s *Signer) SignRecord(r *Record) ([]byte, error) { return s.sign(recordForm, r) }

// OpenRecord verifies a record's text; it is one of the customer's, and of the
// given ref. A KeyBody found by a kid has that kid among its secrets.
func (v *Verifier) OpenRecord(text []byte, customer string, ref Ref) (*Record, error) {
	r := new(Record)
	if err := v.open(recordForm, text, r); err != nil {
		return nil, err
	}
	if r.Customer != customer || !r.answers(ref) {
		return nil, ErrForged
	}
	return r, nil
}

// answers reports whether the record is what ref asks for.
func (r *Record) answers(ref Ref) bool {
	if r.Ref == ref {
		return true
	}
	return ref.Kind == Secret && slices.Contains(r.Kids(), ref.ID)
}

// Kids are those of the secrets in a key's record; none of any other.
func (r *Record) Kids() (kids []string) {
	var body KeyBody
	if r.Ref.Kind != Key || json.Unmarshal(r.Body, &body) != nil {
		return nil
	}
	for i := range body.Secrets {
		kids = append(kids, body.Secrets[i].Kid)
	}
	return kids
}

// Message is one change of a customer as the feed carries it.
type Message struct {
	Customer string           `json:"customer"`
	Epoch    int64            `json:"epoch"`
	Seq      int64            `json:"seq"`
	At       latchkey.Instant `json:"at"` // when the change was made
	// Touched are what the change touched; a record of one of them whose version
	// is lower than Seq is out of date.
	Touched []Ref `json:"touched,omitempty"`
	// All are kinds of which so many were touched that Touched does not list
	// them: every record of the kind whose version is lower than Seq is out of
	// date.
	All []Kind `json:"all,omitempty"`
	// Records are those of Touched, as they are when the message is made: their
	// versions are Seq or higher. One that is touched and not among them is to be
	// read again when it is needed.
	Records []Record `json:"records,omitempty"`
}

// SignMessage makes a message's signed text.
func (s *Signer) SignMessage(m *Message) ([]byte, error) { return s.sign(messageForm, m) }

// OpenMessage verifies a message's text; it is one of the customer's, its
// records too.
func (v *Verifier) OpenMessage(text []byte, customer string) (*Message, error) {
	m := new(Message)
	if err := v.open(messageForm, text, m); err != nil {
		return nil, err
	}
	if m.Customer != customer {
		return nil, ErrForged
	}
	for i := range m.Records {
		if r := &m.Records[i]; r.Customer != customer || r.Epoch != m.Epoch || r.Version < m.Seq {
			return nil, ErrForged
		}
	}
	return m, nil
}

// Heartbeat says how far a customer's changes go, by a control plane that has
// just read it from the database.
type Heartbeat struct {
	Customer string           `json:"customer"`
	Issuer   string           `json:"issuer"` // the control plane's node id
	At       latchkey.Instant `json:"at"`     // its time before it read
	Epoch    int64            `json:"epoch"`
	Head     int64            `json:"head"`     // sequence number of the last change
	Policies int64            `json:"policies"` // of the last one to policies, sets or the default policy
}

// SignHeartbeat makes a heartbeat's signed text.
func (s *Signer) SignHeartbeat(h *Heartbeat) ([]byte, error) { return s.sign(heartbeatForm, h) }

// OpenHeartbeat verifies a heartbeat's text; it is one of the customer's.
func (v *Verifier) OpenHeartbeat(text []byte, customer string) (*Heartbeat, error) {
	h := new(Heartbeat)
	if err := v.open(heartbeatForm, text, h); err != nil {
		return nil, err
	}
	if h.Customer != customer {
		return nil, ErrForged
	}
	return h, nil
}
