package server

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
)

// reply is the answer to a change, in the form in which it is kept.
type reply struct {
	Status   int
	Location string
	ETag     string `json:",omitempty"`
	Body     []byte
}

// inFlight are the idempotent requests that are being answered now.
type inFlight struct {
	mu  sync.Mutex
	ids map[authz.ReplyID]struct{}
}

func (f *inFlight) begin(id authz.ReplyID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, running := f.ids[id]; running {
		return false
	}
	if f.ids == nil {
		f.ids = map[authz.ReplyID]struct{}{}
	}
	f.ids[id] = struct{}{}
	return true
}

func (f *inFlight) end(id authz.ReplyID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.ids, id)
}

// once makes a change and replies with what render makes of its result. With
// an Idempotency-Key the reply is kept in the change's own transaction, and the
// same caller repeating the same request gets the same answer for 24 hours.
func once[T any](r *request, change func(authz.Call) (T, error), render func(T) reply) error {
	call := r.call()
	idempotencyKey, err := r.header("Idempotency-Key")
	if err != nil {
		return err
	}
	if idempotencyKey != "" {
		if !validIdempotencyKey(idempotencyKey) {
			return faultAt("header:Idempotency-Key", "invalid_idempotency_key", "want 1 to 255 printable ASCII characters")
		}
		id := r.replyID(idempotencyKey)
		if !r.s.replays.begin(id) {
			return latchkey.Errorf(latchkey.Conflict, "idempotency_in_flight", "a request with this Idempotency-Key is being answered")
		}
		defer r.s.replays.end(id)
		body := sha256.Sum256([]byte(r.body))
		if done, err := r.replay(id, body, idempotencyKey); done || err != nil {
			return err
		}
		call.Replay = &authz.Replay{ID: id, Body: body, Seal: func(result any) ([]byte, error) {
			return r.s.seal(idempotencyKey, render(result.(T)))
		}}
	}
	result, err := change(call)
	if err != nil {
		return err
	}
	return r.send(render(result))
}

// replay sends the kept reply, if there is one.
func (r *request) replay(id authz.ReplyID, body [32]byte, idempotencyKey string) (done bool, err error) {
	ctx, cancel := r.context()
	defer cancel()
	kept, found, err := r.s.cfg.Record.Reply(ctx, id, r.now)
	if err != nil || !found {
		return false, err
	}
	if kept.Body != body {
		return false, latchkey.Errorf(latchkey.Unprocessable, "idempotency_mismatch", "this Idempotency-Key came with another body before")
	}
	answer, err := r.s.unseal(idempotencyKey, kept.Sealed)
	if err != nil {
		return false, err
	}
	r.c.Set("Idempotency-Replayed", "true")
	return true, r.send(answer)
}

func (r *request) send(a reply) error {
	if a.Location != "" {
		r.c.Set("Location", a.Location)
	}
	if a.ETag != "" {
		r.c.Set("ETag", a.ETag)
	}
	r.c.Set("Cache-Control", "no-store")
	r.out = append(r.out[:0], a.Body...)
	return r.json(a.Status)
}

// replyID binds an Idempotency-Key to who sent it, where. Only this hash of it
// is stored.
func (r *request) replyID(idempotencyKey string) authz.ReplyID {
	who := r.caller.Handle.String()
	if r.caller.Key != nil {
		who = r.caller.Key.ID.String()
	}
	if r.caller.Person != nil { // with whichever credential
		who = "user:" + r.caller.Person.ID
	}
	if r.claim != "" { // strangers are told apart by what they present, and get in nobody's way
		who = "claim:" + r.claim
	}
	customer := ""
	if r.caller.Customer != nil {
		customer = r.caller.Customer.ID
	}
	return authz.ReplyID(fingerprint("latchkey reply", string(r.s.cfg.SealKey), who, customer, r.route.method, r.c.Path(), idempotencyKey))
}

func validIdempotencyKey(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return len(s) <= 255
}

// sealer is AES-256-GCM under a key derived from the Idempotency-Key and a
// secret that lies outside the database: neither the database nor the client's
// logs alone reveal the reply.
func (s *Server) sealer(idempotencyKey string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, s.cfg.SealKey, []byte(idempotencyKey), "latchkey reply seal", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (s *Server) seal(idempotencyKey string, a reply) ([]byte, error) {
	plain, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	aead, err := s.sealer(idempotencyKey)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, plain, nil), nil
}

func (s *Server) unseal(idempotencyKey string, sealed []byte) (a reply, err error) {
	aead, err := s.sealer(idempotencyKey)
	if err != nil {
		return a, err
	}
	plain, err := aead.Open(nil, nil, sealed, nil)
	if err != nil {
		return a, fmt.Errorf("open a kept reply: %w", err)
	}
	return a, json.Unmarshal(plain, &a)
}
