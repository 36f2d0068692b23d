package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/policies/bundle"
)

// keptState is what a sidecar keeps on disk to begin without its control plane.
type keptState struct{ path, control string }

type stateFile struct {
	Control  string   `json:"control"`
	Customer string   `json:"customer"`
	Epoch    int64    `json:"epoch"`
	Keys     [][]byte `json:"verification_keys"`
}

// load returns nothing where nothing was kept, or of another control plane.
func (k keptState) load() (cache.FollowerState, error) {
	text, err := os.ReadFile(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		return cache.FollowerState{}, nil
	}
	var f stateFile
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err == nil && (!latchkey.ValidName(f.Customer) || f.Epoch < 0) {
		err = errors.New("it names no customer")
	}
	if err != nil || f.Control != k.control {
		return cache.FollowerState{}, err
	}
	s := cache.FollowerState{Customer: f.Customer, Epoch: f.Epoch}
	for _, key := range f.Keys {
		s.Keys = append(s.Keys, ed25519.PublicKey(key))
	}
	return s, nil
}

// save puts the file there whole or not at all.
func (k keptState) save(s cache.FollowerState) error {
	f := stateFile{Control: k.control, Customer: s.Customer, Epoch: s.Epoch}
	for _, key := range s.Keys {
		f.Keys = append(f.Keys, key)
	}
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if before, err := os.ReadFile(k.path); err == nil && string(before) == string(text) {
		return nil
	}
	tmp := k.path + ".new"
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, k.path)
}

// heldPolicies keeps the customer's policies and sets up to date, by the bundle
// of its control plane. Of each epoch there is one puller, with a directory of its
// own: what another one counted says nothing.
type heldPolicies struct {
	sidecar *sidecar
	ctx     context.Context //nolint:containedctx // of the sidecar's loops

	mu     sync.Mutex
	end    context.CancelFunc
	puller atomic.Pointer[bundle.Puller]
	force  atomic.Pointer[inForce]
	asked  atomic.Int64 // when the puller was asked last
	runs   sync.WaitGroup
}

// inForce is which policies are; of an epoch, -1 for none.
type inForce struct{ epoch, sequence int64 }

// sequence implements cache.FollowerConfig.Policies.
func (h *heldPolicies) sequence(epoch int64) int64 {
	if f := h.force.Load(); f != nil && f.epoch == epoch {
		return f.sequence
	}
	return -1
}

// inForce reports whether policies of the present epoch are.
func (h *heldPolicies) inForce() bool {
	f := h.force.Load()
	return f != nil && f.sequence >= 0
}

// pullAgain is how often a puller is asked for policies that a control plane has
// told of: it waits for them as it is, or tries again by itself.
const pullAgain = 5 * time.Second

// behind implements cache.FollowerConfig.Behind.
func (h *heldPolicies) behind() {
	now := h.sidecar.instant()
	last := h.asked.Load()
	if p := h.puller.Load(); p != nil && now >= latchkey.Instant(last).Add(pullAgain) && h.asked.CompareAndSwap(last, int64(now)) {
		p.Trigger()
	}
}

func (h *heldPolicies) wait() { h.runs.Wait() }

// begin pulls the policies of an epoch.
func (h *heldPolicies) begin(c *authz.Customer, epoch int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.sidecar
	dir := filepath.Join(s.cmd.Data, "policies")
	name := strconv.FormatInt(epoch, 10)
	if others, err := os.ReadDir(dir); err == nil {
		for _, o := range others {
			if o.Name() != name {
				if err := os.RemoveAll(filepath.Join(dir, o.Name())); err != nil {
					s.log.Warn("policies of an earlier epoch cannot be removed", "error", err.Error())
				}
			}
		}
	}
	to, err := s.cmd.control()
	if err != nil {
		return err
	}
	address, dial := s.control.Address("/v1/bundles/" + c.ID + ".tar.gz")
	now := s.now
	var last *bundle.Origin
	p, err := bundle.NewPuller(bundle.Config{
		Name: c.ID, Customer: c.ID, Source: address + "?profile=latchkey&signature=none", SkipVerification: true,
		Token: func() (string, error) { return to.Key, nil }, AllowInsecure: true, // as the client has found the address permitted
		RootCAs: to.RootCAs, Certificate: to.Certificate, Dial: dial,
		MaxRetry: 5 * time.Second, Dir: filepath.Join(dir, name), Now: now, Jitter: rand.Float64, Log: s.log,
		Activate: func(_ context.Context, got *bundle.Bundle) error {
			if got.Origin == nil || got.Origin.Profile != bundle.ProfileLatchkey {
				return latchkey.Errorf(latchkey.Invalid, bundle.CodeManifestInvalid, "the bundle is none of a control plane's for sidecars")
			}
			if sourceBytes(got) > sparedBytes {
				defer sparing()()
			}
			made, err := bundle.Compile(c.Policies.Snapshot(), last, got, s.instant())
			if err != nil {
				return err
			}
			if err := h.enforce(c, epoch, made); err != nil {
				return err
			}
			last = got.Origin
			s.follower.Activated()
			return nil
		},
	})
	if err != nil {
		return err
	}
	if h.end != nil {
		h.end()
	}
	var ctx context.Context
	ctx, h.end = context.WithCancel(h.ctx)
	h.puller.Store(p)
	h.force.Store(&inForce{epoch, -1})
	h.runs.Go(func() { p.Run(ctx) })
	return nil
}

// enforce puts a snapshot of an epoch in force, unless there is another epoch by
// now.
func (h *heldPolicies) enforce(c *authz.Customer, epoch int64, made *policies.Snapshot) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.force.Load(); f.epoch != epoch {
		return errors.New("the epoch is over")
	}
	if err := c.Policies.Update(func(*policies.Snapshot) (*policies.Snapshot, error) { return made, nil }); err != nil {
		return err
	}
	h.force.Store(&inForce{epoch, made.Revision})
	return nil
}
