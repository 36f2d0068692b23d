package cache

import "context"

// From is the change from which on all of a customer are known.
func (r *Records) From(customer string) int64 {
	c := r.chain(customer)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.window.From()
}

// Ask is one question to a control plane, which does not wait.
func (f *Follower) Ask(ctx context.Context) error {
	err := f.askControl(ctx, 0)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.alone = err != nil
	return err
}

// Take takes in what a carrier brought, and begins by what it has where nothing
// has begun.
func (f *Follower) Take(ctx context.Context, posted ...Posted) {
	f.mu.Lock()
	customer, begun := f.state.Customer, f.begun
	f.mu.Unlock()
	if customer == "" {
		return
	}
	if !begun {
		f.beginAlone(f.posted(ctx, customer), nil)
	}
	for _, p := range posted {
		f.carried(p)
	}
}
