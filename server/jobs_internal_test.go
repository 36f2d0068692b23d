package server

import (
	"context"
	"fmt"
	"testing"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
)

// Jobs are found among thousands of requests that are none.
func TestGatherJobs_LooksPastOtherRequests(t *testing.T) {
	var all []access.Request
	for i := range 5000 {
		r := access.Request{ID: fmt.Sprintf("%04d", i), CreatedAt: latchkey.Instant(10_000 - i)}
		if i == 0 || i == 4999 {
			r.Resources = []authz.EntityRef{{Type: accountKind, ID: "a"}}
		}
		all = append(all, r)
	}
	list := func(_ context.Context, _ authz.Call, q access.Query) ([]access.Request, error) {
		from := 0
		if q.AfterID != "" {
			_, err := fmt.Sscanf(q.AfterID, "%d", &from)
			if err != nil {
				return nil, err
			}
			from++
		}
		return all[from:min(from+q.Limit, len(all))], nil
	}
	jobs, err := gatherJobs(t.Context(), authz.Call{}, []requestList{list, list})
	if err != nil || len(jobs) != 2 || jobs[0].ID != "0000" || jobs[1].ID != "4999" {
		t.Errorf("%d jobs, %v", len(jobs), err)
	}
}
