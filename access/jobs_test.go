package access_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/scopes"
)

// noChanges is a record that reads, and refuses to be changed.
type noChanges struct {
	access.Record
	tried func()
}

var errNoChange = errors.New("the disk is full")

func (r noChanges) Change(context.Context, authz.Change, func(access.Tx) (audit.Draft, error)) error {
	r.tried()
	return errNoChange
}

// Of many that fail one is told, with their number, and none keeps another waiting;
// with the process the job ends at once.
func TestSweep_TellsOfFailuresInALineAndEndsWithItsContext(t *testing.T) {
	w, tm := ledger(t)
	tm.PendingTTL = 5
	tm = w.update(tm)
	w.people("dot", "eli")
	for _, name := range []string{"ann", "dot", "eli"} {
		w.submit(name, ask(tm))
	}
	w.at += 10 * minute
	tried := 0
	record := noChanges{w.db.Access(), func() { tried++ }}
	requests := access.NewRequests(access.RequestsConfig{Record: record, Parser: scopes.NewParser(4), Subjects: w})
	n, err := requests.Sweep(t.Context(), w.at)
	if n != 0 || tried != 3 || !errors.Is(err, errNoChange) || !strings.HasPrefix(err.Error(), "3 of them failed") || strings.Count(err.Error(), errNoChange.Error()) != 1 {
		t.Errorf("%d of %d: %v", n, tried, err)
	}
	ctx, end := context.WithCancel(t.Context())
	tried, record.tried = 0, func() { tried++; end() }
	requests = access.NewRequests(access.RequestsConfig{Record: record, Parser: scopes.NewParser(4), Subjects: w})
	if n, err := requests.Sweep(ctx, w.at); n != 0 || err == nil || tried != 1 {
		t.Errorf("%d of %d: %v", n, tried, err)
	}
	if n, err := w.requests.Sweep(t.Context(), w.at); n != 3 || err != nil {
		t.Errorf("%d written down: %v", n, err)
	}
}
