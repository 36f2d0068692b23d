package access

import (
	"context"
	"errors"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/people"
)

// Entitled tells what entitlements give together; it implements authz.Entitlements
// over changes that are people.Tx, too.
type Entitled struct{}

// Entitled implements authz.Entitlements.
func (Entitled) Entitled(ctx context.Context, tx authz.Tx, ids []string) (entries, claims string, err error) {
	of, ok := tx.(people.Tx)
	if !ok {
		return "", "", errors.New("the change knows no entitlements")
	}
	return merged(ctx, of, ids)
}
