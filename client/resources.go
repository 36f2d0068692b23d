package client

import (
	"context"
	"encoding/json"
	"fmt"
)

// ResourceUpdate makes or changes one resource, found by kind and id. What is nil
// or empty stays as it is stored; Labels and Properties replace what is stored
// whole.
type ResourceUpdate struct {
	Kind        string            `json:"kind"`
	ID          string            `json:"id"`
	DisplayName string            `json:"displayName,omitempty"`
	Labels      map[string]string `json:"labels,omitzero"`
	Properties  map[string]any    `json:"properties,omitzero"`
}

// StoredResource is what is stored of a resource, or why an update of it was not
// taken.
type StoredResource struct {
	Kind        string            `json:"kind"`
	ID          string            `json:"id"`
	DisplayName string            `json:"displayName"`
	Labels      map[string]string `json:"labels"`
	Properties  json.RawMessage   `json:"properties"`
	// Error is set where this one was wrong; the others are stored all the same.
	Error *ItemError `json:"error"`
}

// ItemError is what is wrong with one item of many.
type ItemError struct {
	Status  int    `json:"status"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (e *ItemError) Error() string { return "latchkey: " + e.Code + ": " + e.Message }

// maxBulk is how many resources the server takes at a time.
const maxBulk = 20_000

// UpdateResources makes and changes resources, and returns what is stored of each,
// in their order. It needs the scope resources_manage. It is sent in parts of
// 20,000: with an error, those before are stored, which are returned. The same
// again does no harm.
func (c *Client) UpdateResources(ctx context.Context, updates []ResourceUpdate) ([]StoredResource, error) {
	stored := make([]StoredResource, 0, len(updates))
	for first := 0; first < len(updates); first += maxBulk {
		part := updates[first:min(first+maxBulk, len(updates))]
		in := map[string]any{"resources": part}
		var out struct{ Resources []StoredResource }
		if err := c.post(ctx, "/v1/resources:bulkUpdate", in, &out, whenUndone, maxWait); err != nil {
			return stored, err
		}
		if len(out.Resources) != len(part) {
			return stored, fmt.Errorf("latchkey: /v1/resources:bulkUpdate: %d resources were answered, %d sent", len(out.Resources), len(part))
		}
		stored = append(stored, out.Resources...)
	}
	return stored, nil
}
