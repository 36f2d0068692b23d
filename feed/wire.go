package feed

import "crypto/ed25519"

// Welcome is what a control plane tells a node that begins to follow a customer
// (GET /v1/sidecar/verification_keys). It is not signed: it comes over the
// node's authenticated connection.
type Welcome struct {
	Customer     string            `json:"customer"`
	Epoch        int64             `json:"epoch"`
	Head         int64             `json:"head"`          // sequence number of the last change
	Policies     int64             `json:"policies"`      // of the last one to what the customer decides by
	MaxStaleness string            `json:"max_staleness"` // the control plane's own, "30s"
	Keys         []VerificationKey `json:"keys"`
}

// VerificationKey is a key that records, messages and heartbeats are signed by.
type VerificationKey struct {
	ID        string `json:"id"`         // KeyID of the key
	PublicKey []byte `json:"public_key"` // of Ed25519, 32 bytes; standard base64 in JSON
}

// Public are the keys that are well-formed.
func (w *Welcome) Public() (keys []ed25519.PublicKey) {
	for _, k := range w.Keys {
		if len(k.PublicKey) == ed25519.PublicKeySize {
			keys = append(keys, ed25519.PublicKey(k.PublicKey))
		}
	}
	return keys
}

// Page is a piece of a customer's feed (GET /v1/sidecar/feed).
type Page struct {
	Epoch int64 `json:"epoch"`
	Head  int64 `json:"head"`
	// From is the number of the first change that is told: the one after the last
	// that the node knows, or else those between are not known any more.
	From int64 `json:"from"`
	// Messages are signed, without a gap; none where From says so.
	Messages []string `json:"messages"`
	// Heartbeat is signed; "" where there is none.
	Heartbeat string `json:"heartbeat"`
}
