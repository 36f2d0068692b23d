package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// SystemChain is the chain of what happens outside any customer. It is not a
// NAME, so no customer can be called that.
const SystemChain = "_system"

// Actor is who caused an event.
type Actor struct {
	Type       string // "root", "access_key", "system"
	ID         string // the access key's id; "root" for the operator
	Credential string // the handle of what was presented; never a secret
	Username   string // of the key's metadata, where known
	IP         string // source address, where there was one
}

// Resource is what an event is about.
type Resource struct {
	Type string // "access_key", "customer", "root_key"
	Name string
	ID   string
}

// Draft is an event before it has its place in a chain.
type Draft struct {
	ID        string // UUID
	At        latchkey.Instant
	Actor     Actor
	Action    string // "access_key.create", …
	Resource  Resource
	Outcome   string // "success"
	Reason    string
	Changes   string // JSON object, redacted; "" is {}
	RequestID string
}

// Hash is the SHA-256 of an event's bytes. The zero Hash precedes a chain's
// first event.
type Hash [sha256.Size]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Event is one recorded fact. Body holds the bytes that were hashed, exactly;
// the other fields repeat what is in them, for filters.
type Event struct {
	Draft
	Chain string // the customer's id, or SystemChain
	Seq   int64  // from 1, gapless
	Prev  Hash
	Hash  Hash
	Body  []byte
}

// Seal gives the draft its place in a chain: its bytes and their hash.
func (d Draft) Seal(chain string, seq int64, prev Hash) Event {
	e := Event{Draft: d, Chain: chain, Seq: seq, Prev: prev}
	e.Body = e.canonical()
	e.Hash = sha256.Sum256(e.Body)
	return e
}

// canonical is the one serialisation of an event without its hash: members in
// this order, no white space, empty ones left out where the API leaves them
// out. It must never change for events that are already written.
func (e *Event) canonical() []byte {
	b := make([]byte, 0, 512)
	text := func(name, value string) {
		b = append(b, ',')
		b = append(strictjson.AppendString(b, name), ':')
		b = strictjson.AppendString(b, value)
	}
	optional := func(name, value string) {
		if value != "" {
			text(name, value)
		}
	}
	b = append(b, `{"id":`...)
	b = strictjson.AppendString(b, e.ID)
	b = append(b, `,"seq":`...)
	b = strconv.AppendInt(b, e.Seq, 10)
	text("at", e.At.String())
	text("customer_id", e.Chain)
	b = append(b, `,"actor":{"type":`...)
	b = strictjson.AppendString(b, e.Actor.Type)
	text("id", e.Actor.ID)
	optional("credential", e.Actor.Credential)
	optional("username", e.Actor.Username)
	optional("ip", e.Actor.IP)
	b = append(b, '}')
	text("action", e.Action)
	b = append(b, `,"resource":{"type":`...)
	b = strictjson.AppendString(b, e.Resource.Type)
	text("name", e.Resource.Name)
	text("id", e.Resource.ID)
	b = append(b, '}')
	text("outcome", e.Outcome)
	text("reason", e.Reason)
	b = append(b, `,"changes":`...)
	if e.Changes == "" {
		b = append(b, `{}`...)
	} else {
		b = append(b, e.Changes...)
	}
	text("request_id", e.RequestID)
	text("prev_hash", e.Prev.String())
	return append(b, '}')
}

// AppendJSON appends the event as the API shows it: the hashed bytes with the
// hash as the last member.
func (e *Event) AppendJSON(b []byte) []byte {
	b = append(b, e.Body[:len(e.Body)-1]...)
	b = append(b, `,"hash":"`...)
	b = append(b, e.Hash.String()...)
	return append(b, `"}`...)
}
