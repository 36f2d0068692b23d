package access

import (
	"context"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/scopes"
)

// RequestsConfig are the collaborators of Requests; what does not say otherwise is
// required.
type RequestsConfig struct {
	Record Record
	Parser *scopes.Parser
	// Subjects are the grants of persons, as far as they are in memory.
	Subjects authz.GrantCache
	Auto     AutoApprover // nil: nothing is approved by providers
	Trigger  Trigger      // nil: no task can succeed
	// Now is asked again after something was waited for; nil where that is not to
	// count.
	Now func() latchkey.Instant
	// Troubled is told what went wrong with something that does not fail for it; may
	// be nil. What is it?, "auto_approval", "trigger", "recheck".
	Troubled func(ctx context.Context, what string, err error)
}

// Requests submits requests, decides on them, and ends them. When a call returns,
// decisions of this process see what it did. Safe for concurrent use.
type Requests struct{ cfg RequestsConfig }

// NewRequests makes the service.
func NewRequests(cfg RequestsConfig) *Requests { return &Requests{cfg: cfg} }
