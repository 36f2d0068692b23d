package authz

import (
	"context"

	"github.com/latchkey-dev/latchkey"
)

// Look is look, over resources.
func (s *Searcher) Look(ctx context.Context, c *Customer, q *Request, candidates []string, limit int, now latchkey.Instant) Found {
	return s.look(ctx, c, q, &q.Resource.ID, candidates, limit, now)
}

// HoldTurn takes one of a customer's turns, and returns how to give it back.
func HoldTurn(c *Customer, atOnce int) (release func()) {
	if !c.turns.take(atOnce) {
		panic("no turn is free")
	}
	return c.turns.give
}
