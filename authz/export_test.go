package authz

import (
	"context"

	"github.com/latchkey-dev/latchkey"
)

// Look is look, over resources.
func (s *Searcher) Look(ctx context.Context, c *Customer, q *Request, candidates []string, limit int, now latchkey.Instant) Found {
	return s.look(ctx, c, q, &q.Resource.ID, candidates, limit, now)
}
