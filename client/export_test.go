package client

import (
	"context"
	"time"
)

// WithoutPauses makes the client try again at once.
func WithoutPauses(c *Client) {
	c.pause = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
}
